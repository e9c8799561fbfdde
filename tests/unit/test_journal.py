"""The journal's seam: durable before put returns, numbers that continue, and no trace of a commit that failed."""

from __future__ import annotations

import itertools
import threading

import pytest
from machine_kit import LIMIT_S, MemoryJournal, assert_counts_add_up, in_thread, seqs

from timbr_wamp.errors import MachineFull, RecordNotFound
from timbr_wamp.names import new_oid


@pytest.fixture
def journal():
    return MemoryJournal()


def fail(message: object) -> object:
    raise ValueError("no")


@pytest.mark.parametrize("run", ["step", "worker"])
@pytest.mark.parametrize("policy", ["record", "dead_letter", "drop"])
def test_a_commit_that_fails_ten_times_counts_its_message_once(machines, records, journal, run, policy, caplog):
    machine = machines(journal=journal, sinks=[records], hooks=[records], on_error=policy)
    machine[0] = fail
    machine.put("m")
    journal.full = True
    for attempt in range(10):
        if run == "step":
            with pytest.raises(OSError, match="disk full"):
                machine.get()
        else:
            machine.start()
            assert not machine.wait(LIMIT_S)
        status = machine.status
        assert (status.queue_size, status.in_flight, status.last_seq) == (1, 0, 0), attempt
        assert (machine.errors, machine.error_groups, status.slots[0].calls, status.slots[0].errors) == ([], [], 0, 0)
    journal.full = False
    machine.get()
    (row,) = machine.errors
    (group,) = machine.error_groups
    assert (row.seq, group.count) == (1, 1)
    counts = machine.status.slots[0]
    assert (counts.calls, counts.errors) == (1, 1)
    assert seqs(records.wait_for(1)) == [1]
    assert_counts_add_up(machine.status)


def test_a_retry_whose_commit_fails_resolves_nothing_yet(machines, journal, records):
    machine = machines(journal=journal, sinks=[records])
    machine[0] = fail
    machine.put("m")
    machine.get()
    machine[0] = None
    machine.retry_errors()
    journal.full = True
    with pytest.raises(OSError, match="disk full"):
        machine.get()
    assert [row.resolved for row in machine.errors] == [False]
    assert machine.error_groups[0].open == 1
    journal.full = False
    machine.get()
    assert [row.resolved for row in machine.errors] == [True]
    assert machine.error_groups[0].resolved


def test_numbering_continues_after_the_journals_last_record(machines, journal, records):
    first = machines(journal=journal)
    for n in range(3):
        first.put(n)
        first.get()
    again = machines(journal=journal.reopened(), sinks=[records])
    assert (again.run, again.status.last_seq) == (first.run, 3)
    again.put(3)
    again.get()
    assert seqs(records.wait_for(1)) == [4]
    assert again.status.processed == 4, "counts go on"


def test_what_was_put_and_not_committed_is_queued_again(machines, journal, records):
    first = machines(journal=journal)
    oids = [first.put(n) for n in range(5)]
    given = first.put("given", oid="65f0a0000000000000000001")
    first.get()
    again = machines(journal=journal.reopened(), bufsize=2, sinks=[records])
    assert again.status.queue_size == 5
    again.put("given", oid=given)
    assert again.status.queue_size == 5, "a known oid is not put twice"
    with pytest.raises(MachineFull):
        again.put("there is no room")
    again.start()
    assert again.wait(LIMIT_S)
    assert [record.oid for record in records.wait_for(5)] == [*oids[1:], given]
    assert_counts_add_up(again.status)


def test_a_put_that_cannot_be_kept_is_not_queued(machines, journal):
    machine = machines(journal=journal, bufsize=1)
    journal.full = True
    for oid in (None, "65f0a0000000000000000001"):
        with pytest.raises(OSError, match="disk full"):
            machine.put("m", oid=oid)
    assert (machine.status.put, machine.status.queue_size, machine.status.in_flight) == (0, 0, 0)
    journal.full = False
    machine.put("m", oid="65f0a0000000000000000001")
    assert machine.status.queue_size == len(journal.appended) == 1


def test_a_put_returns_only_when_its_message_is_durable(machines, journal, gate):
    machine = machines(journal=journal, bufsize=1)
    append = journal.append

    def slow(entries, **options):
        gate(None)
        append(entries, **options)

    journal.append = slow
    putting = in_thread(machine.put, "m")
    gate.wait_until_entered()
    assert not putting.done
    assert (machine.status.queue_size, machine.status.in_flight) == (0, 1)
    with pytest.raises(MachineFull):
        machine.put("its room is taken")
    gate.open()
    assert putting.result() == journal.appended[0][0]
    assert machine.status.queue_size == 1
    assert_counts_add_up(machine.status)


@pytest.mark.parametrize("fails", [False, True], ids=["kept", "not kept"])
def test_a_put_that_is_repeated_while_the_first_is_being_kept_waits_for_it(machines, journal, gate, fails):
    oid = new_oid()
    came = threading.Semaphore(0)
    machine = machines(journal=journal)
    machine.hooks.add("pre_put", lambda message: came.release())
    append, first_call = journal.append, itertools.count()

    def slow(entries, **options):
        first = next(first_call) == 0
        gate(None)
        if first and fails:
            raise OSError("disk full")
        append(entries, **options)

    journal.append = slow
    first = in_thread(machine.put, "m", oid=oid)
    gate.wait_until_entered()
    again = in_thread(machine.put, "m", oid=oid)
    assert came.acquire(timeout=LIMIT_S)
    assert came.acquire(timeout=LIMIT_S)
    assert not again.done
    gate.open()
    if fails:
        with pytest.raises(OSError, match="disk full"):
            first.result()
    else:
        assert first.result() == oid
    assert again.result() == oid
    assert [entry[0] for entry in journal.appended] == [oid]
    assert machine.status.queue_size == machine.status.put == 1
    assert_counts_add_up(machine.status)


def test_records_that_the_ring_has_no_longer_come_from_the_journal(machines, journal, monkeypatch):
    monkeypatch.setattr("timbr_wamp.machine.records.recorder.RESTORED_ROWS", 0)
    before = machines(journal=journal)
    for n in range(10):
        before.put(n)
        before.get()
    machine = machines(journal=journal.reopened())
    for n in range(10, 12):
        machine.put(n)
        machine.get()
    recorder = machine.recorder
    first, last, rows = recorder.after(machine.run, 3, 3, 1_000_000)
    assert (first, last, [row[0] for row in rows]) == (1, 12, [4, 5, 6])
    assert [row[0] for row in recorder.after(machine.run, 9, 10, 1_000_000)[2]] == [10]
    assert [row[0] for row in recorder.after(machine.run, 10, 10, 1_000_000)[2]] == [11, 12]
    assert recorder.row(machine.run, 2)[0] == 2
    assert machine.replay(machine.run, [2]) == [journal.rows[1][1]]
    with pytest.raises(RecordNotFound):
        recorder.row(machine.run, 13)
