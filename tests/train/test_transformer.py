"""Training the transformer classifier on a tiny random BERT: soft labels, early stopping, seeds.

Encoder families, heads, padding and incomplete model folders are in test_encoder.py.
"""

import json
import math
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_rows import CLASSES, ROWS, TEXTS, VALIDATION

from gpt3mix_cli.errors import StoppedShort
from gpt3mix_cli.layout import Cell, TrialKey
from gpt3mix_cli.records import Augmented, Example, Trial, read_records
from gpt3mix_cli.settings import PAPER, LinearSettings, TransformerSettings
from gpt3mix_cli.train import SyntheticSet, TrialData, TrialRunner, cached_classifier
from gpt3mix_cli.train import train as run_trials
from gpt3mix_cli.train.targets import UntrainableError, assign_targets
from gpt3mix_cli.train.transformer import TransformerClassifier


@pytest.fixture(scope="module")
def encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT without dropout, so that its numbers can be calculated by hand."""
    folder = tmp_path_factory.mktemp("encoder") / "no-dropout"
    shutil.copytree(tiny_encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    )
    return folder


def classifier(model: Path, **options: Any) -> TransformerClassifier:
    options = {
        "lr": 1e-3,
        "max_epochs": 2,
        "patience": 9,
        "warmup_epochs": 1,
        "batch_size": 4,
        "dtype": "float32",
        "device": "cpu",
        **options,
    }
    return TransformerClassifier(
        TransformerSettings(kind="transformer", model=str(model), **options), CLASSES
    )


class OptimizerLog:
    """Learning rates, gradients and parameter groups of all fits."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.gradients: list[dict[int, Any]] = []
        self.groups: list[dict[str, Any]] = []


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> OptimizerLog:
    import torch

    log = OptimizerLog()

    class Optimizer(torch.optim.AdamW):
        def __init__(self, params: Any, **options: Any) -> None:
            super().__init__(params, **options)
            log.groups = self.param_groups

        def step(self, closure: Any = None) -> Any:
            log.rates.append(self.param_groups[0]["lr"])
            log.gradients.append(
                {
                    id(p): p.grad.clone()
                    for group in self.param_groups
                    for p in group["params"]
                    if p.grad is not None
                }
            )
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", Optimizer)
    return log


# Fits are independent ----------------------------------------------------------------------------


def test_a_fit_does_not_depend_on_earlier_fits(tiny_encoder: Path) -> None:
    alone, after = classifier(tiny_encoder), classifier(tiny_encoder)
    after.fit(ROWS, VALIDATION, 2)
    assert alone.fit(ROWS, VALIDATION, 1) == after.fit(ROWS, VALIDATION, 1)
    assert alone.predict_proba(TEXTS).tobytes() == after.predict_proba(TEXTS).tobytes()


def test_a_fit_does_not_depend_on_whether_the_model_was_probed(tiny_encoder: Path) -> None:
    alone, after = classifier(tiny_encoder), classifier(tiny_encoder)
    after.probe()
    assert alone.fit(ROWS, VALIDATION, 1) == after.fit(ROWS, VALIDATION, 1)


def test_each_fit_depends_on_its_seed_only(tiny_encoder: Path) -> None:
    transformer = classifier(tiny_encoder)
    transformer.probe()
    fits = [
        (transformer.fit(ROWS, VALIDATION, seed), transformer.predict_proba(TEXTS).tobytes())
        for seed in (1, 2, 1, 0)
    ]
    assert fits[0] == fits[2]
    assert fits[0][1] != fits[1][1]
    assert len({fit[1] for fit in fits}) == 3


def test_the_same_seed_gives_the_same_history_and_probabilities_in_another_object(
    tiny_encoder: Path,
) -> None:
    first, second = classifier(tiny_encoder), classifier(tiny_encoder)
    assert first.fit(ROWS, VALIDATION, 2**63 - 1) == second.fit(ROWS, VALIDATION, 2**63 - 1)
    assert first.predict_proba(TEXTS).tobytes() == second.predict_proba(TEXTS).tobytes()


def test_the_global_generators_are_left_as_they_were(tiny_encoder: Path) -> None:
    import random

    import torch

    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    transformer = classifier(tiny_encoder)
    transformer.fit(ROWS, VALIDATION, 1)
    transformer.predict_proba(TEXTS)
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


