"""Streams in a MongoDB database, version 5.0 or newer: many processes of many computers.

Nothing here needs transactions, so a single server will do. What must be atomic is a change of one document, made only
if that document is still what was read (*compare and set*):

- ``timbr_streams``: a stream, with its last position. Appending first inserts the entries without a position, where
  nobody sees them; then it moves the last position and names them as ``tail``: from that instant on they are
  appended, all of them. Whoever comes next, the writer itself as a rule, writes their positions and takes the
  tail off. So positions have no gaps and a key is looked for in all entries before, whoever ends in the middle.
- ``timbr_entries``: an entry each. Of one that was removed, its key stays.
- ``timbr_groups``: a group each, with what it holds.

Everything is written with the write concern *majority*, journaled. Times are the server's, asked for once a minute.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import orjson

from timbr_wamp.errors import InvalidArgument
from timbr_wamp.streams.backends.mongodb_log import MongoLog
from timbr_wamp.streams.backends.mongodb_server import Document, MongoServer
from timbr_wamp.streams.entries import (
    DEAD_SUFFIX,
    Claim,
    NewEntry,
    Position,
    Retention,
    StreamEntry,
    StreamInfo,
    dead_letter,
)
from timbr_wamp.streams.group_state import FREE, LEASE_ENDED, GroupState, Held
from timbr_wamp.values import JsonValue

T = TypeVar("T")

#: Most bytes of a message's JSON text: a document has 16 MB at most, and a dead letter says more than its message.
TEXT_LIMIT_BYTES = 15 * 1024 * 1024
#: Most entries that a group holds at once, and characters of an error that it keeps: it is one document.
HELD_LIMIT, ERROR_LIMIT = 5_000, 500
#: Bytes of texts that one claim gives.
CLAIM_LIMIT_BYTES = 64 * 1024 * 1024
#: Entries that one query fetches to be claimed again.
CLAIMED_AT_ONCE = 100
#: How often `MongoStreams.wait` looks for others' entries, seconds: at first, and at the longest.
POLL_S, LONGEST_POLL_S = 0.005, 0.25
#: Entries that one step of `trim` removes.
TRIMMED_AT_ONCE = 1_000


class MongoStreams:
    """See `timbr_wamp.streams.backend.StreamBackend`.

    Args:
        url: ``mongodb://user:password@host:port/database`` with MongoDB's options, or ``mongodb+srv://…``; and
            ``timeout_s``: a call ends after it (15).

    Raises:
        InvalidArgument: the URL is not valid.
        StorageFailed: the server is not there, or refuses.
    """

    def __init__(self, url: str) -> None:
        self._server = MongoServer(url)
        self._log = MongoLog(self._server)

    @property
    def url(self) -> str:
        return self._server.url

    def close(self) -> None:
        self._server.close()

    # --- appending and reading ---

    def append(self, stream: str, entries: Sequence[NewEntry]) -> list[Position]:
        longest = max((len(entry.text) for entry in entries), default=0)
        if longest > TEXT_LIMIT_BYTES:
            reason = f"its JSON text has {longest} bytes; at most {TEXT_LIMIT_BYTES} are kept in MongoDB"
            raise InvalidArgument("message", reason)
        return self._log.append(stream, entries)

    def read(self, stream: str, after: Position, limit: int, limit_bytes: int) -> list[StreamEntry]:
        state = self._log.settled(stream)
        return [] if state is None else self._log.page(state, after, limit, limit_bytes)

    def wait(self, stream: str, after: Position, timeout_s: float) -> bool:
        self._server.follow_fork()
        deadline = time.monotonic() + timeout_s
        pause_s = POLL_S
        while True:
            state = self._server.call(lambda: self._server.streams.find_one({"_id": stream}, {"last": 1}))
            if state is not None and state["last"] > after:
                return True
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            with self._server.appended:
                self._server.appended.wait(min(pause_s, left_s))
            pause_s = min(1.5 * pause_s, LONGEST_POLL_S)

    # --- groups ---

    def create_group(self, stream: str, group: str, start: Position | None, max_attempts: int | None) -> None:
        state = self._log.made(stream)
        following = state["last"] if start is None else min(start, state["last"])
        self._server.insert_new(self._server.groups, _group_document(state["g"], group, GroupState(following)))
        if max_attempts is not None:

            def change(state: Document, known: GroupState) -> None:
                known.max_attempts = max_attempts

            self._change(stream, group, change)

    def claim(self, stream: str, group: str, consumer: str, limit: int, lease_s: float) -> list[Claim]:
        def change(state: Document, known: GroupState) -> list[Claim]:
            now = self._server.now()
            fence = known.fence + 1
            claims = list[Claim]()

            def give(entry: StreamEntry, attempts: int) -> None:
                one = Held(entry.position, fence, consumer, now + lease_s, attempts)
                known.held[entry.position], known.fence = one, fence
                claims.append(one.claim(group, entry))

            due = known.due(now)
            while due and len(claims) < limit and sum(len(one.text) for one in claims) < CLAIM_LIMIT_BYTES:
                space = min(limit - len(claims), CLAIMED_AT_ONCE)
                some, due = due[:space], due[space:]
                entries = self._log.at(state, [one.position for one in some])
                for one in some:
                    entry = entries.get(one.position)
                    if entry is None:  # removed with its stream's other entries
                        del known.held[one.position]
                    elif one.attempts >= known.max_attempts:
                        self._bury(stream, group, known, one, entry, one.error or LEASE_ENDED)
                    else:
                        give(entry, one.attempts + 1)
            space = min(limit - len(claims), HELD_LIMIT - len(known.held))
            for entry in self._log.page(state, known.following, space, CLAIM_LIMIT_BYTES):
                known.following = entry.position
                give(entry, 1)
            return claims

        return self._change(stream, group, change)

    def _bury(
        self, stream: str, group: str, known: GroupState, one: Held, entry: StreamEntry, error: str | None
    ) -> None:
        """Move an entry of a group to the dead-letter stream; its key there makes a repetition harmless."""
        self._log.append(f"{stream}{DEAD_SUFFIX}", [dead_letter(one.claim(group, entry), stream, error)])
        del known.held[one.position]

    def acknowledge(self, stream: str, group: str, claims: Sequence[tuple[Position, int]]) -> list[Position]:
        def change(state: Document, known: GroupState) -> list[Position]:
            lost = known.invalid(claims, self._server.now())
            if not lost:
                for position, _ in claims:
                    known.held.pop(position, None)
            return lost

        return self._change(stream, group, change)

    def extend(self, stream: str, group: str, claims: Sequence[tuple[Position, int]], lease_s: float) -> list[Position]:
        def change(state: Document, known: GroupState) -> list[Position]:
            now = self._server.now()
            lost = known.invalid(claims, now)
            if not lost:
                for position, _ in claims:
                    known.held[position].until = now + lease_s
            return lost

        return self._change(stream, group, change)

    def release(
        self, stream: str, group: str, claims: Sequence[tuple[Position, int]], delay_s: float, error: str | None
    ) -> list[Position]:
        fault = error and error[:ERROR_LIMIT]

        def change(state: Document, known: GroupState) -> list[Position]:
            now = self._server.now()
            lost = known.invalid(claims, now)
            given = [known.held[position] for position, _ in claims if position not in lost]
            ended = [one for one in given if one.attempts >= known.max_attempts]
            entries = self._log.at(state, [one.position for one in ended]) if ended else {}
            for one in given:
                if one.position in entries:
                    self._bury(stream, group, known, one, entries[one.position], fault)
                else:
                    one.fence, one.until, one.error = FREE, now + delay_s, fault
            return sorted(lost)

        return self._change(stream, group, change)

    def seek(self, stream: str, group: str, position: Position) -> None:
        def change(state: Document, known: GroupState) -> None:
            known.held.clear()
            known.following = min(position, state["last"])

        self._change(stream, group, change)

    def delete_group(self, stream: str, group: str) -> None:
        state = self._log.settled(stream)
        if state is not None:
            self._server.call(lambda: self._server.groups.delete_one({"_id": f"{state['g']}:{group}"}))

    def _change(self, stream: str, group: str, change: Callable[[Document, GroupState], T]) -> T:
        """Change a group's state by ``change(stream's document, state)``, perhaps tried several times.

        A missing group is made, at the stream's beginning.
        """
        self._server.follow_fork()
        request = secrets.token_hex(8)
        results = list[T]()
        with self._server.locked(self._server.grouping):
            for _ in self._server.tries():
                state = self._log.made(stream)
                identity = f"{state['g']}:{group}"
                found = self._server.call(lambda identity=identity: self._server.groups.find_one({"_id": identity}))  # type: ignore[misc]
                if found is None:
                    self._server.insert_new(self._server.groups, _group_document(state["g"], group, GroupState()))
                    continue
                if results and found["by"] == request:
                    return results[-1]  # an answer was lost
                known = GroupState.parsed(found["state"])
                results.append(change(state, known))
                text = known.text()
                if text == found["state"]:
                    return results[-1]
                unchanged = {"_id": identity, "v": found["v"]}
                changed = {"$set": {"v": found["v"] + 1, "by": request, "state": text}}
                if self._server.call(lambda u=unchanged, c=changed: self._server.groups.update_one(u, c).matched_count):  # type: ignore[misc]
                    return results[-1]
        raise AssertionError("unreachable")

    # --- what is kept ---

    def trim(self, stream: str, retention: Retention) -> int:
        removed = 0
        while more := self._log.trim(stream, retention, TRIMMED_AT_ONCE):
            removed += more
        self._log.remove_orphans(stream)
        return removed

    def set_retention(self, stream: str, retention: Retention) -> None:
        self._log.set(stream, "retention", retention)

    def set_metadata(self, stream: str, metadata: Mapping[str, JsonValue]) -> None:
        self._log.set(stream, "metadata", dict(metadata))

    def info(self, stream: str) -> StreamInfo:
        state = self._log.settled(stream)
        if state is None:
            return StreamInfo(stream, 0, 0, 0, 0)
        first, last = state["first"], state["last"]
        count = last - first + 1
        return StreamInfo(
            stream,
            first if count else 0,
            last,
            count,
            state["bytes"],
            tuple(known.info(name, last, count) for name, known in self._log.group_states(state["g"]).items()),
            Retention(**orjson.loads(state["retention"])),
            orjson.loads(state["metadata"]),
        )

    def names(self) -> list[str]:
        self._server.follow_fork()
        return sorted(row["_id"] for row in self._server.call(lambda: list(self._server.streams.find({}, {"_id": 1}))))

    def delete(self, stream: str) -> None:
        state = self._log.settled(stream)
        if state is None:
            return
        generation = state["g"]
        self._server.call(lambda: self._server.streams.delete_one({"_id": stream, "g": generation}))
        self._server.call(lambda: self._server.entries.delete_many({"g": generation}))
        self._server.call(
            lambda: self._server.groups.delete_many({"_id": {"$gt": f"{generation}:", "$lt": f"{generation};"}})
        )


def _group_document(generation: str, group: str, known: GroupState) -> Document:
    return {"_id": f"{generation}:{group}", "v": 0, "by": "", "state": known.text()}
