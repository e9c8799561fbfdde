"""A micro-batch of messages as one Dask graph: independent slots side by side, messages in lanes.

A graph has as many lanes as messages may be under way at once. In a lane one message follows the
other; which message that is, is decided when it begins: the oldest that waits. So messages begin in
order, and none does once the machine is not to go on or its slots have changed: it comes in the
next graph. A graph for every message would cost one or two milliseconds each.

Tasks raise nothing and return nothing: what a slot gave or raised is kept in the message's `UnderWay`,
and whichever task is a message's last one finishes it, with a `CarefulPass` where there was trouble.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from typing import Any, Protocol

import dask.threaded
import dask.widgets

from timbr_wamp.machine.messages import Entry, Finished, Notes
from timbr_wamp.machine.protocols import Plan, RunContext
from timbr_wamp.machine.running.backoff import CallStep
from timbr_wamp.machine.running.careful_pass import CarefulPass, KnownOutcome, PassResult, PassSteps, awaiting
from timbr_wamp.machine.running.executors.thread_pool import DaemonPool
from timbr_wamp.machine.slots.callables import is_unawaited
from timbr_wamp.machine.slots.dependencies import Dependencies
from timbr_wamp.values import text_of

#: Without jinja2 Dask keeps the error of that import, whose frames keep alive whoever asked for Dask
#: first: the first machine with threads, and all that it had.
if isinstance(_missing := getattr(dask.widgets, "exception", None), ImportError):
    _missing.__traceback__ = None

#: A graph of parts of messages has at least so many messages, and so many times the lanes.
BATCH_MESSAGES, BATCH_ROUNDS = 16, 4
#: Verdicts after which the machine is to decide before another message begins.
HALTING = frozenset({"pause", "stop"})


class UnderWay:
    """One message under way."""

    __slots__ = ("abandoned", "answers", "aside", "entry", "finished", "left", "timed")

    def __init__(self, entry: Entry, wiring: Dependencies, *, timed: bool) -> None:
        self.entry, self.timed = entry, timed
        #: The message itself, then what each step gave or raised, with its text; None: it did not run.
        self.answers: list[KnownOutcome | None] = [None] * (len(wiring.feeds) + 1)
        #: Segments that have not ended.
        self.left = len(wiring.segments)
        self.finished: Finished | None = None
        #: It waits for a retry: others need not wait for it.
        self.aside = False
        #: Whoever wanted it does not want it any more. Set by `UnderWayTable.abandon`.
        self.abandoned = False


class UnderWayTable(Protocol):
    """Where messages under way are known. Any thread."""

    @property
    def may_begin(self) -> bool:
        """Messages that wait for a retry let another begin."""

    def add(self, entry: Entry, wiring: Dependencies) -> UnderWay:
        """Return an entry as a message under way."""

    def take(self, going: UnderWay) -> bool:
        """Forget a message that is finished; tell whether it was still wanted."""

    def carefully(self, going: UnderWay, way: PassSteps, revision: Plan, context: RunContext) -> PassResult | None:
        """Go on with its way; None when it waits for a retry now, or is not wanted any more."""


class DaskBatch:
    """One graph. `finished` is called once; the rest runs in the pool."""

    def __init__(
        self,
        entries: deque[Entry],
        context: RunContext,
        revision: Plan,
        wiring: Dependencies,
        begun: UnderWayTable,
        call: CallStep,
    ) -> None:
        self._entries, self._context, self._revision, self._wiring = entries, context, revision, wiring
        self._begun, self._call = begun, call
        self._lock = threading.Lock()
        self._stopped = False
        #: In the order in which they began; those at the left are finished or aside.
        self._order: deque[UnderWay] = deque()
        #: By the number in a lane's graph; None: it was not begun.
        self._by_number: dict[int, UnderWay | None] = {}
        self._ready: SimpleQueue[list[UnderWay] | BaseException | None] = SimpleQueue()

    def finished(self, pool: DaemonPool) -> Iterator[Finished]:
        """Run the graph in the pool; yield what is finished as it is finished, in order."""
        pool.submit(self._drive, pool)
        try:
            while (batch := self._ready.get()) is not None:
                if isinstance(batch, BaseException):
                    raise batch
                for going in batch:
                    if self._begun.take(going) and going.finished is not None:
                        yield going.finished
        finally:
            with self._lock:
                self._stopped = True

    def _drive(self, pool: DaemonPool) -> None:
        try:
            graph, ends = self._graph()
            dask.threaded.get(graph, ends, pool=pool)
        except BaseException as error:  # a hook's SystemExit, say: it is for whoever waits
            self._ready.put(error)
        else:
            self._ready.put(None)

    # --- the graph ---

    def _graph(self) -> tuple[dict[str, tuple[Any, ...]], list[str]]:
        """Return the tasks, in the form ``(callable, "key of a task before it", …)``, and the last ones."""
        lanes = min(self._context.concurrency, len(self._entries))
        if len(self._wiring.segments) == 1:  # nothing runs side by side: a lane is one task
            graph: dict[str, tuple[Any, ...]] = {f"lane {n}": (self._lane,) for n in range(lanes)}
            return graph, list(graph)
        messages = min(len(self._entries), max(BATCH_MESSAGES, BATCH_ROUNDS * lanes))
        graph = {}
        ends = self._wiring.ends
        for number in range(messages):
            before = [f"{number - lanes}.{n}" for n in ends] if number >= lanes else []
            for n, segment in enumerate(self._wiring.segments):
                after = [f"{number}.{other}" for other in segment.after] or before
                graph[f"{number}.{n}"] = (partial(self._part, number, n), *after)
        return graph, [f"{number}.{n}" for number in range(messages - lanes, messages) for n in ends]

    def _lane(self) -> None:
        """Run messages one after the other, as long as one may begin."""
        while True:
            with self._lock:
                going = self._begin()
            if going is None:
                return
            self._run(going, 0)

    def _part(self, number: int, segment: int, *before: None) -> None:
        """Run one segment of a lane's message; begin that message if this is its first one."""
        with self._lock:
            if number not in self._by_number:
                self._by_number[number] = self._begin()
            going = self._by_number[number]
        if going is not None:
            self._run(going, segment)

    def _begin(self) -> UnderWay | None:
        """Begin the oldest message that waits; None when none may begin any more. Under the lock."""
        context = self._context
        if (
            self._stopped
            or not self._entries
            or not self._begun.may_begin
            or not context.may_start()
            or context.current() is not self._revision
        ):
            self._stopped = True
            return None
        entry = self._entries.popleft()
        going = self._begun.add(entry, self._wiring)
        self._order.append(going)
        context.hooks.call("pre_message", entry[0], entry[1])
        message = entry[1]
        going.answers[0] = (message, None, text_of(message))
        return going

    # --- one message ---

    def _run(self, going: UnderWay, segment: int) -> None:
        for position in self._wiring.segments[segment].steps:
            if going.abandoned:
                return
            self._step(going, position)
        with self._lock:
            going.left -= 1
            last = not going.left
        if last and not going.abandoned:
            self._end(going)

    def _step(self, going: UnderWay, position: int) -> None:
        """Call one step, unless a value that it consumes is not there."""
        feed, step = self._wiring.feeds[position], self._revision.steps[position]
        arguments: list[Any] = []
        for need in feed.values:
            answer = going.answers[need]
            if answer is None or answer[1] is not None:
                return
            arguments.append(answer[0])
        for need in feed.texts:
            answer = going.answers[need]
            if answer is None or answer[1] is not None:
                return
            arguments.append(answer[2].decode())
        hooks, oid, number = self._context.hooks, going.entry[0], step.slot.number
        hooks.call("pre_slot", oid, number, arguments)
        before = perf_counter()
        try:
            value = self._call(step, arguments)
            if is_unawaited(value):
                value = self._call(awaiting(step), [value])
        except BaseException as error:  # whatever a slot raises is the message's outcome
            going.answers[position + 1] = (None, error, b"")
            return
        if going.timed:
            step.slot.tally.timings.append(perf_counter() - before)
        going.answers[position + 1] = (value, None, text_of(value))
        hooks.call("post_slot", oid, number, value, None)

    def _end(self, going: UnderWay) -> None:
        """Finish a message whose segments have all ended, and hand out what is finished in order."""
        ran = self._ran(going)
        context, entry = self._context, going.entry
        if ran is None:
            going.aside = True
        else:
            values, texts, notes = ran
            context.hooks.call("post_message", entry[0], values, notes.failures if notes else [])
            going.finished = (entry, self._revision, texts, notes, context.clock())
        with self._lock:
            if ran is not None and isinstance(ran[2], Notes):
                self._stopped |= ran[2].verdict in HALTING or ran[2].raised is not None
            finished = []
            while self._order and (self._order[0].finished is not None or self._order[0].aside):
                first = self._order.popleft()
                if first.finished is not None:
                    finished.append(first)
            if finished:
                self._ready.put(finished)

    def _ran(self, going: UnderWay) -> PassResult | None:
        """Return the message's values and texts; None when it waits for a retry, or is not wanted any more."""
        answers = [answer for answer in going.answers if answer is not None and answer[1] is None]
        if len(answers) == len(going.answers):
            layout = self._wiring.layout
            return [answers[n][0] for n in layout], [answers[n][2] for n in layout], ()
        entry, first = going.entry, going.answers[0]
        known = {n - 1: answer for n, answer in enumerate(going.answers) if n and answer is not None}
        text = None if first is None else first[2]
        passage = CarefulPass(self._revision, entry[1], self._context, entry[0], text=text, known=known)
        return self._begun.carefully(going, passage.way(), self._revision, self._context)
