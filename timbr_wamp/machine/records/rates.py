"""Records per second over the last 1, 10 and 60 s, from samples of one counter."""

from __future__ import annotations

from collections import deque

from timbr_wamp.machine.forks import short_lock

#: Least distance of kept points, seconds.
RESOLUTION_S = 0.25
SPANS_S = (1.0, 10.0, 60.0)


class Rates:
    """Rates of a growing count, which is noted whenever it grows. Any thread."""

    def __init__(self, now: float, count: int = 0) -> None:
        self._lock = short_lock()
        self._points: deque[tuple[float, int]] = deque([(now, count)])
        #: The newest note; most notes do not become points.
        self._newest = (now, count)

    def note(self, now: float, count: int) -> None:
        """Remember that the count was ``count`` at ``now``."""
        last, before = self._points[-1]
        self._newest = (now, count)
        if 0.0 <= now - last < RESOLUTION_S:
            return
        with self._lock:
            if now < last:  # the clock was set back: earlier points are no longer comparable
                self._points.clear()
                self._points.append((now, before))
            if now - last > 2 * RESOLUTION_S:  # the count did not change until now
                self._points.append((now - RESOLUTION_S, before))
            self._points.append((now, count))
            while len(self._points) > 2 and self._points[1][0] < now - SPANS_S[-1]:
                self._points.popleft()

    def rates(self, now: float, count: int) -> tuple[float, float, float]:
        """Return counts per second over the last 1, 10 and 60 s, or as far back as is known."""
        with self._lock:
            return (self._rate(now, count, 1.0), self._rate(now, count, 10.0), self._rate(now, count, 60.0))

    def _rate(self, now: float, count: int, span_s: float) -> float:
        start, first = self._points[0]
        for time, value in (self._newest, *reversed(self._points)):
            if time <= now - span_s:
                # A point far before the span was followed by silence: the count is its own when the span begins.
                start, first = max(time, now - span_s - 2 * RESOLUTION_S), value
                break
        elapsed = now - start
        return (count - first) / elapsed if elapsed > 0 else 0.0
