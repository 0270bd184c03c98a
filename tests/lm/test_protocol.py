"""What is asked and how answers are read: pure functions, over the shapes of every rung and over the test model's own truth."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from endpoint_lm import CHOICES, HEADER, LABEL_PREFIX, PROMPT, asked
from endpoint_model import TinyLM
from hypothesis import example, given
from hypothesis import strategies as st

from gpt3mix_cli.lm.openai.dispatcher import _words_of
from gpt3mix_cli.lm.openai.label_scores import spelled_out, tries
from gpt3mix_cli.lm.openai.protocol import (
    BEYOND,
    NO_TOKEN,
    PLAIN,
    BadAnswer,
    Capabilities,
    Position,
    Text,
    Usage,
    body,
    by_ids,
    decided,
    echoed,
    label_scores,
    labelling,
    line,
    texts,
    usage,
    voted,
    writing,
)

FOLDER = Path(__file__).parent / "shapes"
WORD = st.text(st.sampled_from("abcdefgh"), min_size=1, max_size=6)
TINY, SPLIT, RARE = TinyLM(), TinyLM(split=["Positive"]), TinyLM(unlikely=["Positive"])


def shape(name: str) -> Any:
    """Return a recorded answer."""
    recorded = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return recorded.get("response", recorded.get("answer"))


# Asking --------------------------------------------------------------------------------------------------------------


def test_a_completion_is_asked_for_in_full() -> None:
    """No sampling parameter is left to the server's own defaults."""
    asked_for = writing(
        asked(1, temperature=0.9, top_p=0.8)[0], Capabilities(top=5, plain=True), "m", 7, ()
    )
    assert asked_for == {
        "model": "m", "prompt": PROMPT, "max_tokens": 67, "temperature": 0.9, "top_p": 0.8, "frequency_penalty": 0.0,
        "seed": 0, "stop": ["\n"], "logprobs": 5, **PLAIN,
    }  # fmt: skip


def test_a_chat_has_its_own_names() -> None:
    asked_for = writing(
        asked(1)[0],
        Capabilities(api="chat", top=20, limit="max_completion_tokens", refused=("seed",)),
        "m",
        7,
        (),
    )
    assert asked_for.keys() == {
        "model", "messages", "max_completion_tokens", "temperature", "top_p", "frequency_penalty", "logprobs", "top_logprobs",
    }  # fmt: skip
    assert (asked_for["logprobs"], asked_for["top_logprobs"]) == (True, 20)
    assert asked_for["messages"][1] == {"role": "user", "content": PROMPT}


def test_labels_are_scored_by_their_ids_beside_the_text() -> None:
    asked_for = writing(asked(1)[0], Capabilities(labels="ids", top=20), "m", 7, (4, 5))
    assert (asked_for["logprobs"], asked_for["logprob_token_ids"]) == (1, [4, 5])


@pytest.mark.parametrize("ways", [Capabilities(), Capabilities(api="chat"), Capabilities(top=5)])
def test_without_choices_there_is_no_room_for_them(ways: Capabilities) -> None:
    asked_for = writing(asked(1, label_prefix="", choices=())[0], ways, "m", 7, ())
    assert asked_for["max_tokens"] == 60
    assert ("logprobs" in asked_for) == bool(ways.top)


def test_a_label_is_asked_for_at_temperature_one() -> None:
    assert (
        labelling("x", CHOICES, Capabilities(), "m")["temperature"] == 1.0
    )  # some servers tell log-probabilities after sampling's changes


@given(
    names=st.sets(st.sampled_from(["temperature", "top_p", "seed", "stop", "logprobs", "min_p"]))
)
def test_what_a_server_refuses_is_left_out(names: set[str]) -> None:
    asked_for = writing(
        asked(1)[0], Capabilities(top=5, plain=True, refused=tuple(names)), "m", 7, ()
    )
    assert not names & asked_for.keys()
    assert (
        asked_for.keys() | names
        == writing(asked(1)[0], Capabilities(top=5, plain=True), "m", 7, ()).keys()
    )


@given(seed=st.integers(0, 2**70))
def test_seeds_fit_into_31_bits(seed: int) -> None:
    assert 0 <= writing(asked(1, seed=seed)[0], Capabilities(), "m", 0, ())["seed"] < 2**31


