"""Folders of models as people have them: code of their own, contradictions, odd tokenizers."""

import ast
import io
import json
import shutil
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import pytest

import gpt3mix_cli
from gpt3mix_cli.augment import open_augmenter
from gpt3mix_cli.errors import StoppedShort, UserError
from gpt3mix_cli.lm.openai.session import TokenCounter
from gpt3mix_cli.method.selection import ExampleSelector
from gpt3mix_cli.pretrained import load_model, load_tokenizer, loading_error
from gpt3mix_cli.records import Augmented, Example
from gpt3mix_cli.settings import (
    BacktranslateSettings,
    LocalLMSettings,
    MlmSettings,
    SetFitSettings,
    Task,
    TransformerSettings,
    generator,
)
from gpt3mix_cli.train import open_classifier
from gpt3mix_cli.train.saved_models import load_saved_model

LOADERS = {"from_pretrained", "from_config", "load_dataset", "SentenceTransformer"}
ROWS = [
    Augmented(id=str(i), text=text, label=label, probs={label: 1.0, other: 0.0})
    for i, (text, label, other) in enumerate(
        [("a good film", "pos", "neg"), ("a bad film", "neg", "pos"), ("fine", "pos", "neg")]
    )
]


def edit(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; None removes a key."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def open_lm(folder: Path) -> Any:
    from gpt3mix_cli.lm.local.engine import LocalLM

    return LocalLM(LocalLMSettings(kind="local", model=str(folder), dtype="float32", device="cpu"))


def score(folder: Path) -> Any:
    return open_lm(folder).score(["a good film:"], [" a", " b"])


def similarity(folder: Path) -> Any:
    rows = [Example(id=row.id, text=row.text, label=row.label) for row in ROWS]
    return ExampleSelector(rows, "nearest", str(folder)).select(2, generator(0, "x"))


def augment(folder: Path, **settings: Any) -> Any:
    task = Task.model_validate({"name": "x", "data": {"kind": "demo"}, "labels": ["pos", "neg"]})
    kind = BacktranslateSettings if settings["kind"] == "backtranslate" else MlmSettings
    rows = [Example(id=row.id, text=row.text, label=row.label) for row in ROWS]
    return next(open_augmenter(kind.model_validate(settings), task).generate(rows, 0, 1, 0))


def classifier(folder: Path) -> Any:
    settings = {"kind": "transformer", "model": str(folder), "max_length": 32, "batch_size": 4}
    settings |= {"max_epochs": 1, "device": "cpu", "dtype": "float32"}
    model = open_classifier(TransformerSettings.model_validate(settings), ["pos", "neg"])
    model.probe()
    return model


def setfit(folder: Path) -> Any:
    if not util.find_spec("setfit"):
        pytest.skip("needs the extra setfit")
    model = open_classifier(SetFitSettings(kind="setfit", model=str(folder)), ["pos", "neg"])
    model.probe()


KEYS: dict[str, Callable[[Path], Any]] = {
    "lm.model": score,
    "lm.tokenizer": lambda folder: TokenCounter(str(folder)).count("a"),
    "augment.similarity": similarity,
    "mlm.model": lambda folder: augment(folder, kind="mlm", model=str(folder)),
    "backtranslate.forward": lambda folder: augment(
        folder, kind="backtranslate", forward=str(folder), backward=str(folder)
    ),
    "classifiers.model": classifier,
    "setfit.model": setfit,
    "predict": load_saved_model,
}
every_key = pytest.mark.parametrize("key", KEYS)


# Foreign code -------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder whose model and tokenizer are code in it, which would write a file."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "own.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w').write('code ran')\n")
    parts = ("Config", "Model", "ModelForCausalLM", "ModelForMaskedLM", "ModelForSeq2SeqLM")
    names = {f"Auto{part}": "own.Own" for part in (*parts, "ModelForSequenceClassification")}
    config = {"model_type": "own", "auto_map": names, "id2label": {"0": "pos", "1": "neg"}}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


@every_key
def test_code_of_a_model_never_runs_and_nobody_is_asked(
    key: str, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = io.StringIO("y\n" * 20)
    monkeypatch.setattr(sys, "stdin", answers)
    with pytest.raises(UserError, match="needs code of its own, which gpt3mix never runs") as error:
        KEYS[key](foreign)
    assert error.value.exit_code == 2
    assert answers.read() == "y\n" * 20
    assert not (tmp_path / "RAN").exists()


def test_a_module_of_a_sentence_encoder_is_foreign_code(
    foreign: Path, tmp_path: Path, tiny_encoder: Path
) -> None:
    """Releases before 6 ran it from local folders."""
    shutil.copytree(tiny_encoder, foreign, dirs_exist_ok=True)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "own.Own"}]
    (foreign / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match="needs code of its own"):
        setfit(foreign)
    assert not (tmp_path / "RAN").exists()


