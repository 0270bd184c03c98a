"""Temperature scaling: it undoes over- and underconfidence and changes no prediction."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.train.calibration import apply_temperature, fit_temperature
from gpt3mix_cli.train.metrics import score

CLASSES = ["a", "b", "c"]


def calibrated_rows(count: int = 3000) -> tuple[np.ndarray, list[str]]:
    """Return probabilities, and labels that are drawn from them."""
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([1, 1, 1], count)
    cumulative = probabilities.cumsum(1)
    truth = (random.random((count, 1)) > cumulative).sum(1).clip(0, 2)
    return probabilities, [CLASSES[index] for index in truth]


@pytest.mark.parametrize("distortion", [0.4, 1.0, 2.5])
def test_the_fitted_temperature_undoes_a_distortion(distortion: float) -> None:
    probabilities, labels = calibrated_rows()
    distorted = apply_temperature(probabilities, 1 / distortion)
    temperature = fit_temperature(distorted, labels, CLASSES)
    assert temperature == pytest.approx(distortion, rel=0.1)
    before = score(distorted, labels, CLASSES)["ece"]
    after = score(apply_temperature(distorted, temperature), labels, CLASSES)["ece"]
    assert after < 0.03
    assert after <= before + 0.005


@given(st.floats(0.1, 10), st.lists(st.floats(0, 1), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None)
def test_scaling_keeps_distributions_zeros_and_the_order(
    temperature: float, values: list[float]
) -> None:
    total = sum(values)
    row = np.array([values]) / total if total > 1e-3 else np.array([[1.0, 0, 0]])
    scaled = apply_temperature(row, temperature)
    assert scaled.sum() == pytest.approx(1)
    assert ((scaled == 0) >= (row == 0)).all()
    order = np.argsort(row[0], kind="stable")
    assert (np.diff(scaled[0][order]) >= -1e-12).all()


def test_few_rows_that_are_all_right_do_not_make_a_model_certain() -> None:
    probabilities = np.tile([0.9, 0.05, 0.05], (10, 1))
    temperature = fit_temperature(probabilities, ["a"] * 10, CLASSES)
    assert apply_temperature(probabilities, temperature).max() < 0.95


def test_a_class_without_training_rows_is_possible() -> None:
    probabilities = np.array([[0.7, 0.3, 0.0]] * 8)
    assert 0.1 <= fit_temperature(probabilities, ["a"] * 6 + ["c"] * 2, CLASSES) <= 10
