"""The base of executors with several messages under way: starting, order, backoff.

The thread in `WindowExecutor.process` decides everything: it starts messages, drives their careful passes,
keeps those in backoff and yields finished ones in the order in which they were started. Calls that run elsewhere
(event loop, threads, child processes) return their results as functions in one queue, which that thread runs.
So nothing here needs a lock, and hooks around messages run in one thread.

A message in backoff is overtaken by others. Its record comes when it is finished.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from timbr_wamp.machine.messages import KEEPING, Entry, Finished, Notes
from timbr_wamp.machine.protocols import Plan, PlanStep, RunContext
from timbr_wamp.machine.running.backoff import Backoff
from timbr_wamp.machine.running.careful_pass import (
    SLEPT,
    Call,
    CallOutcome,
    CarefulPass,
    PassSteps,
    Sleep,
    isolated,
)
from timbr_wamp.machine.running.sampling import TimingSample

#: Interval at which `may_start` is polled while messages wait that may not start, seconds.
POLL_S = 0.1


class UnderWay:
    """One message under way. The thread in `process` changes it; other threads read."""

    __slots__ = ("abandoned", "entry", "finished", "in_backoff", "revision", "steps", "task")

    def __init__(self, entry: Entry, revision: Plan) -> None:
        self.entry, self.revision = entry, revision
        #: Its careful pass, once it has one.
        self.steps: PassSteps | None = None
        self.finished: Finished | None = None
        #: It has waited for a retry: the order no longer includes it.
        self.in_backoff = False
        #: Its entry was returned by `WindowExecutor.abandon`.
        self.abandoned = False
        #: A handle of the present call, for executors that can cancel it.
        self.task: Any = None


class WindowExecutor:
    """An executor whose subclasses define where calls run: `_start` and `_start_call`."""

    name = "window"

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._sample = TimingSample()
        self._backoff: Backoff[UnderWay] = Backoff(monotonic)
        #: Functions from other threads for the thread in `process`.
        self._events: SimpleQueue[Callable[[], None]] = SimpleQueue()
        #: Started and not yielded, oldest first.
        self._under_way: dict[UnderWay, None] = {}
        #: Messages whose records are yielded in this order.
        self._order: deque[UnderWay] = deque()
        #: Started, not finished, and never in backoff.
        self._running: set[UnderWay] = set()
        #: Those whose retry runs.
        self._retried: dict[UnderWay, None] = {}
        #: Finished after they were overtaken.
        self._overtaken: list[UnderWay] = []
        #: Finished with a verdict that the machine handles before another message starts.
        self._halting: set[UnderWay] = set()
        self._context: RunContext | None = None
        #: The thread in `process` waits for an event.
        self._waiting = False
        #: Messages under way cannot be finished: the pool or loop that runs them was closed.
        self._broken = False

    def started_entries(self) -> list[Entry]:
        """Return the entries that were started and not yielded, oldest first. Any thread."""
        return [one.entry for one in tuple(self._under_way)]

    # --- for subclasses ---

    def _room(self, context: RunContext) -> int:
        """Return how many messages may run at once."""
        return context.concurrency

    def _start(self, one: UnderWay, context: RunContext) -> None:
        """Start a message's slots."""
        self._run_carefully(one, context)

    def _start_call(self, one: UnderWay, call: Call) -> CallOutcome | None:
        """Make a call and return its outcome; or start it, return None, and later `_post` a call of `_advance`."""
        return isolated(self.invoke, call)

    def _send(self) -> None:
        """Send calls that were started since the last time."""

    def invoke(self, step: PlanStep, arguments: Sequence[Any]) -> Any:
        """Call one step's function; see `timbr_wamp.machine.protocols.Executor`."""
        return step.function(*arguments)

    # --- processing: one thread ---

    def process(
        self, entries: deque[Entry], context: RunContext, add: Callable[[Finished], object]
    ) -> Iterator[Finished | None]:
        """Process entries; see `timbr_wamp.machine.protocols.Executor`. Every one is yielded."""
        self._context = context
        while True:
            failure = self._advance_all(entries, context)
            finished = self._in_order()
            for one in finished:
                if one in self._under_way:
                    yield self._taken(one)
                    self._halting.discard(one)
            if failure is not None:
                raise failure
            if self._broken:
                entries.extendleft(reversed(self.abandon()))
                return
            if finished:
                continue
            if not self._order and not (entries and self._backoff.full and context.may_start()):
                return
            self._wait(entries, context)

    def _advance_all(self, entries: deque[Entry], context: RunContext) -> BaseException | None:
        """Do all work that needs no waiting; return an error, so that finished messages are yielded first."""
        try:
            self._run_events()
            self._retry_due(context)
            self._start_waiting(entries, context)
            self._send()
        except BaseException as error:
            return error
        return None

    def _start_waiting(self, entries: deque[Entry], context: RunContext) -> None:
        room = self._room(context)
        while (
            entries
            and len(self._running) < room
            and not self._halting
            and not self._backoff.full
            and not self._broken
            and context.may_start()
        ):
            one = self._adopted(entries.popleft(), context.current())
            self._running.add(one)
            self._order.append(one)
            context.hooks.call("pre_message", one.entry[0], one.entry[1])
            self._start(one, context)

    def _adopted(self, entry: Entry, revision: Plan) -> UnderWay:
        one = UnderWay(entry, revision)
        self._under_way[one] = None
        return one

    def _taken(self, one: UnderWay) -> Finished:
        """Forget a message that is finished."""
        del self._under_way[one]
        assert one.finished is not None, "only finished messages are yielded"
        return one.finished

    def _run_events(self) -> None:
        while not self._broken:
            try:
                event = self._events.get_nowait()
            except Empty:
                return
            event()

    def _wait(self, entries: deque[Entry], context: RunContext) -> None:
        """Wait for an event, a due retry, or the next poll of `may_start`."""
        timeout_s = self._backoff.due_s()
        if timeout_s is not None and (self._halting or not context.may_start()):
            timeout_s = POLL_S
        elif entries:
            timeout_s = POLL_S if timeout_s is None else min(timeout_s, POLL_S)
        self._waiting = True
        try:
            event = self._events.get(timeout=timeout_s)
        except Empty:
            return
        finally:
            self._waiting = False
        event()

    def _in_order(self) -> list[UnderWay]:
        """Return the messages that can be yielded now."""
        ready, self._overtaken = self._overtaken, []
        order = self._order
        while order and (order[0].finished is not None or order[0].in_backoff or order[0].abandoned):
            one = order.popleft()
            if not one.in_backoff and not one.abandoned:
                ready.append(one)
        return ready

    # --- one message: the thread in `process` ---

    def _run_carefully(self, one: UnderWay, context: RunContext, **known: Any) -> None:
        """Run a message by a careful pass; ``known`` are further arguments of `CarefulPass`."""
        oid, message = one.entry[0], known.pop("message", one.entry[1])
        one.steps = CarefulPass(one.revision, message, context, oid, **known).steps()
        self._advance(one, None)

    def _advance(self, one: UnderWay, outcome: CallOutcome | None) -> None:
        """Drive a careful pass until a call was started, it waits for a retry, or it is finished."""
        steps = one.steps
        assert steps is not None, "only careful passes are driven"
        if one.abandoned:
            steps.close()
            return
        while True:
            try:
                request = next(steps) if outcome is None else steps.send(outcome)
            except StopIteration as end:
                self._finish(one, *end.value)
                return
            if isinstance(request, Sleep):
                self._put_in_backoff(one, request.seconds)
                return
            outcome = self._start_call(one, request)
            if outcome is None:
                return

    def _put_in_backoff(self, one: UnderWay, seconds: float) -> None:
        self._backoff.add(one, seconds)
        one.in_backoff = True
        self._running.discard(one)
        self._retried.pop(one, None)

    def _retry_due(self, context: RunContext) -> None:
        while context.may_start() and not self._halting and (one := self._backoff.take_due()) is not None:
            self._retried[one] = None
            self._advance(one, SLEPT)

    def _finish(self, one: UnderWay, values: list[Any], texts: list[bytes], notes: Notes | tuple[()]) -> None:
        context = self._context
        assert context is not None
        context.hooks.call("post_message", one.entry[0], values, list(notes.failures) if notes else [])
        one.finished = (one.entry, one.revision, texts, notes, context.clock())
        self._running.discard(one)
        self._retried.pop(one, None)
        if notes and (notes.verdict in KEEPING or notes.raised is not None):
            self._halting.add(one)
        if one.in_backoff:
            self._overtaken.append(one)

    def _post(self, event: Callable[[], None]) -> None:
        """Run ``event`` in the thread in `process`; wake the worker if there is none. Any thread."""
        self._events.put(event)
        context = self._context
        if context is not None and not self._running:
            context.wake()

    def _break(self) -> None:
        """Note that the pool or loop was closed: messages under way are given back."""
        self._broken = True

    # --- between calls of `process` ---

    def due_s(self) -> float | None:
        """Return in how many seconds a retry is due."""
        if not self._events.empty() or self._overtaken:
            return 0.0
        return self._backoff.due_s()

    @property
    def retrying(self) -> int:
        """Messages that wait for a retry or are being retried. Any thread."""
        return sum(one.in_backoff and one.finished is None for one in list(self._under_way))

    @property
    def retried_oid(self) -> str | None:
        """The message whose retry was started last, while it runs. Any thread."""
        return next((one.entry[0] for one in reversed(list(self._retried))), None)

    def oldest_revision(self) -> int | None:
        """Return the revision of the oldest message under way."""
        return next((one.revision.number for one in self._under_way), None)

    def abandon(self) -> list[Entry]:
        """Forget the messages that were started and not yielded, and return them, oldest first."""
        under_way, self._under_way = list(self._under_way), {}
        for one in under_way:
            one.abandoned = True
            if one.steps is not None:
                one.steps.close()
        self._backoff.clear()
        self._running.clear()
        self._retried = {}
        self._halting.clear()
        self._overtaken = []
        with contextlib.suppress(Empty):
            while True:
                self._events.get_nowait()
        if self._waiting:
            self._events.put(lambda: None)
        return [one.entry for one in under_way]

    def refusal(self, step: PlanStep) -> str | None:
        """Refuse nothing."""
        return None
