"""`FolderWatch`: hear of files that come and go in a folder, in an asyncio loop.

Linux sends a signal for each change (fcntl(2), ``F_NOTIFY``), so that a folder in which nothing happens costs
nothing: the bridges of a hundred idle kernels watch the same one. Unlike inotify, of which a user has 128
instances by default, it has no limit. Elsewhere the callback is called at short intervals.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

#: Wait after a change, so that several changes together cause one call.
TOGETHER_S = 0.02
#: Interval of calls where changes are not signalled, and where they are, in case that something else matters too.
POLL_INTERVAL_S, LONG_INTERVAL_S = 0.5, 10.0


class FolderWatch:
    """Calls ``on_look`` when the folder may have changed, until `close`. The main thread's loop; one per process.

    Args:
        on_look: must be quick: it is called at intervals, too.
    """

    def __init__(self, folder: Path, on_look: Callable[[], None]) -> None:
        self._on_look = on_look
        self._loop = asyncio.get_running_loop()
        self._folder = self._signalled(folder)
        self._interval_s = POLL_INTERVAL_S if self._folder is None else LONG_INTERVAL_S
        self._soon = False
        self._timer = self._loop.call_later(TOGETHER_S, self._look)

    @property
    def signalled(self) -> bool:
        """Whether changes are signalled; else the folder is looked at every `POLL_INTERVAL_S`."""
        return self._folder is not None

    def close(self) -> None:
        """Stop calling. Idempotent.

        The signal's handler stays until the loop is closed: without one, a late signal would end the process.
        """
        self._timer.cancel()
        folder, self._folder = self._folder, None
        if folder is not None:
            os.close(folder)

    def _signalled(self, folder: Path) -> int | None:
        """Return a descriptor for which changes are signalled; None where that is impossible."""
        if not hasattr(fcntl, "F_NOTIFY"):
            return None
        descriptor = None
        try:
            self._loop.add_signal_handler(signal.SIGIO, self._changed)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            what = fcntl.DN_CREATE | fcntl.DN_DELETE | fcntl.DN_RENAME
            fcntl.fcntl(descriptor, fcntl.F_NOTIFY, what | fcntl.DN_MULTISHOT)
        except (OSError, RuntimeError, ValueError) as error:  # the latter two: not in the main thread
            logger.debug("changes of %s are not signalled: %s", folder, error)
            if descriptor is not None:
                os.close(descriptor)
            return None
        return descriptor

    def _changed(self) -> None:
        if not self._soon and self._folder is not None:
            self._soon = True
            self._timer.cancel()
            self._timer = self._loop.call_later(TOGETHER_S, self._look)

    def _look(self) -> None:
        self._soon = False
        self._timer = self._loop.call_later(self._interval_s, self._look)
        self._on_look()
