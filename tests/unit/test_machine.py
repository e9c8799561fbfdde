"""The machine: its states, verbs and counts, as its users see them."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import pickle
import queue
import subprocess
import sys
import threading
import weakref

import cloudpickle
import pytest
from machine_kit import LIMIT_S, MemoryJournal, assert_counts_add_up, in_thread, seqs
from wait_kit import wait_until

from timbr_wamp.errors import (
    CallTimeout,
    InvalidArgument,
    InvalidName,
    MachineClosed,
    MachineEmpty,
    MachineFull,
    MachineRunning,
    NameRemoved,
    PayloadTooLarge,
    RecordNotFound,
    RunMismatch,
    WrongState,
)
from timbr_wamp.machine import AliasedValues, Machine
from timbr_wamp.names import new_oid
from timbr_wamp.user_warnings import NotRunning


def fail(value):
    raise ValueError("on purpose")


def fail_if_odd(n):
    if n % 2:
        raise ValueError(f"{n} is odd")
    return n


def kinds(machine):
    return [event.kind for event in machine.events()]


# --- calling ---------------------------------------------------------------------------------


def test_a_call_returns_id_message_and_values_and_counts_and_publishes_nothing(machine, records):
    machine[0] = lambda x: x**2
    oid, message, *values = machine(14)
    assert (message, values) == (14, [196] * 8)
    assert len(oid) == 24
    status = machine.status
    assert (status.put, status.processed, status.last_seq, status.last_oid) == (0, 0, 0, None)
    assert records.rows == []


def test_a_call_gives_the_texts_too_when_asked(machine):
    machine[0] = lambda x: [x]
    record = machine(14, True)
    assert record.texts == ("14", *["[14]"] * 8)
    assert len(record) == 2 * (2 + 8)
    assert record[10:12] == (record.oid, "14"), "the texts begin with the oid's, as timbr-machine's do"


class OddStatus(Machine):
    """A subclass as in timbr-machine's notebook: its status is a dict."""

    @property
    def status(self):
        return {"Processed": 1}


class FailingStatus(Machine):
    @property
    def status(self):
        raise ValueError("not yet")


@pytest.mark.parametrize("kind", [OddStatus, FailingStatus])
@pytest.mark.parametrize("draw", [repr, str, Machine._repr_html_])
def test_a_repr_never_fails(kind, draw):
    machine = kind(2, serve=False)
    assert draw(machine)
    machine.close()


@pytest.mark.parametrize(("name", "instead"), [("active", "running"), ("print_status", "print")])
def test_a_removed_name_says_what_to_use(machine, name, instead):
    with pytest.raises(AttributeError, match=instead):
        getattr(machine, name)
    assert not hasattr(machine, name)


def test_debug_is_a_method_now_and_no_switch(machine):
    with pytest.raises(NameRemoved, match="handler"):
        machine.debug = True
    assert callable(machine.debug)


@pytest.mark.parametrize("name", ["from_json", "from_project", "load_machine"])
def test_a_removed_class_method_says_what_to_use(name):
    with pytest.raises(NameRemoved, match="load_project"):
        getattr(Machine, name)


@pytest.mark.parametrize("argument", ["clear_buffer", "hard_stop"])
def test_a_removed_argument_of_stop_says_what_to_use(machine, argument):
    with pytest.raises(InvalidArgument, match="was removed"):
        machine.stop(**{argument: True})
    with pytest.raises(TypeError, match="clear_bufer"):
        machine.stop(clear_bufer=True)


@pytest.mark.parametrize("verb", [Machine.wait, lambda m: m.stop(drain=True), lambda m: m.put(1, block=True)])
def test_a_slot_that_would_wait_for_itself_is_refused(machine, records, verb):
    machine.configure(bufsize=1)

    def waits(message):
        machine.put("next") if message == "first" else None
        return verb(machine) if message == "first" else message

    machine[0] = waits
    machine.put("first")
    machine.start()
    records.wait_for(2)
    assert [row.exc_class for row in machine.errors] == ["WouldDeadlock"]


