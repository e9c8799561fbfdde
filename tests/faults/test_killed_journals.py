"""A process with a journal is killed at any instant: each message that was put is recorded once."""

from __future__ import annotations

import pytest
from journal_kit import check, run_and_kill

from timbr_wamp.machine import Machine


@pytest.mark.timeout(120)
def test_each_confirmed_message_is_recorded_once_whenever_the_process_is_killed(tmp_path):
    path = tmp_path / "machine.journal"
    oids = run_and_kill(path, count=400, kills=5, seed=1)
    check(path, oids)
    with Machine(2, journal=path) as machine:
        status = machine.status
        assert (status.put, status.queue_size, status.last_seq) == (400, 0, 400)
        assert status.errored == len(range(0, 400, 7))
        (group,) = machine.error_groups
        assert (group.count, group.open, group.exc_class) == (status.errored, status.errored, "ZeroDivisionError")
