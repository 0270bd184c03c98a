"""Reads the rows of a task's splits, and checks each: its text, its label and its id.

A row that cannot be used is an error; with `on_bad_rows: skip` it is left out and counted.
"""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any, assert_never

from .duplicates import find_conflicts
from .errors import MAX_LIST_ITEMS, Callbacks, UserError, first_line, shorten
from .files import write_shared
from .pretrained import NO_FOREIGN_CODE
from .records import Example, unknown_label
from .settings import SPLITS, Columns, Data, DemoData, FilesData, HubData, Split, Task
from .tables import OnRaggedRow, Rows, class_names, read_rows, require_columns

TWO_LABELS = "two labels"
RAGGED_ROW = "too few or too many fields"
EMPTY_TEXT, EMPTY_LABEL = "empty text", "empty label"
UNKNOWN_LABEL = "a label that is not in task.labels"

# Split, rows, and the names of the numbers in the label column.
Source = tuple[Split, Rows, Sequence[str]]


class RowError(UserError):
    """One row that cannot be used.

    Args:
        message: file, line and what is wrong.
        hint: what to do.
        kind: what is wrong, in a few words.
    """

    def __init__(self, message: str, hint: str, kind: str) -> None:
        super().__init__(message, hint)
        self.args, self.kind = (message, hint, kind), kind  # args: for unpickling


@dataclass(frozen=True)
class BadRow:
    """A row that is left out.

    Attributes:
        where: file and line.
        kind: what is wrong, in a few words.
        text: of the row, as it is in the file.
        label: of the row, as it is in the file.
        detail: more about what is wrong.
    """

    where: str
    kind: str
    text: Any
    label: Any
    detail: str = ""

    @property
    def problem(self) -> str:
        """What is wrong, in full."""
        return f"{self.kind} ({self.detail})" if self.detail else self.kind


def two_labels(where: str, text: str, label: str, other: tuple[str, str]) -> BadRow:
    """Return a row whose text has another label in another row: its place and that label."""
    file, _, line = other[0].partition(", ")
    place = line if line and where.startswith(f"{file}, ") else other[0]
    return BadRow(where, TWO_LABELS, text, label, f"'{shorten(other[1])}' in {place}")


def read_labelled_rows(
    task: Task, callbacks: Callbacks
) -> tuple[dict[Split, list[Example]], list[BadRow]]:
    """Return the rows of each split that a task has, and the rows that are left out.

    Raises:
        UserError: naming the bad rows, unless the task skips them.
    """
    skips = getattr(task.data, "on_bad_rows", "error") == "skip"
    splits: dict[Split, list[Example]] = {}
    bad_rows: list[BadRow] = []
    errors, num_errors = list[RowError](), 0

    def on_ragged_row(where: str, line: str, error: UserError) -> None:
        nonlocal num_errors
        if skips:
            bad_rows.append(BadRow(where, RAGGED_ROW, line, ""))
        else:
            num_errors += 1
            row_error = RowError(error.message, error.hint or "", RAGGED_ROW)
            errors.extend([row_error] if num_errors <= MAX_LIST_ITEMS else [])

    for split, rows, names in open_sources(task.data, callbacks, on_ragged_row):
        reader = _RowChecker(task, split, names)
        usable: list[tuple[Example, str]] = []
        for where, row in rows:
            try:
                usable.append((reader.check(where, row), where))
            except RowError as error:
                if skips:
                    bad_rows.append(reader.bad_row(where, row, error.kind))
                else:
                    num_errors += 1
                    errors += [error] if num_errors <= MAX_LIST_ITEMS else []
        drops = skips and split == "train"  # test rows are what results are compared on
        conflicts = find_conflicts((row.text, row.label) for row, _ in usable if drops)
        splits[split] = [row for at, (row, _) in enumerate(usable) if at not in conflicts]
        for at, number in conflicts.items():
            (example, where), (other, place) = usable[at], usable[number]
            bad_rows.append(two_labels(where, example.text, example.label, (place, other.label)))
    if errors:
        raise _summarize(errors, num_errors, isinstance(task.data, FilesData))
    return splits, bad_rows


