"""Forked workers that run inputs, and the parent that watches them."""

import argparse
import contextlib
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.errors

from .cases import Case, RunResult, run_case
from .server import changing_server, speed_up_waits
from .targets import BASE_COMMANDS, all_targets, write_base

CHUNK = 50  # inputs for a worker at a time
MAX_SHRINKING = 60  # runs that shrink one failure
MAX_MEMORY = 6e9  # bytes more than at the start
GRACE_S = 15.0  # after the time limit; then the process is killed


@dataclass
class Row:
    """The tally of a target."""

    inputs: int = 0
    failures: int = 0
    seconds: float = 0.0


@dataclass
class Tally:
    """What was run, and the failures: (problem, folder)."""

    rows: dict[str, Row] = field(default_factory=dict)
    failures: list[tuple[str, Path]] = field(default_factory=list)


@dataclass
class Worker:
    """A process, the pipe to it, and when its input began."""

    process: Any
    pipe: Connection
    folder: Path
    target: str = ""


def import_all() -> None:
    """Import what commands need, so that forked processes have it."""
    import aiohttp.web  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch  # noqa: F401

    import gpt3mix_cli.cli
    import gpt3mix_cli.console
    import gpt3mix_cli.grid.check
    import gpt3mix_cli.grid.plan
    import gpt3mix_cli.report
    import gpt3mix_cli.report.render.page
    import gpt3mix_cli.train.linear
    import gpt3mix_cli.train.predict  # noqa: F401

    with contextlib.suppress(ImportError):
        import openai  # noqa: F401


def fuzz(given: argparse.Namespace) -> Tally:
    """Run the inputs of all targets and return their tally."""
    import_all()
    with _scratch() as scratch:
        base = scratch / "base"
        _in_process(_make_base, base)
        targets = all_targets(base)
        names = given.target or list(targets)
        total = sum(targets[name][0] for name in names)
        counts = {name: round(given.inputs * targets[name][0] / total) for name in names}
        chunks = [
            (name, start, min(CHUNK, count - start))
            for name, count in counts.items()
            for start in range(0, count, CHUNK)
        ]
        chunks.sort(key=lambda chunk: chunk[1])
        tally = _Pool(given, scratch, base).run(chunks)
        lost = sum(counts.values()) - sum(row.inputs for row in tally.rows.values())
        if lost > 0:
            tally.failures.append(
                (f"{lost} inputs were not run, since their process died", scratch)
            )
        return tally


def replay(folder: Path, limit_s: float) -> int:
    """Run a saved failure again; return 1 if it still fails."""
    import_all()
    case = Case.load(folder)
    with _scratch() as scratch, changing_server() as server:
        _in_process(_make_base, scratch / "base")
        speed_up_waits()
        os.environ["HOME"] = str(scratch)
        outcome = run_case(case, scratch / "base", scratch / "case", server, limit_s)
    print(f"exit {outcome.code} after {outcome.seconds:.1f} s: {outcome.problem or 'as it should'}")
    print(outcome.err)
    return 1 if outcome.problem else 0


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="gpt3mix-fuzz-", dir=place) as folder:
        yield Path(folder)


def _in_process(function: Any, *arguments: Any) -> None:
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"fuzz: {function.__name__} ended with {process.exitcode}")


def _make_base(base: Path) -> None:
    write_base(base)
    with changing_server() as server:
        for number, argv in enumerate(BASE_COMMANDS):
            run = base.with_name(f"base-{number}")
            outcome = run_case(Case("base", argv), base, run, server, 120)
            if outcome.code:
                sys.exit(f"{argv}: exit {outcome.code}\n{outcome.err}")
            shutil.rmtree(base)
            shutil.move(run / "work", base)


