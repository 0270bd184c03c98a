#!/usr/bin/env python3
"""Time `gpt3mix --help` and a minimal Typer program with several commands.

    python scripts/bench/startup.py

Whole processes, interleaved, medians of 15 runs. The ratio is the median of the runs' ratios.
"""

import statistics
import subprocess
import sys
import time

MINIMAL = """
import typer
app = typer.Typer(no_args_is_help=True)
for name in ("subsample", "augment", "baseline", "train", "report", "run", "check"):
    app.command(name)(lambda: None)
app()
"""
RUNS = 15


def timed(command: list[str]) -> float:
    """Return the wall-clock time of a command."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def medians() -> tuple[list[float], float]:
    """Return the median seconds of ours, a minimal Typer and an empty program; and the ratio."""
    ours = [sys.executable, "-c", "from gpt3mix_cli.cli import entry; entry()", "--help"]
    minimal = [sys.executable, "-c", MINIMAL, "--help"]
    empty = [sys.executable, "-c", "pass"]
    for command in (ours, minimal):
        timed(command)
    runs = [(timed(ours), timed(minimal), timed(empty)) for _ in range(RUNS)]
    columns = zip(*runs, strict=True)
    return list(map(statistics.median, columns)), statistics.median(a / b for a, b, _ in runs)


def main() -> None:
    """Print the table."""
    seconds, ratio = medians()
    names = ("gpt3mix --help", "minimal Typer --help", "python -c pass")
    for name, value in zip(names, seconds, strict=True):
        print(f"{name:23} {value:.3f} s")
    print(f"{'ratio to minimal Typer':23} {ratio:.2f}")


if __name__ == "__main__":
    main()
