"""Reliable delivery of numbered rows over lossy topics: `Batcher` on the sender's side, `Feed` on the reader's.

Sans-I/O: no sockets, no threads, no clock. A row is any sequence whose first item is its number;
numbers start at 1 in each run and have no holes. The topic may lose, repeat or reorder batches. The
reader requests missing rows from the sender, which keeps the newest ones (`Refill`), and reports rows
that the sender no longer keeps (`Gap`).

The cost is per batch, not per row, while no batch is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from timbr_wamp.contract import ROW_LIMIT_BYTES

__all__ = ["Batch", "Batcher", "Deliver", "Feed", "Gap", "Instruction", "Refill", "RunChanged", "record_row"]

Row: TypeAlias = Sequence[Any]

#: A batch is sent when it reaches this number of rows or bytes, or when its first row is this old.
BATCH_ROWS, BATCH_BYTES, BATCH_AGE_S = 200, 256 * 1024, 0.020
#: Most rows that are held while earlier rows are missing; further rows are dropped and requested later.
PENDING_ROWS = 10_000
#: Most rows per request.
REFILL_ROWS = 500
#: Number of earlier runs that are remembered, to recognize their late batches.
PAST_RUNS = 16


# --- sender ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows of one run, the content of a `contract.RecordsBatch`."""

    run: str
    first_seq: int
    last_seq: int
    rows: list[Row]


class Batcher:
    """Collects consecutive rows into batches. Not thread-safe."""

    def __init__(
        self, *, max_rows: int = BATCH_ROWS, max_bytes: int = BATCH_BYTES, max_age_s: float = BATCH_AGE_S
    ) -> None:
        self._max_rows, self._max_bytes, self._max_age_s = max_rows, max_bytes, max_age_s
        self._run = ""
        self._rows: list[Row] = []
        self._bytes = 0
        self._due: float | None = None

    def add(self, run: str, row: Row, size_bytes: int, now: float) -> list[Batch]:
        """Add a row; return the batches that are complete, usually none.

        A row of another run, or whose number does not follow the last one, starts a new batch.
        """
        done: list[Batch] = []
        rows = self._rows
        if rows and (row[0] != rows[-1][0] + 1 or run != self._run or self._bytes + size_bytes > self._max_bytes):
            done.append(self._take())
            rows = self._rows
        if not rows:
            self._run, self._due = run, now + self._max_age_s
        rows.append(row)
        self._bytes += size_bytes
        if len(rows) >= self._max_rows or self._bytes >= self._max_bytes:
            done.append(self._take())
        return done

    @property
    def due(self) -> float | None:
        """When the current batch is due, on the clock of `add`'s ``now``; None without a batch."""
        return self._due

    def flush(self, now: float | None = None) -> Batch | None:
        """Return the current batch if it is due at ``now``, or in any case for None; None without a batch."""
        if self._due is None or (now is not None and now < self._due):
            return None
        return self._take()

    def _take(self) -> Batch:
        rows, self._rows, self._bytes, self._due = self._rows, [], 0, None
        return Batch(self._run, rows[0][0], rows[-1][0], rows)


def record_row(seq: int, oid: str, text: str, meta: str, *, limit_bytes: int = ROW_LIMIT_BYTES) -> tuple[Row, int]:
    """Return a record's wire row and its size in bytes. A text over the limit is replaced by its size in ``meta``.

    >>> record_row(7, "oid", "[1,1]", '{"run":"r"}')
    ([7, 'oid', '[1,1]', '{"run":"r"}'], 19)
    >>> record_row(7, "oid", "[1,1]", '{"run":"r"}', limit_bytes=4)
    ([7, 'oid', None, '{"run":"r","text_bytes":5}'], 29)
    """
    # A text of n characters has at most 4n bytes in UTF-8, so short texts need not be encoded to check the limit.
    text_bytes = len(text) if len(text) * 4 <= limit_bytes else len(text.encode("utf-8", "surrogatepass"))
    if text_bytes <= limit_bytes:
        return [seq, oid, text, meta], text_bytes + len(meta) + len(oid)
    content = msgspec.json.decode(meta, type=dict[str, Any])
    content["text_bytes"] = text_bytes
    meta = msgspec.json.encode(content).decode()
    return [seq, oid, None, meta], len(meta) + len(oid)