def test_a_call_works_in_every_state(machine, gate):
    machine[0] = lambda x: x + 1
    machine.start()
    assert machine(1).values[0] == 2
    machine.pause()
    assert machine(1).values[0] == 2
    machine.stop()
    assert machine(1).values[0] == 2


def test_a_failing_call_returns_a_record_of_the_failure(machine):
    machine[0] = fail
    machine[1] = lambda f0: f0
    record = machine(1)
    assert record.errored
    assert [outcome.kind for outcome in record.outcomes[:2]] == ["error", "skipped"]
    assert machine.status.errored == 0


def test_a_call_warns_when_two_slots_return_one_object_changed_in_between(machine):
    def change(value):
        value.append(1)
        return value

    machine[0] = lambda x: []
    machine[1] = change
    with pytest.warns(AliasedValues, match="f0 and f1"):
        record = machine(0, include_serialized=True)
    assert record.texts[1:3] == ("[]", "[1]")


def test_a_call_does_not_warn_of_one_object_that_nobody_changed(machine):
    machine[0] = lambda x: [x]
    machine[1] = lambda f0: f0
    assert machine(1).values[1] == [1]


# --- putting ---------------------------------------------------------------------------------


def test_every_put_message_gets_a_record_with_its_id_in_order(machine, records):
    oids = [machine.put(n) for n in range(200)]
    machine.start()
    seen = records.wait_for(200)
    assert [record.oid for record in seen] == oids
    assert seqs(seen) == list(range(1, 201))
    assert [record.input for record in seen] == list(range(200))
    assert {record.run for record in seen} == {machine.run}


def test_a_put_into_a_full_queue_raises_as_queues_do_and_is_counted_apart(machines):
    machine = machines(bufsize=2)
    machine.put(1), machine.put(2)
    with pytest.raises(queue.Full):
        machine.put(3)
    with pytest.raises(MachineFull, match=r"the queue is full \(2 messages\)"):
        machine.put(3, block=True, timeout=0.01)
    status = machine.status
    assert (status.put, status.refused, status.queue_size, status.queue_capacity) == (2, 2, 2, 2)


def test_a_blocking_put_waits_for_room(machines, records):
    machine = machines(bufsize=1, sinks=[records])
    machine.put(1)
    putting = in_thread(machine.put, 2, block=True)
    machine.start()
    oid = putting.result()
    assert [record.input for record in records.wait_for(2)] == [1, 2]
    assert records.records[-1].oid == oid


def test_a_blocking_put_gets_in_when_one_message_is_stepped(machines):
    machine = machines(bufsize=10)
    for n in range(10):
        machine.put(n)
    putting = in_thread(machine.put, "late", block=True)
    machine.get()
    assert putting.result()
    assert machine.status.queue_size == 10


def test_a_known_id_is_put_once_and_its_second_put_returns_it(machine, records):
    oid = new_oid()
    assert machine.put("a", oid=oid) == oid
    assert machine.put("b", oid=oid) == oid
    machine.start()
    assert machine.wait(LIMIT_S)
    assert machine.put("c", oid=oid) == oid
    assert [record.input for record in records.records] == ["a"]
    assert machine.status.put == 1


def test_an_invalid_id_is_refused(machine):
    with pytest.raises(InvalidName):
        machine.put(1, oid="mine")
    assert machine.status.put == 0


def test_closing_ends_a_blocking_put(machines):
    machine = machines(bufsize=1)
    machine.put(1)
    putting = in_thread(machine.put, 2, block=True)
    machine.close()
    with pytest.raises(MachineClosed):
        putting.result()


# --- stepping --------------------------------------------------------------------------------


def test_get_steps_one_message_numbered_and_published(machine, records):
    machine[0] = lambda x: {"v": x}
    oid = machine.put(1)
    machine.put(2)
    step = machine.get()
    assert step == (oid, "1", *['{"v":1}'] * 8)
    assert seqs(records.records) == [1]
    status = machine.status
    assert (status.processed, status.queue_size, status.state, status.last_oid) == (1, 1, "idle", oid)


def test_get_raises_as_queues_do_when_nothing_waits(machine):
    with pytest.raises(queue.Empty):
        machine.get()
    with pytest.raises(MachineEmpty):
        machine.get(block=True, timeout=0.01)


