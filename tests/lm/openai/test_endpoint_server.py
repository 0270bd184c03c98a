"""The test server itself: the OpenAI SDK understands it, its answers agree, it fails on command."""

import asyncio
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from endpoint_answers import HIDDEN, Answers
from endpoint_model import TinyLM
from endpoint_options import Options
from endpoint_server import running, serving
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Batch, Completion
from openai.types.chat import ChatCompletion

HEADER = (
    "Each item in the following list contains a movie review and the respective "
    "sentiment. The sentiment is one of 'positive' or 'negative'.\n\n"
    "Movie review: A gorgeous, witty film. (Sentiment: Positive)\nMovie review: so bad "
    "(Sentiment: Negative)\n"
)
PROMPT = f"{HEADER}Movie review:"
LABEL_PREFIX = f"{PROMPT} a great film (Sentiment:"


def client(server: Any, **how: Any) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=server.base_url,
        api_key="sk-secret-key-0123",
        **{"max_retries": 0, "timeout": 30, **how},
    )


def complete(server: Any, prompt: Any = PROMPT, **how: Any) -> Completion:
    with client(server) as sdk:
        return sdk.completions.create(model="tiny", prompt=prompt, **how)


def chat(server: Any, content: str = PROMPT, **how: Any) -> ChatCompletion:
    with client(server) as sdk:
        return sdk.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": content}], **how
        )


# The model ------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_is_its_tokens_and_its_tokens_are_their_ids(text: str) -> None:
    model = TinyLM(split=["Positive"])
    tokens = model.split(text)
    assert "".join(tokens) == text
    assert [model.token_of(model.id_of(token)) for token in tokens] == tokens


@given(st.text(st.sampled_from("ab (Sentiment:)\nPositive"), max_size=40))
def test_what_comes_next_is_a_distribution(end: str) -> None:
    step = TinyLM().distribution(PROMPT + end)
    assert sum(map(math.exp, step.logprobs.values())) + 0x110000 * math.exp(
        step.rest
    ) == pytest.approx(1)


def test_written_lines_have_the_prompts_form_and_both_labels() -> None:
    with serving() as server:
        texts = [
            choice.text
            for choice in complete(server, n=40, max_tokens=60, stop=["\n"], seed=1).choices
        ]
    labels = {
        match[1]
        for text in texts
        if (match := re.fullmatch(r"(?: [a-z,.]+){3,} \(Sentiment: (Positive|Negative)\)", text))
    }
    assert labels == {"Positive", "Negative"}
    assert len(set(texts)) > 30


# The ways to ask agree ------------------------------------------------------------------------


def test_top_logprobs_echo_ids_and_chat_agree() -> None:
    with serving(split=["Positive"]) as server:
        model = server.model
        truth = model.logprobs(LABEL_PREFIX)
        top = (
            complete(server, LABEL_PREFIX, max_tokens=1, logprobs=20, temperature=0)
            .choices[0]
            .logprobs.top_logprobs[0]
        )
        ids = [model.id_of(token) for token in (" Posi", " Negative")]
        extra = {"logprob_token_ids": ids, "return_tokens_as_token_ids": True}
        chosen = (
            complete(server, LABEL_PREFIX, max_tokens=1, logprobs=0, extra_body=extra)
            .choices[0]
            .logprobs.top_logprobs[0]
        )
        echo = (
            complete(server, f"{LABEL_PREFIX} Positive", max_tokens=0, logprobs=0, echo=True)
            .choices[0]
            .logprobs
        )
        by_id = complete(
            server,
            [model.id_of(token) for token in model.split(LABEL_PREFIX)],
            max_tokens=1,
            logprobs=20,
            temperature=0,
        )
    assert truth[" Posi"] == pytest.approx(max(top.values()), abs=2)
    assert all(value == pytest.approx(truth[token]) for token, value in top.items())
    assert [chosen[f"token_id:{number}"] for number in ids] == pytest.approx(
        [truth[" Posi"], truth[" Negative"]]
    )
    assert echo.tokens[-2:] == [" Posi", "tive"]
    assert sum(echo.token_logprobs[-2:]) == pytest.approx(model.score(LABEL_PREFIX, " Positive"))
    assert echo.token_logprobs[0] is None
    assert [
        LABEL_PREFIX[start:].startswith(token)
        for start, token in zip(echo.text_offset[:-2], echo.tokens[:-2], strict=True)
    ]
    assert by_id.choices[0].logprobs.top_logprobs[0] == top


