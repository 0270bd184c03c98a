"""Named generators, fingerprints, and frozen settings."""

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.settings import (
    LEVEL_PATTERN,
    AugmentSettings,
    EdaSettings,
    SubsampleSettings,
    Task,
    derived_seed,
    fingerprint,
    generator,
)

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import random
from gpt3mix_cli.settings import derived_seed, fingerprint, generator
random.seed(len({'a', 'b', 'c'}))
print([derived_seed(42, 'subsample', 0, 'pos'), derived_seed(0, 'übung'),
       fingerprint({'b': {'y', }, 'a': [1, 2.5, None]}),
       generator(0, 'trial', 3).sample(range(1000), 5), generator(42, 'x').random()])
"""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
few = settings(max_examples=60, deadline=None, database=None, derandomize=True)


def test_generators_depend_only_on_their_arguments() -> None:
    """Every process draws the same, whatever its hash seed and its global generator's state."""
    outputs = set()
    for hash_seed in ("0", "1", "31337"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        outputs.add(result.stdout)
    assert len(outputs) == 1
    here = [
        derived_seed(42, "subsample", 0, "pos"),
        derived_seed(0, "übung"),
        fingerprint({"b": {"y"}, "a": [1, 2.5, None]}),
        generator(0, "trial", 3).sample(range(1000), 5),
        generator(42, "x").random(),
    ]
    assert ast.literal_eval(outputs.pop()) == here


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ((42, "subsample", 0, "pos"), 9034456016151750746),
        ((0, "trial", 1), 3930182858940695804),
        ((0, ""), 3280257209351999013),
    ],
)
def test_derived_seeds_have_not_changed(name: tuple, seed: int) -> None:
    """A changed derivation would silently change every published draw."""
    assert derived_seed(*name) == seed


def test_every_argument_changes_the_stream() -> None:
    names = [
        (0, "a"),
        (0, "b"),
        (1, "a"),
        (0, "a", 0),
        (0, "a", 1),
        (0, "a", "0"),
        (0, "a", 0, 0),
        (0, "a0"),
        (0, "a", ""),
        (10, "a"),
        (1, "0a"),
        (0, "A"),
    ]
    assert len({derived_seed(*name) for name in names}) == len(names)
    assert len({tuple(generator(*name).choices(range(2**32), k=3)) for name in names}) == len(names)


def test_seed_0_is_valid() -> None:
    """Index 0 always gives the same stream, which is not the stream without an index."""
    assert generator(0, "a", 0).random() == generator(0, "a", 0).random()
    assert generator(0, "a", 0).random() != generator(0, "a").random()
    assert SubsampleSettings(levels=["full"], seeds=[0], master_seed=0).master_seed == 0


def test_two_generators_of_the_same_arguments_have_separate_states() -> None:
    first, second = generator(0, "a"), generator(0, "a")
    assert [first.random(), first.random()] == [second.random(), second.random()]


@few
@given(st.integers(), st.text(), st.lists(st.integers() | st.text(), max_size=3))
def test_a_seed_fits_63_bits(master: int, purpose: str, index: list) -> None:
    assert 0 <= derived_seed(master, purpose, *index) < 2**63


@few
@given(JSON)
def test_a_fingerprint_ignores_the_order_of_keys(value: object) -> None:
    def turned(part: object) -> object:
        if isinstance(part, dict):
            return {key: turned(part[key]) for key in reversed(part)}
        return [turned(item) for item in part] if isinstance(part, list) else part

    assert fingerprint(turned(value)) == fingerprint(value)


def test_a_fingerprint_depends_on_every_value_and_the_order_of_lists() -> None:
    values = [
        {"a": 1},
        {"a": 2},
        {"a": "1"},
        {"a": None},
        {"b": 1},
        {"a": [1, 2]},
        {"a": [2, 1]},
        {"a": {"b": 1}},
        {},
        [],
        "",
        "\ud800",
    ]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert len(fingerprint("x")) == 16
    assert len(fingerprint("x", 40)) == 40


