"""The executor ``"processes"``: CPU-bound slots in child processes of this computer.

When every slot can be sent (`timbr_wamp.machine.running.executors.sendable`) and no hook gets slots or messages,
messages are sent to the children in small batches, in order, and return as JSON texts. Otherwise each call of a slot
that can be sent is sent to a child separately, and the other slots run in threads of this process. A message whose
slot raised in a batch continues that way, so policies, retries and hooks are those of every executor.

A child that ends loses no message: those of its batch run again, call by call, and the call that ends its child
fails with `WorkerDied`. A time limit kills the child.
"""

from __future__ import annotations

import math
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from timbr_wamp.errors import InvalidArgument, SlotTimeout, WorkerDied
from timbr_wamp.machine.messages import Entry
from timbr_wamp.machine.protocols import Plan, PlanStep, RunContext
from timbr_wamp.machine.running.cancellation import current
from timbr_wamp.machine.running.careful_pass import KnownOutcome
from timbr_wamp.machine.running.executors.argument_changes import containers_of, take_changes
from timbr_wamp.machine.running.executors.child import (
    Batch,
    BatchReply,
    CannotLoad,
    ChildStep,
    Failed,
    MessageResult,
    Raised,
    SingleCall,
    Texts,
    Unawaited,
    Value,
    pickled,
)
from timbr_wamp.machine.running.executors.children import ChildDied, Children, ChildTooSlow
from timbr_wamp.machine.running.executors.pickling import dumps
from timbr_wamp.machine.running.executors.sendable import Sendable, SendableFunctions
from timbr_wamp.machine.running.executors.threads import POOL_THREADS, ThreadsExecutor
from timbr_wamp.machine.running.executors.window import UnderWay
from timbr_wamp.machine.tracebacks import RaisedElsewhere
from timbr_wamp.values import parse_json

#: Target duration of a batch in a child, seconds, and most messages in it.
BATCH_S, BATCH_MESSAGES = 0.010, 64
#: Tries of a call whose child ends before it fails: the child may have been killed for another reason.
CALL_TRIES = 2
#: More children than this do not help on one computer; each takes one thread here.
WORKERS_LIMIT = POOL_THREADS
#: With a hook at one of these points slots are called one by one, since hooks get values.
WATCHED_POINTS = ("pre_message", "post_message", "pre_slot", "post_slot")


class BatchPlan(NamedTuple):
    """A revision of which every slot can be sent."""

    steps: tuple[ChildStep, ...]
    functions: dict[int, Sendable]


class RunningBatch:
    """Messages that a child runs."""

    __slots__ = ("messages", "plan", "timed")

    def __init__(self, messages: list[UnderWay], plan: BatchPlan, timed: list[int]) -> None:
        self.messages, self.plan, self.timed = messages, plan, timed