def test_fields_of_none_are_left_out() -> None:
    assert body(Capabilities(), "m", "x", max_tokens=1, n=None) == {
        "model": "m",
        "prompt": "x",
        "max_tokens": 1,
    }


# Shapes --------------------------------------------------------------------------------------------------------------


def test_the_shape_of_exact_scores_by_ids() -> None:
    (text,) = texts(shape("vllm_completions_token_ids"), "completions")
    assert by_ids(text, [43903, 50857]) == [-2.2451, -0.1201]
    assert by_ids(text, [43903, 1]) is None
    assert (text.text, text.ended, text.logprob) == (" Negative", False, -0.1201)


def test_the_shape_of_an_echo() -> None:
    answer = shape("vllm_completions_echo")
    assert echoed(answer, "so dull (Sentiment:", " Positive") == -2.2451
    assert echoed(answer, "so dull (Sentiment", ": Positive") == pytest.approx(-2.2481)
    assert echoed(answer, "so dull (Sentimen", "t: Positive") is None  # no token begins there
    assert echoed(shape("vllm_prompt_logprobs"), "so dull (Sentiment:", " Positive") is None


@pytest.mark.parametrize("name", ["llamacpp-echo-shifted", "llamacpp-echo-after-bos"])
def test_the_shape_of_llama_cpps_echo(name: str) -> None:
    answer = shape(name)
    logprobs = answer["choices"][0]["logprobs"]
    begin = logprobs["text_offset"][1]
    whole = "".join(logprobs["tokens"])
    assert logprobs["text_offset"][0] == 0
    assert echoed(answer, whole[:begin], whole[begin:]) == pytest.approx(
        math.fsum(logprobs["token_logprobs"][1:])
    )


def test_the_shape_of_a_line_with_its_label() -> None:
    (text,) = texts(shape("llamacpp-line"), "completions")
    found = line(text, LABEL_PREFIX)
    assert (found.finish, LABEL_PREFIX in found.text) == ("label_prefix", False)
    assert text.text.startswith(found.text)
    scores = label_scores(found.label, CHOICES)
    assert scores is not None
    assert (scores.source, scores.bounded) == ("exact", ())
    assert text.logprob is not None


def test_the_shape_of_a_label_by_itself() -> None:
    (text,) = texts(shape("llamacpp-label"), "completions")
    scores = label_scores(text.positions[0].top, CHOICES)
    assert scores is not None
    assert scores.logprobs == (-0.006772066466510296, -4.998813629150391)


@pytest.mark.parametrize("name", ["openai_chat_logprobs", "ollama_chat_logprobs"])
def test_the_shape_of_a_chats_log_probabilities(name: str) -> None:
    (text,) = texts(shape(name), "chat")
    scores = label_scores(text.positions[0].top, CHOICES, chat=True)
    assert scores is not None
    assert scores.source == "top_logprobs"
    assert all(value <= BEYOND for value in scores.logprobs)


def test_the_shape_of_a_token_outside_the_likeliest() -> None:
    (text,) = texts(shape("openai_chat_outside_top"), "chat")
    assert text.logprob is None
    scores = label_scores(text.positions[0].top, CHOICES, chat=True)
    assert scores is not None
    assert scores.logprobs[1] == pytest.approx(math.log(math.exp(-0.0513) + math.exp(-3.4263)))
    # The likeliest two hold 98.2 %: the rest, at most, is the other label's.
    assert scores.bounded == (0,)
    assert math.exp(scores.logprobs[0]) <= 1 - math.exp(-0.0513) - math.exp(-3.4263) + 1e-9


def test_the_shape_of_a_decision_and_its_refusal() -> None:
    scores = decided(shape("openai_decision"), (" positive", " negative"))
    assert scores is not None
    assert [math.exp(value) for value in scores.logprobs] == pytest.approx([0.09, 0.91])
    assert (scores.source, scores.has_mass) == ("decision", False)
    assert decided(shape("openai_decision_refusal"), (" positive", " negative")) is None
    assert usage(shape("openai_decision")).prompt > 0
    with pytest.raises(BadAnswer):
        decided(shape("openai_decision"), (" good", " bad"))


def test_the_shape_of_an_answer_without_log_probabilities() -> None:
    (text,) = texts(shape("ollama_completions"), "completions")
    assert (text.text, text.positions, text.logprob) == (" Negative", [], None)
    assert usage(shape("ollama_completions")) == Usage(60, 1, 0)


