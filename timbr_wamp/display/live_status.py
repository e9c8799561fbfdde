"""`LiveStatus`: asks for a status again and again, and draws its card where it changed.

It decides when to ask, when to draw and when it is over; a `Screen` draws. Nothing here prints.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from timbr_wamp.contract import MachineStateName, Status
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.faces.tables import machine_html, machine_text
from timbr_wamp.tables import moment, shown

logger = logging.getLogger(__name__)

#: States in which a machine processes nothing until somebody starts it.
RESTING: frozenset[MachineStateName] = frozenset({"idle", "stopped", "failed"})
#: A resting machine is asked no oftener than this.
REST_INTERVAL_S = 1.0
#: So many failures to get a status, one after the other, end the card.
MISSES = 20
#: `LiveStatus.stop` waits so long for a question under way.
STOP_S = 2.0


class Screen(Protocol):
    """Where a card is drawn. Called by one thread at a time."""

    def draw(self, html: str, text: str) -> None:
        """Show the card in place of the one before it, as HTML or as text."""


class LiveStatus:
    """A status card that follows a machine until it is over.

    It ends when ``ended()`` is true, after ``duration_s`` seconds, when no status can be had any
    more, when its screen is gone, or by `stop`. The last card says that it is no longer updated.

    Args:
        status: asked from the thread that draws; what it raises counts as a miss.
        interval_s: seconds between two questions.
        duration_s: follow so long; None: until one of the other ends.
        ended: there will never be news again, since the machine was closed.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        status: Callable[[], Status],
        screen: Screen,
        *,
        interval_s: float = 0.5,
        duration_s: float | None = None,
        ended: Callable[[], bool] = bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not interval_s > 0:
            raise InvalidArgument("interval_s", "more than 0 seconds")
        self._ask, self._screen, self._interval_s, self._ended = status, screen, interval_s, ended
        self._clock = clock
        self._until = None if duration_s is None else clock() + duration_s
        self._stopped, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._last: Status | None = None
        self._misses = 0

    def __repr__(self) -> str:
        return f"<LiveStatus, {'updating' if self.running else 'no longer updated'}>"

    def _ipython_display_(self) -> None:
        """Show nothing as a cell's result: the card stands there already."""

    @property
    def running(self) -> bool:
        """The card is still updated."""
        return not self._over.is_set()

    def show(self, status: Status) -> None:
        """Draw a first status, in the caller's thread. What the screen raises comes out."""
        self._screen.draw(machine_html(status), machine_text(status))
        self._last = status

    def start(self) -> None:
        """Follow in a daemon thread of its own. Once."""
        self._thread = threading.Thread(target=self.follow, name="timbr-live-status", daemon=True)
        self._thread.start()

    def follow(self, *, until_rest: bool = False) -> None:
        """Follow in this thread until it is over; with ``until_rest`` also until the machine rests."""
        try:
            while self._pause(until_rest) and self._step():
                pass
        finally:
            self._finish(note=not until_rest)

    def stop(self) -> None:
        """Stop following. Idempotent; any thread; waits at most `STOP_S` for a question under way."""
        self._stopped.set()
        if self._thread is None:
            self._over.set()
        elif self._thread is not threading.current_thread():
            self._thread.join(STOP_S)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the card is no longer updated; False at the timeout."""
        return self._over.wait(timeout_s)

    def _pause(self, until_rest: bool) -> bool:
        """Wait until it is time to ask; False when it is over."""
        if self._last is None:
            return not self._stopped.is_set()
        resting = self._last.state in RESTING
        if resting and until_rest:
            return False
        pause_s = max(self._interval_s, REST_INTERVAL_S) if resting else self._interval_s
        left_s = pause_s if self._until is None else max(self._until - self._clock(), 0.0)
        return not self._stopped.wait(min(pause_s, left_s))

    def _step(self) -> bool:
        """Ask and draw once; tell whether to go on."""
        last_time = self._ended() or (self._until is not None and self._clock() >= self._until)
        try:
            status = self._ask()
        except Exception as error:  # the function is given to us: a link that is down, a kernel that went
            return self._missed(error) and not last_time
        news = self._last is None or self._misses > 0 or not _same(status, self._last)
        self._misses, self._last = 0, status
        return (self._draw(status) if news else True) and not last_time

    def _missed(self, error: Exception) -> bool:
        """Tell on the card that there is no news; tell whether to ask again."""
        self._misses += 1
        logger.debug("no status (%d in a row): %s", self._misses, error)
        if self._misses > 1 or self._last is None:
            return self._misses < MISSES
        return self._draw(self._last, f"no news since {moment(self._last.time)}: {type(error).__name__}: {error}")

    def _finish(self, *, note: bool) -> None:
        """Draw the last card: the newest status that can be had, and that it is the last."""
        if note and self._stopped.is_set() and self._misses == 0:
            self._step()
        if note and self._last is not None:
            self._draw(self._last, f"no longer updated; as of {moment(self._last.time)}")
        self._over.set()

    def _draw(self, status: Status, note: str = "") -> bool:
        """Draw; False when the screen is gone."""
        try:
            html = machine_html(status) + (f'<div style="opacity:.7">{shown(note, 400)}</div>' if note else "")
            self._screen.draw(html, "\n".join(filter(None, (machine_text(status), note))))
        except Exception:  # a kernel that shuts down takes its sockets away
            logger.debug("a status card could not be drawn", exc_info=True)
            return False
        return True


def _same(one: Status, other: Status) -> bool:
    """Tell whether two statuses look the same; of a machine at rest not even its age counts."""
    return _without_time(one) == _without_time(other)


def _without_time(status: Status) -> Status:
    bare = copy.copy(status)
    bare.time = 0.0
    if status.state in RESTING:
        bare.uptime_s = 0.0
    return bare
