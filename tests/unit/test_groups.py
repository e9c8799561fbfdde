"""Error groups: which failures belong together, their counts, and when a message counts as resolved."""

from __future__ import annotations

import threading

import pytest
from machine_kit import ManualClock

from timbr_wamp.contract import ErrorRow
from timbr_wamp.machine.records import error_groups as module
from timbr_wamp.machine.records.error_groups import GROUPS_KEPT, ErrorGroups


class Failures:
    """Error groups, and a short call that adds a failure."""

    def __init__(self):
        self.clock = ManualClock(1_200_000.0)
        self.groups = ErrorGroups(self.clock)

    def __call__(self, oid, slot=0, exc_class="ValueError", where="a.py:3", attempt=1, policy="record", **changes):
        known = {
            "run": "r", "seq": 1, "revision": 1, "time": self.clock(), "task": f"f{slot}", "exc_value": f"bad {oid}",
            "exc_tb": f"Traceback of {oid}", "input": f'"{oid}"', "tries": 1,
        } | changes  # fmt: skip
        known |= {"oid": oid, "slot": slot, "exc_class": exc_class, "where": where, "attempt": attempt}
        self.groups.add(ErrorRow(policy=policy, **known))

    def states(self):
        return {(row.slot, row.where): (row.count, row.open, row.resolved) for row in self.groups.rows()}


@pytest.fixture
def fail():
    return Failures()


def test_failures_of_one_slot_class_and_line_are_one_group(fail):
    fail("a")
    fail("b")
    fail("c", slot=1)
    fail("d", exc_class="KeyError")
    fail("e", where="a.py:4")
    counts = [(row.slot, row.exc_class, row.where, row.count) for row in fail.groups.rows()]
    assert counts == [
        (0, "ValueError", "a.py:4", 1),
        (0, "KeyError", "a.py:3", 1),
        (1, "ValueError", "a.py:3", 1),
        (0, "ValueError", "a.py:3", 2),
    ]
    assert len(fail.groups) == 4
    assert len(fail.groups.rows(2)) == 2
    assert fail.groups.rows(-1) == []


def test_a_group_tells_first_last_and_the_last_sample(fail):
    fail("a")
    fail.clock.advance(60)
    fail("b", policy="dead_letter")
    (row,) = fail.groups.rows()
    assert (row.first_oid, row.last_oid) == ("a", "b")
    assert row.last_time - row.first_time == 60
    assert (row.exc_value, row.input, row.exc_tb) == ("bad b", '"b"', "Traceback of b")
    assert row.policies == {"record": 1, "dead_letter": 1}


def test_the_group_that_failed_last_comes_first(fail):
    fail("a", slot=0)
    fail("b", slot=1)
    fail("c", slot=0)
    assert [row.slot for row in fail.groups.rows()] == [0, 1]


# --- open and resolved -----------------------------------------------------------------------


def test_a_group_is_resolved_when_its_last_open_message_succeeded(fail):
    fail("a")
    fail("b")
    assert fail.states() == {(0, "a.py:3"): (2, 2, False)}
    assert any(group.open for group in fail.groups.rows())
    fail.groups.resolve("a")
    fail.groups.resolve("unknown")
    assert fail.states() == {(0, "a.py:3"): (2, 1, False)}
    fail.groups.resolve("b")
    assert fail.states() == {(0, "a.py:3"): (2, 0, True)}
    assert not any(group.open for group in fail.groups.rows())


@pytest.mark.parametrize("policy", ["record", "dead_letter", "pause", "stop"])
def test_these_outcomes_leave_the_message_open(fail, policy):
    fail("a", policy=policy)
    assert fail.states() == {(0, "a.py:3"): (1, 1, False)}


@pytest.mark.parametrize("policy", ["retry", "default", "drop"])
def test_these_outcomes_resolve_the_message(fail, policy):
    fail("a", policy=policy)
    assert fail.states() == {(0, "a.py:3"): (1, 0, False)}


def test_one_message_may_be_open_in_several_groups_of_one_attempt(fail):
    fail("a", slot=0)
    fail("a", slot=1)
    assert fail.states() == {(0, "a.py:3"): (1, 1, False), (1, "a.py:3"): (1, 1, False)}
    fail.groups.resolve("a")
    assert fail.states() == {(0, "a.py:3"): (1, 0, True), (1, "a.py:3"): (1, 0, True)}


