"""Packaged tasks: found by name, listed, and loaded from folders laid out like the hub's."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli.cli import main
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.data import load_splits
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.method.prompt import render_prompt
from gpt3mix_cli.records import Example
from gpt3mix_cli.settings import Experiment, HubData
from gpt3mix_cli.task_files import packaged_tasks

PAPER = ("sst2", "cr", "subj", "cola", "trec6", "mpqa")
Load = Callable[..., Experiment]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load an experiment with this value of `task`."""

    def experiment(task: str, *overrides: str) -> Experiment:
        path = tmp_path / "x.yaml"
        path.write_text(f"task: {task}\nsubsample: {{levels: [full]}}\n")
        (loaded,) = load_experiments(path, overrides)
        return loaded

    return experiment


# Names --------------------------------------------------------------------------------------------


def test_the_tasks_of_the_paper_and_the_demo_are_packaged() -> None:
    assert set(packaged_tasks()) == {*PAPER, "demo"}


@pytest.mark.parametrize("name", [*PAPER, "demo"])
def test_a_packaged_task_is_found_by_its_name(load: Load, name: str) -> None:
    task = load(name).task
    assert task.name == name
    assert task.about.title
    assert task.about.source
    assert task.about.license
    assert task.about.rows["train"] > task.about.rows["test"]


def test_a_file_next_to_the_config_wins_and_a_folder_does_not(load: Load, tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()  # such as results
    assert isinstance(load("sst2").task.data, HubData)
    (tmp_path / "cr").write_text("data: {kind: demo}\nlabels: [pos, neg]\n")
    assert load("cr").task.data.kind == "demo"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("sst", "no packaged task and no file is called 'sst'; did you mean 'sst2'?"),
        ("SST2", "did you mean 'sst2'?"),
        ("tasks/sst2.yaml", "task: no such file: "),
        ("sst2.yaml", "task: no such file: "),
    ],
)
def test_an_unknown_name_lists_the_packaged_tasks(load: Load, task: str, message: str) -> None:
    with pytest.raises(UserError, match="task: ") as error:
        load(task)
    assert message in error.value.message
    assert ", ".join(packaged_tasks()) in error.value.hint


@pytest.mark.parametrize("entry", ["task: own.yaml", "tasks: [own.yaml, sst2]"])
def test_an_experiment_in_place_of_a_task_file_is_one_clear_error(
    tmp_path: Path, entry: str
) -> None:
    (tmp_path / "own.yaml").write_text("task: sst2\nsubsample: {levels: [1%]}\n")
    (path := tmp_path / "x.yaml").write_text(f"{entry}\nsubsample: {{levels: [1%]}}\n")
    with pytest.raises(UserError) as caught:
        load_experiments(path)
    assert caught.value.message == (
        f"{path}: task: {tmp_path / 'own.yaml'} is an experiment, not a task file"
    )
    assert "keys below its `task:`" in caught.value.hint


def test_the_command_lists_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [task["name"] for task in value["tasks"]] == list(packaged_tasks())
    assert (Path(value["configs"]) / "demo.yaml").is_file()
    assert main(["tasks"]) == 0
    text = capsys.readouterr().out
    assert "rows: 6,920 train, 872 validation, 1,821 test; license: unknown" in text


def test_a_wheel_holds_the_configs_where_the_package_looks_for_them() -> None:
    project = Path(__file__).parent.parent / "pyproject.toml"
    build = tomllib.loads(project.read_text())["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"] == {"configs": "gpt3mix_cli/configs"}
    assert "configs" in build["sdist"]["include"]  # from which wheels are made


# Specifications -----------------------------------------------------------------------------------


def test_the_generic_specification_is_a_key(load: Load) -> None:
    """Section 3: S_generic = (text, label, I), I being the identity on the class names."""
    task = load("trec6", "task.specification=generic").task
    assert (task.text_type, task.label_type) == ("text", "label")
    assert task.labels == {name: name for name in ("ABBR", "LOC", "DESC", "NUM", "ENTY", "HUM")}
    assert task.name == "trec6"
    row = Example(id="1", text="Who wrote it?", label="HUM")
    assert "Text: Who wrote it? (Label: Hum)" in render_prompt(task, [row])
    own = load("trec6", "task.specification=own").task
    assert own.labels["HUM"] == "human"


