"""The rows that the Python API takes and gives: a pandas DataFrame or a list of records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .api_messages import Messages
from .errors import UserError, shown_value
from .records import Record, write_records

if TYPE_CHECKING:
    from pandas import DataFrame

Records = list[dict[str, Any]]
Rows = TypeVar("Rows", "DataFrame", Records)


def task_of_rows(
    raw: Mapping[str, Any],
    train: "DataFrame | Records | None",
    test: "DataFrame | Records | None",
    out: Path,
    messages: Messages,
) -> dict[str, Any]:
    """Return the task of a config, class names as words, with files of the given rows as its data.

    Args:
        raw: the config's keys.
        train: labelled rows, or None.
        test: test rows, or None.
        out: the folder of all results.
        messages: that name the arguments in place of these files.

    Raises:
        UserError: if a value of the rows cannot be in a file.
    """
    task = dict(raw["task"])
    data = dict(task.get("data") or {})
    task |= {"labels": _as_words(task["labels"])} if "labels" in task else {}
    data |= {"values": _as_words(data["values"])} if "values" in data else {}
    data |= {key: str(data[key]) for key in ("text", "label", "id") if key in data}
    folder = out / str(raw.get("name") or "config")
    for split, rows in (("train", train), ("test", test)):
        if rows is not None:
            path = folder / f"{split}-rows.jsonl"
            columns = [str(data.get(key, key)) for key in ("text", "label", "id")]
            write_records(path, _file_rows(rows, columns, split))
            messages.name_file(path, split)
            data |= {"kind": "files", split: str(path.resolve())}
    return {**task, "data": data}


def _file_rows(rows: "DataFrame | Records", columns: Sequence[str], split: str) -> list[Record]:
    """Return the columns of rows that a task reads: others may hold what JSON does not have.

    Raises:
        UserError: if a value is neither a word nor a number.
    """
    result = []
    for number, row in enumerate(as_records(rows)):
        values = {str(key): as_plain(value) for key, value in row.items() if str(key) in columns}
        for key, value in values.items():
            if not isinstance(value, str | int | float | None) or value != value:
                raise UserError(
                    f"{split}, row {number}: column '{key}' has {shown_value(value)}",
                    "make it a string or a number",
                )
        result.append(Record(**values))
    return result


def as_plain(value: Any) -> Any:
    """Return a number or word of NumPy as that of Python."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN or another missing value of pandas."""
    import pandas as pd

    return value is None or pd.isna(value) is True


def _as_words(value: Any) -> Any:
    """Return a mapping or list with its numbers as words, as a YAML file has them."""
    if isinstance(value, Mapping):
        return {str(key): str(word) for key, word in value.items()}
    return [str(word) for word in value] if isinstance(value, list) else value


def as_records(rows: "DataFrame | Records") -> Records:
    """Return rows as new mappings; NaN and other missing values of a DataFrame become None.

    Raises:
        UserError: if they are neither a DataFrame nor a list of mappings.
    """
    if isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows):
        return [dict(row) for row in rows]
    if not (hasattr(rows, "columns") and hasattr(rows, "to_dict")):
        raise UserError(
            f"rows are a DataFrame or a list of records, not {shown_value(rows)}",
            'give each text in a record, such as [{"text": "..."}]',
        )
    frame: Any = rows
    frame = frame.astype(object)
    records: Records = frame.where(frame.notna(), None).to_dict("records")
    return records


def as_given(records: Any, rows: Rows) -> Rows:
    """Return records in the form of some rows."""
    if isinstance(rows, list):
        return [row.model_dump() for row in records]
    return to_frame(records)


def to_frame(records: Any) -> "DataFrame":
    """Return records as a DataFrame."""
    import pandas as pd

    return pd.DataFrame([row.model_dump() for row in records])
