"""Back-translation with both engines: Apertium itself where it is installed, and tiny random seq2seq models."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpt3mix_cli.augment import backtranslate
from gpt3mix_cli.augment.backtranslate import BackTranslation
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.records import Augmented, Example
from gpt3mix_cli.settings import Backtranslate, Task

TASK = Task(name="demo", data={"kind": "demo"}, labels={"pos": "positive", "neg": "negative"})
WORDS = "the film was a waste of time good bad and long story but i liked it".split()  # noqa: SIM905 - a sentence reads better
TEXTS = ["the film was good", "a waste of time", "bad", "i liked the long story but it was a waste of time", "the film was good"]
ROWS = [Example(id=f"r{i}", text=text, label="pos" if i % 2 else "neg") for i, text in enumerate(TEXTS)]

needs_apertium = pytest.mark.skipif(not shutil.which("apertium"), reason="apertium is not installed")


def texts(augmenter: BackTranslation, first: int, count: int, rows: list[Example] = ROWS) -> list[str]:
    return [row.text for row in augmenter.generate(rows, first, count, 0)]


# Any engine ----------------------------------------------------------------------------------------------------------


class Fake:
    """Translates each text into several, and remembers what it was asked."""

    def __init__(self, candidates: Callable[[str], list[str]]) -> None:
        self.candidates, self.seen = candidates, []

    def translate(self, texts: list[str]) -> list[list[str]]:
        assert all(text and "\n" not in text for text in texts)
        self.seen.append(texts)
        return [self.candidates(text) for text in texts]


def faked(there: Callable[[str], list[str]], back: Callable[[str], list[str]], **options: object) -> tuple[BackTranslation, Fake, Fake]:
    augmenter = BackTranslation(Backtranslate(kind="backtranslate", **options), TASK)
    engines = Fake(there), Fake(back)
    augmenter._engines = engines
    return augmenter, *engines


def test_rows_take_candidates_in_turn() -> None:
    """Copy c takes candidate c modulo the candidates; each distinct text is translated once."""
    augmenter, there, back = faked(lambda text: [text.upper()], lambda text: [f"{text} {i}" for i in range(3)])
    rows = list(augmenter.generate(ROWS, 0, 20, 0))
    assert [row.text for row in rows[0::5]] == ["THE FILM WAS GOOD 0", "THE FILM WAS GOOD 1", "THE FILM WAS GOOD 2", "THE FILM WAS GOOD 0"]
    assert sorted(text for batch in there.seen for text in batch) == sorted(set(TEXTS))
    assert len(back.seen) == 1
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


def test_batches_do_not_depend_on_how_many_rows_are_asked_for() -> None:
    """Batches are alike in length, and only those that are needed are translated."""
    augmenter, there, _ = faked(lambda text: [text], lambda text: [text], batch_size=2)
    texts(augmenter, 0, 5)
    whole = list(there.seen)
    assert [[len(text) for text in batch] for batch in sorted(whole, key=lambda batch: len(batch[0]))] == [[3, 15], [17, 49]]
    augmenter, there, _ = faked(lambda text: [text], lambda text: [text], batch_size=2)
    texts(augmenter, 1, 1)
    assert there.seen == [["bad", "a waste of time"]]
    texts(augmenter, 6, 1)
    assert len(there.seen) == 1, "a second copy, or another draw, asks nothing again"


@pytest.mark.parametrize(
    ("there", "back"),
    [(lambda _: [""], lambda _: ["lost"]), (lambda _: [" \n "], lambda _: ["lost"]), (lambda text: [text], lambda _: ["", " "])],
)
def test_empty_translations_give_the_parents_text(there: Callable[[str], list[str]], back: Callable[[str], list[str]]) -> None:
    """An engine is never asked for nothing, and no row is empty."""
    assert texts(faked(there, back)[0], 0, 5) == TEXTS


def test_blank_and_broken_lines() -> None:
    """White space is one space for an engine; a blank parent is left alone."""
    rows = [Example(id="a", text=" two\nlines\u2028here ", label="pos"), Example(id="b", text=" ", label="pos")]
    augmenter, there, _ = faked(lambda text: [text], lambda text: [text])
    assert texts(augmenter, 0, 2, rows) == ["two lines here", " "]
    assert there.seen == [["two lines here"]]


def test_nothing_is_loaded_before_it_is_needed() -> None:
    """The constructor knows its models by name."""
    about = BackTranslation(Backtranslate(kind="backtranslate"), TASK).about
    assert about["forward"] == "Helsinki-NLP/opus-mt-en-de"
    assert about["backward"] == "Helsinki-NLP/opus-mt-de-en"
    assert about["beams"] == 4


# Transformers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Two random BARTs over a few words; their weights are wide, so that no two candidates are close."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

    specials = ["<pad>", "</s>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folders = []
    for seed, name in enumerate(["there", "back"]):
        folder = tmp_path_factory.mktemp(name)
        config = BartConfig(
            vocab_size=len(vocabulary), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=32, init_std=0.5, dropout=0.0,
            pad_token_id=0, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=1,
        )  # fmt: skip
        torch.manual_seed(seed)
        model = BartForConditionalGeneration(config)
        # Random decoders hardly listen to the encoder; a translation has to depend on its text.
        model.model.decoder.layers[0].encoder_attn.out_proj.weight.data *= 30
        model.save_pretrained(folder)
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
        fast.save_pretrained(folder)
        folders.append(folder)
    # Threads that wait for each other cost a hundred times what these models do.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folders[0], folders[1]
    torch.set_num_threads(threads)


def local(models: tuple[Path, Path], **options: object) -> BackTranslation:
    settings = Backtranslate(kind="backtranslate", forward=str(models[0]), backward=str(models[1]), **{"device": "cpu", "max_tokens": 8, **options})
    return BackTranslation(settings, TASK)


def test_batches_give_what_single_texts_give(models: tuple[Path, Path]) -> None:
    """Padding changes nothing, every row is its own parent's, and so is any part of the rows."""
    rows = texts(local(models), 0, 20)
    assert rows == texts(local(models, batch_size=1), 0, 20)
    assert rows[7:9] == texts(local(models), 7, 2)
    for i in range(5):
        assert rows[i::5] == texts(local(models), 0, 4, [ROWS[i]])
    assert rows[0::5] == rows[4::5], "the same text"
    assert len({rows[i] for i in range(4)}) > 1


