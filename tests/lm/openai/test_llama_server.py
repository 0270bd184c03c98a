"""The packaged LM in llama.cpp's server: like the local engine, and like the recorded answers."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from families import bytes_tokenizer, saved
from llama_server import CONVERTER, Server, llama_server, model_as_gguf, needs_llama_server
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from gpt3mix_cli.data import load_splits
from gpt3mix_cli.lm.local.engine import LocalLM
from gpt3mix_cli.method.prompt import label_choices, label_prefix, render_prompt
from gpt3mix_cli.settings import LocalLMSettings, Task

pytestmark = [pytest.mark.slow, needs_llama_server]

CONTEXT = 1024
KEY = "a-key-of-the-tests"
SHAPES = sorted((Path(__file__).parent / "shapes").glob("llamacpp-*.json"))
# What the server would do to the probabilities unless the request says otherwise.
PURE = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("llama")
    options = ["--n_ctx", str(CONTEXT), "--model_alias", "reviews"]
    with llama_server(
        model_as_gguf(folder / "reviews.gguf"), folder / "log", *options, key=KEY
    ) as running:
        yield running


@pytest.fixture(scope="module")
def local() -> LocalLM:
    return LocalLM(LocalLMSettings(kind="local", model="bundled"))


def prompts(task: Task, k: int, count: int) -> list[str]:
    rows = load_splits(task, 0).train
    return [render_prompt(task, rows[i * k : i * k + k]) for i in range(count)]


def top(answer: Any) -> dict[str, float]:
    (choice,) = answer["choices"]
    return choice["logprobs"]["top_logprobs"][-1]


def test_both_cut_prompts_into_the_same_tokens(server: Server, task: Task) -> None:
    tokenizer = AutoTokenizer.from_pretrained(CONVERTER.parents[1] / "gpt3mix_cli/resources/lm")
    odd = [
        "",
        " ",
        "café \U0001f600 naïve\t\tfilm",
        "It 's n't\n\n  two   spaces 1999!!!",
        "a<|endoftext|>b",
    ]
    for text in [*prompts(task, 1, 40), *prompts(task, 2, 40), *prompts(task, 8, 5), *odd]:
        assert (
            server.ask("extras/tokenize", input=text)["tokens"] == tokenizer(text)["input_ids"]
        ), text


def test_labels_have_the_local_engines_probabilities(
    server: Server, local: LocalLM, task: Task
) -> None:
    rows = load_splits(task, 0).train
    contexts = [
        f"{text} {rows[-1 - i].text}{label_prefix(task)}"
        for i, text in enumerate(prompts(task, 2, 40))
    ]
    for text, expected in zip(contexts, local.score(contexts, label_choices(task)), strict=True):
        logprobs = top(server.ask("v1/completions", prompt=text, max_tokens=1, logprobs=20, **PURE))
        # A hundredth of what a label may be wrong by: a wrong constant of the model shows here.
        assert [logprobs[choice] for choice in label_choices(task)] == pytest.approx(
            expected.logprobs, abs=1e-4
        )


def test_one_request_writes_a_line_and_scores_its_label(
    server: Server, local: LocalLM, task: Task
) -> None:
    for seed, text in enumerate(prompts(task, 2, 10)):
        answer = server.ask(
            "v1/completions",
            prompt=text,
            max_tokens=120,
            stop=["\n"],
            logprobs=5,
            seed=seed,
            **PURE,
        )
        (choice,) = answer["choices"]
        written, logprobs = choice["text"], choice["logprobs"]
        before, prefix, _ = written.partition(label_prefix(task))
        if prefix:
            # The label's token is the one that begins where the label prefix ends.
            at = logprobs["text_offset"].index(len(text) + len(before) + len(prefix))
            (expected,) = local.score([text + before + prefix], label_choices(task))
            assert [
                logprobs["top_logprobs"][at][label] for label in label_choices(task)
            ] == pytest.approx(expected.logprobs, abs=1e-4)
            break
    else:
        pytest.fail(f"no line of ten has an annotation\n{server.tail()}")


@pytest.fixture(scope="module")
def unusual(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A random Llama with grouped keys, an untied output layer and a token before each text."""
    tokenizer = bytes_tokenizer(texts, 400)
    token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.bos_token = token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{token} $A", special_tokens=[(token, 0)]
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 7,  # rounded up, as many models have it
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        rms_norm_eps=1e-5,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return saved(tmp_path_factory.mktemp("unusual"), tokenizer, LlamaForCausalLM(config))


def test_another_llama_is_converted_faithfully(
    unusual: Path, tmp_path: Path, texts: list[str]
) -> None:
    tokenizer, model = (
        AutoTokenizer.from_pretrained(unusual),
        AutoModelForCausalLM.from_pretrained(unusual),
    )
    with llama_server(
        model_as_gguf(tmp_path / "unusual.gguf", unusual), tmp_path / "log", "--n_ctx", "512"
    ) as server:
        for text in texts[:5]:
            tokens = tokenizer(text)["input_ids"]
            assert server.ask("extras/tokenize", input=text)["tokens"] == tokens
            with torch.inference_mode():
                expected = model(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
            answer = server.ask(
                "v1/completions",
                prompt=text,
                max_tokens=1,
                logprobs=5,
                logit_bias={"50": 1000},
                **PURE,
            )
            assert answer["usage"]["prompt_tokens"] == len(tokens)
            assert answer["choices"][0]["logprobs"]["token_logprobs"] == pytest.approx(
                [float(expected[50])], abs=1e-3
            )


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("config.json", {"hidden_act": "gelu"}, "hidden_act is gelu"),
        ("config.json", {"attention_bias": True}, "attention_bias is True"),
        (
            "config.json",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rope_type is linear",
        ),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "not a byte-level BPE"),
        (
            "tokenizer.json",
            {
                "pre_tokenizer": {
                    "type": "ByteLevel",
                    "add_prefix_space": True,
                    "trim_offsets": True,
                    "use_regex": True,
                }
            },
            "not a byte",
        ),
    ],
)
def test_what_llama_cpp_would_misread_is_refused(
    file: str, change: dict[str, Any], expected: str, tiny_lm: Path, tmp_path: Path
) -> None:  # fmt: skip
    for path in tiny_lm.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / file).write_text(
        json.dumps(json.loads((tmp_path / file).read_text("utf-8")) | change), "utf-8"
    )
    output = tmp_path / "out.gguf"
    done = subprocess.run(
        [sys.executable, CONVERTER, tmp_path, "-o", output],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists()


def shape(value: Any) -> Any:
    """Return the types in an answer; of token maps and lists, only those of one entry."""
    if isinstance(value, dict):
        words = value and all(isinstance(item, float) for item in value.values())
        return {"": "float"} if words else {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[-1])] if value else []
    return type(value).__name__


@pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.stem)
def test_answers_look_as_they_were_recorded(path: Path, server: Server) -> None:
    recorded = json.loads(path.read_text("utf-8"))
    status, answer = server.send(recorded["path"], recorded["request"], recorded.get("key"))
    assert status == recorded["status"], server.tail()
    assert shape(answer) == shape(recorded["answer"])
    assert KEY not in json.dumps(answer)
