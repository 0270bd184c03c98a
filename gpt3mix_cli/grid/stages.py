"""The stages on one cell of an experiment, with what its cells share."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from ..augment import augment
from ..data import Splits
from ..errors import Callbacks, StoppedShort, UserError
from ..files import STDIO
from ..layout import Cell, Layout, TrialKey
from ..records import Example, IncompleteOutput, StageOptions, StageResult, Trial, read_records
from ..settings import ClassifierSettings, Experiment
from ..stopping import is_stop_requested
from ..subsample import DrawOptions, draw_rows, subsample
from ..train import (
    TrialData,
    TrialExecutor,
    TrialJob,
    TrialRunner,
    TrialsFailed,
    cached_classifier,
    run_serially,
    train,
    train_with_best_weight,
)
from ..train.trials import check_tensorboard
from .executors.opener import ExecutorOptions
from .finished_trials import keep_trained_rows
from .resources import OpenJournal, Resources
from .row_reader import RowReader, refuse_overwrite, refuse_test_rows
from .steps import (
    AugmentStep,
    Step,
    SubsampleStep,
    TrainStep,
    cell_steps,
)


@dataclass
class Stages:
    """The stages on the cells of an experiment; call `close` at the end.

    Attributes:
        experiments: one for each variant.
        out: the folder of all results.
        options: command line, `force` and callbacks of every stage.
        jobs: number of trials at the same time; None for as many as the machine holds.
        tensorboard: folder for the epochs of all trials; None for no such logs.
        executor: where trials run.
        tops_up: ask the LM for rows that are missing; otherwise only its earlier answers are used.
        layout: where the files of each cell are.
        resources: data, LM, augmenters and classifiers.
    """

    experiments: Sequence[Experiment]
    out: Path
    options: StageOptions = field(default_factory=StageOptions)
    jobs: int | None = None
    tensorboard: Path | None = None
    executor: ExecutorOptions = field(default_factory=ExecutorOptions)
    tops_up: bool = True
    layout: Layout = field(init=False)
    resources: Resources = field(init=False)
    _empty_outputs: set[Path] = field(init=False, default_factory=set)
    _with_failed_trials: set[Path] = field(init=False, default_factory=set)
    _reader: RowReader = field(init=False)
    # By the id of its variant: the variant, and the experiment.
    _by_variant: dict[int, tuple[object, Experiment]] = field(init=False)

    def __post_init__(self) -> None:
        self.layout = Layout(self.out, self.experiments[0].name)
        self.resources = Resources(self.layout, self.callbacks, self.options.force)
        self._reader = RowReader(self.callbacks)
        self._index_variants()

    def _index_variants(self) -> None:
        self._by_variant = {id(item.variant): (item.variant, item) for item in self.experiments}

    @property
    def callbacks(self) -> Callbacks:
        """For progress and warnings."""
        return self.options.callbacks

    def configure_training(
        self, jobs: int | None, tensorboard: Path | None, trials: int | None = None
    ) -> None:
        """Set how many trials run at the same time, where TensorBoard finds them, and the total.

        Raises:
            UserError: if tensorboard is not installed.
        """
        if tensorboard:
            check_tensorboard()
        self.jobs, self.tensorboard = jobs, tensorboard
        if trials:
            self.experiments = [item.with_trials(trials) for item in self.experiments]
            self._index_variants()

    def with_options(self, **changes: bool) -> Self:
        """Return these stages with some other options; data, models and layout are the same."""
        other = copy.copy(self)
        other.options = replace(self.options, **changes)  # type: ignore[arg-type]
        return other

    # Cells ---------------------------------------------------------------------------------------

    def cells(self, level: str | None = None, data_seed: int | None = None) -> Iterator[Cell]:
        """Yield the cells of a level and data seed; None for all that the config lists."""
        for experiment in self.experiments:
            subsample = experiment.subsample
            for cell_level in [level] if level else subsample.levels:
                for seed in subsample.seeds if data_seed is None else [data_seed]:
                    yield self.cell(experiment, cell_level, seed)

    def cell(self, experiment: Experiment, level: str, data_seed: int) -> Cell:
        """Return a cell of a variant of the experiment."""
        task, variant = experiment.task.name, experiment.variant
        return Cell(task, variant, level, data_seed, one_of_tasks=bool(experiment.tasks))

    def experiment(self, cell: Cell) -> Experiment:
        """Return the variant of the experiment that a cell belongs to."""
        # Its own variant is the same object: thousands of cells need no comparison with each.
        variant, experiment = self._by_variant.get(id(cell.variant), (None, None))
        if experiment and variant is cell.variant:
            return experiment
        return next(item for item in self._variants_of(cell) if item.variant == cell.variant)

    def real_rows(self, cell: Cell, path: Path | None = None) -> list[Example]:
        """Return a cell's real rows: its subsample, or those of a file in its place."""
        source = path or self.layout.train_path(cell)
        if path is None and not source.exists():
            raise UserError(
                f"{source}: no such file",
                "draw it first: "
                f"gpt3mix subsample CONFIG --level {cell.level} --seed {cell.data_seed}",
            )
        return self._reader.real(source, self.experiment(cell).task.classes)

    def real_rows_or_draw(self, cell: Cell) -> list[Example]:
        """Return a cell's real rows; without a subsample they are drawn, but not written."""
        if self.layout.train_path(cell).exists():
            return self.real_rows(cell)
        experiment = self.experiment(cell)
        splits = self.resources.splits(experiment, cell.data_seed)
        seed = experiment.subsample.master_seed
        draw, classes = DrawOptions(cell.level, seed, cell.data_seed), experiment.task.classes
        return draw_rows(splits.train, classes, draw, self.callbacks, splits.taken_rows)

    def synthetic_paths_of_variants(self, cell: Cell, method: str, draw: int) -> list[Path]:
        """Return the synthetic sets whose journals may hold answers for a set of this cell.

        These are the method's sets in every variant. The LM is asked for other texts in each draw;
        what was translated for one draw serves the others.
        """
        return [
            self.layout.synthetic_path(self._in_variant(cell, variant), method, number)
            for variant in self._variants_of(cell)
            if method in variant.methods
            for number in (
                # The first draw's journal has the labels of the real rows.
                {0, draw} if variant.lm_settings_for(method) else variant.draws_for(cell.data_seed)
            )
        ]

    def trials_paths_of_variants(self, cell: Cell, classifier: ClassifierSettings) -> list[Path]:
        """Return the trials of a classifier with method `none` in every variant of a cell."""
        return [
            self.layout.trials_path(
                TrialKey(self._in_variant(cell, variant), "none", classifier.name)
            )
            for variant in self._variants_of(cell)
        ]

    def _variants_of(self, cell: Cell) -> list[Experiment]:
        """Return the variants of the experiment; with several tasks, those of the cell's task."""
        return [
            item
            for item in self.experiments
            if not cell.one_of_tasks or item.task.name == cell.task
        ]

    def _in_variant(self, cell: Cell, variant: Experiment) -> Cell:
        return replace(cell, task=variant.task.name, variant=variant.variant)

    def method_of(self, paths: Sequence[Path]) -> str:
        """Return the method that the rows of some files name, or else the first file's name."""
        return self._reader.method(paths[0], self.experiments[0].task.classes)

    def close(self) -> None:
        """Close connections."""
        self.resources.close()

    # Stages on one cell --------------------------------------------------------------------------

    def subsample(self, cell: Cell, output: Path | None = None) -> StageResult:
        """Draw a cell's real rows."""
        experiment = self.experiment(cell)
        return subsample(
            self._splits(cell),
            experiment.task.classes,
            DrawOptions(cell.level, experiment.subsample.master_seed, cell.data_seed),
            output or self.layout.train_path(cell),
            self.options,
        )

    def augment(
        self,
        cell: Cell,
        method: str,
        draw: int,
        input: Path | None = None,
        output: Path | None = None,
        limit: int | None = None,
    ) -> StageResult:
        """Write one synthetic set of a method.

        Args:
            cell: the cell.
            method: name of the method.
            draw: number of the synthetic set.
            input: real rows in place of the subsample.
            output: where to write in place of the default.
            limit: at most this many rows.

        Raises:
            StoppedShort: if rows are missing.
        """
        experiment, default = self.experiment(cell), self.layout.synthetic_path(cell, method, draw)
        if not (output or self.options.force):
            keep_trained_rows(self.layout, experiment, AugmentStep(cell, method, draw), limit)
        real, output = self.real_rows(cell, input), output or default
        refuse_overwrite(output, [input])
        self._empty_outputs.discard(output)
        augmenter, journal = self.resources.augmenter(
            experiment,
            method,
            # An LM's answers are kept even if the rows go to a pipe.
            default if output == STDIO else output,
            # What another variant was answered is not asked for again, so a sweep over the ratio
            # costs what its highest ratio costs.
            ()
            if self.options.only_checks
            else self.synthetic_paths_of_variants(cell, method, draw),
            replay_only=not self.tops_up,
            data_seed=cell.data_seed,
        )
        seed = experiment.augmentation_seed(augmenter.about["kind"], cell.data_seed, draw)
        filtered = not augmenter.edits_parents
        with journal:
            chosen = experiment, cell.data_seed, seed, limit, filtered
            quota = replace(self.resources.augment_options(*chosen), tops_up=self.tops_up)
            try:
                return augment(augmenter, real, output, quota, self.options)
            except StoppedShort as error:
                if not isinstance(error, IncompleteOutput):
                    self._empty_outputs.add(output)
                raise

    def _splits(self, cell: Cell) -> Splits:
        chosen = self.experiment(cell), cell.data_seed
        if self.options.only_checks:
            return self.resources.splits(*chosen)
        return self.resources.keep_splits(*chosen)

    def train(self, step: TrainStep, executor: TrialExecutor = run_serially) -> StageResult:
        """Run the trials of a step, and save the best model if the step says where.

        Raises:
            StoppedShort: if a trial failed, or synthetic rows are missing.
        """
        classifier = step.classifier
        if step.save_model and classifier.uses_lm:
            raise UserError(
                f"classifier '{classifier.name}' trains nothing, so there is no model to save",
                "leave out --save-model",
            )
        default = self.layout.trials_path(step.key)
        output = step.output or default
        refuse_overwrite(output, [step.input, *step.augmented])
        trials, synthetic = self._trials_of(step)
        for path in [path for paths in synthetic.values() for path in paths]:
            # A file that is there anyway was written with other settings.
            if path in self._empty_outputs:
                raise StoppedShort(
                    f"{output}: not trained, because {path} has no row yet",
                    "run the same command again once it has",
                )
        base = default if output == STDIO else output
        runner, journal = self._trial_runner(step, base, synthetic)
        options = self.options
        if output in self._with_failed_trials:  # its other rows are new, also with `force`
            options = replace(options, force=False)
        executor = executor if classifier.runs_in_parallel else run_serially
        try:
            with journal:
                if classifier.targets.chooses_weight and synthetic:
                    result = train_with_best_weight(runner, trials, output, base, options, executor)
                else:
                    result = train(runner, trials, output, options, executor)
        except StoppedShort as error:
            if isinstance(error, TrialsFailed):
                self._with_failed_trials.add(output)
            if not is_stop_requested():
                self._save_model(step, runner, output)  # of the trials that succeeded
            raise
        self._with_failed_trials.discard(output)
        self._save_model(step, runner, output)
        return result

    def _trials_of(self, step: TrainStep) -> tuple[list[TrialJob], dict[int, Sequence[Path]]]:
        pairs = self.experiment(step.cell).trials_for(step.classifier, step.cell.data_seed)
        if step.method == "none" or step.augmented:
            files = {0: step.augmented} if step.augmented else {}
            return [TrialJob(trial) for trial, _ in pairs], files
        return [TrialJob(trial, draw) for trial, draw in pairs], {
            draw: [self.layout.synthetic_path(step.cell, step.method, draw)]
            for draw in sorted({draw for _, draw in pairs})
        }

    def _trial_runner(
        self, step: TrainStep, journal_output: Path, synthetic: Mapping[int, Sequence[Path]]
    ) -> tuple[TrialRunner, OpenJournal]:
        cell, settings, experiment = step.cell, step.classifier, self.experiment(step.cell)
        classes = experiment.task.classes
        real = self.real_rows(cell, step.input)
        splits = self.resources.splits(experiment, cell.data_seed)
        if step.input is None:
            refuse_test_rows(self.layout.train_path(cell), real, splits)
        self._splits(cell)
        reads_journals = settings.uses_lm and not self.options.only_checks
        others = self.trials_paths_of_variants(cell, settings) if reads_journals else ()
        classifier, journal = self.resources.classifier_with_cache(
            experiment, settings, journal_output, others
        )
        sets = {
            draw: self._reader.synthetic(paths, classes, real) for draw, paths in synthetic.items()
        }
        tested, num_all_test = splits.test, len(splits.all_test)
        data = TrialData(real, splits.validation, tested, sets, splits.sha, num_all_test)
        seed = experiment.subsample.master_seed
        return TrialRunner(
            classifier, step.key, classes, data, seed, settings.targets, self.tensorboard
        ), journal

    def _save_model(self, step: TrainStep, runner: TrialRunner, output: Path) -> None:
        settings = step.classifier
        if step.save_model is None or settings.uses_lm or runner.failure_reason:
            return
        rows = list(read_records(output, Trial))
        here = cached_classifier(settings, tuple(runner.classes))
        if runner.classifier is not here:  # the trials ran elsewhere
            runner.classifier, runner.fitted_trial = here, None
        if any(row.status == "ok" for row in rows):
            from ..train.saved_models import save_model

            experiment = self.experiment(step.cell)
            save_model(runner, rows, settings, step.save_model, self.callbacks, experiment)

    def steps(self) -> list[Step]:
        """Return the steps of a run, in the order of their dependencies."""
        steps = [step for cell in self.cells() for step in cell_steps(self.experiment(cell), cell)]
        # Labels come last: if the budget ends, synthetic rows were paid for first.
        return sorted(steps, key=lambda step: isinstance(step, TrainStep) and step.uses_lm)

    def run_step(self, step: Step, executor: TrialExecutor = run_serially) -> StageResult:
        """Run one step.

        Raises:
            StoppedShort: if it could not do all of its work.
        """
        match step:
            case SubsampleStep(cell):
                return self.subsample(cell)
            case AugmentStep(cell, method, draw):
                return self.augment(cell, method, draw)
            case TrainStep():
                return self.train(step, executor)
        raise TypeError(step)
