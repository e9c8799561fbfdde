"""Where ``async def`` slots run: an event loop in a thread of its own, and windows of messages in it.

A message's way is the same as anywhere else (`timbr_wamp.machine.running.compiled_pass`, and
`timbr_wamp.machine.running.careful_pass` when there is trouble); here it is awaited, and up to ``concurrency``
messages are under way at once. They come out in the order in which they began; one that waits for
a retry is overtaken and comes later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from timbr_wamp.errors import LoopClosed
from timbr_wamp.machine.messages import Entry, Finished
from timbr_wamp.machine.protocols import Plan, RunContext
from timbr_wamp.machine.running.careful_pass import SLEPT, Call, CallOutcome, CarefulPass, PassResult, PassSteps, Sleep
from timbr_wamp.machine.running.event_loop import EventLoop, called

logger = logging.getLogger(__name__)

#: Cancelled slots have this long to end.
END_S = 2.0
#: One in about so many messages is timed.
TIMED_EVERY = 32


class _UnderWay:
    """One message under way."""

    __slots__ = ("abandoned", "done", "entry", "finished", "parked", "task")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.finished: Finished | None = None
        #: It waited for a retry: others need not wait for it.
        self.parked = False
        self.abandoned = False
        self.done = False
        self.task: asyncio.Task[None] | None = None


class AsyncWindow:
    """Messages under way in an `EventLoop`. Its public methods: one thread at a time, not the loop's."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        #: Begun and not yielded yet, in order; the key is arbitrary.
        self._going: dict[int, _UnderWay] = {}
        self._late: deque[_UnderWay] = deque()
        #: Messages that waited for a retry and are not done; the loop's thread.
        self._parked = 0
        self._untimed = 0

    @property
    def parked(self) -> int:
        """Messages that wait for a retry, or are being tried again."""
        return sum(one.parked and not one.done for one in list(self._going.values())) if self._parked else 0

    @property
    def has_late(self) -> bool:
        """Messages that waited for a retry are finished."""
        return bool(self._late)

    def late(self) -> Iterator[Finished]:
        """Yield what was overtaken and is finished now."""
        while self._late:
            yield from self._out([self._late.popleft()])

    def process(
        self, entries: deque[Entry], context: RunContext, revision: Plan, run: Callable[[object, str], Any]
    ) -> Iterator[Finished]:
        """Process entries from the left as long as this revision is the newest; see `Executor.process`."""
        ready: queue.SimpleQueue[list[_UnderWay] | None] = queue.SimpleQueue()
        flow = _WindowRun(self, entries, context, revision, run, ready.put)
        future = self._loop.submit(flow.serve())
        future.add_done_callback(lambda _: ready.put(None))
        try:
            while (batch := ready.get()) is not None:
                yield from self._out(batch)
        finally:
            if not future.done():  # whoever took them does not go on
                flow.stopped = True
                self._loop.run(asyncio.sleep(0))  # after this turn of the loop none is begun any more
        future.result()

    def _out(self, batch: list[_UnderWay]) -> Iterator[Finished]:
        for going in batch:
            if going.finished is not None and self._going.pop(id(going), None) is not None:
                yield going.finished

    def abandon(self) -> list[Entry]:
        """Cancel and forget what was begun and not yielded; return its entries, oldest first.

        Waits a bounded time for slots to end.
        """
        going, self._going = list(self._going.values()), {}
        self._late.clear()
        for one in going:
            one.abandoned = True
        if going:
            with contextlib.suppress(LoopClosed, TimeoutError):
                ended: Any = self._loop.submit(_cancelled(going))
                ended.result(END_S)
        return [one.entry for one in going]


class _WindowRun:
    """One call of `Window.process`, seen from the loop's thread."""

    def __init__(
        self,
        window: AsyncWindow,
        entries: deque[Entry],
        context: RunContext,
        revision: Plan,
        run: Callable[[object, str], Any],
        put: Callable[[list[_UnderWay]], None],
    ) -> None:
        self._window, self._entries, self._context = window, entries, context
        self._revision, self._run, self._put = revision, run, put
        self._changed = asyncio.Event()
        #: In the order in which they began; those at the left are done or parked.
        self._order: deque[_UnderWay] = deque()
        self._under_way = 0
        self.stopped = False

    async def serve(self) -> None:
        """Begin messages while there is room, hand out what is finished, in order."""
        while True:
            while self._may_begin():
                self._begin(self._entries.popleft())
            if not self._order:
                return
            await self._changed.wait()
            self._changed.clear()
            finished = []
            while self._order and (self._order[0].done or self._order[0].parked):
                going = self._order.popleft()
                if not going.parked:
                    finished.append(going)
            if finished:
                self._put(finished)

    def _may_begin(self) -> bool:
        context = self._context
        if self.stopped or not self._entries:
            return False
        room = self._under_way < context.concurrency and self._window._parked < 1_000
        return room and context.may_start() and context.current() is self._revision

    def _begin(self, entry: Entry) -> None:
        going = _UnderWay(entry)
        self._window._going[id(going)] = going
        self._order.append(going)
        self._under_way += 1
        going.task = asyncio.get_running_loop().create_task(self._one(going))

    async def _one(self, going: _UnderWay) -> None:
        (oid, message, _, _), context, hooks = going.entry, self._context, self._context.hooks
        try:
            hooks.call("pre_message", oid, message)
            window = self._window
            window._untimed -= 1
            if window._untimed <= 0:
                window._untimed = TIMED_EVERY
                ran = await self._carefully(CarefulPass(self._revision, message, context, oid, timed=True).way(), going)
            else:
                ran = await self._run(message, oid)
                if isinstance(ran[2], CarefulPass):
                    ran = await self._carefully(ran[2].way(), going)
            if ran is None or going.abandoned:
                return
            values, texts, notes = ran
            hooks.call("post_message", oid, values, notes.failures if notes else [])
            going.finished = (going.entry, self._revision, texts, notes, context.clock())
        finally:
            if going.parked:
                self._window._parked -= 1
                if going.finished is not None and not going.abandoned:
                    self._window._late.append(going)
            else:
                self._under_way -= 1
            going.done = True
            if going.parked:
                context.wake()
            self._changed.set()

    async def _carefully(self, way: PassSteps, going: _UnderWay) -> PassResult | None:
        try:
            request = next(way)
            while not going.abandoned:
                answer = await self._slept(request, going) if isinstance(request, Sleep) else await _answer(request)
                if not going.abandoned:
                    request = way.send(answer)
        except StopIteration as end:
            ran: PassResult = end.value
            return ran
        way.close()
        return None

    async def _slept(self, sleep: Sleep, going: _UnderWay) -> CallOutcome:
        if self._context.defer_retries and not going.parked:
            going.parked = True
            self._under_way -= 1
            self._window._parked += 1
            self._changed.set()
        await asyncio.sleep(sleep.seconds)
        return SLEPT


async def _cancelled(going: Sequence[_UnderWay]) -> None:
    """Cancel messages, and wait a bounded time until their slots have noticed."""
    tasks = [one.task for one in going if one.task is not None and not one.task.done()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=END_S / 2)


async def _answer(call: Call) -> CallOutcome:
    try:
        return await called(call.step, call.arguments), None
    except BaseException as error:  # whatever a slot raises is the message's outcome; who abandons it, says so
        return None, error
