"""Read an async iterator, in an event loop of the reading thread."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, cast

from timbr_wamp.machine.protocols import EndOfSource

logger = logging.getLogger(__name__)

#: Time limit of the source's ``aclose``, and of the tasks that it left behind, seconds.
CLOSE_LIMIT_S = 2.0


class AsyncReader:
    """Read an async iterator. `read` and `close`: one thread; `interrupt`: any.

    A read is interrupted by cancelling it, so that the source's ``finally`` runs; if it ignores
    that, by stopping the loop. Either way the loop's descriptors are closed.
    """

    def __init__(self, iterator: AsyncIterator[object]) -> None:
        self.iterator = iterator
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None
        #: The source's context: variables that it sets keep their values for its next message.
        self._context = contextvars.copy_context()
        #: How often a read was interrupted: 1 means cancelled, more that the loop was stopped.
        self._interrupts = 0

    def read(self) -> Sequence[object]:
        """Return the next message.

        Raises:
            EndOfSource: no message will ever follow, or it was interrupted.
        """
        if self._interrupted():
            raise EndOfSource
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop.set_exception_handler(_log)
        self._task = task = self._loop.create_task(_next(self.iterator), context=self._context)
        if self._interrupted():  # a moment ago, when the other thread did not see the task yet
            task.cancel()
        try:
            return (self._loop.run_until_complete(task),)
        except StopAsyncIteration:
            raise EndOfSource from None
        except (asyncio.CancelledError, RuntimeError):  # RuntimeError: the loop was stopped
            if not self._interrupted() or (task.done() and not task.cancelled() and task.exception() is not None):
                raise  # the source's own
            raise EndOfSource from None

    def _interrupted(self) -> bool:
        return self._interrupts > 0

    def interrupt(self, times: int) -> bool:
        """Cancel the read, the second time stop the loop."""
        self._interrupts = times + 1
        task = self._task
        if task is not None:
            loop = task.get_loop()
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(task.cancel if times == 0 else loop.stop)
        return times < 2

    def close(self) -> None:
        """Close the iterator, end the tasks that it left, and close the loop.

        Raises:
            BaseException: what the iterator's ``aclose`` raises.
        """
        loop = self._loop
        if loop is None:
            return
        try:
            if self._interrupts < 2:
                loop.run_until_complete(self._finish(loop))
        finally:
            for task in asyncio.all_tasks(loop):
                _end(task)
            loop.close()

    async def _finish(self, loop: asyncio.AbstractEventLoop) -> None:
        closing: asyncio.Task[Any] | None = None
        if hasattr(type(self.iterator), "aclose"):
            closing = await _bounded(loop, _close(self.iterator))
        left = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CLOSE_LIMIT_S)
        await _bounded(loop, loop.shutdown_asyncgens())
        if closing is not None and closing.done() and not closing.cancelled():
            closing.result()


async def _next(iterator: AsyncIterator[object]) -> object:
    return await anext(iterator)


async def _close(iterator: Any) -> None:
    await iterator.aclose()


async def _bounded(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    task = loop.create_task(coroutine)
    await asyncio.wait({task}, timeout=CLOSE_LIMIT_S)
    return task


def _end(task: asyncio.Task[Any]) -> None:
    """End the coroutine of a task that no loop will run any more."""
    try:
        cast(Coroutine[Any, Any, Any], task.get_coro()).close()
    except BaseException as error:  # it ignores its end
        logger.warning("a task of an async source ignored its end", exc_info=error)


def _log(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    logger.warning(
        "in the event loop of an async source: %s", context.get("message"), exc_info=context.get("exception")
    )
