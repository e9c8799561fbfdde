"""Messages come from anything that can give them, and once read none is lost."""

from __future__ import annotations

import asyncio
import functools
import queue
import sys
import threading
import time
from collections import deque

import pytest
from machine_kit import LIMIT_S, in_thread
from wait_kit import wait_until

from timbr_wamp.errors import InvalidArgument, MachineClosed, NotASource, SourceActive
from timbr_wamp.machine.protocols import EndOfSource


def kinds(machine):
    return [event.kind for event in machine.events()]


def generator():
    yield from (1, 2, 3)


def makes_a_list():
    return [1, 2, 3]


async def async_generator():
    for n in (1, 2, 3):
        await asyncio.sleep(0)
        yield n


class Batches:
    """A `Source` with nothing ready now and then."""

    def __init__(self) -> None:
        self._batches = deque([[1], [], [2, 3], []])
        self.closed = 0

    def next_batch(self):
        if not self._batches:
            raise EndOfSource
        return self._batches.popleft()

    def position(self):
        return None

    def close(self) -> None:
        self.closed += 1


class Readings:
    """An iterable class, as users write them."""

    def __iter__(self):
        return iter((1, 2, 3))


class Maker:
    def __call__(self):
        return [1, 2, 3]

    def method(self):
        yield from (1, 2, 3)


class OldStyle:
    def __getitem__(self, index):
        return (1, 2, 3)[index]


class AsyncIterable:
    def __aiter__(self):
        return async_generator()


KINDS = {
    "list": lambda: [1, 2, 3],
    "tuple": lambda: (1, 2, 3),
    "range": lambda: range(1, 4),
    "iterator": lambda: iter([1, 2, 3]),
    "map": lambda: map(int, "123"),
    "generator": lambda: generator(),
    "generator function": lambda: generator,
    "partial of a generator function": lambda: functools.partial(generator),
    "function that returns a list": lambda: makes_a_list,
    "lambda": lambda: lambda: iter([1, 2, 3]),
    "bound method": lambda: Maker().method,
    "callable object": Maker,
    "class": lambda: Readings,
    "builtin method": lambda: {1: 0, 2: 0, 3: 0}.keys,
    "async generator": lambda: async_generator(),
    "async generator function": lambda: async_generator,
    "async iterable": AsyncIterable,
    "Source object": Batches,
    "function that makes a Source object": lambda: lambda: Batches(),
    "iterable object": Readings,
    "object with __getitem__": OldStyle,
    "deque": lambda: deque([1, 2, 3]),
    "dict values": lambda: {"a": 1, "b": 2, "c": 3}.values(),
    "queue until None": lambda: iter(_filled().get_nowait, None),
}


def _filled() -> queue.Queue[object]:
    filled: queue.Queue[object] = queue.Queue()
    for n in (1, 2, 3, None):
        filled.put(n)
    return filled


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_of_any_kind_is_read_to_its_end_in_order(machine, records, kind):
    machine.source = KINDS[kind]()
    machine.start()
    assert machine.wait(LIMIT_S)
    assert [record.input for record in records.wait_for(3)] == [1, 2, 3]
    status = machine.status.source
    assert (status.state, status.count) == ("exhausted", 3)
    assert kinds(machine) == ["source_set", "started", "exhausted", "drained"]


async def coroutine():
    return [1]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize(
    "thing", [5, None, "text", b"bytes", {"a": 1}, int, object(), lambda x: x, lambda: 5, coroutine]
)
def test_what_gives_no_messages_is_refused_and_the_source_before_stays(machine, thing):
    machine.source = before = iter([1])
    with pytest.raises(NotASource):
        machine.set_source(thing, replace=True)
    machine.start()
    assert machine.wait(LIMIT_S)
    assert next(before, "read") == "read"


@pytest.mark.parametrize("total", [-1, 1.5, "many", True])
def test_a_total_is_a_whole_number(machine, total):
    with pytest.raises(InvalidArgument, match="total"):
        machine.set_source([1], total=total)


