"""What synthetic rows are like as a set: balance, certainty, diversity, length, and whom their labels follow."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..records import Augmented, Example, entropy
from ..settings import generator
from .filter import ngrams, words

TEXTS = 1000  # rows whose texts are looked at: enough for any share, and a million would fill the memory
SAMPLE = 200  # texts of self-BLEU: it rises with their number, so that only equal samples can be compared
ORDER = 4  # longest n-gram of self-BLEU
USAGE = {
    "tokens": ("prompt_tokens", "completion_tokens"),
    "prompts": ("shortened",),
    "texts": ("retokenised",),
}
EPSILON = (
    0.1  # counted where no n-gram matches, as Texygen does (smoothing 1 of Chen and Cherry, 2014)
)


class Statistics:
    """Collects the figures of a synthetic set row by row, in memory that does not grow with it."""

    def __init__(self, examples: Sequence[Example]) -> None:
        """Keep the real rows that the synthetic ones are made from."""
        self._examples = examples
        self._labels: dict[str, str] = {}
        self._rows = 0
        self._classes: dict[str, int] = {}
        self._entropies = _Mean()
        self._masses = _Mean()
        self._agreements = _Mean()
        self._texts: list[str] = []
        self._random = generator(0, "sampled texts")

    def add(self, row: Augmented) -> None:
        """Count a row."""
        self.count(row.text, row.label, row.probs)
        if row.label_source != "parent":
            self._entropies.add(entropy(row.probs.values()))
            self._labels = self._labels or {example.id: example.label for example in self._examples}
            if (agrees := agreement(row, self._labels)) is not None:
                self._agreements.add(agrees)
        if row.label_mass is not None:
            self._masses.add(row.label_mass)

    def count(self, text: str, label: str, classes: Iterable[str]) -> None:
        """Count a row of which no more than text and label says anything."""
        if not self._rows:
            self._classes = dict.fromkeys(classes, 0)
        self._classes[label] += 1
        # Each row so far has the same chance to be among the texts kept (Vitter's algorithm R).
        if self._rows < TEXTS:
            self._texts.append(text)
        elif (place := int(self._random.random() * (self._rows + 1))) < TEXTS:
            self._texts[place] = text
        self._rows += 1

    def figures(self) -> dict[str, Any]:
        """Return the figures; what cannot be known, or says nothing of an edited parent, is None; empty if there are no rows.

        `classes`: rows of each class. `entropy_bits`: mean of the soft labels. `label_mass`: mean and lowest.
        `parents_majority`: share of rows that have the majority label of their parents, among `parents_compared`; ties are
        left out. These count every row; the others `texts` of them, drawn at random where there are more than `TEXTS`:
        `distinct_1`, `distinct_2`: different words and word pairs over all of these (Li et al., 2016). `words`: mean length,
        and that of as many real rows at most. `self_bleu` of `self_bleu_texts` of them.
        """
        if not self._rows:
            return {}
        texts = [words(text) for text in self._texts]
        sample = generator(0, "self-bleu").sample(texts, min(SAMPLE, len(texts)))
        real = (
            self._examples
            if len(self._examples) <= TEXTS
            else generator(0, "sampled real texts").sample(self._examples, TEXTS)
        )
        masses = self._masses
        return {
            "classes": self._classes,
            "entropy_bits": self._entropies.rounded(),
            "label_mass": {"mean": masses.rounded(), "min": _rounded(masses.least)}
            if masses.count
            else None,
            "distinct_1": distinct(texts, 1),
            "distinct_2": distinct(texts, 2),
            "self_bleu": self_bleu(sample),
            "self_bleu_texts": len(sample),
            "words": {
                "mean": _rounded(fmean(map(len, texts)), 2),
                "real": _rounded(fmean(len(words(row.text)) for row in real), 2),
            },
            "texts": len(texts),
            "parents_majority": self._agreements.rounded(),
            "parents_compared": self._agreements.count,
        }


@dataclass
class _Mean:
    count: int = 0
    total: float = 0.0
    least: float = math.inf

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.least = min(self.least, value)

    def rounded(self) -> float | None:
        return _rounded(self.total / self.count) if self.count else None


def figures(counts: Mapping[str, Any], usd: float | None = None) -> list[tuple[str, str]]:
    """Return a manifest's counts, and what they cost in dollars, for people: (name, value), none where nothing is known."""
    found = counts.get("statistics") or {}
    rejected = sorted(counts.get("rejected", {}).items(), key=lambda item: (-item[1], item[0]))
    beside = [
        f"{counts[name]:,} {name}"
        for name in ("spare", "unchanged", "repeated")
        if counts.get(name)
    ]
    mass, length, share = found.get("label_mass"), found.get("words"), found.get("parents_majority")
    diversity = [
        ("distinct-1", "distinct_1"),
        ("distinct-2", "distinct_2"),
        ("self-BLEU", "self_bleu"),
    ]
    certainty = (
        [f"entropy {found['entropy_bits']:.3f} bits"]
        if found.get("entropy_bits") is not None
        else []
    )
    certainty += [f"label mass {mass['mean']:.3f} (lowest {mass['min']:.3f})"] if mass else []
    follow = f"{share or 0:.1%} of {found.get('parents_compared', 0):,} rows have the label that most of their parents have"
    of = (
        f" ({found['texts']:,} sampled rows)"
        if found.get("texts", counts["kept"]) < counts["kept"]
        else ""
    )
    rows = [
        (
            "rows",
            ", ".join(
                [
                    f"{counts['kept']:,} of {counts['wanted']:,} wanted, from {counts['asked']:,} attempts",
                    *beside,
                ]
            ),
        ),
        ("rejected", ", ".join(f"{n:,} {reason}" for reason, n in rejected)),
        ("classes", ", ".join(f"{n:,} {label}" for label, n in found.get("classes", {}).items())),
        ("soft labels", "; ".join(certainty)),
        ("parents", follow if share is not None else ""),
        (
            "diversity",
            ", ".join(
                f"{name} {found[key]:.3f}" for name, key in diversity if found.get(key) is not None
            )
            + of,
        ),
        (
            "length",
            f"{length['mean']:.1f} words, real rows {length['real']:.1f}{of}" if length else "",
        ),
        *(
            (
                what,
                ", ".join(
                    f"{counts[name]:,} {name.replace('_', ' ')}"
                    for name in names
                    if counts.get(name)
                ),
            )
            for what, names in USAGE.items()
        ),
        ("cost", "" if usd is None else f"${usd:.4f}"),
    ]
    return [(name, value) for name, value in rows if value]


