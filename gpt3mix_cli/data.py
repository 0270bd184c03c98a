"""Loads a task's splits from the hub, from files or the demo sentences.

A task without a test split gets a seeded, stratified one, or folds; see `division.py`. A task
without a validation split gets a seeded, class-balanced one, taken from train before any draw; a
level still counts all rows of train as they were published.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from .classes import MIN_CLASS_ROWS, SMALL_CLASS, count_classes, similar_class
from .decontamination import SplitCopies, find_copies
from .division import TEST, Division, check_test_rows, divide_rows, read_division
from .duplicates import copy_key, describe_copies
from .errors import NO_CALLBACKS, Callbacks, UserError, shown_list
from .labelled_rows import BadRow, read_labelled_rows
from .records import Example, hash_rows
from .settings import SPLITS, Split, Task, generator

VALIDATION_ROWS = 4000  # taken from train without a validation split, as in the reference code


@dataclass(frozen=True)
class Splits:
    """The rows of a task.

    Attributes:
        train: rows to draw from.
        validation: rows for early stopping.
        test: rows for the results.
        left_out: copies of rows of other splits that were left out of train and validation; None
            if they were not looked for.
        all_test: the test rows, of which `test` may be a part; empty: they are `test`.
        test_rows_in_train: test rows (all) with a text that is also in train.
        taken_rows: number of published training rows that are not training rows here.
        division: how all rows were divided, if the task has no test split.
        replaces_division: whether an earlier division could not be followed.
        bad_rows: rows that were left out.
        task: name of the task.
        sha: hash of each split's rows, and of `all_test`.
    """

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    test_rows_in_train: int = 0
    taken_rows: int = 0
    division: Division | None = None
    replaces_division: bool = False
    bad_rows: Sequence[BadRow] = ()
    all_test: Sequence[Example] = ()
    left_out: Sequence[SplitCopies] | None = None
    task: str = ""
    sha: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        sha: dict[str, str] = {name: hash_rows(getattr(self, name)) for name in SPLITS}
        sha["all_test"] = hash_rows(self.all_test) if self.all_test else sha["test"]
        object.__setattr__(self, "sha", sha)
        object.__setattr__(self, "all_test", self.all_test or self.test)

    @cached_property
    def copies(self) -> Sequence[SplitCopies]:
        """Exact and near copies in train and validation; those left out, if they were."""
        if self.left_out is not None:
            return self.left_out
        test = self.all_test
        return [
            find_copies("validation", self.validation, {"test": test}),
            find_copies("train", self.train, {"test": test, "validation": self.validation}),
        ]

    def describe_copies(self, data_seed: int = 0) -> Iterator[str]:
        """Yield a warning for each kind of copy that is not reported with the data.

        Args:
            data_seed: with folds only the first one has warnings.
        """
        folds = self.division.folds if self.division else 0
        if self.left_out is None and not (folds and data_seed % folds):
            for copies in self.copies:
                yield from copies.describe(self.task, is_left_out=False)


@dataclass(frozen=True)
class SplitChoice:
    """Which rows are test rows.

    Attributes:
        data_seed: selects the fold.
        kept: the file of an earlier division of a task without a test split, which is followed if
            it exists.
        divides_anew: replace an earlier division that cannot be followed; by default an error.
        test_rows: as `validation` of `load_splits`: how many of the test rows to use.
        drops_copies: leave out training rows that copy validation or test rows, and validation rows
            that copy test rows.
    """

    data_seed: int = 0
    kept: Path | None = None
    divides_anew: bool = False
    test_rows: int | str = "full"
    drops_copies: bool = False


def load_splits(
    task: Task,
    master_seed: int,
    validation: int | str = "full",
    fraction: float = 0.2,
    callbacks: Callbacks = NO_CALLBACKS,
    choice: SplitChoice = SplitChoice(),
) -> Splits:
    """Return a task's splits.

    Args:
        task: data and labels.
        master_seed: seeds the splits taken from train, and the choice of `validation` rows.
        validation: `full`, a number of rows, or `n/class`.
        fraction: the most validation rows that are taken from each class of train.
        callbacks: for warnings.
        choice: of test rows.

    Raises:
        UserError: with the file and line, or the split, that is wrong.
    """
    splits, bad_rows = read_labelled_rows(task, callbacks)
    for split, rows in splits.items():
        if not rows:
            where = getattr(task.data, split, "") or f"task '{task.name}'"
            kinds = f" that can be used: {_count_kinds(bad_rows)}" if bad_rows else ""
            raise UserError(
                f"{where}: the {split} split has no rows{kinds}",
                f"give task.data.{split} a file with rows"
                + ", and check task.labels and task.data.values" * bool(bad_rows),
            )
    if bad_rows:
        callbacks.warn(describe_bad_rows(task.name, bad_rows))
    _check_small_classes(task, splits["train"], callbacks)
    all_rows, held_out = splits["train"], splits.get("validation", [])
    train, test, division, replaces = all_rows, splits.get("test", []), None, False
    if "test" not in splits:
        division, replaces = _divide(task, all_rows, master_seed, choice)
        train, test = division.split(all_rows, choice.data_seed)
        # Copies of a text are never in two parts, and folds would give a warning each.
        _warn_of_copies(task, all_rows, held_out, (), callbacks)
    is_taken = not held_out
    if is_taken:
        held_out = _take_validation(task, train, master_seed, fraction)
    left_out: list[SplitCopies] | None = [] if choice.drops_copies else None
    dropped: Mapping[str, object] = {}  # validation rows, which become no training rows
    if left_out is not None:
        held_out = _drop_copies("validation", held_out, {"test": test}, left_out)
        dropped = left_out[0].copies
    held_out = _choose_rows("validation", held_out, validation, task, master_seed, callbacks)
    num_rows = len(train)
    if is_taken:
        taken = {copy_key(row.text) for row in held_out}
        train = [row for row in train if copy_key(row.text) not in taken and row.id not in dropped]
    if left_out is not None:
        train = _drop_copies("train", train, {"test": test, "validation": held_out}, left_out)
        if not task.folds or choice.data_seed % task.folds == 0:  # not a warning for each fold
            for copies in left_out:
                _warn_all(copies.describe(task.name, is_left_out=True), callbacks)
    _check_classes(task, train)
    if division is None:
        _warn_of_copies(task, train, held_out, test, callbacks)
    texts = {row.text for row in train}
    num_copies = sum(row.text in texts for row in test)
    num_taken = num_rows - len(train)
    tested = _choose_rows("test", test, choice.test_rows, task, master_seed, callbacks)
    return Splits(
        train, held_out, tested, num_copies, num_taken, division, replaces, bad_rows,
        all_test=test, left_out=left_out, task=task.name,
    )  # fmt: skip


def _drop_copies(
    split: Split,
    rows: list[Example],
    others: Mapping[Split, Sequence[Example]],
    left_out: list[SplitCopies],
) -> list[Example]:
    """Return the rows of a split that copy none of others; list the others in `left_out`."""
    copies = find_copies(split, rows, others)
    left_out.append(copies)
    kept = [row for row in rows if row.id not in copies.copies]
    if not kept:
        raise UserError(
            f"all {len(rows)} {split} rows are copies of rows of other splits",
            "check the data, or keep them: subsample.decontaminate=warn",
        )
    return kept


def _warn_all(warnings: Iterable[str], callbacks: Callbacks) -> None:
    for warning in warnings:
        callbacks.warn(warning)


def _warn_of_copies(
    task: Task,
    train: Sequence[Example],
    validation: Sequence[Example],
    test: Sequence[Example],
    callbacks: Callbacks,
) -> None:
    _warn_all(describe_copies(task.name, train, validation, test), callbacks)


def _divide(
    task: Task, rows: Sequence[Example], seed: int, choice: SplitChoice
) -> tuple[Division, bool]:
    """Return the division, and whether it replaces an earlier one that cannot be followed."""
    folds = task.folds
    known, replaces = None, False
    try:
        if choice.kept and (known := read_division(choice.kept, folds)):
            check_test_rows(rows, known, choice.kept)
    except UserError:
        if not choice.divides_anew:
            raise
        known, replaces = None, True
    division = divide_rows(rows, task.classes, folds, seed, known.parts if known else None)
    if folds and len(set(division.parts.values())) < folds:
        raise UserError(
            f"task '{task.name}': {len(division.parts)} different texts are too few for {folds} "
            "folds",
            "lower task.data.folds, or give more training rows",
        )
    if not folds and TEST not in division.parts.values():
        raise UserError(
            f"task '{task.name}': there is no test split, and no class has three rows, so none "
            "can be taken from train",
            "give more training rows, or name test rows with task.data.test",
        )
    # Rows that are missing today may come back.
    parts = {**known.parts, **division.parts} if known else division.parts
    return Division(folds=folds, parts=parts), replaces


def _check_small_classes(task: Task, train: Iterable[Example], callbacks: Callbacks) -> None:
    """Refuse rows of one class; warn of classes with far fewer rows than others."""
    texts: dict[str, set[str]] = {}
    for row in train:
        keys = texts.setdefault(row.label, set())
        if len(keys) < MIN_CLASS_ROWS:
            keys.add(copy_key(row.text))
    if len(texts) < 2:
        raise UserError(
            f"task '{task.name}': the training rows have {count_classes([*texts])}",
            "check task.data.label, task.labels and task.data.values, or add rows of other classes",
        )
    large = [name for name in task.classes if len(texts.get(name, ())) >= MIN_CLASS_ROWS]
    small = []
    for name in task.classes:
        if name in texts and name not in large:
            near = similar_class(name, large)
            small.append(f"'{name}'" + (f" (a typing error of '{near}'?)" if near else ""))
    if small and large:  # where all are small, that is the task
        callbacks.warn(
            f"task '{task.name}': classes of {SMALL_CLASS}: {shown_list(small)}; add rows, or map "
            "them to another class: task.data.values"
        )


def _check_classes(task: Task, train: Iterable[Example]) -> None:
    labels = {row.label for row in train}
    for label in task.classes:
        if label not in labels:
            raise UserError(
                f"task '{task.name}': no training row has the class '{label}'",
                "check task.labels and task.data.values; without test rows of its own a task needs "
                "at least three rows of each class",
            )


def describe_bad_rows(task: str, rows: Sequence[BadRow]) -> str:
    """Return a sentence on the rows that were left out."""
    return f"task '{task}': {len(rows)} rows are left out: {_count_kinds(rows)}"


def _count_kinds(rows: Sequence[BadRow]) -> str:
    counts = Counter(row.kind for row in rows).most_common()
    return ", ".join(f"{count} with {kind}" for kind, count in counts)


def group_by_class(rows: Iterable[Example], classes: Sequence[str]) -> dict[str, list[Example]]:
    """Return the rows of each class, in the task's order of classes."""
    groups: dict[str, list[Example]] = {label: [] for label in classes}
    for row in rows:
        groups[row.label].append(row)
    return groups


