"""`FailureLog`: failures of foreign code other than slots, counted, logged and passed to the event handler.

All failures of hooks, callbacks, sinks, sources and event handlers are reported here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

from timbr_wamp.machine.forks import short_lock
from timbr_wamp.machine.tracebacks import traceback_text

logger = logging.getLogger(__name__)

#: Kinds of foreign code whose failures go to the event handler, see `BaseEventHandler.raises`.
RaisedIn: TypeAlias = Literal["slot", "source", "hook", "sink"]

#: A part that fails repeatedly is logged at most once in this time, seconds.
LOG_INTERVAL_S = 1.0
#: Most failing parts that are logged separately; `FailureLog.count` counts all.
FAILING_KEPT = 1_000


class _Failing:
    """How often one part failed, and when that was logged."""

    __slots__ = ("count", "logged_at", "unlogged")

    def __init__(self) -> None:
        self.count, self.unlogged, self.logged_at = 0, 0, -LOG_INTERVAL_S


class FailureLog:
    """Failures of one machine's foreign code. Any thread."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        #: Failures so far.
        self.count = 0
        #: Called ``(kind, part, error)`` in the thread of the failure; the machine sets it, to ask the event handler.
        self.on_report: Callable[[RaisedIn, str, BaseException], None] | None = None
        self._monotonic = monotonic
        self._lock = short_lock()
        self._failing: dict[str, _Failing] = {}

    def report(self, part: str, error: BaseException, kind: RaisedIn | None = None) -> None:
        """Count a failure, log it at most once a second for each ``part``, and pass it to the event handler.

        ``part`` says what failed: ``hook look at pre_put``. Without ``kind`` it is not passed on: the handler
        itself may have failed.
        """
        with self._lock:
            self.count += 1
            failing = self._failing_of(part)
            failing.count += 1
            now = self._monotonic()
            due = now - failing.logged_at >= LOG_INTERVAL_S
            count, unlogged = failing.count, failing.unlogged
            failing.logged_at, failing.unlogged = (now, 0) if due else (failing.logged_at, unlogged + 1)
        if due:  # as text: logging would call the error's own code, which may raise anything
            trace = traceback_text(error)
            logger.error("%s failed, %d times so far, %d of them unlogged\n%s", part, count, unlogged, trace)
        if kind is not None and self.on_report is not None:
            self.on_report(kind, part, error)

    def _failing_of(self, part: str) -> _Failing:
        if part not in self._failing and len(self._failing) >= FAILING_KEPT:
            self._failing.pop(next(iter(self._failing)))
        return self._failing.setdefault(part, _Failing())
