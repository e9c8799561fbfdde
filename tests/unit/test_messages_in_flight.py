"""Messages under way, with every executor: which wait for which, and that no foreign code stops the machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from machine_kit import LIMIT_S, AsyncGate, Machines, Recorder, assert_counts_add_up, in_thread
from wait_kit import wait_until

from tests.executor_kit import START_S, beside
from tests.slot_kit import context_of, process
from timbr_wamp.errors import LoopClosed, PrepFailed
from timbr_wamp.machine import Machine
from timbr_wamp.machine.running.backoff import BACKOFF_LIMIT
from timbr_wamp.machine.running.event_loop import EventLoop
from timbr_wamp.machine.running.executors.inline import InlineExecutor
from timbr_wamp.machine.running.executors.processes import ProcessesExecutor
from timbr_wamp.machine.running.executors.threads import ThreadsExecutor
from timbr_wamp.machine.slots.table import SlotTable

Make = Callable[..., Machine]

EXECUTORS: dict[str, dict[str, Any]] = {
    "inline": {},
    "inline, beside async": {"async": True},
    "threads": {"executor": "threads"},
    "threads, beside async": {"executor": "threads", "async": True},
    "processes": {"executor": "processes"},
}


@pytest.fixture(params=EXECUTORS.values(), ids=EXECUTORS)
def make(request: pytest.FixtureRequest, machines: Machines, records: Recorder) -> Make:
    """Make machines of three slots, of which the last may be async, with one of the executors."""
    options = dict(request.param)
    is_async = options.pop("async", False)

    def made(**more: Any) -> Machine:
        machine = machines(3, sinks=[records], hooks=[records], **{**options, **more})
        if is_async:
            machine[2] = beside
        return machine

    return made


# --- who waits for whom ---


def test_a_message_in_backoff_holds_up_no_other(make: Make, records: Recorder) -> None:
    m = make()

    def slot(message: int) -> int:
        if message == 0:
            raise ValueError("always")
        return message

    m.set(0, slot, policy={"retries": 5, "backoff_s": 60.0})
    for n in range(50):
        m.put(n)
    m.start()
    assert [record.input for record in records.wait_for(49, START_S)] == list(range(1, 50))
    assert m.status.retrying == 1
    m.put(50)
    assert records.wait_for(50)[49].input == 50
    m.stop()


def test_retries_come_while_another_message_takes_long(machines: Machines, records: Recorder) -> None:
    gate = machines.gate()
    m = machines(1, sinks=[records], executor="threads", concurrency=2)
    tries: list[int] = []

    def slot(message: int) -> int:
        if message == 1:
            tries.append(message)
            if len(tries) < 3:
                raise ValueError("not yet")
            return message
        gate(message)
        return message

    m.set(0, slot, policy={"retries": 5, "backoff_s": 0.01})
    m.put(0)
    m.put(1)
    m.start()
    assert records.wait_for(1)[0].input == 1, "the retried message waits for no other"
    gate.open()


def test_a_pause_reaches_messages_in_backoff_and_they_run_again(make: Make, records: Recorder) -> None:
    m = make()
    m.set(0, lambda message: 1 / message, policy={"retries": 1, "backoff_s": 60.0})
    m.put(0)
    m.start()
    wait_until(lambda: m.status.retrying == 1, "it is in backoff", START_S)
    m.pause()
    wait_until(lambda: m.status.queue_size == 1, "it is back in the queue")
    m[0] = lambda message: "mended"
    m.resume()
    assert records.wait_for(1, START_S)[0].values[0] == "mended"


@pytest.mark.parametrize("kind", ["inline", "inline, async", "threads", "processes"])
def test_with_too_many_messages_in_backoff_an_executor_waits_without_polling(kind: str) -> None:
    async def fails_later(message: object) -> None:
        raise ValueError(message)

    def fails(message: object) -> None:
        raise ValueError(message)

    table = SlotTable(1, float)
    function = fails_later if "async" in kind else fails
    executors: dict[str, Any] = {"threads": ThreadsExecutor, "processes": ProcessesExecutor}
    executor = executors.get(kind, InlineExecutor)()
    table.assign({0: function})
    table.set_policy(0, policy_of(60.0))
    looked, may_run = 0, True

    def may_start() -> bool:
        nonlocal looked
        looked += 1
        return may_run

    context = context_of(table.current, may_start=may_start, concurrency=100)
    entries = deque((f"{n:024x}", n, 0.0, 1) for n in range(BACKOFF_LIMIT + 500))
    running = in_thread(lambda: list(process(executor, entries, context)))
    wait_until(lambda: executor.retrying >= BACKOFF_LIMIT, "as many as may be are in backoff", START_S)
    before = looked
    threading.Event().wait(0.5)  # nothing happens in this time, and that is to be seen
    assert looked - before < 50
    may_run = False
    assert running.result(LIMIT_S) == []
    assert len(executor.abandon()) + len(entries) == BACKOFF_LIMIT + 500
    executor.close()


def policy_of(backoff_s: float) -> Any:
    from timbr_wamp.contract.policies import checked_policy

    return checked_policy({"retries": 1, "backoff_s": backoff_s})


def test_a_lower_concurrency_holds_for_the_next_messages(machines: Machines, records: Recorder) -> None:
    gate, here, most = AsyncGate(), set[int](), dict[int, int]()

    async def slot(message: int) -> int:
        here.add(message)
        most[message] = len(here)
        if message < 4:
            await gate(message)
        await asyncio.sleep(0)
        here.remove(message)
        return message

    m = machines(1, sinks=[records], concurrency=4)
    m[0] = slot
    for n in range(8):
        m.put(n)
    m.start()
    gate.wait_until_entered(*range(4))
    m.configure(concurrency=1)
    gate.open(*range(4))
    assert [record.input for record in records.wait_for(8)] == list(range(8))
    assert list(most.values()) == [1, 2, 3, 4, 1, 1, 1, 1]


# --- plain slots beside async ones ---


def test_a_plain_slot_beside_an_async_one_may_run_an_event_loop(machines: Machines, records: Recorder) -> None:
    async def double(message: int) -> int:
        await asyncio.sleep(0)
        return message * 2

    m = machines(2, sinks=[records], concurrency=3)
    m[0] = double
    m[1] = lambda f0: asyncio.run(double(f0))
    for n in range(40):
        m.put(n)
    m.start()
    assert [record.values for record in records.wait_for(40)] == [(2 * n, 4 * n) for n in range(40)]


def test_while_a_plain_slot_blocks_async_slots_of_other_messages_continue(machines: Machines) -> None:
    plain, awaits, awaited = machines.gate(), AsyncGate(), threading.Event()

    async def wait(message: int) -> int:
        if message:
            await awaits(message)
            awaited.set()
        return message

    m = machines(2, concurrency=2)
    m[0] = wait
    m[1] = lambda f0: plain(f0) if f0 == 0 else f0
    m.put(0)
    m.put(1)
    m.start()
    plain.wait_until_entered()
    awaits.wait_until_entered(1)
    awaits.open(1)
    assert awaited.wait(LIMIT_S)
    plain.open()


# --- errors that would end a thread, a loop or the process ---


def exits_in_a_task() -> None:
    async def leave() -> None:
        sys.exit(2)

    task = asyncio.get_running_loop().create_task(leave())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())


def stops_the_loop() -> None:
    asyncio.get_running_loop().stop()


def exits() -> None:
    sys.exit(1)


def interrupts() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("harm", [exits, interrupts, exits_in_a_task, stops_the_loop])
@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_an_async_slot_that_tries_to_end_its_loop_does_not(
    machines: Machines, records: Recorder, executor: str, harm: Callable[[], None]
) -> None:
    async def slot(message: int) -> int:
        if message == 1:
            harm()
            await asyncio.sleep(0)
        return message

    m = machines(1, sinks=[records], executor=executor)
    m[0] = slot
    for n in range(3):
        m.put(n)
    m.start()
    assert [record.input for record in records.wait_for(3)] == [0, 1, 2]
    assert m.wait(LIMIT_S)
    assert in_thread(lambda: m(1)).result(LIMIT_S).errored == (harm in (exits, interrupts))
    assert_counts_add_up(m.status)
    assert m.status.in_flight == 0


def test_an_async_prep_that_exits_leaves_the_slot_as_it_was(machines: Machines) -> None:
    class Leaves:
        async def prep(self) -> None:
            sys.exit(1)

        def step(self, message: object) -> object:
            return message

    m = machines(1)
    m[0] = len
    with pytest.raises(PrepFailed, match="SystemExit"):
        m[0] = Leaves()
    assert m("four").values[0] == 4


def test_pending_calls_into_a_closed_loop_fail() -> None:
    loop, started = EventLoop(), threading.Event()

    async def block() -> None:
        started.set()
        held.wait(LIMIT_S)

    held = threading.Event()
    blocked = in_thread(lambda: loop.run(block()))
    assert started.wait(LIMIT_S)
    waiting = in_thread(lambda: loop.run(asyncio.Event().wait()))
    loop.close()
    for future in (blocked, waiting):
        with pytest.raises(LoopClosed):
            future.result(LIMIT_S)
    held.set()


def test_closing_from_a_slot_loses_no_message(make: Make, records: Recorder) -> None:
    m = make()
    closed = threading.Event()

    def slot(message: object) -> None:
        m.close(0.1)
        closed.set()

    m[0] = slot
    m.put(1)
    m.put(2)
    m.start()
    assert closed.wait(START_S)
    wait_until(lambda: m.status.in_flight == 0, "nothing is under way")
    assert m.status.queue_size + len(records.rows) == 2


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_an_executor_that_fails_beside_its_slots_fails_the_machine_with_a_reason(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, executor: str, records: Recorder
) -> None:
    m = machines(1, hooks=[records], executor=executor)
    m[0] = lambda message: message
    monkeypatch.setattr("timbr_wamp.machine.running.executors.segments.perf_counter", no_clock)
    monkeypatch.setattr("timbr_wamp.machine.running.executors.children.ChildProcess.request", no_clock)
    m.put(1)
    m.start()
    records.wait_for_event("failed", START_S)
    assert "out of time" in str(m.status.reason)
    assert (m.status.queue_size, m.status.in_flight) == (1, 0)


def test_threads_that_cannot_be_started_cost_no_message(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, records: Recorder
) -> None:
    start, allowed = threading.Thread.start, [1]

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith("timbr slots") and not allowed.pop():
            allowed.append(0)
            raise RuntimeError("can't start new thread")
        start(thread)
        if not allowed:
            allowed.append(0)

    monkeypatch.setattr(threading.Thread, "start", limited)
    m = machines(2, sinks=[records], executor="threads", concurrency=8)
    m[0] = lambda message: message
    m[1] = lambda: "apart"
    for n in range(40):
        m.put(n)
    m.start()
    assert [record.input for record in records.wait_for(40)] == list(range(40))


def test_a_loop_whose_thread_cannot_be_started_is_started_by_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = EventLoop()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            loop.run(asyncio.sleep(0, "never"))
    assert loop.run(asyncio.sleep(0, "now"), LIMIT_S) == "now"
    loop.close()


def no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def no_clock(*_: object, **__: object) -> float:
    raise MemoryError("out of time")


def test_a_forked_child_does_not_affect_the_machines_child_processes(machines: Machines, records: Recorder) -> None:
    m = machines(1, sinks=[records], executor=ProcessesExecutor(workers=1))
    m[0] = lambda message: message
    m.put(1)
    m.start()
    records.wait_for(1, START_S)
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            m.close(0.1)
        os._exit(0)
    os.waitpid(pid, 0)
    m.put(2)
    assert records.wait_for(2, START_S)[1].input == 2
