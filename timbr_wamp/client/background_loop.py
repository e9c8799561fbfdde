"""The asyncio loop, in a daemon thread, that all clients of a process share.

It starts with the first client and ends when the last one is closed or the process exits. Its
thread prints nothing, because a notebook would show the output under the wrong cell.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from timbr_wamp.errors import CalledFromLoop, CallTimeout, ForkedClient, LoopClosed

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Timeout for cancelled tasks when the loop ends, in seconds.
END_TIMEOUT_S = 5.0


class _Caller:
    """Who waits for a coroutine. Only the loop's thread looks at it, so that a caller may leave at any moment."""

    def __init__(self) -> None:
        self._gone = False
        self._task: asyncio.Task[object] | None = None

    async def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run the coroutine, unless the caller has left."""
        if self._gone:
            raise asyncio.CancelledError
        self._task = asyncio.current_task()
        return await function(*args)

    def leave(self) -> None:
        """Cancel the coroutine, begun or not."""
        self._gone = True
        if self._task is not None:
            self._task.cancel()


class BackgroundLoop:
    """An asyncio loop in a daemon thread. Created by `acquire_loop`."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._closed = False
        self._users = 0
        self._thread = threading.Thread(target=self._run, name="timbr-wamp-client", daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., Awaitable[T]], *args: object, timeout_s: float | None) -> T:
        """Run a coroutine function in the loop's thread and return its result. Blocks.

        Any thread but the loop's own, where it would deadlock. ``timeout_s=None`` means no timeout.
        An interrupt (Ctrl-C) cancels the coroutine.

        Raises:
            CalledFromLoop: called from the loop's own thread.
            CallTimeout: no result within ``timeout_s`` seconds; the coroutine was cancelled.
            LoopClosed: the loop was closed before the coroutine finished.
            ForkedClient: this process is a forked child of the one that created the loop.
        """
        if self.is_here():
            raise CalledFromLoop(_name(function))
        caller = _Caller()
        try:
            return self.result(self._start(caller, function, *args), _name(function), timeout_s)
        except Exception:
            raise
        except BaseException:  # Ctrl-C, perhaps before the future was at hand
            with contextlib.suppress(RuntimeError):  # the loop was closed, and has cancelled it
                self._loop.call_soon_threadsafe(caller.leave)
            raise

    def result(self, future: concurrent.futures.Future[T], what: str, timeout_s: float | None) -> T:
        """Wait for the result of a future from `submit`; errors as for `call`."""
        try:
            return future.result(None if timeout_s is None else min(timeout_s, threading.TIMEOUT_MAX))
        except concurrent.futures.CancelledError:
            raise LoopClosed(what) from None
        except TimeoutError:
            if future.done():  # the coroutine's own error
                raise
            future.cancel()
            raise CallTimeout(what, timeout_s or 0.0) from None
        except KeyboardInterrupt:
            future.cancel()
            raise

    async def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run a coroutine function in the loop's thread; awaitable in any loop, including this one.

        Raises:
            LoopClosed: the loop was closed.
            ForkedClient: see `call`.
        """
        if self.is_here():
            return await function(*args)
        future = self.submit(function, *args)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if self._closed:
                raise LoopClosed(_name(function)) from None
            raise

    def submit(self, function: Callable[..., Awaitable[T]], *args: object) -> concurrent.futures.Future[T]:
        """Start a coroutine function in the loop's thread; return a future. Any thread.

        Raises:
            LoopClosed: the loop was closed.
            ForkedClient: see `call`.
        """
        return self._start(_Caller(), function, *args)

    def _start(
        self, caller: _Caller, function: Callable[..., Awaitable[T]], *args: object
    ) -> concurrent.futures.Future[T]:
        self.check()
        if self._closed:
            raise LoopClosed(_name(function))
        coroutine = caller.run(function, *args)
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop was closed meanwhile
            coroutine.close()
            raise LoopClosed(_name(function)) from None

    def is_here(self) -> bool:
        """Return whether the calling thread is the loop's own."""
        return threading.get_ident() == self._thread.ident

    def check(self) -> None:
        """Raise `ForkedClient` in a forked child of the process that created the loop: it has no such thread."""
        if os.getpid() != self._pid:
            raise ForkedClient(self._pid, os.getpid())

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._end())
            self._loop.close()

    async def _end(self) -> None:
        """Cancel all tasks and wait for them, because asyncio complains on stderr about a task that is dropped."""
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=END_TIMEOUT_S)
            if late:
                logger.warning("%d tasks did not end in %.0f s", len(late), END_TIMEOUT_S)
        await self._loop.shutdown_asyncgens()

    def _stop(self) -> None:
        """Stop loop and thread; wait for the thread unless called from it."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        if not self.is_here():
            self._thread.join(END_TIMEOUT_S + 1.0)


class _Shared:
    """The process's loop and its lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.loop: BackgroundLoop | None = None
        self.exit_registered = False


_shared = _Shared()
os.register_at_fork(after_in_child=lambda: _shared.__init__())  # type: ignore[misc]


def acquire_loop() -> BackgroundLoop:
    """Return the process's loop, started if necessary. Each call needs one `release_loop`. Any thread."""
    with _shared.lock:
        if _shared.loop is None:
            _shared.loop = BackgroundLoop()
        if not _shared.exit_registered:
            _shared.exit_registered = True
            atexit.register(_stop_at_exit)
        _shared.loop._users += 1
        return _shared.loop


def release_loop(loop: BackgroundLoop) -> None:
    """Release ``loop``; it stops when its last user releases it. Any thread."""
    with _shared.lock:
        loop._users -= 1
        last = loop._users == 0
        if last and _shared.loop is loop:
            _shared.loop = None
    if last:
        loop._stop()


def _stop_at_exit() -> None:
    with _shared.lock:
        loop, _shared.loop = _shared.loop, None
    if loop is not None:
        loop._stop()


def _name(function: Callable[..., Any]) -> str:
    function = getattr(function, "func", function)  # of a partial
    return str(getattr(function, "__qualname__", function))
