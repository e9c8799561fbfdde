"""Journals by their names: that of a process's machine, those that there are, and one that another process has."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from timbr_wamp.errors import StorageBusy, StorageFailed
from timbr_wamp.store.journal import DEFAULT_BYTES, KEPT_S, SqliteJournal, refuse_others
from timbr_wamp.streams.file_locks import has_open, holder_of, holder_text

logger = logging.getLogger(__name__)

#: A copy of a journal in use is tried again while its process writes to the main file, at most so long, seconds.
COPY_S = 10.0
#: A main file that was changed less than this ago may be changed again within one tick of its time stamp, seconds.
SETTLED_S = 0.02
#: Bytes of a WAL file's header, which is another one each time the file begins anew.
_WAL_HEADER_BYTES = 32

_NAME = re.compile(r"(.+)-(\d{1,9})\.journal")


def open_journal(path: str | Path) -> SqliteJournal:
    """Return the journal in a file: what ``Machine(journal=path)`` calls."""
    return SqliteJournal(path)


def open_next_journal(folder: Path, machine: str) -> SqliteJournal:
    """Return the journal of a machine in the folder of its process: the newest one, or a new one.

    ``<machine>-<number>.journal``. When a machine of this process has the newest one, as when a cell of a notebook
    makes it anew, or when it is damaged or another process's, the next number begins empty. Those before it are
    removed once nothing was written for `KEPT_S`.
    """
    numbers = sorted(
        int(match[2])
        for path in folder.glob("*.journal")
        if (match := _NAME.fullmatch(path.name)) and match[1] == machine
    )
    newest = numbers[-1] if numbers else 1
    for number in numbers[:-1]:
        remove_unused(folder / f"{machine}-{number}.journal", time.time() - KEPT_S)
    path, following = (folder / f"{machine}-{number}.journal" for number in (newest, newest + 1))
    if not has_open(path):
        try:
            return SqliteJournal(path, kept_bytes=DEFAULT_BYTES)
        except (StorageBusy, StorageFailed) as error:
            if not path.is_file():  # the folder's fault
                raise
            logger.warning("machine %s begins with a new journal, as its last one cannot be used: %s", machine, error)
    return SqliteJournal(following, kept_bytes=DEFAULT_BYTES)


def remove_old(folder: Path, kept_s: float = KEPT_S) -> list[Path]:
    """Remove the journals in the folders of a folder to which nothing was written for ``kept_s``; return their paths.

    Those that a process has, and those with messages that have no record, are kept.
    """
    removed = []
    for path in sorted(folder.glob("*/*.journal")):
        if remove_unused(path, time.time() - kept_s):
            removed.append(path)
            with suppress(OSError):  # another one is in it
                path.parent.rmdir()
    return removed


def remove_unused(path: Path, before: float) -> bool:
    """Remove a journal's files if nothing was written since ``before``; tell whether they are gone.

    Not if a process has it, or a message in it has no record.
    """
    files = [Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")]
    try:
        if has_open(path) or max(file.stat().st_mtime for file in files if file.exists()) > before:
            return False
        journal = SqliteJournal(path)
        try:
            if journal.pending(1):
                return False
        finally:
            journal.close()
    except (OSError, ValueError):
        return False
    for file in files:
        file.unlink(missing_ok=True)
    return True


def journals_in(folder: Path) -> list[Path]:
    """Return the journals in a folder and in its folders, by name and number."""
    return sorted([*folder.glob("*.journal"), *folder.glob("*/*.journal")], key=_order)


def _order(path: Path) -> tuple[str, str, int]:
    match = _NAME.fullmatch(path.name)
    return str(path.parent), match[1] if match else path.name, int(match[2]) if match else 0


def machine_of(path: Path) -> str:
    """Return the machine's name in that of a journal's file; else the file's name.

    >>> machine_of(Path("lab/machine-2.journal")), machine_of(Path("quakes.journal"))
    ('machine', 'quakes')
    """
    match = _NAME.fullmatch(path.name)
    return match[1] if match else path.stem


@contextmanager
def readable(path: Path) -> Iterator[SqliteJournal]:
    """Give a journal for reading. If another process has it, a copy of this instant, which disturbs that one not.

    Raises:
        StorageBusy: another process writes so much that it cannot be copied.
        StorageFailed: it is not there, or cannot be used.
    """
    if not path.is_file():
        raise StorageFailed(str(path), "there is no such file")
    if has_open(path):  # copying it would end the locks that this process has on it
        raise StorageBusy(str(path), 0.0, holder_text(os.getpid()))
    if holder_of(path) is None and os.access(path, os.W_OK):
        journal = SqliteJournal(path)
        try:
            yield journal
        finally:
            journal.close()
        return
    refuse_others(path)
    with tempfile.TemporaryDirectory(prefix="timbr-journal-") as folder:
        journal = SqliteJournal(_copy(path, Path(folder)))
        try:
            yield journal
        finally:
            journal.close()


def _copy(path: Path, folder: Path) -> Path:
    """Copy a journal and its WAL file as they are at one instant; return the copy.

    The main file changes only when SQLite moves pages there from the WAL file, which is appended to meanwhile: so if
    the main file stays the same and the WAL file did not begin anew, what was copied is a state that was committed.
    """
    copy = folder / path.name
    wal, wal_copy = Path(f"{path}-wal"), Path(f"{copy}-wal")
    started = time.monotonic()
    while True:
        before = _state(path, wal)
        if time.time() - path.stat().st_mtime >= SETTLED_S:
            shutil.copyfile(path, copy)
            with suppress(FileNotFoundError):
                shutil.copyfile(wal, wal_copy)
            if _state(path, wal) == before:
                return copy
            wal_copy.unlink(missing_ok=True)
        waited_s = time.monotonic() - started
        if waited_s > COPY_S:
            raise StorageBusy(str(path), waited_s, holder_text(holder_of(path)))
        time.sleep(SETTLED_S)


def _state(path: Path, wal: Path) -> tuple[int, int, bytes]:
    status = path.stat()
    header = b""
    with suppress(FileNotFoundError), open(wal, "rb") as file:
        header = file.read(_WAL_HEADER_BYTES)
    return status.st_mtime_ns, status.st_size, header
