"""The entries of streams in MongoDB, and the documents of streams: appending, reading, removing. See `mongodb`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
import pymongo
from pymongo import errors

from timbr_wamp.errors import StorageBusy, StorageClosed, StorageFailed
from timbr_wamp.streams.backends.mongodb_server import Document, MongoServer
from timbr_wamp.streams.entries import NewEntry, Position, Retention, StreamEntry
from timbr_wamp.streams.group_state import GroupState
from timbr_wamp.streams.sqlite_file import pages

#: Keys that one query looks for.
KEYS_AT_ONCE = 1_000
#: Entries that a writer inserted and never appended, since it ended, are removed after this time, seconds.
ORPHANED_S = 86_400.0
#: The retention of a new stream.
KEEP_ALL = "{}"


@dataclass(slots=True)
class _Batch:
    """Entries that are inserted and not appended yet."""

    id: str
    generation: str
    #: Their indexes among the entries of the call: those with a known key are left out.
    indexes: list[int]


class MongoLog:
    """Streams and their entries, in a database. A `Document` that it returns is that of a stream."""

    def __init__(self, server: MongoServer) -> None:
        self._server = server

    # --- appending ---

    def append(self, stream: str, entries: Sequence[NewEntry]) -> list[Position]:
        self._server.follow_fork()
        batch: _Batch | None = None
        with self._server.locked(self._server.appending):
            for _ in self._server.tries():
                state = self.made(stream)
                positions, fresh = self._known(state["g"], entries)
                if batch is not None and (batch.generation, batch.indexes) != (state["g"], fresh):
                    self._remove(batch)
                    batch = None
                if fresh and batch is None:
                    batch = self._insert(state["g"], entries, fresh)
                if batch is None:
                    break
                base = self._commit(state, batch, sum(len(entries[index].text) for index in fresh))
                if base:
                    positions |= {index: base + n for n, index in enumerate(fresh)}
                    self._after(stream, state, len(fresh))
                    break
        first = {entry.key: positions[index] for index, entry in enumerate(entries) if index in positions}
        return [positions.get(index, first.get(entry.key, 0)) for index, entry in enumerate(entries)]

    def _known(self, generation: str, entries: Sequence[NewEntry]) -> tuple[dict[int, Position], list[int]]:
        """Return the positions of the entries whose keys are known, by index, and the indexes of those to append."""
        keys = list({entry.key for entry in entries if entry.key is not None})
        found = dict[str, Position]()
        for start in range(0, len(keys), KEYS_AT_ONCE):
            wanted = {"g": generation, "k": {"$in": keys[start : start + KEYS_AT_ONCE]}, "p": {"$gt": 0}}
            rows = self._server.call(lambda wanted=wanted: list(self._server.entries.find(wanted, {"k": 1, "p": 1})))  # type: ignore[misc]
            found |= {row["k"]: row["p"] for row in rows}
        positions, fresh, seen = dict[int, Position](), list[int](), set[str]()
        for index, entry in enumerate(entries):
            if entry.key in found:
                positions[index] = found[entry.key]
            elif entry.key is None or entry.key not in seen:
                fresh.append(index)
                if entry.key is not None:
                    seen.add(entry.key)
        return positions, fresh

    def _insert(self, generation: str, entries: Sequence[NewEntry], indexes: list[int]) -> _Batch:
        """Insert entries that nobody sees yet."""
        batch, now = _Batch(secrets.token_hex(12), generation, indexes), self._server.now()
        documents = []
        for n, index in enumerate(indexes):
            entry = entries[index]
            document: Document = {
                "_id": _entry_id(batch.id, n), "b": batch.id, "g": generation, "p": 0, "at": now, "t": entry.text,
                "z": len(entry.text),
            }  # fmt: skip
            if entry.key is not None:
                document["k"] = entry.key
            documents.append(document)

        def work() -> None:
            try:
                self._server.entries.insert_many(documents, ordered=False)
            except errors.BulkWriteError as error:
                # Some are there already: an answer was lost.
                if any(one.get("code") != 11000 for one in error.details.get("writeErrors", ())):
                    raise

        self._server.call(work)
        return batch

    def _remove(self, batch: _Batch) -> None:
        self._server.call(lambda: self._server.entries.delete_many({"b": batch.id, "p": 0}))

    def _commit(self, state: Document, batch: _Batch, size: int) -> Position:
        """Append what was inserted; return the position of the first; 0: the stream has changed meanwhile."""
        base, count = state["last"] + 1, len(batch.indexes)
        unchanged = {"_id": state["_id"], "g": state["g"], "last": state["last"], "tail": None}
        tail = {"b": batch.id, "p": base, "n": count}
        change = {"$set": {"last": state["last"] + count, "tail": tail}, "$inc": {"bytes": size}}
        if self._server.call(lambda: self._server.streams.update_one(unchanged, change).matched_count):
            return int(base)
        # If an answer was lost, it was this very change that changed the stream.
        found = self._server.call(lambda: self._server.streams.find_one({"_id": state["_id"]}))
        if found is not None and found["tail"] is not None and found["tail"]["b"] == batch.id:
            return int(found["tail"]["p"])
        entry = self._server.call(lambda: self._server.entries.find_one({"_id": _entry_id(batch.id, 0)}, {"p": 1}))
        return int(entry["p"]) if entry else 0

    def _after(self, stream: str, state: Document, count: int) -> None:
        """Do what follows appending. Should it fail, the next one does it: the entries are appended already."""
        try:
            self.made(stream)
            if state["retention"] != KEEP_ALL:
                self.trim(stream, Retention(**orjson.loads(state["retention"])), 2 * count + 1)
        except (StorageFailed, StorageBusy, StorageClosed):
            pass
        with self._server.appended:
            self._server.appended.notify_all()

    # --- the document of a stream ---

    def settled(self, stream: str) -> Document | None:
        """Return a stream's document once all entries up to its last position have theirs; None: no such stream."""
        self._server.follow_fork()
        state = self._server.call(lambda: self._server.streams.find_one({"_id": stream}))
        if state is None or state["tail"] is None:
            return state
        tail = state["tail"]
        changes = [
            pymongo.UpdateOne({"_id": _entry_id(tail["b"], n)}, {"$set": {"p": tail["p"] + n}})
            for n in range(tail["n"])
        ]
        self._server.call(lambda: self._server.entries.bulk_write(changes, ordered=False))
        named = {"_id": stream, "g": state["g"], "tail.b": tail["b"]}
        self._server.call(lambda: self._server.streams.update_one(named, {"$set": {"tail": None}}))
        state["tail"] = None
        return state

    def made(self, stream: str) -> Document:
        """Return a stream's document as `_settled` does; a stream that is not there is made."""
        for _ in self._server.tries():
            state = self.settled(stream)
            if state is not None:
                return state
            document: Document = {
                "_id": stream, "g": secrets.token_hex(8), "last": 0, "first": 1, "swept": 1, "bytes": 0, "tail": None,
                "retention": KEEP_ALL, "metadata": "{}",
            }  # fmt: skip
            self._server.insert_new(self._server.streams, document)
        raise AssertionError("unreachable")

    def set(self, stream: str, name: str, value: object) -> None:
        self.made(stream)
        self._server.call(
            lambda: self._server.streams.update_one({"_id": stream}, {"$set": {name: orjson.dumps(value).decode()}})
        )

    # --- reading and removing ---

    def page(self, state: Document, after: Position, limit: int, limit_bytes: int) -> list[StreamEntry]:
        if limit <= 0 or after >= state["last"]:
            return []
        wanted = {"g": state["g"], "p": {"$gt": max(after, state["first"] - 1), "$lte": state["last"]}}

        def work() -> list[StreamEntry]:
            with self._server.entries.find(wanted).sort("p", 1).limit(limit) as cursor:
                rows = ((row["p"], row["at"], row.get("k"), row["t"]) for row in cursor if "t" in row)
                return [StreamEntry(*row) for row in pages(rows, limit_bytes, lambda row: len(row[3]))]

        return self._server.call(work)

    def at(self, state: Document, positions: list[Position]) -> dict[Position, StreamEntry]:
        wanted = {"g": state["g"], "p": {"$in": positions}}
        rows = self._server.call(lambda: list(self._server.entries.find(wanted)))
        return {row["p"]: StreamEntry(row["p"], row["at"], row.get("k"), row["t"]) for row in rows if "t" in row}

    def group_states(self, generation: str) -> dict[str, GroupState]:
        wanted = {"_id": {"$gt": f"{generation}:", "$lt": f"{generation};"}}
        rows = self._server.call(lambda: list(self._server.groups.find(wanted).sort("_id", 1)))
        return {row["_id"].partition(":")[2]: GroupState.parsed(row["state"]) for row in rows}

    def trim(self, stream: str, retention: Retention, limit: int) -> int:
        """Remove at most ``limit`` of the oldest entries; see `StreamBackend.trim`."""
        state = self.settled(stream)
        if state is None or retention == Retention():
            return 0
        first, count, size = state["first"], state["last"] - state["first"] + 1, state["bytes"]
        done = min((known.position for known in self.group_states(state["g"]).values()), default=state["last"])
        wanted = {"g": state["g"], "p": {"$gte": first, "$lte": min(done, first + limit - 1)}}
        rows = self._server.call(lambda: list(self._server.entries.find(wanted, {"at": 1, "z": 1}).sort("p", 1)))
        removed = freed = 0
        oldest = self._server.now() - (retention.age_s or 0.0)
        for row in rows:
            too_old = retention.age_s is not None and row["at"] < oldest
            too_many = retention.count is not None and count - removed > retention.count
            too_large = retention.size_bytes is not None and size - freed > retention.size_bytes
            if not (too_old or too_many or too_large):
                break
            removed, freed = removed + 1, freed + row["z"]
        if removed:
            unchanged = {"_id": stream, "g": state["g"], "first": first}
            change = {"$set": {"first": first + removed}, "$inc": {"bytes": -freed}}
            self._server.call(lambda: self._server.streams.update_one(unchanged, change))
            self._sweep(stream, state["g"])
        return removed

    def _sweep(self, stream: str, generation: str) -> None:
        """Remove the texts of entries that are below the first one; of those with a key, the rest stays."""
        state = self._server.call(lambda: self._server.streams.find_one({"_id": stream, "g": generation}))
        if state is None:
            return
        below = {"g": generation, "p": {"$gte": state["swept"], "$lt": state["first"]}}
        self._server.call(lambda: self._server.entries.delete_many(below | {"k": None}))
        self._server.call(lambda: self._server.entries.update_many(below, {"$unset": {"t": ""}}))
        self._server.call(
            lambda: self._server.streams.update_one(
                {"_id": stream, "g": generation, "swept": {"$lt": state["first"]}}, {"$set": {"swept": state["first"]}}
            )
        )

    def remove_orphans(self, stream: str) -> None:
        """Remove entries that nobody will append any more."""
        state = self.settled(stream)
        if state is not None:
            orphans = {"g": state["g"], "p": 0, "at": {"$lt": self._server.now() - ORPHANED_S}}
            self._server.call(lambda: self._server.entries.delete_many(orphans))


def _entry_id(batch: str, number: int) -> str:
    return f"{batch}:{number:06d}"
