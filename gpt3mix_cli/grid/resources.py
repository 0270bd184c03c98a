"""What the cells of an experiment share: data, LM and classifiers, each opened when it is first needed and kept."""

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .. import data
from ..augment import Augmenter, journal_path, open_augmenter
from ..errors import Tell, UserError, quiet
from ..lm import LM, open_lm
from ..lm.journal import IN_MEMORY, Journal, Journaled
from ..records import Example
from ..settings import (
    Backtranslate,
    Baseline,
    Classifier,
    Experiment,
    Paraphrase,
    Prompt,
    fingerprint,
)
from ..train import Classifier as Fitted
from ..train import Unusable, kept_classifier, open_prompting

Kept = TypeVar("Kept")


class Opened:
    """Opens what is costly to load, once for all cells."""

    def __init__(self, out: Path, tell: Tell = quiet) -> None:
        """Open nothing yet; `out` is the folder of results, `tell` hears warnings."""
        self._out, self._tell = out, tell
        self._kept: dict[str, Any] = {}
        self._lock = threading.RLock()

    def splits(self, experiment: Experiment) -> data.Splits:
        """Return the task's splits."""
        listed = experiment.subsample
        key = ["data", experiment.task.model_dump(), listed.master_seed, listed.validation]
        return self._once(
            key,
            lambda: data.load(experiment.task, listed.master_seed, listed.validation, self._tell),
        )

    def held_out(self, experiment: Experiment) -> Sequence[Example]:
        """Return the test rows, of which the gate lets no copy through."""
        if not experiment.augment.gate.leak:
            return ()
        try:
            return self.splits(experiment).test
        except UserError as error:
            raise UserError(
                error.message,
                f"{error.hint}; or pass over copies of test rows: augment.gate.leak=false",
            ) from None

    def lm(self, experiment: Experiment, asks: bool = True) -> LM:
        """Return the experiment's LM; `asks=False`: one that gives what journals hold."""
        settings = experiment.lm
        if settings is None:
            raise UserError(
                "the method 'gpt3mix' needs an `lm:` in the config",
                "add for example lm: {kind: local, model: bundled}",
            )
        journals = functools.partial(self.journals, experiment)
        budget = experiment.budget if asks else None
        return self._once(
            ["lm", settings.model_dump(), budget, asks],
            lambda: open_lm(settings, budget, journals, asks, self._tell),
        )

    def journals(self, experiment: Experiment) -> list[Path]:
        """Return all journals of an experiment, of every variant, cell and run."""
        return sorted((self._out / experiment.name).rglob("*.journal.sqlite"))

    def close(self) -> None:
        """Let go of what holds connections."""
        for kept in self._kept.values():
            if hasattr(kept, "close"):
                kept.close()

    # Classifiers -----------------------------------------------------------------------------------------------------

    def classifier(self, experiment: Experiment, settings: Classifier) -> Fitted:
        """Return the classifier for its settings."""
        if isinstance(settings, Prompt):
            return open_prompting(settings, experiment.task, self.lm(experiment))
        return kept_classifier(settings, tuple(experiment.task.classes))

    def usable(self, experiment: Experiment, settings: Classifier) -> Fitted:
        """Return the classifier, or one whose trials fail with the reason why there is none: others may do."""
        key = fingerprint(
            [
                "unusable",
                settings.model_dump(),
                experiment.task.classes,
                experiment.lm and experiment.lm.model_dump(),
            ]
        )
        if key not in self._kept:
            try:
                return self.classifier(experiment, settings)
            except UserError as error:
                self._kept[key] = Unusable(settings.kind, error)
        found: Unusable = self._kept[key]
        return found

    def trainable(
        self, experiment: Experiment, settings: Classifier, output: Path, others: Sequence[Path]
    ) -> tuple[Fitted, Journaled | None]:
        """Return the classifier of a trials file and, of one that prompts, the journal of its LM."""
        found = self.usable(experiment, settings)
        if not isinstance(settings, Prompt) or isinstance(found, Unusable):
            return found, None
        journal = Journaled(self.lm(experiment), journal_path(output), _journals(others, output))
        return open_prompting(settings, experiment.task, journal), journal

    # Augmenters ------------------------------------------------------------------------------------------------------

    def augmenter(
        self, experiment: Experiment, method: str, output: Path, others: Sequence[Path]
    ) -> tuple[Augmenter, Journal | Journaled | None]:
        """Return the augmenter of a method and, where there is one, its journal; what the others' journals hold is not asked for again."""
        if asking := experiment.asking(method):
            journal = Journaled(
                self.lm(experiment), journal_path(output), _journals(others, output)
            )
            return open_augmenter(asking, experiment.task, journal, method), journal
        settings = baseline_of(experiment, method)
        assert not isinstance(settings, Paraphrase), "it asks the LM"
        if isinstance(settings, Backtranslate):
            translations = Journal(journal_path(output), _journals(others, output))
            return open_augmenter(settings, experiment.task, journal=translations), translations
        key = [
            "baseline",
            settings.model_dump(),
            list(experiment.task.labels.items()),
            experiment.task.text_type,
        ]
        return self._once(key, lambda: open_augmenter(settings, experiment.task)), None

    def held(self, experiment: Experiment, outputs: Sequence[Path]) -> Journaled:
        """Return the LM that gives what the journals of some outputs hold, and asks nothing."""
        return Journaled(self.lm(experiment, asks=False), IN_MEMORY, _journals(outputs))

    def _once(self, key: object, make: Callable[[], Kept]) -> Kept:
        """Return what was made for a key before, or make it now."""
        name = fingerprint(key)
        with self._lock:
            if name not in self._kept:
                self._kept[name] = make()
            kept: Kept = self._kept[name]
        return kept


def _journals(outputs: Sequence[Path], own: Path | None = None) -> list[Path]:
    """Return the journals of some outputs that are there, without that of its own."""
    return [journal_path(path) for path in outputs if path != own and journal_path(path).exists()]


def baseline_of(experiment: Experiment, method: str) -> Baseline:
    """Return the settings of a baseline by its name."""
    for baseline in experiment.baselines:
        if baseline.name == method:
            return baseline
    names = ", ".join(baseline.name for baseline in experiment.baselines) or "none"
    raise UserError(
        f"the config has no baseline '{method}'",
        f"its baselines: {names}; add one under `baselines:`",
    )
