"""What a first signal does: work in flight finishes, and nothing new begins."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpt3mix_cli import stopping
from gpt3mix_cli.errors import NO_CALLBACKS, Callbacks
from gpt3mix_cli.train import TrialJob, run_serially

JOBS = [(number, 0) for number in range(5)]
WORK = """
import contextlib, sys, threading, time
from gpt3mix_cli import cli, process, stopping

def compute():  # the process ends when this thread does
    with contextlib.suppress(stopping.Interrupted):
        while True:
            stopping.stop_now_if_requested()
            time.sleep(0.01)

def work(**options):
    with process.finishing_work_in_flight():
        print("works", flush=True)
        while not stopping.is_stop_requested():
            time.sleep(0.01)
        print("finishes", flush=True)
        if "stubborn" in sys.argv:
            threading.Thread(target=compute).start()
            time.sleep(60)
        stopping.stop_if_requested()

cli.app = work
process.handle_signals()
sys.exit(cli.main())
"""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_is_requested", False)


@pytest.mark.parametrize("stubborn", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_first_signal_lets_work_finish_and_the_second_stops_it(
    tmp_path: Path, sent: signal.Signals, code: int, stubborn: bool
) -> None:
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
    process.send_signal(sent)
    assert process.stdout.readline() == "finishes\n"
    if stubborn:
        process.send_signal(sent)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "once more stops now" in err
    assert err.endswith("finished work is kept, and the same command resumes\n")
    assert "Traceback" not in err


def test_no_trial_begins_after_a_request_to_stop() -> None:
    begun: list[TrialJob] = []

    def run(job: TrialJob, callbacks: Callbacks) -> int:
        begun.append(job)
        if len(begun) == 2:
            stopping.request_stop()
        return job[0]

    assert [result for _, result in run_serially(run, JOBS, NO_CALLBACKS)] == [0, 1]
    assert begun == JOBS[:2]
