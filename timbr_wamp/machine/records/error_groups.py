"""`ErrorGroups`: failures grouped by slot, exception class and line, and which messages are still open.

Keeps counts and the newest sample of each group; the failed messages themselves are in `ErrorRing`.
"""

from __future__ import annotations

import logging
import pickle
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from typing import Final, TypeAlias

from timbr_wamp.contract import ErrorGroup, ErrorRow
from timbr_wamp.machine.forks import short_lock
from timbr_wamp.machine.protocols import Clock

logger = logging.getLogger(__name__)

#: Groups that are kept; a new one replaces the one whose last failure is the oldest.
GROUPS_KEPT = 256
#: Open messages of a group that are known by their oids; beyond, the oldest counts as closed.
OPEN_KEPT = 10_000
#: The same for all groups together.
OPEN_KEPT_IN_ALL = 100_000
#: Minutes over which the rate is taken.
RATE_MINUTES = 10

#: Policies after which a failure is not open: the slot had a value after all, or the message was dropped.
_CLOSED_BY: Final = frozenset({"retry", "default", "drop"})

#: Policies that keep the message, for the same attempt to run again.
_RUNS_AGAIN: Final = frozenset({"pause", "stop"})

_Key: TypeAlias = tuple[int, str, str]

#: An open message: attempt, whether that one runs again, and the groups where it failed. A plain tuple: many may
#: be kept, and an object each would cost the garbage collector time.
_OpenMessage: TypeAlias = tuple[int, bool, tuple[_Key, ...]]


class _Group:
    """One kind of failure."""

    __slots__ = ("count", "first", "last", "minutes", "open", "policies", "was_open")

    def __init__(self, row: ErrorRow) -> None:
        self.first = (row.oid, row.time)
        self.last = row
        self.count = 0
        self.policies: Counter[str] = Counter()
        self.open: OrderedDict[str, None] = OrderedDict()
        self.was_open = False
        #: ``[minute, failures in it]``, the newest last.
        self.minutes: deque[list[int]] = deque(maxlen=RATE_MINUTES + 1)

    def add(self, row: ErrorRow) -> None:
        self.last = row
        self.count += 1
        self.policies[row.policy] += 1
        minute = int(row.time // 60)
        if self.minutes and self.minutes[-1][0] >= minute:  # a clock set back counts as the minute before
            self.minutes[-1][1] += 1
        else:
            self.minutes.append([minute, 1])

    def rate_per_min(self, now: float) -> float:
        """Return failures per minute since the group's first failure, at most over the last `RATE_MINUTES`."""
        oldest = int(now // 60) - RATE_MINUTES
        recent = sum(count for minute, count in self.minutes if minute > oldest)
        known_s = now - self.first[1]
        return recent / min(max(known_s / 60, 1.0), RATE_MINUTES)


class ErrorGroups:
    """The groups of one machine. Any thread; `add` takes some microseconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = short_lock()
        #: In the order of their last failures.
        self._groups: OrderedDict[_Key, _Group] = OrderedDict()
        #: Open messages by oid, the newest last.
        self._open_messages: OrderedDict[str, _OpenMessage] = OrderedDict()
        #: Groups that were replaced by newer ones.
        self.forgotten = 0

    def add(self, row: ErrorRow) -> None:
        """Count a failure. A later attempt at a message closes its earlier failures.

        Skipped slots are not failures and are not given here.
        """
        key = (row.slot, row.exc_class, row.where)
        with self._lock:
            before = self._open_messages.get(row.oid)
            if before is not None and (before[0] != row.attempt or before[1]):
                self._close(row.oid)
            group = self._groups.get(key) or self._new(key, row)
            self._groups.move_to_end(key)
            group.add(row)
            if row.policy not in _CLOSED_BY:
                self._open(key, group, row)

    def resolve(self, oid: str) -> None:
        """Close a message's failures: its newest attempt succeeded, or it was dropped."""
        if oid in self._open_messages:
            with self._lock:
                self._close(oid)

    def rows(self, n: int = GROUPS_KEPT) -> list[ErrorGroup]:
        """Return the ``n`` groups with the newest failures, newest first."""
        now = self._clock()
        with self._lock:
            return [_row(group, key, now) for key, group in islice(reversed(self._groups.items()), max(n, 0))]

    def open_oids(self, wanted: Callable[[int, str, str], bool]) -> list[str]:
        """Return the open messages of the groups whose slot, exception class and line ``wanted`` takes."""
        with self._lock:
            found = [group.open for key, group in self._groups.items() if wanted(*key)]
            return list(dict.fromkeys(oid for several in found for oid in several))

    def keys(self) -> list[str]:
        """Return the texts that name the groups, the newest first; see `ErrorGroup.key`."""
        with self._lock:
            return [f"f{slot}:{exc_class}:{where}" for slot, exc_class, where in reversed(self._groups)]

    def dump(self, number: int) -> bytes:
        """Return the groups for the journal; ``number``: of the last failure in them."""
        with self._lock:
            return pickle.dumps((number, self._groups, self._open_messages, self.forgotten), 5)

    def load(self, kept: bytes) -> int:
        """Take over what `dump` returned, and return its number; of another version nothing, and 0."""
        try:
            number, groups, open_messages, forgotten = pickle.loads(kept)
        except Exception:  # a class that is another one now
            logger.warning("error groups of another version are counted anew from the failures that are kept")
            return 0
        with self._lock:
            self._groups, self._open_messages, self.forgotten = groups, open_messages, forgotten
        return int(number)

    def __len__(self) -> int:
        return len(self._groups)

    def _new(self, key: _Key, row: ErrorRow) -> _Group:
        if len(self._groups) >= GROUPS_KEPT:
            oldest_key, oldest = self._groups.popitem(last=False)
            self.forgotten += 1
            for oid in oldest.open:
                self._leave(oid, oldest_key)
        group = self._groups[key] = _Group(row)
        return group

    def _open(self, key: _Key, group: _Group, row: ErrorRow) -> None:
        group.was_open = True
        if row.oid in group.open:
            return
        if len(group.open) >= OPEN_KEPT:
            oid, _ = group.open.popitem(last=False)
            self._leave(oid, key)
        if len(self._open_messages) >= OPEN_KEPT_IN_ALL:
            self._close(next(iter(self._open_messages)))
        group.open[row.oid] = None
        _, _, keys = self._open_messages.get(row.oid, (0, False, ()))
        self._open_messages[row.oid] = (row.attempt, row.policy in _RUNS_AGAIN, (*keys, key))

    def _leave(self, oid: str, key: _Key) -> None:
        attempt, runs_again, keys = self._open_messages[oid]
        others = tuple(other for other in keys if other != key)
        if others:
            self._open_messages[oid] = (attempt, runs_again, others)
        else:
            del self._open_messages[oid]

    def _close(self, oid: str) -> None:
        _, _, keys = self._open_messages.pop(oid, (0, False, ()))
        for key in keys:
            self._groups[key].open.pop(oid, None)


def _row(group: _Group, key: _Key, now: float) -> ErrorGroup:
    last = group.last
    return ErrorGroup(
        slot=key[0], task=last.task, exc_class=key[1], where=key[2], count=group.count,
        rate_per_min=group.rate_per_min(now), first_oid=group.first[0], last_oid=last.oid,
        first_time=group.first[1], last_time=last.time, exc_value=last.exc_value, input=last.input,
        exc_tb=last.exc_tb, policies=dict(group.policies), open=len(group.open),
        resolved=group.was_open and not group.open,
    )  # fmt: skip
