"""The network of the transformer classifier on tiny random encoders of every family."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_rows import CLASSES, ROWS, TEXTS, VALIDATION

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.settings import TransformerSettings
from gpt3mix_cli.train import encoder as network
from gpt3mix_cli.train import tokens as token_module
from gpt3mix_cli.train.transformer import TransformerClassifier

# The weights of both layers of each family's head, and the tokens that its tiny model reads.
HEADS = {
    "bert": {"bert.pooler.dense", "classifier"},
    "minilm": {"bert.pooler.dense", "classifier"},
    "distilbert": {"pre_classifier", "classifier"},
    "roberta": {"classifier.dense", "classifier.out_proj"},
    "electra": {"classifier.dense", "classifier.out_proj"},
    "deberta": {"pooler.dense", "classifier"},
    "modernbert": {"head.dense", "classifier"},
}
NORMS = {"modernbert": {"head.norm"}}  # not random but set to 1
PRETRAINED_HEADS = {
    "bert": {"bert.pooler.dense"},
    "minilm": {"bert.pooler.dense"},
}  # layers of the head that are in an encoder's checkpoint
LIMITS = {
    **dict.fromkeys(HEADS, 64),
    "roberta": 63,
}  # RoBERTa counts positions from the one after padding's
every_family = pytest.mark.parametrize("family", HEADS)


@pytest.fixture(scope="module")
def encoders(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny encoders of every family without dropout, over one tokenizer."""
    import torch
    import transformers as library

    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    size = {
        "vocab_size": 800,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    own: dict[str, tuple[str, dict[str, Any]]] = {
        "bert": ("Bert", {**size, **no_dropout}),
        "minilm": (
            "Bert",
            {
                **size,
                **no_dropout,
                "hidden_size": 24,
                "num_hidden_layers": 3,
                "intermediate_size": 96,
            },
        ),
        "distilbert": (
            "DistilBert",
            {
                "vocab_size": 800,
                "dim": 32,
                "n_layers": 2,
                "n_heads": 2,
                "hidden_dim": 64,
                "max_position_embeddings": 64,
            }
            | {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0},
        ),
        "roberta": ("Roberta", {**size, **no_dropout, "pad_token_id": 0}),
        "electra": ("Electra", {**size, **no_dropout, "embedding_size": 16}),
        "deberta": (
            "DebertaV2",
            {
                **size,
                **no_dropout,
                "relative_attention": True,
                "position_buckets": 16,
                "norm_rel_ebd": "layer_norm",
                "share_att_key": True,
            }
            | {"pos_att_type": "p2c|c2p", "position_biased_input": False, "type_vocab_size": 0},
        ),
        "modernbert": (
            "ModernBert",
            {
                **size,
                "pad_token_id": 0,
                "cls_token_id": 2,
                "sep_token_id": 3,
                "bos_token_id": 2,
                "eos_token_id": 3,
            }
            | {"local_attention": 8, "global_attn_every_n_layers": 2},
        ),
    }
    folder = tmp_path_factory.mktemp("encoders")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for name, (kind, options) in own.items():
            model = getattr(library, f"{kind}Model")(getattr(library, f"{kind}Config")(**options))
            for weight in model.parameters():
                weight.data *= 5 if weight.ndim > 1 else 1  # so that every token matters
            model.save_pretrained(folder / name)
            library.AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(folder / name)
    return {name: folder / name for name in own}


def classifier(model: Path, classes: list[str] = CLASSES, **options: Any) -> TransformerClassifier:
    options = {
        "lr": 1e-3,
        "max_epochs": 2,
        "patience": 9,
        "warmup_epochs": 1,
        "batch_size": 4,
        "max_length": 48,
        **options,
    }
    return TransformerClassifier(
        TransformerSettings(
            kind="transformer", model=str(model), dtype="float32", device="cpu", **options
        ),
        classes,
    )


def weights(transformer: TransformerClassifier) -> dict[str, np.ndarray]:
    return {
        name: weight.detach().numpy().copy()
        for name, weight in transformer._encoder.model.named_parameters()
    }


def initial_weights(
    transformer: TransformerClassifier, seeds: tuple[int, ...], *more: str
) -> list[dict[str, np.ndarray]]:
    """Return the weights at the start of a fit with each seed; `more` are classes without rows."""
    seen: list[dict[str, np.ndarray]] = []
    epoch = transformer._epoch

    def record_weights(*rest: Any) -> float:
        seen.append(weights(transformer))
        return epoch(*rest)

    transformer._epoch = record_weights  # type: ignore[method-assign]
    rows = [
        row.model_copy(update={"probs": {**row.probs, **dict.fromkeys(more, 0.0)}}) for row in ROWS
    ]
    epochs = [len(transformer.fit(rows, VALIDATION, seed).history) for seed in seeds]
    transformer._epoch = epoch  # type: ignore[method-assign]
    return [seen[sum(epochs[:fit])] for fit in range(len(seeds))]


def of_head(family: str, names: set[str]) -> set[str]:
    return {
        name
        for name in names
        if name.rpartition(".")[0] in HEADS[family] | NORMS.get(family, set())
    }


def sharpened(model: Path, family: str) -> TransformerClassifier:
    """Return a classifier with a scaled head, so that the scores of texts differ clearly."""
    transformer = classifier(model)
    transformer.fit(ROWS, VALIDATION, 1)
    for name, weight in transformer._encoder.model.named_parameters():
        if name.rpartition(".")[0] in HEADS[family] and weight.ndim > 1:
            weight.data *= 10
    return transformer


# Families and heads ------------------------------------------------------------------------------


@every_family
def test_every_family_trains_from_end_to_end(encoders: dict[str, Path], family: str) -> None:
    transformer = classifier(encoders[family], classes=["pos", "neg", "odd"])
    rows = [
        row.model_copy(
            update={
                "probs": {"odd": 0.1, "pos": row.probs["pos"] * 0.9, "neg": row.probs["neg"] * 0.9}
            }
        )
        for row in ROWS
    ]
    fit = transformer.fit(rows, VALIDATION, 1)
    assert len(fit.history) == 2
    assert all(0 < line["loss"] < 5 for line in fit.history)
    probabilities = transformer.predict_proba(TEXTS)
    assert probabilities.shape == (len(TEXTS), 3)
    assert probabilities.sum(1) == pytest.approx(1, abs=1e-5)
    assert (probabilities > 0).all()


@every_family
def test_every_fit_starts_from_the_pretrained_encoder_and_a_new_head(
    encoders: dict[str, Path], family: str
) -> None:
    from transformers import AutoModel

    transformer = classifier(encoders[family], lr=1e-2)
    first, second, third = initial_weights(transformer, (1, 2, 1))
    pretrained = {
        name: weight.numpy()
        for name, weight in AutoModel.from_pretrained(encoders[family]).state_dict().items()
    }
    prefix = transformer._encoder.model.base_model_prefix
    heads = of_head(family, set(first))
    assert {name.rpartition(".")[0] for name in heads if first[name].ndim > 1} == HEADS[family]
    for name, weight in first.items():
        if name not in heads:
            original = pretrained[name.removeprefix(f"{prefix}.")]
            assert (weight == original).all()
            assert (second[name] == original).all()
        elif weight.ndim > 1:
            assert (weight != second[name]).mean() > 0.99
        else:
            assert (weight == float("norm" in name)).all()
        assert (third[name] == weight).all()  # the seed alone decides
    assert any(
        (weights(transformer)[name] != first[name]).any() for name in first if name not in heads
    )  # the encoder learns too


@pytest.mark.parametrize("family", HEADS)
def test_a_fresh_head_is_initialised_as_the_library_does(
    encoders: dict[str, Path], family: str
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    with torch.random.fork_rng():
        torch.manual_seed(2)
        library = AutoModelForSequenceClassification.from_config(
            AutoConfig.from_pretrained(encoders[family])
        ).state_dict()
    (ours,) = initial_weights(classifier(encoders[family], max_epochs=1), (1,))
    for layer in HEADS[family]:
        assert ours[f"{layer}.weight"].std() == pytest.approx(
            library[f"{layer}.weight"].std().item(), rel=0.4
        )


@every_family
def test_head_library_initialises_only_what_the_checkpoint_lacks(
    encoders: dict[str, Path], family: str
) -> None:
    transformer = classifier(encoders[family], head="library", lr=1e-2)
    first, second, third = initial_weights(transformer, (1, 2, 1))
    pretrained = {name: weight.numpy() for name, weight in transformer._encoder.pretrained.items()}
    drawn = {name.rpartition(".")[0] for name in first if (first[name] != second[name]).any()}
    assert drawn == HEADS[family] - PRETRAINED_HEADS.get(family, set())
    for name in first:
        assert (third[name] == first[name]).all()
        if name.rpartition(".")[0] not in drawn:
            assert (first[name] == pretrained[name]).all()


def test_head_library_keeps_the_pretrained_pooler(encoders: dict[str, Path]) -> None:
    from transformers import AutoModel

    (first,) = initial_weights(classifier(encoders["bert"], head="library"), (1,))
    pooler = AutoModel.from_pretrained(encoders["bert"]).pooler.dense.weight.detach().numpy()
    assert (first["bert.pooler.dense.weight"] == pooler).all()


@pytest.fixture(scope="module")
def finetuned(
    encoders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """BERTs with a head: one for language modelling, without a pooler, and one for two classes."""
    import torch
    from transformers import (
        AutoTokenizer,
        BertConfig,
        BertForMaskedLM,
        BertForSequenceClassification,
    )

    folder = tmp_path_factory.mktemp("finetuned")
    config = BertConfig.from_pretrained(encoders["bert"])
    with torch.random.fork_rng():
        torch.manual_seed(4)
        for name, kind in (("masked", BertForMaskedLM), ("classes", BertForSequenceClassification)):
            kind(config).save_pretrained(folder / name)
            AutoTokenizer.from_pretrained(encoders["bert"]).save_pretrained(folder / name)
    return {name: folder / name for name in ("masked", "classes")}


@pytest.mark.parametrize(
    ("checkpoint", "head", "drawn"),
    [
        ("masked", "fresh", {"bert.pooler.dense", "classifier"}),
        ("masked", "library", {"bert.pooler.dense", "classifier"}),
        ("classes", "fresh", {"bert.pooler.dense", "classifier"}),
        ("classes", "library", set()),
    ],
)
def test_the_checkpoint_decides_which_layers_are_initialised(
    finetuned: dict[str, Path], checkpoint: str, head: str, drawn: set[str]
) -> None:
    first, second = initial_weights(classifier(finetuned[checkpoint], head=head), (1, 2))
    assert {
        name.rpartition(".")[0] for name in first if (first[name] != second[name]).any()
    } == drawn


def test_a_fresh_head_replaces_one_for_other_classes(finetuned: dict[str, Path]) -> None:
    first, second = initial_weights(
        classifier(finetuned["classes"], classes=["pos", "neg", "odd"]), (1, 2), "odd"
    )
    assert first["classifier.weight"].shape == (3, 32)
    assert (first["classifier.weight"] != second["classifier.weight"]).any()


# Padding, batches and micro-batches --------------------------------------------------------------


def test_a_batch_is_padded_on_the_right_to_its_longest_text() -> None:
    import torch

    tokens = token_module.Tokens(
        torch.tensor([7, 8, 4, 5, 6, 9], dtype=torch.int32),
        torch.tensor([0, 2, 5]),
        torch.tensor([2, 3, 1]),
        [2, 3, 1],
    )
    batch = tokens.batch(torch.tensor([2, 1, 0]), 3, pad=1)
    assert batch["input_ids"].tolist() == [[9, 1, 1], [4, 5, 6], [7, 8, 1]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0]]
    assert tokens.batch(torch.tensor([0]), 2, pad=1)["input_ids"].tolist() == [[7, 8]]


@every_family
def test_the_scores_of_a_text_do_not_depend_on_its_batch(
    encoders: dict[str, Path], family: str
) -> None:
    transformer = sharpened(encoders[family], family)
    scores = transformer._encoder.logits
    together = scores(transformer._encoder.tokens(TEXTS)).numpy()
    alone = np.concatenate([scores(transformer._encoder.tokens([text])).numpy() for text in TEXTS])
    assert np.ptp(alone, 0).min() > 1e-3
    assert together == pytest.approx(alone, abs=1e-5)
    # All of them in one batch, most of it padding.
    transformer._encoder._scoring_tokens = 10**6
    assert scores(transformer._encoder.tokens(TEXTS)).numpy() == pytest.approx(alone, abs=1e-5)
    transformer._encoder._scoring_tokens = 16
    assert scores(transformer._encoder.tokens(TEXTS[::-1])).numpy() == pytest.approx(
        alone[::-1], abs=1e-5
    )


@every_family
def test_gradients_of_micro_batches_add_up_to_the_gradient_of_the_batch(
    encoders: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    by_size: list[dict[str, np.ndarray]] = []
    passes: list[int] = []
    for size in (2, 3, 64):
        monkeypatch.setattr(network, "MICRO_BATCH_ROWS_CPU", size)
        encoder = classifier(encoders[family])._encoder
        forward = encoder._forward
        monkeypatch.setattr(
            encoder,
            "_forward",
            lambda *rest, forward=forward: (passes.append(len(rest[1])), forward(*rest))[1],
        )
        with torch.random.fork_rng():
            torch.manual_seed(1)
            encoder.reset()
        encoder.model.train()
        rows = encoder.tokens([row.text for row in ROWS])
        order = sorted(range(len(ROWS)), key=rows.lengths.__getitem__)
        loss = encoder.gradients(
            rows,
            torch.tensor([[row.probs[name] for name in CLASSES] for row in ROWS]),
            order,
            torch.tensor(order),
        )
        assert float(loss) / len(ROWS) == pytest.approx(0.69, abs=0.1)
        by_size.append(
            {
                name: p.grad.numpy()
                for name, p in encoder.model.named_parameters()
                if p.grad is not None
            }
        )
    assert passes == [2, 2, 2, 2, 2, 3, 3, 3, 1, 10]
    assert max(np.abs(gradient).max() for gradient in by_size[-1].values()) > 0.01
    for gradients in by_size[:-1]:
        assert gradients.keys() == by_size[-1].keys()
        for name, gradient in by_size[-1].items():
            assert gradients[name] == pytest.approx(gradient, abs=1e-6)


def test_micro_batches_do_not_change_the_fitted_weights(
    encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for size in (2, 64):
        monkeypatch.setattr(network, "MICRO_BATCH_ROWS_CPU", size)
        transformer = classifier(encoders["bert"], batch_size=64)
        transformer.fit(ROWS, VALIDATION, 1)
        ends.append(weights(transformer))
    for name in ends[0]:
        assert ends[0][name] == pytest.approx(ends[1][name], abs=1e-5)


def test_scores_are_in_the_order_of_the_texts(encoders: dict[str, Path]) -> None:
    transformer = sharpened(encoders["bert"], "bert")
    together = transformer.predict_proba(TEXTS)
    alone = np.concatenate([transformer.predict_proba([text]) for text in TEXTS])
    by_length = together[sorted(range(len(TEXTS)), key=lambda i: len(TEXTS[i]))]
    assert (
        np.abs(by_length - together).max() > 1e-3
    )  # scores in the order of scoring would fail this test
    assert together == pytest.approx(alone, abs=1e-5)
    transformer._encoder._scoring_tokens = 16
    assert transformer.predict_proba(TEXTS) == pytest.approx(alone, abs=1e-5)


def test_no_texts_have_no_scores(encoders: dict[str, Path]) -> None:
    assert classifier(encoders["bert"]).predict_proba([]).shape == (0, 2)


def test_no_scoring_batch_has_too_many_tokens(
    encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(network.SCORING_BATCH_TOKENS, "cpu", 20)
    encoder = classifier(encoders["bert"])._encoder
    padded: list[tuple[int, int]] = []
    forward = encoder._forward

    def record_batch(tokens: Any, chosen: Any, longest: int) -> Any:
        assert longest == max(
            tokens.lengths[row] for row in chosen.tolist()
        )  # no more padding than is needed
        padded.append((len(chosen), longest))
        return forward(tokens, chosen, longest)

    monkeypatch.setattr(encoder, "_forward", record_batch)
    encoder.logits(encoder.tokens(TEXTS))
    assert sum(rows for rows, _ in padded) == len(TEXTS)
    assert all(rows * longest <= 20 or rows == 1 for rows, longest in padded)
    assert max(rows for rows, _ in padded) > 1


@pytest.mark.parametrize(
    "lengths", [[], [3], [30], [1, 1, 1, 1], [2, 5, 5, 9, 21, 40], list(range(1, 30))]
)
def test_batches_hold_each_text_once_and_as_many_as_fit(lengths: list[int]) -> None:
    batches = list(token_module.batches_within(lengths, 20))
    assert [index for start, end in batches for index in range(start, end)] == list(
        range(len(lengths))
    )
    assert all(lengths[end - 1] * (end - start) <= 20 or end - start == 1 for start, end in batches)
    assert all(lengths[end] * (end + 1 - start) > 20 for start, end in batches[:-1])


# Memory ------------------------------------------------------------------------------------------


def limit_memory(transformer: TransformerClassifier, most: int, error: Exception) -> list[int]:
    """Limit the model to `most` padded tokens at once; return the rows of each pass."""
    passed: list[int] = []
    forward = transformer._encoder._forward

    def tight(tokens: Any, chosen: Any, longest: int) -> Any:
        if len(chosen) * longest > most:
            raise error
        passed.append(len(chosen))
        return forward(tokens, chosen, longest)

    transformer._encoder._forward = tight  # type: ignore[method-assign]
    return passed


MEMORY_ERRORS = [
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes"),
]


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=["python", "torch"])
def test_if_memory_runs_out_micro_batches_shrink_and_the_batch_stays(
    encoders: dict[str, Path], error: Exception
) -> None:
    enough, tight = (
        classifier(encoders["bert"], batch_size=10),
        classifier(encoders["bert"], batch_size=10),
    )
    passed = limit_memory(tight, 30, error)
    fits = [transformer.fit(ROWS, VALIDATION, 1) for transformer in (enough, tight)]
    assert [line["loss"] for line in fits[0].history] == pytest.approx(
        [line["loss"] for line in fits[1].history], abs=1e-5
    )
    # Ten rows do not fit. Of the two halves only the shorter rows fit, so the batch is repeated
    # by two.
    assert passed[:6] == [5, 2, 2, 2, 2, 2]
    for name, weight in weights(enough).items():
        assert weights(tight)[name] == pytest.approx(weight, abs=1e-5)
    assert enough.notes == []
    assert tight.notes == [
        "out of memory: rows go through the model 2 at a time; batch_size stays 10"
    ]


def test_scores_are_the_same_if_memory_runs_out(encoders: dict[str, Path]) -> None:
    transformer = sharpened(encoders["bert"], "bert")
    enough = transformer.predict_proba(TEXTS)
    passed = limit_memory(transformer, 150, MemoryError())
    assert transformer.predict_proba(TEXTS) == pytest.approx(enough, abs=1e-5)
    assert sum(passed) == len(TEXTS)
    assert 1 < len(passed) < len(TEXTS)


def test_a_single_row_that_does_not_fit_and_other_errors_are_raised(
    encoders: dict[str, Path],
) -> None:
    for most, error in ((0, MemoryError()), (3, RuntimeError("another bug"))):
        transformer = classifier(encoders["bert"])
        limit_memory(transformer, most, error)
        with pytest.raises(type(error)):
            transformer.fit(ROWS, VALIDATION, 1)
        with pytest.raises(type(error)):
            transformer.predict_proba(TEXTS)


# Long texts --------------------------------------------------------------------------------------


def test_texts_are_cut_at_max_length(encoders: dict[str, Path]) -> None:
    transformer = classifier(encoders["bert"], max_length=6)
    transformer.probe()
    whole, longer = ("a good film bad", "a good film bad " * 40)
    assert transformer._encoder.tokens([whole, longer]).lengths == [6, 6]
    # [SEP] is kept in a cut text too.
    assert transformer._encoder.tokenizer(whole)["input_ids"][-1] == 3
    assert (
        transformer.predict_proba([whole]).tobytes()
        == transformer.predict_proba([longer]).tobytes()
    )


@pytest.mark.parametrize(("longest", "of_rows"), [(4, 6), (5, 4), (6, 2), (7, 0)])
def test_cut_texts_are_counted(encoders: dict[str, Path], longest: int, of_rows: int) -> None:
    # ROWS have 3, 3, 4, 4, ... 7, 7 tokens, VALIDATION at most 4.
    transformer = classifier(encoders["bert"], max_length=longest)
    note = "{} of {} texts have more than max_length: " + f"{longest} tokens and are cut"
    transformer.fit(ROWS, VALIDATION, 1)
    assert transformer.notes == ([note.format(of_rows, 14)] if of_rows else [])
    long = "film " * (longest - 1)
    transformer.predict_proba(
        ["film " * (longest - 2), long, long, "bad"]
    )  # exactly the limit, one token more, and that again
    assert transformer.notes == [note.format(of_rows + 2, 18)]
    transformer.fit(ROWS, VALIDATION, 2)
    # Every fit starts at 0.
    assert transformer.notes == ([note.format(of_rows, 14)] if of_rows else [])


def test_a_full_token_cache_changes_nothing(
    encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, transformer = (
        classifier(encoders["bert"], max_length=6),
        classifier(encoders["bert"], max_length=6),
    )
    fits = [kept.fit(ROWS, VALIDATION, 1)]
    monkeypatch.setattr(token_module, "MAX_CACHED_TEXTS", 0)
    fits.append(transformer.fit(ROWS, VALIDATION, 1))
    assert fits[0] == fits[1]
    assert kept.predict_proba(TEXTS).tobytes() == transformer.predict_proba(TEXTS).tobytes()
    assert kept.notes == transformer.notes != []


@pytest.mark.parametrize("family", HEADS)
def test_a_max_length_beyond_the_models_limit_is_refused_with_the_limit(
    encoders: dict[str, Path], family: str
) -> None:
    limit = LIMITS[family]
    fits = classifier(encoders[family], max_length=limit)
    assert fits._encoder.tokens(["film " * 100]).lengths == [limit]
    assert math.isfinite(fits.predict_proba(["film " * 100])[0, 0])
    transformer = classifier(encoders[family], max_length=limit + 1)
    for use in (
        transformer.probe,
        lambda: transformer.fit(ROWS, VALIDATION, 1),
        lambda: transformer.predict_proba(TEXTS),
    ):
        with pytest.raises(
            UserError,
            match=f"max_length is {limit + 1}, but model .*{family}' reads at most {limit} tokens",
        ) as caught:
            use()
        assert str(limit) in caught.value.hint


def test_the_tokenizers_limit_counts_too(encoders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(encoders["bert"], tmp_path / "short")
    about = json.loads((tmp_path / "short" / "tokenizer_config.json").read_text())
    (tmp_path / "short" / "tokenizer_config.json").write_text(
        json.dumps({**about, "model_max_length": 20})
    )
    classifier(tmp_path / "short", max_length=20).probe()
    with pytest.raises(UserError, match="reads at most 20 tokens"):
        classifier(tmp_path / "short", max_length=21).probe()


# Incomplete model folders ------------------------------------------------------------------------


def test_a_folder_without_a_model_is_a_user_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", Path("no-such-owner/no-such-model")):
        with pytest.raises(UserError, match=str(path.name)) as caught:
            classifier(path)
        assert "hub id" in caught.value.hint


@pytest.mark.parametrize(
    "missing",
    [
        "model.safetensors",
        "tokenizer*",
    ],
)
def test_an_incomplete_folder_is_a_user_error(
    encoders: dict[str, Path], tmp_path: Path, missing: str
) -> None:
    shutil.copytree(encoders["bert"], tmp_path / "part")
    for path in (tmp_path / "part").glob(missing):
        path.unlink()
    with pytest.raises(UserError, match="part"):
        classifier(tmp_path / "part").probe()


def test_a_damaged_weights_file_is_a_user_error(encoders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(encoders["bert"], tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cut"):
        classifier(tmp_path / "cut").probe()


def test_a_missing_device_is_a_user_error(encoders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="device 'nonsense'"):
        TransformerClassifier(
            TransformerSettings(kind="transformer", model=str(encoders["bert"]), device="nonsense"),
            CLASSES,
        )
