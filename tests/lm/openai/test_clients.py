"""What the openai SDK's clients send, where they send it, and what is kept secret."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web
from endpoint_lm import engine
from endpoint_server import serving
from pydantic import ValidationError

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.lm.openai.clients import Clients
from gpt3mix_cli.settings import OpenAISettings

KEY = "sk-test-Zq8/w+Yh3x_9-secret"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("all_proxy", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def clients(**settings: Any) -> Clients:
    return Clients(OpenAISettings(kind="openai", model="m", **settings))


def send(base_url: str = "", **settings: Any) -> list[web.Request]:
    """Send one request to a server of this process; return what it received.

    Without a `base_url` that is its own one; otherwise it is the proxy in `{proxy}`.
    """
    received: list[web.BaseRequest] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        await request.read()
        received.append(request)
        return web.json_response({})

    async def run() -> None:
        server = web.Server(handle)
        runner = web.ServerRunner(server)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.pop("environment", {}).items():
                patch.setenv(name, value.format(server=f"{host}:{port}"))
            url = base_url.format(server=f"{host}:{port}") or f"http://{host}:{port}/v1"
            own = clients(base_url=url, timeout=5, **settings)
            try:
                response = await own.post(url, "/completions", {"prompt": "é", "n": 1})
                assert response.status_code == 200
            finally:
                await own.close()
                await runner.cleanup()

    asyncio.run(run())
    return received  # type: ignore[return-value]


# Identity --------------------------------------------------------------------------------------


def test_keys_of_the_config_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    [request] = send(
        api_key_env="MY_KEY",
        organization="org-a",
        project="proj_b",
        default_headers={"X-Title": "a title"},
    )
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["OpenAI-Organization"] == "org-a"
    assert request.headers["OpenAI-Project"] == "proj_b"
    assert request.headers["X-Title"] == "a title"
    assert request.headers["Content-Type"] == "application/json"
    assert request._read_bytes == '{"prompt":"é","n":1}'.encode()


def test_what_the_sdk_reads_from_the_environment_is_sent() -> None:
    environment = {
        "OPENAI_ORG_ID": "org-x",
        "OPENAI_PROJECT_ID": "proj_y",
        "OPENAI_CUSTOM_HEADERS": "X-Title: a\nX-Other: b",
    }
    [request] = send(environment=environment)
    assert request.headers["OpenAI-Organization"] == "org-x"
    assert request.headers["OpenAI-Project"] == "proj_y"
    assert (request.headers["X-Title"], request.headers["X-Other"]) == ("a", "b")


@pytest.mark.parametrize("base_url", ["http://{server}", "http://{server}/openai"])
def test_azure_is_asked_as_azure_wants_it(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    [request] = send(base_url, api_version="2024-10-21")
    assert request.path_qs == "/openai/deployments/m/completions?api-version=2024-10-21"
    assert request.headers["api-key"] == KEY
    [request] = send("http://{server}/openai/deployments/other", api_version="v")
    assert request.path_qs == "/openai/deployments/other/completions?api-version=v"


def test_batches_and_requests_have_the_same_client() -> None:
    with serving(dialect="openai") as server, engine(server) as lm:
        lm.describe()
        dispatcher = lm._dispatcher
        assert dispatcher.client is dispatcher._clients.get(server.base_url)


# Proxies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment",
    [
        {"http_proxy": "http://{server}"},
        {"http_proxy": "{server}"},
        {"all_proxy": "http://{server}"},
        {"http_proxy": "http://{server}", "no_proxy": "other.invalid:9,127.0.0.0/8"},
    ],
    ids=lambda environment: " ".join(environment),
)
def test_a_proxy_of_the_environment_is_used(environment: dict[str, str]) -> None:
    [request] = send("http://server.invalid:8000/v1", environment=environment)
    assert request.headers["Host"] == "server.invalid:8000"


@pytest.mark.parametrize("exempt", ["127.0.0.1:{port}", "127.0.0.0/8", "127.0.0.1", "*"])
def test_a_server_that_is_exempt_from_the_proxy_is_asked_directly(exempt: str) -> None:
    exempt = exempt.replace("127.0.0.1:{port}", "{server}")
    [request] = send(environment={"http_proxy": "http://127.0.0.1:9", "no_proxy": exempt})
    assert request.path == "/v1/completions"


@pytest.mark.parametrize(
    ("proxy", "words"),
    [("socks5://127.0.0.1:9", "all_proxy names a SOCKS proxy"), ("ftp://a:9", "Unknown scheme")],
)
def test_a_proxy_that_cannot_be_used_is_named(proxy: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        send(environment={"all_proxy": proxy})


# Secrets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["sk-a\r\nX: y", "sk-a\x00b", "sk-a\u2019b", "sk-\u00e9"])
def test_a_key_that_no_header_can_hold_is_refused(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", {"OPENAI_API_KEY": key})
    with pytest.raises(UserError, match="OPENAI_API_KEY holds a line end") as error:
        clients(base_url="http://localhost/v1")
    assert "sk-" not in str(error.value)


@contextmanager
def secrets(monkeypatch: pytest.MonkeyPatch, key: str, headers: str = "") -> Iterator[Clients]:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", headers)
    yield clients(base_url="http://localhost/v1")


def test_secrets_are_masked_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    header = "X-Title: shown\ncf-aig-authorization: Bearer other-secret"
    with secrets(monkeypatch, KEY, header) as own:
        escaped = KEY.replace("/", "\\/")
        text = own.redact(f"a{KEY}b {escaped} other-secret shown")
        assert text == "a<key>b <key> <key> shown"
    with secrets(monkeypatch, "film") as own:
        assert own.redact("bad key film (films)") == "bad key <key> (films)"
    with secrets(monkeypatch, "no") as own:
        assert own.redact("no key") == "no key"


def test_a_key_is_found_in_answers_in_any_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    with secrets(monkeypatch, KEY) as own:
        spelled = "".join(f"\\u{ord(character):04x}" for character in KEY)
        assert own.holds_secret(f'{{"text": "a {spelled} b"}}')
        assert own.holds_secret(KEY.replace("/", "\\/"))
        assert not own.holds_secret(KEY[:-1])
    for word in ("film", "token", "placeholder"):
        with secrets(monkeypatch, word) as own:
            assert not own.holds_secret(f"a {word} b")


def test_answers_are_stored_as_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local server takes any key, and its texts may hold that word."""
    monkeypatch.setenv("OPENAI_API_KEY", "choices")
    with serving() as server, engine(server) as lm:
        assert "completions" in lm.describe()


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Authorization": "Bearer x"}, "OPENAI_CUSTOM_HEADERS='Authorization: ...'"),
        ({"x-api-key": "x"}, "may hold a secret"),
        ({"X Title": "x"}, "no name of a header"),
        ({"X-Title": "a\nb"}, "has a line end"),
        ({"Content-Length": "3"}, "is written by the HTTP client"),
    ],
)
def test_headers_of_the_config_are_checked(headers: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        clients(default_headers=headers)
