"""Experiment files: what is read, what is refused, and the messages."""

import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.settings import (
    AugmentSettings,
    EdaSettings,
    Experiment,
    FilesData,
    HubData,
    LinearSettings,
    LocalLMSettings,
    TransformerSettings,
)

BASE = """\
task:
  data: {kind: demo}
  labels: {pos: positive, neg: negative}
subsample: {levels: [8/class]}
"""
FULL = (
    BASE
    + """\
lm: {kind: local}
augment: {k: 3}
baselines: [{kind: eda}, {kind: backtranslate}]
classifiers: [{kind: transformer}, {kind: linear}]
trials: 4
"""
)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file of YAML, by default an experiment's, and return its path."""

    def file(text: str, name: str = "small.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return file


def load_one(path: Path, *overrides: str) -> Experiment:
    (experiment,) = load_experiments(path, overrides)
    return experiment


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_experiments(path, overrides)
    assert error.value.exit_code == 2
    assert error.value.hint
    return error.value.message


# Problems -----------------------------------------------------------------------------------------


def test_all_problems_are_reported_together_with_their_keys(write: Write) -> None:
    path = write(FULL + "trails: 3\n")
    message = refused(
        path,
        "baselines.0.alhpa=1",
        "augment.k=-1",
        "task.labels=[a]",
        "subsample.levels=[8/class, nine]",
        "lm.kind=lokal",
        "task.data.kind=demos",
    )
    heading, *problems = message.splitlines()
    assert heading == f"{path}: 7 problems in the settings"
    assert sorted(problems) == [
        "  augment.k: input should be greater than or equal to 0, got -1",
        "  baselines.0.alhpa: unknown key; did you mean 'alpha'? "
        "(known here: kind, name, alpha, normalise)",
        "  lm: unknown kind 'lokal'; did you mean 'local'? (known: local, openai)",
        "  subsample.levels.1: 'nine' is not a level; write `0.1%`, `8/class` or `full`",
        "  task.data: unknown kind 'demos'; did you mean 'demo'? (known: hub, files, demo)",
        "  task.labels: at least two classes are needed",
        "  trails: unknown key; did you mean 'trials'? "
        "(known here: name, preset, task, tasks, subsample, lm, augment, baselines, classifiers, "
        "trials, budget, resources, paper, sweep)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "a/b", "'a/b' cannot be a file name"),
        ("name", "..", "'..' cannot be a file name"),
        ("name", "''", "'' cannot be a file name"),
        ("trials", "0", "input should be greater than or equal to 1, got 0"),
        ("trials", "-3", "input should be greater than or equal to 1, got -3"),
        ("trials", "2.5", "valid integer"),
        ("trials", "many", "valid integer"),
        ("trials", "[1]", "valid integer"),
        ("trials", "null", "valid integer"),
        ("trials", "{}", "valid integer"),
        ("task", "3", "got 3"),
        ("task.text_type", "''", "at least 1 character"),
        ("task.text_type", "' review'", "must be one line without spaces around it"),
        ("task.text_type", '"a\\nb"', "must be one line without spaces around it"),
        ("task.label_type", "[a]", "valid string"),
        ("task.labels", "[pos]", "at least two classes are needed"),
        ("task.labels", "[pos, neg, pos]", "duplicate class: pos"),
        ("task.labels", "{a: X, b: x}", "two classes share a label token"),
        ("task.labels", "word", "expected a mapping of keys, got 'word'"),
        ("task.data", "demo", "got 'demo'"),
        ("task.data", "{path: x}", "needs a `kind:`"),
        ("task.data", "{kind: hubb}",
         "unknown kind 'hubb'; did you mean 'hub'? (known: hub, files, demo)"),
        ("subsample", "null", "expected a mapping of keys, got None"),
        ("subsample.levels", "[]", "at least 1 item"),
        ("subsample.levels", "1%", "valid list"),
        ("subsample.levels", "[1%, 1%]", "duplicate entry"),
        ("subsample.levels.0", "0%", "'0%' is not above 0 % and at most 100 %"),
        ("subsample.levels.0", "0/class", "at least one row per class is needed"),
        ("subsample.levels.0", "-1%", "'-1%' is not a level"),
        ("subsample.levels.0", "8", "'8' is not a level"),
        ("subsample.seeds", "0", "at least one seed is needed"),
        ("subsample.seeds", "-1", "at least one seed is needed"),
        ("subsample.seeds", "[]", "at least 1 item"),
        ("subsample.seeds", "[1, 1]", "duplicate entry"),
        ("subsample.seeds", "many", "valid list"),
        ("subsample.seeds", "true", "valid list"),
        ("subsample.master_seed", "1.5", "valid integer"),
        ("subsample.master_seed", "x", "valid integer"),
        ("subsample.validation", "0",
         "'0' is not `full`, a number of rows such as 200, or `n/class`"),
        ("subsample.validation", "-5", "'-5' is not `full`"),
        ("subsample.validation", "0/class", "'0/class' is not `full`"),
        ("subsample.validation", "true", "is not `full`"),
        ("subsample.validation", "10%", "'10%' is not `full`"),
        ("lm", "local", "got 'local'"),
        ("lm.batch_size", "0", "greater than or equal to 1, got 0"),
        ("lm.batch_size", "x", "valid integer"),
        ("lm.dtype", "float8", "got 'float8'"),
        ("lm.prompt", "instruct", "'auto', 'completion' or 'chat', got 'instruct'"),
        ("lm.model", "3", "valid string"),
        ("augment", "3", "got 3"),
        ("augment.k", "-1", "greater than or equal to 0, got -1"),
        ("augment.k", "two", "valid integer"),
        ("augment.ratio", "0", "greater than 0, got 0"),
        ("augment.ratio", "-1", "greater than 0, got -1"),
        ("augment.ratio", ".nan", "finite number, got nan"),
        ("augment.ratio", "x", "valid number"),
        ("augment.synthetic_sets", "0", "greater than or equal to 1, got 0"),
        ("augment.synthetic_sets", "each", "'per-trial'"),
        ("augment.selection", "best", "'same_class', 'nearest' or 'furthest', got 'best'"),
        ("augment.labels", "firm", "'parents' or 'product', got 'firm'"),
        ("augment.beams", "0", "greater than or equal to 1, got 0"),
        ("augment.similarity", "''", "at least 1 character"),
        ("augment.label_temperature", "0", "greater than 0, got 0"),
        ("augment.contextual_calibration", "perhaps", "valid boolean"),
        ("augment.temperature", "-0.1", "greater than or equal to 0, got -0.1"),
        ("augment.temperature", ".nan", "finite number, got nan"),
        ("augment.top_p", "0", "greater than 0, got 0"),
        ("augment.top_p", "1.1", "less than or equal to 1, got 1.1"),
        ("augment.min_p", "-0.1", "greater than or equal to 0, got -0.1"),
        ("augment.min_p", "1.1", "less than or equal to 1, got 1.1"),
        ("augment.max_tokens", "0", "greater than or equal to 1, got 0"),
        ("augment.frequency_penalty", "2.1", "less than or equal to 2, got 2.1"),
        ("augment.frequency_penalty", "-2.1", "greater than or equal to -2, got -2.1"),
        ("augment.attempts", "0.5", "greater than or equal to 1, got 0.5"),
        ("baselines", "{kind: eda}", "valid list"),
        ("baselines", "null", "valid list"),
        ("baselines.0", "3", "got 3"),
        ("baselines.0", "{}", "needs a `kind:`"),
        ("baselines.0", "{kind: edaa}",
         "unknown kind 'edaa'; did you mean 'eda'? "
         "(known: eda, aeda, mlm, backtranslate, paraphrase, gpt3mix)"),
        ("baselines.0", "{kind: gpt3mix, name: arm, ratio: 2}",
         "ratio holds for every method; set augment.ratio instead"),
        ("baselines.0", "{kind: gpt3mix, name: arm, k: 0, labels: parents}",
         "labels: parents needs parents, but with k: 0 a row has none"),
        ("augment.attributes.length", "[]", "at least 1 item"),
        ("baselines.1", "{kind: back-translate}",
         "unknown kind 'back-translate'; did you mean 'backtranslate'?"),
        ("baselines.0.alpha", "0", "greater than 0, got 0"),
        ("baselines.0.alpha", "1.5", "less than or equal to 1, got 1.5"),
        ("baselines.0.alpha", "often", "'auto'"),
        ("baselines.0.name", "a b", "'a b' cannot be part of a file name"),
        ("baselines.1.beams", "0", "greater than or equal to 1, got 0"),
        ("baselines.1.engine", "google", "'transformers' or 'apertium', got 'google'"),
        ("baselines.1.baems", "4", "unknown key; did you mean 'beams'?"),
        ("classifiers", "linear", "valid list"),
        ("classifiers.0", "{kind: svm}",
         "unknown kind 'svm' (known: transformer, linear, setfit, prompt)"),
        ("classifiers.0.lr", "0", "greater than 0, got 0"),
        ("classifiers.0.lr", "-3e-5", "greater than 0, got -3e-05"),
        ("classifiers.0.lr", "fast", "valid number"),
        ("classifiers.0.trials", "0", "greater than or equal to 1, got 0"),
        ("classifiers.0.warmup_epochs", "-1", "greater than or equal to 0, got -1"),
        ("classifiers.0.patience", "0", "greater than or equal to 1, got 0"),
        ("classifiers.0.batch_size", "0", "greater than or equal to 1, got 0"),
        ("classifiers.0.max_epochs", "0", "greater than or equal to 1, got 0"),
        ("classifiers.0.weight_decay", "-0.01", "greater than or equal to 0, got -0.01"),
        ("classifiers.0.max_length", "3", "greater than or equal to 4, got 3"),
        ("classifiers.0.dtype", "float16", "got 'float16'"),
        ("classifiers.0.learning_rate", "1", "unknown key (known here: "),
        ("classifiers.1.C", "0", "greater than 0, got 0"),
        ("classifiers.1.ngrams", "6", "less than or equal to 5, got 6"),
        ("classifiers.1.ngram", "2", "unknown key; did you mean 'ngrams'?"),
        ("augmnt", "{k: 1}", "unknown key; did you mean 'augment'?"),
        ("task.lables", "[a, b]", "unknown key; did you mean 'labels'?"),
        ("task.data.path", "x", "unknown key (known here: kind)"),
    ],
)  # fmt: skip
def test_an_invalid_value_is_one_problem_that_names_its_key(
    write: Write, key: str, value: str, message: str
) -> None:
    path = write(FULL.replace("task:", "task:\n  name: own"))
    heading, *problems = refused(path, f"{key}={value}").splitlines()
    assert heading == f"{path}: 1 problem in the settings"
    assert [problem.partition(": ")[0] for problem in problems] == [f"  {key}"]
    assert message in problems[0]


