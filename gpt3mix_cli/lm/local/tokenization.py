"""The tokenizer of a local LM: how prompt, text, label prefix and label join as tokens.

A label is scored after the text as it reads: prompt, text and label prefix are tokenized as one
string. So anybody can repeat equation (1) from the text alone, although the LM may have generated
the same text in other tokens.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...errors import UserError
from .chat import ChatTemplate

if TYPE_CHECKING:
    import torch

LINE_END = "\n"  # a row is one line of the list in the prompt
UNLIMITED_CONTEXT_TOKENS = 1_000_000  # tokenizers without a limit report far more
DECODE_CONTEXT_TOKENS = 8  # of the prompt: they decide how the first generated token is spelled


@dataclass(frozen=True)
class Ending:
    """How a text ended.

    Attributes:
        text: before the label prefix or the line end.
        finish: as in `Completion`.
        context: all tokens before the label, those of the prompt and the label prefix included;
            empty if no label is scored.
        retokenised: whether `context` has other tokens than those that were read and generated.
    """

    text: str
    finish: Literal["label_prefix", "line", "length"]
    context: list[int]
    retokenised: bool


class PromptTokenizer:
    """A tokenizer, as the local LM needs it.

    Args:
        tokenizer: of the transformers library.
        model: its name, for messages.
        chat: wraps each text that begins a sequence; None: such a text is read as it is.
        num_embeddings: of the model; special tokens that have none are left out.

    Attributes:
        end_of_prompt: tokens that the tokenizer adds after a text, which are left out: the LM is to
            continue it.
        pad: a token id for positions that are masked out.
        end_tokens: ids that end a text.
    """

    def __init__(
        self,
        tokenizer: Any,
        model: str,
        chat: ChatTemplate | None = None,
        num_embeddings: float = math.inf,
    ) -> None:
        self._tokenizer, self._model, self._chat = tokenizer, model, chat
        self._num_embeddings = num_embeddings
        self.end_of_prompt = [] if chat else _added_after(tokenizer)
        # Not the tokenizer's own pad token: the model may have no embedding for it.
        self.pad = 0
        # Every special token ends a text: it cannot be shown, and what follows is not the text's.
        self.end_tokens = set(tokenizer.all_special_ids)
        # Many tokenizers turn an empty prompt into no token, but the model must read at least one.
        candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, 0)
        self._empty_prompt = [token for token in candidates if token is not None][:1]
        # Label prefix and labels are the same for most rows.
        self._encode_cached = functools.lru_cache(1024)(self._encode_continuation)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text that begins a sequence, at least one."""
        # A chat template writes its own special tokens.
        chat = self._chat.render(text) if self._chat else text
        tokens: list[int] = self._tokenizer(chat, add_special_tokens=not self._chat)["input_ids"]
        tokens = tokens[: len(tokens) - len(self.end_of_prompt)]
        return [t for t in tokens if t < self._num_embeddings] or self._empty_prompt

    def encode_continuations(self, context: str, continuations: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each continuation of a context, at least one each.

        Tokenizers treat the beginning of a string in a special way, so the context matters.

        Raises:
            UserError: if a continuation has no token.
        """
        return [list(self._encode_cached(context, continuation)) for continuation in continuations]

    def _encode_continuation(self, context: str, continuation: str) -> tuple[int, ...]:
        before = self._tokenizer(context, add_special_tokens=False)["input_ids"]
        whole = self._tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
        tokens = whole[len(before) :] if whole[: len(before)] == before else []
        tokens = tokens or self._tokenizer(continuation, add_special_tokens=False)["input_ids"]
        if not tokens:
            raise UserError(
                f"lm.model {self._model}: '{continuation.strip()}' tokenises to nothing",
                "use another label token in task.labels",
            )
        return tuple(tokens)

    def decode_continuation(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """Return the text that `tokens` add to the prompt.

        Decoded without the prompt, some tokenizers would drop the text's first space.
        """
        end_of_prompt = list(prompt[-DECODE_CONTEXT_TOKENS:])
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        before: str = self._tokenizer.decode(end_of_prompt, **options)
        whole: str = self._tokenizer.decode([*end_of_prompt, *tokens], **options)
        return whole.removeprefix(before)

    @functools.cached_property
    def _vocabulary(self) -> list[str]:
        tokens = [[token] for token in range(len(self._tokenizer))]
        texts: list[str] = self._tokenizer.batch_decode(tokens, clean_up_tokenization_spaces=False)
        return texts

    def may_end_text(self, label_prefixes: Iterable[str], vocabulary_size: int) -> "torch.Tensor":
        """Return for each token whether a text can end with it, (vocabulary,), bool.

        A text ends with a line end, a label prefix or an end token. Only after a token that may be
        the last one the text is decoded and searched for its end.
        """
        import torch

        marks = {LINE_END, *(prefix[-1] for prefix in label_prefixes if prefix)}
        # A token may be a part of a non-ASCII character, which decodes to nothing on its own.
        any_token = not all(mark.isascii() for mark in marks)
        can_end = [
            any_token or token in self.end_tokens or any(mark in text for mark in marks)
            for token, text in enumerate(self._vocabulary)
        ]
        # Models often have more logits than the tokenizer has tokens.
        return torch.tensor([*can_end, *[True] * vocabulary_size][:vocabulary_size])

    def find_ending(
        self, prompt: Sequence[int], prompt_text: str, generated: Sequence[int], label_prefix: str
    ) -> Ending | None:
        """Return how a text ended, or None if it goes on.

        Args:
            prompt: its tokens.
            prompt_text: its text.
            generated: tokens after the prompt, at least one.
            label_prefix: ends the text; empty if only a line end does.
        """
        at_end_token = generated[-1] in self.end_tokens
        whole = self.decode_continuation(prompt, generated[:-1] if at_end_token else generated)
        stops = {
            whole.find(stop): stop for stop in (label_prefix, LINE_END) if stop and stop in whole
        }
        if not stops and not at_end_token:
            return None
        end = min(stops, default=len(whole))
        text, at_label = whole[:end], bool(label_prefix) and stops.get(end) == label_prefix
        finish: Literal["label_prefix", "line"] = "label_prefix" if at_label else "line"
        if not label_prefix:
            return Ending(text, finish, [], retokenised=False)
        kept: Sequence[int] = ()  # empty if the last token is in both text and label prefix
        if at_label:
            if whole == text + label_prefix and not at_end_token:
                kept = generated
        elif self.decode_continuation(prompt, generated[:-1]) == text:
            kept = [*generated[:-1], *self.encode_continuations(".", [label_prefix])[0]]
        context = self.encode(f"{prompt_text}{text}{label_prefix}")
        return Ending(text, finish, context, retokenised=context != [*prompt, *kept])


def _added_after(tokenizer: Any) -> list[int]:
    """Return the tokens that a tokenizer adds after each text, such as EOS or SEP."""
    plain: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    starts = range(len(whole) - len(plain) + 1)
    ends = (start + len(plain) for start in starts if whole[start : start + len(plain)] == plain)
    return whole[next(ends, len(whole)) :]
