"""The paper's prompt (Appendix A): an LM continues it with a new row, or with the label of a text.

Types and labels are lower case in the header and capitalised in the rows. The prompt for a new row
ends with `Movie review:` and no space, because the LM's next token begins with the space. The label
prefix ` (Sentiment:` is the same in the prompt, in what is scored and in what is parsed.
"""

import functools
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from ..lm import LMInfo
from ..records import Example
from ..settings import Task

# Every character at which str.splitlines ends a line: an example must stay on one line.
LINE_ENDS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
# How far the token count of a line inside a prompt may differ from the count of the line alone.
TOKENS_OFF_PER_LINE = 4


def prompt_inputs(task: Task, info: LMInfo) -> dict[str, Any]:
    """Return everything in the task and the LM that can change an answer, for the manifest."""
    return {
        "task_labels": task.labels,
        "text_type": task.text_type,
        "label_type": task.label_type,
        "lm": info.fingerprint,
        "lm_details": info.details,
    }


def render_prompt(task: Task, examples: Sequence[Example]) -> str:
    """Return the prompt P(x, S) of Appendix A, with the examples in the given order."""
    text_type, label_type = task.text_type.lower(), task.label_type.lower()
    *others, last = [f"'{token.lower()}'" for token in task.labels.values()]
    labels = f"{', '.join(others)}{',' if len(others) > 1 else ''} or {last}"
    header = (
        f"Each item in the following list contains a {text_type} and the respective {label_type}. "
        f"The {label_type} is one of {labels}."
    )
    rows = (_render_row(task, row) for row in examples)
    return "\n".join([header, "", *rows, f"{task.text_type.capitalize()}:"])


def render_label_prompt(task: Task, examples: Sequence[Example], text: str) -> str:
    """Return the prompt for the label of a text, which may be empty; a label choice follows it."""
    line = to_one_line(text)
    return f"{render_prompt(task, examples)}{f' {line}' if line else ''}{label_prefix(task)}"


def render_example(task: Task, text: str, label: str) -> str:
    """Return a text with its label, as it follows `Movie review: ` in the prompt."""
    return f"{to_one_line(text)}{label_prefix(task)} {task.labels[label].capitalize()})"


def label_prefix(task: Task) -> str:
    """Return what separates a text from its label: ` (Sentiment:`."""
    return f" ({task.label_type.capitalize()}:"


def label_choices(task: Task) -> tuple[str, ...]:
    """Return each label as it follows the label prefix, such as ` Positive`.

    If one label is the beginning of another, all include the closing bracket, so that the scores
    tell them apart.
    """
    tokens = [f" {token.capitalize()}" for token in task.labels.values()]
    ambiguous = any(a != b and b.startswith(a) for a in tokens for b in tokens)
    return tuple(f"{token})" if ambiguous else token for token in tokens)


def to_one_line(text: str) -> str:
    """Return a text with its line ends replaced by spaces."""
    return LINE_ENDS.sub(" ", text).strip()


class PromptFitter:
    """Leaves out the first examples of a prompt until it fits into the LM's context.

    The token count of each line is remembered, so that a whole prompt is only counted if the sum
    of its lines is close to the limit.

    Args:
        task: the words of the prompt.
        count_tokens: the LM's token counter.
    """

    def __init__(self, task: Task, count_tokens: Callable[[str], int]) -> None:
        self._task, self._count_tokens = task, count_tokens
        self._line_tokens: dict[str, int] = {}

    def fit(
        self, examples: Sequence[Example], limit: int, text: str | None = None
    ) -> Sequence[Example]:
        """Return as many of the last examples as fit, maybe none.

        Args:
            examples: in the order of the prompt.
            limit: the most tokens that the prompt may have.
            text: whose label the prompt asks for; None for a prompt that asks for a new row.
        """
        lines = (f"{_render_row(self._task, row)}\n" for row in reversed(examples))
        others = self._render((), text).splitlines(keepends=True)
        num_tokens = self._num_added_tokens + sum(map(self.count_line, others))
        estimates = list(accumulate(map(self.count_line, lines), initial=num_tokens))

        def count_prompt(number: int) -> int:
            tolerance = TOKENS_OFF_PER_LINE * (len(others) + number)
            if abs(estimates[number] - limit) > tolerance:
                return estimates[number]
            return self._count_tokens(self._render(examples[len(examples) - number :], text))

        number = bisect_right(range(1, len(examples) + 1), limit, key=count_prompt)
        return examples[len(examples) - number :]

    def count_line(self, line: str) -> int:
        """Return the tokens of a line, without those that are added to every text."""
        if line not in self._line_tokens:
            self._line_tokens[line] = self._count_tokens(line) - self._num_added_tokens
        return self._line_tokens[line]

    @functools.cached_property
    def _num_added_tokens(self) -> int:
        """The tokens that are added to every text, such as those of a chat template."""
        return self._count_tokens("")

    def _render(self, examples: Sequence[Example], text: str | None) -> str:
        if text is None:
            return render_prompt(self._task, examples)
        return render_label_prompt(self._task, examples, text)


def _render_row(task: Task, row: Example) -> str:
    return f"{task.text_type.capitalize()}: {render_example(task, row.text, row.label)}"
