#!/usr/bin/env python3
"""How long a report over 100,000 trial rows takes, and how much memory.

    python scripts/bench/report.py

The rows are made up: six tasks, three levels, four methods, two classifiers, and as many variants as it takes, ten trials on
five data seeds in each cell, which is the paper's design; `--trials 100` makes fewer and larger cells. Reading and analysing,
and writing every form, page and plots included, are timed in a process of its own that has nothing but the interpreter loaded; its processor
seconds stand beside, which a busy machine changes less.
"""

import argparse
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TASKS, LEVELS = ("sst2", "cola", "trec6", "cr", "subj", "mpqa"), ("0.1%", "0.3%", "1%")
METHODS, CLASSIFIERS = ("none", "gpt3mix", "eda", "backtranslate"), ("distilbert", "bert")
SEEDS = 5


def write(path: Path, rows: int, trials: int) -> int:
    """Write so many rows at least, whole cells; return how many."""
    chance = random.Random(0)
    cells = len(TASKS) * len(LEVELS) * len(METHODS) * len(CLASSIFIERS)
    variants = -(-rows // (cells * trials))
    count = 0
    with path.open("w", encoding="utf-8") as stream:
        for variant, task, level, method, classifier in itertools.product(
            range(variants), TASKS, LEVELS, METHODS, CLASSIFIERS
        ):
            for trial in range(trials):
                right = chance.randrange(900, 1700)
                confusion = [[right // 2, 909 - right // 2], [909 - right // 2, right // 2]]
                swept = {"augment.k": variant + 1} if variants > 1 else {}
                row = {
                    "task": task, "level": level, "method": method, "classifier": classifier, "variant": swept, "data_seed": trial % SEEDS,
                    "trial": trial, "draw": 0, "seed": chance.getrandbits(63), "status": "ok", "error": None, "n_train": 70,
                    "n_synthetic": 0 if method == "none" else 70, "n_test": 1821, "accuracy": round(right / 1821, 6),
                    "macro_f1": round(right / 1900, 6), "mcc": 0.21, "majority": 0.500824, "ece": 0.05, "valid_accuracy": 0.6,
                    "best_epoch": 7, "epochs": 27, "seconds": 12.5, "predicted_classes": 2, "confusion": confusion,
                    "train_sha": f"{trial % SEEDS:016x}", "test_sha": "4015ff20e43faeb2", "tokens": 21000 if method == "gpt3mix" else None,
                    "usd": None, "settings": f"{method:0<16.16}", "version": "0.1.0",
                }  # fmt: skip
                stream.write(json.dumps(row) + "\n")
                count += 1
    return count


def measured(folder: Path, output: Path) -> dict[str, float]:
    """Report on a folder and return seconds and memory, imports included."""
    started, busy = time.perf_counter(), time.process_time()
    from gpt3mix_cli import report
    from gpt3mix_cli.report.render import page, plots

    made = report.analyze([folder], title="bench")
    analyze, used = time.perf_counter(), time.process_time()
    report.written(made, output)
    ended, written = time.perf_counter(), time.process_time()
    parts = {
        "of it the page": _seconds(lambda: page.html_text(made)),
        "of it the plots": _seconds(lambda: [*plots.plot_files(made.charts, made.looks)]),
    }
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(path.stat().st_size for path in made.files) / 2**20
    processor = {"analysed, processor": used - busy, "written, processor": written - used}
    return {
        "analysed": analyze - started,
        "written": ended - analyze,
        **parts,
        **processor,
        "MiB": memory,
        "cells": len(made.cells),
        "files MiB": size,
    }


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--trials", type=int, default=10)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.measure:
        print(json.dumps(measured(given.measure / "rows", given.measure / "out")))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "rows"
        folder.mkdir()
        count = write(folder / "trials.jsonl", given.rows, given.trials)
        command = [sys.executable, __file__, "--measure", name]
        runs = [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(given.runs)
        ]
    print(f"{count} rows, {runs[0]['cells']} cells; {given.runs} runs, the best and the worst")
    for key in [key for key in runs[0] if key != "cells"]:
        values = sorted(run[key] for run in runs)
        print(f"{key:20} {values[0]:8.2f} {values[-1]:8.2f}{'' if 'MiB' in key else ' s'}")


if __name__ == "__main__":
    main()