def test_a_source_that_knows_its_total_reports_it(machine, records, clock):
    machine.source = [1, 2, 3]
    assert machine.source.total == 3
    machine.set_source(generator(), total=3, replace=True)
    assert machine.status.source.total == 3
    machine.start()
    assert machine.wait(LIMIT_S)
    assert machine.status.source.eta_s is None
    machine.set_source(generator)
    assert machine.status.source.total is None


@pytest.mark.parametrize(
    "make", [lambda: iter(range(1000)), lambda: (n for n in range(1000))], ids=["ready", "generator"]
)
def test_a_source_of_1000_into_a_queue_of_10_loses_nothing_while_paused_and_stopped(machines, records, make):
    machine = machines(bufsize=10, sinks=[records], hooks=[records])
    halfway, may_start = threading.Event(), threading.Event()

    def slot(value):
        if value == 500:
            halfway.set()
            may_start.wait(LIMIT_S)
        return value

    machine[0] = slot
    machine.source = make()
    assert machine.status.put == 0, "nothing is read before start"
    machine.start()
    assert halfway.wait(LIMIT_S)
    machine.pause()
    may_start.set()
    wait_until(lambda: machine.status.in_flight == 0, "the message under way ended")
    paused = machine.status
    assert paused.processed == 501
    assert paused.queue_size <= 20
    machine.resume()
    machine.stop()
    machine.start()
    assert machine.wait(LIMIT_S)
    assert [record.input for record in records.wait_for(1000)] == list(range(1000))
    status = machine.status
    assert (status.put, status.processed, status.refused, status.dropped) == (1000, 1000, 0, 0)
    assert status.source.state == "exhausted"
    assert kinds(machine).count("exhausted") == kinds(machine).count("drained") == 1


def test_a_stopped_consumer_makes_the_source_wait_not_lose(machines, new_gate):
    gate = new_gate()
    machine = machines(bufsize=10)
    machine[0] = gate
    machine.source = (n for n in range(1000))
    machine.start()
    gate.wait_until_entered()
    wait_until(lambda: machine.status.queue_size == 10, "the queue filled")
    status = machine.status
    assert status.source.state == "reading"
    assert status.put <= 10 + 64 + 1
    gate.open()
    assert machine.wait(LIMIT_S)
    assert machine.status.processed == 1000


def test_reading_waits_while_the_machine_is_paused(machine):
    read = []
    more = threading.Semaphore(0)

    def source():
        for n in range(100):
            more.acquire(timeout=LIMIT_S)
            read.append(n)
            yield n

    machine.source = source
    machine.start()
    more.release()
    wait_until(lambda: machine.status.processed == 1, "the first came through")
    machine.pause()
    for _ in range(50):
        more.release()
    wait_until(lambda: machine.status.source.count == 2, "the one being read was queued")
    assert machine.status.source.state == "waiting"
    assert read == [0, 1]
    machine.resume()
    wait_until(lambda: machine.status.processed == 51, "the rest came through")
    more.release(49)  # nor does it hold up the end


def test_draining_finishes_what_waits_and_leaves_the_source_where_it_is(machine, gate):
    machine[0] = gate
    numbers = iter(range(10**9))
    machine.source = numbers
    machine.start()
    gate.wait_until_entered()
    stopping = in_thread(machine.stop, drain=True)
    wait_until(lambda: machine.status.state == "draining", "it drains")
    gate.open()
    stopping.result()
    status = machine.status
    assert status.state == "stopped"
    assert status.processed == status.put <= 200
    assert next(numbers) == status.put, "the next message was not read"


def test_a_source_that_raises_is_a_state_and_an_event_and_what_it_gave_is_kept(machine, records):
    def source():
        yield 1
        raise ValueError("on purpose")

    machine.source = source
    machine.start()
    assert machine.wait(LIMIT_S)
    status = machine.status
    assert (status.source.state, status.source.error, status.processed) == ("failed", "ValueError: on purpose", 1)
    assert status.running
    assert records.wait_for_event("source_failed").data["error"] == "ValueError: on purpose"
    machine.source = [2]
    assert machine.wait(LIMIT_S)
    assert machine.status.processed == 2


