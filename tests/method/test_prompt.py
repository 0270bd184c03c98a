"""The prompt of Appendix A to the letter, and the label choices that follow it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as quick
from hypothesis import strategies as st

from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.method.prompt import (
    PromptExtras,
    PromptFitter,
    label_choices,
    label_prefix,
    render_label_prompt,
    render_prompt,
    to_one_line,
)
from gpt3mix_cli.records import Example
from gpt3mix_cli.settings import Task

ROOT = Path(__file__).parent.parent.parent
# To write the golden prompts again: REGENERATE=1 pytest tests/method/test_prompt.py. Then read the
# difference.
GOLDEN, REGENERATE = ROOT / "tests" / "golden", bool(os.environ.get("REGENERATE"))
LINE_ENDS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


def make_task(labels: Any, **types: str) -> Task:
    return Task.model_validate({"name": "t", "data": {"kind": "demo"}, "labels": labels, **types})


def rows(*pairs: tuple[str, str]) -> list[Example]:
    return [Example(id=f"r{i}", text=text, label=label) for i, (text, label) in enumerate(pairs)]


SST2 = make_task(
    {"pos": "positive", "neg": "negative"}, text_type="movie review", label_type="sentiment"
)
REVIEWS = rows(
    ("Laughably, irredeemably awful.", "neg"),
    ("Well-made but mush-hearted.", "pos"),
    (
        "Moonlight Mile (2002) doesn't quite go the distance, but the cast is "
        "\u201cimpressive\u201d.",
        "pos",
    ),
    ("It's just\nnot very smart.", "neg"),
    ("A Métier of its own :-)", "pos"),
    ("  Excessively talky, occasionally absurd and much too long (three hours!) ", "neg"),
    ('He asks: "why?" (sentiment aside), and so do we.', "neg"),
    ("What a fascinating mess {it is} [sic].", "pos"),
)
EXAMPLES = {
    "cr": [
        ("The zoom is a joy , and the battery lasts for days .", "pos"),
        ("it stopped working after two weeks", "neg"),
    ],
    "subj": [
        ("the film is a warm , funny ride .", "subjective"),
        ("a young man inherits his uncle's farm .", "objective"),
    ],
    "cola": [
        ("The more we study verbs, the crazier they get.", "acceptable"),
        ("They made him to exhaustion.", "unacceptable"),
    ],
    "trec6": [
        ("What is the capital of Burkina Faso ?", "LOC"),
        ("Who invented the hula hoop ?", "HUM"),
        ("What does NASA stand for ?", "ABBR"),
    ],
    "mpqa": [("fully supports", "pos"), ("a grave mistake", "neg")],
}
TWENTY = rows(*((f"text number {i} .", "pos" if i % 2 else "neg") for i in range(20)))


# The prompt ---------------------------------------------------------------------------------------


def is_golden(name: str, text: str) -> None:
    path = GOLDEN / f"prompt-{name}.txt"
    if REGENERATE:
        path.write_bytes(text.encode())
    assert text == path.read_bytes().decode()


Shipped = Callable[[str], Task]


@pytest.fixture
def shipped(tmp_path: Path) -> Shipped:
    """Return the task of a file that we ship."""

    def read(name: str) -> Task:
        path = tmp_path / "experiment.yaml"
        path.write_text(
            f"task: {ROOT / 'configs' / 'tasks' / name}.yaml\nsubsample: {{levels: [1%]}}\n"
        )
        return load_experiments(path)[0].task

    return read


def test_the_papers_example_to_the_letter(shipped: Shipped) -> None:
    """Appendix A; its line breaks within a review are the page's."""
    lilo = (
        "Despite its Hawaiian setting, the science-fiction trimmings and some moments of rowdy "
        "slapstick, the basic plot of ``Lilo`` could have been pulled from a "
        "tear-stained vintage Shirley Temple script."
    )
    examples = rows((lilo, "neg"), ("And people make fun of me for liking Showgirls.", "neg"))
    assert (
        render_prompt(shipped("sst2"), examples)
        == (GOLDEN / "prompt-sst2-paper.txt").read_bytes().decode()
    )


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_k_examples(k: int, shipped: Shipped) -> None:
    """With brackets, quotes, other scripts' letters and a line end in the texts."""
    is_golden(f"sst2-k{k}", render_prompt(shipped("sst2"), REVIEWS[:k]))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_tasks_of_table_7(name: str, shipped: Shipped) -> None:
    """Rendered from the task files: header, types, label words and their order."""
    is_golden(name, render_prompt(shipped(name), rows(*EXAMPLES[name])))


def test_every_shipped_task_has_a_golden_prompt() -> None:
    assert {path.stem for path in (ROOT / "configs" / "tasks").glob("*.yaml")} == {
        "sst2",
        "demo",  # its specification is that of SST-2
        *EXAMPLES,
    }


def test_the_generic_specification() -> None:
    is_golden(
        "generic",
        render_prompt(
            make_task(["pos", "neg"]), rows(("A gorgeous, witty, seductive movie.", "pos"))
        ),
    )


@pytest.mark.parametrize("k", [1, 2, 4])
def test_one_line_an_example_in_the_order_given(k: int) -> None:
    header, blank, *lines, last = render_prompt(SST2, TWENTY[:k][::-1]).split("\n")
    assert header.startswith(
        "Each item in the following list contains a movie review and the respective sentiment."
    )
    assert (blank, last) == ("", "Movie review:")
    names = {"pos": "Positive", "neg": "Negative"}
    assert lines == [
        f"Movie review: {row.text} (Sentiment: {names[row.label]})" for row in TWENTY[:k][::-1]
    ]


