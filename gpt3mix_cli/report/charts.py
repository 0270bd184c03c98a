"""What is plotted, in no form yet: `plots` makes PNG and SVG of it, the page draws it with values to hover over.

Only what there is data for. Figures are in percent, differences in points. A method has one colour and one marker everywhere.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from .artifacts import BINS, REAL, Artifacts, Distribution
from .model import CellRow, Comparison, Report

# Places in the palette; other methods take what is left, in the order in which they come.
COLOURS = {"none": 0, REAL: 0, "gpt3mix": 1, "eda": 2, "backtranslate": 3}
FREE = (4, 5, 6, 7)
MARKERS = 6
WIDEST = 60  # words; longer texts stand in the last bar
INTERVAL = "95 % intervals by a bootstrap over data seeds; none where there are fewer than two."
Swept = TypeVar("Swept", CellRow, Comparison)
Kind = Literal["line", "interval", "steps", "bars", "scatter"]


class Point(NamedTuple):
    """One figure of a plot.

    Attributes:
        panel: the small plot in which it stands; empty where there is but one.
        series: a method.
        at: where it stands: a level, a ratio, a class, a number of words; of an `interval` the name of its line.
        value: the figure.
        low: lower end of its interval.
        high: upper end.
        note: what else one would like to know of it.
    """

    panel: str
    series: str
    at: str | float
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """A plot of several panels.

    Attributes:
        name: of its files.
        title: heading.
        kind: line: values with bands over levels or numbers; interval: a line a cell, values across; steps: shares over
            numbers; bars: shares of classes; scatter: two figures of a cell.
        at: title of the axis of `Point.at`.
        value: title of the axis of `Point.value`.
        points: all of them.
        caption: what the figures are, with their limits.
        zero: whether a line at zero says "no difference".
    """

    name: str
    title: str
    kind: Kind
    at: str
    value: str
    points: Sequence[Point]
    caption: str
    zero: bool = False

    @property
    def panels(self) -> list[str]:
        """The panels in their order."""
        return list(dict.fromkeys(point.panel for point in self.points))


class SeriesStyle(NamedTuple):
    """Colour and marker of a series, as places in the palette and among the markers."""

    colour: int
    marker: int


def build_charts(report: Report, found: Artifacts) -> list[Chart]:
    """Return every plot that there is data for."""
    cells = [cell for cell in report.cells if cell.mean is not None]
    made = [
        accuracy(cells),
        gains(report),
        *sweeps(cells),
        curves(found),
        *spreads(found),
        costs(cells),
    ]
    return [chart for chart in made if chart and chart.points]


def looks(charts: Iterable[Chart], columns: Iterable[str]) -> dict[str, SeriesStyle]:
    """Return how each series looks; columns of one method that are told apart share its colour and differ in their marker."""
    names = dict.fromkeys([*columns, *(point.series for chart in charts for point in chart.points)])
    colours = dict(COLOURS)
    taken: dict[str, int] = {}
    found: dict[str, SeriesStyle] = {}
    for name in names:
        method = name.partition(" [")[0]
        colour = colours.setdefault(method, FREE[(len(colours) - len(COLOURS)) % len(FREE)])
        place = taken.get(method, 0)
        taken[method] = place + 1
        found[name] = SeriesStyle(colour, (colour + place) % MARKERS)
    return found


# Accuracy ------------------------------------------------------------------------------------------------------------


def accuracy(cells: Sequence[CellRow]) -> Chart:
    """Return accuracy against level; where there is but one level, a line a task."""
    order: dict[str, float] = {}
    for cell in cells:
        order.setdefault(cell.level, cell.n_train or 0)
    levels = sorted(order, key=lambda level: order[level])
    title, caption = "Accuracy by level", f"Mean test accuracy over trials. Bands: {INTERVAL}"
    if len(levels) > 1:
        ordered = sorted(cells, key=lambda cell: levels.index(cell.level))
        points = [
            _mean(cell, _joined(cell.task, cell.classifier, variant), cell.level)
            for cell, variant in _everywhere(ordered)
        ]
        rank: dict[str, int] = {}
        for cell, variant in _everywhere(cells):
            rank.setdefault(_joined(cell.task, cell.classifier, variant), len(rank))
        points.sort(key=lambda point: rank[point.panel])
        return Chart("accuracy-level", title, "line", "level", "accuracy (%)", points, caption)
    points = [
        _mean(cell, _joined(cell.classifier, variant), f"{cell.task} {cell.level}")
        for cell, variant in _everywhere(cells)
    ]
    return Chart(
        "accuracy-level",
        "Accuracy",
        "interval",
        "",
        "accuracy (%)",
        points,
        caption.replace("Bands", "Bars"),
    )


def gains(report: Report) -> Chart:
    """Return the gain of each method over no augmentation."""
    points = []
    for each, variant in _everywhere(
        [each for each in report.comparisons if each.b == "none" and each.a != "none"]
    ):
        low, high = _percent(each.ci) if each.ci else (None, None)
        line = f"{each.task} {each.level}"
        points.append(
            Point(
                _joined(each.classifier, variant),
                each.a,
                line,
                100 * each.diff,
                low,
                high,
                f"{each.n_pairs} data seeds",
            )
        )
    caption = f"Mean difference to no augmentation, paired by data seed. Bars: {INTERVAL}"
    return Chart(
        "gain",
        "Gain over no augmentation",
        "interval",
        "",
        "gain (points)",
        points,
        caption,
        zero=True,
    )


def sweeps(cells: Sequence[CellRow]) -> list[Chart]:
    """Return accuracy against each swept key, such as the ratio or k; what the sweep leaves as it is goes straight across."""
    found = []
    for key in dict.fromkeys(key for cell in cells for key in cell.swept):
        values = list(
            dict.fromkeys(map(_value, (cell.swept[key] for cell in cells if key in cell.swept)))
        )
        if len(values) < 2:
            continue
        if all(isinstance(value, float) for value in values):
            values.sort(key=float)
        points = []
        for cell in cells:
            others = {name: value for name, value in cell.swept.items() if name != key}
            panel = _joined(
                cell.task,
                cell.level,
                cell.classifier,
                *(f"{name}={value}" for name, value in others.items()),
            )
            places = [_value(cell.swept[key])] if key in cell.swept else values
            points += [_mean(cell, panel, place) for place in places]
        points.sort(key=lambda point: values.index(point.at))
        name = key.rpartition(".")[2]
        caption = f"Mean test accuracy over trials against {key}. Bands: {INTERVAL}"
        found.append(
            Chart(
                f"accuracy-{_word(name)}",
                f"Accuracy by {name}",
                "line",
                name,
                "accuracy (%)",
                points,
                caption,
            )
        )
    return found


def costs(cells: Sequence[CellRow]) -> Chart | None:
    """Return gain against cost: in dollars where they are known, in tokens otherwise."""
    priced = any(cell.usd for cell in cells)
    points = [
        Point(
            _joined(cell.classifier, cell.variant),
            cell.column,
            float(cost),
            100 * cell.gain,
            note=f"{cell.task} {cell.level}",
        )
        for cell in cells
        if (cost := cell.usd if priced else cell.tokens) and cell.gain is not None
    ]
    unit = "US dollars" if priced else "tokens"
    caption = f"Gain over no augmentation in points; {unit} of one synthetic set, mean over the sets of a cell."
    return Chart(
        "cost", "What a gain costs", "scatter", unit, "gain (points)", points, caption, zero=True
    )


def _mean(cell: CellRow, panel: str, at: str | float) -> Point:
    low, high = _percent(cell.ci) if cell.ci else (None, None)
    trials = f"{cell.n} trials on {cell.data_seeds} data seeds"
    return Point(panel, cell.column, at, 100 * (cell.mean or 0), low, high, trials)


def _everywhere(items: Sequence[Swept]) -> Iterator[tuple[Swept, str]]:
    """Yield each cell with its variant; what a sweep leaves as it is has none, and stands beside every variant."""
    variants: dict[str, dict[str, None]] = {}
    for item in items:
        if item.variant:
            variants.setdefault(item.task, {})[item.variant] = None
    for item in items:
        for variant in [item.variant] if item.variant else variants.get(item.task, [""]):
            yield item, variant


def _joined(*parts: str) -> str:
    return " · ".join(filter(None, parts))


def _percent(interval: tuple[float, float]) -> tuple[float, float]:
    return 100 * interval[0], 100 * interval[1]


def _value(value: Any) -> str | float:
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else str(value)
    )


def _word(text: str) -> str:
    """Return a key as part of a file's name."""
    return (
        "".join(
            letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "-"
            for letter in text
        )
        or "key"
    )


