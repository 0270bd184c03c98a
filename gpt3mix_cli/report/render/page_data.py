"""What the scripts of report.html show: tables, charts and synthetic rows, as compact JSON."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...records import Example
from ..artifacts import Artifacts, SyntheticFile
from ..charts import Chart
from ..document import Report
from ..table import Table, TableCell

SIGNIFICANT_DIGITS = 6


def page_data(report: Report) -> dict[str, Any]:
    """Return the data of the page."""
    return {
        "tables": [_table_data(table) for table in report.tables],
        "charts": [_chart_data(chart) for chart in report.charts],
        "styles": {name: list(style) for name, style in report.styles.items()},
        "rows": _rows_data(report.artifacts),
    }


def _table_data(table: Table) -> dict[str, Any]:
    rows = []
    for row in table.rows:
        rows.append([_cell_data(cell) for cell in row])
    return {
        "name": table.name, "headings": table.headings, "labels": table.labels,
        "footer": table.footer, "numeric": table.numeric, "rows": rows,
    }  # fmt: skip


def _cell_data(cell: TableCell) -> str | list[Any]:
    """Return a text, or [text, value], or [text, value, 1] of the best."""
    if cell.value is None and not cell.best:
        return cell.text
    return [cell.text, _rounded(cell.value), *([1] if cell.best else [])]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _chart_data(chart: Chart) -> dict[str, Any]:
    points = []
    for point in chart.points:
        numbers = [_rounded(value) for value in (point.value, point.low, point.high)]
        points.append([point.panel, point.series, point.at, *numbers, point.note])
    return {**vars(chart), "points": points}


def _rows_data(artifacts: Artifacts) -> dict[str, Any]:
    """Return the synthetic rows; files, classes and real rows are listed once, and numbered."""
    files: dict[SyntheticFile, int] = {}
    classes: dict[tuple[str, ...], int] = {}
    real: dict[tuple[str, str], int] = {}

    def parents(file: SyntheticFile, ids: Iterable[str]) -> list[int | str]:
        rows: Mapping[str, Example] = artifacts.real.get(file.path.parent, {})
        numbers: list[int | str] = []
        for name in ids:
            row = rows.get(name)
            numbers.append(real.setdefault((row.text, row.label), len(real)) if row else name)
        return numbers

    kept = []
    for file, row in artifacts.kept:
        kept.append([
            files.setdefault(file, len(files)), row.text, parents(file, row.parents),
            classes.setdefault(tuple(row.probs), len(classes)),
            [round(value, 4) for value in row.probs.values()], row.id, row.label_source,
            row.label_mass, row.perplexity,
        ])  # fmt: skip
    rejected = []
    for file, reject in artifacts.rejected:
        rejected.append([
            files.setdefault(file, len(files)), reject.text, parents(file, reject.parents),
            reject.reason, reject.detail,
        ])  # fmt: skip
    sources: list[Sequence[Any]] = [
        [file.task, file.variant, file.level, file.method, file.data_seed, file.draw]
        for file in files
    ]
    return {
        "sources": sources, "classes": list(classes), "real": list(real), "kept": kept,
        "rejected": rejected, "total": artifacts.total,
    }  # fmt: skip
