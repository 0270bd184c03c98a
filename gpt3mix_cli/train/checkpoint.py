"""The checkpoint of a long training: what it needs to go on after an interruption.

A training that is shorter than `INTERVAL_S` writes none. A checkpoint never costs a training: if
it cannot be written or read, the user gets a note, and the training goes on or starts anew.
"""

import contextlib
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import UserError
from ..files import atomic_write

if TYPE_CHECKING:
    from .encoder import Encoder

INTERVAL_S = 600.0  # between two checkpoints, and before the first


class FitState:
    """What changes in the course of a fit, and where to go on.

    Args:
        encoder: the network, before the first epoch.
        optimizer: of its weights.
        schedule: of the optimizer's learning rate.

    Attributes:
        epoch: the last epoch that is done; 0 before the first.
        history: one mapping per epoch.
        best: the best validation accuracy so far.
        best_epoch: its epoch.
        best_weights: the weights of that epoch.
    """

    def __init__(self, encoder: "Encoder", optimizer: Any, schedule: Any) -> None:
        self.optimizer, self.schedule = optimizer, schedule
        self.epoch, self.best, self.best_epoch = 0, -1.0, 0
        self.history: list[Mapping[str, Any]] = []
        self._encoder = encoder
        weights = encoder.model.state_dict()
        self.best_weights = {name: weight.clone() for name, weight in weights.items()}

    def record(self, epoch: int, loss: float, score: float) -> None:
        """Record an epoch with its mean loss and its validation accuracy."""
        values = {"loss": round(loss, 6), "valid_accuracy": round(score, 6)}
        self.epoch = epoch
        self.history.append({"epoch": epoch, **values})
        if score > self.best:
            self.best, self.best_epoch = score, epoch
            for name, weight in self._encoder.model.state_dict().items():
                self.best_weights[name].copy_(weight)

    def as_dict(self) -> dict[str, Any]:
        """Return the state: tensors and plain values."""
        import torch

        device = self._encoder.device
        random = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(device)
        return {
            "epoch": self.epoch,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "history": [dict(item) for item in self.history],
            "weights": self._encoder.model.state_dict(),
            "best_weights": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": random,
            "micro_batch": self._encoder.micro_batch,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `as_dict` returned, with its numbers to the last digit."""
        import torch

        self.epoch, self.best = state["epoch"], state["best"]
        self.best_epoch, self.history = state["best_epoch"], list(state["history"])
        self._encoder.model.load_state_dict(state["weights"])
        for name, weight in state["best_weights"].items():
            self.best_weights[name].copy_(weight)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self._encoder.micro_batch = state["micro_batch"]
        torch.set_rng_state(state["random"]["cpu"])
        if self._encoder.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"]["cuda"], self._encoder.device)


class Checkpoint:
    """The file that holds the state of one fit while it runs.

    Args:
        path: the file; it is removed after the fit.
        key: a hash of everything that decides the fit. The state of another one is not used.

    Attributes:
        notes: messages for the user.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.notes: list[str] = []
        self._path, self._key = path, key
        self._last = time.monotonic()

    @property
    def _full_key(self) -> list[str]:
        # Another version may compute other numbers, or give the weights other names.
        return [self._key, __version__, version("torch"), version("transformers")]

    def load(self) -> dict[str, Any] | None:
        """Return the state of an interrupted fit, its tensors on the CPU; None if there is none."""
        import torch

        if not self._path.is_file():
            return None
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
            is_ours = state["key"] == self._full_key
        except Exception as error:  # whatever a torn or foreign file makes of it
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self.notes.append(f"{self._path} is damaged ({reason}); the training starts anew")
            return None
        return dict(state) if is_ours else None

    def save_if_due(self, fit: FitState) -> None:
        """Replace the checkpoint if the last one is old enough."""
        # On another machine of a cluster the folder may not exist.
        if time.monotonic() - self._last < INTERVAL_S or not self._path.parent.is_dir():
            return
        import torch

        try:
            with atomic_write(self._path) as stream:
                state = {**fit.as_dict(), "key": self._full_key}
                torch.save(state, stream)  # type: ignore[arg-type]  # it only writes
        except (UserError, OSError, RuntimeError) as error:
            reason = error.message if isinstance(error, UserError) else str(error)
            note = f"no checkpoint was written ({reason}); an interrupted training starts anew"
            if note not in self.notes:
                self.notes.append(note)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Remove the file, if there is one: the fit has ended."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
