"""Draws the data-scarce training sets of section 4.1: class-balanced and seeded.

A level is a percentage of train, a number of rows per class, or `full`. For one data seed the draws
are nested: 0.3 % contains the rows of 0.1 %, so levels differ only in the rows that are added.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from .data import Splits, group_by_class
from .errors import NO_CALLBACKS, Callbacks, UserError, in_progress
from .existing_outputs import expect_output, protect_output, up_to_date_result
from .files import STDIO, exclusive_writer
from .records import (
    Example,
    StageOptions,
    StageResult,
    finish_output,
    to_json_line,
    write_records,
)
from .settings import LEVEL_PATTERN, generator

CACHE_VERSION = 1  # raised when the same settings would give other rows


@dataclass(frozen=True)
class DrawOptions:
    """Which rows to draw.

    Attributes:
        level: `p%`, `n/class` or `full`.
        master_seed: of the experiment.
        data_seed: selects one of the draws of a level.
    """

    level: str
    master_seed: int
    data_seed: int


def rows_per_class(level: str, num_rows: int, num_classes: int) -> int:
    """Return the rows per class: at a ratio r `max(1, round(N * r / C))`, as the reference code.

    Args:
        level: `p%` or `n/class`.
        num_rows: N, the rows of train as it was published: with those taken for validation.
        num_classes: C, the classes of the task.
    """
    match = LEVEL_PATTERN.fullmatch(level)
    assert match, level
    if match["count"]:
        return int(match["count"])
    return max(1, round(num_rows * Fraction(match["percent"]) / 100 / num_classes))


def draw_rows(
    train: Sequence[Example],
    classes: Sequence[str],
    draw: DrawOptions,
    callbacks: Callbacks = NO_CALLBACKS,
    taken_rows: int = 0,
) -> list[Example]:
    """Return the rows of a draw, the classes in turn; `full` is train in its own order.

    Args:
        train: all training rows.
        classes: the task's classes, in order.
        draw: level and seeds.
        callbacks: for a warning about each class with too few rows.
        taken_rows: published training rows that are validation rows; a percentage is of these too.
    """
    if draw.level == "full":
        return list(train)
    wanted = rows_per_class(draw.level, len(train) + taken_rows, len(classes))
    samples = []
    for label, rows in group_by_class(train, classes).items():
        if len(rows) < wanted:
            callbacks.warn(
                f"level {draw.level}: class '{label}' has only {len(rows)} of the {wanted} rows "
                "wanted; all of them are used"
            )
        # Shuffling the whole class before the cut is what nests the levels.
        random = generator(draw.master_seed, "subsample", draw.data_seed, label)
        samples.append(random.sample(rows, len(rows))[:wanted])
    return [rows[turn] for turn in range(wanted) for rows in samples if turn < len(rows)]


def subsample(
    splits: Splits,
    classes: Sequence[str],
    draw: DrawOptions,
    output: Path,
    options: StageOptions = StageOptions(),
) -> StageResult:
    """Write the training rows of a draw and their manifest, unless they are up to date.

    Args:
        splits: of the task.
        classes: the task's classes, in order.
        draw: level and seeds.
        output: the file of the rows.
        options: command, force and callbacks.

    Raises:
        UserError: if no rows are left to draw from.
    """
    settings = {"format": CACHE_VERSION, **vars(draw), "classes": list(classes)}
    if splits.taken_rows:
        settings["taken_rows"] = splits.taken_rows
    # Validation and test rows change no draw, but the manifest counts the copies among them.
    inputs = {
        "train": splits.sha["train"],
        "validation": splits.sha["validation"],
        "test": splits.sha["all_test"],
    }
    if result := up_to_date_result(output, settings, inputs, options):
        return result
    started = time.monotonic()
    rows = draw_rows(splits.train, classes, draw, options.callbacks, splits.taken_rows)
    if not rows:
        raise UserError(
            f"level {draw.level}: no rows are left to draw from",
            "check the data, or give the task a validation split of its own",
        )
    with exclusive_writer(output, options.waits, options.callbacks):
        # Another process may have drawn them in the meantime.
        if result := up_to_date_result(output, settings, inputs, options):
            return result
        with in_progress(options.callbacks, "looking for copies between the splits"):
            for warning in splits.describe_copies(draw.data_seed):
                options.callbacks.warn(warning)
        if not _holds(output, rows):  # other data, such as more test rows, may draw the same rows
            protect_output(output, options, settings, inputs)
        expect_output(output, "subsample", settings, inputs)
        write_records(output, rows)
        manifest = finish_output(
            output,
            started,
            stage="subsample",
            complete=True,
            settings=settings,
            inputs=inputs,
            seed=draw.data_seed,
            counts=_counts(rows, classes, splits),
            command=list(options.command),
        )
    return StageResult(output, manifest)


def _counts(rows: Sequence[Example], classes: Sequence[str], splits: Splits) -> dict[str, Any]:
    members = group_by_class(rows, classes)
    copies = {part.split: part.counts() for part in splits.copies if part.copies}
    return {
        "rows": len(rows),
        "classes": {label: len(group) for label, group in members.items()},
        "test_rows_in_train": splits.test_rows_in_train,
        **({"left_out": len(splits.bad_rows)} if splits.bad_rows else {}),
        **({"copies": {**copies, "left_out": splits.left_out is not None}} if copies else {}),
    }


def _holds(output: Path, rows: Sequence[Example]) -> bool:
    content = "".join(map(to_json_line, rows)).encode()
    return output != STDIO and output.is_file() and output.read_bytes() == content
