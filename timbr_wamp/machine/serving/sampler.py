"""`Sampler`: which records the machine sends to those who look at single ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

#: Rate limit of single records; above it they are sampled, one in n.
EVENTS_PER_S = 200.0


class Sampler:
    """Samples a stream down to about ``per_s`` items per second: one in n, with n from the current rate.

    In a burst, whose rate is not known yet, each window has at most its share of ``per_s`` items.
    """

    #: Interval for computing n, in seconds.
    WINDOW_S = 0.25

    def __init__(self, per_s: float = EVENTS_PER_S) -> None:
        self._allowed = max(1.0, per_s * self.WINDOW_S)
        #: One in ``n`` items is taken.
        self.n = 1
        self._window_end = -math.inf
        self._seen = self._taken = 0
        self._phase = 0

    def take(self, items: Sequence[T], now: float) -> Sequence[T]:
        """Return the items to send; of a range, a range."""
        if now >= self._window_end:
            quiet = now >= self._window_end + self.WINDOW_S
            self.n = 1 if quiet else max(1, math.ceil(self._seen / self._allowed))
            self._window_end, self._seen, self._taken = now + self.WINDOW_S, 0, 0
        self._seen += len(items)
        self.n = max(self.n, math.ceil(self._seen / self._allowed))  # for a burst within the window
        first = (self.n - 1 - self._phase) % self.n
        self._phase = (self._phase + len(items)) % self.n
        chosen = items[first :: self.n]
        chosen = chosen[: max(math.ceil(self._allowed) - self._taken, 0)]
        self._taken += len(chosen)
        return chosen
