"""Which machines have a journal without being told: those of kernels and of processes that run a machine."""

from __future__ import annotations

import os

import pytest

from timbr_wamp.errors import InvalidArgument, StorageBusy
from timbr_wamp.machine import Machine
from timbr_wamp.settings import JOURNALS_PID_VARIABLE, JOURNALS_VARIABLE
from timbr_wamp.store import SqliteJournal


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
