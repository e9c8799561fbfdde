"""The machine's seams: what it asks of sources, sinks, hooks, executors and journals.

Small Protocols whose docstrings are the contract. `store`, `cluster` and `connectors` implement
them; nothing here imports those rooms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from timbr_wamp.contract import Event
from timbr_wamp.values import JsonValue

if TYPE_CHECKING:
    from timbr_wamp.machine.slots import Revision

#: UTC seconds since the epoch.
Clock: TypeAlias = Callable[[], float]

#: A message on its way: ``(oid, message, received_at, attempt)``. A plain tuple: objects per message halve the speed.
Entry: TypeAlias = tuple[str, Any, float, int]

#: One slot that gave no value: ``(slot, task, exc_class, exc_value, exc_tb)``; a skipped one has the
#: class ``UpstreamError`` and no traceback.
Failure: TypeAlias = tuple[int, str, str, str, str]

#: A message after its slots: ``(entry, revision, texts, failures, finished_at)``; ``texts`` are the
#: JSON texts ``[in, f0, …]``, ``failures`` is empty when all went well.
Finished: TypeAlias = "tuple[Entry, Revision, list[bytes], Sequence[Failure], float]"

#: A numbered record: ``(seq, oid, text, meta)``, texts in UTF-8; what a wire row is made of.
Row: TypeAlias = tuple[int, str, bytes, bytes]


class EndOfSource(Exception):
    """No message will ever follow. Raised by `Source.next_batch`, on every later call too."""


@runtime_checkable
class Source(Protocol):
    """Where a machine reads messages. Called from one thread of the machine only."""

    def next_batch(self) -> Sequence[object]:
        """Return the messages ready now; empty when there are none yet. Never blocks for long.

        Raises:
            EndOfSource: no message will ever follow. Raised on every later call too.
        """

    def position(self) -> JsonValue:
        """Return where to resume: *after* the last message returned, not at it."""

    def close(self) -> None:
        """Release what the source holds. Called once, when it is taken away or the machine is closed."""


class Sink(Protocol):
    """Where numbered records go. Called from the thread that finished them, in order of ``seq``."""

    def publish(self, rows: Sequence[Row]) -> None:
        """Take consecutive rows. Must not block; what it raises is counted and logged, never lost on the machine."""


class Hook(Protocol):
    """Somebody who wants to know what changes the machine's state."""

    def on_event(self, event: Event) -> None:
        """Take an event. Any thread of the machine; what it raises is isolated, counted and logged."""


class Executor(Protocol):
    """How messages run through the slots. Gives the same records as every other executor."""

    def process(self, entries: Sequence[Entry], current: Callable[[], Revision]) -> Iterator[Finished]:
        """Yield one `Finished` an entry, in the entries' order.

        ``current`` gives the newest revision; each entry is processed by exactly one, read when it
        begins. An abandoned iterator has begun no entry after the last one that it yielded.
        """

    def close(self) -> None:
        """Release threads or workers. Idempotent."""


class Journal(Protocol):
    """What makes a machine survive its process. Called from the machine's threads, one call at a time."""

    #: Identity of the numbering; the same after a restart.
    run: str

    def append(self, entries: Sequence[Entry]) -> None:
        """Keep messages; on return they are durable."""

    def pending(self, limit: int) -> list[Entry]:
        """Return at most ``limit`` entries that were appended and never committed, oldest first."""

    def commit(self, rows: Sequence[Row], position: JsonValue) -> None:
        """Keep records and the source's new position, all or nothing. Published only after it returns."""

    def records(self, after_seq: int, limit: int) -> list[Row]:
        """Return kept rows with ``seq > after_seq``, oldest first."""

    def last_seq(self) -> int:
        """Return the number of the newest committed row; 0 when there is none."""