def test_labels_are_in_the_tasks_order_whatever_their_case_in_the_config() -> None:
    """Small in the header, capitalised in the lines, in types and labels alike."""
    task = make_task(
        {"b": "NO", "a": "Yes", "c": "mayBe"}, text_type="Question", label_type="ANSWER"
    )
    text = render_prompt(task, rows(("so", "a"), ("not so", "b"), ("SO", "c")))
    assert (
        "contains a question and the respective answer. "
        "The answer is one of 'no', 'yes', or 'maybe'.\n\n" in text
    )
    assert text.endswith(
        "\nQuestion: so (Answer: Yes)\nQuestion: not so (Answer: No)\n"
        "Question: SO (Answer: Maybe)\nQuestion:"
    )
    assert label_choices(task) == (" No", " Yes", " Maybe")


@pytest.mark.parametrize("end", LINE_ENDS, ids=repr)
def test_a_text_of_several_lines_becomes_one(end: str) -> None:
    text = render_prompt(SST2, rows((f"{end} first line {end}{end}second{end}third{end}", "pos")))
    assert text.splitlines()[2:] == [
        "Movie review: first line second third (Sentiment: Positive)",
        "Movie review:",
    ]


@quick(max_examples=100, deadline=None)
@given(
    st.text(
        st.sampled_from([*"ab .,(:", "\t", "\u00a0", "é", *LINE_ENDS[:2], *LINE_ENDS[3:]]),
        max_size=30,
    )
)
def test_one_line_keeps_every_word(text: str) -> None:
    line = to_one_line(text)
    assert len(line.splitlines()) <= 1
    assert line.split() == text.split()
    assert to_one_line(line) == line


@quick(max_examples=50, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
        min_size=1,
        max_size=4,
    )
)
def test_the_prompt_has_a_line_an_example_and_ends_with_the_colon(texts: list[str]) -> None:
    text = render_prompt(SST2, rows(*((text, "pos") for text in texts)))
    assert text.endswith("\nMovie review:")
    assert len(text.splitlines()) == 2 + len(texts) + 1


# Label prefix and choices -------------------------------------------------------------------------


def test_the_label_prefix_joins_text_and_label_as_the_prompt_does() -> None:
    """What the LM reads in an example is a text, the label prefix, a choice and a bracket."""
    (row,) = rows(("fine", "neg"))
    assert label_prefix(SST2) == " (Sentiment:"
    assert f"Movie review: fine{label_prefix(SST2)}{label_choices(SST2)[1]})\n" in render_prompt(
        SST2, [row]
    )


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["positive", "negative"], (" Positive", " Negative")),
        (["pos", "positive"], (" Pos)", " Positive)")),
        (["not grammatical", "other", "NOT"], (" Not grammatical)", " Other)", " Not)")),
        (["1", "2", "10"], (" 1)", " 2)", " 10)")),
        (["active", "inactive"], (" Active", " Inactive")),
    ],
)
def test_choices_carry_the_bracket_if_and_only_if_one_label_begins_another(
    labels: list[str], expected: tuple[str, ...]
) -> None:
    """Without it ` Pos` would count every ` Positive` as its own."""
    assert label_choices(make_task(labels)) == expected


# What other methods of generation add ---------------------------------------------------------

HEADER = (
    "Each item in the following list contains a movie review and the respective sentiment. "
    "The sentiment is one of 'positive' or 'negative'."
)
DESCRIPTIONS = (("pos", "praise"), ("neg", "blame"))


def test_a_prompt_without_examples_asks_for_a_text_of_one_class() -> None:
    asked = PromptExtras(asked_label="neg", attributes=(("length", "short"), ("topic", "a plot")))
    header = (
        "The following item contains a movie review and the respective sentiment. The sentiment "
        "is one of 'positive' or 'negative'. The sentiment of this item is 'negative'. "
        "This item has these attributes: length: short, topic: a plot."
    )
    assert render_prompt(SST2, (), asked) == f"{header}\n\nMovie review:"
    assert (
        render_label_prompt(SST2, (), "so so", asked)
        == f"{header}\n\nMovie review: so so (Sentiment:"
    )


def test_descriptions_and_attributes_stand_in_the_header() -> None:
    extras = PromptExtras(DESCRIPTIONS, attributes=(("length", "short"),))
    first, *others = render_prompt(SST2, REVIEWS[:1], extras).split("\n")
    assert first == (
        f"{HEADER} 'positive' means: praise. 'negative' means: blame. "
        "The last item has these attributes: length: short."
    )
    assert others == render_prompt(SST2, REVIEWS[:1]).split("\n")[1:]


def test_texts_without_labels_come_first() -> None:
    extras = PromptExtras(style_texts=("one", "two\nlines"))
    assert render_prompt(SST2, REVIEWS[:2], extras) == (
        "Each line of the following list is a movie review.\n\n- one\n- two lines\n\n"
        + render_prompt(SST2, REVIEWS[:2])
    )


def test_what_is_added_counts_when_a_prompt_is_fitted() -> None:
    extras = PromptExtras(DESCRIPTIONS, style_texts=("a text of the same style",))
    fitter = PromptFitter(SST2, len)
    for number in range(3):
        kept = TWENTY[len(TWENTY) - number :]
        limit = len(render_prompt(SST2, kept, extras))
        assert fitter.fit(TWENTY, limit, extras=extras) == kept
