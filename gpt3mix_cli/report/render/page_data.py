"""What the scripts of report.html show: tables, charts and synthetic rows, as compact JSON."""

from typing import Any

from ...records import Augmented, Reject
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
    return {
        "name": table.name, "headings": table.headings, "labels": table.labels,
        "footer": table.footer, "numeric": table.numeric,
        "rows": [list(map(_cell_data, row)) for row in table.rows],
    }  # fmt: skip


def _cell_data(cell: TableCell) -> str | list[Any]:
    """Return a text, or [text, value], or [text, value, 1] of the best."""
    if cell.value is None and not cell.best:
        return cell.text
    return [cell.text, _rounded(cell.value), *([1] if cell.best else [])]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _chart_data(chart: Chart) -> dict[str, Any]:
    points = [
        [p.panel, p.series, p.at, *map(_rounded, (p.value, p.low, p.high)), p.note]
        for p in chart.points
    ]
    return {**vars(chart), "points": points}


def _rounded_probs(row: Augmented) -> list[float]:
    return [round(value, 4) for value in row.probs.values()]


def _rows_data(artifacts: Artifacts) -> dict[str, Any]:
    """Return the synthetic rows; files, classes and real rows are listed once, and numbered."""
    files: dict[SyntheticFile, int] = {}
    classes: dict[tuple[str, ...], int] = {}
    real: dict[tuple[str, str], int] = {}

    def common(file: SyntheticFile, row: Augmented | Reject) -> list[Any]:
        """Return the file, text and parents of a row; parents are numbers, or ids if unknown."""
        rows = artifacts.real.get(file.path.parent, {})
        parents = [
            real.setdefault((rows[name].text, rows[name].label), len(real))
            if name in rows
            else name
            for name in row.parents
        ]
        return [files.setdefault(file, len(files)), row.text, parents]

    kept = [
        [
            *common(file, row), classes.setdefault(tuple(row.probs), len(classes)),
            _rounded_probs(row), row.id, row.label_source,
            row.label_mass, row.perplexity,
        ]
        for file, row in artifacts.kept
    ]  # fmt: skip
    rejected = [[*common(file, row), row.reason, row.detail] for file, row in artifacts.rejected]
    return {
        "sources": [file[:-1] for file in files], "classes": list(classes), "real": list(real),
        "kept": kept, "rejected": rejected, "total": artifacts.total,
    }  # fmt: skip
