"""Beam search over whole lines, from which the paper's hard labels are read (Table 5): the likeliest lines, or drawn ones.

At temperature 0 a line ranks by the log-probability of all its tokens, its end included, not divided by their number. Above
it lines are drawn without replacement (stochastic beam search, Kool et al., 2019, "Stochastic Beams and Where to Find
Them"): noise is added to each beam's log-probability so that a beam's best continuation ranks as the beam itself, and the
lines that rank highest are a sample. As is usual, an end counts only if it is among the best continuations of its step, so
that a width of 1 is greedy writing at temperature 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..port import Request
from .decoder import Decoder, Prompts
from .tokenization import STOP

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Line:
    """A line that was found.

    Attributes:
        text: without the line's end.
        tokens: how many it has, with the one that ended it.
        logprob: of all of them together, in nats, before temperature.
        rank: by which lines are compared: `logprob`, or with noise where lines are drawn.
        finished: False if the limit came before the line's end.
    """

    text: str
    tokens: int
    logprob: float
    rank: float
    finished: bool


def search(
    decoder: Decoder, prompts: Sequence[list[int]], requests: Sequence[Request], side_by_side: int
) -> list[list[Line]]:
    """Return for each prompt at most `beams` different lines, the highest rank first.

    Args:
        decoder: the model.
        prompts: tokens, at least one each.
        requests: theirs, alike in beams, max_tokens and temperature.
        side_by_side: the most lines on their way; of one prompt there are always `beams`.
    """
    import torch

    many = max(1, side_by_side // requests[0].beams)
    found: list[list[Line]] = []
    with torch.inference_mode():
        for start in range(0, len(prompts), many):
            found += _Beams(
                decoder, prompts[start : start + many], requests[start : start + many]
            ).run()
    return found


class _Beams:
    """The lines of a few prompts that are on their way, `width` for each."""

    def __init__(
        self, decoder: Decoder, prompts: Sequence[list[int]], requests: Sequence[Request]
    ) -> None:
        import torch

        self._decoder, self._prompts = decoder, prompts
        self._width, self._longest, self._temperature = (
            requests[0].beams,
            requests[0].max_tokens,
            requests[0].temperature,
        )
        self._generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        self._device = decoder.model.device
        before = [prompt[:-1] for prompt in prompts]
        layers, mask = Prompts(decoder, before).read(before)
        self._layers = [
            (keys.repeat_interleave(self._width, 0), values.repeat_interleave(self._width, 0))
            for keys, values in layers
        ]
        self._mask = mask.repeat_interleave(self._width, 0)
        self._ids = torch.tensor(
            [prompt[-1] for prompt in prompts], device=self._device
        ).repeat_interleave(self._width)
        self._positions = torch.tensor(
            [len(prompt) - 1 for prompt in prompts], device=self._device
        ).repeat_interleave(self._width)
        # All begin alike: only the first counts, until they differ.
        self._ranks = torch.full((len(prompts), self._width), -torch.inf, device=self._device)
        self._ranks[:, 0] = 0
        self._logprobs = torch.zeros_like(self._ranks)
        self._tempered = torch.zeros_like(self._ranks)
        self._written = torch.zeros(
            len(prompts), self._width, 0, dtype=torch.long, device=self._device
        )
        self._closers: torch.Tensor | None = None
        self._ended: list[dict[str, Line]] = [
            {} for _ in prompts
        ]  # by text: lines that differ in their tokens only are one

    def run(self) -> list[list[Line]]:
        """Go on until no line on its way can rank among the best."""
        for _ in range(self._longest):
            self._step()
            if not bool(self._ranks.isfinite().any()):
                break
        for row, ranks in enumerate(self._ranks.tolist()):
            for beam in range(self._width):
                self._end(
                    row,
                    self._written[row, beam].tolist(),
                    float(self._logprobs[row, beam]),
                    ranks[beam],
                    finished=False,
                )
        return [self._best(row) for row in range(len(self._prompts))]

    def _step(self) -> None:
        """Feed each line's last token, keep the best continuations, and put by those that have ended."""
        import torch

        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        logits, self._layers = self._decoder.forward(
            self._ids[:, None], self._mask, self._positions[:, None], self._layers, keep=1
        )
        logits = logits[:, -1].float().view(*self._ranks.shape, -1)
        logprobs = self._logprobs[:, :, None] + logits.log_softmax(-1)
        if self._temperature:
            tempered = self._tempered[:, :, None] + (logits / self._temperature).log_softmax(-1)
            ranks = self._drawn(tempered)
        else:
            ranks = tempered = logprobs.masked_fill(~self._ranks.isfinite()[:, :, None], -torch.inf)
        vocabulary = ranks.shape[-1]
        if self._closers is None:
            self._closers = self._decoder.tokens.closers("", vocabulary).to(self._device)
        ends = self._closers
        best, places = ranks.flatten(1).topk(self._width)
        for row, place_of in (ends[places % vocabulary] & best.isfinite()).nonzero().tolist():
            place = int(places[row, place_of])
            beam, token = place // vocabulary, place % vocabulary
            self._end(
                row, [*self._written[row, beam].tolist(), token], float(logprobs[row, beam, token]), float(best[row, place_of]), finished=True
            )  # fmt: skip
        self._ranks, places = ranks.masked_fill(ends, -torch.inf).flatten(1).topk(self._width)
        self._go_on(
            places // vocabulary,
            places % vocabulary,
            logprobs.flatten(1).gather(1, places),
            tempered.flatten(1).gather(1, places),
        )

    def _go_on(
        self,
        parents: "torch.Tensor",
        tokens: "torch.Tensor",
        logprobs: "torch.Tensor",
        tempered: "torch.Tensor",
    ) -> None:
        """Make the chosen continuations, all (prompts, width), the lines on their way."""
        import torch

        self._logprobs, self._tempered = logprobs, tempered
        self._written = torch.cat(
            [
                self._written.gather(1, parents[:, :, None].expand_as(self._written)),
                tokens[:, :, None],
            ],
            -1,
        )
        source = (
            parents + torch.arange(len(parents), device=self._device)[:, None] * self._width
        ).flatten()
        self._layers = [(keys[source], values[source]) for keys, values in self._layers]
        self._ids, self._positions = tokens.flatten(), self._positions + 1
        for row in range(len(self._prompts)):
            best = self._best(row)
            # No line ranks above the one that it continues.
            if len(best) == self._width and float(self._ranks[row].max()) <= best[-1].rank:
                self._ranks[row] = -torch.inf

    def _drawn(self, tempered: "torch.Tensor") -> "torch.Tensor":
        """Return the rank of each continuation: Gumbel noise whose greatest value under a beam is the beam's own (section 4.1)."""
        import torch

        noise = torch.stack(
            [
                torch.empty(tempered.shape[1:]).exponential_(generator=generator)
                for generator in self._generators
            ]
        )
        noisy = tempered - noise.clamp(min=1e-30).log().to(self._device)
        beams = self._ranks[:, :, None]
        highest = noisy.amax(-1, keepdim=True)
        # Appendix B.3 of the paper: shift the noise so that its maximum is the beam's rank, without overflow.
        gap = (beams - noisy) + torch.log1p(-(noisy - highest).exp().clamp(max=1))
        ranks = beams - gap.clamp(min=0) - torch.log1p((-gap.abs()).exp())
        return ranks.masked_fill(~beams.isfinite(), -torch.inf)

    def _end(
        self, row: int, tokens: list[int], logprob: float, rank: float, finished: bool
    ) -> None:
        """Put a line by, unless it cannot be one of the best or stands there already."""
        best = self._best(row)
        if rank == float("-inf") or (len(best) == self._width and rank <= best[-1].rank):
            return
        spoken = tokens[:-1] if tokens[-1] in self._decoder.tokens.ends else tokens
        text = self._decoder.tokens.spell(self._prompts[row], spoken).split(STOP)[0]
        if text not in self._ended[row] or self._ended[row][text].rank < rank:
            self._ended[row][text] = Line(text, len(tokens), logprob, rank, finished)

    def _best(self, row: int) -> list[Line]:
        return sorted(self._ended[row].values(), key=lambda line: -line.rank)[: self._width]
