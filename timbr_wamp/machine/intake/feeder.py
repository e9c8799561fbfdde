"""The `Feeder` reads a source into the queue, from `Machine.set_source` until the source ends or is deleted.

A source that may block is read by its own thread, ahead until the queue is full; a ready one (a list,
a range, their iterators) by the machine's worker, as needed. Other modules: how to read
(`timbr_wamp.machine.intake.readers`), when to restart (`restarts`), and what becomes of a message while
the queue is full (`admission`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from timbr_wamp.contract import MachineStateName, Progress, SourceOptions, SourceStatus
from timbr_wamp.contract.structs import SourceStateName
from timbr_wamp.errors import InvalidArgument, described
from timbr_wamp.machine.intake.admission import Admission, OnDrop, checked_options
from timbr_wamp.machine.intake.message_queue import Counts, MessageQueue
from timbr_wamp.machine.intake.readers import (
    Reader,
    ReadyReader,
    SourceReader,
    SourceReaders,
    why_not_restarted,
)
from timbr_wamp.machine.intake.restarts import Restarts
from timbr_wamp.machine.intake.timers import TIMERS
from timbr_wamp.machine.isolation import call_isolated
from timbr_wamp.machine.processing import mark_source_thread
from timbr_wamp.machine.protocols import Clock, EndOfSource
from timbr_wamp.machine.waiting import Monitor
from timbr_wamp.values import JsonValue

logger = logging.getLogger(__name__)

#: A read that does not end within this time after an interrupt is cancelled harder or abandoned, seconds.
GRACE_S = 0.5

#: Called with kind and data of ``idle``, ``source_failed``, ``restarted``, in the source's thread; must not block.
OnSourceEvent: TypeAlias = Callable[..., object]


def _ignore(kind: str, **data: object) -> None:
    pass


class Feeder:
    """Reads a source into the queue, and knows its state.

    It lives as long as the source, through pauses and stops of the machine. It reads no message before `permit`.

    Args:
        total: number of messages; None: what the source itself says.
        options: policy, restarts, idle timeout, what follows its end.
        on_end: called once when it has ended or was closed, by the thread that read last.
        on_event: called with the events before that.
        on_drop: gets dropped messages to record them; None: they are only counted.

    Raises:
        NotASource: it cannot be read as messages.
        InvalidArgument: an invalid total or option, or restarts of a source that cannot be restarted.
    """

    def __init__(
        self,
        source: object,
        total: int | None,
        *,
        queue: MessageQueue,
        clock: Clock,
        new_oids: Callable[[float, int], list[str]],
        on_end: Callable[[Feeder], object],
        name: str,
        options: SourceOptions | None = None,
        on_drop: OnDrop | None = None,
        on_event: OnSourceEvent = _ignore,
    ) -> None:
        self.options = checked_options(options or SourceOptions(), total)
        self._readers = SourceReaders(source)
        self._restarts = Restarts(self.options)
        if self._restarts.wanted and (problem := why_not_restarted(source)) is not None:
            raise InvalidArgument("source", problem)
        # A list of three that restarts has more than three messages.
        own_total = None if self.options.on_exhausted == "restart" else self._readers.total
        self.total = own_total if total is None else total
        self.error: BaseException | None = None
        self._name, self._queue, self._on_end, self._on_event = name, queue, on_end, on_event
        self._put_before = queue.snapshot()
        #: Guards the attributes below, and each decision of the policy: nothing is dropped without permission to read.
        self._monitor = Monitor()
        #: Number of messages it may read; infinity: no limit.
        self._permitted = 0.0
        self._closed = False
        self._state: SourceStateName = "waiting"
        self._thread: threading.Thread | None = None
        #: The present reader. A thread with another reader was abandoned: it queues the result of its read and
        #: reads no more.
        self._reader: Reader | None = self._readers.first
        #: Since when a read waits for the source, on `time.monotonic`; None while none does.
        self._silent_since: float | None = None
        #: How often the present read was interrupted by the idle timeout.
        self._interrupted = 0
        self._watched = self.options.idle_timeout_s is not None
        self._last_message: object = None
        self._admission = Admission(
            self.options, queue=queue, clock=clock, new_oids=new_oids, on_drop=on_drop,
            may_drop=lambda: self._permitted > 0 and not self._closed, lock=self._monitor.lock,
        )  # fmt: skip

    # --- state; any thread ---

    @property
    def ended(self) -> bool:
        """It is exhausted or failed, and all its messages are queued."""
        return self._state in ("exhausted", "failed")

    @property
    def failed(self) -> bool:
        """It ended with an error."""
        return self._state == "failed"

    @property
    def count(self) -> int:
        """Messages read since it was set."""
        return self._admission.count

    @property
    def ready(self) -> bool:
        """It never blocks and does not restart: `read_ready` reads it, no thread."""
        return self._readers.ready and not self._restarts.wanted

    def status(self, rate_per_s: float) -> SourceStatus:
        """Return its status; ``rate_per_s`` is for the estimate of the time left."""
        left = None if self.total is None else max(self.total - self.count, 0)
        state = self._state
        if (state == "reading" and self._permitted <= 0) or (self._closed and not self.ended):
            state = "waiting"
        return SourceStatus(
            state=state, count=self.count, total=self.total, eta_s=None if self.ended else _eta_s(left, rate_per_s),
            error=_text(self.error), dropped=self._admission.dropped, restarts=self._restarts.count,
            options=self.options,
        )  # fmt: skip

    def progress(self, counts: Counts, *, rate_per_s: float, state: MachineStateName, drained: bool) -> Progress:
        """Return how far the machine is with it.

        ``counts`` are the queue's present ones; ``drained``: all its messages are recorded. Messages that
        were queued before it was set do not count as done.
        """
        done = max(counts.put - counts.queue_size - counts.in_flight - self._put_before.put, 0)
        complete = drained and self._state == "exhausted"
        percentage = None
        if self.total is not None:
            percentage = 100.0 if complete or not self.total else min(100.0 * done / self.total, 100.0)
        left = None if self.total is None else max(self.total - done, 0)
        return Progress(
            done=done, total=self.total, percentage=percentage, errored=counts.errored - self._put_before.errored,
            rate_per_s=rate_per_s, eta_s=None if complete else _eta_s(left, rate_per_s), state=state, complete=complete,
        )  # fmt: skip

    # --- permission to read; any thread ---

    def permit(self, messages: float = float("inf")) -> None:
        """Permit it to read ``messages`` more. Idempotent, never blocks."""
        with self._monitor.lock:
            if self._permitted <= 0 and self._silent_since is not None:
                self._silent_since = time.monotonic()  # it could not be read until now
            self._permitted = messages
            start = self._thread is None and self._reader is not None and not self.ready
            if start and messages > 0 and not self._closed and not self.ended:
                self._start(self._run)
        self._monitor.notify()

    def hold(self) -> None:
        """Let it read no further message. Idempotent, never blocks.

        After this has returned, no message of it is dropped or displaces another. A read under way
        (one message; of a `Source` object one batch) is queued when there is room for it.
        """
        with self._monitor.lock:
            self._permitted = 0.0

    def read_ready(self, limit: int) -> None:
        """Queue up to ``limit`` messages of a ready source, if there is room for them. The worker's thread."""
        try:
            with self._monitor.lock:
                reader = self._reader
                if self._closed or self.ended or self._permitted <= 0 or not isinstance(reader, ReadyReader):
                    return
                counts = self._queue.snapshot()
                limit = min(limit - counts.queue_size, counts.queue_capacity - counts.queue_size)
                if limit <= 0 or self._restarts.wanted:
                    return
                self._state = "reading"
                count = self._admission.fill(reader.iterator, limit)
                self._permitted = max(self._permitted - count, 0)
            if not count and not self._queue.closed:
                self._end("exhausted")
        except Exception as error:  # an iterator whose container changed, for one
            if self._admission.holds:  # not the iterator's fault, but the journal's
                raise
            self._end("failed", error)

    def close(self, timeout_s: float = 0.0) -> None:
        """End it. A message that is being read is still queued, when there is room for it."""
        with self._monitor.lock:
            if self._closed:
                return
            self._closed = True
            thread, reader = self._thread, self._reader
            never_read = thread is None and not self.ended
        self._monitor.notify()
        TIMERS.forget(self._look)
        if reader is None:
            return
        if never_read:
            self._close(reader)
            return
        reader.interrupt(0)
        if thread is not None and threading.current_thread() is not thread:
            thread.join(timeout_s)
            if thread.is_alive():
                reader.interrupt(1)

    # --- its own thread ---

    def _start(self, run: Callable[[], None]) -> None:
        threading.Thread(target=run, name=f"timbr {self._name} source", daemon=True).start()

    def _run(self) -> None:
        """Read to the end, and again after each restart. Of two threads that were started, one returns at once."""
        with self._monitor.lock:
            following = self._reader
            if self._closed or self._thread is not None or following is None:
                return
            self._thread = threading.current_thread()
        mark_source_thread(self._queue)
        if self.options.idle_timeout_s is not None:
            TIMERS.watch(self._look, self.options.idle_timeout_s)
        self._read_and_restart(following)

    def _read_and_restart(self, reader: Reader | None) -> None:
        while reader is not None:
            may_restart = True
            try:
                error = self._read_to_end(reader)
            except BaseException as raised:  # raised while a drop was recorded, which no restart repairs
                may_restart, error = False, raised
            if not self._is_current(reader):
                logger.info("an abandoned read of the source has ended: %s", _text(error) or "well")
                self._close(reader)
                return
            reader = self._next_reader(reader, error, may_restart=may_restart)

    def _run_in_place_of_another(self) -> None:
        """Restart the source, or end it, in place of a thread whose read does not end."""
        with self._monitor.lock:
            self._thread = threading.current_thread()
        mark_source_thread(self._queue)
        self._read_and_restart(self._next_reader(None, None))

    def _read_to_end(self, reader: Reader) -> BaseException | None:
        """Read until the source ends; return what it raised, or None."""
        while self._may_read(reader):
            try:
                messages = reader.read()
            except EndOfSource:
                return None
            except BaseException as error:  # a source is foreign code: its failure becomes a state
                return error
            if len(messages):
                self._admit(messages, reader)
        return None

    def _may_read(self, reader: Reader) -> bool:
        """Wait until reading is permitted; return False when this reader must read no more."""
        if not self._watched and self._permitted > 0 and self._state == "reading" and not self._closed:
            return True  # the usual case
        self._monitor.wait_for(lambda: self._closed or reader is not self._reader or self._permitted > 0)
        with self._monitor.lock:
            if self._closed or reader is not self._reader:
                return False
            self._state = "reading"
            if self._silent_since is None:
                self._silent_since = time.monotonic()
            return True

    def _admit(self, messages: Sequence[object], reader: Reader) -> None:
        """Queue or drop messages."""
        if not self._is_current(reader):
            self._admission.admit(messages, droppable=False, position=_position_of(reader))
            return
        if not self._restarts.productive:
            self._restarts.note_message()
            self.error = None
        self._warn_of_reuse(messages[-1])
        droppable = not isinstance(reader, ReadyReader)
        self._admission.admit(messages, droppable=droppable, position=_position_of(reader))
        if self._permitted != float("inf"):
            with self._monitor.lock:
                self._permitted = max(self._permitted - len(messages), 0)

    def _warn_of_reuse(self, message: object) -> None:
        if message is self._last_message and isinstance(message, (dict, list, set, bytearray)):
            logger.warning(
                "the source of machine %s gave the same %s twice: what it changes in there after a yield changes "
                "messages that still wait; yield a copy", self._name, type(message).__name__,
            )  # fmt: skip
            message = _REUSED
        if self._last_message is not _REUSED:  # reported once
            self._last_message = message

    def _is_current(self, reader: Reader) -> bool:
        """Tell, after a read, whether the reader is still the present one, not abandoned.

        If it is, the read counts as ended, and the idle timeout can no longer abandon it.
        """
        if not self._watched:
            return True
        with self._monitor.lock:
            current = reader is self._reader
            if current:
                self._silent_since = None
            return current

    # --- end and restart ---

    def _next_reader(
        self, reader: Reader | None, error: BaseException | None, *, may_restart: bool = True
    ) -> Reader | None:
        """Return the reader after ``reader`` has ended; None: the source ends.

        ``reader`` is None when its read does not end: the abandoned thread closes it.
        """
        left_alone = reader is None
        while not self._closed:
            wait_s = self._restart_after(error, left_alone) if may_restart else None
            if wait_s is None or not self._pause(wait_s):
                break
            if reader is not None and not self._readers.reopens:
                self._close(reader)
                reader = None
            try:
                following = self._readers.restarted()
            except BaseException as raised:  # foreign code
                error = raised
                continue
            self._note_restart(following, after_failure=error is not None)
            return following
        if reader is not None:
            self._close(reader)
        self._end("exhausted" if error is None else "failed", error)
        return None

    def _restart_after(self, error: BaseException | None, left_alone: bool) -> float | None:
        """Return the seconds until it is restarted; None: never. Reports why."""
        was_silent, self._interrupted = self._interrupted > 0, 0
        if was_silent:
            self._on_event("idle", after_s=self.options.idle_timeout_s, count=self.count)
        wait_s = None
        if error is not None:
            wait_s = self._restarts.after_failure()
            if wait_s is None and was_silent:  # raised because of the interrupt: counts as an end
                wait_s = self._restarts.after_end()
            if wait_s is not None:
                self.error = error
                logger.warning(
                    "the source failed after %d messages; restart in %g s", self.count, wait_s, exc_info=error
                )
                self._on_event("source_failed", error=_text(error), restart_in_s=wait_s, count=self.count)
        elif not (left_alone and self._readers.reopens):
            wait_s = self._restarts.after_end()
        if wait_s is not None:
            self._state = "restarting"
        return wait_s

    def _pause(self, wait_s: float) -> bool:
        """Wait ``wait_s``, then until reading is permitted; return False when it was closed meanwhile."""
        monitor = self._monitor
        return not monitor.wait_for(lambda: self._closed, wait_s) and (
            monitor.wait_for(lambda: self._closed or self._permitted > 0) and not self._closed
        )

    def _note_restart(self, reader: Reader, *, after_failure: bool) -> None:
        with self._monitor.lock:
            self._reader = reader
            if self._closed:
                reader.interrupt(0)
        if self._restarts.note_restart(time.monotonic(), after_failure=after_failure):
            self._on_event("restarted", number=self._restarts.count)

    def _end(self, state: SourceStateName, error: BaseException | None = None) -> None:
        TIMERS.forget(self._look)
        self.error = error
        if error is not None:
            logger.warning("the source failed after %d messages", self.count, exc_info=error)
        if not self._closed:
            self._state = state
        self._on_end(self)

    def _close(self, reader: Reader) -> None:
        call_isolated(reader.close, on_failure=self._closing_failed)

    def _closing_failed(self, error: BaseException) -> None:
        logger.warning("closing the source of machine %s failed", self._name, exc_info=error)

    # --- idle timeout; the thread of `TIMERS` ---

    def _look(self) -> float | None:
        """Interrupt a read that exceeded the idle timeout; return the seconds until the next check."""
        timeout_s = self.options.idle_timeout_s
        with self._monitor.lock:
            reader = self._reader
            if timeout_s is None or self._closed or self.ended:
                return None
            if self._permitted <= 0 or self._silent_since is None or reader is None:
                return timeout_s
            left_s = self._silent_since + timeout_s - time.monotonic()
            if left_s > 0:
                return left_s
            self._interrupted += 1
            if reader.interrupt(self._interrupted - 1):
                return GRACE_S
            self._reader = self._silent_since = None
            self._start(self._run_in_place_of_another)
        self._monitor.notify()
        return timeout_s


def _position_of(reader: Reader) -> Callable[[], JsonValue] | None:
    return reader.position if isinstance(reader, SourceReader) else None


#: In place of a source's last message, once the reuse of one object was reported.
_REUSED = object()


def _eta_s(left: int | None, rate_per_s: float) -> float | None:
    return left / rate_per_s if left is not None and rate_per_s > 0 else None


def _text(error: BaseException | None) -> str | None:
    return None if error is None else described(error)
