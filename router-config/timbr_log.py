"""The size of the router's log, and how often it says something. Standard library only."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any

LOG_FILE = "router.log"
#: Size at which the log is moved to `OLDER`, whose former content is lost.
MAX_BYTES = 4 * 1024 * 1024
OLDER = ".1"
#: Lines about connections that are written in an interval; the rest is counted.
LINES = 30
INTERVAL_S = 60.0


def keep_small(path: Path) -> bool:
    """Move a log that is too large aside; return whether it was.

    Crossbar's processes write to the file that they were started with, at its end. So the content is
    copied and the file is cut. What they write in between is lost.
    """
    try:
        if os.stat(path).st_size < MAX_BYTES:
            return False
        older = path.with_name(path.name + OLDER)
        with (
            open(os.open(older, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target,
            open(path, "rb") as log,
        ):
            log.seek(-MAX_BYTES, os.SEEK_END)
            shutil.copyfileobj(log, target)
        os.truncate(path, 0)
    except FileNotFoundError:
        return False
    return True


class Complaints:
    """What the log says of connections: so many lines in an interval, and each traceback once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._lines = self._left_out = 0
        self._seen: set[tuple[type[BaseException], str, int]] = set()

    def limited(self, write: Callable[..., Any]) -> Callable[..., None]:
        """Return the function of a logger so that it writes only so much; it then says how much it left out."""

        @wraps(write)
        def write_or_count(*args: Any, **kwargs: Any) -> None:
            now = self._clock()
            if now - self._since >= INTERVAL_S:
                left_out, self._since, self._lines, self._left_out = self._left_out, now, 0, 0
                if left_out:
                    write("{count} further lines about connections were left out", count=left_out)
            if self._lines < LINES:
                self._lines += 1
                write(*args, **kwargs)
            else:
                self._left_out += 1

        return write_or_count

    def is_new(self, error: BaseException) -> bool:
        """Return whether no such error was raised before at the same place of the code."""
        place = _innermost(error.__traceback__)
        known = (type(error), *place) in self._seen
        self._seen.add((type(error), *place))
        return not known


def _innermost(trace: TracebackType | None) -> tuple[str, int]:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else ("", 0)
