"""Everything a machine can read messages from, as one `Reader`, and the `Feeder` that queues them.

An iterable, an iterator, a generator function, an async generator or a `Source` object. What may
block is read by a thread of its own, ahead until the queue is full; what is ready (a list, a
range, their iterators) by the machine's worker, as it needs it. A message once read is never
dropped: one that finds no room waits, also while the machine is paused.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, cast

from timbr_wamp.contract import SourceStatus
from timbr_wamp.contract.structs import SourceStateName
from timbr_wamp.errors import InvalidArgument, NotASource
from timbr_wamp.machine.ledger import Ledger
from timbr_wamp.machine.protocols import Clock, EndOfSource, Entry, Source
from timbr_wamp.values import clean_text

logger = logging.getLogger(__name__)

#: A `Source` with nothing ready is asked again after so long, doubled up to the second figure.
POLL_S, POLL_MAX_S = 0.005, 0.1


class Reader(Protocol):
    """What the feeder's thread reads, one message after the other."""

    def read(self) -> Sequence[object]:
        """Return at least one message, or none if there is none yet; blocks as the source does.

        Raises:
            EndOfSource: no message will ever follow.
        """

    def close(self) -> None:
        """Release the source. The feeder's thread, once."""


#: Iterators that never block: those of the built-in containers.
_CONTAINERS: tuple[Iterable[object], ...] = ((), [], {}, range(0), range(1 << 99), set(), deque(), {}.values())
_READY = tuple(type(iter(container)) for container in _CONTAINERS)


class ReadyReader:
    """Read an iterator that never blocks, many messages at a time."""

    def __init__(self, iterator: Iterator[object]) -> None:
        self._iterator = iterator

    def read(self, limit: int = 64) -> Sequence[object]:
        """Return the next messages."""
        messages = list(islice(self._iterator, limit))
        if not messages:
            raise EndOfSource
        return messages

    def close(self) -> None:
        """Nothing is held."""


class IteratorReader:
    """Read an iterator, message by message."""

    def __init__(self, iterator: Iterator[object]) -> None:
        self._iterator = iterator

    def read(self) -> Sequence[object]:
        """Return the next message."""
        try:
            return (next(self._iterator),)
        except StopIteration:
            raise EndOfSource from None

    def close(self) -> None:
        """Close a generator, so that its ``finally`` runs."""
        close = getattr(self._iterator, "close", None)
        if inspect.isgenerator(self._iterator) and close is not None:
            close()


class AsyncReader:
    """Read an async iterator in a loop of the feeder's own thread."""

    def __init__(self, iterator: AsyncIterator[object]) -> None:
        self._iterator = iterator
        self._runner: asyncio.Runner | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelled = False

    def read(self) -> Sequence[object]:
        """Return the next message."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            return (self._runner.run(self._next()),)
        except StopAsyncIteration:
            raise EndOfSource from None
        except asyncio.CancelledError:
            if self._cancelled:
                raise EndOfSource from None
            raise

    async def _next(self) -> object:
        self._task = asyncio.current_task()
        if self._cancelled:
            raise asyncio.CancelledError
        return await anext(self._iterator)

    def cancel(self) -> None:
        """End a read that waits. Any thread."""
        self._cancelled = True
        task = self._task
        if task is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                task.get_loop().call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        """Close the generator and the loop."""
        if self._runner is not None:
            close = getattr(self._iterator, "aclose", None)
            if close is not None:
                self._runner.run(_finish(close))
            self._runner.close()


async def _finish(close: Callable[[], Any]) -> None:
    await close()


class SourceReader:
    """Read a `Source` object, with growing pauses while it has nothing."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pause_s = POLL_S

    def read(self) -> Sequence[object]:
        """Return what is ready; empty after a pause."""
        batch = self._source.next_batch()
        if batch:
            self._pause_s = POLL_S
        else:
            time.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * 2, POLL_MAX_S)
        return batch

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def reader_of(source: object) -> tuple[Reader, int | None]:
    """Return a reader of ``source``, and how many messages there will be when it can tell.

    Raises:
        NotASource: nothing that gives messages; texts and bytes are refused, since their
            characters are hardly meant.
    """
    total = _total_of(source)
    if isinstance(source, Source):
        return SourceReader(source), total
    if _gives_when_called(source):
        made = _call(cast(Callable[[], object], source))
        if not _gives_when_called(made):
            return reader_of(made)
        raise NotASource("function", "returned another function instead of messages")
    if isinstance(source, (str, bytes, bytearray, dict)):
        raise NotASource(type(source).__name__)
    if hasattr(source, "__aiter__"):
        return AsyncReader(aiter(cast("AsyncIterator[object]", source))), total
    try:
        iterator = iter(cast("Iterator[object]", source))
    except TypeError:
        raise NotASource(type(source).__name__) from None
    return (ReadyReader(iterator) if isinstance(iterator, _READY) else IteratorReader(iterator)), total


def _gives_when_called(source: object) -> bool:
    return callable(source) and not isinstance(source, (Iterable, AsyncIterable, Source))


def _call(function: Callable[[], object]) -> object:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise NotASource("function", f"cannot be called without arguments ({error})") from None
    except ValueError:
        pass  # no signature to read: try
    return function()


