"""Lock files between processes. The operating system releases a lock when its process ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Interval for trying to get a lock that another process holds.
LOCK_POLL_S = 0.05


def lock(path: Path) -> int | None:
    """Lock a file; return its descriptor for `unlock`, or None when another process or thread holds the lock."""
    import fcntl  # does not exist on Windows, where none of the users of locks is supported

    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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


def unlock(path: Path, descriptor: int) -> None:
    """Release a lock and remove its file."""
    path.unlink(missing_ok=True)  # first, so that nobody locks a file that is about to go
    os.close(descriptor)


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock for a block. The file remains, because others may wait for it.

    Raises:
        TimeoutError: another process or thread held the lock for ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while (descriptor := lock(path)) is None:
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{path} is locked by another process")
        time.sleep(LOCK_POLL_S)
    try:
        yield
    finally:
        os.close(descriptor)


__all__ = ["lock", "locked", "unlock"]
