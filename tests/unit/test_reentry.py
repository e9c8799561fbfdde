"""A signal handler, or the `__del__` of a message, uses the machine in the middle of a call of the same thread."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from interrupt_kit import use_everywhere
from machine_kit import LIMIT_S, assert_counts_add_up

from timbr_wamp.machine import Machine
from timbr_wamp.machine.intake.message_queue import MessageQueue
from timbr_wamp.machine.messages import Entry


def entry(n: int) -> Entry:
    return (f"{n:024x}", n, 0.0, 1)


class Used:
    """A queue with messages that wait and two in flight."""

    def __init__(self) -> None:
        self.queue = MessageQueue(50)
        for n in range(1, 6):
            self.queue.put(entry(n))
        self.taken = self.queue.take(2, 0.0)
        self.numbers = itertools.count(6)

    def put(self) -> None:
        self.queue.put(entry(next(self.numbers)))

    def put_known(self) -> None:
        self.queue.put(entry(next(self.numbers)), known=True)

    def step(self) -> None:
        self.queue.put(entry(next(self.numbers)))
        self.queue.finish(len(self.queue.take(1, 0.0)))


CALLS: dict[str, Callable[[Used], object]] = {
    "put": Used.put,
    "put with an id": Used.put_known,
    "take": lambda used: used.taken.extend(used.queue.take(2, 0.0)),
    "finish": lambda used: used.queue.finish(1) or used.taken.pop(),
    "give back": lambda used: used.queue.give_back([used.taken.pop()]),
    "snapshot": lambda used: used.queue.snapshot(),
}


@pytest.mark.parametrize("use", [Used.put, Used.put_known, Used.step, lambda used: used.queue.snapshot()])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_queue_can_be_used_in_the_middle_of_each_of_its_own_changes(call: Any, use: Any) -> None:
    def check(used: Used) -> None:
        counts = used.queue.snapshot()
        assert_counts_add_up(counts)
        assert counts.put == next(used.numbers) - 1
        assert counts.in_flight == len(used.taken)
        used.queue.finish(len(used.queue.take(100, 0.0)) + len(used.taken))
        assert used.queue.idle()
        assert used.queue.snapshot().processed == counts.put

    assert use_everywhere(Used, call, use, check) > 3


VERBS: dict[str, Callable[[Machine], object]] = {
    "put": lambda m: m.put(1),
    "get": lambda m: m.get(),
    "set": lambda m: m.__setitem__(1, str),
    "status": lambda m: m.status,
    "hook": lambda m: m.hook("post_put", print)(),
    "source": lambda m: m.set_source([], replace=True),
    "events": lambda m: m.events(),
    "errors": lambda m: (m.errors, m.error_groups),
    "configure": lambda m: m.configure(bufsize=90),
    "tap": lambda m: m.tap().close(),
}


def look_and_put(machine: Machine) -> None:
    """Do what a handler may want to do."""
    assert machine.status.put
    machine.put("from a handler")
    machine[1] = str
    assert machine.events() is not None
    assert machine.errors is not None
    assert machine.recent() is not None
    assert machine.revisions
    machine.stop()


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_the_machine_can_be_used_in_the_middle_of_each_of_its_verbs(verb: Any) -> None:
    machine = Machine(2, serve=False, bufsize=100_000)
    machine[0] = lambda message: message

    def make() -> Machine:
        machine.put(0)
        return machine

    def check(machine: Machine) -> None:
        assert_counts_add_up(machine.status)
        assert not machine.status.in_flight

    assert use_everywhere(make, verb, look_and_put, check, every=13) > 3
    machine.start()
    assert machine.wait(LIMIT_S)
    assert machine.status.processed == machine.status.put
    machine.close()


def test_a_step_from_within_a_step_is_refused_at_once(machine):
    seen = list[str]()

    def steps(message: object) -> object:
        try:
            machine.get(block=True, timeout=LIMIT_S)
        except Exception as error:
            seen.append(type(error).__name__)
        return message

    machine[0] = steps
    machine.put(1)
    machine.put(2)
    began = machine.status.time
    assert machine.get()[1] == "1"
    assert seen == ["MachineRunning"]
    assert machine.status.time - began < 1.0
