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

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from ..errors import UserError
from ..lm import LM, Scores
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
        """Keep the settings, the task and the LM."""
        self._settings, self._task, self._lm = settings, task, lm
        self._choices = label_choices(task)
        self._fitter = PromptFitter(task, lm.info.count_tokens)
        self._reset(())
        self.about: dict[str, Any] = {
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
        self.tokens: int | None = 0
        self.usd: float | None = 0.0

    @property
    def notes(self) -> list[str]:
        """What the user should know about the prompts since the last fit."""
        counts, wanted, texts = self._counts, self._settings.examples, self._counts["texts"]
        notes = []
        if counts["cut"]:
            notes.append(
                f"{counts['cut']} of {texts} texts do not fit the LM's context and are cut"
            )
        if wanted != "fit" and counts["fewer"]:
            notes.append(
                f"{counts['fewer']} of {texts} prompts hold fewer than {wanted} examples: there "
                "are too few rows, or the LM's context is too short"
            )
        masses = self._label_masses
        if masses and (mean := sum(masses) / len(masses)) < LOW_LABEL_MASS:
            notes.append(
                f"the LM gave all label words together {mean:.1%} on average, so its labels mean "
                "little"
            )
        return notes

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
            batch = [prompts[index][0] for index in indices]
            answers = self._lm.score(batch, self._choices)
            for index, scores in zip(indices, answers, strict=True):
                _, num_examples, tokens = prompts[index]
                content_free: list[tuple[float, ...]] = []
                if self._settings.contextual_calibration:
                    content_free = self._content_free_scores(num_examples)
                probs, mass = soft_label(
                    self._task.classes, scores.logprobs, content_free_logprobs=content_free
                )
                probabilities[index] = list(probs.values())
                if scores.has_mass:
                    self._label_masses.append(mass)
                self._add_usage(scores, tokens)
        return probabilities

    def count_prompt_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of the prompt for each text, without asking the LM."""
        return [self._fit_prompt(text)[2] for text in texts]

    def probe(self) -> None:
        """Ask the LM for the label of one text."""
        self._lm.score([render_label_prompt(self._task, (), "A first try.")], self._choices)

    def save(self, folder: Path) -> None:
        """Raise an error: there are no weights to save."""
        raise UserError(
            "a classifier of kind 'prompt' trains nothing, so there is no model to save",
            "leave out --save-model",
        )

    def _add_usage(self, scores: Scores, prompt_tokens: int) -> None:
        """Add what an endpoint reports, or else the tokens of the prompt."""
        tokens = prompt_tokens if scores.tokens is None else scores.tokens
        self.tokens = (self.tokens or 0) + tokens
        self.usd = None if self.usd is None or scores.usd is None else self.usd + scores.usd

    def _content_free_scores(self, num_examples: int) -> list[tuple[float, ...]]:
        """Return the labels' log-probabilities after each content-free text; asked once per fit."""
        if num_examples not in self._content_free:
            examples = self._last_examples(num_examples)
            prompts = [render_label_prompt(self._task, examples, text) for text in CONTENT_FREE]
            answers = self._lm.score(prompts, self._choices)
            self._content_free[num_examples] = [scores.logprobs for scores in answers]
            for prompt, scores in zip(prompts, answers, strict=True):
                self._add_usage(scores, self._lm.info.count_tokens(prompt))
        return self._content_free[num_examples]

    def _fit_prompt(self, text: str) -> tuple[str, int, int]:
        """Return the prompt for a text, its number of examples and its number of tokens."""
        count = self._lm.info.count_tokens
        limit = self._max_prompt_tokens
        examples = self._fitter.fit(self._examples, limit, text)
        prompt = render_label_prompt(self._task, examples, text)
        tokens = count(prompt)
        words = text.split()
        num_words = len(words)
        while tokens > limit and len(words) > 1:
            words = words[: max(1, len(words) * limit // tokens - 1)]
            prompt = render_label_prompt(self._task, (), " ".join(words))
            tokens = count(prompt)
        wanted = self._settings.examples
        self._counts.update(
            texts=1,
            cut=len(words) < num_words,
            fewer=wanted != "fit" and len(examples) < wanted,
        )
        return prompt, len(examples), tokens

    @functools.cached_property
    def _max_prompt_tokens(self) -> int:
        label_tokens = max(map(self._lm.info.count_tokens, self._choices))
        return self._lm.info.context_length - label_tokens - TOKEN_MARGIN

    def _last_examples(self, number: int) -> Sequence[Example]:
        return self._examples[len(self._examples) - number :]


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
