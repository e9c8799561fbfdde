"""Waits between attempts to connect."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Exponential backoff with jitter, so that many clients do not reconnect at the same time."""

    def __init__(
        self,
        cap_s: float,
        *,
        initial_s: float = 0.1,
        growth: float = 1.7,
        jitter: float = 0.25,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._cap_s, self._initial_s, self._growth, self._jitter = cap_s, initial_s, growth, jitter
        self._rand = rand
        self._next_s = min(initial_s, cap_s)

    def next_s(self) -> float:
        """Return the next wait in seconds, at most the cap. Waits grow with each call."""
        wait_s = self._next_s * (1.0 - self._jitter * self._rand())
        self._next_s = min(self._next_s * self._growth, self._cap_s)
        return wait_s

    def reset(self) -> None:
        """Start again with the shortest wait."""
        self._next_s = min(self._initial_s, self._cap_s)
