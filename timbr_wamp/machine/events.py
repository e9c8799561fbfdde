"""What happens to a machine, numbered, kept and told to hooks and waiters."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from timbr_wamp.contract import Event
from timbr_wamp.machine.protocols import Clock, Hook

logger = logging.getLogger(__name__)

EVENTS_KEPT = 1_000


class EventLog:
    """The newest events of one machine. Any thread."""

    def __init__(self, clock: Clock, hooks: Sequence[Hook] = ()) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._hooks = tuple(hooks)
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._listeners: list[Callable[[], None]] = []
        self.number = 0
        #: Hooks' own failures.
        self.hook_failures = 0

    def add(self, kind: str, author: str | None = None, **data: Any) -> None:
        """Note an event and tell the hooks."""
        with self._lock:
            self.number += 1
            event = Event(kind=kind, time=self._clock(), number=self.number, author=author, data=data)
            self._events.append(event)
            listeners = list(self._listeners)
        for listener in listeners:
            listener()
        for hook in self._hooks:
            try:
                hook.on_event(event)
            except Exception:  # a hook is foreign code: isolated, counted, logged
                self.hook_failures += 1
                logger.exception("hook %r failed on the event %s", hook, kind)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` after each event, from the thread that caused it; return what ends that."""
        with self._lock:
            self._listeners.append(listener)

        def end() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    def newest(self, n: int) -> list[Event]:
        """Return the newest ``n`` events, oldest of them first."""
        with self._lock:
            return list(self._events)[-n:] if n > 0 else []

    def since(self, number: int) -> tuple[int, list[Event]]:
        """Return the present number, and the kept events after ``number``."""
        with self._lock:
            return self.number, [event for event in self._events if event.number > number]
