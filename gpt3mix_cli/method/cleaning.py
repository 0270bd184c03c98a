"""Removes what LMs write around a text: its label in another form, and the habits of chat models.

What remains is a contiguous piece of the text. Quotes, brackets, `**` and backticks within a text
are its own, and so are the marks of tokenised texts (``, '', -lrb-).

A bracket at the end of a text is an *annotation* if it holds a label, the label type or the text
type in any case, and little else. `and` and `or` do not count. There may be

- no other word: `(Positive)`, `[sentiment: NEGATIVE]`, `(Movie review)`;
- at most three before the last colon: `(Interpretive response: Negative)`;
- three without capitals after a text type of several words: `(Movie review is empty)`;
- one, if the bracket begins with a capital as in the prompt, and the word is of a type or such as
  `class`: `(Positive review)`. A number may follow a type: `(Sentiment +1)`.

At the end it is one too if it has the prompt's capitals and colon, no more than three words before
and after the colon, and before it a word of a type or such as `topic`: `(Answer type: Subject)`.

So `(number of miles)`, `(World Bank)` and `(Star Trek: First Contact)` are text. Elsewhere only a
bracket of the first two forms with a label in it is an annotation. An annotation names its label
if it has no words but those of the label and the types: `(Not positive)` is no label.

Limits: no label with brackets is found; `1. FC Koeln` loses its number, as an item of a list does.
"""

import functools
import re
from typing import NamedTuple

from ..settings import Task

# The innermost brackets, of equal kind or not. The last one of a text may lack its end.
BRACKET = re.compile(r"[(\[{][^][(){}]*(?:[])}]|\Z)")
WORD = re.compile(r"\b(?!(?:and|or)\b)\w+", re.IGNORECASE)
FIELD_WORDS = "type|topic|label|sentiment|category|class|genre|rating|answer"
EXTRA_WORDS = "review|sentiment|class|label|response|answer|type"
MIN_TYPE_WORD = 4  # characters: `of` and `the` in a type do not make an annotation
MAX_KEY_WORDS = 3  # before a colon: `Interpretive response: Negative`
# Opening and closing marks of a whole text.
WRAPPERS = ('""', "“”", "«»", "‘’", "''", "****", "**", "``````", "``")
# Their end may be missing, since it came after the label: `"Great. (Sentiment: Positive)"`.
UNPAIRED = ('"', "“", "«", "**")
# These may begin a text whose other apostrophe belongs to its last word: `'Tis for the kids'`.
ELISION = re.compile(r"(?:t(?:is|was|were|will)|em|til|cause|bout|round|n|\d\ds)\b", re.IGNORECASE)
APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
NUMBERING = r"\(?\d{1,2}[.)]\s+(?=\S)|[-*•]\s+(?=[^\W\d_]|[\"“«(]|\*\*)"
GREETING = re.compile(r"(?:hi|hello|hey|greetings)\b(?:\s+\w+)?\s*[,.!]*", re.IGNORECASE)


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
    extra_word: re.Pattern[str]
    other_field: re.Pattern[str]
    bare_annotation: re.Pattern[str]
    about_label: re.Pattern[str]
    titled_row: re.Pattern[str]


def clean_text(text: str, task: Task) -> CleanedText:
    """Return a text without opening phrases, marks around all of it, and annotations at its end.

    Opening phrases are `Movie review:`, `Film Review:`, `Sure, here is a movie review:`, and
    numbers and bullets of lists. A greeting alone is no text. At the end, `Sentiment: Positive` is
    an annotation without brackets too, and `- Positive` after a sentence or a quotation. A label of
    up to three characters is not: `Did he? - No.`
    """
    annotations, before = "", None
    while text != before:
        before = text
        end = _annotations_start(text, task)
        text, annotations = text[:end].strip(), text[end:] + annotations
        text = _unwrap(_patterns(task).lead_in.sub("", text, count=1).strip()).strip()
    return CleanedText("" if GREETING.fullmatch(text) else text, annotations)


def find_label_in_text(text: str, task: Task) -> str:
    """Return what in a text is a label, not a text; empty if there is none.

    That is an annotation with a label in brackets, a text of nothing but labels of four letters or
    more, or `the sentiment of this movie review is`.
    """
    patterns = _patterns(task)
    labels = patterns.labels.findall(text)
    if labels and min(map(len, labels)) > 3 and not WORD.findall(patterns.names.sub(" ", text)):
        return text
    if match := patterns.about_label.search(text):
        return match[0]
    brackets = (match[0] for match in BRACKET.finditer(text))
    return next(
        (it for it in brackets if patterns.labels.search(it) and _has_only_names(it, task)), ""
    )


