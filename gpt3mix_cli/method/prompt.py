"""The paper's prompt (Appendix A, to the letter): shown to an LM that writes a row, and to one that labels a text.

In the header types and labels are lower case, in the lines they are capitalised; `prompt` ends with `Movie review:` and
nothing after the colon, since the LM's tokens begin with the space. What stands between a text and its label is `label_prefix`,
in the prompt, in what is scored and in what is read back alike.
"""

import re
from collections.abc import Sequence
from typing import Any

from ..lm import LMInfo
from ..records import Example
from ..settings import Task

# Every character at which str.splitlines ends a line: an example must stay on its own.
LINE_ENDS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


def asking(task: Task, info: LMInfo) -> dict[str, Any]:
    """Return what of the task and the LM changes an answer, as manifests keep it."""
    return {
        "task_labels": task.labels,
        "text_type": task.text_type,
        "label_type": task.label_type,
        "lm": info.fingerprint,
        "lm_details": info.details,
    }


def prompt(task: Task, examples: Sequence[Example]) -> str:
    """Return the prompt P(x, S) of Appendix A for the examples in their order."""
    text_type, label_type = task.text_type.lower(), task.label_type.lower()
    labels = [f"'{token.lower()}'" for token in task.labels.values()]
    listed = (
        f"{labels[0]} or {labels[1]}"
        if len(labels) == 2
        else f"{', '.join(labels[:-1])}, or {labels[-1]}"
    )
    header = f"Each item in the following list contains a {text_type} and the respective {label_type}. The {label_type} is one of {listed}."
    mark = f"{text_type.capitalize()}:"
    return "\n".join(
        [header, "", *(f"{mark} {item(task, row.text, row.label)}" for row in examples), mark]
    )


def to_label(task: Task, examples: Sequence[Example], text: str) -> str:
    """Return the prompt that asks for the label of a text, which may be empty; `choices` are what may follow."""
    line = one_line(text)
    return f"{prompt(task, examples)}{f' {line}' if line else ''}{label_prefix(task)}"


def item(task: Task, text: str, label: str) -> str:
    """Return a text with its annotation, as it stands after `Movie review: `."""
    return f"{one_line(text)}{label_prefix(task)} {task.labels[label].capitalize()})"


def label_prefix(task: Task) -> str:
    """Return what stands between a text and its label: ` (Sentiment:`."""
    return f" ({task.label_type.capitalize()}:"


def choices(task: Task) -> tuple[str, ...]:
    """Return each label as it stands after the label prefix; with the closing bracket where one label begins another."""
    tokens = [f" {token.capitalize()}" for token in task.labels.values()]
    begins = any(a != b and b.startswith(a) for a in tokens for b in tokens)
    return tuple(f"{token})" if begins else token for token in tokens)


def one_line(text: str) -> str:
    """Return a text without line ends."""
    return LINE_ENDS.sub(" ", text).strip()
