"""Waiting for another thread, safe under interrupts: a replacement for `threading.Condition`.

A signal handler may raise between any two bytecodes of the main thread. `threading.Condition` is
Python code: an interrupt in its ``wait`` can let it return without its lock, one in its
``__exit__`` can leave it locked. Here each waiter waits on its own lock, without holding the one that guards
the state, and is removed from the list and released in one call into C. A wake-up that an interrupt
suppresses delays a waiter by at most `WAKE_LIMIT_S`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from _thread import LockType
from collections import deque
from collections.abc import Callable
from itertools import islice
from operator import methodcaller
from typing import Protocol, TypeAlias

#: A waiter looks at the state at least this often, seconds: an interrupted thread may not have woken it.
WAKE_LIMIT_S = 0.5


class Releasable(Protocol):
    """A lock, held by the thread that waits on it; or something else that is told once. It must not block or raise."""

    def release(self) -> None:
        """Wake the waiter."""


#: Released to wake those who wait.
Waiters: TypeAlias = "deque[Releasable]"

_release: Callable[[Releasable], None] = methodcaller("release")


def add_waiter(waiters: Waiters) -> LockType:
    """Return a lock for `wait`. Call it with the state's lock held, after checking the state."""
    waiter = threading.Lock()
    waiter.acquire()
    waiters.append(waiter)
    return waiter


def wait(waiters: Waiters, waiter: LockType, timeout_s: float) -> None:
    """Wait until ``waiters`` are woken, at most ``timeout_s`` and `WAKE_LIMIT_S`. Call it without the state's lock."""
    if not waiter.acquire(True, max(min(timeout_s, WAKE_LIMIT_S), 0.0)):
        with contextlib.suppress(ValueError, IndexError):  # woken meanwhile; an entry left in the list is harmless
            waiters.remove(waiter)


def wake_all(waiters: Waiters) -> None:
    """Wake all waiters and remove them, each in one call into C."""
    any(map(_release, islice(iter(waiters.popleft, None), len(waiters))))


def deadline_after(timeout_s: float | None) -> float | None:
    """Return the `time.monotonic` at which ``timeout_s`` is over; None: never."""
    return None if timeout_s is None else time.monotonic() + timeout_s


def left_s(deadline: float | None) -> float:
    """Return the seconds left until a deadline, below 0 when it is over; infinity without one."""
    return float("inf") if deadline is None else deadline - time.monotonic()


class Monitor:
    """A lock, and waiting for changes of what it guards.

    Use ``with monitor.lock:`` around each read and each change, and `notify` after a change. The lock is reentrant.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._waiters: Waiters = deque()

    def notify(self) -> None:
        """Make all waiters check again. With or without the lock."""
        wake_all(self._waiters)

    def wait_for(self, true: Callable[[], object], timeout_s: float | None = None) -> bool:
        """Wait, without the lock, until ``true()`` holds; return whether it does. ``true`` is called with the lock."""
        deadline = deadline_after(timeout_s)
        while True:
            with self.lock:
                if true():
                    return True
                if left_s(deadline) <= 0:
                    return False
                waiter = add_waiter(self._waiters)
            wait(self._waiters, waiter, left_s(deadline))
