"""One message's calls as a Dask graph: a plain dict, of which any Dask scheduler makes the machine's record."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from timbr_wamp.contract import Record, RecordMeta
from timbr_wamp.errors import UpstreamError
from timbr_wamp.machine.events.hooks import Hooks
from timbr_wamp.machine.protocols import Clock, PlanStep
from timbr_wamp.machine.records.recorder import policies_of
from timbr_wamp.machine.running.careful_pass import CarefulPass, KnownOutcome, PassResult, awaiting, run_steps
from timbr_wamp.machine.running.context import MachineContext
from timbr_wamp.machine.running.event_loop import EventLoop
from timbr_wamp.machine.running.executors.thread_pool import TimeLimiter
from timbr_wamp.machine.slots.callables import is_unawaited
from timbr_wamp.machine.slots.dependencies import dependencies_of
from timbr_wamp.machine.slots.table import Revision
from timbr_wamp.values import text_of

#: What a slot gave or raised; None: it did not run.
CallOutcome = KnownOutcome | None


def dask_graph(
    revision: Revision, message: object, oid: str, *, received_at: float, clock: Clock
) -> dict[str, tuple[Any, ...]]:
    """Return one message's way as a Dask graph.

    Keys: ``in``, ``f0`` … are values (of a slot that raised the exception), ``in_s``, ``f0_s`` …
    their JSON texts, ``record`` the `Record` with its texts, policies applied. Further keys,
    ``…_answer``, are the calls themselves. The machine's hooks and event handler have no part in it.
    """
    dependencies = dependencies_of(revision)
    names = ["in", *(f"f{step.slot.number}" for step in revision.steps)]
    answers = [f"{name}_answer" for name in names]
    graph: dict[str, tuple[Any, ...]] = {answers[0]: (partial(_begun, message),)}
    for key, step, inputs in zip(answers[1:], revision.steps, dependencies.inputs, strict=True):
        consumed = (answers[need] for need in (*inputs.values, *inputs.texts))
        graph[key] = (partial(_called, step, len(inputs.values)), *consumed)
    for number, source in enumerate(dependencies.layout):
        name = f"f{number - 1}" if number else "in"
        graph[name] = (partial(_value, name), answers[source])
        graph[f"{name}_s"] = (partial(_text, name), answers[source])
    graph["record"] = (partial(_record, revision, oid, received_at, clock), *answers)
    return graph


def _begun(message: object) -> KnownOutcome:
    return message, None, text_of(message)


def _called(step: PlanStep, values: int, *answers: CallOutcome) -> CallOutcome:
    """Call a step's function unless one of the values that it consumes is missing."""
    arguments: list[Any] = []
    for number, answer in enumerate(answers):
        if answer is None or answer[1] is not None:
            return None
        arguments.append(answer[0] if number < values else answer[2].decode())
    try:
        value = call_anywhere(step, arguments)
        if is_unawaited(value):
            value = call_anywhere(awaiting(step), [value])
    except BaseException as error:  # whatever a slot raises is the message's outcome
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        return None, error, b""
    return value, None, text_of(value)


def call_anywhere(step: PlanStep, arguments: Sequence[Any]) -> Any:
    """Call a step's function within its time limit, in a process that has no machine perhaps."""
    if step.is_async:
        loop = EventLoop()
        try:
            return loop.call_step(step, arguments)
        finally:
            loop.close()
    if step.policy.timeout_s is None:
        return step.function(*arguments)
    return TimeLimiter().call(lambda: step.function(*arguments), step.policy.timeout_s, step.slot.task)


def _value(task: str, answer: CallOutcome) -> Any:
    """Return a value; for a slot that gave none the error. (Older versions of Dask run every key: none may raise.)"""
    if answer is None:
        return UpstreamError(task, "a slot that it consumes")
    return answer[0] if answer[1] is None else answer[1]


def _text(task: str, answer: CallOutcome) -> str:
    text = text_of(_value(task, answer)) if answer is None or answer[1] is not None else answer[2]
    return text.decode()


def _record(revision: Revision, oid: str, received_at: float, clock: Clock, *answers: CallOutcome) -> Record:
    """Make the record of what the slots gave, with policies and skipped slots where one failed."""
    values, texts, notes = _ran(revision, oid, clock, answers)
    meta = RecordMeta(
        run="", seq=0, attempt=0, revision=revision.number, received_at=received_at, finished_at=clock(),
        errored=bool(notes and notes.errored), dropped=bool(notes and notes.verdict == "drop"),
        policies=(policies_of(notes) or None) if notes else None,
    )  # fmt: skip
    return Record.make(oid, values, meta, [text.decode() for text in texts])


def _ran(revision: Revision, oid: str, clock: Clock, answers: Sequence[CallOutcome]) -> PassResult:
    message = answers[0]
    assert message is not None, "the message itself is always there"
    context = MachineContext(
        current=lambda: revision, may_start=lambda: True, wake=lambda: None, hooks=Hooks(), clock=clock
    )
    known = {position: answer for position, answer in enumerate(answers[1:]) if answer is not None}
    passage = CarefulPass(revision, message[0], context, oid, text=message[2], known=known)
    return run_steps(passage.steps(), call_anywhere)
