"""What happens to a machine: numbered, kept, logged, and delivered to hooks and callbacks.

`EventLog.add` is quick and runs no foreign code: hooks and callbacks are called by `Bus`, in order, in one
thread. The points they may be registered for: `timbr_wamp.machine.events.hooks`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from timbr_wamp.contract import ErrorRow, Event, EventKind
from timbr_wamp.machine.events.failure_log import FailureLog
from timbr_wamp.machine.events.hooks import Hooks, load_hooks
from timbr_wamp.machine.forks import short_lock
from timbr_wamp.machine.protocols import Clock
from timbr_wamp.values import json_safe

logger = logging.getLogger(__name__)

EVENTS_KEPT = 1_000
#: Events and error rows that may wait for hooks and callbacks; more are dropped and counted.
WAITING_LIMIT = 1_000

#: Log levels of events; all others are ``info``, ``full`` included: it is normal that the queue holds a source back.
_LEVELS: Final[dict[str, int]] = {
    "failed": logging.ERROR,
    "source_failed": logging.ERROR,
    "object_failed": logging.ERROR,
    "stalled": logging.WARNING,
}


class EventLog:
    """The newest events of one machine. Any thread.

    Args:
        clock: UTC seconds.
        hooks: the machine's hooks, or hook objects and names of plugins.
        name: the machine's, for log lines and the bus thread.
    """

    def __init__(self, clock: Clock, hooks: Hooks | Sequence[object] = (), *, name: str = "machine") -> None:
        self._lock = short_lock()
        self._clock, self.name = clock, name
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._listeners: tuple[Callable[[], None], ...] = ()
        #: Keeps each event beyond the process, in the thread that caused it; quick, never raises. The machine sets it.
        self.keep: Callable[[Event], object] = lambda event: None
        self.number = 0
        if isinstance(hooks, Hooks):
            self.hooks = hooks
        else:
            self.hooks = Hooks()
            for hook in load_hooks(hooks):
                self.hooks.add_object(hook)
        self._bus = Bus(name, self._deliver)

    @property
    def failures(self) -> FailureLog:
        """Where failures of foreign code other than slots are reported."""
        return self.hooks.failures

    @property
    def dropped(self) -> int:
        """Events and error rows that were not delivered."""
        return self._bus.dropped

    def add(self, kind: EventKind, author: str | None = None, **data: Any) -> None:
        """Keep, log and deliver an event. Any thread; runs no foreign code."""
        safe: Any = json_safe(data)  # names of handlers and objects come from users' code and may be anything
        with self._lock:
            self.number += 1
            event = Event(kind=kind, time=self._clock(), number=self.number, author=author, data=safe)
            self._events.append(event)
            listeners = self._listeners
            if self.hooks.at("on_event") or self.hooks.at(f"on_{kind}"):
                self._bus.post(event)  # under the lock: in the order of the numbers
        logger.log(_LEVELS.get(kind, logging.INFO), "machine %s: %s %s", self.name, kind, data)
        self.keep(event)
        for listener in listeners:
            listener()

    def restore(self, events: Sequence[Event]) -> None:
        """Take over the events of an earlier process, oldest first; numbers go on after theirs."""
        if events:
            with self._lock:
                self._events.extendleft(reversed(events))
                self.number += events[-1].number

    def error(self, row: ErrorRow) -> None:
        """Deliver a slot's failure to the hooks at ``on_error``. Any thread; it is kept elsewhere."""
        if self.hooks.at("on_error"):
            self._bus.post(row)

    def on(self, kind: str, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Call ``callback`` in the bus thread with each event of a kind; return a function that ends that.

        ``"*"`` is every kind; ``"error"`` is failures of slots, as `ErrorRow`.

        Raises:
            InvalidArgument: no such kind, not callable, or an async function.
        """
        return self.hooks.add("on_event" if kind == "*" else f"on_{kind}", callback)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` after each event, in the thread that caused it; return a function that ends that.

        For parts of the machine itself, which are quick and never raise; all others use `on`.
        """
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def end() -> None:
            with self._lock:
                self._listeners = tuple(present for present in self._listeners if present is not listener)

        return end

    def newest(self, n: int) -> list[Event]:
        """Return the newest ``n`` events, oldest of them first."""
        with self._lock:
            return list(self._events)[-n:] if n > 0 else []

    def after(self, number: int) -> tuple[int, list[Event]]:
        """Return the newest event's number, and the kept events after ``number``."""
        with self._lock:
            return self.number, [event for event in self._events if event.number > number]

    def flush(self, timeout_s: float) -> bool:
        """Wait until all events so far were delivered; tell whether they were."""
        return self._bus.flush(timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Deliver what waits, for at most ``timeout_s``, and end the bus thread; tell whether all was delivered.

        Later events are kept and logged, but not delivered. Idempotent; in a callback it does not wait.
        """
        return self._bus.close(timeout_s)

    def _deliver(self, item: Event | ErrorRow) -> None:
        if isinstance(item, ErrorRow):
            self.hooks.call("on_error", item)
        else:
            self.hooks.call("on_event", item)
            self.hooks.call(f"on_{item.kind}", item)


class Bus:
    """Delivers items in order in one daemon thread, started with the first item. Any thread may post.

    A forked child has no such thread: its bus starts again, empty.
    """

    def __init__(self, name: str, deliver: Callable[[Any], None], limit: int = WAITING_LIMIT) -> None:
        self._name, self._deliver, self._limit = name, deliver, limit
        #: Items that found no room, came after `close`, or were not delivered within its time limit.
        self.dropped = 0
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition(threading.RLock())
        self._waiting: deque[object] = deque()
        self._delivering = self._closed = False
        self._thread: threading.Thread | None = None

    def post(self, item: object) -> None:
        """Queue ``item`` for delivery; without room it is dropped and counted. Never blocks."""
        if self._pid != os.getpid():
            self._begin()
        with self._changed:
            if self._closed or len(self._waiting) >= self._limit:
                self.dropped += 1
                return
            self._waiting.append(item)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"timbr {self._name} bus", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing waits any more; False when something does after ``timeout_s``, or in the bus thread."""
        if self._pid != os.getpid() or threading.current_thread() is self._thread:
            return False
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._delivering, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Refuse new items, deliver what waits within ``timeout_s``, drop the rest; False if any was dropped."""
        if self._pid != os.getpid():
            self._begin()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is self._thread:
            return not self._waiting  # the thread delivers the rest and ends, once this callback returns
        deadline = time.monotonic() + timeout_s
        delivered = self.flush(timeout_s)
        with self._changed:
            self.dropped += len(self._waiting)
            self._waiting.clear()
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return delivered

    def _run(self) -> None:
        changed, waiting = self._changed, self._waiting
        while True:
            with changed:
                self._delivering = False
                changed.notify_all()
                changed.wait_for(lambda: waiting or self._closed)
                if not waiting:
                    return
                item = waiting.popleft()
                self._delivering = True
            try:
                self._deliver(item)
            except BaseException:  # a bug of the machine: `Hooks.call` isolates callbacks
                logger.exception("machine %s: an event could not be delivered", self._name)
