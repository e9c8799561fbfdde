"""A machine's journal: one SQLite file with its inbox, records, failures, events and revisions.

A message that was put is in the inbox before its put returns, and leaves it with the commit of its record: so after
the end of the process at any instant, each is in one of the two. Records are kept as the machine makes them, many in
one row, so that a record costs a copy of its bytes and little else. Messages are kept as pickles, as they may be any
Python object; the file is its owner's alone (mode 0600), and another user's is refused.

`timbr_wamp.machine.protocols.Journal` is the seam. The file: `timbr_wamp.streams.sqlite_file`. Its rows:
`timbr_wamp.store.journal_rows`. Which files there are: `timbr_wamp.store.journal_files`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import orjson

from timbr_wamp.errors import StorageFailed
from timbr_wamp.machine.messages import Entry
from timbr_wamp.machine.protocols import Commit, CompactRow
from timbr_wamp.names import new_run
from timbr_wamp.store.journal_rows import (
    ROW,
    check_sum,
    inbox_entries,
    is_whole,
    packed,
    portions,
    record_rows,
    unfolded,
    unpacked,
)
from timbr_wamp.streams.sqlite_file import SqliteFile
from timbr_wamp.values import JsonValue

#: Records are kept so long, and so many bytes of them, unless the journal is told otherwise.
KEPT_S = 7 * 86_400.0
KEPT_BYTES = 1024**3
#: The same for the journals that machines in kernels have without being told.
DEFAULT_BYTES = 256 * 1024 * 1024
#: Events, failures and revisions that are kept, each.
NOTES_KEPT = {"event": 10_000, "failure": 20_000, "revision": 1_000}
#: Opening fails when another process has the journal and does not release it in this time, seconds.
OPEN_S = 2.0
#: After so many commits the oldest records and notes are looked at, and at most so many rows removed.
TRIM_EVERY, TRIM_ROWS = 32, 64

#: What `probe` writes.
PROBE_BYTES = 1024 * 1024

_APPLICATION_ID = 0x74576A6C  # "tWjl"
#: 1 had no check sums.
_VERSION = 2
_PAGE_BYTES = 16_384
_SCHEMA = """
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inbox (id INTEGER PRIMARY KEY, done BLOB NOT NULL, crc INTEGER NOT NULL,
    entries BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS record (
    first_seq INTEGER PRIMARY KEY, last_seq INTEGER NOT NULL, at REAL NOT NULL, bytes INTEGER NOT NULL,
    low BLOB NOT NULL, high BLOB NOT NULL, layout BLOB NOT NULL, oids BLOB NOT NULL, lengths BLOB NOT NULL,
    parts BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS record_oids ON record (low, high);
CREATE TABLE IF NOT EXISTS note (
    kind TEXT NOT NULL, number INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, number)) WITHOUT ROWID
"""

#: A message in the inbox: the row's number, and its place in the row.
_Place: TypeAlias = tuple[int, int]


class SqliteJournal:
    """See `timbr_wamp.machine.protocols.Journal`. Any thread; one process at a time has the file.

    Args:
        path: the file; made when absent.
        kept_s, kept_bytes: how long, and how many bytes of, records are kept; messages without a record are kept in
            any case.
        clock: UTC seconds.

    Raises:
        StorageBusy: another process has it.
        StorageFailed: it is not a journal, damaged, another user's, or cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        kept_s: float = KEPT_S,
        kept_bytes: int = KEPT_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path).expanduser().absolute()
        self.run: str
        self._kept_s, self._kept_bytes, self._clock = kept_s, kept_bytes, clock
        refuse_others(self.path)
        self._file = SqliteFile(
            self.path, schema=_SCHEMA, application_id=_APPLICATION_ID, exclusive=True, busy_s=OPEN_S,
            page_bytes=_PAGE_BYTES, version=_VERSION,
        )  # fmt: skip
        # The attributes below are used by the file's writing thread only.
        #: Where the messages are that have no record: by ``(oid, attempt)``; how many attempts of them, by oid.
        self._places: dict[tuple[str, int], _Place] = {}
        self._waiting: Counter[str] = Counter()
        #: Of each row of the inbox, the bits of the messages that have a record, and the number of messages.
        self._done: dict[int, tuple[int, int]] = {}
        #: The three do not show what is in the file: it is just opened, or a transaction was undone.
        self._stale = True
        self._file.on_rollback = self._note_rollback
        self._commits = 0
        try:
            self.run, self._bytes, self._last_seq = self._file.write(self._opened)
        except BaseException:
            self._file.close()
            raise

    def _note_rollback(self) -> None:
        self._stale = True

    @staticmethod
    def _opened(db: sqlite3.Connection) -> tuple[str, int, int]:
        db.execute("INSERT OR IGNORE INTO fact VALUES ('run', ?)", (new_run(),))
        run = db.execute("SELECT value FROM fact WHERE name = 'run'").fetchone()[0]
        size, last = db.execute("SELECT total(bytes), max(last_seq) FROM record").fetchone()
        return run, int(size), last or 0

    def close(self) -> None:
        """Release the file; what was posted is written first. Idempotent."""
        self._file.close()

    # --- the inbox ---

    def append(self, entries: Sequence[Entry], *, sync: bool = True, position: JsonValue = None) -> None:
        rows = [packed(some) for some in portions(entries)]
        place = None if position is None else orjson.dumps(position)

        def work(db: sqlite3.Connection) -> None:
            self._refresh(db)
            for keys, bytes_ in rows:
                number = db.execute(
                    "INSERT INTO inbox (done, crc, entries) VALUES (x'', ?, ?)", (check_sum(bytes_), bytes_)
                ).lastrowid
                assert number is not None
                self._enter(number, 0, keys)
            if place is not None:
                db.execute("INSERT OR REPLACE INTO fact VALUES ('position', ?)", (place,))

        if not sync and not self._file.failing:
            self._file.post(work)
        else:  # a source must wait while nothing can be kept
            self._file.write(work, durable=sync)

    def _enter(self, number: int, done: int, keys: Sequence[tuple[str, int]]) -> None:
        self._done[number] = (done, len(keys))
        for n, key in enumerate(keys):
            if not done >> n & 1:
                self._places[key] = (number, n)
                self._waiting[key[0]] += 1

    def _refresh(self, db: sqlite3.Connection) -> None:
        """Read what the inbox holds, unless it is known."""
        if self._stale:
            self._places.clear()
            self._waiting.clear()
            self._done.clear()
            for number, done, held in self._inbox(db):
                self._enter(number, done, [(oid, attempt) for oid, _, _, attempt in held])
            self._stale = False

    def _inbox(self, db: sqlite3.Connection) -> Iterator[tuple[int, int, list[tuple[str, bytes, float, int]]]]:
        """Yield of each row of the inbox its number, the bits of what has records, and its entries."""
        for number, bits, crc, entries in db.execute("SELECT id, done, crc, entries FROM inbox ORDER BY id"):
            if check_sum(entries) != crc:
                raise StorageFailed(str(self.path), "the file is damaged (messages that wait have other check sums)")
            yield number, int.from_bytes(bits, "little"), inbox_entries(entries)

    def pending(self, limit: int) -> list[Entry]:
        entries: list[Entry] = []
        for _, done, held in self._file.read(lambda db: list(self._inbox(db))):
            for n, (oid, message, received_at, attempt) in enumerate(held):
                if not done >> n & 1 and len(entries) < limit:
                    entries.append((oid, unpacked(message), received_at, attempt))
        return entries

    # --- records ---

    def commit(self, commit: Commit) -> None:
        now = self._clock()
        rows = [row for block in commit.blocks for row in record_rows(block, now)]

        def work(db: sqlite3.Connection) -> None:
            self._refresh(db)
            db.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            self._leave(db, commit.done)
            if commit.notes:
                db.executemany("INSERT OR REPLACE INTO note VALUES (?, ?, ?)", commit.notes)
            self._bytes += sum(row[3] for row in rows)
            if rows:
                self._last_seq = rows[-1][1]
            self._commits += 1
            if self._commits % TRIM_EVERY == 0:
                self._trim(db, now)

        before = self._bytes, self._last_seq
        try:
            self._file.write(work, durable=False, patient=True)
        except BaseException:
            self._bytes, self._last_seq = before
            raise

    def _leave(self, db: sqlite3.Connection, keys: Sequence[tuple[str, int]]) -> None:
        """Take messages out of the inbox, as they have records now."""
        bits: defaultdict[int, int] = defaultdict(int)
        for key in keys:
            place = self._places.pop(key, None)
            if place is not None:
                bits[place[0]] |= 1 << place[1]
                self._waiting[key[0]] -= 1
                if not self._waiting[key[0]]:
                    del self._waiting[key[0]]
        empty, partly = [], []
        for number, more in bits.items():
            done, count = self._done[number]
            done |= more
            if done == (1 << count) - 1:
                del self._done[number]
                empty.append((number,))
            else:
                self._done[number] = (done, count)
                partly.append((done.to_bytes((count + 7) // 8, "little"), number))
        if empty:
            db.executemany("DELETE FROM inbox WHERE id = ?", empty)
        if partly:
            db.executemany("UPDATE inbox SET done = ? WHERE id = ?", partly)

    def _trim(self, db: sqlite3.Connection, now: float) -> None:
        """Remove the oldest records beyond the limits, and notes. The newest row of records stays."""
        removed = 0
        upto: int | None = None
        oldest = db.execute("SELECT last_seq, at, bytes FROM record ORDER BY first_seq LIMIT ?", (TRIM_ROWS,))
        for last_seq, at, size in oldest.fetchall():
            within = self._bytes - removed <= self._kept_bytes and at >= now - self._kept_s
            if within or last_seq >= self._last_seq:
                break
            upto, removed = last_seq, removed + size
        if upto is not None:
            db.execute("DELETE FROM record WHERE first_seq <= ?", (upto,))
            self._bytes -= removed
        for kind, kept in NOTES_KEPT.items():
            db.execute(
                "DELETE FROM note WHERE kind = ?1 AND number <= (SELECT max(number) FROM note WHERE kind = ?1) - ?2",
                (kind, kept),
            )

    def records(self, after_seq: int, limit: int) -> list[CompactRow]:
        found, damaged = self.readable(after_seq, limit)
        if damaged:
            raise self._damaged(*damaged[0])
        return found

    def readable(self, after_seq: int, limit: int) -> tuple[list[CompactRow], list[tuple[int, int]]]:
        """Return kept records as `records` does, and ``(first, last)`` numbers of those between that are damaged."""

        def work(db: sqlite3.Connection) -> tuple[list[CompactRow], list[tuple[int, int]]]:
            # The row that may begin before the first one wanted, and those after it.
            begin = db.execute("SELECT max(first_seq) FROM record WHERE first_seq <= ?", (after_seq + 1,)).fetchone()
            found, damaged = list[CompactRow](), list[tuple[int, int]]()
            rows = db.execute(f"SELECT {ROW} FROM record WHERE first_seq >= ? ORDER BY first_seq", (begin[0] or 0,))
            for row in rows:
                if is_whole(row):
                    found += (one for one in unfolded(row) if one[0] > after_seq)
                elif row[1] > after_seq:
                    damaged.append((row[0], row[1]))
                if len(found) >= limit:
                    break
            rows.close()
            return found[:limit], damaged

        return self._file.read(work)

    def _damaged(self, first: int, last: int) -> StorageFailed:
        return StorageFailed(str(self.path), f"the file is damaged (records {first} to {last} have other check sums)")

    def find(self, oid: str) -> list[CompactRow]:
        def work(db: sqlite3.Connection) -> list[CompactRow]:
            rows = db.execute(
                f"SELECT {ROW} FROM record WHERE low <= ?1 AND high >= ?1 AND instr(oids, ?1) ORDER BY first_seq",
                (oid.encode(),),
            ).fetchall()
            for row in rows:
                if not is_whole(row):
                    raise self._damaged(row[0], row[1])
            return [one for row in rows for one in unfolded(row) if one[1] == oid]

        return self._file.read(work)

    def knows(self, oid: str) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            self._refresh(db)
            if oid in self._waiting:
                return True
            found = db.execute(
                "SELECT 1 FROM record WHERE low <= ?1 AND high >= ?1 AND instr(oids, ?1) LIMIT 1", (oid.encode(),)
            ).fetchone()
            return found is not None

        return self._file.read(work)

    def first_seq(self) -> int:
        first = self._file.read(lambda db: db.execute("SELECT min(first_seq) FROM record").fetchone()[0])
        return first or self._last_seq + 1

    def last_seq(self) -> int:
        return self._last_seq

    def position(self) -> JsonValue:
        row = self._file.read(lambda db: db.execute("SELECT value FROM fact WHERE name = 'position'").fetchone())
        position: JsonValue = None if row is None else orjson.loads(row[0])
        return position

    # --- notes ---

    def note(self, kind: str, number: int, body: bytes) -> None:
        self._file.post(lambda db: db.execute("INSERT OR REPLACE INTO note VALUES (?, ?, ?)", (kind, number, body)))

    def notes(self, kind: str, newest: int) -> list[tuple[int, bytes]]:
        def work(db: sqlite3.Connection) -> list[tuple[int, bytes]]:
            rows = db.execute(
                "SELECT number, body FROM note WHERE kind = ? ORDER BY number DESC LIMIT ?", (kind, newest)
            )
            return rows.fetchall()[::-1]

        return self._file.read(work)

    def probe(self) -> None:
        def work(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO fact VALUES ('probe', zeroblob(?))", (PROBE_BYTES,))
            db.execute("DELETE FROM fact WHERE name = 'probe'")

        self._file.write(work)

    # --- for people ---

    def info(self) -> dict[str, JsonValue]:
        """Return what is in it: numbers of records, bytes, messages that wait, notes of each kind."""

        def work(db: sqlite3.Connection) -> dict[str, JsonValue]:
            self._refresh(db)
            first, last, size, rows, count = db.execute(
                "SELECT min(first_seq), max(last_seq), total(bytes), count(*),"
                " ifnull(sum(last_seq - first_seq + 1), 0) FROM record"
            ).fetchone()
            kinds = db.execute("SELECT kind, count(*) FROM note GROUP BY kind ORDER BY kind").fetchall()
            pages = db.execute("PRAGMA page_count").fetchone()[0]
            free = db.execute("PRAGMA freelist_count").fetchone()[0]
            return {
                "run": self.run, "first_seq": first or 0, "last_seq": last or 0, "batches": rows,
                "records": count,
                "record_bytes": int(size), "file_bytes": pages * _PAGE_BYTES, "free_bytes": free * _PAGE_BYTES,
                "notes": dict(kinds), "waiting": len(self._places),
            }  # fmt: skip

        return {"path": str(self.path), **self._file.read(work)}

    def check(self) -> list[str]:
        """Return what is wrong with the file; empty when all is well.

        SQLite's own check, the check sums of messages and records, and gaps in the numbering.
        """

        def work(db: sqlite3.Connection) -> list[str]:
            problems = [row[0] for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
            after = None
            for row in db.execute(f"SELECT {ROW} FROM record ORDER BY first_seq"):
                first, last = row[0], row[1]
                if after is not None and first != after + 1:
                    problems.append(f"records {after + 1} to {first - 1} are missing")
                if not is_whole(row):
                    problems.append(f"records {first} to {last} are damaged")
                elif len(row[3]) != (last - first + 1) * 25 - 1:
                    problems.append(f"records {first} to {last}: the ids do not fit")
                after = last
            for number, crc, entries in db.execute("SELECT id, crc, entries FROM inbox"):
                if check_sum(entries) != crc:
                    problems.append(f"messages that wait, in row {number}, are damaged")
            return problems

        return self._file.read(work)

    def compact(self) -> int:
        """Give the room of removed records back to the file system; return the bytes saved. Nothing may use it."""
        before = self.path.stat().st_size
        self._file.outside(lambda db: db.execute("VACUUM").fetchall())
        return before - self.path.stat().st_size


def refuse_others(path: Path) -> None:
    """Refuse a file of another user, or one that others may write: messages in it are unpickled."""
    if not hasattr(os, "getuid") or not path.exists():
        return
    status = path.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise StorageFailed(str(path), "it is another user's, or others may write it; a journal's owner alone may")
