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


def seconds(command: list[str]) -> float:
    """Return the wall-clock time of a command."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    ours = [sys.executable, "-c", "from gpt3mix_cli.cli import entry; entry()", "--help"]
    minimal = [sys.executable, "-c", MINIMAL, "--help"]
    empty = [sys.executable, "-c", "pass"]
    for command in (ours, minimal):
        seconds(command)
    runs = [(seconds(ours), seconds(minimal), seconds(empty)) for _ in range(RUNS)]
    names = ("gpt3mix --help", "minimal Typer --help", "python -c pass")
    for name, column in zip(names, zip(*runs, strict=True), strict=True):
        print(f"{name:23} {statistics.median(column):.3f} s")
    print(f"{'ratio to minimal Typer':23} {statistics.median(a / b for a, b, _ in runs):.2f}")


if __name__ == "__main__":
    main()
