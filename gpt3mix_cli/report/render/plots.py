"""Charts -> PNG and SVG files, legible in print, at column width and to colour-blind readers.

The palette is Okabe and Ito's (2008), with grey for no augmentation and for real rows; markers and
dashes differ as well. The same report gives the same bytes.
"""

import io
import itertools
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ...errors import clip
from ..charts import Chart, Point, SeriesStyle

Styles = Mapping[str, SeriesStyle]
Series = Mapping[str, Sequence[Point]]
Share = Literal["all", "row"] | Literal[False]

PALETTE = ("#4d4d4d", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: Any = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
MAX_PANELS = 9  # of a plot; more would be too small to read
MAX_TALL_PANELS = 3
TALL_ROWS = 12  # rows of a panel from which it is tall
COLUMNS = 3
PANEL_INCHES = (2.9, 2.2)
ROW_INCHES = 0.22
DOT_ROW_INCHES = 0.14
MIN_WIDTH_INCHES = 4.6  # for the title of a single panel
MAX_NAME = 34  # characters
ROTATED_NAMES = 36  # characters of all names of an axis from which they are rotated
MAX_MARKERS = 12  # points of a line from which it has no markers
DPI = 200
ZERO_LINE: dict[str, Any] = {"color": "#888888", "linewidth": 0.8}
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 8,
    "lines.linewidth": 1.4, "lines.markersize": 4, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.5,
    "axes.axisbelow": True, "text.parse_math": False, "svg.hashsalt": "gpt3mix",
    "font.family": ["DejaVu Sans"],
}  # fmt: skip
# Without a time stamp and a version the same report gives the same bytes.
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": "gpt3mix"},
}


def plot_files(charts: Sequence[Chart], styles: Styles) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file."""
    for chart in charts:
        with matplotlib.rc_context(), warnings.catch_warnings():
            matplotlib.rcdefaults()  # a user's own style would change the bytes
            matplotlib.rcParams.update(STYLE)
            # Characters that the font lacks are drawn as boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure = _draw_chart(chart, styles)
            for form, metadata in METADATA.items():
                stream = io.BytesIO()
                figure.savefig(stream, format=form, dpi=DPI, metadata=metadata)
                yield f"{chart.name}.{form}", stream.getvalue()


def _draw_chart(chart: Chart, styles: Styles) -> Figure:

    is_interval = chart.kind in ("interval", "dots")
    tall = is_interval and _count_rows(chart, chart.panels) > TALL_ROWS
    panels = chart.panels[: MAX_TALL_PANELS if tall else MAX_PANELS]
    across = min(COLUMNS, len(panels))
    down = math.ceil(len(panels) / across)
    row_height = DOT_ROW_INCHES if chart.kind == "dots" else ROW_INCHES
    rows_height = row_height * _count_rows(chart, panels) + 0.8 if is_interval else 0
    height = max(PANEL_INCHES[1], rows_height)
    size = (max(MIN_WIDTH_INCHES, across * PANEL_INCHES[0]), down * height + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    # Panels are compared, so they have equal axes; names of rows belong to one line of panels.
    is_named = any(isinstance(point.at, str) for point in chart.points)
    shared_x: Share = "all" if is_interval or not is_named else False
    shared_y: Share = "row" if is_interval else "all"
    grid = figure.subplots(down, across, squeeze=False, sharex=shared_x, sharey=shared_y)
    for index, axes in enumerate(grid.flat):
        if index >= len(panels):
            axes.set_visible(False)
            continue
        points = [point for point in chart.points if point.panel == panels[index]]
        _draw_panel(axes, chart, points, styles)
        if panels[index]:
            axes.set_title(shorten(panels[index]), loc="left")
        axes.set_xlabel(chart.value if is_interval else chart.at)
        if index % across == 0 and not is_interval:
            axes.set_ylabel(chart.value)
    _add_titles(figure, chart, panels, styles)
    figure.draw_without_rendering()
    # Both files use the layout that was computed; "none" would draw once more before each of them.
    figure.set_layout_engine(None)
    return figure


def _add_titles(figure: Figure, chart: Chart, panels: Sequence[str], styles: Styles) -> None:
    names = list(dict.fromkeys(point.series for point in chart.points if point.panel in panels))
    handles = [_legend_handle(chart, styles[name]) for name in names]
    # matplotlib leaves out names that begin with an underscore.
    labels = [shorten(name) if name[:1] != "_" else f"\u200a{shorten(name)}" for name in names]
    columns = min(4, len(names))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    title, total = chart.title, len(chart.panels)
    if total > len(panels):
        title += f" (the first {len(panels)} of {total} panels; report.html has all)"
    figure.suptitle(title, fontsize=9)


def _count_rows(chart: Chart, panels: Sequence[str]) -> int:
    # Dots of all series are in one row.
    is_dots = chart.kind == "dots"
    rows = {(point.panel, point.at, "" if is_dots else point.series) for point in chart.points}
    counts = Counter(panel for panel, _, _ in rows)
    return max(counts[panel] for panel in panels)


def shorten(text: str) -> str:
    """Return a name that fits, on one line and printable."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return clip(plain, MAX_NAME)


