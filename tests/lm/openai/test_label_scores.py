"""Label scores from top log-probabilities, votes and token sequences, against the test model."""

import math
from collections.abc import Sequence

import pytest
from endpoint_lm import CHOICES, HEADER, LABEL_PREFIX, PROMPT
from endpoint_model import TinyLM
from hypothesis import example, given
from hypothesis import strategies as st

from gpt3mix_cli.lm.openai.label_scores import (
    count_further_requests,
    likeliest_beginning,
    next_tokens_by_prefix,
    score_token_sequences,
    score_top_logprobs,
    score_votes,
)
from gpt3mix_cli.lm.openai.responses import UNKNOWN_LOGPROB

WORD = st.text(st.sampled_from("abcdefgh"), min_size=1, max_size=6)
TINY, SPLIT, RARE = TinyLM(), TinyLM(split=["Positive"]), TinyLM(unlikely=["Positive"])


# Top log-probabilities ------------------------------------------------------------------------


def spellings(model: TinyLM, context: str, choice: str) -> float:
    """Return the probability of a label's first token in all spellings, by all tokens."""
    folded = choice.strip().casefold()
    return math.fsum(
        math.exp(value)
        for token, value in model.logprobs(context).items()
        if (spelled := token.strip().casefold()) == folded
        or (len(spelled) > 1 and folded.startswith(spelled))
    )


@given(
    words=st.lists(WORD, max_size=4),
    top=st.integers(1, 25),
    model=st.sampled_from([TINY, SPLIT, RARE]),
    chat=st.booleans(),
)
def test_no_label_is_certain_and_no_bound_is_too_low(
    words: list[str], top: int, model: TinyLM, chat: bool
) -> None:
    """The full distribution's value is below each bound, and equal where it was reported."""
    context = f"{PROMPT} {' '.join(words)}{LABEL_PREFIX}"
    reported = dict(model.distribution(context).ranked[:top])
    scores = score_top_logprobs(reported, CHOICES, chat=chat)
    if scores is None:
        assert all(
            spellings(model, context, choice) <= 1 - sum(map(math.exp, reported.values())) + 1e-9
            for choice in CHOICES
        )
        return
    assert all(value < 0 for value in scores.logprobs)
    for index, choice in enumerate(CHOICES):
        value = math.exp(scores.logprobs[index])
        if scores.source == "exact":
            assert scores.logprobs[index] == pytest.approx(model.score(context, choice))
        elif index in scores.bounded:
            unreported = len(model.tokens) * math.exp(min(reported.values()))
            assert value >= spellings(model, context, choice) - unreported
            assert scores.logprobs[index] >= model.score(context, choice) - 1e-9
        else:
            assert value <= spellings(model, context, choice) * (1 + 1e-9)
            assert value == pytest.approx(
                spellings(model, context, choice),
                abs=(len(model.tokens)) * math.exp(min(reported.values())),
            )


TOKEN = st.builds(
    lambda space, word: f"{space}{word}",
    st.sampled_from(["", " "]),
    st.sampled_from(
        [
            "Positive",
            "positive",
            "POSITIVE",
            "Negative",
            "neg",
            "Ne",
            "Neutral",
            "the",
            "a",
            ")",
            "(",
        ]
    ),
)


@given(
    weights=st.dictionaries(TOKEN, st.floats(1e-6, 1), max_size=10),
    known=st.floats(0.2, 1),
    labels=st.permutations([" Positive", " Negative", " Neutral"]),
)
@example(weights={" Positive": 1.0}, known=1.0, labels=[" Positive", " Negative", " Neutral"])
def test_label_scores_of_any_distribution(
    weights: dict[str, float], known: float, labels: list[str]
) -> None:
    total = math.fsum(weights.values()) / known
    top = {token: math.log(weight / total) for token, weight in weights.items()}
    scores = score_top_logprobs(top, labels, merge=True)
    if scores is None:
        return
    again = score_top_logprobs(dict(reversed(top.items())), labels, merge=True)
    assert again is not None
    assert scores.logprobs == pytest.approx(again.logprobs)
    for index, label in enumerate(labels):
        folded = label.strip().casefold()
        mass = math.fsum(math.exp(v) for t, v in top.items() if t.strip().casefold() == folded)
        assert math.exp(scores.logprobs[index]) >= mass - 1e-6  # spellings are merged
        assert scores.logprobs[index] < 0
        assert mass or index in scores.bounded or folded.startswith(("neg", "ne"))


