"""The worker's decisions: a stall is reported once, and a paused machine can be drained."""

from __future__ import annotations

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
