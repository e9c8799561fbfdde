"""The machine's interfaces: what it calls on sources, sinks, hooks, executors and journals, and what these may call.

Small Protocols whose docstrings are the contract. `store`, `cluster` and `connectors` implement them; nothing here
imports those rooms. Lower rooms of the machine also call higher ones through these.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from timbr_wamp.contract import Event, Policy
from timbr_wamp.machine.messages import Entry, Finished, Row
from timbr_wamp.values import JsonValue

#: UTC seconds since the epoch.
Clock: TypeAlias = Callable[[], float]


# --- where messages come from and go to ---


class EndOfSource(Exception):
    """No message will follow. Raised by `Source.next_batch`, on every later call too."""


@runtime_checkable
class Source(Protocol):
    """Where a machine reads messages. Called from one thread of the machine only.

    It may have ``reopen()`` as well, called after `next_batch` raised an error or `EndOfSource` when
    the source is to be restarted; the object decides where the next batch starts. What it raises is
    the next failure.

    With ``resume(position)`` it goes on after a restart of the process: called before the first batch, when the
    machine's journal has a position of a source of the same class (and of the same attribute ``identity``, such as a
    file's path, if there is one). The position is kept together with the messages, so none is read twice or missed.
    """

    def next_batch(self) -> Sequence[object]:
        """Return the messages ready now; empty when there are none yet. Never blocks for long.

        Raises:
            EndOfSource: no message will follow. Raised on every later call too.
        """

    def position(self) -> JsonValue:
        """Return where to resume: *after* the last message returned, not at it."""

    def close(self) -> None:
        """Release what the source holds. Called once, when it is taken away or the machine is closed."""


class Sink(Protocol):
    """Receives numbered records in the order of ``seq``. Called by one thread at a time, not always the same one.

    The machine's worker calls it; its watch thread while a slot is slow; a source's thread when its policy drops; the
    caller of `Machine.get`. An object that is bound to one thread by default, such as an SQLite connection, must be
    opened for use by several.
    """

    def publish(self, rows: Sequence[Row]) -> None:
        """Take consecutive rows. Must not block; what it raises is counted and logged, the records are kept.

        Records that result from its own calls follow after it has returned: calls are never nested.
        """


class Hook(Protocol):
    """Receives the events of a machine."""

    def on_event(self, event: Event) -> None:
        """Take an event, in the machine's bus thread; what it raises is isolated, counted and logged."""


# --- executors ---


class PlanSlot(Protocol):
    """The slot of a step, as records and counters name it."""

    @property
    def number(self) -> int: ...
    @property
    def task(self) -> str: ...
    @property
    def tally(self) -> Any: ...


class PlanStep(Protocol):
    """One call of a plan."""

    @property
    def function(self) -> Callable[..., Any]:
        """What is called; an object's ``step``."""

    @property
    def values(self) -> int:
        """Values it gets, newest first; -1: all."""

    @property
    def texts(self) -> int:
        """JSON texts it gets after the values."""

    @property
    def carry(self) -> int:
        """Unset slots that follow; they carry its value."""

    @property
    def slot(self) -> PlanSlot: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def is_async(self) -> bool:
        """The call returns an awaitable."""


class Plan(Protocol):
    """What an executor runs: the steps of one revision of the slot table. Immutable."""

    @property
    def number(self) -> int:
        """The revision's number."""

    @property
    def slots(self) -> Sequence[Any]: ...
    @property
    def steps(self) -> Sequence[PlanStep]: ...
    @property
    def lead(self) -> int:
        """Unset slots before the first step."""

    @property
    def is_async(self) -> bool:
        """Some step's call returns an awaitable."""


class StageHooks(Protocol):
    """Hooks around the stages of a message. Any thread."""

    @property
    def version(self) -> int:
        """Changes with each hook that is added or removed."""

    def at(self, point: str) -> Sequence[Callable[..., object]]:
        """Return the hooks of a point."""

    def call(self, point: str, *arguments: object) -> None:
        """Call the hooks of a point, each isolated."""


class RunContext(Protocol):
    """What an executor may call on the machine while messages run. Any thread."""

    @property
    def hooks(self) -> StageHooks: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def concurrency(self) -> int:
        """Messages that may be under way at once."""

    @property
    def generation(self) -> int:
        """A number that each change of `may_start`, plan or hooks changes: one comparison checks all three."""

    @property
    def commit_due(self) -> float:
        """When what is finished should be committed, on `clock`."""

    def current(self) -> Plan:
        """Return the newest plan."""

    def may_start(self) -> bool:
        """Tell whether another message may start now."""

    def wake(self) -> None:
        """Wake the worker: `Executor.due_s` has changed."""

    def policy(self, error: BaseException, slot: int, task: str, oid: str, tries: int, own: Policy) -> Policy:
        """Return the policy for a failure: the event handler's, else the slot's own."""

    def raises(self, kind: Any, error: BaseException) -> bool:
        """Tell whether the event handler wants a failure raised in the user's call."""


