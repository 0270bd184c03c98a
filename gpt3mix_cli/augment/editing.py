"""What editors have in common: the row of an edited parent, and that they ask no language model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from ..records import Augmented, Example, to_json


class NoCost:
    """What an augmenter says of its costs that asks no language model."""

    def usage(self) -> Mapping[str, int]:
        """Return nothing."""
        return {}

    def usd(self) -> float | None:
        """Return None."""
        return None

    def asked_as(self) -> str:
        """Return nothing."""
        return ""


@runtime_checkable
class TextEditor(Protocol):
    """What an editor may have besides: the texts of its rows alone, from which lines are made in a tenth of the time."""

    def texts(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[str]:
        """Yield the texts of the rows that `generate` yields."""


def edited(
    parent: Example, text: str, copy: int, attempt: int, method: str, classes: Sequence[str]
) -> Augmented:
    """Return the row of an editor: the parent's label as a distribution, an id that names parent and copy."""
    return Augmented(
        id=f"{parent.id}~{method}-{copy}",
        text=text,
        label=parent.label,
        probs={label: float(label == parent.label) for label in classes},
        method=method,
        parents=[parent.id],
        label_source="parent",
        label_mass=None,
        request=attempt,
    )


def edited_lines(
    texts: Iterable[str], examples: Sequence[Example], method: str, classes: Sequence[str]
) -> Iterator[str]:
    """Yield `to_line(edited(...))` of the texts of attempts 0, 1, ..., without making a row of each."""
    middles = {
        label: f', "label": {to_json(label)}, "probs": {to_json({one: float(one == label) for one in classes})}, "method": {to_json(method)}, '
        for label in classes
    }
    for attempt, text in enumerate(texts):
        copy, place = divmod(attempt, len(examples))
        parent = examples[place]
        yield (
            f'{{"id": {to_json(f"{parent.id}~{method}-{copy}")}, "text": {to_json(text)}{middles[parent.label]}"parents": [{to_json(parent.id)}], '
            f'"label_source": "parent", "label_mass": null, "request": {attempt}}}\n'
        )
