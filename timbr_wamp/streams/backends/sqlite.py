"""Streams in an SQLite file: durable, no server, many processes of one computer. The default.

An entry's row number is its stream's number times 2**40 plus its position, so that entries of a stream lie together
and a position is found without a further index. Claims are rows too: an entry of a group is acknowledged when it is
at or below the group's ``next`` and has no claim.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import orjson

from timbr_wamp.errors import InvalidArgument
from timbr_wamp.streams.entries import (
    DEAD_SUFFIX,
    Claim,
    GroupInfo,
    NewEntry,
    Position,
    Retention,
    StreamEntry,
    StreamInfo,
    dead_letter,
)
from timbr_wamp.streams.sqlite_file import SqliteFile, pages
from timbr_wamp.values import JsonValue

_APPLICATION_ID = 0x74577374  # "tWst"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS stream (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, last INTEGER NOT NULL DEFAULT 0,
    count INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
    retention TEXT NOT NULL DEFAULT '{}', metadata TEXT NOT NULL DEFAULT '{}');
CREATE TABLE IF NOT EXISTS entry (
    id INTEGER PRIMARY KEY, appended_at REAL NOT NULL, key TEXT, text BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS known (
    stream INTEGER NOT NULL, key TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (stream, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS grp (
    id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, name TEXT NOT NULL, next INTEGER NOT NULL,
    fence INTEGER NOT NULL DEFAULT 0, max_attempts INTEGER NOT NULL, UNIQUE (stream, name));
CREATE TABLE IF NOT EXISTS claim (
    grp INTEGER NOT NULL, position INTEGER NOT NULL, fence INTEGER NOT NULL, consumer TEXT NOT NULL,
    until REAL NOT NULL, attempts INTEGER NOT NULL, error TEXT, PRIMARY KEY (grp, position)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS claim_until ON claim (grp, until, position)
"""
#: A stream's part of an entry's row number.
_STREAM = 1 << 40
#: An entry goes to the dead-letter stream after so many claims, unless its group says otherwise.
DEFAULT_MAX_ATTEMPTS = 5
#: How often `SqliteStreams.wait` looks for other processes' entries, seconds: at first, and at the longest.
POLL_S, LONGEST_POLL_S = 0.002, 0.05
#: Entries that one transaction removes.
TRIMMED_AT_ONCE = 10_000
_KEEP_ALL = "{}"
#: A released claim has this fence: no holder has it.
_FREE = 0


