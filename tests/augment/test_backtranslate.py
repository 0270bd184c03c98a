"""Back-translation: which candidate a copy takes, and the journal; with scripted translators, tiny
real ones, and Apertium."""

import itertools
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as quick
from hypothesis import strategies as st

from gpt3mix_cli.augment import AugmentOptions, augment, backtranslate
from gpt3mix_cli.augment.backtranslate import MAX_FRUITLESS_ROUNDS, BackTranslation
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.duplicates import normalize_text
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.lm import Journal
from gpt3mix_cli.records import Augmented, Example, read_records
from gpt3mix_cli.settings import BacktranslateSettings, Task

TASK = Task(name="demo", data={"kind": "demo"}, labels={"pos": "positive", "neg": "negative"})
TEXTS = [
    "the film was good",
    "a waste of time",
    "bad",
    "i liked the long story but it was a waste of time",
    "the film was good",
]
ROWS = [
    Example(id=f"r{i}", text=text, label="pos" if i % 2 else "neg") for i, text in enumerate(TEXTS)
]

needs_apertium = pytest.mark.skipif(
    not shutil.which("apertium"), reason="apertium is not installed"
)


def texts(
    augmenter: BackTranslation,
    first: int,
    count: int,
    rows: Sequence[Example] = ROWS,
    seed: int = 0,
) -> list[str]:
    return [row.text for row in augmenter.generate(rows, first, count, seed)]


# Scripted translators -----------------------------------------------------------------------------


class Scripted:
    """Translators that answer as `answer(model, text, number of the asking)` says, and remember
    what they were asked."""

    def __init__(self, answer: Callable[[str, str, int], list[str]]) -> None:
        self.answer, self.asked, self.resources = answer, [], []

    def open(self, settings: BacktranslateSettings, model: str, sha: str | None) -> "Way":
        self.resources.append(model)
        return Way(self, model)

    def texts(self, model: str) -> list[list[str]]:
        return [asked for name, asked in self.asked if name == model]


class Way:
    def __init__(self, all: Scripted, model: str) -> None:
        self.all, self.model, self.times = all, model, dict[str, int]()

    def translate(
        self, texts: Sequence[str], candidates: int, seeds: Sequence[int]
    ) -> list[list[str]]:
        assert all(text and "\n" not in text for text in texts)
        assert len(texts) == len(seeds)
        self.all.asked.append((self.model, list(texts)))
        for text in texts:
            self.times[text] = self.times.get(text, -1) + 1
        return [self.all.answer(self.model, text, self.times[text])[:candidates] for text in texts]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[BackTranslation, Scripted]]:
    def run_attempts(
        answer: Callable[[str, str, int], list[str]], journal: Journal | None = None, **options: Any
    ) -> tuple[BackTranslation, Scripted]:
        script = Scripted(answer)
        monkeypatch.setattr(backtranslate, "open_translator", script.open)
        return BackTranslation(
            BacktranslateSettings(kind="backtranslate", **options), TASK, journal
        ), script

    return run_attempts


Make = Callable[..., tuple[BackTranslation, Scripted]]
DE, FR = (
    {"pivot": "de", "forward": "en-{pivot}", "backward": "{pivot}-en"},
    {"pivot": ["de", "fr"], "forward": "en-{pivot}", "backward": "{pivot}-en"},
)


def test_copies_take_the_beams_in_turn(scripted: Make) -> None:
    """Each distinct text is translated once; when the beams have run out the first comes again."""
    augmenter, script = scripted(
        lambda model, text, _: (
            [text.upper()] if model == "en-de" else [f"{text} {i}" for i in range(3)]
        ),
        beams=3,
        **DE,
    )
    rows = list(augmenter.generate(ROWS, 0, 20, 0))
    assert [row.text for row in rows[0::5]] == [
        "THE FILM WAS GOOD 0",
        "THE FILM WAS GOOD 1",
        "THE FILM WAS GOOD 2",
        "THE FILM WAS GOOD 0",
    ]
    assert sorted(text for batch in script.texts("en-de") for text in batch) == sorted(set(TEXTS))
    assert len(script.texts("de-en")) == 1
    assert rows[6].model_dump() == {
        "id": "r1~backtranslate-1",
        "text": "A WASTE OF TIME 1",
        "label": "pos",
        "probs": {"pos": 1.0, "neg": 0.0},
        "method": "backtranslate",
        "parents": ["r1"],
        "label_source": "parent",
        "label_mass": None,
        "request": 6,
    }


