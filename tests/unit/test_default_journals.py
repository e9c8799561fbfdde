"""Which machines have a journal without being told: those of kernels and of processes that run a machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from timbr_wamp.errors import InvalidArgument, StorageBusy
from timbr_wamp.machine import Machine
from timbr_wamp.settings import JOURNALS_PID_VARIABLE, JOURNALS_VARIABLE
from timbr_wamp.store import SqliteJournal, remove_old


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(JOURNALS_VARIABLE, str(tmp_path / "journals"))
    monkeypatch.setenv(JOURNALS_PID_VARIABLE, str(os.getpid()))
    return tmp_path / "journals"


def test_a_machine_that_is_made_anew_in_one_process_begins_empty_and_a_later_process_goes_on(folder):
    with Machine(1) as first:
        first.put("of the first")
        with Machine(1) as second:
            assert second.status.put == 0
            assert second.run != first.run
            second.put("of the second")
            run = second.run
    with Machine(1) as later:
        assert (later.run, later.status.queue_size) == (run, 1)
        assert later.get()[1] == '"of the second"'
    assert sorted(path.name for path in folder.glob("*.journal")) == ["machine-1.journal", "machine-2.journal"]


def test_a_machine_may_decline_and_a_child_process_has_none(folder, monkeypatch):
    for declined in (None, False):
        with Machine(1, journal=declined) as machine:
            machine.put(1)
    monkeypatch.setenv(JOURNALS_PID_VARIABLE, "1")
    with Machine(1) as machine:
        machine.put(1)
    monkeypatch.setenv(JOURNALS_VARIABLE, "off")
    with Machine(1) as machine:
        machine.put(1)
    assert not folder.exists()


def test_what_is_no_journal_is_refused():
    for wrong in (5, object(), SqliteJournal):
        with pytest.raises(InvalidArgument):
            Machine(1, journal=wrong)


def test_a_journal_is_one_machines_at_a_time(tmp_path):
    path = tmp_path / "one.journal"
    with Machine(1, journal=path), pytest.raises(StorageBusy):
        Machine(1, journal=path)
    Machine(1, journal=path).close()


def aged(path):
    """Make a journal look as if nothing was written to it for a year."""
    for file in path.parent.glob(f"{path.name}*"):
        os.utime(file, (0, 0))


def test_journals_of_those_long_gone_are_removed_but_not_what_has_no_record_or_is_in_use(tmp_path):
    for kernel in ("gone", "waiting", "used", "new"):
        with Machine(1, journal=tmp_path / kernel / "machine-1.journal") as machine:
            machine.put("m")
            if kernel != "waiting":
                machine.get()
    with Machine(1, journal=tmp_path / "used" / "machine-1.journal"):
        for kernel in ("gone", "waiting", "used"):
            aged(tmp_path / kernel / "machine-1.journal")
        assert remove_old(tmp_path) == [tmp_path / "gone" / "machine-1.journal"]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["new", "used", "waiting"]


def test_a_journal_that_another_process_has_makes_a_machine_begin_a_new_one(folder, caplog):
    with Machine(1) as machine:
        machine.put("m")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder / "machine-1.journal")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout.readline() == b"open\n"
        with Machine(1) as other:
            assert other.status.put == 0
        assert "begins with a new journal" in caplog.text
        holder.communicate(b"\n", timeout=20)


HOLD = """
import sys
from timbr_wamp.store import SqliteJournal
journal = SqliteJournal(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
journal.close()
"""


def test_the_newest_records_and_true_rates_are_there_after_a_restart(tmp_path, clock):
    path = tmp_path / "one.journal"
    with Machine(2, journal=path, clock=clock) as machine:
        machine[0] = lambda number: number + 1
        machine.put_many(range(500))
        machine.start()
        assert machine.wait(10)
    clock.advance(1000.0)
    with Machine(2, journal=path, clock=clock) as machine:
        assert [record.input for record in machine.recent(3)] == [497, 498, 499]
        assert machine.recent(3)[0].values == (498, 498)
        trials = machine.recorder.ring.newest(100)
        assert [row[0] for row in trials] == list(range(401, 501))
        clock.advance(5.0)
        assert machine.status.rate_per_s == (0.0, 0.0, 0.0)
        machine.put(500)
        machine.get()
        assert machine.recent(1)[0].seq == 501
