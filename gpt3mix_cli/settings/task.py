"""Settings of a task: the source of its rows, and the task specification of the prompt."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from .base import FileName, Settings, StrictInt

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Columns(Settings):
    """Names of the columns (or JSON keys), and the meaning of raw label values."""

    text: str = Field("text", description="column of the text")
    label: str = Field("label", description="column of the label")
    id: str = Field("id", description="column of a unique id; without it rows are numbered")
    values: dict[str, str] = Field(
        {}, description="raw label value -> class name, where they differ"
    )


class HubData(Columns):
    """A data set of the Hugging Face hub, or a local folder in the same format."""

    kind: Literal["hub"]
    path: str = Field(description="repository id, such as SetFit/sst2")
    name: str | None = Field(None, description="the hub's config name")
    revision: str | None = Field(None, description="commit; pin it so that the data cannot change")
    splits: dict[Split, str] = Field(
        {},
        description=(
            "split -> the hub's split name; if the test split is the hub's validation split, "
            "validation rows are taken from train"
        ),
    )


class TableFormat(Settings):
    """How CSV and TSV files are written."""

    delimiter: str | None = Field(
        None,
        pattern=r"^[^\"\r\n]$",
        description="of CSV and TSV files; default: by the suffix, or else the one that fits",
    )
    quoting: Literal["auto", "csv", "none"] = Field(
        "auto",
        description=(
            "`none`: quotes in CSV and TSV files are plain characters; `auto`: as in CSV, but a "
            "field that swallows rows is an error"
        ),
    )
    columns: list[str] = Field(
        [], description="names of all columns of CSV and TSV files without a header"
    )

    @field_validator("columns")
    @classmethod
    def _refuse_duplicates(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("two columns have the same name")
        return value


class FilesData(TableFormat, Columns):
    """Your own files, by their suffixes: JSONL, CSV, TSV, Parquet or Excel; or folders.

    A folder has a folder of text files for each class, or was written by `save_to_disk`.
    """

    kind: Literal["files"]
    train: Path = Field(description="training rows; all labelled rows if there is no `test`")
    validation: Path | None = Field(None, description="validation rows; default: taken from train")
    test: Path | None = Field(
        None, description="test rows; default: a fifth of each class of train, kept in split.json"
    )
    folds: StrictInt | None = Field(
        None,
        ge=3,
        le=1_000,
        description=(
            "cross-validation without `test`: train is divided into so many folds, kept in "
            "split.json; data seed s has fold s as its test rows"
        ),
    )
    on_bad_rows: Literal["error", "skip"] = Field(
        "error",
        description=(
            "skip: leave out rows without a text or a class, lines with too few or "
            "too many fields, and training rows whose text has two labels; they are listed in "
            "skipped.csv"
        ),
    )

    @model_validator(mode="after")
    def _check_test(self) -> "FilesData":
        if self.test and self.folds:
            raise ValueError("give either `test` or `folds`")
        return self


class DemoData(Settings):
    """The packaged movie-review sentences."""

    kind: Literal["demo"]


Data = Annotated[HubData | FilesData | DemoData, Field(discriminator="kind")]


class TaskAbout(Settings):
    """What is known about the data; it changes no result."""

    title: str = Field("", description="the data set's name and the paper that describes it")
    source: str = Field("", description="page or file that the data is from")
    license: str = Field("", description="license of the data, as the hub spells it")
    citation: str = Field("", description="BibTeX entry of the data, for cards")
    rows: dict[Split, StrictInt] = Field({}, description="split -> number of published rows")


class Task(Settings):
    """The data and the task specification S = (T, L, v) of section 3."""

    name: FileName = Field(
        "", description="name in results; default: the task file's or the experiment's name"
    )
    data: Data = Field(description="source of the rows, of `kind:` hub, files or demo")
    labels: dict[str, str] = Field(
        description=(
            "ordered mapping of class -> label token (the verbalizer v); a list of classes is "
            "the identity; auto: the classes in the data"
        )
    )
    text_type: str = Field("text", min_length=1, description="T, such as `movie review`")
    label_type: str = Field("label", min_length=1, description="L, such as `sentiment`")
    specification: Literal["own", "generic"] = Field(
        "own",
        description=(
            "generic: the paper's S_generic in place of text_type, label_type and label tokens: "
            "`text`, `label` and the class names"
        ),
    )
    # No fingerprint has it: whoever adds a license repeats no training.
    about: TaskAbout = Field(
        TaskAbout(), exclude=True, description="what is known about the data, for cards"
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _identity(cls, value: Any) -> Any:
        if isinstance(value, list):
            if duplicates := sorted({str(label) for label in value if value.count(label) > 1}):
                raise ValueError(f"duplicate class: {', '.join(duplicates)}")
            return {str(label): str(label) for label in value}
        return value

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) < 2:
            raise ValueError("at least two classes are needed")
        if any(
            not key.strip() or not token.strip() or "\n" in token for key, token in value.items()
        ):
            raise ValueError("classes and label tokens must be non-empty and on one line")
        if len({token.lower() for token in value.values()}) < len(value):
            raise ValueError(
                "two classes share a label token (ignoring case), so labels would be ambiguous"
            )
        return value

    @field_validator("text_type", "label_type")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if value != value.strip() or "\n" in value:
            raise ValueError("must be one line without spaces around it")
        return value

    @model_validator(mode="before")
    @classmethod
    def _apply_specification(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("specification") != "generic":
            return value
        labels = value.get("labels")
        generic = {"text_type": "text", "label_type": "label"}
        if isinstance(labels, dict):
            generic["labels"] = {name: str(name) for name in labels}  # type: ignore[assignment]
        return {**value, **generic}

    @model_validator(mode="after")
    def _check_values(self) -> "Task":
        for raw, label in getattr(self.data, "values", {}).items():
            if label not in self.labels:
                raise ValueError(
                    f"data.values maps '{raw}' to '{label}', which is not one of the classes "
                    f"{', '.join(self.labels)}"
                )
        return self

    @property
    def classes(self) -> list[str]:
        """Class names in the task's order."""
        return list(self.labels)

    @property
    def folds(self) -> int:
        """The number of folds of cross-validation; 0 without."""
        return getattr(self.data, "folds", None) or 0

    @property
    def columns(self) -> Columns:
        """The columns of the rows; the demo sentences have the default ones."""
        return self.data if isinstance(self.data, Columns) else Columns()

    @property
    def text_column(self) -> str:
        """The column that holds the texts."""
        return self.columns.text
