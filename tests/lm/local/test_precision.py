"""Labels in a lower precision: what is computed in float32, what is measured, what it is called."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import CHOICES, LABEL_PREFIX, OPEN_PROMPTS, answers, request
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from gpt3mix_cli.lm.local import decoder, engine
from gpt3mix_cli.lm.local.engine import LocalLM
from gpt3mix_cli.lm.local.precision import LabelPrecision
from gpt3mix_cli.settings import LocalLMSettings

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
# What follows the output layer differs: nothing, soft-capping, a division, a multiplication.
ARCHITECTURES: dict[str, Callable[[int], Any]] = {
    "llama": lambda size: LlamaForCausalLM(LlamaConfig(vocab_size=size, **SIZES)),
    "gemma2": lambda size: Gemma2ForCausalLM(
        Gemma2Config(vocab_size=size, head_dim=16, final_logit_softcapping=3.0, **SIZES)
    ),
    "granite": lambda size: GraniteForCausalLM(
        GraniteConfig(vocab_size=size, logits_scaling=0.25, **SIZES)
    ),
    "cohere": lambda size: CohereForCausalLM(
        CohereConfig(vocab_size=size, logit_scale=4.0, **SIZES)
    ),
}
TEXTS = [f"{OPEN_PROMPTS[0]} {text}{LABEL_PREFIX}" for text in ("fine", "so dull", "a joy")]


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest, tmp_path: Path, tiny_lm: Path) -> Path:
    """A model with a tokenizer whose labels are several tokens."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = ARCHITECTURES[request.param](len(tokenizer))
        for name, weights in model.named_parameters():
            if "norm" not in name:  # larger weights than usual: the logits differ
                torch.nn.init.normal_(weights, std=0.1)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def local(folder: Path, **options: Any) -> LocalLM:
    return LocalLM(LocalLMSettings(kind="local", model=str(folder), device="cpu", **options))