def test_get_waits_for_a_put_when_asked(machine):
    step = in_thread(machine.get, block=True, timeout=LIMIT_S)
    machine.put(5)
    assert step.result()[1] == "5"


def test_get_without_a_limit_waits_for_a_put_and_ends_with_the_machine(machine):
    step = in_thread(machine.get, block=True, timeout=None)
    machine.put(5)
    assert step.result()[1] == "5"
    step = in_thread(machine.get, block=True, timeout=None)
    machine.close()
    with pytest.raises(MachineClosed):
        step.result()


def test_hooks_see_each_message_of_put_many_once_also_those_that_wait_for_room(machines):
    machine, seen = machines(1, bufsize=2), []
    machine.hooks.add("pre_put", seen.append)
    assert machine.put_many(iter("abcd"), timeout_s=0.01).refused == 2
    assert seen == ["a", "b"]
    machine.start()
    assert machine.put_many(["c", "d", "e", "f"], timeout_s=LIMIT_S).refused == 0
    assert seen == list("abcdef")


def test_a_running_machine_is_not_stepped(machine):
    machine.start()
    with pytest.raises(MachineRunning, match="pause"):
        machine.get()
    machine.pause()
    machine.put(1)
    assert machine.get()[1] == "1"


def test_starting_ends_a_step_that_waits_and_no_record_is_lost(machine, records):
    step = in_thread(machine.get, block=True, timeout=30.0)
    machine.start()
    machine.put(1)
    records.wait_for(1)
    with contextlib.suppress(MachineEmpty, MachineRunning):
        step.result()
    assert seqs(records.records) == [1]


def test_steps_of_several_threads_return_each_its_own_record(machine):
    oids = [machine.put(n) for n in range(200)]
    seen: list[tuple[str, ...]] = []

    def step_all():
        try:
            while True:
                seen.append(machine.get())
        except MachineEmpty:
            return

    for step in [in_thread(step_all) for _ in range(4)]:
        step.result()
    assert sorted(step[0] for step in seen) == sorted(oids)
    assert sorted(int(step[1]) for step in seen) == list(range(200))
    assert [record.oid for record in machine.recent(200)] == oids


def test_a_ctrl_c_while_stepping_gives_the_message_back(machine):
    def interrupted(value):
        raise KeyboardInterrupt

    machine[0] = interrupted
    oid = machine.put(1)
    with pytest.raises(KeyboardInterrupt):
        machine.get()
    status = machine.status
    assert (status.queue_size, status.in_flight, status.put) == (1, 0, 1)
    del machine[0]
    assert machine.get()[0] == oid


# --- states ----------------------------------------------------------------------------------


def test_a_machine_goes_through_its_states(machine):
    assert machine.status.state == "idle"
    assert not machine.running
    machine.start()
    assert machine.status.state == "running"
    assert machine.running
    machine.pause()
    assert machine.status.state == "paused"
    assert not machine.running
    machine.resume()
    machine.stop()
    assert machine.status.state == "stopped"
    machine.start()
    machine.close()
    assert not machine.running
    assert kinds(machine) == ["started", "paused", "resumed", "stopped", "started", "stopped", "closed"]


@pytest.mark.parametrize(
    ("before", "verb"),
    [("idle", "pause"), ("idle", "resume"), ("stopped", "pause"), ("stopped", "resume")],
)
def test_a_verb_that_the_state_does_not_allow_is_refused(machine, before, verb):
    if before == "stopped":
        machine.start(), machine.stop()
    with pytest.raises(WrongState, match=before):
        getattr(machine, verb)()
    assert machine.status.state == before


def test_verbs_that_change_nothing_add_no_event(machine):
    machine.start(), machine.start()
    machine.resume()
    machine.pause(), machine.pause()
    machine.stop(), machine.stop()
    assert kinds(machine) == ["started", "paused", "stopped"]


def test_the_author_of_a_verb_is_in_its_event(machine):
    machine.start(author="ada")
    machine.stop(author="bob")
    assert [event.author for event in machine.events()] == ["ada", "bob"]
    assert [event.number for event in machine.events()] == [1, 2]


