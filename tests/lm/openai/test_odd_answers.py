"""The endpoint LM over a server that answers some requests in odd ways, and over old journals."""

import contextlib
import json
import math
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from endpoint_lm import CHOICES, LABEL_PREFIX, PROMPT, build_requests, engine
from endpoint_server import Server, serving

from gpt3mix_cli.errors import Callbacks, StoppedShort, UserError
from gpt3mix_cli.lm import Completion, JournaledLM, total_spent
from gpt3mix_cli.lm.openai import servers
from gpt3mix_cli.lm.openai.engine import OpenAILM
from gpt3mix_cli.settings import OpenAISettings

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "INITIAL_BACKOFF_S", 0.01)


@contextmanager
def odd(
    server: Server, change: Change, seeds: Sequence[int] = (), path: str = "/v1/completions"
) -> Iterator[None]:
    """Change the answers to requests for a line, or to those with a seed."""
    endpoints = server.endpoints
    answer = endpoints()[path]

    def changed(body: dict[str, Any]) -> Any:
        is_line = body.get("max_tokens", 0) > 20
        is_meant = is_line and (not seeds or body["seed"] in seeds)
        return change(answer(body)) if is_meant else answer(body)

    server.endpoints = lambda: {**endpoints(), path: changed}  # type: ignore[method-assign]
    try:
        yield
    finally:
        server.endpoints = endpoints  # type: ignore[method-assign]


def with_choice(**fields: Any) -> Change:
    return lambda answer: {**answer, "choices": [{**answer["choices"][0], **fields}]}


def complete(lm: OpenAILM, path: Path, count: int = 8) -> list[Completion]:
    journal = JournaledLM(lm, path)
    try:
        return list(journal.complete(build_requests(count)))
    finally:
        journal.close()


def warned(server: Server, warnings: list[str]) -> "contextlib.closing[OpenAILM]":
    settings = OpenAISettings(kind="openai", model="tiny", base_url=server.base_url)
    return contextlib.closing(OpenAILM(settings, callbacks=Callbacks(warn=warnings.append)))


# One prompt that is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda answer: {**answer, "choices": []}, "no choices"),
        (with_choice(finish_reason="content_filter", text=" The film wa"), "content_filter"),
        (with_choice(finish_reason="error", text=" The film wa", logprobs=None), "broke off"),
        (lambda answer: {"error": {"message": "flagged", "code": "content_policy"}}, "flagged"),
        (with_choice(text=None), "no text"),
    ],
)
def test_one_refused_prompt_is_one_row(change: Change, detail: str, tmp_path: Path) -> None:
    with serving() as server, engine(server) as lm:
        lm.describe()
        expected = complete(lm, tmp_path / "sound.sqlite")
        with odd(server, change, seeds=(3, 7)):
            results = complete(lm, tmp_path / "odd.sqlite")
    for number in (3, 7):
        result = results.pop(number - len(expected))
        assert (result.finish, result.scores) == ("refused", None)
        assert detail in result.detail
    assert results == [result for result in expected if result.number not in (3, 7)]


def test_a_refused_prompt_is_asked_again_by_the_next_run(tmp_path: Path) -> None:
    """A filter, or a server that is set up otherwise, may accept it: no answer is for good."""
    with serving() as server, engine(server) as lm:
        lm.describe()
        server.fault("bad_request", contains='"seed":3,', p=1.0)
        assert complete(lm, tmp_path / "a.sqlite")[3].detail == "HTTP 400: Invalid prompt."
        server.faults.clear()
        assert complete(lm, tmp_path / "a.sqlite")[3].finish == "label_prefix"


def test_the_run_ends_if_most_prompts_are_refused(tmp_path: Path) -> None:
    """Not for good: what was accepted is kept, and a sound server completes it."""
    with serving() as server, engine(server, concurrency=4) as lm:
        lm.describe()
        server.fault("bad_request", path="completions", p=0.8)
        before = server.requests
        with pytest.raises(StoppedShort, match=r"prompts were refused, the last with: HTTP 400: "):
            complete(lm, tmp_path / "a.sqlite", 200)
        assert server.requests - before < 60
        server.faults.clear()
    with serving() as server, engine(server, endpoint=lm.info.details.partition(",")[0]) as lm:
        results = complete(lm, tmp_path / "a.sqlite", 40)
    assert "refused" not in {result.finish for result in results}


def test_a_server_that_refuses_all_is_the_users_problem(tmp_path: Path) -> None:
    with serving() as server, engine(server) as lm:
        lm.describe()
        server.fault("bad_request", path="completions", p=1.0)
        with pytest.raises(UserError, match="20 of 20 prompts were refused") as caught:
            complete(lm, tmp_path / "a.sqlite", 30)
        assert not isinstance(caught.value, StoppedShort)
    with serving() as server, engine(server) as lm:
        lm.describe()
        server.fault("bad_request", path="completions", p=1.0)
        with pytest.raises(UserError, match="2 of 2 prompts were refused"):
            lm.score([f"{PROMPT} a {word} film{LABEL_PREFIX}" for word in "ab"], CHOICES)


def test_a_model_that_thinks_is_named_with_the_remedy(tmp_path: Path) -> None:
    thinks = {"role": "assistant", "content": "", "reasoning_content": "Okay, the user"}
    with serving(dialect="ollama") as server, engine(server) as lm:
        lm.describe()
        with odd(server, with_choice(message=thinks), path="/v1/chat/completions"):
            (result,) = complete(lm, tmp_path / "a.sqlite", 1)
            assert (result.finish, result.scores) == ("reasoning", None)
            with pytest.raises(UserError, match="the model thinks before it answers") as caught:
                complete(lm, tmp_path / "a.sqlite", 30)
        assert "enable_thinking: false" in caught.value.hint


