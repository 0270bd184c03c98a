"""What becomes of an output that exists: it is up to date, goes on, or is not to be overwritten.

A stage may replace what it would make again: an unfinished output, or one that a killed run left.
It stops for what would be lost: rows that a person has changed, files of others, and finished work
with other settings. `--force` replaces these too; a copy stays as `<name>.bak`.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import OutputError, UserError, shorten, shown_list
from .files import STDIO, exclusive_writer, hash_file, resolve_output, write_errors
from .layout import manifest_path
from .records import (
    Manifest,
    OutOfDate,
    StageOptions,
    StageResult,
    read_manifest,
    write_manifest,
)
from .settings import AugmentSettings

MAX_DIFFERENCES = 4  # that a message shows
CHANGED_BY_HAND = "was changed after it was written"
OTHER_FILE = "write to another file with -o"
OTHER_NAME = "give the experiment another name (--set name=NAME)"
SIZES = {"limit", "ratio"}  # settings that only decide how many rows there are
# Names in manifests -> as the user knows them.
KNOWN_AS = {
    "classes": "task.labels",
    "decontaminate": "subsample.decontaminate",
    "format": "version of the file format",
    "label_type": "task.label_type",
    "limit": "--limit",
    "master_seed": "subsample.master_seed",
    "taken_rows": "rows taken for validation",
    "text_type": "task.text_type",
    "trials": "trials and their synthetic sets",
}
ROWS_KNOWN_AS = {"train": "training", "held_out": "validation or test"}  # inputs


def find_up_to_date(
    output: Path, settings: dict[str, Any], inputs: dict[str, str]
) -> Manifest | None:
    """Return the manifest of a complete, unchanged output of these settings and inputs, or None."""
    manifest = None if output == STDIO else read_manifest(output)
    is_up_to_date = (
        manifest is not None
        and manifest.complete
        and output.is_file()
        and manifest.inputs == inputs
        # Mostly they are equal as they are.
        and (manifest.settings == settings or manifest.settings == _as_json(settings))
        and manifest.sha256 == hash_file(output)
    )
    return manifest if is_up_to_date else None


def up_to_date_result(
    output: Path, settings: dict[str, Any], inputs: dict[str, str], options: StageOptions
) -> StageResult | None:
    """Return the result of a stage whose output is up to date; None if it is to be made.

    Raises:
        OutOfDate: if it is not up to date, and only this was to be checked.
    """
    manifest = None if options.force else find_up_to_date(output, settings, inputs)
    if manifest:
        return StageResult(output, manifest, skipped=True)
    if options.only_checks:
        raise OutOfDate
    return None


@contextlib.contextmanager
def locked_unless_up_to_date(
    output: Path, settings: dict[str, Any], inputs: dict[str, str], options: StageOptions
) -> Iterator[StageResult | None]:
    """Yield the result of a stage whose output is up to date; None if the block is to make it.

    No other process works on the output until the block ends.

    Raises:
        OutOfDate: if it is not up to date, and only this was to be checked.
        UserError: if another process is working on it.
    """
    if result := up_to_date_result(output, settings, inputs, options):
        yield result
        return
    with exclusive_writer(output, options.waits, options.callbacks):
        # Another process may have made it in the meantime.
        yield up_to_date_result(output, settings, inputs, options)


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(settings))
    return value


def protect_output(
    output: Path,
    options: StageOptions,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    keep_finished: bool = True,
) -> None:
    """Stop if writing an output would lose something; with `force`, back it up.

    Call it when the output is not up to date, or is to be made again all the same.

    Args:
        output: the file.
        options: `force`, and callbacks for the note about a backup.
        settings: that the stage is about to use.
        inputs: that it is about to read.
        keep_finished: finished work with other settings is not to be lost either.

    Raises:
        UserError: that says what would be lost, and how to keep or to replace it.
    """
    if output == STDIO or not output.is_file() or not output.stat().st_size:
        return
    manifest = read_manifest(output)
    if manifest and not manifest.sha256:  # `expect_output`: a run was killed
        return
    edits = _edits(output, manifest)
    differences = differences_from(manifest, settings, inputs) if manifest else []
    is_finished = False
    if manifest and not edits:
        names, changed = names_that_differ(manifest, settings, inputs)
        # The same rows are made again, or found in a journal: more of them, or fewer.
        is_finished = manifest.complete and keep_finished and not (names <= SIZES and not changed)
    if not options.force and edits:
        what = f"{edits}; different now: {shown_list(differences)}" if differences else edits
        raise UserError(f"{output}: {what}", _edits_hint(output, manifest, options, keep_finished))
    if not options.force and differences and is_finished:
        raise finished_with_other_settings(output, differences, options)
    if edits or (differences and keep_finished):
        copy = back_up(output)
        options.callbacks.note(f"{output}: is replaced; what it was is in {copy}")


def finished_with_other_settings(
    output: Path, differences: list[str], options: StageOptions
) -> UserError:
    """Return the error for finished work that differs from what is wanted now."""
    keep = OTHER_FILE if options.has_own_output else f"{OTHER_NAME} or sweep the setting"
    return OutputError(
        f"{output}: is finished, with other settings or rows: {shown_list(differences)}",
        f"to keep both, {keep}; to replace it, use --force (a copy stays as {output.name}.bak)",
    )


def _edits(output: Path, manifest: Manifest | None) -> str:
    """Return what of an output is not the stage's own work; empty if nothing is."""
    if manifest is None:
        return "has no manifest, so this command did not write it"
    if manifest.sha256 != hash_file(output):
        return CHANGED_BY_HAND
    if not any(manifest.counts.get(name) for name in ("edited", "dropped", "changed_by_hand")):
        return ""
    return "has rows that a person has reviewed"


