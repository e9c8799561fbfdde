"""The machine's publishing socket: one multipart message for each record, ``[oid, "[in,f0,…]", meta]``.

The first two frames have timbr-machine's format. The socket is an XPUB, so it knows its subscriptions; without one
nothing is sent. It drops records silently for a subscriber at its high-water mark, so readers compare ``(run, seq)``
in the third frame and request missed records from the control socket.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, cycle

import zmq
import zmq.backend

from timbr_wamp.machine.interrupts import whole
from timbr_wamp.machine.messages import Row

logger = logging.getLogger(__name__)

#: Records buffered for one slow subscriber before they are dropped for it.
SEND_HIGH_WATER_MARK = 4_000
#: Closing a publishing socket at the moment when a subscriber disconnects sometimes aborts the process,
#: by an assertion of libzmq (https://github.com/zeromq/libzmq/issues/3442): one close in 60 when the subscriber was
#: killed at that moment, none of 96 after this pause. With a linger time the context's end may hang instead.
SETTLE_S = 0.02


#: Flags of a record's three frames.
_FLAGS = (zmq.SNDMORE.value, zmq.SNDMORE.value, 0)


class Publisher:
    """A `Sink` that publishes on an XPUB socket. Any thread: the socket is used under a lock."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._lock = threading.RLock()
        self._closed = self._sent = False
        #: The subscribed prefixes.
        self._subscribed: set[bytes] = set()
        # The backend's send, without pyzmq's checks in Python: it is called three times a record.
        self._send: Callable[..., object] = zmq.backend.Socket.send.__get__(socket)

    @whole
    def publish(self, rows: Sequence[Row]) -> None:
        """Send the rows; never blocks. Whole: half a record would be the first half of the next one."""
        with self._lock:
            if self._closed or not self._has_subscribers():
                return
            self._sent = True
            _, oids, texts, metas = zip(*rows, strict=True)
            frames = chain.from_iterable(zip(map(str.encode, oids), texts, metas, strict=True))
            deque(map(self._send, frames, cycle(_FLAGS)), maxlen=0)  # the loop over frames in C

    def _has_subscribers(self) -> bool:
        """Read changes of subscriptions, ``b"\\x01" + prefix`` or ``b"\\x00" + prefix``; return whether any is left."""
        while int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            change = self._socket.recv(zmq.NOBLOCK)
            if change[:1] == b"\x01":
                self._subscribed.add(change[1:])
            else:
                self._subscribed.discard(change[1:])
        return bool(self._subscribed)

    def close(self) -> None:
        """Close the socket, between records; unsent records are dropped."""
        with self._lock:
            closed, self._closed = self._closed, True
            if not closed and self._sent:
                time.sleep(SETTLE_S)
            self._socket.close(linger=0)