def test_stopping_and_starting_in_quick_sequence_leaves_it_running(machine, records):
    for n in range(100):
        machine.start()
        machine.put(n)
        if n % 3 == 0:
            machine.pause()
            machine.resume()
        machine.stop()
        assert not machine.running
        machine.start()
        assert machine.running
    assert machine.wait(LIMIT_S)
    assert [record.input for record in records.wait_for(100)] == list(range(100))


def test_verbs_of_many_threads_at_once_lose_nothing(machine, records):
    def shake(seed: int) -> None:
        for n in range(60):
            verb = ("start", "pause", "resume", "stop")[(n * seed) % 4]
            try:
                getattr(machine, verb)()
            except (WrongState, CallTimeout):
                continue

    shaking = [in_thread(shake, seed) for seed in (1, 3, 5, 7)]
    for n in range(1000):
        machine.put(n)
    for shake_ in shaking:
        shake_.result(20.0)
    machine.stop()
    machine.start()
    assert machine.wait(LIMIT_S)
    assert [record.input for record in records.wait_for(1000)] == list(range(1000))


def test_pausing_gives_back_what_was_not_started(machine, gate, records):
    machine[0] = gate
    oids = [machine.put(n) for n in range(10)]
    machine.start()
    gate.wait_until_entered()
    machine.pause()
    assert machine.status.current_oid == oids[0]
    gate.let_one_pass()
    records.wait_for(1)
    wait_until(lambda: machine.status.in_flight == 0, "the rest was given back")
    status = machine.status
    assert (status.processed, status.queue_size, status.current_oid) == (1, 9, None)
    gate.open()
    machine.resume()
    assert [record.oid for record in records.wait_for(10)] == oids


def test_stopping_keeps_the_queue(machine, gate, records):
    machine[0] = gate
    for n in range(10):
        machine.put(n)
    machine.start()
    gate.wait_until_entered()
    stopping = in_thread(machine.stop)
    wait_until(lambda: machine.status.state == "stopped", "it stops")
    gate.let_one_pass()
    stopping.result()
    assert machine.status.queue_size == 9
    gate.open()
    machine.start()
    assert [record.input for record in records.wait_for(10)] == list(range(10))


def test_draining_finishes_what_waits_first(machine, gate, records):
    machine[0] = gate
    for n in range(100):
        machine.put(n)
    machine.start()
    gate.wait_until_entered()
    stopping = in_thread(machine.stop, drain=True)
    wait_until(lambda: machine.status.state == "draining", "it drains")
    assert machine.running
    with pytest.raises(WrongState, match="draining"):
        machine.start()
    with pytest.raises(MachineRunning):
        machine.get()
    gate.open()
    stopping.result()
    assert len(records.rows) == 100
    assert machine.status.state == "stopped"


def test_stopping_says_when_a_message_is_still_under_way_and_records_it_when_it_ends(machine, gate, records):
    machine[0] = gate
    machine.put(1)
    machine.start()
    gate.wait_until_entered()
    with pytest.raises(CallTimeout, match="under way"):
        machine.stop(timeout=0.01)
    assert machine.status.state == "stopped"
    assert not machine.running
    assert kinds(machine) == ["slot_changed", "started", "stopped"]
    gate.open()
    records.wait_for(1)


def test_a_machine_may_be_started_again_while_the_message_that_outlived_stop_is_under_way(machine, gate, records):
    machine[0] = gate
    machine.put(1), machine.put(2)
    machine.start()
    gate.wait_until_entered()
    with pytest.raises(CallTimeout):
        machine.stop(timeout=0.01)
    machine.start()
    gate.open()
    assert [record.input for record in records.wait_for(2)] == [1, 2]


def test_a_slot_may_pause_stop_and_close_its_own_machine(machine, records):
    for verb in ("pause", "stop", "close"):
        machine[0] = lambda value, verb=verb: getattr(machine, verb)()
        machine.put(verb)
        machine.put("rest")
        before = len(records.rows)
        machine.start()
        records.wait_for(before + 1)
        wait_until(lambda: machine.status.in_flight == 0, "the rest was given back")
        if verb != "close":
            del machine[0]
            machine.start()
            assert machine.wait(LIMIT_S)
            machine.stop()
    assert machine.status.queue_size == 1
    assert machine.status.errored == 0


