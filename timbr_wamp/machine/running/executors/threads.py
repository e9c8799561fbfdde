"""The executor ``"threads"``: slots in a pool of threads, with time limits.

Independent slots of a message run side by side, and up to ``concurrency`` messages are under way. A step with
``timeout_s`` runs in its own thread, which is abandoned after that time; ``async def`` steps are awaited in the
machine's event loop, and can be cancelled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from timbr_wamp.machine.messages import Entry
from timbr_wamp.machine.protocols import Plan, PlanStep, RunContext
from timbr_wamp.machine.running.cancellation import NEVER, current
from timbr_wamp.machine.running.careful_pass import Call, CallOutcome, isolated
from timbr_wamp.machine.running.event_loop import EventLoop
from timbr_wamp.machine.running.executors.segments import SegmentRun
from timbr_wamp.machine.running.executors.thread_pool import DaemonPool, TimeLimiter
from timbr_wamp.machine.running.executors.window import UnderWay, WindowExecutor
from timbr_wamp.machine.slots.dependencies import Dependencies, dependencies_of

#: Most threads of one machine's pool; started when needed.
POOL_THREADS = 32


class ThreadsExecutor(WindowExecutor):
    """Runs slots in threads; see `timbr_wamp.machine.protocols.Executor`."""

    name = "threads"

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(monotonic)
        self.loop = EventLoop()
        self._limiter = TimeLimiter()
        self._lock = threading.RLock()
        self._pool: DaemonPool | None = None
        self._closed = False
        #: The newest revision's dependencies, and that revision.
        self._known: tuple[Plan, Dependencies] | None = None

    # --- processing: one thread ---

    def _start(self, one: UnderWay, context: RunContext) -> None:
        run = SegmentRun(
            one, context, self._dependencies_of(one.revision), timed=self._sample.next_is_timed(),
            invoke=self.invoke, submit=self._threads().submit,
            ended=lambda error: self._post(lambda: self._segments_ended(one, run, error)),
        )  # fmt: skip
        run.start()

    def _segments_ended(self, one: UnderWay, run: SegmentRun, error: BaseException | None) -> None:
        if one.abandoned:
            return
        if error is not None:
            raise error
        result = run.result()
        if isinstance(result, tuple):
            self._finish(one, *result, ())
        else:
            one.steps = result
            self._advance(one, None)

    def _dependencies_of(self, revision: Plan) -> Dependencies:
        if self._known is None or self._known[0] is not revision:
            self._known = (revision, dependencies_of(revision))
        return self._known[1]

    def _threads(self) -> DaemonPool:
        with self._lock:
            if self._pool is None:
                self._pool = DaemonPool(POOL_THREADS, "timbr slots")
                if self._closed:
                    self._pool.close()
            return self._pool

    def _start_call(self, one: UnderWay, call: Call) -> CallOutcome | None:
        self._threads().submit(self._perform, one, call)
        return None

    def _perform(self, one: UnderWay, call: Call) -> None:
        outcome = isolated(self.invoke, call)
        self._post(partial(self._advance, one, outcome))

    def abandon(self) -> list[Entry]:
        """Forget the messages that were started and not yielded.

        A slot that is still running keeps its thread until it ends; later messages get new threads.
        """
        running = bool(self._under_way)
        entries = super().abandon()
        with self._lock:
            pool, self._pool = (self._pool, None) if running else (None, self._pool)
        if pool is not None:
            pool.close(0.0)
        return entries

    # --- any thread ---

    def invoke(self, step: PlanStep, arguments: Sequence[Any]) -> Any:
        """Call a step's function within its time limit; an async one in the machine's event loop."""
        if step.is_async:
            return self.loop.call_step(step, arguments)
        if step.policy.timeout_s is None and current() is NEVER:
            return step.function(*arguments)
        return self._limiter.call(lambda: step.function(*arguments), step.policy.timeout_s, step.slot.task)

    @property
    def abandoned(self) -> int:
        """Calls that exceeded their time and still run in their threads."""
        return self._limiter.abandoned

    def close(self) -> None:
        """End the threads and the event loop. Idempotent, bounded: a slow slot keeps its thread."""
        with self._lock:
            self._closed = True
            pool = self._pool
        self.loop.close()
        if pool is not None:
            pool.close()