def test_missing_sections_are_named(write: Write) -> None:
    assert refused(write("")).splitlines()[1:] == [
        "  task: is required",
        "  subsample: is required",
    ]
    message = refused(write("task: {data: {kind: files}}\nsubsample: {}\nlm: {}\n"))
    keys = ["task.data.train", "task.labels", "subsample.levels"]
    assert message.splitlines()[1:] == [
        *(f"  {key}: is required" for key in keys),
        "  lm: needs a `kind:`",
    ]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            "lm: {kind: local}\naugment: {label_descriptions: {poss: good}}",
            "augment.label_descriptions names 'poss', which is not one of the classes",
        ),
        (
            "lm: {kind: local}\n"
            "baselines: [{kind: gpt3mix, name: arm, label_descriptions: {poss: good}}]",
            "baseline 'arm': label_descriptions names 'poss', which is not one of the classes",
        ),
        (
            "lm: {kind: local}\naugment: {k: 0}\n"
            "baselines: [{kind: gpt3mix, name: arm, labels: parents}]",
            "baseline 'arm': labels: parents needs parents, but with k: 0 a row has none",
        ),
        (
            "baselines: [{kind: paraphrase}]",
            "'paraphrase' needs a language model; add for example lm:",
        ),
        (
            "classifiers: [{kind: prompt, name: icl}]",
            "'icl' needs a language model; add for example lm:",
        ),
        (
            "baselines: [{kind: eda}, {kind: eda, alpha: 0.2}]",
            "two methods are called 'eda'; give one of them another `name:`",
        ),
        (
            "classifiers: [{kind: linear}, {kind: linear, C: 1}]",
            "two classifiers are called 'linear'",
        ),
        ("baselines: [{kind: eda, name: none}]", "two methods are called 'none'"),
        (
            "lm: {kind: local}\nbaselines: [{kind: eda, name: gpt3mix}]",
            "two methods are called 'gpt3mix'",
        ),
    ],
)
def test_duplicate_names_and_a_missing_lm_are_errors(
    write: Write, sections: str, message: str
) -> None:
    assert message in refused(write(BASE + sections))


