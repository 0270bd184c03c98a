"""Copies between splits, and of validation and test rows among synthetic ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli.augment.filter import RowFilter
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.decontamination import Copy, CopyFinder, SyntheticCopies, find_copies
from gpt3mix_cli.errors import Callbacks, UserError
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.records import (
    Augmented,
    Example,
    Manifest,
    Reject,
    StageOptions,
    read_manifest,
    read_records,
)  # fmt: skip

LONG = "the old lighthouse keeper walked slowly down the winding stairs to the harbour at dawn"
NEAR = LONG.replace("old", "odd")
OTHER = "a noisy comedy about two brothers who inherit a bakery and cannot agree on the bread"


def row(number: int, text: str, label: str = "pos") -> Example:
    return Example(id=f"r{number}", text=text, label=label)


# Finding ------------------------------------------------------------------------------------------


def test_a_finder_tells_exact_from_near_copies_and_names_the_split() -> None:
    finder = CopyFinder({"test": [row(1, LONG)], "validation": [row(2, OTHER), row(3, LONG)]})
    assert finder.find(LONG.upper() + " !") == Copy(row(1, LONG), "test", 1.0)
    near = finder.find(NEAR)
    assert near is not None
    assert (near.original.id, near.split, near.kind) == ("r1", "test", "near")
    assert 0.8 <= near.similarity < 1
    assert finder.find(OTHER.replace(" ", "")) == Copy(row(2, OTHER), "validation", 1.0)
    assert finder.find("something else entirely") is None


def test_a_text_with_the_same_n_grams_is_a_near_copy_only() -> None:
    """Repeated words give the same set of 4-grams."""
    text = "works great works great works great"
    copy = CopyFinder({"test": [row(1, text)]}).find(f"{text} works great")
    assert copy is not None
    assert copy.kind == "near"


def test_copies_are_counted_by_split_and_kind_and_remembered(tmp_path: Path) -> None:
    train = [row(1, LONG), row(2, NEAR), row(3, OTHER), row(4, "quite another sentence here")]
    others: dict[Any, list[Example]] = {"test": [row(9, LONG)], "validation": [row(8, OTHER)]}
    found = find_copies("train", train, others)
    assert list(found.copies) == ["r1", "r2", "r3"]
    expected = {"test": {"exact": 1, "near": 1}, "validation": {"exact": 1, "near": 0}}
    assert found.counts() == expected
    (record,) = (tmp_path / "cache/copies").iterdir()
    assert len(json.loads(record.read_text())) == 3
    (warning,) = found.describe("films", is_left_out=False)
    assert warning.startswith("task 'films': 1 training row is a near copy of a test row: ")
    assert "r2 = r9" in warning
    both = list(found.describe("films", is_left_out=True))
    assert "2 training rows are left out as copies (1 exact, 1 near) of test rows" in both[0]
    assert "1 training row is left out as an exact copy of a validation row: r3 = r8" in both[1]
    # Exact copies in validation are reported nowhere else.
    (warning,) = find_copies("validation", [row(5, LONG)], {"test": train}).describe("films", False)
    assert "1 validation row is an exact copy of a test row" in warning


def test_synthetic_copies_are_counted() -> None:
    copies = SyntheticCopies(CopyFinder({"test": [row(1, LONG)], "validation": [row(2, OTHER)]}))
    for text in (LONG, NEAR, OTHER, "no copy of anything"):
        copies.find(text)
    counts = {"test": {"exact": 1, "near": 1}, "validation": {"exact": 1, "near": 0}}
    assert copies.counts() == {"copies": {**counts, "left_out": 0}}
    assert copies.total == 3
    assert "1 exact and 1 near copies of test rows and 1 exact and 0" in copies.describe()
    assert SyntheticCopies().counts() == {}


# Splits and stages --------------------------------------------------------------------------------

# The words of a row never occur in another one.
WORDS = [f"{first}{second}" for first in "bdfgklmnprstvz" for second in ("arrow", "inter", "olden")]
PLAIN = [" ".join(f"{word}{part}" for part in ("a", "b", "c", "d")) for word in WORDS]
CONFIG = """\
name: films
task:
  data: {kind: files, train: train.jsonl, validation: validation.jsonl, test: test.jsonl}
  labels: [pos, neg]
