"""Helpers for tests of machines: gates, a clock that the test moves, observers that can be waited for.

Nothing here sleeps: every wait is for the event itself, and fails when its limit is over.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from wait_kit import wait_until

from timbr_wamp.contract import Event, Record, Status, record_from_row
from timbr_wamp.machine import Machine
from timbr_wamp.machine.intake.message_queue import Counts
from timbr_wamp.machine.messages import Entry, Row
from timbr_wamp.machine.protocols import Commit, CompactRow
from timbr_wamp.machine.records.rows import wire_row

#: Seconds that a test waits for what must happen.
LIMIT_S = 5.0


class Gate:
    """A slot function that lets each message pass only when the test says so."""

    def __init__(self) -> None:
        self._entered = threading.Semaphore(0)
        self._leave = threading.Semaphore(0)
        self._open = threading.Event()

    def __call__(self, value: object) -> object:
        self._entered.release()
        while not self._open.is_set() and not self._leave.acquire(timeout=0.02):
            pass
        return value

    def wait_until_entered(self, timeout_s: float = LIMIT_S) -> None:
        """Wait until one more message has come."""
        assert self._entered.acquire(timeout=timeout_s), "no message entered the gate"

    def let_one_pass(self) -> None:
        """Let one message pass."""
        self._leave.release()

    def open(self) -> None:
        """Let all messages pass from now on."""
        self._open.set()


class AsyncGate:
    """An async slot in which messages wait until the test opens it."""

    def __init__(self) -> None:
        self.entered: list[object] = []
        self.cancelled: list[object] = []
        self._open: dict[object, asyncio.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, message: object) -> object:
        self._loop = asyncio.get_running_loop()
        event = self._open.setdefault(message, asyncio.Event())
        self.entered.append(message)
        try:
            await event.wait()
        except asyncio.CancelledError:
            self.cancelled.append(message)
            raise
        return message

    def open(self, *messages: object) -> None:
        """Let messages pass that have entered."""
        assert self._loop is not None
        for message in messages:
            self._loop.call_soon_threadsafe(self._open[message].set)

    def wait_until_entered(self, *messages: object) -> None:
        """Wait until these have come."""
        wait_until(lambda: set(messages) <= set(self.entered), f"only {self.entered} entered")


class ManualClock:
    """UTC seconds that only the test moves."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> float:
        """Let time pass; negative ``seconds`` set the clock back."""
        self._now += seconds
        return self._now


