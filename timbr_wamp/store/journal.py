"""A machine's journal: one SQLite file with its inbox, records, failures, events and revisions.

A message that was put is in the inbox before its put returns, and leaves it with the commit of its record: so after
the end of the process at any instant, each is in one of the two. Records are kept as the machine makes them, many in
one row, so that a record costs a copy of its bytes and little else. Messages are kept as pickles, as they may be any
Python object; the file is its owner's alone (mode 0600), and another user's is refused.

`timbr_wamp.machine.protocols.Journal` is the seam. The file: `timbr_wamp.streams.sqlite_file`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import sqlite3
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import cloudpickle
import orjson

from timbr_wamp.errors import InvalidArgument, StorageBusy, StorageFailed, described
from timbr_wamp.machine.messages import Entry
from timbr_wamp.machine.protocols import Commit, CompactRow, RecordBlock
from timbr_wamp.names import new_run
from timbr_wamp.streams.sqlite_file import SqliteFile
from timbr_wamp.values import JsonValue

logger = logging.getLogger(__name__)

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
_PAGE_BYTES = 16_384
_SCHEMA = """
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inbox (id INTEGER PRIMARY KEY, done BLOB NOT NULL, entries BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS record (
    first_seq INTEGER PRIMARY KEY, last_seq INTEGER NOT NULL, at REAL NOT NULL, bytes INTEGER NOT NULL,
    low TEXT NOT NULL, high TEXT NOT NULL, layout TEXT NOT NULL, oids TEXT NOT NULL, lengths BLOB NOT NULL,
    parts BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS record_oids ON record (low, high);
CREATE TABLE IF NOT EXISTS note (
    kind TEXT NOT NULL, number INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, number)) WITHOUT ROWID
"""

#: Journals that this process has open.
_open_here: set[Path] = set()

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
        _refuse_others(self.path)
        self._file = SqliteFile(
            self.path, schema=_SCHEMA, application_id=_APPLICATION_ID, exclusive=True, busy_s=OPEN_S,
            page_bytes=_PAGE_BYTES,
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
        _open_here.add(self.path)

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
        _open_here.discard(self.path)

    # --- the inbox ---

    def append(self, entries: Sequence[Entry], *, sync: bool = True, position: JsonValue = None) -> None:
        packed = _packed(entries)
        keys = [(oid, attempt) for oid, _, _, attempt in entries]
        place = None if position is None else orjson.dumps(position)

        def work(db: sqlite3.Connection) -> None:
            self._refresh(db)
            number = db.execute("INSERT INTO inbox (done, entries) VALUES (x'', ?)", (packed,)).lastrowid
            assert number is not None
            self._enter(number, 0, keys)
            if place is not None:
                db.execute("INSERT OR REPLACE INTO fact VALUES ('position', ?)", (place,))

        if sync:
            self._file.write(work)
        else:
            self._file.post(work)

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
            for number, bits, packed in db.execute("SELECT id, done, entries FROM inbox ORDER BY id"):
                keys = [(oid, attempt) for oid, _, _, attempt in pickle.loads(packed)]
                self._enter(number, int.from_bytes(bits, "little"), keys)
            self._stale = False

    def pending(self, limit: int) -> list[Entry]:
        def work(db: sqlite3.Connection) -> list[tuple[bytes, bytes]]:
            return db.execute("SELECT done, entries FROM inbox ORDER BY id").fetchall()

        entries: list[Entry] = []
        for bits, packed in self._file.read(work):
            done = int.from_bytes(bits, "little")
            held: list[tuple[str, bytes, float, int]] = pickle.loads(packed)
            for n, (oid, message, received_at, attempt) in enumerate(held):
                if not done >> n & 1 and len(entries) < limit:
                    entries.append((oid, _unpacked(message), received_at, attempt))
        return entries

    # --- records ---

    def commit(self, commit: Commit) -> None:
        now = self._clock()
        rows = [_record_row(block, now) for block in commit.blocks]

        def work(db: sqlite3.Connection) -> None:
            self._refresh(db)
            db.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
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
            self._file.write(work, durable=False)
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
        def work(db: sqlite3.Connection) -> list[CompactRow]:
            # The row that may begin before the first one wanted, and those after it.
            begin = db.execute("SELECT max(first_seq) FROM record WHERE first_seq <= ?", (after_seq + 1,)).fetchone()
            found: list[CompactRow] = []
            rows = db.execute(
                "SELECT first_seq, layout, oids, lengths, parts FROM record WHERE first_seq >= ? ORDER BY first_seq",
                (begin[0] or 0,),
            )
            for row in rows:
                found += (one for one in _unfolded(*row) if one[0] > after_seq)
                if len(found) >= limit:
                    break
            rows.close()
            return found[:limit]

        return self._file.read(work)

    def find(self, oid: str) -> list[CompactRow]:
        def work(db: sqlite3.Connection) -> list[CompactRow]:
            rows = db.execute(
                "SELECT first_seq, layout, oids, lengths, parts FROM record"
                " WHERE low <= ?1 AND high >= ?1 AND instr(oids, ?1) ORDER BY first_seq",
                (oid,),
            )
            return [one for row in rows.fetchall() for one in _unfolded(*row) if one[1] == oid]

        return self._file.read(work)

    def knows(self, oid: str) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            self._refresh(db)
            if oid in self._waiting:
                return True
            found = db.execute(
                "SELECT 1 FROM record WHERE low <= ?1 AND high >= ?1 AND instr(oids, ?1) LIMIT 1", (oid,)
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
            first, last, size, rows = db.execute(
                "SELECT min(first_seq), max(last_seq), total(bytes), count(*) FROM record"
            ).fetchone()
            kinds = db.execute("SELECT kind, count(*) FROM note GROUP BY kind ORDER BY kind").fetchall()
            pages = db.execute("PRAGMA page_count").fetchone()[0]
            free = db.execute("PRAGMA freelist_count").fetchone()[0]
            return {
                "run": self.run, "first_seq": first or 0, "last_seq": last or 0, "batches": rows,
                "record_bytes": int(size), "file_bytes": pages * _PAGE_BYTES, "free_bytes": free * _PAGE_BYTES,
                "notes": dict(kinds), "waiting": len(self._places),
            }  # fmt: skip

        return {"path": str(self.path), **self._file.read(work)}

    def check(self) -> list[str]:
        """Return what is wrong with the file; empty when all is well: SQLite's own check, and gaps in the numbering."""

        def work(db: sqlite3.Connection) -> list[str]:
            problems = [row[0] for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
            after = None
            for first, last, oids in db.execute("SELECT first_seq, last_seq, oids FROM record ORDER BY first_seq"):
                if after is not None and first != after + 1:
                    problems.append(f"records {after + 1} to {first - 1} are missing")
                if len(oids) != (last - first + 1) * 25 - 1:
                    problems.append(f"records {first} to {last}: the ids do not fit")
                after = last
            return problems

        return self._file.read(work)

    def compact(self) -> int:
        """Give the room of removed records back to the file system; return the bytes saved. Nothing may use it."""
        before = self.path.stat().st_size
        self._file.outside(lambda db: db.execute("VACUUM").fetchall())
        return before - self.path.stat().st_size


def open_journal(path: str | Path) -> SqliteJournal:
    """Return the journal in a file: what ``Machine(journal=path)`` calls."""
    return SqliteJournal(path)


def open_next_journal(folder: Path, machine: str) -> SqliteJournal:
    """Return the journal of a machine in the folder of its process: the newest one, or a new one.

    ``<machine>-<number>.journal``. When a machine of this process has the newest one, as when a cell of a notebook
    makes it anew, the next number begins empty. Those before it are removed once nothing was written for `KEPT_S`.
    """
    numbers = sorted(
        int(match[1]) for path in folder.glob("*.journal") if (match := _number_of(machine).fullmatch(path.name))
    )
    newest = numbers[-1] if numbers else 1
    for number in numbers[:-1]:
        remove_unused(folder / f"{machine}-{number}.journal", time.time() - KEPT_S)
    path = folder / f"{machine}-{newest}.journal"
    if path not in _open_here:
        try:
            return SqliteJournal(path, kept_bytes=DEFAULT_BYTES)
        except StorageBusy:
            logger.warning("another process has the journal %s; this machine begins a new one", path)
    return SqliteJournal(folder / f"{machine}-{newest + 1}.journal", kept_bytes=DEFAULT_BYTES)


def remove_old(folder: Path, kept_s: float = KEPT_S) -> list[Path]:
    """Remove the journals in the folders of a folder to which nothing was written for ``kept_s``; return their paths.

    Those that a process has, and those with messages that have no record, are kept.
    """
    removed = []
    for path in sorted(folder.glob("*/*.journal")):
        if remove_unused(path, time.time() - kept_s):
            removed.append(path)
            with contextlib.suppress(OSError):  # another one is in it
                path.parent.rmdir()
    return removed


def remove_unused(path: Path, before: float) -> bool:
    """Remove a journal's files if nothing was written since ``before``; tell whether they are gone.

    Not if a process has it, or a message in it has no record.
    """
    files = [Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")]
    try:
        if path in _open_here or max(file.stat().st_mtime for file in files if file.exists()) > before:
            return False
        journal = SqliteJournal(path)
        try:
            if journal.pending(1):
                return False
        finally:
            journal.close()
    except (OSError, ValueError):
        return False
    for file in files:
        file.unlink(missing_ok=True)
    return True


def _number_of(machine: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(machine)}-(\d{{1,9}})\.journal")


# --- forms ---


def _refuse_others(path: Path) -> None:
    """Refuse a file of another user, or one that others may write: messages in it are unpickled."""
    if not hasattr(os, "getuid") or not path.exists():
        return
    status = path.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise StorageFailed(str(path), "it is another user's, or others may write it; a journal's owner alone may")


def _packed(entries: Sequence[Entry]) -> bytes:
    """Return entries as bytes, each message for itself, so that one that cannot be read back costs no other."""
    return pickle.dumps([(oid, _pickled(message), at, attempt) for oid, message, at, attempt in entries], 5)


def _pickled(message: object) -> bytes:
    try:
        data = pickle.dumps(message, 5)
        # A class of a notebook is not there in the next process: it travels with the message.
        return cloudpickle.dumps(message) if b"__main__" in data else data
    except Exception as first:
        try:
            return bytes(cloudpickle.dumps(message))
        except Exception:  # foreign code
            raise InvalidArgument(
                "message", f"the journal cannot keep it, as it cannot be pickled: {described(first)}"
            ) from None


def _unpacked(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except Exception as error:  # its class is gone, or raises: the message is told of, not lost
        return {"__type__": "unreadable message", "__error__": described(error)}


def _record_row(block: RecordBlock, now: float) -> tuple[Any, ...]:
    oids = block.oids
    parts = b"".join(block.parts)
    return (
        block.first_seq, block.first_seq + len(oids) - 1, now, len(parts), min(oids), max(oids),
        ",".join(map(str, block.layout)), ",".join(oids), array("I", block.lengths).tobytes(), parts,
    )  # fmt: skip


def _unfolded(first_seq: int, layout: str, oids: str, lengths: bytes, parts: bytes) -> Iterable[CompactRow]:
    """Return the records of a row."""
    sizes = array("I")
    sizes.frombytes(lengths)
    ids = oids.split(",")
    width = len(sizes) // len(ids)
    ends = list(accumulate(sizes, initial=0))
    counts = tuple(map(int, layout.split(","))) if layout else ()
    for n, oid in enumerate(ids):
        *values, meta = (parts[ends[k] : ends[k + 1]] for k in range(n * width, (n + 1) * width))
        yield first_seq + n, oid, b"[%b]" % b",".join(values), meta, counts
