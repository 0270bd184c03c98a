"""Settings of the classifiers."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from .base import MAX_BATCH, MAX_TRIALS, FileStem, PositiveFloat, Settings, StrictFloat, StrictInt

MAX_EPOCHS = 100_000
MAX_LENGTH = 1_000_000  # tokens
MAX_THREADS = 1_024


class ClassifierBase(Settings):
    """Settings and properties of every classifier.

    Attributes:
        uses_lm: predicts with the experiment's `lm` and trains no weights of its own.
        reads_synthetic_rows: learns from synthetic rows too; otherwise it runs with method `none`.
        runs_in_parallel: several trials may run at the same time, each in a process of its own.
    """

    uses_lm: ClassVar[bool]
    reads_synthetic_rows: ClassVar[bool] = True
    runs_in_parallel: ClassVar[bool] = True

    trials: StrictInt | None = Field(
        None, ge=1, le=MAX_TRIALS, description="overrides the experiment's `trials`"
    )

    @property
    def targets(self) -> "SoftLabelTraining":
        """How rows become training targets; by default their own distributions."""
        return SoftLabelTraining()

    @property
    def can_use_gpu(self) -> bool:
        """Whether its trials run on a GPU where there is one."""
        return False


class SoftLabelTraining(ClassifierBase):
    """Settings of classifiers that train on soft labels; by default all rows have equal weight."""

    uses_lm: ClassVar[Literal[False]] = False

    hard_labels: bool = Field(
        False, description="train on the argmax of soft labels (ablation of Table 5)"
    )
    synthetic_weight: Annotated[StrictFloat, Field(ge=0, le=1e6)] | Literal["auto"] = Field(
        1.0,
        description=(
            "weight of a synthetic row; a real row has 1; auto: of 0, 0.1, 0.3 and 1 the one with "
            "the best validation accuracy over the trials of a cell"
        ),
    )
    row_weights: Literal["none", "dimp"] = Field(
        "none",
        description=(
            "dimp: synthetic rows weighted by their labels' probability under a linear classifier "
            "of the real rows over that of the synthetic rows (Kuo et al., 2024)"
        ),
    )
    class_weights: Literal["none", "balanced"] | dict[str, PositiveFloat] = Field(
        "none", description="balanced, or class -> weight; classes that are not named have 1"
    )
    label_smoothing: StrictFloat = Field(
        0.0, ge=0, lt=1, description="fraction of each row's target that is spread over all classes"
    )

    @property
    def targets(self) -> "SoftLabelTraining":
        """These settings."""
        return self

    @property
    def chooses_weight(self) -> bool:
        """Whether validation accuracy chooses the weight of synthetic rows."""
        return self.synthetic_weight == "auto"

    @property
    def weighted(self) -> bool:
        """Whether targets differ from the rows' own distributions."""
        return (
            self.hard_labels
            or self.synthetic_weight not in (1, "auto")
            or self.row_weights != "none"
            or self.class_weights != "none"
            or self.label_smoothing > 0
        )


