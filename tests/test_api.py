"""The package's own page: what it exports, and that its import is fast."""

import copy
import doctest
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import gpt3mix_cli
from gpt3mix_cli import Augmented, Grid, Project, UserError, load, load_experiments, read_records
from gpt3mix_cli.guide import pages
from gpt3mix_cli.settings import LinearSettings
from gpt3mix_cli.train import open_classifier
from gpt3mix_cli.train.saved_models import SavedModel

CONFIG = """\
name: api
task: {data: {kind: demo}, labels: [pos, neg]}
subsample: {levels: [4/class], seeds: 1, validation: 20}
baselines: [{kind: eda}]
classifiers: [{kind: linear}]
trials: 1
"""
KEYS: dict[str, Any] = {
    "task": {"data": {"label": "class"}, "labels": [1, 2]},
    "subsample": {"levels": ["full"], "seeds": 1},
    "augment": {"ratio": 1},
    "baselines": [{"kind": "eda"}],
    "classifiers": [{"kind": "linear"}],
    "trials": 1,
}
TRAIN = [  # no two are near copies of each other
    {"text": f"A {word} film about the {place}.", "class": label}
    for place in (
        *("harbour", "mountain", "kitchen", "orchestra"),
        *("desert", "carnival", "submarine", "library"),
    )
    for label, word in ((1, "dull"), (2, "great"))
]
SAVED = SavedModel(open_classifier(LinearSettings(kind="linear"), ("1", "2")), ["1", "2"])
EXAMPLES = Path(__file__).parent.parent / "configs" / "examples"
HEAVY = ("torch", "transformers", "numpy", "pydantic", "sklearn", "pandas", "gpt3mix_cli.grid")


