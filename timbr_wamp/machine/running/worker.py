"""The machine's worker: applies the lifecycle, and processes messages in its thread.

The thread takes entries from the queue in micro-batches, runs them through the executor and commits them with
the `Recorder`. A second thread commits finished messages while a later one of the micro-batch is slow, and
reports stalls. `step` processes one message in the caller's thread. Messages that a policy keeps, and those in
backoff when the machine leaves running, go back to the head of the queue.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from _thread import LockType
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from timbr_wamp.contract import MachineStateName
from timbr_wamp.errors import (
    CallTimeout,
    MachineClosed,
    MachineForked,
    MachineRunning,
    MessageKept,
    class_and_text,
    clean_text,
    described,
)
from timbr_wamp.machine.events.log import EventLog
from timbr_wamp.machine.forks import survive_forks
from timbr_wamp.machine.intake.message_queue import MessageQueue
from timbr_wamp.machine.interrupts import INTERRUPT_CHECK_S, delivered, noted, wait_for
from timbr_wamp.machine.messages import KEEPING, Entry, Finished, Notes, Row
from timbr_wamp.machine.processing import is_processing, mark_thread, processing
from timbr_wamp.machine.protocols import Clock, Executor
from timbr_wamp.machine.records.recorder import Recorder
from timbr_wamp.machine.running import lifecycle
from timbr_wamp.machine.running.careful_pass import CarefulPass, run_steps
from timbr_wamp.machine.running.context import MachineContext
from timbr_wamp.machine.running.lifecycle import Effect, Life, LifeEvent
from timbr_wamp.machine.slots.objects import Objects, RevisionsInUse

logger = logging.getLogger(__name__)

#: A micro-batch: at most this many messages (or four times as many as may be under way at once),
#: committed at least this often while slots are slow.
BATCH_MESSAGES, BATCH_S = 64, 0.005
#: An idle worker checks its state at this interval, seconds.
IDLE_S = 1.0
#: While a slot is slow, messages finished before it in its micro-batch are committed after this time, seconds.
LATE_S = 0.02
#: A step waits at most this long for a message that is still under way, seconds.
STEP_LIMIT_S = 5.0
#: A journal that failed is tried again at this interval, seconds.
JOURNAL_CHECK_S = 1.0
#: A message is under way and none was finished for this long: a stall, seconds.
STALLED_S = 10.0


class SourceControl(Protocol):
    """What the worker calls on the machine's source. Any thread; nothing blocks."""

    def permit(self) -> None:
        """Permit it to read."""

    def hold(self) -> None:
        """Let it read no further message."""

    def read_ready(self, limit: int) -> None:
        """Read up to ``limit`` messages from a source that never blocks. The worker's thread."""

    def read_one(self) -> None:
        """Permit it to read one message, if none waits."""

    def report_drained(self) -> None:
        """Report `drained` once, when it has ended and all its messages are recorded."""


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
        source: SourceControl,
    ) -> None:
        self.name = name
        self._queue, self._executor, self._context, self._objects = queue, executor, context, objects
        self._events, self._clock, self._recorder, self._source = events, clock, recorder, source
        self._changed = threading.Condition()
        self._life = Life()
        self._thread: threading.Thread | None = None
        #: Held while messages are processed: by the thread for a micro-batch, or by `step`.
        self._work = threading.Lock()
        #: The thread that holds it, or held it last.
        self._worked_by = 0
        self._source_lock = threading.RLock()
        #: The micro-batch under way, and its entries that were not started yet.
        self._batch: Sequence[Entry] = ()
        #: The executor processes a batch, or what is due in it.
        self._processing = False
        self._unstarted: deque[Entry] = deque()
        self._busy = threading.Event()
        #: The error that the event handler wants raised in the user's call; taken by `raise_error`.
        self._error: BaseException | None = None
        #: Keeps objects open for messages under way, those that wait for a retry included.
        self._use: RevisionsInUse | None = None
        #: Why the journal does not work, if it does not.
        self._suspended: str | None = None
        #: The parent process, if this is a fork's copy.
        self._forked_from: int | None = None
        survive_forks(self)

    def after_fork_in_child(self) -> None:
        """Forget the threads and locks of the parent: nothing is processed here."""
        self._changed, self._work, self._source_lock = threading.Condition(), threading.Lock(), threading.RLock()
        self._forked_from = os.getppid()
        self._thread = None
        self._life = Life("stopped", "its process was forked; the parent has it", closed=True)

    # --- state ---

    @property
    def state(self) -> MachineStateName:
        """The state; ``paused``, ``stopped`` and ``failed`` may have a `reason`."""
        return self._life.state

    @property
    def reason(self) -> str | None:
        """Why it paused, stopped or failed, unless a verb did it."""
        return self._life.reason

    @property
    def running(self) -> bool:
        """It processes messages, and its thread is alive."""
        return self._life.active and self._thread_lives()

    @property
    def current_oid(self) -> str | None:
        """The message that was started last, while it is under way."""
        retried = self._executor.retried_oid
        if retried is not None:
            return retried
        batch, started = self._batch, len(self._batch) - len(self._unstarted)
        return batch[started - 1][0] if 0 < started <= len(batch) else None

    def entry_of(self, oid: str) -> Entry | None:
        """Return the entry of a message that is under way or waits for a retry; None: it is not. Any thread."""
        started = getattr(self._executor, "started_entries", None)
        under_way = (*self._batch, *(() if started is None else started()))
        return next((entry for entry in under_way if entry[0] == oid), None)

    def may_start(self) -> bool:
        """Tell whether further messages may start."""
        return self._life.state in lifecycle.ACTIVE

    def raise_error(self) -> None:
        """Raise the error that the event handler wants raised in the user's call, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _thread_lives(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive()

    # --- verbs ---

    def start(self, author: str | None = None) -> None:
        """Process messages from now on.

        Raises:
            WrongState: it is draining; wait for it, or stop it.
            MachineClosed: the machine was closed.
        """
        self._apply(lambda: lifecycle.Start(self._thread_lives(), author))

    def pause(self, author: str | None = None) -> None:
        """Start no further message.

        Raises:
            WrongState: it does not run.
        """
        self._apply(lambda: lifecycle.Pause(author))

    def resume(self, author: str | None = None) -> None:
        """Continue after a pause.

        Raises:
            WrongState: it is not paused.
        """
        self._apply(lambda: lifecycle.Resume(self._thread_lives(), author))

    def stop(self, *, drain: bool, timeout_s: float, author: str | None = None) -> None:
        """Stop; with ``drain`` process queued messages first. Otherwise they stay queued.

        Raises:
            CallTimeout: after ``timeout_s`` a message is still under way (it will be recorded), or with
                ``drain`` messages are still queued; it stops without them.
        """
        thread = self._thread
        self._apply(lambda: lifecycle.Stop(drain, self._thread_lives(), author, self.current_oid))
        target = self._life.state
        if thread is None or thread is threading.current_thread() or is_processing(self._queue):
            return  # called by a slot or hook: the message under way is the caller's
        with self._changed:
            ended = wait_for(
                self._changed,
                lambda: (
                    not thread.is_alive() or self._thread is not thread or self._life.state not in (target, "stopped")
                ),
                timeout_s,
            )
        if not ended and not noted():
            self._apply(lifecycle.StopTimedOut)
            raise CallTimeout("stopping the message under way", timeout_s)

    def close(self, timeout_s: float) -> None:
        """Stop for good. Bounded; never raises."""
        if self._forked_from is not None:
            return
        self._apply(lifecycle.Close)
        try:
            self.stop(drain=False, timeout_s=timeout_s)
        except CallTimeout:
            logger.warning("machine %s: a message is still under way; its thread ends with it", self.name)

    def halt(self, reason: str, error: BaseException | None = None) -> None:
        """Stop for the machine's own reason: start no further message. Any thread.

        ``error`` is raised in the user's call.
        """
        self._keep_error(error)
        self._apply(lambda: lifecycle.Halt(clean_text(reason)))

    def replaced(self, reason: str) -> None:
        """Stop because another machine took the name: start no further message, and say so, running or not."""
        self._apply(lambda: lifecycle.Replaced(reason))

    def _keep_error(self, error: BaseException | None) -> None:
        """Keep the first error that is to be raised in the user's call, running or not."""
        if self._error is None:
            self._error = error

    # --- applying the lifecycle ---

    def _apply(self, event: Callable[[], LifeEvent]) -> None:
        """Change the state by an event that is created under the lock, and perform the effects."""
        if self._forked_from is not None:
            raise MachineForked(self.name, self._forked_from)
        with self._changed:
            self._life, effects = lifecycle.transition(self._life, event(), self.name)
            self._context.changed()
            for effect in effects:
                if isinstance(effect, lifecycle.ForgetError):
                    self._error = None
                elif isinstance(effect, lifecycle.StartThread) and not self._thread_lives():
                    self._thread = threading.Thread(target=self._run, name=f"timbr {self.name}", daemon=True)
                    self._thread.start()  # it goes on when this lock is released
            for effect in effects:
                if isinstance(effect, lifecycle.Report):  # before anything that follows from the new state
                    self._events.add(effect.kind, effect.author, **effect.data)
            self._changed.notify_all()
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, (lifecycle.PermitSource, lifecycle.HoldSource)):
            self.apply_source_permission()
        elif isinstance(effect, lifecycle.ReturnRetries):
            self._return_retries()
        elif isinstance(effect, lifecycle.WakeWaiters):
            self._queue.wake()

    def apply_source_permission(self) -> None:
        """Permit or hold the source by the present state, which another thread may have changed since the effect."""
        with self._source_lock:
            if self._life.state == "running" and not self._life.closed:
                self._source.permit()
            else:
                self._source.hold()
        self._queue.wake()

    def _return_retries(self) -> None:
        """Return messages in backoff to the queue: the thread does it, or this call if the thread has ended."""
        if not self._thread_lives():
            self._give_back_unfinished()

    # --- the thread ---

    def _run(self) -> None:
        mark_thread(self._queue)
        ended = threading.Event()
        threading.Thread(target=self._watch, args=(ended,), name=f"timbr {self.name} watch", daemon=True).start()
        try:
            while self._active():
                work = self._acquire_work()
                try:
                    wakes = self._queue.wakes
                    limit = max(BATCH_MESSAGES, 4 * self._context.concurrency)
                    self._source.read_ready(limit)
                    due_s = self._executor.due_s()
                    entries = self._queue.take(limit, IDLE_S if due_s is None else min(due_s, IDLE_S), wakes)
                    if entries or due_s is not None:
                        self._process(entries)
                except OSError as error:  # the journal's: all else that may raise it is isolated
                    if not self._recorder.has_journal:
                        raise
                    self._suspend(f"the journal failed: {described(error)}", error)
                finally:
                    work.release()
                self._source.report_drained()
                if self._life.state == "draining" and self._queue.idle():
                    self._apply(lifecycle.Drained)
        except BaseException as error:
            if self._forked_from is not None:
                return  # a slot forked and came back: this is the child, whose thread has nothing to do
            logger.exception("machine %s failed", self.name)
            reason = described(error)
            with contextlib.suppress(BaseException):  # it has failed; the first error is the reason
                self._give_back_unfinished(record=False)
            self._thread = None  # it is alive for a moment, but does nothing more
            self._apply(lambda: lifecycle.Fail(reason))
        finally:
            ended.set()
            self._busy.set()

    def _suspend(self, reason: str, error: OSError) -> None:
        """Pause until the journal works again; the messages are queued, and nothing of them was recorded."""
        logger.error("machine %s pauses: %s", self.name, reason, exc_info=error)
        self._suspended = clean_text(reason)
        self._apply(lambda: lifecycle.Suspend(clean_text(reason)))

    def _wait_while_paused(self) -> None:
        """Wait for a change of the state, with its lock held; a suspended machine tries its journal meanwhile."""
        changed, suspended = self._changed, self._suspended
        if suspended is None:
            changed.wait_for(lambda: self._life.state != "paused")
            return
        if changed.wait_for(lambda: self._life.state != "paused", JOURNAL_CHECK_S):
            self._suspended = None

    def _continue_if_possible(self) -> None:
        """End a suspension once the journal works."""
        suspended = self._suspended
        if suspended is not None and self._recorder.journal_works():
            self._suspended = None
            self._apply(lambda: lifecycle.Continue(suspended))

    def _acquire_work(self) -> LockType:
        """Acquire the work lock; a `step` that waits for a message releases it."""
        work = self._work
        while not work.acquire(timeout=INTERRUPT_CHECK_S):
            self._queue.wake()
        self._worked_by = threading.get_ident()
        return work

    def _watch(self, ended: threading.Event) -> None:
        """Commit finished messages while a later one of the micro-batch is slow; report a stall."""
        mark_thread(self._queue)
        stall, recorder, count = Stall(self._clock()), self._recorder, -1
        while not ended.is_set():
            self._busy.wait()
            ended.wait(LATE_S)
            before, count = count, recorder.count
            if stall.starts(self._clock(), recorder.ran, waiting=self._working()):
                self._events.add("stalled", oid=self.current_oid, after_s=STALLED_S)
            if recorder.pending:
                if count == before:  # else the worker is committing, and two threads would contend
                    with contextlib.suppress(BaseException):  # the worker's commit raises it too, and fails the machine
                        recorder.commit()
            elif not self._working():
                self._busy.clear()
                if self._working():  # again, meanwhile
                    self._busy.set()

    def _working(self) -> bool:
        """Tell whether slots run: of a batch, or of a message that is retried."""
        return self._processing or self._executor.retried_oid is not None

    def _active(self) -> bool:
        """Wait while paused; return whether to continue."""
        given_back = False
        while True:
            if not self._life.active:
                self._give_back_unfinished()
                given_back = True
            with self._changed:
                if self._life.active:
                    return True
                if not given_back:  # it was active a moment ago
                    continue
                if self._life.state == "paused":
                    self._wait_while_paused()
                    paused = True
                else:
                    paused = False
                    self._thread = None
                    self._changed.notify_all()
            if not paused:
                return False
            self._continue_if_possible()

    def _give_back_unfinished(self, *, record: bool = True) -> None:
        """Return messages that wait for a retry to the queue: they run again from the first slot.

        With ``record`` those whose retry succeeded meanwhile are recorded.
        """
        executor = self._executor
        if (executor.retrying or executor.due_s() is not None) and self._work.acquire(timeout=STEP_LIMIT_S):
            self._worked_by = threading.get_ident()
            try:
                if record:
                    self._process(())
                self._queue.give_back(executor.abandon())
                self._end_use()
            finally:
                self._work.release()

    def _process(self, entries: Sequence[Entry]) -> None:
        """Process entries; those that a pause leaves unstarted are returned to the queue.

        So are those that a policy keeps, and those whose commit failed: they run again.
        """
        recorder, executor = self._recorder, self._executor
        add_finished, commit = recorder.add_finished, recorder.commit
        unstarted = deque(entries)
        kept, whole = list[Entry](), False
        try:
            self._batch, self._unstarted, self._processing = entries, unstarted, True
            if not self._busy.is_set():
                self._busy.set()
            if self._use is None:
                self._use = self._objects.begin()
            clock, context = self._clock, self._context
            context.commit_due = clock() + BATCH_S
            for finished in executor.process(unstarted, context, add_finished):
                if finished is not None:
                    notes = finished[3]
                    if notes and notes.verdict in KEEPING:
                        kept.append(finished[0])
                        self._keep(finished, notes)
                        continue
                    add_finished(finished)
                    if notes and notes.raised is not None:
                        self.halt(_reason(notes), notes.raised)
                    if finished[4] < context.commit_due:
                        continue
                commit()
                context.commit_due = clock() + BATCH_S
            whole = True
        finally:
            self._batch, self._processing = (), False
            try:
                commit()
            except BaseException:
                whole = False
                raise
            finally:
                started_still = [] if whole else executor.abandon()
                back = [*recorder.withdraw(), *started_still, *kept, *unstarted]
                if back:
                    self._queue.give_back(back)
                self._end_use(executor.oldest_revision())

    def _end_use(self, oldest: int | None = None) -> None:
        """Release revisions before ``oldest``, or all; see `Objects`."""
        use = self._use
        if use is not None and oldest is not None:
            self._objects.release_older(use, oldest)
        elif use is not None:
            self._use = None
            self._objects.end(use)

    def _keep(self, finished: Finished, notes: Notes) -> None:
        """Pause or stop, as a policy says; the message returns to the queue."""
        self._recorder.record_kept(finished)
        reason = _reason(notes)
        if notes.verdict == "stop":
            self.halt(reason, notes.raised)
        else:
            self._apply(lambda: lifecycle.Kept(finished[0][0], reason))

    # --- one message, in the caller's thread ---

    def step(self, wait_s: float) -> Row | None:
        """Process one message in the caller's thread; None when none came in ``wait_s``.

        Call it with interrupts kept back (`timbr_wamp.machine.interrupts.deferred`): they are delivered while slots
        and hooks run.

        Raises:
            MachineRunning: the worker processes messages, or one is still under way.
            MachineClosed: the machine was closed while this waited.
            MessageKept: its slot's policy is ``pause`` or ``stop``; it is queued again.
        """
        deadline = time.monotonic() + wait_s
        if not self._acquire_for_step(deadline + STEP_LIMIT_S):
            raise MachineRunning("get")
        try:
            entry = self._next_for_step(deadline)
            if entry is None:
                self.raise_error()
                return None
            return self._step(entry)
        finally:
            self._work.release()

    def _acquire_for_step(self, deadline: float) -> bool:
        if self._work.locked() and self._worked_by == threading.get_ident():
            return False  # from a slot, hook or signal handler: the message under way is the caller's own
        while not self.may_start() and not noted():
            if self._work.acquire(timeout=min(max(deadline - time.monotonic(), 0.0), INTERRUPT_CHECK_S)):
                if not self.may_start():
                    self._worked_by = threading.get_ident()
                    return True
                self._work.release()
            elif time.monotonic() >= deadline:
                return False
        return False

    def _next_for_step(self, deadline: float) -> Entry | None:
        self._source.read_one()
        while True:
            left_s = max(deadline - time.monotonic(), 0.0)
            entries = self._queue.take(1, min(left_s, INTERRUPT_CHECK_S), self._queue.wakes)
            if entries:
                return entries[0]
            if self._life.active:
                raise MachineRunning("get")
            if self._life.closed:
                raise MachineClosed(self.name)
            if not left_s or noted() or self._error is not None:
                return None

    def _step(self, entry: Entry) -> Row | None:
        recorder, handed_over = self._recorder, False
        self._batch, self._unstarted = (entry,), deque()
        try:
            with self._objects.use(), processing(self._queue), delivered():
                finished = self._pass(entry)
            notes = finished[3]
            if notes:
                self._keep_error(notes.raised)
            if notes and notes.verdict in KEEPING:
                recorder.record_kept(finished)
                self.raise_error()
                raise MessageKept(entry[0], notes.verdict, _reason(notes))
            recorder.add_finished(finished)
            handed_over = True
            recorder.commit()
        finally:
            self._batch = ()
            if unrecorded := recorder.withdraw() if handed_over else [entry]:
                self._queue.give_back(unrecorded)
        self.raise_error()
        return recorder.row_of(entry[0])

    def _pass(self, entry: Entry) -> Finished:
        oid, message, _, _ = entry
        context, hooks = self._context, self._context.hooks
        plan = context.current()
        hooks.call("pre_message", oid, message)
        values, texts, notes = run_steps(
            CarefulPass(plan, message, context, oid, timed=True).steps(), self._executor.invoke
        )
        hooks.call("post_message", oid, values, list(notes.failures) if notes else [])
        return entry, plan, texts, notes, context.clock()


def _reason(notes: Notes) -> str:
    failure = next(failure for failure in notes.failures if failure.policy != "skip")
    return clean_text(class_and_text(f"{failure.task}: {failure.exc_class}", failure.exc_value))


class Stall:
    """Detects stalls, each once."""

    def __init__(self, now: float) -> None:
        self._since, self._count, self._reported = now, 0, False

    def starts(self, now: float, count: int, *, waiting: bool) -> bool:
        """Tell whether a stall starts: messages wait, and ``count`` has not changed for `STALLED_S`."""
        if count != self._count or not waiting:
            self._since, self._count, self._reported = now, count, False
        if self._reported or now - self._since < STALLED_S:
            return False
        self._reported = True
        return True
