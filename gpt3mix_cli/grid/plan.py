"""What an experiment would ask and cost: rows, requests, tokens, dollars and trainings.

Prompts are the real ones of GPT3Mix and of classifiers that prompt. Answers in journals are read
again: they cost nothing, and they tell how long lines are and how many are rejected. The rest is
estimated from them, or else from the real rows. No endpoint is asked and nothing is written; a
local model may be tried for a few seconds, to tell the time (`times`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from statistics import fmean

from ..augment import num_rows_wanted, run_attempts
from ..augment.gpt3mix import GPT3Mix
from ..errors import StoppedShort, UserError
from ..layout import Cell, TrialKey
from ..lm import (
    LM,
    Bill,
    CostModel,
    Request,
    bill_attempts,
    bill_labels,
    check_prices,
    cost_model_for,
    costs_money,
    total_spent,
)
from ..method.prompt import label_choices, label_prefix, render_prompt
from ..records import Example
from ..settings import (
    AugmentSettings,
    ClassifierSettings,
    Experiment,
    PromptSettings,
    fingerprint,
)
from ..train import WEIGHTS, training_seed
from ..train.prompt import PromptClassifier
from ..train.targets import to_one_hot
from .augment_estimate import (
    MIN_ANSWERS,
    AnswerStatistics,
    PendingEstimator,
    ReplaySink,
    SetEstimate,
)
from .estimates import NO_USAGE, CellEstimate, Plan, Usage
from .resources import existing_journals
from .runner import Grid
from .times import estimate_times

PAPER_TOKENS = 300  # "a GPT3Mix augmentation roughly consumes 300 tokens" (section 4.2)
MAX_PROMPTS = 4096  # prompts that are rendered and counted in all
MAX_OTHER_CELLS = 8  # cells that are not planned, whose answers tell about those that are
MIN_SET_PROMPTS, MAX_SET_PROMPTS = 16, 256  # of them for each synthetic set


def plan(grid: Grid, cells: Sequence[Cell], measure: bool = False) -> Plan:
    """Return what some cells would ask, and how long they take.

    Args:
        grid: the grid.
        cells: the cells.
        measure: measure for a few seconds what no earlier run has timed.

    Raises:
        UserError: if the file of prices is invalid.
    """
    for experiment in grid.experiments:
        check_prices(experiment.lm)
    result = _Planner(grid).plan(cells)
    times = estimate_times(grid, cells, measure)
    remarks = [*result.remarks, *_compare_with_paper(grid, result), *times.sources]
    return replace(result, seconds=times.stages, remarks=remarks)


def _compare_with_paper(grid: Grid, plan: Plan) -> list[str]:
    """Return the tokens of a synthetic row next to the paper's, for `preset: paper`."""
    total, is_paper = plan.total, any(item.preset == "paper" for item in grid.experiments)
    held = total["held"]
    names = ("prompt_tokens", "completion_tokens")
    tokens = [part[name] for part in (total, held) for name in names]
    if not is_paper or not total["generations"] or None in tokens:
        return []
    return [
        f"tokens of a synthetic row, prompt and answer: {sum(tokens) / total['generations']:,.0f}, "
        f"rejected ones included; in the paper about {PAPER_TOKENS} (section 4.2)"
    ]


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
        self._bills: dict[str, Bill | None] = {}
        self._num_labels: Counter[str] = Counter()
        self._first_prompts: dict[str, str] = {}

    def plan(self, cells: Sequence[Cell]) -> Plan:
        grid, missing = self._grid, dict[str, None]()
        # All cells are read before any is estimated: the answers of one tell about the others.
        for number, cell in enumerate(cells):
            grid.callbacks.progress("cells", number, len(cells))
            try:
                self._inputs[cell] = self._read(cell)
            except UserError as error:  # the data or the LM's tokenizer: values stay unknown
                missing[error.message] = None
        grid.callbacks.progress("cells", len(cells), len(cells))
        self._read_other_cells(cells)
        num_sets = sum(len(inputs.sets) for inputs in self._inputs.values())
        sample = min(MAX_SET_PROMPTS, max(MIN_SET_PROMPTS, MAX_PROMPTS // max(1, num_sets)))
        estimator = PendingEstimator(self._groups, sample)
        estimates = [self._estimate(cell, estimator) for cell in cells]
        remarks = [
            *estimator.remarks,
            *(
                f"classifier '{name}' asks for {number:,} labels, one for each test row and trial"
                for name, number in self._num_labels.items()
                if number
            ),
        ]
        return Plan(estimates, self._first_prompts, remarks, _budget(grid), missing=list(missing))

    def _read_other_cells(self, cells: Sequence[Cell]) -> None:
        """Add the answers of cells that are not planned, if the planned ones have none."""
        if any(answers.attempts for answers in self._groups.values()):
            return
        others = [
            cell
            for cell in self._grid.cells()
            if cell not in self._inputs and self._has_journals(cell)
        ]
        for cell in others[-MAX_OTHER_CELLS:]:
            with suppress(UserError):
                self._read(cell)

    def _has_journals(self, cell: Cell) -> bool:
        methods = self._grid.experiment(cell).methods
        outputs = [self._grid.layout.synthetic_path(cell, method) for method in methods]
        return bool(existing_journals(outputs))

    def _read(self, cell: Cell) -> _CellInputs:
        grid, experiment, seed = self._grid, self._grid.experiment(cell), cell.data_seed
        if not experiment.lm:
            return _CellInputs()
        examples = grid.real_rows_or_draw(cell)
        lm = grid.resources.planning_lm(experiment)
        needs_labels = any(item.uses_lm for item in experiment.classifiers_for("none", seed))
        test = grid.resources.splits(experiment, seed).test if needs_labels else ()
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
            texts = grid.resources.unlabelled_texts(experiment, method, cell.data_seed)
            augmenter = GPT3Mix(settings, experiment.task, replay_lm, method, texts)
            request = next(augmenter.attempts(examples, 0, 1, seed)).request
            if existing_journals(paths):
                quota = grid.resources.augment_options(experiment, cell.data_seed, seed)
                run_attempts(augmenter, examples, sink, quota)
        self._first_prompts.setdefault(method, request.prompt)
        paths_like = grid.layout.journals_like(grid.layout.synthetic_path(cell, method))
        stream = [lm.info.fingerprint, method, cell.level, cell.data_seed, draw, asdict(request)]
        estimate = SetEstimate(
            augmenter,
            self._cost_model(experiment, request),
            examples,
            seed,
            wanted,
            group=fingerprint([method, cell.task, experiment.variant]),
            stream=fingerprint(stream),
            sink=sink,
            bill=self._bill(bill_attempts, experiment, paths_like, request),
        )
        answers = self._groups.get(estimate.group, AnswerStatistics())
        self._groups[estimate.group] = answers + estimate.answers
        return estimate

    def _cost_model(self, experiment: Experiment, request: Request) -> CostModel:
        key = fingerprint([experiment.task.name, experiment.variant, bool(request.choices)])
        if key not in self._cost_models:
            lm = self._grid.resources.planning_lm(experiment)
            # How the server is asked may be in any journal of the experiment.
            journals = self._grid.layout.journals()
            self._cost_models[key] = cost_model_for(lm, request, journals)
        return self._cost_models[key]

    def _bill(
        self,
        read: Callable[[Sequence[Path], str, Request, Callable[[str], int]], Bill | None],
        experiment: Experiment,
        journals: Sequence[Path],
        request: Request,
    ) -> Bill | None:
        """Return what the requests in these journals took, or else in any of the experiment."""
        if not costs_money(experiment.lm):
            return None
        info = self._grid.resources.planning_lm(experiment).info
        for paths in (journals, self._grid.layout.journals()):
            # Journals of all tasks and methods hold requests of several kinds.
            kind = [read.__name__, request.prompt.rpartition("\n")[2], request.label_prefix]
            key = fingerprint([info.fingerprint, request.beams, kind, *map(str, paths)])
            if key not in self._bills:
                self._bills[key] = read(paths, info.model, request, info.count_tokens)
            bill = self._bills[key]
            if bill and bill.units >= MIN_ANSWERS:
                return bill
        return None

    def _estimate(self, cell: Cell, estimator: PendingEstimator) -> CellEstimate:
        experiment, seed = self._grid.experiment(cell), cell.data_seed
        draws = len(experiment.draws_for(seed)) if experiment.lm else 0
        trainings = sum(
            len(experiment.trials_for(classifier, seed)) * _fits_per_trial(classifier, method)
            for method in experiment.methods
            for classifier in experiment.classifiers_for(method, seed)
        )
        if cell not in self._inputs:
            return CellEstimate(cell, draws, trainings, *self._count_rows(cell))
        inputs = self._inputs[cell]
        labels = [
            self._estimate_labels(cell, classifier, inputs, estimator)
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

    def _count_rows(self, cell: Cell) -> tuple[int | None, int | None]:
        """Return the numbers of real rows and of rows to write, for which no LM is needed."""
        experiment, seed = self._grid.experiment(cell), cell.data_seed
        try:
            num_real = len(self._grid.real_rows_or_draw(cell))
        except UserError:
            return None, None
        asked = [
            experiment.lm_settings_for(method)
            for method in experiment.methods
            if experiment.needs_augmentation(method, seed)
        ]
        wanted = sum(num_rows_wanted(item.ratio, num_real) for item in asked if item)
        return num_real, wanted * len(experiment.draws_for(seed))

    def _estimate_labels(
        self,
        cell: Cell,
        settings: PromptSettings,
        inputs: _CellInputs,
        estimator: PendingEstimator,
    ) -> tuple[Usage, Usage]:
        """Return what a classifier still asks, and what it was answered: a label per row and trial.

        The few content-free texts of contextual calibration are not counted.
        """
        grid, experiment = self._grid, self._grid.experiment(cell)
        task, master_seed = experiment.task, experiment.subsample.master_seed
        paths = grid.trials_paths_of_variants(cell, settings)
        trials = experiment.trials_for(settings, cell.data_seed)
        texts = [row.text for row in inputs.test]
        lengths, held, step = list[int](), 0, ceil(len(texts) * len(trials) / estimator.sample)
        with closing(grid.resources.replay_lm(experiment, paths)) as replay_lm:
            classifier = PromptClassifier(settings, task, replay_lm)
            examples = [to_one_hot(row, task.classes) for row in inputs.real]
            for trial, _ in trials:
                classifier.fit(examples, (), training_seed(master_seed, trial))
                lengths += classifier.count_prompt_tokens(texts[::step])
                # Without a journal this is left out: looking for all prompts takes long.
                if existing_journals(paths):
                    with suppress(StoppedShort):  # a trial that lacks any label counts in full
                        classifier.predict_proba(texts)
                        held += len(texts)
        missing = len(texts) * len(trials) - held
        first_prompt = render_prompt(task, inputs.real[:1])
        self._first_prompts.setdefault(settings.name, first_prompt)
        request = Request(
            0, first_prompt, 0, 1, label_prefix=label_prefix(task), choices=label_choices(task)
        )
        cost_model = self._cost_model(experiment, request)
        trials_path = grid.layout.trials_path(TrialKey(cell, "none", settings.name))
        journals = grid.layout.journals_like(trials_path)
        bill = self._bill(bill_labels, experiment, journals, request)
        basis = (bill.describe("label"),) if bill else cost_model.assumptions
        estimator.remarks |= dict.fromkeys((*basis, *cost_model.remarks))
        self._num_labels[settings.name] += missing

        def usage(num_labels: int) -> Usage:
            counted = num_labels * (fmean(lengths) if lengths else 0.0)
            if bill:
                requests, read, written = bill.take(num_labels, counted)
            else:
                requests_per_label = max(1, cost_model.score_requests)
                requests, read = num_labels * requests_per_label, counted * requests_per_label
                written = requests * cost_model.label_tokens
            return Usage(requests, read, written, cost_model.usd(read, written))

        return usage(missing), usage(held)


def _fits_per_trial(classifier: ClassifierSettings, method: str) -> int:
    is_chosen = method != "none" and classifier.targets.chooses_weight
    return len(WEIGHTS) if is_chosen else 1


def _budget(grid: Grid) -> dict[str, tuple[float | None, float]]:
    if not any(costs_money(experiment.lm) for experiment in grid.experiments):
        return {}
    spent, budget = total_spent(*grid.layout.journals()), grid.experiments[0].budget
    limits = budget.model_dump() if budget else {}
    values = {"requests": spent.requests, "tokens": spent.tokens, "usd": spent.usd}
    return {name: (limits.get(name), value) for name, value in values.items()}
