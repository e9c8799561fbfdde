"""Retried errors and replays: messages put again under their ids, each as the next attempt."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from timbr_wamp.errors import (
    MachineClosed,
    MachineFull,
    PayloadTooLarge,
    RecordNotFound,
    StorageBusy,
    StorageFailed,
)
from timbr_wamp.machine.forks import short_lock
from timbr_wamp.machine.intake.message_queue import MessageQueue
from timbr_wamp.machine.messages import Entry
from timbr_wamp.machine.protocols import Clock
from timbr_wamp.machine.records.recorder import Recorder
from timbr_wamp.machine.records.rows import CompactRow, message_of
from timbr_wamp.names import checked_oid
from timbr_wamp.values import VALUE_LIMIT_BYTES

#: Replayed or retried messages whose last attempt is remembered.
ATTEMPTS_KEPT = 10_000


class Replay:
    """Puts kept messages again. Any thread; its methods are those of `timbr_wamp.machine.Machine`."""

    def __init__(self, queue: MessageQueue, recorder: Recorder, clock: Clock) -> None:
        self._queue, self._recorder, self._clock = queue, recorder, clock
        self._lock = short_lock()
        self._attempts: dict[str, int] = {}

    def retry(self, oids: Sequence[str] | None) -> list[str]:
        """Put unresolved errored messages again."""
        wanted = None if oids is None else {checked_oid(oid) for oid in oids}
        opened = self._recorder.errors.open(lambda oid: wanted is None or oid in wanted)
        for number, failed in enumerate(opened):
            try:
                assert failed.message is not None, "only such are opened"
                self._put(failed.oid, failed.message(), failed.attempt)
            except (MachineFull, MachineClosed, StorageFailed, StorageBusy, RecordNotFound):
                for other in opened[number:]:
                    self._recorder.errors.reopen(other)
                if number == 0:
                    raise
                return [done.oid for done in opened[:number]]
        return [failed.oid for failed in opened]

    def replay(self, run: str, seqs: Sequence[int]) -> list[str]:
        """Put kept messages again, parsed from their JSON texts."""
        rows = [self._recorder.row(run, seq) for seq in seqs]
        messages = [_message_to_replay(row) for row in rows]
        for number, (row, message) in enumerate(zip(rows, messages, strict=True)):
            try:
                self._put(row[1], message, orjson.loads(row[3])["attempt"])
            except (MachineFull, MachineClosed, StorageFailed, StorageBusy):
                if number == 0:
                    raise
                return [done[1] for done in rows[:number]]
        return [row[1] for row in rows]

    def _put(self, oid: str, message: object, attempt: int) -> None:
        with self._lock:
            known = self._attempts.get(oid)
            if known is None and self._recorder.has_journal:  # this process may not be the first
                known = max((orjson.loads(row[3])["attempt"] for row in self._recorder.find(oid)), default=0)
            number = max(known or 0, attempt) + 1
            entry: Entry = (oid, message, self._clock(), number)
            self._queue.put(entry)
            self._attempts.pop(oid, None)
            self._attempts[oid] = number
            while len(self._attempts) > ATTEMPTS_KEPT:
                del self._attempts[next(iter(self._attempts))]


def _message_to_replay(row: CompactRow) -> object:
    message = message_of(row)
    if isinstance(message, dict) and "__too_large__" in message:
        raise PayloadTooLarge(message["__too_large__"], VALUE_LIMIT_BYTES)
    return message