def test_the_shape_of_an_end_at_once() -> None:
    (text,) = texts(shape("llamacpp-end-of-text"), "completions")
    assert (
        line(text, LABEL_PREFIX).text,
        line(text, LABEL_PREFIX).finish,
        line(text, LABEL_PREFIX).label,
    ) == (
        "",
        "line",
        {},
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llamacpp-no-such-path", "Not Found"),
        ("llamacpp-wrong-key", "Invalid API key"),
        ("llamacpp-too-long", "This model's maximum context length"),
    ],
)
def test_the_shape_of_an_error(name: str, words: str) -> None:
    assert next(_words_of(shape(name))).startswith(words)


ANSWERS = [
    ("llamacpp-line", "completions"),
    ("vllm_completions_token_ids", "completions"),
    ("openai_chat_logprobs", "chat"),
]


@given(kind=st.sampled_from(ANSWERS), data=st.data())
def test_a_spoilt_answer_is_read_or_refused(kind: tuple[str, str], data: st.DataObject) -> None:
    """Whatever a server leaves out or replaces: no other error comes of it."""
    name, api = kind
    answer = copy.deepcopy(shape(name))
    place: Any = answer
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if (
            not isinstance(place[key], dict | list)
            or not place[key]
            or data.draw(st.integers(0, 3)) == 0
        ):
            place[key] = data.draw(
                st.sampled_from([None, 7, "x", [], {}, [None], {"a": None}, True])
            )
            break
        place = place[key]
    try:
        found = texts(answer, api)
    except BadAnswer:
        return
    for text in found:
        assert isinstance(text.text, str)
        assert text.logprob is None or text.logprob < 1
        label = line(text, LABEL_PREFIX).label
        scores = label_scores(label, CHOICES) if label else None
        assert scores is None or len(scores.logprobs) == 2
    assert usage(answer).prompt >= 0


# The line ------------------------------------------------------------------------------------------------------------


def cut(data: st.DataObject, whole: str) -> list[str]:
    """Return a text in tokens of one to five characters."""
    tokens, place = [], 0
    while place < len(whole):
        size = data.draw(st.integers(1, 5))
        tokens.append(whole[place : place + size])
        place += size
    return tokens


def positions(
    tokens: Sequence[str], tops: Mapping[int, dict[str, float]] | None = None
) -> list[Position]:
    return [
        Position(token, -0.5, (tops or {}).get(place, {token: -0.5}))
        for place, token in enumerate(tokens)
    ]


@given(
    words=st.lists(WORD, max_size=5),
    label=st.sampled_from(CHOICES),
    ended=st.booleans(),
    tail=st.sampled_from(["", ")", ") more", ")\nNext"]),
    data=st.data(),
)
def test_a_line_is_what_stands_before_the_seam(
    words: list[str], label: str, ended: bool, tail: str, data: st.DataObject
) -> None:
    """However it is cut into tokens; the label's distribution is found where a token begins there, and only there."""
    text = "".join(f" {word}" for word in words)
    before, behind = f"{text}{LABEL_PREFIX}", f"{label}{tail}"
    tokens = cut(data, before) + (
        [label, *cut(data, tail)] if data.draw(st.booleans()) else cut(data, behind)
    )
    offsets = [len("".join(tokens[:place])) for place in range(len(tokens))]
    starts = len(before) in offsets
    tops = {offsets.index(len(before)): {" Positive": -0.1, " Negative": -2.4}} if starts else {}
    found = line(Text("".join(tokens), ended, positions(tokens, tops)), LABEL_PREFIX)
    assert (found.text, found.finish) == (text, "label_prefix")
    assert (
        not starts
        or tokens[offsets.index(len(before))].strip() == ""
        or found.label == {" Positive": -0.1, " Negative": -2.4}
    )
    assert starts or found.label == {}


@given(words=st.lists(WORD, max_size=5), ended=st.booleans(), data=st.data())
def test_a_line_without_a_seam_ends_where_it_ends(
    words: list[str], ended: bool, data: st.DataObject
) -> None:
    text = "".join(f" {word}" for word in words)
    found = line(Text(text, ended, positions(cut(data, text))), LABEL_PREFIX)
    assert (found.text, found.finish, found.label) == (text, "line" if ended else "length", {})


