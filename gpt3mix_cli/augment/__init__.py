"""Makes synthetic rows out of real ones: quota, rounds, the quality gate, rejects, resume.

An `Augmenter` hides how a row is made. A generator (GPT3Mix) is asked in rounds, first for what is wanted, then for what
is missing; its rows pass the gate. An editor (EDA, back-translation) gives exactly its share of rows for each parent.
Rows are taken in the order of their attempts, so ratio 10 extends ratio 1 and a resumed run makes the same rows.
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, assert_never

from ..errors import StoppedShort, Tell, UserError, quiet
from ..files import STDIO, only_writer
from ..lm import LM, end_of_block
from ..records import Augmented, Done, Example, Reject, close_output, rows_sha, up_to_date, write
from ..settings import Aeda, Augment, Backtranslate, Eda, Editor, Mlm, Task
from ..settings import Gate as Limits
from .quality import DEFAULTS, Gate, remedy, same_text
from .statistics import statistics

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

    def generate(self, examples: Sequence[Example], first: int, count: int, seed: int) -> Iterator[Augmented | Reject]:
        """Yield the rows of attempts first..first+count in their order, each depending on (seed, its own number) only.

        A generator may yield several rows or rejects for an attempt, an editor yields one row.
        """

    def usage(self) -> Mapping[str, int]:
        """Return what was spent and counted so far; names that end in `_tokens` are tokens, all others events, such as shortened."""


def open_augmenter(settings: Augment | Editor, task: Task, lm: LM | None = None, name: str = "gpt3mix") -> Augmenter:
    """Return the augmenter for its settings.

    Args:
        settings: `Augment` for GPT3Mix, or those of a baseline that edits its parents.
        task: the labels, and the task specification of the prompt.
        lm: the language model, for GPT3Mix.
        name: what `method` says in GPT3Mix's rows.
    """
    match settings:
        case Augment():
            from .gpt3mix import GPT3Mix

            assert lm is not None, "GPT3Mix needs a language model"
            return GPT3Mix(settings, task, lm, name)
        case Eda():
            from .eda import EDA

            return EDA(settings, task)
        case Aeda():
            from .aeda import AEDA

            return AEDA(settings, task)
        case Mlm():
            from .mlm import MLM

            return MLM(settings, task)
        case Backtranslate():
            from .backtranslate import BackTranslation

            return BackTranslation(settings, task)
        case _:
            assert_never(settings)


def edited(parent: Example, text: str, copy: int, attempt: int, method: str, classes: Sequence[str]) -> Augmented:
    """Return the row of an editor: the parent's label as a distribution, an id that names parent and copy."""
    return Augmented(
        id=f"{parent.id}~{method}-{copy}",
        text=text,
        label=parent.label,
        probs={label: float(label == parent.label) for label in classes},
        method=method,
        parents=[parent.id],
        label_source="parent",
        label_mass=None,
        request=attempt,
    )


@dataclass
class Outcome:
    """What the attempts came to."""

    rows: list[Augmented] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    asked: int = 0
    spare: int = 0
    unchanged: int = 0
    repeated: int = 0

    def counts(self, wanted: int) -> dict[str, Any]:
        """Return the counts that the manifest keeps."""
        return {
            "wanted": wanted,
            "asked": self.asked,
            "kept": len(self.rows),
            "rejected": self.rejected(),
            "spare": self.spare,
            "unchanged": self.unchanged,
            "repeated": self.repeated,
        }

    def rejected(self) -> dict[str, int]:
        """Return how many rows each reason has rejected."""
        return dict(sorted(Counter(row.reason for row in self.rejects).items()))


def make(
    augmenter: Augmenter,
    examples: Sequence[Example],
    wanted: int,
    attempts: float,
    seed: int,
    tell: Tell = quiet,
    limits: Limits = DEFAULTS,
    test: Sequence[Example] = (),
) -> Outcome:
    """Return `wanted` rows, or fewer where `attempts x wanted` requests do not suffice.

    Args:
        augmenter: makes the rows.
        examples: the real rows, in the order of the subsample.
        wanted: how many rows are to be kept.
        attempts: at most this many requests for each wanted row; an editor needs exactly one.
        seed: of this synthetic set.
        tell: hears progress.
        limits: the gate's thresholds; an editor's rows pass no gate.
        test: the rows of which the gate lets no copy through.
    """
    outcome = Outcome()
    name = augmenter.about["method"]
    if augmenter.edits:
        _edit(augmenter, examples, wanted, seed, outcome, tell)
        return outcome
    gate = Gate(examples, limits, test)
    limit = math.ceil(attempts * wanted)
    while len(outcome.rows) < wanted and outcome.asked < limit:
        missing = min(math.ceil((wanted - len(outcome.rows)) / augmenter.rows), limit - outcome.asked)
        # Whole blocks, so that what an attempt gives does not depend on how many rows are wanted; spare rows are not used.
        count = end_of_block(outcome.asked + missing - 1, augmenter.block) - outcome.asked
        for row in augmenter.generate(examples, outcome.asked, count, seed):
            if len(outcome.rows) == wanted:
                outcome.spare += 1
                continue
            checked = gate.check(row)
            outcome.rejects.append(checked) if isinstance(checked, Reject) else outcome.rows.append(checked)
            tell(name, len(outcome.rows), wanted)
        outcome.asked += count
    return outcome


