"""`Records` and `AsyncRecords`: iterators over all records of a remote machine, complete and in order.

What they hand over comes from a `timbr_wamp.client.record_stream.RecordStream`.

Several threads, or tasks, may share one iterator: each item goes to one of them. There is no lock, because an
interrupt between an assignment and the lock's release would lose a record. Instead whoever has an item makes its
place the current one only if the current one is still that from which it began; see `_RecordIterator`.
"""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import suppress
from typing import NamedTuple

from timbr_wamp.client.feed import Deliver, Gap, RunChanged
from timbr_wamp.client.record_stream import Part, RecordStream
from timbr_wamp.client.shared_connection import SharedConnection
from timbr_wamp.contract import Record, RecordsBatch, SlotNames, Status, records_from_batch
from timbr_wamp.errors import AlreadyClosed, InvalidArgument, LoopClosed, TimbrError
from timbr_wamp.faces.tables import RecordRows

__all__ = ["AsyncRecords", "Item", "Records"]

Item = Record | Gap | RunChanged | Status


class _Place(NamedTuple):
    """How far a consumer has come: replaced whole when an item is handed over, by one assignment."""

    #: Number of parts before ``parts``.
    before: int
    parts: list[Part]
    #: The next item: row ``row`` of part ``part``.
    part: int
    row: int


class _RecordIterator:
    """Base of both iterators: the stream, and what was handed over of what was taken from it.

    ``if self._place is seen: self._place = place; return item`` hands an item over. Between the comparison and the
    return CPython, with its global lock, delivers no interrupt and switches to no other thread: it does so after
    calls, at jumps back and at the entry of a function only.
    """

    def __init__(
        self, shared: SharedConnection, stream: RecordStream, timeout_s: float | None, names: SlotNames | None = None
    ) -> None:
        self._shared, self._stream, self._timeout_s = shared, stream, timeout_s
        #: What the records' slots are called; the stream keeps it up to date.
        self._names = SlotNames() if names is None else names
        self._place = _Place(0, [], 0, 0)
        #: The part that was parsed last, and its records.
        self._parsed: tuple[Deliver | None, list[Record]] = (None, [])
        #: It gives no more items; and its stream is closed, which an interrupted close leaves to the next one.
        self._closed = self._released = False
        #: What an interrupted `take` gives back, to be handed over again.
        self._again: deque[Item] = deque()
        stream.consumer = weakref.ref(self)

    def where(self) -> tuple[int, int]:
        """Return the number of parts that were handed over whole, and of records of the next one. Any thread."""
        before, _, part, row = self._place
        return before + part, row

    def _next(self, seen: _Place) -> tuple[Item | None, _Place]:
        """Return the item at a place, and the place after it; None when more must be taken."""
        before, parts, at, row = seen
        while at < len(parts):
            part = parts[at]
            if not isinstance(part, Deliver):
                return part, _Place(before, parts, at + 1, 0)
            if row < len(part.rows):
                return self._records_of(part)[row], _Place(before, parts, at, row + 1)
            at, row = at + 1, 0
        return None, _Place(before + at, [], 0, 0)

    def _is_end(self, seen: _Place, place: _Place, parts: list[Part]) -> bool:
        """Go on with the parts that follow; return whether there were none for too long. Not if another came first."""
        taken = place._replace(parts=parts)
        if self._place is not seen:
            return False
        self._place = taken
        return not parts

    def _records_of(self, part: Deliver) -> list[Record]:
        """Return the records of a part, all of which are parsed when the first is handed over."""
        known, records = self._parsed
        if known is not part:
            assert isinstance(part.rows, RecordsBatch)
            records = records_from_batch(part.rows, self._names)
            self._parsed = (part, records)
        return records

    def __del__(self) -> None:
        if not self._released:
            try:
                self._shared.submit(self._stream.close)
            except TimbrError:
                return  # the client is closed, and with it the stream


class _Taken:
    """What `take` has read so far."""

    def __init__(self, n: int) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InvalidArgument("n", f"{n!r} is not a whole number of records, 1 or more")
        self._left = n
        self.items: list[Item] = []

    def add(self, item: Item) -> bool:
        """Note an item; return whether that was the last record."""
        self.items.append(item)
        self._left -= isinstance(item, Record)
        return not self._left

    def rows(self) -> RecordRows:
        """Return the records, and what is missing between them."""
        rows = RecordRows(item for item in self.items if isinstance(item, Record))
        rows.gaps = [item for item in self.items if isinstance(item, Gap | RunChanged)]
        return rows


