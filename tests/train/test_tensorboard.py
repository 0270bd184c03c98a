"""The TensorBoard logs of trials."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli.cli import main

pytest.importorskip("tensorboard")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder))
    board.Reload()
    return {
        name: [(event.step, event.value) for event in board.Scalars(name)]
        for name in board.Tags()["scalars"]
    }


def folders(curves: Path) -> list[Path]:
    return sorted({path.parent for path in curves.rglob("events.out.tfevents.*")})


SMALL = ["-q", "--set", "lm=null", "--set", "baselines=[]"]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_every_epoch_has_its_loss_and_score(config: Path, tmp_path: Path, jobs: str) -> None:
    line = [
        str(config),
        *SMALL,
        "--tensorboard",
        str(tmp_path / "curves"),
        "--jobs",
        jobs,
        "--set",
        "classifiers.1.patience=3",
    ]
    assert main(["run", *line, "--set", "classifiers.1.max_epochs=3"]) == 0
    expected: dict[int, dict[str, list[Any]]] = {}
    for path in (tmp_path / "results").rglob("none.tiny.history.jsonl"):
        for epoch in map(json.loads, path.read_text().splitlines()):
            trial = expected.setdefault(epoch["trial"], {})
            for name in ("loss", "valid_accuracy"):
                value = pytest.approx(epoch[name], abs=1e-5)  # TensorBoard has 32 bits
                trial.setdefault(name, []).append((epoch["epoch"], value))
    assert [len(trial["loss"]) for trial in expected.values()] == [3, 3]
    curves = {
        int(folder.name.rpartition("-")[2]): scalars(folder)
        for folder in folders(tmp_path / "curves")
        if "tiny" in folder.parts
    }
    assert {
        number: {
            name: values for name, values in kinds.items() if name in ("loss", "valid_accuracy")
        }
        for number, kinds in curves.items()
    } == expected


def test_variants_of_a_sweep_have_folders_of_their_own(config: Path, tmp_path: Path) -> None:
    line = [
        str(config),
        *SMALL,
        "--tensorboard",
        str(tmp_path / "curves"),
        "--jobs",
        "1",
        "--set",
        "trials=1",
        "--set",
        "subsample.seeds=1",
    ]
    assert (
        main(
            [
                "run",
                *line,
                "--set",
                "sweep={classifiers.1.lr: [1e-3, 1e-4]}",
                "--set",
                "classifiers.1.max_epochs=1",
            ]
        )
        == 0
    )
    curves = [folder for folder in folders(tmp_path / "curves") if "tiny" in folder.parts]
    assert len(curves) == 2
    assert all(len(scalars(folder)["loss"]) == 1 for folder in curves)


def test_without_the_flag_nothing_is_written(config: Path, tmp_path: Path) -> None:
    assert main(["run", str(config), *SMALL, "--set", "classifiers=[{kind: linear}]"]) == 0
    assert not list(tmp_path.rglob("events.out.tfevents.*"))


def test_a_missing_tensorboard_is_reported_before_anything_is_written(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import importlib.util

    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "tensorboard" else there(name, *rest),
    )
    assert main(["run", str(config), "--tensorboard", str(tmp_path / "curves")]) == 2
    err = capsys.readouterr().err
    assert "tensorboard" in err
    assert "pip install 'gpt3mix[tensorboard]'" in err
    assert not (tmp_path / "results").exists()