# Numbers and texts ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "x"])
def test_a_label_without_a_log_probability_has_a_bound(value: Any, tmp_path: Path) -> None:
    def spoil(answer: dict[str, Any]) -> dict[str, Any]:
        for top in answer["choices"][0]["logprobs"]["top_logprobs"]:
            if " Positive" in top:
                top[" Positive"] = value
        return answer

    with serving(dialect="openai", completions=True) as server, engine(server) as lm:
        lm.describe()
        with odd(server, spoil):
            results = complete(lm, tmp_path / "a.sqlite")
    scores = [result.scores for result in results if result.finish == "label_prefix"]
    assert scores
    for item in scores:
        assert item is not None
        assert all(map(math.isfinite, item.logprobs))
        assert item.source == "top_logprobs"  # no longer exact


def test_halves_of_characters_are_replaced(tmp_path: Path) -> None:
    with serving() as server, engine(server) as lm:
        lm.describe()
        with odd(server, with_choice(text=" a \ud83d film \x00", logprobs=None)):
            results = complete(lm, tmp_path / "a.sqlite")
        assert {result.text for result in results} == {" a \ufffd film \ufffd"}
        assert complete(lm, tmp_path / "a.sqlite") == results


def test_an_answer_that_holds_the_key_reaches_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where JSON spells it with escapes; the answer is refused, not edited."""
    key = 'sk-"-0123456789'
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving() as server, engine(server) as lm:
        lm.describe()
        with odd(server, with_choice(text=f" a film of {key}"), seeds=(3, 7)):
            results = complete(lm, tmp_path / "a.sqlite")
    assert [result.finish for result in results].count("refused") == 2
    stored = (tmp_path / "a.sqlite").read_bytes()
    assert key.encode() not in stored
    assert json.dumps(key)[1:-1].encode() not in stored


# Tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "completion_tokens": None}])
def test_tokens_that_are_not_reported_are_estimated_and_limited(usage: Any, tmp_path: Path) -> None:
    path, warnings = tmp_path / "a.sqlite", list[str]()
    with serving() as server:
        with warned(server, warnings) as lm, odd(server, lambda whole: {**whole, "usage": usage}):
            journal = JournaledLM(lm, path)
            assert "estimated" not in journal.describe()
            results = list(journal.complete(build_requests(8)))
            assert journal.describe().endswith(
                "; tokens are estimated, since the server does not report them"
            )
            journal.close()
        assert all(result.prompt_tokens == round(len(PROMPT) / 4) for result in results)
        assert all(result.completion_tokens > 0 for result in results)
        (warning,) = warnings
        assert "does not report how many tokens" in warning
        spent = total_spent(path).tokens
        assert spent > sum(result.prompt_tokens for result in results)
        budget = {"tokens": spent}
        with (
            odd(server, lambda answer: {**answer, "usage": usage}),
            engine(server, budget=budget, journals=[path]) as lm,
            pytest.raises(StoppedShort, match=r"budget\.tokens"),
        ):
            complete(lm, path, 30)


def test_a_server_that_cuts_prompts_is_reported_once(tmp_path: Path) -> None:
    warnings: list[str] = []
    with serving() as server:
        cut = {"prompt_tokens": 64, "completion_tokens": 9}
        with warned(server, warnings) as lm:
            assert list(lm.complete(build_requests(4, prompt=PROMPT + " so good" * 200)))
            assert not warnings
            with odd(server, lambda answer: {**answer, "usage": cut}):
                assert list(lm.complete(build_requests(4, prompt=PROMPT + " so bad" * 200)))
    (warning,) = warnings
    assert "read 64 tokens of a prompt that has about" in warning


# Journals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", ["{}", "[]", '{"choices": []}', '{"error": "x"}', '{"choices": [{"text": null}]}', ""]
)
def test_stored_answers_that_cannot_be_read_are_asked_for_again(
    answer: str, tmp_path: Path
) -> None:
    path, warnings = tmp_path / "a.sqlite", list[str]()
    with serving() as server, engine(server) as lm:
        expected = complete(lm, path)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute(
                "UPDATE answers SET answer = ? WHERE number IS NOT NULL AND key IN "
                "(SELECT key FROM spent WHERE completion_tokens > 0)",
                [answer],
            )
            count = database.total_changes
        before = server.requests
        for _ in range(2):
            journal = JournaledLM(lm, path, warn=warnings.append)
            assert list(journal.complete(build_requests(8))) == expected
            journal.close()
        assert server.requests - before == count
        assert len(warnings) == 1


def test_surrogates_and_nan_in_an_older_journal_do_no_harm(tmp_path: Path) -> None:
    """As stored by a version that did not look at them."""
    path = tmp_path / "a.sqlite"
    with serving() as server, engine(server) as lm:
        complete(lm, path)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            rows = database.execute("SELECT key, answer FROM answers WHERE number >= 0").fetchall()
            for key, answer in rows:
                text = answer if isinstance(answer, str) else zlib.decompress(answer).decode()
                if "choices" in (value := json.loads(text)):
                    value["choices"][0]["text"] = " a \ud83d film"
                    value["choices"][0]["logprobs"] = {"content": [{"logprob": math.nan}]}
                    database.execute(
                        "UPDATE answers SET answer = ? WHERE key = ?", [json.dumps(value), key]
                    )
        results = complete(lm, path)
    assert any(result.text == " a \ufffd film" for result in results)
