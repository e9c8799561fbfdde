"""One message's calls as a Dask graph: a plain dict from which any Dask scheduler computes the machine's record."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from timbr_wamp.contract import Record, RecordMeta
from timbr_wamp.errors import UpstreamError, is_users_interrupt
from timbr_wamp.machine.events.hooks import Hooks
from timbr_wamp.machine.protocols import Clock, PlanStep
from timbr_wamp.machine.raw import opened
from timbr_wamp.machine.records.recorder import policies_of
from timbr_wamp.machine.running.careful_pass import CarefulPass, KnownOutcome, PassResult, awaiting, run_steps
from timbr_wamp.machine.running.context import MachineContext
from timbr_wamp.machine.running.event_loop import EventLoop
from timbr_wamp.machine.running.executors.thread_pool import TimeLimiter
from timbr_wamp.machine.slots.callables import is_unawaited
from timbr_wamp.machine.slots.dependencies import dependencies_of
from timbr_wamp.machine.slots.table import Revision
from timbr_wamp.values import text_of

#: A slot's value or error; None: it did not run.
SlotOutcome = KnownOutcome | None


def dask_graph(
    revision: Revision, message: object, oid: str, *, received_at: float, clock: Clock
) -> dict[str, tuple[Any, ...]]:
    """Return one message's pass as a Dask graph.

    Keys: ``in``, ``f0`` … are values (the exception of a slot that raised), ``in_s``, ``f0_s`` … their
    JSON texts, ``record`` the `Record` with its texts, policies applied. Further keys, ``…_outcome``,
    are the calls themselves. The machine's hooks and event handler do not run.
    """
    dependencies = dependencies_of(revision)
    names = ["in", *(f"f{step.slot.number}" for step in revision.steps)]
    outcomes = [f"{name}_outcome" for name in names]
    graph: dict[str, tuple[Any, ...]] = {outcomes[0]: (partial(_message, message),)}
    for key, step, inputs in zip(outcomes[1:], revision.steps, dependencies.inputs, strict=True):
        consumed = (outcomes[need] for need in (*inputs.values, *inputs.texts))
        graph[key] = (partial(_call, step, len(inputs.values)), *consumed)
    for number, source in enumerate(dependencies.layout):
        name = f"f{number - 1}" if number else "in"
        graph[name] = (partial(_value, name), outcomes[source])
        graph[f"{name}_s"] = (partial(_text, name), outcomes[source])
    graph["record"] = (partial(_record, revision, oid, received_at, clock), *outcomes)
    return graph


def _message(message: object) -> KnownOutcome:
    value, text, error = opened(message)
    return value, error, text


def _call(step: PlanStep, values: int, *outcomes: SlotOutcome) -> SlotOutcome:
    """Call a step's function unless one of the values that it consumes is missing."""
    arguments: list[Any] = []
    for number, outcome in enumerate(outcomes):
        if outcome is None or outcome[1] is not None:
            return None
        arguments.append(outcome[0] if number < values else outcome[2].decode())
    try:
        value = call_anywhere(step, arguments)
        if is_unawaited(value):
            value = call_anywhere(awaiting(step), [value])
    except BaseException as error:  # whatever a slot raises is the message's outcome
        if is_users_interrupt(error):
            raise
        return None, error, b""
    return value, None, text_of(value)


def call_anywhere(step: PlanStep, arguments: Sequence[Any]) -> Any:
    """Call a step's function within its time limit, also in a process without a machine."""
    if step.is_async:
        loop = EventLoop()
        try:
            return loop.call_step(step, arguments)
        finally:
            loop.close()
    if step.policy.timeout_s is None:
        return step.function(*arguments)
    return TimeLimiter().call(lambda: step.function(*arguments), step.policy.timeout_s, step.slot.task)


def _value(task: str, outcome: SlotOutcome) -> Any:
    """Return a value; for a slot that gave none the error. (Older versions of Dask run every key: none may raise.)"""
    if outcome is None:
        return UpstreamError(task, "a slot that it consumes")
    return outcome[0] if outcome[1] is None else outcome[1]


def _text(task: str, outcome: SlotOutcome) -> str:
    text = text_of(_value(task, outcome)) if outcome is None or outcome[1] is not None else outcome[2]
    return text.decode()


def _record(revision: Revision, oid: str, received_at: float, clock: Clock, *outcomes: SlotOutcome) -> Record:
    """Make the record of the slots' outcomes, with policies and skipped slots where one failed."""
    values, texts, notes = _ran(revision, oid, clock, outcomes)
    meta = RecordMeta(
        run="", seq=0, attempt=0, revision=revision.number, received_at=received_at, finished_at=clock(),
        errored=bool(notes and notes.errored), dropped=bool(notes and notes.verdict == "drop"),
        policies=(policies_of(notes) or None) if notes else None,
    )  # fmt: skip
    return Record.make(oid, values, meta, [text.decode() for text in texts])


def _ran(revision: Revision, oid: str, clock: Clock, outcomes: Sequence[SlotOutcome]) -> PassResult:
    message = outcomes[0]
    assert message is not None, "the message itself is always there"
    context = MachineContext(
        current=lambda: revision, may_start=lambda: True, wake=lambda: None, hooks=Hooks(), clock=clock
    )
    known = {position: outcome for position, outcome in enumerate(outcomes[1:]) if outcome is not None}
    careful = CarefulPass(revision, message[0], context, oid, text=message[2], known=known)
    return run_steps(careful.steps(), call_anywhere)
