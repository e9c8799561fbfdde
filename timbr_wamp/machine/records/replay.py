"""Messages put once more under their ids, each as the next attempt: retried errors and replays."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import orjson

from timbr_wamp.errors import MachineClosed, MachineFull, PayloadTooLarge
from timbr_wamp.machine.intake.message_queue import MessageQueue
from timbr_wamp.machine.messages import Entry
from timbr_wamp.machine.protocols import Clock
from timbr_wamp.machine.records.recorder import Recorder
from timbr_wamp.machine.records.rows import CompactRow, message_of
from timbr_wamp.names import checked_oid
from timbr_wamp.values import VALUE_LIMIT_BYTES

#: Attempts of this many replayed or retried messages are remembered.
ATTEMPTS_KEPT = 10_000


class Replay:
    """Puts kept messages again. Any thread; `timbr_wamp.machine.Machine` tells what its methods mean."""

    def __init__(self, ledger: MessageQueue, recorder: Recorder, clock: Clock) -> None:
        self._ledger, self._recorder, self._clock = ledger, recorder, clock
        self._lock = threading.RLock()
        self._attempts: dict[str, int] = {}

    def retry(self, oids: Sequence[str] | None) -> list[str]:
        """Put unresolved errored messages again."""
        wanted = None if oids is None else {checked_oid(oid) for oid in oids}
        opened = self._recorder.errors.open(lambda oid: wanted is None or oid in wanted)
        for number, failed in enumerate(opened):
            try:
                self._put(failed.oid, failed.message, failed.attempt)
            except (MachineFull, MachineClosed):
                for other in opened[number:]:
                    self._recorder.errors.reopen(other)
                if number == 0:
                    raise
                return [done.oid for done in opened[:number]]
        return [failed.oid for failed in opened]

    def replay(self, run: str, seqs: Sequence[int]) -> list[str]:
        """Put kept messages again, as their JSON texts tell them."""
        rows = [self._recorder.row(run, seq) for seq in seqs]
        messages = [_message_to_replay(row) for row in rows]
        for number, (row, message) in enumerate(zip(rows, messages, strict=True)):
            try:
                self._put(row[1], message, orjson.loads(row[3])["attempt"])
            except (MachineFull, MachineClosed):
                if number == 0:
                    raise
                return [done[1] for done in rows[:number]]
        return [row[1] for row in rows]

    def _put(self, oid: str, message: object, attempt: int) -> None:
        with self._lock:
            number = max(self._attempts.get(oid, 0), attempt) + 1
            entry: Entry = (oid, message, self._clock(), number)
            self._ledger.put(entry)
            self._attempts.pop(oid, None)
            self._attempts[oid] = number
            while len(self._attempts) > ATTEMPTS_KEPT:
                del self._attempts[next(iter(self._attempts))]


def _message_to_replay(row: CompactRow) -> object:
    message = message_of(row)
    if isinstance(message, dict) and "__too_large__" in message:
        raise PayloadTooLarge(message["__too_large__"], VALUE_LIMIT_BYTES)
    return message
