"""Settings of the subsamples: levels, seeds, validation and test rows."""

import re
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from ..errors import shown_value
from .base import Seed, Settings, StrictFloat

MAX_SEEDS = 10_000
MAX_LEVELS = 1_000
MAX_ROWS = 10**12
LEVEL_PATTERN = re.compile(
    r"(?P<percent>[0-9]{1,20}(\.[0-9]{1,20})?|\.[0-9]{1,20})%|(?P<count>[0-9]{1,20})/class|full"
)


def parse_level(value: Any) -> str:
    """Return a level as it is written.

    Raises:
        ValueError: if it is not a level.
    """
    text = str(value)
    match = LEVEL_PATTERN.fullmatch(text)
    if not match:
        raise ValueError(f"{shown_value(text)} is not a level; write `0.1%`, `8/class` or `full`")
    if match["percent"] and not 0 < Fraction(match["percent"]) <= 100:
        raise ValueError(f"'{text}' is not above 0 % and at most 100 %")
    if match["count"] and int(match["count"]) < 1:
        raise ValueError(f"'{text}': at least one row per class is needed")
    return text


def _parse_num_rows(value: Any) -> Any:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if is_int and 0 < value <= MAX_ROWS:
        return value
    if isinstance(value, str) and re.fullmatch(r"full|[1-9][0-9]{0,11}/class", value):
        return value
    raise ValueError(
        f"{shown_value(str(value))} is not `full`, a number of rows such as 200, or `n/class` "
        "such as `16/class`"
    )


def _parse_seeds(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError("at least one seed is needed")
        if value > MAX_SEEDS:
            raise ValueError(f"at most {MAX_SEEDS:,} seeds are possible, got {shown_value(value)}")
        return list(range(value))
    return value


Level = Annotated[str, BeforeValidator(parse_level)]


class SubsampleSettings(Settings):
    """The data-scarce draws of section 4.1."""

    levels: list[Level] = Field(
        min_length=1, max_length=MAX_LEVELS, description="`p%` of train, `n/class`, or `full`"
    )
    seeds: Annotated[list[Seed], BeforeValidator(_parse_seeds)] = Field(
        [0, 1, 2, 3, 4],
        min_length=1,
        max_length=MAX_SEEDS,
        description=(
            "data seeds: a count n for 0 to n-1, or a list; with task.data.folds by default one "
            "for each fold"
        ),
    )
    master_seed: Seed = Field(42, description="seed that all random generators are derived from")
    validation: Annotated[int | str, BeforeValidator(_parse_num_rows)] = Field(
        "full", description="rows used for early stopping"
    )
    test: Annotated[int | str, BeforeValidator(_parse_num_rows)] = Field(
        "full",
        description=(
            "test rows that the trials are scored on; fewer make a quick try, which the report says"
        ),
    )
    decontaminate: Literal["warn", "drop"] = Field(
        "warn",
        description=(
            "exact and near copies (similarity from 0.8, as in augment.filter.max_similarity): "
            "training rows that copy validation or test rows, validation rows that copy test rows, "
            "and synthetic rows that copy either. warn: count them; drop: leave them out"
        ),
    )
    validation_fraction: StrictFloat = Field(
        0.2,
        gt=0,
        le=0.5,
        description=(
            "without a validation split: the most that is taken of each class of train (of all "
            "classes together at most 4,000 rows)"
        ),
    )

    @cached_property
    def seed_positions(self) -> dict[int, int]:
        """Data seed -> its position in `seeds`: there may be thousands."""
        return {seed: position for position, seed in enumerate(self.seeds)}

    @field_validator("levels", "seeds")
    @classmethod
    def _check_unique(cls, value: list[Any]) -> list[Any]:
        if len(set(value)) < len(value):
            raise ValueError("duplicate entry")
        return value