class Records(_RecordIterator):
    """An iterator over all records; see `RemoteMachine.records`. Any thread.

    It ends by `close`, at the end of ``with``, or when it is garbage-collected. Ctrl-C loses no record: the
    next one is that which was not handed over. Threads that share it get every item once, in all; `close` ends the
    iteration of all of them.
    """

    @staticmethod
    def started(shared: SharedConnection, records: AsyncRecords) -> Records:
        """Return the blocking iterator for an async one, subscribed."""
        records._released = True  # this one closes their stream
        return Records(shared, records._stream, records._timeout_s, records._names).start()

    def start(self) -> Records:
        """Subscribe now, if it has not. Messages that are put afterwards are included.

        Raises:
            AlreadyClosed: it was closed.
        """
        self._shared.wait(self._stream.start)
        return self

    def __iter__(self) -> Records:
        return self

    def __next__(self) -> Item:
        again = self._again
        if again:  # handed over without a call, as `_RecordIterator` says
            first = again[0]
            del again[0]
            return first
        while not self._closed:
            seen = self._place
            item, place = self._next(seen)
            if item is None:
                self._take(seen, place)
            elif self._place is seen:
                self._place = place
                return item
        raise StopIteration

    def take(self, n: int) -> RecordRows:
        """Return the next ``n`` records as a list that can become a table; fewer when the iterator ends first.

        Where records are missing, the list's ``gaps`` tells. Interrupted, it loses none.

        Raises:
            InvalidArgument: ``n`` is no whole number above 0.
        """
        taken = _Taken(n)
        try:
            for item in self:
                if taken.add(item):
                    break
        except BaseException:
            self._again.extend(taken.items)
            raise
        return taken.rows()

    def _take(self, seen: _Place, place: _Place) -> None:
        """Wait for what follows a place; close when nothing came in time."""
        try:
            parts = self._shared.wait(self._stream.take, place.before, self._timeout_s)
        except AlreadyClosed:
            if not self._closed:
                raise
            return  # another thread closed this iterator
        if self._is_end(seen, place, parts):
            self.close()

    def close(self) -> None:
        """Unsubscribe. Idempotent."""
        self._closed = True
        if not self._released:
            with suppress(LoopClosed):  # the client is closed, and with it the stream
                self._shared.wait(self._stream.close)
            self._released = True

    def __enter__(self) -> Records:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncRecords(_RecordIterator):
    """An asynchronous iterator over all records, for any loop.

    It subscribes at `start`, at ``async with``, or when the first item is requested. ``anext`` may be cancelled,
    by `asyncio.wait_for` for example: the next one gives what was not handed over. Tasks that share it get every
    item once, in all; `aclose` ends the iteration of all of them.
    """

    async def start(self) -> AsyncRecords:
        """Subscribe now. Messages that are put afterwards are included. Idempotent."""
        await self._shared.run(self._stream.start)
        return self

    def __aiter__(self) -> AsyncRecords:
        return self

    async def __anext__(self) -> Item:
        again = self._again
        if again:  # handed over without a call, as `_RecordIterator` says
            first = again[0]
            del again[0]
            return first
        while not self._closed:
            seen = self._place
            item, place = self._next(seen)
            if item is None:
                await self._take(seen, place)
            elif self._place is seen:
                self._place = place
                return item
        raise StopAsyncIteration

    async def take(self, n: int) -> RecordRows:
        """Return the next ``n`` records as a list that can become a table; fewer when the iterator ends first.

        Where records are missing, the list's ``gaps`` tells. Cancelled, it loses none.

        Raises:
            InvalidArgument: ``n`` is no whole number above 0.
        """
        taken = _Taken(n)
        try:
            async for item in self:
                if taken.add(item):
                    break
        except BaseException:
            self._again.extend(taken.items)
            raise
        return taken.rows()

    async def _take(self, seen: _Place, place: _Place) -> None:
        """Wait for what follows a place; close when nothing came in time."""
        try:
            parts = await self._shared.run(self._stream.take, place.before, self._timeout_s)
        except AlreadyClosed:
            if not self._closed:
                raise
            return  # another task closed this iterator
        if self._is_end(seen, place, parts):
            await self.aclose()

    async def aclose(self) -> None:
        """Unsubscribe. Idempotent."""
        self._closed = True
        if not self._released:
            with suppress(LoopClosed):
                await self._shared.run(self._stream.close)
            self._released = True

    async def __aenter__(self) -> AsyncRecords:
        return await self.start()

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()
