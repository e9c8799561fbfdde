"""The feed against every kind of loss: each kept row exactly once in order, each other one in one gap."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from timbr_wamp.client.feed import Batch, Batcher, Deliver, Feed, Gap, Instruction, Refill, RunChanged


@dataclass
class KernelSupervisor:
    """What numbers the rows, batches them and keeps the newest: a machine behind its bridge."""

    kept: int
    batcher: Batcher = field(default_factory=lambda: Batcher(max_rows=4))
    run: str = "run0"
    last: int = 0
    totals: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ring: deque[list[object]] = deque(maxlen=self.kept)

    def produce(self, count: int, now: float) -> list[Batch]:
        batches = []
        for _ in range(count):
            self.last += 1
            row: list[object] = [self.last, f"{self.run}:{self.last}"]
            self.ring.append(row)
            batches += self.batcher.add(self.run, row, 1, now)
        if (rest := self.batcher.flush()) is not None:
            batches.append(rest)
        self.totals[self.run] = self.last
        return batches

    def restart(self) -> None:
        self.ring.clear()
        self.run, self.last = f"run{len(self.totals)}x", 0
        self.totals[self.run] = 0

    def page(self, refill: Refill) -> tuple[str, int, int, list[list[object]]] | None:
        if refill.run != self.run:
            return None  # RunMismatch
        first = int(self.ring[0][0]) if self.ring else self.last + 1
        rows = [row for row in self.ring if int(row[0]) > refill.after_seq]  # type: ignore[call-overload]
        return self.run, first, self.last, rows[: refill.limit]


class Reader:
    """Drives a feed and checks what it says, at every step."""

    def __init__(self, keeper: KernelSupervisor, feed: Feed) -> None:
        self.keeper, self.feed = keeper, feed
        self.refills: deque[Refill] = deque()
        self.seen: dict[str, list[tuple[str, int]]] = {}
        self.current: str | None = None
        self.runs: set[str] = set()

    def take(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Deliver(run, rows):
                    assert rows
                    assert self.current in (None, run)
                    self.current = run
                    for seq, text in rows:
                        assert text == f"{run}:{seq}"
                        self.note(run, seq, "row")
                case Gap(run, first, last):
                    assert first <= last
                    if run == self.keeper.run:
                        kept = {row[0] for row in self.keeper.ring}
                        assert not kept & set(range(first, last + 1)), "a gap over rows that are still kept"
                    for seq in range(first, last + 1):
                        self.note(run, seq, "gap")
                case RunChanged(run, previous):
                    assert self.current in (None, previous)
                    self.current = run
                case Refill():
                    assert all(other.run != instruction.run for other in self.refills), "two refills under way"
                    self.refills.append(instruction)

    def note(self, run: str, seq: int, what: str) -> None:
        seen = self.seen.setdefault(run, [])
        assert not seen or seen[-1][1] == seq - 1, f"{what} {run}:{seq} after {seen[-1]}"
        seen.append((what, seq))

    def answer(self) -> None:
        if self.refills:
            refill = self.refills.popleft()
            page = self.keeper.page(refill)
            if page is None:
                self.feed.on_refill_failed(refill)
            else:
                self.take(self.feed.on_page(*page))

    def settle(self) -> None:
        for _ in range(500):
            self.take(self.feed.on_status(self.keeper.run, self.keeper.last, confirmed=True))
            while self.refills:
                self.answer()
            if self.feed.run == self.keeper.run and self.feed.expected == self.keeper.last + 1:
                return
        raise AssertionError("the feed never caught up")


steps = st.lists(
    st.one_of(
        st.tuples(st.just("produce"), st.integers(1, 12)),
        st.tuples(st.sampled_from(["lose", "repeat", "swap", "arrive", "status", "sure", "answer"]), st.just(0)),
        st.tuples(st.sampled_from(["fail", "reconnect", "restart"]), st.just(0)),
    ),
    max_size=60,
)


def overtake(way: deque[Batch], reader: Reader) -> None:
    """Lose what is still on its way of runs that began and ended unseen.

    WAMP keeps one publisher's order for one subscriber, so the first word of a run never comes
    after the first word of a later one.
    """
    runs = list(reader.keeper.totals)
    seen = reader.feed.run
    for batch in list(way):
        if seen is not None and runs.index(batch.run) < runs.index(seen) and batch.run not in reader.runs:
            way.remove(batch)


def run_steps(reader: Reader, plan: list[tuple[str, int]]) -> None:
    keeper, way = reader.keeper, deque[Batch]()
    for number, (step, count) in enumerate(plan):
        if reader.feed.run is not None:
            reader.runs.add(reader.feed.run)
        overtake(way, reader)
        if step == "produce":
            way.extend(keeper.produce(count, float(number)))
        elif step == "restart":
            keeper.restart()
        elif step == "lose" and way:
            way.popleft()
        elif step == "swap" and len(way) > 1:
            way.rotate(1)
        elif step in ("arrive", "repeat") and way:
            batch = way[0] if step == "repeat" else way.popleft()
            reader.take(reader.feed.on_batch(batch.run, batch.first_seq, batch.last_seq, batch.rows))
        elif step in ("status", "sure"):
            reader.take(reader.feed.on_status(keeper.run, keeper.last, confirmed=step == "sure"))
        elif step == "answer":
            reader.answer()
        elif step == "fail" and reader.refills:
            reader.feed.on_refill_failed(reader.refills.popleft())
        elif step == "reconnect":
            way.clear()
            reader.refills.clear()
            reader.feed.on_reconnected()


@settings(max_examples=400, deadline=None)
@given(plan=steps, kept=st.integers(1, 20), pending=st.integers(1, 12), refill=st.integers(1, 6))
def test_every_row_is_delivered_once_in_order_or_named_in_one_gap(plan, kept, pending, refill):
    keeper = KernelSupervisor(kept)
    keeper.totals[keeper.run] = 0
    reader = Reader(keeper, Feed(run="run0", after_seq=0, pending_rows=pending, refill_rows=refill))
    run_steps(reader, plan)
    reader.settle()
    for seen in reader.seen.values():
        assert [seq for _, seq in seen] == list(range(1, len(seen) + 1))
    whole = reader.seen.get(keeper.run, [])
    assert len(whole) == keeper.last
    delivered = {seq for what, seq in whole if what == "row"}
    assert {row[0] for row in keeper.ring} <= delivered


@settings(max_examples=200, deadline=None)
@given(plan=steps, kept=st.integers(1, 20))
def test_from_now_on_begins_anywhere_and_misses_nothing_after(plan, kept):
    keeper = KernelSupervisor(kept)
    keeper.produce(5, 0.0)
    reader = Reader(keeper, Feed())
    reader.take(reader.feed.on_status(keeper.run, keeper.last))
    run_steps(reader, plan)
    reader.settle()
    first_run = reader.seen.get("run0", [])
    assert not first_run or first_run[0][1] == 6


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 400)), max_size=60),
    flushes=st.integers(1, 10),
)
def test_batches_are_consecutive_bounded_and_complete(rows, flushes):
    batcher = Batcher(max_rows=5, max_bytes=1000)
    sent: list[tuple[str, int]] = []
    out: list[Batch] = []
    seq = 0
    for number, (hole, size) in enumerate(rows):
        seq += 1 + hole
        sent.append(("r", seq))
        out += batcher.add("r", [seq, "x"], size, float(number))
        if number % flushes == 0:
            out += [batch] if (batch := batcher.flush()) else []
    out += [batch] if (batch := batcher.flush()) else []
    assert [(batch.run, row[0]) for batch in out for row in batch.rows] == sent
    assert batcher.due is None
    for batch in out:
        assert [row[0] for row in batch.rows] == list(range(batch.first_seq, batch.last_seq + 1))
        assert len(batch.rows) <= 5


def test_a_batch_waits_no_longer_than_its_age():
    batcher = Batcher(max_age_s=0.020)
    assert batcher.add("r", [1, "a"], 1, now=10.0) == []
    assert batcher.due == 10.020
    assert batcher.flush(10.019) is None
    assert batcher.flush(10.021) == Batch("r", 1, 1, [[1, "a"]])
    assert batcher.flush(10.022) is None


def test_a_lost_tail_is_asked_for_by_the_second_status_that_names_it():
    feed = Feed(run="r", after_seq=0)
    feed.on_status("r", 0)
    assert feed.on_batch("r", 1, 1, [[1]]) == [Deliver("r", [[1]])]
    assert feed.on_status("r", 3) == []  # they may be on their way
    assert feed.on_status("r", 3) == [Refill("r", 1, 500)]
    assert feed.on_page("r", 1, 3, [[2], [3]]) == [Deliver("r", [[2], [3]])]


def test_a_run_that_comes_back_goes_on_where_it_was_left():
    feed = Feed(run="a", after_seq=0)
    feed.on_batch("a", 1, 2, [[1], [2]])
    assert feed.on_batch("b", 1, 1, [[1]]) == [RunChanged("b", "a"), Deliver("b", [[1]])]
    assert feed.on_batch("a", 3, 3, [[3]]) == [Gap("a", 3, 3)]  # late: its run is over
    assert feed.on_status("a", 4, confirmed=True) == [RunChanged("a", "b"), Refill("a", 3, 500)]
