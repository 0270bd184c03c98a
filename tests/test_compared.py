"""The page `compared`: what it says that this tool does exists, by the name that it gives."""

import re
import runpy
from pathlib import Path

import pytest
import typer

from gpt3mix_cli import records
from gpt3mix_cli.cli import app
from gpt3mix_cli.guide import read_page
from gpt3mix_cli.guide.pages import TOPICS

ROOT = Path(__file__).parent.parent
SECTIONS = runpy.run_path(str(ROOT / "scripts" / "docs"))["SECTIONS"]
COMMAND = typer.main.get_command(app)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in read_page("compared").text.splitlines()
    if line.startswith("| ") and not line.startswith(("| feature", "| ---"))
]
TOOLS = {
    "hypermix", "distilabel", "DataDreamer", "synthetic-data-kit", "curator", "nlpaug",
    "TextAttack", "SetFit", "lm-eval", "inspect_ai", "DataDesigner",
}  # fmt: skip


def known_names() -> set[str]:
    """Return every config key, as it is written in a config, and every field of a record."""
    names = {name for model in vars(records).values() for name in fields(model)}
    for section, model in SECTIONS:
        prefix = re.sub(r" \(.*\)", "", section)
        names |= {f"{prefix}.{name}".lstrip(".") for name in fields(model)}
    return names


def fields(model: object) -> set[str]:
    return set(getattr(model, "model_fields", ()))


def flags() -> set[str]:
    commands = vars(COMMAND)["commands"].values()
    return {flag for command in commands for option in command.params for flag in option.opts}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_what_a_row_names_exists(row: list[str]) -> None:
    feature, here, elsewhere = row
    named = re.findall("`([^`]+)`", here)
    assert named, f"{feature}: names no key, command, flag or field"
    for name in named:
        if name.startswith("gpt3mix "):
            assert name.split()[1] in vars(COMMAND)["commands"]
        elif name.startswith("--"):
            assert name in flags()
        else:
            assert name.split(":")[0] in known_names()
    assert elsewhere


def test_the_tools_are_those_that_the_page_lists() -> None:
    intro = read_page("compared").text.split("\n## ")[0]
    assert [tool for tool in TOOLS if tool not in intro] == []
    for _, _, elsewhere in ROWS:
        assert elsewhere == "none" or any(
            tool in elsewhere for tool in (*TOOLS, "most", "none;", "vLLM")
        )


def test_every_command_of_a_stage_is_on_the_page() -> None:
    text, skipped = read_page("compared").text, {"cache", "fit", "init", "subsample", "augment"}
    for name in vars(COMMAND)["commands"].keys() - skipped - set(TOPICS):
        assert f"gpt3mix {name}" in text
