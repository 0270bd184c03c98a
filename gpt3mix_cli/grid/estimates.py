"""What a plan says: requests, tokens and dollars of each cell, their sums, and the budget."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..layout import Cell


@dataclass(frozen=True)
class Usage:
    """What some requests take; None for what cannot be known.

    Attributes:
        requests: calls of an endpoint; for a local LM, lines written and prompts scored.
        prompt_tokens: tokens read.
        completion_tokens: tokens written.
        usd: dollars; None too if the price is unknown.
    """

    requests: float | None = 0
    prompt_tokens: float | None = 0
    completion_tokens: float | None = 0
    usd: float | None = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        """Return the sum; what is unknown in one of them is unknown in the sum."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Usage(*(None if a is None or b is None else a + b for a, b in pairs))

    def rounded(self) -> dict[str, Any]:
        """Return the values in whole requests and tokens, and hundredths of a cent."""
        return {
            name: value if value is None else round(value, 4 if name == "usd" else None)
            for name, value in vars(self).items()
        }


NO_USAGE = Usage()
UNKNOWN_USAGE = Usage(None, None, None, None)


@dataclass(frozen=True)
class CellEstimate:
    """The plan of one cell.

    Attributes:
        cell: the cell.
        draws: number of synthetic sets of each method; 0 without an LM.
        trainings: number of trials over methods and classifiers.
        num_real: number of real rows; None without data, like every value below.
        generations: number of rows that the LM is to write, over all methods and draws.
        held: how many of these rows the journals give.
        pending: what is still to be asked.
        answered: what was asked for the rows that the journals give.
    """

    cell: Cell
    draws: int
    trainings: int
    num_real: int | None = None
    generations: int | None = None
    held: int | None = None
    pending: Usage = UNKNOWN_USAGE
    answered: Usage = UNKNOWN_USAGE

    def as_json(self) -> dict[str, Any]:
        """Return the values of `plan --json`."""
        return {
            "task": self.cell.task,
            "variant": self.cell.variant,
            "level": self.cell.level,
            "seed": self.cell.data_seed,
            "draws": self.draws,
            "trainings": self.trainings,
            "real": self.num_real,
            "generations": self.generations,
            **self.pending.rounded(),
            "held": {"generations": self.held, **self.answered.rounded()},
        }


@dataclass(frozen=True)
class Plan:
    """What an experiment would ask.

    Attributes:
        cells: one estimate for each cell.
        prompts: method, or classifier that prompts -> its first prompt in full.
        remarks: what the estimates rest on.
        budget: name -> (limit or None, spent over all runs so far); empty for a local LM.
        seconds: stage -> seconds that it still takes on this machine; None if unknown.
        missing: why cells could not be read.
    """

    cells: Sequence[CellEstimate]
    prompts: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    budget: dict[str, tuple[float | None, float]] = field(default_factory=dict)
    seconds: Mapping[str, float | None] = field(default_factory=dict)
    missing: Sequence[str] = ()

    @property
    def lacks_data(self) -> bool:
        """Whether nothing is known of any cell, since its data cannot be read."""
        return bool(self.missing) and all(cell.generations is None for cell in self.cells)

    @property
    def total(self) -> dict[str, Any]:
        """The sums over all cells; None if the value of any cell is unknown."""
        return {
            "trainings": sum(cell.trainings for cell in self.cells),
            "generations": _sum_known(cell.generations for cell in self.cells),
            **sum((cell.pending for cell in self.cells), NO_USAGE).rounded(),
            "held": {
                "generations": _sum_known(cell.held for cell in self.cells),
                **sum((cell.answered for cell in self.cells), NO_USAGE).rounded(),
            },
        }

    def exceeded_limits(self) -> list[str]:
        """Return the names of the budget's limits that the plan exceeds."""
        total = self.total
        # Both token counts are known, or neither is.
        tokens = (total["prompt_tokens"] or 0) + (total["completion_tokens"] or 0)
        needed = {**total, "tokens": tokens}
        return [
            name
            for name, (limit, spent) in self.budget.items()
            if limit is not None and spent + (needed[name] or 0) > limit
        ]

    def notes(self) -> list[str]:
        """Return the text below the plan's table: its words, the remarks and the budget."""
        budget = []
        for name, (limit, spent) in self.budget.items():
            unit, digits = ("$", 4) if name == "usd" else ("", 0)
            left = "no limit"
            if limit is not None:
                rest = max(limit - spent, 0)
                left = f"{unit}{rest:,.{digits}f} of {unit}{limit:,.{digits}f} left"
            budget.append(f"budget.{name}: {unit}{spent:,.{digits}f} spent, {left}")
        several = ["x2: two synthetic sets"] if any(cell.draws > 1 for cell in self.cells) else []
        return [
            *several,
            "held: rows already in the journals; the rest is still to come",
            "read, written: prompt and completion tokens; trials: over methods and classifiers",
            *([] if self.lacks_data else self._missing_remarks()),
            *self.remarks,
            *budget,
            *self._times(),
        ]

    def _missing_remarks(self) -> list[str]:
        return [f"unknown, because data is missing: {reason}" for reason in self.missing]

    def _times(self) -> list[str]:
        stages = {name: seconds for name, seconds in self.seconds.items() if seconds != 0}
        if not stages:
            return []
        texts = [
            f"{name} {'unknown' if seconds is None else duration(seconds)}"
            for name, seconds in stages.items()
        ]
        known = [seconds for seconds in stages.values() if seconds is not None]
        at_least = "at least " if len(known) < len(texts) else ""
        total = f"; {at_least}{duration(sum(known))} in all" if len(texts) > 1 and known else ""
        return [f"time on this machine, one trial at a time: {', '.join(texts)}{total}"]

    def as_json(self) -> dict[str, Any]:
        """Return the object of `plan --json`."""
        budget = {
            name: {
                "limit": limit,
                "spent": spent,
                "left": None if limit is None else max(limit - spent, 0),
            }
            for name, (limit, spent) in self.budget.items()
        }
        return {
            **self.total,
            "seconds": {
                name: value if value is None else round(value, 1)
                for name, value in self.seconds.items()
            },
            "budget": budget or None,
            "cells": [cell.as_json() for cell in self.cells],
            "remarks": [*self._missing_remarks(), *self.remarks],
            "prompt": next(iter(self.prompts.values()), None),
            "prompts": dict(self.prompts),
        }


def duration(seconds: float) -> str:
    """Return a duration as an estimate is shown: `8 s`, `12 min` or `3.5 h`."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


def _sum_known(values: Iterable[int | None]) -> int | None:
    numbers = list(values)
    return None if None in numbers else sum(number for number in numbers if number is not None)
