"""Records are handed over once each, whatever is cancelled or interrupted, and wherever."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, cast

import msgspec
import pytest
from interrupt_kit import Interruption, use_everywhere

from timbr_wamp.client import record_stream as module
from timbr_wamp.client.async_machine import AsyncMachine
from timbr_wamp.client.feed import Deliver, Gap
from timbr_wamp.client.record_stream import RecordStream
from timbr_wamp.client.records import AsyncRecords, Records
from timbr_wamp.client.shared_connection import Counts
from timbr_wamp.contract import Record, RecordMeta, RecordsBatch
from timbr_wamp.errors import AlreadyClosed, InternalError, InvalidArgument, NotConnected, TimbrError

LIMIT_S = 20.0
RUN = "r" * 8


def rows(first: int, last: int) -> list[list[Any]]:
    meta = RecordMeta(run=RUN, seq=0, attempt=1, revision=1, received_at=0.0, finished_at=0.0, errored=False)
    about = msgspec.to_builtins(meta)
    return [[seq, f"{seq:024x}", [seq], {**about, "seq": seq}] for seq in range(first, last + 1)]


def batch(first: int, last: int) -> dict[str, Any]:
    block = msgspec.json.encode(rows(first, last)).decode()
    return {
        "run": RUN, "first_seq": first, "last_seq": last, "count": last - first + 1, "layout": [], "block": block
    }  # fmt: skip


def delivered(first: int, last: int) -> RecordsBatch:
    return msgspec.convert(batch(first, last), RecordsBatch)


class FakeConnection:
    """Subscriptions and calls that take some steps of the loop, of a machine that the test plays."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[..., None]] = {}
        self.failed: TimbrError | None = None
        self.finished = asyncio.Event()
        self.last_seq = 0
        self.refusals = 0
        self.steps = 2

    async def subscribe(self, topic: str, handler: Callable[..., None], *, get_retained: bool) -> Any:
        await self._some_steps()
        self.handlers[topic] = handler
        fake = self

        class Live:
            async def unsubscribe(self) -> None:
                await fake._some_steps()
                fake.handlers.pop(topic, None)

        return Live()

    async def call(self, uri: str, *args: Any, timeout_s: float) -> Any:
        await self._some_steps()
        if self.refusals:
            self.refusals -= 1
            raise NotConnected("ws://nowhere", "gone")
        if uri.endswith(".status"):
            return {"run": RUN, "last_seq": self.last_seq}
        batches = [batch(args[1] + 1, self.last_seq)] if args[1] < self.last_seq else []
        return {"run": RUN, "first_available": 1, "last_seq": self.last_seq, "batches": batches}

    async def wait_finished(self) -> None:
        await self.finished.wait()

    async def _some_steps(self) -> None:
        for _ in range(self.steps):
            await asyncio.sleep(0)

    def publish(self, first: int, last: int) -> None:
        self.last_seq = last
        for topic, handler in self.handlers.items():
            if topic.endswith(".records"):
                handler(batch(first, last), details=None)


class FakeShared:
    """What `RecordStream` needs of a client, in one loop."""

    def __init__(self) -> None:
        self.connection = FakeConnection()
        self.join_listeners: set[Callable[[], None]] = set()
        self.streams: set[Any] = set()
        self.counts = Counts()

    async def run(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return await asyncio.ensure_future(function(*args))  # a task, as between two loops

    def submit(self, function: object) -> None:
        raise AssertionError("not closed")


def stream_of(shared: Any, **options: Any) -> RecordStream:
    given = {"run": None, "after_seq": 0, "status": False} | options
    return RecordStream(shared, "lab_0123456789ab", "machine", **given)


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def checked() -> None:
        await asyncio.wait_for(test(), LIMIT_S)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    asyncio.run(checked())


def test_anext_may_be_cancelled_at_every_step_and_each_record_comes_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "TAKE_ROWS", 3)

    async def test() -> None:
        shared = FakeShared()
        records = AsyncRecords(shared, stream_of(shared), None)  # type: ignore[arg-type]
        seen: list[int] = []
        published = 0
        for step in count():
            asking = asyncio.ensure_future(anext(records))
            for _ in range(step % 13):  # from not begun to long done, also while it starts
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
            if not asking.cancelled():
                seen.append(asking.result().seq)
            if step % 3 == 0 and published < 60 and shared.connection.handlers:
                shared.connection.publish(published + 1, published + 4)
                published += 4
            if len(seen) >= 60 or step > 3_000:
                break
        assert seen == list(range(1, 61))
        await records.aclose()
        assert not shared.connection.handlers

    in_loop(test)


