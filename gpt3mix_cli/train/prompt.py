"""No training: the LM labels each text itself, below real examples (in-context learning, Brown et al., 2020).

The paper argues against it (section 1): every prediction costs a pass of the large LM over the whole prompt, and no more
examples help than its context holds. The prompt is GPT3Mix's (`lm.prompt`), with the text to be labelled in the place of
the new row; a class's probability is equation (1). Decided here:

- Examples are real rows, drawn by the trial's seed, the classes in turn, each round in an order of its own, so that the
  last example, which an LM likes to repeat, is not always of the same class. A trial's examples are the same for all texts.
- Where a prompt is longer than the context the first examples are left out for this text; where none is left the text is cut.
- No validation row is read: nothing is chosen by them, and they would cost as much as test rows.
"""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from ..errors import UserError
from ..lm import LM, Scores
from ..method.labels import CONTENT_FREE, soft_label
from ..method.prompt import asking, choices, to_label
from ..records import Augmented, Example
from ..settings import PromptSettings, Task, generator
from .protocol import Classifier, EpochCallback, FitResult, ignore_epoch

CACHE_VERSION = 1  # raised when the same settings would give other numbers
LOW_MASS = 0.5  # mean label mass under which an LM does not follow the prompt
TOGETHER = 256  # prompts asked together of an LM that answers each by itself
TOKEN_MARGIN = 2  # tokens that may join otherwise where a prompt and a label meet


