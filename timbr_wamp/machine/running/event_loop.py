"""The machine's event loop: where ``async def`` slots, prep and teardown are awaited, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from timbr_wamp.errors import CalledFromLoop, LoopClosed
from timbr_wamp.machine.protocols import PlanStep
from timbr_wamp.machine.running.compiled_pass import limited

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: `EventLoop.close` waits this long for what runs in the loop to end.
END_S = 2.0


class EventLoop:
    """An event loop in a daemon thread, begun when it is first needed. Any thread but its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def begun(self) -> bool:
        """Somebody needed it."""
        return self._loop is not None

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Future[T] | Any:
        """Begin to run a coroutine; return a `concurrent.futures.Future`.

        Raises:
            LoopClosed: the loop was ended.
        """
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._begin())
        except BaseException:
            coroutine.close()
            raise

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for what it gives, as long as it takes.

        Raises:
            CalledFromLoop: the loop's own thread would wait for itself.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise CalledFromLoop("a call of the machine")
        result: T = self.submit(coroutine).result()
        return result

    def call_step(self, step: PlanStep, arguments: Sequence[Any]) -> Any:
        """Call and await one step's function, within its time limit."""
        return self.run(called(step, arguments))

    def soon(self, function: Callable[[], object]) -> None:
        """Call ``function`` in the loop's thread, if there is one."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it was closed meanwhile
                loop.call_soon_threadsafe(function)

    def _begin(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise LoopClosed("the machine's event loop")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name="timbr loop", daemon=True)
                self._thread.start()
            return self._loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=END_S / 2))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def close(self) -> None:
        """End the loop: what is under way in it is cancelled. Idempotent, bounded."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None or not thread.is_alive():
            return
        self.soon(loop.stop)
        if thread is not threading.current_thread():
            thread.join(END_S)
            if thread.is_alive():
                logger.warning("a slot holds up the machine's event loop; its thread ends with it")


async def called(step: PlanStep, arguments: Sequence[Any]) -> Any:
    """Call one step's function and await what is to be awaited, within its time limit."""
    value = step.function(*arguments)
    if not step.is_async:
        return value
    if step.policy.timeout_s is None:
        return await value
    return await limited(value, step.policy.timeout_s, step.slot.task)
