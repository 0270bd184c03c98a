"""Cells -> tables in no form yet: the main one (Table 1's shape), classes that are uneven, tests, intervals, costs.

Figures are in percent with one decimal; the best mean of a line, classifier by classifier, is marked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UserError, did_you_mean
from .load_trials import value_name, variant_name
from .model import CellRow, Comparison, Pooled, Report, Table, TableCell

KEYS = ("task", "variant", "level", "classifier", "method")


@dataclass(frozen=True)
class Layout:
    """Which keys make the lines of the main table and which its columns; every key stands in one of them."""

    rows: tuple[str, ...] = ("task", "variant", "level", "classifier")
    columns: tuple[str, ...] = ("method",)


SHOWN = Layout()
PRINTED = Layout(
    ("task", "variant", "level"), ("classifier", "method")
)  # Table 1: a block of columns a classifier
ACCURACY = "Test accuracy in percent: mean ± sample standard deviation over trials (number of trials); the best mean of a line is bold."
Line = tuple[str, ...]


def layout_of(
    rows: str | None, columns: str | None, cells: Sequence[CellRow], default: Layout
) -> Layout:
    """Return which keys make lines and which columns; a key that is named in neither joins the lines.

    Args:
        rows: keys with commas between them: task, level, classifier, method, variant, or a swept key.
        columns: likewise.
        cells: whose swept keys may be named.
        default: where neither is given.

    Raises:
        UserError: for an unknown key, or one that stands twice.
    """
    if not rows and not columns:
        return default
    swept = sorted({key for cell in cells for key in cell.swept})
    named = [
        [key.strip() for key in (text or "").split(",") if key.strip()] for text in (rows, columns)
    ]
    for flag, keys in zip(("--rows", "--columns"), named, strict=True):
        for key in keys:
            if key not in (*KEYS, *swept):
                known = ", ".join((*KEYS, *swept))
                raise UserError(
                    f"{flag}: there is no key '{key}'{did_you_mean(key, (*KEYS, *swept))}",
                    f"choose among {known}",
                )
    both = [*named[0], *named[1]]
    if twice := [key for key in both if both.count(key) > 1]:
        raise UserError(f"--rows and --columns: '{twice[0]}' stands twice", "name each key once")
    rest = [key for key in KEYS if key not in both]
    if not columns:
        # Of a long list of lines methods beside each other are what a reader compares.
        across = [key for key in rest if key == "method"] or rest
        return Layout((*named[0], *(key for key in rest if key not in across)), tuple(across))
    return Layout((*named[0], *rest), tuple(named[1]))


def key_of(cell: CellRow, key: str, taken: Sequence[str] = ()) -> str:
    """Return what a cell has for a key; swept keys that are `taken` are left out of the variant."""
    if key == "method":
        return cell.column
    if key == "variant":
        return (
            variant_name({name: value for name, value in cell.swept.items() if name not in taken})
            if taken
            else cell.variant
        )
    return (
        str(getattr(cell, key))
        if key in KEYS
        else value_name(cell.swept[key])
        if key in cell.swept
        else ""
    )


def main_sheet(cells: Sequence[CellRow], layout: Layout) -> Table:
    """Return the table of accuracies."""
    return _sheet("accuracy", "Accuracy", cells, layout, figure, ACCURACY)


def printed_sheet(cells: Sequence[CellRow], layout: Layout) -> Table:
    """Return the same for print, where the deviation is a subscript and the number of trials stands below."""
    counts = sorted({cell.n for cell in cells if cell.n})
    trials = (
        str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "no"
    )
    caption = f"Test accuracy in percent, mean and sample standard deviation over {trials} trials; the best mean of a line is bold."
    return replace(main_sheet(cells, layout), caption=caption)


def uneven_sheet(cells: Sequence[CellRow], layout: Layout) -> Table | None:
    """Return macro-F1 and Matthews' correlation where classes are uneven; nothing where none are."""
    chosen = [cell for cell in cells if cell.uneven]
    if not chosen:
        return None
    caption = "Means over trials; a classifier that knows only the most frequent class reaches the majority's accuracy and an MCC of 0."
    return _sheet(
        "uneven",
        "Where classes are uneven: macro-F1 in percent, and Matthews' correlation (MCC)",
        chosen,
        layout,
        _uneven,
        caption,
    )


