"""The default executor: one message after the other in the machine's own thread.

``async def`` slots run in the machine's event loop, several messages at a time; see
`timbr_wamp.machine.loop`. A message that waits for a retry steps aside, and others go on.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from timbr_wamp.machine.conduct import Conduct
from timbr_wamp.machine.loop import AsyncLoop, Window
from timbr_wamp.machine.passage import SLEPT, Passage, Ran, Sleep, Way, advance
from timbr_wamp.machine.plan import Begun, compile_pass
from timbr_wamp.machine.protocols import Entry, Finished
from timbr_wamp.machine.slots import Revision, Step

#: One in about so many messages is timed.
TIMED_EVERY = 32
#: So many messages may wait for a retry; then no other begins.
PARKED_LIMIT = 1_000
#: A wait for the next retry is cut into pieces, so that a pause is noticed.
PIECE_S = 0.05

#: A message in backoff: ``(due, order, entry, revision, way)``.
_Parked = tuple[float, int, Entry, Revision, Way]


class InlineExecutor:
    """Runs slots in the thread that asks; see `timbr_wamp.machine.protocols.Executor`."""

    name = "inline"

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._untimed = 0
        self._parked: list[_Parked] = []
        self._order = count()
        #: Begun and never finished, since what ran it was interrupted.
        self._interrupted: list[Entry] = []
        self._loop = AsyncLoop()
        self._window = Window(self._loop)
        #: The newest compiled pass, and what it was compiled for.
        self._compiled: tuple[Revision | None, int, Callable[[object, str], Any]] = (None, -1, _nothing)

    # --- processing: one thread ---

    def process(self, entries: deque[Entry], conduct: Conduct) -> Iterator[Finished]:
        """Process entries; see `timbr_wamp.machine.protocols.Executor`."""
        yield from self._window.late()
        current, go_on, clock, hooks = conduct.current, conduct.go_on, conduct.clock, conduct.hooks
        watched = bool(hooks.at("pre_message") or hooks.at("post_message"))
        timed = self._untimed <= 0
        self._untimed = TIMED_EVERY if timed else self._untimed - len(entries)
        revision: Revision | None = None
        run: Callable[[object, str], Any] = _nothing
        notes: Any
        while True:
            if self._parked:
                yield from self._resume(conduct, full=len(self._parked) >= PARKED_LIMIT)
            if not entries or not go_on():
                return
            newest = current()
            if newest is not revision:
                revision, run = newest, self._pass_of(newest, conduct)
                if revision.is_async:
                    yield from self._window.process(entries, conduct, revision, run)
                    revision = None
                    continue
            entry = entries.popleft()
            try:
                if watched:
                    hooks.call("pre_message", entry[0], entry[1])
                if timed:
                    timed = False
                    values, texts, notes = [], [], Passage(revision, entry[1], conduct, entry[0], timed=True)
                else:
                    values, texts, notes = run(entry[1], entry[0])
                if notes:
                    ran = self._carefully(notes.way(), None, entry, revision, conduct)
                    if ran is None:
                        continue
                    values, texts, notes = ran
            except BaseException:
                self._interrupted.append(entry)
                raise
            if watched:
                hooks.call("post_message", entry[0], values, _failures(notes))
            yield entry, revision, texts, notes, clock()

    def _pass_of(self, revision: Revision, conduct: Conduct) -> Callable[[object, str], Any]:
        known, version, run = self._compiled
        if known is not revision or version != conduct.hooks.version:
            version = conduct.hooks.version
            run = compile_pass(revision, conduct)
            self._compiled = (revision, version, run)
        return run

    def _carefully(self, way: Way, answer: Any, entry: Entry, revision: Revision, conduct: Conduct) -> Ran | None:
        """Go on with a way; None when it waits for a retry now."""
        while True:
            end = advance(way, answer, self._invoke_now)
            if not isinstance(end, Sleep):
                return end
            if conduct.park:
                due = self._monotonic() + end.seconds
                heapq.heappush(self._parked, (due, next(self._order), entry, revision, way))
                return None
            time.sleep(end.seconds)
            answer = SLEPT

    def _resume(self, conduct: Conduct, *, full: bool) -> Iterator[Finished]:
        """Go on with the messages whose backoff is over; with ``full`` wait for one."""
        while self._parked and conduct.go_on():
            left_s = self._parked[0][0] - self._monotonic()
            if left_s > 0:
                if not full:
                    return
                time.sleep(min(left_s, PIECE_S))
                continue
            _, _, entry, revision, way = heapq.heappop(self._parked)
            try:
                ran = self._carefully(way, SLEPT, entry, revision, conduct)
            except BaseException:
                self._interrupted.append(entry)
                raise
            if ran is not None:
                full = False
                conduct.hooks.call("post_message", entry[0], ran[0], _failures(ran[2]))
                yield entry, revision, ran[1], ran[2], conduct.clock()

    def due_s(self) -> float | None:
        """Return in how many seconds a retry is due."""
        if self._window.has_late:
            return 0.0
        return max(self._parked[0][0] - self._monotonic(), 0.0) if self._parked else None

    @property
    def retrying(self) -> int:
        """Messages that wait for a retry."""
        return len(self._parked) + self._window.parked

    def abandon(self) -> list[Entry]:
        """Forget the messages that were begun and not yielded."""
        parked, self._parked = sorted(self._parked, key=lambda one: one[1]), []
        for one in parked:
            one[4].close()
        interrupted, self._interrupted = self._interrupted, []
        return [*(one[2] for one in parked), *self._window.abandon(), *interrupted]

    # --- any thread ---

    def _invoke_now(self, step: Step, arguments: Sequence[Any]) -> Any:
        return step.function(*arguments)

    def invoke(self, step: Step, arguments: Sequence[Any]) -> Any:
        """Call a step's function; one to await, in the machine's event loop."""
        if step.is_async:
            return self._loop.call_step(step, arguments)
        return step.function(*arguments)

    @property
    def loop(self) -> AsyncLoop:
        """The event loop in which slots are awaited."""
        return self._loop

    def refusal(self, step: Step) -> str | None:
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


def _nothing(message: object, oid: str) -> Begun:
    raise AssertionError("no pass was compiled")
