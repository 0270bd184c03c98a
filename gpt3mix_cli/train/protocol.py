"""What every classifier offers, and the functions that open one.

A classifier is one settings class, one module and one `case` in `open_classifier`.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, assert_never

from ..errors import UserError
from ..lm import LM
from ..records import Augmented, Example
from ..settings import (
    LinearSettings,
    PromptSettings,
    SetFitSettings,
    Task,
    TrainableSettings,
    TransformerSettings,
)
from .targets import UntrainableError

if TYPE_CHECKING:
    from .checkpoint import Checkpoint


@dataclass(frozen=True)
class FitResult:
    """The outcome of one fit.

    Attributes:
        valid_accuracy: validation accuracy of the kept weights; None if nothing is trained.
        best_epoch: the epoch of the kept weights, from 1; None for a classifier without epochs.
        history: one mapping per epoch.
    """

    valid_accuracy: float | None
    best_epoch: int | None = None
    history: tuple[Mapping[str, Any], ...] = ()


class EpochCallback(Protocol):
    """A function that a classifier calls after each epoch."""

    def __call__(
        self, epoch: Mapping[str, Any], best: Mapping[str, Any], last: int, total: int
    ) -> None:
        """Receive the epoch's metrics.

        Args:
            epoch: metrics of this epoch.
            best: metrics of the best epoch so far.
            last: the epoch after which training stops unless a later one is better.
            total: the epoch after which it stops in any case.
        """


def ignore_epoch(epoch: Mapping[str, Any], best: Mapping[str, Any], last: int, total: int) -> None:
    """Do nothing."""


class Classifier(Protocol):
    """A text classifier. One object serves many fits, each from the pretrained weights.

    Attributes:
        about: all settings and model fingerprints that can change a number.
        threads: CPU threads that a fit keeps busy: other fits can run on the remaining cores. None
            if a fit takes almost no time or runs on a GPU.
        tokens: LM tokens used for predictions since the last fit began; None without an LM.
        usd: price of those tokens; None if it is unknown or there is no LM.
        failure_reason: why no fit can succeed; empty if fits can run.
        summary: what it is, for the model card; settings such as `{model}` are filled in.
        library_name: the library that reads a saved model, as the hub names it; None if none does.
        usage_snippet: Python code that loads a saved model `DIR`; settings are filled in.
        checkpoint: where the next fit keeps its state, if it takes long; None for nowhere.
    """

    about: dict[str, Any]
    threads: int | None = None
    tokens: int | None = None
    usd: float | None = None
    failure_reason: str = ""
    summary: str = ""
    library_name: str | None = None
    usage_snippet: str = ""
    checkpoint: "Checkpoint | None" = None

    @property
    def notes(self) -> Sequence[str]:
        """Messages for the user since the last fit began, such as how many texts were cut."""
        return ()

    def fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        on_epoch: EpochCallback = ignore_epoch,
    ) -> FitResult:
        """Train on the rows' `probs` (see `targets`); keep the best weights by validation accuracy.

        Args:
            train: training rows.
            validation: rows for early stopping; without any, training lasts as long as the settings
                allow, and the last weights are kept.
            seed: seed of everything that is random in this fit.
            on_epoch: is called after each epoch.
        """

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Return the class probabilities, a float array (texts, classes)."""

    def probe(self) -> None:
        """Load what a fit needs, so that `check` can report what is missing."""

    def save(self, folder: Path) -> None:
        """Write the fitted weights into a folder, for `load`.

        Raises:
            UserError: if the classifier has no weights.
        """
        raise UserError(
            "the classifier trains no weights, so there is no model to save",
            "leave out --save-model",
        )

    def load(self, folder: Path) -> None:
        """Read the weights that `save` wrote."""
        raise UserError(f"{folder}: the classifier has no weights to load")


class UnavailableClassifier(Classifier):
    """A placeholder for a classifier that cannot be opened: every fit fails with the reason."""

    def __init__(self, kind: str, reason: UserError) -> None:
        self.failure_reason = str(reason)
        self.about = {"kind": kind, "unusable": self.failure_reason}

    def fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        on_epoch: EpochCallback = ignore_epoch,
    ) -> FitResult:
        """Raise the reason."""
        raise UntrainableError(self.failure_reason)

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Raise the reason."""
        raise UntrainableError(self.failure_reason)

    def probe(self) -> None:
        """Do nothing: the reason is in the trials' rows."""


def open_classifier(settings: TrainableSettings, classes: Sequence[str]) -> Classifier:
    """Return the classifier for its settings.

    Raises:
        UserError: if its model or a package is missing.
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
    """Return the classifier that prompts an LM; it runs in the process that loaded the LM."""
    from .prompt import PromptClassifier

    return PromptClassifier(settings, task, lm)


# One experiment has about four classifiers; a sweep over many models would fill the memory.
@functools.lru_cache(maxsize=4)
def cached_classifier(settings: TrainableSettings, classes: tuple[str, ...]) -> Classifier:
    """Return this process's classifier for these settings; it is opened at the first call."""
    return open_classifier(settings, classes)
