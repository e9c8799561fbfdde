"""What became of a message, which messages are meant, and running them again: records, trials, canaries."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from machine_kit import LIMIT_S, MemoryJournal, in_thread
from wait_kit import wait_until

from timbr_wamp.errors import (
    CanaryFailed,
    InvalidArgument,
    InvalidName,
    MachineFull,
    NothingToDebug,
    RunMismatch,
    UnknownErrorGroup,
    UnknownMessage,
    UnknownRevision,
    WouldDeadlock,
    WrongState,
)
from timbr_wamp.names import new_oid


def shaking(quake: dict[str, float]) -> float:
    return 1 / quake["mag"]


@pytest.fixture
def failing(machines):
    """A machine whose slot 1 failed for each third of nine messages."""
    machine = machines(stages=4)
    machine.set(0, lambda event: {"mag": event["mag"] * 2}, name="clean")
    machine[1] = shaking
    machine.oids = [machine.put({"mag": n % 3}) for n in range(9)]
    machine.start()
    assert machine.wait(LIMIT_S)
    return machine


# --- lookup ---


def test_a_lookup_shows_each_slot_of_each_attempt(failing):
    oid = failing.oids[0]
    failing[1] = lambda quake: 0.0
    failing.retry_errors([oid])
    assert failing.wait(LIMIT_S)
    found = failing.lookup(oid)
    first, second = found.attempts
    assert (found.message, found.state, found.run) == ({"mag": 0}, "processed", failing.run)
    assert [(one.slot, one.name, one.kind) for one in first.slots] == [
        (0, "clean", "value"), (1, None, "error"), (2, None, "carried"), (3, None, "carried"),
    ]  # fmt: skip
    assert first.failure is not None
    assert first.failure.value["_exception"]["exc_class"] == "ZeroDivisionError"
    assert (first.state, first.attempt, first.revision) == ("errored", 1, 2)
    assert (second.state, second.attempt, second.revision, second.failure) == ("processed", 2, 3, None)
    assert first.finished_at is not None
    assert first.received_at <= first.finished_at <= second.finished_at
    assert [one.value for one in second.slots[:2]] == [{"mag": 0}, 0.0]


def test_a_lookup_has_short_faces(failing):
    found = failing.lookup(failing.oids[0])
    for shown in (str(found), found._repr_html_()):
        assert "ZeroDivisionError" in shown
        assert found.oid in shown
    assert "\nf2" not in str(found), "an unset slot says nothing"


def test_a_message_that_waits_or_is_under_way_can_be_looked_up(machine, gate):
    machine[0] = gate
    first, second = machine.put("first"), machine.put("second")
    assert machine.lookup(second).state == "waiting"
    machine.start()
    gate.wait_until_entered()
    found = machine.lookup(first)
    assert (found.state, found.message, found.attempts[0].seq) == ("in_flight", "first", 0)
    assert "in flight" in str(found)
    assert "in flight" in found._repr_html_()
    gate.open()
    assert machine.wait(LIMIT_S)
    assert [machine.lookup(oid).state for oid in (first, second)] == ["processed", "processed"]


def test_a_message_that_waits_for_its_retry_is_in_flight(machines):
    machine = machines(on_error={"retries": 1, "backoff_s": 60.0}, concurrency=4)
    tried = threading.Event()

    async def fails(message: object) -> None:
        tried.set()
        raise ValueError(message)

    machine[0] = fails
    oid = machine.put("m")
    machine.start()
    wait_until(lambda: machine.status.retrying == 1, "it waits for its retry")
    assert machine.lookup(oid).state == "in_flight"
    machine.stop()
    assert machine.lookup(oid).state == "waiting"


def test_a_replayed_message_that_waits_has_both_attempts(failing):
    failing.pause()
    oid = failing.oids[1]
    failing.replay(oid)
    assert [(one.attempt, one.state) for one in failing.lookup(oid).attempts] == [(1, "processed"), (2, "waiting")]
    failing.resume()


def test_a_dropped_message_says_so(machines):
    machine = machines(on_error="drop")
    machine[0] = shaking
    oid = machine.put({"mag": 0})
    machine.get()
    assert machine.lookup(oid).state == "dropped"


def test_a_message_that_nobody_put_is_unknown(machine):
    with pytest.raises(UnknownMessage, match="never put"):
        machine.lookup(new_oid())
    with pytest.raises(InvalidName):
        machine.lookup("x")


def test_a_lookup_finds_what_an_earlier_process_did(machines):
    journal = MemoryJournal()
    first = machines(journal=journal)
    first.set(0, shaking, name="shaking", reason="the first one")
    oid, waits = first.put({"mag": 0}), first.put({"mag": 1})
    first.get()
    again = machines(journal=journal.reopened())
    assert again.lookup(oid).attempts[0].slots[0].name == "shaking"
    assert again.lookup(waits).state == "waiting"


# --- which messages ---


def test_messages_are_named_by_id_ids_range_and_group(failing):
    (group,) = failing.error_groups
    errored = failing.oids[::3]
    failing.pause()
    assert failing.replay(failing.oids[4]) == [failing.oids[4]]
    assert failing.replay(failing.oids[:2]) == failing.oids[:2]
    assert failing.replay(range(3, 5)) == failing.oids[2:4]
    assert failing.replay(failing.run, [9]) == [failing.oids[8]]
    for name in (group, group.key, "f1", "1", "f1:ZeroDivisionError"):
        assert failing.replay(group=name) == errored
    assert failing.replay(group) == errored
    failing.resume()
    assert failing.wait(LIMIT_S)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda m: m.replay(new_oid()), UnknownMessage),
        (lambda m: m.replay(group="f1:KeyError"), UnknownErrorGroup),
        (lambda m: m.replay(group="no such slot"), UnknownErrorGroup),
        (lambda m: m.replay("0" * 16, [1]), RunMismatch),
        (lambda m: m.replay(), InvalidArgument),
        (lambda m: m.replay(m.oids[0], group="f1"), InvalidArgument),
        (lambda m: m.replay(m.oids[0], revision=1), InvalidArgument),
        (lambda m: m.replay(m.oids[0], with_values={0: 1}), InvalidArgument),
        (lambda m: m.replay(m.oids[0], into="somewhere"), InvalidArgument),
        (lambda m: m.replay(m.oids[0], into="trial", revision=77), UnknownRevision),
        (lambda m: m.retry_errors(["0" * 24], group="f1"), InvalidArgument),
        (lambda m: m.retry_errors(canary=-1), InvalidArgument),
        (lambda m: m.lookup(5), InvalidName),
    ],
)
def test_what_cannot_be_run_again_is_a_clear_error_and_puts_nothing(failing, call, error):
    before = failing.status.put
    with pytest.raises(error):
        call(failing)
    assert failing.status.put == before


def test_an_unknown_group_names_those_that_there_are(failing):
    with pytest.raises(UnknownErrorGroup, match="f1:ZeroDivisionError"):
        failing.retry_errors(group="f1:ZeroDivision")


# --- into a trial ---


def test_a_replay_into_a_trial_shows_what_another_revision_would_give_and_records_nothing(failing):
    failing[1] = lambda quake: 0.0
    before = failing.status
    report = failing.replay(failing.oids[:2], into="trial")
    assert [row.outcome for row in report] == ["mended", "changed"]
    assert report[1].changes == ["f1: 0.5 → 0.0"]
    old = failing.replay(failing.oids[:2], into="trial", revision=2)
    assert [row.outcome for row in old] == ["same", "same"]
    after = failing.status
    assert (after.put, after.last_seq, after.revision) == (before.put, before.last_seq, before.revision)
    with pytest.raises(InvalidArgument, match="rollback"):
        old.commit()


def test_values_can_stand_in_for_slots_in_a_trial(failing):
    report = failing.replay(failing.oids[0], into="trial", with_values={"clean": {"mag": 4}})
    assert (report[0].outcome, report[0].text) == ("mended", '[{"mag":4},0.25]')


# --- retries by group, with canaries ---


def test_a_group_is_retried_alone(machines):
    machine = machines(stages=2)
    machine[0] = lambda x: 1 / x
    machine[1] = lambda x: {1.0: "one"}[x]
    zero, two = machine.put(0), machine.put(0.5)
    machine.start()
    assert machine.wait(LIMIT_S)
    assert machine.retry_errors(group="f1") == [two]
    assert machine.retry_errors(group="f0:ZeroDivisionError") == [zero]
    assert machine.wait(LIMIT_S)


def test_the_rest_follows_when_the_canaries_passed(failing):
    failing[1] = lambda quake: 0.0
    seen: list[Any] = []
    assert failing.retry_errors(canary=1, on_progress=seen.append) == failing.oids[::3]
    assert failing.wait(LIMIT_S)
    assert all(group.resolved for group in failing.error_groups)
    assert (seen[-1].phase, seen[-1].done, seen[-1].total) == ("canary", 1, 1)


def test_when_a_canary_fails_the_rest_stays_and_can_be_retried_later(failing):
    with pytest.raises(CanaryFailed, match="ZeroDivisionError") as caught:
        failing.retry_errors(group="f1", canary=1)
    assert (caught.value.oids, caught.value.left) == ((failing.oids[0],), 2)
    assert failing.status.put == 10
    failing[1] = lambda quake: 0.0
    assert sorted(failing.retry_errors(canary=2)) == sorted(failing.oids[::3])
    assert failing.wait(LIMIT_S)


@pytest.mark.parametrize("policy", ["drop", "pause"])
def test_a_canary_that_a_policy_ends_has_failed(failing, policy):
    failing.set_policy(1, policy)
    with pytest.raises(CanaryFailed):
        failing.retry_errors(canary=1, timeout=LIMIT_S)
    assert failing.status.put == 10


def test_canaries_need_a_machine_that_runs_and_have_a_limit(failing, gate):
    failing[1] = gate
    with pytest.raises(CanaryFailed, match="not finished in time"):
        failing.retry_errors(canary=1, timeout=0.05)
    gate.open()
    failing.stop()
    with pytest.raises(WrongState, match="running"):
        failing.retry_errors(canary=1)


def test_a_slot_cannot_wait_for_canaries(machine):
    machine[0] = lambda x: machine.retry_errors(canary=1)
    machine.put(1)
    machine.get()
    assert machine.errors[0].exc_class == WouldDeadlock.__name__


def test_the_rest_waits_for_room(machines):
    machine = machines(stages=1, bufsize=4)
    machine[0] = shaking
    machine.start()
    for _ in range(30):
        machine.put({"mag": 0}, block=True, timeout=LIMIT_S)
    assert machine.wait(LIMIT_S)
    machine[0] = lambda quake: 1
    assert len(machine.retry_errors(canary=2, timeout=LIMIT_S)) == 30
    assert machine.wait(LIMIT_S)
    assert machine.status.processed == 30
    assert machine.status.refused == 0


def test_without_canaries_what_finds_no_room_is_left_for_later(machines):
    machine = machines(stages=1, bufsize=2)
    machine[0] = shaking
    for _ in range(3):
        machine.put({"mag": 0})
        machine.get()
    assert len(machine.retry_errors()) == 2
    with pytest.raises(MachineFull):
        machine.retry_errors()
    machine.configure(bufsize=3)
    assert len(machine.retry_errors()) == 1
    machine.start()
    assert machine.wait(LIMIT_S)


def test_a_retry_by_group_finds_messages_that_have_left_the_ring_of_errors(machines):
    machine = machines(stages=1, bufsize=2_000)
    machine[0] = shaking
    oids = [machine.put({"mag": 0}) for _ in range(1_100)]
    machine.start()
    assert machine.wait(20.0)
    machine[0] = lambda quake: 1
    assert sorted(machine.retry_errors(group="f0")) == sorted(oids)
    assert machine.wait(20.0)
    assert machine.error_groups[0].resolved


# --- debugging ---


def test_debug_raises_what_the_slot_raises_in_its_own_frame(failing):
    with pytest.raises(ZeroDivisionError) as caught:
        failing.debug(failing.oids[0])
    frame = caught.traceback[-1]
    assert frame.name == "shaking"
    assert frame.locals["quake"] == {"mag": 0}
    assert failing.status.put == 9


def test_debug_calls_the_function_of_the_failed_attempt_or_of_a_revision(failing):
    failing[1] = lambda quake: "mended"
    with pytest.raises(ZeroDivisionError):
        failing.debug(failing.oids[0])
    assert failing.debug(failing.oids[0], revision=failing.revision) == "mended"


def test_debug_awaits_and_prepares(machines):
    class Node:
        def prep(self) -> None:
            self.ready = True

        async def step(self, value: int) -> float:
            assert self.ready
            return 1 / value

    machine = machines()
    machine[0] = Node()
    oid = machine.put(0)
    machine.start()
    assert machine.wait(LIMIT_S)
    with pytest.raises(ZeroDivisionError):
        machine.debug(oid)


def test_there_is_nothing_to_debug_in_a_message_that_did_not_fail(failing):
    with pytest.raises(NothingToDebug):
        failing.debug(failing.oids[1])


def test_a_machine_that_is_paused_meanwhile_ends_the_wait_for_canaries(failing, gate):
    failing[1] = gate
    running = in_thread(failing.retry_errors, canary=1, timeout=60.0)
    gate.wait_until_entered()
    failing.pause()
    with pytest.raises(CanaryFailed, match="paused"):
        running.result()
    assert failing.status.put == 10
    gate.open()
    failing.resume()
    assert failing.wait(LIMIT_S)


# --- after a restart ---


def test_two_attempts_that_wait_are_both_there_after_a_restart(machines):
    journal = MemoryJournal()
    first = machines(journal=journal)
    oid = first.put("m")
    first.get()
    assert first.replay(oid) == first.replay(oid) == [oid]
    again = machines(journal=journal.reopened())
    assert again.status.queue_size == 2
    assert again.get()[0] == again.get()[0] == oid
    assert [one.attempt for one in again.lookup(oid).attempts] == [1, 2, 3]


def test_what_was_being_retried_before_a_restart_is_not_retried_again(machines):
    journal = MemoryJournal()
    first = machines(journal=journal)
    first[0] = shaking
    oid = first.put({"mag": 0})
    first.get()
    first.retry_errors()
    again = machines(journal=journal.reopened())
    assert again.retry_errors() == []
    again.replay(oid)
    again.start()
    assert again.wait(LIMIT_S)
    assert [one.attempt for one in again.lookup(oid).attempts] == [1, 2, 3]
