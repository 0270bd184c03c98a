"""What the stages left next to the trials: synthetic rows, rejects, real rows, epochs, settings.

Samples are synthetic rows with their parents and soft labels, as in Table 4 of the paper.
Published results may be trials only; then plots and page do without. Rows are counted as they are
read, and only a limited number of each result is kept.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from pandas import DataFrame

from ..decontamination import NEAR_SAMPLE
from ..errors import Callbacks, UserError
from ..jsonl import read_objects
from ..layout import cell_folder, history_path, rejects_path, subsample_path, synthetic_paths
from ..records import (
    Augmented,
    Example,
    Manifest,
    Reject,
    entropy,
    read_manifest,
    read_records,
)
from .model import DEFAULT_LIMIT

ENTROPY_BINS = 20
MAX_CURVES = 9  # (task, variant, level, classifier) whose epochs are read: a plot shows no more
MAX_MANIFESTS = 60  # whose settings the page shows in full
REAL = "real"  # the series of real rows in plots
MAX_LABELS = 5  # classes of a soft label that a sample shows; few classes are all shown
LOW_LABEL_MASS = 0.5  # as in method.labels, which is no part of a report
MAX_SAMPLES = 3  # of a task, variant and method
MAX_SAMPLED_ROWS = 200  # from the beginning of a file


class SyntheticFile(NamedTuple):
    """A file of synthetic rows."""

    task: str
    variant: str
    level: str
    method: str
    data_seed: int
    draw: int
    path: Path


class Sample(NamedTuple):
    """A synthetic row with its file, and its parents in the order of the prompt."""

    file: SyntheticFile
    row: Augmented
    parents: list[Example]

    @property
    def title(self) -> str:
        """The row's file as pages name it."""
        file, variant = self.file, f", {self.file.variant}" if self.file.variant else ""
        return f"{file.task} {file.level}, {file.method}{variant}, data seed {file.data_seed}"

    @property
    def edited(self) -> bool:
        """Whether the row is an edit of its one parent, and keeps its label."""
        return self.row.label_source == "parent"

    @property
    def labels(self) -> list[tuple[str, float]]:
        """The classes of the soft label: all if they are few, otherwise the most probable ones."""
        probs = list(self.row.probs.items())
        if len(probs) <= MAX_LABELS:
            return probs
        best = sorted(probs, key=itemgetter(1), reverse=True)[:MAX_LABELS]
        return [(name, value) for name, value in best if value >= 0.005 or name == self.row.label]


@dataclass(frozen=True)
class Distribution:
    """Counts of rows, over all levels and data seeds of a task, variant and method.

    Attributes:
        words: number of words -> rows.
        labels: class -> rows.
        entropy: bin of the entropy of the soft label -> rows; the last bin ends at the highest
            entropy that the number of classes allows. Rows without a soft label are not counted.
        masses: sum of the label masses, and the number of rows that have one.
    """

    words: Counter[int] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    entropy: Counter[int] = field(default_factory=Counter)
    masses: list[float] = field(default_factory=lambda: [0.0, 0.0])

    @property
    def mean_label_mass(self) -> float | None:
        """Mean probability that the LM puts on the classes; None if no row has it."""
        total, rows = self.masses
        return total / rows if rows else None

    def count(self, rows: Iterable[Example]) -> Iterator[Any]:
        """Yield the rows and count them."""
        for row in rows:
            self.words[len(row.text.split())] += 1
            self.labels[row.label] += 1
            if isinstance(row, Augmented) and row.label_mass is not None:
                self.masses[0] += row.label_mass
                self.masses[1] += 1
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
        rejected: rejects with their files, up to the same limit.
        real: folder of a cell -> its real rows by id.
        total: how many synthetic rows and rejects there are.
        distributions: (task, variant) -> method, or `real` -> how its rows are distributed.
        curves: (task, variant, level, classifier) -> method -> epoch -> validation accuracies.
        curves_left_out: how many more (task, variant, level, classifier) have epochs.
        manifests: title and manifest of trials files, one for each set of settings.
        measures: (task, variant, level, method, or `real`) -> measures of each of its sets.
        reviewed: (task, variant, method) -> how many synthetic rows a person has edited or dropped.
        copies: (task, variant, method) -> how many synthetic rows copy rows of a split, how many
            of them were left out, and in how many sets near copies were `sampled`.
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
    measures: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = field(default_factory=dict)
    reviewed: dict[tuple[str, str, str], Counter[str]] = field(default_factory=dict)
    copies: dict[tuple[str, str, str], Counter[str]] = field(default_factory=dict)


