"""All records of a remote machine, complete and in order: live batches, refills, gaps by name.

`RecordStream` is the shell around a `Feed` in the background loop; `Records` and `AsyncRecords` are
what users iterate over. Between the loop and the consumer at most `BUFFER_ROWS` wait (and one page):
when the consumer is slower, live batches are ignored, and what was missed is refilled later. If it
is slower than the machine keeps records, a `Gap` says so.
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
#: After so long without a batch the machine is asked for its status: the last rows may be lost.
SILENCE_S = 2.0
CALL_TIMEOUT_S = 10.0


class RecordStream:
    """The shell around a `Feed`. Loop's own thread only."""

    def __init__(
        self,
        link: SharedConnection,
        kernel_id: str,
        machine: str,
        *,
        run: str | None,
        after_seq: int | None,
        status: bool,
    ) -> None:
        self._link, self._kernel_id, self._machine = link, kernel_id, machine
        self._with_status = status
        self._feed = Feed(run=run, after_seq=after_seq)
        self._buffer: deque[_Buffered] = deque()
        self._buffered_rows = 0
        #: The buffer was full: live batches are ignored until it was taken.
        self._overrun = False
        self._refill: Refill | None = None
        self._heard_at = 0.0
        self._wake = asyncio.Event()
        self._filled = asyncio.Event()
        self._subscriptions: list[Subscription] = []
        self._pump: asyncio.Task[None] | None = None
        self._started = asyncio.Lock()
        self._closed = False

    async def start(self) -> None:
        """Subscribe, and find out where the machine is. Idempotent.

        Raises:
            TimbrError: there is no such machine, or it may not be read.
        """
        async with self._started:
            if self._pump is not None or self._closed:
                return
            connection = self._link.connection
            try:
                for name, handler, retained in (("records", self._on_batch, False), ("status", self._on_status, True)):
                    topic = self._uri(name)
                    self._subscriptions.append(await connection.subscribe(topic, handler, get_retained=retained))
                await self._ask_status(sure=False)
            except BaseException:
                await self.close()
                raise
            self._link.join_listeners.add(self._on_rejoin)
            self._pump = asyncio.create_task(self._run(), name=f"records of {self._kernel_id}")
            self._pump.add_done_callback(lambda _: self._filled.set())

    async def take(self, timeout_s: float | None) -> list[_Buffered]:
        """Return all that waits; nothing after ``timeout_s`` without anything.

        Raises:
            LoopClosed: the stream or its client was closed.
            TokenRevoked, TokenRejected: the connection ended for good.
        """
        await self.start()
        if not self._buffer:
            self._filled.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._filled.wait()
            except TimeoutError:
                return []
        if not self._buffer and (self._closed or self._pump is None or self._pump.done()):
            raise self._link.connection.failed or LoopClosed("records")
        taken, self._buffer, self._buffered_rows = list(self._buffer), deque(), 0
        if self._overrun:
            self._overrun = False
            self._heard_at = 0.0  # ask for the status at once
            self._wake.set()
        return taken

    async def close(self) -> None:
        """Unsubscribe and end. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._link.join_listeners.discard(self._on_rejoin)
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._filled.set()

    # --- what comes in ----------------------------------------------------------------------

    def _on_batch(self, *args: Any, details: object, **kwargs: Any) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if self._overrun:
            return
        batch = args[0] if args else kwargs
        self._do(self._feed.on_batch(batch["run"], batch["first_seq"], batch["last_seq"], batch["rows"]))

    def _on_status(self, *args: Any, details: Any, **kwargs: Any) -> None:
        status = args[0] if args else kwargs
        if self._with_status:
            self._keep(MACHINE["status"].result(status), 0)
        if not self._overrun and not details.retained:  # a retained one may be as old as the hills
            self._do(self._feed.on_status(status["run"], status["last_seq"]))

    def _on_rejoin(self) -> None:
        self._feed.on_reconnected()
        self._heard_at = 0.0
        self._wake.set()

    def _do(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Refill):
                self._refill = instruction
                self._wake.set()
            else:
                self._keep(instruction, len(instruction.rows) if isinstance(instruction, Deliver) else 1)

    def _keep(self, item: _Buffered, rows: int) -> None:
        if isinstance(item, Status) and self._buffer and isinstance(self._buffer[-1], Status):
            self._buffer.pop()  # only the newest counts
        self._buffer.append(item)
        self._buffered_rows += rows
        self._overrun = self._overrun or self._buffered_rows >= BUFFER_ROWS
        self._filled.set()

    # --- what is asked ----------------------------------------------------------------------

    async def _run(self) -> None:
        """Answer refills, and ask for the status when it was silent for a while."""
        loop = asyncio.get_running_loop()
        finished = asyncio.ensure_future(self._link.connection.wait_finished())
        try:
            while not finished.done():
                silent_s = loop.time() - self._heard_at
                if self._refill is not None:
                    await self._ask_records(self._refill)
                elif silent_s >= SILENCE_S and not self._overrun:
                    self._heard_at = loop.time()
                    await self._try_status()
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

    async def _ask_records(self, refill: Refill) -> None:
        self._refill = None
        if self._overrun:  # asked for again when the buffer was taken
            self._feed.on_refill_failed(refill)
            return
        try:
            page = await self._call("records", refill.run, refill.after_seq, refill.limit)
        except RunMismatch:
            self._feed.on_refill_failed(refill)
            await self._try_status()
        except TimbrError as error:
            logger.debug("records of %s not refilled: %s", self._kernel_id, error)
            self._feed.on_refill_failed(refill)
        else:
            self._do(self._feed.on_page(page["run"], page["first_available"], page["last_seq"], page["rows"]))

    async def _try_status(self) -> None:
        try:
            await self._ask_status(sure=True)
        except TimbrError as error:  # router, bridge or kernel is away; the next silence asks again
            logger.debug("no status of %s: %s", self._kernel_id, error)

    async def _ask_status(self, *, sure: bool) -> None:
        status = await self._call("status")
        self._do(self._feed.on_status(status["run"], status["last_seq"], sure=sure))

    async def _call(self, name: str, *args: Any) -> Any:
        return await self._link.connection.call(self._uri(name), *args, timeout_s=CALL_TIMEOUT_S)

    def _uri(self, name: str) -> str:
        return kernel_uri(self._kernel_id, self._machine, name)


def _items(buffered: list[_Buffered]) -> Iterator[Item]:
    for part in buffered:
        if isinstance(part, Deliver):
            for row in part.rows:
                yield record_from_row(RecordRow(*row))
        else:
            yield part


class _Reading:
    """What both kinds of iterators share: the stream, what was taken of it, and whether it is over."""

    def __init__(self, link: SharedConnection, stream: RecordStream, timeout_s: float | None) -> None:
        self._link, self._stream, self._timeout_s = link, stream, timeout_s
        self._ready: Iterator[Item] = iter(())
        self._over = False

    def __del__(self) -> None:
        if not self._over:
            try:
                self._link.submit(self._stream.close)
            except TimbrError:
                return  # the client is closed already, and the stream with it


class Records(_Reading):
    """Iterate over all records; see `RemoteMachine.records`. One consumer; any thread.

    Ended by `close`, by ``with``, or when it is thrown away.
    """

    def __iter__(self) -> Records:
        return self

    def __next__(self) -> Item:
        while not self._over:
            for item in self._ready:
                return item
            self._ready = _items(buffered := self._link.wait(self._stream.take, self._timeout_s))
            if not buffered:
                self.close()
        raise StopIteration

    def close(self) -> None:
        """Unsubscribe. Idempotent."""
        if not self._over:
            self._over = True
            with suppress(LoopClosed):  # with the client, the stream was closed too
                self._link.wait(self._stream.close)

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncRecords(_Reading):
    """Iterate over all records with ``async for``, in any loop. One consumer.

    It begins at `start` or ``async with``, or else when the first one is asked for.
    """

    async def start(self) -> AsyncRecords:
        """Begin now; what is put after this is seen. Idempotent."""
        await self._link.run(self._stream.start)
        return self

    def __aiter__(self) -> AsyncRecords:
        return self

    async def __anext__(self) -> Item:
        while not self._over:
            for item in self._ready:
                return item
            self._ready = _items(buffered := await self._link.run(self._stream.take, self._timeout_s))
            if not buffered:
                await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Unsubscribe. Idempotent."""
        if not self._over:
            self._over = True
            with suppress(LoopClosed):
                await self._link.run(self._stream.close)

    async def __aenter__(self) -> AsyncRecords:
        return await self.start()

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()