def expected_scores(folder: Path, text: str, choices: tuple[str, ...]) -> list[float]:
    """Scores from bfloat16 hidden states and a float32 output layer, one pass per label."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    context = tokenizer(text)["input_ids"]
    scores = []
    for choice in choices:
        label = tokenizer(text + choice)["input_ids"][len(context) :]
        ids = torch.tensor([[*context, *label]])
        with torch.inference_mode():
            output = model.model(ids)
            output.last_hidden_state = output.last_hidden_state.float()
            # The rest of the forward pass, with whatever follows the output layer.
            whole.model.forward = functools.partial(_return, output)
            logprobs = whole(ids).logits[0].log_softmax(-1)
        positions = torch.arange(len(context), ids.shape[1])
        scores.append(float(logprobs[positions - 1, ids[0, positions]].sum()))
    return scores


def _return(output: Any, *_: Any, **__: Any) -> Any:
    return output


def test_the_output_layer_is_float32_at_labels(architecture: Path) -> None:
    """Scales and soft-capping included. The rest is bfloat16, whose last digits vary a little."""
    results = local(architecture, dtype="bfloat16").score(TEXTS, CHOICES)
    for text, scores in zip(TEXTS, results, strict=True):
        assert scores.source == "rounded"
        assert scores.logprobs == pytest.approx(
            expected_scores(architecture, text, CHOICES), rel=0.02
        )


def test_bfloat16_gives_each_text_a_label_of_its_own(texts: list[str]) -> None:
    """With bfloat16 logits a few dozen values would stand for hundreds of texts."""
    prompts = [f"{OPEN_PROMPTS[0]} {text}{LABEL_PREFIX}" for text in dict.fromkeys(texts)][:60]
    probs = []
    for dtype in ("bfloat16", "float32"):
        lm = LocalLM(LocalLMSettings(kind="local", model="bundled", device="cpu", dtype=dtype))
        logprobs = torch.tensor([scores.logprobs for scores in lm.score(prompts, CHOICES)])
        probs.append(logprobs.softmax(-1)[:, 0])
    errors = (probs[0] - probs[1]).abs()
    assert len(set(probs[0].tolist())) == 60
    assert 0 < errors.median() < 0.01


def test_steps_without_a_label_recompute_nothing(
    architecture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    products, linear = [], decoder.linear

    def counted(*arguments: Any) -> torch.Tensor:
        products.append(len(arguments[0]))
        return linear(*arguments)

    monkeypatch.setattr(decoder, "linear", counted)
    lm = local(architecture, dtype="bfloat16")
    lm._decoder.run  # noqa: B018 - measured while it is loaded
    products.clear()
    answers(lm, [request(max_tokens=20)])
    assert not products
    lm.score(TEXTS[:2], (" a",))
    assert products


def test_labels_of_generated_texts_are_those_that_the_texts_read_as(architecture: Path) -> None:
    lm = local(architecture, dtype="bfloat16")
    asked = [
        request(number, label_prefix="e", choices=CHOICES, max_tokens=40) for number in range(12)
    ]
    scored = 0
    for sent, completion in zip(asked, answers(lm, asked), strict=True):
        if completion.scores:
            (again,) = lm.score([sent.prompt + completion.text + sent.label_prefix], sent.choices)
            assert completion.scores.logprobs == pytest.approx(again.logprobs, rel=0.05)
            scored += 1
    assert scored


def test_label_dtype_float32_equals_the_float32_model(architecture: Path) -> None:
    exact = local(architecture, dtype="float32")
    twice = local(architecture, dtype="bfloat16", label_dtype="float32")
    once = local(architecture, dtype="bfloat16")
    asked = [
        request(number, label_prefix="e", choices=CHOICES, max_tokens=40) for number in range(12)
    ]
    texts = [completion.text for completion in answers(once, asked)]
    completions = answers(twice, asked)
    assert [completion.text for completion in completions] == texts  # generation is the same
    scored = [pair for pair in zip(asked, completions, strict=True) if pair[1].scores]
    assert scored
    for sent, completion in scored:
        assert completion.scores
        assert completion.scores.source == "exact"
        (expected,) = exact.score([sent.prompt + completion.text + sent.label_prefix], sent.choices)
        assert completion.scores.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert "scored once more in float32" in twice.describe()
    assert len({lm.info.fingerprint for lm in (exact, twice, once)}) == 3


def test_the_error_is_measured_once_and_described(
    architecture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = local(architecture, dtype="bfloat16")
    assert "rounded (not measured)" in lm.describe()
    lm.score(TEXTS[:1], CHOICES)
    assert "from float32 in the median" in lm.describe()
    monkeypatch.setattr(engine, "measure_precision", None)  # calling it would fail
    other = local(architecture, dtype="bfloat16")
    other.score(TEXTS[:1], CHOICES)
    assert other.describe() == lm.describe()
    assert local(architecture, dtype="float32").describe().endswith("label scores exact")


def test_a_damaged_measurement_is_measured_again(architecture: Path, tmp_path: Path) -> None:
    local(architecture, dtype="bfloat16").score(TEXTS[:1], CHOICES)
    (file,) = (tmp_path / "cache" / "precision").glob("*.json")
    stored = json.loads(file.read_text())
    file.write_text("{")
    local(architecture, dtype="bfloat16").score(TEXTS[:1], CHOICES)
    assert json.loads(file.read_text()) == stored


@pytest.mark.parametrize(
    ("faster", "size", "error", "dtype"),
    [
        (False, 200, 0.001, "float32"),
        (True, 99, 0.001, "float32"),
        (True, 200, 0.02, "float32"),
        (True, 200, 0.001, "bfloat16"),
    ],
)
def test_auto_takes_bfloat16_on_a_cpu_where_it_is_fast_and_precise(
    tiny_lm: Path,
    monkeypatch: pytest.MonkeyPatch,
    faster: bool,
    size: int,
    error: float,
    dtype: str,
) -> None:
    """No processor of ours has both kinds of instructions, so the three facts are given."""
    monkeypatch.setattr(engine, "has_bfloat16_instructions", lambda: faster)
    monkeypatch.setattr(engine, "num_parameters", lambda config: size * 1_000_000)
    monkeypatch.setattr(
        engine, "measure_precision", lambda *_: LabelPrecision(error, error, prompts=12)
    )
    assert dtype in local(tiny_lm).info.details
