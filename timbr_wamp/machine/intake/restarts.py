"""When a source that has ended is begun again. Decides only: no thread, no clock, no source."""

from __future__ import annotations

from timbr_wamp.contract import SourceOptions

#: That a source is read in a circle is told at most so often, seconds: a short list has many ends.
CIRCLE_TOLD_S = 1.0


class Restarts:
    """Counts the failures in a row and the new begins of one source. The thread that reads it."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        #: How often it was begun again.
        self.number = 0
        self._failures = 0
        #: It gave something since it was begun.
        self.given = False
        self._told_at = float("-inf")

    @property
    def wanted(self) -> bool:
        """It is to be begun again, after an end or a failure."""
        return self._options.restarts > 0 or self._options.on_exhausted == "restart"

    def gave(self) -> None:
        """Note that a message was read: what failed before is forgiven."""
        self.given, self._failures = True, 0

    def after_failure(self) -> float | None:
        """Return after how many seconds it is begun again; None: it failed too often."""
        self._failures += 1
        if self._failures > self._options.restarts:
            return None
        return min(self._options.backoff_s * 2.0 ** min(self._failures - 1, 64), self._options.backoff_max_s)

    def after_end(self) -> float | None:
        """Return after how many seconds it is begun again; None: it is at its end.

        One that gave nothing is left alone for a while, so that an empty list does not spin.
        """
        if self._options.on_exhausted != "restart":
            return None
        return 0.0 if self.given else self._options.backoff_s

    def begun(self, now: float, *, after_failure: bool) -> bool:
        """Note that it was begun again; return whether to tell so. ``now``: seconds of a clock that never goes back."""
        self.number += 1
        self.given = False
        if not after_failure and now - self._told_at < CIRCLE_TOLD_S:
            return False
        self._told_at = now
        return True
