"""Removes what LMs write around a text: its label in another form, and the habits of chat models.

What remains is a contiguous piece of the text. Quotes, brackets, `**` and backticks within a text
are its own, and so are the marks of tokenised texts (``, '', -lrb-).

A bracket at the end of a text is an *annotation* if it holds a label, the label type or the text
type in any case, and little else. `and` and `or` do not count. There may be

- no other word: `(Positive)`, `[sentiment: NEGATIVE]`, `(Movie review)`;
- at most three before the last colon: `(Interpretive response: Negative)`;
- one, if the bracket begins with a capital as in the prompt: `(Positive review)`, `(Sentiment +1)`.

So `(number of miles)`, `(a human)` and `(mostly negative)` are text. Elsewhere only a bracket of
the first two forms with a label in it is an annotation. Limit: no label with brackets is found.
"""

import functools
import re
from typing import NamedTuple

from ..settings import Task

# A text's last bracket may lack its end.
BRACKET = re.compile(r"\([^()]*(?:\)|\Z)|\[[^][]*(?:\]|\Z)|\{[^{}]*(?:\}|\Z)")
WORD = re.compile(r"\b(?!(?:and|or)\b)\w+", re.IGNORECASE)
MAX_KEY_WORDS = 3  # before a colon: `Interpretive response: Negative`
# Opening and closing marks of a whole text.
WRAPPERS = ('""', "“”", "«»", "‘’", "''", "****", "**", "``````", "``")
# Their end is missing if the LM wrote it after the label: `"Great. (Sentiment: Positive)"`.
UNPAIRED = ('"', "“", "«")
APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
NUMBERING = r"\(?\d{1,2}[.)]\s+(?=\S)|[-*•]\s+(?=[^\W\d_]|[\"“«(])"


class CleanedText(NamedTuple):
    """A text without what an LM wrote around it.

    Attributes:
        text: what remains.
        annotations: what was removed from its end.
    """

    text: str
    annotations: str


class _Patterns(NamedTuple):
    opening: re.Pattern[str]
    labels: re.Pattern[str]
    names: re.Pattern[str]
    bare_annotation: re.Pattern[str]


def clean_text(text: str, task: Task) -> CleanedText:
    """Return a text without opening phrases, marks around all of it, and annotations at its end.

    Opening phrases are `Movie review:`, `Sure, here is a movie review:`, and numbers and bullets of
    lists. At the end, `Sentiment: Positive` and `- Positive` are annotations without brackets too.
    """
    annotations, before = "", None
    while text != before:
        before = text
        text = _unwrap(_patterns(task).opening.sub("", text.strip(), count=1).strip())
        end = _annotations_start(text, task)
        text, annotations = text[:end], text[end:] + annotations
    return CleanedText(text, annotations)


def find_bracketed_label(text: str, task: Task) -> str:
    """Return the first annotation of a text that has a label in brackets; empty if none has."""
    brackets = (match[0] for match in BRACKET.finditer(text))
    labels = _patterns(task).labels
    return next((it for it in brackets if labels.search(it) and _has_only_names(it, task)), "")


def find_single_label(annotations: str, task: Task) -> str | None:
    """Return the label in annotations; None if there is none, or if there are several."""
    without_text = BRACKET.sub(
        lambda match: match[0] if _is_annotation(match[0], task) else "", annotations
    )
    labels = {match.casefold(): match for match in _patterns(task).labels.findall(without_text)}
    return next(iter(labels.values())) if len(labels) == 1 else None


def any_case(words: str) -> str:
    """Return a pattern of words as given and as in the prompt, in any spacing.

    Capitalised, `ß` becomes `Ss`, which IGNORECASE does not equate.
    """
    return "|".join(
        re.sub(r"(?:\\?\s)+", r"\\s+", re.escape(form))
        for form in dict.fromkeys((words, words.capitalize()))
    )


def _annotations_start(text: str, task: Task) -> int:
    """Return where the annotations at the end of a text begin; its length if it has none."""
    bare = _patterns(task).bare_annotation.search(text)
    start = end = bare.start() if bare else len(text)
    for match in reversed(list(BRACKET.finditer(text, 0, end))):
        if text[match.end() : end].strip(" ."):
            break
        end = match.start()  # of a run of brackets, in which all that follows an annotation goes
        if _is_annotation(match[0], task):
            start = end
    return start


def _is_annotation(bracket: str, task: Task) -> bool:
    names = _patterns(task).names
    if not names.search(bracket):
        return False
    is_single = len(WORD.findall(names.sub(" ", bracket))) == 1
    return _has_only_names(bracket, task) or (is_single and bracket[1:].lstrip()[:1].isupper())


def _has_only_names(bracket: str, task: Task) -> bool:
    key, _, value = _patterns(task).names.sub(" ", bracket).rpartition(":")
    return len(WORD.findall(key)) <= MAX_KEY_WORDS and not WORD.findall(value)


def _unwrap(text: str) -> str:
    for wrapper in WRAPPERS:
        opening, closing = wrapper[: len(wrapper) // 2], wrapper[len(wrapper) // 2 :]
        inner = text.removeprefix(opening)
        if inner != text and (inner.endswith(closing) or opening in UNPAIRED):
            inner = inner.removesuffix(closing)
            words = APOSTROPHE.sub("", inner)
            if opening not in words and closing not in words:
                return inner
    return text


def _patterns(task: Task) -> _Patterns:
    return _compile(task.text_type, task.label_type, tuple(task.labels.values()))


@functools.lru_cache
def _compile(text_type: str, label_type: str, tokens: tuple[str, ...]) -> _Patterns:
    # Longest first: one label may begin another.
    labels = "|".join(any_case(token) for token in sorted(tokens, key=len, reverse=True))
    written = "|".join(re.escape(token.capitalize()) for token in tokens)
    row, label = any_case(text_type), any_case(label_type)
    here = r"here(?:['’]s|\s+is|\s+are)\b"
    sure = r"(?:sure|certainly|of\s+course|absolutely|okay|ok)\b[,.!]?\s+"
    item = rf"(?:an?|the|another|your)\s+(?:\w+\s+)?(?:{row}|item)\b"
    chat = rf"(?:{sure}{here}|{here}\s+{item})[^:.!?]*:"
    return _Patterns(
        opening=re.compile(rf"\A(?:\**(?:{row})\s*:\**|{chat}|{NUMBERING})", re.IGNORECASE),
        labels=re.compile(rf"(?<!\w)(?:{labels})(?!\w)", re.IGNORECASE),
        names=re.compile(rf"(?<!\w)(?:{labels}|{label}|{row})(?!\w)", re.IGNORECASE),
        bare_annotation=re.compile(
            rf"(?<!\S)(?:[-–—|/]+\s*(?:{written})|(?-i:{re.escape(label_type.capitalize())})\s*:\s*(?i:{labels}))[\s.]*\Z"
        ),
    )
