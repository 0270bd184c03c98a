"""A task's splits: from the hub, from files (JSONL, CSV, TSV, Parquet), or the packaged demo sentences.

Every row is checked: a text that is there, a label among the task's classes (after `values`), an id that is unique.
A task without a validation split gets a seeded class-balanced one taken from train before any draw.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any, assert_never

from .errors import NO_CALLBACKS, Callbacks, UserError
from .records import Example, hash_rows, read_lines, read_objects, unknown_label
from .settings import Columns, DemoData, FilesData, HubData, Split, Task, generator

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
VALIDATION_ROWS = (
    4000  # taken from train where a task has no validation split, as the reference code does
)


@dataclass(frozen=True)
class Splits:
    """The rows of a task, and hashes of them."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    shared: int = 0  # test rows whose text stands in train too
    sha: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Hash each split once."""
        object.__setattr__(self, "sha", {name: hash_rows(getattr(self, name)) for name in SPLITS})


def load_splits(
    task: Task,
    master_seed: int,
    validation: int | str = "full",
    callbacks: Callbacks = NO_CALLBACKS,
) -> Splits:
    """Return a task's splits.

    Args:
        task: data and labels.
        master_seed: seeds the validation split where the task has none, and the choice of `validation` rows.
        validation: `full`, a number of rows, or `n/class`.
        callbacks: take warnings.

    Raises:
        UserError: naming the file and line, or the split, that is wrong.
    """
    found = {split: list(_checked(task, split, rows)) for split, rows in _sources(task)}
    for split, rows in found.items():
        if not rows:
            place = (
                getattr(task.data, split)
                if isinstance(task.data, FilesData)
                else f"task '{task.name}'"
            )
            raise UserError(
                f"{place}: the {split} split has no rows",
                f"give task.data.{split} a file with rows",
            )
    train = found["train"]
    if "validation" in found:
        held_out = found["validation"]
    else:
        train, held_out = _split_off(train, task.classes, master_seed)
        if not held_out:
            message = f"task '{task.name}': there is no validation split, and no class has two rows, so none can be taken from train"
            raise UserError(
                message, "name validation rows with task.data, or give more training rows"
            )
    if missing := [label for label in task.classes if not any(row.label == label for row in train)]:
        message = f"task '{task.name}': no training row has the class '{missing[0]}'"
        raise UserError(message, "check task.labels and task.data.values")
    shared = _shared(train, found["test"], task.name, callbacks)
    return Splits(
        train,
        _choose(held_out, validation, task.classes, master_seed, callbacks),
        found["test"],
        shared,
    )


def group_by_class(rows: Iterable[Example], classes: Sequence[str]) -> dict[str, list[Example]]:
    """Return the rows of each class, in the task's order of classes."""
    groups: dict[str, list[Example]] = {label: [] for label in classes}
    for row in rows:
        groups[row.label].append(row)
    return groups


