"""A kernel's heartbeat: a socket of the kernel that echoes, also while a cell runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import zmq.asyncio

BEAT_S = 1.0
#: So long without an echo, and a kernel whose process we cannot see counts as dead.
SILENT_S = 5.0


async def watch_heartbeat(connect: Callable[[], zmq.asyncio.Socket], set_silent: Callable[[bool], None]) -> None:
    """Tell after each beat whether the kernel has been silent for `SILENT_S`, until cancelled.

    Args:
        connect: makes a REQ socket connected to the kernel's heartbeat.
    """
    heard = time.monotonic()
    while True:
        # a REQ socket that got no answer can never send again: each miss takes a new one
        with connect() as socket:
            socket.linger = 0
            with contextlib.suppress(TimeoutError):
                while True:
                    await asyncio.wait_for(_beat(socket), BEAT_S)
                    heard = time.monotonic()
                    set_silent(False)
                    await asyncio.sleep(BEAT_S)
        set_silent(time.monotonic() - heard > SILENT_S)


async def _beat(socket: zmq.asyncio.Socket) -> None:
    await socket.send(b"ping")
    await socket.recv()
