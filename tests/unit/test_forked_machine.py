"""A fork while the machine's threads hold its locks: the child's copy refuses or answers, and never hangs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from tests.machine_kit import LIMIT_S
from timbr_wamp.errors import MachineForked
from timbr_wamp.machine import Machine

VERBS: dict[str, Callable[[Machine], object]] = {
    "put": lambda m: m.put(1),
    "get": lambda m: m.get(),
    "call": lambda m: m(1),
    "status": lambda m: m.status,
    "repr": repr,
    "set": lambda m: m.__setitem__(0, str),
    "start": lambda m: m.start(),
    "pause": lambda m: m.pause(),
    "stop": lambda m: m.stop(),
    "wait": lambda m: m.wait(1.0),
    "source": lambda m: m.set_source([1]),
    "recent": lambda m: m.recent(),
    "errors": lambda m: m.errors,
    "events": lambda m: m.events(),
    "on": lambda m: m.on("*", print),
    "retry": lambda m: m.retry_errors(),
    "close": lambda m: m.close(0.5),
}

#: A child that takes longer hangs.
CHILD_S = 10


class SlowToOpen:
    """An object whose `prep` is slow."""

    def __init__(self, hold: Callable[[], object]) -> None:
        self.prep = hold

    def step(self, value: object) -> object:
        return value


def run_in_fork(verb: Callable[[Machine], object], machine: Machine) -> int:
    """Fork and run the verb in the child; return 0: answered, 1: refused, 2: another error, negative: a signal."""
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(CHILD_S)
        try:
            verb(machine)
            os._exit(0)
        except MachineForked:
            os._exit(1)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(2)
    deadline = time.monotonic() + CHILD_S + LIMIT_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        threading.Event().wait(0.01)
    raise AssertionError("the child does not end")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("where", ["slot", "sink", "hook", "prep"])
def test_a_child_of_a_fork_never_waits_for_a_lock_of_its_parent(verb: str, where: str) -> None:
    entered, leave = threading.Event(), threading.Event()
    parent = os.getpid()

    def hold(*_: object) -> None:
        entered.set()
        if os.getpid() == parent:
            leave.wait(LIMIT_S + CHILD_S)

    class Sink:
        def publish(self, rows: object) -> None:
            if where == "sink":
                hold()

    machine = Machine(2, serve=False, sinks=[Sink()])
    if where == "slot":
        machine[0] = lambda value: (hold(), value)[1]
    if where == "hook":
        machine.hook("post_message", hold)
    machine.put("m")
    machine.start()
    setting = threading.Thread(target=lambda: where == "prep" and machine.set(1, SlowToOpen(hold)))
    setting.start()
    try:
        assert entered.wait(LIMIT_S)
        assert run_in_fork(VERBS[verb], machine) in (0, 1)
    finally:
        leave.set()
        setting.join(LIMIT_S)
    assert machine.wait(LIMIT_S), "the parent continues"
    assert machine.status.processed == 1
    machine.close()


def test_a_slot_that_forks_costs_the_parent_nothing() -> None:
    machine = Machine(1, serve=False)
    ends: list[int] = []

    def forks(value: int) -> int:
        ends.append(run_in_fork(lambda m: m.status, machine))
        return value

    machine[0] = forks
    machine.source = range(3)
    machine.start()
    assert machine.wait(4 * LIMIT_S)
    assert ends == [1, 1, 1]
    assert machine.status.processed == 3
    machine.close()


@pytest.mark.parametrize("kind", ["plain", "threads", "async", "sink"])
def test_a_child_that_foreign_code_forks_and_that_comes_back_ends_and_records_nothing(machines, kind):
    read, write = os.pipe()
    published = list[object]()
    forked = threading.Event()

    class Sink:
        def publish(self, rows: object) -> None:
            os.write(write, b"p")
            published.append(rows)
            if kind == "sink":
                fork(rows)

    def fork(message: object) -> object:
        """Fork; the child comes back as its parent would, which returns how the child ended."""
        if forked.is_set():
            return message
        forked.set()
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(CHILD_S)
            return message
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    async def forks(message: object) -> object:
        return fork(message)

    machine = machines(stages=1, sinks=[Sink()], executor="threads" if kind == "threads" else "inline")
    if kind != "sink":
        machine[0] = forks if kind == "async" else fork
    for number in range(3):
        machine.put(number)
    machine.start()
    assert machine.wait(2 * CHILD_S)
    assert machine.status.processed == 3
    assert [record.values[0] for record in machine.recent()] == [0, 1, 2], "the child did not end by itself"
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert len(pipe.read()) == len(published), "the child published, too"


def test_the_lock_of_the_events_is_free_in_a_child(machines, gate):
    holding = threading.Event()

    def clock() -> float:
        if holding.is_set() and threading.current_thread() is not threading.main_thread():
            gate(None)
        return 1.0

    machine = machines(stages=1, clock=clock)
    holding.set()
    adding = threading.Thread(target=machine.event_log.add, args=("full",))
    adding.start()
    gate.wait_until_entered()
    try:
        assert run_in_fork(lambda m: m.events(), machine) == 0
    finally:
        gate.open()
        adding.join(LIMIT_S)
