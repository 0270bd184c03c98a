"""Prices are read strictly and never guessed; the tracker stops at the budget, over all runs."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpt3mix_cli.errors import StoppedShort, UserError
from gpt3mix_cli.lm import Journal
from gpt3mix_cli.lm.openai.budget import BudgetTracker, Price, load_price
from gpt3mix_cli.lm.openai.responses import Usage
from gpt3mix_cli.settings import Budget

GOOD = (
    "version: 2026-01\nmodels:\n"
    "  big-base: {prompt: 2, completion: 8, cached_prompt: 0.5, batch: 0.5}\n"
    "  small: {prompt: 0, completion: 0}\n"
)


def test_a_model_has_its_price_and_the_file_its_version(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(GOOD)
    price, version = load_price("big-base", str(tmp_path / "prices.yaml"))
    assert price == Price(prompt=2, completion=8, cached_prompt=0.5, batch=0.5)
    assert version == "2026-01"
    assert load_price("anything", None) == (None, "")


@pytest.mark.parametrize("version", ["2026-01", "2026-01-31", "3", "3.5", "'of today'"])
def test_a_version_may_look_like_a_date_or_a_number(version: str, tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(GOOD.replace("2026-01", version))
    assert load_price("small", str(tmp_path / "prices.yaml"))[1] == version.strip("'")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: [", "not valid YAML"),
        ("", "version: field required"),
        ("- a list", "the file"),
        (GOOD.replace("version: 2026-01\n", ""), "version: field required"),
        ("version: 1", "models: field required"),
        ("version: 1\nmodels: {big-base: 3}", "models.big-base"),
        (GOOD.replace("prompt: 2", "promt: 2"), "models.big-base.prompt: field required"),
        (
            GOOD.replace("cached_prompt", "cachedprompt"),
            "models.big-base.cachedprompt: extra inputs",
        ),
        (
            GOOD.replace("prompt: 2", "prompt: -2"),
            "models.big-base.prompt: input should be greater than or equal to 0",
        ),
        (
            GOOD.replace("prompt: 2", "prompt: cheap"),
            "models.big-base.prompt: input should be a valid number",
        ),
        (GOOD.replace("prompt: 2", "prompt: .inf"), "models.big-base.prompt"),
        (
            GOOD.replace("batch: 0.5", "batch: 50"),
            "models.big-base.batch: input should be less than or equal to 1",
        ),
        (GOOD.replace("big-base", "bigger"), "no price for the model 'big-base'"),
        (GOOD.replace("big-base", "big-bas"), "did you mean 'big-bas'"),
    ],
)
def test_an_invalid_file_is_reported_with_its_key(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_price("big-base", str(path))
    assert error.value.message.startswith(f"lm.prices: {path}")
    assert expected in error.value.message
    assert error.value.hint


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UserError, match=r"no such file|cannot be read"):
            load_price("x", str(path))


def test_dollars_are_those_of_the_file() -> None:
    price = Price(prompt=2, completion=8, cached_prompt=0.5, batch=0.5)
    used = Usage(prompt=1_000_000, completion=500_000, cached=400_000)
    assert price.cost(used) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.5 * 8)
    assert price.cost(used, batch=True) == pytest.approx(price.cost(used) / 2)
    assert Price(prompt=2, completion=8).cost(used, batch=True) == pytest.approx(6), (
        "cached tokens and batches cost as others do unless it is said"
    )


@given(st.integers(1, 50), st.integers(1, 50))
def test_requests_stop_at_the_budget_and_not_before(limit: int, tried: int) -> None:
    budget = BudgetTracker(None, Budget(requests=limit))
    sent, message = 0, ""
    for _ in range(tried):
        try:
            budget.count_request()
            sent += 1
        except StoppedShort as error:
            message = error.message
    assert sent == min(limit, tried)
    assert message == (
        f"budget.requests: {limit} of {limit} requests are already used (all runs)"
        if tried > limit
        else ""
    )


@example([1, 73, 208, 263, 276, 107, 276], 928)  # the sum in dollars is just below the limit
@given(st.lists(st.integers(1, 400), max_size=20), st.integers(1, 2000))
def test_tokens_and_dollars_pass_the_budget_by_the_last_answer_at_most(
    answers: list[int], limit: int
) -> None:
    price = Price(prompt=1, completion=1)
    for budget in (Budget(tokens=limit), Budget(usd=limit / 1_000_000)):
        budget = BudgetTracker(price, budget)
        for tokens in answers:
            try:
                budget.count_request()
            except StoppedShort:
                assert budget.tokens >= limit
                break
            used = Usage(tokens - 1, 1)
            budget.add_usage(used, budget.cost(used))
        assert budget.tokens < limit + max(answers, default=1)


def test_what_other_runs_have_paid_counts(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.journal.sqlite" for name in "ab"]
    for number, path in enumerate(paths):
        journal = Journal(path)
        journal.store([("key", 0, "{}", "{}")], [("key", 2, 30, 10, 0.25 + number)])
        journal.close()
    budget = BudgetTracker(
        Price(prompt=1, completion=1), Budget(requests=100, usd=1.4), lambda: paths
    )
    assert (budget.requests, budget.tokens, budget.usd) == (4, 80, 1.5)
    with pytest.raises(StoppedShort, match=r"budget\.usd: \$1\.5000 of \$1\.4 are already used"):
        budget.count_request()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.journal.sqlite",
        "b.journal.sqlite",
    ], "looking leaves no trace"


def test_an_unknown_price_costs_an_unknown_amount() -> None:
    assert BudgetTracker().cost(Usage(10, 10)) is None
    assert BudgetTracker(Price(prompt=0, completion=0)).cost(Usage(10, 10)) == 0


def test_a_replay_only_tracker_sends_nothing() -> None:
    with pytest.raises(StoppedShort):
        BudgetTracker(replay_only=True).count_request()
