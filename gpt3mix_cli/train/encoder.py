"""The network of the transformer classifier: loading, fresh heads, tokens, gradients and scores of many texts.

What makes hundreds of short trainings fast stands here: weights are read and texts are tokenised once for all trials,
rows of like length go through the model together, and nothing waits for the device within an epoch.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..pretrained import (
    load_pretrained,
    model_path,
    move_to,
    out_of_memory,
    refuse_missing,
    resolve_device,
)
from ..settings import TransformerSettings
from .parallel import group

if TYPE_CHECKING:
    import torch

SLICE = 16  # rows of a training batch that go through the model together on a CPU; on a GPU all of the batch
SCORING_TOKENS = {
    "cpu": 2048,
    "cuda": 65536,
}  # padded tokens in a scoring batch: what fits the caches, what fills a GPU
HINT = "give an encoder's folder, a hub id that can be reached, or minilm"
KEPT_TEXTS = 100_000  # tokenised texts that are kept; some hundred megabytes


@dataclass
class Tokens:
    """The tokens of texts, one after the other on the device.

    Attributes:
        flat: all token ids, (tokens,).
        starts: where each text starts in `flat`, (texts,), on the device too.
        sizes: tokens of each text, (texts,), on the device.
        lengths: the same on the host, where batches are planned.
    """

    flat: "torch.Tensor"
    starts: "torch.Tensor"
    sizes: "torch.Tensor"
    lengths: list[int]

    def batch(self, chosen: "torch.Tensor", longest: int, pad: int) -> dict[str, "torch.Tensor"]:
        """Return input_ids and attention_mask, both (rows, longest), padded on the right.

        Args:
            chosen: which texts, on the device.
            longest: tokens of the longest of them.
            pad: the id of padding.
        """
        import torch

        place = torch.arange(longest, device=self.flat.device)
        mask = place < self.sizes[chosen, None]
        ids = self.flat[(self.starts[chosen, None] + place).clamp(max=len(self.flat) - 1)]
        return {"input_ids": ids.masked_fill(~mask, pad), "attention_mask": mask.long()}


class Encoder:
    """A sequence classifier of the transformers library, and its tokenizer."""

    def __init__(self, settings: TransformerSettings, classes: Sequence[str]) -> None:
        """Read the configuration; tokenizer and weights follow when they are needed, and once.

        Raises:
            UserError: if the model cannot be found, or has no tokenizer, with the remedy.
        """
        import torch

        self._settings, self._classes = settings, list(classes)
        self.place = model_path(settings.model, "classifiers: model")
        self._what = f"classifiers: model '{self.place}' cannot be loaded"
        self.device = torch.device(resolve_device(settings.device, "classifiers: device"))
        self.dtype = _fast_dtype(self.device) if settings.dtype == "auto" else settings.dtype
        self._slice = self._largest = SLICE if self.device.type == "cpu" else settings.batch_size
        self.forget()
        self._tokens: dict[str, list[int]] = {}
        self._cut: dict[str, bool] = {}
        self.config = self._loaded("AutoConfig")
        folder = Path(self.place)
        # Without its files the library makes up a tokenizer that knows no word.
        if folder.is_dir() and not any(
            file for pattern in ("tokenizer*", "vocab*", "*.model") for file in folder.glob(pattern)
        ):
            raise UserError(
                f"classifiers: model '{folder}': the folder has no tokenizer",
                "save it there with tokenizer.save_pretrained",
            )
        self._scoring = SCORING_TOKENS.get(self.device.type, 8192)

    def forget(self) -> None:
        """Begin anew: with whole slices, and to count what `notes` tells of."""
        self._texts_seen = self._texts_cut = 0
        # A trial that ran out of memory changes no later one: that would depend on which process ran it.
        self._slice, self._shrunk = self._largest, False

    @property
    def notes(self) -> list[str]:
        """What the user should know of the texts and the memory since `forget`."""
        cut = f"{self._texts_cut} of {self._texts_seen} texts have more than max_length: {self._settings.max_length} tokens and are cut"
        memory = f"out of memory: rows go through the model {self._slice} at a time; batch_size stays {self._settings.batch_size}"
        return [note for note, due in ((cut, self._texts_cut), (memory, self._shrunk)) if due]

    # What is loaded ---------------------------------------------------------------------------------------------------

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        found = self._loaded("AutoTokenizer")
        limit = min(found.model_max_length, self._positions() or found.model_max_length)
        if self._settings.max_length > limit:
            message = f"classifiers: max_length is {self._settings.max_length}, but model '{self.place}' reads at most {limit} tokens"
            raise UserError(message, f"set max_length to {limit} or less")
        return found

    def _positions(self) -> int | None:
        """Return how many tokens the model has positions for; RoBERTa and its kin count from the one after padding's."""
        import torch

        positions: int | None = getattr(self.config, "max_position_embeddings", None)
        for name, module in self.model.base_model.named_modules():
            if (
                name.endswith("position_embeddings")
                and isinstance(module, torch.nn.Embedding)
                and module.padding_idx is not None
            ):
                return module.num_embeddings - module.padding_idx - 1
        return positions

    @functools.cached_property
    def _loaded_model(self) -> tuple[Any, set[str]]:
        import torch

        names = dict(enumerate(self._classes))
        options = {
            "num_labels": len(names),
            "id2label": names,
            "label2id": {name: number for number, name in names.items()},
        }
        # A head of other classes is drawn anew like one that is missing.
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        with (
            torch.random.fork_rng()
        ):  # the library draws the missing head, which `reset` draws again for each fit
            model, found = self._loaded(
                "AutoModelForSequenceClassification", dtype=torch.float32, **options
            )
        other = {name[0] if isinstance(name, tuple) else name for name in found["mismatched_keys"]}
        return move_to(str(self.device), model, self._what), set(found["missing_keys"]) | other

    @property
    def model(self) -> Any:
        """The network, in float32."""
        return self._loaded_model[0]

    def refuse_missing(self, head: bool) -> None:
        """Make sure that the checkpoint has the encoder's weights, and where that is asked the head's.

        Raises:
            UserError: if any would be drawn at random, which the library does without a word.
        """
        model, missing = self._loaded_model
        prefix = f"{model.base_model_prefix}."
        refuse_missing(
            (
                name
                for name in missing
                if head or (name.startswith(prefix) and ".pooler." not in name)
            ),
            self._what,
            "give the folder of a trained classifier" if head else HINT,
        )

    @functools.cached_property
    def pretrained(self) -> dict[str, "torch.Tensor"]:
        """The weights that each fit starts from."""
        self.refuse_missing(head=False)
        return {name: weight.clone() for name, weight in self.model.state_dict().items()}

    def _loaded(self, part: str, **options: Any) -> Any:
        return load_pretrained(
            part, self.place, self._what, HINT, revision=self._settings.revision, **options
        )

    def reset(self) -> None:
        """Put back the pretrained weights and draw the head anew.

        `head: fresh` draws every layer that is not of the encoder (section 4.1: both fully connected layers); `library`
        only what the checkpoint lacks, as the authors' code does, so that BERT's pooler keeps its pretrained weights.
        """
        self.model.load_state_dict(self.pretrained)
        drawn = {
            id(parameter)
            for module in self._head()
            for parameter in module.parameters(recurse=False)
        }
        for parameter in self.model.parameters():
            parameter._is_hf_initialized = id(parameter) not in drawn
        for module in (
            self.model.modules()
        ):  # some families draw a layer by rules of the module that holds it
            module._is_hf_initialized = all(
                parameter._is_hf_initialized for parameter in module.parameters()
            )
        self.model.initialize_weights()

    def _head(self) -> Iterator[Any]:
        if self._settings.head == "library":
            missing = {name.rpartition(".")[0] for name in self._loaded_model[1]}
            yield from (module for name, module in self.model.named_modules() if name in missing)
            return
        base = self.model.base_model
        # BERT's pooler is one of the head's two fully connected layers, although the library counts it to the encoder.
        heads = [child for child in self.model.children() if child is not base] + [
            getattr(base, "pooler", None)
        ]
        yield from (
            module
            for head in filter(None, heads)
            for module in head.modules()
            if hasattr(module, "weight")
        )

    # Tokens -----------------------------------------------------------------------------------------------------------

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Return the tokens of texts, cut at `max_length`."""
        import torch

        self._tokenise(texts)
        rows = [self._tokens[text] for text in texts]
        lengths = [len(row) for row in rows]
        self._texts_seen += len(texts)
        self._texts_cut += sum(self._cut[text] for text in texts)
        sizes = torch.tensor(lengths, dtype=torch.long)
        flat = torch.tensor([token for row in rows for token in row], dtype=torch.int32)
        return Tokens(
            flat.to(self.device),
            (sizes.cumsum(0) - sizes).to(self.device),
            sizes.to(self.device),
            lengths,
        )

    def _tokenise(self, texts: Sequence[str]) -> None:
        if len(self._tokens) > KEPT_TEXTS:
            self._tokens.clear()
            self._cut.clear()
        longest = self._settings.max_length
        new = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        if new:
            self._tokens |= zip(
                new,
                self.tokenizer(new, truncation=True, max_length=longest)["input_ids"],
                strict=True,
            )
            full = [text for text in new if len(self._tokens[text]) >= longest]
            self._cut |= dict.fromkeys(new, False)
            if full:
                whole = self.tokenizer(full, truncation=False)["input_ids"]
                self._cut |= {
                    text: len(row) > longest for text, row in zip(full, whole, strict=True)
                }

    # Gradients and scores ---------------------------------------------------------------------------------------------

    def gradients(
        self, tokens: Tokens, targets: "torch.Tensor", batch: Sequence[int], places: "torch.Tensor"
    ) -> "torch.Tensor":
        """Add the gradients of the mean soft cross-entropy of a batch; return the sum of its losses, on the device.

        Slices of like length hold little padding, and their gradients add up to the batch's. Where memory runs out the
        slices are halved, for the rest of the fit, and the batch is done again: its effective size stays.

        Args:
            tokens: of all rows.
            targets: (rows, classes), the weight of each class in each row.
            batch: the numbers of its rows, sorted by length.
            places: the same numbers on the device.
        """
        import torch

        before = torch.get_rng_state()
        while True:
            try:
                return self._gradients(tokens, targets, batch, places)
            except (RuntimeError, MemoryError) as error:
                if self._slice == 1 or not out_of_memory(error):
                    raise
            self.model.zero_grad()
            torch.set_rng_state(before)
            self._slice = max(1, min(self._slice, len(batch)) // 2)
            self._shrunk = True
            _free(self.device)

    def _gradients(
        self, tokens: Tokens, targets: "torch.Tensor", batch: Sequence[int], places: "torch.Tensor"
    ) -> "torch.Tensor":
        import torch

        total = torch.zeros((), device=self.device)
        # Of several processes each takes its share of the rows, whatever slices its own memory holds.
        mine, places = batch[group().rank :: group().size], places[group().rank :: group().size]
        for start in range(0, len(mine), self._slice):
            end = min(start + self._slice, len(mine))
            chosen = places[start:end]
            logits = self._forward(tokens, chosen, tokens.lengths[mine[end - 1]])
            # Soft cross-entropy against the probabilities: the library's own loss would take floats for multi-label.
            loss = torch.nn.functional.cross_entropy(logits, targets[chosen], reduction="sum")
            (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def logits(self, tokens: Tokens) -> "torch.Tensor":
        """Return the scores of texts, (texts, classes), on the device.

        Raises:
            ArithmeticError: if any is no number.
        """
        import torch

        self.model.eval()
        order = sorted(range(len(tokens.lengths)), key=tokens.lengths.__getitem__)
        places = torch.tensor(order, device=self.device)
        logits = torch.zeros(len(order), len(self._classes), device=self.device)
        with torch.inference_mode():
            for number, (start, end) in enumerate(
                _by_budget([tokens.lengths[i] for i in order], self._scoring)
            ):
                if number % group().size == group().rank:
                    chosen = places[start:end]
                    logits[chosen] = self._scored(tokens, chosen, tokens.lengths[order[end - 1]])
            group().add([logits])
        if not bool(logits.isfinite().all()):
            raise ArithmeticError(
                "the scores are no numbers: training has diverged; a lower lr helps"
            )
        return logits

    def _scored(self, tokens: Tokens, chosen: "torch.Tensor", longest: int) -> "torch.Tensor":
        import torch

        try:
            return self._forward(tokens, chosen, longest)
        except (RuntimeError, MemoryError) as error:
            if len(chosen) == 1 or not out_of_memory(error):
                raise
        _free(self.device)
        return torch.cat([self._scored(tokens, part, longest) for part in chosen.chunk(2)])

    def _forward(self, tokens: Tokens, chosen: "torch.Tensor", longest: int) -> "torch.Tensor":
        """Return the logits, (rows, classes), in float32; weights stay in float32 whatever the products are made in."""
        import torch

        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16"
        ):
            logits: torch.Tensor = self.model(
                **tokens.batch(chosen, longest, self.tokenizer.pad_token_id or 0)
            ).logits
        return logits.float()


def _by_budget(lengths: Sequence[int], budget: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of batches of ascending lengths, none with more than `budget` padded tokens."""
    start = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or lengths[end] * (end + 1 - start) > budget:
            yield start, end
            start = end


def _free(device: "torch.device") -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()


def _fast_dtype(device: "torch.device") -> str:
    """Return bfloat16 where the processor multiplies in it; elsewhere it would be emulated, and slow."""
    import torch

    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Older releases cannot say, and are served with float32.
        able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        native = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return "bfloat16" if native else "float32"
