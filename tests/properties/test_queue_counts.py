"""No message is lost or counted twice, in any sequence of calls."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from machine_kit import assert_counts_add_up

from timbr_wamp.errors import MachineClosed, MachineFull
from timbr_wamp.machine.intake.message_queue import Droppable, MessageQueue
from timbr_wamp.machine.messages import Entry


class QueueBesideModel(RuleBasedStateMachine):
    """A queue, and beside it a model of plain lists that knows where each message is."""

    @initialize(capacity=st.integers(1, 5))
    def make(self, capacity: int) -> None:
        self.reports = self.crowds = 0
        self.crowded = False
        self.queue = MessageQueue(capacity, on_full=self.report_full, timer=lambda: 1.0e9 * self.reports)
        self.capacity = capacity
        self.waiting: list[int] = []
        #: Waiting or under way, from a source, and allowed to be dropped.
        self.droppable: set[int] = set()
        self.under_way: list[int] = []
        self.finished: list[int] = []
        self.refused = self.number = 0
        self.closed = False

    def entry(self) -> Entry:
        self.number += 1
        return (f"{self.number:024x}", self.number, 0.0, 1)

    def report_full(self) -> None:
        self.reports += 1
        assert_counts_add_up(self.queue.snapshot())

    def no_room(self) -> None:
        """Note in the model that a caller found no room."""
        if not self.crowded and not self.closed:
            self.crowded = True
            self.crowds += 1

    @rule()
    def put(self) -> None:
        entry = self.entry()
        try:
            self.queue.put(entry)
        except MachineFull:
            assert len(self.waiting) >= self.capacity
            self.refused += 1
            self.no_room()
        except MachineClosed:
            assert self.closed
        else:
            self.waiting.append(entry[1])

    @rule(count=st.integers(1, 8))
    def offer(self, count: int) -> None:
        entries = [self.entry() for _ in range(count)]
        if not self.closed and len(self.waiting) >= self.capacity:
            self.no_room()
        taken = self.queue.offer(entries, 0.0)
        assert taken == (0 if self.closed else min(count, max(self.capacity - len(self.waiting), 0)))
        self.waiting += [entry[1] for entry in entries[:taken]]

    @rule(count=st.integers(0, 8))
    def fill(self, count: int) -> None:
        entries = [self.entry() for _ in range(count)]
        assert self.queue.fill(iter(entries)) == (0 if self.closed else count)
        if not self.closed:
            self.waiting += [entry[1] for entry in entries]

    @rule(count=st.integers(1, 4))
    def set_aside(self, count: int) -> None:
        entries = [self.entry() for _ in range(count)]
        try:
            self.queue.set_aside(entries)
        except MachineClosed:
            assert self.closed
        else:
            self.no_room()
            self.under_way += [entry[1] for entry in entries]

    @rule(count=st.integers(1, 8))
    def displace(self, count: int) -> None:
        entries = [Droppable(self.entry()) for _ in range(count)]
        numbers = [entry[1] for entry in entries]
        try:
            dropped = [entry[1] for entry in self.queue.displace(entries)]
        except MachineClosed:
            assert self.closed
            return
        self.droppable |= set(numbers)
        waiting = self.waiting + numbers
        over = max(len(waiting) - self.capacity, 0)
        assert dropped == [n for n in waiting if n in self.droppable][:over]
        self.waiting = [n for n in waiting if n not in dropped]
        self.under_way += dropped
        if dropped:
            self.no_room()

    @rule(limit=st.integers(1, 4))
    def take(self, limit: int) -> None:
        taken = [message for _, message, _, _ in self.queue.take(limit, 0.0)]
        assert taken == self.waiting[:limit]
        self.waiting = self.waiting[limit:]
        if len(self.waiting) <= self.capacity // 2:
            self.crowded = False
        self.under_way += taken

    @rule(count=st.integers(1, 4), kind=st.sampled_from(["processed", "errored", "dropped"]))
    def finish(self, count: int, kind: str) -> None:
        done, self.under_way = self.under_way[:count], self.under_way[count:]
        self.queue.finish(**{kind: len(done)})
        self.finished += done

    @rule()
    def give_back(self) -> None:
        entries = [self.as_it_was(n) for n in self.under_way]
        self.queue.give_back(entries)
        self.droppable -= set(self.under_way)
        self.waiting, self.under_way = self.under_way + self.waiting, []

    def as_it_was(self, number: int) -> Entry:
        entry = (f"{number:024x}", number, 0.0, 1)
        return Droppable(entry) if number in self.droppable else entry

    @rule(capacity=st.integers(1, 5))
    def resize(self, capacity: int) -> None:
        self.queue.resize(capacity)
        self.capacity = capacity

    @rule()
    def close(self) -> None:
        self.queue.close()
        self.closed = True

    @invariant()
    def it_adds_up(self) -> None:
        if not hasattr(self, "queue"):
            return
        counts = self.queue.snapshot()
        assert_counts_add_up(counts)
        assert counts.put == len(self.waiting) + len(self.under_way) + len(self.finished)
        assert (counts.queue_size, counts.in_flight) == (len(self.waiting), len(self.under_way))
        assert counts.refused == self.refused
        assert (self.reports, self.queue.crowded) == (self.crowds, self.crowded)
        assert self.queue.idle() == (not self.waiting and not self.under_way)


TestQueueLaw = QueueBesideModel.TestCase
