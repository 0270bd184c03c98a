"""Labels that depend on the whole set: matched priors, parents' labels, and their product."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from film_task import TASK

from gpt3mix_cli.augment import AugmentOptions, augment, open_augmenter
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import Callbacks, UserError
from gpt3mix_cli.lm import JournaledLM, open_lm
from gpt3mix_cli.method.labels import soft_label
from gpt3mix_cli.method.prompt import label_choices, render_label_prompt
from gpt3mix_cli.records import Augmented, Example, StageOptions, StageResult, read_records
from gpt3mix_cli.settings import AugmentSettings, LocalLMSettings

TEXTS = ("a warm , funny film", "dull and lifeless", "the best of the year", "a waste of time")
REAL = [
    Example(id=f"r{number}", text=f"{text} {number}", label=("pos", "neg")[number % 2])
    for number, text in enumerate(TEXTS * 3)
]


class Sets:
    """Writes synthetic sets of one journal with the packaged LM."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.warnings = folder, list[str]()
        self.lm = open_lm(LocalLMSettings(kind="local", model="bundled", batch_size=8))

    def make(
        self, name: str, real: list[Example] = REAL, **settings: Any
    ) -> tuple[list[Augmented], StageResult]:
        options = AugmentSettings.model_validate({"label_check": 0, **settings})
        output = self.folder / f"{name}.jsonl"
        journal = JournaledLM(self.lm, self.folder / "journal")
        result = augment(
            open_augmenter(options, TASK, journal),
            real,
            output,
            AugmentOptions(ratio=2, attempts=4, seed=0),
            StageOptions(callbacks=Callbacks(warn=self.warnings.append)),
        )
        journal.close()
        return list(read_records(output, Augmented, TASK.classes)), result


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return Sets(tmp_path_factory.mktemp("sets"))


def means(rows: list[Augmented]) -> dict[str, float]:
    return {name: sum(row.probs[name] for row in rows) / len(rows) for name in TASK.classes}


def test_the_mean_label_is_the_class_mix_of_the_real_rows(sets: Sets) -> None:
    raw, _ = sets.make("raw", label_prior="none")
    matched, result = sets.make("matched", label_prior="match")
    assert [row.text for row in matched] == [row.text for row in raw]
    assert means(matched) == pytest.approx({"pos": 0.5, "neg": 0.5}, abs=1e-4)
    counts = result.manifest.counts
    assert counts["unmatched_mean"] == pytest.approx(means(raw), abs=1e-5)
    offset = counts["label_offsets"]["pos"] - counts["label_offsets"]["neg"]
    for before, after in zip(raw, matched, strict=True):
        odds = math.log(before.probs["pos"] / before.probs["neg"]) + offset
        assert after.probs["pos"] == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-4)
        assert after.label == max(after.probs, key=lambda name: after.probs[name])
        assert after.label_source == before.label_source


def test_a_prior_can_be_given(sets: Sets) -> None:
    rows, result = sets.make("given", label_prior={"pos": 3, "neg": 1})
    assert means(rows) == pytest.approx({"pos": 0.75, "neg": 0.25}, abs=1e-4)
    assert result.manifest.counts["label_prior"] == {"pos": 0.75, "neg": 0.25}


def test_auto_matches_the_labels_of_a_small_lm(sets: Sets) -> None:
    automatic, _ = sets.make("auto")
    matched, _ = sets.make("matched-again", label_prior="match")
    assert [row.probs for row in automatic] == [row.probs for row in matched]


def test_parents_and_product_have_the_same_texts(sets: Sets) -> None:
    raw, _ = sets.make("raw-again", label_prior="none")
    parents, _ = sets.make("parents", labels="parents")
    product, _ = sets.make("product", labels="product", label_prior="none")
    labels = {row.id: row.label for row in REAL}
    for lm, mean, both in zip(raw, parents, product, strict=True):
        assert lm.text == mean.text == both.text
        counts = Counter(labels[parent] for parent in lm.parents)
        mix = {name: counts[name] / 2 for name in TASK.classes}
        assert mean.probs == mix
        assert (mean.label_source, both.label_source) == ("parents", lm.label_source)
        weights = {name: lm.probs[name] * mix[name] for name in TASK.classes}
        expected = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        assert both.probs == pytest.approx(expected, abs=1e-5)


def test_parents_of_one_class_give_a_certain_label(sets: Sets) -> None:
    rows, _ = sets.make("same", selection="same_class", labels="product")
    assert Counter(row.label for row in rows) == {"pos": 12, "neg": 12}
    assert {max(row.probs.values()) for row in rows} == {1.0}


def test_a_biased_set_is_warned_of_unless_its_prior_was_asked_for(sets: Sets) -> None:
    """Of real rows of one class the LM says what it reads, and not always that class."""
    one_class = [row.model_copy(update={"label": "neg"}) for row in REAL if row.label == "pos"]
    other = REAL[1]
    sets.warnings.clear()
    sets.make("raw-bias", [*one_class, other], label_prior="none")
    warnings = [text for text in sets.warnings if "real rows" in text or "parents have" in text]
    assert warnings
    assert all("try augment.label_prior=match" in text for text in warnings)
    sets.warnings.clear()
    sets.make("asked-for", label_prior={"pos": 19, "neg": 1})
    assert not [text for text in sets.warnings if "the mean label is" in text]


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("{pos: 1}", "augment.label_prior names pos; give each of the classes pos, neg a share"),
        ("{pos: 1, neg: 0}", "greater than 0"),
        ("matched", "label_prior"),
    ],
)
def test_a_prior_that_cannot_be_is_refused(tmp_path: Path, prior: str, message: str) -> None:
    config = tmp_path / "a.yaml"
    config.write_text(
        "task: {data: {kind: demo}, labels: {pos: positive, neg: negative}}\n"
        f"subsample: {{levels: [2/class]}}\naugment: {{label_prior: {prior}}}\n"
    )
    with pytest.raises(UserError) as caught:
        load_experiments(config)
    assert message in str(caught.value)


def test_a_label_without_a_prior_is_equation_one(sets: Sets) -> None:
    rows, _ = sets.make("plain", label_prior="none")
    real = {row.id: row for row in REAL}
    prompts = [
        render_label_prompt(TASK, [real[parent] for parent in row.parents], row.text)
        for row in rows
    ]
    for row, scores in zip(rows, sets.lm.score(prompts, label_choices(TASK)), strict=True):
        expected, mass = soft_label(TASK.classes, scores.logprobs)
        assert row.probs == pytest.approx(expected, abs=1e-4)
        assert row.label_mass == pytest.approx(mass, abs=1e-4)
