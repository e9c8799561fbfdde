"""Random slot tables, failures, changes and pauses: every put message has one record for each attempt.

Counted from outside: the puts by the test, the records by a sink.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_kit import LIMIT_S, Recorder, assert_counts_add_up, seqs

from tests.slot_kit import careful, outcomes, plain
from timbr_wamp.contract import outcome_kind
from timbr_wamp.errors import WrongState
from timbr_wamp.machine import Machine
from timbr_wamp.machine.slots.arguments import refusal
from timbr_wamp.machine.slots.table import SlotTable

SLOTS = 5


def make_function(number: int, arity: int, fails_on: int | None, changes: bool) -> Any:
    """Return a function of ``arity`` values (-1: all) that raises for some messages and marks its list values."""

    def run(*values: Any) -> Any:
        if fails_on is not None and repr(values).count("'") % 5 == fails_on:
            raise ValueError(f"slot {number}")
        if changes and values and isinstance(values[0], list):
            values[0].append(f"changed by {number}")
            return values[0]
        return [f"f{number}", *(repr(value) for value in values)]

    fixed = [lambda: run(), lambda a: run(a), lambda a, b: run(a, b), lambda a, b, c: run(a, b, c)]
    return run if arity < 0 else fixed[arity]


functions = st.one_of(
    st.none(),
    st.builds(
        make_function, st.integers(0, 9), st.integers(-1, 3), st.none() | st.integers(0, 4), st.booleans()
    ),
)  # fmt: skip
tables = st.dictionaries(st.integers(0, SLOTS - 1), functions, max_size=SLOTS).filter(
    lambda table: all(f is None or refusal(f, slot) is None for slot, f in table.items())
)
messages = st.one_of(st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=3))


@given(tables, messages)
def test_the_compiled_and_the_careful_pass_give_the_same(table, message):
    slots = SlotTable(SLOTS, lambda: 0.0)
    slots.assign(table)
    revision = slots.current()
    _, fast, failures = plain(revision, deepcopy(message))
    _, slow, failures_2 = careful(revision, deepcopy(message))
    # A traceback shows the pass that ran; all else is equal.
    assert [_without_traceback(t) for t in fast] == [_without_traceback(t) for t in slow]
    assert outcomes(failures) == outcomes(failures_2)
    assert len(fast) == SLOTS + 1


def _without_traceback(text: bytes) -> Any:
    value = orjson.loads(text)
    if outcome_kind(value) != "value":
        value["_exception"]["exc_tb"] = None
    return value


@given(tables, messages)
def test_only_slots_that_consume_a_failed_one_are_skipped(table, message):
    slots = SlotTable(SLOTS, lambda: 0.0)
    slots.assign(table)
    revision = slots.current()
    values, _, failures = plain(revision, message)
    kinds = ["value", *(outcome_kind(value) for value in values[1:])]
    for slot in revision.slots:
        kind = kinds[slot.number + 1]
        if slot.function is None:
            assert kind == kinds[slot.number] or kinds[slot.number] == "value" == kind
            continue
        given = slot.number + 1 if slot.arguments.values < 0 else slot.arguments.values
        consumed = kinds[slot.number + 1 - given : slot.number + 1]
        assert (kind == "skipped") == any(one != "value" for one in consumed)
    assert {f.slot for f in failures} == {
        s.number for s in revision.slots if s.function and kinds[s.number + 1] != "value"
    }


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(messages, min_size=1, max_size=30)),
        st.tuples(st.just("change"), tables),
        st.tuples(st.sampled_from(["start", "pause", "resume", "stop", "retry", "rollback", "replay"]), st.none()),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(tables, steps)
def test_every_put_message_has_one_record_for_each_attempt_whatever_is_changed_meanwhile(table, steps):
    records = Recorder()
    with Machine(SLOTS, bufsize=10_000, serve=False, sinks=[records]) as machine:
        machine.assign(table)
        first_attempts: list[str] = []
        again = 0
        for verb, argument in steps:
            if verb == "put":
                first_attempts += [machine.put(message) for message in argument]
            elif verb == "change":
                machine.assign(argument)
            elif verb == "retry":
                again += len(machine.retry_errors())
            elif verb == "rollback":
                machine.rollback(machine.revision // 2)
            elif verb == "replay":
                again += len(machine.replay(machine.run, seqs(machine.recent(3))))
            else:
                try:
                    getattr(machine, verb)()
                except WrongState:
                    continue
            assert_counts_add_up(machine.status)
        machine.stop()
        machine.start()
        assert machine.wait(LIMIT_S)
        status = machine.status
        assert_counts_add_up(status)
        assert status.put == len(first_attempts) + again
    seen = records.records
    assert len(seen) == status.put == status.processed + status.errored
    assert seqs(seen) == list(range(1, len(seen) + 1)), "numbered in order, without gaps"
    assert len({(record.oid, record.attempt) for record in seen}) == len(seen), "one record for each attempt"
    assert [record.oid for record in seen if record.attempt == 1] == first_attempts, "in the order they were put"
    revisions = [record.revision for record in seen]
    assert revisions == sorted(revisions), "each by one revision, and never by an older one again"
    for record in seen:
        assert len(record.values) == SLOTS
        assert record.errored == any(outcome.kind != "value" for outcome in record.outcomes)
