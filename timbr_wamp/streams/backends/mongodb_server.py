"""A connection of the streams in MongoDB: its collections, its clock, its errors as ours. See `mongodb`."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

import pymongo
from pymongo import errors
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from timbr_wamp.errors import InvalidArgument, StorageBusy, StorageFailed
from timbr_wamp.streams.server import Caller, split_url, timeout_of

T = TypeVar("T")
Document: TypeAlias = dict[str, Any]

#: The database, unless the URL names one.
DATABASE = "timbr_wamp"
#: A server that is not there is told after this time, seconds, or after `timeout_s` if that is less.
CONNECT_S = 5.0
#: Seconds between two looks at the server's clock.
CLOCK_S = 60.0
#: Codes of the server's errors: it does not know the user, or does not allow it.
_DENIED = frozenset({13, 18, 8000})


class MongoServer:
    """Any thread; a forked child connects anew by itself. URL and errors as of `MongoStreams`."""

    def __init__(self, url: str) -> None:
        self._address, options = split_url(url, ("timeout_s",), lambda name: True)
        parts = urlsplit(self._address)
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._caller = Caller(self.url, timeout_of(options), (errors.PyMongoError, OSError), self._translated)
        self._connect()
        try:
            # Once: a server that is not there when a stream is opened is told at once.
            for keys in ([("g", 1), ("p", 1)], [("g", 1), ("k", 1)], [("b", 1)]):
                self.entries.create_index(keys)
        except (errors.PyMongoError, OSError) as error:
            self._client.close()
            raise self._translated(error, 0.0)[0] from error

    def _connect(self) -> None:
        self._pid = os.getpid()
        #: Held while this process appends, and while it changes a group: its threads would only be in each other's way.
        self.appending, self.grouping = threading.Lock(), threading.Lock()
        #: Notified when this process has appended.
        self.appended = threading.Condition()
        #: The server's clock less `time.monotonic`, and when it was looked at.
        self._clock: tuple[float, float] | None = None
        milliseconds = round(1000 * self._caller.timeout_s)
        connect_ms = min(milliseconds, round(1000 * CONNECT_S))
        try:
            if not self._address.startswith("mongodb+srv:"):  # that one asks the name server
                parse_uri(self._address, warn=False)
            self._client: pymongo.MongoClient[Document] = pymongo.MongoClient(
                self._address, appname="timbr_wamp", tz_aware=False, connectTimeoutMS=connect_ms,
                serverSelectionTimeoutMS=connect_ms, socketTimeoutMS=milliseconds,
            )  # fmt: skip
            database = self._client.get_default_database(DATABASE).with_options(
                read_preference=pymongo.ReadPreference.PRIMARY,
                read_concern=ReadConcern("majority"),
                write_concern=WriteConcern(w="majority", j=True, wtimeout=milliseconds),
            )
        except (errors.PyMongoError, ValueError, TypeError):  # whose text may hold a part of the password
            raise InvalidArgument(
                "url", "it is no address of a MongoDB server, or has an option that pymongo does not know; write "
                "mongodb://host:27017/database",
            ) from None  # fmt: skip
        self.streams: Collection[Document] = database["timbr_streams"]
        self.entries: Collection[Document] = database["timbr_entries"]
        self.groups: Collection[Document] = database["timbr_groups"]

    def close(self) -> None:
        """Let each call raise `StorageClosed`, and disconnect. Idempotent."""
        self._caller.close()
        with self.appended:
            self.appended.notify_all()
        if os.getpid() == self._pid:
            self._client.close()

    def follow_fork(self) -> None:
        """In a forked child, connect anew: a connection must not be used, nor closed, in two processes."""
        if os.getpid() != self._pid:
            _kept_open.append(self._client)
            self._connect()

    def now(self) -> float:
        """Return the time by the server's clock: UTC seconds since the epoch."""
        clock = self._clock
        if clock is None or time.monotonic() - clock[1] >= CLOCK_S:
            asked = time.monotonic()
            told = self.call(lambda: self._client.admin.command("hello"))["localTime"]
            answered = time.monotonic()
            offset = told.replace(tzinfo=UTC).timestamp() - (asked + answered) / 2
            clock = self._clock = (offset, answered)
        return time.monotonic() + clock[0]

    def call(self, work: Callable[[], T]) -> T:
        """Return what ``work()`` returns, as `Caller.call` does: it may be called several times."""
        return self._caller.call(work)

    def tries(self) -> Iterator[None]:
        """Yield for each try of a change that others may get ahead of; raises as `Caller.tries` does."""
        return self._caller.tries()

    @contextlib.contextmanager
    def locked(self, lock: threading.Lock) -> Iterator[None]:
        """Hold a lock of this process.

        Raises:
            StorageBusy: another thread has it for too long.
        """
        if not lock.acquire(timeout=2 * self._caller.timeout_s):
            raise StorageBusy(self.url, 2 * self._caller.timeout_s)
        try:
            yield
        finally:
            lock.release()

    def insert_new(self, collection: Collection[Document], document: Document) -> None:
        """Insert a document, unless there is one with its id."""

        def work() -> None:
            with contextlib.suppress(errors.DuplicateKeyError):
                collection.insert_one(document)

        self.call(work)

    def _translated(self, error: Exception, waited_s: float) -> tuple[StorageFailed | StorageBusy, bool]:
        if isinstance(error, errors.ConnectionFailure | OSError):
            return StorageFailed(self.url, f"no answer; whether the server did it is not known ({_brief(error)})"), True
        if isinstance(error, errors.OperationFailure) and error.code in _DENIED:
            return StorageFailed(self.url, f"the server denies access: {_brief(error)}"), False
        return StorageFailed(self.url, _brief(error)), isinstance(error, errors.WTimeoutError)


#: Connections of a parent process.
_kept_open: list[object] = []


def _brief(error: Exception) -> str:
    """Return the server's words, without pymongo's description of every server and option."""
    return str(error).partition(", full error")[0].partition(" (configured timeouts")[0].partition(", Timeout:")[0]
