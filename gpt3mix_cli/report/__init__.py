"""From trial rows to tables: mean and standard deviation over trials for each level, method and classifier.

Trials that ran under different settings are never averaged: they are told apart by their settings' hash. A torn last
line of a file is reported and passed over.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Tell, UserError, quiet
from ..files import whole_file
from ..records import Trial, read
from ..settings import fingerprint
from . import tables

# What makes a trial this one and no other.
IDENTITY = {"task", "variant", "level", "method", "classifier", "settings", "test_sha", "train_sha", "data_seed", "trial"}


@dataclass(frozen=True)
class Wanted:
    """A trials file that a config asks for."""

    path: Path
    trials: int
    task: str
    level: str
    method: str
    classifier: str
    variant: Mapping[str, Any]


@dataclass
class Report:
    """The cells, remarks on them, and the files written."""

    title: str
    cells: list[tables.CellRow]
    remarks: list[str]
    files: list[Path] = field(default_factory=list)


def report(sources: Sequence[Path], output: Path, *, title: str, wanted: Sequence[Wanted] = (), tell: Tell = quiet) -> Report:
    """Write report.md and table.csv over the trials of files and folders.

    Args:
        sources: trials files, or folders in which they are looked for.
        output: the folder of the report.
        title: its heading.
        wanted: what a config asks for, so that missing trials are told; gives the order of rows and columns too.
        tell: hears warnings.

    Raises:
        UserError: if there is no trial at all.
    """
    trials = list(_trials(sources, wanted, tell))
    if not trials:
        raise UserError(f"{', '.join(map(str, sources))}: no trials found", "train first: gpt3mix train CONFIG, or gpt3mix run CONFIG")
    cells = _cells(trials, wanted)
    result = Report(title, cells, list(_remarks(trials, cells)))
    for name, text in (("report.md", tables.markdown_page(title, cells, result.remarks)), ("table.csv", tables.csv_text(cells))):
        with whole_file(output / name) as stream:
            stream.write(text.encode())
        result.files.append(output / name)
    return result


def _trials(sources: Sequence[Path], wanted: Sequence[Wanted], tell: Tell) -> Iterator[Trial]:
    files: list[Path] = [item.path for item in wanted if item.path.exists()]
    if not wanted:
        for source in sources:
            files += _trials_files(source) if source.is_dir() else [source]
    seen: dict[str, Trial] = {}
    repeated = 0
    for path in {path.resolve(): path for path in files}.values():
        for row in _rows(path, tell):
            name = fingerprint(row.model_dump(include=IDENTITY))
            if name not in seen:
                seen[name] = row
                yield row
            elif row.accuracy == seen[name].accuracy:
                repeated += 1
            else:
                message = f"{path}: trial {row.trial} of data seed {row.data_seed} stands elsewhere with another accuracy"
                raise UserError(message, "leave out one of the two runs")
    if repeated:
        tell(f"{repeated} trials stand twice and are counted once")


def _trials_files(folder: Path) -> list[Path]:
    """Return the trials files of a folder: `trials/*.jsonl` and `trials.jsonl` at any depth, and its own if it is `trials`."""
    own = folder.glob("*.jsonl") if folder.resolve().name == "trials" else []
    found = {*folder.rglob("trials/*.jsonl"), *folder.rglob("trials.jsonl"), *own}
    return sorted(path for path in found if not path.name.endswith(".history.jsonl"))


def _rows(path: Path, tell: Tell) -> Iterator[Trial]:
    rows = read(path, Trial)
    try:
        yield from rows
    except UserError as error:
        number, last = 0, b"\n"
        with path.open("rb") as stream:
            for number, last in enumerate(stream, 1):  # noqa: B007 - the last ones are wanted
                pass
        if last.endswith(b"\n") or f"{path}, line {number}:" not in error.message:
            raise
        tell(f"{error.message}; the last line is torn and was passed over")


def _cells(trials: Sequence[Trial], wanted: Sequence[Wanted]) -> list[tables.CellRow]:
    Key = tuple[str, str, str, str, str]
    variants: dict[str, Mapping[str, Any]] = {}

    def key(item: Trial | Wanted) -> Key:
        name = tables.variant_name(item.variant)
        variants[name] = item.variant
        return item.task, name, item.level, item.classifier, item.method

    asked: dict[Key, int] = {}
    for item in wanted:
        asked[key(item)] = asked.get(key(item), 0) + item.trials
    groups: dict[Key, dict[str, list[Trial]]] = {each: {} for each in asked}
    for trial in trials:
        # Scores on another test set are as little to be averaged as those under other settings.
        which = f"{(trial.settings or '')[:6]}/{(trial.test_sha or '')[:6]}"
        groups.setdefault(key(trial), {}).setdefault(which, []).append(trial)
    cells = []
    for (task, variant, level, classifier, method), by_settings in groups.items():
        expected = asked.get((task, variant, level, classifier, method))
        for which, rows in (by_settings or {"": []}).items():
            common = {"task": task, "variant": variant, "level": level, "classifier": classifier, "method": method}
            shown = which if len(by_settings) > 1 else None
            cells.append(_cell(rows, expected, settings=rows[0].settings if rows else None, told_apart=shown, **common))
    return cells


def _cell(rows: Sequence[Trial], expected: int | None, *, settings: str | None, told_apart: str | None, **common: str) -> tables.CellRow:
    good = [row for row in rows if row.status == "ok" and row.accuracy is not None]

    def mean(name: str) -> float | None:
        values = [getattr(row, name) for row in good if getattr(row, name) is not None]
        return statistics.fmean(values) if values else None

    accuracies = [row.accuracy for row in good if row.accuracy is not None]
    return tables.CellRow(
        **common,
        settings=settings,
        told_apart=told_apart,
        n=len(good),
        failed=len(rows) - len(good),
        expected=expected,
        data_seeds=len({row.data_seed for row in good}),
        mean=mean("accuracy"),
        std=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        macro_f1=mean("macro_f1"),
        mcc=mean("mcc"),
        majority=mean("majority"),
        ece=mean("ece"),
        n_train=mean("n_train"),
        n_synthetic=mean("n_synthetic"),
        n_test=mean("n_test"),
        tokens_per_prediction=mean("tokens_per_prediction"),
    )


def _remarks(trials: Sequence[Trial], cells: Sequence[tables.CellRow]) -> Iterator[str]:
    for cell in cells:
        where = f"{cell.task} {cell.level} {cell.method} + {cell.classifier}" + (f" ({cell.variant})" if cell.variant else "")
        if cell.expected is not None and cell.n + cell.failed < cell.expected:
            yield f"{where}: {cell.n + cell.failed} of {cell.expected} trials are there"
        if cell.tokens_per_prediction is not None:
            yield f"{where}: each prediction costs {cell.tokens_per_prediction:,.0f} tokens of the LM, where a trained classifier asks none"
        if cell.failed:
            yield f"{where}: {cell.failed} trials failed and are left out of the mean"
        if cell.told_apart:
            yield f"{where}: trials of different settings or test sets are told apart (settings/test {cell.told_apart})"
        if cell.n_synthetic and cell.n_train and (whole := round(cell.n_synthetic / cell.n_train, 2)) and cell.ratios_differ(cells):
            yield f"{where}: {whole:g} synthetic rows for each real one, unlike other methods of this line"
    one_class = [row for row in trials if row.predicted_classes == 1]
    if one_class:
        first = one_class[0]
        where = f"{first.method} + {first.classifier}, data seed {first.data_seed}, trial {first.trial}"
        yield f"{len(one_class)} trials predict one class only, such as {where}"
    subsamples: dict[tuple[str, str, int], set[str | None]] = {}
    for row in trials:
        subsamples.setdefault((row.task, row.level, row.data_seed), set()).add(row.train_sha)
    for (task, level, seed), shas in subsamples.items():
        if len(shas) > 1:
            yield f"{task} {level}: trials of data seed {seed} started from different subsamples; they cannot be compared"
