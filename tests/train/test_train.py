"""Trials: rows, pairing, resuming after a kill, and skipping what is up to date."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt3mix_cli.errors import Callbacks, StoppedShort, UserError
from gpt3mix_cli.files import exclusive_writer
from gpt3mix_cli.grid.row_reader import RowReader
from gpt3mix_cli.layout import Cell, TrialKey, history_path
from gpt3mix_cli.machine import machine, machine_differences
from gpt3mix_cli.records import (
    Augmented,
    Example,
    StageOptions,
    StageResult,
    Trial,
    finish_output,
    hash_rows,
    manifest_path,
    read_manifest,
    read_records,
    write_records,
)
from gpt3mix_cli.train import (
    Classifier,
    EpochCallback,
    FitResult,
    SyntheticSet,
    TrialData,
    TrialJob,
    TrialRunner,
    ignore_epoch,
)
from gpt3mix_cli.train import train as run_trials
from gpt3mix_cli.train.targets import to_one_hot

CLASSES = ["pos", "neg"]
REAL = [Example(id=f"t{i}", text=f"text {i}", label=CLASSES[i % 2]) for i in range(4)]
TEST = [Example(id=f"e{i}", text=f"test {i}", label=CLASSES[i % 3 == 0]) for i in range(9)]
VALIDATION = TEST[:3]
TRIALS = [(0, 0), (2, 0), (4, 0)]


class Fake(Classifier):
    """A classifier whose numbers are hashes of seed and texts; it records its training rows.

    Args:
        failing: indices of the fits that raise.
        about: its settings.
        error: class of the error that they raise.
    """

    def __init__(
        self,
        failing: Sequence[int] = (),
        about: Mapping[str, Any] = {"kind": "fake"},
        error: type[Exception] = RuntimeError,
    ) -> None:
        self.failing, self.about, self.error = failing, dict(about), error
        self.seeds: list[int] = []
        self.given: list[list[Augmented]] = []

    def fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        on_epoch: EpochCallback = ignore_epoch,
    ) -> FitResult:
        self.seeds.append(seed)
        self.given.append(list(train))
        if len(self.seeds) - 1 in self.failing:
            raise self.error("no luck\nsecond line")
        return FitResult(
            0.5, 2, tuple({"epoch": e, "loss": 1 / e, "valid_accuracy": 0.25 * e} for e in (1, 2))
        )

    def predict_proba(self, texts: Sequence[str]) -> Any:
        values = [
            hashlib.sha256(f"{self.seeds[-1]} {text}".encode()).digest()[0] / 255 for text in texts
        ]
        return np.array([[value, 1 - value] for value in values])

    def probe(self) -> None:
        """Nothing to load."""

    def save(self, folder: Path) -> None:
        """Nothing to write."""


def go(
    output: Path,
    fake: Fake | None = None,
    method: str = "none",
    synthetic: Mapping[int, SyntheticSet] | None = None,
    trials: Sequence[tuple[int, int]] = TRIALS,
    real: Sequence[Example] = REAL,
    master_seed: int = 42,
    **options: Any,
) -> StageResult:
    key = TrialKey(Cell("task", {"augment.k": 2}, "1%", 3), method, "fake")
    data = TrialData(real, VALIDATION, TEST, synthetic or {})
    runner = TrialRunner(fake or Fake(), key, CLASSES, data, master_seed)
    return run_trials(runner, trials, output, StageOptions(**options))


def test_duplicate_rows_count_once(output: Path) -> None:
    go(output)
    whole = output.read_bytes()
    output.write_bytes(whole + whole)
    go(output)
    assert [row["trial"] for row in rows_of(output)] == sorted({number for number, _ in TRIALS})


def test_two_processes_cannot_work_on_one_output(output: Path) -> None:
    with exclusive_writer(output), pytest.raises(UserError, match="another process is writing it"):
        go(output)


def rows_of(output: Path) -> list[dict[str, Any]]:
    """Return the rows without `seconds`."""
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert all(row.pop("seconds") >= 0 for row in rows)
    return rows


def synthetic(*texts: str) -> SyntheticSet:
    rows = [
        Augmented(
            id=f"s-{text}", text=text, label="pos", probs={"pos": 0.75, "neg": 0.25}, method="eda"
        )
        for text in texts
    ]
    return SyntheticSet(
        rows, {"kind": "eda", "seed": hash(texts), "attempts": 4, "k": 2}, tokens=len(texts)
    )


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "trials" / "none.fake.jsonl"


# Rows --------------------------------------------------------------------------------------------


def test_rows_have_every_field_and_are_in_the_order_of_the_trials(output: Path) -> None:
    done = go(output, trials=[(4, 0), (0, 0), (2, 0)])
    rows = rows_of(output)
    assert [row["trial"] for row in rows] == [0, 2, 4]
    # `n_test_all` is there only if a part of the test rows is used.
    fields = [name for name in Trial.model_fields if name not in ("seconds", "n_test_all")]
    assert all(list(row) == fields for row in rows)
    assert {name for name, value in rows[0].items() if value is None} == {
        "error",
        "tokens",
        "usd",
        "tokens_per_prediction",
        "synthetic_weight",
    }
    expected = {
        "task": "task",
        "level": "1%",
        "method": "none",
        "classifier": "fake",
        "variant": {"augment.k": 2},
        "data_seed": 3,
        "draw": 0,
        "status": "ok",
        "n_train": 4,
        "n_synthetic": 0,
        "n_test": 9,
        "majority": 0.666667,
        "valid_accuracy": 0.5,
        "best_epoch": 2,
        "epochs": 2,
    }
    assert {name: rows[0][name] for name in expected} == expected
    assert done.manifest.complete
    assert done.manifest.counts == {"trials": 3, "ok": 3, "failed": 0}


def test_accuracy_is_that_of_the_test_rows(output: Path) -> None:
    fake = Fake()
    go(output, fake, trials=[(0, 0)])
    (row,) = rows_of(output)
    right = [
        CLASSES[p.argmax()] == e.label
        for p, e in zip(fake.predict_proba([e.text for e in TEST]), TEST, strict=True)
    ]
    assert row["accuracy"] == round(np.mean(right), 6)
    assert sum(map(sum, row["confusion"])) == 9


def test_epochs_are_in_the_history_in_order(output: Path) -> None:
    go(output, trials=[(4, 0), (0, 0)])
    lines = [json.loads(line) for line in history_path(output).read_text().splitlines()]
    assert history_path(output).name == "none.fake.history.jsonl"
    assert [(line["trial"], line["epoch"]) for line in lines] == [(0, 1), (0, 2), (4, 1), (4, 2)]
    assert lines[1] == {"trial": 0, "epoch": 2, "loss": 0.5, "valid_accuracy": 0.5}


def test_training_rows_are_the_real_ones_as_one_hot_and_then_the_synthetic_ones(
    output: Path,
) -> None:
    fake = Fake()
    go(
        output,
        fake,
        "eda",
        {0: synthetic("a", "b"), 1: synthetic("c")},
        trials=[(0, 0), (1, 1), (2, 0)],
    )
    assert [[row.text for row in given[4:]] for given in fake.given] == [
        ["a", "b"],
        ["c"],
        ["a", "b"],
    ]
    assert all(given[:4] == [to_one_hot(row, CLASSES) for row in REAL] for given in fake.given)
    assert fake.given[0][1].probs == {"pos": 0.0, "neg": 1.0}
    assert fake.given[0][4].probs == {"pos": 0.75, "neg": 0.25}
    assert [(row["n_synthetic"], row["tokens"]) for row in rows_of(output)] == [
        (2, 2),
        (1, 1),
        (2, 2),
    ]


def test_a_trial_has_the_same_training_seed_in_every_method(tmp_path: Path) -> None:
    real, mixed = Fake(), Fake()
    go(tmp_path / "none.fake.jsonl", real)
    go(
        tmp_path / "eda.fake.jsonl",
        mixed,
        "eda",
        {0: synthetic("a")},
        trials=list(reversed(TRIALS)),
    )
    assert real.seeds == mixed.seeds[::-1]
    assert len(set(real.seeds)) == 3
    assert [row["seed"] for row in rows_of(tmp_path / "eda.fake.jsonl")] == real.seeds


def test_another_master_seed_gives_other_training_seeds(tmp_path: Path) -> None:
    first, second = Fake(), Fake()
    go(tmp_path / "a.jsonl", first)
    go(tmp_path / "b.jsonl", second, master_seed=0)
    assert not set(first.seeds) & set(second.seeds)


def test_the_settings_hash_covers_only_what_can_change_a_number(tmp_path: Path) -> None:
    def settings(name: str, **options: Any) -> set[str]:
        go(tmp_path / name, **options)
        return {row["settings"] for row in rows_of(tmp_path / name)}

    plain = settings("a")
    assert len(plain) == 1
    assert settings("b", trials=[(7, 0)], master_seed=1, real=REAL[:2]) == plain
    assert settings("c", fake=Fake(about={"kind": "fake", "lr": 1})) != plain
    mixed = settings("d", method="eda", synthetic={0: synthetic("a")})
    assert mixed != plain
    # Another draw: its seed and rows differ.
    assert settings("e", method="eda", synthetic={0: synthetic("b", "c")}) == mixed
    other = SyntheticSet([], {"kind": "eda", "k": 3})
    assert settings("f", method="eda", synthetic={0: other}) != mixed


def test_hashes_depend_on_the_rows_of_the_cell(tmp_path: Path) -> None:
    go(tmp_path / "a.jsonl", trials=[(0, 0)])
    go(tmp_path / "b.jsonl", trials=[(0, 0)], real=REAL[:2])
    (a,), (b,) = rows_of(tmp_path / "a.jsonl"), rows_of(tmp_path / "b.jsonl")
    assert a["train_sha"] != b["train_sha"]
    assert a["test_sha"] == b["test_sha"]


def test_progress_is_reported_after_every_trial(output: Path) -> None:
    calls: list[tuple[str, int | None, int | None]] = []
    go(
        output,
        callbacks=Callbacks(
            lambda name, done, total=None, detail="": calls.append((name, done, total))
        ),
    )
    name = "augment.k=2 1% seed 3 none + fake"
    assert [call for call in calls if call[0] == name] == [(name, i, 3) for i in range(4)]


# Resuming ----------------------------------------------------------------------------------------

KILLED = """
import importlib.util, os, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("shared", sys.argv[1])
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)

