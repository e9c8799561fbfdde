"""Chooses the messages whose slots are timed: one of every `TIMED_EVERY`, at a random place among them.

At random, so that it is not always the first message of a micro-batch. The very first message is timed, so that
short runs have a timing too. The same for every executor.
"""

from __future__ import annotations

import random

#: One message of this many is timed.
TIMED_EVERY = 32


class TimingSample:
    """Chooses the timed messages of one executor. One thread at a time."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)
        #: The timed message's place among its `TIMED_EVERY`, and how many messages come before it.
        self._place = self._left = 0

    def choose(self, count: int) -> list[int]:
        """Return the positions of the timed ones among the next ``count`` messages."""
        chosen = []
        while self._left < count:
            chosen.append(self._left)
            place = self._random.randrange(TIMED_EVERY)
            self._left += TIMED_EVERY - self._place + place
            self._place = place
        self._left -= count
        return chosen

    @property
    def left(self) -> int:
        """How many messages come before the next one that is timed."""
        return self._left

    def passed(self, count: int) -> None:
        """Note that ``count`` messages have run, at most up to and including the next timed one."""
        if count <= self._left:
            self._left -= count
        else:
            self.choose(count)

    def next_is_timed(self) -> bool:
        """Tell whether the next message is timed."""
        return bool(self.choose(1))
