"""Read a machine's records from its PUB socket: gathered in batches, complete when that is asked for.

This is the bridge's hot path: a plain loop over plain lists, no task, no object and one small decode a
record. A record is named by ``(run, seq)``; what PUB dropped, or what we left in ZeroMQ while the router
was slow, is a hole in the numbers and is asked for again from the machine's ring (`Feed`).
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
from timbr_wamp.components.zmq_reader import HOLD_S, Reader
from timbr_wamp.contract import ROW_LIMIT_BYTES
from timbr_wamp.errors import RunMismatch, TimbrError
from timbr_wamp.runtime import MachineFile

logger = logging.getLogger(__name__)

Rows = Sequence[Sequence[Any]]

#: Records read before other tasks get a turn; as many as go into a batch.
TURN_ROWS = BATCH_ROWS
#: A turn's records up to this size are sent as one batch, without being gathered one by one.
WHOLE_BYTES = BATCH_BYTES * 3 // 2
#: Batches (of at most 256 KB and a row) that wait here while the router is slow. Beyond, records stay in
#: ZeroMQ, and those that do not fit there in the machine's ring: to fetch them later costs twice as much.
HELD_BATCHES = 64
RECEIVE_HIGH_WATER_MARK = 8_000
#: Rows of one refill; the machine bounds its pages in bytes.
REFILL_ROWS = 1_000
#: Nothing came for so long: what is missing is not merely on its way.
QUIET_S = 0.1
#: A page of kept records comes within this, or is asked for again later.
PAGE_S = 10.0


class _Number(msgspec.Struct):
    """As much of a record's meta as its place in the numbering needs."""

    run: str
    seq: int


_decode_number = msgspec.json.Decoder(_Number).decode


class RecordsSubscriber:
    """A SUB to one machine's records, open as long as the object lives. The loop's own thread only.

    Args:
        complete: deliver every record, in order; else what comes, as it comes.
        on_batch: gets consecutive records as wire rows; may not block.
        clear: False while the router is behind: nothing is given to ``on_batch`` then.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        file: MachineFile,
        control: ControlClient,
        *,
        complete: bool,
        on_batch: Callable[[Batch], None],
        clear: Callable[[], bool],
    ) -> None:
        self._control, self._on_batch, self._clear = control, on_batch, clear
        self._loop = asyncio.get_running_loop()
        self._feed = Feed(refill_rows=REFILL_ROWS) if complete else None
        self._batcher = Batcher()
        self._flush: asyncio.TimerHandle | None = None
        self._read_at = 0.0
        self._held: deque[Batch] = deque()
        self._release: asyncio.TimerHandle | None = None
        self._refills: set[asyncio.Task[None]] = set()
        self._socket = context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, RECEIVE_HIGH_WATER_MARK)
        encrypt(self._socket, file)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(file.pub)
        self._reader = Reader(self._socket, self._drain, clear=self._has_room)

    def on_status(self, run: str, last_seq: int) -> None:
        """Take the machine's word for its newest record, so that a lost last one is noticed too."""
        if self._feed is not None:
            quiet = self._has_room() and self._loop.time() - self._read_at > QUIET_S
            self._follow(self._feed.on_status(run, last_seq, confirmed=quiet))

    def close(self) -> None:
        """Stop reading; what was read and not given out yet is dropped. Idempotent."""
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
            text, meta = receive(), receive()  # parts of one message come together
            try:
                number = _decode_number(meta)
            except msgspec.DecodeError:
                logger.error("a record that no machine of ours publishes: %.80r", meta)
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
        """Take consecutive rows as they came."""
        feed = self._feed
        if feed is None:
            self._deliver(run, rows, sizes)
            return
        first, last = rows[0][0], rows[-1][0]
        instructions = feed.on_batch(run, first, last, rows)
        if len(instructions) == 1 and isinstance(deliver := instructions[0], Deliver) and deliver.rows is rows:
            self._deliver(run, rows, sizes)
        else:
            self._follow(instructions)

    def _deliver(self, run: str, rows: Rows, sizes: Sequence[int]) -> None:
        if len(rows) >= TURN_ROWS and sum(sizes) <= WHOLE_BYTES:  # at full speed: as it came, it is a batch
            if (before := self._batcher.flush()) is not None:
                self._give(before)
            self._give(Batch(run, rows[0][0], rows[-1][0], list(rows)))
            return
        now, add = self._loop.time(), self._batcher.add
        for row, size in zip(rows, sizes, strict=True):
            for batch in add(run, row, size, now):
                self._give(batch)
        if self._flush is None and (due := self._batcher.due) is not None:
            self._flush = self._loop.call_at(due, self._flush_due)

    def _flush_due(self) -> None:
        self._flush = None
        batch = self._batcher.flush(self._loop.time())
        if batch is not None:
            self._give(batch)
        elif (due := self._batcher.due) is not None:
            self._flush = self._loop.call_at(due, self._flush_due)

    def _give(self, batch: Batch) -> None:
        if not self._held and self._clear():
            self._on_batch(batch)
            return
        self._held.append(batch)
        if self._release is None:
            self._release = self._loop.call_later(HOLD_S, self._give_held)

    def _give_held(self) -> None:
        self._release = None
        while self._held and self._clear():
            self._on_batch(self._held.popleft())
        if self._held:
            self._release = self._loop.call_later(HOLD_S, self._give_held)

    def _has_room(self) -> bool:
        return len(self._held) < HELD_BATCHES

    # --- what rarely happens -----------------------------------------------------------------

    def _follow(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Deliver(run, rows):
                    self._deliver(run, rows, [_size(row) for row in rows])
                case Refill():
                    task = self._loop.create_task(self._refill(instruction))
                    self._refills.add(task)
                    task.add_done_callback(self._refills.discard)
                case Gap(run, first, last):
                    logger.info("records %d to %d of run %s were no longer kept", first, last, run)

    async def _refill(self, refill: Refill) -> None:
        assert self._feed is not None
        while not self._has_room():
            await asyncio.sleep(HOLD_S)
        run, asked = refill.run, [refill.run, refill.after_seq, refill.limit]
        try:
            page = await self._control.request("records", asked, timeout_s=PAGE_S)
        except RunMismatch:
            self._feed.on_refill_failed(refill)  # the next status tells the run that there is now
        except TimbrError as error:
            logger.warning("records after %d: %s", refill.after_seq, error)
            self._feed.on_refill_failed(refill)
        else:
            self._follow(self._feed.on_page(run, page["first_available"], page["last_seq"], page["rows"]))


def _size(row: Sequence[Any]) -> int:
    return len(row[2] or "") + len(row[3]) + len(row[1])
