"""Runs functions and slot tables beside the present ones, on kept or given messages; the machine is not changed.

A trial runs in the caller's thread. What a slot holds is copied first, and a copy of an object has a ``prep`` and a
``teardown`` of its own. No hook, event handler, retry or verdict of a policy runs, nothing is counted or published.
Kept values are parsed from their JSON texts, anew for each call; a note says where that makes a difference.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from types import BuiltinFunctionType, FunctionType
from typing import Any

import orjson

from timbr_wamp.contract import (
    Policy,
    RevisionDiff,
    SlotDiff,
    TrialOutcome,
    TrialResult,
    TrialRow,
    outcome_kind,
)
from timbr_wamp.contract.trials import SlotChange
from timbr_wamp.errors import NothingToDebug, UnknownRevision, counted, is_users_interrupt
from timbr_wamp.machine.differences import json_changes, text_diff
from timbr_wamp.machine.events.hooks import Hooks
from timbr_wamp.machine.interrupts import delivered
from timbr_wamp.machine.protocols import Clock, CoroutineRunner, PlanStep
from timbr_wamp.machine.records.provenance import Provenance, Selection
from timbr_wamp.machine.records.recorder import Recorder
from timbr_wamp.machine.records.rows import CompactRow, texts_of, whole_text
from timbr_wamp.machine.running.cancellation import current
from timbr_wamp.machine.running.careful_pass import CarefulPass, run_steps
from timbr_wamp.machine.running.context import MachineContext
from timbr_wamp.machine.slots.arguments import given
from timbr_wamp.machine.slots.callables import is_class, is_unawaited
from timbr_wamp.machine.slots.objects import Objects
from timbr_wamp.machine.slots.table import Revision, Slot, SlotFunction, SlotTable, make_revision, make_step
from timbr_wamp.values import parse_json, text_of

#: A trial begins no further message after this time, seconds.
TRIAL_S = 60.0
#: Messages of a trial unless it says which.
LAST = 100


@dataclass(frozen=True, slots=True)
class _Sample:
    """A message to try something on."""

    oid: str
    #: JSON text of the message.
    text: bytes
    #: JSON texts ``[in, f0, …]`` of its newest record; None: it was given by hand.
    known: Sequence[bytes] | None = None
    revision: int = -1
    #: Returns the message, each time anew.
    make: Callable[[], Any] = field(default=lambda: None)


@dataclass(slots=True)
class _Ran:
    """What one side gave for a message."""

    texts: list[bytes]
    duration_s: float | None = None
    #: The slot had no value to run on.
    skipped: bool = False


class Trials:
    """Trials, comparisons and calls for a debugger on one machine's slots. Any thread.

    Args:
        invoke: calls a step's function, as the machine's executor does.
        loop: where coroutines run.
    """

    def __init__(
        self,
        *,
        table: SlotTable,
        objects: Objects,
        recorder: Recorder,
        provenance: Provenance,
        invoke: Callable[[PlanStep, Sequence[Any]], Any],
        loop: CoroutineRunner,
        clock: Clock,
    ) -> None:
        self._table, self._objects, self._recorder, self._provenance = table, objects, recorder, provenance
        self._invoke, self._loop = invoke, loop
        self._context = MachineContext(
            current=table.current, may_start=lambda: True, wake=lambda: None, hooks=Hooks(), clock=clock
        )

    # --- a function in a slot ---

    def function(
        self,
        slot: int | str,
        function: SlotFunction,
        messages: Selection | Sequence[object],
        *,
        timeout_s: float = TRIAL_S,
    ) -> TrialResult:
        """Run a function beside the present one of a slot; ``messages``: which kept ones, or given samples.

        Kept messages are not run through earlier slots: the slot gets the values of the record. Samples run through
        copies of the present earlier slots.
        """
        now = self._table.current()
        candidate = self._table.slot_on_trial(slot, function)
        present = now.slots[candidate.number]
        candidate = replace(candidate, name=present.name)
        report = _Report(f"{present.task} beside revision {now.number}", now.number, candidate.number)
        report.result.source_diff = text_diff(
            present.source, candidate.source, f"{present.task}, revision {now.number}", f"{present.task}, on trial"
        )
        samples = self._samples(messages)
        with ExitStack() as open_:
            before_slot = self._sole(open_, present, report, "the present function")
            on_trial = self._sole(open_, candidate, report, "the function on trial")
            ahead = None
            if any(sample.known is None for sample in samples) and candidate.number:
                ahead = self._plan(open_, now.slots[: candidate.number], report)
            for sample in self._while_time(samples, timeout_s, report):
                texts, values = self._values_before(sample, candidate.number, ahead)
                one = self._run_slot(before_slot, texts, values())
                two = self._run_slot(on_trial, texts, values())
                differs = sample.known is not None and not one.skipped and sample.revision >= present.since
                report.add(sample, one, two, [""])
                if differs and _other(one.texts[-1], sample, candidate.number + 1):
                    report.not_reproduced += 1
        return report.end()

    def _sole(self, open_: ExitStack, slot: Slot, report: _Report, what: str) -> Revision:
        """Return a plan of one slot, after the values before it."""
        made = self._copied(open_, slot, report, what)
        return Revision(0, (made,), (make_step(made, 0, Policy()),), made.number, 0.0, None, "trial")

    def _values_before(
        self, sample: _Sample, number: int, ahead: Revision | None
    ) -> tuple[list[bytes], Callable[[], list[Any]]]:
        """Return the JSON texts ``[in, …]`` before a slot, and what makes the values, each time anew."""
        if sample.known is None:
            if ahead is None:
                return [sample.text], lambda: [sample.make()]
            values, texts = self._pass(ahead, sample)
            return texts, lambda: _copies(values)
        known = list(sample.known[: number + 1])
        known += [known[-1]] * (number + 1 - len(known))  # the table was shorter at that time
        return known, lambda: [parse_json(text) for text in known]

    def _run_slot(self, plan: Revision, texts: Sequence[bytes], values: list[Any]) -> _Ran:
        broken = [parse_json(text)["_exception"]["task"] if _is_failure(text) else None for text in texts]
        careful = CarefulPass(plan, None, self._context, "", values=values, texts=list(texts), broken=broken)
        started = time.perf_counter()
        with delivered():
            _, made, _ = run_steps(careful.steps(), self._invoke)
        took = time.perf_counter() - started
        return _Ran([made[-1]], took, skipped=outcome_kind(parse_json(made[-1])) == "skipped")

    # --- whole tables ---

    def tables(
        self,
        before: int | None,
        after: int | None,
        messages: Selection | Sequence[object],
        *,
        with_values: Mapping[Any, object] | None = None,
        timeout_s: float = TRIAL_S,
    ) -> TrialResult:
        """Run messages through the table of a revision (None: the newest) beside another one's.

        Args:
            before: the other one; None: what the records have.
            with_values: what slots give, by number or name, instead of their functions.
        """
        now = self._table.current()
        second = now if after is None else self._table.runnable(after)
        first = None if before is None else self._table.runnable(before)
        beside = "what is recorded" if before is None else f"revision {before}"
        report = _Report(f"revision {second.number} beside {beside}", now.number, None)
        slots = self._with_values(second, with_values or {})
        labels = [_label(slot) for slot in slots]
        shown = [n for n, slot in enumerate(slots) if slot.function is not None]
        if first is not None:
            shown = sorted({*shown, *(n for n, slot in enumerate(first.slots) if slot.function is not None)})
            labels += [_label(slot) for slot in first.slots[len(labels) :]]
        with ExitStack() as open_:
            plan = self._plan(open_, slots, report)
            other = None if first is None else self._plan(open_, first.slots, report)
            for sample in self._while_time(self._samples(messages), timeout_s, report):
                two = self._run_table(plan, sample)
                one = _Ran(list(sample.known or [sample.text])) if other is None else self._run_table(other, sample)
                report.add(sample, _picked(one, shown), _picked(two, shown), [labels[n] for n in shown])
        return report.end()

    def _with_values(self, revision: Revision, with_values: Mapping[Any, object]) -> tuple[Slot, ...]:
        slots = list(revision.slots)
        for key, value in with_values.items():
            number = self._table.number_of(key)
            made = self._table.slot_on_trial(number, _giving(value))
            slots[number] = replace(made, name=slots[number].name)
        return tuple(slots)

    def _plan(self, open_: ExitStack, slots: Sequence[Slot], report: _Report) -> Revision:
        """Return a plan of copies of slots, without their policies."""
        copies = [slot if slot.function is None else self._copied(open_, slot, report, slot.task) for slot in slots]
        return make_revision(0, tuple(copies), 0.0, None, "trial")

    def _run_table(self, plan: Revision, sample: _Sample) -> _Ran:
        started = time.perf_counter()
        texts = self._pass(plan, sample)[1]
        return _Ran(texts, time.perf_counter() - started)

    def _pass(self, plan: Revision, sample: _Sample) -> tuple[list[Any], list[bytes]]:
        """Run a message through a plan; return its values and their JSON texts."""
        careful = CarefulPass(plan, sample.make(), self._context, sample.oid, text=sample.text)
        with delivered():
            values, texts, _ = run_steps(careful.steps(), self._invoke)
        return values, texts

    # --- both ---

    def _samples(self, messages: Selection | Sequence[object]) -> list[_Sample]:
        if isinstance(messages, Selection):
            return [_kept_sample(row) for row in self._provenance.select(messages)]
        return [_given_sample(message) for message in messages]

    def _while_time(self, samples: Sequence[_Sample], timeout_s: float, report: _Report) -> Iterator[_Sample]:
        deadline = time.monotonic() + timeout_s
        usable = [sample for sample in samples if b"__too_large__" not in sample.text[:200]]
        if len(usable) < len(samples):
            report.note(f"{counted(len(samples) - len(usable), 'message')} too large to be kept whole, left out")
        for number, sample in enumerate(usable):
            if time.monotonic() >= deadline:
                report.note(f"ended after {timeout_s:g} s, with {len(usable) - number} of {len(usable)} messages left")
                return
            current().check()
            yield sample

    def _copied(self, open_: ExitStack, slot: Slot, report: _Report, what: str) -> Slot:
        """Return a slot with a copy of what it holds and without policy, prepared until the end of ``open_``."""
        policy = None if slot.policy is None else Policy(timeout_s=slot.policy.timeout_s)
        function, problem = _copy_of(slot.function)
        if problem is not None and report is not None:
            report.note(f"{what} cannot be copied ({problem}); the trial used it itself")
        made = replace(slot, function=function, policy=policy)
        open_.enter_context(self._objects.tried(made))
        return made

    # --- comparing revisions ---

    def difference(self, a: int, b: int) -> RevisionDiff:
        """Return how the slot tables of two kept revisions differ, in their sources, names and policies.

        Raises:
            UnknownRevision: one of them is not kept.
        """
        first, second = self._table.kept(a), self._table.kept(b)
        found = RevisionDiff(a=a, b=b)
        for number in range(max(len(first.slots), len(second.slots))):
            one, two = (slots[number] if number < len(slots) else Slot(number) for slots in (first.slots, second.slots))
            if (diff := _slot_diff(one, two, a, b)) is not None:
                found.slots.append(diff)
        if len(first.slots) != len(second.slots):
            found.notes.append(f"{len(first.slots)} slots, then {len(second.slots)}")
        if first.policy != second.policy:
            found.notes.append("the policy of slots without their own differs")
        return found

    # --- debugging ---

    def debug(self, oid: str, *, revision: int | None = None) -> Any:
        """Call the slot that failed in the newest failed attempt at a message again, in this thread; return its value.

        It gets the values that the record has. ``revision``: whose function is called; None: that of the attempt, or
        the present one if that is no longer kept.

        Raises:
            BaseException: what the slot raises, with its own traceback.
            NothingToDebug: no kept attempt failed in a slot.
            UnknownMessage: nothing of it is kept.
        """
        found = self._provenance.lookup(oid)
        attempt = next((one for one in reversed(found.attempts) if one.failure is not None), None)
        if attempt is None or attempt.failure is None:
            raise NothingToDebug(oid)
        number = attempt.failure.slot
        table = self._table_of(attempt.revision if revision is None else revision, strict=revision is not None)
        slot = table.slots[number]
        texts = [found.input or "null", *(value.text or "null" for value in attempt.slots[:number])]
        with self._ready(slot) as made:
            step = make_step(made, 0, Policy())
            arguments = given(step, [parse_json(text) for text in texts], [text.encode() for text in texts])
            with delivered():
                value = step.function(*arguments)
                return self._loop.run(_awaited(value)) if is_unawaited(value) else value

    def _table_of(self, number: int | None, *, strict: bool) -> Revision:
        try:
            return self._table.runnable(-1 if number is None else number)
        except UnknownRevision:
            if strict:
                raise
            return self._table.current()

    @contextmanager
    def _ready(self, slot: Slot) -> Iterator[Slot]:
        made = replace(slot, function=_copy_of(slot.function)[0])
        with self._objects.tried(made):
            yield made


async def _awaited(value: Any) -> Any:
    return await value


class _Report:
    """Makes the result of a trial."""

    def __init__(self, title: str, base_revision: int, slot: int | None) -> None:
        self.result = TrialResult(title=title, base_revision=base_revision, slot=slot)
        self._before: list[float] = []
        self._after: list[float] = []
        #: Messages for which the present function gives something else than their records have.
        self.not_reproduced = 0

    def note(self, text: str) -> None:
        """Add a note once."""
        if text not in self.result.notes:
            self.result.notes.append(text)

    def add(self, sample: _Sample, before: _Ran, after: _Ran, labels: Sequence[str]) -> None:
        """Add a message's row."""
        outcome, changes = _compared(before, after, labels)
        result = self.result
        result.tried += 1
        setattr(result, _COUNTERS[outcome], getattr(result, _COUNTERS[outcome]) + 1)
        for seconds, ran in ((self._before, before), (self._after, after)):
            if ran.duration_s is not None and outcome != "skipped":
                seconds.append(ran.duration_s)
        one_slot = result.slot is not None
        result.rows.append(
            TrialRow(
                oid=sample.oid,
                text=_text(after.texts, one_slot),
                errored=any(map(_is_failure, after.texts)),
                duration_s=after.duration_s or 0.0,
                input=sample.text.decode(),
                before=_text(before.texts, one_slot),
                outcome=outcome,
                changes=changes,
                before_s=before.duration_s,
            )
        )

    def end(self) -> TrialResult:
        """Return the result."""
        result = self.result
        if self._before:
            result.before_p50_s, result.before_total_s = median(self._before), sum(self._before)
        if self._after:
            result.after_p50_s, result.after_total_s = median(self._after), sum(self._after)
        if self.not_reproduced:
            self.note(
                f"for {counted(self.not_reproduced, 'message')} the present function now gives something else than "
                "their records have: it depends on more than its arguments, or on more than their JSON texts keep"
            )
        if not result.tried and not result.notes:
            self.note("no records are kept, so there was nothing to try it on")
        return result


