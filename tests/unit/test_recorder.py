"""The recorder between two threads: the worker takes back what is its own, and nothing that a source dropped."""

from __future__ import annotations

from machine_kit import assert_lawful, wait_until

from timbr_wamp.machine.messages import Entry
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
    assert_lawful(machine.status)


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
