"""Run one message through a revision without a machine: by the compiled pass, and by the careful pass."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from timbr_wamp.machine.events.hooks import Hooks
from timbr_wamp.machine.messages import Entry, Finished
from timbr_wamp.machine.protocols import Executor, RunContext
from timbr_wamp.machine.running.careful_pass import CarefulPass, run_steps
from timbr_wamp.machine.running.compiled_pass import compile_pass
from timbr_wamp.machine.running.context import MachineContext
from timbr_wamp.machine.running.executors.inline import InlineExecutor
from timbr_wamp.machine.slots.table import Revision, SlotTable


def context_of(current: Callable[[], Revision], **options: Any) -> MachineContext:
    """What an executor needs, with nobody who stops it."""
    chosen: dict[str, Any] = {"may_start": lambda: True, "wake": lambda: None, "hooks": Hooks(), "clock": time.time}
    context = MachineContext(current=current, **{**chosen, **options})
    table = getattr(current, "__self__", None)
    if isinstance(table, SlotTable):
        table.on_change = context.changed
    return context


def process(executor: Executor, entries: deque[Entry], context: RunContext) -> Iterator[Finished]:
    """Process entries as the worker does; yield each finished message in its place."""
    finished: deque[Finished] = deque()
    for one in executor.process(entries, context, finished.append):
        if one is not None:
            finished.append(one)
        while finished:
            yield finished.popleft()
    yield from finished


def plain(revision: Revision, message: object) -> tuple[list[Any], list[bytes], list[Any]]:
    """Run a message through the compiled pass; with care from the first slot that raises."""
    values, texts, notes = compile_pass(revision, context_of(lambda: revision)).one(message, "oid")
    if notes:
        values, texts, notes = run_steps(notes.steps(), InlineExecutor().invoke)
    return values, texts, notes.failures if notes else []


def careful(revision: Revision, message: object) -> tuple[list[Any], list[bytes], list[Any]]:
    """Run a message through the careful pass."""
    careful_pass = CarefulPass(revision, message, context_of(lambda: revision), "oid", timed=True)
    values, texts, notes = run_steps(careful_pass.steps(), InlineExecutor().invoke)
    return values, texts, notes.failures if notes else []


def outcomes(failures: list[Any]) -> list[tuple[Any, ...]]:
    """Return what must be equal for both passes: everything but the traceback."""
    return [(f.slot, f.task, f.exc_class, f.exc_value, f.policy, f.tries) for f in failures]