# What stands beside the trials ---------------------------------------------------------------------------------------


def curves(found: Artifacts) -> Chart:
    """Return the validation accuracy after each epoch: the mean while at least half of the trials go on."""
    points = []
    for (task, variant, level, classifier), methods in found.curves.items():
        panel = _joined(task, level, classifier, variant)
        for method, epochs in methods.items():
            most = max(map(len, epochs.values()), default=0)
            for epoch, values in sorted(epochs.items()):
                if 2 * len(values) >= most:
                    low, high = (
                        (100 * min(values), 100 * max(values)) if len(values) > 1 else (None, None)
                    )
                    points.append(
                        Point(
                            panel,
                            method,
                            float(epoch),
                            100 * sum(values) / len(values),
                            low,
                            high,
                            f"{len(values)} trials",
                        )
                    )
    caption = "Mean over the trials that still run, as far as at least half of them do. Bands: from the worst to the best trial."
    if found.epochs_left_out:
        caption += f" {found.epochs_left_out} more cells have epochs that are not shown."
    return Chart(
        "learning-curves",
        "Learning curves",
        "line",
        "epoch",
        "validation accuracy (%)",
        points,
        caption,
    )


def spreads(found: Artifacts) -> list[Chart]:
    """Return how soft labels, lengths and classes of real and synthetic rows are spread."""
    entropy = _spread(
        found,
        lambda shape: (
            {(at + 0.5) / BINS: shape.entropy[at] for at in range(BINS)} if shape.entropy else {}
        ),
    )
    words = _spread(found, _words)
    labels = _spread(found, lambda shape: shape.labels)
    over = "all levels and data seeds of a task together"
    return [
        Chart(
            "entropy", "Entropy of soft labels", "steps", "share of the greatest entropy", "rows (%)", entropy,
            f"0: certain, 1: every class as likely as any other; rows with a label of their parent have none; {over}.",
        ),
        Chart(
            "length", "Length of texts", "steps", "words", "rows (%)", words,
            f"Real rows and kept synthetic ones; texts of more than {WIDEST} words count as {WIDEST}; {over}.",
        ),
        Chart("labels", "Labels", "bars", "", "rows (%)", labels, f"Real rows and kept synthetic ones by their most probable class; {over}."),
    ]  # fmt: skip


def _words(shape: Distribution) -> Mapping[float, int]:
    """Return rows by their number of words, two numbers together."""
    found: dict[float, int] = {}
    last = min(WIDEST, max(shape.words, default=0))
    for at in range(0, last + 1, 2):
        found[at + 1.0] = 0
    for words, rows in shape.words.items():
        found[min(words, WIDEST) // 2 * 2 + 1.0] += rows
    return found


def _spread(found: Artifacts, counts: Callable[[Distribution], Mapping[Any, int]]) -> list[Point]:
    points = []
    for (task, variant), shapes in found.shapes.items():
        panel = _joined(task, variant)
        for series, shape in shapes.items():
            rows = counts(shape)
            total = sum(rows.values())
            points += [
                Point(panel, series, at, 100 * count / total, note=f"{count:,} of {total:,} rows")
                for at, count in rows.items()
                if total
            ]
    return points
