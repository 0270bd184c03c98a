"""Makes synthetic rows out of real ones: quota, rounds, the quality gate, rejects, resume.

An `Augmenter` hides how a row is made. A generator (GPT3Mix) is asked in rounds, first for what is wanted, then for what
is missing; its rows pass the gate. An editor (EDA, back-translation) gives exactly its share of rows for each parent.
Rows are taken in the order of their attempts, so ratio 10 extends ratio 1 and a resumed run makes the same rows. They go
straight to the file, which takes its place when it is whole.
"""

import gc
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import tee
from pathlib import Path
from typing import Any, Protocol, assert_never

from ..errors import NO_CALLBACKS, Callbacks, StoppedShort, UserError
from ..files import STDIO, exclusive_writer
from ..lm import LM, Journal, next_block_start
from ..records import (
    Augmented,
    Example,
    IncompleteOutput,
    Reject,
    StageResult,
    find_up_to_date,
    finish_output,
    hash_rows,
    record_writer,
    to_json_line,
)
from ..settings import (
    AedaSettings,
    AugmentSettings,
    BacktranslateSettings,
    EdaSettings,
    EditorSettings,
    FilterSettings,
    MlmSettings,
    Task,
)
from .editing import TextEditor, edited_lines
from .filter import DEFAULTS, RowFilter, normalize_text, remedy
from .statistics import Statistics

Keep = Callable[[str], object]
LOW_MASS = 0.5  # mean label mass under which an LM does not follow the prompt


class Augmenter(Protocol):
    """Turns examples into synthetic rows, in the order of the attempts.

    Attributes:
        about: every setting and model fingerprint that can change a row; goes into the manifest.
        edits: True if attempt i edits the parent i mod n, so that all rows are kept; False for a generator.
        rows: how many rows an attempt gives at most.
        block: attempts are asked for in whole blocks of at most this size, so that the numbers depend on no quota.
    """

    about: dict[str, Any]
    edits: bool
    block: int
    rows: int

    def generate(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Augmented | Reject]:
        """Yield the rows of attempts first..first+count in their order, each depending on (seed, its own number) only.

        A generator may yield several rows or rejects for an attempt, an editor yields one row.
        """

    def usage(self) -> Mapping[str, int]:
        """Return what was spent and counted so far; names that end in `_tokens` are tokens, all others events, such as shortened."""

    def usd(self) -> float | None:
        """Return what was spent so far, in dollars; None if that is unknown or nothing costs any."""

    def asked_as(self) -> str:
        """Return how an endpoint was asked; empty where there is none."""


def open_augmenter(
    settings: AugmentSettings | EditorSettings,
    task: Task,
    lm: LM | None = None,
    name: str = "gpt3mix",
    journal: Journal | None = None,
) -> Augmenter:
    """Return the augmenter for its settings.

    Args:
        settings: `Augment` for GPT3Mix, or those of a baseline that edits its parents.
        task: the labels, and the task specification of the prompt.
        lm: the language model, for GPT3Mix.
        name: what `method` says in GPT3Mix's rows.
        journal: what keeps translations.
    """
    match settings:
        case AugmentSettings():
            from .gpt3mix import GPT3Mix

            assert lm is not None, "GPT3Mix needs a language model"
            return GPT3Mix(settings, task, lm, name)
        case EdaSettings():
            from .eda import EDA

            return EDA(settings, task)
        case AedaSettings():
            from .aeda import AEDA

            return AEDA(settings, task)
        case MlmSettings():
            from .mlm import MLM

            return MLM(settings, task)
        case BacktranslateSettings():
            from .backtranslate import BackTranslation

            return BackTranslation(settings, task, journal)
        case _:
            assert_never(settings)


@dataclass
class AugmentationSink:
    """What the attempts came to; the rows themselves go where they are kept, so that there may be any number of them."""

    keep: Keep
    statistics: Statistics
    discard: Keep = id
    kept: int = 0
    asked: int = 0
    spare: int = 0
    unchanged: int = 0
    repeated: int = 0
    stopped: StoppedShort | None = None
    reasons: Counter[str] = field(default_factory=Counter)

    def take(self, row: Augmented) -> None:
        """Keep a row."""
        self.keep(to_json_line(row))
        self.statistics.add(row)
        self.kept += 1

    def reject(self, row: Reject) -> None:
        """Keep why there is no row."""
        self.discard(to_json_line(row))
        self.reasons[row.reason] += 1

    def counts(self, wanted: int) -> dict[str, Any]:
        """Return the counts that the manifest keeps."""
        return {
            "wanted": wanted,
            "asked": self.asked,
            "kept": self.kept,
            "rejected": dict(sorted(self.reasons.items())),
            "spare": self.spare,
            "unchanged": self.unchanged,
            "repeated": self.repeated,
        }