def test_a_prefix_of_two_labels_raises_both_bounds() -> None:
    scores = score_top_logprobs(
        {" Ne": math.log(0.6), " Positive": math.log(0.3)}, (" Positive", " Negative", " Neutral")
    )
    assert scores is not None
    assert scores.bounded == (1, 2)
    assert math.exp(scores.logprobs[1]) == pytest.approx(0.7)
    assert math.exp(scores.logprobs[2]) == pytest.approx(0.7)


def test_an_article_is_no_prefix_of_a_label() -> None:
    assert score_top_logprobs({" a": -0.1, " A": -2.5}, (" Abbreviation", " Entity")) is None


@pytest.mark.parametrize(
    "top", [{}, {"x": UNKNOWN_LOGPROB}, {" Positive": UNKNOWN_LOGPROB, "x": -0.1}]
)
def test_nothing_known_is_no_score(top: dict[str, float]) -> None:
    assert score_top_logprobs(top, CHOICES) is None


# Labels of several tokens, from top log-probabilities ------------------------------------------

VERY = (" Very negative", " Very positive", " Positive")
FIRST = {" Very": math.log(0.8), " Positive": math.log(0.1), " the": math.log(0.05)}
SECOND = {" positive": math.log(0.7), " negative": math.log(0.2), " good": math.log(0.05)}


def test_the_tokens_after_a_shared_one_tell_labels_apart() -> None:
    scores = score_top_logprobs(FIRST, VERY, further={" Very": SECOND})
    assert scores is not None
    assert (scores.source, scores.bounded) == ("exact", ())
    assert list(map(math.exp, scores.logprobs)) == pytest.approx([0.8 * 0.2, 0.8 * 0.7, 0.1])


def test_without_them_all_that_is_shared_bounds_each_label() -> None:
    scores = score_top_logprobs(FIRST, VERY, chat=True)
    assert scores is not None
    assert scores.bounded == (0, 1)
    assert min(map(math.exp, scores.logprobs[:2])) >= 0.8


def test_labels_that_nothing_tells_apart_have_no_scores() -> None:
    assert score_top_logprobs({" Very": -0.1, " the": -3.0}, VERY[:2]) is None


def test_the_first_token_of_a_label_is_a_bound() -> None:
    """Its probability was taken for that of the whole label, up to 0.21 too much."""
    top = {" Very": -1.0, " Not": -1.2, " Good": -2.0}
    scores = score_top_logprobs(top, (" Very positive", " Not positive"))
    assert scores is not None
    assert (scores.source, scores.bounded) == ("top_logprobs", (0, 1))
    assert not scores.is_unknown


def test_the_likeliest_beginning_is_asked_for_until_none_matters() -> None:
    tops: dict[str, dict[str, float]] = {"": FIRST}
    assert likeliest_beginning(tops, VERY) == likeliest_beginning(tops, VERY, chat=True) == " Very"
    assert likeliest_beginning({**tops, " Very": SECOND}, VERY) is None
    # A chat cannot be asked for the rest of a label that no other one begins like.
    alone = {"": {" Very": -0.3, " Not": -1.5, "x": -4.0}}
    assert likeliest_beginning(alone, (" Very positive", " Not positive"), chat=True) is None


def test_the_end_of_a_text_is_no_beginning_of_a_label() -> None:
    """llama.cpp reports it as an empty token."""
    tops = {"": {**FIRST, "": -3.0}, " Very": {**SECOND, "": -3.0}}
    scores = score_top_logprobs(tops[""], VERY, further=tops)
    assert scores is not None
    assert scores.source == "exact"


# Votes ----------------------------------------------------------------------------------------


