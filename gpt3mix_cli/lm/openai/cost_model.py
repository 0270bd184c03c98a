"""Estimates what a row costs at an endpoint: what `plan` shows before anything is sent."""

from collections.abc import Callable

from ...settings import OpenAISettings
from ..port import CostModel, Request
from .budget import Price
from .capabilities import Capabilities
from .label_scorer import TOKEN_MARGIN
from .responses import Usage


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
    label_requests, written, separate = _label_cost(settings, capabilities, count_tokens, request)
    further = label_requests if request.choices and separate else 0
    if request.beams:  # sampled lines, each its own request if the server does not support `n`
        supports_n = capabilities is None or capabilities.supports_n
        further, written = 0 if supports_n else request.beams - 1, 0

    def usd(read: float, wrote: float) -> float | None:
        usage = Usage(round(read), round(wrote))
        return price.cost(usage, settings.batch) if price else None

    return CostModel(
        usd=usd,
        label_requests=further,
        label_tokens=written,
        score_requests=label_requests,
        whole_line=True,
        remarks=tuple(_remarks(settings, price, capabilities, request, further)),
    )


def _label_cost(
    settings: OpenAISettings,
    capabilities: Capabilities | None,
    count_tokens: Callable[[str], int],
    request: Request,
) -> tuple[int, int, bool]:
    """Return a label's requests, the tokens written in each, and whether they are always needed."""
    method: str = "decision" if settings.api == "decisions" else settings.label_source
    supports_n, separate = True, False
    if capabilities:
        method, supports_n = capabilities.label_method, capabilities.supports_n
        separate = not capabilities.returns_raw_logprobs(request)
    separate = separate or method in ("decision", "vote")
    if method in ("echo", "exact"):
        return len(request.choices), 1, separate
    if method == "vote":
        tokens = max(map(count_tokens, request.choices), default=0) + TOKEN_MARGIN
        requests = 1 if supports_n else settings.num_votes
        return requests, tokens * settings.num_votes // requests, separate
    return 1, 1, separate


def _remarks(
    settings: OpenAISettings,
    price: Price | None,
    capabilities: Capabilities | None,
    request: Request,
    further: int,
) -> list[str]:
    source = "assumed, because the server was not probed yet"
    if capabilities:
        source = f"label scores {capabilities.label_source}, as the probe of the server found"
    remarks = [f"requests: {1 + further} for {request.beams} lines"]
    if request.choices:
        remarks = [f"requests: {1 + further} a row ({source})"]
    if not settings.tokenizer:
        remarks.append(
            "tokens are estimated from the size of the text, within 25 %; "
            "set lm.tokenizer to count them"
        )
    if price is None:
        remarks.append("dollars are unknown; set lm.prices to a file of prices")
    return remarks
