"""What a journal costs: beside a machine without one, bare SQLite, an unsynced queue; and as it grows.

Everything is written to the disk that holds the folder for temporary files; set ``TMPDIR`` for another one. What is
confirmed is synced, so the figures of putters are mostly the disk's.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from litequeue import LiteQueue  # type: ignore[import-untyped, unused-ignore]

from benchmarks.common import ROUNDS, SLOTS, Figure, Point, earthquakes, median_ratio
from timbr_wamp import Machine
from timbr_wamp.machine.protocols import Commit
from timbr_wamp.machine.records.rows import Block
from timbr_wamp.names import new_oids
from timbr_wamp.store import SqliteJournal
from timbr_wamp.streams import stream

STAGES = 8
TOGETHER = 100
PUTTERS, PUTS_EACH = 8, 60
LIMIT_S = 120.0
#: Bytes of the journals whose cost for a message is measured, and of the one that is opened.
SIZES = (1_000_000, 100_000_000, 2_000_000_000)
OPENED_BYTES = 1_000_000_000


@contextmanager
def folder() -> Iterator[Path]:
    """Give a new folder, which is removed."""
    path = Path(tempfile.mkdtemp(prefix="twb-journal-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def machine(journal: SqliteJournal | Path | None, bufsize: int = 4096) -> Iterator[Machine]:
    """Give a machine with the three slots."""
    with Machine(STAGES, bufsize=bufsize, journal=journal) as made:
        made[0:3] = SLOTS
        yield made


def pulling(messages: Sequence[Any], journal: SqliteJournal | Path | None) -> float:
    """Return messages per second of a machine that pulls a ready source."""
    with machine(journal) as made:
        started = time.perf_counter()
        made.source = list(messages)
        made.start()
        assert made.wait(LIMIT_S)
        return len(messages) / (time.perf_counter() - started)


def putting_many(messages: Sequence[Any], journal: Path | None) -> float:
    """Return messages per second of a machine that is fed by `put_many`, many at once."""
    with machine(journal) as made:
        made.start()
        started = time.perf_counter()
        for at in range(0, len(messages), TOGETHER):
            assert not made.put_many(messages[at : at + TOGETHER], timeout_s=LIMIT_S).refused
        assert made.wait(LIMIT_S)
        return len(messages) / (time.perf_counter() - started)


def at_once(work: Callable[[int], object]) -> float:
    """Return calls per second of ``work(number)`` by several threads, each of which waits for each call."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(PUTTERS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return PUTTERS * PUTS_EACH / (time.perf_counter() - started)


def putters(messages: Sequence[Any]) -> float:
    """Return messages per second of threads that put one by one and wait until it is on the disk."""
    with folder() as at, machine(at / "j") as made:
        made.start()
        rate = at_once(lambda number: [made.put(messages[n], block=True) for n in range(PUTS_EACH)])
        assert made.wait(LIMIT_S)
        return rate


def bare_inserts(messages: Sequence[Any]) -> float:
    """Return rows per second of the same threads, each with a connection of its own to one SQLite file."""
    with folder() as at:
        path = at / "bare.db"
        first = sqlite3.connect(path)
        first.execute("PRAGMA journal_mode=WAL")
        first.execute("CREATE TABLE inbox (id INTEGER PRIMARY KEY, message BLOB)")
        first.close()

        def work(number: int) -> None:
            db = sqlite3.connect(path, timeout=LIMIT_S, isolation_level=None)
            db.execute("PRAGMA synchronous=FULL")
            for n in range(PUTS_EACH):
                db.execute("BEGIN IMMEDIATE")
                db.execute("INSERT INTO inbox (message) VALUES (?)", (pickle.dumps(messages[n], 5),))
                db.execute("COMMIT")
            db.close()

        return at_once(work)


