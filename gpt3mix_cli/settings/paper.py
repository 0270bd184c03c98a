"""Which of the paper's tables an experiment repeats, for `report --paper`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from .augment import AugmentSettings
from .base import Settings
from .lm import LMSettings
from .task import Task

# The columns of each table; those of Table 1 are methods, and Table 4 has texts.
PAPER_COLUMNS: Mapping[int, tuple[str, ...]] = {
    1: (),
    2: ("k=1", "k=2", "k=4", "k=8"),
    3: ("ada", "babbage", "curie", "davinci"),
    5: ("hard", "soft"),
    6: ("generic", "optimal"),
}


class PaperColumn(NamedTuple):
    """A column of one of the paper's tables.

    Attributes:
        table: number of the table.
        column: name of the column; empty in Table 1, whose columns are methods, and for settings
            that the table does not have.
    """

    table: int
    column: str


class PaperSettings(Settings):
    """The table of the paper that an experiment repeats; it changes no number."""

    table: Literal[1, 2, 3, 5, 6] = Field(description="number of the table")
    column: str | dict[str, Annotated[str, Field(min_length=1)]] = Field(
        "",
        description=(
            "its column that GPT3Mix's results are compared with. Table 3 needs it: which GPT-3 "
            "`lm.model` takes the place of (ada, babbage, curie, davinci), or a mapping of "
            "`lm.model` -> GPT-3. Default: the column of `augment.k` (Table 2), `augment.labels` "
            "(5) or the task specification (6)"
        ),
    )

    @model_validator(mode="after")
    def _check_column(self) -> "PaperSettings":
        known = PAPER_COLUMNS[self.table]
        names = [self.column] if isinstance(self.column, str) else [*self.column.values()]
        if self.table == 3 and not any(names):
            raise ValueError(
                f"column: Table 3 needs it: which of {', '.join(known)} the LM takes the place of"
            )
        if unknown := [name for name in names if name and name not in known]:
            has = f"its columns are {', '.join(known)}" if known else "its columns are methods"
            raise ValueError(f"column: Table {self.table} has no '{unknown[0]}'; {has}")
        return self

    def column_for(
        self, task: Task, lm: LMSettings | None, augment: AugmentSettings
    ) -> PaperColumn:
        """Return the column of the paper that GPT3Mix with these settings repeats.

        Raises:
            ValueError: if `column` is a mapping without the LM.
        """
        if isinstance(self.column, dict):
            model = lm.model if lm else ""
            # A local model in a folder has become an absolute path.
            same = [
                key for key in self.column if key == model or Path(key).name == Path(model).name
            ]
            if not same:
                raise ValueError(f"paper.column names no column for the LM '{model}'")
            return PaperColumn(self.table, self.column[same[0]])
        is_generic = (task.text_type, task.label_type) == ("text", "label")
        derived = {
            2: f"k={augment.k}",
            5: augment.labels,
            6: "generic" if is_generic else "optimal",
        }
        column = self.column or derived.get(self.table, "")
        return PaperColumn(self.table, column if column in PAPER_COLUMNS[self.table] else "")
