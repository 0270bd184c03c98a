"""What a file of labelled texts holds: columns, classes, and every row that cannot be used."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..classes import MAX_CLASSES, MIN_CLASS_ROWS, SMALL_CLASS, merge_spellings, similar_class
from ..duplicates import copy_key, find_conflicts
from ..errors import UserError, did_you_mean, shown_list
from ..folders import refuse_duplicates, split_folders
from ..jsonl import read_lines
from ..labelled_rows import (
    EMPTY_LABEL,
    EMPTY_TEXT,
    RAGGED_ROW,
    UNKNOWN_LABEL,
    BadRow,
    raw_label,
    two_labels,
)
from ..settings import TableFormat
from ..tables import DELIMITERS, class_names, read_rows

FEW_CLASS_ROWS = 8  # below it a class is hardly learned, nor measured
TEXT_NAMES = (
    "text", "body", "sentence", "content", "message", "review", "comment", "description",
    "question", "utterance", "document", "abstract", "beschreibung", "nachricht",
)  # fmt: skip
LABEL_NAMES = (
    "label", "class", "category", "queue", "intent", "topic", "sentiment", "target", "tag", "type",
    "rating", "stars", "kategorie", "klasse",
)  # fmt: skip


@dataclass(frozen=True)
class DataOptions:
    """What the user says about the data.

    Attributes:
        text: column of the text; None to guess.
        label: column of the label; None to guess.
        columns: names of all columns of a file without a header.
    """

    text: str | None = None
    label: str | None = None
    columns: Sequence[str] = ()


@dataclass(frozen=True)
class DataProfile:
    """What a file of labelled texts holds.

    Attributes:
        splits: split -> file or folder.
        text: column of the text.
        label: column of the label.
        why: how the two columns were chosen.
        columns: all of them.
        headerless: whether the user has named the columns.
        delimiter: of a CSV or TSV file, if it is not the usual one.
        unique_ids: whether a column `id`, if there is one, can name the rows.
        classes: class -> number of usable rows, in order.
        values: raw label value -> class, where they differ.
        similar: label that is left out -> the class that it may be a typing error of.
        bad_rows: rows that cannot be used.
        num_rows: all rows.
        words: number of words of each usable text.
        ascii_letters: fraction of letters that are English ones.
    """

    splits: Mapping[str, Path]
    text: str
    label: str
    why: str
    columns: Sequence[str]
    headerless: bool
    delimiter: str | None
    unique_ids: bool
    classes: Mapping[str, int]
    values: Mapping[str, str]
    similar: Mapping[str, str]
    bad_rows: Sequence[BadRow]
    num_rows: int
    words: Sequence[int]
    ascii_letters: float


def profile_data(path: Path, options: DataOptions) -> DataProfile:
    """Return what a file or folder holds.

    Raises:
        UserError: if it cannot be read, or has no text or label column.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder", "give a file of labelled texts")
    splits = (split_folders(path) if path.is_dir() else {}) or {"train": path}
    delimiter = _delimiter(splits["train"], len(options.columns))
    refuse_duplicates(options.columns, "--columns")
    format = TableFormat(delimiter=delimiter, columns=list(options.columns))
    ragged: list[BadRow] = []
    errors: list[UserError] = []

    def on_ragged_row(where: str, line: str, error: UserError) -> None:
        ragged.append(BadRow(where, RAGGED_ROW, line, ""))
        errors.append(error)

    rows = list(read_rows(splits["train"], {}, format=format, on_ragged_row=on_ragged_row))
    if len(ragged) > len(rows):
        raise errors[0]  # the delimiter or the header is wrong, not the rows
    if not rows:
        raise UserError(f"{path}: there are no rows", "give a file of labelled texts")
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    text, label, why = _choose_columns(path, columns, [row for _, row in rows], options)
    names = {str(n): name for n, name in enumerate(class_names(splits["train"], label))}
    labels = [raw_label(row.get(label), names) for _, row in rows]
    values = merge_spellings(Counter(raw for raw in labels if raw))
    labels = [values.get(raw, raw) for raw in labels]
    bad_rows, usable = _sort_rows(rows, labels, text)
    counts = Counter(labels[number] for number in usable)
    texts_of = Counter(label for _, label in {
        (copy_key(rows[number][1][text]), labels[number]) for number in usable
    })  # fmt: skip
    small = {name for name in counts if texts_of[name] < MIN_CLASS_ROWS}
    classes = {name: counts[name] for name in sorted(counts) if name not in small}
    similar = {name: near for name in sorted(small) if (near := similar_class(name, classes))}
    for number in usable:
        if (name := labels[number]) in small:
            detail = SMALL_CLASS + (f"; '{similar[name]}'?" if name in similar else "")
            row = BadRow(rows[number][0], UNKNOWN_LABEL, rows[number][1][text], name, detail)
            bad_rows.append(row)
    texts = [rows[number][1][text] for number in usable]
    letters = [char for item in texts[:1000] for char in item if char.isalpha()]
    order = {where: number for number, (where, _) in enumerate(rows)}
    ids = [row.get("id") for _, row in rows]
    return DataProfile(
        splits,
        text,
        label,
        why,
        columns,
        bool(options.columns),
        delimiter,
        "id" not in columns or (None not in ids and len(set(map(str, ids))) == len(ids)),
        classes,
        {raw: name for raw, name in values.items() if name not in small},
        similar,
        [*ragged, *sorted(bad_rows, key=lambda row: order[row.where])],
        len(rows) + len(ragged),
        [len(item.split()) for item in texts],
        fmean(char.isascii() for char in letters) if letters else 1.0,
    )


