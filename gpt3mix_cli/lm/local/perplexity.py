"""Perplexity of texts under a local LM: their fluency for an LM that did not write them.

Each text is read on its own, from the start of a sequence, in one pass.
"""

import math
from collections.abc import Iterator, Sequence

import torch

from ...errors import NO_CALLBACKS, Callbacks
from ...pretrained import lm_path, num_embeddings, resolve_device
from ...settings import LocalLMSettings
from .decoder import load_causal_lm, load_config_and_tokenizer
from .gguf import find_gguf, open_gguf
from .tokenization import PromptTokenizer

MAX_TOKENS = 256  # of a text; the rest is not read
BATCH_SIZE = 16  # texts


class PerplexityScorer:
    """A loaded LM that scores texts, in float32.

    Args:
        model: `bundled`, `smollm2`, a folder or a hub id.
        callbacks: say that a GGUF file is being converted.

    Raises:
        UserError: if it cannot be loaded.
    """

    def __init__(self, model: str, callbacks: Callbacks = NO_CALLBACKS) -> None:
        settings = LocalLMSettings(kind="local", model=model)
        path = lm_path(model)
        if file := find_gguf(settings):
            path, _ = open_gguf(file, settings, callbacks)
        config, self._tokenizer = load_config_and_tokenizer(path, None)
        prompts = PromptTokenizer(self._tokenizer, model, num_embeddings=num_embeddings(config))
        self._start = prompts.encode("")
        device = torch.device(resolve_device("auto", "device"))
        self._model = load_causal_lm(path, None, "float32", device)

    def perplexity(self, texts: Sequence[str]) -> float | None:
        """Return the perplexity per token of all texts together; None without a token."""
        total, count = 0.0, 0
        # Batches of similar length need little padding.
        for logprob, tokens in self._score(sorted(texts, key=len)):
            total, count = total + logprob, count + tokens
        return math.exp(-total / count) if count else None

    def _score(self, texts: Sequence[str]) -> Iterator[tuple[float, int]]:
        for first in range(0, len(texts), BATCH_SIZE):
            batch = [
                self._tokenizer(text, add_special_tokens=False)["input_ids"][:MAX_TOKENS]
                for text in texts[first : first + BATCH_SIZE]
            ]
            width = max(map(len, batch))
            if not width:
                continue
            rows = [[*self._start, *tokens, *[0] * (width - len(tokens))] for tokens in batch]
            ids = torch.tensor(rows, device=self._model.device)
            with torch.inference_mode():
                # Padding follows the text, and a causal LM does not look ahead: no mask is needed.
                logits = self._model(input_ids=ids).logits[:, len(self._start) - 1 : -1].float()
                logprobs = logits.log_softmax(-1)
                own = logprobs.gather(-1, ids[:, len(self._start) :, None])[..., 0].cpu()
            for values, tokens in zip(own, batch, strict=True):
                yield float(values[: len(tokens)].double().sum()), len(tokens)
