"""Copies between splits, and of validation and test rows among synthetic ones.

An exact copy has the same words, whatever case, punctuation and spaces; a near copy is at least as
similar as `NEAR_COPY` (see `near_duplicates`). Copies in train or validation make results on test
rows too good. What was found is kept in the user's cache: it depends on the texts alone.
"""

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from .duplicates import copy_key
from .errors import NO_CALLBACKS, Callbacks, UserError, in_progress, shorten
from .files import atomic_write
from .near_duplicates import NearDuplicates
from .records import Example
from .settings import Split, fingerprint
from .user_cache import cache_folder

NEAR_COPY = 0.8  # Jaccard similarity of character 4-grams
# Synthetic rows among which near copies are counted if none is left out: each takes as long as five
# rows of EDA.
NEAR_SAMPLE = 1_000
CACHE_VERSION = 1  # raised when the same texts would give other copies


class Copy(NamedTuple):
    """What a text is a copy of.

    Attributes:
        original: the other row.
        split: of the other row.
        similarity: 1 for an exact copy.
    """

    original: Example
    split: Split
    similarity: float

    @property
    def kind(self) -> str:
        """`exact` or `near`."""
        return "exact" if self.similarity == 1 else "near"


class CopyFinder:
    """An index of some splits: of which row a text is a copy.

    Args:
        splits: split -> its rows; a text that is in two is a copy of the first.
    """

    def __init__(self, splits: Mapping[Split, Sequence[Example]]) -> None:
        self._exact: dict[str, tuple[Example, Split]] = {}
        self._by_key: dict[str, tuple[Example, Split]] = {}
        self._near = NearDuplicates(NEAR_COPY)
        self._lock = threading.Lock()  # several sets are made at the same time
        for split, rows in splits.items():
            for row in rows:
                self._exact.setdefault(copy_key(row.text), (row, split))
                key = f"{split} {row.id}"
                self._by_key[key] = row, split
                self._near.add(row.text, key)

    def find(self, text: str, near: bool = True) -> Copy | None:
        """Return what a text is a copy of, with `near` also a near one; None if it is none."""
        if exact := self._exact.get(copy_key(text)):
            return Copy(*exact, 1.0)
        if not near:
            return None
        with self._lock:
            match = self._near.find(text)
        if match:
            # Equal sets of 4-grams are no proof of equal texts.
            return Copy(*self._by_key[match.key], min(match.similarity, 0.999))
        return None


