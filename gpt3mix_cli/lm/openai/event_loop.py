"""An event loop in a thread of its own, so that requests go on while their answers are being read."""

import asyncio
import functools
import itertools
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from ...errors import StoppedShort

LAST = 30.0  # seconds that the last answers may take once no more are asked for
UNDER_WAY = 1024  # items that are begun before the first of them is given out
TOGETHER = 8  # items that are begun by one call: more would hold up the answers that come meanwhile
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
        return asyncio.run_coroutine_threadsafe(work, self._started())

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="endpoint", daemon=True
            )
            self._thread.start()
        return self._loop

    def in_order(
        self, items: Iterable[Item], work: Callable[[Item], Coroutine[Any, Any, Result]]
    ) -> Iterator[Result]:
        """Yield what comes of each item, in their order; a thousand of them are under way.

        Whoever goes away early ends them; where the work itself stops short those that were sent may end, since they are paid.
        """
        order = _Order(work)
        items = iter(items)
        begun = given = 0
        try:
            while True:
                together = list(itertools.islice(items, min(TOGETHER, UNDER_WAY - (begun - given))))
                if together:
                    self._started().call_soon_threadsafe(order.begin, together)
                    begun += len(together)
                while given < begun and (
                    begun - given > UNDER_WAY - TOGETHER
                    or len(together) < TOGETHER
                    or order.has(given)
                ):
                    yield order.take(given)
                    given += 1
                if not together and given == begun:
                    return
        except StoppedShort:
            order.wait(LAST)
            raise
        finally:
            if begun > given:
                self._started().call_soon_threadsafe(order.cancel)

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


class _Order(Generic[Item, Result]):
    """Work that is begun together in the loop and taken from it in order.

    The two threads meet as seldom as they can: one call for many items, and a word back only when the one that is waited
    for has come.
    """

    def __init__(self, work: Callable[[Item], Coroutine[Any, Any, Result]]) -> None:
        self._work = work
        self._tasks: deque[asyncio.Task[Result]] = deque()
        self._ended: dict[int, asyncio.Task[Result]] = {}
        self._awaited = -1
        self._came = threading.Event()
        self._begun = 0

    def begin(self, items: Sequence[Item]) -> None:
        """In the loop: begin the work of each item."""
        for item in items:
            task = asyncio.ensure_future(self._work(item))
            self._tasks.append(task)
            task.add_done_callback(functools.partial(self._end, self._begun))
            self._begun += 1
        while self._tasks and self._tasks[0].done():
            self._tasks.popleft()

    def _end(self, number: int, task: "asyncio.Task[Result]") -> None:
        if not task.cancelled():
            task.exception()  # looked at: after the first error nobody takes the others
        self._ended[number] = task
        if number == self._awaited:
            self._came.set()

    def wait(self, seconds: float) -> None:
        """In the reader's thread: wait until all that was begun has ended."""
        until = time.monotonic() + seconds
        while any(not task.done() for task in tuple(self._tasks)) and time.monotonic() < until:
            time.sleep(0.01)

    def cancel(self) -> None:
        """In the loop: end what is still under way."""
        for task in self._tasks:
            task.cancel()

    def has(self, number: int) -> bool:
        """In the reader's thread: return whether an item's work has ended."""
        return number in self._ended

    def take(self, number: int) -> Result:
        """In the reader's thread: wait for an item's work and return what came of it."""
        while number not in self._ended:
            self._awaited = number
            if number not in self._ended:  # it may have ended in between
                self._came.wait()
                self._came.clear()
        return self._ended.pop(number).result()
