"""What a synthetic set of GPT3Mix would still ask, and what its journals hold of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from statistics import fmean

from ..augment import AugmentationSink
from ..augment.gpt3mix import GPT3Mix
from ..augment.statistics import Statistics
from ..lm import CostModel, next_block_start
from ..method.labels import CONTENT_FREE
from ..method.prompt import render_example, to_one_line
from ..records import Augmented, Example, Reject
from ..settings import AugmentSettings, Task
from .estimates import NO_USAGE, Usage

MAX_ROWS_COUNTED = 256  # real rows whose length is counted, of each cell
REJECT_RATE = 0.05  # assumed fraction of rejected lines while there are no answers
MIN_ANSWERS = 20  # answers that are more reliable than the assumptions


class ReplaySink(AugmentationSink):
    """Counts the rows that journals give; keeps none of them.

    Args:
        examples: the real rows.

    Attributes:
        attempts: attempts whose answers are in a journal.
    """

    counts_copies = False

    def __init__(self, examples: Sequence[Example]) -> None:
        super().__init__(write_row=id, statistics=Statistics(examples))
        self.attempts: set[int | None] = set()

    def add_row(self, row: Augmented) -> None:
        """Count a row."""
        self.kept += 1
        self.attempts.add(row.request)

    def add_reject(self, reject: Reject) -> None:
        """Count a rejected row."""
        self.rejected[reject.reason] += 1
        self.attempts.add(reject.request)


@dataclass(frozen=True)
class AnswerStatistics:
    """What the answers so far tell about the next ones.

    Attributes:
        attempts: attempts whose answers the journals hold, up to the last wanted row.
        kept: rows kept of them.
        answered: the same attempts with those past the last wanted row, as `usage` counts them.
        usage: counts of the augmenter.
    """

    attempts: int = 0
    kept: int = 0
    answered: float = 0
    usage: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "AnswerStatistics") -> "AnswerStatistics":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return AnswerStatistics(*(a + b for a, b in pairs))


@dataclass
class SetEstimate:
    """One synthetic set: how many rows it wants, and what its journals hold.

    Attributes:
        augmenter: with an LM that answers from journals only.
        cost_model: of an attempt.
        examples: the real rows.
        seed: of the set.
        wanted: number of rows.
        group: method and variant, whose answers are alike.
        stream: equal for sets with equal requests: what one of them asks serves the others.
        sink: what the journals gave.
    """

    augmenter: GPT3Mix
    cost_model: CostModel
    examples: Sequence[Example]
    seed: int
    wanted: int
    group: str
    stream: str
    sink: ReplaySink

    @property
    def next_attempt(self) -> int:
        """The first attempt whose answer is missing."""
        return len(self.sink.attempts) if self.sink.stopped else self.sink.asked

    @cached_property
    def answers(self) -> AnswerStatistics:
        """What the journals hold for this set."""
        sink, attempts = self.sink, len(self.sink.attempts)
        used = sink.kept + sink.rejected.total()
        answered = attempts * (1 + sink.spare / used) if used else 0.0
        return AnswerStatistics(attempts, sink.kept, answered, Counter(self.augmenter.usage()))

    def answered_usage(self) -> Usage:
        """Return what the answers in the journals took."""
        usage = self.answers.usage
        return Usage(
            usage["requests"] or self.answers.answered,
            # Nearly all tokens of a request for a label alone are its prompt's.
            usage["prompt_tokens"] + usage["label_tokens"],
            usage["completion_tokens"],
            self.augmenter.usd() if usage["requests"] else 0.0,
        )


class PendingEstimator:
    """Estimates what synthetic sets still ask, from the answers so far or from the real rows.

    Args:
        groups: the answers so far of each group of sets.
        sample: at most so many prompts of a set are counted.

    Attributes:
        sample: as given.
        remarks: the assumptions, for people, in the order in which they were made.
    """

    def __init__(self, groups: dict[str, AnswerStatistics], sample: int) -> None:
        self._groups, self.sample = groups, sample
        self._planned_until: dict[str, int] = {}  # stream -> the first attempt not planned yet
        self.remarks: dict[str, None] = {}

    def pending_usage(self, estimate: SetEstimate, settings: AugmentSettings, task: Task) -> Usage:
        """Return what a set still asks; requests that another set has planned are free."""
        answers = self._answers_like(estimate.group)
        missing = min(
            ceil(
                (estimate.wanted - estimate.sink.kept) / self._rows_per_attempt(estimate, answers)
            ),
            ceil(settings.attempts * estimate.wanted) - estimate.next_attempt,
        )
        if missing <= 0:
            return NO_USAGE
        last = estimate.next_attempt + missing - 1
        end = next_block_start(last, estimate.augmenter.block_size)
        begin = max(estimate.next_attempt, self._planned_until.get(estimate.stream, 0))
        self._planned_until[estimate.stream] = max(end, begin)
        if begin >= end:
            return NO_USAGE
        prompt_tokens = self._mean_prompt_tokens(estimate, begin, end)
        written, label_requests = self._completion_tokens(estimate, answers, settings, task)
        cost_model = estimate.cost_model
        self.remarks |= dict.fromkeys(cost_model.remarks)
        calibration = (
            len(CONTENT_FREE) * cost_model.score_requests
            if settings.contextual_calibration and settings.uses_lm_labels
            else 0
        )
        attempts, requests = end - begin, 1 + label_requests + calibration
        checks = _label_checks(estimate, settings)
        read_tokens = attempts * (prompt_tokens * requests + written * label_requests)
        read_tokens += checks * prompt_tokens
        written_tokens = attempts * (written + calibration) + checks
        usd = cost_model.usd(read_tokens, written_tokens)
        return Usage(attempts * requests + checks, read_tokens, written_tokens, usd)

    def _answers_like(self, group: str) -> AnswerStatistics | None:
        candidates = (self._groups[group], *self._groups.values())
        reliable = (item for item in candidates if item.attempts >= MIN_ANSWERS and item.kept)
        return next(reliable, None)

    def _rows_per_attempt(self, estimate: SetEstimate, answers: AnswerStatistics | None) -> float:
        if answers:
            self._remark(f"rows: {answers.kept} of {answers.attempts} answers so far were kept")
            return answers.kept / answers.attempts
        self._remark(f"rows: no answers yet, so {REJECT_RATE:.0%} are assumed to be rejected")
        return estimate.augmenter.rows_per_attempt * (1 - REJECT_RATE)

    def _mean_prompt_tokens(self, estimate: SetEstimate, begin: int, end: int) -> float:
        sample = min(end - begin, self.sample)
        if sample < end - begin:
            self._remark("prompt tokens: the mean of a part of each cell's requests")
        augmenter = estimate.augmenter
        attempts = augmenter.attempts(estimate.examples, begin, sample, estimate.seed)
        prompts = (attempt.request.prompt for attempt in attempts)
        return fmean(map(augmenter.lm_info.count_tokens, prompts))

    def _completion_tokens(
        self,
        estimate: SetEstimate,
        answers: AnswerStatistics | None,
        settings: AugmentSettings,
        task: Task,
    ) -> tuple[float, float]:
        if answers:
            # Not in proportion to the cell's own rows: the lines of an LM differ less in length
            # from cell to cell than its examples do.
            self._remark("completion tokens: the mean of the answers so far")
            further = max(answers.usage["requests"] / answers.answered - 1, 0)
            return answers.usage["completion_tokens"] / answers.answered, further
        self._remark("completion tokens: no answers yet, so lines count as long as the real rows")
        cost_model, count = estimate.cost_model, estimate.augmenter.lm_info.count_tokens
        label_tokens = dict.fromkeys(task.classes, 0)
        if cost_model.whole_line:
            label_tokens = {
                label: count(render_example(task, "", label)) - count("") for label in task.classes
            }
        rows = estimate.examples[:: ceil(len(estimate.examples) / MAX_ROWS_COUNTED)]
        line_tokens = fmean(
            min(count(f" {to_one_line(row.text)}"), settings.max_tokens) + label_tokens[row.label]
            for row in rows
        )
        return (
            line_tokens * estimate.augmenter.rows_per_attempt
            + cost_model.label_requests * cost_model.label_tokens,
            cost_model.label_requests,
        )

    def _remark(self, text: str) -> None:
        self.remarks[text] = None


def _label_checks(estimate: SetEstimate, settings: AugmentSettings) -> int:
    """Return the requests of `label_check` at an endpoint, if nothing was asked yet."""
    rows, info = settings.label_check, estimate.augmenter.lm_info
    if rows == "auto" or info.is_local or not settings.uses_lm_labels or estimate.next_attempt:
        return 0
    return min(rows, len(estimate.examples)) * max(1, estimate.cost_model.score_requests)