def test_drawn_tokens_follow_the_distribution() -> None:
    with serving() as server:
        truth = server.model.logprobs(LABEL_PREFIX)
        drawn = [
            choice.text
            for choice in complete(server, LABEL_PREFIX, n=2000, max_tokens=1, seed=3).choices
        ]
        cold = {
            choice.text
            for choice in complete(
                server, LABEL_PREFIX, n=50, max_tokens=1, seed=3, temperature=0
            ).choices
        }
        again = [
            choice.text
            for choice in complete(server, LABEL_PREFIX, n=2000, max_tokens=1, seed=3).choices
        ]
    probability = math.exp(truth[" Negative"])
    # Five standard deviations: a false alarm once in two million seeds, and the seed is fixed.
    assert drawn.count(" Negative") / 2000 == pytest.approx(
        probability, abs=5 * math.sqrt(probability * (1 - probability) / 2000)
    )
    assert cold == {max(truth, key=truth.__getitem__)}
    assert again == drawn


def test_chat_scores_are_the_models_after_its_template() -> None:
    with serving(dialect="openai") as server:
        answer = chat(
            server, max_completion_tokens=60, logprobs=True, top_logprobs=20, seed=5
        ).choices[0]
        content = answer.logprobs.content
        place = next(
            i for i, entry in enumerate(content) if entry.token in {" Positive", " Negative"}
        )
        before = f"<|user|>\n{PROMPT}\n<|assistant|>\n" + "".join(
            entry.token for entry in content[:place]
        )
        truth = server.model.logprobs(before)
    assert answer.message.content.endswith(")")
    assert {
        entry.token: pytest.approx(entry.logprob) for entry in content[place].top_logprobs
    }.items() <= truth.items()
    assert len(content[place].top_logprobs) == 20


# Dialects -------------------------------------------------------------------------------------

REFUSALS = [
    (
        "openai",
        "completions",
        {"prompt": PROMPT},
        404,
        "not supported in the v1/completions endpoint",
    ),
    ("openai", "chat", {"max_tokens": 5}, 400, "max_completion_tokens"),
    ("openai", "chat", {"logprobs": True, "top_logprobs": 21}, 400, "<= 20, but got 21"),
    ("openai", "chat", {"extra_body": {"logprob_token_ids": [5]}}, 400, "Unknown parameter"),
    ("openai", "chat", {"model": "gpt-none"}, 404, "does not exist"),
    (
        "vllm",
        "completions",
        {"prompt": PROMPT, "logprobs": 21},
        400,
        "greater than max allowed: 20",
    ),
    (
        "vllm",
        "completions",
        {"prompt": PROMPT, "extra_body": {"logprob_token_ids": [5]}},
        400,
        "`logprobs` must be set",
    ),
    (
        "vllm",
        "completions",
        {"prompt": PROMPT, "logprobs": 1, "extra_body": {"logprob_token_ids": [5] * 129}},
        400,
        "128",
    ),
    ("vllm", "completions", {"prompt": PROMPT, "stop": list("abcde")}, 400, "at most 4"),
    ("vllm", "completions", {"prompt": "a" * 5000}, 400, "maximum context length is 4096"),
    ("llamacpp", "completions", {"prompt": [PROMPT, PROMPT]}, 500, "Error code: 500"),
    ("ollama", "completions", {"prompt": [PROMPT]}, 400, "cannot unmarshal"),
]