def _edit(augmenter: Augmenter, examples: Sequence[Example], wanted: int, seed: int, outcome: Outcome, tell: Tell) -> None:
    texts = {row.id: same_text(row.text) for row in examples}
    seen: set[tuple[str, str]] = set()
    for row in augmenter.generate(examples, 0, wanted, seed):
        assert isinstance(row, Augmented), "an editor rejects nothing"
        parent, text = row.parents[0], same_text(row.text)
        outcome.unchanged += text == texts[parent]
        outcome.repeated += (parent, text) in seen
        seen.add((parent, text))
        outcome.rows.append(row)
        tell(augmenter.about["method"], len(outcome.rows), wanted)
    outcome.asked = wanted


def augment(
    augmenter: Augmenter,
    examples: Sequence[Example],
    output: Path,
    *,
    ratio: float,
    attempts: float,
    seed: int,
    limit: int | None = None,
    gate: Limits = DEFAULTS,
    test: Sequence[Example] = (),
    command: Sequence[str] = (),
    force: bool = False,
    tell: Tell = quiet,
) -> Done:
    """Write `ratio x n` synthetic rows, at most `limit`, with their rejects and manifest, unless they are there already.

    A generator's rows pass the `gate`, which lets no copy of a `test` row through.

    Raises:
        StoppedShort: if fewer rows than wanted pass; they are written, with `complete: false`.
        UserError: if the disk, the examples or the model do not serve.
    """
    if not examples:
        raise UserError("there are no real examples to start from", "check the subsample")
    wanted = min(wanted_rows(ratio, len(examples)), sys.maxsize if limit is None else limit)
    # Not `attempts`: an output that is whole is the same with more of them.
    settings = {**augmenter.about, "ratio": ratio, "limit": limit, "seed": seed}
    inputs = {"train": rows_sha(examples)}
    if not augmenter.edits:
        settings["gate"] = gate.model_dump()
        inputs |= {"test": rows_sha(test)} if gate.leak and test else {}
    with only_writer(output):
        if not force and (manifest := up_to_date(output, settings, inputs)):
            return Done(output, manifest, skipped=True)
        started = time.monotonic()
        outcome = make(augmenter, examples, wanted, attempts, seed, tell, gate, test)
        write(output, outcome.rows)
        if output != STDIO and not augmenter.edits:
            write(rejects_path(output), outcome.rejects)
        usage = augmenter.usage()
        manifest = close_output(
            output,
            started,
            stage="augment",
            complete=len(outcome.rows) == wanted,
            settings=settings,
            inputs=inputs,
            seed=seed,
            counts={**outcome.counts(wanted), **usage, "statistics": statistics(outcome.rows, examples)},
            tokens=spent(usage),
            command=list(command),
        )
    _remark(Done(output, manifest), tell)
    return Done(output, manifest)


def spent(usage: Mapping[str, int]) -> int | None:
    """Return the tokens among what was counted; None where no tokens were."""
    tokens = [n for name, n in usage.items() if name.endswith("_tokens")]
    return sum(tokens) if tokens else None


def _remark(done: Done, tell: Tell) -> None:
    """Warn of prompts that lost examples, and of labels that mean little.

    Raises:
        StoppedShort: if rows are missing.
    """
    counts, output = done.manifest.counts, done.output
    figures = counts["statistics"]
    if shortened := counts.get("shortened"):
        tell(
            f"{output}: {shortened} of {counts['asked']} prompts were longer than the LM's context and lost examples; a row's parents are those left"
        )
    if (mass := figures.get("label_mass")) and mass["mean"] < LOW_MASS:
        found = ", ".join(f"{n} {label}" for label, n in sorted(figures["classes"].items(), key=lambda item: -item[1]) if n)
        tell(f"{output}: the LM gave all label words together {mass['mean']:.1%} on average, so its labels ({found}) mean little")
    if not done.manifest.complete:
        rejected = counts["rejected"]
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(rejected.items(), key=lambda item: -item[1]))
        helps = remedy(rejected) or "use another LM"
        raise StoppedShort(
            f"{output}: {counts['kept']} of {counts['wanted']} rows after {counts['asked']} requests (rejected: {reasons or 'none'})",
            f"see {rejects_path(output)}; {helps}; or raise augment.attempts; and run again: answers are kept",
            done,
        )


def wanted_rows(ratio: float, n: int) -> int:
    """Return `ratio x n` rounded half up, in exact arithmetic."""
    return int(Fraction(str(ratio)) * n + Fraction(1, 2))


def rejects_path(output: Path) -> Path:
    """Return where the rejects of an output stand: `gpt3mix.jsonl` -> `gpt3mix.rejects.jsonl`."""
    return output.with_name(output.name.removesuffix(".jsonl") + ".rejects.jsonl")


def journal_path(output: Path) -> Path:
    """Return where the journal of an output stands: `gpt3mix.jsonl` -> `gpt3mix.journal.sqlite`."""
    return output.with_name(output.name.removesuffix(".jsonl") + ".journal.sqlite")
