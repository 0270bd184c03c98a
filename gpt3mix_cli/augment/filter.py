"""Rejects generated rows: each check has a name that is counted, and each threshold is a setting.

A word is a run of letters and digits, in any case; scripts without spaces (Chinese, Japanese) have
a word for each character. The first check that fails, in the order of `RowFilter._failures`, is the
row's reject reason. The cost is linear in the number of rows.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from ..decontamination import SyntheticCopies
from ..duplicates import copy_key, normalize_text
from ..errors import UserError
from ..lm import THINKING_REMEDY
from ..near_duplicates import NearDuplicates
from ..records import Augmented, Example, Reject
from ..settings import FilterSettings

_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana and Chinese characters
# Compiled when it is first used, which takes longer than most imports.
WORD = rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+(?:['’][^\W_]+)*"
OVERLAP_WORDS = 3  # two texts rarely share the order of so many words by chance
MIN_WORDS_TO_REPEAT = 4  # a repetition in fewer words may be meant: `no, no, no`

_COPIES = "raise augment.temperature or augment.k, or use a larger LM: this one repeats its prompt"
_LABEL_WORDS = "use a larger base LM, or label words that it knows (task.labels)"
REMEDIES = {
    "unfinished": "raise augment.max_tokens",
    "prompt_too_long": "lower augment.k or augment.max_tokens",
    "refused": "see the server's messages among the rejects",
    "only_reasoning": THINKING_REMEDY,
    "empty": "use another LM: this one ends where it should begin to write",
    "no_label": "use a larger base LM: this one does not write one row per line",
    "unscored": "use another LM, or an endpoint that returns log-probabilities (gpt3mix check), "
    "or lm.label_source: vote",
    "label_not_in_set": _LABEL_WORDS,
    "label_in_text": "use a larger base LM: this one writes labels into its texts",
    "copy_of_prompt": "use a larger LM, or a base LM with lm.api: completions: this one repeats "
    "its instructions",
    "min_label_mass": f"{_LABEL_WORDS}, or lower augment.filter.min_label_mass",
    "copy_of_real": _COPIES,
    "max_parent_overlap": _COPIES,
    "max_similarity": "raise augment.filter.max_similarity or augment.temperature, or use a larger "
    "LM: this one writes nearly the same texts again",
    "repeat": "raise augment.temperature, or use a larger LM: this one writes the same texts again",
    "max_repetition": "raise augment.temperature or augment.frequency_penalty, or use a larger LM",
    "reject_test_copies": "use an LM that has not read the test rows, or test rows that it cannot "
    "have read",
    "decontaminate": "use an LM that has not read the validation and test rows, or "
    "subsample.decontaminate=warn",
    "max_foreign_script": "use an LM of the task's language",
    "min_words": "lower augment.filter.min_words",
    "max_words": "raise augment.filter.max_words, or lower augment.max_tokens",
    "perplexity": "widen augment.filter.perplexity, or leave it out if the endpoint returns no "
    "log-probabilities",
    "max_disagreement": "raise augment.filter.max_disagreement, or use more real rows",
}


def split_words(text: str) -> list[str]:
    """Return the words of a text, without case and punctuation."""
    return re.findall(WORD, text.casefold())


def suggest_remedy(rejected: Mapping[str, int]) -> str:
    """Return what helps against the most frequent reject reason; empty for an unknown one."""
    return REMEDIES.get(max(rejected, key=lambda reason: rejected[reason], default=""), "")


class RowFilter:
    """Passes rows or rejects them, in the order of the attempts.

    Args:
        examples: the real rows.
        settings: thresholds; None: the defaults.
        test: rows of which copies are rejected, if `settings.reject_test_copies`.
        copies: counts the other copies of validation and test rows, and says whether they are
            rejected.

    Raises:
        UserError: if the real rows do not allow a check that is switched on.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        settings: FilterSettings | None = None,
        test: Sequence[Example] = (),
        copies: SyntheticCopies | None = None,
    ) -> None:
        self._copies = copies or SyntheticCopies()
        self._settings = settings = settings or FilterSettings()
        self._examples = {row.id: row for row in examples}
        self._real_texts = {normalize_text(row.text): row.id for row in examples}
        # Test rows may be tokenised (`isn 't it , though ?`); an LM that knows them writes `isn't`.
        test = test if settings.reject_test_copies else ()
        self._test_texts = {copy_key(row.text): row.id for row in test}
        self._kept_texts: dict[str, str] = {}
        self._similar_texts: NearDuplicates | None = None
        if settings.max_similarity is not None:
            self._similar_texts = NearDuplicates(settings.max_similarity)
            for example in examples:
                self._similar_texts.add(example.text, example.id)
        characters = {character for row in examples for character in row.text}
        self._scripts = set(count_scripts("".join(characters)))
        if settings.max_disagreement is not None:
            self._classifier = _fit_classifier(examples)

    def check(self, row: Augmented | Reject) -> Augmented | Reject:
        """Return the row, or why it is rejected."""
        if isinstance(row, Reject):
            return row
        text = normalize_text(row.text)
        if failure := next(self._failures(row, text), None):
            return Reject(
                request=row.request or 0,
                method=row.method,
                parents=row.parents,
                text=row.text,
                reason=failure[0],
                detail=failure[1],
            )
        if not self._copies.drops:
            self._copies.find(row.text)  # counts it
        self._kept_texts[text] = row.id
        if self._similar_texts:
            self._similar_texts.add(row.text, row.id)
        return row

    def _failures(self, row: Augmented, text: str) -> Iterator[tuple[str, str]]:
        copies = (
            ("copy_of_real", text, self._real_texts),
            ("reject_test_copies", copy_key(row.text), self._test_texts),
            ("repeat", text, self._kept_texts),
        )
        for reason, key, texts in copies:
            if key in texts:
                yield reason, texts[key]
        if self._copies.drops and (copy := self._copies.find(row.text)):
            yield "decontaminate", f"{copy.kind} copy of {copy.original.id}"
        settings, words = self._settings, split_words(row.text)
        if len(words) < settings.min_words:
            yield "min_words", f"{len(words)} words"
        if settings.max_words is not None and len(words) > settings.max_words:
            yield "max_words", f"{len(words)} words"
        yield from self._check_overlap(row, words)
        if self._similar_texts and (match := self._similar_texts.find(row.text)):
            yield "max_similarity", f"{match.similarity:.0%} like {match.key}"
        limit = settings.max_repetition
        if limit is not None and (fraction := repetition(words)) > limit:
            yield "max_repetition", f"{fraction:.0%} is repetition"
        yield from self._check_scripts(row)
        # An unknown label mass is not a low one.
        if row.label_mass is not None and row.label_mass < settings.min_label_mass:
            yield "min_label_mass", f"{row.label_mass:.2%}"
        if limits := settings.perplexity:
            if row.perplexity is None:
                yield "perplexity", "unknown: the server returns no log-probabilities of the text"
            elif not limits[0] <= row.perplexity <= limits[1]:
                yield "perplexity", f"{row.perplexity:.4g}"
        yield from self._check_agreement(row)

    def _check_overlap(self, row: Augmented, words: Sequence[str]) -> Iterator[tuple[str, str]]:
        limit = self._settings.max_parent_overlap
        if limit is None or not words:
            return
        for parent in (self._examples[name] for name in row.parents if name in self._examples):
            if (fraction := overlap(words, split_words(parent.text))) >= limit:
                yield "max_parent_overlap", f"{fraction:.0%} is in {parent.id}"

    def _check_scripts(self, row: Augmented) -> Iterator[tuple[str, str]]:
        limit, counts = self._settings.max_foreign_script, count_scripts(row.text)
        foreign = sorted(counts.keys() - self._scripts)
        fraction = sum(counts[name] for name in foreign) / max(counts.total(), 1)
        if limit is not None and self._scripts and fraction > limit:
            names = ", ".join(foreign).lower()
            yield "max_foreign_script", f"{fraction:.0%} of the characters are {names}"

    def _check_agreement(self, row: Augmented) -> Iterator[tuple[str, str]]:
        limit = self._settings.max_disagreement
        if limit is None:
            return
        probs = self._classifier.predict_proba([row.text])[0]
        label, probability = self._classifier.classes_[probs.argmax()], probs.max()
        if label != row.label and probability >= limit:
            yield "max_disagreement", f"{label}: {probability:.0%}"


