"""The trials that stand in a file already, for a run that goes on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import Callbacks, UserError
from ..records import Record, Row, Trial, machine, read_manifest, read_objects


class Epoch(Record):
    """One line of a `.history.jsonl`."""

    trial: int
    epoch: int


def history_path(output: Path) -> Path:
    """Return where the epochs of a trials file stand."""
    return output.with_name(output.name.removesuffix(".jsonl") + ".history.jsonl")


def resumed(
    output: Path,
    trials: Sequence[tuple[int, int]],
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    callbacks: Callbacks,
) -> tuple[list[Trial], list[Epoch]]:
    """Return the finished trials of an earlier run, and their epochs, where nothing that they rest on has changed.

    The number of trials may have: those that are there are kept when more are wanted.
    """
    manifest = read_manifest(output)
    if manifest is None or {**manifest.settings, "trials": None} != {
        **json.loads(json.dumps(settings)),
        "trials": None,
    }:
        return [], []
    same = {name for name, sha in inputs.items() if manifest.inputs.get(name) == sha}
    if not {"train", "validation", "test"} <= same:
        return [], []
    changed = {name for name in inputs if name not in same}
    wanted = set(trials)
    rows = [
        row
        for row in _whole_lines(output, Trial)
        if row.status == "ok"
        and (row.trial, row.draw) in wanted
        and f"synthetic.{row.draw}" not in changed
    ]
    if rows and manifest.machine != machine():
        callbacks.warn(
            f"{output}: {len(rows)} trials that are kept ran with other versions or threads ({manifest.machine}, now {machine()})"
        )
    rows = list({row.trial: row for row in rows}.values())
    kept = {row.trial for row in rows}
    return rows, [line for line in _whole_lines(history_path(output), Epoch) if line.trial in kept]


def _whole_lines(path: Path, kind: type[Row]) -> list[Row]:
    """Return the rows of a file up to the first broken line: lines are appended whole, so it is the last."""
    rows: list[Row] = []
    try:
        for _, value in read_objects(path):
            rows.append(kind.model_validate(value))
    except (UserError, ValueError):
        pass
    return rows
