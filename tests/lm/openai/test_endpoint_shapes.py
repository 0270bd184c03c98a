"""The test server's answers have every field of the reference answers."""

import json
from pathlib import Path
from typing import Any

import pytest
from endpoint_options import Options
from endpoint_server import Server
from openai.types import Completion, Decision
from openai.types.chat import ChatCompletion

# What llama.cpp's server said is replayed against that server itself, in test_llama_server.
SHAPES = sorted(
    path
    for path in (Path(__file__).parent / "shapes").glob("*.json")
    if not path.name.startswith("llamacpp-")
)
SHAPE_KEYS = {"source", "rung", "server", "path", "request", "response", "lines"}


@pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.stem)
def test_the_server_gives_the_reference_shape(path: Path) -> None:
    shape = json.loads(path.read_text(encoding="utf-8"))
    assert shape["source"]
    assert SHAPE_KEYS >= shape.keys() >= {"source", "rung"}
    if "request" not in shape:
        return
    server = Server(Options(**shape["server"]))
    answer = server.endpoints()[shape["path"]](shape["request"])
    assert outline(answer) >= outline(shape["response"]), (
        f"missing: {outline(shape['response']) - outline(answer)}"
    )
    sdk_type = {
        "/v1/completions": Completion,
        "/v1/chat/completions": ChatCompletion,
        "/v1/decisions": Decision,
    }[shape["path"]]
    for given in (shape["response"], answer):
        assert sdk_type.model_validate(_without_nulls(given))


def _without_nulls(value: Any) -> Any:
    """Return a JSON value without nulls, which servers send where the SDK's types need numbers."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return (
        [_without_nulls(inner) for inner in value if inner is not None]
        if isinstance(value, list)
        else value
    )


def outline(value: Any, path: str = "") -> set[str]:
    """Return the paths of all keys in a JSON value, with their types; token keys count as one."""
    match value:
        case dict():
            free = path.endswith(("top_logprobs[]", "prompt_logprobs[]"))
            return {path}.union(
                *(outline(inner, f"{path}.{'*' if free else key}") for key, inner in value.items())
            )
        case list():
            return {path}.union(*(outline(inner, f"{path}[]") for inner in value))
        case None:
            return {path}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {path, f"{path}: {'number' if is_number else type(value).__name__}"}
