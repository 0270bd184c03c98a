"""The manual: its commands exist, its configs are files that load, its reference is current."""

import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from gpt3mix_cli.cli import app
from gpt3mix_cli.guide import TOPICS, read_page

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "gpt3mix_cli" / "guide"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(GUIDE.glob("*.md"))]
DOCS = runpy.run_path(str(ROOT / "scripts" / "docs"))
MAX_README_BYTES = 8192
CODE_BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def code_blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text("utf-8"), re.DOTALL)


# Generated parts ---------------------------------------------------------------------------------


def test_generated_parts_of_the_reference_are_up_to_date() -> None:
    text = read_page("reference").text
    assert DOCS["update_reference"](text) == text, "run scripts/docs"


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


def test_the_layout_in_the_manual_lists_every_module() -> None:
    tree = read_page("development").text.split("## Repository layout", 1)[1]
    for path in (ROOT / "gpt3mix_cli").rglob("*.py"):
        if path.name != "__init__.py":
            assert re.search(rf"\b{path.stem}\b", tree), f"{path.name} is not in development.md"


# Examples, commands and links --------------------------------------------------------------------


def test_every_yaml_block_is_a_file_and_every_example_is_shown() -> None:
    shown = {block for path in DOCUMENTS for block in code_blocks(path, "yaml")}
    examples = {path.read_text("utf-8") for path in (ROOT / "configs/examples").glob("*.yaml")}
    demo = (ROOT / "configs/demo.yaml").read_text("utf-8")
    assert shown == {demo, *examples}


def command_lines(path: Path) -> Iterator[str]:
    """Yield the command lines of a document, in code blocks and in its text."""
    for block in code_blocks(path, "bash"):
        yield from re.sub(r"\\\n\s*", "", block).splitlines()
    yield from re.findall(r"`(gpt3mix [a-z][^`]*)`", CODE_BLOCK.sub("", path.read_text("utf-8")))


def test_every_command_in_the_manual_exists_with_its_flags() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = itertools.chain.from_iterable(map(command_lines, DOCUMENTS))
    found = [
        shlex.split(line, comments=True) for line in lines if re.match(r" *gpt3mix [a-z]", line)
    ]
    assert len(found) > 30
    for _, name, *arguments in found:
        known = {flag for parameter in commands[name].params for flag in parameter.opts}
        unknown = {word for word in arguments if word.startswith("-")} - known - {"-"}
        assert not unknown, (name, arguments)
        if name == "guide" and arguments and "TOPIC" not in arguments[0]:
            assert read_page(arguments[0])


def test_links_lead_to_pages_and_headings() -> None:
    for path in DOCUMENTS:
        links = re.findall(r"\]\(([^)\s]+)\)", CODE_BLOCK.sub("", path.read_text("utf-8")))
        for link in links:
            if link.startswith("https://"):
                continue
            name, _, anchor = link.partition("#")
            target = path.parent / name if name else path
            assert target.exists(), f"{path.name}: {link}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
                assert anchor in map(as_anchor, headings), f"{path.name}: {link}"


def test_the_readme_is_short_and_links_every_page() -> None:
    readme, quickstart = (ROOT / "README.md").read_text("utf-8"), read_page("quickstart").text
    assert len(readme.encode()) <= MAX_README_BYTES
    for topic in TOPICS:
        assert f"](gpt3mix_cli/guide/{topic}.md)" in readme
    table = readme.split("<!-- demo table -->")[1].split("<!-- end of demo table -->")[0]
    assert table.strip() in quickstart


def as_anchor(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_pages_named_in_messages_exist() -> None:
    texts = [path.read_text("utf-8") for path in (ROOT / "gpt3mix_cli").rglob("*.py")]
    topics = {topic for text in texts for topic in re.findall(r"gpt3mix guide ([a-z-]+)", text)}
    assert {"cost", "endpoints"} <= topics - {"lists"} <= set(TOPICS)


# Slow: what the pages show, run ------------------------------------------------------------------


@pytest.mark.slow
def test_the_loop_over_seeds_runs_as_shown(tmp_path: Path) -> None:
    blocks = code_blocks(GUIDE / "quickstart.md", "bash")
    loop = next(block for block in blocks if block.startswith("for seed"))
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


# What a machine without a network, a server and SetFit can do of each example.
OFFLINE = {
    "arms.yaml": ["subsample.seeds=1"],
    "all.yaml": ["baselines=[{kind: aeda}, {kind: paraphrase}]", "classifiers=[{kind: linear}]"],
    "sweep.yaml": ["sweep={augment.k: [1, 2]}"],
    "tickets.yaml": ["lm.model=bundled"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLINE)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs/examples", tmp_path / "examples")
    sizes = ["subsample.levels=[2/class]", "subsample.seeds=1", "trials=1", "augment.ratio=1"]
    sizes.append("augment.label_check=0")
    overrides = [word for value in [*OFFLINE[name], *sizes] for word in ("--set", value)]
    result = subprocess.run(
        [Path(sys.executable).parent / "gpt3mix", "run", f"examples/{name}", *overrides],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.glob("results/*/report/report.md"))