# Training ----------------------------------------------------------------------------------------


TWO_WORDS = [
    Augmented(id="", text=text, label=label, probs={name: float(name == label) for name in CLASSES})
    for text, label in (("good", "pos"), ("bad", "neg"))
] * 8


def test_it_learns_what_two_words_mean(tiny_encoder: Path) -> None:
    transformer = classifier(tiny_encoder, lr=3e-3, max_epochs=20)
    fit = transformer.fit(TWO_WORDS, VALIDATION, 1)
    assert fit.valid_accuracy == 1.0
    assert transformer.predict_proba(["good", "bad"]).argmax(1).tolist() == [0, 1]
    assert fit.history[-1]["loss"] < fit.history[0]["loss"] / 2


def test_the_loss_is_soft_cross_entropy(encoder: Path) -> None:
    # With a tiny learning rate and no dropout, a fit leaves the weights as they were.
    transformer = classifier(encoder, lr=1e-30, max_epochs=1, batch_size=4)
    loss = transformer.fit(ROWS, VALIDATION, 1).history[0]["loss"]
    probabilities = transformer.predict_proba([row.text for row in ROWS])
    expected = -np.mean(
        [
            row.probs["pos"] * math.log(p) + row.probs["neg"] * math.log(q)
            for row, (p, q) in zip(ROWS, probabilities, strict=True)
        ]
    )
    hard = -np.mean(
        [
            math.log(max(pair) if row.label == CLASSES[pair.argmax()] else min(pair))
            for row, pair in zip(ROWS, probabilities, strict=True)
        ]
    )
    assert loss == pytest.approx(expected, abs=2e-6)
    assert abs(expected - hard) > 1e-4  # soft and hard labels give different losses here


def test_with_weights_loss_and_gradient_are_as_calculated_by_hand(
    encoder: Path, log: OptimizerLog
) -> None:
    weighting = {
        "synthetic_weight": 0.5,
        "class_weights": {"pos": 3.0},
        "label_smoothing": 0.2,
        "hard_labels": False,
    }
    transformer = classifier(encoder, lr=1e-30, max_epochs=1, batch_size=64, **weighting)
    real = [
        Example(id="a", text="the good film", label="pos"),
        Example(id="b", text="bad", label="neg"),
    ]
    fit = transformer.fit(assign_targets(transformer._settings, real, ROWS, CLASSES), VALIDATION, 1)
    positives = [1.0, 0.0, *(row.probs["pos"] for row in ROWS)]
    targets = [
        [3 * v * (0.8 * p + 0.1), v * (0.8 * (1 - p) + 0.1)]
        for p, v in zip(positives, [1, 1] + [0.5] * len(ROWS), strict=True)
    ]
    probabilities = transformer.predict_proba([row.text for row in [*real, *ROWS]])
    losses = [
        -sum(t * math.log(q) for t, q in zip(row, pair, strict=True))
        for row, pair in zip(targets, probabilities, strict=True)
    ]
    assert fit.history[0]["loss"] == pytest.approx(
        sum(losses) / 12, abs=2e-6
    )  # a mean over rows, not over weights
    (gradient,) = log.gradients
    # d/dz of -sum t log softmax(z) is softmax(z) sum(t) - t.
    slope = np.mean(
        [pair * sum(row) - row for row, pair in zip(np.array(targets), probabilities, strict=True)],
        0,
    )
    assert gradient[id(transformer._encoder.model.classifier.bias)].numpy() == pytest.approx(
        slope, abs=1e-6
    )


def test_hard_labels_replace_soft_ones(tiny_encoder: Path) -> None:
    rows = [
        row.model_copy(
            update={"probs": {name: 0.4 + 0.2 * value for name, value in row.probs.items()}}
        )
        for row in TWO_WORDS
    ]
    last = {}
    for hard in (False, True):
        transformer = classifier(
            tiny_encoder, lr=3e-3, max_epochs=20, patience=20, hard_labels=hard
        )
        last[hard] = transformer.fit(
            assign_targets(transformer._settings, [], rows, CLASSES), VALIDATION, 1
        ).history[-1]["loss"]
    assert (
        last[False] > -0.6 * math.log(0.6) - 0.4 * math.log(0.4) - 1e-3
    )  # the loss on soft labels is at least their entropy
    assert last[True] < 0.3


