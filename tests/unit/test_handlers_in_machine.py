"""Event handlers in a machine: what stops it, what is raised in the user's call, what becomes of the message."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machine_kit import LIMIT_S, assert_counts_add_up, in_thread
from wait_kit import wait_until
from wire_kit import Peer

from timbr_wamp import runtime
from timbr_wamp.errors import InvalidArgument, MachineEmpty, UnknownPlugin
from timbr_wamp.machine import Machine
from timbr_wamp.machine.events.handlers import (
    BaseEventHandler,
    DaskEventDebugger,
    DeadLetterHandler,
    RawEventDebugger,
    RetryHandler,
)

KINDS = ("slot", "source", "hook", "sink")


class Fault(Exception):
    """Raised by foreign code; tests look for this very object."""


class Faulty:
    """A slot, source, hook or sink that raises one error."""

    def __init__(self, kind: str) -> None:
        self.kind, self.error, self.raised = kind, Fault(f"in the {kind}"), threading.Event()
        self.well = False

    def fail(self, *_: object) -> Any:
        if self.well:
            return "well"
        self.raised.set()
        raise self.error

    publish = fail

    def messages(self) -> Iterator[object]:
        yield "only"
        self.fail()

    def put_into(self, machine: Machine) -> None:
        if self.kind == "slot":
            machine[0] = self.fail
        elif self.kind == "hook":
            machine.hook("post_message", self.fail)
        elif self.kind == "sink":
            machine.recorder.replace_sinks(lambda sinks: (*sinks, self))
        if self.kind == "source":
            machine.source = self.messages
        else:
            machine.put("only")


def user_waits(machine: Machine) -> None:
    machine.start()
    machine.wait(LIMIT_S)


def user_stops(machine: Machine) -> None:
    machine.start()
    wait_until(lambda: machine.status.state == "stopped", "it stopped itself")
    machine.stop()


def user_steps(machine: Machine) -> None:
    for _ in range(3):
        machine.get(block=True, timeout=LIMIT_S)


USERS = [user_waits, user_stops, user_steps]


def test_a_get_without_a_limit_raises_the_error_of_a_debugger_and_waits_no_longer(machines, caplog):
    machine, faulty = machines(stages=2, handler="RawEventDebugger"), Faulty("source")
    faulty.put_into(machine)

    def get_all() -> None:
        while True:
            machine.get(block=True, timeout=2 * LIMIT_S)

    with pytest.raises(Fault) as caught:
        in_thread(get_all).result()
    assert caught.value is faulty.error


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_raw_debugger_raises_the_error_itself_in_the_users_call(machines, kind, user, caplog):
    machine, faulty = machines(stages=2, handler="RawEventDebugger"), Faulty(kind)
    faulty.put_into(machine)
    with pytest.raises(Fault) as caught:
        user(machine)
    assert caught.value is faulty.error
    assert "Fault in" in str(machine.handler.report)
    assert not machine.running
    status = machine.status
    if user is not user_steps:
        assert status.state == "stopped"
        assert f"Fault: in the {kind}" in str(status.reason)
    assert_counts_add_up(status)
    wait_until(lambda: machine.status.in_flight == 0, "the message under way is recorded or kept")
    status = machine.status
    kept = kind == "slot" or (kind == "source" and status.processed == 0)  # the source may fail first
    assert (status.queue_size, status.processed) == ((1, 0) if kept else (0, 1)), "nothing was lost"
    machine.stop()  # raised once, not again


@pytest.mark.parametrize("user", USERS)
def test_the_message_that_a_debugger_stopped_at_is_kept_and_runs_when_the_slot_is_mended(
    machines, records, user, caplog
):
    machine, faulty = machines(stages=1, handler="RawEventDebugger", sinks=[records]), Faulty("slot")
    faulty.put_into(machine)
    with pytest.raises(Fault):
        user(machine)
    assert (machine.status.put, machine.status.queue_size, machine.status.errored) == (1, 1, 0)
    machine[0] = str.upper
    machine.start()
    assert machine.wait(LIMIT_S)
    (record,) = records.wait_for(1)
    assert (record.values, record.attempt, record.errored) == (("ONLY",), 1, False)


@pytest.mark.parametrize("kind", ["source", "hook", "sink"])
def test_the_dask_debugger_leaves_all_but_slots_alone(machines, kind, caplog):
    machine, faulty = machines(stages=1, handler=DaskEventDebugger()), Faulty(kind)
    faulty.put_into(machine)
    machine.start()
    assert faulty.raised.wait(LIMIT_S)
    wait_until(lambda: machine.status.processed == 1, "no record")
    assert machine.wait(LIMIT_S)
    assert machine.running
    machine.stop()
    assert machine.handler.report is None


@pytest.mark.parametrize("user", USERS)
def test_the_dask_debugger_raises_what_a_slot_raised(machines, user, caplog):
    machine, faulty = machines(stages=1, handler=DaskEventDebugger), Faulty("slot")
    faulty.put_into(machine)
    with pytest.raises(Fault) as caught:
        user(machine)
    assert caught.value is faulty.error
    assert machine.status.queue_size == 1


# --- retrying and dead letters ---


def test_the_retry_handler_tries_any_slot_again_whatever_its_policy(machines, records):
    tries: dict[object, int] = {}

    def flaky(message: object) -> object:
        tries[message] = tries.get(message, 0) + 1
        if tries[message] <= 2:
            raise Fault("not yet")
        return message

    machine = machines(stages=1, sinks=[records], handler=RetryHandler(retries=2, backoff_s=0.001), on_error="drop")
    machine[0] = flaky
    machine.start()
    oids = [machine.put(n) for n in range(3)]
    seen = {record.oid: record for record in records.wait_for(3)}
    assert set(seen) == set(oids)
    assert {record.meta.policies["f0"] for record in seen.values()} == {"retry 2"}
    assert (machine.status.processed, machine.status.policies.mended) == (3, 3)


@pytest.mark.parametrize("then", ["record", "default", "drop", "dead_letter"])
def test_after_its_retries_the_retry_handler_applies_its_verdict(machines, records, then):
    faulty = Faulty("slot")
    machine = machines(stages=1, sinks=[records])
    machine.set_handler("RetryHandler", {"retries": 1, "backoff_s": 0.0, "then": then, "default": -1})
    faulty.put_into(machine)
    machine.start()
    (record,) = records.wait_for(1)
    assert record.meta.policies["f0"] == ("retry 1" if then == "record" else f"retry 1, {then}")
    assert (record.errored, record.meta.dropped) == (then in ("record", "dead_letter"), then == "drop")
    assert (record.values[0] == -1) == (then == "default")


@pytest.mark.parametrize("then", ["pause", "stop"])
def test_the_retry_handler_may_keep_the_message(machines, then):
    machine, faulty = machines(stages=1, handler=RetryHandler(1, 0.0, then)), Faulty("slot")
    faulty.put_into(machine)
    machine.start()
    wait_until(lambda: machine.status.queue_size == 1 and not machine.running, "it was not kept")
    assert machine.status.state == {"pause": "paused", "stop": "stopped"}[then]
    machine.stop()
    assert machine.status.queue_size == 1


def test_dead_letters_leave_the_pipeline_at_once_are_kept_and_can_be_put_again(machines, records):
    taken, ran = [], []
    handler = DeadLetterHandler(taken.append)
    machine, faulty = machines(stages=2, sinks=[records], handler=handler), Faulty("slot")
    machine[1] = lambda: ran.append(1)
    faulty.put_into(machine)
    machine.start()
    (record,) = records.wait_for(1)
    assert [outcome.kind for outcome in record.outcomes] == ["error", "skipped"]
    assert record.meta.policies == {"f0": "dead_letter"}
    assert ran == []
    assert machine.event_log.flush(LIMIT_S)
    assert [letter.oid for letter in handler.letters] == [letter.oid for letter in taken] == [record.oid]
    faulty.well = True
    assert machine.retry_errors() == [record.oid]
    assert records.wait_for(2)[1].attempt == 2


# --- switching ---


def test_handlers_are_switched_while_messages_flow_and_hold_from_the_next_failure_on(machine, records):
    faulty = Faulty("slot")
    machine[0] = faulty.fail
    machine.start()
    words = []
    for name, word in (
        ("DeadLetterHandler", "dead_letter"),
        ("BaseEventHandler", None),
        ("RetryHandler", "retry 3"),
    ):
        machine.set_handler(name, {"backoff_s": 0.0} if name == "RetryHandler" else None)
        machine.put(name)
        record = records.wait_for(len(words) + 1)[-1]
        words.append((record.meta.policies or {}).get("f0"))
        assert words[-1] == word
        assert machine.status.handler == name
    kinds = [event.data["handler"] for event in machine.events() if event.kind == "handler_changed"]
    assert kinds == ["DeadLetterHandler", "BaseEventHandler", "RetryHandler"]


def test_after_a_debugger_is_removed_the_kept_message_runs(machine, records, caplog):
    faulty = Faulty("slot")
    faulty.put_into(machine)
    machine.handler = RawEventDebugger
    machine.start()
    wait_until(lambda: machine.status.state == "stopped", "it does not stop")
    with pytest.raises(Fault):
        machine.wait(LIMIT_S)
    machine.handler = None
    machine.start()
    assert machine.wait(LIMIT_S)
    assert records.wait_for(1)[0].errored


def test_a_handler_that_cannot_be_made_leaves_the_present_one(machine):
    machine.handler = "DeadLetterHandler"
    with pytest.raises(InvalidArgument):
        machine.set_handler("RetryHandler", {"retries": -1})
    with pytest.raises(UnknownPlugin):
        machine.handler = "NoSuchHandler"
    assert machine.status.handler == "DeadLetterHandler"


class Broken(BaseEventHandler):
    """Fails whatever it is asked."""

    def slot_raised(self, *_: object) -> Any:
        raise ZeroDivisionError("of the handler")

    raises = slot_raised


def test_what_a_handler_itself_raises_is_counted_and_the_slots_own_policy_holds(machine, records, caplog):
    machine.handler = Broken()
    machine.set(0, Faulty("slot").fail, policy="drop")
    machine.start()
    machine.put(1)
    (record,) = records.wait_for(1)
    assert record.meta.policies == {"f0": "drop"}
    assert machine.running
    assert machine.status.hook_failures >= 1
    assert "event handler Broken" in caplog.text


# --- over the wire ---


@pytest.fixture
def peer(machine, monkeypatch) -> Iterator[Peer]:
    """A control client of `machine`, as a bridge is one."""
    folder = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    monkeypatch.setenv("TIMBR_WAMP_RUNTIME_DIR", str(folder))
    machine.serve()
    file = runtime.read_file(folder / f"machine-{os.getpid()}-{machine.name}.json", runtime.MachineFile)
    assert file is not None
    client = Peer(file)
    yield client
    client.close()
    machine.unserve()
    shutil.rmtree(folder)


def test_a_handler_is_set_over_the_wire_by_its_name_and_options(machine, peer, records):
    status: Any = peer.call("handler_set", "RetryHandler", {"retries": 1, "backoff_s": 0.0, "then": "drop"})
    assert status["handler"] == "RetryHandler"
    assert machine.handler.policy.retries == 1
    Faulty("slot").put_into(machine)
    machine.start()
    assert records.wait_for(1)[0].meta.policies == {"f0": "retry 1, drop"}
    event = next(event for event in machine.events() if event.kind == "handler_changed")
    assert (event.author, event.data) == ("ada", {"handler": "RetryHandler"})


@pytest.mark.parametrize(
    "handler",
    [
        "os:system", "builtins:print", "timbr_wamp.machine.events.handlers:RetryHandler", "lambda: 1", "", "__main__",
        "class H(BaseEventHandler): pass",
    ],
)  # fmt: skip
def test_no_code_is_accepted_over_the_wire_as_a_handler(machine, peer, handler):
    with pytest.raises(UnknownPlugin):
        peer.call("handler_set", handler)
    assert type(machine.handler) is BaseEventHandler


def test_options_over_the_wire_are_plain_values(machine, peer):
    with pytest.raises(InvalidArgument, match="take: a plain function"):
        peer.call("handler_set", "DeadLetterHandler", {"take": "os.system"})
    with pytest.raises(InvalidArgument):
        peer.call("handler_set", {"kind": "source", "text": "lambda: 1"})
    assert machine.status.handler == "BaseEventHandler"


def test_a_step_without_messages_says_so_with_a_debugger_too(machines):
    machine = machines(handler="RawEventDebugger")
    with pytest.raises(MachineEmpty):
        machine.get()


def test_a_machine_started_again_does_not_raise_the_earlier_error(machines, caplog):
    machine, faulty = machines(stages=1, handler="RawEventDebugger"), Faulty("slot")
    faulty.put_into(machine)
    machine.start()
    wait_until(lambda: machine.status.state == "stopped", "it does not stop")
    faulty.well = True
    machine.start()
    assert machine.wait(LIMIT_S)
    assert machine.running
    machine.stop()
    assert machine.status.processed == 1