class SqliteStreams:
    """See `timbr_wamp.streams.backend.StreamBackend`. Appended entries and acknowledgements are synced to the disk.

    Args:
        path: of the file, which may hold many streams; None: in memory, for as long as this object lives.
        clock: UTC seconds; processes that share the file must share it.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._in_memory = path is None
        self._file = SqliteFile(path, schema=_SCHEMA, application_id=_APPLICATION_ID)
        self._clock = clock
        self._appended = threading.Condition()

    @property
    def url(self) -> str:
        return "memory://" if self._in_memory else f"sqlite://{self._file.path}"

    def close(self) -> None:
        self._file.close()
        with self._appended:
            self._appended.notify_all()

    # --- appending and reading ---

    def append(self, stream: str, entries: Sequence[NewEntry]) -> list[Position]:
        positions = self._file.write(lambda db: _append(db, stream, entries, self._clock()))
        with self._appended:
            self._appended.notify_all()
        return positions

    def read(self, stream: str, after: Position, limit: int, limit_bytes: int) -> list[StreamEntry]:
        def work(db: sqlite3.Connection) -> list[StreamEntry]:
            number = _number(db, stream)
            if number is None:
                return []
            first = number * _STREAM
            rows = db.execute(
                "SELECT id, appended_at, key, text FROM entry WHERE id > ? AND id < ? ORDER BY id LIMIT ?",
                (first + min(max(after, 0), _STREAM - 1), first + _STREAM, limit),
            )
            found = pages(rows, limit_bytes, lambda row: len(row[3]))
            return [StreamEntry(row - first, at, key, text) for row, at, key, text in found]

        return self._file.read(work)

    def wait(self, stream: str, after: Position, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        pause_s, seen = POLL_S, -1
        while True:
            changes = self._file.changes_seen()
            if changes != seen or self._in_memory:
                seen, pause_s = changes, POLL_S
                if self._last(stream) > after:
                    return True
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            with self._appended:
                self._appended.wait(min(pause_s, left_s))
            pause_s = min(1.5 * pause_s, LONGEST_POLL_S)

    def _last(self, stream: str) -> Position:
        def work(db: sqlite3.Connection) -> Position:
            row = db.execute("SELECT last FROM stream WHERE name = ?", (stream,)).fetchone()
            return int(row[0]) if row else 0

        return self._file.read(work)

    # --- groups ---

    def create_group(self, stream: str, group: str, start: Position | None, max_attempts: int | None) -> None:
        def work(db: sqlite3.Connection) -> None:
            number = _made(db, stream)
            last = db.execute("SELECT last FROM stream WHERE id = ?", (number,)).fetchone()[0]
            db.execute(
                "INSERT OR IGNORE INTO grp (stream, name, next, max_attempts) VALUES (?, ?, ?, ?)",
                (number, group, last if start is None else min(start, last), max_attempts or DEFAULT_MAX_ATTEMPTS),
            )
            if max_attempts is not None:
                db.execute(
                    "UPDATE grp SET max_attempts = ? WHERE stream = ? AND name = ?", (max_attempts, number, group)
                )

        self._file.write(work)

    def claim(self, stream: str, group: str, consumer: str, limit: int, lease_s: float) -> list[Claim]:
        def work(db: sqlite3.Connection) -> list[Claim]:
            now = self._clock()
            number = _made(db, stream)
            grp, following, fence, most = _group(db, number, group)
            fence += 1
            claims: list[Claim] = []
            due = db.execute(
                "SELECT position, attempts, error FROM claim WHERE grp = ? AND until <= ? ORDER BY position", (grp, now)
            )
            for position, attempts, error in due.fetchall():
                if len(claims) >= limit:
                    break
                entry = _entry(db, number, position)
                if entry is None:  # removed with its stream's other entries
                    db.execute("DELETE FROM claim WHERE grp = ? AND position = ?", (grp, position))
                elif attempts >= most:
                    ended = _claimed(entry, group, consumer, fence, attempts, now)
                    _bury(db, stream, grp, ended, error or "its lease ended each time", now)
                else:
                    claims.append(_claimed(entry, group, consumer, fence, attempts + 1, now + lease_s))
            rows = db.execute(
                "SELECT id, appended_at, key, text FROM entry WHERE id > ? AND id < ? ORDER BY id LIMIT ?",
                (number * _STREAM + following, (number + 1) * _STREAM, limit - len(claims)),
            ).fetchall()
            for row, at, key, text in rows:
                following = row - number * _STREAM
                entry = StreamEntry(following, at, key, text)
                claims.append(_claimed(entry, group, consumer, fence, 1, now + lease_s))
            db.executemany(
                "INSERT OR REPLACE INTO claim VALUES (?, ?, ?, ?, ?, ?, NULL)",
                [(grp, one.position, one.fence, one.consumer, one.until, one.attempt) for one in claims],
            )
            db.execute("UPDATE grp SET next = ?, fence = ? WHERE id = ?", (following, fence, grp))
            return claims

        return self._file.write(work, durable=False)  # one that a power failure undoes is made again

    def acknowledge(self, stream: str, group: str, claims: Sequence[tuple[Position, int]]) -> list[Position]:
        def work(db: sqlite3.Connection) -> list[Position]:
            grp = _group(db, _made(db, stream), group)[0]
            lost = _invalid(db, grp, claims, self._clock())
            if not lost:
                db.executemany(
                    "DELETE FROM claim WHERE grp = ? AND position = ?", [(grp, position) for position, _ in claims]
                )
            return lost

        return self._file.write(work)

    def extend(self, stream: str, group: str, claims: Sequence[tuple[Position, int]], lease_s: float) -> list[Position]:
        def work(db: sqlite3.Connection) -> list[Position]:
            now = self._clock()
            grp = _group(db, _made(db, stream), group)[0]
            lost = _invalid(db, grp, claims, now)
            if not lost:
                db.executemany(
                    "UPDATE claim SET until = ? WHERE grp = ? AND position = ?",
                    [(now + lease_s, grp, position) for position, _ in claims],
                )
            return lost

        return self._file.write(work, durable=False)

    def release(
        self, stream: str, group: str, claims: Sequence[tuple[Position, int]], delay_s: float, error: str | None
    ) -> list[Position]:
        def work(db: sqlite3.Connection) -> list[Position]:
            now = self._clock()
            number = _made(db, stream)
            grp, _, _, most = _group(db, number, group)
            lost = set(_invalid(db, grp, claims, now))
            for position, fence in claims:
                if position in lost:
                    continue
                consumer, attempts = db.execute(
                    "SELECT consumer, attempts FROM claim WHERE grp = ? AND position = ?", (grp, position)
                ).fetchone()
                entry = _entry(db, number, position)
                if entry is not None and attempts >= most:
                    _bury(db, stream, grp, _claimed(entry, group, consumer, fence, attempts, now), error, now)
                else:
                    db.execute(
                        "UPDATE claim SET fence = ?, until = ?, error = ? WHERE grp = ? AND position = ?",
                        (_FREE, now + delay_s, error, grp, position),
                    )
            return sorted(lost)

        return self._file.write(work)

    def seek(self, stream: str, group: str, position: Position) -> None:
        def work(db: sqlite3.Connection) -> None:
            number = _made(db, stream)
            grp = _group(db, number, group)[0]
            last = db.execute("SELECT last FROM stream WHERE id = ?", (number,)).fetchone()[0]
            db.execute("DELETE FROM claim WHERE grp = ?", (grp,))
            db.execute("UPDATE grp SET next = ? WHERE id = ?", (min(position, last), grp))

        self._file.write(work)

    def delete_group(self, stream: str, group: str) -> None:
        def work(db: sqlite3.Connection) -> None:
            grp = _group(db, _made(db, stream), group)[0]
            db.execute("DELETE FROM claim WHERE grp = ?", (grp,))
            db.execute("DELETE FROM grp WHERE id = ?", (grp,))

        self._file.write(work)

    # --- what is kept ---

    def trim(self, stream: str, retention: Retention) -> int:
        removed = 0
        while more := self._file.write(
            lambda db: _trim(db, stream, retention, self._clock(), TRIMMED_AT_ONCE), durable=False
        ):
            removed += more
        return removed

    def set_retention(self, stream: str, retention: Retention) -> None:
        text = orjson.dumps(retention).decode()
        self._file.write(
            lambda db: db.execute("UPDATE stream SET retention = ? WHERE id = ?", (text, _made(db, stream))) and None
        )

    def set_metadata(self, stream: str, metadata: Mapping[str, JsonValue]) -> None:
        text = orjson.dumps(dict(metadata)).decode()
        self._file.write(
            lambda db: db.execute("UPDATE stream SET metadata = ? WHERE id = ?", (text, _made(db, stream))) and None
        )

    def info(self, stream: str) -> StreamInfo:
        def work(db: sqlite3.Connection) -> StreamInfo:
            row = db.execute(
                "SELECT id, last, count, bytes, retention, metadata FROM stream WHERE name = ?", (stream,)
            ).fetchone()
            if row is None:
                return StreamInfo(stream, 0, 0, 0, 0)
            number, last, count, size, retention, metadata = row
            return StreamInfo(
                stream,
                last - count + 1 if count else 0,
                last,
                count,
                size,
                tuple(_groups(db, number, last, count)),
                Retention(**orjson.loads(retention)),
                orjson.loads(metadata),
            )

        return self._file.read(work)

    def names(self) -> list[str]:
        return self._file.read(lambda db: [row[0] for row in db.execute("SELECT name FROM stream ORDER BY name")])

    def delete(self, stream: str) -> None:
        def work(db: sqlite3.Connection) -> None:
            number = _number(db, stream)
            if number is None:
                return
            db.execute("DELETE FROM entry WHERE id > ? AND id < ?", (number * _STREAM, (number + 1) * _STREAM))
            db.execute("DELETE FROM claim WHERE grp IN (SELECT id FROM grp WHERE stream = ?)", (number,))
            for table, column in (("grp", "stream"), ("known", "stream"), ("stream", "id")):
                db.execute(f"DELETE FROM {table} WHERE {column} = ?", (number,))

        self._file.write(work)


def from_url(url: str) -> SqliteStreams:
    """Return the storage at ``sqlite:///absolute/path`` or ``sqlite://path/from/the/working/folder``."""
    path = url.removeprefix("sqlite://")
    if not path or path.endswith("/"):
        raise InvalidArgument("url", f"{url!r} names no file; write sqlite:///folder/file.db")
    return SqliteStreams(Path(path).expanduser().absolute())