@pytest.mark.parametrize(
    "label_prefix",
    [" (Sentiment:", "(sentiment :", " ( SENTIMENT: ", "(Sentiment:", "  (sentiment:"],
)
def test_a_seam_may_be_spelled_otherwise(label_prefix: str) -> None:
    found = line(Text(f" a fine film{label_prefix} Positive)", True), LABEL_PREFIX)
    assert (found.text.rstrip(), found.finish) == (" a fine film", "label_prefix")


@pytest.mark.parametrize(
    ("text", "ended", "expected"),
    [
        (
            "\n\nA fine film. (Sentiment: Positive)",
            True,
            ("A fine film.", "label_prefix"),
        ),  # as chats begin
        (
            " a film\nMovie review: b (Sentiment: Positive)",
            True,
            (" a film", "line"),
        ),  # the label prefix of another line
        (" a film\r\nmore", False, (" a film", "line")),  # the line had ended before the tokens did
        (" a film (Sentiment:", False, (" a film (Sentiment:", "length")),  # no label came
        (" a film (Sentiment:", True, (" a film", "label_prefix")),
        (" a film (Sent", False, (" a film (Sent", "length")),
        ("", True, ("", "line")),
    ],
)
def test_lines_by_hand(text: str, ended: bool, expected: tuple[str, str]) -> None:
    found = line(Text(text, ended), LABEL_PREFIX)
    assert (found.text, found.finish) == expected


def test_a_space_of_its_own_before_the_label_is_passed_over() -> None:
    tokens = [" a", LABEL_PREFIX, " ", "Positive", ")"]
    assert line(
        Text("".join(tokens), True, positions(tokens, {3: {"Positive": -0.2, "Negative": -1.8}})),
        LABEL_PREFIX,
    ).label == {
        "Positive": -0.2,
        "Negative": -1.8,
    }


def test_tokens_that_spell_something_else_tell_nothing() -> None:
    tokens = ["token_id:5", "token_id:6"]
    assert (
        line(Text(f" a{LABEL_PREFIX} Positive)", True, positions(tokens)), LABEL_PREFIX).label == {}
    )


def test_the_tokens_of_a_stop_are_no_part_of_the_text() -> None:
    """llama.cpp lists them; the text has them cut off."""
    tokens = [" a", LABEL_PREFIX, " Positive", ")", "\n"]
    found = line(
        Text("".join(tokens[:-1]), True, positions(tokens, {2: {" Positive": -0.1}})), LABEL_PREFIX
    )
    assert found.label == {" Positive": -0.1}


# Label scores --------------------------------------------------------------------------------------------------------