@dataclass(frozen=True)
class SplitCopies:
    """The copies in one split of rows of others.

    Attributes:
        split: in which they are.
        copies: id of a row -> what it is a copy of.
        rows: id -> row, of the copies.
    """

    split: Split
    copies: Mapping[str, Copy] = field(default_factory=dict)
    rows: Mapping[str, Example] = field(default_factory=dict)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return split of the originals -> kind -> number of copies."""
        counts: dict[str, dict[str, int]] = {}
        for copy in self.copies.values():
            of_split = counts.setdefault(copy.split, {"exact": 0, "near": 0})
            of_split[copy.kind] += 1
        return counts

    def describe(self, task: str, is_left_out: bool) -> Iterator[str]:
        """Yield a sentence for each split of the originals.

        Args:
            task: name of the task.
            is_left_out: whether the copies are left out. Otherwise exact copies between train and
                another split are not named: they are reported with the data.
        """
        names = {"train": "training", "validation": "validation", "test": "test"}
        for split, counts in self.counts().items():
            only_near = self.split == "train" and not is_left_out
            row_id = next(
                (
                    name
                    for name, copy in self.copies.items()
                    if copy.split == split and not (only_near and copy.kind == "exact")
                ),
                None,
            )
            if row_id is None:
                continue
            copy, row = self.copies[row_id], self.rows[row_id]
            number = counts["near"] if only_near else sum(counts.values())
            if number == 1:
                verb = "is left out as" if is_left_out else "is"
                kind = "an exact" if copy.kind == "exact" else "a near"
                what = f"1 {names[self.split]} row {verb} {kind} copy of a {names[split]} row:"
            else:
                verb = "are left out as" if is_left_out else "are"
                kinds = f"{counts['exact']} exact, {counts['near']} near"
                copies = "near copies" if only_near else f"copies ({kinds})"
                what = f"{number} {names[self.split]} rows {verb} {copies} of {names[split]} rows,"
                what += " such as"
            left_in = f"subsample.decontaminate: drop leaves {'it' if number == 1 else 'them'} out"
            yield (
                f"task '{task}': {what} {shorten(row.id)} = {shorten(copy.original.id)} "
                f"({shorten(row.text)!r} and {shorten(copy.original.text)!r})"
                f"{'' if is_left_out else f'; {left_in} of {self.split}'}"
            )


def find_copies(
    split: Split,
    rows: Sequence[Example],
    others: Mapping[Split, Sequence[Example]],
    callbacks: Callbacks = NO_CALLBACKS,
) -> SplitCopies:
    """Return the copies in one split of rows of other splits.

    Args:
        split: name of the split.
        rows: its rows.
        others: the other splits.
        callbacks: for progress: a hundred thousand rows take half a minute.
    """
    originals = [(row, name) for name, members in others.items() for row in members]
    texts = tuple(row.text for row in rows)
    with in_progress(callbacks, "looking for near copies between the splits"):
        pairs = _find_pairs(texts, tuple((row.text, name) for row, name in originals))
    copies = {
        rows[number].id: Copy(*originals[other], similarity) for number, other, similarity in pairs
    }
    return SplitCopies(split, copies, {rows[number].id: rows[number] for number, _, _ in pairs})


Pair = tuple[int, int, float]  # numbers of a text and of its original, and their similarity


@lru_cache(maxsize=8)
def _find_pairs(texts: tuple[str, ...], originals: tuple[tuple[str, Split], ...]) -> list[Pair]:
    record = cache_folder() / "copies" / fingerprint([CACHE_VERSION, NEAR_COPY, texts, originals])
    with contextlib.suppress(OSError, ValueError, TypeError):
        return [(int(a), int(b), float(s)) for a, b, s in json.loads(record.read_text("ascii"))]
    pairs = list(_compare(texts, originals))
    with contextlib.suppress(UserError), atomic_write(record) as stream:  # a read-only cache
        stream.write(json.dumps(pairs).encode())
    return pairs


def _compare(texts: Sequence[str], originals: Sequence[tuple[str, Split]]) -> Iterator[Pair]:
    splits: dict[Split, list[Example]] = {}
    for number, (text, split) in enumerate(originals):
        splits.setdefault(split, []).append(Example(id=str(number), text=text, label=""))
    finder = CopyFinder(splits)
    for number, text in enumerate(texts):
        if copy := finder.find(text):
            yield number, int(copy.original.id), copy.similarity


class SyntheticCopies:
    """Counts the synthetic rows that are copies of validation or test rows.

    Unless they are left out, near copies are counted among the first `NEAR_SAMPLE` rows only.

    Attributes:
        drops: whether such rows are left out.

    Args:
        finder: of validation and test rows; None: nothing is counted.
        drops: see above.
    """

    def __init__(self, finder: CopyFinder | None = None, drops: bool = False) -> None:
        self._finder, self.drops = finder, drops
        self._rows = 0  # looked at
        self._counts: dict[str, Counter[str]] = {}
        self._first = ""

    def find(self, text: str) -> Copy | None:
        """Return what a text is a copy of, and count it."""
        if not self._finder:
            return None
        copy = self._finder.find(text, near=self.drops or self._rows < NEAR_SAMPLE)
        self._rows += 1
        if copy:
            self._counts.setdefault(copy.split, Counter()).update([copy.kind])
            self._first = self._first or f"{shorten(text)!r} = {shorten(copy.original.id)}"
        return copy

    @property
    def total(self) -> int:
        """The number of copies."""
        return sum(counts.total() for counts in self._counts.values())

    def counts(self) -> dict[str, object]:
        """Return the counts for the manifest; empty if nothing was looked for."""
        if not self._finder:
            return {}
        copies = {
            split: {kind: counts[kind] for kind in ("exact", "near")}
            for split, counts in sorted(self._counts.items())
        }
        left_out = self.total if self.drops else 0
        sampled = {"near_among": NEAR_SAMPLE} if self._is_sampled else {}
        return {"copies": {**copies, **sampled, "left_out": left_out}}

    @property
    def _is_sampled(self) -> bool:
        return not self.drops and self._rows > NEAR_SAMPLE

    def describe(self) -> str:
        """Return a sentence for the user; empty without a copy."""
        if not self._counts:
            return ""
        parts = [
            f"{counts['exact']} exact and {counts['near']} near copies of {split} rows"
            for split, counts in sorted(self._counts.items())
        ]
        advice = "they are left out" if self.drops else (
            "subsample.decontaminate: drop leaves them out"
        )  # fmt: skip
        rows = "the synthetic rows"
        if self._is_sampled:
            rows += f" (near ones among the first {NEAR_SAMPLE:,})"
        return f"{' and '.join(parts)} among {rows}, such as {self._first}; {advice}"
