"""What runs as part of a machine, and would wait for that machine, gets an error that says so, wherever it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from machine_kit import LIMIT_S
from wait_kit import wait_until

from timbr_wamp.errors import WouldDeadlock
from timbr_wamp.machine import Machine

CALLS: dict[str, Callable[[Machine], Any]] = {
    "put": lambda machine: machine.put("one more", block=True),
    "put with a timeout": lambda machine: machine.put("one more", block=True, timeout=LIMIT_S * 10),
    "wait": lambda machine: machine.wait(),
    "drain": lambda machine: machine.stop(drain=True, timeout=LIMIT_S * 10),
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def plain(attempt: Callable[[], None]) -> Callable[[Any], Any]:
    def slot(value: object) -> object:
        attempt()
        return value

    return slot


def coroutine(attempt: Callable[[], None]) -> Callable[[Any], Any]:
    async def slot(value: object) -> object:
        await asyncio.sleep(0)
        attempt()
        return value

    return slot


def thread_of_coroutine(attempt: Callable[[], None]) -> Callable[[Any], Any]:
    async def slot(value: object) -> object:
        await asyncio.to_thread(attempt)
        return value

    return slot


def failing_first(attempt: Callable[[], None]) -> Callable[[Any], Any]:
    tries: list[object] = []

    def slot(value: object) -> object:
        tries.append(value)
        if len(tries) == 1:
            raise OSError("retried")
        attempt()
        return value

    return slot


SLOTS = {"plain": plain, "async": coroutine, "thread of async": thread_of_coroutine, "retried": failing_first}


@calls
@pytest.mark.parametrize("make", SLOTS.values(), ids=SLOTS.keys())
@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_a_slot_that_would_wait_for_its_own_machine_gets_an_error(machines, executor, make, call):
    machine = machines(1, bufsize=1, executor=executor)
    errors: list[BaseException] = []

    def attempt() -> None:
        wait_until(lambda: errors or machine.status.queue_size, "the queue is full, or another message was refused")
        if not errors:
            try:
                call(machine)
            except WouldDeadlock as error:
                errors.append(error)

    machine.set(0, make(attempt), policy={"on_error": "record", "retries": 1, "backoff_s": 0.001})
    machine.start()
    for message in ("first", "second", "third"):
        machine.put(message, block=True, timeout=LIMIT_S)
    wait_until(lambda: errors, "the error was raised")
    assert machine.wait(LIMIT_S)
    assert machine.status.processed == 3


@calls
@pytest.mark.parametrize(
    "point", ["pre_message", "post_message", "pre_slot", "post_slot", "pre_publish", "post_publish"]
)
def test_a_hook_that_would_wait_for_its_own_machine_gets_an_error(machines, point, call):
    machine = machines(1, bufsize=1)
    machine[0] = lambda value: value
    errors: list[BaseException] = []

    def attempt(*given: object) -> None:
        wait_until(lambda: errors or machine.status.queue_size, "the queue is full, or another message was refused")
        if not errors:
            try:
                call(machine)
            except WouldDeadlock as error:
                errors.append(error)

    machine.hook(point, attempt)
    machine.start()
    machine.put("first")
    machine.put("second", block=True, timeout=LIMIT_S)
    wait_until(lambda: errors, "the error was raised")
    assert machine.wait(LIMIT_S)
    assert machine.status.processed == 2


@calls
def test_a_sink_that_would_wait_for_its_own_machine_gets_an_error(machines, call):
    errors: list[BaseException] = []

    class Sink:
        def publish(self, rows: object) -> None:
            if not errors:
                wait_until(lambda: machine.status.queue_size, "the queue is full")
                try:
                    call(machine)
                except WouldDeadlock as error:
                    errors.append(error)

    machine = machines(1, bufsize=1, sinks=[Sink()])
    machine[0] = lambda value: value
    machine.start()
    machine.put("first")
    machine.put("second", block=True, timeout=LIMIT_S)
    wait_until(lambda: errors, "the error was raised")
    assert machine.wait(LIMIT_S)


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_the_step_of_one_message_is_part_of_its_machine(machines, executor):
    machine = machines(1, bufsize=1, executor=executor)
    machine[0] = lambda value: machine.put("third", block=True)
    machine.put("first")
    machine[0] = lambda value: (machine.put("second"), machine.put("third", block=True))
    assert "WouldDeadlock" in machine.get()[-1]


def test_a_source_may_put_into_its_own_machine_but_not_wait_for_its_own_end(machines):
    machine = machines(1, bufsize=1)
    errors: list[BaseException] = []

    def source():
        for n in range(20):
            machine.put(n, block=True)
        try:
            machine.wait()
        except WouldDeadlock as error:
            errors.append(error)
        yield "last"

    machine.source = source
    machine.start()
    assert machine.wait(LIMIT_S)
    assert machine.status.processed == 21
    assert len(errors) == 1


def test_a_callback_may_wait_for_its_machine(machines):
    """It runs in the bus thread, for which no message waits."""
    machine = machines(1)
    waited: list[object] = []
    machine.on("started", lambda event: waited.append(machine.wait(LIMIT_S)))
    machine.put(1)
    machine.start()
    wait_until(lambda: waited, "it waited")
    assert waited == [True]
