"""Waiting for what nothing announces: the one place where tests look again and again. Every wait has a limit.

What announces itself (an event, a reply, a process's end) is waited for directly, not here.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

#: How long a test waits; only a failure takes so long.
WAIT_LIMIT_S = 20.0
#: Pause between two looks.
LOOK_INTERVAL_S = 0.005

#: Python text of a cell that runs until it is interrupted, and uses no processor meanwhile.
BUSY_CELL = "import threading\nthreading.Event().wait()"


class _Limit:
    def __init__(self, what: str, timeout_s: float) -> None:
        self._what, self._timeout_s = what, timeout_s
        self._deadline = time.monotonic() + timeout_s

    def check(self, error: Exception | None = None) -> None:
        if time.monotonic() >= self._deadline:
            raise AssertionError(f"not within {self._timeout_s:g} s: {self._what}") from error


def wait_until(
    look: Callable[[], T],
    what: str = "the condition",
    timeout_s: float = WAIT_LIMIT_S,
    *,
    not_yet: tuple[type[Exception], ...] = (),
) -> T:
    """Return what ``look()`` gives as soon as that is true; an error of ``not_yet`` counts as false."""
    limit = _Limit(what, timeout_s)
    while True:
        error = None
        try:
            if found := look():
                return found
        except not_yet as raised:
            error = raised
        limit.check(error)
        time.sleep(LOOK_INTERVAL_S)


async def until(
    look: Callable[[], T] | Callable[[], Awaitable[T]],
    what: str = "the condition",
    timeout_s: float = WAIT_LIMIT_S,
    *,
    not_yet: tuple[type[Exception], ...] = (),
) -> T:
    """Do as `wait_until` in an event loop, which runs meanwhile; ``look`` may be a coroutine function."""
    limit = _Limit(what, timeout_s)
    while True:
        error = None
        try:
            found: Any = look()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found  # type: ignore[no-any-return]
        except not_yet as raised:
            error = raised
        limit.check(error)
        await asyncio.sleep(LOOK_INTERVAL_S)
