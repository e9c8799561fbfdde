"""A bridge's reading of all records of a real machine, without a router."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from machine_kit import LIMIT_S, Machines
from wait_kit import until

from timbr_wamp import runtime
from timbr_wamp.components.control_client import ControlClient
from timbr_wamp.components.records_subscriber import RecordsSubscriber
from timbr_wamp.contract import RecordsBatch
from timbr_wamp.machine import Machine
from timbr_wamp.machine.serving.listeners import BATCHES_WINDOW_BYTES


@pytest.fixture
def served(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    monkeypatch.setenv("TIMBR_WAMP_RUNTIME_DIR", str(folder))
    yield machines(2, serve=True, bufsize=5_000)
    shutil.rmtree(folder, ignore_errors=True)


class Reading:
    """A subscriber whose router is as slow as the test says."""

    def __init__(self) -> None:
        self.batches: list[RecordsBatch] = []
        self.can_send = True
        self.pages: list[Any] = []
        #: Bytes that had come when the first page was asked for.
        self.before_pages_bytes = 0

    @property
    def numbers(self) -> list[int]:
        return [row[0] for batch in self.batches for row in json.loads(batch.block)]


def read(machine: Machine, test: Callable[[Reading, RecordsSubscriber], Coroutine[Any, Any, None]]) -> None:
    """Run a test with a subscriber that is entered."""

    async def work() -> None:
        file = runtime.read_file(
            Path(os.environ["TIMBR_WAMP_RUNTIME_DIR"]) / f"machine-{os.getpid()}-{machine.name}.json",
            runtime.MachineFile,
        )
        assert file is not None
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        control, reading = ControlClient(context, file, "lab_0123456789ab"), Reading()
        request = control.request

        async def noted(name: str, *args: Any, **options: Any) -> Any:
            if not reading.pages:
                reading.before_pages_bytes = sum(batch.size_bytes for batch in reading.batches)
            reading.pages.append(args)
            return await request(name, *args, **options)

        control.request = noted  # type: ignore[method-assign]
        subscriber = RecordsSubscriber(
            context, file, control, on_batch=reading.batches.append, can_send=lambda: reading.can_send
        )
        try:
            await until(lambda: has_listeners(machine))
            async with asyncio.timeout(30):
                await test(reading, subscriber)
        finally:
            subscriber.close()
            control.close()
            context.destroy(linger=0)

    asyncio.run(work())


def has_listeners(machine: Machine) -> bool:
    assert machine._sockets is not None
    return machine._sockets.publisher.has_listeners()


def test_small_batches_are_joined_and_nobody_is_asked_for_more(served):
    async def test(reading: Reading, subscriber: RecordsSubscriber) -> None:
        served.source = range(3_000)
        served.start()
        await until(lambda: reading.batches and reading.batches[-1].last_seq == 3_000)
        assert reading.numbers == list(range(1, 3_001))
        assert max(batch.count for batch in reading.batches) <= 200
        assert not reading.pages

    read(served, test)


def test_while_the_router_is_slow_a_window_of_bytes_is_held_and_the_rest_is_fetched_later(served):
    async def test(reading: Reading, subscriber: RecordsSubscriber) -> None:
        reading.can_send = False
        size = 100_000
        count = 2 * BATCHES_WINDOW_BYTES // size
        for number in range(count):
            served.put(f"{number}" + "x" * size)
        served.start()
        assert await asyncio.to_thread(served.wait, LIMIT_S)
        await until(lambda: subscriber.held_bytes > BATCHES_WINDOW_BYTES // 2, "the window fills")
        assert not reading.batches
        reading.can_send = True

        def all_came() -> bool:
            subscriber.on_status(served.run, count)
            return bool(reading.batches) and reading.batches[-1].last_seq >= count

        await until(all_came, "the rest is fetched")
        assert reading.numbers == list(range(1, count + 1))
        assert BATCHES_WINDOW_BYTES // 2 < reading.before_pages_bytes < BATCHES_WINDOW_BYTES + 2**20
        # and then the machine sends again
        asked = len(reading.pages)
        for number in range(200):
            served.put(number)
        await until(lambda: reading.batches[-1].last_seq == count + 200)
        assert reading.numbers == list(range(1, count + 201))
        assert len(reading.pages) == asked

    read(served, test)
