"""`AsyncMachine`: a remote machine's verbs as coroutines, awaitable in any running loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from timbr_wamp.client.connection import Subscription
from timbr_wamp.client.functions import as_source, function_ref
from timbr_wamp.client.link import CALL_TIMEOUT_S, Link
from timbr_wamp.client.records import AsyncRecords, RecordStream
from timbr_wamp.contract import (
    KERNEL,
    MACHINE,
    CallResult,
    ErrorRow,
    Event,
    FunctionRef,
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
from timbr_wamp.errors import (
    CallTimeout,
    ConnectionLost,
    MachineFull,
    NoMachine,
    NoSuchProcedure,
    NotConnected,
    PythonMismatch,
)
from timbr_wamp.names import DEFAULT_MACHINE, checked_component, checked_oid, kernel_uri, new_oid

T = TypeVar("T")

#: Slots and sources may take a while to prepare, and so may a call.
LONG_TIMEOUT_S = 120.0
#: A blocking put waits in steps, so that no single call is open for very long.
PUT_STEP_S = 10.0


class AsyncMachine:
    """A machine in a kernel on the router. Any loop."""

    def __init__(self, link: Link, kernel_id: str, name: str = DEFAULT_MACHINE) -> None:
        self._link = link
        self.kernel_id, self.name = kernel_id, checked_component(name)

    def __repr__(self) -> str:
        return f"<machine {self.name} of kernel {self.kernel_id}>"

    async def _call(self, result: type[T], verb: str, *args: Any, timeout_s: float | None = CALL_TIMEOUT_S) -> T:
        """Call one of the machine's procedures; ``result`` is the contract's type, for the reader."""
        try:
            value: T = await self._link.call(
                kernel_uri(self.kernel_id, self.name, verb), MACHINE[verb], *args, timeout_s=timeout_s
            )
        except NoSuchProcedure:
            await self._link.call(kernel_uri(self.kernel_id, "ping"), KERNEL["ping"])  # or the kernel is gone
            raise NoMachine(self.kernel_id, self.name) from None
        return value

    # --- looking ----------------------------------------------------------------------------

    async def status(self) -> Status:
        """Return state and counters, taken at one instant."""
        return await self._call(Status, "status")

    async def slots(self) -> list[SlotInfo]:
        """Return the slots of the newest revision."""
        return await self._call(list[SlotInfo], "slots")

    async def slot(self, slot: int | str) -> SlotInfo:
        """Return one slot, by number or name."""
        return await self._call(SlotInfo, "slot", slot)

    async def errors(self, n: int = 50) -> list[ErrorRow]:
        """Return the newest failures, oldest of them first."""
        return await self._call(list[ErrorRow], "errors", n)

    async def revisions(self) -> list[RevisionInfo]:
        """Return the kept revisions of the slot table, oldest first."""
        return await self._call(list[RevisionInfo], "revisions")

    async def events(self, n: int = 100) -> list[Event]:
        """Return the newest events, oldest of them first."""
        return await self._call(list[Event], "events", n)

    async def recent(self, n: int = 50) -> list[Record]:
        """Return the newest records, oldest of them first."""
        rows = await self._call(list[RecordRow], "recent", n)
        return [record_from_row(row) for row in rows]

    async def record(self, run: str, seq: int) -> Record:
        """Return one record whole, also one whose text is too large for a batch."""
        parts: list[str] = []
        uri = kernel_uri(self.kernel_id, self.name, "record")
        row = await self._link.call(uri, MACHINE["record"], run, seq, on_progress=parts.append)
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

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is queued or under way and the source is exhausted; False at the timeout."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            status = await self.status()
            reading = status.source.state in ("waiting", "reading")
            if not status.queue_size and not status.in_flight and not reading:
                return True
            if until is not None and time.monotonic() >= until:
                return False
            await asyncio.sleep(0.05)

    async def configure(self, *, bufsize: int | None = None, stages: int | None = None) -> Status:
        """Change the queue's capacity, or the number of slots."""
        return await self._call(Status, "configure", bufsize, stages)

    # --- slots and source -------------------------------------------------------------------

    async def set(self, slot: int | str, function: object, *, name: str | None = None) -> RevisionInfo:
        """Put a function in a slot, or a list of them in consecutive slots, as one revision.

        A function is a callable, source text, a `FunctionRef`, or in a list None for identity.
        """
        if isinstance(function, (list, tuple)):
            several = [None if one is None else function_ref(one) for one in function]
            return await self._send(RevisionInfo, lambda refs: ("slot_set", slot, refs, name), several)
        return await self._send(RevisionInfo, lambda ref: ("slot_set", slot, ref, name), function_ref(function))

    async def delete(self, slot: int | str) -> RevisionInfo:
        """Make a slot identity again."""
        return await self._call(RevisionInfo, "slot_delete", slot)

    async def rollback(self, number: int) -> RevisionInfo:
        """Make an earlier slot table the newest revision."""
        return await self._call(RevisionInfo, "rollback", number, timeout_s=LONG_TIMEOUT_S)

    async def trial(self, slot: int | str, function: object, n: int = 5) -> list[TrialRow]:
        """Run a function on the newest ``n`` kept records as if it were in the slot; change nothing."""
        return await self._send(list[TrialRow], lambda ref: ("trial", slot, ref, n), function_ref(function))

    async def set_source(self, source: object, *, total: int | None = None, replace: bool = False) -> Status:
        """Set where messages come from: source text, a function that gives them, or a picklable iterable."""
        return await self._send(Status, lambda ref: ("source_set", ref, total, replace), function_ref(source))

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

    # --- live topics ------------------------------------------------------------------------

    async def on_record(self, callback: Callable[[str, list[Any]], object]) -> Subscription:
        """Call ``callback(oid, [in, f0, …])`` for records as they come: some may be missed."""
        topic = kernel_uri(self.kernel_id, self.name)
        return await self._link.subscribe(topic, lambda oid, values, **_: callback(oid, values))

    async def on_status(self, callback: Callable[[Status], object]) -> Subscription:
        """Call ``callback(status)`` now and on each change, at most 4 times a second."""
        return await self._on("status", MACHINE["status"].result, callback, get_retained=True)

    async def on_event(self, callback: Callable[[Event], object]) -> Subscription:
        """Call ``callback(event)`` for what changes the machine's state."""
        return await self._on("event", partial(msgspec.convert, type=Event), callback)

    async def on_error(self, callback: Callable[[ErrorRow], object]) -> Subscription:
        """Call ``callback(error)`` for slots' failures, at most 10 a second; `errors` has them all."""
        return await self._on("error", partial(msgspec.convert, type=ErrorRow), callback)

    async def _on(
        self,
        name: str,
        typed: Callable[[Any], T],
        callback: Callable[[T], object],
        *,
        get_retained: bool = False,
    ) -> Subscription:
        def take(*args: Any, **kwargs: Any) -> None:
            callback(typed(args[0] if args else kwargs))

        return await self._link.subscribe(kernel_uri(self.kernel_id, self.name, name), take, get_retained=get_retained)


def _other_form(ref: FunctionRef) -> FunctionRef | None:
    return ref if ref.kind != "cloudpickle" else as_source(ref)
