"""Calls that wait without a thread: the control thread continues them at a change, or when their time comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from timbr_wamp.contract import PutResult
from timbr_wamp.errors import InvalidArgument, counted
from timbr_wamp.machine.running.cancellation import Cancellation

if TYPE_CHECKING:
    from timbr_wamp.machine.machine import Machine

#: Messages of one `put_many` or `replay`: the answer with their ids must fit one payload.
MESSAGES_LIMIT = 30_000
#: Longest wait of `put_many`, and bounds of `progress`, seconds.
LONGEST_PUT_S = 60.0
SHORTEST_WATCH_S, LONGEST_WATCH_S = 0.1, 86_400.0
#: Longest wait of a long poll, and least interval between reports of errors alone, seconds.
CHANGES_LIMIT_S, ERRORS_EVERY_S = 60.0, 0.1
#: Longest interval for looking for failures, when there were none for some time.
LOOK_LIMIT_S = 0.5
#: Most failures in one report.
CHANGES_ROWS = 100
#: Messages that `put_many` puts before the control thread does something else.
TURN_MESSAGES = 500
#: A waiting call looks at the machine at least this often, seconds.
LOOK_EVERY_S = 0.5


@dataclass(eq=False, slots=True)
class Call:
    """A request under way."""

    identity: bytes
    number: int
    name: str
    arguments: dict[str, Any]
    author: str | None
    size_bytes: int
    cancellation: Cancellation = field(init=False)

    def __post_init__(self) -> None:
        self.cancellation = Cancellation(self.name)


class Wakeup:
    """Told once by the machine's queue, in whatever thread changes it; see `MessageQueue.call_when_room`."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._waits = False
        #: It was told since it was last looked at.
        self.told = False

    def release(self) -> None:
        """Be told. The queue calls it as it releases the locks of waiting threads."""
        self._waits, self.told = False, True
        self._wake()

    def wait(self, add: Callable[[Wakeup], bool]) -> bool:
        """Be added to the queue's waiters unless it is already; return whether there is nothing to wait for."""
        if self._waits:
            return False
        self._waits = True
        if add(self):
            self._waits = False
            return True
        return False


class WaitingCall(Protocol):
    """A call that waits."""

    call: Call
    #: It wants to be continued when this one was told.
    wakeup: Wakeup
    #: `time.monotonic` at which it wants to be continued whatever happens.
    due_at: float

    def advance(self, now: float) -> object:
        """Continue; return its result, or `WAITS` if it waits on. Whatever it raises is the call's error."""


#: Returned by `WaitingCall.advance`: no result yet.
WAITS = object()


class PutMany:
    """`put_many`: puts what has room, and waits for room."""

    def __init__(self, machine: Machine, call: Call, room: Wakeup) -> None:
        self._machine, self.call, self.wakeup = machine, call, room
        self._messages: list[Any] = call.arguments["messages"]
        self._oids: list[str] | None = call.arguments.get("oids")
        check_count("messages", self._messages)
        if self._oids is not None and len(self._oids) != len(self._messages):
            raise InvalidArgument("oids", f"{len(self._oids)} for {counted(len(self._messages), 'message')}")
        self._deadline = time.monotonic() + min(call.arguments.get("timeout_s", 0.0), LONGEST_PUT_S)
        self._done: list[str] = []
        self.due_at = 0.0

    def advance(self, now: float) -> object:
        """Put what has room, at most `TURN_MESSAGES`."""
        done, messages, oids = self._done, self._messages, self._oids
        turn = slice(len(done), len(done) + TURN_MESSAGES)
        if now < self._deadline and not self.wakeup.wait(self._machine.call_when_room):
            self.due_at = min(self._deadline, now + LOOK_EVERY_S)
            return WAITS
        put = self._machine.put_some(messages[turn], None if oids is None else oids[turn]) if messages[turn] else []
        done += put
        if len(done) == len(messages):
            return PutResult(oids=done, refused=0)
        if not put and now >= self._deadline:
            return self._machine.refused(done, len(messages))
        self.due_at = now
        return WAITS


def check_count(name: str, messages: Sequence[object]) -> None:
    """Raise InvalidArgument for more messages than one answer can name."""
    if len(messages) > MESSAGES_LIMIT:
        raise InvalidArgument(name, f"{len(messages):,} are too many for one call: at most {MESSAGES_LIMIT:,}")


class WatchProgress:
    """`progress`: sends it at intervals, until it is complete, the machine does not run, or the time is over."""

    def __init__(self, machine: Machine, call: Call, change: Wakeup, send: Callable[[Any], None]) -> None:
        self._machine, self.call, self.wakeup, self._send = machine, call, change, send
        self._interval_s = max(call.arguments.get("interval_s", 0.5), SHORTEST_WATCH_S)
        now = time.monotonic()
        self._deadline = now + min(call.arguments.get("timeout_s", 3600.0), LONGEST_WATCH_S)
        self._send_at = self._look_at = self.due_at = now

    def advance(self, now: float) -> object:
        """Return the last progress, or send the present one when its time has come."""
        progress = self._machine.progress()
        if progress.complete or progress.state not in ("running", "draining", "paused") or now >= self._deadline:
            return progress
        if now >= self._send_at:
            self._send(progress)
            self._send_at = now + self._interval_s
        self.due_at = min(self._send_at, self._deadline)
        if now >= self._look_at:
            self.wakeup.wait(self._machine.call_on_change)
            self._look_at = now + SHORTEST_WATCH_S  # not at every change: each time costs the machine a little
        else:
            self.due_at = min(self.due_at, self._look_at)
        return WAITS


class ChangesPoll:
    """``__changes__``: a bridge's long poll for events, failures and the status."""

    def __init__(
        self, machine: Machine, call: Call, events: Wakeup, event_number: int, error_number: int, wait_s: float
    ) -> None:
        self._machine, self.call, self.wakeup = machine, call, events
        self._event_number, self._error_number = event_number, error_number
        self._started = time.monotonic()
        self._deadline = self._started + min(max(wait_s, 0.0), CHANGES_LIMIT_S)
        self.due_at = self._started

    def advance(self, now: float) -> object:
        """Return what is new, or at the deadline that nothing is."""
        log, failures = self._machine.event_log, self._machine.recorder.errors
        if (
            log.number <= self._event_number
            and now < self._deadline
            and (failures.number <= self._error_number or now < self._started + ERRORS_EVERY_S)
        ):
            # failures wake nobody: they are looked for, and less often the longer there were none
            look_s = min(max((now - self._started) / 4, ERRORS_EVERY_S), LOOK_LIMIT_S)
            self.due_at = min(self._deadline, now + look_s)
            return WAITS
        event_number, events = log.after(self._event_number)
        error_number, rows = failures.after(self._error_number)
        return {
            "status": self._machine.status, "events": events, "errors": rows[-CHANGES_ROWS:],
            "event_number": event_number, "error_number": error_number,
        }  # fmt: skip
