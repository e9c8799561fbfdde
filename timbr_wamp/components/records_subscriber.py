"""`RecordsSubscriber`: read a machine's records from its PUB socket, in batches and, if requested, complete.

This is the bridge's hot path: a plain loop over plain lists, with one small decode per record and neither
tasks nor objects. ``(run, seq)`` identifies a record. Records that PUB dropped are holes in the numbers;
they are fetched from the machine's ring, as `Feed` decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import zmq

from timbr_wamp.client.feed import (
    BATCH_BYTES,
    BATCH_ROWS,
    Batch,
    Batcher,
    Deliver,
    Feed,
    Gap,
    Instruction,
    Refill,
    record_row,
)
from timbr_wamp.components.control_client import ControlClient, encrypt
from timbr_wamp.components.zmq_reader import HOLD_INTERVAL_S, Reader
from timbr_wamp.contract import ROW_LIMIT_BYTES
from timbr_wamp.errors import RunMismatch, TimbrError
from timbr_wamp.runtime import MachineFile

logger = logging.getLogger(__name__)

Rows = Sequence[Sequence[Any]]

#: Most records that are read before other tasks of the loop run; one batch.
TURN_ROWS = BATCH_ROWS
#: The records of one turn are sent as one batch, without the batcher, up to this size.
WHOLE_BYTES = BATCH_BYTES * 3 // 2
#: Capacity of the backlog of batches (each at most 256 KB and one row) while the router is slow. Further
#: records stay in ZeroMQ and then in the machine's ring; fetching them from there costs twice as much.
BACKLOG_BATCHES = 64
RECEIVE_HIGH_WATER_MARK = 8_000
#: Rows of one refill; the machine bounds its pages in bytes.
REFILL_ROWS = 1_000
#: Seconds without a record after which missing records cannot be on their way.
QUIET_S = 0.1
#: Timeout for fetching a page of kept records.
PAGE_TIMEOUT_S = 10.0


class _Number(msgspec.Struct):
    """The part of a record's meta that identifies it."""

    run: str
    seq: int


_decode_number = msgspec.json.Decoder(_Number).decode