def _edits_hint(
    output: Path, manifest: Manifest | None, options: StageOptions, is_of_experiment: bool
) -> str:
    keep = OTHER_FILE
    if is_of_experiment and not options.has_own_output:
        keep = OTHER_NAME
        if manifest and manifest.stage == "augment" and _edits(output, manifest) == CHANGED_BY_HAND:
            keep += "; changed synthetic rows are accepted by gpt3mix review CONFIG, then --apply"
    return f"to keep it, {keep}; to replace it, use --force (a copy stays as {output.name}.bak)"


def differences_from(
    manifest: Manifest, settings: Mapping[str, Any], inputs: Mapping[str, str]
) -> list[str]:
    """Return what is different about an output: settings with both values, and inputs."""
    old, new = dict(_flat(manifest.settings)), dict(_flat(_as_json(settings)))
    found = [
        f"{_known_as(name)} {_shown(old, name)} -> {_shown(new, name)}"
        for name in _unequal(old, new)
        if name not in manifest.inputs  # the hash of such rows
    ]
    for name in _unequal(manifest.inputs, inputs):
        split = name.split(".")[0]  # of several synthetic sets
        found.append(f"other {ROWS_KNOWN_AS.get(split, split)} rows")
    shown = list(dict.fromkeys(found))
    more = [f"{len(shown) - MAX_DIFFERENCES} more"] if len(shown) > MAX_DIFFERENCES else []
    return [*shown[:MAX_DIFFERENCES], *more]


def names_that_differ(
    manifest: Manifest, settings: Mapping[str, Any], inputs: Mapping[str, str]
) -> tuple[set[str], set[str]]:
    """Return the names of all settings and of all inputs that are different about an output."""
    settings_of, wanted = dict(_flat(manifest.settings)), dict(_flat(_as_json(settings)))
    return set(_unequal(settings_of, wanted)), set(_unequal(manifest.inputs, inputs))


def differs_only_in(
    output: Path, settings: Mapping[str, Any], inputs: Mapping[str, str], prefix: str
) -> bool:
    """Return whether an output that exists differs in settings whose names begin like this only."""
    manifest = None if output == STDIO else read_manifest(output)
    if manifest is None:
        return False
    names, changed = names_that_differ(manifest, settings, inputs)
    return not changed and all(name.startswith(prefix) for name in names)


def _unequal(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _known_as(name: str) -> str:
    own = name.removeprefix("synthetic.")
    if own.split(".")[0] in AugmentSettings.model_fields:
        return f"augment.{own}"
    return KNOWN_AS.get(own.removeprefix("classifier."), own)


def _shown(values: Mapping[str, Any], name: str) -> str:
    return shorten(json.dumps(values[name], ensure_ascii=False), 40) if name in values else "none"


def expect_output(
    output: Path, stage: str, settings: dict[str, Any], inputs: dict[str, str]
) -> None:
    """Write the manifest of an output that is about to appear.

    If the run is killed before `finish_output`, the output is known to be the stage's own.
    """
    if output != STDIO:
        manifest = Manifest(
            stage=stage, output=output.name, sha256="", complete=False, settings=settings,
            inputs=inputs, seed=None, counts={},
        )  # fmt: skip
        write_manifest(output, manifest)


# Backups -----------------------------------------------------------------------------------------


def back_up(output: Path) -> Path:
    """Keep an output and its manifest as `<name>.bak`, and return that path.

    An earlier backup is replaced only if it is a stage's own work; a backup of what a person made
    stays, and the new one is `<name>.bak2`, or the next that is free.

    Raises:
        UserError: if the copy cannot be written.
    """
    output = resolve_output(output)
    number = 1
    while not _is_free(copy := _backup_path(output, number)):
        number += 1
    for source, target in ((output, copy), (manifest_path(output), manifest_path(copy))):
        with write_errors(target):
            target.unlink(missing_ok=True)
            if source.is_file():
                _link_or_copy(source, target)
    return copy


def _backup_path(output: Path, number: int) -> Path:
    return output.with_name(f"{output.name}.bak{number if number > 1 else ''}")


def _is_free(copy: Path) -> bool:
    return not copy.exists() or not _edits(copy, read_manifest(copy))


def _link_or_copy(source: Path, target: Path) -> None:
    # The output is replaced by another file, never written to, so a link keeps what it was.
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)