def _uneven(cell: CellRow) -> TableCell:
    if cell.macro_f1 is None or cell.mcc is None:
        return figure(cell) if cell.mean is None else TableCell("-")
    return TableCell(f"{percent(cell.macro_f1)}, MCC {cell.mcc:.3f}", value=100 * cell.macro_f1)


def _sheet(
    name: str,
    title: str,
    cells: Sequence[CellRow],
    layout: Layout,
    show: Callable[[CellRow], TableCell],
    caption: str,
) -> Table:
    taken = [key for key in (*layout.rows, *layout.columns) if key not in KEYS]
    # A key that says nothing takes no room.
    rows = [
        key
        for key in layout.rows
        if key != "variant" or any(key_of(cell, key, taken) for cell in cells)
    ]
    columns = [
        key
        for key in layout.columns
        if key != "variant" or any(key_of(cell, key, taken) for cell in cells)
    ]

    def column(cell: CellRow) -> Line:
        return tuple(key_of(cell, key, taken) for key in columns)

    return table_of(name, title, cells, tuple(rows), column, show, caption, taken)


def table_of(
    name: str, title: str, cells: Sequence[CellRow], rows: Sequence[str], column: Callable[[CellRow], Line],
    show: Callable[[CellRow], TableCell], caption: str, taken: Sequence[str] = (),
) -> Table:  # fmt: skip
    """Return a table with a line for each combination of `rows`; averages over the tasks stand below."""
    lines: dict[Line, dict[Line, CellRow]] = {}
    for cell in cells:
        line = tuple(key_of(cell, key, taken) for key in rows)
        lines.setdefault(line, {}).setdefault(column(cell), cell)
    # Without a config files come in the order of their names; what all is compared with stands first in its block.
    columns = list(dict.fromkeys(column(cell) for cell in cells))
    if columns and len(columns[0]) == 1:
        columns.sort(key=lambda heading: heading != ("none",))
    else:
        blocks = list(dict.fromkeys(heading[:-1] for heading in columns))
        columns.sort(key=lambda heading: (blocks.index(heading[:-1]), heading[-1] != "none"))
    body = [
        [*map(TableCell, line), _majority(found.values()), *_entries(found, columns, show)]
        for line, found in lines.items()
    ]
    foot = _averages(lines, rows, columns) if show is figure else []
    depth = max((len(heading) for heading in columns), default=1)
    stubs = [(*[""] * (depth - 1), key) for key in (*rows, "majority")]
    return Table(name, title, [*stubs, *columns], len(stubs), [*body, *foot], len(foot), caption)


def _entries(
    found: Mapping[Line, CellRow], columns: Sequence[Line], show: Callable[[CellRow], TableCell]
) -> list[TableCell]:
    """Return the entries of a line, the best of each task, level and classifier marked if there are several."""
    shown = {heading: show(cell) for heading, cell in found.items()}
    rivals: dict[Line, list[Line]] = {}
    for heading, cell in found.items():
        if shown[heading].value is not None:
            rivals.setdefault((cell.task, cell.level, cell.classifier), []).append(heading)
    best: set[Line] = set()
    for headings in rivals.values():
        values = {heading: f"{shown[heading].value:.1f}" for heading in headings}
        highest = max(map(float, values.values()))
        best |= {
            heading
            for heading, value in values.items()
            if float(value) == highest and len(headings) > 1
        }
    nothing = TableCell("-")
    return [_marked(shown.get(heading, nothing), heading in best) for heading in columns]


