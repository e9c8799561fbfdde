"""One contract for every kind of source, under every policy: each message is queued or recorded as dropped, once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import pytest
from wait_kit import wait_until

from timbr_wamp.errors import InvalidArgument
from timbr_wamp.machine.protocols import EndOfSource


class Batches:
    """A `Source` that sometimes has nothing ready, and can be restarted."""

    def __init__(self, count: int) -> None:
        self.reopened = self.closed = 0
        self._count = count
        self._begin()

    def _begin(self) -> None:
        self._given = 0
        self._batches = deque([(), *(range(n, min(n + 3, self._count)) for n in range(0, self._count, 3))])

    def next_batch(self):
        if not self._batches:
            raise EndOfSource
        batch = self._batches.popleft()
        self._given += len(batch)
        return batch

    def position(self):
        return self._given

    def close(self) -> None:
        self.closed += 1

    def reopen(self) -> None:
        assert not self.closed, "reopened after it was closed"
        self.reopened += 1
        self._begin()


class OnceOnly(Batches):
    """The same without `reopen`."""

    reopen = None


class Numbers:
    """An iterable class of a user's."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __iter__(self):
        yield from range(self._count)


class AsyncNumbers:
    """An async iterable that starts from 0 each time."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __aiter__(self):
        return async_numbers(self._count)


async def async_numbers(count: int):
    for n in range(count):
        await asyncio.sleep(0)
        yield n


READY = {
    "list": lambda count: list(range(count)),
    "range": range,
    "list iterator": lambda count: iter(range(count)),
}
AGAIN = {
    "iterable object": Numbers,
    "generator function": lambda count: lambda: (n for n in range(count)),
    "async iterable": AsyncNumbers,
    "async generator function": lambda count: lambda: async_numbers(count),
    "Source with reopen": Batches,
    "function that makes a Source": lambda count: lambda: OnceOnly(count),
}
ONCE = {
    "generator": lambda count: (n for n in range(count)),
    "iterator": lambda count: map(int, range(count)),
    "async generator": async_numbers,
    "Source": OnceOnly,
}
THREADED = {**AGAIN, **ONCE}
KINDS = {**READY, **THREADED}
POLICIES = ["wait", "drop_new", "drop_old", "sample"]

Make = Callable[[int], object]


def kinds(of: dict[str, Make]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", of.values(), ids=of.keys())


every_policy = pytest.mark.parametrize("policy", POLICIES)


@every_policy
@kinds(KINDS)
def test_every_message_is_processed_or_dropped_exactly_once_and_the_rest_keep_their_order(rig, make, policy):
    source = rig(make(300), policy=policy, sample_every=3).start()
    processed = source.run_to_end()
    assert processed == sorted(processed)
    assert sorted(processed + source.dropped) == list(range(300))
    counts = source.queue.snapshot()
    assert (counts.put, counts.refused) == (300, 0)
    assert (source.status.count, source.status.state) == (300, "exhausted")
    assert source.ends == 1


@every_policy
@kinds(READY)
def test_a_ready_source_loses_nothing_under_any_policy(rig, make, policy):
    assert rig(make(100), policy=policy).start().run_to_end() == list(range(100))


@kinds(KINDS)
def test_the_default_loses_nothing(rig, make):
    assert rig(make(100)).start().run_to_end() == list(range(100))


@kinds(THREADED)
def test_drop_new_keeps_what_waits(rig, make):
    source = rig(make(20), policy="drop_new").start()
    source.wait_for_end()
    assert source.dropped == list(range(4, 20))
    assert source.take() == [0, 1, 2, 3]
    assert source.whys == {"the queue was full (drop_new)"}
    assert source.fulls == 1


@kinds(THREADED)
def test_drop_old_keeps_the_newest(rig, make):
    source = rig(make(20), policy="drop_old").start()
    source.wait_for_end()
    assert source.dropped == list(range(16))
    assert source.take() == [16, 17, 18, 19]
    assert source.fulls == 1


@kinds(THREADED)
def test_a_sample_waits_for_room_and_what_is_between_is_dropped(rig, make):
    source = rig(make(20), policy="sample", sample_every=5).start()
    wait_until(lambda: len(source.dropped) == 4, "the fifth waits")
    assert source.take(1) == [0]
    wait_until(lambda: len(source.dropped) == 8, "the fifth got in, the tenth waits")
    assert source.dropped == [4, 5, 6, 7, 9, 10, 11, 12]
    assert source.queue.snapshot().queue_size == 4
    assert source.run_to_end()[:6] == [0, 1, 2, 3, 8, 13], "half empty, all are taken again"


@pytest.mark.parametrize("policy", POLICIES[1:])
@kinds(THREADED)
def test_a_source_that_may_not_read_drops_nothing(rig, make, policy):
    source = rig(make(20), policy=policy, bufsize=3)
    source.feeder.permit(1)
    wait_until(lambda: source.status.count, "it read")
    wait_until(lambda: source.status.state == "waiting", "its permit is used up")
    assert source.status.count <= 3, "one message, or one batch"
    assert source.dropped == []
    assert source.take() == list(range(source.status.count))
    assert not source.feeder.ended


@kinds(AGAIN | {key: READY[key] for key in ("list", "range")})
def test_a_source_that_can_restart_is_read_repeatedly(rig, make):
    source = rig(make(7), on_exhausted="restart").start()
    source.take_until(lambda: len(source.processed) >= 21)
    assert source.processed[:21] == [*range(7), *range(7), *range(7)]
    assert source.status.restarts >= 2
    assert source.status.total is None
    assert source.kinds == ["restarted"], "reported once a second, or a short list would fill the log"
    assert not source.feeder.ended


@pytest.mark.parametrize("options", [{"on_exhausted": "restart"}, {"restarts": 1}], ids=str)
@kinds(ONCE | {"list iterator": READY["list iterator"]})
def test_a_source_that_cannot_restart_is_refused_with_restart_options(rig, make, options):
    source = make(3)
    with pytest.raises(InvalidArgument, match=r"cannot be restarted.*(generator function|factory)"):
        rig(source, **options)
    assert rig(source).start().run_to_end() == [0, 1, 2], "nothing of it was read"


@pytest.mark.parametrize("policy", POLICIES)
@kinds(THREADED)
def test_a_source_deleted_while_the_queue_is_full_ends_and_the_counts_add_up(rig, make, policy):
    source = rig(make(50), policy=policy, sample_every=2).start()
    wait_until(lambda: source.queue.snapshot().put >= 4, "the queue filled")
    source.close()
    source.take()
    assert source.queue.snapshot().put == source.status.count == len(source.processed) + len(source.dropped)


@kinds(KINDS)
def test_a_closed_queue_ends_the_reading(rig, make):
    source = rig(make(50)).start()
    source.take(1, 1.0)
    source.queue.close()
    source.feeder.close(5.0)
    assert source.queue.snapshot().put < 50
    assert source.status.state in ("waiting", "exhausted")


def test_a_source_object_is_closed_once_and_only_at_its_very_end(rig):
    numbers = Batches(3)
    source = rig(numbers, on_exhausted="restart").start()
    source.take_until(lambda: numbers.reopened >= 2)
    assert numbers.closed == 0
    source.close()
    assert numbers.closed == 1
