"""`LiveStatus`: polls a machine's status and redraws its card when it changed.

It decides when to poll, when to draw and when to end; a `Screen` draws.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from timbr_wamp.contract import MachineStateName, Status
from timbr_wamp.errors import InvalidArgument, described
from timbr_wamp.faces.tables import machine_html, machine_text
from timbr_wamp.tables import html_text, printable, timestamp

logger = logging.getLogger(__name__)

#: States in which a machine processes nothing until it is started.
RESTING: frozenset[MachineStateName] = frozenset({"idle", "stopped", "failed"})
#: Shortest poll interval while the machine is resting, in seconds.
REST_INTERVAL_S = 1.0
#: Consecutive failures to get a status after which the card ends.
FAILURE_LIMIT = 20
#: Longest time that `LiveStatus.stop` waits for a poll in progress, in seconds.
STOP_TIMEOUT_S = 2.0


def checked_interval(interval_s: object) -> float:
    """Return ``interval_s``; raise InvalidArgument unless it is a number of more than 0 seconds."""
    if not isinstance(interval_s, int | float) or not interval_s > 0:
        raise InvalidArgument("interval_s", f"more than 0 seconds, not {interval_s!r}")
    return interval_s


class Screen(Protocol):
    """The place where a card is drawn. Called by one thread at a time."""

    def draw(self, html: str, text: str) -> None:
        """Replace the card that was drawn last, with HTML or with text."""


class LiveStatus:
    """A status card that follows a machine.

    It ends when ``ended()`` is true, after ``duration_s`` seconds, after `FAILURE_LIMIT` failed
    polls in a row, when its screen is gone, or by `stop`. The last card says that it is no longer
    updated.

    Args:
        status: returns the status; called by the thread that draws. An exception counts as a failed poll.
        interval_s: seconds between two polls.
        duration_s: seconds after which it ends; None means no limit.
        ended: returns whether the machine was closed, so that its status will not change any more.
        clock: monotonic time in seconds.
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
        checked_interval(interval_s)
        given: object = duration_s
        if given is not None and not isinstance(given, int | float):
            raise InvalidArgument("duration_s", f"{given!r} is not a number of seconds")
        self._poll, self._screen, self._interval_s, self._ended = status, screen, interval_s, ended
        self._clock = clock
        self._until = None if duration_s is None else clock() + duration_s
        self._stop_requested, self._finished = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._last: Status | None = None
        self._failures = 0

    def __repr__(self) -> str:
        return f"<LiveStatus, {'updating' if self.running else 'no longer updated'}>"

    def _ipython_display_(self) -> None:
        """Display nothing as a cell's result, because the card is already displayed."""

    @property
    def running(self) -> bool:
        """The card is still updated."""
        return not self._finished.is_set()

    def show(self, status: Status) -> None:
        """Draw a first status in the caller's thread. Exceptions of the screen propagate."""
        self._screen.draw(machine_html(status), machine_text(status))
        self._last = status

    def start(self) -> None:
        """Follow the machine in a new daemon thread. May be called once."""
        self._thread = threading.Thread(target=self.follow, name="timbr-live-status", daemon=True)
        self._thread.start()

    def follow(self, *, until_rest: bool = False) -> None:
        """Follow the machine in this thread until the card ends; with ``until_rest`` until the machine rests."""
        try:
            while self._pause(until_rest) and self._step():
                pass
        finally:
            self._finish(note=not until_rest)

    def stop(self) -> None:
        """Stop following. Idempotent. Any thread. Waits at most `STOP_TIMEOUT_S` for a poll in progress."""
        self._stop_requested.set()
        if self._thread is None:
            self._finished.set()
        elif self._thread is not threading.current_thread():
            self._thread.join(STOP_TIMEOUT_S)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the card is no longer updated; return False at the timeout."""
        return self._finished.wait(timeout_s)

    def _pause(self, until_rest: bool) -> bool:
        """Wait until the next poll is due; return False when the card is to end."""
        if self._last is None:
            return not self._stop_requested.is_set()
        resting = self._last.state in RESTING
        if resting and until_rest:
            return False
        pause_s = max(self._interval_s, REST_INTERVAL_S) if resting else self._interval_s
        left_s = pause_s if self._until is None else max(self._until - self._clock(), 0.0)
        return not self._stop_requested.wait(min(pause_s, left_s))

    def _step(self) -> bool:
        """Poll and draw once; return whether to continue."""
        last_time = self._ended() or (self._until is not None and self._clock() >= self._until)
        try:
            status = self._poll()
        except Exception as error:  # the caller's function: the connection dropped, or the kernel ended
            return self._poll_failed(error) and not last_time
        changed = self._last is None or self._failures > 0 or not _same(status, self._last)
        self._failures, self._last = 0, status
        return (self._draw(status) if changed else True) and not last_time

    def _poll_failed(self, error: Exception) -> bool:
        """Say on the card that there is no new status; return whether to poll again."""
        self._failures += 1
        logger.debug("no status (%d failures in a row): %s", self._failures, error)
        if self._failures > 1 or self._last is None:
            return self._failures < FAILURE_LIMIT
        return self._draw(self._last, f"no update since {timestamp(self._last.time)}: {described(error)}")

    def _finish(self, *, note: bool) -> None:
        """Draw the newest status, with a note that the card is no longer updated."""
        if note and self._stop_requested.is_set() and self._failures == 0:
            self._step()
        if note and self._last is not None:
            self._draw(self._last, f"no longer updated; as of {timestamp(self._last.time)}")
        self._finished.set()

    def _draw(self, status: Status, note: str = "") -> bool:
        """Draw; return False when the screen is gone."""
        try:
            html = machine_html(status) + (f'<div style="opacity:.7">{html_text(note, 400)}</div>' if note else "")
            self._screen.draw(html, "\n".join(filter(None, (machine_text(status), printable(note, 400)))))
        except Exception:  # a kernel that shuts down closes its sockets
            logger.debug("a status card could not be drawn", exc_info=True)
            return False
        return True


def _same(one: Status, other: Status) -> bool:
    """Return whether two statuses differ in no more than their time, and for a resting machine its uptime."""
    return _without_time(one) == _without_time(other)


def _without_time(status: Status) -> Status:
    bare = copy.copy(status)
    bare.time = 0.0
    if status.state in RESTING:
        bare.uptime_s = 0.0
    return bare
