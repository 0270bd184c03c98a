"""Removes what LMs write around a text: its label in another form, and the habits of chat models.

What remains is a contiguous piece of the text. Quotes, brackets, `**` and backticks within a text
are its own, and so are the marks of tokenised texts (``, '', -lrb-).

A bracket at the end of a text is an *annotation* if it holds a label, the label type or the text
type in any case, and little else. `and` and `or` do not count. There may be

- no other word: `(Positive)`, `[sentiment: NEGATIVE]`, `(Movie review)`;
- at most three before the last colon: `(Interpretive response: Negative)`;
- one, if the bracket begins with a capital as in the prompt: `(Positive review)`, `(Sentiment +1)`.

Without such a name it is one at the end if it has the prompt's capitals and colon, and no more than
three words before and after the colon: `(Answer type: Subject)`, `[Topic: Comedy]`.

So `(number of miles)`, `(a human)` and `(mostly negative)` are text. Elsewhere only a bracket of
the first two forms with a label in it is an annotation. Limit: no label with brackets is found.
"""

import functools
import re
from typing import NamedTuple

from ..settings import Task

# The innermost brackets, of equal kind or not. The last one of a text may lack its end.
BRACKET = re.compile(r"[(\[{][^][(){}]*(?:[])}]|\Z)")
WORD = re.compile(r"\b(?!(?:and|or)\b)\w+", re.IGNORECASE)
OTHER_FIELD = re.compile(r".\s*[A-Z]\w*(?:\s+\w+){,2}\s*:\s*[A-Z]\w*(?:\s+\w+){,2}\W*")
MAX_KEY_WORDS = 3  # before a colon: `Interpretive response: Negative`
# Opening and closing marks of a whole text.
WRAPPERS = ('""', "“”", "«»", "‘’", "''", "****", "**", "``````", "``")
# Their end may be missing, since it came after the label: `"Great. (Sentiment: Positive)"`.
UNPAIRED = ('"', "“", "«", "**")
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
    lead_in: re.Pattern[str]
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
        end = _annotations_start(text, task)
        text, annotations = text[:end].strip(), text[end:] + annotations
        text = _unwrap(_patterns(task).lead_in.sub("", text, count=1).strip()).strip()
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
        if text[match.end() : end].strip(" .)]}"):
            break
        end = match.start()  # of a run of brackets, in which all that follows an annotation goes
        if _is_annotation(match[0], task):
            start = end
    return start


def _is_annotation(bracket: str, task: Task) -> bool:
    names = _patterns(task).names
    if not names.search(bracket):
        return OTHER_FIELD.fullmatch(bracket) is not None
    is_single = len(WORD.findall(names.sub(" ", bracket))) == 1
    return _has_only_names(bracket, task) or (is_single and bracket[1:].lstrip()[:1].isupper())


def _has_only_names(bracket: str, task: Task) -> bool:
    key, _, value = _patterns(task).names.sub(" ", bracket).rpartition(":")
    return len(WORD.findall(key)) <= MAX_KEY_WORDS and not WORD.findall(value)


def _unwrap(text: str) -> str:
    for wrapper in WRAPPERS:
        left, right = wrapper[: len(wrapper) // 2], wrapper[len(wrapper) // 2 :]
        inner = text.removeprefix(left)
        is_unpaired = left in UNPAIRED and inner[:1].isalpha()
        if inner != text and (inner.endswith(right) or is_unpaired):
            inner = inner.removesuffix(right)
            words = APOSTROPHE.sub("", inner)
            if left not in words and right not in words:
                return inner
    return text


def _patterns(task: Task) -> _Patterns:
    return _compile(task.text_type, task.label_type, tuple(task.labels.values()))


@functools.lru_cache
def _compile(text_type: str, label_type: str, tokens: tuple[str, ...]) -> _Patterns:
    # Longest first: one label may begin another.
    labels = "|".join(any_case(token) for token in sorted(tokens, key=len, reverse=True))
    written = "|".join(re.escape(token.capitalize()) for token in tokens)
    label, row = any_case(label_type), any_case(text_type)
    here = r"here(?:['’]s|\s+is|\s+are)\b"
    sure = r"(?:sure|certainly|of\s+course|absolutely|okay|ok)\b[,.!]?\s+"
    item = rf"(?:an?|the|another|your)\s+(?:\w+\s+)?(?:{row}|item)\b"
    chat = rf"(?:{sure}{here}|{here}\s+{item})[^:.!?]*:"
    # In the prompt's capitals: `the sentiment: positive` may be a text.
    field = rf"{re.escape(label_type.capitalize())}\s*:\s*(?i:{labels})"
    return _Patterns(
        lead_in=re.compile(rf"\A(?:\**(?:{row})\s*:\**|{chat}|{NUMBERING})", re.IGNORECASE),
        labels=re.compile(rf"(?<!\w)(?:{labels})(?!\w)", re.IGNORECASE),
        names=re.compile(rf"(?<!\w)(?:{labels}|{label}|{row})(?!\w)", re.IGNORECASE),
        bare_annotation=re.compile(rf"(?<!\S)(?:[-–—|/]+\s*(?:{written})|{field})[\s.]*\Z"),
    )