class Killed(shared.Fake):
    def fit(self, train, validation, seed, on_epoch):
        fit = super().fit(train, validation, seed, on_epoch)
        if len(self.seeds) == 2:
            os._exit(9)
        return fit

shared.go(Path(sys.argv[2]), Killed())
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "none.fake.jsonl"
    go(output)
    return output


def same(output: Path, other: Path) -> bool:
    return (
        rows_of(output) == rows_of(other)
        and history_path(output).read_bytes() == history_path(other).read_bytes()
    )


def test_a_killed_run_resumes_and_gives_the_same_rows(output: Path, undisturbed: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, __file__, str(output)], check=False)
    assert killed.returncode == 9
    assert [row["trial"] for row in rows_of(output)] == [0]
    manifest = read_manifest(output)
    assert manifest is not None
    assert not manifest.complete
    kept = output.read_bytes()
    # The process was killed while it wrote the next row and its epochs.
    output.write_bytes(kept + b'{"task": "task", "level": "1%", "meth')
    with history_path(output).open("a") as stream:
        stream.write(
            '{"trial": 2, "epoch": 1, "loss": 7.0, "valid_accuracy": 0.0}\n{"trial": 2, "ep'
        )
    fake = Fake()
    done = go(output, fake)
    assert not done.skipped
    assert done.manifest.complete
    assert len(fake.seeds) == 2
    assert output.read_bytes().startswith(kept)  # the first trial, its seconds included
    assert same(output, undisturbed)
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "none.fake.history.jsonl",
        "none.fake.jsonl",
        "none.fake.jsonl.manifest.json",
    ]


