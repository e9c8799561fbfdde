"""The feed under every kind of loss: each kept row is delivered once and in order, each other row is in one gap."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from timbr_wamp.client.feed import Batcher, Deliver, Feed, Gap, Instruction, Refill, RunChanged
from timbr_wamp.contract import RecordsBatch


@dataclass
class Batch:
    """Consecutive rows on their way."""

    run: str
    rows: list[list[object]]

    @property
    def first_seq(self) -> int:
        return int(self.rows[0][0])  # type: ignore[call-overload,no-any-return]

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.rows) - 1


@dataclass
class FakeMachine:
    """A machine behind its bridge: numbers rows, batches them and keeps the newest."""

    kept: int
    per_batch: int = 4
    run: str = "run0"
    last: int = 0
    totals: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ring: deque[list[object]] = deque(maxlen=self.kept)

    def produce(self, count: int) -> list[Batch]:
        made: list[list[object]] = []
        for _ in range(count):
            self.last += 1
            row: list[object] = [self.last, f"{self.run}:{self.last}"]
            self.ring.append(row)
            made.append(row)
        self.totals[self.run] = self.last
        return [Batch(self.run, made[n : n + self.per_batch]) for n in range(0, count, self.per_batch)]

    def restart(self) -> None:
        self.ring.clear()
        self.run, self.last = f"run{len(self.totals)}x", 0
        self.totals[self.run] = 0

    def page(self, refill: Refill) -> tuple[str, int, int, list[tuple[int, list[list[object]]]]] | None:
        if refill.run != self.run:
            return None  # RunMismatch
        first = int(self.ring[0][0]) if self.ring else self.last + 1
        rows = [row for row in self.ring if int(row[0]) > refill.after_seq][: refill.limit]  # type: ignore[call-overload]
        middle = len(rows) // 2  # as where the layout changes
        parts = [(int(part[0][0]), part) for part in (rows[:middle], rows[middle:]) if part]  # type: ignore[call-overload]
        return self.run, first, self.last, parts


class Reader:
    """Drives a feed and checks its instructions at every step."""

    def __init__(self, machine: FakeMachine, feed: Feed) -> None:
        self.machine, self.feed = machine, feed
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
                    if run == self.machine.run:
                        kept = {row[0] for row in self.machine.ring}
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
            page = self.machine.page(refill)
            if page is None:
                self.feed.on_refill_failed(refill)
            else:
                self.take(self.feed.on_page(*page))

    def settle(self) -> None:
        for _ in range(500):
            self.take(self.feed.on_status(self.machine.run, self.machine.last, confirmed=True))
            while self.refills:
                self.answer()
            if self.feed.run == self.machine.run and self.feed.expected == self.machine.last + 1:
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


def drop_overtaken(in_transit: deque[Batch], reader: Reader) -> None:
    """Drop batches in transit of runs that started and ended between two observations.

    WAMP keeps one publisher's order for one subscriber, so the first message of a run never arrives
    after the first message of a later run.
    """
    runs = list(reader.machine.totals)
    seen = reader.feed.run
    for batch in list(in_transit):
        if seen is not None and runs.index(batch.run) < runs.index(seen) and batch.run not in reader.runs:
            in_transit.remove(batch)


def run_steps(reader: Reader, plan: list[tuple[str, int]]) -> None:
    machine, in_transit = reader.machine, deque[Batch]()
    for step, count in plan:
        if reader.feed.run is not None:
            reader.runs.add(reader.feed.run)
        drop_overtaken(in_transit, reader)
        if step == "produce":
            in_transit.extend(machine.produce(count))
        elif step == "restart":
            machine.restart()
        elif step == "lose" and in_transit:
            in_transit.popleft()
        elif step == "swap" and len(in_transit) > 1:
            in_transit.rotate(1)
        elif step in ("arrive", "repeat") and in_transit:
            batch = in_transit[0] if step == "repeat" else in_transit.popleft()
            reader.take(reader.feed.on_batch(batch.run, batch.first_seq, batch.last_seq, batch.rows))
        elif step in ("status", "sure"):
            reader.take(reader.feed.on_status(machine.run, machine.last, confirmed=step == "sure"))
        elif step == "answer":
            reader.answer()
        elif step == "fail" and reader.refills:
            reader.feed.on_refill_failed(reader.refills.popleft())
        elif step == "reconnect":
            in_transit.clear()
            reader.refills.clear()
            reader.feed.on_reconnected()


@settings(max_examples=400, deadline=None)
@given(plan=steps, kept=st.integers(1, 20), pending=st.integers(1, 12), refill=st.integers(1, 6))
def test_every_row_is_delivered_once_in_order_or_named_in_one_gap(plan, kept, pending, refill):
    machine = FakeMachine(kept)
    machine.totals[machine.run] = 0
    reader = Reader(machine, Feed(run="run0", after_seq=0, pending_rows=pending, refill_rows=refill))
    run_steps(reader, plan)
    reader.settle()
    for seen in reader.seen.values():
        assert [seq for _, seq in seen] == list(range(1, len(seen) + 1))
    whole = reader.seen.get(machine.run, [])
    assert len(whole) == machine.last
    delivered = {seq for what, seq in whole if what == "row"}
    assert {row[0] for row in machine.ring} <= delivered


@settings(max_examples=200, deadline=None)
@given(plan=steps, kept=st.integers(1, 20))
def test_a_feed_without_a_start_begins_anywhere_and_misses_nothing_after(plan, kept):
    machine = FakeMachine(kept)
    machine.produce(5)
    reader = Reader(machine, Feed())
    reader.take(reader.feed.on_status(machine.run, machine.last))
    run_steps(reader, plan)
    reader.settle()
    first_run = reader.seen.get("run0", [])
    assert not first_run or first_run[0][1] == 6


def a_batch(first: int, count: int, run: str = "r", layout: tuple[int, ...] = (), fill: str = "x") -> RecordsBatch:
    rows = [[first + n, "oid", [fill], {}] for n in range(count)]
    return RecordsBatch(
        run=run, first_seq=first, last_seq=first + count - 1, count=count, layout=list(layout), block=json.dumps(rows)
    )


def rows_of(batch: RecordsBatch) -> list[list[object]]:
    return json.loads(batch.block)  # type: ignore[no-any-return]


@settings(max_examples=200, deadline=None)
@given(
    arriving=st.lists(
        st.tuples(st.integers(0, 1), st.integers(1, 7), st.integers(0, 1), st.integers(1, 400), st.floats(0, 0.02)),
        max_size=60,
    )
)
def test_joined_batches_are_consecutive_of_one_layout_bounded_and_complete(arriving):
    batcher = Batcher(max_rows=10, max_bytes=1000)
    sent: list[list[object]] = []
    out: list[RecordsBatch] = []
    seq, now = 1, 0.0
    for hole, count, layout, size, after_s in arriving:
        seq, now = seq + hole, now + after_s
        batch = a_batch(seq, count, layout=(1, 2)[:layout], fill="x" * size)
        sent += [[batch.layout, row] for row in rows_of(batch)]
        out += batcher.add(batch, now)
        seq += count
    out += [batch] if (batch := batcher.flush(now + 1)) else []
    assert [[batch.layout, row] for batch in out for row in rows_of(batch)] == sent
    assert (batcher.due, batcher.size_bytes) == (None, 0)
    for batch in out:
        rows = rows_of(batch)
        assert [row[0] for row in rows] == list(range(batch.first_seq, batch.last_seq + 1))
        assert len(batch) == batch.count == len(rows) <= 10


def test_the_first_batch_after_a_quiet_time_is_passed_on_at_once_and_others_join_for_a_while():
    batcher = Batcher(max_age_s=0.020)
    assert batcher.add(a_batch(1, 1), now=10.0) == [a_batch(1, 1)]
    assert batcher.add(a_batch(2, 1), now=10.001) == []
    assert batcher.add(a_batch(3, 2), now=10.002) == []
    assert batcher.due == 10.020
    assert batcher.flush(10.019) is None
    assert rows_of(batcher.flush(10.021)) == rows_of(a_batch(2, 3))
    assert batcher.flush(10.022) is None


@given(count=st.integers(1, 9), start=st.integers(0, 9), fill=st.sampled_from(["x", "漢", '"\\']))
def test_the_end_of_a_batch_has_its_own_numbers(count, start, fill):
    batch = a_batch(5, count, fill=fill)
    rest = batch[start:]
    assert json.loads(rest.block) == rows_of(batch)[start:]
    assert (rest.count, rest.last_seq) == (max(count - start, 0), 4 + count if start < count else 4 + min(start, count))


def test_batches_that_wait_for_earlier_ones_are_bounded_in_bytes():
    batches = [a_batch(seq, 1, fill="x" * 1000) for seq in range(2, 12)]
    feed = Feed(run="r", after_seq=0, pending_bytes=5_000)
    for batch in batches:
        feed.on_batch("r", batch.first_seq, batch.last_seq, batch)
    assert 4_000 < feed.pending_bytes <= 5_000
    first = a_batch(1, 1)
    delivered = [one.rows for one in feed.on_page("r", 1, 11, [(1, first)]) if isinstance(one, Deliver)]
    assert delivered == [first, *batches[:4]]
    assert feed.pending_bytes == 0


def test_a_lost_tail_is_requested_after_the_second_status_that_names_it():
    feed = Feed(run="r", after_seq=0)
    feed.on_status("r", 0)
    assert feed.on_batch("r", 1, 1, [[1]]) == [Deliver("r", [[1]])]
    assert feed.on_status("r", 3) == []  # the rows may still be in transit
    assert feed.on_status("r", 3) == [Refill("r", 1, 500)]
    assert feed.on_page("r", 1, 3, [(2, [[2], [3]])]) == [Deliver("r", [[2], [3]])]


def test_a_run_that_comes_back_continues_where_it_was_left():
    feed = Feed(run="a", after_seq=0)
    feed.on_batch("a", 1, 2, [[1], [2]])
    assert feed.on_batch("b", 1, 1, [[1]]) == [RunChanged("b", "a"), Deliver("b", [[1]])]
    assert feed.on_batch("a", 3, 3, [[3]]) == [Gap("a", 3, 3)]  # late: its run is over
    assert feed.on_status("a", 4, confirmed=True) == [RunChanged("a", "b"), Refill("a", 3, 500)]
