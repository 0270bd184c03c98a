"""What every augmentation method provides, and how the settings of a method open it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, assert_never

from ..lm import LM, Journal
from ..records import Augmented, Example, Reject
from ..settings import (
    AedaSettings,
    AugmentSettings,
    BacktranslateSettings,
    EdaSettings,
    EditorSettings,
    MlmSettings,
    Task,
)


class AugmenterBase(Protocol):
    """What generators and editors have in common.

    Attributes:
        about: every setting and model fingerprint that can change a row; stored in the manifest.
    """

    about: dict[str, Any]

    def generate(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Augmented | Reject]:
        """Yield the rows of attempts first..first+count, in order.

        A row depends on the examples, the seed and the index of its attempt, and on nothing else.
        """

    def usage(self) -> Mapping[str, int]:
        """Return counts so far: names that end in `_tokens` are tokens, others events."""

    def usd(self) -> float | None:
        """Return the cost so far in dollars; None if it is unknown or nothing is paid for."""

    def describe_endpoint(self) -> str:
        """Return how the endpoint was asked, for people; empty without an endpoint."""


class RowGenerator(AugmenterBase, Protocol):
    """Writes new rows, of which the filter rejects some; an attempt may yield several.

    Attributes:
        edits_parents: False.
        rows_per_attempt: the most rows that an attempt yields.
        block_size: attempts run in whole blocks of at most this size, so that what an attempt
            yields does not depend on how many rows are wanted.
    """

    edits_parents: Literal[False]
    rows_per_attempt: int
    block_size: int


class TextEditor(AugmenterBase, Protocol):
    """Edits real rows: attempt i is copy i // n of parent i mod n. All its rows are kept.

    Attributes:
        edits_parents: True.
    """

    edits_parents: Literal[True]

    def edit_texts(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[str]:
        """Yield only the texts of the rows that `generate` yields."""


Augmenter = RowGenerator | TextEditor


def open_augmenter(
    settings: AugmentSettings | EditorSettings,
    task: Task,
    lm: LM | None = None,
    name: str = "gpt3mix",
    journal: Journal | None = None,
) -> Augmenter:
    """Return the augmenter of a method.

    Args:
        settings: `AugmentSettings` for GPT3Mix, or those of a baseline that edits its parents.
        task: the classes, and the words of the prompt.
        lm: the language model, for GPT3Mix.
        name: the `method` of GPT3Mix's rows.
        journal: stores translations.
    """
    match settings:
        case AugmentSettings():
            from .gpt3mix import GPT3Mix

            assert lm is not None, "GPT3Mix needs a language model"
            return GPT3Mix(settings, task, lm, name)
        case EdaSettings():
            from .eda import EDA

            return EDA(settings, task)
        case AedaSettings():
            from .aeda import AEDA

            return AEDA(settings, task)
        case MlmSettings():
            from .mlm import MLM

            return MLM(settings, task)
        case BacktranslateSettings():
            from .backtranslate import BackTranslation

            return BackTranslation(settings, task, journal)
        case _:
            assert_never(settings)
