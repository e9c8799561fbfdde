"""A machine calls every hook point with its arguments and in its thread; failures are isolated."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from machine_kit import LIMIT_S, Machines, ManualClock, assert_counts_add_up
from wait_kit import wait_until

from timbr_wamp.contract import ErrorRow, Event, RevisionInfo, SourceStatus
from timbr_wamp.errors import MachineFull
from timbr_wamp.machine import Machine
from timbr_wamp.machine.events.hooks import ALIASES, KINDS, POINTS
from timbr_wamp.machine.running.executors.inline import InlineExecutor
from timbr_wamp.machine.running.worker import STALLED_S

PLACES = [point for point in POINTS if not point.startswith("on_")]
EXECUTORS = ["inline", "threads"]


class Seen:
    """A hook at every point; keeps arguments and thread of each call."""

    def __init__(self, machine: Machine) -> None:
        self.calls: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        self.threads: dict[str, set[str]] = defaultdict(set)
        self.order: list[str] = []
        for point in POINTS:
            machine.hook(point, self._at(point))

    def _at(self, point: str) -> Callable[..., None]:
        def called(*arguments: Any) -> None:
            self.calls[point].append(arguments)
            self.threads[point].add(threading.current_thread().name)
            self.order.append(point)

        return called

    def once(self, point: str) -> tuple[Any, ...]:
        """Return the arguments of the only call."""
        (arguments,) = self.calls[point]
        return arguments


def me() -> set[str]:
    return {threading.current_thread().name}


@pytest.fixture
def seen(machine: Machine) -> Seen:
    return Seen(machine)


# --- points around calls, in the caller's thread ---


def test_hooks_around_put_run_in_the_callers_thread(machine, seen):
    oid = machine.put("m")
    assert seen.once("pre_put") == ("m",)
    assert seen.once("post_put") == (oid, "m")
    assert seen.threads["pre_put"] == seen.threads["post_put"] == me()


@pytest.mark.parametrize("executor", EXECUTORS)
def test_message_slot_and_record_are_hooked_where_they_happen(machines, records, executor):
    machine = machines(stages=3, sinks=[records], executor=executor)
    machine[0], machine[2] = (lambda message: message * 2), (lambda f1: 1 / 0)
    seen = Seen(machine)
    oid = machine.put(21)
    machine.start()
    records.wait_for(1)
    assert machine.wait(LIMIT_S)
    assert seen.once("pre_message") == (oid, 21)
    assert seen.calls["pre_slot"] == [(oid, 0, [21]), (oid, 2, [42])]
    (first, second) = seen.calls["post_slot"]
    assert first == (oid, 0, 42, None)
    assert (second[:3], type(second[3])) == ((oid, 2, None), ZeroDivisionError)
    hooked_oid, values, failures = seen.once("post_message")
    assert (hooked_oid, values[:3]) == (oid, [21, 42, 42])
    assert [(failure.slot, failure.exc_class) for failure in failures] == [(2, "ZeroDivisionError")]
    for point in ("pre_publish", "post_publish"):
        ((row,),) = seen.once(point)
        assert (row[0], row[1], type(row[2]), type(row[3])) == (1, oid, bytes, bytes)
    own = [f"timbr {machine.name}", f"timbr {machine.name} watch"]
    assert seen.threads["pre_publish"] <= set(own)
    slots = seen.threads["pre_slot"] | seen.threads["post_slot"] | seen.threads["pre_message"]
    assert all(name == own[0] if executor == "inline" else name.startswith("timbr") for name in slots)
    points = [point for point in seen.order if point in PLACES]
    assert points.index("pre_message") < points.index("pre_slot") < points.index("post_message")
    assert points.index("post_message") < points.index("pre_publish") < points.index("post_publish")


def test_slots_that_are_awaited_are_hooked_in_the_machines_thread(machine, records, seen):
    async def double(message: int) -> int:
        return message * 2

    machine[0] = double
    oid = machine.put(4)
    machine.start()
    records.wait_for(1)
    assert seen.once("pre_slot") == (oid, 0, [4])
    assert seen.once("post_slot") == (oid, 0, 8, None)
    assert seen.threads["pre_slot"] == {f"timbr {machine.name}"}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_every_try_of_a_slot_is_hooked_and_the_message_once(machines, records, executor):
    machine = machines(stages=1, sinks=[records], executor=executor)
    tries = []

    def third_time(message: object) -> object:
        tries.append(message)
        if len(tries) < 3:
            raise ValueError("not yet")
        return message

    machine.set(0, third_time, policy={"retries": 2, "backoff_s": 0.001})
    seen = Seen(machine)
    machine.put("m")
    machine.start()
    records.wait_for(1)
    assert machine.wait(LIMIT_S)
    assert [type(error) for *_, error in seen.calls["post_slot"]] == [ValueError, ValueError, type(None)]
    assert len(seen.calls["pre_slot"]) == 3
    assert len(seen.calls["pre_message"]) == len(seen.calls["post_message"]) == 1


def test_hooks_around_a_step_run_in_the_callers_thread(machine, seen):
    oid = machine.put("m")
    row = machine.get()
    assert seen.once("pre_get") == ()
    ((seq, hooked_oid, text, _),) = seen.once("post_get")
    assert (seq, hooked_oid, row[0]) == (1, oid, oid)
    assert text.startswith(b'["m"')
    for point in ("pre_get", "post_get", "pre_message", "pre_publish"):
        assert seen.threads[point] == me()


@pytest.mark.parametrize("verb", ["start", "pause", "resume", "stop"])
def test_hooks_around_a_verb_run_in_the_callers_thread(machine, verb):
    for before in ("start", "pause")[: 2 if verb == "resume" else verb != "start"]:
        getattr(machine, before)()
    seen, states = Seen(machine), []
    for point in (f"pre_{verb}", f"post_{verb}"):
        machine.hook(point, lambda: states.append(machine.status.state))
    was = machine.status.state
    getattr(machine, verb)()
    assert seen.once(f"pre_{verb}") == seen.once(f"post_{verb}") == ()
    assert seen.threads[f"pre_{verb}"] == me()
    assert states == [was, machine.status.state]
    assert was != machine.status.state


def test_hooks_around_closing_run_once(machine, seen):
    machine.start()
    machine.close()
    machine.close()
    assert seen.once("pre_shutdown") == seen.once("post_shutdown") == ()
    assert seen.order.index("pre_shutdown") < seen.order.index("post_shutdown")
    assert seen.once("on_closed")[0].kind == "closed"
    assert seen.once("on_shutdown") == seen.once("on_closed")


def test_hooks_run_around_a_change_of_slots(machine, seen):
    machine[1] = str
    assert seen.once("pre_change") == ({1: str},)
    (revision,) = seen.once("post_change")
    assert isinstance(revision, RevisionInfo)
    assert revision.number == machine.revision == 1
    machine.set_policy(None, "drop")
    machine.rollback(0)
    machine.configure(stages=9)
    assert [revision.number for (revision,) in seen.calls["post_change"]] == [1, 2, 3, 4]


def test_hooks_run_around_setting_a_source(machine, seen):
    numbers = [1, 2, 3]
    machine.set_source(numbers)
    assert seen.once("pre_source")[0] is numbers
    (status,) = seen.once("post_source")
    assert isinstance(status, SourceStatus)
    assert (status.state, status.total) == ("waiting", 3)
    assert seen.threads["post_source"] == me()


def test_every_point_around_a_call_is_called(machines, records):
    machine = machines(stages=2, sinks=[records])
    seen = Seen(machine)
    machine[0] = str
    machine.set_source([1])
    machine.start()
    machine.put(2)
    records.wait_for(2)
    machine.pause()
    machine.put(3)
    machine.get()
    machine.resume()
    machine.stop()
    machine.close()
    assert [point for point in PLACES if not seen.calls[point]] == []


# --- points of the bus ---


class Unable(InlineExecutor):
    """An executor that fails itself."""

    def process(self, entries: Any, context: Any, add: Any) -> Any:
        raise OSError("no processor")


class NoTeardown:
    """An object that cannot be torn down."""

    def step(self, message: object) -> object:
        return message

    def teardown(self) -> None:
        raise OSError("jammed")


class Scene:
    """A machine whose events can be provoked, each by a method of its kind's name."""

    def __init__(self, machines: Machines, kind: str) -> None:
        self.clock, self.gate, self.left = ManualClock(), machines.gate(), threading.Event()
        executor = Unable() if kind == "failed" else "inline"
        self.machine = machines(stages=2, bufsize=1, clock=self.clock, executor=executor)

    def started(self) -> None:
        self.machine.start(author="ada")

    def paused(self) -> None:
        self.machine.start()
        self.machine.pause(author="ada")

    def resumed(self) -> None:
        self.paused()
        self.machine.resume(author="ada")

    def stopped(self) -> None:
        self.machine.start()
        self.machine.stop(author="ada")

    def failed(self) -> None:
        self.machine.start()
        self.machine.put(1)

    def closed(self) -> None:
        self.machine.close()

    def slot_changed(self) -> None:
        self.machine.set(0, str, author="ada")

    def configured(self) -> None:
        self.machine.configure(bufsize=3, author="ada")

    def handler_changed(self) -> None:
        self.machine.set_handler("RetryHandler", author="ada")

    def source_set(self) -> None:
        self.machine.set_source([1], author="ada")

    def source_deleted(self) -> None:
        self.machine.set_source([1])
        self.machine.delete_source(author="ada")

    def exhausted(self) -> None:
        self.machine.set_source([1])
        self.machine.start()

    drained = exhausted

    def source_failed(self) -> None:
        def numbers() -> Any:
            yield 1
            raise OSError("gone")

        self.machine.set_source(numbers, restarts=1, backoff_s=0.001)
        self.machine.start()

    restarted = source_failed

    def idle(self) -> None:
        def silent() -> Any:
            self.left.wait(LIMIT_S)
            yield 1

        self.machine.set_source(silent, idle_timeout_s=0.02)
        self.machine.start()

    def full(self) -> None:
        self.machine.put(1)
        with pytest.raises(MachineFull):
            self.machine.put(2)

    def stalled(self) -> None:
        self.machine[0] = self.gate
        self.machine.start()
        self.machine.put(1)
        self.gate.wait_until_entered()
        self.clock.advance(STALLED_S + 1)

    def object_failed(self) -> None:
        self.machine[0] = NoTeardown()
        del self.machine[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_comes_to_its_point_and_to_on_event_in_the_bus_thread(machines, kind, caplog):
    scene = Scene(machines, kind)
    machine = scene.machine
    seen = Seen(machine)
    getattr(scene, kind)()
    wait_until(lambda: seen.calls[f"on_{kind}"], f"on_{kind} was not called")
    (event,) = seen.calls[f"on_{kind}"][0]
    assert isinstance(event, Event)
    assert event.kind == kind
    assert (event,) in seen.calls["on_event"]
    assert seen.threads[f"on_{kind}"] == seen.threads["on_event"] == {f"timbr {machine.name} bus"}
    assert event in machine.events()
    verbs = {"started", "paused", "resumed", "stopped", "slot_changed", "configured", "handler_changed"}
    assert event.author == ("ada" if kind in verbs | {"source_set", "source_deleted"} else None)
    numbers = [event.number for (event,) in seen.calls["on_event"]]
    assert numbers == sorted(numbers)
    for alias, name in ALIASES.items():
        assert bool(seen.calls[alias]) == bool(seen.calls[name])
    scene.left.set()


def test_each_failure_of_a_slot_comes_to_on_error_in_the_bus_thread(machine, records, seen):
    machine[0] = lambda message: 1 / message
    machine.start()
    oid = machine.put(0)
    machine.put(1)
    records.wait_for(2)
    assert machine.event_log.flush(LIMIT_S)
    (row,) = seen.once("on_error")
    assert isinstance(row, ErrorRow)
    assert (row.oid, row.slot, row.exc_class) == (oid, 0, "ZeroDivisionError")
    assert seen.threads["on_error"] == {f"timbr {machine.name} bus"}


# --- hooks that fail, are added and removed ---


def faulty(*_: object) -> None:
    raise ZeroDivisionError("of the hook")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_hooks_that_fail_at_every_point_cost_nobody_anything_and_are_counted(machines, records, executor, caplog):
    machine = machines(stages=2, sinks=[records], executor=executor)
    seen = Seen(machine)
    for point in POINTS:
        machine.hook(point, faulty)
    calls_after = defaultdict(int)
    for point in POINTS:
        machine.hook(point, lambda *_, point=point: calls_after.update({point: calls_after[point] + 1}))
    machine[0] = lambda message: message + 1
    machine.set_source([1, 2])
    machine.start()
    records.wait_for(2)
    oid = machine.put(3)
    assert machine.wait(LIMIT_S)
    machine.pause()
    machine.put(4)
    machine.get()
    machine.resume()
    machine.stop()
    assert machine.event_log.flush(LIMIT_S)
    values = [record.values for record in records.wait_for(4)]
    assert values == [(2, 2), (3, 3), (4, 4), (5, 5)]
    assert records.records[2].oid == oid
    called = {point: len(calls) for point, calls in seen.calls.items() if calls}
    assert {"pre_put", "pre_message", "pre_slot", "pre_publish", "pre_get", "pre_start", "pre_pause"} <= set(called)
    assert dict(calls_after) == called, "a hook after one that fails is called too"
    assert machine.status.hook_failures == sum(called.values())
    assert machine.status.state == "stopped"
    assert_counts_add_up(machine.status)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_hooks_are_added_and_removed_while_messages_flow(machines, records, executor):
    machine = machines(stages=1, sinks=[records], executor=executor)
    machine[0] = str
    machine.start()
    machine.put(1)
    records.wait_for(1)
    seen: list[Any] = []
    ends = [
        machine.hook("pre_slot", lambda oid, slot, arguments: seen.append(("pre_slot", arguments[0]))),
        machine.hook("post_message", lambda oid, values, failures: seen.append(("post_message", values[0]))),
    ]
    machine.put(2)
    records.wait_for(2)
    for end in ends:
        end()
        end()
    machine.put(3)
    records.wait_for(3)
    assert seen == [("pre_slot", 2), ("post_message", 2)]


def test_a_hook_that_blocks_the_bus_delays_no_message(machine, records, gate):
    machine.on("slot_changed", gate)
    machine[0] = str
    gate.wait_until_entered()
    machine.start()
    for n in range(20):
        machine.put(n)
    assert len(records.wait_for(20)) == 20
    gate.open()


def test_a_hook_may_use_the_machine(machine, records):
    done = threading.Event()

    def mend(row: ErrorRow) -> None:
        machine[0] = str
        machine.retry_errors()
        done.set()

    machine.on("error", mend)
    machine[0] = lambda message: 1 / 0
    machine.start()
    machine.put(7)
    assert done.wait(LIMIT_S)
    record = records.wait_for(2)[1]
    assert (record.values[0], record.attempt) == ("7", 2)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_hooks_do_to_their_arguments_changes_neither_message_nor_slots_nor_counts(machines, records, executor):
    def fails(message: object) -> object:
        raise ValueError("no")

    machine = machines(stages=2, sinks=[records], executor=executor)
    machine.hook("pre_change", lambda functions: functions.clear())
    machine.hook("pre_slot", lambda oid, slot, arguments: arguments.clear())
    machine.hook("post_message", lambda oid, values, failures: (values.clear(), failures.clear()))
    machine.assign({0: lambda message: message + 1, 1: fails})
    for message in range(40):  # one of them is timed
        machine.put(message)
    machine.start()
    assert [record.values[0] for record in records.wait_for(40)] == list(range(1, 41))
    assert machine.wait(LIMIT_S)
    assert machine.status.errored == 40
