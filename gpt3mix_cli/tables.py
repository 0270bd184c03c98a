"""Reads the rows of JSONL, CSV, TSV, Parquet and Excel files and of folders as a stream.

The parsers of pandas and pyarrow accept damaged files: they pad short rows, drop stray quotes and
rename duplicate columns. The readers here find all of these, and their lines.
"""

import csv
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from .errors import UserError, shorten, shown_list
from .folders import folder_class_names, read_folder, read_workbook, refuse_duplicates
from .jsonl import MAX_LINE_BYTES, read_lines, read_objects
from .settings import TableFormat

DELIMITERS = ",;\t|"
BATCH_ROWS = 256  # of Parquet; a dictionary can give each row a large value
# A Parquet file that unpacks to more than both is taken for a compressed bomb.
MAX_UNPACKED_BYTES = 500_000_000
MAX_UNPACKED_RATIO = 100
DEFAULT_FORMAT = TableFormat()

Rows = Iterator[tuple[str, dict[str, Any]]]  # (file and line for messages, row)
OnRaggedRow = Callable[[str, str, UserError], object]  # file and line, the line, what is wrong


def read_rows(
    path: Path,
    needed: Mapping[str, str],
    optional: Collection[str] = (),
    format: TableFormat = DEFAULT_FORMAT,
    warn: Callable[[str], object] = lambda message: None,
    on_ragged_row: OnRaggedRow | None = None,
) -> Rows:
    """Yield (file and line, row) of a file, whose format follows from its suffix.

    Args:
        path: the file.
        needed: names of columns that must exist -> the key or flag that names them. Empty: all
            columns are read.
        optional: columns to read where they exist. Parquet columns that are in neither are not
            read; rows of other formats may have them.
        format: of CSV and TSV files.
        warn: called with each warning.
        on_ragged_row: called with each line of CSV and TSV files that has too few or too many
            fields, which is left out then; by default an error.

    Raises:
        UserError: with the file and line, if it cannot be read or a column is missing.
    """
    if os.path.isdir(path):  # unlike that of Path, this takes a name that is too long
        yield from _fill_columns(read_folder(path), needed)
        return
    match path.suffix.lower():
        case ".jsonl" | ".ndjson" | ".json":
            rows = ((f"{path}, line {number}", row) for number, row in read_objects(path))
            yield from _fill_columns(rows, needed)
        case ".csv" | ".tsv" as suffix:
            usual = "," if suffix == ".csv" else "\t"
            reader = DelimitedFile(path, usual, needed, format, warn, on_ragged_row)
            # Blank lines are kept: they may be part of a quoted field.
            yield from reader.rows(read_lines(path, blank=True))
        case ".parquet":
            yield from _read_parquet(path, needed, optional)
        case ".xlsx" | ".xlsm":
            yield from _fill_columns(read_workbook(path), needed)
        case suffix:
            raise UserError(
                f"{path}: the suffix '{suffix}' is not known",
                "use .jsonl, .csv, .tsv, .parquet, .xlsx or a folder",
            )


def _fill_columns(rows: Rows, needed: Mapping[str, str]) -> Rows:
    """Yield rows, with None for a needed column that one lacks; another row must have it."""
    first, missing, pending = "", set(needed), list[tuple[str, dict[str, Any]]]()
    for where, row in rows:
        first, missing = first or where, missing - row.keys()
        pending.append((where, row))
        if not missing:
            yield from ((where, {**dict.fromkeys(needed), **row}) for where, row in pending)
            pending = []
    if pending:
        columns = dict.fromkeys(name for _, row in pending for name in row)
        require_columns(first, columns, needed)


def class_names(path: Path, column: str) -> list[str]:
    """Return the names of the numbers in a ClassLabel column; empty if it is not one.

    The `datasets` library stores them in the schema of the Parquet files that it writes.

    Raises:
        UserError: if the file cannot be read.
    """
    if os.path.isdir(path):  # unlike that of Path, this takes a name that is too long
        return folder_class_names(path, column)
    if path.suffix.lower() != ".parquet":
        return []
    with open_parquet(path) as file:
        metadata = file.schema_arrow.metadata or {}
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        names = feature["names"] if feature["_type"] == "ClassLabel" else []
    except (KeyError, TypeError, ValueError):  # not written by `datasets`, or another feature
        return []
    return [str(name) for name in names]