def test_entries_of_the_same_kind_can_have_different_names(write: Write) -> None:
    baselines = (
        "lm: {kind: local}\nbaselines: [{kind: eda}, {kind: eda, name: eda-strong, alpha: 0.5}]\n"
    )
    experiment = load_one(
        write(BASE + baselines + "classifiers: [{kind: linear}, {kind: linear, name: l2}]\n")
    )
    assert experiment.methods == ["none", "gpt3mix", "eda", "eda-strong"]
    assert experiment.baselines == [
        EdaSettings(kind="eda"),
        EdaSettings(kind="eda", name="eda-strong", alpha=0.5),
    ]
    assert [classifier.name for classifier in experiment.classifiers] == ["linear", "l2"]


def test_a_method_cannot_be_called_train(write: Write) -> None:
    refused(write(BASE + "baselines: [{kind: eda, name: train}]"))


RENAMED = {
    "augment.gate": "augment.filter",
    "augment.gate.leak": "augment.filter.reject_test_copies",
    "augment.gate.near_copy": "augment.filter.max_parent_overlap",
    "augment.gate.degenerate": "augment.filter.max_repetition",
    "augment.gate.too_short": "augment.filter.min_words",
    "augment.gate.too_long": "augment.filter.max_words",
    "augment.gate.other_language": "augment.filter.max_foreign_script",
    "augment.gate.low_mass": "augment.filter.min_label_mass",
    "augment.gate.disagreement": "augment.filter.max_disagreement",
    "augment.gate.perplexity": "augment.filter.perplexity",
    "augment.filter.leak": "augment.filter.reject_test_copies",
    "augment.choose": "augment.selection",
    "augment.draws": "augment.synthetic_sets",
    "lm.votes": "lm.num_votes",
    "baselines.0.share": "fraction",
}


@pytest.mark.parametrize("how", ["file", "set", "sweep", "set sweep"])
@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_key_is_an_error_that_names_the_new_one(
    write: Write, how: str, old: str, new: str
) -> None:
    text = BASE + "lm: {kind: openai, model: m}\nbaselines: [{kind: mlm}]\n"
    if how == "set":
        message = refused(write(text), f"{old}=1")
    elif how == "sweep":
        message = refused(write(text + f"sweep: {{{old}: [1, 2]}}\n"))
    elif how == "set sweep":
        message = refused(write(text), f"sweep.{old}=[1, 2]")
    else:
        raw = yaml.safe_load(text)
        *sections, last = old.split(".")
        section: Any = raw
        for key in sections:
            section = section[int(key)] if key.isdigit() else section.setdefault(key, {})
        section[last] = 1
        message = refused(write(yaml.safe_dump(raw)))
    assert message.splitlines()[1:] == [f"  {old}: is now called {new}"]


