"""`RecordStream`: the complete records of a remote machine, in order, in a bounded buffer.

It subscribes to live batches in the background loop and fetches missing records, as its `Feed` decides. The buffer
between loop and consumer is bounded in rows and bytes: while it is full, live batches are ignored; the missing records
are fetched later. A `Gap` stands for records that the machine no longer keeps by then.

A record leaves the buffer only when it was handed over: the consumer says how much it has handed over
when it asks for what follows, and the same question gets the same answer. So nothing is lost when the
consumer is cancelled or interrupted, wherever it is. The consumers are in `timbr_wamp.client.records`.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from timbr_wamp.client.connection import Subscription
from timbr_wamp.client.feed import Deliver, Feed, Gap, Instruction, Refill, RunChanged
from timbr_wamp.client.shared_connection import SharedConnection
from timbr_wamp.client.slot_names import StreamNames
from timbr_wamp.client.tasks import Tasks, as_timbr_error, first_of
from timbr_wamp.contract import MACHINE, RecordsBatch, Status
from timbr_wamp.errors import AlreadyClosed, RunMismatch, TimbrError
from timbr_wamp.names import kernel_uri

__all__ = ["Part", "RecordStream"]

logger = logging.getLogger(__name__)

#: What is kept and handed over together.
Part = Deliver | Gap | RunChanged | Status

#: Live batches are ignored while the buffer holds so many rows, or bytes of texts.
BUFFER_ROWS, BUFFER_BYTES = 50_000, 64 * 1024 * 1024
#: Most rows that the consumer gets at once, if a part has not more: then it says again what it has handed over.
TAKE_ROWS = 2_000
#: Seconds without a batch after which the status is fetched, because the last rows may be lost.
SILENCE_S = 2.0
CALL_TIMEOUT_S = 10.0


class Consumer(Protocol):
    """Who iterates over what a stream delivers."""

    def where(self) -> tuple[int, int]:
        """Return the number of parts that were handed over, and of rows of the next one."""


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
        self._buffer: deque[tuple[Part, int, int]] = deque()  # with their rows and bytes
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
        self.consumer: weakref.ref[Consumer] | None = None

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

    async def take(self, handed_over: int, timeout_s: float | None) -> list[Part]:
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
        parts: list[Part] = []
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

    def _unread(self) -> Iterator[tuple[Part, int, int, int]]:
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

    def _add(self, part: Part) -> None:
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
