"""Retries of ``async def`` slots during pause, drain and close: nothing hangs, no object in use is torn down."""

from __future__ import annotations

import asyncio
import threading

import pytest
from machine_kit import LIMIT_S, assert_counts_add_up, in_thread
from wait_kit import wait_until


class SecondTry:
    """An object whose first call for ``"bad"`` raises, and whose second call waits until the test releases it."""

    def __init__(self) -> None:
        self.opened = self.closed = self.calls = 0
        self.under_way, self.leave = threading.Event(), threading.Event()
        self.open_at_the_end: bool | None = None

    def prep(self) -> None:
        self.opened += 1

    def teardown(self) -> None:
        self.closed += 1

    async def step(self, message: object) -> object:
        if message != "bad":
            return message
        self.calls += 1
        if self.calls == 1:
            raise ValueError("the first time")
        self.under_way.set()
        while not self.leave.is_set():
            await asyncio.sleep(0.002)
        self.open_at_the_end = self.opened - self.closed == 1
        return message


@pytest.fixture
def second(machine):
    """The object in slot 0 of a running machine, its second try under way."""
    one = SecondTry()
    machine.set(0, one, policy={"retries": 1, "backoff_s": 0.002})
    machine.start()
    machine.put("bad")
    assert one.under_way.wait(LIMIT_S)
    yield one
    one.leave.set()


def test_a_second_try_under_way_counts_as_retrying_and_holds_its_object(machine, second, records):
    assert machine.status.retrying == 1
    machine.put(1)
    records.wait_for(1)
    del machine[0]
    machine.put(2)
    records.wait_for(2)
    second.leave.set()
    last = records.wait_for(3)[-1]
    assert (last.input, last.values[0], last.meta.policies) == ("bad", "bad", {"f0": "retry 1"})
    assert second.open_at_the_end is True
    wait_until(lambda: second.closed == 1, "it was not torn down")


@pytest.mark.parametrize("verb", ["pause", "stop"])
def test_a_second_try_under_way_at_a_pause_goes_back_to_the_queue_and_runs_again(machine, second, verb, records):
    getattr(machine, verb)()
    wait_until(lambda: machine.status.queue_size == 1, "the message is not back in the queue")
    status = machine.status
    assert (status.in_flight, status.retrying, status.processed) == (0, 0, 0)
    assert_counts_add_up(status)
    second.leave.set()
    machine.start()
    assert machine.wait(LIMIT_S)
    (record,) = records.wait_for(1)
    assert (record.input, record.values[0], record.attempt) == ("bad", "bad", 1)


def test_draining_waits_for_a_second_try(machine, second, records):
    draining = in_thread(machine.stop, drain=True)
    wait_until(lambda: machine.status.state == "draining", "it does not drain")
    second.leave.set()
    draining.result()
    assert len(records.wait_for(1)) == 1
    assert machine.status.state == "stopped"


def test_closing_in_a_second_try_leaves_no_message_under_way_and_no_object_open(machine, second):
    machine.close()
    status = machine.status
    assert (status.in_flight, status.queue_size) == (0, 1)
    assert (second.opened, second.closed) == (1, 1)
