"""What LMs write around a text is removed; what belongs to the text stays."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import settings as quick
from hypothesis import strategies as st

from gpt3mix_cli.method.cleaning import clean_text, find_label_in_text
from gpt3mix_cli.method.parsing import parse_line
from gpt3mix_cli.method.prompt import to_one_line
from gpt3mix_cli.settings import Task

GOLDEN = Path(__file__).parent.parent / "golden" / "lines.jsonl"


def make_task(labels: Any, **types: str) -> Task:
    return Task.model_validate({"name": "t", "data": {"kind": "demo"}, "labels": labels, **types})


REVIEWS = make_task(
    {"pos": "positive", "neg": "negative"}, text_type="movie review", label_type="sentiment"
)
QUESTIONS = make_task(
    {
        "ABBR": "abbreviation",
        "DESC": "description",
        "ENTY": "entity",
        "HUM": "human",
        "LOC": "location",
        "NUM": "number",
    },
    text_type="question",
    label_type="question type",
)
TOPICS = make_task(
    {name: name for name in ("business", "world", "sports", "technology")},
    text_type="news headline",
    label_type="topic",
)
YES_NO = make_task({"yes": "yes", "no": "no"}, text_type="question", label_type="answer")
TASKS = {"reviews": REVIEWS, "questions": QUESTIONS}


# Lines of a real LM -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", [json.loads(line) for line in GOLDEN.read_text("utf-8").splitlines()]
)
def test_lines_of_smollm2_are_read_as_a_person_would(case: dict[str, Any]) -> None:
    """Written by SmolLM2-135M-Instruct for the packaged reviews and for questions made up here."""
    task = TASKS[case["task"]]
    line = parse_line(case["line"], task)
    assert (line.text, line.label) == (case["text"], case["label"])
    assert bool(find_label_in_text(line.text, task)) == (case["reject"] == "label_in_text")


# Annotations --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("fine (Positive)", "pos"),
        ("fine [NEGATIVE]", "neg"),
        ("fine {sentiment: positive}", "pos"),
        ("fine (Positive Sentiment)", "pos"),
        ("fine (Interpretive response: Negative)", None),
        ("fine (Metrating:Negative)", None),
        ("fine (Movie review: Positive)", "pos"),
        ("fine (Positive review)", "pos"),
        ("fine (sentiment) (Can be as positive as one wants)", None),
        ("fine (Sentiment +1)", None),
        ("fine (Movie Review)", None),
        ("fine (Answer type: Subject)", None),
        ("fine [Topic: Dark comedy]", None),
        ("fine (positive or negative)", None),
        ("fine (Positive) (positive)", "pos"),
        ("fine (Positive) [Negative]", None),
        ("fine (Positive) (Not: Positive)", None),
        ("fine [Sentiment: Not positive]", None),
        ("fine [Sentiment: Mixed]", None),
        ("fine (Positive", "pos"),
        ("fine (Positive).", "pos"),
        ("fine (Sentiment [Positive])", "pos"),
        ("fine (Positive]", "pos"),
        ("fine (Positive) (Sentiment: Negative)", "neg"),
        ('fine ("Positive")', "pos"),
        ("fine Sentiment: negative", "neg"),
        ('"fine" (Positive)', "pos"),
        ('"fine (Positive)"', "pos"),
        ('"fine (Sentiment: Positive)"', "pos"),
        ("1. **fine** (Positive)", "pos"),
    ],
)
def test_an_annotation_at_the_end_is_the_label_if_it_names_one(
    line: str, label: str | None
) -> None:
    found = parse_line(line, REVIEWS)
    assert (found.text, found.label, found.rest) == ("fine", label, "")


@pytest.mark.parametrize("text", ["Fine.", "Fine ?", 'He said "fine"', "It is ''fine''"])
@pytest.mark.parametrize(("end", "label"), [(" - Positive", "pos"), (" | Negative.", "neg")])
def test_a_bare_label_follows_a_sentence_or_a_quotation(text: str, end: str, label: str) -> None:
    found = parse_line(text + end, REVIEWS)
    assert (found.text, found.label, found.rest) == (text, label, "")


@pytest.mark.parametrize(
    ("text", "bracket"),
    [
        ("a (positive) film", "(positive)"),
        ("a film [Sentiment: Negative], they said", "[Sentiment: Negative]"),
        ("it (Interpretive response: Negative) drags", "(Interpretive response: Negative)"),
        ("dull {positive or negative}?", "{positive or negative}"),
        ("a (mostly positive) film", ""),
        ("a film (with a positive end) for all", ""),
        ("the sentiment (sentiment) of it", ""),
        ("a positive film", ""),
        ("what he says (positive: nothing) counts", ""),
    ],
)
def test_a_label_in_brackets_elsewhere_is_found(text: str, bracket: str) -> None:
    assert clean_text(text, REVIEWS) == (text, "")
    assert find_label_in_text(text, REVIEWS) == bracket


@pytest.mark.parametrize(
    "text",
    [
        "How far is it to the moon (number of miles) ?",
        "What is the largest organ (of the human body)",
        "What is the largest organ (human body)",
        "Who was the first human ( or animal ) in space ?",
        "Where is the location of the museum - and who runs it ?",
        "What does the abbreviation LED ( or led ) mean ?",
        "What entity (a bank, a number of people, or a human) can sue ?",
        "How many people live in the capital (location unknown)",
    ],
)
def test_words_that_are_labels_too_do_not_make_an_annotation(text: str) -> None:
    assert clean_text(text, QUESTIONS) == (text, "")
    assert find_label_in_text(text, QUESTIONS) == ""


# Habits of chats ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        '"fine film"',
        "“fine film”",
        "**fine film**",
        "`fine film`",
        "```fine film```",
        "**fine film",
        '"fine film',  # the label came before the end of the quotation
        "1. fine film",
        "2) fine film",
        "- fine film",
        "* fine film",
        "• fine film",
        "Sure, here is a movie review: fine film",
        "Certainly! Here's another item for the list: fine film",
        "Sure, here are some movie reviews: fine film",
        "Here is a new movie review: fine film",
        "**Movie review:** fine film",
        "1. Movie review: fine film",
        '1. **"fine film"**',
        '"Movie review: fine film"',
    ],
)
def test_habits_of_chats_are_removed(line: str) -> None:
    assert clean_text(line, REVIEWS) == ("fine film", "")


@pytest.mark.parametrize(
    "text",
    [
        "`` a fine film '' is what it is not .",
        "`` a fine film ''",
        "` a fine film '",
        "''fine'' and ``dull``",
        "a fine film -lrb- if long -rrb- .",
        "-lrb- positive -rrb- is a word .",
        '"Fine," he said, and left.',
        'He said: "fine."',
        '"Fine" and "dull"',
        "isn't it what one doesn't want ?",
        "**Fine** but long",
        "*fine* and *long*",
        "* * 1/2",
        "**1/2 : fine",
        "-- but who cares ?",
        "- 5 degrees in the hall",
        "2001 . a space odyssey",
        "1.5 stars",
        "here is a film that says: nothing",
        "sure , here is the thing .",
        "the sentiment: mixed",
        "fine - positively",
        "fine (if long)",
        "a film of 1999 (U.S.)",
        "a fine film (Note: not for children)",
        "a fine film (One more thing: The end of it is a lie)",
    ],
)
def test_what_belongs_to_a_text_stays(text: str) -> None:
    assert clean_text(text, REVIEWS) == (text, "")
    assert find_label_in_text(text, REVIEWS) == ""


@pytest.mark.parametrize("text", ["Fine film", "12 stars", "I don't know", "…a fine film"])
def test_single_quotes_around_a_text_are_removed(text: str) -> None:
    assert clean_text(f"'{text}'", REVIEWS) == clean_text(f"‘{text}’", REVIEWS) == (text, "")


@pytest.mark.parametrize(
    ("task", "text"),
    [
        *(
            (REVIEWS, text)
            for text in [
                "A good film (Not Positive)",
                "Great. (Non-negative)",
                "Great. (Positive vibes)",
                "Great. (Negative Nancy)",
                "He is ill (HIV positive)",
                "Good. (Single sentiment)",
                "I much preferred the sequel (Terminator 2: Judgment Day).",
                "The best of them (Star Trek: First Contact)",
                "A stunt (Mission: Impossible)",
                "He dies (Warning: Spoilers)",
                "Rated (PG: Mild violence)",
                "Okay, here's the thing: this film is awful.",
                "Ok, here is what I loved about it: nothing.",
                "Sure, here is another one: dull.",
                "Here is the movie review that I liked: none.",
                "It was - Negative.",
                "Fine - Positive",
                "'fine film'",
                "'Tis a film for the kids'",
                "‘Twas a film for the kids’",
                "'70s music for the kids'",
            ]
        ),
        *(
            (TOPICS, text)
            for text in [
                "IBM posts profit (Business Week)",
                "Lender cuts rate (World Bank).",
                "Giants win (Sports Illustrated)",
                "Shares rise (AP World)",
                "Giants lose (Sports 24)",
            ]
        ),
        *(
            (QUESTIONS, text)
            for text in [
                "Who runs it (Human Resources)",
                "What is it (Entity Framework)",
                "Who made the perfume (Number 5)",
                "Name a river - Location.",
                "Here's a question: who built it ?",
                "Okay, here's the thing: who built it ?",
            ]
        ),
        *(
            (YES_NO, text)
            for text in [
                "I like the band (No Doubt)",
                "Did you go? - No.",
                "He asked if I'd go. — Yes",
                "Here's a question: did it rain ?",
            ]
        ),
    ],
)
def test_what_looks_like_an_annotation_stays(task: Task, text: str) -> None:
    assert parse_line(text, task) == (text, None, None, "")
    assert find_label_in_text(text, task) == ""


def test_the_packaged_texts_stay() -> None:
    file = resources.files("gpt3mix_cli") / "resources" / "demo.jsonl"
    texts = [json.loads(line)["text"] for line in file.read_text("utf-8").splitlines()]
    for task in (REVIEWS, TOPICS, QUESTIONS, YES_NO):
        assert [clean_text(text, task).text for text in texts] == texts


# Properties ---------------------------------------------------------------------------------------

MARKS = [*"()[]{}\"'`*“”‘’«»-•|:.,!?", "(Positive)", "(human", "1. ", "- ", "Sure, here is a", "**"]
NAMES = ["positive", "Negative", "human", "Number", "sentiment", "question type", "Movie review:"]
pieces = st.one_of(
    st.sampled_from([*MARKS, *NAMES, " ", "fine", "don't"]),
    st.characters(exclude_categories=["Cs"]),
)
lines = st.lists(pieces, max_size=25).map("".join)
words = st.text(st.characters(categories=["L"]), min_size=1, max_size=8)
plain_texts = st.lists(words, min_size=1, max_size=12).map(" ".join)
tasks = st.sampled_from(list(TASKS.values()))


@quick(max_examples=200, deadline=None)
@given(plain_texts, st.sampled_from(["", ".", " ?", "!", ", too"]), tasks)
def test_words_and_punctuation_are_left_alone(text: str, end: str, task: Task) -> None:
    text += end
    assert clean_text(text, task) == (text, "")
    assert find_label_in_text(text, task) == ""


@quick(max_examples=200, deadline=None)
@given(lines, tasks)
def test_what_is_kept_is_a_piece_of_the_line_and_clean(line: str, task: Task) -> None:
    cleaned = clean_text(line, task).text
    assert cleaned in line
    assert clean_text(cleaned, task) == (cleaned, "")
    text = parse_line(line, task).text
    assert text in to_one_line(line)
    assert parse_line(text, task) == (text, None, None, "")


@st.composite
def annotations(draw: st.DrawFn) -> tuple[Task, str]:
    task = draw(tasks)
    label = draw(st.sampled_from(list(task.labels.values())))
    label = draw(st.sampled_from([label, label.capitalize(), label.upper()]))
    kind = task.label_type.capitalize()
    content = draw(
        st.sampled_from(
            [
                label,
                f"{kind}: {label}",
                f"{kind}:{label}",
                f"{label.capitalize()} {kind}",
                f"Interpretive response: {label}",
                f"{label.capitalize()} review",
                f"{task.text_type}: {label}",
                kind,
            ]
        )
    )
    left, right = draw(st.sampled_from(["()", "[]", "{}", ("(", "")]))
    return task, f"{left}{content}{right}"


@quick(max_examples=200, deadline=None)
@given(lines, annotations(), st.sampled_from(["", " "]), st.booleans())
def test_an_annotation_after_a_clean_text_is_removed(
    line: str, annotation: tuple[Task, str], space: str, in_quotes: bool
) -> None:
    task, bracket = annotation
    text = parse_line(line, task).text
    quoted = f'"{text}"' if in_quotes and '"' not in text else text
    assume(text and not any(mark in text for mark in "([{"))  # in an open one it is a part of that
    assert parse_line(f" {quoted}{space}{bracket}", task).text == text


@quick(max_examples=200, deadline=None)
@given(lines, tasks, st.data())
def test_a_bare_annotation_after_a_clean_text_is_removed(
    line: str, task: Task, data: st.DataObject
) -> None:
    text = parse_line(f"{line}.", task).text
    label = data.draw(st.sampled_from(list(task.labels.values()))).capitalize()
    kind = task.label_type.capitalize()
    form = data.draw(st.sampled_from([f"- {label}", f"| {label}", f"{kind}: {label}"]))
    assume(text.endswith(".") and not any(mark in text for mark in "([{"))
    assert parse_line(f"{text} {form}", task).text == text


# What small chat models wrote ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("Film Review: The best comedy of the year.", "The best comedy of the year."),
        ("- **Movie review:** The film was fine.", "The film was fine."),
        ("The leads make it count. (Positive, negative)", "The leads make it count."),
        ("A lazy remake. (Movie Review is empty)", "A lazy remake."),
        ('"It is rare to see one (Movie scene: Friendly)".', "It is rare to see one"),
        ("Certainly, here is one more review:", ""),
        ("Here's the next item, in the same form:", ""),
        ("Hi there,", ""),
        ("Hi there, I loved it", "Hi there, I loved it"),
        ("My film Review: fine", "My film Review: fine"),
    ],
)
def test_frames_and_greetings_of_chats_are_cut(line: str, text: str) -> None:
    assert parse_line(line, REVIEWS).text == text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Positive", True),
        ("Positive, negative.", True),
        ("The sentiment of this movie review is 'Negative' because", True),
        ("A positive delight", False),
        ("Sentiment is for fools", False),
    ],
)
def test_a_label_alone_is_no_text(text: str, found: bool) -> None:
    assert bool(find_label_in_text(text, REVIEWS)) is found


def test_a_short_label_may_be_a_text() -> None:
    assert not find_label_in_text("No.", YES_NO)
