"""An asyncio event loop in its own thread, so that requests go on while answers are processed."""

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

DRAIN_TIMEOUT_S = 30.0  # for requests in flight once no more are sent
MAX_STARTED = 1024  # items that are started before the first result is taken
CHUNK_SIZE = 8  # items that start together; more would delay answers that arrive meanwhile
Item = TypeVar("Item")
Result = TypeVar("Result")


class BackgroundLoop:
    """An event loop whose thread starts when it is first needed.

    Args:
        on_close: is awaited before the loop is closed.
    """

    def __init__(self, on_close: Callable[[], Awaitable[None]]) -> None:
        self._on_close = on_close
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def submit(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Start a coroutine in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._start())

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="endpoint", daemon=True
                )
                self._thread.start()
            return self._loop

    def map_ordered(
        self, work: Callable[[Item], Coroutine[Any, Any, Result]], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Yield the result for each item, in their order, with up to `MAX_STARTED` in progress.

        Closing the iterator cancels the items in progress. If the work raises StoppedShort, those
        in progress may finish first, because they are paid.
        """
        tasks = _OrderedTasks(work)
        items = iter(items)
        started = taken = 0
        try:
            while True:
                size = min(CHUNK_SIZE, MAX_STARTED - (started - taken))
                chunk = list(itertools.islice(items, size))
                if chunk:
                    self._start().call_soon_threadsafe(tasks.start, started, chunk)
                    started += len(chunk)
                while taken < started and (
                    started - taken > MAX_STARTED - CHUNK_SIZE
                    or len(chunk) < CHUNK_SIZE
                    or tasks.is_done(taken)
                ):
                    yield tasks.take(taken)
                    taken += 1
                if not chunk and taken == started:
                    return
        except StoppedShort:
            tasks.wait(DRAIN_TIMEOUT_S)
            raise
        finally:
            if started > taken:
                self._start().call_soon_threadsafe(tasks.cancel)

    def close(self) -> None:
        """End the loop and its thread."""
        if self._loop is None or self._thread is None:
            return

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._on_close()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = None


class _OrderedTasks(Generic[Item, Result]):
    """Tasks that start in the loop in chunks and whose results are taken in order elsewhere.

    `start` and `cancel` run in the loop, `wait`, `is_done` and `take` in the other thread. The two
    synchronise rarely: once per chunk, and when the awaited result arrives.
    """

    def __init__(self, work: Callable[[Item], Coroutine[Any, Any, Result]]) -> None:
        self._work = work
        self._tasks: deque[asyncio.Task[Result]] = deque()
        self._done: dict[int, asyncio.Task[Result]] = {}
        self._awaited, self._arrived = -1, threading.Event()

    def start(self, first: int, items: Sequence[Item]) -> None:
        for index, item in enumerate(items, first):
            task = asyncio.ensure_future(self._work(item))
            self._tasks.append(task)
            task.add_done_callback(functools.partial(self._on_done, index))
        while self._tasks and self._tasks[0].done():
            self._tasks.popleft()

    def _on_done(self, index: int, task: "asyncio.Task[Result]") -> None:
        if not task.cancelled():
            task.exception()  # marks it as retrieved: after the first error no result is taken
        self._done[index] = task
        if index == self._awaited:
            self._arrived.set()

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while any(not task.done() for task in tuple(self._tasks)) and time.monotonic() < deadline:
            time.sleep(0.01)

    def is_done(self, index: int) -> bool:
        return index in self._done

    def take(self, index: int) -> Result:
        while index not in self._done:
            self._awaited = index
            if index not in self._done:  # it may have finished in between
                self._arrived.wait()
                self._arrived.clear()
        return self._done.pop(index).result()
