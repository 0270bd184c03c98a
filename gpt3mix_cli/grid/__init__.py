"""An experiment's cells: what they are, where their files stand, and running the stages over them.

A cell is (variant, level, data seed); in it stand the subsample, a synthetic set for each method and draw, and a trials
file for each method and classifier. One LM and one encoder are loaded for all cells.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .. import data
from ..augment import Augmenter, augment, journal_path, open_augmenter
from ..errors import StoppedShort, Tell, UserError, quiet
from ..files import STDIO
from ..lm import LM, open_lm
from ..lm.journal import Journaled
from ..records import Done, Example, Trial, read
from ..report import Report, Wanted, report
from ..settings import PART, Baseline, Classifier, Experiment, Paraphrase, Prompt, Trained, derived_seed, fingerprint
from ..subsample import subsample
from ..train import Classifier as Fitted
from ..train import Map, Unusable, Work, here, kept_classifier, open_prompting, train
from ..train.cell import Cell
from ..train.parallel import group_size
from .sources import Sources, distinct
from .spot import Spot
from .workers import Workers, fitting

__all__ = ["ONLY_REAL", "Grid", "Spot", "Training", "as_method", "baseline_of", "classifier_known", "method_known"]

Kept = TypeVar("Kept")
ONLY_REAL = "asks the LM below real rows alone (that is what GPT3Mix is compared with), so that it has trials with the method 'none' only"


@dataclass(frozen=True)
class Training:
    """The trials of a method and classifier on a cell, and where their rows come from and go to.

    Attributes:
        spot: the cell.
        method: the method.
        classifier: the classifier.
        source: real rows in place of the subsample.
        added: files of synthetic rows in place of the method's own draws.
        output: the trials file in place of the default.
        save: folder for the best trial's model.
    """

    spot: Spot
    method: str
    classifier: Classifier
    source: Path | None = None
    added: Sequence[Path] = ()
    output: Path | None = None
    save: Path | None = None


@dataclass
class Grid:
    """Runs the stages over cells and keeps what is costly to load.

    Attributes:
        experiments: one a variant.
        out: the folder of results.
        command: for the manifests.
        force: redo what is up to date.
        tell: hears progress and warnings.
        jobs: trials that run side by side; by default as many as the machine holds.
        curves: folder for TensorBoard.
    """

    experiments: Sequence[Experiment]
    out: Path
    command: Sequence[str] = ()
    force: bool = False
    tell: Tell = quiet
    jobs: int | None = None
    curves: Path | None = None
    _kept: dict[str, Any] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _sources: Sources = field(init=False)

    def __post_init__(self) -> None:
        """Open what reads rows."""
        self._sources = Sources(self.tell)

    def spots(self, level: str | None = None, seed: int | None = None) -> Iterator[Spot]:
        """Yield the cells of a level and seed, or of all that the experiment lists."""
        for experiment in self.experiments:
            listed = experiment.subsample
            for one_level in [level] if level else listed.levels:
                for one_seed in listed.seeds if seed is None else [seed]:
                    yield Spot(experiment, self.out, one_level, one_seed)

    # Stages of one cell ----------------------------------------------------------------------------------------------

    def subsample(self, spot: Spot, output: Path | None = None) -> Done:
        """Draw the cell's real rows."""
        return subsample(
            self.splits(spot.experiment),
            spot.experiment.task.classes,
            output or spot.real,
            level=spot.level,
            master_seed=spot.experiment.subsample.master_seed,
            seed=spot.seed,
            command=self.command,
            force=self.force,
            tell=self.tell,
        )

    def augment(self, spot: Spot, method: str, draw: int, source: Path | None = None, output: Path | None = None, limit: int | None = None) -> Done:
        """Make one synthetic set of a method."""
        experiment = spot.experiment
        output = output or spot.synthetic(method, draw)
        real = self._sources.real(spot, source)
        distinct(output, [source])
        # What an LM answers is kept even if the rows go to a pipe.
        place = spot.synthetic(method, draw) if output == STDIO else output
        # A variant asks the LM only for what no other one has asked: a sweep over the ratio pays for the highest.
        others = [Spot(other, self.out, spot.level, spot.seed).synthetic(method, draw) for other in self.experiments]
        augmenter, journal = self._augmenter(experiment, method, place, others)
        try:
            return augment(
                augmenter,
                real,
                output,
                ratio=experiment.augment.ratio,
                attempts=experiment.augment.attempts,
                seed=derived_seed(experiment.subsample.master_seed, "augment", augmenter.about["kind"], spot.seed, draw),
                limit=limit,
                gate=experiment.augment.gate,
                test=() if augmenter.edits else self._held_out(experiment),
                command=self.command,
                force=self.force,
                tell=self.tell,
            )
        finally:
            if journal:
                journal.close()

    def train(self, training: Training, map: Map = here) -> Done:
        """Run the trials of a training, and save its best model where that is wanted."""
        spot, method, classifier = training.spot, training.method, training.classifier
        experiment = spot.experiment
        if training.save and isinstance(classifier, Prompt):
            raise UserError(f"classifier '{classifier.name}' trains nothing, so that there is no model to save", "leave out --save-model")
        classes = experiment.task.classes
        place = training.output or spot.trials(method, classifier.name)
        distinct(place, [training.source, *training.added])
        real = self._sources.real(spot, training.source)
        trials = spot.dealt(classifier)
        if training.added or method == "none":
            trials = [(trial, 0) for trial, _ in trials]
        files = {} if method == "none" else {draw: training.added or [spot.synthetic(method, draw)] for draw in sorted({draw for _, draw in trials})}
        splits = self.splits(experiment)
        others = [Spot(other, self.out, spot.level, spot.seed).trials(method, classifier.name) for other in self.experiments]
        fitted, journal = self._trainable(experiment, classifier, spot.trials(method, classifier.name) if place == STDIO else place, others)
        work = Work(
            fitted,
            Cell(experiment.task.name, spot.level, method, classifier.name, experiment.variant, spot.seed, classes),
            real,
            {draw: self._sources.synthetic(paths, classes, real) for draw, paths in files.items()},
            splits.validation,
            splits.test,
            experiment.subsample.master_seed,
            options=classifier if isinstance(classifier, Trained) else Trained(),
            curves=self.curves,
        )
        short = None
        try:
            # One LM is loaded, in this process.
            done = train(work, trials, place, map=here if journal else map, command=self.command, force=self.force, tell=self.tell)
        except StoppedShort as error:
            short = error
        finally:
            if journal:
                journal.close()
        rows = list(read(place, Trial)) if training.save and not work.hopeless else []
        if training.save and not isinstance(classifier, Prompt) and any(row.status == "ok" for row in rows):
            from ..train.saved import save_model

            # Where some trials failed, the best of the others is kept all the same.
            save_model(work, rows, classifier, training.save, self.tell)
        if short:
            raise short
        return done

    def report(self, output: Path | None = None) -> Report:
        """Report on the trials of all cells, the missing ones included."""
        first = self.experiments[0]
        wanted = [
            Wanted(spot.trials(method, c.name), len(spot.dealt(c)), spot.experiment.task.name, spot.level, method, c.name, spot.experiment.variant)
            for spot in self.spots()
            for c in spot.experiment.classifiers
            for method in spot.experiment.methods
            if spot.experiment.tried(method, c)
        ]
        return report([self.out / first.name], output or self.out / first.name / "report", title=first.name, wanted=wanted, tell=self.tell)

    # All cells -------------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Done | StoppedShort]:
        """Run every stage of every cell; yield each as it ends. A stage that stopped short does not keep the others."""
        for classifier in self.experiments[0].classifiers:
            if isinstance(classifier, Prompt) and len(self.experiments[0].methods) > 1:
                self.tell(f"classifier '{classifier.name}' {ONLY_REAL}; the other methods are left out")
        steps = [step for spot in self.spots() if spot.used() for step in self._steps(spot)]
        yield from self._all(steps, "all cells")

    def trainings(self, trainings: Sequence[Training]) -> Iterator[Done | StoppedShort]:
        """Run several trainings; yield each as it ends."""
        yield from self._all([("train", (training,)) for training in trainings], "trials files")

    def _all(self, steps: Sequence[tuple[str, tuple[Any, ...]]], name: str) -> Iterator[Done | StoppedShort]:
        """Run stages in their order; trainings go on beside what follows where trials run side by side."""
        trainings = [arguments[0] for stage, arguments in steps if stage == "train"]
        ended = 0
        self.tell(name, ended, len(steps))
        for item in self._beside(steps, self._side_by_side(trainings)):
            ended += 1
            if isinstance(item, StoppedShort):
                self.tell(str(item))
            self.tell(name, ended, len(steps))
            yield item

    def _beside(self, steps: Sequence[tuple[str, tuple[Any, ...]]], jobs: int) -> Iterator[Done | StoppedShort]:
        if jobs == 1:
            for stage, arguments in steps:
                yield self._tried(stage, *arguments)
            return
        pending: set[Future[Done | StoppedShort]] = set()
        with ExitStack() as stack:
            # A thread a training, which only waits for its trials; the workers go first, or the threads would wait for ever.
            threads = stack.enter_context(ThreadPoolExecutor(jobs))
            stack.callback(threads.shutdown, wait=False, cancel_futures=True)
            workers = stack.enter_context(Workers(jobs, self.tell))
            for stage, arguments in steps:
                if stage == "train" and not isinstance(arguments[0].classifier, Prompt):
                    pending.add(threads.submit(self._tried, stage, *arguments, map=workers.map))
                else:
                    yield self._tried(stage, *arguments)
                for future in [future for future in pending if future.done()]:
                    pending.remove(future)
                    yield future.result()
            for future in as_completed(pending):
                yield future.result()

    def _tried(self, stage: str, *arguments: Any, **options: Any) -> Done | StoppedShort:
        try:
            done: Done = getattr(self, stage)(*arguments, **options)
        except StoppedShort as error:
            return error
        return done

    def _side_by_side(self, trainings: Sequence[Training]) -> int:
        """Return how many trials are to run at once."""
        trainings = [training for training in trainings if not isinstance(training.classifier, Prompt)]
        wanted = sum(len(training.spot.dealt(training.classifier)) for training in trainings)
        if wanted <= 1 or group_size() > 1:
            return 1
        found = {training.classifier: training.spot.experiment for training in trainings}
        threads = [one for settings, experiment in found.items() if (one := self._opened(experiment, settings).threads)]
        if self.jobs:
            return min(self.jobs, wanted)
        return min(fitting(max(threads)), wanted) if threads else 1

    def _steps(self, spot: Spot) -> Iterator[tuple[str, tuple[Any, ...]]]:
        yield "subsample", (spot,)
        listed = spot.experiment.classifiers
        for method in spot.experiment.methods:
            tried = [classifier for classifier in listed if spot.dealt(classifier) and spot.experiment.tried(method, classifier)]
            if method != "none" and (tried or not listed):
                for draw in spot.draws():
                    yield "augment", (spot, method, draw)
            for classifier in tried:
                yield "train", (Training(spot, method, classifier),)

    def added_method(self, paths: Sequence[Path]) -> str:
        """Return what method the rows of a file name, or the file's own name; it will be part of a file name."""
        return as_method(self._sources.method(paths[0], self.experiments[0].task.classes))

    # What is loaded once ---------------------------------------------------------------------------------------------

    def splits(self, experiment: Experiment) -> data.Splits:
        """Return the task's splits."""
        listed = experiment.subsample
        key = ["data", experiment.task.model_dump(), listed.master_seed, listed.validation]
        return self._once(key, lambda: data.load(experiment.task, listed.master_seed, listed.validation, self.tell))

    def lm(self, experiment: Experiment) -> LM:
        """Return the experiment's LM."""
        settings = experiment.lm
        if settings is None:
            raise UserError("the method 'gpt3mix' needs an `lm:` in the config", "add for example lm: {kind: local, model: bundled}")
        return self._once(["lm", settings.model_dump()], lambda: open_lm(settings))

    def classifier(self, experiment: Experiment, settings: Classifier) -> Fitted:
        """Return the classifier for its settings."""
        if isinstance(settings, Prompt):
            return open_prompting(settings, experiment.task, self.lm(experiment))
        return kept_classifier(settings, tuple(experiment.task.classes))

    def _opened(self, experiment: Experiment, settings: Classifier) -> Fitted:
        """Return the classifier, or one whose trials fail with the reason why there is none: others may do."""
        key = fingerprint(["unusable", settings.model_dump(), experiment.task.classes, experiment.lm and experiment.lm.model_dump()])
        if key not in self._kept:
            try:
                return self.classifier(experiment, settings)
            except UserError as error:
                self._kept[key] = Unusable(settings.kind, error)
        found: Unusable = self._kept[key]
        return found

    def _trainable(self, experiment: Experiment, settings: Classifier, output: Path, others: Sequence[Path]) -> tuple[Fitted, Journaled | None]:
        """Return the classifier of a trials file and, of one that prompts, the journal of its LM."""
        found = self._opened(experiment, settings)
        if not isinstance(settings, Prompt) or isinstance(found, Unusable):
            return found, None
        journal = self._journaled(experiment, output, others)
        return open_prompting(settings, experiment.task, journal), journal

    def _augmenter(self, experiment: Experiment, method: str, output: Path, others: Sequence[Path]) -> tuple[Augmenter, Journaled | None]:
        if asking := experiment.asking(method):
            journal = self._journaled(experiment, output, others)
            return open_augmenter(asking, experiment.task, journal, method), journal
        settings = baseline_of(experiment, method)
        assert not isinstance(settings, Paraphrase), "it asks the LM"
        key = ["baseline", settings.model_dump(), list(experiment.task.labels.items())]
        return self._once(key, lambda: open_augmenter(settings, experiment.task)), None

    def _journaled(self, experiment: Experiment, output: Path, others: Sequence[Path]) -> Journaled:
        """Return the LM with the journal of an output; what the journals of other outputs hold is not asked for again."""
        siblings = [path for path in map(journal_path, others) if path.exists() and path != journal_path(output)]
        return Journaled(self.lm(experiment), journal_path(output), siblings)

    def _held_out(self, experiment: Experiment) -> Sequence[Example]:
        """Return the test rows, of which the gate lets no copy through."""
        if not experiment.augment.gate.leak:
            return ()
        try:
            return self.splits(experiment).test
        except UserError as error:
            raise UserError(error.message, f"{error.hint}; or pass over copies of test rows: augment.gate.leak=false") from None

    def _once(self, key: object, make: Callable[[], Kept]) -> Kept:
        """Return what was made for a key before, or make it now."""
        name = fingerprint(key)
        with self._lock:
            if name not in self._kept:
                self._kept[name] = make()
            kept: Kept = self._kept[name]
        return kept


def baseline_of(experiment: Experiment, method: str) -> Baseline:
    """Return the settings of a baseline by its name."""
    for baseline in experiment.baselines:
        if baseline.name == method:
            return baseline
    names = ", ".join(baseline.name for baseline in experiment.baselines) or "none"
    raise UserError(f"the config has no baseline '{method}'", f"its baselines: {names}; add one under `baselines:`")


def as_method(name: str) -> str:
    """Return a name that a method of no config may have: it will be part of a file name."""
    if not PART.fullmatch(name) or name in ("none", "train", "history"):
        raise UserError(f"'{name}' cannot be the name of a method", "give another one with --method, of letters, digits, '_', '+' and '-'")
    return name


def method_known(experiment: Experiment, method: str) -> str:
    """Return the method's name if the experiment has it."""
    if method not in experiment.methods:
        raise UserError(f"the config has no method '{method}'", f"its methods: {', '.join(experiment.methods)}")
    return method


def classifier_known(experiment: Experiment, name: str) -> str:
    """Return the classifier's name if the experiment has it."""
    names = [classifier.name for classifier in experiment.classifiers]
    if name not in names:
        raise UserError(f"the config has no classifier '{name}'", f"its classifiers: {', '.join(names)}")
    return name
