"""The fast forward pass on a CPU: the library's logits and gradients, dropout, the fallback."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli.settings import TransformerSettings
from gpt3mix_cli.train.encoder import Encoder
from gpt3mix_cli.train.packed import MODEL_TYPES, PackedNetwork

WORDS = ["film", "story", "good", "bad", "the", "a", "long", "dull"]
# Long enough for groups of one length, groups of several, and texts of one word.
TEXTS = [" ".join(WORDS[(i * j) % 8] for j in range(1, 2 + i * 7 % 23)) for i in range(30)]
TEXTS += ["good", "bad film"] * 9
SIZES: dict[str, dict[str, Any]] = {
    name: {
        "vocab_size": 800,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    for name in ("bert", "distilbert", "roberta")
}
NO_DROPOUT = {
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout"), 0.0),
    **dict.fromkeys(("attention_dropout", "seq_classif_dropout"), 0.0),
}


def open_encoder(folder: Path, tokenizer: Path, model_type: str, **options: Any) -> Encoder:
    """Return an encoder with random weights, large enough that every token matters."""
    import torch
    import transformers as library

    settings = {**SIZES[model_type], **options}
    if model_type == "distilbert":
        names = {"hidden_size": "dim", "intermediate_size": "hidden_dim"}
        names |= {"num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
        settings = {names.get(name, name): value for name, value in settings.items()}
    library.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = library.AutoConfig.for_model(model_type, **settings)
        model = library.AutoModel.from_config(config)
        for weight in model.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
        model.save_pretrained(folder)
        encoder = Encoder(
            TransformerSettings(
                kind="transformer", model=str(folder), dtype="float32", device="cpu", max_length=48
            ),
            ["pos", "neg"],
        )
        encoder.reset()
    for name, weight in encoder.model.named_parameters():
        weight.data *= 30 if "classifier" in name else 1
    return encoder


def gradients(encoder: Encoder, texts: list[str]) -> dict[str, Any]:
    import torch

    tokens = encoder.tokens(texts)
    order = sorted(range(len(texts)), key=tokens.lengths.__getitem__)
    targets = torch.tensor([[0.8, 0.2], [0.1, 0.9]]).repeat(len(texts), 1)[: len(texts)]
    encoder.model.zero_grad()
    encoder.gradients(tokens, targets, order, torch.tensor(order))
    return {
        name: weight.grad.clone()
        for name, weight in encoder.model.named_parameters()
        if weight.grad is not None
    }


def use_library(encoder: Encoder) -> None:
    """Let the library compute everything."""
    encoder._packed = None


every_type = pytest.mark.parametrize("model_type", sorted(MODEL_TYPES))


@every_type
def test_logits_and_gradients_are_the_librarys(
    tiny_encoder: Path, tmp_path: Path, model_type: str
) -> None:
    encoder = open_encoder(tmp_path, tiny_encoder, model_type, **NO_DROPOUT)
    assert encoder._packed is not None
    assert len({len(text.split()) for text in TEXTS}) > 15
    fast = encoder.logits(encoder.tokens(TEXTS)), gradients(encoder, TEXTS)
    use_library(encoder)
    slow = encoder.logits(encoder.tokens(TEXTS)), gradients(encoder, TEXTS)
    assert float(slow[0].std(0).min()) > 1e-2
    assert fast[0].numpy() == pytest.approx(slow[0].numpy(), abs=1e-5)
    assert encoder.notes == []
    assert fast[1].keys() == slow[1].keys()
    for name, gradient in slow[1].items():
        assert fast[1][name].numpy() == pytest.approx(gradient.numpy(), abs=1e-5), name


@every_type
def test_a_text_may_have_the_padding_token(
    tiny_encoder: Path, tmp_path: Path, model_type: str
) -> None:
    """RoBERTa gives it the position of padding, and does not count it."""
    encoder = open_encoder(tmp_path, tiny_encoder, model_type, **NO_DROPOUT)
    texts = ["good [PAD] film", "[PAD] [PAD] bad story", *TEXTS]
    assert encoder.tokenizer("[PAD]")["input_ids"][1] == encoder.config.pad_token_id
    assert encoder._packed is not None
    fast = encoder.logits(encoder.tokens(texts)), gradients(encoder, texts)
    use_library(encoder)
    assert fast[0].numpy() == pytest.approx(encoder.logits(encoder.tokens(texts)).numpy(), abs=1e-5)
    for name, gradient in gradients(encoder, texts).items():
        assert fast[1][name].numpy() == pytest.approx(gradient.numpy(), abs=1e-5), name


def test_no_gradient_is_left_of_the_words_of_an_earlier_step(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    encoder = open_encoder(tmp_path, tiny_encoder, "bert", **NO_DROPOUT)
    name = "bert.embeddings.word_embeddings.weight"
    first, second = gradients(encoder, ["good film"])[name], gradients(encoder, ["bad story"])[name]
    use_library(encoder)
    assert first.numpy() == pytest.approx(gradients(encoder, ["good film"])[name].numpy(), abs=1e-6)
    assert second.numpy() == pytest.approx(
        gradients(encoder, ["bad story"])[name].numpy(), abs=1e-6
    )
    assert int((first != second).any(1).sum()) >= 4


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_drops_with_its_probability_and_keeps_the_mean(
    tiny_encoder: Path, tmp_path: Path, probability: float
) -> None:
    import torch

    encoder = open_encoder(tmp_path, tiny_encoder, "bert")
    assert encoder._packed is not None
    x = torch.ones(400, 1001)
    encoder.model.train()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        dropped = encoder._packed._dropout(x, probability)
        other = encoder._packed._dropout(x, probability)
        torch.manual_seed(1)
        assert torch.equal(encoder._packed._dropout(x, probability), dropped)
    assert not torch.equal(other, dropped)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - probability)], rel=1e-4)
    # Four neighbours come from one random number: each of them drops as often.
    for start in range(4):
        part = dropped.flatten()[start::4] == 0
        assert float(part.float().mean()) == pytest.approx(probability, abs=5e-3)
    assert float(dropped.mean()) == pytest.approx(1, abs=5e-3)
    encoder.model.eval()
    assert encoder._packed._dropout(x, probability) is x


@every_type
def test_training_has_dropout_and_scores_have_none(
    tiny_encoder: Path, tmp_path: Path, model_type: str
) -> None:
    import torch

    encoder = open_encoder(tmp_path, tiny_encoder, model_type)
    tokens = encoder.tokens(TEXTS)
    assert torch.equal(encoder.logits(tokens), encoder.logits(tokens))
    encoder.model.train()
    rows = torch.arange(3)
    longest = max(tokens.lengths[:3])
    with torch.random.fork_rng():
        assert not torch.equal(*[encoder._forward(tokens, rows, longest) for _ in range(2)])


def test_memory_that_runs_out_while_it_is_checked_does_not_change_later_trials(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = open_encoder(tmp_path, tiny_encoder, "bert")

    def run_out(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    tokens = encoder.tokens(TEXTS)
    with monkeypatch.context() as patch:
        patch.setattr(PackedNetwork, "__call__", run_out)
        with pytest.raises(RuntimeError, match="allocate"):
            encoder.logits(tokens)
    assert encoder._packed is not None
    assert encoder.notes == []


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_a_decoder_is_left_to_the_library(
    tiny_encoder: Path, tmp_path: Path, model_type: str
) -> None:
    """Its tokens see earlier ones only, which a head of zeros would hide."""
    encoder = open_encoder(tmp_path, tiny_encoder, model_type, is_decoder=True)
    assert encoder._packed is None
    assert encoder.logits(encoder.tokens(TEXTS)).shape == (len(TEXTS), 2)
    assert encoder.notes == []


def test_if_the_library_computes_something_else_it_is_used_and_a_note_says_so(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    for name in ("as-is", "changed"):
        shutil.copytree(tiny_encoder, tmp_path / name)
    encoder = open_encoder(tmp_path / "changed", tiny_encoder, "bert", **NO_DROPOUT)
    for layer in encoder.model.bert.encoder.layer:
        layer.attention.self.scaling *= 4  # as another version of the library might
    encoder.try_out()
    logits = encoder.logits(encoder.tokens(TEXTS))
    assert encoder._packed is None
    (note,) = encoder.notes
    assert note.startswith("the fast forward pass of bert does not give the library's logits")
    same = open_encoder(tmp_path / "as-is", tiny_encoder, "bert", **NO_DROPOUT)
    assert abs(logits - same.logits(same.tokens(TEXTS))).max() > 1e-3
    assert gradients(encoder, TEXTS).keys() == gradients(same, TEXTS).keys()
