"""The tables that `console` prints: plans, statistics of synthetic rows, and what `fit` tried."""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from .errors import content_errors
from .layout import manifest_path, variant_name
from .records import StageResult

if TYPE_CHECKING:
    from .grid.estimates import Plan


def plan_table(plan: "Plan") -> Table:
    """Return a row for each cell of a plan, and one for all."""
    table = _empty_table(["cell", "rows", "held", "requests", "read", "written", "usd", "trials"])
    cells, heading = plan.as_json()["cells"], ""
    names_tasks = len({cell["task"] for cell in cells}) > 1
    for cell in cells:
        words = [cell["task"] if names_tasks else "", variant_name(cell["variant"])]
        if (name := " ".join(filter(None, words))) != heading:
            heading = name
            table.add_row(Text(name, "bold"))
        draws = f" x{cell['draws']}" if cell["draws"] > 1 else ""
        table.add_row(f"{cell['level']} seed {cell['seed']}{draws}", *_plan_values(cell))
    table.add_section()
    table.add_row("in all", *_plan_values(plan.total), style="bold")
    return table


def _plan_values(cell: Mapping[str, Any]) -> list[str]:
    names = ("requests", "prompt_tokens", "completion_tokens")
    values = [cell["generations"], cell["held"]["generations"], *(cell[name] for name in names)]
    shown = ["?" if value is None else f"{value:,}" for value in values]
    usd = cell["usd"]
    dollars = f"{usd:,.{4 if usd < 1 else 2}f}" if usd else "0"
    return [*shown, "?" if usd is None else dollars, f"{cell['trainings']:,}"]


def statistics_table(results: Sequence[StageResult]) -> Table:
    """Return a row for each file of synthetic rows."""
    folder = os.path.commonpath([result.output.parent for result in results])
    rows = []
    for result in results:
        with manifest_errors(result):
            rows.append(_statistics_row(result, folder))
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    table = _empty_table(columns)
    for row in rows:
        table.add_row(*(row[name] for name in columns))
    return table


def manifest_errors(result: StageResult) -> AbstractContextManager[None]:
    """Turn what nonsense in the manifest of a skipped output raises into a message."""
    hint = "remove that file, and run the same command again"
    return content_errors(manifest_path(result.output), hint)


def _statistics_row(result: StageResult, folder: str) -> dict[str, str]:
    counts, tokens, usd = result.manifest.counts, result.manifest.tokens, result.manifest.usd
    statistics = counts["statistics"]
    fractions = {
        "entropy": statistics["entropy_bits"],
        "mass": (statistics["label_mass"] or {}).get("mean"),
        "agree": statistics["parents_majority"],
        "dist-2": statistics["distinct_2"],
        "self-BLEU": statistics["self_bleu"],
    }
    return {
        "rows of": os.path.relpath(result.output, folder).removesuffix(".jsonl"),
        "kept": f"{counts['kept']}/{counts['asked']}",
        "rejected": str(sum(counts["rejected"].values()) or ""),
        **{name: "" if value is None else f"{value:.3f}" for name, value in fractions.items()},
        "words": f"{statistics['words']['mean']:.1f}",
        "tokens": f"{tokens:,}" if tokens and counts.get("requests") else "",
        "usd": "" if usd is None else f"{usd:.4f}",
    }


def candidates_table(about: Mapping[str, Any]) -> Table:
    """Return a row for each combination that `fit` chose from, with the accuracy that chose."""
    is_crossed = about["cross_validated_accuracy"] is not None
    accuracy = "cross-validated accuracy" if is_crossed else "validation accuracy"
    table = _empty_table(["classifier", "method", accuracy, "trials"])
    for number, row in enumerate(about["candidates"]):
        variant = f" ({variant_name(row['variant'])})" if row["variant"] else ""
        table.add_row(
            Text(row["classifier"]),
            Text(f"{row['method']}{variant}"),
            f"{100 * row['accuracy']:.1f}",
            str(row["trials"]),
            style="" if number else "bold",
        )
    return table


def model_lines(about: Mapping[str, Any]) -> list[str]:
    """Return what a saved model was trained on, and how good and how calibrated it is."""
    rows, ece, scores = about["rows"], about["ece"], about["scores"]
    is_crossed = about["cross_validated_accuracy"] is not None
    real = rows["train"] + rows["validation"] + (rows["test"] if is_crossed else 0)
    lines = [f"trained on {real} labelled rows and {rows['synthetic']} synthetic rows"]
    if not is_crossed:
        lines.append(
            f"on {rows['test']} test rows, which nothing was chosen by: accuracy "
            f"{scores['accuracy']:.1%}, macro-F1 {scores['macro_f1']:.1%} "
            f"(majority class alone: {about['trial']['majority']:.1%})"
        )
    lines.append(
        f"calibration: temperature {about['temperature']:g}; expected calibration error "
        f"{ece['before']:.3f} before, {ece['after']:.3f} after, on {ece['rows']} rows"
    )
    return lines


def _empty_table(columns: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if table.columns else "left", overflow="fold")
    return table
