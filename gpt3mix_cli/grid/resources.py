"""What the cells of an experiment share: data, LM and classifiers, each opened when it is first needed and kept."""

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .. import data
from ..augment import Augmenter, journal_path, open_augmenter
from ..errors import NO_CALLBACKS, Callbacks, UserError
from ..lm import IN_MEMORY, LM, Journal, JournaledLM, open_lm
from ..records import Example
from ..settings import (
    BacktranslateSettings,
    BaselineSettings,
    ClassifierSettings,
    Experiment,
    ParaphraseSettings,
    PromptSettings,
    fingerprint,
)
from ..train import Classifier, UnavailableClassifier, cached_classifier, open_prompt_classifier

Kept = TypeVar("Kept")


class Resources:
    """Opens what is costly to load, once for all cells."""

    def __init__(self, out: Path, callbacks: Callbacks = NO_CALLBACKS) -> None:
        """Open nothing yet; `out` is the folder of results, `callbacks` take warnings."""
        self._out, self._callbacks = out, callbacks
        self._kept: dict[str, Any] = {}
        self._lock = threading.RLock()

    def splits(self, experiment: Experiment) -> data.Splits:
        """Return the task's splits."""
        listed = experiment.subsample
        key = ["data", experiment.task.model_dump(), listed.master_seed, listed.validation]
        return self._once(
            key,
            lambda: data.load(
                experiment.task, listed.master_seed, listed.validation, self._callbacks
            ),
        )

    def held_out(self, experiment: Experiment) -> Sequence[Example]:
        """Return the test rows, of which the gate lets no copy through."""
        if not experiment.augment.filter.reject_test_copies:
            return ()
        try:
            return self.splits(experiment).test
        except UserError as error:
            raise UserError(
                error.message,
                f"{error.hint}; or pass over copies of test rows: augment.filter.reject_test_copies=false",
            ) from None

    def lm(self, experiment: Experiment, replay_only: bool = False) -> LM:
        """Return the experiment's LM; `replay_only`: answer from journals, send nothing."""
        settings = experiment.lm
        if settings is None:
            raise UserError(
                "the method 'gpt3mix' needs an `lm:` in the config",
                "add for example lm: {kind: local, model: bundled}",
            )
        journals = functools.partial(self.journals, experiment)
        budget = None if replay_only else experiment.budget
        return self._once(
            ["lm", settings.model_dump(), budget, replay_only],
            lambda: open_lm(settings, budget, journals, replay_only, self._callbacks),
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

    def classifier(self, experiment: Experiment, settings: ClassifierSettings) -> Classifier:
        """Return the classifier for its settings."""
        if isinstance(settings, PromptSettings):
            return open_prompt_classifier(settings, experiment.task, self.lm(experiment))
        return cached_classifier(settings, tuple(experiment.task.classes))

    def classifier_or_unavailable(
        self, experiment: Experiment, settings: ClassifierSettings
    ) -> Classifier:
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
                self._kept[key] = UnavailableClassifier(settings.kind, error)
        found: UnavailableClassifier = self._kept[key]
        return found

    def classifier_with_cache(
        self,
        experiment: Experiment,
        settings: ClassifierSettings,
        output: Path,
        others: Sequence[Path],
    ) -> tuple[Classifier, JournaledLM | None]:
        """Return the classifier of a trials file and, of one that prompts, the journal of its LM."""
        found = self.classifier_or_unavailable(experiment, settings)
        if not isinstance(settings, PromptSettings) or isinstance(found, UnavailableClassifier):
            return found, None
        journal = JournaledLM(self.lm(experiment), journal_path(output), _journals(others, output))
        return open_prompt_classifier(settings, experiment.task, journal), journal

    # Augmenters ------------------------------------------------------------------------------------------------------

    def augmenter(
        self, experiment: Experiment, method: str, output: Path, others: Sequence[Path]
    ) -> tuple[Augmenter, Journal | JournaledLM | None]:
        """Return the augmenter of a method and, where there is one, its journal; what the others' journals hold is not asked for again."""
        if asking := experiment.asking(method):
            journal = JournaledLM(
                self.lm(experiment), journal_path(output), _journals(others, output)
            )
            return open_augmenter(asking, experiment.task, journal, method), journal
        settings = baseline_of(experiment, method)
        assert not isinstance(settings, ParaphraseSettings), "it asks the LM"
        if isinstance(settings, BacktranslateSettings):
            translations = Journal(journal_path(output), _journals(others, output))
            return open_augmenter(settings, experiment.task, journal=translations), translations
        key = [
            "baseline",
            settings.model_dump(),
            list(experiment.task.labels.items()),
            experiment.task.text_type,
        ]
        return self._once(key, lambda: open_augmenter(settings, experiment.task)), None

    def replay_lm(self, experiment: Experiment, outputs: Sequence[Path]) -> JournaledLM:
        """Return the LM that gives what the journals of some outputs hold, and asks nothing."""
        return JournaledLM(self.lm(experiment, replay_only=True), IN_MEMORY, _journals(outputs))

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


def baseline_of(experiment: Experiment, method: str) -> BaselineSettings:
    """Return the settings of a baseline by its name."""
    for baseline in experiment.baselines:
        if baseline.name == method:
            return baseline
    names = ", ".join(baseline.name for baseline in experiment.baselines) or "none"
    raise UserError(
        f"the config has no baseline '{method}'",
        f"its baselines: {names}; add one under `baselines:`",
    )
