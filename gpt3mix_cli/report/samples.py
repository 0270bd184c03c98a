"""Synthetic rows with their parents and soft labels, as the paper's Table 4 shows them, read beside the trials."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import Callbacks, UserError
from ..records import Augmented, Example, read_records
from .averages import Group
from .model import Sample

SHOWN = 3  # rows of a method
LOOKED_AT = 200  # from the beginning of its file


def select_samples(groups: Sequence[Group], callbacks: Callbacks) -> list[Sample]:
    """Return some rows of each task, variant and method: the first for each mixture of the parents' labels.

    Where the synthetic rows are not beside the trials, as in a published trials file, there are none.
    """
    found: list[Sample] = []
    seen: set[tuple[str, str, str]] = set()
    for group in groups:
        cell = group.cell
        key = (cell.task, cell.variant, cell.method)
        if cell.method == "none" or key in seen:
            continue
        for path in dict.fromkeys(row.path for row in group.rows):
            rows = path.parent.parent / f"{cell.method}.jsonl"
            if path.parent.name == "trials" and rows.is_file():
                seed = next(row.data_seed for row in group.rows if row.path == path)
                try:
                    found += _samples(rows, group, seed)
                except UserError as error:
                    callbacks.warn(f"{error.message}; its rows are not shown")
                seen.add(key)
                break
    return found


def _samples(path: Path, group: Group, seed: int) -> Iterator[Sample]:
    real = path.with_name("train.jsonl")
    parents = {row.id: row for row in read_records(real, Example)} if real.is_file() else {}
    mixtures: set[tuple[str, ...]] = set()
    chosen: list[Augmented] = []
    others: list[Augmented] = []
    for row in itertools.islice(read_records(path, Augmented), LOOKED_AT):
        mixture = tuple(sorted(parents[name].label for name in row.parents if name in parents))
        (others if mixture in mixtures else chosen).append(row)
        mixtures.add(mixture)
    cell = group.cell
    for row in [*chosen, *others][:SHOWN]:
        yield Sample(
            task=cell.task, variant=cell.variant, level=cell.level, data_seed=seed, method=cell.method, id=row.id, text=row.text,
            label=row.label, probs=row.probs, edited=row.label_source == "parent",
            parents=[(parents[name].text, parents[name].label) for name in row.parents if name in parents],
        )  # fmt: skip
