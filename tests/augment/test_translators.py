"""Translators in one direction: tiny random Marian and FSMT models, and Apertium itself where it is
installed."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as quick
from hypothesis import strategies as st

from gpt3mix_cli.augment import translators
from gpt3mix_cli.augment.translators import Apertium, Transformers, translator_fingerprint
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.settings import BacktranslateSettings, derived_seed

SENTENCES = [
    "the film was good",
    "a waste of time",
    "bad",
    "i liked the long story but it was a waste of time",
    "there is nothing in it",
]

needs_apertium = pytest.mark.skipif(
    not shutil.which("apertium"), reason="apertium is not installed"
)


def settings(**options: Any) -> BacktranslateSettings:
    return BacktranslateSettings(
        kind="backtranslate", **{"device": "cpu", "max_tokens": 12, **options}
    )


def load(model: Path, **options: Any) -> Transformers:
    chosen = settings(**options)
    return Transformers(chosen, str(model), translator_fingerprint(chosen, str(model)))


def seeds(texts: list[str]) -> list[int]:
    return [derived_seed(0, text) for text in texts]


# Transformers -------------------------------------------------------------------------------------


def test_a_batch_gives_what_single_texts_give(models: tuple[Path, Path]) -> None:
    """Padding changes nothing, and each text has its own translations."""
    translator = load(models[0])
    together = translator.translate(SENTENCES, 4, seeds(SENTENCES))
    assert together == [translator.translate([text], 4, [0])[0] for text in SENTENCES]
    assert all(len(set(found)) == 4 for found in together), "beams differ"
    assert len({found[0] for found in together}) > 1, "the text counts"
    assert [found[:1] for found in together] == translator.translate(
        SENTENCES, 1, seeds(SENTENCES)
    ), "the first is the best"


def test_draws_are_each_texts_own(models: tuple[Path, Path]) -> None:
    """Neither the neighbours nor the order matter, the seed does, and nothing is taken from the
    global generator."""
    import torch

    translator = load(models[0], temperature=1.0)
    before = torch.random.get_rng_state()
    together = translator.translate(SENTENCES, 1, seeds(SENTENCES))
    turned = translator.translate(SENTENCES[::-1], 1, seeds(SENTENCES)[::-1])
    assert together == turned[::-1]
    assert together == [translator.translate([text], 1, seeds([text]))[0] for text in SENTENCES]
    assert together != translator.translate(SENTENCES, 1, [7] * 5)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_low_temperature_is_greedy(models: tuple[Path, Path]) -> None:
    greedy = load(models[0], beams=1).translate(SENTENCES, 1, seeds(SENTENCES))
    assert load(models[0], temperature=1e-4).translate(SENTENCES, 1, seeds(SENTENCES)) == greedy


def test_draws_follow_the_models_probabilities() -> None:
    """Of 4,000 draws each token's share is within five standard deviations of its probability; one
    without weight never comes."""
    import torch

    scores = torch.tensor([[2.0, 0.0, float("-inf"), 1.0, -1.0]])
    expected = torch.softmax(scores / 2.0, -1)[0]
    draw = translators._SeededSampler(2.0, range(4000))
    drawn = draw(torch.zeros(4000, 1, dtype=torch.long), scores.repeat(4000, 1)).argmax(-1)
    shares = torch.bincount(drawn, minlength=5) / 4000
    assert torch.all((shares - expected).abs() <= 5 * (expected * (1 - expected) / 4000).sqrt())
    assert shares[2] == 0


def test_a_draw_never_lies_beyond_the_last_weight() -> None:
    """Not even where the number is the highest that there is."""
    import torch

    class Highest:
        def random(self) -> float:
            return 1 - 2**-53

    draw = translators._SeededSampler(1.0, [0])
    draw._generators = [Highest()]  # type: ignore[list-item]
    scores = torch.full((1, 1000), float("-inf")).index_fill(1, torch.tensor([3, 500]), 0.0)
    assert draw(torch.zeros(1, 1), scores).argmax() == 500


def test_long_texts_are_cut_at_the_models_length(models: tuple[Path, Path]) -> None:
    """And so is what is asked for: a position beyond the last would be an error."""
    assert load(models[0], max_tokens=500).translate(["film " * 100], 1, [0])[0]


def test_memory_that_runs_out_halves_the_batch(
    marian: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    translator = load(marian[0])
    whole = translator.translate(SENTENCES, 2, seeds(SENTENCES))
    inner, sizes = translator._translate_batch, []

    def small(texts: list[str], *others: Any) -> list[list[str]]:
        sizes.append(len(texts))
        if len(texts) > most:
            raise torch.OutOfMemoryError("out of memory\nand much advice")
        return inner(texts, *others)

    monkeypatch.setattr(translator, "_translate_batch", small)
    most = 2
    assert translator.translate(SENTENCES, 2, seeds(SENTENCES)) == whole
    assert sizes == [5, 2, 3, 1, 2]
    most = 0
    with pytest.raises(UserError, match=r"not enough memory for a single text\nlower"):
        translator.translate(SENTENCES, 2, seeds(SENTENCES))


def test_the_terminal_stays_quiet(
    models: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """No load report, no bar, no advice; the library's own settings are as they were."""
    from transformers.utils import logging

    translators._load_model.cache_clear()
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(models[0]).translate(SENTENCES, 2, seeds(SENTENCES))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_a_model_is_loaded_once_until_its_files_change(
    marian: tuple[Path, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(marian[0], tmp_path / "copy")
    assert load(copy)._model is load(copy, beams=2)._model
    same = translator_fingerprint(settings(), str(copy))
    assert same == translator_fingerprint(settings(), str(marian[0])), (
        "the files count, not their place"
    )
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert translator_fingerprint(settings(), str(copy)) != same
    assert load(copy)._model is not load(marian[0])._model


def test_a_hub_models_revision_is_part_of_its_fingerprint() -> None:
    plain = translator_fingerprint(settings(), "Helsinki-NLP/opus-mt-en-de")
    pinned = settings(revisions={"Helsinki-NLP/opus-mt-en-de": "6183067"})
    assert plain != translator_fingerprint(pinned, "Helsinki-NLP/opus-mt-en-de")
    assert (
        translator_fingerprint(pinned, "Helsinki-NLP/opus-mt-de-en")
        == translator_fingerprint(settings(), "Helsinki-NLP/opus-mt-de-en")
        != plain
    )


def test_the_revision_is_what_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    asked = []

    def refuse(name: str, **options: Any) -> None:
        asked.append((name, options["revision"]))
        raise OSError("no hub")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(UserError, match="no hub"):
        load(Path("a/b"), forward="a/b", revisions={"a/b": "0123abc"})
    assert asked == [("a/b", "0123abc")]


@pytest.mark.parametrize("files", [{}, {"config.json": '{"model_type": "llama"}'}])
def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path, files: dict[str, str]) -> None:
    """With a remedy that needs no download."""
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="cannot be loaded as a translation model") as caught:
        load(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert ("tokenizer" if files else "apertium") in caught.value.hint


def test_missing_sacremoses_is_reported(
    fsmt: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    translators._load_model.cache_clear()
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    with pytest.raises(UserError, match="its tokenizer needs sacremoses") as caught:
        load(fsmt[0])
    assert caught.value.hint == "pip install 'gpt3mix[fsmt]'"


def test_missing_sentencepiece_is_reported(
    marian: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MarianTokenizer says so in an ImportError of many lines."""
    import transformers

    def refuse(name: str, **_: Any) -> None:
        raise ImportError(
            "\nMarianTokenizer requires the SentencePiece library but it was not found in your "
            "environment."
        )

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    translators._load_model.cache_clear()
    with pytest.raises(UserError) as caught:
        load(marian[0])
    assert caught.value.hint == "pip install sentencepiece"


def test_a_device_that_is_not_there_is_named(marian: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="device 'nowhere'"):
        load(marian[0], device="nowhere")


# Apertium -----------------------------------------------------------------------------------------

HARD = [
    "The film was a complete waste of time.",
    "no full stop",
    "A [strange] ^line$ of {signs} <b> \\ / @ # * ~ +",
    "Really? Yes! It is good",
    "caf\u00e9 \u201cna\u00efve\u201d \U0001f600",
    "...",
    "nul\0here",
]


@needs_apertium
def test_apertium_keeps_each_text_to_itself() -> None:
    """A batch gives what single texts give, signs of Apertium's own stream format included."""
    translator = Apertium("eng-spa")
    together = translator.translate(HARD, 1, [0] * len(HARD))
    assert together[:5] == [translator.translate([text], 1, [0])[0] for text in HARD[:5]]
    assert all(len(found) == 1 for found in together)
    assert "pel\u00edcula" in together[0][0]
    assert "\U0001f600" in together[4][0]


SIGNS = st.text(
    st.sampled_from("ab .,!?[]{}^$\\/<>@#*~+-_=&%|;:'\"\u00e9\u4f60\0"), min_size=1, max_size=12
)


@needs_apertium
@quick(max_examples=8, deadline=None)
@given(
    st.lists(SIGNS.map(lambda text: " ".join(text.split())).filter(bool), min_size=1, max_size=6)
)
@example(["[", "]", "\\", "^a$", "^", "$", "[[t:b:1]]a"])
def test_apertium_answers_any_signs_one_by_one(texts: list[str]) -> None:
    """Whatever the texts, the words that frame them come back at their places."""
    framed = [word for text in texts for word in ("zzqa", text, "zzqb")]
    found = Apertium("eng-spa").translate(framed, 1, [0] * len(framed))
    assert len(found) == len(framed)
    assert [one[0].rstrip(".").lower() for one in found[0::3]] == ["zzqa"] * len(texts)
    assert [one[0].rstrip(".").lower() for one in found[2::3]] == ["zzqb"] * len(texts)


@needs_apertium
def test_apertium_pair_that_is_not_there() -> None:
    """With the line that installs it."""
    with pytest.raises(UserError, match="pair 'eng-tlh' is not installed") as caught:
        Apertium("eng-tlh")
    assert "apt-get install apertium apertium-eng-tlh" in caught.value.hint
    assert translator_fingerprint(settings(engine="apertium"), "eng-tlh") is None


def test_apertium_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert translator_fingerprint(settings(engine="apertium"), "eng-spa") is None
    with pytest.raises(UserError, match="not installed") as caught:
        Apertium("eng-spa")
    assert "apt-get install apertium apertium-eng-spa" in caught.value.hint


@needs_apertium
def test_apertiums_fingerprint_is_that_of_its_version_and_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Other data under the same version make another one; a direction has its own."""
    own, modes = settings(engine="apertium"), tmp_path / "modes"
    assert len({translator_fingerprint(own, pair) for pair in ("eng-spa", "spa-eng")} - {None}) == 2
    modes.mkdir()
    monkeypatch.setenv("APERTIUM_DATADIR", str(tmp_path))
    data = tmp_path / "eng-spa.bin"
    (modes / "eng-spa.mode").write_text(f"lt-proc '{data}' | apertium-tagger -g $2")
    found = set()
    for content in ("one", "another"):
        data.write_text(content)
        found.add(translator_fingerprint(own, "eng-spa"))
    translators._apertium_version.cache_clear()
    monkeypatch.setattr(translators, "_run", lambda *_, **__: "Apertium 4\n")
    found.add(translator_fingerprint(own, "eng-spa"))
    assert len(found) == 3


def test_lost_alignment_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that swallows the second text of every three is asked again, down to one text a
    process."""
    sizes = []

    def run(*arguments: str, text: str = "") -> str:
        if arguments[0] == "-l":
            return "eng-spa\nspa-eng\n"
        parts = text.split("\n\n")
        sizes.append(len(parts))
        return "\n\n".join(part.upper() for i, part in enumerate(parts) if len(parts) < 3 or i != 1)

    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apertium")
    monkeypatch.setattr(translators, "_run", run)
    assert Apertium("eng-spa").translate(SENTENCES[:4], 1, [0] * 4) == [
        [text.upper()] for text in SENTENCES[:4]
    ]
    assert sizes == [4, 2, 2]


def test_apertium_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words are in the message."""

    def run(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command, stderr=b"broken pair")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError, match="broken pair"):
        translators._run("-u", "eng-spa", text="x")
