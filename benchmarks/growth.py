"""How the way from kernel to subscriber grows: with the size of records, and with the number of subscribers.

Curves have no target: ``docs/explanation/figures.md`` says what bounds each. Kernels: `benchmarks.idle`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.common import Point
from benchmarks.services import LocalServices, local_services, wait_until
from timbr_wamp.client.connection import Connection
from timbr_wamp.client.feed import Gap
from timbr_wamp.contract import ROW_LIMIT_BYTES, Record
from timbr_wamp.names import kernel_uri

#: Bytes of a message; its record has them once, since no slot is set.
SIZES = (100, 1_000, 10_000, 100_000, 600_000)
SUBSCRIBERS = (1, 3, 10, 30, 100)
#: Bytes of all messages of one size, and most messages of one size.
TOTAL_BYTES, MOST_MESSAGES = 64_000_000, 20_000
#: Messages for each number of subscribers.
MESSAGES = 10_000
ROUNDS = 3
LIMIT_S = 120.0

#: Run in the kernel: a machine without slots, so that a record is its message.
MACHINE = "g = timbr_wamp.Machine(name='growth', bufsize=1024)\ng.start()"


def figures() -> Iterator[Point]:
    """Measure and yield the points of both curves."""
    with local_services() as at:
        at.kernel_run(MACHINE)
        wait_until(lambda: len(at.kernel.machines()) == 2, 10)
        for size in SIZES:
            yield of_size(at, size)
        for count in SUBSCRIBERS:
            yield of_subscribers(at, count)


def of_size(at: LocalServices, size: int) -> Point:
    """Measure complete records of ``size`` bytes through `records`, from the source's start to the last one."""
    messages = min(MOST_MESSAGES, TOTAL_BYTES // size)
    rates = []
    for _ in range(ROUNDS):
        machine = at.kernel.machine("growth")
        with machine.records(timeout_s=LIMIT_S) as records:
            started, seen, lost = time.perf_counter(), 0, 0
            at.kernel_run(f"g.set_source([{{'text': 'x' * {size}}}] * {messages}, replace=True)")
            for item in records:
                if isinstance(item, Record):
                    seen += 1
                elif isinstance(item, Gap):
                    lost += item.last - item.first + 1
                if seen + lost >= messages:
                    break
            assert seen + lost == messages, (seen, lost, messages)
            rates.append((seen / (time.perf_counter() - started), lost))
    rate = statistics.median(rate for rate, _ in rates)
    lost = max(lost for _, lost in rates)
    told = f"{rate * size / 1e6:,.1f} MB/s" if size < ROW_LIMIT_BYTES else "their sizes only: the limit of a live text"
    note = told + (f"; up to {lost:,} of {messages:,} named as gaps" if lost else "")
    return Point(f"records of {size:,} bytes through records()", rate, "/s", note)


def of_subscribers(at: LocalServices, count: int) -> Point:
    """Measure how fast all of ``count`` subscribers to the batches have the last record; without refills."""
    return asyncio.run(_of_subscribers(at, count))


async def _of_subscribers(at: LocalServices, count: int) -> Point:
    topic = kernel_uri(at.kernel.id, "growth", "records")
    last_seen, received, done = [0] * count, [0] * count, asyncio.Event()
    wanted = 0

    def handler(number: int) -> Any:
        def take(batch: Any, details: Any = None) -> None:
            last_seen[number] = batch["last_seq"]
            received[number] += batch["count"]
            if wanted and min(last_seen) >= wanted:
                done.set()

        return take

    connections = [Connection(at.url, "timbr", at.token) for _ in range(count)]
    try:
        for number, connection in enumerate(connections):
            await connection.open()
            await connection.subscribe(topic, handler(number))
        before = at.kernel.machine("growth").status.last_seq
        wanted = before + MESSAGES
        started = time.perf_counter()
        run = f"g.set_source(c.earthquakes({MESSAGES // 1707 + 1})[:{MESSAGES}], replace=True)"
        await asyncio.to_thread(at.kernel_run, run)
        await asyncio.wait_for(done.wait(), LIMIT_S)
        elapsed = time.perf_counter() - started
    finally:
        for connection in connections:
            await connection.close()
    complete = sum(received) / (MESSAGES * count)
    note = f"{MESSAGES / elapsed * count:,.0f}/s in all; {complete:.1%} of them live, the rest would be refilled"
    return Point(f"earthquakes at each of {count} subscribers", MESSAGES / elapsed, "/s", note)
