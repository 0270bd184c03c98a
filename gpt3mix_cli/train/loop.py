"""Stage train: runs the trials of a file and writes their rows.

A row is appended, durably, as soon as its trial ends. A run that was killed continues with the
missing trials, and at the end all rows are in the order of their trials.
"""

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import Callbacks, OutputError, StoppedShort, UserError
from ..existing_outputs import (
    back_up,
    differences_from,
    finished_with_other_settings,
    locked_unless_up_to_date,
    names_that_differ,
)
from ..files import STDIO, append
from ..layout import history_path
from ..machine import machine_differences
from ..records import (
    Manifest,
    Row,
    StageOptions,
    StageResult,
    Trial,
    finish_output,
    read_manifest,
    read_records,
    to_json_line,
    write_records,
)
from ..stopping import INTERRUPTED
from .protocol import UnavailableClassifier
from .trials import (
    Epoch,
    TrialExecutor,
    TrialJob,
    TrialResult,
    TrialRunner,
    WorkerDied,
    run_serially,
)

RESUMABLE_IF_EQUAL = {"train", "validation", "test"}  # inputs that every trial depends on


class TrialsFailed(StoppedShort):
    """Some trials failed; the rows of the others were written, even with `force`."""


def train(
    runner: TrialRunner,
    trials: Sequence[TrialJob],
    output: Path,
    options: StageOptions = StageOptions(),
    executor: TrialExecutor = run_serially,
) -> StageResult:
    """Run the trials of a file and write their rows, unless the file is up to date.

    Args:
        runner: runs one trial.
        trials: the trials to run.
        output: the trials file.
        options: the command line, `force` and callbacks.
        executor: where the trials run; it does not change the rows.

    Raises:
        TrialsFailed: if a trial failed; the rows of all trials are written.
        StoppedShort: if no trial can run, or some have not.
    """
    runner.output = None if output == STDIO else output
    file = TrialsFile(output, runner, trials, options.command)
    hashes = runner.data.hashes
    with locked_unless_up_to_date(output, file.settings, hashes, options) as result:
        if result:
            return result
        if not options.force:
            file.load_finished_trials(options.callbacks)
        file.protect_earlier_trials(options)
        finished = {row.trial for row in file.rows}
        missing = [job for job in trials if job[0] not in finished]
        try:
            # Load the classifier where the trials run, before anything that exists is replaced.
            list(executor(runner.probe, missing[:1], options.callbacks))
        except OutputError:
            raise  # a full disk says nothing about the classifier
        except UserError as error:
            runner.classifier = UnavailableClassifier(runner.classifier.about["kind"], error)
        if runner.failure_reason and output.exists():
            # Keep earlier successful trials even if their model is no longer available.
            raise StoppedShort(
                f"{output}: left as it is: no trial can run: {runner.failure_reason}",
                "fix the cause and run again",
            )
        if output != STDIO:
            file.save(complete=False)
        _run_missing(file, runner, missing, executor, options.callbacks)
        unfinished = len(trials) - len(file.rows)
        manifest = file.save(complete=not file.failed and not unfinished)
        if unfinished:
            raise StoppedShort(
                f"{output}: {INTERRUPTED}: {unfinished} of {len(trials)} trials are missing"
            )
        if file.failed:
            raise TrialsFailed(
                f"{output}: {len(file.failed)} of {len(trials)} trials failed; "
                f"the first: {file.failed[0].error}",
                "fix the cause and run again: only failed trials are repeated",
            )
        return StageResult(output, manifest)


def _run_missing(
    file: "TrialsFile",
    runner: TrialRunner,
    missing: Sequence[TrialJob],
    executor: TrialExecutor,
    callbacks: Callbacks,
) -> None:
    name, total = str(runner.key), len(file.rows) + len(missing)
    callbacks.progress(name, len(file.rows), total)
    for job, outcome in executor(runner.run, missing, callbacks):
        if isinstance(outcome, WorkerDied):
            outcome = runner.failed_result(job, str(outcome))
        file.add(outcome)
        for note in outcome.notes:
            callbacks.warn(f"{runner.key.classifier}: {note}")
        callbacks.progress(name, len(file.rows), total)


