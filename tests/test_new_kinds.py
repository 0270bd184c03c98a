"""A new method and a new classifier are one settings class, one module and one `case` each.

The test adds one of each to a copy of the package and runs an experiment with both.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gpt3mix_cli

PACKAGE = Path(gpt3mix_cli.__file__).parent

METHOD_SETTINGS = '''
class ShoutSettings(EditingMethod):
    """Texts in capitals."""

    kind: Literal["shout"]
    title: ClassVar = "Shouting"
    name: FileStem = Field("shout", description="of the method")


'''
METHOD_CASE = """\
        case ShoutSettings():
            from .shout import Shout

            return Shout(settings, task)
"""
METHOD_MODULE = '''
"""Texts in capitals."""

from .protocol import TextEditor


class Shout(TextEditor):
    """The method."""

    def __init__(self, settings, task):
        self.about = {"method": settings.name, "kind": "shout", "classes": task.classes}

    def edit_texts(self, examples, first, count, seed):
        for attempt in range(first, first + count):
            yield examples[attempt % len(examples)].text.upper()
'''
CLASSIFIER_SETTINGS = '''
class FirstClassSettings(SoftLabelTraining):
    """Always the first class."""

    kind: Literal["first"]
    name: FileStem = Field("first", description="of the classifier in results")


'''
CLASSIFIER_CASE = """\
        case FirstClassSettings():
            from .first import FirstClass

            return FirstClass(settings, classes)
"""
CLASSIFIER_MODULE = '''
"""Always the first class."""

import numpy as np

from .protocol import Classifier, FitResult, ignore_epoch


class FirstClass(Classifier):
    """The classifier."""

    def __init__(self, settings, classes):
        self.about, self.num_classes = {"kind": "first"}, len(classes)

    def fit(self, train, validation, seed, on_epoch=ignore_epoch):
        return FitResult(0.5)

    def predict_proba(self, texts):
        return np.tile(np.eye(self.num_classes)[0], (len(texts), 1))

    def probe(self):
        pass
'''
CONFIG = """\
name: new
task: {data: {kind: demo}, labels: [pos, neg]}
subsample: {levels: [4/class], seeds: 1, validation: 20}
baselines: [{kind: shout}]
classifiers: [{kind: first}, {kind: linear}]
trials: 1
"""


def edit(path: Path, before: str, text: str) -> None:
    """Insert text before a line that is there once."""
    content = path.read_text(encoding="utf-8")
    assert content.count(before) == 1, before
    path.write_text(content.replace(before, text + before), encoding="utf-8")


def add_case(path: Path, opener: str, settings: str, case: str) -> None:
    """Add a case to the `match` of an opener, and the import that it needs."""
    head, body = path.read_text(encoding="utf-8").split(f"def {opener}(")
    body = body.replace("        case _:\n", f"{case}        case _:\n", 1)
    path.write_text(f"{head}def {opener}({body}", encoding="utf-8")
    edit(
        path,
        "from ..settings import (\n",
        f"from ..settings.{path.parent.name} import {settings}\n",
    )


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a copy of the package with a new method and a new classifier."""
    root = tmp_path_factory.mktemp("extended")
    package = root / "gpt3mix_cli"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    settings, augment, train = (package / name for name in ("settings", "augment", "train"))
    # One settings class each, in the union of its kinds.
    edit(settings / "augment.py", "EditorSettings = ", METHOD_SETTINGS)
    edit(settings / "augment.py", "EdaSettings | AedaSettings", "ShoutSettings | ")
    edit(settings / "train.py", "TrainableSettings = ", CLASSIFIER_SETTINGS)
    edit(settings / "train.py", "TransformerSettings | LinearSettings", "FirstClassSettings | ")
    # One module each.
    (augment / "shout.py").write_text(METHOD_MODULE)
    (train / "first.py").write_text(CLASSIFIER_MODULE)
    # One case each.
    add_case(augment / "protocol.py", "open_augmenter", "ShoutSettings", METHOD_CASE)
    add_case(train / "protocol.py", "open_classifier", "FirstClassSettings", CLASSIFIER_CASE)
    (root / "new.yaml").write_text(CONFIG)
    return root


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the extended package."""
    code = "import sys; from gpt3mix_cli.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        # The copy is compiled once, not by every command.
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_new_method_and_a_new_classifier_run_in_every_command(extended: Path) -> None:
    for arguments in (["check", "new.yaml"], ["plan", "new.yaml"], ["run", "new.yaml"]):
        done = command(extended, *arguments)
        assert done.returncode == 0, done.stderr
    cell = extended / "results/new/4-per-class/seed-0"
    rows = [json.loads(line) for line in (cell / "shout.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert all(row["text"].isupper() and row["method"] == "shout" for row in rows)
    trials = sorted(path.name for path in (cell / "trials").glob("*.jsonl"))
    assert [name for name in trials if "history" not in name] == [
        "none.first.jsonl",
        "none.linear.jsonl",
        "shout.first.jsonl",
        "shout.linear.jsonl",
    ]
    (trial,) = (cell / "trials/shout.first.jsonl").read_text().splitlines()
    assert json.loads(trial)["predicted_classes"] == 1


def test_a_card_has_the_title_of_a_new_method(extended: Path) -> None:
    assert command(extended, "subsample", "new.yaml").returncode == 0
    done = command(extended, "baseline", "new.yaml", "--method", "shout", "--card", "--show", "1")
    assert done.returncode == 0, done.stderr
    assert "Shouting" in done.stdout
    (card,) = (extended / "results").rglob("*.card.md")
    assert "synthetic rows of Shouting" in card.read_text()
