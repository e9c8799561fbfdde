"""The slot table: functions by number. Every change makes a new immutable `Revision`.

A message uses one revision from start to end; the next message reads the newest one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import CodeType
from typing import Any, Protocol, TypeAlias, TypeVar

from timbr_wamp.contract import FunctionRef, Policy, RevisionInfo, SlotKind
from timbr_wamp.errors import (
    InvalidArgument,
    InvalidName,
    NotCallable,
    SlotNotRestored,
    SlotOutOfRange,
    TableChanged,
    UnknownRevision,
    UnknownSlot,
    counted,
)
from timbr_wamp.machine.checks import checked_whole
from timbr_wamp.machine.forks import survive_forks
from timbr_wamp.machine.interrupts import delivered
from timbr_wamp.machine.protocols import Clock
from timbr_wamp.machine.slots.advice import advice_for
from timbr_wamp.machine.slots.arguments import ONE, Arguments, arguments_of, refusal
from timbr_wamp.machine.slots.callables import called_of, code_of, is_async, is_object
from timbr_wamp.machine.slots.functions import PYTHON, Loaded, as_function, function_name, source_text
from timbr_wamp.names import slot_key

#: A callable, an object with ``step()``, source text, or a `FunctionRef`.
SlotFunction = Any

T = TypeVar("T")

#: A value for each slot, by number or name. (The key is `Any`, as a `Mapping` is invariant in its keys.)
BySlot: TypeAlias = Mapping[Any, T]

#: Revisions kept for `SlotTable.rollback`.
REVISIONS_KEPT = 200
#: Durations kept for each slot, for percentiles.
TIMINGS_KEPT = 512
STAGES_LIMIT = 64


#: In a kept revision: the function must be made from its text again.
NOT_LOADED: Any = type("NotLoaded", (), {"__repr__": lambda _: "NOT_LOADED"})()


def identity(value: object) -> object:
    """Return ``value``: what an unset slot does, at no cost."""
    return value


class SlotTally:
    """How often one function ran in one slot. Written by the machine's worker thread only."""

    __slots__ = ("calls", "defaults", "errors", "mended", "retries", "skipped", "timeouts", "timings")

    def __init__(self) -> None:
        #: Calls, retries included, of messages whose attempt has ended.
        self.calls = 0
        self.errors = 0
        self.skipped = 0
        self.retries = 0
        self.mended = 0
        self.defaults = 0
        self.timeouts = 0
        self.timings: deque[float] = deque(maxlen=TIMINGS_KEPT)


#: The default policy.
RECORD = Policy()


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot of a revision. ``function`` None: identity."""

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
    #: The kind of its content; determined once, as that may run an object's descriptors.
    kind: SlotKind = "identity"
    #: The function's name for people.
    function_name: str | None = None
    #: The source text from which the function was made; None: it was given as an object.
    made_of: str | None = None
    #: Of a function from a journal: its cloudpickle, unless it was made from text.
    pickled: bytes | None = field(default=None, repr=False, compare=False)
    #: The code of the function when it was put there: `SlotTable.renew` compares it.
    code: CodeType | None = field(default=None, repr=False, compare=False)
    #: The same in every revision that has this function.
    tally: SlotTally = field(default_factory=SlotTally, repr=False, compare=False)

    @property
    def task(self) -> str:
        """How records name the slot: ``f3``, or ``f3 (clean)``."""
        return f"f{self.number}" + (f" ({self.name})" if self.name else "")


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a plan, with all that the passes need as plain attributes."""

    #: What is called; an object's ``step``.
    function: Callable[..., Any]
    #: Values it gets; `ALL` for all.
    values: int
    texts: int
    #: Number of identity slots that follow, which carry its value.
    carry: int
    slot: Slot
    policy: Policy = RECORD
    #: The call returns an awaitable.
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
    #: The policy of slots without their own.
    policy: Policy = RECORD
    #: Why it was made, in the author's words.
    reason: str | None = None

    @cached_property
    def is_async(self) -> bool:
        """Some step's call returns an awaitable."""
        return any(step.is_async for step in self.steps)

    def info(self) -> RevisionInfo:
        """Return it as a wire struct."""
        names = [slot.function_name for slot in self.slots]
        return RevisionInfo(
            number=self.number, time=self.time, author=self.author, change=self.change, reason=self.reason,
            functions=names,
        )  # fmt: skip


