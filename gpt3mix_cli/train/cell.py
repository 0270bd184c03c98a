"""What the trials of one file have in common: the cell that they stand in, and the synthetic rows of each draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..records import Augmented
from ..settings import derived_seed


@dataclass(frozen=True)
class Cell:
    """What the trials of one file have in common, in the words of their rows."""

    task: str
    level: str
    method: str
    classifier: str
    variant: Mapping[str, Any]
    data_seed: int
    classes: Sequence[str]

    def __str__(self) -> str:
        """What a progress bar is called."""
        variant = "".join(f"{key}={value} " for key, value in self.variant.items())
        return f"{variant}{self.level} seed {self.data_seed} {self.method} + {self.classifier}"


@dataclass(frozen=True)
class SyntheticSet:
    """The synthetic rows of a draw and how they were made; a hand-made file says nothing of itself but its hash.

    `broken` says why there are no rows: the trials of this draw fail with it.
    """

    rows: Sequence[Augmented]
    about: Mapping[str, Any]
    tokens: int | None = None
    usd: float | None = None
    broken: str = ""


def training_seed(master_seed: int, trial: int) -> int:
    """Return the seed of a trial, which is that of its number alone, so that methods are paired."""
    return derived_seed(master_seed, "train", trial)
