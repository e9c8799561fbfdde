"""The interface of a storage of streams. What users call is `timbr_wamp.streams.stream.Stream`.

A backend is tried by `timbr_wamp.streams.testing.StreamBackendContract`, others' too. Each method is atomic: it
happens as a whole or not at all, whichever process ends in the middle of it. Any thread may call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from timbr_wamp.streams.entries import Claim, NewEntry, Position, Retention, StreamEntry, StreamInfo
from timbr_wamp.values import JsonValue


class StreamBackend(Protocol):
    """Named streams in one place. A name that was never appended to is an empty stream.

    Raises (all methods):
        StorageFailed: the storage refused or failed; nothing was changed, unless a server's answer was lost for good.
        StorageBusy: others used it for too long.
        StorageClosed: `close` was called.
    """

    @property
    def url(self) -> str:
        """Where it is, without secrets."""

    def append(self, stream: str, entries: Sequence[NewEntry]) -> list[Position]:
        """Append in order; return the position of each. On return they are as durable as the storage can make them.

        An entry whose key the stream knows is not appended: its position is the known entry's, also when retention
        has removed that one.
        """

    def read(self, stream: str, after: Position, limit: int, limit_bytes: int) -> list[StreamEntry]:
        """Return kept entries with a higher position, lowest first: at most ``limit``, and ``limit_bytes`` of texts.

        At least one, if there is any. All entries up to the last one returned have been appended: no lower position
        appears later.
        """

    def wait(self, stream: str, after: Position, timeout_s: float) -> bool:
        """Wait until an entry after ``after`` is there, or time is up; return whether it is. May return early."""

    def create_group(self, stream: str, group: str, start: Position | None, max_attempts: int | None) -> None:
        """Make a group if it is not there, that gets the entries after ``start``; None: those from now on.

        An existing group keeps its position; ``max_attempts`` that is not None is set.
        """

    def claim(self, stream: str, group: str, consumer: str, limit: int, lease_s: float) -> list[Claim]:
        """Give a consumer up to ``limit`` entries that no other one has, for ``lease_s`` seconds.

        First those whose lease has ended or that were given back and are due, then new ones, each lowest first.
        Those that were claimed ``max_attempts`` times go to the dead-letter stream instead, at once.
        """

    def acknowledge(self, stream: str, group: str, claims: Sequence[tuple[Position, int]]) -> list[Position]:
        """Mark claimed entries, as ``(position, fence)``, as done; return those whose claim is no longer valid.

        All or nothing: if one is not valid, none is marked.
        """

    def extend(self, stream: str, group: str, claims: Sequence[tuple[Position, int]], lease_s: float) -> list[Position]:
        """Let leases end ``lease_s`` from now; return the positions whose claim is no longer valid. All or nothing."""

    def release(
        self, stream: str, group: str, claims: Sequence[tuple[Position, int]], delay_s: float, error: str | None
    ) -> list[Position]:
        """Give claimed entries back, to be claimed again after ``delay_s``; return those whose claim is not valid.

        One that has had its ``max_attempts`` goes to the dead-letter stream, with ``error``. The valid ones are
        given back in any case.
        """

    def seek(self, stream: str, group: str, position: Position) -> None:
        """Let a group go on after ``position``; what it has claimed is forgotten."""

    def delete_group(self, stream: str, group: str) -> None:
        """Forget a group."""

    def trim(self, stream: str, retention: Retention) -> int:
        """Remove the oldest entries until the rest is within ``retention``; return how many.

        None that a group has not acknowledged.
        """

    def set_retention(self, stream: str, retention: Retention) -> None:
        """Keep what `trim` shall be called with, for all who append."""

    def set_metadata(self, stream: str, metadata: Mapping[str, JsonValue]) -> None:
        """Replace the stream's metadata."""

    def info(self, stream: str) -> StreamInfo:
        """Return the state of a stream and its groups."""

    def names(self) -> list[str]:
        """Return the names of all streams, sorted."""

    def delete(self, stream: str) -> None:
        """Remove a stream with its groups; positions begin anew."""

    def close(self) -> None:
        """Release what it holds. Idempotent."""
