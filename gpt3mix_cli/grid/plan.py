"""What an experiment would ask and cost, before anything is asked: rows, requests, tokens, dollars, trainings.

Prompts are GPT3Mix's own over the real rows; answers that journals hold are read again, so that they cost nothing here
either and tell how long lines are and how many are rejected. What is not held is estimated from that, or else from the
real rows. Nothing is asked of anyone and nothing is written.
"""

import functools
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from statistics import fmean
from typing import Any

from ..augment import Outcome, journal_path, make, wanted_rows
from ..augment.gpt3mix import GPT3Mix, item, one_line
from ..augment.label import CONTENT_FREE
from ..augment.statistics import Statistics
from ..errors import UserError
from ..lm import Charges, Request, Tariff, end_of_block
from ..lm.endpoint.money import price_of
from ..lm.journal import IN_MEMORY, Journal, Journaled, paid
from ..records import Augmented, Example, Reject
from ..settings import Experiment, OpenAILM, fingerprint
from . import Grid, Spot

PROMPTS = 4096  # rendered and counted in all; each cell has its share
FEWEST, MOST = 16, 256  # of them a cell
REJECTED = 0.05  # share of lines that become no row, where no journal tells
ENOUGH = 20  # answers that tell more than the assumption does


@dataclass(frozen=True)
class Amount:
    """What is asked, or was; None where it cannot be known.

    Attributes:
        requests: of a local LM the lines that it writes.
        usd: None too where the price is unknown.
    """

    requests: float | None = 0
    prompt_tokens: float | None = 0
    completion_tokens: float | None = 0
    usd: float | None = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        """Return both together; what one of them does not know is unknown."""
        return Amount(*(None if a is None or b is None else a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def rounded(self) -> dict[str, Any]:
        """Return it in whole tokens and hundredths of a cent."""
        return {name: None if one is None else round(one, 4) if name == "usd" else round(one) for name, one in vars(self).items()}


UNKNOWN = Amount(None, None, None, None)


@dataclass(frozen=True)
class Line:
    """A cell of the plan.

    Attributes:
        spot: the cell.
        trainings: trials over methods and classifiers.
        real: real rows; None without data, as are all figures below.
        generations: rows that GPT3Mix is to make, over all draws.
        held: how many of them the journals give.
        ask: what is still to be asked.
        had: what was asked for the rows that are held.
    """

    spot: Spot
    trainings: int
    real: int | None = None
    generations: int | None = None
    held: int | None = None
    ask: Amount = UNKNOWN
    had: Amount = UNKNOWN


@dataclass
class Plan:
    """What would be asked.

    Attributes:
        lines: one a cell.
        prompt: the first one in full; None where there is none.
        remarks: what the figures rest on.
        budget: name -> limit (None: without), spent, over all runs so far; empty for a local LM.
    """

    lines: Sequence[Line]
    prompt: str | None = None
    remarks: list[str] = field(default_factory=list)
    budget: dict[str, tuple[float | None, float]] = field(default_factory=dict)

    @property
    def total(self) -> dict[str, Any]:
        """Return the sums over all cells; None where a cell's figure is unknown."""
        return {
            "trainings": sum(line.trainings for line in self.lines),
            "generations": _whole(line.generations for line in self.lines),
            **_sum(line.ask for line in self.lines).rounded(),
            "held": {"generations": _whole(line.held for line in self.lines), **_sum(line.had for line in self.lines).rounded()},
        }

    def over(self) -> list[str]:
        """Return which limits of the budget the plan passes."""
        total = self.total
        needed = {**total, "tokens": _whole([total["prompt_tokens"], total["completion_tokens"]])}
        return [name for name, (limit, spent) in self.budget.items() if limit is not None and spent + (needed[name] or 0) > limit]

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        budget = {
            name: {"limit": limit, "spent": spent, "left": None if limit is None else max(limit - spent, 0)}
            for name, (limit, spent) in self.budget.items()
        }
        return {**self.total, "budget": budget or None, "cells": [_cell(line) for line in self.lines], "remarks": self.remarks, "prompt": self.prompt}


def plan(grid: Grid, spots: Sequence[Spot]) -> Plan:
    """Return what the cells would ask.

    Raises:
        UserError: if the prices are wrong.
    """
    for experiment in grid.experiments:
        if isinstance(experiment.lm, OpenAILM):
            price_of(experiment.lm.model, experiment.lm.prices)
    planned = _Planned(grid, spots)
    lines = [planned.line(spot) for spot in spots]
    return Plan(lines, planned.prompt, planned.remarks(), _budget(grid))


@dataclass
class _Set:
    """One synthetic set: what it wants, and what the journals hold of it.

    Attributes:
        stream: the same for sets whose requests are the same: what one of them asks the others find in its journal.
        attempts: whose answers are held, from the first one on; those past the last row wanted are not among them.
        answered: the same with those, as `usage` has them.
    """

    augmenter: GPT3Mix
    tariff: Tariff
    examples: Sequence[Example]
    seed: int
    wanted: int
    stream: str
    outcome: "_Held"
    attempts: int = field(init=False)
    answered: float = field(init=False)

    def __post_init__(self) -> None:
        """Count the attempts."""
        outcome = self.outcome
        self.attempts = len(outcome.attempts)
        self.answered = self.attempts * (1 + outcome.spare / (outcome.kept + outcome.reasons.total())) if self.attempts else 0.0

    @property
    def next(self) -> int:
        """The first attempt whose answer is not held."""
        return self.attempts if self.outcome.stopped else self.outcome.asked

    def had(self) -> Amount:
        """Return what the held answers took; tokens for labels alone are nearly all read."""
        usage = self.augmenter.usage()
        requests = usage.get("requests", 0)
        usd = self.augmenter.usd() if requests else 0.0
        return Amount(requests or self.answered, usage["prompt_tokens"] + usage.get("label_tokens", 0), usage["completion_tokens"], usd)


class _Held(Outcome):
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


class _Planned:
    """The cells' sets. All are read before any is estimated, since each tells the others of a variant how long lines are."""

    def __init__(self, grid: Grid, spots: Sequence[Spot]) -> None:
        self._grid = grid
        self._sets: dict[Spot, list[_Set]] = {}
        self._seen: dict[str, _Seen] = {}
        self._tariffs: dict[str, Tariff] = {}
        self._planned: dict[str, int] = {}  # stream -> the attempt after those that are planned
        self._missing: dict[str, None] = {}
        self._notes: dict[str, None] = {}
        self.prompt: str | None = None
        for number, spot in enumerate(spots):
            grid.tell("cells", number, len(spots))
            try:
                self._sets[spot] = list(self._read(spot)) if spot.experiment.lm else []
            except UserError as error:
                self._missing[error.message] = None
        grid.tell("cells", len(spots), len(spots))
        self._share = min(MOST, max(FEWEST, PROMPTS // max(1, sum(map(len, self._sets.values())))))

    def line(self, spot: Spot) -> Line:
        """Return a cell's line."""
        experiment = spot.experiment
        trainings = len(experiment.methods) * sum(len(spot.dealt(classifier)) for classifier in experiment.classifiers)
        if spot not in self._sets:
            return Line(spot, trainings)
        sets = self._sets[spot]
        real = len(sets[0].examples) if sets else None
        wanted, held = sum(one.wanted for one in sets), sum(one.outcome.kept for one in sets)
        return Line(spot, trainings, real, wanted, held, _sum(self._estimate(experiment, one) for one in sets), _sum(one.had() for one in sets))

    def remarks(self) -> list[str]:
        """Return what the figures rest on."""
        return [*(f"unknown where it needs what is not there: {reason}" for reason in self._missing), *self._notes]

    # What is there ---------------------------------------------------------------------------------------------------

    def _read(self, spot: Spot) -> Iterator[_Set]:
        """Yield the sets of a cell.

        Raises:
            UserError: if the data or the LM's tokenizer are not there.
        """
        grid, experiment = self._grid, spot.experiment
        examples, settings, lm = grid.examples(spot), experiment.augment, grid.lm(experiment, asks=False)
        wanted = wanted_rows(settings.ratio, len(examples))
        for draw in spot.draws():
            journals = [path for path in map(journal_path, grid.variants(spot, "gpt3mix", draw)) if path.exists()]
            held = Journaled(lm, IN_MEMORY, journals)
            try:
                augmenter, seed = GPT3Mix(settings, experiment.task, held, "gpt3mix"), spot.seed_of("gpt3mix", draw)
                first = next(request for request, _ in augmenter.requests(examples, 0, 1, seed))
                outcome = _Held(examples)
                if journals:
                    test = grid.held_out(experiment)
                    make(augmenter, examples, wanted, settings.attempts, seed, outcome, limits=settings.gate, test=test)
            finally:
                held.close()
            self.prompt = self.prompt or first.prompt
            stream = fingerprint([lm.about.fingerprint, spot.level, spot.seed, draw, asdict(first)])
            one = _Set(augmenter, self._tariff(experiment, first), examples, seed, wanted, stream, outcome)
            self._seen.setdefault(_variant(experiment), _Seen()).add(one)
            yield one

    def _tariff(self, experiment: Experiment, request: Request) -> Tariff:
        """Return what an attempt takes; how the server is asked may stand in any journal of the experiment."""
        key = _variant(experiment)
        if key not in self._tariffs:
            lm = self._grid.lm(experiment, asks=False)
            self._tariffs[key] = Tariff()
            if isinstance(lm, Charges):
                journal = Journal(IN_MEMORY, self._grid.journals(experiment))
                self._tariffs[key] = lm.tariff(request, journal)
                journal.close()
        return self._tariffs[key]

    # What is to come -------------------------------------------------------------------------------------------------

    def _estimate(self, experiment: Experiment, one: _Set) -> Amount:
        """Return what a set still asks."""
        settings, count = experiment.augment, one.augmenter.about_lm.count_tokens
        seen = self._seen_of(experiment)
        missing = min(ceil((one.wanted - one.outcome.kept) / self._kept(seen, one.augmenter.rows)), ceil(settings.attempts * one.wanted) - one.next)
        if missing <= 0:
            return Amount()
        end = end_of_block(one.next + missing - 1, one.augmenter.block)
        begin = max(one.next, self._planned.get(one.stream, 0))
        self._planned[one.stream] = max(end, begin)
        if begin >= end:
            return Amount()
        sample = min(end - begin, self._share)
        if sample < end - begin:
            self._notes["prompts are counted of a part of each cell's requests, and taken for the others too"] = None
        read = fmean(count(request.prompt) for request, _ in one.augmenter.requests(one.examples, begin, sample, one.seed))
        wrote, further = self._written(experiment, one, seen)
        tariff = one.tariff
        alone = len(CONTENT_FREE) * tariff.score_requests if settings.contextual_calibration and settings.labels == "soft" else 0
        requests, prompt = 1 + further + alone, read * (1 + further + alone) + wrote * further
        prompt_tokens, completion_tokens = (end - begin) * prompt, (end - begin) * (wrote + alone)
        for remark in tariff.remarks:
            self._notes[remark] = None
        return Amount((end - begin) * requests, prompt_tokens, completion_tokens, tariff.usd(prompt_tokens, completion_tokens))

    def _seen_of(self, experiment: Experiment) -> _Seen | None:
        """Return what this variant's answers have shown, or another's; None where too few were given."""
        own = self._seen[_variant(experiment)]
        return next((seen for seen in (own, *self._seen.values()) if seen.attempts >= ENOUGH and seen.kept), None)

    def _kept(self, seen: _Seen | None, rows: int) -> float:
        """Return the rows that an attempt gives."""
        if seen:
            self._notes[f"rows: {seen.kept} of {seen.attempts} answers so far were kept"] = None
            return seen.kept / seen.attempts
        self._notes[f"rows: {REJECTED:.0%} of the answers are taken to be rejected, since there are none yet"] = None
        return rows * (1 - REJECTED)

    def _written(self, experiment: Experiment, one: _Set, seen: _Seen | None) -> tuple[float, float]:
        """Return the tokens that an attempt writes, and its further requests."""
        if seen:
            # Not in proportion to the cell's own rows: an LM's lines are less unlike each other than its examples are.
            self._notes["completion tokens: the mean of the answers so far"] = None
            return seen.completion / seen.answered, max(seen.requests / seen.answered - 1, 0)
        self._notes["completion tokens: as if lines were as long as the real ones; the first answers will tell"] = None
        tariff, task, count = one.tariff, experiment.task, one.augmenter.about_lm.count_tokens
        rows = one.examples[:: ceil(len(one.examples) / MOST)]
        labels = {name: count(item(task, "", name)) - count("") if tariff.whole_line else 0 for name in task.classes}
        written = fmean(min(count(f" {one_line(row.text)}"), experiment.augment.max_tokens) + labels[row.label] for row in rows)
        return written * one.augmenter.rows + tariff.label_requests * tariff.label_tokens, tariff.label_requests


def _budget(grid: Grid) -> dict[str, tuple[float | None, float]]:
    """Return (limit, spent) of requests, tokens and dollars; nothing for an LM that costs nothing."""
    first = grid.experiments[0]
    if not any(isinstance(experiment.lm, OpenAILM) for experiment in grid.experiments):
        return {}
    sums = [paid(path) for path in grid.journals(first)]
    requests, prompt, completion, usd = (sum(column) for column in zip(*sums, strict=True)) if sums else (0, 0, 0, 0.0)
    limits = first.budget.model_dump() if first.budget else {}
    spent = {"requests": requests, "tokens": prompt + completion, "usd": usd}
    return {name: (limits.get(name), spent[name]) for name in spent}


def _cell(line: Line) -> dict[str, Any]:
    spot = line.spot
    return {
        "variant": spot.experiment.variant, "level": spot.level, "seed": spot.seed, "draws": len(spot.draws()) if spot.experiment.lm else 0,
        "trainings": line.trainings, "real": line.real, "generations": line.generations, **line.ask.rounded(),
        "held": {"generations": line.held, **line.had.rounded()},
    }  # fmt: skip


def _variant(experiment: Experiment) -> str:
    return fingerprint(experiment.variant)


def _sum(amounts: Iterable[Amount]) -> Amount:
    return functools.reduce(operator.add, amounts, Amount())


def _whole(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