def test_a_candidate_that_changes_nothing_is_passed_over(scripted: Make) -> None:
    """Beams that differ in case and spacing only, from the parent or from one another, count as the
    same."""
    beams = ["the  film was GOOD", "a good film", "A  good film", "", "the movie was good"]
    augmenter, _ = scripted(
        lambda model, text, _: beams if model == "de-en" else [text], beams=5, **DE
    )
    assert texts(augmenter, 0, 4, ROWS[:1]) == ["a good film", "the movie was good"] * 2


def test_the_next_pivot_is_asked_only_where_it_is_needed(scripted: Make) -> None:
    """For parents that the first leaves unchanged, and for copies beyond its beams."""

    def answer(model: str, text: str, _: int) -> list[str]:
        if model.startswith("en-"):
            return [f"{text} {model}"]
        text = text.rpartition(" ")[0]
        return [text] if (model, text) == ("de-en", "bad") else [f"{text} {model}"]

    augmenter, script = scripted(answer, beams=2, **FR)
    assert texts(augmenter, 0, 5) == [
        f"{text} {'fr' if text == 'bad' else 'de'}-en" for text in TEXTS
    ]
    assert script.texts("en-fr") == [["bad"]]
    assert texts(augmenter, 5, 5) == [f"{text} fr-en" for text in TEXTS]
    assert [set(batch) for batch in script.texts("en-fr")[1:]] == [set(TEXTS) - {"bad"}]
    assert script.resources == ["en-de", "de-en", "en-fr", "fr-en"]


def test_a_parent_that_nothing_changes_stays_and_is_counted(scripted: Make, tmp_path: Path) -> None:
    """Neither an unchanged row nor a repeated one is an error."""
    augmenter, script = scripted(
        lambda _, text, __: [text if text.startswith("a") else f"{text} x"], beams=1, **FR
    )
    done = augment(
        augmenter, ROWS[:3], tmp_path / "b.jsonl", AugmentOptions(ratio=3, attempts=1, seed=0)
    )
    rows = list(read_records(tmp_path / "b.jsonl", Augmented))
    assert [row.text for row in rows[1::3]] == [TEXTS[1]] * 3
    assert {
        name: done.manifest.counts[name] for name in ("wanted", "kept", "unchanged", "repeated")
    } == {
        "wanted": 9,
        "kept": 9,
        "unchanged": 3,
        "repeated": 6,
    }
    assert script.texts("en-fr")[0] == [TEXTS[1]]


def test_draws_go_on_for_as_many_copies_as_are_wanted(scripted: Make) -> None:
    """A draw that says nothing new is followed by another."""

    def answer(model: str, text: str, time: int) -> list[str]:
        return [text] if model == "en-de" else [f"{text} {max(time - 1, 0)}" if time else text]

    augmenter, script = scripted(answer, temperature=0.8, **DE)
    assert texts(augmenter, 0, 6, ROWS[:1]) == [f"the film was good {i}" for i in range(6)]
    assert len(script.texts("en-de")) == 7, "the first draw changed nothing"


def test_draws_that_bring_nothing_new_end(scripted: Make) -> None:
    augmenter, script = scripted(
        lambda model, text, time: [text if model.startswith("en") else f"{text} {min(time, 1)}"],
        temperature=0.8,
        **DE,
    )
    assert texts(augmenter, 0, 5, ROWS[:1]) == [f"the film was good {i % 2}" for i in range(5)]
    assert len(script.texts("en-de")) == 2 + MAX_FRUITLESS_ROUNDS
    augmenter, script = scripted(lambda _, text, __: [text], temperature=0.8, **FR)
    assert texts(augmenter, 0, 5, ROWS[:1]) == [TEXTS[0]] * 5
    assert len(script.asked) == 2 * 2 * MAX_FRUITLESS_ROUNDS


