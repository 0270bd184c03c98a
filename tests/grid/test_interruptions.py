"""A run that is killed again and again ends with the files of an undisturbed run."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).with_name("gpt3mix")
DEADLINE = 600  # seconds that a run may take on a busy machine
CONFIG = """\
name: small
task: {{data: {{kind: demo}}, labels: [pos, neg]}}
subsample: {{levels: [4/class], seeds: 2, validation: 20}}
lm: {{kind: local, model: bundled, batch_size: 8}}
augment: {{ratio: 3, max_tokens: 30}}
baselines: [{{kind: eda}}]
classifiers:
  - {{kind: linear}}
  - {{kind: transformer, name: tiny, model: {encoder}, lr: 1e-3, max_epochs: 3, dtype: float32,
     device: cpu}}
  - {{kind: prompt, examples: 1}}
trials: 4
"""
SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def listen() -> None:
    """Undo what tests in the background hand down: ignored signals."""
    for number in SIGNALS[2:]:
        signal.signal(number, signal.SIG_DFL)


def start(config: Path, jobs: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(SCRIPT), "run", str(config), "--jobs", str(jobs)],
        cwd=config.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=listen,
    )


def contents(folder: Path) -> dict[str, str]:
    """Return every file of rows and trials under a folder, without the seconds."""
    seconds = re.compile(r'"seconds": [\d.e-]+')
    return {
        str(path.relative_to(folder)): seconds.sub("", path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.jsonl"))
    }


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2], ids=["serial", "processes"])
def test_thirty_interruptions_lose_and_double_nothing(
    tmp_path: Path, tiny_encoder: Path, jobs: int
) -> None:
    folders = [tmp_path / name for name in ("undisturbed", "killed")]
    for folder in folders:
        folder.mkdir()
        (folder / "small.yaml").write_text(CONFIG.format(encoder=tiny_encoder))
    began = time.monotonic()
    process = start(folders[0] / "small.yaml", jobs)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    duration = time.monotonic() - began
    chance, codes = random.Random(17 + jobs), []
    for _ in range(30):
        process, sent = start(folders[1] / "small.yaml", jobs), signal.SIGTERM
        try:
            # Also a run that is nearly at its end gets its turn, so not all are killed.
            process.wait(chance.uniform(0.2, 1.0) * duration)
        except subprocess.TimeoutExpired:
            sent = chance.choice(SIGNALS)
            os.killpg(process.pid, sent)
        _, err = process.communicate(timeout=DEADLINE)
        assert process.returncode in (0, -signal.SIGKILL, -sent, 128 + sent), err
        assert "Traceback" not in err
        codes.append(process.returncode)
    assert len(set(codes)) > 2
    process = start(folders[1] / "small.yaml", jobs)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    results = [contents(folder / "results") for folder in folders]
    assert results[0] == results[1]
    assert not list(folders[1].rglob("*.partial"))
