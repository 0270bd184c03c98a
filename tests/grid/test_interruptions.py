"""A run that is killed again and again ends with the files of an undisturbed run."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from whole_runs import DEADLINE, TASK, contents, finish, start, write_rows

CONFIG = f"""\
name: small
{TASK}\
subsample: {{levels: [4/class], seeds: 2, validation: 10}}
lm: {{kind: local, model: bundled, batch_size: 8}}
augment: {{ratio: 2, max_tokens: 20}}
baselines: [{{kind: eda}}]
classifiers:
  - {{kind: linear}}
  - {{kind: transformer, name: tiny, model: ENCODER, lr: 1e-3, max_epochs: 2, dtype: float32,
     device: cpu}}
  - {{kind: prompt, examples: 1}}
trials: 4
"""
# CI has little time; GPT3MIX_KILLS=15 makes thirty with both executors.
KILLS = int(os.environ.get("GPT3MIX_KILLS", "7"))
SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2], ids=["serial", "processes"])
def test_interruptions_lose_and_double_nothing(
    tmp_path: Path, tiny_encoder: Path, jobs: int
) -> None:
    configs = [tmp_path / name / "small.yaml" for name in ("undisturbed", "killed")]
    for config in configs:
        config.parent.mkdir()
        config.write_text(CONFIG.replace("ENCODER", str(tiny_encoder)))
        write_rows(config.parent)
    began = time.monotonic()
    finish(start(configs[0], "--jobs", jobs))
    duration = time.monotonic() - began
    chance, codes = random.Random(17 + jobs), []
    for _ in range(KILLS):
        process, sent = start(configs[1], "--jobs", jobs), signal.SIGTERM
        try:
            # Soon, so that there is work left for all of them; a run begins with what is done.
            process.wait(chance.uniform(0.1, 0.3) * duration)
        except subprocess.TimeoutExpired:
            sent = chance.choice(SIGNALS)
            os.killpg(process.pid, sent)
        _, err = process.communicate(timeout=DEADLINE)
        assert process.returncode in (0, -signal.SIGKILL, -sent, 128 + sent), err
        assert "Traceback" not in err
        codes.append(process.returncode)
    print(f"one run: {duration:.1f} s; all: {time.monotonic() - began:.1f} s; codes {codes}")
    assert len(set(codes)) > 2
    finish(start(configs[1], "--jobs", jobs))
    results = [contents(config.parent / "results") for config in configs]
    assert results[0] == results[1]
    assert not list(configs[1].parent.rglob("*.partial"))
