"""Loads a task's splits from the hub, from files or the demo sentences.

Every row is checked: it has a text, its label is one of the task's classes (after `values`), and
its id is unique. A task without a validation split gets a seeded, class-balanced one, taken from
train before any draw; a level still counts all rows of train as they were published.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from importlib import resources
from typing import Any, assert_never

from .duplicates import describe_copies
from .errors import NO_CALLBACKS, Callbacks, UserError, first_line, shorten
from .pretrained import NO_FOREIGN_CODE
from .records import Example, hash_rows, unknown_label
from .settings import Columns, DemoData, FilesData, HubData, Split, Task, generator
from .tables import Rows, class_names, read_rows, require_columns

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
VALIDATION_ROWS = 4000  # taken from train without a validation split, as in the reference code


@dataclass(frozen=True)
class Splits:
    """The rows of a task.

    Attributes:
        train: rows to draw from.
        validation: rows for early stopping.
        test: rows for the results.
        test_rows_in_train: test rows with a text that is also in train.
        taken_rows: number of published training rows that are validation rows here.
        sha: hash of each split's rows.
    """

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    test_rows_in_train: int = 0
    taken_rows: int = 0
    sha: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", {name: hash_rows(getattr(self, name)) for name in SPLITS})


def load_splits(
    task: Task,
    master_seed: int,
    validation: int | str = "full",
    fraction: float = 0.2,
    callbacks: Callbacks = NO_CALLBACKS,
) -> Splits:
    """Return a task's splits.

    Args:
        task: data and labels.
        master_seed: seeds a validation split taken from train, and the choice of `validation` rows.
        validation: `full`, a number of rows, or `n/class`.
        fraction: the most validation rows that are taken from each class of train.
        callbacks: for warnings.

    Raises:
        UserError: with the file and line, or the split, that is wrong.
    """
    splits: dict[Split, list[Example]] = {}
    for split, source, names in _sources(task, callbacks):
        splits[split] = list(_check_rows(task, split, source, names))
    for split, rows in splits.items():
        if not rows:
            where = getattr(task.data, split, "") or f"task '{task.name}'"
            raise UserError(
                f"{where}: the {split} split has no rows",
                f"give task.data.{split} a file with rows",
            )
    train, held_out = splits["train"], splits.get("validation", [])
    is_taken = not held_out
    if is_taken:
        held_out = _take_validation(train, task.classes, master_seed, fraction)
        if not held_out:
            raise UserError(
                f"task '{task.name}': there is no validation split, and no class has two rows, "
                "so none can be taken from train",
                "name validation rows with task.data, or give more training rows",
            )
    held_out = _choose_validation(held_out, validation, task.classes, master_seed, callbacks)
    if is_taken:
        ids = {row.id for row in held_out}
        train = [row for row in train if row.id not in ids]
    labels = {row.label for row in train}
    if missing := [label for label in task.classes if label not in labels]:
        raise UserError(
            f"task '{task.name}': no training row has the class '{missing[0]}'",
            "check task.labels and task.data.values",
        )
    for warning in describe_copies(task.name, train, held_out, splits["test"]):
        callbacks.warn(warning)
    texts = {row.text for row in train}
    num_copies = sum(row.text in texts for row in splits["test"])
    return Splits(
        train, held_out, splits["test"], num_copies, taken_rows=len(held_out) if is_taken else 0
    )


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


def _take_validation(
    train: list[Example], classes: Sequence[str], seed: int, fraction: float
) -> list[Example]:
    """Return the rows of train that may be taken, in file order: one at least of two of a class."""
    most = VALIDATION_ROWS // len(classes)
    ids: set[str] = set()
    for label, rows in group_by_class(train, classes).items():
        count = min(most, max(int(len(rows) * Fraction(str(fraction))), int(len(rows) > 1)))
        random = generator(seed, "validation split", label)
        ids.update(row.id for row in random.sample(rows, count))
    return [row for row in train if row.id in ids]


def _choose_validation(
    rows: list[Example], wanted: int | str, classes: Sequence[str], seed: int, callbacks: Callbacks
) -> list[Example]:
    if wanted == "full" or not rows:
        return rows
    counts = (
        split_evenly(wanted, len(classes))
        if isinstance(wanted, int)
        else [int(wanted.removesuffix("/class"))] * len(classes)
    )
    ids: set[str] = set()
    for (label, members), count in zip(group_by_class(rows, classes).items(), counts, strict=True):
        if len(members) < count:
            callbacks.warn(
                f"validation: class '{label}' has {len(members)} rows, {count} are wanted; "
                "all of them are used"
            )
        random = generator(seed, "validation rows", label)
        ids.update(row.id for row in random.sample(members, min(count, len(members))))
    return [row for row in rows if row.id in ids]


# Raw rows ------------------------------------------------------------------------------------

# Split, rows, and the names of the numbers in the label column.
Source = tuple[Split, Rows, Sequence[str]]


def _sources(task: Task, callbacks: Callbacks) -> Iterator[Source]:
    match task.data:
        case HubData():
            yield from _read_hub(task.data)
        case FilesData() as data:
            for split in SPLITS:
                if path := getattr(data, split):
                    rows = read_rows(path, _needed(data), [data.id], data, callbacks.warn)
                    yield split, rows, class_names(path, data.label)
        case DemoData():
            file = resources.files("gpt3mix_cli") / "resources" / "demo.jsonl"
            demo = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            for split in SPLITS:
                members = [row for row in demo if row["id"].split("-")[1] == split]
                yield split, (("the demo data", row) for row in members), ()
        case _:
            assert_never(task.data)


def _needed(columns: Columns) -> dict[str, str]:
    return {columns.text: "task.data.text", columns.label: "task.data.label"}


def _check_rows(task: Task, split: str, rows: Rows, names: Sequence[str]) -> Iterator[Example]:
    columns = Columns() if isinstance(task.data, DemoData) else task.data
    labels = _LabelReader(task.classes, columns, names)
    seen: dict[str, str] = {}
    for index, (where, raw) in enumerate(rows):
        text = _check_text(where, raw[columns.text], columns)
        label = labels.read(where, raw[columns.label])
        raw_id = raw.get(columns.id)
        row_id = f"{task.name}-{split}-{index:05d}" if raw_id in (None, "") else str(raw_id)
        if row_id in seen:
            raise UserError(
                f"{where}: the id '{shorten(row_id)}' is already used at {seen[row_id]}",
                "ids must be unique; name another column with task.data.id to number the rows",
            )
        seen[row_id] = where
        yield Example(id=row_id, text=text, label=label)


def _check_text(where: str, text: object, columns: Columns) -> str:
    if isinstance(text, str) and text.strip():
        return text
    problem = f"is {shorten(repr(text))}, not text"
    if text is None:
        problem = "is null"
    elif isinstance(text, str):
        problem = "is empty"
    raise UserError(
        f"{where}: the text (column '{columns.text}') {problem}",
        "remove the row or give it a text",
    )


class _LabelReader:
    """Gives the class of a raw label value.

    Args:
        classes: of the task.
        columns: with the meaning of raw values.
        names: of the numbers in a ClassLabel column.
    """

    def __init__(self, classes: Sequence[str], columns: Columns, names: Sequence[str]) -> None:
        self._classes, self._column, self._values = classes, columns.label, columns.values
        self._names = {str(number): name for number, name in enumerate(names)}
        self._known = {**{name: name for name in classes}, **columns.values}
        by_form: dict[str, set[str]] = {}
        for value, label in self._known.items():
            by_form.setdefault(_canonical(value), set()).add(label)
        self._by_form = {form: labels.pop() for form, labels in by_form.items() if len(labels) == 1}

    def read(self, where: str, value: Any) -> str:
        """Return the class.

        Raises:
            UserError: if there is none.
        """
        text = _spell(value)
        # A missing label is not the class that happens to be called `null`.
        if value in (None, "") and text not in self._values:
            raise UserError(
                f"{where}: the label (column '{self._column}') is {text or 'empty'}",
                "remove the row or give it a label; if it is a class, map it: "
                f"task.data.values: {{{text or repr(text)}: CLASS}}",
            )
        name = self._names.get(text)
        spellings = [text] if name is None or text in self._values else [name, text]
        for spelling in spellings:
            label = self._known.get(spelling) or self._by_form.get(_canonical(spelling))
            if label:
                return label
        raise unknown_label(where, spellings[0], self._classes)


def _spell(value: Any) -> str:
    if isinstance(value, float | Decimal) and value == value // 1:
        value = int(value)  # pandas stores an integer column with gaps as floats: 1.0
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _canonical(value: str) -> str:
    """Return a label value as programs may write it differently: `1.0`, `True`, ` é`, `１`."""
    text = unicodedata.normalize("NFC", value.replace("\ufeff", "").strip())
    text = "".join(str(unicodedata.decimal(character, character)) for character in text)
    text = re.sub(r"^([-+]?[0-9]+)\.0+$", r"\1", text)
    return text.lower() if text.lower() in ("true", "false") else text


def _read_hub(data: HubData) -> Iterator[Source]:
    import datasets

    datasets.disable_progress_bars()
    where = data.path + (f", config {data.name}" if data.name else "")
    where += f" at {data.revision}" if data.revision else ""
    try:
        dataset = datasets.load_dataset(
            data.path, data.name, revision=data.revision, **NO_FOREIGN_CODE
        )
    except Exception as error:
        # No network, an unknown id, a gated repository, a script: a dozen unrelated classes.
        raise UserError(
            f"{where}: cannot be loaded: {first_line(error)}",
            "check path, name and revision, the network, and HF_TOKEN for gated data",
        ) from None
    for split in SPLITS:
        name = data.splits.get(split, split)
        if split == "validation" and split not in data.splits and name in data.splits.values():
            # As with GLUE, the validation rows are the test set: they must not stop training early.
            continue
        if name in dataset:
            rows = dataset[name]
            prefix = f"{where}, {name} row"
            require_columns(f"{prefix} 0", rows.column_names, _needed(data))
            names = getattr(rows.features[data.label], "names", None) or ()
            # Other columns may hold what cannot be decoded, such as images.
            asked = (data.text, data.label, data.id)
            rows = rows.select_columns([name for name in rows.column_names if name in asked])
            yield split, _number_rows(rows, prefix), names
        elif split in data.splits or split != "validation":
            raise UserError(
                f"{where}: no split '{name}'",
                f"splits are {', '.join(map(str, dataset))}; name them with task.data.splits",
            )


def _number_rows(rows: Iterable[dict[str, Any]], prefix: str) -> Rows:
    number = 0
    try:
        for row in rows:
            yield f"{prefix} {number}", row
            number += 1
    except (OverflowError, ValueError) as error:
        raise UserError(
            f"{prefix} {number} or a later one: a value that cannot be read: {first_line(error)}",
            "name other columns with task.data.text, label and id, or fix the data set",
        ) from None
