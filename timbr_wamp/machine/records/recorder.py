"""Makes numbered records of finished messages: commits, keeps, publishes and counts them.

A commit has three parts: rows are made, the journal takes them, and only then everything else follows from them:
the ring, failures and their groups, counts, sinks. So a commit that fails leaves no trace and is made again later.
"""

from __future__ import annotations

import logging
import threading
from _thread import RLock
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, chain, groupby, islice, repeat
from operator import concat, itemgetter

import msgspec
import orjson

from timbr_wamp.contract import ErrorRow, PolicyCounts
from timbr_wamp.errors import InvalidArgument, RecordNotFound, RunMismatch, SlotTimeout, UpstreamError, described
from timbr_wamp.machine.events.log import EventLog
from timbr_wamp.machine.forks import ForkedLock, short_lock, survive_forks
from timbr_wamp.machine.intake.message_queue import MessageQueue
from timbr_wamp.machine.interrupts import delivered
from timbr_wamp.machine.isolation import call_isolated, run_all
from timbr_wamp.machine.messages import MENDED, SKIPPED, Entry, Failure, Finished, Notes, Row
from timbr_wamp.machine.protocols import Clock, Commit, Journal, Sink
from timbr_wamp.machine.raw import opened
from timbr_wamp.machine.records.error_groups import ErrorGroups
from timbr_wamp.machine.records.failures import ERRORS_KEPT, ErrorRing, Failed
from timbr_wamp.machine.records.rates import Rates
from timbr_wamp.machine.records.ring import RecordRing
from timbr_wamp.machine.records.rows import (
    RECORD_LIMIT_BYTES,
    Block,
    CompactRow,
    Layout,
    WholeRows,
    block_of,
    layout_of,
    message_of,
    whole_row,
    within_limit,
)
from timbr_wamp.machine.slots.callables import is_async, method_of
from timbr_wamp.machine.slots.table import Revision
from timbr_wamp.values import JsonValue, text_of

logger = logging.getLogger(__name__)

_dumps = orjson.dumps
_REVISION = itemgetter(1)
_FINISHED, _NOT_ERRORED = b',"finished_at":', b',"errored":false}'

#: Characters of an errored message that are kept beside its error.
INPUT_PREVIEW = 2_000


@dataclass(slots=True)
class RecordBatch:
    """The messages of one commit."""

    done: list[Finished]
    blocks: list[Block]
    #: Of the messages that need more than their row: see `Recorder._settle`.
    eventful: list[tuple[Finished, Settlement]] = field(default_factory=list)
    #: Of the other messages, how many went through each revision.
    plain: list[tuple[Revision, int]] = field(default_factory=list)
    errored: int = 0
    dropped: int = 0
    #: Of the dropped ones, how many a policy dropped before any slot ran.
    dropped_before_running: int = 0


class Settlement(msgspec.Struct, kw_only=True, array_like=True):
    """What one attempt at a message means for failures; kept in the journal in the order of the records."""

    oid: str
    attempt: int
    errored: bool
    dropped: bool
    #: A pause or stop had kept the message.
    was_kept: bool
    rows: list[ErrorRow]
    size_bytes: int


class Counts(msgspec.Struct, kw_only=True):
    """Counts that go on after a restart."""

    processed: int = 0
    errored: int = 0
    dropped: int = 0
    ran: int = 0
    last_oid: str | None = None
    last_time: float | None = None


_encode = msgspec.json.Encoder().encode
_decode_settlement = msgspec.json.Decoder(Settlement).decode
_decode_counts = msgspec.json.Decoder(Counts).decode

#: So many of a journal's newest records, and bytes of them, are read when it is opened.
RESTORED_ROWS, RESTORED_BYTES = 1_000, 4 * 1024 * 1024
#: The journal gets the groups anew after so many failures: a restart replays the later ones only.
GROUPS_EVERY = 500
#: `Recorder.row_of` searches this many of the newest records: other threads may have committed some meanwhile.
NEAR_ROWS = 100


