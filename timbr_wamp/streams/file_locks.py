"""Which process holds SQLite's lock on a file, and which files this process has open.

A process loses all its locks on a file as soon as it closes any descriptor of it
(https://www.sqlite.org/howtocorrupt.html, section 2.2): so a file that this process has open is never opened here.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
from pathlib import Path
from typing import TypeAlias

#: Device and inode: the same for all names of a file.
FileIdentity: TypeAlias = tuple[int, int]

#: SQLite locks bytes from here on, so many: https://www.sqlite.org/src/file/src/os.h, ``PENDING_BYTE``.
_FIRST_BYTE, _BYTES = 0x40000000, 512

#: How often this process has each file open, and the process itself: a forked child has the parent's entries.
_open: dict[FileIdentity, tuple[int, int]] = {}
_lock = threading.Lock()


def identity_of(path: Path) -> FileIdentity:
    """Return the identity of a file; raise OSError if it is not there."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def note_open(identity: FileIdentity) -> None:
    """Note that this process opened a database."""
    with _lock:
        pid, count = _open.get(identity, (os.getpid(), 0))
        _open[identity] = (os.getpid(), count + 1 if pid == os.getpid() else 1)


def note_closed(identity: FileIdentity) -> None:
    """Note that it closed one."""
    with _lock:
        pid, count = _open.get(identity, (0, 0))
        if pid == os.getpid() and count > 1:
            _open[identity] = (pid, count - 1)
        elif pid == os.getpid():
            _open.pop(identity, None)


def has_open(path: Path) -> bool:
    """Tell whether this process has a file open, under any name; a forked child has its parent's."""
    try:
        return identity_of(path) in _open
    except OSError:
        return False


def holder_of(path: Path) -> int | None:
    """Return the pid of a process that keeps others from writing the file; None: there is none, or it is not told."""
    try:
        identity = identity_of(path)
    except OSError:
        return None
    if (here := _open.get(identity)) is not None:
        return here[0]
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return _conflicting(descriptor)
    finally:
        os.close(descriptor)


def _conflicting(descriptor: int) -> int | None:
    """Ask the system whose lock a write lock would conflict with."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    # struct flock: type, whence, start, len, pid on Linux; start, len, pid, type, whence on macOS
    darwin = sys.platform == "darwin"
    form = "@qqihh" if darwin else "@hhqqi"
    wanted = (_FIRST_BYTE, _BYTES, 0, fcntl.F_WRLCK, 0) if darwin else (fcntl.F_WRLCK, 0, _FIRST_BYTE, _BYTES, 0)
    try:
        answer = struct.unpack(form, fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(form, *wanted)))
    except (OSError, struct.error):
        return None
    kind, pid = (answer[3], answer[2]) if darwin else (answer[0], answer[4])
    return pid if kind != fcntl.F_UNLCK and pid > 0 else None


def holder_text(pid: int | None) -> str:
    """Return who has a file, for a sentence."""
    if pid is None:
        return "another process"
    return "this process" if pid == os.getpid() else f"process {pid}"
