"""Everything a machine can read messages from, as one `Reader`, and how a source is restarted.

An iterable, an iterator, a generator function, an async generator (or a function of one), a table
or a file of rows (`timbr_wamp.rows`), or a `Source` object. Pure adapters: no thread, no queue, no
policy; those are in `timbr_wamp.machine.intake.feeder`. The type of an object decides what kind of
source it is, never attributes that it could make up.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, Protocol, cast

from timbr_wamp.errors import NotASource
from timbr_wamp.machine.intake.async_reader import AsyncReader
from timbr_wamp.machine.protocols import EndOfSource, Source
from timbr_wamp.machine.raw import Raw
from timbr_wamp.rows import has_rows, row_source
from timbr_wamp.values import JsonValue

#: Pause before a `Source` with nothing ready is polled again, doubled up to the second value, seconds.
POLL_S, POLL_MAX_S = 0.005, 0.1
#: Messages of a ready source that are read at a time.
READY_MESSAGES = 64


class Reader(Protocol):
    """Gives messages to the feeder's thread."""

    def read(self) -> Sequence[object]:
        """Return at least one message, or none if there is none yet; blocks as the source does.

        Raises:
            EndOfSource: no message will ever follow, or it was interrupted.
        """

    def interrupt(self, times: int) -> bool:
        """Make a waiting read end; return whether that may succeed. Any thread, never blocks.

        ``times``: number of earlier calls without effect. At the first one the source may end in order.
        """

    def close(self) -> None:
        """Release the source. The thread that reads, once, or any before the first read."""


class ReadyReader:
    """Read an iterator that never blocks, many messages at a time."""

    def __init__(self, iterator: Iterator[object]) -> None:
        self.iterator = iterator

    def read(self, limit: int = READY_MESSAGES) -> Sequence[object]:
        """Return the next messages."""
        messages = list(islice(self.iterator, limit))
        if not messages:
            raise EndOfSource
        return messages

    def interrupt(self, times: int) -> bool:
        """Return False: a read never waits."""
        return False

    def close(self) -> None:
        """Release nothing."""


class IteratorReader:
    """Read an iterator, message by message. It cannot be interrupted."""

    def __init__(self, iterator: Iterator[object]) -> None:
        self.iterator = iterator

    def read(self) -> Sequence[object]:
        """Return the next message."""
        try:
            return (next(self.iterator),)
        except StopIteration:
            raise EndOfSource from None

    def interrupt(self, times: int) -> bool:
        """Return False: Python cannot interrupt a call."""
        return False

    def close(self) -> None:
        """Close a generator, so that its ``finally`` runs."""
        if inspect.isgenerator(self.iterator):
            self.iterator.close()


class RowsReader:
    """Read rows that are there at once, some at a time: of a table or a file."""

    def __init__(self, rows: Iterator[object]) -> None:
        self._rows = rows
        self._failed: Exception | None = None

    def read(self) -> Sequence[object]:
        """Return the next rows; an error after those before it."""
        rows: list[object] = []
        try:
            if self._failed is not None:
                raise self._failed
            for row in islice(self._rows, READY_MESSAGES):
                rows.append(row)
        except Exception as error:
            if not rows:
                raise
            self._failed = error
        if not rows:
            raise EndOfSource
        return rows

    def interrupt(self, times: int) -> bool:
        """Return False: a read takes no long time."""
        return False

    def close(self) -> None:
        """Close the file."""
        if inspect.isgenerator(self._rows):
            self._rows.close()


