"""A source's policy decides about messages while the queue is full: drops are counted and recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from feeder_kit import Rig, rigs
from machine_kit import LIMIT_S, ManualClock, assert_counts_add_up, in_thread
from wait_kit import wait_until

from timbr_wamp.errors import InvalidArgument, MachineClosed, MachineFull
from timbr_wamp.machine.intake.message_queue import FULL_REPORT_S, Droppable, MessageQueue


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    """Make sources with their queues."""
    with rigs() as make:
        yield make


class Tap:
    """A generator function that yields as many messages as the test allows."""

    def __init__(self) -> None:
        self._more = threading.Semaphore(0)
        self._ended = False
        self.read = 0

    def __call__(self):
        while self._more.acquire(timeout=LIMIT_S) and not self._ended:
            self.read += 1
            yield f"source {self.read}"

    def let(self, count: int) -> None:
        """Allow ``count`` more messages."""
        self._more.release(count)

    def end(self) -> None:
        """Let it come to its end."""
        self._ended = True
        self._more.release()


@pytest.fixture
def tap() -> Iterator[Tap]:
    """A source that ends before the rig that reads it is closed."""
    made = Tap()
    yield made
    made.end()


def put(queue: MessageQueue, *names: str) -> None:
    for name in names:
        queue.put((name, name, 0.0, 1))


def entry(n: int) -> tuple[str, object, float, int]:
    return (f"{n:024x}", n, 0.0, 1)


# --- the policies beside `put` ---


def test_a_message_that_somebody_put_is_never_dropped_for_a_source(rig, tap):
    source = rig(tap, policy="drop_old", bufsize=3).start()
    put(source.queue, "a", "b")
    tap.let(2)
    wait_until(lambda: source.dropped, "one had to go")
    assert source.dropped == ["source 1"], "the oldest of the source's messages, though others waited for longer"
    assert source.take() == ["a", "b", "source 2"]


def test_where_only_put_messages_wait_the_new_one_of_the_source_goes(rig, tap):
    source = rig(tap, policy="drop_old", bufsize=2).start()
    put(source.queue, "a", "b")
    tap.let(1)
    wait_until(lambda: source.dropped, "one had to go")
    assert source.dropped == ["source 1"]
    assert source.take() == ["a", "b"]


@pytest.mark.parametrize("policy", ["drop_new", "drop_old", "sample"])
def test_put_is_still_refused_while_a_source_drops(rig, policy):
    source = rig((n for n in range(20)), policy=policy, sample_every=100).start()
    source.wait_for_end()
    with pytest.raises(MachineFull):
        put(source.queue, "a")
    assert source.queue.snapshot().refused == 1


@pytest.mark.parametrize("policy", ["drop_new", "drop_old", "sample"])
def test_a_message_being_read_at_a_pause_waits_and_may_be_dropped_only_after_the_pause(rig, tap, policy):
    source = rig(tap, policy=policy, bufsize=1, sample_every=3).start()
    tap.let(1)
    source.wait_for_queue(1)
    wait_until(lambda: source.status.state == "reading", "it reads the next")
    source.pause()
    tap.let(1)
    wait_until(lambda: tap.read == 2, "it was read")
    assert source.queue.snapshot().put == 1, "neither queued nor dropped"
    assert source.dropped == []
    source.start()
    source.queue.wake()
    wait_until(lambda: source.dropped, "it reads, and the queue is full")
    assert source.queue.snapshot().put == 2


def test_a_sample_takes_everything_again_from_half_empty_on(rig, tap):
    source = rig(tap, policy="sample", sample_every=10, bufsize=4).start()
    tap.let(6)
    wait_until(lambda: len(source.dropped) == 2, "two found no room")
    source.take(1)
    tap.let(1)
    wait_until(lambda: len(source.dropped) == 3, "there is room, but the queue is not half empty yet")
    source.take(1)
    tap.let(2)
    source.wait_for_queue(4)
    assert source.dropped == ["source 5", "source 6", "source 7"]


@pytest.mark.parametrize("sample_every", [1, 2])
def test_a_sample_of_a_fast_source_waits_for_a_slow_reader(rig, sample_every):
    source = rig((n for n in range(100)), policy="sample", sample_every=sample_every).start()
    source.run_to_end(limit=1)
    assert len(source.dropped) <= 100 * (sample_every - 1) / sample_every


def test_dropped_messages_are_part_of_what_was_read(rig):
    source = rig((n for n in range(10)), policy="drop_new", total=10).start()
    source.wait_for_end()
    status = source.status
    assert (status.count, status.dropped, status.total, status.state) == (10, 6, 10, "exhausted")
    assert status.options.policy == "drop_new"


def test_when_recording_a_drop_fails_the_source_ends_with_that_error(rig, monkeypatch):
    source = rig((n for n in range(10)), policy="drop_new", bufsize=1, restarts=0)

    def refuse(entries, why):
        source.queue.finish(dropped=len(entries))
        source.dropped.extend(entries)
        raise OSError("disk full")

    monkeypatch.setattr(source.feeder._admission, "_on_drop", refuse)
    source.start().wait_for_end()
    assert (source.status.state, source.status.error) == ("failed", "OSError: disk full")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("policy", "drop"),
        ("policy", None),
        ("on_exhausted", "again"),
        ("sample_every", 0),
        ("sample_every", 2.5),
        ("restarts", -1),
        ("restarts", True),
        ("idle_timeout_s", 0),
        ("idle_timeout_s", "5"),
        ("backoff_s", 0),
        ("backoff_s", float("inf")),
        ("backoff_max_s", -1.0),
        ("backoff_max_s", float("nan")),
    ],
)
def test_an_invalid_option_is_refused_by_its_name(option, value):
    with pytest.raises(InvalidArgument, match=option):
        Rig([1], **{option: value})


# --- reports of a full queue ---


def free_for_others(queue: MessageQueue) -> bool:
    """Tell whether another thread can use a queue now."""
    asked = threading.Thread(target=queue.snapshot, daemon=True)
    asked.start()
    asked.join(timeout=LIMIT_S)
    return not asked.is_alive()


class Fulls:
    """Counts the reports of a full queue, on a clock that the test moves."""

    def __init__(self, capacity: int) -> None:
        self.count = 0
        self.timer = ManualClock(0.0)
        self.queue = MessageQueue(capacity, on_full=self._on_full, timer=self.timer)

    def _on_full(self) -> None:
        self.count += 1
        assert free_for_others(self.queue), "called with the lock held"


def test_full_is_reported_once_and_again_only_after_the_queue_was_half_empty():
    fulls = Fulls(4)
    queue = fulls.queue
    put(queue, *"abcd")
    assert fulls.count == 0, "full, but no caller found no room"
    for _ in range(3):
        with pytest.raises(MachineFull):
            put(queue, "e")
    assert fulls.count == 1
    fulls.timer.advance(FULL_REPORT_S)
    queue.take(1, 0.0)
    put(queue, "e")
    with pytest.raises(MachineFull):
        put(queue, "f")
    assert fulls.count == 1, "three of four is not half empty"
    queue.take(2, 0.0)
    assert not queue.crowded
    put(queue, *"fg")
    with pytest.raises(MachineFull):
        put(queue, "h")
    assert fulls.count == 2


def test_a_queue_that_a_source_keeps_full_is_reported_once_a_second():
    fulls = Fulls(2)
    for _ in range(10):
        fulls.queue.offer([entry(1), entry(2)], 0.0)
        fulls.queue.offer([entry(3)], 0.0)
        fulls.queue.take(2, 0.0)
    assert fulls.count == 1
    fulls.timer.advance(FULL_REPORT_S)
    fulls.queue.offer([entry(1), entry(2)], 0.0)
    fulls.queue.offer([entry(3)], 0.0)
    assert fulls.count == 2


def test_a_writer_reports_a_full_queue_before_it_waits():
    reported = threading.Event()
    queue = MessageQueue(1, on_full=reported.set)
    put(queue, "a")
    writer = in_thread(queue.put, entry(1), block=True)
    assert reported.wait(LIMIT_S)
    assert not writer.done
    queue.take(1, 0.0)
    assert writer.result() is True


def test_room_that_appears_while_full_is_reported_is_used():
    queue = MessageQueue(1, on_full=lambda: queue.take(1, 0.0))
    put(queue, "a")
    assert queue.put(entry(1), block=True) is True
    assert queue.snapshot().in_flight == 1


def test_a_closed_queue_is_not_full():
    fulls = Fulls(1)
    put(fulls.queue, "a")
    fulls.queue.close()
    with pytest.raises(MachineClosed):
        put(fulls.queue, "b")
    assert fulls.count == 0


@pytest.mark.parametrize("how", ["set_aside", "displace"])
def test_a_drop_reports_a_full_queue_and_a_closed_queue_drops_nothing(how):
    fulls = Fulls(1)
    drop = getattr(fulls.queue, how)
    put(fulls.queue, "a")
    drop([Droppable(entry(1))])
    assert fulls.count == 1
    assert fulls.queue.snapshot().in_flight == 1
    fulls.queue.close()
    with pytest.raises(MachineClosed):
        drop([Droppable(entry(2))])
    counts = fulls.queue.snapshot()
    assert_counts_add_up(counts)
    assert counts.put == 2


# --- in a machine ---


@pytest.mark.parametrize("policy", ["drop_new", "drop_old", "sample"])
def test_every_message_that_a_policy_drops_has_one_record_that_says_why(machines, records, gate, policy):
    machine = machines(bufsize=4, sinks=[records])
    machine[0] = gate
    machine.start()
    machine.put("held")
    gate.wait_until_entered()
    machine.set_source((n for n in range(50)), policy=policy, sample_every=100)
    wait_until(lambda: machine.source.state == "exhausted", "all was read")
    status = machine.status
    assert (status.dropped, status.source.dropped, status.queue_size, status.in_flight) == (46, 46, 4, 1)
    gate.open()
    assert machine.wait(LIMIT_S)
    all_records = records.wait_for(51)
    assert sorted(record.input for record in all_records if record.input != "held") == list(range(50))
    assert len({record.oid for record in all_records}) == 51
    dropped = [record for record in all_records if record.meta.dropped]
    assert len(dropped) == 46
    assert all("the queue was full" in str(record.outcomes[0]) for record in dropped)
    assert [event.kind for event in machine.events()].count("full") == 1


def test_a_machine_that_is_paused_repeatedly_drops_only_while_it_runs(machines, records):
    machine = machines(bufsize=8, sinks=[records])
    machine[0] = lambda n: n
    machine.set_source((n for n in range(3000)), policy="drop_old")
    machine.start()
    for _ in range(20):
        machine.pause()
        before = machine.status
        wait_until(lambda: machine.status.in_flight == 0, "the batch under way ended")
        assert machine.status.source.count <= before.source.count + 1, "no more than the one being read"
        machine.resume()
    assert machine.wait(LIMIT_S)
    status = machine.status
    assert status.put == status.processed + status.dropped == 3000
    assert sorted(record.input for record in records.wait_for(3000)) == list(range(3000))


def test_an_invalid_option_leaves_the_present_source(machine):
    machine.source = [1, 2]
    with pytest.raises(InvalidArgument, match="policy"):
        machine.set_source([3], replace=True, policy="drop")
    machine.start()
    assert machine.wait(LIMIT_S)
    assert machine.status.processed == 2