class ProcessesExecutor(ThreadsExecutor):
    """Runs slots in child processes; see `timbr_wamp.machine.protocols.Executor`.

    Args:
        workers: children; None: as many as processors that this process may use.
    """

    name = "processes"

    def __init__(self, workers: int | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(monotonic)
        self._children = Children(_processors() if workers is None else _checked_workers(workers))
        self._functions = SendableFunctions()
        #: The newest revision's plan for batches, and what it was made for. ``None``: there is none.
        self._planned: tuple[Plan | None, int, BatchPlan | None] = (None, -1, None)
        #: Started, not in a batch yet.
        self._unsent: deque[UnderWay] = deque()
        self._batches: set[RunningBatch] = set()
        #: How long a message takes a child.
        self._message_s: float | None = None
        self._dumps: Callable[[object], bytes] = pickle.dumps

    # --- batches: the thread in `process` ---

    def _room(self, context: RunContext) -> int:
        if self._plan_for(context.current(), context) is None:
            return context.concurrency
        return max(context.concurrency, 2 * self._children.count * self._batch_size())

    def _batch_size(self) -> int:
        if self._message_s is None:
            return 1
        return max(1, min(BATCH_MESSAGES, int(BATCH_S / max(self._message_s, 1e-6))))

    def _plan_for(self, revision: Plan, context: RunContext) -> BatchPlan | None:
        """Return how the revision runs in batches; None when it does not."""
        known, version, plan = self._planned
        if known is not revision or version != context.hooks.version:
            plan = self._make_plan(revision, context)
            self._planned = (revision, context.hooks.version, plan)
        return plan

    def _make_plan(self, revision: Plan, context: RunContext) -> BatchPlan | None:
        if any(context.hooks.at(point) for point in WATCHED_POINTS):
            return None
        steps, functions = [], {}
        for step in revision.steps:
            function = self._functions.of(step)
            if function is None or step.policy.timeout_s is not None:
                return None
            steps.append(ChildStep(function.number, step.values, step.texts, step.carry))
            functions[function.number] = function
        return BatchPlan(tuple(steps), functions) if steps else None

    def _start(self, one: UnderWay, context: RunContext) -> None:
        if self._plan_for(one.revision, context) is None:
            super()._start(one, context)
        else:
            self._unsent.append(one)

    def _send(self) -> None:
        context, count = self._context, self._children.count
        assert context is not None
        while self._unsent and len(self._batches) < count:
            size = min(self._batch_size(), math.ceil(len(self._unsent) / (count - len(self._batches))))
            revision = self._unsent[0].revision
            messages: list[UnderWay] = []
            while self._unsent and self._unsent[0].revision is revision and len(messages) < size:
                messages.append(self._unsent.popleft())
            plan = self._plan_for(revision, context)
            if plan is None:  # since just now
                for one in messages:
                    super()._start(one, context)
                continue
            batch = RunningBatch(messages, plan, self._sample.choose(len(messages)))
            self._batches.add(batch)
            self._threads().submit(self._run_batch, batch)

    def _run_batch(self, batch: RunningBatch) -> None:
        """Have a child run a batch. A thread of the pool."""
        try:
            sent, data = [], []
            for one in batch.messages:
                message = self._pickled_message(one)
                if message is not None:
                    sent.append(one)
                    data.append(message)
            reply = BatchReply([], 0.0)
            if sent:
                steps, functions = batch.plan
                lead, timed = batch.messages[0].revision.lead, batch.timed
                reply = self._children.request(functions, lambda news: Batch(news, steps, lead, data, timed))
            event = partial(self._batch_ended, batch, sent, reply)
        except ChildDied:
            event = partial(self._batch_ended, batch, [], BatchReply([], 0.0))
        except BaseException as error:  # no thread may end without a word
            event = partial(self._batch_failed, batch, error)
        self._post(event)

    def _pickled_message(self, one: UnderWay) -> bytes | None:
        try:
            return self._dumps(one.entry[1])
        except BaseException:  # __reduce__ and the like are foreign
            return None

    def _batch_failed(self, batch: RunningBatch, error: BaseException) -> None:
        if batch in self._batches:
            self._batches.discard(batch)
            raise error

    def _batch_ended(self, batch: RunningBatch, sent: list[UnderWay], reply: BatchReply) -> None:
        """Take the results of a batch; messages without a result run again, call by call."""
        context = self._context
        if batch not in self._batches or context is None:
            return
        self._batches.discard(batch)
        if sent:
            message_s = reply.seconds / len(sent)
            self._message_s = message_s if self._message_s is None else 0.7 * self._message_s + 0.3 * message_s
        results = dict(zip(sent, reply.results, strict=True))
        for one in batch.messages:
            if not self._take_result(one, results.get(one), context):
                super()._start(one, context)

    def _take_result(self, one: UnderWay, result: MessageResult | None, context: RunContext) -> bool:
        """Finish or continue a message with its result from a child; return whether that was possible."""
        revision = one.revision
        if isinstance(result, Texts):
            texts = [result.texts[n] for n in self._dependencies_of(revision).layout]
            for step, seconds in zip(revision.steps, result.timings or (), strict=False):
                step.slot.tally.timings.append(seconds)
            # Only a hook needs values, and only if it was added while the batch ran.
            values = [parse_json(text) for text in texts] if context.hooks.at("post_message") else []
            self._finish(one, values, texts, ())
            return True
        if isinstance(result, Failed):
            found = _known_outcomes(result)
            if found is not None:
                message, known = found
                if result.unread:
                    message = one.entry[1]
                self._run_carefully(one, context, message=message, text=result.texts[0], known=known)
            return found is not None
        if isinstance(result, (CannotLoad, Unawaited)):
            self._note_refused(result)
        return False

    def _note_refused(self, result: CannotLoad | Unawaited) -> None:
        """Note that a child cannot run something, so that it is not sent again."""
        if isinstance(result, Unawaited):
            self._functions.keep_here(result.function, "it returns a coroutine")
        elif result.function is not None:
            self._functions.keep_here(result.function, result.reason)
        else:  # an object of a class that only this process has
            self._dumps = dumps
        self._planned = (None, -1, None)

    def abandon(self) -> list[Entry]:
        """Forget the messages that were started and not yielded; children that run them are killed."""
        self._unsent.clear()
        self._batches.clear()
        if self._under_way:
            self._children.kill_busy()
        return super().abandon()

    # --- single calls: any thread ---

    def invoke(self, step: PlanStep, arguments: Sequence[Any]) -> Any:
        """Call a step's function in a child within its time limit, or in this process if it cannot be sent.

        Raises:
            SlotTimeout: it took too long; the child was ended.
            WorkerDied: it ended its child, repeatedly.
            RaisedElsewhere: what it raised in the child.
        """
        function = self._functions.of(step)
        containers = [] if function is None else containers_of(arguments)
        data = None if function is None else pickled(list(arguments))
        if function is None or data is None:
            return super().invoke(step, arguments)
        reply = self._single_call(step, function, data)
        load = partial(take_changes, containers=containers)
        if isinstance(reply, Raised):
            _loaded(reply.changes, load)
            raise _error_of(reply)
        if isinstance(reply, Value):
            loaded, value = _loaded(reply.value, load)
            if loaded:
                return value
            self._functions.keep_here(function.number, "what it returns cannot be sent")
            self._planned = (None, -1, None)
        else:
            self._note_refused(reply)
        return super().invoke(step, arguments)

    def _single_call(self, step: PlanStep, function: Sendable, data: bytes) -> Any:
        tries = 0
        while True:
            try:
                return self._children.request(
                    {function.number: function}, lambda news: SingleCall(news, function.number, data),
                    step.policy.timeout_s,
                )  # fmt: skip
            except ChildTooSlow:
                assert step.policy.timeout_s is not None, "only a time limit ends a wait"
                raise SlotTimeout(step.slot.task, step.policy.timeout_s) from None
            except ChildDied as died:
                current().check()
                tries += 1
                if tries == CALL_TRIES or self._closed:
                    raise WorkerDied(step.slot.task, died.status) from None

    def close(self) -> None:
        """End children, threads and the event loop; messages under way are given back. Idempotent, bounded."""
        if self._under_way:
            self._post(self._break)
        self._children.close()
        super().close()


def _known_outcomes(failed: Failed) -> tuple[Any, dict[int, KnownOutcome]] | None:
    """Return a message, its slots' values, and the error of one; None when the values are not available."""
    loaded, made = _loaded(failed.values)
    if not loaded:
        return None
    message, *values = made
    texts = failed.texts[1:]
    known: dict[int, KnownOutcome] = {n: (value, None, texts[n]) for n, value in enumerate(values)}
    known[failed.position] = (None, _error_of(failed.raised), b"")
    return message, known


def _error_of(raised: Raised) -> RaisedElsewhere:
    loaded, error = _loaded(raised.error)
    return RaisedElsewhere(raised.text, error if loaded and isinstance(error, BaseException) else None)


def _loaded(data: bytes | None, load: Callable[[bytes], Any] = pickle.loads) -> tuple[bool, Any]:
    """Return whether bytes could be unpickled, and the object."""
    if data is None:
        return False, None
    try:
        return True, load(data)
    except BaseException:  # users' constructors may raise anything
        return False, None


def _checked_workers(workers: int) -> int:
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= WORKERS_LIMIT:
        raise InvalidArgument("workers", f"{workers!r} is not a whole number from 1 to {WORKERS_LIMIT}")
    return workers


def _processors() -> int:
    """Return how many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return max(1, len(affinity(0)) if affinity is not None else os.cpu_count() or 1)
