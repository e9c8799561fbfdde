"""A subscriber that stops reading costs the router a bounded amount of memory, and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest
from wait_kit import until, wait_until

from timbr_wamp.client.connection import Connection
from timbr_wamp.router import Router
from timbr_wamp.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

TOPIC = "io.timbr.kernel.lab_0123456789ab.iopub"
EVENT_BYTES, TOTAL_BYTES = 600_000, 240_000_000
#: What a reader may cost: twice the limit of what waits for it, because the router joins buffers, and some room.
GROWTH_LIMIT_BYTES = 180_000_000

READER = f"""
import asyncio, os, sys
from timbr_wamp.client.connection import Connection

async def joined():
    print("joined", flush=True)

async def main():
    connection = Connection(sys.argv[1], "timbr", os.environ["READER_TOKEN"], on_join=joined)
    await connection.subscribe({TOPIC!r}, lambda *args, details: None)
    await connection.open()
    await asyncio.sleep(300)

asyncio.run(main())
"""


def router_bytes(router: Router) -> int:
    process = psutil.Process(router.pid)
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))


def test_a_subscriber_that_stops_reading_costs_the_router_a_bounded_amount_of_memory(
    router: Router, settings: Settings
) -> None:
    reader = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", READER, router.url],
        env={**os.environ, "READER_TOKEN": router.admin_token}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines: list[str] = []
    assert reader.stdout is not None
    collect = threading.Thread(target=lambda: lines.extend(iter(reader.stdout.readline, "")), daemon=True)
    collect.start()

    async def publish() -> int:
        connection = Connection(router.unix_url, settings.realm, router.host_token)
        await connection.open()
        highest = before
        for number in range(TOTAL_BYTES // EVENT_BYTES):
            await until(lambda: connection.publish(TOPIC, "x" * EVENT_BYTES), "room to send")
            if number % 20 == 0:
                highest = max(highest, router_bytes(router))
        await connection.close()  # the router answers it after all that was published
        return max(highest, router_bytes(router))

    try:
        wait_until(lambda: lines, "the reader joined", 30.0)
        before = router_bytes(router)
        reader.send_signal(signal.SIGSTOP)
        grown = asyncio.run(publish()) - before
        assert grown < GROWTH_LIMIT_BYTES, f"{grown / 1e6:.0f} MB"
        reader.send_signal(signal.SIGCONT)
        wait_until(lambda: len(lines) > 1, "the reader joined again", 60.0)
    finally:
        reader.kill()
        reader.wait(20)
        collect.join(20)
        reader.stdout.close()
