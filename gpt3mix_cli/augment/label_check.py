"""How well an LM labels the real rows: each is scored below k others, so its label is not shown.

The labels of synthetic rows come from the same LM and prompt, but nobody knows the right ones. Here
they are known. A few rows tell whether the LM reads the texts at all, and which way it leans.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from ..lm import LM, Scores, score_labels
from ..method.labels import LOW_LABEL_MASS, label_logits, label_mass, match_prior, soft_labels
from ..method.prompt import (
    NO_EXTRAS,
    PromptExtras,
    PromptFitter,
    label_choices,
    render_label_prompt,
)
from ..method.selection import ExampleSelector
from ..records import Example
from ..settings import Task, generator
from .set_labels import class_mix

Z = 1.96  # standard errors of a 95 % interval
MIN_GAIN = 0.05  # of accuracy above a constant answer
MIN_BIAS = 0.1  # smaller ones move few labels
LEAST_PROBABILITY = 1e-12  # of a logarithm
BATCH_SIZE = 32  # prompts scored together
MIN_ROWS = 20  # fewer say too little for a warning


@dataclass(frozen=True)
class LabelCheck:
    """The LM's labels of real rows. Fractions; those of classes are in the task's order.

    Attributes:
        rows: real rows that were scored.
        skipped: real rows that are longer than the LM's context, or whose labels it does not
            report.
        k: examples above each.
        accuracy: of the most probable class.
        interval: of the accuracy, 95 % (Wilson, 1927).
        matched_accuracy: with the offsets of `augment.label_prior: match`, found on the same rows.
        log_loss: mean -log probability of the right class, in nats, with these offsets.
        majority: fraction of the most frequent class; `accuracy` of a constant answer.
        chance: 1 / number of classes.
        bias: class -> mean probability minus fraction of the rows.
        is_biased: whether a bias is above `MIN_BIAS` and twice its standard error.
        label_mass: mean; None if the endpoint does not report it.
        requests: sent to an endpoint.
        tokens: read for these labels.
        usd: price of the tokens; None if it is unknown or nothing is paid for.
    """

    rows: int
    skipped: int
    k: int
    accuracy: float
    interval: tuple[float, float]
    matched_accuracy: float
    log_loss: float
    majority: float
    chance: float
    bias: Mapping[str, float]
    is_biased: bool
    label_mass: float | None
    requests: int
    tokens: int
    usd: float | None

    @property
    def is_blind(self) -> bool:
        """Whether labels without their bias are hardly better than a constant answer."""
        return self.matched_accuracy <= max(self.majority, self.chance) + MIN_GAIN

    @property
    def is_shown(self) -> bool:
        """Whether so many rows show that the labels are better than a constant answer."""
        low, _ = wilson_interval(self.matched_accuracy, self.rows)
        return low > max(self.majority, self.chance)

    def summary(self) -> dict[str, Any]:
        """Return the values for a manifest, rounded."""
        return {name: _rounded(value) for name, value in asdict(self).items()}

    def describe(self) -> str:
        """Return one line for people."""
        low, high = self.interval
        leaning = max(self.bias, key=lambda name: self.bias[name])
        mass = "" if self.label_mass is None else f", label mass {self.label_mass:.2f}"
        bias = f", leans to {leaning} by {self.bias[leaning]:.2f}" if self.is_biased else ""
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return (
            f"{self.accuracy:.0%} of {self.rows} real rows right ({low:.0%} to {high:.0%}), "
            f"{self.matched_accuracy:.0%} without their bias; majority {self.majority:.0%}, "
            f"chance {self.chance:.0%}{bias}{mass}{skipped}"
        )

    def advice(self) -> str:
        """Return what to do; empty if the labels can be used as they are."""
        if self.label_mass is not None and self.label_mass < LOW_LABEL_MASS:
            return (
                "the LM rarely answers with one of the labels: use label words that it would "
                "write (task.labels), more examples (augment.k) or another LM"
            )
        if self.is_blind:
            more = "" if self.rows >= MIN_ROWS else "check more rows (a higher level); or "
            return (
                f"{more}use other label words (task.labels), more examples (augment.k) or another "
                "LM; take the parents' labels (augment.selection=same_class "
                "augment.labels=parents); or augment without an LM (baselines)"
            )
        if not self.is_shown:
            return (
                "so few rows do not show that the labels are better than always the same answer: "
                "check more of them (--level full)"
            )
        if self.is_biased:
            return (
                "augment.label_prior: match takes the bias away; auto does so for local LMs "
                "below 1 B parameters"
            )
        return ""


def check_labels(
    lm: LM,
    task: Task,
    examples: Sequence[Example],
    k: int,
    most: int | None = None,
    extras: PromptExtras = NO_EXTRAS,
) -> LabelCheck | None:
    """Score real rows, each below k other ones (classes in turn), and return how good labels are.

    Args:
        lm: is asked for labels; an answer in its journal is not asked for again.
        task: the classes, and the words of the prompt.
        examples: the real rows, at least two.
        k: examples in each prompt; fewer if there are not as many other rows or they do not fit.
        most: at most this many rows, drawn at random; None: all.
        extras: what else is in each prompt.

    Returns:
        None if no row fits the LM's context.

    Raises:
        UserError: if the LM reports no probability of any label.
    """
    chosen = list(examples)
    if most is not None and most < len(chosen):
        chosen = generator(0, "label check").sample(chosen, most)
    choices = label_choices(task)
    limit = lm.info.context_length - max(map(lm.info.count_tokens, choices))
    fitter = PromptFitter(task, lm.info.count_tokens)
    prompts = []
    for row in chosen:
        fitting_examples = fitter.fit(_select_others(examples, row, k), limit, row.text, extras)
        prompts.append(render_label_prompt(task, fitting_examples, row.text, extras))
    lengths = list(map(lm.info.count_tokens, prompts))
    fitting = [index for index, length in enumerate(lengths) if length <= limit]
    known: dict[int, Scores] = {}  # by the index of the row
    for start in range(0, len(fitting), BATCH_SIZE):
        batch = fitting[start : start + BATCH_SIZE]
        answers = score_labels(lm, [prompts[index] for index in batch], choices)
        pairs = zip(batch, answers, strict=True)
        known |= {index: item for index, item in pairs if not item.is_unknown}
    if not known:
        return None
    rows, scores = [chosen[index] for index in known], list(known.values())
    read = [lengths[index] for index in known]
    prices = [item.usd for item in scores]
    masses = [label_mass(item.logprobs) for item in scores if item.has_mass]
    return LabelCheck(
        rows=len(rows),
        skipped=len(chosen) - len(rows),
        requests=sum(item.requests for item in scores),
        k=min(k, len(examples) - 1),
        label_mass=fmean(masses) if masses else None,
        tokens=sum(
            count if item.tokens is None else item.tokens
            for item, count in zip(scores, read, strict=True)
        ),
        usd=None if None in prices or lm.info.is_local else math.fsum(filter(None, prices)),
        **_measure(task, rows, [label_logits(item.logprobs) for item in scores]),
    )


def wilson_interval(fraction: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a binomial fraction (Wilson, 1927)."""
    centre = (fraction + Z**2 / (2 * count)) / (1 + Z**2 / count)
    spread = math.sqrt(fraction * (1 - fraction) / count + (Z / (2 * count)) ** 2)
    half = Z * spread / (1 + Z**2 / count)
    return centre - half, centre + half


