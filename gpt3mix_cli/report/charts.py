"""What is plotted, before it is drawn: `render.plots` makes PNG and SVG of it, the page draws it.

A chart exists only if there is data for it. Values are in percent, differences in points. A method
has one colour and one marker in all charts.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pandas import DataFrame

from .artifacts import ENTROPY_BINS, REAL, Artifacts, Distribution
from .model import Result

# Index in the palette; other methods take the free ones in the order in which they come.
COLOURS = {"none": 0, REAL: 0, "gpt3mix": 1, "eda": 2, "backtranslate": 3}
FREE_COLOURS = (4, 5, 6, 7)
NUM_MARKERS = 6
MAX_WORDS = 60  # longer texts are in the last bin
INTERVAL = "95 % intervals over data seeds and test rows; of one data seed over test rows only."
GAIN_INTERVAL = (
    "95 % intervals by a bootstrap over data seeds, on these test rows; none for fewer than two."
)
ALL_TOGETHER = "all levels and data seeds of a task together"
Kind = Literal["line", "interval", "steps", "bars", "dots", "scatter"]
MAX_BARS = 10  # classes; the names of more are written in rows


class Point(NamedTuple):
    """One value of a chart.

    Attributes:
        panel: the small plot that it is in; empty if there is only one.
        series: a method.
        at: its position: a level, a ratio, a class, a number of words; for `interval` the title
            of its row.
        value: the value.
        low: lower end of its interval.
        high: upper end.
        note: shown with the value, such as the number of trials.
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
    """A plot of one or more panels.

    Attributes:
        name: of its files.
        title: heading.
        kind: line: values with bands over levels or numbers; interval: a row a result, values
            across; steps: a histogram over numbers; bars: one over classes; dots: one over many
            classes, a row each; scatter: two values of a result.
        at: title of the axis of `Point.at`.
        value: title of the axis of `Point.value`.
        points: all of them.
        caption: what the values are, with their limits.
        zero: whether a line at zero marks "no difference".
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
    """Colour and marker of a series, as indexes in the palette and among the markers."""

    colour: int
    marker: int


def build_charts(
    results: Sequence[Result], comparisons: DataFrame, artifacts: Artifacts
) -> list[Chart]:
    """Return every chart that there is data for."""
    known = [result for result in results if result.mean is not None]
    charts = [
        accuracy_chart(known),
        gain_chart(comparisons),
        *sweep_charts(known),
        epochs_chart(artifacts),
        *distribution_charts(artifacts),
        cost_chart(known),
    ]
    return [chart for chart in charts if chart.points]


def series_styles(charts: Iterable[Chart], columns: Iterable[str]) -> dict[str, SeriesStyle]:
    """Return the style of each series; the parts of a split method differ in their marker only."""
    names = dict.fromkeys(columns)
    for chart in charts:
        names |= dict.fromkeys(point.series for point in chart.points)
    colours = dict(COLOURS)
    parts: Counter[str] = Counter()
    styles: dict[str, SeriesStyle] = {}
    for name in names:
        method = name.partition(" [")[0]
        free = FREE_COLOURS[(len(colours) - len(COLOURS)) % len(FREE_COLOURS)]
        colour = colours.setdefault(method, free)
        parts[method] += 1
        styles[name] = SeriesStyle(colour, (colour + parts[method] - 1) % NUM_MARKERS)
    return styles


# Accuracy ------------------------------------------------------------------------------------


def accuracy_chart(results: Sequence[Result]) -> Chart:
    """Return accuracy against level; with a single level, a row a task."""
    sizes: dict[str, float] = {}
    for result in results:
        sizes.setdefault(result.level, result.n_train or 0)
    levels = sorted(sizes, key=lambda level: sizes[level])
    in_variants = list(_in_all_variants(results))
    caption = "Mean test accuracy over trials."
    if len(levels) < 2:
        points = [
            _mean_point(result, _join(result.classifier, variant), f"{result.task} {result.level}")
            for result, variant in in_variants
        ]
        return Chart(
            "accuracy-level", "Accuracy", "interval", "", "accuracy (%)", points,
            f"{caption} Bars: {INTERVAL}",
        )  # fmt: skip
    points = [
        _mean_point(result, _join(result.task, result.classifier, variant), result.level)
        for result, variant in in_variants
    ]
    panels = [point.panel for point in points]
    points.sort(key=lambda point: (panels.index(point.panel), levels.index(str(point.at))))
    return Chart(
        "accuracy-level", "Accuracy by level", "line", "level", "accuracy (%)", points,
        f"{caption} Bands: {INTERVAL}",
    )  # fmt: skip


def gain_chart(comparisons: DataFrame) -> Chart:
    """Return the gain of each method over no augmentation."""
    gains = [item for item in comparisons.itertuples() if item.b == "none" and item.a != "none"]
    points = [
        Point(
            _join(item.classifier, variant), item.a, f"{item.task} {item.level}", 100 * item.diff,
            *_percent(item.ci), f"{item.n_pairs} data seeds",
        )
        for item, variant in _in_all_variants(gains)
    ]  # fmt: skip
    return Chart(
        "gain", "Gain over no augmentation", "interval", "", "gain (points)", points,
        f"Mean difference to no augmentation, paired by data seed. Bars: {GAIN_INTERVAL}",
        zero=True,
    )  # fmt: skip


def sweep_charts(results: Sequence[Result]) -> list[Chart]:
    """Return accuracy against each swept key; what the sweep does not change is a flat line."""
    charts = []
    for key in dict.fromkeys(key for result in results for key in result.swept):
        swept = [_as_position(result.swept[key]) for result in results if key in result.swept]
        values = list(dict.fromkeys(swept))
        if len(values) < 2:
            continue
        if all(isinstance(value, float) for value in values):
            values.sort(key=float)
        points = []
        for result in results:
            others = [f"{name}={value}" for name, value in result.swept.items() if name != key]
            panel = _join(result.task, result.level, result.classifier, *others)
            own = [_as_position(result.swept[key])] if key in result.swept else values
            points += [_mean_point(result, panel, value) for value in own]
        points.sort(key=lambda point: values.index(point.at))
        name = key.rpartition(".")[2]
        charts.append(Chart(
            f"accuracy-{_file_word(name)}", f"Accuracy by {name}", "line", name, "accuracy (%)",
            points, f"Mean test accuracy over trials against {key}. Bands: {INTERVAL}",
        ))  # fmt: skip
    return charts


def cost_chart(results: Sequence[Result]) -> Chart:
    """Return gain against cost: in US dollars if any is known, in tokens otherwise."""
    priced = any(result.usd for result in results)
    unit = "US dollars" if priced else "tokens"
    costs = [(result, result.usd if priced else result.tokens) for result in results]
    points = [
        Point(
            _join(result.classifier, result.variant), result.column, float(cost),
            100 * result.gain, note=f"{result.task} {result.level}",
        )
        for result, cost in costs
        if cost and result.gain is not None
    ]  # fmt: skip
    return Chart(
        "cost", "Cost of a gain", "scatter", unit, "gain (points)", points,
        f"Gain over no augmentation in points; {unit} of one synthetic set, mean over the sets of "
        "a result.", zero=True,
    )  # fmt: skip


def _mean_point(result: Result, panel: str, at: str | float) -> Point:
    note = f"{result.n} trials on {result.data_seeds} data seeds"
    return Point(panel, result.column, at, 100 * (result.mean or 0), *_percent(result.ci), note)


def _in_all_variants(items: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    variants: dict[str, dict[str, None]] = {}
    for item in items:
        if item.variant:
            variants.setdefault(item.task, {})[item.variant] = None
    for item in items:
        for variant in [item.variant] if item.variant else variants.get(item.task, [""]):
            yield item, variant


def _join(*parts: str) -> str:
    return " · ".join(filter(None, parts))


def _percent(interval: tuple[float, float] | None) -> tuple[float | None, float | None]:
    return (100 * interval[0], 100 * interval[1]) if interval else (None, None)


def _as_position(value: Any) -> str | float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else str(value)


def _file_word(text: str) -> str:
    return re.sub("[^A-Za-z0-9_-]", "-", text) or "key"


# Epochs and rows -----------------------------------------------------------------------------


def epochs_chart(artifacts: Artifacts) -> Chart:
    """Return the validation accuracy after each epoch, while half of the trials still train."""
    points = []
    for (task, variant, level, classifier), methods in artifacts.curves.items():
        panel = _join(task, level, classifier, variant)
        for method, epochs in methods.items():
            trials = max(map(len, epochs.values()), default=0)
            for epoch, values in sorted(epochs.items()):
                if 2 * len(values) >= trials:
                    ends = _percent((min(values), max(values)) if len(values) > 1 else None)
                    mean, note = 100 * sum(values) / len(values), f"{len(values)} trials"
                    points.append(Point(panel, method, float(epoch), mean, *ends, note))
    caption = (
        "Mean over the trials that still train, as long as these are at least half of all. Bands: "
        "from the worst to the best trial."
    )
    if artifacts.curves_left_out:
        caption += f" {artifacts.curves_left_out} more plots are left out."
    return Chart(
        "learning-curves", "Learning curves", "line", "epoch", "validation accuracy (%)", points,
        caption,
    )  # fmt: skip


def distribution_charts(artifacts: Artifacts) -> list[Chart]:
    """Return the distributions of soft labels, lengths and classes of real and synthetic rows."""
    labels = _distribution_points(artifacts, lambda distribution: distribution.labels)
    many = len({point.at for point in labels}) > MAX_BARS
    return [
        Chart(
            "entropy", "Entropy of soft labels", "steps", "fraction of the highest entropy",
            "rows (%)", _distribution_points(artifacts, _entropy_bins),
            "0: certain, 1: all classes equally likely; rows with the label of their parent are "
            f"not counted; {ALL_TOGETHER}.",
        ),
        Chart(
            "length", "Length of texts", "steps", "words", "rows (%)",
            _distribution_points(artifacts, _word_bins),
            f"Real rows and kept synthetic ones; texts of more than {MAX_WORDS} words count as "
            f"{MAX_WORDS}; {ALL_TOGETHER}.",
        ),
        Chart(
            "labels", "Labels", "dots" if many else "bars", "", "rows (%)", labels,
            f"Real rows and kept synthetic ones by their most probable class; {ALL_TOGETHER}.",
        ),
    ]  # fmt: skip


def _entropy_bins(distribution: Distribution) -> Mapping[float, int]:
    if not distribution.entropy:
        return {}
    return {
        (index + 0.5) / ENTROPY_BINS: distribution.entropy[index] for index in range(ENTROPY_BINS)
    }


def _word_bins(distribution: Distribution) -> Mapping[float, int]:
    last = min(MAX_WORDS, max(distribution.words, default=0))
    bins = dict.fromkeys((start + 1.0 for start in range(0, last + 1, 2)), 0)
    for words, rows in distribution.words.items():
        bins[min(words, MAX_WORDS) // 2 * 2 + 1.0] += rows
    return bins


def _distribution_points(
    artifacts: Artifacts, bins_of: Callable[[Distribution], Mapping[Any, int]]
) -> list[Point]:
    points = []
    for (task, variant), distributions in artifacts.distributions.items():
        panel = _join(task, variant)
        for series, distribution in distributions.items():
            bins = bins_of(distribution)
            total = sum(bins.values())
            for at, rows in bins.items() if total else ():
                note = f"{rows:,} of {total:,} rows"
                points.append(Point(panel, series, at, 100 * rows / total, note=note))
    return points
