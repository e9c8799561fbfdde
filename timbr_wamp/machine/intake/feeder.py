"""The `Feeder`: what reads a source into the queue, for as long as the machine has it.

What may block is read by a thread of its own, ahead until the queue is full; what is ready (a list,
a range, their iterators) by the machine's worker, as it needs it. Left to others: how to read
(`machine.readers`), when to begin again (`machine.restarts`), and what becomes of a message while
the queue is full (`machine.inlet`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from timbr_wamp.contract import MachineStateName, Progress, SourceOptions, SourceStatus
from timbr_wamp.contract.structs import SourceStateName
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.machine.intake.admission import Admission, OnDrop, checked_options
from timbr_wamp.machine.intake.message_queue import Counts, MessageQueue
from timbr_wamp.machine.intake.readers import Origin, Reader, ReadyReader, SourceReader
from timbr_wamp.machine.intake.restarts import Restarts
from timbr_wamp.machine.intake.timers import TIMERS
from timbr_wamp.machine.protocols import Clock, EndOfSource
from timbr_wamp.values import JsonValue, clean_text

logger = logging.getLogger(__name__)

#: A silent source that can be interrupted is left to itself when it has not ended after so long, seconds.
GRACE_S = 0.5


#: Told by kind and data of ``idle``, ``source_failed``, ``restarted``, in the source's thread; may not block or raise.
OnSourceEvent: TypeAlias = Callable[..., object]


def _tell_nobody(kind: str, **data: object) -> None:
    pass


class Feeder:
    """What reads a source into the queue, and where it is.

    It lives as long as the source, over pauses and stops of the machine: `permit` lets it read on.

    Args:
        total: how many messages there will be; None: what the source itself tells.
        options: policy, restarts, what silence and the end mean.
        on_end: told once when it has ended or was closed, by the thread that read last; on_event: what comes before.
        on_drop: takes what the policy dropped, to be recorded; None: it is only counted.

    Raises:
        NotASource: nothing that gives messages.
        InvalidArgument: a wrong total or option, or it is to be begun again and cannot be.
    """

    def __init__(
        self,
        source: object,
        total: int | None,
        *,
        ledger: MessageQueue,
        clock: Clock,
        new_oid: Callable[[float], str],
        on_end: Callable[[Feeder], object],
        name: str,
        options: SourceOptions | None = None,
        on_drop: OnDrop | None = None,
        on_event: OnSourceEvent = _tell_nobody,
    ) -> None:
        self.options = checked_options(options or SourceOptions(), total)
        self._origin = Origin(source)
        self._restarts = Restarts(self.options)
        if self._restarts.wanted and (problem := self._origin.why_not_again()) is not None:
            raise InvalidArgument("source", problem)
        # Read in a circle, a list of three does not end after three.
        own_total = None if self.options.on_exhausted == "restart" else self._origin.total
        self.total = own_total if total is None else total
        self.error: BaseException | None = None
        #: Where to resume, after the last message queued; None where nobody knows.
        self.position: JsonValue = None
        self._name, self._ledger, self._on_end, self._on_event = name, ledger, on_end, on_event
        self._before = ledger.snapshot()
        self._permits = threading.Condition()
        self._budget = 0.0
        self._closed = False
        self._inlet = Admission(
            self.options, ledger=ledger, clock=clock, new_oid=new_oid, on_drop=on_drop,
            may_drop=lambda: self._budget > 0 and not self._closed,
        )  # fmt: skip
        self._reader = self._origin.first
        self._begin()

    def _begin(self) -> None:
        self._state: SourceStateName = "waiting"
        self._thread: threading.Thread | None = None
        #: Grows when a thread is left to itself: what it reads then is queued still, and it reads no more.
        self._turn = 0
        #: Since when a read waits for the source, on `time.monotonic`; None while none does.
        self._silent_since: float | None = None
        self._idle = False
        #: It may be given up, by the watcher.
        self._watched = self.options.idle_timeout_s is not None

    # --- what others ask and say; any thread ---

    @property
    def ended(self) -> bool:
        """It is exhausted or failed, and all it gave is queued."""
        return self._state in ("exhausted", "failed")

    @property
    def failed(self) -> bool:
        """It ended with an error."""
        return self._state == "failed"

    @property
    def count(self) -> int:
        """Messages read since it was set."""
        return self._inlet.count

    @property
    def reading(self) -> bool:
        """It has a thread of its own that lives; one that was given up does not count."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """It never blocks and has one end: `refill` reads it, no thread."""
        return self._origin.ready and not self._restarts.wanted

    def permit(self, messages: float) -> None:
        """Let it read so many messages more; infinity: without end; 0: none after the one being read."""
        with self._permits:
            if self._budget <= 0 and self._silent_since is not None:
                self._silent_since = time.monotonic()
            self._budget = messages
            if self._thread is None and messages > 0 and not self._closed and not self.ready:
                self._start(self._run)
                if self.options.idle_timeout_s is not None:
                    TIMERS.watch(self._look, self.options.idle_timeout_s)
            self._permits.notify_all()

    def refill(self, limit: int) -> None:
        """Queue up to ``limit`` messages of a ready source, if there is room for them. The worker's thread."""
        reader = self._reader
        if self._closed or self.ended or self._budget <= 0 or not self.ready or not isinstance(reader, ReadyReader):
            return
        counts = self._ledger.snapshot()
        limit = min(limit - counts.queue_size, counts.queue_capacity - counts.queue_size)
        if limit <= 0:
            return
        self._state = "reading"
        try:
            messages = reader.read(limit)
            self._inlet.fill(messages)
            self._spend(len(messages))
        except EndOfSource:
            self._ended("exhausted")
        except BaseException as error:  # an iterator whose container changed, for one
            self._ended("failed", error)

    def close(self, timeout_s: float = 0.0) -> None:
        """End it. A message that it is just reading is queued still, when there is room for it."""
        with self._permits:
            if self._closed:
                return
            self._closed = True
            thread = self._thread
            never_read = thread is None and not self.ended
            self._permits.notify_all()
        TIMERS.forget(self._look)
        self._reader.cancel()
        if never_read:
            self._close(self._reader)
        elif thread is not None and threading.current_thread() is not thread:
            thread.join(timeout_s)

    def status(self, rate_per_s: float) -> SourceStatus:
        """Return where it is; ``rate_per_s`` is for the estimate of the time left."""
        left = None if self.total is None else max(self.total - self.count, 0)
        state = self._state
        if (state == "reading" and self._budget <= 0) or (self._closed and not self.ended):
            state = "waiting"
        return SourceStatus(
            state=state, count=self.count, total=self.total, eta_s=None if self.ended else _eta_s(left, rate_per_s),
            error=_text(self.error), dropped=self._inlet.dropped, restarts=self._restarts.number, options=self.options,
        )  # fmt: skip

    def progress(self, counts: Counts, *, rate_per_s: float, state: MachineStateName, drained: bool) -> Progress:
        """Return how far the machine is with it.

        ``counts`` are the ledger's now; ``drained`` tells that all of it is recorded. What waited
        already when it was set is not counted as done.
        """
        done = max(counts.put - counts.queue_size - counts.in_flight - self._before.put, 0)
        complete = drained and self._state == "exhausted"
        percentage = None
        if self.total is not None:
            percentage = 100.0 if complete or not self.total else min(100.0 * done / self.total, 100.0)
        left = None if self.total is None else max(self.total - done, 0)
        return Progress(
            done=done, total=self.total, percentage=percentage, errored=counts.errored - self._before.errored,
            rate_per_s=rate_per_s, eta_s=None if complete else _eta_s(left, rate_per_s), state=state, complete=complete,
        )  # fmt: skip

    # --- its own thread ---

    def _start(self, run: Callable[[Reader, int], None]) -> None:
        self._thread = threading.Thread(
            target=run, args=(self._reader, self._turn), name=f"timbr {self._name} source", daemon=True
        )
        self._thread.start()

    def _run(self, reader: Reader, turn: int) -> None:
        """Read to the end, and on from each new begin."""
        following: Reader | None = reader
        while following is not None:
            reader = following
            mishap, error = False, None
            try:
                error = self._read_to_end(reader, turn)
            except BaseException as raised:  # by who records what was dropped: no restart mends that
                mishap, error = True, raised
            if not self._is_mine(turn):
                logger.info("a read of the source that was given up has ended now: %s", _text(error) or "well")
                self._close(reader)
                return
            following = self._next_reader(reader, error, final=mishap)

    def _run_on(self, reader: Reader, turn: int) -> None:
        """Go on in place of a thread whose read of ``reader`` does not end."""
        following = self._next_reader(reader, None, under_way=True)
        if following is not None:
            self._run(following, turn)

    def _read_to_end(self, reader: Reader, turn: int) -> BaseException | None:
        """Read until there is an end; return what the source raised."""
        while self._may_read(turn):
            try:
                messages = reader.read()
            except EndOfSource:
                return None
            except BaseException as error:  # a source is foreign code: its failure is a state, not our end
                return error
            if messages:
                self._take(messages, reader, turn)
        return None

    def _may_read(self, turn: int) -> bool:
        """Wait for a permit; False when it is to read no more."""
        if self._state == "reading" and self._budget > 0 and not self._watched and not self._closed:
            return True  # as for each message of a source that flows
        with self._permits:
            self._permits.wait_for(lambda: self._closed or turn != self._turn or self._budget > 0)
            if self._closed or turn != self._turn:
                return False
            self._state = "reading"
            if self._silent_since is None:
                self._silent_since = time.monotonic()
            return True

    def _take(self, messages: Sequence[object], reader: Reader, turn: int) -> None:
        """Let messages into the queue."""
        if not self._is_mine(turn):
            self._inlet.admit(messages, late=True)
            return
        if not self._restarts.given:
            self._restarts.gave()
            self.error = None
        self._inlet.admit(messages, droppable=not isinstance(reader, ReadyReader))
        self._spend(len(messages))
        if isinstance(reader, SourceReader):
            try:
                self.position = reader.position()
            except Exception:  # foreign code; the messages are queued already
                logger.warning("the source does not tell its position", exc_info=True)

    def _is_mine(self, turn: int) -> bool:
        """Tell, after a read, whether it was not given up meanwhile; from now on it will not be."""
        if not self._watched:
            return True
        with self._permits:
            if turn == self._turn:
                self._silent_since = None
            return turn == self._turn

    def _spend(self, messages: int) -> None:
        if self._budget != float("inf"):
            with self._permits:
                self._budget = max(self._budget - messages, 0)

    # --- end and new begin ---

    def _next_reader(
        self, reader: Reader, error: BaseException | None, *, under_way: bool = False, final: bool = False
    ) -> Reader | None:
        """Return what to read after the end of ``reader``; None: that was all.

        ``under_way``: it is being read still, and closed by who reads it; ``final``: no new begin.
        """
        held = not under_way
        while not self._closed:
            wait_s = None if final else self._restart_in(error, under_way)
            if wait_s is None or not self._pause(wait_s):
                break
            if held and not self._origin.reopens:
                self._close(reader)
                held = False
            try:
                following = self._origin.again()
            except BaseException as raised:  # foreign code
                error = raised
                continue
            self._restarted(following, after_failure=error is not None)
            return following
        if held:
            self._close(reader)
        self._ended("exhausted" if error is None else "failed", error)
        return None

    def _restart_in(self, error: BaseException | None, under_way: bool) -> float | None:
        """Return after how many seconds it is begun again; None: never. Tells why."""
        if error is not None:
            wait_s = self._restarts.after_failure()
            if wait_s is not None:
                self.error, self._state = error, "restarting"
                logger.warning("the source failed after %d messages; again in %g s", self.count, wait_s, exc_info=error)
                self._on_event("source_failed", error=_text(error), restart_in_s=wait_s, count=self.count)
            return wait_s
        if self._idle:
            self._on_event("idle", after_s=self.options.idle_timeout_s, count=self.count)
        wait_s = None if under_way and self._origin.reopens else self._restarts.after_end()
        if wait_s is not None:
            self._state = "restarting"
        return wait_s

    def _pause(self, wait_s: float) -> bool:
        """Wait so long, and then for a permit; False when it was closed meanwhile."""
        with self._permits:
            self._silent_since = None
            self._permits.wait_for(lambda: self._closed, wait_s)
            self._permits.wait_for(lambda: self._closed or self._budget > 0)
            return not self._closed

    def _restarted(self, reader: Reader, *, after_failure: bool) -> None:
        with self._permits:
            self._reader = reader
            self._idle = False
            if self._closed:
                reader.cancel()
        if self._restarts.begun(time.monotonic(), after_failure=after_failure):
            self._on_event("restarted", number=self._restarts.number)

    def _ended(self, state: SourceStateName, error: BaseException | None = None) -> None:
        TIMERS.forget(self._look)
        self.error = error
        if error is not None:
            logger.warning("the source failed after %d messages", self.count, exc_info=error)
        if not self._closed:
            self._state = state
        self._on_end(self)

    def _close(self, reader: Reader) -> None:
        try:
            reader.close()
        except Exception:  # foreign code
            logger.warning("closing the source failed", exc_info=True)

    # --- silence; the watcher's thread ---

    def _look(self) -> float | None:
        """Give the source up when it was silent for too long; return when to look again, in seconds."""
        timeout_s = self.options.idle_timeout_s
        with self._permits:
            if timeout_s is None or self._closed or self.ended:
                return None
            if self._budget <= 0 or self._silent_since is None:
                return timeout_s
            left_s = self._silent_since + timeout_s - time.monotonic()
            if left_s > 0:
                return left_s
            if not self._idle:
                self._idle = True
                if self._reader.cancellable:
                    self._reader.cancel()
                    return GRACE_S
            self._turn += 1
            self._silent_since = None
            self._start(self._run_on)
            return timeout_s


def _eta_s(left: int | None, rate_per_s: float) -> float | None:
    return left / rate_per_s if left is not None and rate_per_s > 0 else None


def _text(error: BaseException | None) -> str | None:
    return None if error is None else clean_text(f"{type(error).__name__}: {error}")
