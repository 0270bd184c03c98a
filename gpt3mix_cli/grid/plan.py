"""What an experiment would ask and cost: rows, requests, tokens, dollars and trainings.

Prompts are the real ones of GPT3Mix and of classifiers that prompt. Answers in journals are read
again: they cost nothing, and they tell how long lines are and how many are rejected. The rest is
estimated from them, or else from the real rows. Nothing is asked and nothing is written.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from statistics import fmean

from ..augment import AugmentOptions, num_rows_wanted, run_attempts
from ..augment.gpt3mix import GPT3Mix
from ..errors import StoppedShort, UserError
from ..layout import Cell, journal_path
from ..lm import LM, CostModel, Request, check_prices, cost_model_for, costs_money, total_spent
from ..method.prompt import label_choices, label_prefix, render_prompt
from ..records import Example
from ..settings import AugmentSettings, Experiment, PromptSettings, fingerprint
from ..subsample import DrawOptions, draw_rows
from ..train import training_seed
from ..train.prompt import PromptClassifier
from ..train.targets import to_one_hot
from .augment_estimate import AnswerStatistics, PendingEstimator, ReplaySink, SetEstimate
from .estimates import NO_USAGE, CellEstimate, Plan, Usage
from .runner import Grid

MAX_PROMPTS = 4096  # prompts that are rendered and counted in all
MIN_SET_PROMPTS, MAX_SET_PROMPTS = 16, 256  # of them for each synthetic set


def plan(grid: Grid, cells: Sequence[Cell]) -> Plan:
    """Return what some cells would ask.

    Raises:
        UserError: if the file of prices is invalid.
    """
    for experiment in grid.experiments:
        check_prices(experiment.lm)
    planner = _Planner(grid)
    # All cells are read before any is estimated: the answers of one tell about the others.
    for number, cell in enumerate(cells):
        grid.callbacks.progress("cells", number, len(cells))
        planner.read(cell)
    grid.callbacks.progress("cells", len(cells), len(cells))
    estimates = planner.estimates(cells)
    return Plan(estimates, planner.first_prompt, planner.remarks(), _budget(grid))


@dataclass(frozen=True)
class _CellInputs:
    """The rows of a cell, and the synthetic sets that the LM is to write."""

    real: Sequence[Example] = ()
    test: Sequence[Example] = ()
    sets: Sequence[SetEstimate] = ()


class _Planner:
    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._inputs: dict[Cell, _CellInputs] = {}
        self._groups: dict[str, AnswerStatistics] = {}
        self._cost_models: dict[str, CostModel] = {}
        self._num_labels: Counter[str] = Counter()
        self._missing: dict[str, None] = {}
        self._remarks: dict[str, None] = {}
        self.first_prompt: str | None = None

    def read(self, cell: Cell) -> None:
        """Read a cell's rows and what journals hold.

        Its values stay unknown if the data or the LM's tokenizer is missing.
        """
        experiment = self._grid.experiment(cell)
        try:
            self._inputs[cell] = self._read(cell, experiment) if experiment.lm else _CellInputs()
        except UserError as error:
            self._missing[error.message] = None

    def estimates(self, cells: Sequence[Cell]) -> list[CellEstimate]:
        """Return the estimate of each cell."""
        num_sets = sum(len(inputs.sets) for inputs in self._inputs.values())
        sample = min(MAX_SET_PROMPTS, max(MIN_SET_PROMPTS, MAX_PROMPTS // max(1, num_sets)))
        estimator = PendingEstimator(self._groups, sample)
        self._remarks = estimator.remarks
        return [self._estimate(cell, estimator, sample) for cell in cells]

    def remarks(self) -> list[str]:
        """Return what the estimates rest on."""
        return [
            *(f"unknown, because data is missing: {reason}" for reason in self._missing),
            *self._remarks,
            *(
                f"classifier '{name}' asks for {number:,} labels, one for each test row and trial"
                for name, number in self._num_labels.items()
                if number
            ),
        ]

    def _read(self, cell: Cell, experiment: Experiment) -> _CellInputs:
        grid, seed = self._grid, cell.data_seed
        if grid.layout.train_path(cell).exists():
            examples = grid.real_rows(cell)
        else:  # draw them in memory
            options = DrawOptions(cell.level, experiment.subsample.master_seed, seed)
            train = grid.resources.splits(experiment).train
            examples = draw_rows(train, experiment.task.classes, options, grid.callbacks)
        lm = grid.resources.lm(experiment, replay_only=True)
        needs_labels = any(item.uses_lm for item in experiment.classifiers_for("none", seed))
        test = grid.resources.splits(experiment).test if needs_labels else ()
        sets = []
        for method in experiment.methods:
            if not experiment.needs_augmentation(method, seed):
                continue
            if settings := experiment.lm_settings_for(method):
                sets += [
                    self._read_set(cell, method, settings, draw, examples, lm)
                    for draw in experiment.draws_for(seed)
                ]
        return _CellInputs(examples, test, sets)

    def _read_set(
        self,
        cell: Cell,
        method: str,
        settings: AugmentSettings,
        draw: int,
        examples: Sequence[Example],
        lm: LM,
    ) -> SetEstimate:
        grid, experiment = self._grid, self._grid.experiment(cell)
        wanted = num_rows_wanted(settings.ratio, len(examples))
        seed = experiment.augmentation_seed("gpt3mix", cell.data_seed, draw)
        paths = grid.synthetic_paths_of_variants(cell, method, draw)
        sink = ReplaySink(examples)
        with closing(grid.resources.replay_lm(experiment, paths)) as replay_lm:
            augmenter = GPT3Mix(settings, experiment.task, replay_lm, method)
            request = next(augmenter.attempts(examples, 0, 1, seed)).request
            if _have_journals(paths):
                quota = AugmentOptions(
                    settings.ratio,
                    settings.attempts,
                    seed,
                    filter=settings.filter,
                    test=grid.resources.filter_test_rows(experiment),
                )
                run_attempts(augmenter, examples, sink, quota)
        self.first_prompt = self.first_prompt or request.prompt
        stream = [lm.info.fingerprint, method, cell.level, cell.data_seed, draw, asdict(request)]
        estimate = SetEstimate(
            augmenter,
            self._cost_model(experiment, request),
            examples,
            seed,
            wanted,
            group=fingerprint([method, experiment.variant]),
            stream=fingerprint(stream),
            sink=sink,
        )
        answers = self._groups.get(estimate.group, AnswerStatistics())
        self._groups[estimate.group] = answers + estimate.answers
        return estimate

    def _cost_model(self, experiment: Experiment, request: Request) -> CostModel:
        key = fingerprint([experiment.variant, bool(request.choices)])
        if key not in self._cost_models:
            lm = self._grid.resources.lm(experiment, replay_only=True)
            # How the server is asked may be in any journal of the experiment.
            journals = self._grid.layout.journals()
            self._cost_models[key] = cost_model_for(lm, request, journals)
        return self._cost_models[key]

    def _estimate(self, cell: Cell, estimator: PendingEstimator, sample: int) -> CellEstimate:
        experiment, seed = self._grid.experiment(cell), cell.data_seed
        draws = len(experiment.draws_for(seed)) if experiment.lm else 0
        trainings = sum(
            len(experiment.trials_for(classifier, seed))
            for method in experiment.methods
            for classifier in experiment.classifiers_for(method, seed)
        )
        if cell not in self._inputs:
            return CellEstimate(cell, draws, trainings)
        inputs = self._inputs[cell]
        labels = [
            self._estimate_labels(cell, classifier, inputs, sample)
            for classifier in experiment.classifiers_for("none", seed)
            if classifier.uses_lm
        ]
        pending = [
            estimator.pending_usage(item, experiment.augment, experiment.task)
            for item in inputs.sets
        ]
        answered = [item.answered_usage() for item in inputs.sets]
        return CellEstimate(
            cell,
            draws,
            trainings,
            num_real=len(inputs.real) if experiment.lm else None,
            generations=sum(item.wanted for item in inputs.sets),
            held=sum(item.sink.kept for item in inputs.sets),
            pending=sum([*pending, *(usage for usage, _ in labels)], NO_USAGE),
            answered=sum([*answered, *(usage for _, usage in labels)], NO_USAGE),
        )

    def _estimate_labels(
        self, cell: Cell, settings: PromptSettings, inputs: _CellInputs, sample: int
    ) -> tuple[Usage, Usage]:
        """Return what a classifier still asks, and what it was answered; tokens are estimated.

        It asks for a label for each test row and trial. The few content-free texts of contextual
        calibration are not counted.
        """
        grid, experiment = self._grid, self._grid.experiment(cell)
        task, master_seed = experiment.task, experiment.subsample.master_seed
        paths = grid.trials_paths_of_variants(cell, settings)
        trials = experiment.trials_for(settings, cell.data_seed)
        texts = [row.text for row in inputs.test]
        lengths, held, step = list[int](), 0, ceil(len(texts) * len(trials) / sample)
        with closing(grid.resources.replay_lm(experiment, paths)) as replay_lm:
            classifier = PromptClassifier(settings, task, replay_lm)
            examples = [to_one_hot(row, task.classes) for row in inputs.real]
            for trial, _ in trials:
                classifier.fit(examples, (), training_seed(master_seed, trial))
                lengths += classifier.count_prompt_tokens(texts[::step])
                # Without a journal this is left out: looking for all prompts takes long.
                if _have_journals(paths):
                    with suppress(StoppedShort):  # a trial that lacks any label counts in full
                        classifier.predict_proba(texts)
                        held += len(texts)
        missing = len(texts) * len(trials) - held
        first_prompt = render_prompt(task, inputs.real[:1])
        self.first_prompt = self.first_prompt or first_prompt
        request = Request(
            0, first_prompt, 0, 1, label_prefix=label_prefix(task), choices=label_choices(task)
        )
        cost_model = self._cost_model(experiment, request)
        self._remarks |= dict.fromkeys(cost_model.remarks)
        self._num_labels[settings.name] += missing

        def usage(num_labels: int) -> Usage:
            requests = num_labels * max(1, cost_model.score_requests)
            read = requests * (fmean(lengths) if lengths else 0.0)
            written = requests * cost_model.label_tokens
            return Usage(requests, read, written, cost_model.usd(read, written))

        return usage(missing), usage(held)


def _have_journals(outputs: Sequence[Path]) -> bool:
    return any(journal_path(path).exists() for path in outputs)


def _budget(grid: Grid) -> dict[str, tuple[float | None, float]]:
    """Return (limit, spent) of requests, tokens and dollars; nothing for an LM that is free."""
    if not any(costs_money(experiment.lm) for experiment in grid.experiments):
        return {}
    spent, budget = total_spent(*grid.layout.journals()), grid.experiments[0].budget
    limits = budget.model_dump() if budget else {}
    values = {"requests": spent.requests, "tokens": spent.tokens, "usd": spent.usd}
    return {name: (limits.get(name), value) for name, value in values.items()}
