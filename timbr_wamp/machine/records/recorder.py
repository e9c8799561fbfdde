"""The one place where finished messages become numbered records: kept, published, accounted for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import orjson

from timbr_wamp.contract import ErrorRow, PolicyCounts
from timbr_wamp.errors import RecordNotFound, RunMismatch, SlotTimeout, UpstreamError
from timbr_wamp.machine.events.log import EventLog
from timbr_wamp.machine.intake.message_queue import MessageQueue
from timbr_wamp.machine.isolation import call_isolated
from timbr_wamp.machine.messages import MENDED, SKIPPED, Entry, Failure, Finished, Notes, Row
from timbr_wamp.machine.protocols import Clock, Journal, Sink
from timbr_wamp.machine.records.error_groups import ErrorGroups
from timbr_wamp.machine.records.failures import ErrorRing, Failed
from timbr_wamp.machine.records.rates import Rates
from timbr_wamp.machine.records.ring import RecordRing
from timbr_wamp.machine.slots.table import Revision
from timbr_wamp.values import VALUE_LIMIT_BYTES, JsonValue, text_of

_dumps = orjson.dumps

#: So much of an errored message is kept as text beside its error, characters.
INPUT_PREVIEW = 2_000


class Recorder:
    """Numbers, keeps and publishes what was finished. Any thread; one commit at a time."""

    def __init__(
        self,
        *,
        run: str,
        queue: MessageQueue,
        clock: Clock,
        events: EventLog,
        current: Callable[[], Revision],
        journal: Journal | None,
        sinks: Sequence[Sink],
    ) -> None:
        self.run = run
        self.ring = RecordRing()
        self.errors = ErrorRing()
        self.groups = ErrorGroups(clock)
        self.policies = PolicyCounts()
        self.rates = Rates(clock())
        self.last_oid: str | None = None
        self.last_processed_time: float | None = None
        #: Records made in this process.
        self.count = 0
        self._sinks: tuple[Sink, ...] = tuple(sinks)
        self._queue, self._journal, self._clock = queue, journal, clock
        self._events, self._hooks, self._current = events, events.hooks, current
        self._position: JsonValue = None
        #: Held while sinks and hooks run, which may look at the machine from there.
        self._lock = threading.RLock()
        #: Finished and not committed yet, in order; taken out under the lock only.
        self._uncommitted: deque[Finished] = deque()
        #: Take a finished message, to be committed by `commit`. Any thread.
        self.finish = self._uncommitted.append
        #: Messages that a pause or stop kept, until they went well.
        self._kept: set[str] = set()

    @property
    def pending(self) -> bool:
        """Something is finished and not committed yet."""
        return bool(self._uncommitted)

    def row(self, run: str, seq: int) -> Row:
        """Return one kept row.

        Raises:
            RunMismatch, RecordNotFound: another numbering, or not kept.
        """
        self.check_run(run)
        row = self.ring.get(seq)
        if row is None:
            raise RecordNotFound(str(seq), self.ring.first_seq, self.ring.last_seq)
        return row

    def check_run(self, run: str) -> None:
        """Raise RunMismatch unless ``run`` is the present numbering."""
        if run != self.run:
            raise RunMismatch(run, self.run)

    def replace_sinks(self, change: Callable[[tuple[Sink, ...]], tuple[Sink, ...]]) -> None:
        """Change the sinks between two commits, so that none is used after it was taken away."""
        with self._lock:
            self._sinks = change(self._sinks)

    def withdraw(self) -> list[Entry]:
        """Take back what could not be committed: these messages are to run again.

        Not what a source's policy dropped, just now perhaps: whoever dropped it commits it.
        """
        unrecorded, uncommitted = list[Entry](), self._uncommitted
        with self._lock:
            for _ in range(len(uncommitted)):
                finished = uncommitted.popleft()
                notes = finished[3]
                if notes and notes.why is not None:
                    uncommitted.append(finished)
                else:
                    unrecorded.append(finished[0])
        return unrecorded

    def drop(self, entries: Sequence[Entry], why: str) -> None:
        """Record entries under way as dropped, without a slot having run. Any thread."""
        revision = self._current()
        for entry in entries:
            text = text_of(entry[1])
            texts = [text] * (revision.lead + 1)
            for step in revision.steps:
                skipped = {"exc_class": SKIPPED, "exc_value": str(UpstreamError(step.slot.task, why)), "exc_tb": None}
                detail = text_of({"_exception": {**skipped, "task": step.slot.task}})
                texts += [detail] * (step.carry + 1)
            self.finish((entry, revision, texts, Notes([], "drop", why), self._clock()))
        self.commit()

    def keep(self, finished: Finished) -> None:
        """Note the failure of a message that a pause or stop keeps: it makes no record yet."""
        with self._lock:
            entry, revision, texts, notes, finished_at = finished
            assert isinstance(notes, Notes)
            self._kept.add(entry[0])
            self._count(revision, notes)
            rows = self._error_rows(0, entry, revision, texts, notes, finished_at)
            self.errors.add(Failed(rows, entry[0], None, entry[3], retrying=True))
            self._told(rows)

    def commit(self) -> None:
        """Number, keep, publish and account for what is finished."""
        with self._lock:
            done = list(self._uncommitted)
            if not done:
                return
            rows, errored, dropped = self._numbered(done)
            if self._journal is not None:
                self._journal.commit(rows, self._position)
            for _ in done:
                self._uncommitted.popleft()
            self.ring.extend(rows)
            self._publish(rows)
            self.count += len(rows)
            self.last_oid, self.last_processed_time = rows[-1][1], done[-1][4]
            self.rates.note(done[-1][4], self.count)
            # last: who waits for it finds the rest done
            self._queue.finish(len(rows) - errored - dropped, errored, dropped)

    def _publish(self, rows: Sequence[Row]) -> None:
        """Give the rows to hooks and sinks, to all of them, whatever one raises."""
        self._hooks.call("pre_publish", rows)
        for sink in self._sinks:
            call_isolated(sink.publish, rows, on_failure=partial(self._sink_failed, sink))
        self._hooks.call("post_publish", rows)

    def _sink_failed(self, sink: Sink, error: BaseException) -> None:
        self._events.failures.report(f"sink {type(sink).__qualname__}", error, "sink")

    def _numbered(self, done: Sequence[Finished]) -> tuple[list[Row], int, int]:
        run, seq, errored, dropped = self.run, self.ring.last_seq, 0, 0
        rows: list[Row] = []
        revision, seen = done[0][1], 0
        for finished in done:
            entry, entry_revision, texts, notes, finished_at = finished
            seq += 1
            oid, _, received_at, attempt = entry
            if entry_revision is not revision:
                _note_seen(revision, seen)
                revision, seen = entry_revision, 0
            seen += 1
            if len(texts[0]) + len(texts[-1]) > VALUE_LIMIT_BYTES:  # before nine copies of it are joined
                text = _shortened(texts)
            else:
                text = b"[" + b",".join(texts) + b"]"
                if len(text) > VALUE_LIMIT_BYTES:
                    text = _shortened(texts)
            meta: dict[str, object] = {
                "run": run,
                "seq": seq,
                "attempt": attempt,
                "revision": entry_revision.number,
                "received_at": received_at,
                "finished_at": finished_at,
                "errored": False,
            }
            if notes:
                self._note(seq, finished, meta)
                errored += bool(meta["errored"])
                dropped += "dropped" in meta
            elif attempt > 1 or self._kept:
                self._went_well(oid)
            rows.append((seq, oid, text, _dumps(meta)))
        _note_seen(revision, seen)
        return rows, errored, dropped

    # --- what happened on the way ---

    def _went_well(self, oid: str) -> None:
        self._kept.discard(oid)
        self.errors.resolve(oid)
        self.groups.resolve(oid)

    def _note(self, seq: int, finished: Finished, meta: dict[str, object]) -> None:
        """Tell of a message's failures, and in ``meta`` what policies did to it."""
        entry, revision, texts, notes, finished_at = finished
        assert isinstance(notes, Notes)
        meta["errored"] = notes.errored
        if notes.verdict == "drop":
            meta["dropped"] = True
        if told := told_policies(notes):
            meta["policies"] = told
        self._count(revision, notes)
        rows = self._error_rows(seq, entry, revision, texts, notes, finished_at)
        if notes.errored:
            self._kept.discard(entry[0])
            self.errors.add(Failed(rows, entry[0], entry[1], entry[3], size_bytes=len(texts[0])))
        else:
            if rows:  # to be seen, not to be retried
                self.errors.add(Failed(rows, entry[0], None, entry[3], retrying=True))
            if notes.verdict != "drop" and (entry[3] > 1 or entry[0] in self._kept):
                self._went_well(entry[0])
        self._told(rows)

    def _told(self, rows: Sequence[ErrorRow]) -> None:
        for row in rows:
            self.groups.add(row)
            self._events.error(row)

    def _count(self, revision: Revision, notes: Notes) -> None:
        counts = self.policies
        counts.dead_letters += notes.verdict == "dead_letter"
        counts.pauses += notes.verdict == "pause"
        counts.stops += notes.verdict == "stop"
        for failure in notes.failures:
            tally = revision.slots[failure.slot].tally
            if failure.policy == "skip":
                tally.skipped += 1
                continue
            mended = failure.policy == "retry"
            retries = failure.tries if mended else failure.tries - 1
            timeouts = failure.tries if failure.exc_class == SlotTimeout.__name__ else 0
            tally.retries += retries
            tally.timeouts += timeouts
            tally.mended += mended
            tally.defaults += failure.policy == "default"
            tally.errors += failure.policy not in MENDED
            counts.retries += retries
            counts.timeouts += timeouts
            counts.mended += mended
            counts.defaults += failure.policy == "default"

    def _error_rows(
        self, seq: int, entry: Entry, revision: Revision, texts: Sequence[bytes], notes: Notes, finished_at: float
    ) -> list[ErrorRow]:
        preview = texts[0][: INPUT_PREVIEW * 4].decode("utf-8", "replace")[:INPUT_PREVIEW]
        return [
            ErrorRow(
                run=self.run, seq=seq, oid=entry[0], attempt=entry[3], revision=revision.number, time=finished_at,
                slot=failure.slot, task=failure.task, exc_class=failure.exc_class, exc_value=failure.exc_value,
                exc_tb=failure.exc_tb, input=preview, resolved=failure.policy in MENDED, policy=failure.policy,
                tries=failure.tries, where=failure.where,
            )
            for failure in notes.failures
            if failure.policy != "skip"
        ]  # fmt: skip


def told_policies(notes: Notes) -> dict[str, str]:
    """Return what a record says of policies; nothing of a failure that was just recorded."""
    told = {}
    for failure in notes.failures:
        if text := _told_policy(failure):
            told[f"f{failure.slot}"] = text
    if notes.why is not None:
        told["queue"] = notes.why
    return told


def _told_policy(failure: Failure) -> str:
    if failure.policy == "retry":
        return f"retry {failure.tries}"
    words = [f"retry {failure.tries - 1}"] if failure.tries > 1 else []
    if failure.policy not in ("record", "skip"):
        words.append(failure.policy)
    return ", ".join(words)


def _shortened(texts: Sequence[bytes]) -> bytes:
    """Return a record's text with each value over the limit replaced by its size."""
    part = VALUE_LIMIT_BYTES // (len(texts) + 1)
    kept = (text if len(text) <= part else _dumps({"__type__": "text", "__too_large__": len(text)}) for text in texts)
    return b"[" + b",".join(kept) + b"]"


def _note_seen(revision: Revision, count: int) -> None:
    for step in revision.steps:
        step.slot.tally.seen += count
