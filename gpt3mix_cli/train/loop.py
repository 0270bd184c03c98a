"""Trains a classifier on real and synthetic rows, trial by trial, and scores each trial on the test set once.

A trial row is appended, durably, as soon as its trial ends; a run that was killed goes on with the trials that are
missing, and at the end all rows stand in the order of their trials. Trials depend on their own seed and rows only, so
that they may run side by side: who calls `train` brings a `map` that says where.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, assert_never

from .. import __version__
from ..errors import NO_CALLBACKS, Callbacks, StoppedShort, UserError
from ..files import STDIO, append, exclusive_writer
from ..lm import LM
from ..records import (
    Augmented,
    Example,
    Manifest,
    StageResult,
    Trial,
    find_up_to_date,
    finish_output,
    hash_rows,
    to_json_line,
    write_records,
)
from ..settings import (
    LinearSettings,
    PromptSettings,
    SetFitSettings,
    SoftLabelTraining,
    Task,
    TrainableSettings,
    TransformerSettings,
    fingerprint,
)
from . import metrics, tensorboard
from .cell import Cell, SyntheticSet, training_seed
from .parallel import group_size
from .resume import Epoch, history_path, resumed
from .targets import UntrainableError, training_rows


@dataclass(frozen=True)
class FitResult:
    """What a training run came to.

    Attributes:
        valid_accuracy: of the weights that were kept; none where nothing is trained.
        best_epoch: the epoch that they are of, from 1; none for a classifier without epochs.
        history: one mapping an epoch.
    """

    valid_accuracy: float | None
    best_epoch: int | None = None
    history: tuple[Mapping[str, Any], ...] = ()


class EpochCallback(Protocol):
    """Hears of each epoch as it ends."""

    def __call__(self, epoch: Mapping[str, Any], best: Mapping[str, Any], stop: int) -> None:
        """Take the lines of this epoch and of the best so far, and the epoch after which training would stop."""


def ignore_epoch(epoch: Mapping[str, Any], best: Mapping[str, Any], stop: int) -> None:
    """Hear nothing."""


class Classifier(Protocol):
    """A text classifier; one object serves many fits, each from the pretrained weights.

    Attributes:
        about: every setting and model fingerprint that can change a number.
        threads: CPU threads that a fit keeps busy, so that fits may run side by side on the others; none where a fit takes
            next to no time, or a GPU.
        tokens: what an LM has read for the predictions since the last fit began; none where no LM is asked.
        usd: what they cost; none where it is unknown, or no LM is asked.
    """

    about: dict[str, Any]
    threads: int | None
    tokens: int | None
    usd: float | None

    @property
    def notes(self) -> list[str]:
        """What the user should know since the last fit began, such as how many texts were cut."""

    def fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        watch: EpochCallback = ignore_epoch,
    ) -> FitResult:
        """Train towards the rows' `probs` (see `targets`); the best weights by validation accuracy stay in the object."""

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Return the class probabilities, a float array (texts, classes)."""

    def probe(self) -> None:
        """Load what a fit needs, so that `check` can say what is missing."""

    def save(self, folder: Path) -> None:
        """Write what `saved.load` needs into a folder."""


def open_classifier(settings: TrainableSettings, classes: Sequence[str]) -> Classifier:
    """Return the classifier for its settings.

    Raises:
        UserError: if its model or package is missing, with the remedy.
    """
    match settings:
        case LinearSettings():
            from .linear import LinearClassifier

            return LinearClassifier(settings, classes)
        case TransformerSettings():
            from .transformer import TransformerClassifier

            return TransformerClassifier(settings, classes)
        case SetFitSettings():
            from .setfit import SetFitClassifier

            return SetFitClassifier(settings, classes)
        case _:
            assert_never(settings)


def open_prompt_classifier(settings: PromptSettings, task: Task, lm: LM) -> Classifier:
    """Return the classifier that asks an LM; it stays in the process that has loaded it."""
    from .prompt import PromptClassifier

    return PromptClassifier(settings, task, lm)


@functools.lru_cache(
    maxsize=4
)  # one experiment's classifiers; more would fill the memory in a sweep over models
def cached_classifier(settings: TrainableSettings, classes: tuple[str, ...]) -> Classifier:
    """Return the classifier that this process has opened for these settings before, or open it."""
    return open_classifier(settings, classes)


class UnavailableClassifier:
    """Stands for a classifier that could not be opened: each of its trials fails with the reason."""

    threads: int | None = None
    tokens: int | None = None
    usd: float | None = None

    def __init__(self, kind: str, reason: UserError) -> None:
        """Keep the reason."""
        self.about: dict[str, Any] = {"kind": kind, "unusable": str(reason)}
        self.notes: list[str] = []

    def fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        watch: EpochCallback = ignore_epoch,
    ) -> FitResult:
        """Fail with the reason."""
        raise UntrainableError(self.about["unusable"])

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Fail with the reason."""
        raise UntrainableError(self.about["unusable"])

    def probe(self) -> None:
        """Do nothing: the reason stands in the rows."""

    def save(self, folder: Path) -> None:
        """Fail with the reason."""
        raise UntrainableError(self.about["unusable"])


