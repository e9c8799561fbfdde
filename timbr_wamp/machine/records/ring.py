"""The newest records, bounded in number and bytes. Older ones may be in a journal."""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Sequence
from typing import TypeAlias

from timbr_wamp.machine.records.rows import CompactRow, Layout, NewRow

#: Records kept for readers that missed some.
RING_ROWS = 16_384
RING_BYTES = 64 * 1024 * 1024
#: Size of a new ring's buffer.
FIRST_BYTES = 1024 * 1024


#: Number, oid, where text and meta begin and end in the buffer, layout.
_IndexEntry: TypeAlias = tuple[int, str, int, int, int, Layout]


class RecordRing:
    """The newest rows by number, their texts in one circular buffer. Any thread.

    Texts that were kept as objects would each be written to memory that is in no cache: half of a message's time.
    Copied into a buffer that is written in order they cost a fraction of that. The buffer grows with its rows, up to
    its limit; what was never written takes no memory.

    Args:
        after_seq: the number before the first row's.
    """

    def __init__(self, rows: int = RING_ROWS, limit_bytes: int = RING_BYTES, *, after_seq: int = 0) -> None:
        self._lock = threading.RLock()
        self._limit_bytes = limit_bytes
        self._buffer = _memory(limit_bytes)
        #: Bytes of the buffer that are in use.
        self._size = min(FIRST_BYTES, limit_bytes)
        #: ``(seq, oid, start, middle, end, layout)``: text and meta in the buffer; at ``seq % rows``.
        self._index: list[_IndexEntry | None] = [None] * rows
        #: Offset of the next row, and the end of the room for it.
        self._head, self._room_end = 0, self._size
        #: The numbers kept; the first is one above the last while there are none.
        self.first_seq = after_seq + 1
        self.last_seq = after_seq

    def extend(self, rows: Sequence[NewRow]) -> None:
        """Append rows with consecutive numbers; the oldest are dropped for them."""
        parts = list[bytes]()
        for _, _, made, meta, _ in rows:
            parts += made
            parts.append(meta)
        with self._lock:
            if len(rows) > len(self._index) or sum(map(len, parts)) > self._limit_bytes // 4:
                for row in rows:
                    self._append([row], b",".join((*row[2], row[3], b"")))
            elif rows:
                parts.append(b"")
                self._append(rows, b",".join(parts))

    def _append(self, rows: Sequence[NewRow], texts: bytes) -> None:
        """Append rows; ``texts`` is their texts concatenated, each followed by a comma."""
        index, count = self._index, len(self._index)
        too_many = rows[-1][0] - self.first_seq + 1 - count
        if too_many > 0:
            self._drop(too_many)
        if self._head + len(texts) > self._room_end:
            self._make_room(len(texts))
        start = self._head
        self._head = start + len(texts)
        self._buffer[start : self._head] = texts
        for seq, oid, made, meta, layout in rows:
            middle = start + sum(map(len, made)) + len(made)
            end = middle + len(meta) + 1
            index[seq % count] = (seq, oid, start, middle, end, layout)
            start = end
        self.last_seq = rows[-1][0]

    def after(self, seq: int, limit: int, limit_bytes: int) -> tuple[int, int, list[CompactRow]]:
        """Return ``(first kept, last, rows)``: at most ``limit`` rows with a number above ``seq``.

        Stops before ``limit_bytes`` of texts, but gives at least one row if there is any.
        """
        with self._lock:
            found: list[CompactRow] = []
            size = 0
            for number in range(max(seq + 1, self.first_seq), self.last_seq + 1):
                row = self._row(number)
                size += len(row[2])
                if len(found) >= limit or (found and size > limit_bytes):
                    break
                found.append(row)
            return self.first_seq, self.last_seq, found

    def get(self, seq: int) -> CompactRow | None:
        """Return the row of that number, None when it is not kept."""
        with self._lock:
            return self._row(seq) if self.first_seq <= seq <= self.last_seq else None

    def newest(self, n: int) -> list[CompactRow]:
        """Return the newest ``n`` rows, oldest of them first."""
        with self._lock:
            first = max(self.last_seq - max(n, 0) + 1, self.first_seq)
            return [self._row(number) for number in range(first, self.last_seq + 1)]

    # --- under the lock ---

    def _entry(self, seq: int) -> _IndexEntry:
        entry = self._index[seq % len(self._index)]
        assert entry is not None
        assert entry[0] == seq
        return entry

    def _row(self, seq: int) -> CompactRow:
        _, oid, start, middle, end, layout = self._entry(seq)
        return seq, oid, b"[%b]" % self._buffer[start : middle - 1], self._buffer[middle : end - 1], layout

    def _drop(self, count: int) -> None:
        """Drop the oldest rows; their bytes are room if they are next to the head's."""
        self.first_seq = min(self.first_seq + count, self.last_seq + 1)
        if self.first_seq > self.last_seq:
            self._reset(self._limit_bytes)
            return
        tail = self._entry(self.first_seq)[2]
        self._room_end = tail if tail >= self._head else self._size

    def _make_room(self, size: int) -> None:
        """Make room for ``size`` bytes: at the buffer's start, by growing it, or by dropping the oldest rows."""
        if size > self._limit_bytes or self._size > self._limit_bytes:  # one row over the limit, or after it
            self._drop(self.last_seq + 1 - self.first_seq)
            self._reset(max(size, self._limit_bytes))
        while self._head + size > self._room_end:
            at_end = self._room_end == self._size
            tail = self._entry(self.first_seq)[2] if self.first_seq <= self.last_seq else 0
            if at_end and tail >= size:
                self._head, self._room_end = 0, tail
            elif at_end and self._size < self._limit_bytes:
                self._size = self._room_end = min(max(2 * self._size, self._head + size), self._limit_bytes)
            elif at_end and tail < self._head:
                self._head, self._room_end = 0, tail  # the rest of the buffer is left; the oldest go next
            else:
                self._drop(1)

    def _reset(self, limit_bytes: int) -> None:
        """Continue at the buffer's start; with a new buffer if the size changes."""
        if len(self._buffer) != limit_bytes:
            self._buffer = _memory(limit_bytes)
            self._size = limit_bytes
        self._head, self._room_end = 0, self._size


def _memory(size_bytes: int) -> mmap.mmap:
    """Return zeroed memory of this process; the system provides each page when it is first written."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size_bytes)
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
