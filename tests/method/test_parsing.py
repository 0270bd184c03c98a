"""What LMs write, read back: text, label and what is cut off."""

import unicodedata
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import settings as quick
from hypothesis import strategies as st

from gpt3mix_cli.method.parsing import ParsedLine, parse_line
from gpt3mix_cli.method.prompt import label_prefix, render_example, render_prompt, to_one_line
from gpt3mix_cli.records import Example
from gpt3mix_cli.settings import Task


def make_task(labels: Any, **types: str) -> Task:
    return Task.model_validate({"name": "t", "data": {"kind": "demo"}, "labels": labels, **types})


SST2 = make_task(
    {"pos": "positive", "neg": "negative"}, text_type="movie review", label_type="sentiment"
)
ODD = make_task(
    {"a": "not (at all)", "b": "not", "c": "two words", "d": "ß"},
    text_type="q.",
    label_type="kind of (thing)",
)


@pytest.mark.parametrize(
    ("line", "text", "label"),
    [
        (" a fine film (Sentiment: Positive)", "a fine film", "pos"),
        ("a fine film (Sentiment: Negative)\n", "a fine film", "neg"),
        # Brackets are part of a text.
        ("fine (if long) (Sentiment: Positive)", "fine (if long)", "pos"),
        ("fine :-) (Sentiment: Positive)", "fine :-)", "pos"),
        ("fine ((very) (Sentiment: Positive)", "fine ((very)", "pos"),
        ("(fine) (Sentiment: Positive)", "(fine)", "pos"),
        ("the sentiment: mixed (Sentiment: Negative)", "the sentiment: mixed", "neg"),
        (
            "what he says (sentiment: unclear, and more (Sentiment: Negative)",
            "what he says (sentiment: unclear, and more",
            "neg",
        ),
        # Its case, spaces and closing bracket may be wrong.
        ("fine (sentiment: positive)", "fine", "pos"),
        ("fine (SENTIMENT:NEGATIVE)", "fine", "neg"),
        ("fine.(Sentiment: Positive)", "fine.", "pos"),
        ("fine \t( Sentiment :\u00a0 Positive ) ", "fine", "pos"),
        ("fine (Sentiment: Positive", "fine", "pos"),
        # The text type at the start goes, however often.
        (" Movie review: fine (Sentiment: Positive)", "fine", "pos"),
        (" Movie review: movie review : fine (Sentiment: Positive)", "fine", "pos"),
        ("movie reviews: a history (Sentiment: Positive)", "movie reviews: a history", "pos"),
        ("my movie review: fine (Sentiment: Positive)", "my movie review: fine", "pos"),
        # No annotation, an empty one, or no text.
        ("a fine film", "a fine film", None),
        ("a fine film (Sentiment: Positive and", "a fine film", "pos"),
        ("a fine film (Sentiment", "a fine film", None),
        ("(Sentiment: Positive)", "", "pos"),
        ("  ", "", None),
        ("", "", None),
        ("Movie review:", "", None),
    ],
)
def test_a_line_is_a_text_and_its_label(line: str, text: str, label: str | None) -> None:
    found = parse_line(line, SST2)
    assert (found.text, found.label, found.rest) == (text, label, "")
    assert (found.written_label is None) == (label is None)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "fine (Sentiment: Positive) (Sentiment: Negative)",
            ParsedLine("fine", "pos", "Positive", ""),  # nothing but a second annotation
        ),
        (
            "fine (Sentiment: Positive) Movie review: dull (Sentiment: Negative)",
            ParsedLine("fine", "pos", "Positive", "Movie review: dull (Sentiment: Negative)"),
        ),
        (
            "fine (Sentiment: Positive). I liked it",
            ParsedLine("fine", "pos", "Positive", ". I liked it"),
        ),
        (
            "fine Movie review: dull (Sentiment: Negative)",
            ParsedLine("fine", None, None, "Movie review: dull (Sentiment: Negative)"),
        ),
        ("fine\nMovie review: dull", ParsedLine("fine", None, None, "Movie review: dull")),
        (
            "fine (Sentiment: Mixed) (Sentiment: Positive)",
            ParsedLine("fine", None, "Mixed", ""),
        ),
        ("fine (Sentiment: Positively)", ParsedLine("fine", None, "Positively", "")),
        ("fine (Sentiment: )", ParsedLine("fine", None, "", "")),
    ],
)
def test_what_follows_is_cut_and_a_label_outside_the_set_is_none(
    line: str, expected: ParsedLine
) -> None:
    assert parse_line(line, SST2) == expected


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("x (Kind of (thing): Not (at all))", "a"),
        ("x (Kind of (thing): Not)", "b"),
        ("x (kind  of (thing): two  WORDS)", "c"),
        ("x (Kind of (thing): Ss)", "d"),
        ("x (Kind of (thing): ß)", "d"),
        ("q.: x (Kind of (thing): Not", "b"),
        ("x (Kind of thing: Not)", "b"),  # an annotation in another form
        ("x (Kind of thing: x)", None),
    ],
)
def test_signs_in_types_and_labels_mean_themselves(line: str, label: str | None) -> None:
    assert parse_line(line, ODD).label == label