def test_copies_take_the_beams_in_turn(models: tuple[Path, Path]) -> None:
    """Four beams, four texts; the fifth copy begins anew."""
    rows = texts(local(models), 0, 6, ROWS[3:4])
    assert len(set(rows[:4])) == 4
    assert rows[4:] == rows[:2]
    assert len(set(texts(local(models, beams=1), 0, 3, ROWS[3:4]))) == 1


def test_long_texts_are_cut_at_the_models_length(models: tuple[Path, Path]) -> None:
    """And so is what is asked for: a position beyond the last would be an error."""
    assert texts(local(models, max_tokens=500), 0, 1, [Example(id="r", text="film " * 100, label="pos")])[0]


def test_terminal_stays_quiet(models: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    """No load report, no bar, no advice; the library's own settings are as they were."""
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    texts(local(models), 0, 2)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_fingerprint_is_that_of_the_files(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Other weights under the same settings make another manifest."""
    copy = shutil.copytree(models[0], tmp_path / "copy")
    same = local((copy, models[1])).about["fingerprint"]
    assert same == local(models).about["fingerprint"]
    with (copy / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    assert local((copy, models[1])).about["fingerprint"] != same


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "cannot be loaded as a translation model"),
        ({"config.json": '{"model_type": "llama"}'}, "cannot be loaded as a translation model"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path, files: dict[str, str], said: str) -> None:
    """With a remedy that needs no download."""
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        texts(local((tmp_path, tmp_path)), 0, 1)
    assert str(tmp_path) in caught.value.message
    assert "apertium" in caught.value.hint


def test_missing_sentencepiece_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """MarianTokenizer says so in an ImportError of many lines."""
    import transformers

    def refuse(name: str) -> None:
        raise ImportError("\nMarianTokenizer requires the SentencePiece library but it was not found in your environment.")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(UserError) as caught:
        texts(BackTranslation(Backtranslate(kind="backtranslate"), TASK), 0, 1)
    assert caught.value.hint == "pip install sentencepiece"


def test_a_device_that_is_not_there_is_named(models: tuple[Path, Path]) -> None:
    """Before anything is translated."""
    with pytest.raises(UserError, match="device 'nowhere'"):
        texts(local(models, device="nowhere"), 0, 1)


# Apertium ------------------------------------------------------------------------------------------------------------


def apertium(**options: object) -> BackTranslation:
    return BackTranslation(Backtranslate(kind="backtranslate", engine="apertium", **options), TASK)


@needs_apertium
def test_apertium_keeps_each_text_to_its_row() -> None:
    """A batch gives what single texts give, signs of Apertium's own stream format included."""
    sentences = [
        "The film was a complete waste of time.",
        "no full stop",
        "A [strange] ^line$ of {signs} <b> \\ / @ # * ~ +",
        "Really? Yes! It is good",
        "caf\u00e9 \u201cna\u00efve\u201d \U0001f600",
        "...",
        "nul\0here",
    ]
    rows = [Example(id=f"r{i}", text=text, label="pos") for i, text in enumerate(sentences)]
    augmenter = apertium()
    together = texts(augmenter, 0, 14, rows)
    assert together[:7] == together[7:], "one candidate, repeated"
    assert together[:5] == [texts(augmenter, 0, 1, [row])[0] for row in rows[:5]]
    assert "film" in together[0]
    assert "time" in together[0]
    assert "\U0001f600" in together[4]


@needs_apertium
def test_apertium_pair_that_is_not_there() -> None:
    """With the line that installs it."""
    with pytest.raises(UserError, match="no pair 'eng-tlh'") as caught:
        texts(apertium(forward="eng-tlh"), 0, 1)
    assert "apt-get install apertium apertium-eng-tlh" in caught.value.hint


def test_apertium_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its absence is no matter until it is needed."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    augmenter = apertium()
    assert augmenter.about["fingerprint"] is None
    with pytest.raises(UserError, match="not installed") as caught:
        texts(augmenter, 0, 1)
    assert "apt-get install apertium apertium-eng-spa" in caught.value.hint


def test_lost_alignment_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that swallows the second text of every three is asked again, down to one text a process."""
    sizes = []

    def run(*arguments: str, text: str = "") -> str:
        if arguments[0] == "-l":
            return "eng-spa\nspa-eng\n"
        if arguments[0] == "-V":
            return "Apertium 0\n"
        parts = text.split("\n\n")
        sizes.append(len(parts))
        return "\n\n".join(part.upper() for i, part in enumerate(parts) if len(parts) < 3 or i != 1)

    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apertium")
    monkeypatch.setattr(backtranslate, "_run", run)
    assert texts(apertium(), 0, 5) == [text.upper() for text in TEXTS]
    assert sizes == [4, 2, 2, 4, 2, 2]


def test_apertium_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words are in the message."""

    def run(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command, stderr=b"broken pair")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError, match="broken pair"):
        backtranslate._run("-u", "eng-spa", text="x")


def test_rows_are_records() -> None:
    """What an editor yields is never a reject."""
    augmenter, *_ = faked(lambda text: [text], lambda text: [text])
    assert all(isinstance(row, Augmented) for row in augmenter.generate(ROWS, 0, 3, 0))
