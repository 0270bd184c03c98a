"""Soft labels of exactly the texts that become rows.

An LM scores the labels after the line that it generated. If the row's text reads differently after
the prompt, because it was cleaned, its labels are scored again.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..lm import GENERATION_INSTRUCTION, LM, Completion, Request, Scores, next_block_start
from ..method.cleaning import find_label_in_text
from ..method.labels import CONTENT_FREE
from ..method.parsing import ParsedLine, parse_line
from ..method.prompt import (
    NO_EXTRAS,
    PromptExtras,
    label_choices,
    render_label_prompt,
    render_prompt,
)
from ..records import Example
from ..settings import AugmentSettings, Task
from .filter import split_words

# Answers whose labels are scored together, with an LM that answers each request on its own.
SCORING_BATCH_SIZE = 256
MIN_COPIED_WORDS = 3
UNSCORED = "unscored", "the LM gives no log-probability of any label"


@dataclass(frozen=True)
class Attempt:
    """A request to the LM, and the examples in its prompt.

    Attributes:
        request: what the LM is asked.
        parents: the examples, in prompt order.
        num_selected: examples that were selected; those that the context is too short for are not
            parents.
        extras: what else is in the prompt.
    """

    request: Request
    parents: Sequence[Example]
    num_selected: int
    extras: PromptExtras = NO_EXTRAS


@dataclass(frozen=True)
class Answer:
    """The LM's answer to an attempt. Only one to a request with a label prefix has more than two.

    Attributes:
        attempt: the attempt.
        completion: what the LM generated.
        text: of the row.
        rejection: reason and detail if there is no row.
        scores: of the labels after the text.
        is_rescored: whether the LM had scored them after another text.
        content_free: log-probabilities of the labels after each content-free text, for contextual
            calibration.
    """

    attempt: Attempt
    completion: Completion
    text: str = ""
    rejection: tuple[str, str] | None = None
    scores: Scores | None = None
    is_rescored: bool = False
    content_free: Sequence[Sequence[float]] = ()


class SoftLabeler:
    """Parses completions, and scores what their own label scores do not cover.

    Args:
        settings: of `augment`.
        task: the classes, and the words of the prompt.
        lm: scores labels.
    """

    def __init__(self, settings: AugmentSettings, task: Task, lm: LM) -> None:
        self._settings, self._task, self._lm = settings, task, lm
        self._choices = label_choices(task)

    def label(self, answers: Iterable[tuple[Attempt, Completion]]) -> Iterator[Answer]:
        """Yield each answer with its text and scores, or with why it is rejected."""
        # In the LM's own blocks: the last digits of scores depend on what is scored together, and
        # that must not depend on how many rows are wanted.
        info = self._lm.info
        size = info.block_size if info.block_size > 1 else SCORING_BATCH_SIZE
        for _, block in itertools.groupby(
            itertools.starmap(self._parse, answers),
            lambda answer: next_block_start(answer.completion.number, size),
        ):
            yield from self._score(block)

    def _parse(self, attempt: Attempt, completion: Completion) -> Answer:
        line = parse_line(completion.text, self._task)
        answer = Answer(attempt, completion, line.text, scores=completion.scores)
        if rejection := self._rejection(attempt, completion, line):
            return replace(answer, rejection=rejection)
        # To an endpoint, a space is not worth another request.
        at_endpoint = completion.requests > 0
        scored = f" {completion.text.strip()}" if at_endpoint else completion.text
        if scored == f" {line.text}":
            return answer
        prompt = render_label_prompt(self._task, attempt.parents, line.text, attempt.extras)
        count, context = self._lm.info.count_tokens, self._lm.info.context_length
        # A chat template adds tokens to every text, so also to a label alone.
        if count(prompt) + max(map(count, self._choices)) - count("") > context:
            # It may take more tokens to read a text than to generate it.
            detail = f"the text and its label do not fit {context} tokens"
            return replace(answer, rejection=("prompt_too_long", detail))
        return replace(answer, is_rescored=True)

    def _rejection(
        self, attempt: Attempt, completion: Completion, line: ParsedLine
    ) -> tuple[str, str] | None:
        max_tokens = self._settings.max_tokens
        if no_text := reject_without_text(completion, max_tokens, self._lm):
            return no_text
        if completion.finish == "length":
            return "unfinished", f"no end within {max_tokens} tokens"
        if completion.scores is None:
            return UNSCORED if line.text else ("empty", "")
        if line.rest:
            # The labels were scored after the whole line, which is another text.
            return "no_label", f"went on with '{line.rest}'"
        return find_artefact(line.text, self._task, attempt.extras)

    def _score(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        waiting: list[tuple[Answer, list[str]]] = []
        for answer in answers:
            prompts = self._prompts(answer)
            if waiting or prompts:
                waiting.append((answer, prompts))
            else:
                yield answer
        every = [prompt for _, prompts in waiting for prompt in prompts]
        scores = iter(self._lm.score(every, self._choices) if every else ())
        for answer, prompts in waiting:
            own = list(itertools.islice(scores, len(prompts)))
            if answer.is_rescored:
                rescored = own.pop(0)
                rejection = UNSCORED if rescored.is_unknown else None
                answer = replace(answer, scores=rescored, rejection=rejection)
            yield replace(answer, content_free=[item.logprobs for item in own])

    def _prompts(self, answer: Answer) -> list[str]:
        if answer.rejection:
            return []
        texts = [answer.text] if answer.is_rescored else []
        calibrates = self._settings.contextual_calibration and self._settings.uses_lm_labels
        texts += CONTENT_FREE if calibrates else ()
        attempt = answer.attempt
        return [
            render_label_prompt(self._task, attempt.parents, text, attempt.extras) for text in texts
        ]


def find_artefact(
    text: str, task: Task, extras: PromptExtras = NO_EXTRAS
) -> tuple[str, str] | None:
    """Return the reject reason and detail of a text that is none; None if it is a text."""
    if not text:
        return "empty", ""
    if label := find_label_in_text(text, task):
        return "label_in_text", label
    words = " ".join(split_words(text))
    asked = " ".join(split_words(f"{GENERATION_INSTRUCTION} {render_prompt(task, (), extras)}"))
    if words.count(" ") + 1 >= MIN_COPIED_WORDS and f" {words} " in f" {asked} ":
        return "copy_of_prompt", ""
    return None


def reject_without_text(completion: Completion, max_tokens: int, lm: LM) -> tuple[str, str] | None:
    """Return reason and detail if the LM answered a prompt with no text to use; otherwise None."""
    match completion.finish:
        case "too_long":
            detail = (
                f"{completion.prompt_tokens} tokens and max_tokens {max_tokens} "
                f"do not fit {lm.info.context_length}"
            )
            return "prompt_too_long", detail
        case "refused":
            return "refused", completion.detail
        case "reasoning":
            return "only_reasoning", completion.detail
        case _:
            return None
