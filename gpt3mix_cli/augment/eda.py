"""Easy Data Augmentation (Wei and Zou, 2019): replace, insert, swap or delete words.

Each copy of a parent uses one of the four operations; four copies in a row use all four, in random
order. A row equals its parent only if no operation can change it (the authors' code leaves some
unchanged). Words are separated by white space; punctuation between spaces belongs to the word
before it. Case and punctuation stay when a word is replaced, and punctuation keeps its position
when words are swapped; `normalise: true` removes both first, as the authors' code does. Synonyms
that are names are not used (WordNet's `hi` is Hawaii), except with `normalise: true`.

Limits: English only; a word's senses are not distinguished.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import permutations
from random import Random
from typing import NamedTuple

from ..duplicates import normalize_text
from ..records import Example
from ..settings import EdaSettings, Task, derived_seed
from .protocol import TextEditor
from .thesaurus import synonyms, thesaurus_hash

CACHE_VERSION = 3  # raise it if the same settings give other rows
OPERATIONS = ("replace", "insert", "swap", "delete")
ORDERS = tuple(permutations(OPERATIONS))

FindSynonyms = Callable[[str], Sequence[str]]

# An operation may leave the words unchanged (nothing deleted, two swaps undone); it runs again.
MAX_TRIES = 20

# Parents whose words are kept from one copy to the next. The others are split again, so that
# memory stays bounded.
MAX_CACHED_SENTENCES = 10_000

# The authors' list (NLTK's at the time), which they never replace. The last line is what tokenizers
# leave of contractions (`ca n't`, `we 're`); in WordNet `ca` is calcium.
_STOP_WORDS = """
i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her
hers herself it its itself they them their theirs themselves what which who whom this that these
those am is are was were be been being have has had having do does did doing a an the and but if or
because as until while of at by for with about against between into through during before after
above below to from up down in out on off over under again further then once here there when where
why how all any both each few more most other some such no nor not only own same so than too very
s t can will just don should now
n't nt 's 't 'm 're 've 'd 'll m re ve d ll ca wo sha ai
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


