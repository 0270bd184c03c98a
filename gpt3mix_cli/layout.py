"""Cells, and where every file of a cell is: the path is the key.

    <out>/<name>[/<task>][/<variant>]/<level>/seed-<s>/
        train.jsonl                          the subsample
        <method>.jsonl                       synthetic rows
        <method>.draw-<d>.jsonl              further synthetic sets
        trials/<method>.<classifier>.jsonl   trials
    <out>/<name>/report/                     the report
    <out>/<name>[/<task>]/split.json         which rows are test rows, if the task has no test split
    <out>/<name>[/<task>]/skipped.csv        rows that were left out
    <out>/<name>/review.csv                  the synthetic rows, for a person to review

Companion files take the name of the file that they belong to: `eda.jsonl`, `eda.rejects.jsonl`,
`eda.journal.sqlite`, `eda.jsonl.manifest.json`. No other module spells a path of a result.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from .settings import FILE_STEM_PATTERN, fingerprint

MAX_VALUE_LENGTH = 40  # characters of a swept value in a folder name; a longer one is hashed
MANIFEST_SUFFIX = ".manifest.json"
SPLIT_FILE = "split.json"  # names of files about the data
SKIPPED_FILE = "skipped.csv"
MAX_NAME_LENGTH = 200  # of such a name; most file systems allow 255 bytes


def variant_name(variant: Mapping[str, Any], *, as_path: bool = False) -> str:
    """Return the swept settings as text: `augment.k=2, augment.ratio=10`.

    Args:
        variant: key -> value, in the order of the config; empty without a sweep.
        as_path: spell it as a folder name: no spaces, no character that a file system may refuse.
    """
    if not as_path:
        return ", ".join(f"{key}={value_name(value)}" for key, value in variant.items())
    name = ",".join(f"{_safe(key)}={_path_word(value)}" for key, value in variant.items())
    too_long = len(name) > MAX_NAME_LENGTH
    return f"{name[:MAX_NAME_LENGTH]}-{fingerprint(variant, 6)}" if too_long else name


def value_name(value: Any) -> str:
    """Return a swept value as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def level_name(level: str) -> str:
    """Return a level as a folder name: `0.1%` -> `0.1pct`, `8/class` -> `8-per-class`."""
    return level.replace("%", "pct").replace("/", "-per-")


def _safe(word: str) -> str:
    return "".join(char if char.isalnum() or char in "._+-" else "_" for char in word)


def _path_word(value: Any) -> str:
    word = str(value)
    safe = _safe(word)
    # A changed or long value gets a hash: two values must never share a folder.
    if safe == word and len(word) <= MAX_VALUE_LENGTH:
        return word
    return f"{safe[:24]}-{fingerprint(value, 6)}"


@dataclass(frozen=True)
class Cell:
    """One cell of an experiment: the rows that all its methods and classifiers start from.

    Attributes:
        task: name of the task.
        variant: the swept settings, key -> value; empty without a sweep.
        level: as the config spells it, such as `1%`, `8/class` or `full`.
        data_seed: seed of the subsample.
        one_of_tasks: whether the experiment has `tasks`, so that paths and labels name this one.
    """

    task: str
    variant: Mapping[str, Any]
    level: str
    data_seed: int
    one_of_tasks: bool = False

    def __hash__(self) -> int:
        # A variant holds mappings and lists, which have no hash.
        return hash((self.task, *self.variant, self.level, self.data_seed))

    def __str__(self) -> str:  # as progress bars name it
        words = [self.task if self.one_of_tasks else "", variant_name(self.variant), self.level]
        return f"{' '.join(filter(None, words))} seed {self.data_seed}"


@dataclass(frozen=True)
class TrialKey:
    """The trials of a method and a classifier on a cell: one trials file."""

    cell: Cell
    method: str
    classifier: str

    def __str__(self) -> str:
        return f"{self.cell} {self.method} + {self.classifier}"


@dataclass(frozen=True)
class Layout:
    """Where the files of one experiment are.

    Attributes:
        out: the folder of all results.
        name: of the experiment.
    """

    out: Path
    name: str

    @property
    def root(self) -> Path:
        """The experiment's folder."""
        return self.out / self.name

    @property
    def report_folder(self) -> Path:
        """The report over all cells."""
        return report_folder(self.root)

    def data_path(self, name: str, variant: Mapping[str, Any], task: str = "") -> Path:
        """Return where a file about the data is: variants that sweep the task have their own.

        Args:
            name: of the file.
            variant: the swept settings.
            task: name of the task, if the experiment has several.
        """
        sweeps_task = any(key == "task" or key.startswith("task.") for key in variant)
        own = variant_name(variant, as_path=True) if sweeps_task else ""
        return self.root / task / own / name

    @property
    def review_path(self) -> Path:
        """The table of synthetic rows for a person to review."""
        return self.root / "review.csv"

    def folder(self, cell: Cell) -> Path:
        """The cell's folder."""
        return _cell_folder(self.out, self.name, cell)

    def train_path(self, cell: Cell) -> Path:
        """The cell's subsample."""
        return _train_path(self.out, self.name, cell)

    def synthetic_path(self, cell: Cell, method: str, draw: int = 0) -> Path:
        """A synthetic set of a method."""
        return self.folder(cell) / (f"{method}.draw-{draw}.jsonl" if draw else f"{method}.jsonl")

    def trials_path(self, key: TrialKey) -> Path:
        """The trials of a method and classifier."""
        name = f"{key.method}.{key.classifier}.jsonl"
        return self.folder(key.cell).joinpath("trials", name)

    def rows_folder(self, name: str) -> Path:
        """The folder of stages on rows that are given from Python; `name` is their hash."""
        return self.root / "rows" / name

    def journals(self) -> list[Path]:
        """Return the journals of all cells and runs that exist."""
        return sorted(self.root.rglob("*.journal.sqlite"))

    def journals_like(self, output: Path) -> list[Path]:
        """Return the journals of files that differ from an output in level, seed and draw alone."""
        stem, cell = _stem(output).partition(".draw-")[0], output.parent
        parts = ["trials"] if cell.name == "trials" else []
        cell = cell.parent if parts else cell
        folders = sorted(cell.parent.parent.glob("/".join(["*", "seed-*", *parts])))
        paths = [path for folder in folders for path in folder.glob("*.journal.sqlite")]
        names = (path.name.removesuffix(".journal.sqlite") for path in paths)
        return [
            path
            for path, name in zip(paths, names, strict=True)
            if name.partition(".draw-")[0] == stem
        ]


