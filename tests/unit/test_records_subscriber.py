"""A bridge's reading of all records of a real machine, without a router."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from machine_kit import LIMIT_S, Machines

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


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.005)


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
        await asyncio.sleep(0.3)
        subscriber.on_status(served.run, count)
        held = subscriber._held_bytes()
        assert BATCHES_WINDOW_BYTES // 2 < held < BATCHES_WINDOW_BYTES + 2**20
        assert not reading.batches
        reading.can_send = True
        while not reading.batches or reading.batches[-1].last_seq < count:
            subscriber.on_status(served.run, count)
            await asyncio.sleep(0.05)
        assert reading.numbers == list(range(1, count + 1))
        assert reading.pages
        # and then the machine sends again
        asked = len(reading.pages)
        for number in range(200):
            served.put(number)
        await until(lambda: reading.batches[-1].last_seq == count + 200)
        assert reading.numbers == list(range(1, count + 201))
        assert len(reading.pages) == asked

    read(served, test)
