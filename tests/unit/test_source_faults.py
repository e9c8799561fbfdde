"""Whatever a source does at its end, or is, the machine stays whole, and leaves nothing of it behind."""

from __future__ import annotations

import asyncio
import enum
import os
import threading
from collections import UserDict
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from feeder_kit import Rig, rigs
from machine_kit import LIMIT_S
from wait_kit import wait_until

from timbr_wamp.errors import NotASource
from timbr_wamp.machine.intake import async_reader, feeder
from timbr_wamp.machine.protocols import EndOfSource

POLICIES = ["wait", "drop_new", "drop_old", "sample"]


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    """Make sources with their queues."""
    with rigs() as make:
        yield make


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources that ignore their cancellation are abandoned sooner."""
    monkeypatch.setattr(feeder, "GRACE_S", 0.02)
    monkeypatch.setattr(async_reader, "CLOSE_LIMIT_S", 0.05)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


counts_descriptors = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc")


# --- how a silent source ends ---


async def raises_when_cancelled():
    try:
        yield 1
        await asyncio.Event().wait()
    finally:
        raise OSError("in finally")


async def ignores_being_cancelled():
    yield 1
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


async def hangs_in_aclose():
    try:
        yield 1
        await asyncio.Event().wait()
    finally:
        await asyncio.Event().wait()


async def leaves_a_task():
    task = asyncio.create_task(asyncio.Event().wait())
    yield 1
    await task


class HangsInAclose:
    """An async iterator of a user's, with an `aclose` that does not return."""

    def __init__(self) -> None:
        self.given = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self.given:
            await asyncio.Event().wait()
        self.given = True
        return 1

    async def aclose(self):
        await asyncio.Event().wait()


STUBBORN = {
    "raises in finally": raises_when_cancelled,
    "ignores cancellation": ignores_being_cancelled,
    "hangs in finally": hangs_in_aclose,
    "leaves a task": leaves_a_task,
    "hangs in aclose": HangsInAclose,
}
stubborn = pytest.mark.parametrize("source", STUBBORN.values(), ids=STUBBORN.keys())


@stubborn
def test_a_silent_async_source_is_restarted_however_it_ends(rig, short_limits, source):
    one = rig(source, idle_timeout_s=0.02, on_exhausted="restart", backoff_s=0.001).start()
    one.take_until(lambda: len(one.processed) >= 3)
    assert one.kinds.count("idle") >= 2


@pytest.mark.parametrize("on_exhausted", ["keep", "restart"])
def test_what_a_source_raises_when_its_silence_is_ended_is_a_failure_that_its_policy_restarts(rig, on_exhausted):
    one = rig(raises_when_cancelled, idle_timeout_s=0.02, on_exhausted=on_exhausted, restarts=1, backoff_s=0.001)
    one.start()
    one.take_until(lambda: len(one.processed) >= 2)
    failed = one.wait_for_event("source_failed")
    assert failed["error"] == "OSError: in finally"
    assert one.kinds[0] == "idle"


def test_without_a_restart_it_has_failed_with_what_it_raised(rig):
    one = rig(raises_when_cancelled, idle_timeout_s=0.02).start()
    one.run_to_end()
    assert (one.status.state, one.status.error) == ("failed", "OSError: in finally")


@counts_descriptors
@stubborn
def test_restarts_leave_no_descriptor_open(rig, short_limits, source):
    one = rig(source, idle_timeout_s=0.001, on_exhausted="restart", backoff_s=0.001).start()
    one.take_until(lambda: one.status.restarts >= 2)
    before = descriptors()
    one.take_until(lambda: one.status.restarts >= 12)
    one.feeder.close(0.05)
    wait_until(lambda: not one.reading, "its thread ended")
    assert descriptors() <= before


@counts_descriptors
def test_a_hundred_restarts_leave_no_descriptor_open(rig):
    async def fails():
        yield 1
        raise OSError

    one = rig(fails, restarts=1, backoff_s=0.0001).start()
    one.take_until(lambda: one.status.restarts >= 3)
    before = descriptors()
    one.take_until(lambda: one.status.restarts >= 103)
    one.feeder.close(0.05)
    wait_until(lambda: not one.reading, "its thread ended")
    assert descriptors() <= before


