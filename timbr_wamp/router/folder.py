"""Files of the router: atomic writes of private files, lock files, and the files of ``router-config/``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from timbr_wamp.runtime import replace_file

#: Interval for trying to get a lock that another process holds.
LOCK_POLL_S = 0.05


#: Folders of a clone whose files are included in a wheel (``setup.py``).
SHIPPED_FOLDERS = ("router-config", "locks")


def clone_folder() -> Path | None:
    """Return the root of the clone that contains this package; None for an installed wheel."""
    root = Path(__file__).parents[2]
    return root if (root / SHIPPED_FOLDERS[0]).is_dir() else None


def shipped(name: str) -> Traversable:
    """Return a file of `SHIPPED_FOLDERS`: from the clone, or the copy in an installed package."""
    clone = clone_folder()
    if clone is not None:
        for folder in SHIPPED_FOLDERS:
            if (clone / folder / name).is_file():
                return clone / folder / name
    return resources.files("timbr_wamp.router") / "config" / name


def write_private(path: Path, content: bytes) -> None:
    """Write a file atomically, with mode 0600."""
    replace_file(path, content, sync=True)


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Lock the file ``path`` against other processes and threads. The file remains after the release.

    Raises:
        TimeoutError: another process or thread held the lock for ``timeout_s``.
    """
    import fcntl  # does not exist on Windows, where the router is not supported

    deadline = time.monotonic() + timeout_s
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{path} is locked by another process") from None
                time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)  # releases the lock


def tail(text: str, lines: int = 20) -> str:
    """Return the last ``lines`` lines that are not empty."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
