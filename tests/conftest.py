"""Shared fixtures: a clean environment, tiny random models in folders, a small experiment."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # tiny models gain nothing from threads, and busy machines lose much
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach a hub, whatever the machine

from gpt3mix_cli.data import load_splits
from gpt3mix_cli.settings import Task

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "HF_TOKEN", "GPT3MIX_", "FORCE_COLOR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("GPT3MIX_CACHE", str(tmp_path / "cache"))  # not the user's
    # No test cuts the power, and a disk that is busy, as after an installation, takes seconds.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without image files, for tests of their numbers: drawing takes most of the time."""
    from gpt3mix_cli.report.render import plot_files

    monkeypatch.setattr(plot_files, "write_plots", lambda *_: None)


@pytest.fixture
def task() -> Task:
    """The paper's SST-2 task over the packaged sentences."""
    return Task.model_validate(
        {
            "name": "demo",
            "data": {"kind": "demo"},
            "labels": {"pos": "positive", "neg": "negative"},
            "text_type": "movie review",
            "label_type": "sentiment",
        }
    )


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """The packaged training sentences."""
    task = Task.model_validate({"name": "demo", "data": {"kind": "demo"}, "labels": ["pos", "neg"]})
    return [row.text for row in load_splits(task, 0).train]


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A random Llama with a byte-level BPE of 500 tokens, saved in Hugging Face format."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        [f"Movie review: {text} (Sentiment: Positive)\n" for text in texts], trainer
    )
    folder = tmp_path_factory.mktemp("tiny-lm")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>"
    ).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=500, hidden_size=32, intermediate_size=64,
            num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=512, eos_token_id=0, bos_token_id=0, pad_token_id=0,
            initializer_range=0.2,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A random two-layer BERT with a WordPiece vocabulary, saved in Hugging Face format."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(vocab_size=800, special_tokens=special, show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("tiny-encoder")
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=800,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=128,
        )
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def config(tmp_path: Path, tiny_lm: Path, tiny_encoder: Path) -> Path:
    """An experiment that runs in seconds: demo data, packaged LM, EDA, two classifiers."""
    path = tmp_path / "small.yaml"
    path.write_text(
        f"""\
name: small
task:
  data: {{kind: demo}}
  labels: {{pos: positive, neg: negative}}
  text_type: movie review
  label_type: sentiment
subsample: {{levels: [4/class], seeds: 2, validation: 20}}
lm: {{kind: local, model: bundled, batch_size: 8}}
augment: {{ratio: 2, temperature: 0.9}}
baselines: [{{kind: eda}}]
classifiers:
  - {{kind: linear}}
  - {{kind: transformer, name: tiny, model: {tiny_encoder}, lr: 1e-3, max_epochs: 2,
     patience: 1, dtype: float32}}
trials: 2
""",
        encoding="utf-8",
    )
    return path
