"""The machine's publishing socket: one multipart message a record, ``[oid, "[in,f0,…]", meta]``.

The first two frames are the original timbr-machine's format. The socket is an XPUB, so it knows whether anybody is
subscribed; without a subscriber nothing is sent. It drops records silently for a subscriber at its high-water mark, so
readers watch ``(run, seq)`` in the third frame and ask the control socket for what they missed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import zmq
import zmq.backend

from timbr_wamp.machine.interrupts import whole
from timbr_wamp.machine.messages import Row

logger = logging.getLogger(__name__)

#: Records buffered for one slow subscriber before they are dropped for it.
SEND_HIGH_WATER_MARK = 4_000
#: A publishing socket that is closed at the moment when a subscriber goes away ends the whole process now and then,
#: by an assertion of libzmq (https://github.com/zeromq/libzmq/issues/3442): one close in 60 when the subscriber was
#: killed at that moment, none of 96 after this pause. With a linger time the context's end may hang instead.
SETTLE_S = 0.02


class Publisher:
    """A `Sink` that publishes on an XPUB socket. Any thread: the socket is used under a lock."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._lock = threading.RLock()
        self._closed = self._sent = False
        #: The prefixes that somebody is subscribed to.
        self._subscribed: set[bytes] = set()
        # The backend's own send, without pyzmq's checks in Python: three calls a record.
        self._send: Callable[..., object] = zmq.backend.Socket.send.__get__(socket)

    @whole
    def publish(self, rows: Sequence[Row]) -> None:
        """Send the rows; never blocks. Whole: half a record would be the first half of the next one."""
        with self._lock:
            if self._closed or not self._has_subscribers():
                return
            send, more = self._send, zmq.SNDMORE.value
            self._sent = True
            for _, oid, text, meta in rows:
                send(oid.encode(), more)
                send(text, more)
                send(meta)

    def _has_subscribers(self) -> bool:
        """Read the subscriptions that came and went, ``b"\\x01" + prefix`` and ``b"\\x00" + prefix``; any left?"""
        while int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            change = self._socket.recv(zmq.NOBLOCK)
            if change[:1] == b"\x01":
                self._subscribed.add(change[1:])
            else:
                self._subscribed.discard(change[1:])
        return bool(self._subscribed)

    def close(self) -> None:
        """Close the socket, not in the middle of a record; what was not sent yet is dropped."""
        with self._lock:
            closed, self._closed = self._closed, True
            if not closed and self._sent:
                time.sleep(SETTLE_S)
            self._socket.close(linger=0)
