"""What becomes of a message when a slot raises: each policy, in the record, the counters and the queue."""

from __future__ import annotations

import threading

import pytest
from machine_kit import LIMIT_S, assert_counts_add_up
from wait_kit import wait_until

from timbr_wamp import BaseEventHandler, Machine, RetryHandler
from timbr_wamp.contract import Policy
from timbr_wamp.contract.policies import backoff_s, checked_policy
from timbr_wamp.errors import InvalidArgument, MessageKept
from timbr_wamp.faces.tables import Rows


class FailsFor:
    """A slot function that raises for its first ``times`` calls with a message of ``bad``."""

    def __init__(self, *bad: object, times: int = 10**9) -> None:
        self.bad, self.times, self.calls = bad, times, 0

    def __call__(self, message: object) -> object:
        if message in self.bad and self.calls < self.times:
            self.calls += 1
            raise ValueError(f"not {message}")
        return message


def run(machine: Machine, *messages: object) -> list:
    machine.start()
    for message in messages:
        machine.put(message)
    assert machine.wait(LIMIT_S)
    assert_counts_add_up(machine.status)
    return machine.recent()


# --- verdicts ---


def test_without_a_policy_the_failure_is_recorded_and_nothing_else_happens(machine):
    machine[0] = FailsFor(2)
    records = run(machine, 1, 2, 3)
    assert [record.errored for record in records] == [False, True, False]
    assert machine.status.policies == type(machine.status.policies)()
    assert machine.errors[0].policy == "record"
    assert records[1].meta.policies is None


def test_default_gives_its_value_to_later_slots_and_the_record_is_not_errored(machine):
    machine.set(0, FailsFor(2), policy=Policy(on_error="default", default=-1))
    machine[1] = lambda f0: f0 * 10
    records = run(machine, 1, 2, 3)
    assert [record.values[1] for record in records] == [10, -10, 30]
    assert [record.errored for record in records] == [False] * 3
    assert records[1].meta.policies == {"f0": "default"}
    status = machine.status
    assert (status.processed, status.errored, status.policies.defaults, status.slots[0].defaults) == (3, 0, 1, 1)
    assert [(row.policy, row.resolved) for row in machine.errors] == [("default", True)]
    assert machine.retry_errors() == []


def test_a_default_that_is_a_list_is_a_new_one_for_each_message(machine):
    machine.set(0, FailsFor(1, 2), policy={"on_error": "default", "default": []})
    machine[1] = lambda f0: f0.append(1)
    assert [record.values[0] for record in run(machine, 1, 2)] == [[], []]


def test_a_dropped_message_has_a_record_runs_no_later_slot_and_is_counted_as_dropped(machine):
    ran = []
    machine.set(0, FailsFor(2), policy="drop")
    machine[1] = lambda: ran.append(1)
    records = run(machine, 1, 2, 3)
    assert [(record.meta.dropped, record.errored) for record in records] == [
        (False, False),
        (True, False),
        (False,) * 2,
    ]
    assert records[1].meta.policies == {"f0": "drop"}
    assert [outcome.kind for outcome in records[1].outcomes[:2]] == ["error", "skipped"]
    assert len(ran) == 2
    status = machine.status
    assert (status.processed, status.errored, status.dropped) == (2, 0, 1)
    assert machine.retry_errors() == []


def test_a_retry_that_is_dropped_resolves_the_earlier_failure_in_rows_and_groups_alike(machine):
    machine[0] = FailsFor(2)
    (record,) = run(machine, 2)
    machine[0] = lambda message: message
    machine.set(1, FailsFor(2), policy="drop")
    assert machine.retry_errors() == [record.oid]
    assert machine.wait(LIMIT_S)
    assert [(row.slot, row.policy, row.resolved) for row in machine.errors] == [(0, "record", True), (1, "drop", False)]
    groups = {group.slot: (group.open, group.resolved) for group in machine.error_groups}
    assert groups == {0: (0, True), 1: (0, False)}  # what was dropped at once was never open
    assert resolved_cells(machine.errors) == ["yes", ""]
    assert resolved_cells(machine.error_groups) == ["", "yes"]
    assert machine.retry_errors() == []


