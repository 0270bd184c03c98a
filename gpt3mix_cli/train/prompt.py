"""Classifies without training: the LM labels each text below real examples (Brown et al., 2020).

This is in-context learning. The paper argues against it (section 1): every prediction costs a pass
of the LM over the whole prompt, and the context limits the number of examples. The prompt is that
of GPT3Mix (`method.prompt`) with the text in place of the new row; the class probabilities are
equation (1). Decisions:

- The examples are real rows, drawn with the trial's seed. Classes take turns, in a new random order
  each round, so that the last example, which an LM tends to repeat, is not always of one class. All
  texts of a trial get the same examples.
- If a prompt is longer than the context, the text gets fewer examples: the first are left out. If
  none is left, the text is cut.
- Validation rows are not read: nothing is chosen by them, and they would cost as much as test rows.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, takewhile
from random import Random
from statistics import fmean
from typing import Any

from ..lm import LM, Scores, score_labels
from ..method.labels import CONTENT_FREE, LOW_LABEL_MASS, soft_label
from ..method.prompt import PromptFitter, label_choices, prompt_inputs, render_label_prompt
from ..records import Augmented, Example
from ..settings import PromptSettings, Task, generator
from .protocol import Classifier, EpochCallback, FitResult, ignore_epoch

CACHE_VERSION = 1  # raise it if the same settings give other numbers
BATCH_SIZE = 256  # prompts scored together, with an LM that answers each prompt on its own
TOKEN_MARGIN = 2  # tokens that may be split differently where prompt and label meet


class PromptClassifier(Classifier):
    """See the top of this file, and `train.Classifier`."""

    def __init__(self, settings: PromptSettings, task: Task, lm: LM) -> None:
        self._settings, self._task, self._lm = settings, task, lm
        self._choices = label_choices(task)
        self._fitter = PromptFitter(task, lm.info.count_tokens)
        self._reset(())
        self.about = {
            **settings.model_dump(exclude={"name", "trials"}),
            **prompt_inputs(task, lm.info),
            "format": CACHE_VERSION,
        }

    def _reset(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        # Number of examples -> log-probabilities of the labels after each content-free text.
        self._content_free: dict[int, list[tuple[float, ...]]] = {}
        self._counts: Counter[str] = Counter()
        self._label_masses: list[float] = []
        self.tokens, self.usd = 0, 0.0

    @property
    def notes(self) -> list[str]:
        """What the user should know about the prompts since the last fit."""
        texts, cut, fewer, unknown = (
            self._counts[name] for name in ("texts", "cut", "fewer", "unknown")
        )
        mean = fmean(self._label_masses or [1.0])
        notes = {
            f"{cut} of {texts} texts do not fit the LM's context and are cut": cut > 0,
            f"{fewer} of {texts} prompts hold fewer than {self._settings.examples} examples: there "
            "are too few rows, or the LM's context is too short": fewer > 0,
            f"the server gave no label for {unknown} of {texts} texts (refused, or not among the "
            "reported tokens); all classes are equal there, and the first counts": unknown > 0,
            f"the LM gave all label words together {mean:.1%} on average, so its labels mean "
            "little": mean < LOW_LABEL_MASS,
        }
        return [note for note, applies in notes.items() if applies]

    def fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        on_epoch: EpochCallback = ignore_epoch,
    ) -> FitResult:
        """Draw the examples; nothing is trained and no validation row is read."""
        rows = interleave_classes(train, generator(seed, "prompt examples"))
        self._reset(rows if self._settings.examples == "fit" else rows[: self._settings.examples])
        return FitResult(valid_accuracy=None)

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Return the class probabilities, shape (texts, classes)."""
        import numpy as np

        prompts = [self._fit_prompt(text) for text in texts]
        probabilities = np.zeros((len(texts), len(self._choices)))
        # Prompts of similar length together; block by block, so that the journal keeps answers.
        order = sorted(range(len(texts)), key=lambda index: prompts[index][2])
        size = self._lm.info.block_size if self._lm.info.block_size > 1 else BATCH_SIZE
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            block = [prompts[index][0] for index in indices]
            answers = score_labels(self._lm, block, self._choices)
            for index, scores in zip(indices, answers, strict=True):
                content_free = self._content_free_scores(prompts[index][1])
                probs, mass = soft_label(
                    self._task.classes, scores.logprobs, content_free_logprobs=content_free
                )
                probabilities[index] = list(probs.values())
                if scores.has_mass:
                    self._label_masses.append(mass)
                self._counts.update(unknown=scores.is_unknown)
                self._add_usage(scores, prompts[index][2])
        return probabilities

    def count_prompt_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of the prompt for each text, without asking the LM."""
        return [self._fit_prompt(text)[2] for text in texts]

    def probe(self) -> None:
        """Ask the LM for the label of one text."""
        prompt = render_label_prompt(self._task, (), "A first try.")
        score_labels(self._lm, [prompt], self._choices)

    def _add_usage(self, scores: Scores, prompt_tokens: int) -> None:
        tokens = prompt_tokens if scores.tokens is None else scores.tokens
        self.tokens = (self.tokens or 0) + tokens
        self.usd = None if self.usd is None or scores.usd is None else self.usd + scores.usd

    def _content_free_scores(self, examples: Sequence[Example]) -> list[tuple[float, ...]]:
        if not self._settings.contextual_calibration:
            return []
        if len(examples) not in self._content_free:
            prompts = [render_label_prompt(self._task, examples, text) for text in CONTENT_FREE]
            answers = score_labels(self._lm, prompts, self._choices)
            self._content_free[len(examples)] = [scores.logprobs for scores in answers]
            for prompt, scores in zip(prompts, answers, strict=True):
                self._add_usage(scores, self._lm.info.count_tokens(prompt))
        return self._content_free[len(examples)]

    def _fit_prompt(self, text: str) -> tuple[str, Sequence[Example], int]:
        count = self._lm.info.count_tokens
        limit = self._lm.info.context_length - max(map(count, self._choices)) - TOKEN_MARGIN
        examples = self._fitter.fit(self._candidates(text, limit), limit, text)
        prompt = render_label_prompt(self._task, examples, text)
        tokens, words = count(prompt), text.split()
        while tokens > limit and len(words) > 1:
            words = words[: max(1, len(words) * limit // tokens - 1)]
            prompt = render_label_prompt(self._task, (), " ".join(words))
            tokens = count(prompt)
        wanted = self._settings.examples
        self._counts.update(
            texts=1,
            cut=len(words) < len(text.split()),
            fewer=wanted != "fit" and len(examples) < wanted,
        )
        return prompt, examples, tokens

    def _candidates(self, text: str, limit: int) -> Sequence[Example]:
        """Return the last examples, as many as fit by the token counts of the parts alone.

        That may be one less than would fit. One more would change the results of version 1.
        """
        empty, count = render_label_prompt(self._task, (), ""), self._lm.info.count_tokens
        left = limit - count(empty) - count(text)
        prompts = (render_label_prompt(self._task, (row,), "") for row in reversed(self._examples))
        tokens = (
            self._fitter.count_line(prompt) - self._fitter.count_line(empty) for prompt in prompts
        )
        fitting = takewhile(lambda total: total <= left, accumulate(tokens))
        return self._examples[len(self._examples) - len(list(fitting)) :]


def interleave_classes(rows: Sequence[Augmented], random: Random) -> list[Augmented]:
    """Return all rows in a random order in which the classes take turns while they last."""
    by_class: dict[str, list[Augmented]] = {}
    for row in rows:
        by_class.setdefault(row.label, []).append(row)
    piles = [random.sample(pile, len(pile)) for _, pile in sorted(by_class.items())]
    result: list[Augmented] = []
    while piles := [pile for pile in piles if pile]:
        result += [pile.pop() for pile in random.sample(piles, len(piles))]
    return result
