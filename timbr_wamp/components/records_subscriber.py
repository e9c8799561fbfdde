"""`RecordsSubscriber`: all records of a machine, in order, as batches whose rows nobody looks at here.

``(run, seq)`` identifies a record. Batches that did not arrive are holes in the numbers; they are fetched from the
machine's ring, as `Feed` decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import msgspec
import zmq

from timbr_wamp.client.feed import Batcher, Deliver, Feed, Gap, Instruction, Refill
from timbr_wamp.components.batch_socket import BatchSocket
from timbr_wamp.components.control_client import ControlClient
from timbr_wamp.components.zmq_reader import HOLD_INTERVAL_S
from timbr_wamp.contract import RecordsBatch, RecordsPage
from timbr_wamp.errors import RunMismatch, TimbrError
from timbr_wamp.names import BATCHES
from timbr_wamp.runtime import MachineFile

logger = logging.getLogger(__name__)

#: Size of the backlog, while the router is slow, at which no missing records are requested. The machine's window bounds
#: the backlog itself.
BACKLOG_BYTES = 4 * 1024 * 1024
#: Rows of one refill; the machine bounds its pages in bytes.
REFILL_ROWS = 1_000
#: Most bytes of batches that are held while earlier ones are missing; less than the machine's window.
PENDING_BYTES = 8 * 1024 * 1024
#: Seconds without a record after which missing records cannot be on their way.
QUIET_S = 0.1
#: Timeout for fetching a page of kept records.
PAGE_TIMEOUT_S = 10.0


class RecordsSubscriber:
    """A subscription to one machine's records, complete and in order, until `close`. The loop's own thread only.

    Args:
        on_batch: called with consecutive records; must not block.
        can_send: returns False while the router is too slow; ``on_batch`` is not called then.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        file: MachineFile,
        control: ControlClient,
        *,
        on_batch: Callable[[RecordsBatch], None],
        can_send: Callable[[], bool],
    ) -> None:
        self._control, self._on_batch, self._can_send = control, on_batch, can_send
        self._loop = asyncio.get_running_loop()
        self._feed = Feed(refill_rows=REFILL_ROWS, pending_bytes=PENDING_BYTES)
        self._batcher = Batcher()
        self._flush: asyncio.TimerHandle | None = None
        self._read_at = 0.0
        self._backlog: deque[RecordsBatch] = deque()
        self._backlog_bytes = 0
        self._release: asyncio.TimerHandle | None = None
        self._refills: set[asyncio.Task[None]] = set()
        self._socket = BatchSocket(
            context, file, control, BATCHES, on_batch=self._receive, held_bytes=lambda: self.held_bytes
        )

    def on_status(self, run: str, last_seq: int) -> None:
        """Handle the machine's newest number, to notice that the last records were lost."""
        quiet = self._has_room() and self._loop.time() - self._read_at > QUIET_S
        instructions = self._feed.on_status(run, last_seq, confirmed=quiet)
        if quiet and instructions:
            self._socket.nothing_under_way()
        self._carry_out(instructions)

    def has_handed_on(self, run: str, last_seq: int) -> bool:
        """Return whether all records up to that number were handed on, or are lost."""
        expected = self._feed.expected
        here = self._feed.run == run and expected is not None and expected > last_seq
        return here and not self._backlog and not self._batcher.size_bytes

    def close(self) -> None:
        """Stop reading; records that were read and not passed on are dropped. Idempotent."""
        self._socket.close()
        for timer in (self._flush, self._release):
            if timer is not None:
                timer.cancel()
        for task in self._refills:
            task.cancel()

    # --- what arrives ------------------------------------------------------------------------

    def _receive(self, batch: RecordsBatch, sampled: int) -> None:
        self._read_at = self._loop.time()
        self._carry_out(self._feed.on_batch(batch.run, batch.first_seq, batch.last_seq, batch))

    def _deliver(self, batch: RecordsBatch) -> None:
        for done in self._batcher.add(batch, self._loop.time()):
            self._pass_on(done)
        self._flush_later()

    def _flush_later(self) -> None:
        if self._flush is None and (due := self._batcher.due) is not None:
            self._flush = self._loop.call_at(due, self._flush_due)

    def _flush_due(self) -> None:
        self._flush = None
        batch = self._batcher.flush(self._loop.time())
        if batch is not None:
            self._pass_on(batch)
            self._socket.acknowledge()
        self._flush_later()

    def _pass_on(self, batch: RecordsBatch) -> None:
        if not self._backlog and self._can_send():
            self._on_batch(batch)
            return
        self._backlog.append(batch)
        self._backlog_bytes += batch.size_bytes
        if self._release is None:
            self._release = self._loop.call_later(HOLD_INTERVAL_S, self._pass_on_backlog)

    def _pass_on_backlog(self) -> None:
        self._release = None
        while self._backlog and self._can_send():
            batch = self._backlog.popleft()
            self._backlog_bytes -= batch.size_bytes
            self._on_batch(batch)
        if self._backlog:
            self._release = self._loop.call_later(HOLD_INTERVAL_S, self._pass_on_backlog)
        self._socket.acknowledge()

    def _has_room(self) -> bool:
        return self._backlog_bytes < BACKLOG_BYTES

    @property
    def held_bytes(self) -> int:
        """Size of the batches that wait: for the router, for more to be joined with, or for records before them."""
        return self._batcher.size_bytes + self._backlog_bytes + self._feed.pending_bytes

    # --- missing records -----------------------------------------------------------------

    def _carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Deliver(_, rows):
                    assert isinstance(rows, RecordsBatch)
                    self._deliver(rows)
                case Refill():
                    task = self._loop.create_task(self._refill(instruction))
                    self._refills.add(task)
                    task.add_done_callback(self._refills.discard)
                case Gap(run, first, last):
                    logger.info(
                        "records %d to %d of run %s are lost: the machine no longer keeps them", first, last, run
                    )

    async def _refill(self, refill: Refill) -> None:
        while not self._has_room():
            await asyncio.sleep(HOLD_INTERVAL_S)
        run, arguments = refill.run, [refill.run, refill.after_seq, refill.limit]
        try:
            answer = await self._control.request("records", arguments, timeout_s=PAGE_TIMEOUT_S)
        except RunMismatch:
            self._feed.on_refill_failed(refill)  # the next status has the current run
        except TimbrError as error:
            logger.warning("fetching records after %d failed: %s", refill.after_seq, error)
            self._feed.on_refill_failed(refill)
        else:
            page = msgspec.convert(answer, RecordsPage, strict=False)
            batches = [(batch.first_seq, batch) for batch in page.batches]
            self._carry_out(self._feed.on_page(run, page.first_available, page.last_seq, batches))
            self._socket.acknowledge()
