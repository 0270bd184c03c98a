"""One trial: a fit on real and synthetic rows, scored once on the test set, as a row.

A trial depends on its own seed and rows only, so trials may run in any process and any order.
"""

import functools
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from .. import __version__
from ..errors import NO_CALLBACKS, Callbacks, StoppedShort, UserError, in_progress
from ..layout import TrialKey, checkpoint_path, tensorboard_folder
from ..pretrained import out_of_memory
from ..records import Augmented, Example, Record, Trial, hash_rows
from ..settings import SoftLabelTraining, derived_seed, fingerprint
from ..stopping import is_stop_requested
from . import metrics
from .checkpoint import Checkpoint
from .protocol import Classifier, EpochCallback, FitResult
from .targets import UntrainableError, assign_targets

FIT_ERRORS = (RuntimeError, ValueError, ArithmeticError, LookupError, MemoryError)
# Settings of synthetic rows that make no other experiment: seeds differ between trials, and
# `attempts` only limits how long generation goes on.
NOT_IN_SETTINGS = ("seed", "attempts")


class Epoch(Record):
    """One row of a `.history.jsonl`: an epoch of a trial; metrics are further keys."""

    trial: int
    epoch: int


class TrialJob(NamedTuple):
    """A trial to run.

    Attributes:
        trial: its number in the experiment.
        draw: the synthetic set that it reads.
    """

    trial: int
    draw: int = 0


class TrialResult(NamedTuple):
    """The outcome of a trial.

    Attributes:
        row: its row in the trials file.
        epochs: its rows in the history.
        notes: messages for the user.
    """

    row: Trial
    epochs: Sequence[Epoch] = ()
    notes: Sequence[str] = ()


class WorkerDied(Exception):
    """The process that ran a trial ended without a result."""


Result = TypeVar("Result")


class TrialExecutor(Protocol):
    """Decides where trials run."""

    def __call__(
        self,
        function: Callable[[TrialJob, Callbacks], Result],
        jobs: Sequence[TrialJob],
        callbacks: Callbacks,
    ) -> Iterator[tuple[TrialJob, Result | WorkerDied]]:
        """Call a function for each job; yield each job with its result, in the order they end."""


def run_serially(
    function: Callable[[TrialJob, Callbacks], Result],
    jobs: Sequence[TrialJob],
    callbacks: Callbacks,
) -> Iterator[tuple[TrialJob, Result | WorkerDied]]:
    """Run trials one after the other in this process, until it is to stop."""
    for job in jobs:
        if is_stop_requested():
            return
        yield job, function(job, callbacks)


@dataclass(frozen=True)
class SyntheticSet:
    """The synthetic rows of one draw.

    Attributes:
        rows: the rows.
        about: the settings that they were generated with; for rows from elsewhere, just that.
        tokens: LM tokens used; None if unknown.
        usd: their price; None if unknown.
        failure_reason: why the rows cannot be used; trials that read them fail with it.
        is_unfinished: more rows may follow: its stage stopped short, or it is a preview.
        edited: rows that a person has changed.
        dropped: rows that a person has removed.
    """

    rows: Sequence[Augmented] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    tokens: int | None = None
    usd: float | None = None
    failure_reason: str = ""
    is_unfinished: bool = False
    edited: int = 0
    dropped: int = 0

    @property
    def review_note(self) -> str:
        """What a person has changed, for a model card; empty if nothing."""
        if not (self.edited or self.dropped):
            return ""
        return f"; a person has edited {self.edited:,} and removed {self.dropped:,} of them"


@dataclass(frozen=True)
class TrialData:
    """The rows that the trials of a file share.

    Attributes:
        real: training rows of the data seed.
        validation: rows for early stopping.
        test: rows that each trial is scored on, once.
        synthetic: the synthetic set of each draw; empty without augmentation.
        known_hashes: of `validation` and `test`, if they are known.
        num_all_test: number of test rows, if `test` may be a part of them; None if it is not.
    """

    real: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    synthetic: Mapping[int, SyntheticSet] = field(default_factory=dict)
    known_hashes: Mapping[str, str] = field(default_factory=dict)
    num_all_test: int | None = None

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """A hash of each set of rows."""
        hashes = {
            "train": hash_rows(self.real),
            "validation": self.known_hashes.get("validation") or hash_rows(self.validation),
            "test": self.known_hashes.get("test") or hash_rows(self.test),
        }
        for draw, synthetic in self.synthetic.items():
            hashes[f"synthetic.{draw}"] = fingerprint(
                [[row.text, row.probs] for row in synthetic.rows]
            )
        return hashes