subsample: {levels: [full], seeds: 1}
baselines: [{kind: aeda}]
"""
Open = Callable[..., tuple[Grid, list[str]]]


def _write(path: Path, texts: list[str]) -> None:
    rows = [{"text": text, "label": ("pos", "neg")[i % 2]} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))


@pytest.fixture
def open_films(tmp_path: Path) -> Open:
    """Open a grid on data with copies, and return it with its warnings."""
    _write(tmp_path / "train.jsonl", [*PLAIN[:12], LONG, NEAR, OTHER.upper()])
    _write(tmp_path / "validation.jsonl", [*PLAIN[12:16], OTHER, LONG.replace("dawn", "down")])
    _write(tmp_path / "test.jsonl", [*PLAIN[16:20], LONG])

    def grid(*overrides: str, text: str = CONFIG) -> tuple[Grid, list[str]]:
        (tmp_path / "films.yaml").write_text(text)
        warnings: list[str] = []
        options = StageOptions(callbacks=Callbacks(warn=warnings.append))
        experiments = load_experiments(tmp_path / "films.yaml", overrides)
        return Grid(experiments, tmp_path / "out", options, jobs=1), warnings

    return grid


def test_copies_are_counted_and_warned_about(open_films: Open) -> None:
    grid, warnings = open_films()
    (cell,) = grid.cells()
    counts = grid.subsample(cell).manifest.counts
    assert counts["rows"] == 15
    assert counts["copies"] == {
        "validation": {"test": {"exact": 0, "near": 1}},
        "train": {"test": {"exact": 1, "near": 1}, "validation": {"exact": 1, "near": 0}},
        "left_out": False,
    }
    text = "\n".join(warnings)
    assert "1 training row is a near copy of a test row" in text
    assert "1 validation row is a near copy of a test row" in text
    assert "1 test row is an exact copy of a training row" in text


def test_other_validation_rows_are_counted_anew(open_films: Open, tmp_path: Path) -> None:
    grid, _ = open_films()
    (cell,) = grid.cells()
    before = grid.subsample(cell)
    _write(tmp_path / "validation.jsonl", [*PLAIN[12:16], OTHER, NEAR])
    grid, warnings = open_films()
    result = grid.subsample(cell)
    assert result.manifest.counts["copies"]["train"]["validation"] == {"exact": 2, "near": 0}
    assert result.manifest.counts["copies"]["validation"] == {"test": {"exact": 0, "near": 1}}
    assert any("1 validation row is a near copy of a test row" in text for text in warnings)
    assert result.manifest.sha256 == before.manifest.sha256
    assert grid.subsample(cell).skipped


def test_drop_leaves_copies_out_of_train_and_validation_and_never_out_of_test(
    open_films: Open,
) -> None:
    grid, warnings = open_films("subsample.decontaminate=drop")
    (cell,) = grid.cells()
    splits = grid.resources.splits(grid.experiments[0])
    assert [item.text for item in splits.train] == PLAIN[:12]
    assert [item.text for item in splits.validation] == [*PLAIN[12:16], OTHER]
    assert len(splits.test) == 5
    assert splits.taken_rows == 3  # percentages are of the published rows
    counts = grid.subsample(cell).manifest.counts
    assert counts["rows"] == 12
    assert counts["copies"]["left_out"] is True
    left_out = "2 training rows are left out as copies (1 exact, 1 near) of test rows"
    assert any(left_out in text for text in warnings)
    assert not any("copies of training rows" in text for text in warnings)


def test_a_row_that_is_left_out_of_a_validation_taken_from_train_is_counted_once(
    open_films: Open, tmp_path: Path
) -> None:
    _write(tmp_path / "train.jsonl", PLAIN[:40])
    _write(tmp_path / "test.jsonl", [*PLAIN[40:], *PLAIN[:20]])
    text = CONFIG.replace(" validation: validation.jsonl,", "")
    grid, _ = open_films(text=text)
    taken = {item.text for item in grid.resources.splits(grid.experiments[0]).validation}
    num_validation = len(taken & set(PLAIN[:20]))
    assert num_validation  # so the test can fail

    grid, warnings = open_films("subsample.decontaminate=drop", text=text)
    splits = grid.resources.splits(grid.experiments[0])
    validation, train = splits.left_out or ()
    assert len(validation.copies) == num_validation
    assert len(train.copies) == 20 - num_validation
    assert {row.text for row in splits.train} == set(PLAIN[20:40]) - taken
    assert {row.text for row in splits.validation} == taken - set(PLAIN[:20])
    assert len(warnings) == 2


def test_drop_that_leaves_nothing_is_an_error(open_films: Open, tmp_path: Path) -> None:
    _write(tmp_path / "validation.jsonl", [LONG, NEAR])
    grid, _ = open_films("subsample.decontaminate=drop")
    with pytest.raises(UserError, match="all 2 validation rows are copies") as error:
        grid.resources.splits(grid.experiments[0])
    assert "decontaminate=warn" in error.value.hint


def test_another_choice_draws_anew(open_films: Open) -> None:
    grid, _ = open_films()
    (cell,) = grid.cells()
    grid.subsample(cell)
    other, _ = open_films("subsample.decontaminate=drop", "name=clean")
    assert other.subsample(cell).manifest.inputs != grid.subsample(cell).manifest.inputs


def _synthetic(path: Path) -> tuple[list[Augmented], Manifest]:
    manifest = read_manifest(path)
    assert manifest
    return list(read_records(path, Augmented)), manifest


def test_an_editors_copies_are_counted_and_can_be_left_out(open_films: Open) -> None:
    """AEDA inserts punctuation, so that copies stay copies; those left out are counted."""
    grid, warnings = open_films()
    (cell,) = grid.cells()
    grid.subsample(cell)
    rows, manifest = _synthetic(grid.augment(cell, "aeda", 0).output)
    found = manifest.counts["copies"]
    assert len(rows) == manifest.counts["wanted"] == 15
    assert found == {
        "test": {"exact": 1, "near": 1}, "validation": {"exact": 1, "near": 0}, "left_out": 0
    }  # fmt: skip
    assert any("copies of test rows" in text and "synthetic rows" in text for text in warnings)
    # Train has no copies then, so the real rows of before are given as a file.
    real = grid.layout.train_path(cell)
    grid, _ = open_films("subsample.decontaminate=drop")
    output = real.with_name("clean.jsonl")
    kept, manifest = _synthetic(grid.augment(cell, "aeda", 0, real, output).output)
    counts = manifest.counts
    assert manifest.complete
    assert (counts["wanted"], counts["kept"], counts["copies"]["left_out"]) == (15, 12, 3)
    assert [item for item in rows if item in kept] == kept
    assert manifest.settings["decontaminate"] == "drop"
    assert "held_out" in manifest.inputs


def test_data_that_cannot_be_read_stops_no_editor(open_films: Open, tmp_path: Path) -> None:
    grid, _ = open_films()
    (cell,) = grid.cells()
    grid.subsample(cell)
    (tmp_path / "test.jsonl").unlink()
    grid, warnings = open_films()
    _, manifest = _synthetic(grid.augment(cell, "aeda", 0).output)
    assert "copies" not in manifest.counts
    assert any(text.startswith("copies of test rows are not counted: ") for text in warnings)


def test_a_generators_copies_are_rejected_with_drop_and_counted_without(tmp_path: Path) -> None:
    """Exact copies of test rows are rejected by a key of the filter in any case."""
    finder = CopyFinder({"test": [row(1, LONG)], "validation": [row(2, OTHER)]})
    texts = [NEAR, OTHER + "!", "some other sentence"]
    made = [
        Augmented(id=f"s{i}", text=text, label="pos", probs={"pos": 1.0}, method="gpt3mix")
        for i, text in enumerate(texts)
    ]
    for drops, kept in ((False, 3), (True, 1)):
        copies = SyntheticCopies(finder, drops)
        results = [RowFilter([], None, (), copies).check(item) for item in made]
        assert sum(isinstance(item, Augmented) for item in results) == kept
        assert copies.total == 2
        reasons = [(item.reason, item.detail) for item in results if isinstance(item, Reject)]
        expected = [("decontaminate", "near copy of r1"), ("decontaminate", "exact copy of r2")]
        assert reasons == (expected if drops else [])


def test_near_copies_are_counted_among_the_first_rows_and_exact_ones_among_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gpt3mix_cli.decontamination.NEAR_SAMPLE", 2)
    finder = CopyFinder({"test": [row(1, LONG)]})
    for drops, near in ((False, 1), (True, 2)):
        copies = SyntheticCopies(finder, drops)
        for text in (NEAR, OTHER, NEAR, LONG + "!"):
            copies.find(text)
        found = copies.counts()["copies"]
        assert found["test"] == {"exact": 1, "near": near}  # type: ignore[index]
        assert ("near_among" in found) is not drops  # type: ignore[operator]
        assert ("among the first 2" in copies.describe()) is not drops


def test_the_report_remarks_on_copies_among_synthetic_rows(open_films: Open) -> None:
    text = f"{CONFIG}classifiers: [{{kind: linear}}]\ntrials: 1\n"
    grid, _ = open_films(text=text)
    list(grid.run())
    remark = (
        "films aeda: exact and near copies among the synthetic rows: 2 of test rows, 1 of "
        "validation rows; 0 of them are left out (subsample.decontaminate)"
    )
    assert remark in grid.report().remarks


def test_the_report_says_that_near_copies_were_counted_in_a_sample(
    open_films: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt3mix_cli.decontamination.NEAR_SAMPLE", 13)  # of 15 rows
    grid, _ = open_films(text=f"{CONFIG}classifiers: [{{kind: linear}}]\ntrials: 1\n")
    list(grid.run())
    (remark,) = [remark for remark in grid.report().remarks if "exact and near copies" in remark]
    assert "among the synthetic rows (near ones in the first 1,000 of a set): 1 of test" in remark