@pytest.mark.parametrize("name", gpt3mix_cli.__all__)
def test_every_exported_name_is_there(name: str) -> None:
    assert getattr(gpt3mix_cli, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'augmenter'"):
        _ = gpt3mix_cli.augmenter


def test_the_import_loads_nothing_heavy() -> None:
    code = f"import sys, gpt3mix_cli; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_experiment_runs_from_python(tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(CONFIG)
    grid = Grid(load_experiments(tmp_path / "api.yaml"), tmp_path / "results", jobs=1)
    results = list(grid.run())
    assert [result.output.name for result in results] == [
        "train.jsonl",
        "eda.jsonl",  # all rows come first, so that an LM leaves the memory to trainings
        "none.linear.jsonl",
        "eda.linear.jsonl",
    ]
    (cell,) = grid.cells("4/class", 0)
    result = grid.augment(cell, "eda", draw=0)
    assert result.skipped
    assert len(list(read_records(result.output, Augmented))) == 8
    assert len(grid.report().trials) == 2
    grid.close()


# Rows in and out ---------------------------------------------------------------------------------


def tickets(out: Path) -> Project:
    return load(KEYS, train=TRAIN, test=TRAIN[:6], out=out)


def test_the_code_of_the_page_runs(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for path in EXAMPLES.glob("tickets-*.csv"):
        shutil.copy(path, tmp_path)
    page = Path(pages.__file__).with_name("api.md")
    done = doctest.testfile(str(page), module_relative=False)
    assert done.attempted > 15
    assert done.failed == 0


def test_rows_come_back_in_the_form_in_which_they_were_given(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    with tickets(tmp_path) as project:
        frame = project.subsample()
        assert list(frame.columns) == ["id", "text", "label"]
        from_frame = project.augment(frame, "eda")
        from_records = project.augment(frame.to_dict("records"), "eda")
        assert isinstance(from_frame, pd.DataFrame)
        assert from_frame.to_dict("records") == from_records
        trials = project.train(frame.to_dict("records"), from_frame)
        assert isinstance(trials, list)
        assert (trials[0]["method"], trials[0]["n_synthetic"]) == ("eda", len(frame))
        assert set(project.run().method) == {"none", "eda"}
    assert capfd.readouterr() == ("", "")


def test_predictions_leave_other_columns_as_they_are(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    model = tickets(tmp_path).fit(tmp_path / "model")
    new = pd.DataFrame({"text": ["A great film.", None, " "], "n": [1, 2, 3]}, index=[7, 8, 9])
    done = gpt3mix_cli.predict(model, new, probs=True)
    assert list(done.columns) == ["text", "n", "predicted", "prob", "probs"]
    pd.testing.assert_frame_equal(done[["text", "n"]], new)
    assert done.predicted[7] == "2"
    assert done.prob[7] == max(done.probs[7].values())
    assert done.predicted.isna().tolist() == [False, True, True]
    assert list(new.columns) == ["text", "n"]
    assert gpt3mix_cli.predict(str(model.folder), [{"text": ""}])[0]["predicted"] is None


def test_problems_of_rows_are_user_errors(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    project = tickets(tmp_path)
    with pytest.raises(UserError, match="row 1: text is missing"):
        project.augment([{"text": "A film.", "label": "1"}, {"label": "2"}], "eda")
    with pytest.raises(UserError, match="label '3' is not one of the task's classes"):
        project.augment([{"text": "A film.", "label": "3"}], "eda")
    with pytest.raises(UserError, match="no classifier svm"):
        project.train(project.subsample(), classifier="svm")
    with pytest.raises(UserError, match="no column 'text'"):
        gpt3mix_cli.predict(project.fit(tmp_path / "model"), [{"body": "A film."}])
    with pytest.raises(UserError, match="2 problems"):
        load({"task": {"labels": ["a", "b"]}})


def test_warnings_are_python_warnings_at_the_line_of_the_caller(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    tickets(tmp_path).subsample()
    assert any("exact copies of training rows" in str(item.message) for item in recwarn)
    assert {item.filename for item in recwarn} == {__file__}


def test_errors_name_arguments_in_place_of_files_and_flags(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    messages = []
    rows = [*TRAIN, {"text": "", "class": 1}, {"text": "A film.", "class": 3}]
    project = tickets(tmp_path)
    for call in (
        lambda: load(KEYS, train=rows, out=tmp_path / "bad").subsample(),
        lambda: project.train(
            project.subsample(), [{"text": "A film.", "label": "1", "probs": {}}]
        ),
        lambda: project.train([]),
        lambda: gpt3mix_cli.predict(tmp_path / "none", TRAIN),
    ):
        with pytest.raises(UserError) as error:
            call()
        messages.append(str(error.value))
    assert "train, row 16: the text" in messages[0]
    assert "train, row 17: label '3'" in messages[0]
    assert "synthetic, row 0" in messages[1]
    assert "rows: there are none" in messages[2]
    assert "`Project.fit`" in messages[3]
    for message in messages:
        assert ".jsonl" not in message
        assert " --" not in message


def test_finished_work_with_other_settings_is_replaced_with_force(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    def rows(master_seed: int, force: bool = False) -> pd.DataFrame:
        keys = {**KEYS, "subsample": {"levels": ["4/class"], "master_seed": master_seed}}
        return load(keys, train=TRAIN, test=TRAIN[:6], out=tmp_path, force=force).subsample()

    first = rows(0)
    with pytest.raises(UserError, match="with other settings") as error:
        rows(1)
    assert "overrides=['name=NAME']" in error.value.hint
    assert "force=True" in error.value.hint
    assert "--" not in error.value.hint
    assert list(rows(1, force=True).id) != list(first.id)


def test_rows_need_a_task_as_a_mapping(tmp_path: Path) -> None:
    for config in ({**KEYS, "task": "task.yaml"}, "config.yaml"):
        with pytest.raises(UserError, match="need the config and its task as mappings"):
            load(config, train=TRAIN, out=tmp_path)


def test_the_caller_keeps_its_config_and_its_columns(tmp_path: Path) -> None:
    keys = copy.deepcopy(KEYS)
    rows = pd.DataFrame(TRAIN).assign(day=pd.Timestamp("2026-01-01"), **{"id": np.arange(16)})
    rows = rows.rename(columns={"day": 7})
    with load(keys, train=rows, out=tmp_path, overrides=["subsample.seeds=2"]) as project:
        drawn = project.subsample()
        assert len(drawn) > 0
        own = rows.rename(columns={"class": "label"})
        made = project.augment(own.astype({"label": str, "id": str}), "eda")
    assert len(made) == 16
    assert keys == KEYS


def test_columns_may_be_numbers(tmp_path: Path) -> None:
    rows = pd.DataFrame([list(row.values()) for row in TRAIN])
    keys = {**KEYS, "task": {"data": {"text": 0, "label": 1}, "labels": [1, 2]}}
    with load(keys, train=rows, out=tmp_path) as project:
        assert len(project.subsample()) > 0
        assert len(project.augment(rows.astype(str), "eda")) == 16


@pytest.mark.parametrize("rows", [["hello"], ("hello",), pd.Series(["hello"]), "hello"])
def test_what_is_no_rows_is_refused(tmp_path: Path, rows: Any) -> None:
    with pytest.raises(UserError, match="a DataFrame or a list of records"):
        load(KEYS, train=rows, out=tmp_path)
    with pytest.raises(UserError, match="a DataFrame or a list of records"):
        gpt3mix_cli.predict(SAVED, rows)


def test_columns_that_predict_adds_are_not_replaced() -> None:
    row = {"text": "A film.", "predicted": "neg"}
    for rows in ([row], pd.DataFrame([row])):
        with pytest.raises(UserError, match="have a column 'predicted' already"):
            gpt3mix_cli.predict(SAVED, rows)


@pytest.mark.parametrize("value", [5, 2.5, True, ["A film."]])
def test_a_value_that_is_no_text_is_refused_with_its_row(value: Any) -> None:
    missing = [None, float("nan"), pd.NA, pd.NaT, " "]
    rows = [{"text": text} for text in missing]
    for form in (rows, pd.DataFrame(rows)):
        done = pd.DataFrame(gpt3mix_cli.predict(SAVED, form))
        assert done.predicted.isna().all()
    rows.append({"text": value})
    for form in (rows, pd.DataFrame(rows)):
        with pytest.raises(UserError, match=r"data, row 5: column 'text' has .* which is no text"):
            gpt3mix_cli.predict(SAVED, form)


def test_wrong_values_and_levels_are_user_errors(tmp_path: Path) -> None:
    rows = [*TRAIN, {"text": "A film.", "class": pd.Timestamp("2026-01-01")}]
    with pytest.raises(UserError, match="row 16: column 'class' has Timestamp"):
        load(KEYS, train=rows, out=tmp_path)
    with pytest.raises(UserError, match="level: '8' is not a level"):
        tickets(tmp_path).subsample("8")
