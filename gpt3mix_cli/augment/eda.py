"""Easy Data Augmentation (Wei and Zou, 2019): replace words by synonyms, insert synonyms, swap words, delete words.

Each copy of a parent is made by one of the four operations; every four copies in a row use all four, in a drawn order.
A row equals its parent only where no operation can change it. The operations work on words between white space; a sign
that stands alone belongs to the word before it. Case and punctuation stay where a word is replaced, and punctuation
stays in its place where words are swapped (the authors' code drops both). English only; senses are not told apart.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

from ..records import Augmented, Example
from ..settings import Eda, Task, generator
from . import Free, edited
from .quality import same_text
from .thesaurus import digest, synonyms

FORMAT = 1  # raised when the same settings would give other rows
OPERATIONS = ("replace", "insert", "swap", "delete")

# A drawn operation may leave the words as they are (nothing deleted, two swaps undone); it is then drawn again.
TRIES = 20

# Words that carry grammar, not content, and what tokenisers leave of them (`ca n't`, `'ll`).
_FUNCTION_WORDS = """
a an the this that these those such some any each every either neither both all half another other others same own
i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself
we us our ours ourselves they them their theirs themselves one ones oneself
who whom whose which what whoever whatever whichever someone somebody something anyone anybody anything everyone
everybody everything nobody nothing none
am is are was were be been being do does did doing done have has had having can could may might must shall should
will would ought need dare used get gets got let lets
no not nor never cannot aint isnt arent wasnt werent dont doesnt didnt hasnt havent hadnt wont wouldnt cant couldnt
shouldnt n't nt 's 'm 're 've 'd 'll re ve ll ca wo im ive id youre youve hes shes theyre thats theres whats
and or but if then else than so as because since while though although unless until whether lest yet
of at by for with without within about against between among into through during before after above below to from
up down in out on off over under onto upon toward towards across along around behind beside besides beyond despite
except inside near outside per past throughout till via
there here where when why how again further once too very just only also even quite rather almost more most much
many few fewer less least little several enough ever now still away back thus hence however
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())


