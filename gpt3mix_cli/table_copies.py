"""Reads files of texts in chunks, and writes copies of them with more columns.

A copy has the form of its source, and what the source has stays as it is: lines are copied byte for
byte, columns of Parquet with their types. One chunk is in memory at a time, so files may be larger
than it, and may be pipes; Excel files are read whole.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from .errors import UserError, shorten
from .files import STDIO, Writer
from .jsonl import parse_object, read_lines, to_json
from .tables import DELIMITERS, DelimitedFile
from .text_tables import (
    Chunk,
    ParquetTable,
    TableOptions,
    TextTable,
    Values,
    Write,
    refuse_clash,
)
from .workbook_tables import WorkbookTable

BINARY_FORMS: Mapping[str, Callable[[Path, TableOptions], TextTable]] = {
    "parquet": ParquetTable,
    "xlsx": WorkbookTable,
    "xlsm": WorkbookTable,
}
FORMS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv",
    ".parquet": "parquet", ".xlsx": "xlsx", ".xlsm": "xlsm", ".txt": "text",
}  # fmt: skip
BYTE_ORDER_MARK = "\ufeff"


def open_table(source: Path, output: Path, options: TableOptions) -> TextTable:
    """Return a file of texts.

    Args:
        source: the file; `-` for stdin.
        output: its copy; where the source's name does not say its form, that of the copy does.
        options: how to read it.

    Raises:
        UserError: if the form is unknown, or the copy is to have another one.
    """
    form, target = options.form or _form(source), _form(output)
    is_named = source != STDIO and (source.is_file() or not source.exists())
    if not form and is_named:
        raise UserError(
            f"{source}: the suffix '{source.suffix}' is not known",
            f"use one of {', '.join(FORMS)}, or name the form with --format",
        )
    form = form or target
    if table := BINARY_FORMS.get(form):
        _require_form(form, output, target)
        if output == STDIO:
            name = "Parquet" if form == "parquet" else "Excel"
            raise UserError(f"{name} cannot be written to stdout", "give a file with -o")
        return table(source, options)
    numbered = read_lines(source, blank=True, keep_mark=True)
    if not form:
        numbered, form = _guess_form(source, numbered, options)
    if form == "text" and target in ("csv", "tsv", "jsonl"):  # the texts become a column
        numbered, form = _as_rows(numbered, target, options.column), target
    else:
        _require_form(form, output, target)
    match form:
        case "jsonl":
            return JsonlTable(source, numbered, options)
        case "text":
            return PlainTexts(source, numbered, options)
        case _:
            return DelimitedTable(source, numbered, options, "\t" if form == "tsv" else ",")


def _form(path: Path) -> str:
    return "" if path == STDIO else FORMS.get(path.suffix.lower(), "")


def _require_form(form: str, output: Path, target: str) -> None:
    if target and target != form:
        raise UserError(
            f"{output}: the output has the form of the input, {form}",
            f"give the output the suffix .{'txt' if form == 'text' else form}",
        )


def _guess_form(
    source: Path, numbered: Iterator[tuple[int, str]], options: TableOptions
) -> tuple[Iterator[tuple[int, str]], str]:
    """Return the lines of a pipe and its form, by the first of them that is not blank."""
    start = []
    for number, line in numbered:
        start.append((number, line))
        if line.strip():
            break
    first = start[-1][1].removeprefix(BYTE_ORDER_MARK).strip() if start else ""
    form = "jsonl" if first.startswith("{") else "text"
    for delimiter in DELIMITERS:
        if options.column in [name.strip(' "') for name in first.split(delimiter)]:
            form = "tsv" if delimiter == "\t" else "csv"
    if form == "text" and first:
        options.warn(f"{source}: read as plain text, a text on each line; or name its --format")
    return chain(start, numbered), form


def _as_rows(
    numbered: Iterator[tuple[int, str]], form: str, column: str
) -> Iterator[tuple[int, str]]:
    """Yield plain texts as rows with one column."""
    delimiter = "\t" if form == "tsv" else ","
    for number, line in numbered:
        text = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        text = text.rstrip("\r\n")
        if number == 1 and form != "jsonl":
            yield 0, f"{_delimited([column], delimiter)}\n"
        row = to_json({column: text}) if form == "jsonl" else _delimited([text], delimiter)
        yield number, f"{row}\n"


# Lines ---------------------------------------------------------------------------------------


class _LineTable(TextTable):
    """A file of lines: a row is copied as it is, with the new values at its end."""

    def __init__(
        self, path: Path, numbered: Iterator[tuple[int, str]], options: TableOptions
    ) -> None:
        self._path, self._column, self._added = path, options.column, options.added
        self._label, self._mark, self._is_empty = options.label, "", True
        self._numbered = self._without_mark(numbered)

    def _without_mark(self, numbered: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        for number, line in numbered:
            if number <= 1 and line.startswith(BYTE_ORDER_MARK):
                self._mark = BYTE_ORDER_MARK
                line = line.removeprefix(BYTE_ORDER_MARK)
            self._is_empty = self._is_empty and not line
            yield number, line

    def _rows(self) -> Iterator[tuple[str, Mapping[str, Any], str]]:
        """Yield (file and line, row, its lines)."""
        raise NotImplementedError

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield the rows in chunks."""
        chunk, is_first = Chunk(), True
        try:
            for where, row, lines in self._rows():
                chunk.texts.append(_text(row[self._column], where, self._column))
                chunk.labels.append(row.get(self._label))
                chunk.rows.append(lines)
                chunk.num_bytes += len(lines.encode())
                if len(chunk.texts) == size:
                    yield chunk
                    chunk, is_first = Chunk(), False
        except UserError:
            if chunk.rows and not is_first:
                del chunk.texts[len(chunk.rows) :], chunk.labels[len(chunk.rows) :]
                yield chunk
            raise
        if self._is_empty:
            raise UserError(
                f"{self._path}: is empty", "check the path, and the command that wrote it"
            )
        if chunk.rows:
            yield chunk

    @contextmanager
    def writer(self, stream: Writer, columns: Sequence[str]) -> Iterator[Write]:
        """Yield a function that writes a chunk."""
        stream.write(f"{self._mark}{self._header(columns)}".encode())

        def write(chunk: Chunk, values: Values) -> None:
            lines = self._with_values(chunk.rows, values)
            stream.write("".join(lines).encode())

        yield write

    def _header(self, columns: Sequence[str]) -> str:
        return ""

    def _with_values(self, rows: Sequence[str], values: Values) -> Iterator[str]:
        """Yield the lines of rows with their new values."""
        raise NotImplementedError


