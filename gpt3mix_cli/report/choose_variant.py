"""`report --by validation`: of a sweep's variants, the one with the best validation accuracy.

As the paper chooses its task specifications (section 4.2), for each task, level, classifier and
method on its own. The report then has the test accuracy of that variant; no test row had a part in
the choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd

from ..errors import UserError
from ..layout import variant_name
from .model import ExpectedTrials
from .table import PERCENT, Table

GROUP = ["task", "level", "classifier", "method"]
VALIDATION = "validation accuracy"
NOTES = (
    "The variant with the best mean validation accuracy, in percent, over the data seeds of its "
    "row; of equal ones the first, and where all are equal there is no row. Only variants with "
    "the most finished trials are compared. The other tables have its accuracy on test rows, which "
    "had no part in the choice."
)
REMARK = (
    "--by validation: of {variants} variants each row has the one with the best validation "
    "accuracy (table `chosen variants`); accuracies are those on test rows"
)


class ChosenVariants(NamedTuple):
    """The trials of the chosen variants.

    Attributes:
        trials: without those of other variants, and with no variant.
        expected: what configs expect of the chosen variants.
        table: which variant was chosen in each row; None if all are equal everywhere.
        remark: that a choice was made.
    """

    trials: pd.DataFrame
    expected: Sequence[ExpectedTrials]
    table: Table | None
    remark: str


def choose_variants(trials: pd.DataFrame, expected: Sequence[ExpectedTrials]) -> ChosenVariants:
    """Return the trials of the variants with the best validation accuracy.

    Args:
        trials: as `load_trials` returns them.
        expected: what configs ask for; their order decides between equal variants.

    Raises:
        UserError: if there is only one variant, or a classifier has no validation accuracy.
    """
    names = [variant_name(item.variant) for item in expected]
    order = list(dict.fromkeys([*names, *trials["variant"]]))
    if len(order) < 2:
        raise UserError(
            "--by validation: the trials are of one variant, so there is nothing to choose",
            "sweep what is to be chosen, for example sweep: {augment.k: [1, 2, 4]}",
        )
    chosen: dict[tuple[Any, ...], str] = {}
    rows = []
    for key, group in trials.groupby(GROUP, sort=False):
        scores = _validation_scores(group, order)
        if not scores:
            raise UserError(
                f"--by validation: {' '.join(map(str, key))}: no trial has a validation accuracy",
                "leave --by out, or report on other classifiers",
            )
        best = max(scores, key=lambda name: scores[name])  # of equal ones the first
        chosen[key] = best
        others = [score for name, score in scores.items() if name != best]
        if len({*scores.values()}) > 1:  # a method that the sweep does not change is no choice
            rows.append([*key, best, 100 * scores[best], 100 * max(others), len(scores)])
    keys = pd.Series(trials[GROUP].itertuples(index=False, name=None), index=trials.index)
    kept = trials[trials["variant"] == keys.map(chosen)]
    columns = [*GROUP, "variant", VALIDATION, "next best", "variants"]
    data = pd.DataFrame(rows, columns=columns)
    formats = {VALIDATION: PERCENT, "next best": PERCENT, "variants": "{:.0f}"}
    title = "Chosen variants: by validation accuracy"
    return ChosenVariants(
        kept.assign(variant="", swept=[{}] * len(kept)),
        _expected_of(expected, names, chosen),
        Table("chosen-variants", title, data, len(GROUP), NOTES, formats=formats, is_grid=False)
        if rows
        else None,
        REMARK.format(variants=len(order)),
    )


def _validation_scores(group: pd.DataFrame, order: Sequence[str]) -> dict[str, float]:
    """Return the mean validation accuracy of each variant that has the most finished trials."""
    finished = group[(group["status"] == "ok") & group["valid_accuracy"].notna()]
    counts = finished["variant"].value_counts()
    by_seed = finished.groupby(["variant", "data_seed"])["valid_accuracy"].mean()
    # Rounded as `fit` does: sums of equal numbers in another order are equal.
    means = by_seed.groupby("variant").mean().round(9)
    complete = [name for name in order if name in counts and counts[name] == counts.max()]
    return {name: float(means[name]) for name in complete}


def _expected_of(
    expected: Sequence[ExpectedTrials],
    names: Sequence[str],
    chosen: Mapping[tuple[Any, ...], str],
) -> list[ExpectedTrials]:
    """Return what is expected of the chosen variants; of the first where no trial exists."""
    wanted = dict(chosen)
    result = []
    for item, name in zip(expected, names, strict=True):
        if wanted.setdefault((item.task, item.level, item.classifier, item.method), name) == name:
            result.append(replace(item, variant={}))
    return result
