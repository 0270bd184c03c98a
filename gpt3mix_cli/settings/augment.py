"""Settings of the augmenters: GPT3Mix, its filter, and the baselines."""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from .base import (
    MAX_BATCH,
    MAX_TRIALS,
    FileStem,
    PositiveFloat,
    Settings,
    StrictFloat,
    StrictInt,
    Temperature,
)

MAX_BEAMS = 1_000
MAX_TOKENS = 1_000_000  # or words of a text

# Default pivot of each engine, and its models or language pairs (forward, backward). The paper uses
# German; Apertium has no pair of English and German.
PIVOTS = {
    "transformers": ("de", "Helsinki-NLP/opus-mt-en-{pivot}", "Helsinki-NLP/opus-mt-{pivot}-en"),
    "apertium": ("spa", "eng-{pivot}", "{pivot}-eng"),
}


class FilterSettings(Settings):
    """Which generated rows are rejected; null turns a test off.

    Copies of real rows and duplicates are always rejected. A fraction is of the row's own text.
    """

    reject_test_copies: bool = Field(
        True, description="reject copies of test rows, ignoring case, spacing and punctuation"
    )
    max_parent_overlap: Annotated[StrictFloat, Field(gt=0, le=1)] | None = Field(
        0.8,
        description=(
            "reject if at least this fraction of the word triples is in one of the row's "
            "parents; a text without triples is compared as a whole"
        ),
    )
    max_similarity: Annotated[StrictFloat, Field(gt=0, le=1)] | None = Field(
        0.75,
        description=(
            "reject if the similarity to any real row or to an earlier row of the set is at least "
            "this: the Jaccard similarity of their character 4-grams; one changed word in twelve "
            "gives 0.75"
        ),
    )
    max_repetition: Annotated[StrictFloat, Field(gt=0, lt=1)] | None = Field(
        0.5,
        description=(
            "reject if more than this fraction of the word pairs repeats earlier ones, or of "
            "the words is a single word"
        ),
    )
    min_words: StrictInt = Field(
        1,
        ge=0,
        le=MAX_TOKENS,
        description="fewest words; 1 keeps `Awful.` but not punctuation alone",
    )
    max_words: Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS)] | None = Field(
        None, description="most words; `augment.max_tokens` always applies"
    )
    max_foreign_script: Annotated[StrictFloat, Field(gt=0, lt=1)] | None = Field(
        0.3,
        description=(
            "reject if more than this fraction of the letters is in scripts that no real row uses"
        ),
    )
    min_label_mass: StrictFloat = Field(
        0.0,
        ge=0,
        le=1,
        description=(
            "smallest label mass; 0 keeps every row as the paper does (equation 1); a low "
            "mean gives a warning"
        ),
    )
    perplexity: list[Annotated[StrictFloat, Field(ge=1, le=1e9)]] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="[low, high] of the text's perplexity under the LM that generated it",
    )
    max_disagreement: Annotated[StrictFloat, Field(gt=0, lt=1)] | None = Field(
        None,
        description=(
            "reject if a linear classifier trained on the real rows gives another class than the "
            "label before `label_prior` at least this probability"
        ),
    )

    @field_validator("perplexity")
    @classmethod
    def _check_range(cls, value: list[float] | None) -> list[float] | None:
        if value and value[0] >= value[1]:
            raise ValueError("the first must be below the second")
        return value


class EditingMethod(Settings):
    """What a method that edits one real row per attempt declares.

    Attributes:
        title: the method's name in text for people.
        uses_lm: False; GPT3Mix and Paraphrase use the experiment's `lm` instead.
        uses_journal: stores the answers of a model of its own in a journal.
    """

    title: ClassVar[str]
    uses_lm: ClassVar[Literal[False]] = False
    uses_journal: ClassVar[bool] = False


