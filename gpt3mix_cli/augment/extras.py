"""Draws what the prompts of a synthetic set hold besides their examples."""

from collections.abc import Sequence
from typing import Any

from ..method.prompt import PromptExtras
from ..settings import AugmentSettings, Task, fingerprint, generator
from ..settings.prompt_content import PromptContent


class ExtrasSource:
    """Draws the extras of each prompt; they depend on the seed and the attempt's number alone.

    Args:
        settings: of `augment`.
        task: its classes are asked for in turn if prompts have no examples.
        unlabelled: the texts of `augment.unlabelled`.
    """

    def __init__(self, settings: AugmentSettings, task: Task, unlabelled: Sequence[str]) -> None:
        self._settings, self._classes, self._unlabelled = settings, task.classes, unlabelled
        descriptions = settings.label_descriptions
        self._descriptions = tuple(
            (name, descriptions[name]) for name in task.classes if name in descriptions
        )

    @property
    def of_label_check(self) -> PromptExtras:
        """What holds for real rows too."""
        return PromptExtras(self._descriptions)

    @property
    def about(self) -> dict[str, Any]:
        """What can change a prompt, for the manifest; empty for the paper's prompt."""
        names = PromptContent.model_fields.keys() - {"unlabelled", "num_unlabelled"}
        values = {name: getattr(self._settings, name) for name in sorted(names)}
        about: dict[str, Any] = {name: value for name, value in values.items() if value}
        if self._unlabelled:
            number = self._settings.num_unlabelled
            about |= {"unlabelled": fingerprint(self._unlabelled), "num_unlabelled": number}
        return about

    def draw(self, number: int, seed: int) -> PromptExtras:
        """Return the extras of an attempt's prompt."""
        settings, texts = self._settings, self._unlabelled
        rng = generator(seed, "attributes", number)
        # Sorted, because the order in the config is no part of what identifies a set.
        attributes = [
            (name, rng.choice(values)) for name, values in sorted(settings.attributes.items())
        ]
        style = generator(seed, "unlabelled", number).sample(
            texts, min(settings.num_unlabelled, len(texts))
        )
        asked = None if settings.k else self._classes[number % len(self._classes)]
        return PromptExtras(self._descriptions, asked, tuple(attributes), tuple(style))
