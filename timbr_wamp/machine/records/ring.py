"""The newest records, bounded in number and bytes. Older ones may be in a journal."""

from __future__ import annotations

import contextlib
import mmap
from bisect import bisect_right
from collections.abc import Sequence, Set
from dataclasses import dataclass

from timbr_wamp.machine.forks import short_lock
from timbr_wamp.machine.records.rows import Block, CompactRow, Layout

#: Records kept for readers that missed some.
RING_ROWS = 16_384
RING_BYTES = 64 * 1024 * 1024
#: So many parts are joined and copied at a time: for what is much larger the allocator takes new memory each time.
PARTS_COPIED = 40
#: Size of a new ring's buffer.
FIRST_BYTES = 1024 * 1024


@dataclass(slots=True)
class _Kept:
    """A block in the buffer."""

    first_seq: int
    oids: Sequence[str]
    layout: Layout
    #: Where it starts in the buffer.
    start: int
    #: Lengths of its parts, each of which has a comma after it.
    lengths: list[int]
    #: Parts of each record.
    width: int

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.oids) - 1


class RecordRing:
    """The newest rows by number, their texts in one circular buffer. Any thread.

    Texts that were kept as objects would each be written to memory that is in no cache: half of a message's time.
    Copied into a buffer that is written in order they cost a fraction of that. The buffer grows with its rows, up to
    its limit; what was never written takes no memory.

    Args:
        after_seq: the number before the first row's.
    """

    def __init__(self, rows: int = RING_ROWS, limit_bytes: int = RING_BYTES, *, after_seq: int = 0) -> None:
        self._lock = short_lock()
        self._limit_bytes = limit_bytes
        self._buffer = _memory(limit_bytes)
        #: Bytes of the buffer that are in use.
        self._size = min(FIRST_BYTES, limit_bytes)
        #: Number of rows that are kept at most.
        self._limit_rows = rows
        #: Blocks in the buffer, oldest first, and their first numbers.
        self._blocks: list[_Kept] = []
        self._firsts: list[int] = []
        #: Offset of the next row, and the end of the room for it.
        self._head, self._room_end = 0, self._size
        #: The numbers kept; the first is one above the last while there are none.
        self.first_seq = after_seq + 1
        self.last_seq = after_seq

    def extend(self, blocks: Sequence[Block]) -> None:
        """Append blocks with consecutive numbers; the oldest rows are dropped for them."""
        with self._lock:
            for block in blocks:
                if len(block) > self._limit_rows or block.size > self._limit_bytes // 4:
                    for one in block.one_by_one():
                        self._append(one)
                else:
                    self._append(block)

    def _append(self, block: Block) -> None:
        size = block.size + len(block.parts)
        self._forget_to(block.first_seq + len(block) - self._limit_rows)
        if self._head + size > self._room_end:
            self._make_room(size)
        kept = _Kept(block.first_seq, block.oids, block.layout, self._head, block.lengths, block.width)
        for start in range(0, len(block.parts), PARTS_COPIED):
            texts = b",".join((*block.parts[start : start + PARTS_COPIED], b""))
            self._buffer[self._head : self._head + len(texts)] = texts
            self._head += len(texts)
        self._blocks.append(kept)
        self._firsts.append(block.first_seq)
        self.last_seq = kept.last_seq

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

    def find(self, oids: Set[str]) -> list[CompactRow]:
        """Return the kept rows of messages, oldest first. Only the rows that are returned are read."""
        with self._lock:
            blocks = list(self._blocks)
        numbers = [
            block.first_seq + position for block in blocks for position, oid in enumerate(block.oids) if oid in oids
        ]
        return [row for number in numbers if (row := self.get(number)) is not None]

    def newest(self, n: int) -> list[CompactRow]:
        """Return the newest ``n`` rows, oldest of them first."""
        with self._lock:
            first = max(self.last_seq - max(n, 0) + 1, self.first_seq)
            return [self._row(number) for number in range(first, self.last_seq + 1)]

    # --- under the lock ---

    def _row(self, seq: int) -> CompactRow:
        kept = self._blocks[bisect_right(self._firsts, seq) - 1]
        position = seq - kept.first_seq
        first = position * kept.width
        start = kept.start + sum(kept.lengths[:first]) + first
        *made, meta = kept.lengths[first : first + kept.width]
        middle = start + sum(made) + len(made)
        text = b"[%b]" % self._buffer[start : middle - 1]
        return seq, kept.oids[position], text, self._buffer[middle : middle + meta], kept.layout

    def _forget_to(self, first_seq: int) -> None:
        """Keep no row before that one; the bytes of blocks of which no row is kept are room, if next to the head's."""
        if first_seq <= self.first_seq:
            return
        self.first_seq = min(first_seq, self.last_seq + 1)
        gone = bisect_right(self._firsts, self.first_seq) - 1 if self.first_seq <= self.last_seq else len(self._blocks)
        if gone:
            del self._blocks[:gone], self._firsts[:gone]
            self._find_room()

    def _drop_oldest(self) -> None:
        self._forget_to(self._blocks[0].last_seq + 1)

    def _find_room(self) -> None:
        if not self._blocks:
            self._reset(self._limit_bytes)
            return
        tail = self._blocks[0].start
        self._room_end = tail if tail >= self._head else self._size

    def _make_room(self, size: int) -> None:
        """Make room for ``size`` bytes: at the buffer's start, by growing it, or by dropping the oldest rows."""
        if size > self._limit_bytes or self._size > self._limit_bytes:  # one row over the limit, or after it
            self._forget_to(self.last_seq + 1)
            self._reset(max(size, self._limit_bytes))
        while self._head + size > self._room_end:
            at_end = self._room_end == self._size
            tail = self._blocks[0].start if self._blocks else 0
            if at_end and tail >= size:
                self._head, self._room_end = 0, tail
            elif at_end and self._size < self._limit_bytes:
                self._size = self._room_end = min(max(2 * self._size, self._head + size), self._limit_bytes)
            elif at_end and tail < self._head:
                self._head, self._room_end = 0, tail  # the rest of the buffer is left; the oldest go next
            else:
                self._drop_oldest()

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