class AugmentSettings(Settings):
    """GPT3Mix; `ratio` and `synthetic_sets` apply to every method."""

    title: ClassVar = "GPT3Mix"
    uses_lm: ClassVar[Literal[True]] = True

    k: StrictInt = Field(2, ge=1, le=10_000, description="real examples in a prompt (section 3)")
    ratio: StrictFloat = Field(
        1.0, gt=0, le=100_000, description="synthetic rows per real row (section 4.2)"
    )
    synthetic_sets: Annotated[StrictInt, Field(ge=1, le=MAX_TRIALS)] | Literal["per-trial"] = Field(
        1, description="synthetic sets per data seed; per-trial: one for each trial"
    )
    selection: Literal["uniform", "balanced", "same_class", "nearest", "furthest"] = Field(
        "uniform",
        description=(
            "selection of examples; same_class: of one class, classes in turn; nearest, furthest: "
            "those most or least similar to a random one"
        ),
    )
    similarity: str = Field(
        "tfidf",
        min_length=1,
        description=(
            "similarity for nearest and furthest: tfidf, or an encoder (`minilm`, folder, hub id)"
        ),
    )
    labels: Literal["soft", "hard", "parents", "product"] = Field(
        "soft",
        description=(
            "soft: equation (1); hard: as generated by a beam search over text and label "
            "(Table 5); parents: the mean of the parents' labels; product: soft times parents"
        ),
    )
    beams: StrictInt = Field(
        4,
        ge=1,
        le=MAX_BEAMS,
        description=(
            "hard labels: number of beams, each a candidate row; sampled unless temperature is 0"
        ),
    )
    label_temperature: PositiveFloat = Field(
        1.0,
        description=(
            "soft labels: divides the log-probabilities; above 1 flattens the distribution"
        ),
    )
    contextual_calibration: bool = Field(
        False,
        description=(
            "soft labels: divide by the probabilities for content-free texts (Zhao et al., 2021)"
        ),
    )
    label_prior: Literal["auto", "none", "match"] | dict[str, PositiveFloat] = Field(
        "auto",
        description=(
            "soft labels: offsets against the LM's bias, so that the mean label of a set is the "
            "class mix of its real rows (match), or class -> share; auto: match for a local LM "
            "below 1 B parameters or where `label_check` shows a bias"
        ),
    )
    label_check: Annotated[StrictInt, Field(ge=0, le=100_000)] | Literal["auto"] = Field(
        "auto",
        description=(
            "real rows that the LM labels before a set is made, to tell whether its labels are "
            "any good; auto: 32, 0 for an endpoint"
        ),
    )
    temperature: Temperature = Field(1.0, description="sampling temperature of texts; 0 is greedy")
    top_p: StrictFloat = Field(
        1.0,
        gt=0,
        le=1,
        description="nucleus sampling: the smallest set of tokens with this probability",
    )
    min_p: Annotated[StrictFloat, Field(ge=0, le=1)] | Literal["auto"] = Field(
        "auto",
        description=(
            "min-p sampling, after temperature: tokens at least this fraction as probable as the "
            "most probable one; 0 is off; auto: 0.1 for a local LM below 1 B parameters, else 0"
        ),
    )
    max_tokens: StrictInt = Field(100, ge=1, le=MAX_TOKENS, description="most tokens of a text")
    frequency_penalty: StrictFloat = Field(0.01, ge=-2, le=2, description="as in OpenAI's API")
    attempts: StrictFloat = Field(4.0, ge=1, le=10_000, description="most requests per wanted row")
    filter: FilterSettings = Field(
        FilterSettings(), description="which generated rows are rejected"
    )

    @property
    def uses_lm_labels(self) -> bool:
        """Whether labels come from the LM's probabilities of the label words."""
        return self.labels in ("soft", "product")

    @model_validator(mode="after")
    def _check_perplexity(self) -> "AugmentSettings":
        # Otherwise the first row would end the run, after the LM was asked and paid.
        if self.labels == "hard" and self.filter.perplexity:
            raise ValueError(
                "the perplexity of hard labels' rows is unknown; "
                "remove filter.perplexity, or set labels: soft"
            )
        return self


class EdaSettings(EditingMethod):
    """Easy Data Augmentation (Wei and Zou, 2019)."""

    kind: Literal["eda"]
    title: ClassVar = "EDA"
    name: FileStem = Field("eda", description="name of the method")
    alpha: Annotated[StrictFloat, Field(gt=0, le=1)] | Literal["auto"] = Field(
        "auto",
        description="fraction of words changed; auto: the authors' value for the number of rows",
    )
    normalise: bool = Field(
        False,
        description="first reduce texts to lower-case letters as the authors do",
    )


class AedaSettings(EditingMethod):
    """An Easier Data Augmentation (Karimi et al., 2021): random punctuation marks are inserted."""

    kind: Literal["aeda"]
    title: ClassVar = "AEDA"
    name: FileStem = Field("aeda", description="name of the method")


