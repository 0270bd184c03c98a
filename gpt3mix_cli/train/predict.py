"""Labels the texts of a file with a saved model: the file's copy has the predictions."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import UserError, shorten, shown_value
from ..existing_outputs import expect_output, find_up_to_date, protect_output
from ..files import STDIO, atomic_write, exclusive_writer, hash_file
from ..labelled_rows import LabelReader, spelling_form
from ..records import StageOptions, StageResult, finish_output
from ..settings import TableFormat
from ..table_copies import open_table
from ..tables import DEFAULT_FORMAT, class_names
from ..text_tables import Chunk, TableOptions, TextTable, Values
from ..user_cache import hash_model
from .metrics import macro_f1
from .saved_models import SavedModel, load_saved_model, read_columns

CHUNK_ROWS = 512  # texts that are labelled at once
PREDICTED, PROBABILITY, PROBABILITIES = "predicted", "prob", "probs"
DIGITS = 6  # of a probability


@dataclass(frozen=True)
class PredictOptions:
    """How a file is read, and what is added to it.

    Attributes:
        text: column of the texts; None for the one that the model was trained with.
        form: of the file, such as `csv`; empty: it follows from the suffix.
        format: of CSV and TSV files.
        min_prob: rows whose label is less probable have no label.
        probs: add the probability of each class.
    """

    text: str | None = None
    form: str = ""
    format: TableFormat = DEFAULT_FORMAT
    min_prob: float = 0.0
    probs: bool = False


def table_format(delimiter: str | None, quoting: str, columns: Sequence[str]) -> TableFormat:
    """Return the format of CSV and TSV files that the flags name.

    Raises:
        UserError: if a value is invalid.
    """
    try:
        return TableFormat.model_validate(
            {"delimiter": delimiter, "quoting": quoting, "columns": list(columns)}
        )
    except ValueError:
        raise UserError(
            f"--delimiter {shown_value(delimiter)} or --columns {shown_value(','.join(columns))} "
            "cannot be used",
            "a delimiter is one character; each column has a name of its own",
        ) from None


def predict(
    model: Path,
    source: Path,
    output: Path,
    options: StageOptions = StageOptions(),
    predict_options: PredictOptions = PredictOptions(),
) -> StageResult:
    """Add `predicted` and `prob` to each row of a file; all else in it stays as it is.

    Rows are read, labelled and written in chunks, so the file may be larger than memory. Its first
    rows are read before the model is loaded. Empty texts have empty predictions. If the file has
    the label column of the training data, the counts say how many predictions agree with it.

    Args:
        model: a folder that `fit` or `train --save-model` wrote, or one of transformers.
        source: JSONL, CSV, TSV, Parquet, Excel or plain text; `-` for stdin. It may be a pipe.
        output: where to write, in the form of the input; `-` for stdout.
        options: the command line, `force` and callbacks.
        predict_options: how the file is read, and what is added to it.

    Raises:
        UserError: if the model or a file cannot be used. The rows before a bad row are kept.
    """
    started = time.monotonic()
    if source != STDIO and output != STDIO and source.resolve() == output.resolve():
        raise UserError(f"{output}: is also the input", "write to another file")
    columns = read_columns(model)
    column = predict_options.text or columns.text
    added = [PREDICTED, PROBABILITY, *([PROBABILITIES] if predict_options.probs else [])]
    form, format, warn = predict_options.form, predict_options.format, options.callbacks.warn
    table_options = TableOptions(column, added, form, format, columns.label, warn)
    table = open_table(source, output, table_options)
    chunks = table.chunks(CHUNK_ROWS)
    if (first := next(chunks, None)) is None:
        options.callbacks.warn(f"{source}: has no rows")
    # What a pipe holds can be read only once.
    inputs = {"texts": hash_file(source)} if source != STDIO and source.is_file() else {}
    settings = asdict(predict_options) | {"model": hash_model(model), "text": column}
    settings |= {"format": format.model_dump(), "label": columns.label}
    with exclusive_writer(output):
        if inputs and not options.force and (manifest := find_up_to_date(output, settings, inputs)):
            return StageResult(output, manifest, skipped=True)
        protect_output(output, options, settings, inputs, keep_finished=False)
        names = class_names(source, columns.label)
        labels = _Labels(load_saved_model(model), table, predict_options, names)
        progress = _Progress(source, table, options)
        with atomic_write(output) as stream, table.writer(stream, labels.columns) as write:
            rows = _Rows(chain([first] if first else [], chunks))
            for chunk in rows:
                write(chunk, labels.of_chunk(chunk))
                progress.add(chunk)
            expect_output(output, "predict", settings, inputs)
        for note in labels.notes:
            options.callbacks.warn(note)
        manifest = finish_output(
            output, started, stage="predict", complete=rows.error is None, settings=settings,
            inputs=inputs, seed=None, counts=labels.summary(), command=list(options.command),
        )  # fmt: skip
    if error := rows.error:
        kept = f"the {labels.counts['rows']:,} rows before it are in {output}"
        raise UserError(f"{error.message}; {kept}", error.hint)
    return StageResult(output, manifest)


class _Rows:
    """Chunks until the end or the first bad row; `error` says what is wrong with that."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks
        self.error: UserError | None = None

    def __iter__(self) -> Iterator[Chunk]:
        while True:
            try:
                chunk = next(self._chunks, None)
            except UserError as error:
                self.error = error
                return
            if chunk is None:
                return
            yield chunk


