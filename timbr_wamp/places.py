"""Bounded places for calls, shared fairly among those who call."""

from __future__ import annotations

import threading
from collections import Counter


class Places:
    """A bounded number of places. Nobody may hold more of them than are free for the others.

    So one caller gets half of them, the next one half of the rest, and each newcomer finds a place until many
    have taken as much as they could. Any thread.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.RLock()
        self._taken = 0
        self._held: Counter[str | None] = Counter()

    def enter(self, author: str | None, count: int = 1) -> bool:
        """Take ``count`` places for ``author`` if there are; they are given back by `leave`.

        >>> places = Places(4)
        >>> [places.enter("ada") for _ in range(3)], places.enter("bob"), places.enter("bob")
        ([True, True, False], True, False)
        """
        with self._lock:
            if self._held[author] + count > self.limit - self._taken:
                return False
            self._taken += count
            self._held[author] += count
            return True

    def leave(self, author: str | None, count: int = 1) -> None:
        """Give places back."""
        with self._lock:
            self._taken -= count
            self._held[author] -= count
            if not self._held[author]:
                del self._held[author]

    def held(self, author: str | None) -> int:
        """Return how many places ``author`` has."""
        with self._lock:
            return self._held.get(author, 0)
