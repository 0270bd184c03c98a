"""The form report.html: one file with tables, plots and a browser of synthetic rows, which opens from disk and asks no network.

Tables are Tabulator's, plots Observable Plot's; both are packaged (`scripts/build_page`). Texts from data reach the page in two ways:
escaped, as HTML, or as JSON that cannot end its script element, of which the script makes text nodes only. A policy in the page's
head lets the browser run our scripts, known by their hashes, and nothing else.
"""

import base64
import functools
import hashlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from ... import __version__
from ...records import Example
from ..artifacts import Artifacts, Source
from ..charts import Chart, SeriesStyle
from ..model import Report, Table, TableCell

SCRIPTS = (
    "vendor/d3.min.js",
    "vendor/plot.umd.min.js",
    "vendor/tabulator.min.js",
    "page.js",
    "tables.js",
    "plots.js",
    "rows.js",
)
STYLES = ("vendor/tabulator_simple.min.css", "page.css")
PRINTED = 200  # lines of a table on paper; on the screen all can be scrolled through
# Shown by their sign or number, as the text that they are: what moves a cursor, ends a line or turns the direction of writing.
HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
# What HTML would take for a tag, a comment or an entity, as JSON writes it otherwise.
HTML_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
# How JSON writes control characters; a backslash that is itself escaped is matched first, and left as it is.
JSON_ESCAPES = re.compile(r"\\\\|\\u00[01][0-9a-f]|\\[bfr]")


def html_text(report: Report) -> str:
    """Return report.html."""
    scripts = [_resource(name) for name in SCRIPTS]
    sections = [*_sections(report)]
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return Template(_resource("page.html")).substitute(
        policy=f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'",
        version=__version__,
        title=plain(report.title),
        style="\n".join(map(_resource, STYLES)),
        contents=" ".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections),
        body="\n".join(
            f'<section id="{name}">\n<h2>{title}</h2>\n{text}\n</section>'
            for name, title, text in sections
        ),
        libraries=", ".join(
            f"{each['name']} {each['version']} ({each['licence']})"
            for each in json.loads(_resource("vendor/vendor.json"))
        )
        + ".",
        data=embedded(page_data(report)),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


@functools.cache
def _resource(name: str) -> str:
    text = (resources.files("gpt3mix_cli") / "resources" / "report" / name).read_text("utf-8")
    # A browser's tools would look for the map.
    return re.sub(r"\n(//|/\*)# sourceMappingURL=.*", "", text)


def visible(text: str) -> str:
    """Return a text in which control characters show: by their sign (␛), others by their number (⟨U+202E⟩)."""
    return HARMFUL.sub(lambda found: _sign_of(ord(found[0])), text)


def _sign_of(code: int) -> str:
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def plain(text: object) -> str:
    """Return a text as HTML that says just that."""
    return html.escape(visible(str(text)))


