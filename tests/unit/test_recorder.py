"""The recorder between two threads: the worker takes back what is its own, and nothing that a source dropped."""

from __future__ import annotations

import orjson
import pytest
from machine_kit import LIMIT_S, assert_counts_add_up
from wait_kit import wait_until

from timbr_wamp.errors import InvalidArgument
from timbr_wamp.machine.messages import Entry
from timbr_wamp.machine.running.worker import STALLED_S
from timbr_wamp.names import new_oid


def dropped_and_not_committed(machine, message: str) -> Entry:
    """Stand where a source's thread does between dropping a message and committing it."""
    entry: Entry = (new_oid(), message, 0.0, 1)
    machine._queue.set_aside([entry])
    commit, machine.recorder.commit = machine.recorder.commit, lambda: None
    machine.recorder.drop([entry], "the queue was full")
    machine.recorder.commit = commit
    return entry


def test_what_a_source_just_dropped_is_not_taken_back_with_what_the_worker_could_not_commit(machine, records):
    entry = dropped_and_not_committed(machine, "dropped")
    assert machine.recorder.withdraw() == []
    machine.recorder.commit()
    (record,) = records.wait_for(1)
    assert (record.oid, record.meta.dropped, record.meta.policies) == (entry[0], True, {"queue": "the queue was full"})
    assert machine.status.dropped == 1
    assert_counts_add_up(machine.status)


def test_a_message_dropped_while_another_is_processed_does_not_come_back_into_the_queue(machine, records):
    published = records.publish

    def publish(rows):
        published(rows)
        if len(records.rows) == 1:  # after the worker's commit has taken its rows, before it looks for what is left
            dropped_and_not_committed(machine, "dropped")

    machine.recorder.replace_sinks(lambda sinks: (type("Sink", (), {"publish": staticmethod(publish)})(),))
    machine.put("first")
    machine.get()
    assert machine.status.queue_size == 0
    machine.recorder.commit()
    wait_until(lambda: machine.status.dropped == 1, "it was not recorded as dropped")
    assert [record.input for record in records.records] == ["first", "dropped"]


def test_a_message_that_one_slot_mended_and_another_failed_can_be_retried(machine, records):
    def fails(message: object) -> object:
        raise ValueError("no")

    machine.set(0, fails, policy={"on_error": "default", "default": 1})
    machine[1] = fails
    oid = machine.put("m")
    machine.start()
    assert records.wait_for(1)[0].errored
    machine[1] = None
    assert machine.retry_errors([oid]) == [oid]
    assert not records.wait_for(2)[1].errored
    assert all(row.resolved for row in machine.errors)
    assert machine.retry_errors() == []


# --- whatever hooks and sinks raise ---

FOREIGN = [ValueError, SystemExit, GeneratorExit, KeyboardInterrupt]
POINTS_OF_A_MESSAGE = ["pre_message", "pre_slot", "post_slot", "post_message", "pre_publish", "post_publish"]


def raising(error):
    def raises(*_):
        raise error("on purpose")

    return raises


@pytest.mark.parametrize("executor", ["inline", "threads"])
@pytest.mark.parametrize("point", POINTS_OF_A_MESSAGE)
@pytest.mark.parametrize("error", FOREIGN)
def test_a_running_machine_records_every_message_whatever_its_hooks_raise(
    machines, records, executor, point, error, caplog
):
    machine = machines(stages=1, sinks=[records], executor=executor)
    machine[0] = str
    machine.hook(point, raising(error))
    machine.start()
    for n in range(3):
        machine.put(n)
    assert machine.wait(LIMIT_S)
    assert [record.values for record in records.wait_for(3)] == [("0",), ("1",), ("2",)]
    status = machine.status
    assert (status.state, status.processed, status.in_flight) == ("running", 3, 0)
    assert status.hook_failures >= 1


