"""The machine's states and their transitions. Pure: no thread, no clock, no side effects.

`transition` takes an event and returns the new state with its effects. Effects follow from the states before and after,
not from the verb: so every way out of running, by a verb, a policy, a handler or a failure, holds the source, wakes
waiters and returns messages in backoff. `timbr_wamp.machine.running.worker` performs the effects.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from timbr_wamp.contract import EventKind, MachineStateName
from timbr_wamp.errors import MachineClosed, WrongState

#: States in which messages are processed.
ACTIVE: Final[frozenset[MachineStateName]] = frozenset({"running", "draining"})


@dataclass(frozen=True, slots=True)
class Life:
    """The state of a machine."""

    state: MachineStateName = "idle"
    #: Why it paused, stopped or failed, unless a verb did it.
    reason: str | None = None
    #: It was closed and cannot be started again.
    closed: bool = False

    @property
    def active(self) -> bool:
        """Whether messages are processed."""
        return self.state in ACTIVE


# --- events ---


@dataclass(frozen=True, slots=True)
class Start:
    """Verb start. ``thread_alive``: the worker's thread is alive."""

    thread_alive: bool
    author: str | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Verb pause."""

    author: str | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """Verb resume."""

    thread_alive: bool
    author: str | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """Verb stop; with ``drain`` queued messages are processed first."""

    drain: bool
    thread_alive: bool
    author: str | None = None
    #: The oid of the message under way.
    under_way: str | None = None


@dataclass(frozen=True, slots=True)
class StopTimedOut:
    """A message is still under way, or with ``drain`` messages are still queued: stop without them."""


@dataclass(frozen=True, slots=True)
class Drained:
    """Nothing is queued or under way."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A policy keeps a message and pauses the machine."""

    oid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Suspend:
    """What keeps its records failed: nothing is processed until that works again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Continue:
    """What failed works again. ``reason``: that of the `Suspend`; any other pause stays."""

    reason: str


@dataclass(frozen=True, slots=True)
class Halt:
    """A policy, the event handler or the end of the source stops it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """Another machine took its name on the wire."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fail:
    """The worker's thread ends with an error of the machine's own."""

    reason: str


@dataclass(frozen=True, slots=True)
class Close:
    """Verb close: it takes no more messages."""


LifeEvent: TypeAlias = (
    Start | Pause | Resume | Stop | StopTimedOut | Drained | Kept | Suspend | Continue | Halt | Replaced | Fail | Close
)


# --- effects ---


@dataclass(frozen=True, slots=True)
class StartThread:
    """Start the worker's thread unless it is alive."""


@dataclass(frozen=True, slots=True)
class PermitSource:
    """The source may read from now on.

    Several threads may perform effects, not always in the order of the transitions. So the worker looks at the
    present state again and permits or holds the source by that: the last look is right.
    """


@dataclass(frozen=True, slots=True)
class HoldSource:
    """The source may read no further message. Performed like `PermitSource`: by the present state."""


@dataclass(frozen=True, slots=True)
class ReturnRetries:
    """Return messages in backoff to the queue."""


@dataclass(frozen=True, slots=True)
class ForgetError:
    """Forget an error that was to be raised in the user's call: it belongs to before the start."""


@dataclass(frozen=True, slots=True)
class WakeWaiters:
    """Wake all callers that wait for room, messages, a state or the end."""


@dataclass(frozen=True, slots=True)
class Report:
    """Add an event to the log."""

    kind: EventKind
    author: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


Effect: TypeAlias = StartThread | PermitSource | HoldSource | ReturnRetries | ForgetError | WakeWaiters | Report


def transition(life: Life, event: LifeEvent, name: str = "machine") -> tuple[Life, tuple[Effect, ...]]:
    """Return the state after ``event``, and the effects in their order.

    Raises:
        WrongState: a verb that the present state does not allow.
        MachineClosed: it was closed.
    """
    new, report = _next(life, event, name)
    left_running = life.state == "running" and new.state != "running"
    closed_now = new.closed and not life.closed
    effects: list[Effect] = []
    if isinstance(event, (Start, Resume)):
        if life.state not in ("idle", "running"):
            effects.append(ForgetError())
        effects += [StartThread(), PermitSource()]
    elif left_running or closed_now:
        effects.append(HoldSource())
    elif isinstance(event, Continue) and new != life:
        effects.append(PermitSource())
    if life.active and not new.active:
        effects.append(ReturnRetries())
    if new != life:
        effects.append(WakeWaiters())
    if report is not None:
        effects.append(report)
    return new, tuple(effects)


def _next(life: Life, event: LifeEvent, name: str) -> tuple[Life, Report | None]:
    if isinstance(event, (Start, Resume)):
        return _started(life, event, name)
    if isinstance(event, Pause):
        if life.state == "paused":
            return life, None
        if life.state != "running":
            raise WrongState("pause", life.state, "running")
        return replace(life, state="paused", reason=None), Report("paused", event.author)
    if isinstance(event, Stop):
        return _stopped(life, event)
    if isinstance(event, StopTimedOut):
        return (replace(life, state="stopped") if life.active or life.state == "paused" else life), None
    if isinstance(event, Drained):
        return (replace(life, state="stopped") if life.state == "draining" else life), None
    if isinstance(event, Kept):
        if not life.active:
            return life, None
        paused = replace(life, state="paused", reason=event.reason)
        return paused, Report("paused", data={"oid": event.oid, "reason": event.reason})
    if isinstance(event, Suspend):
        if not life.active:
            return life, None
        paused = replace(life, state="paused", reason=event.reason)
        return paused, Report("paused", data={"reason": event.reason})
    if isinstance(event, Continue):
        if life.state != "paused" or life.reason != event.reason or life.closed:
            return life, None
        return replace(life, state="running", reason=None), Report("resumed")
    if isinstance(event, Halt):
        if not life.active and life.state != "paused":
            return life, None
        return replace(life, state="stopped", reason=event.reason), Report("stopped", data={"reason": event.reason})
    if isinstance(event, Replaced):
        if life.closed or life.state == "failed":
            return life, None
        return replace(life, state="stopped", reason=event.reason), Report("stopped", data={"reason": event.reason})
    if isinstance(event, Fail):
        return replace(life, state="failed", reason=event.reason), Report("failed", data={"reason": event.reason})
    return replace(life, closed=True), None


def _started(life: Life, event: Start | Resume, name: str) -> tuple[Life, Report | None]:
    verb = "start" if isinstance(event, Start) else "resume"
    if life.closed:
        raise MachineClosed(name)
    if verb == "resume" and life.state not in ("paused", "running"):
        raise WrongState("resume", life.state, "paused")
    if life.state == "draining" and event.thread_alive:
        raise WrongState(verb, life.state, "idle, paused, stopped or failed")
    if life.state == "running" and event.thread_alive:
        return life, None
    kind: EventKind = "resumed" if life.state == "paused" else "started"
    return replace(life, state="running", reason=None), Report(kind, event.author)


def _stopped(life: Life, event: Stop) -> tuple[Life, Report | None]:
    if life.state in ("idle", "stopped", "failed"):
        return (life if event.thread_alive else replace(life, state="stopped")), None
    drains = event.drain and event.thread_alive
    report = (
        None if life.state == "draining" and drains else Report("stopped", event.author, {"under_way": event.under_way})
    )
    return replace(life, state="draining" if drains else "stopped", reason=None), report
