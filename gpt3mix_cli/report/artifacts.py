"""What the stages left next to the trials: synthetic rows, rejects, real rows, epochs, settings.

Published results may be trials only; then plots and page do without. Rows are counted as they are
read, and only a limited number of each result is kept.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..errors import Callbacks, UserError
from ..files import read_objects
from ..layout import cell_folder, history_path, rejects_path, subsample_beside, synthetic_paths
from ..records import (
    Augmented,
    Example,
    Manifest,
    Reject,
    entropy,
    read_manifest,
    read_records,
)

if TYPE_CHECKING:
    from pandas import DataFrame

    Row = TypeVar("Row", Augmented, Reject)
    Labelled = TypeVar("Labelled", bound=Example)

DEFAULT_LIMIT = 200  # synthetic rows of a result on the page, and as many rejects
ENTROPY_BINS = 20
MAX_CURVES = 9  # (task, variant, level, classifier) whose epochs are read: a plot shows no more
MAX_MANIFESTS = 60  # whose settings the page shows in full
REAL = "real"  # the series of real rows in plots


class SyntheticFile(NamedTuple):
    """A file of synthetic rows."""

    task: str
    variant: str
    level: str
    method: str
    data_seed: int
    draw: int
    path: Path


@dataclass(frozen=True)
class Distribution:
    """Counts of rows, over all levels and data seeds of a task, variant and method.

    Attributes:
        words: number of words -> rows.
        labels: class -> rows.
        entropy: bin of the entropy of the soft label -> rows; the last bin ends at the highest
            entropy that the number of classes allows. Rows without a soft label are not counted.
    """

    words: Counter[int] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    entropy: Counter[int] = field(default_factory=Counter)

    def count(self, rows: "Iterable[Labelled]") -> "Iterator[Labelled]":
        """Yield the rows and count them."""
        for row in rows:
            self.words[len(row.text.split())] += 1
            self.labels[row.label] += 1
            if (
                isinstance(row, Augmented)
                and row.label_source not in ("parent", "hard")
                and len(row.probs) > 1
            ):
                fraction = entropy(row.probs.values()) / math.log2(len(row.probs))
                self.entropy[min(ENTROPY_BINS - 1, int(ENTROPY_BINS * fraction))] += 1
            yield row


@dataclass
class Artifacts:
    """The artifacts of a report.

    Attributes:
        kept: synthetic rows with their files, up to the limit of each result.
        rejected: likewise.
        real: folder of a cell -> its real rows by id.
        total: how many synthetic rows and rejects there are.
        distributions: (task, variant) -> method, or `real` -> how its rows are distributed.
        curves: (task, variant, level, classifier) -> method -> epoch -> validation accuracies.
        curves_left_out: how many more (task, variant, level, classifier) have epochs.
        manifests: title and manifest of trials files, one for each set of settings.
    """

    kept: list[tuple[SyntheticFile, Augmented]] = field(default_factory=list)
    rejected: list[tuple[SyntheticFile, Reject]] = field(default_factory=list)
    real: dict[Path, Mapping[str, Example]] = field(default_factory=dict)
    total: int = 0
    distributions: dict[tuple[str, str], dict[str, Distribution]] = field(default_factory=dict)
    curves: dict[tuple[str, str, str, str], dict[str, dict[int, list[float]]]] = field(
        default_factory=dict
    )
    curves_left_out: int = 0
    manifests: list[tuple[str, Manifest]] = field(default_factory=list)


def parse_row_limit(text: str | None) -> int | None:
    """Return the value of `--synthetic`: a number, None for `all`, and 200 without the flag.

    Raises:
        UserError: if it is neither.
    """
    if text is None or text == "all":
        return DEFAULT_LIMIT if text is None else None
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"--synthetic: '{text}' is neither a number nor all", "give 0, 1000 or all")
    return int(text)


def load_artifacts(trials: "DataFrame", limit: int | None, callbacks: Callbacks) -> Artifacts:
    """Read what is next to the trials.

    Args:
        trials: all of the report.
        limit: how many synthetic rows of a result are kept, and how many rejects; None for all.
        callbacks: receive warnings about files that cannot be read; these are skipped.
    """
    artifacts = Artifacts()
    files = trials.drop_duplicates(["path", "task", "variant", "level", "method", "classifier"])
    in_cells = files[files["path"].map(cell_folder).notna()]
    synthetic = in_cells[in_cells["method"] != "none"]
    for _, of_result in synthetic.groupby(["task", "variant", "level", "method"], sort=False):
        _read_rows(artifacts, _synthetic_files(of_result), limit, callbacks)
    _read_epochs(artifacts, in_cells, callbacks)
    by_settings = files.drop_duplicates(["settings", "version", "method", "classifier"])
    for file in by_settings.itertuples():
        if len(artifacts.manifests) < MAX_MANIFESTS and (manifest := read_manifest(file.path)):
            variant = f", {file.variant}" if file.variant else ""
            title = f"{file.task} {file.level}, {file.method} + {file.classifier}{variant}"
            artifacts.manifests.append((title, manifest))
    return artifacts


# Synthetic, rejected and real rows -----------------------------------------------------------


def _synthetic_files(files: "DataFrame") -> list[SyntheticFile]:
    """Return the synthetic files of a result; its classifiers share them."""
    synthetic: dict[Path, SyntheticFile] = {}
    for file in files.itertuples():
        for draw, path in synthetic_paths(cell_folder(file.path) or Path(), file.method):
            names = file.task, file.variant, file.level, file.method, file.data_seed
            synthetic.setdefault(path, SyntheticFile(*names, draw, path))
    return list(synthetic.values())


def _read_rows(
    artifacts: Artifacts, files: Sequence[SyntheticFile], limit: int | None, callbacks: Callbacks
) -> None:
    """Read the files of a result; each gives an equal part of the rows that are kept."""
    for index, file in enumerate(files):
        part = None if limit is None else _part(limit, index, len(files))
        distributions = artifacts.distributions.setdefault((file.task, file.variant), {})
        real = distributions.setdefault(REAL, Distribution())
        own = distributions.setdefault(file.method, Distribution())
        try:
            if file.path.parent not in artifacts.real:
                artifacts.real[file.path.parent] = _read_subsample(file.path, real)
            _keep(
                artifacts, artifacts.kept, file, own.count(read_records(file.path, Augmented)), part
            )
            rejects = rejects_path(file.path)
            if rejects.is_file():
                _keep(artifacts, artifacts.rejected, file, read_records(rejects, Reject), part)
        except UserError as error:
            callbacks.warn(f"{error.message}; its rows are not shown")


def _part(limit: int, index: int, count: int) -> int:
    """Return how many of `limit` rows the file of an index gives, if all give about as many."""
    size = -(-limit // count)
    return max(0, min(size, limit - index * size))


def _keep(
    artifacts: Artifacts,
    kept: "list[tuple[SyntheticFile, Row]]",
    file: SyntheticFile,
    rows: "Iterator[Row]",
    limit: int | None,
) -> None:
    """Keep the first rows of a file, and count all of them."""
    first = list(itertools.islice(rows, limit))
    kept += [(file, row) for row in first]
    artifacts.total += len(first) + sum(1 for _ in rows)


def _read_subsample(synthetic: Path, distribution: Distribution) -> dict[str, Example]:
    path = subsample_beside(synthetic)
    rows = distribution.count(read_records(path, Example)) if path.is_file() else ()
    return {row.id: row for row in rows}


# Epochs --------------------------------------------------------------------------------------


def _read_epochs(artifacts: Artifacts, files: "DataFrame", callbacks: Callbacks) -> None:
    left_out: set[tuple[str, str, str, str]] = set()
    for file in files.itertuples():
        path = history_path(file.path)
        if not path.is_file() or path.stat().st_size == 0:
            continue
        key = file.task, file.variant, file.level, file.classifier
        if key not in artifacts.curves and len(artifacts.curves) == MAX_CURVES:
            left_out.add(key)
            continue
        curves = artifacts.curves.setdefault(key, {})
        epochs = curves.setdefault(file.method, defaultdict(list))
        try:
            for _, row in read_objects(path):
                epoch, accuracy = row.get("epoch"), row.get("valid_accuracy")
                if isinstance(epoch, int) and isinstance(accuracy, int | float):
                    epochs[epoch].append(float(accuracy))
        except UserError as error:
            callbacks.warn(f"{error.message}; the rest of its epochs is left out")
    artifacts.curves_left_out = len(left_out)
