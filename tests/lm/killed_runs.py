"""Runs of `augment` that are killed, forked from a process that has loaded everything.

python killed_runs.py URL FOLDER KILLS ROWS: prints the number of kills and the last run's status.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import openai  # noqa: F401 - so that no run loads it again

from gpt3mix_cli.augment import AugmentOptions, augment, open_augmenter
from gpt3mix_cli.augment.gpt3mix import GPT3Mix  # noqa: F401
from gpt3mix_cli.data import load_splits
from gpt3mix_cli.lm import JournaledLM
from gpt3mix_cli.lm.openai.engine import OpenAILM
from gpt3mix_cli.settings import AugmentSettings, OpenAISettings, Task

AT_ONCE = 4


def run(url: str, folder: Path, rows: int) -> None:
    """Generate the rows, or resume."""
    labels = {"pos": "positive", "neg": "negative"}
    named = {"name": "demo", "text_type": "movie review", "label_type": "sentiment"}
    task = Task.model_validate({**named, "data": {"kind": "demo"}, "labels": labels})
    lm = OpenAILM(
        OpenAISettings(
            kind="openai", model="tiny", base_url=url, endpoint="here", concurrency=AT_ONCE
        )
    )
    journal = JournaledLM(lm, folder / "rows.journal.sqlite")
    augment(
        open_augmenter(AugmentSettings(), task, journal),
        load_splits(task, 0).train[:10],
        folder / "rows.jsonl",
        AugmentOptions(ratio=rows / 10, attempts=20, seed=1),
    )
    journal.close()
    lm.close()


def main() -> None:
    """Kill a number of runs, and let the last one end."""
    url, folder, kills, rows = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    folder.mkdir()
    noise = random.Random(str(folder.name))
    killed = 0
    while True:
        child = os.fork()
        if child == 0:
            try:
                run(url, folder, rows)
            except BaseException as error:
                print(repr(error), flush=True)
                os._exit(1)
            os._exit(0)
        if killed < kills:
            time.sleep(noise.uniform(0.05, 0.3))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not (os.WIFSIGNALED(status) and killed < kills):
            print(f"{killed} killed, status {status}")
            return
        killed += 1


if __name__ == "__main__":
    main()
