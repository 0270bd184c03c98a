"""An experiment's cells: what they are, where their files stand, and running the stages over them.

A cell is (variant, level, data seed); in it stand the subsample, a synthetic set for each method and draw, and a trials
file for each method and classifier. One LM and one encoder are loaded for all cells.
"""

import functools
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
from ..lm.journal import Journal, Journaled
from ..records import Done, Example, Trial, read
from ..report import Report, Wanted, report
from ..settings import PART, Backtranslate, Baseline, Classifier, Experiment, fingerprint
from ..subsample import draw, subsample
from ..train import Cell, Map, Unusable, Work, here, kept_classifier, train
from ..train import Classifier as Trained
from ..train.parallel import group_size
from .sources import Sources, distinct
from .spot import Spot
from .workers import Workers, fitting

__all__ = ["Grid", "Spot", "Training", "as_method", "baseline_of", "classifier_known", "method_known"]

Kept = TypeVar("Kept")


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
    _unmade: set[Path] = field(default_factory=set)
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
        self._unmade.discard(output)
        # What an LM answers is kept even if the rows go to a pipe.
        place = spot.synthetic(method, draw) if output == STDIO else output
        # A variant asks the LM only for what no other one has asked: a sweep over the ratio pays for the highest.
        others = [other for other in self.variants(spot, method, draw) if other != place]
        augmenter, journal = self._augmenter(experiment, method, place, others)
        try:
            return augment(
                augmenter,
                real,
                output,
                ratio=experiment.augment.ratio,
                attempts=experiment.augment.attempts,
                seed=spot.seed_of(augmenter.about["kind"], draw),
                limit=limit,
                gate=experiment.augment.gate,
                test=() if augmenter.edits else self.held_out(experiment),
                command=self.command,
                force=self.force,
                tell=self.tell,
            )
        except StoppedShort as error:
            if error.done is None:
                self._unmade.add(output)
            raise
        finally:
            if journal:
                journal.close()

    def train(self, training: Training, map: Map = here) -> Done:
        """Run the trials of a training, and save its best model where that is wanted."""
        spot, method, classifier = training.spot, training.method, training.classifier
        experiment = spot.experiment
        classes = experiment.task.classes
        place = training.output or spot.trials(method, classifier.name)
        distinct(place, [training.source, *training.added])
        real = self._sources.real(spot, training.source)
        trials = spot.dealt(classifier)
        if training.added or method == "none":
            trials = [(trial, 0) for trial, _ in trials]
        files = {} if method == "none" else {draw: training.added or [spot.synthetic(method, draw)] for draw in sorted({draw for _, draw in trials})}
        if waits := [path for paths in files.values() for path in paths if path in self._unmade]:
            # What stands there, if anything does, was made with other settings.
            raise StoppedShort(f"{place}: not trained, since {waits[0]} has no row yet", "run again when it has")
        splits = self.splits(experiment)
        work = Work(
            self._trainable(classifier, classes),
            Cell(experiment.task.name, spot.level, method, classifier.name, experiment.variant, spot.seed, classes),
            real,
            {draw: self._sources.synthetic(paths, classes, real) for draw, paths in files.items()},
            splits.validation,
            splits.test,
            experiment.subsample.master_seed,
            options=classifier,
            curves=self.curves,
        )
        short = None
        try:
            done = train(work, trials, place, map=map, command=self.command, force=self.force, tell=self.tell)
        except StoppedShort as error:
            short = error
        rows = list(read(place, Trial)) if training.save and not work.hopeless else []
        if training.save and any(row.status == "ok" for row in rows):
            from ..train.saved import save_model

            # Where some trials failed, the best of the others is kept all the same.
            save_model(work, rows, classifier, training.save, self.tell)
        if short:
            raise short
        return done

    def wanted(self) -> list[Wanted]:
        """Return the trials files of all cells, whether they are there or not."""
        return [
            Wanted(spot.trials(method, c.name), len(spot.dealt(c)), spot.experiment.task.name, spot.level, method, c.name, spot.experiment.variant)
            for spot in self.spots()
            for c in spot.experiment.classifiers
            for method in spot.experiment.methods
        ]

    def report(self, output: Path | None = None) -> Report:
        """Report on the trials of all cells, the missing ones included."""
        first = self.experiments[0]
        return report([], output or self.out / first.name / "report", title=first.name, wanted=self.wanted(), tell=self.tell)

    # All cells -------------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Done | StoppedShort]:
        """Run every stage of every cell; yield each as it ends. A stage that stopped short does not keep the others."""
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
                if stage == "train":
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
        wanted = sum(len(training.spot.dealt(training.classifier)) for training in trainings)
        if wanted <= 1 or group_size() > 1:
            return 1
        found = {training.classifier: training.spot.experiment.task.classes for training in trainings}
        threads = [one for settings, classes in found.items() if (one := self._trainable(settings, classes).threads)]
        if self.jobs:
            return min(self.jobs, wanted)
        return min(fitting(max(threads)), wanted) if threads else 1

    def _steps(self, spot: Spot) -> Iterator[tuple[str, tuple[Any, ...]]]:
        yield "subsample", (spot,)
        for method in spot.experiment.methods:
            if method != "none":
                for draw in spot.draws():
                    yield "augment", (spot, method, draw)
            for classifier in spot.experiment.classifiers:
                if spot.dealt(classifier):
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

    def examples(self, spot: Spot) -> list[Example]:
        """Return a cell's real rows: its subsample, or what would be drawn."""
        if spot.real.exists():
            return self._sources.real(spot, None)
        listed, train = spot.experiment.subsample, self.splits(spot.experiment).train
        return draw(train, spot.experiment.task.classes, spot.level, listed.master_seed, spot.seed, self.tell)

    def variants(self, spot: Spot, method: str, draw: int) -> list[Path]:
        """Return where the rows of a method and draw stand in every variant of a cell, its own included."""
        places = [Spot(other, self.out, spot.level, spot.seed) for other in self.experiments]
        # GPT3Mix asks for other texts in each draw; what was translated for one serves the next.
        return [at.synthetic(method, other) for at in places for other in ([draw] if method == "gpt3mix" else at.draws())]

    def lm(self, experiment: Experiment, asks: bool = True) -> LM:
        """Return the experiment's LM; `asks=False`: one that gives what journals hold."""
        settings = experiment.lm
        if settings is None:
            raise UserError("the method 'gpt3mix' needs an `lm:` in the config", "add for example lm: {kind: local, model: bundled}")
        journals = functools.partial(self.journals, experiment)
        budget = experiment.budget if asks else None
        return self._once(["lm", settings.model_dump(), budget, asks], lambda: open_lm(settings, budget, journals, asks))

    def journals(self, experiment: Experiment) -> list[Path]:
        """Return all journals of an experiment, of every variant, cell and run."""
        return sorted((self.out / experiment.name).rglob("*.journal.sqlite"))

    def close(self) -> None:
        """Let go of what holds connections."""
        for kept in self._kept.values():
            if hasattr(kept, "close"):
                kept.close()

    def classifier(self, settings: Classifier, classes: Sequence[str]) -> Trained:
        """Return the classifier for its settings."""
        return kept_classifier(settings, tuple(classes))

    def _trainable(self, settings: Classifier, classes: Sequence[str]) -> Trained:
        """Return the classifier, or one whose trials fail with the reason why there is none: others may do."""
        key = fingerprint(["unusable", settings.model_dump(), list(classes)])
        if key not in self._kept:
            try:
                return self.classifier(settings, classes)
            except UserError as error:
                self._kept[key] = Unusable(settings.kind, error)
        found: Unusable = self._kept[key]
        return found

    def _augmenter(self, experiment: Experiment, method: str, output: Path, others: Sequence[Path]) -> tuple[Augmenter, Journal | Journaled | None]:
        siblings = [path for path in map(journal_path, others) if path.exists()]
        if method == "gpt3mix":
            journal = Journaled(self.lm(experiment), journal_path(output), siblings)
            return open_augmenter(experiment.augment, experiment.task, journal), journal
        settings = baseline_of(experiment, method)
        if isinstance(settings, Backtranslate):
            translations = Journal(journal_path(output), siblings)
            return open_augmenter(settings, experiment.task, journal=translations), translations
        key = ["baseline", settings.model_dump(), list(experiment.task.labels.items())]
        return self._once(key, lambda: open_augmenter(settings, experiment.task)), None

    def held_out(self, experiment: Experiment) -> Sequence[Example]:
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