def make_revision(
    number: int,
    slots: tuple[Slot, ...],
    time: float,
    author: str | None,
    change: str,
    policy: Policy = RECORD,
    reason: str | None = None,
) -> Revision:
    """Return a revision with its plan: only set slots are steps, unset ones carry values."""
    used = [slot for slot in slots if slot.function is not None]
    edges = [slot.number for slot in used[1:]] + [len(slots)]
    steps = tuple(make_step(slot, after - slot.number - 1, policy) for slot, after in zip(used, edges, strict=False))
    lead = used[0].number if used else len(slots)
    return Revision(number, slots, steps, lead, time, author, change, policy, reason)


def make_step(slot: Slot, carry: int, policy: Policy) -> Step:
    """Return a set slot as a step of a plan."""
    function = identity if slot.function is None else called_of(slot.function)
    own = policy if slot.policy is None else slot.policy
    return Step(function, slot.arguments.values, slot.arguments.texts, carry, slot, own, is_async(function))


def checked_stages(stages: int) -> int:
    """Return ``stages``; raise InvalidArgument unless a machine may have that many slots."""
    return checked_whole("stages", stages, 1, STAGES_LIMIT)


class Preparation(Protocol):
    """Prepares one change before its revision becomes the newest."""

    def prepare(self, revision: Revision) -> None:
        """Prepare what a draft needs; called again with a later draft if another change came first. May take long.

        Raises:
            TimbrError: it cannot become the newest revision.
        """

    def commit(self, revision: Revision) -> None:
        """Note that the revision is the newest one. In the order of the revisions; never raises."""

    def cancel(self) -> None:
        """Release what was prepared."""


class _NothingToPrepare:
    """For slots without objects."""

    def prepare(self, revision: Revision) -> None: ...
    def commit(self, revision: Revision) -> None: ...
    def cancel(self) -> None: ...


#: Returns the function of a slot whose function is not loaded, and why it is not the true one, if so.
LoadSlot: TypeAlias = "Callable[[Slot, Callable[[], Mapping[str, object]]], tuple[Any, str | None]]"

#: The next revision of a change: its slots, its description, and the policy of the table.
Draft = tuple[tuple[Slot, ...], str, Policy]


