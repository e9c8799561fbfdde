"""How messages of a source come into the queue: by its policy, each loss counted and told once.

The policy matters while the queue is full and the source may read. One that may not (the machine
is paused or drains) waits with the message that it has, whatever its policy; so does a ready
source, which has nothing to lose by it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import cast

from timbr_wamp.contract import SourceOptions
from timbr_wamp.errors import InvalidArgument, MachineClosed
from timbr_wamp.machine.intake.message_queue import Droppable, MessageQueue
from timbr_wamp.machine.messages import Entry
from timbr_wamp.machine.protocols import Clock

logger = logging.getLogger(__name__)

#: Who waits for room looks around so often, seconds: the source may have been taken away, or the machine closed.
LOOK_S = 0.5

#: Why a message was dropped, by policy.
WHY = {
    "drop_new": "the queue was full (drop_new)",
    "drop_old": "the queue was full, and a newer message took its place (drop_old)",
    "sample": "the queue was full, and another message of the sample was kept (sample)",
}
POLICIES = ("wait", *WHY)

#: Called with entries that are under way, and why they are to be recorded as dropped.
OnDrop = Callable[[Sequence[Entry], str], object]


class Admission:
    """The way into the queue for one source.

    One thread at a time, beside those whose read came to its end too late: they say ``late``.
    """

    def __init__(
        self,
        options: SourceOptions,
        *,
        ledger: MessageQueue,
        clock: Clock,
        new_oid: Callable[[float], str],
        on_drop: OnDrop | None,
        may_drop: Callable[[], bool],
    ) -> None:
        #: Messages that the policy dropped.
        self.dropped = 0
        self._read = self._late = 0
        self._ledger, self._clock, self._new_oid = ledger, clock, new_oid
        self._on_drop, self._may_drop = on_drop, may_drop
        self._policy, self._sample_every = options.policy, options.sample_every
        #: Messages since the queue was full, for `sample`.
        self._since_full = 0
        self._counting = threading.Lock()
        self._admit = {
            "wait": self._wait, "drop_new": self._drop_new, "drop_old": self._drop_old, "sample": self._sample,
        }[options.policy]  # fmt: skip

    @property
    def count(self) -> int:
        """Messages read."""
        return self._read + self._late

    def fill(self, messages: Sequence[object]) -> None:
        """Queue all at once, also above the capacity: for the worker itself, who would wait for himself."""
        self._read += self._ledger.offer(self._entries(messages), 0.0, beyond=True)

    def admit(self, messages: Sequence[object], *, droppable: bool = True, late: bool = False) -> None:
        """Queue or drop all; blocks as the policy says, and gives up when the machine was closed.

        ``droppable=False``: they wait for room under any policy, as ``late`` ones do.

        Raises:
            Exception: what recording a dropped message raises.
        """
        entries = self._entries(messages)
        droppable = droppable and not late
        done = 0
        while done < len(entries):
            admit = self._admit if droppable and self._may_drop() else self._wait
            try:
                dealt = admit(entries[done:] if done else entries)
            except MachineClosed:
                dealt = 0
            done += dealt
            if late:
                with self._counting:
                    self._late += dealt
            else:
                self._read += dealt
            if not dealt and self._ledger.closed:
                logger.warning("%d messages read from the source when the machine was closed", len(entries) - done)
                return

    def _entries(self, messages: Sequence[object]) -> list[Entry]:
        now = self._clock()
        if self._policy == "drop_old":
            return [Droppable((self._new_oid(now), message, now, 1)) for message in messages]
        return [(self._new_oid(now), message, now, 1) for message in messages]

    # --- one policy each: return how many of the entries, from the first on, are dealt with ---

    def _wait(self, entries: Sequence[Entry]) -> int:
        return self._ledger.offer(entries, LOOK_S)

    def _drop_new(self, entries: Sequence[Entry]) -> int:
        taken = self._ledger.offer(entries, 0.0)
        if taken < len(entries):
            self._set_aside(entries[taken:])
        return len(entries)

    def _drop_old(self, entries: Sequence[Entry]) -> int:
        dropped = self._ledger.displace(cast("Sequence[Droppable]", entries))
        if dropped:
            self._tell(dropped)
        return len(entries)

    def _sample(self, entries: Sequence[Entry]) -> int:
        if not self._ledger.crowded:
            self._since_full = 0
            return self._ledger.offer(entries, 0.0)
        if (self._since_full + 1) % self._sample_every:
            self._set_aside(entries[:1])
        elif not self._ledger.offer(entries[:1], LOOK_S, eager=True):
            return 0
        self._since_full += 1
        return 1

    def _set_aside(self, entries: Sequence[Entry]) -> None:
        self._ledger.set_aside(entries)
        self._tell(entries)

    def _tell(self, entries: Sequence[Entry]) -> None:
        self.dropped += len(entries)
        if self._on_drop is None:
            self._ledger.finish(dropped=len(entries))
        else:
            self._on_drop(entries, WHY[self._policy])


#: A larger number is not exact everywhere, and beyond 64 bits cannot be sent.
MOST = 2**53


def checked_options(options: SourceOptions, total: int | None = None) -> SourceOptions:
    """Return ``options``.

    Raises:
        InvalidArgument: a name or a figure that means nothing, ``total`` included.
    """
    if total is not None:
        _whole("total", total, 0)
    _one_of("policy", options.policy, POLICIES)
    _one_of("on_exhausted", options.on_exhausted, ("keep", "stop", "restart"))
    _whole("sample_every", options.sample_every, 1)
    _whole("restarts", options.restarts, 0)
    if options.idle_timeout_s is not None:
        _seconds("idle_timeout_s", options.idle_timeout_s)
    _seconds("backoff_s", options.backoff_s)
    _seconds("backoff_max_s", options.backoff_max_s)
    return options


def _one_of(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise InvalidArgument(name, f"{value!r} is none of {', '.join(known)}")


def _whole(name: str, value: object, least: int) -> None:
    if type(value) is not int or not least <= value < MOST:
        raise InvalidArgument(name, f"{value!r} is not a whole number from {least} to {MOST}")


def _seconds(name: str, value: object) -> None:
    if type(value) not in (int, float) or not 0 < value < MOST:  # type: ignore[operator]
        raise InvalidArgument(name, f"{value!r} is no number of seconds above 0")
