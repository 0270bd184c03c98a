"""Every YAML key of an experiment, as frozen models in which an unknown key is an error.

A default is written once, on its field. Precedence: `--set`, then YAML, then the default. `config.load` makes an
`Experiment` out of a file. Everything random draws from a `generator` named by (master seed, purpose, index).
"""

import hashlib
import json
import random
import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, field_validator, model_validator

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")
LEVEL = re.compile(r"(?P<percent>\d+(\.\d+)?|\.\d+)%|(?P<count>\d+)/class|full")


Split = Literal["train", "validation", "test"]


class Settings(BaseModel):
    """Base of all settings: frozen, and strict about keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    def __hash__(self) -> int:
        """Return a hash of all values, mappings included: settings are keys of what is kept for them."""
        return hash(self.model_dump_json())


def _number(value: Any) -> Any:
    # Python would take true for 1.
    if isinstance(value, bool):
        raise ValueError(f"'{str(value).lower()}' is no number")
    return value


Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number)]


def _name(value: Any) -> str:
    # Names become parts of file names, so they must be safe there on every system.
    if not isinstance(value, str | int) or not NAME.fullmatch(str(value)):
        raise ValueError(f"'{value}' cannot be a file name; use letters, digits, '.', '_', '+' and '-'")
    return str(value)


def _part(value: Any) -> str:
    # Dots set the parts of a file name apart: `eda.draw-1.jsonl`, `trials/eda.linear.jsonl`.
    if not isinstance(value, str | int) or not PART.fullmatch(str(value)):
        raise ValueError(f"'{value}' cannot be part of a file name; use letters, digits, '_', '+' and '-'")
    if value in ("train", "history"):
        raise ValueError(f"'{value}' names another file; choose another")
    return str(value)


Name = Annotated[str, BeforeValidator(_name)]
Part = Annotated[str, BeforeValidator(_part)]


class Columns(Settings):
    """Which columns (or JSON keys) hold what, and what their raw label values mean."""

    text: str = Field("text", description="column that holds the text")
    label: str = Field("label", description="column that holds the label")
    id: str = Field("id", description="column that holds a unique id; rows are numbered where it is absent")
    values: dict[str, str] = Field({}, description="raw label value -> class name, where they differ")


class HubData(Columns):
    """A data set of the Hugging Face hub, or a local folder in the same form."""

    kind: Literal["hub"]
    path: str = Field(description="repository id, such as SetFit/sst2")
    name: str | None = Field(None, description="the hub's config name")
    revision: str | None = Field(None, description="commit; pin it, so that the data cannot change under you")
    splits: dict[Split, str] = Field({}, description="split -> the hub's split name")


class FilesData(Columns):
    """Files of your own: JSONL, CSV, TSV or Parquet, told apart by their endings."""

    kind: Literal["files"]
    train: Path = Field(description="training rows")
    validation: Path | None = Field(None, description="validation rows; without it they are split off train")
    test: Path = Field(description="test rows")


class DemoData(Settings):
    """The packaged movie-review sentences."""

    kind: Literal["demo"]


Data = Annotated[HubData | FilesData | DemoData, Field(discriminator="kind")]


class Task(Settings):
    """The data and the task specification S = (T, L, v) of section 3."""

    name: Name = Field("", description="name in results; default: the task file's or the experiment's")
    data: Data = Field(description="where the rows come from: a `kind:` of hub, files or demo")
    labels: dict[str, str] = Field(description="ordered: class -> label token (the verbalizer v); a list is the identity")
    text_type: str = Field("text", min_length=1, description="T, such as `movie review`")
    label_type: str = Field("label", min_length=1, description="L, such as `sentiment`")

    @field_validator("labels", mode="before")
    @classmethod
    def _identity(cls, value: Any) -> Any:
        if isinstance(value, list):
            if repeated := sorted({str(label) for label in value if value.count(label) > 1}):
                raise ValueError(f"a class stands twice: {', '.join(repeated)}")
            return {str(label): str(label) for label in value}
        return value

    @field_validator("labels")
    @classmethod
    def _distinct(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) < 2:
            raise ValueError("at least two classes are needed")
        if any(not key.strip() or not token.strip() or "\n" in token for key, token in value.items()):
            raise ValueError("classes and label tokens must be non-empty and on one line")
        if len({token.lower() for token in value.values()}) < len(value):
            raise ValueError("two classes share a label token (case is ignored), so their labels could not be told apart")
        return value

    @field_validator("text_type", "label_type")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if value != value.strip() or "\n" in value:
            raise ValueError("must be one line without spaces around it")
        return value

    @model_validator(mode="after")
    def _mapped(self) -> "Task":
        for raw, label in getattr(self.data, "values", {}).items():
            if label not in self.labels:
                raise ValueError(f"data.values maps '{raw}' to '{label}', which is none of the classes {', '.join(self.labels)}")
        return self

    @property
    def classes(self) -> list[str]:
        """Class names in the task's order."""
        return list(self.labels)


