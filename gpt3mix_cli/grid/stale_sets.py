"""Warns before training of synthetic sets that were made with other settings than the config has.

Only settings are compared, so no model is opened; another LM or other real rows are not seen. A run
needs no such warning: it checks its sets in full, and makes them again.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from ..existing_outputs import differences_from
from ..records import Manifest, read_manifest
from ..settings import Experiment
from ..settings.prompt_content import PromptContent
from .stages import Stages
from .steps import AugmentStep, TrainStep

# Manifests have a hash in place of these.
HASHED = {"model", "revision", "similarity", "unlabelled", "num_unlabelled"}


def warn_of_stale_sets(grid: Stages, steps: Sequence[TrainStep]) -> None:
    """Warn once of each synthetic set that some trainings read, and that has other settings.

    Args:
        grid: the grid.
        steps: the trainings; those with files of their own are left out.
    """
    for item in _sets(grid, steps):
        path = grid.layout.synthetic_path(item.cell, item.method, item.draw)
        experiment, manifest = grid.experiment(item.cell), read_manifest(path)
        if manifest is None or manifest.stage != "augment":
            continue
        wanted = _wanted_settings(experiment, item.method, manifest)
        if differences := differences_from(manifest, wanted, manifest.inputs):
            stage = "augment" if item.method == "gpt3mix" else f"baseline --method {item.method}"
            grid.callbacks.warn(
                f"{path}: was made with other settings: {', '.join(differences)}; `gpt3mix {stage}`"
                " or `gpt3mix run` makes it again (with --force if it is finished)"
            )


def _sets(grid: Stages, steps: Sequence[TrainStep]) -> Iterator[AugmentStep]:
    sets = dict[AugmentStep, None]()  # several classifiers read one
    for step in steps:
        if step.method == "none" or step.augmented:
            continue
        pairs = grid.experiment(step.cell).trials_for(step.classifier, step.cell.data_seed)
        sets |= {AugmentStep(step.cell, step.method, draw): None for _, draw in pairs}
    yield from sets


def _wanted_settings(experiment: Experiment, method: str, manifest: Manifest) -> dict[str, Any]:
    """Return a manifest's settings, with the config's values of those that the config names."""
    settings, task = experiment.method_settings(method), experiment.task
    own = settings.model_dump(exclude=HASHED)
    prompt = PromptContent.model_fields if settings.uses_lm else {}
    known = {
        "task_labels": task.labels,
        "text_type": task.text_type,
        "label_type": task.label_type,
        "classes": task.classes,
        "ratio": experiment.augment.ratio,
        "filter": experiment.augment.filter.model_dump(),
    }
    wanted = dict(manifest.settings)
    # Some have no effect on this method, and are in no manifest.
    wanted |= {name: value for name, value in {**own, **known}.items() if name in wanted}
    # These are in a manifest only if they are given.
    wanted |= {name: own[name] for name in prompt if own.get(name)}
    if settings.uses_lm:  # the size of the LM decides what `auto` means
        auto = [name for name in wanted if own.get(name) == "auto"]
        wanted |= {name: manifest.settings[name] for name in auto}
    wanted.pop("decontaminate", None)
    if experiment.subsample.decontaminate == "drop":
        wanted["decontaminate"] = "drop"
    return wanted
