"""An Excel file whose copy gets more columns: its first sheet is labelled, all else stays."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError
from .files import STDIO, Writer
from .folders import header_names, sheet_rows, workbook_errors
from .tables import require_columns
from .text_tables import Chunk, TableOptions, TextTable, Values, Write, refuse_clash


class WorkbookTable(TextTable):
    """The first sheet of an Excel file; a spreadsheet fits in memory, so it is read whole."""

    def __init__(self, path: Path, options: TableOptions) -> None:
        if path == STDIO or (path.exists() and not path.is_file()):
            raise UserError(
                f"{path}: Excel cannot be read from a pipe",
                "give the Excel file itself; rows of another form need an output of that form",
            )
        self._path, self._warn = path, options.warn
        rows = list(sheet_rows(path))
        if not rows:
            raise UserError(f"{path}: is empty", "check the path, and what wrote the file")
        self._header_row, values = rows[0]
        where = f"{path}, row {self._header_row}"
        self._header, self._rows = header_names(values, where), rows[1:]
        require_columns(where, self._header, {options.column: "--text"})
        refuse_clash(where, self._header, options.added)
        names = options.column, options.label
        self._indices = [self._header.index(n) if n in self._header else None for n in names]
        self.num_rows = len(self._rows)

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield the rows in chunks; a number among the texts is a text of digits."""
        for start in range(0, len(self._rows), size):
            chunk = Chunk()
            for number, values in self._rows[start : start + size]:
                text, label = (
                    None if index is None or index >= len(values) else values[index]
                    for index in self._indices
                )
                chunk.texts.append("" if text is None else str(text))
                chunk.labels.append(label)
                chunk.rows.append(number)
            yield chunk

    @contextmanager
    def writer(self, stream: Writer, columns: Sequence[str]) -> Iterator[Write]:
        """Yield a function that writes a chunk; the file is complete when the block ends."""
        import openpyxl

        refuse_clash(str(self._path), self._header, columns)
        with workbook_errors(self._path), warnings.catch_warnings(record=True) as losses:
            warnings.simplefilter("always")
            book = openpyxl.load_workbook(self._path, keep_vba=self._path.suffix == ".xlsm")
        for message in dict.fromkeys(str(loss.message) for loss in losses):
            self._warn(f"{self._path}: {message}")
        sheet = book.worksheets[0]
        used = (cell.column for row in sheet.iter_rows() for cell in row if cell.value is not None)
        first = max(used, default=0) + 1

        def put(row: int, offset: int, value: object) -> None:
            cell = sheet.cell(row, first + offset, value)
            if isinstance(value, str):
                cell.data_type = "s"  # a class whose name begins with `=` is no formula

        def write(chunk: Chunk, values: Values) -> None:
            for offset, column in enumerate(values.values()):
                for row, value in zip(chunk.rows, column, strict=True):
                    put(row, offset, value)

        for offset, name in enumerate(columns):
            put(self._header_row, offset, name)
        yield write
        buffer = io.BytesIO()
        book.save(buffer)
        stream.write(buffer.getvalue())