@pytest.mark.parametrize(("dialect", "way", "how", "status", "words"), REFUSALS)
def test_each_kind_of_server_refuses_in_its_own_words(
    dialect: str, way: str, how: dict[str, Any], status: int, words: str
) -> None:
    with serving(dialect=dialect) as server, client(server) as sdk:
        ask = sdk.chat.completions.create if way == "chat" else sdk.completions.create
        needed: dict[str, Any] = (
            {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
            if way == "chat"
            else {"model": "tiny"}
        )
        with pytest.raises(openai.APIStatusError, match=re.escape(words)) as raised:
            ask(**{**needed, **how})
    assert raised.value.status_code == status


def test_a_reasoning_model_names_the_parameter_that_it_refuses() -> None:
    with serving(dialect="openai", refuses=["temperature", "top_p", "logprobs"]) as server:
        for how, code in (
            ({"temperature": 0.7}, "unsupported_value"),
            ({"logprobs": True}, "unsupported_parameter"),
        ):
            with pytest.raises(openai.BadRequestError) as raised:
                chat(server, **how)
            assert (raised.value.param, raised.value.code) == (next(iter(how)), code)
        assert chat(server, temperature=1).choices[0].message.content


def test_older_and_smaller_servers_pass_over_what_they_do_not_know() -> None:
    with serving(ignores=["logprob_token_ids"]) as server:
        extra = {"logprob_token_ids": [server.model.id_of(" Negative")]}
        completion = complete(
            server, LABEL_PREFIX, max_tokens=1, logprobs=1, temperature=0, extra_body=extra
        )
        assert " Negative" not in completion.choices[0].logprobs.top_logprobs[0]
        listed = complete(server, [PROMPT, LABEL_PREFIX], n=2, max_tokens=3)
        assert [choice.index for choice in listed.choices] == [0, 1, 2, 3]
    with serving(dialect="ollama") as server:
        assert complete(server, logprobs=5, max_tokens=5).choices[0].logprobs is None
        assert (
            chat(server, logprobs=True, top_logprobs=3, max_tokens=5)
            .choices[0]
            .logprobs.content[0]
            .top_logprobs
        )
    with serving(dialect="llamacpp") as server:
        completion = complete(server, n=4, max_tokens=5, logprobs=40)
        assert len(completion.choices) == 1
        assert len(completion.choices[0].logprobs.top_logprobs[0]) >= 40
        assert completion.choices[0].logprobs.text_offset[0] == len(PROMPT)


def test_a_shifted_echo_is_off_by_one_token() -> None:
    with (
        serving(dialect="llamacpp") as honest,
        serving(dialect="llamacpp", echo_shifted=True) as liar,
    ):
        results = [
            complete(server, LABEL_PREFIX, max_tokens=1, logprobs=1, echo=True, temperature=0)
            .choices[0]
            .logprobs
            for server in (honest, liar)
        ]
    assert results[0].tokens == results[1].tokens
    assert results[0].token_logprobs[2:] == results[1].token_logprobs[1:-1]


def test_the_label_that_is_unlikely_is_outside_the_top_twenty() -> None:
    with serving(dialect="openai", unlikely=["Negative"]) as server:
        top = chat(
            server,
            f"{HEADER}Answer with one word.",
            logprobs=True,
            top_logprobs=20,
            max_completion_tokens=1,
            temperature=0,
        )
    entry = top.choices[0].logprobs.content[0]
    assert entry.token == "Positive"
    assert "Negative" not in {other.token for other in entry.top_logprobs}


def test_a_drawn_token_outside_the_top_twenty_is_hidden() -> None:
    answers = Answers(Options(dialect="openai"))
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": PROMPT}],
        "logprobs": True,
        "n": 50,
        "seed": 1,
        "temperature": 3,
        "max_completion_tokens": 20,
    }
    content = [
        entry for choice in answers.chat(body)["choices"] for entry in choice["logprobs"]["content"]
    ]
    assert min(entry["logprob"] for entry in content) == HIDDEN


def test_tokenize_counts_as_usage_does() -> None:
    with serving(begin=True, context=512) as server, client(server) as sdk:
        body = {"model": "tiny", "prompt": PROMPT, "add_special_tokens": False}
        results = sdk.with_options(base_url=server.url).post(
            "/tokenize", body=body, cast_to=dict[str, Any]
        )
        usage = complete(server, max_tokens=1, extra_body={"add_special_tokens": False}).usage
        with_begin = complete(server, max_tokens=1).usage
        listed = sdk.models.list().data[0]
    assert (
        results["count"]
        == len(results["tokens"])
        == usage.prompt_tokens
        == with_begin.prompt_tokens - 1
    )
    assert results["max_model_len"] == listed.model_extra["max_model_len"] == 512


