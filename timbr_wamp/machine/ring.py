"""The newest records and failures, bounded in number and bytes. A journal takes over behind it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from timbr_wamp.contract import ErrorRow
from timbr_wamp.machine.protocols import Row

#: Records kept for readers that missed some.
RING_ROWS = 16_384
RING_BYTES = 64 * 1024 * 1024
#: Failures kept, with their messages, for retrying; and as much of those messages, by their texts.
ERRORS_KEPT = 1_000
ERRORS_BYTES = 64 * 1024 * 1024


class RecordRing:
    """The newest rows by number. One writer at a time; readers in any thread, without waiting for it long."""

    def __init__(self, rows: int = RING_ROWS, limit_bytes: int = RING_BYTES) -> None:
        self._lock = threading.Lock()
        self._rows: list[Row | None] = [None] * rows
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self.first_seq = 1
        self.last_seq = 0

    def extend(self, rows: Iterable[Row]) -> None:
        """Append rows with consecutive numbers; the oldest give way."""
        kept, size = self._rows, len(self._rows)
        with self._lock:
            for row in rows:
                index = row[0] % size
                old = kept[index]
                if old is not None:
                    self._bytes -= len(old[2])
                    self.first_seq = old[0] + 1
                kept[index] = row
                self._bytes += len(row[2])
                self.last_seq = row[0]
            while self._bytes > self._limit_bytes and self.first_seq < self.last_seq:
                index = self.first_seq % size
                old = kept[index]
                self._bytes -= len(old[2]) if old is not None else 0
                kept[index] = None
                self.first_seq += 1

    def after(self, seq: int, limit: int, limit_bytes: int) -> tuple[int, int, list[Row]]:
        """Return ``(first kept, last, rows)``: at most ``limit`` rows with a number above ``seq``.

        Stops before ``limit_bytes`` of texts, but gives at least one row if there is any.
        """
        with self._lock:
            found: list[Row] = []
            size = 0
            for number in range(max(seq + 1, self.first_seq), self.last_seq + 1):
                row = self._rows[number % len(self._rows)]
                if row is None or len(found) >= limit:
                    break
                size += len(row[2])
                if found and size > limit_bytes:
                    break
                found.append(row)
            return self.first_seq, self.last_seq, found

    def get(self, seq: int) -> Row | None:
        """Return the row of that number, None when it is not kept."""
        with self._lock:
            row = self._rows[seq % len(self._rows)]
            return row if row is not None and row[0] == seq else None

    def newest(self, n: int) -> list[Row]:
        """Return the newest ``n`` rows, oldest of them first."""
        with self._lock:
            first = max(self.last_seq - max(n, 0) + 1, self.first_seq)
            rows = (self._rows[number % len(self._rows)] for number in range(first, self.last_seq + 1))
            return [row for row in rows if row is not None]


@dataclass(slots=True)
class Failed:
    """A failed attempt: what the wire says of it, and the message itself for another try."""

    rows: list[ErrorRow]
    oid: str
    message: Any
    attempt: int
    #: Put again, and not through yet.
    retrying: bool = False
    #: Size of the message's text.
    size_bytes: int = 0


class ErrorRing:
    """The newest failed attempts. Any thread."""

    def __init__(self, kept: int = ERRORS_KEPT, limit_bytes: int = ERRORS_BYTES) -> None:
        self._lock = threading.Lock()
        self._failed: deque[Failed] = deque()
        self._kept, self._limit_bytes, self._bytes = kept, limit_bytes, 0
        #: Failures ever added; what a reader has seen.
        self.number = 0

    def add(self, failed: Failed) -> None:
        """Keep a failed attempt; earlier ones of the same message can be tried no more."""
        with self._lock:
            if failed.attempt > 1:
                self._settle(failed.oid, resolved=False)
            self._failed.append(failed)
            self._bytes += failed.size_bytes
            while len(self._failed) > self._kept or (self._bytes > self._limit_bytes and len(self._failed) > 1):
                self._bytes -= self._failed.popleft().size_bytes
            self.number += len(failed.rows)

    def resolve(self, oid: str) -> None:
        """Note that a later attempt at the message went well."""
        with self._lock:
            self._settle(oid, resolved=True)

    def _settle(self, oid: str, *, resolved: bool) -> None:
        for failed in self._failed:
            if failed.oid == oid:
                failed.retrying = not resolved
                for row in failed.rows:
                    row.resolved = resolved

    def rows(self, n: int) -> list[ErrorRow]:
        """Return the newest ``n`` failures, oldest of them first."""
        with self._lock:
            rows = [row for failed in self._failed for row in failed.rows]
            return rows[-n:] if n > 0 else []

    def since(self, number: int) -> tuple[int, list[ErrorRow]]:
        """Return the present `number`, and the kept failures after ``number``."""
        with self._lock:
            new = self.number - number
            if new <= 0:
                return self.number, []
            rows = [row for failed in self._failed for row in failed.rows]
            return self.number, rows[-new:]

    def open(self, wanted: Callable[[str], bool]) -> list[Failed]:
        """Return the unresolved attempts that nobody retries yet, and mark them as being retried."""
        with self._lock:
            found = [f for f in self._failed if not f.retrying and not f.rows[0].resolved and wanted(f.oid)]
            for failed in found:
                failed.retrying = True
            return found

    def reopen(self, failed: Failed) -> None:
        """Take back the mark of `open`: it found no room."""
        with self._lock:
            failed.retrying = False
