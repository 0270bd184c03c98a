"""The local LM: a causal LM of the transformers library in this process, on a CPU or a GPU.

Requests are answered in fixed blocks, by `continuous_batch` or `beam_search`. One device runs the
model. The model must keep keys and values of every token in every layer, take positions, and attend
to all tokens or to the last ones. So models with a state (Mamba, RWKV), with positions of their own
(BLOOM) or with another attention (GPT-Neo, Llama 4) are refused.
"""

import functools
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from ...errors import NO_CALLBACKS, Callbacks, StoppedShort, UserError, in_progress
from ...pretrained import lm_path, num_embeddings, out_of_memory, resolve_device
from ...settings import LocalLMSettings, fingerprint
from ...user_cache import cache_folder, hash_model
from ..port import (
    LOCAL_VERSION,
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
from .decoder import (
    Decoder,
    changes_in_passes,
    load_causal_lm,
    load_config_and_tokenizer,
    num_parameters,
    num_stored_parameters,
)
from .gguf import find_gguf, open_gguf
from .precision import (
    MAX_MEDIAN_ERROR,
    LabelPrecision,
    has_bfloat16_instructions,
    measure_precision,
    read_precision,
    remembered,
)
from .row_limit import RowLimit
from .threads import BlockThreads
from .tokenization import UNLIMITED_CONTEXT_TOKENS, PromptTokenizer

LabelSource = Literal["exact", "rounded"]

MIN_BFLOAT16_PARAMETERS = 100_000_000  # smaller models are fast enough in float32


class LocalLM:
    """The engine; see `port.LM` and `port.ParallelLM`. The first request loads the weights.

    Args:
        settings: from the config.
        replay_only: refuse every request.
        callbacks: say that a GGUF file is being converted.

    Raises:
        UserError: if configuration or tokenizer cannot be loaded, or `lm.prompt` does not fit them.
    """

    def __init__(
        self,
        settings: LocalLMSettings,
        replay_only: bool = False,
        callbacks: Callbacks = NO_CALLBACKS,
    ) -> None:
        self._settings, self._replay_only = settings, replay_only
        self._callbacks = callbacks
        self._path, weights = lm_path(settings.model), ""
        if file := find_gguf(settings):
            self._path, weights = open_gguf(file, settings, callbacks)
        self._device = torch.device(resolve_device(settings.device, "lm.device"))
        self._config, tokenizer = load_config_and_tokenizer(self._path, settings.revision)
        chat = open_chat_template(tokenizer, settings)
        size = num_embeddings(self._config)
        self._tokenizer = PromptTokenizer(tokenizer, settings.model, chat, size)
        limits = [getattr(self._config, "max_position_embeddings", None)]
        limits += [tokenizer.model_max_length, UNLIMITED_CONTEXT_TOKENS]
        self._context_length = min(limit for limit in limits if limit)
        self._weights = weights or _hash_weights(self._path, self._config, settings.revision)
        self._threads = BlockThreads(self._device, changes_in_passes(self._config))
        self._loading = threading.Lock()
        self._dtype = self._choose_dtype()
        rounds = self._dtype != "float32"
        self._scores_again = settings.label_dtype == "float32" and rounds
        self._label_source: LabelSource = (
            "rounded" if rounds and not self._scores_again else "exact"
        )
        device, batch_size = self._device.type, settings.batch_size
        identity = [self._weights, self._dtype, device, batch_size, LOCAL_VERSION]
        identity += ["labels"] if self._scores_again else []
        identity += [self._tokenizer.end_of_prompt] if self._tokenizer.end_of_prompt else []
        identity += [self._tokenizer.encode(""), tokenizer.get_chat_template()] if chat else []
        self.info = LMInfo(
            model=settings.model,
            fingerprint=fingerprint(identity),
            context_length=self._context_length,
            block_size=batch_size,
            count_tokens=lambda text: len(self._tokenizer.encode(text)),
            details=f"{self._dtype} on {device}, blocks of up to {batch_size}"
            + (", chat prompts" if chat else ""),
            is_local=True,
            count_parameters=lambda: self._parameters,
        )

    @functools.cached_property
    def _parameters(self) -> int | None:
        if getattr(self._config, "quantization_config", None):  # weights are packed
            return None
        try:
            return num_stored_parameters(Path(self._path)) or num_parameters(self._config)
        except (ValueError, OSError, SafetensorError):  # as loading it will say
            return None

    def describe(self) -> str:
        """Return device, dtype and the measured precision of label scores."""
        labels: str = self._label_source
        if self._scores_again:
            labels += " (scored once more in float32)"
        elif labels == "rounded":
            labels += f" ({read_precision(self._precision_path(self._dtype)) or 'not measured'})"
        prompts = "" if "chat prompts" in self.info.details else ", completion prompts"
        return f"{self.info.details}{prompts}, label scores {labels}"

    # Loading -------------------------------------------------------------------------------------

    def _choose_dtype(self) -> str:
        if self._settings.dtype != "auto":
            return self._settings.dtype
        if self._device.type != "cpu":
            return "bfloat16"
        if not has_bfloat16_instructions():
            return "float32"
        try:
            large = num_parameters(self._config) >= MIN_BFLOAT16_PARAMETERS
        except ValueError:  # no causal LM, as loading it will say
            return "float32"
        if not large:
            return "float32"
        precision = self._precision("bfloat16")
        precise = precision is not None and precision.median < MAX_MEDIAN_ERROR
        return "bfloat16" if precise else "float32"

    def _precision_path(self, dtype: str) -> Path:
        key = [self._weights, dtype, self._device.type, torch.__version__, LOCAL_VERSION]
        return cache_folder() / "precision" / f"{fingerprint(key)}.json"

    def _precision(self, dtype: str, decoder: Decoder | None = None) -> LabelPrecision | None:
        """Return how precise labels are in a dtype; None if the memory or context is too small."""
        path = self._precision_path(dtype)
        if self._replay_only:
            return read_precision(path)
        try:
            return remembered(
                path,
                lambda: measure_precision(
                    decoder or self._load(dtype), lambda: self._load("float32"), self._tokenizer
                ),
            )
        except (UserError, RuntimeError, MemoryError) as error:
            if not isinstance(error, UserError) and not out_of_memory(error):
                raise
            return None
        finally:
            # So that the row limit does not depend on whether something was measured.
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _load(self, dtype: str) -> Decoder:
        with in_progress(self._callbacks, f"loading the LM {self._settings.model}"):
            model = load_causal_lm(self._path, self._settings.revision, dtype, self._device)
        ends = model.generation_config.eos_token_id
        self._tokenizer.end_tokens |= {*(ends if isinstance(ends, list) else [ends])} - {None}
        return Decoder(model, self._tokenizer, self._context_length)

    @functools.cached_property
    def _decoder(self) -> Decoder:
        decoder = self._load(self._dtype)
        if self._label_source == "rounded":
            self._precision(self._dtype, decoder)
        return decoder

    @functools.cached_property
    def _label_decoder(self) -> Decoder:
        """Scores labels alone."""
        return self._load("float32") if self._scores_again else self._decoder

    @functools.cached_property
    def _row_limits(self) -> tuple[RowLimit, RowLimit]:
        """Of the decoder, and of the one that scores labels alone."""
        decoders = self._decoder, self._label_decoder  # both are loaded before memory is measured
        limits = {
            decoder: RowLimit(decoder, self.info.model, self._settings.batch_size)
            for decoder in decoders
        }
        return limits[decoders[0]], limits[decoders[1]]

    @property
    def _row_limit(self) -> RowLimit:
        with self._loading:  # one of the threads that ask
            return self._row_limits[0]

    @property
    def _label_row_limit(self) -> RowLimit:
        with self._loading:
            return self._row_limits[1]

    # Answers -------------------------------------------------------------------------------------

    @property
    def parallel_blocks(self) -> int:
        """How many blocks it answers at the same time."""
        return self._threads.parallel_blocks

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield the answers, block by block."""
        for block in split_into_blocks(requests, self.info.block_size):
            with self._threads.of_a_block():
                answers = list(self._answer(block))
            yield from answers

    def _answer(self, block: Sequence[Request]) -> Iterator[Completion]:
        rows = [
            self._prepare(request.prompt, request.label_prefix, request.choices, request)
            for request in block
        ]
        pairs = list(zip(block, rows, strict=True))
        fitting = [(request, row) for request, row in pairs if self._fits(request, row)]
        drawn = [row for request, row in fitting if not request.beams]
        self._run(drawn, self._row_limit)
        if self._scores_again:
            self._score_again([row for row in drawn if row.scores])
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
        with self._threads.of_scores():
            for start in range(0, len(rows), self.info.block_size):
                self._run(rows[start : start + self.info.block_size], self._label_row_limit)
        return [Scores(tuple(row.scores or ()), self._label_source) for row in rows]

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

    def _run(self, rows: Sequence[Row], limit: RowLimit) -> None:
        if rows:
            longest = max(
                len(row.prompt) + (row.request.max_tokens if row.request else 1) for row in rows
            )
            limit.run(functools.partial(run_rows, limit.decoder, rows), longest, len(rows))

    def _score_again(self, rows: Sequence[Row]) -> None:
        """Replace the scores of finished rows by those of the model in float32."""
        again = [Row(row.ending.context, row.choices) for row in rows if row.ending]
        self._run(again, self._label_row_limit)
        for row, other in zip(rows, again, strict=True):
            row.scores = other.scores

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
            scores=Scores(tuple(row.scores), self._label_source) if row.scores else None,
            prompt_tokens=len(row.prompt),
            completion_tokens=len(row.generated),
            logprob=round(row.logprob, 4),
            retokenised=bool(ending and ending.retokenised),
        )


def _hash_weights(path: str, config: Any, revision: str | None) -> str:
    if Path(path).is_dir():
        return hash_model(Path(path))
    return fingerprint([path, getattr(config, "_commit_hash", None) or revision])


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
