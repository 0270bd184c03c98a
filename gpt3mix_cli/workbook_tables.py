"""An Excel file whose copy gets more columns: its first sheet is labelled.

The copy has what openpyxl keeps: cells, formulas, formats and the other sheets. It loses the stored
results of formulas until a spreadsheet program saves the file, and things like shapes.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError
from .files import STDIO, Writer
from .folders import header_names, sheet_rows, workbook_errors
from .tables import require_columns
from .text_tables import Chunk, TableOptions, TextTable, Values, Write, refuse_clash

if TYPE_CHECKING:
    from openpyxl import Workbook
    from openpyxl.worksheet.worksheet import Worksheet

MAX_COLUMNS = 16_384  # of a sheet, in Excel


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
        refuse_clash(str(self._path), self._header, columns)
        book = self._open_copy()
        sheet = book.worksheets[0]
        first = _first_free_column(sheet)
        if first + len(columns) > MAX_COLUMNS + 1:
            raise UserError(
                f"{self._path}: the first sheet has no free columns for {', '.join(columns)}",
                "unmerge cells that reach to the last column, or save the sheet as CSV",
            )

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

    def _open_copy(self) -> "Workbook":
        """Return the workbook to be changed; warn of what its copy will lose."""
        import openpyxl

        has_macros = self._path.suffix.lower() == ".xlsm"
        with workbook_errors(self._path), warnings.catch_warnings(record=True) as losses:
            warnings.simplefilter("always")
            book = openpyxl.load_workbook(self._path, keep_vba=has_macros)
        messages = [str(loss.message) for loss in losses]
        if any(_has_formula(sheet) for sheet in book.worksheets):
            messages.append(
                "the copy has formulas without their results; open and save it in a spreadsheet "
                "program before another tool, such as pandas, reads them"
            )
        for message in dict.fromkeys(messages):
            self._warn(f"{self._path}: {message}")
        return book


def _has_formula(sheet: "Worksheet") -> bool:
    return any(cell.data_type == "f" for row in sheet.iter_rows() for cell in row)


def _first_free_column(sheet: "Worksheet") -> int:
    """Return the column after all values and merged cells, of which only the first is writable."""
    used = (cell.column for row in sheet.iter_rows() for cell in row if cell.value is not None)
    merged = (cells.max_col for cells in sheet.merged_cells.ranges)
    return max(chain(used, merged), default=0) + 1
