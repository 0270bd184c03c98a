"""Whether methods can be compared: each must start from the same subsample, and should end with as many rows."""

from collections.abc import Iterator, Sequence

from ..errors import UserError
from ..records import Trial
from .model import TrialRow

Place = tuple[str, str, str, int]
Row = Trial | TrialRow


def refuse_unfair(trials: Sequence[Row]) -> None:
    """Refuse trials of a task, variant, level and data seed whose methods or classifiers started from different subsamples.

    Failed trials have no figures to compare, and rows that do not say what they started from are believed. Several runs of
    one seed, each from its own subsample, may be pooled if every method has trials of each.

    Raises:
        UserError: naming two that differ.
    """
    started: dict[Place, dict[str, set[str]]] = {}
    for row in trials:
        if row.status == "ok" and row.train_sha:
            started.setdefault(_place(row), {}).setdefault(
                f"{row.method} + {row.classifier}", set()
            ).add(row.train_sha)
    for (task, _, level, seed), found in started.items():
        first, *others = found
        for other in others:
            if found[other] != found[first]:
                shas = [", ".join(sorted(found[name])) for name in (first, other)]
                raise UserError(
                    f"{task} {level}, data seed {seed}: {first} and {other} started from different subsamples (train_sha {shas[0]}; {shas[1]})",
                    "they cannot be compared: run `gpt3mix run CONFIG`, which does anew what is out of date, or report on them one by one",
                )


def shortages(trials: Sequence[Row]) -> Iterator[str]:
    """Yield, for each method, by how many synthetic rows it falls short of the method of its cells that has most."""
    most: dict[Place, int] = {}
    least: dict[tuple[str, str, str, str], dict[int, tuple[int, int]]] = {}
    made = [row for row in trials if row.status == "ok" and row.method != "none"]
    for row in made:
        place = _place(row)
        most[place] = max(most.get(place, 0), row.n_synthetic)
    for row in made:
        task, _, level, seed = place = _place(row)
        if (wanted := most[place]) > row.n_synthetic:
            seeds = least.setdefault((task, level, row.method, row.classifier), {})
            seeds[seed] = min(seeds.get(seed, (row.n_synthetic, wanted)), (row.n_synthetic, wanted))
    for (task, level, method, classifier), seeds in least.items():
        found, wanted = min(seeds.values(), key=lambda pair: pair[0] - pair[1])
        worst = next(seed for seed, pair in seeds.items() if pair == (found, wanted))
        others = f"; short on {len(seeds) - 1} more" if len(seeds) > 1 else ""
        yield f"{task} {level} {method} + {classifier}: {found} synthetic rows on data seed {worst}, {wanted - found} short of {wanted}{others}"


def _place(row: Row) -> Place:
    return row.task, str(row.variant), row.level, row.data_seed
