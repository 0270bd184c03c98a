"""What the stages left next to the trials: synthetic rows, rejects, real rows, epochs, settings.

Published results may be trials only; then plots and page do without. Rows are counted as they are
read, and only a limited number of each result is kept.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..errors import Callbacks, UserError
from ..layout import cell_folder, history_path, rejects_path, subsample_beside, synthetic_paths
from ..records import Augmented, Example, Manifest, Reject, entropy, objects, read, read_manifest

if TYPE_CHECKING:
    from pandas import DataFrame

    Row = TypeVar("Row", Augmented, Reject)

DEFAULT_LIMIT = 200  # synthetic rows of a result on the page, and as many rejects
ENTROPY_BINS = 20
MAX_CURVES = 9  # (task, variant, level, classifier) whose epochs are read: a plot shows no more
MAX_MANIFESTS = 60  # whose settings the page shows in full
REAL = "real"  # the series of real rows in plots


class TrialsFile(NamedTuple):
    """A trials file, and what its trials have in common."""

    path: Path
    task: str
    variant: str
    level: str
    method: str
    classifier: str
    data_seed: int
    settings: str | None
    version: str | None


@dataclass(frozen=True)
class SyntheticFile:
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

    def add(self, row: Example) -> None:
        """Count a row."""
        self.words[len(row.text.split())] += 1
        self.labels[row.label] += 1
        if (
            isinstance(row, Augmented)
            and row.label_source not in ("parent", "hard")
            and len(row.probs) > 1
        ):
            fraction = entropy(row.probs.values()) / math.log2(len(row.probs))
            self.entropy[min(ENTROPY_BINS - 1, int(ENTROPY_BINS * fraction))] += 1


@dataclass
class Artifacts:
    """All that was found.

    Attributes:
        kept: synthetic rows with their files, up to the limit of each result.
        rejected: likewise.
        real: folder of a cell -> its real rows by id.
        total: how many synthetic rows and rejects there are.
        distributions: (task, variant) -> method, or `real` -> how its rows are distributed.
        curves: (task, variant, level, classifier) -> method -> epoch -> validation accuracies.
        curves_left_out: how many more (task, variant, level, classifier) have epochs.
        manifests: of trials files, one for each set of settings.
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
    manifests: list[tuple[TrialsFile, Manifest]] = field(default_factory=list)


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
    names = ["path", "task", "variant", "level", "method", "classifier"]
    rows = trials.drop_duplicates(names)[[*names, "data_seed", "settings", "version"]]
    objects_only = rows.astype(object).where(rows.notna(), None)
    files = [TrialsFile(*row) for row in objects_only.itertuples(index=False, name=None)]
    in_cells = [file for file in files if cell_folder(file.path)]
    for synthetic in _synthetic_files(in_cells):
        _read_rows(artifacts, synthetic, limit, callbacks)
    _read_epochs(artifacts, in_cells, callbacks)
    seen: set[tuple[str | None, ...]] = set()
    for file in files:
        key = (file.settings, file.version, file.method, file.classifier)
        is_new = key not in seen and len(artifacts.manifests) < MAX_MANIFESTS
        if is_new and (manifest := read_manifest(file.path)):
            artifacts.manifests.append((file, manifest))
        seen.add(key)
    return artifacts


# Synthetic, rejected and real rows -----------------------------------------------------------


def _synthetic_files(files: Iterable[TrialsFile]) -> list[list[SyntheticFile]]:
    """Return the synthetic files of each task, variant, level and method."""
    groups: dict[tuple[str, str, str, str], dict[Path, SyntheticFile]] = {}
    for file in files:
        folder = cell_folder(file.path)
        if file.method == "none" or folder is None:
            continue
        key = file.task, file.variant, file.level, file.method
        for draw, path in synthetic_paths(folder, file.method):
            synthetic = SyntheticFile(*key, file.data_seed, draw, path)
            groups.setdefault(key, {}).setdefault(path, synthetic)
    return [list(group.values()) for group in groups.values()]


def _read_rows(
    artifacts: Artifacts, files: list[SyntheticFile], limit: int | None, callbacks: Callbacks
) -> None:
    """Read the files of one result; each file gives about as many of the rows that are kept."""
    per_file = None if limit is None else -(-limit // max(1, len(files)))
    kept, rejected = _Limit(limit, per_file), _Limit(limit, per_file)
    for file in files:
        key = file.task, file.variant
        distributions = artifacts.distributions.setdefault(key, {})
        real = distributions.setdefault(REAL, Distribution())
        distribution = distributions.setdefault(file.method, Distribution())
        try:
            if file.path.parent not in artifacts.real:
                artifacts.real[file.path.parent] = _read_subsample(file.path, real)
            rows = _count(read(file.path, Augmented), distribution)
            artifacts.total += kept.take(artifacts.kept, file, rows)
            path = rejects_path(file.path)
            if path.is_file():
                rejects = read(path, Reject)
                artifacts.total += rejected.take(artifacts.rejected, file, rejects)
        except UserError as error:
            callbacks.warn(f"{error.message}; its rows are not shown")


class _Limit:
    """How many more rows of a result are kept."""

    def __init__(self, total: int | None, per_file: int | None) -> None:
        """Start with nothing kept."""
        self.left, self.per_file = total, per_file

    def take(
        self,
        target: "list[tuple[SyntheticFile, Row]]",
        file: SyntheticFile,
        rows: "Iterator[Row]",
    ) -> int:
        """Keep the first rows of a file; return how many it has."""
        most = None
        if self.left is not None and self.per_file is not None:
            most = min(self.left, self.per_file)
        taken = list(itertools.islice(rows, most))
        target += [(file, row) for row in taken]
        if self.left is not None:
            self.left -= len(taken)
        return len(taken) + sum(1 for _ in rows)


def _count(rows: Iterable[Augmented], distribution: Distribution) -> Iterator[Augmented]:
    for row in rows:
        distribution.add(row)
        yield row


def _read_subsample(synthetic: Path, distribution: Distribution) -> dict[str, Example]:
    path = subsample_beside(synthetic)
    rows = {row.id: row for row in read(path, Example)} if path.is_file() else {}
    for row in rows.values():
        distribution.add(row)
    return rows


# Epochs --------------------------------------------------------------------------------------


def _read_epochs(artifacts: Artifacts, files: Iterable[TrialsFile], callbacks: Callbacks) -> None:
    left_out: set[tuple[str, str, str, str]] = set()
    for file in files:
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
            for _, row in objects(path):
                epoch, accuracy = row.get("epoch"), row.get("valid_accuracy")
                if isinstance(epoch, int) and isinstance(accuracy, int | float):
                    epochs[epoch].append(float(accuracy))
        except UserError as error:
            callbacks.warn(f"{error.message}; the rest of its epochs is left out")
    artifacts.curves_left_out = len(left_out)
