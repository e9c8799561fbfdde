"""The executor ``"threads"``: slots in Dask's threaded scheduler, with time limits.

Independent slots of a message run side by side, and up to ``concurrency`` messages are under way;
see `timbr_wamp.machine.running.executors.dask_batch`. A step with ``timeout_s`` runs in a thread of
its own, which is left to itself when its time is over; ``async def`` steps are awaited in the machine's event loop, and
really cancelled.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from timbr_wamp.machine.messages import Entry, Finished
from timbr_wamp.machine.protocols import Plan, PlanStep, RunContext
from timbr_wamp.machine.running.backoff import BackoffQueue
from timbr_wamp.machine.running.careful_pass import SLEPT, CallOutcome, PassResult, PassSteps, Sleep, advance
from timbr_wamp.machine.running.event_loop import EventLoop
from timbr_wamp.machine.running.executors.dask_batch import DaskBatch, UnderWay
from timbr_wamp.machine.running.executors.thread_pool import DaemonPool, TimeLimiter
from timbr_wamp.machine.slots.dependencies import Dependencies, dependencies_of

#: Threads of one machine's pool, one of them for Dask's scheduler; begun when there is need.
POOL_THREADS = 32
#: One in about so many messages is timed.
TIMED_EVERY = 32


class ThreadsExecutor:
    """Runs slots in threads; see `timbr_wamp.machine.protocols.Executor`."""

    name = "threads"

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._parked = BackoffQueue(self.invoke, monotonic)
        self._loop = EventLoop()
        self._limiter = TimeLimiter()
        self._lock = threading.Lock()
        #: Told when messages are abandoned.
        self._changed = threading.Condition(self._lock)
        #: UnderWayTable and not yielded yet, oldest first; the key is arbitrary.
        self._going: dict[int, UnderWay] = {}
        self._pool: DaemonPool | None = None
        self._closed = False
        self._untimed = 0
        #: The newest wiring, and the revision that it is of.
        self._wired: tuple[Plan, Dependencies] | None = None

    # --- processing: one thread ---

    def process(self, entries: deque[Entry], context: RunContext) -> Iterator[Finished]:
        """Process entries; see `timbr_wamp.machine.protocols.Executor`."""
        while True:
            yield from self._parked.resume(context)
            if not entries or not context.may_start():
                return
            revision = context.current()
            lanes = DaskBatch(entries, context, revision, self._wiring_of(revision), self, self.invoke)
            yield from lanes.finished(self._threads())

    def _wiring_of(self, revision: Plan) -> Dependencies:
        if self._wired is None or self._wired[0] is not revision:
            self._wired = (revision, dependencies_of(revision))
        return self._wired[1]

    def _threads(self) -> DaemonPool:
        with self._lock:
            if self._pool is None:
                self._pool = DaemonPool(POOL_THREADS, "timbr slots")
                if self._closed:
                    self._pool.close()
            return self._pool

    def due_s(self) -> float | None:
        """Return in how many seconds a retry is due."""
        return self._parked.due_s()

    @property
    def retrying(self) -> int:
        """Messages that wait for a retry."""
        return len(self._parked)

    def abandon(self) -> list[Entry]:
        """Forget the messages that were begun and not yielded.

        A slot that holds one of them up keeps its thread until it ends; others get new threads.
        """
        with self._lock:
            begun, self._going = list(self._going.values()), {}
            for going in begun:
                going.abandoned = True
            self._changed.notify_all()
            pool, self._pool = (self._pool, None) if begun else (None, self._pool)
            waiting = self._parked.abandon()
        if pool is not None:
            pool.close(0.0)
        return [*waiting, *(going.entry for going in begun)]

    # --- messages under way: any thread; see `timbr_wamp.machine.running.executors.dask_batch.UnderWayTable` ---

    @property
    def may_begin(self) -> bool:
        """No message that waits for a retry is due, and there are not too many of them."""
        return not self._parked or (not self._parked.full and self._parked.due_s() != 0.0)

    def add(self, entry: Entry, wiring: Dependencies) -> UnderWay:
        """Return an entry as a message under way; one in `TIMED_EVERY` is timed."""
        with self._lock:
            self._untimed = TIMED_EVERY if self._untimed <= 0 else self._untimed
            going = UnderWay(entry, wiring, timed=self._untimed == TIMED_EVERY)
            self._untimed -= 1
            self._going[id(going)] = going
            return going

    def take(self, going: UnderWay) -> bool:
        """Forget a message that is finished; tell whether it was still wanted."""
        with self._lock:
            return self._going.pop(id(going), None) is not None

    def carefully(self, going: UnderWay, way: PassSteps, revision: Plan, context: RunContext) -> PassResult | None:
        """Go on with its way; None when it waits for a retry now, or is not wanted any more."""
        answer: CallOutcome | None = None
        while isinstance(end := advance(way, answer, self.invoke), Sleep):
            with self._changed:
                if context.defer_retries and not going.abandoned:
                    del self._going[id(going)]
                    self._parked.put(end.seconds, going.entry, revision, way)
                    return None
                if self._changed.wait_for(lambda: going.abandoned, end.seconds):
                    way.close()
                    return None
            answer = SLEPT
        return end

    # --- any thread ---

    def invoke(self, step: PlanStep, arguments: Sequence[Any]) -> Any:
        """Call a step's function within its time limit; one to await, in the machine's event loop."""
        if step.is_async:
            return self._loop.call_step(step, arguments)
        if step.policy.timeout_s is None:
            return step.function(*arguments)
        return self._limiter.call(lambda: step.function(*arguments), step.policy.timeout_s, step.slot.task)

    @property
    def loop(self) -> EventLoop:
        """The event loop in which slots are awaited."""
        return self._loop

    @property
    def abandoned(self) -> int:
        """Calls that took too long and run on in their threads."""
        return self._limiter.abandoned

    def refusal(self, step: PlanStep) -> str | None:
        """Refuse nothing."""
        return None

    def close(self) -> None:
        """End the threads and the event loop. Idempotent, bounded: a slot that takes long keeps its thread."""
        with self._lock:
            self._closed = True
            pool = self._pool
        self._loop.close()
        if pool is not None:
            pool.close()
