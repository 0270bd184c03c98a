"""Charts -> PNG and SVG for papers and slides: legible in print, at column width and to the colour-blind.

The palette is Okabe and Ito's (2008) with grey for no augmentation and for real rows; markers and dashes differ as well. The same
report gives the same bytes.
"""

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..charts import Chart, Point, SeriesStyle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = ("#4d4d4d", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: Any = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
PANELS = 9  # of a plot; more would be too small to read
HIGH = 12  # lines of a panel from which three panels are all that a page holds
PANEL = (2.9, 2.2)  # inches
NARROWEST = 4.6  # inches: room for the titles of a lone panel
LONGEST = 34  # letters of a name
DPI = 200
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 8, "lines.linewidth": 1.4, "lines.markersize": 4,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.5,
    "axes.axisbelow": True, "text.parse_math": False, "svg.hashsalt": "gpt3mix", "font.family": ["DejaVu Sans"],
}  # fmt: skip
# No time stamp and no version, so that the same report gives the same bytes.
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": "gpt3mix"},
}


def plot_files(
    charts: Sequence[Chart], looks: Mapping[str, SeriesStyle]
) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file: a PNG and an SVG a chart."""
    import matplotlib

    for chart in charts:
        # A name in a script that the font lacks is shown as boxes; that is no reason for a warning a letter.
        with matplotlib.rc_context(), warnings.catch_warnings():
            matplotlib.rcdefaults()  # a reader's own style would change the bytes
            matplotlib.rcParams.update(STYLE)
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            yield from _files(chart, looks)


def _files(chart: Chart, looks: Mapping[str, SeriesStyle]) -> Iterator[tuple[str, bytes]]:
    from matplotlib.figure import Figure

    most = 3 if chart.kind == "interval" and _lines(chart, chart.panels) > HIGH else PANELS
    panels = chart.panels[:most]
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    height = (
        max(PANEL[1], 0.22 * _lines(chart, panels) + 0.8) if chart.kind == "interval" else PANEL[1]
    )
    figure = Figure(
        figsize=(max(NARROWEST, across * PANEL[0]), down * height + 0.7), layout="constrained"
    )
    grid = figure.subplots(
        down, across, squeeze=False, sharey="row" if chart.kind == "interval" else False
    )
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_visible(False)
            continue
        points = [point for point in chart.points if point.panel == panels[place]]
        _draw(axes, chart, points, looks)
        if panels[place]:
            axes.set_title(short(panels[place]), loc="left")
        axes.set_xlabel(chart.value if chart.kind == "interval" else chart.at)
        if place % across == 0 and chart.kind != "interval":
            axes.set_ylabel(chart.value)
    names = list(dict.fromkeys(point.series for point in chart.points if point.panel in panels))
    handles = [_handle(chart, looks[name]) for name in names]
    # matplotlib leaves out what begins with an underscore.
    labels = [short(name) if not name.startswith("_") else f"\u200a{short(name)}" for name in names]
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(4, len(names)), frameon=False
    )
    more = len(chart.panels) - len(panels)
    figure.suptitle(
        chart.title
        + (
            f" (the first {most} of {len(panels) + more} panels; report.html has all)"
            if more
            else ""
        ),
        fontsize=9,
    )
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what the layout has found holds for both files
    for form, metadata in METADATA.items():
        stream = io.BytesIO()
        figure.savefig(stream, format=form, dpi=DPI, metadata=metadata)
        yield f"{chart.name}.{form}", stream.getvalue()


def _lines(chart: Chart, panels: Sequence[str]) -> int:
    """Return how many lines the fullest panel has, a line a series and name."""
    return max(
        len({(point.at, point.series) for point in chart.points if point.panel == panel})
        for panel in panels
    )


def short(text: str) -> str:
    """Return a name that fits, on one line and without what would not show."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}…"


def _handle(chart: Chart, look: SeriesStyle) -> Any:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if chart.kind == "bars":
        return Patch(color=PALETTE[look.colour])
    line: Any = DASHES[look.marker] if chart.kind in ("line", "steps") else "none"
    marker = "none" if chart.kind == "steps" else MARKERS[look.marker]
    return Line2D([], [], color=PALETTE[look.colour], linestyle=line, marker=marker)