def write_bad_rows(path: Path, rows: Iterable[BadRow]) -> None:
    """Write rows that were left out as CSV: where each is, and what is wrong with it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["where", "problem", "text", "label"])
    writer.writerows([row.where, row.problem, row.text, row.label] for row in rows)
    write_shared(path, text.getvalue().encode())


def _summarize(errors: Sequence[RowError], count: int, can_skip: bool) -> UserError:
    first = errors[0]
    if count == 1:
        return UserError(first.message, first.hint)
    more = [f"and {count - len(errors):,} more rows"] if count > len(errors) else []
    skip = "; or leave such rows out: task.data.on_bad_rows: skip" if can_skip else ""
    lines = [*(error.message for error in errors), *more]
    return UserError("\n  ".join(lines), f"{first.hint}{skip}")


def open_sources(data: Data, callbacks: Callbacks, on_ragged_row: OnRaggedRow) -> Iterator[Source]:
    """Yield each split that the data has, its raw rows and the names of its numbered labels."""
    match data:
        case HubData():
            yield from _read_hub(data)
        case FilesData():
            for split in SPLITS:
                if path := getattr(data, split):
                    rows = read_rows(
                        path, _needed(data), [data.id], data, callbacks.warn, on_ragged_row
                    )
                    yield split, rows, class_names(path, data.label)
        case DemoData():
            file = resources.files("gpt3mix_cli") / "resources" / "demo.jsonl"
            demo = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            for split in SPLITS:
                members = [row for row in demo if row["id"].split("-")[1] == split]
                yield split, (("the demo data", row) for row in members), ()
        case _:
            assert_never(data)


def _needed(columns: Columns) -> dict[str, str]:
    return {columns.text: "task.data.text", columns.label: "task.data.label"}


class _RowChecker:
    """Turns the raw rows of one split into examples.

    Args:
        task: name, columns and classes.
        split: the split, for ids.
        names: of the numbers in the label column.
    """

    def __init__(self, task: Task, split: str, names: Sequence[str]) -> None:
        self._columns = task.columns
        self._labels = LabelReader(task.classes, self._columns, names)
        self._prefix = f"{task.name}-{split}"
        self._seen: dict[str, str] = {}
        self._count = 0

    def check(self, where: str, row: dict[str, Any]) -> Example:
        """Return the example of a row.

        Raises:
            RowError: if it has no text or no class.
            UserError: if its id is not unique.
        """
        number, self._count = self._count, self._count + 1
        text = check_text(where, row[self._columns.text], self._columns.text)
        label = self._labels.read(where, row[self._columns.label])
        raw_id = row.get(self._columns.id)
        row_id = f"{self._prefix}-{number:05d}" if raw_id in (None, "") else str(raw_id)
        if row_id in self._seen:
            raise UserError(
                f"{where}: the id '{shorten(row_id)}' is already used at {self._seen[row_id]}",
                "ids must be unique; name another column with task.data.id to number the rows",
            )
        self._seen[row_id] = where
        return Example(id=row_id, text=text, label=label)

    def bad_row(self, where: str, row: dict[str, Any], kind: str) -> BadRow:
        """Return a row that is left out."""
        return BadRow(where, kind, row[self._columns.text], row[self._columns.label])


def check_text(where: str, text: object, column: str) -> str:
    """Return a text.

    Raises:
        RowError: if it is empty, or not a text.
    """
    if isinstance(text, str) and text.strip():
        return text
    problem, kind = f"is {shorten(repr(text))}, not text", "not a text"
    if text is None:
        problem, kind = "is null", EMPTY_TEXT
    elif isinstance(text, str):
        problem, kind = "is empty", EMPTY_TEXT
    raise RowError(
        f"{where}: the text (column '{column}') {problem}", "remove the row or give it a text", kind
    )


class LabelReader:
    """Gives the class of a raw label value.

    Args:
        classes: of the task.
        columns: with the meaning of raw values.
        names: of the numbers in a ClassLabel column.
        form: two values of the same form have the same class.
    """

    def __init__(
        self,
        classes: Sequence[str],
        columns: Columns,
        names: Sequence[str] = (),
        form: Callable[[str], str] | None = None,
    ) -> None:
        self._classes, self._column, self._values = classes, columns.label, columns.values
        self._form = form or canonical_label
        self._names = {str(number): name for number, name in enumerate(names)}
        self._known = {**{name: name for name in classes}, **columns.values}
        by_form: dict[str, set[str]] = {}
        for value, label in self._known.items():
            by_form.setdefault(self._form(value), set()).add(label)
        self._by_form = {form: labels.pop() for form, labels in by_form.items() if len(labels) == 1}

    def read(self, where: str, value: Any) -> str:
        """Return the class.

        Raises:
            RowError: if there is none.
        """
        if label := self.find(value):
            return label
        text = spell_label(value)
        if value in (None, ""):
            raise RowError(
                f"{where}: the label (column '{self._column}') is {text or 'empty'}",
                "remove the row or give it a label; if it is a class, map it: "
                f"task.data.values: {{{text or repr(text)}: CLASS}}",
                EMPTY_LABEL,
            )
        error = unknown_label(where, self._spellings(text)[0], self._classes)
        raise RowError(error.message, error.hint, UNKNOWN_LABEL)

    def find(self, value: Any) -> str | None:
        """Return the class; None if there is none."""
        text = spell_label(value)
        # A missing label is not the class that happens to be called `null`.
        if value in (None, "") and text not in self._values:
            return None
        for spelling in self._spellings(text):
            label = self._known.get(spelling) or self._by_form.get(self._form(spelling))
            if label:
                return label
        return None

    def _spellings(self, text: str) -> list[str]:
        name = self._names.get(text)
        return [text] if name is None or text in self._values else [name, text]


def spell_label(value: Any) -> str:
    """Return a raw label value as text."""
    if isinstance(value, float | Decimal) and value == value // 1:
        value = int(value)  # pandas stores an integer column with gaps as floats: 1.0
    return value if isinstance(value, str) else json.dumps(value, default=str)


def raw_label(value: Any, names: Mapping[str, str]) -> str:
    """Return a raw label value as text, by its name if it is a number with one; blank: empty."""
    raw = "" if value is None else spell_label(value)
    return names.get(raw, raw) if raw.strip() else ""


def canonical_label(value: str) -> str:
    """Return a label value as programs may write it differently: `1.0`, `True`, ` é`, `１`."""
    text = unicodedata.normalize("NFC", value.replace("\ufeff", "").strip())
    text = "".join(str(unicodedata.decimal(character, character)) for character in text)
    text = re.sub(r"^([-+]?[0-9]+)\.0+$", r"\1", text)
    return text.lower() if text.lower() in ("true", "false") else text


def spelling_form(value: str) -> str:
    """Return a label value without differences in case and spaces, by which people write it."""
    return " ".join(canonical_label(value).casefold().split())


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
