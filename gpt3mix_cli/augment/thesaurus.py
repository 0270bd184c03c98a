"""Synonyms of single English words, from WordNet 3.0 (packaged; see resources/WORDNET-LICENSE).

A word is looked up in each part of speech, as it is and in its base forms (`movies` -> `movie`,
`went` -> `go`), as WordNet's `morphy` does: irregular forms from its lists, others by removing
suffixes, also from short nouns and those in -ss (`discuss` gets the synonyms of `discus`), as in
nltk, which the authors of EDA use. The synonyms of all senses are returned.
`scripts/build_thesaurus` creates the file and documents its format.
"""

import gzip
import hashlib
from functools import cache, lru_cache
from importlib import resources
from itertools import chain

# WordNet's rules of detachment, (ending, replacement), for nouns, verbs, adjectives and adverbs.
# fmt: off
ENDINGS = (
    (("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
     ("men", "man"), ("ies", "y")),
    (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"),
     ("ing", "")),
    (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    (),
)
# fmt: on


def synonyms(word: str) -> tuple[str, ...]:
    """Return the synonyms of a word in any case: as noun, verb, adjective and adverb, by sense.

    They are base forms in WordNet's case (`Washington`), some of several words (`motion picture`),
    without the word itself and its base forms. An unknown word has none.
    """
    return _synonyms(word.lower())


def thesaurus_hash() -> str:
    """Return a hash of the thesaurus."""
    return _load()[0]


@lru_cache(maxsize=1 << 16)
def _synonyms(word: str) -> tuple[str, ...]:
    entries: dict[str, None] = {}
    excluded = {word}
    for part, endings in enumerate(ENDINGS):
        own = _entries(word, part)
        bases = [entry[1:] for entry in own if entry[0] == "="] or [
            word.removesuffix(ending) + replacement
            for ending, replacement in endings
            if word.endswith(ending)
        ]
        excluded.update(bases)
        entries |= dict.fromkeys(chain(own, *(_entries(base, part) for base in bases)))
    return tuple([text for text in entries if text[0] != "=" and text.lower() not in excluded])


def _entries(word: str, part: int) -> list[str]:
    fields = _load()[1].get(word, "").split("\t")
    return fields[part + 1].split("|") if len(fields) > part + 1 and fields[part + 1] else []


@cache
def _load() -> tuple[str, dict[str, str]]:
    path = resources.files("gpt3mix_cli") / "resources" / "thesaurus.txt.gz"
    text = gzip.decompress(path.read_bytes())
    # A line is parsed when its word is needed: to parse all takes longer than a small augmentation.
    lines = {line.partition("\t")[0]: line for line in text.decode("ascii").split("\n")}
    return hashlib.sha256(text).hexdigest()[:16], lines
