"""The packaged thesaurus: what it says, where it comes from, and that it opens at once."""

import gzip
import random
import subprocess
import sys
from importlib import machinery, resources, util
from pathlib import Path
from types import ModuleType

import pytest

from gpt3mix_cli.augment.thesaurus import ENDINGS, synonyms, thesaurus_hash

ROOT = Path(__file__).parents[2]
WORDNET = Path("/usr/share/wordnet")
PARTS = ("noun", "verb", "adj", "adv")

needs_wordnet = pytest.mark.skipif(
    not (WORDNET / "data.noun").is_file(), reason="Debian's wordnet-base is not installed"
)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        # Senses in WordNet's order, spaces for underscores.
        (
            "movie",
            [
                "film",
                "picture",
                "moving picture",
                "moving-picture show",
                "motion picture",
                "motion-picture show",
                "picture show",
                "pic",
                "flick",
            ],
        ),
        # Verb, then adverb.
        (
            "quickly",
            ["rapidly", "speedily", "chop-chop", "apace", "promptly", "quick", "cursorily"],
        ),
        # Verbs by the base form, then the adjective `galore(ip)`, which has lost its marker.
        ("abounding", ["burst", "bristle", "galore"]),
        # Names keep their capitals.
        ("seine", ["Seine River"]),
        # An irregular form gives what its base gives, without the base.
        ("geese", ["fathead", "goof", "goofball", "bozo", "jackass", "cuckoo", "twat", "zany"]),
        ("boringly", ["tediously", "tiresomely"]),
        # WordNet's lists say that this is no comparative of `fake`.
        (
            "faker",
            [
                "imposter",
                "impostor",
                "pretender",
                "fake",
                "fraud",
                "sham",
                "shammer",
                "pseudo",
                "pseud",
                "role player",
            ],
        ),
        ("xyzzy", []),
        ("", []),
        ("\t", []),
        ("motion picture", []),
    ],
)
def test_pinned(word: str, expected: list[str]) -> None:
    """Words whose synonyms can be read in WordNet's own browser."""
    assert list(synonyms(word)) == expected


@pytest.mark.parametrize(
    ("inflected", "base"),
    [
        ("movies", "movie"),
        ("WOMEN", "woman"),
        ("boxes", "box"),
        ("Happier", "happy"),
        ("wolves", "wolf"),
        ("sang", "sing"),
    ],
)
def test_inflected_words_are_looked_up_by_their_base(inflected: str, base: str) -> None:
    """The base's synonyms are among those of the form (a form may be a word of its own too), the
    base itself is not."""
    part_of_base = synonyms(base)[0]
    assert part_of_base in synonyms(inflected)
    assert base not in synonyms(inflected)


def test_no_word_is_its_own_synonym() -> None:
    """Nothing comes back in other capitals, and nothing twice."""
    for word in ["china", "turkey", "mass", "us", "film", "better", "saw"]:
        found = synonyms(word)
        assert word not in [other.lower() for other in found]
        assert len(set(found)) == len(found)


def test_digest_is_stable() -> None:
    """The hash that goes into manifests is that of the text, not of how it was compressed."""
    assert thesaurus_hash() == thesaurus_hash()
    assert len(thesaurus_hash()) == 16


def test_opens_quickly_and_alone() -> None:
    """Measured in a process of its own; the limit leaves room for a busy machine (it takes about 30
    ms)."""
    code = (
        "import sys, time; from gpt3mix_cli.augment import thesaurus; start = time.process_time(); "
        "assert thesaurus.synonyms('film'); print(time.process_time() - start); "
        "assert 'nltk' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert float(done.stdout) < 0.15


def test_licence_is_packaged() -> None:
    """WordNet's licence asks to stand on all copies."""
    text = (resources.files("gpt3mix_cli") / "resources" / "WORDNET-LICENSE").read_text("utf-8")
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in text
    assert "GPL" not in text


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """scripts/build_thesaurus as a module."""
    loader = machinery.SourceFileLoader(
        "build_thesaurus", str(ROOT / "scripts" / "build_thesaurus")
    )
    spec = util.spec_from_loader(loader.name, loader)
    assert spec
    module = util.module_from_spec(spec)
    # Without this the import leaves a compiled file next to the script.
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


@needs_wordnet
def test_packaged_file_is_what_the_script_builds(script: ModuleType) -> None:
    """Compared unpacked: other versions of zlib may pack the same text otherwise."""
    packed = (resources.files("gpt3mix_cli") / "resources" / "thesaurus.txt.gz").read_bytes()
    assert gzip.decompress(packed).decode("ascii") == script.build(WORDNET)
    assert packed[4:8] == bytes(4), "a time stamp would make every build another file"


@needs_wordnet
def test_agrees_with_wordnets_own_files() -> None:
    """A sample of words and inflected forms, against a plain reading of index.*, data.* and *.exc,
    synset by synset."""
    wordnet = WordNet()
    chosen = random.Random(0)
    words = chosen.sample(sorted(wordnet.words), 300)
    forms = [
        word + ending for word in words[:100] for ending in ("s", "ed", "ing", "er")
    ] + chosen.sample(sorted(wordnet.irregular), 100)
    for word in [
        "movie",
        "good",
        "went",
        "saw",
        "axes",
        "running",
        "better",
        "was",
        *words,
        *forms,
    ]:
        assert list(synonyms(word)) == wordnet.synonyms(word), word


class WordNet:
    """Reads a synset straight from where its offset points to."""

    def __init__(self) -> None:
        self.senses: dict[tuple[str, str], list[int]] = {}
        self.exceptions: dict[tuple[str, str], list[str]] = {}
        for part in PARTS:
            for line in (WORDNET / f"index.{part}").read_text("ascii").splitlines():
                if not line.startswith(" "):
                    word, _, count, *rest = line.split()
                    self.senses[part, word] = [int(offset) for offset in rest[-int(count) :]]
            for line in (WORDNET / f"{part}.exc").read_text("ascii").splitlines():
                form, *bases = line.split()
                # A base of several words (`comics`: `comic_strip`) has no line in a thesaurus of
                # single words.
                self.exceptions.setdefault((part, form), []).extend(
                    base for base in bases if "_" not in base
                )
        self.words = {word for _, word in self.senses if "_" not in word}
        self.irregular = {form for _, form in self.exceptions if "_" not in form}
        self.data = {part: (WORDNET / f"data.{part}").read_bytes() for part in PARTS}

    def synonyms(self, word: str) -> list[str]:
        lemmas, own = [], {word}
        for part, endings in zip(PARTS, ENDINGS, strict=True):
            bases = self.exceptions.get((part, word)) or [
                word[: -len(old)] + new for old, new in endings if word.endswith(old)
            ]
            own.update(bases)
            for base in [word, *bases]:
                for offset in self.senses.get((part, base), []):
                    fields = self.data[part][offset : offset + 5000].decode("ascii").split(" ")
                    lemmas += [
                        lemma.partition("(")[0].replace("_", " ")
                        for lemma in fields[4 : 4 + 2 * int(fields[3], 16) : 2]
                    ]
        return [lemma for lemma in dict.fromkeys(lemmas) if lemma.lower() not in own]
