#!/usr/bin/env python3
"""Measure how long it takes to find the near-duplicates among 100,000 texts.

    python scripts/bench/near_duplicates.py [--rows 100000]

The texts are random words of the demo data, with its lengths; one in ten is an earlier text with
one other word. The plain way compares each text with every earlier one, on a part of the rows; the
time for all rows follows from it, as it grows with their square.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import gpt3mix_cli
from gpt3mix_cli.duplicates import copy_key
from gpt3mix_cli.near_duplicates import NearDuplicates, similarity

DEMO = Path(gpt3mix_cli.__file__).parent / "resources" / "demo.jsonl"
THRESHOLD = 0.7
PLAIN_ROWS = 1_000
CHANGED = 0.1  # fraction of the rows


def random_texts(count: int) -> list[str]:
    """Return texts of random words, some of which are an earlier one with one other word."""
    rng = random.Random(0)
    real = [json.loads(line)["text"].split() for line in DEMO.read_text("utf-8").splitlines()]
    words = [word for text in real for word in text]
    texts: list[str] = []
    for _ in range(count):
        if texts and rng.random() < CHANGED:
            changed = rng.choice(texts).split()
            changed[rng.randrange(len(changed))] = rng.choice(words)
            texts.append(" ".join(changed))
        else:
            texts.append(" ".join(rng.choices(words, k=len(rng.choice(real)))))
    return texts


def indexed(texts: Sequence[str]) -> set[int]:
    """Return the numbers of the texts with a near-duplicate before them."""
    index, found = NearDuplicates(THRESHOLD), set()
    for number, text in enumerate(texts):
        if index.find(text):
            found.add(number)
        else:
            index.add(text, str(number))
    return found


def plain(texts: Sequence[str]) -> set[int]:
    """Return the same by comparing all pairs."""
    kept: list[str] = []
    found = set()
    for number, text in enumerate(map(copy_key, texts)):
        if any(similarity(text, other) >= THRESHOLD for other in kept):
            found.add(number)
        else:
            kept.append(text)
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    texts = random_texts(rows := parser.parse_args().rows)
    part = texts[:PLAIN_ROWS]
    started = time.process_time()
    expected = plain(part)
    of_plain = time.process_time() - started
    missed = len(expected - indexed(part))
    started = time.process_time()
    found = indexed(texts)
    seconds = time.process_time() - started
    print("| | rows | CPU seconds | near-duplicates |\n| --- | --- | --- | --- |")
    print(f"| near_duplicates | {rows:,} | {seconds:.1f} | {len(found):,} |")
    print(f"| all pairs | {len(part):,} | {of_plain:.1f} | {len(expected):,} |")
    whole = of_plain * (rows / len(part)) ** 2
    print(f"| all pairs, extrapolated | {rows:,} | {whole:,.0f} | |")
    print(f"\nMissed of the {len(expected):,} of all pairs: {missed:,}.")


if __name__ == "__main__":
    main()