_COUNTERS: Mapping[TrialOutcome, str] = {
    "same": "same", "changed": "changed", "new_error": "new_errors", "mended": "mended", "other_error": "other_errors",
    "skipped": "skipped",
}  # fmt: skip
#: The outcome of several slots is the first of these that one of them has.
_ORDER: Sequence[TrialOutcome] = ("new_error", "other_error", "mended", "changed", "same", "skipped")


def _compared(before: _Ran, after: _Ran, labels: Sequence[str]) -> tuple[TrialOutcome, list[str]]:
    """Return how the values of slots differ, and the differences."""
    if after.skipped:
        return "skipped", []
    outcomes: list[TrialOutcome] = []
    changes: list[str] = []
    for label, one, two in zip(labels, before.texts, after.texts, strict=False):
        outcome, found = _compared_values(one, two, label)
        outcomes.append(outcome)
        changes += found
    return next((one for one in _ORDER if one in outcomes), "same"), changes


def _compared_values(before: bytes, after: bytes, path: str = "") -> tuple[TrialOutcome, list[str]]:
    """Return how a slot's value or failure differs; ``path`` names the slot in the differences."""
    if before == after:
        return ("skipped" if outcome_kind(parse_json(after)) == "skipped" else "same"), []
    one, two = parse_json(before), parse_json(after)
    if not (_is_failure(before) or _is_failure(after)):
        changes = json_changes(one, two, path)
        return ("changed" if changes else "same"), changes
    texts = [_failure_text(value) for value in (one, two)]
    change = [] if texts[0] == texts[1] else [f"{path}{': ' if path else ''}{texts[0]} → {texts[1]}"]
    if not _is_failure(before):
        return "new_error", change
    if not _is_failure(after):
        return "mended", change
    if "skipped" in (outcome_kind(one), outcome_kind(two)):
        return "skipped", []
    return ("other_error" if change else "same"), change