class SlotTable:
    """All revisions of a machine's slots. Any thread.

    Args:
        preparation: makes the `Preparation` of each change, which prepares or refuses it.
        check: raises if a revision cannot be run.
        namespace: what source text may refer to, when it becomes a function.
    """

    def __init__(
        self,
        stages: int,
        clock: Clock,
        *,
        policy: Policy = RECORD,
        preparation: Callable[[], Preparation] = _NothingToPrepare,
        check: Callable[[Revision], None] = lambda _: None,
        namespace: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        checked_stages(stages)
        self.after_fork_in_child()
        survive_forks(self)
        self._clock, self._preparation, self._check, self._namespace = clock, preparation, check, namespace
        first = make_revision(0, tuple(Slot(n) for n in range(stages)), clock(), None, counted(stages, "slot"), policy)
        check(first)
        #: Earlier revisions, as texts where they were made of text.
        self._kept: deque[Revision] = deque(maxlen=REVISIONS_KEPT - 1)
        self._current = first
        #: Called after each change; quick, never raises. The machine sets it.
        self.on_change: Callable[[], None] = lambda: None

    def after_fork_in_child(self) -> None:
        """Replace the lock, which a thread of the parent may hold."""
        self._lock = threading.RLock()

    def current(self) -> Revision:
        """Return the newest revision. One attribute read, so no lock."""
        return self._current

    def revisions(self) -> list[Revision]:
        """Return the kept revisions, oldest first. Earlier ones have no steps; see `_as_kept`."""
        with self._lock:
            return [*self._kept, self._current]

    def number_of(self, slot: int | str) -> int:
        """Return the number of a slot given by number (negative ones count from the end), name or label (``f3``).

        Raises:
            SlotOutOfRange, UnknownSlot: there is none.
        """
        return _number_in(self._current.slots, slot)

    # --- changes ---

    def change(
        self,
        make: Callable[[Revision], Draft],
        author: str | None,
        reason: str | None = None,
        if_revision: int | None = None,
    ) -> Revision:
        """Make the draft that ``make`` returns for the newest revision the next one. Every change goes through here.

        ``make`` is called again when another change came first. No lock is held while objects are prepared,
        so a ``prep`` may change slots, and a slow one delays no other change.

        Raises:
            TableChanged: the newest revision is not ``if_revision``, at the instant of the change.
        """
        preparation = self._preparation()
        try:
            while True:
                now = self._current
                if if_revision is not None and now.number != if_revision:
                    raise TableChanged(if_revision, now.number, now.change, now.author)
                slots, change, policy = make(now)
                revision = make_revision(now.number + 1, slots, self._clock(), author, change, policy, reason)
                self._check(revision)
                preparation.prepare(revision)
                with self._lock:
                    if self._current is now:
                        self._kept.append(_as_kept(now))
                        self._current = revision
                        self.on_change()
                        preparation.commit(revision)
                        return revision
        except BaseException:
            preparation.cancel()
            raise

    def assign(
        self,
        functions: BySlot[SlotFunction | None],
        *,
        names: BySlot[str] | None = None,
        sources: BySlot[str] | None = None,
        policies: BySlot[Policy] | None = None,
        author: str | None = None,
        reason: str | None = None,
        if_revision: int | None = None,
    ) -> Revision:
        """Put functions (None or `identity`: nothing) in slots by number or name, as one revision; return it.

        A function is a callable, an object with ``step``, source text, or a `FunctionRef`. A slot keeps its
        name and policy when it gets another function, unless new ones are given. Messages under way keep
        the table that they started with. A refused function leaves everything as it was.

        Raises:
            NotCallable: something that cannot be a slot function.
            InvalidSource: text that gives no function.
            InvalidName: a slot name that another slot has, or that is not an identifier.
            InvalidArgument: a policy that the executor cannot follow.
            PrepFailed: an object's ``prep`` raised.
            TableChanged: the newest revision is not ``if_revision``.
        """
        names, sources, policies = names or {}, sources or {}, policies or {}
        for argument, given in (("names", names), ("sources", sources), ("policies", policies)):
            if others := given.keys() - functions.keys():
                raise InvalidArgument(argument, f"{next(iter(others))!r} is not among the slots of the functions")
        loaded = {key: self._loaded(function, sources.get(key)) for key, function in functions.items()}

        def make(now: Revision) -> Draft:
            slots = list(now.slots)
            numbers = {key: _number_in(now.slots, key) for key in loaded}
            if len(set(numbers.values())) < len(numbers):
                raise InvalidArgument("functions", "one slot is named twice")
            for key, number in numbers.items():
                before = slots[number]
                made = _slot_of(number, loaded[key], author, now.number + 1)
                if made.function is not None:
                    name, policy = names.get(key) or before.name, policies.get(key) or before.policy
                    made = replace(made, name=name, policy=policy)
                slots[number] = made
            _check_names(slots)
            return tuple(slots), _change_text({n: loaded[key] for key, n in numbers.items()}), now.policy

        return self.change(make, author, reason, if_revision)

    def slot_on_trial(self, slot: int | str, function: SlotFunction) -> Slot:
        """Return ``function`` as it would be in a slot; change nothing."""
        return _slot_of(self.number_of(slot), self._loaded(function, None), None, 0)

    def _loaded(self, function: SlotFunction | None, source: str | None) -> Loaded | None:
        if function is None or function is identity:
            return None
        with delivered():  # running the text may take long
            loaded = as_function(function, self._namespace)
        return loaded if source is None else replace(loaded, source=source)

    def set_policy(
        self, slot: int | str | None, policy: Policy | None, *, author: str | None = None, reason: str | None = None
    ) -> Revision:
        """Set a slot's policy, or with ``slot=None`` the table's; ``policy=None`` removes the slot's own.

        Raises:
            InvalidArgument: a policy that the executor cannot follow.
        """

        def make(now: Revision) -> Draft:
            if slot is None:
                return now.slots, "policy", RECORD if policy is None else policy
            number = _number_in(now.slots, slot)
            slots = list(now.slots)
            slots[number] = replace(slots[number], policy=policy)
            return tuple(slots), f"policy of {number}", now.policy

        return self.change(make, author, reason)

    def kept(self, number: int) -> Revision:
        """Return a kept revision by number; an earlier one as it is kept, see `_as_kept`.

        Raises:
            UnknownRevision: never made, or no longer kept.
        """
        several = self.revisions()
        for one in several:
            if one.number == number:
                return one
        raise UnknownRevision(number, several[0].number, several[-1].number)

    def runnable(self, number: int) -> Revision:
        """Return a kept revision with its functions and plan, to run it beside the newest one; nothing is changed.

        Raises:
            UnknownRevision, InvalidSource, SlotNotRestored: see `rollback`.
        """
        now = self._current
        if number == now.number:
            return now
        old, again = self.kept(number), dict[int, SlotFunction]()
        slots = tuple(self._restored(slot, now, again) for slot in old.slots)
        return make_revision(number, slots, old.time, old.author, old.change, old.policy, old.reason)

    def rollback(
        self, number: int, *, author: str | None = None, reason: str | None = None, if_revision: int | None = None
    ) -> Revision:
        """Make the table of revision ``number`` the newest one, under a new number.

        Functions made from source text are made again, with the present namespace, unless still in their slot.

        Raises:
            UnknownRevision: never made, or no longer kept.
            InvalidSource: a text gives no function any more.
            SlotNotRestored: a function of an earlier process was not kept.
            TableChanged: the newest revision is not ``if_revision``.
        """
        again: dict[int, SlotFunction] = {}

        def make(now: Revision) -> Draft:
            old = self.kept(number)
            slots = [self._restored(slot, now, again) for slot in old.slots]
            return tuple(slots), f"rollback to {number}", old.policy

        return self.change(make, author, reason, if_revision)

    def _restored(self, slot: Slot, now: Revision, again: dict[int, SlotFunction]) -> Slot:
        """Return a kept slot with its function; ``again`` has those that were made again for this change."""
        if slot.function is not NOT_LOADED:
            return slot
        present = now.slots[slot.number] if slot.number < len(now.slots) else slot
        if present.tally is slot.tally and present.function is not NOT_LOADED:
            return replace(slot, function=present.function, code=present.code)
        if slot.number not in again:
            ref = FunctionRef(kind="source", text=slot.made_of)
            if slot.made_of is None:
                if slot.pickled is None:
                    raise SlotNotRestored(slot.task, "it could not be pickled when it was set")
                ref = FunctionRef(kind="cloudpickle", data=slot.pickled, python=PYTHON, text=slot.source)
            with delivered():
                again[slot.number] = as_function(ref, self._namespace).function
        function = again[slot.number]
        arguments = arguments_of(called_of(function), slot.number)  # a slot from a journal does not have them
        return replace(slot, function=function, arguments=arguments, code=_code(function))

    def restore(self, kept: Sequence[Revision], load: LoadSlot) -> list[tuple[str, str]]:
        """Take over the revisions of an earlier process, oldest first; return the slots that ``load`` has not.

        ``load`` returns the function of a slot, and why it is not the true one, if so. Before any other change.
        """
        *earlier, newest = kept
        missing: list[tuple[str, str]] = []

        def filled(slot: Slot) -> Slot:
            if slot.function is not NOT_LOADED:
                return slot
            function, problem = load(slot, self._namespace)
            if problem is not None:
                missing.append((slot.task, problem))
                return replace(slot, function=function)
            return replace(slot, function=function, arguments=arguments_of(called_of(function), slot.number))

        with delivered():
            slots = tuple(map(filled, newest.slots))
        preparation = self._preparation()
        revision = replace(
            make_revision(newest.number, slots, newest.time, newest.author, newest.change, newest.policy),
            reason=newest.reason,
        )
        try:
            self._check(revision)
            preparation.prepare(revision)
        except BaseException:
            preparation.cancel()
            raise
        with self._lock:
            self._kept.extend(earlier)
            self._current = revision
            self.on_change()
            preparation.commit(revision)
        return missing

    def renew(self) -> Revision | None:
        """Make a revision if functions in slots were changed in place, as IPython's ``%autoreload`` does; else None.

        Earlier revisions have the same functions, so they changed too; their texts stay as they were.
        """
        if not _changed_in_place(self._current.slots):
            return None

        def make(now: Revision) -> Draft:
            changed = _changed_in_place(now.slots)
            slots = list(now.slots)
            for slot in changed:
                loaded = Loaded(slot.function, source_text(slot.function))
                try:
                    made = _slot_of(slot.number, loaded, None, now.number + 1)
                except NotCallable:  # it needs other arguments now: its calls will fail and say so
                    made = replace(slot, source=loaded.source, since=now.number + 1, code=_code(slot.function))
                slots[slot.number] = replace(made, name=slot.name, policy=slot.policy)
            return tuple(slots), f"{', '.join(f'f{slot.number}' for slot in changed)} changed in place", now.policy

        return self.change(make, None)

    def resize(self, stages: int, *, author: str | None = None) -> Revision:
        """Change the number of slots; slots are added and removed at the end, set ones never removed.

        Raises:
            InvalidArgument: out of bounds, or a set slot would be removed.
        """
        checked_stages(stages)

        def make(now: Revision) -> Draft:
            for slot in now.slots[stages:]:
                if slot.function is not None:
                    raise InvalidArgument("stages", f"slot {slot.number} is set; delete it first")
            more = tuple(Slot(n) for n in range(len(now.slots), stages))
            return now.slots[:stages] + more, counted(stages, "slot"), now.policy

        return self.change(make, author)


def _code(function: SlotFunction) -> CodeType | None:
    return code_of(called_of(function))


def _changed_in_place(slots: Sequence[Slot]) -> list[Slot]:
    return [slot for slot in slots if slot.code is not None and _code(slot.function) is not slot.code]


def _number_in(slots: Sequence[Slot], slot: int | str) -> int:
    if isinstance(slot, str):
        slot = slot_key(slot)
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


def _slot_of(number: int, loaded: Loaded | None, author: str | None, since: int) -> Slot:
    """Return a slot with a function in it; raise NotCallable if it cannot be a slot function."""
    if loaded is None:
        return Slot(number, author=author, since=since)
    function = loaded.function
    problem = refusal(function, number)
    if problem is not None:
        advice = advice_for(function, number) if not callable(function) else None
        name = function_name(type(function)).rpartition(".")[2]
        if loaded.made_of is not None and not callable(function):
            name = "None" if function is None else name
            problem, advice = "is what the text gives, no function", advice or "write a lambda or a def"
        raise NotCallable(number, name, problem, advice) if advice else NotCallable(number, name, problem)
    return Slot(
        number, function, arguments=arguments_of(called_of(function), number), source=loaded.source, author=author,
        since=since, made_of=loaded.made_of, function_name=function_name(function), kind=_kind_of(function),
        code=_code(function),
    )  # fmt: skip


def _kind_of(function: SlotFunction) -> SlotKind:
    if is_object(function):
        return "object"
    return "async" if is_async(function) else "function"


def _as_kept(revision: Revision) -> Revision:
    """Return an earlier revision for keeping: functions made from text are left out, and it has no steps.

    So their globals are freed: else 200 revisions would keep as many states of a notebook.
    """
    slots = tuple(slot if slot.made_of is None else replace(slot, function=NOT_LOADED) for slot in revision.slots)
    return replace(revision, slots=slots, steps=())


def _check_names(slots: Sequence[Slot]) -> None:
    names = [slot.name for slot in slots if slot.name is not None]
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            raise InvalidName(str(name), "a slot name that is an identifier")
        if name == "in" or slot_key(name) != name:
            raise InvalidName(name, "a slot name other than in, f0, f1 …, which are labels of values")
        if names.count(name) > 1:
            raise InvalidName(name, "a slot name that no other slot bears")


def _change_text(slots: Mapping[int, object]) -> str:
    sets = [str(n) for n, f in slots.items() if f is not None]
    deletes = [str(n) for n, f in slots.items() if f is None]
    parts = [f"set {', '.join(sets)}"] if sets else []
    return "; ".join([*parts, *([f"delete {', '.join(deletes)}"] if deletes else [])])


__all__ = ["Revision", "Slot", "SlotFunction", "SlotTable", "SlotTally", "Step", "identity", "make_revision"]
