"""Whether methods can be compared: same subsample at the start, as many synthetic rows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

CELL = ["task", "variant", "level", "data_seed"]
METHOD = ["method", "classifier"]


def refuse_unfair(trials: "DataFrame") -> None:
    """Refuse trials of one cell whose methods or classifiers started from different subsamples.

    Failed trials have no scores to compare, and rows without `train_sha` are not checked. Several
    runs of one data seed, each with its own subsample, may be pooled if every method has trials
    of each.

    Raises:
        UserError: naming two that differ.
    """
    used = trials[(trials["status"] == "ok") & trials["train_sha"].notna()]
    several = used.groupby(CELL)["train_sha"].transform("nunique") > 1
    for (task, _, level, seed), cell in used[several].groupby(CELL, sort=False):
        shas = cell.groupby(METHOD, sort=False)["train_sha"].agg(lambda column: sorted({*column}))
        first = shas.index[0]
        for other in shas.index[1:]:
            if shas[other] != shas[first]:
                names = " and ".join(f"{method} + {name}" for method, name in (first, other))
                values = "; ".join(", ".join(shas[key]) for key in (first, other))
                raise UserError(
                    f"{task} {level}, data seed {seed}: {names} started from different subsamples "
                    f"(train_sha {values})",
                    "they cannot be compared: `gpt3mix run CONFIG` repeats what is out of date; or "
                    "report on each of them alone",
                )


def find_shortages(trials: "DataFrame") -> Iterator[str]:
    """Yield how many synthetic rows a method has fewer than the method with most in its cell."""
    used = trials[(trials["status"] == "ok") & (trials["method"] != "none")]
    most = used.groupby(CELL)["n_synthetic"].transform("max")
    short = used.assign(most=most, missing=most - used["n_synthetic"])[used["n_synthetic"] < most]
    for (task, level, method, classifier), rows in short.groupby(
        ["task", "level", *METHOD], sort=False
    ):
        worst = rows.loc[rows["missing"].idxmax()]
        others = rows["data_seed"].nunique() - 1
        more = f"; also on {others} more" if others else ""
        yield (
            f"{task} {level} {method} + {classifier}: {worst['n_synthetic']} synthetic rows on "
            f"data seed {worst['data_seed']}, {worst['missing']} short of {worst['most']}{more}"
        )