def overlap(words: Sequence[str], parent: Sequence[str]) -> float:
    """Return the fraction of a text's word triples that its parent contains.

    A text of fewer than three words has none. It overlaps wholly with a text of the same words,
    and with no other, because two words in a row prove nothing.
    """
    if len(words) < OVERLAP_WORDS:
        return float(list(words) == list(parent))
    known, triples = set(ngrams(parent, OVERLAP_WORDS)), ngrams(words, OVERLAP_WORDS)
    return sum(triple in known for triple in triples) / len(triples)


def repetition(words: Sequence[str]) -> float:
    """Return how much a text repeats itself, from 0 to 1.

    The greater of two fractions: of the word pairs that occurred before in the text (as in Holtzman
    et al., 2020), and of its most frequent word.
    """
    if len(words) < MIN_WORDS_TO_REPEAT:
        return 0.0
    pairs = ngrams(words, 2)
    return max(1 - len(set(pairs)) / len(pairs), max(Counter(words).values()) / len(words))


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return the runs of n words."""
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def count_scripts(text: str) -> Counter[str]:
    """Return the number of letters of each script; those that Japanese mixes count as one."""
    return Counter(map(_script, filter(str.isalpha, unicodedata.normalize("NFKC", text))))


@cache
def _script(letter: str) -> str:
    # The Unicode name of a letter begins with its script: LATIN SMALL LETTER A.
    name = unicodedata.name(letter, "UNKNOWN").split()[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA") else name


def _fit_classifier(examples: Sequence[Example]) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    labels = [row.label for row in examples]
    if len(set(labels)) < 2 or not any(split_words(row.text) for row in examples):
        raise UserError(
            "augment.filter.max_disagreement: its classifier needs real rows of two classes, with "
            "words in them",
            "leave the key out",
        )
    classifier = make_pipeline(
        TfidfVectorizer(analyzer=split_words, sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=1000),  # C as in classifiers: {kind: linear}
    )
    return classifier.fit([row.text for row in examples], labels)
