"""The endpoint LM over servers of every kind, also those that report wrong values."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import pytest
from endpoint_lm import (
    CHOICES,
    LABEL_PREFIX,
    PROMPT,
    build_requests,
    chat_context,
    engine,
    label_context,
    truth,
)
from endpoint_server import serving

from gpt3mix_cli.errors import Callbacks, StoppedShort, UserError
from gpt3mix_cli.lm import Completion, JournaledLM, Request, Scores, score_labels
from gpt3mix_cli.lm.openai import servers
from gpt3mix_cli.lm.openai.engine import OpenAILM
from gpt3mix_cli.settings import OpenAISettings

SAMPLING = ["temperature", "top_p", "frequency_penalty", "seed", "logprobs", "top_logprobs"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "INITIAL_BACKOFF_S", 0.01)


def answers(lm: OpenAILM, requests: Sequence[Request]) -> list[Completion]:
    return list(lm.complete(requests))


def distance(scores: Scores | None, expected: Sequence[float]) -> float:
    assert scores is not None
    return max(
        abs(logprob - other) for logprob, other in zip(scores.logprobs, expected, strict=True)
    )


# The probe ------------------------------------------------------------------------------------

# Server options; what `check` shows; the label source of most rows; requests per row.
SERVERS: dict[str, tuple[dict[str, Any], str, str, set[int]]] = {
    "vLLM": ({}, "completions, label scores exact (by token ids)", "exact", {1, 2}),
    "vLLM, labels of two tokens": (
        {"split": ["Positive"]},
        "completions, label scores exact (by token ids)",
        "exact",
        {3},
    ),
    "vLLM that begins with a token": (
        {"begin": True, "split": ["Positive"]},
        "completions, label scores exact (by token ids)",
        "exact",
        {3},
    ),
    "vLLM, an older one": (
        {"ignores": ["logprob_token_ids"]},
        "completions, label scores exact (of echoed prompts)",
        "exact",
        {1, 3},
    ),
    "vLLM, an older one, labels of two tokens": (
        {"ignores": ["logprob_token_ids"], "split": ["Positive"]},
        "completions, label scores exact (of echoed prompts)",
        "exact",
        {3},
    ),
    "vLLM without named ids": (
        {"ignores": ["return_tokens_as_token_ids"]},
        "completions, label scores exact (of echoed prompts)",
        "exact",
        {1, 3},
    ),
    "vLLM with 5 log-probabilities": (
        {"max_logprobs": 5},
        "completions, label scores exact (by token ids)",
        "exact",
        {1, 2},
    ),
    "llama.cpp": (
        {"dialect": "llamacpp"},
        "completions, label scores exact (of echoed prompts)",
        "exact",
        {1, 3},
    ),
    "llama.cpp, shifted": (
        {"dialect": "llamacpp", "echo_shifted": True},
        "completions, label scores top_logprobs (20 a token)",
        "exact",
        {1, 2},
    ),
    "fewer than asked": (
        {"dialect": "llamacpp", "echo_shifted": True, "fewer": 15},
        "completions, label scores top_logprobs (20 a token)",
        "exact",
        {1, 2},
    ),
    "Ollama": (
        {"dialect": "ollama"},
        "chat, label scores top_logprobs (20 a token)",
        "top_logprobs",
        {1, 2},
    ),
    "OpenAI": (
        {"dialect": "openai"},
        "chat, label scores top_logprobs (20 a token)",
        "top_logprobs",
        {1, 2},
    ),
    "OpenAI of old": (
        {"dialect": "openai", "completions": True},
        "completions, label scores top_logprobs (5 a token)",
        "exact",
        {1, 2},
    ),
    "OpenAI that reasons": (
        {"dialect": "openai", "refuses": SAMPLING},
        "chat, label scores vote of 10; omitted fields, since the server refuses them: "
        "temperature, top_p, frequency_penalty, seed, top_logprobs, logprobs",
        "vote",
        {2},
    ),
}


@pytest.mark.parametrize("name", SERVERS)
def test_each_server_is_asked_by_its_best_method(name: str) -> None:
    options, shown, source, requests = SERVERS[name]
    with serving(**options) as server, engine(server) as lm:
        assert lm.describe() == f"{server.base_url}, {shown}"
        probes = server.requests
        assert probes <= 20  # each costs a token and a round trip
        results = [
            result for result in answers(lm, build_requests(12)) if result.finish != "length"
        ]
        assert server.requests - probes >= len(results)
        assert {result.requests for result in results} <= requests
        assert len(results) > 8
        assert [result.scores.source for result in results if result.scores].count(source) >= len(
            results
        ) - 1
        chat = shown.startswith("chat")
        for result in results:
            assert result.scores is not None
            assert all(value < 1e-9 for value in result.scores.logprobs)
            assert (
                result.scores.source == "vote"
                or sum(map(math.exp, result.scores.logprobs)) < 1 + 1e-6
                or result.scores.bounded
            )
            if result.scores.source == "exact":
                assert not chat
                assert (
                    distance(
                        result.scores, truth(server.model, f"{PROMPT}{result.text}{LABEL_PREFIX}")
                    )
                    < 1e-9
                )
            assert result.usd is None


def test_a_row_that_keeps_to_the_form_costs_one_request() -> None:
    with serving() as server, engine(server) as lm:
        lm.describe()
        before = server.paths["/v1/completions"]
        results = answers(lm, build_requests(20))
        assert server.paths["/v1/completions"] - before == sum(
            result.requests for result in results
        )
        assert {result.requests for result in results if result.finish == "label_prefix"} == {1}
        assert all(result.label_tokens == 0 for result in results if result.requests == 1)


def test_the_tokens_of_a_label_are_asked_for_once() -> None:
    """Even if many rows wait for them."""
    with serving(split=["Positive"]) as server, engine(server) as lm:
        answers(lm, build_requests(30))
        assert not server.twice()
        assert server.paths["/tokenize"] < 3 + 3 + 30 + 4


def test_scores_are_the_models() -> None:
    contexts = [
        f"{PROMPT} {word} film{LABEL_PREFIX}"
        for word in ("a good", "a bad", "the dull", "the witty")
    ]
    for options in (
        {},
        {"split": ["Positive"]},
        {"ignores": ["logprob_token_ids"], "split": ["Negative"]},
        {"dialect": "llamacpp"},
    ):
        with serving(**options) as server, engine(server) as lm:
            for context, scores in zip(contexts, lm.score(contexts, CHOICES), strict=True):
                assert scores.source == "exact"
                assert distance(scores, truth(server.model, context)) < 1e-9


def test_a_chats_scores_are_the_models_after_its_template() -> None:
    with serving(dialect="openai") as server, engine(server) as lm:
        results = [
            result for result in answers(lm, build_requests(6)) if result.finish == "label_prefix"
        ]
        for result in results:
            expected = truth(
                server.model, f"{chat_context(PROMPT)}{result.text.lstrip()}{LABEL_PREFIX}"
            )
            other = truth(server.model, f"{chat_context(PROMPT)}{result.text}{LABEL_PREFIX}")
            assert (
                min(distance(result.scores, expected), distance(result.scores, other)) < 0.1
            )  # other spellings are added
        (scores,) = lm.score([f"{PROMPT} a fine film{LABEL_PREFIX}"], CHOICES)
        expected = [
            math.log(
                math.exp(
                    server.model.score(label_context(f"{PROMPT} a fine film{LABEL_PREFIX}"), choice)
                )
                + 1e-12
            )
            for choice in ("Positive", "Negative")
        ]
        assert all(
            logprob >= value - 1e-6
            for logprob, value in zip(scores.logprobs, expected, strict=True)
        )


def test_prompts_without_a_reported_label_have_equal_bounds() -> None:
    """One of them does not stop a run; without others, the LM is of no use."""
    unknown = f"Text:{LABEL_PREFIX}"
    with serving(dialect="openai", completions=True) as server, engine(server) as lm:
        known, other = lm.score([f"{PROMPT} a fine film{LABEL_PREFIX}", unknown], CHOICES)
        assert known.bounded == ()
        assert (other.logprobs, other.bounded) == ((-math.log(2),) * 2, (0, 1))
        assert lm.score([unknown], CHOICES) == [other]
        assert other.is_unknown
        assert (known.requests, known.is_unknown) == (1, False)
        with pytest.raises(
            UserError, match="no probability for any of the labels Positive, Negative"
        ):
            score_labels(lm, [unknown], CHOICES)


def test_a_label_that_is_cut_off_has_a_bound() -> None:
    with (
        serving(dialect="openai", completions=True, unlikely=["Positive"]) as server,
        engine(server) as lm,
    ):
        scored = [result.scores for result in answers(lm, build_requests(12)) if result.scores]
        contexts = [
            f"{PROMPT}{result.text}{LABEL_PREFIX}"
            for result in answers(lm, build_requests(12))
            if result.scores
        ]
        bounded = [
            (scores, context)
            for scores, context in zip(scored, contexts, strict=True)
            if scores.bounded == (0,)
        ]
        assert bounded
        for scores, context in bounded:
            assert scores.source == "top_logprobs"
            assert scores.logprobs[0] >= server.model.score(context, CHOICES[0])
            assert math.exp(scores.logprobs[1]) < 1


# Settings that demand a method ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "wanted", "best"),
    [
        ({"dialect": "llamacpp", "echo_shifted": True}, "exact", "top_logprobs"),
        ({"dialect": "ollama"}, "exact", "top_logprobs"),
        ({"dialect": "openai", "refuses": SAMPLING}, "top_logprobs", "none"),
        ({}, "decision", "none"),
        ({"dialect": "openai", "decisions": False}, "decision", "none"),
    ],
)
def test_a_source_that_is_not_offered_is_an_error(
    options: dict[str, Any], wanted: str, best: str
) -> None:
    with serving(**options) as server, engine(server, label_source=wanted) as lm:
        with pytest.raises(
            UserError, match=f"lm.label_source: {wanted}: the server does not offer it.*{best}"
        ) as error:
            answers(lm, build_requests(2))
        assert error.value.exit_code == 2
        assert "label_source: auto" in error.value.hint


@pytest.mark.parametrize("wanted", ["exact", "top_logprobs", "vote"])
def test_a_source_that_is_asked_for_is_used(wanted: str) -> None:
    with serving() as server, engine(server, label_source=wanted, num_votes=6) as lm:
        sources = [
            result.scores.source for result in answers(lm, build_requests(8)) if result.scores
        ]
    assert set(sources) == {wanted}
    assert len(sources) > 5


def test_decisions_are_the_models_probabilities_and_may_be_refused() -> None:
    with serving(dialect="openai", refusals=0.3) as server, engine(server, api="decisions") as lm:
        assert "chat, label scores decision" in lm.describe()
        results = [
            result for result in answers(lm, build_requests(30)) if result.finish != "length"
        ]
        for result in results:
            if result.scores:
                assert result.scores.source == "decision"
                assert sum(map(math.exp, result.scores.logprobs)) == pytest.approx(1)
        scored = [result for result in results if result.scores]
        refused = len(results) - len(scored)
        assert 0 < refused < len(results)
        context = f"{PROMPT}{scored[0].text}{LABEL_PREFIX}"
        assert (
            distance(
                scored[0].scores,
                [
                    math.log(probability)
                    for probability in server.model.label_probabilities(
                        context, ["Positive", "Negative"]
                    )
                ],
            )
            < 1e-9
        )


def test_refused_decisions_are_rejects_and_end_the_run_if_most_are_refused() -> None:
    with serving(dialect="openai") as server, engine(server, api="decisions") as lm:
        lm.describe()
        server.fault("bad_request", path="decisions", p=1.0)
        for result in answers(lm, build_requests(2)):
            assert (result.finish, result.detail) == ("refused", "HTTP 400: Invalid prompt.")
        with pytest.raises(UserError, match=r"20 of 20 prompts were refused.*: Invalid prompt\."):
            answers(lm, build_requests(30))


@pytest.mark.parametrize(
    ("options", "requests"),
    [({}, 1), ({"dialect": "llamacpp"}, 6), ({"dialect": "openai", "refuses": SAMPLING}, 1)],
)
def test_votes_are_asked_for_at_once_where_the_server_can(
    options: dict[str, Any], requests: int
) -> None:
    with serving(**options) as server, engine(server, label_source="vote", num_votes=6) as lm:
        results = [result for result in answers(lm, build_requests(8)) if result.scores]
    assert {result.requests for result in results} == {1 + requests}
    for result in results:
        assert result.scores is not None
        assert sum(map(math.exp, result.scores.logprobs)) == pytest.approx(1)
        assert (
            max(result.scores.logprobs) <= math.log(6.5 / 7) + 1e-9
        )  # six votes of six are no certainty


@pytest.mark.parametrize("options", [{}, {"dialect": "llamacpp"}, {"dialect": "openai"}])
def test_hard_labels_are_lines_that_differ(options: dict[str, Any]) -> None:
    with serving(**options) as server, engine(server) as lm:
        results = answers(lm, build_requests(4, label_prefix="", choices=(), beams=3))
    for result in results:
        texts = [line.text for line in result.hypotheses]
        assert 1 < len(set(texts)) == len(texts) <= 3
        assert result.text == texts[0]
        assert result.scores is None
        assert result.requests == (3 if options.get("dialect") == "llamacpp" else 1)
    assert any(LABEL_PREFIX in line.text for result in results for line in result.hypotheses)


# Context length -------------------------------------------------------------------------------


def test_a_prompt_that_is_too_long_is_one_row_and_is_asked_once(tmp_path: Path) -> None:
    long = build_requests(1, number=7, prompt="word " * 600)[0]
    for options in ({}, {"dialect": "llamacpp"}, {"dialect": "openai"}):
        with serving(context=400, **options) as server, engine(server) as lm:
            journal = JournaledLM(lm, tmp_path / f"{server.url[-5:]}.sqlite")
            first = list(journal.complete([*build_requests(2), long]))
            before = server.requests
            again = list(journal.complete([*build_requests(2), long]))
            journal.close()
            assert [result.finish == "too_long" for result in first] == [False, False, True]
            assert first[2].prompt_tokens > 400
            assert first == again
            assert server.requests == before


def test_with_a_tokenizer_a_prompt_that_is_too_long_is_not_asked() -> None:
    with serving() as server, engine(server, tokenizer="bundled", context=200) as lm:
        lm.describe()
        before = server.requests
        (result,) = answers(lm, build_requests(1, prompt="word " * 300))
        assert (result.finish, result.requests, server.requests) == ("too_long", 0, before)
        assert result.prompt_tokens == lm.info.count_tokens("word " * 300) > 200


def test_a_prompt_that_just_fits_is_asked_without_more_room_than_there_is() -> None:
    with serving() as server, engine(server, tokenizer="bundled", context=4000) as probe:
        tokens = probe.info.count_tokens(PROMPT)
        probe.describe()
        with engine(server, tokenizer="bundled", context=tokens + 60) as lm:
            answers(lm, build_requests(1))
    assert max(body["max_tokens"] for body in server.bodies("/v1/completions")) == 60


# Wrong or missing values ----------------------------------------------------------------------


def test_log_probabilities_that_stop_coming_leave_rows_unscored_or_asked_again() -> None:
    """A proxy, say, drops them: such rows have no scores; no label is invented."""
    with serving(dialect="llamacpp", echo_shifted=True) as server, engine(server) as lm:
        assert "top_logprobs" in lm.describe()
        server.options.dialect = "ollama"  # its completions drop them
        results = answers(lm, build_requests(5))
    assert {result.scores for result in results} == {None}


def test_a_500_of_llama_cpp_may_be_a_refusal() -> None:
    """It is not retried, and the field it is about is omitted."""
    with serving(dialect="llamacpp") as server:
        server.fault(
            "status",
            status=500,
            message="1 validation error:\n  seed: Extra inputs are not permitted",
            contains='"seed"',
            p=1.0,
        )
        with engine(server) as lm:
            assert lm.describe().endswith("omitted fields, since the server refuses them: seed")
            results = answers(lm, build_requests(3))
    assert len({result.text for result in results}) > 1
    assert server.statuses[500] <= 2


@pytest.mark.parametrize("options", [{}, {"label_prefix": "", "choices": (), "beams": 2}])
def test_min_p_at_a_server_that_refuses_it_is_an_error(options: dict[str, Any]) -> None:
    """Leaving it out would silently sample from other tokens."""
    with serving(dialect="openai") as server, engine(server) as lm:
        answers(lm, build_requests(1, **options))
        sent = server.requests
        with pytest.raises(UserError, match=r"augment\.min_p is 0\.1, but .* refuses"):
            answers(lm, build_requests(2, min_p=0.1, **options))
        assert server.requests == sent


def test_a_server_without_its_log_probabilities_is_voted_with() -> None:
    with serving(dialect="llamacpp") as server:
        message = "logprobs is not supported for models created with logits_all=False"
        server.fault("status", status=500, message=message, contains='"logprobs"', p=1.0)
        with engine(server, num_votes=2) as lm:
            assert "label scores vote of 2" in lm.describe()
            assert {
                result.scores.source for result in answers(lm, build_requests(4)) if result.scores
            } == {"vote"}


def test_equal_prompts_of_other_seeds_are_other_requests_even_where_no_seed_is_taken(
    tmp_path: Path,
) -> None:
    """Two draws of one prompt are two texts."""
    with serving(dialect="openai", refuses=["seed"]) as server, engine(server) as lm:
        journal = JournaledLM(lm, tmp_path / "a.sqlite")
        first, other = (
            next(iter(journal.complete(build_requests(1, seed=seed)))) for seed in (1, 2)
        )
        again = next(iter(journal.complete(build_requests(1, seed=1))))
        journal.close()
    assert first.text != other.text
    assert again == first


# Errors that the user must fix ----------------------------------------------------------------


def test_openai_needs_a_key() -> None:
    with pytest.raises(
        UserError, match=r"lm.api_key_env: the environment variable OPENAI_API_KEY is not set"
    ):
        OpenAILM(OpenAISettings(kind="openai", model="tiny"))
    with pytest.raises(UserError, match=r"variable OTHER_KEY is not set"):
        OpenAILM(OpenAISettings(kind="openai", model="tiny", api_key_env="OTHER_KEY"))


def test_a_key_of_the_named_variable_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-test-0123456789")
    with serving(key="sk-test-0123456789") as server, engine(server, api_key_env="OTHER_KEY") as lm:
        answers(lm, build_requests(1))
    assert server.keys == {"Bearer sk-test-0123456789"}


@pytest.mark.parametrize("dialect", ["vllm", "openai", "llamacpp"])
def test_a_wrong_key_stops_at_once(dialect: str) -> None:
    with serving(dialect=dialect, key="sk-right") as server, engine(server) as lm:
        with pytest.raises(UserError, match=r"lm tiny at http.*: HTTP 401: \S+") as error:
            answers(lm, build_requests(50))
        assert not isinstance(error.value, StoppedShort)
        assert error.value.hint == "set the environment variable OPENAI_API_KEY to a valid key"
        assert server.requests == 1


def test_a_wrong_model_is_reported_with_the_servers_message() -> None:
    with serving() as server, engine(server, model="other") as lm:
        with pytest.raises(
            UserError, match=r"HTTP 404: The model `other` does not exist\."
        ) as error:
            answers(lm, build_requests(5))
        assert error.value.exit_code == 2
        assert "lm.model" in error.value.hint
        assert server.requests <= 2


def test_a_wrong_path_is_an_error() -> None:
    with (
        serving() as server,
        engine(base_url=server.url) as lm,
        pytest.raises(UserError, match=r"does not support completions or chat: .*HTTP 404"),
    ):
        answers(lm, build_requests(5))


def test_an_unreachable_server_is_reported_soon() -> None:
    with serving() as server:
        url = server.base_url
    with (
        engine(base_url=url) as lm,
        pytest.raises(StoppedShort, match="cannot be reached") as error,
    ):
        answers(lm, build_requests(5))
    assert "lm.base_url" in error.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret@host/v1",
        "ftp://host/v1",
        "host/v1",
        "http://host/v1?key=secret",
        [],
        ["http://a/v1", "http://a/v1"],
    ],
)
def test_urls_that_are_none_or_hold_secrets_are_refused(url: Any) -> None:
    with pytest.raises(pydantic.ValidationError) as error:
        OpenAISettings(kind="openai", model="tiny", base_url=url)
    assert "secret" not in error.value.errors()[0]["msg"]


def test_additional_fields_are_sent() -> None:
    with (
        serving(dialect="openai") as server,
        engine(server, extra={"reasoning_effort": "none"}) as lm,
    ):
        answers(lm, build_requests(2))
    assert {body.get("reasoning_effort") for body in server.bodies("chat")} == {"none"}


def test_capabilities_are_stored_with_the_answers(tmp_path: Path) -> None:
    """A resumed run sends the same requests and no probe."""
    path = tmp_path / "a.sqlite"
    with serving() as server:
        texts = []
        for _ in range(2):
            with engine(server) as lm:
                journal = JournaledLM(lm, path)
                texts.append([result.text for result in journal.complete(build_requests(4))])
                journal.close()
            texts.append([server.requests])
    assert texts[0] == texts[2]
    assert texts[1] == texts[3]


def test_a_text_beyond_the_servers_context_is_reported_with_its_message() -> None:
    with (
        serving(dialect="llamacpp", context=200) as server,
        engine(server) as lm,
        pytest.raises(UserError, match="maximum context length") as error,
    ):
        lm.score([PROMPT + " film" * 300 + LABEL_PREFIX], CHOICES)
    assert "lm.context" in error.value.hint


def test_a_busy_server_causes_one_warning() -> None:
    warnings: list[str] = []
    with serving() as server:
        lm = OpenAILM(
            OpenAISettings(kind="openai", model="tiny", base_url=server.base_url),
            callbacks=Callbacks(warn=warnings.append),
        )
        try:
            lm.describe()
            server.fault("rate_limit", next=3)
            assert len(answers(lm, build_requests(10))) == 10
        finally:
            lm.close()
    assert len(warnings) == 1
    assert "HTTP 429" in warnings[0]


def test_a_label_answer_without_a_text_is_asked_for_again_and_never_kept() -> None:
    context = f"{PROMPT} a good film{LABEL_PREFIX}"
    with serving(dialect="vllm") as server, engine(server) as lm:
        expected = lm.score([f"{PROMPT} a dull film{LABEL_PREFIX}", context], CHOICES)[1]
    with serving(dialect="vllm") as server, engine(server) as lm:
        lm.score([f"{PROMPT} a dull film{LABEL_PREFIX}"], CHOICES)
        whole, spoilt = server.answers.completions, []

        def completions(body: dict[str, Any]) -> dict[str, Any]:
            answer = whole(body)
            if not spoilt:
                spoilt.append(answer)
                return {**answer, "choices": [{**answer["choices"][0], "text": None}]}
            return answer

        server.answers.completions = completions  # type: ignore[method-assign]
        assert lm.score([context], CHOICES)[0].logprobs == expected.logprobs
        assert spoilt