def test_a_ready_source_that_raises_is_a_state_too(machine, records):
    container = {n: n for n in range(1000)}

    def slot(value):
        container.pop(value, None)

    machine[0] = slot
    machine.source = container.keys()
    machine.start()
    records.wait_for_event("source_failed")
    assert machine.wait(LIMIT_S)
    assert machine.status.source.state == "failed"
    assert machine.status.put == machine.status.processed == machine.status.source.count


def test_an_error_text_that_utf_8_cannot_carry_is_written_out(machine, records):
    def source():
        yield 1
        raise OSError("\udcff")

    machine.source = source
    machine.start()
    told = records.wait_for_event("source_failed").data["error"]
    assert told.encode() == machine.status.source.error.encode() == b"OSError: \\udcff"


def test_a_source_is_not_replaced_by_accident(machine):
    machine.source = generator
    with pytest.raises(SourceActive, match="replace=True"):
        machine.source = [1]
    machine.set_source([1], replace=True)
    assert machine.source.total == 1
    del machine.source
    machine.source = [1, 2]
    assert machine.source.total == 2


def test_an_ended_source_can_be_replaced_without_replace(machine, records):
    machine.source = [1]
    machine.start()
    assert machine.wait(LIMIT_S)
    machine.source = [2]
    assert machine.wait(LIMIT_S)
    records.wait_for(2)
    assert kinds(machine).count("exhausted") == kinds(machine).count("drained") == 2


def test_reading_begins_at_once_with_start_and_ends_at_once_with_the_source(machines):
    """An idle worker checks its state every second; nothing may wait for that."""
    started = time.monotonic()
    for _ in range(30):
        machine = machines()
        machine.source = range(5)
        machine.start()
        assert machine.wait(LIMIT_S)
        machine.set_source([1])
        assert machine.wait(LIMIT_S)
        machine.close()
    assert time.monotonic() - started < 5.0, "several of 30 rounds took a second more"


def test_a_source_set_while_running_is_read_at_once(machine, records):
    machine.start()
    machine.source = generator
    assert [record.input for record in records.wait_for(3)] == [1, 2, 3]


def test_deleting_keeps_what_was_read_and_is_an_event(machine, records, gate):
    machine[0] = gate
    machine.source = (n for n in range(10))
    machine.start()
    gate.wait_until_entered()
    wait_until(lambda: machine.status.put == 10, "all read")
    del machine.source
    assert machine.status.source.state == "none"
    assert records.wait_for_event("source_deleted").data["count"] == 10
    gate.open()
    records.wait_for(10)
    del machine.source


def test_a_source_deleted_while_it_blocks_ends_when_it_returns_and_its_message_is_kept(machine, records):
    reading, give = threading.Event(), threading.Event()
    finished = threading.Event()

    def source():
        try:
            reading.set()
            give.wait(LIMIT_S)
            yield "late"
            yield "never"
        finally:
            finished.set()

    machine.source = source
    machine.start()
    assert reading.wait(LIMIT_S)
    del machine.source
    give.set()
    assert [record.input for record in records.wait_for(1)] == ["late"]
    assert finished.wait(LIMIT_S)
    assert machine.wait(LIMIT_S)
    assert machine.status.processed == 1


def test_an_async_source_deleted_while_it_waits_is_cancelled_and_its_finally_runs(machine):
    reading, finished = threading.Event(), threading.Event()

    async def source():
        try:
            yield 1
            reading.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            finished.set()

    machine.source = source
    machine.start()
    assert reading.wait(LIMIT_S)
    del machine.source
    assert finished.wait(LIMIT_S)


@pytest.mark.parametrize("how", ["delete", "replace", "close"])
def test_deleting_a_generator_runs_its_finally(machine, how):
    closed = threading.Event()

    def source():
        try:
            n = 0
            while True:
                yield n
                n += 1
        finally:
            closed.set()

    machine.source = source
    machine.start()
    wait_until(lambda: machine.status.processed, "it runs")
    if how == "delete":
        del machine.source
    elif how == "replace":
        machine.set_source([1], replace=True)
    else:
        machine.close()
    assert closed.wait(LIMIT_S)


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("how", ["delete", "close", "exhaust"])
def test_a_source_object_is_closed_once(machine, started, how):
    source = Batches()
    machine.source = source
    if started:
        machine.start()
    if how == "exhaust":
        machine.start()
        assert machine.wait(LIMIT_S)
    elif how == "delete":
        del machine.source
    machine.close()
    machine.close()
    wait_until(lambda: source.closed, "it was closed")
    assert source.closed == 1