class TrialsFile:
    """The rows and epochs of a trials file, in memory and on disk.

    Attributes:
        rows: the finished trials.
        epochs: their epochs.
        settings: everything that decides the rows, for the manifest.
    """

    def __init__(
        self,
        path: Path,
        runner: TrialRunner,
        trials: Sequence[TrialJob],
        command: Sequence[str] = (),
    ) -> None:
        self.rows: list[Trial] = []
        self.epochs: list[Epoch] = []
        self.settings = {
            **runner.settings,
            "master_seed": runner.master_seed,
            "trials": [list(job) for job in trials],
        }
        if runner.weight is not None:
            self.settings["synthetic_weight"] = runner.weight
        self._path, self._runner, self._trials, self._command = path, runner, trials, command
        self._started = time.monotonic()

    def load_finished_trials(self, callbacks: Callbacks) -> None:
        """Load the successful trials of an earlier run whose settings and inputs are unchanged.

        The number of trials may have changed: existing trials are kept when more are wanted.
        """
        manifest = read_manifest(self._path)
        settings = json.loads(json.dumps(self.settings)) | {"trials": None}
        if manifest is None or manifest.settings | {"trials": None} != settings:
            return
        hashes = self._runner.data.hashes
        changed = {name for name, _ in hashes.items() - manifest.inputs.items()}
        if changed & RESUMABLE_IF_EQUAL:
            return
        wanted = set(self._trials)
        by_number = {
            row.trial: row
            for row in _read_intact_rows(self._path, Trial)
            if row.status == "ok"
            and (row.trial, row.draw) in wanted
            and f"synthetic.{row.draw}" not in changed
        }
        self.rows = list(by_number.values())
        epochs = _read_intact_rows(history_path(self._path), Epoch)
        self.epochs = [epoch for epoch in epochs if epoch.trial in by_number]
        if self.rows and (differences := machine_differences(manifest.machine)):
            callbacks.warn(
                f"{self._path}: {len(self.rows)} trials from an earlier run are kept; they used "
                f"other versions or threads ({'; '.join(differences)})"
            )

    def protect_earlier_trials(self, options: StageOptions) -> None:
        """Stop if finished trials with other settings would be lost; with `force`, back them up.

        Raises:
            UserError: that says what differs, and how to keep or to replace them.
        """
        if self._path == STDIO or not self._path.is_file():
            return
        kept = {row.trial for row in self.rows}
        earlier = [row for row in _read_intact_rows(self._path, Trial) if row.status == "ok"]
        if all(row.trial in kept for row in earlier):
            return
        manifest = read_manifest(self._path)
        differences = ["unknown ones, since it has no manifest"]
        if manifest:
            differences = differences_from(manifest, self.settings, self._runner.data.hashes)
        if not differences:
            return
        is_finished = manifest is None or (manifest.complete and not self._may_replace(manifest))
        if not options.force and is_finished:
            raise finished_with_other_settings(self._path, differences, options)
        copy = back_up(self._path)
        options.callbacks.note(f"{self._path}: is replaced; what it was is in {copy}")

    def _may_replace(self, manifest: Manifest) -> bool:
        """Return whether only trials became fewer, or synthetic sets grew that were unfinished."""
        hashes, unfinished = self._runner.data.hashes, manifest.counts.get("unfinished_sets", [])
        settings, inputs = names_that_differ(manifest, self.settings, hashes)
        # A preview has a limit. Draws that fewer trials no longer read are no change of rows.
        expected = {"trials"} | ({"synthetic.limit"} if unfinished else set())
        changed = {name for name in inputs if name in hashes and name in manifest.inputs}
        return settings <= expected and changed <= {f"synthetic.{draw}" for draw in unfinished}

    def add(self, result: TrialResult) -> None:
        """Append the row and the epochs of a trial that has ended."""
        self.rows.append(result.row)
        self.epochs += result.epochs
        if self._path != STDIO:
            # The history goes first: a trial's row implies that its history is complete.
            append(history_path(self._path), "".join(map(to_json_line, result.epochs)))
            append(self._path, to_json_line(result.row))

    @property
    def failed(self) -> list[Trial]:
        """The rows of failed trials."""
        return [row for row in self.rows if row.status == "failed"]

    def save(self, complete: bool, **more_counts: Any) -> Manifest:
        """Write all rows in the order of their trials, and the manifest with some more counts."""
        self.rows.sort(key=lambda row: row.trial)
        self.epochs.sort(key=lambda epoch: (epoch.trial, epoch.epoch))
        write_records(self._path, self.rows)
        if self._path != STDIO:
            write_records(history_path(self._path), self.epochs)
        failed = len(self.failed)
        ok = len(self.rows) - failed
        counts = {"trials": len(self._trials), "ok": ok, "failed": failed, **more_counts}
        sets = self._runner.data.synthetic
        if unfinished := [draw for draw, synthetic in sets.items() if synthetic.is_unfinished]:
            counts["unfinished_sets"] = unfinished
        return finish_output(
            self._path, self._started, stage="train", complete=complete, settings=self.settings,
            inputs=self._runner.data.hashes, seed=self._runner.key.cell.data_seed, counts=counts,
            command=list(self._command),
        )  # fmt: skip


def _read_intact_rows(path: Path, kind: type[Row]) -> list[Row]:
    rows: list[Row] = []
    with contextlib.suppress(UserError):
        rows.extend(read_records(path, kind))  # keeps the rows before the error
    return rows
