"""table.csv and diff.csv."""

import re
from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from ..document import Report
from ..model import Result

# `seconds` would make the file another one in each run.
NOT_IN_CSV = {"ci", "swept", "seconds", "test_sha", "version", "seed_means", "scores"}
RESULT_COLUMNS = [item.name for item in fields(Result) if item.name not in NOT_IN_CSV]
DERIVED_COLUMNS = ["ci_low", "ci_high", "gain_per_usd", "gain_per_1k_tokens"]
SIGNED_NUMBER = re.compile(r"[+-][0-9]+(\.[0-9]+)?")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def results_csv(report: Report) -> str:
    """Return table.csv: one row a result, all values as fractions."""
    rows = []
    for result in report.results:
        values = [getattr(result, name) for name in RESULT_COLUMNS]
        derived = [*(result.ci or (None, None)), result.gain_per_usd, result.gain_per_1k_tokens]
        rows.append([*values, *derived])
    return _csv(rows, [*RESULT_COLUMNS, *DERIVED_COLUMNS])


def diff_csv(report: Report) -> str:
    """Return diff.csv: the table as it is shown."""
    (table,) = report.tables
    rows = [list(map(attrgetter("text"), row)) for row in table.rows]
    return _csv(rows, table.titles)


def _csv(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> str:
    import pandas as pd

    header = [str(_as_plain(name)) for name in columns]
    data = pd.DataFrame(rows, dtype=object).map(_as_plain)
    return str(data.to_csv(header=header, index=False, lineterminator="\n"))


def _as_plain(value: Any) -> Any:
    """Return a value of which no spreadsheet makes a formula; numbers have six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    is_risky = isinstance(value, str) and value.startswith(FORMULA_STARTS)
    return f"'{value}" if is_risky and not SIGNED_NUMBER.fullmatch(value) else value
