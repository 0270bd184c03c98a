"""Loads a task's splits from the hub, from files (JSONL, CSV, TSV, Parquet) or the demo sentences.

Every row is checked: it has a text, its label is one of the task's classes (after `values`), and
its id is unique. A task without a validation split gets a seeded, class-balanced one, taken from
train before any draw; a level still counts all rows of train as they were published.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any, assert_never

from .errors import NO_CALLBACKS, Callbacks, UserError, first_line
from .files import read_lines, read_objects
from .pretrained import NO_FOREIGN_CODE
from .records import Example, hash_rows, unknown_label
from .settings import Columns, DemoData, FilesData, HubData, Split, Task, generator

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
    splits = {split: list(_check_rows(task, split, rows)) for split, rows in _sources(task)}
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
    num_copies = _count_test_rows_in_train(train, splits["test"], task.name, callbacks)
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


def _count_test_rows_in_train(
    train: Iterable[Example], test: Iterable[Example], name: str, callbacks: Callbacks
) -> int:
    texts = {row.text: row.id for row in train}
    copies = [row for row in test if row.text in texts]
    if copies:
        first = copies[0]
        callbacks.warn(
            f"task '{name}': {len(copies)} test rows are exact copies of training rows, such as "
            f"{first.id} = {texts[first.text]}; accuracy on them says nothing about new text"
        )
    return len(copies)


# Raw rows ------------------------------------------------------------------------------------

Source = Iterator[tuple[str, dict[str, Any]]]  # (file and line for messages, raw row)


def _sources(task: Task) -> Iterator[tuple[str, Source]]:
    match task.data:
        case HubData():
            yield from _read_hub(task.data)
        case FilesData():
            for split in SPLITS:
                if path := getattr(task.data, split):
                    yield split, _read_file(path)
        case DemoData():
            file = resources.files("gpt3mix_cli") / "resources" / "demo.jsonl"
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            for split in SPLITS:
                members = [row for row in rows if row["id"].split("-")[1] == split]
                yield split, (("the demo data", row) for row in members)
        case _:
            assert_never(task.data)


def _check_rows(task: Task, split: str, source: Source) -> Iterator[Example]:
    columns = Columns() if isinstance(task.data, DemoData) else task.data
    seen: dict[str, str] = {}
    for index, (where, raw) in enumerate(source):
        text = _check_text(where, raw, columns)
        value = _spell(raw[columns.label])
        label = columns.values.get(value, value)
        if label not in task.labels:
            raise unknown_label(where, value, task.classes)
        raw_id = raw.get(columns.id)
        row_id = f"{task.name}-{split}-{index:05d}" if raw_id in (None, "") else str(raw_id)
        if row_id in seen:
            raise UserError(
                f"{where}: the id '{row_id}' is already used at {seen[row_id]}",
                "ids must be unique; name another column with task.data.id to number the rows",
            )
        seen[row_id] = where
        yield Example(id=row_id, text=text, label=label)


def _check_text(where: str, raw: dict[str, Any], columns: Columns) -> str:
    for key, column in (("text", columns.text), ("label", columns.label)):
        if column not in raw:
            raise UserError(
                f"{where}: no column '{column}'",
                f"columns are {', '.join(map(str, raw))}; name the right one with task.data.{key}",
            )
    text = raw[columns.text]
    if isinstance(text, str) and text.strip():
        return text
    problem = f"is {text!r}, not text"
    if text is None:
        problem = "is null"
    elif isinstance(text, str):
        problem = "is empty"
    raise UserError(
        f"{where}: the text (column '{columns.text}') {problem}",
        "remove the row or give it a text",
    )


def _spell(value: Any) -> str:
    if isinstance(value, float | Decimal) and value == value // 1:
        value = int(value)  # pandas stores an integer column with gaps as floats: 1.0
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _read_file(path: Path) -> Source:
    match path.suffix.lower():
        case ".jsonl" | ".ndjson" | ".json":
            for number, row in read_objects(path):
                yield f"{path}, line {number}", row
        case ".csv" | ".tsv" as suffix:
            yield from _read_csv(path, "," if suffix == ".csv" else "\t")
        case ".parquet":
            yield from _read_parquet(path)
        case suffix:
            raise UserError(
                f"{path}: the suffix '{suffix}' is not known", "use .jsonl, .csv, .tsv or .parquet"
            )


def _read_csv(path: Path, delimiter: str) -> Source:
    # The parsers of pandas and pyarrow accept damaged files: they pad short rows, drop stray quotes
    # and rename duplicate columns. The strict reader finds all of these, and their lines.
    csv.field_size_limit(2**31 - 1)
    # Blank lines are kept: they may be part of a quoted field.
    lines = (line for _, line in read_lines(path, blank=True))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for row in reader:
            where = f"{path}, line {start}"
            if header is None:
                header = row
                _refuse_duplicates(header, where)
            elif row:
                if len(row) != len(header):
                    raise UserError(
                        f"{where}: {len(row)} fields where the header has {len(header)}",
                        "quote fields that contain the delimiter",
                    )
                yield where, dict(zip(header, row, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {start}: not valid CSV: {error}",
            "quote fields that contain quotes or line ends, and double the quotes in them",
        ) from None


def _read_parquet(path: Path) -> Source:
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        _refuse_duplicates(file.schema_arrow.names, str(path))
        batches = file.iter_batches(batch_size=4096)
        rows = (row for batch in batches for row in batch.to_pylist())
        for index, row in enumerate(rows):
            yield f"{path}, row {index}", row
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{path}: cannot be read as Parquet: {error}", "check the path and the file"
        ) from None


def _refuse_duplicates(columns: Sequence[str], where: str) -> None:
    if duplicates := [name for name, count in Counter(columns).items() if count > 1]:
        raise UserError(f"{where}: duplicate column '{duplicates[0]}'", "rename one of them")


def _read_hub(data: HubData) -> Iterator[tuple[str, Source]]:
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
            rows = enumerate(_name_labels(dataset[name], data))
            prefix = f"{where}, {name} row"
            yield split, ((f"{prefix} {number}", row) for number, row in rows)
        elif split in data.splits or split != "validation":
            raise UserError(
                f"{where}: no split '{name}'",
                f"splits are {', '.join(map(str, dataset))}; name them with task.data.splits",
            )


def _name_labels(rows: Any, data: HubData) -> Iterator[dict[str, Any]]:
    """Yield rows with the names of a ClassLabel column instead of its numbers.

    A number that `values` maps is left as it is.
    """
    names = getattr(rows.features.get(data.label), "names", None) or []
    for row in rows:
        number = row.get(data.label)
        is_label = isinstance(number, int) and 0 <= number < len(names)
        is_renamed = is_label and str(number) not in data.values
        yield {**row, data.label: names[number]} if is_renamed else row
