"""Class-balanced draws: how many rows, which rows, and when they are drawn again."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from gpt3mix_cli.data import Splits
from gpt3mix_cli.errors import Callbacks, UserError
from gpt3mix_cli.files import STDIO, hash_file
from gpt3mix_cli.records import (
    Example,
    StageOptions,
    StageResult,
    manifest_path,
    read_manifest,
    read_records,
)
from gpt3mix_cli.subsample import DrawOptions, draw_rows, rows_per_class, subsample

CLASSES = ["pos", "neg"]
LEVELS = ["1/class", "2%", "3/class", "10%", "30%", "9/class", "75%", "100%"]


def rows(**counts: int) -> list[Example]:
    """Rows of the classes, one class after the other."""
    return [
        Example(id=f"{label}{number}", text=f"text {label} {number}", label=label)
        for label, count in counts.items()
        for number in range(count)
    ]


TRAIN = rows(neg=30, pos=30)


def make(output: Path, train: list[Example] = TRAIN, **changes: Any) -> StageResult:
    draw = {"level": "3/class", "master_seed": 42, "data_seed": 0}
    draw |= {name: changes.pop(name) for name in draw if name in changes}
    classes = changes.pop("classes", CLASSES)
    splits = Splits(train, train[:2], train[:2])
    return subsample(splits, classes, DrawOptions(**draw), output, StageOptions(**changes))


@pytest.mark.parametrize(
    ("level", "n", "classes", "expected"),
    [
        ("0.1%", 6920, 2, 3),  # SST-2, as in the paper
        ("0.3%", 6920, 2, 10),
        ("1%", 6920, 2, 35),
        ("100%", 6920, 2, 3460),
        ("0.1%", 5452, 6, 1),  # TREC6: 0.9 rows
        ("0.01%", 6920, 2, 1),  # never none
        (".001%", 100, 2, 1),
        ("0.1%", 50_000, 2, 25),
        ("33.3%", 3000, 3, 333),
        ("8/class", 6920, 2, 8),
        ("8/class", 3, 2, 8),
        ("0.28%", 11_250, 3, 10),  # 10.5 exactly, and a little more in floating point
        ("1.1%", 1000, 2, 6),  # 5.5, to the even one, as Python's round
        ("0.9%", 1000, 2, 4),  # 4.5
    ],
)
def test_rows_per_class(level: str, n: int, classes: int, expected: int) -> None:
    assert rows_per_class(level, n, classes) == expected


@example_settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(0, 3),
    st.sampled_from(LEVELS),
)
def test_a_draw_is_balanced_and_of_training_rows_once_each(
    a: int, b: int, c: int, seed: int, level: str
) -> None:
    """A class gives the number of rows that is wanted, or all of its rows."""
    train = rows(a=a, b=b, c=c)
    drawn = draw_rows(train, ["a", "b", "c"], DrawOptions(level, 42, seed))
    wanted = rows_per_class(level, a + b + c, 3)
    assert Counter(row.label for row in drawn) == {
        "a": min(a, wanted),
        "b": min(b, wanted),
        "c": min(c, wanted),
    }
    assert len({row.id for row in drawn}) == len(drawn)
    assert all(row in train for row in drawn)


def test_classes_take_turns_in_the_tasks_order() -> None:
    assert [row.label for row in draw_rows(TRAIN, CLASSES, DrawOptions("3/class", 42, 0))] == [
        "pos",
        "neg",
    ] * 3
    assert [
        row.label for row in draw_rows(rows(b=1, a=3), ["a", "b"], DrawOptions("3/class", 42, 0))
    ] == [
        "a",
        "b",
        "a",
        "a",
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_levels_are_nested_for_one_seed(seed: int) -> None:
    """The rows of a lower level come first."""
    drawn = [
        [row.id for row in draw_rows(TRAIN, CLASSES, DrawOptions(level, 42, seed))]
        for level in ("1/class", "3/class", "10%", "50%", "90%", "100%")
    ]
    for smaller, larger in pairwise(drawn):
        assert len(smaller) <= len(larger)
        assert larger[: len(smaller)] == smaller
    assert len(drawn[-1]) == len(TRAIN)


def test_seeds_draw_differently() -> None:
    """Ten of C(30, 8)^2 = 3 x 10^13 possible draws are all different."""
    drawn = {
        tuple(row.id for row in draw_rows(TRAIN, CLASSES, DrawOptions("8/class", master, seed)))
        for master in (0, 42)
        for seed in range(5)
    }
    assert len(drawn) == 10


def test_every_row_can_be_drawn() -> None:
    """With 4 of 30 rows per class and 200 seeds, the probability that any of the 60 rows is never
    drawn is at most 60 x (26/30)^200 = 2 in 10^11.
    """
    assert {
        row.id
        for seed in range(200)
        for row in draw_rows(TRAIN, CLASSES, DrawOptions("4/class", 42, seed))
    } == {row.id for row in TRAIN}


def test_the_draw_of_a_class_does_not_depend_on_other_classes() -> None:
    other = draw_rows(rows(pos=30, neg=12), CLASSES, DrawOptions("5/class", 42, 0))
    assert [row for row in other if row.label == "pos"] == [
        row
        for row in draw_rows(TRAIN, CLASSES, DrawOptions("5/class", 42, 0))
        if row.label == "pos"
    ]


def test_full_is_train_in_its_own_order() -> None:
    train = rows(pos=3) + rows(neg=5)[::-1]
    assert (
        draw_rows(train, CLASSES, DrawOptions("full", 42, 0))
        == draw_rows(train, CLASSES, DrawOptions("full", 1, 9))
        == train
    )


@pytest.mark.parametrize(("level", "wanted"), [("12/class", 12), ("100%", 18)])
def test_too_few_rows_warn_with_their_class(level: str, wanted: int) -> None:
    warnings: list[str] = []
    draw_rows(
        rows(pos=30, neg=6),
        CLASSES,
        DrawOptions(level, 42, 0),
        Callbacks(warn=warnings.append),
    )
    assert warnings == [
        f"level {level}: class 'neg' has only 6 of the {wanted} rows wanted; all of them are used"
    ]


def test_enough_rows_give_no_warning() -> None:
    draw_rows(TRAIN, CLASSES, DrawOptions("30/class", 42, 0), Callbacks(warn=pytest.fail))


# The stage ----------------------------------------------------------------------------------------


def test_the_draw_is_written_with_its_manifest(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "train.jsonl"
    done = make(output, command=["gpt3mix", "subsample"])
    assert not done.skipped
    assert done.output == output
    assert list(read_records(output, Example, CLASSES)) == draw_rows(
        TRAIN, CLASSES, DrawOptions("3/class", 42, 0)
    )
    manifest = read_manifest(output)
    assert manifest == done.manifest
    assert (manifest.stage, manifest.output, manifest.seed, manifest.complete) == (
        "subsample",
        "train.jsonl",
        0,
        True,
    )
    assert manifest.counts["rows"] == 6
    assert manifest.counts["classes"] == {"pos": 3, "neg": 3}
    assert manifest.sha256 == hash_file(output)
    assert manifest.settings == {
        "format": 1,
        "level": "3/class",
        "master_seed": 42,
        "data_seed": 0,
        "classes": CLASSES,
    }
    shas = Splits(TRAIN, TRAIN[:2], TRAIN[:2]).sha
    assert manifest.inputs == {name: shas[name] for name in ("train", "validation", "test")}
    assert manifest.command == ["gpt3mix", "subsample"]


def test_a_second_call_is_skipped_and_force_redoes_it(tmp_path: Path) -> None:
    output = tmp_path / "train.jsonl"
    first = make(output)
    marks = output.stat().st_ino, manifest_path(output).stat().st_ino, output.stat().st_mtime_ns
    second = make(output, command=["another", "command"])
    assert (second.skipped, second.manifest) == (True, first.manifest)
    assert (
        output.stat().st_ino,
        manifest_path(output).stat().st_ino,
        output.stat().st_mtime_ns,
    ) == marks
    third = make(output, command=["another", "command"], force=True)
    assert not third.skipped
    assert third.manifest.sha256 == first.manifest.sha256
    assert json.loads(manifest_path(output).read_bytes())["command"] == ["another", "command"]


@pytest.mark.parametrize(
    "change",
    [
        {"level": "4/class"},
        {"data_seed": 1},
        {"master_seed": 0},
        {"classes": CLASSES[::-1]},
        {"train": TRAIN[::-1]},
    ],
)
def test_a_change_of_settings_or_inputs_draws_again_with_force(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    output = tmp_path / "train.jsonl"
    first = make(output)
    before = output.read_bytes()
    with pytest.raises(
        UserError, match=r"finished, with other settings or rows: (.* -> |other training rows)"
    ):
        make(output, **change)
    assert (output.read_bytes(), read_manifest(output)) == (before, first.manifest)
    done = make(output, **change, force=True)
    assert not done.skipped
    assert make(output, **change).skipped
    assert done.manifest == read_manifest(output)
    assert (tmp_path / "train.jsonl.bak").read_bytes() == before
    assert read_manifest(tmp_path / "train.jsonl.bak") == first.manifest


def test_other_inputs_that_give_the_same_rows_replace_the_manifest_alone(tmp_path: Path) -> None:
    output = tmp_path / "train.jsonl"
    before = make(output) and output.read_bytes()
    assert not make(output, train=[*TRAIN, *rows(neu=0), *rows(pos=1)]).skipped
    assert output.read_bytes() == before


def test_an_edited_output_is_kept(tmp_path: Path) -> None:
    output = tmp_path / "train.jsonl"
    whole = make(output) and output.read_bytes()
    edited = whole.replace(b"text", b"test", 1)
    output.write_bytes(edited)
    with pytest.raises(UserError, match="was changed after it was written"):
        make(output)
    assert output.read_bytes() == edited
    make(output, force=True)
    assert output.read_bytes() == whole
    assert (tmp_path / "train.jsonl.bak").read_bytes() == edited


def test_the_manifests_count_of_test_rows_is_not_stale(tmp_path: Path) -> None:
    for shared in (0, 5):
        done = subsample(
            Splits(TRAIN, [], rows(pos=shared), shared),
            CLASSES,
            DrawOptions("3/class", 42, 0),
            tmp_path / "train.jsonl",
        )
        assert done.manifest.counts["test_rows_in_train"] == shared


@pytest.mark.parametrize("level", ["3/class", "10%", "full"])
def test_the_same_draw_is_the_same_bytes_anywhere(tmp_path: Path, level: str) -> None:
    first, second = (
        make(tmp_path / "a" / "train.jsonl", level=level),
        make(tmp_path / "b" / "c" / "train.jsonl", level=level),
    )
    assert first.output.read_bytes() == second.output.read_bytes()
    assert first.manifest.model_dump(exclude={"seconds"}) == second.manifest.model_dump(
        exclude={"seconds"}
    )


def test_published_draws_have_not_changed() -> None:
    """The ids were drawn when this test was written; other ids would change every result."""
    assert [row.id for row in draw_rows(TRAIN, CLASSES, DrawOptions("3/class", 42, 0))] == [
        "pos11",
        "neg22",
        "pos15",
        "neg12",
        "pos17",
        "neg8",
    ]


def test_unknown_keys_of_a_row_are_kept(tmp_path: Path) -> None:
    train = [Example.model_validate({**row.model_dump(), "source": "web"}) for row in TRAIN]
    make(tmp_path / "train.jsonl", train)
    assert all(
        json.loads(line)["source"] == "web"
        for line in (tmp_path / "train.jsonl").read_bytes().splitlines()
    )


def test_stdout_gets_the_rows_and_no_manifest(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    done = make(STDIO)
    assert not done.skipped
    assert capfdbinary.readouterr().out.decode() == make(tmp_path / "train.jsonl").output.read_text(
        encoding="utf-8"
    )
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith("-")] == []
    assert not make(STDIO).skipped


def test_no_rows_to_draw_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="level full: no rows are left to draw from"):
        make(tmp_path / "train.jsonl", [], level="full")
    assert list(tmp_path.iterdir()) == []
