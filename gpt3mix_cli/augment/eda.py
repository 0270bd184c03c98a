"""Easy Data Augmentation (Wei and Zou, 2019): replace words by synonyms, insert synonyms, swap words, delete words.

Each copy of a parent is made by one of the four operations; every four copies in a row use all four, in a drawn order.
A row equals its parent only where no operation can change it (the authors' code leaves some as they are). The operations
work on words between white space; a sign that stands alone belongs to the word before it. Case and punctuation stay
where a word is replaced, and punctuation stays in its place where words are swapped; `normalise: true` drops both first,
as the authors' code does. English only; senses are not told apart.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from hashlib import blake2b
from itertools import permutations
from random import Random
from typing import Any

from ..records import Augmented, Example
from ..settings import EdaSettings, Task, derived_seed
from .editing import NoCost, edited
from .filter import normalize_text
from .thesaurus import digest, synonyms

CACHE_VERSION = 2  # raised when the same settings would give other rows
OPERATIONS = ("replace", "insert", "swap", "delete")
ORDERS = tuple(permutations(OPERATIONS))

Synonyms = Callable[[str], Sequence[str]]

# A drawn operation may leave the words as they are (nothing deleted, two swaps undone); it is then drawn again.
TRIES = 20

# Parents that stay cut into words from one copy to the next; the others are cut again, so that memory stays bounded.
KEPT = 10_000

# The authors' list (NLTK's at the time), which they never replace.
_STOP_WORDS = """
i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it its
itself they them their theirs themselves what which who whom this that these those am is are was were be been being
have has had having do does did doing a an the and but if or because as until while of at by for with about against
between into through during before after above below to from up down in out on off over under again further then once
here there when where why how all any both each few more most other some such no nor not only own same so than too very
s t can will just don should now
"""
# What tokenisers leave of contractions (`ca n't`, `we 're`); to WordNet `ca` is calcium and `re` rhenium.
_CONTRACTED = "n't nt 's 't 'm 're 've 'd 'll m re ve d ll ca wo sha ai"
STOP_WORDS = frozenset(f"{_STOP_WORDS} {_CONTRACTED}".split())


class EDA(NoCost):
    """Edits each parent in turn; see `augment.Augmenter`."""

    edits = True
    rows = block = 1

    def __init__(self, settings: EdaSettings, task: Task) -> None:
        """Keep the settings and the classes."""
        self._settings, self._classes = settings, task.classes
        self.about: dict[str, Any] = {
            "method": settings.name,
            "kind": "eda",
            "alpha": settings.alpha,
            "normalise": settings.normalise,
            "thesaurus": digest(),
            "classes": task.classes,
            "format": CACHE_VERSION,
        }

    def generate(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Augmented]:
        """Yield the rows of attempts first..first+count: attempt i is copy i // n of parent i mod n."""
        for attempt, text in enumerate(self.texts(examples, first, count, seed), first):
            copy, parent = divmod(attempt, len(examples))
            yield edited(examples[parent], text, copy, attempt, self._settings.name, self._classes)

    def texts(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[str]:
        """Yield the texts of these rows."""
        alpha, normalise = self._alpha(len(examples)), self._settings.normalise
        sentences: dict[int, Sentence] = {}
        key, random = derived_seed(seed, "eda"), Random()  # noqa: S311 - statistics, not secrets
        for attempt in range(first, first + count):
            copy, parent = divmod(attempt, len(examples))
            sentence = sentences.get(parent)
            if sentence is None:
                sentence = Sentence(examples[parent].text, normalise)
                if len(sentences) < KEPT:
                    sentences[parent] = sentence
            # The generator takes in all words of a long number: cheaper than hashing a name for it first, and as good.
            random.seed((key << 64 | copy) << 64 | parent)
            yield edit(sentence, alpha, operations(key, parent, copy), random)

    def _alpha(self, rows: int) -> float:
        # Table 3 of Wei and Zou recommends 0.05 for 500 and 2,000 training rows, 0.1 for 5,000 and more.
        if self._settings.alpha == "auto":
            return 0.05 if rows <= 2000 else 0.1
        return self._settings.alpha


def operations(key: int, parent: int, copy: int) -> tuple[str, ...]:
    """Return the operations in the order in which they are to be tried for a copy: the first of each four copies differ."""
    turn = copy % 4
    order = ORDERS[
        int.from_bytes(blake2b(b"%d %d %d" % (key, parent, copy // 4), digest_size=8).digest())
        % len(ORDERS)
    ]
    return order[turn:] + order[:turn]


# Sentences -----------------------------------------------------------------------------------------------------------


# A word between the signs before and after it, attached or apart: `film` in `the " film " .` has `" ` and ` " .`.
Piece = tuple[str, str, str]


class Sentence:
    """A text cut into pieces, with all that its copies share."""

    def __init__(self, text: str, normalise: bool = False) -> None:
        """Cut the text; a text without letters is not normalised, since nothing would be left of it."""
        self.text = (normalised(text) or text) if normalise else text
        self.synonyms: Synonyms = _normalised_synonyms if normalise else synonyms
        self.pieces = _pieces(self.text.split())
        self.words = [word for _, word, _ in self.pieces]
        self.lower = [word.lower() for word in self.words]
        self.wholes = [before + word + after for before, word, after in self.pieces]

    @cached_property
    def key(self) -> str:
        """What a copy must differ in."""
        return normalize_text(self.text)

    @cached_property
    def sources(self) -> list[str]:
        """The words that may be replaced, in lower case, each once; some may have no synonyms."""
        return [word for word in dict.fromkeys(self.lower) if _has_content(word)]

    @cached_property
    def varied(self) -> bool:
        """Whether there are two different words."""
        return len(set(self.lower)) > 1

    def with_words(self, words: Mapping[int, str]) -> str:
        """Return the text with other words in some places."""
        wholes = self.wholes.copy()
        for place, word in words.items():
            before, _, after = self.pieces[place]
            wholes[place] = before + word + after
        return " ".join(wholes)


def _pieces(tokens: Sequence[str]) -> list[Piece]:
    pieces: list[Piece] = []
    opening = ""
    for token in tokens:
        piece = _piece(token)
        if opening:
            piece = opening + piece[0], piece[1], piece[2]
        if piece[1]:
            pieces.append(piece)
            opening = ""
        elif pieces:
            before, word, after = pieces[-1]
            pieces[-1] = before, word, f"{after} {token}"
        else:
            opening = f"{piece[0]} "
    return pieces


@lru_cache(maxsize=1 << 16)
def _piece(token: str) -> Piece:
    """Return what stands between white space as a piece; signs alone are before an empty word."""
    start, end = 0, len(token)
    while start < end and not token[start].isalnum():
        start += 1
    while end > start and not token[end - 1].isalnum():
        end -= 1
    # An apostrophe that opens a clitic (`'s`, `'ll`) is part of it and moves with it; other signs stay.
    if 0 < start < end and token[:end].lower() in STOP_WORDS:
        start = 0
    return token[:start], token[start:end], token[end:]


@lru_cache(maxsize=1 << 16)
def _has_content(word: str) -> bool:
    # To WordNet single letters are chemical elements and the like, and numbers Roman ones; in texts they are not.
    return len(word) > 1 and word not in STOP_WORDS and not any(sign.isdigit() for sign in word)


def normalised(text: str) -> str:
    """Return the form on which the authors' code works: lower-case letters, apostrophes dropped, other signs as spaces."""
    return " ".join(re.findall("[a-z]+", text.replace("'", "").replace("’", "").lower()))


@lru_cache(maxsize=1 << 16)
def _normalised_synonyms(word: str) -> tuple[str, ...]:
    """Return the synonyms as the authors' code has them: `U.S.` becomes `us`, what has no letters is none."""
    found = dict.fromkeys(
        " ".join(re.sub("[^a-z ]", "", synonym.lower().replace("-", " ")).split())
        for synonym in synonyms(word)
    )
    return tuple(synonym for synonym in found if synonym and synonym != word)


# Operations ----------------------------------------------------------------------------------------------------------


def edit(sentence: Sentence, alpha: float, order: Sequence[str], random: Random) -> str:
    """Return the sentence changed by the first operation of `order` that can change it, or as it is where none can."""
    n = max(1, int(alpha * len(sentence.words)))
    for operation in order:
        for _ in range(TRIES):
            text = _apply(operation, sentence, n, alpha, random)
            if text is None:
                break
            if normalize_text(text) != sentence.key:
                return text
    if len(sentence.wholes) > 1:
        # Deletion changes any text of two words; with a small alpha it just never came.
        left_out = random.randrange(len(sentence.wholes))
        return " ".join(whole for place, whole in enumerate(sentence.wholes) if place != left_out)
    return sentence.text


def _apply(operation: str, sentence: Sentence, n: int, alpha: float, random: Random) -> str | None:
    """Return the text after an operation; None if it has nothing to work on."""
    words = sentence.words
    match operation:
        case "replace":
            chosen = drawn(sentence.sources, sentence.synonyms, n, random)
            changed = {
                place: _like(words[place], chosen[word])
                for place, word in enumerate(sentence.lower)
                if word in chosen
            }
            return sentence.with_words(changed) if changed else None
        case "insert":
            longer = insert(sentence.wholes, sentence.sources, sentence.synonyms, n, random)
            return " ".join(longer) if len(longer) > len(words) else None
        case "swap":
            moved = {place: words[other] for place, other in swapped(len(words), n, random).items()}
            return sentence.with_words(moved) if sentence.varied else None
        case _:
            return " ".join(delete(sentence.wholes, alpha, random)) if len(words) > 1 else None


def drawn(sources: Sequence[str], synonyms: Synonyms, n: int, random: Random) -> dict[str, str]:
    """Return n different words drawn out of `sources`, fewer where fewer have synonyms, with a synonym drawn for each."""
    chosen: dict[str, str] = {}
    left = list(sources)
    while left and len(chosen) < n:
        word = left.pop(int(random.random() * len(left)))
        if found := synonyms(word):
            chosen[word] = random.choice(found)
    return chosen


def insert(
    words: Sequence[str], sources: Sequence[str], synonyms: Synonyms, n: int, random: Random
) -> list[str]:
    """Return the words with n synonyms of words drawn out of `sources` put in, each before a drawn word; none if none has any."""
    result = list(words)
    for _ in range(n if words else 0):
        for synonym in drawn(sources, synonyms, 1, random).values():
            result.insert(random.randrange(len(result)), synonym)
    return result


def swapped(count: int, n: int, random: Random) -> dict[int, int]:
    """Return whose word stands in each place that took part after n times two of `count` words, drawn at random, changed places."""
    found: dict[int, int] = {}
    for _ in range(n if count > 1 else 0):
        one, other = int(random.random() * count), int(random.random() * (count - 1))
        other += other >= one
        found[one], found[other] = found.get(other, other), found.get(one, one)
    return found


def delete(words: Sequence[str], p: float, random: Random) -> list[str]:
    """Return the words, each left out with probability p; one drawn at random stays where all would go."""
    chance = random.random
    kept = [word for word in words if chance() >= p]
    return kept or ([random.choice(words)] if words else [])


def _like(word: str, synonym: str) -> str:
    """Return the synonym in the capitals of the word."""
    if len(word) > 1 and word.isupper():
        return synonym.upper()
    return synonym[0].upper() + synonym[1:] if word[0].isupper() else synonym