class Recorder:
    """A sink and hook that keeps records and events; tests can wait for them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.rows: list[Row] = []
        self.events: list[Event] = []

    def publish(self, rows: Sequence[Row]) -> None:
        with self._changed:
            self.rows.extend(rows)
            self._changed.notify_all()

    def on_event(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    @property
    def records(self) -> list[Record]:
        """The records so far."""
        return [record_from_row(wire_row(row)) for row in self.rows]

    @property
    def kinds(self) -> list[str]:
        """Kinds of the events so far."""
        return [event.kind for event in self.events]

    def wait_for(self, count: int, timeout_s: float = LIMIT_S) -> list[Record]:
        """Return the records as soon as there are ``count``."""
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self.rows) >= count, timeout_s)
        assert enough, f"{len(self.rows)} of {count} records came"
        return self.records

    def wait_for_event(self, kind: str, timeout_s: float = LIMIT_S) -> Event:
        """Return the first event of that kind as soon as there is one."""

        def found() -> Event | None:
            return next((event for event in self.events if event.kind == kind), None)

        with self._changed:
            event = self._changed.wait_for(found, timeout_s)
        assert event is not None, f"no event {kind!r} came, but {self.kinds}"
        return event


class MemoryJournal:
    """A journal in memory: `reopened` returns what the next process would find. ``full`` makes it raise."""

    def __init__(self, run: str = "0123456789abcdef") -> None:
        self.run = run
        self.appended: list[Entry] = []
        self.rows: list[Row] = []
        self.done: set[tuple[str, int]] = set()
        self.kept_notes: dict[tuple[str, int], bytes] = {}
        self.full = False
        #: Raised by each call that keeps something.
        self.error: Exception | None = None

    def append(self, entries: Sequence[Entry], *, sync: bool = True, position: object = None) -> None:
        self._check()
        self.appended += entries

    def pending(self, limit: int) -> list[Entry]:
        return [entry for entry in self.appended if (entry[0], entry[3]) not in self.done][:limit]

    def commit(self, commit: Commit) -> None:
        self._check()
        self.rows += [row for block in commit.blocks for row in block.rows()]
        self.done |= set(commit.done)
        self.kept_notes.update({(kind, number): body for kind, number, body in commit.notes})

    def records(self, after_seq: int, limit: int) -> list[CompactRow]:
        return [(*row, ()) for row in self.rows if row[0] > after_seq][:limit]

    def find(self, oid: str) -> list[CompactRow]:
        return [(*row, ()) for row in self.rows if row[1] == oid]

    def knows(self, oid: str) -> bool:
        return any(entry[0] == oid for entry in self.appended) or any(row[1] == oid for row in self.rows)

    def first_seq(self) -> int:
        return self.rows[0][0] if self.rows else 1

    def last_seq(self) -> int:
        return self.rows[-1][0] if self.rows else 0

    def position(self) -> None:
        return None

    def note(self, kind: str, number: int, body: bytes) -> None:
        self.kept_notes[kind, number] = body

    def notes(self, kind: str, newest: int) -> list[tuple[int, bytes]]:
        found = sorted((number, body) for (other, number), body in self.kept_notes.items() if other == kind)
        return found[-newest:]

    def probe(self) -> None:
        self._check()

    def close(self) -> None:
        pass

    def _check(self) -> None:
        if self.error is not None:
            raise self.error
        if self.full:
            raise OSError("disk full")

    def reopened(self) -> MemoryJournal:
        """Return the journal as another process would open it."""
        journal = MemoryJournal(self.run)
        journal.appended, journal.rows = list(self.appended), list(self.rows)
        journal.done, journal.kept_notes = set(self.done), dict(self.kept_notes)
        return journal


def assert_counts_add_up(status: Status | Counts) -> None:
    """Fail unless the counts of a machine or its queue add up."""
    held = status.processed + status.errored + status.dropped + status.queue_size + status.in_flight
    assert status.put == held, f"{status.put} put, but {held} accounted for: {status}"
    counts = (status.put, status.processed, status.errored, status.dropped, status.refused, status.in_flight)
    assert min(counts) >= 0, status


def must_end(thread: threading.Thread) -> bool:
    """Whether a test must not leave a thread: it holds up the exit, or is a machine's, which has none when closed."""
    return not thread.daemon or thread.name.startswith("timbr ")


def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Running:
    """Run a call in a thread; `Running.result` gives what it returned or raised."""
    return Running(function, args, kwargs)


class Running:
    """A call that runs in another thread."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._call = (function, args, kwargs)
        self._outcome: tuple[bool, Any] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        function, args, kwargs = self._call
        try:
            self._outcome = (True, function(*args, **kwargs))
        except BaseException as error:
            self._outcome = (False, error)

    @property
    def done(self) -> bool:
        """It has returned or raised."""
        return self._outcome is not None

    def result(self, timeout_s: float = LIMIT_S) -> Any:
        """Return what the call returned, or raise what it raised."""
        self._thread.join(timeout_s)
        assert self._outcome is not None, f"{self._call[0]} did not end within {timeout_s} s"
        went_well, outcome = self._outcome
        if not went_well:
            raise outcome
        return outcome


class Machines:
    """Makes machines that are closed at the end of the test; their counts must add up then."""

    def __init__(self) -> None:
        self._made: list[Machine] = []
        self._gates: list[Gate] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Machine:
        kwargs.setdefault("serve", False)
        machine = Machine(*args, **kwargs)
        self._made.append(machine)
        return machine

    def gate(self) -> Gate:
        """Return a gate that is opened at the end of the test."""
        gate = Gate()
        self._gates.append(gate)
        return gate

    def close(self) -> None:
        """Close all, and check their counts."""
        for gate in self._gates:
            gate.open()
        for machine in self._made:
            machine.close()
            status = machine.status
            assert_counts_add_up(status)
            assert status.in_flight == 0, status


def seqs(records: Iterable[Record]) -> list[int]:
    """Return the records' numbers."""
    return [record.seq for record in records]