def test_a_record_is_published_though_the_next_message_takes_long(machine, gate, records):
    machine[0] = lambda n: gate(n) if n == 2 else n
    machine.put(1), machine.put(2), machine.put(3)
    machine.start()
    gate.wait_until_entered()
    assert [record.input for record in records.wait_for(1)] == [1]
    assert_counts_add_up(machine.status)
    gate.open()
    assert seqs(records.wait_for(3)) == [1, 2, 3]


@pytest.mark.parametrize(("verbs", "told"), [((), "idle.*: start"), (("start", "pause"), "paused.*: resume"),
                                             (("start", "stop"), "stopped.*: start")])  # fmt: skip
def test_waiting_for_messages_of_a_machine_that_does_not_run_ends_at_once_and_warns_each_time(machine, verbs, told):
    for verb in verbs:
        getattr(machine, verb)()
    machine.put(1)
    for _ in range(2):
        with pytest.warns(NotRunning, match=told) as warned:
            assert machine.wait() is False
        assert warned[0].filename == __file__


def test_waiting_for_what_a_policy_or_nothing_holds_back_does_not_warn(machine):
    assert machine.wait(LIMIT_S), "nothing was put"
    machine.set(0, fail, policy="stop")
    machine.put(1)
    machine.start()
    wait_until(lambda: machine.status.state == "stopped", "the policy stops it")
    assert machine.wait(LIMIT_S) is False


def test_waiting_ends_when_all_is_recorded(machine, gate):
    assert machine.wait(0.0)
    machine[0] = gate
    machine.put(1)
    machine.start()
    assert not machine.wait(0.01)
    waiting = in_thread(machine.wait)
    gate.open()
    assert waiting.result() is True


def test_waiting_for_a_machine_that_a_policy_paused_ends_when_what_was_under_way_is_recorded(machines):
    class SlowJournal(MemoryJournal):
        room = threading.Event()

        def commit(self, commit):
            assert self.room.wait(LIMIT_S)

    journal = SlowJournal()
    machine = machines(journal=journal, on_error="pause")
    machine[0] = lambda number: 1 // number
    machine.put(1)
    machine.put(0)
    machine.start()
    wait_until(lambda: machine.status.state == "paused", "not paused")
    returned = threading.Event()
    waiting = in_thread(lambda: (machine.wait(), returned.set()))
    assert not returned.wait(0.05)
    journal.room.set()
    assert waiting.result()[0] is False
    status = machine.status
    assert (status.processed, status.queue_size, status.in_flight) == (1, 1, 0)


def test_running_is_false_when_the_thread_died_and_what_it_had_taken_is_not_lost(machines, records, caplog):
    journal = MemoryJournal()
    machine = machines(journal=journal, sinks=[records], hooks=[records])
    oids = [machine.put(n) for n in range(10)]
    journal.error = RuntimeError("a bug")
    machine.start()
    records.wait_for_event("failed")
    status = machine.status
    assert (status.state, status.running, status.reason) == ("failed", False, "RuntimeError: a bug")
    assert (status.queue_size, status.in_flight, status.processed) == (10, 0, 0)
    assert records.rows == []
    journal.error = None
    machine.start()
    assert machine.running
    assert machine.status.reason is None
    records.wait_for(10)
    assert [row[1] for row in journal.rows] == oids == [record.oid for record in records.records]


def test_a_failed_machine_can_be_started_at_the_very_moment_it_fails(machines, records, caplog):
    """The thread that fails is alive a moment longer than its state says."""
    journal = MemoryJournal()

    class StartsAgain:
        def on_event(self, event):
            if event.kind == "failed":
                journal.error = None
                machine.start()

    machine = machines(journal=journal, sinks=[records], hooks=[StartsAgain()])
    machine.put(1)
    journal.error = RuntimeError("a bug")
    machine.start()
    records.wait_for(1)
    assert machine.running


# --- counts ----------------------------------------------------------------------------------


