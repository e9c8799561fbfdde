"""`Process`: one process, by an identity that a later process with the same pid does not have.

On Linux the identity is a pidfd (`os.pidfd_open`): signals go to the process that it was opened for, and
it tells the end of a process without asking again and again. Elsewhere pid and start time are compared
before each signal. A process that is started here leads a session of its own, so it outlives its starter,
and the processes that it starts can be ended with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from timbr_wamp import runtime
from timbr_wamp.processes.reasons import VARIABLE

#: Timeouts for a process to end after SIGTERM and after SIGKILL.
TERM_TIMEOUT_S = 3.0
KILL_TIMEOUT_S = 5.0
#: Time for the rest of a process group to end after its leader; then it is killed.
GROUP_GRACE_S = 0.5
#: Interval for looking at a process where there are no pidfds, and at the rest of a process group.
POLL_S = 0.02
LOG_TAIL_BYTES = 2000
#: A log that is larger than this at a start is begun anew.
LOG_LIMIT_BYTES = 1 << 20


class Process:
    """A process that ran when this object was made. Any thread; nothing blocks unless it says so."""

    def __init__(self, pid: int, started: float) -> None:
        self.pid, self.started = pid, started
        self._child: _Child | None = None  # set by `spawn`
        self._pidfd = _open_pidfd(pid)
        # The descriptor is of the process that has the pid now. If that one started when ours did and
        # still runs after the descriptor was opened, it is ours.
        self._ended = not runtime.process_alive(pid, started)

    @classmethod
    def of(cls, file: runtime.ProcessFile | None) -> Process | None:
        """Return the process of a runtime file; None when it has ended, or there is no file."""
        if file is None:
            return None
        process = cls(file.pid, file.process_started)
        return process if process.alive else None

    def __repr__(self) -> str:
        return f"Process(pid={self.pid}, started={self.started}, {'running' if self.alive else 'ended'})"

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it was never opened
            self._close_pidfd()

    @property
    def alive(self) -> bool:
        """Whether it runs. A stopped process runs; a zombie does not."""
        return not self._ended and not self.wait(0)

    @property
    def exit_status(self) -> int | None:
        """Exit status of a child of this process, negative for a signal; None while it runs, and for others."""
        return self._child.exit_status if self._child is not None and not self.alive else None

    @property
    def pidfd(self) -> int | None:
        """A descriptor that is readable when it has ended, for event loops; None where there are no pidfds."""
        return self._pidfd

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until it has ended; return False when it still runs after ``timeout_s``. Blocks."""
        pidfd = self._pidfd
        if self._ended or pidfd is None:
            ended = self._ended or self._poll_until(timeout_s)
        else:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            ended = bool(poll.poll(None if timeout_s is None else max(0, round(timeout_s * 1000))))
        self._ended = self._ended or ended
        return ended

    def signal(self, number: signal.Signals, *, group: bool = False) -> bool:
        """Send a signal, with ``group`` to the process group that it leads; return False when it has ended."""
        if not self.alive:
            return False
        try:
            if group and os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, number)
            elif self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def end(self, *, term_s: float = TERM_TIMEOUT_S, kill_s: float = KILL_TIMEOUT_S, term_group: bool = True) -> bool:
        """End it and its process group: SIGTERM, and SIGKILL after ``term_s``; return whether it has ended. Blocks.

        Args:
            term_group: send SIGTERM to the whole group; else only to the process, which ends its group itself.
        """
        leads = self._leads_group()
        if self.signal(signal.SIGTERM, group=term_group) and not self.wait(term_s):
            self.signal(signal.SIGKILL, group=True)
        ended = self.wait(kill_s)
        if ended and leads:
            _end_group(self.pid)
        return ended

    # --- inside ------------------------------------------------------------------------------

    def _leads_group(self) -> bool:
        try:
            return self.alive and os.getpgid(self.pid) == self.pid
        except ProcessLookupError:
            return False

    def _poll_until(self, timeout_s: float | None) -> bool:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while runtime.process_alive(self.pid, self.started):
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _close_pidfd(self) -> None:
        pidfd, self._pidfd = self._pidfd, None
        if pidfd is not None:
            os.close(pidfd)