class _Labels:
    """Labels chunks of rows and counts them.

    Attributes:
        columns: names of the new columns.
        counts: rows, empty texts, texts whose label is not probable enough, rows that have a known
            label, those of them that have a prediction, and rows that have an unknown label.
    """

    def __init__(
        self, saved: SavedModel, table: TextTable, options: PredictOptions, names: Sequence[str]
    ) -> None:
        self._saved, self._min_prob, self._nests = saved, options.min_prob, table.nests
        self._reader = LabelReader(saved.classes, saved.columns, names, spelling_form)
        self._confusion: Counter[tuple[str, str]] = Counter()
        self._unknown_label = ""
        self.columns = [PREDICTED, PROBABILITY]
        if options.probs and table.nests:
            self.columns.append(PROBABILITIES)
        elif options.probs:
            self.columns += [f"{PROBABILITY}_{name}" for name in saved.classes]
        self.counts = Counter(rows=0, empty=0, abstained=0, labelled=0, scored=0, unknown_labels=0)

    @property
    def notes(self) -> Sequence[str]:
        """Messages for the user, such as how many texts were cut."""
        notes = list(self._saved.notes)
        if count := self.counts["unknown_labels"]:
            notes.append(
                f"column '{self._saved.columns.label}': {count:,} labels are no class of the model "
                f"and are not compared, such as '{shorten(self._unknown_label)}'"
            )
        return notes

    def summary(self) -> dict[str, Any]:
        """Return the counts, and how well predictions agree with known labels."""
        right = sum(count for (label, name), count in self._confusion.items() if label == name)
        f1 = {"macro_f1": macro_f1(self._confusion)} if self._confusion else {}
        return {**self.counts, "right": right, **f1}

    def of_chunk(self, chunk: Chunk) -> Values:
        """Return the values of the new columns."""
        has_text = [bool(text.strip()) for text in chunk.texts]
        texts = [text for text, has in zip(chunk.texts, has_text, strict=True) if has]
        probabilities = iter(self._saved.predict_proba(texts) if texts else ())
        rows = []
        for label, has in zip(chunk.labels, has_text, strict=True):
            row = self._predictions([float(p) for p in next(probabilities)] if has else None)
            self.counts.update(rows=1, empty=not has, abstained=has and row[0] is None)
            self._compare(label, row[0])
            rows.append(row)
        return dict(zip(self.columns, zip(*rows, strict=True), strict=True))

    def _compare(self, raw: Any, predicted: str | None) -> None:
        """Count a label of the file, if the row has one."""
        label = self._reader.find(raw)
        if label and predicted:
            self._confusion[label, predicted] += 1
        # An empty cell of a table is no label.
        is_unknown = not label and raw is not None and str(raw).strip() != ""
        if is_unknown and not self._unknown_label:
            self._unknown_label = str(raw)
        self.counts.update(
            labelled=bool(label), scored=bool(label and predicted), unknown_labels=is_unknown
        )

    def _predictions(self, probs: list[float] | None) -> list[Any]:
        """Return the values of one row, in the order of the columns."""
        if probs is None:
            return [None] * len(self.columns)
        best, classes = max(probs), self._saved.classes
        label = classes[probs.index(best)] if best >= self._min_prob else None
        rounded = [round(p, DIGITS) for p in probs]
        values: list[Any] = rounded
        if self._nests:
            values = [dict(zip(classes, rounded, strict=True))]
        return [label, round(best, DIGITS), *values][: len(self.columns)]


class _Progress:
    """Shows how many rows are labelled, of how many: by the file's size, or by its own count."""

    def __init__(self, source: Path, table: TextTable, options: StageOptions) -> None:
        self._size = source.stat().st_size if source != STDIO and source.is_file() else 0
        self._table, self._callbacks = table, options.callbacks
        self._rows = self._bytes = 0

    def add(self, chunk: Chunk) -> None:
        """Count the rows of a chunk."""
        self._rows += len(chunk.texts)
        self._bytes += chunk.num_bytes
        total = self._table.num_rows
        if total is None and self._size and self._bytes:
            total = max(self._rows, round(self._rows * self._size / self._bytes))
        self._callbacks.progress("rows labelled", self._rows, total)