def _split_off(
    train: list[Example], classes: Sequence[str], seed: int
) -> tuple[list[Example], list[Example]]:
    """Take `VALIDATION_ROWS` over the classes, never more than half of any class; both parts stay in file order."""
    taken: set[str] = set()
    for label, rows in group_by_class(train, classes).items():
        wanted = min(VALIDATION_ROWS // len(classes), len(rows) // 2)
        taken.update(
            row.id for row in generator(seed, "validation split", label).sample(rows, wanted)
        )
    return [row for row in train if row.id not in taken], [row for row in train if row.id in taken]


def _choose(
    rows: list[Example], wanted: int | str, classes: Sequence[str], seed: int, callbacks: Callbacks
) -> list[Example]:
    if wanted == "full" or not rows:
        return rows
    groups = group_by_class(rows, classes)
    if isinstance(wanted, str):
        shares = dict.fromkeys(classes, int(wanted.split("/")[0]))
    else:
        shares = dict(zip(classes, split_evenly(wanted, len(classes)), strict=True))
    for label, share in shares.items():
        if len(groups[label]) < share:
            callbacks.warn(
                f"validation: class '{label}' has {len(groups[label])} rows, {share} are wanted; all of them are used"
            )
    chosen = {
        row.id
        for label, share in shares.items()
        for row in generator(seed, "validation rows", label).sample(
            groups[label], min(share, len(groups[label]))
        )
    }
    return [row for row in rows if row.id in chosen]


def _shared(
    train: Iterable[Example], test: Iterable[Example], name: str, callbacks: Callbacks
) -> int:
    """Return how many test rows are exact copies of training rows, and say so."""
    texts = {row.text: row.id for row in train}
    shared = [(texts[row.text], row.id) for row in test if row.text in texts]
    if shared:
        callbacks.warn(
            f"task '{name}': {len(shared)} test rows are exact copies of training rows, such as {shared[0][1]} = {shared[0][0]}; "
            "accuracy on them says nothing about new text"
        )
    return len(shared)


# Where rows come from ------------------------------------------------------------------------------------------------

Source = Iterator[tuple[str, dict[str, Any]]]  # (place for messages, raw row)


def _sources(task: Task) -> Iterator[tuple[str, Source]]:
    match task.data:
        case HubData():
            yield from _hub(task.data)
        case FilesData():
            for split in SPLITS:
                path = getattr(task.data, split)
                if path is not None:
                    yield split, _file(path)
        case DemoData():
            place = resources.files("gpt3mix_cli") / "resources" / "demo.jsonl"
            rows = [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]
            for split in SPLITS:
                yield (
                    split,
                    (("the demo data", row) for row in rows if row["id"].split("-")[1] == split),
                )
        case _:
            assert_never(task.data)


def _checked(task: Task, split: str, source: Source) -> Iterator[Example]:
    columns = Columns() if isinstance(task.data, DemoData) else task.data
    seen: dict[str, str] = {}
    for index, (where, raw) in enumerate(source):
        for column in (columns.text, columns.label):
            if column not in raw:
                key = "text" if column == columns.text else "label"
                hint = f"columns are {', '.join(map(str, raw))}; name the right one with task.data.{key}"
                raise UserError(f"{where}: no column '{column}'", hint)
        text, value = raw[columns.text], raw[columns.label]
        if not isinstance(text, str) or not text.strip():
            problem = (
                "is null"
                if text is None
                else "is empty"
                if isinstance(text, str)
                else f"is {text!r}, no text"
            )
            raise UserError(
                f"{where}: the text (column '{columns.text}') {problem}",
                "remove the row or give it a text",
            )
        word = _word(value)
        label = columns.values.get(word, word)
        if label not in task.labels:
            raise unknown_label(where, word, task.classes)
        own = raw.get(columns.id)
        identity = f"{task.name}-{split}-{index:05d}" if own in (None, "") else str(own)
        if identity in seen:
            message = f"{where}: the id '{identity}' stands already at {seen[identity]}"
            raise UserError(
                message,
                "ids must be unique; name another column with task.data.id to have rows numbered",
            )
        seen[identity] = where
        yield Example(id=identity, text=text, label=label)


def _word(value: Any) -> str:
    """Return a raw label as it is written in JSON or CSV: 1, true, pos."""
    if isinstance(value, float | Decimal) and value == value // 1:
        value = int(value)  # a column of classes with a gap in it holds 1.0 for 1
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _file(path: Path) -> Source:
    match path.suffix.lower():
        case ".jsonl" | ".ndjson" | ".json":
            for number, row in read_objects(path):
                yield f"{path}, line {number}", row
        case ".csv" | ".tsv":
            yield from _csv(path, "\t" if path.suffix.lower() == ".tsv" else ",")
        case ".parquet":
            yield from _parquet(path)
        case other:
            raise UserError(
                f"{path}: the ending '{other}' is not known", "use .jsonl, .csv, .tsv or .parquet"
            )


def _csv(path: Path, delimiter: str) -> Source:
    csv.field_size_limit(2**31 - 1)
    # Blank lines are kept: they may stand inside a quoted field.
    reader = csv.reader(
        (line for _, line in read_lines(path, blank=True)), delimiter=delimiter, strict=True
    )
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            hint = "quote fields that hold quotes or line ends, and double the quotes in them"
            raise UserError(f"{path}, line {start}: no valid CSV: {error}", hint) from None
        if header is None:
            header = row
            if repeated := [name for name, n in Counter(header).items() if n > 1]:
                raise UserError(
                    f"{path}, line 1: the column '{repeated[0]}' stands twice", "rename one of them"
                )
        elif row:
            if len(row) != len(header):
                message = (
                    f"{path}, line {start}: {len(row)} fields where the header has {len(header)}"
                )
                raise UserError(message, "quote fields that hold the delimiter")
            yield f"{path}, line {start}", dict(zip(header, row, strict=True))


def _parquet(path: Path) -> Source:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        if repeated := [name for name, n in Counter(file.schema_arrow.names).items() if n > 1]:
            raise UserError(
                f"{path}: the column '{repeated[0]}' stands twice", "rename one of them"
            )
        start = 0
        for batch in file.iter_batches(batch_size=4096):
            for offset, row in enumerate(batch.to_pylist()):
                yield f"{path}, row {start + offset}", row
            start += batch.num_rows
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{path}: cannot be read as Parquet: {error}", "check the path and the file"
        ) from None


def _hub(data: HubData) -> Iterator[tuple[str, Source]]:
    import datasets

    datasets.disable_progress_bars()
    where = (
        data.path
        + (f", config {data.name}" if data.name else "")
        + (f" at {data.revision}" if data.revision else "")
    )
    try:
        found = datasets.load_dataset(data.path, data.name, revision=data.revision)
    except Exception as error:
        # The library raises a dozen unrelated classes here: no network, no such id, a gated repository, a script.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "check path, name and revision, the network, and HF_TOKEN for gated data"
        raise UserError(f"{where}: cannot be loaded: {reason}", hint) from None
    for split in SPLITS:
        name = data.splits.get(split, split)
        if split == "validation" and split not in data.splits and name in data.splits.values():
            continue  # GLUE's validation rows serve as the test: they must not stop the training early too
        if name in found:
            yield (
                split,
                (
                    (f"{where}, {name} row {number}", row)
                    for number, row in enumerate(_named(found[name], data))
                ),
            )
        elif split in data.splits or split != "validation":
            raise UserError(
                f"{where}: no split '{name}'",
                f"splits are {', '.join(map(str, found))}; name them with task.data.splits",
            )


def _named(rows: Any, data: HubData) -> Iterator[dict[str, Any]]:
    """Yield rows with the names of a ClassLabel column in place of its numbers, unless `values` speaks of the numbers."""
    feature = rows.features.get(data.label)
    names = getattr(feature, "names", None)
    for row in rows:
        number = row.get(data.label)
        if (
            names
            and isinstance(number, int)
            and 0 <= number < len(names)
            and str(number) not in data.values
        ):
            row = {**row, data.label: names[number]}
        yield row


def split_evenly(total: int, parts: int) -> list[int]:
    """Return `total` dealt evenly over `parts`, the first parts getting the remainder."""
    each, more = divmod(total, parts)
    return [each + (position < more) for position in range(parts)]