def level(value: Any) -> str:
    """Return a level as it was written.

    Raises:
        ValueError: if it is none.
    """
    text = str(value)
    if not LEVEL.fullmatch(text):
        raise ValueError(f"'{text}' is no level; write `0.1%`, `8/class` or `full`")
    match = LEVEL.fullmatch(text)
    assert match
    if match["percent"] and not 0 < Fraction(match["percent"]) <= 100:
        raise ValueError(f"'{text}' is not above 0 % and at most 100 %")
    if match["count"] and int(match["count"]) < 1:
        raise ValueError(f"'{text}': at least one row a class is needed")
    return text


def _rows(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and re.fullmatch(r"full|[1-9]\d*/class", value):
        return value
    raise ValueError(f"'{value}' is not `full`, a number of rows such as 200, or `n/class` such as `16/class`")


def _seeds(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError("at least one seed is needed")
        return list(range(value))
    return value


Level = Annotated[str, BeforeValidator(level)]


class Subsample(Settings):
    """The data-scarce draws of section 4.1."""

    levels: list[Level] = Field(min_length=1, description="`p%` of train, `n/class`, or `full`")
    seeds: Annotated[list[Whole], BeforeValidator(_seeds)] = Field(
        [0, 1, 2, 3, 4], min_length=1, description="data seeds: a count n for 0 to n-1, or a list"
    )
    master_seed: Whole = Field(42, description="every generator derives from it")
    validation: Annotated[int | str, BeforeValidator(_rows)] = Field("full", description="rows used for early stopping")

    @field_validator("levels", "seeds")
    @classmethod
    def _once(cls, value: list[Any]) -> list[Any]:
        if len(set(value)) < len(value):
            raise ValueError("an entry stands twice")
        return value


class LocalLM(Settings):
    """A transformers causal LM in this process."""

    kind: Literal["local"]
    model: str = Field("bundled", description="`bundled` (the packaged review LM), a folder or a hub id")
    revision: str | None = Field(None, description="commit of a hub model")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="auto: float32 on a CPU, bfloat16 on a GPU")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    batch_size: Whole = Field(32, ge=1, description="requests in a block; the numbers depend on it in their last digits")


class Augment(Settings):
    """GPT3Mix itself; `ratio` and `draws` hold for every method."""

    k: Whole = Field(2, ge=1, description="real examples in a prompt (section 3)")
    ratio: Real = Field(1.0, gt=0, description="synthetic rows for each real one (section 4.2)")
    draws: Whole | Literal["per-trial"] = Field(1, description="synthetic sets a data seed; per-trial: a new one for each trial")
    choose: Literal["uniform", "balanced"] = Field("uniform", description="how examples are chosen")
    temperature: Real = Field(1.0, ge=0, description="0 is greedy")
    top_p: Real = Field(1.0, gt=0, le=1, description="drawn from the fewest tokens with this probability")
    max_tokens: Whole = Field(100, ge=1, description="longest text, in tokens of the LM")
    frequency_penalty: Real = Field(0.01, ge=-2, le=2, description="as in OpenAI's API")
    attempts: Real = Field(4.0, ge=1, description="at most this many requests for each wanted row")

    @field_validator("draws")
    @classmethod
    def _some(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("at least one draw is needed")
        return value


class Eda(Settings):
    """Easy Data Augmentation (Wei and Zou, 2019)."""

    kind: Literal["eda"]
    name: Part = Field("eda", description="of the method")
    alpha: Real | Literal["auto"] = Field("auto", description="share of words changed; auto: the authors' by training size")

    @field_validator("alpha")
    @classmethod
    def _share(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 < value <= 1:
            raise ValueError("must be above 0 and at most 1")
        return value


class Backtranslate(Settings):
    """Back-translation (Fadaee et al., 2017) through a pivot language."""

    kind: Literal["backtranslate"]
    name: Part = Field("backtranslate", description="of the method")
    engine: Literal["transformers", "apertium"] = Field("transformers", description="a model a direction, or Apertium's rules")
    forward: str = Field("", description="model or Apertium pair into the pivot; default opus-mt-en-de or eng-spa")
    backward: str = Field("", description="model or Apertium pair back; default opus-mt-de-en or spa-eng")
    batch_size: Whole = Field(32, ge=1, description="texts translated together (transformers)")
    max_tokens: Whole = Field(256, ge=1, description="longest translation (transformers)")
    beams: Whole = Field(4, ge=1, description="beam width (transformers)")
    device: str = Field("auto", description="auto, cpu, cuda, ... (transformers)")


Baseline = Annotated[Eda | Backtranslate, Field(discriminator="kind")]


class Trained(Settings):
    """What every classifier that is trained has; the defaults weigh all rows alike, as the paper does."""

    trials: Whole | None = Field(None, ge=1, description="overrides the experiment's `trials`")
    hard_labels: bool = Field(False, description="train on the argmax of soft labels (the ablation of Table 5)")
    synthetic_weight: Real = Field(1.0, gt=0, description="weight of a synthetic row; a real one has 1")
    class_weights: Literal["none", "balanced"] | dict[str, Annotated[Real, Field(gt=0)]] = Field(
        "none", description="balanced, or class -> weight; classes that are not named have 1"
    )
    label_smoothing: Real = Field(0.0, ge=0, lt=1, description="share of each row's target that is spread over all classes")

    @property
    def weighted(self) -> bool:
        """Whether targets differ from the rows' own distributions."""
        return self.hard_labels or self.synthetic_weight != 1 or self.class_weights != "none" or self.label_smoothing > 0


class Transformer(Trained):
    """A pretrained encoder with a fresh classification head; the defaults are sections 4.1 and 4.2."""

    kind: Literal["transformer"]
    name: Part = Field("transformer", description="of the classifier in results")
    preset: Literal["paper"] | None = Field(None, description="paper: refuse every setting that departs from sections 4.1 and 4.2")
    model: str = Field("distilbert-base-uncased", description="folder, hub id, or `minilm` (extra `offline`)")
    revision: str | None = Field(None, description="commit of a hub model")
    head: Literal["fresh", "library"] = Field(
        "fresh", description="fresh: draw all of it (section 4.1); library: keep what is pretrained, as BERT's pooler"
    )
    lr: Real = Field(3e-5, gt=0, description="peak learning rate of AdamW")
    warmup_epochs: Real = Field(3, ge=0, description="linear warm-up; constant afterwards")
    patience: Whole = Field(20, ge=1, description="epochs without a better validation accuracy before stopping")
    batch_size: Whole = Field(32, ge=1, description="rows a step of the optimiser, whatever the memory holds at once")
    max_epochs: Whole = Field(200, ge=1, description="where training ends at the latest")
    weight_decay: Real = Field(0.01, ge=0, description="decoupled; none on biases and norms")
    max_length: Whole = Field(128, ge=4, description="tokens kept of a text")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of products; auto: bfloat16 where the processor has it")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    threads: Whole = Field(1, ge=1, description="CPU threads of a trial; trials run side by side on the others")

    @model_validator(mode="after")
    def _faithful(self) -> "Transformer":
        if self.preset == "paper":
            if self.max_epochs <= self.patience:
                raise ValueError("preset paper: max_epochs would end the training before patience could")
            for key, value in PAPER.items():
                if (found := getattr(self, key)) != value:
                    raise ValueError(f"preset paper has {key}: {value} (sections 4.1 and 4.2), not {found}; leave one of the two out")
        return self


# What the paper says of training. It is silent on batch size, weight decay's size, length and precision: those stay free.
PAPER = {
    **{"lr": 3e-5, "warmup_epochs": 3, "patience": 20, "head": "fresh"},
    **{"hard_labels": False, "synthetic_weight": 1, "class_weights": "none", "label_smoothing": 0},
}


class Linear(Trained):
    """Tf-idf and logistic regression."""

    kind: Literal["linear"]
    name: Part = Field("linear", description="of the classifier in results")
    ngrams: Whole = Field(2, ge=1, le=5, description="longest word n-gram")
    C: Real = Field(10.0, gt=0, description="inverse strength of the L2 penalty")


Classifier = Annotated[Transformer | Linear, Field(discriminator="kind")]


class Experiment(Settings):
    """One experiment file."""

    name: Name = Field(description="of the results' folder; default: the file's name")
    task: Task = Field(description="the task, or the path of a file that holds it")
    subsample: Subsample = Field(description="how many real rows")
    lm: LocalLM | None = Field(None, description="the language model; without it there is no method gpt3mix")
    augment: Augment = Field(Augment(), description="GPT3Mix, and how many rows every method makes")
    baselines: list[Baseline] = Field([], description="methods to compare with: a `kind:` of eda or backtranslate each")
    classifiers: list[Classifier] = Field([], description="what is trained: a `kind:` of transformer or linear each")
    trials: Whole = Field(10, ge=1, description="training runs a cell in all, dealt over the data seeds in turn")
    sweep: dict[str, list[Any]] = Field({}, description="key -> values; every combination is a variant")

    _variant: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def variant(self) -> dict[str, Any]:
        """The swept keys and their values here; empty without a sweep."""
        return self._variant

    @property
    def methods(self) -> list[str]:
        """Names of the methods: `none`, `gpt3mix` where there is an LM, then the baselines."""
        return ["none", *(["gpt3mix"] if self.lm else []), *(baseline.name for baseline in self.baselines)]

    @model_validator(mode="after")
    def _unique_names(self) -> "Experiment":
        for what, names in (("methods", self.methods), ("classifiers", [c.name for c in self.classifiers])):
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"two {what} are called '{repeated[0]}'; give one of them another `name:`")
        return self

    @model_validator(mode="after")
    def _known_classes(self) -> "Experiment":
        for classifier in self.classifiers:
            for name in classifier.class_weights if isinstance(classifier.class_weights, dict) else ():
                if name not in self.task.labels:
                    known = ", ".join(self.task.labels)
                    raise ValueError(f"classifier '{classifier.name}': class_weights names '{name}', which is none of the classes {known}")
        return self


def fingerprint(value: object, length: int = 16) -> str:
    """Return the first hex digits of the SHA-256 of a JSON-like value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def derived_seed(master: int, purpose: str, *index: int | str) -> int:
    """Return a 63-bit seed that depends on nothing but its arguments (design: named generators)."""
    text = json.dumps([master, purpose, *index], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(master: int, purpose: str, *index: int | str) -> random.Random:
    """Return a random generator of its own for (master seed, purpose, index)."""
    return random.Random(derived_seed(master, purpose, *index))  # noqa: S311 - statistics, not secrets
