"""Request bodies: pure functions, whose JSON is the journal key of a paid answer."""

import pytest
from endpoint_lm import CHOICES, PROMPT, build_requests
from hypothesis import given
from hypothesis import strategies as st

from gpt3mix_cli.lm.openai.requests import (
    NEUTRAL_SAMPLING,
    Capabilities,
    generation_body,
    label_body,
    text_body,
)


def test_a_completion_is_body_in_full() -> None:
    """No sampling parameter is left to the server's own defaults."""
    body = generation_body(
        build_requests(1, temperature=0.9, top_p=0.8)[0],
        Capabilities(top_logprobs=5, neutral_sampling=True),
        "m",
        7,
        (),
    )
    assert body == {
        "model": "m", "prompt": PROMPT, "max_tokens": 67, "temperature": 0.9, "top_p": 0.8,
        "frequency_penalty": 0.0, "seed": 0, "stop": ["\n"], "logprobs": 5, **NEUTRAL_SAMPLING,
    }  # fmt: skip


def test_a_chat_has_its_own_names() -> None:
    body = generation_body(
        build_requests(1)[0],
        Capabilities(
            api="chat",
            top_logprobs=20,
            max_tokens_field="max_completion_tokens",
            refused_fields=("seed",),
        ),
        "m",
        7,
        (),
    )
    assert body.keys() == {
        "model", "messages", "max_completion_tokens", "temperature", "top_p", "frequency_penalty",
        "logprobs", "top_logprobs",
    }  # fmt: skip
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    assert body["messages"][1] == {"role": "user", "content": PROMPT}


def test_labels_are_scored_by_their_ids_with_the_text() -> None:
    body = generation_body(
        build_requests(1)[0], Capabilities(label_method="ids", top_logprobs=20), "m", 7, (4, 5)
    )
    assert (body["logprobs"], body["logprob_token_ids"]) == (1, [4, 5])


@pytest.mark.parametrize(
    "capabilities", [Capabilities(), Capabilities(api="chat"), Capabilities(top_logprobs=5)]
)
def test_without_choices_there_are_no_tokens_for_them(capabilities: Capabilities) -> None:
    body = generation_body(
        build_requests(1, label_prefix="", choices=())[0], capabilities, "m", 7, ()
    )
    assert body["max_tokens"] == 60
    assert ("logprobs" in body) == bool(capabilities.top_logprobs)


def test_a_label_is_body_at_temperature_one() -> None:
    assert (
        label_body("x", CHOICES, Capabilities(), "m")["temperature"] == 1.0
    )  # some servers compute log-probabilities after temperature


@given(
    names=st.sets(st.sampled_from(["temperature", "top_p", "seed", "stop", "logprobs", "min_p"]))
)
def test_what_a_server_refuses_is_left_out(names: set[str]) -> None:
    body = generation_body(
        build_requests(1)[0],
        Capabilities(top_logprobs=5, neutral_sampling=True, refused_fields=tuple(names)),
        "m",
        7,
        (),
    )
    assert not names & body.keys()
    assert (
        body.keys() | names
        == generation_body(
            build_requests(1)[0], Capabilities(top_logprobs=5, neutral_sampling=True), "m", 7, ()
        ).keys()
    )


@pytest.mark.parametrize("neutral", [True, False])
def test_min_p_is_sent(neutral: bool) -> None:
    """OpenAI itself, where sampling is neutral already, refuses it with a message of its own."""
    capabilities = Capabilities(neutral_sampling=neutral, refused_fields=("top_k",))
    body = generation_body(build_requests(1, min_p=0.1)[0], capabilities, "m", 7, ())
    without = generation_body(build_requests(1)[0], capabilities, "m", 7, ())
    assert body == without | {"min_p": 0.1}
    assert without.get("min_p") == (0.0 if neutral else None)


def test_log_probabilities_after_sampling_are_not_raw_with_min_p() -> None:
    tempered, raw = Capabilities(raw_logprobs=False), Capabilities()
    (plain,), (cut,) = build_requests(1), build_requests(1, min_p=0.1)
    assert tempered.returns_raw_logprobs(plain)
    assert not tempered.returns_raw_logprobs(cut)
    assert raw.returns_raw_logprobs(cut)


@given(seed=st.integers(0, 2**70))
def test_seeds_fit_into_31_bits(seed: int) -> None:
    assert (
        0
        <= generation_body(build_requests(1, seed=seed)[0], Capabilities(), "m", 0, ())["seed"]
        < 2**31
    )


def test_fields_of_none_are_left_out() -> None:
    assert text_body(Capabilities(), "m", "x", max_tokens=1, n=None) == {
        "model": "m",
        "prompt": "x",
        "max_tokens": 1,
    }


@pytest.mark.parametrize(
    ("capabilities", "requests"),
    [
        (Capabilities(), [1] * 5),
        (Capabilities(supports_n=True), [5]),
        (Capabilities(supports_n=True, max_copies=2), [2, 2, 1]),
        (Capabilities(supports_n=True, max_copies=8), [5]),
        (Capabilities(is_greedy=True), [1]),
    ],
)
def test_draws_are_split_as_the_server_allows(
    capabilities: Capabilities, requests: list[int]
) -> None:
    assert capabilities.split_draws(5) == requests
