#!/usr/bin/env python3
"""How long a report over 100,000 trials takes, compared with pandas on the same files.

    python scripts/bench/report.py

The trials are invented: six tasks, three levels, four methods, two classifiers, and as many
variants as it takes, ten trials on five data seeds for each, which is the paper's design;
`--trials 100` gives fewer and larger results. Two things are timed in turn, each in a process of
its own with its libraries loaded:

    pandas   read_json(lines=True) of each file, concat, groupby with mean and std of all scores
    gpt3mix  trials are read, validated and averaged; then intervals, tests and gains are computed,
             tables and charts are built, and all files are written

The table has the best seconds of all runs, and their ratio to the best of pandas. Processor
seconds are given too, because a busy machine changes them less.
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
FILES = 8
KEYS = ["task", "level", "method", "classifier", "variant"]
SCORES = ["accuracy", "macro_f1", "mcc", "ece", "n_train", "n_synthetic", "tokens", "seconds"]


def write_trials(folder: Path, rows: int, trials: int) -> int:
    """Write at least so many trials, in whole results; return how many."""
    rng = random.Random(0)
    results = len(TASKS) * len(LEVELS) * len(METHODS) * len(CLASSIFIERS)
    variants = -(-rows // (results * trials))
    lines: list[list[str]] = [[] for _ in range(FILES)]
    keys = itertools.product(range(variants), TASKS, LEVELS, METHODS, CLASSIFIERS)
    for number, (variant, task, level, method, classifier) in enumerate(keys):
        for trial in range(trials):
            right = rng.randrange(900, 1700)
            wrong = 909 - right // 2
            row = {
                "task": task, "level": level, "method": method, "classifier": classifier,
                "variant": {"augment.k": variant + 1} if variants > 1 else {},
                "data_seed": trial % SEEDS, "trial": trial, "draw": 0,
                "seed": rng.getrandbits(63), "status": "ok", "error": None, "n_train": 70,
                "n_synthetic": 0 if method == "none" else 70, "n_test": 1821,
                "accuracy": round(right / 1821, 6), "macro_f1": round(right / 1900, 6),
                "mcc": 0.21, "majority": 0.500824, "ece": 0.05, "valid_accuracy": 0.6,
                "best_epoch": 7, "epochs": 27, "seconds": 12.5, "predicted_classes": 2,
                "confusion": [[right // 2, wrong], [wrong, right // 2]],
                "train_sha": f"{trial % SEEDS:016x}", "test_sha": "4015ff20e43faeb2",
                "tokens": 21000 if method == "gpt3mix" else None, "usd": None,
                "settings": f"{method:0<16.16}", "version": "0.1.0",
            }  # fmt: skip
            lines[number % FILES].append(json.dumps(row) + "\n")
    for number, part in enumerate(lines):
        (folder / f"{number}.jsonl").write_text("".join(part), encoding="utf-8")
    return sum(map(len, lines))


def timed(times: dict[str, float], name: str, act: Callable[[], object]) -> object:
    """Return what a function returns; add its seconds, and its processor seconds in brackets."""
    started, busy = time.perf_counter(), time.process_time()
    result = act()
    times[name] = time.perf_counter() - started
    times[f"{name} (processor)"] = time.process_time() - busy
    return result


def measure_pandas(folder: Path) -> dict[str, float]:
    """Return the seconds that pandas takes to read and to group the trials."""
    import pandas as pd

    times: dict[str, float] = {}

    def read_and_group() -> object:
        frames = [pd.read_json(path, lines=True) for path in sorted(folder.glob("*.jsonl"))]
        trials = pd.concat(frames, ignore_index=True)
        trials["variant"] = trials["variant"].astype(str)
        return trials.groupby(KEYS)[SCORES].agg(["mean", "std"])

    timed(times, "pandas", read_and_group)
    return times


def measure_report(folder: Path, output: Path) -> dict[str, float]:
    """Return the seconds that a report takes until it has averages, tests, and files."""
    import matplotlib.figure  # noqa: F401 - loaded here, so that it is not timed
    import pandas  # noqa: F401
    import scipy.special  # noqa: F401

    from gpt3mix_cli.errors import NO_CALLBACKS
    from gpt3mix_cli.report import ReportInput, report
    from gpt3mix_cli.report.averages import average_trials
    from gpt3mix_cli.report.build import analyze
    from gpt3mix_cli.report.comparisons import compare_results
    from gpt3mix_cli.report.load_trials import load_trials

    times: dict[str, float] = {}
    inputs = ReportInput("bench", [folder], [], folder)
    timed(times, "averages", lambda: average_trials(load_trials(inputs, NO_CALLBACKS)[0], ()))
    timed(
        times,
        "tests",
        lambda: compare_results(analyze(load_trials(inputs, NO_CALLBACKS)[0], ())[1]),
    )
    timed(times, "files", lambda: report(inputs, output))
    times["MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return times


def best_of(rows: int, trials: int, runs: int) -> tuple[int, dict[str, float]]:
    """Return the number of trials, and the best values of so many runs."""
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "trials"
        folder.mkdir()
        count = write_trials(folder, rows, trials)
        for _ in range(runs):
            for what in ("pandas", "report"):
                command = [sys.executable, __file__, "--measure", what, "--folder", name]
                run = subprocess.run(command, check=True, capture_output=True, text=True)
                for key, value in json.loads(run.stdout).items():
                    best[key] = min(value, best.get(key, value))
    return count, best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--trials", type=int, default=10, help="of each result")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--measure", choices=("pandas", "report"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        trials = given.folder / "trials"
        measured = (
            measure_pandas(trials)
            if given.measure == "pandas"
            else measure_report(trials, given.folder / "report")
        )
        print(json.dumps(measured))
        return
    count, best = best_of(given.rows, given.trials, given.runs)
    titles = {
        "pandas": "pandas: read and grouped",
        "averages": "gpt3mix: read and averaged",
        "tests": "gpt3mix: and compared (intervals, tests, gains)",
        "files": "gpt3mix: and all files written (page, plots, ...)",
    }
    print(f"{count:,} trials in {FILES} files; the best of {given.runs} runs")
    print(f"{'':50} {'seconds':>8} {'ratio':>6} {'processor':>10} {'ratio':>6}")
    for key, title in titles.items():
        cells = [f"{title:50}"]
        for suffix, width in (("", 8), (" (processor)", 10)):
            value, reference = best[key + suffix], best["pandas" + suffix]
            cells.append(f"{value:{width}.2f} {value / reference:6.2f}")
        print(" ".join(cells))
    print(f"gpt3mix: {best['MiB']:,.0f} MiB of memory")


if __name__ == "__main__":
    main()