class EDA(Free):
    """Edits each parent in turn; see `augment.Augmenter`."""

    edits = True
    rows = block = 1

    def __init__(self, settings: Eda, task: Task) -> None:
        """Keep the settings and the classes."""
        self._settings, self._classes = settings, task.classes
        self.about: dict[str, Any] = {
            "method": settings.name,
            "kind": "eda",
            "alpha": settings.alpha,
            "thesaurus": digest(),
            "classes": task.classes,
            "format": FORMAT,
        }

    def generate(self, examples: Sequence[Example], first: int, count: int, seed: int) -> Iterator[Augmented]:
        """Yield the rows of attempts first..first+count: attempt i is copy i // n of parent i mod n."""
        name, alpha = self._settings.name, self._alpha(len(examples))
        sentences: dict[int, Sentence] = {}
        for attempt in range(first, first + count):
            copy, parent = divmod(attempt, len(examples))
            row = examples[parent]
            if parent not in sentences:
                sentences[parent] = Sentence(row.text)
            order = generator(seed, "eda order", parent, copy // 4).sample(OPERATIONS, 4)
            turn = copy % 4
            text = edit(sentences[parent], alpha, order[turn:] + order[:turn], generator(seed, "eda", parent, copy))
            yield edited(row, text, copy, attempt, name, self._classes)

    def _alpha(self, rows: int) -> float:
        # Table 3 of Wei and Zou recommends 0.05 for 500 and 2,000 training rows, 0.1 for 5,000 and more.
        if self._settings.alpha == "auto":
            return 0.05 if rows <= 2000 else 0.1
        return self._settings.alpha


# Sentences -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """A word with the signs before and after it, attached or apart: `film` in `the " film " .` has `" ` and ` " .`."""

    before: str
    word: str
    after: str

    @property
    def whole(self) -> str:
        """The piece as it stands in the text."""
        return self.before + self.word + self.after


class Sentence:
    """A text cut into pieces, with all that its copies share."""

    def __init__(self, text: str) -> None:
        """Cut the text."""
        self.text = text
        self.pieces = _pieces(text.split())

    @cached_property
    def key(self) -> str:
        """What a copy must differ in."""
        return same_text(self.text)

    @cached_property
    def words(self) -> list[str]:
        """The bare words."""
        return [piece.word for piece in self.pieces]

    @cached_property
    def wholes(self) -> list[str]:
        """The words with their punctuation."""
        return [piece.whole for piece in self.pieces]

    @cached_property
    def choices(self) -> dict[str, list[str]]:
        """The synonyms of every word that has some and may be replaced, by the word in lower case."""
        lower = dict.fromkeys(word.lower() for word in self.words)
        return {word: found for word in lower if _has_content(word) and (found := synonyms(word))}

    @cached_property
    def varied(self) -> bool:
        """Whether there are two different words."""
        return len({word.lower() for word in self.words}) > 1

    def with_words(self, words: Sequence[str]) -> str:
        """Return the text with other words in the same places."""
        return " ".join(piece.before + word + piece.after for piece, word in zip(self.pieces, words, strict=True))


def _pieces(tokens: Sequence[str]) -> list[Piece]:
    pieces: list[Piece] = []
    opening = ""
    for token in tokens:
        start, end = 0, len(token)
        while start < end and not token[start].isalnum():
            start += 1
        while end > start and not token[end - 1].isalnum():
            end -= 1
        if start < end:
            # An apostrophe that opens a clitic (`'s`, `'ll`) is part of it and moves with it; other signs stay.
            if token[:end].lower() in STOP_WORDS:
                start = 0
            pieces.append(Piece(opening + token[:start], token[start:end], token[end:]))
            opening = ""
        elif pieces:
            last = pieces.pop()
            pieces.append(Piece(last.before, last.word, f"{last.after} {token}"))
        else:
            opening += f"{token} "
    return pieces


def _has_content(word: str) -> bool:
    # To WordNet single letters are chemical elements and the like, and numbers Roman ones; in texts they are not.
    return len(word) > 1 and word not in STOP_WORDS and not any(sign.isdigit() for sign in word)


# Operations ----------------------------------------------------------------------------------------------------------


def edit(sentence: Sentence, alpha: float, order: Sequence[str], random: Random) -> str:
    """Return the sentence changed by the first operation of `order` that can change it, or as it is where none can."""
    n = max(1, int(alpha * len(sentence.words)))
    for operation in order:
        for _ in range(TRIES if _can(operation, sentence) else 0):
            text = _apply(operation, sentence, n, alpha, random)
            if same_text(text) != sentence.key:
                return text
    if len(sentence.wholes) > 1:
        # Deletion changes any text of two words; with a small alpha it just never came.
        left_out = random.randrange(len(sentence.wholes))
        return " ".join(whole for place, whole in enumerate(sentence.wholes) if place != left_out)
    return sentence.text


def _can(operation: str, sentence: Sentence) -> bool:
    match operation:
        case "replace" | "insert":
            return bool(sentence.choices)
        case "swap":
            return sentence.varied
        case _:
            return len(sentence.words) > 1


def _apply(operation: str, sentence: Sentence, n: int, alpha: float, random: Random) -> str:
    match operation:
        case "replace":
            return sentence.with_words(replace(sentence.words, sentence.choices, n, random))
        case "insert":
            return " ".join(insert(sentence.wholes, sentence.choices, n, random))
        case "swap":
            return sentence.with_words(swap(sentence.words, n, random))
        case _:
            return " ".join(delete(sentence.wholes, alpha, random))


def replace(words: Sequence[str], choices: Mapping[str, Sequence[str]], n: int, random: Random) -> list[str]:
    """Return the words with up to n different ones replaced, each wherever it stands, by a synonym in the same case."""
    sources = [word for word in dict.fromkeys(word.lower() for word in words) if word in choices]
    chosen = {word: random.choice(choices[word]) for word in random.sample(sources, min(n, len(sources)))}
    return [_like(word, chosen[word.lower()]) if word.lower() in chosen else word for word in words]


def insert(words: Sequence[str], choices: Mapping[str, Sequence[str]], n: int, random: Random) -> list[str]:
    """Return the words with n synonyms of theirs put in, each before a word drawn at random; none without choices."""
    result = list(words)
    sources = list(choices)
    if sources and result:
        for _ in range(n):
            result.insert(random.randrange(len(result)), random.choice(choices[random.choice(sources)]))
    return result


def swap(words: Sequence[str], n: int, random: Random) -> list[str]:
    """Return the words after n times two of them, drawn at random, changed places."""
    result = list(words)
    if len(result) > 1:
        for _ in range(n):
            one, other = random.sample(range(len(result)), 2)
            result[one], result[other] = result[other], result[one]
    return result


def delete(words: Sequence[str], p: float, random: Random) -> list[str]:
    """Return the words, each left out with probability p; one drawn at random stays where all would go."""
    kept = [word for word in words if random.random() >= p]
    return kept or ([random.choice(words)] if words else [])


def _like(word: str, synonym: str) -> str:
    """Return the synonym in the capitals of the word."""
    if len(word) > 1 and word.isupper():
        return synonym.upper()
    return synonym[0].upper() + synonym[1:] if word[0].isupper() else synonym