def test_a_drop_closes_failures_of_the_same_attempt_that_were_recorded(machine):
    machine[0] = FailsFor(2)
    machine.set(1, raises_without_arguments, policy="drop")
    run(machine, 2)
    assert machine.status.dropped == 1
    assert [(row.slot, row.resolved) for row in machine.errors] == [(0, True), (1, False)]
    assert {group.slot: (group.open, group.resolved) for group in machine.error_groups} == {0: (0, True), 1: (0, False)}


def resolved_cells(rows: Rows) -> list[str]:
    """Return what people read in the column of what is resolved."""
    return [str(rows.cells(row)[-1]) for row in rows]


def raises_without_arguments() -> None:
    raise ValueError("no")


def test_a_dead_letter_is_errored_runs_no_later_slot_and_can_be_retried(machine):
    failing = FailsFor(2)
    machine.set(0, failing, policy="dead_letter")
    machine[1] = lambda: "ran"
    records = run(machine, 1, 2)
    assert records[1].errored
    assert records[1].values[1]["_exception"]["exc_value"] == "f1 did not run: f0 failed"
    assert [row.policy for row in machine.errors] == ["dead_letter"]
    assert machine.status.policies.dead_letters == 1
    failing.bad = ()
    assert machine.retry_errors() == [records[1].oid]
    assert machine.wait(LIMIT_S)
    again = machine.recent()[-1]
    assert (again.oid, again.attempt, again.errored) == (records[1].oid, 2, False)
    assert machine.error_groups[0].resolved


@pytest.mark.parametrize(("verdict", "state"), [("pause", "paused"), ("stop", "stopped")])
def test_pause_and_stop_keep_the_message_and_it_runs_again_whole_with_the_newest_slots(
    machine, records, verdict, state
):
    machine.set(0, FailsFor(2), policy=verdict)
    oids = [machine.put(n) for n in (1, 2, 3)]
    machine.start()
    event = records.wait_for_event(state)
    assert "ValueError: not 2" in event.data["reason"]
    wait_until(lambda: machine.status.queue_size == 2, "the message is not back in the queue")
    status = machine.status
    assert (status.state, status.running, status.processed, status.errored) == (state, False, 1, 0)
    assert "f0: ValueError: not 2" in status.reason
    assert_counts_add_up(status)
    assert machine.error_groups[0].open == 1
    assert [(row.seq, row.oid, row.policy) for row in machine.errors] == [(0, oids[1], verdict)]
    machine[0] = lambda message: f"mended {message}"
    machine.start()
    assert machine.wait(LIMIT_S)
    assert [record.oid for record in machine.recent()] == oids
    assert machine.recent()[1].values[0] == "mended 2"
    assert machine.recent()[1].attempt == 1
    assert machine.error_groups[0].resolved
    assert getattr(machine.status.policies, f"{verdict}s") == 1


def test_a_stepped_message_that_is_kept_says_so_and_waits(machine):
    machine.set(0, FailsFor(1), policy="pause")
    oid = machine.put(1)
    with pytest.raises(MessageKept, match="not 1") as caught:
        machine.get()
    assert caught.value.oid == oid
    assert machine.status.queue_size == 1
    del machine[0]
    assert machine.get()[0] == oid


# --- retries ---


def test_a_retry_that_goes_well_is_one_attempt_and_no_error(machine):
    machine.set(0, FailsFor(2, times=2), policy={"retries": 3})
    records = run(machine, 1, 2, 3)
    assert [record.values[0] for record in records] == [1, 2, 3]
    assert [(record.attempt, record.errored) for record in records] == [(1, False)] * 3
    assert records[1].meta.policies == {"f0": "retry 2"}
    status = machine.status
    assert (status.policies.retries, status.policies.mended, status.errored) == (2, 1, 0)
    assert (status.slots[0].retries, status.slots[0].mended, status.slots[0].errors) == (2, 1, 0)
    assert [(row.policy, row.tries, row.resolved) for row in machine.errors] == [("retry", 2, True)]


def test_when_no_retry_is_left_the_verdict_holds(machine):
    machine.set(0, FailsFor(2), policy={"retries": 2, "on_error": "drop"})
    records = run(machine, 2)
    assert records[0].meta.policies == {"f0": "retry 2, drop"}
    assert (machine.status.dropped, machine.status.policies.retries) == (1, 2)


