"""How messages of a source enter the queue: by its policy; each drop is counted and recorded.

The policy applies while the queue is full and the source is permitted to read. A source that is not (the machine
is paused, stopped or drains) waits with what it has already read, whatever its policy; so does a ready
source, which loses nothing by waiting.
"""

from __future__ import annotations

import logging
from _thread import RLock
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import cast

from timbr_wamp.contract import SourceOptions
from timbr_wamp.errors import InvalidArgument, MachineClosed, described, not_one_of
from timbr_wamp.machine.forks import short_lock
from timbr_wamp.machine.intake.message_queue import Droppable, MessageQueue
from timbr_wamp.machine.messages import Entry
from timbr_wamp.machine.protocols import Clock
from timbr_wamp.values import JsonValue

logger = logging.getLogger(__name__)

#: Interval at which a wait for room checks whether source and machine are still open, seconds.
OPEN_CHECK_S = 0.5

#: Why a message was dropped, by policy.
WHY = {
    "drop_new": "the queue was full (drop_new)",
    "drop_old": "the queue was full, and a newer message took its place (drop_old)",
    "sample": "the queue was full, and another message of the sample was kept (sample)",
}
POLICIES = ("wait", *WHY)

#: Gets entries in flight, and why they were dropped. Called in the source's thread, without a lock: it
#: queues them for the next commit, so that sinks and hooks are not called in that thread.
OnDrop = Callable[[Sequence[Entry], str], object]


#: While the journal fails, a source tries again at this interval, seconds.
JOURNAL_RETRY_S = 1.0


class Admission:
    """Puts messages of one source into the queue.

    Called by the thread that reads the source, and by abandoned threads whose read ended late.

    Args:
        may_drop: returns whether the source is permitted to read. It is called, and messages are dropped, with
            ``lock`` held; so nothing is dropped after the answer was changed under ``lock``.
    """

    def __init__(
        self,
        options: SourceOptions,
        *,
        queue: MessageQueue,
        clock: Clock,
        new_oids: Callable[[float, int], list[str]],
        on_drop: OnDrop | None,
        may_drop: Callable[[], bool],
        lock: RLock,
    ) -> None:
        #: Messages read, and those of them that the policy dropped.
        self.count = self.dropped = 0
        self._queue, self._clock, self._new_oids = queue, clock, new_oids
        self._on_drop, self._may_drop, self._lock = on_drop, may_drop, lock
        self._policy, self._sample_every = options.policy, options.sample_every
        #: Read by `fill`, and not durable yet.
        self._held: list[Entry] = []
        #: Messages since the queue was full, for `sample`.
        self._since_full = 0
        self._counting = short_lock()

    def fill(self, iterator: Iterator[object], limit: int) -> int:
        """Queue the next items of an iterator that never blocks; return how many. The worker's thread.

        Also above the capacity, as the worker would wait for itself.
        """
        if self._queue.make_durable is None:
            taken = self._queue.fill(self._entries(islice(iterator, limit), limit))
        else:
            if not self._held:
                self._held = list(self._entries(islice(iterator, limit), limit))
            kept, refusal = self._made_durable(self._held, None) if self._held else ((), None)
            self._held = []
            taken = self._queue.fill(iter(kept))
            if refusal is not None:
                self._count(taken)
                raise refusal
        self._count(taken)
        return taken

    @property
    def holds(self) -> bool:
        """`fill` read messages that the journal could not keep: they are the first of its next call."""
        return bool(self._held)

    def _made_durable(
        self, entries: Sequence[Entry], position: Callable[[], JsonValue] | None
    ) -> tuple[Sequence[Entry], InvalidArgument | None]:
        """Make entries durable; return those that are, and why the one after them cannot be.

        Those of a source with a position are kept all or none, as it goes on after all of them.
        """
        make_durable = self._queue.make_durable
        assert make_durable is not None
        try:
            make_durable(entries, sync=False, position=None if position is None else position())
        except InvalidArgument as refusal:
            if position is not None or len(entries) == 1:
                return (), refusal
            for done, entry in enumerate(entries):
                try:
                    make_durable([entry], sync=False)
                except InvalidArgument as own:
                    return entries[:done], own
        return entries, None

    def _wait_until_durable(
        self, entries: Sequence[Entry], position: Callable[[], JsonValue] | None
    ) -> tuple[Sequence[Entry], InvalidArgument | None]:
        """Make entries durable as `_made_durable`; while the journal fails, wait, until the machine is closed."""
        said = False
        while True:
            try:
                return self._made_durable(entries, position)
            except OSError as error:
                if self._queue.closed:
                    raise
                if not said:
                    logger.warning("the source waits, as the journal failed: %s", described(error))
                said = True
            self._queue.wait_change(JOURNAL_RETRY_S, settled=False)

    def admit(
        self, messages: Sequence[object], *, droppable: bool = True, position: Callable[[], JsonValue] | None = None
    ) -> None:
        """Queue or drop all messages; blocks as the policy says, until the machine is closed.

        ``droppable=False``: they wait for room under any policy. ``position`` returns where their source would go on.
        """
        entries: Sequence[Entry] = list(self._entries(messages, len(messages)))
        refusal = None
        if self._queue.make_durable is not None:
            entries, refusal = self._wait_until_durable(entries, position)
        if entries:
            self._admit(entries, droppable=droppable)
        if refusal is not None:
            raise refusal

    def _admit(self, entries: Sequence[Entry], *, droppable: bool) -> None:
        droppable = droppable and self._policy != "wait"
        while True:
            may_drop = droppable and self._may_drop()
            done = self._drop(entries) if may_drop else 0
            if not done:
                one = may_drop and self._policy == "sample"
                done = self._queue.offer(entries[:1] if one else entries, OPEN_CHECK_S, eager=one)
                self._since_full += done
                self._count(done)
            if done == len(entries):
                return
            if not done and self._queue.closed:
                logger.warning("%d messages read from the source when the machine was closed", len(entries))
                return
            entries = entries[done:]

    def _entries(self, messages: Iterable[object], limit: int) -> Iterator[Entry]:
        now = self._clock()
        entries = zip(self._new_oids(now, limit), messages, repeat(now), repeat(1))
        return map(Droppable, entries) if self._policy == "drop_old" else entries

    def _count(self, messages: int) -> None:
        with self._counting:
            self.count += messages

    def _drop(self, entries: Sequence[Entry]) -> int:
        """Queue or drop what the policy allows now, without waiting; return how many entries."""
        with self._lock:
            if not self._may_drop():
                return 0
            try:
                done, dropped = self._apply(entries)
            except MachineClosed:
                return 0
        self._count(done)
        if dropped:
            self.dropped += len(dropped)
            if self._on_drop is None:
                self._queue.finish(dropped=len(dropped))
            else:
                self._on_drop(dropped, WHY[self._policy])
        return done

    def _apply(self, entries: Sequence[Entry]) -> tuple[int, Sequence[Entry]]:
        """Return how many entries were queued or dropped, and the dropped ones, now in flight."""
        queue = self._queue
        if self._policy == "drop_old":
            return len(entries), queue.displace(cast("Sequence[Droppable]", entries))
        if self._policy == "drop_new":
            rest = entries[queue.offer(entries, 0.0) :]
            if rest:
                queue.set_aside(rest)
            return len(entries), rest
        if not queue.crowded:
            self._since_full = 0
            if taken := queue.offer(entries, 0.0):
                return taken, ()
        if (self._since_full + 1) % self._sample_every:
            queue.set_aside(entries[:1])
            self._since_full += 1
            return 1, entries[:1]
        return 0, ()  # this one is kept, and waits for room


