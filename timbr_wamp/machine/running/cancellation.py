"""Cancelling one call of a machine: what runs for it ends where it can be ended, and nothing more is started for it.

The thread that performs a call has its `Cancellation` as a context variable. Whoever waits in that thread for
something that can be ended (a coroutine, a slot in its own thread, a child process) says how, with `ending`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from timbr_wamp.errors import CallCancelled


class Cancellation:
    """Whether a call was cancelled. Any thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.RLock()
        self._cancelled = threading.Event()
        self._ends: list[Callable[[], object]] = []

    @property
    def cancelled(self) -> bool:
        """`cancel` was called."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Cancel the call: end what can be ended. Idempotent, never blocks, never raises."""
        with self._lock:
            self._cancelled.set()
            ends, self._ends = self._ends, []
            for end in ends:  # with the lock, so that none is called after its block
                with suppress(Exception):
                    end()

    def check(self) -> None:
        """Raise CallCancelled if the call was cancelled."""
        if self.cancelled:
            raise CallCancelled(self._name)

    def sleep(self, seconds: float) -> None:
        """Sleep, but not longer than until it is cancelled."""
        self._cancelled.wait(seconds)

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Call ``end`` if the call is cancelled within the block: at once, in the thread that cancels it.

        It must not block.

        Raises:
            CallCancelled: it was cancelled before.
        """
        with self._lock:
            self.check()
            self._ends.append(end)
        try:
            yield
        finally:
            with self._lock, suppress(ValueError):
                self._ends.remove(end)


class _Never(Cancellation):
    """Of whatever nobody can cancel: messages from the queue, calls in the user's own thread."""

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        yield

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


NEVER = _Never("")
_current: ContextVar[Cancellation] = ContextVar("timbr_cancellation", default=NEVER)


def current() -> Cancellation:
    """Return the cancellation of the call that this thread performs; `NEVER` if it performs none."""
    return _current.get()


@contextmanager
def performing(cancellation: Cancellation) -> Iterator[None]:
    """Perform a call in the block, in this thread."""
    token = _current.set(cancellation)
    try:
        yield
    finally:
        _current.reset(token)
