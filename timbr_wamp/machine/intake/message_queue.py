"""The queue and all counts of a machine, under one lock, so that they always add up.

Always ``put == processed + errored + dropped + queue_size + in_flight``; ``refused`` is counted
apart. `MessageQueue.snapshot` reads all of them at one instant.
"""

from __future__ import annotations

import threading
import time
from _thread import LockType, RLock
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeAlias

from timbr_wamp.errors import MachineClosed, MachineFull, WouldDeadlock
from timbr_wamp.machine.checks import checked_whole
from timbr_wamp.machine.forks import ForkedLock, survive_forks
from timbr_wamp.machine.interrupts import deferred
from timbr_wamp.machine.messages import Entry
from timbr_wamp.machine.processing import is_processing
from timbr_wamp.machine.waiting import Releasable, Waiters, add_waiter, deadline_after, left_s, wait, wake_all
from timbr_wamp.values import JsonValue

#: Message ids given by callers that are remembered, so that none is put twice.
KNOWN_OIDS = 65_536

#: A full queue is reported at most once in this time, seconds: a source that waits for room fills it all the time.
FULL_REPORT_S = 1.0

_NONE: list[Entry] = []
#: ``(processed, errored, dropped, in_flight, taken, returned)``: the counts, and the lists of a move that is not
#: complete. A plain tuple: to make a NamedTuple is a call of Python code, in which a signal handler may use the queue.
_Accounts: TypeAlias = tuple[int, int, int, int, list[Entry], list[Entry]]
_IN_FLIGHT = 3


