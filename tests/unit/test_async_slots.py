"""``async def`` slots: messages under way at once, records in the order of the puts."""

from __future__ import annotations

import asyncio
import functools
import threading

import pytest
from machine_kit import LIMIT_S, AsyncGate, assert_counts_add_up
from wait_kit import wait_until

from timbr_wamp.errors import InvalidArgument, MachineRunning


class Meeting:
    """An async slot that holds messages until ``count`` of them are in it at once."""

    def __init__(self, count: int) -> None:
        self.count, self.most, self._here = count, 0, 0
        self._all = asyncio.Event()

    async def __call__(self, message: object) -> object:
        self._here += 1
        self.most = max(self.most, self._here)
        if self._here >= self.count:
            self._all.set()
        await asyncio.wait_for(self._all.wait(), LIMIT_S)
        self._here -= 1
        return message


def run(machine, messages):
    machine.start()
    for message in messages:
        machine.put(message)
    assert machine.wait(LIMIT_S)
    assert_counts_add_up(machine.status)
    return machine.recent(len(messages))


def test_async_and_plain_slots_mix_and_give_what_plain_ones_give(machine):
    async def double(message):
        await asyncio.sleep(0)
        return message * 2

    machine[0] = lambda message: message + 1
    machine[1] = double
    machine[3] = lambda f2, f1, f0, message: [f2, f1, f0, message]
    assert machine.slots[1].kind == "async"
    records = run(machine, [1, 2, 3])
    assert [record.values[:4] for record in records] == [(n + 1, 2 * n + 2, 2 * n + 2, [2 * n + 2, 2 * n + 2, n + 1, n])
                                                         for n in (1, 2, 3)]  # fmt: skip
    assert machine(1).values == records[0].values


def test_one_message_is_under_way_by_default(machine):
    meeting = Meeting(1)
    machine[0] = meeting
    run(machine, range(20))
    assert meeting.most == 1


def test_concurrency_is_the_number_of_messages_under_way_and_records_stay_in_order(machines):
    machine = machines(concurrency=5)
    meeting = Meeting(5)
    machine[0] = meeting
    records = run(machine, range(20))
    assert meeting.most == 5
    assert [record.input for record in records] == list(range(20))


def test_a_message_that_finishes_early_is_recorded_after_the_one_before_it(machines, records):
    machine = machines(concurrency=3, sinks=[records])
    gate = AsyncGate()
    machine[0] = gate
    machine.start()
    for message in "abc":
        machine.put(message)
    gate.wait_until_entered("a", "b", "c")
    gate.open("c", "b")
    wait_until(lambda: machine.status.in_flight == 3, "three messages are under way")
    assert records.rows == []
    gate.open("a")
    assert [record.input for record in records.wait_for(3)] == ["a", "b", "c"]


def test_a_message_in_backoff_is_overtaken(machines, records):
    machine = machines(concurrency=2, sinks=[records])
    tries = []

    async def fails_once(message):
        tries.append(message)
        if message == "bad" and tries.count("bad") == 1:
            raise ValueError
        return message

    machine.set(0, fails_once, policy={"retries": 1, "backoff_s": 0.05})
    machine.start()
    for message in ("bad", "a", "b"):
        machine.put(message)
    seen = records.wait_for(3)
    assert sorted(record.input for record in seen) == ["a", "b", "bad"]
    assert (seen[-1].input, seen[-1].meta.policies) == ("bad", {"f0": "retry 1"})


def test_a_slot_that_takes_too_long_is_cancelled(machine):
    gate = AsyncGate()
    machine.set(0, gate, policy={"timeout_s": 0.02})
    record = run(machine, ["slow"])[0]
    assert record.values[0]["_exception"]["exc_class"] == "SlotTimeout"
    assert "f0 did not finish within 0.02 s" in record.values[0]["_exception"]["exc_value"]
    assert gate.cancelled == ["slow"]
    assert (machine.status.policies.timeouts, machine.status.slots[0].timeouts) == (1, 1)


