"""`Engine`: the machine's parts put together, and what can be done with them.

Slots, ledger, worker, feeder, recorder, hooks and wire; it decides little itself. Usable without
IPython, WAMP or a router. What people see of it, with its notebook faces, is
`timbr_wamp.machine.machine.Machine`.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import orjson

from timbr_wamp import plugins
from timbr_wamp.contract import (
    Policy,
    PolicyCounts,
    Progress,
    Record,
    RecordMeta,
    RevisionInfo,
    SourceStatus,
    Status,
    record_from_row,
)
from timbr_wamp.contract.policies import PolicyLike, checked_policy, source_options
from timbr_wamp.errors import InvalidArgument, MachineClosed, MachineEmpty
from timbr_wamp.faces.tables import ErrorGroups, ErrorRows, Events, Revisions, SlotInfos
from timbr_wamp.machine.events.handlers import BaseEventHandler, RaisedIn, make_handler
from timbr_wamp.machine.events.hooks import Hooks, load_hooks
from timbr_wamp.machine.events.log import EventLog
from timbr_wamp.machine.intake.message_queue import MessageQueue, remaining
from timbr_wamp.machine.intake.source import CurrentSource
from timbr_wamp.machine.protocols import Clock, Executor, Journal, Sink
from timbr_wamp.machine.records.recorder import Recorder, told_policies
from timbr_wamp.machine.records.replay import Replay
from timbr_wamp.machine.running.careful_pass import CarefulPass, go
from timbr_wamp.machine.running.context import RunContext, checked_concurrency
from timbr_wamp.machine.running.executors.async_window import EventLoop
from timbr_wamp.machine.running.worker import Worker
from timbr_wamp.machine.serving.views import slot_counts, slot_info, warn_of_aliases, wire_row
from timbr_wamp.machine.slots.objects import Objects
from timbr_wamp.machine.slots.table import Revision, Slot, SlotFunction, SlotTable, identity
from timbr_wamp.names import DEFAULT_MACHINE, checked_component, checked_oid, new_oid, new_run


class Engine:
    """A machine without its notebook faces. Any thread may use it; see `Machine` for the arguments."""

    def __init__(
        self,
        stages: int = 8,
        bufsize: int = 1024,
        *,
        name: str = DEFAULT_MACHINE,
        serve: bool | None = None,
        namespace: dict[str, object] | None = None,
        on_error: PolicyLike | None = None,
        executor: str | Executor = "inline",
        concurrency: int = 1,
        journal: Journal | None = None,
        sinks: Sequence[Sink] = (),
        hooks: Sequence[object] = (),
        handler: object = None,
        clock: Clock = time.time,
    ) -> None:
        self.name = _machine_name(name)
        self._clock = clock
        self._started_at = clock()
        #: What runs at the points of the machine's life.
        self.hooks = Hooks()
        self.event_log = EventLog(clock, self.hooks, name=name)
        self._ledger = MessageQueue(bufsize, name, on_full=self._tell_full)
        self._executor = _executor_of(executor)
        self._loop: EventLoop = getattr(self._executor, "loop", None) or EventLoop()
        self._objects = Objects(self._loop, self._object_failed)
        policy = checked_policy(on_error or "record", "on_error")
        self._table = SlotTable(stages, clock, policy=policy, admit=self._admit)
        self._conduct = RunContext(
            current=self._table.current, go_on=lambda: False, wake=self._ledger.wake, hooks=self.hooks, clock=clock,
            concurrency=concurrency,
        )  # fmt: skip
        self._verbs = threading.Lock()
        self._closed = False
        self._wire: Any = None
        self._namespace = namespace
        #: The records that are kept, and how they come about; for those who build on the machine.
        self.recorder = Recorder(
            run=journal.run if journal is not None else new_run(), ledger=self._ledger, clock=clock,
            events=self.event_log, current=self._table.current, journal=journal, sinks=sinks,
        )  # fmt: skip
        self._again = Replay(self._ledger, self.recorder, clock)
        self._intake = CurrentSource(
            name=name, ledger=self._ledger, recorder=self.recorder, events=self.event_log, clock=clock,
            state=lambda: self._worker.state, halt=lambda reason: self._worker.halt(reason),
            on_failure=lambda error: self._failed_elsewhere("source", "source", error),
        )  # fmt: skip
        self._worker = Worker(
            name=name, ledger=self._ledger, executor=self._executor, conduct=self._conduct, objects=self._objects,
            events=self.event_log, clock=clock, recorder=self.recorder, refill=self._intake.refill,
            on_idle=self._intake.tell_drained,
        )  # fmt: skip
        self._conduct.go_on = self._worker.go_on  # asked once a message, so without a detour
        self.hooks.on_failure = lambda error, point: self._failed_elsewhere("hook", f"hook at {point}", error)
        self.recorder.on_sink_failure = lambda error: self._failed_elsewhere("sink", "sink", error)
        self._end_handler: Callable[[], None] = lambda: None
        if handler is not None:
            self.set_handler(handler)
        for hook in load_hooks(hooks):
            self.hooks.add_object(hook)
        face = plugins.own_kernel() if serve is None or namespace is None else None
        if face is not None and namespace is None:
            self._namespace = face.namespace()
        if serve or (serve is None and face is not None):
            self.serve()

    # --- slots ---

    def _admit(self, revision: Revision) -> Callable[[], None]:
        """Refuse a revision that the executor cannot run, prepare its objects."""
        for step in revision.steps:
            problem = self._executor.refusal(step)
            if problem is not None:
                raise InvalidArgument(f"policy of {step.slot.task}", problem)
        return self._objects.admit(revision)

    def _object_failed(self, name: str, verb: str, error: str) -> None:
        self.event_log.add("object_failed", object=name, verb=verb, error=error)

    def set(
        self,
        slot: int | str,
        function: SlotFunction | None,
        *,
        name: str | None = None,
        source: str | None = None,
        policy: PolicyLike | None = None,
        author: str | None = None,
    ) -> RevisionInfo:
        """Put ``function`` (None or `identity`: nothing) in a slot and return the new revision.

        Messages under way keep the table they began with. An object's ``prep`` runs first, in this
        thread. ``source`` is shown to people instead of the text that Python knows; ``policy`` says
        what becomes of a message when it raises, None leaves the slot's as it is.

        Raises:
            NotCallable, InvalidName, InvalidArgument, PrepFailed: nothing was changed.
        """
        number = self._table.number_of(slot)
        return self.assign(
            {number: function},
            names={number: name} if name else {},
            sources={number: source} if source else {},
            policies={} if policy is None else {number: policy},
            author=author,
        )

    def assign(
        self,
        functions: Mapping[int, SlotFunction | None],
        *,
        names: Mapping[int, str] | None = None,
        sources: Mapping[int, str] | None = None,
        policies: Mapping[int, PolicyLike] | None = None,
        author: str | None = None,
    ) -> RevisionInfo:
        """Put several functions (None: nothing) in slots by number, as one revision."""
        self.hooks.call("pre_change", functions)
        wanted = {n: None if f is identity else f for n, f in functions.items()}
        checked = {n: checked_policy(policy) for n, policy in (policies or {}).items()}
        return self._changed(self._table.assign(wanted, names=names, sources=sources, policies=checked, author=author))

    def set_policy(
        self, slot: int | str | None, policy: PolicyLike | None, *, author: str | None = None
    ) -> RevisionInfo:
        """Set what becomes of a message when the slot raises, or with ``slot=None`` any without its own policy.

        ``policy=None``: the slot has none of its own any more.
        """
        checked = None if policy is None else checked_policy(policy)
        return self._changed(self._table.set_policy(slot, checked, author=author))

    def policy_of(self, slot: int | str | None = None) -> Policy:
        """Return the policy that a slot follows, or the machine's."""
        revision = self._table.current()
        own = None if slot is None else revision.slots[self._table.number_of(slot)].policy
        return revision.policy if own is None else own

    def slot_number(self, slot: int | str) -> int:
        """Return the number of a slot given by number or name."""
        return self._table.number_of(slot)

    def rollback(self, number: int, *, author: str | None = None) -> RevisionInfo:
        """Make the slot table of an earlier revision the newest one."""
        return self._changed(self._table.rollback(number, author=author))

    def resize(self, stages: int, *, author: str | None = None) -> RevisionInfo:
        """Change the number of slots, at the end of the table; set slots are never taken away."""
        return self._changed(self._table.resize(stages, author=author))

    def _changed(self, revision: Revision) -> RevisionInfo:
        self.event_log.add("slot_changed", revision.author, revision=revision.number, change=revision.change)
        info = revision.info()
        self.hooks.call("post_change", info)
        return info

    @property
    def slots(self) -> SlotInfos:
        """The slots of the newest revision."""
        return SlotInfos(slot_info(slot) for slot in self._table.current().slots)

    @property
    def revisions(self) -> Revisions:
        """The kept revisions, oldest first."""
        return Revisions(revision.info() for revision in self._table.revisions())

    @property
    def revision(self) -> int:
        """Number of the newest revision."""
        return self._table.current().number

    def slot_table(self) -> Revision:
        """Return the newest revision itself: for executors, graphs and trials."""
        return self._table.current()

    # --- messages ---

    def __call__(self, message: object, *, include_serialized: bool = False) -> Record:
        """Run ``message`` through the slots in this thread; count and publish nothing.

        Policies hold, as far as they concern the record: retries are waited for.
        """
        begun = self._clock()
        oid = new_oid(begun)
        with self._objects.use():
            revision = self._table.current()
            values, texts, notes = go(CarefulPass(revision, message, self._conduct, oid).way(), self._executor.invoke)
        warn_of_aliases(revision, values, texts)
        meta = RecordMeta(
            run=self.run, seq=0, attempt=0, revision=revision.number, received_at=begun, finished_at=self._clock(),
            errored=bool(notes and notes.errored), dropped=bool(notes and notes.verdict == "drop"),
            policies=told_policies(notes) if notes else None,
        )  # fmt: skip
        shown = [text.decode() for text in texts] if include_serialized else None
        return Record.make(oid, values, meta, shown)

    @contextmanager
    def tried(self, number: int, function: SlotFunction) -> Iterator[Slot]:
        """Give ``function`` as it would be in slot ``number``, prepared if it is an object; change nothing."""
        slot = self._table.slot_on_trial(number, function)
        with self._objects.tried(slot):
            yield slot

    def try_step(
        self, revision: Revision, values: list[Any], texts: list[bytes], broken: list[str | None]
    ) -> tuple[bytes, bool]:
        """Run a revision on what a kept record held before it; return the last text, and whether it failed."""
        passage = CarefulPass(revision, None, self._conduct, "", values=values, texts=texts, broken=broken)
        _, made, notes = go(passage.way(), self._executor.invoke)
        return made[-1], bool(notes and notes.errored)

    def put(self, message: object, block: bool = False, timeout: float | None = None, oid: str | None = None) -> str:
        """Queue ``message`` and return its id. An ``oid`` given is put at most once.

        Raises:
            MachineFull: no room; with ``block`` after ``timeout`` seconds (None: no limit).
            MachineClosed: the machine was closed.
            InvalidName: ``oid`` is no message id.
        """
        now = self._clock()
        known = oid is not None
        key = checked_oid(oid) if oid is not None else new_oid(now)
        hooks = self.hooks
        if hooks.at("pre_put"):
            hooks.call("pre_put", message)
        self._ledger.put((key, message, now, 1), block=block, timeout_s=timeout, known=known)
        if hooks.at("post_put"):
            hooks.call("post_put", key, message)
        return key

    def get(self, block: bool = False, timeout: float = 0.5) -> tuple[str, ...]:
        """Step one message: process, number and publish it; return ``(oid, in_s, f0_s, …)``.

        Raises:
            MachineRunning: only an idle, paused or stopped machine is stepped.
            MachineEmpty: no message waits, with ``block`` after ``timeout`` seconds.
            MessageKept: its slot's policy pauses or stops; it waits again, at the head of the queue.
            BaseException: what a slot raised, if the event handler is a debugger.
        """
        if self._closed:
            raise MachineClosed(self.name)
        self.hooks.call("pre_get")
        wait_s = timeout if block else (0.05 if self._intake.reading else 0.0)
        row = self._worker.step(wait_s, self._intake.refill_one)
        if row is None:
            raise MachineEmpty
        self._intake.tell_drained()
        self.hooks.call("post_get", row)
        values = orjson.loads(row[2])
        return (row[1], *(orjson.dumps(value).decode() for value in values))

    # --- source ---

    @property
    def source(self) -> SourceStatus:
        """Where the messages come from. Assign an iterable, generator function, `Source` …; ``del`` it first."""
        return self.status.source

    @source.setter
    def source(self, source: object) -> None:
        self.set_source(source)

    @source.deleter
    def source(self) -> None:
        self.delete_source()

    def set_source(
        self,
        source: object,
        *,
        total: int | None = None,
        replace: bool = False,
        author: str | None = None,
        **options: Any,
    ) -> None:
        """Read messages from ``source`` while running.

        Args:
            total: how many there will be, for progress; what has a length tells by itself.
            options: fields of `SourceOptions`: ``policy`` when the queue is full, ``on_exhausted``,
                ``idle_timeout_s``, ``restarts`` with ``backoff_s`` …

        Raises:
            SourceActive: there is one already that has not ended; ``replace=True`` takes its place.
            NotASource: nothing that gives messages.
            InvalidArgument: an option that is none, or that this source cannot follow.
        """
        if self._closed:
            raise MachineClosed(self.name)
        self.hooks.call("pre_source", source)
        feeder = self._intake.set_source(source, total, source_options(options), replace=replace, author=author)
        self.hooks.call("post_source", feeder.status(0.0))

    def delete_source(self, *, author: str | None = None) -> None:
        """Take the source away; what was read of it stays queued."""
        self._intake.delete_source(author)

    def _failed_elsewhere(self, kind: RaisedIn, what: str, error: BaseException) -> None:
        """Stop if the event handler wants a failure outside of slots raised where the user is."""
        if self._conduct.raises(kind, error):
            self._worker.halt(f"{what}: {type(error).__name__}: {error}", error)

    # --- life ---

    def start(self, *, author: str | None = None) -> None:
        """Process messages from now on; a running machine stays so."""
        self.hooks.call("pre_start")
        self._worker.start(author)
        self._intake.permit_by_state()
        self.hooks.call("post_start")

    def pause(self, *, author: str | None = None) -> None:
        """Begin no further message; what waits stays, and the source waits."""
        self.hooks.call("pre_pause")
        self._worker.pause(author)
        self._intake.permit_by_state()
        self.hooks.call("post_pause")

    def resume(self, *, author: str | None = None) -> None:
        """Go on after a pause."""
        self.hooks.call("pre_resume")
        self._worker.resume(author)
        self._intake.permit_by_state()
        self.hooks.call("post_resume")

    def stop(self, drain: bool = False, timeout: float = 5.0, *, author: str | None = None) -> None:
        """Stop; with ``drain`` finish what waits first. The queue is never cleared.

        Raises:
            CallTimeout: a message was still under way after ``timeout`` seconds; it is recorded when it ends.
        """
        self.hooks.call("pre_stop")
        self._intake.hold()
        self._worker.stop(drain=drain, timeout_s=timeout, author=author)
        self.hooks.call("post_stop")
        self._worker.raise_kept()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the source has ended and every message is recorded; return whether that is so.

        When the machine does not run, it returns as soon as no message is under way any more, since
        nothing would change. Raises what a debugging event handler stopped the machine for.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._intake.settled:
            left = remaining(deadline)
            rests = not self._worker.running and (self._closed or not self._ledger.snapshot().in_flight)
            if rests or left == 0:
                self._worker.raise_kept()
                return self._intake.settled
            self.wait_changed(0.25 if left is None else min(left, 0.25))
        self._worker.raise_kept()
        return True

    def wait_changed(self, timeout_s: float) -> None:
        """Wait at most ``timeout_s``, less when the machine's state changes or all is recorded."""
        self._ledger.wait_change(timeout_s, settled=not self._intake.reading)

    def close(self, timeout: float = 5.0) -> None:
        """Stop, take the local wire away, release the source. Idempotent, bounded, never raises."""
        if self._closed:
            return
        self._closed = True
        self.hooks.call("pre_shutdown")
        self._ledger.close()
        self._intake.close()
        self._worker.close(timeout)
        self._objects.close()
        self._executor.close()
        self._loop.close()
        self.event_log.add("closed")
        self.hooks.call("post_shutdown")
        self.unserve()
        self.event_log.close(timeout)

    # --- looking ---

    @property
    def run(self) -> str:
        """Identity of the numbering of records."""
        return self.recorder.run

    @property
    def running(self) -> bool:
        """It processes messages, and the thread that does so lives."""
        return self._worker.running

    @property
    def status(self) -> Status:
        """State and counters at one instant."""
        worker, recorder, now = self._worker, self.recorder, self._clock()
        counts = self._ledger.snapshot()
        rates = recorder.rates.rates(now, recorder.count)
        revision = self._table.current()
        return Status(
            name=self.name, run=recorder.run, state=worker.state, reason=worker.reason, running=worker.running,
            put=counts.put, processed=counts.processed, errored=counts.errored, dropped=counts.dropped,
            refused=counts.refused, queue_size=counts.queue_size, queue_capacity=counts.queue_capacity,
            in_flight=counts.in_flight, last_seq=recorder.ring.last_seq, last_oid=recorder.last_oid,
            current_oid=worker.current_oid, last_processed_time=recorder.last_processed_time,
            revision=revision.number, rate_per_s=rates, uptime_s=now - self._started_at, time=now,
            source=self._intake.status(rates[1]),
            slots=[slot_counts(slot) for slot in revision.slots if slot.function is not None],
            retrying=self._executor.retrying, policies=self._policy_counts(), on_error=revision.policy,
            handler=self._conduct.handler.name, executor=self._executor.name, concurrency=self._conduct.concurrency,
            hook_failures=self.hooks.failures, events_dropped=self.event_log.dropped,
        )  # fmt: skip

    def _policy_counts(self) -> PolicyCounts:
        counts = copy.copy(self.recorder.policies)
        counts.abandoned = int(getattr(self._executor, "abandoned", 0))
        return counts

    @property
    def errors(self) -> ErrorRows:
        """The kept failures, oldest first."""
        return ErrorRows(self.recorder.errors.rows(1_000_000))

    @property
    def error_groups(self) -> ErrorGroups:
        """Failures by slot, exception class and line, those seen last first."""
        return ErrorGroups(self.recorder.groups.rows())

    def progress(self) -> Progress:
        """Return how far the machine is with its source."""
        return self._intake.progress(self._worker.state)

    def recent(self, n: int = 50) -> list[Record]:
        """Return the newest records, oldest of them first."""
        return [record_from_row(wire_row(row)) for row in self.recorder.ring.newest(n)]

    def events(self, n: int = 100) -> Events:
        """Return the newest events, oldest of them first."""
        return Events(self.event_log.newest(n))

    # --- handler ---

    def set_handler(
        self, handler: object, options: Mapping[str, Any] | None = None, *, author: str | None = None
    ) -> None:
        """Choose the event handler: an object, a class, or a name with its options; at any time.

        Raises:
            UnknownPlugin, InvalidArgument: no such handler, or options that it does not take.
        """
        made = make_handler(handler, options)
        end = self.hooks.add_object(made, required=False)
        with self._verbs:
            previous, self._end_handler = self._end_handler, end
            self._conduct.handler = made
        previous()
        self.event_log.add("handler_changed", author, handler=made.name)

    @property
    def handler(self) -> BaseEventHandler:
        """The event handler; assign an object, a class or a name."""
        return self._conduct.handler

    @handler.setter
    def handler(self, handler: object) -> None:
        self.set_handler(handler)

    # --- again ---

    def retry_errors(self, oids: Sequence[str] | None = None) -> list[str]:
        """Put unresolved errored messages again, each as the next attempt; return their oids.

        Those that find no room can be retried later.

        Raises:
            MachineFull: there was room for none of them.
        """
        return self._again.retry(oids)

    def replay(self, run: str, seqs: Sequence[int]) -> list[str]:
        """Put kept messages again under their oids, each as the next attempt; return the oids.

        Messages are replayed as their JSON texts tell them, in order, as long as there is room.

        Raises:
            RunMismatch, RecordNotFound: one of them is not kept; nothing was put.
            PayloadTooLarge: one was too large to be kept whole; nothing was put.
            MachineFull: there was room for none of them.
        """
        return self._again.replay(run, seqs)

    # --- wire ---

    def serve(self, *, transport: Literal["ipc", "tcp"] | None = None) -> None:
        """Open the local wire: PUB of records, control, and the runtime file that names them.

        A machine of the same name that this process serves already gives way. ``transport``: ipc
        where there is any, else tcp on 127.0.0.1 with CurveZMQ.
        """
        from timbr_wamp.machine.serving.sockets import LocalSockets  # zmq is loaded by who serves

        if self._closed:
            raise MachineClosed(self.name)
        if self._wire is None:
            wire = self._wire = LocalSockets.open(self, transport)
            self.recorder.replace_sinks(lambda sinks: (*sinks, wire.publisher))

    @property
    def endpoint(self) -> str | None:
        """ZeroMQ endpoint of the records; None when it is not served."""
        return None if self._wire is None else str(self._wire.file.pub)

    def unserve(self) -> None:
        """Take the local wire away; the machine goes on."""
        wire, self._wire = self._wire, None
        if wire is not None:
            self.recorder.replace_sinks(lambda sinks: tuple(sink for sink in sinks if sink is not wire.publisher))
            wire.close()

    @property
    def namespace(self) -> dict[str, object]:
        """What source text of slots may refer to."""
        return {} if self._namespace is None else self._namespace

    def _tell_full(self) -> None:
        self.event_log.add("full")

    def configure(
        self,
        *,
        bufsize: int | None = None,
        stages: int | None = None,
        concurrency: int | None = None,
        author: str | None = None,
    ) -> None:
        """Change the queue's capacity, the number of slots or of messages under way at once, live."""
        if concurrency is not None:
            self._conduct.concurrency = checked_concurrency(concurrency)
            self.event_log.add("configured", author, concurrency=concurrency)
        if stages is not None and stages != len(self._table.current().slots):
            self.resize(stages, author=author)
        if bufsize is not None:
            self._ledger.resize(bufsize)
            self.event_log.add("configured", author, bufsize=bufsize)


def _executor_of(executor: str | Executor) -> Executor:
    """Return an executor, by its name among the plugins."""
    if not isinstance(executor, str):
        return executor
    made: Any = plugins.load(plugins.EXECUTORS, executor)
    executor_made: Executor = made()
    return executor_made


def _machine_name(name: str) -> str:
    from timbr_wamp.contract import RESERVED_NAMES

    checked_component(name)
    if name in RESERVED_NAMES:
        raise InvalidArgument("name", f"{name!r} is a kernel's own name on the wire; choose another")
    return name