def test_all_old_keys_of_a_section_are_named(write: Write) -> None:
    message = refused(write(BASE), "augment.gate={leak: true, near_copy: null, other: 1}")
    assert message.splitlines()[1:] == [
        "  augment.gate.leak: is now called augment.filter.reject_test_copies",
        "  augment.gate.near_copy: is now called augment.filter.max_parent_overlap",
    ]


@pytest.mark.parametrize("key", ["trials", "augment.k", "augment.ratio", "classifiers.0.patience"])
def test_a_boolean_is_not_a_number(write: Write, key: str) -> None:
    assert key in refused(write(FULL), f"{key}=true")


@pytest.mark.parametrize(
    "key",
    [
        "augment.ratio",
        "augment.attempts",
        "augment.temperature",
        "classifiers.0.lr",
        "classifiers.0.warmup_epochs",
    ],
)
def test_infinity_is_refused(write: Write, key: str) -> None:
    assert key in refused(write(FULL), f"{key}=.inf")


def test_an_empty_name_is_refused_or_the_default(write: Write) -> None:
    try:
        name = load_one(write(BASE + "name:\n")).name
    except UserError as error:
        name = "small" if "name" in error.message else ""
    assert name == "small"


# YAML ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: [1\nb: 2\n", 2, "expected ',' or ']'"),
        (BASE + "trials: 'x\n", 6, "found unexpected end of stream"),
        (BASE + "a: 1\n b: 2\n", 6, "mapping values are not allowed here"),
        (BASE + "\ttrials: 1\n", 5, "cannot start any token"),
        (BASE + "---\ntrials: 1\n", 5, "but found another document"),
        (BASE + "a: *nowhere\n", 5, "found undefined alias"),
        (
            BASE + "a: !!python/object:os.system 3\n",
            5,
            "tags are not supported",
        ),
    ],
)
def test_invalid_yaml_is_reported_with_its_line(
    write: Write, text: str, line: int, problem: str
) -> None:
    path = write(text)
    message = refused(path)
    assert message.startswith(f"{path}, line {line}: not valid YAML: ")
    assert problem in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 8}]\n" for n in range(1, 12)),
            "line 1: not valid YAML: more than 50,000 values; aliases count each time",
            id="aliases of aliases",
        ),
        pytest.param(
            "a0: &a0 {x: 1}\n"
            + "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1},' * 9}]}}\n" for n in range(1, 9)),
            "more than 50,000 values",
            id="merges of merges",
        ),
        pytest.param("#" * 1_100_000, "larger than 1,048,576 bytes", id="large file"),
        pytest.param("a: !!bool maybe\n", "line 1: not valid YAML: tags are not", id="bool"),
        pytest.param("a: !!str 3\n", "line 1: not valid YAML: tags are not", id="string"),
        pytest.param("a: ! x\n", "line 1: not valid YAML: tags are not", id="no tag"),
        pytest.param('a:\n- "\\ud800x"\n', "line 2: half a character", id="value"),
        pytest.param('a: 1\n"\\udc00": 1\n', "line 2: half a character", id="key"),
        pytest.param(f"a: {'9' * 5_000}\n", "line 1: a number of 5000 digits", id="digits"),
    ],
)
def test_what_would_stall_or_crash_a_reader_is_refused(
    write: Write, text: str, message: str
) -> None:
    assert message in refused(write(text))


def test_escapes_of_both_halves_of_a_character_are_one_character(write: Write) -> None:
    labels = r'{pos: "\ud83d\ude00", neg: "\U0001F621"}'
    path = write(BASE.replace("{pos: positive, neg: negative}", labels))
    assert load_one(path).task.labels == {"pos": "\U0001f600", "neg": "\U0001f621"}


def test_devices_and_pipes_are_read_to_a_limit(tmp_path: Path) -> None:
    assert "larger than" in refused(Path("/dev/zero"))
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    assert "task: is required" in refused(pipe)  # there is no writer, so it is empty
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # so that it can be written
    pipe.write_text(BASE)
    assert load_one(pipe).name == "pipe"
    os.close(reader)


@pytest.mark.parametrize("sweep", [False, True])
@pytest.mark.parametrize("wrong", ["7", "bundled", "0", "''", "false"])
def test_a_wrong_section_stays_an_error_if_a_key_below_it_is_set(
    write: Write, wrong: str, sweep: bool
) -> None:
    text = f"{BASE}augment: {wrong}\n" + ("sweep: {augment.ratio: [3]}\n" if sweep else "")
    message = refused(write(text), *([] if sweep else ["augment.ratio=3"]))
    assert "'augment' is a plain value and has no keys" in message
    path = write(f"{BASE}preset: paper\naugment: {wrong}\n")
    assert "  augment: expected a mapping" in refused(path)