def _total_of(source: object) -> int | None:
    total = getattr(source, "total", None)
    if isinstance(total, int):
        return total
    try:
        return len(source)  # type: ignore[arg-type]  # TypeError is the answer
    except TypeError:
        return None


class Feeder:
    """What reads a source into the queue, and where it is.

    It lives as long as the source, over pauses and stops of the machine: `permit` lets it read on.
    """

    def __init__(
        self,
        source: object,
        total: int | None,
        *,
        ledger: Ledger,
        clock: Clock,
        new_oid: Callable[[float], str],
        on_end: Callable[[Feeder], None],
        name: str,
    ) -> None:
        if total is not None and (isinstance(total, bool) or not isinstance(total, int) or total < 0):
            raise InvalidArgument("total", f"{total!r} is not a whole number of at least 0")
        self._reader, own_total = reader_of(source)
        self.total = own_total if total is None else total
        self.count = 0
        self.error: BaseException | None = None
        self._state: SourceStateName = "waiting"
        self._ledger, self._clock, self._new_oid, self._on_end = ledger, clock, new_oid, on_end
        self._permits = threading.Condition()
        self._budget = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"timbr {name} source", daemon=True)
        self._started = False

    @property
    def ended(self) -> bool:
        """It is exhausted or failed, and all it gave is queued."""
        return self._state in ("exhausted", "failed")

    def permit(self, messages: float) -> None:
        """Let it read so many messages more; infinity: without end; 0: none after the one being read."""
        with self._permits:
            self._budget = messages
            if not self._started and messages > 0 and not self._closed and not self.ready:
                self._started = True
                self._thread.start()
            self._permits.notify_all()

    @property
    def ready(self) -> bool:
        """It never blocks: `refill` reads it, no thread."""
        return isinstance(self._reader, ReadyReader)

    def refill(self, limit: int) -> None:
        """Queue up to ``limit`` messages of a ready source, if there is room for them. The worker's thread."""
        if self._closed or self.ended or self._budget <= 0 or not isinstance(self._reader, ReadyReader):
            return
        counts = self._ledger.snapshot()
        limit = min(limit - counts.queue_size, counts.queue_capacity - counts.queue_size)
        if limit <= 0:
            return
        self._state = "reading"
        try:
            self._queue(self._reader.read(limit), beyond=True)
        except EndOfSource:
            self._ended("exhausted")
        except BaseException as error:  # an iterator whose container changed, for one
            self.error = error
            self._ended("failed")

    def close(self, timeout_s: float = 0.0) -> None:
        """End it. A message that it is just reading is queued still, when there is room for it."""
        with self._permits:
            if self._closed:
                return
            self._closed = True
            never_read = not self._started and not self.ended
            self._permits.notify_all()
        if isinstance(self._reader, AsyncReader):
            self._reader.cancel()
        if never_read:
            self._close_reader()
        elif self._started and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def status(self, rate_per_s: float) -> SourceStatus:
        """Return where it is; ``rate_per_s`` is for the estimate of the time left."""
        left = None if self.total is None else max(self.total - self.count, 0)
        eta_s = left / rate_per_s if left is not None and rate_per_s > 0 and not self.ended else None
        state: SourceStateName = self._state
        if state == "reading" and self._budget <= 0:
            state = "waiting"
        error = None if self.error is None else clean_text(f"{type(self.error).__name__}: {self.error}")
        return SourceStatus(state=state, count=self.count, total=self.total, eta_s=eta_s, error=error)

    # --- its own thread ---

    def _run(self) -> None:
        state: SourceStateName = "exhausted"
        try:
            while self._wait_for_permit():
                self._state = "reading"
                self._queue(self._reader.read())
        except EndOfSource:
            pass
        except BaseException as error:  # a source is foreign code: its failure is a state, not our end
            self.error = error
            state = "failed"
            logger.warning("the source failed after %d messages", self.count, exc_info=error)
        self._ended(state)

    def _ended(self, state: SourceStateName) -> None:
        self._close_reader()
        if not self._closed or state == "failed":
            self._state = state
        self._on_end(self)

    def _wait_for_permit(self) -> bool:
        with self._permits:
            self._permits.wait_for(lambda: self._closed or self._budget > 0)
            return not self._closed

    def _queue(self, messages: Sequence[object], *, beyond: bool = False) -> None:
        """Queue messages; ``beyond`` the capacity where nobody else would make room: in the worker's own thread."""
        now = self._clock()
        entries: list[Entry] = [(self._new_oid(now), message, now, 1) for message in messages]
        done = 0
        while done < len(entries):
            taken = self._ledger.offer(entries[done:] if done else entries, 0.5, beyond=beyond)
            done += taken
            self.count += taken
            if not taken and self._ledger.closed:
                logger.warning("%d messages read from the source when the machine was closed", len(entries) - done)
                return
        if self._budget != float("inf"):
            with self._permits:
                self._budget = max(self._budget - len(entries), 0)

    def _close_reader(self) -> None:
        try:
            self._reader.close()
        except Exception:  # foreign code
            logger.warning("closing the source failed", exc_info=True)
