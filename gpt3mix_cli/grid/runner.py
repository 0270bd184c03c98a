"""An experiment's cells: what they are, where their files stand, and running the stages over them.

A cell is (variant, level, data seed); in it stand the subsample, a synthetic set for each method and draw, and a trials
file for each method and classifier. One LM and one encoder are loaded for all cells.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..augment import augment
from ..errors import NO_CALLBACKS, Callbacks, StoppedShort, UserError
from ..files import STDIO
from ..records import Done, Example, Trial, read
from ..report import ExpectedTrials, Report, ReportInput, report
from ..settings import (
    FILE_STEM_PATTERN,
    ClassifierSettings,
    Experiment,
    PromptSettings,
    SoftLabelTraining,
)
from ..subsample import draw, subsample
from ..train import TrialExecutor, TrialRunner, run_serially, train
from ..train.cell import Cell
from ..train.parallel import group_size
from .executors.processes import Workers, fitting
from .resources import Resources
from .row_reader import RowReader, refuse_overwrite
from .spot import Spot

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
    classifier: ClassifierSettings
    source: Path | None = None
    added: Sequence[Path] = ()
    output: Path | None = None
    save: Path | None = None


@dataclass
class Grid:
    """Runs the stages over cells.

    Attributes:
        experiments: one a variant.
        out: the folder of results.
        command: for the manifests.
        force: redo what is up to date.
        callbacks: take progress and warnings.
        jobs: trials that run side by side; by default as many as the machine holds.
        curves: folder for TensorBoard.
        opened: data, LM and classifiers.
    """

    experiments: Sequence[Experiment]
    out: Path
    command: Sequence[str] = ()
    force: bool = False
    callbacks: Callbacks = NO_CALLBACKS
    jobs: int | None = None
    curves: Path | None = None
    resources: Resources = field(init=False)
    _unmade: set[Path] = field(default_factory=set)
    _sources: RowReader = field(init=False)

    def __post_init__(self) -> None:
        """Open what reads rows."""
        self.resources = Resources(self.out, self.callbacks)
        self._sources = RowReader(self.callbacks)

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
            self.resources.splits(spot.experiment),
            spot.experiment.task.classes,
            output or spot.real,
            level=spot.level,
            master_seed=spot.experiment.subsample.master_seed,
            seed=spot.seed,
            command=self.command,
            force=self.force,
            callbacks=self.callbacks,
        )

    def augment(
        self,
        spot: Spot,
        method: str,
        draw: int,
        source: Path | None = None,
        output: Path | None = None,
        limit: int | None = None,
    ) -> Done:
        """Make one synthetic set of a method."""
        experiment = spot.experiment
        output = output or spot.synthetic(method, draw)
        real = self._sources.real(spot, source)
        refuse_overwrite(output, [source])
        self._unmade.discard(output)
        # What an LM answers is kept even if the rows go to a pipe.
        place = spot.synthetic(method, draw) if output == STDIO else output
        # A variant asks the LM only for what no other one has asked: a sweep over the ratio pays for the highest.
        others = self.variants(spot, method, draw)
        augmenter, journal = self.resources.augmenter(experiment, method, place, others)
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
                test=() if augmenter.edits else self.resources.held_out(experiment),
                command=self.command,
                force=self.force,
                callbacks=self.callbacks,
            )
        except StoppedShort as error:
            if error.done is None:
                self._unmade.add(output)
            raise
        finally:
            if journal:
                journal.close()

    def train(self, training: Training, map: TrialExecutor = run_serially) -> Done:
        """Run the trials of a training, and save its best model where that is wanted."""
        spot, method, classifier = training.spot, training.method, training.classifier
        experiment = spot.experiment
        if training.save and isinstance(classifier, PromptSettings):
            raise UserError(
                f"classifier '{classifier.name}' trains nothing, so that there is no model to save",
                "leave out --save-model",
            )
        classes = experiment.task.classes
        place = training.output or spot.trials(method, classifier.name)
        refuse_overwrite(place, [training.source, *training.added])
        real = self._sources.real(spot, training.source)
        trials = spot.dealt(classifier)
        if training.added or method == "none":
            trials = [(trial, 0) for trial, _ in trials]
        files = (
            {}
            if method == "none"
            else {
                draw: training.added or [spot.synthetic(method, draw)]
                for draw in sorted({draw for _, draw in trials})
            }
        )
        if waits := [path for paths in files.values() for path in paths if path in self._unmade]:
            # What stands there, if anything does, was made with other settings.
            raise StoppedShort(
                f"{place}: not trained, since {waits[0]} has no row yet", "run again when it has"
            )
        splits = self.resources.splits(experiment)
        others = self.trials_of_variants(spot, classifier)
        fitted, journal = self.resources.classifier_with_cache(
            experiment,
            classifier,
            spot.trials(method, classifier.name) if place == STDIO else place,
            others,
        )
        work = TrialRunner(
            fitted,
            Cell(
                experiment.task.name,
                spot.level,
                method,
                classifier.name,
                experiment.variant,
                spot.seed,
                classes,
            ),
            real,
            {draw: self._sources.synthetic(paths, classes, real) for draw, paths in files.items()},
            splits.validation,
            splits.test,
            experiment.subsample.master_seed,
            options=classifier
            if isinstance(classifier, SoftLabelTraining)
            else SoftLabelTraining(),
            curves=self.curves,
        )
        short = None
        try:
            # One LM is loaded, in this process.
            done = train(
                work,
                trials,
                place,
                map=run_serially if journal else map,
                command=self.command,
                force=self.force,
                callbacks=self.callbacks,
            )
        except StoppedShort as error:
            short = error
        finally:
            if journal:
                journal.close()
        rows = list(read(place, Trial)) if training.save and not work.hopeless else []
        if (
            training.save
            and not isinstance(classifier, PromptSettings)
            and any(row.status == "ok" for row in rows)
        ):
            from ..train.saved_models import save_model

            # Where some trials failed, the best of the others is kept all the same.
            save_model(work, rows, classifier, training.save, self.callbacks)
        if short:
            raise short
        return done

    def wanted(self) -> list[ExpectedTrials]:
        """Return the trials files of all cells, whether they are there or not."""
        return [
            ExpectedTrials(
                spot.trials(method, c.name),
                len(spot.dealt(c)),
                spot.experiment.task.name,
                spot.level,
                method,
                c.name,
                spot.experiment.variant,
            )
            for spot in self.spots()
            for c in spot.experiment.classifiers
            for method in spot.experiment.methods
            if spot.experiment.tried(method, c)
        ]

    def report(self, output: Path | None = None) -> Report:
        """Report on the trials of all cells, the missing ones included."""
        name = self.experiments[0].name
        inputs = ReportInput(name, [], self.wanted(), self.out / name)
        return report(inputs, output or inputs.folder / "report", callbacks=self.callbacks)

    # All cells -------------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Done | StoppedShort]:
        """Run every stage of every cell; yield each as it ends. A stage that stopped short does not keep the others."""
        for classifier in self.experiments[0].classifiers:
            if isinstance(classifier, PromptSettings) and len(self.experiments[0].methods) > 1:
                self.callbacks.warn(
                    f"classifier '{classifier.name}' {ONLY_REAL}; the other methods are left out"
                )
        steps = [step for spot in self.spots() if spot.used() for step in self._steps(spot)]
        # What is labelled by asking comes last: where the budget ends, the rows were paid for first.
        yield from self._all(
            sorted(
                steps,
                key=lambda step: (
                    step[0] == "train" and isinstance(step[1][0].classifier, PromptSettings)
                ),
            ),
            "all cells",
        )

    def trainings(self, trainings: Sequence[Training]) -> Iterator[Done | StoppedShort]:
        """Run several trainings; yield each as it ends."""
        yield from self._all([("train", (training,)) for training in trainings], "trials files")

    def _all(
        self, steps: Sequence[tuple[str, tuple[Any, ...]]], name: str
    ) -> Iterator[Done | StoppedShort]:
        """Run stages in their order; trainings go on beside what follows where trials run side by side."""
        trainings = [arguments[0] for stage, arguments in steps if stage == "train"]
        ended = 0
        self.callbacks.progress(name, ended, len(steps))
        for item in self._beside(steps, self._side_by_side(trainings)):
            ended += 1
            if isinstance(item, StoppedShort):
                self.callbacks.warn(str(item))
            self.callbacks.progress(name, ended, len(steps))
            yield item

    def _beside(
        self, steps: Sequence[tuple[str, tuple[Any, ...]]], jobs: int
    ) -> Iterator[Done | StoppedShort]:
        if jobs == 1:
            for stage, arguments in steps:
                yield self._tried(stage, *arguments)
            return
        pending: set[Future[Done | StoppedShort]] = set()
        with ExitStack() as stack:
            # A thread a training, which only waits for its trials; the workers go first, or the threads would wait for ever.
            threads = stack.enter_context(ThreadPoolExecutor(jobs))
            stack.callback(threads.shutdown, wait=False, cancel_futures=True)
            workers = stack.enter_context(Workers(jobs, self.callbacks))
            for stage, arguments in steps:
                if stage == "train" and not isinstance(arguments[0].classifier, PromptSettings):
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
        trainings = [
            training
            for training in trainings
            if not isinstance(training.classifier, PromptSettings)
        ]
        wanted = sum(len(training.spot.dealt(training.classifier)) for training in trainings)
        if wanted <= 1 or group_size() > 1:
            return 1
        found = {training.classifier: training.spot.experiment for training in trainings}
        threads = [
            one
            for settings, experiment in found.items()
            if (one := self.resources.classifier_or_unavailable(experiment, settings).threads)
        ]
        if self.jobs:
            return min(self.jobs, wanted)
        return min(fitting(max(threads)), wanted) if threads else 1

    def _steps(self, spot: Spot) -> Iterator[tuple[str, tuple[Any, ...]]]:
        yield "subsample", (spot,)
        for method in spot.experiment.methods:
            if spot.makes(method):
                for draw in spot.draws():
                    yield "augment", (spot, method, draw)
            for classifier in spot.tried(method):
                yield "train", (Training(spot, method, classifier),)

    def added_method(self, paths: Sequence[Path]) -> str:
        """Return what method the rows of a file name, or the file's own name; it will be part of a file name."""
        return as_method(self._sources.method(paths[0], self.experiments[0].task.classes))

    # What stands in the cells ----------------------------------------------------------------------------------------

    def examples(self, spot: Spot) -> list[Example]:
        """Return a cell's real rows: its subsample, or what would be drawn."""
        if spot.real.exists():
            return self._sources.real(spot, None)
        listed, train = spot.experiment.subsample, self.resources.splits(spot.experiment).train
        return draw(
            train,
            spot.experiment.task.classes,
            spot.level,
            listed.master_seed,
            spot.seed,
            self.callbacks,
        )

    def variants(self, spot: Spot, method: str, draw: int) -> list[Path]:
        """Return where the rows of a method and draw stand in every variant of a cell, its own included."""
        places = [Spot(other, self.out, spot.level, spot.seed) for other in self.experiments]
        # What asks the LM asks for other texts in each draw; what was translated for one serves the next.
        return [
            at.synthetic(method, other)
            for at in places
            for other in ([draw] if spot.experiment.asking(method) else at.draws())
        ]

    def trials_of_variants(self, spot: Spot, classifier: ClassifierSettings) -> list[Path]:
        """Return where the trials of a classifier on the real rows alone stand in every variant of a cell."""
        return [
            Spot(other, self.out, spot.level, spot.seed).trials("none", classifier.name)
            for other in self.experiments
        ]

    def close(self) -> None:
        """Let go of what holds connections."""
        self.resources.close()


def as_method(name: str) -> str:
    """Return a name that a method of no config may have: it will be part of a file name."""
    if not FILE_STEM_PATTERN.fullmatch(name) or name in ("none", "train", "history"):
        raise UserError(
            f"'{name}' cannot be the name of a method",
            "give another one with --method, of letters, digits, '_', '+' and '-'",
        )
    return name


def method_known(experiment: Experiment, method: str) -> str:
    """Return the method's name if the experiment has it."""
    if method not in experiment.methods:
        raise UserError(
            f"the config has no method '{method}'", f"its methods: {', '.join(experiment.methods)}"
        )
    return method


def classifier_known(experiment: Experiment, name: str) -> str:
    """Return the classifier's name if the experiment has it."""
    names = [classifier.name for classifier in experiment.classifiers]
    if name not in names:
        raise UserError(
            f"the config has no classifier '{name}'", f"its classifiers: {', '.join(names)}"
        )
    return name
