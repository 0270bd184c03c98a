"""Contextual replacement with tiny random masked LMs of two families: WordPiece BERT and byte-level
RoBERTa."""

import re
from pathlib import Path
from random import Random

import pytest
import torch

from gpt3mix_cli.augment import AugmentationSink, AugmentOptions, open_augmenter, run_attempts
from gpt3mix_cli.augment.mlm import MLM
from gpt3mix_cli.augment.statistics import Statistics
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.grid.resources import Resources
from gpt3mix_cli.records import Example
from gpt3mix_cli.settings import MlmSettings, Task

TASK = Task(
    name="demo",
    data={"kind": "demo"},
    labels={"pos": "positive", "neg": "negative"},
    text_type="movie review",
)
TEXTS = [
    "An entertaining film, with a fine cast and a good story!",
    "  Dull\tand  (very) long .  ",
    "Bad",
    "The film is a mess of half-baked jokes; it's long, and it's not funny at all, "
    "but for the music.",
    "The [MASK] of the film <mask> is good",
    "...",
]
ROWS = [
    Example(id=f"r{i}", text=text, label="pos" if i % 2 else "neg") for i, text in enumerate(TEXTS)
]
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def bert(folder: Path, texts: list[str]) -> Path:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(vocab_size=900, special_tokens=special, show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    # More rows of weights than tokens, as models that were padded to a round number have.
    BertForMaskedLM(
        BertConfig(vocab_size=960, max_position_embeddings=64, initializer_range=0.3, **sizes)
    ).save_pretrained(folder)
    return folder


def roberta(folder: Path, texts: list[str]) -> Path:
    from tokenizers import AddedToken, ByteLevelBPETokenizer, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        [f" {text}" for text in texts], vocab_size=1500, special_tokens=special, show_progress=False
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
    }
    mask = AddedToken("<mask>", lstrip=True, special=True)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, mask_token=mask, **names
    ).save_pretrained(folder)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=1500, max_position_embeddings=66, initializer_range=0.3, **sizes, **ids
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=["bert", "roberta"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> Path:
    """A tiny random masked LM."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {"bert": bert, "roberta": roberta}[request.param](
            tmp_path_factory.mktemp(request.param), texts
        )


def mlm(model: Path, **options: object) -> MLM:
    augmenter = open_augmenter(MlmSettings(kind="mlm", model=str(model), **options), TASK)
    assert isinstance(augmenter, MLM)
    return augmenter


def test_a_share_of_the_words_is_replaced_by_others_and_all_else_stays(model: Path) -> None:
    """Byte for byte: case, spaces and signs; capitals are kept where a word had one."""
    augmenter = mlm(model, fraction=0.3, top_k=50)
    words = set(augmenter._whole_words[1])
    for row in augmenter.generate(ROWS[:4], 0, 24, 3):
        before = ROWS[int(row.parents[0][1])].text
        assert WORD.split(row.text) == WORD.split(before)
        pairs = list(zip(WORD.findall(before), WORD.findall(row.text), strict=True))
        changed = [(old, new) for old, new in pairs if old != new]
        assert len(changed) == max(1, int(0.3 * len(pairs) + 0.5))
        for old, new in changed:
            assert old.casefold() != new.casefold()
            assert {new, new[0].lower() + new[1:]} & words
            assert new[0].isupper() or not old[0].isupper()
    sink = AugmentationSink([].append, Statistics(ROWS[:4]))
    run_attempts(augmenter, ROWS[:4], sink, AugmentOptions(ratio=2, attempts=4, seed=0))
    assert (sink.kept, sink.unchanged) == (8, 0)


def test_a_row_depends_on_seed_parent_and_copy_alone(model: Path) -> None:
    augmenter = mlm(model, batch_size=2)
    rows = list(augmenter.generate(ROWS, 0, 18, 1))
    assert rows == [*augmenter.generate(ROWS, 0, 5, 1), *augmenter.generate(ROWS, 5, 13, 1)]
    assert [row.text for row in rows] == [
        row.text for row in mlm(model, batch_size=32).generate(ROWS, 0, 18, 1)
    ]
    assert len({row.text for row in rows[0::6]}) == 3
    assert rows != list(augmenter.generate(ROWS, 0, 18, 2))
    assert (rows[7].id, rows[7].parents, rows[7].label, rows[7].label_source, rows[7].request) == (
        "r1~mlm-1",
        ["r1"],
        "pos",
        "parent",
        7,
    )


def test_the_likeliest_whole_word_is_that_of_the_library(model: Path) -> None:
    """With top_k 1, against a plain pass of the model over the masked text."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer, network = (
        AutoTokenizer.from_pretrained(model),
        AutoModelForMaskedLM.from_pretrained(model).eval(),
    )
    rows = [Example(id="r", text="A film, good", label="pos")]
    texts = {row.text for row in mlm(model, top_k=1, fraction=0.01).generate(rows, 0, 40, 0)}
    whole, words = mlm(model)._whole_words
    expected = set()
    for place, word in enumerate(("A", "film", "good")):
        masked = "A film, good".replace(word, tokenizer.mask_token, 1)
        ids = tokenizer([masked], return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logits = network(input_ids=ids).logits[
                0, ids[0].tolist().index(tokenizer.mask_token_id)
            ][whole]
        best = next(
            words[i]
            for i in logits.argsort(descending=True).tolist()
            if words[i].casefold() != word.casefold()
        )
        expected.add(
            "A film, good".replace(word, best[0].upper() + best[1:] if place == 0 else best, 1)
        )
    assert texts == expected


def test_only_whole_words_of_the_vocabulary_are_written(model: Path) -> None:
    """No piece that continues a word, no sign, nothing special, no row of weights without a
    token."""
    augmenter = mlm(model)
    ids, words = augmenter._whole_words
    tokens = augmenter._tokenizer.convert_ids_to_tokens(ids.tolist())
    assert len(words) > 100
    assert not [
        token
        for token in tokens
        if token.startswith("##") or token in augmenter._tokenizer.all_special_tokens
    ]
    if augmenter._tokenizer.mask_token == "<mask>":
        assert all(token.startswith("Ġ") for token in tokens)
    assert all(WORD.fullmatch(word) for word in words)


def test_top_k_and_temperature_say_how_freely_a_word_is_drawn(model: Path) -> None:
    def drawn(**options: object) -> list[str]:
        augmenter = mlm(model, **options)
        guess = torch.linspace(0, 5, len(augmenter._whole_words[1]))
        return [augmenter._draw_filler(guess, "film", Random(seed)) for seed in range(300)]

    assert len(set(drawn(top_k=3))) == 3
    assert set(drawn(top_k=3, temperature=0.0001)) == {mlm(model)._whole_words[1][-1]}
    assert len(set(drawn(top_k=40, temperature=100.0))) == 40


def test_conditional_reads_the_label_before_the_text_and_writes_none_of_it(model: Path) -> None:
    plain, conditional = mlm(model), mlm(model, conditional=True)
    one = [Example(id="r", text="A film", label="pos")]
    assert conditional._mask(one[0], []) == "positive movie review: A film"
    assert plain._mask(one[0], []) == "A film"
    other = [one[0].model_copy(update={"label": "neg"})]
    guesses = [
        augmenter._logits([augmenter._mask(row[0], [WORD.search(row[0].text)])])[0][0]
        for augmenter in (plain, conditional)
        for row in (one, other)
    ]
    assert torch.equal(guesses[0], guesses[1])
    assert not torch.equal(guesses[2], guesses[3])
    assert [len(row.text.split()) for row in conditional.generate(one, 0, 5, 0)] == [2] * 5
    assert plain.about != conditional.about


def test_a_word_beyond_the_models_length_stays(model: Path) -> None:
    """Each word is at least a token, and the model reads 64 at most."""
    text = " ".join(["film"] * 300)
    row = next(
        iter(mlm(model, fraction=1.0).generate([Example(id="r", text=text, label="pos")], 0, 1, 0))
    )
    words = row.text.split()
    assert len(words) == 300
    assert words[0] != "film"
    assert words[64:] == ["film"] * 236


def test_a_text_without_words_stays_as_it_is(model: Path) -> None:
    assert [row.text for row in mlm(model).generate([ROWS[5]], 0, 2, 0)] == ["...", "..."]


def test_what_cannot_serve_is_reported(tiny_encoder: Path, model: Path, tmp_path: Path) -> None:
    """No mask, no head, no folder, no such device."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    headless = tmp_path / "headless"
    AutoTokenizer.from_pretrained(model).save_pretrained(headless)
    BertModel(
        BertConfig(
            vocab_size=1500,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
        )
    ).save_pretrained(headless)
    for folder, options, message in (
        (tiny_encoder, {}, "has no mask"),
        (headless, {}, "weights are missing"),
        (tmp_path / "nowhere", {}, "no such folder"),
        (model, {"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            list(mlm(folder, **options).generate(ROWS, 0, 1, 0))


def test_about_names_what_can_change_a_row(model: Path) -> None:
    assert mlm(model).about == mlm(model).about
    for options in ({"fraction": 0.5}, {"top_k": 3}, {"temperature": 0.5}, {"batch_size": 4}):
        assert mlm(model, **options).about != mlm(model).about


def test_variants_that_sweep_the_type_of_text_have_an_augmenter_each(tmp_path: Path) -> None:
    """`conditional` lets the model read it; what does not differ is opened once."""
    (tmp_path / "types.yaml").write_text(
        "name: types\ntask: {data: {kind: demo}, labels: {pos: positive, neg: negative}}\n"
        "subsample: {levels: [8/class], seeds: 1}\n"
        "baselines: [{kind: mlm, model: some/masked-lm, conditional: true}]\n"
        "classifiers: [{kind: linear}]\n"
        "sweep: {task.text_type: [movie review, tweet]}\n"
    )
    resources, output = Resources(tmp_path), tmp_path / "mlm.jsonl"
    review, tweet = (
        resources.augmenter(experiment, "mlm", output, ())[0]
        for experiment in load_experiments(tmp_path / "types.yaml")
    )
    assert [augmenter.about["text_type"] for augmenter in (review, tweet)] == [
        "movie review",
        "tweet",
    ]
    assert (
        resources.augmenter(load_experiments(tmp_path / "types.yaml")[0], "mlm", output, ())[0]
        is review
    )