@stubborn
def test_a_deleted_source_ends_its_thread(rig, short_limits, source):
    one = rig(source).start()
    one.take_until(lambda: one.processed)
    one.feeder.close(0.1)
    wait_until(lambda: not one.reading, "its thread ended")
    assert one.status.state != "reading"


# --- what sources raise ---


class Strange:
    """A `Source` that raises a given error in a given method."""

    def __init__(self, where: str, error: BaseException) -> None:
        self._where, self._error = where, error
        self._batches = [[1], [2]]

    def _raise(self, where: str) -> None:
        if where == self._where:
            raise self._error

    def next_batch(self):
        if not self._batches:
            self._raise("next_batch")
            raise EndOfSource
        return self._batches.pop(0)

    def position(self):
        return None

    def close(self):
        self._raise("close")


ERRORS = [OSError("x"), SystemExit(3), KeyboardInterrupt(), StopIteration(), GeneratorExit(), asyncio.CancelledError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["next_batch", "close"])
def test_a_source_object_may_raise_anything_anywhere(rig, where, error):
    one = rig(Strange(where, error)).start()
    assert one.run_to_end() == [1, 2]
    wait_until(lambda: not one.reading, "its thread ended")
    assert one.status.state == ("failed" if where == "next_batch" else "exhausted")


class Rude(Exception):
    def __str__(self):
        raise SystemExit


def test_a_source_whose_error_has_no_text_fails_with_its_class(rig):
    def source():
        yield 1
        raise Rude

    one = rig(source).start()
    one.take_until(lambda: one.status.state == "failed")
    assert one.status.error == "Rude: <its text raised SystemExit>"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_an_iterator_may_raise_anything_and_is_restarted(rig, error):
    def source():
        yield 1
        raise error

    one = rig(source, restarts=1, backoff_s=0.001).start()
    one.take_until(lambda: len(one.processed) >= 2)
    assert one.status.restarts >= 1


@pytest.mark.parametrize("batch", [None, 5, "text", {"a": 1}, iter([1])], ids=lambda batch: type(batch).__name__)
def test_a_batch_that_is_no_list_is_a_failure_that_says_so(rig, batch):
    class Wrong:
        def next_batch(self):
            return batch

        def position(self):
            return None

        def close(self):
            return None

    one = rig(Wrong()).start()
    one.run_to_end()
    assert one.status.error.startswith("TypeError: next_batch() of Wrong returned a")


def test_a_generator_that_somebody_else_is_running_fails_and_is_restarted(rig):
    held, release = threading.Event(), threading.Event()

    def source():
        held.set()
        release.wait(LIMIT_S)
        yield 1

    busy = source()
    other = threading.Thread(target=next, args=(busy,))
    other.start()
    assert held.wait(LIMIT_S)
    one = rig(busy).start()
    one.run_to_end()
    release.set()
    other.join()
    assert one.status.error == "ValueError: generator already executing"


# --- a source on hold: none of its messages is queued or dropped ---


@pytest.mark.parametrize("policy", POLICIES)
def test_once_held_a_source_drops_nothing_and_displaces_nothing(rig, policy):
    def flood():
        n = 0
        while True:
            yield n
            n += 1

    one = rig(flood, policy=policy, bufsize=4, sample_every=2)
    for _ in range(20):
        one.start()
        wait_until(lambda: one.queue.crowded, "the queue is full")
        kept = one.queue.take(1, 0.0)
        one.feeder.hold()
        one.queue.give_back(kept)
        wait_until(lambda: not one.queue.snapshot().in_flight, "what was dropped before is recorded")
        before, dropped = one.queue.snapshot(), len(one.dropped)
        assert one.take(1) == [entry[1] for entry in kept], "what was given back is still the first"
        one.take(100)
        after = one.queue.snapshot()
        assert after.put - before.put <= 1, "the message that was just being read"
        assert len(one.dropped) == dropped
        one.take(100)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("verdict", ["pause", "stop"])