def embedded(value: Any) -> str:
    """Return JSON that may stand in a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    signs = JSON_ESCAPES.sub(
        lambda found: (
            found[0] if found[0] == 2 * "\\" else _sign_of(ord(json.loads(f'"{found[0]}"')))
        ),
        text,
    )
    return re.sub("[<>&]", lambda found: HTML_ESCAPES[found[0]], visible(signs))


# What needs no script ------------------------------------------------------------------------------------------------


def _sections(report: Report) -> Iterator[tuple[str, str, str]]:
    """Yield (anchor, title, HTML) of each section."""
    yield "summary", "Summary", _summary(report)
    yield "tables", "Tables", "\n".join(map(_sheet, report.sheets))
    if report.charts:
        hint = "Point at a figure to see its value. The same plots stand beside this page as PNG and SVG."
        yield (
            "plots",
            "Plots",
            f'<p class="caption no-print">{hint}</p>\n<div class="charts"></div>',
        )
    if report.samples:
        caption = (
            "Synthetic rows below the real ones that they were made from, with their soft labels."
        )
        yield (
            "samples",
            "Samples",
            f'<p class="caption">{caption}</p>' + "\n".join(map(_sample, report.samples)),
        )
    if report.beside and (report.beside.kept or report.beside.rejected):
        yield "rows", "Synthetic rows", '<div class="screen"></div>'
    yield "settings", "Settings and versions", _settings(report)


def _summary(report: Report) -> str:
    trials = sum(cell.n for cell in report.cells)
    failed = sum(cell.failed for cell in report.cells)
    said = [
        f"{trials:,} trials in {len(report.cells):,} cells"
        + (f"; {failed:,} failed" if failed else "")
        + ".",
        *report.design,
    ]
    text = "".join(f"<p>{plain(line)}</p>" for line in said)
    for title, remarks in (
        ("Remarks", report.remarks),
        ("What the paper prints against itself", report.paper_remarks),
    ):
        if remarks:
            text += f"<h3>{title}</h3><ul>{''.join(f'<li>{plain(remark)}</li>' for remark in remarks)}</ul>"
    return text


def _sheet(sheet: Table) -> str:
    depth = max(len(heading) for heading in sheet.headings)
    parts = [(*[""] * (depth - len(heading)), *heading) for heading in sheet.headings]
    right = [numeric(sheet, place) for place in range(len(parts))]
    body = len(sheet.rows) - sheet.foot
    lines = [_line(row, right) for row in sheet.rows[:body][:PRINTED]] + [
        _line(row, right, "foot") for row in sheet.rows[body:]
    ]
    more = len(sheet.rows) - len(lines)
    rest = (
        f'<p class="caption">And {more:,} more lines, on the screen and in report.json.</p>'
        if more
        else ""
    )
    return (
        f'<h3>{plain(sheet.title)}</h3>\n<p class="caption">{plain(sheet.caption)}</p>\n<div class="screen" data-sheet="{plain(sheet.name)}"></div>\n'
        f'<div class="paper">{_table([[part[level] for part in parts] for level in range(depth)], lines, right)}{rest}</div>'
    )


def _table(headings: Iterable[Sequence[str]], lines: Iterable[str], right: Sequence[bool]) -> str:
    rows = (
        "".join(
            f'<th class="number">{plain(name)}</th>' if to_the_right else f"<th>{plain(name)}</th>"
            for name, to_the_right in zip(heading, right, strict=True)
        )
        for heading in headings
    )
    head, body = "</tr><tr>".join(rows), "</tr>".join(lines)
    return f'<div class="scroll"><table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tr></tbody></table></div>'


def _line(row: Sequence[TableCell], right: Sequence[bool], kind: str = "") -> str:
    """Return a line of a table but for its end."""
    cells = [_cell(entry, to_the_right) for entry, to_the_right in zip(row, right, strict=True)]
    return f'<tr class="{kind}">{"".join(cells)}' if kind else f"<tr>{''.join(cells)}"


def numeric(sheet: Table, place: int) -> bool:
    """Return whether a column holds figures."""
    return any(row[place].value is not None for row in sheet.rows) or (
        sheet.across and place >= sheet.stubs
    )


def _cell(entry: TableCell, right: bool) -> str:
    kinds = " ".join(name for name, is_so in (("number", right), ("best", entry.best)) if is_so)
    return (
        f'<td class="{kinds}">{plain(entry.text)}</td>'
        if kinds
        else f"<td>{plain(entry.text)}</td>"
    )


def _sample(sample: Any) -> str:
    where = f"{sample.task} {sample.level}, {sample.method}{', ' + sample.variant if sample.variant else ''}, data seed {sample.data_seed}"
    parents = "".join(
        f'<li><span class="text">{plain(text)}</span> <em>{plain(label)}</em></li>'
        for text, label in sample.parents
    )
    shares = ", ".join(f"{plain(name)} {share:.0%}" for name, share in sample.probs.items())
    made = f'<li class="best"><span class="text">{plain(sample.text)}</span> <em>{shares}</em></li>'
    return f'<blockquote><p class="caption">{plain(where)}</p><ul>{parents}{made}</ul></blockquote>'


def _settings(report: Report) -> str:
    """Return which settings and versions made which cells, and the settings in full where their manifests were kept."""
    found = list(
        dict.fromkeys(
            (row.method, row.classifier, row.settings, row.version) for row in report.trials
        )
    )
    lines = [
        _line([TableCell(value or "unknown") for value in key], [False] * len(key))
        for key in found[:PRINTED]
    ]
    text = _table([("method", "classifier", "settings", "version")], lines, [False] * 4)
    if len(found) > PRINTED:
        text += f'<p class="caption">And {len(found) - PRINTED:,} more.</p>'
    for row, manifest in report.beside.manifests if report.beside else ():
        title = f"{row.task} {row.level}, {row.method} + {row.classifier}{', ' + row.variant if row.variant else ''}"
        shown = {
            "settings": manifest.settings,
            "machine": manifest.machine,
            "version": manifest.version,
            "command": manifest.command,
        }
        whole = plain(json.dumps(shown, ensure_ascii=False, indent=1))
        text += f"<details><summary>{plain(title)}: settings in full</summary><pre>{whole}</pre></details>"
    return text


# What the script makes of it -----------------------------------------------------------------------------------------


def page_data(report: Report) -> dict[str, Any]:
    """Return what the script shows: tables, plots and synthetic rows, as compact as they are clear."""
    return {
        "sheets": [_sheet_data(sheet) for sheet in report.sheets],
        "charts": [_chart_data(chart) for chart in report.charts],
        "looks": _looks_data(report.looks),
        "rows": _rows_data(report.beside) if report.beside else None,
    }


def _sheet_data(sheet: Table) -> dict[str, Any]:
    return {
        "name": sheet.name, "headings": sheet.headings, "stubs": sheet.stubs, "foot": sheet.foot,
        "numeric": [numeric(sheet, place) for place in range(len(sheet.headings))],
        "rows": [[_entry_data(entry) for entry in row] for row in sheet.rows],
    }  # fmt: skip


def _entry_data(entry: TableCell) -> str | list[Any]:
    """Return a text, or [text, value, 1 if it is the best]."""
    if entry.value is None and not entry.best:
        return entry.text
    return (
        [entry.text, _rounded(entry.value), 1]
        if entry.best
        else [entry.text, _rounded(entry.value)]
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _chart_data(chart: Chart) -> dict[str, Any]:
    points = [
        [
            point.panel,
            point.series,
            point.at,
            _rounded(point.value),
            _rounded(point.low),
            _rounded(point.high),
            point.note,
        ]
        for point in chart.points
    ]
    return {
        **{
            name: getattr(chart, name)
            for name in ("name", "title", "kind", "at", "value", "caption", "zero")
        },
        "points": points,
    }


def _looks_data(looks: Mapping[str, SeriesStyle]) -> dict[str, list[int]]:
    return {name: [look.colour, look.marker] for name, look in looks.items()}


def _rows_data(found: Artifacts) -> dict[str, Any]:
    """Return the synthetic rows: real rows, classes and sources stand once and are named by their numbers."""
    sources: dict[Path, int] = {}
    named: list[list[Any]] = []
    classes: dict[tuple[str, ...], int] = {}
    real: dict[tuple[str, str], int] = {}

    def number(source: Source) -> int:
        if source.path not in sources:
            sources[source.path] = len(named)
            named.append(
                [
                    source.task,
                    source.variant,
                    source.level,
                    source.method,
                    source.data_seed,
                    source.draw,
                ]
            )
        return sources[source.path]

    def parents(source: Source, ids: Iterable[str]) -> list[int | str]:
        rows: Mapping[str, Example] = found.real.get(source.path.parent, {})
        return [
            real.setdefault((rows[name].text, rows[name].label), len(real))
            if name in rows
            else name
            for name in ids
        ]

    kept = [
        [
            number(source), row.text, parents(source, row.parents), classes.setdefault(tuple(row.probs), len(classes)),
            [round(value, 4) for value in row.probs.values()], row.id, row.label_source, row.label_mass, row.perplexity,
        ]
        for source, row in found.kept
    ]  # fmt: skip
    rejected = [
        [number(source), row.text, parents(source, row.parents), row.reason, row.detail]
        for source, row in found.rejected
    ]
    lists: dict[str, Sequence[Any]] = {
        "sources": named,
        "classes": list(classes),
        "real": list(real),
        "kept": kept,
        "rejected": rejected,
    }
    return {**lists, "found": found.found}
