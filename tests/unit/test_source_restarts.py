"""A source that fails is restarted, one that is silent for too long is abandoned; no message of it is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest
from feeder_kit import Rig, rigs
from machine_kit import LIMIT_S
from wait_kit import wait_until

from timbr_wamp.contract import SourceOptions
from timbr_wamp.errors import NotASource
from timbr_wamp.machine.intake.restarts import REPORT_S, Restarts
from timbr_wamp.machine.protocols import EndOfSource

#: Longer than any test waits.
FOR_EVER_S = 3600.0
#: Short enough to wait for it, and restarts as often as are needed.
SOON = {"restarts": 3, "backoff_s": 0.001}


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    """Make sources with their queues."""
    with rigs() as make:
        yield make


class Failing:
    """A generator function: each of ``passes`` is yielded by one start, which then fails; the start after them ends."""

    def __init__(self, *passes: list[object]) -> None:
        self._passes = iter(passes)
        self.starts = 0

    def __call__(self):
        self.starts += 1
        messages = next(self._passes, None)
        if messages is None:
            return
        yield from messages
        raise OSError(f"failure {self.starts}")


# --- when to restart, decided without a source ---


def test_the_backoff_doubles_up_to_its_limit_and_a_message_resets_it():
    restarts = Restarts(SourceOptions(restarts=5, backoff_s=1.0, backoff_max_s=6.0))
    assert [restarts.after_failure() for _ in range(6)] == [1.0, 2.0, 4.0, 6.0, 6.0, None]
    restarts.note_message()
    assert restarts.after_failure() == 1.0


def test_very_many_failures_do_not_overflow_the_backoff():
    restarts = Restarts(SourceOptions(restarts=10_000, backoff_s=1.0, backoff_max_s=60.0))
    assert {restarts.after_failure() for _ in range(5000)} == {1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0}


def test_an_end_without_a_message_is_followed_by_a_pause():
    restarts = Restarts(SourceOptions(on_exhausted="restart", backoff_s=0.5))
    assert restarts.after_end() == 0.5
    restarts.note_message()
    assert restarts.after_end() == 0.0
    restarts.note_restart(0.0, after_failure=False)
    assert restarts.after_end() == 0.5


def test_a_source_that_ends_is_not_restarted_by_default():
    restarts = Restarts(SourceOptions(restarts=3))
    assert restarts.wanted
    assert restarts.after_end() is None
    assert not Restarts(SourceOptions()).wanted


def test_restarts_after_an_end_are_reported_at_intervals_and_those_after_a_failure_always():
    restarts = Restarts(SourceOptions(on_exhausted="restart"))
    assert [restarts.note_restart(now, after_failure=False) for now in (0.0, 0.5, REPORT_S)] == [True, False, True]
    assert restarts.note_restart(REPORT_S, after_failure=True)
    assert restarts.count == 4


# --- restarts ---


def test_a_source_that_fails_is_restarted_and_what_it_gave_is_kept(rig):
    source = rig(Failing([1, 2], [3], []), **SOON).start()
    assert source.run_to_end() == [1, 2, 3]
    assert source.kinds == ["source_failed", "restarted"] * 3
    first = source.wait_for_event("source_failed")
    assert (first["error"], first["restart_in_s"], first["count"]) == ("OSError: failure 1", 0.001, 2)
    assert [data["number"] for kind, data in source.events if kind == "restarted"] == [1, 2, 3]
    status = source.status
    assert (status.state, status.restarts, status.count, status.error) == ("exhausted", 3, 3, None)
    assert source.ends == 1


def test_after_the_limit_it_has_failed(rig):
    failing = Failing([1], [], [], [], [], [2])
    source = rig(failing, restarts=3, backoff_s=0.001, backoff_max_s=0.003).start()
    assert source.run_to_end() == [1]
    waits = [data["restart_in_s"] for kind, data in source.events if kind == "source_failed"]
    assert waits == [0.001, 0.002, 0.003], "the fourth failure in a row is the end, reported by on_end"
    assert failing.starts == 4
    assert (source.status.state, source.status.error) == ("failed", "OSError: failure 4")
    assert source.feeder.failed
    assert source.ends == 1


def test_without_restarts_the_first_failure_is_the_end(rig):
    failing = Failing([1], [2])
    assert rig(failing).start().run_to_end() == [1]
    assert failing.starts == 1


def test_a_restart_may_fail_too_and_counts(rig):
    begins = []

    def factory():
        begins.append(len(begins))
        if len(begins) in (2, 3):
            raise ConnectionError("not yet")
        return Failing([len(begins)])() if len(begins) == 1 else iter(map(str, [4]))

    source = rig(factory, **SOON).start()
    assert source.run_to_end() == [1, "4"]
    assert [data["error"] for kind, data in source.events if kind == "source_failed"] == [
        "OSError: failure 1",
        "ConnectionError: not yet",
        "ConnectionError: not yet",
    ]
    assert source.status.restarts == 1


def test_a_factory_that_gives_no_messages_any_more_fails_with_a_sentence(rig):
    made = iter([Failing([1])(), 5])
    source = rig(lambda: next(made), restarts=1, backoff_s=0.001).start()
    assert source.run_to_end() == [1]
    assert source.status.error.startswith(NotASource.__name__)


def test_a_source_object_is_reopened_after_a_failure_and_continues(rig):
    class Line:
        reopened = closed = given = 0

        def next_batch(self):
            self.given += 1
            if self.given == 2:
                raise OSError("cut")
            if self.given > 4:
                raise EndOfSource
            return [self.given]

        def position(self):
            return self.given

        def reopen(self):
            self.reopened += 1

        def close(self):
            self.closed += 1

    line = Line()
    source = rig(line, **SOON).start()
    assert source.run_to_end() == [1, 3, 4]
    assert (line.reopened, line.closed) == (1, 1)


def test_the_finally_of_a_failed_async_source_runs_before_its_restart(rig):
    calls = []

    async def source():
        calls.append("begin")
        try:
            yield len(calls)
            await asyncio.sleep(0)
            if len(calls) < 4:
                raise OSError
        finally:
            calls.append("end")

    assert rig(source, **SOON).start().run_to_end() == [1, 3, 5]
    assert calls == ["begin", "end"] * 3


@pytest.mark.parametrize("paused", [True, False])
def test_waiting_for_a_restart_ends_at_once_when_the_source_is_deleted(rig, paused):
    source = rig(Failing([1]), restarts=1, backoff_s=FOR_EVER_S, backoff_max_s=FOR_EVER_S).start()
    source.wait_for_event("source_failed")
    assert source.status.state == "restarting"
    if paused:
        source.pause()
    source.feeder.close(LIMIT_S)
    assert not source.reading
    assert source.ends == 1
    assert source.take() == [1]


def test_a_paused_machine_restarts_its_source_only_after_resume(rig):
    failing = Failing([], [])
    failing_at = threading.Event()
    may_start = threading.Event()

    def source():
        if failing.starts == 0:
            failing_at.set()
            may_start.wait(LIMIT_S)
        yield from failing()

    one = rig(source, **SOON).start()
    assert failing_at.wait(LIMIT_S)
    one.pause()
    may_start.set()
    one.wait_for_event("source_failed")
    wait_until(lambda: one.status.state == "restarting", "it waits")
    assert failing.starts == 1
    one.start()
    one.wait_for_event("restarted", 2)
    assert failing.starts >= 2


def test_an_empty_list_that_restarts_waits_and_does_not_spin(rig):
    messages: list[object] = []
    source = rig(messages, on_exhausted="restart", backoff_s=FOR_EVER_S, backoff_max_s=FOR_EVER_S).start()
    wait_until(lambda: source.status.state == "restarting", "its first end")
    source.feeder.close(LIMIT_S)
    assert source.status.restarts == 0


def test_items_added_to_a_list_are_read_after_its_restart(rig):
    messages: list[object] = []
    source = rig(messages, on_exhausted="restart", backoff_s=0.001).start()
    wait_until(lambda: source.status.restarts > 1, "some rounds")
    messages.append("late")
    source.take_until(lambda: source.processed)
    assert source.processed[0] == "late"


def test_a_ready_source_with_restarts_is_read_by_a_thread_that_waits_under_any_policy(rig):
    source = rig([1, 2, 3], on_exhausted="restart", policy="drop_new", bufsize=2).start()
    assert not source.feeder.ready
    source.take_until(lambda: len(source.processed) >= 12)
    assert source.processed[:12] == [1, 2, 3] * 4
    assert source.dropped == []


# --- silence ---


def test_an_iterator_that_is_silent_for_too_long_is_abandoned_and_what_it_gives_later_is_queued(rig):
    may_start, ended = threading.Event(), threading.Event()

    def silent():
        try:
            yield 1
            may_start.wait(LIMIT_S)
            yield "late"
            yield "never read"
        finally:
            ended.set()

    source = rig(silent, idle_timeout_s=0.02).start()
    source.wait_for_end()
    assert source.wait_for_event("idle") == {"after_s": 0.02, "count": 1}
    assert source.status.state == "exhausted"
    assert source.take() == [1]
    may_start.set()
    assert source.queue.take(1, LIMIT_S)[0][1] == "late"
    source.queue.finish(processed=1)
    source.processed.append("late")
    assert ended.wait(LIMIT_S), "its finally ran, in its own thread"
    assert source.status.count == 2
    assert source.ends == 1


def test_a_silent_async_source_is_cancelled_and_its_finally_runs(rig):
    ended = threading.Event()

    async def silent():
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            ended.set()

    source = rig(silent, idle_timeout_s=0.02).start()
    assert source.run_to_end() == [1]
    assert ended.wait(LIMIT_S)
    assert source.kinds == ["idle"]


class Nothing:
    """A `Source` with nothing ready, ever."""

    def __init__(self) -> None:
        self.asked = self.closed = self.reopened = 0
        self.blocks = threading.Event()
        self.blocks.set()

    def next_batch(self):
        self.asked += 1
        self.blocks.wait(LIMIT_S)
        return ()

    def position(self):
        return None

    def reopen(self):
        self.reopened += 1

    def close(self):
        self.closed += 1


def test_a_source_object_with_nothing_ready_for_too_long_is_closed(rig):
    nothing = Nothing()
    source = rig(nothing, idle_timeout_s=0.05).start()
    source.wait_for_end()
    assert source.kinds == ["idle"]
    assert nothing.asked > 1, "it was asked all the while"
    assert nothing.closed == 1


def test_a_source_object_that_blocks_although_it_must_not_is_abandoned_too(rig):
    nothing = Nothing()
    nothing.blocks.clear()
    source = rig(nothing, idle_timeout_s=0.02, on_exhausted="restart").start()
    source.wait_for_end()
    assert (source.status.state, nothing.closed, nothing.reopened) == ("exhausted", 0, 0)
    nothing.blocks.set()
    wait_until(lambda: nothing.closed, "the thread that it blocked closes it")


def test_a_silent_source_is_restarted_if_on_exhausted_says_so(rig):
    hold = threading.Event()
    starts = []

    def stuck():
        starts.append(1)
        yield len(starts)
        if len(starts) < 3:
            hold.wait(LIMIT_S)
            yield f"late {len(starts)}"

    source = rig(stuck, idle_timeout_s=0.02, on_exhausted="restart").start()
    source.take_until(lambda: 3 in source.processed)
    assert source.kinds.count("idle") == 2
    hold.set()
    source.take_until(lambda: sum(str(message).startswith("late") for message in source.processed) == 2)


def test_silence_while_it_may_not_read_does_not_count(rig):
    tap = threading.Semaphore(0)

    def source():
        while tap.acquire(timeout=LIMIT_S):
            yield "m"

    one = rig(source, idle_timeout_s=0.2, bufsize=1).start()
    tap.release()
    one.wait_for_queue(1)
    one.pause()
    feeder = one.feeder
    with feeder._monitor.lock:
        feeder._silent_since = -FOR_EVER_S  # silent since long ago
    assert feeder._look() == 0.2
    one.start()
    assert 0 < feeder._look() <= 0.2, "it counts from now on"
    assert one.kinds == []
    one.wait_for_end()
    tap.release()


def test_waiting_for_room_in_the_queue_is_no_silence(rig):
    source = rig((n for n in range(5)), idle_timeout_s=0.05, bufsize=1).start()
    source.wait_for_queue(1)
    wait_until(lambda: source.queue.crowded, "the next waits for room")
    assert source.feeder._look() == 0.05
    assert source.run_to_end() == [0, 1, 2, 3, 4]
    assert source.kinds == []


# --- figures ---


def test_progress_counts_from_when_the_source_was_set(rig):
    source = rig([1, 2, 3, 4], bufsize=10)
    progress = source.feeder.progress
    source.start()
    source.take(1)
    half = progress(source.queue.snapshot(), rate_per_s=1.5, state="running", drained=False)
    assert (half.done, half.total, half.percentage, half.eta_s) == (1, 4, 25.0, 2.0)
    assert not half.complete
    source.run_to_end()
    whole = progress(source.queue.snapshot(), rate_per_s=0.0, state="running", drained=True)
    assert (whole.done, whole.percentage, whole.eta_s, whole.complete) == (4, 100.0, None, True)


def test_progress_without_a_total_or_a_rate_claims_nothing(rig):
    source = rig(n for n in range(3)).start()
    source.run_to_end()
    progress = source.feeder.progress(source.queue.snapshot(), rate_per_s=0.0, state="running", drained=False)
    assert (progress.done, progress.total, progress.percentage, progress.eta_s) == (3, None, None, None)
    assert source.feeder.status(10.0).eta_s is None


def test_a_total_that_was_too_small_or_too_large_gives_no_nonsense(rig):
    source = rig((n for n in range(3)), total=2).start()
    source.run_to_end()
    progress = source.feeder.progress(source.queue.snapshot(), rate_per_s=1.0, state="running", drained=False)
    assert (progress.done, progress.percentage, progress.eta_s) == (3, 100.0, 0.0)
    few = rig((n for n in range(3)), total=4).start()
    few.run_to_end()
    progress = few.feeder.progress(few.queue.snapshot(), rate_per_s=1.0, state="running", drained=True)
    assert (progress.done, progress.percentage, progress.complete) == (3, 100.0, True)


def test_the_time_left_is_estimated_from_total_and_rate(rig):
    source = rig([1, 2, 3, 4], total=8).start()
    source.take(2)
    assert source.feeder.status(2.0).eta_s == 3.0
    assert source.feeder.status(0.0).eta_s is None


# --- in a machine ---


def kinds(machine):
    return [event.kind for event in machine.events()]


def test_a_machine_survives_failures_of_its_source(machine, records):
    machine.set_source(Failing([1, 2], [3], []), **SOON)
    machine.start()
    assert machine.wait(LIMIT_S)
    assert [record.input for record in records.wait_for(3)] == [1, 2, 3]
    assert kinds(machine)[2:] == ["source_failed", "restarted"] * 3 + ["exhausted", "drained"]
    assert machine.status.source.state == "exhausted"


def test_a_machine_is_settled_only_when_its_source_failed_for_good(machine, records):
    machine.set_source(Failing([1], []), restarts=1, backoff_s=0.001)
    machine.start()
    assert machine.wait(LIMIT_S)
    assert machine.status.source.state == "failed"
    failures = [event.data for event in machine.events() if event.kind == "source_failed"]
    assert [data["error"] for data in failures] == ["OSError: failure 1", "OSError: failure 2"]
    assert "restart_in_s" not in failures[1]


def test_a_machine_stops_when_its_source_is_exhausted_if_on_exhausted_says_so(machine, records):
    machine.set_source([1, 2, 3], on_exhausted="stop")
    machine.start()
    wait_until(lambda: machine.status.state == "stopped", "it stopped")
    assert len(records.wait_for(3)) == 3
    assert "exhausted" in machine.status.reason


@pytest.mark.parametrize("how", ["delete", "close"])
def test_a_source_that_waits_for_its_restart_can_be_deleted(machine, how):
    machine.set_source(Failing([1]), restarts=1, backoff_s=FOR_EVER_S, backoff_max_s=FOR_EVER_S)
    machine.start()
    wait_until(lambda: machine.source.state == "restarting", "it failed")
    assert machine.source.error == "OSError: failure 1"
    if how == "delete":
        del machine.source
        assert machine.wait(LIMIT_S)
    else:
        machine.close()
        assert machine.source.state == "waiting"


def test_a_silent_source_is_reported_as_idle_and_exhausted(machine, records):
    hold = threading.Event()

    def silent():
        yield 1
        hold.wait(LIMIT_S)
        yield "late"

    machine.set_source(silent, idle_timeout_s=0.02)
    machine.start()
    assert machine.wait(LIMIT_S)
    assert kinds(machine)[2:] == ["idle", "exhausted", "drained"]
    hold.set()
    assert [record.input for record in records.wait_for(2)] == [1, "late"]


def test_a_message_that_comes_after_another_source_took_over_is_processed_too(machine, records):
    hold = threading.Event()

    def silent():
        yield 1
        hold.wait(LIMIT_S)
        yield "late"

    machine.set_source(silent, idle_timeout_s=0.02)
    machine.start()
    assert machine.wait(LIMIT_S)
    machine.source = [2]
    assert machine.wait(LIMIT_S)
    hold.set()
    assert [record.input for record in records.wait_for(3)] == [1, 2, "late"]


def test_a_machine_reports_its_progress(machine):
    machine.put("before")
    machine.set_source(n for n in range(4))
    machine.set_source((n for n in range(4)), total=4, replace=True)
    assert machine.progress().percentage == 0.0
    machine.start()
    assert machine.wait(LIMIT_S)
    progress = machine.progress()
    assert (progress.done, progress.total, progress.percentage, progress.complete) == (4, 4, 100.0, True)
