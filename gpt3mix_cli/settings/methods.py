"""Every method of an experiment, and those that are GPT3Mix with other settings."""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from .augment import AugmentSettings, EditorSettings
from .base import FileStem, Settings

EVERY_METHOD = ("ratio", "synthetic_sets", "attempts", "filter")  # keys that no arm can change


class ParaphraseSettings(Settings):
    """GPT3Mix with one example per prompt; `lm` and `augment` set everything else."""

    kind: Literal["paraphrase"]
    title: ClassVar = "Paraphrase"
    uses_lm: ClassVar[Literal[True]] = True
    name: FileStem = Field("paraphrase", description="name of the method")

    def gpt3mix(self, augment: AugmentSettings) -> AugmentSettings:
        """Return the settings of GPT3Mix that this method is."""
        return augment.model_copy(update={"k": 1})


class ArmSettings(AugmentSettings):
    """GPT3Mix with other settings, as an arm of the same table; `augment` sets the other keys.

    Each key of `augment` is possible, but `ratio`, `synthetic_sets`, `attempts` and `filter`, which
    hold for every method.
    """

    kind: Literal["gpt3mix"]
    name: FileStem = Field(description="name of the method")

    @model_validator(mode="after")
    def _check_own_keys(self) -> "ArmSettings":
        if fixed := [key for key in EVERY_METHOD if key in self.model_fields_set]:
            raise ValueError(f"{fixed[0]} holds for every method; set augment.{fixed[0]} instead")
        return self

    def gpt3mix(self, augment: AugmentSettings) -> AugmentSettings:
        """Return the settings of GPT3Mix that this arm is.

        Raises:
            ValueError: if its keys contradict those of `augment`.
        """
        keys = self.model_fields_set - {"kind", "name"}
        own = {key: value for key, value in self if key in keys}
        try:
            return AugmentSettings.model_validate({**dict(augment), **own})
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


BaselineSettings = Annotated[
    EditorSettings | ParaphraseSettings | ArmSettings, Field(discriminator="kind")
]

GPT3MIX = "gpt3mix"  # name of the method that `augment` configures; a baseline's name is its own
METHOD_TITLES = {GPT3MIX: AugmentSettings.title} | {
    baseline.model_fields["name"].default: baseline.title
    for baseline in get_args(get_args(BaselineSettings)[0])
    if baseline is not ArmSettings  # each is named in the config
}
