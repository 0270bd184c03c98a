"""What changed between two runs, cell by cell: `gpt3mix report --diff A B`.

A test is made only where both runs drew the same rows for a data seed and scored the same test rows; elsewhere the two
means stand beside each other and nothing more is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .averages import KEY, Group
from .model import Report, Table, TableCell
from .render.text import csv_lines, difference_objects, escaped, json_lines, markdown_table
from .statistics import holm, intervals, permutation_p, smallest_p
from .tables import figure, listed, p_value, points


@dataclass(frozen=True)
class Difference:
    """A cell in both runs, or in one of them.

    Attributes:
        a: the cell of the first run.
        b: that of the second one.
        n_pairs: data seeds with the same rows in both.
        diff: b - a; over these data seeds, or of the means where there are none.
        ci: 95 % interval of a paired difference.
        p: two-sided, of the paired permutation.
        p_corrected: after Holm's correction over all cells.
        note: what is not the same.
    """

    a: Group | None
    b: Group | None
    n_pairs: int = 0
    diff: float | None = None
    ci: tuple[float, float] | None = None
    p: float | None = None
    p_corrected: float | None = None
    note: str = ""


def differences(a: Sequence[Group], b: Sequence[Group]) -> list[Difference]:
    """Return the cells of both runs, those of the first in its order, then those that only the second has."""
    ours, theirs = _by_key(a), _by_key(b)
    found = [_difference(group, theirs.pop(key, None)) for key, group in ours.items()]
    found += [_difference(None, group) for group in theirs.values()]
    corrected = iter(holm([each.p for each in found if each.p is not None]))
    return [
        each if each.p is None else Difference(**{**vars(each), "p_corrected": next(corrected)})
        for each in found
    ]


def _by_key(groups: Sequence[Group]) -> dict[tuple[str | None, ...], Group]:
    # Of a cell that is told apart within one run each part is known by what sets it apart.
    return {(*KEY(group.cell), group.cell.split_by): group for group in groups}


def _difference(a: Group | None, b: Group | None) -> Difference:
    if a is None or b is None:
        return Difference(a, b, note="only in the second" if a is None else "only in the first")
    if a.cell.mean is None or b.cell.mean is None:
        return Difference(
            a,
            b,
            note="without a trial in "
            + (
                "both"
                if a.cell.mean is b.cell.mean
                else "the first"
                if a.cell.mean is None
                else "the second"
            ),
        )
    notes = _unlike(a, b)
    seeds = [seed for seed in a.units if seed in b.units] if a.tested_on == b.tested_on else []
    if len(seeds) < len(a.units):
        notes.append("other subsamples" if not seeds else "some other subsamples")
    if not seeds:
        return Difference(a, b, diff=b.cell.mean - a.cell.mean, note=", ".join(notes))
    values = [b.units[seed] - a.units[seed] for seed in seeds]
    if not any(values) and a.cell.n == b.cell.n:
        notes.append("equal")
    ci, p = None, None
    if len(seeds) > 1:
        low, high = intervals([values])[0].tolist()
        ci, p = (low, high), float(permutation_p([values])[0])
    return Difference(a, b, len(seeds), sum(values) / len(values), ci, p, None, ", ".join(notes))


def _unlike(a: Group, b: Group) -> list[str]:
    """Return in what two cells of the same names differ."""
    notes = []
    if a.cell.settings != b.cell.settings:
        notes.append(
            f"settings {(a.cell.settings or 'unknown')[:6]}, {(b.cell.settings or 'unknown')[:6]}"
        )
    if a.tested_on != b.tested_on:
        notes.append("other test rows")
    versions = [sorted({row.version or "unknown" for row in group.rows}) for group in (a, b)]
    if versions[0] != versions[1]:
        notes.append(f"versions {' and '.join(versions[0])}, {' and '.join(versions[1])}")
    return notes


def sheet(lines: Sequence[Difference], a: str, b: str) -> Table:
    """Return the differences as a table."""
    items = []
    for each in lines:
        cell = (each.a or each.b).cell  # type: ignore[union-attr]  # one of them is there
        items.append(
            {
                **{
                    name: TableCell(getattr(cell, name))
                    for name in ("task", "variant", "level", "classifier")
                },
                "method": TableCell(cell.column),
                **{
                    name: figure(group.cell) if group else TableCell("-")
                    for name, group in ((a, each.a), (b, each.b))
                },
                "difference": points(each.diff),
                "95 % interval": TableCell("")
                if each.ci is None
                else TableCell(f"[{100 * each.ci[0]:+.1f}, {100 * each.ci[1]:+.1f}]"),
                "pairs": TableCell(str(each.n_pairs or "")),
                **{
                    name: p_value(value)
                    for name, value in (("p", each.p), ("corrected p", each.p_corrected))
                },
                "remark": TableCell(each.note),
            }
        )
    least = max(
        (smallest_p(each.n_pairs) or 0 for each in lines if each.p is not None), default=None
    )
    caption = (
        f"Test accuracy in percent and the difference {b} - {a} in points, paired by data seed where both runs drew the same rows. p: two-sided "
        f"permutation, corrected by Holm's method for all cells.{f' The smallest p that all can reach is {least:.4f}.' if least else ''}"
    )
    found = listed("diff", f"{a} and {b}", items, 5, caption)
    assert found, "a run without a cell is an error"
    return found


def remarks(lines: Sequence[Difference], a: str, b: str) -> list[str]:
    """Return how many cells are equal, changed, or in one run only."""
    both = [each for each in lines if each.diff is not None]
    equal = sum("equal" in each.note.split(", ") for each in both)
    said = [f"{len(both)} cells are in both runs; {equal} are equal to the last digit"]
    for name, one in (
        (a, [each for each in lines if each.b is None]),
        (b, [each for each in lines if each.a is None]),
    ):
        if one:
            said.append(f"{len(one)} cells are in {name} only")
    if others := sum("settings" in each.note for each in both):
        said.append(
            f"{others} cells ran under other settings: their difference is not that of chance alone"
        )
    return said


def forms(report: Report) -> dict[str, str]:
    """Return the files of a comparison of two runs."""
    (table,) = report.sheets
    said = [f"- {escaped(line)}" for line in report.remarks]
    page = [
        f"# {escaped(report.title)}",
        "",
        escaped(table.caption),
        "",
        markdown_table(table),
        "",
        *said,
    ]
    found = {"differences": difference_objects(report.differences), "remarks": report.remarks}
    return {
        "diff.md": "\n".join(page) + "\n",
        "diff.csv": csv_lines(
            [
                [heading[-1] for heading in table.headings],
                *([entry.text for entry in row] for row in table.rows),
            ]
        ),
        "diff.json": json_lines(found),
    }
