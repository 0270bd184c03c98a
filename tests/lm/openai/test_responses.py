"""Parsing of answers: recorded answers of real servers, spoilt answers, and generated lines."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from endpoint_lm import CHOICES, LABEL_PREFIX
from hypothesis import given
from hypothesis import strategies as st

from gpt3mix_cli.lm.openai.answers import parse_texts, parse_usage
from gpt3mix_cli.lm.openai.http_errors import InvalidResponse, parse_error
from gpt3mix_cli.lm.openai.label_scores import (
    MAX_UNCERTAIN_LOGPROB,
    score_decision,
    score_top_logprobs,
)
from gpt3mix_cli.lm.openai.responses import (
    GeneratedText,
    TokenLogprobs,
    Usage,
    echo_logprob,
    parse_context,
    parse_line,
    token_id_logprobs,
)

FOLDER = Path(__file__).parent / "shapes"
WORD = st.text(st.sampled_from("abcdefgh"), min_size=1, max_size=6)


def shape(name: str) -> Any:
    """Return a recorded answer."""
    recorded = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return recorded.get("response", recorded.get("answer"))


# Recorded answers -----------------------------------------------------------------------------


def test_the_shape_of_exact_scores_by_ids() -> None:
    (text,) = parse_texts(shape("vllm_completions_token_ids"))
    assert token_id_logprobs(text, [43903, 50857]) == [-2.2451, -0.1201]
    assert token_id_logprobs(text, [43903, 1]) is None
    assert (text.text, text.finished, text.logprob) == (" Negative", False, -0.1201)


def test_the_shape_of_an_echo() -> None:
    (answer,) = parse_texts(shape("vllm_completions_echo"))
    assert echo_logprob(answer, "so dull (Sentiment:", " Positive") == -2.2451
    assert echo_logprob(answer, "so dull (Sentiment", ": Positive") == pytest.approx(-2.2481)
    assert echo_logprob(answer, "so dull (Sentimen", "t: Positive") is None  # no token begins there
    (other,) = parse_texts(shape("vllm_prompt_logprobs"))
    assert echo_logprob(other, "so dull (Sentiment:", " Positive") is None


@pytest.mark.parametrize("name", ["llamacpp-echo-shifted", "llamacpp-echo-after-bos"])
def test_the_shape_of_llama_cpps_echo(name: str) -> None:
    answer = shape(name)
    logprobs = answer["choices"][0]["logprobs"]
    begin = logprobs["text_offset"][1]
    whole = "".join(logprobs["tokens"])
    assert logprobs["text_offset"][0] == 0
    (text,) = parse_texts(answer)
    assert echo_logprob(text, whole[:begin], whole[begin:]) == pytest.approx(
        math.fsum(logprobs["token_logprobs"][1:])
    )


def test_the_shape_of_a_line_with_its_label() -> None:
    (text,) = parse_texts(shape("llamacpp-line"))
    found = parse_line(text, LABEL_PREFIX)
    assert (found.finish, LABEL_PREFIX in found.text) == ("label_prefix", False)
    assert text.text.startswith(found.text)
    scores = score_top_logprobs(found.label_logprobs, CHOICES)
    assert scores is not None
    assert (scores.source, scores.bounded) == ("exact", ())
    assert text.logprob is not None


def test_the_shape_of_a_label_by_itself() -> None:
    (text,) = parse_texts(shape("llamacpp-label"))
    scores = score_top_logprobs(text.first_top, CHOICES)
    assert scores is not None
    assert scores.logprobs == (-0.006772066466510296, -4.998813629150391)


@pytest.mark.parametrize("name", ["openai_chat_logprobs", "ollama_chat_logprobs"])
def test_the_shape_of_a_chats_log_probabilities(name: str) -> None:
    (text,) = parse_texts(shape(name))
    scores = score_top_logprobs(text.first_top, CHOICES, chat=True)
    assert scores is not None
    assert scores.source == "top_logprobs"
    assert all(value <= MAX_UNCERTAIN_LOGPROB for value in scores.logprobs)


def test_the_shape_of_a_token_outside_the_likeliest() -> None:
    (text,) = parse_texts(shape("openai_chat_outside_top"))
    assert text.logprob is None
    scores = score_top_logprobs(text.first_top, CHOICES, chat=True)
    assert scores is not None
    assert scores.logprobs[1] == pytest.approx(math.log(math.exp(-0.0513) + math.exp(-3.4263)))
    # The likeliest two hold 98.2 %: the rest, at most, is the other label's.
    assert scores.bounded == (0,)
    assert math.exp(scores.logprobs[0]) <= 1 - math.exp(-0.0513) - math.exp(-3.4263) + 1e-9


def test_the_shape_of_a_decision_and_its_refusal() -> None:
    scores = score_decision(shape("openai_decision"), (" positive", " negative"))
    assert scores is not None
    assert [math.exp(value) for value in scores.logprobs] == pytest.approx([0.09, 0.91])
    assert (scores.source, scores.has_mass) == ("decision", False)
    assert score_decision(shape("openai_decision_refusal"), (" positive", " negative")) is None
    assert parse_usage(shape("openai_decision")).prompt > 0
    with pytest.raises(InvalidResponse):
        score_decision(shape("openai_decision"), (" good", " bad"))


def test_the_shape_of_an_answer_without_log_probabilities() -> None:
    (text,) = parse_texts(shape("ollama_completions"))
    assert (text.text, text.tokens, text.logprob) == (" Negative", [], None)
    assert parse_usage(shape("ollama_completions")) == Usage(60, 1, 0)


def test_the_shape_of_an_end_at_once() -> None:
    (text,) = parse_texts(shape("llamacpp-end-of-text"))
    assert (
        parse_line(text, LABEL_PREFIX).text,
        parse_line(text, LABEL_PREFIX).finish,
        parse_line(text, LABEL_PREFIX).label_logprobs,
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
    assert parse_error(400, json.dumps(shape(name)), {}).message.startswith(words)


# Lines ----------------------------------------------------------------------------------------


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
) -> list[TokenLogprobs]:
    return [
        TokenLogprobs(token, -0.5, (tops or {}).get(place, {token: -0.5}))
        for place, token in enumerate(tokens)
    ]


@given(
    words=st.lists(WORD, max_size=5),
    label=st.sampled_from(CHOICES),
    ended=st.booleans(),
    tail=st.sampled_from(["", ")", ") more", ")\nNext"]),
    data=st.data(),
)
def test_a_line_is_the_text_before_the_label_prefix(
    words: list[str], label: str, ended: bool, tail: str, data: st.DataObject
) -> None:
    """However it is tokenised. The label has a distribution only if a token begins there."""
    text = "".join(f" {word}" for word in words)
    before, behind = f"{text}{LABEL_PREFIX}", f"{label}{tail}"
    tokens = cut(data, before) + (
        [label, *cut(data, tail)] if data.draw(st.booleans()) else cut(data, behind)
    )
    offsets = [len("".join(tokens[:place])) for place in range(len(tokens))]
    starts = len(before) in offsets
    tops = {offsets.index(len(before)): {" Positive": -0.1, " Negative": -2.4}} if starts else {}
    found = parse_line(GeneratedText("".join(tokens), ended, positions(tokens, tops)), LABEL_PREFIX)
    assert (found.text, found.finish) == (text, "label_prefix")
    assert (
        not starts
        or tokens[offsets.index(len(before))].strip() == ""
        or found.label_logprobs == {" Positive": -0.1, " Negative": -2.4}
    )
    assert starts or found.label_logprobs == {}


@given(words=st.lists(WORD, max_size=5), ended=st.booleans(), data=st.data())
def test_a_line_without_a_label_prefix_is_whole(
    words: list[str], ended: bool, data: st.DataObject
) -> None:
    text = "".join(f" {word}" for word in words)
    found = parse_line(GeneratedText(text, ended, positions(cut(data, text))), LABEL_PREFIX)
    assert (found.text, found.finish, found.label_logprobs) == (
        text,
        "line" if ended else "length",
        {},
    )


@pytest.mark.parametrize(
    "label_prefix",
    [" (Sentiment:", "(sentiment :", " ( SENTIMENT: ", "(Sentiment:", "  (sentiment:"],
)
def test_a_label_prefix_may_be_spelled_otherwise(label_prefix: str) -> None:
    found = parse_line(GeneratedText(f" a fine film{label_prefix} Positive)", True), LABEL_PREFIX)
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
    found = parse_line(GeneratedText(text, ended), LABEL_PREFIX)
    assert (found.text, found.finish) == expected


def test_a_separate_space_before_the_label_is_skipped() -> None:
    tokens = [" a", LABEL_PREFIX, " ", "Positive", ")"]
    assert parse_line(
        GeneratedText(
            "".join(tokens), True, positions(tokens, {3: {"Positive": -0.2, "Negative": -1.8}})
        ),
        LABEL_PREFIX,
    ).label_logprobs == {
        "Positive": -0.2,
        "Negative": -1.8,
    }


def test_tokens_that_do_not_spell_the_text_give_no_distribution() -> None:
    tokens = ["token_id:5", "token_id:6"]
    assert (
        parse_line(
            GeneratedText(f" a{LABEL_PREFIX} Positive)", True, positions(tokens)), LABEL_PREFIX
        ).label_logprobs
        == {}
    )


def test_the_tokens_of_a_stop_are_no_part_of_the_text() -> None:
    """llama.cpp lists them, but the text does not contain them."""
    tokens = [" a", LABEL_PREFIX, " Positive", ")", "\n"]
    found = parse_line(
        GeneratedText("".join(tokens[:-1]), True, positions(tokens, {2: {" Positive": -0.1}})),
        LABEL_PREFIX,
    )
    assert found.label_logprobs == {" Positive": -0.1}


def test_a_key_in_json_escapes_is_redacted_after_decoding() -> None:
    body = r'{"error": {"message": "wrong key sk-a\u002Bb", "code": "sk-a\u002Bb"}}'
    error = parse_error(401, body, {}, lambda text: text.replace("sk-a+b", "<key>"))
    assert (error.message, error.code) == ("wrong key <key>", "<key>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sure! Here is another:\n\nA fine film. (Sentiment: Positive)", "A fine film."),
        ("1. A list\nof lines\nA fine film (Sentiment: Positive)", "A fine film"),
        ("Sure! Here is another:\n\nA fine film.", "A fine film."),
        ("Sure! Here is another:", ""),
    ],
)
def test_the_line_of_a_chat_has_the_annotation_or_no_colon(text: str, expected: str) -> None:
    line = parse_line(GeneratedText(text, finished=True), LABEL_PREFIX, chat=True)
    assert line.text == expected
    other = parse_line(GeneratedText(text, finished=True), LABEL_PREFIX)
    assert other.text == text.split("\n")[0].partition(LABEL_PREFIX)[0]


@pytest.mark.parametrize(
    ("answer", "context"),
    [
        ({"data": [{"id": "m", "max_model_len": 2048}]}, 2048),
        ({"data": [{"id": "other", "meta": {"n_ctx": 512, "n_ctx_train": 8192}}]}, 512),
        ({"data": [{"id": "m"}, {"id": "n", "max_model_len": 9}]}, 0),
        ({"data": [{"id": "m", "max_model_len": "2048", "meta": None}]}, 0),
        (None, 0),
        ({"data": 5}, 0),
    ],
)
def test_the_context_is_in_the_list_of_models(answer: Any, context: int) -> None:
    assert parse_context(answer, "m") == context
