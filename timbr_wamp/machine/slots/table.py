"""The slot table: functions by number, replaced whole, every state of it kept as a revision.

A message sees one table from start to end: a change makes a new immutable `Revision`, and the next
message reads that.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from timbr_wamp.contract import Policy, RevisionInfo, SlotKind
from timbr_wamp.errors import (
    InvalidArgument,
    InvalidName,
    NotCallable,
    SlotOutOfRange,
    UnknownRevision,
    UnknownSlot,
)
from timbr_wamp.machine.protocols import Clock
from timbr_wamp.machine.slots.arguments import ONE, Arguments, arguments_of, refusal
from timbr_wamp.machine.slots.callables import called_of, is_async, is_object
from timbr_wamp.machine.slots.functions import function_name, source_text

#: A function, or an object with ``step()``.
SlotFunction = Any

#: So many revisions are kept for `SlotTable.rollback`.
REVISIONS_KEPT = 200
#: Durations kept a slot, for percentiles.
TIMINGS_KEPT = 512
STAGES_LIMIT = 64


def identity(value: object) -> object:
    """Return ``value``: what an unset slot does, at no cost."""
    return value


class SlotTally:
    """How often one function ran in one slot. Written by the machine's worker thread only."""

    __slots__ = ("defaults", "errors", "mended", "retries", "seen", "skipped", "timeouts", "timings")

    def __init__(self) -> None:
        #: Messages that came by; those skipped included.
        self.seen = 0
        self.errors = 0
        self.skipped = 0
        self.retries = 0
        self.mended = 0
        self.defaults = 0
        self.timeouts = 0
        self.timings: deque[float] = deque(maxlen=TIMINGS_KEPT)


#: What holds where nobody said otherwise.
RECORD = Policy()


