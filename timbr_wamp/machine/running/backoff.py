"""Messages that wait for a retry, ordered by due time."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

#: Messages that may wait for a retry; at this number no other message starts.
BACKOFF_LIMIT = 1_000


class Backoff(Generic[T]):
    """The messages of one executor that wait for a retry. One thread at a time.

    Args:
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._waiting: list[tuple[float, int, T]] = []
        self._order = count()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """No other message may start until one of these is retried."""
        return len(self._waiting) >= BACKOFF_LIMIT

    def add(self, message: T, seconds: float) -> None:
        """Keep a message for ``seconds``."""
        heapq.heappush(self._waiting, (self._monotonic() + seconds, next(self._order), message))

    def due_s(self) -> float | None:
        """Return in how many seconds the first message is due; None when none waits."""
        waiting = self._waiting
        return max(waiting[0][0] - self._monotonic(), 0.0) if waiting else None

    def take_due(self) -> T | None:
        """Remove and return a message that is due; None when none is."""
        waiting = self._waiting
        if not waiting or waiting[0][0] > self._monotonic():
            return None
        return heapq.heappop(waiting)[2]

    def clear(self) -> None:
        """Forget all messages."""
        self._waiting = []