def test_the_last_smaller_batch_is_used_and_each_row_once_per_epoch(
    encoder: Path, log: OptimizerLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = classifier(encoder, max_epochs=3, batch_size=4)
    network, seen, batches = transformer._encoder, [], []
    forward, gradients = network._forward, network.gradients

    def record_lengths(tokens: Any, chosen: Any, longest: int) -> Any:
        if network.model.training:
            seen.extend(tokens.lengths[row] for row in chosen.tolist())
        return forward(tokens, chosen, longest)

    monkeypatch.setattr(network, "_forward", record_lengths)
    monkeypatch.setattr(
        network,
        "gradients",
        lambda tokens, targets, batch, rows: (
            batches.append(len(batch)),
            gradients(tokens, targets, batch, rows),
        )[1],
    )
    transformer.fit(ROWS, VALIDATION, 1)
    assert len(log.rates) == 3 * 3
    assert batches == [4, 4, 2] * 3
    assert sorted(seen) == sorted(3 * [2 + len(row.text.split()) for row in ROWS])


def test_the_order_of_rows_differs_between_epochs_and_seeds(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = classifier(encoder, max_epochs=3)
    orders: list[list[int]] = []
    epoch = transformer._epoch
    monkeypatch.setattr(
        transformer,
        "_epoch",
        lambda tokens, targets, order, *rest: (
            orders.append(list(order)),
            epoch(tokens, targets, order, *rest),
        )[1],
    )
    for seed in (1, 2, 1):
        transformer.fit(ROWS, VALIDATION, seed)
    assert all(sorted(order) == list(range(len(ROWS))) for order in orders)
    assert orders[:3] == orders[6:]
    assert len({tuple(order) for order in orders}) == 6


def test_the_learning_rate_rises_during_warm_up_and_is_constant_afterwards(
    encoder: Path, log: OptimizerLog
) -> None:
    classifier(encoder, lr=6e-4, warmup_epochs=2, max_epochs=4, batch_size=4).fit(
        ROWS, VALIDATION, 1
    )
    assert log.rates == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4, 5e-4] + [6e-4] * 7)


def test_without_warm_up_the_learning_rate_is_constant(encoder: Path, log: OptimizerLog) -> None:
    classifier(encoder, lr=5e-4, warmup_epochs=0, max_epochs=2, batch_size=4).fit(
        ROWS, VALIDATION, 1
    )
    assert log.rates == pytest.approx([5e-4] * 6)


def test_biases_and_norms_do_not_decay(encoder: Path, log: OptimizerLog) -> None:
    transformer = classifier(encoder, max_epochs=1, weight_decay=0.07)
    transformer.fit(ROWS, VALIDATION, 1)
    decay = {id(p): group["weight_decay"] for group in log.groups for p in group["params"]}
    by_name = {name: decay[id(p)] for name, p in transformer._encoder.model.named_parameters()}
    assert {name for name, value in by_name.items() if value == 0} == {
        name for name in by_name if name.endswith("bias") or "LayerNorm" in name
    }
    assert set(by_name.values()) == {0, 0.07}


# The paper's values ------------------------------------------------------------------------------

DEPARTURES: dict[str, Any] = {
    "lr": 1e-4, "warmup_epochs": 0, "patience": 5, "head": "library",
    "hard_labels": True, "synthetic_weight": 0.5, "row_weights": "dimp",
    "class_weights": "balanced",
    "label_smoothing": 0.1,
}  # fmt: skip


def paper(model: Path | str = "distilbert-base-uncased", **options: Any) -> TransformerSettings:
    return TransformerSettings(
        kind="transformer",
        preset="paper",
        model=str(model),
        **{"dtype": "float32", "device": "cpu", **options},
    )


def test_the_preset_has_the_values_that_the_paper_names() -> None:
    assert {key: PAPER[key] for key in ("lr", "warmup_epochs", "patience", "head")} == {
        "lr": 3e-5,
        "warmup_epochs": 3,
        "patience": 20,
        "head": "fresh",
    }
    assert PAPER.keys() == DEPARTURES.keys()
    assert paper().model_dump(include=set(PAPER)) == PAPER  # the defaults are the paper's
    assert paper(**PAPER) == paper()