def test_both_ways_of_a_batch_come_before_the_next_and_none_is_asked_in_advance(
    scripted: Make,
) -> None:
    augmenter, script = scripted(
        lambda model, text, _: [f"{text} {model}"], beams=1, batch_size=2, **DE
    )
    rows = augmenter.generate(ROWS, 0, 5, 0)
    next(rows)
    assert [model for model, _ in script.asked] == ["en-de", "de-en"]
    list(rows)
    assert [model for model, _ in script.asked] == ["en-de", "de-en"] * 2
    assert [
        [len(text) for text in batch]
        for batch in sorted(script.texts("en-de"), key=lambda batch: len(batch[0]))
    ] == [[3, 15], [17, 49]]


@quick(max_examples=60, deadline=None)
@given(
    data=st.data(),
    temperature=st.sampled_from([0.0, 1.0]),
    batch=st.integers(1, 4),
    pivots=st.sampled_from([DE, FR]),
)
def test_a_higher_ratio_extends_a_lower_one(
    data: st.DataObject, temperature: float, batch: int, pivots: dict[str, Any]
) -> None:
    """Whatever is translated to what: rows of any ratio are the first of a higher one's, distinct
    while candidates last, never empty."""
    known: dict[tuple[str, str, int], list[str]] = {}

    def answer(model: str, text: str, time: int) -> list[str]:
        time = time if temperature else 0
        if (model, text, time) not in known:
            known[model, text, time] = data.draw(
                st.lists(
                    st.sampled_from(["", " ", "a", "A", "b", "c", "a waste of time"]),
                    min_size=3,
                    max_size=3,
                )
            )
        return known[model, text, time]

    made, asked = [], []
    rows = [
        Example(id=str(i), text=text, label="pos")
        for i, text in enumerate(["a", "B ", "c", " ", "a waste of time"])
    ]
    with pytest.MonkeyPatch.context() as patch:
        for count in (3, 5, 17):
            script = Scripted(answer)
            patch.setattr(backtranslate, "open_translator", script.open)
            settings = BacktranslateSettings(
                kind="backtranslate", beams=3, batch_size=batch, temperature=temperature, **pivots
            )
            made.append(texts(BackTranslation(settings, TASK), 0, count, rows))
            asked.append(script.asked)
    for few, many in itertools.pairwise(made):
        assert many[: len(few)] == few
    for few_asked, many_asked in itertools.pairwise(asked):
        assert many_asked[: len(few_asked)] == few_asked, (
            "and what is translated together is the same"
        )
    for place, row in enumerate(rows):
        copies = made[-1][place::5]
        assert all(text == row.text or text.strip() for text in copies)
        changed = [
            normalize_text(text)
            for text in copies
            if normalize_text(text) != normalize_text(row.text)
        ]
        assert not changed or len(changed) == len(copies), (
            "unchanged only where no candidate changes it"
        )
        assert [*changed] == [
            [*dict.fromkeys(changed)][i % len(set(changed))] for i in range(len(changed))
        ], "in turn, each once a turn"


def test_a_blank_parent_is_left_alone_and_lines_are_joined(scripted: Make) -> None:
    rows = [
        Example(id="a", text=" two\nlines\u2028here ", label="pos"),
        Example(id="b", text=" ", label="pos"),
    ]
    augmenter, script = scripted(lambda model, text, _: [f"{text}\n!"], beams=1, **DE)
    assert texts(augmenter, 0, 2, rows) == ["two lines here ! !", " "]
    assert script.texts("en-de") == [["two lines here"]]
    same, _ = scripted(lambda model, text, _: [text], beams=1, **DE)
    assert texts(same, 0, 2, rows) == [row.text for row in rows], "unchanged to the letter"


