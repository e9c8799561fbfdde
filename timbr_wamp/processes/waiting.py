"""Wait for the end of a process in an asyncio loop, without a thread and without asking again and again."""

from __future__ import annotations

import asyncio
import os

from timbr_wamp.processes.process import Process

#: Interval for looking at the process where there are no pidfds.
POLL_INTERVAL_S = 0.25


async def wait_ended(process: Process, timeout_s: float | None = None) -> bool:
    """Wait until the process has ended; return False when it still runs after ``timeout_s``."""
    try:
        async with asyncio.timeout(timeout_s):
            await _ended(process)
    except TimeoutError:
        return not process.alive
    return True


async def _ended(process: Process) -> None:
    pidfd = process.pidfd
    while process.alive:
        if pidfd is None:
            await asyncio.sleep(POLL_INTERVAL_S)
            continue
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        descriptor = os.dup(pidfd)  # a loop has one reader per descriptor, and others may wait too
        loop.add_reader(descriptor, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
