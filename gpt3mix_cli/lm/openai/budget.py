"""What an endpoint costs: prices from a file of the user's, what was spent, and the budget that must not be passed.

Prices are never guessed: a model that the file does not name costs an unknown amount. What was spent before is summed
over the journals, so a budget holds over all runs of an experiment.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydantic

from ...errors import StoppedShort, UserError, did_you_mean
from ...settings import Budget, Settings
from ..journal import total_spent
from ..port import REPLAY_ONLY
from .protocol import Usage

A_MILLION = 1_000_000


class Price(Settings):
    """Dollars for a million tokens."""

    prompt: float = pydantic.Field(ge=0)
    completion: float = pydantic.Field(ge=0)
    cached_prompt: float | None = pydantic.Field(None, ge=0)
    batch: float = pydantic.Field(
        1.0, ge=0, le=1, description="what a batch costs as a share of that"
    )

    def of(self, usage: Usage, batch: bool = False) -> float:
        """Return what the tokens cost, in dollars."""
        cached = self.prompt if self.cached_prompt is None else self.cached_prompt
        whole = (
            (usage.prompt - usage.cached) * self.prompt
            + usage.cached * cached
            + usage.completion * self.completion
        )
        return whole / A_MILLION * (self.batch if batch else 1.0)


class Prices(Settings):
    """A price file; `version` says of when its prices are, and stands in what is counted with them."""

    version: str
    models: dict[str, Price]


def price_of(model: str, file: str | None) -> tuple[Price | None, str]:
    """Return the price of a model and the version of the file; no price where there is no file.

    Raises:
        UserError: if the file is wrong or does not name the model.
    """
    if file is None:
        return None, ""
    import yaml

    path = Path(file)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        prices = Prices.model_validate(
            raw | {"version": str(raw.get("version"))}
            if isinstance(raw, dict) and raw.get("version")
            else raw
        )
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"lm.prices: {path}: cannot be read: {error}", "give the path of a file of prices"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(
            f"lm.prices: {path}: no valid YAML: {error}", "see README, 'What it costs'"
        ) from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"lm.prices: {path}: {where}: {first['msg'].lower()}",
            "see README, 'What it costs', for the form of the file",
        ) from None
    if model not in prices.models:
        near = did_you_mean(model, prices.models)
        raise UserError(
            f"lm.prices: {path} has no price for the model '{model}'{near}",
            "add it, or leave lm.prices out: money is then unknown",
        )
    return prices.models[model], prices.version


@dataclass
class BudgetTracker:
    """What was spent, and what may be.

    Attributes:
        price: of the model; None if it is unknown.
        budget: the user's.
        journals: names the files that hold what was spent before.
        closed: nothing may be sent at all.
    """

    price: Price | None = None
    budget: Budget | None = None
    journals: Callable[[], Sequence[Path]] = list
    closed: bool = False
    requests: int = field(init=False, default=0)
    tokens: int = field(init=False, default=0)
    usd: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        """Sum what was spent before."""
        self.recount()

    def recount(self) -> None:
        """Sum what stands in the journals: other runs of the experiment may have spent too."""
        if self.budget:
            spent = total_spent(*self.journals())
            self.requests, self.tokens, self.usd = spent.requests, spent.tokens, spent.usd

    def costs(self, usage: Usage, batch: bool = False) -> float | None:
        """Return what an answer costs in dollars; None if that is unknown."""
        return self.price.of(usage, batch) if self.price else None

    def send(self) -> None:
        """Take note of a request that is about to be sent.

        Raises:
            StoppedShort: if the budget is used up, or the purse is closed.
        """
        if self.closed:
            raise StoppedShort(REPLAY_ONLY)
        for name, spent, limit in self._limits():
            if spent >= limit:
                shown = (
                    f"${spent:.4f} of ${limit:g}"
                    if name == "usd"
                    else f"{spent:,} of {limit:,} {name}"
                )
                raise StoppedShort(
                    f"budget.{name}: {shown} are spent, over all runs",
                    f"raise budget.{name}, and run again: answers are kept",
                )
        self.requests += 1

    def reserve(self, requests: int, most: Usage, usd: float | None) -> None:
        """Take note of requests that are about to go out together, with the most that they can cost.

        Raises:
            StoppedShort: if the budget does not hold all of them.
        """
        adds = {
            "requests": float(requests),
            "tokens": float(most.prompt + most.completion),
            "usd": usd or 0.0,
        }
        for name, spent, limit in self._limits():
            if spent + adds[name] > limit:
                figures = (
                    f"${adds[name]:.4f}, ${spent:.4f} of ${limit:g}"
                    if name == "usd"
                    else f"{adds[name]:,.0f}, {spent:,} of {limit:,}"
                )
                message = f"budget.{name}: {requests} requests in a batch may take {figures} are spent, over all runs"
                raise StoppedShort(
                    message, f"raise budget.{name}, or make fewer rows with augment.ratio"
                )
        self.requests += requests
        self.pay(most, usd)

    def _limits(self) -> list[tuple[str, float, float]]:
        """Return of each limit of the budget its name, what is spent, and itself."""
        budget = self.budget or Budget()
        all_three = [
            ("requests", self.requests, budget.requests),
            ("tokens", self.tokens, budget.tokens),
            ("usd", self.usd, budget.usd),
        ]
        return [(name, spent, limit) for name, spent, limit in all_three if limit is not None]

    def pay(self, usage: Usage, usd: float | None) -> None:
        """Take note of what an answer has cost."""
        self.tokens += usage.prompt + usage.completion
        self.usd += usd or 0.0
