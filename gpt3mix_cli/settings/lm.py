"""Settings of the language model and its budget."""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from .base import MAX_BATCH, PositiveFloat, Settings, StrictFloat, StrictInt

MAX_TIMEOUT_S = 7 * 24 * 3600

# Scheme, host and port, path; neither user and password nor a query.
PLAIN_URL = re.compile(
    r"https?://(?:\[[0-9a-fA-F:.]+\]|[\w-]{1,63}(?:\.[\w-]{1,63})*\.?)(?::(\d{1,5}))?(?:/[^@\s?#]*)?"
)
SECRET_HEADER = re.compile(r"auth|cookie|key|password|secret|token", re.IGNORECASE)
# Headers that describe the connection or the body, which the SDK writes.
OWN_HEADER = re.compile(r"connection|content-.*|expect|host|te|transfer-.*", re.IGNORECASE)


class LocalLMSettings(Settings):
    """A causal LM that transformers runs in this process."""

    kind: Literal["local"]
    model: str = Field(
        "bundled",
        description=(
            "`bundled` (the packaged review LM), `smollm2` (a small general LM), a GGUF file, a "
            "folder or a hub id"
        ),
    )
    gguf_file: str | None = Field(
        None,
        min_length=1,
        description="GGUF file to use of a hub repository, or of a folder with several",
    )
    revision: str | None = Field(None, description="commit of a hub model")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description=(
            "auto: bfloat16 on a GPU; on a CPU float32, or bfloat16 where that is faster and moves "
            "labels by less than 0.01"
        ),
    )
    label_dtype: Literal["auto", "float32"] = Field(
        "auto",
        description=(
            "float32: score labels once more with the model in float32, if `dtype` is lower; "
            "auto: only the output layer is float32"
        ),
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    prompt: Literal["auto", "completion", "chat"] = Field(
        "auto",
        description=(
            "chat: the prompt is wrapped in the model's chat template; completion: it is not; "
            "auto: completion"
        ),
    )
    batch_size: StrictInt = Field(
        256,
        ge=1,
        le=MAX_BATCH,
        description=(
            "generation batch size (reduced if memory runs out); changes floating-point "
            "results slightly"
        ),
    )


class OpenAISettings(Settings):
    """An LM behind an OpenAI-compatible API: OpenAI, vLLM, SGLang, llama.cpp, Ollama."""

    kind: Literal["openai"]
    model: str = Field(min_length=1, description="the server's name of the model")
    base_url: str | list[str] = Field(
        "https://api.openai.com/v1",
        description="URL of the server, or a list of servers with the same model",
    )
    endpoint: str = Field(
        "",
        description=(
            "name in the journal; set it if the URL may change; default: the first base_url"
        ),
    )
    api_key_env: str = Field(
        "OPENAI_API_KEY", min_length=1, description="environment variable that holds the key"
    )
    organization: str | None = Field(
        None, pattern="^[!-~]+$", description="of the key; default: the variable OPENAI_ORG_ID"
    )
    project: str | None = Field(
        None, pattern="^[!-~]+$", description="of the key; default: the variable OPENAI_PROJECT_ID"
    )
    api_version: str | None = Field(
        None,
        min_length=1,
        description=(
            "version of Azure's API, such as 2024-10-21; `base_url` is then the resource's "
            "endpoint and `model` its deployment"
        ),
    )
    default_headers: dict[str, str] = Field(
        {},
        description=(
            "headers added to each request, such as X-Title; secret ones belong into the variable "
            "OPENAI_CUSTOM_HEADERS, one `Name: value` a line"
        ),
    )
    api: Literal["auto", "completions", "chat", "decisions"] = Field(
        "auto",
        description=(
            "API for requests; decisions: chat, with OpenAI's decisions for the labels; auto: "
            "what the server offers"
        ),
    )
    label_source: Literal["auto", "exact", "decision", "top_logprobs", "vote"] = Field(
        "auto", description="source of soft labels; auto: the best that the server offers"
    )
    num_votes: StrictInt = Field(
        10, ge=1, le=10_000, description="label samples per row with label_source: vote"
    )
    tokenizer: str = Field(
        "",
        description=(
            "tokenizer that counts tokens: `bundled`, a folder or a hub id; default: an estimate"
        ),
    )
    context: StrictInt = Field(
        4096,
        ge=16,
        le=10**9,
        description="most tokens of a prompt and its text; longer prompts lose examples",
    )
    concurrency: Annotated[StrictInt, Field(ge=1, le=10_000)] | Literal["auto"] = Field(
        "auto", description="open requests for each base_url"
    )
    requests_per_minute: PositiveFloat | None = Field(
        None, description="rate limit of all servers together"
    )
    tokens_per_minute: PositiveFloat | None = Field(
        None, description="rate limit of all servers together, prompts and texts"
    )
    timeout: PositiveFloat = Field(
        120.0, le=MAX_TIMEOUT_S, description="seconds to wait for a response"
    )
    prices: str | None = Field(
        None,
        min_length=1,
        description="YAML file of prices (`gpt3mix guide cost`); without it costs are unknown",
    )
    batch: bool = Field(
        False, description="use the provider's batch API, which is cheaper and takes hours"
    )
    extra: dict[str, Any] = Field(
        {}, description="fields added to each request, such as reasoning_effort: none"
    )

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, value: dict[str, Any]) -> dict[str, Any]:
        json.dumps(value, allow_nan=False)  # raises a ValueError: the server reads JSON
        return value

    @field_validator("base_url")
    @classmethod
    def _check_urls(cls, value: str | list[str]) -> str | list[str]:
        urls = [value] if isinstance(value, str) else value
        if not urls or len(set(urls)) < len(urls):
            raise ValueError("give one URL or several different ones")
        for url in urls:
            plain = PLAIN_URL.fullmatch(url)
            if not plain or int(plain[1] or 0) > 65535:
                shown = re.split(r"[?#]", url.rpartition("@")[2])[0]
                raise ValueError(
                    f"'{shown}' is not a plain URL such as http://localhost:8000/v1; "
                    "put the key into the environment"
                )
        return value

    @field_validator("default_headers")
    @classmethod
    def _check_headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
                raise ValueError(f"{name!r} is no name of a header, such as X-Title")
            if SECRET_HEADER.search(name):
                raise ValueError(
                    f"'{name}' may hold a secret, which a config must not; set the environment "
                    f"variable OPENAI_CUSTOM_HEADERS='{name}: ...'"
                )
            if OWN_HEADER.fullmatch(name):
                raise ValueError(f"'{name}' is written by the HTTP client; omit it")
            if not re.fullmatch(r"[ -~]*", text):
                raise ValueError(
                    f"the value of '{name}' has a line end or a character that is not ASCII"
                )
        return value

    @property
    def urls(self) -> list[str]:
        """All base URLs, without a trailing slash."""
        urls = [self.base_url] if isinstance(self.base_url, str) else self.base_url
        return [url.rstrip("/") for url in urls]


class Budget(Settings):
    """The most that all runs of an experiment may cost; reaching it exits with code 3."""

    usd: Annotated[StrictFloat, Field(gt=0, le=1e12)] | None = Field(
        None, description="US dollars, computed with `lm.prices`"
    )
    tokens: Annotated[StrictInt, Field(gt=0, le=10**15)] | None = Field(
        None, description="tokens of prompts and texts"
    )
    requests: Annotated[StrictInt, Field(gt=0, le=10**15)] | None = Field(
        None, description="requests sent, retries included"
    )


LMSettings = Annotated[LocalLMSettings | OpenAISettings, Field(discriminator="kind")]
