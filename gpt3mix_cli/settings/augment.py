"""Settings of the augmenters: GPT3Mix, its filter, and the baselines."""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from .base import FileStem, Settings, StrictFloat, StrictInt

# The pivot of an engine, and its models or pairs there and back. German is the paper's; Apertium has none with English.
PIVOTS = {
    "transformers": ("de", "Helsinki-NLP/opus-mt-en-{pivot}", "Helsinki-NLP/opus-mt-{pivot}-en"),
    "apertium": ("spa", "eng-{pivot}", "{pivot}-eng"),
}


class FilterSettings(Settings):
    """Which generated rows are rejected; copies of real rows and repeats always are. A share is of the row's own text; null: off."""

    reject_test_copies: bool = Field(
        True, description="reject copies of test rows, whatever their case, spacing and signs"
    )
    max_parent_overlap: Annotated[StrictFloat, Field(gt=0, le=1)] | None = Field(
        0.8,
        description="reject if this share of the word triples, or the whole of a shorter text, stands in one of the row's parents",
    )
    max_repetition: Annotated[StrictFloat, Field(gt=0, lt=1)] | None = Field(
        0.5,
        description="reject if more than this share of the word pairs stood in the text before, or of the words is one and the same",
    )
    min_words: StrictInt = Field(
        1, ge=0, description="fewest words; 1 lets `Awful.` through, but no signs alone"
    )
    max_words: Annotated[StrictInt, Field(ge=1)] | None = Field(
        None, description="most words; `augment.max_tokens` is a bound in any case"
    )
    max_foreign_script: Annotated[StrictFloat, Field(gt=0, lt=1)] | None = Field(
        0.3,
        description="reject if more than this share of the letters is of scripts that no real row uses",
    )
    min_label_mass: StrictFloat = Field(
        0.0,
        ge=0,
        le=1,
        description="least label mass; 0: the paper's, which keeps every row (equation 1), while a low mean is warned of",
    )
    perplexity: list[Annotated[StrictFloat, Field(ge=1)]] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="[low, high]: the text's perplexity under the LM that wrote it",
    )
    max_disagreement: Annotated[StrictFloat, Field(gt=0, lt=1)] | None = Field(
        None,
        description="reject if a linear classifier of the real rows gives another class at least this probability",
    )

    @field_validator("perplexity")
    @classmethod
    def _band(cls, value: list[float] | None) -> list[float] | None:
        if value and value[0] >= value[1]:
            raise ValueError("the first must be below the second")
        return value


class MethodSettings(Settings):
    """What every augmentation method declares.

    Attributes:
        title: the method's name in text for people.
        uses_lm: writes with the experiment's `lm`.
        edits_parents: each attempt edits one real row, so no row is rejected.
        uses_journal: stores the answers of a model of its own in a journal.
    """

    title: ClassVar[str]
    uses_lm: ClassVar[bool]
    edits_parents: ClassVar[bool] = True
    uses_journal: ClassVar[bool] = False


