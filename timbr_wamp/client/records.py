"""Read all records of a remote machine, complete and in order.

`RecordStream` subscribes to live batches in the background loop and fetches missing records, as its
`Feed` decides. Users iterate over `Records` or `AsyncRecords`. The buffer between loop and consumer
is bounded in rows and bytes: while it is full, live batches are ignored; the missing records are
fetched later. A `Gap` stands for records that the machine no longer keeps by then.

A record leaves the buffer only when it was handed over: the consumer says how much it has handed over
when it asks for what follows, and the same question gets the same answer. So nothing is lost when the
consumer is cancelled or interrupted, wherever it is.

Several threads, or tasks, may share one iterator: each item goes to one of them. There is no lock, because an
interrupt between an assignment and the lock's release would lose a record. Instead whoever has an item makes its
place the current one only if the current one is still that from which it began; see `_RecordIterator`.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from timbr_wamp.client.connection import Subscription
from timbr_wamp.client.feed import Deliver, Feed, Gap, Instruction, Refill, RunChanged
from timbr_wamp.client.shared_connection import SharedConnection
from timbr_wamp.client.slot_names import StreamNames
from timbr_wamp.client.tasks import Tasks, as_timbr_error, first_of
from timbr_wamp.contract import MACHINE, Record, RecordsBatch, SlotNames, Status, records_from_batch
from timbr_wamp.errors import AlreadyClosed, InvalidArgument, LoopClosed, RunMismatch, TimbrError
from timbr_wamp.faces.tables import RecordRows
from timbr_wamp.names import kernel_uri

__all__ = ["AsyncRecords", "Item", "RecordStream", "Records"]

logger = logging.getLogger(__name__)

Item = Record | Gap | RunChanged | Status
_Part = Deliver | Gap | RunChanged | Status

#: Live batches are ignored while the buffer holds so many rows, or bytes of texts.
BUFFER_ROWS, BUFFER_BYTES = 50_000, 64 * 1024 * 1024
#: Most rows that the consumer gets at once, if a part has not more: then it says again what it has handed over.
TAKE_ROWS = 2_000
#: Seconds without a batch after which the status is fetched, because the last rows may be lost.
SILENCE_S = 2.0
CALL_TIMEOUT_S = 10.0


class RecordStream:
    """Performs the I/O for a `Feed`, and keeps what it delivers until it was handed over. Loop's own thread only."""

    def __init__(
        self,
        shared: SharedConnection,
        kernel_id: str,
        machine: str,
        *,
        run: str | None,
        after_seq: int | None,
        status: bool,
    ) -> None:
        self._shared, self.kernel_id, self.machine = shared, kernel_id, machine
        self._with_status = status
        self._feed = Feed(run=run, after_seq=after_seq)
        self._buffer: deque[tuple[_Part, int, int]] = deque()  # with their rows and bytes
        self.buffered_rows = self.buffered_bytes = 0
        #: Number of parts that were handed over, and that the consumer has seen at least.
        self._handed_over = self._shown = 0
        #: The buffer was full: live batches are ignored until half of it was handed over.
        self._overrun = False
        self._refill: Refill | None = None
        self._last_batch_at = 0.0
        self._wake = asyncio.Event()
        self._filled = asyncio.Event()
        self._subscriptions: list[Subscription] = []
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._tasks = Tasks(self._fail)
        self._failed: TimbrError | None = None
        self.names = StreamNames()
        #: Who iterates.
        self.consumer: weakref.ref[_RecordIterator] | None = None

    async def start(self) -> None:
        """Subscribe, and fetch the machine's current run and number. Idempotent; again after a failure.

        It goes on when the caller is cancelled, whose next call waits for the same.

        Raises:
            AlreadyClosed: the stream was closed.
            TimbrError: there is no such machine, or the role may not read it.
        """
        if self._closing is not None:
            raise self._closed()
        if self._task is not None:
            return
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start(), name=f"start records of {self.kernel_id}")
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        connection = self._shared.connection
        try:
            for name, handler, retained in (("records", self._on_batch, False), ("status", self._on_status, True)):
                self._subscriptions.append(await connection.subscribe(self._uri(name), handler, get_retained=retained))
            await self._fetch_status(confirmed=False)
            await self._fetch_names()
        except BaseException:
            subscriptions, self._subscriptions = self._subscriptions, []
            for subscription in subscriptions:
                await subscription.unsubscribe()
            raise
        self._shared.join_listeners.add(self._on_rejoin)
        self._shared.streams.add(self)
        self._task = self._tasks.start(self._run(), f"records of {self.kernel_id}")
        self._task.add_done_callback(lambda _: self._filled.set())

    async def take(self, handed_over: int, timeout_s: float | None) -> list[_Part]:
        """Return what follows the first ``handed_over`` parts of all; those leave the buffer.

        A caller that is cancelled asks the same again, and gets the same. Empty after ``timeout_s`` without
        a part.

        Raises:
            AlreadyClosed: the stream or its client was closed.
            TokenRevoked, TokenRejected: the connection failed for good.
            InternalError: reading failed unexpectedly.
        """
        await self.start()
        self._forget(handed_over)
        if not self._buffer:
            self._filled.clear()
            if not self._ended():
                try:
                    async with asyncio.timeout(timeout_s):
                        await self._filled.wait()
                except TimeoutError:
                    return []
        if not self._buffer and self._ended():
            raise self._failed or self._shared.connection.failed or self._closed()
        parts: list[_Part] = []
        rows = 0
        for part, count, _ in self._buffer:
            if parts and rows + count > TAKE_ROWS:
                break
            parts.append(part)
            rows += count
        self._shown = max(self._shown, self._handed_over + len(parts))
        return parts

    def _closed(self) -> TimbrError:
        if self._closing is None:
            return self._shared.already_closed()
        return AlreadyClosed("this reader of records", "machine.records()")

    def _ended(self) -> bool:
        return self._closing is not None or self._failed is not None or self._task is None or self._task.done()

    def _forget(self, handed_over: int) -> None:
        """Let go what was handed over."""
        while self._handed_over < handed_over:
            _, rows, size_bytes = self._buffer.popleft()
            self._handed_over += 1
            self.buffered_rows -= rows
            self.buffered_bytes -= size_bytes
        if self._overrun and 2 * self.buffered_rows <= BUFFER_ROWS and 2 * self.buffered_bytes <= BUFFER_BYTES:
            self._overrun = False
            self._last_batch_at = 0.0  # fetch the status at once
            self._wake.set()

    def has_handed_over(self, run: str, seq: int) -> bool:
        """Return whether nothing up to this record is still to come."""
        if self._ended():
            return True
        if self._feed.run != run or (self._feed.expected or 1) <= seq:
            return False  # not even received
        for part, rows, _, done in self._unread():
            if isinstance(part, Deliver | Gap) and part.run == run and done < rows:
                return (part.first if isinstance(part, Gap) else first_seq_of(part) + done) > seq
        return True

    def unread(self) -> tuple[int, int]:
        """Return the number of records that were not handed over, and about their bytes. Any thread."""
        parts = list(self._unread())
        left = sum(rows - done for _, rows, _, done in parts)
        return left, sum(size_bytes * (rows - done) // rows for _, rows, size_bytes, done in parts if rows)

    def _unread(self) -> Iterator[tuple[_Part, int, int, int]]:
        """Yield the parts that were not handed over whole, with their rows, bytes, and rows that were. Any thread."""
        consumer = self.consumer() if self.consumer is not None else None
        at, row = consumer.where() if consumer is not None else (0, 0)
        first, buffered = self._handed_over, tuple(self._buffer)
        for number, (part, rows, size_bytes) in enumerate(buffered, first):
            if number >= at:
                yield part, rows, size_bytes, row if number == at else 0

    async def close(self) -> None:
        """Unsubscribe and stop. Idempotent; done to its end also when the caller is cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"close records of {self.kernel_id}")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._filled.set()
        self._shared.join_listeners.discard(self._on_rejoin)
        self._shared.streams.discard(self)
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await self._tasks.close()
        for subscription in self._subscriptions:
            await subscription.unsubscribe()

    def _fail(self, error: Exception) -> None:
        """End with an error that nobody expected; the consumer gets it after what is buffered."""
        self._failed = as_timbr_error(f"reading the records of {self.kernel_id}", error)
        self._filled.set()

    # --- incoming messages ----------------------------------------------------------------------

    def _on_batch(self, *args: Any, details: object, **kwargs: Any) -> None:
        self._last_batch_at = asyncio.get_running_loop().time()
        if self._overrun or self._failed is not None:
            return
        try:
            batch = msgspec.convert(args[0] if args else kwargs, RecordsBatch, strict=False)
            self._carry_out(self._feed.on_batch(batch.run, batch.first_seq, batch.last_seq, batch))
        except Exception as error:  # a batch that makes no sense, or a fault of ours
            logger.exception("a batch of %s could not be read", self.kernel_id)
            self._fail(error)

    def _on_status(self, *args: Any, details: Any, **kwargs: Any) -> None:
        try:
            status = args[0] if args else kwargs
            if self.names.on_status(status):
                self._wake.set()
            if self._with_status:
                self._add(MACHINE["status"].result(status))
            if not self._overrun and not details.retained:  # a retained status may be outdated
                self._carry_out(self._feed.on_status(status["run"], status["last_seq"]))
        except Exception as error:
            logger.exception("a status of %s could not be read", self.kernel_id)
            self._fail(error)

    def _on_rejoin(self) -> None:
        self._feed.on_reconnected()
        self._last_batch_at = 0.0
        self._wake.set()

    def _carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Refill):
                self._refill = instruction
                self._wake.set()
            else:
                self._add(instruction)

    def _add(self, part: _Part) -> None:
        rows, size_bytes = 1, 0
        if isinstance(part, Deliver):
            rows, size_bytes = len(part.rows), getattr(part.rows, "size_bytes", 0)
        elif isinstance(part, Gap):
            self._shared.counts.gaps += 1
        elif isinstance(part, Status):
            rows = 0
            unseen = self._handed_over + len(self._buffer) > self._shown
            if unseen and isinstance(self._buffer[-1][0], Status):
                self._buffer.pop()  # only the newest status is of interest
        self._buffer.append((part, rows, size_bytes))
        self.buffered_rows += rows
        self.buffered_bytes += size_bytes
        if self.buffered_rows >= BUFFER_ROWS or self.buffered_bytes >= BUFFER_BYTES:
            self._overrun = True
        self._filled.set()

    # --- requests ----------------------------------------------------------------------

    async def _run(self) -> None:
        """Fetch the records that the feed requests, and the status after a time without batches."""
        loop = asyncio.get_running_loop()
        finished = asyncio.ensure_future(self._shared.connection.wait_finished())
        try:
            while not finished.done():
                silent_s = loop.time() - self._last_batch_at
                if self._refill is not None:
                    await self._fetch_records(self._refill)
                elif self.names.wanted:
                    await self._fetch_names()
                elif silent_s >= SILENCE_S and not self._overrun:
                    self._last_batch_at = loop.time()
                    await self._fetch_status_if_possible()
                else:
                    timeout_s = max(SILENCE_S - silent_s, 0.1) if not self._overrun else SILENCE_S
                    self._wake.clear()
                    await first_of(self._wake.wait(), finished, timeout_s=timeout_s)
        finally:
            finished.cancel()

    async def _fetch_records(self, refill: Refill) -> None:
        self._refill = None
        if self._overrun:  # requested again after the consumer took the buffer
            self._feed.on_refill_failed(refill)
            return
        self._shared.counts.refills += 1
        try:
            answer = await self._call("records", refill.run, refill.after_seq, refill.limit)
        except RunMismatch:
            self._feed.on_refill_failed(refill)
            await self._fetch_status_if_possible()
        except TimbrError as error:
            logger.debug("could not fetch records of %s: %s", self.kernel_id, error)
            self._feed.on_refill_failed(refill)
        else:
            page = MACHINE["records"].result(answer)
            batches = [(batch.first_seq, batch) for batch in page.batches]
            self._carry_out(self._feed.on_page(page.run, page.first_available, page.last_seq, batches))

    async def _fetch_status_if_possible(self) -> None:
        try:
            await self._fetch_status(confirmed=True)
        except TimbrError as error:  # router, bridge or kernel is gone; tried again after SILENCE_S
            logger.debug("could not fetch the status of %s: %s", self.kernel_id, error)

    async def _fetch_status(self, *, confirmed: bool) -> None:
        status = await self._call("status")
        self.names.on_status(status)
        self._carry_out(self._feed.on_status(status["run"], status["last_seq"], confirmed=confirmed))

    async def _fetch_names(self) -> None:
        if self.names.wanted:
            await self.names.fetch(lambda: self._call("slots"))

    async def _call(self, name: str, *args: Any) -> Any:
        return await self._shared.connection.call(self._uri(name), *args, timeout_s=CALL_TIMEOUT_S)

    def _uri(self, name: str) -> str:
        return kernel_uri(self.kernel_id, self.machine, name)


def first_seq_of(part: Deliver) -> int:
    """Return the number of a part's first record."""
    assert isinstance(part.rows, RecordsBatch)
    return part.rows.first_seq


class _Place(NamedTuple):
    """How far a consumer has come: replaced whole when an item is handed over, by one assignment."""

    #: Number of parts before ``parts``.
    before: int
    parts: list[_Part]
    #: The next item: row ``row`` of part ``part``.
    part: int
    row: int


class _RecordIterator:
    """Base of both iterators: the stream, and what was handed over of what was taken from it.

    ``if self._place is seen: self._place = place; return item`` hands an item over. Between the comparison and the
    return CPython, with its global lock, delivers no interrupt and switches to no other thread: it does so after
    calls, at jumps back and at the entry of a function only.
    """

    def __init__(
        self, shared: SharedConnection, stream: RecordStream, timeout_s: float | None, names: SlotNames | None = None
    ) -> None:
        self._shared, self._stream, self._timeout_s = shared, stream, timeout_s
        #: What the records' slots are called; the stream keeps it up to date.
        self._names = SlotNames() if names is None else names
        self._place = _Place(0, [], 0, 0)
        #: The part that was parsed last, and its records.
        self._parsed: tuple[Deliver | None, list[Record]] = (None, [])
        #: It gives no more items; and its stream is closed, which an interrupted close leaves to the next one.
        self._closed = self._released = False
        #: What an interrupted `take` gives back, to be handed over again.
        self._again: deque[Item] = deque()
        stream.consumer = weakref.ref(self)

    def where(self) -> tuple[int, int]:
        """Return the number of parts that were handed over whole, and of records of the next one. Any thread."""
        before, _, part, row = self._place
        return before + part, row

    def _next(self, seen: _Place) -> tuple[Item | None, _Place]:
        """Return the item at a place, and the place after it; None when more must be taken."""
        before, parts, at, row = seen
        while at < len(parts):
            part = parts[at]
            if not isinstance(part, Deliver):
                return part, _Place(before, parts, at + 1, 0)
            if row < len(part.rows):
                return self._records_of(part)[row], _Place(before, parts, at, row + 1)
            at, row = at + 1, 0
        return None, _Place(before + at, [], 0, 0)

    def _is_end(self, seen: _Place, place: _Place, parts: list[_Part]) -> bool:
        """Go on with the parts that follow; return whether there were none for too long. Not if another came first."""
        taken = place._replace(parts=parts)
        if self._place is not seen:
            return False
        self._place = taken
        return not parts

    def _records_of(self, part: Deliver) -> list[Record]:
        """Return the records of a part, all of which are parsed when the first is handed over."""
        known, records = self._parsed
        if known is not part:
            assert isinstance(part.rows, RecordsBatch)
            records = records_from_batch(part.rows, self._names)
            self._parsed = (part, records)
        return records

    def __del__(self) -> None:
        if not self._released:
            try:
                self._shared.submit(self._stream.close)
            except TimbrError:
                return  # the client is closed, and with it the stream


class _Taken:
    """What `take` has read so far."""

    def __init__(self, n: int) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InvalidArgument("n", f"{n!r} is not a whole number of records, 1 or more")
        self._left = n
        self.items: list[Item] = []

    def add(self, item: Item) -> bool:
        """Note an item; return whether that was the last record."""
        self.items.append(item)
        self._left -= isinstance(item, Record)
        return not self._left

    def rows(self) -> RecordRows:
        """Return the records, and what is missing between them."""
        rows = RecordRows(item for item in self.items if isinstance(item, Record))
        rows.gaps = [item for item in self.items if isinstance(item, Gap | RunChanged)]
        return rows


class Records(_RecordIterator):
    """An iterator over all records; see `RemoteMachine.records`. Any thread.

    It ends by `close`, at the end of ``with``, or when it is garbage-collected. Ctrl-C loses no record: the
    next one is that which was not handed over. Threads that share it get every item once, in all; `close` ends the
    iteration of all of them.
    """

    @staticmethod
    def started(shared: SharedConnection, records: AsyncRecords) -> Records:
        """Return the blocking iterator for an async one, subscribed."""
        records._released = True  # this one closes their stream
        return Records(shared, records._stream, records._timeout_s, records._names).start()

    def start(self) -> Records:
        """Subscribe now, if it has not. Messages that are put afterwards are included.

        Raises:
            AlreadyClosed: it was closed.
        """
        self._shared.wait(self._stream.start)
        return self

    def __iter__(self) -> Records:
        return self

    def __next__(self) -> Item:
        again = self._again
        if again:  # handed over without a call, as `_RecordIterator` says
            first = again[0]
            del again[0]
            return first
        while not self._closed:
            seen = self._place
            item, place = self._next(seen)
            if item is None:
                self._take(seen, place)
            elif self._place is seen:
                self._place = place
                return item
        raise StopIteration

    def take(self, n: int) -> RecordRows:
        """Return the next ``n`` records as a list that can become a table; fewer when the iterator ends first.

        Where records are missing, the list's ``gaps`` tells. Interrupted, it loses none.

        Raises:
            InvalidArgument: ``n`` is no whole number above 0.
        """
        taken = _Taken(n)
        try:
            for item in self:
                if taken.add(item):
                    break
        except BaseException:
            self._again.extend(taken.items)
            raise
        return taken.rows()

    def _take(self, seen: _Place, place: _Place) -> None:
        """Wait for what follows a place; close when nothing came in time."""
        try:
            parts = self._shared.wait(self._stream.take, place.before, self._timeout_s)
        except AlreadyClosed:
            if not self._closed:
                raise
            return  # another thread closed this iterator
        if self._is_end(seen, place, parts):
            self.close()

    def close(self) -> None:
        """Unsubscribe. Idempotent."""
        self._closed = True
        if not self._released:
            with suppress(LoopClosed):  # the client is closed, and with it the stream
                self._shared.wait(self._stream.close)
            self._released = True

    def __enter__(self) -> Records:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncRecords(_RecordIterator):
    """An asynchronous iterator over all records, for any loop.

    It subscribes at `start`, at ``async with``, or when the first item is requested. ``anext`` may be cancelled,
    by `asyncio.wait_for` for example: the next one gives what was not handed over. Tasks that share it get every
    item once, in all; `aclose` ends the iteration of all of them.
    """

    async def start(self) -> AsyncRecords:
        """Subscribe now. Messages that are put afterwards are included. Idempotent."""
        await self._shared.run(self._stream.start)
        return self

    def __aiter__(self) -> AsyncRecords:
        return self

    async def __anext__(self) -> Item:
        again = self._again
        if again:  # handed over without a call, as `_RecordIterator` says
            first = again[0]
            del again[0]
            return first
        while not self._closed:
            seen = self._place
            item, place = self._next(seen)
            if item is None:
                await self._take(seen, place)
            elif self._place is seen:
                self._place = place
                return item
        raise StopAsyncIteration

    async def take(self, n: int) -> RecordRows:
        """Return the next ``n`` records as a list that can become a table; fewer when the iterator ends first.

        Where records are missing, the list's ``gaps`` tells. Cancelled, it loses none.

        Raises:
            InvalidArgument: ``n`` is no whole number above 0.
        """
        taken = _Taken(n)
        try:
            async for item in self:
                if taken.add(item):
                    break
        except BaseException:
            self._again.extend(taken.items)
            raise
        return taken.rows()

    async def _take(self, seen: _Place, place: _Place) -> None:
        """Wait for what follows a place; close when nothing came in time."""
        try:
            parts = await self._shared.run(self._stream.take, place.before, self._timeout_s)
        except AlreadyClosed:
            if not self._closed:
                raise
            return  # another task closed this iterator
        if self._is_end(seen, place, parts):
            await self.aclose()

    async def aclose(self) -> None:
        """Unsubscribe. Idempotent."""
        self._closed = True
        if not self._released:
            with suppress(LoopClosed):
                await self._shared.run(self._stream.close)
            self._released = True

    async def __aenter__(self) -> AsyncRecords:
        return await self.start()

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()
