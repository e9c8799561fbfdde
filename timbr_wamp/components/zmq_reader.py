"""Read a ZeroMQ socket in an asyncio loop: many messages per wakeup, without a future for each.

ZeroMQ's descriptor is edge-triggered and shared by both directions
(https://libzmq.readthedocs.io/en/latest/zmq_getsockopt.html, ZMQ_FD): the reader must read until the
socket is empty, and a send or `setsockopt` can consume the event. So code that uses the socket in
another way must call `wake` afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

#: Interval for checking ``can_read`` again.
HOLD_INTERVAL_S = 0.005


class Reader:
    """Calls ``drain`` in the loop's thread while a socket may have messages.

    Args:
        drain: reads some messages without blocking; returns whether there may be more.
        can_read: called before each drain; while it returns False, messages stay in ZeroMQ.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], drain: Callable[[], bool], *, can_read: Callable[[], bool] | None = None
    ) -> None:
        self._socket, self._drain, self._can_read = socket, drain, can_read
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Handle | None = None
        self._closed = False
        self._descriptor = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._descriptor, self.wake)
        self.wake()

    def wake(self) -> None:
        """Schedule a check for messages. Idempotent."""
        if self._next is None and not self._closed:
            self._next = self._loop.call_soon(self._turn)

    def close(self) -> None:
        """Stop reading and close the socket; unsent messages are dropped. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._descriptor)
        if self._next is not None:
            self._next.cancel()
        self._socket.close(linger=0)

    def _turn(self) -> None:
        self._next = None
        if self._can_read is not None and not self._can_read():
            self._next = self._loop.call_later(HOLD_INTERVAL_S, self._turn)
        elif self._drain():
            self.wake()  # lets other tasks run first
