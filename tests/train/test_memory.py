"""Training that runs out of memory: the system refuses memory, and the numbers stay the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, resource, sys
from gpt3mix_cli.records import Augmented, Example
from gpt3mix_cli.settings import TransformerSettings
from gpt3mix_cli.train import open_classifier

settings = {
    "kind": "transformer", "model": sys.argv[1], "lr": 1e-4, "max_epochs": 1, "batch_size": 16,
    "max_length": 128, "dtype": "float32", "device": "cpu",
}
texts = [" ".join(["film", "story", "good", "bad"][i % 4:] * 60) for i in range(16)]
rows = [
    Augmented(id=str(i), text=text, label="pn"[i % 2], probs={"p": i % 2 == 0, "n": i % 2})
    for i, text in enumerate(texts)
]
validation = [Example(id="v", text="good film", label="p")]

def fit():
    classifier = open_classifier(TransformerSettings.model_validate(settings), ["p", "n"])
    losses = [epoch["loss"] for epoch in classifier.fit(rows, validation, 3).history]
    return losses, classifier.notes, classifier.predict_proba(texts[:3]).tolist()

plenty = fit()
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + int(float(sys.argv[2]) * 2**20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(json.dumps([plenty, fit()]))
"""


def test_a_fit_that_runs_out_of_memory_continues_with_smaller_micro_batches(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    """The inner layers are so wide that 16 texts take a gigabyte and one text about 60 MB."""
    import torch
    from transformers import AutoConfig, AutoModel

    folder = tmp_path / "wide"
    shutil.copytree(tiny_encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "intermediate_size": 16384,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with torch.random.fork_rng():
        AutoModel.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    # glibc keeps freed blocks in each arena; they would hide that memory is short.
    environment = {
        **os.environ,
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_TRIM_THRESHOLD_": "0",
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    command = [sys.executable, "-c", SCRIPT, str(folder), "200"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    plenty, short = json.loads(done.stdout)
    note = "out of memory: rows go through the model"
    assert not any(note in text for text in plenty[1])
    assert any(note in text for text in short[1])
    assert max(abs(a - b) for a, b in zip(plenty[0], short[0], strict=True)) < 1e-4
    assert (
        max(
            abs(a - b)
            for ours, theirs in zip(plenty[2], short[2], strict=True)
            for a, b in zip(ours, theirs, strict=True)
        )
        < 1e-3
    )
