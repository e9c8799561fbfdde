"""`Machine`: numbered slots that every message runs through, every result published.

The face over slots, ledger, worker, feeder and wire; it decides little itself. Usable without
IPython, WAMP or a router; inside an IPython kernel it opens its local wire by itself, so that a
bridge finds it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import orjson

from timbr_wamp import plugins
from timbr_wamp.contract import (
    ErrorRow,
    Event,
    Record,
    RecordMeta,
    RevisionInfo,
    SlotInfo,
    SourceStatus,
    Status,
    record_from_row,
)
from timbr_wamp.errors import (
    InvalidArgument,
    MachineClosed,
    MachineEmpty,
    SourceActive,
)
from timbr_wamp.machine.again import Again
from timbr_wamp.machine.events import EventLog
from timbr_wamp.machine.ledger import Ledger, remaining
from timbr_wamp.machine.plan import InlineExecutor, run_plain
from timbr_wamp.machine.protocols import Clock, Executor, Hook, Journal, Sink
from timbr_wamp.machine.recorder import Recorder
from timbr_wamp.machine.slots import Revision, Slot, SlotFunction, SlotTable, identity
from timbr_wamp.machine.sources import Feeder
from timbr_wamp.machine.views import slot_counts, slot_info, warn_of_aliases, wire_row
from timbr_wamp.machine.worker import BATCH_MESSAGES, Worker
from timbr_wamp.names import DEFAULT_MACHINE, checked_component, checked_oid, new_oid, new_run


class Machine:
    """A persistent, reconfigurable, per-message data processor. Any thread may use it.

    Args:
        stages: number of slots.
        bufsize: messages that may wait.
        name: its name on the wire; the second machine of a kernel needs one of its own.
        serve: open the local wire now. None: only inside an IPython kernel.
        namespace: what source text of slots may refer to; in a kernel the user's variables.
        executor: how messages run; inline by default.
        journal, sinks, hooks: see `timbr_wamp.machine.protocols`.
        clock: UTC seconds.
    """

    def __init__(
        self,
        stages: int = 8,
        bufsize: int = 1024,
        *,
        name: str = DEFAULT_MACHINE,
        serve: bool | None = None,
        namespace: dict[str, object] | None = None,
        executor: Executor | None = None,
        journal: Journal | None = None,
        sinks: Sequence[Sink] = (),
        hooks: Sequence[Hook] = (),
        clock: Clock = time.time,
    ) -> None:
        self.name = _machine_name(name)
        self._clock = clock
        self._started_at = clock()
        self._table = SlotTable(stages, clock)
        self._ledger = Ledger(bufsize, name)
        self.event_log = EventLog(clock, hooks)
        self._feeder: Feeder | None = None
        #: The source whose end and last record were told, and the one whose are being told.
        self._drained: Feeder | None = None
        self._drained_told: Feeder | None = None
        self._verbs = threading.Lock()
        self._closed = False
        self._wire: Any = None
        self._namespace = namespace
        #: The records that are kept, and how they come about; for those who build on the machine.
        self.recorder = Recorder(
            run=journal.run if journal is not None else new_run(), ledger=self._ledger, clock=clock, journal=journal,
            sinks=sinks,
        )  # fmt: skip
        self._again = Again(self._ledger, self.recorder, clock)
        self._worker = Worker(
            name=name, ledger=self._ledger, executor=executor or InlineExecutor(clock), current=self._table.current,
            events=self.event_log, clock=clock, recorder=self.recorder, refill=self._refill, on_idle=self._tell_drained,
        )  # fmt: skip
        face = plugins.kernel_face() if serve is None or namespace is None else None
        if face is not None and namespace is None:
            self._namespace = face.namespace()
        if serve or (serve is None and face is not None):
            self.serve()

    # --- slots ---

    @overload
    def __getitem__(self, slot: int | str) -> SlotFunction: ...
    @overload
    def __getitem__(self, slot: slice) -> list[SlotFunction]: ...
    def __getitem__(self, slot: int | str | slice) -> SlotFunction | list[SlotFunction]:
        """Return a slot's function; of an unset slot `identity`."""
        slots = self._table.current().slots
        if isinstance(slot, slice):
            return [s.function or identity for s in slots[slot]]
        return slots[self._table.number_of(slot)].function or identity

    def __setitem__(self, slot: int | str | slice, function: Any) -> None:
        """Put a function in a slot, or several in a slice as one revision."""
        if not isinstance(slot, slice):
            self.set(slot, function)
            return
        numbers = range(len(self))[slot]
        functions = list(function)
        if len(functions) != len(numbers):
            raise InvalidArgument("functions", f"{len(functions)} for {len(numbers)} slots")
        self.assign(dict(zip(numbers, functions, strict=True)))

    def __delitem__(self, slot: int | str | slice) -> None:
        """Make a slot identity again."""
        numbers = range(len(self))[slot] if isinstance(slot, slice) else [self._table.number_of(slot)]
        self.assign(dict.fromkeys(numbers))

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self._table.current().slots)

    def set(
        self,
        slot: int | str,
        function: SlotFunction | None,
        *,
        name: str | None = None,
        source: str | None = None,
        author: str | None = None,
    ) -> RevisionInfo:
        """Put ``function`` (None or `identity`: nothing) in a slot and return the new revision.

        Messages under way keep the table they began with. ``source`` is shown to people instead of
        the text that Python knows.
        """
        number = self._table.number_of(slot)
        return self.assign(
            {number: function},
            names={number: name} if name else {},
            sources={number: source} if source else {},
            author=author,
        )

    def assign(
        self,
        functions: Mapping[int, SlotFunction | None],
        *,
        names: Mapping[int, str] | None = None,
        sources: Mapping[int, str] | None = None,
        author: str | None = None,
    ) -> RevisionInfo:
        """Put several functions (None: nothing) in slots by number, as one revision."""
        wanted = {n: None if f is identity else f for n, f in functions.items()}
        return self._changed(self._table.assign(wanted, names=names, sources=sources, author=author))

    def slot_number(self, slot: int | str) -> int:
        """Return the number of a slot given by number or name."""
        return self._table.number_of(slot)

    def slot_on_trial(self, number: int, function: SlotFunction) -> Slot:
        """Return ``function`` as it would be in slot ``number``, without putting it there."""
        return self._table.slot_on_trial(number, function)

    def rollback(self, number: int, *, author: str | None = None) -> RevisionInfo:
        """Make the slot table of an earlier revision the newest one."""
        return self._changed(self._table.rollback(number, author=author))

    def resize(self, stages: int, *, author: str | None = None) -> RevisionInfo:
        """Change the number of slots, at the end of the table; set slots are never taken away."""
        return self._changed(self._table.resize(stages, author=author))

    def _changed(self, revision: Revision) -> RevisionInfo:
        self.event_log.add("slot_changed", revision.author, revision=revision.number, change=revision.change)
        return revision.info()

    @property
    def slots(self) -> list[SlotInfo]:
        """The slots of the newest revision."""
        return [slot_info(slot) for slot in self._table.current().slots]

    @property
    def revisions(self) -> list[RevisionInfo]:
        """The kept revisions, oldest first."""
        return [revision.info() for revision in self._table.revisions()]

    @property
    def revision(self) -> int:
        """Number of the newest revision."""
        return self._table.current().number

    def slot_table(self) -> Revision:
        """Return the newest revision itself: for executors, graphs and trials."""
        return self._table.current()

    # --- messages ---

    def __call__(self, message: object, *, include_serialized: bool = False) -> Record:
        """Run ``message`` through the slots in this thread; count and publish nothing."""
        revision = self._table.current()
        begun = self._clock()
        values, texts, failures = run_plain(revision, message)
        warn_of_aliases(revision, values, texts)
        meta = RecordMeta(
            run=self.run, seq=0, attempt=0, revision=revision.number, received_at=begun,
            finished_at=self._clock(), errored=bool(failures),
        )  # fmt: skip
        shown = [text.decode() for text in texts] if include_serialized else None
        return Record.make(new_oid(begun), values, meta, shown)

    def put(self, message: object, block: bool = False, timeout: float | None = None, oid: str | None = None) -> str:
        """Queue ``message`` and return its id. An ``oid`` given is put at most once.

        Raises:
            MachineFull: no room; with ``block`` after ``timeout`` seconds (None: no limit).
            MachineClosed: the machine was closed.
            InvalidName: ``oid`` is no message id.
        """
        now = self._clock()
        known = oid is not None
        key = checked_oid(oid) if oid is not None else new_oid(now)
        self._ledger.put((key, message, now, 1), block=block, timeout_s=timeout, known=known)
        return key

    def get(self, block: bool = False, timeout: float = 0.5) -> tuple[str, ...]:
        """Step one message: process, number and publish it; return ``(oid, in_s, f0_s, …)``.

        Raises:
            MachineRunning: only an idle, paused or stopped machine is stepped.
            MachineEmpty: no message waits, with ``block`` after ``timeout`` seconds.
        """
        if self._closed:
            raise MachineClosed(self.name)
        feeder = self._feeder
        wait_s = timeout if block else (0.05 if feeder is not None and not feeder.ended else 0.0)
        row = self._worker.step(wait_s, self._refill_one)
        if row is None:
            raise MachineEmpty
        self._tell_drained()
        values = orjson.loads(row[2])
        return (row[1], *(orjson.dumps(value).decode() for value in values))

    # --- source ---

    @property
    def source(self) -> SourceStatus:
        """Where the messages come from. Assign an iterable, generator function, `Source` …; ``del`` it first."""
        return self.status.source

    @source.setter
    def source(self, source: object) -> None:
        self.set_source(source)

    @source.deleter
    def source(self) -> None:
        self.delete_source()

    def set_source(
        self, source: object, *, total: int | None = None, replace: bool = False, author: str | None = None
    ) -> None:
        """Read messages from ``source`` while running; it waits while the queue is full.

        ``total`` is how many there will be, for progress; what has a length tells by itself.

        Raises:
            SourceActive: there is one already that has not ended; ``replace=True`` takes its place.
            NotASource: nothing that gives messages.
        """
        if self._closed:
            raise MachineClosed(self.name)
        old = self._feeder
        if old is not None and not old.ended and not replace:
            raise SourceActive(old.status(0.0).state)
        feeder = Feeder(
            source, total, ledger=self._ledger, clock=self._clock, new_oid=new_oid, on_end=self._source_ended,
            name=self.name,
        )  # fmt: skip
        if old is not None:
            old.close()
        self._feeder = feeder
        self.event_log.add("source_set", author, total=feeder.total)
        self._permit_by_state()

    def delete_source(self, *, author: str | None = None) -> None:
        """Take the source away; what was read of it stays queued."""
        feeder, self._feeder = self._feeder, None
        if feeder is not None:
            feeder.close(timeout_s=0.2)
            self.event_log.add("source_deleted", author, count=feeder.count)

    def _source_ended(self, feeder: Feeder) -> None:
        if feeder is self._feeder:
            if feeder.error is not None:
                self.event_log.add("source_failed", error=feeder.status(0.0).error, count=feeder.count)
            else:
                self.event_log.add("exhausted", count=feeder.count)
        self._tell_drained()
        self._ledger.wake()

    def _refill(self) -> None:
        feeder = self._feeder
        if feeder is not None and feeder.ready and not feeder.ended:
            feeder.refill(BATCH_MESSAGES)

    def _refill_one(self) -> None:
        feeder = self._feeder
        if feeder is not None and not feeder.ended and self._ledger.idle():
            feeder.permit(1)
            feeder.refill(1)

    def _tell_drained(self) -> None:
        feeder = self._feeder
        if feeder is None or feeder is self._drained or not feeder.ended or not self._ledger.idle():
            return
        with self._verbs:
            if feeder is self._drained_told:
                return
            self._drained_told = feeder
        self.event_log.add("drained", count=feeder.count)
        self._drained = feeder
        self._ledger.wake()

    # --- life ---

    def start(self, *, author: str | None = None) -> None:
        """Process messages from now on; a running machine stays so."""
        self._worker.start(author)
        self._permit_by_state()

    def pause(self, *, author: str | None = None) -> None:
        """Begin no further message; what waits stays, and the source waits."""
        self._worker.pause(author)
        self._permit_by_state()

    def resume(self, *, author: str | None = None) -> None:
        """Go on after a pause."""
        self._worker.resume(author)
        self._permit_by_state()

    def stop(self, drain: bool = False, timeout: float = 5.0, *, author: str | None = None) -> None:
        """Stop; with ``drain`` finish what waits first. The queue is never cleared.

        Raises:
            CallTimeout: a message was still under way after ``timeout`` seconds; it is recorded when it ends.
        """
        if self._feeder is not None:
            self._feeder.permit(0)
        self._worker.stop(drain=drain, timeout_s=timeout, author=author)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the source has ended and every message is recorded; return whether that is so.

        Returns at once when the machine does not run, since nothing would change.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._settled():
            left = remaining(deadline)
            if not self._worker.running or left == 0:
                return self._settled()
            feeder = self._feeder
            wait_s = 0.25 if left is None else min(left, 0.25)
            self._ledger.wait_change(wait_s, settled=feeder is None or feeder.ended)
        return True

    def _settled(self) -> bool:
        feeder = self._feeder
        return (feeder is None or feeder is self._drained) and self._ledger.idle()

    def _permit_by_state(self) -> None:
        """Let the source read while the machine runs; verbs of several threads end in what is so."""
        with self._verbs:
            if self._feeder is not None:
                self._feeder.permit(float("inf") if self._worker.state == "running" else 0)
        self._ledger.wake()

    def close(self, timeout: float = 5.0) -> None:
        """Stop, take the local wire away, release the source. Idempotent, bounded, never raises."""
        if self._closed:
            return
        self._closed = True
        self._ledger.close()
        if self._feeder is not None:
            self._feeder.close(timeout_s=0.2)
        self._worker.close(timeout)
        self.event_log.add("closed")
        self.unserve()

    def __enter__(self) -> Machine:
        """Return the machine; leaving the block closes it."""
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- looking ---

    @property
    def run(self) -> str:
        """Identity of the numbering of records."""
        return self.recorder.run

    @property
    def running(self) -> bool:
        """It processes messages, and the thread that does so lives."""
        return self._worker.running

    @property
    def status(self) -> Status:
        """State and counters at one instant."""
        worker, recorder, now = self._worker, self.recorder, self._clock()
        counts = self._ledger.snapshot()
        rates = recorder.rates.rates(now, recorder.count)
        feeder = self._feeder
        return Status(
            name=self.name, run=recorder.run, state=worker.state, reason=worker.reason, running=worker.running,
            put=counts.put, processed=counts.processed, errored=counts.errored, dropped=counts.dropped,
            refused=counts.refused, queue_size=counts.queue_size, queue_capacity=counts.queue_capacity,
            in_flight=counts.in_flight, last_seq=recorder.ring.last_seq, last_oid=recorder.last_oid,
            current_oid=worker.current_oid, last_processed_time=recorder.last_processed_time,
            revision=self._table.current().number, rate_per_s=rates, uptime_s=now - self._started_at, time=now,
            source=SourceStatus() if feeder is None else feeder.status(rates[1]),
            slots=[slot_counts(slot) for slot in self._table.current().slots if slot.function is not None],
        )  # fmt: skip

    @property
    def errors(self) -> list[ErrorRow]:
        """The kept failures, oldest first."""
        return self.recorder.errors.rows(1_000_000)

    def recent(self, n: int = 50) -> list[Record]:
        """Return the newest records, oldest of them first."""
        return [record_from_row(wire_row(row)) for row in self.recorder.ring.newest(n)]

    def events(self, n: int = 100) -> list[Event]:
        """Return the newest events, oldest of them first."""
        return self.event_log.newest(n)

    # --- again ---

    def retry_errors(self, oids: Sequence[str] | None = None) -> list[str]:
        """Put unresolved errored messages again, each as the next attempt; return their oids.

        Those that find no room can be retried later.

        Raises:
            MachineFull: there was room for none of them.
        """
        return self._again.retry(oids)

    def replay(self, run: str, seqs: Sequence[int]) -> list[str]:
        """Put kept messages again under their oids, each as the next attempt; return the oids.

        Messages are replayed as their JSON texts tell them, in order, as long as there is room.

        Raises:
            RunMismatch, RecordNotFound: one of them is not kept; nothing was put.
            PayloadTooLarge: one was too large to be kept whole; nothing was put.
            MachineFull: there was room for none of them.
        """
        return self._again.replay(run, seqs)

    # --- wire ---

    def serve(self, *, transport: Literal["ipc", "tcp"] | None = None) -> None:
        """Open the local wire: PUB of records, control, and the runtime file that names them.

        A machine of the same name that this process serves already gives way. ``transport``: ipc
        where there is any, else tcp on 127.0.0.1 with CurveZMQ.
        """
        from timbr_wamp.machine.wire import Wire  # zmq is loaded by who serves

        if self._closed:
            raise MachineClosed(self.name)
        if self._wire is None:
            wire = self._wire = Wire.open(self, transport)
            self.recorder.replace_sinks(lambda sinks: (*sinks, wire.publisher))

    @property
    def endpoint(self) -> str | None:
        """ZeroMQ endpoint of the records; None when it is not served."""
        return None if self._wire is None else str(self._wire.file.pub)

    def unserve(self) -> None:
        """Take the local wire away; the machine goes on."""
        wire, self._wire = self._wire, None
        if wire is not None:
            self.recorder.replace_sinks(lambda sinks: tuple(sink for sink in sinks if sink is not wire.publisher))
            wire.close()

    @property
    def namespace(self) -> dict[str, object]:
        """What source text of slots may refer to."""
        return {} if self._namespace is None else self._namespace

    def configure(self, *, bufsize: int | None = None, stages: int | None = None, author: str | None = None) -> None:
        """Change the queue's capacity or the number of slots, live."""
        if stages is not None and stages != len(self):
            self.resize(stages, author=author)
        if bufsize is not None:
            self._ledger.resize(bufsize)
            self.event_log.add("configured", author, bufsize=bufsize)

    def __repr__(self) -> str:
        status = self.status
        return (
            f"<Machine {self.name!r} {status.state}: {status.processed} processed, {status.errored} errored, "
            f"{status.queue_size} waiting, revision {status.revision}>"
        )


def _machine_name(name: str) -> str:
    from timbr_wamp.contract import RESERVED_NAMES

    checked_component(name)
    if name in RESERVED_NAMES:
        raise InvalidArgument("name", f"{name!r} is a kernel's own name on the wire; choose another")
    return name
