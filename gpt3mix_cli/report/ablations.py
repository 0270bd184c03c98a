"""The tables of a sweep: variants in columns, as in Tables 2, 3, 5 and 6 of the paper."""

import itertools
from collections.abc import Sequence, Set

from ..layout import value_name
from .accuracy import NOTES, Pivot, pivot_results, score_cell
from .comparisons import shared_results
from .model import Result
from .table import Table

MAX_HEADING = 48  # characters of a swept value


def ablation_tables(results: Sequence[Result]) -> list[Table]:
    """Return a table for each method that a sweep changes."""
    swept = [result for result in results if result.swept]
    if len({result.variant for result in swept}) < 2:
        return []
    shared = shared_results(results)
    constant = {_method_of(result) for result in shared} - _varied_methods(results)
    changed = [result for result in swept if _method_of(result) not in constant]
    unchanged = [result for result in shared if _method_of(result) in constant]
    keys = ", ".join(dict.fromkeys(key for result in swept for key in result.swept))
    tables = []
    for method in dict.fromkeys(result.column for result in changed):
        chosen = [result for result in changed if result.column == method]
        rows = {_row_of(result) for result in chosen}
        baselines = [result for result in unchanged if _row_of(result) in rows]
        tables.append(_ablation_table(method, keys, chosen, baselines))
    return tables


def _ablation_table(
    method: str, keys: str, chosen: Sequence[Result], baselines: Sequence[Result]
) -> Table:
    headings = _variant_headings(chosen, {result.column for result in baselines})

    def column_of(result: Result) -> tuple[str, ...]:
        return (result.column if result.column != method else headings[result.variant],)

    first = "what the sweep does not change, then " if baselines else ""
    notes = f"{NOTES} Columns: {first}the values of {keys}."
    pivot = Pivot(f"ablation-{method}", f"{method} by {keys}", notes, score_cell)
    labels = ("task", "level", "classifier")
    return pivot_results(pivot, [*baselines, *chosen], labels, _row_of, column_of)


def _row_of(result: Result) -> tuple[str, ...]:
    return result.task, result.level, result.classifier


def _method_of(result: Result) -> tuple[str, str, str]:
    return result.task, result.classifier, result.column


def _varied_methods(results: Sequence[Result]) -> set[tuple[str, str, str]]:
    """Return the methods of which some trial differs between variants.

    On a single level all variants may be equal by chance, if all trials predict one class.
    """
    first: dict[tuple[object, ...], float | None] = {}
    varied = set()
    for result in results:
        for trial, accuracy in result.scores.items():
            key = (*_row_of(result), result.column, *trial)
            if first.setdefault(key, accuracy) != accuracy:
                varied.add(_method_of(result))
    return varied


def _variant_headings(results: Sequence[Result], taken: Set[str]) -> dict[str, str]:
    """Return the heading of each variant; a number is added where two would be equal."""
    headings: dict[str, str] = {}
    used = {*taken}
    for result in results:
        if result.variant in headings:
            continue
        name = heading = _heading(result)
        for number in itertools.count(2):
            if heading not in used:
                break
            heading = f"{name} ({number})"
        headings[result.variant] = heading
        used.add(heading)
    return headings


def _heading(result: Result) -> str:
    """Return the swept values; without its key if there is one."""
    single = len(result.swept) == 1
    text = value_name(next(iter(result.swept.values()))) if single else result.variant
    return text if len(text) <= MAX_HEADING else f"{text[: MAX_HEADING - 1]}…"