def split_evenly(total: int, parts: int) -> list[int]:
    """Return `parts` numbers that sum to `total` and differ by at most one, larger ones first."""
    size, remainder = divmod(total, parts)
    return [size + (index < remainder) for index in range(parts)]


def _take_validation(task: Task, train: list[Example], seed: int, fraction: float) -> list[Example]:
    """Return the rows of train that may be taken, in file order: one at least of two of a class.

    Copies of a text are taken together or not at all.
    """
    classes = task.classes
    most = VALIDATION_ROWS // len(classes)
    copies: dict[str, list[Example]] = {}
    for row in train:
        copies.setdefault(copy_key(row.text), []).append(row)
    originals = group_by_class((rows[0] for rows in copies.values()), classes)
    ids: set[str] = set()
    for label, rows in group_by_class(train, classes).items():
        count = min(most, max(int(len(rows) * Fraction(str(fraction))), int(len(rows) > 1)))
        random, texts = generator(seed, "validation split", label), originals[label]
        groups = [
            copies[copy_key(row.text)] for row in random.sample(texts, min(count, len(texts)))
        ]
        num_taken, most_rows = 0, max(count, min(map(len, groups), default=0))
        for group in groups if len(texts) > 1 else ():
            if num_taken + len(group) <= most_rows:
                ids.update(row.id for row in group)
                num_taken += len(group)
    if not ids:
        raise UserError(
            f"task '{task.name}': there is no validation split, and no class has two different "
            "texts, "
            "so none can be taken from train",
            "name validation rows with task.data, or give more training rows",
        )
    return [row for row in train if row.id in ids]


def _choose_rows(
    split: Split,
    rows: list[Example],
    wanted: int | str,
    task: Task,
    seed: int,
    callbacks: Callbacks,
) -> list[Example]:
    """Return a seeded, class-balanced part of a split, in its order."""
    if wanted == "full" or not rows:
        return rows
    classes = task.classes
    counts = (
        split_evenly(wanted, len(classes))
        if isinstance(wanted, int)
        else [int(wanted.removesuffix("/class"))] * len(classes)
    )
    ids: set[str] = set()
    for (label, members), count in zip(group_by_class(rows, classes).items(), counts, strict=True):
        if len(members) < count:
            callbacks.warn(
                f"{split}: class '{label}' has {len(members)} rows, {count} are wanted; "
                "all of them are used"
            )
        random = generator(seed, f"{split} rows", label)
        ids.update(row.id for row in random.sample(members, min(count, len(members))))
    return [row for row in rows if row.id in ids]