@pytest.mark.parametrize("key", DEPARTURES)
def test_the_preset_refuses_each_departure_and_says_where_the_paper_has_it(key: str) -> None:
    with pytest.raises(
        ValueError, match=f"preset paper has {key}: .*section.*4.1 and 4.2.* not {DEPARTURES[key]}"
    ):
        paper(**{key: DEPARTURES[key]})
    assert (
        getattr(TransformerSettings(kind="transformer", **{key: DEPARTURES[key]}), key)
        == DEPARTURES[key]
    )


def test_the_preset_requires_more_epochs_than_patience() -> None:
    with pytest.raises(ValueError, match="max_epochs"):
        paper(max_epochs=20)
    assert paper(max_epochs=21).max_epochs == 21


@pytest.mark.parametrize(
    "free",
    [
        {"batch_size": 8},
        {"weight_decay": 0.1},
        {"max_length": 64},
        {"dtype": "bfloat16"},
        {"threads": 2},
        {"model": "minilm"},
    ],
)
def test_the_preset_allows_any_value_where_the_paper_is_silent(free: dict[str, Any]) -> None:
    ((key, value),) = free.items()
    assert getattr(paper(**free), key) == value


def test_the_preset_does_not_change_the_fingerprint(encoder: Path) -> None:
    plain = TransformerSettings(
        kind="transformer", model=str(encoder), dtype="float32", device="cpu"
    )
    assert (
        TransformerClassifier(paper(encoder), CLASSES).about
        == TransformerClassifier(plain, CLASSES).about
    )


def test_the_preset_has_the_papers_schedule(encoder: Path, log: OptimizerLog) -> None:
    transformer = TransformerClassifier(paper(encoder, batch_size=4), CLASSES)
    positive = [Example(id=row.id, text=row.text, label="pos") for row in VALIDATION]
    assert len(transformer.fit(ROWS, positive, 1).history) >= 21
    # Ten rows are three batches an epoch, the last of two rows.
    assert log.rates[:9] == pytest.approx([3e-5 * step / 9 for step in range(1, 10)])
    assert len(log.rates) >= 63
    assert log.rates[9:] == pytest.approx([3e-5] * (len(log.rates) - 9))
    assert {
        group["weight_decay"]: {p.ndim > 1 for p in group["params"]} for group in log.groups
    } == {0.01: {True}, 0.0: {False}}
    assert sum(len(group["params"]) for group in log.groups) == len(
        list(transformer._encoder.model.parameters())
    )


@pytest.mark.parametrize(
    ("biases", "best", "epochs"),
    [
        ([1.0] * 99, 1, 21),
        ([-1.0, *[1.0] * 98], 2, 22),
        ([-1.0] * 20 + [1.0] * 79, 21, 41),  # the last epoch that patience waits for
        ([-1.0] * 21 + [1.0] * 78, 1, 21),
    ],
)
def test_the_preset_waits_20_epochs_and_a_tie_is_no_improvement(
    encoder: Path, biases: list[float], best: int, epochs: int
) -> None:
    transformer = scripted(encoder, biases, settings=paper(encoder))
    fit = transformer.fit(ROWS, VALIDATION, 1)
    assert (fit.best_epoch, len(fit.history)) == (best, epochs)


def test_the_score_before_the_first_epoch_does_not_count(encoder: Path) -> None:
    positive = [Example(id=row.id, text=row.text, label="pos") for row in VALIDATION]
    transformer = scripted(
        encoder, [-1.0] * 99, settings=paper(encoder)
    )  # no epoch has a correct prediction, so no untrained head is worse
    fit = transformer.fit(ROWS, positive, 1)
    assert (fit.best_epoch, fit.valid_accuracy, len(fit.history)) == (1, 0.0, 21)


# Stopping early ----------------------------------------------------------------------------------


def scripted(encoder: Path, biases: list[float], **options: Any) -> TransformerClassifier:
    """Return a classifier that prefers the first class by `biases[e]` after epoch e.

    Three of four validation rows are of the first class: a positive bias scores 0.75, a negative
    bias 0.25.
    """
    import torch

    transformer = (
        TransformerClassifier(options["settings"], CLASSES)
        if "settings" in options
        else classifier(encoder, **options)
    )
    turns = iter(biases)

    def epoch(*_: Any) -> float:
        with torch.no_grad():
            transformer._encoder.model.classifier.weight.zero_()
            transformer._encoder.model.classifier.bias.copy_(torch.tensor([next(turns), 0.0]))
        return 1.0

    transformer._epoch = epoch  # type: ignore[method-assign]
    return transformer


