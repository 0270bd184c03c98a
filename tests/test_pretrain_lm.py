"""Recipe of the packaged LM: sequences have the paper's format, interrupted runs resume exactly."""

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from gpt3mix_cli.method.parsing import parse_line
from gpt3mix_cli.method.prompt import render_prompt
from gpt3mix_cli.settings import Task, generator

SCRIPTS = Path(__file__).parent.parent / "scripts"
SMALL = {
    "vocabulary": 420,
    "model": {"layers": 1, "width": 32, "heads": 2, "feed_forward": 48, "context": 256},
    "sequence": {"tokens": 192, "reviews": 4, "sentences": 3, "shuffled": 0.5, "plain": 0.5},
    "held_out": 0.2,
    "batch_size": 2,
    "tokens": 192 * 2 * 6,
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pretrain_lm", SCRIPTS / "pretrain_lm.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["pretrain_lm"] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    shipped = yaml.safe_load((SCRIPTS / "pretrain_lm.yaml").read_text("utf-8"))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**shipped, **SMALL}), "utf-8")
    return path


@pytest.fixture
def corpus(tmp_path: Path, texts: list[str]) -> Path:
    path = tmp_path / "reviews.jsonl.gz"
    rows = [
        {"label": ("pos", "neg")[i // 4 % 2], "sentences": texts[i : i + 4]}
        for i in range(0, 400, 4)
    ]
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.mark.parametrize(
    ("written", "spelled"),
    [
        ("It's a great film, isn't it?", "it 's a great film , is n't it ?"),
        ('He said "no" (twice)...', "he said `` no '' -lrb- twice -rrb- ..."),
        ("They'll go -- we've gone; I'd stay!", "they 'll go -- we 've gone ; i 'd stay !"),
    ],
)
def test_sentences_get_sst2_spelling(script: ModuleType, written: str, spelled: str) -> None:
    assert script.like_sst2(written) == spelled


def test_a_sequence_is_the_papers_prompt_with_weights_on_its_labels(
    script: ModuleType, recipe: Path, corpus: Path, tmp_path: Path
) -> None:
    small = yaml.safe_load(recipe.read_text("utf-8"))
    parsed = script.Recipe.model_validate(
        {**small, "sequence": {**small["sequence"], "tokens": 900}}
    )  # its tokens are short
    reviews = script.read_corpus(corpus)
    script.train_tokenizer(reviews, parsed, tmp_path / "tokenizer")
    tokenizer: Any = script.PreTrainedTokenizerFast.from_pretrained(tmp_path / "tokenizer")
    batches = script.Batches(script.tokenize_reviews(reviews, tokenizer), parsed, tokenizer)
    known = {
        text
        for _, sentences in reviews
        for sentence in sentences
        for text in (" ".join(sentence.split()), script.like_sst2(sentence))
    }
    seen = 0
    for number in range(40):
        sequence = batches.sequence(generator(0, "test", number))
        ids, weights = sequence.ids, sequence.weights
        text = tokenizer.decode(ids)
        (kind,) = {line.split(":")[0] for line in text.splitlines()[2:-1]}
        label_type = text.splitlines()[0].split("The ")[1].split(" is one of")[0]
        task = Task.model_validate(
            {
                "data": {"kind": "demo"},
                "labels": {"pos": "positive", "neg": "negative"},
                "text_type": kind.lower(),
                "label_type": label_type,
            }
        )
        assert text.startswith(render_prompt(task, []))
        assert tokenizer(text)["input_ids"] == ids, (
            "tokens never merge across the parts of a prompt"
        )
        for line in text.splitlines()[2:-1]:
            answer = parse_line(line, task)
            assert answer.text in known
            assert answer.label is not None
            seen += 1
        heavy = {
            tokenizer.decode([token])
            for token, weight in zip(ids, weights, strict=True)
            if weight == parsed.label_weight
        }
        assert heavy <= {" Positive", " Negative"}
        header = len(tokenizer(render_prompt(task, []))["input_ids"])
        assert not any(weights[:header])
        assert all(weights[header:])
    assert seen > 80


def test_an_interrupted_run_resumes_from_its_checkpoint(
    script: ModuleType, recipe: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        script.torch, "compile", lambda function: function
    )  # compiling takes a minute and only changes the speed
    monkeypatch.setattr(script, "CHECKPOINT_STEPS", 2)
    arguments = [str(recipe), "--corpus", str(corpus), "--out"]
    script.main([*arguments, str(tmp_path / "whole")])

    batch, asked = script.Batches.batch, []

    def stopping(self: Any, step: int | str) -> Any:
        asked.append(step)
        if step == 5 and asked.count(5) == 1:
            raise KeyboardInterrupt
        return batch(self, step)

    monkeypatch.setattr(script.Batches, "batch", stopping)
    with pytest.raises(KeyboardInterrupt):
        script.main([*arguments, str(tmp_path / "resumed")])
    script.main([*arguments, str(tmp_path / "resumed")])
    assert [step for step in asked if isinstance(step, int)] == [0, 1, 2, 3, 4, 5, 4, 5]

    def losses(name: str) -> list[tuple[int, float]]:
        rows = [
            json.loads(line)
            for line in (tmp_path / name / "loss.jsonl").read_text("utf-8").splitlines()
        ]
        return [(row["step"], row["held_out"]) for row in rows]

    assert losses("resumed") == losses("whole")
    assert [step for step, _ in losses("whole")] == [2, 4, 6]
    assert (tmp_path / "whole" / "model" / "model.safetensors").read_bytes() == (
        tmp_path / "resumed" / "model" / "model.safetensors"
    ).read_bytes()
    assert (tmp_path / "whole" / "loss.png").stat().st_size > 1000


def test_a_second_run_learns_soft_labels_and_averages_weights_with_the_first(
    script: ModuleType, recipe: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.torch, "compile", lambda function: function)
    script.main([str(recipe), "--corpus", str(corpus), "--out", str(tmp_path / "first")])
    second = tmp_path / "second.yaml"
    second.write_text(recipe.read_text("utf-8") + "start_fraction: 0.5\n", "utf-8")
    parsed = script.Recipe.model_validate(yaml.safe_load(second.read_text("utf-8")))
    _, seen = script.split_held_out(script.read_corpus(corpus), parsed)
    labelled = tmp_path / "labelled.jsonl.gz"
    with gzip.open(labelled, "wt", encoding="utf-8") as stream:
        for label, sentences in seen:
            stream.write(
                json.dumps(
                    {"label": label, "sentences": sentences, "positive": [0.3] * len(sentences)}
                )
                + "\n"
            )
    arguments = [
        "--corpus",
        str(labelled),
        "--held-out",
        str(corpus),
        "--start",
        str(tmp_path / "first"),
        "--out",
        str(tmp_path / "second"),
    ]
    script.main([str(second), *arguments])

    def weights(path: Path) -> Any:
        return script.LlamaForCausalLM.from_pretrained(
            path, dtype=script.torch.float32
        ).state_dict()["model.norm.weight"]

    first, mean = weights(tmp_path / "first" / "model"), weights(tmp_path / "second" / "model")
    trained = script.torch.load(tmp_path / "second" / "checkpoint.pt", weights_only=True)["model"][
        "model.norm.weight"
    ]
    assert not script.torch.equal(first, trained)
    assert mean.tolist() == pytest.approx(((first + trained) / 2).tolist(), abs=1e-3)
    reviews = script.tokenize_reviews(
        seen,
        script.PreTrainedTokenizerFast.from_pretrained(tmp_path / "first" / "tokenizer"),
        script.read_positive(labelled),
    )
    batch = script.Batches(
        reviews,
        parsed,
        script.PreTrainedTokenizerFast.from_pretrained(tmp_path / "first" / "tokenizer"),
    ).batch(0)
    assert {round(probability, 2) for probability in batch[3].flatten().tolist()} == {1.0, 0.7}
