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
from timbr_wamp.machine.running.compiled_pass import CompiledPass, compile_pass
from timbr_wamp.machine.running.event_loop import EventLoop, outcome_of
from timbr_wamp.machine.running.executors.window import UnderWay, WindowExecutor

#: Cancelled slots have this long to end.
CANCEL_S = 2.0


class InlineExecutor(WindowExecutor):
    """Runs slots in the calling thread; see `timbr_wamp.machine.protocols.Executor`."""

    name = "inline"

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(monotonic)
        self.loop = EventLoop()
        #: Calls to await, not handed to the loop yet.
        self._awaited: list[tuple[UnderWay, Call]] = []
        #: The newest compiled pass, and what it was compiled for.
        self._compiled: tuple[Plan, int, CompiledPass] | None = None

    # --- processing: one thread ---

    def process(
        self, entries: deque[Entry], context: RunContext, add: Callable[[Finished], object]
    ) -> Iterator[Finished | None]:
        """Process entries; see `timbr_wamp.machine.protocols.Executor`.

        Plain slots run in the loop below, which costs as little as can be; all else in `WindowExecutor.process`.
        """
        self._context = context
        while True:
            if self._under_way:
                yield from self._process_others(entries, context, add)
            if not entries or not context.may_start():
                return
            generation, revision = context.generation, context.current()
            if revision.is_async:
                yield from super().process(entries, context, add)
                continue
            compiled = self._pass_of(revision, context)
            try:
                if context.hooks.at("pre_message") or context.hooks.at("post_message"):
                    yield from self._process_watched(entries, context, revision, compiled, add)
                else:
                    yield from self._process_plain(entries, context, revision, compiled, generation, add)
            except BaseException:
                for entry in compiled.interrupted:
                    self._adopted(entry, revision)
                compiled.interrupted.clear()
                raise

    def _process_plain(
        self,
        entries: deque[Entry],
        context: RunContext,
        revision: Plan,
        compiled: CompiledPass,
        generation: int,
        add: Callable[[Finished], object],
    ) -> Iterator[Finished | None]:
        """Run messages until a slot raises, or state, slots or hooks have changed."""
        sample = self._sample
        while True:
            before = len(entries)
            failed = yield from compiled.many(entries, min(sample.left, before), generation, add)
            sample.passed(before - len(entries))
            if failed is not None:
                yield from self._go_on_carefully(*failed, revision, add)
                return
            if not entries or context.generation != generation:
                return
            entry = entries.popleft()
            sample.passed(1)
            compiled.interrupted.append(entry)
            _, texts, careful = compiled.timed(entry[1], entry[0])
            finished_at = context.clock()
            compiled.interrupted.clear()
            if careful:
                yield from self._go_on_carefully(entry, careful, revision, add)
                return
            yield entry, revision, texts, (), finished_at

    def _process_watched(
        self,
        entries: deque[Entry],
        context: RunContext,
        revision: Plan,
        compiled: CompiledPass,
        add: Callable[[Finished], object],
    ) -> Iterator[Finished | None]:
        """Run one message with the hooks around it."""
        entry = entries.popleft()
        compiled.interrupted.append(entry)
        context.hooks.call("pre_message", entry[0], entry[1])
        run = compiled.timed if self._sample.next_is_timed() else compiled.one
        values, texts, careful = run(entry[1], entry[0])
        if not careful:
            context.hooks.call("post_message", entry[0], values, [])
        finished_at = context.clock()
        compiled.interrupted.clear()
        if careful:
            yield from self._go_on_carefully(entry, careful, revision, add)
            return
        yield entry, revision, texts, (), finished_at

    def _go_on_carefully(
        self, entry: Entry, careful: CarefulPass, revision: Plan, add: Callable[[Finished], object]
    ) -> Iterator[Finished | None]:
        """Let a careful pass take over a message; yield what can be finished."""
        assert self._context is not None, "a message is being processed"
        one = self._adopted(entry, revision)
        self._order.append(one)
        one.steps = careful.steps()
        self._advance(one, None)
        yield from self._process_others(deque(), self._context, add)

    def _process_others(
        self, entries: deque[Entry], context: RunContext, add: Callable[[Finished], object]
    ) -> Iterator[Finished | None]:
        """Finish what was started and can be finished now; while too many messages are in backoff, wait."""
        if self._backoff.full and entries:
            yield from super().process(entries, context, add)
        elif self._order or self.due_s() == 0.0:
            yield from super().process(deque(), context, add)

    def _start(self, one: UnderWay, context: RunContext) -> None:
        timed = self._sample.next_is_timed()
        if timed or one.revision.is_async:
            self._run_carefully(one, context, timed=timed)
            return
        values, texts, notes = self._pass_of(one.revision, context).one(one.entry[1], one.entry[0])
        if notes:
            one.steps = notes.steps()
            self._advance(one, None)
        else:
            self._finish(one, values, texts, ())

    def _pass_of(self, revision: Plan, context: RunContext) -> CompiledPass:
        known, version = self._compiled, context.hooks.version
        if known is None or known[0] is not revision or known[1] != version:
            known = self._compiled = (revision, version, compile_pass(revision, context))
        return known[2]

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
        """Call a step's function; an async one in the machine's event loop."""
        if step.is_async:
            return self.loop.call_step(step, arguments)
        return step.function(*arguments)

    def refusal(self, step: PlanStep) -> str | None:
        """Refuse time limits for functions that cannot be ended."""
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
