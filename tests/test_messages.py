"""Every message fits a screen, whatever the user's files hold."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt3mix_cli.cli import ENVIRONMENT, main
from gpt3mix_cli.console import Display
from gpt3mix_cli.errors import (
    MAX_LINE_CHARS,
    MAX_LINES,
    UserError,
    path_problem,
    shown_list,
    shown_value,
)
from gpt3mix_cli.grid.check import Finding


def test_a_long_line_keeps_its_ends() -> None:
    error = UserError(f"x.csv: {'word ' * 10_000}is wrong", "a" * 100_000)
    assert error.message.startswith("x.csv: word")
    assert error.message.endswith("word is wrong")
    assert max(len(error.message), len(error.hint)) < MAX_LINE_CHARS + 10


def test_many_lines_are_counted() -> None:
    lines = UserError("\n".join(map(str, range(1_000)))).message.splitlines()
    assert len(lines) == MAX_LINES + 1
    assert lines[-1] == f"  and {1_000 - MAX_LINES:,} more lines"


def test_a_terminal_does_not_obey_a_message() -> None:
    message = "x.jsonl: label '\x1b[2J\x9b\r' is wrong\n\tthe next line"
    assert UserError(message).message == (
        "x.jsonl: label '\\x1b[2J\\x9b\\r' is wrong\n\tthe next line"
    )


def test_values_and_lists_are_cut() -> None:
    assert shown_value("film") == "'film'"
    assert len(shown_value({"key": "x" * 1_000})) < 110
    assert shown_list(["a", "b"]) == "a, b"
    assert shown_list(range(1_000)).endswith("18, 19, and 980 more")


@pytest.mark.parametrize("ask", [Path.exists, Path.is_dir, Path.resolve, Path.expanduser])
@pytest.mark.parametrize("name", ["a" * 300, "loop", "~nosuchuser/x", "file/x"])
def test_a_path_that_cannot_exist_is_an_error_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ask: object
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("file").touch()
    try:
        ask(Path(name))  # type: ignore[operator]
    except (OSError, RuntimeError) as error:
        problem = path_problem(error)
        assert problem is not None
        assert problem.exit_code == 2
    assert path_problem(OSError(5, "Input/output error", "x")) is None
    assert path_problem(RuntimeError("a bug")) is None


@pytest.mark.parametrize("name", ["a" * 300, "loop", "\udcff.jsonl"])
def test_a_bad_path_on_the_command_line_ends_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    for command in (["plan", name], ["report", name], ["plan", "x.yaml", "--out", name]):
        assert main(command) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_what_is_not_ready_in_several_variants_is_named_once() -> None:
    findings = [Finding(what, False, "away") for what in ("data", "lm", "data", "lm")]
    with Display(quiet=True, as_json=True) as display, pytest.raises(UserError) as caught:
        display.print_findings(findings, "")
    assert caught.value.message == "not ready: data, lm"


def test_the_hub_writes_no_log_of_its_retries() -> None:
    """A subprocess reads the variable when the library is imported."""
    script = "import huggingface_hub.utils.logging as log; print(log.get_verbosity())"
    environment = {**os.environ, **ENVIRONMENT}
    level = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True)
    assert int(level) > logging.WARNING
