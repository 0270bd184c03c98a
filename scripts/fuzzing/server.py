"""A server whose answers are changed on their way, and waits that take no time."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .edits import ByteEdit, JsonEdit, edit_bytes, edit_json, to_json

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "lm"))
SPEED = 500  # of waits in an event loop
real_monotonic = time.monotonic


@contextlib.contextmanager
def changing_server(**options: Any) -> Iterator["ChangingServer"]:
    """Run a test server in a thread."""
    from endpoint_server import serving

    with serving(remember=False, **options) as server:
        yield ChangingServer(server)


class ChangingServer:
    """A test server; `changes` is applied to its next answers.

    Attributes:
        url: the base URL.
        changes: one item per answer: (status, edits).
    """

    def __init__(self, server: Any) -> None:
        self.options, self.url = server.options, server.base_url
        self.changes: list[tuple[int, Sequence[JsonEdit | ByteEdit]]] = []
        self._serve, server._served = server._served, self._served

    async def _served(self, *request: Any) -> Any:
        response = await self._serve(*request)
        if self.changes:
            status, edits = self.changes.pop(0)
            changes = [edit for edit in edits if isinstance(edit, JsonEdit)]
            data = response.body
            if changes:
                data = to_json(edit_json(json.loads(data), changes))
            data = edit_bytes(data, [edit for edit in edits if isinstance(edit, ByteEdit)])
            if data != response.body or status != 200:
                from aiohttp import web

                status = response.status if status == 200 else status
                return web.Response(body=data, status=status, content_type="application/json")
        return response


def speed_up_waits() -> None:
    """Make waits of event loops short, and let the clock show that they were long."""
    skipped = 0.0
    call_later = asyncio.BaseEventLoop.call_later

    def call_soon(self: Any, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        def run(*args: Any) -> None:
            nonlocal skipped
            skipped += delay * (1 - 1 / SPEED)
            callback(*args)

        if delay < 0.05:
            return call_later(self, delay, callback, *args, context=context)
        return call_later(self, delay / SPEED, run, *args, context=context)

    asyncio.BaseEventLoop.call_later = call_soon  # type: ignore[method-assign, assignment]
    asyncio.BaseEventLoop.time = lambda self: real_monotonic()  # type: ignore[method-assign]
    time.monotonic = lambda: real_monotonic() + skipped
