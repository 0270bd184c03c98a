"""A pretrained encoder with a fresh classification head, trained with soft cross-entropy (sections 3, 4.1 and 4.2).

AdamW without decay on biases and norms, a warm-up of `warmup_epochs` that rises linearly step by step, then a constant
rate. After each epoch the validation accuracy is taken. Where the paper is silent this is decided:

- The score before the first epoch does not count: a fresh head has learnt nothing.
- Of several epochs with the same score the first is the best one; an equal score is no improvement.
- Training stops when `patience` epochs in a row brought no improvement, or after `max_epochs`; the best epoch's weights
  are put back, and the test rows are scored once, with them.
- Rows are drawn in a new order for each epoch; the last, smaller batch is used, its loss a mean over its own rows.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import hash_model
from ..records import Augmented, Example
from ..settings import TransformerSettings, fingerprint, generator
from .encoder import Encoder, Tokens
from .loop import EpochCallback, FitResult, cached_classifier, ignore_epoch
from .parallel import group, threads

if TYPE_CHECKING:
    import torch

CACHE_VERSION = 2  # raised when the same settings would give other numbers


class TransformerClassifier:
    """The classifier; see `train.Classifier`."""

    def __init__(self, settings: TransformerSettings, classes: Sequence[str]) -> None:
        """Read the model's configuration.

        Raises:
            UserError: if the model cannot be found, with the remedy.
        """
        self._settings, self._classes = settings, tuple(classes)
        self._encoder = Encoder(settings, classes)
        self.tokens: int | None = None
        self.usd: float | None = None
        self.threads = settings.threads if self._encoder.device.type == "cpu" else None
        folder = Path(self._encoder.place)
        commit = getattr(self._encoder.config, "_commit_hash", None) or settings.revision
        sha = hash_model(folder) if folder.is_dir() else fingerprint([self._encoder.place, commit])
        self.about = {
            **settings.model_dump(
                exclude={"name", "trials", "preset", "model", "revision", "device"}
            )
        }
        self.about |= {
            "model": sha,
            "device": self._encoder.device.type,
            "dtype": self._encoder.dtype,
            "format": CACHE_VERSION,
        }
        if self._encoder.device.type != "cpu":
            del self.about["threads"]  # changes nothing there
        if group().size > 1:
            self.about["processes"] = group().size

    @property
    def notes(self) -> list[str]:
        """What the user should know of the texts that were seen."""
        return self._encoder.notes

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as settings: there it is loaded once."""
        return cached_classifier, (self._settings, self._classes)

    def fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        watch: EpochCallback = ignore_epoch,
    ) -> FitResult:
        """Train from the pretrained weights; the best epoch's weights stay.

        Raises:
            ArithmeticError: if the loss is no number.
        """
        import torch

        group().ask("fit", self._settings, self._classes, (train, validation, seed))
        devices = [self._encoder.device] if self._encoder.device.type == "cuda" else []
        # Dropout and the library's initialisers know the global generator only; the fork gives the caller's state back.
        with torch.random.fork_rng(devices=devices), threads(self._settings.threads):
            torch.manual_seed(seed % 2**63)
            self._encoder.forget()
            return self._fit(train, validation, seed, watch)

    def _fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        watch: EpochCallback,
    ) -> FitResult:
        import torch

        settings, encoder = self._settings, self._encoder
        encoder.reset()
        torch.manual_seed(
            (seed + group().rank) % 2**63
        )  # after the head, which is the same in every process
        targets = torch.tensor(
            [[row.probs[name] for name in self._classes] for row in train], device=encoder.device
        )
        rows, held_out = (
            encoder.tokens([row.text for row in train]),
            encoder.tokens([row.text for row in validation]),
        )
        truth = torch.tensor(
            [self._classes.index(row.label) for row in validation], device=encoder.device
        )
        optimizer = torch.optim.AdamW(
            _groups(encoder.model, settings.weight_decay), lr=settings.lr, fused=True
        )
        warmup = settings.warmup_epochs * math.ceil(len(train) / settings.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / warmup) if warmup else 1.0
        )
        history: list[Mapping[str, Any]] = []
        best, best_epoch = -1.0, 0
        best_weights: dict[str, torch.Tensor] = {}
        for epoch in range(1, settings.max_epochs + 1):
            order = generator(seed, "epoch", epoch).sample(range(len(train)), len(train))
            loss = self._epoch(rows, targets, order, optimizer, schedule)
            score = float((encoder.logits(held_out).argmax(1) == truth).double().mean())
            history.append(
                {"epoch": epoch, "loss": round(loss, 6), "valid_accuracy": round(score, 6)}
            )
            if score > best:
                best, best_epoch = score, epoch
                best_weights = _copied(encoder.model.state_dict(), best_weights)
            watch(
                history[-1],
                history[best_epoch - 1],
                min(best_epoch + settings.patience, settings.max_epochs),
            )
            if epoch - best_epoch >= settings.patience:
                break
        encoder.model.load_state_dict(best_weights)
        return FitResult(best, best_epoch, tuple(history))

    def _epoch(
        self,
        rows: Tokens,
        targets: "torch.Tensor",
        order: Sequence[int],
        optimizer: Any,
        schedule: Any,
    ) -> float:
        """Train on all rows once, in the given order; return the mean loss."""
        import torch

        encoder, size = self._encoder, self._settings.batch_size
        encoder.model.train()
        batches = [
            sorted(order[start : start + size], key=rows.lengths.__getitem__)
            for start in range(0, len(order), size)
        ]
        places = torch.tensor([row for batch in batches for row in batch], device=encoder.device)
        total = torch.zeros((), device=encoder.device)
        for number, batch in enumerate(batches):
            optimizer.zero_grad(set_to_none=group().size == 1)
            total += encoder.gradients(
                rows, targets, batch, places[number * size : number * size + len(batch)]
            )
            if group().size > 1:
                parameters = [p for p in encoder.model.parameters() if p.requires_grad]
                for parameter in parameters:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                group().add([p.grad for p in parameters if p.grad is not None])
            optimizer.step()
            schedule.step()
        group().add([total])
        mean = float(total) / len(order)
        if not math.isfinite(mean):
            raise ArithmeticError(f"the loss became {mean}; a lower lr helps")
        return mean

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Return the class probabilities, (texts, classes); without a fit, those of the weights as they were loaded."""
        group().ask("predict_proba", self._settings, self._classes, (texts,))
        with threads(self._settings.threads):
            return self._encoder.logits(self._encoder.tokens(texts)).softmax(-1).cpu().numpy()

    def probe(self) -> None:
        """Load tokenizer and weights."""
        self._encoder.tokens(["a first try"])
        _ = self._encoder.pretrained

    def whole(self) -> None:
        """Make sure that the weights as they were loaded can label texts.

        Raises:
            UserError: if any of them would be drawn at random.
        """
        self._encoder.refuse_missing(head=True)

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration with the label map, and tokenizer, as the library reads them."""
        self._encoder.model.save_pretrained(folder)
        self._encoder.tokenizer.save_pretrained(folder)


def _copied(
    weights: Mapping[str, "torch.Tensor"], into: dict[str, "torch.Tensor"]
) -> dict[str, "torch.Tensor"]:
    """Return a copy of weights, in the memory of an earlier copy where there is one."""
    for name, weight in weights.items():
        if name in into:
            into[name].copy_(weight)
        else:
            into[name] = weight.detach().clone()
    return into


def _groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups: no decay on biases and norms, which are the vectors."""
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
