"""The newest failed attempts, with their messages for retries; bounded in number and bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timbr_wamp.contract import ErrorRow
from timbr_wamp.machine.forks import short_lock
from timbr_wamp.machine.messages import MENDED

#: Failed attempts that are kept, and the total size of their messages' texts.
ERRORS_KEPT = 1_000
ERRORS_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class Failed:
    """A failed attempt: its rows on the wire, and the message itself for a retry."""

    rows: list[ErrorRow]
    oid: str
    #: Returns the message; None: it cannot be retried.
    message: Callable[[], Any] | None
    attempt: int
    #: It cannot be retried: it was put again and has not succeeded yet, or a later attempt failed.
    retrying: bool = False
    #: Size of the message's text.
    size_bytes: int = 0


class ErrorRing:
    """The newest failed attempts. Any thread."""

    def __init__(self, kept: int = ERRORS_KEPT, limit_bytes: int = ERRORS_BYTES) -> None:
        self._lock = short_lock()
        self._failed: deque[Failed] = deque()
        #: The same by oid, oldest first.
        self._by_oid: dict[str, list[Failed]] = {}
        self._kept, self._limit_bytes, self._bytes = kept, limit_bytes, 0
        #: Failures ever added; a reader remembers it, see `after`.
        self.number = 0

    def add(self, failed: Failed) -> None:
        """Keep a failed attempt; earlier attempts at the same message can no longer be retried."""
        with self._lock:
            if failed.attempt > 1 and not failed.retrying:
                self._settle(failed.oid, resolved=False)
            self._failed.append(failed)
            self._by_oid.setdefault(failed.oid, []).append(failed)
            self._bytes += failed.size_bytes
            while len(self._failed) > self._kept or (self._bytes > self._limit_bytes and len(self._failed) > 1):
                self._drop_oldest()
            self.number += len(failed.rows)

    def _drop_oldest(self) -> None:
        oldest = self._failed.popleft()
        self._bytes -= oldest.size_bytes
        of_message = self._by_oid[oldest.oid]
        del of_message[0]
        if not of_message:
            del self._by_oid[oldest.oid]

    def resolve(self, oid: str) -> None:
        """Mark a message's failures as resolved: a later attempt at it succeeded, or was dropped."""
        if oid in self._by_oid:
            with self._lock:
                self._settle(oid, resolved=True)

    def _settle(self, oid: str, *, resolved: bool) -> None:
        for failed in self._by_oid.get(oid, ()):
            failed.retrying = not resolved
            for row in failed.rows:
                row.resolved = resolved or row.policy in MENDED

    def rows(self, n: int) -> list[ErrorRow]:
        """Return the newest ``n`` failures, oldest of them first."""
        with self._lock:
            rows = [row for failed in self._failed for row in failed.rows]
            return rows[-n:] if n > 0 else []

    def after(self, number: int) -> tuple[int, list[ErrorRow]]:
        """Return the newest failure's number, and the kept failures after ``number``."""
        with self._lock:
            new = self.number - number
            if new <= 0:
                return self.number, []
            rows = [row for failed in self._failed for row in failed.rows]
            return self.number, rows[-new:]

    def open(self, wanted: Callable[[str], bool]) -> list[Failed]:
        """Return the unresolved attempts that are not being retried, and mark them as being retried."""
        with self._lock:
            found = [f for f in self._failed if not f.retrying and not _resolved(f) and wanted(f.oid)]
            for failed in found:
                failed.retrying = True
            return found

    def open_one(self, oid: str) -> Failed | None:
        """As `open`, of one message; None: it has no such attempt."""
        with self._lock:
            for failed in self._by_oid.get(oid, ()):
                if not failed.retrying and not _resolved(failed):
                    failed.retrying = True
                    return failed
            return None

    def unresolved(self) -> list[Failed]:
        """Return the unresolved attempts that are not being retried, oldest first; mark nothing."""
        with self._lock:
            return [f for f in self._failed if not f.retrying and not _resolved(f)]

    def newest_of(self, oid: str) -> Failed | None:
        """Return the newest failed attempt at a message that is kept."""
        with self._lock:
            several = self._by_oid.get(oid)
            return several[-1] if several else None

    def reopen(self, failed: Failed) -> None:
        """Undo the mark of `open`: the message could not be put."""
        with self._lock:
            failed.retrying = False


def _resolved(failed: Failed) -> bool:
    """Tell whether none of its failures is open."""
    return all(row.resolved for row in failed.rows)
