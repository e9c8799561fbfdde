"""The default executor: one message after the other in the machine's own thread.

``async def`` slots run in the machine's event loop, several messages at a time; see
`timbr_wamp.machine.running.executors.async_window`. A message that waits for a retry steps aside, and others go on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from timbr_wamp.machine.messages import Entry, Finished
from timbr_wamp.machine.protocols import Plan, PlanStep, RunContext
from timbr_wamp.machine.running.backoff import BackoffQueue
from timbr_wamp.machine.running.careful_pass import CarefulPass
from timbr_wamp.machine.running.compiled_pass import PassStart, compile_pass
from timbr_wamp.machine.running.event_loop import EventLoop
from timbr_wamp.machine.running.executors.async_window import AsyncWindow

#: One in about so many messages is timed.
TIMED_EVERY = 32


class InlineExecutor:
    """Runs slots in the thread that asks; see `timbr_wamp.machine.protocols.Executor`."""

    name = "inline"

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._untimed = 0
        self._parked = BackoffQueue(self.invoke, monotonic)
        self._loop = EventLoop()
        self._window = AsyncWindow(self._loop)
        #: The newest compiled pass, and what it was compiled for.
        self._compiled: tuple[Plan | None, int, Callable[[object, str], Any]] = (None, -1, _nothing)

    # --- processing: one thread ---

    def process(self, entries: deque[Entry], context: RunContext) -> Iterator[Finished]:
        """Process entries; see `timbr_wamp.machine.protocols.Executor`."""
        yield from self._window.late()
        current, may_start, clock, hooks = context.current, context.may_start, context.clock, context.hooks
        watched = bool(hooks.at("pre_message") or hooks.at("post_message"))
        timed = self._untimed <= 0
        self._untimed = TIMED_EVERY if timed else self._untimed - len(entries)
        revision: Plan | None = None
        run: Callable[[object, str], Any] = _nothing
        notes: Any
        while True:
            if self._parked:
                yield from self._parked.resume(context)
            if not entries or not may_start():
                return
            newest = current()
            if newest is not revision:
                revision, run = newest, self._pass_of(newest, context)
                if revision.is_async:
                    yield from self._window.process(entries, context, revision, run)
                    revision = None
                    continue
            entry = entries.popleft()
            try:
                if watched:
                    hooks.call("pre_message", entry[0], entry[1])
                if timed:
                    timed = False
                    values, texts, notes = [], [], CarefulPass(revision, entry[1], context, entry[0], timed=True)
                else:
                    values, texts, notes = run(entry[1], entry[0])
            except BaseException:
                self._parked.interrupted.append(entry)
                raise
            if notes:
                ran = self._parked.carefully(notes.way(), None, entry, revision, context)
                if ran is None:
                    continue
                values, texts, notes = ran
            if watched:
                hooks.call("post_message", entry[0], values, _failures(notes))
            yield entry, revision, texts, notes, clock()

    def _pass_of(self, revision: Plan, context: RunContext) -> Callable[[object, str], Any]:
        known, version, run = self._compiled
        if known is not revision or version != context.hooks.version:
            version = context.hooks.version
            run = compile_pass(revision, context)
            self._compiled = (revision, version, run)
        return run

    def due_s(self) -> float | None:
        """Return in how many seconds a retry is due."""
        if self._window.has_late:
            return 0.0
        return self._parked.due_s()

    @property
    def retrying(self) -> int:
        """Messages that wait for a retry."""
        return len(self._parked) + self._window.parked

    def abandon(self) -> list[Entry]:
        """Forget the messages that were begun and not yielded."""
        return [*self._parked.abandon(), *self._window.abandon()]

    # --- any thread ---

    def invoke(self, step: PlanStep, arguments: Sequence[Any]) -> Any:
        """Call a step's function; one to await, in the machine's event loop."""
        if step.is_async:
            return self._loop.call_step(step, arguments)
        return step.function(*arguments)

    @property
    def loop(self) -> EventLoop:
        """The event loop in which slots are awaited."""
        return self._loop

    def refusal(self, step: PlanStep) -> str | None:
        """Refuse time limits for what cannot be ended."""
        if step.policy.timeout_s is None or step.is_async:
            return None
        return (
            "timeout_s: a function that runs in the machine's own thread cannot be ended; "
            "make it async def, or the machine with executor='threads'"
        )

    def close(self) -> None:
        """End the event loop."""
        self._loop.close()


def _failures(notes: Any) -> list[Any]:
    return notes.failures if notes else []


def _nothing(message: object, oid: str) -> PassStart:
    raise AssertionError("no pass was compiled")
