"""Numbered rows over a lossy way: `Batcher` sends them, `Feed` reads them complete and in order.

Sans-I/O: no sockets, no threads, no clock. Used alike for records, iopub and log. A row is any
sequence whose first item is its number; numbers count from 1, without holes, within a run. The live
way may lose, repeat or reorder batches; what is missing is asked for again from whoever keeps the
newest rows (`Refill`), and what is no longer kept there is named once (`Gap`).

The cost is per batch, not per row, as long as nothing was lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from timbr_wamp.contract import ROW_LIMIT_BYTES

__all__ = ["Batch", "Batcher", "Deliver", "Feed", "Gap", "Instruction", "Refill", "RunChanged", "record_row"]

Row: TypeAlias = Sequence[Any]

#: A batch goes out when it has so many rows, so many bytes, or its first row is so old.
BATCH_ROWS, BATCH_BYTES, BATCH_AGE_S = 200, 256 * 1024, 0.020
#: Rows that came too early wait for those before them; beyond so many they are dropped and refilled.
PENDING_ROWS = 10_000
#: Rows asked for at once.
REFILL_ROWS = 500
#: Runs that are over and remembered, so that their late batches are known.
PAST_RUNS = 16


# --- sender ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows of one run: what a `contract.RecordsBatch` carries."""

    run: str
    first_seq: int
    last_seq: int
    rows: list[Row]


class Batcher:
    """Gather consecutive rows into batches. Not for several threads."""

    def __init__(
        self, *, max_rows: int = BATCH_ROWS, max_bytes: int = BATCH_BYTES, max_age_s: float = BATCH_AGE_S
    ) -> None:
        self._max_rows, self._max_bytes, self._max_age_s = max_rows, max_bytes, max_age_s
        self._run = ""
        self._rows: list[Row] = []
        self._bytes = 0
        self._due: float | None = None

    def add(self, run: str, row: Row, size_bytes: int, now: float) -> list[Batch]:
        """Take a row; return the batches that are complete now, usually none.

        A row that does not follow the last one (its run or number) begins a batch of its own.
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
        """When `flush` will have something, on the clock of `add`'s ``now``; None: nothing waits."""
        return self._due

    def flush(self, now: float | None = None) -> Batch | None:
        """Return what waits, if it is due at ``now``; with None at once. None when there is nothing."""
        if self._due is None or (now is not None and now < self._due):
            return None
        return self._take()

    def _take(self) -> Batch:
        rows, self._rows, self._bytes, self._due = self._rows, [], 0, None
        return Batch(self._run, rows[0][0], rows[-1][0], rows)