def _marked(entry: TableCell, best: bool) -> TableCell:
    return TableCell(entry.text, best, entry.value, entry.spread, entry.note)


def _majority(cells: Any) -> TableCell:
    shares = sorted({round(cell.majority, 6) for cell in cells if cell.majority is not None})
    if not shares:
        return TableCell("")
    text = (
        percent(shares[0]) if len(shares) == 1 else f"{percent(shares[0])} to {percent(shares[-1])}"
    )
    return TableCell(text, value=100 * shares[0])


def _averages(
    lines: Mapping[Line, Mapping[Line, CellRow]], rows: Sequence[str], columns: Sequence[Line]
) -> list[list[TableCell]]:
    """Return a line for each level (and whatever else sets lines apart) with the means over the tasks; each task counts once."""
    if "task" not in rows or len({line[rows.index("task")] for line in lines}) < 2:
        return []
    place = rows.index("task")
    blocks: dict[Line, list[Mapping[Line, CellRow]]] = {}
    for line, found in lines.items():
        blocks.setdefault((*line[:place], "average", *line[place + 1 :]), []).append(found)
    foot = []
    for line, parts in blocks.items():
        if len(parts) < 2:
            continue
        shares = [
            part[0].majority
            for found in parts
            if (part := [*found.values()]) and part[0].majority is not None
        ]
        majority = (
            TableCell(percent(sum(shares) / len(shares)), value=100 * sum(shares) / len(shares))
            if len(shares) == len(parts)
            else TableCell("")
        )
        entries = {}
        for heading in columns:
            means = [
                cell.mean
                for found in parts
                if (cell := found.get(heading)) and cell.mean is not None
            ]
            if means:
                short = f"{len(means)}/{len(parts)} tasks" if len(means) < len(parts) else ""
                value = 100 * sum(means) / len(means)
                entries[heading] = TableCell(
                    f"{value:.1f}" + (f" ({short})" if short else ""), value=value, note=short
                )
        whole: dict[Line, list[Line]] = {}
        for heading, entry in entries.items():
            if not entry.note:  # the others are over other tasks
                whole.setdefault(heading[:-1], []).append(heading)
        best = set()
        for headings in whole.values():
            highest = max(round(entries[heading].value or 0, 1) for heading in headings)
            best |= {
                heading
                for heading in headings
                if round(entries[heading].value or 0, 1) == highest and len(headings) > 1
            }
        foot.append(
            [
                *map(TableCell, line),
                majority,
                *(
                    _marked(entries.get(heading, TableCell("-")), heading in best)
                    for heading in columns
                ),
            ]
        )
    return foot


def percent(value: float | None) -> str:
    """Return a fraction in percent with one decimal."""
    return "" if value is None else f"{100 * value:.1f}"


def figure(cell: CellRow) -> TableCell:
    """Return `mean ± std (n)`; of a cell that is short of trials `(n/expected)`, of an empty one what became of it."""
    asked = f"/{cell.expected}" if cell.expected and cell.n < cell.expected else ""
    if cell.mean is None:
        if cell.failed:
            return TableCell(
                f"failed ({cell.failed}{asked if cell.failed < (cell.expected or 0) else ''})"
            )
        return TableCell(f"- (0{asked})" if asked else "-")
    spread = f" ± {percent(cell.std)}" if cell.std is not None else ""
    note = f"{cell.n}{asked}"
    return TableCell(
        f"{percent(cell.mean)}{spread} ({note})",
        False,
        100 * cell.mean,
        None if cell.std is None else 100 * cell.std,
        note,
    )


# Tests, intervals, costs ---------------------------------------------------------------------------------------------


def listed(
    name: str, title: str, items: Sequence[Mapping[str, TableCell]], stubs: int, caption: str
) -> Table | None:
    """Return a table of one line an item, without columns that are empty."""
    if not items:
        return None
    names = [key for key in items[0] if any(item[key].text for item in items)]
    stubs -= sum(1 for key in list(items[0])[:stubs] if key not in names)
    return Table(
        name,
        title,
        [(key,) for key in names],
        stubs,
        [[item[key] for key in names] for item in items],
        0,
        caption,
        across=False,
    )