@given(counts=st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)), data=st.data())
def test_votes_are_fractions(counts: tuple[int, int, int], data: st.DataObject) -> None:
    positive, negative, other = counts
    forms = [" Positive", "positive.", "POSITIVE)", "\nPositive"]
    written = (
        [data.draw(st.sampled_from(forms)) for _ in range(positive)]
        + [" Negative)"] * negative
        + ["Mixed"] * other
    )
    scores = score_votes(written, CHOICES)
    if not positive + negative:
        assert scores is None
        return
    assert scores is not None
    fractions = [math.exp(value) for value in scores.logprobs]
    assert sum(fractions) == pytest.approx(1)
    assert fractions[0] == pytest.approx((positive + 0.5) / (positive + negative + 1))
    assert all(0 < fraction < 1 for fraction in fractions)
    assert (scores.source, scores.has_mass) == ("vote", False)


def test_the_longest_label_is_voted_for() -> None:
    scores = score_votes(["Very good", "very good.", "Very bad"], (" Very", " Very good"))
    assert scores is not None
    assert [round(3 * math.exp(value) + math.exp(value), 3) for value in scores.logprobs] == [
        1.5,
        2.5,
    ]


def test_a_vote_needs_no_closing_bracket() -> None:
    scores = score_votes(["Good", "Good.", "Good enough"], (" Good)", " Good enough)"))
    assert scores is not None
    assert [4 * math.exp(value) for value in scores.logprobs] == pytest.approx([2.5, 1.5])


# Labels of several tokens ---------------------------------------------------------------------


@given(
    labels=st.lists(
        st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
        min_size=1,
        max_size=6,
        unique=True,
    ),
    seed=st.integers(0, 99),
)
def test_labels_of_several_tokens_are_summed(labels: list[tuple[int, ...]], seed: int) -> None:
    """One request per prefix; the sums are those of the single tokens."""

    def logprob(prefix: Sequence[int], token: int) -> float:
        return -((hash((seed, *prefix, token)) % 1000) / 100 + 0.01)

    prefixes = next_tokens_by_prefix(labels)
    assert len(prefixes) == len({label[:index] for label in labels for index in range(len(label))})
    logprobs = {
        prefix: {token: logprob(prefix, token) for token in next_tokens}
        for prefix, next_tokens in prefixes.items()
    }
    expected = [
        sum(logprob(label[:index], token) for index, token in enumerate(label)) for label in labels
    ]
    scores = score_token_sequences(labels, logprobs)
    assert scores.logprobs == pytest.approx(expected)
    assert scores.source == "exact"


def test_summed_tokens_are_the_test_models_scores() -> None:
    context = f"{HEADER}Movie review: a fine film{LABEL_PREFIX}"
    tokens = [[SPLIT.id_of(token) for token in SPLIT.split(choice)] for choice in CHOICES]
    assert len(tokens[0]) == 2
    logprobs = {
        prefix: {
            token: SPLIT.distribution(context + "".join(map(SPLIT.token_of, prefix))).logprob(
                SPLIT.token_of(token)
            )
            for token in next_tokens
        }
        for prefix, next_tokens in next_tokens_by_prefix(tokens).items()
    }
    assert score_token_sequences(tokens, logprobs).logprobs == pytest.approx(
        [SPLIT.score(context, choice) for choice in CHOICES]
    )


@pytest.mark.parametrize(
    ("choices", "chat", "expected"),
    [
        ((" Positive", " Negative"), False, 0),
        ((" Very good", " Very bad"), False, 1),  # both begin with ` Very`
        ((" Very good", " Quite bad"), False, 2),
        ((" Abbreviation", " Human", " Description"), False, 4),
        ((" Abbreviation", " Human", " Description"), True, 0),
        ((" Very good", " Very bad"), True, 1),
    ],
)
def test_labels_of_several_tokens_are_foreseen(
    choices: tuple[str, ...], chat: bool, expected: int
) -> None:
    assert count_further_requests(choices, chat) == expected


def test_a_tokenizer_says_how_many_tokens_labels_have() -> None:
    def count(text: str) -> int:  # tokens of three characters, after one that begins each text
        return 1 + -(-len(text) // 3)

    assert count_further_requests((" Entity", " Human"), False, count) == 2 + 1