class TrialResult(NamedTuple):
    """What a trial came to: its row, its epochs, and what the user should know."""

    row: Trial
    epochs: Sequence[Epoch] = ()
    notes: Sequence[str] = ()


class WorkerDied(Exception):
    """A trial's process died."""


Job = tuple[int, int]  # (trial number, draw)


Result = TypeVar("Result")


class TrialExecutor(Protocol):
    """Where trials run: calls a function for each job and yields what it returns, or `Lost`, as they end."""

    def __call__(
        self,
        function: Callable[[Job, Callbacks], Result],
        jobs: Sequence[Job],
        callbacks: Callbacks,
    ) -> Iterator[tuple[Job, Result | WorkerDied]]:
        """Run the jobs."""


def run_serially(
    function: Callable[[Job, Callbacks], Result], jobs: Sequence[Job], callbacks: Callbacks
) -> Iterator[tuple[Job, Result | WorkerDied]]:
    """Run trials one after the other in this process."""
    return ((job, function(job, callbacks)) for job in jobs)


@dataclass
class TrialRunner:
    """What the trials of a file share.

    Attributes:
        classifier: fitted anew for each trial.
        cell: what the rows say of themselves.
        real: the training rows of the data seed.
        synthetic: the synthetic rows by draw; empty for no augmentation.
        validation: rows for early stopping.
        test: rows scored once a trial, with the best weights.
        master_seed: training seeds derive from it and the trial's number alone, so that methods are paired.
        options: how rows are weighted.
        curves: folder for TensorBoard.
        fitted: the trial whose weights `classifier` holds in this process.
    """

    classifier: Classifier
    cell: Cell
    real: Sequence[Example]
    synthetic: Mapping[int, SyntheticSet]
    validation: Sequence[Example]
    test: Sequence[Example]
    master_seed: int
    options: SoftLabelTraining = field(default_factory=SoftLabelTraining)
    curves: Path | None = None
    fitted: int | None = None

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Return every setting that can change a number; its hash stands in the rows."""
        first = next(
            (part.about for _, part in sorted(self.synthetic.items()) if not part.broken), {}
        )
        # Seeds differ from trial to trial, and `attempts` says when to give up: neither makes it another experiment.
        method = {key: value for key, value in first.items() if key not in ("seed", "attempts")}
        validation = self.inputs["validation"]  # it decides which weights are kept
        return {
            "classifier": self.classifier.about,
            "classes": list(self.cell.classes),
            "synthetic": method,
            "validation": validation,
        }

    @property
    def hopeless(self) -> str:
        """Why every trial would fail, or nothing."""
        if isinstance(self.classifier, UnavailableClassifier):
            return str(self.classifier.about["unusable"])
        reasons = [part.broken for part in self.synthetic.values()]
        return reasons[0] if reasons and all(reasons) else ""

    @functools.cached_property
    def inputs(self) -> dict[str, str]:
        """Return the hashes of all rows."""
        shas = {
            "train": hash_rows(self.real),
            "validation": hash_rows(self.validation),
            "test": hash_rows(self.test),
        }
        return shas | {
            f"synthetic.{draw}": fingerprint([[row.text, row.probs] for row in part.rows])
            for draw, part in self.synthetic.items()
        }

    def probe(self, job: Job, callbacks: Callbacks = NO_CALLBACKS) -> None:
        """Load what the trials need, where they will run."""
        self.classifier.probe()

    def trial(self, job: Job, callbacks: Callbacks = NO_CALLBACKS) -> TrialResult:
        """Run one trial; a fit that goes wrong is a row that says so."""
        number, draw = job
        started = time.monotonic()
        part = self.synthetic.get(draw, SyntheticSet((), {}))
        about = self._about(job, part)
        labels = [row.label for row in self.test]
        try:
            if part.broken:
                raise UntrainableError(part.broken)
            rows = training_rows(self.options, self.real, part.rows, self.cell.classes)
            self.fitted = None
            with self._watch(number, callbacks) as watch:
                fit = self.classifier.fit(rows, self.validation, about["seed"], watch)
            self.fitted = number
            scores = metrics.score(
                self.classifier.predict_proba([row.text for row in self.test]),
                labels,
                self.cell.classes,
            )
        except (RuntimeError, ValueError, ArithmeticError, LookupError, MemoryError) as error:
            if group_size() > 1 and not isinstance(error, ArithmeticError | UntrainableError):
                raise  # the other processes are still at it and would wait for ever
            return self.failed(job, _reason(error), _since(started))
        valid = None if fit.valid_accuracy is None else round(fit.valid_accuracy, 6)
        about |= {
            "valid_accuracy": valid,
            "best_epoch": fit.best_epoch,
            "epochs": len(fit.history) or None,
        }
        if (tokens := self.classifier.tokens) is not None:
            about |= {"tokens": tokens, "tokens_per_prediction": round(tokens / len(self.test), 2)}
            about["usd"] = self.classifier.usd
        epochs = [Epoch(trial=number, **line) for line in fit.history]
        return TrialResult(
            Trial(**about, **scores, seconds=_since(started)), epochs, self.classifier.notes
        )

    def failed(self, job: Job, reason: str, seconds: float | None = None) -> TrialResult:
        """Return the row of a trial that came to nothing."""
        about = self._about(job, self.synthetic.get(job[1], SyntheticSet((), {})))
        return TrialResult(
            Trial(
                **about,
                status="failed",
                error=reason.replace("\n", "; "),
                accuracy=None,
                seconds=seconds,
            )
        )

    def _about(self, job: Job, part: SyntheticSet) -> dict[str, Any]:
        number, draw = job
        return {
            **{
                name: getattr(self.cell, name)
                for name in ("task", "level", "method", "classifier", "data_seed")
            },
            **{
                "variant": dict(self.cell.variant),
                "trial": number,
                "draw": draw,
                "seed": training_seed(self.master_seed, number),
            },
            **{"n_train": len(self.real), "n_synthetic": len(part.rows), "n_test": len(self.test)},
            **{
                "majority": metrics.majority([row.label for row in self.test]),
                "tokens": part.tokens,
                "usd": part.usd,
                "version": __version__,
            },
            **{
                "train_sha": self.inputs["train"],
                "test_sha": self.inputs["test"],
                "settings": fingerprint(self.settings),
            },
        }

    @contextmanager
    def _watch(self, number: int, callbacks: Callbacks) -> Iterator[EpochCallback]:
        """Show each epoch, and write it for TensorBoard where that is wanted."""
        cell = self.cell
        name = f"{cell}, trial {number}"
        last = 0
        variant = ",".join(
            f"{key}={value}".replace("/", "_") for key, value in cell.variant.items()
        )
        variant = variant if len(variant) < 100 else fingerprint(variant)
        level = cell.level.replace("/", "-per-")
        folder = (
            self.curves
            and self.curves / variant / cell.method / cell.classifier / f"{level}-trial-{number}"
        )
        with tensorboard.writer(folder) as add:

            def watch(epoch: Mapping[str, Any], best: Mapping[str, Any], stop: int) -> None:
                nonlocal last
                last = epoch["epoch"]
                add(epoch)
                scores = f"validation {epoch['valid_accuracy']:.1%} (best {best['valid_accuracy']:.1%} at {best['epoch']})"
                callbacks.progress(name, last, stop, f"loss {epoch['loss']:.3f} {scores}")

            try:
                yield watch
            finally:
                if last:
                    callbacks.progress(name, last, last)


def train(
    work: TrialRunner,
    trials: Sequence[Job],
    output: Path,
    *,
    map: TrialExecutor = run_serially,
    command: Sequence[str] = (),
    force: bool = False,
    callbacks: Callbacks = NO_CALLBACKS,
) -> StageResult:
    """Run the trials of a file and write their rows, unless they are there already.

    Args:
        work: what the trials share.
        trials: (trial number, draw) each.
        output: the trials file.
        map: where the trials run; the rows are the same wherever that is.
        command: for the manifest.
        force: do it again.
        callbacks: take progress.

    Raises:
        StoppedShort: if a trial failed; the others are written.
    """
    settings = {
        **work.settings,
        "master_seed": work.master_seed,
        "trials": [list(pair) for pair in trials],
    }
    with exclusive_writer(output):
        if not force and (manifest := find_up_to_date(output, settings, work.inputs)):
            return StageResult(output, manifest, skipped=True)
        return _train(work, trials, output, settings, map, command, force, callbacks)


def _train(
    work: TrialRunner,
    trials: Sequence[Job],
    output: Path,
    settings: dict[str, Any],
    map: TrialExecutor,
    command: Sequence[str],
    force: bool,
    callbacks: Callbacks,
) -> StageResult:
    started = time.monotonic()
    rows: list[Trial] = []
    epochs: list[Epoch] = []
    if not force:
        rows, epochs = resumed(output, trials, settings, work.inputs, callbacks)
    done = {row.trial for row in rows}
    missing = [job for job in trials if job[0] not in done]
    try:
        # What is missing must show before anything that is there is replaced.
        list(map(work.probe, missing[:1], callbacks))
    except UserError as error:
        work.classifier = UnavailableClassifier(work.classifier.about["kind"], error)
    if work.hopeless and output.exists():
        # Trials that went well with what has gone since are not given up for rows that say so.
        raise StoppedShort(
            f"{output}: left as it is: {work.hopeless}", "mend the cause and run again"
        )

    def save(complete: bool) -> Manifest:
        write_records(output, rows)
        if output != STDIO:
            write_records(history_path(output), epochs)
        counts = {
            "trials": len(trials),
            **{status: sum(row.status == status for row in rows) for status in ("ok", "failed")},
        }
        return finish_output(
            output, started, stage="train", complete=complete, settings=settings, inputs=work.inputs,
            seed=work.cell.data_seed, counts=counts, command=list(command),
        )  # fmt: skip

    if output != STDIO:
        save(False)
    name = str(work.cell)
    callbacks.progress(name, len(rows), len(trials))
    for job, result in map(work.trial, missing, callbacks):
        ran = work.failed(job, str(result)) if isinstance(result, WorkerDied) else result
        rows.append(ran.row)
        epochs += ran.epochs
        for note in ran.notes:
            callbacks.warn(f"{work.cell.classifier}: {note}")
        if output != STDIO:
            # The history goes first: the trial's own row says that all of it is there.
            append(history_path(output), "".join(to_json_line(epoch) for epoch in ran.epochs))
            append(output, to_json_line(ran.row))
        callbacks.progress(name, len(rows), len(trials))
    rows.sort(key=lambda row: row.trial)
    epochs.sort(key=lambda line: (line.trial, line.epoch))
    failed = [row for row in rows if row.status == "failed"]
    manifest = save(not failed)
    if failed:
        message = (
            f"{output}: {len(failed)} of {len(trials)} trials failed; the first: {failed[0].error}"
        )
        raise StoppedShort(message, "mend the cause and run again: only failed trials are repeated")
    return StageResult(output, manifest)


def _reason(error: Exception) -> str:
    """Return what a failed fit says: our own words as they are, of a library's the first line and the kind."""
    text = str(error)
    return (
        text
        if isinstance(error, UntrainableError)
        else f"{type(error).__name__}: {text}".splitlines()[0]
    )


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
