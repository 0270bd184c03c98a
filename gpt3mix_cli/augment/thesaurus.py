"""Synonyms of single English words, from WordNet 3.0 (packaged; its licence is resources/WORDNET-LICENSE).

A word is looked up in each part of speech as it stands and in its base forms (`movies` -> `movie`, `went` -> `go`), as
`morphy` does: irregular forms from WordNet's lists, the others by cutting suffixes off, from short nouns and those in -ss
too (`discuss` has the synonyms of `discus`), as in nltk, on which the authors' code rests. Senses are not told apart: all
synonyms of all senses are given. `scripts/build_thesaurus` says how the file is made and what a line holds.
"""

import gzip
import hashlib
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import resources

# WordNet's rules of detachment, (ending, what takes its place), for nouns, verbs, adjectives and adverbs.
ENDINGS = (
    (
        ("s", ""),
        ("ses", "s"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    (
        ("s", ""),
        ("ies", "y"),
        ("es", "e"),
        ("es", ""),
        ("ed", "e"),
        ("ed", ""),
        ("ing", "e"),
        ("ing", ""),
    ),
    (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    (),
)
ANY_ENDING = tuple(tuple(ending for ending, _ in endings) for endings in ENDINGS)


def synonyms(word: str) -> tuple[str, ...]:
    """Return the synonyms of a word in any case: nouns, verbs, adjectives, adverbs, each by the order of its senses.

    They are base forms in WordNet's own case (`Washington`), some of several words (`motion picture`); neither the word
    nor a base form of it is among them. A word without synonyms, or unknown, has none.
    """
    return _synonyms(word.lower())


def digest() -> str:
    """Return a hash of the thesaurus."""
    return _opened()[0]


@lru_cache(maxsize=1 << 16)
def _synonyms(word: str) -> tuple[str, ...]:
    lines = _opened()[1]
    found: dict[str, None] = {}
    own = {word}
    fields = lines.get(word, "").split("\t")
    for part, endings in enumerate(ANY_ENDING):
        entries = _entries(fields, part)
        bases = [entry[1:] for entry in entries if entry[0] == "="]
        found.update(
            dict.fromkeys(entries if not bases else [entry for entry in entries if entry[0] != "="])
        )
        if not bases and word.endswith(endings):
            bases = [
                word.removesuffix(ending) + replacement
                for ending, replacement in ENDINGS[part]
                if word.endswith(ending)
            ]
        for base in bases:
            own.add(base)
            if base in lines:
                found.update(
                    (entry, None)
                    for entry in _entries(lines[base].split("\t"), part)
                    if entry[0] != "="
                )
    return tuple([entry for entry in found if entry.lower() not in own])


def _entries(fields: Sequence[str], part: int) -> list[str]:
    """Return what a line, cut into its fields, holds for a part of speech."""
    return fields[part + 1].split("|") if len(fields) > part + 1 and fields[part + 1] else []


@cache
def _opened() -> tuple[str, dict[str, str]]:
    """Return the hash of the thesaurus, and its lines by their words."""
    packed = (resources.files("gpt3mix_cli") / "resources" / "thesaurus.txt.gz").read_bytes()
    text = gzip.decompress(packed)
    # A line is parsed when its word is asked for: parsing them all would take longer than a small augmentation.
    return hashlib.sha256(text).hexdigest()[:16], {
        line.partition("\t")[0]: line for line in text.decode("ascii").split("\n")
    }
