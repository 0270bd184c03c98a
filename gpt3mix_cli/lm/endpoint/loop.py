"""An event loop in a thread of its own, so that requests go on while their answers are being read."""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from ...errors import StoppedShort

UNDER_WAY = 1024  # items that are begun before the first of them is given out
LAST = 30.0  # seconds that the last answers may take once no more are asked for
Item = TypeVar("Item")
Result = TypeVar("Result")


class Loop:
    """The loop; its thread starts when it is first needed."""

    def __init__(self, at_end: Callable[[], Awaitable[None]]) -> None:
        """Start nothing yet; `at_end` is awaited before the loop is closed."""
        self._at_end = at_end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def submit(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Begin some work."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def in_order(self, items: Iterable[Item], work: Callable[[Item], Coroutine[Any, Any, Result]]) -> Iterator[Result]:
        """Yield what comes of each item, in their order; a thousand of them are under way.

        Whoever goes away early ends them; where the work itself stops short those that were sent may end, since they are paid.
        """
        begun: deque[Future[Result]] = deque()
        try:
            for item in items:
                begun.append(self.submit(work(item)))
                while begun and (len(begun) >= UNDER_WAY or begun[0].done()):
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        except StoppedShort:
            wait(begun, LAST)
            raise
        finally:
            for future in begun:
                future.cancel()

    def close(self) -> None:
        """End the loop and its thread."""
        if self._loop is None or self._thread is None:
            return

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._at_end()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = None
