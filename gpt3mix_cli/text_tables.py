"""What a file of texts offers whose copy gets more columns; and such a file in Parquet."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .errors import UserError
from .files import STDIO, Writer
from .folders import refuse_duplicates
from .settings import TableFormat
from .tables import (
    DEFAULT_FORMAT,
    column_values,
    open_parquet,
    require_columns,
    unpack_column,
)

ROW_GROUP_ROWS = 32768  # of a Parquet copy; small groups are slow to read

Values = Mapping[str, Sequence[Any]]  # new column -> its value for each row of a chunk
Write = Callable[["Chunk", Values], object]


@dataclass
class Chunk:
    """Some rows of a file.

    Attributes:
        texts: empty or blank where a row has none.
        labels: values of the column of the labels; None where there is none.
        num_bytes: that the rows have in the file.
        rows: the rows as the file has them.
    """

    texts: list[str] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    num_bytes: int = 0
    rows: Any = field(default_factory=list)


class TextTable(Protocol):
    """A file of texts.

    Attributes:
        num_rows: if the file says it; None if not.
        nests: whether a value may be an object.
    """

    num_rows: int | None = None
    nests: bool = False

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield the rows in chunks; those before a bad row come before its error.

        A bad row in the first chunk is an error at once.

        Raises:
            UserError: for the first bad row, with its line.
        """

    def writer(self, stream: Writer, columns: Sequence[str]) -> AbstractContextManager[Write]:
        """Yield a function that writes a chunk with its values of the new columns.

        Raises:
            UserError: if the file has one of these columns.
        """


@dataclass(frozen=True)
class TableOptions:
    """How a file is read.

    Attributes:
        column: of the texts.
        added: columns that the copy adds; a file that has one is refused.
        form: one of `FORMS`; empty: it follows from the suffix, or from the first line of a pipe.
        format: of CSV and TSV files.
        label: column of the labels, which the file need not have.
        warn: called with each warning.
    """

    column: str
    added: Sequence[str] = ()
    form: str = ""
    format: TableFormat = DEFAULT_FORMAT
    label: str = "label"
    warn: Callable[[str], object] = lambda message: None


def refuse_clash(
    where: str, columns: Mapping[str, Any] | Sequence[str], new: Sequence[str]
) -> None:
    """Refuse new columns that exist.

    Raises:
        UserError: that begins with `where`, if one does.
    """
    for name in new:
        if name in columns:
            raise UserError(f"{where}: has a column '{name}' already", "rename it, or remove it")


class ParquetTable(TextTable):
    """A Parquet file; types, metadata and all other columns stay as they are."""

    def __init__(self, path: Path, options: TableOptions) -> None:
        if path == STDIO or (path.exists() and not path.is_file()):
            raise UserError(f"{path}: Parquet cannot be read from a pipe", "give the file itself")
        self._path, self._column, self._label = path, options.column, options.label
        with open_parquet(path) as file:
            self._schema, self.num_rows = file.schema_arrow, file.metadata.num_rows
        names = self._schema.names
        refuse_duplicates(names, str(path))
        require_columns(str(path), names, {options.column: "--text"})
        refuse_clash(str(path), names, options.added)
        self._require_texts()

    def _require_texts(self) -> None:
        import pyarrow

        kind = self._schema.field(self._column).type
        kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        if kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.null()):
            raise UserError(
                f"{self._path}: column '{self._column}' holds {kind}, not texts",
                "name the column of the texts with --text",
            )

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield the rows in chunks."""
        number = 0
        with open_parquet(self._path) as file:
            for batch in file.iter_batches(batch_size=size):
                where = f"{self._path}, column '{self._column}', row {number} or a later one"
                texts = column_values(unpack_column(batch.column(self._column)), where)
                labels: list[Any] = [None] * len(texts)
                if self._label in batch.schema.names:
                    labels = column_values(unpack_column(batch.column(self._label)), where)
                yield Chunk([text or "" for text in texts], labels, 0, batch)
                number += len(texts)

    @contextmanager
    def writer(self, stream: Writer, columns: Sequence[str]) -> Iterator[Write]:
        """Yield a function that writes a chunk."""
        import pyarrow
        import pyarrow.parquet

        refuse_clash(str(self._path), self._schema.names, columns)
        types = [pyarrow.string(), *[pyarrow.float64()] * (len(columns) - 1)]
        schema = self._schema
        for name, kind in zip(columns, types, strict=True):
            schema = schema.append(pyarrow.field(name, kind))
        batches: list[Any] = []
        with pyarrow.parquet.ParquetWriter(stream, schema) as writer:

            def flush() -> None:
                if batches:
                    writer.write_table(pyarrow.Table.from_batches(batches, schema))
                    batches.clear()

            def write(chunk: Chunk, values: Values) -> None:
                added = [
                    pyarrow.array(values[name], kind)
                    for name, kind in zip(columns, types, strict=True)
                ]
                columns_of_batch = [*chunk.rows.columns, *added]
                batches.append(pyarrow.RecordBatch.from_arrays(columns_of_batch, schema=schema))
                if sum(batch.num_rows for batch in batches) >= ROW_GROUP_ROWS:
                    flush()

            yield write
            flush()