class Recorder:
    """Numbers, keeps and publishes what was finished. Any thread; one commit at a time.

    A commit runs in the thread that calls `commit`: the worker's, its watch thread's while a slot is slow, that of a
    source which drops, or of who steps. Handing each batch to one thread of its own was measured: see
    ``docs/explanation/decisions.md``.
    """

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
        self.ring = RecordRing(after_seq=0 if journal is None else journal.last_seq())
        self.errors = ErrorRing()
        self.groups = ErrorGroups(clock)
        self.policies = PolicyCounts()
        self.last_oid: str | None = None
        #: When the newest message that ran was finished; what is dropped before its first slot does not count.
        self.last_processed_time: float | None = None
        #: Number of records made in this process.
        self.count = 0
        #: Number of them whose messages ran through the slots: progress.
        self.ran = 0
        self._rates = Rates(clock())
        self._sinks: tuple[Sink, ...] = _checked_sinks(sinks)
        self._sinks_lock = short_lock()
        self._queue, self._journal, self._clock = queue, journal, clock
        self._events, self._hooks, self._current = events, events.hooks, current
        #: Where the source of an earlier process goes on, until it is taken.
        self._position: JsonValue = None
        #: Settlements so far, also before a restart: see `_notes`.
        self._settled = 0
        #: Held while sinks and hooks run; reentrant, as these may call the machine.
        self._lock: RLock | ForkedLock = threading.RLock()
        #: A commit is under way in the thread that holds the lock; another one was requested within it.
        self._committing = self._again = False
        #: Finished and not committed yet, in order; taken out under the lock only.
        self._uncommitted: deque[Finished] = deque()
        #: Takes a finished message for the next `commit`. Any thread.
        self.add_finished = self._uncommitted.append
        #: Messages that a pause or stop kept and that have no record yet.
        self._kept: set[str] = set()
        #: The newest revision's layout, see `layout_of`.
        self._layout: tuple[Revision | None, Layout, Callable[[Sequence[bytes]], tuple[bytes, ...]]]
        self._layout = (None, (), tuple)
        survive_forks(self)

    def after_fork_in_child(self) -> None:
        """Commit nothing: journal and sinks are the parent's, and so are the messages that a forking slot leaves."""
        self._lock = ForkedLock(self._events.name)

    @property
    def pending(self) -> bool:
        """Finished messages wait for a commit."""
        return bool(self._uncommitted)

    @property
    def has_journal(self) -> bool:
        """Records may be read from a journal: foreign code, which may be slow."""
        return self._journal is not None

    def rates_per_s(self) -> tuple[float, float, float]:
        """Return messages per second that ran, over the last 1, 10 and 60 s."""
        return self._rates.rates(self._clock(), self.ran)

    # --- reading ---

    def row(self, run: str, seq: int) -> CompactRow:
        """Return one kept row.

        Raises:
            RunMismatch, RecordNotFound: another run, or not kept.
        """
        self.check_run(run)
        row = self.ring.get(seq)
        if row is None and self._journal is not None and 0 < seq < self.ring.first_seq:
            row = next((found for found in self._journal_rows(seq - 1, 1) if found[0] == seq), None)
        if row is None:
            raise RecordNotFound(str(seq), self.ring.first_seq, self.ring.last_seq)
        return row

    def after(self, run: str, seq: int, limit: int, limit_bytes: int) -> tuple[int, int, list[CompactRow]]:
        """Return ``(first kept, last, rows)``: at most ``limit`` rows with a number above ``seq``, oldest first.

        Stops before ``limit_bytes`` of compact texts, but gives at least one row if there is any. What the ring has no
        longer comes from the journal.

        Raises:
            RunMismatch: another run.
        """
        self.check_run(run)
        first, last, rows = self.ring.after(seq, limit, limit_bytes)
        if self._journal is None or first <= 1:
            return first, last, rows
        if seq + 1 < first:
            rows = _within(self._journal_rows(seq, min(limit, first - 1 - seq)), limit_bytes)
        return self._journal.first_seq(), last, rows

    def newest(self, n: int) -> list[Row]:
        """Return the newest ``n`` rows of the ring, oldest of them first."""
        return [whole_row(row) for row in self.ring.newest(n)]

    def row_of(self, oid: str) -> Row | None:
        """Return the newest record of a message that was committed just now."""
        last = self.ring.last_seq
        rows = (self.ring.get(seq) for seq in range(last, max(last - NEAR_ROWS, 0), -1))
        return next((whole_row(row) for row in rows if row is not None and row[1] == oid), None)

    def check_run(self, run: str) -> None:
        """Raise RunMismatch unless ``run`` is the present run."""
        if run != self.run:
            raise RunMismatch(run, self.run)

    def _journal_rows(self, after_seq: int, limit: int) -> list[CompactRow]:
        assert self._journal is not None
        return self._journal.records(after_seq, limit)

    def find(self, oid: str) -> list[CompactRow]:
        """Return the kept records of a message, oldest first: one an attempt."""
        if self._journal is not None:
            return self._journal.find(oid)
        return self.ring.find({oid})

    def newest_of(self, oids: Sequence[str]) -> dict[str, CompactRow]:
        """Return the newest kept record of each message that has one."""
        if self._journal is None:
            return {row[1]: row for row in self.ring.find(set(oids))}
        found = {oid: self._journal.find(oid) for oid in oids}
        return {oid: rows[-1] for oid, rows in found.items() if rows}

    # --- what outlives the process ---

    def make_durable(self, entries: Sequence[Entry], *, sync: bool, position: JsonValue = None) -> None:
        """Keep messages before they are queued; see `timbr_wamp.machine.protocols.Journal.append`."""
        if self._journal is not None:
            self._journal.append(entries, sync=sync, position=position)

    def take_position(self) -> JsonValue:
        """Return, once, where the source of an earlier process goes on; see `Journal.position`."""
        position, self._position = self._position, None
        return position

    def finished(self, oid: str) -> Entry | None:
        """Return the entry of a message that is finished and waits for its commit; None: there is none."""
        return next((one[0] for one in tuple(self._uncommitted) if one[0][0] == oid), None)

    def was_put(self, oid: str) -> bool:
        """Tell whether the journal knows a message with this id."""
        return self._journal is not None and self._journal.knows(oid)

    def journal_works(self) -> bool:
        """Tell whether the journal takes something again that is as large as a commit."""
        if self._journal is None:
            return True
        try:
            self._journal.probe()
        except OSError:
            return False
        return True

    def restore(self) -> Counts:
        """Take failures and counts from the journal, as they were; return the counts."""
        journal = self._journal
        if journal is None:
            return Counts()
        self._position = journal.position()
        self.ring = restored_ring(journal)
        counted = 0
        for _, body in journal.notes("groups", 1):
            counted = self.groups.load(body)
        for number, body in journal.notes("failure", ERRORS_KEPT):
            self._settled = number
            one = _decode_settlement(body)
            self._settle(one, partial(self._message_of, one), count=number > counted)
        for _, body in journal.notes("counts", 1):
            counts = _decode_counts(body)
            self.last_oid, self.last_processed_time, self.ran = counts.last_oid, counts.last_time, counts.ran
            self._rates = Rates(self._clock(), self.ran)
            return counts
        return Counts()

    def _message_of(self, one: Settlement) -> object:
        """Return a failed message, parsed from its record's JSON text."""
        assert self._journal is not None
        for row in self._journal.records(one.rows[0].seq - 1, 1):
            if row[1] == one.oid:
                return message_of(row)
        raise RecordNotFound(str(one.rows[0].seq), self._journal.first_seq(), self._journal.last_seq())

    def _notes(self, batch: RecordBatch) -> list[tuple[str, int, bytes]]:
        """Return what the journal keeps beside a batch's records."""
        notes = [
            ("failure", self._settled + n, _encode(settlement)) for n, (_, settlement) in enumerate(batch.eventful, 1)
        ]
        if notes and self._settled // GROUPS_EVERY != (self._settled + len(notes)) // GROUPS_EVERY:
            notes.append(("groups", 0, self.groups.dump(self._settled)))
        now = self._queue.snapshot()
        errored, dropped, count = batch.errored, batch.dropped, len(batch.done)
        counts = Counts(
            processed=now.processed + count - errored - dropped, errored=now.errored + errored,
            dropped=now.dropped + dropped, ran=self.ran + count - batch.dropped_before_running,
            last_oid=batch.done[-1][0][0], last_time=batch.done[-1][4],
        )  # fmt: skip
        return [*notes, ("counts", 0, _encode(counts))]

    # --- input ---

    def replace_sinks(self, change: Callable[[tuple[Sink, ...]], tuple[Sink, ...]]) -> None:
        """Change the sinks, from the next commit on; one under way, whose sink may hang, is not waited for."""
        with self._sinks_lock:
            self._sinks = _checked_sinks(change(self._sinks))

    def withdraw(self) -> list[Entry]:
        """Remove and return messages whose commit failed: they run again.

        Drops by a source's policy, which another thread may add now, stay for the next commit.
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
        """Record entries in flight as dropped before any slot ran. Any thread."""
        revision = self._current()
        for entry in entries:
            text = opened(entry[1])[1]
            texts = [text] * (revision.lead + 1)
            for step in revision.steps:
                skipped = {"exc_class": SKIPPED, "exc_value": str(UpstreamError(step.slot.task, why)), "exc_tb": None}
                detail = text_of({"_exception": {**skipped, "task": step.slot.task}})
                texts += [detail] * (step.carry + 1)
            self.add_finished((entry, revision, texts, Notes([], "drop", why), self._clock()))
        try:
            self.commit()
        except OSError as error:
            if self._journal is None:
                raise
            # The next commit has them. The worker's own commits find out as well, and suspend the machine.
            logger.warning("%d dropped messages are recorded later: %s", len(entries), described(error))

    def record_kept(self, finished: Finished) -> None:
        """Record the failure of a message that a pause or stop keeps. The message itself has no record yet."""
        entry, revision, texts, notes, finished_at = finished
        assert isinstance(notes, Notes)
        with self._lock:
            self._kept.add(entry[0])
            self._count(revision, notes)
            rows = self._error_rows(0, entry, revision, texts, notes, finished_at)
            self.errors.add(Failed(rows, entry[0], None, entry[3], retrying=True))
            for row in rows:
                self.groups.add(row)
            self._report(rows)

    # --- committing ---

    def commit(self) -> None:
        """Number, keep, publish and account for what is finished.

        From a hook or sink, that is within a commit, it returns at once: another commit follows this one. A Ctrl-C
        while hooks and sinks run is raised when all is done.

        Raises:
            BaseException: what the journal raised; nothing is recorded, and all is committed later.
        """
        with self._lock:
            if self._committing:
                self._again = True
                return
            self._committing = True
            try:
                self._commit()
                while self._again:
                    self._again = False
                    self._commit()
            finally:
                self._committing = self._again = False

    def _commit(self) -> None:
        done = list(self._uncommitted)
        if not done:
            return
        batch = self._batch(done)
        rows = WholeRows(batch.blocks)
        if self._journal is not None:
            keys = [(entry[0], entry[3]) for entry, *_ in done]
            self._journal.commit(Commit(batch.blocks, keys, self._notes(batch)))
        popleft = iter(self._uncommitted.popleft, None)
        deque(islice(popleft, len(done)), maxlen=0)  # consumes them
        self.ring.extend(batch.blocks)
        # counts last: callers that wait for them find the rest done
        run_all((partial(self._apply, batch), *self._publications(rows), partial(self._account, batch)))

    def _batch(self, done: list[Finished]) -> RecordBatch:
        """Number finished messages and make their records. Changes nothing."""
        batch = RecordBatch(done, [])
        seq = self.ring.last_seq + 1
        for revision, same in groupby(done, _REVISION):
            several = list(same)
            entries, _, texts, notes, finished_at = zip(*several, strict=True)
            oids, _, received_at, attempts = zip(*entries, strict=True)
            layout, pick = self._layout_of(revision)
            if any(notes) or attempts.count(1) < len(several) or (self._kept and not self._kept.isdisjoint(oids)):
                metas = [self._meta(number, finished, batch) for number, finished in enumerate(several, seq)]
            else:
                metas = self._plain_metas(revision, seq, received_at, finished_at)
                batch.plain.append((revision, len(several)))
            made: Iterable[tuple[bytes, ...]] = map(pick, texts)
            parts = list(chain.from_iterable(map(concat, made, zip(metas, strict=True))))
            lengths = list(map(len, parts))
            if sum(lengths) > RECORD_LIMIT_BYTES:  # one of them may be too large
                made = (within_limit(pick(values)) for values in texts)
                parts = list(chain.from_iterable(map(concat, made, zip(metas, strict=True))))
                lengths = list(map(len, parts))
            batch.blocks.append(Block(seq, oids, parts, lengths, layout, metas, texts))
            seq += len(several)
        return batch

    def _plain_metas(
        self, revision: Revision, seq: int, received_at: Sequence[float], finished_at: Sequence[float]
    ) -> list[bytes]:
        """Return the texts that `_meta` makes of messages without notes, more quickly."""
        start = b'{"run":%b,"seq":' % _dumps(self.run)
        middle = b',"attempt":1,"revision":%d,"received_at":' % revision.number
        parts = zip(
            repeat(start), _number_texts(range(seq, seq + len(received_at))), repeat(middle),
            _number_texts(received_at), repeat(_FINISHED), _number_texts(finished_at), repeat(_NOT_ERRORED),
        )  # fmt: skip
        return list(map(b"".join, parts))

    def _meta(self, seq: int, finished: Finished, batch: RecordBatch) -> bytes:
        """Return a record's meta; note what else follows from it."""
        (oid, _, received_at, attempt), revision, _, notes, finished_at = finished
        meta: dict[str, object] = {
            "run": self.run,
            "seq": seq,
            "attempt": attempt,
            "revision": revision.number,
            "received_at": received_at,
            "finished_at": finished_at,
            "errored": False,
        }
        if notes:
            _describe(notes, meta, batch)
        else:
            batch.plain.append((revision, 1))
        if notes or attempt > 1 or oid in self._kept:
            batch.eventful.append((finished, self._settlement(seq, finished)))
        return _dumps(meta)

    def _layout_of(self, revision: Revision) -> tuple[Layout, Callable[[Sequence[bytes]], tuple[bytes, ...]]]:
        known, layout, made = self._layout
        if known is not revision:
            layout, made = layout_of(revision)
            self._layout = (revision, layout, made)
        return layout, made

    def _apply(self, batch: RecordBatch) -> None:
        """Count calls and settle failures: the side effects of a commit that succeeded."""
        for revision, count in batch.plain:
            for step in revision.steps:
                step.slot.tally.calls += count
        for finished, settlement in batch.eventful:
            if finished[3]:
                self._count(finished[1], finished[3])
            self._settle(settlement, partial(_itself, finished[0][1]))
            self._report(settlement.rows)
        self._settled += len(batch.eventful)
        self.count += len(batch.done)
        self.last_oid = batch.done[-1][0][0]
        ran = len(batch.done) - batch.dropped_before_running
        if ran:
            self.ran += ran
            self.last_processed_time = next(f[4] for f in reversed(batch.done) if not f[3] or f[3].why is None)
            self._rates.note(self.last_processed_time, self.ran)

    def _account(self, batch: RecordBatch) -> None:
        errored, dropped = batch.errored, batch.dropped
        self._queue.finish(len(batch.done) - errored - dropped, errored, dropped)

    def _publications(self, rows: Sequence[Row]) -> Iterable[Callable[[], object]]:
        """Return the calls of hooks and sinks, each of which a Ctrl-C may interrupt."""
        calls: list[Callable[[], object]] = []
        if self._hooks.at("pre_publish"):
            calls.append(partial(_interruptible, partial(self._hooks.call, "pre_publish", rows)))
        for sink in self._sinks:
            publish = partial(call_isolated, _publish, sink, rows, on_failure=partial(self._sink_failed, sink))
            calls.append(partial(_interruptible, publish))
        if self._hooks.at("post_publish"):
            calls.append(partial(_interruptible, partial(self._hooks.call, "post_publish", rows)))
        return calls

    def _sink_failed(self, sink: Sink, error: BaseException) -> None:
        self._events.failures.report(f"sink {type(sink).__qualname__}", error, "sink")

    # --- failures ---

    def _settlement(self, seq: int, finished: Finished) -> Settlement:
        """Return what a finished message means for failures, its own and those of earlier attempts."""
        entry, revision, texts, notes, finished_at = finished
        rows = self._error_rows(seq, entry, revision, texts, notes, finished_at) if notes else []
        return Settlement(
            oid=entry[0], attempt=entry[3], errored=bool(notes and notes.errored),
            dropped=bool(notes and notes.verdict == "drop"), was_kept=entry[0] in self._kept, rows=rows,
            size_bytes=len(texts[0]),
        )  # fmt: skip

    def _settle(self, one: Settlement, message: Callable[[], object], *, count: bool = True) -> None:
        """Record a message's failures, and that a later attempt succeeded or was dropped, which closes earlier ones.

        ``message`` returns it for a retry. ``count``: add the failures to their groups.
        """
        self._kept.discard(one.oid)
        if one.errored:
            self.errors.add(Failed(one.rows, one.oid, message, one.attempt, size_bytes=one.size_bytes))
        else:
            closes = one.attempt > 1 or one.was_kept
            if closes:
                self.errors.resolve(one.oid)
            if one.rows:  # shown, but not retryable
                self.errors.add(Failed(one.rows, one.oid, None, one.attempt, retrying=True))
            if count and closes:
                self.groups.resolve(one.oid)
        for row in one.rows if count else ():
            self.groups.add(row)
        if count and one.dropped:
            self.groups.resolve(one.oid)

    def _report(self, rows: Sequence[ErrorRow]) -> None:
        for row in rows:
            self._events.error(row)

    def _count(self, revision: Revision, notes: Notes) -> None:
        counts = self.policies
        counts.dead_letters += notes.verdict == "dead_letter"
        counts.pauses += notes.verdict == "pause"
        counts.stops += notes.verdict == "stop"
        calls = {step.slot.number: 1 if notes.why is None else 0 for step in revision.steps}
        for failure in notes.failures:
            tally = revision.slots[failure.slot].tally
            if failure.policy == "skip":
                tally.skipped += 1
                calls[failure.slot] = 0
                continue
            mended = failure.policy == "retry"
            retries = failure.tries if mended else failure.tries - 1
            timeouts = failure.tries if failure.exc_class == SlotTimeout.__name__ else 0
            calls[failure.slot] = retries + 1
            tally.retries += retries
            tally.timeouts += timeouts
            tally.mended += mended
            tally.defaults += failure.policy == "default"
            tally.errors += failure.policy not in MENDED
            counts.retries += retries
            counts.timeouts += timeouts
            counts.mended += mended
            counts.defaults += failure.policy == "default"
        for slot, count in calls.items():
            revision.slots[slot].tally.calls += count

    def _error_rows(
        self, seq: int, entry: Entry, revision: Revision, texts: Sequence[bytes], notes: Notes, finished_at: float
    ) -> list[ErrorRow]:
        preview = texts[0][: INPUT_PREVIEW * 4].decode("utf-8", "replace")[:INPUT_PREVIEW]
        return [
            ErrorRow(
                run=self.run, seq=seq, oid=entry[0], attempt=entry[3], revision=revision.number, time=finished_at,
                slot=failure.slot, task=failure.task, exc_class=failure.exc_class, exc_value=failure.exc_value,
                exc_tb=failure.exc_tb, input=preview, policy=failure.policy, tries=failure.tries, where=failure.where,
                resolved=failure.policy in MENDED or (notes.verdict == "drop" and failure.policy != "drop"),
            )
            for failure in notes.failures
            if failure.policy != "skip"
        ]  # fmt: skip