def test_a_policy_that_takes_the_machine_out_of_running_holds_its_source(machines, policy, verdict):
    machine = machines(1, bufsize=20)
    broken = threading.Event()
    broken.set()

    def slot(n: int) -> int:
        if n >= 10 and broken.is_set():
            raise ValueError(n)
        return n

    machine.set(0, slot, policy=verdict)

    def numbers():
        n = 0
        while n < 5000:
            yield n
            n += 1

    machine.set_source(numbers, policy=policy, sample_every=3)
    machine.start()
    wait_until(lambda: machine.status.state in ("paused", "stopped"), "its policy took it out of running")
    wait_until(lambda: machine.status.in_flight == 0, "what was dropped is recorded")
    before = machine.status
    assert machine.source.state == "waiting"
    threading.Event().wait(0.05)  # nothing is to happen: there is nothing to wait for
    after = machine.status
    assert after.put - before.put <= 1
    assert after.dropped == before.dropped
    kept = machine.errors[-1].oid
    broken.clear()
    machine.start()
    assert machine.wait(LIMIT_S)
    [record] = [record for record in machine.recent(10_000) if record.oid == kept]
    assert not record.meta.dropped


# --- what is a source ---


class DataFrame:
    """Iterates over its columns, as those of pandas and polars do."""

    def __iter__(self):
        return iter(["a", "b"])

    def __len__(self):
        return 1000


@pytest.mark.parametrize(
    ("thing", "hint"),
    [
        (DataFrame(), "rows"),
        (UserDict(a=1), "values"),
        (MappingProxyType({}), "values"),
        (memoryview(b"abc"), "character"),
        (Mock(), "messages"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_probable_mistake_is_refused_with_advice(rig, thing, hint):
    with pytest.raises(NotASource, match=hint):
        rig(thing)


def test_a_coroutine_function_is_refused_and_not_left_without_an_await(rig):
    async def coroutine():
        return [1]

    with pytest.raises(NotASource, match="yield"):
        rig(coroutine)


class Inventive:
    """Has every attribute that is asked for."""

    def __iter__(self):
        return iter([1, 2])

    def __getattr__(self, name: str) -> Any:
        return 10**9


class Liar(list):
    def __len__(self):
        raise AssertionError("asked")

    def __iter__(self):
        return iter([1, 2])


class Blocking:
    """Its length takes for ever."""

    def __len__(self):
        threading.Event().wait()

    def __iter__(self):
        return iter([1, 2])


@pytest.mark.parametrize("make", [Inventive, Liar, Blocking], ids=lambda make: make.__name__)
def test_dynamic_attributes_of_an_object_are_not_asked(rig, make):
    one = rig(make()).start()
    assert one.run_to_end() == [1, 2]
    assert one.status.total is None


def test_a_mock_is_read_as_its_type_says(rig):
    one = rig(MagicMock()).start()
    assert one.run_to_end() == []


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@pytest.mark.parametrize(
    ("source", "total"),
    [
        ([1, 2], 2),
        ((), 0),
        (range(5), 5),
        (range(1 << 99), None),
        ({1, 2, 3}, 3),
        ({"a": 1}.items(), 1),
        (Colour, None),
        (iter([1]), None),
    ],
    ids=["list", "tuple", "range", "huge range", "set", "items", "enum", "iterator"],
)
def test_built_in_containers_say_how_many_messages_there_are(rig, source, total):
    assert rig(source).status.total == total


def test_a_source_object_may_say_how_many_there_will_be(rig):
    class Sized(Strange):
        total = 7

    class Unsure(Strange):
        total = property(lambda self: "many")

    assert rig(Sized("", OSError())).status.total == 7
    assert rig(Unsure("", OSError())).status.total is None


# --- one object that is yielded repeatedly ---


def test_a_source_that_reuses_one_object_is_warned_of_once(rig, caplog):
    def source():
        row: dict[str, int] = {}
        for n in range(6):
            row["n"] = n
            yield row

    rig(source, bufsize=10).start().run_to_end()
    assert caplog.text.count("yield a copy") == 1


def test_small_numbers_and_texts_may_be_given_again(rig, caplog):
    assert rig(iter(["aaa"] * 3)).start().run_to_end() == ["aaa"] * 3
    assert "yield a copy" not in caplog.text


def test_a_batch_that_says_a_wrong_length_loses_no_message(machines, records):
    class Short(list):
        def __len__(self):
            return 1

    class Source:
        def __init__(self):
            self.batches = [Short([1, 2, 3])]

        def next_batch(self):
            if not self.batches:
                raise EndOfSource
            return self.batches.pop()

        def position(self):
            return None

        def close(self):
            pass

    machine = machines(stages=1, sinks=[records])
    machine.set_source(Source())
    machine.start()
    assert machine.wait(LIMIT_S)
    assert [record.input for record in records.records] == [1, 2, 3]
