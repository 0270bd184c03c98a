"""The local LM: a causal LM of the transformers library in this process, on a CPU or a GPU.

Requests are answered in fixed blocks, by `continuous_batch` or `beam_search`. One device runs the
model. The model must keep keys and values of every token in every layer, take positions, and attend
to all tokens or to the last ones. So models with a state (Mamba, RWKV), with positions of their own
(BLOOM) or with another attention (GPT-Neo, Llama 4) are refused.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ...errors import UserError
from ...pretrained import lm_path, resolve_device
from ...settings import LocalLMSettings, fingerprint
from ..port import Completion, Hypothesis, LMInfo, Request, Scores, split_into_blocks
from .loading import ModelSource
from .row_limit import RowLimit
from .tokenization import PromptTokenizer

if TYPE_CHECKING:
    from .beam_search import BeamHypothesis
    from .continuous_batch import Row
    from .decoder import Decoder

CACHE_VERSION = 3  # raised when equal requests get other answers
UNLIMITED_CONTEXT_TOKENS = 1_000_000  # tokenizers without a limit report far more


class LocalLM:
    """The engine; see `port.LM`."""

    def __init__(self, settings: LocalLMSettings) -> None:
        """Load configuration and tokenizer; the weights follow with the first request.

        Raises:
            UserError: if they cannot be loaded.
        """
        import torch

        self._settings = settings
        self._source = ModelSource(lm_path(settings.model), settings.revision)
        self._device = torch.device(resolve_device(settings.device, "lm.device"))
        # On a CPU bfloat16 moves label probabilities by more than 2e-3 (scripts/bench/augment.py),
        # which its speed does not make up for.
        auto = "float32" if self._device.type == "cpu" else "bfloat16"
        self._dtype = auto if settings.dtype == "auto" else settings.dtype
        config, tokenizer = self._source.load_config_and_tokenizer()
        self._tokenizer = PromptTokenizer(tokenizer, settings.model)
        limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
        weights, device = self._source.hash_weights(config), self._device.type
        self.info = LMInfo(
            model=settings.model,
            fingerprint=fingerprint(
                [weights, self._dtype, device, settings.batch_size, CACHE_VERSION]
            ),
            context_length=min([UNLIMITED_CONTEXT_TOKENS, *(limit for limit in limits if limit)]),
            block_size=settings.batch_size,
            count_tokens=lambda text: len(self._tokenizer.encode(text)),
            details=f"{self._dtype} on {device}, blocks of up to {settings.batch_size}",
        )

    @functools.cached_property
    def _decoder(self) -> "Decoder":
        from .decoder import Decoder

        model = self._source.load_model(self._dtype, self._device)
        ends = model.generation_config.eos_token_id
        self._tokenizer.end_tokens |= {*(ends if isinstance(ends, list) else [ends])} - {None}
        return Decoder(model, self._tokenizer, self.info.context_length)

    @functools.cached_property
    def _row_limit(self) -> RowLimit:
        return RowLimit(self._decoder.model, self.info.model, self._settings.batch_size)

    def describe(self) -> str:
        """Return device and dtype; every request can be answered."""
        return f"{self.info.details}, label scores exact"

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield the answers, block by block."""
        for block in split_into_blocks(requests, self.info.block_size):
            searched = iter(self._search([request for request in block if request.beams]))
            generated = iter(self._generate([request for request in block if not request.beams]))
            yield from (next(searched if request.beams else generated) for request in block)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Return the scores of every choice after every prompt.

        Raises:
            UserError: if a prompt and a choice do not fit into the context.
        """
        from .continuous_batch import Row

        if not choices:
            return [Scores(()) for _ in prompts]
        # The prompt's last characters decide how a choice is tokenized.
        rows = [
            Row(
                self._tokenizer.encode(prompt),
                self._tokenizer.encode_continuations(prompt[-16:], choices),
            )
            for prompt in prompts
        ]
        for row in rows:
            needed = len(row.prompt) + max(map(len, row.choices))
            if needed > self.info.context_length:
                raise UserError(
                    f"lm.model {self.info.model}: a text to be scored has {needed} tokens; the"
                    f" model's context is {self.info.context_length}",
                    "shorten it, or use another LM",
                )
        for start in range(0, len(rows), self.info.block_size):
            self._run(rows[start : start + self.info.block_size])
        return [Scores(tuple(row.scores or ())) for row in rows]

    # Texts ---------------------------------------------------------------------------------------

    def _generate(self, requests: Sequence[Request]) -> list[Completion]:
        from .continuous_batch import Row

        rows = [
            Row(
                self._tokenizer.encode(request.prompt),
                self._encode_choices(request.label_prefix, request.choices),
                request,
            )
            for request in requests
        ]
        self._run([row for row in rows if self._fits(row)])
        return [self._completion(request, row) for request, row in zip(requests, rows, strict=True)]

    def _encode_choices(self, label_prefix: str, choices: Sequence[str]) -> list[list[int]]:
        return self._tokenizer.encode_continuations(label_prefix, choices) if choices else []

    def _fits(self, row: "Row") -> bool:
        """Return whether prompt, text, an appended label prefix and the longest choice fit."""
        request = row.request
        assert request
        needed = len(row.prompt) + request.max_tokens + max(map(len, row.choices), default=0)
        if request.label_prefix:
            needed += len(self._tokenizer.encode_continuations(".", [request.label_prefix])[0])
        return needed <= self.info.context_length

    def _completion(self, request: Request, row: "Row") -> Completion:
        if not row.generated:
            return Completion(request.number, "", "too_long", None, len(row.prompt), 0)
        ending = row.ending
        return Completion(
            number=request.number,
            text=ending.text
            if ending
            else self._tokenizer.decode_continuation(row.prompt, row.generated),
            finish=ending.finish if ending else "length",
            scores=Scores(tuple(row.scores)) if row.scores else None,
            prompt_tokens=len(row.prompt),
            completion_tokens=len(row.generated),
            logprob=round(row.logprob, 4),
            retokenised=bool(ending and ending.retokenised),
        )

    def _run(self, rows: "Sequence[Row]") -> None:
        """Generate and score a block."""
        from .continuous_batch import run_rows

        if not rows:
            return

        def run(max_rows: int) -> None:
            for row in rows:
                row.reset()
            run_rows(self._decoder, rows, max_rows)

        longest = max(
            len(row.prompt) + (row.request.max_tokens if row.request else 1) for row in rows
        )
        self._row_limit.run(run, longest, len(rows))

    # Beam search ---------------------------------------------------------------------------------

    def _search(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yield the lines of each request; neighbours with equal settings are searched together."""
        for _, group in itertools.groupby(
            requests, lambda request: (request.beams, request.max_tokens, request.temperature)
        ):
            asked = [(request, self._tokenizer.encode(request.prompt)) for request in group]
            lines = iter(
                self._search_lines(
                    [
                        (request, prompt)
                        for request, prompt in asked
                        if len(prompt) + request.max_tokens <= self.info.context_length
                    ]
                )
            )
            for request, prompt in asked:
                if len(prompt) + request.max_tokens <= self.info.context_length:
                    yield _from_lines(request, prompt, next(lines))
                else:
                    yield Completion(request.number, "", "too_long", None, len(prompt), 0)

    def _search_lines(
        self, asked: Sequence[tuple[Request, list[int]]]
    ) -> "list[list[BeamHypothesis]]":
        from .beam_search import beam_search

        if not asked:
            return []
        requests, prompts = [request for request, _ in asked], [prompt for _, prompt in asked]
        width = requests[0].beams
        return self._row_limit.run(
            lambda max_rows: beam_search(self._decoder, prompts, requests, max_rows),
            max(map(len, prompts)) + requests[0].max_tokens,
            rows=len(prompts) * width,
            min_rows=width,
        )


def _from_lines(
    request: Request, prompt: Sequence[int], lines: "Sequence[BeamHypothesis]"
) -> Completion:
    return Completion(
        number=request.number,
        text=lines[0].text,
        finish="line" if lines[0].finished else "length",
        scores=None,
        prompt_tokens=len(prompt),
        completion_tokens=sum(line.num_tokens for line in lines),
        logprob=round(lines[0].logprob, 4),
        hypotheses=tuple(
            Hypothesis(line.text, line.finished, round(line.logprob, 4)) for line in lines
        ),
    )
