"""The machine's event loop, in its own thread: ``async def`` slots, prep and teardown are awaited there.

Whatever a coroutine raises is raised in the call that waits for it. In asyncio `SystemExit` and `KeyboardInterrupt`
of a task end the loop (https://docs.python.org/3/library/asyncio-task.html); here they are outcomes like any other,
and a loop that a slot stops is run again. When the loop is closed, pending calls get `LoopClosed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any, TypeVar

from timbr_wamp.errors import CalledFromLoop, LoopClosed, SlotTimeout
from timbr_wamp.machine.forks import short_lock, survive_forks
from timbr_wamp.machine.interrupts import deferred
from timbr_wamp.machine.protocols import PlanStep
from timbr_wamp.machine.running.cancellation import current
from timbr_wamp.machine.running.careful_pass import CallOutcome

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: `EventLoop.close` waits this long for what runs in the loop to end.
END_S = 2.0
NAME = "the machine's event loop"

#: Loops that a forked child has from its parent. Closed or collected here, they would take the parent's descriptors out
#: of the epoll instance that both processes share.
_of_parents: list[asyncio.AbstractEventLoop] = []


class EventLoop:
    """An event loop in a daemon thread, started when it is first needed. Any thread but its own."""

    def __init__(self) -> None:
        self._lock = short_lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        #: Futures of pending calls. Under the lock.
        self._waited_for: set[Future[Any]] = set()
        #: Running tasks; asyncio itself does not keep them alive. The loop's thread.
        self._tasks: set[asyncio.Task[Any]] = set()
        survive_forks(self)

    def after_fork_in_child(self) -> None:
        """Forget the loop, which runs in the parent; the child starts its own when it needs one."""
        if self._loop is not None:
            _of_parents.append(self._loop)
            if threading.current_thread() is self._thread:
                self._loop.stop()  # a slot forked: once it has come back, this thread ends
        self._loop = self._thread = None
        self._waited_for, self._tasks = set(), set()

    @property
    def started(self) -> bool:
        """Whether it was started."""
        return self._loop is not None

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run a coroutine and wait for its result; without ``timeout_s`` without limit.

        Raises:
            TimeoutError: it took longer, and was cancelled.
            CancelledError: the call that this thread performs was cancelled.
            CalledFromLoop: the loop's own thread would wait for itself.
            LoopClosed: the loop is closed, or was while the coroutine ran.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise CalledFromLoop("a call of the machine")
        future: Future[T] = Future()
        tasks: list[asyncio.Task[None]] = []

        def begin() -> None:
            task = self.create_task(_settle(coroutine, future))
            task.add_done_callback(
                lambda _: coroutine.close()
            )  # a task cancelled before its first step never awaits it
            tasks.append(task)

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        try:
            with self._lock:
                self._waited_for.add(future)
            with current().ending(lambda: self.soon(cancel)):
                self.start(begin)
                return future.result(timeout_s)
        except BaseException:
            if not tasks:  # it never started
                coroutine.close()
            raise
        finally:
            with self._lock:
                self._waited_for.discard(future)
            if not future.done():  # the user's Ctrl-C ended the wait
                self.soon(cancel)

    def call_step(self, step: PlanStep, arguments: Sequence[Any]) -> Any:
        """Call and await one step's function, within its time limit."""
        value, error = self.run(outcome_of(step, arguments))
        if error is not None:
            raise error
        return value

    def start(self, function: Callable[[], object]) -> None:
        """Call ``function`` in the loop's thread, which is started if necessary.

        Raises:
            LoopClosed: the loop is closed.
        """
        with deferred(), self._lock:  # a Ctrl-C here would leave a thread whose loop nobody knows
            if self._closed:
                raise LoopClosed(NAME)
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=self._run, args=(loop,), name="timbr loop", daemon=True)
                try:
                    thread.start()
                except BaseException:  # no more threads: the next call tries again
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
            self._loop.call_soon_threadsafe(function)

    def create_task(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine that raises nothing as a task, kept alive until its end. The loop's thread only."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def soon(self, function: Callable[[], object]) -> None:
        """Call ``function`` in the loop's thread, if the loop was started."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it was closed meanwhile
                loop.call_soon_threadsafe(function)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        process = os.getpid()
        try:
            while not self._closed and os.getpid() == process:
                try:
                    loop.run_forever()  # returns early when a slot calls loop.stop()
                except BaseException:  # of a task that a slot started
                    logger.exception("a task in the machine's event loop raised what would end a process")
            if os.getpid() == process:
                with contextlib.suppress(BaseException):
                    self._cancel_tasks(loop)
        finally:
            if os.getpid() == process:
                loop.close()
                self._fail_waiting()

    @staticmethod
    def _cancel_tasks(loop: asyncio.AbstractEventLoop) -> None:
        deadline = loop.time() + END_S / 2
        while (tasks := asyncio.all_tasks(loop)) and (left_s := deadline - loop.time()) > 0:
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks, timeout=left_s))
        loop.run_until_complete(loop.shutdown_asyncgens())

    def _fail_waiting(self) -> None:
        """Make all pending calls raise `LoopClosed`."""
        with self._lock:
            waited_for, self._waited_for = self._waited_for, set()
        for future in waited_for:
            with contextlib.suppress(InvalidStateError):
                future.set_exception(LoopClosed(NAME))

    @property
    def closed(self) -> bool:
        """`close` was called."""
        return self._closed

    def close(self) -> None:
        """End the loop and cancel its tasks. Idempotent, bounded."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None or not thread.is_alive():
            return
        self.soon(loop.stop)
        if thread is not threading.current_thread():
            thread.join(END_S)
            if thread.is_alive():
                logger.warning("a slot blocks the machine's event loop; its thread ends with it")
                self._fail_waiting()


async def _settle(coroutine: Coroutine[Any, Any, T], future: Future[T]) -> None:
    try:
        value = await coroutine
    except BaseException as error:  # raised in the waiting call
        with contextlib.suppress(InvalidStateError, CancelledError):
            future.set_exception(error)
    else:
        with contextlib.suppress(InvalidStateError, CancelledError):
            future.set_result(value)


async def outcome_of(step: PlanStep, arguments: Sequence[Any]) -> CallOutcome:
    """Call an async step's function and await its result, within its time limit; return value or error.

    An outcome, not an exception: Python turns a StopIteration that leaves a coroutine into a RuntimeError.
    """
    try:
        if step.policy.timeout_s is None:
            return await step.function(*arguments), None
        return await _limited(step.function(*arguments), step.policy.timeout_s, step.slot.task), None
    except BaseException as error:  # whatever a slot raises is the message's outcome
        return None, error


async def _limited(awaitable: Any, timeout_s: float, task: str) -> Any:
    """Await for at most ``timeout_s``, then cancel.

    Raises:
        SlotTimeout: it took longer.
    """
    try:
        async with asyncio.timeout(timeout_s) as limit:
            return await awaitable
    except TimeoutError:
        if limit.expired():
            raise SlotTimeout(task, timeout_s) from None
        raise  # the slot's own
