"""The queue and every count of a machine, under one lock, so that they always add up.

The law: ``put == processed + errored + dropped + queue_size + in_flight``; ``refused`` stands
apart. `MessageQueue.validate` states it, `MessageQueue.snapshot` reads all of it at one instant.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from timbr_wamp.errors import InvalidArgument, MachineClosed, MachineFull
from timbr_wamp.machine.messages import Entry

#: So many message ids given by callers are remembered, to put none of them twice.
KNOWN_OIDS = 65_536

#: That the queue is full is told at most so often, seconds: a source that waits for room fills it all the time.
FULL_AGAIN_S = 1.0


class Droppable(tuple[str, Any, float, int]):
    """An entry of a source that may be dropped to make room; what somebody put is a plain tuple, and never is."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """A ledger at one instant."""

    put: int
    processed: int
    errored: int
    dropped: int
    refused: int
    queue_size: int
    queue_capacity: int
    in_flight: int

    def validate(self) -> None:
        """Raise AssertionError unless the counts obey the law."""
        held = self.processed + self.errored + self.dropped + self.queue_size + self.in_flight
        assert self.put == held, f"{self.put} put, but {held} accounted for: {self}"
        assert min(self.put, self.processed, self.errored, self.dropped, self.in_flight) >= 0, str(self)


class MessageQueue:
    """A bounded queue of entries with its counts. Any thread.

    Writers that wait for room are woken when half of the queue is free, and all at once: a wake-up
    costs more than a message. What is taken makes room at once, so what a reader that stops gives
    back may stand above the capacity, and so may what the reader itself offers: one micro-batch each.

    ``on_full`` is told when somebody found no room: once, and again only after the queue was half
    empty and `FULL_AGAIN_S` went by on ``timer`` (seconds). Called in the thread of who found none,
    without the lock; it must not raise.
    """

    def __init__(
        self,
        capacity: int,
        name: str = "machine",
        *,
        on_full: Callable[[], object] | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = _checked_capacity(capacity)
        self._name = name
        self._on_full, self._timer = on_full, timer
        self._full_told_at = float("-inf")
        self._crowded = False
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._freed = threading.Condition(self._lock)
        self._settled = threading.Condition(self._lock)
        self._queue: deque[Entry] = deque()
        self._takers = 0
        self._writers = 0
        #: Writers that want any room, not half of the queue.
        self._eager = 0
        self._settlers = 0
        self._put = self._processed = self._errored = self._dropped = self._refused = self._in_flight = 0
        self._known: OrderedDict[str, None] = OrderedDict()
        self._closed = False
        self._woken = 0

    @property
    def closed(self) -> bool:
        """Nothing is taken any more."""
        return self._closed

    @property
    def crowded(self) -> bool:
        """Somebody found no room, and the queue was not half empty since."""
        return self._crowded

    # --- writers ---

    def put(self, entry: Entry, *, block: bool = False, timeout_s: float | None = None, known: bool = False) -> bool:
        """Queue an entry; return False if its oid was put before (only asked with ``known``).

        Raises:
            MachineFull: no room, with ``block`` after ``timeout_s`` seconds (None: no limit).
            MachineClosed: the machine takes nothing more.
        """
        with self._lock:
            if known and entry[0] in self._known:
                return False
            if len(self._queue) >= self._capacity and not self._wait_for_room(timeout_s if block else 0.0):
                self._check_open()
                self._refused += 1
                raise MachineFull(self._capacity)
            self._check_open()
            if known:
                if entry[0] in self._known:  # another writer, while this one waited for room
                    return False
                self._remember(entry[0])
            self._queue.append(entry)
            self._put += 1
            if self._takers:
                self._arrived.notify()
            return True

    def offer(self, entries: Sequence[Entry], timeout_s: float, *, beyond: bool = False, eager: bool = False) -> int:
        """Queue as many entries as there is room for now, from the first on; return how many.

        Waits at most ``timeout_s`` while there is no room at all. Nothing is refused: the caller
        keeps the rest. ``beyond``: queue all, also above the capacity, for a caller who would wait
        for himself. ``eager``: wait for any room, not until half of the queue is free.
        """
        with self._lock:
            if beyond and not self._closed:
                taken: Sequence[Entry] = entries
            elif len(self._queue) >= self._capacity and not self._wait_for_room(timeout_s, eager):
                return 0
            else:
                taken = entries[: self._capacity - len(self._queue)] if not self._closed else ()
            self._queue.extend(taken)
            self._put += len(taken)
            if self._takers and taken:
                self._arrived.notify()
            return len(taken)

    def set_aside(self, entries: Sequence[Entry]) -> None:
        """Count entries as put and under way that were never queued; `finish` with ``dropped`` settles them.

        Raises:
            MachineClosed: the machine takes nothing more; nothing was counted.
        """
        with self._lock:
            self._check_open()
            self._put += len(entries)
            self._in_flight += len(entries)
            self._note_full()

    def displace(self, entries: Sequence[Droppable]) -> list[Entry]:
        """Queue entries in the place of the oldest `Droppable` ones; return those, now under way.

        When too few of the old ones may go, some of the new ones are among them.

        Raises:
            MachineClosed: the machine takes nothing more; nothing was queued.
        """
        with self._lock:
            self._check_open()
            self._queue.extend(entries)
            self._put += len(entries)
            dropped = self._take_oldest_droppable(len(self._queue) - self._capacity)
            self._in_flight += len(dropped)
            if self._takers:
                self._arrived.notify()
            if dropped:
                self._note_full()
            return dropped

    def _take_oldest_droppable(self, count: int) -> list[Entry]:
        queue, dropped, kept = self._queue, list[Entry](), list[Entry]()
        while queue and len(dropped) < count:
            entry = queue.popleft()
            (dropped if isinstance(entry, Droppable) else kept).append(entry)
        queue.extendleft(reversed(kept))
        return dropped

    def _wait_for_room(self, timeout_s: float | None, eager: bool = False) -> bool:
        """Wait with the lock held; ``timeout_s`` 0: only tell that there is none."""
        self._note_full()
        self._writers += 1
        self._eager += eager
        try:
            return (
                timeout_s != 0.0
                and self._freed.wait_for(lambda: self._closed or len(self._queue) < self._capacity, timeout_s)
                and not self._closed
            )
        finally:
            self._writers -= 1
            self._eager -= eager

    def _note_full(self) -> None:
        """Note that somebody finds no room; tell it, without the lock, if it is time to."""
        if self._crowded or self._closed:
            return
        self._crowded = True
        now = self._timer()
        if self._on_full is not None and now - self._full_told_at >= FULL_AGAIN_S:
            self._full_told_at = now
            self._lock.release()  # as a wait for room does: whoever holds it meanwhile leaves the counts right
            try:
                self._on_full()
            finally:
                self._lock.acquire()

    def _remember(self, oid: str) -> None:
        self._known[oid] = None
        if len(self._known) > KNOWN_OIDS:
            self._known.popitem(last=False)

    def _check_open(self) -> None:
        if self._closed:
            raise MachineClosed(self._name)

    # --- the reader ---

    @property
    def wakes(self) -> int:
        """How often `wake` was called."""
        return self._woken

    def take(self, limit: int, timeout_s: float, wakes: int | None = None) -> list[Entry]:
        """Take at most ``limit`` entries under way; empty when none came in ``timeout_s``, or on `wake`.

        ``wakes``: as they were when the caller last looked around; so that none is missed.
        """
        with self._lock:
            if not self._queue and timeout_s > 0 and not self._closed:
                woken = self._woken if wakes is None else wakes
                self._takers += 1
                self._arrived.wait_for(lambda: self._queue or self._closed or self._woken != woken, timeout_s)
                self._takers -= 1
            queue = self._queue
            if len(queue) <= limit:
                entries = list(queue)
                queue.clear()
            else:
                entries = [queue.popleft() for _ in range(limit)]
            self._in_flight += len(entries)
            if self._crowded or self._writers:
                self._make_known(limit)
            return entries

    def _make_known(self, limit: int) -> None:
        """Tell writers that there is room, in time."""
        half_empty = len(self._queue) <= self._capacity // 2
        if half_empty:
            self._crowded = False
        if half_empty or limit == 1 or self._eager:
            self._freed.notify_all()

    def give_back(self, entries: Sequence[Entry]) -> None:
        """Put entries under way back at the head of the queue, in their order."""
        with self._lock:
            self._queue.extendleft(reversed(entries))
            self._in_flight -= len(entries)
            if self._takers and self._queue:
                self._arrived.notify()
            if entries:
                self._settled.notify_all()  # who waits for a machine that rests

    def finish(self, processed: int = 0, errored: int = 0, dropped: int = 0) -> None:
        """Account for entries under way."""
        with self._lock:
            self._processed += processed
            self._errored += errored
            self._dropped += dropped
            self._in_flight -= processed + errored + dropped
            if self._settlers and not self._queue and not self._in_flight:
                self._settled.notify_all()

    def wake(self) -> None:
        """Make all that wait look around: readers, writers (for the room of a reader that stopped), `wait_change`."""
        with self._lock:
            self._woken += 1
            for condition in (self._arrived, self._freed, self._settled):
                condition.notify_all()

    # --- everybody ---

    def idle(self) -> bool:
        """Tell whether nothing waits and nothing is under way."""
        with self._lock:
            return not self._queue and not self._in_flight

    def wait_change(self, timeout_s: float, *, settled: bool = True) -> None:
        """Wait for `wake`, with ``settled`` also until nothing waits or is under way; at most ``timeout_s``.

        While a source still reads, the queue is empty again and again: who waits for its end asks
        for `wake` only, and does not cost the reader a change of threads each time.
        """
        with self._lock:
            self._settlers += settled
            self._settled.wait(timeout_s)
            self._settlers -= settled

    def resize(self, capacity: int) -> None:
        """Change the queue's capacity. What waits stays, even above it."""
        with self._lock:
            self._capacity = _checked_capacity(capacity)
            self._freed.notify_all()

    def close(self) -> None:
        """Refuse what comes from now on; writers that wait get `MachineClosed`."""
        with self._lock:
            self._closed = True
            for condition in (self._arrived, self._freed, self._settled):
                condition.notify_all()

    def snapshot(self) -> Counts:
        """Return all counts, read at one instant."""
        with self._lock:
            return Counts(
                self._put, self._processed, self._errored, self._dropped, self._refused,
                len(self._queue), self._capacity, self._in_flight,
            )  # fmt: skip


def _checked_capacity(capacity: int) -> int:
    if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
        raise InvalidArgument("bufsize", f"{capacity!r} is not a whole number of at least 1")
    return capacity


def remaining(deadline: float | None) -> float | None:
    """Return the seconds left until a `time.monotonic` deadline; None without one."""
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)
