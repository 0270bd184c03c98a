"""Perplexity of texts under the packaged LM."""

import math
import random

import pytest

from gpt3mix_cli.lm.local.perplexity import PerplexityScorer

TEXTS = [
    "The story was a bit slow, and the characters were not believable.",
    "A moving film.",
    "It is one of the best films of the year, with a great cast and a good script.",
]


@pytest.fixture(scope="module")
def scorer() -> PerplexityScorer:
    return PerplexityScorer("bundled")


def test_texts_of_a_batch_do_not_change_each_other(scorer: PerplexityScorer) -> None:
    """The perplexity of all is that of their tokens, whether they are read together or alone."""
    alone = [next(scorer._score([text])) for text in TEXTS]
    expected = math.exp(-sum(value for value, _ in alone) / sum(count for _, count in alone))
    assert scorer.perplexity(TEXTS) == pytest.approx(expected, rel=1e-4)
    assert scorer.perplexity(TEXTS[::-1]) == pytest.approx(expected, rel=1e-4)


def test_shuffled_words_are_less_fluent(scorer: PerplexityScorer) -> None:
    shuffled = []
    for text in TEXTS:
        words = text.split()
        random.Random(0).shuffle(words)
        shuffled.append(" ".join(words))
    fluent, odd = scorer.perplexity(TEXTS), scorer.perplexity(shuffled)
    assert fluent
    assert odd
    assert 1 < fluent < odd / 2


def test_no_text_has_no_perplexity(scorer: PerplexityScorer) -> None:
    assert scorer.perplexity([]) is None
    assert scorer.perplexity([""]) is None