class Droppable(tuple[str, Any, float, int]):
    """A source's entry that may be dropped to make room. Entries from `put` are plain tuples and are never dropped."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """All counts of a queue at one instant; ``put`` is the sum of all but ``refused`` and ``queue_capacity``."""

    put: int
    processed: int
    errored: int
    dropped: int
    refused: int
    queue_size: int
    queue_capacity: int
    in_flight: int


class MakeDurable(Protocol):
    """Keeps entries beyond the process before they are queued; `timbr_wamp.machine.protocols.Journal.append`."""

    def __call__(self, entries: Sequence[Entry], *, sync: bool, position: JsonValue = None) -> None: ...


class MessageQueue:
    """A bounded queue of entries with its counts. Any thread.

    Writers that wait for room are woken when half of the queue is free, and all at once: a wake-up
    costs more than a message. Taking an entry frees its place at once. So the entries that a reader gives back
    (`give_back`), or adds from a ready source (`fill`), may exceed the capacity by one micro-batch each.

    ``on_full`` is called when a caller finds no room: once, and again only after the queue was half
    empty and `FULL_REPORT_S` have passed on ``timer`` (seconds). Called in that caller's thread, without
    the lock; it must not raise.

    **Interrupts.** A signal handler may raise between any two bytecodes of the main thread. So each
    change is one call into C or one assignment, made under the lock: a message is put by one
    ``append``; messages move between queue and reader by one ``extend`` with an iterator that removes
    them from their origin; the other counts are one tuple, replaced whole. ``put`` is computed as the
    sum of the others. How callers wait: `timbr_wamp.machine.waiting`.

    A signal handler and the ``__del__`` of a message may also *use* the queue in the middle of a change of the same
    thread. So the lock can be entered again, and the counts are read and replaced with no call in between.

    **Forks.** In a forked child every call that would take the lock raises `MachineForked`.
    """

    def __init__(
        self,
        capacity: int,
        name: str = "machine",
        *,
        on_full: Callable[[], object] | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = checked_capacity(capacity)
        self._name = name
        self._on_full, self._timer = on_full, timer
        self._full_reported_at = float("-inf")
        self._crowded = False
        self._lock: RLock | ForkedLock = threading.RLock()
        self._queue: deque[Entry] = deque()
        #: The entries of the lists are in flight as well: ``taken`` moves to a reader, ``returned`` back to the queue.
        self._accounts: _Accounts = (0, 0, 0, 0, _NONE, _NONE)
        self._refused = 0
        #: Makes entries durable before they are queued, and tells of an oid whether it was put in an earlier process;
        #: the machine sets them if there is a journal. Any thread.
        self.make_durable: MakeDurable | None = None
        self.was_put: Callable[[str], bool] = lambda oid: False
        #: Entries for which `make_durable` is being called: in flight, with their room reserved.
        self._reserved = 0
        #: Waiters for entries, for a half-empty queue, for any room, for nothing in flight, for `wake`.
        self._readers: Waiters = deque()
        self._writers: Waiters = deque()
        self._eager_writers: Waiters = deque()
        self._settlers: Waiters = deque()
        self._watchers: Waiters = deque()
        #: Ids given by callers; with the entry until it is queued for certain.
        self._known: OrderedDict[str, Entry | None] = OrderedDict()
        #: Oids for which `make_durable` is being called: a second put of one of them waits for the first.
        self._becoming_durable: set[str] = set()
        self._closed = False
        self._woken = 0
        survive_forks(self)

    @property
    def closed(self) -> bool:
        """It takes no more messages."""
        return self._closed

    @property
    def crowded(self) -> bool:
        """A caller found no room, and the queue was not half empty since."""
        return self._crowded

    def after_fork_in_child(self) -> None:
        """Refuse every call from now on."""
        self._lock = ForkedLock(self._name)
        self._closed = True

    # --- writers ---

    def put(self, entry: Entry, *, block: bool = False, timeout_s: float | None = None, known: bool = False) -> bool:
        """Queue an entry; with ``known`` return False if its oid was put before.

        Raises:
            MachineFull: no room; with ``block`` none within ``timeout_s`` seconds (None: no limit).
            WouldDeadlock: no room, and the caller processes a message of this queue: it would wait for itself.
            MachineClosed: the machine was closed.
            BaseException: what `make_durable` raised; the entry is not queued.
        """
        if not known and self.make_durable is None:
            with self._lock:
                if len(self._queue) < self._capacity and not self._closed:
                    self._queue.append(entry)
                    if self._readers:
                        wake_all(self._readers)
                    return True
        return self._put_when_possible(entry, deadline_after(timeout_s if block else 0.0), known)

    def _put_when_possible(self, entry: Entry, deadline: float | None, known: bool) -> bool:
        while True:
            with self._lock:
                if known and entry[0] in self._known:
                    return False
                if self._closed:
                    raise MachineClosed(self._name)
                limit_s = left_s(deadline)
                if known and entry[0] in self._becoming_durable:
                    report, waiter, limit_s = False, add_waiter(self._writers), float("inf")
                elif self._room() > 0:
                    if self.make_durable is not None:
                        break
                    if known:
                        self._append_known(entry)
                    else:
                        self._queue.append(entry)
                    wake_all(self._readers)
                    return True
                else:
                    report = self._note_full()
                    if not report:
                        waiter = self._add_writer_or_refuse(deadline)
            if report:
                self._report_full()
            else:
                wait(self._writers, waiter, limit_s)
        return self._put_durably(entry, deadline, known)

    def _put_durably(self, entry: Entry, deadline: float | None, known: bool) -> bool:
        """Make the entry durable with `make_durable`, without the lock and with its room reserved, then queue it."""
        assert self.make_durable is not None
        with deferred():
            with self._lock:
                put_again = known and (entry[0] in self._known or entry[0] in self._becoming_durable)
                if put_again or self._closed or not self._room():
                    reserved = False  # another writer, meanwhile
                else:
                    if known:
                        self._becoming_durable.add(entry[0])
                    self._reserve(1)
                    reserved = True
            if reserved:
                try:
                    if known and self.was_put(entry[0]):
                        put_again = True
                    else:
                        self.make_durable([entry], sync=True)
                except BaseException:
                    with self._lock:
                        self._reserve(-1)
                        self._becoming_durable.discard(entry[0])
                        wake_all(self._writers)
                    raise
                with self._lock:
                    if known:
                        if not put_again:
                            self._append_known(entry)
                        self._becoming_durable.discard(entry[0])
                        wake_all(self._writers)
                    else:
                        self._queue.append(entry)
                    self._reserve(-1)
                    wake_all(self._readers)
                if put_again:
                    return False
        return True if reserved else self._put_when_possible(entry, deadline, known)

    def put_together(self, entries: Sequence[Entry], *, known: bool = False) -> int:
        """Queue the first entries for which there is room now, made durable together; return how many.

        With ``known`` those whose oid was put before count as queued, and are not queued again; an oid that is just
        being put by another call ends the entries.

        Raises:
            MachineClosed: the machine was closed.
            BaseException: what `make_durable` raised; none was queued.
        """
        with deferred():
            with self._lock:
                if self._closed:
                    raise MachineClosed(self._name)
                fresh, done = self._first_fresh(entries, known)
                if self.make_durable is None:
                    self._enqueue(fresh, known)
                    return done
                self._reserve(len(fresh))
                oids = {entry[0] for entry in fresh} if known else set()
                self._becoming_durable |= oids
            kept: Sequence[Entry] = ()
            try:
                new = [entry for entry in fresh if not self.was_put(entry[0])] if known else fresh
                if new:
                    self.make_durable(new, sync=True)
                kept = new
            finally:
                with self._lock:
                    self._reserve(-len(fresh))
                    self._becoming_durable -= oids
                    self._enqueue(kept, known)
                    wake_all(self._writers)
            return done

    def _first_fresh(self, entries: Sequence[Entry], known: bool) -> tuple[list[Entry], int]:
        """Return the first entries that are to be queued now, and how many are done with them; with the lock held."""
        room, fresh, seen = self._room(), list[Entry](), set[str]()
        for done, entry in enumerate(entries):
            if known and (entry[0] in self._known or entry[0] in seen):
                continue
            if len(fresh) >= room or (known and entry[0] in self._becoming_durable):
                return fresh, done
            seen.add(entry[0])
            fresh.append(entry)
        return fresh, len(entries)

    def _enqueue(self, entries: Sequence[Entry], known: bool) -> None:
        """Queue entries, with the lock held."""
        if known:
            for entry in entries:
                self._append_known(entry)
        else:
            self._queue.extend(entries)
        if entries:
            wake_all(self._readers)

    def room(self) -> int:
        """Return how many entries could be queued now."""
        with self._lock:
            return max(self._room(), 0)

    def _room(self) -> int:
        return self._capacity - len(self._queue) - self._reserved

    def _reserve(self, count: int) -> None:
        self._account(in_flight=count)
        self._reserved += count

    def restore(self, entries: Sequence[Entry], processed: int = 0, errored: int = 0, dropped: int = 0) -> None:
        """Queue entries of a journal, also above the capacity, with the counts so far. Before any other call."""
        for entry in entries:
            if entry[0] in self._known:  # two attempts at one message may wait
                self._queue.append(entry)
            else:
                self._append_known(entry)
        self._account(processed=processed, errored=errored, dropped=dropped)

    def _add_writer_or_refuse(self, deadline: float | None) -> LockType:
        """Return a waiter for a `put` that found no room. If that `put` may not wait, count it as refused and raise."""
        if left_s(deadline) <= 0:
            self._refused += 1
            raise MachineFull(self._capacity)
        if is_processing(self):
            self._refused += 1
            raise WouldDeadlock(self._name, "put(block=True)")
        return add_waiter(self._writers)

    def _append_known(self, entry: Entry) -> None:
        """Queue an entry and remember its oid, in one call."""
        self._queue.extend(map(self._known.setdefault, (entry[0],), (entry,)))  # type: ignore[arg-type]
        self._known[entry[0]] = None  # does not keep the message alive
        if len(self._known) > KNOWN_OIDS:
            self._known.popitem(last=False)

    def offer(self, entries: Sequence[Entry], timeout_s: float, *, eager: bool = False) -> int:
        """Queue the first entries for which there is room now; return how many.

        Waits at most ``timeout_s`` while there is no room at all. Nothing is counted as refused: the
        caller keeps the rest. ``eager``: wait for any room, not until half of the queue is free.
        """
        deadline: float | None = None
        while True:
            with self._lock:
                if self._closed:
                    return 0
                room = self._room()
                if room > 0:
                    offered = entries if room >= len(entries) else entries[:room]
                    self._queue.extend(offered)
                    if self._readers and offered:
                        wake_all(self._readers)
                    return len(offered)
                report = self._note_full()
                if not report:
                    if deadline is None:
                        deadline = time.monotonic() + timeout_s
                    if not timeout_s or left_s(deadline) <= 0:
                        return 0
                    waiters = self._eager_writers if eager else self._writers
                    waiter = add_waiter(waiters)
            if report:
                self._report_full()
            else:
                wait(waiters, waiter, left_s(deadline))

    def fill(self, entries: Iterator[Entry]) -> int:
        """Queue all items of an iterator, also above the capacity; return how many. It must be quick C code.

        So no interrupt loses an item between iterator and queue. An error of the iterator is raised; the items
        before it are queued.
        """
        with self._lock:
            if self._closed:
                return 0
            before = len(self._queue)
            self._queue.extend(entries)
            wake_all(self._readers)
            return len(self._queue) - before

    def set_aside(self, entries: Sequence[Entry]) -> None:
        """Count entries that were never queued as put and in flight; `finish` with ``dropped`` accounts for them.

        Raises:
            MachineClosed: the machine was closed; nothing was counted.
        """
        with self._lock:
            if self._closed:
                raise MachineClosed(self._name)
            self._account(in_flight=len(entries))
            report = self._note_full()
        if report:
            self._report_full()

    def displace(self, entries: Sequence[Droppable]) -> list[Entry]:
        """Queue entries and remove the oldest `Droppable` ones beyond the capacity; return these, now in flight.

        When too few of the old ones may be dropped, some of the new ones are returned. Called in a source's
        thread, which no signal handler interrupts.

        Raises:
            MachineClosed: the machine was closed; nothing was queued.
        """
        with self._lock:
            if self._closed:
                raise MachineClosed(self._name)
            self._queue.extend(entries)
            displaced = self._take_oldest_droppable(len(self._queue) - self._capacity)
            self._account(in_flight=len(displaced))
            if self._readers:
                wake_all(self._readers)
            report = bool(displaced) and self._note_full()
        if report:
            self._report_full()
        return displaced

    def _take_oldest_droppable(self, count: int) -> list[Entry]:
        queue, displaced, kept = self._queue, list[Entry](), list[Entry]()
        while queue and len(displaced) < count:
            entry = queue.popleft()
            (displaced if isinstance(entry, Droppable) else kept).append(entry)
        queue.extendleft(reversed(kept))
        return displaced

    def _note_full(self) -> bool:
        """Note, with the lock held, that a caller found no room; return whether to report it, without the lock."""
        if self._crowded or self._closed:
            return False
        self._crowded = True
        now = self._timer()
        if self._on_full is None or now - self._full_reported_at < FULL_REPORT_S:
            return False
        self._full_reported_at = now
        return True

    def _report_full(self) -> None:
        if self._on_full is not None:
            self._on_full()

    # --- the reader ---

    @property
    def wakes(self) -> int:
        """Number of calls of `wake`."""
        return self._woken

    def take(
        self, limit: int, timeout_s: float, wakes: int | None = None, *, into: list[Entry] | None = None
    ) -> list[Entry]:
        """Take at most ``limit`` entries; empty when none came in ``timeout_s``, or on `wake`.

        They are in flight until `finish` or `give_back`. ``wakes``: the value of `wakes` when the caller last
        read the machine's state, so that no wake-up is missed. ``into``: an empty list that is filled and
        returned; after an interrupt it holds what was taken.
        """
        entries: list[Entry] = [] if into is None else into
        with self._lock:
            if self._queue:
                self._move_out(limit, entries)
                return entries
        woken = self._woken if wakes is None else wakes
        deadline = deadline_after(timeout_s)
        while True:
            with self._lock:
                if self._queue or self._closed or self._woken != woken or left_s(deadline) <= 0:
                    self._move_out(limit, entries)
                    return entries
                waiter = add_waiter(self._readers)
            wait(self._readers, waiter, left_s(deadline))

    def _move_out(self, limit: int, entries: list[Entry]) -> None:
        queue = self._queue
        self._complete_moves()
        taking = islice(iter(queue.popleft, None), min(limit, len(queue)))
        with suppress(IndexError):  # in the middle of this, somebody else took some
            processed, errored, dropped, in_flight, _, _ = self._accounts
            self._accounts = (processed, errored, dropped, in_flight, entries, _NONE)
            entries.extend(taking)
        self._complete_moves()
        if self._crowded or self._writers or self._eager_writers:
            self._announce_room(limit)

    def _announce_room(self, limit: int) -> None:
        """Wake writers, if there is enough room."""
        half_empty = len(self._queue) <= self._capacity // 2
        if half_empty:
            self._crowded = False
        if half_empty or limit == 1:
            wake_all(self._writers)
        wake_all(self._eager_writers)

    def give_back(self, entries: Sequence[Entry]) -> None:
        """Return entries in flight to the head of the queue, in order; no policy drops them from now on."""
        returned = [tuple(entry) if isinstance(entry, Droppable) else entry for entry in entries]
        with self._lock:
            self._complete_moves()
            count = len(returned)
            processed, errored, dropped, in_flight, _, _ = self._accounts
            self._accounts = (processed, errored, dropped, in_flight - count, _NONE, returned)
            self._complete_moves()
            if self._queue:
                wake_all(self._readers)
            if entries:  # for callers that wait until nothing is under way
                wake_all(self._settlers)
                wake_all(self._watchers)

    def finish(self, processed: int = 0, errored: int = 0, dropped: int = 0) -> None:
        """Account for entries in flight."""
        with self._lock:
            self._account(processed, errored, dropped, -(processed + errored + dropped))
            if self._settlers and not self._queue and not self._accounts[_IN_FLIGHT]:
                wake_all(self._settlers)

    def _account(self, processed: int = 0, errored: int = 0, dropped: int = 0, in_flight: int = 0) -> None:
        """Add to the counts, with the lock held."""
        self._complete_moves()
        done, failed, lost, under_way, _, _ = self._accounts
        self._accounts = (done + processed, failed + errored, lost + dropped, under_way + in_flight, _NONE, _NONE)

    def _complete_moves(self) -> None:
        """Complete, with the lock held, a move that an interrupt cut off: afterwards the accounts have no lists."""
        _, _, _, _, taken, returned = self._accounts
        if taken or returned:
            with suppress(IndexError):  # a nested call has moved them
                self._queue.extendleft(islice(iter(returned.pop, None), len(returned)))
            count = len(taken)
            processed, errored, dropped, in_flight, still_taken, _ = self._accounts
            if still_taken is taken:
                self._accounts = (processed, errored, dropped, in_flight + count, _NONE, _NONE)

    # --- any caller ---

    def wake(self) -> None:
        """Wake all waiters to check again: readers, writers (a reader that stopped leaves room), `wait_change`."""
        with self._lock:
            self._woken += 1
            self._wake_everybody()

    def _wake_everybody(self) -> None:
        for waiters in (self._readers, self._writers, self._eager_writers, self._settlers, self._watchers):
            wake_all(waiters)

    def idle(self) -> bool:
        """Tell whether nothing waits and nothing is in flight."""
        with self._lock:
            self._complete_moves()
            return not self._accounts[_IN_FLIGHT] and not self._queue

    def waiting(self, oid: str) -> Entry | None:
        """Return the newest entry of a message that waits; None: it does not."""
        with self._lock:
            entries = list(self._queue)
        return next((entry for entry in reversed(entries) if entry[0] == oid), None)

    def wait_change(self, timeout_s: float, *, settled: bool = True) -> None:
        """Wait at most ``timeout_s`` for `wake` or `give_back`; with ``settled`` also until all is accounted for.

        While a source still reads, the queue is often empty for a moment: callers that wait for its end
        wait for `wake` only, which saves the reader a thread switch each time.
        """
        waiters = self._settlers if settled else self._watchers
        with self._lock:
            waiter = add_waiter(waiters)
        wait(waiters, waiter, timeout_s)

    def wait_room(self, timeout_s: float | None) -> bool:
        """Wait at most ``timeout_s`` until a `put` might find room; return whether it might.

        Raises:
            WouldDeadlock: the caller processes a message of this queue: it would wait for itself.
        """
        deadline = deadline_after(timeout_s)
        with self._lock:
            if self._closed or self._room() > 0:
                return True
            report = self._note_full()
            waiter = None if left_s(deadline) <= 0 else self._add_writer_or_refuse(deadline)
        if report:
            self._report_full()
        if waiter is None:
            return False
        wait(self._writers, waiter, left_s(deadline))
        return True

    def refuse(self, count: int) -> None:
        """Count messages that their caller was told are not queued."""
        with self._lock:
            self._refused += count

    def call_when_room(self, listener: Releasable) -> bool:
        """Return whether a `put` would not wait; if not, release ``listener`` once when it should be tried again."""
        with self._lock:
            if self._closed or self._room() > 0:
                return True
            self._writers.append(listener)
            return False

    def call_on_change(self, listener: Releasable, *, settled: bool) -> None:
        """Release ``listener`` once, when `wait_change` would return."""
        with self._lock:
            (self._settlers if settled else self._watchers).append(listener)

    def resize(self, capacity: int) -> None:
        """Change the queue's capacity. What waits stays, even above it."""
        with self._lock:
            self._capacity = checked_capacity(capacity)
            wake_all(self._writers)
            wake_all(self._eager_writers)

    def close(self) -> None:
        """Refuse further messages; waiting writers get `MachineClosed`."""
        with self._lock:
            self._closed = True
            self._wake_everybody()

    def snapshot(self) -> Counts:
        """Return all counts, read at one instant."""
        with self._lock:
            self._complete_moves()
            waiting = len(self._queue)
            processed, errored, dropped, in_flight, _, _ = self._accounts
            put = processed + errored + dropped + waiting + in_flight
            return Counts(put, processed, errored, dropped, self._refused, waiting, self._capacity, in_flight)


def checked_capacity(capacity: int) -> int:
    """Return ``capacity``; raise InvalidArgument unless it is a whole number of at least 1."""
    return checked_whole("bufsize", capacity, 1)
