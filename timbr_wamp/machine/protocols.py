"""The machine's seams: what it asks of sources, sinks, hooks, executors and journals.

Small Protocols whose docstrings are the contract. `store`, `cluster` and `connectors` implement
them; nothing here imports those rooms.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from timbr_wamp.contract import Event, Verdict
from timbr_wamp.values import JsonValue

if TYPE_CHECKING:
    from timbr_wamp.machine.running.context import RunContext
    from timbr_wamp.machine.slots.table import Revision, Step

#: UTC seconds since the epoch.
Clock: TypeAlias = Callable[[], float]

#: A message on its way: ``(oid, message, received_at, attempt)``. A plain tuple: objects per message halve the speed.
Entry: TypeAlias = tuple[str, Any, float, int]


@dataclass(slots=True)
class Failure:
    """One slot that gave no value, or gave one only after trouble."""

    slot: int
    #: How records name the slot: ``f3 (clean)``.
    task: str
    exc_class: str
    exc_value: str
    #: Empty for a skipped slot.
    exc_tb: str
    #: ``file:line`` where it was raised.
    where: str
    #: What became of it: a verdict; ``retry``: a further try went well; ``skip``: it never ran.
    policy: str
    #: Tries that failed.
    tries: int = 1


@dataclass(slots=True)
class Notes:
    """What happened to a message on its way, when something did."""

    failures: list[Failure]
    verdict: Verdict = "record"
    #: Why no slot ran: a policy of the source dropped it.
    why: str | None = None
    #: What the event handler wants raised where the user is.
    raised: BaseException | None = None

    @property
    def errored(self) -> bool:
        """At least one slot raised or was skipped, and the message was not dropped."""
        return self.verdict != "drop" and any(failure.policy not in MENDED for failure in self.failures)


#: Failures after which the slot had a value all the same.
MENDED = frozenset({"retry", "default"})

#: A message after its slots: ``(entry, revision, texts, notes, finished_at)``; ``texts`` are the
#: JSON texts ``[in, f0, …]``, ``notes`` is empty when nothing happened.
Finished: TypeAlias = "tuple[Entry, Revision, list[bytes], Notes | tuple[()], float]"

#: A numbered record: ``(seq, oid, text, meta)``, texts in UTF-8; what a wire row is made of.
Row: TypeAlias = tuple[int, str, bytes, bytes]


class EndOfSource(Exception):
    """No message will ever follow. Raised by `Source.next_batch`, on every later call too."""


@runtime_checkable
class Source(Protocol):
    """Where a machine reads messages. Called from one thread of the machine only.

    It may have ``reopen()`` as well, called after `next_batch` raised an error or `EndOfSource` when
    the source is to be begun again: the next batch then comes from where the object finds right. What
    it raises is the next failure.
    """

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
        """Take an event, in the machine's bus thread; what it raises is isolated, counted and logged."""


class Executor(Protocol):
    """How messages run through the slots. Gives the same records as every other executor.

    One thread at a time calls `process`, `due_s` and `abandon`; any thread the others.
    """

    #: How people choose it.
    name: str

    def process(self, entries: deque[Entry], conduct: RunContext) -> Iterator[Finished]:
        """Take entries from the left, yield each when it is finished; begin none once ``go_on()`` is false.

        Each entry is processed by exactly one revision, read when it begins. They are finished in
        the order in which they began, but for those that wait for a retry: these are overtaken, and
        come from this or a later call, see `due_s`.
        """

    def due_s(self) -> float | None:
        """Return in how many seconds `process` is to be called, entries or not; None: no need."""

    @property
    def retrying(self) -> int:
        """Messages that wait for a retry."""

    def abandon(self) -> list[Entry]:
        """Forget the messages that were begun and not yielded, and return them, oldest first."""

    def invoke(self, step: Step, arguments: Sequence[Any]) -> Any:
        """Call one step's function, within its time limit, and return its value. Any thread.

        Raises:
            SlotTimeout: it took too long.
        """

    def refusal(self, step: Step) -> str | None:
        """Return why this executor cannot run the step under its policy, None when it can."""

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
