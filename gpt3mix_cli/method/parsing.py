"""Reads the row that an LM wrote: its text, and the label that follows it.

Limits: a text that contains a label annotation of its own, or another `Movie review:`, ends there.
"""

import functools
import re
from typing import NamedTuple

from ..settings import Task
from .cleaning import any_case, clean_text, find_single_label
from .prompt import to_one_line


class ParsedLine(NamedTuple):
    """A line that an LM wrote.

    Attributes:
        text: of the row, a contiguous piece of the line; see `cleaning`.
        label: the row's class; None if the line has no label, or none of the task's.
        written_label: as the LM wrote it; None if the line has no label.
        rest: what followed and is cut off: another row, chatter.
    """

    text: str
    label: str | None
    written_label: str | None
    rest: str


def parse_line(line: str, task: Task) -> ParsedLine:
    """Return the parts of a line: `Great. (Sentiment: Positive)` has the text `Great.`, class pos.

    The first annotation in the prompt's form ends the text, in any case and spacing; at the end of
    the line its closing bracket may be missing. Annotations in other forms end the text at the end
    of the line only. They are its label where there is none in the prompt's form and they name one
    label: `Great. (Positive)` has class pos, `Great. (Positive or negative)` and `Great. (Not
    positive)` have none. Another `Movie review:` before the annotation ends the text too, which
    then has no label.
    """
    next_row, label = _patterns(task.text_type, task.label_type, tuple(task.labels.values()))
    line = to_one_line(line)
    annotation = label.search(line)
    before = line[: annotation.start()] if annotation else line
    text, other_annotations = clean_text(before, task)
    if row := next_row.search(text):
        rest = line[line.index(text) + row.start() :]
        return ParsedLine(clean_text(text[: row.start()], task).text, None, None, rest)
    rest = line[annotation.end() :].strip() if annotation else ""
    if annotation:
        written = annotation["known"] or annotation["other"] or ""
    else:
        written = find_single_label(other_annotations, task)
    classes = {_normalize_label(token): name for name, token in task.labels.items()}
    return ParsedLine(
        text=text,
        label=classes.get(_normalize_label(written or "")),
        written_label=written,
        rest=rest if re.search(r"\w", clean_text(rest, task).text) else "",
    )


@functools.lru_cache
def _patterns(
    text_type: str, label_type: str, tokens: tuple[str, ...]
) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of another `Movie review:` and of ` (Sentiment: Positive)`."""
    row_prefix = re.escape(f"{text_type.capitalize()}:")
    # One of the task's labels may contain brackets. Longest first: one may begin another.
    known = "|".join(any_case(token) for token in sorted(tokens, key=len, reverse=True))
    label = rf"(?:(?P<known>{known})\s*(?:\)|\Z)|(?P<other>[^()]*?)\s*\))"
    return (
        re.compile(rf"(?<!\w){row_prefix}"),  # case-sensitive: a text may say `this text: ...`
        re.compile(rf"\(\s*(?:{any_case(label_type)})\s*:\s*{label}", re.IGNORECASE),
    )


def _normalize_label(label: str) -> str:
    return " ".join(label.casefold().split())
