"""What every LM does, whatever engine is behind it: the contract of `lm.port`.

A new kind is a function that opens it and an entry in `KINDS`. Where an endpoint cannot do what a
local LM does, the test says why.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from endpoint_lm import engine
from endpoint_server import serving
from families import CHOICES, FAMILIES, LABEL_PREFIX, OPEN_PROMPTS, local, request
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.lm import (
    FIRST_BLOCK_SIZE,
    LM,
    Completion,
    JournaledLM,
    Request,
    next_block_start,
    split_into_blocks,
)

Open = Callable[[dict[str, Path]], AbstractContextManager[LM]]
# Label, bracket and line end are generated with the line, in as many tokens as an endpoint allows.
LABEL_TOKENS = 20


def opened_local(family: str) -> Open:
    @contextmanager
    def open_lm_in(folders: dict[str, Path]) -> Iterator[LM]:
        yield local(folders[family], 6)

    return open_lm_in


def behind_an_endpoint(settings: dict[str, Any] | None = None, **options: Any) -> Open:
    @contextmanager
    def open_lm_in(folders: dict[str, Path]) -> Iterator[LM]:
        with (
            serving(context=2000, **options) as server,
            engine(server, context=2000, **(settings or {})) as lm,
        ):
            yield lm

    return open_lm_in


KINDS: dict[str, Open] = {f"local, {family}": opened_local(family) for family in FAMILIES} | {
    "vLLM, token ids": behind_an_endpoint(),
    "vLLM, echo, labels of two tokens": behind_an_endpoint(
        ignores=["logprob_token_ids"], split=["Positive"]
    ),
    "llama.cpp": behind_an_endpoint(dialect="llamacpp", echo_shifted=True),
    "Ollama, chat": behind_an_endpoint(dialect="ollama"),
    "OpenAI, chat": behind_an_endpoint(dialect="openai"),
    "OpenAI, decisions": behind_an_endpoint({"api": "decisions"}, dialect="openai"),
    "OpenAI that reasons, votes": behind_an_endpoint(
        dialect="openai", refuses=["temperature", "top_p", "frequency_penalty", "seed", "logprobs"]
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lm(kind: str, folders: dict[str, Path]) -> Iterator[LM]:
    with KINDS[kind](folders) as model:
        yield model


@pytest.fixture
def is_local(kind: str) -> bool:
    return kind.startswith("local")


@pytest.fixture
def repeats(kind: str) -> bool:
    """Whether equal requests have equal answers: not where a server takes no seed."""
    return "votes" not in kind


def asked(count: int = 10, **options: Any) -> list[Request]:
    """Requests over two blocks, hot enough for lines to end."""
    return [
        request(
            i,
            **{
                "prompt": OPEN_PROMPTS[i % 3],
                "label_prefix": LABEL_PREFIX,
                "choices": CHOICES,
                "max_tokens": 30,
                "temperature": 1.2,
                **options,
            },
        )
        for i in range(count)
    ]


def answered(lm: LM, requests: Sequence[Request]) -> list[Completion]:
    return list(lm.complete(requests))


# complete -----------------------------------------------------------------------------------------


def test_answers_have_the_order_of_their_requests(lm: LM) -> None:
    requests = asked()
    assert [completion.number for completion in answered(lm, requests)] == [
        item.number for item in requests
    ]
    assert [completion.number for completion in answered(lm, requests[::-1])] == [
        item.number for item in requests[::-1]
    ]
    assert answered(lm, []) == []


def test_answers_are_complete(lm: LM, is_local: bool) -> None:
    for sent, completion in zip(asked(), answered(lm, asked()), strict=True):
        assert "\n" not in completion.text
        assert LABEL_PREFIX not in completion.text
        assert (
            0 < completion.completion_tokens <= sent.max_tokens + (0 if is_local else LABEL_TOKENS)
        )
        assert completion.prompt_tokens >= 1
        assert completion.requests == 0 if is_local else completion.requests >= 1
        assert completion.scores is None or completion.finish not in ("length", "too_long")
        # An endpoint may tell nothing of any label.
        assert completion.scores or completion.finish in ("length", "too_long") or not is_local
        assert completion.logprob is None or (
            math.isfinite(completion.logprob) and completion.logprob <= 0
        )
        assert completion.hypotheses == ()
        if completion.scores:
            assert len(completion.scores.logprobs) == len(CHOICES)
            assert all(value <= 1e-6 for value in completion.scores.logprobs)
            assert (
                sum(map(math.exp, completion.scores.logprobs)) <= 1 + 1e-6
                or completion.scores.bounded
            )


def test_equal_blocks_get_equal_answers(lm: LM, repeats: bool) -> None:
    if not repeats:
        pytest.skip("the server takes no seed; a journal makes its answers repeat")
    assert answered(lm, asked()) == answered(lm, asked())


def test_another_seed_writes_another_text(lm: LM) -> None:
    before, after = (
        answered(lm, [replace(item, seed=item.seed + shift) for item in asked(4)])
        for shift in (0, 1000)
    )
    assert [completion.text for completion in before] != [completion.text for completion in after]


def test_temperature_0_takes_no_seed(lm: LM, repeats: bool) -> None:
    if not repeats:
        pytest.skip("the server takes no temperature")
    before, after = (
        answered(lm, [replace(item, seed=item.seed + shift) for item in asked(4, temperature=0)])
        for shift in (0, 1000)
    )
    assert before == after


def test_without_a_label_prefix_nothing_is_scored(lm: LM) -> None:
    for completion in answered(lm, asked(4, label_prefix="", choices=())):
        assert completion.scores is None
        assert completion.finish in ("line", "length")


def test_a_prompt_that_fills_the_context_is_too_long(lm: LM) -> None:
    first, second, third = asked(3)
    long = replace(second, prompt="word " * lm.info.context_length)
    answers = answered(lm, [first, long, third])
    assert [completion.finish == "too_long" for completion in answers] == [False, True, False]
    assert (
        answers[1].text,
        answers[1].scores,
        answers[1].completion_tokens,
        answers[1].logprob,
    ) == ("", None, 0, None)
    assert answers[1].prompt_tokens > lm.info.context_length


def test_a_beam_search_gives_hypotheses(lm: LM) -> None:
    for completion in answered(lm, asked(3, label_prefix="", choices=(), beams=2, max_tokens=6)):
        assert 1 <= len(completion.hypotheses) <= 2
        assert completion.hypotheses[0].text == completion.text
        assert completion.finish == ("line" if completion.hypotheses[0].finished else "length")
        assert len({line.text for line in completion.hypotheses}) == len(completion.hypotheses)


def test_a_journal_gives_the_same_answers(lm: LM, tmp_path: Path, repeats: bool) -> None:
    journal = JournaledLM(lm, tmp_path / "journal.sqlite")
    requests = [*asked(4), *asked(6, label_prefix="", choices=(), beams=2, max_tokens=4)[4:]]
    first, second = answered(journal, requests), answered(journal, requests)
    journal.close()
    assert first == second
    assert not repeats or first == answered(lm, requests)


# score --------------------------------------------------------------------------------------------


def test_scores_keep_the_order_of_prompts_and_choices(
    lm: LM, is_local: bool, repeats: bool
) -> None:
    # An endpoint tells of likely tokens alone, as labels are after a prompt that shows them.
    begun = (
        OPEN_PROMPTS
        if is_local
        else [f"{OPEN_PROMPTS[0]} a {word} film," for word in ("fine", "dull", "warm")]
    )
    prompts = [f"{prompt} fine{LABEL_PREFIX}" for prompt in begun] * 3
    results = lm.score(prompts, CHOICES)
    assert [len(scores.logprobs) for scores in results] == [len(CHOICES)] * len(prompts)
    for scores, reversed_scores in zip(
        results, lm.score(prompts[::-1], CHOICES[::-1])[::-1], strict=True
    ):
        # A chat prompt lists the labels in their order; votes are random.
        assert scores.source in ("vote", "top_logprobs") or scores.logprobs == pytest.approx(
            reversed_scores.logprobs[::-1], abs=1e-4
        )
    assert not repeats or lm.score(prompts, CHOICES) == results or is_local
    assert all(value <= 1e-6 for scores in results for value in scores.logprobs)
    assert lm.score([], CHOICES) == []


def test_score_agrees_with_complete(lm: LM) -> None:
    """A label is scored after the text as it reads, however it was generated."""
    for sent, completion in zip(asked(), answered(lm, asked()), strict=True):
        # A chat is asked for a label alone in other words.
        if completion.scores and completion.scores.source == "exact":
            (again,) = lm.score([sent.prompt + completion.text + LABEL_PREFIX], CHOICES)
            assert completion.scores.logprobs == pytest.approx(again.logprobs, abs=1e-3)


# info ---------------------------------------------------------------------------------------------


def test_info_is_complete(lm: LM, is_local: bool) -> None:
    info = lm.info
    assert info.fingerprint
    assert info.model
    assert info.block_size >= 1
    assert info.context_length > 100
    assert 0 < info.count_tokens("Movie review:") < info.count_tokens(OPEN_PROMPTS[0])
    (completion,) = answered(lm, asked(1))
    # Without its tokenizer an endpoint's count is an estimate for English words.
    assert (
        completion.prompt_tokens == info.count_tokens(OPEN_PROMPTS[0])
        if is_local
        else completion.prompt_tokens > 0
    )


# Blocks -------------------------------------------------------------------------------------------

LARGEST = st.integers(1, 1000)


@settings(deadline=None)
@given(number=st.integers(0, 5000), largest=LARGEST)
def test_block_boundaries_are_fixed(number: int, largest: int) -> None:
    """A block's numbers all have the same end, which begins the next one."""
    end = next_block_start(number, largest)
    assert number < end <= number + largest
    assert next_block_start(end - 1, largest) == end
    assert next_block_start(end, largest) > end


