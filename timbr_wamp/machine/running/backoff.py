"""Messages that wait for a retry: put aside with their ways, gone on with when they are due.

Executors share it. A message here was begun and has no record yet; others overtake it.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from timbr_wamp.machine.messages import Entry, Finished
from timbr_wamp.machine.protocols import Plan, PlanStep, RunContext
from timbr_wamp.machine.running.careful_pass import SLEPT, CallOutcome, PassResult, PassSteps, Sleep, advance

#: So many messages may wait for a retry; then no other begins.
PARKED_LIMIT = 1_000
#: A wait for the next retry is cut into pieces, so that a pause is noticed.
PIECE_S = 0.05

#: What calls a step's function.
CallStep = Callable[[PlanStep, Sequence[Any]], Any]

#: A message in backoff: ``(due, order, entry, revision, way)``.
_Waiting = tuple[float, int, Entry, Plan, PassSteps]


class BackoffQueue:
    """The messages of one executor that wait for a retry.

    `put`, `due_s` and the length: any thread; `resume` and `abandon`: one thread at a time.

    Args:
        call: what calls a step's function when a message goes on.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(self, call: CallStep, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._call, self._monotonic = call, monotonic
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._order = count()
        #: Begun and never finished, since what ran them was interrupted.
        self.interrupted: list[Entry] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """No message may begin before one of these is gone."""
        return len(self._waiting) >= PARKED_LIMIT

    def put(self, seconds: float, entry: Entry, revision: Plan, way: PassSteps) -> None:
        """Put a message aside for so long."""
        with self._lock:
            heapq.heappush(self._waiting, (self._monotonic() + seconds, next(self._order), entry, revision, way))

    def due_s(self) -> float | None:
        """Return in how many seconds the first of them is due; None: there is none."""
        with self._lock:
            return max(self._waiting[0][0] - self._monotonic(), 0.0) if self._waiting else None

    def resume(self, context: RunContext) -> Iterator[Finished]:
        """Go on with those that are due, in this thread, and yield what is finished; wait for one when full."""
        full = self.full
        while context.may_start():
            left_s = self.due_s()
            if left_s is None or (left_s > 0 and not full):
                return
            if left_s > 0:
                time.sleep(min(left_s, PIECE_S))
                continue
            with self._lock:
                _, _, entry, revision, way = heapq.heappop(self._waiting)
            ran = self.carefully(way, SLEPT, entry, revision, context)
            if ran is not None:
                full = False
                context.hooks.call("post_message", entry[0], ran[0], ran[2].failures if ran[2] else [])
                yield entry, revision, ran[1], ran[2], context.clock()

    def carefully(
        self, way: PassSteps, answer: CallOutcome | None, entry: Entry, revision: Plan, context: RunContext
    ) -> PassResult | None:
        """Go on with a way; None when the message waits for a retry now."""
        try:
            while isinstance(end := advance(way, answer, self._call), Sleep):
                if context.defer_retries:
                    self.put(end.seconds, entry, revision, way)
                    return None
                time.sleep(end.seconds)
                answer = SLEPT
        except BaseException:
            self.interrupted.append(entry)
            raise
        return end

    def abandon(self) -> list[Entry]:
        """Forget all, and return the messages: those that waited, oldest first, then the interrupted ones."""
        with self._lock:
            waiting, self._waiting = sorted(self._waiting, key=lambda one: one[1]), []
        for one in waiting:
            one[4].close()
        interrupted, self.interrupted = self.interrupted, []
        return [*(one[2] for one in waiting), *interrupted]