def require_columns(where: str, columns: Collection[str], needed: Mapping[str, str]) -> None:
    """Refuse columns that lack a needed one.

    Args:
        where: file and line, for the message.
        columns: names of the columns.
        needed: name of a column -> the key or flag that names it.

    Raises:
        UserError: if one is missing.
    """
    for name, key in needed.items():
        if name not in columns:
            raise UserError(
                f"{where}: no column '{name}'",
                f"columns are {shown_list([*columns])}; name the right one with {key}",
            )


# CSV and TSV ---------------------------------------------------------------------------------


class DelimitedFile:
    """A CSV or TSV file.

    Args:
        path: the file.
        delimiter: the usual one of its suffix.
        needed: as in `read_rows`.
        format: of the file.
        warn: called with each warning.
        on_ragged_row: as in `read_rows`.

    Attributes:
        delimiter: of the file; it may be another than the usual one once the first line is read.
        header: names of the columns.
        header_lines: the lines of the header; none in a file without one.
        lines: those of the row that `rows` has just yielded.
    """

    def __init__(
        self,
        path: Path,
        delimiter: str,
        needed: Mapping[str, str],
        format: TableFormat,
        warn: Callable[[str], object],
        on_ragged_row: OnRaggedRow | None = None,
    ) -> None:
        self._on_ragged_row = on_ragged_row
        self._path, self._needed, self._format, self._warn = path, needed, format, warn
        self.delimiter = format.delimiter or delimiter
        self.header, self.header_lines = list(format.columns), list[str]()
        self.lines: list[str] = []  # more than one if a quoted field has several

    def rows(self, numbered: Iterator[tuple[int, str]]) -> Rows:
        """Yield (file and line, row) of the numbered lines of the file, blank ones included."""
        csv.field_size_limit(MAX_LINE_BYTES)
        start, first = next(((number, line) for number, line in numbered if line.strip()), (1, ""))
        if self.header:
            require_columns(str(self._path), self.header, self._needed)
        try:
            self._guess_delimiter(first)
            lines = chain([first], (line for _, line in numbered))
            for fields in self._reader(self._remember(lines), self.delimiter):
                where = f"{self._path}, line {start}"
                if fields and not self.header:
                    self._read_header(fields, where)
                    self.header_lines = self.lines[:]
                elif fields and fields == self._format.columns:
                    self.header_lines = self.lines[:]
                elif fields and self._is_row(fields, where):
                    yield where, dict(zip(self.header, fields, strict=True))
                start += len(self.lines)
                self.lines.clear()
        except csv.Error as error:
            raise self._invalid(f"{self._path}, line {start}", str(error)) from None

    def _reader(
        self, lines: Iterable[str], delimiter: str, strict: bool = True
    ) -> Iterator[list[str]]:
        quotechar = None if self._format.quoting == "none" else '"'
        return csv.reader(lines, delimiter=delimiter, quotechar=quotechar, strict=strict)

    def _remember(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            self.lines.append(line)
            yield line

    def _guess_delimiter(self, line: str) -> None:
        """Set the delimiter that gives the first line the needed columns, if only another does."""
        if self._format.delimiter:
            return
        usual, columns = self.delimiter, self._format.columns
        for delimiter in sorted(DELIMITERS, key=lambda character: character != usual):
            fields = _strip(next(self._reader([line], delimiter, strict=False), []))
            if len(fields) == len(columns) if columns else self._needed.keys() <= set(fields):
                if delimiter != usual:
                    self.delimiter = delimiter
                    self._warn(
                        f"{self._path}: read with the delimiter {delimiter!r}, not {usual!r}"
                    )
                return

    def _read_header(self, fields: Sequence[str], where: str) -> None:
        self.header = _strip(fields)
        refuse_duplicates(self.header, where)
        try:
            require_columns(where, self.header, self._needed)
        except UserError as error:
            hint = (
                "if this line is a row, name the columns of the file: `columns: [...]`, --columns"
            )
            raise UserError(error.message, f"{error.hint}; {hint}") from None

    def _is_row(self, fields: Sequence[str], where: str) -> bool:
        if len(fields) != len(self.header):
            error = UserError(
                f"{where}: {len(fields)} fields where the header has {len(self.header)}",
                "quote fields that contain the delimiter, or set `delimiter:`",
            )
            if not self._on_ragged_row or len(self.lines) > 1:  # a quote may have swallowed rows
                raise error
            self._on_ragged_row(where, self.lines[0].rstrip("\r\n"), error)
            return False
        # In CSV files two such lines are rather a text with a number such as 1,000.
        enough = 2 if self.delimiter == "\t" else 3
        if len(self.lines) >= enough and self._format.quoting == "auto" and self._swallows_rows():
            raise UserError(
                f"{where}: a quoted field runs over {len(self.lines)} lines, each of which looks "
                "like a row",
                "if quotes are plain characters in this file, set `quoting: none`; if the field "
                "is right, set `quoting: csv` (predict has --quoting)",
            )
        return True

    def _swallows_rows(self) -> bool:
        """Return whether all lines of the current row could be rows.

        A right field has too few delimiters for that, except in a text such as a list: there a
        comma ends a line or precedes a blank.
        """
        for line in filter(str.strip, self.lines):
            fields = line.rstrip("\r\n").split(self.delimiter)
            if len(fields) != len(self.header):
                return False
            row = dict(zip(self.header, fields, strict=True))
            values = [row[name] for name in self._needed or row]
            if self.delimiter != "\t" and not all(v and not v[0].isspace() for v in values):
                return False
        return True

    def _invalid(self, where: str, problem: str) -> UserError:
        if problem.startswith("new-line character"):
            return UserError(
                f"{where}: a carriage return that does not end the line",
                "save the file with the line ends of Unix or Windows",
            )
        return UserError(
            f"{where}: not valid CSV: {problem}",
            "quote fields that contain quotes or line ends, and double the quotes in them; or, if "
            "quotes are plain characters in this file, set `quoting: none` (predict has --quoting)",
        )


def _strip(fields: Iterable[str]) -> list[str]:
    return [field.strip() for field in fields]


# Parquet -------------------------------------------------------------------------------------


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """Open a Parquet file.

    Raises:
        UserError: if it cannot be read, at once or in the block.
    """
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{path}: cannot be read as Parquet: {shorten(error, 300)}",
            "check the path and the file",
        ) from None


