"""The strict reader: any answer becomes records that every later stage takes, or is refused."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from endpoint_lm import CHOICES, LABEL_PREFIX
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.lm.openai.answers import parse_json, parse_texts, parse_usage
from gpt3mix_cli.lm.openai.budget import BudgetTracker, Price
from gpt3mix_cli.lm.openai.http_errors import (
    HttpError,
    InvalidResponse,
    parse_error,
)
from gpt3mix_cli.lm.openai.label_scores import (
    score_decision,
    score_top_logprobs,
    score_votes,
)
from gpt3mix_cli.lm.openai.responses import (
    GeneratedText,
    Usage,
    echo_logprob,
    parse_line,
    token_id_logprobs,
)
from gpt3mix_cli.lm.port import Scores
from gpt3mix_cli.method.labels import label_logits, label_mass, normalise
from gpt3mix_cli.records import Augmented, Reject, to_json_line

FOLDER = Path(__file__).parent / "shapes"
SHAPES = {
    path.stem: answer
    for path in sorted(FOLDER.glob("*.json"))
    if isinstance(recorded := json.loads(path.read_text("utf-8")), dict)
    and isinstance(answer := recorded.get("response", recorded.get("answer")), dict)
}
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)  # surrogates too
DECISION_CHOICES = (" positive", " negative")
ODD_NUMBERS = [math.nan, math.inf, -math.inf, 1e308, -1e308, 5.0, -1, 0, 12.0, 2**80, -(2**80)]
ODD_TEXTS = ["", "\ud83d", "a\x00b", "<think>", "</think>", "<think>a</think>b", "\n", "stop", "5"]
ODD_VALUES = [
    *ODD_NUMBERS,
    *ODD_TEXTS,
    None,
    True,
    [],
    {},
    [None],
    {"a": None},
    {"message": "gone", "code": 502},
    [{"type": "text", "text": "a part"}, {"type": "thinking", "thinking": "hm"}],
    {"content": [{"token": " Positive", "logprob": -0.1, "top_logprobs": None}]},
    "error",
    "content_filter",
]


def read(answer: Any, prompt: str = "") -> list[GeneratedText]:
    """Return what the reader makes of an answer as a server sends it."""
    return parse_texts(parse_json(json.dumps(answer)), prompt)


def completion(text: Any = " A fine film.", **choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": "stop", **choice}]}


def chat(content: Any, **message: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content, **message}}
    return {"choices": [{"index": 0, "finish_reason": "stop", **choice}]}


def columns(**changed: Any) -> dict[str, Any]:
    logprobs = {
        "tokens": [" A", " film"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{" A": -0.5, " The": -1.0}, {" film": -0.25, " mess": -2.0}],
        "text_offset": [0, 2],
    }
    return completion(" A film", logprobs={**logprobs, **changed})


# Any answer -----------------------------------------------------------------------------------


def damaged(data: st.DataObject, answer: Any) -> Any:
    """Return an answer in which one to three values are others, or are missing."""
    answer = copy.deepcopy(answer)
    for _ in range(data.draw(st.integers(1, 3))):
        place = answer
        while isinstance(place, dict | list) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or data.draw(st.integers(0, 3)) == 0:
                if isinstance(place, dict) and data.draw(st.integers(0, 4)) == 0:
                    del place[key]
                else:
                    place[key] = copy.deepcopy(data.draw(st.sampled_from(ODD_VALUES)))
                break
            place = place[key]
    return answer


def use(scores: Scores | None) -> None:
    """Make a row of label scores, as `augment` does, and write it."""
    if scores is None:
        return
    names = ("pos", "neg")
    probs = normalise(names, label_logits(scores.logprobs))
    row = Augmented(
        id="a",
        text="b",
        label="pos",
        probs=probs,
        label_source=scores.source,
        label_mass=label_mass(scores.logprobs) if scores.has_mass else None,
    )
    assert json.loads(to_json_line(row))["probs"].keys() == {"pos", "neg"}
    assert math.fsum(probs.values()) == pytest.approx(1)


def read_all(answer: Any) -> tuple[list[GeneratedText], Usage, Scores | None] | str:
    """Return all that is read of an answer, or why it is refused."""
    try:
        value = parse_json(json.dumps(answer))
        scores = score_decision(value, DECISION_CHOICES) if "answers" in value else None
        return parse_texts(value, "Movie review:"), parse_usage(value, lambda: (40, 7)), scores
    except InvalidResponse as error:
        return str(error)
    except HttpError as error:
        return f"HTTP {error.status}: {error.message}"


@settings(max_examples=300)
@given(name=st.sampled_from(sorted(SHAPES)), data=st.data())
def test_any_answer_is_read_or_refused_and_what_is_read_can_be_used(
    name: str, data: st.DataObject
) -> None:
    """Whatever a server omits or replaces, there is no other error, here or later."""
    found = read_all(damaged(data, SHAPES[name]))
    if isinstance(found, str):
        assert found
        to_json_line(Reject(request=1, method="a", parents=[], text="", reason=found))
        return
    texts, usage, scores = found
    use(scores)
    budget = BudgetTracker(Price(prompt=1.0, completion=2.0))
    budget.add_usage(usage, budget.cost(usage))
    assert 0 <= usage.cached <= usage.prompt < 2**31
    assert budget.usd >= 0
    assert texts
    use(score_votes([text.text for text in texts], CHOICES))
    for text in texts:
        line = parse_line(text, LABEL_PREFIX)
        to_json_line(Reject(request=1, method="a", parents=[], text=line.text, reason="b"))
        assert text.logprob is None or text.logprob <= 0.01 * len(text.tokens)
        for top in (line.label_logprobs, text.first_top):
            for chats in (False, True):
                use(score_top_logprobs(top, CHOICES, chat=chats) if top else None)
        echo_logprob(text, "so dull (Sentiment:", " Positive")
        token_id_logprobs(text, [43903, 50857])


@given(text=ANY_TEXT, status=st.sampled_from([200, 400, 403, 500]))
def test_any_error_body_is_a_message(text: str, status: int) -> None:
    for body in (text, json.dumps({"error": text}), json.dumps({"error": {"message": text}})):
        error = parse_error(status, body, {"retry-after": text})
        assert error.message.encode()
        assert error.retry_after is None or math.isfinite(error.retry_after)


@pytest.mark.parametrize("text", ["", "{", "[" * 99_999, f'{{"a": {"1" * 9999}}}', "[1]", "null"])
def test_what_is_no_object_is_invalid(text: str) -> None:
    with pytest.raises(InvalidResponse, match=r"not JSON|no object"):
        parse_texts(parse_json(text))


# Texts ----------------------------------------------------------------------------------------


def test_what_no_file_can_hold_is_replaced_in_texts_and_tokens() -> None:
    (text,) = read(columns(tokens=["\ud83d", "\x00"], top_logprobs=[{"\ud83d": -1.0}, {}]))
    assert [token.token for token in text.tokens] == ["\ufffd", "\ufffd"]
    assert text.first_top == {"\ufffd": -1.0}
    assert read(completion("a \ud83d b \x00 \U0001f600"))[0].text == "a \ufffd b \ufffd \U0001f600"


def test_a_text_may_be_a_list_of_parts() -> None:
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": " A fine"}, " film."]
    assert read(chat(parts))[0].text == " A fine film."


@pytest.mark.parametrize(
    "content",
    [
        "<think>\n\n</think>\n\nA film.",
        "<think>Okay, (Sentiment: Positive) is a line.</think>A film.",
        "Okay, the template had the tag.\n</think>\n\nA film.",
        "[THINK]hm[/THINK] A film.",
        "<seed:think>hm</seed:think>A film.",
    ],
)
def test_what_the_model_thought_is_cut_off(content: str) -> None:
    (text,) = read(chat(content))
    assert (text.text, text.finished, text.blocked) == ("A film.", True, "")
    assert text.generated == content


def test_the_tokens_of_thoughts_are_cut_off_too() -> None:
    """Also where the server keeps the thoughts out of the text, and lists their tokens."""
    tokens = ["<think>", "\n", "hm", "</think>\n", "A", LABEL_PREFIX, " Positive", ")"]
    entries = [
        {"token": token, "logprob": -0.5, "top_logprobs": [{"token": token, "logprob": -0.5}]}
        for token in tokens
    ]
    line = "".join(tokens[4:])
    for content in (line, "".join(tokens)):
        answer = chat(content, reasoning_content="hm")
        answer["choices"][0]["logprobs"] = {"content": entries}
        (text,) = read(answer)
        assert (text.text, text.first_top) == (line, {"A": -0.5})
        assert text.logprob == -0.5 * 4
        assert parse_line(text, LABEL_PREFIX).label_logprobs == {" Positive": -0.5}


@pytest.mark.parametrize(
    "answer",
    [
        chat("", reasoning_content="Okay, the user"),
        chat(None, reasoning="Okay, the user"),
        chat("<think>Okay, the user"),
        chat("<think>Okay</think>\n\n"),
    ],
)
def test_an_answer_of_thoughts_alone_says_that_the_model_thinks(answer: Any) -> None:
    (text,) = read(answer)
    assert text.only_reasoning
    assert "the model thinks" in text.blocked


def test_an_echoed_prompt_is_cut_off_with_its_tokens() -> None:
    (text,) = read(columns(), " A")
    assert (text.text, text.first_top) == (" film", {" film": -0.25, " mess": -2.0})
    (text,) = read(
        completion("Review: A film", logprobs=columns()["choices"][0]["logprobs"]), "Rev"
    )
    assert [token.token for token in text.tokens] == [" A", " film"]


@pytest.mark.parametrize(
    ("reason", "finished"),
    [("stop", True), (None, True), ("eos", True), ("length", False), ("odd", False), (7, False)],
)
def test_a_text_is_finished_only_for_a_known_reason(reason: Any, finished: bool) -> None:
    assert read(completion(finish_reason=reason))[0].finished is finished


def test_a_text_that_a_filter_cut_is_blocked() -> None:
    assert "content_filter" in read(completion(finish_reason="content_filter"))[0].blocked
    assert "I cannot" in read(chat(None, refusal="I cannot help."))[0].blocked


def test_a_text_that_broke_off_is_invalid() -> None:
    with pytest.raises(InvalidResponse, match="broke off"):
        read(completion(finish_reason="error"))


# Errors with the status 200 -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "No auth credentials found", "code": 401}, 401),
        ({"message": "Upstream provider timed out", "code": "504"}, 504),
        ({"message": "Slow down", "type": "rate_limit_error"}, 429),
        ({"message": "Add credits", "code": "insufficient_credits"}, 402),
        ({"message": "Too long", "code": "context_length_exceeded"}, 400),
        ("Upstream provider timed out", 502),
        ({"message": "odd", "code": 7}, 502),
    ],
)
def test_an_error_in_an_answer_is_raised_with_its_status(error: Any, status: int) -> None:
    for answer in ({"error": error}, {"error": error, "choices": []}):
        with pytest.raises(HttpError) as caught:
            read(answer)
        assert caught.value.status == status
        assert caught.value.message == (error if isinstance(error, str) else error["message"])
    with pytest.raises(HttpError):
        read(completion(error=error))


def test_no_choices_refuse_the_prompt() -> None:
    with pytest.raises(HttpError, match="refuses the prompt") as caught:
        read({"choices": [], "usage": {"prompt_tokens": 9}})
    assert caught.value.is_about_request


def test_a_403_of_a_moderation_is_about_the_prompt() -> None:
    body = {"error": {"message": "requires moderation. Your input was flagged", "code": 403}}
    assert parse_error(403, json.dumps(body), {}).is_about_request
    other = parse_error(403, '{"error": {"message": "Country not supported"}}', {})
    assert not other.is_about_request


# Numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [None, "x", math.nan, math.inf, 5.0, True, [], 2**80])
def test_a_logprob_that_is_none_counts_as_unreported(odd: Any) -> None:
    (text,) = read(columns(top_logprobs=[{" A": -0.5, " The": odd}, None]))
    assert text.first_top == {" A": -0.5}
    (text,) = read(columns(token_logprobs=[odd, -0.25]))
    assert text.logprob is None
    assert [token.logprob for token in text.tokens] == [None, -0.25]


def test_minus_infinity_is_no_probability() -> None:
    (text,) = read(columns(top_logprobs=[{" A": -math.inf, " The": -(2**80)}, {}]))
    assert set(text.first_top.values()) == {-9999.0}


@pytest.mark.parametrize("tokens", [None, [None, " film"], "A film", [7, 8]])
def test_tokens_that_are_no_texts_leave_the_text(tokens: Any) -> None:
    (text,) = read(columns(tokens=tokens))
    assert (text.text, text.tokens) == (" A film", [])


def test_log_probabilities_of_completions_may_have_the_form_of_a_chat() -> None:
    """llama-server's do."""
    entries = [
        {
            "id": 1,
            "token": token,
            "bytes": [32],
            "logprob": -0.5,
            "top_logprobs": [
                {"id": 1, "token": token, "bytes": [32], "logprob": -0.5},
                {"id": 2, "token": " x", "bytes": None, "logprob": None},
            ],
        }
        for token in (" A", LABEL_PREFIX, " Positive", ")")
    ]
    (text,) = read(completion(f" A{LABEL_PREFIX} Positive)", logprobs={"content": entries}))
    assert parse_line(text, LABEL_PREFIX).label_logprobs == {" Positive": -0.5}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage(40, 7, 0, True)),
        ("none", Usage(40, 7, 0, True)),
        ({"prompt_tokens": None, "completion_tokens": None}, Usage(40, 7, 0, True)),
        ({"prompt_tokens": 0, "completion_tokens": 3}, Usage(40, 3, 0, True)),
        ({"prompt_tokens": math.nan, "completion_tokens": "3"}, Usage(40, 7, 0, True)),
        ({"prompt_tokens": -4, "completion_tokens": 2**70}, Usage(40, 7, 0, True)),
        ({"prompt_tokens": 9.0, "completion_tokens": 2.0}, Usage(9, 2)),
        ({"input_tokens": 9, "output_tokens": 2}, Usage(9, 2)),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
            Usage(9, 2, 4),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 99},
            },
            Usage(9, 2, 9),
        ),
    ],
)
def test_a_count_that_is_not_reported_is_estimated(usage: Any, expected: Usage) -> None:
    assert parse_usage({"usage": usage}, lambda: (40, 7)) == expected
    assert parse_usage({}) == Usage()


@pytest.mark.parametrize("odd", [None, "0.5", math.nan, -0.1, 1.5, [], {}])
def test_a_decision_without_probabilities_is_invalid(odd: Any) -> None:
    answer = copy.deepcopy(SHAPES["openai_decision"])
    answer["answers"][0]["probabilities"][0]["probability"] = odd
    with pytest.raises(InvalidResponse):
        score_decision(answer, DECISION_CHOICES)