def test_wait_for_in_a_loop_loses_nothing():
    async def test() -> None:
        shared = FakeShared()
        seen: list[int] = []

        async def publish() -> None:
            for first in range(1, 2_001, 20):
                shared.connection.publish(first, first + 19)
                await asyncio.sleep(0)

        async with AsyncRecords(shared, stream_of(shared), None) as records:  # type: ignore[arg-type]
            publishing = asyncio.create_task(publish())
            for attempt in count():
                if len(seen) == 2_000:
                    break
                try:
                    seen.append((await asyncio.wait_for(anext(records), 0.000_002 * (attempt % 50))).seq)
                except TimeoutError:
                    continue
            await publishing
        assert seen == list(range(1, 2_001))

    in_loop(test)


@pytest.mark.parametrize("steps", range(12))
def test_a_start_that_is_cancelled_or_fails_is_begun_again_by_the_next_call(steps: int):
    async def test() -> None:
        shared = FakeShared()
        shared.connection.refusals = 1
        stream = stream_of(shared)
        records = AsyncRecords(shared, stream, None)  # type: ignore[arg-type]
        starting = asyncio.create_task(records.start())
        for _ in range(steps):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        for _ in range(2):
            try:
                await records.start()
                break
            except NotConnected:
                assert not shared.connection.handlers
        shared.connection.publish(1, 3)
        assert [(await anext(records)).seq for _ in range(3)] == [1, 2, 3]
        await records.aclose()

    in_loop(test)


@pytest.mark.parametrize("steps", range(10))
def test_a_close_that_is_cancelled_is_done_to_its_end(steps: int):
    async def test() -> None:
        shared = FakeShared()
        records = await AsyncRecords(shared, stream_of(shared), None).start()  # type: ignore[arg-type]
        closing = asyncio.create_task(records.aclose())
        for _ in range(steps):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await records.aclose()
        assert not shared.connection.handlers
        assert not shared.streams

    in_loop(test)


