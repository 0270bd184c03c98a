"""What programs read: table.csv, report.json, diff.csv, diff.json, and the output of `--json`."""

import json
import re
from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import pandas as pd

from ..artifacts import Sample
from ..diff import Difference
from ..document import Report
from ..model import Result

NOT_IN_JSON = {"swept", "paper", "test_sha", "version", "seed_means", "scores"}
# `seconds` would make the file another one in each run.
NOT_IN_CSV = NOT_IN_JSON | {"ci", "seconds"}
RATES = ["gain_per_usd", "gain_per_1k_tokens"]
KEYS = [item.name for item in fields(Result) if item.name not in NOT_IN_JSON] + RATES
COLUMNS = [name for name in KEYS if name not in {*NOT_IN_CSV, *RATES}]
SIGNED_NUMBER = re.compile(r"[+-][0-9]+(\.[0-9]+)?")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
SIGNIFICANT_DIGITS = 9  # of a number in JSON; the last bits of a float are noise


def results_csv(report: Report) -> str:
    """Return table.csv: one row a result, all values as fractions."""
    values, rates = attrgetter(*COLUMNS), attrgetter(*RATES)
    rows = [(*values(item), *(item.ci or (None, None)), *rates(item)) for item in report.results]
    return _csv(rows, [*COLUMNS, "ci_low", "ci_high", *RATES])


def diff_csv(report: Report) -> str:
    """Return diff.csv: the table as it is shown."""
    (table,) = report.tables
    return _csv([[cell.text for cell in row] for row in table.rows], table.titles)


def _csv(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> str:

    data = pd.DataFrame(rows, dtype=object).map(_as_plain)
    return str(data.to_csv(header=[*map(_as_plain, columns)], index=False, lineterminator="\n"))


def _as_plain(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    is_risky = isinstance(value, str) and value.startswith(FORMULA_STARTS)
    return f"'{value}" if is_risky and not SIGNED_NUMBER.fullmatch(value) else value


def report_json(report: Report) -> str:
    """Return report.json; values are fractions."""
    text = _dumps({
        "title": report.title,
        **summary(report),
        "pooled": _records(report.pooled),
        "averages": _records(report.averages),
        "failures": _records(report.failures),
        "samples": list(map(_sample_object, report.samples)),
        "paper": _records(report.paper),
        "paper_remarks": report.paper_remarks,
        "design": report.design,
        "remarks": report.remarks,
    })  # fmt: skip
    # One line a result: a matrix of 77 classes would take 6,000.
    classes = (json.dumps(_rounded(item), ensure_ascii=False) for item in class_objects(report))
    lines = ",\n  ".join(classes)
    return f'{text[:-3]},\n "classes": [\n  {lines}\n ]\n}}\n'


def class_objects(report: Report) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of each class of each result, and the confusion matrix."""
    return [
        {
            **{name: getattr(item.result, name) for name in ("task", "level", "classifier")},
            "method": item.result.column,
            "variant": dict(item.result.swept),
            "trials": item.trials,
            "classes": item.classes,
            **{
                name: getattr(item, name).tolist()
                for name in ("support", "precision", "recall", "f1", "confusion")
            },
        }
        for item in report.classes
    ]


def diff_json(report: Report) -> str:
    """Return diff.json; values are fractions."""
    return _dumps({**summary(report), "remarks": report.remarks})


def summary(report: Report) -> dict[str, Any]:
    """Return what `--json` prints of a report."""
    if report.differences:
        return {"differences": list(map(_difference_object, report.differences))}
    return {
        "verdict": {"overall": report.verdict, "rows": list(map(vars, report.verdicts))},
        "cells": list(map(_result_object, report.results)),
        "comparisons": _records(report.comparisons),
    }


def _records(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    return [] if table is None else [{**row} for row in table.to_dict("records")]


def _result_object(result: Result) -> dict[str, Any]:
    return {**{name: getattr(result, name) for name in KEYS}, "variant": dict(result.swept)}


def _sample_object(sample: Sample) -> dict[str, Any]:
    file, row = sample.file, sample.row
    return {
        "task": file.task, "variant": file.variant, "level": file.level,
        "data_seed": file.data_seed, "method": file.method, "id": row.id, "text": row.text,
        "label": row.label, "probs": row.probs, "edited": sample.edited,
        "parents": [(parent.text, parent.label) for parent in sample.parents],
    }  # fmt: skip


def _difference_object(item: Difference) -> dict[str, Any]:
    names = {name: getattr(item.result, name) for name in ("task", "level", "classifier", "method")}
    results = {"a": item.a and _result_object(item.a), "b": item.b and _result_object(item.b)}
    return {**names, **vars(item), **results}


def _dumps(value: Any) -> str:
    return json.dumps(_rounded(value), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value