def in_memory(url: str) -> SqliteStreams:
    """Return a storage in this process's memory."""
    return SqliteStreams(None)


# --- within a transaction ---


def _number(db: sqlite3.Connection, stream: str) -> int | None:
    row = db.execute("SELECT id FROM stream WHERE name = ?", (stream,)).fetchone()
    return int(row[0]) if row else None


def _made(db: sqlite3.Connection, stream: str) -> int:
    """Return a stream's number; a stream that is not there is made."""
    number = _number(db, stream)
    if number is not None:
        return number
    made = db.execute("INSERT INTO stream (name) VALUES (?)", (stream,)).lastrowid
    assert made is not None
    return made


def _group(db: sqlite3.Connection, number: int, group: str) -> tuple[int, Position, int, int]:
    """Return a group's ``(row, next, fence, max_attempts)``; a missing one is made, at the stream's beginning."""
    found = "SELECT id, next, fence, max_attempts FROM grp WHERE stream = ? AND name = ?"
    row = db.execute(found, (number, group)).fetchone()
    if row is None:
        db.execute(
            "INSERT INTO grp (stream, name, next, max_attempts) VALUES (?, ?, 0, ?)",
            (number, group, DEFAULT_MAX_ATTEMPTS),
        )
        row = db.execute(found, (number, group)).fetchone()
    return row[0], row[1], row[2], row[3]


