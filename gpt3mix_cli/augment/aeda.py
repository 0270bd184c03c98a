"""An Easier Data Augmentation (Karimi et al., 2021): inserts punctuation marks at random.

A copy of a text of n words gets 1 to n / 3 marks (one if n is below three). Each mark precedes
a different word, separated by spaces as in the authors' code. The words and their order stay, so a
row differs from its parent unless that has no words.
"""

from collections.abc import Iterator, Sequence
from random import Random

from ..records import Example
from ..settings import AedaSettings, Task, generator
from .protocol import TextEditor

CACHE_VERSION = 1  # raise it if the same settings give other rows
MARKS = (".", ";", "?", ":", "!", ",")  # section 2 of the paper


class AEDA(TextEditor):
    """See the top of this file."""

    def __init__(self, settings: AedaSettings, task: Task) -> None:
        self.about = {
            "method": settings.name,
            "kind": "aeda",
            "classes": task.classes,
            "format": CACHE_VERSION,
        }

    def edit_texts(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[str]:
        """Yield the texts of attempts first..first+count."""
        for attempt in range(first, first + count):
            copy, parent = divmod(attempt, len(examples))
            yield insert_marks(examples[parent].text, generator(seed, "aeda", parent, copy))


def insert_marks(text: str, random: Random) -> str:
    """Return the text with punctuation marks inserted at random."""
    words = text.split()
    if not words:
        return text
    marked = set(random.sample(range(len(words)), random.randint(1, max(1, len(words) // 3))))
    return " ".join(
        f"{random.choice(MARKS)} {word}" if index in marked else word
        for index, word in enumerate(words)
    )
