"""Two runs compared result by result."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import inputs, seeds

from gpt3mix_cli.records import Trial, write_records
from gpt3mix_cli.report import compare_runs


@pytest.fixture
def differ(tmp_path: Path) -> Callable[..., list[Any]]:
    """Two runs compared."""

    def run(first: list[Trial], second: list[Trial]) -> list[Any]:
        for name, rows in (("a", first), ("b", second)):
            write_records(tmp_path / name / "trials.jsonl", rows)
        runs = [inputs(tmp_path / name, name=name) for name in ("a", "b")]
        return list(compare_runs(*runs, tmp_path / "d").differences)

    return run


def test_two_runs_are_paired_where_they_drew_the_same_rows(
    differ: Callable[..., list[Any]], tmp_path: Path
) -> None:
    first = seeds([0.5, 0.6, 0.7])
    (only,) = differ(first, seeds([0.6, 0.7, 0.9], settings="b" * 16, version="2"))
    assert (only.n_pairs, only.diff, only.p) == (3, pytest.approx(0.4 / 3), 0.25)
    assert only.note == "settings aaaaaa, bbbbbb, versions unknown, 2"
    (other,) = differ(first, [row.model_copy(update={"train_sha": "another"}) for row in first])
    assert (other.n_pairs, other.p, other.note) == (0, None, "other subsamples")
    saved = json.loads((tmp_path / "d" / "diff.json").read_text("utf-8"))["differences"]
    assert (saved[0]["a"]["n"], saved[0]["n_pairs"]) == (3, 0)
    assert {path.name for path in (tmp_path / "d").iterdir()} == {
        "diff.md",
        "diff.csv",
        "diff.json",
    }


def test_equal_runs_are_equal_and_results_of_one_run_are_named(
    differ: Callable[..., list[Any]],
) -> None:
    first = seeds([0.5, 0.6])
    lines = differ([*first, *seeds([0.7], method="eda")], [*first, *seeds([0.8], method="gpt3mix")])
    assert [item.note for item in lines] == ["equal", "only in the first", "only in the second"]
    assert lines[0].p == 1


def test_no_result_is_lost_of_a_run_of_two_versions(differ: Callable[..., list[Any]]) -> None:
    rows = [*seeds([0.5, 0.6], version="0.10.0a1"), *seeds([0.7, 0.9], version="0.10.0a2")]
    assert [(item.a and item.a.mean, item.note) for item in differ(rows, rows)] == [
        (0.55, "equal"),
        (0.8, "equal"),
    ]


def test_differences_are_numbers_in_the_csv(
    differ: Callable[..., list[Any]], tmp_path: Path
) -> None:
    first = seeds([0.5, 0.6])
    for gain, shown in ((0.1, "+10.0"), (-0.1, "-10.0")):
        differ(
            first,
            [row.model_copy(update={"accuracy": (row.accuracy or 0) + gain}) for row in first],
        )
        with (tmp_path / "d" / "diff.csv").open(encoding="utf-8", newline="") as stream:
            (line,) = csv.DictReader(stream)
        assert line["difference"] == shown


def test_two_runs_with_the_same_name_get_letters(tmp_path: Path) -> None:
    for name, gain in (("a", 0.0), ("b", 0.1)):
        write_records(tmp_path / name / "run" / "trials.jsonl", seeds([0.5 + gain, 0.6 + gain]))
    runs = [inputs(tmp_path / name / "run", name="run") for name in ("a", "b")]
    (table,) = compare_runs(*runs, tmp_path / "d").tables
    names = [heading[-1] for heading in table.headings]
    assert names == [
        "task",
        "level",
        "classifier",
        "method",
        "run (A)",
        "run (B)",
        "difference",
        "95 % interval",
        "pairs",
        "p",
        "corrected p",
    ]
    assert (table.labels, [entry.text for entry in table.rows[0][4:7]]) == (
        4,
        ["55.0 ± 7.1 (2)", "65.0 ± 7.1 (2)", "+10.0"],
    )


def test_two_configs_on_one_data_set_are_compared_whatever_they_call_their_task(
    differ: Callable[..., list[Any]],
) -> None:
    first = [*seeds([0.5, 0.6], task="tickets", test_sha="t" * 16)]
    first += seeds([0.7, 0.8], task="mails", test_sha="m" * 16)
    second = [*seeds([0.9, 0.9], task="tickets-quick", test_sha="t" * 16)]
    second += seeds([0.7, 0.9], task="others", test_sha="o" * 16)
    lines = differ(first, second)
    assert [(item.result.task, item.n_pairs, item.note) for item in lines] == [
        ("mails", 0, "only in the first"),
        ("tickets", 2, ""),
        ("others", 0, "only in the second"),
    ]
    (only,) = differ(first[:2], second[2:])  # one task each: the data may have changed
    assert (only.result.task, only.n_pairs, only.note) == (
        "tickets", 0, "other test rows, other subsamples",
    )  # fmt: skip
