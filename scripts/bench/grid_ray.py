#!/usr/bin/env python3
"""Measures what Ray adds to the same trials in worker processes of this machine.

    python scripts/bench/grid_ray.py --trials 40

The trials are those of a linear classifier on the packaged data, which take about 10 ms each: what
is measured is the executors' own cost. Workers are started, and have loaded the classifier, before
the clock starts; the start itself is the second number. Needs the extra `ray`.
"""

import argparse
import time
from typing import Any

JOBS = 2


def linear_runner() -> Any:
    """Return the runner of trials on the packaged data."""
    from gpt3mix_cli.data import load_splits
    from gpt3mix_cli.layout import Cell, TrialKey
    from gpt3mix_cli.settings import LinearSettings, Task
    from gpt3mix_cli.train import TrialData, TrialRunner, cached_classifier

    task = Task.model_validate({"name": "demo", "data": {"kind": "demo"}, "labels": ["pos", "neg"]})
    splits = load_splits(task, 42)
    return TrialRunner(
        cached_classifier(LinearSettings(kind="linear"), tuple(task.classes)),
        TrialKey(Cell("demo", {}, "full", 0), "none", "linear"),
        task.classes,
        TrialData(splits.train, splits.validation, splits.test),
        42,
    )


def time_trials(executor: Any, runner: Any, trials: int) -> tuple[float, float, list[Any]]:
    """Return seconds until all workers have run a trial, seconds a trial after that, and rows.

    Args:
        executor: is opened here.
        runner: of the trials.
        trials: number of trials.
    """
    from gpt3mix_cli.errors import NO_CALLBACKS
    from gpt3mix_cli.train import TrialJob

    started = time.perf_counter()
    with executor:
        list(executor.map(runner.run, [TrialJob(n) for n in range(2 * JOBS)], NO_CALLBACKS))
        ready = time.perf_counter()
        jobs = [TrialJob(number) for number in range(trials)]
        results = dict(executor.map(runner.run, jobs, NO_CALLBACKS))
        ended = time.perf_counter()
    rows = [results[job].row.model_copy(update={"seconds": 0.0}) for job in jobs]
    return ready - started, (ended - ready) / trials, rows


def measure_ray(trials: int) -> str:
    """Return a line: the cost of a trial under Ray and in worker processes."""
    from gpt3mix_cli.grid.executors.opener import ExecutorOptions, TrialDemand
    from gpt3mix_cli.grid.executors.processes import ProcessExecutor
    from gpt3mix_cli.grid.executors.ray import RayExecutor

    runner = linear_runner()
    demand = TrialDemand([], trials, 1.0, lambda settings: runner.classifier)
    start, each, rows = time_trials(ProcessExecutor(JOBS), runner, trials)
    ray_start, ray_each, ray_rows = time_trials(
        RayExecutor(ExecutorOptions("ray", "local", JOBS), demand), runner, trials
    )
    same = "the same rows" if rows == ray_rows else "OTHER ROWS"
    milliseconds = f"{1000 * ray_each:.1f} and {1000 * each:.1f} ms"
    return (
        f"ray: {1000 * (ray_each - each):+.1f} ms a trial over processes ({milliseconds}, "
        f"{JOBS} workers, {trials} trials, {same}); "
        f"start {ray_start:.1f} s, processes {start:.1f} s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40)
    print(measure_ray(parser.parse_args().trials))