class SourceReader:
    """Read a `Source` object, with growing pauses while it has nothing."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pause_s = POLL_S
        self._interrupted = False
        #: Held until `interrupt`; not a `threading.Event`, which a signal in its ``set`` can leave locked.
        self._pausing = threading.Lock()
        self._pausing.acquire()

    def read(self) -> Sequence[object]:
        """Return what is ready; empty after a pause."""
        if self._interrupted:
            raise EndOfSource
        batch = self._source.next_batch()
        if not _is_batch(batch):
            raise TypeError(f"next_batch() of {type(self._source).__name__} returned a {type(batch).__name__}, no list")
        batch = list(batch)  # of the source's own type perhaps, whose length need not be that of its items
        if batch:
            self._pause_s = POLL_S
        elif self._pausing.acquire(timeout=self._pause_s):
            raise EndOfSource
        else:
            self._pause_s = min(self._pause_s * 2, POLL_MAX_S)
        return batch

    def position(self) -> JsonValue:
        """Return where the source goes on after what was read, for a journal; None: it cannot go on anywhere."""
        if not _resumes(self._source):
            return None
        return {"source": _identity(self._source), "at": self._source.position()}

    def interrupt(self, times: int) -> bool:
        """End a pause. A call that blocks, although it must not, cannot be interrupted."""
        self._interrupted = True
        with contextlib.suppress(RuntimeError):  # released before
            self._pausing.release()
        return times == 0

    def close(self) -> None:
        """Close the source."""
        self._source.close()


class SourceReaders:
    """Makes the readers of a source: the first one, and one after each restart.

    Raises:
        NotASource: it cannot be read as messages, or is a probable mistake: the characters of a text, the keys
            of a mapping, the columns of an unknown table; or a file that is not there.
        PluginNotInstalled: reading it needs pyarrow.
    """

    def __init__(self, source: object) -> None:
        self._source = source
        #: The first reader; and the number of messages, if the source's type is known to say it.
        self.first, self.total = _opened(source)

    @property
    def ready(self) -> bool:
        """It never blocks."""
        return isinstance(self.first, ReadyReader)

    @property
    def reopens(self) -> bool:
        """It is an object with `reopen`: not closed for a restart, nor read by another thread meanwhile."""
        return _is_source(self._source)

    def restarted(self) -> Reader:
        """Restart the source and return its new reader.

        Raises:
            BaseException: what the source's own code raises.
        """
        if self.reopens:
            cast(Any, self._source).reopen()  # checked by `why_not_restarted`
        return reader_of(self._source)


def resume_source(source: object, kept: JsonValue) -> bool:
    """Let a source go on where an earlier process left it; return whether it does.

    ``kept`` is what `SourceReader.position` returned there. It does if it is a `Source` of the same class, and of the
    same `identity` if it has one, with a method ``resume(position)``.

    Raises:
        BaseException: what the source's own code raises.
    """
    if not isinstance(kept, dict) or not _is_source(source) or not _resumes(source):
        return False
    if kept.get("source") != _identity(source):
        return False
    cast(Any, source).resume(kept.get("at"))
    return True


def _resumes(source: object) -> bool:
    return callable(getattr(type(source), "resume", None))


def _identity(source: object) -> str:
    kind = f"{type(source).__module__}.{type(source).__qualname__}"
    own = getattr(source, "identity", None)
    return kind if own is None else f"{kind} {own}"


def why_not_restarted(source: object) -> str | None:
    """Return why a source cannot be restarted, and what could be; None when it can, as far as its type tells."""
    kind = type(source).__name__
    if _is_source(source):
        if callable(getattr(type(source), "reopen", None)):
            return None
        return f"a {kind} object has no method reopen(), so it cannot be restarted; give it one, or a factory"
    if _gives_when_called(source) or not isinstance(source, (Iterator, AsyncIterator)):
        return None  # a list gives a new iterator each time
    return (
        f"what was given ({kind}) cannot be restarted: give the generator function itself, without calling it, "
        "a function that makes the iterator, a list, or a Source object with reopen()"
    )


def reader_of(source: object) -> Reader:
    """Return a reader of ``source``.

    Raises:
        NotASource: as `SourceReaders` says.
    """
    return _opened(source)[0]


def _opened(source: object) -> tuple[Reader, int | None]:
    """Return a reader of ``source``, and the number of messages if it is known."""
    if _is_source(source):
        return SourceReader(cast(Source, source)), _total_of(source)
    rows = row_source(source)
    if rows is not None:
        return RowsReader(rows.rows(Raw)), rows.total()
    if _gives_when_called(source):
        made = _call(cast(Callable[[], object], source))
        if not _gives_when_called(made):
            return reader_of(made), None  # a function may give another number of messages the next time
        raise NotASource("function", "returned another function instead of messages")
    refuse_source(source)
    if isinstance(source, AsyncIterable):
        return AsyncReader(aiter(source)), None
    try:
        iterator = iter(cast("Iterable[object]", source))
    except TypeError:
        raise NotASource(type(source).__name__) from None
    reader = ReadyReader(iterator) if type(iterator) in _READY else IteratorReader(iterator)
    return reader, _total_of(source)


#: Iterators that never block: those of the built-in containers.
_CONTAINERS: tuple[Iterable[object], ...] = (
    (),
    [],
    {},
    range(0),
    range(1 << 99),
    set(),
    deque(),
    {}.values(),
    {}.items(),
)
_READY = frozenset(type(iter(container)) for container in _CONTAINERS)

#: How to get rows of a table that is read by no code here, by the package of its class.
_ROWS = {
    "polars": "source.collect()",
    "dask": "source.compute()",
}


def refuse_source(source: object) -> None:
    """Refuse what cannot be a source by its type. Nothing is called, so what a function gives is not known yet.

    Raises:
        NotASource: as `SourceReaders` says.
    """
    kind = type(source)
    if has_rows(source) and not _is_source(source):
        return
    if isinstance(source, (str, bytes, bytearray, memoryview)):
        raise NotASource(
            kind.__name__,
            "would be read character by character; put it in a list, or give the name of a .csv, .jsonl or .parquet "
            "file",
        )
    for base in kind.__mro__:
        if base.__name__ in ("DataFrame", "LazyFrame"):
            rows = _ROWS.get(base.__module__.partition(".")[0], "its rows as dicts")
            raise NotASource(kind.__name__, f"would be read column by column; give its rows: {rows}")
    if isinstance(source, Mapping):
        raise NotASource(
            kind.__name__,
            "would be read key by key; give its keys(), values() or items(), or a list [it] to put it as one message",
        )
    read = _is_source(source) or callable(source) or isinstance(source, (Iterable, AsyncIterable))
    if not read and not hasattr(kind, "__getitem__"):  # iter() takes what has the latter
        raise NotASource(kind.__name__)


def _gives_when_called(source: object) -> bool:
    return callable(source) and not isinstance(source, (Iterable, AsyncIterable)) and not _is_source(source)


def _is_source(source: object) -> bool:
    """Tell whether the object's type has the methods of a `Source`."""
    return all(callable(getattr(type(source), name, None)) for name in ("next_batch", "position", "close"))