# A panel of each kind ------------------------------------------------------------------------------------------------


def _draw(
    axes: "Axes", chart: Chart, points: Sequence[Point], looks: Mapping[str, SeriesStyle]
) -> None:
    series: dict[str, list[Point]] = {}
    for point in points:
        series.setdefault(point.series, []).append(point)
    if chart.kind == "interval":
        _intervals(axes, series, looks)
        if chart.zero:
            axes.axvline(0, color="#888888", linewidth=0.8)
        return
    if chart.zero:
        axes.axhline(0, color="#888888", linewidth=0.8)
    if chart.kind == "bars":
        _bars(axes, series, looks)
        return
    if chart.kind == "scatter":
        for name, found in series.items():
            look = looks[name]
            axes.plot(
                [_number(p.at) for p in found],
                [p.value for p in found],
                MARKERS[look.marker],
                color=PALETTE[look.colour],
                alpha=0.8,
            )
        axes.xaxis.set_major_locator(_few())
        return
    names = (
        list(dict.fromkeys(str(point.at) for point in points))
        if any(isinstance(point.at, str) for point in points)
        else []
    )
    for name, found in series.items():
        _line(axes, chart, found, looks[name], names)
    if names:
        axes.set_xticks(
            range(len(names)),
            [short(name) for name in names],
            rotation=30 if sum(map(len, names)) > 36 else 0,
        )
        axes.set_xlim(-0.3, len(names) - 0.7)


def _line(
    axes: "Axes", chart: Chart, found: Sequence[Point], look: SeriesStyle, names: Sequence[str]
) -> None:
    places = [names.index(str(point.at)) if names else _number(point.at) for point in found]
    values = [point.value for point in found]
    colour = PALETTE[look.colour]
    if chart.kind == "steps":
        axes.step(places, values, where="mid", color=colour, linestyle=DASHES[look.marker])
        axes.set_ylim(bottom=0)
        return
    marker = MARKERS[look.marker] if len(places) <= 12 else "none"
    axes.plot(places, values, color=colour, linestyle=DASHES[look.marker], marker=marker)
    low = [point.value if point.low is None else point.low for point in found]
    high = [point.value if point.high is None else point.high for point in found]
    axes.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)


def _intervals(
    axes: "Axes", series: Mapping[str, Sequence[Point]], looks: Mapping[str, SeriesStyle]
) -> None:
    """Draw a line a name, its series below each other."""
    names = list(dict.fromkeys(str(point.at) for found in series.values() for point in found))
    step = 0.8 / len(series)
    for number, (name, found) in enumerate(series.items()):
        look = looks[name]
        places = [
            names.index(str(point.at)) + step * (number - (len(series) - 1) / 2) for point in found
        ]
        for place, point in zip(places, found, strict=True):
            if point.low is not None and point.high is not None:
                axes.plot(
                    [point.low, point.high],
                    [place, place],
                    color=PALETTE[look.colour],
                    linewidth=1.2,
                )
        axes.plot(
            [point.value for point in found],
            places,
            MARKERS[look.marker],
            color=PALETTE[look.colour],
        )
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def _bars(
    axes: "Axes", series: Mapping[str, Sequence[Point]], looks: Mapping[str, SeriesStyle]
) -> None:
    names = list(dict.fromkeys(str(point.at) for found in series.values() for point in found))
    width = 0.8 / len(series)
    for number, (name, found) in enumerate(series.items()):
        places = [
            names.index(str(point.at)) + width * (number - (len(series) - 1) / 2) for point in found
        ]
        axes.bar(
            places,
            [point.value for point in found],
            width,
            color=PALETTE[looks[name].colour],
            edgecolor="white",
            linewidth=0.4,
        )
    axes.set_xticks(
        range(len(names)),
        [short(name) for name in names],
        rotation=30 if sum(map(len, names)) > 36 else 0,
    )
    axes.grid(visible=False, axis="x")


def _few() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def _number(value: str | float) -> float:
    assert not isinstance(value, str)
    return value
