"""Rival methods of generation: no examples, attributes, descriptions, texts without labels."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_gpt3mix import SST2, TWENTY, Echo, answer, generated

from gpt3mix_cli.augment.gpt3mix import GPT3Mix
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.grid.check import check
from gpt3mix_cli.grid.plan import plan
from gpt3mix_cli.records import Augmented, read_records
from gpt3mix_cli.settings import AugmentSettings

ATTRIBUTES = {"length": ["short", "long"], "topic": ["plot", "acting", "music"]}
TEXTS = tuple(f"a text of style number {number}" for number in range(9))


def augmenter(lm: Echo, texts: tuple[str, ...] = (), **options: Any) -> GPT3Mix:
    return GPT3Mix(AugmentSettings(**options), SST2, lm, "gpt3mix", texts)


def test_without_examples_the_classes_take_turns_and_rows_have_no_parents() -> None:
    lm = Echo()
    rows = generated(lm, count=6, k=0)
    assert [row.asked_label for row in rows if isinstance(row, Augmented)] == ["pos", "neg"] * 3
    assert all(row.parents == [] for row in rows)
    asked = ["'positive'", "'negative'"] * 3
    for word, request in zip(asked, lm.requests, strict=True):
        assert f"The sentiment of this item is {word}." in request.prompt
        assert request.prompt.endswith("\n\nMovie review:")


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_labels_need_no_parents(labels: str) -> None:
    assert generated(Echo(), count=4, k=0, labels=labels)
    for kind in ("parents", "product"):
        with pytest.raises(ValueError, match="needs parents"):
            AugmentSettings(k=0, labels=kind)


def test_attributes_are_drawn_by_seed_and_attempt_alone() -> None:
    lm = Echo()
    rows = generated(lm, count=60, attributes=ATTRIBUTES)
    drawn = [tuple(row.attributes.items()) for row in rows if isinstance(row, Augmented)]
    assert len(Counter(drawn)) == 6  # every combination
    assert "attributes: length: " in lm.requests[0].prompt
    again = generated(Echo(), first=30, count=5, attributes=ATTRIBUTES)
    assert [tuple(row.attributes.items()) for row in again] == drawn[30:35]
    other = generated(Echo(), count=60, seed=1, attributes=ATTRIBUTES)
    assert [tuple(row.attributes.items()) for row in other] != drawn
    # Nor by their order in the config, which no fingerprint tells.
    turned = dict(reversed(ATTRIBUTES.items()))
    rows = generated(Echo(), count=60, attributes=turned)
    assert [tuple(row.attributes.items()) for row in rows] == drawn


def test_the_header_is_one_line_however_the_config_spreads_it() -> None:
    lm = Echo()
    words = {"label_descriptions": {"pos": "praise\n\nof a film.\n"}}
    generated(lm, count=1, k=0, attributes={"topic": ["the\nplot"]}, **words)
    header, *_ = lm.requests[0].prompt.split("\n")
    assert "'positive' means: praise of a film. " in header
    assert header.endswith("attributes: topic: the plot.")
    with pytest.raises(ValueError, match="at least 1 character"):
        AugmentSettings(label_descriptions={"pos": " \n"})


def test_examples_are_those_of_the_plain_prompt() -> None:
    plain, described = Echo(), Echo()
    generated(plain, count=4)
    generated(described, count=4, label_descriptions={"neg": "blame."})
    for before, after in zip(plain.requests, described.requests, strict=True):
        assert after.prompt == before.prompt.replace(
            "'negative'.\n", "'negative'. 'negative' means: blame.\n"
        )
        assert after.seed == before.seed


def test_texts_without_labels_are_drawn_into_prompts_and_not_copied() -> None:
    lm = Echo(answer(f" {TEXTS[0]}"), answer())
    made = augmenter(lm, TEXTS, num_unlabelled=9)
    rows = list(made.generate(TWENTY, 0, 2, 0))
    assert all(f"- {text}\n" in lm.requests[0].prompt for text in TEXTS)
    assert [getattr(row, "reason", "kept") for row in rows] == ["copy_of_prompt", "kept"]
    few = Echo()
    list(augmenter(few, TEXTS, num_unlabelled=2).generate(TWENTY, 0, 8, 0))
    blocks = [request.prompt.split("\n\n")[1] for request in few.requests]
    assert {block.count("\n") + 1 for block in blocks} == {2}
    assert len(set(blocks)) > 4


def test_the_manifest_has_them_only_where_they_are_set() -> None:
    plain = augmenter(Echo()).about
    assert not plain.keys() & {"attributes", "label_descriptions", "unlabelled", "num_unlabelled"}
    assert augmenter(Echo(), attributes=ATTRIBUTES).about["attributes"] == ATTRIBUTES
    first, second = (augmenter(Echo(), texts).about for texts in (TEXTS, TEXTS[1:]))
    assert first["unlabelled"] != second["unlabelled"]


def test_labels_are_scored_again_below_the_same_prompt() -> None:
    lm = Echo(answer(' "a fine film"'))
    generated(lm, count=1, k=0, label_descriptions={"pos": "praise"})
    (prompt, _), *_ = lm.scored
    assert prompt == f"{lm.requests[0].prompt} a fine film (Sentiment:"


# As arms of an experiment ------------------------------------------------------------------------


@pytest.fixture
def grid(config: Path, tmp_path: Path) -> Grid:
    (tmp_path / "style.txt").write_text("\n".join(TEXTS))
    arms = [
        "{kind: gpt3mix, name: zero-shot, k: 0, label_check: 0}",
        f"{{kind: gpt3mix, name: style, k: 1, unlabelled: {tmp_path / 'style.txt'}}}",
    ]
    overrides = [f"baselines=[{', '.join(arms)}]", "augment.ratio=0.5", "subsample.seeds=1"]
    return Grid(load_experiments(config, overrides), tmp_path / "results", jobs=1)


def test_an_arm_overrides_keys_of_augment_and_runs_as_any_method(grid: Grid) -> None:
    (cell,) = grid.cells()
    experiment = grid.experiment(cell)
    assert experiment.methods == ["none", "gpt3mix", "zero-shot", "style"]
    settings = experiment.lm_settings_for("style")
    assert settings
    assert (settings.k, settings.temperature) == (1, experiment.augment.temperature)
    estimate = plan(grid, [cell])
    assert estimate.total["generations"] == 3 * 4
    assert list(estimate.prompts) == ["gpt3mix", "zero-shot", "style"]
    assert "of this item is" in estimate.prompts["zero-shot"]
    grid.subsample(cell)
    for method in ("zero-shot", "style"):
        result = grid.augment(cell, method, 0)
        rows = list(read_records(result.output, Augmented))
        assert {row.method for row in rows} == {method}
        assert {len(row.parents) for row in rows} == {settings.k if method == "style" else 0}
        assert grid.augment(cell, method, 0).skipped


def test_check_says_what_an_arm_is(grid: Grid) -> None:
    found = {finding.what: finding.detail for finding in check(grid)}
    assert (
        found["baseline zero-shot"] == "GPT3Mix with no examples in the prompt, by the LM bundled"
    )
    assert found["baseline style"].startswith(
        "GPT3Mix with one example in the prompt, 9 texts without labels, by"
    )
