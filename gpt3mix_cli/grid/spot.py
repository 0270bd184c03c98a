"""One cell of an experiment, where its files stand, and which trials and draws fall on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..settings import ClassifierSettings, Experiment, PromptSettings, derived_seed, fingerprint


@dataclass(frozen=True)
class Spot:
    """A cell and where its files stand."""

    experiment: Experiment
    out: Path
    level: str
    seed: int

    @property
    def folder(self) -> Path:
        """The cell's folder: the path is the key."""
        level = self.level.replace("%", "pct").replace("/", "-per-")
        variant = ",".join(
            f"{key}={_path_word(value)}" for key, value in self.experiment.variant.items()
        )
        return self.out / self.experiment.name / variant / level / f"seed-{self.seed}"

    @property
    def real(self) -> Path:
        """The subsample."""
        return self.folder / "train.jsonl"

    def synthetic(self, method: str, draw: int) -> Path:
        """The synthetic rows of a method and draw."""
        return self.folder / (f"{method}.draw-{draw}.jsonl" if draw else f"{method}.jsonl")

    def seed_of(self, kind: str, draw: int) -> int:
        """The seed of a synthetic set, by the kind of its method; each variant and level has the same."""
        return derived_seed(self.experiment.subsample.master_seed, "augment", kind, self.seed, draw)

    def trials(self, method: str, classifier: str) -> Path:
        """The trials of a method and classifier."""
        return self.folder / "trials" / f"{method}.{classifier}.jsonl"

    def dealt(self, classifier: ClassifierSettings | None) -> list[tuple[int, int]]:
        """Return (trial, draw) of this data seed: trials go round the seeds in turn, `draws` says when a set is shared.

        A seed that the experiment does not list stands alone and gets as many trials as a listed one.
        """
        seeds = self.experiment.subsample.seeds
        total = (classifier.trials if classifier else None) or self.experiment.trials
        numbers = range(seeds.index(self.seed) if self.seed in seeds else 0, total, len(seeds))
        draws = self.experiment.augment.synthetic_sets
        turns = [(trial, trial // len(seeds)) for trial in numbers]
        return [(trial, turn if draws == "per-trial" else turn % draws) for trial, turn in turns]

    def draws(self) -> list[int]:
        """Return the draws that any classifier needs on this seed; one that prompts needs none."""
        classifiers: Sequence[ClassifierSettings | None] = [
            one for one in self.experiment.classifiers if not isinstance(one, PromptSettings)
        ] or [None]
        return sorted(
            {draw for classifier in classifiers for _, draw in self.dealt(classifier)}
        ) or [0]

    def tried(self, method: str) -> list[ClassifierSettings]:
        """Return the classifiers that have trials with a method on this seed."""
        return [
            one
            for one in self.experiment.classifiers
            if self.dealt(one) and self.experiment.tried(method, one)
        ]

    def makes(self, method: str) -> bool:
        """Return whether rows of a method are made: no rows that no classifier reads."""
        return method != "none" and bool(self.tried(method) or not self.experiment.classifiers)

    def used(self) -> bool:
        """Return whether any trial falls on this data seed: with fewer trials than seeds some stay without."""
        classifiers = self.experiment.classifiers
        return not classifiers or any(self.dealt(classifier) for classifier in classifiers)


def _path_word(value: Any) -> str:
    """Return a swept value as a path may hold it."""
    word = str(value)
    plain = "".join(letter if letter.isalnum() or letter in "._+-" else "_" for letter in word)
    # A mapping or a long text is told apart by its hash: two values must never share a folder.
    return plain if plain == word and len(word) <= 40 else f"{plain[:24]}-{fingerprint(value, 6)}"