def test_only_the_truncated_last_line_of_a_finished_file_is_repeated(
    output: Path, undisturbed: Path
) -> None:
    go(output)
    output.write_bytes(output.read_bytes()[:-40])
    fake = Fake()
    go(output, fake)
    assert len(fake.seeds) == 1
    assert same(output, undisturbed)


def test_without_a_manifest_all_trials_run_again_with_force(
    output: Path, undisturbed: Path
) -> None:
    go(output)
    manifest_path(output).unlink()
    before = output.read_bytes()
    fake = Fake()
    with pytest.raises(UserError, match="it has no manifest"):
        go(output, fake)
    assert (output.read_bytes(), fake.seeds) == (before, [])
    go(output, fake, force=True)
    assert output.with_name(f"{output.name}.bak").read_bytes() == before
    assert len(fake.seeds) == 3
    assert same(output, undisturbed)


def test_what_is_up_to_date_is_skipped_and_force_redoes_it(output: Path) -> None:
    go(output)
    before = output.read_bytes(), manifest_path(output).read_bytes()
    fake = Fake()
    done = go(output, fake)
    assert done.skipped
    assert not fake.seeds
    assert (output.read_bytes(), manifest_path(output).read_bytes()) == before
    assert not go(output, fake, force=True).skipped
    assert len(fake.seeds) == 3