@pytest.mark.parametrize("point", POINTS_OF_A_MESSAGE)
def test_a_stepped_message_is_recorded_or_waits_when_a_hook_is_interrupted(machines, records, point):
    """A Ctrl-C in a hook is the user's: it is raised, and the message is whole."""
    machine = machines(stages=1, sinks=[records])
    machine[0] = str
    end = machine.hook(point, raising(KeyboardInterrupt))
    machine.put(1)
    with pytest.raises(KeyboardInterrupt):
        machine.get()
    status = machine.status
    assert (status.in_flight, status.processed + status.queue_size) == (0, 1)
    assert len(records.rows) == status.processed
    assert_counts_add_up(status)
    end()
    if status.queue_size:
        machine.get()
    assert [record.seq for record in records.wait_for(1)] == [1]
    assert machine.wait(LIMIT_S)


@pytest.mark.parametrize("error", FOREIGN)
def test_a_sink_may_raise_anything_and_the_others_get_their_rows(machines, records, error, caplog):
    faulty = type("Faulty", (), {"publish": staticmethod(raising(error))})()
    machine = machines(sinks=[faulty, records])
    machine.put("m")
    machine.start()
    records.wait_for(1)
    assert machine.wait(LIMIT_S)
    assert (machine.status.state, machine.status.hook_failures) == ("running", 1)


def test_an_interrupted_sink_costs_the_other_sinks_nothing_when_a_message_is_stepped(machines, records):
    faulty = type("Faulty", (), {"publish": staticmethod(raising(KeyboardInterrupt))})()
    machine = machines(sinks=[faulty, records])
    machine.put("m")
    with pytest.raises(KeyboardInterrupt):
        machine.get()
    assert len(records.rows) == machine.status.processed == 1
    assert machine.status.in_flight == 0


def test_an_async_sink_is_refused(machines, machine):
    class Awaited:
        async def publish(self, rows):
            raise AssertionError("nobody awaits it")

    with pytest.raises(InvalidArgument, match="not awaited"):
        machines(sinks=[Awaited()])
    with pytest.raises(InvalidArgument, match="not awaited"):
        machine.recorder.replace_sinks(lambda sinks: (*sinks, Awaited()))


def test_what_is_no_sink_is_refused(machines):
    with pytest.raises(InvalidArgument, match="no method publish"):
        machines(sinks=[object()])


def test_a_sink_whose_method_cannot_be_had_any_more_costs_nobody_else_anything(machines, records):
    class Vanishing:
        gone = False

        @property
        def publish(self):
            if self.gone:
                raise SystemExit("its publish")
            return lambda rows: None

    sink = Vanishing()
    machine = machines(sinks=[sink, records])
    sink.gone = True
    machine.put("m")
    machine.start()
    assert machine.wait(LIMIT_S)
    assert [record.input for record in records.records] == ["m"]
    assert (machine.status.state, machine.status.processed) == ("running", 1)


def test_every_sink_gets_all_rows_in_order_also_when_one_of_them_drops_messages(machines, records):
    class Drops:
        def __init__(self):
            self.rows = []

        def publish(self, rows):
            self.rows += rows
            if len(self.rows) == 1:
                entry = (new_oid(), "dropped", 0.0, 1)
                machine._queue.set_aside([entry])
                machine.recorder.drop([entry], "by a sink")

    drops = Drops()
    machine = machines(sinks=[drops, records])
    machine.put("first")
    machine.get()
    assert [record.seq for record in records.wait_for(2)] == [row[0] for row in drops.rows] == [1, 2]


# --- figures ---


@pytest.mark.parametrize("end", ["drop", "record", "dead_letter", "success", "displaced"])
def test_a_message_that_a_pause_kept_leaves_no_open_failure_however_it_ends(machines, records, end):
    machine = machines(sinks=[records], on_error="pause")
    machine[0] = lambda message: 1 / 0
    machine.put("m")
    machine.start()
    records_of = machine.recorder
    wait_until(lambda: machine.status.state == "paused", "not paused")
    assert machine.status.slots[0].calls == 1
    assert machine.error_groups[0].open == 1
    if end == "success":
        machine[0] = None
    elif end == "displaced":
        (entry,) = machine._queue.take(1, LIMIT_S)  # it returns shortly after the state has changed
        records_of.drop([entry], "dropped")
    else:
        machine.set_policy(None, end)
    machine.resume()
    assert machine.wait(LIMIT_S)
    assert records_of._kept == set()
    (group, *_) = machine.error_groups
    assert group.open == (end in ("record", "dead_letter"))
    assert all(one.calls >= 0 for one in machine.status.slots)


