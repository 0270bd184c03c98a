"""Real `gpt3mix run` processes over few rows, and the files that they write."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import gpt3mix_cli

SCRIPT = Path(sys.executable).with_name("gpt3mix")
PACKAGE = Path(gpt3mix_cli.__file__).parent
DEADLINE = 600  # seconds that a run may take on a busy machine
TASK = """\
task:
  data: {kind: files, train: train.jsonl, test: test.jsonl}
  labels: [pos, neg]
"""


def write_rows(folder: Path, train: int = 60, test: int = 20) -> None:
    """Write the data that `TASK` names: all of the demo's would take minutes."""
    lines = (PACKAGE / "resources/demo.jsonl").read_text(encoding="utf-8").splitlines(True)
    for split, count in (("train", train), ("test", test)):
        rows = [line for line in lines if f'"demo-{split}-' in line]
        (folder / f"{split}.jsonl").write_text("".join(rows[:count]), encoding="utf-8")


def start(config: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start a run in the folder of its config, as the first process of a group."""
    return subprocess.Popen(
        [str(SCRIPT), "run", config.name, *map(str, arguments)],
        cwd=config.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_listen,
        env={**os.environ, "GPT3MIX_CACHE": str(config.parent.parent / "cache")},
    )


def _listen() -> None:
    """Undo what tests in the background hand down: ignored signals."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for a run that must succeed; return its stdout and stderr."""
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return out, err


def contents(folder: Path) -> dict[str, str]:
    """Return every file of rows and trials under a folder, without the seconds."""
    seconds = re.compile(r'"seconds": [\d.e-]+')
    return {
        str(path.relative_to(folder)): seconds.sub("", path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.jsonl"))
    }
