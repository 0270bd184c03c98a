"""Reads the row that an LM wrote: its text, and the label that follows it.

Limits: a text that contains a label annotation of its own, or another `Movie review:`, ends there.
"""

import functools
import re
from typing import NamedTuple

from ..settings import Task
from .prompt import to_one_line


class ParsedLine(NamedTuple):
    """A line that an LM wrote.

    Attributes:
        text: of the row, with brackets that hold no label.
        label: the row's class; None if the line has no label, or none of the task's.
        written_label: as the LM wrote it; None if the line has no label.
        rest: what followed and is cut off: a second label, another row, chatter.
    """

    text: str
    label: str | None
    written_label: str | None
    rest: str


def parse_line(line: str, task: Task) -> ParsedLine:
    """Return the parts of a line: `Great. (Sentiment: Positive)` has the text `Great.`, class pos.

    The first annotation ends the text, in any case and spacing; at the end of the line its closing
    bracket may be missing. Another `Movie review:` before it ends the text too, which then has no
    label. A `Movie review:` at the start of the line is removed.
    """
    tokens = tuple(task.labels.values())
    prefixes, row_prefix, label = _patterns(task.text_type, task.label_type, tokens)
    line = prefixes.sub("", to_one_line(line), count=1)
    annotation, next_row = label.search(line), row_prefix.search(line)
    if next_row and (annotation is None or next_row.start() < annotation.start()):
        return ParsedLine(line[: next_row.start()].strip(), None, None, line[next_row.start() :])
    if annotation is None:
        return ParsedLine(line.strip(), None, None, "")
    written = annotation["known"] or annotation["other"] or ""
    classes = {_normalize_label(token): name for name, token in task.labels.items()}
    return ParsedLine(
        text=line[: annotation.start()].strip(),
        label=classes.get(_normalize_label(written)),
        written_label=written,
        rest=line[annotation.end() :].strip(),
    )


@functools.lru_cache
def _patterns(
    text_type: str, label_type: str, tokens: tuple[str, ...]
) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of a task.

    The first is `Movie review:` at the start of a line, once or more, the second another
    `Movie review:`, the third ` (Sentiment: Positive)`.
    """
    row_prefix = re.escape(f"{text_type.capitalize()}:")
    # One of the task's labels may contain brackets. Longest first: one may begin another.
    known = "|".join(_any_case(token) for token in sorted(tokens, key=len, reverse=True))
    label = rf"(?:(?P<known>{known})\s*(?:\)|\Z)|(?P<other>[^()]*?)\s*\))"
    return (
        re.compile(rf"\A(?:\s*(?:{_any_case(text_type)})\s*:)+", re.IGNORECASE),
        re.compile(rf"(?<!\w){row_prefix}"),  # case-sensitive: a text may say `this text: ...`
        re.compile(rf"\(\s*(?:{_any_case(label_type)})\s*:\s*{label}", re.IGNORECASE),
    )


def _any_case(words: str) -> str:
    # As given and capitalised as in the prompt: `ß` becomes `Ss`, which IGNORECASE does not equate.
    return "|".join(
        re.sub(r"(?:\\?\s)+", r"\\s+", re.escape(form))
        for form in dict.fromkeys((words, words.capitalize()))
    )


def _normalize_label(label: str) -> str:
    return " ".join(label.casefold().split())
