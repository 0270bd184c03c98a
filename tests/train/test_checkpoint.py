"""Checkpoints of long trainings: an interrupted one gives the row of an undisturbed one."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_rows import CLASSES, ROWS, VALIDATION

from gpt3mix_cli.errors import NO_CALLBACKS, Callbacks
from gpt3mix_cli.grid.executors.processes import ProcessExecutor
from gpt3mix_cli.layout import Cell, TrialKey, checkpoint_path
from gpt3mix_cli.records import StageOptions, Trial, read_records
from gpt3mix_cli.settings import TransformerSettings
from gpt3mix_cli.train import TrialData, TrialRunner, cached_classifier, checkpoint
from gpt3mix_cli.train import train as run_trials
from gpt3mix_cli.train.trials import TrialJob

UNSTABLE = {"seconds"}
EPOCHS = 5


class Killed(BaseException):
    """In place of a signal that ends the process."""


@pytest.fixture
def after_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "INTERVAL_S", 0.0)


@pytest.fixture
def start(tiny_encoder: Path) -> Callable[..., TrialRunner]:
    """Return runners with dropout and a warm-up, whose numbers depend on all of the state."""

    def runner(**options: Any) -> TrialRunner:
        settings = TransformerSettings.model_validate({
            "kind": "transformer", "model": str(tiny_encoder), "lr": 1e-2, "max_epochs": EPOCHS,
            "patience": 9, "batch_size": 4, "dtype": "float32", "device": "cpu", **options,
        })  # fmt: skip
        key = TrialKey(Cell("t", {}, "full", 0), "none", "tiny")
        classifier = cached_classifier(settings, tuple(CLASSES))
        return TrialRunner(classifier, key, CLASSES, TrialData(ROWS, VALIDATION, VALIDATION), 42)

    return runner


def kill_after(epoch: int, progress: list[str] | None = None) -> Callbacks:
    def on_progress(name: str, done: int, total: int | None = None, detail: str = "") -> None:
        if progress is not None and "epoch" in name and detail:
            progress.append(f"{done}")
        if "epoch" in name and done == epoch + 1 and detail:
            raise Killed

    return Callbacks(progress=on_progress)


def row_of(path: Path) -> dict[str, Any]:
    (row,) = read_records(path, Trial)
    return row.model_dump(exclude=UNSTABLE)


def run(runner: TrialRunner, path: Path, callbacks: Callbacks = NO_CALLBACKS, **more: Any) -> None:
    run_trials(runner, [TrialJob(0)], path, StageOptions(callbacks=callbacks), **more)


@pytest.mark.usefixtures("after_each_epoch")
def test_a_training_that_was_killed_goes_on_to_the_same_row(
    start: Callable[..., TrialRunner], tmp_path: Path
) -> None:
    run(start(), whole := tmp_path / "whole" / "none.jsonl")
    cut = tmp_path / "cut" / "none.jsonl"
    with pytest.raises(Killed):
        run(start(), cut, kill_after(2))
    assert checkpoint_path(cut, 0).is_file()
    epochs: list[str] = []
    run(start(), cut, kill_after(EPOCHS, epochs))
    assert epochs == ["3", "4", "5"]  # the first two are not trained again
    assert row_of(cut) == row_of(whole)
    history = [path.with_name("none.history.jsonl").read_bytes() for path in (cut, whole)]
    assert history[0] == history[1]
    assert {path.name for path in cut.parent.iterdir()} == {
        path.name for path in whole.parent.iterdir()
    }


def test_a_short_training_writes_no_checkpoint(
    start: Callable[..., TrialRunner], tmp_path: Path
) -> None:
    path = tmp_path / "none.jsonl"
    with pytest.raises(Killed):
        run(start(), path, kill_after(2))
    assert not checkpoint_path(path, 0).exists()


@pytest.mark.usefixtures("after_each_epoch")
def test_a_damaged_checkpoint_or_that_of_other_settings_is_not_used(
    start: Callable[..., TrialRunner], tmp_path: Path
) -> None:
    run(start(), whole := tmp_path / "whole" / "none.jsonl")
    path, warnings = tmp_path / "none.jsonl", list[str]()
    with pytest.raises(Killed):
        run(start(lr=1e-3), path, kill_after(3))
    run(start(), path)  # other settings
    assert row_of(path) == row_of(whole)
    path.unlink()
    with pytest.raises(Killed):
        run(start(), path, kill_after(3))
    content = checkpoint_path(path, 0).read_bytes()
    checkpoint_path(path, 0).write_bytes(content[: len(content) // 2])
    run(start(), path, Callbacks(warn=warnings.append))
    assert row_of(path) == row_of(whole)
    assert any("is damaged" in warning and "starts anew" in warning for warning in warnings)


@pytest.mark.usefixtures("after_each_epoch")
def test_a_checkpoint_of_another_version_is_not_used(
    start: Callable[..., TrialRunner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, epochs = tmp_path / "none.jsonl", list[str]()
    with pytest.raises(Killed):
        run(start(), path, kill_after(2))
    monkeypatch.setattr(checkpoint, "__version__", "0.0")
    run(start(), path, kill_after(EPOCHS, epochs))
    assert epochs == list("12345")


@pytest.mark.usefixtures("after_each_epoch")
def test_a_full_disk_costs_the_checkpoint_and_not_the_training(
    start: Callable[..., TrialRunner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run(start(), whole := tmp_path / "whole" / "none.jsonl")
    monkeypatch.setattr(torch, "save", full)
    path, warnings = tmp_path / "none.jsonl", list[str]()
    run(start(), path, Callbacks(warn=warnings.append))
    assert row_of(path) == row_of(whole)
    (warning,) = [text for text in warnings if "no checkpoint was written" in text]
    assert "full" in warning or "No space left" in warning


@pytest.mark.slow
@pytest.mark.usefixtures("after_each_epoch")
def test_a_worker_process_goes_on_from_a_checkpoint(
    start: Callable[..., TrialRunner], tmp_path: Path
) -> None:
    run(start(), whole := tmp_path / "whole" / "none.jsonl")
    path = tmp_path / "none.jsonl"
    with pytest.raises(Killed):
        run(start(), path, kill_after(2))
    with ProcessExecutor(1) as executor:
        run(start(), path, executor=executor.map)
    assert row_of(path) == row_of(whole)
    assert not checkpoint_path(path, 0).exists()