def test_before_the_first_message_nothing_was_processed_last(machine, clock):
    status = machine.status
    assert status.last_oid is None
    assert status.current_oid is None
    assert status.last_processed_time is None
    assert status.rate_per_s == (0.0, 0.0, 0.0)
    assert status.source.state == "none"
    assert status.slots == []


def test_status_has_the_time_of_the_machines_clock(machines, clock):
    machine = machines(clock=clock)
    clock.advance(10.0)
    machine.put(1)
    clock.advance(5.0)
    machine.get()
    status = machine.status
    assert (status.uptime_s, status.time, status.last_processed_time) == (15.0, clock(), clock())
    record = machine.recent(1)[0]
    assert (record.received_at, record.finished_at) == (clock() - 5.0, clock())


def test_counts_add_up_at_every_instant(machine, records):
    machine[0] = fail_if_odd
    machine.start()
    writing = in_thread(lambda: [machine.put(n, block=True) for n in range(3000)])
    for _ in range(500):
        assert_counts_add_up(machine.status)
    writing.result(20.0)
    assert machine.wait(LIMIT_S)
    status = machine.status
    assert (status.put, status.processed, status.errored, status.last_seq) == (3000, 1500, 1500, 3000)
    assert len(records.wait_for(3000)) == 3000


def test_a_failing_sink_loses_no_record(machines, records, caplog):
    class Broken:
        def publish(self, rows):
            raise RuntimeError("on purpose")

    machine = machines(sinks=[Broken(), records])
    machine.put(1)
    machine.start()
    records.wait_for(1)
    assert machine.running
    assert "on purpose" in caplog.text


def test_a_hook_that_fails_is_isolated_and_counted(machines, records, caplog):
    class Broken:
        def on_event(self, event):
            raise RuntimeError("on purpose")

    machine = machines(hooks=[Broken(), records])
    machine.start()
    records.wait_for_event("started")
    assert machine.status.hook_failures == 1


# --- errors, retries, replays ---------------------------------------------------------------------------


def test_an_error_has_slot_message_and_traceback(machine):
    machine.set(0, fail, name="check")
    machine[1] = lambda f0: f0
    oid = machine.put({"mag": 3})
    machine.get()
    (error,) = machine.errors
    assert (error.oid, error.slot, error.task, error.exc_class) == (oid, 0, "f0 (check)", "ValueError")
    assert (error.exc_value, error.input, error.seq, error.attempt) == ("on purpose", '{"mag":3}', 1, 1)
    assert 'raise ValueError("on purpose")' in error.exc_tb
    assert not error.resolved
    record = machine.recent(1)[0]
    assert record.errored
    assert [outcome.kind for outcome in record.outcomes[:3]] == ["error", "skipped", "skipped"]
    counts = machine.status.slots
    assert [(c.calls, c.errors, c.skipped) for c in counts] == [(1, 1, 0), (0, 0, 1)]


def test_an_errored_message_is_retried_as_the_next_attempt_and_resolved(machine, records):
    machine[0] = fail_if_odd
    oids = [machine.put(n) for n in range(4)]
    machine.start()
    assert machine.wait(LIMIT_S)
    assert machine.status.errored == 2
    machine[0] = lambda n: -n
    assert machine.retry_errors() == [oids[1], oids[3]]
    assert machine.wait(LIMIT_S)
    again = records.wait_for(6)[4:]
    assert [(r.oid, r.attempt, r.values[0], r.errored) for r in again] == [
        (oids[1], 2, -1, False),
        (oids[3], 2, -3, False),
    ]
    assert all(error.resolved for error in machine.errors)
    status = machine.status
    assert (status.put, status.processed, status.errored) == (6, 4, 2)
    assert machine.retry_errors() == []


def test_only_the_named_messages_are_retried(machine):
    machine[0] = fail
    oids = [machine.put(n) for n in range(3)]
    for _ in oids:
        machine.get()
    assert machine.retry_errors([oids[1], new_oid()]) == [oids[1]]
    assert machine.get()[0] == oids[1]
    assert [(error.oid, error.attempt) for error in machine.errors][-1] == (oids[1], 2)
    assert machine.retry_errors() == [oids[0], oids[2], oids[1]]
    with pytest.raises(InvalidName):
        machine.retry_errors(["mine"])


