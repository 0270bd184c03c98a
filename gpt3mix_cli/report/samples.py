"""Synthetic rows with their parents and soft labels, as in Table 4 of the paper."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Callbacks, UserError
from ..layout import cell_folder, subsample_beside, synthetic_paths
from ..records import Augmented, Example, read_records
from .model import Result, Sample

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_SAMPLES = 3  # of a task, variant and method
MAX_READ = 200  # rows from the beginning of a file


def select_samples(
    results: Sequence[Result], trials: "DataFrame", callbacks: Callbacks
) -> list[Sample]:
    """Return some synthetic rows of each task, variant and method.

    The first rows are one for each mixture of the parents' labels. There are none where only the
    trials were published.

    Args:
        results: all of them.
        trials: with the column `result`.
        callbacks: receive warnings about files that cannot be read.
    """
    samples: list[Sample] = []
    seen: set[tuple[str, str, str]] = set()
    files = trials[trials["method"] != "none"].drop_duplicates(["result", "path"])
    for index, trials_path, seed in zip(
        files["result"], files["path"], files["data_seed"], strict=True
    ):
        result = results[index]
        key = result.task, result.variant, result.method
        folder = cell_folder(trials_path)
        if key in seen or folder is None:
            continue
        for draw, path in synthetic_paths(folder, result.method):
            if draw == 0:
                seen.add(key)
                try:
                    samples += _samples(path, result, seed)
                except UserError as error:
                    callbacks.warn(f"{error.message}; its rows are not shown")
    return samples


def _samples(path: Path, result: Result, seed: int) -> Iterator[Sample]:
    subsample = subsample_beside(path)
    real = {row.id: row for row in read_records(subsample, Example)} if subsample.is_file() else {}
    mixtures: set[tuple[str, ...]] = set()
    first: list[Augmented] = []
    others: list[Augmented] = []
    for row in itertools.islice(read_records(path, Augmented), MAX_READ):
        mixture = tuple(sorted(real[name].label for name in row.parents if name in real))
        (others if mixture in mixtures else first).append(row)
        mixtures.add(mixture)
    for row in [*first, *others][:MAX_SAMPLES]:
        parents = [real[name] for name in row.parents if name in real]
        yield Sample(
            task=result.task, variant=result.variant, level=result.level, data_seed=int(seed),
            method=result.method, id=row.id, text=row.text, label=row.label, probs=row.probs,
            edited=row.label_source == "parent",
            parents=[(parent.text, parent.label) for parent in parents],
        )  # fmt: skip