@dataclass(frozen=True, slots=True)
class Slot:
    """A function in its place. ``function`` None: identity."""

    number: int
    function: SlotFunction | None = None
    name: str | None = None
    arguments: Arguments = field(default=ONE)
    source: str | None = None
    author: str | None = None
    #: The revision that put it there.
    since: int = 0
    #: Its own policy; None: the table's.
    policy: Policy | None = None
    tally: SlotTally = field(default_factory=SlotTally, repr=False, compare=False)

    @property
    def task(self) -> str:
        """How records name the slot: ``f3``, or ``f3 (clean)``."""
        return f"f{self.number}" + (f" ({self.name})" if self.name else "")

    @property
    def kind(self) -> SlotKind:
        """What is in it."""
        if self.function is None:
            return "identity"
        if is_object(self.function):
            return "object"
        return "async" if is_async(self.function) else "function"


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a plan, with what the loop needs laid out flat."""

    #: What is called; an object's ``step``.
    function: Callable[..., Any]
    #: Values it gets; `ALL` for all.
    values: int
    texts: int
    #: So many identity slots follow, which carry its value.
    carry: int
    slot: Slot
    policy: Policy = RECORD
    #: The call gives something to await.
    is_async: bool = False


@dataclass(frozen=True, eq=False)
class Revision:
    """One state of the slot table, with its plan. Immutable."""

    number: int
    slots: tuple[Slot, ...]
    steps: tuple[Step, ...]
    #: Identity slots before the first step.
    lead: int
    time: float
    author: str | None
    change: str
    #: For slots without one of their own.
    policy: Policy = RECORD

    @cached_property
    def is_async(self) -> bool:
        """Some step gives something to await."""
        return any(step.is_async for step in self.steps)

    def info(self) -> RevisionInfo:
        """Return what the wire says of it."""
        names = [None if slot.function is None else function_name(slot.function) for slot in self.slots]
        return RevisionInfo(number=self.number, time=self.time, author=self.author, change=self.change, functions=names)


def make_revision(
    number: int, slots: tuple[Slot, ...], time: float, author: str | None, change: str, policy: Policy = RECORD
) -> Revision:
    """Return a revision with its plan: only set slots are steps, identity is carried."""
    used = [slot for slot in slots if slot.function is not None]
    edges = [slot.number for slot in used[1:]] + [len(slots)]
    steps = tuple(make_step(slot, after - slot.number - 1, policy) for slot, after in zip(used, edges, strict=False))
    lead = used[0].number if used else len(slots)
    return Revision(number, slots, steps, lead, time, author, change, policy)


def make_step(slot: Slot, carry: int, policy: Policy) -> Step:
    """Return a set slot as a step of a plan."""
    function = identity if slot.function is None else called_of(slot.function)
    own = policy if slot.policy is None else slot.policy
    return Step(function, slot.arguments.values, slot.arguments.texts, carry, slot, own, is_async(function))


#: Asked before a revision becomes the newest: raises if it cannot, returns what to call when it is.
Admit = Callable[[Revision], Callable[[], None]]


def _admit_all(_: Revision) -> Callable[[], None]:
    """Refuse nothing."""
    return lambda: None


class SlotTable:
    """All revisions of a machine's slots. Any thread."""

    def __init__(
        self,
        stages: int,
        clock: Clock,
        *,
        policy: Policy = RECORD,
        admit: Admit = _admit_all,
    ) -> None:
        if not 1 <= stages <= STAGES_LIMIT:
            raise InvalidArgument("stages", f"{stages} is not between 1 and {STAGES_LIMIT}")
        #: Held over each change from begin to end, which may take long: objects are prepared meanwhile.
        self._lock = threading.Lock()
        self._clock, self._admit = clock, admit
        first = make_revision(0, tuple(Slot(n) for n in range(stages)), clock(), None, f"{stages} slots", policy)
        admit(first)()
        self._revisions: deque[Revision] = deque([first], maxlen=REVISIONS_KEPT)
        self._current = first

    def current(self) -> Revision:
        """Return the newest revision. One attribute read, so no lock."""
        return self._current

    def revisions(self) -> list[Revision]:
        """Return the kept revisions, oldest first."""
        return list(self._revisions)  # one step for the interpreter, so no lock

    def number_of(self, slot: int | str) -> int:
        """Return the number of a slot given by number (negative ones count from the end) or name.

        Raises:
            SlotOutOfRange, UnknownSlot: there is none.
        """
        slots = self._current.slots
        if isinstance(slot, str):
            for candidate in slots:
                if candidate.name == slot:
                    return candidate.number
            raise UnknownSlot(slot, [s.name for s in slots if s.name])
        if isinstance(slot, bool) or not isinstance(slot, int):
            raise InvalidArgument("slot", f"{slot!r} is neither a number nor a name")
        number = slot + len(slots) if slot < 0 else slot
        if not 0 <= number < len(slots):
            raise SlotOutOfRange(slot, len(slots))
        return number

    def assign(
        self,
        functions: Mapping[int, SlotFunction | None],
        *,
        names: Mapping[int, str] | None = None,
        sources: Mapping[int, str] | None = None,
        policies: Mapping[int, Policy] | None = None,
        author: str | None = None,
        change: str | None = None,
    ) -> Revision:
        """Put functions (None: identity) in slots, as one revision; return it.

        A slot keeps its name and policy when it gets another function, unless new ones are given.

        Messages under way keep the table that they started with. A refused function leaves all as
        it was.

        Raises:
            NotCallable: something that cannot be a slot function.
            InvalidName: a slot name that another slot bears, or that is no identifier.
            InvalidArgument: a policy that the executor cannot follow.
            PrepFailed: an object's ``prep`` raised.
        """
        names, sources, policies = names or {}, sources or {}, policies or {}
        slots = [self._slot(n, f, names.get(n), sources.get(n), author, policies.get(n)) for n, f in functions.items()]
        made = {slot.number: slot for slot in slots}
        with self._lock:
            return self._replace(made, author, change or _change_text(functions))

    def slot_on_trial(self, number: int, function: SlotFunction) -> Slot:
        """Return ``function`` as it would be in slot ``number``; change nothing."""
        return self._slot(number, function, None, None, None)

    def _slot(
        self,
        number: int,
        function: SlotFunction | None,
        name: str | None,
        source: str | None,
        author: str | None,
        policy: Policy | None = None,
    ) -> Slot:
        number = self.number_of(number)
        if function is None:
            return Slot(number, author=author)
        problem = refusal(function, number)
        if problem is not None:
            raise NotCallable(number, type(function).__name__, problem)
        text = source if source is not None else source_text(function)
        return Slot(number, function, name, arguments_of(called_of(function), number), text, author, policy=policy)

    def _replace(self, made: Mapping[int, Slot], author: str | None, change: str) -> Revision:
        now = self._current
        slots = list(now.slots)
        for n, slot in made.items():
            if n >= len(slots):
                raise SlotOutOfRange(n, len(slots))
            name, policy = slot.name, slot.policy
            if slot.function is not None:
                name, policy = name or slots[n].name, policy or slots[n].policy
            slots[n] = replace(slot, number=n, name=name, policy=policy, since=now.number + 1)
        _check_names(slots)
        return self._push(tuple(slots), author, change)

    def _push(self, slots: tuple[Slot, ...], author: str | None, change: str, policy: Policy | None = None) -> Revision:
        """Make a revision, have it admitted, and make it the newest. Under the lock."""
        now = self._current
        policy = now.policy if policy is None else policy
        revision = make_revision(now.number + 1, slots, self._clock(), author, change, policy)
        settle = self._admit(revision)
        self._revisions.append(revision)
        self._current = revision
        settle()
        return revision

    def set_policy(self, slot: int | str | None, policy: Policy | None, *, author: str | None = None) -> Revision:
        """Set a slot's policy, or with ``slot=None`` the table's; ``policy=None``: the slot has none of its own.

        Raises:
            InvalidArgument: a policy that the executor cannot follow.
        """
        with self._lock:
            now = self._current
            if slot is None:
                return self._push(now.slots, author, "policy", RECORD if policy is None else policy)
            number = self.number_of(slot)
            slots = list(now.slots)
            slots[number] = replace(slots[number], policy=policy)
            return self._push(tuple(slots), author, f"policy of {number}")

    def rollback(self, number: int, *, author: str | None = None) -> Revision:
        """Make the table of revision ``number`` the newest one, under a new number.

        Raises:
            UnknownRevision: never made, or no longer kept.
        """
        with self._lock:
            for old in self._revisions:
                if old.number == number:
                    return self._push(old.slots, author, f"rollback to {number}", old.policy)
            raise UnknownRevision(number, self._revisions[0].number, self._current.number)

    def resize(self, stages: int, *, author: str | None = None) -> Revision:
        """Change the number of slots; slots are added and taken at the end, set ones never taken.

        Raises:
            InvalidArgument: out of bounds, or a set slot stands in the way.
        """
        if not 1 <= stages <= STAGES_LIMIT:
            raise InvalidArgument("stages", f"{stages} is not between 1 and {STAGES_LIMIT}")
        with self._lock:
            slots = self._current.slots
            for slot in slots[stages:]:
                if slot.function is not None:
                    raise InvalidArgument("stages", f"slot {slot.number} is set; delete it first")
            more = tuple(Slot(n) for n in range(len(slots), stages))
            return self._push(slots[:stages] + more, author, f"{stages} slots")


def _check_names(slots: Sequence[Slot]) -> None:
    names = [slot.name for slot in slots if slot.name is not None]
    for name in names:
        if not name.isidentifier():
            raise InvalidName(name, "a slot name that is an identifier")
        if names.count(name) > 1:
            raise InvalidName(name, "a slot name that no other slot bears")


def _change_text(functions: Mapping[int, SlotFunction | None]) -> str:
    sets = [str(n) for n, f in functions.items() if f is not None]
    deletes = [str(n) for n, f in functions.items() if f is None]
    parts = [f"set {', '.join(sets)}"] if sets else []
    return "; ".join([*parts, *([f"delete {', '.join(deletes)}"] if deletes else [])])


__all__ = ["Revision", "Slot", "SlotFunction", "SlotTable", "SlotTally", "Step", "identity", "make_revision"]
