"""The gate of generated rows: each reason to discard a row has a name and is counted, and each threshold is a setting.

Words are runs of letters and digits, whatever their case; where a script sets none apart (Chinese, Japanese), each letter
is one. The checks stand in a row's order below; the first that fails is the row's reason. Cost is linear in the rows.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from ..errors import UserError
from ..records import Augmented, Example, Reject
from ..settings import FilterSettings

WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+(?:['’][^\W_]+)*"
)
TRIPLE = 3  # words whose order two texts rarely share by chance
FEW = 4  # in fewer words than this a repetition may be meant: `no, no, no`
DEFAULTS = FilterSettings()
REMEDIES = {
    "unfinished": "raise augment.max_tokens",
    "prompt_too_long": "lower augment.k or augment.max_tokens",
    "empty": "use another LM: this one ends where it should begin to write",
    "no_label": "use a larger base LM: this one does not keep to a line a row",
    "unscored": "use another LM, or an endpoint that tells log-probabilities (gpt3mix check), or lm.label_source: vote",
    "label_not_in_set": "use a larger base LM, or label words that it knows (task.labels)",
    "min_label_mass": "use a larger base LM, or label words that it knows (task.labels), or lower augment.filter.min_label_mass",
    "copy_of_real": "raise augment.temperature or augment.k, or use a larger LM: this one says its prompt again",
    "max_parent_overlap": "raise augment.temperature or augment.k, or use a larger LM: this one says its prompt again",
    "repeat": "raise augment.temperature, or use a larger LM: this one says the same things over and over",
    "max_repetition": "raise augment.temperature or augment.frequency_penalty, or use a larger LM",
    "reject_test_copies": "use an LM that has not read the test rows, or test rows that it cannot have read",
    "max_foreign_script": "use an LM of the task's language",
    "min_words": "lower augment.filter.min_words",
    "max_words": "raise augment.filter.max_words, or lower augment.max_tokens",
    "perplexity": "widen augment.filter.perplexity, or leave it out where the endpoint tells no log-probabilities",
    "max_disagreement": "raise augment.filter.max_disagreement, or draw more real rows",
}


def normalize_text(text: str) -> str:
    """Return what two copies of a text share: its words and signs, whatever their case and spacing."""
    return " ".join(text.casefold().split())


def letters(text: str) -> str:
    """Return the letters and digits of a text, without case: its copies share them though words and signs are set apart otherwise."""
    return "".join(sign for sign in text.casefold() if sign.isalnum()) or normalize_text(text)


def words(text: str) -> list[str]:
    """Return the words of a text, without case and signs."""
    return WORD.findall(text.casefold())


def remedy(rejected: Mapping[str, int]) -> str:
    """Return what helps most against the rejects: the remedy of their most frequent reason; empty for an unknown one."""
    most = max(rejected, key=lambda reason: rejected[reason], default="")
    return REMEDIES.get(most, "")


class RowFilter:
    """Lets a row through, or says why not, in the order of the attempts."""

    def __init__(
        self,
        examples: Sequence[Example],
        limits: FilterSettings = DEFAULTS,
        test: Sequence[Example] = (),
    ) -> None:
        """Learn the real rows.

        Args:
            examples: the real rows.
            limits: the thresholds.
            test: the rows of which no copy may pass, if `limits.reject_test_copies`.

        Raises:
            UserError: if the real rows do not serve for a check that is wanted.
        """
        self._limits = limits
        self._examples = {row.id: row for row in examples}
        self._real = {normalize_text(row.text): row.id for row in examples}
        # Test rows are often cut into tokens (`isn 't it , though ?`), which an LM that has read them does not write.
        self._test = (
            {letters(row.text): row.id for row in test} if limits.reject_test_copies else {}
        )
        self._kept: dict[str, str] = {}
        self._scripts = set(scripts("".join({letter for row in examples for letter in row.text})))
        self._classes: list[str] = []
        if limits.max_disagreement is not None:
            self._vectorizer, self._classifier = _fitted(examples)
            self._classes = self._classifier.classes_.tolist()

    def check(self, row: Augmented | Reject) -> Augmented | Reject:
        """Return the row, or why it is discarded."""
        if isinstance(row, Reject):
            return row
        text = normalize_text(row.text)
        if objection := next(self._objections(row, text), None):
            reason, detail = objection
            return Reject(
                request=row.request or 0,
                method=row.method,
                parents=row.parents,
                text=row.text,
                reason=reason,
                detail=detail,
            )
        self._kept[text] = row.id
        return row

    def _objections(self, row: Augmented, text: str) -> Iterator[tuple[str, str]]:
        """Yield (reason, detail) of each check that the row fails."""
        copies = (
            ("copy_of_real", text, self._real),
            ("reject_test_copies", letters(row.text) if self._test else "", self._test),
            ("repeat", text, self._kept),
        )
        for reason, key, seen in copies:
            if key in seen:
                yield reason, seen[key]
        limits, found = self._limits, words(row.text)
        if len(found) < limits.min_words:
            yield "min_words", f"{len(found)} words"
        if limits.max_words is not None and len(found) > limits.max_words:
            yield "max_words", f"{len(found)} words"
        yield from self._near_copy(row, found)
        if (
            limits.max_repetition is not None
            and (share := repetition(found)) > limits.max_repetition
        ):
            yield "max_repetition", f"{share:.0%} is repetition"
        yield from self._other_language(row)
        # An unknown mass is no low one.
        if row.label_mass is not None and row.label_mass < limits.min_label_mass:
            yield "min_label_mass", f"{row.label_mass:.2%}"
        yield from self._perplexity(row)
        yield from self._disagreement(row)

    def _near_copy(self, row: Augmented, found: Sequence[str]) -> Iterator[tuple[str, str]]:
        least = self._limits.max_parent_overlap
        if least is None or not found:
            return
        for parent in row.parents:
            if (
                parent in self._examples
                and (share := containment(found, words(self._examples[parent].text))) >= least
            ):
                yield "max_parent_overlap", f"{share:.0%} stands in {parent}"

    def _other_language(self, row: Augmented) -> Iterator[tuple[str, str]]:
        most = self._limits.max_foreign_script
        counts = scripts(row.text)
        if most is None or not self._scripts or not counts:
            return
        others = {script: n for script, n in counts.items() if script not in self._scripts}
        if (share := sum(others.values()) / counts.total()) > most:
            yield (
                "max_foreign_script",
                f"{share:.0%} of the letters are {', '.join(sorted(others)).lower()}",
            )

    def _perplexity(self, row: Augmented) -> Iterator[tuple[str, str]]:
        band = self._limits.perplexity
        if band is None:
            return
        if row.perplexity is None:
            yield "perplexity", "unknown: the server tells no log-probabilities of what it wrote"
        elif not band[0] <= row.perplexity <= band[1]:
            yield "perplexity", f"{row.perplexity:.4g}"

    def _disagreement(self, row: Augmented) -> Iterator[tuple[str, str]]:
        least = self._limits.max_disagreement
        if least is None:
            return
        shares = self._classifier.predict_proba(self._vectorizer.transform([row.text]))[0]
        best = int(shares.argmax())
        if self._classes[best] != row.label and shares[best] >= least:
            yield "max_disagreement", f"{self._classes[best]}: {shares[best]:.0%}"


def containment(found: Sequence[str], parent: Sequence[str]) -> float:
    """Return which share of a text's word triples stands in another text.

    A text of fewer words than that has none; it is wholly contained in a text of the same words, and in no other, since
    two words in a row prove nothing.
    """
    if len(found) < TRIPLE:
        return float(list(found) == list(parent))
    theirs = set(ngrams(parent, TRIPLE))
    ours = ngrams(found, TRIPLE)
    return sum(triple in theirs for triple in ours) / len(ours)


def repetition(found: Sequence[str]) -> float:
    """Return how far a text repeats itself, from 0 to 1.

    The greater of two shares: of the word pairs that stood in it before (as in Holtzman et al., 2020), and of the one
    word that it has most often.
    """
    if len(found) < FEW:
        return 0.0
    pairs = ngrams(found, 2)
    return max(1 - len(set(pairs)) / len(pairs), Counter(found).most_common(1)[0][1] / len(found))


def ngrams(found: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return the runs of n words."""
    return list(zip(*(found[start:] for start in range(n)), strict=False))


def scripts(text: str) -> Counter[str]:
    """Return how many letters of each script a text has; the scripts that Japanese mixes are one."""
    return Counter(
        _script(letter) for letter in unicodedata.normalize("NFKC", text) if letter.isalpha()
    )


@cache
def _script(letter: str) -> str:
    # A letter's name begins with its script: LATIN SMALL LETTER A.
    name = unicodedata.name(letter, "UNKNOWN").split()[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA") else name


def _fitted(examples: Sequence[Example]) -> tuple[Any, Any]:
    """Return tf-idf features and a logistic regression, fitted on the real rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    labels = [row.label for row in examples]
    if len(set(labels)) < 2 or not any(words(row.text) for row in examples):
        raise UserError(
            "augment.filter.max_disagreement: a classifier needs real rows of two classes, and words in them",
            "leave the key out",
        )
    vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True)
    # C as in classifiers: {kind: linear}.
    return vectorizer, LogisticRegression(C=10.0, max_iter=1000).fit(
        vectorizer.fit_transform([row.text for row in examples]), labels
    )
