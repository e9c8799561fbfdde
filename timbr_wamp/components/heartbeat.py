"""Watch a kernel's heartbeat: a socket of the kernel that echoes, even while a cell runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import zmq.asyncio

BEAT_INTERVAL_S = 1.0
#: Seconds without an echo after which an unmanaged kernel counts as dead.
SILENT_S = 5.0


async def watch_heartbeat(connect: Callable[[], zmq.asyncio.Socket], set_silent: Callable[[bool], None]) -> None:
    """Report after each beat whether the kernel has been silent for `SILENT_S`; run until cancelled.

    Args:
        connect: creates a REQ socket connected to the kernel's heartbeat.
    """
    heard = time.monotonic()
    while True:
        # a REQ socket that got no answer cannot send again, so each miss needs a new socket
        with connect() as socket:
            socket.linger = 0
            with contextlib.suppress(TimeoutError):
                while True:
                    await asyncio.wait_for(_beat(socket), BEAT_INTERVAL_S)
                    heard = time.monotonic()
                    set_silent(False)
                    await asyncio.sleep(BEAT_INTERVAL_S)
        set_silent(time.monotonic() - heard > SILENT_S)


async def _beat(socket: zmq.asyncio.Socket) -> None:
    await socket.send(b"ping")
    await socket.recv()
