"""The README's commands exist, its configs load, and its generated parts are up to date."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from gpt3mix_cli.cli import app
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.lm.openai.budget import price_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
DOCS = runpy.run_path(str(ROOT / "scripts" / "docs"))


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_generated_parts_of_the_readme_are_up_to_date() -> None:
    assert DOCS["update_readme"](README) == README, "run scripts/docs"


def test_every_settings_model_is_documented() -> None:
    # DemoData has no keys.
    models = {model for model in DOCS["settings_models"]() if model.__name__ != "DemoData"}
    assert {model for _, model in DOCS["SECTIONS"]} == models


def test_every_key_has_a_description() -> None:
    missing = [
        f"{model.__name__}.{name}"
        for model in DOCS["settings_models"]()
        for name, field in model.model_fields.items()
        if name != "kind" and not field.description
    ]
    assert not missing


@pytest.mark.parametrize("index", range(len(code_blocks("yaml"))))
def test_configs_in_the_readme_load(index: int, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    text = code_blocks("yaml")[index]
    path = tmp_path / "readme.yaml"
    path.write_text(text, "utf-8")
    if "# prices.yaml" in text:
        assert price_of("some-base-model", str(path))[1] == "2026-01-31"
    else:
        assert load_experiments(path)


def test_every_command_in_the_readme_exists_with_its_flags() -> None:
    group = typer.main.get_command(app)
    lines = [line for block in code_blocks("bash") for line in block.splitlines()] + re.findall(
        r"`(gpt3mix [a-z][^`]*)`", README
    )
    commands = [
        shlex.split(line, comments=True) for line in lines if re.match(r"\s*gpt3mix [a-z]", line)
    ]
    assert len(commands) > 6
    for _, name, *arguments in commands:
        command = group.commands[name]  # type: ignore[attr-defined]
        known = {flag for parameter in command.params for flag in parameter.opts}
        assert {word for word in arguments if word.startswith("-")} <= known, (name, arguments)


@pytest.mark.slow
def test_the_loop_over_seeds_runs_as_shown(tmp_path: Path) -> None:
    loop = next(block for block in code_blocks("bash") if block.startswith("for seed"))
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    config = tmp_path / "configs" / "demo.yaml"
    # The same experiment, smaller: one classifier and a fifth of the rows.
    text = re.sub(
        r"classifiers:.*?\ntrials",
        "classifiers: [{kind: linear}]\ntrials",
        config.read_text("utf-8"),
        flags=re.DOTALL,
    )
    config.write_text(text.replace("ratio: 10", "ratio: 2").replace("8/class", "4/class"), "utf-8")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", loop],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "gpt3mix" in result.stdout
    assert "4/class" in result.stdout
    paths = sorted(
        path.relative_to(tmp_path / "results" / "demo").as_posix()
        for path in (tmp_path / "results").rglob("*.jsonl")
    )
    assert [path for path in paths if "seed-0" in path] == [
        "4-per-class/seed-0/eda.jsonl",
        "4-per-class/seed-0/gpt3mix.jsonl",
        "4-per-class/seed-0/gpt3mix.rejects.jsonl",
        "4-per-class/seed-0/train.jsonl",
        "4-per-class/seed-0/trials/eda.linear.history.jsonl",
        "4-per-class/seed-0/trials/eda.linear.jsonl",
        "4-per-class/seed-0/trials/gpt3mix.linear.history.jsonl",
        "4-per-class/seed-0/trials/gpt3mix.linear.jsonl",
        "4-per-class/seed-0/trials/none.linear.history.jsonl",
        "4-per-class/seed-0/trials/none.linear.jsonl",
    ]


def test_the_file_tree_in_the_readme_lists_every_module() -> None:
    tree = README.split("## Repository layout", 1)[1]
    for path in (ROOT / "gpt3mix_cli").rglob("*.py"):
        if path.name != "__init__.py":
            assert re.search(rf"\b{path.stem}\b", tree), f"{path.name} is not in the README's tree"


@pytest.mark.slow
def test_the_demo_runs_from_a_fresh_clone_and_its_gpt3mix_rows_are_new(
    tmp_path: Path,
) -> None:
    def read(path: Path) -> list[dict[str, object]]:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    # Uses the installed environment; CI tests the installation itself.
    options = [] if shutil.which("apertium") else ["--set", "baselines=[{kind: eda}]"]
    program = Path(sys.executable).parent / "gpt3mix"
    result = subprocess.run(
        [program, "run", "configs/demo.yaml", *options],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "gpt3mix" in result.stdout
    real = {row["text"] for row in read(clone / "gpt3mix_cli/resources/demo.jsonl")}
    rows = read(clone / "results/demo/8-per-class/seed-0/gpt3mix.jsonl")
    assert len(rows) == 160
    assert not real & {row["text"] for row in rows}
    assert all(row["label_source"] == "exact" for row in rows)
    assert (clone / "results/demo/report/report.md").is_file()
