"""Beam search over whole lines, from which the paper's hard labels are read (Table 5).

At temperature 0 a line ranks by the log-probability of all its tokens, the line end included, not
divided by their number. Above it lines are drawn without replacement (Kool et al., 2019,
"Stochastic Beams and Where to Find Them"): Gumbel noise is added to log-probabilities so that the
lines with the highest ranks are a sample. As usual, a line end counts only if it is among the best
continuations of its step, so a width of 1 at temperature 0 is greedy decoding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..port import Request
from .decoder import Decoder
from .prompt_reader import PromptReader
from .tokenization import LINE_END


@dataclass(frozen=True)
class BeamHypothesis:
    """A line that left the search.

    Attributes:
        text: without the line end.
        num_tokens: with the token that ended it.
        logprob: of all tokens, natural logarithm, before temperature.
        rank: the search's order: `logprob`, or its perturbed value if lines are drawn.
        finished: False if `max_tokens` came before the line end.
    """

    text: str
    num_tokens: int
    logprob: float
    rank: float
    finished: bool


@torch.inference_mode()
def beam_search(
    decoder: Decoder, prompts: Sequence[list[int]], requests: Sequence[Request], max_rows: int
) -> list[list[BeamHypothesis]]:
    """Return for each prompt up to `beams` different lines, highest rank first.

    Args:
        decoder: the model.
        prompts: tokens, at least one each.
        requests: theirs; they agree in beams, max_tokens and temperature.
        max_rows: the most beams at a time; the beams of one prompt always run together.
    """
    size = max(1, max_rows // requests[0].beams)
    results: list[list[BeamHypothesis]] = []
    for start in range(0, len(prompts), size):
        part = slice(start, start + size)
        results += _BeamSearch(decoder, prompts[part], requests[part]).run()
    return results


class _BeamSearch:
    """The beams of a few prompts, `width` of them each. Tensors are (prompts, width, ...)."""

    def __init__(
        self, decoder: Decoder, prompts: Sequence[list[int]], requests: Sequence[Request]
    ) -> None:
        self._decoder, self._prompts = decoder, prompts
        self._width, self._max_tokens = requests[0].beams, requests[0].max_tokens
        self._temperature = requests[0].temperature
        self._generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        self._device = device = decoder.model.device
        read = [prompt[:-1] for prompt in prompts]
        past, mask = PromptReader(decoder, read).read(read)
        self._past = [
            (keys.repeat_interleave(self._width, 0), values.repeat_interleave(self._width, 0))
            for keys, values in past
        ]
        self._mask = mask.repeat_interleave(self._width, 0)
        last = torch.tensor([[prompt[-1], len(prompt) - 1] for prompt in prompts], device=device)
        self._ids, self._positions = last.repeat_interleave(self._width, 0).unbind(-1)
        # All beams of a prompt begin equal: only the first one counts until they differ.
        self._ranks = torch.full((len(prompts), self._width), -torch.inf, device=device)
        self._ranks[:, 0] = 0
        self._logprobs = torch.zeros_like(self._ranks)  # before temperature
        self._tempered = torch.zeros_like(self._ranks)  # after it
        self._tokens = self._ranks.new_zeros(len(prompts), self._width, 0, dtype=torch.long)
        self._may_end = decoder.tokenizer.may_end_text((), decoder.config.vocab_size).to(device)
        # By text: lines that differ in their tokens only are one.
        self._hypotheses: list[dict[str, BeamHypothesis]] = [{} for _ in prompts]

    def run(self) -> list[list[BeamHypothesis]]:
        """Run steps until no beam can rank among the best lines."""
        while self._tokens.shape[-1] < self._max_tokens and bool(self._ranks.isfinite().any()):
            self._step()
        for row, ranks in enumerate(self._ranks.tolist()):
            for beam, rank in enumerate(ranks):
                tokens, logprob = self._tokens[row, beam].tolist(), float(self._logprobs[row, beam])
                self._add_hypothesis(row, tokens, logprob, rank, finished=False)
        return [self._best(row) for row in range(len(self._prompts))]

    def _step(self) -> None:
        """Feed each beam's last token, rank all continuations, and set aside those that end."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        logits, self._past = self._decoder.forward(
            self._ids[:, None], self._mask, self._positions[:, None], self._past
        )
        logits = logits[:, -1].float().view(*self._ranks.shape, -1)
        logprobs = self._logprobs[:, :, None] + logits.log_softmax(-1)
        if self._temperature:
            tempered = self._tempered[:, :, None] + (logits / self._temperature).log_softmax(-1)
            ranks = self._perturbed_ranks(tempered)
        else:
            ranks = tempered = logprobs.masked_fill(~self._ranks.isfinite()[:, :, None], -torch.inf)
        size = ranks.shape[-1]
        best, index = ranks.flatten(1).topk(self._width)
        for row, column in (self._may_end[index % size] & best.isfinite()).nonzero().tolist():
            beam, token = divmod(int(index[row, column]), size)
            tokens = [*self._tokens[row, beam].tolist(), token]
            logprob, rank = float(logprobs[row, beam, token]), float(best[row, column])
            self._add_hypothesis(row, tokens, logprob, rank, finished=True)
        ranks = ranks.masked_fill(self._may_end, -torch.inf)
        self._ranks, index = ranks.flatten(1).topk(self._width)
        self._logprobs = logprobs.flatten(1).gather(1, index)
        self._tempered = tempered.flatten(1).gather(1, index)
        self._extend(index // size, index % size)

    def _extend(self, parents: torch.Tensor, tokens: torch.Tensor) -> None:
        earlier = self._tokens.gather(1, parents[:, :, None].expand_as(self._tokens))
        self._tokens = torch.cat([earlier, tokens[:, :, None]], -1)
        first_beam = torch.arange(len(parents), device=self._device)[:, None] * self._width
        source = (parents + first_beam).flatten()
        self._past = [(keys[source], values[source]) for keys, values in self._past]
        self._ids, self._positions = tokens.flatten(), self._positions + 1
        for row in range(len(self._prompts)):
            best = self._best(row)
            # No line ranks above the beam that it continues.
            if len(best) == self._width and float(self._ranks[row].max()) <= best[-1].rank:
                self._ranks[row] = -torch.inf

    def _perturbed_ranks(self, tempered: torch.Tensor) -> torch.Tensor:
        """Return the ranks of all continuations of lines that are drawn.

        They are log-probabilities plus Gumbel noise, shifted so that the highest one under a beam
        is the beam's own rank (section 4.1 of the paper).
        """
        noise = torch.stack(
            [
                torch.empty(tempered.shape[1:]).exponential_(generator=generator)
                for generator in self._generators
            ]
        )
        noisy = tempered - noise.clamp(min=1e-30).log().to(self._device)
        beams = self._ranks[:, :, None]
        highest = noisy.amax(-1, keepdim=True)
        # Appendix B.3 of the paper: shift so that the maximum is the beam's rank, without overflow.
        gap = (beams - noisy) + torch.log1p(-(noisy - highest).exp().clamp(max=1))
        ranks = beams - gap.clamp(min=0) - torch.log1p((-gap.abs()).exp())
        return ranks.masked_fill(~beams.isfinite(), -torch.inf)

    def _add_hypothesis(
        self, row: int, tokens: list[int], logprob: float, rank: float, finished: bool
    ) -> None:
        """Set a line aside, unless it is not among the best or its text is there already."""
        best = self._best(row)
        if rank == float("-inf") or (len(best) == self._width and rank <= best[-1].rank):
            return
        tokenizer, known = self._decoder.tokenizer, self._hypotheses[row]
        shown = tokens[:-1] if tokens[-1] in tokenizer.end_tokens else tokens
        text = tokenizer.decode_continuation(self._prompts[row], shown).split(LINE_END)[0]
        if text not in known or known[text].rank < rank:
            known[text] = BeamHypothesis(text, len(tokens), logprob, rank, finished)

    def _best(self, row: int) -> list[BeamHypothesis]:
        return sorted(self._hypotheses[row].values(), key=lambda line: -line.rank)[: self._width]
