"""Cells -> comparisons: pairs of columns in each line, the same pairs over all lines, averages and gains.

Methods are compared within a variant, each with each; the variants of a method with the first one of the sweep. A method
that a sweep leaves as it is (its trials are equal in all variants) takes part once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from .averages import Group, Unit
from .model import Average, CellRow, Comparison, Pooled
from .statistics import holm, intervals, permutation_p, smallest_p, wilcoxon_p

Block = tuple[str, str, str]  # task, level, classifier


@dataclass(frozen=True)
class Pair:
    """Two cells of a line that can be compared, by their places among the groups."""

    a: int
    b: int
    names: tuple[str, str, str]  # a, b, the variant of both


def compared(groups: Sequence[Group]) -> tuple[list[Comparison], list[Pooled], dict[int, float]]:
    """Return the comparisons of each line, those over all lines, and the gain of each cell over no augmentation."""
    blocks: dict[Block, list[int]] = {}
    for place, group in enumerate(groups):
        if group.units:
            blocks.setdefault(
                (group.cell.task, group.cell.level, group.cell.classifier), []
            ).append(place)
    pairs = [pair for places in blocks.values() for pair in _pairs(groups, places)]
    differences = [_differences(groups[pair.a], groups[pair.b]) for pair in pairs]
    kept = [place for place, found in enumerate(differences) if found]
    pairs, differences = [pairs[place] for place in kept], [differences[place] for place in kept]
    comparisons = _tested(groups, pairs, [list(found.values()) for found in differences])
    return comparisons, _pooled(groups, pairs, differences), _gains(groups, blocks)


def shared_variants(groups: Sequence[Group]) -> set[int]:
    """Return the places of cells that stand for all variants, and take no variant's name: the sweep leaves them as they are."""
    return {place for place, others in _shared(groups, range(len(groups))).items() if others}


def _shared(groups: Sequence[Group], places: Iterable[int]) -> dict[int, list[int]]:
    """Return the first cell of each method that is equal in all variants, with its copies; a lone variant has none."""
    alike: dict[tuple[str, str, str, str], list[int]] = {}
    for place in places:
        cell = groups[place].cell
        alike.setdefault((cell.task, cell.level, cell.classifier, cell.column), []).append(place)
    found: dict[int, list[int]] = {}
    for first, *others in alike.values():
        if (
            others
            and groups[first].units
            and all(_trials(groups[other]) == _trials(groups[first]) for other in others)
        ):
            found[first] = others
    return found


def _trials(group: Group) -> dict[tuple[int, int], float | None]:
    return {(row.data_seed, row.trial): row.accuracy for row in group.rows}


def _pairs(groups: Sequence[Group], places: Sequence[int]) -> Iterable[Pair]:
    """Yield what is compared in a line; the method that the paper is about stands first, no augmentation last."""
    shared = _shared(groups, places)
    copies = {other for others in shared.values() for other in others}
    left = [place for place in places if place not in copies]

    def variant(place: int) -> str:
        return "" if place in shared else groups[place].cell.variant

    def rank(place: int) -> int:
        return {"gpt3mix": -1, "none": 1}.get(groups[place].cell.method, 0)

    variants: dict[str, list[int]] = {}
    for place in left:
        variants.setdefault(variant(place), []).append(place)
    common = variants.pop("", [])
    for members in [[], *variants.values()] if common else variants.values():
        # What stands for all variants is compared among itself once, and with each variant.
        both = [*common, *members]
        for number, one in enumerate(both):
            for other in (
                both[number + 1 :]
                if members == []
                else [place for place in both[number + 1 :] if place in members]
            ):
                if (
                    groups[one].cell.column != groups[other].cell.column
                    and groups[one].tested_on == groups[other].tested_on
                ):
                    a, b = sorted((one, other), key=rank)
                    yield Pair(
                        a,
                        b,
                        (
                            groups[a].cell.column,
                            groups[b].cell.column,
                            variant(one) or variant(other),
                        ),
                    )
    firsts: dict[str, int] = {}
    for place in left:
        cell = groups[place].cell
        first = firsts.setdefault(cell.column, place)
        if (
            first != place
            and variant(first) != variant(place)
            and groups[first].tested_on == groups[place].tested_on
        ):
            yield Pair(
                place,
                first,
                (
                    f"{cell.column} ({cell.variant})",
                    f"{cell.column} ({groups[first].cell.variant})",
                    "",
                ),
            )


def _differences(a: Group, b: Group) -> dict[Unit, float]:
    """Return the difference of each data seed that both have with the same rows, trials averaged within it."""
    return {unit: mean - b.units[unit] for unit, mean in a.units.items() if unit in b.units}


def _by_size(rows: Sequence[Sequence[float]]) -> Iterable[tuple[list[int], list[Sequence[float]]]]:
    """Yield the places of equally long rows, and these rows."""
    places: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(len(row), []).append(place)
    for found in places.values():
        yield found, [rows[place] for place in found]


