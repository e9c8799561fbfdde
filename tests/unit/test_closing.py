"""Closing a machine is bounded, whatever hangs in it."""

from __future__ import annotations

import itertools
import time

import pytest
from machine_kit import LIMIT_S, MemoryJournal, in_thread
from wait_kit import wait_until

from timbr_wamp.machine import Machine
from timbr_wamp.machine.events.hooks import POINTS

#: ``close(0.2)`` and what its parts have at least, on a busy computer.
BOUND_S = 4.0


@pytest.fixture
def closed_in_time(runtime_dir):
    """Close a machine; fail when that takes long, or raises."""

    def close(machine: Machine) -> None:
        before = time.monotonic()
        in_thread(machine.close, 0.2).result(LIMIT_S * 2)
        assert time.monotonic() - before < BOUND_S

    return close


@pytest.fixture
def runtime_dir(monkeypatch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tw")
    monkeypatch.setenv("TIMBR_WAMP_RUNTIME_DIR", str(folder))
    folder.chmod(0o700)


@pytest.mark.parametrize("what", ["sink", "slot", "journal", "pre_publish", "pre_message"])
def test_a_served_machine_with_something_that_hangs_is_closed_in_time(gate, what, closed_in_time):
    class HangingSink:
        def publish(self, rows):
            gate(rows)

    journal = MemoryJournal()
    commit = journal.commit
    journal.commit = lambda batch: (gate(batch), commit(batch))
    machine = Machine(
        stages=1,
        serve=True,
        sinks=[HangingSink()] if what == "sink" else [],
        journal=journal if what == "journal" else None,
    )
    if what == "slot":
        machine[0] = gate
    elif what in POINTS:
        machine.hook(what, lambda *_: gate(None))
    machine.put("m")
    machine.start()
    gate.wait_until_entered()
    closed_in_time(machine)
    assert machine.endpoint is None
    gate.open()
    wait_until(lambda: not machine.running, "its thread has ended")


@pytest.mark.parametrize("what", ["pre_shutdown", "post_shutdown", "on_closed", "teardown", "source", "executor"])
def test_a_machine_whose_parts_hang_at_the_end_is_closed_in_time(gate, what, closed_in_time):
    class Hanging:
        def step(self, value):
            return value

        def teardown(self):
            gate(None)

    class HangingSource:
        def next_batch(self):
            return []

        def position(self):
            return None

        def close(self):
            gate(None)

    machine = Machine(stages=1, serve=True)
    if what in POINTS:
        machine.hook(what, lambda *_: gate(None))
    elif what == "teardown":
        machine[0] = Hanging()
    elif what == "source":
        machine.set_source(HangingSource())
    else:
        machine._executor.close = lambda: gate(None)
    closed_in_time(machine)
    assert (machine.endpoint, machine.running) == (None, False)
    gate.open()


def test_what_a_part_raises_at_the_end_does_not_come_out_of_close(caplog):
    class Faulty:
        def step(self, value):
            return value

        def teardown(self):
            raise SystemExit

    machine = Machine(stages=1, serve=False)
    machine[0] = Faulty()
    for point in ("pre_shutdown", "post_shutdown"):
        machine.hook(point, lambda: (_ for _ in ()).throw(SystemExit))
    machine.close()
    assert machine.status.hook_failures == 2


@pytest.mark.parametrize("executor", ["inline", "threads"])
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_slot_that_closes_its_own_machine_does_not_wait_for_itself(executor, kind):
    machine, took = Machine(stages=1, serve=False, executor=executor), []

    def close(value):
        before = time.monotonic()
        machine.close(30.0)
        took.append(time.monotonic() - before)

    async def close_later(value):
        close(value)

    machine[0] = close if kind == "plain" else close_later
    machine.put("m")
    machine.start()
    wait_until(lambda: took, "it was not closed", 10.0)
    assert took[0] < BOUND_S
    wait_until(lambda: not machine.running, "its thread has ended")


def test_closing_reads_no_further_message_of_the_source(machines):
    read = itertools.count()
    machine = machines(stages=1)
    machine.set_source(number for number in read)
    queue_closed = machine._queue.close
    at_close = list[int]()

    def close() -> None:
        at_close.append(machine.status.source.count)
        queue_closed()
        wait_until(lambda: machine._queue.closed, "the queue was not closed")
        in_thread(machine.recorder.commit).result(LIMIT_S)  # a while for a source that reads on

    machine._queue.close = close
    machine.start()
    wait_until(lambda: machine.status.source.count > 100, "the source was not read")
    machine.close()
    assert next(read) <= at_close[0] + 2  # the one that was just being read, and this one
