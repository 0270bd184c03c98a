"""Settings of the language model, and what it may cost."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from .base import Settings, StrictFloat, StrictInt


class LocalLMSettings(Settings):
    """A transformers causal LM in this process."""

    kind: Literal["local"]
    model: str = Field(
        "bundled", description="`bundled` (the packaged review LM), a folder or a hub id"
    )
    revision: str | None = Field(None, description="commit of a hub model")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on a CPU, bfloat16 on a GPU"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    batch_size: StrictInt = Field(
        256,
        ge=1,
        description="texts written side by side if the memory holds them; their last digits depend on it",
    )


class OpenAISettings(Settings):
    """An LM behind an endpoint that speaks OpenAI's protocol: OpenAI itself, vLLM, SGLang, llama.cpp, Ollama."""

    kind: Literal["openai"]
    model: str = Field(min_length=1, description="as the server calls it")
    base_url: str | list[str] = Field(
        "https://api.openai.com/v1",
        description="of the server, or of several that serve the same model",
    )
    endpoint: str = Field(
        "",
        description="name in the journal, where servers come and go; default: the first base_url",
    )
    api_key_env: str = Field(
        "OPENAI_API_KEY", min_length=1, description="environment variable that holds the key"
    )
    api: Literal["auto", "completions", "chat", "decisions"] = Field(
        "auto",
        description="how to ask; decisions: a chat, and OpenAI's decisions for the labels; auto: what the server is found to offer",
    )
    label_source: Literal["auto", "exact", "decision", "top_logprobs", "vote"] = Field(
        "auto", description="where soft labels come from; auto: the best"
    )
    num_votes: StrictInt = Field(
        10, ge=1, description="labels drawn for a row where they are voted for"
    )
    tokenizer: str = Field(
        "",
        description="`bundled`, folder or hub id of the model's tokenizer, to count with; default: an estimate",
    )
    context: StrictInt = Field(
        4096,
        ge=16,
        description="tokens of the longest prompt and text; longer prompts lose examples",
    )
    concurrency: Annotated[StrictInt, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="requests under way at each base_url"
    )
    requests_per_minute: Annotated[StrictFloat, Field(gt=0)] | None = Field(
        None, description="at most, all servers together"
    )
    tokens_per_minute: Annotated[StrictFloat, Field(gt=0)] | None = Field(
        None, description="at most, read and written"
    )
    timeout: StrictFloat = Field(120.0, gt=0, description="seconds that an answer may take")
    prices: str | None = Field(
        None, min_length=1, description="file of prices, see README; without it money is unknown"
    )
    batch: bool = Field(
        False, description="ask by the provider's batches, which are cheaper and take hours"
    )
    extra: dict[str, Any] = Field(
        {}, description="fields that go into each request, such as reasoning_effort: none"
    )

    @field_validator("base_url")
    @classmethod
    def _urls(cls, value: str | list[str]) -> str | list[str]:
        urls = [value] if isinstance(value, str) else value
        if not urls or len(set(urls)) < len(urls):
            raise ValueError("give one URL or several different ones")
        for url in urls:
            if not re.fullmatch(r"https?://[^/@\s]+(/[^@\s?#]*)?", url):
                shown = re.split(r"[?#]", url.rpartition("@")[2])[0]
                raise ValueError(
                    f"'{shown}' is no plain URL such as http://localhost:8000/v1; a key goes into the environment"
                )
        return value

    @property
    def urls(self) -> list[str]:
        """All base URLs, without a slash at their end."""
        return [
            url.rstrip("/")
            for url in ([self.base_url] if isinstance(self.base_url, str) else self.base_url)
        ]


class Budget(Settings):
    """What an experiment may cost at an endpoint, over all its runs; reaching it ends a run with exit code 3."""

    usd: Annotated[StrictFloat, Field(gt=0)] | None = Field(
        None, description="dollars, by `lm.prices`"
    )
    tokens: Annotated[StrictInt, Field(gt=0)] | None = Field(None, description="read and written")
    requests: Annotated[StrictInt, Field(gt=0)] | None = Field(
        None, description="sent, repeated ones included"
    )


LMSettings = Annotated[LocalLMSettings | OpenAISettings, Field(discriminator="kind")]
