"""The language model of the test server: small, deterministic, consistent for every way of asking.

The next token is a pure function of the text before it: a line of words, after some of them the
prompt's own label prefix (` (Sentiment:`), one of its labels, `)` and the end of the line.
Generation, top log-probabilities, echo and token ids all use the same `Distribution`. So a test
compares with `model.logprobs(text)` or `model.score(text, " Positive")`.
"""

import bisect
import itertools
import math
import random
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

END, BEGIN = "<end>", "<s>"
ASSISTANT = "<|assistant|>\n"
FIRST_CHARACTER = 1000  # a character that is no listed token has its code point and this as its id
WORDS = (
    "a an and the this that film movie plot cast story it is was but with of in by very too never"
    " always so good great witty warm fresh charming moving funny bad dull slow weak "
    "tired messy lifeless boring"
)
LABELS = (
    "positive negative correct incorrect yes no abbreviation entity description human location"
    " numeric objective subjective"
)
TASK_WORDS = (
    "Each item following list contains and respective sentiment one Movie review Review Sentiment"
    " Text Label Question type"
)
REST = 1e-9  # probability of each character that is no listed token
CHARACTERS = 0x110000
ASKS_LABEL = r"(?i)one word|only the|which of|with one of"
LABEL_BUCKETS, BUCKETS = 1024, 64
SHORTEST, LONGEST = (
    4,
    14,
)  # spaces in a line before which there is no label prefix, after which it is all but certain


@dataclass(frozen=True)
class Task:
    """What a prompt asks for: the start of a line, its label prefix and labels (with space)."""

    prefix: str
    label_prefix: str
    labels: tuple[str, ...]
    chat: bool
    asks_label: bool


class Distribution:
    """The next token: log-probabilities of listed tokens, best first, and of other characters."""

    def __init__(self, weights: dict[str, float]) -> None:
        total = sum(weights.values()) / (1 - REST * CHARACTERS)
        ranked = sorted(weights.items(), key=lambda item: (-item[1], item[0]))
        self.logprobs = {token: math.log(weight / total) for token, weight in ranked}
        self.ranked = tuple(self.logprobs.items())
        self.rest = math.log(REST)
        self._cumulated: dict[tuple[float, float], list[float]] = {}

    def logprob(self, token: str) -> float:
        return self.logprobs.get(token, self.rest)

    def rank(self, token: str) -> int:
        return next(
            (i for i, (other, _) in enumerate(self.ranked, 1) if other == token),
            len(self.ranked) + 1,
        )

    def draw(self, uniform: float, temperature: float, top_p: float) -> str:
        """Return the token at a quantile in [0, 1); temperature 0 takes the likeliest."""
        if temperature == 0:
            return self.ranked[0][0]
        cumulated = self._cumulated.get((temperature, top_p))
        if cumulated is None:
            weights = [math.exp(logprob / temperature) for _, logprob in self.ranked]
            cumulated = list(itertools.accumulate(weights))
            kept = bisect.bisect_left(cumulated, top_p * cumulated[-1]) + 1
            cumulated = self._cumulated[temperature, top_p] = cumulated[:kept]
        place = bisect.bisect_right(cumulated, uniform * cumulated[-1])
        return self.ranked[min(place, len(cumulated) - 1)][0]


