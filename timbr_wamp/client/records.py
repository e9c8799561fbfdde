"""Read all records of a remote machine, complete and in order.

`RecordStream` subscribes to live batches in the background loop and fetches missing records, as its
`Feed` decides. Users iterate over `Records` or `AsyncRecords`. The buffer between loop and consumer
holds `BUFFER_ROWS` and one page: while it is full, live batches are ignored; the missing records are
fetched later. A `Gap` stands for records that the machine no longer keeps by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from timbr_wamp.client.connection import Subscription
from timbr_wamp.client.feed import Deliver, Feed, Gap, Instruction, Refill, RunChanged
from timbr_wamp.client.shared_connection import SharedConnection
from timbr_wamp.contract import MACHINE, Record, RecordRow, Status, record_from_row
from timbr_wamp.errors import LoopClosed, RunMismatch, TimbrError
from timbr_wamp.names import kernel_uri

__all__ = ["AsyncRecords", "Item", "RecordStream", "Records"]

logger = logging.getLogger(__name__)

Item = Record | Gap | RunChanged | Status
_Buffered = Deliver | Gap | RunChanged | Status

BUFFER_ROWS = 10_000
#: Seconds without a batch after which the status is fetched, because the last rows may be lost.
SILENCE_S = 2.0
CALL_TIMEOUT_S = 10.0


class RecordStream:
    """Performs the I/O for a `Feed`. Loop's own thread only."""

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
        self._shared, self._kernel_id, self._machine = shared, kernel_id, machine
        self._with_status = status
        self._feed = Feed(run=run, after_seq=after_seq)
        self._buffer: deque[_Buffered] = deque()
        self._buffered_rows = 0
        #: The buffer was full: live batches are ignored until the consumer takes it.
        self._overrun = False
        self._refill: Refill | None = None
        self._last_batch_at = 0.0
        self._wake = asyncio.Event()
        self._filled = asyncio.Event()
        self._subscriptions: list[Subscription] = []
        self._task: asyncio.Task[None] | None = None
        self._started = asyncio.Lock()
        self._closed = False

    async def start(self) -> None:
        """Subscribe, and fetch the machine's current run and number. Idempotent.

        Raises:
            TimbrError: there is no such machine, or the role may not read it.
        """
        async with self._started:
            if self._task is not None or self._closed:
                return
            connection = self._shared.connection
            try:
                for name, handler, retained in (("records", self._on_batch, False), ("status", self._on_status, True)):
                    topic = self._uri(name)
                    self._subscriptions.append(await connection.subscribe(topic, handler, get_retained=retained))
                await self._fetch_status(confirmed=False)
            except BaseException:
                await self.close()
                raise
            self._shared.join_listeners.add(self._on_rejoin)
            self._task = asyncio.create_task(self._run(), name=f"records of {self._kernel_id}")
            self._task.add_done_callback(lambda _: self._filled.set())

    async def take(self, timeout_s: float | None) -> list[_Buffered]:
        """Return all buffered items; an empty list after ``timeout_s`` without an item.

        Raises:
            LoopClosed: the stream or its client was closed.
            TokenRevoked, TokenRejected: the connection failed for good.
        """
        await self.start()
        if not self._buffer:
            self._filled.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._filled.wait()
            except TimeoutError:
                return []
        if not self._buffer and (self._closed or self._task is None or self._task.done()):
            raise self._shared.connection.failed or LoopClosed("records")
        taken, self._buffer, self._buffered_rows = list(self._buffer), deque(), 0
        if self._overrun:
            self._overrun = False
            self._last_batch_at = 0.0  # fetch the status at once
            self._wake.set()
        return taken

    async def close(self) -> None:
        """Unsubscribe and stop. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._shared.join_listeners.discard(self._on_rejoin)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._filled.set()

    # --- incoming messages ----------------------------------------------------------------------

    def _on_batch(self, *args: Any, details: object, **kwargs: Any) -> None:
        self._last_batch_at = asyncio.get_running_loop().time()
        if self._overrun:
            return
        batch = args[0] if args else kwargs
        self._carry_out(self._feed.on_batch(batch["run"], batch["first_seq"], batch["last_seq"], batch["rows"]))

    def _on_status(self, *args: Any, details: Any, **kwargs: Any) -> None:
        status = args[0] if args else kwargs
        if self._with_status:
            self._add(MACHINE["status"].result(status), 0)
        if not self._overrun and not details.retained:  # a retained status may be outdated
            self._carry_out(self._feed.on_status(status["run"], status["last_seq"]))

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
                self._add(instruction, len(instruction.rows) if isinstance(instruction, Deliver) else 1)

    def _add(self, item: _Buffered, rows: int) -> None:
        if isinstance(item, Status) and self._buffer and isinstance(self._buffer[-1], Status):
            self._buffer.pop()  # only the newest status is of interest
        self._buffer.append(item)
        self._buffered_rows += rows
        self._overrun = self._overrun or self._buffered_rows >= BUFFER_ROWS
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
                elif silent_s >= SILENCE_S and not self._overrun:
                    self._last_batch_at = loop.time()
                    await self._fetch_status_if_possible()
                else:
                    await self._sleep(max(SILENCE_S - silent_s, 0.1) if not self._overrun else SILENCE_S, finished)
        finally:
            finished.cancel()

    async def _sleep(self, timeout_s: float, finished: asyncio.Future[Any]) -> None:
        self._wake.clear()
        wake = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait([wake, finished], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            wake.cancel()

    async def _fetch_records(self, refill: Refill) -> None:
        self._refill = None
        if self._overrun:  # requested again after the consumer took the buffer
            self._feed.on_refill_failed(refill)
            return
        try:
            page = await self._call("records", refill.run, refill.after_seq, refill.limit)
        except RunMismatch:
            self._feed.on_refill_failed(refill)
            await self._fetch_status_if_possible()
        except TimbrError as error:
            logger.debug("could not fetch records of %s: %s", self._kernel_id, error)
            self._feed.on_refill_failed(refill)
        else:
            self._carry_out(self._feed.on_page(page["run"], page["first_available"], page["last_seq"], page["rows"]))

    async def _fetch_status_if_possible(self) -> None:
        try:
            await self._fetch_status(confirmed=True)
        except TimbrError as error:  # router, bridge or kernel is gone; tried again after SILENCE_S
            logger.debug("could not fetch the status of %s: %s", self._kernel_id, error)

    async def _fetch_status(self, *, confirmed: bool) -> None:
        status = await self._call("status")
        self._carry_out(self._feed.on_status(status["run"], status["last_seq"], confirmed=confirmed))

    async def _call(self, name: str, *args: Any) -> Any:
        return await self._shared.connection.call(self._uri(name), *args, timeout_s=CALL_TIMEOUT_S)

    def _uri(self, name: str) -> str:
        return kernel_uri(self._kernel_id, self._machine, name)


def _items(buffered: list[_Buffered]) -> Iterator[Item]:
    for part in buffered:
        if isinstance(part, Deliver):
            for row in part.rows:
                yield record_from_row(RecordRow(*row))
        else:
            yield part


class _RecordIterator:
    """Base of both iterators: the stream, the items taken from it, and whether it is closed."""

    def __init__(self, shared: SharedConnection, stream: RecordStream, timeout_s: float | None) -> None:
        self._shared, self._stream, self._timeout_s = shared, stream, timeout_s
        self._ready: Iterator[Item] = iter(())
        self._closed = False

    def __del__(self) -> None:
        if not self._closed:
            try:
                self._shared.submit(self._stream.close)
            except TimbrError:
                return  # the client is closed, and with it the stream


class Records(_RecordIterator):
    """An iterator over all records; see `RemoteMachine.records`. One consumer; any thread.

    It ends by `close`, at the end of ``with``, or when it is garbage-collected.
    """

    def __iter__(self) -> Records:
        return self

    def __next__(self) -> Item:
        while not self._closed:
            for item in self._ready:
                return item
            self._ready = _items(buffered := self._shared.wait(self._stream.take, self._timeout_s))
            if not buffered:
                self.close()
        raise StopIteration

    def close(self) -> None:
        """Unsubscribe. Idempotent."""
        if not self._closed:
            self._closed = True
            with suppress(LoopClosed):  # the client is closed, and with it the stream
                self._shared.wait(self._stream.close)

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncRecords(_RecordIterator):
    """An asynchronous iterator over all records, for any loop. One consumer.

    It subscribes at `start`, at ``async with``, or when the first item is requested.
    """

    async def start(self) -> AsyncRecords:
        """Subscribe now. Messages that are put afterwards are included. Idempotent."""
        await self._shared.run(self._stream.start)
        return self

    def __aiter__(self) -> AsyncRecords:
        return self

    async def __anext__(self) -> Item:
        while not self._closed:
            for item in self._ready:
                return item
            self._ready = _items(buffered := await self._shared.run(self._stream.take, self._timeout_s))
            if not buffered:
                await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Unsubscribe. Idempotent."""
        if not self._closed:
            self._closed = True
            with suppress(LoopClosed):
                await self._shared.run(self._stream.close)

    async def __aenter__(self) -> AsyncRecords:
        return await self.start()

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()
