"""The machine's present source: set and deleted, permitted to read, reported as drained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timbr_wamp.contract import EventKind, MachineStateName, Progress, SourceOptions, SourceStatus
from timbr_wamp.errors import MachineClosed, SourceActive
from timbr_wamp.machine.events.log import EventLog
from timbr_wamp.machine.forks import short_lock
from timbr_wamp.machine.intake.feeder import Feeder
from timbr_wamp.machine.intake.message_queue import MessageQueue
from timbr_wamp.machine.intake.readers import resume_source
from timbr_wamp.machine.protocols import Clock, DropRecorder
from timbr_wamp.names import new_oids

#: Time for the present read of a deleted source to end, seconds.
CLOSE_S = 0.2


class CurrentSource:
    """A machine's source, or none. Any thread; `read_ready` and `read_one`: the thread that processes messages.

    Args:
        apply_permission: permits or holds the source, by the machine's state.
        halt: stops the machine for a reason.
        on_failure: called with the error of a source that failed for good.
    """

    def __init__(
        self,
        *,
        name: str,
        queue: MessageQueue,
        recorder: DropRecorder,
        events: EventLog,
        clock: Clock,
        apply_permission: Callable[[], None],
        halt: Callable[[str], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._name, self._queue, self._recorder, self._events = name, queue, recorder, events
        self._clock, self._apply_permission, self._halt, self._on_failure = clock, apply_permission, halt, on_failure
        #: Guards the attributes below; no callback is called while it is held.
        self._lock = short_lock()
        self._feeder: Feeder | None = None
        self._closed = False
        #: The source whose end was reported, the one whose `drained` is being reported, and the one whose was.
        self._ended: Feeder | None = None
        self._draining: Feeder | None = None
        self._drained: Feeder | None = None

    # --- set and delete ---

    def set_source(
        self, source: object, total: int | None, options: SourceOptions, *, replace: bool, author: str | None
    ) -> Feeder:
        """Set the source; see `Machine.set_source`."""
        self._refuse_accident(replace)
        resumed = resume_source(source, self._recorder.take_position())
        feeder = Feeder(
            source, total, options=options, queue=self._queue, clock=self._clock, new_oids=new_oids, name=self._name,
            on_end=self._source_ended, on_drop=self._recorder.drop, on_event=self._event,
        )  # fmt: skip
        with self._lock:
            self._refuse_accident(replace)
            old, self._feeder = self._feeder, feeder
        if old is not None:
            old.close()
        self._events.add("source_set", author, total=feeder.total, **({"resumed": True} if resumed else {}))
        self._apply_permission()
        return feeder

    def _refuse_accident(self, replace: bool) -> None:
        if self._closed:
            raise MachineClosed(self._name)
        present = self._feeder
        if present is not None and not present.ended and not replace:
            raise SourceActive(present.status(0.0).state)

    def delete_source(self, author: str | None) -> None:
        """Remove the source; messages already read stay queued."""
        with self._lock:
            feeder, self._feeder = self._feeder, None
        if feeder is not None:
            feeder.close(timeout_s=CLOSE_S)
            self._events.add("source_deleted", author, count=feeder.count)

    def close(self) -> None:
        """Release the source and refuse another one."""
        with self._lock:
            self._closed = True
            feeder = self._feeder
        if feeder is not None:
            feeder.close(timeout_s=CLOSE_S)

    # --- reading ---

    def permit(self) -> None:
        """Let the source read. Idempotent, never blocks."""
        with self._lock:
            if self._feeder is not None:
                self._feeder.permit()

    def hold(self) -> None:
        """Let the source read no further message. Idempotent, never blocks.

        After this has returned, no message of a source is dropped or displaces another; a read under way is
        queued when there is room for it, whatever the policy.
        """
        with self._lock:
            if self._feeder is not None:
                self._feeder.hold()

    def read_ready(self, limit: int) -> None:
        """Read up to ``limit`` messages of a source that never blocks."""
        feeder = self._feeder
        if feeder is not None:
            feeder.read_ready(limit)

    def read_one(self) -> None:
        """Let the source read one message, if none waits."""
        feeder = self._feeder
        if feeder is not None and not feeder.ended and self._queue.idle():
            feeder.permit(1)
            feeder.read_ready(1)

    # --- its end ---

    def _event(self, kind: EventKind, /, **data: Any) -> None:
        self._events.add(kind, None, **data)

    def _source_ended(self, feeder: Feeder) -> None:
        if feeder is self._feeder:
            if feeder.error is not None and feeder.failed:
                self._events.add("source_failed", error=feeder.status(0.0).error, count=feeder.count)
                self._on_failure(feeder.error)
            elif feeder.ended:
                self._events.add("exhausted", count=feeder.count)
            self._ended = feeder  # after its failure was reported
        self.report_drained()
        self._queue.wake()

    def report_drained(self) -> None:
        """Report `drained` once, when the source has ended and all its messages are recorded."""
        feeder = self._feeder
        if feeder is None or feeder is self._drained or feeder is not self._ended or not self._queue.idle():
            return
        with self._lock:
            if feeder is self._draining:
                return
            self._draining = feeder
        self._events.add("drained", count=feeder.count)
        if feeder.options.on_exhausted == "stop" and not feeder.failed:
            self._halt("the source is exhausted, and all of it is recorded")
        self._drained = feeder
        self._queue.wake()

    # --- state ---

    @property
    def reading(self) -> bool:
        """Whether there is a source that has not ended."""
        feeder = self._feeder
        return feeder is not None and not feeder.ended

    @property
    def settled(self) -> bool:
        """Nothing is queued or in flight, and the source, if any, was reported as drained."""
        feeder = self._feeder
        return (feeder is None or feeder is self._drained) and self._queue.idle()

    def status(self, rate_per_s: float) -> SourceStatus:
        """Return the source's status."""
        feeder = self._feeder
        return SourceStatus() if feeder is None else feeder.status(rate_per_s)

    def progress(self, state: MachineStateName) -> Progress:
        """Return the progress with the source; without one, the number of records."""
        feeder, counts, recorder = self._feeder, self._queue.snapshot(), self._recorder
        rate = recorder.rates_per_s()[1]
        if feeder is None:
            return Progress(done=recorder.count, errored=counts.errored, rate_per_s=rate, state=state)
        return feeder.progress(counts, rate_per_s=rate, state=state, drained=feeder is self._drained)
