"""How many requests a row takes at an endpoint, and what its tokens cost: what `plan` shows before anything is asked."""

from collections.abc import Callable

from ...settings import OpenAISettings
from ..port import CostModel, Request
from .budget import Price
from .label_scores import TOKEN_MARGIN
from .probe import SOURCES
from .protocol import Capabilities, Usage


def cost_model(
    settings: OpenAISettings,
    price: Price | None,
    ways: Capabilities | None,
    count: Callable[[str], int],
    request: Request,
) -> CostModel:
    """Return what an attempt takes.

    Args:
        settings: of the endpoint.
        price: of the model; None if it is unknown.
        ways: how the server is asked; None before it was probed: then `auto` is taken to find labels beside the line.
        count: how many tokens a text has.
        request: one of the attempts.
    """
    many = ways is None or ways.many
    named = "decision" if settings.api == "decisions" else settings.label_source
    source = ways.labels if ways else "echo" if named == "exact" else named
    alone, written = 1, 1
    if source == "echo":
        alone = len(request.choices)
    elif source == "vote":
        each = max(map(count, request.choices), default=0) + TOKEN_MARGIN
        alone, written = (1, each * settings.num_votes) if many else (settings.num_votes, each)
    apart = source in ("decision", "vote") or (ways is not None and not ways.tells_raw(request))
    further = alone if request.choices and apart else 0
    if request.beams:  # lines that are drawn one by one: each is a request of its own where `n` cannot be asked for
        further, written = 0 if many else request.beams - 1, 0
    found = (
        f"label scores {SOURCES[ways.labels]}, as the server was found to offer"
        if ways
        else "assumed, since the server was not probed yet"
    )
    remarks = [
        f"requests: {1 + further} a row ({found})"
        if request.choices
        else f"requests: {1 + further} for {request.beams} lines"
    ]
    if not settings.tokenizer:
        remarks.append(
            "tokens are estimated from the texts' bytes, right within a quarter; lm.tokenizer has them counted"
        )
    if price is None:
        remarks.append("dollars are unknown; lm.prices names a file of prices")
    return CostModel(
        usd=lambda read, wrote: (
            price.of(Usage(round(read), round(wrote)), settings.batch) if price else None
        ),
        label_requests=further,
        label_tokens=written,
        score_requests=alone,
        whole_line=True,
        remarks=tuple(remarks),
    )