def record_row(seq: int, oid: str, text: str, meta: str, *, limit_bytes: int = ROW_LIMIT_BYTES) -> tuple[Row, int]:
    """Return a record's wire row and its size; a text over the limit is replaced by its size in ``meta``.

    >>> record_row(7, "oid", "[1,1]", '{"run":"r"}')
    ([7, 'oid', '[1,1]', '{"run":"r"}'], 19)
    >>> record_row(7, "oid", "[1,1]", '{"run":"r"}', limit_bytes=4)
    ([7, 'oid', None, '{"run":"r","text_bytes":5}'], 29)
    """
    # A text of n characters has at most 3n bytes in UTF-8 (4 for two code units): count only when it may matter.
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
    """These rows come next: consecutive, none of them delivered before."""

    run: str
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Refill:
    """Ask the keeper for rows of ``run`` after ``after_seq``; the answer goes to `Feed.on_page`."""

    run: str
    after_seq: int
    limit: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Rows ``first`` to ``last`` of ``run`` are gone for good."""

    run: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class RunChanged:
    """What follows is numbered anew, under ``run``."""

    run: str
    previous: str


Instruction: TypeAlias = Deliver | Refill | Gap | RunChanged


class Feed:
    """Decide what to deliver, what to ask for again, and what is lost. Not for several threads.

    At most one `Refill` of the present run is under way; each must be followed by `on_page` or
    `on_refill_failed`.

    Args:
        run, after_seq: begin after that row. ``after_seq=0`` begins with the oldest row kept; None
            with the first one that comes. Without ``run`` it means the first run that is seen.
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
        #: Number of the next row to deliver; None before anything is known.
        self.expected: int | None = after_seq + 1 if run is not None and after_seq is not None else None
        self._refill_rows, self._pending_limit = refill_rows, pending_rows
        #: Batches that came too early, by their first number.
        self._pending: dict[int, Sequence[Row]] = {}
        self._pending_count = 0
        #: Newest number known to exist in the run.
        self._known = 0
        #: Newest number that an earlier status named: what is missing up to it was not merely on its way.
        self._claimed = 0
        #: The next status is believed at once: nothing is on its way yet.
        self._fresh = True
        self._asked: Refill | None = None
        self._past: dict[str, int] = {}

    @property
    def refilling(self) -> bool:
        """A `Refill` is under way."""
        return self._asked is not None

    def on_batch(self, run: str, first_seq: int, last_seq: int, rows: Sequence[Row]) -> list[Instruction]:
        """Take a live batch of consecutive rows ``first_seq`` to ``last_seq``."""
        if run == self.run and first_seq == self.expected and not self._pending:
            self.expected = last_seq + 1
            if last_seq > self._known:
                self._known = last_seq
            return [Deliver(run, rows)]
        out: list[Instruction] = []
        if (run != self.run or self.expected is None) and not self._enter(run, first_seq, out, sure=False):
            return self._late(run, last_seq)
        self._known = max(self._known, last_seq)
        assert self.expected is not None
        if last_seq >= self.expected:
            if first_seq > self.expected:
                self._keep(first_seq, rows)
            else:
                self._deliver(rows[self.expected - first_seq :], out)
        return self._settle(out)

    def on_status(self, run: str, last_seq: int, *, sure: bool = False) -> list[Instruction]:
        """Take the keeper's word that ``last_seq`` is the newest row of ``run``, its present run.

        A row that is missing may still be on its way, so it is asked for when a second status finds
        it missing still. ``sure`` says that it is not: nothing came for a while.
        """
        out: list[Instruction] = []
        if (run != self.run or self.expected is None) and not self._enter(run, last_seq + 1, out, sure=sure):
            return out
        assert self.expected is not None
        trusted = last_seq if sure or self._fresh else min(self._claimed, last_seq)
        self._fresh = False
        self._claimed = max(self._claimed, last_seq)
        self._known = max(self._known, trusted)
        return self._settle(out)

    def on_page(self, run: str, first_available: int, last_seq: int, rows: Sequence[Row]) -> list[Instruction]:
        """Take the answer to the `Refill` under way: kept rows after the number asked for.

        ``first_available`` is the oldest row kept, ``last_seq + 1`` when none is.
        """
        out: list[Instruction] = []
        if self._asked is None or run != self._asked.run:
            return out  # asked before the run changed
        self._asked = None
        assert self.expected is not None
        before = self.expected
        self._known = max(self._known, last_seq)
        self._advance(first_available, out)
        for part in _consecutive(rows):
            first, last = part[0][0], part[-1][0]
            self._advance(first, out)  # a hole in what is kept will not be filled any more
            if last >= self.expected:
                self._deliver(part[max(0, self.expected - first) :], out)
        # A keeper that gave nothing is asked again when its next status comes, not at once for ever.
        return self._settle(out, ask=self.expected > before)

    def on_refill_failed(self, refill: Refill) -> None:
        """Take note that ``refill`` will not be answered; a later batch or status asks again."""
        if self._asked == refill:
            self._asked = None

    def on_reconnected(self) -> None:
        """Take note that the live way was broken: what the next status names and is missing, is lost."""
        self._fresh = True
        self._asked = None

    # --- runs -------------------------------------------------------------------------------

    def _enter(self, run: str, first_seq: int, out: list[Instruction], *, sure: bool) -> bool:
        """Go over to ``run``; False when it is one that is over (only a ``sure`` status revives it)."""
        if self.run is None:
            self.run = run
        if run == self.run:
            self.expected = first_seq if self._after_seq is None else self._after_seq + 1
            return True
        if run in self._past and not sure:
            return False
        if self.expected is None:
            self.expected = 1
        # What the run that is over had, and never came, nobody will give us any more.
        self._advance(max(self._known, self._claimed) + 1, out)
        self._past[self.run] = self.expected
        if len(self._past) > PAST_RUNS:
            del self._past[next(iter(self._past))]
        out.append(RunChanged(run, self.run))
        self.run, self.expected = run, self._past.pop(run, 1)
        self._pending, self._pending_count = {}, 0
        self._known = self._claimed = 0
        self._fresh, self._asked = True, None
        return True

    def _late(self, run: str, last_seq: int) -> list[Instruction]:
        """Return the gap that a late batch of a run that is over reveals, if any."""
        expected = self._past[run]
        if last_seq < expected:
            return []
        self._past[run] = last_seq + 1
        return [Gap(run, expected, last_seq)]

    # --- order ------------------------------------------------------------------------------

    def _deliver(self, rows: Sequence[Row], out: list[Instruction]) -> None:
        """Deliver rows of which the first is the expected one."""
        assert self.run is not None
        out.append(Deliver(self.run, rows))
        self.expected = rows[-1][0] + 1
        self._drain(out)

    def _drain(self, out: list[Instruction]) -> None:
        """Deliver what waited and is next now."""
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

    def _keep(self, first_seq: int, rows: Sequence[Row]) -> None:
        """Let rows wait that came too early; without room they will be refilled."""
        have = self._pending.get(first_seq)
        if have is not None and len(have) >= len(rows):
            return
        if self._pending_count + len(rows) > self._pending_limit:
            return
        self._pending_count += len(rows) - (0 if have is None else len(have))
        self._pending[first_seq] = rows

    def _advance(self, to_seq: int, out: list[Instruction]) -> None:
        """Give up what is missing before ``to_seq``; what waits of it is delivered."""
        self._drain(out)
        assert self.run is not None
        assert self.expected is not None
        while self.expected < to_seq:
            end = min([to_seq, *self._pending]) - 1
            out.append(Gap(self.run, self.expected, end))
            self.expected = end + 1
            self._drain(out)

    def _settle(self, out: list[Instruction], *, ask: bool = True) -> list[Instruction]:
        """Add the request for what is missing, if none is under way."""
        if ask and self._asked is None and self.expected is not None and self.expected <= self._known:
            assert self.run is not None
            self._asked = Refill(self.run, self.expected - 1, self._refill_rows)
            out.append(self._asked)
        return out


def _consecutive(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """Return ``rows`` cut at holes in their numbers.

    >>> _consecutive([[1], [2], [5]])
    [[[1], [2]], [[5]]]
    """
    if not rows:
        return []
    if rows[-1][0] - rows[0][0] == len(rows) - 1:
        return [rows]
    cuts = [i for i in range(1, len(rows)) if rows[i][0] != rows[i - 1][0] + 1]
    return [rows[start:end] for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
