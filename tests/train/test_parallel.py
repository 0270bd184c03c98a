"""One training spread over several processes: the same losses, one file of rows, and nobody left hanging."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli.cli import main

BIN = Path(sys.executable).parent
DEADLINE = 120

CONFIG = """\
name: spread
task: {{data: {{kind: demo}}, labels: [pos, neg]}}
subsample: {{levels: [12/class], seeds: 1, validation: 20}}
classifiers:
  - {{kind: transformer, name: tiny, model: {encoder}, lr: 3e-3, warmup_epochs: 1, max_epochs: 3, batch_size: 24, dtype: float32, device: cpu}}
trials: 2
"""


@pytest.fixture(scope="module")
def config(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment over the tiny BERT without dropout, which each process would draw for itself; its rows are drawn."""
    folder = tmp_path_factory.mktemp("spread")
    shutil.copytree(tiny_encoder, folder / "encoder")
    settings = json.loads((folder / "encoder/config.json").read_text())
    (folder / "encoder/config.json").write_text(
        json.dumps(settings | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    )
    (folder / "spread.yaml").write_text(CONFIG.format(encoder=folder / "encoder"))
    for out in ("one", "two"):
        assert (
            main(["subsample", str(folder / "spread.yaml"), "--out", str(folder / out), "-q"]) == 0
        )
    return folder / "spread.yaml"


@pytest.fixture(scope="module")
def alone(config: Path) -> Path:
    """The trials of one process."""
    assert (
        main(["train", str(config), "--out", str(config.parent / "one"), "--jobs", "1", "-q"]) == 0
    )
    return trials(config.parent / "one")


def trials(out: Path) -> Path:
    return out / "spread/12-per-class/seed-0/trials/none.tiny.jsonl"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def close(history: Path, other: Path) -> None:
    """Make sure that two histories have the same epochs, and losses that differ by rounding only."""
    ours, theirs = lines(history), lines(other)
    assert [(line["trial"], line["epoch"]) for line in ours] == [
        (line["trial"], line["epoch"]) for line in theirs
    ]
    assert [line["loss"] for line in ours] == pytest.approx(
        [line["loss"] for line in theirs], abs=1e-4
    )
    assert len({line["loss"] for line in ours}) > 3  # something was learnt


def launched(launcher: Sequence[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*launcher, str(BIN / "gpt3mix"), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=DEADLINE,
    )  # fmt: skip


def together(*arguments: object) -> list[subprocess.CompletedProcess[str]]:
    """Run a command in two processes as torchrun would, without the seconds that torchrun itself takes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begun = [
        subprocess.Popen(
            [str(BIN / "gpt3mix"), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        ended = [(process, *process.communicate(timeout=DEADLINE)) for process in begun]
        return [
            subprocess.CompletedProcess(process.args, process.returncode, out, err)
            for process, out, err in ended
        ]
    finally:
        for process in begun:
            process.kill()


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]


@pytest.mark.slow
def test_torchrun_gives_the_losses_of_one_process(
    config: Path, alone: Path, tmp_path: Path
) -> None:
    shutil.copytree(config.parent / "two", tmp_path / "two")
    done = launched(TORCHRUN, "train", config, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    found = lines(trials(tmp_path / "two"))
    assert [(row["trial"], row["status"]) for row in found] == [(0, "ok"), (1, "ok")]
    close(
        trials(tmp_path / "two").with_name("none.tiny.history.jsonl"),
        alone.with_name("none.tiny.history.jsonl"),
    )
    assert done.stderr.count("1 file, 2 rows") == 1  # one of the processes speaks
    assert {row["settings"] for row in found}.isdisjoint(
        row["settings"] for row in lines(alone)
    )  # last digits may differ


@pytest.fixture(scope="module")
def spread(config: Path) -> Path:
    """The trials of two processes, and a model."""
    out = config.parent / "two"
    for done in together("train", config, "--out", out, "--save-model", config.parent / "model"):
        assert done.returncode == 0, done.stderr
    return trials(out)


def test_two_processes_give_the_losses_of_one(alone: Path, spread: Path) -> None:
    close(spread.with_name("none.tiny.history.jsonl"), alone.with_name("none.tiny.history.jsonl"))
    assert [row["trial"] for row in lines(spread)] == [0, 1]
    assert {row["settings"] for row in lines(spread)}.isdisjoint(
        row["settings"] for row in lines(alone)
    )  # last digits may differ


def test_what_is_up_to_date_lets_all_processes_end(config: Path, spread: Path) -> None:
    before = spread.stat().st_mtime_ns
    first, second = together("train", config, "--out", config.parent / "two")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "1 up to date, skipped" in first.stderr
    assert (second.stdout, second.stderr) == ("", "")
    assert spread.stat().st_mtime_ns == before


def test_a_wrong_config_is_told_once_and_lets_all_processes_end(config: Path) -> None:
    first, second = together("train", config, "--set", "augment.kk=2")
    assert first.returncode == 2
    assert "augment.kk: unknown key" in first.stderr
    assert "Traceback" not in first.stderr + second.stderr
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")


def test_a_model_of_two_processes_reproduces_its_test_accuracy(
    config: Path, spread: Path, tmp_path: Path
) -> None:
    from gpt3mix_cli.config import load_experiments
    from gpt3mix_cli.grid import Grid
    from gpt3mix_cli.records import write_records
    from gpt3mix_cli.train.saved_models import predict

    grid = Grid(load_experiments(config), tmp_path)
    write_records(tmp_path / "test.jsonl", grid.resources.splits(grid.experiments[0]).test)
    counts = predict(
        config.parent / "model", tmp_path / "test.jsonl", tmp_path / "p.jsonl"
    ).manifest.counts
    best = json.loads((config.parent / "model/gpt3mix.json").read_text())["trial"]
    assert best == lines(spread)[best["trial"]] | {"seconds": best["seconds"]}
    assert round(counts["right"] / counts["rows"], 6) == pytest.approx(
        best["accuracy"], abs=0.003
    )  # one row may lie on the border


@pytest.mark.slow
def test_a_loss_that_is_no_number_fails_its_trials_in_all_processes_alike(
    config: Path, tmp_path: Path
) -> None:
    shutil.copytree(
        config.parent / "one/spread/12-per-class/seed-0", tmp_path / "spread/12-per-class/seed-0"
    )
    absurd = [
        "--set",
        "classifiers.0.lr=1e30",
        "--set",
        "classifiers.0.warmup_epochs=0",
        "--set",
        "classifiers.0.batch_size=4",
    ]
    first, second = together("train", config, "--out", tmp_path, "--force", *absurd)
    assert first.returncode == 3
    assert "2 of 2 trials failed" in first.stderr
    assert (second.returncode, second.stderr) == (0, "")


# The second process cannot take more than four rows at once; the first takes all.
SHORT_OF_MEMORY = """
import os, torch
from gpt3mix_cli.cli import entry
from gpt3mix_cli.train.encoder import Encoder

forward = Encoder._forward

def short(self, tokens, chosen, longest):
    if os.environ["RANK"] == "1" and len(chosen) > 4:
        raise torch.OutOfMemoryError("out of memory")
    return forward(self, tokens, chosen, longest)

Encoder._forward = short
entry()
"""


@pytest.mark.slow
def test_memory_that_runs_out_in_one_process_leaves_the_losses_as_they_were(
    config: Path, alone: Path, tmp_path: Path
) -> None:
    shutil.copytree(
        config.parent / "one/spread/12-per-class/seed-0/train.jsonl".rpartition("/")[0],
        tmp_path / "spread/12-per-class/seed-0",
    )
    (tmp_path / "short.py").write_text(SHORT_OF_MEMORY)
    done = subprocess.run(
        [*TORCHRUN, str(tmp_path / "short.py"), "train", str(config), "--out", str(tmp_path), "--force"],
        capture_output=True, text=True, check=False, timeout=DEADLINE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    close(
        trials(tmp_path).with_name("none.tiny.history.jsonl"),
        alone.with_name("none.tiny.history.jsonl"),
    )


@pytest.mark.slow
def test_accelerate_gives_the_losses_of_one_process(
    config: Path, alone: Path, tmp_path: Path
) -> None:
    """On a CPU accelerate starts several processes over MPI only; without it, one."""
    shutil.copytree(config.parent / "one", tmp_path / "two")
    launcher = [
        str(BIN / "accelerate"),
        "launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
    ]
    done = launched(launcher, "train", config, "--out", tmp_path / "two", "--force")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("1 file, 2 rows") == 1
    close(
        trials(tmp_path / "two").with_name("none.tiny.history.jsonl"),
        alone.with_name("none.tiny.history.jsonl"),
    )
