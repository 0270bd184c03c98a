"""Every config key is read by code: tiny runs of all kinds read every field of every model."""

import importlib.util
import inspect
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli import settings
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import StoppedShort
from gpt3mix_cli.grid import Grid, check
from gpt3mix_cli.settings import Settings

# Fields that work without being read as an attribute, and why.
NOT_READ_AS_ATTRIBUTES = {
    **{
        (model, "kind"): "selects the class, which a `match` reads"
        for models in (
            "HubData FilesData DemoData LocalLMSettings OpenAISettings",
            "EdaSettings AedaSettings MlmSettings BacktranslateSettings ParaphraseSettings",
            "TransformerSettings LinearSettings PromptSettings",
        )
        for model in models.split()
    },
    **{
        ("BacktranslateSettings", name): "`pairs` derives the models from it"
        for name in ("pivot", "forward", "backward")
    },
    ("OpenAISettings", "base_url"): "`urls` of the same class reads it",
    ("FilesData", "folds"): "`Task.folds` reads it",
    **{
        ("PaperSettings", name): "`Experiment.paper_column` reads it"
        for name in ("table", "column")
    },
    ("Experiment", "paper"): "`Experiment.paper_column` reads it",
    ("TransformerSettings", "preset"): "a validator compares the other keys with it",
    ("Task", "about"): "`gpt3mix tasks` lists it",
    **{
        ("TaskAbout", name): "`gpt3mix tasks` lists it"
        for name in ("title", "source", "license", "citation", "rows")
    },
    ("Task", "specification"): "a validator replaces the other keys",
    ("Experiment", "preset"): "a validator fills in and compares the other keys",
    ("Experiment", "sweep"): "`config` creates the variants from it before the models exist",
    ("AugmentSettings", "synthetic_sets"): "`Experiment.trials_for` reads it",
    **{
        (model, "trials"): "`Experiment.trials_for` reads it"
        for model in (
            "Experiment",
            "LinearSettings",
            "PromptSettings",
            "SetFitSettings",
            "SoftLabelTraining",
            "TransformerSettings",
        )
    },
}
MODELS = [
    value
    for value in vars(settings).values()
    if inspect.isclass(value) and issubclass(value, Settings) and value is not Settings
]
FIELDS = {
    (model.__name__, name)
    for model in MODELS
    for name in model.model_fields
    # SetFit has a test of its own; the keys of an arm are those of `augment`.
    if model not in (settings.SetFitSettings, settings.ArmSettings)
}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """The (class, field) pairs that the package's code has read, except settings and config."""
    seen: set[tuple[str, str]] = set()
    floor = Path(settings.__file__).parent
    package = str(floor.parent)
    aside = {*map(str, floor.glob("*.py")), str(floor.parent / "config.py")}

    def watched(self: Any, name: str) -> Any:
        model = type(self)
        if (model.__name__, name) not in seen and name in model.model_fields:
            frame: types.FrameType | None = sys._getframe(1)
            file = frame.f_code.co_filename if frame else ""
            if file.startswith(package) and file not in aside:
                for ancestor in model.__mro__:
                    if ancestor.__module__.startswith(settings.__name__):
                        seen.add((ancestor.__name__, name))
        return object.__getattribute__(self, name)

    monkeypatch.setattr(Settings, "__getattribute__", watched)
    return seen


@pytest.fixture
def seq2seq(tmp_path: Path, tiny_lm: Path) -> Path:
    """A tiny random translator."""
    import torch
    from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration

    folder = tmp_path / "seq2seq"
    AutoTokenizer.from_pretrained(tiny_lm).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {
            f"{part}_{what}": size
            for part in ("encoder", "decoder")
            for what, size in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
        }
        ends = {
            "bos_token_id": 0,
            "pad_token_id": 0,
            "eos_token_id": 0,
            "decoder_start_token_id": 0,
            "forced_eos_token_id": None,
        }
        BartForConditionalGeneration(
            BartConfig(vocab_size=500, d_model=16, max_position_embeddings=200, **sizes, **ends)
        ).save_pretrained(folder)
    return folder


@pytest.fixture
def masked(tmp_path: Path, tiny_encoder: Path) -> Path:
    """A tiny random masked LM."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    folder = tmp_path / "masked"
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder, mask_token="[MASK]")
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        }
        BertForMaskedLM(
            BertConfig(vocab_size=len(tokenizer), max_position_embeddings=200, **sizes)
        ).save_pretrained(folder)
    return folder


def run(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(f"name: {name}\n{text}")
    grid = Grid(
        load_experiments(path), tmp_path / "results", jobs=1
    )  # in this process, where the spy sits
    try:
        assert all(finding.good for finding in check.check(grid))
        assert not [item for item in grid.run() if isinstance(item, StoppedShort)]
        grid.report()
    finally:
        grid.close()


@pytest.mark.usefixtures("without_plots")
def test_every_key_is_read_by_code(
    tmp_path: Path,
    tiny_encoder: Path,
    seq2seq: Path,
    masked: Path,
    read: set[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = "text,label,id\n" + "".join(
        f"{word} film number {i},{label},{i}\n"
        for i, (word, label) in enumerate([("good", "1"), ("bad", "0")] * 6)
    )
    for split in ("train", "validation", "test"):
        (tmp_path / "hub").mkdir(exist_ok=True)
        (tmp_path / "hub" / f"{split}.csv").write_text(rows)
        (tmp_path / f"{split}.csv").write_text(rows)
    run(
        tmp_path,
        "demo",
        f"""\
