"""Divides rows into training and test rows, or into folds.

A division is stratified and seeded, and copies of a text are always in the same part. It is kept in
`split.json` next to the results and read from there: rows that are added or corrected later do not
move the others.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from .duplicates import copy_key
from .errors import UserError
from .files import write_shared
from .records import Example
from .settings import generator

TRAIN, TEST = 0, 1  # the parts of a division without folds
TEST_FRACTION = 0.2  # of each class
NEW_DIVISION = (
    "--force divides the rows anew (a copy stays as split.json.bak), which makes earlier results "
    "out of date; to keep those, give the experiment another `name:`"
)


class Division(BaseModel):
    """Which rows are test rows.

    Attributes:
        folds: number of folds; 0 for one test set.
        parts: hash of a text -> its fold, or without folds `TRAIN` or `TEST`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folds: int
    parts: dict[str, int]

    def split(self, rows: Sequence[Example], data_seed: int) -> tuple[list[Example], list[Example]]:
        """Return the training and the test rows of a data seed, in their order."""
        test = data_seed % self.folds if self.folds else TEST
        is_test = [self.parts[text_hash(row.text)] == test for row in rows]
        return (
            [row for row, tested in zip(rows, is_test, strict=True) if not tested],
            [row for row, tested in zip(rows, is_test, strict=True) if tested],
        )


def text_hash(text: str) -> str:
    """Return a hash that a text has in common with its copies, whatever case and punctuation."""
    return hashlib.sha256(copy_key(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def divide_rows(
    rows: Sequence[Example],
    classes: Sequence[str],
    folds: int,
    seed: int,
    known: Mapping[str, int] | None = None,
) -> Division:
    """Return a division of rows.

    Args:
        rows: all labelled rows.
        classes: the task's classes, in order.
        folds: number of folds; 0 for a test set of a fifth of each class.
        seed: of the order in which rows are assigned.
        known: parts of an earlier division, which rows keep. Without folds, other rows are training
            rows then; with folds they are assigned as if they came later.
    """
    parts: dict[str, int] = {}
    sizes = {label: Counter[int]() for label in classes}
    groups: dict[str, dict[str, int]] = {label: {} for label in classes}
    first_label: dict[str, str] = {}
    for row in rows:
        key = text_hash(row.text)
        label = first_label.setdefault(key, row.label)
        groups[label][key] = groups[label].get(key, 0) + 1
    for label, counts in groups.items():
        wanted = _test_rows(sum(counts.values()))
        keys = sorted(counts)
        generator(seed, "folds" if folds else "test split", label).shuffle(keys)
        for key in sorted(keys, key=lambda key: key not in (known or {})):
            if known and key in known:
                part = known[key]
            elif folds:
                part = min(range(folds), key=lambda fold: _load(sizes, label, fold))
            else:
                fits = sizes[label][TEST] + counts[key] <= wanted
                part = TEST if fits and known is None else TRAIN
            parts[key] = part
            sizes[label][part] += counts[key]
    return Division(folds=folds, parts=parts)


def _test_rows(num_rows: int) -> int:
    # One at least, if a training and a validation row are left.
    return max(round(num_rows * TEST_FRACTION), int(num_rows > 2))


def _load(sizes: Mapping[str, Counter[int]], label: str, fold: int) -> tuple[int, int]:
    """Return how full a fold is: with rows of the class, then with all rows."""
    return sizes[label][fold], sum(counts[fold] for counts in sizes.values())


def read_division(path: Path, folds: int) -> Division | None:
    """Return the division of an earlier run; None if there is none.

    Raises:
        UserError: if it cannot be read, or has another number of folds.
    """
    try:
        division = Division.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        problem = getattr(error, "strerror", None) or "its content makes no sense"
        raise UserError(f"{path}: cannot be read: {problem}", NEW_DIVISION) from None
    if division.folds != folds:
        kept, asked = (
            f"{count} folds" if count else "no folds" for count in (division.folds, folds)
        )
        raise UserError(
            f"{path}: the rows were divided with {kept}; the config asks for {asked}", NEW_DIVISION
        )
    return division


def write_division(path: Path, division: Division) -> None:
    """Write a division, unless the file has it already."""
    write_shared(path, json.dumps(division.model_dump(), indent=0).encode())


def check_test_rows(rows: Iterable[Example], known: Division, path: Path) -> None:
    """Refuse an earlier division most of whose test rows are gone: it belongs to other data.

    Raises:
        UserError: if more than half of them are gone.
    """
    wanted = [key for key, part in known.parts.items() if known.folds or part == TEST]
    present = {text_hash(row.text) for row in rows}
    missing = sum(key not in present for key in wanted)
    if missing > len(wanted) / 2:
        raise UserError(
            f"{path}: {missing} of its {len(wanted)} test rows are not in the data: it belongs to "
            "other rows",
            NEW_DIVISION,
        )