def test_a_message_in_backoff_is_overtaken_by_others(machine, records):
    failing = FailsFor("bad", times=1)
    machine.set(0, failing, policy={"retries": 1, "backoff_s": 30.0})
    machine.start()
    oids = [machine.put(message) for message in ("bad", "a", "b")]
    assert [record.oid for record in records.wait_for(2)] == oids[1:]
    status = machine.status
    assert (status.retrying, status.in_flight, status.processed, status.queue_size) == (1, 1, 2, 0)
    assert_counts_add_up(status)


def test_a_stop_at_any_moment_gives_messages_in_backoff_back(machines):
    """The worker looks whether it is to go on at every moment; one of many stops comes right there."""
    for _ in range(60):
        machine = machines()
        machine.set(0, FailsFor("bad", times=1), policy={"retries": 1, "backoff_s": 30.0})
        machine.start()
        machine.put("bad")
        wait_until(lambda machine=machine: machine.status.retrying == 1, "no message waits for its retry")
        machine.put("other")
        machine.stop()
        assert (machine.status.in_flight, machine.status.retrying) == (0, 0)


def test_a_message_comes_back_from_its_backoff(machine):
    machine.set(0, FailsFor("bad", times=2), policy={"retries": 5, "backoff_s": 0.01})
    records = run(machine, "a", "bad", "b")
    assert sorted(record.input for record in records) == ["a", "b", "bad"]
    assert [record.seq for record in records] == [1, 2, 3]
    assert machine.status.policies.mended == 1


def test_a_pause_gives_messages_in_backoff_back_and_they_run_again_with_the_newest_slots(machine):
    machine.set(0, FailsFor("bad"), policy={"retries": 1, "backoff_s": 60.0, "backoff_max_s": 60.0})
    machine.start()
    oid = machine.put("bad")
    wait_until(lambda: machine.status.retrying == 1, "no message waits for its retry")
    machine.pause()
    wait_until(lambda: machine.status.queue_size == 1, "the message is not back in the queue")
    assert (machine.status.retrying, machine.status.in_flight) == (0, 0)
    assert_counts_add_up(machine.status)
    machine[0] = lambda message: "mended"
    machine.resume()
    assert machine.wait(LIMIT_S)
    assert [(record.oid, record.values[0]) for record in machine.recent()] == [(oid, "mended")]


def test_draining_waits_for_messages_in_backoff(machine):
    machine.set(0, FailsFor("bad", times=1), policy={"retries": 1, "backoff_s": 0.05})
    machine.start()
    machine.put("bad")
    machine.stop(drain=True, timeout=LIMIT_S)
    assert (machine.status.processed, machine.status.in_flight) == (1, 0)


def test_backoff_doubles_up_to_its_limit():
    policy = Policy(retries=9, backoff_s=0.5, backoff_max_s=3.0)
    assert [backoff_s(policy, tries) for tries in (1, 2, 3, 4, 99)] == [0.5, 1.0, 2.0, 3.0, 3.0]


# --- whose policy ---


def test_a_slots_own_policy_comes_before_the_machines(machines):
    machine = machines(on_error="drop")
    machine[0] = FailsFor(1)
    machine.set(1, FailsFor(2), policy="record")
    records = run(machine, 1, 2)
    assert [(record.meta.dropped, record.errored) for record in records] == [(True, False), (False, True)]


def test_a_policy_is_part_of_the_revision_and_comes_back_with_it(machine):
    machine[0] = FailsFor(1)
    before = machine.revision
    machine.set_policy(0, "drop")
    machine.set_policy(None, {"retries": 2})
    assert (machine.policy_of(0).on_error, machine.policy_of().retries, machine.policy_of(1).retries) == ("drop", 2, 2)
    assert machine.slots[0].policy == Policy(on_error="drop")
    machine[0] = FailsFor(2)
    assert machine.policy_of(0).on_error == "drop"  # another function, the same slot
    machine.rollback(before)
    assert (machine.policy_of(0), machine.policy_of()) == (Policy(), Policy())