def test_another_command_line_makes_nothing_stale(output: Path) -> None:
    go(output)
    assert go(output, command=["gpt3mix", "train", "other.yaml"]).skipped


@pytest.mark.parametrize(
    "change",
    [
        {"fake": Fake(about={"kind": "fake", "lr": 2})},
        {"real": [*REAL[:3], REAL[3].model_copy(update={"text": "another"})]},
        {"real": REAL[::-1]},
        {"master_seed": 43},
        {"synthetic": {0: synthetic("a")}},
    ],
    ids=["settings", "a text", "order", "master seed", "synthetic rows"],
)
def test_a_change_that_can_change_a_number_repeats_all_trials_with_force(
    output: Path, change: dict[str, Any]
) -> None:
    go(output)
    before, content = rows_of(output), output.read_bytes()
    fake = change.pop("fake", Fake())
    fake.seeds.clear()
    with pytest.raises(UserError, match="finished, with other settings or rows: ") as caught:
        go(output, fake, **change)
    assert "--set name=NAME" in caught.value.hint
    assert (output.read_bytes(), fake.seeds) == (content, [])
    assert not go(output, fake, **change, force=True).skipped
    assert len(fake.seeds) == 3
    assert rows_of(output) != before
    assert output.with_name(f"{output.name}.bak").read_bytes() == content


def test_fewer_and_more_trials_go_on(output: Path) -> None:
    go(output)
    whole, fake, notes = output.read_bytes(), Fake(), list[str]()
    go(output, fake, trials=TRIALS[:1], callbacks=Callbacks(note=notes.append))
    assert (fake.seeds, [row["trial"] for row in rows_of(output)]) == ([], [0])
    assert output.with_name(f"{output.name}.bak").read_bytes() == whole
    assert "what it was is in" in notes[0]
    go(output, fake, trials=[TRIALS[0], (3, 0)])
    assert len(fake.seeds) == 1


def test_fewer_trials_may_read_fewer_synthetic_sets(output: Path) -> None:
    sets = {0: synthetic("a"), 1: synthetic("b")}
    go(output, synthetic=sets, trials=[(0, 0), (1, 1)])
    fake = Fake()
    go(output, fake, synthetic={0: sets[0]}, trials=[(0, 0)])
    assert not fake.seeds


