"""What a user learns of a synthetic set that was just written: doubts, and why rows are missing."""

from collections import Counter

from ..errors import Callbacks
from ..layout import rejects_path
from ..method.labels import LOW_LABEL_MASS
from ..records import IncompleteOutput, StageResult
from .filter import suggest_remedy
from .statistics import doubts


def warn_of_doubts(result: StageResult, callbacks: Callbacks) -> None:
    """Warn of cut prompts and of labels that are probably wrong."""
    counts, output = result.manifest.counts, result.output
    if shortened := counts.get("shortened"):
        callbacks.warn(
            f"{output}: {shortened} of {counts['asked']} prompts were longer than the LM's context "
            "and lost examples; a row's parents are those left"
        )
    mass = counts["statistics"].get("label_mass")
    if mass and mass["mean"] < LOW_LABEL_MASS:
        classes = Counter(counts["statistics"]["classes"]).most_common()
        labels = ", ".join(f"{count} {label}" for label, count in classes if count)
        callbacks.warn(
            f"{output}: the mean label mass is {mass['mean']:.1%}, so the LM's labels ({labels}) "
            "are unreliable; see `gpt3mix guide language-models`"
        )
    for warning in doubts(counts, result.manifest.settings):
        callbacks.warn(f"{output}: {warning}")


def require_complete(result: StageResult) -> None:
    """Stop after the last attempt if rows are missing.

    Raises:
        IncompleteOutput: with the most frequent reject reasons, and what helps.
    """
    if result.manifest.complete:
        return
    counts, output = result.manifest.counts, result.output
    rejected = Counter(counts["rejected"]).most_common()
    reasons = ", ".join(f"{count} {reason}" for reason, count in rejected) or "none"
    raise IncompleteOutput(
        f"{output}: {counts['kept']} of {counts['wanted']} rows after {counts['asked']} requests "
        f"(rejected: {reasons})",
        f"see {rejects_path(output)}; {suggest_remedy(counts['rejected']) or 'use another LM'}; "
        "or raise augment.attempts; and run again: answers are kept",
        result,
    )