def label_mass_remarks(artifacts: Artifacts) -> Iterator[str]:
    """Yield which methods have unreliable soft labels."""
    for (task, variant), methods in artifacts.distributions.items():
        for method, rows in methods.items():
            mass = rows.mean_label_mass
            if mass is not None and mass < LOW_LABEL_MASS:
                of_variant = f" ({variant})" if variant else ""
                yield (
                    f"{task} {method}{of_variant}: the mean label mass is {mass:.1%}, so the LM's "
                    "labels are unreliable; see `gpt3mix guide language-models`"
                )


def review_remarks(artifacts: Artifacts) -> Iterator[str]:
    """Yield how many synthetic rows a person has edited or removed."""
    for (task, variant, method), counts in artifacts.reviewed.items():
        of_variant = f" ({variant})" if variant else ""
        yield (
            f"{task} {method}{of_variant}: a person has edited {counts['edited']:,} and removed "
            f"{counts['dropped']:,} of the synthetic rows (gpt3mix review)"
        )


def copy_remarks(artifacts: Artifacts) -> Iterator[str]:
    """Yield how many synthetic rows are copies of test or validation rows."""
    for (task, variant, method), counts in artifacts.copies.items():
        of_variant = f" ({variant})" if variant else ""
        first = f" (near ones in the first {NEAR_SAMPLE:,} of a set)" if counts["sampled"] else ""
        yield (
            f"{task} {method}{of_variant}: exact and near copies among the synthetic rows{first}: "
            f"{counts['test']:,} of test rows, {counts['validation']:,} of validation rows; "
            f"{counts['left_out']:,} of them are left out (subsample.decontaminate)"
        )


def parse_row_limit(text: str | None) -> int | None:
    """Return the value of `--synthetic`: a number, None for `all`, and 200 without the flag.

    Raises:
        UserError: if it is neither.
    """
    if text is None or text == "all":
        return DEFAULT_LIMIT if text is None else None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UserError(f"--synthetic: '{text}' is neither a number nor all", "give 0, 1000 or all")
    return int(text)


def load_artifacts(trials: DataFrame, limit: int | None, callbacks: Callbacks) -> Artifacts:
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
    for of_result in _synthetic_files(synthetic):
        _read_rows(artifacts, of_result, limit, callbacks)
    _read_epochs(artifacts, in_cells, callbacks)
    by_settings = files.drop_duplicates(["settings", "version", "method", "classifier"])
    for file in by_settings.itertuples():
        if len(artifacts.manifests) < MAX_MANIFESTS and (manifest := read_manifest(file.path)):
            variant = f", {file.variant}" if file.variant else ""
            title = f"{file.task} {file.level}, {file.method} + {file.classifier}{variant}"
            artifacts.manifests.append((title, manifest))
    return artifacts


# Synthetic, rejected and real rows -----------------------------------------------------------


def _synthetic_files(files: DataFrame) -> list[list[SyntheticFile]]:
    """Return the synthetic files of each result; its classifiers share them."""
    # Not with `groupby`, for which ten thousand small groups take seconds.
    results: dict[tuple[str, ...], dict[Path, SyntheticFile]] = {}
    for file in files.itertuples():
        names = file.task, file.variant, file.level, file.method
        synthetic = results.setdefault(names, {})
        for draw, path in synthetic_paths(cell_folder(file.path) or Path(), file.method):
            synthetic.setdefault(path, SyntheticFile(*names, file.data_seed, draw, path))
    return [list(of_result.values()) for of_result in results.values()]