def test_a_sweep_has_a_limit(write: Write) -> None:
    values = list(range(1, 102))
    text = f"{BASE}sweep: {{augment.k: {values}, trials: {values}}}\n"
    assert refused(write(text)).endswith("sweep: 10,201 variants")


def test_many_problems_fit_a_screen(write: Write) -> None:
    text = BASE + "".join(f"k{n}: {'x' * 300}\n" for n in range(3_000))
    heading, *problems = refused(write(text)).splitlines()
    assert heading.endswith("small.yaml: 3,000 problems in the settings")
    assert len(problems) == 21
    assert problems[-1] == "  and 2,980 more"
    assert sum(map(len, problems)) < 1_000


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        (BASE + "trials: 1\ntrials: 2\n", "trials", 6),
        (BASE + "augment:\n  k: 1\n  k: 1\n", "k", 7),
        (BASE.replace("neg: negative", "pos: negative"), "pos", 3),
        (BASE + "baselines:\n- kind: eda\n  'kind': eda\n", "kind", 7),
        (BASE.replace("{pos: positive, neg: negative}", "{1: a, '1': b}"), "1", 3),
    ],
)
def test_a_duplicate_key_is_refused_with_its_line(
    write: Write, text: str, key: str, line: int
) -> None:
    path = write(text)
    assert refused(path) == f"{path}, line {line}: duplicate key '{key}'"


def test_a_key_must_be_plain(write: Write) -> None:
    path = write(BASE + "? [a, b]\n: 1\n")
    assert refused(path) == f"{path}, line 5: a key must be a plain word"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("{yes: 'on', 1: off}", {"yes": "on", "1": "off"}),
        ("{no: n, yes: y}", {"no": "n", "yes": "y"}),
        ("{true: false, null: ~}", {"true": "false", "null": "~"}),
        (
            "{1.0: 1e3, 0x1: 07, 1:30: 2020-01-01}",
            {"1.0": "1e3", "0x1": "07", "1:30": "2020-01-01"},
        ),
        ("[no, 1, 1.0, null, True]", {name: name for name in ("no", "1", "1.0", "null", "True")}),
        ("{z: last, a: first, m: mid}", {"z": "last", "a": "first", "m": "mid"}),
    ],
)
def test_labels_are_read_as_written_in_their_order(
    write: Write, labels: str, expected: dict[str, str]
) -> None:
    """YAML 1.1 would turn them into booleans, numbers, dates or null."""
    text = BASE.replace("{pos: positive, neg: negative}", labels)
    for experiment in (
        load_one(write(text)),
        load_one(write(BASE), f"task.labels={labels}"),
        load_one(write(BASE), f"task={{data: {{kind: demo}}, labels: {labels}}}"),
    ):
        assert list(experiment.task.labels.items()) == list(expected.items())
        assert experiment.task.classes == list(expected)


def test_values_are_read_as_written(write: Write) -> None:
    data = "{kind: hub, path: a/b, values: {1: yes, 0: off, true: on, null: no, 1.5: 7}}"
    experiment = load_one(
        write(
            BASE.replace("{kind: demo}", data).replace(
                "{pos: positive, neg: negative}", "[yes, off, on, no, 7]"
            )
        )
    )
    assert isinstance(experiment.task.data, HubData)
    assert experiment.task.data.values == {
        "1": "yes",
        "0": "off",
        "true": "on",
        "null": "no",
        "1.5": "7",
    }


@pytest.mark.parametrize(
    "word", ["no", "yes", "off", "On", "y", "2020-01-01", "1:30", "0x1f", "1_000"]
)
def test_yaml_words_are_words_everywhere(write: Write, word: str) -> None:
    assert (
        load_one(write(BASE.replace("subsample", f"  text_type: {word}\nsubsample"))).task.text_type
        == word
    )


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("3e-5", 3e-5),
        ("3E-5", 3e-5),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("2", 2.0),
        ("5.", 5.0),
        ("+1.5e+0", 1.5),
    ],
)
def test_numbers_with_exponents_are_numbers(write: Write, written: str, number: float) -> None:
    (classifier,) = load_one(
        write(BASE + f"classifiers: [{{kind: transformer, lr: {written}}}]")
    ).classifiers
    assert isinstance(classifier, TransformerSettings)
    assert classifier.lr == number


def test_a_leading_zero_is_decimal(write: Write) -> None:
    assert load_one(write(BASE + "trials: 010\n")).trials == 10


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("trials: 08\n", id="leading zero"),
        pytest.param("trials: !!int abc\n", id="tag"),
        pytest.param("a: \x01\n", id="control character"),
        pytest.param("a: &x [*x]\n", id="alias of itself"),
        pytest.param("lm: {kind: local, model: ~nosuchuser/x}\n", id="unknown home"),
        pytest.param(f"lm: {{kind: local, model: {'a' * 300}}}\n", id="long name"),
    ],
)
def test_unusual_files_never_end_in_a_traceback(write: Write, text: str) -> None:
    """Whether or not the value is valid, the only exception is a UserError."""
    path = write(BASE + text)
    try:
        load_experiments(path)
    except UserError as error:
        assert str(path) in error.message  # noqa: PT017 - a good value may raise nothing


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("- a\n- b\n", "the file is not a mapping of keys"),
        ("word", "the file is not a mapping of keys"),
    ],
)
def test_a_file_must_be_a_mapping(write: Write, text: str, what: str) -> None:
    path = write(text)
    assert refused(path) == f"{path}: {what}"


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.yaml") == f"{tmp_path / 'none.yaml'}: no such file"
    assert refused(tmp_path).startswith(f"{tmp_path}: cannot be read: ")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: caf\xe9\n".encode("latin-1"))
    assert refused(latin).startswith(f"{latin}: cannot be read: ")


