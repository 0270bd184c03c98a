"""Looks at everything that a run will need, and gives a tick or the remedy for each: nothing is written."""

import functools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..augment import open_augmenter
from ..errors import UserError
from ..method.prompt import choices, prompt, to_label
from ..records import Example
from ..settings import (
    BaselineSettings,
    ClassifierSettings,
    Experiment,
    ParaphraseSettings,
    fingerprint,
    generator,
)
from ..subsample import rows_per_class
from .runner import Grid

LITTLE = 200_000_000  # bytes of free disk under which a warning is due


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `remedy` is empty where nothing is to be done."""

    what: str
    good: bool
    detail: str
    remedy: str = ""


def check(grid: Grid) -> Iterator[Finding]:
    """Yield a finding for the data, the LM, each baseline and classifier, the devices and the disk.

    Of a sweep every variant is looked at, and what several share once.
    """
    first = grid.experiments[0]
    sweep = f", {len(grid.experiments)} variants" if len(grid.experiments) > 1 else ""
    yield Finding("config", True, f"{first.name}: methods {', '.join(first.methods)}{sweep}")
    seen: set[str] = set()
    for experiment in grid.experiments:
        for what, key, look in _looks(grid, experiment):
            name = fingerprint([what, key])
            if name not in seen:
                seen.add(name)
                yield _try(what, look)
    yield Finding("devices", True, _devices())
    yield _disk(grid.out)


def _looks(grid: Grid, experiment: Experiment) -> Iterator[tuple[str, object, Callable[[], str]]]:
    """Yield (what is looked at, what the look depends on, the look)."""
    task, labels = experiment.task.model_dump(), experiment.task.labels
    yield (
        "data",
        [task, experiment.subsample.model_dump(), experiment.augment.k],
        functools.partial(_data, grid, experiment),
    )
    if experiment.lm:
        yield (
            "lm",
            [experiment.lm.model_dump(), experiment.augment.model_dump(), task],
            functools.partial(_lm, grid, experiment),
        )
        if experiment.augment.selection in ("nearest", "furthest"):
            yield (
                "similarity",
                experiment.augment.similarity,
                functools.partial(_similarity, experiment),
            )
    for baseline in experiment.baselines:
        yield (
            f"baseline {baseline.name}",
            [baseline.model_dump(), labels],
            functools.partial(_baseline, experiment, baseline),
        )
    for classifier in experiment.classifiers:
        look = functools.partial(_classifier, grid, experiment, classifier)
        yield f"classifier {classifier.name}", [classifier.model_dump(), labels], look


def _try(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except UserError as error:
        return Finding(what, False, error.message, error.hint)


def _data(grid: Grid, experiment: Experiment) -> str:
    splits = grid.resources.splits(experiment)
    classes, augment = experiment.task.classes, experiment.augment
    for level in experiment.subsample.levels:
        rows = (
            len(splits.train)
            if level == "full"
            else rows_per_class(level, len(splits.train), len(classes)) * len(classes)
        )
        if experiment.lm and augment.k > rows:
            raise UserError(
                f"augment.k is {augment.k}, but level {level} has only {rows} rows",
                "lower augment.k, or raise the level",
            )
    sizes = f"{len(splits.train)} train, {len(splits.validation)} validation, {len(splits.test)} test rows"
    return f"{sizes}; classes {', '.join(classes)}"


def _lm(grid: Grid, experiment: Experiment) -> str:
    lm = grid.resources.lm(experiment)
    task = experiment.task
    example = Example(id="check", text="A first try.", label=task.classes[0])
    wanted, limit = experiment.augment.k, lm.info.context_length - experiment.augment.max_tokens
    fitting = next(
        (
            k
            for k in range(wanted, 0, -1)
            if lm.info.count_tokens(prompt(task, [example] * k)) <= limit
        ),
        0,
    )
    if not fitting:
        message = f"a prompt of one example and max_tokens do not fit the context of {lm.info.context_length} tokens"
        raise UserError(message, "lower augment.max_tokens, or use another LM")
    scores = lm.score([to_label(task, [example] * fitting, "A second try.")], choices(task))[0]
    shortened = (
        f"; of k = {wanted} short examples only {fitting} fit, so prompts will be shortened"
        if fitting < wanted
        else ""
    )
    found = "" if scores.source == "exact" else f", here {scores.source}"
    return f"{lm.info.model}: {lm.describe()}{found}, context {lm.info.context_length}{shortened}"


def _similarity(experiment: Experiment) -> str:
    from ..method.selection import ExampleSelector

    augment, label = experiment.augment, experiment.task.classes[0]
    examples = [
        Example(id=str(number), text=text, label=label)
        for number, text in enumerate(("A first try.", "A second try."))
    ]
    ExampleSelector(examples, augment.selection, augment.similarity).choose(
        2, generator(0, "check")
    )
    return f"{augment.similarity}, for the {augment.selection} examples"


def _baseline(experiment: Experiment, baseline: BaselineSettings) -> str:
    if isinstance(baseline, ParaphraseSettings):
        return f"GPT3Mix with one example in the prompt, by the LM {experiment.lm and experiment.lm.model}"
    augmenter = open_augmenter(baseline, experiment.task)
    parent = Example(
        id="check", text="This film is a quiet little wonder.", label=experiment.task.classes[0]
    )
    row = next(augmenter.generate([parent], 0, 1, 0))
    return f"'{parent.text}' -> '{row.text}'"


def _classifier(grid: Grid, experiment: Experiment, classifier: ClassifierSettings) -> str:
    model = grid.resources.classifier(experiment, classifier)
    model.probe()
    return ", ".join(f"{key} {value}" for key, value in model.about.items() if key != "kind")


def _devices() -> str:
    import torch

    gpus: Sequence[str] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found = ", ".join(f"cuda:{i} {name}" for i, name in enumerate(gpus)) or "no GPU"
    return f"{os.cpu_count()} CPU cores ({torch.get_num_threads()} threads), {found}"


def _disk(out: Path) -> Finding:
    place = out.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK) or not place.is_dir():
        return Finding(
            "output", False, f"{out}: cannot be written", "choose another place with --out"
        )
    return Finding(
        "output",
        free > LITTLE,
        f"{out}: {free / 1e9:.1f} GB free",
        "" if free > LITTLE else "free some space, or choose another place with --out",
    )