def test_a_timeout_is_retried_as_any_failure(machine):
    calls = []

    async def slow_once(message):
        calls.append(message)
        if len(calls) == 1:
            await asyncio.Event().wait()
        return message

    machine.set(0, slow_once, policy={"timeout_s": 0.02, "retries": 1})
    assert run(machine, [7])[0].meta.policies == {"f0": "retry 1"}


def test_a_timeout_error_that_the_slot_raises_is_recorded_as_its_own(machine):
    async def own(message):
        raise TimeoutError("theirs")

    machine.set(0, own, policy={"timeout_s": 30.0})
    assert run(machine, [1])[0].values[0]["_exception"]["exc_value"] == "theirs"


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), KeyboardInterrupt(), ValueError("v")])
def test_whatever_a_slot_raises_is_the_messages_outcome(machine, error):
    async def raises(message):
        raise error

    machine[0] = raises
    machine[1] = lambda f0: "never"
    record = run(machine, [1])[0]
    assert record.values[0]["_exception"]["exc_class"] == type(error).__name__
    assert record.outcomes[1].kind == "skipped"
    assert machine.running


def test_a_slot_change_is_seen_by_the_next_message(machines):
    machine = machines(concurrency=2)
    gate = AsyncGate()
    machine[0] = gate
    machine.start()
    for message in "abcd":
        machine.put(message)
    gate.wait_until_entered("a", "b")
    machine[0] = lambda message: "new"
    gate.open("a", "b")
    assert machine.wait(LIMIT_S)
    assert [record.values[0] for record in machine.recent()] == ["a", "b", "new", "new"]
    assert len({record.revision for record in machine.recent()}) == 2


def test_a_pause_lets_messages_under_way_finish_and_starts_no_other(machines, records):
    machine = machines(concurrency=2, sinks=[records])
    gate = AsyncGate()
    machine[0] = gate
    machine.start()
    for message in "abcd":
        machine.put(message)
    gate.wait_until_entered("a", "b")
    machine.pause()
    gate.open("a", "b")
    assert [record.input for record in records.wait_for(2)] == ["a", "b"]
    wait_until(lambda: machine.status.queue_size == 2, "the message that was not started is not back in the queue")
    assert gate.entered == ["a", "b"]
    assert_counts_add_up(machine.status)


def test_the_pause_policy_keeps_only_its_own_message(machines, records):
    machine = machines(concurrency=3, sinks=[records], hooks=[records])

    async def fails(message):
        if message == "b":
            raise ValueError
        return message

    machine.set(0, fails, policy="pause")
    oids = [machine.put(message) for message in "abc"]
    machine.start()
    records.wait_for_event("paused")
    wait_until(lambda: machine.status.in_flight == 0, "no message is under way")
    machine.set(0, lambda message: message)
    machine.resume()
    assert machine.wait(LIMIT_S)
    assert sorted(record.oid for record in machine.recent()) == sorted(oids)


def test_get_steps_one_message(machine):
    async def double(message):
        return message * 2

    machine[0] = double
    machine.put(2)
    machine.put(3)
    assert machine.get()[1:3] == ("2", "4")
    machine.start()
    with pytest.raises(MachineRunning):
        machine.get()


def test_async_callables_are_recognized_by_type(machine):
    class Callable_:
        async def __call__(self, message):
            return message

    async def two(a, b):
        return [a, b]

    machine[0] = Callable_()
    machine[1] = functools.partial(two, 1)
    assert machine(5).values[:2] == (5, [1, 5])


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, True, "2", 20_000])
def test_an_invalid_concurrency_is_refused(machine, concurrency):
    with pytest.raises(InvalidArgument, match="concurrency"):
        machine.configure(concurrency=concurrency)
    assert machine.status.concurrency == 1


def test_the_loops_thread_ends_with_the_machine(machines):
    machine = machines()

    async def slot(message):
        return threading.current_thread()

    machine[0] = slot
    thread = machine(1).values[0]
    assert thread.is_alive()
    machine.close()
    assert not thread.is_alive()


def test_slots_are_timed(machine):
    async def slot(message):
        return message

    machine[0] = slot
    run(machine, range(3))
    assert machine.status.slots[0].p50_s is not None
