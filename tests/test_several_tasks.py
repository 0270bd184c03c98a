"""`tasks:` of a config: one grid over several tasks, and what `--set` does with them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gpt3mix_cli.cli_emit import emitted_lines
from gpt3mix_cli.cli_options import GridOptions
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.grid.check import check
from gpt3mix_cli.grid.fit import fit
from gpt3mix_cli.grid.plan import plan
from gpt3mix_cli.grid.selection import select_cells
from gpt3mix_cli.layout import TrialKey
from gpt3mix_cli.report import ReportInput, ReportOptions, report
from gpt3mix_cli.settings import Experiment

pytestmark = pytest.mark.usefixtures("without_plots")

OWN = "{name: own, data: {kind: demo}, labels: {pos: good, neg: bad}, text_type: opinion}"
REST = """\
subsample: {levels: [4/class], seeds: 2, validation: 20}
baselines: [{kind: eda}]
classifiers: [{kind: linear}]
trials: 2
"""
Load = Callable[..., list[Experiment]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load the experiments of a config, by default of two tasks, and `--set` overrides."""

    def experiments(*overrides: str, text: str = f"tasks: [demo, {OWN}]\n") -> list[Experiment]:
        path = tmp_path / "many.yaml"
        path.write_text(text + REST)
        return load_experiments(path, overrides)

    return experiments


def refused(load: Load, *overrides: str, text: str) -> UserError:
    with pytest.raises(UserError) as error:
        load(*overrides, text=text)
    return error.value


# The config ---------------------------------------------------------------------------------------