def test_a_model_that_the_library_knows_is_loaded_without_its_code(
    foreign: Path, tmp_path: Path, tiny_lm: Path
) -> None:
    own = json.loads((foreign / "config.json").read_text())["auto_map"]
    shutil.copytree(tiny_lm, foreign, dirs_exist_ok=True)
    edit(foreign / "config.json", auto_map=own)
    assert score(foreign)
    assert not (tmp_path / "RAN").exists()


def test_every_loader_is_called_without_foreign_code() -> None:
    """A call that leaves the option out asks on stdin."""
    found = 0
    for path in Path(gpt3mix_cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in LOADERS:
                    found += 1
                    options = [ast.unparse(keyword.value) for keyword in node.keywords]
                    assert "NO_FOREIGN_CODE" in options, f"{path}:{node.lineno}"
    assert found >= len(LOADERS)


def test_a_pickle_with_code_is_refused(tmp_path: Path, tiny_lm: Path) -> None:
    import torch

    class Code:
        def __reduce__(self) -> Any:
            return open, (str(tmp_path / "RAN"), "w")

    folder = copy_of(tiny_lm, tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Code()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle with more than tensors"):
        score(folder)
    assert not (tmp_path / "RAN").exists()


# Folders that contradict themselves ---------------------------------------------------------------


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 64}, "missing or of another size"),
        ({"num_hidden_layers": 3}, "missing or of another size"),
        ({"num_hidden_layers": 1}, "fewer layers than the weights"),
        ({"num_hidden_layers": 10**9}, "far more weights than there are"),
        ({"intermediate_size": 10**12}, "far more weights than there are"),
        ({"vocab_size": 10**30}, "far more weights than there are"),
        ({"hidden_size": "many"}, "expected int"),
        ({"num_attention_heads": 0}, "cannot be loaded"),
        ({"hidden_act": "none"}, "contradict each other"),
    ],
)
@pytest.mark.parametrize("key", ["lm.model", "classifiers.model"])
def test_a_config_that_does_not_belong_to_the_weights(
    key: str, values: dict[str, Any], message: str, tmp_path: Path, tiny_lm: Path
) -> None:
    folder = copy_of(tiny_lm, tmp_path)
    edit(folder / "config.json", **values)
    with pytest.raises(UserError, match=message):
        KEYS[key](folder)


@pytest.mark.parametrize("key", ["lm.model", "classifiers.model", "augment.similarity"])
def test_weights_that_are_not_numbers(key: str, tmp_path: Path, tiny_lm: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy_of(tiny_lm, tmp_path)
    file = folder / "model.safetensors"
    broken = {name: weight * float("nan") for name, weight in load_file(file).items()}
    save_file(broken, file, {"format": "pt"})
    with pytest.raises(UserError, match="not all are numbers"):
        KEYS[key](folder)


@every_key
def test_an_adapter_is_named_with_its_model(key: str, tmp_path: Path) -> None:
    about = {"base_model_name_or_path": "Qwen/Qwen3-4B-Base", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))
    (tmp_path / "config.json").write_text('{"id2label": {"0": "pos", "1": "neg"}}')
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"a LoRA adapter of Qwen/Qwen3-4B-Base\nmerge it first"):
        KEYS[key](tmp_path)


