"""The base of editors, and the rows of edited parents."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from ..records import Augmented, Example, to_json


class NoCost:
    """The usage of a method that asks no language model."""

    def usage(self) -> Mapping[str, int]:
        """Return nothing."""
        return {}

    def usd(self) -> float | None:
        """Return None."""
        return None

    def describe_endpoint(self) -> str:
        """Return an empty string."""
        return ""


class EditorBase(NoCost):
    """Turns the texts of an editor into rows; see `protocol.TextEditor`."""

    edits_parents: Literal[True] = True

    def __init__(self, about: dict[str, Any]) -> None:
        """Keep what the rows depend on; `about` has the keys `method` and `classes`."""
        self.about = about

    def generate(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Augmented]:
        """Yield the rows of attempts first..first+count: attempt i edits parent i mod n."""
        method, classes = self.about["method"], self.about["classes"]
        for attempt, text in enumerate(self.edit_texts(examples, first, count, seed), first):
            yield edited_row(examples, text, attempt, method, classes)

    def edit_texts(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[str]:
        """Yield the texts of these rows."""
        raise NotImplementedError


def edited_row(
    examples: Sequence[Example], text: str, attempt: int, method: str, classes: Sequence[str]
) -> Augmented:
    """Return the row of an attempt, with its parent's label; the id names parent and copy."""
    copy, index = divmod(attempt, len(examples))
    parent = examples[index]
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


def edited_line_renderer(
    examples: Sequence[Example], method: str, classes: Sequence[str]
) -> Callable[[str, int], str]:
    """Return a function of (text, attempt) that equals `to_json_line(edited_row(...))`.

    It creates no record, which takes a tenth of the time.
    """
    middles = {}
    for label in classes:
        probs = {name: float(name == label) for name in classes}
        middles[label] = (
            f', "label": {to_json(label)}, "probs": {to_json(probs)}, "method": {to_json(method)}, '
        )

    def render(text: str, attempt: int) -> str:
        copy, index = divmod(attempt, len(examples))
        parent = examples[index]
        return (
            f'{{"id": {to_json(f"{parent.id}~{method}-{copy}")}, "text": {to_json(text)}'
            f'{middles[parent.label]}"parents": [{to_json(parent.id)}], '
            f'"label_source": "parent", "label_mass": null, "request": {attempt}}}\n'
        )

    return render