def test_nothing_is_loaded_before_it_is_needed() -> None:
    """The constructor knows its models by name."""
    about = BackTranslation(BacktranslateSettings(kind="backtranslate"), TASK).about
    assert about["pairs"] == [["Helsinki-NLP/opus-mt-en-de", "Helsinki-NLP/opus-mt-de-en"]]
    assert about["beams"] == 4
    assert "temperature" not in about
    assert (
        "beams"
        not in BackTranslation(
            BacktranslateSettings(kind="backtranslate", temperature=0.7), TASK
        ).about
    )


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({}, [("Helsinki-NLP/opus-mt-en-de", "Helsinki-NLP/opus-mt-de-en")]),
        ({"pivot": "no"}, [("Helsinki-NLP/opus-mt-en-no", "Helsinki-NLP/opus-mt-no-en")]),
        (
            {
                "pivot": ["de", "ru"],
                "forward": "facebook/wmt19-en-{pivot}",
                "backward": "facebook/wmt19-{pivot}-en",
            },
            [
                ("facebook/wmt19-en-de", "facebook/wmt19-de-en"),
                ("facebook/wmt19-en-ru", "facebook/wmt19-ru-en"),
            ],
        ),
        ({"forward": "mine", "backward": "mine-too"}, [("mine", "mine-too")]),
        ({"engine": "apertium"}, [("eng-spa", "spa-eng")]),
        (
            {"engine": "apertium", "pivot": ["spa", "cat"]},
            [("eng-spa", "spa-eng"), ("eng-cat", "cat-eng")],
        ),
    ],
)
def test_pivots_name_their_models(options: dict[str, Any], pairs: list[tuple[str, str]]) -> None:
    assert BacktranslateSettings(kind="backtranslate", **options).pairs == pairs


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("pivot=[de, de]", "two pivots have the same models"),
        ("forward=x", None),
        (
            "revisions={a/b: main}",
            "revisions: no model 'a/b' is used (models: Helsinki-NLP/opus-mt-de-en, "
            "Helsinki-NLP/opus-mt-en-de)",
        ),
        ("pivot=3", "baselines.0.pivot: input should be a valid list, got 3"),
        ("temperature=-1", "baselines.0.temperature"),
        ("revisions={Helsinki-NLP/opus-mt-en-de: 0123abc}", None),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    tmp_path: Path, option: str, said: str | None
) -> None:
    path = tmp_path / "b.yaml"
    path.write_text(
        "task: {data: {kind: demo}, labels: [pos, neg]}\nsubsample: {levels: [1/class]}\n"
        "baselines: [{kind: backtranslate}]\n"
    )
    if said is None:
        assert load_experiments(path, [f"baselines.0.{option}"])
        return
    with pytest.raises(UserError) as caught:
        load_experiments(path, [f"baselines.0.{option}"])
    assert said in caught.value.message


def test_a_config_may_name_its_models_folders_by_pivot(tmp_path: Path) -> None:
    """A path is relative to the config, also one that is a pattern for several."""
    (tmp_path / "models" / "en-de").mkdir(parents=True)
    path = tmp_path / "b.yaml"
    path.write_text(
        "task: {data: {kind: demo}, labels: [pos, neg]}\nsubsample: {levels: [1/class]}\n"
        "baselines: [{kind: backtranslate, forward: 'models/en-{pivot}', "
        "backward: 'models/{pivot}-en'}]\n"
    )
    (baseline,) = load_experiments(path)[0].baselines
    assert isinstance(baseline, BacktranslateSettings)
    assert baseline.pairs == [(str(tmp_path / "models" / "en-de"), "models/de-en")]


# The journal --------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "b.journal.sqlite")
    yield journal
    journal.close()


def unlike(model: str, text: str, _: int) -> list[str]:
    return [f"{text} {model} {i}" for i in range(3)]


