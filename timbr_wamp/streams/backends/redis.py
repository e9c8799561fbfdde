"""Streams on a Redis server (or Valkey), version 6.2 or newer: many processes of many computers.

Each method is one Lua script, so it happens as a whole (`redis.lua` says what is kept where). An entry is one of a
Redis stream, with the id ``<position>-0``. Times are the server's. A call whose connection was lost is made again: it
has an id by which the server knows that it did it already.

What is appended is as durable as the server's configuration makes it: with ``appendonly yes`` and ``appendfsync
always`` it is on the disk; with ``everysec`` the last second is lost when the computer fails; without ``appendonly``,
what came after the last snapshot is lost when the server ends. Opening logs a warning in the last case.
See https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import orjson
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from timbr_wamp.errors import InvalidArgument, StorageBusy, StorageFailed
from timbr_wamp.streams.entries import (
    DEAD_SUFFIX,
    Claim,
    GroupInfo,
    NewEntry,
    Position,
    Retention,
    StreamEntry,
    StreamInfo,
)
from timbr_wamp.streams.server import Caller, split_url, timeout_of
from timbr_wamp.values import JsonValue

logger = logging.getLogger(__name__)

#: Start of the names of all our keys, unless the URL says otherwise.
PREFIX = "timbr"
#: Entries, and bytes of texts, that one call appends: the server does nothing else meanwhile.
APPEND_LIMIT, APPEND_LIMIT_BYTES = 100_000, 256 * 1024 * 1024
#: Bytes of texts that one claim gives.
CLAIM_LIMIT_BYTES = 64 * 1024 * 1024
#: Entries that one script removes.
TRIMMED_AT_ONCE = 1_000
#: Longest time that one command waits for an entry, seconds; `wait` repeats it.
BLOCK_S = 0.5
#: Highest position that a number in Lua tells from the next.
_HIGHEST = 2**53 - 2
_OPTIONS = ("prefix", "timeout_s")
_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,100}")
#: Beginnings of the server's refusals that end by themselves, such as: another server becomes the first one.
_PASSING = ("READONLY", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN")
_SCRIPT = files("timbr_wamp.streams.backends").joinpath("redis.lua").read_bytes()


class RedisStreams:
    """See `timbr_wamp.streams.backend.StreamBackend`.

    Args:
        url: ``redis://user:password@host:port/number``, ``rediss://…`` (TLS) or ``unix:///path/of.sock?db=number``. Its
            options: ``prefix`` of our keys (``timbr``); ``timeout_s``: a call ends after it (15); ``ssl_…`` as of
            redis-py.

    Raises:
        InvalidArgument: the URL is not valid.
        StorageFailed: the server is not there, or refuses.
    """

    def __init__(self, url: str) -> None:
        rest, options = split_url(url, _OPTIONS, lambda name: name == "db" or name.startswith("ssl_"))
        self._prefix = options.get("prefix", PREFIX)
        if not _PREFIX.fullmatch(self._prefix):
            raise InvalidArgument("url", f"prefix={self._prefix[:40]!r} is not 1 to 100 of A-Z, a-z, 0-9, _, - and .")
        timeout_s = timeout_of(options)
        self._caller = Caller(_shown(rest, self._prefix), timeout_s, (redis.RedisError, OSError), self._translated)
        try:
            self._client: redis.Redis = redis.Redis.from_url(
                rest, socket_timeout=timeout_s, socket_connect_timeout=min(timeout_s, 5.0), socket_keepalive=True,
                retry=Retry(NoBackoff(), 0), client_name="timbr_wamp",
            )  # fmt: skip
        except (ValueError, TypeError):  # whose text may hold a part of the password
            raise InvalidArgument("url", "it is no address of a Redis server; write redis://host:6379/0") from None
        self._sha = ""
        try:
            self._open()
        except BaseException:
            self._client.close()
            raise

    def _open(self) -> None:
        """Connect, once: a server that is not there when a stream is opened is told at once."""
        try:
            self._sha = str(_answer(self._client.script_load(_SCRIPT)))
            persistence = _answer(self._client.info("persistence"))
            memory = _answer(self._client.info("memory"))
        except redis.exceptions.NoPermissionError:
            persistence, memory = {}, {}  # INFO is not ours to call; a script that is not is told by the first call
        except (redis.RedisError, OSError) as error:
            raise self._translated(error, 0.0)[0] from error
        except TypeError as error:
            raise InvalidArgument("url", f"one of its options is none of redis-py: {error}") from None
        if persistence.get("aof_enabled") == 0:
            logger.warning("%s does not write each change to its disk (appendonly no): appended entries are lost when "
                           "the server ends before its next snapshot", self.url)  # fmt: skip
        policy = str(memory.get("maxmemory_policy", ""))
        if policy.startswith("allkeys") and memory.get("maxmemory"):
            logger.warning("%s removes keys when its memory is full (maxmemory-policy %s): streams may vanish; set "
                           "noeviction", self.url, policy)  # fmt: skip

    @property
    def url(self) -> str:
        return self._caller.place

    def close(self) -> None:
        self._caller.close()
        self._client.close()

    # --- appending and reading ---

    def append(self, stream: str, entries: Sequence[NewEntry]) -> list[Position]:
        size = sum(len(entry.text) for entry in entries)
        if len(entries) > APPEND_LIMIT or size > APPEND_LIMIT_BYTES:
            raise InvalidArgument(
                "messages", f"{len(entries)} with {size} bytes; at most {APPEND_LIMIT} with {APPEND_LIMIT_BYTES} bytes "
                "are appended together to a stream on Redis",
            )  # fmt: skip
        given = [part for entry in entries for part in (entry.text, entry.key or "")]
        return [int(one) for one in self._run("append", stream, *given, once=True)]

    def read(self, stream: str, after: Position, limit: int, limit_bytes: int) -> list[StreamEntry]:
        rows = self._run("read", stream, min(max(after, 0), _HIGHEST), limit, limit_bytes)
        return [StreamEntry(position, at / 1e6, _text(key), text) for position, at, text, key in rows]

    def wait(self, stream: str, after: Position, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        entries, last = f"{self._base(stream)}:entries", f"{min(after, _HIGHEST)}-0"
        while True:
            left_s = deadline - time.monotonic()
            block_ms = max(1, int(1000 * min(left_s, BLOCK_S, self._caller.timeout_s / 2)))

            def waited(block_ms: int = block_ms) -> bool:
                return bool(self._client.xread({entries: last}, count=1, block=block_ms))

            if self._caller.call(waited):
                return True
            if deadline - time.monotonic() <= 0:
                return False

    # --- groups ---

    def create_group(self, stream: str, group: str, start: Position | None, max_attempts: int | None) -> None:
        self._run("create_group", stream, group, "" if start is None else start, max_attempts or "")

    def claim(self, stream: str, group: str, consumer: str, limit: int, lease_s: float) -> list[Claim]:
        fence, until, rows = self._run(
            "claim", stream, stream, group, consumer, limit, _microseconds(lease_s), CLAIM_LIMIT_BYTES
        )
        return [
            Claim(
                position, at / 1e6, _text(key), text,
                group=group, consumer=consumer, fence=fence, attempt=attempt, until=until / 1e6,
            )
            for position, at, text, key, attempt in rows
        ]  # fmt: skip

    def acknowledge(self, stream: str, group: str, claims: Sequence[tuple[Position, int]]) -> list[Position]:
        return [int(one) for one in self._run("acknowledge", stream, group, *_flat(claims), once=True)]

    def extend(self, stream: str, group: str, claims: Sequence[tuple[Position, int]], lease_s: float) -> list[Position]:
        return [int(one) for one in self._run("extend", stream, group, _microseconds(lease_s), *_flat(claims))]

    def release(
        self, stream: str, group: str, claims: Sequence[tuple[Position, int]], delay_s: float, error: str | None
    ) -> list[Position]:
        arguments = (stream, group, _microseconds(delay_s), error or "", *_flat(claims))
        return [int(one) for one in self._run("release", stream, *arguments, once=True)]

    def seek(self, stream: str, group: str, position: Position) -> None:
        self._run("seek", stream, group, min(position, _HIGHEST))

    def delete_group(self, stream: str, group: str) -> None:
        self._run("delete_group", stream, group)

    # --- what is kept ---

    def trim(self, stream: str, retention: Retention) -> int:
        removed = 0
        while more := int(self._run("trim", stream, orjson.dumps(retention), TRIMMED_AT_ONCE)):
            removed += more
        return removed

    def set_retention(self, stream: str, retention: Retention) -> None:
        self._run("set", stream, "retention", orjson.dumps(retention))

    def set_metadata(self, stream: str, metadata: Mapping[str, JsonValue]) -> None:
        self._run("set", stream, "metadata", orjson.dumps(dict(metadata)))

    def info(self, stream: str) -> StreamInfo:
        last, count, size, retention, metadata, groups = self._run("info", stream)
        return StreamInfo(
            stream,
            last - count + 1 if count else 0,
            last,
            count,
            size,
            tuple(sorted((GroupInfo(name.decode(), *rest) for name, *rest in groups), key=lambda one: one.name)),
            Retention(**orjson.loads(retention or b"{}")),
            orjson.loads(metadata or b"{}"),
        )

    def names(self) -> list[str]:
        def work() -> list[str]:
            found = self._client.scan_iter(match=f"{{{self._prefix}:*}}:*:meta", count=1000)
            return sorted({key.decode().rpartition("}:")[2].removesuffix(":meta") for key in found})

        return self._caller.call(work)

    def delete(self, stream: str) -> None:
        self._run("delete", stream)

    # --- calls ---

    def _base(self, stream: str) -> str:
        """Return the start of a stream's keys. Those of its dead-letter stream have the same hash tag."""
        root = stream
        while root.endswith(DEAD_SUFFIX):
            root = root.removesuffix(DEAD_SUFFIX)
        return f"{{{self._prefix}:{root}}}:{stream}"

    def _run(self, operation: str, stream: str, *arguments: Any, once: bool = False) -> Any:
        """Run an operation of the script; ``once``: a repetition of this call must not do it again."""
        request = secrets.token_hex(12) if once else ""
        base = self._base(stream)

        def work() -> Any:
            try:
                return self._client.evalsha(self._sha, 1, base, operation, request, *arguments)
            except redis.exceptions.NoScriptError:  # the server was started anew
                self._client.script_load(_SCRIPT)
                return self._client.evalsha(self._sha, 1, base, operation, request, *arguments)

        return self._caller.call(work)

    def _translated(self, error: Exception, waited_s: float) -> tuple[StorageFailed | StorageBusy, bool]:
        text = str(error)
        if isinstance(error, redis.exceptions.AuthenticationError | redis.exceptions.NoPermissionError):
            return StorageFailed(self.url, f"the server denies access: {text}"), False
        if isinstance(error, redis.exceptions.BusyLoadingError):
            return StorageFailed(self.url, "the server is still loading its data"), True
        if isinstance(error, redis.exceptions.OutOfMemoryError):
            return StorageFailed(self.url, f"the server's memory is full: {text}"), False
        if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError):
            return StorageFailed(self.url, f"no answer; whether the server did it is not known ({text})"), True
        if text.startswith("BUSY"):
            return StorageBusy(self.url, waited_s), True
        passing = isinstance(
            error, redis.exceptions.ReadOnlyError | redis.exceptions.ClusterError | redis.exceptions.TryAgainError
        )
        return StorageFailed(self.url, text), passing or text.startswith(_PASSING)


def _shown(url: str, prefix: str) -> str:
    """Return a server's address without user and password."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    option = f"?prefix={prefix}" if prefix != PREFIX else ""
    return f"{parts.scheme}://{place}{parts.path}{option}"


def _answer(value: Any) -> Any:
    """Return a command's answer; redis-py's types allow for its asynchronous client."""
    return value


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _microseconds(seconds: float) -> int:
    return max(0, round(1e6 * seconds))


def _flat(claims: Sequence[tuple[Position, int]]) -> list[int]:
    return [number for claim in claims for number in claim]