def test_errors_that_found_no_room_can_be_retried_later(machines):
    machine = machines(bufsize=2)
    machine[0] = fail
    oids = []
    for n in range(4):
        oids.append(machine.put(n))
        machine.get()
    del machine[0]
    machine.put("a"), machine.put("b")
    with pytest.raises(MachineFull):
        machine.retry_errors()
    machine.get()
    assert machine.retry_errors() == oids[:1], "there was room for one"
    machine.get(), machine.get()
    assert machine.retry_errors() == oids[1:3]
    machine.get(), machine.get()
    assert machine.retry_errors() == oids[3:]
    machine.get()
    assert all(error.resolved for error in machine.errors)


def test_a_record_is_replayed_under_its_id_as_the_next_attempt(machine):
    machine[0] = lambda x: x + 1
    oid = machine.put(1)
    machine.get()
    machine[0] = lambda x: x + 2
    assert machine.replay(machine.run, [1, 1]) == [oid, oid]
    machine.get(), machine.get()
    assert [(r.oid, r.seq, r.attempt, r.values[0], r.revision) for r in machine.recent(9)] == [
        (oid, 1, 1, 2, 1),
        (oid, 2, 2, 3, 2),
        (oid, 3, 3, 3, 2),
    ]


def test_replays_of_many_threads_have_each_their_own_attempt(machine):
    oid = machine.put(1)
    machine.get()
    for replaying in [in_thread(lambda: [machine.replay(machine.run, [1]) for _ in range(50)]) for _ in range(4)]:
        replaying.result()
    while machine.status.queue_size:
        machine.get()
    attempts = [record.attempt for record in machine.recent(1000)]
    assert sorted(attempts) == list(range(1, 202))
    assert {record.oid for record in machine.recent(1000)} == {oid}


def test_only_kept_records_of_the_present_run_are_replayed(machine):
    machine.put(1)
    machine.get()
    with pytest.raises(RunMismatch):
        machine.replay("0" * 16, [1])
    with pytest.raises(RecordNotFound, match="records 1 to 1 are kept"):
        machine.replay(machine.run, [1, 2])
    assert machine.status.queue_size == 0, "all or nothing"


def test_replaying_into_a_full_queue_returns_what_was_queued(machines):
    machine = machines(bufsize=2)
    for n in range(3):
        machine.put(n)
        machine.get()
    assert len(machine.replay(machine.run, [1, 2, 3])) == 2
    with pytest.raises(MachineFull):
        machine.replay(machine.run, [3])


def test_a_message_too_large_to_be_kept_whole_is_not_replayed_as_its_placeholder(machine):
    machine.put("x" * 17_000_000)
    machine.get()
    record = machine.recent(1)[0]
    assert record.input == {"__type__": "text", "__too_large__": 17_000_002}
    with pytest.raises(PayloadTooLarge):
        machine.replay(machine.run, [1])


def test_recent_records_come_oldest_first(machine):
    for n in range(5):
        machine.put(n)
        machine.get()
    assert [record.input for record in machine.recent(3)] == [2, 3, 4]
    assert machine.recent(0) == []


# --- making, configuring, ending -------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "My Machine", "a.b", "state", "execute"])
def test_a_name_that_cannot_be_part_of_a_uri_is_refused(name):
    with pytest.raises((InvalidName, InvalidArgument)):
        Machine(name=name, serve=False)


def test_capacity_and_slots_change_live(machine, records):
    machine.start()
    machine.configure(bufsize=5, stages=10)
    assert machine.status.queue_capacity == 5
    assert len(machine) == 10
    machine.put(1)
    assert len(records.wait_for(1)[0].values) == 10
    machine.configure(stages=10)
    assert machine.revision == 1, "the same number is no change"
    with pytest.raises(InvalidArgument):
        machine.configure(bufsize=0)


def test_closing_is_idempotent_and_refuses_everything_afterwards(machine):
    machine.start()
    machine.put(1)
    machine.close()
    machine.close()
    assert kinds(machine).count("closed") == 1
    for attempt in (machine.start, machine.get, machine.serve, lambda: machine.put(1)):
        with pytest.raises(MachineClosed):
            attempt()
    assert machine.status.state == "stopped"


