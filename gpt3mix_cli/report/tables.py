"""Results and comparisons -> tables with one row an item: tests, intervals, costs, failures."""

from collections.abc import Sequence

from .model import Comparison, Failure, PooledComparison, Result
from .table import COUNT, PERCENT, POINTS, Table, as_percent, interval_cell, list_table, p_cell

FORMATS = {
    **dict.fromkeys(("difference", "gain", "gain per USD"), POINTS),
    **dict.fromkeys(("mean", "std", "between seeds", "within a seed"), PERCENT),
    **dict.fromkeys(
        ("pairs", "tasks", "units", "trials", "data seeds", "data seed", "trial"), COUNT
    ),
    **dict.fromkeys(("tokens", "tokens per prediction"), "{:,.0f}"),
    "USD": "{:.4g}",
    "gain per 1,000 tokens": "{:+.3f}",
}
POOLED_NOTES = (
    "Mean difference a - b over all rows that both have, in points; rows won, tied (equal as "
    "shown) and lost; p of a two-sided permutation test stratified by task: the signs of a data "
    "seed flip together on all levels of its task, because these share rows. A unit is a (task, "
    "data seed). Corrected by Holm's method for the comparisons of this table; smallest p is what "
    "so many units can reach. The test asks whether the two differ on these tasks, not whether "
    "they would on others, nor whether it matters: a consistent half-point gain is significant; a "
    "larger mean gain that reverses on one task is not."
)
COST_NOTES = (
    "Gain over no augmentation in points; tokens and US dollars of one synthetic set (mean over "
    "the sets of a result)."
)
PROMPT_NOTES = (
    " A classifier that prompts makes none: its tokens are those of a trial's predictions."
)
MANY_SEEDS = 5  # from here on a bootstrap interval is wider than the range of the data seeds


def pooled_table(pooled: Sequence[PooledComparison]) -> Table | None:
    """Return the comparisons over all tasks and levels."""
    items = [
        {
            "classifier": item.classifier,
            "variant": item.variant,
            "a": item.a,
            "b": item.b,
            "difference": as_percent(item.diff),
            "by task": (
                f"{100 * item.min_diff:+.1f} to {100 * item.max_diff:+.1f}"
                if item.tasks > 1 else ""
            ),
            "win/tie/loss": f"{item.wins}/{item.ties}/{item.losses}",
            "tasks": item.tasks,
            "units": item.units,
            "p": p_cell(item.p),
            "corrected p": p_cell(item.p_corrected, item.stars),
            "smallest p": p_cell(item.smallest_p),
        }
        for item in pooled
    ]  # fmt: skip
    return list_table(
        "pooled", "Methods over all tasks and levels", items, 4, POOLED_NOTES, FORMATS
    )


def comparisons_table(comparisons: Sequence[Comparison]) -> Table | None:
    """Return the comparisons within each task, level and classifier."""
    items = [
        {
            "task": item.task,
            "variant": item.variant,
            "level": item.level,
            "classifier": item.classifier,
            "a": item.a,
            "b": item.b,
            "difference": as_percent(item.diff),
            "95 % interval": interval_cell(item.ci),
            "pairs": item.n_pairs,
            "p": p_cell(item.p),
            "Wilcoxon p": p_cell(item.p_wilcoxon),
            "corrected p": p_cell(item.p_corrected, item.stars),
            "smallest p": p_cell(item.smallest_p),
        }
        for item in comparisons
    ]
    fewest = min((item.n_pairs for item in comparisons), default=0)
    smallest = max((item.smallest_p for item in comparisons if item.smallest_p), default=1.0)
    few = f" With {fewest} pairs no p can be below {smallest:.4f}." if 1 < fewest < 6 else ""
    tests = sum(item.p is not None for item in comparisons)
    notes = (
        "Mean difference a - b in points, paired by data seed: the trials of a data seed share its "
        "rows, so they are averaged first. p: two-sided paired permutation test (sign flips), with "
        "Wilcoxon's signed-rank test next to it. Corrected by Holm's method for the "
        f"{tests} comparisons of this table.{few} Stars (* 0.05, ** 0.01, *** 0.001, of the "
        "corrected p) are shown from six pairs on. Intervals: bootstrap over data seeds, expanded "
        "for their small number."
    )
    return list_table("comparisons", "Comparisons", items, 6, notes, FORMATS)


def intervals_table(results: Sequence[Result]) -> Table | None:
    """Return the interval of each mean, and the parts of its standard deviation."""
    items = [
        {
            **_names(result),
            "mean": as_percent(result.mean),
            "95 % interval": interval_cell(result.ci),
            "trials": result.n,
            "data seeds": result.data_seeds,
            "std": as_percent(result.std),
            "between seeds": as_percent(result.between),
            "within a seed": as_percent(result.within),
        }
        for result in results
        if result.n
    ]
    few = [result.data_seeds for result in results if 1 < result.data_seeds < MANY_SEEDS]
    limit = (
        f" With {min(few)} data seeds it is at most their range and contains the true mean in less "
        f"than {1 - 2.0 ** (1 - min(few)):.0%} of cases." if few else ""
    )  # fmt: skip
    notes = (
        f"Interval: bootstrap over data seeds, expanded for their small number.{limit} The "
        "standard deviation over trials (std) has a part between data seeds (another subsample) "
        "and a part within them (another training seed and synthetic set); they are separated "
        "where a data seed has several trials."
    )
    title = "Intervals and parts of the standard deviation"
    return list_table("intervals", title, items, 5, notes, FORMATS)


def _names(result: Result) -> dict[str, str]:
    return {
        "task": result.task,
        "variant": result.variant,
        "level": result.level,
        "classifier": result.classifier,
        "method": result.column,
    }


def cost_table(results: Sequence[Result]) -> Table | None:
    """Return what synthetic sets cost and gain; None if no cost is known."""
    items = [
        {
            **_names(result),
            "gain": as_percent(result.gain),
            "tokens": result.tokens,
            "USD": result.usd,
            "gain per USD": as_percent(result.gain_per_usd),
            "gain per 1,000 tokens": as_percent(result.gain_per_1k_tokens),
            "tokens per prediction": result.tokens_per_prediction or None,
        }
        for result in results
        if result.n and (result.tokens or result.usd)
    ]
    prompts = any(result.tokens_per_prediction for result in results)
    notes = COST_NOTES + PROMPT_NOTES * prompts
    return list_table("cost", "Cost of a gain", items, 5, notes, FORMATS)


def failures_table(failures: Sequence[Failure]) -> Table | None:
    """Return the trials that failed, with their reasons."""
    items = [
        {
            "task": failure.task,
            "variant": failure.variant,
            "level": failure.level,
            "classifier": failure.classifier,
            "method": failure.method,
            "data seed": failure.data_seed,
            "trial": failure.trial,
            "reason": failure.error,
        }
        for failure in failures
    ]
    notes = "They are left out of every average."
    return list_table("failures", "Failed trials", items, 5, notes, FORMATS)
