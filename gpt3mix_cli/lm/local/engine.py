"""The local LM: a causal LM of the transformers library in this process, on a CPU or a GPU.

Requests are answered in fixed blocks, by `continuous_batch` or `beam_search`. One device runs the
model. The model must keep keys and values of every token in every layer, take positions, and attend
to all tokens or to the last ones. So models with a state (Mamba, RWKV), with positions of their own
(BLOOM) or with another attention (GPT-Neo, Llama 4) are refused.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from ...errors import StoppedShort, UserError
from ...files import hash_model
from ...pretrained import lm_path, out_of_memory, resolve_device
from ...settings import LocalLMSettings, fingerprint
from ..port import (
    REPLAY_ONLY,
    Completion,
    Hypothesis,
    LMInfo,
    Request,
    Scores,
    split_into_blocks,
)
from .beam_search import BeamHypothesis, beam_search
from .chat import open_chat_template
from .continuous_batch import Row, run_rows
from .decoder import Decoder, load_causal_lm, load_config_and_tokenizer
from .tokenization import PromptTokenizer

Result = TypeVar("Result")

CACHE_VERSION = 3  # raised when equal requests get other answers
UNLIMITED_CONTEXT_TOKENS = 1_000_000  # tokenizers without a limit report far more
CPU_CACHE_BYTES = 2 << 30  # for keys and values; a CPU does not say how much memory is free
CPU_MAX_ROWS = 64  # more no longer fit into the processor's caches and cost more per row
GPU_FREE_FRACTION = 0.6  # of the GPU's free memory, for keys, values and logits
LOGITS_COPIES = 4  # in float32, of each row's logits, while a token is drawn


class LocalLM:
    """The engine; see `port.LM`. The weights are loaded with the first request.

    Args:
        settings: from the config.
        replay_only: refuse every request.

    Raises:
        UserError: if configuration or tokenizer cannot be loaded, or `lm.prompt` does not fit them.
    """

    def __init__(self, settings: LocalLMSettings, replay_only: bool = False) -> None:
        self._settings, self._replay_only = settings, replay_only
        self._path = lm_path(settings.model)
        self._device = torch.device(resolve_device(settings.device, "lm.device"))
        # On a CPU bfloat16 moves label probabilities by more than 2e-3 (scripts/bench/augment.py),
        # which its speed does not make up for.
        auto = "float32" if self._device.type == "cpu" else "bfloat16"
        self._dtype = auto if settings.dtype == "auto" else settings.dtype
        config, tokenizer = load_config_and_tokenizer(self._path, settings.revision)
        self._chat = chat = open_chat_template(tokenizer, settings)
        self._tokenizer = PromptTokenizer(tokenizer, settings.model, chat)
        limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
        if Path(self._path).is_dir():
            weights = hash_model(Path(self._path))
        else:
            commit = getattr(config, "_commit_hash", None) or settings.revision
            weights = fingerprint([self._path, commit])
        device, batch_size = self._device.type, settings.batch_size
        self.info = LMInfo(
            model=settings.model,
            fingerprint=fingerprint(
                # The tokens of an empty prompt are those of the chat template.
                [weights, self._dtype, device, batch_size, CACHE_VERSION]
                + ([self._tokenizer.encode("")] if chat else [])
            ),
            context_length=min([UNLIMITED_CONTEXT_TOKENS, *(limit for limit in limits if limit)]),
            block_size=batch_size,
            count_tokens=lambda text: len(self._tokenizer.encode(text)),
            details=f"{self._dtype} on {device}, blocks of up to {batch_size}"
            + (", chat prompts" if chat else ""),
        )

    @functools.cached_property
    def _decoder(self) -> Decoder:
        model = load_causal_lm(self._path, self._settings.revision, self._dtype, self._device)
        ends = model.generation_config.eos_token_id
        self._tokenizer.end_tokens |= {*(ends if isinstance(ends, list) else [ends])} - {None}
        return Decoder(model, self._tokenizer, self.info.context_length)

    @functools.cached_property
    def _row_limit(self) -> "RowLimit":
        return RowLimit(self._decoder, self.info.model, self._settings.batch_size)

    def describe(self) -> str:
        """Return device, dtype and how prompts are read; every request can be answered."""
        prompts = "" if self._chat else ", completion prompts"
        return f"{self.info.details}{prompts}, label scores exact"

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield the answers, block by block."""
        for block in split_into_blocks(requests, self.info.block_size):
            rows = [
                self._prepare(request.prompt, request.label_prefix, request.choices, request)
                for request in block
            ]
            pairs = list(zip(block, rows, strict=True))
            fitting = [(request, row) for request, row in pairs if self._fits(request, row)]
            self._run([row for request, row in fitting if not request.beams])
            lines = self._search([(request, row) for request, row in fitting if request.beams])
            for request, row in pairs:
                if request.beams and self._fits(request, row):
                    yield _from_lines(request, row, next(lines))
                else:
                    yield self._completion(request, row)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Return the scores of every choice after every prompt.

        Raises:
            UserError: if a prompt and a choice do not fit into the context.
        """
        if not choices:
            return [Scores(()) for _ in prompts]
        # The prompt's last characters decide how a choice is tokenized.
        rows = [self._prepare(prompt, prompt[-16:], choices) for prompt in prompts]
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

    def _prepare(
        self, prompt: str, context: str, choices: Sequence[str], request: Request | None = None
    ) -> Row:
        if self._replay_only:
            raise StoppedShort(REPLAY_ONLY)
        choice_tokens = self._tokenizer.encode_continuations(context, choices)
        return Row(self._tokenizer.encode(prompt), choice_tokens, request)

    def _fits(self, request: Request, row: Row) -> bool:
        needed = len(row.prompt) + request.max_tokens + max(map(len, row.choices), default=0)
        if request.label_prefix:
            needed += len(self._tokenizer.encode_continuations(".", [request.label_prefix])[0])
        return needed <= self.info.context_length

    def _run(self, rows: Sequence[Row]) -> None:
        if rows:
            longest = max(
                len(row.prompt) + (row.request.max_tokens if row.request else 1) for row in rows
            )
            self._row_limit.run(
                functools.partial(run_rows, self._decoder, rows), longest, len(rows)
            )

    def _search(self, asked: Sequence[tuple[Request, Row]]) -> Iterator[list[BeamHypothesis]]:
        for (width, max_tokens, _), group in itertools.groupby(
            asked, lambda pair: (pair[0].beams, pair[0].max_tokens, pair[0].temperature)
        ):
            requests, rows = zip(*group, strict=True)
            prompts = [row.prompt for row in rows]
            yield from self._row_limit.run(
                functools.partial(beam_search, self._decoder, prompts, requests),
                max(map(len, prompts)) + max_tokens,
                rows=len(prompts) * width,
                min_rows=width,
            )

    def _completion(self, request: Request, row: Row) -> Completion:
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


def _from_lines(request: Request, row: Row, lines: Sequence[BeamHypothesis]) -> Completion:
    return Completion(
        number=request.number,
        text=lines[0].text,
        finish="line" if lines[0].finished else "length",
        scores=None,
        prompt_tokens=len(row.prompt),
        completion_tokens=sum(line.num_tokens for line in lines),
        logprob=round(lines[0].logprob, 4),
        hypotheses=tuple(
            Hypothesis(line.text, line.finished, round(line.logprob, 4)) for line in lines
        ),
    )


class RowLimit:
    """Runs work with as many rows at a time as the memory holds.

    The limit is an estimate first, then half as many rows whenever the memory runs out.

    Args:
        decoder: its model is loaded.
        name: of the model, for messages.
        max_rows: the most rows that are wanted.

    Attributes:
        max_rows: the limit so far, which a failure halves.
    """

    def __init__(self, decoder: Decoder, name: str, max_rows: int) -> None:
        self._name, self.max_rows, self._device = name, max_rows, decoder.model.device
        config = decoder.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._bytes_per_token = (  # keys and values
            2 * config.num_hidden_layers * heads * size * decoder.model.dtype.itemsize
        )
        self._logits_bytes = LOGITS_COPIES * 4 * config.vocab_size
        self._bytes = CPU_CACHE_BYTES
        if self._device.type == "cuda":
            self._bytes = int(GPU_FREE_FRACTION * torch.cuda.mem_get_info(self._device)[0])

    def run(
        self, work: Callable[[int], Result], tokens_per_row: int, rows: int, min_rows: int = 1
    ) -> Result:
        """Return the result of `work`; if memory runs out, run it again with half as many rows.

        Args:
            work: takes the most rows at a time.
            tokens_per_row: of the longest row.
            rows: that there are.
            min_rows: rows that must run together.

        Raises:
            UserError: if the memory does not hold the fewest rows.
        """
        row_bytes = tokens_per_row * self._bytes_per_token + self._logits_bytes
        device_limit = CPU_MAX_ROWS if self._device.type == "cpu" else rows
        while True:
            limit = min(self.max_rows, max(1, self._bytes // row_bytes), rows, device_limit)
            try:
                return work(limit)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            if limit <= min_rows:
                what = "a single text" if min_rows == 1 else f"{min_rows} beams of a single text"
                raise UserError(
                    f"lm.model {self._name}: the memory does not hold {what}",
                    "use a smaller model, or another lm.device",
                )
            self.max_rows = limit // 2
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
