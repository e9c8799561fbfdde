"""`BatchSocket`: a subscription to batches on a machine's publishing socket, with acknowledgments.

The machine sends no more than a window of bytes without an acknowledgment, so what waits on the way, in ZeroMQ and in
the bridge, is bounded in bytes. See `timbr_wamp.machine.serving.listeners` for its side.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
import zmq

from timbr_wamp.components.control_client import ControlClient, encrypt
from timbr_wamp.components.zmq_reader import Reader
from timbr_wamp.contract import BatchHead, RecordsBatch
from timbr_wamp.names import new_listener
from timbr_wamp.runtime import MachineFile

logger = logging.getLogger(__name__)

#: Most batches that are read before other tasks of the loop run.
TURN_BATCHES = 16

_decode_head = msgspec.json.Decoder(BatchHead).decode


class BatchSocket:
    """A subscription to batches of one machine. The loop's own thread only.

    Args:
        form: `timbr_wamp.names.BATCHES` or `timbr_wamp.names.SAMPLES`.
        on_batch: called with each batch, and in how many records it has one; must not block.
        held_bytes: returns the size of received batches that still take memory.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        file: MachineFile,
        control: ControlClient,
        form: bytes,
        *,
        on_batch: Callable[[RecordsBatch, int], None],
        held_bytes: Callable[[], int],
    ) -> None:
        self._control, self._on_batch, self._held_bytes = control, on_batch, held_bytes
        self._topic = new_listener(form)
        #: The machine's count of bytes: up to the newest batch, up to the newest that it asked to acknowledge, and
        #: up to what was acknowledged.
        self._received = self._asked = self._acknowledged = 0
        self._socket = context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)  # bounded by the machine's window
        encrypt(self._socket, file)
        self._socket.setsockopt(zmq.SUBSCRIBE, self._topic)
        self._socket.connect(file.pub)
        self._reader = Reader(self._socket, self._drain)

    def close(self) -> None:
        """Unsubscribe. Idempotent."""
        self._reader.close()

    def acknowledge(self) -> None:
        """Acknowledge what no longer takes memory, if the machine asked for that."""
        if self._asked <= self._acknowledged:
            return
        passed_on = self._received - self._held_bytes()
        if passed_on >= self._asked:
            self._acknowledged = passed_on
            self._control.send("__received__", [self._topic, passed_on])

    def nothing_under_way(self) -> None:
        """Tell the machine that all it sent has arrived or is lost, so that it sends again."""
        if not self._held_bytes():
            self._control.send("__received__", [self._topic, None])

    def _drain(self) -> bool:
        receive, no_block = self._socket.recv, zmq.NOBLOCK
        more = True
        for _ in range(TURN_BATCHES):
            try:
                receive(no_block)
            except zmq.Again:
                more = False
                break
            head_frame, text = receive(), receive()  # the frames of one message arrive together
            try:
                head, block = _decode_head(head_frame), text.decode()
            except (msgspec.DecodeError, UnicodeDecodeError):
                logger.error("ignored an invalid batch: %.80r", head_frame)
                continue
            self._received = head.sent_bytes
            if head.acknowledge:
                self._asked = head.sent_bytes
            batch = RecordsBatch(
                run=head.run, first_seq=head.first_seq, last_seq=head.last_seq, count=head.count,
                layout=head.layout, block=block,
            )  # fmt: skip
            self._on_batch(batch, head.sampled)
        self.acknowledge()
        return more
