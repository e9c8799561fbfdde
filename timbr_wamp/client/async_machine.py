"""`AsyncMachine`: a remote machine's verbs as coroutines, awaitable in any running loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from timbr_wamp.client.async_topics import AsyncTopics
from timbr_wamp.client.functions import as_source, function_ref
from timbr_wamp.client.records import AsyncRecords, RecordStream
from timbr_wamp.client.shared_connection import CALL_TIMEOUT_S
from timbr_wamp.contract import (
    CallResult,
    ErrorGroup,
    ErrorRow,
    Event,
    FunctionRef,
    Graph,
    Policy,
    Progress,
    PutResult,
    Record,
    RecordRow,
    RevisionInfo,
    SlotInfo,
    Status,
    TrialRow,
    record_from_call,
    record_from_row,
)
from timbr_wamp.contract.policies import PolicyLike, checked_policy, source_options
from timbr_wamp.errors import (
    CallTimeout,
    ConnectionLost,
    MachineFull,
    NoMachine,
    NoSuchProcedure,
    NotConnected,
    PythonMismatch,
)
from timbr_wamp.faces.tables import ErrorGroups, ErrorRows, Events, Revisions, SlotInfos
from timbr_wamp.names import checked_oid, new_oid

T = TypeVar("T")

#: Slots and sources may take a while to prepare, and so may a call.
LONG_TIMEOUT_S = 120.0
#: A blocking put waits in steps, so that no single call is open for very long.
PUT_STEP_S = 10.0
#: Progress is followed in steps, so that nobody follows for long in the kernel for a caller who left.
FOLLOW_STEP_S = 10.0
#: So long `AsyncMachine.wait` follows before it asks whether there is still something to wait for.
WATCH_STEP_S = 2.0
#: Between two questions of `AsyncMachine.wait`, without and with progress.
WAIT_STEP_S, PROGRESS_STEP_S = 0.05, 0.25


class AsyncMachine(AsyncTopics):
    """A machine in a kernel on the router. Any loop."""

    # --- looking ----------------------------------------------------------------------------

    async def status(self) -> Status:
        """Return state and counters, taken at one instant."""
        return await self._call(Status, "status")

    async def slots(self) -> SlotInfos:
        """Return the slots of the newest revision."""
        return SlotInfos(await self._call(list[SlotInfo], "slots"))

    async def slot(self, slot: int | str) -> SlotInfo:
        """Return one slot, by number or name."""
        return await self._call(SlotInfo, "slot", slot)

    async def errors(self, n: int = 50) -> ErrorRows:
        """Return the newest failures, oldest of them first."""
        return ErrorRows(await self._call(list[ErrorRow], "errors", n))

    async def error_groups(self, n: int = 50) -> ErrorGroups:
        """Return failures by slot, exception class and line, those seen last first."""
        return ErrorGroups(await self._call(list[ErrorGroup], "error_groups", n))

    async def graph(self) -> Graph:
        """Return which slot consumes whose value."""
        return await self._call(Graph, "graph")

    async def revisions(self) -> Revisions:
        """Return the kept revisions of the slot table, oldest first."""
        return Revisions(await self._call(list[RevisionInfo], "revisions"))

    async def events(self, n: int = 100) -> Events:
        """Return the newest events, oldest of them first."""
        return Events(await self._call(list[Event], "events", n))

    async def recent(self, n: int = 50) -> list[Record]:
        """Return the newest records, oldest of them first."""
        rows = await self._call(list[RecordRow], "recent", n)
        return [record_from_row(row) for row in rows]

    async def record(self, run: str, seq: int) -> Record:
        """Return one record whole, also one whose text is too large for a batch."""
        parts: list[str] = []
        row = await self._call(RecordRow, "record", run, seq, on_progress=parts.append)
        if row.text is None and parts:
            row.text = "".join(parts)
        return record_from_row(row)

    def records(
        self,
        after_seq: int | None = None,
        run: str | None = None,
        *,
        timeout_s: float | None = None,
        status: bool = False,
    ) -> AsyncRecords:
        """Return all records as an asynchronous iterator; see `RemoteMachine.records`."""
        stream = RecordStream(self._link, self.kernel_id, self.name, run=run, after_seq=after_seq, status=status)
        return AsyncRecords(self._link, stream, timeout_s)

    # --- messages ---------------------------------------------------------------------------

    async def put(self, message: Any, block: bool = False, timeout: float | None = None, oid: str | None = None) -> str:
        """Queue a message; return its id. See `RemoteMachine.put`."""
        oid = new_oid() if oid is None else checked_oid(oid)
        if not block:
            return await self._again(lambda: self._call(str, "put", message, oid))
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            step_s = PUT_STEP_S if until is None else min(PUT_STEP_S, max(0.0, until - time.monotonic()))
            result = await self._put_some([message], [oid], step_s)
            if not result.refused:
                return oid
            if until is not None and time.monotonic() >= until:
                raise MachineFull((await self.status()).queue_capacity)

    async def put_many(
        self, messages: Sequence[Any], oids: Sequence[str] | None = None, timeout_s: float = 0.0
    ) -> PutResult:
        """Queue messages in order, waiting at most ``timeout_s`` for room; those without are refused."""
        oids = [new_oid() for _ in messages] if oids is None else [checked_oid(oid) for oid in oids]
        return await self._put_some(list(messages), list(oids), timeout_s)

    async def _put_some(self, messages: list[Any], oids: list[str], timeout_s: float) -> PutResult:
        call_s = timeout_s + CALL_TIMEOUT_S
        return await self._again(lambda: self._call(PutResult, "put_many", messages, oids, timeout_s, timeout_s=call_s))

    async def _again(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Make an idempotent call, and again when the link dropped during it."""
        until = time.monotonic() + CALL_TIMEOUT_S
        lost = False
        while True:
            try:
                return await attempt()
            except (ConnectionLost, NotConnected):
                if time.monotonic() >= until:
                    raise
                lost = True
                await self._link.run(self._link.connection.wait_joined, max(0.0, until - time.monotonic()))
            except (NoSuchProcedure, NoMachine, CallTimeout):
                if not lost or time.monotonic() >= until:
                    raise
                # Our link is back, the bridge's not yet: it has its own back-off.
            if lost:
                await asyncio.sleep(0.2)

    async def call(self, message: Any, *, include_serialized: bool = False) -> Record:
        """Run a message through the slots; count and publish nothing."""
        result = await self._call(CallResult, "call", message, timeout_s=LONG_TIMEOUT_S)
        return record_from_call(result, time.time(), include_serialized=include_serialized)

    async def replay(self, run: str, seqs: Sequence[int]) -> list[str]:
        """Put kept messages again, each as the next attempt under its own oid; return the oids."""
        return await self._call(list[str], "replay", run, list(seqs), timeout_s=LONG_TIMEOUT_S)

    async def retry_errors(self, oids: Sequence[str] | None = None) -> list[str]:
        """Put unresolved errored messages again as the next attempt; return their oids. None: all."""
        wanted = None if oids is None else list(oids)
        return await self._call(list[str], "retry_errors", wanted, timeout_s=LONG_TIMEOUT_S)

    # --- running ----------------------------------------------------------------------------

    async def start(self) -> Status:
        """Start processing; a running machine stays so."""
        return await self._call(Status, "start")

    async def stop(self, drain: bool = False, timeout: float = 5.0) -> Status:
        """Stop; with ``drain`` finish what waits first. The queue is kept."""
        return await self._call(Status, "stop", drain, timeout, timeout_s=timeout + CALL_TIMEOUT_S)

    async def pause(self) -> Status:
        """Stop after the message under way; the rest waits."""
        return await self._call(Status, "pause")

    async def resume(self) -> Status:
        """Go on after a pause."""
        return await self._call(Status, "resume")

    async def wait(
        self, timeout: float | None = None, *, on_progress: Callable[[Progress], None] | None = None
    ) -> bool:
        """Wait until the source has ended and every message is recorded; return whether that is so.

        When the machine does not run, it returns as soon as no message is under way any more, since
        nothing would change. ``on_progress(progress)`` is called in the client's thread, and must not block.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            status = await self.status()
            reading = status.source.state in ("waiting", "reading", "restarting")
            settled = not status.queue_size and not status.in_flight and not reading
            left_s = _left(until)
            if on_progress is not None:
                followed = status.running and reading and left_s > 0
                if followed:
                    await self.follow(on_progress, interval_s=PROGRESS_STEP_S, timeout=min(left_s, WATCH_STEP_S))
                on_progress(await self.progress())
            rests = not status.running and not status.in_flight
            if settled or rests or left_s <= 0:
                return settled
            await asyncio.sleep(min(left_s, WAIT_STEP_S if on_progress is None else PROGRESS_STEP_S))

    async def progress(self) -> Progress:
        """Return how far the machine is with its source."""
        return await self._call(Progress, "progress", 1.0, 0.0)

    async def follow(
        self, on_progress: Callable[[Progress], None], *, interval_s: float = 0.5, timeout: float | None = None
    ) -> Progress:
        """Follow the progress until it is complete, the machine rests or time is up; return the last one.

        ``on_progress(progress)`` is called in the client's thread as each comes, and must not block.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            step_s = min(FOLLOW_STEP_S, _left(until))
            last = await self._call(
                Progress, "progress", interval_s, step_s, timeout_s=step_s + CALL_TIMEOUT_S, on_progress=on_progress
            )
            if last.complete or last.state not in ("running", "draining", "paused") or _left(until) <= 0:
                return last

    async def configure(
        self, *, bufsize: int | None = None, stages: int | None = None, concurrency: int | None = None
    ) -> Status:
        """Change the queue's capacity, the number of slots, or of messages under way at once."""
        return await self._call(Status, "configure", bufsize, stages, concurrency)

    # --- slots and source -------------------------------------------------------------------

    async def set(
        self, slot: int | str, function: object, *, name: str | None = None, policy: PolicyLike | None = None
    ) -> RevisionInfo:
        """Put a function in a slot, or a list of them in consecutive slots, as one revision.

        A function is a callable, source text, a `FunctionRef`, or in a list None for identity.
        ``policy`` says what becomes of a message when it raises; None leaves the slot's as it is.
        """
        what = None if policy is None else checked_policy(policy)
        if isinstance(function, (list, tuple)):
            several = [None if one is None else function_ref(one) for one in function]
            return await self._send(RevisionInfo, lambda refs: ("slot_set", slot, refs, name, what), several)
        return await self._send(RevisionInfo, lambda ref: ("slot_set", slot, ref, name, what), function_ref(function))

    async def set_policy(self, slot: int | str | None, policy: PolicyLike | None) -> RevisionInfo:
        """Set what becomes of a message when the slot raises, or with ``slot=None`` any without its own policy.

        ``policy=None``: the slot has none of its own any more.
        """
        what = None if policy is None else checked_policy(policy)
        return await self._call(RevisionInfo, "policy_set", slot, what, timeout_s=LONG_TIMEOUT_S)

    async def policy_of(self, slot: int | str | None = None) -> Policy:
        """Return the policy that a slot follows, or the machine's."""
        own = None if slot is None else (await self.slot(slot)).policy
        return (await self.status()).on_error if own is None else own

    async def set_handler(self, handler: str, options: Mapping[str, Any] | None = None) -> Status:
        """Choose the event handler by its name, made with ``options``."""
        wanted = None if options is None else dict(options)
        return await self._call(Status, "handler_set", handler, wanted, timeout_s=LONG_TIMEOUT_S)

    async def delete(self, slot: int | str) -> RevisionInfo:
        """Make a slot identity again."""
        return await self._call(RevisionInfo, "slot_delete", slot)

    async def rollback(self, number: int) -> RevisionInfo:
        """Make an earlier slot table the newest revision."""
        return await self._call(RevisionInfo, "rollback", number, timeout_s=LONG_TIMEOUT_S)

    async def trial(self, slot: int | str, function: object, n: int = 5) -> list[TrialRow]:
        """Run a function on the newest ``n`` kept records as if it were in the slot; change nothing."""
        return await self._send(list[TrialRow], lambda ref: ("trial", slot, ref, n), function_ref(function))

    async def set_source(
        self, source: object, *, total: int | None = None, replace: bool = False, **options: Any
    ) -> Status:
        """Set where messages come from: source text, a function that gives them, or a picklable iterable.

        ``options`` are fields of `SourceOptions`: ``policy``, ``on_exhausted``, ``restarts`` …
        """
        how = source_options(options) if options else None
        return await self._send(Status, lambda ref: ("source_set", ref, total, replace, how), function_ref(source))

    async def delete_source(self) -> Status:
        """Take the source away; what was read of it stays queued."""
        return await self._call(Status, "source_delete")

    async def _send(self, result: type[T], words: Callable[[Any], tuple[Any, ...]], function: Any) -> T:
        """Make a call that carries functions; as source text when the kernel's Python is another one."""
        try:
            return await self._call(result, *words(function), timeout_s=LONG_TIMEOUT_S)
        except PythonMismatch:
            several = function if isinstance(function, list) else [function]
            texts = [None if ref is None else _other_form(ref) for ref in several]
            if None in [text for text, ref in zip(texts, several, strict=True) if ref is not None]:
                raise
        return await self._call(
            result, *words(texts if isinstance(function, list) else texts[0]), timeout_s=LONG_TIMEOUT_S
        )


def _other_form(ref: FunctionRef) -> FunctionRef | None:
    return ref if ref.kind != "cloudpickle" else as_source(ref)


def _left(until: float | None) -> float:
    """Return the seconds until a moment of the monotonic clock, 0 when it is over; endless without one."""
    return float("inf") if until is None else max(0.0, until - time.monotonic())