def _append(db: sqlite3.Connection, stream: str, entries: Sequence[NewEntry], now: float) -> list[Position]:
    number = _made(db, stream)
    last, retention = db.execute("SELECT last, retention FROM stream WHERE id = ?", (number,)).fetchone()
    rows, positions = [], list[Position]()
    for entry in entries:
        if entry.key is not None:
            known = db.execute(
                "SELECT position FROM known WHERE stream = ? AND key = ?", (number, entry.key)
            ).fetchone()
            if known is not None:
                positions.append(known[0])
                continue
            db.execute("INSERT INTO known (stream, key, position) VALUES (?, ?, ?)", (number, entry.key, last + 1))
        last += 1
        positions.append(last)
        rows.append((number * _STREAM + last, now, entry.key, entry.text))
    db.executemany("INSERT INTO entry (id, appended_at, key, text) VALUES (?, ?, ?, ?)", rows)
    db.execute(
        "UPDATE stream SET last = ?, count = count + ?, bytes = bytes + ? WHERE id = ?",
        (last, len(rows), sum(len(row[3]) for row in rows), number),
    )
    if retention != _KEEP_ALL:
        _trim(db, stream, Retention(**orjson.loads(retention)), now, 2 * len(rows) + 1)
    return positions


def _entry(db: sqlite3.Connection, number: int, position: Position) -> StreamEntry | None:
    row = db.execute("SELECT appended_at, key, text FROM entry WHERE id = ?", (number * _STREAM + position,)).fetchone()
    return None if row is None else StreamEntry(position, *row)


def _claimed(entry: StreamEntry, group: str, consumer: str, fence: int, attempt: int, until: float) -> Claim:
    return Claim(
        entry.position, entry.appended_at, entry.key, entry.text,
        group=group, consumer=consumer, fence=fence, attempt=attempt, until=until,
    )  # fmt: skip


def _invalid(db: sqlite3.Connection, grp: int, claims: Sequence[tuple[Position, int]], now: float) -> list[Position]:
    """Return the positions whose claim has ended. An ended lease that nobody took over is valid no more, either."""
    lost = []
    for position, fence in claims:
        row = db.execute("SELECT fence, until FROM claim WHERE grp = ? AND position = ?", (grp, position)).fetchone()
        if row is None or row[0] != fence or fence == _FREE or row[1] <= now:
            lost.append(position)
    return lost


def _bury(db: sqlite3.Connection, stream: str, grp: int, claim: Claim, error: str | None, now: float) -> None:
    """Move an entry of a group to the dead-letter stream."""
    _append(db, f"{stream}{DEAD_SUFFIX}", [dead_letter(claim, stream, error)], now)
    db.execute("DELETE FROM claim WHERE grp = ? AND position = ?", (grp, claim.position))


def _groups(db: sqlite3.Connection, number: int, last: Position, kept: int) -> list[GroupInfo]:
    """Return the groups of a stream that keeps its ``kept`` newest entries."""
    found = []
    rows = db.execute("SELECT id, name, next, max_attempts FROM grp WHERE stream = ? ORDER BY name", (number,))
    for grp, name, following, most in rows.fetchall():
        count, lowest = db.execute("SELECT count(*), min(position) FROM claim WHERE grp = ?", (grp,)).fetchone()
        waiting = last - max(following, last - kept)
        found.append(GroupInfo(name, following if lowest is None else lowest - 1, count, waiting, most))
    return found


def _trim(db: sqlite3.Connection, stream: str, retention: Retention, now: float, limit: int) -> int:
    """Remove at most ``limit`` of the oldest entries; see `StreamBackend.trim`."""
    row = db.execute("SELECT id, last, count, bytes FROM stream WHERE name = ?", (stream,)).fetchone()
    if row is None or retention == Retention():
        return 0
    number, last, count, size = row
    #: Up to here every group has acknowledged.
    done = min((group.position for group in _groups(db, number, last, count)), default=last)
    first = number * _STREAM
    rows = db.execute(
        "SELECT id, appended_at, length(text) FROM entry WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
        (first, first + done, limit),
    )
    removed = removed_bytes = upto = 0
    for at_row, at, length in rows.fetchall():
        too_old = retention.age_s is not None and at < now - retention.age_s
        too_many = retention.count is not None and count - removed > retention.count
        too_large = retention.size_bytes is not None and size - removed_bytes > retention.size_bytes
        if not (too_old or too_many or too_large):
            break
        removed, removed_bytes, upto = removed + 1, removed_bytes + length, at_row
    if removed:
        db.execute("DELETE FROM entry WHERE id > ? AND id <= ?", (first, upto))
        db.execute(
            "UPDATE stream SET count = count - ?, bytes = bytes - ? WHERE id = ?", (removed, removed_bytes, number)
        )
    return removed