@pytest.mark.parametrize("labels", ["[no, yes]", "{no: bad, yes: good}"])
def test_the_generic_specification_takes_class_names_as_they_are_written(
    load: Load, labels: str
) -> None:
    task = load(f"{{data: {{kind: demo}}, labels: {labels}, specification: generic}}").task
    assert task.labels == {"no": "no", "yes": "yes"}


# Folders like the hub's ---------------------------------------------------------------------------


def _jsonl(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)


def _setfit(folder: Path, names: list[str], splits: tuple[str, ...]) -> None:
    for split in splits:
        rows = [
            {"text": f"{split} {number}", "label": number % 2, "label_text": names[number % 2]}
            for number in range(8)
        ]
        _jsonl(folder, split, rows)


def _trec(folder: Path) -> None:
    """Two levels of classes, numbered by first appearance, and other files than data."""
    names = ["ABBR", "LOC", "DESC", "NUM", "ENTY", "HUM"]
    for split in ("train", "test"):
        rows = [
            {
                "text": f"{split} {number} ?", "label": number % 3, "label_text": "fine",
                "label_original": f"{names[number % 6]}:x", "label_coarse": number % 6,
                "label_coarse_text": names[number % 6].lower(),
                "label_coarse_original": names[number % 6],
            }
            for number in range(24)
        ]  # fmt: skip
        _jsonl(folder, split, rows)
    (folder / "prepare.py").write_text("raise SystemExit('never run')\n")
    (folder / "train_5500.label").write_text("DESC:manner How ?\n")
    (folder / "TREC_10.label").write_text("NUM:dist How far ?\n")


def _mpqa(folder: Path) -> None:
    for split, count in (("train", 16), ("test", 8), ("dev", 4)):
        rows = [{"sentence": f"{split} {number}", "label": number % 2} for number in range(count)]
        _parquet(folder / "data" / f"{split}-00000-of-00001-0123456789abcdef.parquet", rows)


def _glue(folder: Path) -> None:
    """Several configs, named in the README; labels of the test split are hidden."""
    lines = ["---", "configs:"]
    for config in ("ax", "cola"):
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, count in (("train", 16), ("validation", 8), ("test", 8)):
            rows = [
                {"sentence": f"{config} {split} {i}", "label": -1 if split == "test" else i % 2,
                 "idx": i} for i in range(count)
            ]  # fmt: skip
            _parquet(folder / config / f"{split}-00000-of-00001.parquet", rows)
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", "# GLUE\n"]))


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "sst2": lambda folder: _setfit(folder, ["negative", "positive"], ("train", "dev", "test")),
    "cr": lambda folder: _setfit(folder, ["negative", "positive"], ("train", "test")),
    "subj": lambda folder: _setfit(folder, ["objective", "subjective"], ("train", "test")),
    "trec6": _trec,
    "mpqa": _mpqa,
    "cola": _glue,
}


@pytest.mark.parametrize("name", PAPER)
def test_a_packaged_task_reads_a_folder_laid_out_like_the_hubs(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "repository"
    folder.mkdir()
    LAYOUTS[name](folder)
    task = load(name, f"task.data.path={folder}").task
    splits = load_splits(task, 42)
    for rows in (splits.train, splits.validation, splits.test):
        assert {row.label for row in rows} == set(task.classes)
    prefix = "cola validation" if name == "cola" else "test"
    assert all(row.text.startswith(prefix) for row in splits.test)
    has_validation = name == "sst2"
    texts = {row.text.rsplit(" ", 1)[0] for row in splits.validation}
    assert (texts == {"dev"}) == has_validation
    assert bool(splits.taken_rows) != has_validation
    assert not any("dev" in row.text for row in splits.train)


@pytest.mark.parametrize("name", [name for name in PAPER if name != "mpqa"])
def test_revisions_are_whole_commits(load: Load, name: str) -> None:
    """The hub resolves no abbreviated commit."""
    data = load(name).task.data
    assert isinstance(data, HubData)
    assert len(data.revision or "") == 40