def restored_ring(journal: Journal) -> RecordRing:
    """Return a ring with the newest records of a journal, so that they are at hand as before."""
    last = journal.last_seq()
    rows = journal.records(max(last - RESTORED_ROWS, 0), RESTORED_ROWS)
    sizes = accumulate(len(row[2]) for row in reversed(rows))
    kept = sum(1 for size in sizes if size <= RESTORED_BYTES)
    rows = rows[len(rows) - kept :]
    ring = RecordRing(after_seq=rows[0][0] - 1 if rows else last)
    ring.extend([block_of(row) for row in rows])
    return ring


def _number_texts(numbers: Iterable[float]) -> list[bytes]:
    """Return the JSON texts of numbers, made in one go."""
    return _dumps([*numbers])[1:-1].split(b",")


def _itself(message: object) -> object:
    return message


def _publish(sink: Sink, rows: Sequence[Row]) -> None:
    sink.publish(rows)  # looked up here: it may be a property, which is the sink's own code


def _interruptible(call: Callable[[], object]) -> None:
    """Call foreign code so that a Ctrl-C interrupts it; one that was kept back until now is raised after the call."""
    started = False
    try:
        with delivered():
            started = True
            call()
    except BaseException:
        if not started:
            call()
        raise


def _checked_sinks(sinks: Sequence[Sink]) -> tuple[Sink, ...]:
    """Return sinks; raise InvalidArgument for one whose ``publish`` is missing or async."""
    for sink in sinks:
        if is_async(method_of(sink, "publish")):
            raise InvalidArgument("sinks", f"{type(sink).__qualname__}.publish is async: sinks are called, not awaited")
        if not callable(getattr(sink, "publish", None)):
            raise InvalidArgument("sinks", f"{type(sink).__qualname__} has no method publish(rows)")
    return tuple(sinks)