def test_closing_is_bounded_while_a_message_is_under_way(machine, gate, caplog):
    machine[0] = gate
    machine.put(1)
    machine.start()
    gate.wait_until_entered()
    in_thread(machine.close, 0.05).result(2.0)
    assert "still under way" in caplog.text
    gate.open()
    wait_until(lambda: machine.status.in_flight == 0, "it was recorded nevertheless")
    assert machine.status.processed == 1


def test_leaving_the_with_block_closes():
    with Machine(serve=False) as machine:
        machine.start()
    assert not machine.running


def test_an_unreferenced_machine_that_never_ran_is_collected():
    machine = Machine(serve=False)
    machine.source = (n for n in range(10))
    machine.put(1)
    machine.get()
    gone = weakref.ref(machine)
    del machine
    gc.collect()
    wait_until(lambda: gc.collect() is not None and gone() is None, "it is gone")
    assert gone() is None


def test_a_stopped_machine_is_collected(machines):
    machine = Machine(serve=False)
    machine.source = [1, 2, 3]
    machine.start()
    assert machine.wait(LIMIT_S)
    machine.stop()
    gone = weakref.ref(machine)
    del machine
    wait_until(lambda: gc.collect() is not None and gone() is None, "it is gone")
    assert gone() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_knows_that_its_copy_does_not_run(machine):
    machine.start()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, str(machine.running).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 100) == b"False"
    os.close(read), os.close(write)
    assert machine.running


def test_a_machine_says_what_it_is(machine):
    machine.put(1)
    assert repr(machine) == "<Machine 'machine' idle: 0 processed, 0 errored, 1 queued, revision 0>"


def test_a_program_that_ends_with_a_running_machine_ends_quietly():
    code = (
        "from timbr_wamp import Machine\nm = Machine(serve=False)\nm[0] = lambda x: x\n"
        "m.source = iter(int, 1)\nm.start()\nimport time\n"
        "while m.status.processed < 1000: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_memory_does_not_grow_with_messages(machine):
    machine[0] = fail_if_odd
    machine.start()

    def run(count: int) -> int:
        for n in range(count):
            machine.put({"n": n}["n"], block=True)
        assert machine.wait(20.0)
        gc.collect()
        return len(gc.get_objects())

    run(3000)
    before = run(3000)
    assert run(3000) - before < 500


def test_threads_of_a_closed_machine_are_gone(machine):
    before = set(threading.enumerate())
    machine.source = (n for n in range(10))
    machine.start()
    assert machine.wait(LIMIT_S)
    assert set(threading.enumerate()) - before
    machine.close()
    wait_until(lambda: not set(threading.enumerate()) - before, "threads ended")


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps, cloudpickle.dumps])
def test_a_machine_is_not_copied_and_says_so(machine, copied):
    with pytest.raises(TypeError, match="a Machine cannot be copied or pickled"):
        copied(machine)


def test_closing_with_a_time_that_is_none_leaves_the_machine_open(machine):
    with pytest.raises(InvalidArgument, match="'soon' is not a number of seconds"):
        machine.close("soon")
    machine.put(1)


def test_the_repr_of_a_subclass_whose_status_raises_anything_is_its_name():
    class Broken(Machine):
        @property
        def status(self):
            raise SystemExit("no status")

    with Broken(1, serve=False) as machine:
        assert repr(machine) == str(machine) == machine._repr_html_() == "Broken"


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_a_clock_that_raises_costs_no_message(machines, records, executor):
    raising = False

    def clock() -> float:
        nonlocal raising
        if raising and threading.current_thread().name == "timbr machine":
            raising = False
            raise SystemExit("no time")
        return 1.0

    machine = machines(stages=1, sinks=[records], executor=executor, clock=clock)
    machine[0] = str

    def break_clock(oid: str, message: object) -> None:
        nonlocal raising
        raising = message == 50

    machine.hook("pre_message", break_clock)
    for message in range(100):
        machine.put(message)
    machine.start()
    assert not machine.wait(LIMIT_S)
    assert (machine.status.state, machine.status.in_flight) == ("failed", 0)
    assert_counts_add_up(machine.status)
