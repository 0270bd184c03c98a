"""GPT3Mix (section 3): choose k examples, render the prompt, let the LM write, read its text and its soft label.

The prompt is Appendix A's to the letter. In the header types and labels are lower case, in the lines they are
capitalised; `prompt` ends with `Movie review:` and nothing after the colon, since the LM's tokens begin with the space.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ..lm import LM, Completion, Request
from ..records import Augmented, Example, Reject
from ..settings import Augment, Task, derived_seed, generator
from .choose import choose

FORMAT = 1  # raised when the same settings would give other rows
# Every character at which str.splitlines ends a line: an example must stay on its own.
LINE_ENDS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


class GPT3Mix:
    """The generator; see `augment.Augmenter`."""

    edits = False

    def __init__(self, settings: Augment, task: Task, lm: LM, name: str) -> None:
        """Keep settings, task specification and LM."""
        self._settings, self._task, self._lm, self._name = settings, task, lm, name
        self._usage: Counter[str] = Counter(prompt_tokens=0, completion_tokens=0)
        self.block = lm.about.block
        self.about = {
            "method": name,
            "kind": "gpt3mix",
            # `ratio`, `draws` and `attempts` say how many rows are made, not what a row is.
            **settings.model_dump(exclude={"ratio", "draws", "attempts"}),
            "labels": task.labels,
            "text_type": task.text_type,
            "label_type": task.label_type,
            "lm": lm.about.fingerprint,
            "format": FORMAT,
        }

    def generate(self, examples: Sequence[Example], first: int, count: int, seed: int) -> Iterator[Augmented | Reject]:
        """Yield a row or a reject for each attempt."""
        chosen = {
            number: choose(examples, self._settings.k, self._settings.choose, generator(seed, "choose", number))
            for number in range(first, first + count)
        }
        requests = [self._request(number, parents, seed) for number, parents in chosen.items()]
        for completion in self._lm.complete(requests):
            self._usage.update(prompt_tokens=completion.prompt_tokens, completion_tokens=completion.completion_tokens)
            yield self._read(completion, [parent.id for parent in chosen[completion.number]])

    def usage(self) -> Mapping[str, int]:
        """Return the tokens of all answers so far, those from the journal included."""
        return dict(self._usage)

    def _request(self, number: int, parents: Sequence[Example], seed: int) -> Request:
        settings = self._settings
        return Request(
            number=number,
            prompt=prompt(self._task, parents),
            seed=derived_seed(seed, "write", number),
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            frequency_penalty=settings.frequency_penalty,
            seam=seam(self._task),
            choices=choices(self._task),
        )

    def _read(self, completion: Completion, parents: list[str]) -> Augmented | Reject:
        text = completion.text.strip()

        def reject(reason: str, detail: str = "") -> Reject:
            return Reject(request=completion.number, method=self._name, parents=parents, text=text, reason=reason, detail=detail)

        if completion.finish == "too_long":
            return reject(
                "prompt_too_long", f"{completion.prompt_tokens} tokens and max_tokens {self._settings.max_tokens} do not fit {self._lm.about.context}"
            )
        if completion.finish == "length" or completion.scores is None:
            return reject("unfinished", f"no end within {self._settings.max_tokens} tokens")
        if not text:
            return reject("empty")
        probs, mass = soft_label(self._task.classes, completion.scores.logprobs)
        return Augmented(
            id=f"{self._name}-{completion.number:05d}",
            text=text,
            label=max(probs, key=lambda name: probs[name]),
            probs=probs,
            method=self._name,
            parents=parents,
            label_source=completion.scores.source,
            label_mass=round(mass, 6),
            request=completion.number,
        )


def prompt(task: Task, examples: Sequence[Example]) -> str:
    """Return the prompt P(x, S) of Appendix A for the examples in their order."""
    text_type, label_type = task.text_type.lower(), task.label_type.lower()
    labels = [f"'{token.lower()}'" for token in task.labels.values()]
    listed = f"{labels[0]} or {labels[1]}" if len(labels) == 2 else f"{', '.join(labels[:-1])}, or {labels[-1]}"
    header = f"Each item in the following list contains a {text_type} and the respective {label_type}. The {label_type} is one of {listed}."
    lines = [f"{text_type.capitalize()}: {one_line(row.text)}{seam(task)} {task.labels[row.label].capitalize()})" for row in examples]
    return "\n".join([header, "", *lines, f"{text_type.capitalize()}:"])


def seam(task: Task) -> str:
    """Return what stands between a text and its label: ` (Sentiment:`."""
    return f" ({task.label_type.capitalize()}:"


def choices(task: Task) -> tuple[str, ...]:
    """Return each label as it stands after the seam; with the closing bracket where one label begins another."""
    tokens = [f" {token.capitalize()}" for token in task.labels.values()]
    begins = any(a != b and b.startswith(a) for a in tokens for b in tokens)
    return tuple(f"{token})" if begins else token for token in tokens)


def soft_label(classes: Sequence[str], logprobs: Sequence[float]) -> tuple[dict[str, float], float]:
    """Return equation (1), the probabilities normalised over the label set, and the mass before normalising."""
    highest = max(logprobs)
    weights = [math.exp(value - highest) for value in logprobs]
    probs = {label: round(weight / sum(weights), 6) for label, weight in zip(classes, weights, strict=True)}
    return probs, math.exp(highest) * sum(weights)


def one_line(text: str) -> str:
    """Return a text without line ends."""
    return LINE_ENDS.sub(" ", text).strip()