def test_a_byte_order_mark_is_ignored(write: Write) -> None:
    assert load_one(write("\ufeff" + BASE)).name == "small"


def test_merges_and_anchors_work(write: Write) -> None:
    text = BASE + "classifiers: [&one {kind: linear, C: 3}, {<<: *one, name: other, ngrams: 1}]\n"
    assert load_one(write(text)).classifiers == [
        LinearSettings(kind="linear", C=3),
        LinearSettings(kind="linear", name="other", C=3, ngrams=1),
    ]


# Names and paths ----------------------------------------------------------------------------------


def test_names_default_to_the_files(write: Write) -> None:
    experiment = load_one(write(BASE, "my-run.yaml"))
    assert (experiment.name, experiment.task.name) == ("my-run", "my-run")
    write("data: {kind: demo}\nlabels: [pos, neg]\n", "tasks/reviews.yaml")
    experiment = load_one(
        write("task: tasks/reviews.yaml\nsubsample: {levels: [full]}\nname: given\n", "my-run.yaml")
    )
    assert (experiment.name, experiment.task.name) == ("given", "reviews")
    assert load_one(write(BASE + "name: 7\n")).name == "7"


def test_paths_are_relative_to_the_file_that_names_them(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        "data: {kind: files, train: rows/train.jsonl, test: ../shared/test.csv}\n"
        "labels: [pos, neg]\n",
        "tasks/own.yaml",
    )
    path = write(
        "task: ../tasks/own.yaml\nsubsample: {levels: [full]}\n"
        "lm: {kind: local, model: models/lm}\naugment: {similarity: ../encoder}\n"
        "classifiers: [{kind: transformer, model: ../encoder}, "
        "{kind: transformer, name: hub, model: org/encoder}]\n",
        "experiments/one.yaml",
    )
    for folder in ("experiments/models/lm", "encoder", "tasks/rows"):
        (tmp_path / folder).mkdir(parents=True)
    experiments = []
    for cwd, name in (
        (tmp_path, "experiments/one.yaml"),
        (tmp_path / "experiments", "one.yaml"),
        (tmp_path / "tasks/rows", "../../experiments/one.yaml"),
        (Path("/"), str(path)),
    ):
        monkeypatch.chdir(cwd)
        experiments.append(load_one(Path(name)))
    assert all(experiment == experiments[0] for experiment in experiments)
    data, lm = experiments[0].task.data, experiments[0].lm
    assert isinstance(data, FilesData)
    assert (data.train, data.validation, data.test) == (
        tmp_path / "tasks/rows/train.jsonl",
        None,
        tmp_path / "shared/test.csv",
    )
    assert lm == LocalLMSettings(kind="local", model=str(tmp_path / "experiments/models/lm"))
    assert experiments[0].augment.similarity == str(tmp_path / "encoder")
    assert [
        classifier.model
        for classifier in experiments[0].classifiers
        if isinstance(classifier, TransformerSettings)
    ] == [
        str(tmp_path / "encoder"),
        "org/encoder",
    ]


