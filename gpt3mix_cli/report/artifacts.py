"""What stands beside the trials, where it was kept: synthetic rows, rejected ones, real rows, epochs and settings.

Published results are trials alone; then there is nothing here, and neither plots nor page miss it. Rows are counted as they pass
and only so many of a cell are held.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Callbacks, UserError
from ..records import (
    Augmented,
    Example,
    Manifest,
    Reject,
    entropy,
    read_manifest,
    read_objects,
    read_records,
)
from .model import TrialRow

ROWS = 200  # synthetic rows of a cell that the page shows unless told otherwise, and as many rejected ones
BINS = 20  # of the entropy of soft labels
CURVES = 9  # cells whose epochs are read: a plot has no room for more
MANIFESTS = 60  # sets of settings that the page shows in full
REAL = "real"


@dataclass(frozen=True)
class Source:
    """A file of synthetic rows."""

    task: str
    variant: str
    level: str
    method: str
    data_seed: int
    draw: int
    path: Path


@dataclass
class Distribution:
    """How texts and labels are spread: counts of rows, all levels and data seeds of a task, variant and method together.

    Attributes:
        words: number of words -> rows.
        labels: class -> rows.
        entropy: twentieth of the greatest entropy that the classes allow -> rows; of soft labels only.
    """

    words: Counter[int] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    entropy: Counter[int] = field(default_factory=Counter)


@dataclass
class Artifacts:
    """All of it.

    Attributes:
        kept: synthetic rows with their sources, as many of a cell as are wanted.
        rejected: likewise.
        real: file of synthetic rows -> real rows by their id.
        found: how many synthetic and rejected rows there are in all.
        shapes: (task, variant) -> method, or `real` -> how its rows are spread.
        curves: (task, variant, level, classifier) -> method -> epoch -> validation accuracies of the trials.
        epochs_left_out: cells whose epochs were not read.
        manifests: of trials files, one for each set of settings.
    """

    kept: list[tuple[Source, Augmented]] = field(default_factory=list)
    rejected: list[tuple[Source, Reject]] = field(default_factory=list)
    real: dict[Path, Mapping[str, Example]] = field(default_factory=dict)
    found: int = 0
    shapes: dict[tuple[str, str], dict[str, Distribution]] = field(default_factory=dict)
    curves: dict[tuple[str, str, str, str], dict[str, dict[int, list[float]]]] = field(
        default_factory=dict
    )
    epochs_left_out: int = 0
    manifests: list[tuple[TrialRow, Manifest]] = field(default_factory=list)


def parse_row_limit(text: str | None) -> int | None:
    """Return how many synthetic rows of a cell are shown: a number, `all` (None), or 200 where nothing is asked for.

    Raises:
        UserError: if it is neither.
    """
    if text is None or text == "all":
        return ROWS if text is None else None
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"--synthetic: '{text}' is neither a number nor all", "give 0, 1000 or all")
    return int(text)


def load_artifacts(
    trials: Sequence[TrialRow], limit: int | None, callbacks: Callbacks
) -> Artifacts:
    """Read what stands beside trials.

    Args:
        trials: all rows of the report.
        limit: how many synthetic rows of a cell are held, and how many rejected ones; None for all.
        callbacks: take files that cannot be read; they are passed over.
    """
    made = Artifacts()
    files = list(
        {
            (row.path, row.method, row.classifier, row.level, row.variant): row for row in trials
        }.values()
    )
    whole = [row for row in files if row.path.parent.name == "trials"]
    _read_rows(made, whole, limit, callbacks)
    _read_epochs(made, whole, callbacks)
    seen: set[tuple[str | None, ...]] = set()
    for row in files:
        key = (row.settings, row.version, row.method, row.classifier)
        if (
            key not in seen
            and len(made.manifests) < MANIFESTS
            and (manifest := read_manifest(row.path))
        ):
            made.manifests.append((row, manifest))
        seen.add(key)
    return made


# Synthetic, rejected and real rows -----------------------------------------------------------------------------------


def _read_rows(
    made: Artifacts, files: Sequence[TrialRow], limit: int | None, callbacks: Callbacks
) -> None:
    for cell in _cells(files):
        share = None if limit is None else -(-limit // len(cell))
        room = [limit, limit]
        for source in cell:
            try:
                shapes = made.shapes.setdefault((source.task, source.variant), {})
                if source.path.parent not in made.real:
                    made.real[source.path.parent] = _real_rows(
                        source, shapes.setdefault(REAL, Distribution())
                    )
                rows = _counted(
                    read_records(source.path, Augmented),
                    shapes.setdefault(source.method, Distribution()),
                )
                _hold(made, made.kept, source, rows, share, room, 0)
                rejects = source.path.with_name(f"{source.path.stem}.rejects.jsonl")
                if rejects.is_file():
                    _hold(
                        made, made.rejected, source, read_records(rejects, Reject), share, room, 1
                    )
            except UserError as error:
                callbacks.warn(f"{error.message}; its rows are not shown")


def _hold(
    made: Artifacts,
    held: list[Any],
    source: Source,
    rows: Iterable[Any],
    share: int | None,
    room: list[int | None],
    place: int,
) -> None:
    """Hold so many rows of a file as are its share of the cell; count them all."""
    left = room[place]
    most = None if share is None or left is None else min(share, left)
    rows = iter(rows)
    before = len(held)
    held += ((source, row) for row in itertools.islice(rows, most))
    taken = len(held) - before
    made.found += taken + sum(1 for _ in rows)
    if left is not None:
        room[place] = left - taken


def _cells(files: Sequence[TrialRow]) -> Iterator[list[Source]]:
    """Yield the files of synthetic rows of each cell; classifiers share them."""
    cells: dict[tuple[str, str, str, str], dict[Path, Source]] = {}
    for row in files:
        if row.method == "none":
            continue
        folder = row.path.parent.parent
        for path in sorted(folder.glob("*.jsonl")):
            name, dot, draw = path.stem.partition(".draw-")
            if name == row.method and (draw.isdigit() or not dot):
                found = Source(
                    row.task,
                    row.variant,
                    row.level,
                    row.method,
                    row.data_seed,
                    int(draw or 0),
                    path,
                )
                cells.setdefault((row.task, row.variant, row.level, row.method), {}).setdefault(
                    path, found
                )
    for sources in cells.values():
        yield list(sources.values())


def _real_rows(source: Source, shape: Distribution) -> dict[str, Example]:
    path = source.path.with_name("train.jsonl")
    rows = {row.id: row for row in read_records(path, Example)} if path.is_file() else {}
    shape.words.update(len(row.text.split()) for row in rows.values())
    shape.labels.update(row.label for row in rows.values())
    return rows


def _counted(rows: Iterable[Augmented], shape: Distribution) -> Iterator[Augmented]:
    for row in rows:
        shape.words[len(row.text.split())] += 1
        shape.labels[row.label] += 1
        if row.label_source not in ("parent", "hard") and len(row.probs) > 1:
            shape.entropy[
                min(BINS - 1, int(BINS * entropy(row.probs.values()) / math.log2(len(row.probs))))
            ] += 1
        yield row


# Epochs --------------------------------------------------------------------------------------------------------------


def _read_epochs(made: Artifacts, files: Sequence[TrialRow], callbacks: Callbacks) -> None:
    left_out: set[tuple[str, str, str, str]] = set()
    for row in files:
        path = row.path.with_name(f"{row.path.stem}.history.jsonl")
        key = (row.task, row.variant, row.level, row.classifier)
        if not path.is_file() or path.stat().st_size == 0:
            continue
        if key not in made.curves and len(made.curves) == CURVES:
            left_out.add(key)
            continue
        epochs = made.curves.setdefault(key, {}).setdefault(row.method, defaultdict(list))
        try:
            for _, line in read_objects(path):
                number, value = line.get("epoch"), line.get("valid_accuracy")
                if isinstance(number, int) and isinstance(value, int | float):
                    epochs[number].append(float(value))
        except UserError as error:
            callbacks.warn(f"{error.message}; its epochs end there")
    made.epochs_left_out = len(left_out)
