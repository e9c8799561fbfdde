"""The machine's PUB socket: one multipart message a record, ``[oid, "[in,f0,…]", meta]``.

The first two frames are the original timbr-machine's format. A PUB socket drops in silence at its
high-water mark, so readers watch ``(run, seq)`` in the third and ask the control socket for what
they missed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

import zmq

from timbr_wamp.machine.messages import Row

logger = logging.getLogger(__name__)

#: Records buffered for one slow subscriber before they are dropped for it.
SEND_HIGH_WATER_MARK = 4_000
#: A PUB socket that is closed while a subscriber is just going away ends the whole process now and then, by an
#: assertion of libzmq (https://github.com/zeromq/libzmq/issues/3442): one close in 60 when the subscriber was killed
#: in the same moment, none of 96 after so long. With a linger time the context's end may hang instead.
SETTLE_S = 0.02


class Publisher:
    """A `Sink` that publishes on ZeroMQ. Any thread: a socket may wander between threads under a lock."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._lock = threading.Lock()
        self._closed = self._sent = False

    def publish(self, rows: Sequence[Row]) -> None:
        """Send the rows; never blocks."""
        send, more = self._socket.send, zmq.SNDMORE
        with self._lock:
            if self._closed:
                return
            self._sent = True
            for _, oid, text, meta in rows:
                send(oid.encode(), more)
                send(text, more)
                send(meta)

    def close(self) -> None:
        """Close the socket, not in the middle of a record; what was not sent yet is dropped."""
        with self._lock:
            closed, self._closed = self._closed, True
            if not closed and self._sent:
                time.sleep(SETTLE_S)
            self._socket.close(linger=0)
