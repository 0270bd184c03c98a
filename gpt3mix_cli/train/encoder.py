"""The network of the transformer classifier: loading, fresh heads, gradients and scores.

Hundreds of short trainings are fast because weights are read and texts are tokenised once for all
trials, rows of similar length go through the model together, and nothing waits for the device
within an epoch.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..pretrained import (
    load_config,
    load_network,
    load_tokenizer,
    loading_error,
    model_path,
    num_embeddings,
    out_of_memory,
    refuse_missing,
    refuse_missing_tokenizer,
    resolve_device,
)
from ..settings import TransformerSettings, fingerprint
from ..user_cache import hash_model
from .packed import PackedNetwork, can_pack, open_packed
from .packing import pack
from .tokens import TokenCache, Tokens, batches_within

if TYPE_CHECKING:
    import torch

MICRO_BATCH_ROWS_CPU = 32  # rows that go through the model at once in training; on a GPU the batch
# Padded tokens in a scoring batch: what fits the caches of a CPU, what fills a GPU.
SCORING_BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}
TRIAL_TEXTS = ("A first try.", "A second try, which is longer.")
MODEL_HINT = "give an encoder's folder, a hub id that can be reached, or minilm"


class Encoder:
    """A sequence classifier of the transformers library, and its tokenizer.

    The configuration is read at once; tokenizer and weights are loaded when they are first needed.

    Raises:
        UserError: if the model cannot be found, or has no tokenizer.
    """

    def __init__(self, settings: TransformerSettings, classes: Sequence[str]) -> None:
        import torch

        self._settings, self._classes = settings, list(classes)
        self.path = model_path(settings.model, "classifiers: model")
        self._not_loaded = f"classifiers: model '{self.path}' cannot be loaded"
        self._source: dict[str, Any] = {
            "model": self.path,
            "what": self._not_loaded,
            "hint": MODEL_HINT,
            "revision": settings.revision,
        }
        self.device = torch.device(resolve_device(settings.device, "classifiers: device"))
        self.dtype = _fast_dtype(self.device) if settings.dtype == "auto" else settings.dtype
        is_cpu = self.device.type == "cpu"
        self._max_micro_batch = MICRO_BATCH_ROWS_CPU if is_cpu else settings.batch_size
        self._scoring_tokens = SCORING_BATCH_TOKENS.get(self.device.type, 8192)
        self.config = load_config(**self._source)
        self._is_unpacked = False
        self._cache = TokenCache(settings.max_length, num_embeddings(self.config))
        self.start_fit()
        refuse_missing_tokenizer(self.path, self._not_loaded)

    def describe(self) -> dict[str, Any]:
        """Return model, device and dtype, as far as they can change a number."""
        commit = getattr(self.config, "_commit_hash", None) or self._settings.revision
        return {
            "model": hash_pretrained(self.path, commit),
            "device": self.device.type,
            "dtype": self.dtype,
        }

    def start_fit(self) -> None:
        """Reset what `notes` reports, and the size of micro-batches.

        A trial that ran out of memory must not change later ones: their numbers would depend on
        which process ran it.
        """
        self._cache.texts_seen = self._cache.texts_cut = 0
        self._micro_batch, self._shrunk = self._max_micro_batch, False

    @property
    def micro_batch(self) -> int:
        """Rows that go through the model at once; fewer after memory ran out."""
        return self._micro_batch

    @micro_batch.setter
    def micro_batch(self, rows: int) -> None:
        self._shrunk = rows < self._micro_batch
        self._micro_batch = rows

    @property
    def notes(self) -> list[str]:
        """Messages for the user about texts and memory since `start_fit`."""
        notes = {
            f"{self._cache.texts_cut} of {self._cache.texts_seen} texts have more than "
            f"max_length: {self._settings.max_length} tokens and are cut": self._cache.texts_cut,
            f"out of memory: rows go through the model {self._micro_batch} at a time; "
            f"batch_size stays {self._settings.batch_size}": self._shrunk,
            f"the fast forward pass of {self.config.model_type} does not give the library's logits "
            "of this model; the library's own is used": self._is_unpacked,
        }
        return [note for note, applies in notes.items() if applies]

    # Loading -------------------------------------------------------------------------------------

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        tokenizer = load_tokenizer(config=self.config, **self._source)
        limit = min(filter(None, (tokenizer.model_max_length, self._max_positions())))
        if self._settings.max_length > limit:
            raise UserError(
                f"classifiers: max_length is {self._settings.max_length}, "
                f"but model '{self.path}' reads at most {limit} tokens",
                f"set max_length to {limit} or less",
            )
        # Decoders look for the last token that is not this one.
        self.model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        return tokenizer

    def _max_positions(self) -> int | None:
        """Return how many tokens the model has positions for; None if the config does not say.

        RoBERTa and related models count positions from the one after padding's.
        """
        for name, module in self.model.base_model.named_modules():
            padding: int | None = getattr(module, "padding_idx", None)
            if name.endswith("position_embeddings") and padding is not None:
                return int(module.num_embeddings) - padding - 1
        positions: int | None = getattr(self.config, "max_position_embeddings", None)
        return positions

    @functools.cached_property
    def _loaded_model(self) -> tuple[Any, set[str]]:
        """The network, and the names of weights that the checkpoint lacks."""
        import torch

        # The library initialises a missing head at random; `reset` does it again for each fit.
        with torch.random.fork_rng():
            network, missing, mismatched = load_network(
                "AutoModelForSequenceClassification",
                device=str(self.device),
                dtype=torch.float32,
                num_labels=len(self._classes),
                id2label=dict(enumerate(self._classes)),
                label2id={name: index for index, name in enumerate(self._classes)},
                **self._source,
            )
        # A head for other classes is initialised like one that is missing.
        return network, missing | mismatched

    @property
    def model(self) -> Any:
        """The network, in float32."""
        return self._loaded_model[0]

    def refuse_missing_weights(self, head: bool) -> None:
        """Make sure that the checkpoint has all weights of the encoder, and of the head if `head`.

        Raises:
            UserError: if any is missing: the library would silently initialise it at random.
        """
        model, missing = self._loaded_model
        prefix = f"{model.base_model_prefix}."
        encoder_only = {
            name for name in missing if name.startswith(prefix) and ".pooler." not in name
        }
        refuse_missing(
            missing if head else encoder_only,
            self._not_loaded,
            "give the folder of a trained classifier" if head else MODEL_HINT,
        )

    @functools.cached_property
    def pretrained(self) -> dict[str, "torch.Tensor"]:
        """The weights that each fit starts from."""
        self.refuse_missing_weights(head=False)
        return {name: weight.clone() for name, weight in self.model.state_dict().items()}

    def reset(self) -> None:
        """Start a fit: restore the pretrained weights and initialise the head anew.

        `head: fresh` initialises every layer outside the encoder (section 4.1: both fully connected
        layers). `head: library` initialises only what the checkpoint lacks, as the authors' code
        does: BERT's pooler keeps its pretrained weights.
        """
        self.start_fit()
        self.model.load_state_dict(self.pretrained)
        head = {
            id(parameter)
            for module in self._head_modules()
            for parameter in module.parameters(recurse=False)
        }
        for parameter in self.model.parameters():
            parameter._is_hf_initialized = id(parameter) not in head
        # Some families initialise a layer by rules of the module that contains it.
        for module in self.model.modules():
            module._is_hf_initialized = all(
                parameter._is_hf_initialized for parameter in module.parameters()
            )
        self.model.initialize_weights()

    def _head_modules(self) -> list[Any]:
        model, missing = self._loaded_model
        if self._settings.head == "library":
            names = {name.rpartition(".")[0] for name in missing}
            return [module for name, module in model.named_modules() if name in names]
        # BERT's pooler is one of the head's two fully connected layers, although the library
        # counts it as part of the encoder.
        pooler = getattr(model.base_model, "pooler", None)
        heads = {*model.children(), pooler} - {model.base_model, None}
        return [module for head in heads for module in head.modules() if hasattr(module, "weight")]

    def try_out(self) -> None:
        """Score two texts of different lengths.

        Raises:
            UserError: if the model cannot do it.
        """
        try:
            self.logits(self.tokens(TRIAL_TEXTS))
            self.start_fit()  # forgets these texts
        except UserError:
            raise
        except Exception as error:  # whatever the model's configuration makes of it
            if isinstance(error, ArithmeticError):
                error = ValueError("its weights are damaged: not all are numbers (NaN)")
            raise loading_error(error, self._not_loaded, MODEL_HINT) from None

    # Gradients and scores ------------------------------------------------------------------------

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Return the tokens of texts, cut at `max_length`."""
        return self._cache.tokens(texts, self.tokenizer, self.device)

    def gradients(
        self, tokens: Tokens, targets: "torch.Tensor", batch: Sequence[int], rows: "torch.Tensor"
    ) -> "torch.Tensor":
        """Add the gradients of the mean soft cross-entropy of a batch.

        Micro-batches of similar length hold little padding, and their gradients add up to the
        batch's. If memory runs out they are halved for the rest of the fit, and the batch is
        repeated: its effective size stays.

        Args:
            tokens: of all rows.
            targets: (rows, classes), the weight of each class in each row.
            batch: indices of the batch's rows, sorted by length.
            rows: the same indices on the device.

        Returns:
            The sum of the rows' losses, on the device.
        """
        import torch

        before = torch.get_rng_state()
        while True:
            try:
                return self._gradients(tokens, targets, batch, rows)
            except (RuntimeError, MemoryError) as error:
                if self._micro_batch == 1 or not out_of_memory(error):
                    raise
            self.model.zero_grad()
            torch.set_rng_state(before)
            self._micro_batch = max(1, min(self._micro_batch, len(batch)) // 2)
            self._shrunk = True
            torch.cuda.empty_cache()

    def _gradients(
        self, tokens: Tokens, targets: "torch.Tensor", batch: Sequence[int], rows: "torch.Tensor"
    ) -> "torch.Tensor":
        import torch

        total = torch.zeros((), device=self.device)
        for start in range(0, len(batch), self._micro_batch):
            part = batch[start : start + self._micro_batch]
            chosen = rows[start : start + len(part)]
            logits = self._forward(tokens, chosen, tokens.lengths[part[-1]])
            # Soft cross-entropy: the library's own loss takes float targets for multi-label.
            loss = torch.nn.functional.cross_entropy(logits, targets[chosen], reduction="sum")
            (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if self._packed:
            self._packed.densify_gradient()
        return total

    def logits(self, tokens: Tokens) -> "torch.Tensor":
        """Return the logits of texts, (texts, classes), on the device.

        Raises:
            ArithmeticError: if any is not finite.
        """
        import torch

        self.model.eval()
        order = sorted(range(len(tokens.lengths)), key=tokens.lengths.__getitem__)
        lengths = [tokens.lengths[index] for index in order]
        rows = torch.tensor(order, device=self.device)
        logits = torch.zeros(len(order), len(self._classes), device=self.device)
        frozen = self._packed.frozen_weights() if self._packed else nullcontext()
        with torch.inference_mode(), frozen:
            for start, end in batches_within(lengths, self._scoring_tokens):
                chosen = rows[start:end]
                logits[chosen] = self._score(tokens, chosen, lengths[end - 1])
        if not bool(logits.isfinite().all()):
            raise ArithmeticError("the logits are not finite: training diverged; a lower lr helps")
        return logits

    def _score(self, tokens: Tokens, chosen: "torch.Tensor", longest: int) -> "torch.Tensor":
        import torch

        try:
            return self._forward(tokens, chosen, longest)
        except (RuntimeError, MemoryError) as error:
            if len(chosen) == 1 or not out_of_memory(error):
                raise
        torch.cuda.empty_cache()
        return torch.cat([self._score(tokens, half, longest) for half in chosen.chunk(2)])

    def _forward(self, tokens: Tokens, chosen: "torch.Tensor", longest: int) -> "torch.Tensor":
        """Return the logits, (rows, classes), in float32; `chosen` is in the order of lengths."""
        # A text without tokens has no first one.
        if self._packed and tokens.lengths[int(chosen[0])]:
            packed_rows = pack(tokens, chosen)
            if self._packed.counts_like_library(packed_rows):
                return self._packed(packed_rows)
        return self._library_forward(tokens, chosen, longest, self.dtype)

    def _library_forward(
        self, tokens: Tokens, chosen: "torch.Tensor", longest: int, dtype: str
    ) -> "torch.Tensor":
        import torch

        batch = tokens.batch(chosen, longest, self.tokenizer.pad_token_id or 0)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            logits: torch.Tensor = self.model(**batch).logits
        return logits.float()

    @functools.cached_property
    def _packed(self) -> PackedNetwork | None:
        """The fast forward pass; None where the library's is used."""
        import torch

        if self.device.type != "cpu" or not can_pack(self.config):
            return None
        # These texts do not count in `notes`.
        cache = TokenCache(self._settings.max_length, num_embeddings(self.config))
        tokens = cache.tokens(TRIAL_TEXTS, self.tokenizer, self.device)
        rows = torch.arange(len(TRIAL_TEXTS))
        packed = open_packed(
            self.model,
            getattr(torch, self.dtype),
            pack(tokens, rows),
            lambda: self._library_forward(tokens, rows, max(tokens.lengths), "float32"),
        )
        self._is_unpacked = packed is None
        return packed


def hash_pretrained(path: str, revision: str | None) -> str:
    """Return a hash of a model's files; of a model on the hub, of its id and revision."""
    return hash_model(Path(path)) if Path(path).is_dir() else fingerprint([path, revision])


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch use this many CPU threads: how sums are split among threads changes last digits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fast_dtype(device: "torch.device") -> str:
    """Return bfloat16 if the processor has it; elsewhere it would be emulated, and slow."""
    import torch

    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Older releases of torch do not report it, and get float32.
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return "bfloat16" if native else "float32"