def test_paths_of_an_inline_task_are_relative_to_the_experiment(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        BASE.replace(
            "{kind: demo}", "{kind: files, train: a.jsonl, test: ~/b.csv, validation: /c.tsv}"
        ),
        "deep/one.yaml",
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    data = load_one(path).task.data
    assert isinstance(data, FilesData)
    assert (data.train, data.test, data.validation) == (
        tmp_path / "deep/a.jsonl",
        tmp_path / "home/b.csv",
        Path("/c.tsv"),
    )


def test_a_hub_id_stays_unless_a_folder_of_that_name_exists(write: Write, tmp_path: Path) -> None:
    path = write(BASE.replace("{kind: demo}", "{kind: hub, path: own/rows}"))
    assert load_one(path).task.data == HubData(kind="hub", path="own/rows")
    (tmp_path / "own/rows").mkdir(parents=True)
    assert load_one(path).task.data == HubData(kind="hub", path=str(tmp_path / "own/rows"))


def test_a_missing_or_broken_task_file_is_named(write: Write, tmp_path: Path) -> None:
    path = write("task: none.yaml\nsubsample: {levels: [full]}\n")
    assert refused(path) == f"{path}: task: no such file: {tmp_path / 'none.yaml'}"
    broken = write("data: [\n", "none.yaml")
    assert refused(path).startswith(f"{broken}, line 2: not valid YAML: ")
    write("lables: [a, b]\ndata: {kind: demo}\n", "none.yaml")
    assert [line.partition(": ")[0].strip() for line in refused(path).splitlines()[1:]] == [
        "task.labels",
        "task.lables",
    ]


# Overrides ----------------------------------------------------------------------------------------


def test_an_override_beats_the_file_and_the_file_beats_the_default(write: Write) -> None:
    path = write(FULL)
    assert AugmentSettings().k == 2
    assert load_one(write(BASE, "default.yaml")).augment.k == 2
    assert load_one(path).augment.k == 3
    assert load_one(path, "augment.k=5").augment.k == 5
    assert load_one(path, "augment.k=5", "augment.k=6").augment.k == 6
    assert load_one(path, "augment.ratio=2").augment == AugmentSettings(k=3, ratio=2)


@pytest.mark.parametrize(
    ("override", "reach", "expected"),
    [
        ("trials=7", lambda e: e.trials, 7),
        (" trials =7", lambda e: e.trials, 7),
        ("augment={ratio: 4, k: 1}", lambda e: e.augment, AugmentSettings(ratio=4, k=1)),
        ("augment={}", lambda e: e.augment, AugmentSettings()),
        ("subsample.levels=[1%, full]", lambda e: e.subsample.levels, ["1%", "full"]),
        ("subsample.levels.0=full", lambda e: e.subsample.levels, ["full"]),
        ("subsample.validation=16/class", lambda e: e.subsample.validation, "16/class"),
        ("baselines.0.alpha=0.25", lambda e: e.baselines[0].alpha, 0.25),
        ("baselines=[]", lambda e: e.methods, ["none", "gpt3mix"]),
        (
            "classifiers.1={kind: linear, name: other}",
            lambda e: e.classifiers[1],
            LinearSettings(kind="linear", name="other"),
        ),
        ("classifiers.0.lr=1e-4", lambda e: e.classifiers[0].lr, 1e-4),
        ("classifiers.0.model=a=b", lambda e: e.classifiers[0].model, "a=b"),
        ("task.text_type=a=b=c", lambda e: e.task.text_type, "a=b=c"),
        ("task.text_type=no", lambda e: e.task.text_type, "no"),
        ("task.labels.neg=off", lambda e: e.task.labels, {"pos": "positive", "neg": "off"}),
        ("task.labels.neg=1", lambda e: e.task.labels["neg"], "1"),
        ("lm=null", lambda e: (e.lm, e.methods), (None, ["none", "eda", "backtranslate"])),
        ("lm=", lambda e: e.lm, None),
        ("name=other", lambda e: e.name, "other"),
    ],
)
def test_an_override_reaches_every_key(
    write: Write, override: str, reach: Callable[[Experiment], object], expected: object
) -> None:
    assert reach(load_one(write(FULL), override)) == expected


def test_an_override_creates_missing_sections(write: Write) -> None:
    assert load_one(write(BASE), "lm.kind=local", "lm.batch_size=4").lm == LocalLMSettings(
        kind="local", batch_size=4
    )
    assert load_one(write(FULL), "lm=null", "lm.kind=local").lm == LocalLMSettings(kind="local")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augment", "--set augment: expected key=value"),
        ("=3", "--set =3: expected key=value"),
        ("", "--set : expected key=value"),
        ("subsample.levels.1=full", "--set subsample.levels.1: '1' is not an index of a list of 1"),
        (
            "subsample.levels.-1=full",
            "--set subsample.levels.-1: '-1' is not an index of a list of 1",
        ),
        (
            "baselines.eda.alpha=1",
            "--set baselines.eda.alpha: 'eda' is not an index of a list of 2",
        ),
        (
            "subsample.levels.0.x=1",
            "--set subsample.levels.0.x: 'subsample.levels.0' is a plain value and has no keys",
        ),
        ("augment.k=[1", "--set augment.k, line 1: not valid YAML: "),
        ("augment={k: 1, k: 2}", "--set augment, line 1: duplicate key 'k'"),
    ],
)
def test_an_override_of_an_impossible_path_is_refused(
    write: Write, override: str, message: str
) -> None:
    assert refused(write(FULL), override).startswith(message)


def test_an_override_of_an_unknown_key_is_reported_like_a_key_of_the_file(write: Write) -> None:
    assert "  augment.temprature: unknown key; did you mean 'temperature'?" in refused(
        write(FULL), "augment.temprature=1"
    )
    assert "  augmant: unknown key; did you mean 'augment'?" in refused(write(FULL), "augmant.k=1")


def test_the_task_may_be_overridden_by_another_file(write: Write) -> None:
    write("data: {kind: demo}\nlabels: [good, bad]\n", "other.yaml")
    assert load_one(write(BASE), "task=other.yaml").task.labels == {"good": "good", "bad": "bad"}


def test_a_key_of_an_overridden_task_can_be_overridden(write: Write) -> None:
    write("data: {kind: demo}\nlabels: [good, bad]\n", "other.yaml")
    task = load_one(write(BASE), "task=other.yaml", "task.text_type=film").task
    assert (task.text_type, task.classes) == ("film", ["good", "bad"])


# Sweeps -------------------------------------------------------------------------------------------


