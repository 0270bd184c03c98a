#!/usr/bin/env python3
"""How long `gpt3mix --help` takes, beside a bare Typer program with as many commands.

    python scripts/bench/startup.py

Whole processes, in turn, medians of 15; the ratio is the median of the pairs' ratios.
"""

import statistics
import subprocess
import sys
import time

BARE = """
import typer
app = typer.Typer(no_args_is_help=True)
for name in ("subsample", "augment", "baseline", "train", "report", "run", "check"):
    app.command(name)(lambda: None)
app()
"""
RUNS = 15


def seconds(command: list[str]) -> float:
    """Return how long a command takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    ours = [sys.executable, "-c", "from gpt3mix_cli.cli import entry; entry()", "--help"]
    bare = [sys.executable, "-c", BARE, "--help"]
    empty = [sys.executable, "-c", "pass"]
    for command in (ours, bare):
        seconds(command)
    pairs = [(seconds(ours), seconds(bare), seconds(empty)) for _ in range(RUNS)]
    for name, place in (("gpt3mix --help", 0), ("bare Typer --help", 1), ("python -c pass", 2)):
        print(f"{name:20} {statistics.median(pair[place] for pair in pairs):.3f} s")
    print(f"{'ratio to bare Typer':20} {statistics.median(a / b for a, b, _ in pairs):.2f}")


if __name__ == "__main__":
    main()
