"""Synthetic rows as a table for a spreadsheet, and back: a person keeps, drops and corrects them.

The table is CSV in UTF-8 with a byte order mark, by which spreadsheets know the encoding. A cell
that a spreadsheet would take for a formula gets an apostrophe, which is removed again. A row names
the version of its set, so that a table does not change rows that were made after it.
"""

import csv
import io
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..augment.statistics import Statistics, describe_review
from ..errors import MAX_LIST_ITEMS, UserError, shorten
from ..existing_outputs import back_up
from ..files import atomic_write, exclusive_writer, hash_file
from ..labelled_rows import LabelReader, spelling_form
from ..layout import Cell, TrialKey, history_path, manifest_path, weight_path
from ..records import (
    Augmented,
    Manifest,
    StageResult,
    finish_output,
    read_manifest,
    read_records,
    unknown_label,
    write_records,
)
from ..settings import TableFormat
from ..tables import read_rows
from ..train.weights import WEIGHTS
from .runner import Grid

COLUMNS = ("keep", "label", "text", "file", "id", "version")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
KEEP = {"yes": True, "y": True, "true": True, "1": True, "x": True,
        "no": False, "n": False, "false": False, "0": False, "": False}  # fmt: skip
FORMULA = re.compile(r"'*[=+\-@\t\r]")  # how a cell begins that is no plain text to a spreadsheet


def guard_cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if FORMULA.match(text) else text


