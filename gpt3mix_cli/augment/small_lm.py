"""Settings that suit the size of an LM."""

from typing import Any

from ..lm import LMInfo
from ..settings import AugmentSettings

SMALL_LM_PARAMETERS = 1_000_000_000  # below it, `auto` corrects for the faults of small LMs
# The tail of a small LM's distribution is noise: with SmolLM2 on SST-2 and TREC-6, texts at
# temperature 1 help only without it (results/real-lm).
SMALL_LM_MIN_P = 0.1


def resolve_auto(settings: AugmentSettings, info: LMInfo) -> AugmentSettings:
    """Return the settings with `auto` replaced by what suits the size of an LM.

    `label_prior` stays `auto` for a large LM: its labels of real rows decide.
    """
    if "auto" not in (settings.min_p, settings.label_prior):
        return settings
    parameters = info.count_parameters()
    is_small = parameters is not None and parameters < SMALL_LM_PARAMETERS
    updates: dict[str, Any] = {}
    if settings.min_p == "auto":
        updates["min_p"] = SMALL_LM_MIN_P if is_small else 0.0
    if settings.label_prior == "auto" and is_small:
        updates["label_prior"] = "match"
    return settings.model_copy(update=updates)
