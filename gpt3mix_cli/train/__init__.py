"""Trains a classifier on real and synthetic rows, trial by trial, and scores each trial on the test set once.

A trial row is appended, durably, as soon as its trial ends; a run that was killed goes on with the trials that are
missing, and at the end all rows stand in the order of their trials.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, assert_never

from ..errors import StoppedShort, Tell, UserError, quiet
from ..records import (
    Augmented,
    Done,
    Example,
    Manifest,
    Record,
    Trial,
    append,
    file_sha,
    objects,
    read_manifest,
    rows_sha,
    to_line,
    up_to_date,
    write,
    write_manifest,
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


def train(
    classifier: Classifier,
    cell: Cell,
    real: Sequence[Example],
    synthetic: Mapping[int, Synthetic],
    validation: Sequence[Example],
    test: Sequence[Example],
    trials: Sequence[tuple[int, int]],
    output: Path,
    *,
    master_seed: int,
    command: Sequence[str] = (),
    force: bool = False,
    tell: Tell = quiet,
) -> Done:
    """Run the trials of a cell and write their rows, unless they are there already.

    Args:
        classifier: fitted anew for each trial.
        cell: what the rows say of themselves.
        real: the training rows of the data seed.
        synthetic: the synthetic rows by draw; empty for no augmentation.
        validation: rows for early stopping.
        test: rows scored once a trial, with the best weights.
        trials: (trial number, draw) each.
        output: the trials file.
        master_seed: training seeds derive from it and the trial's number alone, so that methods are paired.
        command: for the manifest.
        force: do it again.
        tell: hears progress.

    Raises:
        StoppedShort: if a trial failed; the others are written.
    """
    first = synthetic[min(synthetic)].about if synthetic else {}
    # Seeds differ from trial to trial, and `attempts` says when to give up: neither makes it another experiment.
    method = {key: value for key, value in first.items() if key not in ("seed", "attempts")}
    settings: dict[str, Any] = {"classifier": classifier.about, "classes": list(cell.classes), "synthetic": method}
    inputs = {"train": rows_sha(real), "validation": rows_sha(validation), "test": rows_sha(test)}
    inputs |= {f"synthetic.{draw}": _probs_sha(part.rows) for draw, part in synthetic.items()}
    whole = {**settings, "master_seed": master_seed, "trials": [list(pair) for pair in trials]}
    if not force and (manifest := up_to_date(output, whole, inputs)):
        return Done(output, manifest, skipped=True)
    started = time.monotonic()

    def manifest_of(complete: bool, rows: Sequence[Trial]) -> Manifest:
        return Manifest(
            stage="train",
            output=output.name,
            sha256=file_sha(output),
            complete=complete,
            settings=whole,
            inputs=inputs,
            seed=cell.data_seed,
            counts={"trials": len(trials), "ok": sum(row.status == "ok" for row in rows), "failed": sum(row.status == "failed" for row in rows)},
            seconds=round(time.monotonic() - started, 3),
            command=list(command),
        )

    rows: list[Trial] = []
    epochs: list[Epoch] = []
    if not force:
        rows, epochs = _resumed(output, whole, inputs)
    write(output, rows)
    write(history_path(output), epochs)
    write_manifest(output, manifest_of(False, rows))
    done = {row.trial for row in rows}
    for trial, draw in trials:
        if trial not in done:
            part = synthetic.get(draw, Synthetic((), {}))
            row, history = _run(classifier, cell, real, part, validation, test, trial, draw, derived_seed(master_seed, "train", trial))
            row = row.model_copy(update={"train_sha": inputs["train"], "test_sha": inputs["test"], "settings": fingerprint(settings)})
            epochs += history
            rows.append(row)
            # The history goes first: the trial's own row says that all of it is there.
            append(history_path(output), "".join(map(to_line, history)))
            append(output, to_line(row))
        tell(f"{cell.method} + {cell.classifier}", len(rows), len(trials))
    rows.sort(key=lambda row: row.trial)
    epochs.sort(key=lambda line: (line.trial, line.epoch))
    write(output, rows)
    write(history_path(output), epochs)
    failed = [row for row in rows if row.status == "failed"]
    manifest = manifest_of(not failed, rows)
    write_manifest(output, manifest)
    if failed:
        message = f"{output}: {len(failed)} of {len(trials)} trials failed; the first: {failed[0].error}"
        raise StoppedShort(message, "mend the cause and run again: only failed trials are repeated")
    return Done(output, manifest)


def history_path(output: Path) -> Path:
    """Return where the epochs of a trials file stand."""
    return output.with_name(output.name.removesuffix(".jsonl") + ".history.jsonl")


def _resumed(output: Path, settings: dict[str, Any], inputs: dict[str, str]) -> tuple[list[Trial], list[Epoch]]:
    """Return the finished trials of a run that was cut off, and their epochs; a torn last line is no row."""
    manifest = read_manifest(output)
    if manifest is None or manifest.settings != settings or manifest.inputs != inputs:
        return [], []
    rows = [row for row in _whole_lines(output, Trial) if row.status == "ok"]
    kept = {row.trial for row in rows}
    return rows, [line for line in _whole_lines(history_path(output), Epoch) if line.trial in kept]


def _whole_lines(path: Path, kind: Any) -> list[Any]:
    rows = []
    try:
        for _, value in objects(path):
            rows.append(kind.model_validate(value))
    except (UserError, ValueError):
        pass  # lines are appended whole and in order, so the first broken one is the last
    # A trial that was cut off between its history and its row has its epochs twice after resuming; keep the last.
    return list({(row.trial, getattr(row, "epoch", 0)): row for row in rows}.values())


def _run(
    classifier: Classifier,
    cell: Cell,
    real: Sequence[Example],
    part: Synthetic,
    validation: Sequence[Example],
    test: Sequence[Example],
    trial: int,
    draw: int,
    seed: int,
) -> tuple[Trial, list[Epoch]]:
    from .. import __version__

    started = time.monotonic()
    common: dict[str, Any] = {
        "task": cell.task,
        "level": cell.level,
        "method": cell.method,
        "classifier": cell.classifier,
        "variant": dict(cell.variant),
        "data_seed": cell.data_seed,
        "trial": trial,
        "draw": draw,
        "seed": seed,
        "n_train": len(real),
        "n_synthetic": len(part.rows),
        "n_test": len(test),
        "majority": metrics.majority([row.label for row in test]),
        "tokens": part.tokens,
        "usd": part.usd,
        "version": __version__,
    }
    try:
        fit = classifier.fit([*(one_hot(row, cell.classes) for row in real), *part.rows], validation, seed)
        scores = metrics.score(classifier.predict_proba([row.text for row in test]), [row.label for row in test], cell.classes)
    except (RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Trial(**common, status="failed", error=reason, accuracy=None, seconds=round(time.monotonic() - started, 3)), []
    row = Trial(
        **common,
        **scores,
        valid_accuracy=round(fit.valid_accuracy, 6),
        best_epoch=fit.best_epoch,
        epochs=len(fit.history) or None,
        seconds=round(time.monotonic() - started, 3),
    )
    return row, [Epoch(trial=trial, **line) for line in fit.history]


def one_hot(row: Example, classes: Sequence[str]) -> Augmented:
    """Return a real row with its label as a distribution."""
    return Augmented(id=row.id, text=row.text, label=row.label, probs={name: float(name == row.label) for name in classes})


def _probs_sha(rows: Sequence[Augmented]) -> str:
    return fingerprint([[row.text, row.probs] for row in rows])
