"""Beam search: the likeliest whole lines, without drawing. The paper's hard labels are read off them (Table 5).

A line's likelihood is that of all its tokens, its end included; it is not divided by the length. As is usual, an end counts
only if it is among the likeliest continuations of its step, so that a width of 1 is greedy writing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .decoding import Decoder, shared_start
from .tokens import STOP

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Line:
    """A line that was found.

    Attributes:
        text: without the line's end.
        tokens: how many it has, with the one that ended it.
        logprob: of all of them together, in nats.
        finished: False if the limit came before the line's end.
    """

    text: str
    tokens: int
    logprob: float
    finished: bool


def search(decoder: Decoder, prompts: Sequence[list[int]], width: int, longest: int, side_by_side: int) -> list[list[Line]]:
    """Return for each prompt its likeliest lines, at most `width` different ones, the likeliest first.

    Args:
        decoder: the model.
        prompts: tokens, at least one each.
        width: how many lines are kept on their way.
        longest: the most tokens of a line.
        side_by_side: the most lines on their way; of one prompt there are always `width`.
    """
    import torch

    many = max(1, side_by_side // width)
    found: list[list[Line]] = []
    with torch.inference_mode():
        for start in range(0, len(prompts), many):
            found += _Beams(decoder, prompts[start : start + many], width, longest).run()
    return found


class _Beams:
    """The lines of a few prompts that are on their way, `width` for each."""

    def __init__(self, decoder: Decoder, prompts: Sequence[list[int]], width: int, longest: int) -> None:
        import torch

        self._decoder, self._prompts, self._width, self._longest = decoder, prompts, width, longest
        self._device = decoder.model.device
        layers, mask = decoder.read([prompt[:-1] for prompt in prompts], shared_start(prompts))
        self._layers = [(keys.repeat_interleave(width, 0), values.repeat_interleave(width, 0)) for keys, values in layers]
        self._mask = mask.repeat_interleave(width, 0)
        self._ids = torch.tensor([prompt[-1] for prompt in prompts], device=self._device).repeat_interleave(width)
        self._positions = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self._device).repeat_interleave(width)
        # All begin alike: only the first counts, until they differ.
        self._scores = torch.full((len(prompts), width), -torch.inf, device=self._device)
        self._scores[:, 0] = 0
        self._written = torch.zeros(len(prompts), width, 0, dtype=torch.long, device=self._device)
        self._closers: torch.Tensor | None = None
        self._ended: list[dict[str, Line]] = [{} for _ in prompts]  # by text: lines that differ in their tokens only are one

    def run(self) -> list[list[Line]]:
        """Go on until no line on its way can become one of the likeliest."""
        for _ in range(self._longest):
            self._step()
            if not bool(self._scores.isfinite().any()):
                break
        for row, scores in enumerate(self._scores.tolist()):
            for beam in range(self._width):
                self._end(row, self._written[row, beam].tolist(), scores[beam], finished=False)
        return [self._best(row) for row in range(len(self._prompts))]

    def _step(self) -> None:
        """Feed each line's last token, keep the likeliest continuations, and put by those that have ended."""
        import torch

        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        logits, self._layers = self._decoder.forward(self._ids[:, None], self._mask, self._positions[:, None], self._layers, keep=1)
        total = self._scores[:, :, None] + logits[:, -1].float().log_softmax(-1).view(*self._scores.shape, -1)
        vocabulary = total.shape[-1]
        if self._closers is None:
            self._closers = self._decoder.tokens.closers("", vocabulary).to(self._device)
        ends = self._closers
        likeliest, places = total.flatten(1).topk(self._width)
        for row, beam in (ends[places % vocabulary] & likeliest.isfinite()).nonzero().tolist():
            place = int(places[row, beam])
            self._end(row, [*self._written[row, place // vocabulary].tolist(), place % vocabulary], float(likeliest[row, beam]), finished=True)
        self._scores, places = total.masked_fill_(ends, -torch.inf).flatten(1).topk(self._width)
        parents, tokens = places // vocabulary, places % vocabulary
        self._written = torch.cat([self._written.gather(1, parents[:, :, None].expand_as(self._written)), tokens[:, :, None]], -1)
        source = (parents + torch.arange(len(parents), device=self._device)[:, None] * self._width).flatten()
        self._layers = [(keys[source], values[source]) for keys, values in self._layers]
        self._ids, self._positions = tokens.flatten(), self._positions + 1
        for row in range(len(self._prompts)):
            best = self._best(row)
            # A line only becomes less likely as it grows.
            if len(best) == self._width and float(self._scores[row].max()) <= best[-1].logprob:
                self._scores[row] = -torch.inf

    def _end(self, row: int, tokens: list[int], logprob: float, finished: bool) -> None:
        """Put a line by, unless it cannot be one of the likeliest or stands there already."""
        best = self._best(row)
        if logprob == float("-inf") or (len(best) == self._width and logprob <= best[-1].logprob):
            return
        spoken = tokens[:-1] if tokens[-1] in self._decoder.tokens.ends else tokens
        text = self._decoder.tokens.spell(self._prompts[row], spoken).split(STOP)[0]
        if text not in self._ended[row] or self._ended[row][text].logprob < logprob:
            self._ended[row][text] = Line(text, len(tokens), logprob, finished)

    def _best(self, row: int) -> list[Line]:
        return sorted(self._ended[row].values(), key=lambda line: -line.logprob)[: self._width]