def _tested(
    groups: Sequence[Group], pairs: Sequence[Pair], differences: Sequence[Sequence[float]]
) -> list[Comparison]:
    limits: dict[int, tuple[float, float]] = {}
    p: dict[int, float] = {}
    ranks: dict[int, float] = {}
    for places, values in _by_size(differences):
        if len(values[0]) > 1:
            limits |= {
                place: (low, high)
                for place, (low, high) in zip(places, intervals(values).tolist(), strict=True)
            }
            p |= zip(places, permutation_p(values).tolist(), strict=True)
            ranks |= zip(places, wilcoxon_p(values).tolist(), strict=True)
    corrected = dict(zip(p, holm(list(p.values())), strict=True))
    found = []
    for place, (pair, own) in enumerate(zip(pairs, differences, strict=True)):
        cell, (a, b, variant) = groups[pair.a].cell, pair.names
        each = Comparison(
            a=a, b=b, task=cell.task, variant=variant, level=cell.level, classifier=cell.classifier, n_pairs=len(own),
            diff=sum(own) / len(own), ci=limits.get(place), p=p.get(place), p_wilcoxon=ranks.get(place),
            p_corrected=corrected.get(place), smallest_p=smallest_p(len(own)),
        )  # fmt: skip
        found.append(each)
    return found


def _pooled(
    groups: Sequence[Group], pairs: Sequence[Pair], differences: Sequence[Mapping[Unit, float]]
) -> list[Pooled]:
    """Return each pair over all its lines: the signs of a (task, data seed) flip together on all levels, which share rows."""
    kinds: dict[tuple[str, ...], list[int]] = {}
    for place, pair in enumerate(pairs):
        kinds.setdefault((groups[pair.a].cell.classifier, *pair.names), []).append(place)
    kinds = {names: places for names, places in kinds.items() if len(places) > 1}
    units: list[dict[tuple[str, int], float]] = []
    for places in kinds.values():
        units.append({})
        for place in places:
            for (seed, _), difference in differences[place].items():
                key = groups[pairs[place].a].cell.task, seed
                units[-1][key] = units[-1].get(key, 0.0) + difference / len(
                    differences[place]
                ) / len(places)
    p: dict[int, float] = {}
    for numbers, values in _by_size([list(each.values()) for each in units]):
        if len(values[0]) > 1:
            p |= zip(numbers, permutation_p(values).tolist(), strict=True)
    corrected = dict(zip(p, holm(list(p.values())), strict=True))
    found = []
    for number, ((classifier, a, b, variant), places) in enumerate(kinds.items()):
        cells = [(groups[pairs[place].a].cell, groups[pairs[place].b].cell) for place in places]
        signs = [_shown(cell) - _shown(other) for cell, other in cells]
        count = len(units[number])
        tasks: dict[str, list[float]] = {}
        for place in places:
            tasks.setdefault(groups[pairs[place].a].cell.task, []).append(
                fmean(differences[place].values())
            )
        of_tasks = [fmean(values) for values in tasks.values()]
        each = Pooled(
            a=a, b=b, variant=variant, classifier=classifier, tasks=len(tasks), lines=len(places), units=count,
            wins=sum(sign > 0 for sign in signs), ties=sum(sign == 0 for sign in signs), losses=sum(sign < 0 for sign in signs),
            diff=sum(units[number].values()), least=min(of_tasks), most=max(of_tasks),
            p=p.get(number), p_corrected=corrected.get(number), smallest_p=smallest_p(count),
        )  # fmt: skip
        found.append(each)
    return found


def _shown(cell: CellRow) -> float:
    return float(f"{100 * (cell.mean or 0):.1f}")


def _gains(groups: Sequence[Group], blocks: Mapping[Block, Sequence[int]]) -> dict[int, float]:
    """Return the mean gain over no augmentation by the place of the cell; with two of these to choose from there is none."""
    gains = {}
    for places in blocks.values():
        plain: dict[str, list[int]] = {}
        for place in places:
            if groups[place].cell.method == "none":
                plain.setdefault(groups[place].cell.variant, []).append(place)
        for place in places:
            found = plain.get(groups[place].cell.variant, [])
            if (
                groups[place].cell.method != "none"
                and len(found) == 1
                and groups[found[0]].tested_on == groups[place].tested_on
            ):
                values = _differences(groups[place], groups[found[0]]).values()
                if values:
                    gains[place] = sum(values) / len(values)
    return gains


def average_over_tasks(groups: Sequence[Group]) -> list[Average]:
    """Return each column's mean over the tasks of a level; with a single task there is nothing to average."""
    tasks: dict[tuple[str, str], set[str]] = {}
    cells: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for cell in (group.cell for group in groups):
        tasks.setdefault((cell.level, cell.classifier), set()).add(cell.task)
        if cell.mean is not None:
            cells.setdefault((cell.variant, cell.level, cell.classifier, cell.column), {})[
                cell.task
            ] = cell.mean
    return [
        Average(
            variant,
            level,
            classifier,
            column,
            len(means),
            len(tasks[level, classifier]),
            sum(means.values()) / len(means),
        )
        for (variant, level, classifier, column), means in cells.items()
        if len(tasks[level, classifier]) > 1
    ]