def _legend_handle(chart: Chart, style: SeriesStyle) -> Any:

    colour = PALETTE[style.colour]
    if chart.kind == "bars":
        return Patch(color=colour)
    line: Any = DASHES[style.marker] if chart.kind in ("line", "steps") else "none"
    marker = "none" if chart.kind == "steps" else MARKERS[style.marker]
    return Line2D([], [], color=colour, linestyle=line, marker=marker)


# A panel of each kind ------------------------------------------------------------------------


def _draw_panel(axes: Axes, chart: Chart, points: Sequence[Point], styles: Styles) -> None:
    series: dict[str, list[Point]] = {}
    for point in points:
        series.setdefault(point.series, []).append(point)
    if chart.zero and chart.kind != "interval":
        axes.axhline(0, **ZERO_LINE)
    match chart.kind:
        case "interval" | "dots":
            _draw_intervals(axes, series, styles, spread=chart.kind == "interval")
            if chart.zero:
                axes.axvline(0, **ZERO_LINE)
        case "bars":
            _draw_bars(axes, series, styles)
        case _:
            is_named = any(isinstance(point.at, str) for point in points)
            names = _names(points) if is_named else []
            for name, of_series in series.items():
                _draw_line(axes, chart, of_series, styles[name], names)
            if names:
                _name_ticks(axes, names)
                axes.set_xlim(-0.3, len(names) - 0.7)


def _draw_line(
    axes: Axes, chart: Chart, points: Sequence[Point], style: SeriesStyle, names: Sequence[str]
) -> None:
    x = [names.index(str(point.at)) if names else float(point.at) for point in points]
    y = [point.value for point in points]
    colour, dashes = PALETTE[style.colour], DASHES[style.marker]
    if chart.kind == "scatter":
        axes.plot(x, y, MARKERS[style.marker], color=colour, alpha=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        return
    if chart.kind == "steps":
        axes.step(x, y, where="mid", color=colour, linestyle=dashes)
        axes.set_ylim(bottom=0)
        return
    marker = MARKERS[style.marker] if len(x) <= MAX_MARKERS else "none"
    axes.plot(x, y, color=colour, linestyle=dashes, marker=marker)
    low = [point.value if point.low is None else point.low for point in points]
    high = [point.value if point.high is None else point.high for point in points]
    axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)


def _draw_intervals(axes: Axes, series: Series, styles: Styles, spread: bool) -> None:
    names = _names(itertools.chain(*series.values()))
    for index, (name, points) in enumerate(series.items()):
        style = styles[name]
        colour = PALETTE[style.colour]
        offset = _offset(index, len(series)) if spread else 0.0
        y = [names.index(str(point.at)) + offset for point in points]
        for position, point in zip(y, points, strict=True):
            if point.low is not None and point.high is not None:
                ends = [point.low, point.high]
                axes.plot(ends, [position, position], color=colour, linewidth=1.2)
        axes.plot([point.value for point in points], y, MARKERS[style.marker], color=colour)
    axes.set_yticks(range(len(names)), [shorten(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=not spread, axis="y")
    if not spread:  # these are fractions
        axes.set_xlim(left=0)


def _draw_bars(axes: Axes, series: Series, styles: Styles) -> None:
    names = _names(itertools.chain(*series.values()))
    for index, (name, points) in enumerate(series.items()):
        offset = _offset(index, len(series))
        x = [names.index(str(point.at)) + offset for point in points]
        axes.bar(
            x, [point.value for point in points], 0.8 / len(series),
            color=PALETTE[styles[name].colour], edgecolor="white", linewidth=0.4,
        )  # fmt: skip
    _name_ticks(axes, names)
    axes.grid(visible=False, axis="x")


def _names(points: Iterable[Point]) -> list[str]:
    return list(dict.fromkeys(str(point.at) for point in points))


def _offset(index: int, count: int) -> float:
    return 0.8 / count * (index - (count - 1) / 2)


def _name_ticks(axes: Axes, names: Sequence[str]) -> None:
    rotation = 30 if sum(map(len, names)) > ROTATED_NAMES else 0
    axes.set_xticks(range(len(names)), [shorten(name) for name in names], rotation=rotation)
