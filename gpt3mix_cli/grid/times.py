"""How long an experiment takes on this machine: from earlier runs, or from a short measurement.

Earlier runs are the manifests and trials below the results folder. What none of them has run is
tried on a few rows, for about ten seconds besides loading; an endpoint is never asked. One trial at
a time is assumed: several jobs share the machine.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TypeVar

from ..augment import num_rows_wanted, open_augmenter
from ..errors import UserError, in_progress
from ..layout import MANIFEST_SUFFIX, Cell, TrialKey
from ..lm import IN_MEMORY, Journal, JournaledLM
from ..records import Example, Manifest, Trial, read_manifest, read_records
from ..settings import ClassifierSettings, Experiment
from ..train import cached_classifier
from ..train.targets import to_one_hot
from .runner import Grid

MEASURE_S = 10.0  # of measurements; after that nothing more is measured
FAST_METHODS = ("eda", "aeda")  # of microseconds a row: they are always measured
MAX_MANIFESTS = 500  # of earlier runs, the latest ones
LINEAR_OVERHEAD = 1_000  # rows whose time a linear training takes in any case
MAX_LINEAR_ROWS = 500  # of a measured linear training, which takes well under a second
MEASURED_ROWS = 8  # rows that are written to measure the speed; a training has four times as many
Speed = TypeVar("Speed", float, tuple[float, float])
READING_COST = 1 / 3  # labelling a row takes a third of training on it: no gradients


@dataclass(frozen=True)
class Times:
    """Seconds of the stages that are still to run.

    Attributes:
        stages: `augment gpt3mix` or `train minilm` -> seconds; None if they are unknown.
        sources: what they rest on, as sentences.
    """

    stages: dict[str, float | None] = field(default_factory=dict)
    sources: Sequence[str] = ()

    @property
    def total(self) -> float | None:
        """The sum of the stages that are known; None if none is."""
        known = [seconds for seconds in self.stages.values() if seconds is not None]
        return sum(known) if known or not self.stages else None


def estimate_times(grid: Grid, cells: Sequence[Cell], measure: bool = True) -> Times:
    """Return how long the stages of some cells take that have no result yet.

    Args:
        grid: the grid.
        cells: the cells.
        measure: try on a few rows what no earlier run has done.
    """
    return _Estimator(grid, measure).times(cells)


@dataclass(frozen=True)
class _Work:
    """Rows of a training: those that it learns from, those that it only labels, and an overhead."""

    training: int
    validation: int
    test: int
    overhead: int = 0

    def units(self, epochs: float) -> float:
        """Return the work in rows trained on once."""
        reading = epochs * self.validation + self.test
        return self.overhead + epochs * self.training + READING_COST * reading


class _Estimator:
    def __init__(self, grid: Grid, measure: bool) -> None:
        self._grid, self._measure = grid, measure
        self._measured_s = 0.0
        self._manifests = _latest_manifests(grid.out)
        self._sources: dict[str, None] = {}
        # method -> seconds a row; classifier -> seconds a unit of work, and epochs
        self._row_speeds: dict[str, float | None] = {}
        self._trial_speeds: dict[str, tuple[float, float] | None] = {}

    def times(self, cells: Sequence[Cell]) -> Times:
        stages: dict[str, float | None] = {}
        for cell in cells:
            with suppress(UserError):  # without data nothing is known; `plan` says so
                for name, seconds in self._cell(cell):
                    before = stages.get(name, 0.0)
                    unknown = seconds is None or before is None
                    stages[name] = None if unknown else (before or 0.0) + (seconds or 0.0)
        return Times(stages, list(self._sources))

    def _cell(self, cell: Cell) -> list[tuple[str, float | None]]:
        grid, experiment, seed = self._grid, self._grid.experiment(cell), cell.data_seed
        real, splits = grid.real_rows_or_draw(cell), grid.resources.splits(experiment)
        validation, test = len(splits.validation), len(splits.test)
        parts: list[tuple[str, float | None]] = []
        for method in experiment.methods:
            wanted = 0
            if experiment.needs_augmentation(method, seed):
                wanted = num_rows_wanted(experiment.augment.ratio, len(real))
                draws = experiment.draws_for(seed)
                paths = [grid.layout.synthetic_path(cell, method, draw) for draw in draws]
                missing = sum(not path.exists() for path in paths)
                speed = self._row_speed(cell, method, real) if missing else 0.0
                rows = missing * wanted
                parts.append((f"augment {method}", None if speed is None else rows * speed))
            for classifier in experiment.classifiers_for(method, seed):
                work = _Work(len(real) + wanted, validation, test, _overhead(classifier))
                key = TrialKey(cell, method, classifier.name)
                trials = len(experiment.trials_for(classifier, seed))
                if grid.layout.trials_path(key).exists():
                    trials = 0
                part = self._trials(experiment, classifier, trials, work, real, splits.validation)
                parts.append((f"train {classifier.name}", part))
        return parts

    def _trials(
        self,
        experiment: Experiment,
        classifier: ClassifierSettings,
        trials: int,
        work: _Work,
        real: Sequence[Example],
        validation: Sequence[Example],
    ) -> float | None:
        if not trials:
            return 0.0
        if classifier.name not in self._trial_speeds:
            self._trial_speeds[classifier.name] = self._speed_of_earlier(
                classifier, work.validation
            ) or self._try_out(lambda: self._train(experiment, classifier, real, validation))
        speed = self._trial_speeds[classifier.name]
        if speed is None:
            return None
        seconds, epochs = speed
        return trials * seconds * work.units(epochs)

    # Earlier runs --------------------------------------------------------------------------------

    def _speed_of_earlier(
        self, classifier: ClassifierSettings, validation: int
    ) -> tuple[float, float] | None:
        speeds, epochs = list[float](), list[float]()
        for path, manifest in self._manifests:
            about = manifest.settings.get("classifier")
            is_same = isinstance(about, dict) and about.get("kind") == classifier.kind
            if not is_same or not path.stem.endswith(f".{classifier.name}"):
                continue
            with suppress(UserError):
                for row in read_records(path, Trial):
                    if row.seconds:
                        rows = row.n_train + row.n_synthetic
                        work = _Work(rows, validation, row.n_test, _overhead(classifier))
                        epochs.append(row.epochs or 1)
                        speeds.append(row.seconds / max(1.0, work.units(epochs[-1])))
        if not speeds:
            return None
        self._sources[f"train {classifier.name}: {len(speeds)} earlier trials"] = None
        return median(speeds), median(epochs)

    def _row_speed(self, cell: Cell, method: str, real: Sequence[Example]) -> float | None:
        if method not in self._row_speeds:
            speed = self._speed_of_earlier_rows(cell, method)
            if speed is None:
                settings = self._grid.experiment(cell).method_settings(method)
                is_fast = getattr(settings, "kind", "") in FAST_METHODS
                speed = self._try_out(lambda: self._write(cell, method, real), is_fast)
            self._row_speeds[method] = speed
        return self._row_speeds[method]

    def _speed_of_earlier_rows(self, cell: Cell, method: str) -> float | None:
        experiment = self._grid.experiment(cell)
        uses_lm = experiment.lm_settings_for(method) is not None
        lm = self._grid.resources.planning_lm(experiment) if uses_lm else None
        speeds = list[float]()
        for _, manifest in self._manifests:
            is_same = manifest.stage == "augment" and manifest.settings.get("method") == method
            if lm and manifest.settings.get("lm") != lm.info.fingerprint:
                continue
            if is_same and manifest.seconds and (kept := manifest.counts.get("kept")):
                speeds.append(manifest.seconds / kept)
        if not speeds:
            return None
        self._sources[f"augment {method}: {len(speeds)} earlier files"] = None
        return median(speeds)

    # A measurement -------------------------------------------------------------------------------

    def _try_out(self, measure: Callable[[], Speed | None], is_fast: bool = False) -> Speed | None:
        if not self._measure or (self._measured_s > MEASURE_S and not is_fast):
            return None
        name = "measuring the speed of this machine"
        with in_progress(self._grid.callbacks, name), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about few rows
            try:
                return measure()
            except (UserError, RuntimeError, MemoryError, ValueError):
                return None  # `check` and `run` say why

    def _write(self, cell: Cell, method: str, real: Sequence[Example]) -> float | None:
        experiment = self._grid.experiment(cell)
        settings, task = experiment.method_settings(method), experiment.task
        journal = Journal(IN_MEMORY)
        if settings.uses_lm:
            if not self._grid.resources.planning_lm(experiment).info.is_local:
                self._sources[f"augment {method}: unknown, it depends on the endpoint"] = None
                return None
            lm = self._grid.resources.lm(experiment)
            journaled = JournaledLM(lm, IN_MEMORY, [], self._grid.callbacks.warn)
            augmenter = open_augmenter(settings, task, journaled, method)
        else:
            augmenter = open_augmenter(settings, task, journal=journal)
        list(augmenter.generate(real, 0, 1, 0))  # loads what is needed
        seconds = self._seconds(lambda: list(augmenter.generate(real, 1, MEASURED_ROWS, 0)))
        self._sources[f"augment {method}: measured on {MEASURED_ROWS} rows"] = None
        return seconds / MEASURED_ROWS

    def _seconds(self, act: Callable[[], object]) -> float:
        started = time.monotonic()
        act()
        seconds = time.monotonic() - started
        self._measured_s += seconds
        return seconds

    def _train(
        self,
        experiment: Experiment,
        settings: ClassifierSettings,
        real: Sequence[Example],
        validation: Sequence[Example],
    ) -> tuple[float, float] | None:
        if settings.uses_lm:
            return None
        epochs, short = 1.0, settings
        if most := getattr(settings, "max_epochs", 0):
            epochs = min(most, 2 * getattr(settings, "patience", most))
            short = settings.model_copy(update={"max_epochs": 1})
        classes = tuple(experiment.task.classes)
        classifier = cached_classifier(short, classes)
        is_linear = settings.kind == "linear"
        count = MAX_LINEAR_ROWS if is_linear else 4 * MEASURED_ROWS
        rows = [to_one_hot(row, list(classes)) for row in real[:count]]
        few = validation[:count]
        other = next((row for row in rows if row.label != rows[0].label), rows[0])
        classifier.fit([rows[0], other], few[:2], 0)  # loads what is needed
        seconds = self._seconds(lambda: classifier.fit(rows, few, 0))
        self._sources[f"train {settings.name}: measured on {len(rows)} rows"] = None
        work = _Work(len(rows), len(few), 0, _overhead(settings))
        return seconds / max(1.0, work.units(1)), epochs


def _overhead(classifier: ClassifierSettings) -> int:
    return LINEAR_OVERHEAD if classifier.kind == "linear" else 0


def _latest_manifests(folder: Path) -> list[tuple[Path, Manifest]]:
    paths = islice(folder.rglob(f"*{MANIFEST_SUFFIX}"), 20 * MAX_MANIFESTS)
    latest = sorted(paths, key=lambda path: -path.stat().st_mtime)[:MAX_MANIFESTS]
    outputs = [path.with_name(path.name.removesuffix(MANIFEST_SUFFIX)) for path in latest]
    return [(output, manifest) for output in outputs if (manifest := read_manifest(output))]
