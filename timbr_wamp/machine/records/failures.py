"""The newest failed attempts, with their messages for another try; bounded in number and bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timbr_wamp.contract import ErrorRow
from timbr_wamp.machine.messages import MENDED

#: Failures kept, with their messages, for retrying; and as much of those messages, by their texts.
ERRORS_KEPT = 1_000
ERRORS_BYTES = 64 * 1024 * 1024


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
                    row.resolved = resolved or row.policy in MENDED

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
            found = [f for f in self._failed if not f.retrying and not _resolved(f) and wanted(f.oid)]
            for failed in found:
                failed.retrying = True
            return found

    def reopen(self, failed: Failed) -> None:
        """Take back the mark of `open`: it found no room."""
        with self._lock:
            failed.retrying = False


def _resolved(failed: Failed) -> bool:
    """Tell whether none of its failures stands: those that a policy mended at once do not."""
    return all(row.resolved for row in failed.rows)
