"""A pretrained encoder with a fresh classification head, trained with soft cross-entropy.

Sections 3, 4.1 and 4.2: AdamW without decay on biases and norms, a linear warm-up of
`warmup_epochs` step by step, then a constant learning rate. The validation accuracy is measured
after each epoch. Decisions where the paper is silent:

- The score before the first epoch does not count: a fresh head has learnt nothing.
- Of several epochs with the same score the first is the best; an equal score is no improvement.
- Training stops after `patience` epochs in a row without improvement, or after `max_epochs`. The
  best epoch's weights are restored, and the test rows are scored once, with them.
- Each epoch has a new order of rows. The last, smaller batch is used; its loss is a mean over its
  own rows.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..pretrained import model_path
from ..records import Augmented, Example
from ..settings import TransformerSettings, generator
from ..user_cache import ModelFacts
from .checkpoint import FitState
from .encoder import Encoder, cpu_threads
from .protocol import Classifier, EpochCallback, FitResult, cached_classifier, ignore_epoch
from .targets import target_rows
from .tokens import Tokens

if TYPE_CHECKING:
    import torch

CACHE_VERSION = 4  # raised when the same settings would give other numbers
NOT_IN_ABOUT = {"name", "trials", "preset", "model", "revision", "device"}


class TransformerClassifier(Classifier):
    """The classifier; see `train.Classifier`.

    Raises:
        UserError: if the model cannot be found.
    """

    summary = "`{model}` with a new classification head"
    library_name = "transformers"
    usage_snippet = (
        "from transformers import pipeline\n"
        'classify = pipeline("text-classification", "DIR", truncation=True, '
        "max_length={max_length})\n"
    )

    def __init__(self, settings: TransformerSettings, classes: Sequence[str]) -> None:
        self._settings, self._classes = settings, tuple(classes)
        self._facts = ModelFacts(
            {"encoder": settings.model_dump(include={"device", "dtype", "revision"})},
            model_path(settings.model, "classifiers: model"),
            settings.revision,
            lambda: self._unchecked_encoder.describe(),
        )
        is_cpu = self._facts.values["device"] == "cpu"
        self.threads = settings.threads if is_cpu else None
        self.about = {
            # On a GPU the number of threads changes nothing.
            **settings.model_dump(exclude=NOT_IN_ABOUT if is_cpu else {*NOT_IN_ABOUT, "threads"}),
            **self._facts.values,
            "format": CACHE_VERSION,
        }

    @property
    def _encoder(self) -> Encoder:
        self._facts.check()
        return self._unchecked_encoder

    @cached_property
    def _unchecked_encoder(self) -> Encoder:
        return Encoder(self._settings, self._classes)

    @property
    def notes(self) -> list[str]:
        """Messages for the user about texts and memory since the last fit began."""
        return self._unchecked_encoder.notes if "_unchecked_encoder" in vars(self) else []

    def __reduce__(self) -> tuple[Any, ...]:
        # The settings alone: another process loads the weights once.
        return cached_classifier, (self._settings, self._classes)

    def fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        on_epoch: EpochCallback = ignore_epoch,
    ) -> FitResult:
        """Train from the pretrained weights and keep those of the best epoch.

        Without validation rows all epochs are trained, and the last weights are kept.

        Raises:
            ArithmeticError: if the loss is not finite.
        """
        import torch

        devices = [self._encoder.device] if self._encoder.device.type == "cuda" else []
        # Dropout and the library's initialisers use the global generator; the fork restores it.
        with torch.random.fork_rng(devices=devices), cpu_threads(self._settings.threads):
            torch.manual_seed(seed % 2**63)
            self._encoder.reset()
            torch.manual_seed(seed % 2**63)
            return self._fit(train, validation, seed, on_epoch)

    def _fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        on_epoch: EpochCallback,
    ) -> FitResult:
        import torch

        settings, encoder = self._settings, self._encoder
        targets = torch.tensor(target_rows(train, self._classes), device=encoder.device)
        train_tokens = encoder.tokens([row.text for row in train])
        validation_tokens = encoder.tokens([row.text for row in validation])
        truth = torch.tensor(
            [self._classes.index(row.label) for row in validation], device=encoder.device
        )
        fit = FitState(encoder, *self._optimizer(len(train)))
        if self.checkpoint and (state := self.checkpoint.load()):
            fit.restore(state)
        for epoch in range(fit.epoch + 1, settings.max_epochs + 1):
            order = generator(seed, "epoch", epoch).sample(range(len(train)), len(train))
            loss = self._epoch(train_tokens, targets, order, fit.optimizer, fit.schedule)
            if not validation:
                continue
            score = float((encoder.logits(validation_tokens).argmax(1) == truth).double().mean())
            fit.record(epoch, loss, score)
            last = min(fit.best_epoch + settings.patience, settings.max_epochs)
            on_epoch(fit.history[-1], fit.history[fit.best_epoch - 1], last, settings.max_epochs)
            if epoch - fit.best_epoch >= settings.patience:
                break
            if self.checkpoint:
                self.checkpoint.save_if_due(fit)
        if not validation:
            return FitResult(None)
        encoder.model.load_state_dict(fit.best_weights)
        return FitResult(fit.best, fit.best_epoch, tuple(fit.history))

    def _optimizer(self, num_rows: int) -> tuple[Any, Any]:
        import torch

        settings, weights = self._settings, list(self._encoder.model.parameters())
        # Biases and norms are the vectors; they do not decay.
        groups = [
            {"params": [w for w in weights if w.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, fused=True)
        warmup = settings.warmup_epochs * math.ceil(num_rows / settings.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / warmup) if warmup else 1.0
        )
        return optimizer, schedule

    def _epoch(
        self,
        tokens: Tokens,
        targets: "torch.Tensor",
        order: Sequence[int],
        optimizer: Any,
        schedule: Any,
    ) -> float:
        import torch

        encoder, size = self._encoder, self._settings.batch_size
        encoder.model.train()
        batches = [
            sorted(order[start : start + size], key=tokens.lengths.__getitem__)
            for start in range(0, len(order), size)
        ]
        rows = torch.tensor([row for batch in batches for row in batch], device=encoder.device)
        total = torch.zeros((), device=encoder.device)
        for batch, chosen in zip(batches, torch.split(rows, size), strict=True):
            optimizer.zero_grad()
            total += encoder.gradients(tokens, targets, batch, chosen)
            optimizer.step()
            schedule.step()
        mean = float(total) / len(order)
        if not math.isfinite(mean):
            raise ArithmeticError(f"the loss became {mean}; a lower lr helps")
        return mean

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Return the class probabilities, (texts, classes); before a fit, of the loaded weights."""
        with cpu_threads(self._settings.threads):
            return self._encoder.logits(self._encoder.tokens(texts)).softmax(-1).cpu().numpy()

    def probe(self) -> None:
        """Load tokenizer and weights, and score two texts."""
        _ = self._encoder.pretrained
        self._encoder.try_out()

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration with the label map, and tokenizer.

        The transformers library reads the folder.
        """
        self._encoder.model.save_pretrained(folder)
        self._encoder.tokenizer.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        """Make sure that the weights, which are those of the settings' `model`, are complete."""
        self._encoder.refuse_missing_weights(head=True)
        self._encoder.try_out()
