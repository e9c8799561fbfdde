"""The machine's publishing socket. Each form is made only while somebody is subscribed to it.

- One message for each record, ``[oid, "[in,f0,…]", meta]``; the first two frames have timbr-machine's format.
- One message for each committed micro-batch, ``[topic, head, block]``, to those who subscribe to a topic of their own
  that begins with `timbr_wamp.names.BATCHES`: a `BatchHead` and the JSON text of all rows. A topic that begins with
  `timbr_wamp.names.SAMPLES` gets a sample, in the same form.

Nothing waits for a slow reader: records are dropped for it, silently. So readers compare ``(run, seq)`` and request
missed records from the control socket.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, cycle

import msgspec
import zmq
import zmq.backend

from timbr_wamp.contract import BatchHead
from timbr_wamp.machine.interrupts import whole
from timbr_wamp.machine.messages import Row
from timbr_wamp.machine.records.batches import BatchText, batch_texts, sample_text
from timbr_wamp.machine.records.rows import Block, WholeRows
from timbr_wamp.machine.serving.listeners import Listener, Listeners
from timbr_wamp.machine.serving.sampler import Sampler

logger = logging.getLogger(__name__)

#: Messages buffered for one slow subscriber before they are dropped for it: so many, or fewer if they are large.
SEND_HIGH_WATER_MARK, LEAST_HIGH_WATER_MARK = 4_000, 4
#: Most bytes buffered for one slow subscriber.
SEND_BYTES = 32 * 1024 * 1024
#: Weight of the newest records in the mean size of records.
NEWEST_WEIGHT = 1 / 64
#: Closing a publishing socket at the moment when a subscriber disconnects sometimes aborts the process,
#: by an assertion of libzmq (https://github.com/zeromq/libzmq/issues/3442): one close in 60 when the subscriber was
#: killed at that moment, none of 96 after this pause. With a linger time the context's end may hang instead.
SETTLE_S = 0.02


#: Flags of a message's three frames.
_FLAGS = (zmq.SNDMORE.value, zmq.SNDMORE.value, 0)

_encode = msgspec.json.Encoder().encode


class Publisher:
    """A `Sink` that publishes on an XPUB socket. Any thread: the socket is used under a lock."""

    def __init__(self, socket: zmq.Socket[bytes], run: str) -> None:
        self._socket, self._run = socket, run
        self._lock = threading.RLock()
        self._closed = self._sent = False
        self._listeners = Listeners(socket)
        self._sampler = Sampler()
        self._high_water_mark, self._mean_bytes = SEND_HIGH_WATER_MARK, 0.0
        socket.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER_MARK)
        # The backend's send, without pyzmq's checks in Python: it is called three times a record.
        self._send: Callable[..., object] = zmq.backend.Socket.send.__get__(socket)

    @whole
    def publish(self, rows: Sequence[Row]) -> None:
        """Send the rows; never blocks. Whole: half a record would be the first half of the next one."""
        with self._lock:
            if self._closed or not self.has_listeners():
                return
            self._sent = True
            if self._listeners.plain:
                self._send_frames(rows)
            blocks = rows.blocks if isinstance(rows, WholeRows) else ()
            for block in blocks if self._listeners.complete else ():
                self._send_batches(block)
            for block in blocks if self._listeners.sampled else ():
                self._send_sample(block)

    def has_listeners(self) -> bool:
        """Read changes of subscriptions; return whether there is any."""
        with self._lock:
            self._listeners.read_changes()
            return bool(self._listeners)

    def has_complete_listeners(self) -> bool:
        """Read changes of subscriptions; return whether anybody reads all records."""
        with self._lock:
            if not self._closed:
                self._listeners.read_changes()
            return not self._closed and bool(self._listeners.complete)

    def acknowledge(self, topic: bytes, sent_bytes: int | None) -> None:
        """Note that a listener to batches no longer holds what was sent to it. Any thread."""
        self._listeners.acknowledge(topic, sent_bytes)

    def close(self) -> None:
        """Close the socket, between records; unsent records are dropped."""
        with self._lock:
            closed, self._closed = self._closed, True
            if not closed and self._sent:
                time.sleep(SETTLE_S)
            self._socket.close(linger=0)

    # --- under the lock ---

    def _send_frames(self, rows: Sequence[Row]) -> None:
        _, oids, texts, metas = zip(*rows, strict=True)
        self._bound_buffers(sum(map(len, texts)) / len(texts))
        frames = chain.from_iterable(zip(map(str.encode, oids), texts, metas, strict=True))
        deque(map(self._send, frames, cycle(_FLAGS)), maxlen=0)  # the loop over frames in C

    def _bound_buffers(self, mean_bytes: float) -> None:
        """Lower the high-water mark for large records. ZeroMQ counts messages, and lets the mark change at any time."""
        self._mean_bytes += (mean_bytes - self._mean_bytes) * NEWEST_WEIGHT
        fitting = int(SEND_BYTES / max(mean_bytes, self._mean_bytes, 1.0))
        mark = min(max(fitting, LEAST_HIGH_WATER_MARK), SEND_HIGH_WATER_MARK)
        if mark < self._high_water_mark or mark >= min(2 * self._high_water_mark, SEND_HIGH_WATER_MARK + 1):
            self._high_water_mark = mark
            self._socket.setsockopt(zmq.SNDHWM, mark)

    def _send_batches(self, block: Block) -> None:
        # Of what a subscriber has read, ZeroMQ takes notice only when that is half of the mark.
        messages = max(self._high_water_mark // 2 - 1, 1)
        ready = [listener for listener in self._listeners.complete if listener.may_send(messages)]
        for batch in batch_texts(block) if ready else ():
            for listener in ready:
                if listener.may_send(messages):
                    self._send_batch(listener, batch, 1, messages)

    def _send_sample(self, block: Block) -> None:
        messages = max(self._high_water_mark // 2 - 1, 1)
        positions = self._sampler.take(range(len(block)), time.monotonic())
        assert isinstance(positions, range)
        if not positions:
            return
        batch = sample_text(block, positions)
        for listener in self._listeners.sampled:
            if listener.may_send(messages):
                self._send_batch(listener, batch, self._sampler.n, messages)

    def _send_batch(self, listener: Listener, batch: BatchText, sampled: int, messages: int) -> None:
        acknowledge = listener.note_sent(len(batch.text), messages)
        head = BatchHead(
            self._run, batch.first_seq, batch.last_seq, batch.count, list(batch.layout), sampled,
            listener.sent_bytes, acknowledge,
        )  # fmt: skip
        for frame, flags in zip((listener.topic, _encode(head), batch.text), _FLAGS, strict=True):
            self._send(frame, flags)
