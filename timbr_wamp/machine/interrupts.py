"""Ctrl-C in the main thread: kept back while the machine's state changes, let through while users' code runs.

Python runs a signal's handler in the main thread between any two bytecodes, so a `KeyboardInterrupt` may leave
a lock held, a count half changed or a message lost. So the handler is replaced during such a change: the interrupt is
noted, and passed to the previous handler when the change is complete. Other threads never get the signal; for them
everything here does nothing.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: Interval at which a wait in the main thread checks for Ctrl-C, seconds.
INTERRUPT_CHECK_S: Final = 0.05

_MAIN: Final = threading.main_thread()


class _Deferral:
    """Whether interrupts are kept back now. Used by the main thread only."""

    def __init__(self) -> None:
        self.depth = 0
        #: The arguments of the handler for the interrupt that was kept back.
        self.noted: tuple[int, FrameType | None] | None = None
        #: The previous handler.
        self.handler: Callable[[int, FrameType | None], Any] | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Stand in as the handler: keep the interrupt back."""
        self.noted = (number, frame)

    def deliver(self) -> None:
        """Pass an interrupt that was kept back to the previous handler, which usually raises KeyboardInterrupt."""
        noted, self.noted = self.noted, None
        if noted is not None and self.handler is not None:
            self.handler(*noted)


_deferral = _Deferral()


class deferred:
    """Keep Ctrl-C back within the block, and deliver it at its end. May be nested; the outermost block counts.

    Waits within the block use `wait_for`, users' code runs within `delivered`.
    """

    __slots__ = ("_depth",)

    def __enter__(self) -> None:
        self._depth: int | None = None
        if threading.current_thread() is not _MAIN:
            return
        depth = _deferral.depth
        if not depth:
            present = signal.getsignal(signal.SIGINT)
            if not callable(present):  # ignored, or it ends the process at once: nothing can be raised
                return
            _deferral.handler, _deferral.noted = present, None
            signal.signal(signal.SIGINT, _deferral.note)  # from here on nothing is raised
        self._depth, _deferral.depth = depth, depth + 1

    def __exit__(self, *exc: object) -> None:
        if self._depth is None:
            return
        _deferral.depth = self._depth  # not one less: an interrupt in `delivered` may have left another value
        if not self._depth:
            signal.signal(signal.SIGINT, _deferral.handler)
            _deferral.deliver()


class delivered:
    """Let Ctrl-C through within the block, inside a `deferred` one: users' code runs here and may be interrupted."""

    __slots__ = ("_depth",)

    def __enter__(self) -> None:
        self._depth = _deferral.depth if threading.current_thread() is _MAIN else 0
        if self._depth:
            signal.signal(signal.SIGINT, _deferral.handler)
            _deferral.depth = 0
            try:
                _deferral.deliver()
            except BaseException:
                self.__exit__()
                raise

    def __exit__(self, *exc: object) -> None:
        if self._depth:
            _deferral.depth = self._depth
            signal.signal(signal.SIGINT, _deferral.note)


def noted() -> bool:
    """Tell whether an interrupt is kept back now."""
    return _deferral.noted is not None and _deferral.depth > 0 and threading.current_thread() is _MAIN


def whole(function: Callable[P, T]) -> Callable[P, T]:
    """Return ``function`` with Ctrl-C kept back until it has returned or raised."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with deferred():
            return function(*args, **kwargs)

    return run


def wait_for(condition: threading.Condition, predicate: Callable[[], bool], timeout_s: float | None) -> bool:
    """Wait like `Condition.wait_for`, with its lock held; return early when an interrupt was kept back."""
    if not _deferral.depth or threading.current_thread() is not _MAIN:
        return condition.wait_for(predicate, timeout_s)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while not predicate():
        left_s = INTERRUPT_CHECK_S if deadline is None else min(deadline - time.monotonic(), INTERRUPT_CHECK_S)
        if left_s <= 0 or _deferral.noted is not None:
            return predicate()
        condition.wait(left_s)
    return True
