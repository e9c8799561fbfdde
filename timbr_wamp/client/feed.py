"""Reliable delivery of numbered rows over lossy topics: `Batcher` on the sender's side, `Feed` on the reader's.

Sans-I/O: no sockets, no threads, no clock. Rows are numbered from 1 in each run, without holes, and come as batches of
consecutive ones, into which nobody looks here. The topic may lose, repeat or reorder batches. The
reader requests missing rows from the sender, which keeps the newest ones (`Refill`), and reports rows
that the sender no longer keeps (`Gap`).

The cost is per batch, not per row, while no batch is lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from timbr_wamp.contract import RecordsBatch

__all__ = ["Batcher", "Deliver", "Feed", "Gap", "Instruction", "Refill", "Rows", "RunChanged", "joined"]


class Rows(Protocol):
    """Consecutive rows: a list of them, or a `RecordsBatch`."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Any: ...


#: A batch is sent when it reaches this number of rows or bytes, or this long after the one before.
BATCH_ROWS, BATCH_BYTES, BATCH_AGE_S = 200, 256 * 1024, 0.010
#: Most rows, and bytes of them, that are held while earlier rows are missing; further rows are dropped and requested
#: later.
PENDING_ROWS, PENDING_BYTES = 10_000, 16 * 1024 * 1024
#: Most rows per request.
REFILL_ROWS = 500
#: Number of earlier runs that are remembered, to recognize their late batches.
PAST_RUNS = 16


# --- sender ------------------------------------------------------------------------------------


class Batcher:
    """Joins consecutive batches of one layout into larger ones. Not thread-safe.

    The first records after a quiet time are passed on at once; others wait, until `BATCH_AGE_S` after what was passed
    on last, for more to join them.
    """

    def __init__(
        self, *, max_rows: int = BATCH_ROWS, max_bytes: int = BATCH_BYTES, max_age_s: float = BATCH_AGE_S
    ) -> None:
        self._max_rows, self._max_bytes, self._max_age_s = max_rows, max_bytes, max_age_s
        self._waiting: list[RecordsBatch] = []
        self._rows = 0
        #: Size of what waits.
        self.size_bytes = 0
        self._passed_on_at = -math.inf
        self._due: float | None = None

    def add(self, batch: RecordsBatch, now: float) -> list[RecordsBatch]:
        """Add a batch; return those that are complete, often none."""
        done: list[RecordsBatch] = []
        size = batch.size_bytes
        if self._waiting and not self._joins(batch, size):
            done.append(self._take(now))
        due = self._due if self._due is not None else max(now, self._passed_on_at + self._max_age_s)
        self._due = due
        self._waiting.append(batch)
        self._rows += batch.count
        self.size_bytes += size
        if self._rows >= self._max_rows or self.size_bytes >= self._max_bytes or now >= due:
            done.append(self._take(now))
        return done

    def _joins(self, batch: RecordsBatch, size_bytes: int) -> bool:
        last = self._waiting[-1]
        return (
            batch.first_seq == last.last_seq + 1
            and batch.run == last.run
            and batch.layout == last.layout
            and self._rows + batch.count <= self._max_rows
            and self.size_bytes + size_bytes <= self._max_bytes
        )

    @property
    def due(self) -> float | None:
        """When what waits is due, on the clock of `add`'s ``now``; None when nothing waits."""
        return self._due

    def flush(self, now: float) -> RecordsBatch | None:
        """Return what waits if it is due at ``now``."""
        return None if self._due is None or now < self._due else self._take(now)

    def _take(self, now: float) -> RecordsBatch:
        taken, self._waiting = self._waiting, []
        self._rows = self.size_bytes = 0
        self._passed_on_at, self._due = now, None
        return joined(taken)


def joined(batches: Sequence[RecordsBatch]) -> RecordsBatch:
    """Return consecutive batches of one layout as one."""
    first = batches[0]
    if len(batches) == 1:
        return first
    block = f"[{','.join([batch.block[1:-1] for batch in batches])}]"
    count = sum(batch.count for batch in batches)
    last_seq = batches[-1].last_seq
    return RecordsBatch(
        run=first.run, first_seq=first.first_seq, last_seq=last_seq, count=count, layout=first.layout, block=block
    )


# --- reader ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deliver:
    """Deliver these rows next. They are consecutive, and none was delivered before."""

    run: str
    rows: Rows


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
        pending_bytes: int = PENDING_BYTES,
    ) -> None:
        self.run = run
        self._after_seq = after_seq
        #: Number of the next row to deliver; None until it is known.
        self.expected: int | None = after_seq + 1 if run is not None and after_seq is not None else None
        self._refill_rows, self._pending_limit, self._pending_limit_bytes = refill_rows, pending_rows, pending_bytes
        #: Batches held until earlier rows arrive, by their first number.
        self._pending: dict[int, Rows] = {}
        self._pending_count = 0
        #: Size of the held batches; 0 for batches that do not tell theirs.
        self.pending_bytes = 0
        #: Highest number that certainly exists in the run; missing rows up to it are requested.
        self._known = 0
        #: Highest number reported by a status. Rows up to it that are still missing at the next status are lost.
        self._reported = 0
        #: Act on the next status at once, because no batch can be on its way.
        self._trust_next_status = True
        self._open_refill: Refill | None = None
        self._past: dict[str, int] = {}

    def on_batch(self, run: str, first_seq: int, last_seq: int, rows: Rows) -> list[Instruction]:
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
                self._deliver(first_seq, rows, out)
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

    def on_page(
        self, run: str, first_available: int, last_seq: int, batches: Sequence[tuple[int, Rows]]
    ) -> list[Instruction]:
        """Handle the answer to the open `Refill`: kept rows after the requested number, with each batch's first number.

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
        for first, rows in batches:
            self._advance(first, out)  # the rows before are not kept, so they are lost
            if first + len(rows) > self.expected:
                self._deliver(first, rows, out)
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
        self._pending, self._pending_count, self.pending_bytes = {}, 0, 0
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

    def _deliver(self, first_seq: int, rows: Rows, out: list[Instruction]) -> None:
        """Deliver what of these rows was not delivered; the expected one is among them."""
        assert self.run is not None
        assert self.expected is not None
        last_seq = first_seq + len(rows) - 1
        out.append(Deliver(self.run, rows[self.expected - first_seq :] if first_seq < self.expected else rows))
        self.expected = last_seq + 1
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
            self.pending_bytes -= _size_bytes(rows)
            if first + len(rows) > self.expected:
                out.append(Deliver(self.run, rows[self.expected - first :]))
                self.expected = first + len(rows)

    def _hold(self, first_seq: int, rows: Rows) -> None:
        """Hold rows that arrived before earlier ones; drop them when too many are held."""
        have = self._pending.get(first_seq)
        if have is not None and len(have) >= len(rows):
            return
        count, size_bytes = len(rows), _size_bytes(rows)
        if have is not None:
            count, size_bytes = count - len(have), size_bytes - _size_bytes(have)
        too_large = self.pending_bytes and self.pending_bytes + size_bytes > self._pending_limit_bytes
        if too_large or self._pending_count + count > self._pending_limit:
            return
        self._pending_count += count
        self.pending_bytes += size_bytes
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


def _size_bytes(rows: Rows) -> int:
    return int(getattr(rows, "size_bytes", 0))