def _failure_text(value: Any) -> str:
    """Return an error or skipped slot in short, or a value."""
    if outcome_kind(value) == "value":
        text = orjson.dumps(value).decode()
        return text if len(text) <= 80 else f"{text[:79]}…"
    detail = value["_exception"]
    return f"{detail['exc_class']}: {detail['exc_value']}"[:200]


def _is_failure(text: bytes) -> bool:
    return text.startswith(b'{"_exception"') and outcome_kind(parse_json(text)) != "value"


def _other(text: bytes, sample: _Sample, position: int) -> bool:
    """Tell whether the record has something else than a text for a position."""
    assert sample.known is not None
    known = sample.known[position : position + 1]
    return bool(known) and _compared_values(known[0], text)[0] not in ("same", "skipped")


def _text(texts: Sequence[bytes], one: bool) -> str:
    return (texts[-1] if one else b"[" + b",".join(texts) + b"]").decode()


def _picked(ran: _Ran, shown: Sequence[int]) -> _Ran:
    """Return the values of some slots; of a shorter table the last one."""
    return replace(ran, texts=[ran.texts[min(n + 1, len(ran.texts) - 1)] for n in shown])


def _label(slot: Slot) -> str:
    return slot.name or f"f{slot.number}"


def _kept_sample(row: CompactRow) -> _Sample:
    texts = texts_of(whole_text(row[2], row[4]))
    text = texts[0]
    return _Sample(row[1], text, texts, orjson.loads(row[3])["revision"], lambda: parse_json(text))