class EDA(TextEditor):
    """See the top of this file."""

    def __init__(self, settings: EdaSettings, task: Task) -> None:
        self.about = {
            "method": settings.name,
            "kind": "eda",
            "alpha": settings.alpha,
            "normalise": settings.normalise,
            "thesaurus": thesaurus_hash(),
            "classes": task.classes,
            "format": CACHE_VERSION,
        }
        self._settings = settings

    def edit_texts(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[str]:
        """Yield the texts of attempts first..first+count."""
        alpha, normalise = self._settings.alpha, self._settings.normalise
        if alpha == "auto":
            # Table 3 of Wei and Zou: 0.05 for 500 and 2,000 training rows, 0.1 for 5,000 and more.
            alpha = 0.05 if len(examples) <= 2000 else 0.1
        sentences: dict[int, Sentence] = {}
        key, random = derived_seed(seed, "eda"), Random()  # noqa: S311 - statistics, not secrets
        for attempt in range(first, first + count):
            copy, parent = divmod(attempt, len(examples))
            sentence = sentences.get(parent) or Sentence(examples[parent].text, normalise)
            if len(sentences) < MAX_CACHED_SENTENCES:
                sentences[parent] = sentence
            # All bits of a long integer seed the generator: as good as a hash, and cheaper.
            random.seed((key << 64 | copy) << 64 | parent)
            yield edit(sentence, alpha, operation_order(key, parent, copy), random)


def operation_order(key: int, parent: int, copy: int) -> tuple[str, ...]:
    """Return the operations to try for a copy; the first differs within each four copies."""
    group, turn = divmod(copy, 4)
    digest = blake2b(b"%d %d %d" % (key, parent, group), digest_size=8).digest()
    order = ORDERS[int.from_bytes(digest) % len(ORDERS)]
    return order[turn:] + order[:turn]


# Sentences ---------------------------------------------------------------------------------------


class Token(NamedTuple):
    """A word and the punctuation around it: in `the " film " .`, `film` has `" ` and ` " .`."""

    before: str
    word: str
    after: str


class Sentence:
    """A text split into words, with all that its copies share."""

    def __init__(self, text: str, normalise: bool = False) -> None:
        # A text without letters is not normalised, which would leave nothing.
        self.text = (normalize_like_authors(text) or text) if normalise else text
        self.synonyms: FindSynonyms = _normalized_synonyms if normalise else _common_synonyms
        self.tokens = _split_tokens(self.text.split())
        self.words = [token.word for token in self.tokens]
        self.lower = [word.lower() for word in self.words]
        self.strings = ["".join(token) for token in self.tokens]
        self.key = normalize_text(self.text)  # what a changed copy must differ in
        # The distinct words that may be replaced, in lower case; some may have no synonym.
        self.content_words = [word for word in dict.fromkeys(self.lower) if _has_content(word)]

    def with_words(self, words: Mapping[int, str]) -> str:
        """Return the text with the words at some indices replaced."""
        strings = self.strings.copy()
        for index, word in words.items():
            before, _, after = self.tokens[index]
            strings[index] = before + word + after
        return " ".join(strings)


def _split_tokens(parts: Sequence[str]) -> list[Token]:
    tokens: list[Token] = []
    leading = ""  # punctuation before the first word
    for part in parts:
        before, word, after = _split_token(part)
        if word:
            tokens.append(Token(leading + before, word, after))
            leading = ""
        elif tokens:
            tokens[-1] = tokens[-1]._replace(after=f"{tokens[-1].after} {part}")
        else:
            leading = f"{leading}{before} "
    return tokens


@lru_cache(maxsize=1 << 16)
def _split_token(part: str) -> Token:
    start, end = 0, len(part)
    while start < end and not part[start].isalnum():
        start += 1
    while end > start and not part[end - 1].isalnum():
        end -= 1
    # The apostrophe of a clitic (`'s`, `'ll`) moves with it; other punctuation stays.
    if 0 < start < end and part[:end].lower() in STOP_WORDS:
        start = 0
    return Token(part[:start], part[start:end], part[end:])


@lru_cache(maxsize=1 << 16)
def _has_content(word: str) -> bool:
    # In WordNet a single letter is a chemical element, and a number a Roman numeral.
    return len(word) > 1 and word not in STOP_WORDS and not any(map(str.isdigit, word))


def normalize_like_authors(text: str) -> str:
    """Return the form that the authors' code works on: lower-case letters and spaces only."""
    return " ".join(re.findall("[a-z]+", text.replace("'", "").replace("’", "").lower()))


def _common_synonyms(word: str) -> tuple[str, ...]:
    """Return the synonyms of a word that are no names: WordNet writes names with capitals."""
    return tuple(synonym for synonym in synonyms(word) if synonym == synonym.lower())


@lru_cache(maxsize=1 << 16)
def _normalized_synonyms(word: str) -> tuple[str, ...]:
    letters = (re.sub("[^a-z ]", "", text.lower().replace("-", " ")) for text in synonyms(word))
    spelled = dict.fromkeys(" ".join(text.split()) for text in letters)
    return tuple(synonym for synonym in spelled if synonym and synonym != word)


# Operations --------------------------------------------------------------------------------------


def edit(sentence: Sentence, alpha: float, order: Sequence[str], random: Random) -> str:
    """Return the sentence after the first operation of `order` that changes it.

    If none can change it, the text is returned as it is.
    """
    n = max(1, int(alpha * len(sentence.words)))
    for operation in order:
        for _ in range(MAX_TRIES):
            text = _apply(operation, sentence, n, alpha, random)
            if text is None:
                break
            if normalize_text(text) != sentence.key:
                return text
    if len(sentence.strings) > 1:
        # Deletion can change any text of two words; with a small alpha it just deleted none.
        deleted = random.randrange(len(sentence.strings))
        return " ".join(string for index, string in enumerate(sentence.strings) if index != deleted)
    return sentence.text


def _apply(operation: str, sentence: Sentence, n: int, alpha: float, random: Random) -> str | None:
    words, strings = sentence.words, sentence.strings
    match operation:
        case "replace":
            chosen = draw_synonyms(sentence.content_words, sentence.synonyms, n, random)
            replaced = {
                index: _match_case(words[index], chosen[word])
                for index, word in enumerate(sentence.lower)
                if word in chosen
            }
            return sentence.with_words(replaced) if replaced else None
        case "insert":
            longer = insert(strings, sentence.content_words, sentence.synonyms, n, random)
            return " ".join(longer) if len(longer) > len(words) else None
        case "swap":
            sources = draw_swaps(len(words), n, random)
            moved = {index: words[source] for index, source in sources.items()}
            return sentence.with_words(moved) if len(set(sentence.lower)) > 1 else None
        case _:
            return " ".join(delete(strings, alpha, random)) if len(words) > 1 else None


def draw_synonyms(
    words: Sequence[str], find_synonyms: FindSynonyms, n: int, random: Random
) -> dict[str, str]:
    """Return a random synonym for each of n random words, fewer if fewer have synonyms."""
    chosen: dict[str, str] = {}
    left = list(words)
    while left and len(chosen) < n:
        word = left.pop(int(random.random() * len(left)))
        if candidates := find_synonyms(word):
            chosen[word] = random.choice(candidates)
    return chosen


def insert(
    words: Sequence[str],
    content_words: Sequence[str],
    find_synonyms: FindSynonyms,
    n: int,
    random: Random,
) -> list[str]:
    """Return the words with n synonyms of random content words inserted at random."""
    result = list(words)
    for _ in range(n if words else 0):
        for synonym in draw_synonyms(content_words, find_synonyms, 1, random).values():
            result.insert(random.randrange(len(result)), synonym)
    return result


def draw_swaps(count: int, n: int, random: Random) -> dict[int, int]:
    """Return the result of n random swaps among `count` words: index -> index of its new word."""
    sources: dict[int, int] = {}
    for _ in range(n if count > 1 else 0):
        first, second = int(random.random() * count), int(random.random() * (count - 1))
        second += second >= first
        sources[first], sources[second] = sources.get(second, second), sources.get(first, first)
    return sources


def delete(words: Sequence[str], p: float, random: Random) -> list[str]:
    """Return the words, each deleted with probability p; a random one stays if all would go."""
    kept = [word for word in words if random.random() >= p]
    return kept or ([random.choice(words)] if words else [])


def _match_case(word: str, synonym: str) -> str:
    if len(word) > 1 and word.isupper():
        return synonym.upper()
    return synonym[0].upper() + synonym[1:] if word[0].isupper() else synonym
