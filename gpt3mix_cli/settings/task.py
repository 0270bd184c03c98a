"""A task: where its rows come from, and the task specification of its prompt."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from .base import FileName, Settings

Split = Literal["train", "validation", "test"]


class Columns(Settings):
    """Which columns (or JSON keys) hold what, and what their raw label values mean."""

    text: str = Field("text", description="column that holds the text")
    label: str = Field("label", description="column that holds the label")
    id: str = Field(
        "id", description="column that holds a unique id; rows are numbered where it is absent"
    )
    values: dict[str, str] = Field(
        {}, description="raw label value -> class name, where they differ"
    )


class HubData(Columns):
    """A data set of the Hugging Face hub, or a local folder in the same form."""

    kind: Literal["hub"]
    path: str = Field(description="repository id, such as SetFit/sst2")
    name: str | None = Field(None, description="the hub's config name")
    revision: str | None = Field(
        None, description="commit; pin it, so that the data cannot change under you"
    )
    splits: dict[Split, str] = Field(
        {},
        description="split -> the hub's split name; a validation split named as test is taken from train",
    )


class FilesData(Columns):
    """Files of your own: JSONL, CSV, TSV or Parquet, told apart by their endings."""

    kind: Literal["files"]
    train: Path = Field(description="training rows")
    validation: Path | None = Field(
        None, description="validation rows; without it they are split off train"
    )
    test: Path = Field(description="test rows")


class DemoData(Settings):
    """The packaged movie-review sentences."""

    kind: Literal["demo"]


Data = Annotated[HubData | FilesData | DemoData, Field(discriminator="kind")]


class Task(Settings):
    """The data and the task specification S = (T, L, v) of section 3."""

    name: FileName = Field(
        "", description="name in results; default: the task file's or the experiment's"
    )
    data: Data = Field(description="where the rows come from: a `kind:` of hub, files or demo")
    labels: dict[str, str] = Field(
        description="ordered: class -> label token (the verbalizer v); a list is the identity"
    )
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
        if any(
            not key.strip() or not token.strip() or "\n" in token for key, token in value.items()
        ):
            raise ValueError("classes and label tokens must be non-empty and on one line")
        if len({token.lower() for token in value.values()}) < len(value):
            raise ValueError(
                "two classes share a label token (case is ignored), so their labels could not be told apart"
            )
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
                raise ValueError(
                    f"data.values maps '{raw}' to '{label}', which is none of the classes {', '.join(self.labels)}"
                )
        return self

    @property
    def classes(self) -> list[str]:
        """Class names in the task's order."""
        return list(self.labels)