def points(value: float | None) -> TableCell:
    """Return a difference in percentage points with its sign."""
    return TableCell("") if value is None else TableCell(f"{100 * value:+.1f}", value=100 * value)


def p_value(value: float | None) -> TableCell:
    """Return a p-value with four decimals."""
    return (
        TableCell("")
        if value is None
        else TableCell(f"{value:.4f}" if value >= 0.0001 else "< 0.0001", value=value)
    )


def _starred(each: Comparison | Pooled) -> TableCell:
    return TableCell(p_value(each.p_corrected).text + each.stars, value=each.p_corrected)


def _interval(value: tuple[float, float] | None) -> TableCell:
    return (
        TableCell("")
        if value is None
        else TableCell(f"[{100 * value[0]:.1f}, {100 * value[1]:.1f}]", value=100 * value[0])
    )


def pooled_sheet(pooled: Sequence[Pooled]) -> Table | None:
    """Return the comparisons over all tasks and levels."""
    items = [
        {
            "classifier": TableCell(each.classifier), "variant": TableCell(each.variant), "a": TableCell(each.a), "b": TableCell(each.b),
            "difference": points(each.diff),
            "of single tasks": TableCell(f"{100 * each.least:+.1f} to {100 * each.most:+.1f}" if each.tasks > 1 else ""),
            "win/tie/loss": TableCell(f"{each.wins}/{each.ties}/{each.losses}"), "tasks": _count(each.tasks),
            "units": _count(each.units), "p": p_value(each.p), "corrected p": _starred(each), "smallest p": p_value(each.smallest_p),
        }
        for each in pooled
    ]  # fmt: skip
    caption = (
        "Mean difference a - b over all lines that both have, in points; lines won, tied (alike as shown) and lost; p of a permutation "
        "stratified by task, two-sided: the signs of a data seed flip together on all levels of its task, because these share rows. A unit is "
        "a (task, data seed). Corrected by Holm's method for the comparisons of this table; smallest p is what so many units can reach. "
        "The test asks whether the two differ on these tasks at all, not whether they would on others, nor whether it matters: a small difference "
        "that is alike everywhere has a small p, a larger one has none where it is a gain on one task and a loss on another."
    )
    return listed("pooled", "Methods over all tasks and levels", items, 4, caption)


def comparisons_sheet(comparisons: Sequence[Comparison]) -> Table | None:
    """Return the comparisons within each line."""
    items = [
        {
            "task": TableCell(each.task), "variant": TableCell(each.variant), "level": TableCell(each.level), "classifier": TableCell(each.classifier),
            "a": TableCell(each.a), "b": TableCell(each.b), "difference": points(each.diff), "95 % interval": _interval(each.ci),
            "pairs": _count(each.n_pairs), "p": p_value(each.p), "Wilcoxon p": p_value(each.p_wilcoxon),
            "corrected p": _starred(each), "smallest p": p_value(each.smallest_p),
        }
        for each in comparisons
    ]  # fmt: skip
    pairs = sorted({each.n_pairs for each in comparisons})
    least = p_value(comparisons_smallest(comparisons)).text
    few = (
        f" With {pairs[0]} pairs no p below {least} can be reached."
        if pairs and 1 < pairs[0] < 6
        else ""
    )
    caption = (
        "Mean difference a - b in points, paired by data seed: the trials of a data seed share its rows, so they are averaged first. p: "
        "two-sided paired permutation (sign flips); beside it Wilcoxon's signed-rank test. Corrected by Holm's method for the "
        f"{sum(each.p is not None for each in comparisons)} comparisons of this table.{few} Stars (* 0.05, ** 0.01, *** 0.001, of the corrected p) "
        "stand from six pairs on. Intervals: bootstrap over data seeds, expanded for their small number."
    )
    return listed("comparisons", "Comparisons", items, 6, caption)


