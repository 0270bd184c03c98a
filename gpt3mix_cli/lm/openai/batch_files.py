"""The files of a provider's batches: one call per line going in, one answer per line coming out."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from .requests import Call
from .responses import InvalidResponse, parse_texts

MAX_LINES, MAX_BYTES = 50_000, 200_000_000  # the provider's limits of one file

KeyedCall = tuple[str, Call, bytes]


def split_into_files(
    calls: Iterable[tuple[str, Call]], max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES
) -> Iterator[list[KeyedCall]]:
    """Yield the keys, calls and lines of files within the limits; a key is a line's custom id."""
    file: list[KeyedCall] = []
    size = 0
    for key, call in calls:
        request = {
            "custom_id": key,
            "method": "POST",
            "url": f"/v1{call.path}",
            "body": call.body,
        }
        line = json.dumps(request).encode() + b"\n"
        if file and (len(file) == max_lines or size + len(line) > max_bytes):
            yield file
            file, size = [], 0
        file.append((key, call, line))
        size += len(line)
    if file:
        yield file


def parse_output_line(line: str, endpoint: str) -> tuple[str, dict[str, Any]] | None:
    """Return the custom id and the answer in a line of an output file; None if it has no answer."""
    try:
        value = json.loads(line)
        answer = value["response"]["body"]
        if value["response"]["status_code"] != 200 or not isinstance(answer, dict):
            return None
        parse_texts(answer, "chat" if "chat" in endpoint else "completions")
        return str(value["custom_id"]), answer
    except (ValueError, KeyError, TypeError, InvalidResponse):
        return None


def prompt_text(call: Call) -> str:
    """Return the text that a call sends as its prompt."""
    messages = call.body.get("messages")
    if not messages:
        return str(call.body["prompt"])
    return "\n".join(message["content"] for message in messages)


def max_completion_tokens(call: Call) -> int:
    """Return the most tokens that the answer to a call can have."""
    limit: int = call.body.get("max_completion_tokens") or call.body.get("max_tokens") or 0
    return limit * int(call.body.get("n") or 1)
