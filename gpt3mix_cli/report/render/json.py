"""report.json and diff.json, and what `--json` prints."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from ..diff import Difference
from ..document import Report
from ..model import Comparison, Result

SIGNIFICANT_DIGITS = 9  # the last bits of a float are noise
NOT_IN_JSON = {"swept", "test_sha", "version", "seed_means", "scores"}
RESULT_KEYS = [item.name for item in fields(Result) if item.name not in NOT_IN_JSON]


def report_json(report: Report) -> str:
    """Return report.json; values are fractions."""
    return _dumps({
        "title": report.title,
        "cells": [_result_object(result) for result in report.results],
        "comparisons": [_comparison_object(item) for item in report.comparisons],
        "pooled": [{**vars(item), "stars": item.stars} for item in report.pooled],
        "averages": [vars(item) for item in report.averages],
        "failures": [vars(item) for item in report.failures],
        "samples": [asdict(item) for item in report.samples],
        "paper": [{**vars(row), "difference": row.difference} for row in report.paper],
        "paper_remarks": report.paper_remarks,
        "design": report.design,
        "remarks": report.remarks,
    })  # fmt: skip


def diff_json(report: Report) -> str:
    """Return diff.json; values are fractions."""
    differences = _difference_objects(report.differences)
    return _dumps({"differences": differences, "remarks": report.remarks})


def summary(report: Report) -> dict[str, Any]:
    """Return what `--json` prints of a report."""
    if report.differences:
        return {"differences": _difference_objects(report.differences)}
    return {
        "cells": [_result_object(result) for result in report.results],
        "comparisons": [_comparison_object(item) for item in report.comparisons],
    }


def _result_object(result: Result) -> dict[str, Any]:
    """Return a result, its variant as an object."""
    values = {name: getattr(result, name) for name in RESULT_KEYS}
    rates = {"gain_per_usd": result.gain_per_usd, "gain_per_1k_tokens": result.gain_per_1k_tokens}
    return {**values, "variant": dict(result.swept), **rates}


def _comparison_object(comparison: Comparison) -> dict[str, Any]:
    return {**vars(comparison), "stars": comparison.stars}


def _difference_objects(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    objects = []
    for item in differences:
        names = {
            name: getattr(item.result, name) for name in ("task", "level", "classifier", "method")
        }
        results = {"a": item.a and _result_object(item.a), "b": item.b and _result_object(item.b)}
        objects.append({**names, **vars(item), **results})
    return objects


def _dumps(value: Any) -> str:
    return json.dumps(_rounded(value), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value