def _sort_rows(
    rows: Sequence[tuple[str, dict[str, Any]]], labels: Sequence[str], text: str
) -> tuple[list[BadRow], list[int]]:
    """Return the rows that cannot be used, and the numbers of the others."""
    bad: list[BadRow] = []
    usable: list[int] = []
    for number, ((where, row), label) in enumerate(zip(rows, labels, strict=True)):
        value = row.get(text)
        if value is None or (isinstance(value, str) and not value.strip()):
            bad.append(BadRow(where, EMPTY_TEXT, value, label))
        elif not isinstance(value, str):
            bad.append(BadRow(where, "not a text", value, label))
        elif not label:
            bad.append(BadRow(where, EMPTY_LABEL, value, label))
        else:
            usable.append(number)
    conflicts = find_conflicts((rows[number][1][text], labels[number]) for number in usable)
    for at, other in conflicts.items():
        (where, row), (place, _) = rows[usable[at]], rows[usable[other]]
        bad.append(two_labels(where, row[text], labels[usable[at]], (place, labels[usable[other]])))
    return bad, [number for at, number in enumerate(usable) if at not in conflicts]


def _delimiter(path: Path, num_columns: int) -> str | None:
    """Return the delimiter of a CSV or TSV file, if it is not the usual one of its suffix."""
    if path.suffix.lower() not in (".csv", ".tsv") or path.is_dir():
        return None
    usual = "," if path.suffix.lower() == ".csv" else "\t"
    line = next((line for _, line in read_lines(path)), "")
    counts = {
        delimiter: len(next(csv.reader([line], delimiter=delimiter), []))
        for delimiter in sorted(DELIMITERS, key=lambda character: character != usual)
    }
    best = max(counts, key=lambda delimiter: counts[delimiter])
    if num_columns:
        best = next((item for item, count in counts.items() if count == num_columns), usual)
    return None if best == usual else best


# Columns -------------------------------------------------------------------------------------


def _choose_columns(
    path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]], options: DataOptions
) -> tuple[str, str, str]:
    """Return the columns of text and label, and how they were chosen."""
    for flag, name in (("--text", options.text), ("--label", options.label)):
        if name is not None and name not in columns:
            raise UserError(
                f"{path}: no column '{name}'{did_you_mean(name, columns)}",
                f"columns are {shown_list(columns)}; name the right one with {flag}, or all of "
                "them with --columns if the file has no header",
            )
    values = {name: [_as_text(row.get(name)) for row in rows] for name in columns}
    text, why_text = options.text, "as given"
    if text is None:
        others = [name for name in columns if name != options.label]
        text, why_text = _guess_text(path, others, values)
    label, why_label = options.label, "as given"
    if label is None:
        others = [name for name in columns if name != text]
        label, why_label = _guess_label(path, others, values)
    if text == label:
        raise UserError(f"{path}: '{text}' cannot be text and label", "name another with --label")
    return text, label, f"text: column '{text}' ({why_text}); label: '{label}' ({why_label})"


def _as_text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _guess_text(
    path: Path, columns: Sequence[str], values: Mapping[str, Sequence[str]]
) -> tuple[str, str]:
    by_name = {name.casefold(): name for name in columns}
    if named := [by_name[name] for name in TEXT_NAMES if name in by_name]:
        return named[0], "by its name"
    lengths = {name: fmean(len(value) for value in values[name]) for name in columns}
    best = max(columns, key=lambda name: lengths[name], default="")
    if lengths.get(best, 0) < 10:
        raise UserError(
            f"{path}: no column looks like a text",
            f"columns are {shown_list(columns)}; name it with --text, or all columns with "
            "--columns if the file has no header",
        )
    return best, f"the longest texts, {lengths[best]:.0f} characters on average"


def _guess_label(
    path: Path, columns: Sequence[str], values: Mapping[str, Sequence[str]]
) -> tuple[str, str]:
    counts = {name: len(set(filter(None, values[name]))) for name in columns}
    repeats = {
        name: count
        for name, count in counts.items()
        if 2 <= count <= min(MAX_CLASSES, len(values[name]) / 2)
    }
    by_name = {name.casefold(): name for name in repeats}
    if named := [by_name[name] for name in LABEL_NAMES if name in by_name]:
        return named[0], f"by its name; {counts[named[0]]} values"
    if not repeats:
        raise UserError(
            f"{path}: no column looks like a label, with a few values that repeat",
            f"columns are {shown_list(columns)}; name it with --label, or all columns with "
            "--columns if the file has no header",
        )
    best = min(repeats, key=lambda name: repeats[name])
    return best, f"the fewest values, {repeats[best]}"