def _is_batch(batch: object) -> bool:
    if isinstance(batch, (str, bytes, bytearray, Mapping)):
        return False
    return isinstance(batch, Sequence) or (hasattr(type(batch), "__len__") and hasattr(type(batch), "__getitem__"))


def _call(function: Callable[[], object]) -> object:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise NotASource("function", f"cannot be called without arguments ({error})") from None
    except ValueError:
        pass  # no readable signature
    made = function()
    if inspect.iscoroutine(made):
        made.close()
        raise NotASource("coroutine function", "gives one value when awaited; yield messages from it")
    return made


#: Types whose length is known at once, and is the number of messages.
_SIZED: tuple[type, ...] = (
    list, tuple, range, deque, set, frozenset, type({}.keys()), type({}.values()), type({}.items()),
)  # fmt: skip


def _methods(kind: type) -> tuple[object, object]:
    return kind.__len__, kind.__iter__  # type: ignore[attr-defined]


def _total_of(source: object) -> int | None:
    """Return the number of messages for types that know it without foreign code; a `Source` may have ``total``."""
    for kind in _SIZED:
        if isinstance(source, kind) and _methods(type(source)) == _methods(kind):
            try:
                return len(cast(Sized, source))
            except OverflowError:  # a range longer than any list
                return None
    if _is_source(source) and hasattr(type(source), "total"):
        total = getattr(source, "total", None)
        return total if type(total) is int and total >= 0 else None
    return None
