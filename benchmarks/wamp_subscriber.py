"""A WAMP subscriber process that counts complete records, by subscription and refill.

``python -m benchmarks.wamp_subscriber URL KERNEL_ID`` with the token in the environment. Reads numbers
from standard input: for each, counts that many new records and prints
``{"count", "gaps", "p50_s", "p99_s"}``. When the first record of a revision arrives, it prints
``["revision", revision, time]``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

from benchmarks.services import quantile
from timbr_wamp.client.connection import Connection
from timbr_wamp.client.feed import Deliver, Feed, Gap, Refill
from timbr_wamp.names import kernel_uri

#: The latency of one record in this many is measured.
LOOK_EVERY = 7


class Reader:
    """Counts what the feed delivers."""

    def __init__(self, connection: Connection, kernel_id: str) -> None:
        self._connection = connection
        self._records = kernel_uri(kernel_id, "machine", "records")
        self._status = kernel_uri(kernel_id, "machine", "status")
        self._feed = Feed()
        self.count = self.gaps = 0
        self.wanted = 0
        self.latencies: list[float] = []
        self.revision = -1
        self.done = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Subscribe, and start after the newest record."""
        await self._connection.subscribe(self._records, self._on_batch)
        status = await self._connection.call(self._status)
        self._feed = Feed(run=status["run"], after_seq=status["last_seq"])
        await self._connection.subscribe(self._status, self._on_status)

    def _on_batch(self, batch: Any, details: Any = None) -> None:
        self._follow(self._feed.on_batch(batch["run"], batch["first_seq"], batch["last_seq"], batch["rows"]))

    def _on_status(self, status: Any, details: Any = None) -> None:
        self._follow(self._feed.on_status(status["run"], status["last_seq"]))

    def _follow(self, instructions: list[Any]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Deliver):
                self._take(instruction.rows)
            elif isinstance(instruction, Gap):
                self.gaps += instruction.last - instruction.first + 1
                self._counted(instruction.last - instruction.first + 1)
            elif isinstance(instruction, Refill):
                task = asyncio.get_running_loop().create_task(self._refill(instruction))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _refill(self, refill: Refill) -> None:
        page = await self._connection.call(self._records, refill.run, refill.after_seq, refill.limit)
        self._follow(self._feed.on_page(refill.run, page["first_available"], page["last_seq"], page["rows"]))

    def _take(self, rows: Any) -> None:
        now = time.time()
        for row in rows[::LOOK_EVERY]:
            meta = json.loads(row[3])
            self.latencies.append(now - meta["received_at"])
            if meta["revision"] != self.revision:
                self.revision = meta["revision"]
                print(json.dumps(["revision", self.revision, now]), flush=True)
        self._counted(len(rows))

    def _counted(self, rows: int) -> None:
        self.count += rows
        if self.wanted and self.count >= self.wanted:
            self.done.set()


async def main(url: str, kernel_id: str) -> None:
    """Serve the parent's requests."""
    connection = Connection(url, "timbr", os.environ["TIMBR_WAMP_TOKEN"])
    await connection.open()
    reader = Reader(connection, kernel_id)
    await reader.begin()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        reader.count = reader.gaps = 0
        reader.latencies = []
        reader.done.clear()
        reader.wanted = int(line)
        print("counting", flush=True)
        await asyncio.wait_for(reader.done.wait(), 170)
        reader.wanted = 0
        found = {
            "count": reader.count, "gaps": reader.gaps, "p50_s": quantile(reader.latencies, 0.5),
            "p99_s": quantile(reader.latencies, 0.99),
        }  # fmt: skip
        print(json.dumps(found), flush=True)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
