"""The newest records and failures, bounded in number and bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from timbr_wamp.contract import ErrorRow
from timbr_wamp.machine.records.failures import ErrorRing, Failed
from timbr_wamp.machine.records.ring import RecordRing
from timbr_wamp.machine.records.rows import Block


def block(first: int, texts: list[bytes], layout: tuple[int, ...] = ()) -> Block:
    """Return consecutive rows of one value each."""
    oids = [f"{n:024x}" for n in range(first, first + len(texts))]
    parts = [part for text in texts for part in (text, b"{}")]
    return Block(first, oids, parts, list(map(len, parts)), layout, [b"{}"] * len(texts), [[text] for text in texts])


def rows(first: int, last: int, size: int = 8) -> list[Block]:
    """Return rows whose texts and metas have ``size`` + 4 bytes each."""
    return [block(first, [b"x" * size] * (last - first + 1))]


def numbers(found: list) -> list[int]:
    return [row[0] for row in found]


def test_an_empty_ring_keeps_nothing_and_says_so():
    ring = RecordRing()
    assert ring.after(0, 10, 1000) == (1, 0, [])
    assert ring.newest(5) == []
    assert ring.get(1) is None


def test_the_oldest_rows_are_dropped_beyond_the_number_limit():
    ring = RecordRing(rows=5)
    ring.extend(rows(1, 3))
    assert (ring.first_seq, ring.last_seq) == (1, 3)
    ring.extend(rows(4, 12))
    first, last, found = ring.after(0, 100, 10_000)
    assert (first, last, numbers(found)) == (8, 12, [8, 9, 10, 11, 12])
    assert ring.get(7) is None
    assert ring.get(8) is not None


def test_the_oldest_rows_are_dropped_beyond_the_byte_limit_and_the_newest_stays_whatever_its_size():
    ring = RecordRing(rows=100, limit_bytes=120)
    ring.extend(rows(1, 20))
    assert numbers(ring.newest(100)) == list(range(11, 21))
    ring.extend(rows(21, 21, size=500))
    assert numbers(ring.newest(100)) == [21]
    ring.extend(rows(22, 25))
    assert numbers(ring.newest(100)) == [22, 23, 24, 25]
    ring.extend(rows(26, 300))
    assert len(ring.newest(1000)) == 10


@given(
    capacity=st.integers(1, 60),
    limit_bytes=st.integers(20, 500),
    batches=st.lists(st.lists(st.binary(max_size=70), max_size=8), max_size=60),
)
def test_a_ring_keeps_the_newest_rows_whole_and_within_its_limits(
    capacity: int, limit_bytes: int, batches: list[list[bytes]]
) -> None:
    ring, put = RecordRing(capacity, limit_bytes), []
    for texts in batches:
        if texts:
            new = block(len(put) + 1, texts, (len(texts),))
            ring.extend([new])
            put += [
                (new.first_seq + n, oid, b"[%b]" % text, b"{}", new.layout)
                for n, (oid, text) in enumerate(zip(new.oids, texts, strict=True))
            ]
        kept = ring.newest(10_000)
        assert kept == put[len(put) - len(kept) :]
        assert len(kept) <= capacity
        assert bool(kept) == bool(put)
        assert sum(len(row[2]) + len(row[3]) for row in kept) <= limit_bytes or len(kept) == 1
        assert (ring.first_seq, ring.last_seq) == (len(put) - len(kept) + 1, len(put))
        assert all(ring.get(row[0]) == row for row in kept)


def test_a_reader_gets_rows_after_a_number_within_its_limits():
    ring = RecordRing()
    ring.extend(rows(1, 20))
    assert numbers(ring.after(5, 3, 1000)[2]) == [6, 7, 8]
    assert numbers(ring.after(5, 100, 35)[2]) == [6, 7, 8]
    assert numbers(ring.after(5, 100, 1)[2]) == [6], "at least one, or it would never get on"
    assert ring.after(20, 100, 1000) == (1, 20, [])
    assert ring.after(500, 100, 1000) == (1, 20, [])


def test_the_newest_rows_come_oldest_first():
    ring = RecordRing()
    ring.extend(rows(1, 20))
    assert numbers(ring.newest(3)) == [18, 19, 20]
    assert ring.newest(0) == ring.newest(-1) == []


def failed(oid: str, attempt: int = 1, size: int = 10, slots: int = 1) -> Failed:
    errors = [
        ErrorRow(
            run="r", seq=1, oid=oid, attempt=attempt, revision=1, time=0.0, slot=n, task=f"f{n}", exc_class="E",
            exc_value="", exc_tb="", input="",
        )
        for n in range(slots)
    ]  # fmt: skip
    return Failed(errors, oid, "message of " + oid, attempt, size_bytes=size)


def opened(ring: ErrorRing) -> list[str]:
    return [entry.oid for entry in ring.open(lambda oid: True)]


def test_failures_are_counted_and_read_after_a_number():
    ring = ErrorRing()
    ring.add(failed("a", slots=2))
    number, found = ring.after(0)
    assert (number, len(found)) == (2, 2)
    ring.add(failed("b"))
    number, found = ring.after(number)
    assert (number, [row.oid for row in found]) == (3, ["b"])
    assert ring.after(3) == (3, [])
    assert ring.after(1 << 62) == (3, [])
    assert [row.oid for row in ring.rows(2)] == ["a", "b"]
    assert ring.rows(0) == []


def test_a_failure_is_opened_once_until_it_is_settled():
    ring = ErrorRing()
    ring.add(failed("a"))
    ring.add(failed("b"))
    (first, second) = ring.open(lambda oid: True)
    assert opened(ring) == []
    ring.reopen(second)
    assert opened(ring) == ["b"]
    ring.resolve("a")
    assert [row.resolved for row in ring.rows(9)] == [True, False]
    assert opened(ring) == []
    assert first.message == "message of a"


def test_when_the_next_attempt_fails_too_only_that_one_can_be_opened():
    ring = ErrorRing()
    ring.add(failed("a"))
    opened(ring)
    ring.add(failed("a", attempt=2))
    (again,) = ring.open(lambda oid: True)
    assert again.attempt == 2
    ring.resolve("a")
    assert [row.resolved for row in ring.rows(9)] == [True, True]


def test_failures_are_bounded_in_number():
    ring = ErrorRing(kept=3)
    for n in range(10):
        ring.add(failed(str(n)))
    assert [row.oid for row in ring.rows(99)] == ["7", "8", "9"]
    assert ring.number == 10


def test_failures_are_bounded_in_bytes_of_their_messages():
    ring = ErrorRing(kept=100, limit_bytes=100)
    for n in range(10):
        ring.add(failed(str(n), size=40))
    assert [row.oid for row in ring.rows(99)] == ["8", "9"]
    ring.add(failed("huge", size=5000))
    assert [row.oid for row in ring.rows(99)] == ["huge"], "the newest stays, whatever its size"
    ring.add(failed("small", size=1))
    assert [row.oid for row in ring.rows(99)] == ["small"]