@pytest.mark.parametrize(
    "level", ["0.1%", ".5%", "1%", "100%", "33.3%", "1/class", "128/class", "full"]
)
def test_valid_levels(level: str) -> None:
    assert SubsampleSettings(levels=[level]).levels == [level]
    assert LEVEL_PATTERN.fullmatch(level)


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ("0%", "'0%' is not above 0 % and at most 100 %"),
        ("100.1%", "'100.1%' is not above 0 % and at most 100 %"),
        ("0/class", "'0/class': at least one row per class is needed"),
        ("-1%", "'-1%' is not a level; write `0.1%`, `8/class` or `full`"),
        ("0.1", "'0.1' is not a level"),
        ("8", "'8' is not a level"),
        ("8 /class", "'8 /class' is not a level"),
        ("Full", "'Full' is not a level"),
        ("", "'' is not a level"),
        ("1%\n", "is not a level"),
    ],
)
def test_invalid_levels(level: str, message: str) -> None:
    with pytest.raises(pydantic.ValidationError) as error:
        SubsampleSettings(levels=[level])
    assert message in str(error.value)


def test_a_count_of_seeds_starts_at_0_and_a_list_stays() -> None:
    assert SubsampleSettings(levels=["full"], seeds=3).seeds == [0, 1, 2]
    assert SubsampleSettings(levels=["full"], seeds=[7, 0]).seeds == [7, 0]


def test_settings_are_frozen() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        AugmentSettings().k = 3


def test_a_list_of_labels_keeps_its_order_and_is_the_identity() -> None:
    task = Task(data={"kind": "demo"}, labels=["z", "a", "m"])
    assert task.classes == ["z", "a", "m"]
    assert task.labels == {"z": "z", "a": "a", "m": "m"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"], "at least two classes are needed"),
        ([], "at least two classes are needed"),
        (["a", "b", "a"], "duplicate class: a"),
        ({"a": "yes", "b": "Yes"}, "two classes share a label token (ignoring case)"),
        ({"a": "x", "b": " "}, "must be non-empty and on one line"),
        ({"a": "x", " ": "y"}, "must be non-empty and on one line"),
        ({"a": "x", "b": "y\nz"}, "must be non-empty and on one line"),
    ],
)
def test_ambiguous_labels_are_refused(labels: object, message: str) -> None:
    with pytest.raises(pydantic.ValidationError) as error:
        Task(data={"kind": "demo"}, labels=labels)
    assert message in str(error.value)


FIELDS = {
    (model.__name__, name): field
    for model in runpy.run_path(str(ROOT / "scripts/docs"))["settings_models"]()
    for name, field in model.model_fields.items()
    if re.search(r"\b(int|float)\b", str(field.annotation))
}


@pytest.mark.parametrize(("model", "name"), sorted(FIELDS))
def test_every_number_has_an_upper_bound(model: str, name: str) -> None:
    """Without one, a number can ask for more memory or time than there is."""
    field = FIELDS[model, name]
    adapter = pydantic.TypeAdapter(Annotated[field.annotation, "a field", *field.metadata])
    for number in (10**31, 1e300, float("inf"), float("nan")):
        for value in (number, [1, number], {"pos": number}):
            with pytest.raises(pydantic.ValidationError):
                adapter.validate_python(value)


@pytest.mark.parametrize(
    "values",
    [
        {"seeds": 1_000_000_000},
        {"seeds": [10**30]},
        {"levels": ["9" * 5_000 + "/class"]},
        {"levels": [f"0.{'0' * 5_000}1%"]},
        {"levels": ["٨/class"]},
        {"validation": "9" * 5_000 + "/class"},
        {"validation": 10**30},
        {"master_seed": 10**30},
    ],
)
def test_numbers_that_nobody_means_are_refused_at_once(values: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError) as error:
        SubsampleSettings.model_validate({"levels": ["full"]} | values)
    assert error.value.errors()[0]["loc"][0] == next(iter(values))


@pytest.mark.parametrize("temperature", [1e-300, 1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("key", ["temperature", "label_temperature"])
def test_a_temperature_is_a_sound_divisor(key: str, temperature: float) -> None:
    with pytest.raises(pydantic.ValidationError):
        AugmentSettings.model_validate({key: temperature})


@pytest.mark.parametrize("name", ["a" * 81, "../eda", "a/b", "", ".", "a.b", "eda\n"])
def test_a_method_is_part_of_a_file_name(name: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        EdaSettings(kind="eda", name=name)


def test_license_and_citation_of_the_data_are_in_no_fingerprint() -> None:
    """They are for cards: whoever adds them repeats no training."""
    keys = {"data": {"kind": "demo"}, "labels": ["pos", "neg"]}
    cited = Task.model_validate({**keys, "about": {"license": "cc0-1.0", "citation": "@misc{a}"}})
    assert (cited.about.license, cited.about.citation) == ("cc0-1.0", "@misc{a}")
    assert cited.model_dump() == Task.model_validate(keys).model_dump()
