"""Sampling against the plain definitions in float64."""

from typing import Any

import pytest
import torch
from families import request
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.lm import Request
from gpt3mix_cli.lm.local.sampling import Sampler, inverse_cdf

VOCABULARIES = st.sampled_from([1, 2, 5, 127, 128, 129, 300, 1000, 1024])
SEEDS = st.integers(0, 10**6)
FAIR = settings(max_examples=60, deadline=None)


def sampler(requests: list[Request], longest: int = 0) -> Sampler:
    tested = Sampler(
        len(requests), longest or max(asked.max_tokens for asked in requests), torch.device("cpu")
    )
    for row, asked in enumerate(requests):
        tested.assign(row, asked)
    return tested


def draw(tested: Sampler, logits: torch.Tensor) -> list[int]:
    return tested.draw(logits, torch.ones(len(logits), dtype=torch.bool)).tolist()


def random_weights(rows: int, vocabulary: int, seed: int, zeros: float) -> torch.Tensor:
    """Positive weights over many orders of magnitude, some of them 0, never all."""
    generator = torch.Generator().manual_seed(seed)
    weights = (torch.randn(rows, vocabulary, generator=generator) * 4).exp()
    weights[torch.rand(rows, vocabulary, generator=generator) < zeros] = 0
    weights[torch.arange(rows), torch.randint(vocabulary, (rows,), generator=generator)] = 1
    return weights


# The inverse of the cumulative distribution function ----------------------------------------------


@FAIR
@given(
    vocabulary=VOCABULARIES,
    seed=SEEDS,
    zeros=st.sampled_from([0, 0.5, 0.99]),
    edge=st.sampled_from([None, 0.0, 1 - 2**-53, 1 - 2**-24]),
)
def test_inverse_cdf_inverts_the_cdf(
    vocabulary: int, seed: int, zeros: float, edge: float | None
) -> None:
    """The uniform number is in the drawn token's interval, up to float32 rounding.

    No token of weight 0 is drawn.
    """
    rows = 4
    weights = random_weights(rows, vocabulary, seed, zeros)
    uniforms = torch.rand(
        rows, 1, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64
    )
    if edge is not None:
        uniforms[:] = edge
    tokens = inverse_cdf(weights, uniforms)
    probs = weights.double() / weights.double().sum(-1, keepdim=True)
    upper = probs.cumsum(-1)
    for row, token in enumerate(tokens.tolist()):
        assert weights[row, token] > 0
        wanted = float(uniforms[row, 0])
        assert (
            float(upper[row, token] - probs[row, token]) - 1e-6
            <= wanted
            <= float(upper[row, token]) + 1e-6
        )


@pytest.mark.parametrize("token", [0, 127, 128, 200, 299])
def test_the_only_token_with_weight_is_drawn(token: int) -> None:
    weights = torch.zeros(3, 300)
    weights[:, token] = 1e-30
    assert (
        inverse_cdf(
            weights, torch.tensor([[0.0], [0.5], [1 - 2**-53]], dtype=torch.float64)
        ).tolist()
        == [token] * 3
    )


def test_the_tail_keeps_its_probability() -> None:
    """A hundred thousand tokens with a millionth in all: float32 sums would lose or double it."""
    weights = torch.full((1, 100_001), 1e-11)
    weights[0, 0] = 1.0
    for share in (0.1, 0.5, 0.9):
        (token,) = inverse_cdf(
            weights, torch.tensor([[(1 + share * 1e-6) / (1 + 1e-6)]], dtype=torch.float64)
        ).tolist()
        assert token == pytest.approx(share * 100_000, abs=100)


# Draws --------------------------------------------------------------------------------------------


def by_definition(logits: torch.Tensor, generated: list[int], asked: Request) -> torch.Tensor:
    """The probabilities that a request asks for.

    Penalty, then temperature; top-p and min-p of that distribution.
    """
    logits = logits.double().clone()
    for token in generated:
        logits[token] -= asked.frequency_penalty
    if asked.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(), len(logits)).double()
    probs = (logits / asked.temperature).softmax(-1)
    ranked, ranks = probs.sort(descending=True)
    kept = int((ranked.cumsum(-1) < asked.top_p - 1e-12).sum()) + 1
    below = probs < asked.min_p * probs.max() * (1 - 1e-6)
    if asked.top_p < 1:
        probs[ranks[kept:]] = 0
    probs[below] = 0
    return probs / probs.sum()


