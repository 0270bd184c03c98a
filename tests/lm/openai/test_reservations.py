"""A budget of tokens or dollars counts what is in flight: not exceeded, and not left unused."""

import asyncio
from pathlib import Path

import pytest
from endpoint_lm import build_requests, engine
from endpoint_server import serving

from gpt3mix_cli.errors import StoppedShort
from gpt3mix_cli.lm import Journal, total_spent
from gpt3mix_cli.lm.openai.budget import BudgetTracker, Price
from gpt3mix_cli.lm.openai.reservations import MIN_ANSWERS, HighestUsage, Reservations
from gpt3mix_cli.lm.openai.responses import Usage
from gpt3mix_cli.settings import Budget

HIGHEST = HighestUsage("line", 100, 100)
SHORT = Usage(100, 10)  # an answer that takes 110 of 200 tokens


async def spend(limit: int, at_once: int, answers: int, before: int = 0) -> tuple[int, int]:
    """Return the tokens that were spent and the most requests that were in flight."""
    budget = BudgetTracker(Price(prompt=1, completion=1), Budget(tokens=limit))
    reservations, slots, peak = Reservations(budget), asyncio.Semaphore(at_once), 0
    in_flight = 0
    for _ in range(before):
        reservations.learn(HIGHEST, SHORT)

    async def ask() -> None:
        nonlocal peak, in_flight
        async with slots:
            reserved = await reservations.acquire(HIGHEST)
            in_flight += 1
            peak = max(peak, in_flight)
            await asyncio.sleep(0.001)
            in_flight -= 1
            reservations.release(reserved)
            reservations.learn(HIGHEST, SHORT)
            budget.add_usage(SHORT, None)

    await asyncio.gather(*(ask() for _ in range(answers)), return_exceptions=True)
    return budget.tokens, peak


@pytest.mark.parametrize("at_once", [1, 8, 64])
def test_the_budget_is_used_up_to_the_last_request_that_fits(at_once: int) -> None:
    spent, peak = asyncio.run(spend(11_050, at_once, answers=300))
    assert (spent, peak) == (11_000, min(at_once, 55))


def test_requests_in_flight_reserve_their_highest_cost() -> None:
    assert asyncio.run(spend(1_000, 64, answers=5)) == (550, 5)
    assert asyncio.run(spend(1_000, 64, answers=MIN_ANSWERS + 20)) == (990, 5)
    assert asyncio.run(spend(1_000, 64, answers=20, before=MIN_ANSWERS)) == (990, 5)


def test_short_answers_that_arrive_first_hide_no_long_ones() -> None:
    """Some lines go on until `max_tokens`, and take as long."""
    budget, slots = BudgetTracker(None, Budget(tokens=10_000)), asyncio.Semaphore(64)
    reservations, highest = Reservations(budget), HighestUsage("line", 0, 500)

    async def ask(number: int) -> None:
        usage = Usage(0, 500 if number % 20 == 10 else 5)
        async with slots:
            reserved = await reservations.acquire(highest)
            await asyncio.sleep(usage.completion / 20_000)
            reservations.release(reserved)
            reservations.learn(highest, usage)
            budget.add_usage(usage, None)

    async def run() -> None:
        await asyncio.gather(*map(ask, range(800)), return_exceptions=True)

    asyncio.run(run())
    assert 9_500 < budget.tokens <= 10_500  # a long one more, at most


def test_a_budget_below_the_highest_cost_of_one_request_still_allows_one() -> None:
    assert asyncio.run(spend(150, 64, answers=4)) == (110, 1)


def test_without_a_limit_of_tokens_or_dollars_nothing_is_reserved() -> None:
    assert not Reservations(BudgetTracker(None, Budget(requests=3))).are_needed
    assert not Reservations(BudgetTracker()).are_needed


@pytest.mark.parametrize("concurrency", [4, 64])
def test_dollars_at_an_endpoint_pass_the_limit_by_two_percent_at_most(
    concurrency: int, tmp_path: Path
) -> None:
    (tmp_path / "prices.yaml").write_text(
        "version: 2026-01\nmodels: {tiny: {prompt: 10, completion: 1000}}\n"
    )
    limit, path = 1.0, tmp_path / "a.journal.sqlite"
    with (
        serving(delay=[0.0, 0.02]) as server,
        engine(
            server,
            budget={"usd": limit},
            prices=str(tmp_path / "prices.yaml"),
            concurrency=concurrency,
        ) as lm,
    ):
        journal = Journal(path)
        with pytest.raises(StoppedShort, match=r"budget\.usd: \$\d\.\d+ of \$1 are already used"):
            list(lm.with_journal(journal).complete(build_requests(400)))
        journal.close()
    assert 0.9 * limit < total_spent(path).usd <= 1.02 * limit
