"""`Tasks`: the background tasks of one object. The error of each is seen, and the object acts on it.

`asyncio.TaskGroup` ties its tasks to one ``async with`` block. An object that is opened and closed by
separate calls needs the same rules without the block: no task outlives `close`, and no error is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from timbr_wamp.errors import InternalError, TimbrError, TooManyTasks

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Most tasks of one object at a time.
LIMIT = 10_000


class Tasks:
    """A set of tasks that end together. The loop's own thread only.

    Args:
        on_error: called once with each error that a task raises, in the loop, after it was logged.
            It decides what the error means: to end the owner, or to begin again. It must not block.
        limit: most tasks at a time.
    """

    def __init__(self, on_error: Callable[[Exception], None], *, limit: int = LIMIT) -> None:
        self._on_error, self._limit = on_error, limit
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """Run a coroutine as a task. After `close` it is discarded: the task is cancelled before its first step.

        Raises:
            TooManyTasks: the limit is reached; the coroutine was not started.
        """
        if len(self._tasks) >= self._limit:
            work.close()
            raise TooManyTasks(name or "a task", self._limit)
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if self._closed:
            task.cancel()
        return task

    def cancel(self) -> None:
        """Cancel all tasks without waiting, for owners that close without ``await``."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Cancel all tasks and wait until they have ended. Idempotent. A task may close its own set."""
        self.cancel()
        others = self._tasks - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not isinstance(error, Exception):
            return  # KeyboardInterrupt and SystemExit end the loop by themselves
        logger.error("the task %s failed", task.get_name(), exc_info=error)
        self._on_error(error)


def as_timbr_error(where: str, error: Exception) -> TimbrError:
    """Return an unexpected error as one of our tree, which names its class."""
    if isinstance(error, TimbrError):
        return error
    internal = InternalError(where, f"{type(error).__name__}: {error}")
    internal.__cause__ = error
    return internal


async def first_of(*waits: Awaitable[object], timeout_s: float | None = None) -> None:
    """Wait until one is done, or ``timeout_s`` has passed. Coroutines are cancelled then; tasks and futures go on."""
    given = [(asyncio.ensure_future(wait), asyncio.isfuture(wait)) for wait in waits]
    try:
        await asyncio.wait([future for future, _ in given], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future, lasting in given:
            if not lasting:
                future.cancel()