@lru_cache(maxsize=16)  # each cell is asked for several times in a row
def _cell_folder(out: Path, name: str, cell: Cell) -> Path:
    variant = variant_name(cell.variant, as_path=True)
    # A sweep over the name of the experiment has a folder for each.
    root = str(cell.variant.get("name", name))
    task = cell.task if cell.one_of_tasks else ""
    return out.joinpath(root, task, variant, level_name(cell.level), f"seed-{cell.data_seed}")


@lru_cache(maxsize=16)
def _train_path(out: Path, name: str, cell: Cell) -> Path:
    return subsample_path(_cell_folder(out, name, cell))


# Companion files -----------------------------------------------------------------------------


def manifest_path(output: Path) -> Path:
    """Return where the manifest of an output is."""
    return output.with_name(f"{output.name}{MANIFEST_SUFFIX}")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".jsonl")


def _companion(suffix: str, path: Path) -> Path:
    return path.with_name(f"{_stem(path)}{suffix}")


rejects_path = partial(_companion, ".rejects.jsonl")  # the rejected rows of a synthetic set
journal_path = partial(_companion, ".journal.sqlite")  # the LM's answers for an output
card_path = partial(_companion, ".card.md")  # the data card of a synthetic set
history_path = partial(_companion, ".history.jsonl")  # the epochs of a trials file


def weight_path(trials: Path, weight: float) -> Path:
    """Return where the trials with one of the weights of `synthetic_weight: auto` are."""
    return trials.parent / "weights" / f"{_stem(trials)}.weight-{weight:g}.jsonl"


# From a trials file back to its cell ---------------------------------------------------------


def find_trials(folder: Path) -> list[Path]:
    """Return the trials files below a folder: `trials/*.jsonl` and `trials.jsonl` at any depth."""
    own = folder.glob("*.jsonl") if folder.resolve().name == "trials" else []
    paths = {*folder.rglob("trials/*.jsonl"), *folder.rglob("trials.jsonl"), *own}
    # Not a pipe, which would have to be waited for, nor a device.
    return sorted(
        path for path in paths if not path.name.endswith(".history.jsonl") and path.is_file()
    )


def checkpoint_path(trials: Path, trial: int) -> Path:
    """Return where a long training of a trials file keeps its state while it runs."""
    return trials.with_name(f"{trials.stem}.trial-{trial}.checkpoint")


def cell_folder(trials: Path) -> Path | None:
    """Return the folder of the cell that a trials file belongs to; None if it is on its own."""
    return trials.parent.parent if trials.parent.name == "trials" else None


def experiment_folder(trials: Path, variant: Mapping[str, Any], level: str) -> Path | None:
    """Return the folder of an experiment, or of one of its tasks, that a trials file is in.

    Args:
        trials: the file.
        variant: the swept settings of its trials.
        level: of its trials.

    Returns:
        an absolute path; None for a file that is in no cell's folder.
    """
    cell = cell_folder(Path(os.path.abspath(trials)))
    if not cell or not cell.name.startswith("seed-") or cell.parent.name != level_name(level):
        return None
    folder = cell.parent.parent
    # Without a sweep there is no folder of the variant.
    is_variant = variant and folder.name == variant_name(variant, as_path=True)
    return folder.parent if is_variant else folder


def synthetic_paths(folder: Path, method: str) -> Iterator[tuple[int, Path]]:
    """Yield (draw, path) of the synthetic sets of a method that exist in a cell's folder.

    A trials file may come from others: what is no name, such as a path, has no files.
    """
    if not FILE_STEM_PATTERN.fullmatch(method):
        return
    first = folder / f"{method}.jsonl"
    if first.is_file():
        yield 0, first
    prefix = f"{method}.draw-"
    for path in sorted(folder.glob(f"{prefix}*.jsonl")):
        number = _stem(path).removeprefix(prefix)
        if number.isdigit():
            yield int(number), path


def subsample_path(folder: Path) -> Path:
    """Return where the subsample of a cell's folder is."""
    return folder / "train.jsonl"


def report_folder(root: Path) -> Path:
    """Return the folder of the report on the results in a folder."""
    return root / "report"


def tensorboard_folder(root: Path, key: TrialKey, trial: int) -> Path:
    """Return where a trial's epochs go for TensorBoard."""
    variant = variant_name(key.cell.variant, as_path=True)
    name = f"{level_name(key.cell.level)}-trial-{trial}"
    task = key.cell.task if key.cell.one_of_tasks else ""
    return root / task / variant / key.method / key.classifier / name
