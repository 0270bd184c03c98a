"""What is trained."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from .base import FileStem, Settings, StrictFloat, StrictInt


class ClassifierBase(Settings):
    """What every classifier has.

    Attributes:
        title: the kind's name in text for people.
        uses_lm: predicts with the experiment's `lm` and trains no weights of its own.
        reads_synthetic_rows: learns from synthetic rows too; otherwise it runs with method `none`.
        runs_in_parallel: several trials may run at the same time, each in a process of its own.
    """

    title: ClassVar[str]
    uses_lm: ClassVar[bool]
    reads_synthetic_rows: ClassVar[bool] = True
    runs_in_parallel: ClassVar[bool] = True

    trials: StrictInt | None = Field(None, ge=1, description="overrides the experiment's `trials`")


class SoftLabelTraining(ClassifierBase):
    """What a classifier has that is trained on soft labels; the defaults weigh all rows alike, as the paper does."""

    hard_labels: bool = Field(
        False, description="train on the argmax of soft labels (the ablation of Table 5)"
    )
    synthetic_weight: StrictFloat = Field(
        1.0, gt=0, description="weight of a synthetic row; a real one has 1"
    )
    class_weights: Literal["none", "balanced"] | dict[str, Annotated[StrictFloat, Field(gt=0)]] = (
        Field("none", description="balanced, or class -> weight; classes that are not named have 1")
    )
    label_smoothing: StrictFloat = Field(
        0.0, ge=0, lt=1, description="share of each row's target that is spread over all classes"
    )

    @property
    def weighted(self) -> bool:
        """Whether targets differ from the rows' own distributions."""
        return (
            self.hard_labels
            or self.synthetic_weight != 1
            or self.class_weights != "none"
            or self.label_smoothing > 0
        )


class TransformerSettings(SoftLabelTraining):
    """A pretrained encoder with a fresh classification head; the defaults are sections 4.1 and 4.2."""

    kind: Literal["transformer"]
    title: ClassVar = "Transformer"
    uses_lm: ClassVar[Literal[False]] = False
    name: FileStem = Field("transformer", description="of the classifier in results")
    preset: Literal["paper"] | None = Field(
        None, description="paper: refuse every setting that departs from sections 4.1 and 4.2"
    )
    model: str = Field(
        "distilbert-base-uncased", description="folder, hub id, or `minilm` (extra `offline`)"
    )
    revision: str | None = Field(None, description="commit of a hub model")
    head: Literal["fresh", "library"] = Field(
        "fresh",
        description="fresh: draw all of it (section 4.1); library: keep what is pretrained, as BERT's pooler",
    )
    lr: StrictFloat = Field(3e-5, gt=0, description="peak learning rate of AdamW")
    warmup_epochs: StrictFloat = Field(3, ge=0, description="linear warm-up; constant afterwards")
    patience: StrictInt = Field(
        20, ge=1, description="epochs without a better validation accuracy before stopping"
    )
    batch_size: StrictInt = Field(
        32, ge=1, description="rows a step of the optimiser, whatever the memory holds at once"
    )
    max_epochs: StrictInt = Field(200, ge=1, description="where training ends at the latest")
    weight_decay: StrictFloat = Field(0.01, ge=0, description="decoupled; none on biases and norms")
    max_length: StrictInt = Field(128, ge=4, description="tokens kept of a text")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of products; auto: bfloat16 where the processor has it"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    threads: StrictInt = Field(
        1, ge=1, description="CPU threads of a trial; trials run side by side on the others"
    )

    @model_validator(mode="after")
    def _faithful(self) -> "TransformerSettings":
        if self.preset == "paper":
            if self.max_epochs <= self.patience:
                raise ValueError(
                    "preset paper: max_epochs would end the training before patience could"
                )
            for key, value in PAPER.items():
                if (found := getattr(self, key)) != value:
                    raise ValueError(
                        f"preset paper has {key}: {value} (sections 4.1 and 4.2), not {found}; leave one of the two out"
                    )
        return self


# What the paper says of training. It is silent on batch size, weight decay's size, length and precision: those stay free.
PAPER = {
    **{"lr": 3e-5, "warmup_epochs": 3, "patience": 20, "head": "fresh"},
    **{"hard_labels": False, "synthetic_weight": 1, "class_weights": "none", "label_smoothing": 0},
}


class LinearSettings(SoftLabelTraining):
    """Tf-idf and logistic regression."""

    kind: Literal["linear"]
    title: ClassVar = "Linear"
    uses_lm: ClassVar[Literal[False]] = False
    name: FileStem = Field("linear", description="of the classifier in results")
    ngrams: StrictInt = Field(2, ge=1, le=5, description="longest word n-gram")
    C: StrictFloat = Field(10.0, gt=0, description="inverse strength of the L2 penalty")


class SetFitSettings(ClassifierBase):
    """Contrastive fine-tuning of a sentence encoder (Tunstall et al., 2022), by the `setfit` library (extra `setfit`); hard labels only."""

    kind: Literal["setfit"]
    title: ClassVar = "SetFit"
    uses_lm: ClassVar[Literal[False]] = False
    name: FileStem = Field("setfit", description="of the classifier in results")
    model: str = Field(
        "sentence-transformers/paraphrase-mpnet-base-v2",
        min_length=1,
        description="folder, hub id, or `minilm` (extra `offline`)",
    )
    revision: str | None = Field(None, description="commit of a hub model")
    lr: StrictFloat = Field(2e-5, gt=0, description="peak learning rate of the encoder")
    iterations: StrictInt = Field(
        20, ge=1, description="R of the paper: pairs of each kind for each row"
    )
    epochs: StrictInt = Field(1, ge=1, description="times that the pairs are gone through")
    batch_size: StrictInt = Field(16, ge=1, description="pairs a step")
    max_length: StrictInt = Field(128, ge=4, description="tokens kept of a text")
    threads: StrictInt = Field(
        1, ge=1, description="CPU threads of a trial; trials run side by side on the others"
    )


class PromptSettings(ClassifierBase):
    """No training: the experiment's `lm` labels each text below real examples (in-context learning); method `none` only."""

    kind: Literal["prompt"]
    title: ClassVar = "Prompting"
    uses_lm: ClassVar[Literal[True]] = True
    reads_synthetic_rows: ClassVar = False
    runs_in_parallel: ClassVar = False  # the LM is loaded once, in this process
    name: FileStem = Field("prompt", description="of the classifier in results")
    examples: StrictInt | Literal["fit"] = Field(
        "fit",
        description="real rows in a prompt, classes in turn; fit: as many as the LM's context holds",
    )
    contextual_calibration: bool = Field(
        False,
        description="divide by the labels' shares for texts without content (Zhao et al., 2021)",
    )

    @field_validator("examples")
    @classmethod
    def _some(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("at least one example is needed")
        return value


TrainableSettings = TransformerSettings | LinearSettings | SetFitSettings
ClassifierSettings = Annotated[TrainableSettings | PromptSettings, Field(discriminator="kind")]
