"""Faults of timbr-machine that the core must not have: one test each, named after the fault."""

from __future__ import annotations

import queue
import threading

import dask
import pytest
from dask.callbacks import Callback
from machine_kit import LIMIT_S
from wait_kit import wait_until

from timbr_wamp import names
from timbr_wamp.machine import Machine
from timbr_wamp.machine.intake.message_queue import MessageQueue
from timbr_wamp.machine.running.executors.inline import InlineExecutor


def test_the_kernels_signing_key_as_public_address(monkeypatch):
    """Ours: an id made for the purpose, of nothing but the host's name and randomness."""
    first, second = names.new_kernel_id("lab"), names.new_kernel_id("lab")
    assert first != second
    assert names.checked_kernel_id(first).startswith("lab_")
    connection_key = "a1b2c3d4-0123456789abcdef01234567"
    with pytest.raises(ValueError, match="is not a valid name"):
        names.kernel_uri(connection_key)


def test_results_path_switched_off(machine, records):
    """Ours: what is put comes out."""
    machine.start()
    oid = machine.put({"a": 1})
    assert [(record.oid, record.input) for record in records.wait_for(1)] == [(oid, {"a": 1})]


def test_message_lost_on_a_full_queue(machines, records):
    """A source of 1000 into a queue of 10, the consumer stopped: ours waits, and says that it waits."""
    machine = machines(bufsize=10, sinks=[records])
    gate = machines.gate()
    machine[0] = gate
    machine.source = (n for n in range(1000))
    machine.start()
    gate.wait_until_entered()
    wait_until(lambda: machine.status.queue_size == 10, "the queue is full")
    machine.pause()
    status = machine.status
    assert status.source.state != "exhausted"
    assert (status.refused, status.dropped) == (0, 0)
    gate.open()
    machine.resume()
    assert machine.wait(LIMIT_S)
    assert [record.input for record in records.wait_for(1000)] == list(range(1000))


def test_running_a_flag(machines, records, caplog):
    """Ours: from the thread that does the work. When it dies, running is false and the status has the reason."""

    class Dies(InlineExecutor):
        def process(self, entries, context, add):
            raise RuntimeError("the executor died")

    machine = machines(executor=Dies(), hooks=[records])
    machine.start()
    assert machine.running
    machine.put(1)
    records.wait_for_event("failed")
    status = machine.status
    assert not machine.running
    assert (status.state, status.reason, status.queue_size) == ("failed", "RuntimeError: the executor died", 1)


def test_arguments_counted_with_getargspec(machine):
    """Ours: ``lambda *a`` gets all, a bound method does not count self."""

    class Thing:
        def method(self, value):
            return ["method", value]

    machine[0] = lambda x: "f0"
    machine[1] = lambda *a: list(a)
    machine[2] = Thing().method
    assert machine("in").values[1:3] == (["f0", "in"], ["method", ["f0", "in"]])


def test_status_before_the_first_message(machine):
    """Ours: nothing was processed last, and an unset slot is identity, not a KeyError."""
    assert machine.status.last_processed_time is None
    assert machine.status.last_oid is None
    assert machine[7]("same") == "same"


def test_oid_overwritten_on_error(machine, records):
    """Ours: the id always survives."""

    def fail(value):
        raise ValueError(value)

    machine[0] = fail
    oids = [machine.put(n) for n in range(3)]
    machine.start()
    assert [record.oid for record in records.wait_for(3)] == oids
    assert [error.oid for error in machine.errors] == oids


def test_poison_message(machine, records):
    """A message that always fails is recorded once as failed, and others do not wait for it."""
    calls = []

    def slot(value):
        calls.append(value)
        if value == "poison":
            raise ValueError("poison")
        return value

    machine[0] = slot
    for message in ("a", "poison", "b"):
        machine.put(message)
    machine.start()
    records.wait_for(3)
    assert calls == ["a", "poison", "b"]
    assert len(machine.errors) == 1
    assert machine.running


def test_rest_lost_in_a_batch_that_is_not_full(machine, records):
    """Ours: nothing is held back to fill a batch."""
    machine.start()
    machine.put("alone")
    records.wait_for(1)
    gate = threading.Event()
    machine[0] = lambda value: gate.wait(LIMIT_S) if value == "slow" else value
    machine.put("quick"), machine.put("slow")
    assert [record.input for record in records.wait_for(2)] == ["alone", "quick"]
    gate.set()


def test_stop_cleared_the_queue_by_default(machine):
    """Ours never does."""
    machine.start()
    machine.pause()
    for n in range(5):
        machine.put(n)
    machine.stop()
    assert machine.status.queue_size == 5
    machine.stop()
    machine.close()
    assert machine.status.queue_size == 5


def test_a_dask_callback_registered_for_the_whole_kernel(machine, records):
    """Ours registers none, and slots that use Dask themselves disturb nothing."""
    before = set(Callback.active)

    def slot(value):
        return dask.delayed(lambda x: x + 1)(value).compute(scheduler="sync")

    machine[0] = slot
    machine.put(1)
    machine.start()
    assert records.wait_for(1)[0].values[0] == 2
    assert set(Callback.active) == before


def test_a_full_queue_is_the_queue_full_of_the_standard_library():
    """The original raised `queue.Full` and `queue.Empty`; programs catch those."""
    waiting = MessageQueue(1)
    waiting.put(("a", 1, 0.0, 1))
    with pytest.raises(queue.Full):
        waiting.put(("b", 2, 0.0, 1))
    with Machine(serve=False) as machine, pytest.raises(queue.Empty):
        machine.get()
