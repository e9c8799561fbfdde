"""Read a ZeroMQ socket from an asyncio loop, many messages a wakeup, without a future for each.

ZeroMQ's descriptor is edge-triggered and shared by both directions
(https://libzmq.readthedocs.io/en/latest/zmq_getsockopt.html, ZMQ_FD): it may be read only until empty,
and a send or `setsockopt` can swallow its signal. So a reader drains until there is nothing, and whoever
does something else with the socket calls `wake`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

#: A reader that is held up looks again after this.
HOLD_S = 0.005


class Reader:
    """Call ``drain`` in the loop's thread while a socket may have messages.

    Args:
        drain: reads some messages without blocking; tells whether there may be more.
        clear: asked before each drain; False holds reading up, and what arrives stays in ZeroMQ.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], drain: Callable[[], bool], *, clear: Callable[[], bool] | None = None
    ) -> None:
        self._socket, self._drain, self._clear = socket, drain, clear
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Handle | None = None
        self._closed = False
        self._descriptor = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._descriptor, self.wake)
        self.wake()

    def wake(self) -> None:
        """Look for messages soon. Idempotent."""
        if self._next is None and not self._closed:
            self._next = self._loop.call_soon(self._turn)

    def close(self) -> None:
        """Stop reading and close the socket; what it has not sent yet is dropped. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._descriptor)
        if self._next is not None:
            self._next.cancel()
        self._socket.close(linger=0)

    def _turn(self) -> None:
        self._next = None
        if self._clear is not None and not self._clear():
            self._next = self._loop.call_later(HOLD_S, self._turn)
        elif self._drain():
            self.wake()  # other tasks get their turn first
