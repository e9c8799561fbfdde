"""One thread for the whole process that calls functions when they are due.

It notices sources that block in their own code beyond their idle timeout. The thread lives only while
functions are registered.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from timbr_wamp.machine.forks import survive_forks
from timbr_wamp.machine.waiting import Monitor

logger = logging.getLogger(__name__)

#: Checks something without blocking, and returns the seconds until the next call; None: no further call.
Look: TypeAlias = Callable[[], "float | None"]


class Timers:
    """Calls each `Look` when it is due. Any thread."""

    def __init__(self) -> None:
        self.after_fork_in_child()
        survive_forks(self)

    def after_fork_in_child(self) -> None:
        """Start empty: registered functions and the thread belong to the parent."""
        self._monitor = Monitor()
        #: When each function is due, on `time.monotonic`.
        self._due: dict[Look, float] = {}
        self._thread: threading.Thread | None = None

    def watch(self, look: Look, after_s: float) -> None:
        """Call ``look`` after ``after_s`` seconds, and again as it says."""
        with self._monitor.lock:
            self._due[look] = time.monotonic() + after_s
            start = self._thread is None
        if start:  # of two threads that are started, one returns at once
            threading.Thread(target=self._run, name="timbr watcher", daemon=True).start()
        self._monitor.notify()

    def forget(self, look: Look) -> None:
        """Do not call it any more; a call that has started is completed."""
        with self._monitor.lock:
            self._due.pop(look, None)
        self._monitor.notify()

    def _run(self) -> None:
        with self._monitor.lock:
            if self._thread is not None:
                return
            self._thread = threading.current_thread()
        while (look := self._next()) is not None:
            try:
                again_s = look()
            except Exception:
                logger.exception("%r failed; it is not called again", look)
                again_s = None
            with self._monitor.lock:
                if again_s is None:
                    self._due.pop(look, None)
                elif look in self._due:
                    self._due[look] = time.monotonic() + again_s

    def _next(self) -> Look | None:
        """Wait until a function is due and return it; None when none is registered, and the thread must end."""
        while True:
            with self._monitor.lock:
                if not self._due:
                    self._thread = None
                    return None
                look = min(self._due, key=self._due.__getitem__)
                due = self._due[look]
            left_s = due - time.monotonic()
            if left_s <= 0:
                return look
            self._monitor.wait_for(lambda: self._first() != (look, due), left_s)  # noqa: B023

    def _first(self) -> tuple[Look, float] | None:
        return min(self._due.items(), key=lambda item: item[1], default=None)


#: The instance of this process.
TIMERS = Timers()
