"""Lists for Tab that come from the router: waited for shortly, kept shortly, never an error."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from timbr_wamp.errors import TimbrError

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Tab waits so long for the router's answer, then offers what was known before.
PEEK_TIMEOUT_S = 0.3
#: An answer to Tab stays good for so long.
PEEK_AGE_S = 3.0


class TabList(Generic[T]):
    """A list for Tab: fetched in a thread of its own, waited for shortly, kept shortly."""

    def __init__(self, fetch: Callable[[], list[T]]) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._known: list[T] = []
        self._known_at = float("-inf")
        self._arrived: threading.Event | None = None

    def __call__(self) -> list[T]:
        """Return what is known after at most `PEEK_TIMEOUT_S`. Any thread; never raises."""
        with self._lock:
            if time.monotonic() - self._known_at < PEEK_AGE_S:
                return self._known
            arrived = self._arrived
            if arrived is None:
                arrived = self._arrived = threading.Event()
                threading.Thread(target=self._refresh, args=(arrived,), name="timbr_wamp peek", daemon=True).start()
        arrived.wait(PEEK_TIMEOUT_S)
        return self._known

    def forget(self) -> None:
        """Let the next call fetch anew."""
        with self._lock:
            self._known, self._known_at = [], float("-inf")

    def _refresh(self, arrived: threading.Event) -> None:
        try:
            self._known, self._known_at = self._fetch(), time.monotonic()
        except TimbrError as error:
            logger.debug("nothing to offer: %s", error)  # Tab is no place to say more
        finally:
            with self._lock:
                self._arrived = None
            arrived.set()
