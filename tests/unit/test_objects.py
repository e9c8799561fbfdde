"""Objects in slots: prepared before the swap, torn down when nothing uses them any more."""

from __future__ import annotations

import asyncio
import threading

import pytest
from machine_kit import LIMIT_S, Gate
from wait_kit import wait_until

from timbr_wamp.errors import PrepFailed
from timbr_wamp.machine.running.executors.inline import InlineExecutor


class Node:
    """Records the calls of its methods."""

    def __init__(self, gate: Gate | None = None) -> None:
        self.log: list[str] = []
        self.threads: set[str] = set()
        self._gate = gate

    def prep(self) -> None:
        self.log.append("prep")
        self.threads.add(threading.current_thread().name)

    def step(self, message: object) -> object:
        self.log.append(f"step {message}")
        return message if self._gate is None else self._gate(message)

    def teardown(self) -> None:
        self.log.append("teardown")

    def wait_until_torn_down(self, times: int = 1) -> None:
        wait_until(lambda: self.log.count("teardown") == times, f"not torn down: {self.log}")


class Broken(Node):
    def prep(self) -> None:
        raise OSError("no such device")


def run(machine, *messages):
    machine.start()
    for message in messages:
        machine.put(message)
    assert machine.wait(LIMIT_S)


def test_an_object_is_prepared_off_the_hot_thread_and_torn_down_when_it_is_removed(machine):
    node = Node()
    machine[0] = node
    assert machine[0] is node
    assert machine.slots[0].kind == "object"
    run(machine, 1, 2)
    del machine[0]
    node.wait_until_torn_down()
    assert node.log == ["prep", "step 1", "step 2", "teardown"]
    assert node.threads == {threading.current_thread().name}


def test_setup_is_another_name_of_prep(machine):
    class Named:
        ready = False

        def setup(self) -> None:
            self.ready = True

        def step(self, message: object) -> bool:
            return self.ready

    machine[0] = Named()
    assert machine(1).values[0] is True


def test_the_step_gets_values_by_its_own_signature(machine):
    class Sum:
        def step(self, f0: int, message: int) -> int:
            return f0 + message

    machine[0] = lambda message: message * 10
    machine[1] = Sum()
    assert machine(2).values[1] == 22


def test_a_prep_that_fails_leaves_the_old_revision_and_tears_down_what_was_prepared_beside_it(machine):
    machine[0] = str
    good, bad = Node(), Broken()
    with pytest.raises(PrepFailed, match=r"slot 1 was not changed.*OSError: no such device"):
        machine[0:2] = [good, bad]
    assert (machine.revision, machine[0]) == (1, str)
    assert good.log == ["prep", "teardown"]
    assert bad.log == []


def test_an_object_in_use_by_a_message_under_way_is_torn_down_only_after_it(machine, gate):
    node = Node(gate)
    machine[0] = node
    machine.start()
    machine.put(1)
    gate.wait_until_entered()
    machine[0] = str
    assert machine(5).values[0] == "5"
    assert "teardown" not in node.log
    gate.open()
    node.wait_until_torn_down()
    assert node.log == ["prep", "step 1", "teardown"]


def test_a_message_that_waits_for_a_retry_holds_its_object(machine):
    class Fails(Node):
        def step(self, message: object) -> object:
            super().step(message)
            raise ValueError

    node = Fails()
    machine.set(0, node, policy={"retries": 1, "backoff_s": 60.0})
    machine.start()
    machine.put(1)
    wait_until(lambda: machine.status.retrying == 1, "no message waits for its retry")
    del machine[0]
    machine.put("another")
    wait_until(lambda: machine.status.processed == 1, "the other message was processed")
    assert "teardown" not in node.log
    machine.pause()
    node.wait_until_torn_down()


def test_an_object_is_torn_down_although_later_messages_always_wait_for_retries(machines, clock):
    node, tried = Node(), set[object]()

    def fails_once(message: object) -> object:
        if message not in tried:
            tried.add(message)
            raise ValueError
        return message

    machine = machines(executor=InlineExecutor(clock))
    machine.set(0, fails_once, policy={"retries": 1, "backoff_s": 10.0})
    machine[1] = node
    machine.start()
    machine.put("before")
    wait_until(lambda: machine.status.retrying == 1, "the first message does not wait for its retry")
    del machine[1]
    clock.advance(9.0)
    machine.put("after")
    wait_until(lambda: machine.status.retrying == 2, "the second message does not wait for its retry")
    assert "teardown" not in node.log
    clock.advance(2.0)
    node.wait_until_torn_down()
    assert machine.status.retrying == 1
    assert node.log == ["prep", "step before", "teardown"]


def test_one_object_in_two_slots_is_opened_once(machine):
    node = Node()
    machine[0:2] = [node, node]
    del machine[0]
    run(machine, 1)
    assert node.log == ["prep", "step 1"]
    del machine[1]
    node.wait_until_torn_down()
    assert node.log.count("prep") == 1


def test_a_rollback_prepares_again_what_was_torn_down(machine):
    node = Node()
    machine[0] = node
    before = machine.revision
    del machine[0]
    node.wait_until_torn_down()
    machine.rollback(before)
    run(machine, 1)
    assert node.log == ["prep", "teardown", "prep", "step 1"]


def test_a_change_that_keeps_the_object_does_not_touch_it(machine):
    node = Node()
    machine[0] = node
    machine[1] = str
    machine.set_policy(0, "drop")
    assert node.log == ["prep"]


def test_closing_tears_down_what_is_open(machines):
    machine, node = machines(), Node()
    machine[0] = node
    machine.close()
    assert node.log == ["prep", "teardown"]


def test_a_teardown_that_raises_is_only_an_event(machine, records):
    class Clings(Node):
        def teardown(self) -> None:
            raise RuntimeError("never")

    machine[0] = Clings()
    del machine[0]
    event = records.wait_for_event("object_failed")
    assert event.data == {"object": Clings.__qualname__, "verb": "teardown", "error": "RuntimeError: never"}
    assert machine(1).values[0] == 1


def test_an_objects_coroutines_all_run_in_one_loop(machine):
    class Client:
        def __init__(self) -> None:
            self.loops: list[object] = []

        async def prep(self) -> None:
            self.loops.append(asyncio.get_running_loop())

        async def step(self, message: object) -> object:
            self.loops.append(asyncio.get_running_loop())
            return message

        async def teardown(self) -> None:
            self.loops.append(asyncio.get_running_loop())

    client = Client()
    machine[0] = client
    run(machine, 1)
    del machine[0]
    wait_until(lambda: len(client.loops) == 3, "prep, step and teardown did not all run")
    assert len(set(client.loops)) == 1


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_closing_awaits_an_async_teardown_before_the_loop_ends(machines, executor):
    class Client:
        torn_down = False

        async def step(self, message: object) -> object:
            return message

        async def teardown(self) -> None:
            await asyncio.sleep(0)
            self.torn_down = True

    machine, client = machines(executor=executor), Client()
    machine[0] = client
    run(machine, 1)
    machine.close()
    assert client.torn_down


def test_an_object_on_trial_is_prepared_and_torn_down_again(machine):
    node = Node()
    with machine.tried(0, node) as slot:
        assert slot.kind == "object"
        assert node.log == ["prep"]
    assert node.log == ["prep", "teardown"]
    assert machine.revision == 0


def test_an_object_on_trial_that_is_in_use_stays_as_it_is(machine):
    node = Node()
    machine[0] = node
    with machine.tried(1, node):
        pass
    assert node.log == ["prep"]
