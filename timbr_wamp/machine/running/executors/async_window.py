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
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from timbr_wamp.errors import CalledFromLoop, LoopClosed
from timbr_wamp.machine.protocols import Entry, Finished
from timbr_wamp.machine.running.careful_pass import SLEPT, Answer, Call, CarefulPass, Ran, Sleep, Way
from timbr_wamp.machine.running.compiled_pass import limited
from timbr_wamp.machine.running.context import RunContext
from timbr_wamp.machine.slots.table import Revision, Step

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: The loop's end is waited for so long.
END_S = 2.0
#: One in about so many messages is timed.
TIMED_EVERY = 32


class EventLoop:
    """An event loop in a daemon thread, begun when it is first needed. Any thread but its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def begun(self) -> bool:
        """Somebody needed it."""
        return self._loop is not None

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Future[T] | Any:
        """Begin to run a coroutine; return a `concurrent.futures.Future`.

        Raises:
            LoopClosed: the loop was ended.
        """
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._begin())
        except BaseException:
            coroutine.close()
            raise

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for what it gives, as long as it takes.

        Raises:
            CalledFromLoop: the loop's own thread would wait for itself.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise CalledFromLoop("a call of the machine")
        result: T = self.submit(coroutine).result()
        return result

    def call_step(self, step: Step, arguments: Sequence[Any]) -> Any:
        """Call and await one step's function, within its time limit."""
        return self.run(called(step, arguments))

    def soon(self, function: Callable[[], object]) -> None:
        """Call ``function`` in the loop's thread, if there is one."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it was closed meanwhile
                loop.call_soon_threadsafe(function)

    def _begin(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise LoopClosed("the machine's event loop")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name="timbr loop", daemon=True)
                self._thread.start()
            return self._loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=END_S / 2))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def close(self) -> None:
        """End the loop: what is under way in it is cancelled. Idempotent, bounded."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None or not thread.is_alive():
            return
        self.soon(loop.stop)
        if thread is not threading.current_thread():
            thread.join(END_S)
            if thread.is_alive():
                logger.warning("a slot holds up the machine's event loop; its thread ends with it")


async def called(step: Step, arguments: Sequence[Any]) -> Any:
    """Call one step's function and await what is to be awaited, within its time limit."""
    value = step.function(*arguments)
    if not step.is_async:
        return value
    if step.policy.timeout_s is None:
        return await value
    return await limited(value, step.policy.timeout_s, step.slot.task)


class _Going:
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


class Window:
    """Messages under way in an `EventLoop`. Its public methods: one thread at a time, not the loop's."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        #: Begun and not yielded yet, in order; the key is arbitrary.
        self._going: dict[int, _Going] = {}
        self._late: deque[_Going] = deque()
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
        self, entries: deque[Entry], conduct: RunContext, revision: Revision, run: Callable[[object, str], Any]
    ) -> Iterator[Finished]:
        """Process entries from the left as long as this revision is the newest; see `Executor.process`."""
        ready: queue.SimpleQueue[list[_Going] | None] = queue.SimpleQueue()
        flow = _Flow(self, entries, conduct, revision, run, ready.put)
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

    def _out(self, batch: list[_Going]) -> Iterator[Finished]:
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


class _Flow:
    """One call of `Window.process`, seen from the loop's thread."""

    def __init__(
        self,
        window: Window,
        entries: deque[Entry],
        conduct: RunContext,
        revision: Revision,
        run: Callable[[object, str], Any],
        put: Callable[[list[_Going]], None],
    ) -> None:
        self._window, self._entries, self._conduct = window, entries, conduct
        self._revision, self._run, self._put = revision, run, put
        self._changed = asyncio.Event()
        #: In the order in which they began; those at the left are done or parked.
        self._order: deque[_Going] = deque()
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
        conduct = self._conduct
        if self.stopped or not self._entries:
            return False
        room = self._under_way < conduct.concurrency and self._window._parked < 1_000
        return room and conduct.go_on() and conduct.current() is self._revision

    def _begin(self, entry: Entry) -> None:
        going = _Going(entry)
        self._window._going[id(going)] = going
        self._order.append(going)
        self._under_way += 1
        going.task = asyncio.get_running_loop().create_task(self._one(going))

    async def _one(self, going: _Going) -> None:
        (oid, message, _, _), conduct, hooks = going.entry, self._conduct, self._conduct.hooks
        try:
            hooks.call("pre_message", oid, message)
            window = self._window
            window._untimed -= 1
            if window._untimed <= 0:
                window._untimed = TIMED_EVERY
                ran = await self._carefully(CarefulPass(self._revision, message, conduct, oid, timed=True).way(), going)
            else:
                ran = await self._run(message, oid)
                if isinstance(ran[2], CarefulPass):
                    ran = await self._carefully(ran[2].way(), going)
            if ran is None or going.abandoned:
                return
            values, texts, notes = ran
            hooks.call("post_message", oid, values, notes.failures if notes else [])
            going.finished = (going.entry, self._revision, texts, notes, conduct.clock())
        finally:
            if going.parked:
                self._window._parked -= 1
                if going.finished is not None and not going.abandoned:
                    self._window._late.append(going)
            else:
                self._under_way -= 1
            going.done = True
            if going.parked:
                conduct.wake()
            self._changed.set()

    async def _carefully(self, way: Way, going: _Going) -> Ran | None:
        try:
            request = next(way)
            while not going.abandoned:
                answer = await self._slept(request, going) if isinstance(request, Sleep) else await _answer(request)
                if not going.abandoned:
                    request = way.send(answer)
        except StopIteration as end:
            ran: Ran = end.value
            return ran
        way.close()
        return None

    async def _slept(self, sleep: Sleep, going: _Going) -> Answer:
        if self._conduct.park and not going.parked:
            going.parked = True
            self._under_way -= 1
            self._window._parked += 1
            self._changed.set()
        await asyncio.sleep(sleep.seconds)
        return SLEPT


async def _cancelled(going: Sequence[_Going]) -> None:
    """Cancel messages, and wait a bounded time until their slots have noticed."""
    tasks = [one.task for one in going if one.task is not None and not one.task.done()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=END_S / 2)


async def _answer(call: Call) -> Answer:
    try:
        return await called(call.step, call.arguments), None
    except BaseException as error:  # whatever a slot raises is the message's outcome; who abandons it, says so
        return None, error