def test_decisions_sum_to_one_and_some_are_refused() -> None:
    question = {
        "type": "choice",
        "name": "q",
        "instructions": "Which?",
        "choices": [{"value": "positive"}, {"value": "negative"}],
    }
    with serving(dialect="openai", refusals=0.5) as server, client(server) as sdk:
        answers = sdk.decisions.create(
            model="tiny", input=LABEL_PREFIX, questions=[question] * 40
        ).answers
        probabilities = server.model.label_probabilities(LABEL_PREFIX, [" Positive", " Negative"])
    chosen = [answer for answer in answers if answer.type == "choice"]
    assert 8 < len(chosen) < 32
    assert [entry.probability for entry in chosen[0].probabilities] == pytest.approx(probabilities)


# Batches --------------------------------------------------------------------------------------


def batch_of(
    sdk: openai.OpenAI, tmp_path: Path, lines: int, endpoint: str = "/v1/chat/completions"
) -> Batch:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_completion_tokens": 5,
    }
    lines = [
        {"custom_id": f"r{i}", "method": "POST", "url": endpoint, "body": {**body, "seed": i}}
        for i in range(lines)
    ]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with path.open("rb") as file:
        uploaded = sdk.files.create(file=file, purpose="batch")
    return sdk.batches.create(input_file_id=uploaded.id, endpoint=endpoint, completion_window="24h")


def lines_of(sdk: openai.OpenAI, file: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sdk.files.content(file).text.splitlines()] if file else []


def test_a_batch_ends_when_it_was_retrieved_often_enough(tmp_path: Path) -> None:
    with serving(dialect="openai", polls=2) as server, client(server) as sdk:
        server.batches.command(fail=["r3"])
        batch = batch_of(sdk, tmp_path, 10)
        statuses = [batch.status, *(sdk.batches.retrieve(batch.id).status for _ in range(2))]
        batch = sdk.batches.retrieve(batch.id)
        done, failed = lines_of(sdk, batch.output_file_id), lines_of(sdk, batch.error_file_id)
    assert statuses == ["validating", "in_progress", "completed"]
    assert [line["custom_id"] for line in failed] == ["r3"]
    order = [line["custom_id"] for line in done]
    assert sorted(order) == [f"r{i}" for i in range(10) if i != 3]
    assert order != sorted(order)
    assert ChatCompletion.model_validate(done[0]["response"]["body"]).choices[0].message.content


def test_an_expired_batch_keeps_its_answers(tmp_path: Path) -> None:
    with serving(dialect="openai", polls=-1) as server, client(server) as sdk:
        batch = batch_of(sdk, tmp_path, 6)
        assert [sdk.batches.retrieve(batch.id).status for _ in range(5)] == ["in_progress"] * 5
        server.command(batches={"expire": True, "complete": True})
        batch = sdk.batches.retrieve(batch.id)
        lines = lines_of(sdk, batch.output_file_id) + lines_of(sdk, batch.error_file_id)
    assert batch.status == "expired"
    assert [bool(line["error"]) for line in lines] == [False] * 3 + [True] * 3


# Faults ---------------------------------------------------------------------------------------

BROKEN = [
    ("rate_limit", openai.RateLimitError),
    ("no_quota", openai.RateLimitError),
    ("server_error", openai.InternalServerError),
    ("bad_gateway", openai.InternalServerError),
    ("overloaded", openai.InternalServerError),
    ("bad_request", openai.BadRequestError),
    ("forbidden", openai.PermissionDeniedError),
    ("no_model", openai.NotFoundError),
    ("reset", openai.APIConnectionError),
    ("reset_body", openai.APIConnectionError),
    ("half", openai.APIConnectionError),
]


@pytest.mark.parametrize(("kind", "error"), BROKEN)
def test_each_fault_is_what_the_sdk_calls_it(kind: str, error: type[Exception]) -> None:
    with serving() as server:
        server.fault(kind, next=1)
        with pytest.raises(error):
            complete(server, max_tokens=2)
        assert complete(server, max_tokens=2).choices
        assert server.requests == 2


