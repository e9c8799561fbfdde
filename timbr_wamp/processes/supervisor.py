"""`Supervisor`: keep one process running, as `Restarts` decides."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from timbr_wamp.errors import TimbrError
from timbr_wamp.processes.process import KILL_TIMEOUT_S, TERM_TIMEOUT_S, Process, log_end, log_tail
from timbr_wamp.processes.reasons import handed_over
from timbr_wamp.processes.restarts import RestartPolicy, Restarts, State

logger = logging.getLogger(__name__)


class Supervisor:
    """One process: it is found or started, restarted when it ends, and ended. One thread at a time.

    Nothing runs in the background: the owner calls `check` at intervals, or when `Process.pidfd` is readable.

    Args:
        what: names the process in log lines, such as ``the bridge of kernel lab_…``.
        spawn: starts the process. An OSError counts as an end.
        find: returns the process when it already runs, by its runtime file; asked before each start, so
            that a process which somebody else started is adopted and never started twice.
        log_file: where the process writes.
        reason_file: where the process says why it ends; without a word, its exit status is the reason.
    """

    def __init__(
        self,
        what: str,
        spawn: Callable[[], Process],
        *,
        find: Callable[[], Process | None] = lambda: None,
        log_file: Path | None = None,
        reason_file: Path | None = None,
        policy: RestartPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._spawn, self._find = what, spawn, find
        self._log_file, self._reason_file, self._clock = log_file, reason_file, clock
        self._log_from = 0
        self._restarts = Restarts(policy or RestartPolicy())
        #: The process that runs, or the last one; None before the first start.
        self.process: Process | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs, as the operating system says now."""
        return self.process is not None and self.process.alive

    @property
    def state(self) -> State:
        """The state at the last `start`, `check` or `end`."""
        return self._restarts.state

    @property
    def reason(self) -> str | None:
        """Why it does not run; None while it runs."""
        return self._restarts.reason

    @property
    def error(self) -> TimbrError | None:
        """The error that the ended process handed over; None while it runs, and when it said nothing."""
        return None if self.alive else handed_over(self._reason_file)

    @property
    def log(self) -> str:
        """The end of what the current process wrote; empty when it said itself why it ended."""
        return "" if self.error is not None else log_tail(self._log_file, after=self._log_from)

    def start(self) -> None:
        """Find the process, or start it; forget earlier ends."""
        self._restarts.forgive()
        self._start()

    def check(self, *, may_start: bool = True) -> bool:
        """Note an end, and restart the process when that is due; return whether it was found or started now.

        Args:
            may_start: whether a restart makes sense now; else it is made by a later `check`.
        """
        if self._restarts.state == "running" and not self.alive:
            self._restarts.ended(self._end_reason(), now=self._clock())
            level = logging.ERROR if self.state == "given_up" else logging.WARNING
            logger.log(level, "%s: %s", self._what, self.reason)
        if self._restarts.due(now=self._clock()) and may_start:
            return self._start()
        if self._restarts.state == "given_up" and (found := self._find()) is not None:
            self._adopt(found)  # somebody else started it
            return True
        return False

    def end(self, *, term_s: float = TERM_TIMEOUT_S, kill_s: float = KILL_TIMEOUT_S) -> bool:
        """End the process, which is not restarted; return whether it has ended. Idempotent. Blocks."""
        self._restarts.stopped("it was ended")
        return self.process is None or self.process.end(term_s=term_s, kill_s=kill_s)

    # --- inside ------------------------------------------------------------------------------

    def _start(self) -> bool:
        if (found := self._find()) is not None:
            self._adopt(found)
            return True
        self._log_from = log_end(self._log_file)
        try:
            self.process = self._spawn()
        except OSError as error:
            self._restarts.ended(f"it could not be started: {error}", now=self._clock())
            logger.error("%s: %s", self._what, self.reason)
            return False
        self._restarts.started(now=self._clock())
        return True

    def _adopt(self, found: Process) -> None:
        if self.process is None or (found.pid, found.started) != (self.process.pid, self.process.started):
            logger.info("%s: adopted process %d", self._what, found.pid)
            self._log_from = log_end(self._log_file)
        self.process = found
        self._restarts.started(now=self._clock())

    def _end_reason(self) -> str:
        assert self.process is not None
        if (error := self.error) is not None:
            return str(error).partition("\n")[0]
        status = self.process.exit_status
        if status is not None and status < 0:
            return f"it was killed (signal {-status})"
        return "its process ended" if status is None else f"it ended with status {status}"


__all__ = ["Supervisor"]
