"""Unusual servers: log-probabilities after temperature, answers on any path, a pause of 0 s."""

import math
import time
from pathlib import Path
from typing import Any

import pytest
from endpoint_lm import CHOICES, LABEL_PREFIX, PROMPT, build_requests, engine, truth
from endpoint_server import serving

from gpt3mix_cli.lm import Journal
from gpt3mix_cli.lm.openai import servers
from gpt3mix_cli.lm.openai.label_scores import score_top_logprobs
from gpt3mix_cli.lm.openai.requests import Capabilities, label_body

SEPARATE_REQUEST = "its log-probabilities depend on temperature"


@pytest.mark.parametrize(
    "options",
    [{}, {"ignores": ["logprob_token_ids"]}, {"dialect": "llamacpp", "echo_shifted": True}],
)
@pytest.mark.parametrize(
    ("sampling", "requests"),
    [({}, 1), ({"temperature": 0.5}, 2), ({"temperature": 2.0, "frequency_penalty": 0.01}, 2)],
)
def test_scores_reported_after_temperature_are_the_models(
    options: dict[str, Any], sampling: dict[str, float], requests: int
) -> None:
    with serving(tempered=True, **options) as server, engine(server) as lm:
        assert SEPARATE_REQUEST in lm.describe()
        results = [
            result
            for result in lm.complete(build_requests(12, **sampling))
            if result.finish == "label_prefix"
        ]
    exact = [result for result in results if result.scores and result.scores.source == "exact"]
    assert len(exact) > 3
    for result in exact:
        assert result.scores
        expected = truth(server.model, f"{PROMPT}{result.text}{LABEL_PREFIX}")
        assert (
            max(
                abs(value - true)
                for value, true in zip(result.scores.logprobs, expected, strict=True)
            )
            < 1e-9
        )
        assert result.requests >= requests
        assert (result.logprob is None) == (requests == 2)


@pytest.mark.parametrize(
    "options", [{}, {"dialect": "llamacpp"}, {"dialect": "openai"}, {"dialect": "ollama"}]
)
def test_a_server_with_raw_logprobs_needs_no_more_requests(
    options: dict[str, Any],
) -> None:
    with serving(**options) as server, engine(server) as lm:
        assert SEPARATE_REQUEST not in lm.describe()
        results = [
            result
            for result in lm.complete(build_requests(12, temperature=0.7))
            if result.finish == "label_prefix"
        ]
    assert min(result.requests for result in results) == 1
    assert all(
        result.logprob is not None for result in results if options.get("dialect") != "openai"
    )


def test_the_cost_model_has_the_further_request(tmp_path: Path) -> None:
    with serving(tempered=True) as server, engine(server) as lm:
        journal = Journal(tmp_path / "a.journal.sqlite")
        lm.with_journal(journal).describe()
        further = [
            lm.cost_model(build_requests(1, temperature=temperature)[0], journal).label_requests
            for temperature in (1.0, 0.7)
        ]
        journal.close()
    assert further == [0, 1]


def test_a_label_is_asked_for_without_the_servers_own_top_p() -> None:
    assert label_body("x", CHOICES, Capabilities(), "m")["top_p"] == 1.0


def test_a_label_that_the_server_does_not_report_is_not_exact() -> None:
    """-9999 means a token outside the likeliest: that does not make the other label certain."""
    scores = score_top_logprobs({" Positive": -0.1, " Negative": -9999.0, " Good": -3.0}, CHOICES)
    assert scores is not None
    assert (scores.source, scores.bounded) == ("top_logprobs", (1,))
    assert math.exp(scores.logprobs[1]) > 0.01


@pytest.mark.parametrize(
    "answer", [[1, 2, 3], {"error": "Unexpected endpoint or method. (POST /tokenize)"}, 5]
)
def test_a_server_that_answers_any_path_knows_no_tokens(answer: Any) -> None:
    with serving() as server, engine(server) as lm:
        server.answers.tokenize = lambda body: answer  # type: ignore[method-assign]
        assert "exact (of echoed prompts)" in lm.describe()
        assert len([result for result in lm.complete(build_requests(3)) if result.scores]) > 1
    assert server.paths["/tokenize"] <= 3


def test_a_pause_of_zero_backs_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends `Retry-After: 0` and goes on refusing is not flooded."""
    monkeypatch.setattr(servers, "INITIAL_BACKOFF_S", 0.01)
    with serving() as server, engine(server, concurrency=1) as lm:
        lm.describe()
        server.fault("rate_limit", next=6, retry_after=0, path="completions")
        started = time.monotonic()
        assert len(list(lm.complete(build_requests(1)))) == 1
        assert time.monotonic() - started >= 0.01 * (1 + 2 + 4 + 8 + 16 + 32) / 2
        assert server.statuses[429] == 6