task: {{data: {{kind: demo}}, labels: [pos, neg]}}
subsample: {{levels: [2/class], seeds: 1, validation: 4, test: 4/class}}
lm: {{kind: local, model: bundled, batch_size: 2}}
augment: {{ratio: 0.5, max_tokens: 60}}
baselines:
  - {{kind: backtranslate, engine: transformers, forward: {seq2seq}, backward: {seq2seq},
     max_tokens: 3, beams: 1}}
  - {{kind: aeda}}
  - {{kind: mlm, model: {masked}}}
  - {{kind: paraphrase}}
classifiers:
  # More epochs than one, so that patience is read.
  - {{kind: transformer, model: {tiny_encoder}, max_epochs: 6, label_smoothing: 0.1}}
  - {{kind: prompt, examples: 1}}
trials: 1
""",
    )
    run(
        tmp_path,
        "files",
        """\
task:
  data: {kind: files, train: train.csv, validation: validation.csv, test: test.csv,
    values: {1: pos, 0: neg}}
  labels: [pos, neg]
subsample: {levels: [2/class], seeds: 1}
baselines: [{kind: eda}]
classifiers: [{kind: linear, trials: 1, class_weights: balanced, hard_labels: true}]
""",
    )
    run(
        tmp_path,
        "hub",
        """\
task: {data: {kind: hub, path: hub, values: {1: pos, 0: neg}}, labels: [pos, neg]}
subsample: {levels: [2/class], seeds: 1}
classifiers: [{kind: linear}]
trials: 1
""",
    )
    (tmp_path / "hard.yaml").write_text(
        "task: {data: {kind: demo}, labels: [pos, neg]}\n"
        "subsample: {levels: [2/class], seeds: 1}\n"
        "lm: {kind: local, model: bundled, batch_size: 2}\n"
        "augment: {labels: hard, beams: 2, selection: nearest, similarity: tfidf, max_tokens: 8,"
        " attempts: 1}\n"
        "classifiers: [{kind: linear}]\ntrials: 1\n"
    )
    list(
        Grid(load_experiments(tmp_path / "hard.yaml"), tmp_path / "results", jobs=1).run()
    )  # it may find too few lines in so few tokens
    from endpoint_server import serving

    (tmp_path / "prices.yaml").write_text(
        "version: 2026-11-01\nmodels: {tiny: {prompt: 5, completion: 15}}\n"
    )
    with serving() as server:
        run(
            tmp_path,
            "endpoint",
            f"""\
task: {{data: {{kind: demo}}, labels: [pos, neg]}}
subsample: {{levels: [2/class], seeds: 1, validation: 4}}
lm: {{kind: openai, model: tiny, base_url: "{server.base_url}", prices: prices.yaml,
  requests_per_minute: 100000}}
augment: {{ratio: 0.5, max_tokens: 60}}
budget: {{requests: 1000}}
classifiers: [{{kind: linear}}]
trials: 1
""",
        )
    unread = FIELDS - read - set(NOT_READ_AS_ATTRIBUTES)
    assert not unread
    assert not set(NOT_READ_AS_ATTRIBUTES) - FIELDS - {("SetFitSettings", "trials")}
    assert not set(NOT_READ_AS_ATTRIBUTES) & read, "these are read: remove them from the list"


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("setfit"), reason="setfit is not installed")
def test_setfit_reads_its_keys(
    tmp_path: Path, tiny_encoder: Path, read: set[tuple[str, str]]
) -> None:
    run(
        tmp_path,
        "setfit",
        f"""\
task: {{data: {{kind: demo}}, labels: [pos, neg]}}
subsample: {{levels: [2/class], seeds: 1, validation: 4}}
classifiers: [{{kind: setfit, model: {tiny_encoder}, iterations: 1}}]
trials: 1
""",
    )
    fields = {("SetFitSettings", name) for name in settings.SetFitSettings.model_fields}
    unread = fields - read - set(NOT_READ_AS_ATTRIBUTES)
    assert unread == {("SetFitSettings", "kind")}


@pytest.mark.skipif(not shutil.which("apertium"), reason="apertium is not installed")
def test_the_other_engine_of_back_translation_reads_its_keys(
    tmp_path: Path, read: set[tuple[str, str]]
) -> None:
    (tmp_path / "a.yaml").write_text(
        "task: {data: {kind: demo}, labels: [pos, neg]}\nsubsample: {levels: [1/class], seeds: 1}\n"
        "baselines: [{kind: backtranslate, engine: apertium}]\ntrials: 1\n"
    )
    list(Grid(load_experiments(tmp_path / "a.yaml"), tmp_path / "results").run())
    assert {("BacktranslateSettings", name) for name in ("engine", "name")} <= read
