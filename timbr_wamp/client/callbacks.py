"""`CallbackThread`: runs users' callbacks in a thread of their own, so that they may block and use the client.

In the loop's thread a slow callback would delay every call. The queue of events is bounded: when
callbacks are too slow, the oldest events are dropped, counted and logged. Live topics deliver at
most once; `RemoteMachine.records` delivers every record.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

#: Capacity of the queue of events, for all callbacks of a client together.
QUEUE_LIMIT = 10_000

Job = tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]


class CallbackThread:
    """Runs callbacks one after the other in a daemon thread, which starts with the first event."""

    def __init__(self, limit: int = QUEUE_LIMIT) -> None:
        self._jobs: deque[Job] = deque()
        self._limit = limit
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._running = 0
        #: Number of events that were dropped because callbacks were too slow.
        self.dropped = 0

    def __len__(self) -> int:
        """Return the number of calls that have not ended."""
        with self._changed:
            return len(self._jobs) + self._running

    def post(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Queue a call of ``function``. Any thread; never blocks."""
        with self._changed:
            if self._closed:
                return
            if len(self._jobs) >= self._limit:
                self._jobs.popleft()
                self.dropped += 1
                if self.dropped == 1 or self.dropped % self._limit == 0:
                    logger.warning("callbacks are too slow: %d events dropped so far", self.dropped)
            self._jobs.append((function, args, kwargs))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="timbr-wamp-callbacks", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self, timeout_s: float = 2.0) -> None:
        """Drop queued events and end the thread after the current callback. Idempotent."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                function, args, kwargs = self._jobs.popleft()
                self._running = 1
            try:
                function(*args, **kwargs)
            except BaseException:  # a callback is user code and may raise anything; the next one is called all the same
                logger.exception("callback %r failed", function)
            finally:
                with self._changed:
                    self._running = 0