class _Child:
    """A child of this process, which a thread waits for, or it becomes a zombie. The thread ends with it."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self._thread = threading.Thread(target=popen.wait, name=f"collect-{popen.pid}", daemon=True)
        self._thread.start()

    @property
    def exit_status(self) -> int | None:
        """Exit status of the ended child; it was or is collected at this moment."""
        self._thread.join(KILL_TIMEOUT_S)
        return self._popen.returncode


def end_all(
    processes: Sequence[Process], *, term_s: float = TERM_TIMEOUT_S, kill_s: float = KILL_TIMEOUT_S
) -> list[Process]:
    """End processes and their groups at the same time: SIGTERM to all, and SIGKILL to those that run after ``term_s``.

    Blocks for at most ``term_s`` and ``kill_s`` and `GROUP_GRACE_S`, however many they are. Returns those that still
    run.
    """
    leaders = [process.pid for process in processes if process._leads_group()]
    for number, limit_s in ((signal.SIGTERM, term_s), (signal.SIGKILL, kill_s)):
        for process in processes:
            process.signal(number, group=True)
        deadline = time.monotonic() + limit_s
        if all(process.wait(max(0.0, deadline - time.monotonic())) for process in processes):
            break
    running = [process for process in processes if process.alive]
    deadline = time.monotonic() + GROUP_GRACE_S
    for leader in leaders:
        if leader not in [process.pid for process in running]:
            _end_group(leader, deadline)
    return running


def _open_pidfd(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None  # not Linux
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None  # it has ended, or a sandbox forbids it


def _end_group(leader: int, deadline: float | None = None) -> None:
    """Kill what is left of a process group some time after its leader has ended.

    The number of a group is given to no new process while the group has members, and zombies are members.
    """
    deadline = time.monotonic() + GROUP_GRACE_S if deadline is None else deadline
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter: only zombies are left (macOS)
        os.killpg(leader, 0)
        while time.monotonic() < deadline:
            os.killpg(leader, 0)
            time.sleep(POLL_S)
        os.killpg(leader, signal.SIGKILL)


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log_file: Path,
    cwd: str | Path | None = None,
    reason_file: Path | None = None,
) -> Process:
    """Start a process in a session of its own, which outlives this one.

    Its output is appended to ``log_file`` (mode 0600), which is begun anew when it has grown too large. In
    ``reason_file`` it may say why it ends: see `timbr_wamp.processes.reasons`.

    Raises:
        OSError: it could not be started.
    """
    environment = {name: value for name, value in environment.items() if name != VARIABLE}
    if reason_file is not None:
        reason_file.unlink(missing_ok=True)  # an earlier process's
        environment[VARIABLE] = str(reason_file)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(log).st_size > LOG_LIMIT_BYTES:
            os.ftruncate(log, 0)
        child = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    finally:
        os.close(log)
    # in this order: an uncollected child keeps its pid
    process = Process(child.pid, runtime.process_started(child.pid) or 0.0)
    process._child = _Child(child)
    return process


def log_end(log_file: Path | None) -> int:
    """Return the size of a log file: the position from which `log_tail` gives what is written after now."""
    try:
        size = log_file.stat().st_size if log_file is not None else 0
    except OSError:
        return 0
    return 0 if size > LOG_LIMIT_BYTES else size


def log_tail(log_file: Path | None, *, after: int = 0) -> str:
    """Return the end of a log file, for error messages; empty when there is none. ``after``: see `log_end`."""
    if log_file is None:
        return ""
    try:
        with open(log_file, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(after if after <= size else 0, size - LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


__all__ = ["Process", "end_all", "log_end", "log_tail", "spawn"]