class RecordsSubscriber:
    """A subscription to one machine's records, until `close`. The loop's own thread only.

    Args:
        complete: deliver every record, in order; else deliver the records that arrive.
        on_batch: called with consecutive records as wire rows; must not block.
        can_send: returns False while the router is too slow; ``on_batch`` is not called then.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        file: MachineFile,
        control: ControlClient,
        *,
        complete: bool,
        on_batch: Callable[[Batch], None],
        can_send: Callable[[], bool],
    ) -> None:
        self._control, self._on_batch, self._can_send = control, on_batch, can_send
        self._loop = asyncio.get_running_loop()
        self._feed = Feed(refill_rows=REFILL_ROWS) if complete else None
        self._batcher = Batcher()
        self._flush: asyncio.TimerHandle | None = None
        self._read_at = 0.0
        self._backlog: deque[Batch] = deque()
        self._release: asyncio.TimerHandle | None = None
        self._refills: set[asyncio.Task[None]] = set()
        self._socket = context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, RECEIVE_HIGH_WATER_MARK)
        encrypt(self._socket, file)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(file.pub)
        self._reader = Reader(self._socket, self._drain, can_read=self._has_room)

    def on_status(self, run: str, last_seq: int) -> None:
        """Handle the machine's newest number, to notice that the last records were lost."""
        if self._feed is not None:
            quiet = self._has_room() and self._loop.time() - self._read_at > QUIET_S
            self._carry_out(self._feed.on_status(run, last_seq, confirmed=quiet))

    def close(self) -> None:
        """Stop reading; records that were read and not passed on are dropped. Idempotent."""
        self._reader.close()
        for timer in (self._flush, self._release):
            if timer is not None:
                timer.cancel()
        for task in self._refills:
            task.cancel()

    # --- the hot path ------------------------------------------------------------------------

    def _drain(self) -> bool:
        receive, no_block = self._socket.recv, zmq.NOBLOCK
        rows: list[Sequence[Any]] = []
        sizes: list[int] = []
        run, expected, more = "", 0, True
        for _ in range(TURN_ROWS):
            try:
                oid = receive(no_block)
            except zmq.Again:
                more = False
                break
            text, meta = receive(), receive()  # the frames of one message arrive together
            try:
                number = _decode_number(meta)
            except msgspec.DecodeError:
                logger.error("ignored an invalid record: %.80r", meta)
                continue
            if rows and (number.seq != expected or number.run != run):
                self._take(run, rows, sizes)
                rows, sizes = [], []
            run, expected = number.run, number.seq + 1
            if len(text) <= ROW_LIMIT_BYTES:
                rows.append([number.seq, oid.decode(), text.decode(), meta.decode()])
                sizes.append(len(text) + len(meta) + len(oid))
            else:
                row, size = record_row(number.seq, oid.decode(), text.decode(), meta.decode())
                rows.append(row)
                sizes.append(size)
        if rows:
            self._take(run, rows, sizes)
            self._read_at = self._loop.time()
        return more

    def _take(self, run: str, rows: list[Sequence[Any]], sizes: list[int]) -> None:
        """Handle consecutive rows in order of arrival."""
        feed = self._feed
        if feed is None:
            self._deliver(run, rows, sizes)
            return
        first, last = rows[0][0], rows[-1][0]
        instructions = feed.on_batch(run, first, last, rows)
        if len(instructions) == 1 and isinstance(deliver := instructions[0], Deliver) and deliver.rows is rows:
            self._deliver(run, rows, sizes)
        else:
            self._carry_out(instructions)

    def _deliver(self, run: str, rows: Rows, sizes: Sequence[int]) -> None:
        if len(rows) >= TURN_ROWS and sum(sizes) <= WHOLE_BYTES:  # at full speed a turn is a batch
            if (before := self._batcher.flush()) is not None:
                self._pass_on(before)
            self._pass_on(Batch(run, rows[0][0], rows[-1][0], list(rows)))
            return
        now, add = self._loop.time(), self._batcher.add
        for row, size in zip(rows, sizes, strict=True):
            for batch in add(run, row, size, now):
                self._pass_on(batch)
        if self._flush is None and (due := self._batcher.due) is not None:
            self._flush = self._loop.call_at(due, self._flush_due)

    def _flush_due(self) -> None:
        self._flush = None
        batch = self._batcher.flush(self._loop.time())
        if batch is not None:
            self._pass_on(batch)
        elif (due := self._batcher.due) is not None:
            self._flush = self._loop.call_at(due, self._flush_due)

    def _pass_on(self, batch: Batch) -> None:
        if not self._backlog and self._can_send():
            self._on_batch(batch)
            return
        self._backlog.append(batch)
        if self._release is None:
            self._release = self._loop.call_later(HOLD_INTERVAL_S, self._pass_on_backlog)

    def _pass_on_backlog(self) -> None:
        self._release = None
        while self._backlog and self._can_send():
            self._on_batch(self._backlog.popleft())
        if self._backlog:
            self._release = self._loop.call_later(HOLD_INTERVAL_S, self._pass_on_backlog)

    def _has_room(self) -> bool:
        return len(self._backlog) < BACKLOG_BATCHES

    # --- missing records -----------------------------------------------------------------

    def _carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Deliver(run, rows):
                    self._deliver(run, rows, [_size(row) for row in rows])
                case Refill():
                    task = self._loop.create_task(self._refill(instruction))
                    self._refills.add(task)
                    task.add_done_callback(self._refills.discard)
                case Gap(run, first, last):
                    logger.info(
                        "records %d to %d of run %s are lost: the machine no longer keeps them", first, last, run
                    )

    async def _refill(self, refill: Refill) -> None:
        assert self._feed is not None
        while not self._has_room():
            await asyncio.sleep(HOLD_INTERVAL_S)
        run, arguments = refill.run, [refill.run, refill.after_seq, refill.limit]
        try:
            page = await self._control.request("records", arguments, timeout_s=PAGE_TIMEOUT_S)
        except RunMismatch:
            self._feed.on_refill_failed(refill)  # the next status has the current run
        except TimbrError as error:
            logger.warning("fetching records after %d failed: %s", refill.after_seq, error)
            self._feed.on_refill_failed(refill)
        else:
            self._carry_out(self._feed.on_page(run, page["first_available"], page["last_seq"], page["rows"]))


def _size(row: Sequence[Any]) -> int:
    return len(row[2] or "") + len(row[3]) + len(row[1])
