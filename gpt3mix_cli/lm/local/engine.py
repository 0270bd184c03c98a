"""A transformers causal LM in this process, on a CPU or a GPU.

Requests are answered in fixed blocks; how a block is written stands in `window`. Limits: one device a model; a model
must keep keys and values of every token in every layer, take positions, and see all tokens or the last ones. Those that
keep a state (Mamba, RWKV), count positions themselves (BLOOM) or attend otherwise (GPT-Neo, Llama 4) are refused.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import UserError
from ...files import hash_model
from ...pretrained import lm_path, load_model, load_pretrained, out_of_memory, resolve_device
from ...settings import LocalLMSettings, fingerprint
from ..port import Completion, Hypothesis, LMInfo, Request, Scores, split_into_blocks
from .tokenization import Tokens

if TYPE_CHECKING:
    from .beam_search import Line
    from .decoder import Decoder, Row

Answer = TypeVar("Answer")

CACHE_VERSION = 3  # raised when the same requests would be answered otherwise
ENDLESS = 1_000_000  # what tokenizers say where they know no limit is far above this
CACHE = 2 << 30  # bytes of keys and values on a CPU, where nobody says how many are free
SIDE_BY_SIDE = {
    "cpu": 64
}  # rows: more of them no longer fit a processor's caches, and cost more a row
HINT = "give `bundled`, the folder of a causal LM, or a hub id that can be reached"
OF_FREE = 0.6  # of a GPU's free memory for keys, values and logits


class LocalLM:
    """The engine; see `lm.LM`."""

    def __init__(self, settings: LocalLMSettings) -> None:
        """Read configuration and tokenizer; the weights follow when the first answer is wanted.

        Raises:
            UserError: if they cannot be loaded, with the remedy.
        """
        import torch

        self._settings, self._side_by_side = settings, settings.batch_size
        self._place = lm_path(settings.model)
        self._what = f"lm.model {self._place}: cannot be loaded as a causal LM"
        self._device = torch.device(resolve_device(settings.device, "lm.device"))
        # bfloat16 on a CPU moves labels by more than 2e-3 (scripts/bench/augment.py), which its speed does not make up for.
        auto = "float32" if self._device.type == "cpu" else "bfloat16"
        self._dtype = auto if settings.dtype == "auto" else settings.dtype
        folder = Path(self._place)
        if folder.is_dir() and not any(folder.glob("tokenizer*")):
            raise UserError(
                f"lm.model {folder}: the folder has no tokenizer",
                "save it there with tokenizer.save_pretrained",
            )
        self._config = self._loaded("AutoConfig")
        tokenizer = self._loaded("AutoTokenizer")
        self._tokens = Tokens(tokenizer, settings.model)
        limits = [
            getattr(self._config, "max_position_embeddings", None),
            tokenizer.model_max_length,
        ]
        weights = (
            hash_model(folder)
            if folder.is_dir()
            else fingerprint(
                [self._place, getattr(self._config, "_commit_hash", None) or settings.revision]
            )
        )
        self.info = LMInfo(
            model=settings.model,
            fingerprint=fingerprint(
                [weights, self._dtype, self._device.type, settings.batch_size, CACHE_VERSION]
            ),
            context_length=min(
                (limit for limit in limits if limit and limit < ENDLESS), default=ENDLESS
            ),
            block_size=settings.batch_size,
            count_tokens=lambda text: len(self._tokens.encode(text)),
            details=f"{self._dtype} on {self._device.type}, blocks of up to {settings.batch_size}",
        )

    @functools.cached_property
    def _model(self) -> Any:
        import torch

        model = load_model(
            "AutoModelForCausalLM",
            self._place,
            self._what,
            HINT,
            device=str(self._device),
            revision=self._settings.revision,
            dtype=getattr(torch, self._dtype),
        )
        self._refuse_others(model)
        configured = model.generation_config.eos_token_id
        self._tokens.ends |= {
            token
            for token in (configured if isinstance(configured, list) else [configured])
            if token is not None
        }
        return model

    def _refuse_others(self, model: Any) -> None:
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        config = model.config.get_text_config()
        layers = DynamicCache(config=model.config).layers
        kinds = {
            *(getattr(config, "layer_types", None) or ()),
            *(getattr(config, "attention_layers", None) or ()),
        }
        if (
            len(layers) != config.num_hidden_layers
            or not all(isinstance(layer, DynamicLayer) for layer in layers)
            or kinds - {"full_attention", "sliding_attention", "global"}
            or getattr(model, "_is_stateful", False)
            or not {"position_ids", "logits_to_keep"}
            <= set(inspect.signature(model.forward).parameters)
        ):
            what = "keeps a state, counts positions by itself, or attends in a way of its own"
            message = f"lm.model {self._place}: {type(model).__name__} {what}, which this engine cannot serve"
            raise UserError(
                message, "use a plain transformer, such as Llama, Qwen, Mistral or GPT-2"
            )

    @functools.cached_property
    def _decoder(self) -> "Decoder":
        from .decoder import Decoder

        return Decoder(self._model, self._tokens, self.info.context_length)

    def _loaded(self, part: str) -> Any:
        return load_pretrained(
            part, self._place, self._what, HINT, revision=self._settings.revision
        )

    def describe(self) -> str:
        """Return what it runs on; it can do everything."""
        return f"{self.info.details}, label scores exact"

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield the answers, block by block."""
        for block in split_into_blocks(requests, self.info.block_size):
            searched = iter(self._search([request for request in block if request.beams]))
            written = iter(self._write([request for request in block if not request.beams]))
            yield from (next(searched if request.beams else written) for request in block)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Return the scores of every choice after every prompt."""
        from .decoder import Row

        if not choices:
            return [Scores(()) for _ in prompts]
        # The last characters decide how a tokenizer cuts what follows.
        rows = [
            Row(self._tokens.encode(prompt), self._tokens.after(prompt[-16:], choices))
            for prompt in prompts
        ]
        for row in rows:
            needed = len(row.prompt) + max(map(len, row.choices))
            if needed > self.info.context_length:
                message = f"lm.model {self.info.model}: a text to be scored has {needed} tokens, the context {self.info.context_length}"
                raise UserError(message, "shorten it, or use another LM")
        for start in range(0, len(rows), self.info.block_size):
            self._run(rows[start : start + self.info.block_size])
        return [Scores(tuple(row.scores or ())) for row in rows]

    # Writing ---------------------------------------------------------------------------------------------------------

    def _write(self, requests: Sequence[Request]) -> list[Completion]:
        from .decoder import Row

        rows = [
            Row(
                self._tokens.encode(request.prompt),
                self._choices(request.label_prefix, request.choices),
                request,
            )
            for request in requests
        ]
        fitting = [
            row for row, request in zip(rows, requests, strict=True) if self._fits(row, request)
        ]
        self._run(fitting)
        return [
            self._completion(request, row, fits=row.written != [])
            for request, row in zip(requests, rows, strict=True)
        ]

    def _fits(self, row: "Row", request: Request) -> bool:
        """Return whether prompt, text, a label prefix that is appended, and the longest choice have room in the context."""
        label_prefix = (
            len(self._tokens.after(".", [request.label_prefix])[0]) if request.label_prefix else 0
        )
        return (
            len(row.prompt)
            + request.max_tokens
            + label_prefix
            + max(map(len, row.choices), default=0)
            <= self.info.context_length
        )

    def _choices(self, label_prefix: str, choices: Sequence[str]) -> list[list[int]]:
        return self._tokens.after(label_prefix, choices) if choices else []

    def _completion(self, request: Request, row: "Row", fits: bool) -> Completion:
        ending = row.ending
        text = ending.text if ending else self._tokens.spell(row.prompt, row.written)
        return Completion(
            number=request.number,
            text=text if fits else "",
            finish=ending.finish if ending else "length" if fits else "too_long",
            scores=Scores(tuple(row.scores)) if row.scores else None,
            prompt_tokens=len(row.prompt),
            completion_tokens=len(row.written),
            logprob=round(row.logprob, 4) if fits else None,
            retokenised=bool(ending and ending.retokenised),
        )

    def _run(self, rows: "Sequence[Row]") -> None:
        """Write and score a block."""
        from .continuous_batch import write

        def side_by_side(many: int) -> None:
            for row in rows:
                row.clear()
            write(self._decoder, rows, many)

        if rows:
            longest = max(
                len(row.prompt) + (row.request.max_tokens if row.request else 1) for row in rows
            )
            self._within_memory(side_by_side, longest, most=len(rows))

    def _within_memory(
        self, work: Callable[[int], Answer], longest: int, most: int, least: int = 1
    ) -> Answer:
        """Return what `work` does with so many texts side by side; where memory runs out, again with half as many.

        Args:
            work: takes the number of texts.
            longest: tokens of the longest one.
            most: texts that there are.
            least: texts that cannot be parted.
        """
        import torch

        while True:
            many = min(
                self._side_by_side,
                self._room(longest),
                most,
                SIDE_BY_SIDE.get(self._device.type, most),
            )
            try:
                return work(many)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            if many <= least:
                held = "a single text" if least == 1 else f"{least} beams of a single text"
                raise UserError(
                    f"lm.model {self.info.model}: the memory does not hold {held}",
                    "use a smaller model, or another lm.device",
                )
            self._side_by_side = many // 2
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _room(self, longest: int) -> int:
        """Return how many texts' keys, values and logits fit the memory."""
        # Logits stand there about four times while a token is drawn.
        return max(
            1,
            int(
                self._memory
                // (
                    longest * self._bytes_a_token
                    + 16 * self._model.config.get_text_config().vocab_size
                )
            ),
        )

    @functools.cached_property
    def _memory(self) -> float:
        import torch

        if self._device.type == "cuda":
            _ = self._model  # what is free is known once the weights are there
            return OF_FREE * torch.cuda.mem_get_info(self._device)[0]
        return CACHE

    @functools.cached_property
    def _bytes_a_token(self) -> int:
        config = self._model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * size * self._model.dtype.itemsize)

    # Beam search -----------------------------------------------------------------------------------------------------

    def _search(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yield the lines found for each request; those that follow each other with the same settings are searched together."""
        for _, group in itertools.groupby(
            requests, lambda request: (request.beams, request.max_tokens, request.temperature)
        ):
            asked = [(request, self._tokens.encode(request.prompt)) for request in group]
            fitting = [
                len(prompt) + request.max_tokens <= self.info.context_length
                for request, prompt in asked
            ]
            found = iter(
                self._lines([one for one, fits in zip(asked, fitting, strict=True) if fits])
            )
            for (request, prompt), fits in zip(asked, fitting, strict=True):
                lines = next(found) if fits else []
                yield Completion(
                    number=request.number,
                    text=lines[0].text if lines else "",
                    finish=("line" if lines[0].finished else "length") if lines else "too_long",
                    scores=None,
                    prompt_tokens=len(prompt),
                    completion_tokens=sum(line.tokens for line in lines),
                    logprob=round(lines[0].logprob, 4) if lines else None,
                    hypotheses=tuple(
                        Hypothesis(line.text, line.finished, round(line.logprob, 4))
                        for line in lines
                    ),
                )

    def _lines(self, asked: Sequence[tuple[Request, list[int]]]) -> "list[list[Line]]":
        from .beam_search import search

        if not asked:
            return []
        requests, prompts = [request for request, _ in asked], [prompt for _, prompt in asked]
        width, longest = requests[0].beams, max(map(len, prompts)) + requests[0].max_tokens
        return self._within_memory(
            lambda many: search(self._decoder, prompts, requests, many),
            longest,
            most=len(prompts) * width,
            least=width,
        )
