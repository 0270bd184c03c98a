"""Draws the next token of many rows at once.

What a row draws depends on its request's seed and on its own logits only. The order: frequency
penalty, temperature, then top-p and min-p, both of the distribution after temperature; a token is
drawn only if both keep it.
"""

import torch

from ..port import Request

CDF_CHUNK_TOKENS = 128  # probabilities are summed over chunks before any single one is looked at


class Sampler:
    """The sampling parameters, generated tokens and random numbers of each row.

    Attributes:
        tokens: generated token ids, (rows, max_tokens).
        counts: how many of them are set, (rows,).
    """

    def __init__(self, rows: int, max_tokens: int, device: torch.device) -> None:
        self._columns = torch.arange(max_tokens, device=device)
        self.tokens = torch.zeros(rows, max_tokens, dtype=torch.long, device=device)
        self.counts = torch.zeros(rows, dtype=torch.long, device=device)
        self._uniforms = torch.zeros(rows, max_tokens, dtype=torch.float64, device=device)
        # temperature, top_p, min_p, frequency_penalty
        self._parameters = torch.tensor([[1.0, 1.0, 0.0, 0.0]], device=device).repeat(rows, 1)
        self._any_top_p = self._any_min_p = self._any_greedy = self._any_penalty = False

    def assign(self, row: int, request: Request) -> None:
        """Start a request in a row."""
        generator = torch.Generator().manual_seed(request.seed)
        uniforms = torch.rand(request.max_tokens, generator=generator, dtype=torch.float64)
        self._uniforms[row, : request.max_tokens] = uniforms.to(self._uniforms.device)
        self._parameters[row] = torch.tensor(
            [request.temperature, request.top_p, request.min_p, request.frequency_penalty]
        )
        self.counts[row] = 0
        self._any_top_p |= request.top_p < 1
        self._any_min_p |= request.min_p > 0
        self._any_greedy |= request.temperature == 0
        self._any_penalty |= request.frequency_penalty != 0

    def select(self, rows: torch.Tensor) -> None:
        """Keep only these rows, in this order."""
        for name in ("tokens", "counts", "_uniforms", "_parameters"):
            setattr(self, name, getattr(self, name)[rows])

    def draw(self, logits: torch.Tensor, generating: torch.Tensor) -> torch.Tensor:
        """Return the next token of each row, (rows,), and record it where `generating`.

        Args:
            logits: (rows, vocabulary), float32; not changed.
            generating: (rows,), bool.
        """
        temperature, top_p, min_p, penalty = self._parameters.unbind(-1)
        if self._any_penalty:
            # A token that was generated c times occurs c times in the index: c penalties are added.
            penalties = torch.where(self._columns < self.counts[:, None], -penalty[:, None], 0.0)
            logits = logits.scatter_add(-1, self.tokens, penalties)
        weights = (
            (logits - logits.amax(-1, keepdim=True))
            .div_(temperature.clamp(min=1e-6)[:, None])
            .exp_()
        )
        index = self.counts.clamp(max=len(self._columns) - 1)[:, None]
        uniforms = self._uniforms.gather(-1, index)
        order = None
        if self._any_top_p:
            weights, order = _nucleus(weights, top_p)
        if self._any_min_p:
            # The most probable token has weight 1 (Nguyen et al., 2024, "Turning Up the Heat:
            # Min-p Sampling for Creative and Coherent LLM Outputs").
            weights = weights.masked_fill(weights < min_p[:, None], 0)
        token = inverse_cdf(weights, uniforms)
        if order is not None:
            token = order.gather(-1, token[:, None])[:, 0]
        if self._any_greedy:
            token = torch.where(temperature > 0, token, logits.argmax(-1))
        recorded = torch.where(generating[:, None], token[:, None], self.tokens.gather(-1, index))
        self.tokens.scatter_(-1, index, recorded)
        self.counts += generating
        return token


def _nucleus(weights: torch.Tensor, top_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights with those outside the nucleus set to 0, and the token ids they are of.

    Both are (rows, vocabulary): sorted, most probable first, in rows with top_p < 1.
    """
    ranked, ranks = weights.sort(-1, descending=True)
    probs = ranked / ranked.sum(-1, keepdim=True)
    # A token stays if those before it have not reached top_p; so the first one always stays.
    ranked = ranked.masked_fill(probs.cumsum(-1) - probs >= top_p[:, None], 0)
    # A row with top_p 1 stays unsorted, so that its draws do not depend on its neighbours.
    truncated = (top_p < 1)[:, None]
    unsorted = torch.arange(weights.shape[-1], device=weights.device)
    return torch.where(truncated, ranked, weights), torch.where(truncated, ranks, unsorted)


def inverse_cdf(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return the token at which the cumulative distribution exceeds a uniform number, (rows,).

    Weights are summed over chunks first, and in float64, so that the tail keeps its probability and
    the cumulative sum of the whole vocabulary is never computed.

    Args:
        weights: not normalized, (rows, vocabulary).
        uniforms: in [0, 1), (rows, 1), float64.
    """
    rows, vocabulary = weights.shape
    if vocabulary % CDF_CHUNK_TOKENS:
        weights = torch.nn.functional.pad(weights, (0, -vocabulary % CDF_CHUNK_TOKENS))
    chunks = weights.view(rows, -1, CDF_CHUNK_TOKENS)
    cumulative = chunks.sum(-1).double().cumsum(-1)
    # Below the total even after rounding.
    target = uniforms.clamp(max=1 - 1e-12) * cumulative[:, -1:]
    chunk = torch.searchsorted(cumulative, target, right=True).clamp(max=chunks.shape[1] - 1)
    before = torch.where(chunk > 0, cumulative.gather(-1, (chunk - 1).clamp(min=0)), 0.0)
    inside = chunks[torch.arange(rows, device=weights.device), chunk[:, 0]].double().cumsum(-1)
    # The chunk's sum was rounded, so the remainder may lie just beyond its last token.
    remainder = torch.minimum((target - before).clamp(min=0), inside[:, -1:] * (1 - 1e-12))
    offset = torch.searchsorted(inside, remainder, right=True)
    return (chunk * CDF_CHUNK_TOKENS + offset)[:, 0].clamp(max=vocabulary - 1)
