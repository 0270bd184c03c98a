"""The encoder classifier on tiny random models: each fit starts anew, learns from soft labels, and keeps its best weights."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt3mix_cli.errors import StoppedShort, UserError
from gpt3mix_cli.records import Augmented, Example, Trial, read
from gpt3mix_cli.settings import Transformer
from gpt3mix_cli.train import Cell, Work, transformer
from gpt3mix_cli.train import train as run_trials
from gpt3mix_cli.train.transformer import TransformerClassifier

CLASSES = ["pos", "neg"]
ROWS = [
    Augmented(id=f"r{i}", text=" ".join([*["film"] * i, word]), label=label, probs={"pos": share, "neg": 1 - share})
    for i in range(5)
    for word, label, share in (("good", "pos", 0.9), ("bad", "neg", 0.2))
]
VALIDATION = [
    Example(id=f"v{i}", text=text, label="neg" if text == "bad" else "pos") for i, text in enumerate(["good", "good film", "the good", "bad"])
]
TEXTS = ["bad", "a good film and a long story about the sea", "good", "the film is bad", "a", "a good film " * 12, "the story is bad and long"]


@pytest.fixture(scope="module")
def encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT without dropout, so that its numbers can be worked out."""
    folder = tmp_path_factory.mktemp("encoder") / "still"
    shutil.copytree(tiny_encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
    return folder


@pytest.fixture(scope="module")
def encoders(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny encoders of three families over one tokenizer."""
    import torch
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("encoders")
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        models = {
            "distilbert": DistilBertModel(DistilBertConfig(vocab_size=800, dim=32, n_layers=2, n_heads=2, hidden_dim=64)),
            "roberta": RobertaModel(RobertaConfig(vocab_size=800, hidden_size=32, max_position_embeddings=130, pad_token_id=0, **sizes)),
        }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(folder / name)
    return {"bert": tiny_encoder, **{name: folder / name for name in models}}


def classifier(model: Path, **options: Any) -> TransformerClassifier:
    options = {"lr": 1e-3, "max_epochs": 2, "patience": 9, "warmup_epochs": 1, "batch_size": 4, "dtype": "float32", "device": "cpu", **options}
    return TransformerClassifier(Transformer(kind="transformer", model=str(model), **options), CLASSES)


class Watch:
    """What the optimizer was given and did in each fit."""

    def __init__(self) -> None:
        self.starts: list[dict[str, Any]] = []
        self.rates: list[float] = []
        self.gradients: list[dict[int, Any]] = []
        self.groups: list[dict[str, Any]] = []
        self.model: Any = None


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    import torch

    seen = Watch()

    class Optimizer(torch.optim.AdamW):
        def __init__(self, params: Any, **options: Any) -> None:
            super().__init__(params, **options)
            seen.groups = self.param_groups
            seen.starts.append({id(p): p.detach().clone() for group in self.param_groups for p in group["params"]})

        def step(self, closure: Any = None) -> Any:
            seen.rates.append(self.param_groups[0]["lr"])
            seen.gradients.append({id(p): p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None})
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", Optimizer)
    return seen


def start(found: TransformerClassifier, watch: Watch, fit: int) -> dict[str, np.ndarray]:
    """Return the weights, by name, that a fit started from."""
    return {name: watch.starts[fit][id(p)].numpy() for name, p in found._model.named_parameters()}


def is_head(name: str) -> bool:
    return name.startswith(("classifier", "pre_classifier")) or ".pooler." in name


# Each fit starts anew ------------------------------------------------------------------------------------------------

FAMILIES = ["bert", "roberta", "distilbert"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_fit_starts_from_the_pretrained_encoder_and_a_head_of_its_own(encoders: dict[str, Path], watch: Watch, family: str) -> None:
    from transformers import AutoModel

    found = classifier(encoders[family], lr=1e-2)
    for seed in (1, 2, 1):
        found.fit(ROWS, VALIDATION, seed)
    first, second, third = (start(found, watch, fit) for fit in range(3))
    pretrained = {name: weight.numpy() for name, weight in AutoModel.from_pretrained(encoders[family]).state_dict().items()}
    prefix = found._model.base_model_prefix
    heads = [name for name in first if is_head(name)]
    assert len(heads) == 4  # two layers, each with weights and biases, in every family
    for name, weight in first.items():
        if name in heads and weight.ndim > 1:
            assert (weight != second[name]).mean() > 0.99
            assert (third[name] != second[name]).mean() > 0.99
            assert weight.std() == pytest.approx(0.02, rel=0.5)  # the library's own initialiser
        elif name in heads:
            assert not second[name].any()
        else:
            original = pretrained[name.removeprefix(f"{prefix}.")]
            assert (weight == original).all()
            assert (second[name] == original).all()
    probabilities = found.predict_proba(TEXTS)
    assert probabilities.shape == (len(TEXTS), 2)
    assert probabilities.sum(1) == pytest.approx(1, abs=1e-5)


def test_a_fit_depends_on_no_fit_before(tiny_encoder: Path) -> None:
    alone, after = classifier(tiny_encoder), classifier(tiny_encoder)
    after.fit(ROWS, VALIDATION, 2)
    assert alone.fit(ROWS, VALIDATION, 1) == after.fit(ROWS, VALIDATION, 1)
    assert alone.predict_proba(TEXTS).tobytes() == after.predict_proba(TEXTS).tobytes()


def test_a_fit_does_not_depend_on_whether_the_model_was_probed(tiny_encoder: Path) -> None:
    alone, after = classifier(tiny_encoder), classifier(tiny_encoder)
    after.probe()
    assert alone.fit(ROWS, VALIDATION, 1) == after.fit(ROWS, VALIDATION, 1)


def test_later_fits_depend_on_their_seed_only(tiny_encoder: Path) -> None:
    found = classifier(tiny_encoder)
    found.probe()
    fits = [(found.fit(ROWS, VALIDATION, seed), found.predict_proba(TEXTS).tobytes()) for seed in (1, 2, 1, 0)]
    assert fits[0] == fits[2]
    assert fits[0][1] != fits[1][1]
    assert len({fit[1] for fit in fits}) == 3


def test_same_seed_same_history_and_probabilities_in_another_object(tiny_encoder: Path) -> None:
    one, other = classifier(tiny_encoder), classifier(tiny_encoder)
    assert one.fit(ROWS, VALIDATION, 2**63 - 1) == other.fit(ROWS, VALIDATION, 2**63 - 1)
    assert one.predict_proba(TEXTS).tobytes() == other.predict_proba(TEXTS).tobytes()


def test_the_global_generators_are_left_as_they_were(tiny_encoder: Path) -> None:
    import random

    import torch

    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    found = classifier(tiny_encoder)
    found.fit(ROWS, VALIDATION, 1)
    found.predict_proba(TEXTS)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_the_state_of_the_global_generator_does_not_matter(tiny_encoder: Path) -> None:
    import torch

    fits = []
    for state in (5, 6):
        with torch.random.fork_rng():
            torch.manual_seed(state)
            fits.append(classifier(tiny_encoder).fit(ROWS, VALIDATION, 1))
    assert fits[0] == fits[1]


# Training ------------------------------------------------------------------------------------------------------------


TWO_WORDS = [
    Augmented(id="", text=text, label=label, probs={name: float(name == label) for name in CLASSES})
    for text, label in (("good", "pos"), ("bad", "neg"))
] * 8


def test_it_learns_what_two_words_mean(tiny_encoder: Path) -> None:
    found = classifier(tiny_encoder, lr=3e-3, max_epochs=20)
    fit = found.fit(TWO_WORDS, VALIDATION, 1)
    assert fit.valid_accuracy == 1.0
    assert found.predict_proba(["good", "bad"]).argmax(1).tolist() == [0, 1]
    assert fit.history[-1]["loss"] < fit.history[0]["loss"] / 2


def test_the_loss_is_soft_cross_entropy(encoder: Path) -> None:
    # With next to no learning rate and without dropout the weights after the fit are those before it.
    found = classifier(encoder, lr=1e-30, max_epochs=1, batch_size=4)
    loss = found.fit(ROWS, VALIDATION, 1).history[0]["loss"]
    probabilities = found.predict_proba([row.text for row in ROWS])
    expected = -np.mean([row.probs["pos"] * math.log(p) + row.probs["neg"] * math.log(q) for row, (p, q) in zip(ROWS, probabilities, strict=True)])
    hard = -np.mean(
        [math.log(max(pair) if row.label == CLASSES[pair.argmax()] else min(pair)) for row, pair in zip(ROWS, probabilities, strict=True)]
    )
    assert loss == pytest.approx(expected, abs=2e-6)
    assert abs(expected - hard) > 1e-4  # the case can tell soft from hard labels


def test_slices_of_a_batch_add_up_to_its_gradient(encoder: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients, weights = [], []
    for size in (2, 64):
        monkeypatch.setattr(transformer, "SLICE", size)
        found = classifier(encoder, lr=1e-6, max_epochs=1, batch_size=64)
        found.fit(ROWS, VALIDATION, 1)
        assert len(watch.rates) == len(gradients) + 1  # one step, however many slices
        gradients.append({name: watch.gradients[-1][id(p)].numpy() for name, p in found._model.named_parameters()})
        weights.append({name: p.detach().numpy() for name, p in found._model.named_parameters()})
    assert max(np.abs(gradient).max() for gradient in gradients[0].values()) > 0.01
    for name in gradients[0]:
        assert gradients[0][name] == pytest.approx(gradients[1][name], abs=1e-6)
        assert weights[0][name] == pytest.approx(weights[1][name], abs=1e-5)


def test_the_last_smaller_batch_is_used_and_each_row_once_an_epoch(encoder: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    found = classifier(encoder, max_epochs=3, batch_size=4)
    seen: list[int] = []
    forward = found._forward
    monkeypatch.setattr(found, "_forward", lambda rows: (seen.extend(len(row) for row in rows) if found._model.training else None, forward(rows))[1])
    found.fit(ROWS, VALIDATION, 1)
    assert len(watch.rates) == 3 * 3
    assert sorted(seen) == sorted(3 * [2 + len(row.text.split()) for row in ROWS])


def test_the_rate_rises_for_the_warm_up_epochs_and_then_stays(encoder: Path, watch: Watch) -> None:
    classifier(encoder, lr=6e-4, warmup_epochs=2, max_epochs=4, batch_size=4).fit(ROWS, VALIDATION, 1)
    assert watch.rates == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4, 5e-4] + [6e-4] * 7)


def test_without_warm_up_the_rate_is_constant(encoder: Path, watch: Watch) -> None:
    classifier(encoder, lr=5e-4, warmup_epochs=0, max_epochs=2, batch_size=4).fit(ROWS, VALIDATION, 1)
    assert watch.rates == pytest.approx([5e-4] * 6)


def test_biases_and_norms_do_not_decay(encoder: Path, watch: Watch) -> None:
    found = classifier(encoder, max_epochs=1, weight_decay=0.07)
    found.fit(ROWS, VALIDATION, 1)
    decay = {id(p): group["weight_decay"] for group in watch.groups for p in group["params"]}
    by_name = {name: decay[id(p)] for name, p in found._model.named_parameters()}
    assert {name for name, value in by_name.items() if value == 0} == {name for name in by_name if name.endswith("bias") or "LayerNorm" in name}
    assert set(by_name.values()) == {0, 0.07}


# Stopping early ------------------------------------------------------------------------------------------------------


def scripted(encoder: Path, leanings: list[float], **options: Any) -> TransformerClassifier:
    """Return a classifier whose epoch e makes it prefer the first class by `leanings[e]` whatever the text.

    Three of four validation rows are of the first class: a positive leaning scores 0.75, a negative one 0.25.
    """
    import torch

    found = classifier(encoder, **options)
    turns = iter(leanings)

    def epoch(*_: Any) -> float:
        with torch.no_grad():
            found._model.classifier.weight.zero_()
            found._model.classifier.bias.copy_(torch.tensor([next(turns), 0.0]))
        return 1.0

    found._epoch = epoch  # type: ignore[method-assign]
    return found


def test_the_best_weights_come_back_and_not_the_last(encoder: Path) -> None:
    found = scripted(encoder, [-1.0, 2.0, -3.0, -4.0], max_epochs=4)
    fit = found.fit(ROWS, VALIDATION, 1)
    assert [line["valid_accuracy"] for line in fit.history] == [0.25, 0.75, 0.25, 0.25]
    assert (fit.best_epoch, fit.valid_accuracy) == (2, 0.75)
    assert found.predict_proba(["good"])[0, 0] == pytest.approx(1 / (1 + math.exp(-2.0)), abs=1e-6)


def test_of_equally_good_epochs_the_first_stays(encoder: Path) -> None:
    found = scripted(encoder, [-1.0, 2.0, 3.0], max_epochs=3)
    assert found.fit(ROWS, VALIDATION, 1).best_epoch == 2
    assert found.predict_proba(["good"])[0, 0] == pytest.approx(1 / (1 + math.exp(-2.0)), abs=1e-6)


def test_predictions_after_a_fit_have_the_best_valid_accuracy(tiny_encoder: Path) -> None:
    found = classifier(tiny_encoder, lr=2e-2, max_epochs=8, warmup_epochs=0)
    fit = found.fit(ROWS, VALIDATION, 1)
    right = found.predict_proba([row.text for row in VALIDATION]).argmax(1) == [CLASSES.index(row.label) for row in VALIDATION]
    scores = [line["valid_accuracy"] for line in fit.history]
    assert right.mean() == fit.valid_accuracy == max(scores)
    assert fit.best_epoch == scores.index(max(scores)) + 1


@pytest.mark.parametrize(("patience", "epochs"), [(1, 2), (2, 5), (3, 6)])
def test_patience_counts_epochs_since_the_best(encoder: Path, patience: int, epochs: int) -> None:
    found = scripted(encoder, [-1, -1, 1, 1, 1, 1, 1, 1, 1, 1], max_epochs=10, patience=patience)
    assert len(found.fit(ROWS, VALIDATION, 1).history) == epochs


def test_max_epochs_ends_a_fit_that_has_patience_left(encoder: Path) -> None:
    assert len(classifier(encoder, max_epochs=3, patience=20).fit(ROWS, VALIDATION, 1).history) == 3


# Scoring -------------------------------------------------------------------------------------------------------------


def test_scores_come_in_the_order_of_the_texts(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = classifier(tiny_encoder, lr=3e-3, max_epochs=20)
    found.fit(TWO_WORDS, VALIDATION, 1)
    together = found.predict_proba(TEXTS)
    alone = np.concatenate([found.predict_proba([text]) for text in TEXTS])
    by_length = together[sorted(range(len(TEXTS)), key=lambda i: len(TEXTS[i]))]
    assert np.abs(by_length - together).max() > 1e-3  # the order in which they are scored would be noticed
    assert together == pytest.approx(alone, abs=1e-5)
    monkeypatch.setattr(transformer, "SCORING_TOKENS", 16)
    assert found.predict_proba(TEXTS) == pytest.approx(alone, abs=1e-5)


def test_no_scoring_batch_exceeds_its_budget(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "SCORING_TOKENS", 20)
    found = classifier(tiny_encoder)
    padded: list[tuple[int, int]] = []
    forward = found._forward
    monkeypatch.setattr(found, "_forward", lambda rows: (padded.append((len(rows), max(map(len, rows)))), forward(rows))[1])
    found.predict_proba(TEXTS)
    assert sum(rows for rows, _ in padded) == len(TEXTS)
    assert all(rows * longest <= 20 or rows == 1 for rows, longest in padded)
    assert max(rows for rows, _ in padded) > 1


def test_texts_are_cut_at_max_length(tiny_encoder: Path) -> None:
    found = classifier(tiny_encoder, max_length=6)
    found.probe()
    assert found.predict_proba(["a good film is bad"]).tobytes() == found.predict_proba(["a good film is bad " * 40]).tobytes()[:8]


# What may go wrong ---------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_model_is_the_users_error(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent", Path("no-such-owner/no-such-model")):
        with pytest.raises(UserError, match=str(place.name)) as caught:
            classifier(place)
        assert "hub id" in caught.value.hint


@pytest.mark.parametrize(
    "missing",
    [
        "model.safetensors",
        "tokenizer*",
    ],
)
def test_an_incomplete_folder_is_the_users_error(tiny_encoder: Path, tmp_path: Path, missing: str) -> None:
    shutil.copytree(tiny_encoder, tmp_path / "part")
    for path in (tmp_path / "part").glob(missing):
        path.unlink()
    with pytest.raises(UserError, match="part"):
        classifier(tmp_path / "part").probe()


def test_a_damaged_weights_file_is_the_users_error(tiny_encoder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cut"):
        classifier(tmp_path / "cut").probe()


def test_a_device_that_is_not_there_is_the_users_error(tiny_encoder: Path) -> None:
    with pytest.raises(UserError, match="device 'nonsense'"):
        classifier(tiny_encoder, device="nonsense")


def test_a_loss_that_is_no_number_ends_the_fit(tiny_encoder: Path) -> None:
    with pytest.raises(ArithmeticError, match="lower lr"):
        classifier(tiny_encoder, lr=1e30, warmup_epochs=0).fit(ROWS, VALIDATION, 1)


def diverged(tiny_encoder: Path, output: Path, **options: Any) -> list[Trial]:
    cell = Cell("t", "full", "none", "tiny", {}, 0, CLASSES)
    found = classifier(tiny_encoder, lr=1e30, warmup_epochs=0, **options)
    with pytest.raises(StoppedShort, match="1 of 1 trials failed"):
        run_trials(Work(found, cell, ROWS, {}, VALIDATION, VALIDATION, 1), [(0, 0)], output)
    return list(read(output, Trial))


def test_a_loss_that_is_no_number_makes_a_failed_trial(tiny_encoder: Path, tmp_path: Path) -> None:
    (row,) = diverged(tiny_encoder, tmp_path / "none.tiny.jsonl")
    assert (row.status, row.accuracy) == ("failed", None)
    assert row.error is not None
    assert row.error.startswith("ArithmeticError: the loss became nan")


def test_weights_ruined_by_the_last_step_make_a_failed_trial(tiny_encoder: Path, tmp_path: Path) -> None:
    (row,) = diverged(tiny_encoder, tmp_path / "none.tiny.jsonl", max_epochs=1, batch_size=64)
    assert row.status == "failed"


def test_about_tells_what_can_change_a_number_and_nothing_else(tiny_encoder: Path, encoder: Path, tmp_path: Path) -> None:
    plain = classifier(tiny_encoder).about
    shutil.copytree(tiny_encoder, tmp_path / "elsewhere")
    named = Transformer(
        kind="transformer", name="other", trials=3, model=str(tmp_path / "elsewhere"),
        lr=1e-3, max_epochs=2, patience=9, warmup_epochs=1, batch_size=4, dtype="float32", device="cpu",
    )  # fmt: skip
    assert TransformerClassifier(named, CLASSES).about == plain
    changes: list[Callable[[], TransformerClassifier]] = [
        lambda: classifier(encoder),
        lambda: classifier(tiny_encoder, lr=2e-3),
        lambda: classifier(tiny_encoder, dtype="bfloat16"),
        lambda: classifier(tiny_encoder, max_length=64),
        lambda: classifier(tiny_encoder, weight_decay=0),
    ]
    assert all(change().about != plain for change in changes)
