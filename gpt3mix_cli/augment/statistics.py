"""Statistics of a synthetic set: class balance, certainty of labels, diversity, length."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..records import Augmented, Example, entropy
from ..settings import generator
from .filter import ngrams, split_words
from .set_labels import class_mix

# Texts that are kept for diversity and length: enough for any fraction, and bounded in memory.
MAX_SAMPLED_TEXTS = 1000
# Texts of self-BLEU. It rises with their number, so only samples of the same size compare.
SELF_BLEU_TEXTS = 200
MAX_NGRAM = 4  # of self-BLEU
# Counted if no n-gram matches, as in Texygen (smoothing 1 of Chen and Cherry, 2014).
NO_MATCH = 0.1
MIN_COMPARED, LOW_AGREEMENT = 20, 0.5  # rows, and their fraction, that give a warning
FAR_FROM_MIX = 0.2  # total variation distance that gives one
USAGE_ROWS = {
    "tokens": ("prompt_tokens", "completion_tokens"),
    "prompts": ("shortened",),
    "texts": ("retokenised", "rescored"),
}


class Statistics:
    """Collects the statistics of a synthetic set row by row, in bounded memory.

    Args:
        examples: the real rows that the synthetic ones are made from.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self._labels = {example.id: example.label for example in examples}
        self._rows = 0
        self._probs: Counter[str] = Counter()
        self._classes: dict[str, int] = {}
        self._entropies, self._masses, self._agreements = _Mean(), _Mean(), _Mean()
        self._texts: list[str] = []
        self._random = generator(0, "sampled texts")

    def add(self, row: Augmented) -> None:
        """Add a row."""
        self.count(row.text, row.label, row.probs)
        if row.label_source != "parent" and not row.edited:
            self._entropies.add(entropy(row.probs.values()))
            self._probs.update(row.probs)
            if (agrees := has_majority_label(row, self._labels)) is not None:
                self._agreements.add(agrees)
        if row.label_mass is not None:
            self._masses.add(row.label_mass)

    def count(self, text: str, label: str, classes: Iterable[str]) -> None:
        """Add a row whose label is its parent's: only text and label tell anything."""
        self._classes = self._classes or dict.fromkeys(classes, 0)
        self._classes[label] += 1
        # Reservoir sampling (Vitter's algorithm R): every row has the same chance to be kept.
        if self._rows < MAX_SAMPLED_TEXTS:
            self._texts.append(text)
        elif (index := int(self._random.random() * (self._rows + 1))) < MAX_SAMPLED_TEXTS:
            self._texts[index] = text
        self._rows += 1

    def summary(self) -> dict[str, Any]:
        """Return the statistics for the manifest; empty without rows.

        A value is None if it is unknown or says nothing about an edited parent. All rows:

        - `classes`: rows of each class.
        - `mean_probs`: mean soft label, and `class_mix`, that of the real rows.
        - `entropy_bits`: mean of the soft labels.
        - `label_mass`: mean and minimum.
        - `parents_majority`: fraction of rows with the majority label of their parents, among
          `parents_compared` rows; ties are left out.

        `texts` rows, at most `MAX_SAMPLED_TEXTS` drawn at random:

        - `distinct_1`, `distinct_2`: distinct words and word pairs (Li et al., 2016).
        - `words`: mean length, and that of at most as many real rows.
        - `self_bleu`: of `self_bleu_texts` of them.
        """
        if not self._rows:
            return {}
        texts = [split_words(text) for text in self._texts]
        sample = generator(0, "self-bleu").sample(texts, min(SELF_BLEU_TEXTS, len(texts)))
        real, mix = self._examples, class_mix([row.label for row in self._examples], self._classes)
        if len(real) > MAX_SAMPLED_TEXTS:
            real = generator(0, "sampled real texts").sample(real, MAX_SAMPLED_TEXTS)
        masses = {"mean": self._masses.mean(), "min": _round(self._masses.least)}
        return {
            "classes": self._classes,
            "mean_probs": {name: _round(self._probs[name] / labelled) for name in self._classes}
            if (labelled := self._entropies.count)
            else None,
            "class_mix": {name: _round(value) for name, value in mix.items()},
            "entropy_bits": self._entropies.mean(),
            "label_mass": masses if self._masses.count else None,
            "distinct_1": distinct(texts, 1),
            "distinct_2": distinct(texts, 2),
            "self_bleu": self_bleu(sample),
            "self_bleu_texts": len(sample),
            "words": {
                "mean": _round(fmean(map(len, texts)), 2),
                "real": _round(fmean(len(split_words(row.text)) for row in real), 2),
            },
            "texts": len(texts),
            "parents_majority": self._agreements.mean(),
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

    def mean(self) -> float | None:
        return _round(self.total / self.count) if self.count else None


def doubts(counts: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Return warnings about a set whose labels contradict its parents or the wanted class mix.

    Args:
        counts: of the set's manifest.
        settings: of the same.
    """
    statistics, texts = counts["statistics"], []
    parents = "augment.selection=same_class, augment.labels=product, or another LM"
    # Hard labels are what the LM wrote; matched ones have the wanted mix already.
    can_match = settings.get("labels") == "soft" and "label_offsets" not in counts
    remedy = f"try augment.label_prior=match, {parents}" if can_match else f"try {parents}"
    fraction, count = statistics.get("parents_majority"), statistics.get("parents_compared", 0)
    if fraction is not None and count >= MIN_COMPARED and fraction < LOW_AGREEMENT:
        texts.append(
            f"only {fraction:.0%} of {count} rows have the label that most of their parents have: "
            f"the labels may follow the LM's bias, not the texts; {remedy}"
        )
    mean, mix = statistics.get("mean_probs"), statistics.get("class_mix")
    wanted = counts.get("label_prior", mix)
    if mean and mix and sum(abs(mean[name] - wanted[name]) for name in mean) / 2 > FAR_FROM_MIX:
        shares = ", ".join(f"{name} {mean[name]:.0%} (real rows {mix[name]:.0%})" for name in mean)
        texts.append(f"the mean label is {shares}; {remedy}")
    return texts


# For people --------------------------------------------------------------------------------------


def describe_counts(counts: Mapping[str, Any], usd: float | None = None) -> list[tuple[str, str]]:
    """Return a manifest's counts and their cost as (name, value); unknown values are left out."""
    statistics = counts.get("statistics") or {}
    rejected = sorted(counts.get("rejected", {}).items(), key=lambda item: (-item[1], item[0]))
    is_sampled = statistics.get("texts", counts["kept"]) < counts["kept"]
    sampled = f" ({statistics['texts']:,} sampled rows)" if is_sampled else ""
    rows = [
        ("rows", _describe_rows(counts)),
        ("rejected", ", ".join(f"{count:,} {reason}" for reason, count in rejected)),
        ("review", describe_review(counts)),
        (
            "classes",
            ", ".join(
                f"{count:,} {label}" for label, count in statistics.get("classes", {}).items()
            ),
        ),
        ("soft labels", _describe_certainty(statistics)),
        ("label prior", _describe_prior(counts)),
        ("label check", _describe_check(counts.get("label_check"))),
        ("parents", _describe_parents(statistics)),
        ("diversity", _describe_diversity(statistics) + sampled),
        ("length", _describe_length(statistics, sampled)),
        ("measures", describe_measures(counts.get("measures") or {})),
        *((title, _join_counts(counts, names)) for title, names in USAGE_ROWS.items()),
        ("cost", "" if usd is None else f"${usd:.4f}"),
    ]
    return [(name, value) for name, value in rows if value]


def describe_review(counts: Mapping[str, Any]) -> str:
    """Return what a person has changed in a synthetic set, as text; empty if nothing."""
    parts = [f"{counts[name]:,} rows {name}" for name in ("edited", "dropped") if counts.get(name)]
    return ", ".join([*parts, *["changed by hand"] * bool(counts.get("changed_by_hand"))])


def _join_counts(counts: Mapping[str, Any], names: Iterable[str]) -> str:
    known = [(name.replace("_", " "), counts[name]) for name in names if counts.get(name)]
    return ", ".join(f"{count:,} {name}" for name, count in known)


def _describe_rows(counts: Mapping[str, Any]) -> str:
    text = f"{counts['kept']:,} of {counts['wanted']:,} wanted, from {counts['asked']:,} attempts"
    others = _join_counts(counts, ("spare", "unchanged", "repeated"))
    return f"{text}, {others}" if others else text


def _describe_certainty(statistics: Mapping[str, Any]) -> str:
    bits, mass = statistics.get("entropy_bits"), statistics.get("label_mass")
    entropies = "" if bits is None else f"entropy {bits:.3f} bits"
    masses = f"label mass {mass['mean']:.3f} (lowest {mass['min']:.3f})" if mass else ""
    return "; ".join(filter(None, (entropies, masses)))


def _describe_prior(counts: Mapping[str, Any]) -> str:
    if not (offsets := counts.get("label_offsets")):
        return ""
    mean = counts["unmatched_mean"]
    return "offsets " + ", ".join(
        f"{name} {offset:+.2f} (mean before {mean[name]:.2f})" for name, offset in offsets.items()
    )


def _describe_check(check: Mapping[str, Any] | None) -> str:
    if not check:
        return ""
    return (
        f"{check['accuracy']:.0%} of {check['rows']} real rows right, "
        f"{check['matched_accuracy']:.0%} without their bias; majority {check['majority']:.0%}"
    )


def _describe_parents(statistics: Mapping[str, Any]) -> str:
    fraction, count = statistics.get("parents_majority"), statistics.get("parents_compared", 0)
    text = f"of {count:,} rows have the label that most of their parents have"
    return "" if fraction is None else f"{fraction:.1%} {text}"


def _describe_diversity(statistics: Mapping[str, Any]) -> str:
    values = {
        "distinct-1": statistics.get("distinct_1"),
        "distinct-2": statistics.get("distinct_2"),
        "self-BLEU": statistics.get("self_bleu"),
    }
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items() if value is not None)


def _describe_length(statistics: Mapping[str, Any], sampled: str) -> str:
    length = statistics.get("words")
    return f"{length['mean']:.1f} words, real rows {length['real']:.1f}{sampled}" if length else ""


def describe_measures(measures: Mapping[str, Any]) -> str:
    """Return what `gpt3mix measure` found, as text; empty if nothing was measured."""
    parts = []
    if (perplexity := measures.get("perplexity")) is not None:
        parts.append(f"perplexity {perplexity:,.1f} ({measures['perplexity_lm']})")
    if (similarity := measures.get("parent_similarity")) is not None:
        parts.append(f"similarity to parents {similarity:.2f}")
    if (agreement := measures.get("label_agreement")) is not None:
        accuracy = measures["labeller_accuracy"]
        parts.append(
            f"{agreement:.0%} of the labels as by a linear classifier of all real rows (accuracy "
            f"{accuracy:.0%})"
        )
    return ", ".join(parts)


# Measures ----------------------------------------------------------------------------------------


def distinct(texts: Iterable[Sequence[str]], n: int) -> float | None:
    """Return the fraction of n-grams that are distinct; None if there are none."""
    counts = Counter(gram for text in texts for gram in ngrams(text, n))
    return _round(len(counts) / counts.total()) if counts else None


def has_majority_label(row: Augmented, labels: Mapping[str, str]) -> bool | None:
    """Return whether a row has the majority label of its parents (id -> label); None in a tie."""
    counts = Counter(labels[parent] for parent in row.parents if parent in labels)
    top = [label for label, count in counts.items() if count == max(counts.values())]
    return row.label in top if len(top) == 1 else None


def self_bleu(texts: Sequence[Sequence[str]]) -> float | None:
    """Return the mean BLEU-4 of each text against the others (Zhu et al., 2018): 1 for copies.

    A text of fewer than four words is measured by the n-grams that it has.

    Args:
        texts: the words of each text; texts without words are skipped.

    Returns:
        None if there are fewer than two texts.
    """
    texts = [text for text in texts if text]
    if len(texts) < 2:
        return None
    counts = [[Counter(ngrams(text, n)) for text in texts] for n in range(1, MAX_NGRAM + 1)]
    highest = [_two_highest(of_texts) for of_texts in counts]
    lengths = Counter(map(len, texts))
    scores = []
    for index, text in enumerate(texts):
        logs = [
            math.log(_precision(counts[n][index], highest[n]))
            for n in range(min(MAX_NGRAM, len(text)))
        ]
        others = lengths - Counter([len(text)])
        nearest = min(others, key=lambda length: (abs(length - len(text)), length))
        scores.append(min(1.0, math.exp(1 - nearest / len(text))) * math.exp(fmean(logs)))
    return _round(fmean(scores))


def _two_highest(
    counts: Iterable[Counter[tuple[str, ...]]],
) -> dict[tuple[str, ...], tuple[int, int]]:
    # Of each n-gram, in any text. With both, the highest count in all other texts is known for
    # every text.
    highest: dict[tuple[str, ...], tuple[int, int]] = {}
    for of_text in counts:
        for gram, count in of_text.items():
            first, second = highest.get(gram, (0, 0))
            highest[gram] = (count, first) if count > first else (first, max(count, second))
    return highest


def _precision(
    own: Counter[tuple[str, ...]], highest: dict[tuple[str, ...], tuple[int, int]]
) -> float:
    # The second highest count is the others' if the highest is the text's own.
    matches = sum(min(n, highest[gram][n == highest[gram][0]]) for gram, n in own.items())
    return (matches or NO_MATCH) / own.total()


def _round(value: float, digits: int = 4) -> float:
    return round(value, digits) + 0.0  # no -0.0
