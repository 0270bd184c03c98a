"""What synthetic rows are like as a set: balance, certainty, diversity, length, and whom their labels follow."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ..records import Augmented, Example
from ..settings import generator
from .quality import ngrams, words

SAMPLE = 200  # texts of self-BLEU: it rises with their number, so that only equal samples can be compared
ORDER = 4  # longest n-gram of self-BLEU
USAGE = {"tokens": ("prompt_tokens", "completion_tokens"), "prompts": ("shortened",), "texts": ("retokenised",)}
EPSILON = 0.1  # counted where no n-gram matches, as Texygen does (smoothing 1 of Chen and Cherry, 2014)


def statistics(rows: Sequence[Augmented], examples: Sequence[Example]) -> dict[str, Any]:
    """Return the figures of a synthetic set; what cannot be known, or says nothing of an edited parent, is None.

    Args:
        rows: the synthetic rows.
        examples: the real rows that they were made from.

    Returns:
        `classes`: rows of each class. `entropy_bits`: mean of the soft labels. `label_mass`: mean and lowest. `distinct_1`,
        `distinct_2`: different words and word pairs over all of them (Li et al., 2016). `self_bleu` of `self_bleu_texts`
        sampled texts. `words`: mean length of the rows and of the real ones. `parents_majority`: share of rows that have
        the majority label of their parents, among `parents_compared`; ties are left out.
    """
    if not rows:
        return {}
    generated = [row for row in rows if row.label_source != "parent"]
    masses = [row.label_mass for row in rows if row.label_mass is not None]
    labels = Counter(row.label for row in rows)
    texts = [words(row.text) for row in rows]
    sample = generator(0, "self-bleu").sample(texts, min(SAMPLE, len(texts)))
    agreement = parents_majority(generated, examples)
    return {
        "classes": {label: labels[label] for label in rows[0].probs},
        "entropy_bits": _rounded(fmean(entropy(row.probs.values()) for row in generated)) if generated else None,
        "label_mass": {"mean": _rounded(fmean(masses)), "min": _rounded(min(masses))} if masses else None,
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "self_bleu": self_bleu(sample),
        "self_bleu_texts": len(sample),
        "words": {"mean": _rounded(fmean(map(len, texts)), 2), "real": _rounded(fmean(len(words(row.text)) for row in examples), 2)},
        "parents_majority": _rounded(fmean(agreement)) if agreement else None,
        "parents_compared": len(agreement),
    }


def figures(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a manifest's counts for people: (name, value), none where nothing is known."""
    found = counts.get("statistics") or {}
    rejected = sorted(counts.get("rejected", {}).items(), key=lambda item: (-item[1], item[0]))
    beside = [f"{counts[name]:,} {name}" for name in ("spare", "unchanged", "repeated") if counts.get(name)]
    mass, length, share = found.get("label_mass"), found.get("words"), found.get("parents_majority")
    diversity = [("distinct-1", "distinct_1"), ("distinct-2", "distinct_2"), ("self-BLEU", "self_bleu")]
    certainty = [f"entropy {found['entropy_bits']:.3f} bits"] if found.get("entropy_bits") is not None else []
    certainty += [f"label mass {mass['mean']:.3f} (lowest {mass['min']:.3f})"] if mass else []
    follow = f"{share or 0:.1%} of {found.get('parents_compared', 0):,} rows have the label that most of their parents have"
    rows = [
        ("rows", ", ".join([f"{counts['kept']:,} of {counts['wanted']:,} wanted, from {counts['asked']:,} requests", *beside])),
        ("rejected", ", ".join(f"{n:,} {reason}" for reason, n in rejected)),
        ("classes", ", ".join(f"{n:,} {label}" for label, n in found.get("classes", {}).items())),
        ("soft labels", "; ".join(certainty)),
        ("parents", follow if share is not None else ""),
        ("diversity", ", ".join(f"{name} {found[key]:.3f}" for name, key in diversity if found.get(key) is not None)),
        ("length", f"{length['mean']:.1f} words, real rows {length['real']:.1f}" if length else ""),
        *((what, ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in names if counts.get(name))) for what, names in USAGE.items()),
    ]
    return [(name, value) for name, value in rows if value]


def entropy(shares: Iterable[float]) -> float:
    """Return the entropy of a distribution in bits."""
    return -sum(share * math.log2(share) for share in shares if share > 0)


def distinct(texts: Iterable[Sequence[str]], n: int) -> float | None:
    """Return the share of different n-grams among all of them; None if there are none."""
    counts = Counter(gram for text in texts for gram in ngrams(text, n))
    return _rounded(len(counts) / counts.total()) if counts else None


def parents_majority(rows: Iterable[Augmented], examples: Iterable[Example]) -> list[bool]:
    """Return for each row whether it has the majority label of its parents; rows whose parents are in a tie are left out."""
    labels = {row.id: row.label for row in examples}
    found = []
    for row in rows:
        votes = Counter(labels[parent] for parent in row.parents if parent in labels).most_common(2)
        if votes and (len(votes) == 1 or votes[0][1] > votes[1][1]):
            found.append(row.label == votes[0][0])
    return found


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


def _two_highest(counts: Iterable[Counter[tuple[str, ...]]]) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return the two highest counts of each n-gram over the texts, so that any text's own can be left out at no cost."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for one in counts:
        for gram, n in one.items():
            first, second = found.get(gram, (0, 0))
            found[gram] = (n, first) if n > first else (first, max(n, second))
    return found


def _precision(own: Counter[tuple[str, ...]], highest: dict[tuple[str, ...], tuple[int, int]]) -> float:
    """Return the share of a text's n-grams that the others have too, each at most as often as one of them has it."""
    matches = 0
    for gram, n in own.items():
        first, second = highest[gram]
        matches += min(n, second if n == first else first)
    return (matches or EPSILON) / own.total()


def _rounded(value: float, digits: int = 4) -> float:
    return round(value, digits) + 0.0  # no -0.0
