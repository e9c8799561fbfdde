"""Everything a machine can read messages from, as one `Reader`, and how it is begun again.

An iterable, an iterator, a generator function, an async generator (or a function of one) or a
`Source` object. Pure adapters: no thread, no queue, no policy; those are `machine.sources`'.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, cast

from timbr_wamp.errors import NotASource
from timbr_wamp.machine.protocols import EndOfSource, Source
from timbr_wamp.values import JsonValue

#: A `Source` with nothing ready is asked again after so long, doubled up to the second figure.
POLL_S, POLL_MAX_S = 0.005, 0.1
#: Messages of a ready source that are read at a time.
READY_MESSAGES = 64


class Reader(Protocol):
    """What the feeder's thread reads, one message after the other."""

    #: `cancel` ends a read that waits.
    cancellable: bool

    def read(self) -> Sequence[object]:
        """Return at least one message, or none if there is none yet; blocks as the source does.

        Raises:
            EndOfSource: no message will ever follow, or it was cancelled.
        """

    def cancel(self) -> None:
        """Let a read that waits end soon, where that is possible. Any thread."""

    def close(self) -> None:
        """Release the source. The thread that reads, once, or any before the first read."""


class _Reader:
    """What most readers have in common: nobody can interrupt them."""

    cancellable = False

    def cancel(self) -> None:
        """A read ends when it ends."""

    def close(self) -> None:
        """Nothing is held."""


#: Iterators that never block: those of the built-in containers.
_CONTAINERS: tuple[Iterable[object], ...] = ((), [], {}, range(0), range(1 << 99), set(), deque(), {}.values())
_READY = tuple(type(iter(container)) for container in _CONTAINERS)


class ReadyReader(_Reader):
    """Read an iterator that never blocks, many messages at a time."""

    def __init__(self, iterator: Iterator[object]) -> None:
        self.iterator = iterator

    def read(self, limit: int = READY_MESSAGES) -> Sequence[object]:
        """Return the next messages."""
        messages = list(islice(self.iterator, limit))
        if not messages:
            raise EndOfSource
        return messages


class IteratorReader(_Reader):
    """Read an iterator, message by message."""

    def __init__(self, iterator: Iterator[object]) -> None:
        self.iterator = iterator

    def read(self) -> Sequence[object]:
        """Return the next message."""
        try:
            return (next(self.iterator),)
        except StopIteration:
            raise EndOfSource from None

    def close(self) -> None:
        """Close a generator, so that its ``finally`` runs."""
        close = getattr(self.iterator, "close", None)
        if inspect.isgenerator(self.iterator) and close is not None:
            close()


class AsyncReader(_Reader):
    """Read an async iterator in a loop of the reading thread's own."""

    cancellable = True

    def __init__(self, iterator: AsyncIterator[object]) -> None:
        self.iterator = iterator
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
        return await anext(self.iterator)

    def cancel(self) -> None:
        """End a read that waits."""
        self._cancelled = True
        task = self._task
        if task is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                task.get_loop().call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        """Close the generator and the loop."""
        if self._runner is not None:
            close = getattr(self.iterator, "aclose", None)
            if close is not None:
                self._runner.run(_finish(close))
            self._runner.close()


async def _finish(close: Callable[[], Any]) -> None:
    await close()


class SourceReader:
    """Read a `Source` object, with growing pauses while it has nothing."""

    cancellable = True

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pause_s = POLL_S
        self._cancelled = threading.Event()

    def read(self) -> Sequence[object]:
        """Return what is ready; empty after a pause."""
        if self._cancelled.is_set():
            raise EndOfSource
        batch = self._source.next_batch()
        if batch:
            self._pause_s = POLL_S
        elif self._cancelled.wait(self._pause_s):
            raise EndOfSource
        else:
            self._pause_s = min(self._pause_s * 2, POLL_MAX_S)
        return batch

    def position(self) -> JsonValue:
        """Return where to resume after the last message read. The reading thread."""
        return self._source.position()

    def cancel(self) -> None:
        """End a pause."""
        self._cancelled.set()

    def close(self) -> None:
        """Close the source."""
        self._source.close()


class Origin:
    """A source as it was given: what its readers are made of, the first and those after each new begin.

    Raises:
        NotASource: nothing that gives messages; texts and bytes are refused, since their
            characters are hardly meant.
    """

    def __init__(self, source: object) -> None:
        self._source = source
        #: How many messages there will be, when it can tell.
        self.total = _total_of(source)
        self.first = reader_of(source)

    @property
    def ready(self) -> bool:
        """It never blocks."""
        return isinstance(self.first, ReadyReader)

    def why_not_again(self) -> str | None:
        """Return why it cannot be begun again, and what could; None when it can."""
        source = self._source
        kind = type(source).__name__
        if _is_source(source):
            if callable(getattr(source, "reopen", None)):
                return None
            return f"a {kind} object has no method reopen(), so it cannot be begun again; give it one, or a factory"
        if _gives_when_called(source):
            return None
        if getattr(self.first, "iterator", None) is not source:  # a list gives a new iterator each time
            return None
        return (
            f"what was given ({kind}) cannot be begun again: give the generator function itself, without calling it, "
            "a function that makes the iterator, a list, or a Source object with reopen()"
        )

    @property
    def reopens(self) -> bool:
        """It is one object that begins itself again: neither closed nor read by another thread meanwhile."""
        return _is_source(self._source)

    def again(self) -> Reader:
        """Begin it again and return the new reader.

        Raises:
            Exception: what the source's own code raises.
        """
        if self.reopens:
            cast(Any, self._source).reopen()  # `why_not_again` looked
        return reader_of(self._source)


def reader_of(source: object) -> Reader:
    """Return a reader of ``source``.

    Raises:
        NotASource: as `Origin` says.
    """
    if _is_source(source):
        return SourceReader(cast(Source, source))
    if _gives_when_called(source):
        made = _call(cast(Callable[[], object], source))
        if not _gives_when_called(made):
            return reader_of(made)
        raise NotASource("function", "returned another function instead of messages")
    if isinstance(source, (str, bytes, bytearray, dict)):
        raise NotASource(type(source).__name__)
    if hasattr(source, "__aiter__"):
        return AsyncReader(aiter(cast("AsyncIterator[object]", source)))
    try:
        iterator = iter(cast("Iterator[object]", source))
    except TypeError:
        raise NotASource(type(source).__name__) from None
    return ReadyReader(iterator) if isinstance(iterator, _READY) else IteratorReader(iterator)


def _gives_when_called(source: object) -> bool:
    return callable(source) and not isinstance(source, (Iterable, AsyncIterable)) and not _is_source(source)


def _is_source(source: object) -> bool:
    return isinstance(source, Source) and not isinstance(source, type)  # a class of such objects has the methods too


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
