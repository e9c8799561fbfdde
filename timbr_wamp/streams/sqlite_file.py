"""One SQLite database in WAL mode: many processes write, each by one thread that commits for all its callers.

What several threads write at once is one transaction (a *group commit*), so that they share the cost of one
`fsync`. SQLite lets one process write at a time; the others wait here, so that "database is locked" reaches nobody:
a call that waits too long raises `StorageBusy`. Each error of SQLite has one meaning for callers, see `translated`.

Sources: https://www.sqlite.org/wal.html, https://www.sqlite.org/howtocorrupt.html (forks, network file systems),
https://www.sqlite.org/pragma.html.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from timbr_wamp.errors import StorageBusy, StorageClosed, StorageFailed, described
from timbr_wamp.streams.file_locks import (
    FileIdentity,
    has_open,
    holder_of,
    holder_text,
    identity_of,
    note_closed,
    note_open,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: A call waits at most this long for other processes' transactions, seconds.
BUSY_S = 30.0
#: And this much longer for the disk, seconds.
SLOW_S = 10.0
#: Seconds between two tries while another process writes: the first, and the longest.
RETRY_S, LONGEST_RETRY_S = 0.0005, 0.05
#: The writing thread ends after so many seconds without work; the next call starts another.
IDLE_S = 5.0
#: Calls in one transaction.
GROUP_LIMIT = 512
#: Calls that may wait when another one is posted.
POSTED_LIMIT = 4_096
#: Before what must be durable, and else at this interval, it looks whether the file is still there, seconds.
LOOK_S = 0.25
#: What was posted and could not be written is tried again with the next call, and at this interval, seconds.
POSTED_RETRY_S = 1.0
#: After a transaction that was larger, the WAL file is cut to this size, bytes.
WAL_KEPT_BYTES = 64 * 1024 * 1024

#: File systems of other computers: SQLite's locks and shared memory do not work there.
NETWORK_FILE_SYSTEMS = frozenset(
    {"afpfs", "afs", "ceph", "cifs", "davfs", "fuse.davfs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs",
     "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs", "webdav"}
)  # fmt: skip

#: SQLite's primary result codes that mean: another connection holds a lock.
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_NOTADB: "the file is not an SQLite database",
    sqlite3.SQLITE_CORRUPT: "the file is damaged",
    sqlite3.SQLITE_READONLY: "the file is read-only",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_IOERR: "reading or writing failed",
    sqlite3.SQLITE_PERM: "access is denied",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
}
#: Result codes that mean: the whole transaction failed, whoever's work it was.
_OF_THE_FILE = _LOCKED | _REASONS.keys()


def translated(error: sqlite3.Error, path: Path, waited_s: float = 0.0) -> StorageBusy | StorageFailed:
    """Return an error of SQLite as ours; ``waited_s``: how long the call has waited for a lock."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _LOCKED:
        return StorageBusy(str(path), waited_s, holder_text(None))
    if "decode to UTF-8" in str(error):  # the text follows, perhaps a long one
        return StorageFailed(str(path), "the file is damaged (a text is not UTF-8)")
    reason = _REASONS.get(code)
    return StorageFailed(str(path), f"{reason} ({error})" if reason else str(error))