def run_attempts(
    augmenter: Augmenter,
    examples: Sequence[Example],
    wanted: int,
    attempts: float,
    seed: int,
    outcome: AugmentationSink,
    callbacks: Callbacks = NO_CALLBACKS,
    limits: FilterSettings = DEFAULTS,
    test: Sequence[Example] = (),
) -> None:
    """Make `wanted` rows, or fewer where `attempts x wanted` requests do not suffice.

    Args:
        augmenter: makes the rows.
        examples: the real rows, in the order of the subsample.
        wanted: how many rows are to be kept.
        attempts: at most this many requests for each wanted row; an editor needs exactly one.
        seed: of this synthetic set.
        outcome: takes the rows as they are made.
        callbacks: take progress.
        limits: the gate's thresholds; an editor's rows pass no gate.
        test: the rows of which the gate lets no copy through.
    """
    if augmenter.edits:
        _edit(augmenter, examples, wanted, seed, outcome, callbacks)
        return
    name = augmenter.about["method"]
    gate = RowFilter(examples, limits, test)
    limit = math.ceil(attempts * wanted)
    while outcome.kept < wanted and outcome.asked < limit:
        missing = min(math.ceil((wanted - outcome.kept) / augmenter.rows), limit - outcome.asked)
        # Whole blocks, so that what an attempt gives does not depend on how many rows are wanted; spare rows are not used.
        count = next_block_start(outcome.asked + missing - 1, augmenter.block) - outcome.asked
        try:
            for row in augmenter.generate(examples, outcome.asked, count, seed):
                if outcome.kept == wanted:
                    outcome.spare += 1
                    continue
                checked = gate.check(row)
                outcome.reject(checked) if isinstance(checked, Reject) else outcome.take(checked)
                callbacks.progress(
                    name, outcome.kept, wanted, _money(augmenter, outcome.kept, wanted)
                )
        except StoppedShort as error:
            # A budget that is used up, or servers that fail: what came before is kept.
            outcome.stopped, outcome.asked = (
                error,
                outcome.kept + outcome.reasons.total() + outcome.spare,
            )
            break
        outcome.asked += count


def _money(augmenter: Augmenter, kept: int, wanted: int) -> str:
    """Return what was spent so far, and what it will come to."""
    usage, usd = augmenter.usage(), augmenter.usd()
    if not usage.get("requests"):
        return ""
    tokens = spent(usage) or 0
    spent_so_far = f"{tokens:,} tokens" if usd is None else f"${usd:.4f}"
    whole = (
        f"{round(tokens * wanted / max(kept, 1)):,}"
        if usd is None
        else f"${usd * wanted / max(kept, 1):.4f}"
    )
    return f"{spent_so_far} of about {whole}"


def _edit(
    augmenter: Augmenter,
    examples: Sequence[Example],
    wanted: int,
    seed: int,
    outcome: AugmentationSink,
    callbacks: Callbacks,
) -> None:
    name, count = augmenter.about["method"], len(examples)
    # Hashes, since a million texts would fill the memory; only parents with several copies can have equal ones.
    seen: set[int] = set()
    # What stands already is not looked through for garbage again and again: a tenth of the time.
    gc.freeze()
    try:
        for attempt, text in enumerate(_edits(augmenter, examples, wanted, seed, outcome)):
            place = attempt % count
            text = normalize_text(text)
            outcome.unchanged += text == normalize_text(examples[place].text)
            if wanted > count:
                key = hash((place, text))
                outcome.repeated += key in seen
                seen.add(key)
            callbacks.progress(name, attempt + 1, wanted)
    finally:
        gc.unfreeze()
    outcome.asked = wanted


def _edits(
    augmenter: Augmenter,
    examples: Sequence[Example],
    wanted: int,
    seed: int,
    outcome: AugmentationSink,
) -> Iterator[str]:
    """Keep the rows of an editor, and yield their texts."""
    if not isinstance(augmenter, TextEditor):
        for row in augmenter.generate(examples, 0, wanted, seed):
            assert isinstance(row, Augmented), "an editor rejects nothing"
            outcome.take(row)
            yield row.text
        return
    classes = augmenter.about["classes"]
    texts, lines = tee(augmenter.texts(examples, 0, wanted, seed))
    for text, line in zip(
        texts, edited_lines(lines, examples, augmenter.about["method"], classes), strict=True
    ):
        outcome.keep(line)
        outcome.statistics.count(text, examples[outcome.kept % len(examples)].label, classes)
        outcome.kept += 1
        yield text


