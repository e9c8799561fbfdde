"""The default executor: one message after the other in the machine's own thread.

``async def`` slots are awaited in the machine's event loop, up to ``concurrency`` messages at a time; the plain slots
of the same revision still run in the machine's thread, so they may block or run an event loop of their own. A
message that waits for a retry is overtaken by others.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from timbr_wamp.errors import LoopClosed
from timbr_wamp.machine.messages import Entry, Finished
from timbr_wamp.machine.protocols import Plan, PlanStep, RunContext
from timbr_wamp.machine.running.careful_pass import Call, CallOutcome, CarefulPass, isolated
from timbr_wamp.machine.running.compiled_pass import PassStart, compile_pass
from timbr_wamp.machine.running.event_loop import EventLoop, outcome_of
from timbr_wamp.machine.running.executors.window import UnderWay, WindowExecutor

#: Cancelled slots have this long to end.
CANCEL_S = 2.0


class InlineExecutor(WindowExecutor):
    """Runs slots in the thread that asks; see `timbr_wamp.machine.protocols.Executor`."""

    name = "inline"

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(monotonic)
        self.loop = EventLoop()
        #: Calls to await, not handed to the loop yet.
        self._awaited: list[tuple[UnderWay, Call]] = []
        #: The newest compiled pass, and what it was compiled for.
        self._compiled: tuple[Plan | None, int, Callable[[object, str], Any]] = (None, -1, _nothing)

    # --- processing: one thread ---

    def process(self, entries: deque[Entry], context: RunContext) -> Iterator[Finished]:
        """Process entries; see `timbr_wamp.machine.protocols.Executor`.

        Plain slots run in the loop below, which costs as little as can be; all else in `WindowExecutor.process`.
        """
        self._context = context
        current, may_start, clock, hooks = context.current, context.may_start, context.clock, context.hooks
        watched = bool(hooks.at("pre_message") or hooks.at("post_message"))
        to_time: Iterator[Entry] | None = None
        timed: Entry | None = None
        revision: Plan | None = None
        run: Callable[[object, str], Any] = _nothing
        notes: Any
        while True:
            if self._under_way:
                yield from self._process_others(entries, context)
            if not entries or not may_start():
                return
            newest = current()
            if newest is not revision:
                if newest.is_async:
                    yield from super().process(entries, context)
                    continue
                revision, run = newest, self._pass_of(newest, context)
                if to_time is None:
                    to_time = iter([entries[position] for position in self._sample.choose(len(entries))])
                    timed = next(to_time, None)
            entry = entries.popleft()
            try:
                if watched:
                    hooks.call("pre_message", entry[0], entry[1])
                if entry is timed and to_time is not None:
                    timed = next(to_time, None)
                    values, texts, notes = [], [], CarefulPass(revision, entry[1], context, entry[0], timed=True)
                else:
                    values, texts, notes = run(entry[1], entry[0])
            except BaseException:
                self._adopted(entry, revision)
                raise
            if notes:
                one = self._adopted(entry, revision)
                self._order.append(one)
                one.steps = notes.steps()
                self._advance(one, None)
                yield from self._process_others(deque(), context)
                continue
            if watched:
                hooks.call("post_message", entry[0], values, [])
            yield entry, revision, texts, (), clock()

    def _process_others(self, entries: deque[Entry], context: RunContext) -> Iterator[Finished]:
        """Finish what was started and can be finished now; while too many messages are in backoff, wait."""
        if self._backoff.full and entries:
            yield from super().process(entries, context)
        elif self._order or self.due_s() == 0.0:
            yield from super().process(deque(), context)

    def _start(self, one: UnderWay, context: RunContext) -> None:
        timed = self._sample.next_is_timed()
        if timed or one.revision.is_async:
            self._run_carefully(one, context, timed=timed)
            return
        values, texts, notes = self._pass_of(one.revision, context)(one.entry[1], one.entry[0])
        if notes:
            one.steps = notes.steps()
            self._advance(one, None)
        else:
            self._finish(one, values, texts, ())

    def _pass_of(self, revision: Plan, context: RunContext) -> Callable[[object, str], Any]:
        known, version, run = self._compiled
        if known is not revision or version != context.hooks.version:
            version = context.hooks.version
            run = compile_pass(revision, context)
            self._compiled = (revision, version, run)
        return run

    # --- calls to await ---

    def _start_call(self, one: UnderWay, call: Call) -> CallOutcome | None:
        if not call.step.is_async:
            return isolated(self.invoke, call)
        self._awaited.append((one, call))
        return None

    def _send(self) -> None:
        calls, self._awaited = self._awaited, []
        if calls:
            try:
                self.loop.start(partial(self._start_in_loop, calls))
            except LoopClosed:
                self._broken = True

    def _start_in_loop(self, calls: list[tuple[UnderWay, Call]]) -> None:
        for one, call in calls:
            if not one.abandoned:
                one.task = self.loop.create_task(self._perform(one, call))

    async def _perform(self, one: UnderWay, call: Call) -> None:
        outcome = await outcome_of(call.step, call.arguments)
        one.task = None
        if self.loop.closed and isinstance(outcome[1], asyncio.CancelledError):
            self._post(self._break)
        else:
            self._post(partial(self._advance, one, outcome))

    def abandon(self) -> list[Entry]:
        """Forget the messages that were started and not yielded; waits a bounded time for slots to end."""
        under_way = list(self._under_way)
        self._awaited = []
        entries = super().abandon()
        if any(one.task is not None for one in under_way):
            with contextlib.suppress(LoopClosed, TimeoutError):
                self.loop.run(_cancelled(under_way), CANCEL_S)
        return entries

    # --- any thread ---

    def invoke(self, step: PlanStep, arguments: Sequence[Any]) -> Any:
        """Call a step's function; one to await, in the machine's event loop."""
        if step.is_async:
            return self.loop.call_step(step, arguments)
        return step.function(*arguments)

    def refusal(self, step: PlanStep) -> str | None:
        """Refuse time limits for what cannot be ended."""
        if step.policy.timeout_s is None or step.is_async:
            return None
        return (
            "timeout_s: a function that runs in the machine's own thread cannot be ended; "
            "make it async def, or the machine with executor='threads' or 'processes'"
        )

    def close(self) -> None:
        """End the event loop."""
        self.loop.close()


async def _cancelled(under_way: Sequence[UnderWay]) -> None:
    """Cancel messages, and wait a bounded time until their slots have noticed."""
    tasks = [one.task for one in under_way if one.task is not None and not one.task.done()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CANCEL_S / 2)


def _nothing(message: object, oid: str) -> PassStart:
    raise AssertionError("no pass was compiled")
