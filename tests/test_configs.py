"""Every YAML file that we ship loads, and says at its top what it shows and how to run it."""

import re
from pathlib import Path

import pytest
import yaml

from gpt3mix_cli.config import load_experiments, load_specs
from gpt3mix_cli.lm.openai.budget import load_price

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(
    path.relative_to(ROOT)
    for folder in ("configs", "results")
    for path in (ROOT / folder).rglob("*.yaml")
)
TASKS = [path for path in SHIPPED if "tasks" in path.parts]
EXAMPLES = Path("configs/examples")  # a reader saves them under their names
OTHERS = [EXAMPLES / name for name in ("prices.yaml", "specs.yaml", "ticket-task.yaml")]
EXPERIMENTS = [path for path in SHIPPED if path not in [*TASKS, *OTHERS]]


def heading(path: Path) -> str:
    """Return the comment at the top of a file."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(lines[:end])


def test_there_are_experiments_and_tasks() -> None:
    assert {"configs/demo.yaml", "configs/tasks/sst2.yaml"} <= {path.as_posix() for path in SHIPPED}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=str)
def test_an_experiment_loads_and_opens_with_its_command(path: Path) -> None:
    experiments = load_experiments(ROOT / path)
    only_augments = "gpt3mix augment" in heading(path)
    assert all(experiment.classifiers or only_augments for experiment in experiments)
    commands = re.findall(r"gpt3mix \w+ (\S+\.yaml)", heading(path))
    name = path.name if path.parent == EXAMPLES else path.as_posix()
    assert name in commands
    assert len(heading(path)) > len(f"# gpt3mix run {name}") + 20  # and what it shows


@pytest.mark.parametrize("path", TASKS, ids=str)
def test_a_task_file_loads_in_an_experiment_and_opens_with_its_use(
    path: Path, tmp_path: Path
) -> None:
    assert f"task: {path.stem}`" in heading(path)
    (tmp_path / "tasks").symlink_to((ROOT / path).parent)
    (tmp_path / "wrapper.yaml").write_text(
        f"task: tasks/{path.name}\nsubsample: {{levels: [1%]}}\n"
    )
    (experiment,) = load_experiments(tmp_path / "wrapper.yaml")
    raw = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    assert experiment.task.name == path.stem
    assert experiment.task.classes == [str(name) for name in raw["labels"]]
    values = getattr(experiment.task.data, "values", {})
    assert not values or set(values.values()) == set(experiment.task.classes)
    for name in ("text_type", "label_type"):
        assert raw[name] == getattr(experiment.task, name)


def test_the_examples_of_prices_and_of_specifications_load() -> None:
    prices, specifications, _ = (ROOT / path for path in OTHERS)
    assert load_price("some-base-model", str(prices))[1] == "2026-01-31"
    (experiment, *_) = load_experiments(ROOT / EXAMPLES / "all.yaml")
    assert len(list(load_specs(specifications, experiment.task))) == 3


def test_the_example_of_a_task_file_is_one_of_several_tasks(tmp_path: Path) -> None:
    folder, path = ROOT / EXAMPLES, tmp_path / "x.yaml"
    path.write_text(f"tasks: [{folder}/ticket-task.yaml, sst2]\nsubsample: {{levels: [1%]}}\n")
    task, other = (experiment.task for experiment in load_experiments(path))
    assert (task.name, other.name) == ("ticket-task", "sst2")
    assert str(task.data.model_dump()["train"]) == str(folder / "tickets-train.csv")
