"""Assembles the parts of a machine and connects them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from timbr_wamp import plugins
from timbr_wamp.contract.policies import PolicyLike, checked_policy
from timbr_wamp.errors import InvalidArgument, class_and_text, described
from timbr_wamp.machine.checks import checked_list
from timbr_wamp.machine.events.failure_log import RaisedIn
from timbr_wamp.machine.events.hooks import Hooks
from timbr_wamp.machine.events.log import EventLog
from timbr_wamp.machine.history import History
from timbr_wamp.machine.intake.message_queue import MessageQueue
from timbr_wamp.machine.intake.source import CurrentSource
from timbr_wamp.machine.messages import Entry
from timbr_wamp.machine.protocols import Clock, Executor, Journal, Sink
from timbr_wamp.machine.records.provenance import Provenance
from timbr_wamp.machine.records.recorder import Recorder
from timbr_wamp.machine.records.replay import Replay
from timbr_wamp.machine.running.context import MachineContext
from timbr_wamp.machine.running.event_loop import EventLoop
from timbr_wamp.machine.running.worker import Worker
from timbr_wamp.machine.slots.objects import Objects
from timbr_wamp.machine.slots.table import Revision, SlotTable
from timbr_wamp.machine.trials import Trials
from timbr_wamp.names import new_run
from timbr_wamp.settings import JOURNALS_PID_VARIABLE, JOURNALS_VARIABLE

#: Most messages of a journal that are queued again at the start.
PENDING_LIMIT = 10_000_000


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a machine."""

    hooks: Hooks
    events: EventLog
    queue: MessageQueue
    executor: Executor
    loop: EventLoop
    objects: Objects
    table: SlotTable
    context: MachineContext
    recorder: Recorder
    replay: Replay
    provenance: Provenance
    trials: Trials
    history: History
    source: CurrentSource
    worker: Worker


def assemble(
    *,
    name: str,
    stages: int,
    bufsize: int,
    on_error: PolicyLike | None,
    executor: str | Executor,
    concurrency: int,
    journal: Journal | None,
    sinks: Sequence[Sink],
    clock: Clock,
    namespace: Callable[[], Mapping[str, object]],
) -> Parts:
    """Return the parts of a machine, connected; nothing runs yet.

    Raises:
        InvalidArgument, UnknownPlugin: an invalid argument.
    """
    hooks = Hooks()
    events = EventLog(clock, hooks, name=name)
    queue = MessageQueue(bufsize, name, on_full=lambda: events.add("full"))
    chosen = loaded_executor(executor)
    loop: EventLoop = getattr(chosen, "loop", None) or EventLoop()
    objects = Objects(
        loop, lambda which, verb, error: events.add("object_failed", object=which, verb=verb, error=error)
    )

    table = SlotTable(
        stages, clock, policy=checked_policy(on_error or "record", "on_error"), preparation=objects.preparation,
        check=partial(check_revision, chosen), namespace=namespace,
    )  # fmt: skip
    context = MachineContext(
        current=table.current, may_start=lambda: False, wake=queue.wake, hooks=hooks, clock=clock,
        concurrency=concurrency,
    )  # fmt: skip
    table.on_change = context.changed
    recorder = Recorder(
        run=journal.run if journal is not None else new_run(), queue=queue, clock=clock, events=events,
        current=table.current, journal=journal, sinks=checked_list("sinks", sinks, "objects with publish(rows)"),
    )  # fmt: skip
    pending: Sequence[Entry] = ()
    if journal is not None:
        queue.make_durable, queue.was_put = recorder.make_durable, recorder.was_put
        counts = recorder.restore()
        pending = journal.pending(PENDING_LIMIT)
        queue.restore(pending, counts.processed, counts.errored, counts.dropped)
    source = CurrentSource(
        name=name, queue=queue, recorder=recorder, events=events, clock=clock,
        apply_permission=lambda: worker.apply_source_permission(), halt=lambda reason: worker.halt(reason),
        on_failure=lambda error: ask_handler("source", "source", error),
    )  # fmt: skip
    worker = Worker(
        name=name, queue=queue, executor=chosen, context=context, objects=objects, events=events, clock=clock,
        recorder=recorder, source=source,
    )  # fmt: skip
    context.may_start = worker.may_start  # called once a message, so bound directly

    def ask_handler(kind: RaisedIn, part: str, error: BaseException) -> None:
        """Stop if the event handler wants this failure, which is not a slot's, raised in the user's call."""
        if context.raises(kind, error):
            worker.halt(class_and_text(part, described(error)), error)

    hooks.failures.on_report = ask_handler
    history = History(journal, events, table)
    history.restore()
    replay = Replay(queue, recorder, clock, state=lambda: worker.state, alive=lambda: worker.running)
    replay.restore(pending)
    provenance = Provenance(recorder, queue, table, worker.entry_of)
    trials = Trials(
        table=table, objects=objects, recorder=recorder, provenance=provenance, invoke=chosen.invoke, loop=loop,
        clock=clock,
    )  # fmt: skip
    return Parts(
        hooks=hooks, events=events, queue=queue, executor=chosen, loop=loop, objects=objects, table=table,
        context=context, recorder=recorder, replay=replay, provenance=provenance, trials=trials, history=history,
        source=source, worker=worker,
    )  # fmt: skip


def opened_journal(journal: str | Path | Journal | bool | None, name: str) -> tuple[Journal | None, Callable[[], None]]:
    """Return the journal of the machine ``name``, and what closes it: nothing, if it is the caller's own object.

    True means that of the process: `process_journals`.

    Raises:
        StorageBusy, StorageFailed: another process has the file; it cannot be used.
        InvalidArgument: neither a path nor a journal.
    """
    if journal is True or isinstance(journal, (str, Path)):
        folder = process_journals()
        if journal is True and folder is None:
            return None, lambda: None
        make: Any = plugins.load(plugins.JOURNALS, "next" if journal is True else "sqlite")
        opened: Journal = make(folder, name) if journal is True else make(journal)
        return opened, opened.close
    if journal is None or isinstance(journal, bool):
        return None, lambda: None
    if not callable(getattr(type(journal), "commit", None)):
        raise InvalidArgument("journal", f"{type(journal).__qualname__} is neither a path nor a journal")
    return journal, lambda: None


def process_journals() -> Path | None:
    """Return the folder for the journals of this process's machines; None: they have none unless told.

    Kernels that timbr_wamp starts have such a folder, and so has a process that runs a machine without a kernel.
    Their child processes inherit the variables, and have none.
    """
    folder = os.environ.get(JOURNALS_VARIABLE)
    if (
        not folder
        or folder == "off"
        or (plugins.own_kernel() is None and os.environ.get(JOURNALS_PID_VARIABLE) != str(os.getpid()))
    ):
        return None
    return Path(folder)


def check_revision(executor: Executor, revision: Revision) -> None:
    """Refuse a revision that the executor cannot run.

    Raises:
        InvalidArgument: a slot's policy that it cannot carry out.
    """
    for step in revision.steps:
        problem = executor.refusal(step)
        if problem is not None:
            raise InvalidArgument(f"policy of {step.slot.task}", problem)


def loaded_executor(executor: str | Executor) -> Executor:
    """Return an executor, by its name among the plugins.

    Raises:
        UnknownPlugin, PluginNotInstalled: no such name, or what it needs is missing.
    """
    if not isinstance(executor, str):
        if not callable(getattr(executor, "process", None)):
            raise InvalidArgument("executor", f"{type(executor).__qualname__} is neither a name nor an Executor")
        return executor
    make: Any = plugins.load(plugins.EXECUTORS, executor)
    made: Executor = make()
    return made
