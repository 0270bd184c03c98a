"""Draws the data-scarce training sets of section 4.1: class-balanced, seeded, by share, by count a class, or full.

For one data seed the draws are nested: 0.3 % holds the rows of 0.1 %, so levels differ by what is added only.
"""

import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from .data import Splits, group_by_class
from .errors import NO_CALLBACKS, Callbacks, UserError
from .records import Example, StageResult, find_up_to_date, finish_output, write_records
from .settings import LEVEL_PATTERN, generator

CACHE_VERSION = 1  # raised when the same settings would give other rows


def rows_per_class(level: str, n: int, classes: int) -> int:
    """Return how many rows a class gets: `max(1, round(N * r / C))` at a share r, as in the reference implementation.

    Args:
        level: `p%` or `n/class`.
        n: rows of train, after any validation split.
        classes: how many classes the task has.
    """
    match = LEVEL_PATTERN.fullmatch(level)
    assert match, level
    if match["count"]:
        return int(match["count"])
    return max(1, round(n * Fraction(match["percent"]) / 100 / classes))


def draw_rows(
    train: Sequence[Example],
    classes: Sequence[str],
    level: str,
    master_seed: int,
    seed: int,
    callbacks: Callbacks = NO_CALLBACKS,
) -> list[Example]:
    """Return the rows of a level and data seed, the classes taking turns; `full` is train in its own order.

    Args:
        train: all training rows.
        classes: the task's classes, in order.
        level: `p%`, `n/class` or `full`.
        master_seed: of the experiment.
        seed: the data seed.
        callbacks: take classes with too few rows.
    """
    if level == "full":
        return list(train)
    wanted = rows_per_class(level, len(train), len(classes))
    drawn = []
    for label, rows in group_by_class(train, classes).items():
        if len(rows) < wanted:
            callbacks.warn(
                f"level {level}: class '{label}' has only {len(rows)} of the {wanted} rows wanted; all of them are used"
            )
        # The whole class is shuffled before the cut: that is what nests the levels.
        drawn.append(
            generator(master_seed, "subsample", seed, label).sample(rows, len(rows))[:wanted]
        )
    return [rows[turn] for turn in range(wanted) for rows in drawn if turn < len(rows)]


def subsample(
    splits: Splits,
    classes: Sequence[str],
    output: Path,
    *,
    level: str,
    master_seed: int,
    seed: int,
    command: Sequence[str] = (),
    force: bool = False,
    callbacks: Callbacks = NO_CALLBACKS,
) -> StageResult:
    """Write the training rows of a level and data seed with their manifest, unless they are there already."""
    settings = {
        "format": CACHE_VERSION,
        "level": level,
        "master_seed": master_seed,
        "data_seed": seed,
        "classes": list(classes),
    }
    # The test rows change no draw, but the manifest counts those that stand in train.
    inputs = {"train": splits.sha["train"], "test": splits.sha["test"]}
    if not force and (manifest := find_up_to_date(output, settings, inputs)):
        return StageResult(output, manifest, skipped=True)
    started = time.monotonic()
    rows = draw_rows(splits.train, classes, level, master_seed, seed, callbacks)
    if not rows:
        raise UserError(
            f"level {level}: no rows are left to draw from",
            "check the data, or give the task a validation split of its own",
        )
    write_records(output, rows)
    manifest = finish_output(
        output,
        started,
        stage="subsample",
        complete=True,
        settings=settings,
        inputs=inputs,
        seed=seed,
        counts={
            "rows": len(rows),
            "classes": {
                label: len(found) for label, found in group_by_class(rows, classes).items()
            },
            "test_rows_in_train": splits.shared,
        },
        command=list(command),
    )
    return StageResult(output, manifest)