def test_replacing_while_the_old_source_is_blocked_by_a_full_queue_loses_nothing(machines, records, gate):
    machine = machines(bufsize=2, sinks=[records])
    machine[0] = gate
    machine.source = (f"old {n}" for n in range(1000))
    machine.start()
    gate.wait_until_entered()
    wait_until(lambda: machine.status.queue_size == 2, "full")
    machine.set_source(["new"], replace=True)
    gate.open()
    assert machine.wait(LIMIT_S)
    wait_until(lambda: machine.status.queue_size == 0 and machine.status.in_flight == 0, "all through")
    inputs = [record.input for record in records.records]
    old = [message for message in inputs if message != "new"]
    assert old == [f"old {n}" for n in range(len(old))]
    assert "new" in inputs
    assert machine.status.put == len(inputs)


def test_a_full_queue_does_not_lock_up_a_worker_that_reads_its_source_itself(machines, records):
    """Puts may take the room between the worker's look at it and its reading."""
    machine = machines(bufsize=4, sinks=[records])

    def source():
        return iter(range(2000))

    machine.source = source
    machine.start()
    writers = [
        in_thread(lambda: [machine.put("put", block=True, timeout=LIMIT_S) for _ in range(500)]) for _ in range(3)
    ]
    for writer in writers:
        writer.result(20.0)
    assert machine.wait(LIMIT_S)
    inputs = [record.input for record in records.wait_for(3500)]
    assert [message for message in inputs if message != "put"] == list(range(2000))


def test_a_class_of_source_objects_makes_one(machine):
    machine.source = Batches
    machine.start()
    assert machine.wait(LIMIT_S)
    assert machine.status.processed == 3


def test_a_closed_machine_takes_no_source(machine):
    machine.close()
    with pytest.raises(MachineClosed):
        machine.source = [1]


def test_a_source_that_blocks_for_ever_does_not_hold_up_close(machine):
    reading, hold = threading.Event(), threading.Event()

    def source():
        reading.set()
        hold.wait(30.0)
        yield 1

    machine.source = source
    machine.start()
    assert reading.wait(LIMIT_S)
    closing = in_thread(machine.close)
    closing.result(3.0)
    hold.set()


def test_stepping_reads_one_message_of_the_source_at_a_time(machine):
    numbers = iter(range(10))
    machine.source = numbers
    assert machine.get()[1] == "0"
    assert machine.get()[1] == "1"
    assert next(numbers) == 2
    assert machine.status.source.count == 2


def test_stepping_waits_for_a_slow_source(machine):
    give = threading.Semaphore(0)

    def source():
        while give.acquire(timeout=LIMIT_S):
            yield "m"

    machine.source = source
    give.release()
    assert machine.get(block=True, timeout=LIMIT_S)[1] == '"m"'
    step = in_thread(machine.get, block=True, timeout=LIMIT_S)
    give.release()
    assert step.result()[1] == '"m"'
    del machine.source
    give.release()


def test_stepping_to_the_end_of_a_source_reports_exhausted_and_drained_once(machine, records):
    machine.source = generator
    for _ in range(3):
        machine.get(block=True, timeout=LIMIT_S)
    with pytest.raises(queue.Empty):
        machine.get(block=True, timeout=0.05)
    records.wait_for_event("drained")
    with pytest.raises(queue.Empty):
        machine.get()
    assert kinds(machine) == ["source_set", "exhausted", "drained"]


@pytest.mark.parametrize("verb", ["start", "resume"])
def test_what_follows_a_start_is_told_after_it(machines, verb):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(100):
            machine = machines(1)
            if verb == "resume":
                machine.start()
                machine.pause()
            machine.source = map(int, "123")
            getattr(machine, verb)()
            assert machine.wait(LIMIT_S)
            assert kinds(machine)[-3:] == ["started" if verb == "start" else "resumed", "exhausted", "drained"]
            machine.close()
    finally:
        sys.setswitchinterval(interval)