class TransformerSettings(SoftLabelTraining):
    """A pretrained encoder with a new classification head; defaults as in sections 4.1 and 4.2."""

    kind: Literal["transformer"]
    name: FileStem = Field("transformer", description="name of the classifier in results")
    preset: Literal["paper"] | None = Field(
        None, description="paper: refuse settings that differ from sections 4.1 and 4.2"
    )
    model: str = Field(
        "distilbert-base-uncased", description="folder, hub id, or `minilm` (extra `offline`)"
    )
    revision: str | None = Field(None, description="commit of a hub model")
    head: Literal["fresh", "library"] = Field(
        "fresh",
        description=(
            "fresh: initialize all of it (section 4.1); library: keep pretrained layers, such "
            "as BERT's pooler"
        ),
    )
    lr: StrictFloat = Field(3e-5, gt=0, le=1e30, description="peak learning rate of AdamW")
    warmup_epochs: StrictFloat = Field(
        3,
        ge=0,
        le=MAX_EPOCHS,
        description="epochs of linear warm-up; the learning rate is constant afterwards",
    )
    patience: StrictInt = Field(
        20,
        ge=1,
        le=MAX_EPOCHS,
        description="epochs without better validation accuracy before training stops",
    )
    batch_size: StrictInt = Field(
        32,
        ge=1,
        le=MAX_BATCH,
        description="rows per optimizer step; with little memory they are processed in parts",
    )
    max_epochs: StrictInt = Field(200, ge=1, le=MAX_EPOCHS, description="most epochs")
    weight_decay: StrictFloat = Field(
        0.01, ge=0, le=1_000, description="decoupled weight decay, not for biases and norms"
    )
    max_length: StrictInt = Field(
        128, ge=4, le=MAX_LENGTH, description="most tokens of a text; the rest is cut"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description=("precision of matrix products; auto: bfloat16 if the processor supports it"),
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    threads: StrictInt = Field(
        1,
        ge=1,
        le=MAX_THREADS,
        description="CPU threads of a trial; other threads run other trials",
    )

    @property
    def can_use_gpu(self) -> bool:
        """Whether `device` allows a GPU of NVIDIA."""
        return self.device.startswith(("auto", "cuda"))

    @model_validator(mode="after")
    def _check_preset(self) -> "TransformerSettings":
        if self.preset == "paper":
            if self.max_epochs <= self.patience:
                raise ValueError(
                    "preset paper: max_epochs would end the training before patience could"
                )
            for key, value in PAPER.items():
                if (own_value := getattr(self, key)) != value:
                    raise ValueError(
                        f"preset paper has {key}: {value} (sections 4.1 and 4.2), not {own_value}; "
                        "remove one of the two"
                    )
        return self


# The paper's training settings. It does not state batch size, weight decay, length and precision.
PAPER = {
    **{"lr": 3e-5, "warmup_epochs": 3, "patience": 20, "head": "fresh"},
    **{"hard_labels": False, "synthetic_weight": 1, "row_weights": "none"},
    **{"class_weights": "none", "label_smoothing": 0},
}


class LinearSettings(SoftLabelTraining):
    """Tf-idf and logistic regression."""

    kind: Literal["linear"]
    name: FileStem = Field("linear", description="name of the classifier in results")
    ngrams: StrictInt = Field(2, ge=1, le=5, description="longest word n-gram")
    C: PositiveFloat = Field(10.0, description="inverse strength of the L2 penalty")


class SetFitSettings(ClassifierBase):
    """Contrastive fine-tuning of a sentence encoder (Tunstall et al., 2022); hard labels only.

    It needs the library `setfit` (extra `setfit`).
    """

    kind: Literal["setfit"]
    uses_lm: ClassVar[Literal[False]] = False
    name: FileStem = Field("setfit", description="name of the classifier in results")
    model: str = Field(
        "sentence-transformers/paraphrase-mpnet-base-v2",
        min_length=1,
        description="folder, hub id, or `minilm` (extra `offline`)",
    )
    revision: str | None = Field(None, description="commit of a hub model")
    lr: StrictFloat = Field(2e-5, gt=0, le=1e30, description="peak learning rate of the encoder")
    iterations: StrictInt = Field(
        20, ge=1, le=10_000, description="R of the paper: pairs of each kind per row"
    )
    epochs: StrictInt = Field(1, ge=1, le=MAX_EPOCHS, description="passes over the pairs")
    batch_size: StrictInt = Field(16, ge=1, le=MAX_BATCH, description="pairs per step")
    max_length: StrictInt = Field(
        128, ge=4, le=MAX_LENGTH, description="most tokens of a text; the rest is cut"
    )
    threads: StrictInt = Field(
        1,
        ge=1,
        le=MAX_THREADS,
        description="CPU threads of a trial; other threads run other trials",
    )

    @property
    def can_use_gpu(self) -> bool:
        """A GPU is always used."""
        return True


class PromptSettings(ClassifierBase):
    """In-context learning: the `lm` labels each text after real examples in the prompt.

    Nothing is trained, and synthetic rows are not used: it runs with method `none`.
    """

    kind: Literal["prompt"]
    uses_lm: ClassVar[Literal[True]] = True
    reads_synthetic_rows: ClassVar = False
    runs_in_parallel: ClassVar = False  # the LM is loaded once, in this process
    name: FileStem = Field("prompt", description="name of the classifier in results")
    examples: Annotated[StrictInt, Field(ge=1, le=10_000)] | Literal["fit"] = Field(
        "fit",
        description=(
            "real examples in a prompt, classes in turn; fit: as many as fit the LM's context"
        ),
    )
    contextual_calibration: bool = Field(
        False,
        description=(
            "divide by the label probabilities for content-free texts (Zhao et al., 2021)"
        ),
    )


TrainableSettings = TransformerSettings | LinearSettings | SetFitSettings
ClassifierSettings = Annotated[TrainableSettings | PromptSettings, Field(discriminator="kind")]