def training_seed(master_seed: int, trial: int) -> int:
    """Return the training seed of a trial: the same for all methods, so that they are paired."""
    return derived_seed(master_seed, "train", trial)


@dataclass
class TrialRunner:
    """Runs the trials of one file.

    Attributes:
        classifier: is fitted anew in each trial.
        key: cell, method and classifier name, for the rows.
        classes: the task's classes, in order.
        data: the rows to train on and to score.
        master_seed: training seeds derive from it and the trial's number.
        target_settings: how rows become training targets.
        weight: of a synthetic row, for `synthetic_weight: auto`.
        tensorboard_root: folder for TensorBoard; None for no logs.
        output: the trials file, next to which long trainings keep checkpoints; None for none.
        fitted_trial: the trial whose weights `classifier` has in this process, if any.
    """

    classifier: Classifier
    key: TrialKey
    classes: Sequence[str]
    data: TrialData
    master_seed: int
    target_settings: SoftLabelTraining = field(default_factory=SoftLabelTraining)
    tensorboard_root: Path | None = None
    weight: float | None = None
    output: Path | None = None
    fitted_trial: int | None = field(default=None, init=False)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Every setting that can change a number; its hash is in the rows."""
        sets = [synthetic for _, synthetic in sorted(self.data.synthetic.items())]
        method = next((synthetic.about for synthetic in sets if not synthetic.failure_reason), {})
        return {
            "classifier": self.classifier.about,
            "classes": list(self.classes),
            "synthetic": {k: v for k, v in method.items() if k not in NOT_IN_SETTINGS},
            # The validation rows decide which weights are kept.
            "validation": self.data.hashes["validation"],
        }

    @property
    def failure_reason(self) -> str:
        """Why every trial would fail; empty if any can run."""
        reasons = [synthetic.failure_reason for synthetic in self.data.synthetic.values()]
        return self.classifier.failure_reason or (reasons[0] if reasons and all(reasons) else "")

    def probe(self, job: TrialJob, callbacks: Callbacks = NO_CALLBACKS) -> None:
        """Load what the trials need, in the process that runs them."""
        self._refuse_other_classifier()
        with in_progress(callbacks, f"loading the classifier {self.key.classifier}"):
            self.classifier.probe()

    def run(self, job: TrialJob, callbacks: Callbacks = NO_CALLBACKS) -> TrialResult:
        """Run one trial; a fit that fails gives a row with `status: failed`."""
        self._refuse_other_classifier()
        number, draw = job
        synthetic, started = self._synthetic(draw), time.monotonic()
        try:
            if synthetic.failure_reason:
                raise UntrainableError(synthetic.failure_reason)
            rows = assign_targets(self.targets, self.data.real, synthetic.rows, self.classes)
            self.fitted_trial = None
            seed = training_seed(self.master_seed, number)
            checkpoint = self._checkpoint(number, seed, rows)
            with self._epoch_callback(number, callbacks) as on_epoch:
                fit = self._fit(rows, seed, on_epoch, checkpoint)
            self.fitted_trial = number
            scores = metrics.score(
                self.classifier.predict_proba([row.text for row in self.data.test]),
                [row.label for row in self.data.test],
                self.classes,
            )
        except FIT_ERRORS as error:
            is_own = isinstance(error, UntrainableError)
            reason = str(error) if is_own else f"{type(error).__name__}: {error}".splitlines()[0]
            reason = "not enough memory" if out_of_memory(error) else reason
            return self.failed_result(job, reason, round(time.monotonic() - started, 3))
        accuracy, tokens = fit.valid_accuracy, self.classifier.tokens
        scores |= {
            "valid_accuracy": None if accuracy is None else round(accuracy, 6),
            "best_epoch": fit.best_epoch,
            "epochs": len(fit.history) or None,
            "seconds": round(time.monotonic() - started, 3),
        }
        if tokens is not None:
            scores |= {
                "tokens": tokens,
                "usd": self.classifier.usd,
                "tokens_per_prediction": round(tokens / len(self.data.test), 2),
            }
        epochs = [Epoch(trial=number, **epoch) for epoch in fit.history]
        notes = [*self.classifier.notes, *(checkpoint.notes if checkpoint else ())]
        return TrialResult(self._row(job, **scores), epochs, notes)

    def _checkpoint(self, trial: int, seed: int, rows: Sequence[Augmented]) -> Checkpoint | None:
        if self.output is None:
            return None
        # The settings have the hash of the validation rows, and the rows their weights.
        key = fingerprint([self.settings, seed, [[row.text, row.probs] for row in rows]])
        return Checkpoint(checkpoint_path(self.output, trial), key)

    def _fit(
        self,
        rows: Sequence[Augmented],
        seed: int,
        on_epoch: EpochCallback,
        checkpoint: Checkpoint | None,
    ) -> FitResult:
        """Fit the classifier; an interrupted fit goes on from its checkpoint."""
        self.classifier.checkpoint = checkpoint
        try:
            fit = self.classifier.fit(rows, self.data.validation, seed, on_epoch)
        finally:
            self.classifier.checkpoint = None
        if checkpoint:
            checkpoint.remove()
        return fit

    def _refuse_other_classifier(self) -> None:
        # A worker may have opened it after a new version of its model came.
        if self.failure_reason or self.classifier.about == self.settings["classifier"]:
            return
        raise StoppedShort(
            f"classifier {self.key.classifier}: model, device or dtype is another than before",
            "run the same command again",
        )

    def failed_result(
        self, job: TrialJob, reason: str, seconds: float | None = None
    ) -> TrialResult:
        """Return the result of a trial that failed."""
        error = reason.replace("\n", "; ")
        return TrialResult(
            self._row(job, status="failed", error=error, accuracy=None, seconds=seconds)
        )

    @property
    def targets(self) -> SoftLabelTraining:
        """How rows become training targets, with the weight of this runner."""
        if not self.target_settings.chooses_weight:
            return self.target_settings
        weight = 1.0 if self.weight is None else self.weight
        return self.target_settings.model_copy(update={"synthetic_weight": weight})

    def _synthetic(self, draw: int) -> SyntheticSet:
        return self.data.synthetic.get(draw, SyntheticSet())

    def _row(self, job: TrialJob, **outcome: Any) -> Trial:
        number, draw = job
        cell, data, synthetic = self.key.cell, self.data, self._synthetic(draw)
        known = {
            "task": cell.task,
            "level": cell.level,
            "method": self.key.method,
            "classifier": self.key.classifier,
            "variant": dict(cell.variant),
            "data_seed": cell.data_seed,
            "trial": number,
            "draw": draw,
            "seed": training_seed(self.master_seed, number),
            "n_train": len(data.real),
            "n_synthetic": len(synthetic.rows),
            "n_test": len(data.test),
            "majority": metrics.majority([row.label for row in data.test]),
            "train_sha": data.hashes["train"],
            "test_sha": data.hashes["test"],
            "tokens": synthetic.tokens,
            "usd": synthetic.usd,
            "settings": fingerprint(self.settings),
            "version": __version__,
            "synthetic_weight": self.weight,
            "n_test_all": None if data.num_all_test == len(data.test) else data.num_all_test,
        }
        return Trial(**(known | outcome))

    @contextmanager
    def _epoch_callback(self, number: int, callbacks: Callbacks) -> Iterator[EpochCallback]:
        """Yield a callback that reports each epoch as progress and to TensorBoard."""
        name, last_epoch, board = f"{self.key}, trial {number}, epoch", 0, None
        if self.tensorboard_root:
            check_tensorboard()
            from torch.utils.tensorboard import SummaryWriter

            board = SummaryWriter(str(tensorboard_folder(self.tensorboard_root, self.key, number)))

        def on_epoch(
            epoch: Mapping[str, Any], best: Mapping[str, Any], last: int, total: int
        ) -> None:
            nonlocal last_epoch
            last_epoch = epoch["epoch"]
            if board:
                for metric in sorted(epoch.keys() - {"epoch"}):
                    board.add_scalar(metric, epoch[metric], last_epoch)
            detail = (
                f"loss {epoch['loss']:.3f} validation {epoch['valid_accuracy']:.1%} "
                f"(best {best['valid_accuracy']:.1%} at {best['epoch']}), "
                f"ends at {last} unless it improves"
            )
            callbacks.progress(name, last_epoch, total, detail)

        try:
            yield on_epoch
        finally:
            if board:
                board.close()
            if last_epoch:
                callbacks.progress(name, last_epoch, last_epoch)


def check_tensorboard() -> None:
    """Make sure that TensorBoard is installed, before anything is trained.

    Raises:
        UserError: if it is not.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "--tensorboard needs the package tensorboard", "pip install 'gpt3mix[tensorboard]'"
        )