def _read_rows(
    artifacts: Artifacts, files: Sequence[SyntheticFile], limit: int | None, callbacks: Callbacks
) -> None:
    size = -(-(limit or 0) // max(1, len(files)))
    for index, file in enumerate(files):
        part = None if limit is None else max(0, min(size, limit - index * size))
        distributions = artifacts.distributions.setdefault((file.task, file.variant), {})
        real = distributions.setdefault(REAL, Distribution())
        own = distributions.setdefault(file.method, Distribution())
        try:
            if file.path.parent not in artifacts.real:
                rows = _read_subsample(file.path)
                artifacts.real[file.path.parent] = rows
                _add_measures(artifacts, file, REAL, subsample_path(file.path.parent))
                list(real.count(rows.values()))
            _read_counts(artifacts, file)
            _add_measures(artifacts, file, file.method, file.path)
            synthetic = own.count(read_records(file.path, Augmented))
            _keep(artifacts, artifacts.kept, file, synthetic, part)
            rejects = rejects_path(file.path)
            if rejects.is_file():
                _keep(artifacts, artifacts.rejected, file, read_records(rejects, Reject), part)
        except UserError as error:
            callbacks.warn(f"{error.message}; its rows are not shown")


def _add_measures(artifacts: Artifacts, file: SyntheticFile, name: str, path: Path) -> None:
    manifest = read_manifest(path)
    counts = manifest.counts if manifest else {}
    values = {
        key: value
        for part in ("statistics", "measures")
        if isinstance(counts.get(part), dict)
        for key, value in counts[part].items()
        if isinstance(value, float | str)
    }
    if values:
        key = file.task, file.variant, file.level, name
        artifacts.measures.setdefault(key, []).append(values)


def _read_counts(artifacts: Artifacts, file: SyntheticFile) -> None:
    manifest = read_manifest(file.path)
    counts = manifest.counts if manifest else {}
    if found := {name: counts[name] for name in ("edited", "dropped") if counts.get(name)}:
        key = file.task, file.variant, file.method
        artifacts.reviewed.setdefault(key, Counter()).update(found)
    copies = counts.get("copies")
    numbers = Counter[str]()
    for name, value in copies.items() if isinstance(copies, Mapping) else ():
        parts = value.values() if isinstance(value, Mapping) else [value]
        if name != "near_among":  # the rows of which near copies were counted
            numbers[name] = sum(part for part in parts if isinstance(part, int))
    if numbers.total():
        numbers["sampled"] = int("near_among" in (copies or ()))
        key = file.task, file.variant, file.method
        artifacts.copies.setdefault(key, Counter()).update(numbers)


def _keep(
    artifacts: Artifacts,
    kept: list[Any],
    file: SyntheticFile,
    rows: Iterator[Any],
    limit: int | None,
) -> None:
    first = list(itertools.islice(rows, limit))
    kept += [(file, row) for row in first]
    artifacts.total += len(first) + sum(1 for _ in rows)


def _read_subsample(synthetic: Path) -> dict[str, Example]:
    path = subsample_path(synthetic.parent)
    return {row.id: row for row in read_records(path, Example)} if path.is_file() else {}


def select_samples(trials: DataFrame, callbacks: Callbacks) -> list[Sample]:
    """Return some synthetic rows of each task, variant and method.

    The first rows are one for each mixture of the parents' labels. There are none where only the
    trials were published.

    Args:
        trials: all of the report.
        callbacks: receive warnings about files that cannot be read.
    """
    files = trials[(trials["method"] != "none") & trials["path"].map(cell_folder).notna()]
    first: dict[tuple[str, str, str], SyntheticFile] = {}
    by_result = _synthetic_files(files.drop_duplicates(["result", "path"]))
    for file in itertools.chain.from_iterable(by_result):
        if file.draw == 0:
            first.setdefault((file.task, file.variant, file.method), file)
    samples: list[Sample] = []
    for file in first.values():
        try:
            samples += _samples(file)
        except UserError as error:
            callbacks.warn(f"{error.message}; its rows are not shown")
    return samples


def _samples(file: SyntheticFile) -> list[Sample]:
    real = _read_subsample(file.path)
    mixtures: set[tuple[str, ...]] = set()
    samples: list[tuple[bool, Sample]] = []
    for row in itertools.islice(read_records(file.path, Augmented), MAX_SAMPLED_ROWS):
        parents = [real[name] for name in row.parents if name in real]
        mixture = tuple(sorted(parent.label for parent in parents))
        samples.append((mixture in mixtures, Sample(file, row, parents)))
        mixtures.add(mixture)
    return [sample for _, sample in sorted(samples, key=itemgetter(0))][:MAX_SAMPLES]


# Epochs --------------------------------------------------------------------------------------


def _read_epochs(artifacts: Artifacts, files: DataFrame, callbacks: Callbacks) -> None:
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