class Executor(Protocol):
    """How messages run through the slots. Every executor gives the same records.

    One thread at a time calls `process`, `due_s`, `oldest_revision` and `abandon`; any thread the others.
    """

    #: The name by which users choose it.
    name: str

    def process(
        self, entries: deque[Entry], context: RunContext, add: Callable[[Finished], object]
    ) -> Iterator[Finished | None]:
        """Take entries from the left, yield each when it is finished; start none once ``may_start()`` is false.

        A message without notes may be given to ``add`` instead, which costs less. After that, None is yielded once
        ``commit_due`` is reached, so that the caller can commit.

        Each entry is processed by exactly one revision, read when it starts. They are finished in
        the order in which they started, except those that wait for a retry: other messages overtake
        these, and they are yielded by this or a later call, see `due_s`.
        """

    def due_s(self) -> float | None:
        """Return after how many seconds `process` must be called even without entries; None: no need."""

    @property
    def retrying(self) -> int:
        """Messages that wait for a retry."""

    @property
    def retried_oid(self) -> str | None:
        """The message whose retry was started last, while it runs. Any thread."""

    def oldest_revision(self) -> int | None:
        """Return the oldest revision among messages that were started and not yielded yet; None: there are none.

        Called between calls of `process`; objects that only earlier revisions use are then torn down.
        """

    def abandon(self) -> list[Entry]:
        """Forget the messages that were started and not yielded, and return them, oldest first."""

    def invoke(self, step: PlanStep, arguments: Sequence[Any]) -> Any:
        """Call one step's function, within its time limit, and return its value. Any thread.

        Raises:
            SlotTimeout: it took too long.
        """

    def refusal(self, step: PlanStep) -> str | None:
        """Return why this executor cannot run the step under its policy, None when it can."""

    def close(self) -> None:
        """Release threads or workers. Idempotent."""


class DropRecorder(Protocol):
    """What a source calls on the recorder: to record what its policy dropped, and for counts."""

    @property
    def count(self) -> int:
        """Records made in this process."""

    def rates_per_s(self) -> tuple[float, float, float]:
        """Return messages per second that ran, over the last 1, 10 and 60 s."""

    def take_position(self) -> JsonValue:
        """Return, once, where the journal says that a source goes on after a restart; None: nowhere."""

    def drop(self, entries: Sequence[Entry], why: str) -> None:
        """Record entries under way as dropped, without a slot having run. Any thread."""


class CoroutineRunner(Protocol):
    """Where a coroutine of the user runs: the machine's event loop. Any thread."""

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine and wait for its result.

        Raises:
            CalledFromLoop: the loop's own thread would wait for itself.
        """


# --- what survives the process ---


#: A record as it is kept: ``(seq, oid, compact text, meta, layout)``; see `timbr_wamp.machine.records.rows`.
CompactRow: TypeAlias = tuple[int, str, bytes, bytes, tuple[int, ...]]


class RecordBlock(Protocol):
    """Consecutive records of one layout, as columns."""

    @property
    def first_seq(self) -> int: ...
    @property
    def oids(self) -> Sequence[str]: ...
    @property
    def parts(self) -> Sequence[bytes]:
        """For each record the texts of the values that were made, then its meta."""

    @property
    def lengths(self) -> Sequence[int]:
        """Their lengths."""

    @property
    def layout(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Commit:
    """What a journal keeps together, or nothing of it."""

    blocks: Sequence[RecordBlock]
    #: ``(oid, attempt)`` of the messages that have their record now.
    done: Sequence[tuple[str, int]]
    #: ``(kind, number, body)``, see `Journal.note`.
    notes: Sequence[tuple[str, int, bytes]] = ()


class Journal(Protocol):
    """Keeps messages and records beyond the process. Any thread, several at once.

    While a call raises, the machine pauses with the reason and tries again; nothing is dropped. An error in
    `append` is also raised by `put`, whose message is then not queued.
    """

    #: Identity of the numbering; the same after a restart.
    run: str

    def append(self, entries: Sequence[Entry], *, sync: bool = True, position: JsonValue = None) -> None:
        """Keep messages, and with them where their source goes on after a restart; None: as before.

        With ``sync`` they are on the disk on return. Without it, they are written in the order of the calls, and
        survive the end of the process only: for messages that their source would give again.

        Raises:
            InvalidArgument: a message cannot be kept.
        """

    def pending(self, limit: int) -> list[Entry]:
        """Return at most ``limit`` entries that were appended and never committed, oldest first."""

    def commit(self, commit: Commit) -> None:
        """Keep records and what belongs to them, all or nothing. Published only after it returns."""

    def records(self, after_seq: int, limit: int) -> list[CompactRow]:
        """Return kept records with ``seq > after_seq``, oldest first."""

    def find(self, oid: str) -> list[CompactRow]:
        """Return the kept records of a message, oldest first: one an attempt."""

    def knows(self, oid: str) -> bool:
        """Tell whether a message with this id waits or has a kept record."""

    def first_seq(self) -> int:
        """Return the number of the oldest kept record; one after the last when there is none."""

    def last_seq(self) -> int:
        """Return the number of the newest committed record, after which numbering continues; 0: there is none."""

    def position(self) -> JsonValue:
        """Return the newest position that `append` kept."""

    def note(self, kind: str, number: int, body: bytes) -> None:
        """Keep something small that is no record, soon; in place of that with the same kind and number. Never blocks.

        ``kind``: ``event``, ``revision``, ``handler``, ``failure``, ``groups``, ``counts``. The oldest are forgotten.
        """

    def notes(self, kind: str, newest: int) -> list[tuple[int, bytes]]:
        """Return the newest notes of a kind with their numbers, oldest first."""

    def probe(self) -> None:
        """Write something of the size of a commit, and remove it: after a failure, to see whether it works again."""

    def close(self) -> None:
        """Release what it holds. Idempotent."""
