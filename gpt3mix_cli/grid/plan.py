"""What an experiment would ask and cost, before anything is asked: rows, requests, tokens, dollars, trainings.

Prompts are GPT3Mix's own over the real rows, a paraphrase's likewise, and those of a classifier that prompts. Answers that
journals hold are read again, so that they cost nothing here either and tell how long lines are and how many are rejected.
What is not held is estimated from that, or else from the real rows. Nothing is asked of anyone and nothing is written.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from math import ceil
from statistics import fmean

from ..augment import AugmentationSink, journal_path, num_rows_wanted, run_attempts
from ..augment.gpt3mix import GPT3Mix
from ..augment.statistics import Statistics
from ..errors import UserError
from ..lm import LM, CostModel, Priced, Request, end_of_block
from ..lm.journal import IN_MEMORY, Journal, paid
from ..lm.openai.budget import load_price
from ..method.labels import CONTENT_FREE
from ..method.prompt import choices, item, label_prefix, one_line, prompt
from ..records import Augmented, Example, Reject
from ..settings import AugmentSettings, Experiment, OpenAISettings, PromptSettings, fingerprint
from .estimates import Amount, Line, Plan, sum_of
from .prompt_estimate import predictions
from .runner import Grid
from .spot import Spot

PROMPTS = 4096  # rendered and counted in all; each cell has its share
FEWEST, MOST = 16, 256  # of them a cell
REJECTED = 0.05  # share of lines that become no row, where no journal tells
ENOUGH = 20  # answers that tell more than the assumption does


def plan(grid: Grid, spots: Sequence[Spot]) -> Plan:
    """Return what the cells would ask.

    Raises:
        UserError: if the prices are wrong.
    """
    for experiment in grid.experiments:
        if isinstance(experiment.lm, OpenAISettings):
            load_price(experiment.lm.model, experiment.lm.prices)
    planned = _Planned(grid, spots)
    lines = [planned.line(spot) for spot in spots]
    return Plan(lines, planned.prompt, planned.remarks(), _budget(grid))


@dataclass
class _Set:
    """One synthetic set: what it wants, and what the journals hold of it.

    Attributes:
        kind: method and variant, whose answers are alike.
        stream: the same for sets whose requests are the same: what one of them asks the others find in its journal.
        attempts: whose answers are held, from the first one on; those past the last row wanted are not among them.
        answered: the same with those, as `usage` has them.
    """

    augmenter: GPT3Mix
    cost_model: CostModel
    examples: Sequence[Example]
    seed: int
    wanted: int
    kind: str
    stream: str
    outcome: "_Held"
    attempts: int = field(init=False)
    answered: float = field(init=False)

    def __post_init__(self) -> None:
        """Count the attempts."""
        outcome = self.outcome
        self.attempts = len(outcome.attempts)
        self.answered = (
            self.attempts * (1 + outcome.spare / (outcome.kept + outcome.reasons.total()))
            if self.attempts
            else 0.0
        )

    @property
    def next(self) -> int:
        """The first attempt whose answer is not held."""
        return self.attempts if self.outcome.stopped else self.outcome.asked

    def had(self) -> Amount:
        """Return what the held answers took; tokens for labels alone are nearly all read."""
        usage = self.augmenter.usage()
        requests = usage.get("requests", 0)
        usd = self.augmenter.usd() if requests else 0.0
        return Amount(
            requests or self.answered,
            usage["prompt_tokens"] + usage.get("label_tokens", 0),
            usage["completion_tokens"],
            usd,
        )


class _Held(AugmentationSink):
    """What the held answers came to: counts, and which attempts; the rows themselves are not wanted."""

    def __init__(self, examples: Sequence[Example]) -> None:
        super().__init__(keep=id, statistics=Statistics(examples))
        self.attempts: set[int | None] = set()

    def take(self, row: Augmented) -> None:
        self.kept += 1
        self.attempts.add(row.request)

    def reject(self, row: Reject) -> None:
        self.reasons[row.reason] += 1
        self.attempts.add(row.request)


@dataclass
class _Seen:
    """What the answers so far have shown."""

    attempts: int = 0
    kept: int = 0
    answered: float = 0
    requests: int = 0
    completion: int = 0

    def add(self, one: _Set) -> None:
        """Add the answers of a set."""
        usage = one.augmenter.usage()
        self.attempts += one.attempts
        self.kept += one.outcome.kept
        self.answered += one.answered
        self.requests += usage.get("requests", 0)
        self.completion += usage["completion_tokens"]


@dataclass(frozen=True)
class _Rows:
    """What a cell starts from, and the synthetic sets that the LM is to write."""

    real: Sequence[Example]
    test: Sequence[Example]
    sets: Sequence[_Set]


class _Planned:
    """The cells' sets. All are read before any is estimated, since each tells the others of a variant how long lines are."""

    def __init__(self, grid: Grid, spots: Sequence[Spot]) -> None:
        self._grid = grid
        self._rows: dict[Spot, _Rows] = {}
        self._seen: dict[str, _Seen] = {}
        self._tariffs: dict[str, CostModel] = {}
        self._planned: dict[str, int] = {}  # stream -> the attempt after those that are planned
        self._labels: dict[str, int] = {}
        self._missing: dict[str, None] = {}
        self._notes: dict[str, None] = {}
        self.prompt: str | None = None
        for number, spot in enumerate(spots):
            grid.callbacks.progress("cells", number, len(spots))
            try:
                self._rows[spot] = self._read(spot) if spot.experiment.lm else _Rows((), (), ())
            except UserError as error:
                self._missing[error.message] = None
        grid.callbacks.progress("cells", len(spots), len(spots))
        self._share = min(
            MOST,
            max(FEWEST, PROMPTS // max(1, sum(len(rows.sets) for rows in self._rows.values()))),
        )

    def line(self, spot: Spot) -> Line:
        """Return a cell's line."""
        experiment = spot.experiment
        trainings = sum(
            len(spot.dealt(classifier))
            for method in experiment.methods
            for classifier in spot.tried(method)
        )
        if spot not in self._rows:
            return Line(spot, trainings)
        rows = self._rows[spot]
        sets, real, labels = (
            rows.sets,
            len(rows.real) if experiment.lm else None,
            self._predictions(spot, rows),
        )
        ask = sum_of(
            [
                *(self._estimate(experiment, one) for one in sets),
                *(missing for missing, _ in labels),
            ]
        )
        had = sum_of([*(one.had() for one in sets), *(held for _, held in labels)])
        wanted, held = sum(one.wanted for one in sets), sum(one.outcome.kept for one in sets)
        return Line(spot, trainings, real, wanted, held, ask, had)

    def remarks(self) -> list[str]:
        """Return what the figures rest on."""
        labels = (
            f"classifier '{name}' asks for {number:,} labels, one a test row and trial"
            for name, number in self._labels.items()
            if number
        )
        return [
            *(f"unknown where it needs what is not there: {reason}" for reason in self._missing),
            *self._notes,
            *labels,
        ]

    # What is there ---------------------------------------------------------------------------------------------------

    def _read(self, spot: Spot) -> _Rows:
        """Return the rows and sets of a cell.

        Raises:
            UserError: if the data or the LM's tokenizer are not there.
        """
        grid, experiment = self._grid, spot.experiment
        examples, lm = grid.examples(spot), grid.resources.lm(experiment, asks=False)
        prompts = any(isinstance(classifier, PromptSettings) for classifier in spot.tried("none"))
        test = grid.resources.splits(experiment).test if prompts else ()
        asking = [
            (method, settings)
            for method in experiment.methods
            if spot.makes(method) and (settings := experiment.asking(method))
        ]
        return _Rows(
            examples,
            test,
            [
                self._set(spot, method, settings, draw, examples, lm)
                for method, settings in asking
                for draw in spot.draws()
            ],
        )

    def _set(
        self,
        spot: Spot,
        method: str,
        settings: AugmentSettings,
        draw: int,
        examples: Sequence[Example],
        lm: LM,
    ) -> _Set:
        grid, experiment = self._grid, spot.experiment
        wanted, others = (
            num_rows_wanted(settings.ratio, len(examples)),
            grid.variants(spot, method, draw),
        )
        with closing(grid.resources.replay_lm(experiment, others)) as held:
            augmenter, seed = (
                GPT3Mix(settings, experiment.task, held, method),
                spot.seed_of("gpt3mix", draw),
            )
            first = next(request for request, _ in augmenter.requests(examples, 0, 1, seed))
            outcome = _Held(examples)
            if any(journal_path(path).exists() for path in others):
                test = grid.resources.held_out(experiment)
                run_attempts(
                    augmenter,
                    examples,
                    wanted,
                    settings.attempts,
                    seed,
                    outcome,
                    limits=settings.gate,
                    test=test,
                )
        self.prompt = self.prompt or first.prompt
        stream = fingerprint(
            [lm.about.fingerprint, method, spot.level, spot.seed, draw, asdict(first)]
        )
        kind = fingerprint([method, experiment.variant])
        one = _Set(
            augmenter,
            self._tariff(experiment, first),
            examples,
            seed,
            wanted,
            kind,
            stream,
            outcome,
        )
        self._seen.setdefault(kind, _Seen()).add(one)
        return one

    def _tariff(self, experiment: Experiment, request: Request) -> CostModel:
        """Return what an attempt takes; how the server is asked may stand in any journal of the experiment."""
        key = fingerprint([experiment.variant, bool(request.choices)])
        if key not in self._tariffs:
            lm = self._grid.resources.lm(experiment, asks=False)
            self._tariffs[key] = CostModel()
            if isinstance(lm, Priced):
                journal = Journal(IN_MEMORY, self._grid.resources.journals(experiment))
                self._tariffs[key] = lm.cost_model(request, journal)
                journal.close()
        return self._tariffs[key]

    # What is to come -------------------------------------------------------------------------------------------------

    def _estimate(self, experiment: Experiment, one: _Set) -> Amount:
        """Return what a set still asks."""
        settings, count = experiment.augment, one.augmenter.about_lm.count_tokens
        seen = self._seen_of(one.kind)
        missing = min(
            ceil((one.wanted - one.outcome.kept) / self._kept(seen, one.augmenter.rows)),
            ceil(settings.attempts * one.wanted) - one.next,
        )
        if missing <= 0:
            return Amount()
        end = end_of_block(one.next + missing - 1, one.augmenter.block)
        begin = max(one.next, self._planned.get(one.stream, 0))
        self._planned[one.stream] = max(end, begin)
        if begin >= end:
            return Amount()
        sample = min(end - begin, self._share)
        if sample < end - begin:
            self._notes[
                "prompts are counted of a part of each cell's requests, and taken for the others too"
            ] = None
        read = fmean(
            count(request.prompt)
            for request, _ in one.augmenter.requests(one.examples, begin, sample, one.seed)
        )
        wrote, further = self._written(experiment, one, seen)
        cost_model = one.cost_model
        alone = (
            len(CONTENT_FREE) * cost_model.score_requests
            if settings.contextual_calibration and settings.labels == "soft"
            else 0
        )
        requests, prompt = 1 + further + alone, read * (1 + further + alone) + wrote * further
        prompt_tokens, completion_tokens = (end - begin) * prompt, (end - begin) * (wrote + alone)
        for remark in cost_model.remarks:
            self._notes[remark] = None
        return Amount(
            (end - begin) * requests,
            prompt_tokens,
            completion_tokens,
            cost_model.usd(prompt_tokens, completion_tokens),
        )

    def _predictions(self, spot: Spot, rows: _Rows) -> list[tuple[Amount, Amount]]:
        """Return for each classifier that prompts what it still asks, and what was asked; of both the tokens are estimated."""
        experiment, task, found = spot.experiment, spot.experiment.task, []
        for classifier in spot.tried("none"):
            if not isinstance(classifier, PromptSettings):
                continue
            others = self._grid.trials_of_variants(spot, classifier)
            with closing(self._grid.resources.replay_lm(experiment, others)) as held:
                answered = any(journal_path(path).exists() for path in others)
                labels = predictions(
                    spot, classifier, held, answered, rows.real, rows.test, self._share
                )
            asked = prompt(task, rows.real[:1])
            self.prompt = self.prompt or asked
            cost_model = self._tariff(
                experiment,
                Request(0, asked, 0, 1, label_prefix=label_prefix(task), choices=choices(task)),
            )
            self._labels[classifier.name] = self._labels.get(classifier.name, 0) + labels.missing
            self._notes |= dict.fromkeys(cost_model.remarks)
            both = [
                number * max(1, cost_model.score_requests)
                for number in (labels.missing, labels.held)
            ]
            sums = [
                (number, number * labels.tokens, number * cost_model.label_tokens)
                for number in both
            ]
            ask, had = (Amount(*each, cost_model.usd(*each[1:])) for each in sums)
            found.append((ask, had))
        return found

    def _seen_of(self, kind: str) -> _Seen | None:
        """Return what the answers to this method and variant have shown, or to another; None where too few were given."""
        own = self._seen[kind]
        return next(
            (seen for seen in (own, *self._seen.values()) if seen.attempts >= ENOUGH and seen.kept),
            None,
        )

    def _kept(self, seen: _Seen | None, rows: int) -> float:
        """Return the rows that an attempt gives."""
        if seen:
            self._notes[f"rows: {seen.kept} of {seen.attempts} answers so far were kept"] = None
            return seen.kept / seen.attempts
        self._notes[
            f"rows: {REJECTED:.0%} of the answers are taken to be rejected, since there are none yet"
        ] = None
        return rows * (1 - REJECTED)

    def _written(
        self, experiment: Experiment, one: _Set, seen: _Seen | None
    ) -> tuple[float, float]:
        """Return the tokens that an attempt writes, and its further requests."""
        if seen:
            # Not in proportion to the cell's own rows: an LM's lines are less unlike each other than its examples are.
            self._notes["completion tokens: the mean of the answers so far"] = None
            return seen.completion / seen.answered, max(seen.requests / seen.answered - 1, 0)
        self._notes[
            "completion tokens: as if lines were as long as the real ones; the first answers will tell"
        ] = None
        cost_model, task, count = (
            one.cost_model,
            experiment.task,
            one.augmenter.about_lm.count_tokens,
        )
        rows = one.examples[:: ceil(len(one.examples) / MOST)]
        labels = {
            name: count(item(task, "", name)) - count("") if cost_model.whole_line else 0
            for name in task.classes
        }
        written = fmean(
            min(count(f" {one_line(row.text)}"), experiment.augment.max_tokens) + labels[row.label]
            for row in rows
        )
        return (
            written * one.augmenter.rows + cost_model.label_requests * cost_model.label_tokens,
            cost_model.label_requests,
        )


def _budget(grid: Grid) -> dict[str, tuple[float | None, float]]:
    """Return (limit, spent) of requests, tokens and dollars; nothing for an LM that costs nothing."""
    first = grid.experiments[0]
    if not any(isinstance(experiment.lm, OpenAISettings) for experiment in grid.experiments):
        return {}
    sums = [paid(path) for path in grid.resources.journals(first)]
    requests, prompt, completion, usd = (
        (sum(column) for column in zip(*sums, strict=True)) if sums else (0, 0, 0, 0.0)
    )
    limits = first.budget.model_dump() if first.budget else {}
    spent = {"requests": requests, "tokens": prompt + completion, "usd": usd}
    return {name: (limits.get(name), spent[name]) for name in spent}
