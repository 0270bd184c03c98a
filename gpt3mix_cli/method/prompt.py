"""The paper's prompt (Appendix A): an LM continues it with a new row, or with the label of a text.

Types and labels are lower case in the header and capitalised in the rows. The prompt for a new row
ends with `Movie review:` and no space, because the LM's next token begins with the space. The label
prefix ` (Sentiment:` is the same in the prompt, in what is scored and in what is parsed.

`PromptExtras` are what rival methods add: descriptions of the labels, a class and attributes to ask
for, texts without labels. Without them the prompt is the paper's.
"""

import functools
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ..lm import LMInfo
from ..records import Example
from ..settings import Task

# Every character at which str.splitlines ends a line: an example must stay on one line.
LINE_ENDS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
# How far the token count of a line inside a prompt may differ from the count of the line alone.
TOKENS_OFF_PER_LINE = 4


@dataclass(frozen=True)
class PromptExtras:
    """What a prompt holds besides its examples.

    Attributes:
        descriptions: class -> what its label means, as pairs.
        asked_label: the class that a prompt without examples asks for; None with examples.
        attributes: attribute -> value that the new row is to have, as pairs.
        style_texts: texts without labels.
    """

    descriptions: tuple[tuple[str, str], ...] = ()
    asked_label: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    style_texts: tuple[str, ...] = ()


NO_EXTRAS = PromptExtras()


def prompt_inputs(task: Task, info: LMInfo) -> dict[str, Any]:
    """Return everything in the task and the LM that can change an answer, for the manifest."""
    return {
        "task_labels": task.labels,
        "text_type": task.text_type,
        "label_type": task.label_type,
        "lm": info.fingerprint,
        "lm_details": info.details,
    }


def render_prompt(task: Task, examples: Sequence[Example], extras: PromptExtras = NO_EXTRAS) -> str:
    """Return the prompt P(x, S) of Appendix A, with the examples in the given order."""
    style = [f"- {to_one_line(text)}" for text in extras.style_texts]
    if style:
        style = [f"Each line of the following list is a {task.text_type.lower()}.", "", *style, ""]
    rows = (_render_row(task, row) for row in examples)
    header = _render_header(task, extras)
    return "\n".join([*style, header, "", *rows, f"{task.text_type.capitalize()}:"])


def _render_header(task: Task, extras: PromptExtras) -> str:
    text_type, label_type = task.text_type.lower(), task.label_type.lower()
    tokens = {name: f"'{token.lower()}'" for name, token in task.labels.items()}
    *others, last = tokens.values()
    labels = f"{', '.join(others)}{',' if len(others) > 1 else ''} or {last}"
    asked = extras.asked_label
    items = "Each item in the following list" if asked is None else "The following item"
    sentences = [
        f"{items} contains a {text_type} and the respective {label_type}.",
        f"The {label_type} is one of {labels}.",
        *(f"{tokens[name]} means: {text}." for name, text in extras.descriptions),
    ]
    if asked is not None:
        sentences.append(f"The {label_type} of this item is {tokens[asked]}.")
    if extras.attributes:
        values = ", ".join(f"{name}: {value}" for name, value in extras.attributes)
        item = "This item" if asked is not None else "The last item"
        sentences.append(f"{item} has these attributes: {values}.")
    return " ".join(sentences)


def render_label_prompt(
    task: Task, examples: Sequence[Example], text: str, extras: PromptExtras = NO_EXTRAS
) -> str:
    """Return the prompt for the label of a text, which may be empty; a label choice follows it."""
    line, prompt = to_one_line(text), render_prompt(task, examples, extras)
    return f"{prompt}{f' {line}' if line else ''}{label_prefix(task)}"


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
        self,
        examples: Sequence[Example],
        limit: int,
        text: str | None = None,
        extras: PromptExtras = NO_EXTRAS,
    ) -> Sequence[Example]:
        """Return as many of the last examples as fit, maybe none.

        Args:
            examples: in the order of the prompt.
            limit: the most tokens that the prompt may have.
            text: whose label the prompt asks for; None for a prompt that asks for a new row.
            extras: what else is in the prompt.
        """
        lines = (f"{_render_row(self._task, row)}\n" for row in reversed(examples))
        others = self._render((), text, extras).splitlines(keepends=True)
        num_tokens = self._num_added_tokens + sum(map(self.count_line, others))
        estimates = list(accumulate(map(self.count_line, lines), initial=num_tokens))

        def count_prompt(number: int) -> int:
            tolerance = TOKENS_OFF_PER_LINE * (len(others) + number)
            if abs(estimates[number] - limit) > tolerance:
                return estimates[number]
            return self._count_tokens(
                self._render(examples[len(examples) - number :], text, extras)
            )

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

    def _render(self, examples: Sequence[Example], text: str | None, extras: PromptExtras) -> str:
        if text is None:
            return render_prompt(self._task, examples, extras)
        return render_label_prompt(self._task, examples, text, extras)


def _render_row(task: Task, row: Example) -> str:
    return f"{task.text_type.capitalize()}: {render_example(task, row.text, row.label)}"
