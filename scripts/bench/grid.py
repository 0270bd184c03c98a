#!/usr/bin/env python3
"""Measure what starts cost, and what the grid itself costs for each cell.

    python scripts/bench/grid.py [--cells 10000] [--workers] [--ray]

Prints four tables:

1. CPU time of commands that have nothing to do, whole processes, the median of 5 runs: those of the
   packaged demo, reduced to one data seed and classifiers that take seconds.
2. The time in which done cells are recognised, and what a cell costs when it is made. The cells
   have four real rows each; the classifier's fit is replaced by constant predictions, so that only
   the grid is measured. All else is the real code: draws, manifests, locks and trials files.
3. With --workers, the time of the demo on 2 workers and on 1, which takes many minutes.
4. With --ray, what Ray adds to a trial in worker processes (grid_ray.py; needs the extra `ray`).

CPU times are those of the processes and their children; on a busy machine they are higher.
"""

import argparse
import os
import resource
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpt3mix_cli.config import experiments_of
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.train.linear import LinearClassifier
from gpt3mix_cli.train.protocol import FitResult

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs" / "demo.yaml"
RUNS = 5
SMALL = [
    "subsample.seeds=1",
    "trials=1",
    "augment.ratio=1",
    "baselines=[{kind: eda}]",
    "classifiers=[{kind: linear}, {kind: transformer, name: minilm, model: minilm, max_epochs: 1}]",
]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument(
        "--workers", action="store_true", help="time the demo on 2 workers and on 1"
    )
    parser.add_argument("--ray", action="store_true", help="measure what Ray adds to a trial")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print_starts(folder / "small")
        print_cells(folder / "cells", arguments.cells)
        if arguments.workers:
            print_workers(folder / "workers")
    if arguments.ray:
        print(
            f"\n{runpy.run_path(str(Path(__file__).with_name('grid_ray.py')))['measure_ray'](40)}"
        )


def print_row(name: str, value: float, unit: str) -> None:
    """Print a row of a table."""
    print(f"{name:36} {value:10.3f} {unit}", flush=True)


# Starts ------------------------------------------------------------------------------------------


def print_starts(out: Path) -> None:
    """Print the CPU time of commands that have nothing to do."""
    print("up-to-date command                     CPU time")
    for name, seconds in starts(out).items():
        print_row(name, seconds, "s")


def starts(out: Path) -> dict[str, float]:
    """Return the CPU time of commands that have nothing to do."""
    config = [str(DEMO), "--out", str(out), *(f"--set={item}" for item in SMALL)]
    commands = {
        "--help": ["--help"],
        "subsample": ["subsample", *config],
        "augment": ["augment", *config],
        "baseline --method eda": ["baseline", *config, "--method", "eda"],
        "train": ["train", *config],
        "run": ["run", *config],
    }
    gpt3mix(["run", *config])
    return {
        name: statistics.median(cpu_seconds(command) for _ in range(RUNS))
        for name, command in commands.items()
    }


def gpt3mix(arguments: list[str]) -> None:
    """Run a command in a process of its own."""
    code = "from gpt3mix_cli.cli import entry; entry()"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    # As after an installation: the package is not compiled anew in each process.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir()) / "gpt3mix-bench-pycache")
    subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, env=environment
    )


def cpu_seconds(arguments: list[str]) -> float:
    """Return the CPU time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    gpt3mix(arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# Cells -------------------------------------------------------------------------------------------


class ConstantClassifier:
    """Takes the place of the linear classifier's fit and predictions."""

    @staticmethod
    def fit(*_: Any) -> FitResult:
        """Do nothing."""
        return FitResult(None)

    @staticmethod
    def predict_proba(_: Any, texts: list[str]) -> Any:
        """Return the same probabilities for every text."""
        return np.tile([0.75, 0.25], (len(texts), 1))


def print_cells(folder: Path, count: int) -> None:
    """Print how long cells take to be made, and to be recognised when they are done."""
    made, recognised = cells(folder, count)
    print(f"\n{count:,} cells of a draw and a trials file")
    print_row("making a cell", 1000 * made, "ms")
    print_row("recognising a cell that is done", 1000 * recognised, "ms")
    print_row("recognising all of them", count * recognised, "s")


def cells(folder: Path, count: int) -> tuple[float, float]:
    """Return the CPU seconds of a cell that is made, and of one that is recognised as done."""
    import sklearn.metrics  # noqa: F401 - its import is not what a cell costs

    config = write_config(folder, count)
    fit, predict = LinearClassifier.fit, LinearClassifier.predict_proba
    LinearClassifier.fit = ConstantClassifier.fit  # type: ignore[method-assign]
    LinearClassifier.predict_proba = ConstantClassifier.predict_proba  # type: ignore[method-assign]
    try:
        made, steps = timed(lambda: run(config, folder))
    finally:
        LinearClassifier.fit, LinearClassifier.predict_proba = fit, predict  # type: ignore[method-assign]
    recognised, skipped = timed(lambda: run(config, folder))
    assert len(steps) == len(skipped) == 2 * count, "each cell has a draw and a trials file"
    assert all(result.skipped for result in skipped)
    return made / count, recognised / count


def write_config(folder: Path, count: int) -> dict[str, Any]:
    """Write the rows of a tiny task; return the keys of an experiment of so many cells."""
    folder.mkdir()
    for split in ("train", "validation", "test"):
        rows = [f"{split} text {number},{'pos' if number % 2 else 'neg'}" for number in range(40)]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *rows, ""]))
    files = {split: str(folder / f"{split}.csv") for split in ("train", "validation", "test")}
    return {
        "name": "cells",
        "task": {
            "data": {"kind": "files", **files, "text": "text", "label": "label"},
            "labels": ["pos", "neg"],
            "text_type": "text",
            "label_type": "label",
        },
        "subsample": {"levels": ["2/class"], "seeds": count},
        "classifiers": [{"kind": "linear"}],
        "trials": count,
    }


def run(config: dict[str, Any], folder: Path) -> list[Any]:
    """Run all cells in this process."""
    grid = Grid(experiments_of(dict(config), folder / "config.yaml"), folder / "out", jobs=1)
    return list(grid.run())


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU time of a call, and its result."""
    start = time.process_time()
    result = act()
    return time.process_time() - start, result


# Workers -----------------------------------------------------------------------------------------


def print_workers(out: Path) -> None:
    """Print the time of the demo on 1 and 2 workers."""
    seconds = {}
    print("\nthe demo                                 time")
    for jobs in (1, 2):
        start = time.perf_counter()
        gpt3mix(["run", str(DEMO), "--out", str(out / str(jobs)), "--jobs", str(jobs)])
        seconds[jobs] = time.perf_counter() - start
        print_row(f"on {jobs} worker{'s' * (jobs > 1)}", seconds[jobs], "s")
    print_row("2 workers to 1", seconds[2] / seconds[1], "")


if __name__ == "__main__":
    main()