def _text(value: Any, where: str, column: str) -> str:
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: '{column}' is {shorten(value)}, not a text", "quote it")
    return value or ""


def _split_end(line: str) -> tuple[str, str]:
    content = line.rstrip("\r\n")
    return content, line[len(content) :]


class JsonlTable(_LineTable):
    """A JSONL file: the new keys are at the end of each object."""

    nests = True

    def _rows(self) -> Iterator[tuple[str, Mapping[str, Any], str]]:
        for number, line in self._numbered:
            if not line.strip():
                continue
            where = f"{self._path}, line {number}"
            row = parse_object(where, line)
            if self._column not in row:
                raise UserError(
                    f"{where}: '{self._column}' is missing",
                    f'each line needs a text, such as {{"{self._column}": "..."}}; --text names '
                    "another key",
                )
            refuse_clash(where, row, self._added)
            yield where, row, line

    def _with_values(self, rows: Sequence[str], values: Values) -> Iterator[str]:
        for line, *new in zip(rows, *values.values(), strict=True):
            content, end = _split_end(line)
            added = to_json(dict(zip(values, new, strict=True)))
            yield f"{content.rstrip()[:-1].rstrip()}, {added[1:]}{end or chr(10)}"


class DelimitedTable(_LineTable):
    """A CSV or TSV file: the new columns are the last ones."""

    def __init__(
        self,
        path: Path,
        numbered: Iterator[tuple[int, str]],
        options: TableOptions,
        delimiter: str,
    ) -> None:
        super().__init__(path, numbered, options)
        self._quotes = options.format.quoting != "none"
        needed = {options.column: "--text"}
        self._file = DelimitedFile(path, delimiter, needed, options.format, options.warn)

    def _rows(self) -> Iterator[tuple[str, Mapping[str, Any], str]]:
        is_first = True
        for where, row in self._file.rows(self._numbered):
            if is_first:
                refuse_clash(str(self._path), row, self._added)
                is_first = False
            yield where, row, "".join(self._file.lines)

    def _header(self, columns: Sequence[str]) -> str:
        refuse_clash(str(self._path), self._file.header, columns)
        if not self._file.header_lines:
            return ""
        content, end = _split_end("".join(self._file.header_lines))
        added = self._encode(columns)
        return f"{content}{self._file.delimiter}{added}{end or chr(10)}"

    def _with_values(self, rows: Sequence[str], values: Values) -> Iterator[str]:
        delimiter = self._file.delimiter
        for line, *new in zip(rows, *values.values(), strict=True):
            content, end = _split_end(line)
            yield f"{content}{delimiter}{self._encode(new)}{end or chr(10)}"

    def _encode(self, fields: Sequence[Any]) -> str:
        try:
            return _delimited(fields, self._file.delimiter, self._quotes)
        except csv.Error:
            raise UserError(
                f"{self._path}: a class name with the delimiter cannot be written without quotes",
                "leave out --quoting none",
            ) from None


def _delimited(fields: Sequence[Any], delimiter: str, quotes: bool = True) -> str:
    buffer = io.StringIO()
    style: dict[str, Any] = {} if quotes else {"quoting": csv.QUOTE_NONE, "quotechar": None}
    csv.writer(buffer, delimiter=delimiter, lineterminator="", **style).writerow(fields)
    return buffer.getvalue()


class PlainTexts(_LineTable):
    """A text on each line: the new values follow it, after tabs."""

    def __init__(
        self, path: Path, numbered: Iterator[tuple[int, str]], options: TableOptions
    ) -> None:
        super().__init__(path, numbered, options)
        self._column, self._label = "text", ""

    def _rows(self) -> Iterator[tuple[str, Mapping[str, Any], str]]:
        for number, line in self._numbered:
            yield f"{self._path}, line {number}", {"text": line.rstrip("\r\n")}, line

    def _with_values(self, rows: Sequence[str], values: Values) -> Iterator[str]:
        for line, *new in zip(rows, *values.values(), strict=True):
            content, end = _split_end(line)
            yield f"{content}\t{_delimited(new, chr(9))}{end or chr(10)}"
