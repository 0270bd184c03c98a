"""A transformers causal LM in this process, on a CPU or a GPU.

Texts are written in fixed blocks, left-padded, one token a step with a key-value cache; each request draws from its own
generator. A second pass scores the choices over the tokens that the LM wrote. Limits: one device a model; a model that
passes over its attention mask (RWKV, XLNet) is not served right, since padding would reach its scores.
"""

import functools
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import model_sha
from ..settings import LocalLM as Settings
from ..settings import fingerprint
from . import About, Completion, Request, Scores

if TYPE_CHECKING:
    import torch

STOP = "\n"  # one row is one line of the prompt's list
TAIL = 8  # tokens of the prompt that decide how the first written token is spelled
ENDLESS = 1_000_000  # what tokenizers say where they know no limit is far above this


class Local:
    """The engine; see `lm.LM`."""

    def __init__(self, settings: Settings) -> None:
        """Read configuration and tokenizer; the weights follow when the first answer is wanted.

        Raises:
            UserError: if they cannot be loaded, with the remedy.
        """
        import torch

        self._settings, self._block = settings, settings.batch_size
        self._place = str(resources.files("gpt3mix_cli") / "resources" / "lm") if settings.model == "bundled" else settings.model
        self._device = torch.device(_device(settings.device))
        # bfloat16 on a CPU is slower than float32 on most machines, and less exact.
        auto = "float32" if self._device.type == "cpu" else "bfloat16"
        self._dtype = auto if settings.dtype == "auto" else settings.dtype
        folder = Path(self._place)
        if folder.is_dir() and not any(folder.glob("tokenizer*")):
            raise UserError(f"lm.model {folder}: the folder has no tokenizer", "save it there with tokenizer.save_pretrained")
        config = self._loaded("AutoConfig")
        self._tokenizer = self._loaded("AutoTokenizer")
        self._pad = self._tokenizer.pad_token_id or 0
        limits = [getattr(config, "max_position_embeddings", None), self._tokenizer.model_max_length]
        weights = model_sha(folder) if folder.is_dir() else fingerprint([self._place, getattr(config, "_commit_hash", None) or settings.revision])
        self.about = About(
            model=settings.model,
            fingerprint=fingerprint([weights, self._dtype, self._device.type, self._block]),
            context=min((limit for limit in limits if limit and limit < ENDLESS), default=ENDLESS),
            block=self._block,
            count_tokens=lambda text: len(self._encode(text)),
            details=f"{self._dtype} on {self._device}, blocks of {self._block}",
        )

    @functools.cached_property
    def _model(self) -> Any:
        import torch

        model, info = self._loaded("AutoModelForCausalLM", dtype=getattr(torch, self._dtype), output_loading_info=True)
        if missing := sorted(info["missing_keys"]):
            # The library would draw them at random, and write and score nonsense without a word.
            message = f"lm.model {self._place}: {len(missing)} weights of a causal LM are missing, such as {missing[0]}"
            raise UserError(message, "give the folder or hub id of a causal LM, with its language-modelling head")
        return model.to(self._device).eval()

    @functools.cached_property
    def _ends(self) -> set[int]:
        configured = self._model.generation_config.eos_token_id
        ends = configured if isinstance(configured, list) else [configured]
        # Any special token ends a text: it cannot be shown, and what follows it belongs to something else.
        return {token for token in [*ends, *self._tokenizer.all_special_ids] if token is not None}

    def _loaded(self, part: str, **options: Any) -> Any:
        import transformers

        try:
            return getattr(transformers, part).from_pretrained(self._place, revision=self._settings.revision, **options)
        except Exception as error:
            # The libraries raise a dozen unrelated classes for a folder that is damaged, foreign or not there.
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            hint = "give `bundled`, the folder of a causal LM, or a hub id that can be reached"
            raise UserError(f"lm.model {self._place}: cannot be loaded as a causal LM: {reason}", hint) from None

    def complete(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yield the answers, block by block."""
        for start in range(0, len(requests), self._block):
            yield from self._complete_block(requests[start : start + self._block])

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Return the scores of every choice after every prompt."""
        scores: list[Scores] = []
        for start in range(0, len(prompts), self._block):
            block = prompts[start : start + self._block]
            # The last characters decide how a tokenizer cuts what follows.
            scores += self._score([self._encode(prompt) for prompt in block], [self._after(prompt[-16:], choices) for prompt in block])
        return scores

    # Writing ---------------------------------------------------------------------------------------------------------

    def _complete_block(self, requests: Sequence[Request]) -> list[Completion]:
        prompts = [self._encode(request.prompt) for request in requests]
        fitting = [i for i, request in enumerate(requests) if len(prompts[i]) + self._room(request) <= self.about.context]
        written = self._write([requests[i] for i in fitting], [prompts[i] for i in fitting]) if fitting else []
        texts: dict[int, tuple[str, str]] = {}
        contexts: dict[int, list[int]] = {}
        for i, tokens in zip(fitting, written, strict=True):
            request = requests[i]
            text, finish, kept = self._cut(prompts[i], tokens, request.seam)
            texts[i] = text, finish
            if request.seam and finish != "length":
                whole = f"{text}{request.seam}"
                if kept is None:  # a token reaches over the cut: only the text itself can say where its tokens lie
                    contexts[i] = self._encode(request.prompt + whole)
                else:
                    contexts[i] = prompts[i] + (kept if finish == "seam" else kept + self._after(".", [request.seam])[0])
        scored = list(contexts)
        choices = [self._after(requests[i].seam, requests[i].choices) for i in scored]
        scores = dict(zip(scored, self._score([contexts[i] for i in scored], choices), strict=True)) if scored else {}
        lengths = dict(zip(fitting, written, strict=True))
        return [
            Completion(
                number=request.number,
                text=texts[i][0] if i in texts else "",
                finish=texts[i][1] if i in texts else "too_long",  # type: ignore[arg-type]
                scores=scores.get(i),
                prompt_tokens=len(prompts[i]),
                completion_tokens=len(lengths.get(i, [])),
            )
            for i, request in enumerate(requests)
        ]

    def _write(self, requests: Sequence[Request], prompts: Sequence[list[int]]) -> list[list[int]]:
        """Return the tokens written for each prompt, up to the one that ends the text."""
        import torch
        from transformers import DynamicCache

        ids, mask = self._left_padded(prompts)
        cache = DynamicCache(config=self._model.config)
        sampler = _Sampler(requests, self._device)
        written: list[list[int]] = [[] for _ in requests]
        open_rows = set(range(len(requests)))
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode():
            for step in range(max(request.max_tokens for request in requests)):
                output = self._model(
                    input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
                )
                tokens = sampler.draw(output.logits[:, -1].float(), step)
                for row, token in enumerate(tokens.tolist()):
                    if row in open_rows:
                        written[row].append(token)
                        if self._ended(prompts[row], written[row], requests[row]):
                            open_rows.discard(row)
                if not open_rows:
                    break
                ids = tokens[:, None]
                mask = torch.cat([mask, mask.new_ones(len(requests), 1)], dim=1)
                positions = positions[:, -1:] + 1
        return written

    def _room(self, request: Request) -> int:
        """Return how many tokens may follow the prompt: the text, a seam that is appended, and the longest choice."""
        if not request.seam:
            return request.max_tokens
        seam, *choices = map(len, self._after(".", [request.seam]) + self._after(request.seam, request.choices))
        return request.max_tokens + seam + max(choices, default=0)

    def _ended(self, prompt: list[int], tokens: list[int], request: Request) -> bool:
        if tokens[-1] in self._ends or len(tokens) >= request.max_tokens:
            return True
        text = self._decode(prompt, tokens)
        return STOP in text or bool(request.seam and request.seam in text)

    def _cut(self, prompt: list[int], tokens: list[int], seam: str) -> tuple[str, str, list[int] | None]:
        """Return (text, finish, tokens of text and seam, or of the text alone where the line ended; None if a token straddles)."""
        ended = tokens[-1] in self._ends
        whole = self._decode(prompt, tokens[:-1] if ended else tokens)
        places = {mark: whole.find(mark) for mark in (STOP, seam) if mark and mark in whole}
        if not places:
            return whole, "line" if ended else "length", tokens[:-1] if ended else None
        mark = min(places, key=lambda key: places[key])
        text = whole[: places[mark]]
        if mark == seam:
            return text, "seam", tokens if whole == text + seam and not ended else None
        # The line's end must be a token of its own for the tokens before it to be the text's.
        return text, "line", tokens[:-1] if not ended and self._decode(prompt, tokens[:-1]) == text else None

    # Scoring ---------------------------------------------------------------------------------------------------------

    def _score(self, contexts: Sequence[list[int]], choices: Sequence[Sequence[list[int]]]) -> list[Scores]:
        """Return the log-probability of every choice's whole token sequence after its context."""
        import torch

        rows = [(context, choice) for context, group in zip(contexts, choices, strict=True) for choice in group]
        found: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(rows), 2 * self._block):
                part = rows[start : start + 2 * self._block]
                # The last token of a choice is predicted, never read.
                ids, mask = self._left_padded([context + choice[:-1] for context, choice in part])
                longest = max(len(choice) for _, choice in part)
                positions = (mask.cumsum(-1) - 1).clamp(min=0)
                logits = self._model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=longest).logits
                logprobs = logits.float().log_softmax(-1)
                for row, (_, choice) in enumerate(part):
                    targets = torch.tensor(choice, device=logprobs.device)
                    picked = logprobs[row, -len(choice) :].gather(-1, targets[:, None])
                    found.append(float(picked.double().sum()))
        values = iter(found)
        return [Scores(tuple(next(values) for _ in group)) for group in choices]

    def _after(self, context: str, continuations: Sequence[str]) -> list[list[int]]:
        """Return the tokens that each continuation has after a context: tokenizers treat a text's beginning specially."""
        before = self._tokenizer(context, add_special_tokens=False)["input_ids"]
        found = []
        for continuation in continuations:
            both = self._tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
            tokens = both[len(before) :] if both[: len(before)] == before else []
            tokens = tokens or self._tokenizer(continuation, add_special_tokens=False)["input_ids"]
            if not tokens:
                raise UserError(
                    f"lm.model {self.about.model}: '{continuation.strip()}' tokenises to nothing", "use another label token in task.labels"
                )
            found.append(tokens)
        return found

    # Tokens ----------------------------------------------------------------------------------------------------------

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer(text)["input_ids"]
        return tokens

    def _decode(self, prompt: list[int], tokens: list[int]) -> str:
        """Return what the tokens add to the prompt: on their own some tokenizers would drop their first space."""
        tail = prompt[-TAIL:]
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        before: str = self._tokenizer.decode(tail, **options)
        both: str = self._tokenizer.decode(tail + tokens, **options)
        return both.removeprefix(before)

    def _left_padded(self, rows: Sequence[Sequence[int]]) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Return ids and attention mask, both (rows, longest), padded on the left so that all rows end together."""
        import torch

        longest = max(len(row) for row in rows)
        ids = torch.full((len(rows), longest), self._pad)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, longest - len(row) :] = torch.tensor(row)
            mask[i, longest - len(row) :] = 1
        return ids.to(self._device), mask.to(self._device)


class _Sampler:
    """Draws one token a row and step; row r's draws depend on its request's seed and its own logits only."""

    def __init__(self, requests: Sequence[Request], device: "torch.device") -> None:
        import torch

        longest = max(request.max_tokens for request in requests)
        uniforms = [torch.rand(longest, generator=torch.Generator().manual_seed(request.seed), dtype=torch.float64) for request in requests]
        self._uniforms = torch.stack(uniforms).to(device)

        def column(values: list[float]) -> "torch.Tensor":
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

        self._temperature = column([request.temperature for request in requests])
        self._top_p = column([request.top_p for request in requests])
        self._penalty = column([request.frequency_penalty for request in requests])
        self._written: torch.Tensor | None = None

    def draw(self, logits: "torch.Tensor", step: int) -> "torch.Tensor":
        """Return the next token of each row, (rows,), from logits (rows, vocabulary)."""
        import torch

        if self._written is None:
            self._written = torch.zeros_like(logits)
        logits = logits - self._penalty * self._written
        greedy = logits.argmax(-1)
        probs = (logits / self._temperature.clamp(min=1e-6)).softmax(-1)
        order = None
        some = self._top_p < 1
        if bool(some.any()):
            ranked, ranks = probs.sort(-1, descending=True)
            # A token stays if those before it have not yet reached top_p: the first one always does.
            ranked = ranked.masked_fill(ranked.cumsum(-1) - ranked >= self._top_p, 0)
            # Rows that draw from all tokens keep their order, whatever their neighbours do.
            own = torch.arange(probs.shape[-1], device=probs.device)
            probs, order = torch.where(some, ranked, probs), torch.where(some, ranks, own)
        # Inverse of the cumulative distribution, in float64 so that the tail keeps its share; no division is needed.
        cumulative = probs.double().cumsum(-1)
        drawn = torch.searchsorted(cumulative, self._uniforms[:, step, None] * cumulative[:, -1:], right=True).clamp(max=logits.shape[-1] - 1)
        token = drawn if order is None else order.gather(-1, drawn)
        token = torch.where(self._temperature > 0, token, greedy[:, None])[:, 0]
        self._written.scatter_add_(-1, token[:, None], torch.ones_like(token[:, None], dtype=logits.dtype))
        return token


def _device(name: str) -> str:
    import torch

    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"lm.device: '{name}' cannot be used: {str(error).splitlines()[0]}", "use auto, cpu, or a device that `gpt3mix check` lists"
            ) from None
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
