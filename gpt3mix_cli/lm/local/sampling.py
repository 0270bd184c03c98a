"""Draws the next token of many rows at once; a row's draws depend on its request's seed and its own logits only."""

from typing import TYPE_CHECKING

from ..port import Request

if TYPE_CHECKING:
    import torch

CHUNK = 128  # tokens whose probabilities are summed before any is looked at by itself


class Sampler:
    """The drawing parameters of each row, what it has written, and its random numbers.

    Attributes:
        written: token ids, (rows, longest).
        counts: how many of them there are, (rows,).
    """

    def __init__(self, rows: int, longest: int, device: "torch.device") -> None:
        """Make room for rows that are set later."""
        import torch

        self._columns = torch.arange(longest, device=device)
        self.written = torch.zeros(rows, longest, dtype=torch.long, device=device)
        self.counts = torch.zeros(rows, dtype=torch.long, device=device)
        self._uniforms = torch.zeros(rows, longest, dtype=torch.float64, device=device)
        self._parameters = torch.tensor([[1.0, 1.0, 0.0]], device=device).repeat(
            rows, 1
        )  # temperature, top_p, frequency_penalty
        self._some_top_p = self._some_greedy = self._some_penalty = False

    def set(self, row: int, request: Request) -> None:
        """Give a row to a request."""
        import torch

        drawn = torch.rand(
            request.max_tokens,
            generator=torch.Generator().manual_seed(request.seed),
            dtype=torch.float64,
        )
        self._uniforms[row, : request.max_tokens] = drawn.to(self._uniforms.device)
        self._parameters[row] = torch.tensor(
            [request.temperature, request.top_p, request.frequency_penalty]
        )
        self.counts[row] = 0
        self._some_top_p |= request.top_p < 1
        self._some_greedy |= request.temperature == 0
        self._some_penalty |= request.frequency_penalty != 0

    def select(self, rows: "torch.Tensor") -> None:
        """Keep only these rows, in this order."""
        for name in ("written", "counts", "_uniforms", "_parameters"):
            setattr(self, name, getattr(self, name)[rows])

    def draw(self, logits: "torch.Tensor", writing: "torch.Tensor") -> "torch.Tensor":
        """Return the next token of each row, (rows,), and note it for the rows that are `writing`.

        Args:
            logits: (rows, vocabulary), float32; not changed.
            writing: (rows,), bool.
        """
        import torch

        temperature, top_p, penalty = self._parameters.unbind(-1)
        if self._some_penalty:
            # A token that was written c times loses c penalties: its index stands there c times.
            each = torch.where(self._columns < self.counts[:, None], -penalty[:, None], 0.0)
            logits = logits.scatter_add(-1, self.written, each)
        weights = (
            (logits - logits.amax(-1, keepdim=True))
            .div_(temperature.clamp(min=1e-6)[:, None])
            .exp_()
        )
        order = None
        if self._some_top_p:
            weights, order = _nucleus(weights, top_p)
        drawn = _inverse(
            weights,
            self._uniforms.gather(-1, self.counts.clamp(max=len(self._columns) - 1)[:, None]),
        )
        token = drawn if order is None else order.gather(-1, drawn[:, None])[:, 0]
        if self._some_greedy:
            token = torch.where(temperature > 0, token, logits.argmax(-1))
        place = self.counts.clamp(max=len(self._columns) - 1)[:, None]
        self.written.scatter_(
            -1, place, torch.where(writing[:, None], token[:, None], self.written.gather(-1, place))
        )
        self.counts += writing
        return token


def _nucleus(weights: "torch.Tensor", top_p: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Return weights with only the likeliest tokens that reach top_p together, and which tokens they are."""
    import torch

    ranked, ranks = weights.sort(-1, descending=True)
    probs = ranked / ranked.sum(-1, keepdim=True)
    # A token stays if those before it have not yet reached top_p: the first one always does.
    ranked = ranked.masked_fill(probs.cumsum(-1) - probs >= top_p[:, None], 0)
    # Rows that draw from all tokens keep their order, whatever their neighbours do.
    some = (top_p < 1)[:, None]
    own = torch.arange(weights.shape[-1], device=weights.device)
    return torch.where(some, ranked, weights), torch.where(some, ranks, own)


def _inverse(weights: "torch.Tensor", uniforms: "torch.Tensor") -> "torch.Tensor":
    """Return the token at which the cumulative distribution passes a uniform number, (rows,).

    Sums are taken over chunks first, and in float64 so that the tail keeps its share: the whole distribution is never
    written out in cumulative form.

    Args:
        weights: not normalised, (rows, vocabulary).
        uniforms: in [0, 1), (rows, 1), float64.
    """
    import torch

    rows, vocabulary = weights.shape
    if vocabulary % CHUNK:
        weights = torch.nn.functional.pad(weights, (0, -vocabulary % CHUNK))
    chunks = weights.view(rows, -1, CHUNK)
    cumulative = chunks.sum(-1).double().cumsum(-1)
    wanted = (
        uniforms.clamp(max=1 - 1e-12) * cumulative[:, -1:]
    )  # below the sum even when it is rounded
    chunk = torch.searchsorted(cumulative, wanted, right=True).clamp(max=chunks.shape[1] - 1)
    before = torch.where(chunk > 0, cumulative.gather(-1, (chunk - 1).clamp(min=0)), 0.0)
    inside = chunks[torch.arange(rows, device=weights.device), chunk[:, 0]].double().cumsum(-1)
    # The chunk's sum was rounded: what is left may lie a hair beyond its last token.
    left = torch.minimum((wanted - before).clamp(min=0), inside[:, -1:] * (1 - 1e-12))
    found = torch.searchsorted(inside, left, right=True)
    return (chunk * CHUNK + found)[:, 0].clamp(max=vocabulary - 1)
