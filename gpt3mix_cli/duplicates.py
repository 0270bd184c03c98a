"""Reports texts that a task has twice: in train, with two labels, or in train and another split."""

import unicodedata
from collections.abc import Iterable, Iterator

from .errors import shorten
from .records import Example

CONFLICTS = "correct or remove one of each"
REPEATS = "remove them, unless they are meant"
IN_VALIDATION = "early stopping on them favours memorizing; remove one of each"
IN_TEST = (
    "accuracy on them says nothing about new text; subsample.decontaminate: drop leaves such rows "
    "out of train"
)
# What a row is a copy of: one, several.
ORIGINAL = ("a training row", "training rows")
OTHER_ORIGINAL = ("another training row", "other training rows")
CONFLICTING = ("a training row with another label", "training rows with another label")

Copy = tuple[Example, Example]  # and its original


class _Deletions(dict[int, int | None]):
    """What `str.translate` makes of a character, by its code point; filled as texts are read."""

    def __missing__(self, code: int) -> int | None:
        category = unicodedata.category(chr(code))
        # Marks are vowels in some scripts, and emoji are words; ` and ´ are used as quotes.
        is_deleted = category[0] in "PZC" or category == "Sk"
        return self.setdefault(code, None if is_deleted else code)


_DELETIONS = _Deletions()


def normalize_text(text: str) -> str:
    """Return a text without case and spacing, to compare copies."""
    return " ".join(text.casefold().split())


def copy_key(text: str) -> str:
    """Return a text without case, punctuation and spacing, to compare however it is tokenised."""
    key = unicodedata.normalize("NFKC", text).casefold().translate(_DELETIONS)
    return key or normalize_text(text)


def find_conflicts(labelled: Iterable[tuple[str, str]]) -> dict[int, int]:
    """Return the rows whose text (`copy_key`) has two labels, from pairs of text and label.

    Returns:
        number of a row -> number of the first row with the same text and another label.
    """
    first: dict[str, tuple[int, str]] = {}
    second: dict[str, int] = {}  # the first row with another label than the first row
    rows = [(copy_key(text), label) for text, label in labelled]
    for number, (key, label) in enumerate(rows):
        if first.setdefault(key, (number, label))[1] != label:
            second.setdefault(key, number)
    return {
        number: second[key] if label == first[key][1] else first[key][0]
        for number, (key, label) in enumerate(rows)
        if key in second
    }


def describe_copies(
    task: str, train: Iterable[Example], validation: Iterable[Example], test: Iterable[Example]
) -> Iterator[str]:
    """Yield a warning for each kind of copy: in train, with another label, in another split.

    Args:
        task: name of the task.
        train: rows.
        validation: rows that are compared with train.
        test: rows that are compared with train, too.
    """
    texts = _TextIndex()
    repeats: list[Copy] = []
    conflicts: list[Copy] = []
    for row in train:
        if original := texts.find(row, add=True):
            (repeats if row.label == original.label else conflicts).append((row, original))
    kinds = (
        (conflicts, "training", CONFLICTING, CONFLICTS),
        (repeats, "training", OTHER_ORIGINAL, REPEATS),
        (texts.find_all(validation), "validation", ORIGINAL, IN_VALIDATION),
        (texts.find_all(test), "test", ORIGINAL, IN_TEST),
    )
    for pairs, split, originals, advice in kinds:
        if not pairs:
            continue
        near = sum(row.text != original.text for row, original in pairs)
        row, original = pairs[0]
        if len(pairs) == 1:
            copy = "a copy, but for case, punctuation or spacing," if near else "an exact copy"
            what = f"1 {split} row is {copy} of {originals[0]}:"
        else:
            copies = (
                f"copies ({near} but for case, punctuation or spacing)" if near else "exact copies"
            )
            what = f"{len(pairs)} {split} rows are {copies} of {originals[1]}, such as"
        yield (
            f"task '{task}': {what} {shorten(row.id)} = {shorten(original.id)} "
            f"({shorten(row.text)!r}); {advice}"
        )


class _TextIndex:
    """Finds the row whose text another one has, exactly or nearly."""

    def __init__(self) -> None:
        self._rows: dict[str, Example] = {}  # a key is a text or what `copy_key` makes of it

    def find(self, row: Example, add: bool = False) -> Example | None:
        """Return the row with this text; where there is none, `add` adds this one."""
        if original := self._rows.get(row.text):
            return original
        key = copy_key(row.text)
        original = self._rows.get(key)
        if add and not original:
            self._rows[row.text] = self._rows[key] = row
        return original

    def find_all(self, rows: Iterable[Example]) -> list[Copy]:
        return [(row, original) for row in rows if (original := self.find(row))]
