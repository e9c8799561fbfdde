"""The one place where finished messages become numbered records: kept, published, accounted for."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

import orjson

from timbr_wamp.contract import ErrorRow
from timbr_wamp.errors import RecordNotFound, RunMismatch
from timbr_wamp.machine.ledger import Ledger
from timbr_wamp.machine.plan import SKIPPED
from timbr_wamp.machine.protocols import Clock, Entry, Finished, Journal, Row, Sink
from timbr_wamp.machine.rates import Rates
from timbr_wamp.machine.ring import ErrorRing, Failed, RecordRing
from timbr_wamp.machine.slots import Revision
from timbr_wamp.values import VALUE_LIMIT_BYTES, JsonValue

logger = logging.getLogger(__name__)

_dumps = orjson.dumps

#: So much of an errored message is kept as text beside its error, characters.
INPUT_PREVIEW = 2_000


class Recorder:
    """Numbers, keeps and publishes what was finished. Any thread; one commit at a time."""

    def __init__(
        self, *, run: str, ledger: Ledger, clock: Clock, journal: Journal | None, sinks: Sequence[Sink]
    ) -> None:
        self.run = run
        self.ring = RecordRing()
        self.errors = ErrorRing()
        self.rates = Rates(clock())
        self.last_oid: str | None = None
        self.last_processed_time: float | None = None
        #: Records made in this process.
        self.count = 0
        self.sink_failures = 0
        self._sinks: tuple[Sink, ...] = tuple(sinks)
        self._ledger, self._journal = ledger, journal
        self._position: JsonValue = None
        self._lock = threading.Lock()
        #: Finished and not committed yet, in order; taken out under the lock only.
        self._uncommitted: deque[Finished] = deque()
        #: Take a finished message, to be committed by `commit`. The thread that processes messages.
        self.finish = self._uncommitted.append

    @property
    def seen(self) -> int:
        """About how many finished messages were ever given to `finish`; a commit under way may hide some."""
        return self.count + len(self._uncommitted)

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
        """Take back what could not be committed: these messages are to run again."""
        with self._lock:
            unrecorded = [finished[0] for finished in self._uncommitted]
            self._uncommitted.clear()
            return unrecorded

    def commit(self) -> None:
        """Number, keep, publish and account for what is finished."""
        with self._lock:
            done = list(self._uncommitted)
            if not done:
                return
            rows, errored = self._numbered(done)
            if self._journal is not None:
                self._journal.commit(rows, self._position)
            for _ in done:
                self._uncommitted.popleft()
            self.ring.extend(rows)
            for sink in self._sinks:
                try:
                    sink.publish(rows)
                except Exception:  # a sink is foreign code: its failure costs nobody a record
                    self.sink_failures += 1
                    logger.exception("sink %r failed", sink)
            self.count += len(rows)
            self.last_oid, self.last_processed_time = rows[-1][1], done[-1][4]
            self.rates.note(done[-1][4], self.count)
            self._ledger.finish(len(rows) - errored, errored)  # last: who waits for it finds the rest done

    def _numbered(self, done: Sequence[Finished]) -> tuple[list[Row], int]:
        run, seq, errored = self.run, self.ring.last_seq, 0
        rows: list[Row] = []
        revision, seen = done[0][1], 0
        for entry, entry_revision, texts, failures, finished_at in done:
            seq += 1
            oid, _, received_at, attempt = entry
            if entry_revision is not revision:
                _note_seen(revision, seen)
                revision, seen = entry_revision, 0
            seen += 1
            failed = bool(failures)
            if failed:
                errored += 1
                self._note_failures(seq, (entry, entry_revision, texts, failures, finished_at))
            elif attempt > 1:
                self.errors.resolve(oid)
            if len(texts[0]) + len(texts[-1]) > VALUE_LIMIT_BYTES:  # before nine copies of it are joined
                text = _shortened(texts)
            else:
                text = b"[" + b",".join(texts) + b"]"
                if len(text) > VALUE_LIMIT_BYTES:
                    text = _shortened(texts)
            meta = {
                "run": run,
                "seq": seq,
                "attempt": attempt,
                "revision": entry_revision.number,
                "received_at": received_at,
                "finished_at": finished_at,
                "errored": failed,
            }
            rows.append((seq, oid, text, _dumps(meta)))
        _note_seen(revision, seen)
        return rows, errored

    def _note_failures(self, seq: int, finished: Finished) -> None:
        (oid, message, _, attempt), revision, texts, failures, finished_at = finished
        preview = texts[0][: INPUT_PREVIEW * 4].decode("utf-8", "replace")[:INPUT_PREVIEW]
        rows = []
        for slot, task, exc_class, exc_value, exc_tb in failures:
            tally = revision.slots[slot].tally
            if exc_class == SKIPPED and not exc_tb:
                tally.skipped += 1
                continue
            tally.errors += 1
            rows.append(
                ErrorRow(
                    run=self.run, seq=seq, oid=oid, attempt=attempt, revision=revision.number, time=finished_at,
                    slot=slot, task=task, exc_class=exc_class, exc_value=exc_value, exc_tb=exc_tb, input=preview,
                )
            )  # fmt: skip
        self.errors.add(Failed(rows, oid, message, attempt, size_bytes=len(texts[0])))


def _shortened(texts: Sequence[bytes]) -> bytes:
    """Return a record's text with each value over the limit replaced by its size."""
    part = VALUE_LIMIT_BYTES // (len(texts) + 1)
    kept = (text if len(text) <= part else _dumps({"__type__": "text", "__too_large__": len(text)}) for text in texts)
    return b"[" + b",".join(kept) + b"]"


def _note_seen(revision: Revision, count: int) -> None:
    for step in revision.steps:
        step.slot.tally.seen += count
