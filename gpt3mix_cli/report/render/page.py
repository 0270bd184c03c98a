"""report.html: one file with tables, plots and synthetic rows, which works from disk and offline.

Tables are Tabulator's, plots Observable Plot's; both are packaged (`scripts/build_page`). Texts
from data are either escaped as HTML, or are JSON that cannot end its script element and of which
the scripts make text nodes only. A policy in the head of the page lets the browser run our
scripts, known by their hashes, and nothing else.
"""

import base64
import functools
import hashlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from operator import attrgetter
from string import Template
from typing import Any

import numpy as np

from ... import __version__
from ...records import Augmented, Reject
from ..artifacts import Artifacts, Sample, SyntheticFile
from ..charts import Chart
from ..classes import ClassScores
from ..document import Report
from ..table import Table, TableCell

SCRIPTS = (
    "vendor/d3.min.js", "vendor/plot.umd.min.js", "vendor/tabulator.min.js", "page.js",
    "tables.js", "plots.js", "classes.js", "rows.js",
)  # fmt: skip
STYLES = ("vendor/tabulator_simple.min.css", "page.css")
SIGNIFICANT_DIGITS = 6  # of numbers on the screen
MAX_PRINTED_ROWS = 200  # of a table on paper; the screen has all
MAX_MATRIX_CELLS = 200_000  # of all confusion matrices that the page holds: 2 MB
# Shown as a picture or number: what moves a cursor, ends a line or changes the writing direction.
HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff]"
)
# What HTML would take for a tag, a comment or an entity, as JSON may write it.
HTML_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
# How JSON writes control characters; an escaped backslash is matched first, and kept.
JSON_ESCAPES = re.compile(r"\\\\|\\u00[01][0-9a-f]|\\[bfr]")


def html_page(report: Report) -> str:
    """Return report.html."""
    scripts = [_resource(name) for name in SCRIPTS]
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()) for script in scripts)
    hashes = " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    libraries = [
        f"{library['name']} {library['version']} ({library['licence']})"
        for library in json.loads(_resource("vendor/vendor.json"))
    ]
    sections = list(_sections(report))
    body = [
        f'<section id="{n}">\n<h2>{title}</h2>\n{text}\n</section>' for n, title, text in sections
    ]
    return Template(_resource("page.html")).substitute(
        policy=policy,
        version=__version__,
        title=escape(report.title),
        style="\n".join(map(_resource, STYLES)),
        contents=" ".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections),
        body="\n".join(body),
        libraries=f"{', '.join(libraries)}.",
        data=embed(_page_data(report)),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


@functools.cache
def _resource(name: str) -> str:
    text = (resources.files("gpt3mix_cli") / "resources" / "report" / name).read_text("utf-8")
    # A browser's developer tools would look for the map.
    return re.sub(r"\n(//|/\*)# sourceMappingURL=.*", "", text)


# Escaping ------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """Return a text in which control characters are visible: as ␛, or as ⟨U+202E⟩."""
    return HARMFUL.sub(lambda match: _picture(ord(match[0])), text)


def _picture(code: int) -> str:
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def escape(text: object) -> str:
    """Return a text as HTML that shows it."""
    return html.escape(visible(str(text)))


