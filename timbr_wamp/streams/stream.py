"""`Stream` and `ConsumerGroup`: what users call. They check arguments; a backend does the rest."""

from __future__ import annotations

import math
import os
import secrets
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from timbr_wamp.errors import InvalidArgument, LeaseLost, described
from timbr_wamp.streams.backend import StreamBackend
from timbr_wamp.streams.entries import (
    DEAD_SUFFIX,
    Claim,
    GroupInfo,
    NewEntry,
    Position,
    Retention,
    StreamEntry,
    StreamInfo,
    checked_key,
    checked_name,
    message_text,
)
from timbr_wamp.values import JsonValue

#: Most bytes of messages that one `read` returns.
READ_LIMIT_BYTES = 64 * 1024 * 1024
#: Most entries that one call reads or claims.
READ_LIMIT = 100_000
#: Longest wait of one call, seconds.
WAIT_LIMIT_S = 86_400.0


class Stream:
    """A durable, named sequence of messages. Any thread, any process; blocking.

    >>> events = Stream.in_memory("events")
    >>> events.append({"kind": "start"})
    1
    >>> events.append_many([1, 2])
    [2, 3]
    >>> [entry.message for entry in events.read(after=1)]
    [1, 2]
    """

    def __init__(self, backend: StreamBackend, name: str, *, release: Callable[[], object] | None = None) -> None:
        self._backend, self.name = backend, checked_name(name)
        #: Called once: by `close`, or when nobody refers to this object any more.
        self._release = weakref.finalize(self, backend.close if release is None else release)

    @classmethod
    def in_memory(cls, name: str) -> Stream:
        """Return a stream that lives as long as this object."""
        from timbr_wamp.streams.backends.sqlite import SqliteStreams

        return cls(SqliteStreams(None), name)

    @property
    def url(self) -> str:
        """Where it is stored, without secrets."""
        return self._backend.url

    # --- appending ---

    def append(self, message: Any, *, key: str | None = None) -> Position:
        """Append a message and return its position; on return it is safe.

        Args:
            message: what JSON can hold; tuples become lists, dates texts.
            key: an idempotency key. If the stream has had an entry with it, nothing is appended, and that entry's
                position is returned: so a call whose answer was lost may be repeated.

        Raises:
            InvalidArgument: the message or the key cannot be kept.
            StorageBusy, StorageFailed: nothing was appended.
        """
        return self.append_many([message], keys=None if key is None else [key])[0]

    def append_many(self, messages: Iterable[Any], *, keys: Iterable[str | None] | None = None) -> list[Position]:
        """Append messages together, all or none; return their positions. Raises as `append` does."""
        texts = [message_text(message) for message in messages]
        named = [None] * len(texts) if keys is None else [checked_key(key) for key in keys]
        if len(named) != len(texts):
            raise InvalidArgument("keys", f"there are {len(named)} for {len(texts)} messages")
        if not texts:
            return []
        return self._backend.append(self.name, list(map(NewEntry, texts, named)))

    # --- reading ---

    def read(self, after: Position = 0, limit: int = 100, *, wait_s: float = 0.0) -> list[StreamEntry]:
        """Return up to ``limit`` entries whose position is higher than ``after``, lowest first.

        While there is none, it waits up to ``wait_s`` seconds. It returns fewer when their messages are large.
        """
        _checked_count("after", after, 0, 2**62)
        _checked_count("limit", limit, 1, READ_LIMIT)
        wait_s = _checked_seconds("wait_s", wait_s)
        entries = self._backend.read(self.name, after, limit, READ_LIMIT_BYTES)
        if not entries and wait_s and self._backend.wait(self.name, after, wait_s):
            entries = self._backend.read(self.name, after, limit, READ_LIMIT_BYTES)
        return entries

    def entries(self, after: Position = 0) -> Iterator[StreamEntry]:
        """Yield the entries that are there now, and ends."""
        last = self.info().last
        while after < last:
            page = [entry for entry in self.read(after, 1000) if entry.position <= last]
            if not page:
                return
            yield from page
            after = page[-1].position

    def __iter__(self) -> Iterator[StreamEntry]:
        return self.entries()

    def __len__(self) -> int:
        """Number of entries kept."""
        return self.info().count

    def __bool__(self) -> bool:
        return True

    # --- groups ---

    def group(
        self, name: str = "default", *, start: Position | str = 0, max_attempts: int | None = None
    ) -> ConsumerGroup:
        """Return a consumer group; it is made if the stream has none of that name.

        Args:
            start: a new group gets the entries after this position; ``"end"``: those that come from now on.
            max_attempts: an entry that was claimed so often and never acknowledged goes to `dead`; a new group: 5.
        """
        if start != "end":
            _checked_count("start", start, 0, 2**62)
        if max_attempts is not None:
            _checked_count("max_attempts", max_attempts, 1, 1_000_000)
        group = ConsumerGroup(self, self._backend, checked_name(name, "group"))
        position = None if isinstance(start, str) else start
        self._backend.create_group(self.name, group.name, position, max_attempts)
        return group

    def groups(self) -> list[GroupInfo]:
        """Return the state of all groups, by name."""
        return list(self.info().groups)

    @property
    def dead(self) -> Stream:
        """The stream of the entries that no attempt could process.

        Its messages are ``{"stream", "group", "position", "attempts", "error", "key", "appended_at", "message"}``.
        """
        stream = self  # which keeps the storage open
        return Stream(self._backend, f"{self.name}{DEAD_SUFFIX}", release=lambda: stream and None)

    # --- what is kept ---

    def retain(self, *, age_s: float | None = None, count: int | None = None, size_bytes: int | None = None) -> int:
        """Keep no more than this, now and from now on, whoever appends; return how many entries were removed.

        Entries that a group has not acknowledged are kept in any case. Without arguments all is kept.
        """
        retention = Retention(age_s, count, size_bytes)
        self._backend.set_retention(self.name, retention)
        return self._backend.trim(self.name, retention)

    def trim(self) -> int:
        """Remove what `retain` says, which appending does as well; return how many entries were removed."""
        return self._backend.trim(self.name, self.info().retention)

    @property
    def metadata(self) -> Mapping[str, JsonValue]:
        """What was set with `set_metadata`."""
        return self.info().metadata

    def set_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata: a mapping that JSON can hold."""
        if not isinstance(metadata, Mapping):
            raise InvalidArgument("metadata", f"{type(metadata).__name__} is no mapping")
        message_text(dict(metadata))
        self._backend.set_metadata(self.name, metadata)

    def info(self) -> StreamInfo:
        """Return positions, counts, groups, retention and metadata."""
        return self._backend.info(self.name)

    def delete(self) -> None:
        """Remove the stream with its groups. Its dead-letter stream stays."""
        self._backend.delete(self.name)

    def close(self) -> None:
        """Release the storage; it is closed when the last stream of this process that uses it is. Idempotent."""
        self._release()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Stream({self.name!r}, url={self.url!r})"


class ConsumerGroup:
    """Consumers that share a stream: each entry is one consumer's at a time. Any thread, any process.

    >>> group = Stream.in_memory("jobs").group("workers")
    >>> group.claim()
    []
    """

    def __init__(self, of: Stream, backend: StreamBackend, name: str) -> None:
        #: Keeps the storage open.
        self._of = of
        self._backend, self.stream, self.name = backend, of.name, name

    def claim(
        self, limit: int = 1, *, lease_s: float = 30.0, consumer: str | None = None, wait_s: float = 0.0
    ) -> list[Claim]:
        """Return up to ``limit`` entries that this consumer has for ``lease_s`` seconds; acknowledge them in that time.

        Entries whose lease ended, or that were given back, come first. Waits up to ``wait_s`` while there is none.

        Args:
            consumer: its name, for others to see; None: this computer's process and thread.
        """
        _checked_count("limit", limit, 1, READ_LIMIT)
        lease_s = _checked_seconds("lease_s", lease_s, least=0.001)
        wait_s = _checked_seconds("wait_s", wait_s)
        name = _consumer_name() if consumer is None else checked_name(consumer, "consumer")
        claims = self._backend.claim(self.stream, self.name, name, limit, lease_s)
        while not claims and wait_s > 0:
            pause_s = min(wait_s, 0.25)  # a lease of another may end meanwhile
            self._backend.wait(self.stream, self._backend.info(self.stream).last, pause_s)
            wait_s -= pause_s
            claims = self._backend.claim(self.stream, self.name, name, limit, lease_s)
        return claims

    def acknowledge(self, claims: Claim | Sequence[Claim]) -> None:
        """Mark entries as done, all or none: no consumer of this group gets them again.

        Raises:
            LeaseLost: a lease had ended, so another consumer may have that entry. None was marked.
        """
        given = _several(claims)
        lost = self._backend.acknowledge(self.stream, self.name, _fenced(given)) if given else []
        if lost:
            raise LeaseLost(self.stream, self.name, lost)

    def extend(self, claims: Claim | Sequence[Claim], lease_s: float) -> None:
        """Let leases end ``lease_s`` seconds from now. Raises as `acknowledge` does."""
        lease_s = _checked_seconds("lease_s", lease_s, least=0.001)
        given = _several(claims)
        lost = self._backend.extend(self.stream, self.name, _fenced(given), lease_s) if given else []
        if lost:
            raise LeaseLost(self.stream, self.name, lost)

    def release(
        self, claims: Claim | Sequence[Claim], *, error: BaseException | str | None = None, delay_s: float = 0.0
    ) -> None:
        """Give entries back, to be claimed again after ``delay_s`` seconds.

        After their last attempt they go to `Stream.dead` instead, with ``error``.

        Raises:
            LeaseLost: a lease had ended; the others were given back.
        """
        delay_s = _checked_seconds("delay_s", delay_s)
        text = described(error) if isinstance(error, BaseException) else error
        text = text and text.encode("utf-8", "backslashreplace").decode()  # lone surrogates are no UTF-8
        given = _several(claims)
        lost = self._backend.release(self.stream, self.name, _fenced(given), delay_s, text) if given else []
        if lost:
            raise LeaseLost(self.stream, self.name, lost)

    @contextmanager
    def claimed(self, limit: int = 1, **options: Any) -> Iterator[list[Claim]]:
        """Claim entries for a block: its end acknowledges them, an error gives them back. Options as of `claim`.

        Raises:
            LeaseLost: the block took longer than its lease.
        """
        claims = self.claim(limit, **options)
        try:
            yield claims
        except BaseException as error:
            try:
                self.release(claims, error=error)
            except LeaseLost as lost:
                error.add_note(str(lost))
            raise
        self.acknowledge(claims)

    def seek(self, position: Position) -> None:
        """Go on after ``position``; 0: at the beginning. What consumers have claimed is not theirs any more."""
        _checked_count("position", position, 0, 2**62)
        self._backend.seek(self.stream, self.name, position)

    def info(self) -> GroupInfo:
        """Return the group's position and counts."""
        for group in self._backend.info(self.stream).groups:
            if group.name == self.name:
                return group
        raise InvalidArgument("group", f"stream {self.stream!r} has no group {self.name!r}; it was deleted")

    def delete(self) -> None:
        """Forget the group and its position."""
        self._backend.delete_group(self.stream, self.name)

    def __repr__(self) -> str:
        return f"ConsumerGroup({self.name!r} of {self.stream!r})"


#: Tells computers apart in consumers' names, as long as this process lives.
_THIS_PROCESS = secrets.token_hex(3)


def _consumer_name() -> str:
    return f"{os.getpid()}-{_THIS_PROCESS}"


def _several(claims: Claim | Sequence[Claim]) -> Sequence[Claim]:
    given = [claims] if isinstance(claims, Claim) else list(claims)
    for one in given:
        if not isinstance(one, Claim):
            raise InvalidArgument("claims", f"{type(one).__name__} is not a claim; give what claim() returned")
    return given


def _fenced(claims: Sequence[Claim]) -> list[tuple[Position, int]]:
    return [(one.position, one.fence) for one in claims]


def _checked_count(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise InvalidArgument(name, f"{value!r} is not a whole number from {least} to {most}")


def _checked_seconds(name: str, value: object, least: float = 0.0) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or not least <= value <= WAIT_LIMIT_S:  # type: ignore[arg-type, operator]
        raise InvalidArgument(name, f"{value!r} is not a number of seconds from {least} to {WAIT_LIMIT_S:g}")
    return float(value)  # type: ignore[arg-type]