@FAIR
@given(
    seed=SEEDS,
    vocabulary=st.sampled_from([7, 130, 300]),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.0, 0.02, 0.3, 1.0]),
    frequency_penalty=st.sampled_from([-2.0, -0.5, 0.0, 0.01, 2.0]),
)
def test_draws_follow_the_definition(seed: int, vocabulary: int, **options: Any) -> None:
    """Each of twelve tokens is the one whose interval holds the row's next uniform number."""
    asked = request(0, seed=seed, max_tokens=12, **options)
    tested, generated = sampler([asked]), []
    generator = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(12, generator=generator, dtype=torch.float64).tolist()
    for uniform in uniforms:
        logits = torch.randn(1, vocabulary, generator=generator) * 2
        (token,) = draw(tested, logits)
        probs = by_definition(logits[0], generated, asked)
        assert probs[token] > 0
        order = (
            torch.arange(vocabulary)
            if asked.top_p == 1
            else probs.argsort(descending=True, stable=True)
        )
        rank = int((order == token).nonzero())
        upper = probs[order].cumsum(-1)[rank]
        if asked.temperature > 0:
            assert upper - probs[token] - 1e-5 <= uniform <= upper + 1e-5
        generated.append(token)
    assert tested.tokens[0, :12].tolist() == generated
    assert int(tested.counts[0]) == 12


def test_the_frequency_penalty_counts_earlier_tokens() -> None:
    """A token that occurred three times loses three penalties of 1.0."""
    tested = sampler([request(temperature=0, frequency_penalty=1.0, max_tokens=6)])
    logits = torch.tensor([[5.0, 2.5, -9.0]])
    assert [draw(tested, logits)[0] for _ in range(6)] == [0, 0, 0, 1, 0, 1]
    assert logits.tolist() == [[5.0, 2.5, -9.0]], "the raw logits are left as they are"


@FAIR
@given(
    seed=SEEDS,
    penalty=st.sampled_from([0.0, 0.7]),
    temperatures=st.lists(st.sampled_from([0.0, 0.7, 1.0]), min_size=3, max_size=3),
)
def test_a_rows_draws_do_not_depend_on_its_neighbours(
    seed: int, penalty: float, temperatures: list[float]
) -> None:
    """Rows with top-p and min-p, greedy rows, longer rows, and rows that do not generate."""
    others = [
        request(
            i,
            seed=i,
            temperature=temperature,
            top_p=0.6,
            min_p=0.2,
            frequency_penalty=1.0,
            max_tokens=30,
        )
        for i, temperature in enumerate(temperatures)
    ]
    own = request(9, seed=seed, frequency_penalty=penalty, max_tokens=10)
    alone, together = sampler([own]), sampler([*others, own])
    generator = torch.Generator().manual_seed(seed)
    writing = torch.tensor([True, False, True, True])
    for _ in range(10):
        logits = torch.randn(4, 200, generator=generator)
        assert draw(alone, logits[3:]) == together.draw(logits, writing)[3:].tolist()
    assert together.counts.tolist() == [10, 0, 10, 10]


@FAIR
@given(
    seed=SEEDS,
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    min_p=st.floats(1e-3, 1),
)
def test_min_p_draws_no_token_below_its_threshold(
    seed: int, temperature: float, min_p: float
) -> None:
    """The threshold is a fraction of the largest probability after temperature."""
    tested = sampler([request(0, seed=seed, temperature=temperature, min_p=min_p, max_tokens=50)])
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(seed)) * 3
    probs = (logits[0].double() / temperature).softmax(-1)
    drawn = {draw(tested, logits)[0] for _ in range(50)}
    assert float(probs[list(drawn)].min()) >= min_p * float(probs.max()) * (1 - 1e-5)


def test_min_p_of_one_draws_among_equally_probable_tokens() -> None:
    tested = sampler([request(0, seed=3, temperature=5.0, min_p=1.0, max_tokens=60)])
    logits = torch.tensor([[2.0, 1.999, 2.0, -1.0]])
    assert {draw(tested, logits)[0] for _ in range(60)} == {0, 2}


def test_a_slot_that_is_assigned_again_forgets_its_tokens() -> None:
    tested = sampler([request(temperature=0, frequency_penalty=3.0, max_tokens=3)])
    logits = torch.tensor([[2.0, 1.0]])
    assert [draw(tested, logits)[0] for _ in range(2)] == [0, 1]
    tested.assign(0, request(temperature=0, frequency_penalty=3.0, max_tokens=3))
    assert draw(tested, logits) == [0]


def test_selected_rows_continue_unchanged() -> None:
    requests = [request(i, seed=i, frequency_penalty=0.5, max_tokens=8) for i in range(4)]
    whole, part = sampler(requests), sampler(requests)
    logits = torch.randn(8, 4, 50, generator=torch.Generator().manual_seed(0))
    expected = [draw(whole, step) for step in logits]
    assert [draw(part, step) for step in logits[:3]] == expected[:3]
    part.select(torch.tensor([3, 1]))
    assert [draw(part, step[[3, 1]]) for step in logits[3:]] == [
        [row[3], row[1]] for row in expected[3:]
    ]
