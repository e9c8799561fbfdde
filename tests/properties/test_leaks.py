"""What a closed machine leaves behind: no thread, no open object, nothing that keeps it or its messages alive."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_kit import LIMIT_S
from wait_kit import wait_until

from timbr_wamp.errors import PrepFailed, TimbrError
from timbr_wamp.machine import Machine

EXECUTORS = ["inline", "threads"]
#: Number of machines made one after the other, after some that warm up caches. `tests/soak` makes more.
MACHINES, WARM = 30, 8
#: Bytes that each may leave behind: far less than one machine uses.
LEFT_BYTES = 2_000


class Message:
    """Something that can be looked for."""

    def __init__(self, number: int) -> None:
        self.number = number


class Node:
    """An object slot."""

    opened = closed = 0

    def prep(self) -> None:
        self.opened += 1

    def step(self, message: Any) -> int:
        return getattr(message, "number", 0)

    def teardown(self) -> None:
        self.closed += 1


class Once:
    """A slot function that raises for odd messages, the first time."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def __call__(self, message: Any) -> int:
        if message.number % 2 and message.number not in self.seen:
            self.seen.add(message.number)
            raise ValueError("odd")
        return int(message.number)


async def awaited(message: Any) -> int:
    await asyncio.sleep(0)
    return getattr(message, "number", 0)


def ours() -> list[str]:
    """Return the names of the threads that belong to machines."""
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("timbr ") and thread.name != "timbr watcher"
    ]


def lives(executor: str, *, puts: int = 6, end: Callable[[Machine], object] = lambda machine: None) -> list[Any]:
    """Run a machine that uses every feature; return weak references to what must not outlive it."""
    node, once = Node(), Once()
    messages = [Message(number) for number in range(puts)]
    machine = Machine(4, 100, serve=False, executor=executor, concurrency=2)
    machine.set(0, once, policy={"retries": 1, "backoff_s": 0.001})
    machine[1] = node
    machine[2] = awaited
    hooked = Message(-1)
    machine.hook("post_message", lambda *_: hooked)
    machine.on("*", lambda event: hooked)
    machine.start()
    for message in messages:
        machine.put(message)
    machine(messages[0])
    assert machine.wait(LIMIT_S)
    machine.source = (Message(number) for number in range(3))
    assert machine.wait(LIMIT_S)
    end(machine)
    machine.close()
    assert node.opened == node.closed == 1
    return [weakref.ref(one) for one in (machine, machine.recorder, node, once, hooked, *messages)]


def alive(references: list[Any]) -> list[str]:
    """Return what is still alive: nothing, as soon as that is so, else the rest after a time limit."""
    for _ in range(20):
        gc.collect()
        names = [type(one).__name__ for one in (reference() for reference in references) if one is not None]
        if not names:
            break
        threading.Event().wait(0.05)
    return names


def stop_in_a_retry(machine: Machine) -> None:
    """Leave messages that wait: in the queue, and for a retry far away."""

    def fails(message: object) -> object:
        raise ValueError("for good")

    machine.set(0, fails, policy={"retries": 5, "backoff_s": 60.0})
    machine.put(Message(1))
    wait_until(lambda: machine.status.retrying == 1, "no message waits for a retry")
    machine.pause()
    machine.put(Message(2))


def fail_and_keep(machine: Machine) -> None:
    """Stop by a policy, the message kept."""
    machine.set(0, lambda message: 1 / 0, policy="stop")
    machine.put(Message(1))
    wait_until(lambda: machine.status.state == "stopped", "it does not stop")


def debug(machine: Machine) -> None:
    """Stop by a debugger, its error never asked for."""
    machine.handler = "RawEventDebugger"
    machine.put(None)
    machine[0] = lambda message: 1 / 0
    machine.put(Message(1))
    wait_until(lambda: machine.status.state == "stopped", "it does not stop")


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("end", [lambda machine: None, stop_in_a_retry, fail_and_keep, debug])
def test_nothing_that_a_closed_machine_had_is_alive(executor, end, caplog):
    references = lives(executor, end=end)
    caplog.clear()
    assert alive(references) == []
    wait_until(lambda: not ours(), f"threads are alive: {ours()}")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_many_machines_leave_no_thread_and_no_memory(executor):
    assert left_by_machines(executor, MACHINES) == []


def left_by_machines(executor: str, machines: int) -> list[str]:
    """Run machines one after the other; return what grew with their number: threads, memory or objects."""
    gc.collect()
    threads = len(threading.enumerate())
    tracemalloc.start()
    try:
        for _ in range(WARM):
            lives(executor, puts=2)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        objects = len(gc.get_objects())
        for _ in range(machines):
            lives(executor, puts=2)
        wait_until(lambda: len(threading.enumerate()) <= threads, f"threads: {ours()}")
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        more = len(gc.get_objects()) - objects
    finally:
        tracemalloc.stop()
    left = ours()
    if after - before >= LEFT_BYTES * machines:
        left.append(f"{after - before} bytes")
    if more >= machines:
        left.append(f"{more} objects, one for each machine")
    return left


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_machine_keeps_no_message_that_went_well(executor):
    with Machine(3, 100, serve=False, executor=executor) as machine:
        machine[0] = lambda message: message.number
        machine.start()
        messages = [Message(number) for number in range(50)]
        references = [weakref.ref(message) for message in messages]
        for message in messages:
            machine.put(message)
        del message, messages
        assert machine.wait(LIMIT_S)
        machine.put(Message(-1))  # the worker may hold the newest message
        assert machine.wait(LIMIT_S)
        assert alive(references) == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["start", "pause", "resume", "stop", "put", "set", "source", "get"]), max_size=12))
def test_whenever_a_machine_is_closed_its_threads_end(steps):
    node = Node()
    machine = Machine(2, serve=False, concurrency=2)
    machine[1] = awaited
    verbs: dict[str, Callable[[], object]] = {
        "put": lambda: machine.put(Message(1)),
        "set": lambda: machine.set(0, None if machine.slots[0].kind == "object" else node),
        "source": lambda: machine.set_source(iter([Message(1), Message(2)]), replace=True),
    }
    for step in steps:
        with contextlib.suppress(TimbrError):  # not in every state
            verbs.get(step, getattr(machine, step, None))()
    machine.close()
    wait_until(lambda: not ours(), "its threads ended")
    wait_until(lambda: node.opened == node.closed, "what was opened is closed")
    assert (ours(), node.opened) == ([], node.closed)


def test_a_closed_machine_opens_no_object():
    node = Node()
    machine = Machine(1, serve=False)
    machine.close()
    with pytest.raises(PrepFailed, match="closed"):
        machine[0] = node
    assert (node.opened, node.closed) == (0, 0)
