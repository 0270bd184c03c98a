"""Near-duplicates: what counts as one, and that an index gives what all pairs give."""

import random
import subprocess
import sys

import pytest

from gpt3mix_cli import near_duplicates
from gpt3mix_cli.duplicates import copy_key
from gpt3mix_cli.near_duplicates import NearDuplicates, similarity

TEXT = "a quiet film about two brothers who never learned how to talk to each other again"


def index_of(*texts: str, threshold: float = 0.7) -> NearDuplicates:
    index = NearDuplicates(threshold)
    for number, text in enumerate(texts):
        index.add(text, f"t{number}")
    return index


@pytest.mark.parametrize(
    ("text", "is_near"),
    [
        (TEXT, True),
        (
            "A quiet film , about two brothers who never learned how to talk to each other again !",
            True,
        ),
        (TEXT.replace("quiet", "noisy"), True),
        (TEXT.replace("brothers", "sisters").replace("quiet", "loud"), False),
        ("two friends talk about a quiet film that they never saw again", False),
        ("", False),
    ],
)
def test_one_changed_word_in_ten_is_a_near_duplicate(text: str, is_near: bool):
    match = index_of("an unrelated text of some words", TEXT).find(text)
    assert (match is not None) == is_near
    if match:
        assert match.key == "t1"
        assert match.similarity == similarity(copy_key(text), copy_key(TEXT))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("abcd", "abcd", 1.0),
        ("abcde", "abcdf", 1 / 3),
        ("ab", "ab", 1.0),  # shorter than an n-gram
        ("ab", "ac", 0.0),
        ("この映画は本当に素晴らしい", "この映画は本当に素晴らしかった", 9 / 13),
    ],
)
def test_similarity_is_that_of_the_sets_of_four_characters(
    first: str, second: str, expected: float
):
    assert similarity(first, second) == pytest.approx(expected)


def test_the_first_similar_text_is_named():
    index = index_of(TEXT + " today", TEXT, TEXT)
    match = index.find(TEXT)
    assert match
    assert match.key == "t0"


def test_the_index_finds_what_all_pairs_find():
    rng = random.Random(3)
    words = [f"{rng.getrandbits(24):x}" for _ in range(300)]
    texts = [" ".join(rng.choices(words, k=12)) for _ in range(150)]
    for text in texts[:100]:
        changed = text.split()
        changed[rng.randrange(12)] = rng.choice(words)
        texts.append(" ".join(changed))
    index = index_of(*texts[:150], threshold=0.6)
    expected = {
        text
        for text in texts[150:]
        if any(similarity(copy_key(text), copy_key(other)) >= 0.6 for other in texts[:150])
    }
    found = {text for text in texts[150:] if index.find(text)}
    assert len(expected) > 80
    assert found <= expected  # candidates are compared exactly
    assert len(found) >= 0.95 * len(expected)


def test_matches_do_not_depend_on_hash_seeds():
    code = (
        "from gpt3mix_cli.near_duplicates import NearDuplicates\n"
        "index = NearDuplicates(0.5)\n"
        "texts = [f'row {i % 7} of {i % 5} about {i % 3}' for i in range(60)]\n"
        "for i, text in enumerate(texts):\n"
        "    print(index.find(text))\n"
        "    index.add(text, str(i))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1
    assert "Match" in outputs.pop()


@pytest.mark.parametrize("threshold", [0.01, 0.5, 1.0])
def test_every_threshold_finds_the_same_text(threshold: float):
    match = index_of("an unrelated text of some words", TEXT, threshold=threshold).find(TEXT)
    assert match
    assert match.similarity >= threshold


def test_boilerplate_does_not_make_all_texts_candidates(monkeypatch: pytest.MonkeyPatch):
    rng = random.Random(0)
    greeting = f"Dear customer service team, {TEXT}, and I have a problem with my recent order "

    def letter() -> str:
        return greeting + " ".join(f"{rng.getrandbits(20):x}" for _ in range(5))

    texts = [letter() for _ in range(400)]
    index = index_of(*texts, threshold=0.8)
    calls = []
    monkeypatch.setattr(
        near_duplicates, "similarity", lambda a, b: calls.append(a) or similarity(a, b)
    )
    assert similarity(copy_key(texts[0]), copy_key(texts[1])) > 0.6
    for _ in range(3):
        assert index.find(letter()) is None
    assert len(calls) <= 3 * near_duplicates.MAX_COMPARED
    for number in (0, 200, 399):
        match = index.find(texts[number].replace("problem", "problems"))
        assert match
        assert match.key == f"t{number}"