def _describe(notes: Notes, meta: dict[str, object], batch: RecordBatch) -> None:
    """Add to a record's ``meta`` what became of the message, and count it."""
    if notes.errored:
        meta["errored"] = True
        batch.errored += 1
    if notes.verdict == "drop":
        meta["dropped"] = True
        batch.dropped += 1
        batch.dropped_before_running += notes.why is not None
    if policies := policies_of(notes):
        meta["policies"] = policies


def _within(rows: Sequence[CompactRow], limit_bytes: int) -> list[CompactRow]:
    """Return the first rows that are within ``limit_bytes`` together, at least one."""
    size = 0
    for number, row in enumerate(rows):
        size += len(row[2])
        if number and size > limit_bytes:
            return list(islice(rows, number))
    return list(rows)


def policies_of(notes: Notes) -> dict[str, str]:
    """Return the policies of a record, by slot; failures that were only recorded are left out."""
    policies = {}
    for failure in notes.failures:
        if text := _policy_text(failure):
            policies[f"f{failure.slot}"] = text
    if notes.why is not None:
        policies["queue"] = notes.why
    return policies


def _policy_text(failure: Failure) -> str:
    if failure.policy == "retry":
        return f"retry {failure.tries}"
    parts = [f"retry {failure.tries - 1}"] if failure.tries > 1 else []
    if failure.policy not in ("record", "skip"):
        parts.append(failure.policy)
    return ", ".join(parts)
