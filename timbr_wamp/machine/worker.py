"""The machine's worker: its state, its thread, and the one place where records are numbered.

The thread takes entries from the ledger in micro-batches, runs them through the executor and
commits them: number, keep, publish, account. A second thread commits what is finished while a
later message of the micro-batch takes long. `step` processes one message in the caller's thread.
States and verbs: DESIGN.md, section 5.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

import orjson

from timbr_wamp.contract import ErrorRow, MachineStateName
from timbr_wamp.errors import CallTimeout, MachineClosed, MachineRunning, WrongState
from timbr_wamp.machine.events import EventLog
from timbr_wamp.machine.ledger import Ledger
from timbr_wamp.machine.plan import SKIPPED
from timbr_wamp.machine.protocols import Clock, Entry, Executor, Finished, Journal, Row, Sink
from timbr_wamp.machine.rates import Rates
from timbr_wamp.machine.ring import ErrorRing, Failed, RecordRing
from timbr_wamp.machine.slots import Revision
from timbr_wamp.values import VALUE_LIMIT_BYTES, JsonValue, clean_text

logger = logging.getLogger(__name__)

_dumps = orjson.dumps

#: A micro-batch: at most so many messages, committed at least so often while slots are slow.
BATCH_MESSAGES, BATCH_S = 64, 0.005
#: An idle worker looks around so often.
IDLE_S = 1.0
#: While a slot takes long, what was finished before it in its micro-batch is committed after so long.
LATE_S = 0.02
#: A step waits at most so long for a message that is under way still.
STEP_LIMIT_S = 5.0
#: So much of an errored message is kept as text beside its error, characters.
INPUT_PREVIEW = 2_000

ACTIVE: frozenset[MachineStateName] = frozenset({"running", "draining"})


class Worker:
    """State, thread and commits of one machine. Verbs: any thread."""

    def __init__(
        self,
        *,
        name: str,
        run: str,
        ledger: Ledger,
        executor: Executor,
        current: Callable[[], Revision],
        events: EventLog,
        clock: Clock,
        journal: Journal | None,
        sinks: Sequence[Sink],
        refill: Callable[[], None],
        on_idle: Callable[[], None],
    ) -> None:
        self.name, self.run = name, run
        self.ring = RecordRing()
        self.errors = ErrorRing()
        self.rates = Rates(clock())
        self.last_oid: str | None = None
        self.last_processed_time: float | None = None
        self.sink_failures = 0
        self.sinks: tuple[Sink, ...] = tuple(sinks)
        self._ledger, self._executor, self._current = ledger, executor, current
        self._events, self._clock, self._journal = events, clock, journal
        self._refill, self._on_idle = refill, on_idle
        self._position: JsonValue = None
        self._finished = 0
        self._lock = threading.Condition()
        self._state: MachineStateName = "idle"
        self._reason: str | None = None
        self._thread: threading.Thread | None = None
        self._work = threading.Lock()
        self._commit_lock = threading.Lock()
        self._batch: Sequence[Entry] = ()
        self._done = 0
        #: Finished and not committed yet, in order; taken out under the commit lock only.
        self._uncommitted: deque[Finished] = deque()
        self._busy = threading.Event()

    # --- state ---

    @property
    def state(self) -> MachineStateName:
        """Where it is; ``stopped`` and ``failed`` may have a `reason`."""
        return self._state

    @property
    def reason(self) -> str | None:
        """Why it stopped or failed by itself."""
        return self._reason

    @property
    def running(self) -> bool:
        """It is to process messages, and the thread that does so lives."""
        thread = self._thread
        return self._state in ACTIVE and thread is not None and thread.is_alive()

    @property
    def current_oid(self) -> str | None:
        """The message under way."""
        batch, done = self._batch, self._done
        return batch[done][0] if done < len(batch) else None

    @property
    def finished(self) -> int:
        """Records made in this process."""
        return self._finished

    # --- verbs ---

    def start(self, author: str | None = None) -> None:
        """Process messages from now on.

        Raises:
            WrongState: it drains; wait for it, or stop it.
            MachineClosed: the machine was closed.
        """
        with self._lock:
            if self._ledger.closed:
                raise MachineClosed(self.name)
            if self._state == "draining":
                raise WrongState("start", self._state, "idle, paused, stopped or failed")
            if self.running:
                return
            kind = "resumed" if self._state == "paused" else "started"
            self._state, self._reason = "running", None
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=f"timbr {self.name}", daemon=True)
                self._thread.start()
            self._lock.notify_all()
        self._events.add(kind, author)

    def pause(self, author: str | None = None) -> None:
        """Begin no further message.

        Raises:
            WrongState: it does not run.
        """
        with self._lock:
            if self._state == "paused":
                return
            if self._state != "running":
                raise WrongState("pause", self._state, "running")
            self._state = "paused"
            self._lock.notify_all()
        self._ledger.wake()
        self._events.add("paused", author)

    def resume(self, author: str | None = None) -> None:
        """Go on after a pause.

        Raises:
            WrongState: it is not paused.
        """
        if self._state not in ("paused", "running"):
            raise WrongState("resume", self._state, "paused")
        self.start(author)

    def stop(self, *, drain: bool, timeout_s: float, author: str | None = None) -> None:
        """Stop; with ``drain`` finish what waits first. What waits otherwise stays queued.

        Raises:
            CallTimeout: after ``timeout_s`` a message is still under way (it will be recorded), or
                with ``drain`` messages still wait; it stops then without them.
        """
        with self._lock:
            was = self._state
            thread = self._thread
            if was in ("stopped", "idle", "failed") and (thread is None or not thread.is_alive()):
                self._state = "stopped"
                return
            target: MachineStateName = "draining" if drain and was == "running" else "stopped"
            self._state = target
            self._lock.notify_all()
        self._ledger.wake()
        ended = thread is threading.current_thread() or self._wait_ended(thread, target, timeout_s)
        if not ended:
            self._set_stopped()
            self._ledger.wake()
        if was != "stopped":
            self._events.add("stopped", author, under_way=self.current_oid)
        if not ended:
            raise CallTimeout("stopping the message under way", timeout_s)

    def _wait_ended(self, thread: threading.Thread | None, target: MachineStateName, timeout_s: float) -> bool:
        """Wait until the thread processes nothing more, or somebody else's verb takes the machine elsewhere."""

        def ended() -> bool:
            dead = thread is None or not thread.is_alive()
            return dead or self._thread is not thread or self._state not in (target, "stopped")

        with self._lock:
            return self._lock.wait_for(ended, timeout_s)

    def _set_stopped(self) -> None:
        with self._lock:
            self._state = "stopped"
            self._lock.notify_all()

    def close(self, timeout_s: float) -> None:
        """Stop for good. Bounded; never raises."""
        try:
            self.stop(drain=False, timeout_s=timeout_s)
        except CallTimeout:
            logger.warning("machine %s: a message is still under way; its thread ends with it", self.name)
        self._executor.close()

    # --- the thread ---

    def _run(self) -> None:
        ended = threading.Event()
        threading.Thread(target=self._watch, args=(ended,), name=f"timbr {self.name} watch", daemon=True).start()
        try:
            while self._active():
                self._take_over()
                try:
                    wakes = self._ledger.wakes
                    self._refill()
                    entries = self._ledger.take(BATCH_MESSAGES, IDLE_S, wakes)
                    if entries:
                        self._process(entries)
                finally:
                    self._work.release()
                self._on_idle()
                if self._state == "draining" and self._ledger.idle():
                    self._set_stopped()
        except BaseException as error:
            logger.exception("machine %s failed", self.name)
            with self._lock:
                self._state, self._reason = "failed", clean_text(f"{type(error).__name__}: {error}")
                self._thread = None  # it lives a moment longer, but does nothing more
                self._lock.notify_all()
            self._events.add("failed", reason=self._reason)
        finally:
            ended.set()
            self._busy.set()

    def _take_over(self) -> None:
        """Get hold of the work; a `step` that waits for a message gives way."""
        while not self._work.acquire(timeout=0.05):
            self._ledger.wake()

    def _watch(self, ended: threading.Event) -> None:
        """Commit what is finished while a later message of its micro-batch takes long."""
        while not ended.is_set():
            self._busy.wait()
            ended.wait(LATE_S)
            if self._uncommitted:
                with contextlib.suppress(Exception):  # the worker's own commit meets it too, and fails the machine
                    self.commit()
            elif not self._batch:
                self._busy.clear()
                if self._batch:  # begun in between
                    self._busy.set()

    def _active(self) -> bool:
        """Wait while paused; tell whether to go on."""
        with self._lock:
            self._lock.wait_for(lambda: self._state != "paused")
            if self._state in ACTIVE:
                return True
            self._thread = None
            self._lock.notify_all()
            return False

    def step(self, wait_s: float, refill: Callable[[], None]) -> Row | None:
        """Process one message in the caller's thread; None when none came in ``wait_s``.

        Raises:
            MachineRunning: the worker processes messages, or one is under way still.
        """
        if self._state in ACTIVE or not self._work.acquire(timeout=STEP_LIMIT_S + wait_s):
            raise MachineRunning("get")
        try:
            wakes = self._ledger.wakes
            if self._state in ACTIVE:
                raise MachineRunning("get")
            refill()
            entries = self._ledger.take(1, wait_s, wakes)
            if not entries:
                return None
            self._process(entries, stepping=True)
            return self.ring.newest(1)[0]
        finally:
            self._work.release()

    def _process(self, entries: Sequence[Entry], *, stepping: bool = False) -> None:
        """Process entries under way in order; those that a pause leaves unbegun go back to the queue.

        So do those whose commit failed, unrecorded: they run again.
        """
        self._done = 0
        self._batch = entries
        if not self._busy.is_set():
            self._busy.set()
        finish = self._uncommitted.append
        begun = self._clock()
        try:
            if stepping or self._state in ACTIVE:
                for finished in self._executor.process(entries, self._current):
                    finish(finished)
                    self._done += 1
                    if finished[4] - begun > BATCH_S or finished[4] < begun:
                        self.commit()
                        begun = finished[4]
                    if not stepping and self._state not in ACTIVE:
                        break
        finally:
            unbegun = entries[self._done :]
            self._batch = ()
            try:
                self.commit()
            finally:
                with self._commit_lock:
                    unrecorded = [finished[0] for finished in self._uncommitted]
                    self._uncommitted.clear()
                if unrecorded or unbegun:
                    self._ledger.give_back([*unrecorded, *unbegun])

    def replace_sinks(self, change: Callable[[tuple[Sink, ...]], tuple[Sink, ...]]) -> None:
        """Change the sinks between two commits, so that none is used after it was taken away."""
        with self._commit_lock:
            self.sinks = change(self.sinks)

    def commit(self) -> None:
        """Number, keep, publish and account for what is finished."""
        with self._commit_lock:
            done = list(self._uncommitted)
            if not done:
                return
            rows, errored = self._numbered(done)
            if self._journal is not None:
                self._journal.commit(rows, self._position)
            for _ in done:
                self._uncommitted.popleft()
            self.ring.extend(rows)
            for sink in self.sinks:
                try:
                    sink.publish(rows)
                except Exception:  # a sink is foreign code: its failure costs nobody a record
                    self.sink_failures += 1
                    logger.exception("sink %r failed", sink)
            self._finished += len(rows)
            self.last_oid, self.last_processed_time = rows[-1][1], done[-1][4]
            self.rates.note(done[-1][4], self._finished)
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
