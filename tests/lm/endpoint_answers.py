"""Answers and refusals in the form of OpenAI, vLLM, llama-cpp-python and Ollama.

Everything here is a pure function of the options, the model and the request. Faults on the way
are in `endpoint_faults`.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from endpoint_model import ASSISTANT, BEGIN, END, Distribution, TinyLM, Written, write
from endpoint_options import Options, Refused, refused

HIDDEN = -9999.0  # represents a log-probability outside the top 20, and for minus infinity
OPENAI_CHAT = (
    "model messages max_completion_tokens temperature top_p frequency_penalty presence_penalty"
    " logprobs top_logprobs n seed stop logit_bias response_format reasoning_effort "
    "store metadata user"
    " service_tier stream verbosity prompt_cache_key safety_identifier"
)


class Answers:
    """The endpoints of one server: from the body of a request to that of its answer."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.model = TinyLM(options.split, options.unlikely, options.asks_label)
        self._ids = itertools.count(1)
        self._unseeded = itertools.count(1)
        self._split = lru_cache(maxsize=4096)(lambda text: tuple(self.model.split(text)))

    def no(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        kind: str = "",
    ) -> Refused:
        return refused(self.options.dialect, status, message, param, code, kind)

    # Completions ------------------------------------------------------------------------------

    def completions(self, body: dict[str, Any]) -> dict[str, Any]:
        self._check_model(body)
        self._check_completion(body)
        choices, read, written = [], 0, 0
        for prompt in self._prompts(body):
            text = "".join(token for token in prompt if token != BEGIN)
            read += len(prompt)
            for answer in self._write(body, text, len(prompt), self._most(body, len(prompt))):
                written += len(answer.tokens)
                choices.append(self._choice(len(choices), prompt, text, answer, body))
        return self._envelope("cmpl", "text_completion", choices, read, written)

    def _check_completion(self, body: dict[str, Any]) -> None:
        dialect, logprobs = self.options.dialect, body.get("logprobs")
        if dialect == "openai":
            if not self.options.completions:
                message = (
                    "This is a chat model and not supported in the v1/completions endpoint. "
                    "Did you mean to use v1/chat/completions?"
                )
                raise self.no(message, "model", status=404)
            if (logprobs or 0) > 5:
                raise self.no(
                    f"Invalid value for 'logprobs': {logprobs} is greater than the maximum of 5.",
                    "logprobs",
                )
            if body.get("echo") and logprobs is not None:
                raise self.no(
                    "Setting 'echo' and 'logprobs' at the same time is not supported for "
                    "this model.",
                    "echo",
                )
        if dialect == "vllm":
            self._check_vllm(body, logprobs, "logprobs")
            if (
                body.get("logprob_token_ids")
                and body.get("echo")
                and body.get("max_tokens") == 0
                and self._knows("logprob_token_ids")
            ):
                raise self.no(
                    "`logprob_token_ids` is not supported when `echo=True` and `max_tokens=0`.",
                    "logprob_token_ids",
                )
        if (
            isinstance(body.get("stop"), list)
            and len(body["stop"]) > 4
            and dialect in {"vllm", "openai"}
        ):
            raise self.no("Too many stop strings: at most 4 are allowed.", "stop")

    def _check_vllm(self, body: dict[str, Any], logprobs: int | bool | None, name: str) -> None:
        most = (
            len(self.model.tokens) if self.options.max_logprobs == -1 else self.options.max_logprobs
        )
        for count, of in (
            (body.get("top_logprobs") if name == "top_logprobs" else logprobs, "sample"),
            (body.get("prompt_logprobs"), "prompt"),
        ):
            if (
                count is not None
                and count is not True
                and (len(self.model.tokens) if count == -1 else count) > most
            ):
                raise self.no(
                    f"Requested {of} logprobs of {count}, which is greater than max "
                    f"allowed: {most}",
                    "logprobs",
                )
        wanted = body.get("logprob_token_ids")
        if wanted is not None and self._knows("logprob_token_ids"):
            if not wanted or (not logprobs and logprobs != 0):
                raise self.no(
                    "when using `logprob_token_ids`, `logprobs` must be set.", "logprob_token_ids"
                )
            if len(wanted) > 128:
                raise self.no(
                    f"logprob_token_ids has {len(wanted)} ids, more than the allowed 128",
                    "logprob_token_ids",
                )
            for number in wanted:
                self._token_of(number)

    def _prompts(self, body: dict[str, Any]) -> list[list[str]]:
        """Return the tokens of each prompt."""
        prompt = body.get("prompt", "")
        several = isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int))
        if self.options.dialect == "ollama" and not isinstance(prompt, str):
            raise self.no(
                "json: cannot unmarshal array into Go struct field "
                "CompletionRequest.prompt of type string",
                kind="invalid_request_error",
            )
        if self.options.dialect == "llamacpp":
            if isinstance(prompt, list) and (len(prompt) > 1 or not several):
                raise self.no("", status=500, kind="internal_server_error")
            return [self._tokens(prompt[0] if several else prompt, body)]
        if not prompt:
            raise self.no(
                "Either prompt or prompt_embeds must be provided and non-empty.", "prompt"
            )
        return [self._tokens(text, body) for text in (prompt if several else [prompt])]

    def _tokens(self, prompt: str | list[int], body: dict[str, Any]) -> list[str]:
        if isinstance(prompt, list):
            return [self._token_of(number) for number in prompt]
        begins = self.options.begin and body.get("add_special_tokens", True)
        return [*([BEGIN] if begins else []), *self._split(prompt)]

    def _token_of(self, number: int) -> str:
        try:
            return self.model.token_of(number)
        except (ValueError, TypeError) as error:
            raise self.no(f"Token id {number} is out of vocabulary") from error

    def _most(self, body: dict[str, Any], read: int) -> int:
        """Return how many tokens may be written."""
        most = body.get("max_tokens")
        most = body.get("max_completion_tokens", most) if "messages" in body else most
        room = self.options.context - read
        if most is None:
            most = room if "messages" in body else 16
        if (
            self.options.dialect == "llamacpp" and most <= 0
        ):  # llama-cpp-python takes it for "no limit"
            most = room
        if self.options.dialect == "ollama" and most <= 0:
            most = room
        if most > room or room <= 0:
            context = f"This model's maximum context length is {self.options.context} tokens"
            if self.options.dialect == "ollama" and room > 0:
                return room
            raise self.no(
                f"{context}. However, you requested {read + most} tokens.",
                "max_tokens",
                "context_length_exceeded",
            )
        return int(most)

    def _write(self, body: dict[str, Any], text: str, read: int, most: int) -> Iterator[Written]:
        several = 1 if self.options.dialect in {"llamacpp", "ollama"} else int(body.get("n") or 1)
        seed = body.get("seed")
        stop = body.get("stop") or []
        temperature, top_p = body.get("temperature"), body.get("top_p")
        for index in range(several):
            yield write(
                self.model,
                text,
                seed=f"unseeded {next(self._unseeded)}" if seed is None else f"{seed} {index}",
                most=most,
                temperature=1.0 if temperature is None else float(temperature),
                top_p=1.0 if top_p is None else float(top_p),
                stop=[stop] if isinstance(stop, str) else stop,
            )

    def _choice(
        self, index: int, prompt: list[str], text: str, answer: Written, body: dict[str, Any]
    ) -> dict[str, Any]:
        dialect, logprobs = self.options.dialect, body.get("logprobs")
        echo = bool(body.get("echo")) and dialect != "ollama"
        choice: dict[str, Any] = {"index": index, "text": (text if echo else "") + answer.text}
        if dialect != "ollama":
            choice["logprobs"] = (
                None
                if logprobs is None
                else self._completion_logprobs(
                    prompt if echo else [], text, answer, int(logprobs), body
                )
            )
        choice["finish_reason"] = answer.finish
        if dialect == "vllm":
            choice |= {"stop_reason": answer.stopped_by, "prompt_logprobs": None}
            count = body.get("prompt_logprobs")
            count = logprobs if count is None and echo else count
            if count is not None and self._knows("prompt_logprobs"):
                choice["prompt_logprobs"] = self._prompt_logprobs(prompt, int(count))
            if body.get("return_token_ids"):
                choice["token_ids"] = [self.model.id_of(token) for token in answer.tokens]
                choice["prompt_token_ids"] = [self.model.id_of(token) for token in prompt]
        return choice

    def _completion_logprobs(
        self, prompt: list[str], text: str, answer: Written, top: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        vllm, named = self.options.dialect == "vllm", self._namer(body)
        wanted = (
            body.get("logprob_token_ids") if vllm and self._knows("logprob_token_ids") else None
        )
        top = len(self.model.tokens) if top == -1 else max(top - self.options.fewer, 0)
        tokens, steps = answer.tokens, self._reported_steps(answer, body)
        if not vllm and tokens and tokens[-1] == END:
            tokens, steps = tokens[:-1], steps[:-1]
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        for step, token in itertools.chain(
            zip(self.model.walk(prompt), prompt, strict=True) if prompt else (),
            zip(steps, tokens, strict=True),
        ):
            first = bool(prompt) and not values
            values.append(None if first else step.logprob(token))
            tops.append(
                None
                if first
                else self._tops(
                    step, token, top, wanted if len(tops) >= len(prompt) else None, named
                )
            )
        if prompt and self.options.echo_shifted:
            values, tops = [None, *values[2:], values[-1]], [None, *tops[2:], tops[-1]]
        shown = [named(token) for token in [*prompt, *tokens]]
        start = 0 if vllm or prompt else len(text)
        lengths = [len(token) for token in shown]
        offsets = list(itertools.accumulate(lengths[:-1], initial=start)) if lengths else []
        return {
            "text_offset": offsets,
            "token_logprobs": values,
            "tokens": shown,
            "top_logprobs": tops,
        }

    def _reported_steps(self, answer: Written, body: dict[str, Any]) -> Sequence[Distribution]:
        """Return the distributions whose log-probabilities are reported."""
        temperature = body.get("temperature") or 1.0
        if not self.options.tempered or temperature == 1:
            return answer.steps
        return [
            Distribution({token: math.exp(value / temperature) for token, value in step.ranked})
            for step in answer.steps
        ]

    def _tops(
        self,
        step: Distribution,
        token: str,
        top: int,
        wanted: list[int] | None,
        named: Callable[[str], str],
    ) -> dict[str, float]:
        """Return the generated token and the likeliest ones, or those requested by id."""
        if wanted:
            logprobs = {token: step.logprob(token)} | {
                other: step.logprob(other) for other in map(self.model.token_of, wanted)
            }
        else:
            logprobs = {token: step.logprob(token)} | dict(step.ranked[:top])
        return {named(other): max(value, HIDDEN) for other, value in logprobs.items()}

    def _prompt_logprobs(self, prompt: list[str], top: int) -> list[dict[str, Any] | None]:
        entries: list[dict[str, Any] | None] = []
        for step, token in zip(self.model.walk(prompt), prompt, strict=True):
            logprobs = {token: step.logprob(token)} | dict(
                step.ranked[: len(self.model.tokens) if top == -1 else top]
            )
            entry = {
                str(self.model.id_of(t)): {
                    "logprob": value,
                    "rank": step.rank(t),
                    "decoded_token": t,
                }
                for t, value in logprobs.items()
            }
            entries.append(entry if entries else None)
        return entries

    def _namer(self, body: dict[str, Any]) -> Callable[[str], str]:
        by_id = (
            self.options.dialect == "vllm"
            and body.get("return_tokens_as_token_ids")
            and self._knows("return_tokens_as_token_ids")
        )
        return (
            (lambda token: f"token_id:{self.model.id_of(token)}")
            if by_id
            else (lambda token: token)
        )

    def _knows(self, name: str) -> bool:
        return name not in self.options.ignores

    # Chat -------------------------------------------------------------------------------------

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        self._check_model(body)
        self._check_chat(body)
        prompt = self._chat_prompt(body)
        tokens = self._split(prompt)
        choices, written = [], 0
        for index, answer in enumerate(
            self._write(body, prompt, len(tokens), self._most(body, len(tokens)))
        ):
            written += len(answer.tokens)
            message = {"role": "assistant", "content": answer.text}
            choice: dict[str, Any] = {
                "index": index,
                "message": message,
                "finish_reason": answer.finish,
            }
            if self.options.dialect == "openai":
                message |= {"refusal": None, "annotations": []}
            if self.options.dialect != "ollama" or body.get("logprobs"):
                choice["logprobs"] = (
                    self._chat_logprobs(answer, body) if body.get("logprobs") else None
                )
            if self.options.dialect == "vllm":
                choice["stop_reason"] = answer.stopped_by
            choices.append(choice)
        return self._envelope("chatcmpl", "chat.completion", choices, len(tokens), written)

    def _check_chat(self, body: dict[str, Any]) -> None:
        dialect, top = self.options.dialect, body.get("top_logprobs")
        if not body.get("messages"):
            raise self.no(
                "Missing required parameter: 'messages'.", "messages", "missing_required_parameter"
            )
        if dialect == "openai":
            self._check_openai_chat(body)
        if dialect == "vllm":
            if body.get("continue_final_message") and body.get("add_generation_prompt", True):
                raise self.no(
                    "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
                )
            self._check_vllm(body, body.get("logprobs") or None, "top_logprobs")
        if top and not body.get("logprobs") and dialect in {"openai", "vllm"}:
            raise self.no(
                "when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs"
            )

    def _check_openai_chat(self, body: dict[str, Any]) -> None:
        if "max_tokens" in body:
            message = (
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead."
            )
            raise self.no(message, "max_tokens", "unsupported_parameter")
        for name, value in body.items():
            if name not in OPENAI_CHAT.split():
                raise self.no(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
            if name in self.options.refuses and name == "temperature" and value != 1:
                message = (
                    f"Unsupported value: 'temperature' does not support {value} with this "
                    "model. Only the default (1) value is supported."
                )
                raise self.no(message, name, "unsupported_value")
            if name in self.options.refuses and name != "temperature":
                raise self.no(
                    f"Unsupported parameter: '{name}' is not supported with this model.",
                    name,
                    "unsupported_parameter",
                )
        if (top := body.get("top_logprobs") or 0) > 20:
            message = (
                "Invalid 'top_logprobs': integer above maximum value. Expected a value <= "
                f"20, but got {top} instead."
            )
            raise self.no(message, "top_logprobs", "integer_above_max_value")

    def _chat_prompt(self, body: dict[str, Any]) -> str:
        parts = []
        for message in body["messages"]:
            content = message.get("content") or ""
            content = (
                content
                if isinstance(content, str)
                else "".join(part.get("text", "") for part in content)
            )
            parts.append(f"<|{message['role']}|>\n{content}")
        continues = self.options.dialect == "vllm" and body.get("continue_final_message")
        return "\n".join(parts) if continues else "\n".join([*parts, ASSISTANT])

    def _chat_logprobs(self, answer: Written, body: dict[str, Any]) -> dict[str, Any]:
        openai, named = self.options.dialect == "openai", self._namer(body)
        wanted = (
            body.get("logprob_token_ids")
            if self.options.dialect == "vllm" and self._knows("logprob_token_ids")
            else None
        )
        top = max(int(body.get("top_logprobs") or 0) - self.options.fewer, 0)
        content = []
        for step, token in zip(self._reported_steps(answer, body), answer.tokens, strict=True):
            if token == END and self.options.dialect != "vllm":
                continue
            others = self._tops(step, token, 0, wanted, str) if wanted else dict(step.ranked[:top])
            outside = openai and step.rank(token) > 20
            entry = self._entry(named(token), HIDDEN if outside else step.logprob(token))
            content.append(
                entry
                | {
                    "top_logprobs": [
                        self._entry(named(other), value) for other, value in others.items()
                    ]
                }
            )
        return {"content": content} | ({"refusal": None} if openai else {})

    @staticmethod
    def _entry(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    # The rest ---------------------------------------------------------------------------------

    def decisions(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer OpenAI's decisions: the model's label probabilities after the input."""
        if self.options.dialect != "openai" or not self.options.decisions:
            raise self.no("Invalid URL (POST /v1/decisions)", status=404)
        self._check_model(body)
        given, questions = body.get("input"), body.get("questions") or []
        if not 1 <= len(questions) <= 400 or not given:
            raise self.no("Invalid 'questions': expected 1 to 400 questions.", "questions")
        text = given if isinstance(given, str) else self._chat_prompt({"messages": given})
        answers = [self._decide(text, i, question) for i, question in enumerate(questions)]
        read = len(self._split(text)) + sum(
            len(self._split(str(question))) for question in questions
        )
        usage = {
            "input_tokens": read,
            "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
            "output_tokens": 0,
        }
        usage |= {"output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": read}
        return {"answers": answers, "model": self.options.model, "usage": usage}

    def _decide(self, text: str, index: int, question: dict[str, Any]) -> dict[str, Any]:
        name, kind = question.get("name"), question.get("type")
        if (
            self.model.label_probabilities(f"refused? {index} {text}", ["no", "yes"])[0]
            < self.refusal_bound()
        ):
            return {"name": name, "type": "refusal"}
        if kind == "predicate":
            return {
                "name": name,
                "type": "predicate",
                "probability": self.model.label_probabilities(text, ["yes", "no"])[0],
            }
        values = [choice["value"] for choice in question.get("choices", [])]
        if (
            kind != "choice"
            or not 2 <= len(values) <= 255
            or len({(type(value), value) for value in values}) < len(values)
        ):
            raise self.no(f"Invalid 'questions[{index}]'.", f"questions[{index}]")
        probabilities = self.model.label_probabilities(
            text, [str(value).capitalize() for value in values]
        )
        best = max(range(len(values)), key=probabilities.__getitem__)
        listed = [
            {"value": value, "probability": probability}
            for value, probability in zip(values, probabilities, strict=True)
        ]
        return {
            "name": name,
            "type": "choice",
            "choice": values[best],
            "confidence": probabilities[best],
            "probabilities": listed,
        }

    def refusal_bound(self) -> float:
        """Return the fraction of `no` below which a decision is refused.

        It is the quantile of the difference of two normal weights.
        """
        fraction = min(max(self.options.refusals, 0.0), 1.0)
        if fraction in (0.0, 1.0):
            return 2.0 * fraction
        from statistics import NormalDist

        return 1 / (1 + math.exp(-NormalDist(0, 1.2 * math.sqrt(2)).inv_cdf(fraction)))

    def tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer vLLM's /tokenize."""
        prompt = self._chat_prompt(body) if "messages" in body else body["prompt"]
        numbers = [self.model.id_of(token) for token in self._tokens(prompt, body)]
        return {
            "count": len(numbers),
            "max_model_len": self.options.context,
            "tokens": numbers,
            "token_strs": None,
        }

    def models(self) -> dict[str, Any]:
        model: dict[str, Any] = {
            "id": self.options.model,
            "object": "model",
            "created": 1_790_000_000,
        }
        match self.options.dialect:
            case "openai":
                model |= {"owned_by": "system", "shutdown_date": None}
            case "vllm":
                model |= {
                    "owned_by": "vllm",
                    "root": self.options.model,
                    "parent": None,
                    "max_model_len": self.options.context,
                    "permission": [],
                }
            case "llamacpp":
                model = {
                    "id": self.options.model,
                    "object": "model",
                    "owned_by": "me",
                    "permissions": [],
                }
            case _:
                model |= {"owned_by": "library"}
        return {"object": "list", "data": [model]}

    def _check_model(self, body: dict[str, Any]) -> None:
        name = body.get("model")
        if name == self.options.model or self.options.dialect == "llamacpp":
            return
        message = {
            "openai": f"The model `{name}` does not exist or you do not have access to it.",
            "vllm": f"The model `{name}` does not exist.",
            "ollama": f'model "{name}" not found, try pulling it first',
        }[self.options.dialect]
        raise self.no(
            message,
            "model" if self.options.dialect == "vllm" else None,
            "model_not_found",
            status=404,
        )

    def _envelope(
        self, prefix: str, kind: str, choices: list[dict[str, Any]], read: int, written: int
    ) -> dict[str, Any]:
        answer = {
            "id": f"{prefix}-{next(self._ids)}",
            "object": kind,
            "created": int(time.time()),
            "model": self.options.model,
            "choices": choices,
        }
        usage: dict[str, Any] = {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }
        match self.options.dialect:
            case "openai":
                usage["completion_tokens_details"] = {
                    "reasoning_tokens": 0,
                    "accepted_prediction_tokens": 0,
                    "rejected_prediction_tokens": 0,
                }
                usage["prompt_tokens_details"] = {"cached_tokens": 0}
            case "ollama":
                answer["system_fingerprint"] = "fp_ollama"
        return answer | {"usage": usage}
