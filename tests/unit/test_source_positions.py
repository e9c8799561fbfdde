"""A source with a position goes on where the journal says, and each of its messages is recorded once."""

from __future__ import annotations

import pytest
from machine_kit import LIMIT_S
from wait_kit import wait_until

from timbr_wamp.machine import Machine
from timbr_wamp.machine.protocols import EndOfSource


class Numbers:
    """Gives numbers, and knows how many it gave."""

    def __init__(self, count: int, identity: str = "numbers", *, held_at: int | None = None) -> None:
        self.count, self.identity, self.held_at = count, identity, held_at
        self.at = 0

    def next_batch(self):
        if self.at == self.held_at:
            return []
        if self.at >= self.count:
            raise EndOfSource
        batch = list(range(self.at, min(self.at + 3, self.held_at or self.count, self.count)))
        self.at += len(batch)
        return batch

    def position(self):
        return self.at

    def resume(self, position):
        self.at = position

    def close(self):
        pass


class Forgetful(Numbers):
    """Cannot go on."""

    resume = None


def run_part(path, source, wanted):
    """Process until ``wanted`` messages are recorded, and leave as a killed process would: with some under way."""
    machine = Machine(1, journal=path, bufsize=4)
    try:
        machine.source = source
        machine.start()
        wait_until(lambda: machine.status.last_seq >= wanted, "recorded")
    finally:
        machine.close()


def all_inputs(path):
    with Machine(1, journal=path) as machine:
        machine.start()
        assert machine.wait(LIMIT_S)
        last = machine.status.last_seq
        rows = machine.recorder.after(machine.run, 0, last, 10**9)[2]
    return [int(row[2][1:-1].split(b",")[0]) for row in rows]


def test_a_source_goes_on_after_the_last_message_that_was_read(tmp_path):
    path = tmp_path / "j"
    run_part(path, Numbers(100, held_at=40), 40)
    run_part(path, Numbers(100), 100)
    assert all_inputs(path) == list(range(100))


@pytest.mark.parametrize("other", [Numbers(10, "another"), Forgetful(10)], ids=["another identity", "without resume"])
def test_another_source_begins_at_its_beginning(tmp_path, other):
    path = tmp_path / "j"
    run_part(path, Numbers(6), 6)
    run_part(path, other, 16)
    assert all_inputs(path) == [*range(6), *range(10)]


def test_a_source_that_is_set_again_in_the_same_process_begins_at_its_beginning(tmp_path):
    with Machine(1, journal=tmp_path / "j") as machine:
        for _ in range(2):
            machine.source = Numbers(6)
            machine.start()
            assert machine.wait(LIMIT_S)
            del machine.source
    assert all_inputs(tmp_path / "j") == [*range(6), *range(6)]
