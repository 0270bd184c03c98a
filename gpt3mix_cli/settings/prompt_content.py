"""Settings of what a prompt holds besides its examples, as other methods of generation have it."""

from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from .base import Settings, StrictInt


def _to_one_line(value: object) -> object:
    # The header of a prompt is one line; YAML may spread a text over several.
    return " ".join(value.split()) if isinstance(value, str) else value


Text = Annotated[str, Field(min_length=1), BeforeValidator(_to_one_line)]


class PromptContent(Settings):
    """What the prompt of a new row holds besides its examples; by default nothing (Appendix A)."""

    label_descriptions: dict[str, Text] = Field(
        {}, description="class -> what its label means, which the header of the prompt says"
    )
    attributes: dict[Text, Annotated[list[Text], Field(min_length=1)]] = Field(
        {},
        description=(
            "attribute -> values, such as `length: [short, long]`; each prompt asks for one value "
            "of each, drawn at random (AttrPrompt: Yu et al., 2023)"
        ),
    )
    unlabelled: str | None = Field(
        None,
        min_length=1,
        description=(
            "file of texts without labels that show the style: JSONL, CSV, TSV, Parquet, Excel "
            "(column `task.data.text`) or .txt, a text a line; copies of validation and test rows "
            "are left out"
        ),
    )
    num_unlabelled: StrictInt = Field(
        4, ge=1, le=1_000, description="texts of `unlabelled` in a prompt, drawn at random"
    )

    @field_validator("label_descriptions")
    @classmethod
    def _without_period(cls, value: dict[str, str]) -> dict[str, str]:
        return {name: text.rstrip(".") for name, text in value.items()}