def test_there_is_an_experiment_for_each_task(load: Load, tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text("data: {kind: demo}\nlabels: [pos, neg]\n")
    experiments = load(text=f"tasks: [demo, file.yaml, {OWN}]\n")
    assert [item.task.name for item in experiments] == ["demo", "file", "own"]
    assert [item.task.text_type for item in experiments] == ["movie review", "text", "opinion"]
    assert all(item.variant == {} and item.name == "many" for item in experiments)


def test_a_sweep_is_over_every_task(load: Load) -> None:
    experiments = load(
        text=f"tasks: [demo, {OWN}]\nsweep: {{task.specification: [own, generic]}}\n"
    )
    assert [(item.task.name, item.task.text_type, item.variant) for item in experiments] == [
        ("demo", "movie review", {"task.specification": "own"}),
        ("demo", "text", {"task.specification": "generic"}),
        ("own", "opinion", {"task.specification": "own"}),
        ("own", "text", {"task.specification": "generic"}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: []\n", "tasks: expected a list of tasks"),
        ("tasks: demo\n", "tasks: expected a list of tasks"),
        ("tasks: [demo, 3]\n", "tasks: entry 2 is not a task"),
        ("tasks: [demo, demo]\n", "tasks: entry 2 has the name 'demo', which another task has too"),
        (f"tasks: [{OWN.replace('own', 'report')}]\n", "which the report's folder has"),
        (f"tasks: [{OWN.replace('own', 'a/b')}]\n", "entry 1 has no name that can be a folder"),
        (f"tasks: [{OWN.replace('name: own, ', '')}]\n", "entry 1 has no name that can be"),
        ("tasks: [demmo]\n", "did you mean 'demo'?"),
        ("tasks: [demo]\ntask: demo\n", "has both `task` and `tasks`"),
        ("tasks: [demo]\nsweep: {task: [demo, sst2]}\n", "sweep: task is given by `tasks`"),
        ("tasks: [demo]\nsweep: {tasks: [[demo]]}\n", "sweep: 'tasks' cannot be swept"),
        ("tasks: [demo]\nsweep: {tasks.0.text_type: [a]}\n", "'tasks.0.text_type' cannot be swept"),
        (f"tasks: [demo, {OWN.replace('good', 'bad')}]\n", "many.yaml, task own: 1 problem in the"),
    ],
)
def test_what_is_no_list_of_tasks_is_refused(load: Load, text: str, message: str) -> None:
    error = refused(load, text=text)
    assert message in error.message
    assert error.hint


# --set --------------------------------------------------------------------------------------------


def test_set_tasks_chooses_among_the_configs_own_and_the_packaged(load: Load) -> None:
    assert [item.task.name for item in load("tasks=[own]")] == ["own"]
    assert [item.task.name for item in load("tasks=[own, sst2]")] == ["own", "sst2"]
    assert [item.task.name for item in load("tasks=[demo, sst2]", text="task: demo\n")] == [
        "demo",
        "sst2",
    ]
    # A chosen task has the folder that it has among the others.
    assert load("tasks=[own]")[0].tasks == ["own"]


def test_set_below_task_reaches_every_task(load: Load) -> None:
    for overrides in (
        ["task.text_type=comment"],
        ["task.text_type=comment", "tasks=[own, demo]"],
        ["tasks=[own, demo]", "task.text_type=comment"],
    ):
        assert [item.task.text_type for item in load(*overrides)] == ["comment", "comment"]
    for key in ("tasks.1.text_type", "tasks.own.text_type"):
        changed = load(f"{key}=comment")
        assert [item.task.text_type for item in changed] == ["movie review", "comment"]
        # A choice drops no key of the chosen one, as emitted commands need it.
        (chosen,) = load("tasks=[own]", f"{key}=comment")
        assert chosen.task.text_type == "comment"
        assert len(load("tasks=[demo]", f"{key}=comment")) == 1
    error = refused(load, "tasks.none.text_type=x", text=f"tasks: [demo, {OWN}]\n")
    assert (error.message, error.hint) == (
        "--set tasks.none.text_type: the config has no such task",
        "its tasks: demo, own",
    )
    assert "no such task" in refused(load, "tasks.0=sst2", text=f"tasks: [demo, {OWN}]\n").message
    assert "its tasks: none" in refused(load, "tasks.0.text_type=x", text="task: demo\n").hint


def test_set_task_is_refused_where_there_are_several(load: Load) -> None:
    error = refused(load, "task=sst2", text=f"tasks: [demo, {OWN}]\n")
    assert error.message == "--set task: the config has several tasks: demo, own"
    assert "--set tasks=[demo]" in error.hint


def test_a_swept_task_is_never_dropped_in_silence(load: Load, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("data: {kind: demo}\nlabels: [neg, pos]\n")
    swept = "task: demo\nsweep: {task: [demo, other.yaml]}\n"
    # A key below a swept one reaches each of its values.
    below = load("task.text_type=comment", text=swept)
    assert [(item.task.name, item.task.text_type) for item in below] == [
        ("demo", "comment"),
        ("other", "comment"),
    ]
    assert [item.variant for item in below] == [{"task": "demo"}, {"task": "other.yaml"}]
    # The swept key itself is a choice.
    assert [item.task.name for item in load("task=other.yaml", text=swept)] == ["other"]
    words = "task: demo\nsweep: {task.text_type: [a, b]}\n"
    error = refused(load, "task=other.yaml", text=words)
    assert error.message == (
        "--set task: the config sweeps task.text_type, which another task would drop"
    )
    assert len(load("sweep={}", "task=other.yaml", text=words)) == 1
    assert "the config sweeps task" in refused(load, "tasks=[demo]", text=swept).message


def test_set_below_a_swept_mapping_reaches_each_of_its_values(load: Load) -> None:
    text = "task: demo\nsweep: {augment: [{k: 1}, {k: 4}]}\n"
    experiments = load("augment.ratio=3", text=text)
    assert [(item.augment.k, item.augment.ratio) for item in experiments] == [(1, 3), (4, 3)]


# The grid -----------------------------------------------------------------------------------------


def test_cells_and_files_name_the_task_once(load: Load, tmp_path: Path) -> None:
    grid = Grid(load(), tmp_path / "out")
    cells = list(grid.cells())
    labels = ["demo 4/class seed 0", "demo 4/class seed 1"]
    assert list(map(str, cells)) == [*labels, *(label.replace("demo", "own") for label in labels)]
    paths = [grid.layout.trials_path(TrialKey(cell, "eda", "linear")) for cell in cells]
    assert paths[2] == tmp_path / "out/many/own/4-per-class/seed-0/trials/eda.linear.jsonl"
    assert len(set(paths)) == len(cells)
    assert [grid.experiment(cell).task.name for cell in cells] == ["demo"] * 2 + ["own"] * 2
    (single,) = Grid(load("tasks=[own]", "subsample.seeds=1"), tmp_path / "out").cells()
    assert single == cells[2]
    # What another task was answered is no use.
    sets = grid.synthetic_paths_of_variants(cells[2], "eda", 0)
    assert sets
    assert all("own" in path.parts for path in sets)


def test_one_file_needs_one_task(load: Load, tmp_path: Path) -> None:
    grid = Grid(load(), tmp_path / "out")
    level = grid.experiments[0].subsample.levels[0]
    with pytest.raises(UserError) as error:
        select_cells(grid, level, 0, output=tmp_path / "rows.jsonl")
    assert error.value.hint.endswith("and a task with --set tasks=[demo]")
    (cell,) = select_cells(Grid(load("tasks=[own]"), tmp_path), level, 0, output=tmp_path / "r")
    assert cell.task == "own"


def test_a_run_reports_macro_averages_over_the_tasks(load: Load, tmp_path: Path) -> None:
    overrides = ["tasks.1.labels={neg: bad, pos: good}", "tasks.1.data={kind: demo}"]
    grid = Grid(load(*overrides), tmp_path / "out", jobs=1)
    assert plan(grid, list(grid.cells())).total["trainings"] == 8
    results = list(grid.run())
    assert len(results) == 4 * (1 + 1 + 2)  # a subsample, a set and two trials files a cell
    inputs = ReportInput("many", [], grid.expected_trials(), grid.layout.root)
    made = report(inputs, tmp_path / "report", ReportOptions())
    means = {(item.task, item.method): item.mean or 0 for item in made.results}
    averages = made.averages.set_index("column")["mean"]
    for method in ("none", "eda"):
        expected = (means["demo", method] + means["own", method]) / 2
        assert averages[method] == pytest.approx(expected)
    assert set(made.comparisons["task"]) == {"demo", "own"}
    (pooled,) = made.pooled.itertuples()
    assert (pooled.tasks, pooled.rows, pooled.units) == (2, 2, 4)


def test_emitted_commands_choose_one_task_each(load: Load, tmp_path: Path) -> None:
    grid = Grid(load("trials=4"), tmp_path / "out")
    options = GridOptions(tmp_path / "many.yaml", tmp_path / "out", ["trials=4"])
    lines = list(emitted_lines([(grid, options)], "commands"))
    assert len(set(lines)) == len(lines) == 2 * 2 * (1 + 1 + 2) + 1
    assert sum("tasks=[own]" in line for line in lines) == len(lines) // 2
    assert "tasks=" not in lines[-1]  # the report is over all
    make = list(emitted_lines([(grid, options)], "make"))
    assert any(line.startswith("train,many,own,4-per-class,1,eda,linear:") for line in make)


def test_fit_makes_one_model_of_one_task(load: Load, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the config has several tasks") as error:
        fit(Grid(load(), tmp_path / "out"), tmp_path / "model")
    assert "--set tasks=[demo]" in error.value.hint


def test_check_names_the_data_of_each_task(load: Load, tmp_path: Path) -> None:
    findings = list(check(Grid(load(), tmp_path / "out")))
    assert {"data of demo", "data of own"} <= {finding.what for finding in findings}
    assert findings[0].detail == "many: methods none, eda, tasks demo, own"