class TinyLM:
    """The tokenizer and the distributions.

    Args:
        split: labels that are two tokens each, such as `Positive`: ` Posi` and `tive`.
        unlikely: labels that are never among the likeliest tokens.
        asks_label: a chat whose last message matches this regex is answered with a label only.
    """

    def __init__(
        self, split: Sequence[str] = (), unlikely: Sequence[str] = (), asks_label: str = ASKS_LABEL
    ) -> None:
        self.unlikely = {label.strip() for label in unlikely}
        spelled = [form for word in LABELS.split() for form in (word, word.capitalize())]
        whole = [form for form in spelled if form not in split]
        halves = [half for label in split for half in (f" {label[:4]}", label[:4], label[4:])]
        words = [f" {word}" for word in WORDS.split()] + [
            word.capitalize() for word in WORDS.split()
        ]
        listed = [*words, " (", "(", ")", ":", ",", ".", " ,", " .", "\n"]
        listed += [form for word in whole for form in (f" {word}", word)] + halves
        listed += [form for word in TASK_WORDS.split() for form in (f" {word}", word)]
        self.tokens = (END, BEGIN, *dict.fromkeys(listed))
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        longest_first = sorted(self.tokens[2:], key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) + r"|[\s\S]")
        self._asks_label = re.compile(asks_label)
        self._words = [token for token in words if token in self.ids]
        self._made: dict[tuple[object, ...], Distribution] = {}
        self.task = lru_cache(maxsize=4096)(self._task)

    # The tokenizer ----------------------------------------------------------------------------

    def split(self, text: str) -> list[str]:
        return self._pattern.findall(text)

    def id_of(self, token: str) -> int:
        return self.ids[token] if token in self.ids else FIRST_CHARACTER + ord(token)

    def token_of(self, number: int) -> str:
        """Return the token of an id; ValueError if there is none."""
        if 0 <= number < len(self.tokens):
            return self.tokens[number]
        return chr(number - FIRST_CHARACTER) if number >= FIRST_CHARACTER else chr(-1)

    # The truth --------------------------------------------------------------------------------

    def distribution(self, text: str) -> Distribution:
        """Return the distribution of the next token."""
        return Cursor(self, text).distribution()

    def logprobs(self, text: str) -> dict[str, float]:
        """Return the log-probability of each listed token after a text."""
        return dict(self.distribution(text).logprobs)

    def score(self, text: str, continuation: str) -> float:
        """Return the log-probability of a continuation's own tokens after a text."""
        tokens = self.split(continuation)
        steps = itertools.islice(self.walk(self.split(text) + tokens), len(self.split(text)), None)
        return sum(step.logprob(token) for step, token in zip(steps, tokens, strict=True))

    def walk(self, tokens: Sequence[str]) -> Iterator[Distribution]:
        """Yield the distribution at the position of each token."""
        cursor = Cursor(self, "")
        for token in tokens:
            yield cursor.distribution()
            if token != BEGIN:
                cursor.advance(token)

    def label_probabilities(self, text: str, labels: Sequence[str]) -> list[float]:
        """Return the probability of each label after a text, relative to all labels."""
        weights = self._label_weights(tuple(labels), zlib.crc32(text.encode()) % LABEL_BUCKETS)
        return [weight / sum(weights) for weight in weights]

    # How it is made ---------------------------------------------------------------------------

    def _task(self, head: str) -> Task:
        """Return what the lines before the last one ask for."""
        chat = head.endswith(ASSISTANT)
        body, asks = head, False
        if chat:
            body = head.removesuffix(ASSISTANT).replace("<|", "\n<|")
            last = body.rpartition("|>\n")[2].strip()
            asks = bool(self._asks_label.search(last)) or bool(re.search(r"\([\w ]+:$", last))
        examples = re.findall(
            r"^([^\n:]{1,40}:) [^\n]* \(([^\n:()]{1,40}:) ([^\n()]+)\)$", body, re.MULTILINE
        )
        described = re.search(
            r"contains an? ([^\n]{1,40}?) and the respective ([^\n.]{1,40})\.", body
        )
        quoted = re.search(r"one of ('[^\n]*')", body)
        labels = re.findall(r"'([^']+)'", quoted[1]) if quoted else []
        labels = [label[:1].upper() + label[1:] for label in labels] or sorted(
            {label for _, _, label in examples}
        )
        prefix, label_prefix = "", ""
        if examples:
            prefix, label_prefix = examples[-1][0], f" ({examples[-1][1]}"
        elif described:
            prefix, label_prefix = (
                f"{described[1].capitalize()}:",
                f" ({described[2].capitalize()}:",
            )
        return Task(prefix, label_prefix, tuple(f" {label}" for label in labels), chat, asks)

    def at(self, task: Task, line: str, hashed: int) -> Distribution:
        """Return the next token in a line of a task; `hashed` is a checksum of the text before."""
        key = self._state(task, line, hashed)
        if key not in self._made:
            self._made[key] = Distribution(self._weights(*key))
        return self._made[key]

    def _state(self, task: Task, line: str, hashed: int) -> tuple[object, ...]:
        start = 0 if task.chat or not line.startswith(task.prefix) else len(task.prefix)
        if task.asks_label and task.labels:
            return self._label_state(
                tuple(label.strip() for label in task.labels), line, hashed, END
            )
        if not task.chat and len(line) < len(task.prefix) and task.prefix.startswith(line):
            return ("next", self.split(task.prefix[len(line) :])[0], "")
        label_prefix = line.rfind(task.label_prefix) if task.label_prefix else -1
        if label_prefix >= start:
            return self._label_state(
                task.labels,
                line[label_prefix + len(task.label_prefix) :],
                hashed,
                f"){END}" if task.chat else ")\n",
            )
        begun = line.rfind(" (", start)
        if begun >= 0 and task.label_prefix.startswith(line[begun:]):
            return ("next", self.split(task.label_prefix[len(line) - begun :])[0], "")
        spaces = line.count(" ", start)
        stage = 0 if spaces < SHORTEST else 1 if spaces < LONGEST else 2
        after = (
            (self.split(task.label_prefix) or ["\n"])[0]
            if not task.chat or task.label_prefix
            else END
        )
        return ("word", hashed % BUCKETS, stage, after, not line)

    def _label_state(
        self, labels: tuple[str, ...], after: str, hashed: int, closing: str
    ) -> tuple[object, ...]:
        if not after:
            return ("label", labels, hashed % LABEL_BUCKETS)
        for label in labels:
            if after == label:
                return ("next", closing if closing == END else closing[0], "")
            if label.startswith(after):
                return ("next", self.split(label[len(after) :])[0], "")
        ends = END if closing.endswith(END) else "\n"
        return ("next", ends, "") if after.endswith(")") or closing == END else ("next", ")", "")

    def _weights(self, kind: str, *of: object) -> dict[str, float]:
        noise = random.Random(repr((kind, of)))
        weights = {token: 0.02 * noise.random() / len(self.tokens) for token in self.tokens[2:]}
        weights[END] = 1e-6
        if kind == "next":
            weights[str(of[0])] = 0.98
        elif kind == "label":
            self._add_labels(weights, *of, noise)
        else:
            _, stage, after, first = of
            candidates = [token for token in self._words if token.startswith(" ") != first]
            for token in noise.sample(candidates, 12):
                weights[token] = weights.get(token, 0) + noise.random() ** 2
            weight = (0.0005, 0.3, 40.0)[stage] * sum(weights.values())
            weights[after] = weights.get(after, 0) + weight
        return weights

    def _add_labels(
        self, weights: dict[str, float], labels: tuple[str, ...], bucket: int, noise: random.Random
    ) -> None:
        """Add each label's first token, and the spellings that a model may use instead."""
        for label, weight in zip(labels, self._label_weights(labels, bucket), strict=True):
            hidden = label.strip() in self.unlikely
            for form, part in (
                (label, 1.0),
                (label.lower(), 0.03 * noise.random()),
                (label.strip(), 0.02 * noise.random()),
            ):
                first = self.split(form)[0]
                if not hidden:
                    weights[first] = weights.get(first, 0) + part * weight
        smallest = min(weights.values())
        for label in labels:
            if label.strip() in self.unlikely:
                weights[self.split(label)[0]] = smallest / 10

    def _label_weights(self, labels: tuple[str, ...], bucket: int) -> list[float]:
        return [
            math.exp(random.Random(f"{bucket} {label.strip()}").gauss(0, 1.2)) for label in labels
        ]


