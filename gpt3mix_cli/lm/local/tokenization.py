"""Where texts meet tokens: the one place that knows how a tokenizer joins prompt, text, label prefix and label.

A label is scored over the tokens that the LM wrote. Only where one of them reaches over the text's end (`!)` and the
label prefix's first bracket in one token) can the text alone say where its tokens lie; then all of it is cut into tokens anew.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...errors import UserError

if TYPE_CHECKING:
    import torch

STOP = "\n"  # one row is one line of the prompt's list
TAIL = 8  # tokens of the prompt that decide how the first written token is spelled


@dataclass(frozen=True)
class Ending:
    """How a text ended.

    Attributes:
        text: what stands before the label prefix or the line's end.
        finish: as in `Completion`.
        context: all tokens after which the choices are scored; empty if nothing is to be scored.
        retokenised: whether the tokenizer would cut that context in another way than it was read and written.
    """

    text: str
    finish: Literal["label_prefix", "line", "length"]
    context: list[int]
    retokenised: bool


class Tokens:
    """A tokenizer, and what the local LM asks of it."""

    def __init__(self, tokenizer: Any, model: str) -> None:
        """Keep the tokenizer; `model` is named in messages."""
        self._tokenizer, self._model = tokenizer, model
        # Never the tokenizer's own, for which the model may have no embedding: what pads is seen by nobody.
        self.pad = 0
        # Any special token ends a text: it cannot be shown, and what follows it belongs to something else.
        self.ends = set(tokenizer.all_special_ids)
        # There is nothing before an empty text in many families, yet something has to be read.
        self._first = [
            token
            for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0)
            if token is not None
        ][:1]
        self._spelled: list[str] | None = None
        self._one_after = functools.lru_cache(1024)(
            self._cut_after
        )  # label prefixes and labels are the same for most rows

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text that begins a sequence, at least one."""
        tokens: list[int] = self._tokenizer(text)["input_ids"]
        return tokens or self._first

    def after(self, context: str, continuations: Sequence[str]) -> list[list[int]]:
        """Return the tokens that each continuation has after a context: tokenizers treat a text's beginning specially.

        Raises:
            UserError: if one has none.
        """
        return [list(self._one_after(context, continuation)) for continuation in continuations]

    def _cut_after(self, context: str, continuation: str) -> tuple[int, ...]:
        before = self._tokenizer(context, add_special_tokens=False)["input_ids"]
        both = self._tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
        tokens = both[len(before) :] if both[: len(before)] == before else []
        tokens = tokens or self._tokenizer(continuation, add_special_tokens=False)["input_ids"]
        if not tokens:
            raise UserError(
                f"lm.model {self._model}: '{continuation.strip()}' tokenises to nothing",
                "use another label token in task.labels",
            )
        return tuple(tokens)

    def spell(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """Return what the tokens add to the prompt: on their own some tokenizers would drop their first space."""
        tail = list(prompt[-TAIL:])
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        before: str = self._tokenizer.decode(tail, **options)
        both: str = self._tokenizer.decode([*tail, *tokens], **options)
        return both.removeprefix(before)

    def closers(self, label_prefix: str, vocabulary: int) -> "torch.Tensor":
        """Return for each token whether a text may be at its end after it, (vocabulary,): only then is the text looked at."""
        import torch

        if self._spelled is None:
            self._spelled = self._tokenizer.batch_decode(
                [[token] for token in range(len(self._tokenizer))],
                clean_up_tokenization_spaces=False,
            )
        # Part of a letter beyond ASCII may be a token, which spells nothing by itself.
        marks = [STOP, label_prefix[-1]] if label_prefix else [STOP]
        anywhere = any(not mark.isascii() for mark in marks)
        found = [
            anywhere or token in self.ends or any(mark in text for mark in marks)
            for token, text in enumerate(self._spelled)
        ]
        return torch.tensor([*found, *[True] * vocabulary][:vocabulary])

    def ending(
        self, prompt: Sequence[int], read: str, written: Sequence[int], label_prefix: str
    ) -> Ending | None:
        """Return how a text ended, or None if it goes on.

        Args:
            prompt: tokens read.
            read: the same as text.
            written: tokens written, at least one.
            label_prefix: where a text ends; empty if only the line's end does.
        """
        ended = written[-1] in self.ends
        whole = self.spell(prompt, written[:-1] if ended else written)
        places = {mark: whole.find(mark) for mark in (STOP, label_prefix) if mark and mark in whole}
        if not places and not ended:
            return None
        mark = min(places, key=lambda key: places[key]) if places else ""
        text = whole[: places[mark]] if places else whole
        finish: Literal["label_prefix", "line"] = (
            "label_prefix" if mark == label_prefix and mark else "line"
        )
        if not label_prefix:
            return Ending(text, finish, [], False)
        kept = self._kept(prompt, written, ended, whole, text, mark, label_prefix)
        cut_anew = self.encode(f"{read}{text}{label_prefix}")
        context = cut_anew if kept is None else [*prompt, *kept]
        return Ending(text, finish, context, kept is None or cut_anew != context)

    def _kept(
        self, prompt: Sequence[int], written: Sequence[int], ended: bool, whole: str, text: str, mark: str, label_prefix: str
    ) -> list[int] | None:  # fmt: skip
        """Return the tokens of text and label prefix as they were written; None if a token reaches over the end of either."""
        if mark == label_prefix:
            return list(written) if whole == text + label_prefix and not ended else None
        appended = self.after(".", [label_prefix])[0]
        if ended:
            return [*written[:-1], *appended] if not mark else None
        # The line's end must be a token of its own for the tokens before it to be the text's.
        return [*written[:-1], *appended] if self.spell(prompt, written[:-1]) == text else None
