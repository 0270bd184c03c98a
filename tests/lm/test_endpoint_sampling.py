"""Servers with habits of their own: log-probabilities after temperature, answers on any path, pauses of nothing."""

import math
import time
from pathlib import Path
from typing import Any

import pytest
from endpoint_lm import CHOICES, LABEL_PREFIX, PROMPT, asked, engine, truth
from endpoint_server import serving

from gpt3mix_cli.lm import Journal
from gpt3mix_cli.lm.openai import dispatcher
from gpt3mix_cli.lm.openai.protocol import Capabilities, label_scores, labelling

APART = "its log-probabilities follow temperature"


@pytest.mark.parametrize(
    "options",
    [{}, {"ignores": ["logprob_token_ids"]}, {"dialect": "llamacpp", "echo_shifted": True}],
)
@pytest.mark.parametrize(
    ("sampling", "requests"),
    [({}, 1), ({"temperature": 0.5}, 2), ({"temperature": 2.0, "frequency_penalty": 0.01}, 2)],
)
def test_scores_told_after_temperature_are_the_models(
    options: dict[str, Any], sampling: dict[str, float], requests: int
) -> None:
    with serving(tempered=True, **options) as server, engine(server) as lm:
        assert APART in lm.describe()
        found = [one for one in lm.complete(asked(12, **sampling)) if one.finish == "label_prefix"]
    exact = [one for one in found if one.scores and one.scores.source == "exact"]
    assert len(exact) > 3
    for one in exact:
        assert one.scores
        expected = truth(server.model, f"{PROMPT}{one.text}{LABEL_PREFIX}")
        assert (
            max(abs(told - true) for told, true in zip(one.scores.logprobs, expected, strict=True))
            < 1e-9
        )
        assert one.requests >= requests
        assert (one.logprob is None) == (requests == 2)


@pytest.mark.parametrize(
    "options", [{}, {"dialect": "llamacpp"}, {"dialect": "openai"}, {"dialect": "ollama"}]
)
def test_a_server_that_tells_raw_ones_costs_no_more_at_any_temperature(
    options: dict[str, Any],
) -> None:
    with serving(**options) as server, engine(server) as lm:
        assert APART not in lm.describe()
        found = [
            one for one in lm.complete(asked(12, temperature=0.7)) if one.finish == "label_prefix"
        ]
    assert min(one.requests for one in found) == 1
    assert all(one.logprob is not None for one in found if options.get("dialect") != "openai")


def test_the_plan_knows_of_the_further_request(tmp_path: Path) -> None:
    with serving(tempered=True) as server, engine(server) as lm:
        journal = Journal(tmp_path / "a.journal.sqlite")
        lm.with_journal(journal).describe()
        further = [
            lm.cost_model(asked(1, temperature=temperature)[0], journal).label_requests
            for temperature in (1.0, 0.7)
        ]
        journal.close()
    assert further == [0, 1]


def test_a_label_is_asked_for_without_the_servers_own_top_p() -> None:
    assert labelling("x", CHOICES, Capabilities(), "m")["top_p"] == 1.0


def test_a_label_that_the_server_will_not_tell_is_not_exact() -> None:
    """-9999 stands for a token outside the likeliest: the other label is not certain for that."""
    scores = label_scores({" Positive": -0.1, " Negative": -9999.0, " Good": -3.0}, CHOICES)
    assert scores is not None
    assert (scores.source, scores.bounded) == ("top_logprobs", (1,))
    assert math.exp(scores.logprobs[1]) > 0.01


@pytest.mark.parametrize(
    "told", [[1, 2, 3], {"error": "Unexpected endpoint or method. (POST /tokenize)"}, 5]
)
def test_a_server_that_answers_any_path_knows_no_tokens(told: Any) -> None:
    with serving() as server, engine(server) as lm:
        server.answers.tokenize = lambda body: told  # type: ignore[method-assign]
        assert "exact (of echoed prompts)" in lm.describe()
        assert len([one for one in lm.complete(asked(3)) if one.scores]) > 1
    assert server.paths["/tokenize"] <= 3


def test_a_pause_of_none_is_a_growing_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says `Retry-After: 0` and goes on refusing is not asked as fast as it can refuse."""
    monkeypatch.setattr(dispatcher, "WAIT", 0.01)
    with serving() as server, engine(server, concurrency=1) as lm:
        lm.describe()
        server.fault("rate_limit", next=6, retry_after=0, path="completions")
        started = time.monotonic()
        assert len(list(lm.complete(asked(1)))) == 1
        assert time.monotonic() - started >= 0.01 * (1 + 2 + 4 + 8 + 16 + 32) / 2
        assert server.statuses[429] == 6