def test_what_was_translated_is_not_asked_for_again(scripted: Make, journal: Journal) -> None:
    """Not in another run, nor for another copy of the same beams; what is new is."""
    augmenter, _ = scripted(unlike, journal, beams=2, **DE)
    first = texts(augmenter, 0, 5)
    again, script = scripted(unlike, journal, beams=2, **DE)
    assert texts(again, 0, 10)[:5] == first
    assert script.resources == []
    more, script = scripted(unlike, journal, beams=2, **DE)
    texts(more, 0, 1, [*ROWS, Example(id="new", text="new", label="pos")])
    assert script.asked[0] == ("en-de", ["new"])


@pytest.mark.parametrize(
    "change",
    [
        {"beams": 3},
        {"max_tokens": 9},
        {"batch_size": 8},
        {"forward": "other"},
        {"temperature": 1.0},
        {"revisions": {"en-de": "a"}},
    ],
    ids=str,
)
def test_what_can_change_a_translation_asks_anew(
    scripted: Make, journal: Journal, change: dict[str, Any]
) -> None:
    texts(scripted(unlike, journal, beams=2, **DE)[0], 0, 1)
    augmenter, script = scripted(unlike, journal, **{"beams": 2, **DE, **change})
    texts(augmenter, 0, 1)
    assert script.asked


def test_what_cannot_change_a_translation_asks_nothing(scripted: Make, journal: Journal) -> None:
    """The method's name, further pivots, and the seed where nothing is drawn."""
    texts(scripted(unlike, journal, beams=2, **DE)[0], 0, 1)
    augmenter, script = scripted(unlike, journal, name="other", beams=2, **FR)
    texts(augmenter, 0, 1, seed=9)
    assert not script.asked


def test_draws_of_another_seed_are_others(scripted: Make, journal: Journal) -> None:
    augmenter, script = scripted(unlike, journal, temperature=1.0, **DE)
    for seed, asked in ((0, 2), (0, 2), (1, 4)):
        texts(augmenter, 0, 1, ROWS[:1], seed)
        assert len(script.asked) == asked


def test_a_damaged_answer_is_translated_again(scripted: Make, journal: Journal) -> None:
    expected = texts(scripted(unlike, journal, **DE)[0], 0, 1)
    with sqlite3.connect(journal.path) as database:
        database.execute("UPDATE answers SET answer = '[]'")
    database.close()
    for times in (1, 0):
        augmenter, script = scripted(unlike, journal, **DE)
        assert texts(augmenter, 0, 1) == expected
        assert bool(script.asked) == times


KILLED = """\
import os, signal, sys
from pathlib import Path
from gpt3mix_cli.augment import backtranslate, translators
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.grid import Grid
inner, left = translators.Transformers.translate, [int(sys.argv[3])]
def translate(self, texts, *others):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return inner(self, texts, *others)
translators.Transformers.translate = translate
grid = Grid(load_experiments(Path(sys.argv[1])), Path(sys.argv[2]))
cell = next(grid.cells())
grid.subsample(cell)
grid.augment(cell, "backtranslate", 0)
"""