def test_a_message_under_way_keeps_the_policy_it_started_with(machine, gate):
    def fails_after(value: object) -> object:
        gate(value)
        raise ValueError

    machine.set(0, fails_after, policy="drop")
    machine.start()
    machine.put(1)
    gate.wait_until_entered()
    machine.set_policy(0, "record")
    gate.open()
    assert machine.wait(LIMIT_S)
    assert machine.recent()[0].meta.dropped


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("ignore", "not one of record"),
        ({"retry": 3}, "a policy has on_error, retries"),
        ({"retries": -1}, "not between 0"),
        ({"retries": "3"}, "Expected `int`"),
        ({"backoff_s": 5.0, "backoff_max_s": 1.0}, "not between 0"),
        ({"timeout_s": 0.0}, "not greater than 0"),
        (3, "is not a policy"),
        (Policy(retries="3"), "Expected `int`"),  # type: ignore[arg-type]
        (Policy(backoff_s=1.0, backoff_max_s=float("inf")), "not between 0"),
        ({"timeout_s": float("inf")}, "endless"),
        ({"on_error": "default", "default": object()}, "object is not a value of JSON"),
        (Policy(on_error="default", default={"a": [{1}]}), "set is not a value of JSON"),
        (Policy(default={1: 2}), "keys"),
        (Policy(default=2**70), "has no JSON form"),
        (Policy(default=[float("nan")]), "has no JSON form"),
        (Policy(default="\ud800"), "has no JSON form"),
        (Policy(default=nested(200)), "nested deeper"),
    ],
)
def test_an_invalid_policy_is_refused_and_nothing_changes(machine, policy, says):
    with pytest.raises(InvalidArgument, match=says):
        machine.set(0, float, policy=policy)
    assert machine.revision == 0


def test_a_default_that_cannot_be_sent_is_refused_for_the_whole_machine_and_in_a_handler(machine):
    with pytest.raises(InvalidArgument, match="default: object"):
        machine.set_policy(None, Policy(on_error="default", default=object()))
    with pytest.raises(InvalidArgument, match="default: object"):
        RetryHandler(then="default", default=object())
    with pytest.raises(InvalidArgument, match="default: object"):
        Machine(1, serve=False, on_error=Policy(on_error="default", default=[object()]))
    assert machine.status.on_error == Policy()


@pytest.mark.parametrize("field", ["restarts", "sample_every", "backoff_s", "idle_timeout_s"])
def test_options_of_a_source_that_cannot_be_sent_are_refused(machine, field):
    with pytest.raises(InvalidArgument, match=field):
        machine.set_source([1], **{field: 10**30})
    with pytest.raises(InvalidArgument, match="total"):
        machine.set_source([1], total=10**30)


@pytest.mark.parametrize("name", [object(), 3, "\ud800"])
def test_a_handler_whose_name_cannot_be_sent_is_refused(machine, name):
    handler = type("Named", (BaseEventHandler,), {"name": name})
    with pytest.raises(InvalidArgument, match=r"handler\.name"):
        machine.set_handler(handler)


def test_a_time_limit_is_refused_for_a_function_in_the_machines_own_thread(machine):
    with pytest.raises(InvalidArgument, match="cannot be ended"):
        machine.set(0, float, policy={"timeout_s": 1.0})
    machine[0] = float
    with pytest.raises(InvalidArgument, match="cannot be ended"):
        machine.set_policy(None, {"timeout_s": 1.0})
    assert machine.revision == 1


def test_checked_policy_accepts_a_verdict_a_mapping_or_a_policy():
    assert checked_policy("pause") == checked_policy({"on_error": "pause"}) == checked_policy(Policy(on_error="pause"))


# --- a dry run ---


def test_a_dry_run_shows_what_policies_would_do_and_counts_nothing(machine):
    machine.set(0, FailsFor(1, times=1), policy={"retries": 1})
    machine.set(1, FailsFor(2), policy={"on_error": "default", "default": "d"})
    assert machine(1).meta.policies == {"f0": "retry 1"}
    assert machine(2).values[1] == "d"
    assert machine.status.policies.retries == machine.status.put == 0


def test_policies_hold_while_several_threads_put(machines):
    machine = machines(bufsize=64)
    machine.set(0, FailsFor(*range(0, 400, 7)), policy="drop")
    machine.start()
    threads = [
        threading.Thread(target=lambda: [machine.put(n, block=True, timeout=LIMIT_S) for n in range(400)])
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert machine.wait(LIMIT_S)
    assert (machine.status.dropped, machine.status.processed) == (2 * 58, 2 * 342)
