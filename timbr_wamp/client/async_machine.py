"""`AsyncMachine`: the methods of a remote machine as coroutines, awaitable in any running loop."""

from __future__ import annotations

import asyncio
import operator
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from timbr_wamp.client.async_inquiries import LONG_TIMEOUT_S, AsyncInquiries
from timbr_wamp.client.checks import checked_methods
from timbr_wamp.client.functions import function_ref
from timbr_wamp.client.functions import reference as module_reference
from timbr_wamp.client.record_stream import RecordStream
from timbr_wamp.client.records import AsyncRecords
from timbr_wamp.client.shared_connection import CALL_TIMEOUT_S
from timbr_wamp.client.sources import source_ref
from timbr_wamp.contract import (
    CallResult,
    ErrorGroup,
    ErrorRow,
    Event,
    Graph,
    Metrics,
    Policy,
    Progress,
    PutResult,
    Record,
    RecordRow,
    RevisionInfo,
    SlotInfo,
    SlotNames,
    Status,
    record_from_call,
    record_from_row,
)
from timbr_wamp.contract.policies import PolicyLike, checked_policy, source_options
from timbr_wamp.errors import (
    CallTimeout,
    ConnectionLost,
    InvalidArgument,
    MachineFull,
    NoMachine,
    NoSuchProcedure,
    NotConnected,
)
from timbr_wamp.faces.tables import ErrorGroups, ErrorRows, Events, RecordRows, Revisions, SlotInfos
from timbr_wamp.names import checked_oid, new_oid
from timbr_wamp.rows import messages_of
from timbr_wamp.user_warnings import NotRunning, not_running_text, warn_user

T = TypeVar("T")

#: Longest wait of one call of a blocking put, which is made of several calls.
PUT_STEP_S = 10.0
#: An idempotent call during which the connection dropped so many times is not repeated: it may be the cause.
LOSSES = 5
#: Longest call that follows progress, so that the machine does not follow for long when the caller is gone.
FOLLOW_STEP_S = 10.0
#: Seconds for which `AsyncMachine.wait` follows progress before it checks the status again.
WATCH_STEP_S = 2.0
#: Seconds between two polls of `AsyncMachine.wait`, without and with progress.
WAIT_STEP_S, PROGRESS_STEP_S = 0.05, 0.25