def restore_cell(text: str) -> str:
    """Return the text of `guard_cell`."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def synthetic_sets(grid: Grid) -> dict[str, tuple[Path, Cell, str]]:
    """Return the synthetic sets of an experiment that exist: name in the table -> path and origin.

    The name is the path below the folder of all results.
    """
    sets = {}
    for cell in grid.cells():
        experiment = grid.experiment(cell)
        for method in experiment.methods:
            for draw in experiment.draws_for(cell.data_seed) if method != "none" else ():
                path = grid.layout.synthetic_path(cell, method, draw)
                if path.is_file():
                    sets[path.relative_to(grid.layout.out).as_posix()] = path, cell, method
    return sets


def write_review(grid: Grid, table: Path) -> StageResult:
    """Write the synthetic rows of an experiment as a table, with `keep: yes` in each row.

    Raises:
        UserError: if there are none, or the table exists and holds something else, or its name is
            not that of a CSV or TSV file.
    """
    if (delimiter := DELIMITERS.get(table.suffix.lower())) is None:
        raise UserError(
            f"{table}: the table is written as CSV or TSV", "end its name with .csv or .tsv"
        )
    started, sets = time.monotonic(), synthetic_sets(grid)
    if not sets:
        raise UserError(
            f"{grid.layout.root}: has no synthetic rows yet", "make them first: gpt3mix run CONFIG"
        )
    buffer, count = io.StringIO(newline=""), 0
    writer = csv.writer(buffer, delimiter=delimiter)
    writer.writerow(COLUMNS)
    for name, (path, cell, _) in sets.items():
        version = _version(path)
        for row in read_records(path, Augmented, grid.experiment(cell).task.classes):
            cells = guard_cell(row.label), guard_cell(row.text)
            writer.writerow(["yes", *cells, name, row.id, version])
            count += 1
    content = buffer.getvalue().encode("utf-8-sig")
    if table.is_file() and table.read_bytes() != content:
        if not grid.options.force and _has_changes(grid, table):
            raise UserError(
                f"{table}: exists, and holds other rows or changes",
                "take the changes back with --apply, or replace the table with --force (a copy "
                f"stays as {table.name}.bak)",
            )
        if grid.options.force:
            grid.callbacks.note(f"{table}: is replaced; what it was is in {back_up(table)}")
    with atomic_write(table) as stream:
        stream.write(content)
    manifest = Manifest(
        stage="review", output=table.name, sha256="", complete=True, settings={}, inputs={},
        seed=None, counts={"rows": count}, seconds=round(time.monotonic() - started, 3),
    )  # fmt: skip
    return StageResult(table, manifest)


def apply_review(grid: Grid, table: Path) -> list[StageResult]:
    """Take a table back: drop rows, and correct texts and labels; return the changed sets.

    A corrected row has `edited: true`; a corrected label has probability 1. The trials of a changed
    set were made with other rows, so they become backups.

    Raises:
        UserError: that lists the wrong rows with their lines; then no set is changed.
    """
    sets, changed, results = synthetic_sets(grid), [], []
    for name, (old, new) in _read_table(grid, table, sets).items():
        path, cell, method = sets[name]
        manifest = read_manifest(path)
        if old != new and manifest is None:
            raise UserError(
                f"{path}: has no manifest, so how its rows were made is unknown",
                "make them again, or train with them: gpt3mix train CONFIG -a FILE",
            )
        if manifest and (old != new or manifest.sha256 != hash_file(path)):
            changed.append((path, cell, method, (old, new), manifest))
    for path, cell, method, rows, manifest in changed:
        results.append(_replace(grid, path, cell, rows, manifest))
        _retire_trials(grid, cell, method)
    return results


def _version(path: Path) -> str:
    """Return what names the making of a set; corrections keep it, other rows have another one.

    It begins with a letter: a spreadsheet would take some hashes for numbers.
    """
    manifest = read_manifest(path)
    return f"v{_first_hash(manifest)[:8]}" if manifest else ""


def _first_hash(manifest: Manifest) -> str:
    """Return the hash of a set before any correction."""
    return str(manifest.counts.get("first_sha256", manifest.sha256))


Sets = Mapping[str, tuple[Path, Cell, str]]
Rows = tuple[list[Augmented], list[Augmented]]  # of a set, and what the table leaves of them


def _has_changes(grid: Grid, table: Path) -> bool:
    """Return whether a table holds what its sets do not; a table that is none does."""
    try:
        changes = _read_table(grid, table, synthetic_sets(grid))
    except UserError:
        return True
    return any(old != new for old, new in changes.values())


def _read_table(grid: Grid, table: Path, sets: Sets) -> dict[str, Rows]:
    """Return name of a set -> its rows, and those that the table leaves of them.

    Raises:
        UserError: that lists the wrong rows.
    """
    errors: list[UserError] = []
    reviewed: dict[str, _ReviewedSet] = {}
    refused: set[str] = set()
    needed = dict.fromkeys(COLUMNS, "the first line of the table")
    rows = read_rows(
        table, needed, format=TableFormat(quoting="csv"),
        on_ragged_row=lambda where, line, error: errors.append(error),
    )  # fmt: skip
    for where, row in rows:
        name = row["file"]
        if name in refused:  # one error says it
            continue
        try:
            if name not in reviewed:
                refused.add(name)
                reviewed[name] = _ReviewedSet(grid, sets, name, where)
                refused.remove(name)
            if row["version"].strip() != reviewed[name].version:
                refused.add(name)
                raise UserError(
                    f"{where}: the rows of {name} were made again after this table was written",
                    "write the table again: gpt3mix review CONFIG --force (a copy of this one "
                    f"stays as {table.name}.bak)",
                )
            reviewed[name].add(where, row)
        except UserError as error:
            errors.append(error)
    if errors:
        raise _all_errors(errors)
    return {name: (part.old, part.new) for name, part in reviewed.items()}


def _all_errors(errors: Sequence[UserError]) -> UserError:
    """Return one error that lists several, with each hint once."""
    if len(errors) == 1:
        return errors[0]
    lines = [error.message for error in errors[:MAX_LIST_ITEMS]]
    if more := len(errors) - len(lines):
        lines.append(f"and {more:,} more")
    hints = dict.fromkeys(error.hint for error in errors)
    title = f"{len(errors):,} problems in the table; no set is changed"
    return UserError("\n  ".join([title, *lines]), "; ".join(hints))


class _ReviewedSet:
    """A synthetic set, and what a table leaves of it.

    Args:
        grid: the experiment.
        sets: all that exist.
        name: of this one.
        where: file and line of its first row in the table.

    Attributes:
        old: its rows.
        version: that its rows in the table must have.
    """

    def __init__(self, grid: Grid, sets: Sets, name: str, where: str) -> None:
        if name not in sets:
            raise UserError(
                f"{where}: '{shorten(name)}' is no synthetic set of this experiment",
                "give the config that the table was written for",
            )
        self._path, cell, _ = sets[name]
        task = grid.experiment(cell).task
        self._classes = task.classes
        self._labels = LabelReader(task.classes, task.columns, form=spelling_form)
        self.old = list(read_records(self._path, Augmented, task.classes))
        self.version = _version(self._path)
        self._rows = {row.id: row for row in self.old}
        self._seen: set[str] = set()
        self._kept: dict[str, Augmented] = {}

    @property
    def new(self) -> list[Augmented]:
        """The rows that are kept, corrected."""
        return [self._kept[row.id] for row in self.old if row.id in self._kept]

    def add(self, where: str, values: Mapping[str, Any]) -> None:
        """Take a row of the table.

        Raises:
            UserError: if it is wrong.
        """
        name = values["id"]
        if name in self._seen:
            raise UserError(
                f"{where}: the id '{shorten(name)}' is there twice", "remove one of them"
            )
        self._seen.add(name)
        if not _is_kept(where, values):
            return  # the set may lack it: it was dropped before
        if name not in self._rows:
            raise UserError(
                f"{where}: {self._path} has no row '{shorten(name)}'",
                "rows cannot be added here; write the table again with gpt3mix review CONFIG",
            )
        self._kept[name] = self._corrected(self._rows[name], where, values)

    def _corrected(self, row: Augmented, where: str, values: Mapping[str, Any]) -> Augmented:
        text, label = restore_cell(values["text"]), restore_cell(values["label"]).strip()
        if label not in self._classes:
            label = self._labels.find(label) or label
        if label not in self._classes:
            raise UserError(
                unknown_label(where, label, self._classes).message,
                "write the name of a class below label, or `no` below keep to drop the row",
            )
        if not text.strip():
            raise UserError(f"{where}: the text is empty", "to drop the row, write `no` below keep")
        changes: dict[str, Any] = {}
        # A spreadsheet may change line ends within a cell; that is no correction.
        if text.splitlines() != row.text.splitlines():
            changes |= {"text": text, "perplexity": None}
        if label != row.label:
            probs = {name: float(name == label) for name in self._classes}
            changes |= {"label": label, "probs": probs, "label_source": "hard", "label_mass": None}
        return row.model_copy(update={**changes, "edited": True}) if changes else row


def _is_kept(where: str, values: Mapping[str, Any]) -> bool:
    value = values["keep"].strip().lower()
    if value not in KEEP:
        raise UserError(f"{where}: keep is '{shorten(value)}'", "write yes or no below keep")
    return KEEP[value]


def _replace(
    grid: Grid,
    path: Path,
    cell: Cell,
    rows: Rows,
    manifest: Manifest,
) -> StageResult:
    old, new = rows
    started, statistics = time.monotonic(), Statistics(grid.real_rows(cell))
    for row in new:
        statistics.add(row)
    counts = manifest.counts | {
        "kept": len(new),
        "edited": sum(row.edited for row in new),
        "dropped": manifest.counts.get("dropped", 0) + len(old) - len(new),
        "statistics": statistics.summary(),
        "first_sha256": _first_hash(manifest),
    }
    counts.pop("measures", None)  # of other rows
    with exclusive_writer(path):
        changed_by_hand = manifest.sha256 != hash_file(path)
        if changed_by_hand:
            counts["changed_by_hand"] = True
        copy = back_up(path)
        grid.callbacks.note(f"{path}: {describe_review(counts)}; what it was is in {copy}")
        write_records(path, new)
        fields = manifest.model_dump(exclude={"output", "sha256", "seconds", "machine", "version"})
        done = finish_output(
            path, started, **fields | {"counts": counts, "command": list(grid.options.command)}
        )
    return StageResult(path, done)


def _retire_trials(grid: Grid, cell: Cell, method: str) -> None:
    for classifier in grid.experiment(cell).classifiers:
        trials = grid.layout.trials_path(TrialKey(cell, method, classifier.name))
        for path in (trials, *(weight_path(trials, weight) for weight in WEIGHTS)):
            if path.is_file():
                with exclusive_writer(path):
                    copy = back_up(path)
                    for file in (path, manifest_path(path), history_path(path)):
                        file.unlink(missing_ok=True)
                grid.callbacks.note(f"{path}: was made with the rows before, and is now {copy}")