def test_a_later_attempt_that_fails_elsewhere_closes_the_earlier_group(fail):
    fail("a", slot=0)
    fail("a", slot=1, attempt=2)
    assert fail.states() == {(0, "a.py:3"): (1, 0, True), (1, "a.py:3"): (1, 1, False)}


def test_a_later_attempt_that_fails_alike_stays_open(fail):
    fail("a")
    fail("a", attempt=2)
    assert fail.states() == {(0, "a.py:3"): (2, 1, False)}


@pytest.mark.parametrize("policy", ["pause", "stop"])
def test_a_message_that_was_kept_and_fails_elsewhere_closes_the_earlier_group(fail, policy):
    fail("a", slot=0, policy=policy, seq=0)
    fail("a", slot=1)
    assert fail.states() == {(0, "a.py:3"): (1, 0, True), (1, "a.py:3"): (1, 1, False)}


def test_a_new_failure_opens_a_resolved_group(fail):
    fail("a")
    fail.groups.resolve("a")
    fail("b")
    assert fail.states() == {(0, "a.py:3"): (2, 1, False)}


# --- rates -----------------------------------------------------------------------------------


def test_the_rate_is_of_ten_minutes(fail):
    for _ in range(20):
        for n in range(3):
            fail(f"a{n}")
        fail.clock.advance(60)
    (row,) = fail.groups.rows()
    assert row.count == 60
    assert 2.6 <= row.rate_per_min <= 3.0
    fail.clock.advance(20 * 60)
    assert fail.groups.rows()[0].rate_per_min == 0.0


def test_a_young_group_is_measured_by_its_age(fail):
    for n in range(30):
        fail(f"a{n}")
    assert fail.groups.rows()[0].rate_per_min == 30.0
    fail.clock.advance(5 * 60)
    assert fail.groups.rows()[0].rate_per_min == 6.0


def test_a_clock_that_was_set_back_changes_no_rate_below_0(fail):
    fail("a")
    fail.clock.advance(-3600)
    fail("b")
    (row,) = fail.groups.rows()
    assert (row.count, row.rate_per_min >= 0) == (2, True)


# --- bounds ----------------------------------------------------------------------------------


def test_the_group_least_recently_seen_is_dropped_first(fail):
    for slot in range(GROUPS_KEPT):
        fail(f"a{slot}", slot=slot)
    fail("again", slot=0)
    fail("new", slot=GROUPS_KEPT)
    assert (len(fail.groups), fail.groups.forgotten) == (GROUPS_KEPT, 1)
    kept = {row.slot for row in fail.groups.rows()}
    assert 1 not in kept
    assert {0, GROUPS_KEPT} <= kept
    fail.groups.resolve("a1")
    fail("a1", slot=1)
    assert fail.groups.forgotten == 2


def test_open_messages_of_a_group_are_kept_up_to_a_number(fail, monkeypatch):
    monkeypatch.setattr(module, "OPEN_KEPT", 3)
    for n in range(5):
        fail(f"a{n}")
    assert fail.states() == {(0, "a.py:3"): (5, 3, False)}
    for n in range(5):
        fail.groups.resolve(f"a{n}")
    assert fail.states() == {(0, "a.py:3"): (5, 0, True)}


def test_open_messages_of_all_groups_are_kept_up_to_a_number(fail, monkeypatch):
    monkeypatch.setattr(module, "OPEN_KEPT_IN_ALL", 4)
    for n in range(6):
        fail(f"a{n}", slot=n)
    assert sum(row.open for row in fail.groups.rows()) == 4
    for n in range(6):
        fail.groups.resolve(f"a{n}")
    assert not any(group.open for group in fail.groups.rows())


def test_counts_hold_with_many_threads(fail):
    def work(name):
        for n in range(300):
            fail(f"{name}{n}", slot=n % 7)
            fail.groups.rows(3)
            fail.groups.resolve(f"{name}{n}")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    rows = fail.groups.rows()
    assert sum(row.count for row in rows) == 1200
    assert all(row.resolved for row in rows)
    assert not any(group.open for group in fail.groups.rows())
