"""An Easier Data Augmentation (Karimi et al., 2021): punctuation marks put in at random, the words and their order kept.

Of a text of n words each copy gets 1 to n / 3 marks (one where n is below three), each before a word of its own, set apart
by spaces as the authors' code does. So a row always differs from its parent, unless that has no word at all.
"""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from ..records import Augmented, Example
from ..settings import AedaSettings, Task, generator
from .editing import NoCost, edited

CACHE_VERSION = 1  # raised when the same settings would give other rows
MARKS = (".", ";", "?", ":", "!", ",")  # section 2 of the paper


class AEDA(NoCost):
    """Edits each parent in turn; see `augment.Augmenter`."""

    edits = True
    rows = block = 1

    def __init__(self, settings: AedaSettings, task: Task) -> None:
        """Keep the name and the classes."""
        self._name, self._classes = settings.name, task.classes
        self.about: dict[str, Any] = {
            "method": settings.name,
            "kind": "aeda",
            "classes": task.classes,
            "format": CACHE_VERSION,
        }

    def generate(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Augmented]:
        """Yield the rows of attempts first..first+count: attempt i is copy i // n of parent i mod n."""
        for attempt, text in enumerate(self.texts(examples, first, count, seed), first):
            copy, parent = divmod(attempt, len(examples))
            yield edited(examples[parent], text, copy, attempt, self._name, self._classes)

    def texts(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[str]:
        """Yield the texts of these rows."""
        for attempt in range(first, first + count):
            copy, parent = divmod(attempt, len(examples))
            yield punctuated(examples[parent].text, generator(seed, "aeda", parent, copy))


def punctuated(text: str, random: Random) -> str:
    """Return a text with marks put in."""
    words = text.split()
    if not words:
        return text
    places = set(random.sample(range(len(words)), random.randint(1, max(1, len(words) // 3))))
    return " ".join(
        f"{random.choice(MARKS)} {word}" if place in places else word
        for place, word in enumerate(words)
    )
