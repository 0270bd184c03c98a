"""An experiment's cells: what they are, where their files stand, and running the stages over them.

A cell is (variant, level, data seed); in it stand the subsample, a synthetic set for each method and draw, and a trials
file for each method and classifier. One LM and one encoder are loaded for all cells.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from . import data
from .augment import Augmenter, augment, journal_path, open_augmenter
from .errors import StoppedShort, Tell, UserError, quiet
from .files import STDIO, file_sha
from .lm import LM, open_lm
from .lm.journal import Journaled
from .records import Augmented, Done, Example, Row, read, read_manifest, rows_sha
from .report import Report, Wanted, report
from .settings import PART, Baseline, Classifier, Experiment, derived_seed, fingerprint
from .subsample import subsample
from .train import Cell, Synthetic, Work, open_classifier, train
from .train import Classifier as Trained

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Spot:
    """A cell and where its files stand."""

    experiment: Experiment
    out: Path
    level: str
    seed: int

    @property
    def folder(self) -> Path:
        """The cell's folder: the path is the key."""
        level = self.level.replace("%", "pct").replace("/", "-per-")
        variant = ",".join(f"{key}={_path_word(value)}" for key, value in self.experiment.variant.items())
        return self.out / self.experiment.name / variant / level / f"seed-{self.seed}"

    @property
    def real(self) -> Path:
        """The subsample."""
        return self.folder / "train.jsonl"

    def synthetic(self, method: str, draw: int) -> Path:
        """The synthetic rows of a method and draw."""
        return self.folder / (f"{method}.draw-{draw}.jsonl" if draw else f"{method}.jsonl")

    def trials(self, method: str, classifier: str) -> Path:
        """The trials of a method and classifier."""
        return self.folder / "trials" / f"{method}.{classifier}.jsonl"

    def dealt(self, classifier: Classifier | None) -> list[tuple[int, int]]:
        """Return (trial, draw) of this data seed: trials go round the seeds in turn, `draws` says when a set is shared.

        A seed that the experiment does not list stands alone and gets as many trials as a listed one.
        """
        seeds = self.experiment.subsample.seeds
        total = (classifier.trials if classifier else None) or self.experiment.trials
        numbers = range(seeds.index(self.seed) if self.seed in seeds else 0, total, len(seeds))
        draws = self.experiment.augment.draws
        turns = [(trial, trial // len(seeds)) for trial in numbers]
        return [(trial, turn if draws == "per-trial" else turn % draws) for trial, turn in turns]

    def draws(self) -> list[int]:
        """Return the draws that any classifier needs on this seed."""
        classifiers: Sequence[Classifier | None] = self.experiment.classifiers or [None]
        return sorted({draw for classifier in classifiers for _, draw in self.dealt(classifier)}) or [0]

    def used(self) -> bool:
        """Return whether any trial falls on this data seed: with fewer trials than seeds some stay without."""
        classifiers = self.experiment.classifiers
        return not classifiers or any(self.dealt(classifier) for classifier in classifiers)


def _path_word(value: Any) -> str:
    """Return a swept value as a path may hold it."""
    word = str(value)
    plain = "".join(letter if letter.isalnum() or letter in "._+-" else "_" for letter in word)
    # A mapping or a long text is told apart by its hash: two values must never share a folder.
    return plain if plain == word and len(word) <= 40 else f"{plain[:24]}-{fingerprint(value, 6)}"


@dataclass
class Grid:
    """Runs the stages over cells and keeps what is costly to load.

    Attributes:
        experiments: one a variant.
        out: the folder of results.
        command: for the manifests.
        force: redo what is up to date.
        tell: hears progress and warnings.
    """

    experiments: Sequence[Experiment]
    out: Path
    command: Sequence[str] = ()
    force: bool = False
    tell: Tell = quiet
    _kept: dict[str, Any] = field(default_factory=dict)

    def spots(self, level: str | None = None, seed: int | None = None) -> Iterator[Spot]:
        """Yield the cells of a level and seed, or of all that the experiment lists."""
        for experiment in self.experiments:
            listed = experiment.subsample
            for one_level in [level] if level else listed.levels:
                for one_seed in listed.seeds if seed is None else [seed]:
                    yield Spot(experiment, self.out, one_level, one_seed)

    # Stages of one cell ----------------------------------------------------------------------------------------------

    def subsample(self, spot: Spot, output: Path | None = None) -> Done:
        """Draw the cell's real rows."""
        return subsample(
            self.splits(spot.experiment),
            spot.experiment.task.classes,
            output or spot.real,
            level=spot.level,
            master_seed=spot.experiment.subsample.master_seed,
            seed=spot.seed,
            command=self.command,
            force=self.force,
            tell=self.tell,
        )

    def augment(self, spot: Spot, method: str, draw: int, source: Path | None = None, output: Path | None = None, limit: int | None = None) -> Done:
        """Make one synthetic set of a method."""
        experiment = spot.experiment
        output = output or spot.synthetic(method, draw)
        real = self._real(spot, source)
        _distinct(output, [source])
        # What an LM answers is kept even if the rows go to a pipe.
        augmenter, journal = self._augmenter(experiment, method, spot.synthetic(method, draw) if output == STDIO else output)
        try:
            return augment(
                augmenter,
                real,
                output,
                ratio=experiment.augment.ratio,
                attempts=experiment.augment.attempts,
                seed=derived_seed(experiment.subsample.master_seed, "augment", augmenter.about["kind"], spot.seed, draw),
                limit=limit,
                command=self.command,
                force=self.force,
                tell=self.tell,
            )
        finally:
            if journal:
                journal.close()

    def train(
        self, spot: Spot, method: str, classifier: Classifier, source: Path | None = None, added: Sequence[Path] = (), output: Path | None = None
    ) -> Done:
        """Run the cell's trials of a method and classifier; `added` files take the place of the method's own draws."""
        experiment = spot.experiment
        classes = experiment.task.classes
        trials = spot.dealt(classifier)
        place = output or spot.trials(method, classifier.name)
        _distinct(place, [source, *added])
        real = self._real(spot, source)
        if added:
            synthetic = {0: self._synthetic([*added], classes, real)}
            trials = [(trial, 0) for trial, _ in trials]
        elif method == "none":
            synthetic = {}
            trials = [(trial, 0) for trial, _ in trials]
        else:
            draws = {draw for _, draw in trials}
            synthetic = {draw: self._synthetic([spot.synthetic(method, draw)], classes, real) for draw in sorted(draws)}
        splits = self.splits(experiment)
        work = Work(
            self.classifier(classifier, classes),
            Cell(experiment.task.name, spot.level, method, classifier.name, experiment.variant, spot.seed, classes),
            real,
            synthetic,
            splits.validation,
            splits.test,
            experiment.subsample.master_seed,
        )
        return train(work, trials, place, command=self.command, force=self.force, tell=self.tell)

    def report(self, output: Path | None = None) -> Report:
        """Report on the trials of all cells, the missing ones included."""
        first = self.experiments[0]
        wanted = [
            Wanted(spot.trials(method, c.name), len(spot.dealt(c)), spot.experiment.task.name, spot.level, method, c.name, spot.experiment.variant)
            for spot in self.spots()
            for c in spot.experiment.classifiers
            for method in spot.experiment.methods
        ]
        return report([self.out / first.name], output or self.out / first.name / "report", title=first.name, wanted=wanted, tell=self.tell)

    # All cells -------------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Done | StoppedShort]:
        """Run every stage of every cell; yield each as it ends. A stage that stopped short does not keep the others."""
        steps = [step for spot in self.spots() if spot.used() for step in self._steps(spot)]
        for number, (spot, stage, arguments) in enumerate(steps):
            self.tell("all cells", number, len(steps))
            try:
                yield getattr(self, stage)(spot, *arguments)
            except StoppedShort as error:
                self.tell(str(error))
                yield error
        self.tell("all cells", len(steps), len(steps))

    def _steps(self, spot: Spot) -> Iterator[tuple[Spot, str, tuple[Any, ...]]]:
        yield spot, "subsample", ()
        for method in spot.experiment.methods:
            if method != "none":
                for draw in spot.draws():
                    yield spot, "augment", (method, draw)
            for classifier in spot.experiment.classifiers:
                if spot.dealt(classifier):
                    yield spot, "train", (method, classifier)

    # What is loaded once ---------------------------------------------------------------------------------------------

    def splits(self, experiment: Experiment) -> data.Splits:
        """Return the task's splits."""
        listed = experiment.subsample
        key = ["data", experiment.task.model_dump(), listed.master_seed, listed.validation]
        return self._once(key, lambda: data.load(experiment.task, listed.master_seed, listed.validation, self.tell))

    def lm(self, experiment: Experiment) -> LM:
        """Return the experiment's LM."""
        settings = experiment.lm
        if settings is None:
            raise UserError("the method 'gpt3mix' needs an `lm:` in the config", "add for example lm: {kind: local, model: bundled}")
        return self._once(["lm", settings.model_dump()], lambda: open_lm(settings))

    def classifier(self, settings: Classifier, classes: Sequence[str]) -> Trained:
        """Return the classifier for its settings."""
        key = ["classifier", settings.model_dump(exclude={"name", "trials"}), list(classes)]
        return self._once(key, lambda: open_classifier(settings, classes))

    def _augmenter(self, experiment: Experiment, method: str, output: Path) -> tuple[Augmenter, Journaled | None]:
        if method == "gpt3mix":
            journal = Journaled(self.lm(experiment), journal_path(output))
            return open_augmenter(experiment.augment, experiment.task, journal), journal
        settings = baseline_of(experiment, method)
        key = ["baseline", settings.model_dump(), list(experiment.task.labels.items())]
        return self._once(key, lambda: open_augmenter(settings, experiment.task)), None

    def _once(self, key: object, make: Callable[[], Kept]) -> Kept:
        """Return what was made for a key before, or make it now."""
        name = fingerprint(key)
        if name not in self._kept:
            self._kept[name] = make()
        kept: Kept = self._kept[name]
        return kept

    def _real(self, spot: Spot, source: Path | None) -> list[Example]:
        path = source or spot.real
        if source is None and not path.exists():
            raise UserError(f"{path}: no such file", f"draw it first: gpt3mix subsample CONFIG --level {spot.level} --seed {spot.seed}")
        rows = self._read(path, Example, spot.experiment.task.classes)
        if not rows:
            raise UserError(f"{path}: the file has no rows", "check the stage that wrote it, or give another file with -i")
        seen: set[str] = set()
        for number, row in enumerate(rows, 1):
            if row.id in seen:
                raise UserError(f"{path}, row {number}: the id '{row.id}' stands twice", "ids must be unique, since parents are named by them")
            seen.add(row.id)
        return rows

    def _read(self, path: Path, kind: type[Row], classes: Sequence[str]) -> list[Row]:
        """Return the rows of a file; stdin can be read but once, so its rows are kept."""
        if path != STDIO:
            return list(read(path, kind, classes))
        if "stdin" not in self._kept:
            self._kept["stdin"] = kind, list(read(path, kind, classes))
        held, rows = self._kept["stdin"]
        if held is not kind:
            raise UserError("real and synthetic rows cannot both come from stdin", "put one of them into a file")
        found: list[Row] = rows
        return found

    def added_method(self, paths: Sequence[Path]) -> str:
        """Return what method the rows of a file name, or the file's own name; it will be part of a file name."""
        first = next(iter(self._read(paths[0], Augmented, self.experiments[0].task.classes)), None)
        stem = "stdin" if paths[0] == STDIO else paths[0].name.removesuffix(".jsonl")
        return as_method(first.method if first and first.method else stem)

    def _synthetic(self, paths: Sequence[Path], classes: Sequence[str], real: Sequence[Example]) -> Synthetic:
        rows: list[Augmented] = []
        abouts: list[dict[str, Any]] = []
        tokens: list[int] = []
        for path in paths:
            found = self._read(path, Augmented, classes)
            manifest = read_manifest(path)
            if manifest and manifest.sha256 != file_sha(path):
                manifest = None
                self.tell(f"{path}: changed since it was made, so its manifest is passed over")
            if manifest and manifest.inputs.get("train") != rows_sha(real):
                hint = "make them again, or name the right files with -i and -a"
                raise UserError(f"{path}: its rows were made from other real rows than these", hint)
            if manifest and not manifest.complete:
                self.tell(f"{path}: only {len(found)} of {manifest.counts.get('wanted', '?')} rows; its stage stopped short")
            rows += found
            # Rows that came from elsewhere are one method; which rows they are is an input, not a setting.
            abouts.append(manifest.settings if manifest else {"made": "elsewhere"})
            tokens += [manifest.tokens] if manifest and manifest.tokens is not None else []
        about = abouts[0] if len(abouts) == 1 else {"files": abouts}
        return Synthetic(rows, about, sum(tokens) if tokens else None)


def baseline_of(experiment: Experiment, method: str) -> Baseline:
    """Return the settings of a baseline by its name."""
    for baseline in experiment.baselines:
        if baseline.name == method:
            return baseline
    names = ", ".join(baseline.name for baseline in experiment.baselines) or "none"
    raise UserError(f"the config has no baseline '{method}'", f"its baselines: {names}; add one under `baselines:`")


def _distinct(output: Path, inputs: Sequence[Path | None]) -> None:
    """Refuse to write over what is read."""
    for path in inputs:
        if path is not None and output != STDIO and path != STDIO and output.resolve() == path.resolve():
            raise UserError(f"{output}: is the input too", "write to another file")


def as_method(name: str) -> str:
    """Return a name that a method of no config may have: it will be part of a file name."""
    if not PART.fullmatch(name) or name in ("none", "train", "history"):
        raise UserError(f"'{name}' cannot be the name of a method", "give another one with --method, of letters, digits, '_', '+' and '-'")
    return name


def method_known(experiment: Experiment, method: str) -> str:
    """Return the method's name if the experiment has it."""
    if method not in experiment.methods:
        raise UserError(f"the config has no method '{method}'", f"its methods: {', '.join(experiment.methods)}")
    return method
