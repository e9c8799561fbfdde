"""Puts, steps, changes, replays and the end of the process in any order: counts, attempts and order stay right.

What must be there is kept by the test itself; a machine is ended without draining, and made again from its journal.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine_kit import MemoryJournal, assert_counts_add_up

from timbr_wamp.errors import MachineEmpty, UnknownMessage
from timbr_wamp.machine import Machine
from timbr_wamp.names import new_oid


def second_of_two(value: Any, message: Any) -> Any:
    """Take two arguments, and travel as a pickle."""
    return [value, message]


#: What a slot may hold; texts fail for some messages.
FUNCTIONS: list[Any] = [
    "lambda x: x + 1", "lambda x: 12 // (x % 3)", "lambda x: [x][x % 2]", "lambda value, message: value", None,
    second_of_two,
]  # fmt: skip

steps = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 8)),
    st.tuples(st.just("put"), st.integers(0, 8)),
    st.tuples(st.just("step"), st.integers(1, 4)),
    st.tuples(st.just("crash"), st.just(0)),
    st.tuples(st.just("set"), st.tuples(st.integers(0, 1), st.integers(0, len(FUNCTIONS) - 1))),
    st.tuples(st.just("rollback"), st.integers(0, 6)),
    st.tuples(st.just("replay"), st.integers(0, 30)),
    st.tuples(st.just("retry"), st.just(0)),
    st.tuples(st.just("trial"), st.integers(0, len(FUNCTIONS) - 1)),
)
scripts = st.lists(steps, min_size=5, max_size=40)


class Life:
    """A machine with a journal through several processes, and what must have become of its messages."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.path = folder / "journal"
        self.journal = MemoryJournal() if kind == "killed" else None
        self.machine = self._made()
        self.tables: dict[int, tuple[Any, Any]] = {0: (None, None)}
        #: ``(oid, attempt)`` in the order in which they must be recorded.
        self.waiting: list[tuple[str, int]] = []
        self.recorded: list[tuple[str, int, int]] = []
        self.messages: dict[str, int] = {}
        #: Unresolved messages in the order of their failures, and whether they are being retried.
        self.failed: dict[str, bool] = {}
        self.errored = 0

    def _made(self) -> Machine:
        where = self.path if self.journal is None else self.journal
        return Machine(stages=2, bufsize=1_000, serve=False, journal=where)

    def live(self, script: list[tuple[str, Any]]) -> int:
        """Do the steps; check after each. Return the number of records."""
        try:
            for name, argument in script:
                getattr(self, name)(argument)
                self.check()
            while self.waiting:
                self.step(1)
            self.check()
        finally:
            self.machine.close()
        return len(self.recorded)

    # --- steps ---

    def put(self, message: int) -> None:
        oid = self.machine.put(message)
        self.messages[oid] = message
        self.waiting.append((oid, 1))

    def step(self, count: int) -> None:
        for _ in range(count):
            if not self.waiting:
                with pytest.raises(MachineEmpty):
                    self.machine.get()
                return
            oid, attempt = self.waiting.pop(0)
            got, *texts = self.machine.get()
            assert got == oid, "in the order of the puts"
            revision = self.machine.revision
            values, failed = self._expected(self.tables[revision], self.messages[oid])
            assert [json.loads(text) for text in texts][: len(values)] == values
            self.recorded.append((oid, attempt, revision))
            self.failed.pop(oid, None)
            if failed:
                self.errored += 1
                self.failed[oid] = False

    def _expected(self, table: tuple[Any, Any], message: int) -> tuple[list[Any], bool]:
        """Return the values up to the first failure, and whether there is one."""
        values: list[Any] = [message]
        for function in table:
            made = eval(function) if isinstance(function, str) else function
            try:
                if made is None:
                    values.append(values[-1])
                else:
                    needs = made.__code__.co_argcount
                    values.append(
                        made(*values[::-1][:needs], *map(json.dumps, values[::-1][: max(needs - len(values), 0)]))
                    )
            except Exception:
                return values, True
        return values, False

    def crash(self, _: int) -> None:
        old = self.machine
        if self.journal is not None:  # as it is at this instant, whatever closing adds
            self.journal = self.journal.reopened()
        else:
            old.close()
        self.machine = self._made()
        old.close()
        again = {oid for oid, attempt in self.waiting if attempt > 1}
        self.failed = {oid: oid in again for oid in self.failed}

    def set(self, what: tuple[int, int]) -> None:
        slot, which = what
        function = FUNCTIONS[which]
        table = list(self.tables[self.machine.revision])
        table[slot] = function
        info = self.machine.set(slot, function, reason=f"{slot} {which}")
        self.tables[info.number] = (table[0], table[1])

    def rollback(self, back: int) -> None:
        number = max(self.machine.revision - back, 0)
        self.tables[self.machine.rollback(number).number] = self.tables[number]

    def replay(self, which: int) -> None:
        if not self.recorded:
            with pytest.raises(UnknownMessage):
                self.machine.replay(new_oid())
            return
        oid = self.recorded[which % len(self.recorded)][0]
        assert self.machine.replay(oid) == [oid]
        self._again(oid)

    def retry(self, _: int) -> None:
        due = [oid for oid, retried in self.failed.items() if not retried]
        assert self.machine.retry_errors() == due
        for oid in due:
            self._again(oid)

    def _again(self, oid: str) -> None:
        attempts = [one[1] for one in (*self.recorded, *self.waiting) if one[0] == oid]
        self.waiting.append((oid, max(attempts) + 1))
        if oid in self.failed:
            self.failed[oid] = True

    def trial(self, which: int) -> None:
        assert self.machine.trial(1, FUNCTIONS[which] or str, last=3).tried == min(
            len({one[0] for one in self.recorded[-3:]}), 3
        )

    # --- what must be so ---

    def check(self) -> None:
        """Fail unless counts, attempts, records and history are what the test knows."""
        machine = self.machine
        status = machine.status
        assert_counts_add_up(status)
        assert status.put == len(self.recorded) + len(self.waiting)
        assert (status.queue_size, status.errored, status.last_seq) == (
            len(self.waiting), self.errored, len(self.recorded),
        )  # fmt: skip
        records = machine.recent(1_000)
        assert [(one.seq, one.oid, one.attempt, one.revision) for one in records] == [
            (seq, *one) for seq, one in enumerate(self.recorded, 1)
        ]
        assert [one.number for one in machine.revisions] == sorted(self.tables)
        attempts = defaultdict(list)
        for oid, attempt, *_ in (*self.recorded, *self.waiting):
            attempts[oid].append(attempt)
        assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in attempts.values()), "each attempt once"
        for oid in list(self.messages)[-2:]:
            found = machine.lookup(oid)
            assert found.message == self.messages[oid]
            done = [one.attempt for one in found.attempts if one.seq]
            assert done == [attempt for other, attempt, _ in self.recorded if other == oid]


life_settings = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=25)


@settings(life_settings)
@given(scripts)
def test_whatever_happens_nothing_is_lost_or_recorded_twice_when_the_process_is_killed(script) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert Life("killed", Path(folder)).live(script) >= 0


@settings(life_settings, max_examples=8)
@given(scripts)
def test_whatever_happens_nothing_is_lost_or_recorded_twice_with_a_file(script) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert Life("closed", Path(folder)).live(script) >= 0
