"""configs/paper: each plans the trainings and generations that the paper's text asks for."""

import csv
from pathlib import Path

import pytest

from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.grid.plan import plan
from gpt3mix_cli.settings import Experiment, FilesData

FOLDER = Path(__file__).parents[2] / "configs" / "paper"
TRAIN_ROWS = {"sst2": 6920, "cola": 8551, "trec6": 5452, "cr": 3012, "subj": 8000, "mpqa": 8603}
WITH_VALIDATION = {"sst2"}  # of the others validation rows are taken from train
# Rows of the three levels together: max(1, round(N r / C)) of each of C classes, where N is the
# published number of training rows.
SST2 = 2 * (3 + 10 + 35)
COLA = 2 * (4 + 13 + 43)
OTHERS = 6 * (1 + 3 + 9) + 2 * (2 + 5 + 15) + 2 * (4 + 12 + 40) + 2 * (4 + 13 + 43)
SETS = 10  # one for each trial
TRIALS = 3 * 10  # of a method and classifier, on three levels


def on_files(experiment: Experiment, folder: Path) -> Experiment:
    """Return an experiment on files with as many training rows as the hub's data."""
    paths, task = {}, experiment.task
    sizes = {"train": TRAIN_ROWS[task.name], "test": 20}
    if task.name in WITH_VALIDATION:
        sizes["validation"] = 20
    for split, size in sizes.items():
        paths[split] = folder / f"{task.name}-{split}.csv"
        with paths[split].open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label"])
            labels = task.classes
            writer.writerows(
                [f"{split} {task.name} {number}", labels[number % len(labels)]]
                for number in range(size)
            )
    data = FilesData(kind="files", **paths)
    result = experiment.model_copy(update={"task": task.model_copy(update={"data": data})})
    result._variant.update(experiment.variant)
    return result


def planned(name: str, folder: Path, *overrides: str) -> Grid:
    experiments = load_experiments(FOLDER / name, overrides)
    return Grid([on_files(item, folder) for item in experiments], folder / "results", jobs=1)


@pytest.mark.parametrize(
    ("name", "trainings", "generations"),
    [
        # Six tasks, four methods, two classifiers; ratio 1.
        pytest.param(
            "table1.yaml",
            6 * 4 * 2 * TRIALS,
            (SST2 + COLA + OTHERS) * SETS,
            marks=pytest.mark.slow,
        ),
        # No augmentation and GPT3Mix for each value of the sweep.
        ("table2.yaml", 4 * 2 * TRIALS, 4 * 10 * SST2 * SETS),
        ("table3.yaml", 4 * 2 * TRIALS, 4 * 5 * SST2 * SETS),
        ("table4.yaml", 0, 70),
        ("table5.yaml", 2 * 2 * TRIALS, 2 * 5 * SST2 * SETS),
        ("table6.yaml", 2 * 2 * 2 * TRIALS, 2 * 3 * (SST2 + COLA) * SETS),
        ("full-data.yaml", 2 * 2, 6920),
    ],
)
def test_a_plan_has_the_papers_trainings_and_generations(
    name: str, trainings: int, generations: int, tmp_path: Path
) -> None:
    """The LM is not there, and rows are counted all the same."""
    grid = planned(name, tmp_path)
    try:
        total = plan(grid, list(grid.cells())).total
    finally:
        grid.close()
    assert (total["trainings"], total["generations"]) == (trainings, generations)
    assert total["requests"] is None


def test_a_plan_has_the_tokens_of_a_row_next_to_the_papers(tmp_path: Path) -> None:
    grid = planned("table4.yaml", tmp_path, "lm.model=bundled")
    try:
        remarks = plan(grid, list(grid.cells())).remarks
    finally:
        grid.close()
    (remark,) = [remark for remark in remarks if "in the paper about 300" in remark]
    assert "tokens of a synthetic row" in remark
