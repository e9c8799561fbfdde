"""Threads for the slots: a bounded pool of daemon threads, and calls that are abandoned after a time limit.

`concurrent.futures.ThreadPoolExecutor` joins its threads when the interpreter exits, however long a
slot takes; these threads never delay the exit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from timbr_wamp.errors import SlotTimeout
from timbr_wamp.machine.forks import survive_forks
from timbr_wamp.machine.interrupts import deferred
from timbr_wamp.machine.running.cancellation import current

T = TypeVar("T")
P = ParamSpec("P")

#: `DaemonPool.close` waits this long for running calls, seconds.
END_S = 1.0
#: Abandoned calls that may still run; at this number further calls wait for one to end, within their time.
ABANDONED_LIMIT = 16


class DaemonPool(Executor):
    """At most ``max_workers`` daemon threads, started when needed, ended by `close`. Any thread.

    What is submitted runs in a copy of the submitter's context (`contextvars`).
    """

    def __init__(self, max_workers: int, name: str) -> None:
        self._max_workers, self._name = max_workers, name
        self._closed = False
        self.after_fork_in_child()
        survive_forks(self)

    def after_fork_in_child(self) -> None:
        """Forget the threads, which are the parent's."""
        self._lock = threading.RLock()
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``fn`` in a thread of the pool; after `close` in this one, so that messages under way can finish."""
        future: Future[T] = Future()
        context = copy_context()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = context.run(fn, *args, **kwargs)
            except BaseException as error:  # raised by the future
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._lock:
            closed = self._closed
            if not closed:
                self._start_thread()
                self._queue.put(run)
        if closed:
            run()
        return future

    def _start_thread(self) -> None:
        if self._idle.acquire(blocking=False) or len(self._threads) >= self._max_workers:
            return
        thread = threading.Thread(target=self._work, name=f"{self._name} {len(self._threads)}", daemon=True)
        with deferred():  # a Ctrl-C here would leave a thread that `close` does not know
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads; the present ones will run it
                if not self._threads:
                    raise
                return
            self._threads.append(thread)

    def _work(self) -> None:
        queue, idle = self._queue, self._idle
        while (run := queue.get()) is not None:
            run()
            del run  # else it would keep the last message alive
            if self._queue is not queue:
                return  # a slot forked and came back: this is the child, whose pool has no thread yet
            idle.release()

    def close(self, timeout_s: float = END_S) -> None:
        """End the threads after their present calls; the first call of this waits ``timeout_s`` for them."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for _ in self._threads:
                self._queue.put(None)
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(deadline - time.monotonic(), 0.0))


class TimeLimiter:
    """Calls with a time limit. Any thread.

    Python functions cannot be ended from outside, so each runs in its own thread, which is abandoned
    when the time is over. While `ABANDONED_LIMIT` abandoned ones still run, a call waits for one to
    end, within its own time, and is not started if none does.
    """

    def __init__(self) -> None:
        self.after_fork_in_child()
        survive_forks(self)

    def after_fork_in_child(self) -> None:
        """Forget the calls, which run in the parent."""
        self._changed = threading.Condition()
        #: Abandoned calls that still run.
        self.abandoned = 0

    def call(self, function: Callable[[], T], timeout_s: float | None, task: str) -> T:
        """Return the result of ``function`` within ``timeout_s``; None: of one that may be cancelled, in its own time.

        Raises:
            SlotTimeout: it took longer, or could not start in that time.
            CallCancelled: the call that this thread performs was cancelled.
        """
        with current().ending(self._wake):
            return self._call(function, float("inf") if timeout_s is None else timeout_s, task)

    def _wake(self) -> None:
        """Make the waiting calls look whether they were cancelled."""
        with self._changed:  # nobody waits or calls foreign code while holding it
            self._changed.notify_all()

    def _call(self, function: Callable[[], T], timeout_s: float, task: str) -> T:
        cancellation = current()
        deadline = time.monotonic() + timeout_s
        with self._changed:
            if not self._wait(lambda: self.abandoned < ABANDONED_LIMIT or cancellation.cancelled, deadline):
                raise SlotTimeout(task, timeout_s)
            cancellation.check()
        call = _Limited(partial(copy_context().run, function))
        threading.Thread(target=self._run, args=(call,), name=f"timbr {task}", daemon=True).start()
        with self._changed:
            try:
                in_time = self._wait(lambda: call.done or cancellation.cancelled, deadline)
            finally:  # the user's Ctrl-C abandons it too
                call.abandoned = not call.done
                self.abandoned += call.abandoned
        if not in_time:
            raise SlotTimeout(task, timeout_s)
        if not call.done:
            cancellation.check()
        if call.error is not None:
            raise call.error
        result: T = call.value
        return result

    def _wait(self, true: Callable[[], bool], deadline: float) -> bool:
        left_s = None if deadline == float("inf") else max(deadline - time.monotonic(), 0.0)
        return self._changed.wait_for(true, left_s)

    def _run(self, call: _Limited) -> None:
        try:
            call.value = call.function()
        except BaseException as error:  # raised in the waiting call
            call.error = error
        with self._changed:
            call.done = True
            self.abandoned -= call.abandoned
            self._changed.notify_all()


class _Limited:
    """One call with a time limit."""

    __slots__ = ("abandoned", "done", "error", "function", "value")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = self.abandoned = False