class Cursor:
    """A position in a text that grows token by token."""

    def __init__(self, model: TinyLM, text: str) -> None:
        self._model = model
        self._head, newline, self.line = text.rpartition("\n")
        self._head += newline
        self._hashed = zlib.crc32(text.encode(errors="surrogatepass"))
        self._task = model.task(self._head)

    def distribution(self) -> Distribution:
        return self._model.at(self._task, self.line, self._hashed)

    def advance(self, token: str) -> None:
        self._hashed = zlib.crc32(token.encode(errors="surrogatepass"), self._hashed)
        self.line += token
        if "\n" in token:
            line, newline, self.line = self.line.rpartition("\n")
            self._head += line + newline
            self._task = self._model.task(self._head)


@dataclass(frozen=True)
class Written:
    """A text, its tokens (also those of the stop string, as in real servers) and alternatives."""

    text: str
    tokens: list[str]
    steps: list[Distribution]
    finish: str
    stopped_by: str | None


def write(
    model: TinyLM,
    prompt: str,
    *,
    seed: object,
    most: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
) -> Written:
    """Continue a prompt; the same seed gives the same text."""
    uniform = random.Random(f"{seed} {zlib.crc32(prompt.encode(errors='surrogatepass'))}").random
    cursor = Cursor(model, prompt)
    text, tokens, steps = "", [], []
    for _ in range(most):
        step = cursor.distribution()
        token = step.draw(uniform(), temperature, top_p)
        tokens.append(token)
        steps.append(step)
        if token == END:
            return Written(text, tokens, steps, "stop", None)
        text += token
        matches = [(place, string) for string in stop if (place := text.find(string)) >= 0]
        if matches:
            place, string = min(matches)
            return Written(text[:place], tokens, steps, "stop", string)
        cursor.advance(token)
    return Written(text, tokens, steps, "length", None)
