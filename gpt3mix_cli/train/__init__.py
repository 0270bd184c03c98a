"""Trains a classifier on real and synthetic rows, trial by trial, and scores each trial on the test set once.

A trial row is appended, durably, as soon as its trial ends; a run that was killed goes on with the trials that are
missing, and at the end all rows stand in the order of their trials.
"""

import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, assert_never

from .. import __version__
from ..errors import StoppedShort, Tell, UserError, quiet
from ..files import STDIO, append, only_writer
from ..records import (
    Augmented,
    Done,
    Example,
    Manifest,
    Record,
    Row,
    Trial,
    close_output,
    machine,
    objects,
    read_manifest,
    rows_sha,
    to_line,
    up_to_date,
    write,
)
from ..settings import Linear, Transformer, derived_seed, fingerprint
from . import metrics


@dataclass(frozen=True)
class Fit:
    """What a training run came to; `history` has one mapping an epoch and is empty for a classifier without epochs."""

    valid_accuracy: float
    best_epoch: int | None = None
    history: tuple[Mapping[str, Any], ...] = ()


class Classifier(Protocol):
    """A text classifier; one object serves many fits, each from the pretrained weights.

    Attributes:
        about: every setting and model fingerprint that can change a number.
    """

    about: dict[str, Any]

    def fit(self, train: Sequence[Augmented], validation: Sequence[Example], seed: int) -> Fit:
        """Train on rows with soft labels; the best weights by validation accuracy stay in the object."""

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Return the class probabilities, a float array (texts, classes)."""

    def probe(self) -> None:
        """Load what a fit needs, so that `check` can say what is missing."""


def open_classifier(settings: Linear | Transformer, classes: Sequence[str]) -> Classifier:
    """Return the classifier for its settings.

    Raises:
        UserError: if its model or package is missing, with the remedy.
    """
    match settings:
        case Linear():
            from .linear import LinearClassifier

            return LinearClassifier(settings, classes)
        case Transformer():
            from .transformer import TransformerClassifier

            return TransformerClassifier(settings, classes)
        case _:
            assert_never(settings)


@dataclass(frozen=True)
class Cell:
    """What the trials of one file have in common, in the words of their rows."""

    task: str
    level: str
    method: str
    classifier: str
    variant: Mapping[str, Any]
    data_seed: int
    classes: Sequence[str]


@dataclass(frozen=True)
class Synthetic:
    """The synthetic rows of a draw and how they were made; a hand-made file says nothing of itself but its hash."""

    rows: Sequence[Augmented]
    about: Mapping[str, Any]
    tokens: int | None = None
    usd: float | None = None


class Epoch(Record):
    """One line of a `.history.jsonl`."""

    trial: int
    epoch: int


@dataclass(frozen=True)
class Work:
    """What the trials of a file share.

    Attributes:
        classifier: fitted anew for each trial.
        cell: what the rows say of themselves.
        real: the training rows of the data seed.
        synthetic: the synthetic rows by draw; empty for no augmentation.
        validation: rows for early stopping.
        test: rows scored once a trial, with the best weights.
        master_seed: training seeds derive from it and the trial's number alone, so that methods are paired.
    """

    classifier: Classifier
    cell: Cell
    real: Sequence[Example]
    synthetic: Mapping[int, Synthetic]
    validation: Sequence[Example]
    test: Sequence[Example]
    master_seed: int

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Return every setting that can change a number; its hash stands in the rows."""
        first = self.synthetic[min(self.synthetic)].about if self.synthetic else {}
        # Seeds differ from trial to trial, and `attempts` says when to give up: neither makes it another experiment.
        method = {key: value for key, value in first.items() if key not in ("seed", "attempts")}
        validation = self.inputs["validation"]  # it decides which weights are kept
        return {"classifier": self.classifier.about, "classes": list(self.cell.classes), "synthetic": method, "validation": validation}

    @functools.cached_property
    def inputs(self) -> dict[str, str]:
        """Return the hashes of all rows."""
        shas = {"train": rows_sha(self.real), "validation": rows_sha(self.validation), "test": rows_sha(self.test)}
        return shas | {f"synthetic.{draw}": fingerprint([[row.text, row.probs] for row in part.rows]) for draw, part in self.synthetic.items()}

    def trial(self, number: int, draw: int) -> tuple[Trial, list[Epoch]]:
        """Run one trial and return its row and its epochs; a fit that goes wrong is a row that says so."""
        started = time.monotonic()
        part = self.synthetic.get(draw, Synthetic((), {}))
        seed = derived_seed(self.master_seed, "train", number)
        classes = self.cell.classes
        labels = [row.label for row in self.test]
        about: dict[str, Any] = {
            **{name: getattr(self.cell, name) for name in ("task", "level", "method", "classifier", "data_seed")},
            **{"variant": dict(self.cell.variant), "trial": number, "draw": draw, "seed": seed},
            **{"n_train": len(self.real), "n_synthetic": len(part.rows), "n_test": len(self.test)},
            **{"majority": metrics.majority(labels), "tokens": part.tokens, "usd": part.usd, "version": __version__},
            **{"train_sha": self.inputs["train"], "test_sha": self.inputs["test"], "settings": fingerprint(self.settings)},
        }
        try:
            fit = self.classifier.fit([*(one_hot(row, classes) for row in self.real), *part.rows], self.validation, seed)
            scores = metrics.score(self.classifier.predict_proba([row.text for row in self.test]), labels, classes)
        except (RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            return Trial(**about, status="failed", error=reason, accuracy=None, seconds=_since(started)), []
        about |= {"valid_accuracy": round(fit.valid_accuracy, 6), "best_epoch": fit.best_epoch, "epochs": len(fit.history) or None}
        return Trial(**about, **scores, seconds=_since(started)), [Epoch(trial=number, **line) for line in fit.history]


def train(
    work: Work, trials: Sequence[tuple[int, int]], output: Path, *, command: Sequence[str] = (), force: bool = False, tell: Tell = quiet
) -> Done:
    """Run the trials of a file and write their rows, unless they are there already.

    Args:
        work: what the trials share.
        trials: (trial number, draw) each.
        output: the trials file.
        command: for the manifest.
        force: do it again.
        tell: hears progress.

    Raises:
        StoppedShort: if a trial failed; the others are written.
    """
    settings = {**work.settings, "master_seed": work.master_seed, "trials": [list(pair) for pair in trials]}
    inputs = work.inputs
    with only_writer(output):
        if not force and (manifest := up_to_date(output, settings, inputs)):
            return Done(output, manifest, skipped=True)
        return _train(work, trials, output, settings, inputs, command, force, tell)


def _train(
    work: Work,
    trials: Sequence[tuple[int, int]],
    output: Path,
    settings: dict[str, Any],
    inputs: dict[str, str],
    command: Sequence[str],
    force: bool,
    tell: Tell,
) -> Done:
    started = time.monotonic()
    rows: list[Trial] = []
    epochs: list[Epoch] = []
    if not force:
        rows, epochs = _resumed(output, trials, settings, inputs, tell)
    work.classifier.probe()  # what is missing must show before anything that is there is replaced

    def save(complete: bool) -> Manifest:
        write(output, rows)
        if output != STDIO:
            write(history_path(output), epochs)
        counts = {"trials": len(trials), **{status: sum(row.status == status for row in rows) for status in ("ok", "failed")}}
        return close_output(
            output, started, stage="train", complete=complete, settings=settings, inputs=inputs,
            seed=work.cell.data_seed, counts=counts, command=list(command),
        )  # fmt: skip

    if output != STDIO:
        save(False)
    done = {row.trial for row in rows}
    for number, draw in trials:
        if number not in done:
            row, history = work.trial(number, draw)
            rows.append(row)
            epochs += history
            if output != STDIO:
                # The history goes first: the trial's own row says that all of it is there.
                append(history_path(output), "".join(map(to_line, history)))
                append(output, to_line(row))
        tell(f"{work.cell.method} + {work.cell.classifier}", len(rows), len(trials))
    rows.sort(key=lambda row: row.trial)
    epochs.sort(key=lambda line: (line.trial, line.epoch))
    failed = [row for row in rows if row.status == "failed"]
    manifest = save(not failed)
    if failed:
        message = f"{output}: {len(failed)} of {len(trials)} trials failed; the first: {failed[0].error}"
        raise StoppedShort(message, "mend the cause and run again: only failed trials are repeated")
    return Done(output, manifest)


def history_path(output: Path) -> Path:
    """Return where the epochs of a trials file stand."""
    return output.with_name(output.name.removesuffix(".jsonl") + ".history.jsonl")


def one_hot(row: Example, classes: Sequence[str]) -> Augmented:
    """Return a real row with its label as a distribution."""
    return Augmented(id=row.id, text=row.text, label=row.label, probs={name: float(name == row.label) for name in classes})


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


def _resumed(
    output: Path, trials: Sequence[tuple[int, int]], settings: Mapping[str, Any], inputs: Mapping[str, str], tell: Tell
) -> tuple[list[Trial], list[Epoch]]:
    """Return the finished trials of an earlier run, and their epochs, where nothing that they rest on has changed.

    The number of trials may have: those that are there are kept when more are wanted.
    """
    manifest = read_manifest(output)
    if manifest is None or {**manifest.settings, "trials": None} != {**json.loads(json.dumps(settings)), "trials": None}:
        return [], []
    same = {name for name, sha in inputs.items() if manifest.inputs.get(name) == sha}
    if not {"train", "validation", "test"} <= same:
        return [], []
    changed = {name for name in inputs if name not in same}
    wanted = set(trials)
    rows = [
        row
        for row in _whole_lines(output, Trial)
        if row.status == "ok" and (row.trial, row.draw) in wanted and f"synthetic.{row.draw}" not in changed
    ]
    if rows and manifest.machine != machine():
        tell(f"{output}: {len(rows)} trials that are kept ran with other versions or threads ({manifest.machine}, now {machine()})")
    rows = list({row.trial: row for row in rows}.values())
    kept = {row.trial for row in rows}
    return rows, [line for line in _whole_lines(history_path(output), Epoch) if line.trial in kept]


def _whole_lines(path: Path, kind: type[Row]) -> list[Row]:
    """Return the rows of a file up to the first broken line: lines are appended whole, so it is the last."""
    rows: list[Row] = []
    try:
        for _, value in objects(path):
            rows.append(kind.model_validate(value))
    except (UserError, ValueError):
        pass
    return rows