def file_system_of(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """Return the kind of file system that holds ``path``; None when this system does not tell."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    held = os.path.realpath(path)
    best, kind = -1, None
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        folder = fields[1].encode("utf-8", "surrogateescape").decode("unicode_escape", "replace").rstrip("/")
        if (held == folder or held.startswith(f"{folder}/")) and len(folder) >= best:
            best, kind = len(folder), fields[2]
    return kind


def _identity_of(path: Path) -> FileIdentity:
    try:
        return identity_of(path)
    except OSError as error:
        raise StorageFailed(str(path), error.strerror or str(error)) from error


class _Call(Generic[T]):
    """A piece of work for the writing thread, and its result."""

    __slots__ = ("abandoned", "done", "durable", "error", "posted", "reads", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], T], durable: bool) -> None:
        self.work, self.durable = work, durable
        self.done = threading.Event()
        self.result: T
        self.error: BaseException | None = None
        #: Nobody waits for it.
        self.posted = False
        #: It changes nothing: it is done also while nothing can be written.
        self.reads = False
        #: Who waited has given up: it must not be written any more.
        self.abandoned = False


class SqliteFile:
    """A database of ours. Any thread; a forked child opens it anew by itself, except one in memory.

    Args:
        path: created with mode 0600 when absent, its folder with 0700; None: a database in this process's memory.
        schema: SQL that creates tables if they do not exist.
        application_id, version: numbers in the file's header by which foreign and newer files are refused.
        exclusive: no other process may open it while this one has it.
        busy_s: how long a call waits for other processes.
        page_bytes: page size of a new file; larger ones suit large values.

    Raises:
        StorageFailed: it is not ours, damaged, of a newer version, on a network file system, or cannot be opened.
        StorageBusy: another process has it exclusively, or writes for too long.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        schema: str,
        application_id: int,
        version: int = 1,
        exclusive: bool = False,
        busy_s: float = BUSY_S,
        page_bytes: int = 4096,
    ) -> None:
        self._in_memory = path is None
        self.path = Path(":memory:") if path is None else path
        self._schema, self._application_id, self._version = schema, application_id, version
        self._exclusive, self._busy_s, self._page_bytes = exclusive, busy_s, page_bytes
        #: Called in the writing thread when something that was written in a transaction was undone.
        self.on_rollback: Callable[[], object] = lambda: None
        self._pid = os.getpid()
        self._closed = False
        self._set_up_threads()
        self._reader: sqlite3.Connection | None = None
        if path is not None:
            self._prepare_place()
        self._identity = None if path is None else _identity_of(path)
        try:
            self._writer: sqlite3.Connection | None = self._opened()
        except StorageBusy as error:
            raise StorageBusy(error.place, error.waited_s, holder_text(holder_of(self.path))) from error

    def _opened(self) -> sqlite3.Connection:
        """Return the writing connection, to a file in which all tables are."""
        if self._identity is not None:
            note_open(self._identity)  # before SQLite locks it
        try:
            connection = self._connect()
            try:
                self._create(connection)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            if self._identity is not None:
                note_closed(self._identity)
            raise
        return connection

    def _set_up_threads(self) -> None:
        self._changed = threading.Condition()
        self._calls: deque[_Call[Any]] = deque()
        self._thread: threading.Thread | None = None
        #: What was posted and could not be written: it is written before anything else.
        self._postponed: list[_Call[Any]] = []
        #: The newest transaction failed.
        self.failing = False
        #: The writer's ``synchronous``.
        self._level = "unknown"
        #: When to look next whether the file is still there, before what need not be durable.
        self._look_again = 0.0
        #: A COMMIT is under way: what is in it cannot be abandoned.
        self._committing = False
        #: Held while the reading connection is used.
        self._reading = threading.RLock()

    # --- opening ---

    def _prepare_place(self) -> None:
        kind = file_system_of(self.path.parent if not self.path.exists() else self.path)
        if kind in NETWORK_FILE_SYSTEMS:
            raise StorageFailed(str(self.path), f"it is on a network file system ({kind}), where locks do not hold")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self.path.exists():
                # Never one that is there: closing it here would end the locks that this process has on it.
                with contextlib.suppress(FileExistsError):  # another process was faster
                    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                    os.close(os.open(os.path.realpath(self.path), flags, 0o600))
            elif not stat.S_ISREG(self.path.stat().st_mode):
                raise StorageFailed(str(self.path), "it is not a regular file")
        except StorageFailed:
            raise
        except OSError as error:
            raise StorageFailed(str(self.path), error.strerror or str(error)) from error
        started = time.monotonic()
        while self._exclusive and has_open(self.path):  # perhaps it is just being closed
            waited_s = time.monotonic() - started
            if waited_s >= self._busy_s:
                raise StorageBusy(str(self.path), waited_s, holder_text(holder_of(self.path)))
            time.sleep(LONGEST_RETRY_S)

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        try:
            connection.execute(f"PRAGMA page_size={self._page_bytes}")
            if self._exclusive:
                self._insist(lambda: connection.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall())
            self._insist(lambda: connection.execute("PRAGMA journal_mode=WAL").fetchall())
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA journal_size_limit={WAL_KEPT_BYTES}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self, connection: sqlite3.Connection) -> None:
        """Check whose file it is, and create what is missing."""

        def create() -> None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                ours = connection.execute("PRAGMA application_id").fetchone()[0]
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
                if not empty and ours != self._application_id:
                    raise StorageFailed(str(self.path), "the file is another program's")
                if not empty and version < self._version:
                    raise StorageFailed(str(self.path), f"an older timbr_wamp wrote it (its version is {version})")
                if version > self._version:
                    raise StorageFailed(str(self.path), f"a newer timbr_wamp wrote it (its version is {version})")
                for statement in self._schema.split(";"):
                    connection.execute(statement)
                if empty:
                    connection.execute(f"PRAGMA application_id={self._application_id}")
                    connection.execute(f"PRAGMA user_version={self._version}")
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise

        self._insist(create)

    def _insist(self, call: Callable[[], T]) -> T:
        """Call something until no other process is in its way, at most for ``busy_s``; translate errors."""
        started = time.monotonic()
        pause_s = RETRY_S
        while True:
            try:
                return call()
            except sqlite3.Error as error:
                failure = translated(error, self.path, time.monotonic() - started)
                if not isinstance(failure, StorageBusy) or failure.waited_s >= self._busy_s:
                    raise failure from error
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, LONGEST_RETRY_S)

    # --- calls: any thread ---

    def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True, patient: bool = False) -> T:
        """Return what ``work(connection)`` returns, once its changes are committed.

        ``work`` runs in the writing thread, perhaps several times; of what it changes nothing remains if it raises.
        With ``durable`` the changes have reached the disk; else they survive the end of this process only.
        ``patient``: wait for a disk that hangs in the middle of a commit, as long as it does.

        Raises:
            StorageBusy: other processes, or the disk, took too long; nothing was changed, unless the disk hung in the
                middle of the commit, of which the end is then not known.
            StorageFailed: SQLite failed; nothing was changed.
            StorageClosed: `close` was called.
            KeyboardInterrupt: the user's, while it waits: whether the changes were made is not known.
        """
        self._follow_fork()
        if self._in_memory:
            return self._write_here(work)
        return self._done(_Call(work, durable), patient=patient)

    def _done(self, call: _Call[T], *, patient: bool = False) -> T:
        """Have the writing thread do something, and return its result."""
        with self._changed:
            if self._closed:
                raise StorageClosed(str(self.path))
            self._enqueue(call)
        limit_s = 3 * self._busy_s + SLOW_S
        if not call.done.wait(limit_s) and (self._abandon(call) or not (call.done.wait(limit_s) or patient)):
            raise StorageBusy(str(self.path), limit_s, "others, or its disk is slow")
        call.done.wait()
        if call.error is not None:
            raise call.error
        return call.result

    def _abandon(self, call: _Call[Any]) -> bool:
        """Have a call not written; tell whether that is certain."""
        with self._changed:
            if call in self._calls:
                self._calls.remove(call)
                return True
            if call.done.is_set() or self._committing:
                return False
            call.abandoned = True  # the transaction under way is done anew without it
            return True

    def post(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Write in the order of the calls, without waiting for it.

        What cannot be written, as the disk is full for one, is logged and tried again, before anything else, until
        the file is closed. Waits only while `POSTED_LIMIT` calls wait.

        Raises:
            StorageBusy: they wait for too long.
            StorageClosed: `close` was called.
        """
        self._follow_fork()
        call: _Call[object] = _Call(work, durable=False)
        call.posted = True
        with self._changed:
            limit_s = 0.0 if self.failing else self._busy_s
            if not self._changed.wait_for(lambda: self._waiting() < POSTED_LIMIT or self._closed, limit_s):
                raise StorageBusy(str(self.path), limit_s, "others, or its disk is slow or full")
            if self._closed:
                raise StorageClosed(str(self.path))
            self._enqueue(call)

    def outside(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do what no transaction allows, such as ``VACUUM``, in the calling thread. Nobody else may use this object."""
        with self._changed:
            self._changed.wait_for(lambda: not self._calls, self._busy_s)
            connection = self._writer
            if self._closed or connection is None:
                raise StorageClosed(str(self.path))
            return self._insist(lambda: work(connection))

    def _waiting(self) -> int:
        return len(self._calls) + len(self._postponed)

    def _enqueue(self, call: _Call[Any]) -> None:
        """Hand a call to the writing thread. Under the lock."""
        self._calls.append(call)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"timbr {self.path.name}", daemon=True)
            self._thread.start()
        else:
            self._changed.notify_all()

    def _write_here(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Write to memory: there is no disk to wait for, nor another process."""
        call = _Call(work, durable=False)
        with self._reading:
            if self._closed:
                raise StorageClosed(str(self.path))
            self._commit([call])
        if call.error is not None:
            raise call.error
        return call.result

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what ``work(connection)`` reads, all of it from one state. Raises as `write` does."""
        self._follow_fork()
        if self._in_memory:
            return self._write_here(work)
        if self._exclusive:  # its writer is the only connection that is allowed
            call = _Call(work, durable=False)
            call.reads = True
            return self._done(call)
        with self._reading:
            if self._closed:
                raise StorageClosed(str(self.path))
            self._check_identity()  # first: else SQLite would make a new file
            if self._reader is None:
                self._reader = self._connect()
            connection = self._reader
            return self._insist(lambda: _of_one_state(connection, work))

    def changes_seen(self) -> int:
        """Return a number that is another one after another process or thread has committed; 0 always in memory."""
        if self._in_memory:
            return 0
        return self.read(lambda connection: int(connection.execute("PRAGMA data_version").fetchone()[0]))

    def close(self) -> None:
        """Finish what was called, and release the file. Idempotent.

        Waits at most ``busy_s``; what takes longer is finished, and the file released, by the writing thread.
        """
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if os.getpid() != self._pid:
            return  # the file is the parent's
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._busy_s)
        with self._reading:
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()
        if thread is None or not thread.is_alive():
            self._close_writer()

    def _close_writer(self) -> None:
        """Close the writing connection, when nothing is written any more."""
        with self._changed:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            if self._identity is not None:
                note_closed(self._identity)

    def _follow_fork(self) -> None:
        """In a forked child, open the file anew: a connection must not be used, nor closed, in two processes."""
        if os.getpid() == self._pid:
            return
        if self._exclusive or self._in_memory:
            raise StorageBusy(str(self.path), 0.0, holder_text(self._pid))
        _kept_open.append((self._writer, self._reader))
        self._pid, self._reader = os.getpid(), None
        self._set_up_threads()
        if self._identity is not None:
            note_open(self._identity)
        self._writer = self._connect()

    # --- the writing thread ---

    def _run(self) -> None:
        while True:
            with self._changed:
                pause_s = POSTED_RETRY_S if self._postponed else IDLE_S
                self._changed.wait_for(lambda: bool(self._calls) or self._closed, pause_s)
                if not self._waiting():
                    self._thread = None
                    break
                crowded = self._waiting() >= POSTED_LIMIT
                taken = [self._calls.popleft() for _ in range(min(len(self._calls), GROUP_LIMIT))]
                last = self._closed and not self._calls
            group = [*self._postponed, *taken]
            try:
                self._commit(group)
            except BaseException as error:
                self._note_failure([call for call in group if not call.reads], error, last=last)
                for call in group:
                    if call.reads:
                        self._read_alone(call)
            else:
                self.failing, self._postponed = False, []
            for call in group:
                call.done.set()
                if call.posted and call.error is not None:
                    logger.error("%s: something was not kept: %s", self.path, described(call.error))
            if crowded:
                with self._changed:
                    self._changed.notify_all()
        if self._closed:
            self._close_writer()

    def _note_failure(self, group: list[_Call[Any]], error: BaseException, *, last: bool) -> None:
        """Tell who waits that a transaction failed; keep what was posted for the next one, unless it is the last."""
        again = [call for call in group if call.posted and isinstance(error, OSError) and not last]
        for call in group:
            call.error = None if call in again else error
        if again and not self.failing:
            logger.error("%s: what was to be kept waits, and is tried again: %s", self.path, described(error))
        self.failing, self._postponed = True, again

    def _read_alone(self, call: _Call[Any]) -> None:
        connection = self._writer
        assert connection is not None
        call.error = None
        try:
            call.result = self._insist(lambda: _of_one_state(connection, call.work))
        except BaseException as error:
            call.error = error

    def _commit(self, group: list[_Call[Any]]) -> None:
        connection = self._writer
        assert connection is not None, "closed only after this thread has ended"
        level = "FULL" if any(call.durable for call in group) else "NORMAL"

        def transaction() -> bool:
            wanted = [call for call in group if not call.abandoned]
            if level == "FULL" or self.failing or time.monotonic() >= self._look_again:
                self._check_identity()
                self._look_again = time.monotonic() + LOOK_S
            if level != self._level:
                self._level = "unknown"
                connection.execute(f"PRAGMA synchronous={level}")
                self._level = level
            connection.execute("BEGIN IMMEDIATE")
            try:
                for call in wanted:
                    self._perform(call, connection, alone=len(wanted) == 1)
                if not connection.in_transaction:
                    return True  # the only piece was refused
                with self._changed:
                    self._committing = not any(call.abandoned for call in wanted)
                connection.execute("COMMIT" if self._committing else "ROLLBACK")
                if not self._committing:
                    self.on_rollback()
                return self._committing
            except BaseException:
                _roll_back(connection)
                self.on_rollback()
                raise
            finally:
                self._committing = False

        while not self._insist(transaction):
            pass  # who abandoned a piece made it fewer

    def _check_identity(self) -> None:
        """Refuse a file that was removed, or replaced by another one, while it is open: what is written would be lost.

        Raises:
            StorageFailed: it was.
        """
        if self._identity is None:
            return
        try:
            same = identity_of(self.path) == self._identity
        except FileNotFoundError:
            raise StorageFailed(str(self.path), "the file was removed while it was in use; open it anew") from None
        except OSError as error:
            raise StorageFailed(str(self.path), error.strerror or str(error)) from error
        if not same:
            raise StorageFailed(str(self.path), "the file was replaced while it was in use; open it anew")

    def _perform(self, call: _Call[Any], connection: sqlite3.Connection, *, alone: bool) -> None:
        """Do one piece of work; its own failure leaves the others' alone, and ends the transaction of one ``alone``."""
        call.error = None
        if not alone:  # each statement costs a switch of threads
            connection.execute("SAVEPOINT piece")
        try:
            call.result = call.work(connection)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if not connection.in_transaction or code in _OF_THE_FILE:
                raise  # the whole transaction failed
            call.error = translated(error, self.path)
        except Exception as error:  # the caller's own refusal
            call.error = error
        if call.error is not None:
            connection.execute("ROLLBACK" if alone else "ROLLBACK TO piece")
            self.on_rollback()
        if not alone:
            connection.execute("RELEASE piece")


#: Connections of a parent process: closing them here would drop the parent's locks.
_kept_open: list[object] = []


def _of_one_state(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Return what ``work`` reads, all of it from one state."""
    connection.execute("BEGIN")
    try:
        return work(connection)
    finally:
        _roll_back(connection)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):  # the error that led here is the one to report
            connection.execute("ROLLBACK")


def pages(rows: Iterator[tuple[Any, ...]], limit_bytes: int, size_of: Callable[[tuple[Any, ...]], int]) -> list[Any]:
    """Return the first rows that have ``limit_bytes`` together at most, but at least one if there is any."""
    found: list[Any] = []
    size = 0
    for row in rows:
        size += size_of(row)
        if found and size > limit_bytes:
            break
        found.append(row)
    return found
