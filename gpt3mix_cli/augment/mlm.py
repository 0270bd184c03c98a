"""Contextual replacement: some words of each parent give way to what a masked LM writes in their place.

As conditional BERT (Wu et al., 2019) and SSMBA (Ng et al., 2020) do: a share of the words is masked, the model reads the
text once, and each masked word is drawn from its likeliest ones. What is done otherwise, and why:

- Whole words are masked and replaced by whole words, so that case, spaces and punctuation of the rest stay as they were.
- A word is never replaced by itself, so that no row is its parent where a word can be replaced.
- The model is used as it is. Wu et al. fine-tune it with the label as its segment, which a handful of rows does not allow;
  `conditional` lets the label stand before the text instead (Kumar et al., 2020, without their fine-tuning).
- SSMBA labels its rows anew with a trained classifier; here a row keeps its parent's label, right or wrong.

Limits: the masked words of a text are drawn independently of each other; a word beyond the model's length stays.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import hash_model
from ..pretrained import load_model, load_pretrained, resolve_device
from ..records import Augmented, Example
from ..settings import MlmSettings, Task, fingerprint, generator
from .editing import NoCost, edited

if TYPE_CHECKING:
    import torch

CACHE_VERSION = 1  # raised when the same settings would give other rows
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")  # `don't` and `well-made` are one word
HINT = "give the folder of a masked LM with its head, or a hub id that can be reached (model:)"
LONGEST = 512  # tokens of a text, where the model does not say less


class MLM(NoCost):
    """Edits each parent in turn; see `augment.Augmenter`."""

    edits = True
    rows = block = 1

    def __init__(self, settings: MlmSettings, task: Task) -> None:
        """Keep the settings and the task's words; the model is loaded when it is first needed."""
        self._settings, self._task = settings, task
        self._what = f"mlm: {settings.model} cannot be loaded as a masked LM"
        folder = Path(settings.model).expanduser()
        self.about: dict[str, Any] = {
            "method": settings.name,
            **settings.model_dump(exclude={"name", "model", "revision"}),
            "model": hash_model(folder)
            if folder.is_dir()
            else fingerprint([settings.model, settings.revision]),
            "classes": task.classes,
            "format": CACHE_VERSION,
        }
        if settings.conditional:
            self.about |= {"task_labels": task.labels, "text_type": task.text_type}

    def generate(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Augmented]:
        """Yield the rows of attempts first..first+count: attempt i is copy i // n of parent i mod n."""
        for attempt, text in enumerate(self.texts(examples, first, count, seed), first):
            copy, parent = divmod(attempt, len(examples))
            yield edited(
                examples[parent], text, copy, attempt, self._settings.name, self._task.classes
            )

    def texts(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[str]:
        """Yield the texts of these rows."""
        # Batches hold texts of like length, and are the same however many rows are asked for.
        order, size = (
            sorted(range(len(examples)), key=lambda place: (len(examples[place].text), place)),
            self._settings.batch_size,
        )
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        batch_of = {place: number for number, batch in enumerate(batches) for place in batch}
        written: dict[tuple[int, int], str] = {}
        for attempt in range(first, first + count):
            copy, parent = divmod(attempt, len(examples))
            if (copy, parent) not in written:
                batch = batches[batch_of[parent]]
                texts = self._rewritten(
                    [examples[place] for place in batch],
                    [generator(seed, "mlm", place, copy) for place in batch],
                )
                written |= {(copy, place): text for place, text in zip(batch, texts, strict=True)}
            yield written.pop((copy, parent))

    def _rewritten(self, rows: Sequence[Example], randoms: Sequence[Random]) -> list[str]:
        """Return each row's text with some of its words replaced."""
        chosen = [
            _chosen(row.text, self._settings.fraction, random)
            for row, random in zip(rows, randoms, strict=True)
        ]
        masked = [self._masked(row, words) for row, words in zip(rows, chosen, strict=True)]
        found = self._read(masked) if any(chosen) else [[] for _ in rows]
        texts = []
        for row, words, guesses, random in zip(rows, chosen, found, randoms, strict=True):
            parts, end = [], 0
            # A text that was cut has fewer masks than words: the others stay.
            for word, guess in zip(words, guesses, strict=False):
                parts += [
                    row.text[end : word.start()],
                    _like(word[0], self._drawn(guess, word[0], random)),
                ]
                end = word.end()
            texts.append("".join([*parts, row.text[end:]]))
        return texts

    def _masked(self, row: Example, words: Sequence[re.Match[str]]) -> str:
        mask = self._tokenizer.mask_token
        parts, end = [], 0
        for word in words:
            parts += [row.text[end : word.start()].replace(mask, " "), mask]
            end = word.end()
        text = "".join([*parts, row.text[end:].replace(mask, " ")])
        return (
            f"{self._task.labels[row.label].lower()} {self._task.text_type.lower()}: {text}"
            if self._settings.conditional
            else text
        )

    def _drawn(self, guess: "torch.Tensor", word: str, random: Random) -> str:
        """Return a word drawn from the likeliest that are another one; `guess` are the logits of all whole words."""
        import torch

        texts, same = self._words[1], self._forms.get(word.casefold(), ())
        guess = guess.clone()
        guess[list(same)] = -torch.inf
        top = torch.topk(guess, min(self._settings.top_k, len(texts) - len(same)))
        weights = torch.softmax(top.values / self._settings.temperature, -1).tolist()
        return texts[random.choices(top.indices.tolist(), weights)[0]] if weights else word

    # The model -------------------------------------------------------------------------------------------------------

    def _read(self, texts: Sequence[str]) -> "list[list[torch.Tensor]]":
        """Return for each text the logits of all whole words at each of its masks."""
        import torch

        tokenizer, model = self._tokenizer, self._model
        with torch.inference_mode():
            rows = tokenizer(
                list(texts),
                padding=True,
                truncation=True,
                max_length=self._longest,
                return_tensors="pt",
            )
            logits = model(
                input_ids=rows["input_ids"].to(model.device),
                attention_mask=rows["attention_mask"].to(model.device),
            ).logits
            masks = (rows["input_ids"] == tokenizer.mask_token_id).nonzero().tolist()
            found: list[list[torch.Tensor]] = [[] for _ in texts]
            for row, place in masks:
                found[row].append(logits[row, place].float().cpu()[self._words[0]])
        return found

    @cached_property
    def _words(self) -> "tuple[torch.Tensor, list[str]]":
        """The ids of all tokens that are whole words, and how they are written: continuations and signs replace no word."""
        import torch

        tokenizer = self._tokenizer
        special = set(tokenizer.all_special_ids)
        # A model may have more rows of weights than its tokenizer has tokens.
        ids = [
            token
            for token in range(min(len(tokenizer), self._model.config.vocab_size))
            if token not in special
        ]
        texts = [text.strip() for text in tokenizer.batch_decode([[token] for token in ids])]
        named = [
            (token, text) for token, text in zip(ids, texts, strict=True) if WORD.fullmatch(text)
        ]
        # Whatever its family's marks are, a whole word is a token that its own text gives where it follows another word.
        rest = tokenizer([f"a {text}" for _, text in named], add_special_tokens=False)["input_ids"]
        before = tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = [
            (token, text)
            for (token, text), found in zip(named, rest, strict=True)
            if found == [*before, token]
        ]
        return torch.tensor([token for token, _ in whole], dtype=torch.long), [
            text for _, text in whole
        ]

    @cached_property
    def _forms(self) -> dict[str, list[int]]:
        """The places in `_words` of each word, whatever its case."""
        forms: dict[str, list[int]] = {}
        for place, text in enumerate(self._words[1]):
            forms.setdefault(text.casefold(), []).append(place)
        return forms

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer = load_pretrained(
            "AutoTokenizer",
            self._settings.model,
            self._what,
            HINT,
            revision=self._settings.revision,
        )
        if tokenizer.mask_token is None:
            raise UserError(
                f"mlm: the tokenizer of {self._settings.model} has no mask",
                "give a masked LM, such as bert-base-uncased",
            )
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        import torch

        return load_model(
            "AutoModelForMaskedLM",
            self._settings.model,
            self._what,
            HINT,
            device=resolve_device(self._settings.device, "mlm: device"),
            revision=self._settings.revision,
            dtype=torch.float32,
        )

    @cached_property
    def _longest(self) -> int:
        """Tokens that the model reads of a text; RoBERTa and its kin count positions from the one after padding's."""
        positions = getattr(self._model.config, "max_position_embeddings", LONGEST)
        tables = [
            module
            for name, module in self._model.named_modules()
            if name.endswith("position_embeddings")
        ]
        kept = [
            table.padding_idx + 1
            for table in tables
            if getattr(table, "padding_idx", None) is not None
        ]
        return int(min(positions - max(kept, default=0), self._tokenizer.model_max_length, LONGEST))


def _chosen(text: str, share: float, random: Random) -> list[re.Match[str]]:
    """Return the words to be replaced, in their order: a share of all, at least one, each with equal chances."""
    words = list(WORD.finditer(text))
    chosen = random.sample(
        range(len(words)), min(len(words), max(1, int(share * len(words) + 0.5)))
    )
    return [words[place] for place in sorted(chosen)]


def _like(word: str, other: str) -> str:
    """Return a replacement with the capital of the word."""
    return other[0].upper() + other[1:] if word[0].isupper() else other
