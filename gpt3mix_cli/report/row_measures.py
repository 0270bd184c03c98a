"""Measures of the synthetic rows themselves, and each against the gain that the rows bring.

Diversity is in every set's manifest; `gpt3mix measure` adds what needs a model.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from .artifacts import Artifacts
from .charts import Chart, Point
from .model import Result
from .table import MISSING, Table, TableCell, list_table

# Title of a measure -> its name in the manifest, and its format.
MODEL_MEASURES = {
    "perplexity": ("perplexity", "{:,.1f}"),
    "similarity to parents": ("parent_similarity", "{:.2f}"),
    "label agreement": ("label_agreement", "{:.2f}"),
}
DIVERSITY = {
    "distinct-1": ("distinct_1", "{:.3f}"),
    "distinct-2": ("distinct_2", "{:.3f}"),
    "self-BLEU": ("self_bleu", "{:.3f}"),
}
MEASURES = MODEL_MEASURES | DIVERSITY
NOTES = (
    "Mean over the sets of a method. Diversity: distinct words and word pairs as a fraction of all "
    "(Li et al., 2016; they fall with the number of rows), and self-BLEU (Zhu et al., 2018; 1 for "
    "copies)."
)
MODEL_NOTES = (
    " Of at most 200 rows a set: perplexity per token under {lm}, which wrote none of them (lower "
    "is more fluent); mean cosine of a row and its parents by MiniLM; fraction of the rows whose "
    "label a linear classifier gives, which knows all real training rows (accuracy on test rows "
    "{accuracy}), the parents of edited rows among them."
)
NOT_MEASURED = (
    " `gpt3mix measure CONFIG` adds perplexity, similarity to the parents and agreement of labels."
)


def measures_table(artifacts: Artifacts) -> Table | None:
    """Return a row for each task, variant, level and method, the real rows first."""
    if not artifacts.measures:
        return None
    items: list[dict[str, Any]] = [
        {
            **dict(zip(("task", "variant", "level", "method"), key, strict=True)),
            **{title: _value_cell(sets, title) for title in MEASURES},
        }
        for key, sets in artifacts.measures.items()
    ]
    known = [values for sets in artifacts.measures.values() for values in sets]
    lms = sorted({values["perplexity_lm"] for values in known if values.get("perplexity_lm")})
    accuracies = [values["labeller_accuracy"] for values in known if "labeller_accuracy" in values]
    notes = NOTES + NOT_MEASURED
    if accuracies:
        accuracy = f"{fmean(accuracies):.2f}"
        notes = NOTES + MODEL_NOTES.format(lm=" or ".join(lms) or "no LM", accuracy=accuracy)
    return list_table("rows", "Measures of rows", items, 4, notes)


def _value_cell(sets: Sequence[Mapping[str, Any]], title: str) -> TableCell:
    name, form = MEASURES[title]
    value = mean_of(sets, name)
    return MISSING if value is None else TableCell(form.format(value), value)


def mean_of(sets: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the mean of a measure over the sets that have it; None if none has."""
    values = [values[name] for values in sets if values.get(name) is not None]
    return fmean(values) if values else None


def measure_charts(results: Sequence[Result], artifacts: Artifacts) -> list[Chart]:
    """Return each measure against the gain, if any set was measured by a model."""
    measured = [values for sets in artifacts.measures.values() for values in sets]
    if not any("label_agreement" in values for values in measured):
        return []
    charts = []
    for title, (name, _) in MEASURES.items():
        points = []
        for result in results:
            key = result.task, result.variant, result.level, result.method
            value = mean_of(artifacts.measures.get(key, ()), name)
            if value is not None and result.gain is not None and result.method != "none":
                panel = " · ".join(filter(None, (result.classifier, result.variant)))
                note = f"{result.task} {result.level}"
                points.append(Point(panel, result.column, value, 100 * result.gain, note=note))
        charts.append(Chart(
            f"rows-{name.replace('_', '-')}", f"Gain by {title}", "scatter", title,
            "gain (points)", points,
            f"Gain over no augmentation in points against {title} of the synthetic rows, mean over "
            "the sets of a result.", zero=True,
        ))  # fmt: skip
    return charts
