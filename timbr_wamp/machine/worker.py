"""The machine's worker: its state and its thread.

The thread takes entries from the ledger in micro-batches, runs them through the executor and has
them committed by the `Recorder`. A second thread commits what is finished while a later message of
the micro-batch takes long. `step` processes one message in the caller's thread.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence

from timbr_wamp.contract import MachineStateName
from timbr_wamp.errors import CallTimeout, MachineClosed, MachineRunning, WrongState
from timbr_wamp.machine.events import EventLog
from timbr_wamp.machine.ledger import Ledger
from timbr_wamp.machine.protocols import Clock, Entry, Executor, Row
from timbr_wamp.machine.recorder import Recorder
from timbr_wamp.machine.slots import Revision
from timbr_wamp.values import clean_text

logger = logging.getLogger(__name__)

#: A micro-batch: at most so many messages, committed at least so often while slots are slow.
BATCH_MESSAGES, BATCH_S = 64, 0.005
#: An idle worker looks around so often.
IDLE_S = 1.0
#: While a slot takes long, what was finished before it in its micro-batch is committed after so long.
LATE_S = 0.02
#: A step waits at most so long for a message that is under way still.
STEP_LIMIT_S = 5.0

#: A message under way, and none finished for so long, is a stall.
STALLED_S = 10.0

ACTIVE: frozenset[MachineStateName] = frozenset({"running", "draining"})


class Worker:
    """State and thread of one machine. Verbs: any thread."""

    def __init__(
        self,
        *,
        name: str,
        ledger: Ledger,
        executor: Executor,
        current: Callable[[], Revision],
        events: EventLog,
        clock: Clock,
        recorder: Recorder,
        refill: Callable[[], None],
        on_idle: Callable[[], None],
    ) -> None:
        self.name = name
        self._ledger, self._executor, self._current = ledger, executor, current
        self._events, self._clock, self._recorder = events, clock, recorder
        self._refill, self._on_idle = refill, on_idle
        self._lock = threading.Condition()
        self._state: MachineStateName = "idle"
        self._reason: str | None = None
        self._thread: threading.Thread | None = None
        self._work = threading.Lock()
        self._batch: Sequence[Entry] = ()
        #: `Recorder.seen` when the batch began.
        self._base = 0
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
        batch, done = self._batch, self._recorder.seen - self._base
        return batch[done][0] if 0 <= done < len(batch) else None

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
            target: MachineStateName = "draining" if drain and was in ("running", "paused") else "stopped"
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
        """Commit what is finished while a later message of its micro-batch takes long; tell of a stall."""
        stall, recorder, count = Stall(self._clock()), self._recorder, -1
        while not ended.is_set():
            self._busy.wait()
            ended.wait(LATE_S)
            before, count = count, recorder.count
            if stall.begins(self._clock(), count, waiting=bool(self._batch)):
                self._events.add("stalled", oid=self.current_oid, after_s=STALLED_S)
            if recorder.pending:
                if count == before:  # else the worker commits by itself, and two threads would get in each other's way
                    with contextlib.suppress(Exception):  # the worker's own commit meets it too, and fails the machine
                        recorder.commit()
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
            return self._recorder.ring.newest(1)[0]
        finally:
            self._work.release()

    def _process(self, entries: Sequence[Entry], *, stepping: bool = False) -> None:
        """Process entries under way in order; those that a pause leaves unbegun go back to the queue.

        So do those whose commit failed, unrecorded: they run again.
        """
        recorder = self._recorder
        finish, commit = recorder.finish, recorder.commit
        self._base = recorder.seen
        self._batch = entries
        if not self._busy.is_set():
            self._busy.set()
        begun = self._clock()
        due, done = begun + BATCH_S, 0
        try:
            if stepping or self._state in ACTIVE:
                for finished in self._executor.process(entries, self._current):
                    finish(finished)
                    done += 1
                    if not begun <= finished[4] <= due:
                        commit()
                        begun = finished[4]
                        due = begun + BATCH_S
                    if self._state not in ACTIVE and not stepping:
                        break
        finally:
            unbegun = entries[done:]
            self._batch = ()
            try:
                commit()
            finally:
                unrecorded = recorder.withdraw()
                if unrecorded or unbegun:
                    self._ledger.give_back([*unrecorded, *unbegun])


class Stall:
    """Notices that nothing gets finished any more, once each time."""

    def __init__(self, now: float) -> None:
        self._since, self._count, self._told = now, 0, False

    def begins(self, now: float, count: int, *, waiting: bool) -> bool:
        """Tell whether a stall begins: messages wait, and ``count`` has stood still for `STALLED_S`."""
        if count != self._count or not waiting:
            self._since, self._count, self._told = now, count, False
        if self._told or now - self._since < STALLED_S:
            return False
        self._told = True
        return True