def test_trials_of_an_unfinished_synthetic_set_are_repeated_when_it_has_grown(
    output: Path,
) -> None:
    part = synthetic("a")
    go(output, synthetic={0: replace(part, is_unfinished=True)})
    before, whole = output.read_bytes(), replace(synthetic("a", "b"), about=part.about)
    fake = Fake()
    assert not go(output, fake, synthetic={0: whole}).skipped
    assert len(fake.seeds) == 3
    assert output.with_name(f"{output.name}.bak").read_bytes() == before
    with pytest.raises(UserError, match="other synthetic rows"):
        go(output, synthetic={0: part})


@pytest.mark.parametrize(
    ("complete", "limit", "expected"), [(True, None, False), (False, None, True), (True, 5, True)]
)
def test_a_set_that_stopped_short_or_is_a_preview_is_unfinished(
    tmp_path: Path, complete: bool, limit: int | None, expected: bool
) -> None:
    path = tmp_path / "eda.jsonl"
    write_records(path, synthetic("a").rows)
    finish_output(
        path, 0, stage="augment", complete=complete, settings={"limit": limit},
        inputs={"train": hash_rows(REAL)}, seed=0, counts={},
    )  # fmt: skip
    assert RowReader().synthetic([path], CLASSES, REAL).is_unfinished is expected


def test_changed_soft_labels_make_the_trials_stale(output: Path) -> None:
    part = synthetic("a")
    go(output, synthetic={0: part})
    row = part.rows[0].model_copy(update={"probs": {"pos": 0.74, "neg": 0.26}})
    fake = Fake()
    changed = {0: SyntheticSet([row], part.about, part.tokens)}
    with pytest.raises(UserError, match="other synthetic rows"):
        go(output, fake, synthetic=changed)
    go(output, fake, synthetic=changed, force=True)
    assert len(fake.seeds) == 3


# Failing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, ValueError, ArithmeticError, MemoryError])
def test_a_failed_trial_stops_no_other_and_the_next_run_repeats_it(
    output: Path, undisturbed: Path, error: type[Exception]
) -> None:
    reason = "not enough memory" if error is MemoryError else f"{error.__name__}: no luck"
    with pytest.raises(
        StoppedShort, match=rf"1 of 3 trials failed; the first: .*{reason}"
    ) as caught:
        go(output, Fake(failing=[1], error=error))
    assert caught.value.exit_code == 3
    rows = rows_of(output)
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1]["error"].endswith(reason)
    assert rows[1]["accuracy"] is None
    assert rows[1]["settings"] == rows[0]["settings"]
    manifest = read_manifest(output)
    assert manifest is not None
    assert (manifest.complete, manifest.counts) == (False, {"trials": 3, "ok": 2, "failed": 1})
    fake = Fake()
    assert go(output, fake).manifest.complete
    assert fake.seeds == [rows[1]["seed"]]
    assert same(output, undisturbed)


def test_rows_of_another_model_than_their_settings_name_are_refused() -> None:
    fake = Fake()
    key = TrialKey(Cell("task", {}, "1%", 3), "none", "fake")
    runner = TrialRunner(fake, key, CLASSES, TrialData(REAL, VALIDATION, TEST), 42)
    assert runner.settings["classifier"] == {"kind": "fake"}  # travels to the worker
    fake.about = {"kind": "fake", "device": "cuda"}
    for run in (runner.probe, runner.run):
        with pytest.raises(StoppedShort, match="another than before"):
            run(TrialJob(0))
    assert not fake.seeds


def test_threads_are_compared_only_if_both_runs_know_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    now = machine()
    assert machine_differences({**now, "threads": "1"}) == []
    assert machine_differences({"numpy": "0.1"}) == [f"numpy 0.1, now {now['numpy']}"]


def test_a_bug_in_a_classifier_is_not_a_failed_trial(output: Path) -> None:
    with pytest.raises(AttributeError):
        go(output, Fake(failing=[1], error=AttributeError))
    assert [row.trial for row in read_records(output, Trial)] == [0]
