"""One input: a command line over a folder of files; how it is run in this process, and judged."""

import base64
import contextlib
import os
import pickle
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from .server import ChangingServer, real_monotonic

MAX_MESSAGE_LINES, MAX_MESSAGE_CHARS = 40, 4000
LEFTOVERS = ("*.partial", "*.lock", "*-journal")
PLACE = re.compile(
    r"(line|row|specification|trial|row group) \d"  # of a file
    r"|(^|[\s'(])--?[a-z]"  # an option
    r"|\b(task|subsample|lm|augment|baselines|classifiers|trials|budget|sweep|name)\b[.:]"  # a key
    r"|[\w*-]/[\w.{-]|\w\.(jsonl?|csv|tsv|parquet|yaml|yml|sqlite|safetensors|gguf)\b"  # a file
    r"|'[^']+'|https?://|CONFIG|MODEL|std(in|out)|\(whole file\)"
)


@dataclass(frozen=True, repr=False)
class Case:
    """An input.

    Attributes:
        target: what is fuzzed.
        argv: after `gpt3mix`; `{url}` becomes the server's address.
        files: path -> content, written over the base folder; None deletes a file.
        stdin: what is piped in.
        answers: changes of the server's first answers: (status, edits).
        dialect: which server it is.
        plots: whether plots are drawn, which is slow.
        folders: paths that become folders.
    """

    target: str
    argv: tuple[str, ...]
    files: Mapping[str, bytes | None] = field(default_factory=dict)
    stdin: bytes = b""
    answers: tuple[Any, ...] = ()
    dialect: str = "vllm"
    plots: bool = False
    folders: tuple[str, ...] = ()

    def __repr__(self) -> str:  # hypothesis shows failures with it
        return f"Case({self.target!r}, {self.argv!r})"

    def write(self, base: Path, folder: Path) -> None:
        """Write all files into a new folder."""
        shutil.copytree(base, folder, symlinks=True)
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if data is not None:
                path.write_bytes(data)
        for name in self.folders:
            (folder / name).unlink(missing_ok=True)
            (folder / name).mkdir(parents=True)

    def save(self, base: Path, folder: Path, problem: str, text: str) -> None:
        """Write a failing input for people, with the command that repeats it."""
        shutil.rmtree(folder, ignore_errors=True)
        self.write(base, folder)
        (folder / "stdin.bin").write_bytes(self.stdin)
        (folder / "case.pickle").write_bytes(base64.encodebytes(pickle.dumps(self)))
        command = shlex.join(["gpt3mix", *self.argv])
        answers = re.sub(r"(.)\1{50,}", r"\1\1\1…", str(self.answers))
        (folder / "case.md").write_text(
            f"# {problem}\n\n    {command} < stdin.bin\n\nor, with the server: scripts/fuzz "
            f"--replay {folder}\n\nanswers: {answers} of {self.dialect}\n\n{text}\n",
            encoding="utf-8",
            errors="backslashreplace",
        )

    @staticmethod
    def load(folder: Path) -> "Case":
        """Return a saved input. Only load what `scripts/fuzz` has written here."""
        case: Case = pickle.loads(base64.decodebytes((folder / "case.pickle").read_bytes()))
        return case


@dataclass(frozen=True)
class RunResult:
    """What a run did.

    Attributes:
        code: exit code; None if it was ended by the time limit or an exception came through.
        err: stderr.
        seconds: it took.
        problem: a short name of what is wrong, the same for equal faults; empty if nothing is.
    """

    code: int | None
    err: str
    seconds: float
    problem: str = ""


class TookTooLong(BaseException):
    """The time limit has passed."""


def _on_alarm(number: int, frame: FrameType | None) -> None:
    raise TookTooLong


def run_case(
    case: Case, base: Path, folder: Path, server: ChangingServer, limit_s: float
) -> RunResult:
    """Run an input in this process.

    Args:
        case: the input.
        base: the folder with the files that inputs have in common.
        folder: where to run; it is replaced.
        server: answers.
        limit_s: seconds after which it hangs.
    """
    from gpt3mix_cli import cli

    shutil.rmtree(folder, ignore_errors=True)
    case.write(base, folder / "work")
    (folder / "stdin").write_bytes(case.stdin)
    server.changes, server.options.dialect = list(case.answers), case.dialect
    argv = [word.replace("{url}", server.url) for word in case.argv]
    code, hangs = None, False
    signal.signal(signal.SIGALRM, _on_alarm)
    started = real_monotonic()
    with _streams(folder), _plots(case.plots), contextlib.chdir(folder / "work"):
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        try:
            code = cli.main(argv)
        except TookTooLong:
            hangs = True
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = real_monotonic() - started
    err = (folder / "stderr").read_text(encoding="utf-8", errors="replace")
    problem = "hangs" if hangs else _judge(code, err, folder, argv)
    return RunResult(code, err, seconds, problem)


def _judge(code: int | None, err: str, folder: Path, argv: Sequence[str]) -> str:
    if code not in (0, 2, 3):
        return f"exit {code}: {_last_frame(err)}"
    if "Traceback (most recent" in err:
        return f"traceback: {_last_frame(err)}"
    if warning := re.search(r"^.*?(\w+Warning): ", err, re.MULTILINE):
        return f"a library's {warning[1]}: {warning[0][-100:]}"
    if leftovers := [path for pattern in LEFTOVERS for path in (folder / "work").rglob(pattern)]:
        return f"leaves {_shape(leftovers[0].name)}"
    message = re.split(r"^(?:error|stopped): ", err, flags=re.MULTILINE)[-1]
    text = message.partition("\n  fix: ")[0]
    if argv[0] == "check":  # its findings are its result
        text += (folder / "stdout").read_text(encoding="utf-8", errors="replace")
    if code and not PLACE.search(text) and not any(f"{word}:" in text for word in argv):
        return f"no place: {_shape(message)}"
    if len(message) > MAX_MESSAGE_CHARS or message.count("\n") > MAX_MESSAGE_LINES:
        return f"a message of {len(message) // 1000 or 1},000 characters: {_shape(message)}"
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", err.replace("\r\n", "")):
        return f"control characters in a message: {_shape(message)}"
    return ""


def _last_frame(err: str) -> str:
    """Return the exception and the last place in our own code."""
    frames = re.findall(r'File "[^"]*?/(gpt3mix_cli/[^"]+)", line \d+, in (\S+)', err)
    lines = [line for line in err.splitlines() if line and not line.startswith((" ", "gpt3mix:"))]
    where = " in ".join(frames[-1]) if frames else "?"
    return f"{_shape(lines[-1]).partition(':')[0] if lines else '?'} ({where})"


def _shape(text: str) -> str:
    """Return the start of a message without what differs between inputs."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", text)
    return re.sub(r"\d+", "N", " ".join(text.split()))[:90]


@contextlib.contextmanager
def _streams(folder: Path) -> Iterator[None]:
    """Let stdin, stdout and stderr of this process be files."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in range(3)]
    flags = os.O_RDWR | os.O_CREAT
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        descriptor = os.open(folder / name, flags)
        os.dup2(descriptor, number)
        os.close(descriptor)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        for number, before in enumerate(kept):
            os.dup2(before, number)
            os.close(before)


@contextlib.contextmanager
def _plots(wanted: bool) -> Iterator[None]:
    """Leave out the drawing of plots, unless it is wanted: it takes seconds."""
    from gpt3mix_cli.report.render import plots

    before = plots.plot_files
    if not wanted:
        plots.plot_files = lambda charts, styles: iter(())
    try:
        yield
    finally:
        plots.plot_files = before
