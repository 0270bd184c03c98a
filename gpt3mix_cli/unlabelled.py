"""Reads texts without labels, which show the style of a task in prompts."""

from collections.abc import Iterable
from pathlib import Path

from .duplicates import copy_key
from .errors import UserError
from .jsonl import read_lines
from .records import Example
from .tables import read_rows


def read_unlabelled(
    path: Path, column: str, held_out: Iterable[Example]
) -> tuple[tuple[str, ...], int]:
    """Return the different texts of a file, and how many were left out as copies of held-out rows.

    Args:
        path: of a table with a column of texts, or `.txt` with a text on each line.
        column: of the texts.
        held_out: validation and test rows, whose texts no prompt may hold.

    Raises:
        UserError: if the file cannot be read, or has no text that can be used.
    """
    if path.suffix.lower() == ".txt":
        values = [line for _, line in read_lines(path)]
    else:
        rows = read_rows(path, {column: "task.data.text, for augment.unlabelled"})
        values = [str(row[column] or "") for _, row in rows]
    hidden = {copy_key(row.text) for row in held_out}
    texts: dict[str, str] = {}
    for value in values:
        if value.strip():
            texts.setdefault(copy_key(value), value.strip())
    left_out = len(texts.keys() & hidden)
    kept = tuple(text for key, text in texts.items() if key not in hidden)
    if not kept:
        problem = "every text is a copy of a validation or test row" if left_out else "no text"
        raise UserError(
            f"augment.unlabelled: {path}: {problem}", "give a file of other texts of the same kind"
        )
    return kept, left_out
