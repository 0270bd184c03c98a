"""Training targets: formulas on rows calculated by hand, and properties of all rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt3mix_cli.records import Augmented, Example
from gpt3mix_cli.settings import LinearSettings, SoftLabelTraining, TransformerSettings
from gpt3mix_cli.train.targets import UntrainableError, assign_targets, to_one_hot

CLASSES = ["a", "b", "c"]


def soft(*values: float) -> Augmented:
    probs = dict(zip(CLASSES, values, strict=True))
    return Augmented(
        id="s",
        text="generated",
        label=max(probs, key=probs.__getitem__),
        probs=probs,
        method="gpt3mix",
        label_mass=0.5,
    )


REAL = [Example(id=f"r{name}", text=f"text {name}", label=name) for name in CLASSES]
SYNTHETIC = [soft(0.6, 0.3, 0.1), soft(0.2, 0.2, 0.6)]


def targets(
    settings: SoftLabelTraining, real: list[Example] = REAL, synthetic: list[Augmented] = SYNTHETIC
) -> list[list[float]]:
    return [
        [row.probs[name] for name in CLASSES]
        for row in assign_targets(settings, real, synthetic, CLASSES)
    ]


# By hand: the classes' masses in the five rows are a 1.8, b 1.5, c 1.7, so balanced weights are
# 5/(3 x 1.8), 5/(3 x 1.5), 5/(3 x 1.7).
A, B, C = 5 / 5.4, 5 / 4.5, 5 / 5.1
WORKED = {
    "as they are": ({}, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]),
    "hard": ({"hard_labels": True}, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]]),
    "smoothed": (
        {"label_smoothing": 0.3},
        [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.52, 0.31, 0.17], [0.24, 0.24, 0.52]],
    ),
    "hard and smoothed": (
        {"hard_labels": True, "label_smoothing": 0.3},
        [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]],
    ),
    "synthetic rows count less": (
        {"synthetic_weight": 0.5},
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.3, 0.15, 0.05], [0.1, 0.1, 0.3]],
    ),
    "weights by class": (
        {"class_weights": {"a": 2, "c": 0.5}},
        [[2, 0, 0], [0, 1, 0], [0, 0, 0.5], [1.2, 0.3, 0.05], [0.4, 0.2, 0.3]],
    ),
    "balanced": (
        {"class_weights": "balanced"},
        [[A, 0, 0], [0, B, 0], [0, 0, C], [0.6 * A, 0.3 * B, 0.1 * C], [0.2 * A, 0.2 * B, 0.6 * C]],
    ),
    "all at once": (
        {
            "hard_labels": True,
            "label_smoothing": 0.3,
            "synthetic_weight": 3,
            "class_weights": {"b": 10},
        },
        [[0.8, 1, 0.1], [0.1, 8, 0.1], [0.1, 1, 0.8], [2.4, 3, 0.3], [0.3, 3, 2.4]],
    ),
}


@pytest.mark.parametrize(("options", "expected"), WORKED.values(), ids=WORKED.keys())
def test_targets_are_as_calculated_by_hand(
    options: dict[str, object], expected: list[list[float]]
) -> None:
    assert targets(SoftLabelTraining.model_validate(options)) == [
        pytest.approx(row) for row in expected
    ]


def test_balanced_weights_include_smoothing_but_not_the_weight_of_synthetic_rows() -> None:
    both = {"class_weights": "balanced", "label_smoothing": 0.3}
    plain, weighted = (
        targets(SoftLabelTraining.model_validate(both)),
        targets(SoftLabelTraining.model_validate({**both, "synthetic_weight": 2})),
    )
    # Smoothed by 0.3 the masses are 0.7 x 1.8 + 0.5 and so on.
    weights = [5 / (3 * (0.7 * mass + 0.5)) for mass in (1.8, 1.5, 1.7)]
    assert plain[0] == pytest.approx([0.8 * weights[0], 0.1 * weights[1], 0.1 * weights[2]])
    assert weighted[:3] == plain[:3]
    assert weighted[3:] == [pytest.approx([2 * target for target in row]) for row in plain[3:]]


def test_a_mapping_of_ones_changes_nothing() -> None:
    assert targets(SoftLabelTraining(class_weights={"a": 1.0})) == targets(SoftLabelTraining())


def test_balanced_weights_of_balanced_classes_are_one() -> None:
    assert targets(SoftLabelTraining(class_weights="balanced"), synthetic=[]) == [
        pytest.approx(row) for row in targets(SoftLabelTraining(), synthetic=[])
    ]


def test_only_the_distribution_of_a_row_changes() -> None:
    settings = SoftLabelTraining(
        hard_labels=True, synthetic_weight=2, class_weights="balanced", label_smoothing=0.1
    )
    before, after = (
        assign_targets(SoftLabelTraining(), REAL, SYNTHETIC, CLASSES),
        assign_targets(settings, REAL, SYNTHETIC, CLASSES),
    )
    assert [row.model_dump(exclude={"probs"}) for row in after] == [
        row.model_dump(exclude={"probs"}) for row in before
    ]
    assert [row.id for row in after] == ["ra", "rb", "rc", "s", "s"]
    assert [row.probs["a"] for row in SYNTHETIC] == [
        0.6,
        0.2,
    ]  # the input is unchanged


@pytest.mark.parametrize(
    "settings",
    [
        SoftLabelTraining(),
        SoftLabelTraining(class_weights="balanced"),
        SoftLabelTraining(label_smoothing=0.5),
    ],
)
@pytest.mark.parametrize("missing", CLASSES)
def test_a_class_without_a_row_is_named(settings: SoftLabelTraining, missing: str) -> None:
    # Probability mass in soft labels does not count as a row of the class.
    rows = [row for row in REAL if row.label != missing]
    with pytest.raises(UntrainableError, match=f"'{missing}'.*task.labels"):
        assign_targets(
            settings, rows, [soft(*(0.4 if name != missing else 0.2 for name in CLASSES))], CLASSES
        )


def test_a_class_may_have_synthetic_rows_only() -> None:
    assert len(targets(SoftLabelTraining(), real=REAL[:2])) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"hard_labels": True},
        {"synthetic_weight": 2},
        {"class_weights": "balanced"},
        {"class_weights": {"a": 2}},
        {"label_smoothing": 0.1},
    ],
)
def test_every_option_makes_the_settings_weighted(options: dict[str, object]) -> None:
    assert SoftLabelTraining.model_validate(options).weighted
    assert not SoftLabelTraining().weighted


@pytest.mark.parametrize(
    "options",
    [
        {"synthetic_weight": -0.5},
        {"class_weights": {"a": 0}},
        {"class_weights": "even"},
        {"label_smoothing": 1},
        {"label_smoothing": -0.1},
    ],
)
@pytest.mark.parametrize("kind", [LinearSettings, TransformerSettings])
def test_meaningless_weights_are_refused(
    kind: type[LinearSettings | TransformerSettings], options: dict[str, object]
) -> None:
    (key,) = options
    with pytest.raises(ValueError, match=key):
        kind.model_validate({"kind": kind.__name__.removesuffix("Settings").lower(), **options})


# Properties of all rows --------------------------------------------------------------------------

SOFT_ROWS = st.lists(st.floats(0.001, 1), min_size=3, max_size=3).map(
    lambda parts: soft(*(part / sum(parts) for part in parts))
)
REALS = st.lists(st.sampled_from(CLASSES), max_size=12).map(
    lambda names: [*REAL, *(Example(id="r", text="more", label=name) for name in names)]
)
SYNTHETICS = st.lists(SOFT_ROWS, max_size=12)
WEIGHTS = st.floats(0.01, 100)
SMOOTHING = st.floats(0, 0.99)


@given(REALS, SYNTHETICS)
def test_by_default_targets_are_the_distributions(
    real: list[Example], synthetic: list[Augmented]
) -> None:
    assert assign_targets(SoftLabelTraining(), real, synthetic, CLASSES) == [
        *(to_one_hot(row, CLASSES) for row in real),
        *synthetic,
    ]


@given(REALS, SYNTHETICS, SMOOTHING, st.booleans(), WEIGHTS)
def test_a_rows_targets_sum_to_its_weight(
    real: list[Example], synthetic: list[Augmented], smoothing: float, hard: bool, weight: float
) -> None:
    weighted = targets(
        SoftLabelTraining(label_smoothing=smoothing, hard_labels=hard, synthetic_weight=weight),
        real,
        synthetic,
    )
    assert [sum(row) for row in weighted] == pytest.approx(
        [1.0] * len(real) + [weight] * len(synthetic)
    )


@given(REALS, SYNTHETICS, SMOOTHING, st.booleans())
def test_balanced_weights_are_one_on_average_and_give_each_class_the_same_total(
    real: list[Example], synthetic: list[Augmented], smoothing: float, hard: bool
) -> None:
    weighted = targets(
        SoftLabelTraining(label_smoothing=smoothing, hard_labels=hard, class_weights="balanced"),
        real,
        synthetic,
    )
    assert sum(map(sum, weighted)) / len(weighted) == pytest.approx(1)
    assert [sum(column) for column in zip(*weighted, strict=True)] == pytest.approx(
        [len(weighted) / 3] * 3
    )


@given(REALS, SYNTHETICS, SMOOTHING)
def test_smoothing_keeps_the_best_class_and_bounds_every_target(
    real: list[Example], synthetic: list[Augmented], smoothing: float
) -> None:
    for row in targets(
        SoftLabelTraining(label_smoothing=smoothing, hard_labels=True), real, synthetic
    ):
        assert min(row) == pytest.approx(smoothing / 3)
        assert max(row) == pytest.approx(1 - smoothing * 2 / 3)


@given(REALS, SYNTHETICS, st.dictionaries(st.sampled_from(CLASSES), WEIGHTS), WEIGHTS)
def test_class_and_row_weights_multiply(
    real: list[Example], synthetic: list[Augmented], weights: dict[str, float], weight: float
) -> None:
    plain, weighted = (
        targets(SoftLabelTraining(), real, synthetic),
        targets(SoftLabelTraining(class_weights=weights, synthetic_weight=weight), real, synthetic),
    )
    row_weights = [1.0] * len(real) + [weight] * len(synthetic)
    for before, after, row_weight in zip(plain, weighted, row_weights, strict=True):
        assert after == pytest.approx(
            [
                target * weights.get(name, 1) * row_weight
                for name, target in zip(CLASSES, before, strict=True)
            ]
        )


@given(SYNTHETICS)
def test_only_class_weights_change_real_rows(synthetic: list[Augmented]) -> None:
    weighted = targets(
        SoftLabelTraining(synthetic_weight=7, class_weights={"b": 3}), REAL, synthetic
    )
    assert weighted[:3] == [[1, 0, 0], [0, 3, 0], [0, 0, 1]]
