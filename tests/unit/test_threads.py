"""The threads executor: what runs side by side, time limits, order, and that nothing is lost or left behind."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from machine_kit import LIMIT_S, Gate, Machines, Recorder, in_thread
from wait_kit import wait_until

from tests.slot_kit import context_of, process
from timbr_wamp.errors import SlotTimeout
from timbr_wamp.machine import Machine
from timbr_wamp.machine.running.executors.thread_pool import ABANDONED_LIMIT, DaemonPool, TimeLimiter
from timbr_wamp.machine.running.executors.threads import ThreadsExecutor
from timbr_wamp.machine.slots.table import SlotTable


@pytest.fixture
def threaded(machines: Machines, records: Recorder) -> Machine:
    """A machine that runs its slots in threads, with `records` as sink and hook."""
    return machines(sinks=[records], hooks=[records], executor="threads")


@pytest.fixture
def executor() -> Iterator[ThreadsExecutor]:
    """An executor without a machine."""
    made = ThreadsExecutor()
    yield made
    made.close()


def table_of(**slots: Any) -> SlotTable:
    """A table of four slots with some of them set."""
    table = SlotTable(4, time.time)
    table.assign({int(name[1:]): function for name, function in slots.items()})
    return table


def entries_of(count: int) -> deque[Any]:
    """Return ``count`` messages, each its own number."""
    return deque((f"{n:024x}", n, 0.0, 1) for n in range(count))


# --- side by side ---


def test_slots_that_need_nothing_of_each_other_run_side_by_side(threaded, records):
    barrier = threading.Barrier(2)

    def meet(*_: object) -> int:
        barrier.wait(LIMIT_S)
        return 1

    threaded[0] = lambda message: meet()
    threaded[1] = lambda: meet()
    threaded[2] = lambda f1, f0: [f1, f0]
    threaded.put("m")
    threaded.start()
    assert records.wait_for(1)[0].values[2] == [1, 1]


def test_a_slot_runs_after_those_whose_values_it_takes(executor):
    ran: list[str] = []
    table = table_of(
        f0=lambda message: ran.append("f0"), f1=lambda f0: ran.append("f1"), f3=lambda f2, f1: ran.append("f3")
    )
    list(process(executor, entries_of(3), context_of(table.current)))
    assert ran == ["f0", "f1", "f3"] * 3


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_concurrency_limits_the_messages_under_way(executor, concurrency, side_by_side):
    barrier, lock, under_way, most = threading.Barrier(concurrency), threading.Lock(), set(), 0

    def meet(message: int) -> int:
        nonlocal most
        with lock:
            under_way.add(message)
            most = max(most, len(under_way))
        if message < concurrency:
            barrier.wait(LIMIT_S)
        return message

    def leave(f2: object, f1: object, f0: int) -> None:
        with lock:
            under_way.discard(f0)

    table = table_of(f0=meet, f1=(lambda: 1) if side_by_side else (lambda f0: 1), f3=leave)
    context = context_of(table.current, concurrency=concurrency)
    done = list(process(executor, entries_of(12 * concurrency), context))
    assert [entry[1] for entry, *_ in done] == list(range(12 * concurrency))
    assert most == concurrency


def test_records_come_in_the_order_of_their_messages_whichever_is_finished_first(machines, records):
    gate, passed = machines.gate(), threading.Event()
    m = machines(sinks=[records], executor="threads", concurrency=2)
    m[0] = lambda message: gate(message) if message == 0 else passed.set()
    m.put(0)
    m.put(1)
    m.start()
    assert passed.wait(LIMIT_S)
    assert m.status.in_flight == 2
    assert records.rows == []
    gate.open()
    assert [record.input for record in records.wait_for(2)] == [0, 1]


@pytest.mark.parametrize("second", [lambda: "alone", lambda f0: f0])
def test_a_record_is_there_while_a_later_message_of_its_batch_is_held_up(machines, records, second):
    gate = machines.gate()
    m = machines(sinks=[records], executor="threads")
    m[0] = lambda message: gate(message) if message == 1 else message
    m[1] = second
    m.put(0)
    m.put(1)
    m.start()
    assert records.wait_for(1)[0].input == 0
    assert m.status.in_flight == 1


def test_a_table_without_functions_carries_the_message_through(executor):
    done = list(process(executor, entries_of(3), context_of(table_of().current, concurrency=2)))
    assert [texts for _, _, texts, *_ in done] == [[b"0"] * 5, [b"1"] * 5, [b"2"] * 5]


def test_many_messages_come_all_and_in_order(executor):
    table = table_of(f0=lambda message: message, f1=lambda: 1)
    count = 50
    done = list(process(executor, entries_of(count), context_of(table.current)))
    assert [entry[1] for entry, *_ in done] == list(range(count))


# --- whether another message may start ---


@pytest.mark.parametrize("second", [lambda: "alone", lambda f0: f0])
def test_messages_that_may_not_start_stay_queued_in_order(executor, second):
    started: list[int] = []
    table, entries = table_of(f0=started.append, f1=second), entries_of(6)
    done = list(process(executor, entries, context_of(table.current, may_start=lambda: len(started) < 2)))
    assert started == [entry[1] for entry, *_ in done] == [0, 1]
    assert [entry[1] for entry in entries] == [2, 3, 4, 5]
    assert executor.abandon() == []


@pytest.mark.parametrize("second", [lambda: "alone", lambda f0: f0])
def test_each_message_is_processed_by_the_revision_that_is_newest_when_it_starts(executor, second):
    table = table_of(f1=second)

    def change(message: object) -> str:
        table.assign({0: lambda message: "new"})
        return "old"

    table.assign({0: change})
    done = list(process(executor, entries_of(4), context_of(table.current)))
    assert [texts[1] for _, _, texts, *_ in done] == [b'"old"', b'"new"', b'"new"', b'"new"']
    assert [revision.number for _, revision, *_ in done] == [2, 3, 3, 3]


@pytest.mark.parametrize("second", [lambda: "alone", lambda f0: f0])
def test_a_policy_that_pauses_starts_no_later_message(threaded, records, second):
    fails, seen = [True], []

    def slot(message: int) -> int:
        seen.append(message)
        if message == 1 and fails:
            fails.pop()
            raise ValueError("once")
        return message

    threaded.set(0, slot, policy="pause")
    threaded[1] = second
    for n in range(4):
        threaded.put(n)
    threaded.start()
    records.wait_for_event("paused")
    wait_until(lambda: threaded.status.in_flight == 0, "the rest is back in the queue")
    assert seen == [0, 1]
    threaded.resume()
    assert [record.input for record in records.wait_for(4)] == [0, 1, 2, 3]
    assert threaded.status.errored == 0


# --- failures ---


def test_a_slot_whose_source_failed_is_skipped_and_an_independent_one_runs(threaded, records):
    threaded[0] = lambda message: 1 / 0
    threaded[1] = lambda f0: f0
    threaded[2] = lambda: "alone"
    threaded[3] = lambda f2: f2 + "!"
    threaded.put("m")
    threaded.start()
    assert [outcome.kind for outcome in records.wait_for(1)[0].outcomes[:4]] == [
        "error",
        "skipped",
        "value",
        "value",
    ]


def test_an_independent_slot_that_ran_before_a_drop_shows_as_skipped(threaded, records):
    ran = threading.Event()

    def fail(message: object) -> None:
        assert ran.wait(LIMIT_S)
        raise ValueError("after the other ran")

    threaded.set(0, fail, policy="drop")
    threaded[1] = ran.set
    threaded.put("m")
    threaded.start()
    record = records.wait_for(1)[0]
    assert ran.is_set()
    assert record.outcomes[1].kind == "skipped"
    assert threaded.status.dropped == 1


def test_a_message_in_backoff_is_overtaken_and_goes_back_to_the_queue_when_stopped(machines, records):
    m = machines(sinks=[records], executor="threads")
    tries: list[int] = []

    def slot(message: int) -> int:
        if message == 0:
            tries.append(message)
            raise ValueError("always")
        return message

    m.set(0, slot, policy={"retries": 5, "backoff_s": 60.0})
    m.put(0)
    m.put(1)
    m.start()
    assert records.wait_for(1)[0].input == 1
    assert m.status.retrying == 1
    m.stop()
    wait_until(lambda: m.status.queue_size == 1, "the message is back in the queue")
    assert tries == [0]
    assert m.status.retrying == 0


def test_a_retry_that_goes_well_mends_the_record(threaded, records):
    tries: list[int] = []

    def slot(message: int) -> int:
        tries.append(message)
        if len(tries) < 3:
            raise ValueError("not yet")
        return message

    threaded.set(0, slot, policy={"retries": 3, "backoff_s": 0.001})
    threaded[1] = lambda: "alone"
    threaded.put(7)
    threaded.start()
    record = records.wait_for(1)[0]
    assert (record.values[0], record.values[1], record.errored) == (7, "alone", False)
    assert threaded.status.policies.mended == 1


def test_a_stepped_message_waits_for_its_retry_in_the_step(threaded):
    tries: list[int] = []

    def slot(message: int) -> int:
        tries.append(message)
        if len(tries) < 2:
            raise ValueError("not yet")
        return message

    threaded.set(0, slot, policy={"retries": 1, "backoff_s": 0.001})
    threaded.put(7)
    assert threaded.get()[1:3] == ("7", "7")


def test_a_ctrl_c_while_stepping_loses_nothing(threaded):
    interrupts = iter([signal.SIGINT])
    next_slot: list[object] = []

    def slot(message: object) -> object:
        for number in interrupts:
            signal.raise_signal(number)
        return message

    threaded[0] = slot
    threaded[1] = next_slot.append
    threaded.put("m")
    with pytest.raises(KeyboardInterrupt):
        threaded.get()
    assert (threaded.status.queue_size, threaded.status.in_flight) == (1, 0)
    assert threaded.get()[1] == '"m"'
    assert next_slot == ["m"], "the message that was given back goes to no further slot"


def test_what_is_abandoned_is_returned_oldest_first_and_yielded_no_more(executor, machines):
    gate = machines.gate()
    table, entries = table_of(f0=gate), entries_of(5)
    iterator = process(executor, entries, context_of(table.current, concurrency=3))
    taker = in_thread(lambda: list(iterator))
    for _ in range(3):
        gate.wait_until_entered()
    assert [entry[1] for entry in executor.abandon()] == [0, 1, 2]
    table.assign({0: lambda message: "new"})
    gate.open()
    assert [entry[1] for entry, *_ in taker.result()] == [3, 4]


# --- time limits ---


def test_a_slot_over_its_time_is_a_failure_and_its_thread_is_counted_until_it_ends(machines, records):
    gate = machines.gate()
    m = machines(sinks=[records], executor="threads")
    m.set(0, lambda message: gate(message) if message == 0 else message, policy={"timeout_s": 0.05})
    m.put(0)
    m.put(1)
    m.start()
    late, well = records.wait_for(2)
    assert late.values[0]["_exception"]["exc_class"] == "SlotTimeout"
    assert (well.values[0], well.errored) == (1, False)
    assert (m.status.policies.timeouts, m.status.policies.abandoned) == (1, 1)
    gate.open()
    wait_until(lambda: m.status.policies.abandoned == 0, "the abandoned call ends")


def test_a_slot_within_its_time_gives_its_value_or_its_own_error(threaded, records):
    threaded.set(0, lambda message: 1 / message, policy={"timeout_s": 5.0})
    threaded.put(2)
    threaded.put(0)
    threaded.start()
    good, bad = records.wait_for(2)
    assert good.values[0] == 0.5
    assert bad.values[0]["_exception"]["exc_class"] == "ZeroDivisionError"
    assert "pool.py" not in bad.values[0]["_exception"]["exc_tb"]


def test_no_further_call_starts_while_too_many_abandoned_ones_still_run():
    limiter, held, started = TimeLimiter(), threading.Event(), []
    for _ in range(ABANDONED_LIMIT):
        with pytest.raises(SlotTimeout):
            limiter.call(lambda: held.wait(LIMIT_S), 0.001, "f0")
    assert limiter.abandoned == ABANDONED_LIMIT
    with pytest.raises(SlotTimeout):
        limiter.call(lambda: started.append(1), 0.01, "f0")
    assert started == []
    waiting = in_thread(limiter.call, lambda: "its turn", LIMIT_S, "f0")
    held.set()
    assert waiting.result() == "its turn"
    wait_until(lambda: limiter.abandoned == 0, "all of them end")


def test_an_async_slot_over_its_time_is_cancelled(threaded, records):
    cancelled = threading.Event()

    async def slow(message: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    threaded.set(0, slow, policy={"timeout_s": 0.02})
    threaded.put("m")
    threaded.start()
    assert records.wait_for(1)[0].values[0]["_exception"]["exc_class"] == "SlotTimeout"
    assert cancelled.wait(LIMIT_S)
    assert threaded.status.policies.abandoned == 0


def test_async_slots_of_several_messages_are_awaited_at_once(machines, records):
    m = machines(sinks=[records], executor="threads", concurrency=3)
    arrived: list[object] = []

    async def meet(message: object) -> object:
        arrived.append(message)
        while len(arrived) < 3:
            await asyncio.sleep(0)
        return message

    m[0] = meet
    for n in range(3):
        m.put(n)
    m.start()
    assert [record.values[0] for record in records.wait_for(3)] == [0, 1, 2]


# --- beside the slots ---


def test_hooks_run_around_messages_and_slots_failures_too(threaded, records):
    seen: list[tuple[Any, ...]] = []
    threaded.hook("pre_message", lambda oid, message: seen.append(("pre_message", message)))
    threaded.hook("pre_slot", lambda oid, slot, arguments: seen.append(("pre_slot", slot, arguments)))
    threaded.hook("post_slot", lambda oid, slot, value, error: seen.append(("post_slot", slot, value, type(error))))
    threaded.hook("post_message", lambda oid, values, failures: seen.append(("post_message", len(failures))))
    threaded[0] = lambda message: message + 1
    threaded[1] = lambda f0: f0 / 0
    threaded.put(1)
    threaded.start()
    records.wait_for(1)
    assert seen == [
        ("pre_message", 1),
        ("pre_slot", 0, [1]),
        ("post_slot", 0, 2, type(None)),
        ("pre_slot", 1, [2]),
        ("post_slot", 1, None, ZeroDivisionError),
        ("post_message", 1),
    ]


def test_a_hook_that_raises_what_would_end_the_process_costs_no_message(executor):
    context = context_of(table_of(f0=lambda message: message).current)

    def leave(oid: str, *_: object) -> None:
        raise SystemExit(3)

    for point in ("pre_message", "pre_slot", "post_slot", "post_message"):
        context.hooks.add(point, leave)
    assert [entry[1] for entry, *_ in process(executor, entries_of(3), context)] == [0, 1, 2]


# --- threads ---


def test_no_thread_is_left_behind(machines):
    before = set(threading.enumerate())
    m = machines(executor="threads", concurrency=4)
    m[0] = lambda message: message
    m.set(1, lambda: 1, policy={"timeout_s": 5.0})
    m.source = range(100)
    m.start()
    assert m.wait(LIMIT_S)
    m.close()
    wait_until(lambda: not set(threading.enumerate()) - before, "its threads end")


def test_a_closed_executor_ends_the_message_under_way(machines, records):
    gate = machines.gate()
    m = machines(sinks=[records], executor="threads")
    m[0] = gate
    m[1] = lambda: "alone"
    m[2] = lambda f1, f0: [f1, f0]
    m.put("m")
    m.start()
    gate.wait_until_entered()
    m.close(timeout=0.05)
    gate.open()
    assert records.wait_for(1)[0].values[2] == ["alone", "m"]


def test_a_pool_has_no_more_threads_than_it_may_and_gives_errors_to_those_who_ask():
    pool, gate = DaemonPool(2, "test"), Gate()
    futures = [pool.submit(gate, n) for n in range(5)]
    for _ in range(2):
        gate.wait_until_entered()
    assert sum(thread.name.startswith("test ") for thread in threading.enumerate()) == 2
    gate.open()
    assert [future.result(LIMIT_S) for future in futures] == [0, 1, 2, 3, 4]
    assert isinstance(pool.submit(int, "x").exception(LIMIT_S), ValueError)
    pool.close()
    assert pool.submit(int, "7").result(0) == 7, "what comes later runs at once, in the caller's thread"
    wait_until(lambda: not any(t.name.startswith("test ") for t in threading.enumerate()), "its threads end")