def _read_parquet(path: Path, needed: Mapping[str, str], optional: Collection[str]) -> Rows:
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        refuse_duplicates(names, str(path))
        require_columns(str(path), names, needed)
        wanted = [name for name in names if not needed or name in needed or name in optional]
        limit = max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * path.stat().st_size)
        number = unpacked = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=wanted):
            columns = [unpack_column(batch.column(name)) for name in wanted]
            unpacked += sum(column.nbytes for column in columns)
            if unpacked > limit:
                raise UserError(
                    f"{path}: its rows unpack to more than {limit:,} bytes",
                    "this looks like a damaged file; save real rows as JSONL or CSV",
                )
            values = [
                column_values(column, f"{path}, column '{name}', row {number} or a later one")
                for name, column in zip(wanted, columns, strict=True)
            ]
            for row in zip(*values, strict=True):
                yield f"{path}, row {number}", dict(zip(wanted, row, strict=True))
                number += 1


def unpack_column(column: Any) -> Any:
    """Return a column of Parquet with its values in place of a dictionary's indices."""
    return column.dictionary_decode() if hasattr(column, "dictionary_decode") else column


def column_values(column: Any, where: str) -> list[Any]:
    """Return the values of a column of Parquet.

    Raises:
        UserError: that begins with `where`, if Python has no such value.
    """
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError) as error:
        raise UserError(
            f"{where}: a value that cannot be read: {error}", "fix the column, or remove it"
        ) from None
    return values
