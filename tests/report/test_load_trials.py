"""Whole files and single lines give the same trials; broken lines are named."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from rows import inputs, trial, trials_frame

from gpt3mix_cli.errors import NO_CALLBACKS, UserError
from gpt3mix_cli.files import append
from gpt3mix_cli.records import Trial, read_records, to_json_line, write_records
from gpt3mix_cli.report.load_trials import _validated, load_trials

FIELDS = {
    "accuracy": st.none() | st.floats(0, 1),
    "status": st.sampled_from(["ok", "failed"]),
    "error": st.none() | st.text(),
    "task": st.text(min_size=1),
    "variant": st.dictionaries(
        st.text(), st.integers() | st.text() | st.none() | st.lists(st.booleans())
    ),
    "tokens": st.none() | st.integers(0, 10**9),
    "usd": st.none() | st.floats(0, 100),
    "confusion": st.none() | st.lists(st.lists(st.integers(0, 9))),
}


@settings(deadline=None)  # pandas on a busy machine
@given(st.lists(st.fixed_dictionaries({}, optional=FIELDS), min_size=1, max_size=4))
def test_whole_files_give_the_same_trials_as_single_lines(
    tmp_path_factory: pytest.TempPathFactory, changes: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("t") / "trials.jsonl"
    path.write_text(
        "".join(
            json.dumps({**trial(i).model_dump(), **change}, ensure_ascii=False) + "\n"
            for i, change in enumerate(changes)
        ),
        "utf-8",
    )
    try:
        fast = [row for rows in _validated(path) for row in rows]
    except ValueError:  # something unusual: read slowly in any case
        return
    slow = list(read_records(path, Trial))
    assert [row.model_dump() for row in fast] == [row.model_dump() for row in slow]
    assert_frame_equal(trials_frame(fast, path), trials_frame(slow, path))


def test_integers_and_missing_values_survive(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    seed = 2**63 - 1
    write_records(path, [trial(0, seed=seed, tokens=2**53 + 1), trial(1, None, settings=None)])
    trials, _ = load_trials(inputs(path), NO_CALLBACKS)
    assert trials["seed"].tolist() == [seed, 101]
    assert trials["tokens"].tolist()[0] == 2**53 + 1
    assert trials[["accuracy", "settings", "tokens"]].isna().iloc[1].all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": "high"}, "'accuracy'"),
        ({"accuracy": float("nan")}, "JSON number"),
        ({"accuracy": float("inf")}, "JSON number"),
        ({"status": "perhaps"}, "'status'"),
        ({"data_seed": 0.5}, "'data_seed'"),
        ({"task": None}, "'task'"),
        ({"variant": []}, "'variant'"),
    ],
)
def test_an_invalid_row_is_named_with_its_line_and_key(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text(
        to_json_line(trial(0))
        + json.dumps({**trial(1).model_dump(), **change})
        + "\n"
        + to_json_line(trial(2))
    )
    with pytest.raises(UserError, match=message) as caught:
        load_trials(inputs(path), NO_CALLBACKS)
    assert f"{path}, line 2" in caught.value.message


def test_a_row_without_a_required_field_is_named(tmp_path: Path) -> None:
    row = trial(0).model_dump()
    del row["seed"]
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="'seed' is missing"):
        load_trials(inputs(tmp_path / "t.jsonl"), NO_CALLBACKS)


def test_rows_that_two_processes_append_are_all_read(tmp_path: Path) -> None:
    import multiprocessing

    path = tmp_path / "trials" / "none.linear.jsonl"
    path.parent.mkdir()
    context = multiprocessing.get_context("fork")
    writers = [
        context.Process(target=_append, args=(path, range(start, 60, 2))) for start in (0, 1)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(load_trials(inputs(tmp_path), NO_CALLBACKS)[0]["trial"]) == list(range(60))


def _append(path: Path, numbers: range) -> None:
    for number in numbers:
        append(path, to_json_line(trial(number)))


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 10**30},
        {"data_seed": -(10**30)},
        {"n_train": 10**300},
        {"accuracy": 1e300},
        {"usd": 1e308},
    ],
)
def test_a_number_that_no_trial_has_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "trials.jsonl"
    line = json.dumps({**trial(1).model_dump(), **change})
    path.write_text(f"{json.dumps(trial(0).model_dump())}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"{path}.*{next(iter(change))}"):
        load_trials(inputs(path), NO_CALLBACKS)
