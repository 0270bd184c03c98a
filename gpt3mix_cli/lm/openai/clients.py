"""The openai SDK's clients of an endpoint, one per base URL, and the secrets that they hold.

Direct requests and batches use the same clients, so a provider sees one identity. What the SDK
reads from the environment applies to both: proxies, certificates, OPENAI_ORG_ID,
OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS. Retries are not left to the SDK: the dispatcher waits
longer than the SDK would. Answers stay raw, because typed ones cost more CPU time
(scripts/bench/endpoint.py) and drop fields that the protocol does not have.
"""

import asyncio
import json
import os
import re
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import UserError
from ...settings import OpenAISettings
from ...settings.lm import SECRET_HEADER

if TYPE_CHECKING:
    import httpx2
    import openai

KEEPALIVE_S = 4  # shorter than the servers' own limit (uvicorn: 5 s)
MAX_CONNECTIONS = 100_000  # no limit in practice: the pool of servers limits requests
MIN_SECRET = 4  # shorter keys are too common in text to be masked
MIN_LONG_SECRET = 8  # shorter keys may be part of words, so only whole words are masked
JSON_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


class Clients:
    """The clients of all base URLs of an endpoint. Its methods run in one event loop.

    Args:
        settings: of the endpoint.
        replay_only: whether nothing will be sent; then no key is needed.

    Raises:
        UserError: if the API key is missing or cannot be sent.
    """

    def __init__(self, settings: OpenAISettings, replay_only: bool = False) -> None:
        self._settings = settings
        self._key = "" if replay_only else _api_key(settings)
        secrets = [self._key, os.environ.get("AZURE_OPENAI_AD_TOKEN", ""), *_secret_headers()]
        self._masked = _secrets_pattern(secrets)
        # Servers that take any key are given plain words (`none`, `film`), which texts may hold.
        self._forbidden = [
            key for key in secrets if len(key) >= MIN_LONG_SECRET and not key.isalpha()
        ]
        self._http: httpx2.AsyncClient | None = None
        self._clients: dict[str, openai.AsyncOpenAI] = {}

    def get(self, url: str) -> "openai.AsyncOpenAI":
        """Return the client of a base URL.

        Raises:
            UserError: if the environment names a proxy that cannot be used.
        """
        if self._http is None:
            self._http = _http_client()
        if url not in self._clients:
            self._clients[url] = self._create(url, self._http)
        return self._clients[url]

    def _create(self, url: str, http: "httpx2.AsyncClient") -> "openai.AsyncOpenAI":
        import openai

        settings = self._settings
        options: dict[str, Any] = {
            "api_key": self._key or "none",
            "organization": settings.organization,
            "project": settings.project,
            "default_headers": settings.default_headers,
            "max_retries": 0,
            "http_client": http,
        }
        if not settings.api_version:
            return openai.AsyncOpenAI(base_url=url, **options)
        if "/deployments/" in url:
            options["base_url"] = url
        else:
            options |= {
                "azure_endpoint": url.removesuffix("/openai"),
                "azure_deployment": settings.model,
            }
        return openai.AsyncAzureOpenAI(api_version=settings.api_version, **options)

    async def post(self, url: str, path: str, body: Mapping[str, Any]) -> "httpx2.Response":
        """Return the answer of a server, whatever its status.

        Args:
            url: the base URL.
            path: below the base URL; with two slashes at the root of the server.
            body: the JSON body.

        Raises:
            TimeoutError: if it does not come within `lm.timeout`.
            ConnectionError: if there is none, with the reason.
            UserError: see `get`.
        """
        import aiohttp
        import httpx2
        import openai

        payload = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        content = payload.encode("utf-8", "surrogatepass")
        if path.startswith("//"):
            path = url.removesuffix("/v1") + path[1:]
        client = self.get(url)
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await client.post(path, cast_to=httpx2.Response, content=content)
        except openai.APIStatusError as error:
            return error.response
        except TimeoutError:
            raise
        except (
            openai.OpenAIError,
            httpx2.HTTPError,
            httpx2.InvalidURL,  # of a redirect
            aiohttp.ClientError,
            OSError,
        ) as error:
            cause = error.__cause__ or error
            raise ConnectionError(self.redact(str(cause) or type(cause).__name__)) from None
        except ValueError as error:
            raise UserError(
                f"lm {self._settings.model}: no request can be sent: {self.redact(str(error))}",
                "check the variables OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS",
            ) from None

    def redact(self, text: str) -> str:
        """Return a text to be shown, or an error to be stored, without the secrets.

        Answers are never changed: a key may be a common word, and what is stored must be what the
        server sent.
        """
        return self._masked.sub("<key>", text) if self._masked else text

    def holds_secret(self, text: str) -> bool:
        """Return whether an answer, as JSON, holds a secret, in whichever spelling."""
        decoded = JSON_ESCAPE.sub(_unescape, text) if self._forbidden else ""
        return any(key in decoded for key in self._forbidden)

    async def close(self) -> None:
        """Close all connections."""
        if self._http:
            await self._http.aclose()
        self._http = None
        self._clients.clear()


def _unescape(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else escape[0][1]


def _http_client() -> "httpx2.AsyncClient":
    import httpx2
    import openai

    # The aiohttp transport takes a third of the CPU time, but would speak HTTP to a SOCKS proxy.
    proxies = urllib.request.getproxies().items()
    socks = next((f"{scheme}_proxy" for scheme, url in proxies if url.startswith("socks")), "")
    create = openai.DefaultAsyncHttpxClient if socks else openai.DefaultAioHttpClient
    limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_S)
    try:
        # `post` limits the time of a whole request; limits in here apply to each of its parts.
        return create(timeout=None, limits=limits)
    except ImportError:
        raise UserError(
            f"the environment variable {socks} names a SOCKS proxy, which needs socksio",
            f"pip install socksio; or unset {socks}, if the server needs no proxy",
        ) from None
    except ValueError as error:
        raise UserError(
            f"the environment names a proxy that cannot be used: {error}",
            "correct http_proxy, https_proxy or all_proxy, such as http://proxy.example:3128",
        ) from None


def _api_key(settings: OpenAISettings) -> str:
    name = settings.api_key_env
    key = os.environ.get(name, "").strip()
    on_openai = any("api.openai.com" in url for url in settings.urls)
    if not key and (on_openai or settings.api_version):
        raise UserError(
            f"lm.api_key_env: the environment variable {name} is not set", f"export {name}=..."
        )
    if not re.fullmatch(r"[ -~]*", key):
        raise UserError(
            f"lm.api_key_env: the environment variable {name} holds a line end or another "
            "character that no key has",
            f"export {name} again with the key alone",
        )
    return key


def _secret_headers() -> list[str]:
    """Return the secrets in the headers that the SDK takes from the environment."""
    lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
    headers = [line.partition(":") for line in lines]
    # Without the scheme, such as `Bearer`.
    return [
        value.split()[-1]
        for name, _, value in headers
        if SECRET_HEADER.search(name) and value.strip()
    ]


def _secrets_pattern(secrets: list[str]) -> re.Pattern[str] | None:
    """Return a pattern of the secrets, also as JSON spells them; None if there are none."""
    patterns: list[str] = []
    for secret in secrets:
        if len(secret) >= MIN_SECRET:
            forms = {secret, json.dumps(secret)[1:-1], secret.replace("/", "\\/")}
            any_form = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
            is_long = len(secret) >= MIN_LONG_SECRET
            patterns.append(any_form if is_long else rf"(?<!\w)(?:{any_form})(?!\w)")
    return re.compile("|".join(patterns)) if patterns else None