def test_the_best_weights_are_restored(encoder: Path) -> None:
    transformer = scripted(encoder, [-1.0, 2.0, -3.0, -4.0], max_epochs=4)
    fit = transformer.fit(ROWS, VALIDATION, 1)
    assert [line["valid_accuracy"] for line in fit.history] == [0.25, 0.75, 0.25, 0.25]
    assert (fit.best_epoch, fit.valid_accuracy) == (2, 0.75)
    assert transformer.predict_proba(["good"])[0, 0] == pytest.approx(
        1 / (1 + math.exp(-2.0)), abs=1e-6
    )


def test_of_equally_good_epochs_the_first_is_kept(encoder: Path) -> None:
    transformer = scripted(encoder, [-1.0, 2.0, 3.0], max_epochs=3)
    assert transformer.fit(ROWS, VALIDATION, 1).best_epoch == 2
    assert transformer.predict_proba(["good"])[0, 0] == pytest.approx(
        1 / (1 + math.exp(-2.0)), abs=1e-6
    )


def test_predictions_after_a_fit_have_the_best_validation_accuracy(tiny_encoder: Path) -> None:
    transformer = classifier(tiny_encoder, lr=2e-2, max_epochs=8, warmup_epochs=0)
    fit = transformer.fit(ROWS, VALIDATION, 1)
    right = transformer.predict_proba([row.text for row in VALIDATION]).argmax(1) == [
        CLASSES.index(row.label) for row in VALIDATION
    ]
    scores = [line["valid_accuracy"] for line in fit.history]
    assert right.mean() == fit.valid_accuracy == max(scores)
    assert fit.best_epoch == scores.index(max(scores)) + 1


@pytest.mark.parametrize(("patience", "epochs"), [(1, 2), (2, 5), (3, 6)])
def test_patience_counts_epochs_since_the_best(encoder: Path, patience: int, epochs: int) -> None:
    transformer = scripted(
        encoder, [-1, -1, 1, 1, 1, 1, 1, 1, 1, 1], max_epochs=10, patience=patience
    )
    assert len(transformer.fit(ROWS, VALIDATION, 1).history) == epochs


def test_max_epochs_ends_a_fit_before_patience_does(encoder: Path) -> None:
    assert len(classifier(encoder, max_epochs=3, patience=20).fit(ROWS, VALIDATION, 1).history) == 3


def test_the_callback_gets_each_epoch_the_best_one_and_the_last_one(encoder: Path) -> None:
    calls: list[tuple[Any, ...]] = []
    transformer = scripted(encoder, [-1.0, 1.0, -1.0, -1.0, -1.0], max_epochs=4, patience=3)
    fit = transformer.fit(ROWS, VALIDATION, 1, lambda *line: calls.append(line))
    assert tuple(line for line, *_ in calls) == fit.history
    assert [best for _, best, *_ in calls] == [fit.history[0], *[fit.history[1]] * 3]
    assert [stop for _, _, stop, _ in calls] == [4, 4, 4, 4]
    calls.clear()
    scripted(encoder, [-1.0, 1.0, *[-1.0] * 9], max_epochs=10, patience=3).fit(
        ROWS, VALIDATION, 1, lambda *line: calls.append(line)
    )
    assert [stop for _, _, stop, _ in calls] == [4, 5, 5, 5, 5]


# Threads and processes ---------------------------------------------------------------------------


@pytest.fixture
def three_threads() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("threads", [1, 2])
def test_it_uses_the_threads_of_its_settings_and_restores_the_old_number(
    tiny_encoder: Path, threads: int
) -> None:
    import torch

    transformer, seen = classifier(tiny_encoder, threads=threads), []
    transformer.fit(ROWS, VALIDATION, 1, lambda *line: seen.append(torch.get_num_threads()))
    assert seen == [threads] * 2
    assert (transformer.threads, torch.get_num_threads()) == (threads, 3)
    logits = transformer._encoder.logits

    def record_threads(tokens: Any) -> Any:
        seen.append(torch.get_num_threads())
        return logits(tokens)

    transformer._encoder.logits = record_threads  # type: ignore[method-assign]
    transformer.predict_proba(TEXTS)
    assert (seen, torch.get_num_threads()) == ([threads] * 3, 3)