def test_a_sweep_gives_every_combination_with_its_variant(write: Write) -> None:
    experiments = load_experiments(
        write(
            FULL
            + "sweep: {augment.k: [1, 4], task.label_type: [a, b, c], baselines.0.alpha: [0.1]}\n"
        )
    )
    expected = list(product([1, 4], ["a", "b", "c"], [0.1]))
    assert [(e.augment.k, e.task.label_type, e.baselines[0].alpha) for e in experiments] == expected  # type: ignore[union-attr]
    assert [e.variant for e in experiments] == [
        {"augment.k": k, "task.label_type": t, "baselines.0.alpha": a} for k, t, a in expected
    ]
    assert {e.name for e in experiments} == {"small"}


def test_without_a_sweep_there_is_one_variant_without_keys(write: Write) -> None:
    assert load_one(write(BASE)).variant == {}
    assert load_one(write(BASE + "sweep: {}\n")).variant == {}
    assert load_one(write(FULL + "sweep: {augment.k: [1, 4]}\n"), "sweep={}").variant == {}


def test_variants_do_not_share_mappings(write: Write) -> None:
    """The sweep has whole mappings and keys inside them."""
    path = write(BASE + "sweep: {augment: [{k: 1}, {ratio: 2}], augment.top_p: [0.5, 1]}\n")
    experiments = load_experiments(path)
    assert [(e.augment.k, e.augment.ratio, e.augment.top_p) for e in experiments] == [
        (1, 1, 0.5),
        (1, 1, 1),
        (2, 2, 0.5),
        (2, 2, 1),
    ]
    assert [e.variant["augment"] for e in experiments] == [
        {"k": 1},
        {"k": 1},
        {"ratio": 2},
        {"ratio": 2},
    ]


def test_a_task_file_can_be_swept(write: Write) -> None:
    write("data: {kind: demo}\nlabels: [a, b]\n", "one.yaml")
    write("data: {kind: demo}\nlabels: [c, d]\n", "two.yaml")
    experiments = load_experiments(
        write("subsample: {levels: [full]}\ntask: one.yaml\nsweep: {task: [one.yaml, two.yaml]}\n")
    )
    assert [(e.task.name, e.task.classes, e.variant) for e in experiments] == [
        ("one", ["a", "b"], {"task": "one.yaml"}),
        ("two", ["c", "d"], {"task": "two.yaml"}),
    ]


@pytest.mark.parametrize(
    "sweep", ["3", "[augment.k]", "{augment.k: 3}", "{augment.k: []}", "{augment.k: {a: 1}}"]
)
def test_a_sweep_must_be_keys_with_lists(write: Write, sweep: str) -> None:
    path = write(BASE + f"sweep: {sweep}\n")
    assert refused(path) == f"{path}: sweep: expected key -> list of values"


@pytest.mark.parametrize("values", ["[1, 1]", "[1, 1.0]"])
def test_a_value_swept_twice_is_refused(write: Write, values: str) -> None:
    assert "has the settings of an earlier one" in refused(
        write(FULL + f"sweep: {{augment.ratio: {values}}}\n")
    )


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("{augment.k: [1, -1]}", "  augment.k: input should be greater than or equal to 0, got -1"),
        ("{augmnt.k: [1]}", "  augmnt: unknown key; did you mean 'augment'?"),
        ("{augment.kk: [1]}", "  augment.kk: unknown key"),
        (
            "{baselines.7.alpha: [1]}",
            "sweep: baselines.7.alpha: '7' is not an index of a list of 2",
        ),
        ("{task: [none.yaml]}", "task: no such file: "),
    ],
)
def test_a_bad_swept_value_is_an_error_before_any_work(
    write: Write, sweep: str, message: str
) -> None:
    assert message in refused(write(FULL + f"sweep: {sweep}\n"))


def test_an_override_replaces_a_sweep_or_is_refused(write: Write) -> None:
    try:
        experiments = load_experiments(
            write(BASE + "sweep: {augment.k: [1, 4]}\n"), ["augment.k=9"]
        )
    except UserError:
        return
    assert {e.augment.k for e in experiments} == {9}


@pytest.mark.parametrize(
    ("labels", "classes"), [("[true, false]", ["true", "false"]), ("{1: 1, 0: 0}", ["1", "0"])]
)
def test_swept_labels_are_read_as_written(write: Write, labels: str, classes: list[str]) -> None:
    assert load_one(write(BASE + f"sweep: {{task.labels: [{labels}]}}\n")).task.classes == classes


# Random keys --------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(
    st.dictionaries(
        st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=9), st.integers(), max_size=3
    )
)
def test_an_unknown_key_is_never_ignored(
    tmp_path_factory: pytest.TempPathFactory, extra: dict[str, int]
) -> None:
    extra = {key: value for key, value in extra.items() if key not in {*Experiment.model_fields}}
    path = tmp_path_factory.mktemp("any") / "x.yaml"
    path.write_text(
        BASE + "".join(f"'{key}': {value}\n" for key, value in extra.items()), encoding="utf-8"
    )
    if extra:
        message = refused(path)
        assert all(f"  {key}: unknown key" in message for key in extra)
    else:
        assert load_one(path).variant == {}
