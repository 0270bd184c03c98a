"""The tables of a sweep: the variants of a method beside each other, as in the paper's Tables 2, 3, 5 and 6."""

import itertools
from collections.abc import Iterator, Mapping, Sequence, Set

from .averages import Group
from .comparisons import shared_variants
from .load_trials import value_name
from .model import CellRow, Table
from .tables import ACCURACY, Line, figure, table_of

SHORT = 48  # letters of a swept value in a heading


def ablation_sheets(groups: Sequence[Group]) -> list[Table]:
    """Return a table for each method that a sweep changes: variants beside each other, as in Tables 2, 3, 5 and 6."""
    shared = shared_variants(groups)
    swept = [group.cell for group in groups if group.cell.swept]
    if len({cell.variant for cell in swept}) < 2:
        return []

    def whole(cell: CellRow) -> Line:
        return cell.task, cell.classifier, cell.column

    constant = {whole(groups[place].cell) for place in shared} - {
        whole(cell) for cell in _varied(groups)
    }
    changed = [cell for cell in swept if whole(cell) not in constant]
    once = [
        cell for cell in (groups[place].cell for place in sorted(shared)) if whole(cell) in constant
    ]
    keys = list(dict.fromkeys(key for cell in swept for key in cell.swept))
    found = []
    for method in dict.fromkeys(cell.column for cell in changed):
        chosen = [cell for cell in changed if cell.column == method]
        beside = [
            cell
            for cell in once
            if any(
                (cell.task, cell.level, cell.classifier) == (c.task, c.level, c.classifier)
                for c in chosen
            )
        ]
        caption = f"{ACCURACY} Columns: {'what the sweep leaves as it is, then ' if beside else ''}the values of {', '.join(keys)}."

        names = _names(chosen, {cell.column for cell in beside})

        def column(cell: CellRow, method: str = method, names: Mapping[str, str] = names) -> Line:
            return (cell.column if cell.column != method else names[cell.variant],)

        title = f"{method} by {', '.join(keys)}"
        lines = ("task", "level", "classifier")
        found.append(
            table_of(
                f"ablation-{method}", title, [*beside, *chosen], lines, column, figure, caption
            )
        )
    return found


def _varied(groups: Sequence[Group]) -> Iterator[CellRow]:
    """Yield cells of which a trial came out otherwise in another variant: on some level all may be equal by chance, as where they know one class."""
    seen: dict[tuple[object, ...], float | None] = {}
    for group in groups:
        cell = group.cell
        place = cell.task, cell.level, cell.classifier, cell.column
        if any(
            seen.setdefault((*place, row.data_seed, row.trial), row.accuracy) != row.accuracy
            for row in group.rows
        ):
            yield cell


def _names(cells: Sequence[CellRow], taken: Set[str]) -> dict[str, str]:
    """Return the heading of each variant; those that would be alike, or are a method's name, get a number."""
    found: dict[str, str] = {}
    for cell in cells:
        if cell.variant not in found:
            name, used = _value(cell), {*taken, *found.values()}
            found[cell.variant] = next(
                each
                for number in itertools.count(1)
                if (each := f"{name} ({number})" if number > 1 else name) not in used
            )
    return found


def _value(cell: CellRow) -> str:
    """Return the swept values without their keys where there is but one."""
    text = value_name(next(iter(cell.swept.values()))) if len(cell.swept) == 1 else cell.variant
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"
