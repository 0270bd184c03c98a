"""What the cells of an experiment share: data, LM, augmenters and classifiers, opened once."""

import gc
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from .. import data
from ..augment import Augmenter, AugmentOptions, open_augmenter
from ..decontamination import CopyFinder, SyntheticCopies
from ..division import write_division
from ..errors import NO_CALLBACKS, Callbacks, UserError, in_progress
from ..existing_outputs import back_up
from ..labelled_rows import write_bad_rows
from ..layout import SKIPPED_FILE, SPLIT_FILE, Layout, journal_path
from ..lm import IN_MEMORY, LM, Journal, JournaledLM, costs_money, open_lm
from ..records import Example
from ..settings import ClassifierSettings, Experiment, Split, fingerprint
from ..train import (
    Classifier,
    UnavailableClassifier,
    cached_classifier,
    open_prompt_classifier,
)
from ..unlabelled import read_unlabelled
from .executors.protocol import Executor, SerialExecutor

Resource = TypeVar("Resource")
OpenJournal = AbstractContextManager[object]  # closes the journal at its end, if there is one


class Resources:
    """Opens what takes long to load, once for all cells.

    Args:
        layout: where results are.
        callbacks: for warnings.
        divides_anew: replace an earlier division of rows that cannot be followed.
    """

    def __init__(
        self, layout: Layout, callbacks: Callbacks = NO_CALLBACKS, divides_anew: bool = False
    ) -> None:
        self._layout, self._callbacks, self._divides_anew = layout, callbacks, divides_anew
        self._kept: set[Path] = set()
        self.executor: Executor = SerialExecutor()  # opens the LM and classifiers
        self._cache: dict[str, Any] = {}
        self._failures: dict[str, UserError] = {}  # of data and tokenizers
        self._unavailable: dict[str, UnavailableClassifier] = {}
        self._splits: dict[tuple[int, int], tuple[Experiment, data.Splits]] = {}
        self._kept_splits: set[int] = set()  # by their id
        self._lock = threading.RLock()

    def splits(self, experiment: Experiment, data_seed: int = 0) -> data.Splits:
        """Return the task's splits; the data seed selects the fold that tests, if there are any."""
        # Thousands of cells ask for the same ones. The experiment is kept, so its id stays its own.
        key = id(experiment), data_seed if experiment.task.folds else 0
        if key not in self._splits:
            self._splits[key] = experiment, self._load_splits(experiment, key[1])
        return self._splits[key][1]

    def _load_splits(self, experiment: Experiment, seed: int) -> data.Splits:
        task, subsample = experiment.task, experiment.subsample
        chosen = subsample.master_seed, subsample.validation, subsample.validation_fraction
        path = self._data_path(SPLIT_FILE, experiment)
        drops = subsample.decontaminate == "drop"
        choice = data.SplitChoice(seed, path, self._divides_anew, subsample.test, drops)

        def load() -> data.Splits:
            with in_progress(self._callbacks, f"reading the data of {task.name}"):
                return data.load_splits(task, *chosen, self._callbacks, choice)

        chosen_rows = [*chosen, seed, subsample.test, drops]
        return self._cached(
            ["data", task.model_dump(), *chosen_rows, str(path)],
            load,
            failure_key=["data", task.data.model_dump(), task.labels, *chosen_rows],
        )

    def _data_path(self, name: str, experiment: Experiment) -> Path:
        task = experiment.task.name if experiment.tasks else ""
        return self._layout.data_path(name, experiment.variant, task)

    def keep_splits(self, experiment: Experiment, data_seed: int) -> data.Splits:
        """Return the task's splits; which rows test or are left out is written to files."""
        splits = self.splits(experiment, data_seed)
        if id(splits) in self._kept_splits:
            return splits
        with self._lock:
            path = self._data_path(SPLIT_FILE, experiment)
            if splits.division and path not in self._kept:
                if splits.replaces_division:
                    self._callbacks.note(f"{path}: is replaced; what it was is in {back_up(path)}")
                write_division(path, splits.division)
            self._kept.add(path)
            path = self._data_path(SKIPPED_FILE, experiment)
            if splits.bad_rows and path not in self._kept:
                write_bad_rows(path, splits.bad_rows)
            self._kept.add(path)
            self._kept_splits.add(id(splits))
        return splits

    def augment_options(
        self,
        experiment: Experiment,
        data_seed: int,
        seed: int,
        limit: int | None = None,
        filtered: bool = True,
    ) -> AugmentOptions:
        """Return how many rows of a synthetic set to make, and which of them to keep.

        Args:
            experiment: the experiment.
            data_seed: of the cell.
            seed: of the set.
            limit: at most this many rows.
            filtered: whether the filter sees the rows; then it needs the test rows, whose copies
                it rejects.
        """
        settings, sha, held_out_sha = experiment.augment, "", ""
        test: Sequence[Example] = ()
        drops = experiment.subsample.decontaminate == "drop"
        if drops:
            hashes = self.splits(experiment, data_seed).sha
            held_out_sha = fingerprint([hashes["validation"], hashes["all_test"]])
        if filtered and settings.filter.reject_test_copies:
            try:
                splits = self.keep_splits(experiment, data_seed)
                # All of them: a part that makes a quick try changes no synthetic row.
                test, sha = splits.all_test, splits.sha["all_test"]
            except UserError as error:
                raise UserError(
                    error.message,
                    f"{error.hint}; or accept copies of test rows: "
                    "augment.filter.reject_test_copies=false",
                ) from None
        quota = settings.ratio, settings.attempts, seed, limit
        copies = partial(self._synthetic_copies, experiment, data_seed, drops)
        return AugmentOptions(
            *quota, settings.filter, test, sha, copies=copies, held_out_sha=held_out_sha
        )

    def _synthetic_copies(
        self, experiment: Experiment, data_seed: int, drops: bool
    ) -> SyntheticCopies:
        try:
            splits = self.splits(experiment, data_seed)
        except UserError as error:  # rows of a file need no data
            self._callbacks.warn(f"copies of test rows are not counted: {error.message}")
            return SyntheticCopies()
        rows: dict[Split, Sequence[Example]] = {
            "test": splits.all_test,
            "validation": splits.validation,
        }
        key = ["copies", splits.sha["all_test"], splits.sha["validation"]]
        with in_progress(self._callbacks, "looking at the validation and test rows"):
            finder = self._cached(key, lambda: CopyFinder(rows))
        return SyntheticCopies(finder, drops)

    def lm(self, experiment: Experiment, replay_only: bool = False) -> LM:
        """Return the experiment's LM.

        Args:
            experiment: the experiment.
            replay_only: answer from journals only, and ask nothing.
        """
        settings = experiment.lm
        if settings is None:
            raise UserError(
                "the method 'gpt3mix' needs an `lm:` in the config",
                "add for example lm: {kind: local, model: bundled}",
            )
        budget = None if replay_only else experiment.budget

        def open_named_lm() -> LM:
            with in_progress(self._callbacks, f"opening the LM {settings.model}"):
                return self.executor.open_lm(
                    settings, budget, self._layout.journals, replay_only, self._callbacks
                )

        key = ["lm", settings.model_dump(), budget, replay_only]
        return self._cached(key, open_named_lm, failure_key=key if replay_only else None)

    def close_local_lms(self, experiments: Sequence[Experiment]) -> None:
        """Free the memory of LMs that are not behind an endpoint; the next use opens them anew."""
        self._close_lms(item for item in experiments if item.lm and not costs_money(item.lm))

    def forget_failures(self, experiments: Sequence[Experiment]) -> None:
        """Try anew, at the next use, what could not be opened or was given up.

        That is data or a classifier whose download failed, a model that was another one than
        before, and an LM whose servers were away. No stage must be running.
        """
        self._unavailable.clear()
        self._failures.clear()
        cached_classifier.cache_clear()
        self._close_lms(experiments)

    def _close_lms(self, experiments: Iterable[Experiment]) -> None:
        for experiment in experiments:
            settings = experiment.lm and experiment.lm.model_dump()
            key = fingerprint(["lm", settings, experiment.budget, False])
            lm = self._cache.pop(key, None)
            if hasattr(lm, "close"):
                lm.close()
            del lm
        _release_memory()

    def planning_lm(self, experiment: Experiment) -> LM:
        """Return the experiment's LM for a plan: it counts tokens, and asks nothing.

        A local one that is not known from before and has no answer in a journal is not opened if
        its tokenizer is enough; then its fingerprint is not that of the opened LM.
        """
        settings = experiment.lm
        if settings is None or costs_money(settings):
            return self.lm(experiment, replay_only=True)

        def open_planning_lm() -> LM:
            if self._layout.journals():
                return self.lm(experiment, replay_only=True)
            return open_lm(settings, replay_only=True, callbacks=self._callbacks, counts_only=True)

        key = ["planning", settings.model_dump()]
        return self._cached(key, open_planning_lm, failure_key=key)

    def replay_lm(self, experiment: Experiment, outputs: Sequence[Path]) -> JournaledLM:
        """Return an LM that answers from the journals of some outputs, and asks nothing."""
        lm = self.planning_lm(experiment)
        return JournaledLM(lm, IN_MEMORY, existing_journals(outputs), self._callbacks.warn)

    def close(self) -> None:
        """Close connections."""
        for resource in self._cache.values():
            if hasattr(resource, "close"):
                resource.close()

    # Classifiers ---------------------------------------------------------------------------------

    def classifier(
        self, experiment: Experiment, settings: ClassifierSettings, lm: LM | None = None
    ) -> Classifier:
        """Return the classifier; `lm` replaces the experiment's LM where one is used."""
        if settings.uses_lm:
            return open_prompt_classifier(settings, experiment.task, lm or self.lm(experiment))
        return self.executor.open_classifier(settings, tuple(experiment.task.classes))

    def classifier_or_unavailable(
        self, experiment: Experiment, settings: ClassifierSettings
    ) -> Classifier:
        """Return the classifier, or one whose trials all fail with the reason.

        So a classifier that cannot be opened does not end the run of the others.
        """
        unavailable = self._unavailable
        if unavailable and (key := self._key(experiment, settings)) in unavailable:
            return unavailable[key]
        try:
            return self.classifier(experiment, settings)
        except UserError as error:
            key = self._key(experiment, settings)
            unavailable[key] = UnavailableClassifier(settings.kind, error)
            return unavailable[key]

    def _key(self, experiment: Experiment, settings: ClassifierSettings) -> str:
        lm = experiment.lm and experiment.lm.model_dump()
        return fingerprint([settings.model_dump(), experiment.task.classes, lm])

    def classifier_with_cache(
        self,
        experiment: Experiment,
        settings: ClassifierSettings,
        output: Path,
        other_outputs: Sequence[Path],
    ) -> tuple[Classifier, OpenJournal]:
        """Return the classifier of a trials file, and the LM's journal if it uses the LM.

        Answers in the journals of `other_outputs` are not asked for again.
        """
        classifier = self.classifier_or_unavailable(experiment, settings)
        if not settings.uses_lm or classifier.failure_reason:
            return classifier, nullcontext()
        journals = existing_journals(other_outputs, output)
        warn = self._callbacks.warn
        lm = JournaledLM(self.lm(experiment), journal_path(output), journals, warn)
        return self.classifier(experiment, settings, lm), closing(lm)

    # Augmenters ----------------------------------------------------------------------------------

    def augmenter(
        self,
        experiment: Experiment,
        method: str,
        output: Path,
        other_outputs: Sequence[Path],
        replay_only: bool = False,
        data_seed: int = 0,
    ) -> tuple[Augmenter, OpenJournal]:
        """Return the augmenter of a method, and its journal if it has one.

        Answers in the journals of `other_outputs` are not asked for again; with `replay_only`, an
        LM is asked for no others.
        """
        settings, task = experiment.method_settings(method), experiment.task
        journals, warn = existing_journals(other_outputs, output), self._callbacks.warn
        if settings.uses_lm:
            inner = self.lm(experiment, replay_only)
            lm = JournaledLM(inner, journal_path(output), journals, warn)
            texts = self.unlabelled_texts(experiment, method, data_seed)
            return open_augmenter(settings, task, lm, method, unlabelled=texts), closing(lm)
        if settings.uses_journal:
            journal = Journal(journal_path(output), journals, warn)
            return open_augmenter(settings, task, journal=journal), closing(journal)
        key = ["baseline", settings.model_dump(), list(task.labels.items()), task.text_type]
        return self._cached(key, lambda: open_augmenter(settings, task)), nullcontext()

    def unlabelled_texts(
        self, experiment: Experiment, method: str, data_seed: int = 0
    ) -> tuple[str, ...]:
        """Return the texts of `augment.unlabelled`, without copies of validation and test rows."""
        settings = experiment.lm_settings_for(method)
        if settings is None or settings.unlabelled is None:
            return ()
        path, column = Path(settings.unlabelled), experiment.task.text_column
        splits = self.splits(experiment, data_seed)

        def read() -> tuple[str, ...]:
            # All test rows: a part that makes a quick try changes no prompt.
            held_out = [*splits.validation, *splits.all_test]
            texts, left_out = read_unlabelled(path, column, held_out)
            if left_out:
                self._callbacks.warn(
                    f"{path}: {left_out} texts are copies of validation or test rows, and are "
                    "left out"
                )
            return texts

        return self._cached(["unlabelled", str(path), column, splits.sha], read)

    def _cached(
        self, key: object, create: Callable[[], Resource], failure_key: object = None
    ) -> Resource:
        """Return what was created for a key before, or create it.

        A hub that is away is asked for half a minute. Of what has a `failure_key` the failure is
        kept, so that this happens once and not for every cell.
        """
        name, failure = fingerprint(key), fingerprint(failure_key)
        with self._lock:
            if failure in self._failures:
                raise self._failures[failure]
            if name not in self._cache:
                try:
                    self._cache[name] = create()
                except UserError as error:
                    if failure_key is not None:
                        self._failures[failure] = error
                    raise
            resource: Resource = self._cache[name]
        return resource


def _release_memory() -> None:
    """Give the memory of models that nobody uses any longer back to the system and the GPU."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def existing_journals(outputs: Sequence[Path], own: Path | None = None) -> list[Path]:
    """Return the journals of some outputs, where they exist; that of `own` is left out."""
    paths = [journal_path(output) for output in outputs if output != own]
    return [path for path in paths if path.exists()]
