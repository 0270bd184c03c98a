"""How well an LM labels the real rows, below other ones."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from film_task import TASK
from scipy.stats import binomtest

from gpt3mix_cli.augment import AugmentOptions, augment, label_check, open_augmenter
from gpt3mix_cli.augment.label_check import LabelCheck, wilson_interval
from gpt3mix_cli.errors import Callbacks
from gpt3mix_cli.lm import LMInfo, Scores
from gpt3mix_cli.records import Example, StageOptions
from gpt3mix_cli.settings import AugmentSettings

REAL = [
    Example(id=f"r{number}", text=f"text {number} {label}", label=label)
    for number in range(20)
    for label in ("pos", "neg")
]


def check_labels(*args: Any, **options: Any) -> LabelCheck:
    found = label_check.check_labels(*args, **options)
    assert found is not None
    return found


class Reader:
    """An LM that knows the label of a text, with a lean to `pos`; `blind`: nothing but the lean."""

    def __init__(self, lean: float = 0.0, blind: bool = False, mass: float = 1.0) -> None:
        self.prompts: list[str] = []
        self.info = LMInfo("reader", "reader-weights", 500, 4, len, "", is_local=True)
        self._lean, self._blind, self._mass = lean, blind, mass

    def describe(self) -> str:
        return "a reader"

    def complete(self, requests: Any) -> Any:
        return iter(())

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        self.prompts += prompts
        return [self._scores(prompt) for prompt in prompts]

    def _scores(self, prompt: str) -> Scores:
        text = prompt.splitlines()[-1]
        certainty = 0.0 if self._blind else (1.0 if " pos (" in text else -1.0)
        probability = 1 / (1 + math.exp(-(certainty + self._lean)))
        return Scores(
            (math.log(self._mass * probability), math.log(self._mass * (1 - probability)))
        )


def test_each_row_is_scored_below_k_others() -> None:
    lm = Reader()
    found = check_labels(lm, TASK, REAL, 3)
    assert (found.rows, found.k, len(lm.prompts)) == (40, 3, 40)
    for row, prompt in zip(REAL, lm.prompts, strict=True):
        *_, header, last = prompt.rpartition("\n")
        assert last.startswith(f"Movie review: {row.text} (")
        lines = prompt.splitlines()[2:-1]
        assert len(set(lines)) == 3
        assert not any(f" {row.text} (" in line for line in lines), header


def test_a_good_reader_needs_nothing() -> None:
    found = check_labels(Reader(), TASK, REAL, 2)
    assert (found.accuracy, found.matched_accuracy, found.majority) == (1, 1, 0.5)
    assert not found.is_blind
    assert not found.is_biased
    assert found.advice() == ""


def test_a_lean_is_a_bias_that_matching_takes_away() -> None:
    found = check_labels(Reader(lean=2.0), TASK, REAL, 2)
    assert (found.accuracy, found.matched_accuracy) == (0.5, 1)
    assert found.is_biased
    assert found.bias["pos"] == pytest.approx(-found.bias["neg"])
    assert found.bias["pos"] > 0.3
    assert "label_prior: match" in found.advice()
    assert "leans to pos by 0." in found.describe()


def test_a_blind_reader_is_not_a_biased_one() -> None:
    found = check_labels(Reader(blind=True, lean=1.0), TASK, REAL, 2)
    assert found.is_blind
    assert "another LM" in found.advice()
    assert "label_prior" not in found.advice()


def test_few_rows_do_not_show_that_labels_are_good() -> None:
    found = check_labels(Reader(), TASK, REAL[:2], 2)
    assert (found.accuracy, found.is_shown, found.is_blind) == (1, False, False)
    assert "--level full" in found.advice()


def test_a_low_label_mass_is_reported_first() -> None:
    found = check_labels(Reader(mass=0.1), TASK, REAL, 2)
    assert found.label_mass == pytest.approx(0.1)
    assert "rarely answers with one of the labels" in found.advice()


def test_a_part_of_the_rows_is_always_the_same_part() -> None:
    first, second = Reader(), Reader()
    check_labels(first, TASK, REAL, 2, most=8)
    check_labels(second, TASK, REAL, 2, most=8)
    assert first.prompts == second.prompts
    assert len(first.prompts) == 8


def test_two_rows_are_enough() -> None:
    found = check_labels(Reader(), TASK, REAL[:2], 2)
    assert (found.rows, found.k) == (2, 1)


def test_a_row_that_is_longer_than_the_context_is_skipped() -> None:
    long = Example(id="long", text="word " * 200, label="pos")
    found = check_labels(Reader(), TASK, [*REAL, long], 2)
    assert (found.rows, found.skipped) == (40, 1)
    assert ", 1 skipped" in found.describe()
    twice = [long, long.model_copy(update={"id": "b"})]
    assert label_check.check_labels(Reader(), TASK, twice, 2) is None


def test_rows_whose_labels_are_not_reported_are_skipped() -> None:
    class Unreported(Reader):
        def _scores(self, prompt: str) -> Scores:
            scores = super()._scores(prompt)
            unknown = "text 3 " in prompt.splitlines()[-1]
            return replace(scores, logprobs=(-0.7, -0.7), bounded=(0, 1)) if unknown else scores

    found = check_labels(Unreported(), TASK, REAL, 2)
    assert (found.rows, found.skipped) == (38, 2)


@pytest.mark.parametrize(("right", "count"), [(0, 5), (3, 7), (16, 32), (32, 32)])
def test_the_interval_is_scipys(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    low, high = wilson_interval(right / count, count)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-4)


# In `augment` -------------------------------------------------------------------------------------


def prepared(lm: Reader, **settings: Any) -> tuple[Sequence[str], list[str]]:
    augmenter = open_augmenter(AugmentSettings.model_validate(settings), TASK, lm)
    return augmenter.prepare(REAL), lm.prompts


def test_a_local_lm_is_checked_on_32_rows_and_an_endpoint_is_not() -> None:
    assert len(prepared(Reader())[1]) == 32
    assert len(prepared(Reader(), label_check=5)[1]) == 5
    assert prepared(Reader(), label_check=0)[1] == []
    endpoint = Reader()
    endpoint.info = replace(endpoint.info, is_local=False)
    assert prepared(endpoint)[1] == []


@pytest.mark.parametrize("labels", ["hard", "parents"])
def test_labels_that_are_not_used_are_not_checked(labels: str) -> None:
    assert prepared(Reader(), labels=labels)[1] == []


def test_a_blind_lm_is_warned_of_and_a_biased_one_is_matched() -> None:
    (warning,), _ = prepared(Reader(blind=True))
    assert "the LM's labels of real rows: " in warning
    assert "% of 32 real rows right" in warning
    assert prepared(Reader(lean=2.0))[0] == ()


def test_a_larger_lm_is_matched_only_where_a_bias_was_found() -> None:
    for lean, is_matched in ((0.0, False), (2.0, True)):
        lm = Reader(lean=lean)
        lm.info = replace(lm.info, count_parameters=lambda: 7_000_000_000)
        augmenter = open_augmenter(AugmentSettings(), TASK, lm)
        augmenter.prepare(REAL)
        assert bool(augmenter._prior(REAL)) == is_matched  # type: ignore[union-attr]


def test_the_check_is_in_the_manifest(tmp_path: Path) -> None:
    from gpt3mix_cli.lm import JournaledLM, open_lm
    from gpt3mix_cli.settings import LocalLMSettings

    lm = JournaledLM(
        open_lm(LocalLMSettings(kind="local", model="bundled", batch_size=8)), tmp_path / "journal"
    )
    result = augment(
        open_augmenter(AugmentSettings(label_check=6), TASK, lm),
        REAL[:8],
        tmp_path / "rows.jsonl",
        AugmentOptions(ratio=1, attempts=4, seed=0),
        StageOptions(callbacks=Callbacks(warn=lambda text: None)),
    )
    lm.close()
    summary = result.manifest.counts["label_check"]
    assert summary["rows"] == 6
    assert summary.keys() == LabelCheck.__dataclass_fields__.keys()
