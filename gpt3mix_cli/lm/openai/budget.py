"""Prices, the budget that must not be exceeded, and estimates for `plan`.

Prices are never guessed: a model without one costs an unknown amount. Earlier costs are summed
over the journals, so that a budget applies to all runs of an experiment.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import pydantic

from ...errors import StoppedShort, UserError, did_you_mean
from ...settings import Budget, OpenAISettings, Settings
from ...stopping import stop_if_requested
from ...yaml_files import read_yaml
from ..journal import total_spent
from ..port import REPLAY_ONLY, CostModel, Request
from .label_scores import count_further_requests
from .requests import TOKEN_MARGIN, Capabilities
from .responses import Usage

TOKENS_PER_PRICE = 1_000_000


class Price(Settings):
    """Dollars per million tokens."""

    prompt: float = pydantic.Field(ge=0, le=1e6)
    completion: float = pydantic.Field(ge=0, le=1e6)
    cached_prompt: float | None = pydantic.Field(None, ge=0, le=1e6)
    batch: float = pydantic.Field(
        1.0, ge=0, le=1, description="price of a batch, as a fraction of the normal price"
    )

    def cost(self, usage: Usage, batch: bool = False) -> float:
        """Return the cost of tokens in dollars."""
        cached_price = self.prompt if self.cached_prompt is None else self.cached_prompt
        total = (
            (usage.prompt - usage.cached) * self.prompt
            + usage.cached * cached_price
            + usage.completion * self.completion
        )
        return total / TOKENS_PER_PRICE * (self.batch if batch else 1.0)


class PriceFile(Settings):
    """A file of prices; `version` is their date, which manifests repeat."""

    # YAML may read a date or a number.
    version: Annotated[str, pydantic.BeforeValidator(lambda value: str(value) if value else value)]
    models: dict[str, Price]


def load_price(model: str, file: str | None) -> tuple[Price | None, str]:
    """Return the price of a model and the version of the file; (None, "") without a file.

    Raises:
        UserError: if the file is invalid or has no price for the model.
    """
    if file is None:
        return None, ""
    prices = _load_prices(Path(file))
    if model not in prices.models:
        raise UserError(
            f"lm.prices: {file}: no price for the model '{model}'"
            + did_you_mean(model, prices.models),
            "add it, or omit lm.prices: costs in dollars are then unknown",
        )
    return prices.models[model], prices.version


def _load_prices(path: Path) -> PriceFile:
    try:
        return PriceFile.model_validate(read_yaml(path, "give the path of a file of prices"))
    except UserError as error:
        raise UserError(f"lm.prices: {error.message}", error.hint) from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"lm.prices: {path}: {key}: {first['msg'].lower()}",
            "see `gpt3mix guide cost` for the form of the file",
        ) from None


class BudgetTracker:
    """What was spent, and what may be spent.

    Args:
        price: of the model; None if unknown.
        budget: the user's limits.
        journals: returns the journals of earlier runs, whose costs count too.
        replay_only: whether no request may be sent at all.

    Attributes:
        requests: sent so far.
        tokens: prompt and completion tokens so far.
        usd: dollars so far, as far as they are known.
    """

    def __init__(
        self,
        price: Price | None = None,
        budget: Budget | None = None,
        journals: Callable[[], Sequence[Path]] = list,
        replay_only: bool = False,
    ) -> None:
        self.price, self.budget, self.replay_only = price, budget, replay_only
        self._journals = journals
        self.requests, self.tokens, self.usd = 0, 0, 0.0
        self.reload()

    def reload(self) -> None:
        """Sum the costs in the journals again: other runs may have spent too."""
        if self.budget:
            spent = total_spent(*self._journals())
            self.requests, self.tokens, self.usd = spent.requests, spent.tokens, spent.usd

    def cost(self, usage: Usage, batch: bool = False) -> float | None:
        """Return the cost of tokens in dollars; None if unknown."""
        return self.price.cost(usage, batch) if self.price else None

    def count_request(self) -> None:
        """Count a request that is about to be sent.

        Raises:
            StoppedShort: if the budget is used up, or nothing may be sent.
        """
        stop_if_requested()
        if self.replay_only:
            raise StoppedShort(REPLAY_ONLY)
        for name, used, limit in self._limits():
            if used >= limit:
                raise StoppedShort(
                    f"budget.{name}: {_used_of(name, used, limit)}",
                    f"raise budget.{name} and run again; answers so far are kept",
                )
        self.requests += 1

    def error_if_exceeded(self, usage: Usage) -> StoppedShort | None:
        """Return the error of a request that does not fit; None if it fits.

        Args:
            usage: of the request and of all that are in flight.
        """
        amounts = {"tokens": usage.prompt + usage.completion, "usd": self.cost(usage) or 0.0}
        for name, used, limit in self._limits():
            if used + amounts.get(name, 0) > limit:
                return StoppedShort(
                    f"budget.{name}: {_used_of(name, used, limit)}, and the next request would "
                    "exceed it",
                    f"raise budget.{name} and run again; answers so far are kept",
                )
        return None

    def reserve_batch(self, requests: int, usage: Usage, usd: float | None) -> None:
        """Count the requests of a batch that is about to be submitted, at their highest cost.

        Raises:
            StoppedShort: if that would exceed the budget.
        """
        amounts: dict[str, float] = {
            "requests": requests,
            "tokens": usage.prompt + usage.completion,
            "usd": usd or 0.0,
        }
        for name, used, limit in self._limits():
            amount = amounts[name]
            if used + amount > limit:
                shown = f"${amount:.4f}" if name == "usd" else f"{amount:,.0f} {name}"
                raise StoppedShort(
                    f"budget.{name}: this batch of {requests} requests may use up to {shown}; "
                    f"{_used_of(name, used, limit)}",
                    f"raise budget.{name}, or generate fewer rows with a lower augment.ratio",
                )
        self.requests += requests
        self.add_usage(usage, usd)

    def add_usage(self, usage: Usage, usd: float | None) -> None:
        """Count the tokens and dollars of an answer."""
        self.tokens += usage.prompt + usage.completion
        self.usd += usd or 0.0

    def _limits(self) -> list[tuple[str, float, float]]:
        budget = self.budget or Budget()
        limits = [
            ("requests", self.requests, budget.requests),
            ("tokens", self.tokens, budget.tokens),
            # Sums of small amounts are off by a rounding error.
            ("usd", round(self.usd, 9), budget.usd),
        ]
        return [(name, used, limit) for name, used, limit in limits if limit is not None]


def _used_of(name: str, used: float, limit: float) -> str:
    shown = f"${used:.4f} of ${limit:g}" if name == "usd" else f"{used:,} of {limit:,} {name}"
    return f"{shown} are already used (all runs)"


def estimate_cost(
    settings: OpenAISettings,
    price: Price | None,
    capabilities: Capabilities | None,
    count_tokens: Callable[[str], int],
    request: Request,
) -> CostModel:
    """Return what one attempt costs.

    Args:
        settings: of the endpoint.
        price: of the model; None if unknown.
        capabilities: of the server; None before a probe. `label_source: auto` is then assumed to
            get the labels with the line.
        count_tokens: returns the number of tokens of a text.
        request: one of the attempts.
    """
    method: str = "decision" if settings.api == "decisions" else settings.label_source
    if capabilities:
        method = capabilities.label_method
    likely = capabilities or Capabilities(supports_n=True)
    requests = tokens = 1
    if method in ("echo", "exact"):
        requests = len(request.choices)
    elif method == "vote":
        requests = len(likely.split_draws(settings.num_votes))
        longest = max(map(count_tokens, request.choices), default=0) + TOKEN_MARGIN
        tokens = longest * settings.num_votes // requests
    is_separate = not likely.returns_raw_logprobs(request) or method in ("decision", "vote")
    further = requests if request.choices and is_separate else 0
    whole = _requests_for_whole_labels(settings, capabilities, count_tokens, request)
    further += whole
    if request.beams:  # sampled lines, each its own request if the server does not support `n`
        further, tokens = len(likely.split_draws(request.beams)) - 1, 0
    return CostModel(
        usd=lambda read, written: (
            price.cost(Usage(round(read), round(written)), settings.batch) if price else None
        ),
        label_requests=further,
        label_tokens=tokens,
        score_requests=requests,
        whole_line=True,
        assumptions=tuple(_assumptions(settings, capabilities, request, 1 + further, whole)),
        remarks=() if price else ("dollars are unknown; set lm.prices to a file of prices",),
    )


def _requests_for_whole_labels(
    settings: OpenAISettings,
    capabilities: Capabilities | None,
    count_tokens: Callable[[str], int],
    request: Request,
) -> int:
    method: str = capabilities.label_method if capabilities else settings.label_source
    if method not in ("auto", "ids", "top_logprobs") or settings.api == "decisions":
        return 0
    chat = (capabilities.api if capabilities else settings.api) == "chat"
    tokenizer = count_tokens if settings.tokenizer else None
    further = count_further_requests(request.choices, chat, tokenizer)
    # A label that is not among the tokens of the line is first asked for with more of them.
    gets_more = capabilities is None or capabilities.most_logprobs > capabilities.top_logprobs
    return further + (further > 0 and gets_more and not chat)


def _assumptions(
    settings: OpenAISettings,
    capabilities: Capabilities | None,
    request: Request,
    requests: int,
    whole: int,
) -> list[str]:
    source = "assumed, because the server was not probed yet"
    if capabilities:
        source = f"label scores {capabilities.label_source}, as the probe of the server found"
    assumptions = [f"requests: {requests} for {request.beams} lines"]
    if request.choices:
        count = str(requests)
        if whole:
            count = f"{requests - whole} to {count}"
            source += "; labels seem to have several tokens, and all of them are read"
        assumptions = [f"requests: {count} a row ({source})"]
    if not settings.tokenizer:
        assumptions.append(
            "tokens are estimated from the size of the text, within 25 %; "
            "set lm.tokenizer to count them"
        )
    return assumptions