@checked_methods
class AsyncMachine(AsyncInquiries):
    """A machine in a kernel on the router. Usable from any loop."""

    # --- looking ----------------------------------------------------------------------------

    async def status(self) -> Status:
        """Return a consistent snapshot of the machine's state and counters."""
        return await self._call(Status, "status")

    async def slots(self) -> SlotInfos:
        """Return the slots of the newest revision."""
        return SlotInfos(await self._call(list[SlotInfo], "slots"))

    async def slot(self, slot: int | str) -> SlotInfo:
        """Return one slot, by number or name."""
        return await self._call(SlotInfo, "slot", slot)

    async def errors(self, n: int = 50) -> ErrorRows:
        """Return the newest failures, oldest first."""
        return ErrorRows(await self._call(list[ErrorRow], "errors", n))

    async def error_groups(self, n: int = 50) -> ErrorGroups:
        """Return failures grouped by slot, exception class and line, most recent group first."""
        return ErrorGroups(await self._call(list[ErrorGroup], "error_groups", n))

    async def metrics(self, last_s: float = 600.0) -> Metrics:
        """Return how the counters grew in the last ``last_s`` seconds, once a second; a quarter of an hour is kept."""
        return await self._call(Metrics, "metrics", last_s)

    async def graph(self) -> Graph:
        """Return which slot consumes the value of which."""
        return await self._call(Graph, "graph")

    async def revisions(self) -> Revisions:
        """Return the kept revisions of the slot table, oldest first."""
        return Revisions(await self._call(list[RevisionInfo], "revisions"))

    async def events(self, n: int = 100) -> Events:
        """Return the newest events, oldest first."""
        return Events(await self._call(list[Event], "events", n))

    async def recent(self, n: int = 50) -> RecordRows:
        """Return the newest records, oldest first, as a list that can become a table."""
        rows = await self._call(list[RecordRow], "recent", n)
        names = SlotNames()
        records = RecordRows(record_from_row(row, names=names) for row in rows)
        if records:
            names.names = (await self._slot_names.of(records[-1].run, records[-1].revision)).names
        return records

    async def record(self, run: str, seq: int) -> Record:
        """Return one complete record, also when its text is too large for a batch."""
        parts: list[str] = []
        row = await self._call(RecordRow, "record", run, seq, on_progress=parts.append)
        if row.text is None and parts:
            row.text = "".join(parts)
        names = SlotNames()
        record = record_from_row(row, names=names)
        names.names = (await self._slot_names.of(record.run, record.revision)).names
        return record

    def records(
        self,
        after_seq: int | None = None,
        run: str | None = None,
        *,
        timeout_s: float | None = None,
        status: bool = False,
    ) -> AsyncRecords:
        """Return an iterator over all records, complete and in order. A blocking one is subscribed on return.

        Records that were missed are fetched, also after a lost connection or a restart of router,
        bridge or kernel. The iterator yields a `Gap` for records that are no longer kept, and
        `RunChanged` before the first record of a new run. A record whose text is too large for a
        batch has no values and ``meta.text_bytes``; `record` fetches it. Cancelling or interrupting the
        reading loses no record. Threads or tasks that share the iterator get each record once, in all.

        Args:
            after_seq: start after this number; 0 starts with the oldest kept record, None with the next one.
            run: the run of ``after_seq``; None means the current run.
            timeout_s: end after this many seconds without a record; None means never.
            status: also yield each new `Status`.

        Raises:
            InvalidArgument: ``after_seq`` is negative.
        """
        if after_seq is not None:
            after_seq = _checked_seq(after_seq)
        stream = RecordStream(self._shared, self.kernel_id, self.name, run=run, after_seq=after_seq, status=status)
        return AsyncRecords(self._shared, stream, timeout_s, stream.names.shared)

    # --- messages ---------------------------------------------------------------------------

    async def put(self, message: Any, block: bool = False, timeout: float | None = None, oid: str | None = None) -> str:
        """Queue a message; return its id.

        The id is created by the client, so that it can safely repeat a put whose answer was lost
        with the connection.

        Args:
            block: wait for space in the queue, at most ``timeout`` seconds when given.
            oid: the message's id; a message with a known id is not queued again.

        Raises:
            MachineFull: the queue is full, with ``block`` until the timeout.
            PayloadTooLarge: the message is too large; nothing was sent.
            InvalidArgument: it holds what cannot be sent; nothing was.
        """
        oid = new_oid() if oid is None else checked_oid(oid)
        self._shared.put_to.add((self.kernel_id, self.name))
        if not block:
            return await self._with_retry(lambda: self._call(str, "put", message, oid))
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            step_s = min(PUT_STEP_S, _remaining_s(deadline))
            result = await self._put_some([message], [oid], step_s)
            if not result.refused:
                return oid
            if _remaining_s(deadline) <= 0:
                raise MachineFull((await self.status()).queue_capacity)

    async def put_many(self, messages: object, oids: Sequence[str] | None = None, timeout_s: float = 0.0) -> PutResult:
        """Queue messages in order, waiting at most ``timeout_s`` for space. Messages without space are refused.

        Args:
            messages: a list or another iterable; or a table (a DataFrame of pandas or polars, an Arrow table, batch
                or stream), whose rows are put as dicts.

        Raises:
            InvalidArgument: ``messages`` is a text, a mapping or no iterable, or holds what cannot be sent.
            NotASource: a table without columns, or with two of one name.
        """
        if isinstance(messages, list):
            put = list(messages)
        else:
            put = list(await asyncio.to_thread(messages_of, messages))  # a table takes time
        oids = [new_oid() for _ in put] if oids is None else [checked_oid(oid) for oid in oids]
        self._shared.put_to.add((self.kernel_id, self.name))
        return await self._put_some(put, oids, timeout_s)

    async def _put_some(self, messages: list[Any], oids: list[str], timeout_s: float) -> PutResult:
        call_s = timeout_s + CALL_TIMEOUT_S
        return await self._with_retry(
            lambda: self._call(PutResult, "put_many", messages, oids, timeout_s, timeout_s=call_s)
        )

    async def _with_retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Make an idempotent call, and repeat it when the connection dropped during the call."""
        deadline = time.monotonic() + CALL_TIMEOUT_S
        lost = 0
        while True:
            try:
                return await attempt()
            except (ConnectionLost, NotConnected):
                lost += 1
                if time.monotonic() >= deadline or lost >= LOSSES:
                    raise
                await self._shared.run(self._shared.connection.wait_joined, _remaining_s(deadline))
            except (NoSuchProcedure, NoMachine, CallTimeout):
                if not lost or time.monotonic() >= deadline:
                    raise
                # This client is back on the router, the bridge is not yet: it has a backoff of its own.
            if lost:
                await asyncio.sleep(0.2)

    async def call(self, message: Any, include_serialized: bool = False) -> Record:
        """Run a message through the slots and return its record, which is neither counted nor published."""
        result = await self._call(CallResult, "call", message, timeout_s=LONG_TIMEOUT_S)
        names = await self._slot_names.of("", result.revision)
        return record_from_call(result, time.time(), include_serialized=include_serialized, names=names)

    # --- running ----------------------------------------------------------------------------

    async def start(self) -> Status:
        """Start processing. No effect on a running machine."""
        return await self._call(Status, "start")

    async def stop(self, drain: bool = False, timeout: float = 5.0) -> Status:
        """Stop; with ``drain`` process the queued messages first. The queue is kept."""
        return await self._call(Status, "stop", drain, timeout, timeout_s=timeout + CALL_TIMEOUT_S)

    async def pause(self) -> Status:
        """Pause after the current message; queued messages stay queued."""
        return await self._call(Status, "pause")

    async def resume(self) -> Status:
        """Continue after a pause."""
        return await self._call(Status, "resume")

    async def wait(
        self, timeout: float | None = None, *, on_progress: Callable[[Progress], None] | None = None
    ) -> bool:
        """Wait until the source has ended and every message is recorded; return False at the timeout.

        When the machine does not run, it returns as soon as no message is in flight, because nothing would change; it
        warns (`NotRunning`) if it was not started, or a verb paused or stopped it. ``on_progress(progress)`` is
        called in the client's thread and must not block.
        """
        settled, vain = await self._wait_told(timeout, on_progress)
        if vain is not None:
            warn_user(vain, NotRunning)
        return settled

    async def _wait_told(
        self, timeout: float | None, on_progress: Callable[[Progress], None] | None = None
    ) -> tuple[bool, str | None]:
        """Do as `wait`, and return what it would warn of beside its result, for who warns in another thread."""
        vain: str | None = None
        looked = False
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            status = await self.status()
            reading = status.source.state in ("waiting", "reading", "restarting")
            settled = not status.queue_size and not status.in_flight and not reading
            left_s = _remaining_s(deadline)
            resting = not status.running and not status.in_flight
            if not looked and resting and not settled and status.reason is None:
                vain = not_running_text(self.name, status.state)
            looked = True
            if on_progress is not None:
                if status.running and reading and left_s > 0:
                    await self.follow(on_progress, interval_s=PROGRESS_STEP_S, timeout=min(left_s, WATCH_STEP_S))
                on_progress(await self.progress())
            if settled or resting or left_s <= 0:
                return settled, vain
            await asyncio.sleep(min(left_s, WAIT_STEP_S if on_progress is None else PROGRESS_STEP_S))

    async def drain(self, timeout_s: float = 30.0) -> bool:
        """Wait until every message that is put by now is recorded and read; return False at the timeout.

        Read means that this client's iterators of `records` have handed over the records, so something else must
        iterate over them meanwhile. A machine that does not run, and holds such messages, gives False at once.
        """
        deadline = time.monotonic() + timeout_s
        status = await self.status()
        run, put = status.run, status.put
        while status.processed + status.errored + status.dropped < put:
            resting = not status.running and not status.in_flight
            if resting or not _remaining_s(deadline):
                return False
            await asyncio.sleep(WAIT_STEP_S)
            status = await self.status()
            if status.run != run:  # restarted: what became of the messages is not known
                return False
        readers_done = self._shared.readers_done
        return await self._shared.run(
            readers_done, self.kernel_id, self.name, run, status.last_seq, _remaining_s(deadline)
        )

    async def progress(self) -> Progress:
        """Return the machine's progress with its source."""
        return await self._call(Progress, "progress", 1.0, 0.0)

    async def follow(
        self, callback: Callable[[Progress], object], *, interval_s: float = 0.5, timeout: float | None = None
    ) -> Progress:
        """Call ``callback(progress)`` until it is complete, the machine rests, or the timeout; return the last one.

        The blocking method calls it in the calling thread, and with the newest only when it is slow; the async one
        in the client's own thread, where it must not block.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            step_s = min(FOLLOW_STEP_S, _remaining_s(deadline))
            last = await self._call(
                Progress, "progress", interval_s, step_s, timeout_s=step_s + CALL_TIMEOUT_S, on_progress=callback
            )
            if last.complete or last.state not in ("running", "draining", "paused") or _remaining_s(deadline) <= 0:
                return last

    async def configure(
        self, *, bufsize: int | None = None, stages: int | None = None, concurrency: int | None = None
    ) -> Status:
        """Change the queue's capacity, the number of slots, or the number of messages in flight at once."""
        return await self._call(Status, "configure", bufsize, stages, concurrency)

    # --- slots and source -------------------------------------------------------------------

    async def set(
        self,
        slot: int | str,
        function: object = None,
        *,
        source: str | None = None,
        reference: str | None = None,
        name: str | None = None,
        policy: PolicyLike | None = None,
        reason: str | None = None,
        if_revision: int | None = None,
    ) -> RevisionInfo:
        """Assign a function to a slot: a callable, source text, or ``module:name`` as ``reference``.

        A list of functions is assigned to consecutive slots, as one revision; in it, None unsets a slot.
        ``policy`` is what happens to a message when the function raises; None keeps the slot's policy. ``reason`` is
        kept with the revision.

        Raises:
            InvalidArgument: not exactly one of the three was given.
            TableChanged: the newest revision is not ``if_revision``; nothing was changed.
            SlotOutOfRange, UnknownSlot, NotCallable, InvalidSource: as the machine reports.
        """
        given = [one for one in (function, source, reference) if one is not None]
        if len(given) != 1:
            raise InvalidArgument("function", "pass exactly one of function, source and reference")
        what = module_reference(reference) if reference is not None else given[0]
        how, why = None if policy is None else checked_policy(policy), (reason, if_revision)
        if isinstance(what, (list, tuple)):
            several = [None if one is None else function_ref(one) for one in what]
            return await self._send(RevisionInfo, lambda refs: ("slot_set", slot, refs, name, how, *why), several)
        ref = function_ref(what)
        return await self._send(RevisionInfo, lambda ref: ("slot_set", slot, ref, name, how, *why), ref)

    async def set_policy(
        self, slot: int | str | None, policy: PolicyLike | None, *, reason: str | None = None
    ) -> RevisionInfo:
        """Set the policy of a slot, or with ``slot=None`` of the machine.

        ``policy=None`` removes the slot's own policy.
        """
        what = None if policy is None else checked_policy(policy)
        return await self._call(RevisionInfo, "policy_set", slot, what, reason, timeout_s=LONG_TIMEOUT_S)

    async def policy_of(self, slot: int | str | None = None) -> Policy:
        """Return the policy that applies to a slot, or the machine's."""
        own = None if slot is None else (await self.slot(slot)).policy
        return (await self.status()).on_error if own is None else own

    async def set_handler(self, handler: str, options: Mapping[str, Any] | None = None) -> Status:
        """Set the event handler by its name, created with ``options``."""
        wanted = None if options is None else dict(options)
        return await self._call(Status, "handler_set", handler, wanted, timeout_s=LONG_TIMEOUT_S)

    async def delete(self, slot: int | str, *, reason: str | None = None) -> RevisionInfo:
        """Unset a slot, so that it passes its value on."""
        return await self._call(RevisionInfo, "slot_delete", slot, reason)

    async def rollback(self, number: int, *, reason: str | None = None, if_revision: int | None = None) -> RevisionInfo:
        """Make a copy of an earlier slot table the newest revision; ``reason`` is kept with it.

        Raises:
            UnknownRevision: it is not kept.
            TableChanged: the newest revision is not ``if_revision``; nothing was changed.
        """
        return await self._call(RevisionInfo, "rollback", number, reason, if_revision, timeout_s=LONG_TIMEOUT_S)

    async def set_source(
        self, /, source: object, *, total: int | None = None, replace: bool = False, **options: Any
    ) -> Status:
        """Set the source of messages: source text, a function that returns an iterable, or a picklable iterable.

        The rows of a table (DataFrame, Arrow …) or of a file of this computer (`pathlib.Path`, or the name of a .csv,
        .jsonl or .parquet file) are sent whole, at most 0.75 MB of JSON.

        Args:
            total: expected number of messages, if known.
            options: fields of `SourceOptions`: ``policy`` when the queue is full, ``on_exhausted``,
                ``idle_timeout_s``, ``restarts`` with ``backoff_s`` …

        Raises:
            SourceActive: the machine already has a source, and ``replace`` is False.
            NotASource: it is no source, or a file that is not there.
            InvalidArgument: an option is unknown, or not possible for this source; or the table is too large.
        """
        how = source_options(options) if options else None
        ref = await asyncio.to_thread(source_ref, source)  # a table takes time
        return await self._send(Status, lambda ref: ("source_set", ref, total, replace, how), ref)

    async def delete_source(self) -> Status:
        """Remove the source. Messages that were read from it stay queued."""
        return await self._call(Status, "source_delete")


def _checked_seq(after_seq: int) -> int:
    """Return a number after which records are read. With another value the reader would wait for ever."""
    seq = operator.index(after_seq)
    if seq < 0:
        raise InvalidArgument("after_seq", f"{after_seq!r} is not the number of a record, nor 0 or None")
    return seq


def _remaining_s(deadline: float | None) -> float:
    """Return the seconds until a deadline on the monotonic clock, at least 0; infinity without a deadline."""
    return float("inf") if deadline is None else max(0.0, deadline - time.monotonic())