def bare_hundreds(messages: Sequence[Any]) -> float:
    """Return rows per second of one connection that commits as many at once as `put_many` gets, each commit synced."""
    with folder() as at:
        db = sqlite3.connect(at / "bare.db", isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE inbox (id INTEGER PRIMARY KEY, message BLOB)")
        started = time.perf_counter()
        for n in range(0, len(messages), TOGETHER):
            db.execute("BEGIN IMMEDIATE")
            rows = [(pickle.dumps(message, 5),) for message in messages[n : n + TOGETHER]]
            db.executemany("INSERT INTO inbox (message) VALUES (?)", rows)
            db.execute("COMMIT")
        rate = len(messages) / (time.perf_counter() - started)
        db.close()
        return rate


def litequeue(texts: Sequence[str]) -> float:
    """Return messages per second of litequeue's `put`, as it comes: nothing is synced."""
    with folder() as at:
        queue = LiteQueue(str(at / "queue.db"))
        started = time.perf_counter()
        for text in texts:
            queue.put(text)
        rate = len(texts) / (time.perf_counter() - started)
        queue.close()
        return rate


def appending(texts: Sequence[str]) -> float:
    """Return messages per second of `append_many` to a stream, many at once, each call synced."""
    with folder() as at, stream("events", f"sqlite://{at}/streams.db") as events:
        started = time.perf_counter()
        for n in range(0, len(texts), TOGETHER):
            events.append_many(texts[n : n + TOGETHER])
        return len(texts) / (time.perf_counter() - started)


def filled(path: Path, size_bytes: int) -> SqliteJournal:
    """Return a journal with records of about so many bytes, each of some KB."""
    journal = SqliteJournal(path, kept_bytes=4 * max(SIZES))
    value = b'"' + os.urandom(2_000).hex().encode() + b'"'
    meta = b'{"run":"%b","seq":1,"attempt":1,"revision":1,"errored":false}' % journal.run.encode()
    count, seq = 64, 1
    while seq * len(value) < size_bytes:
        parts = [value, meta] * count
        lengths = list(map(len, parts))
        block = Block(seq, new_oids(time.time(), count), parts, lengths, (9,), [meta] * count, [(value,)] * count)
        journal.commit(Commit([block], ()))
        seq += count
    return journal


def opening() -> float:
    """Return the seconds until a machine with a large journal is there."""
    with folder() as at:
        filled(at / "j", OPENED_BYTES).close()
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            made = Machine(STAGES, journal=at / "j")
            times.append(time.perf_counter() - started)
            made.close()
        return statistics.median(times)


def cost_at(size_bytes: int, messages: Sequence[Any]) -> float:
    """Return microseconds a message of a machine that pulls a source, with a journal of that size."""
    with folder() as at:
        journal = filled(at / "j", size_bytes)
        try:
            return statistics.median(1e6 / pulling(messages, journal) for _ in range(3))
        finally:
            journal.close()


def with_journal(measure: Callable[[Sequence[Any], Path], float], messages: Sequence[Any]) -> float:
    """Measure with a new journal."""
    with folder() as at:
        return measure(messages, at / "j")


def figures() -> Iterator[Figure | Point]:
    """Measure and yield the figures."""
    many = earthquakes(5)
    texts = [str(message) for message in many]
    (pulled,), values = median_ratio(ROUNDS, lambda: pulling(many, None), lambda: with_journal(pulling, many))
    rate = f"{statistics.median(values[1]):,.0f}/s against {statistics.median(values[0]):,.0f}/s"
    yield Figure("fed from a source, with a journal ÷ without", pulled, ">=", 0.45, note=rate)
    (put, _), values = median_ratio(
        ROUNDS, lambda: putting_many(many, None), lambda: with_journal(putting_many, many), lambda: bare_hundreds(many)
    )
    rates = [statistics.median(each) for each in values]
    rate = f"{rates[1]:,.0f}/s against {rates[0]:,.0f}/s; bare INSERTs with the same syncs {rates[2]:,.0f}/s"
    yield Figure(f"fed by put_many({TOGETHER}), with a journal ÷ without", put, ">=", 0.45, note=rate)
    (safe,), values = median_ratio(ROUNDS, lambda: bare_inserts(many), lambda: putters(many))
    rate = f"{statistics.median(values[1]):,.0f}/s against {statistics.median(values[0]):,.0f}/s"
    yield Figure(f"{PUTTERS} putters, each put on the disk ÷ bare INSERT and COMMIT", safe, ">=", 0.7, note=rate)
    (appended,), values = median_ratio(ROUNDS, lambda: litequeue(texts), lambda: appending(texts))
    rate = f"{statistics.median(values[1]):,.0f}/s against {statistics.median(values[0]):,.0f}/s"
    yield Figure(f"append_many({TOGETHER}), synced ÷ litequeue's put, unsynced", appended, ">=", 1.0, note=rate)
    yield Figure("opening a machine whose journal has 1 GB", opening(), "<=", 1.0, "s")
    for size in SIZES:
        yield Point(f"a message, its journal has {size / 1e6:,.0f} MB", cost_at(size, many), "µs")
