"""Stored capabilities: what earlier versions stored is used, what is unreadable is probed again."""

import dataclasses
import json
from pathlib import Path

import pytest
from endpoint_lm import build_requests, engine
from endpoint_server import Server, serving

from gpt3mix_cli.lm import Journal, JournaledLM
from gpt3mix_cli.lm.openai.requests import Capabilities, parse_capabilities
from gpt3mix_cli.lm.openai.session import capabilities_key

EARLIER = {
    "api": "completions",
    "labels": "ids",
    "top": 20,
    "limit": "max_completion_tokens",
    "refused": ["seed", "top_k"],
    "many": True,
    "plain": True,
    "raw": False,
}
UNREADABLE = [
    "",
    "half a",
    "[1, 2]",
    "null",
    '{"surprise": 1}',
    '{"refused": 5}',
    '{"api": "telepathy"}',
    '{"top": "many"}',
]


def probes_with(server: Server, path: Path, stored: str) -> int:
    """Return the requests of a probe, where a journal holds this for the capabilities."""
    with engine(server, endpoint="e") as lm:
        key = capabilities_key(lm.info.fingerprint)
        journal = Journal(path)
        journal.store([(key, None, "{}", stored)])
        journal.close()
        journaled = JournaledLM(lm, path)
        list(journaled.complete(build_requests(3)))
        journaled.close()
    return sum((body.get("max_tokens") or 99) == 1 for body in server.bodies("/v1/completions"))


def test_names_of_an_earlier_version_are_read() -> None:
    assert parse_capabilities(json.dumps(EARLIER)) == Capabilities(
        api="completions",
        label_method="ids",
        top_logprobs=20,
        max_tokens_field="max_completion_tokens",
        refused_fields=("seed", "top_k"),
        supports_n=True,
        neutral_sampling=True,
        raw_logprobs=False,
    )


def test_what_is_stored_is_read_again() -> None:
    capabilities = Capabilities(api="chat", label_method="vote", refused_fields=("seed",))
    assert parse_capabilities(json.dumps(dataclasses.asdict(capabilities))) == capabilities


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_is_unreadable_is_absent(text: str) -> None:
    assert parse_capabilities(text) is None


def test_a_run_uses_capabilities_of_an_earlier_version(tmp_path: Path) -> None:
    stored = {**EARLIER, "limit": "max_tokens", "refused": [], "raw": True}
    with serving() as server:
        assert probes_with(server, tmp_path / "a.sqlite", json.dumps(stored)) == 0


@pytest.mark.parametrize("text", UNREADABLE)
def test_a_run_probes_again_and_replaces_what_is_unreadable(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with serving() as server:
        assert probes_with(server, path, text) > 3
        server.reset()
        with engine(server, endpoint="e") as lm:
            journaled = JournaledLM(lm, path)
            list(journaled.complete(build_requests(3)))
            journaled.close()
        assert server.requests == 0