class PromptClassifier(Classifier):
    """The classifier; see `train.Classifier`."""

    def __init__(self, settings: PromptSettings, task: Task, lm: LM) -> None:
        """Keep settings, task specification and LM."""
        self._settings, self._task, self._lm = settings, task, lm
        self._choices = choices(task)
        self._lengths: dict[str, int] = {}
        self._begin(())
        self.about: dict[str, Any] = {
            **settings.model_dump(exclude={"name", "trials"}),
            **asking(task, lm.info),
            "format": CACHE_VERSION,
        }

    def _begin(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self._usual: dict[int, list[tuple[float, ...]]] = {}
        self._counts: Counter[str] = Counter()
        self._mass, self._known = 0.0, 0  # label mass, over so many texts for which it is known
        self.tokens: int | None = 0
        self.usd: float | None = 0.0

    @property
    def notes(self) -> list[str]:
        """What the user should know of the prompts since the last fit began."""
        counts, asked, texts = self._counts, self._settings.examples, self._counts["texts"]
        found = (
            [f"{counts['cut']} of {texts} texts do not fit the LM's context and are cut"]
            if counts["cut"]
            else []
        )
        if asked != "fit" and counts["fewer"]:
            found.append(
                f"{counts['fewer']} of {texts} prompts hold fewer than {asked} examples, for want of rows or of room in the context"
            )
        if self._known and (mean := self._mass / self._known) < LOW_MASS:
            found.append(
                f"the LM gave all label words together {mean:.1%} on average, so its labels mean little"
            )
        return found

    def fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        on_epoch: EpochCallback = ignore_epoch,
    ) -> FitResult:
        """Draw the examples; nothing is trained and no validation row read."""
        drawn = in_turn(train, generator(seed, "prompt examples"))
        self._begin(drawn if self._settings.examples == "fit" else drawn[: self._settings.examples])
        return FitResult(valid_accuracy=None)

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Return the class probabilities, (texts, classes)."""
        import numpy as np

        fitted = [self._fitting(text) for text in texts]
        probabilities = np.zeros((len(texts), len(self._choices)))
        # Prompts of like length side by side; block by block, so that the journal keeps what was answered.
        order, size = sorted(range(len(texts)), key=lambda place: fitted[place][2]), self._together
        for start in range(0, len(order), size):
            places = order[start : start + size]
            prompts = [fitted[place][0] for place in places]
            for place, scores in zip(places, self._lm.score(prompts, self._choices), strict=True):
                usual = (
                    self._without_content(fitted[place][1])
                    if self._settings.contextual_calibration
                    else []
                )
                probs, mass = soft_label(self._task.classes, scores.logprobs, without_content=usual)
                probabilities[place] = list(probs.values())
                self._known += scores.has_mass
                self._mass += mass if scores.has_mass else 0.0
                self._spend(scores, fitted[place][2])
        return probabilities

    def tokens_of(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens the prompt for each text has; nothing is asked."""
        return [self._fitting(text)[2] for text in texts]

    def probe(self) -> None:
        """Have the LM label one text."""
        self._lm.score([to_label(self._task, (), "A first try.")], self._choices)

    def save(self, folder: Path) -> None:
        """Refuse: there are no weights."""
        raise UserError(
            "a classifier that prompts trains nothing, so that there is no model to save",
            "leave out --save-model",
        )

    def _spend(self, scores: Scores, counted: int) -> None:
        """Count what an endpoint told, or else the prompt's tokens."""
        self.tokens = (self.tokens or 0) + (counted if scores.tokens is None else scores.tokens)
        self.usd = None if self.usd is None or scores.usd is None else self.usd + scores.usd

    def _without_content(self, number: int) -> list[tuple[float, ...]]:
        """Return the labels' log-probabilities after each content-free text below so many examples; asked once a fit."""
        if number not in self._usual:
            prompts = [to_label(self._task, self._last(number), text) for text in CONTENT_FREE]
            found = self._lm.score(prompts, self._choices)
            self._usual[number] = [scores.logprobs for scores in found]
            for prompt, scores in zip(prompts, found, strict=True):
                self._spend(scores, self._lm.info.count_tokens(prompt))
        return self._usual[number]

    # What fits into the context --------------------------------------------------------------------------------------

    def _fitting(self, text: str) -> tuple[str, int, int]:
        """Return the prompt for a text, how many examples it holds and how many tokens it has."""
        count, limit = self._lm.info.count_tokens, self._limit
        number = self._estimate(text, limit)
        prompt = to_label(self._task, self._last(number), text)
        while (tokens := count(prompt)) > limit and number:
            number -= 1
            prompt = to_label(self._task, self._last(number), text)
        words = text.split()
        while tokens > limit and len(words) > 1:
            words = words[: max(1, math.floor(len(words) * limit / tokens) - 1)]
            prompt = to_label(self._task, (), " ".join(words))
            tokens = count(prompt)
        wanted = self._settings.examples
        self._counts.update(
            texts=1, cut=len(words) < len(text.split()), fewer=wanted != "fit" and number < wanted
        )
        return prompt, number, tokens

    def _estimate(self, text: str, limit: int) -> int:
        """Return about how many examples fit, from the lengths of the lines alone."""
        left = limit - self._length(to_label(self._task, (), "")) - self._length(text)
        number = 0
        for row in reversed(self._examples):
            left -= self._length(to_label(self._task, (row,), "")) - self._length(
                to_label(self._task, (), "")
            )
            if left < 0:
                break
            number += 1
        return number

    def _last(self, number: int) -> Sequence[Example]:
        return self._examples[len(self._examples) - number :]

    def _length(self, text: str) -> int:
        if text not in self._lengths:
            self._lengths[text] = self._lm.info.count_tokens(text)
        return self._lengths[text]

    @property
    def _together(self) -> int:
        return self._lm.info.block_size if self._lm.info.block_size > 1 else TOGETHER

    @property
    def _limit(self) -> int:
        return self._lm.info.context_length - max(map(self._length, self._choices)) - TOKEN_MARGIN


def in_turn(rows: Sequence[Augmented], random: Random) -> list[Augmented]:
    """Return all rows in a drawn order in which the classes take turns, as long as each has any left."""
    classes: dict[str, list[Augmented]] = {}
    for row in rows:
        classes.setdefault(row.label, []).append(row)
    piles = [random.sample(pile, len(pile)) for _, pile in sorted(classes.items())]
    found: list[Augmented] = []
    while piles := [pile for pile in piles if pile]:
        found += [pile.pop() for pile in random.sample(piles, len(piles))]
    return found
