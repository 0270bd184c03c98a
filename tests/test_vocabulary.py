"""The vocabulary check finds retired names, keys and words, and nothing else."""

import runpy
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "check_vocabulary"))


def used(name: str, text: str) -> list[tuple[int, str]]:
    return [(line, old) for line, old, _ in SCRIPT["check"](name, text)]


@pytest.mark.parametrize(
    ("text", "old"),
    [
        ("class Spot:\n    pass\n", "Spot"),
        ("from grid import Opened\n", "Opened"),
        ("import gpt3mix_cli.opening\n", "opening"),
        ("def sweep(seam):\n    pass\n", "seam"),
        ("sweep(seam=1)\n", "seam"),
        ("row.told_apart\n", "told_apart"),
    ],
)
def test_retired_names_of_code_are_found(text: str, old: str) -> None:
    assert old in {name for _, name in used("gpt3mix_cli/module.py", text)}


@pytest.mark.parametrize(
    ("name", "text", "old"),
    [
        ("gpt3mix_cli/module.py", '"""What the user is told."""\n', "told"),
        ("gpt3mix_cli/module.py", "x = 1  # beside the rows\n", "beside"),
        ("gpt3mix_cli/module.py", 'print("it stands in a.yaml")\n', "stands"),
        ("tests/test_module.py", "x = 1  # beside the rows\n", "beside"),
        ("tests/test_module.py", "def test_it_is_told() -> None:\n    pass\n", "told"),
        ("README.md", "\nRows are dealt in turn.\n", "dealt"),
        ("README.md", "`augment.gate` and `augment.draws`\n", "augment.gate"),
        ("configs/demo.yaml", "augment: {draws: per-trial}\n", "draws"),
    ],
)
def test_retired_words_and_keys_are_found(name: str, text: str, old: str) -> None:
    assert old in {word for _, word in used(name, text)}


def test_lines_are_those_of_the_file() -> None:
    assert used("README.md", "one\ntwo\nthree is told\n") == [(3, "told")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gpt3mix_cli/module.py", "class Cell:\n    gateway = 1\n    spotted = 2\n"),
        ("tests/test_module.py", 'TEXT = "she told him"\n'),
        ("README.md", "The filter withstands a toolbox.\n"),
        ("configs/demo.yaml", "augment: {synthetic_sets: per-trial}\n"),
    ],
)
def test_other_text_is_accepted(name: str, text: str) -> None:
    assert not used(name, text)


def test_replacements_are_not_retired_themselves() -> None:
    assert not set(SCRIPT["NAMES"]) & set(SCRIPT["NAMES"].values())
