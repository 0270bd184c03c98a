"""Makes synthetic rows out of real ones: quota, rounds, the quality gate, rejects, resume.

An `Augmenter` hides how a row is made. A generator (GPT3Mix) is asked in rounds, first for what is wanted, then for what
is missing; its rows pass the gate. An editor (EDA, back-translation) gives exactly its share of rows for each parent.
Rows are taken in the order of their attempts, so ratio 10 extends ratio 1 and a resumed run makes the same rows.
"""

import math
import statistics
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
from ..settings import Augment, Backtranslate, Baseline, Eda, Task
from .quality import Gate, same_text

LOW_MASS = 0.5  # mean label mass under which an LM does not follow the prompt


class Augmenter(Protocol):
    """Turns examples into synthetic rows, one an attempt, in the order of the attempts.

    Attributes:
        about: every setting and model fingerprint that can change a row; goes into the manifest.
        edits: True if attempt i edits the parent i mod n, so that all rows are kept; False for a generator.
        block: attempts are asked for in whole blocks of at most this size, so that the numbers depend on no quota.
    """

    about: dict[str, Any]
    edits: bool
    block: int

    def generate(self, examples: Sequence[Example], first: int, count: int, seed: int) -> Iterator[Augmented | Reject]:
        """Yield the rows of attempts first..first+count, each depending on (seed, its own number) only."""

    def usage(self) -> Mapping[str, int]:
        """Return what was spent so far, such as prompt_tokens and completion_tokens; empty where nothing is counted."""


def open_augmenter(settings: Augment | Baseline, task: Task, lm: LM | None = None, name: str = "gpt3mix") -> Augmenter:
    """Return the augmenter for its settings.

    Args:
        settings: `Augment` for GPT3Mix, or a baseline's.
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
    unchanged: int = 0
    repeated: int = 0

    def counts(self, wanted: int) -> dict[str, Any]:
        """Return the counts that the manifest keeps."""
        reasons = dict(sorted(Counter(row.reason for row in self.rejects).items()))
        return {
            "wanted": wanted,
            "asked": self.asked,
            "kept": len(self.rows),
            "rejected": reasons,
            "unchanged": self.unchanged,
            "repeated": self.repeated,
        }


def make(augmenter: Augmenter, examples: Sequence[Example], wanted: int, attempts: float, seed: int, tell: Tell = quiet) -> Outcome:
    """Return `wanted` rows, or fewer where `attempts x wanted` requests do not suffice.

    Args:
        augmenter: makes the rows.
        examples: the real rows, in the order of the subsample.
        wanted: how many rows are to be kept.
        attempts: at most this many requests for each wanted row; an editor needs exactly one.
        seed: of this synthetic set.
        tell: hears progress.
    """
    outcome = Outcome()
    name = augmenter.about["method"]
    if augmenter.edits:
        _edit(augmenter, examples, wanted, seed, outcome, tell)
        return outcome
    gate = Gate(examples)
    limit = math.ceil(attempts * wanted)
    while len(outcome.rows) < wanted and outcome.asked < limit:
        missing = min(wanted - len(outcome.rows), limit - outcome.asked)
        # Whole blocks, so that what an attempt gives does not depend on how many rows are wanted; spare rows are not used.
        count = end_of_block(outcome.asked + missing - 1, augmenter.block) - outcome.asked
        for row in augmenter.generate(examples, outcome.asked, count, seed):
            if len(outcome.rows) < wanted:
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
    command: Sequence[str] = (),
    force: bool = False,
    tell: Tell = quiet,
) -> Done:
    """Write `ratio x n` synthetic rows, at most `limit`, with their rejects and manifest, unless they are there already.

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
    with only_writer(output):
        if not force and (manifest := up_to_date(output, settings, inputs)):
            return Done(output, manifest, skipped=True)
        return _augment(augmenter, examples, output, wanted, attempts, seed, settings, inputs, command, tell)


def _augment(
    augmenter: Augmenter,
    examples: Sequence[Example],
    output: Path,
    wanted: int,
    attempts: float,
    seed: int,
    settings: dict[str, Any],
    inputs: dict[str, str],
    command: Sequence[str],
    tell: Tell,
) -> Done:
    started = time.monotonic()
    outcome = make(augmenter, examples, wanted, attempts, seed, tell)
    write(output, outcome.rows)
    if output != STDIO and not augmenter.edits:
        write(rejects_path(output), outcome.rejects)
    masses = [row.label_mass for row in outcome.rows if row.label_mass is not None]
    if masses and statistics.fmean(masses) < LOW_MASS:
        found = ", ".join(f"{n} {label}" for label, n in Counter(row.label for row in outcome.rows).most_common())
        tell(f"{output}: the LM gave all label words together {statistics.fmean(masses):.1%} on average, so its labels ({found}) mean little")
    usage = augmenter.usage()
    manifest = close_output(
        output,
        started,
        stage="augment",
        complete=len(outcome.rows) == wanted,
        settings=settings,
        inputs=inputs,
        seed=seed,
        counts={**outcome.counts(wanted), **usage},
        tokens=sum(usage.values()) if usage else None,
        command=list(command),
    )
    if not manifest.complete:
        reasons = ", ".join(f"{n} {reason}" for reason, n in manifest.counts["rejected"].items())
        raise StoppedShort(
            f"{output}: {len(outcome.rows)} of {wanted} rows after {outcome.asked} requests (rejected: {reasons or 'none'})",
            f"see {rejects_path(output)}; raise augment.attempts or max_tokens, or use another LM, and run again: answers are kept",
        )
    return Done(output, manifest)


def wanted_rows(ratio: float, n: int) -> int:
    """Return `ratio x n` rounded half up, in exact arithmetic."""
    return int(Fraction(str(ratio)) * n + Fraction(1, 2))


def rejects_path(output: Path) -> Path:
    """Return where the rejects of an output stand: `gpt3mix.jsonl` -> `gpt3mix.rejects.jsonl`."""
    return output.with_name(output.name.removesuffix(".jsonl") + ".rejects.jsonl")


def journal_path(output: Path) -> Path:
    """Return where the journal of an output stands: `gpt3mix.jsonl` -> `gpt3mix.journal.sqlite`."""
    return output.with_name(output.name.removesuffix(".jsonl") + ".journal.sqlite")