def spellings(model: TinyLM, context: str, choice: str) -> float:
    """Return the whole probability of a label's first token in all its spellings, by the model's full distribution."""
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
    """Whatever is cut off: the truth of the full distribution lies below each bound, and at what was told it is what was told."""
    context = f"{PROMPT} {' '.join(words)}{LABEL_PREFIX}"
    told = dict(model.distribution(context).ranked[:top])
    scores = label_scores(told, CHOICES, chat=chat)
    if scores is None:
        assert all(
            spellings(model, context, choice) <= 1 - sum(map(math.exp, told.values())) + 1e-9
            for choice in CHOICES
        )
        return
    assert all(value < 0 for value in scores.logprobs)
    for place, choice in enumerate(CHOICES):
        value = math.exp(scores.logprobs[place])
        if scores.source == "exact":
            assert scores.logprobs[place] == pytest.approx(model.score(context, choice))
        elif place in scores.bounded:
            assert value >= spellings(model, context, choice) * (1 - 1e-9)
            assert scores.logprobs[place] >= model.score(context, choice) - 1e-9
        else:
            assert value <= spellings(model, context, choice) * (1 + 1e-9)
            assert value == pytest.approx(
                spellings(model, context, choice),
                abs=(len(model.tokens)) * math.exp(min(told.values())),
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
    scores = label_scores(top, labels, merge=True)
    if scores is None:
        return
    again = label_scores(dict(reversed(top.items())), labels, merge=True)
    assert again is not None
    assert scores.logprobs == pytest.approx(again.logprobs)
    for place, label in enumerate(labels):
        folded = label.strip().casefold()
        mass = math.fsum(math.exp(v) for t, v in top.items() if t.strip().casefold() == folded)
        assert math.exp(scores.logprobs[place]) >= mass - 1e-6  # spellings are merged
        assert scores.logprobs[place] < 0
        assert mass or place in scores.bounded or folded.startswith(("neg", "ne"))


def test_a_beginning_of_two_labels_raises_both_bounds() -> None:
    scores = label_scores(
        {" Ne": math.log(0.6), " Positive": math.log(0.3)}, (" Positive", " Negative", " Neutral")
    )
    assert scores is not None
    assert scores.bounded == (1, 2)
    assert math.exp(scores.logprobs[1]) == pytest.approx(0.7)
    assert math.exp(scores.logprobs[2]) == pytest.approx(0.7)


def test_an_article_is_no_beginning_of_a_label() -> None:
    assert label_scores({" a": -0.1, " A": -2.5}, (" Abbreviation", " Entity")) is None


@pytest.mark.parametrize("top", [{}, {"x": NO_TOKEN}, {" Positive": NO_TOKEN, "x": -0.1}])
def test_nothing_known_is_no_score(top: dict[str, float]) -> None:
    assert label_scores(top, CHOICES) is None


# Votes ---------------------------------------------------------------------------------------------------------------


@given(counts=st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)), data=st.data())
def test_votes_are_shares(counts: tuple[int, int, int], data: st.DataObject) -> None:
    positive, negative, other = counts
    forms = [" Positive", "positive.", "POSITIVE)", "\nPositive"]
    written = (
        [data.draw(st.sampled_from(forms)) for _ in range(positive)]
        + [" Negative)"] * negative
        + ["Mixed"] * other
    )
    scores = voted(written, CHOICES)
    if not positive + negative:
        assert scores is None
        return
    assert scores is not None
    shares = [math.exp(value) for value in scores.logprobs]
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx((positive + 0.5) / (positive + negative + 1))
    assert all(0 < share < 1 for share in shares)
    assert (scores.source, scores.has_mass) == ("vote", False)


def test_the_longest_label_is_voted_for() -> None:
    scores = voted(["Very good", "very good.", "Very bad"], (" Very", " Very good"))
    assert scores is not None
    assert [round(3 * math.exp(value) + math.exp(value), 3) for value in scores.logprobs] == [
        1.5,
        2.5,
    ]


# Labels of several tokens --------------------------------------------------------------------------------------------


@given(
    labels=st.lists(
        st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
        min_size=1,
        max_size=6,
        unique=True,
    ),
    seed=st.integers(0, 99),
)
def test_labels_of_several_tokens_are_spelled_out(labels: list[tuple[int, ...]], seed: int) -> None:
    """One question for each beginning; the sums are those of the tokens one by one."""

    def logprob(begun: Sequence[int], token: int) -> float:
        return -((hash((seed, *begun, token)) % 1000) / 100 + 0.01)

    questions = tries(labels)
    assert len(questions) == len({label[:place] for label in labels for place in range(len(label))})
    found = {
        begun: {token: logprob(begun, token) for token in following}
        for begun, following in questions.items()
    }
    expected = [
        sum(logprob(label[:place], token) for place, token in enumerate(label)) for label in labels
    ]
    scores = spelled_out(labels, found)
    assert scores.logprobs == pytest.approx(expected)
    assert scores.source == "exact"


def test_the_test_models_labels_spelled_out_are_its_scores() -> None:
    context = f"{HEADER}Movie review: a fine film{LABEL_PREFIX}"
    tokens = [[SPLIT.id_of(token) for token in SPLIT.split(choice)] for choice in CHOICES]
    assert len(tokens[0]) == 2
    found = {
        begun: {
            token: SPLIT.distribution(context + "".join(map(SPLIT.token_of, begun))).logprob(
                SPLIT.token_of(token)
            )
            for token in following
        }
        for begun, following in tries(tokens).items()
    }
    assert spelled_out(tokens, found).logprobs == pytest.approx(
        [SPLIT.score(context, choice) for choice in CHOICES]
    )


def test_usage_of_every_form() -> None:
    assert usage({}) == usage({"usage": None}) == usage({"usage": "none"}) == Usage()
    cached = {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert usage({"usage": cached}) == Usage(9, 2, 4)
    assert usage({"usage": {"prompt_tokens": None, "completion_tokens": 3}}) == Usage(0, 3, 0)
