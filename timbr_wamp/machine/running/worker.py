"""The machine's worker: its state and its thread.

The thread takes entries from the queue in micro-batches, runs them through the executor and has
them committed by the `Recorder`. A second thread commits what is finished while a later message of
the micro-batch takes long. `step` processes one message in the caller's thread. What is kept by a
policy that pauses or stops, and what waits for a retry then, goes back to the head of the queue.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from timbr_wamp.contract import EventKind, MachineStateName
from timbr_wamp.errors import CallTimeout, MachineClosed, MachineRunning, MessageKept, WrongState
from timbr_wamp.machine.events.log import EventLog
from timbr_wamp.machine.intake.message_queue import MessageQueue
from timbr_wamp.machine.messages import Entry, Finished, Notes, Row
from timbr_wamp.machine.protocols import Clock, Executor
from timbr_wamp.machine.records.recorder import Recorder
from timbr_wamp.machine.running.context import MachineContext
from timbr_wamp.machine.slots.objects import Objects
from timbr_wamp.values import clean_text

logger = logging.getLogger(__name__)

#: A micro-batch: at most so many messages (or four times as many as may be under way at once),
#: committed at least so often while slots are slow.
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
#: Verdicts that keep the message.
KEEPING = frozenset({"pause", "stop"})


class Worker:
    """State and thread of one machine. Verbs: any thread."""

    def __init__(
        self,
        *,
        name: str,
        queue: MessageQueue,
        executor: Executor,
        context: MachineContext,
        objects: Objects,
        events: EventLog,
        clock: Clock,
        recorder: Recorder,
        refill: Callable[[int], None],
        on_idle: Callable[[], None],
    ) -> None:
        self.name = name
        self._queue, self._executor, self._context, self._objects = queue, executor, context, objects
        self._events, self._clock, self._recorder = events, clock, recorder
        self._refill, self._on_idle = refill, on_idle
        self._lock = threading.Condition()
        self._state: MachineStateName = "idle"
        self._reason: str | None = None
        self._thread: threading.Thread | None = None
        self._work = threading.Lock()
        #: The micro-batch under way, and what of it was not begun yet.
        self._batch: Sequence[Entry] = ()
        self._unbegun: deque[Entry] = deque()
        #: The message that `step` processes now.
        self._stepping = False
        self._busy = threading.Event()
        #: What the event handler wants raised where the user is; taken by `raise_kept`.
        self._raised: BaseException | None = None
        self._kept_by_step: MessageKept | None = None
        #: Says to the objects that a message that waits for a retry may use them.
        self._use: object | None = None

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
        """The message that was begun last, while it is under way."""
        batch, begun = self._batch, len(self._batch) - len(self._unbegun)
        return batch[begun - 1][0] if 0 < begun <= len(batch) else None

    def may_start(self) -> bool:
        """Tell whether further messages may begin."""
        return self._state in ACTIVE or self._stepping

    def raise_kept(self) -> None:
        """Raise what the event handler wants raised where the user is, once."""
        error, self._raised = self._raised, None
        if error is not None:
            raise error

    # --- verbs ---

    def start(self, author: str | None = None) -> None:
        """Process messages from now on.

        Raises:
            WrongState: it drains; wait for it, or stop it.
            MachineClosed: the machine was closed.
        """
        with self._lock:
            if self._queue.closed:
                raise MachineClosed(self.name)
            if self._state == "draining":
                raise WrongState("start", self._state, "idle, paused, stopped or failed")
            if self.running:
                return
            kind: EventKind = "resumed" if self._state == "paused" else "started"
            if self._state != "idle":  # what stopped it then is over
                self._raised = None
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
        self._queue.wake()
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
            if was != "stopped":  # else it stopped by itself, and its thread is just ending
                self._reason = None
            self._state = target
            self._lock.notify_all()
        self._queue.wake()
        ended = thread is threading.current_thread() or self._wait_ended(thread, target, timeout_s)
        if not ended:
            self._set_stopped()
            self._queue.wake()
        if was != "stopped" and self._reason is None and self._state in ("stopped", "draining"):
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

    def halt(self, reason: str, error: BaseException | None = None) -> None:
        """Stop by itself: begin no further message. ``error`` is raised where the user is. Any thread."""
        with self._lock:
            self._raise_later(error)
            if self._state not in (*ACTIVE, "paused"):
                return
            self._state, self._reason = "stopped", clean_text(reason)
            self._lock.notify_all()
        self._queue.wake()
        self._events.add("stopped", reason=self._reason)

    # --- the thread ---

    def _run(self) -> None:
        ended = threading.Event()
        threading.Thread(target=self._watch, args=(ended,), name=f"timbr {self.name} watch", daemon=True).start()
        try:
            while self._active():
                self._take_over()
                try:
                    wakes = self._queue.wakes
                    limit = max(BATCH_MESSAGES, 4 * self._context.concurrency)
                    self._refill(limit)
                    due_s = self._executor.due_s()
                    entries = self._queue.take(limit, IDLE_S if due_s is None else min(due_s, IDLE_S), wakes)
                    if entries or due_s is not None:
                        self._process(entries)
                finally:
                    self._work.release()
                self._on_idle()
                if self._state == "draining" and self._queue.idle():
                    self._set_stopped()
        except BaseException as error:
            logger.exception("machine %s failed", self.name)
            self._give_back_begun(record=False)
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
            self._queue.wake()

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
        if self._state not in ACTIVE:
            self._give_back_begun()
        with self._lock:
            self._lock.wait_for(lambda: self._state != "paused")
            if self._state in ACTIVE:
                return True
            self._thread = None
            self._lock.notify_all()
            return False

    def _give_back_begun(self, *, record: bool = True) -> None:
        """Let messages that wait for a retry go back to the queue: they run again, whole.

        With ``record`` those whose retry went through meanwhile are recorded.
        """
        executor = self._executor
        if (executor.retrying or executor.due_s() is not None) and self._work.acquire(timeout=STEP_LIMIT_S):
            try:
                if record:
                    self._process(())
                self._queue.give_back(executor.abandon())
                self._end_use()
            finally:
                self._work.release()

    def step(self, wait_s: float, refill: Callable[[], None]) -> Row | None:
        """Process one message in the caller's thread; None when none came in ``wait_s``.

        Raises:
            MachineRunning: the worker processes messages, or one is under way still.
        """
        if self._state in ACTIVE or not self._work.acquire(timeout=STEP_LIMIT_S + wait_s):
            raise MachineRunning("get")
        try:
            wakes = self._queue.wakes
            if self._state in ACTIVE:
                raise MachineRunning("get")
            refill()
            entries = self._queue.take(1, wait_s, wakes)
            if not entries:
                self.raise_kept()
                return None
            self._stepping, self._context.defer_retries = True, False
            self._process(entries)
            self.raise_kept()
            if self._kept_by_step is not None:
                raise self._kept_by_step
            return self._recorder.ring.newest(1)[0]
        finally:
            self._stepping, self._context.defer_retries = False, True
            self._work.release()

    def _process(self, entries: Sequence[Entry]) -> None:
        """Process entries under way; those that a pause leaves unbegun go back to the queue.

        So do those that a policy keeps, and those whose commit failed, unrecorded: they run again.
        """
        recorder, executor = self._recorder, self._executor
        finish, commit = recorder.finish, recorder.commit
        unbegun = deque(entries)
        self._batch, self._unbegun, self._kept_by_step = entries, unbegun, None
        if not self._busy.is_set():
            self._busy.set()
        if self._use is None:
            self._use = self._objects.begin()
        begun = self._clock()
        due, kept, whole = begun + BATCH_S, list[Entry](), False
        try:
            for finished in executor.process(unbegun, self._context):
                notes = finished[3]
                if notes and notes.verdict in KEEPING:
                    kept.append(finished[0])
                    self._keep(finished, notes)
                    continue
                finish(finished)
                if notes and notes.raised is not None:
                    if self._stepping:
                        self._raise_later(notes.raised)
                    else:
                        self.halt(_reason(notes), notes.raised)
                if not begun <= finished[4] <= due:
                    commit()
                    begun = finished[4]
                    due = begun + BATCH_S
            whole = True
        finally:
            self._batch = ()
            try:
                commit()
            except BaseException:
                whole = False
                raise
            finally:
                begun_still = [] if whole else executor.abandon()
                back = [*recorder.withdraw(), *begun_still, *kept, *unbegun]
                if back:
                    self._queue.give_back(back)
                if executor.due_s() is None and not executor.retrying:
                    self._end_use()

    def _end_use(self) -> None:
        use, self._use = self._use, None
        if use is not None:
            self._objects.end(use)

    def _raise_later(self, error: BaseException | None) -> None:
        """Keep the first error that is to be raised where the user is, running or not."""
        if self._raised is None:
            self._raised = error

    def _keep(self, finished: Finished, notes: Notes) -> None:
        """Pause or stop, as a policy says; the message goes back to the queue."""
        self._recorder.keep(finished)
        reason, oid = _reason(notes), finished[0][0]
        if self._stepping:
            self._kept_by_step = MessageKept(oid, notes.verdict, reason)
            self._raise_later(notes.raised)
            return
        if notes.verdict == "stop":
            self.halt(reason, notes.raised)
            return
        with self._lock:
            if self._state not in ACTIVE:
                return
            self._state, self._reason = "paused", reason
            self._lock.notify_all()
        self._queue.wake()
        self._events.add("paused", oid=oid, reason=reason)


def _reason(notes: Notes) -> str:
    failure = next(failure for failure in notes.failures if failure.policy != "skip")
    return clean_text(f"{failure.task}: {failure.exc_class}: {failure.exc_value}")


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
