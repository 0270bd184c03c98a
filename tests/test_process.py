"""Signals and streams: what is left behind, and the exit code."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpt3mix_cli.console import Display, print_error
from gpt3mix_cli.errors import UserError

WORK = """
import contextlib, sys, time
from pathlib import Path
from gpt3mix_cli import cli, files, process

def work(**options):
    with files.exclusive_writer(Path("out.jsonl")), files.atomic_write(Path("out.jsonl")):
        try:
            print("works", flush=True)
            time.sleep(60)
        finally:
            if "stubborn" in sys.argv:
                print("cleans up", flush=True)
                time.sleep(60)

cli.app = work
process.handle_signals()
sys.exit(cli.main())
"""
VERSION = "import sys; sys.modules['torch'] = sys; from gpt3mix_cli.cli import entry; entry()"


@pytest.mark.parametrize(
    ("sent", "code", "how"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "terminated"),
    ],
)
@pytest.mark.parametrize("stubborn", [False, True], ids=["once", "twice"])
def test_a_signal_leaves_neither_partial_files_nor_locks(
    tmp_path: Path, sent: signal.Signals, code: int, how: str, stubborn: bool
) -> None:
    """The second signal ends a process whose cleaning up takes long."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, *["stubborn"] * stubborn],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests in the background hand down ignored signals.
        preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL) and None,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "works\n"
    assert list(tmp_path.iterdir())
    process.send_signal(sent)
    if stubborn:
        assert process.stdout.readline() == "cleans up\n"
        process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert not list(tmp_path.iterdir())
    if not stubborn:
        assert err == f"gpt3mix: {how}; finished work is kept, and the same command resumes\n"


@pytest.mark.parametrize("streams", [">&-", ">&- 2>&-", "2>/dev/full", "<&-"])
def test_a_closed_or_full_stream_is_no_error_after_the_work(streams: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" --version {streams}', sys.executable, VERSION],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_broken_pipe_of_something_else_is_not_the_end_of_stdout() -> None:
    with pytest.raises(BrokenPipeError), Display(quiet=True, as_json=False):
        raise BrokenPipeError


def test_control_characters_in_a_message_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(UserError("a.csv: \x1b]0;title\x07 \x9b31m", "see\r it"))
    assert capsys.readouterr().err == (
        "error: a.csv: \\x1b]0;title\\x07 \\x9b31m\n  fix: see\\r it\n"
    )