class AugmentSettings(MethodSettings):
    """GPT3Mix itself; `ratio` and `synthetic_sets` hold for every method."""

    title: ClassVar = "GPT3Mix"
    uses_lm: ClassVar[Literal[True]] = True
    edits_parents: ClassVar = False

    k: StrictInt = Field(2, ge=1, description="real examples in a prompt (section 3)")
    ratio: StrictFloat = Field(
        1.0, gt=0, description="synthetic rows for each real one (section 4.2)"
    )
    synthetic_sets: StrictInt | Literal["per-trial"] = Field(
        1, description="synthetic sets a data seed; per-trial: a new one for each trial"
    )
    selection: Literal["uniform", "balanced", "nearest", "furthest"] = Field(
        "uniform",
        description="how examples are chosen; nearest, furthest: those most or least like a drawn one",
    )
    similarity: str = Field(
        "tfidf",
        min_length=1,
        description="what nearest and furthest compare: tfidf, or an encoder (`minilm`, folder, hub id)",
    )
    labels: Literal["soft", "hard"] = Field(
        "soft",
        description="soft: equation (1); hard: what a beam search over the whole line writes (Table 5)",
    )
    beams: StrictInt = Field(
        4,
        ge=1,
        description="hard labels: lines searched for together, each a possible row; drawn, but for temperature 0",
    )
    label_temperature: StrictFloat = Field(
        1.0,
        gt=0,
        description="soft labels: divides the log-probabilities; above 1 flattens, below sharpens",
    )
    contextual_calibration: bool = Field(
        False,
        description="soft labels: divide by those of texts without content (Zhao et al., 2021)",
    )
    temperature: StrictFloat = Field(1.0, ge=0, description="of the text; 0 is greedy")
    top_p: StrictFloat = Field(
        1.0, gt=0, le=1, description="drawn from the fewest tokens with this probability"
    )
    max_tokens: StrictInt = Field(100, ge=1, description="longest text, in tokens of the LM")
    frequency_penalty: StrictFloat = Field(0.01, ge=-2, le=2, description="as in OpenAI's API")
    attempts: StrictFloat = Field(
        4.0, ge=1, description="at most this many requests for each wanted row"
    )
    filter: FilterSettings = Field(
        FilterSettings(), description="which generated rows are rejected"
    )

    @field_validator("synthetic_sets")
    @classmethod
    def _some(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("at least one synthetic set is needed")
        return value

    @model_validator(mode="after")
    def _known_perplexity(self) -> "AugmentSettings":
        # Otherwise the first row would end the run, after the LM was asked and paid.
        if self.labels == "hard" and self.filter.perplexity:
            raise ValueError(
                "the perplexity of hard labels' rows is unknown; leave filter.perplexity out, or take labels: soft"
            )
        return self


class EdaSettings(MethodSettings):
    """Easy Data Augmentation (Wei and Zou, 2019)."""

    kind: Literal["eda"]
    title: ClassVar = "EDA"
    uses_lm: ClassVar[Literal[False]] = False
    name: FileStem = Field("eda", description="of the method")
    alpha: StrictFloat | Literal["auto"] = Field(
        "auto", description="share of words changed; auto: the authors' by training size"
    )
    normalise: bool = Field(
        False,
        description="first the authors' form of a text: lower-case letters only, no punctuation",
    )

    @field_validator("alpha")
    @classmethod
    def _share(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 < value <= 1:
            raise ValueError("must be above 0 and at most 1")
        return value


class AedaSettings(MethodSettings):
    """An Easier Data Augmentation (Karimi et al., 2021): punctuation marks put in at random."""

    kind: Literal["aeda"]
    title: ClassVar = "AEDA"
    uses_lm: ClassVar[Literal[False]] = False
    name: FileStem = Field("aeda", description="of the method")


class MlmSettings(MethodSettings):
    """Words replaced by what a masked LM writes in their place (as Wu et al., 2019, and Ng et al., 2020)."""

    kind: Literal["mlm"]
    title: ClassVar = "Masked LM"
    uses_lm: ClassVar[Literal[False]] = False
    name: FileStem = Field("mlm", description="of the method")
    model: str = Field(
        "distilroberta-base", min_length=1, description="folder or hub id of a masked LM"
    )
    revision: str | None = Field(None, description="commit of a hub model")
    fraction: StrictFloat = Field(
        0.15, gt=0, le=1, description="share of the words replaced, at least one"
    )
    top_k: StrictInt = Field(10, ge=1, description="a word is drawn from this many, the likeliest")
    temperature: StrictFloat = Field(
        1.0, gt=0, description="below 1 draws the likelier ones more often"
    )
    conditional: bool = Field(
        False,
        description="let the label stand before the text as the masked LM reads it (Kumar et al., 2020)",
    )
    batch_size: StrictInt = Field(32, ge=1, description="texts read together")
    device: str = Field("auto", description="auto, cpu, cuda, ...")


class ParaphraseSettings(MethodSettings):
    """GPT3Mix with one example in the prompt: everything else is as `lm` and `augment` say."""

    kind: Literal["paraphrase"]
    title: ClassVar = "Paraphrase"
    uses_lm: ClassVar[Literal[True]] = True
    edits_parents: ClassVar = False
    name: FileStem = Field("paraphrase", description="of the method")

    def gpt3mix(self, augment: AugmentSettings) -> AugmentSettings:
        """Return the settings of GPT3Mix that this method is."""
        return augment.model_copy(update={"k": 1})


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class BacktranslateSettings(MethodSettings):
    """Back-translation (Fadaee et al., 2017) through a pivot language."""

    kind: Literal["backtranslate"]
    title: ClassVar = "Back-translation"
    uses_lm: ClassVar[Literal[False]] = False
    uses_journal: ClassVar = True
    name: FileStem = Field("backtranslate", description="of the method")
    engine: Literal["transformers", "apertium"] = Field(
        "transformers", description="a model a direction, or Apertium's rules"
    )
    pivot: Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_listed)] = Field(
        [],
        description="the language between, or several, of which the next is tried where candidates run out; default: de, or spa for Apertium",
    )
    forward: str = Field(
        "",
        description="model or Apertium pair into the pivot; default: Helsinki-NLP/opus-mt-en-{pivot}, or eng-{pivot}",
    )
    backward: str = Field(
        "",
        description="model or Apertium pair back; default: Helsinki-NLP/opus-mt-{pivot}-en, or {pivot}-eng",
    )
    revisions: dict[str, str] = Field(
        {}, description="commits of hub models, by their ids (transformers)"
    )
    beams: StrictInt = Field(
        4,
        ge=1,
        description="beam width, and so candidates of each pivot (transformers, temperature 0)",
    )
    temperature: StrictFloat = Field(
        0.0,
        ge=0,
        description="0 is beam search; above it translations are drawn, as many as there are copies (transformers)",
    )
    batch_size: StrictInt = Field(
        32,
        ge=1,
        description="texts translated together; their last digits depend on it (transformers)",
    )
    max_tokens: StrictInt = Field(256, ge=1, description="longest translation (transformers)")
    device: str = Field("auto", description="auto, cpu, cuda, ... (transformers)")

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The models or pairs (there, back) of each pivot."""
        pivots = self.pivot or [PIVOTS[self.engine][0]]
        there, back = (
            self.forward or PIVOTS[self.engine][1],
            self.backward or PIVOTS[self.engine][2],
        )
        return [
            (there.replace("{pivot}", pivot), back.replace("{pivot}", pivot)) for pivot in pivots
        ]

    @model_validator(mode="after")
    def _each_pivot_its_own(self) -> "BacktranslateSettings":
        if len(set(self.pairs)) < max(1, len(self.pivot)):
            raise ValueError(
                "two pivots have the same models; write {pivot} into forward and backward, or name each pivot once"
            )
        models = sorted({model for pair in self.pairs for model in pair})
        if self.engine == "apertium":
            models = []
        if strange := [model for model in self.revisions if model not in models]:
            raise ValueError(
                f"revisions: no model '{strange[0]}' is used (models: {', '.join(models) or 'none'})"
            )
        return self


EditorSettings = EdaSettings | AedaSettings | MlmSettings | BacktranslateSettings
BaselineSettings = Annotated[EditorSettings | ParaphraseSettings, Field(discriminator="kind")]

GPT3MIX = "gpt3mix"  # name of the method that `augment` configures; a baseline's name is its own
METHOD_TITLES = {GPT3MIX: AugmentSettings.title} | {
    baseline.model_fields["name"].default: baseline.title
    for baseline in get_args(get_args(BaselineSettings)[0])
}
