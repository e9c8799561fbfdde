"""`TabList`: candidates for Tab completion from the router, with a short timeout, a cache, and no errors."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from timbr_wamp.errors import TimbrError

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Timeout for the router's answer; after it the previous list is offered.
FETCH_TIMEOUT_S = 0.3
#: Seconds for which an answer is cached.
CACHE_AGE_S = 3.0


class TabList(Generic[T]):
    """A cached list for Tab completion, fetched in a thread."""

    def __init__(self, fetch: Callable[[], list[T]]) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._known: list[T] = []
        self._known_at = float("-inf")
        self._arrived: threading.Event | None = None

    def __call__(self) -> list[T]:
        """Return the list, or after `FETCH_TIMEOUT_S` the previous one. Any thread; never raises."""
        with self._lock:
            if time.monotonic() - self._known_at < CACHE_AGE_S:
                return self._known
            arrived = self._arrived
            if arrived is None:
                arrived = self._arrived = threading.Event()
                threading.Thread(target=self._refresh, args=(arrived,), name="timbr_wamp tab", daemon=True).start()
        arrived.wait(FETCH_TIMEOUT_S)
        return self._known

    def forget(self) -> None:
        """Clear the cache."""
        with self._lock:
            self._known, self._known_at = [], float("-inf")

    def _refresh(self, arrived: threading.Event) -> None:
        try:
            self._known, self._known_at = self._fetch(), time.monotonic()
        except TimbrError as error:
            logger.debug("no completions: %s", error)  # Tab completion cannot show errors
        finally:
            with self._lock:
                self._arrived = None
            arrived.set()
