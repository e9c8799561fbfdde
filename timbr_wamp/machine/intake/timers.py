"""One thread for the whole process that looks at things when they are due, for who cannot look itself.

A source that blocks in its own code cannot notice that it has been silent for too long. The thread
lives only while something is watched.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from timbr_wamp.machine.forks import survive_forks

logger = logging.getLogger(__name__)

#: Looks, never blocking, and returns when to look again, in seconds; None: never again.
Look: TypeAlias = Callable[[], "float | None"]


class Timers:
    """Calls each `Look` when it is due. Any thread."""

    def __init__(self) -> None:
        self.after_fork_in_child()
        survive_forks(self)

    def after_fork_in_child(self) -> None:
        """Watch nothing: what was watched belongs to the parent, and so does the thread."""
        self._changed = threading.Condition()
        #: When each is due, on `time.monotonic`.
        self._due: dict[Look, float] = {}
        self._thread: threading.Thread | None = None

    def watch(self, look: Look, after_s: float) -> None:
        """Call ``look`` after so many seconds, and again as often as it says."""
        with self._changed:
            self._due[look] = time.monotonic() + after_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="timbr watcher", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def forget(self, look: Look) -> None:
        """Call it no more; a call under way goes on."""
        with self._changed:
            self._due.pop(look, None)
            self._changed.notify_all()

    def _run(self) -> None:
        while (look := self._next()) is not None:
            try:
                again_s = look()
            except Exception:
                logger.exception("looking at %r failed; it is not watched any more", look)
                again_s = None
            with self._changed:
                if again_s is None:
                    self._due.pop(look, None)
                elif look in self._due:
                    self._due[look] = time.monotonic() + again_s

    def _next(self) -> Look | None:
        """Wait for what is due next; None, and the thread is to end, when nothing is watched."""
        with self._changed:
            while self._due:
                look = min(self._due, key=self._due.__getitem__)
                left_s = self._due[look] - time.monotonic()
                if left_s <= 0:
                    return look
                self._changed.wait(left_s)
            self._thread = None
            return None


#: The process's own.
TIMERS = Timers()