def embed(value: Any) -> str:
    """Return JSON that may be inside of a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    pictures = JSON_ESCAPES.sub(_escape_picture, text)
    return re.sub("[<>&]", lambda match: HTML_ESCAPES[match[0]], visible(pictures))


def _escape_picture(match: "re.Match[str]") -> str:
    escaped = match[0]
    return escaped if escaped == "\\\\" else _picture(ord(json.loads(f'"{escaped}"')))


# What needs no script ------------------------------------------------------------------------


def _sections(report: Report) -> Iterator[tuple[str, str, str]]:
    yield "summary", "Summary", _summary(report)
    yield "tables", "Tables", "\n".join(map(_table, report.tables))
    if report.charts:
        hint = "Point at a value to read it. PNG and SVG files of the plots are next to this page."
        yield (
            "plots",
            "Plots",
            f'<p class="caption no-print">{hint}</p>\n<div class="charts"></div>',
        )
    if report.classes:
        caption = (
            "Percent of the test rows of a true class (a row) that were given each class (a "
            "column), over all trials of a result; blue: right, orange: wrong. Precision, recall "
            "and F1 are in the table Classes."
        )
        screen = '<div class="screen"></div>'
        yield "confusion", "Confusion matrices", f'<p class="caption">{caption}</p>{screen}'
    if report.samples:
        caption = (
            "Synthetic rows below the real rows that they were generated from, with their soft "
            "labels."
        )
        samples = "\n".join(map(_sample, report.samples))
        yield "samples", "Samples", f'<p class="caption">{caption}</p>{samples}'
    if report.artifacts.kept or report.artifacts.rejected:
        yield "rows", "Synthetic rows", '<div class="screen"></div>'
    yield "settings", "Settings and versions", _settings(report)


def _summary(report: Report) -> str:
    trials = sum(result.n for result in report.results)
    failed = sum(result.failed for result in report.results)
    failures = f"; {failed:,} failed" if failed else ""
    sentences = [f"{trials:,} trials in {len(report.results):,} results{failures}.", *report.design]
    text = "".join(f'<p class="verdict">{escape(line)}</p>' for line in report.verdict)
    text += "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    for title, remarks in (
        ("Remarks", report.remarks),
        ("Contradictions in the paper", report.paper_remarks),
    ):
        if remarks:
            items = "".join(f"<li>{escape(remark)}</li>" for remark in remarks)
            text += f"<h3>{title}</h3><ul>{items}</ul>"
    return text


def _table(table: Table) -> str:
    first_footer = len(table.rows) - table.footer
    rows = [_row(row, table.numeric) for row in table.rows[:first_footer][:MAX_PRINTED_ROWS]]
    rows += [_row(row, table.numeric, "footer") for row in table.rows[first_footer:]]
    more = len(table.rows) - len(rows)
    rest = f"And {more:,} more rows, on the screen and in report.json." if more else ""
    note = f'<p class="caption">{rest}</p>' if rest else ""
    headings = list(zip(*table.headings, strict=True))
    return (
        f'<h3>{escape(table.title)}</h3>\n<p class="caption">{escape(table.notes)}</p>\n'
        f'<div class="screen" data-table="{escape(table.name)}"></div>\n'
        f'<div class="paper">{_plain_table(headings, rows, table.numeric)}{note}</div>'
    )


def _plain_table(
    headings: Iterable[Sequence[str]], rows: Iterable[str], numeric: Sequence[bool]
) -> str:
    heads = [_row(list(map(TableCell, heading)), numeric, tag="th") for heading in headings]
    return (
        f'<div class="scroll"><table class="plain"><thead>{"".join(heads)}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(row: Sequence[TableCell], numeric: Sequence[bool], kind: str = "", tag: str = "td") -> str:
    cells = []
    for cell, right in zip(row, numeric, strict=True):
        kinds = " ".join(["number"] * right + ["best"] * cell.best)
        cells.append(f"<{tag}{_class(kinds)}>{escape(cell.text)}</{tag}>")
    return f"<tr{_class(kind)}>{''.join(cells)}</tr>"


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def _sample(sample: Sample) -> str:
    row = sample.row
    probs = ", ".join(f"{escape(name)} {value:.0%}" for name, value in sample.labels)
    if sample.edited:  # it has the label of its parent, with certainty
        probs = escape(row.label)
    texts = [("", item.text, escape(item.label)) for item in sample.parents]
    items = "".join(
        f'<li{_class(kind)}><span class="text">{escape(text)}</span> <em>{label}</em></li>'
        for kind, text, label in (*texts, ("best", row.text, probs))
    )
    return f'<blockquote><p class="caption">{escape(sample.title)}</p><ul>{items}</ul></blockquote>'


def _settings(report: Report) -> str:
    names = ("method", "classifier", "settings", "version")
    with_trials = (result for result in report.results if result.scores)
    unique = list(dict.fromkeys(map(attrgetter(*names), with_trials)))
    rows = []
    for values in unique[:MAX_PRINTED_ROWS]:
        rows.append(_row([TableCell(value or "unknown") for value in values], [False] * len(names)))
    text = _plain_table([names], rows, [False] * len(names))
    if len(unique) > MAX_PRINTED_ROWS:
        text += f'<p class="caption">And {len(unique) - MAX_PRINTED_ROWS:,} more.</p>'
    for title, manifest in report.artifacts.manifests:
        shown = manifest.model_dump(include={"settings", "machine", "version", "command"})
        content = escape(json.dumps(shown, ensure_ascii=False, indent=1))
        summary = f"<summary>{escape(title)}: settings in full</summary>"
        text += f"<details>{summary}<pre>{content}</pre></details>"
    return text


# What the scripts show, as compact JSON ---------------------------------------------------------


def _page_data(report: Report) -> dict[str, Any]:
    return {
        "tables": [_table_data(table) for table in report.tables],
        "charts": [_chart_data(chart) for chart in report.charts],
        "styles": {name: list(style) for name, style in report.styles.items()},
        "confusion": _confusion_data(report.classes),
        "rows": _rows_data(report.artifacts),
    }


def _confusion_data(scores: Sequence[ClassScores]) -> dict[str, Any]:
    """Return the cells of each matrix that are not zero, as true class, given class, count."""
    names: dict[tuple[str, ...], int] = {}
    results: list[Any] = []
    cells = 0
    for item in scores:
        truth, given = item.confusion.nonzero()
        cells += len(truth)
        if cells > MAX_MATRIX_CELLS:
            break
        counts = np.column_stack([truth, given, item.confusion[truth, given]]).ravel()
        classes = names.setdefault(tuple(item.classes), len(names))
        results.append([item.result.title, classes, counts.tolist()])
    return {"names": list(names), "results": results, "left": len(scores) - len(results)}


def _table_data(table: Table) -> dict[str, Any]:
    return {
        "name": table.name, "headings": table.headings, "labels": table.labels,
        "footer": table.footer, "numeric": table.numeric,
        "rows": [list(map(_cell_data, row)) for row in table.rows],
    }  # fmt: skip


def _cell_data(cell: TableCell) -> str | list[Any]:
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