#: Larger numbers are not exact in JavaScript, and beyond 64 bits cannot be sent.
MOST = 2**53


def checked_options(options: SourceOptions, total: int | None = None) -> SourceOptions:
    """Return ``options``.

    Raises:
        InvalidArgument: the first of `option_problems`.
    """
    for problem in option_problems(options, total):
        raise problem
    return options


def option_problems(options: SourceOptions, total: int | None = None) -> Iterator[InvalidArgument]:
    """Yield an error for each option that has no such name or number, ``total`` included."""
    if total is not None:
        yield from _unless_whole("total", total, 0)
    yield from _unless_known("policy", options.policy, POLICIES)
    yield from _unless_known("on_exhausted", options.on_exhausted, ("keep", "stop", "restart"))
    yield from _unless_whole("sample_every", options.sample_every, 1)
    yield from _unless_whole("restarts", options.restarts, 0)
    if options.idle_timeout_s is not None:
        yield from _unless_seconds("idle_timeout_s", options.idle_timeout_s)
    yield from _unless_seconds("backoff_s", options.backoff_s)
    yield from _unless_seconds("backoff_max_s", options.backoff_max_s)


def _unless_known(name: str, value: object, known: Sequence[str]) -> Iterator[InvalidArgument]:
    if value not in known:
        yield InvalidArgument(name, not_one_of(value, known))


def _unless_whole(name: str, value: object, least: int) -> Iterator[InvalidArgument]:
    if type(value) is not int or not least <= value < MOST:
        yield InvalidArgument(name, f"{value!r} is not a whole number from {least} to {MOST - 1}")


def _unless_seconds(name: str, value: object) -> Iterator[InvalidArgument]:
    if type(value) not in (int, float) or not 0 < value < MOST:  # type: ignore[operator]
        yield InvalidArgument(name, f"{value!r} is not a number of seconds greater than 0")
