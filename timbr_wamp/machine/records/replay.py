"""Retried errors and replays: messages put again under their ids, each as the next attempt."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from timbr_wamp.contract import ReplayProgress
from timbr_wamp.errors import (
    CanaryFailed,
    MachineClosed,
    MachineFull,
    PayloadTooLarge,
    RecordNotFound,
    StorageBusy,
    StorageFailed,
    WrongState,
    class_and_text,
    counted,
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
#: Canaries are looked at this often, seconds.
LOOK_S = 0.02
#: Progress is told once for so many messages.
PROGRESS_EVERY = 100
#: A wait for room looks this often whether the call was cancelled, seconds.
ROOM_S = 0.1

#: Why a message could not be put: later ones are not tried.
_REFUSED = (MachineFull, MachineClosed, StorageFailed, StorageBusy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How a call puts many messages."""

    #: Most seconds to wait for room in the queue, in all.
    room_s: float = 0.0
    #: Called with how far it is.
    progress: Callable[[ReplayProgress], object] = lambda _: None
    #: Raises when the call was cancelled or interrupted; the rest is then left as it is.
    check: Callable[[], object] = lambda: None


#: One message that is to be put again: its id, what returns it, and its last attempt.
_Again = tuple[str, Callable[[], object], int]


class Replay:
    """Puts kept messages again. Any thread; its methods are those of `timbr_wamp.machine.Machine`.

    Args:
        state: returns the machine's state.
        alive: tells whether the machine processes messages.
    """

    def __init__(
        self,
        queue: MessageQueue,
        recorder: Recorder,
        clock: Clock,
        *,
        state: Callable[[], str],
        alive: Callable[[], bool],
    ) -> None:
        self._queue, self._recorder, self._clock, self._state, self._alive = queue, recorder, clock, state, alive
        self._lock = short_lock()
        self._attempts: dict[str, int] = {}

    def restore(self, pending: Sequence[Entry]) -> None:
        """Note which messages of an earlier process wait for a further attempt. Before any other call."""
        for oid, _, _, attempt in pending:
            if attempt > 1:
                self._attempts[oid] = max(attempt, self._attempts.get(oid, 0))
                self._recorder.errors.open_one(oid)

    def retry(
        self, oids: Sequence[str] | None, *, canary: int = 0, canary_s: float = 60.0, patience: Patience | None = None
    ) -> list[str]:
        """Put unresolved errored messages again: of ``oids``, or all. With ``canary`` the first few have to pass."""
        patience = patience or Patience()
        wanted = None if oids is None else [checked_oid(oid) for oid in oids]
        again = self._retriable(wanted)
        if not canary or not again:
            return self._put_all(again, patience, retry=True)
        if not self._alive():
            raise WrongState("retry with canaries", self._state(), "running")
        first = self._put_all(again[:canary], patience, retry=True)
        rest = again[canary:]
        if len(first) < len(again[:canary]):
            rest = again[len(first) :]
        self._await_canaries(first, len(rest), time.monotonic() + canary_s, patience)
        return [*first, *self._put_all(rest, patience, retry=True, before=len(first))]

    def replay(self, rows: Sequence[CompactRow], patience: Patience | None = None) -> list[str]:
        """Put the messages of kept records again, parsed from their JSON texts."""
        several: list[_Again] = []
        for row in rows:
            message = _message_to_replay(row)
            several.append((row[1], lambda message=message: message, orjson.loads(row[3])["attempt"]))  # type: ignore[misc]
        return self._put_all(several, patience or Patience())

    def _retriable(self, wanted: Sequence[str] | None) -> list[_Again]:
        """Return the messages that can be retried now; of ``wanted`` those that left the ring by their records."""
        errors = self._recorder.errors
        chosen = None if wanted is None else set(wanted)
        found: dict[str, _Again] = {}
        for failed in errors.unresolved():
            if failed.message is not None and (chosen is None or failed.oid in chosen):
                found[failed.oid] = (failed.oid, failed.message, failed.attempt)
        left = [oid for oid in wanted or () if oid not in found and errors.newest_of(oid) is None]
        open_oids = set(self._recorder.groups.open_oids(lambda *_: True)) if left else set()
        for oid, row in self._recorder.newest_of([oid for oid in left if oid in open_oids]).items():
            found[oid] = (oid, lambda row=row: _message_to_replay(row), orjson.loads(row[3])["attempt"])  # type: ignore[misc]
        return list(found.values())

    def _put_all(
        self, several: Sequence[_Again], patience: Patience, *, retry: bool = False, before: int = 0
    ) -> list[str]:
        """Put messages in order, as long as there is room; raise what the first one meets."""
        done: list[str] = []
        deadline = time.monotonic() + patience.room_s
        for number, one in enumerate(several):
            patience.check()
            if number and number % PROGRESS_EVERY == 0:
                patience.progress(ReplayProgress(phase="put", done=before + number, total=before + len(several)))
            try:
                if self._put_when_possible(one, deadline, patience, retry=retry):
                    done.append(one[0])
            except (*_REFUSED, RecordNotFound):
                if not done and not before:
                    raise
                return done
        if len(several) > PROGRESS_EVERY:
            total = before + len(several)
            patience.progress(ReplayProgress(phase="put", done=total, total=total))
        return done

    def _put_when_possible(self, one: _Again, deadline: float, patience: Patience, *, retry: bool) -> bool:
        """Put a message, waiting for room until the deadline; False: somebody else has retried it meanwhile."""
        oid, message, attempt = one
        errors = self._recorder.errors
        marked = errors.open_one(oid)  # a replay is a retry, too
        if retry and marked is None and errors.newest_of(oid) is not None:
            return False
        try:
            while (left_s := deadline - time.monotonic()) > 0 and not self._queue.wait_room(min(left_s, ROOM_S)):
                patience.check()
            self._put(oid, message(), attempt)
        except BaseException:
            if marked is not None:
                errors.reopen(marked)
            raise
        return True

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

    # --- canaries ---

    def _await_canaries(self, oids: Sequence[str], left: int, deadline: float, patience: Patience) -> None:
        """Wait until all canaries have passed.

        Raises:
            CanaryFailed: one of them failed, or they were not finished in time.
        """
        waiting = {oid: self._attempts.get(oid, 0) for oid in oids}
        total = len(waiting)
        while waiting:
            patience.check()
            for oid, attempt in list(waiting.items()):
                failed = self._recorder.errors.newest_of(oid)
                if failed is None or all(row.resolved for row in failed.rows):
                    meta = self._meta_of(oid, attempt)
                    if meta is not None and (meta["errored"] or meta.get("dropped")):
                        raise CanaryFailed(oids, left, f"{oid} failed again, or was dropped")
                    if meta is not None:
                        del waiting[oid]
                elif failed.attempt >= attempt:
                    row = next(row for row in failed.rows if not row.resolved)
                    what = f"{oid} failed again in {row.task}: {class_and_text(row.exc_class, row.exc_value)}"
                    raise CanaryFailed(oids, left, what)
            patience.progress(ReplayProgress(phase="canary", done=total - len(waiting), total=total))
            if not waiting:
                return
            if not self._alive():
                raise CanaryFailed(oids, left, f"the machine is {self._state()} before they were finished")
            if time.monotonic() >= deadline:
                raise CanaryFailed(oids, left, f"{counted(len(waiting), 'message')} not finished in time")
            self._queue.wait_change(LOOK_S)

    def _meta_of(self, oid: str, attempt: int) -> dict[str, Any] | None:
        """Return what the record of an attempt says; None: it has none yet."""
        metas = map(orjson.loads, (row[3] for row in self._recorder.find(oid)))
        return next((meta for meta in metas if meta["attempt"] >= attempt), None)


def _message_to_replay(row: CompactRow) -> object:
    message = message_of(row)
    if isinstance(message, dict) and "__too_large__" in message:
        raise PayloadTooLarge(message["__too_large__"], VALUE_LIMIT_BYTES)
    return message