def _select_others(examples: Sequence[Example], row: Example, k: int) -> list[Example]:
    others = [other for other in examples if other is not row]
    # Drawn from all others, examples of the row's own class would be too few: an LM that repeats
    # the labels of its examples would seem worse than chance.
    rng = generator(0, "label check", row.id)
    return ExampleSelector(others, "balanced").select(min(k, len(others)), rng)


def _measure(
    task: Task, rows: Sequence[Example], logits: Sequence[Sequence[float]]
) -> dict[str, Any]:
    classes = task.classes
    mix = list(class_mix([row.label for row in rows], classes).values())
    raw = soft_labels(logits, [0.0] * len(classes))
    matched = soft_labels(logits, match_prior(logits, mix))
    accuracy = _accuracy(raw, rows, classes)
    bias, biased = {}, False
    for name, probs in zip(classes, zip(*raw, strict=True), strict=True):
        excess = [p - (row.label == name) for p, row in zip(probs, rows, strict=True)]
        error = stdev(excess) / math.sqrt(len(rows)) if len(rows) > 1 else 1.0
        bias[name] = fmean(excess)
        biased = biased or abs(bias[name]) > max(MIN_BIAS, 2 * error)
    own = [probs[classes.index(row.label)] for probs, row in zip(matched, rows, strict=True)]
    return {
        "accuracy": accuracy,
        "interval": wilson_interval(accuracy, len(rows)),
        "matched_accuracy": _accuracy(matched, rows, classes),
        "log_loss": -fmean(math.log(max(p, LEAST_PROBABILITY)) for p in own),
        "majority": max(mix),
        "chance": 1 / len(classes),
        "bias": bias,
        "is_biased": biased,
    }


def _accuracy(
    probabilities: Sequence[Sequence[float]], rows: Sequence[Example], classes: Sequence[str]
) -> float:
    pairs = zip(probabilities, rows, strict=True)
    return fmean(classes[probs.index(max(probs))] == row.label for probs, row in pairs)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, tuple) else value