def distinct(texts: Iterable[Sequence[str]], n: int) -> float | None:
    """Return the share of different n-grams among all of them; None if there are none."""
    counts = Counter(gram for text in texts for gram in ngrams(text, n))
    return _rounded(len(counts) / counts.total()) if counts else None


def agreement(row: Augmented, labels: Mapping[str, str]) -> bool | None:
    """Return whether a row has the majority label of its parents, whose labels stand by their ids; None in a tie."""
    votes = Counter(labels[parent] for parent in row.parents if parent in labels).most_common(2)
    if not votes or (len(votes) == 2 and votes[0][1] == votes[1][1]):
        return None
    return row.label == votes[0][0]


def self_bleu(texts: Sequence[Sequence[str]]) -> float | None:
    """Return the mean BLEU-4 of each text against all others (Zhu et al., 2018, Texygen): 0 for no likeness, 1 for copies.

    A text that is shorter than four words is measured with the n-grams that it has.

    Args:
        texts: words of each text; those without words are passed over.

    Returns:
        None if there are fewer than two texts.
    """
    texts = [text for text in texts if text]
    if len(texts) < 2:
        return None
    counts = [[Counter(ngrams(text, n)) for text in texts] for n in range(1, ORDER + 1)]
    highest = [_two_highest(one) for one in counts]
    lengths = Counter(map(len, texts))
    scores = []
    for place, text in enumerate(texts):
        orders = min(ORDER, len(text))
        logs = [math.log(_precision(counts[n][place], highest[n])) for n in range(orders)]
        others = lengths - Counter([len(text)])
        nearest = min(others, key=lambda length: (abs(length - len(text)), length))
        scores.append(min(1.0, math.exp(1 - nearest / len(text))) * math.exp(fmean(logs)))
    return _rounded(fmean(scores))


def _two_highest(
    counts: Iterable[Counter[tuple[str, ...]]],
) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return the two highest counts of each n-gram over the texts, so that any text's own can be left out at no cost."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for one in counts:
        for gram, n in one.items():
            first, second = found.get(gram, (0, 0))
            found[gram] = (n, first) if n > first else (first, max(n, second))
    return found


def _precision(
    own: Counter[tuple[str, ...]], highest: dict[tuple[str, ...], tuple[int, int]]
) -> float:
    """Return the share of a text's n-grams that the others have too, each at most as often as one of them has it."""
    matches = 0
    for gram, n in own.items():
        first, second = highest[gram]
        matches += min(n, second if n == first else first)
    return (matches or EPSILON) / own.total()


def _rounded(value: float, digits: int = 4) -> float:
    return round(value, digits) + 0.0  # no -0.0