@pytest.mark.slow
def test_a_killed_run_asks_for_the_batch_in_flight_only(
    marian: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are those of a run that was not killed, a sweep's other ratio asks for nothing, and
    so does another draw."""
    config = tmp_path / "b.yaml"
    config.write_text(
        "name: b\ntask: {data: {kind: demo}, labels: [pos, neg]}\n"
        "subsample: {levels: [4/class], seeds: 1}\n"
        "augment: {synthetic_sets: 2}\ntrials: 2\n"
        f"baselines: [{{kind: backtranslate, forward: {marian[0]}, backward: {marian[1]}, "
        "batch_size: 2, beams: 2, max_tokens: 8, device: cpu}]\n"
        "classifiers: [{kind: linear}]\nsweep: {augment.ratio: [1, 2]}\n"
    )
    asked = counted(monkeypatch)
    whole = tmp_path / "whole"
    first = made(config, whole)
    calls = list(asked)
    assert 12 < sum(calls) <= 16, (
        "eight texts, both ways, for two variants and two draws; two may share their pivot"
    )
    cut = subprocess.run([sys.executable, "-c", KILLED, config, tmp_path / "cut", "5"], check=False)
    assert cut.returncode == -signal.SIGKILL
    asked.clear()
    assert made(config, tmp_path / "cut") == first
    assert asked == calls[5:], "five were kept"


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    from gpt3mix_cli.augment.translators import Transformers

    inner, asked = Transformers.translate, []

    def translate(self: Transformers, texts: Sequence[str], *others: Any) -> list[list[str]]:
        asked.append(len(texts))
        return inner(self, texts, *others)

    monkeypatch.setattr(Transformers, "translate", translate)
    return asked


def made(config: Path, out: Path) -> dict[str, str]:
    grid = Grid(load_experiments(config), out)
    for cell in grid.cells():
        grid.subsample(cell)
        for draw in grid.experiment(cell).draws_for(cell.data_seed):
            grid.augment(cell, "backtranslate", draw)
    return {
        str(path.relative_to(out)): path.read_text()
        for path in sorted(out.rglob("backtranslate*.jsonl"))
    }


def test_several_real_pivots(marian: tuple[Path, Path], fsmt: tuple[Path, Path]) -> None:
    """Marian's candidates come first, FSMT's after them; draws take them by turns."""
    link = marian[0].parent / "pivots"
    for pivot, models in (("a", marian), ("b", fsmt)):
        for way, model in zip(("there", "back"), models, strict=True):
            if not (link / f"{way}-{pivot}").exists():
                shutil.copytree(model, link / f"{way}-{pivot}")

    def made_with(pivot: list[str], **options: Any) -> list[str]:
        places = {"forward": str(link / "there-{pivot}"), "backward": str(link / "back-{pivot}")}
        settings = BacktranslateSettings(
            kind="backtranslate", pivot=pivot, device="cpu", max_tokens=8, **places, **options
        )
        return texts(BackTranslation(settings, TASK), 0, 6, ROWS[3:4])

    both = made_with(["a", "b"], beams=3)
    assert both[:3] == made_with(["a"], beams=3)[:3]
    assert both[3:] == made_with(["b"], beams=3)[:3]
    assert len(set(both)) == 6
    drawn = made_with(["a", "b"], temperature=1.0)
    assert len(set(drawn)) == 6
    assert drawn == made_with(["a", "b"], temperature=1.0)
    assert drawn[0] == made_with(["a"], temperature=1.0)[0]


# Apertium -----------------------------------------------------------------------------------------


@needs_apertium
def test_apertium_through_the_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One candidate, repeated as the ratio asks; the second run of all starts no translator."""
    config = tmp_path / "b.yaml"
    config.write_text(
        "name: b\ntask: {data: {kind: demo}, labels: [pos, neg]}\n"
        "subsample: {levels: [4/class], seeds: 1}\naugment: {ratio: 2}\n"
        "baselines: [{kind: backtranslate, engine: apertium}]\n"
    )
    first = made(config, tmp_path / "out")
    (path,) = [tmp_path / "out" / name for name in first]
    rows, real = (
        list(read_records(path, Augmented)),
        list(read_records(path.with_name("train.jsonl"), Example)),
    )
    manifest = json.loads(path.with_name(f"{path.name}.manifest.json").read_text())
    assert [row.text for row in rows[:8]] == [row.text for row in rows[8:]]
    assert [row.label for row in rows] == [row.label for row in real] * 2
    unchanged = sum(
        normalize_text(row.text) == normalize_text(parent.text)
        for row, parent in zip(rows, real * 2, strict=True)
    )
    assert manifest["counts"]["repeated"] == 8
    assert manifest["counts"]["unchanged"] == unchanged < 8
    path.unlink()
    monkeypatch.setattr(backtranslate, "open_translator", None)
    assert made(config, tmp_path / "out") == first


def test_rows_are_records(scripted: Make) -> None:
    """What an editor yields is never a reject."""
    augmenter, _ = scripted(lambda _, text, __: [text], **DE)
    assert all(isinstance(row, Augmented) for row in augmenter.generate(ROWS, 0, 3, 0))