@pytest.mark.parametrize("key", ["lm.tokenizer", "mlm.model", "classifiers.model"])
def test_only_the_lm_reads_gguf_files(key: str, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for path in (tmp_path, tmp_path / "model.gguf"):
        with pytest.raises(UserError, match=r"a GGUF file, which only lm\.model reads"):
            KEYS[key](path)


@pytest.mark.parametrize("kind", ["Bert", "T5"])
def test_an_encoder_or_a_translator_is_no_lm(kind: str, tmp_path: Path, tiny_lm: Path) -> None:
    """The library gives a masked LM the head of a causal one, with attention to both sides."""
    import transformers

    config = {"vocab_size": 500, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}
    config |= {"num_attention_heads": 2} if kind == "Bert" else {"d_ff": 8, "d_kv": 4, "d_model": 8}
    head = "BertForMaskedLM" if kind == "Bert" else "T5ForConditionalGeneration"
    model = getattr(transformers, head)(getattr(transformers, f"{kind}Config")(**config))
    folder = copy_of(tiny_lm, tmp_path)
    model.save_pretrained(folder)
    with pytest.raises(UserError, match=f"causal LM: {kind.lower()} is an? (encoder|translator)"):
        open_lm(folder)


# Tokenizers ---------------------------------------------------------------------------------------


def with_token(folder: Path, tmp_path: Path, special: bool) -> Path:
    from transformers import AutoTokenizer

    copy = copy_of(folder, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(copy)
    if special:
        tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    else:
        tokenizer.add_tokens(["[NEW]"])
    tokenizer.save_pretrained(copy)
    return copy


@pytest.mark.parametrize("key", ["lm.model", "classifiers.model", "augment.similarity"])
def test_a_tokenizer_larger_than_the_embeddings(key: str, tmp_path: Path, tiny_lm: Path) -> None:
    folder = with_token(tiny_lm, tmp_path, special=False)
    with pytest.raises(UserError, match="the tokenizer has ids up to 500, the model 500 embed"):
        KEYS[key](folder)


def test_a_special_token_without_an_embedding_is_left_out(tmp_path: Path, tiny_lm: Path) -> None:
    """Many models have such a token for padding; no text is to have it."""
    lm = open_lm(with_token(tiny_lm, tmp_path, special=True))
    assert lm.score(["a[NEW] b"], [" c"]) == lm.score(["a b"], [" c"])
    fitted = classifier(tmp_path / "copy")
    fitted.fit(ROWS, ROWS, 0)
    first, second = fitted.predict_proba(["a[NEW] b", "a b"])
    assert first == pytest.approx(second, abs=1e-6)


def test_a_decoder_without_a_token_for_padding_pads_with_eos(tmp_path: Path, tiny_lm: Path) -> None:
    """A row that is padded gets the scores that it has alone."""
    folder = copy_of(tiny_lm, tmp_path)
    edit(folder / "tokenizer_config.json", pad_token=None)
    edit(folder / "config.json", pad_token_id=None)
    model = classifier(folder)
    model.fit(ROWS, ROWS, 0)
    assert model._encoder.tokenizer.pad_token == "<end>"
    alone = model.predict_proba(["good"])[0]
    padded = model.predict_proba(["good", "a film that is much longer, and bad"])[0]
    assert alone == pytest.approx(padded, abs=1e-5)


@pytest.mark.parametrize("added", ["$A <end>", "<end> $A <end>"])
def test_an_lm_continues_a_prompt_whose_tokenizer_would_end_it(
    added: str, tmp_path: Path, tiny_lm: Path
) -> None:
    from tokenizers import Tokenizer, processors

    folder = copy_of(tiny_lm, tmp_path)
    plain = open_lm(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=added, special_tokens=[("<end>", 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    lm = open_lm(folder)
    begin = [0] if added.startswith("<end>") else []
    assert lm._tokenizer.encode("a film") == begin + plain._tokenizer.encode("a film")
    assert lm.info.fingerprint != plain.info.fingerprint


def test_a_length_that_is_no_number(tmp_path: Path, tiny_lm: Path) -> None:
    folder = copy_of(tiny_lm, tmp_path)
    edit(folder / "tokenizer_config.json", model_max_length="long")
    with pytest.raises(UserError, match="model_max_length of its tokenizer is no number"):
        load_tokenizer(str(folder), "x", "y")


# Memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
        OSError(12, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_too_little_memory_stops_short(error: Exception) -> None:
    raised = loading_error(error, "lm.model x", "y")
    assert isinstance(raised, StoppedShort)
    assert raised.message == "lm.model x: not enough memory"


def test_a_model_that_does_not_fit_the_memory(
    tmp_path: Path, tiny_lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    def refuse(*args: Any, **options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(LlamaForCausalLM, "forward", refuse)
    with pytest.raises(StoppedShort, match="not enough memory"):
        load_model("AutoModelForCausalLM", str(tiny_lm), "lm.model x", "y", device="cpu")