def comparisons_smallest(comparisons: Sequence[Comparison]) -> float | None:
    """Return the least p that the comparison with the fewest pairs can reach."""
    found = [each.smallest_p for each in comparisons if each.smallest_p is not None]
    return max(found, default=None)


def _count(value: int) -> TableCell:
    return TableCell(str(value), value=value)


def spread_sheet(cells: Sequence[CellRow]) -> Table | None:
    """Return the interval of each mean and where its deviation comes from."""

    def points_of(value: float | None) -> TableCell:
        return TableCell(percent(value), value=None if value is None else 100 * value)

    items = [
        {
            "task": TableCell(cell.task), "variant": TableCell(cell.variant), "level": TableCell(cell.level), "classifier": TableCell(cell.classifier),
            "method": TableCell(cell.column), "mean": points_of(cell.mean), "95 % interval": _interval(cell.ci), "trials": _count(cell.n),
            "data seeds": _count(cell.data_seeds), "deviation": points_of(cell.std), "between seeds": points_of(cell.between),
            "within a seed": points_of(cell.within),
        }
        for cell in cells
        if cell.n
    ]  # fmt: skip
    few = sorted({cell.data_seeds for cell in cells if 1 < cell.data_seeds < 5})
    short = (
        f" Of {few[0]} data seeds it is at most their range and holds the true mean in less than {1 - 2.0 ** (1 - few[0]):.0%}."
        if few
        else ""
    )
    caption = (
        f"Interval: bootstrap over data seeds, expanded for their small number.{short} The deviation over trials is made of a part between data "
        "seeds (another subsample) and a part within them (another training seed and synthetic set), told apart where a data seed has several trials."
    )
    return listed("spread", "Intervals, and where the deviation comes from", items, 5, caption)


def cost_sheet(cells: Sequence[CellRow]) -> Table | None:
    """Return what synthetic sets cost and gain; nothing where no cost is known."""
    prompted = any(cell.tokens_per_prediction for cell in cells)
    items = [
        {
            "task": TableCell(cell.task), "variant": TableCell(cell.variant), "level": TableCell(cell.level), "classifier": TableCell(cell.classifier),
            "method": TableCell(cell.column), "gain": points(cell.gain), "tokens": _number(cell.tokens, ",.0f"), "USD": _number(cell.usd, ".4g"),
            "gain per USD": points(cell.gain_per_usd),
            "gain per 1,000 tokens": _rate(cell.gain_per_1k_tokens),
            **({"tokens a prediction": _number(cell.tokens_per_prediction, ",.0f")} if prompted else {}),
        }
        for cell in cells
        if cell.n and (cell.tokens or cell.usd)
    ]  # fmt: skip
    caption = "Gain over no augmentation in points; tokens and dollars of one synthetic set (mean over the sets of a cell)."
    caption += (
        " A classifier that prompts makes none: its tokens are those of a trial's predictions."
        if prompted
        else ""
    )
    return listed("cost", "What a gain costs", items, 5, caption)


def _number(value: float | None, style: str) -> TableCell:
    return TableCell("") if value is None else TableCell(format(value, style), value=value)


def _rate(value: float | None) -> TableCell:
    return TableCell("") if value is None else TableCell(f"{100 * value:+.3f}", value=100 * value)


def failures_sheet(report: Report) -> Table | None:
    """Return the trials that came to nothing, with their reasons."""
    items = [
        {
            "task": TableCell(each.task), "variant": TableCell(each.variant), "level": TableCell(each.level), "classifier": TableCell(each.classifier),
            "method": TableCell(each.method), "data seed": _count(each.data_seed), "trial": _count(each.trial), "reason": TableCell(each.error),
        }
        for each in report.failures
    ]  # fmt: skip
    return listed("failures", "Trials that failed", items, 5, "They are left out of every figure.")
