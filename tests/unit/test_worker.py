"""The worker's decisions: a stall is reported once, and a paused machine can be drained."""

from __future__ import annotations

import threading

import pytest
from machine_kit import LIMIT_S, ManualClock
from wait_kit import wait_until

from timbr_wamp import Machine
from timbr_wamp.machine.running.worker import STALLED_S, Stall


def test_a_stall_is_reported_once_until_something_is_finished_again():
    stall = Stall(100.0)
    assert not stall.starts(100.0 + STALLED_S - 0.1, 0, waiting=True)
    assert stall.starts(100.0 + STALLED_S, 0, waiting=True)
    assert not stall.starts(200.0, 0, waiting=True)
    assert not stall.starts(201.0, 1, waiting=True)
    assert stall.starts(201.0 + STALLED_S, 1, waiting=True)


def test_an_idle_machine_does_not_stall():
    stall = Stall(100.0)
    assert not stall.starts(1000.0, 0, waiting=False)
    assert not stall.starts(1000.0 + STALLED_S - 0.1, 0, waiting=True)


def test_a_paused_machine_drains_what_waits():
    with Machine() as machine:
        machine.start()
        machine.pause()
        for number in range(10):
            machine.put(number)
        machine.stop(drain=True, timeout=5.0)
        assert machine.status.state == "stopped"
        assert machine.status.processed == 10


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_a_slot_that_hangs_in_a_retry_is_a_stall_of_its_message(executor):
    clock, hangs, release, tries = ManualClock(100.0), threading.Event(), threading.Event(), []

    def fails_then_hangs(value):
        tries.append(value)
        if len(tries) == 1:
            raise ValueError
        hangs.set()
        assert release.wait(LIMIT_S)
        return value

    with Machine(1, clock=clock, executor=executor) as machine:
        machine.set(0, fails_then_hangs, policy={"retries": 1, "backoff_s": 0.001})
        oid = machine.put(1)
        machine.start()
        assert hangs.wait(LIMIT_S)
        assert machine.status.current_oid == oid

        def stalled() -> list[str]:
            clock.advance(STALLED_S)
            return [event.data["oid"] for event in machine.events() if event.kind == "stalled"]

        wait_until(stalled, "a stall was reported")
        assert set(stalled()) == {oid}
        release.set()
        assert machine.wait(LIMIT_S)
        assert machine.status.current_oid is None
