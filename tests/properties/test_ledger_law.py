"""No message is lost or counted twice, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from timbr_wamp.errors import MachineClosed, MachineFull
from timbr_wamp.machine.ledger import Ledger
from timbr_wamp.machine.protocols import Entry


class LedgerLaw(RuleBasedStateMachine):
    """A ledger beside a model of plain lists that says what is where."""

    @initialize(capacity=st.integers(1, 5))
    def make(self, capacity: int) -> None:
        self.ledger = Ledger(capacity)
        self.capacity = capacity
        self.waiting: list[int] = []
        self.under_way: list[int] = []
        self.finished: list[int] = []
        self.refused = self.number = 0
        self.closed = False

    def entry(self) -> Entry:
        self.number += 1
        return (f"{self.number:024x}", self.number, 0.0, 1)

    @rule()
    def put(self) -> None:
        entry = self.entry()
        try:
            self.ledger.put(entry)
        except MachineFull:
            assert len(self.waiting) >= self.capacity
            self.refused += 1
        except MachineClosed:
            assert self.closed
        else:
            self.waiting.append(entry[1])

    @rule(count=st.integers(1, 8), beyond=st.booleans())
    def offer(self, count: int, beyond: bool) -> None:
        entries = [self.entry() for _ in range(count)]
        taken = self.ledger.offer(entries, 0.0, beyond=beyond)
        if self.closed:
            assert taken == 0
        elif beyond:
            assert taken == count
        else:
            assert taken == min(count, max(self.capacity - len(self.waiting), 0))
        self.waiting += [entry[1] for entry in entries[:taken]]

    @rule(limit=st.integers(1, 4))
    def take(self, limit: int) -> None:
        taken = [message for _, message, _, _ in self.ledger.take(limit, 0.0)]
        assert taken == self.waiting[:limit]
        self.waiting = self.waiting[limit:]
        self.under_way += taken

    @rule(count=st.integers(1, 4), kind=st.sampled_from(["processed", "errored", "dropped"]))
    def finish(self, count: int, kind: str) -> None:
        done, self.under_way = self.under_way[:count], self.under_way[count:]
        self.ledger.finish(**{kind: len(done)})
        self.finished += done

    @rule()
    def give_back(self) -> None:
        entries = [(f"{n:024x}", n, 0.0, 1) for n in self.under_way]
        self.ledger.give_back(entries)
        self.waiting, self.under_way = self.under_way + self.waiting, []

    @rule(capacity=st.integers(1, 5))
    def resize(self, capacity: int) -> None:
        self.ledger.resize(capacity)
        self.capacity = capacity

    @rule()
    def close(self) -> None:
        self.ledger.close()
        self.closed = True

    @invariant()
    def it_adds_up(self) -> None:
        if not hasattr(self, "ledger"):
            return
        counts = self.ledger.snapshot()
        counts.validate()
        assert counts.put == len(self.waiting) + len(self.under_way) + len(self.finished)
        assert (counts.queue_size, counts.in_flight) == (len(self.waiting), len(self.under_way))
        assert counts.refused == self.refused
        assert self.ledger.idle() == (not self.waiting and not self.under_way)


TestLedgerLaw = LedgerLaw.TestCase
