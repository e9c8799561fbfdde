"""Decides when a source that has ended is restarted. Pure: no thread, no clock, no source."""

from __future__ import annotations

from timbr_wamp.contract import SourceOptions

#: Restarts after an end are reported at most once in this time, seconds: a short list ends often.
REPORT_S = 1.0


class Restarts:
    """Counts the failures in a row and the restarts of one source. The thread that reads it."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        #: Restarts so far.
        self.count = 0
        self._failures = 0
        #: It gave a message since it was started or restarted.
        self.productive = False
        self._reported_at = float("-inf")

    @property
    def wanted(self) -> bool:
        """It is restarted after an end or a failure."""
        return self._options.restarts > 0 or self._options.on_exhausted == "restart"

    def note_message(self) -> None:
        """Note that a message was read, which resets the number of failures."""
        self.productive, self._failures = True, 0

    def after_failure(self) -> float | None:
        """Return the seconds until the restart; None: it failed too often."""
        self._failures += 1
        if self._failures > self._options.restarts:
            return None
        return min(self._options.backoff_s * 2.0 ** min(self._failures - 1, 64), self._options.backoff_max_s)

    def after_end(self) -> float | None:
        """Return the seconds until the restart; None: that was the end.

        After a run without messages there is a pause, so that an empty list does not keep a core busy.
        """
        if self._options.on_exhausted != "restart":
            return None
        return 0.0 if self.productive else self._options.backoff_s

    def note_restart(self, now: float, *, after_failure: bool) -> bool:
        """Note a restart; return whether to report it. ``now``: seconds of a clock that never goes back."""
        self.count += 1
        self.productive = False
        if not after_failure and now - self._reported_at < REPORT_S:
            return False
        self._reported_at = now
        return True