def test_a_slow_consumer_stops_the_reading_and_gets_everything(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BUFFER_BYTES", 1_000)
    monkeypatch.setattr(module, "SILENCE_S", 0.001)

    async def test() -> None:
        shared = FakeShared()
        stream = stream_of(shared)
        async with AsyncRecords(shared, stream, None) as records:  # type: ignore[arg-type]
            for first in range(1, 1_001, 10):
                shared.connection.publish(first, first + 9)
            assert stream.buffered_bytes < 4_000
            seen = [await anext(records) for _ in range(1_000)]
        assert [record.seq for record in seen] == list(range(1, 1_001))
        assert shared.counts.refills > 0

    in_loop(test)


def test_a_reader_ends_with_the_error_that_nobody_expected():
    async def test() -> None:
        shared = FakeShared()
        async with AsyncRecords(shared, stream_of(shared), None) as records:  # type: ignore[arg-type]
            shared.connection.publish(1, 1)
            shared.connection.handlers[next(t for t in shared.connection.handlers if "records" in t)](
                {"run": RUN, "first_seq": 2}, details=None
            )
            assert (await anext(records)).seq == 1
            for _ in range(2):
                with pytest.raises(InternalError, match="ValidationError"):
                    await anext(records)

    in_loop(test)


# --- Ctrl-C in the blocking iterator -------------------------------------------------------------


class InterruptedStream:
    """Stands for the client and its stream: each question is answered, and may be asked again."""

    def __init__(self) -> None:
        self.parts = [
            Deliver(RUN, delivered(1, 5)), Gap(RUN, 6, 6), Deliver(RUN, delivered(7, 8)), Deliver(RUN, delivered(9, 12))
        ]  # fmt: skip

    def wait(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    def take(self, handed_over: int, timeout_s: float | None) -> list[Any]:
        return self.parts[handed_over : handed_over + 2]

    def submit(self, function: object) -> None:
        """Nothing to close."""

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class Reading:
    records: Records
    seen: list[Any] = field(default_factory=list)

    def read(self) -> None:
        for item in self.records:
            self._keep(item)

    def read_one(self) -> None:
        for item in self.records:
            self._keep(item)
            return

    def _keep(self, item: Any) -> None:
        self.seen.append(item.seq if isinstance(item, Record) else (item.first, item.last))


def test_an_interrupt_at_every_point_of_next_loses_and_repeats_no_record():
    def make() -> Reading:
        shared: Any = InterruptedStream()
        return Reading(Records(shared, shared, None))

    def read(reading: Reading) -> None:
        with suppress(Interruption):
            reading.read()

    def interrupt(reading: Reading) -> None:
        raise Interruption

    def check(reading: Reading) -> None:
        reading.read()
        assert reading.seen == EVERY_ITEM

    assert use_everywhere(make, read, interrupt, check, modules=["timbr_wamp.client.records"]) > 50


# --- several who share one reader ----------------------------------------------------------------

EVERY_ITEM = [*range(1, 6), (6, 6), *range(7, 13)]


def test_another_reader_at_every_point_of_next_gets_what_this_one_does_not():
    """At each place where CPython may switch threads, another one takes an item: deterministic, unlike real threads."""
    other: list[Any] = []

    def make() -> Reading:
        shared: Any = InterruptedStream()
        other.clear()
        return Reading(Records(shared, shared, None))

    def read_one(reading: Reading) -> None:
        beside = Reading(reading.records, other)
        beside.read_one()

    def check(reading: Reading) -> None:
        assert len(other) <= 1
        assert sorted([*reading.seen, *other], key=EVERY_ITEM.index) == EVERY_ITEM

    points = use_everywhere(make, Reading.read, read_one, check, modules=["timbr_wamp.client.records"])
    assert points > 50


def test_threads_that_share_a_reader_get_each_record_once(monkeypatch: pytest.MonkeyPatch):
    stream: Any = InterruptedStream()
    stream.parts = [Deliver(RUN, delivered(first, first + 6)) for first in range(1, 7_001, 7)]
    records = Records(stream, stream, None)
    readings = [Reading(records) for _ in range(4)]
    threads = [threading.Thread(target=reading.read) for reading in readings]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
    finally:
        sys.setswitchinterval(interval)
    assert sorted(seq for reading in readings for seq in reading.seen) == list(range(1, 7_001))
    assert all(reading.seen == sorted(reading.seen) for reading in readings)


@pytest.mark.parametrize("steps", range(8))
def test_tasks_that_share_a_reader_get_each_record_once_and_end_together(steps: int):
    async def test() -> None:
        shared = FakeShared()
        shared.connection.steps = steps
        seen: list[list[int]] = [[], [], []]
        async with AsyncRecords(shared, stream_of(shared), None) as records:  # type: ignore[arg-type]

            async def read(into: list[int]) -> None:
                async for record in records:
                    assert isinstance(record, Record)
                    into.append(record.seq)
                    await asyncio.sleep(0)

            tasks = [asyncio.create_task(read(into)) for into in seen]
            for first in range(1, 101, 5):
                shared.connection.publish(first, first + 4)
                for _ in range(first % 7):
                    await asyncio.sleep(0)
            while sum(map(len, seen)) < 100:
                await asyncio.sleep(0)
            await records.aclose()
            await asyncio.gather(*tasks)  # those that wait end, without an error
        assert sorted(seq for each in seen for seq in each) == list(range(1, 101))

    in_loop(test)


def test_a_task_that_waited_in_vain_does_not_end_what_another_one_reads():
    async def test() -> None:
        shared = FakeShared()
        async with AsyncRecords(shared, stream_of(shared), 0.2) as records:  # type: ignore[arg-type]
            waiting = asyncio.create_task(anext(records))
            for number in range(1, 8):
                await asyncio.sleep(0.05)
                shared.connection.publish(2 * number - 1, 2 * number)
                assert isinstance(await anext(records), Record)
            assert isinstance(await waiting, Record)

    in_loop(test)


def test_a_reader_that_was_closed_says_so_and_gives_nothing_more():
    async def test() -> None:
        shared = FakeShared()
        async with AsyncRecords(shared, stream_of(shared), None) as records:  # type: ignore[arg-type]
            shared.connection.publish(1, 3)
            await anext(records)
        with pytest.raises(StopAsyncIteration):
            await anext(records)
        with pytest.raises(AlreadyClosed, match=r"reader of records was closed; .* machine\.records\(\)"):
            await records.start()

    in_loop(test)


@pytest.mark.parametrize(
    "arguments", [(-1,), (1.5,), (float("nan"),), (float("inf"),), ("3",), ([],), (0, 7), (0, {}), (0, b"run")]
)
def test_a_place_that_no_record_has_is_refused(arguments: Any):
    with pytest.raises(InvalidArgument, match=r"after_seq|run"):
        AsyncMachine(cast(Any, None), "lab_0123456789ab").records(*arguments)