# Rendered and read back ---------------------------------------------------------------------------

# Whole Unicode but half characters, with what matters here made likely.
signs = st.one_of(
    st.sampled_from(
        [*"()[]:\"'“”«» .,aß\u0130\u0345", "(Sentiment", "Sentiment:", "Movie review", "\n"]
    ),
    st.characters(exclude_categories=["Cs"]),
)
texts = st.lists(signs, max_size=30).map("".join).map(to_one_line)
words = st.lists(signs, min_size=1, max_size=8).map("".join).map(to_one_line).filter(bool)


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    tokens = draw(
        st.lists(
            words,
            min_size=2,
            max_size=5,
            unique_by=lambda token: " ".join(
                unicodedata.normalize("NFC", token).casefold().split()
            ),
        )
    )
    capital = {" ".join(token.capitalize().casefold().split()) for token in tokens}
    assume(len(capital) == len(tokens) == len({token.lower() for token in tokens}))
    return make_task(
        {f"class {number}": token for number, token in enumerate(tokens)},
        text_type=draw(words),
        label_type=draw(words),
    )


@quick(max_examples=400, deadline=None)
@given(st.one_of(st.just(SST2), st.just(ODD), tasks()), texts, st.data())
def test_what_is_rendered_is_read_back(task: Task, text: str, data: st.DataObject) -> None:
    """Any one-line text without an annotation or a row of its own, any task specification, any
    class."""
    assume(parse_line(text, task) == (text, None, None, ""))
    assume(
        label_prefix(task).strip().casefold()
        not in " ".join([text, *task.labels.values()]).casefold()
    )
    label = data.draw(st.sampled_from(task.classes))
    assume(f"{task.text_type.capitalize()}:" not in render_example(task, text, label))
    found = parse_line(f" {render_example(task, text, label)}", task)
    assert (found.text, found.label, found.rest) == (text, label, "")


@quick(max_examples=100, deadline=None)
@given(st.lists(texts.filter(bool), min_size=1, max_size=4), st.data())
def test_a_prompts_own_lines_are_read_back(lines: list[str], data: st.DataObject) -> None:
    assume(
        all(
            parse_line(text, SST2) == (text, None, None, "") and "(sentiment" not in text.casefold()
            for text in lines
        )
    )
    examples = [
        Example(id=str(i), text=text, label=data.draw(st.sampled_from(SST2.classes)))
        for i, text in enumerate(lines)
    ]
    written = render_prompt(SST2, examples).split("\n")[2:-1]
    assert [parse_line(line, SST2)[:2] for line in written] == [
        (row.text, row.label) for row in examples
    ]


@quick(max_examples=300, deadline=None)
@given(
    st.one_of(st.just(SST2), tasks()),
    st.lists(
        st.one_of(
            texts, st.sampled_from([" (Sentiment: Positive)", "(sentiment:x)", " Movie review: "])
        )
    ),
)
def test_any_line_is_read_without_error_and_once(task: Task, parts: list[str]) -> None:
    """The text is a part of the line on one line; read again it stays as it is."""
    line = "".join(parts)
    found = parse_line(line, task)
    assert found.text in to_one_line(line)
    assert found.text == to_one_line(found.text)
    assert found.label is None or (found.label in task.classes and found.written_label is not None)
    assert parse_line(found.text, task) == (found.text, None, None, "")