class MlmSettings(EditingMethod):
    """Words replaced by a masked LM's predictions (as Wu et al., 2019, and Ng et al., 2020)."""

    kind: Literal["mlm"]
    title: ClassVar = "Masked LM"
    name: FileStem = Field("mlm", description="name of the method")
    model: str = Field(
        "distilroberta-base", min_length=1, description="folder or hub id of a masked LM"
    )
    revision: str | None = Field(None, description="commit of a hub model")
    fraction: StrictFloat = Field(
        0.15, gt=0, le=1, description="fraction of words replaced, at least one word"
    )
    top_k: StrictInt = Field(
        10, ge=1, le=1_000_000, description="sample from this many of the most probable words"
    )
    temperature: PositiveFloat = Field(1.0, description="sampling temperature")
    conditional: bool = Field(
        False,
        description="prepend the label to the text that the masked LM reads (Kumar et al., 2020)",
    )
    batch_size: StrictInt = Field(32, ge=1, le=MAX_BATCH, description="texts per batch")
    device: str = Field("auto", description="auto, cpu, cuda, ...")


class ParaphraseSettings(Settings):
    """GPT3Mix with one example per prompt; `lm` and `augment` set everything else."""

    kind: Literal["paraphrase"]
    title: ClassVar = "Paraphrase"
    uses_lm: ClassVar[Literal[True]] = True
    name: FileStem = Field("paraphrase", description="name of the method")

    def gpt3mix(self, augment: AugmentSettings) -> AugmentSettings:
        """Return the settings of GPT3Mix that this method is."""
        return augment.model_copy(update={"k": 1})


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class BacktranslateSettings(EditingMethod):
    """Back-translation (Fadaee et al., 2017) through a pivot language."""

    kind: Literal["backtranslate"]
    title: ClassVar = "Back-translation"
    uses_journal: ClassVar = True
    name: FileStem = Field("backtranslate", description="name of the method")
    engine: Literal["transformers", "apertium"] = Field(
        "transformers", description="a model for each direction, or Apertium's rules"
    )
    pivot: Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list)] = Field(
        [],
        description=(
            "pivot language, or several: the next one is used when candidates run out; "
            "default: de, or spa for Apertium"
        ),
    )
    forward: str = Field(
        "",
        description=(
            "model or Apertium pair into the pivot; default: Helsinki-NLP/opus-mt-en-{pivot}, "
            "or eng-{pivot}"
        ),
    )
    backward: str = Field(
        "",
        description=(
            "model or Apertium pair back; default: Helsinki-NLP/opus-mt-{pivot}-en, or {pivot}-eng"
        ),
    )
    revisions: dict[str, str] = Field(
        {}, description="commits of hub models, by their ids (transformers)"
    )
    beams: StrictInt = Field(
        4,
        ge=1,
        le=MAX_BEAMS,
        description="number of beams, and of candidates per pivot (transformers, temperature 0)",
    )
    temperature: Temperature = Field(
        0.0,
        description="0: beam search; above 0: sample one translation per copy (transformers)",
    )
    batch_size: StrictInt = Field(
        32,
        ge=1,
        le=MAX_BATCH,
        description="texts per batch; changes floating-point results slightly (transformers)",
    )
    max_tokens: StrictInt = Field(
        256, ge=1, le=MAX_TOKENS, description="most tokens of a translation (transformers)"
    )
    device: str = Field("auto", description="auto, cpu, cuda, ... (transformers)")

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The models or language pairs (forward, backward) of each pivot."""
        default, into, back = PIVOTS[self.engine]
        into, back = self.forward or into, self.backward or back
        return [
            (into.replace("{pivot}", pivot), back.replace("{pivot}", pivot))
            for pivot in self.pivot or [default]
        ]

    @model_validator(mode="after")
    def _check_pivots(self) -> "BacktranslateSettings":
        if len(set(self.pairs)) < max(1, len(self.pivot)):
            raise ValueError(
                "two pivots have the same models; write {pivot} into forward and backward, "
                "or name each pivot once"
            )
        models = {m for pair in self.pairs for m in pair if self.engine == "transformers"}
        if unused := [model for model in self.revisions if model not in models]:
            used = ", ".join(sorted(models)) or "none"
            raise ValueError(f"revisions: no model '{unused[0]}' is used (models: {used})")
        return self


EditorSettings = EdaSettings | AedaSettings | MlmSettings | BacktranslateSettings
BaselineSettings = Annotated[EditorSettings | ParaphraseSettings, Field(discriminator="kind")]

GPT3MIX = "gpt3mix"  # name of the method that `augment` configures; a baseline's name is its own
METHOD_TITLES = {GPT3MIX: AugmentSettings.title} | {
    baseline.model_fields["name"].default: baseline.title
    for baseline in get_args(get_args(BaselineSettings)[0])
}