@pytest.mark.usefixtures("three_threads")
def test_the_number_of_threads_is_restored_after_an_exception(tiny_encoder: Path) -> None:
    import torch

    with pytest.raises(ArithmeticError):
        classifier(tiny_encoder, lr=1e30, warmup_epochs=0).fit(ROWS, VALIDATION, 1)
    assert torch.get_num_threads() == 3

    def interrupted(*line: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classifier(tiny_encoder).fit(ROWS, VALIDATION, 1, interrupted)
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_the_threads_of_the_machine_do_not_change_numbers(tiny_encoder: Path) -> None:
    import torch

    first, second = classifier(tiny_encoder), classifier(tiny_encoder)
    fit = first.fit(ROWS, VALIDATION, 1)
    torch.set_num_threads(1)
    assert second.fit(ROWS, VALIDATION, 1) == fit
    assert second.predict_proba(TEXTS).tobytes() == first.predict_proba(TEXTS).tobytes()


def test_a_classifier_is_pickled_as_its_settings_and_each_process_has_one(
    tiny_encoder: Path,
) -> None:
    settings = TransformerSettings(
        kind="transformer",
        model=str(tiny_encoder),
        max_epochs=1,
        dtype="float32",
        device="cpu",
        class_weights={"pos": 2.0},
    )
    transformer = cached_classifier(settings, tuple(CLASSES))
    transformer.fit(ROWS, VALIDATION, 1)
    sent = pickle.dumps(transformer)
    assert len(sent) < 2000  # no weights
    assert pickle.loads(sent) is transformer
    alike = TransformerClassifier(settings.model_copy(), list(CLASSES))
    assert pickle.loads(pickle.dumps(alike)) is transformer
    other = pickle.loads(
        pickle.dumps(TransformerClassifier(settings.model_copy(update={"lr": 1e-4}), CLASSES))
    )
    assert other is not transformer
    assert pickle.loads(pickle.dumps(TransformerClassifier(settings, CLASSES[::-1]))) not in (
        transformer,
        other,
    )
    cached_classifier.cache_clear()
    again = pickle.loads(sent)
    assert again is not transformer
    assert again.about == transformer.about


def test_a_linear_classifier_is_pickled_as_its_settings() -> None:
    linear = cached_classifier(
        LinearSettings(kind="linear", class_weights={"pos": 2.0}), tuple(CLASSES)
    )
    assert pickle.loads(pickle.dumps(linear)) is linear


# Failures ----------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_fit(tiny_encoder: Path) -> None:
    with pytest.raises(ArithmeticError, match="lower lr"):
        classifier(tiny_encoder, lr=1e30, warmup_epochs=0).fit(ROWS, VALIDATION, 1)


def diverged(tiny_encoder: Path, output: Path, **options: Any) -> list[Trial]:
    transformer = classifier(tiny_encoder, lr=1e30, warmup_epochs=0, **options)
    with pytest.raises(StoppedShort, match="1 of 1 trials failed"):
        run_trials(runner(transformer, "none", ROWS), [(0, 0)], output)
    return list(read_records(output, Trial))


def test_a_loss_that_is_not_finite_fails_the_trial(tiny_encoder: Path, tmp_path: Path) -> None:
    (row,) = diverged(tiny_encoder, tmp_path / "none.tiny.jsonl")
    assert (row.status, row.accuracy) == ("failed", None)
    assert row.error is not None
    assert row.error.startswith("ArithmeticError: the loss became nan")


def test_weights_that_diverge_in_the_last_step_fail_the_trial(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    (row,) = diverged(tiny_encoder, tmp_path / "none.tiny.jsonl", max_epochs=1, batch_size=64)
    assert row.status == "failed"


def runner(
    classifier: TransformerClassifier,
    method: str,
    real: Sequence[Example],
    synthetic: Mapping[int, SyntheticSet] = {},
) -> TrialRunner:
    key = TrialKey(Cell("t", {}, "full", 0), method, "tiny")
    return TrialRunner(
        classifier, key, CLASSES, TrialData(real, VALIDATION, VALIDATION, synthetic), 1
    )


def invalid_rows(value: float) -> list[Augmented]:
    return [row.model_copy(update={"probs": {"pos": value, "neg": 0.0}}) for row in ROWS]


@pytest.mark.parametrize("value", [math.nan, 3e38])
def test_a_trial_that_diverges_does_not_change_the_next_one(
    tiny_encoder: Path, tmp_path: Path, value: float
) -> None:
    real = [Example(id=row.id, text=row.text, label=row.label) for row in ROWS]
    draws = {0: SyntheticSet(invalid_rows(value), {}), 1: SyntheticSet(ROWS, {})}

    def rows(name: str, trials: list[tuple[int, int]]) -> list[dict[str, Any]]:
        output = tmp_path / f"{name}.tiny.jsonl"
        work = runner(classifier(tiny_encoder), "gpt3mix", real, draws)
        if name == "both":
            with pytest.raises(
                StoppedShort, match="1 of 2 trials failed; the first: ArithmeticError"
            ):
                run_trials(work, trials, output)
        else:
            run_trials(work, trials, output)
        return [row.model_dump(exclude={"seconds"}) for row in read_records(output, Trial)]

    failed, after = rows("both", [(0, 0), (1, 1)])
    assert (failed["status"], failed["accuracy"], failed["trial"]) == ("failed", None, 0)
    assert [after] == rows("alone", [(1, 1)])
    assert after["status"] == "ok"


def test_a_fit_that_diverges_does_not_change_the_next_one(tiny_encoder: Path) -> None:
    transformer, alone = classifier(tiny_encoder), classifier(tiny_encoder)
    settings = transformer._settings
    transformer._settings = settings.model_copy(update={"lr": 1e30, "warmup_epochs": 0})
    with pytest.raises(ArithmeticError):
        transformer.fit(ROWS, VALIDATION, 1)
    transformer._settings = settings
    assert transformer.fit(ROWS, VALIDATION, 2) == alone.fit(ROWS, VALIDATION, 2)
    assert transformer.predict_proba(TEXTS).tobytes() == alone.predict_proba(TEXTS).tobytes()


def test_logits_that_are_not_finite_are_an_error(tiny_encoder: Path) -> None:
    import torch

    transformer = classifier(tiny_encoder)
    with torch.no_grad():
        transformer._encoder.model.classifier.bias.fill_(math.nan)
    with pytest.raises(ArithmeticError, match="lower lr"):
        transformer.predict_proba(TEXTS)


def test_a_class_without_a_row_fails_the_trial_with_its_name(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    real = [Example(id="a", text="good", label="pos")]
    work = runner(classifier(tiny_encoder), "none", real)
    with pytest.raises(UntrainableError, match="'neg'"):
        assign_targets(work.target_settings, real, [], CLASSES)
    with pytest.raises(StoppedShort, match="the first: no training row has the class 'neg'"):
        run_trials(work, [(0, 0)], tmp_path / "none.tiny.jsonl")


def test_about_has_what_can_change_a_number_and_nothing_else(
    tiny_encoder: Path, encoder: Path, tmp_path: Path
) -> None:
    plain = classifier(tiny_encoder).about
    shutil.copytree(tiny_encoder, tmp_path / "elsewhere")
    named = TransformerSettings(
        kind="transformer", name="other", trials=3, model=str(tmp_path / "elsewhere"),
        lr=1e-3, max_epochs=2, patience=9, warmup_epochs=1, batch_size=4, dtype="float32",
        device="cpu",
    )  # fmt: skip
    assert TransformerClassifier(named, CLASSES).about == plain
    changes: list[Callable[[], TransformerClassifier]] = [
        lambda: classifier(encoder),
        lambda: classifier(tiny_encoder, lr=2e-3),
        lambda: classifier(tiny_encoder, dtype="bfloat16"),
        lambda: classifier(tiny_encoder, max_length=64),
        lambda: classifier(tiny_encoder, weight_decay=0),
        lambda: classifier(tiny_encoder, head="library"),
        lambda: classifier(tiny_encoder, threads=2),
        lambda: classifier(tiny_encoder, hard_labels=True),
        lambda: classifier(tiny_encoder, synthetic_weight=0.5),
        lambda: classifier(tiny_encoder, class_weights={"pos": 2}),
        lambda: classifier(tiny_encoder, label_smoothing=0.1),
    ]
    assert all(change().about != plain for change in changes)
