"""Start processes in sessions of their own, and end them by pid and start time, so never by a reused pid."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from timbr_wamp import runtime

#: Timeouts for a process to end after SIGTERM and after SIGKILL.
TERM_TIMEOUT_S = 3.0
KILL_TIMEOUT_S = 5.0
LOG_TAIL_BYTES = 2000


def spawn(
    command: Sequence[str], *, environment: Mapping[str, str], log_file: Path, cwd: str | None = None
) -> tuple[int, float]:
    """Start a process that outlives this one; return its pid and start time.

    Its output is appended to ``log_file`` (mode 0600).

    Raises:
        OSError: it could not be started.
    """
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    finally:
        os.close(log)
    # The parent must wait for it, or it becomes a zombie; the thread ends with the process.
    threading.Thread(target=process.wait, name=f"collect-{process.pid}", daemon=True).start()
    return process.pid, runtime.process_started(process.pid) or 0.0


def end(pid: int, started: float, *, term_s: float = TERM_TIMEOUT_S, kill_s: float = KILL_TIMEOUT_S) -> bool:
    """End a process and its process group with SIGTERM, then SIGKILL; return whether it has ended. Blocks."""
    for number, wait_s in ((signal.SIGTERM, term_s), (signal.SIGKILL, kill_s)):
        if not send_signal(pid, started, number, group=True):
            return True
        try:
            psutil.Process(pid).wait(wait_s)
        except psutil.TimeoutExpired:
            continue
        except psutil.NoSuchProcess:
            return True
        return True
    return not runtime.process_alive(pid, started)


def send_signal(pid: int, started: float, number: signal.Signals, *, group: bool = False) -> bool:
    """Send a signal, with ``group`` to the process group that it leads; return False when the process has ended."""
    if not runtime.process_alive(pid, started):
        return False
    try:
        if group and os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def log_tail(log_file: Path) -> str:
    """Return the end of a log file, for error messages; empty when there is no file."""
    try:
        with open(log_file, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def lock(path: Path) -> int | None:
    """Lock a file; return its descriptor, or None when another process holds the lock.

    The operating system releases the lock when the process ends. To release it, remove the file
    first, then close the descriptor.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass  # the holder removed the file between open and flock, so this lock is void
        except OSError:
            os.close(descriptor)
            return None
        os.close(descriptor)