def test_spoilt_bodies_arrive_as_successes() -> None:
    with serving() as server:
        server.fault("no_choices", at=[1])
        server.fault("garbage", at=[2])
        assert not complete(server, max_tokens=2).choices
        with pytest.raises(json.JSONDecodeError):
            complete(server, max_tokens=2)
        assert server.twice() == []


def test_a_bad_key_is_echoed_and_seen() -> None:
    with serving(dialect="openai", key="sk-right") as server:
        with pytest.raises(openai.AuthenticationError, match="sk-secret-key-0123"):
            chat(server)
        assert server.counters()["keys"] == ["Bearer sk-secret-key-0123"]


def test_a_hanging_answer_hangs_until_the_client_leaves() -> None:
    with serving() as server:
        server.fault("hang", next=1)
        with client(server, timeout=0.2) as sdk, pytest.raises(openai.APITimeoutError):
            sdk.completions.create(model="tiny", prompt=PROMPT)
        for _ in range(100):
            if server.in_flight == 0:
                break
            time.sleep(0.02)
        assert server.in_flight == 0


def test_a_long_retry_after_is_not_waited_for_by_the_sdk() -> None:
    with serving() as server:
        server.fault("rate_limit", next=1, retry_after=200)
        with client(server, max_retries=3) as sdk, pytest.raises(openai.RateLimitError) as raised:
            sdk.completions.create(model="tiny", prompt=PROMPT)
        assert raised.value.response.headers["retry-after"] == "200"
        assert server.requests == 1


def test_chance_falls_on_the_same_requests_in_any_order() -> None:
    failed = []
    for order in (range(40), reversed(range(40))):
        with serving() as server, client(server) as sdk:
            server.fault("server_error", p=0.3, seed=1)
            outcomes = {}
            for seed in order:
                try:
                    sdk.completions.create(model="tiny", prompt=PROMPT, max_tokens=1, seed=seed)
                    outcomes[seed] = True
                except openai.InternalServerError:
                    outcomes[seed] = False
            failed.append({seed for seed, fine in outcomes.items() if not fine})
    assert failed[0] == failed[1]
    assert 2 < len(failed[0]) < 25


async def _at_once(server: Any, several: int) -> list[Any]:
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="k", max_retries=0) as sdk:
        calls = [
            sdk.completions.create(model="tiny", prompt=PROMPT, max_tokens=2, seed=i)
            for i in range(several)
        ]
        return await asyncio.gather(*calls, return_exceptions=True)


def test_requests_beyond_the_limit_are_refused_or_wait() -> None:
    with serving(at_once=4, delay=0.8) as server:
        answers = asyncio.run(_at_once(server, 12))
        refused = [answer for answer in answers if isinstance(answer, openai.RateLimitError)]
        assert len(refused) == 8
        assert server.most_at_once > 4
    with serving(at_once=4, delay=0.1, queue=True) as server:
        start = time.monotonic()
        assert all(isinstance(answer, Completion) for answer in asyncio.run(_at_once(server, 12)))
        assert time.monotonic() - start >= 0.3
    with serving(per_minute=5) as server:
        answers = asyncio.run(_at_once(server, 8))
        assert sum(isinstance(answer, openai.RateLimitError) for answer in answers) == 3


def test_what_was_asked_and_paid_twice_is_seen() -> None:
    with serving() as server:
        for seed in (1, 2, 1):
            complete(server, max_tokens=1, seed=seed)
        server.fault("server_error", at=[4])
        with pytest.raises(openai.InternalServerError):
            complete(server, max_tokens=1, seed=9)
        complete(server, max_tokens=1, seed=9)
        assert [body["seed"] for body in server.twice()] == [1]
        assert [body["seed"] for body in server.bodies("completions")] == [1, 2, 1, 9, 9]
        assert server.counters()["asked_twice"] == 2


def test_it_runs_as_a_process_and_is_driven_from_outside() -> None:
    with running(dialect="openai", ignores=["x"], delay=0.0) as server:
        assert chat(server, max_completion_tokens=3).choices
        server.fault("overloaded", next=1)
        with pytest.raises(openai.InternalServerError):
            chat(server)
        assert server.counters()["statuses"] == {"200": 1, "503": 1}
        assert server.command(reset=True, options={"delay": 0.1})["requests"] == 0