def find_single_label(annotations: str, task: Task) -> str | None:
    """Return the label in annotations; None if there is none, or if there are several.

    There is none either if it has other words with it in its brackets: `(Not positive)`.
    """
    patterns = _patterns(task)
    types = f"{task.text_type} {task.label_type}".casefold()
    for match in BRACKET.finditer(annotations):
        words = WORD.findall(patterns.names.sub(" ", match[0]).casefold())
        if patterns.labels.search(match[0]) and not set(words) <= set(WORD.findall(types)):
            return None
    labels = {match.casefold(): match for match in patterns.labels.findall(annotations)}
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
        if text[match.end() : end].strip(' .)]}"”»'):
            break
        end = match.start()  # of a run of brackets, in which all that follows an annotation goes
        if _is_annotation(match[0], task):
            start = end
    return start


def _is_annotation(bracket: str, task: Task) -> bool:
    patterns = _patterns(task)
    if patterns.other_field.fullmatch(bracket):
        return True
    if not patterns.names.search(bracket):
        return False
    words = WORD.findall(patterns.names.sub(" ", bracket))
    is_remark = len(words) <= MAX_KEY_WORDS and all(map(str.islower, words))
    if is_remark and patterns.titled_row.match(bracket):
        return True
    is_extra = len(words) == 1 and (
        patterns.extra_word.fullmatch(words[0]) is not None
        # `(Number 5)` is a perfume.
        or (words[0].isdigit() and not patterns.labels.search(bracket))
    )
    return _has_only_names(bracket, task) or (is_extra and bracket[1:].lstrip()[:1].isupper())


def _has_only_names(bracket: str, task: Task) -> bool:
    key, _, value = _patterns(task).names.sub(" ", bracket).rpartition(":")
    return len(WORD.findall(key)) <= MAX_KEY_WORDS and not WORD.findall(value)


def _unwrap(text: str) -> str:
    for wrapper in WRAPPERS:
        left, right = wrapper[: len(wrapper) // 2], wrapper[len(wrapper) // 2 :]
        inner = text.removeprefix(left)
        if left in "'‘" and (inner[:1].islower() or ELISION.match(inner)):
            continue
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
    label, row = any_case(label_type), any_case(text_type)
    types = WORD.findall(f"{text_type} {label_type}")
    words = [word for word in types if len(word) >= MIN_TYPE_WORD]
    key, few_words = "|".join([*words, FIELD_WORDS]), r"[A-Z]\w*(?:\s+\w+){,2}"
    sure = r"(?:sure|certainly|of\s+course|absolutely|okay|ok)\b[,.!]?\s+"
    article = r"(?:an?|the|another|your|some|my|one(?:\s+more)?)"
    here = rf"here(?:['’]s|\s+is|\s+are)\s+{article}\s+(?:\w+\s+)?"
    noun = re.escape(text_type.split()[-1])
    chat = rf"{sure}{here}(?:{row}|{noun}|item|example)s?\b[^:.!?]*:"
    if len(text_type.split()) > 1:  # `Here's a question: who built it ?` is a text
        chat += rf"|{here}(?:{row})\s*:"
    chat += rf"|{here}(?:item|list\s+item|example)s?\b[^:.!?]*:\Z"
    # `Film Review:`, in capitals as in the prompt.
    frame = rf"\**(?-i:(?:[A-Z]\w*\s+){{1,2}}{re.escape(text_type.split()[-1].capitalize())}):\**"
    # Never for short labels: `Did you go? - No.`
    long = "|".join(re.escape(it.capitalize()) for it in tokens if len(it) > 3) or r"(?!)"
    dash = rf"(?<=[.!?…\"”'’»])\s+[-–—|/]+\s*(?:{long})"
    # In the prompt's capitals: `the sentiment: positive` may be a text.
    field = rf"{re.escape(label_type.capitalize())}\s*:\s*(?i:{labels})"
    return _Patterns(
        lead_in=re.compile(rf"\A(?:\**(?:{row})\s*:\**|{frame}|{chat}|{NUMBERING})", re.IGNORECASE),
        labels=re.compile(rf"(?<!\w)(?:{labels})(?!\w)", re.IGNORECASE),
        names=re.compile(rf"(?<!\w)(?:{labels}|{label}|{row})(?!\w)", re.IGNORECASE),
        extra_word=re.compile("|".join([*words, EXTRA_WORDS]), re.IGNORECASE),
        other_field=re.compile(rf".\s*(?=[^:]*\b(?i:{key})\b){few_words}\s*:\s*{few_words}\W*"),
        bare_annotation=re.compile(rf"(?:{dash}|(?<!\S){field})[\s.]*\Z"),
        about_label=re.compile(
            rf"\bthe\s+(?:{label})\s+of\s+(?:this|the)\s+(?:{row})\b", re.IGNORECASE
        ),
        # Of several words: `(Question mark)` is a text.
        titled_row=re.compile(
            rf".\s*(?=(?-i:[A-Z]))(?:{row})\b" if len(text_type.split()) > 1 else r"(?!)",
            re.IGNORECASE,
        ),
    )
