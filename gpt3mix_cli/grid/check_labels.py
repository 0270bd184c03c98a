"""`check --labels` and `--specs`: how well the LM labels real rows, and with which specification.

As section 4.2 chose its optimal task specifications, but on the labels of the real rows: no
synthetic row has to be generated.
"""

from collections.abc import Iterator
from pathlib import Path

from ..augment.extras import ExtrasSource
from ..augment.label_check import LabelCheck, check_labels, wilson_interval
from ..config import load_specs
from ..errors import UserError
from ..layout import journal_path
from ..lm import JournaledLM
from ..settings import GPT3MIX, Experiment, Task, fingerprint
from .check import Finding
from .resources import existing_journals
from .runner import Grid
from .selection import select_cells

MAX_ROWS = 200  # of a subsample


def label_findings(
    grid: Grid, level: str | None = None, seed: int | None = None, specs: Path | None = None
) -> Iterator[Finding]:
    """Yield a finding for each LM and task of the config, or for each specification, best first.

    Args:
        grid: the experiment.
        level: whose rows are scored; None: the one with the most rows.
        seed: data seed of the rows; None: the first one.
        specs: a file of task specifications.

    Raises:
        UserError: if there is no LM, or the file is wrong.
    """
    done: set[str] = set()
    for experiment in grid.experiments:
        augment = experiment.augment
        key = [experiment.lm and experiment.lm.model_dump(), augment.k, augment.label_descriptions]
        name = fingerprint([*key, experiment.task.model_dump()])
        if name in done:
            continue
        done.add(name)
        if specs:
            yield from _ranked(grid, experiment, load_specs(specs, experiment.task), level, seed)
            continue
        found = _check(grid, experiment, experiment.task, level, seed)
        advice = found.advice()
        yield Finding("labels", True, f"{found.describe()}; {_cost(found)}", advice, bool(advice))


def _ranked(
    grid: Grid, experiment: Experiment, tasks: list[Task], level: str | None, seed: int | None
) -> Iterator[Finding]:
    checks = [(_check(grid, experiment, task, level, seed), task) for task in tasks]
    # With matched labels, as `label_prior` would use them. A log loss differs where few rows do
    # not tell accuracies apart.
    checks.sort(key=lambda pair: (-pair[0].matched_accuracy, pair[0].log_loss))
    intervals = [wilson_interval(found.matched_accuracy, found.rows) for found, _ in checks]
    for rank, ((found, task), interval) in enumerate(zip(checks, intervals, strict=True), 1):
        low, high = interval
        words = ", ".join(task.labels.values())
        yield Finding(
            f"{rank}. {task.text_type}, {task.label_type}: {words}",
            True,
            f"{found.matched_accuracy:.0%} of {found.rows} real rows right without bias "
            f"({low:.0%} to {high:.0%}), log loss {found.log_loss:.2f}; {_cost(found)}",
        )
    tied = sum(high >= intervals[0][0] for _, high in intervals) - 1
    noise = f"; {tied} others may be as good: their intervals reach the first's" if tied else ""
    yield Finding(
        "specifications",
        True,
        f"ranked by the labels that are right without the LM's bias, then by log loss{noise}",
        "copy the keys of the one that you want into `task:`"
        + ("; more rows (--level full) may tell them apart" if tied else ""),
    )


def _check(
    grid: Grid, experiment: Experiment, task: Task, level: str | None, seed: int | None
) -> LabelCheck:
    chosen = experiment.subsample.seeds[0] if seed is None else seed
    cells = [
        cell
        for cell in select_cells(grid, level, chosen)
        if cell.variant == experiment.variant and cell.task == experiment.task.name
    ]
    examples = max(map(grid.real_rows_or_draw, cells), key=len)
    if len(examples) < 2:
        raise UserError("check --labels needs two real rows", "choose a higher level with --level")
    output = grid.layout.root / "label-check.jsonl"
    siblings = existing_journals([grid.layout.synthetic_path(cell, GPT3MIX) for cell in cells])
    warn = grid.callbacks.warn
    lm = JournaledLM(grid.resources.lm(experiment), journal_path(output), siblings, warn)
    try:
        extras = ExtrasSource(experiment.augment, task, ()).of_label_check
        found = check_labels(lm, task, examples, experiment.augment.k, MAX_ROWS, extras)
    finally:
        lm.close()
    if found is None:
        raise UserError("no real row fits the LM's context", "use another LM")
    return found


def _cost(found: LabelCheck) -> str:
    usd = "" if found.usd is None else f", ${found.usd:.4f}"
    return f"{found.tokens:,} tokens{usd}"