class _Pool:
    def __init__(self, given: argparse.Namespace, scratch: Path, base: Path) -> None:
        self._given, self._scratch, self._base = given, scratch, base
        self._known: set[str] = set()
        self._tally = Tally()

    def run(self, chunks: list[tuple[str, int, int]]) -> Tally:
        chunks = list(reversed(chunks))
        workers = [self._start(number) for number in range(min(self._given.jobs, len(chunks)))]
        while workers:
            for worker in list(workers):
                if not worker.target and not self._give(worker, chunks):
                    worker.pipe.send(None)
                    worker.process.join()
                    workers.remove(worker)
            ready = wait([worker.pipe for worker in workers], timeout=1)
            for worker in list(workers):
                if worker.pipe in ready and self._receive(worker):
                    continue
                if not worker.process.is_alive() or self._is_late(worker):
                    workers.remove(worker)
                    self._bury(worker)
                    workers.append(self._start(int(worker.folder.name)))
        return self._tally

    def _start(self, number: int) -> Worker:
        folder = self._scratch / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        limit = self._given.limit
        process = context.Process(target=_work, args=(theirs, self._base, folder, limit))
        process.start()
        theirs.close()
        return Worker(process, ours, folder)

    def _give(self, worker: Worker, chunks: list[tuple[str, int, int]]) -> bool:
        if not chunks:
            return False
        name, start, count = chunks.pop()
        worker.target = name
        worker.pipe.send((name, f"{self._given.seed} {name} {start}", count, self._known))
        return True

    def _receive(self, worker: Worker) -> bool:
        """Handle a message; return False if the process has ended."""
        try:
            kind, *values = worker.pipe.recv()
        except (EOFError, OSError):
            return False
        row = self._tally.rows.setdefault(worker.target, Row())
        if kind == "failure":
            self._fail(*values)
        else:
            inputs, seconds = values
            row.inputs += inputs
            row.seconds += seconds
            if kind == "end":
                worker.target = ""
        return True

    def _fail(self, case: Case, outcome: RunResult) -> None:
        if outcome.problem in self._known:
            return
        self._known.add(outcome.problem)
        self._tally.rows.setdefault(case.target, Row()).failures += 1
        folder = self._given.failures / f"{case.target}-{len(self._tally.failures) + 1:02d}"
        case.save(self._base, folder, outcome.problem, outcome.err[-20_000:])
        self._tally.failures.append((f"{case.target}: {outcome.problem}", folder))
        print(f"{case.target}: {outcome.problem}\n   {folder}", flush=True)

    def _is_late(self, worker: Worker) -> bool:
        with contextlib.suppress(OSError):
            begun = (worker.folder / "current").stat().st_mtime
            return bool(worker.target) and time.time() - begun > self._given.limit + GRACE_S
        return False

    def _bury(self, worker: Worker) -> None:
        late = worker.process.is_alive()
        if late:
            worker.process.kill()
        worker.process.join()
        problem = "hangs and ignores the time limit" if late else (
            f"the process dies ({worker.process.exitcode})"
        )  # fmt: skip
        with contextlib.suppress(OSError):
            case = pickle.loads((worker.folder / "current").read_bytes())
            self._fail(case, RunResult(None, "", 0.0, f"{problem} ({case.argv[0]})"))
        worker.pipe.close()


# In a worker -------------------------------------------------------------------------------------


def _work(pipe: Connection, base: Path, folder: Path, limit_s: float) -> None:
    warnings.filterwarnings("ignore", category=hypothesis.errors.HypothesisWarning)
    os.environ |= {"HOME": str(folder), "GPT3MIX_CACHE": str(folder / "cache")}
    memory = int(MAX_MEMORY) + _virtual_size()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    speed_up_waits()
    with changing_server() as server:
        targets = all_targets(base)

        def run(case: Case) -> RunResult:
            (folder / "current").write_bytes(pickle.dumps(case))
            result = run_case(case, base, folder / "case", server, limit_s)
            (folder / "current").unlink()
            return result

        while chunk := pipe.recv():
            name, seed, count, known = chunk
            _Chunk(pipe, targets[name][1], run, set(known)).run_all(seed, count)
    os._exit(0)


def _virtual_size() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


class _Failed(Exception):
    """An input failed; hypothesis shrinks it."""


@dataclass
class _Chunk:
    """Runs some inputs of a target, and reports failures as they come.

    Attributes:
        pipe: to the parent.
        strategy: of the inputs.
        run: runs one.
        known: problems that were reported before.
        done: number of inputs.
    """

    pipe: Connection
    strategy: Any
    run: Callable[[Case], RunResult]
    known: set[str]
    done: int = 0

    def run_all(self, seed: str, count: int) -> None:
        """Run inputs; hypothesis ends at a failure, so it is started again for the others."""
        began, before = time.time(), -1
        while before < self.done < count:
            before = self.done
            self._run_round(f"{seed} {before}", count - before)
        self.pipe.send(("end", self.done, time.time() - began))

    def _run_round(self, seed: str, count: int) -> None:
        worst: dict[str, tuple[Case, RunResult]] = {}
        shrinking = 0

        @hypothesis.seed(random.Random(seed).getrandbits(64))
        @hypothesis.settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(self.strategy)
        def check(case: Case) -> None:
            nonlocal shrinking
            self.done, shrinking = self.done + (not worst), shrinking + bool(worst)
            if shrinking > MAX_SHRINKING:
                return
            outcome = self.run(case)
            if not outcome.problem or outcome.problem in self.known:
                return
            if outcome.code is None:  # shrinking what takes long would take minutes
                self._report(case, outcome)
            elif not worst or outcome.problem in worst:
                worst[outcome.problem] = case, outcome
                raise _Failed

        with contextlib.suppress(_Failed, hypothesis.errors.Flaky, BaseExceptionGroup):
            check()
        for case, outcome in worst.values():
            self._report(case, outcome)

    def _report(self, case: Case, outcome: RunResult) -> None:
        self.known.add(outcome.problem)
        self.pipe.send(("failure", case, outcome))