def augment(
    augmenter: Augmenter,
    examples: Sequence[Example],
    output: Path,
    *,
    ratio: float,
    attempts: float,
    seed: int,
    limit: int | None = None,
    gate: FilterSettings = DEFAULTS,
    test: Sequence[Example] = (),
    command: Sequence[str] = (),
    force: bool = False,
    callbacks: Callbacks = NO_CALLBACKS,
) -> StageResult:
    """Write `ratio x n` synthetic rows, at most `limit`, with their rejects and manifest, unless they are there already.

    A generator's rows pass the `gate`, which lets no copy of a `test` row through.

    Raises:
        StoppedShort: if fewer rows than wanted pass; they are written, with `complete: false`.
        UserError: if the disk, the examples or the model do not serve.
    """
    if not examples:
        raise UserError("there are no real examples to start from", "check the subsample")
    wanted = min(num_rows_wanted(ratio, len(examples)), sys.maxsize if limit is None else limit)
    # Not `attempts`: an output that is whole is the same with more of them.
    settings = {**augmenter.about, "ratio": ratio, "limit": limit, "seed": seed}
    inputs = {"train": hash_rows(examples)}
    if not augmenter.edits:
        settings["filter"] = gate.model_dump()
        inputs |= {"test": hash_rows(test)} if gate.reject_test_copies and test else {}
    with exclusive_writer(output):
        if not force and (manifest := find_up_to_date(output, settings, inputs)):
            return StageResult(output, manifest, skipped=True)
        started = time.monotonic()
        with ExitStack() as files:
            outcome = AugmentationSink(
                files.enter_context(record_writer(output)), Statistics(examples)
            )
            if output != STDIO and not augmenter.edits:
                outcome.discard = files.enter_context(record_writer(rejects_path(output)))
            run_attempts(
                augmenter, examples, wanted, attempts, seed, outcome, callbacks, gate, test
            )
            if outcome.stopped and not outcome.asked:
                # Nothing was made: what stands there already is worth more than an empty file.
                raise StoppedShort(
                    f"{output}: no row yet: {outcome.stopped.message}", outcome.stopped.hint
                )
        usage = augmenter.usage()
        manifest = finish_output(
            output,
            started,
            stage="augment",
            complete=outcome.kept == wanted,
            settings=settings,
            inputs=inputs,
            seed=seed,
            counts={
                **outcome.counts(wanted),
                **usage,
                **_how(augmenter),
                "statistics": outcome.statistics.figures(),
            },
            tokens=spent(usage),
            usd=augmenter.usd(),
            command=list(command),
        )
    if outcome.stopped:
        message = f"{output}: {outcome.kept} of {wanted} rows: {outcome.stopped.message}"
        raise IncompleteOutput(message, outcome.stopped.hint, StageResult(output, manifest))
    _remark(StageResult(output, manifest), callbacks)
    return StageResult(output, manifest)


def _how(augmenter: Augmenter) -> dict[str, str]:
    how = augmenter.asked_as()
    return {"asked_as": how} if how else {}


def spent(usage: Mapping[str, int]) -> int | None:
    """Return the tokens among what was counted; None where no tokens were."""
    tokens = [n for name, n in usage.items() if name.endswith("_tokens")]
    return sum(tokens) if tokens else None


def _remark(done: StageResult, callbacks: Callbacks) -> None:
    """Warn of prompts that lost examples, and of labels that mean little.

    Raises:
        StoppedShort: if rows are missing.
    """
    counts, output = done.manifest.counts, done.output
    figures = counts["statistics"]
    if shortened := counts.get("shortened"):
        callbacks.warn(
            f"{output}: {shortened} of {counts['asked']} prompts were longer than the LM's context and lost examples; a row's parents are those left"
        )
    if (mass := figures.get("label_mass")) and mass["mean"] < LOW_MASS:
        found = ", ".join(
            f"{n} {label}"
            for label, n in sorted(figures["classes"].items(), key=lambda item: -item[1])
            if n
        )
        callbacks.warn(
            f"{output}: the LM gave all label words together {mass['mean']:.1%} on average, so its labels ({found}) mean little"
        )
    if not done.manifest.complete:
        rejected = counts["rejected"]
        reasons = ", ".join(
            f"{n} {reason}" for reason, n in sorted(rejected.items(), key=lambda item: -item[1])
        )
        helps = remedy(rejected) or "use another LM"
        raise IncompleteOutput(
            f"{output}: {counts['kept']} of {counts['wanted']} rows after {counts['asked']} requests (rejected: {reasons or 'none'})",
            f"see {rejects_path(output)}; {helps}; or raise augment.attempts; and run again: answers are kept",
            done,
        )


def num_rows_wanted(ratio: float, n: int) -> int:
    """Return `ratio x n` rounded half up, in exact arithmetic."""
    return int(Fraction(str(ratio)) * n + Fraction(1, 2))


def rejects_path(output: Path) -> Path:
    """Return where the rejects of an output stand: `gpt3mix.jsonl` -> `gpt3mix.rejects.jsonl`."""
    return output.with_name(output.name.removesuffix(".jsonl") + ".rejects.jsonl")


def journal_path(output: Path) -> Path:
    """Return where the journal of an output stands: `gpt3mix.jsonl` -> `gpt3mix.journal.sqlite`."""
    return output.with_name(output.name.removesuffix(".jsonl") + ".journal.sqlite")
