"""Augments a subsample: runs attempts until enough rows are kept, and writes rows and rejects.

A generator (GPT3Mix) runs in rounds: first as many attempts as rows are wanted, then as many as are
missing. Its rows pass the filter. An editor (EDA, back-translation) gives the same number of rows
for each parent. Rows are kept in the order of their attempts, so ratio 10 extends ratio 1 (its
texts, if labels are matched over the whole set) and a resumed run makes the same rows.
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ..decontamination import SyntheticCopies
from ..duplicates import normalize_text
from ..errors import NO_CALLBACKS, Callbacks, StoppedShort, UserError, in_progress
from ..existing_outputs import (
    differs_only_in,
    expect_output,
    locked_unless_up_to_date,
    protect_output,
)
from ..files import STDIO
from ..layout import rejects_path
from ..lm import next_block_start
from ..records import (
    Augmented,
    Example,
    IncompleteOutput,
    Reject,
    StageOptions,
    StageResult,
    finish_output,
    hash_rows,
    record_writer,
    to_json_line,
)
from ..settings import FilterSettings
from ..stopping import INTERRUPTED, Interrupted, is_stop_requested
from .filter import RowFilter
from .protocol import Augmenter, RowGenerator, TextEditor, edited_line_renderer
from .remarks import require_complete, warn_of_doubts
from .statistics import Statistics

WriteLine = Callable[[str], object]


@dataclass(frozen=True)
class AugmentOptions:
    """How many rows to make, and which of them to keep.

    Attributes:
        ratio: synthetic rows for each real one.
        attempts: the most attempts of a generator for each wanted row.
        seed: of this synthetic set.
        limit: the most rows in all; None: no limit.
        filter: thresholds of the filter, for a generator.
        test: rows of which the filter rejects copies.
        test_sha: their hash, if it is known.
        tops_up: the LM is asked for rows that are missing; otherwise its earlier answers are
            filtered and labelled anew, which may replace a finished set.
        copies: opens what counts the copies of validation and test rows.
        held_out_sha: hash of these rows, if such copies are left out.
    """

    ratio: float
    attempts: float
    seed: int
    limit: int | None = None
    filter: FilterSettings = field(default_factory=FilterSettings)
    test: Sequence[Example] = ()
    test_sha: str = ""
    tops_up: bool = True
    copies: Callable[[], SyntheticCopies] = field(default=SyntheticCopies, compare=False)
    held_out_sha: str = ""

    def num_rows(self, num_examples: int) -> int:
        """Return how many synthetic rows are wanted."""
        return min(
            num_rows_wanted(self.ratio, num_examples),
            sys.maxsize if self.limit is None else self.limit,
        )


def num_rows_wanted(ratio: float, n: int) -> int:
    """Return `ratio x n` rounded half up, in exact arithmetic."""
    return int(Fraction(str(ratio)) * n + Fraction(1, 2))


@dataclass
class AugmentationSink:
    """Keeps or writes rows and rejects, and counts them.

    Attributes:
        write_row: writes the line of a row.
        statistics: of the kept rows.
        rows: of a generator: they are written at the end, when all labels are known.
        labelling: how a generator labelled the whole set.
        write_reject: writes the line of a reject.
        kept: rows kept.
        asked: attempts run.
        spare: rows of the last block that were not needed.
        unchanged: edited rows that equal their parent.
        repeated: edited rows that equal an earlier copy of the same parent.
        rejected: rejects by reason.
        stopped: why a generator stopped before it had enough rows, such as a budget that is used
            up.
        copies: counts the copies of validation and test rows.
        left_out: edited rows that are left out as such copies.
        counts_copies: whether rows that are kept are compared with those rows.
    """

    counts_copies: ClassVar[bool] = True

    write_row: WriteLine
    statistics: Statistics
    write_reject: WriteLine = id
    rows: list[Augmented] = field(default_factory=list)
    labelling: Mapping[str, Any] = field(default_factory=dict)
    kept: int = 0
    asked: int = 0
    spare: int = 0
    unchanged: int = 0
    repeated: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    stopped: StoppedShort | None = None
    copies: SyntheticCopies = field(default_factory=SyntheticCopies)
    left_out: int = 0

    def add_row(self, row: Augmented) -> None:
        """Keep and count a row."""
        self.rows.append(row)
        self.kept += 1

    def write_rows(self, augmenter: RowGenerator, examples: Sequence[Example]) -> None:
        """Label and write the rows that were kept."""
        rows, self.labelling = augmenter.label_set(self.rows, examples)
        for row in rows:
            self.write_row(to_json_line(row))
            self.statistics.add(row)

    def add_reject(self, reject: Reject) -> None:
        """Write and count a reject."""
        self.write_reject(to_json_line(reject))
        self.rejected[reject.reason] += 1

    def counts(self) -> dict[str, Any]:
        """Return the counts for the manifest."""
        return {
            "asked": self.asked,
            "kept": self.kept,
            "rejected": dict(sorted(self.rejected.items())),
            "spare": self.spare,
            "unchanged": self.unchanged,
            "repeated": self.repeated,
            **self.copies.counts(),
            **self.labelling,
        }


def augment(
    augmenter: Augmenter,
    examples: Sequence[Example],
    output: Path,
    quota: AugmentOptions,
    options: StageOptions = StageOptions(),
) -> StageResult:
    """Write a synthetic set with its rejects and manifest, unless it is up to date.

    Args:
        augmenter: makes the rows.
        examples: the real rows, in the order of the subsample.
        output: JSONL file of the rows.
        quota: how many rows to make, and which of them to keep.
        options: of every stage.

    Raises:
        IncompleteOutput: if there are fewer rows than wanted; they are written.
        StoppedShort: if there are none yet.
        UserError: if there are no examples, or a model or the disk fails.
    """
    if not examples:
        raise UserError("there are no real rows to augment", "check the subsample")
    wanted = quota.num_rows(len(examples))
    settings, inputs = _cache_key(augmenter, examples, quota)
    with locked_unless_up_to_date(output, settings, inputs, options) as result:
        if result:
            return result
        filters_anew = not quota.tops_up and not options.force
        # Rows that another filter takes out come back from the journal.
        lossless = filters_anew and differs_only_in(output, settings, inputs, "filter.")
        protect_output(output, options, settings, inputs, keep_finished=not lossless)
        started = time.monotonic()
        try:
            # A local LM takes a while to label some real rows.
            with in_progress(options.callbacks, f"preparing {augmenter.about['method']}"):
                warnings = augmenter.prepare(examples)
        except StoppedShort as error:
            raise StoppedShort(f"{output}: no row yet: {error.message}", error.hint) from None
        for warning in warnings:
            options.callbacks.warn(f"{output}: {warning}")
        expect = partial(expect_output, output, "augment", settings, inputs)
        sink = _write_rows(augmenter, examples, output, quota, options.callbacks, expect)
        usage, lm = augmenter.usage(), augmenter.describe_lm()
        manifest = finish_output(
            output,
            started,
            stage="augment",
            complete=sink.kept + sink.left_out == wanted,
            settings=settings,
            inputs=inputs,
            seed=quota.seed,
            counts={
                "wanted": wanted,
                **sink.counts(),
                **usage,
                **({"asked_as": lm} if lm else {}),
                "statistics": sink.statistics.summary(),
            },
            tokens=count_tokens(usage),
            usd=augmenter.usd(),
            command=list(options.command),
        )
    result = StageResult(output, manifest)
    if sink.stopped:
        raise IncompleteOutput(
            f"{output}: {sink.kept} of {wanted} rows: {sink.stopped.message}",
            sink.stopped.hint
            if quota.tops_up or isinstance(sink.stopped, Interrupted)
            else "leave out --no-top-up to ask for the others",
            result,
        )
    if copies := sink.copies.describe():
        options.callbacks.warn(f"{output}: {copies}")
    warn_of_doubts(result, options.callbacks)
    require_complete(result)
    return result


def _cache_key(
    augmenter: Augmenter, examples: Sequence[Example], quota: AugmentOptions
) -> tuple[dict[str, Any], dict[str, str]]:
    # Without `attempts`: more of them do not change a complete set.
    settings = {
        **augmenter.about,
        "ratio": quota.ratio,
        "limit": quota.limit,
        "seed": quota.seed,
    }
    inputs = {"train": hash_rows(examples)}
    if quota.held_out_sha:
        settings["decontaminate"] = "drop"
        inputs["held_out"] = quota.held_out_sha
    if not augmenter.edits_parents:
        settings["filter"] = quota.filter.model_dump()
        if quota.filter.reject_test_copies and quota.test:
            inputs["test"] = quota.test_sha or hash_rows(quota.test)
    return settings, inputs


def _write_rows(
    augmenter: Augmenter,
    examples: Sequence[Example],
    output: Path,
    quota: AugmentOptions,
    callbacks: Callbacks,
    expect: Callable[[], object],
) -> AugmentationSink:
    with ExitStack() as files:
        sink = AugmentationSink(files.enter_context(record_writer(output)), Statistics(examples))
        if output != STDIO and not augmenter.edits_parents:
            sink.write_reject = files.enter_context(record_writer(rejects_path(output)))
        run_attempts(augmenter, examples, sink, quota, callbacks)
        if not augmenter.edits_parents:
            sink.write_rows(augmenter, examples)
        if sink.stopped and not sink.asked:
            # Keep an earlier output: it is worth more than an empty file.
            raise StoppedShort(f"{output}: no row yet: {sink.stopped.message}", sink.stopped.hint)
        expect()
    return sink


# Attempts ----------------------------------------------------------------------------------------


def run_attempts(
    augmenter: Augmenter,
    examples: Sequence[Example],
    sink: AugmentationSink,
    quota: AugmentOptions,
    callbacks: Callbacks = NO_CALLBACKS,
) -> None:
    """Pass the wanted rows to a sink, or fewer if the allowed attempts do not yield enough.

    Args:
        augmenter: makes the rows.
        examples: the real rows, in the order of the subsample.
        sink: receives rows and rejects.
        quota: how many rows to make, and which of them to keep.
        callbacks: receive progress.
    """
    if sink.counts_copies or quota.held_out_sha:
        sink.copies = quota.copies()
    if augmenter.edits_parents:
        _run_editor(augmenter, examples, sink, quota, callbacks)
    else:
        _run_generator(augmenter, examples, sink, quota, callbacks)


def _run_generator(
    augmenter: RowGenerator,
    examples: Sequence[Example],
    sink: AugmentationSink,
    quota: AugmentOptions,
    callbacks: Callbacks,
) -> None:
    method, wanted = augmenter.about["method"], quota.num_rows(len(examples))
    row_filter = RowFilter(examples, quota.filter, quota.test, sink.copies)
    max_attempts = math.ceil(quota.attempts * wanted)
    callbacks.progress(method, 0, wanted)  # the first block takes a while
    while sink.kept < wanted and sink.asked < max_attempts:
        missing = math.ceil((wanted - sink.kept) / augmenter.rows_per_attempt)
        last = min(sink.asked + missing, max_attempts) - 1
        end = next_block_start(last, augmenter.block_size)
        try:
            for row in augmenter.generate(examples, sink.asked, end - sink.asked, quota.seed):
                if sink.kept == wanted:
                    sink.spare += 1
                    continue
                checked = row_filter.check(row)
                if isinstance(checked, Reject):
                    sink.add_reject(checked)
                else:
                    sink.add_row(checked)
                callbacks.progress(
                    method, sink.kept, wanted, _cost_so_far(augmenter, sink.kept, wanted)
                )
        except StoppedShort as error:
            # The budget is used up, or servers fail. Keep the rows so far.
            sink.stopped = error
            sink.asked = sink.kept + sink.rejected.total() + sink.spare
            return
        sink.asked = end


def _run_editor(
    editor: TextEditor,
    examples: Sequence[Example],
    sink: AugmentationSink,
    quota: AugmentOptions,
    callbacks: Callbacks,
) -> None:
    method, classes = editor.about["method"], editor.about["classes"]
    wanted, num_examples = quota.num_rows(len(examples)), len(examples)
    render_line = edited_line_renderer(examples, method, classes)
    seen: set[int] = set()  # hashes: a million texts would fill the memory
    for attempt, text in enumerate(editor.edit_texts(examples, 0, wanted, quota.seed)):
        if is_stop_requested():
            sink.stopped = Interrupted(INTERRUPTED)
            break
        parent = examples[attempt % num_examples]
        if sink.copies.find(text) and sink.copies.drops:
            sink.left_out += 1
            continue
        sink.write_row(render_line(text, attempt))
        sink.statistics.count(text, parent.label, classes)
        sink.kept += 1
        normalized = normalize_text(text)
        sink.unchanged += normalized == normalize_text(parent.text)
        if wanted > num_examples:  # otherwise no parent has two copies
            key = hash((attempt % num_examples, normalized))
            sink.repeated += key in seen
            seen.add(key)
        callbacks.progress(method, attempt + 1, wanted)
    sink.asked = sink.kept + sink.left_out


def _cost_so_far(augmenter: Augmenter, kept: int, wanted: int) -> str:
    usage, usd, factor = augmenter.usage(), augmenter.usd(), wanted / max(kept, 1)
    if not usage.get("requests"):
        return ""
    tokens = count_tokens(usage) or 0
    in_tokens = f"{tokens:,} tokens of about {round(tokens * factor):,}"
    return in_tokens if usd is None else f"${usd:.4f} of about ${usd * factor:.4f}"


def count_tokens(usage: Mapping[str, int]) -> int | None:
    """Return the sum of all counts of tokens; None if there are none."""
    tokens = [count for name, count in usage.items() if name.endswith("_tokens")]
    return sum(tokens) if tokens else None
