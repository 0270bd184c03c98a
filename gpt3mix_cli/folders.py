"""Rows of folders and workbooks: a folder of text files per class, `save_to_disk`, and Excel."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from .errors import UserError, first_line, shorten

Rows = Iterator[tuple[str, dict[str, Any]]]  # (file and row for messages, row)

DATASET_INFO = "dataset_info.json"  # in a folder that `save_to_disk` wrote
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}


def read_folder(path: Path) -> Rows:
    """Yield the rows of a folder.

    In a folder with a folder per class, each file is a text; the columns are `text` and `label`.

    Raises:
        UserError: if it is neither such a folder nor one of `save_to_disk`.
    """
    if (path / DATASET_INFO).is_file():
        yield from _read_saved_dataset(path)
        return
    if splits := split_folders(path):
        raise UserError(
            f"{path}: holds the splits {', '.join(splits)}",
            f"name one of them, such as {next(iter(splits.values()))}",
        )
    classes = sorted(child for child in path.iterdir() if _is_visible(child) and child.is_dir())
    if not classes:
        raise UserError(
            f"{path}: is a folder without a folder of texts for each class",
            "give a file, such folders, or a folder that `save_to_disk` wrote",
        )
    for folder in classes:
        for file in sorted(filter(_is_visible, folder.rglob("*"))):
            if file.is_file():
                yield str(file), {"text": _read_text(file), "label": folder.name}


def split_folders(path: Path) -> dict[str, Path]:
    """Return split -> folder, if a folder consists of a train folder and other splits."""
    names = {child.name: child for child in path.iterdir() if child.is_dir()}
    found = {
        split: names[name]
        for split, aliases in SPLIT_NAMES.items()
        for name in aliases
        if name in names
    }
    has_others = any(_is_visible(child) and child not in found.values() for child in names.values())
    return found if "train" in found and not has_others else {}


def folder_class_names(path: Path, column: str) -> list[str]:
    """Return the names of the numbers in a column of `save_to_disk`; empty if there are none."""
    try:
        info = json.loads((path / DATASET_INFO).read_text(encoding="utf-8"))
        feature = info["features"][column]
        names = feature["names"] if feature["_type"] == "ClassLabel" else []
    except (OSError, KeyError, TypeError, ValueError):
        return []
    return [str(name) for name in names]


def _is_visible(path: Path) -> bool:
    return not path.name.startswith((".", "__"))


def _read_text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 ({error.reason})", "save the file as UTF-8") from None


def _read_saved_dataset(path: Path) -> Rows:
    import datasets

    try:
        dataset = datasets.Dataset.load_from_disk(str(path))
        for number, row in enumerate(dataset):
            yield f"{path}, row {number}", row
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: cannot be read as a data set: {first_line(error)}",
            "write it again with save_to_disk, or save its rows as Parquet",
        ) from None


def refuse_duplicates(columns: Sequence[str], where: str) -> None:
    """Refuse two columns of the same name.

    Raises:
        UserError: if there are any.
    """
    for name, count in Counter(columns).items():
        if count > 1 and name:  # without names are the empty columns of a spreadsheet
            raise UserError(f"{where}: duplicate column '{shorten(name)}'", "rename one of them")


def read_workbook(path: Path) -> Rows:
    """Yield the rows of the first sheet of an Excel file, whose first row names the columns.

    Raises:
        UserError: if it cannot be read, or openpyxl is missing.
    """
    header: list[str] = []
    for number, values in sheet_rows(path):
        where = f"{path}, row {number}"
        if not header:
            header = header_names(values, where)
            continue
        # A row ends with its last value.
        padded = chain(values, repeat(None, len(header) - len(values)))
        yield where, dict(zip(header, padded, strict=False))


def header_names(values: Sequence[Any], where: str) -> list[str]:
    """Return the names of the columns, by the first row of a sheet.

    Raises:
        UserError: that begins with `where`, if two are the same.
    """
    names = ["" if value is None else str(value).strip() for value in values]
    refuse_duplicates(names, where)
    return names


def sheet_rows(path: Path) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield (number, values) of the rows of the first sheet of an Excel file, without empty rows.

    Raises:
        UserError: if it cannot be read, or openpyxl is missing.
    """
    try:
        import openpyxl
    except ImportError:
        raise UserError(
            f"{path}: reading Excel files needs openpyxl",
            "pip install 'gpt3mix[excel]', or save the sheet as CSV",
        ) from None
    with (
        workbook_errors(path),
        closing(openpyxl.load_workbook(path, read_only=True, data_only=True)) as book,
    ):
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # some programs write a wrong size, which would hide rows
        for number, values in enumerate(sheet.iter_rows(values_only=True), 1):
            if any(value is not None for value in values):
                yield number, values


@contextmanager
def workbook_errors(path: Path) -> Iterator[None]:
    """Turn what a damaged or missing Excel file raises into a message."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", "check the path") from None
    except Exception as error:
        # A damaged file gives errors of zip, XML and openpyxl, which have no common class.
        raise UserError(
            f"{path}: cannot be read as an Excel file: {first_line(error)}",
            "save the sheet as CSV, in UTF-8",
        ) from None
