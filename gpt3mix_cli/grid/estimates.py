"""What a plan comes to: requests, tokens and dollars of each cell, their sums, and what the budget makes of them."""

import functools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .spot import Spot


@dataclass(frozen=True)
class Amount:
    """What is asked, or was; None where it cannot be known.

    Attributes:
        requests: of a local LM the lines that it writes and the prompts whose label it scores.
        usd: None too where the price is unknown.
    """

    requests: float | None = 0
    prompt_tokens: float | None = 0
    completion_tokens: float | None = 0
    usd: float | None = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        """Return both together; what one of them does not know is unknown."""
        return Amount(
            *(
                None if a is None or b is None else a + b
                for a, b in zip(vars(self).values(), vars(other).values(), strict=True)
            )
        )

    def rounded(self) -> dict[str, Any]:
        """Return it in whole tokens and hundredths of a cent."""
        return {
            name: None if one is None else round(one, 4) if name == "usd" else round(one)
            for name, one in vars(self).items()
        }


UNKNOWN = Amount(None, None, None, None)


@dataclass(frozen=True)
class Line:
    """A cell of the plan.

    Attributes:
        spot: the cell.
        trainings: trials over methods and classifiers.
        real: real rows; None without data, as are all figures below.
        generations: rows that the LM is to write, over all methods and draws.
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
            **sum_of(line.ask for line in self.lines).rounded(),
            "held": {
                "generations": _whole(line.held for line in self.lines),
                **sum_of(line.had for line in self.lines).rounded(),
            },
        }

    def over(self) -> list[str]:
        """Return which limits of the budget the plan passes."""
        total = self.total
        needed = {**total, "tokens": _whole([total["prompt_tokens"], total["completion_tokens"]])}
        return [
            name
            for name, (limit, spent) in self.budget.items()
            if limit is not None and spent + (needed[name] or 0) > limit
        ]

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
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
            "budget": budget or None,
            "cells": [_cell(line) for line in self.lines],
            "remarks": self.remarks,
            "prompt": self.prompt,
        }


def _cell(line: Line) -> dict[str, Any]:
    spot = line.spot
    return {
        "variant": spot.experiment.variant, "level": spot.level, "seed": spot.seed, "draws": len(spot.draws()) if spot.experiment.lm else 0,
        "trainings": line.trainings, "real": line.real, "generations": line.generations, **line.ask.rounded(),
        "held": {"generations": line.held, **line.had.rounded()},
    }  # fmt: skip


def sum_of(amounts: Iterable[Amount]) -> Amount:
    """Return all amounts together."""
    return functools.reduce(operator.add, amounts, Amount())


def _whole(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
