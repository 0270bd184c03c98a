"""What every augmentation method provides, and how the settings of a method open it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, assert_never

from ..jsonl import to_json
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
    """What generators and editors have in common; the defaults are those of a method without LM.

    Attributes:
        about: every setting and model fingerprint that can change a row; stored in the manifest.
            `method` is the `method` of the rows.
    """

    about: dict[str, Any]

    def generate(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Augmented | Reject]:
        """Yield the rows of attempts first..first+count, in order.

        A row depends on the examples, the seed and the index of its attempt, and on nothing else.
        """

    def prepare(self, examples: Sequence[Example]) -> Sequence[str]:
        """Check what can be checked before the first attempt; return warnings for the user."""
        return ()

    def label_set(
        self, rows: Sequence[Augmented], examples: Sequence[Example]
    ) -> tuple[Sequence[Augmented], Mapping[str, Any]]:
        """Return the rows of a finished set, and counts for the manifest.

        Labels that depend on the whole set are assigned here.
        """
        return rows, {}

    def usage(self) -> Mapping[str, int]:
        """Return counts so far: names that end in `_tokens` are tokens, others events."""
        return {}

    def usd(self) -> float | None:
        """Return the cost so far in dollars; None if it is unknown or nothing is paid for."""
        return None

    def describe_lm(self) -> str:
        """Return how an LM was asked, for people; empty without one."""
        return ""


class RowGenerator(AugmenterBase, Protocol):
    """Writes new rows, of which the filter rejects some; an attempt may yield several.

    Attributes:
        edits_parents: False.
        rows_per_attempt: the most rows that an attempt yields.
        block_size: attempts run in whole blocks of at most this size, so that what an attempt
            yields does not depend on how many rows are wanted.
    """

    edits_parents: Literal[False] = False
    rows_per_attempt: int
    block_size: int


class TextEditor(AugmenterBase, Protocol):
    """Edits real rows: attempt i is copy i // n of parent i mod n. All its rows are kept.

    Attributes:
        about: `classes` are those of the task.
        edits_parents: True.
    """

    edits_parents: Literal[True] = True

    def edit_texts(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[str]:
        """Yield the texts of attempts first..first+count, without their rows."""

    def generate(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Augmented]:
        """Yield the rows of attempts first..first+count; an id names the parent and the copy."""
        method = self.about["method"]
        for attempt, text in enumerate(self.edit_texts(examples, first, count, seed), first):
            copy, index = divmod(attempt, len(examples))
            parent = examples[index]
            yield Augmented(
                id=f"{parent.id}~{method}-{copy}",
                text=text,
                label=parent.label,
                probs={label: float(label == parent.label) for label in self.about["classes"]},
                method=method,
                parents=[parent.id],
                label_source="parent",
                label_mass=None,
                request=attempt,
            )


Augmenter = RowGenerator | TextEditor


def edited_line_renderer(
    examples: Sequence[Example], method: str, classes: Sequence[str]
) -> Callable[[str, int], str]:
    """Return a function of (text, attempt) that gives the line of a row of `TextEditor.generate`.

    It creates no record, which takes a tenth of the time.
    """
    probs = {label: to_json({name: float(name == label) for name in classes}) for label in classes}
    middles = {
        label: f', "label": {to_json(label)}, "probs": {values}, "method": {to_json(method)}, '
        for label, values in probs.items()
    }

    def render(text: str, attempt: int) -> str:
        copy, index = divmod(attempt, len(examples))
        parent = examples[index]
        return (
            f'{{"id": {to_json(f"{parent.id}~{method}-{copy}")}, "text": {to_json(text)}'
            f'{middles[parent.label]}"parents": [{to_json(parent.id)}], '
            f'"label_source": "parent", "label_mass": null, "request": {attempt}}}\n'
        )

    return render


def open_augmenter(
    settings: AugmentSettings | EditorSettings,
    task: Task,
    lm: LM | None = None,
    name: str = "gpt3mix",
    journal: Journal | None = None,
    unlabelled: Sequence[str] = (),
) -> Augmenter:
    """Return the augmenter of a method.

    Args:
        settings: `AugmentSettings` for GPT3Mix, or those of a baseline that edits its parents.
        task: the classes, and the words of the prompt.
        lm: the language model, for GPT3Mix.
        name: the `method` of GPT3Mix's rows.
        journal: stores translations.
        unlabelled: the texts of `augment.unlabelled`, for GPT3Mix.
    """
    match settings:
        case AugmentSettings():
            from .gpt3mix import GPT3Mix

            assert lm is not None, "GPT3Mix needs a language model"
            return GPT3Mix(settings, task, lm, name, unlabelled)
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
