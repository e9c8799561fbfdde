"""Files of the router: private ones, written whole or not at all; locks; what ships with the package."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

#: How often a lock that somebody else holds is tried again.
LOCK_POLL_S = 0.05


#: Folders of a clone whose files a wheel carries (``setup.py``).
SHIPPED_FOLDERS = ("router-config", "locks")


def clone_folder() -> Path | None:
    """Return the root of the clone that this package is read from; None when it is an installed wheel."""
    root = Path(__file__).parents[2]
    return root if (root / SHIPPED_FOLDERS[0]).is_dir() else None


def shipped(name: str) -> Traversable:
    """Return a file of `SHIPPED_FOLDERS`: in place in a clone, the copy in the package in a wheel."""
    clone = clone_folder()
    if clone is not None:
        for folder in SHIPPED_FOLDERS:
            if (clone / folder / name).is_file():
                return clone / folder / name
    return resources.files("timbr_wamp.router") / "config" / name


def write_private(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, mode 0600."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock file ``path`` against other processes and threads; it stays when released.

    Raises:
        TimeoutError: somebody else held it for ``timeout_s``.
    """
    import fcntl  # not on Windows, where nothing of the router runs

    deadline = time.monotonic() + timeout_s
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{path} is held by another process") from None
                time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)  # releases the lock


def tail(text: str, lines: int = 20) -> str:
    """Return the last ``lines`` lines that are not empty."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
