"""Keeps the rows that finished trials were trained on, before others are generated or paid for."""

import math

from ..errors import UserError
from ..existing_outputs import OTHER_NAME
from ..layout import Layout, TrialKey
from ..records import Manifest, read_manifest
from ..settings import Experiment
from .steps import AugmentStep


def keep_trained_rows(
    layout: Layout, experiment: Experiment, step: AugmentStep, limit: int | None = None
) -> None:
    """Stop before a synthetic set that finished trials have read becomes larger or smaller.

    The trials would be of other rows than the set has then, and would have to be repeated. Other
    settings of a finished set stop its stage anyway (`existing_outputs.protect_output`), but for
    the filter with `--no-top-up`.

    Args:
        layout: where the files are.
        experiment: the variant that the set belongs to.
        step: the set.
        limit: at most this many rows are wanted.

    Raises:
        UserError: that names the changed setting, and how to keep or to replace the results.
    """
    cell, method = step.cell, step.method
    rows = read_manifest(layout.synthetic_path(cell, method, step.draw))
    for classifier in experiment.classifiers_for(method, cell.data_seed):
        path = layout.trials_path(TrialKey(cell, method, classifier.name))
        trials = read_manifest(path)
        if trials is None or not trials.complete:
            continue
        wanted = dict(experiment.trials_for(classifier, cell.data_seed))
        change = _other_sets(trials, wanted)
        if rows and f"synthetic.{step.draw}" in trials.inputs:
            change = (
                change or _other_size(rows, experiment, limit) or _other_filter(rows, experiment)
            )
        if change:
            raise UserError(
                f"{path}: is finished, with other synthetic rows: {change}",
                f"to keep both, {OTHER_NAME}, another --out, or sweep the setting; to replace "
                "them, use --force (copies stay as *.bak)",
            )


def _other_size(rows: Manifest, experiment: Experiment, limit: int | None) -> str:
    """Return which setting changes the number of rows; empty if none does."""
    ratio, was = experiment.augment.ratio, rows.settings.get("ratio")
    if was is not None and was != ratio:
        return f"augment.ratio {was:g} -> {ratio:g}"
    # Trials on a preview, whose limit is lifted, are repeated.
    is_cut = (
        limit is not None
        and rows.complete
        and rows.settings.get("limit") is None
        and rows.counts.get("wanted", math.inf) > limit
    )
    return f"--limit none -> {limit}" if is_cut else ""


def _other_filter(rows: Manifest, experiment: Experiment) -> str:
    """Return which key of the filter takes rows out of a finished set; empty if none does."""
    was, wanted = rows.settings.get("filter"), experiment.augment.filter.model_dump()
    if not rows.complete or not isinstance(was, dict):
        return ""
    changed = (name for name, value in wanted.items() if value != was.get(name))
    return next(
        (f"augment.filter.{name} {was.get(name)} -> {wanted[name]}" for name in changed), ""
    )


def _other_sets(trials: Manifest, wanted: dict[int, int]) -> str:
    """Return which trial is to read another synthetic set; empty if none is."""
    for trial, draw in trials.settings.get("trials", ()):
        if wanted.get(trial, draw) != draw:
            return (
                f"trial {trial} has read set {draw} and is to read set {wanted[trial]}; see "
                "augment.synthetic_sets and subsample.seeds"
            )
    return ""