# --- reader ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deliver:
    """Deliver these rows next. They are consecutive, and none was delivered before."""

    run: str
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Refill:
    """Request the kept rows of ``run`` after ``after_seq`` from the sender; pass the answer to `Feed.on_page`."""

    run: str
    after_seq: int
    limit: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Rows ``first`` to ``last`` of ``run`` are lost."""

    run: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class RunChanged:
    """The following rows belong to a new run."""

    run: str
    previous: str


Instruction: TypeAlias = Deliver | Refill | Gap | RunChanged


class Feed:
    """Decides which rows to deliver, which to request, and which are lost. Not thread-safe.

    At most one `Refill` of the current run is open; the caller must answer each with `on_page` or
    `on_refill_failed`.

    Args:
        run, after_seq: start after this row. ``after_seq=0`` starts with the oldest kept row, None
            with the first row that arrives. Without ``run`` it refers to the first run that arrives.
    """

    def __init__(
        self,
        *,
        run: str | None = None,
        after_seq: int | None = None,
        refill_rows: int = REFILL_ROWS,
        pending_rows: int = PENDING_ROWS,
    ) -> None:
        self.run = run
        self._after_seq = after_seq
        #: Number of the next row to deliver; None until it is known.
        self.expected: int | None = after_seq + 1 if run is not None and after_seq is not None else None
        self._refill_rows, self._pending_limit = refill_rows, pending_rows
        #: Batches held until earlier rows arrive, by their first number.
        self._pending: dict[int, Sequence[Row]] = {}
        self._pending_count = 0
        #: Highest number that certainly exists in the run; missing rows up to it are requested.
        self._known = 0
        #: Highest number reported by a status. Rows up to it that are still missing at the next status are lost.
        self._reported = 0
        #: Act on the next status at once, because no batch can be on its way.
        self._trust_next_status = True
        self._open_refill: Refill | None = None
        self._past: dict[str, int] = {}

    def on_batch(self, run: str, first_seq: int, last_seq: int, rows: Sequence[Row]) -> list[Instruction]:
        """Handle a live batch of consecutive rows ``first_seq`` to ``last_seq``."""
        if run == self.run and first_seq == self.expected and not self._pending:
            self.expected = last_seq + 1
            if last_seq > self._known:
                self._known = last_seq
            return [Deliver(run, rows)]
        out: list[Instruction] = []
        if (run != self.run or self.expected is None) and not self._switch_run(run, first_seq, out, confirmed=False):
            return self._late_batch(run, last_seq)
        self._known = max(self._known, last_seq)
        assert self.expected is not None
        if last_seq >= self.expected:
            if first_seq > self.expected:
                self._hold(first_seq, rows)
            else:
                self._deliver(rows[self.expected - first_seq :], out)
        return self._request_missing(out)

    def on_status(self, run: str, last_seq: int, *, confirmed: bool = False) -> list[Instruction]:
        """Handle a status of the sender: ``run`` is its current run and ``last_seq`` the newest row.

        A missing row may still be on its way, so it is requested when a second status finds it
        missing. ``confirmed`` means that no batch is on its way, because none came for some time.
        """
        out: list[Instruction] = []
        if (run != self.run or self.expected is None) and not self._switch_run(
            run, last_seq + 1, out, confirmed=confirmed
        ):
            return out
        assert self.expected is not None
        trusted = last_seq if confirmed or self._trust_next_status else min(self._reported, last_seq)
        self._trust_next_status = False
        self._reported = max(self._reported, last_seq)
        self._known = max(self._known, trusted)
        return self._request_missing(out)

    def on_page(self, run: str, first_available: int, last_seq: int, rows: Sequence[Row]) -> list[Instruction]:
        """Handle the answer to the open `Refill`: kept rows after the requested number.

        ``first_available`` is the number of the oldest kept row, ``last_seq + 1`` when none is kept.
        """
        out: list[Instruction] = []
        if self._open_refill is None or run != self._open_refill.run:
            return out  # requested before the run changed
        self._open_refill = None
        assert self.expected is not None
        before = self.expected
        self._known = max(self._known, last_seq)
        self._advance(first_available, out)
        for part in _consecutive(rows):
            first, last = part[0][0], part[-1][0]
            self._advance(first, out)  # the rows before are not kept, so they are lost
            if last >= self.expected:
                self._deliver(part[max(0, self.expected - first) :], out)
        # After an answer without progress, wait for the next status, so as not to request in a loop.
        return self._request_missing(out, ask=self.expected > before)

    def on_refill_failed(self, refill: Refill) -> None:
        """Handle the failure of ``refill``; a later batch or status requests the rows again."""
        if self._open_refill == refill:
            self._open_refill = None

    def on_reconnected(self) -> None:
        """Handle a reconnection: rows that are missing at the next status were lost."""
        self._trust_next_status = True
        self._open_refill = None

    # --- runs -------------------------------------------------------------------------------

    def _switch_run(self, run: str, first_seq: int, out: list[Instruction], *, confirmed: bool) -> bool:
        """Make ``run`` the current run; return False for an earlier run, unless ``confirmed``."""
        if self.run is None:
            self.run = run
        if run == self.run:
            self.expected = first_seq if self._after_seq is None else self._after_seq + 1
            return True
        if run in self._past and not confirmed:
            return False
        if self.expected is None:
            self.expected = 1
        # rows of the previous run that are missing cannot be requested any more
        self._advance(max(self._known, self._reported) + 1, out)
        self._past[self.run] = self.expected
        if len(self._past) > PAST_RUNS:
            del self._past[next(iter(self._past))]
        out.append(RunChanged(run, self.run))
        self.run, self.expected = run, self._past.pop(run, 1)
        self._pending, self._pending_count = {}, 0
        self._known = self._reported = 0
        self._trust_next_status, self._open_refill = True, None
        return True

    def _late_batch(self, run: str, last_seq: int) -> list[Instruction]:
        """Return the gap that a late batch of an earlier run reveals, if any."""
        expected = self._past[run]
        if last_seq < expected:
            return []
        self._past[run] = last_seq + 1
        return [Gap(run, expected, last_seq)]

    # --- order ------------------------------------------------------------------------------

    def _deliver(self, rows: Sequence[Row], out: list[Instruction]) -> None:
        """Deliver rows that start with the expected one."""
        assert self.run is not None
        out.append(Deliver(self.run, rows))
        self.expected = rows[-1][0] + 1
        self._drain(out)

    def _drain(self, out: list[Instruction]) -> None:
        """Deliver held rows that are next."""
        if not self._pending:
            return
        assert self.run is not None
        assert self.expected is not None
        for first in sorted(self._pending):
            if first > self.expected:
                return
            rows = self._pending.pop(first)
            self._pending_count -= len(rows)
            rest = rows[self.expected - first :]
            if rest:
                out.append(Deliver(self.run, rest))
                self.expected = rest[-1][0] + 1

    def _hold(self, first_seq: int, rows: Sequence[Row]) -> None:
        """Hold rows that arrived before earlier ones; drop them when too many are held."""
        have = self._pending.get(first_seq)
        if have is not None and len(have) >= len(rows):
            return
        if self._pending_count + len(rows) > self._pending_limit:
            return
        self._pending_count += len(rows) - (0 if have is None else len(have))
        self._pending[first_seq] = rows

    def _advance(self, to_seq: int, out: list[Instruction]) -> None:
        """Give up missing rows before ``to_seq``; deliver the held ones."""
        self._drain(out)
        assert self.run is not None
        assert self.expected is not None
        while self.expected < to_seq:
            end = min([to_seq, *self._pending]) - 1
            out.append(Gap(self.run, self.expected, end))
            self.expected = end + 1
            self._drain(out)

    def _request_missing(self, out: list[Instruction], *, ask: bool = True) -> list[Instruction]:
        """Request missing rows, if no request is open."""
        if ask and self._open_refill is None and self.expected is not None and self.expected <= self._known:
            assert self.run is not None
            self._open_refill = Refill(self.run, self.expected - 1, self._refill_rows)
            out.append(self._open_refill)
        return out


def _consecutive(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """Return ``rows`` split at holes in their numbers.

    >>> _consecutive([[1], [2], [5]])
    [[[1], [2]], [[5]]]
    """
    if not rows:
        return []
    if rows[-1][0] - rows[0][0] == len(rows) - 1:
        return [rows]
    cuts = [i for i in range(1, len(rows)) if rows[i][0] != rows[i - 1][0] + 1]
    return [rows[start:end] for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