@settings(deadline=None)
@given(largest=LARGEST)
def test_blocks_grow_to_the_largest_and_are_a_quarter_of_the_requests_before(largest: int) -> None:
    """So a few missing rows never cost hundreds of requests."""
    ends = [0]
    while len(ends) < 30:
        ends.append(next_block_start(ends[-1], largest))
    sizes = [b - a for a, b in pairwise(ends)]
    assert sizes[0] == min(FIRST_BLOCK_SIZE, largest)
    assert sizes == sorted(sizes)
    assert sizes[-1] == max(sizes) == largest
    assert all(
        size <= max(FIRST_BLOCK_SIZE, start / 4) for start, size in zip(ends, sizes, strict=False)
    )


def test_blocks_by_hand() -> None:
    requests = [request(i) for i in range(1500)]
    sizes = [len(block) for block in split_into_blocks(requests, 256)]
    assert sizes == [32] * 8 + [64] * 4 + [128] * 4 + [256, 220]
    assert [len(block) for block in split_into_blocks(requests[:100], 32)] == [32, 32, 32, 4]
    assert [len(block) for block in split_into_blocks(requests[:20], 6)] == [6, 6, 6, 2]
    assert [
        [item.number for item in block] for block in split_into_blocks(requests[30:34], 256)
    ] == [
        [30, 31],
        [32, 33],
    ]


@settings(deadline=None)
@given(numbers=st.lists(st.integers(0, 300), unique=True).map(sorted), largest=LARGEST)
def test_blocks_contain_every_request_once(numbers: list[int], largest: int) -> None:
    blocks = list(split_into_blocks([request(number) for number in numbers], largest))
    assert [item.number for block in blocks for item in block] == numbers
    assert all(
        block and next_block_start(block[0].number, largest) > block[-1].number for block in blocks
    )