def test_calls_are_the_calls_that_were_made(machines, records):
    made = []

    def third_time(message):
        made.append(message)
        if len(made) % 3:
            raise ValueError("not yet")
        return message

    machine = machines(stages=3, sinks=[records])
    machine.set(0, third_time, policy={"retries": 2, "backoff_s": 0.001})
    machine.set(1, raising(ValueError), policy="dead_letter")
    machine[2] = str
    for n in range(2):
        machine.put(n)
        machine.get()
    entry = (new_oid(), "dropped", 0.0, 1)
    machine._queue.set_aside([entry])
    machine.recorder.drop([entry], "the queue was full")
    assert [(one.calls, one.skipped) for one in machine.status.slots] == [(len(made), 0), (2, 0), (0, 2)]
    assert len(made) == 6


def test_what_is_dropped_before_it_ran_is_no_progress(machines, records, clock):
    machine = machines(sinks=[records], clock=clock)
    machine.put("m")
    machine.get()
    processed = machine.status.last_processed_time
    clock.advance(100.0)
    entries = [(new_oid(), "dropped", clock(), 1) for _ in range(100)]
    machine._queue.set_aside(entries)
    machine.recorder.drop(entries, "the queue was full")
    status = machine.status
    assert (status.last_processed_time, status.rate_per_s[0]) == (processed, 0.0)
    assert (status.dropped, machine.recorder.ran, machine.recorder.count) == (100, 1, 101)


# --- values that unset slots carry ---


def test_a_large_value_that_unset_slots_carry_is_kept_whole_and_replayed(machines, records):
    machine = machines(stages=8, sinks=[records])
    machine[2] = lambda message: message
    value = "x" * 2_000_000
    oid = machine.put(value)
    machine.get()
    assert machine.recent(1)[0].values == (value,) * 8
    assert machine.replay(machine.run, [1]) == [oid]
    machine.get()
    assert machine.recent(1)[0].input == value


def test_a_record_over_the_limit_loses_its_largest_values_first_and_its_message_last(machines, records):
    machine = machines(stages=3, sinks=[records])
    machine[0] = lambda message: "y" * 9_000_000
    machine[1] = lambda message: message + "z"
    machine[2] = len
    machine.put("x" * 4_000_000)
    machine.get()
    record = machine.recent(1)[0]
    assert record.input == "x" * 4_000_000
    assert [type(value) for value in record.values] == [str, dict, int]
    assert machine.replay(machine.run, [1]) == [record.oid]


@pytest.mark.parametrize("slots", [(), (0,), (3,), (1, 2), (0, 1, 2, 3)])
@pytest.mark.parametrize("value", ["a,b", [1, [2, "]"]], {"k": {"é": None}}, 12345678901234567, 1.5])
def test_sinks_and_readers_get_whole_rows_whatever_is_set(machines, records, slots, value):
    machine = machines(stages=4, sinks=[records])
    for slot in slots:
        machine[slot] = lambda message: [message]
    oid = machine.put(value)
    row = machine.get()
    (published,) = records.rows
    assert machine.recorder.newest(1) == [published]
    assert published[2].decode() == "[" + ",".join(row[1:]) + "]"
    expected, wrapped = [value], value
    for slot in range(4):
        wrapped = [wrapped] if slot in slots else wrapped
        expected.append(wrapped)
    assert orjson.loads(published[2]) == expected
    assert row[0] == oid


def test_a_slot_that_hangs_while_a_source_drops_is_a_stall(machines, records, clock, gate):
    machine = machines(stages=1, sinks=[records], hooks=[records], clock=clock)
    machine[0] = gate
    machine.put("m")
    machine.start()
    gate.wait_until_entered()
    for _ in range(2):
        clock.advance(STALLED_S * 0.6)
        entry = (new_oid(), "dropped", clock(), 1)
        machine._queue.set_aside([entry])
        machine.recorder.drop([entry], "the queue was full")
    assert records.wait_for_event("stalled").data["oid"] is not None
    gate.open()
