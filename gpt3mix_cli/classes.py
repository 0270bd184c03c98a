"""The classes that a label column has, and the words by which a language model may know them."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .errors import NO_CALLBACKS, UserError, shown_list
from .labelled_rows import canonical_label, open_sources, raw_label, spelling_form
from .settings import Columns, Data, DemoData

MAX_CLASSES = 200  # a column with more values is an id or a text
MIN_CLASS_ROWS = 3  # a training, a validation and a test row
SMALL_CLASS = f"fewer than {MIN_CLASS_ROWS} different texts"
MIN_SIMILARITY = 0.8  # of a label and a class that it may be a typing error of


def auto_labels(data: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return the labels of `task.labels: auto`: class -> label token, and `task.data.values`.

    Args:
        data: `task.data`, as it is in the config.

    Raises:
        UserError: if the column has fewer than two classes, or too many.
    """
    try:
        source = TypeAdapter[Data](Data).validate_python(data)
    except ValidationError:
        return {}, {}  # other checks say what is wrong
    columns = Columns() if isinstance(source, DemoData) else source
    counts: Counter[str] = Counter()
    # Bad rows are reported when rows are loaded.
    for _, rows, names in open_sources(source, NO_CALLBACKS, lambda where, line, error: None):
        numbers = {str(number): name for number, name in enumerate(names)}
        for _, row in rows:
            if raw := raw_label(row[columns.label], numbers):
                counts[raw] += 1
    values = dict(columns.values)
    counts = Counter(raw for raw in counts.elements() if raw not in values)
    values |= merge_spellings(counts)
    classes = sorted({*values.values(), *(raw for raw in counts if raw not in values)})
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise UserError(
            f"task.labels: auto: column '{columns.label}' has {count_classes(classes)}",
            f"name another column with task.data.label; 2 to {MAX_CLASSES} classes are possible",
        )
    return label_words(classes), values


def merge_spellings(counts: Mapping[str, int]) -> dict[str, str]:
    """Return raw value -> class, for values that differ from a more frequent one in spelling only.

    That is in case, spaces around and between words, and as `1.0` differs from `1`.
    """
    classes: dict[str, str] = {}
    values = {}
    for raw in sorted(counts, key=lambda raw: (-counts[raw], raw)):
        label = classes.setdefault(spelling_form(raw), canonical_label(raw))
        if raw != label:
            values[raw] = label
    return values


def count_classes(classes: Sequence[str]) -> str:
    """Return how many classes there are, with their names: `one class only: a`."""
    if not classes:
        return "no class"
    many = f"{len(classes)} classes" if len(classes) > 1 else "one class only"
    return f"{many}: {shown_list(classes[:3])}"


def similar_class(label: str, classes: Iterable[str]) -> str:
    """Return the class that a label may be a typing error of; empty if none is near.

    Labels with other digits are other classes: `team 1` and `team 2`.
    """
    digits = re.sub(r"\D", "", label)
    by_form = {name.casefold(): name for name in classes if re.sub(r"\D", "", name) == digits}
    near = difflib.get_close_matches(label.casefold(), by_form, n=1, cutoff=MIN_SIMILARITY)
    return by_form[near[0]] if near else ""


def label_words(classes: Sequence[str]) -> dict[str, str]:
    """Return class -> label token: readable words; the class itself where two would be the same."""
    words = {label: _readable(label) for label in classes}
    prefix = _common_words(words.values())
    words = {label: " ".join(word.split()[prefix:]) for label, word in words.items()}
    counts = Counter(word.casefold() for word in words.values())
    return {label: word if counts[word.casefold()] == 1 else label for label, word in words.items()}


def _readable(label: str) -> str:
    """Return `billing_issue`, `BillingIssue` and `billing-issue` as `billing issue`."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    text = re.sub(r"(?<=\w)[_./:-]+(?=\w)|_", " ", text)
    words = [word if word.isupper() else word.lower() for word in text.split()]
    return " ".join(words) or label


def _common_words(labels: Iterable[str]) -> int:
    """Return how many first words all labels have in common, such as `label` of `label_a`."""
    split = [label.split() for label in labels]
    count = 0
    while len({tuple(words[: count + 1]) for words in split}) == 1 and all(
        len(words) > count + 1 for words in split
    ):
        count += 1
    return count if len(split) > 1 else 0


def same_first_words(words: Iterable[str]) -> list[str]:
    """Return the label tokens that begin with the same word as another one."""
    words = list(words)
    counts = Counter(word.split()[0].casefold() for word in words)
    return [word for word in words if counts[word.split()[0].casefold()] > 1]