def _given_sample(message: object) -> _Sample:
    """Return a message that was given by hand; each call gets a copy, where it can be copied."""

    def make() -> Any:
        try:
            return copy.deepcopy(message)
        except Exception:  # foreign code
            return message

    return _Sample("", text_of(message), None, -1, make)


def _giving(value: object) -> Callable[[], object]:
    """Return a function without parameters that gives a value, each time anew."""
    return lambda: _copies([value])[0]


def _copies(values: list[Any]) -> list[Any]:
    try:
        return copy.deepcopy(values)
    except Exception:  # foreign code
        return list(values)


def _copy_of(function: SlotFunction | None) -> tuple[Any, str | None]:
    """Return a copy of what is in a slot, and why it is none, if so. Functions and classes are not copied."""
    if function is None or type(function) in (FunctionType, BuiltinFunctionType) or is_class(function):
        return function, None
    try:
        with delivered():
            return copy.deepcopy(function), None
    except BaseException as error:  # a file, a lock, a thread; or foreign code
        if is_users_interrupt(error):
            raise
        return function, type(error).__name__


def _slot_diff(one: Slot, two: Slot, a: int, b: int) -> SlotDiff | None:
    also = [name for name in ("policy", "name") if getattr(one, name) != getattr(two, name)]
    unset = one.function is None, two.function is None
    if all(unset):
        return None
    same = one.since == two.since or (one.source is not None and one.source == two.source)
    if same and not also and not any(unset):
        return None
    change: SlotChange = "set" if unset[0] else "unset" if unset[1] else "changed"
    return SlotDiff(
        slot=one.number,
        change=change,
        before=one.function_name,
        after=two.function_name,
        also=also,
        source_diff=text_diff(one.source, two.source, f"f{one.number}, revision {a}", f"f{one.number}, revision {b}"),
    )
