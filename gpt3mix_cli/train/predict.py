"""Labels the texts of a JSONL file with a saved model."""

import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import STDIO, exclusive_writer, hash_file, hash_model
from ..jsonl import read_objects, to_json
from ..records import StageOptions, StageResult, find_up_to_date, finish_output, record_writer
from .saved_models import SavedModel, load_saved_model

CHUNK_ROWS = 2048  # texts that are labelled at once


def predict(
    model: Path, source: Path, output: Path, options: StageOptions = StageOptions()
) -> StageResult:
    """Add `predicted` and `probs` to each row of a JSONL file; all other keys stay as they are.

    Rows are read, labelled and written in chunks, so the file may be larger than memory. The counts
    say how many rows have a `label` and how many predictions agree with it.

    Args:
        model: a folder that `train --save-model` wrote, or one of the transformers library.
        source: rows with a `text`; `-` for stdin.
        output: where to write them; `-` for stdout.
        options: the command line, `force` and callbacks.

    Raises:
        UserError: if a row has no text, or the model or a file cannot be used.
    """
    started = time.monotonic()
    if source != STDIO and output != STDIO and source.resolve() == output.resolve():
        raise UserError(f"{output}: is also the input", "write to another file")
    inputs = {} if source == STDIO else {"texts": hash_file(source)}
    with exclusive_writer(output):
        saved = load_saved_model(model)
        settings = {"model": hash_model(model), "classes": saved.classes}
        if inputs and not options.force and (manifest := find_up_to_date(output, settings, inputs)):
            return StageResult(output, manifest, skipped=True)
        counts = Counter(rows=0, labelled=0, right=0)
        with record_writer(output) as write_line:
            rows = _read_rows(source)
            while chunk := list(islice(rows, CHUNK_ROWS)):
                for row in _label_rows(saved, chunk):
                    is_right = row.get("label") == row["predicted"]
                    counts.update(rows=1, labelled="label" in row, right=is_right)
                    write_line(to_json(row) + "\n")
                options.callbacks.progress("rows labelled", counts["rows"], None)
        for note in saved.notes:
            options.callbacks.warn(note)
        return StageResult(output, finish_output(
            output, started, stage="predict", complete=True, settings=settings, inputs=inputs,
            seed=None, counts=dict(counts), command=list(options.command),
        ))  # fmt: skip


def _label_rows(saved: SavedModel, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    classes, probabilities = saved.classes, saved.predict_proba([row["text"] for row in rows])
    for row, values in zip(rows, probabilities, strict=True):
        probs = {name: round(float(p), 6) for name, p in zip(classes, values, strict=True)}
        yield {**row, "predicted": classes[int(values.argmax())], "probs": probs}


def _read_rows(source: Path) -> Iterator[dict[str, Any]]:
    for number, row in read_objects(source):
        if not isinstance(row.get("text"), str) or not row["text"].strip():
            raise UserError(
                f"{source}, line {number}: 'text' is {'empty' if 'text' in row else 'missing'}",
                'each line needs a text, such as {"text": "..."}',
            )
        yield row
