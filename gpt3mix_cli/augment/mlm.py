"""Contextual replacement: a masked LM replaces some words of each parent.

As in conditional BERT (Wu et al., 2019) and SSMBA (Ng et al., 2020), a fraction of the words is
masked, the model reads the text once, and each masked word is drawn from its most likely fillers.
What differs, and why:

- Whole words are masked and filled with whole words, so that case, spaces and punctuation stay.
- A word is never filled with itself, so that a row differs from its parent.
- The model is not fine-tuned. Wu et al. fine-tune it with the label as its segment, which a handful
  of rows does not allow; `conditional` writes the label before the text instead (Kumar et al.,
  2020, without their fine-tuning).
- A row keeps its parent's label, right or wrong; SSMBA relabels its rows with a trained classifier.

Limits: the masked words of a text are drawn independently of each other; words beyond the model's
maximum length stay.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..pretrained import load_config, load_model, load_tokenizer, resolve_device
from ..records import Example
from ..settings import MlmSettings, Task, fingerprint, generator
from ..user_cache import hash_model
from .protocol import TextEditor

if TYPE_CHECKING:
    import torch

CACHE_VERSION = 1  # raise it if the same settings give other rows
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")  # `don't` and `well-made` are one word
DEFAULT_MAX_TOKENS = 512  # of a text, if the model has no smaller limit
HINT = "give the folder of a masked LM with its head, or a hub id that can be reached (model:)"


class MLM(TextEditor):
    """See the top of this file; the model is loaded when it is first needed."""

    def __init__(self, settings: MlmSettings, task: Task) -> None:
        folder, hub_model = Path(settings.model).expanduser(), [settings.model, settings.revision]
        self.about = {
            "method": settings.name,
            **settings.model_dump(exclude={"name", "model", "revision"}),
            "model": hash_model(folder) if folder.is_dir() else fingerprint(hub_model),
            "classes": task.classes,
            "format": CACHE_VERSION,
        }
        if settings.conditional:
            self.about |= {"task_labels": task.labels, "text_type": task.text_type}
        self._settings, self._task = settings, task
        self._problem = f"mlm: {settings.model} cannot be loaded as a masked LM"

    def edit_texts(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[str]:
        """Yield the texts of attempts first..first+count."""
        # Batches hold texts of similar length, and do not depend on how many rows are wanted.
        order = sorted(range(len(examples)), key=lambda index: (len(examples[index].text), index))
        size = self._settings.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        batch_of = {index: batch for batch in batches for index in batch}
        ready: dict[tuple[int, int], str] = {}  # (copy, parent) -> text
        for attempt in range(first, first + count):
            copy, parent = divmod(attempt, len(examples))
            if (copy, parent) not in ready:
                batch = batch_of[parent]
                texts = self._edit_batch(
                    [examples[index] for index in batch],
                    [generator(seed, "mlm", index, copy) for index in batch],
                )
                ready |= {(copy, index): text for index, text in zip(batch, texts, strict=True)}
            yield ready.pop((copy, parent))

    def _edit_batch(self, rows: Sequence[Example], randoms: Sequence[Random]) -> list[str]:
        chosen = [
            _draw_words(row.text, self._settings.fraction, random)
            for row, random in zip(rows, randoms, strict=True)
        ]
        logits = self._logits([*map(self._mask, rows, chosen)]) if any(chosen) else [[]] * len(rows)
        texts = []
        for row, words, fillers, random in zip(rows, chosen, logits, randoms, strict=True):
            # A truncated text has fewer masks than words: the other words stay.
            masks = list(zip(words, fillers, strict=False))
            replacements = [
                _match_case(word[0], self._draw_filler(filler, word[0], random))
                for word, filler in masks
            ]
            parts = _parts_around(row.text, [word for word, _ in masks])
            texts.append("".join(chain(*zip(parts, [*replacements, ""], strict=True))))
        return texts

    def _mask(self, row: Example, words: Sequence[re.Match[str]]) -> str:
        mask: str = self._tokenizer.mask_token
        text = mask.join(part.replace(mask, " ") for part in _parts_around(row.text, words))
        if not self._settings.conditional:
            return text
        return f"{self._task.labels[row.label].lower()} {self._task.text_type.lower()}: {text}"

    def _draw_filler(self, logits: "torch.Tensor", word: str, random: Random) -> str:
        import torch

        texts, same = self._whole_words[1], self._indices_by_word.get(word.casefold(), ())
        logits = logits.clone()
        logits[list(same)] = -torch.inf
        top = torch.topk(logits, min(self._settings.top_k, len(texts) - len(same)))
        weights = torch.softmax(top.values / self._settings.temperature, -1).tolist()
        return texts[random.choices(top.indices.tolist(), weights)[0]] if weights else word

    # The model -----------------------------------------------------------------------------------

    def _logits(self, texts: Sequence[str]) -> "list[list[torch.Tensor]]":
        import torch

        tokenizer, model = self._tokenizer, self._model
        with torch.inference_mode():
            batch = tokenizer(
                list(texts),
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            )
            logits = model(
                input_ids=batch["input_ids"].to(model.device),
                attention_mask=batch["attention_mask"].to(model.device),
            ).logits
            masks = (batch["input_ids"] == tokenizer.mask_token_id).nonzero().tolist()
            result: list[list[torch.Tensor]] = [[] for _ in texts]
            for row, column in masks:
                result[row].append(logits[row, column].float().cpu()[self._whole_words[0]])
        return result

    @cached_property
    def _whole_words(self) -> "tuple[torch.Tensor, list[str]]":
        """The ids and the texts of all tokens that are whole words.

        Continuations of words, and punctuation, replace no word.
        """
        import torch

        tokenizer, special = self._tokenizer, set(self._tokenizer.all_special_ids)
        # A model may have more rows of weights than its tokenizer has tokens.
        tokens = range(min(len(tokenizer), self._model.config.vocab_size))
        ids = [token for token in tokens if token not in special]
        texts = [text.strip() for text in tokenizer.batch_decode([[token] for token in ids])]
        words = [
            (token, text) for token, text in zip(ids, texts, strict=True) if WORD.fullmatch(text)
        ]
        # Tokenizers mark the start of a word in different ways. Test: after another word, the text
        # of a whole word is that single token.
        encoded = tokenizer([f"a {text}" for _, text in words], add_special_tokens=False)
        prefix = tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = [
            (token, text)
            for (token, text), tokens in zip(words, encoded["input_ids"], strict=True)
            if tokens == [*prefix, token]
        ]
        return (
            torch.tensor([token for token, _ in whole], dtype=torch.long),
            [text for _, text in whole],
        )

    @cached_property
    def _indices_by_word(self) -> dict[str, list[int]]:
        indices: dict[str, list[int]] = {}
        for index, text in enumerate(self._whole_words[1]):
            indices.setdefault(text.casefold(), []).append(index)
        return indices

    @cached_property
    def _tokenizer(self) -> Any:
        model, revision = self._settings.model, self._settings.revision
        config = load_config(model, self._problem, HINT, revision=revision)
        tokenizer = load_tokenizer(model, self._problem, HINT, config, revision=revision)
        if tokenizer.mask_token is None:
            raise UserError(
                f"mlm: the tokenizer of {model} has no mask token",
                "give a masked LM, such as bert-base-uncased",
            )
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        import torch

        return load_model(
            "AutoModelForMaskedLM",
            self._settings.model,
            self._problem,
            HINT,
            device=resolve_device(self._settings.device, "mlm: device"),
            revision=self._settings.revision,
            dtype=torch.float32,
        )

    @cached_property
    def _max_tokens(self) -> int:
        limit = getattr(self._model.config, "max_position_embeddings", DEFAULT_MAX_TOKENS)
        paddings = (
            getattr(module, "padding_idx", None)
            for name, module in self._model.named_modules()
            if name.endswith("position_embeddings")
        )
        offset = max((padding + 1 for padding in paddings if padding is not None), default=0)
        return int(min(limit - offset, self._tokenizer.model_max_length, DEFAULT_MAX_TOKENS))


def _draw_words(text: str, fraction: float, random: Random) -> list[re.Match[str]]:
    words = list(WORD.finditer(text))
    count = min(len(words), max(1, int(fraction * len(words) + 0.5)))
    return [words[index] for index in sorted(random.sample(range(len(words)), count))]


def _parts_around(text: str, words: Sequence[re.Match[str]]) -> list[str]:
    ends = [0, *(word.end() for word in words)]
    starts = [*(word.start() for word in words), len(text)]
    return [text[end:start] for end, start in zip(ends, starts, strict=True)]


def _match_case(word: str, replacement: str) -> str:
    return replacement[0].upper() + replacement[1:] if word[0].isupper() else replacement
