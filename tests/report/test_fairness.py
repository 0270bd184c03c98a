"""Methods are compared only on the same subsample; missing synthetic rows are counted."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import trials_frame

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.records import Trial
from gpt3mix_cli.report import load_trials, remarks


def refuse_unfair(trials: Sequence[Trial]) -> None:
    load_trials.refuse_unfair(trials_frame(trials, Path()))


def shortages(trials: Sequence[Trial]) -> list[str]:
    return list(remarks.find_shortages(trials_frame(trials, Path())))


def trial(method: str = "none", sha: str | None = "a", seed: int = 0, **fields: Any) -> Trial:
    common = {
        "task": "sst2",
        "level": "1%",
        "classifier": "linear",
        "trial": seed,
        "seed": 1,
        "n_train": 70,
        "n_synthetic": 0,
        "n_test": 10,
    }
    return Trial(
        **{
            **common,
            "method": method,
            "train_sha": sha,
            "data_seed": seed,
            "accuracy": 0.5,
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"method": "eda"}),
        ({}, {"classifier": "minilm"}),
        ({"method": "eda", "variant": {"k": 1}}, {"method": "gpt3mix", "variant": {"k": 1}}),
    ],
)
def test_methods_with_different_subsamples_are_refused(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    with pytest.raises(UserError) as caught:
        refuse_unfair(
            [
                trial(**first),
                trial(seed=1, **first),
                trial(**{"sha": "b", **second}),
                trial(seed=1, **second),
            ]
        )
    assert "sst2 1%, data seed 0" in caught.value.message
    assert re.search(r"train_sha a; b\)", caught.value.message)
    assert "gpt3mix run" in caught.value.hint
    refuse_unfair(
        [trial(**first), trial(seed=1, **first), trial(**second), trial(seed=1, **second)]
    )


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1}, {"level": "2%"}, {"task": "cr"},  # other cells
        {"variant": {"subsample.master_seed": 1}},
        {"status": "failed", "accuracy": None},  # nothing to compare
    ],
    ids=str,
)  # fmt: skip
def test_other_cells_and_failed_trials_may_differ(other: dict[str, Any]) -> None:
    refuse_unfair([trial(), trial(**{"method": "eda", "sha": "b", **other})])


def test_rows_without_a_hash_are_not_checked() -> None:
    refuse_unfair([trial(), trial("eda", None), trial("gpt3mix")])


def test_runs_are_pooled_if_every_method_has_trials_of_each() -> None:
    pooled = [trial(method, sha) for sha in "ab" for method in ("none", "eda")]
    refuse_unfair(pooled)
    with pytest.raises(
        UserError,
        match=re.escape(
            "none + linear and eda + linear started from different subsamples (train_sha a, b; a)"
        ),
    ):
        refuse_unfair(pooled[:3])


@settings(deadline=None)  # pandas on a busy machine
@given(
    st.lists(
        st.tuples(st.sampled_from("xyz"), st.integers(0, 2), st.sampled_from("ab")), max_size=12
    ),
    st.randoms(),
)
def test_the_order_of_the_trials_does_not_matter(
    rows: list[tuple[str, int, str]], random: Any
) -> None:
    """Refused is what has two methods whose sets of subsamples differ on a seed."""
    trials = [trial(method, sha, seed) for method, seed, sha in rows]
    random.shuffle(trials)
    subsamples = {
        seed: {
            method: {s for m, d, s in rows if (m, d) == (method, seed)}
            for method, d, _ in rows
            if d == seed
        }
        for _, seed, _ in rows
    }
    unfair = any(
        first != second
        for methods in subsamples.values()
        for first in methods.values()
        for second in methods.values()
    )
    if unfair:
        with pytest.raises(UserError):
            refuse_unfair(trials)
    else:
        refuse_unfair(trials)


def test_the_largest_shortage_is_reported() -> None:
    rows = [trial("eda", seed=seed, n_synthetic=700) for seed in range(3)]
    rows += [trial("gpt3mix", seed=seed, n_synthetic=n) for seed, n in enumerate((700, 640, 630))]
    rows += [trial("gpt3mix", seed=0, n_synthetic=0, status="failed", accuracy=None), trial()]
    assert (shortages(rows)) == [
        "sst2 1% gpt3mix + linear: 630 synthetic rows on data seed 2, 70 short of 700; "
        "also on 1 more"
    ]
    assert (shortages([*rows[:3], rows[4]])) == [
        "sst2 1% gpt3mix + linear: 640 synthetic rows on data seed 1, 60 short of 700"
    ]
    assert (shortages(rows[:3])) == []


def test_a_method_without_rows_is_short_of_all() -> None:
    """No augmentation is not short of anything."""
    assert (shortages([trial(), trial("eda", n_synthetic=70), trial("gpt3mix")])) == [
        "sst2 1% gpt3mix + linear: 0 synthetic rows on data seed 0, 70 short of 70"
    ]


def test_variants_with_other_ratios_are_not_short() -> None:
    assert (
        list(
            shortages(
                [trial("eda", n_synthetic=70 * k, variant={"augment.ratio": k}) for k in (1, 2)]
            )
        )
        == []
    )
