"""Faults on command: which requests they hit, and what the client then gets."""

import asyncio
import json
import random
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from endpoint_options import refused

QUOTA = "You exceeded your current quota, please check your plan and billing details."
STATUSES: dict[str, dict[str, Any]] = {
    "rate_limit": {
        "status": 429,
        "message": "Rate limit reached for requests",
        "code": "rate_limit_exceeded",
        "type": "requests",
    },
    "no_quota": {
        "status": 429,
        "message": QUOTA,
        "code": "insufficient_quota",
        "type": "insufficient_quota",
    },
    "no_credits": {"status": 402, "message": "Insufficient credits. Add more at the provider."},
    "server_error": {
        "status": 500,
        "message": "The server had an error while processing your request.",
        "type": "server_error",
    },
    "bad_gateway": {
        "status": 502,
        "html": "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>",
    },
    "overloaded": {
        "status": 503,
        "html": "<html><body><h1>503 Service Temporarily Unavailable</h1></body></html>",
    },
    "bad_request": {"status": 400, "message": "Invalid prompt.", "type": "invalid_request_error"},
    "bad_key": {
        "status": 401,
        "message": "Incorrect API key provided: {key}.",
        "code": "invalid_api_key",
        "type": "invalid_request_error",
    },
    "forbidden": {
        "status": 403,
        "message": "Country, region, or territory not supported",
        "code": "unsupported_country_region_territory",
    },
    "no_model": {
        "status": 404,
        "message": "The model `{model}` does not exist.",
        "code": "model_not_found",
        "type": "invalid_request_error",
    },
}
CUTS = {"reset", "reset_body", "half", "garbage", "no_choices", "hang", "delay"}


@dataclass
class Fault:
    """A fault.

    Attributes:
        kind: a name in STATUSES, or `status` with the fields given; reset (before the headers),
            reset_body (after them), half (a body shorter than its Content-Length), garbage (no
            JSON), no_choices, hang, delay (then the real answer).
        at: numbers of the requests that it hits, from 1.
        next: the number of next requests that it hits.
        p: probability; depends on the seed, the body and how often it came, not on the order.
        path: only requests to paths that contain this.
        contains: only requests whose body contains this.
        seconds: of a delay, or its bounds.
        retry_after: seconds in the Retry-After header.
        fraction: of the body that `half` sends.
    """

    kind: str
    at: Sequence[int] = ()
    next: int = 0
    p: float = 0.0
    seed: int = 0
    path: str = ""
    contains: str = ""
    seconds: float | Sequence[float] = 0.0
    retry_after: float | None = None
    fraction: float = 0.5
    status: int = 0
    message: str = ""
    code: str | None = None
    type: str = ""
    html: str = ""

    def __post_init__(self) -> None:
        if self.kind not in CUTS | STATUSES.keys() | {"status"}:
            raise ValueError(f"no fault is called {self.kind!r}")
        for name, value in STATUSES.get(self.kind, {}).items():
            setattr(self, name, getattr(self, name) or value)

    def hits(self, number: int, path: str, body: bytes, times: int) -> bool:
        """Return whether it hits a request, the `times`-th with this body; counts `next` down."""
        if self.path not in path or self.contains.encode() not in body:
            return False
        if self.next > 0:
            self.next -= 1
            return True
        return number in self.at or (
            self.p > 0
            and random.Random(f"{self.seed} {self.kind} {times} ".encode() + body).random() < self.p
        )


def seconds_of(seconds: float | Sequence[float]) -> float:
    """Return a delay, drawn at random if bounds are given."""
    return seconds if isinstance(seconds, int | float) else random.uniform(*seconds)


def answer_of(fault: Fault, dialect: str, model: str, key: str) -> web.Response:
    """Return the error answer of a fault."""
    headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
    if fault.html:
        return web.Response(
            status=fault.status, text=fault.html, content_type="text/html", headers=headers
        )
    message = (
        fault.message.format(key=key, model=model) if fault.kind in STATUSES else fault.message
    )
    return web.json_response(
        refused(dialect, fault.status, message, None, fault.code, fault.type).body,
        status=fault.status,
        headers=headers,
    )


async def cut(fault: Fault, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Send a broken answer, as the fault says."""
    text = json.dumps(body).encode()
    match fault.kind:
        case "hang":
            await asyncio.Event().wait()
        case "garbage":
            return web.Response(
                body=text[: len(text) // 2] + b"\x00 <upstream error>",
                content_type="application/json",
            )
        case "no_choices":
            return web.json_response(
                {name: value for name, value in body.items() if name not in {"choices", "answers"}}
            )
        case "reset":
            _reset(request)
            return web.Response()
    response = web.StreamResponse(
        headers={"Content-Length": str(len(text)), "Content-Type": "application/json"}
    )
    await response.prepare(request)
    sent = int(len(text) * fault.fraction) if fault.kind == "half" else 0
    await response.write(text[:sent])
    if fault.kind == "reset_body":
        _reset(request)
    elif request.transport is not None:
        request.transport.close()
    return response


def _reset(request: web.Request) -> None:
    if request.transport is None:
        return
    connection = request.transport.get_extra_info("socket")
    connection.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )  # closing it then sends a reset
    request.transport.abort()
