"""When to restart a process that ended, and when to give up. Pure: time comes in as a number, decisions go out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from timbr_wamp.errors import counted

#: ``stopped``: not started, or ended on request. ``waiting``: it ended, and is restarted at `Restarts.due_at`.
#: ``given_up``: it ended too often; only `Restarts.forgive` or `Restarts.started` leads out.
State = Literal["stopped", "running", "waiting", "given_up"]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often a process is restarted that ends by itself.

    The first restart is made at once, the next after ``first_s``, and the wait doubles up to ``cap_s``.
    """

    first_s: float = 1.0
    cap_s: float = 30.0
    #: Most restarts in any ``window_s`` seconds; one more gives up. None means no limit.
    limit: int | None = 10
    window_s: float = 300.0
    #: A process that ran this long has no wait before its next restart.
    stable_s: float = 60.0


class Restarts:
    """The state of one process over its restarts.

    >>> restarts = Restarts(RestartPolicy(first_s=1.0, limit=2))
    >>> restarts.started(now=0.0)
    >>> restarts.ended("killed", now=5.0), restarts.due(now=5.0)
    ('waiting', True)
    >>> restarts.started(now=5.0)
    >>> restarts.ended("killed", now=6.0), restarts.due(now=6.5), restarts.due(now=7.0)
    ('waiting', False, True)
    >>> restarts.started(now=7.0)
    >>> restarts.ended("killed", now=8.0), restarts.reason
    ('given_up', 'it ended 3 times in 300 s and is not restarted; at last: killed')
    """

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self.state: State = "stopped"
        #: Why it does not run; None while it runs, and before its first start.
        self.reason: str | None = None
        #: When a waiting process is started again.
        self.due_at = 0.0
        self._wait_s = 0.0
        self._started_at = 0.0
        self._ends: deque[float] = deque()

    def started(self, *, now: float) -> None:
        """Note that it was started or adopted."""
        self.state, self.reason, self._started_at = "running", None, now

    def ended(self, reason: str, *, now: float) -> State:
        """Note that it ended by itself, or that it could not be started; return ``waiting`` or ``given_up``."""
        policy = self._policy
        if self.state == "running" and now - self._started_at >= policy.stable_s:
            self._wait_s = 0.0
        self._ends.append(now)
        while now - self._ends[0] >= policy.window_s:
            self._ends.popleft()
        if policy.limit is not None and len(self._ends) > policy.limit:
            self.state = "given_up"
            times = counted(len(self._ends), "time")
            self.reason = f"it ended {times} in {policy.window_s:g} s and is not restarted; at last: {reason}"
            return self.state
        self.state, self.reason, self.due_at = "waiting", reason, now + self._wait_s
        self._wait_s = min(max(policy.first_s, 2 * self._wait_s), policy.cap_s)
        return self.state

    def stopped(self, reason: str | None = None) -> None:
        """Note that it was ended on request; it is not restarted."""
        self.state, self.reason = "stopped", reason

    def forgive(self) -> None:
        """Forget the past, for a restart that somebody asked for."""
        self._ends.clear()
        self._wait_s = 0.0

    def due(self, *, now: float) -> bool:
        """Return whether it is to be started now."""
        return self.state == "waiting" and now >= self.due_at


__all__ = ["RestartPolicy", "Restarts", "State"]
