"""`Machine`: numbered slots that every message runs through, every result published.

One class with all the verbs; its parts are made in `timbr_wamp.machine.assembly`. It is used like a
list of slots and has displays for notebooks and terminals. Usable without IPython, WAMP or a router;
inside an IPython kernel it opens its local sockets by itself, so that a bridge finds it.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from threading import RLock, local
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, overload

from timbr_wamp import plugins
from timbr_wamp.contract import (
    RESERVED_NAMES,
    Graph,
    Policy,
    PolicyCounts,
    Progress,
    PutResult,
    Record,
    RecordMeta,
    RevisionInfo,
    SlotNames,
    SourceStatus,
    Status,
    record_from_row,
)
from timbr_wamp.contract.policies import PolicyLike, checked_policy, source_options
from timbr_wamp.errors import InvalidArgument, MachineClosed, MachineEmpty, counted, is_users_interrupt, not_one_of
from timbr_wamp.faces.cards import machine_html, machine_line, machine_text
from timbr_wamp.faces.plot import Plot
from timbr_wamp.faces.shared import Shared
from timbr_wamp.faces.tables import ErrorGroups, ErrorRows, Events, RecordRows, Revisions, SlotInfos
from timbr_wamp.faces.tap import Tap
from timbr_wamp.machine.assembly import assemble, opened_journal
from timbr_wamp.machine.checks import (
    check_instance,
    checked_by_slot,
    checked_list,
    checked_seconds,
    checked_timeout,
    checked_whole,
)
from timbr_wamp.machine.events.handlers import BaseEventHandler, make_handler
from timbr_wamp.machine.events.hooks import load_hooks
from timbr_wamp.machine.inquiries import Inquiries
from timbr_wamp.machine.interrupts import deferred, delivered, whole
from timbr_wamp.machine.isolation import run_within
from timbr_wamp.machine.messages import Entry
from timbr_wamp.machine.processing import is_processing, refuse_deadlock
from timbr_wamp.machine.protocols import Clock, Executor, Journal, Sink
from timbr_wamp.machine.records.recorder import policies_of
from timbr_wamp.machine.records.rows import texts_of, wire_row
from timbr_wamp.machine.removed import STOP_ARGUMENTS, NoSwitch, Removed, refuse_removed
from timbr_wamp.machine.running.aliases import warn_of_aliases
from timbr_wamp.machine.running.careful_pass import CarefulPass, run_steps
from timbr_wamp.machine.running.context import checked_concurrency
from timbr_wamp.machine.running.dask_graph import dask_graph
from timbr_wamp.machine.slots.graph import graph_of
from timbr_wamp.machine.slots.summaries import slot_counts, slot_info
from timbr_wamp.machine.slots.table import BySlot, Revision, SlotFunction, identity
from timbr_wamp.machine.waiting import Releasable, deadline_after, left_s
from timbr_wamp.names import DEFAULT_MACHINE, checked_component, checked_oid, new_oid, new_oids
from timbr_wamp.rows import messages_of
from timbr_wamp.user_warnings import NotRunning, not_running_text, warn_user

if TYPE_CHECKING:
    from timbr_wamp.display import BarKind, LiveStatus

F = TypeVar("F", bound=Callable[..., object])

logger = logging.getLogger(__name__)

#: Once the time of `Machine.close` is over, each part that remains to be closed has this long, seconds.
CLOSE_LEAST_S = 0.1
#: Characters of the reason that is given for a change.
REASON_LIMIT = 1_000


class Machine(Inquiries):
    """A persistent, reconfigurable, per-message data processor. Any thread may use it.

    Args:
        stages: number of slots.
        bufsize: messages that may wait.
        name: its name on the wire; the second machine of a kernel needs one of its own.
        serve: open the local sockets now. None: only inside an IPython kernel.
        namespace: what source text of slots may refer to; in a kernel the user's variables.
        on_error: what becomes of a message when a slot without a policy of its own raises: a
            `Policy`, a verdict such as ``"drop"``, or a mapping of a policy's fields.
        executor: how messages run: ``"inline"``, ``"threads"``, ``"processes"``, or an object.
        concurrency: messages under way at once, for ``async def`` slots and in threads.
        journal: keeps messages, records, failures, events and revisions beyond the process: a file's path, or an
            object; see `timbr_wamp.machine.protocols.Journal`. What is in it is there again; a handler given here and
            slots set later take the place of the kept ones. True: one in the data folder if this process is a
            kernel that timbr_wamp started, or runs a machine without a kernel; else none. None: none.
        sinks: see `timbr_wamp.machine.protocols`.
        hooks: objects with methods named like `timbr_wamp.machine.events.hooks.POINTS`, or plugins' names.
        handler: the event handler: an object, a class or a name; see `timbr_wamp.machine.events.handlers`.
        clock: UTC seconds.
    """

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
        journal: str | Path | Journal | bool | None = True,
        sinks: Sequence[Sink] = (),
        hooks: Sequence[object] = (),
        handler: object = None,
        clock: Clock = time.time,
    ) -> None:
        self.name = checked_machine_name(name)
        check_instance("serve", serve, (bool, NoneType), "True, False or None")
        check_instance("namespace", namespace, (dict, NoneType), "a dict of variables")
        if not callable(clock):
            raise InvalidArgument("clock", f"a function that returns UTC seconds, not {type(clock).__name__}")
        self._clock = clock
        self._started_at = clock()
        self._namespace = namespace
        kernel = plugins.own_kernel() if serve is None or namespace is None else None
        if kernel is not None and namespace is None:
            self._namespace = kernel.namespace()
        opened, self._close_journal = opened_journal(journal, name)
        try:
            parts = assemble(
                name=name, stages=stages, bufsize=bufsize, on_error=on_error, executor=executor,
                concurrency=concurrency, journal=opened, sinks=sinks, clock=clock, namespace=lambda: self.namespace,
            )  # fmt: skip
        except BaseException:
            self._close_journal()
            raise
        #: What runs at the points of the machine's life.
        self.hooks = parts.hooks
        self.event_log = parts.events
        #: Makes and keeps the records; for code that extends the machine.
        self.recorder = parts.recorder
        self._queue, self._executor, self._loop = parts.queue, parts.executor, parts.loop
        self._objects, self._table, self._context = parts.objects, parts.table, parts.context
        self._source, self._worker, self._replay = parts.source, parts.worker, parts.replay
        self._history, self._provenance, self._trials = parts.history, parts.provenance, parts.trials
        self._handler_lock = RLock()
        self._end_handler: Callable[[], None] = lambda: None
        #: ``now`` is true in a thread that is calling hooks around a change.
        self._in_change_hook = local()
        self._closed = False
        self._sockets: Any = None
        kept_handler = self._history.handler()
        if handler is not None:
            self.set_handler(handler)
        elif kept_handler is not None:
            self.set_handler(*kept_handler)
        for hook in load_hooks(hooks):
            self.hooks.add_object(hook)
        if serve or (serve is None and kernel is not None):
            self.serve()

    # --- removed names of timbr-machine ---

    active = Removed("running")
    processing = Removed('source.state == "reading"')
    debug = NoSwitch(Inquiries.debug, "handler")
    enable_debug_mode = Removed('handler = "RawEventDebugger"')
    disable_debug_mode = Removed('handler = "BaseEventHandler"')
    format_status = Removed("str(machine.status)")
    print_status = Removed("print(machine.status)")
    from_json = Removed("timbr_wamp.projects.load_project(folder).machine()")
    from_project = Removed("timbr_wamp.projects.load_project(folder).machine()")
    load_machine = Removed("timbr_wamp.projects.load_project(folder).machine()")

    # --- a list of slots ---

    @overload
    def __getitem__(self, slot: int | str) -> SlotFunction: ...
    @overload
    def __getitem__(self, slot: slice) -> list[SlotFunction]: ...
    def __getitem__(self, slot: int | str | slice) -> SlotFunction | list[SlotFunction]:
        """Return a slot's function; of an unset slot `identity`."""
        slots = self._table.current().slots
        if isinstance(slot, slice):
            return [identity if slots[n].function is None else slots[n].function for n in _numbers(slot, len(slots))]
        function = slots[self._table.number_of(slot)].function
        return identity if function is None else function

    def __setitem__(self, slot: int | str | slice, function: Any) -> None:
        """Put a function in a slot, or several in a slice as one revision."""
        if not isinstance(slot, slice):
            self.set(slot, function)
            return
        numbers = _numbers(slot, len(self))
        functions = list(checked_list("functions", function, "functions for a slice of slots"))
        if len(functions) != len(numbers):
            raise InvalidArgument("functions", f"{len(functions)} for {counted(len(numbers), 'slot')}")
        self.assign(dict(zip(numbers, functions, strict=True)))

    def __delitem__(self, slot: int | str | slice) -> None:
        """Make a slot identity again."""
        self.assign(dict.fromkeys(_numbers(slot, len(self))) if isinstance(slot, slice) else {slot: None})

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self._table.current().slots)

    def __bool__(self) -> bool:
        """A machine is always true."""
        return True

    def __enter__(self) -> Machine:
        """Return the machine; leaving the block closes it."""
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- slots ---

    def set(
        self,
        slot: int | str,
        function: SlotFunction | None,
        *,
        name: str | None = None,
        source: str | None = None,
        policy: PolicyLike | None = None,
        author: str | None = None,
        reason: str | None = None,
        if_revision: int | None = None,
    ) -> RevisionInfo:
        """Put ``function`` (None or `identity`: nothing) in a slot and return the new revision.

        Messages under way keep the table they started with. An object's ``prep`` runs first, in this
        thread. ``source`` is displayed instead of the text that Python finds; ``policy`` says what becomes of a
        message when the function raises, None keeps the slot's present one. ``reason`` is kept with the revision.

        Raises:
            NotCallable, InvalidName, InvalidArgument, PrepFailed: nothing was changed.
            TableChanged: the newest revision is not ``if_revision``; nothing was changed.
        """
        check_instance("source", source, (str, NoneType), "a text")
        return self.assign(
            {slot: function},
            names={slot: name} if name else {},
            sources={slot: source} if source else {},
            policies={} if policy is None else {slot: policy},
            author=author,
            reason=reason,
            if_revision=if_revision,
        )

    @whole
    def assign(
        self,
        functions: BySlot[SlotFunction | None],
        *,
        names: BySlot[str] | None = None,
        sources: BySlot[str] | None = None,
        policies: BySlot[PolicyLike] | None = None,
        author: str | None = None,
        reason: str | None = None,
        if_revision: int | None = None,
    ) -> RevisionInfo:
        """Put several functions (None: nothing) in slots by number or name, as one revision."""
        for argument, given in (("functions", functions), ("names", names or {}), ("sources", sources or {})):
            checked_by_slot(argument, given)
        checked = {slot: checked_policy(policy) for slot, policy in checked_by_slot("policies", policies or {}).items()}
        return self._change(
            functions,
            lambda: self._table.assign(
                functions, names=names, sources=sources, policies=checked, author=author,
                reason=_checked_reason(reason), if_revision=if_revision,
            ),
        )  # fmt: skip

    @whole
    def set_policy(
        self,
        slot: int | str | None,
        policy: PolicyLike | None,
        *,
        author: str | None = None,
        reason: str | None = None,
    ) -> RevisionInfo:
        """Set the policy of a slot, or with ``slot=None`` that of all slots without their own.

        ``policy=None`` removes the slot's own policy.
        """
        checked = None if policy is None else checked_policy(policy)
        why = _checked_reason(reason)
        return self._change({}, lambda: self._table.set_policy(slot, checked, author=author, reason=why))

    def policy_of(self, slot: int | str | None = None) -> Policy:
        """Return the policy that applies to a slot, or the machine's."""
        revision = self._table.current()
        own = None if slot is None else revision.slots[self._table.number_of(slot)].policy
        return revision.policy if own is None else own

    def slot_number(self, slot: int | str) -> int:
        """Return the number of a slot given by number or name."""
        return self._table.number_of(slot)

    @whole
    def rollback(
        self, number: int, *, author: str | None = None, reason: str | None = None, if_revision: int | None = None
    ) -> RevisionInfo:
        """Make the slot table of an earlier revision the newest one.

        Raises:
            UnknownRevision, InvalidSource, SlotNotRestored, PrepFailed: nothing was changed.
            TableChanged: the newest revision is not ``if_revision``; nothing was changed.
        """
        why = _checked_reason(reason)
        return self._change(
            {}, lambda: self._table.rollback(number, author=author, reason=why, if_revision=if_revision)
        )

    @whole
    def resize(self, stages: int, *, author: str | None = None) -> RevisionInfo:
        """Change the number of slots, at the end of the table; set slots are never removed."""
        return self._change({}, lambda: self._table.resize(stages, author=author))

    def _change(self, functions: BySlot[SlotFunction | None], change: Callable[[], Revision]) -> RevisionInfo:
        """Make a revision, with hooks around it. Every change of slots goes through here.

        A change that such a hook makes itself has no hooks around it, which would recurse without end.
        """
        self._notice_changes()
        self._call_change_hooks("pre_change", dict(functions))  # theirs to change: what is set stays as it is
        revision = change()
        self._history.keep_revision(revision)
        why = {} if revision.reason is None else {"reason": revision.reason}
        self.event_log.add("slot_changed", revision.author, revision=revision.number, change=revision.change, **why)
        info = revision.info()
        self._call_change_hooks("post_change", info)
        return info

    def _call_change_hooks(self, point: str, argument: object) -> None:
        here = self._in_change_hook
        if not getattr(here, "now", False):
            here.now = True
            try:
                self.hooks.call(point, argument)
            finally:
                here.now = False

    def _notice_changes(self) -> None:
        """Make a revision if functions in slots were changed in place, as ``%autoreload`` does."""
        revision = self._table.renew()
        if revision is not None:
            self._history.keep_revision(revision)
            self.event_log.add("slot_changed", None, revision=revision.number, change=revision.change)

    @property
    def slots(self) -> SlotInfos:
        """The slots of the newest revision."""
        self._notice_changes()
        return SlotInfos(slot_info(slot) for slot in self._table.current().slots)

    @property
    def revisions(self) -> Revisions:
        """The kept revisions, oldest first."""
        self._notice_changes()
        return Revisions(revision.info() for revision in self._table.revisions())

    @property
    def revision(self) -> int:
        """Number of the newest revision."""
        return self._table.current().number

    # --- messages ---

    def __call__(self, message: object, include_serialized: bool = False) -> Record:
        """Run ``message`` through the slots in this thread; count and publish nothing.

        Policies apply as far as they concern the record; retries are waited for.
        """
        started = self._clock()
        oid = new_oid(started)
        with deferred(), self._objects.use(), delivered():
            revision = self._table.current()
            values, texts, notes = run_steps(
                CarefulPass(revision, message, self._context, oid).steps(), self._executor.invoke
            )
        warn_of_aliases(revision, values, texts)
        meta = RecordMeta(
            run=self.run, seq=0, attempt=0, revision=revision.number, received_at=started, finished_at=self._clock(),
            errored=bool(notes and notes.errored), dropped=bool(notes and notes.verdict == "drop"),
            policies=policies_of(notes) if notes else None,
        )  # fmt: skip
        shown = [text.decode() for text in texts] if include_serialized else None
        return Record.make(oid, values, meta, shown, _names_in(revision))

    def try_step(
        self, revision: Revision, values: list[Any], texts: list[bytes], broken: list[str | None]
    ) -> tuple[bytes, bool]:
        """Run a revision on the values of a kept record; return the last text, and whether it failed."""
        careful_pass = CarefulPass(revision, None, self._context, "", values=values, texts=texts, broken=broken)
        _, made, notes = run_steps(careful_pass.steps(), self._executor.invoke)
        return made[-1], bool(notes and notes.errored)

    def put(self, message: object, block: bool = False, timeout: float | None = None, oid: str | None = None) -> str:
        """Queue ``message`` and return its id. The same ``oid`` is put at most once.

        Raises:
            MachineFull: no room; with ``block`` none within ``timeout`` seconds (None: no limit).
            MachineClosed: the machine was closed.
            InvalidName: ``oid`` is not a message id.
        """
        if block:
            timeout = checked_timeout("timeout", timeout)
        now = self._clock()
        known = oid is not None
        key = checked_oid(oid) if oid is not None else new_oid(now)
        hooks = self.hooks
        if hooks.at("pre_put"):
            hooks.call("pre_put", message)
        self._queue.put((key, message, now, 1), block=block, timeout_s=timeout, known=known)
        if hooks.at("post_put"):
            hooks.call("post_put", key, message)
        return key

    def put_many(self, messages: object, oids: Sequence[str] | None = None, timeout_s: float | None = 0.0) -> PutResult:
        """Queue messages in order, as many as find room within ``timeout_s`` seconds; with a journal many at a time.

        Args:
            messages: a list or another iterable; or a table (a DataFrame of pandas or polars, an Arrow table, batch
                or stream), whose rows are put as dicts.
            oids: an id for each; each is put at most once.
            timeout_s: None means no limit.

        Returns:
            the ids of the first messages, which were queued, and how many were refused.

        Raises:
            MachineClosed: the machine was closed.
            WouldDeadlock: it would wait for room in a slot or hook of this machine.
            InvalidName, InvalidArgument: an oid is none, or their number differs; ``messages`` is a text, a mapping
                or no iterable.
            NotASource: a table without columns, or with two of one name.
        """
        put, given = list(messages_of(messages)), _checked_oids(oids)
        if given is not None and len(given) != len(put):
            raise InvalidArgument("oids", f"{len(given)} for {counted(len(put), 'message')}")
        deadline, done = deadline_after(checked_timeout("timeout_s", timeout_s)), list[str]()
        while len(done) < len(put):
            some = self.put_some(put[len(done) :], None if given is None else given[len(done) :])
            done += some
            if not some and not self._queue.wait_room(left_s(deadline)):
                return self.refused(done, len(put))
        return PutResult(oids=done, refused=0)

    def refused(self, done: list[str], count: int) -> PutResult:
        """Return the result of `put_many` for ``count`` messages of which only ``done`` found room, and count it."""
        self._queue.refuse(count - len(done))
        return PutResult(oids=done, refused=count - len(done))

    def put_some(self, messages: object, oids: Sequence[str] | None = None) -> list[str]:
        """Queue the first messages for which there is room now; return their ids. Never waits for room.

        Messages and ids are those of `put_many`.
        """
        put, given = messages_of(messages), _checked_oids(oids)
        if given is not None and len(given) != len(put):
            raise InvalidArgument("oids", f"{len(given)} for {counted(len(put), 'message')}")
        now, hooks = self._clock(), self.hooks
        keys = new_oids(now, len(put)) if given is None else given
        if hooks.at("pre_put"):  # for each message once: for the others when there is room for them
            room = self._queue.room()
            put, keys = put[:room], keys[:room]
            for message in put:
                hooks.call("pre_put", message)
        entries: list[Entry] = [(key, message, now, 1) for key, message in zip(keys, put, strict=True)]
        done = keys[: self._queue.put_together(entries, known=oids is not None)]
        if hooks.at("post_put"):
            for key, message in zip(done, put, strict=False):
                hooks.call("post_put", key, message)
        return done

    @whole
    def get(self, block: bool = False, timeout: float | None = 0.5) -> tuple[str, ...]:
        """Step one message: process, number and publish it; return ``(oid, in_s, f0_s, …)``.

        Raises:
            MachineRunning: only an idle, paused or stopped machine is stepped.
            MachineEmpty: no message waits; with ``block`` none came within ``timeout`` seconds (None: no limit).
            MachineClosed: the machine was closed, also while this waited.
            MessageKept: its slot's policy is ``pause`` or ``stop``; it is at the head of the queue again.
            BaseException: what a slot raised, if the event handler is a debugger.
        """
        if self._closed:
            raise MachineClosed(self.name)
        timeout = checked_timeout("timeout", timeout)
        self.hooks.call("pre_get")
        if not block:
            timeout = 0.05 if self._source.reading else 0.0
        row = self._worker.step(float("inf") if timeout is None else timeout)
        if row is None:
            raise MachineEmpty
        self._source.report_drained()
        self.hooks.call("post_get", row)
        return (row[1], *(text.decode() for text in texts_of(row[2])))

    # --- source ---

    @property
    def source(self) -> SourceStatus:
        """Where the messages come from. Assign an iterable, generator function, table, file …; ``del`` it first."""
        return self.status.source

    @source.setter
    def source(self, source: object) -> None:
        self.set_source(source)

    @source.deleter
    def source(self) -> None:
        self.delete_source()

    @whole
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

        An iterable, iterator, generator function, async generator or `Source` object. The rows of a table, as dicts:
        a DataFrame of pandas or polars, an Arrow table, batch or stream; of a file of one, by its `pathlib.Path`
        or name: .csv, .tsv, .jsonl, .ndjson, .parquet.

        Args:
            total: number of messages, for progress; by default the length of a source that is known to have one.
            options: fields of `SourceOptions`: ``policy`` when the queue is full, ``on_exhausted``,
                ``idle_timeout_s``, ``restarts`` with ``backoff_s`` …

        Raises:
            SourceActive: the present source has not ended; ``replace=True`` replaces it.
            NotASource: it cannot be read as messages, or is a file that is not there.
            InvalidArgument: an invalid option, or one that this source does not support.
            PluginNotInstalled: reading it needs pyarrow.
        """
        if self._closed:
            raise MachineClosed(self.name)
        self.hooks.call("pre_source", source)
        feeder = self._source.set_source(source, total, source_options(options), replace=replace, author=author)
        self.hooks.call("post_source", feeder.status(0.0))

    @whole
    def delete_source(self, *, author: str | None = None) -> None:
        """Remove the source; messages already read stay queued."""
        self._source.delete_source(author)

    # --- life ---

    @whole
    def start(self, *, author: str | None = None) -> None:
        """Start processing messages; no effect on a running machine."""
        self._notice_changes()
        self.hooks.call("pre_start")
        self._worker.start(author)
        self.hooks.call("post_start")

    @whole
    def pause(self, *, author: str | None = None) -> None:
        """Start no further message; the queue is kept, and the source waits."""
        self.hooks.call("pre_pause")
        self._worker.pause(author)
        self.hooks.call("post_pause")

    @whole
    def resume(self, *, author: str | None = None) -> None:
        """Continue after a pause."""
        self.hooks.call("pre_resume")
        self._worker.resume(author)
        self.hooks.call("post_resume")

    @whole
    def stop(self, drain: bool = False, timeout: float = 5.0, *, author: str | None = None, **removed: object) -> None:
        """Stop; with ``drain`` process what is queued first. The queue is never cleared.

        Raises:
            CallTimeout: a message was still under way after ``timeout`` seconds; it is recorded when it ends.
        """
        refuse_removed("stop", removed, STOP_ARGUMENTS)
        timeout = checked_seconds("timeout", timeout)
        if drain:
            refuse_deadlock(self._queue, self.name, "stop(drain=True)")
        self.hooks.call("pre_stop")
        self._worker.stop(drain=drain, timeout_s=timeout, author=author)
        self.hooks.call("post_stop")
        self._worker.raise_error()

    def give_way(self, timeout: float) -> None:
        """Stop because a newer machine of this process has its name; `status` says so until it is started again.

        Raises:
            CallTimeout: a message was still under way after ``timeout`` seconds; it is recorded when it ends.
        """
        self._worker.replaced("replaced by a new machine of the same name; give one of them another name=…")
        self.stop(timeout=timeout)

    def wait(self, timeout: float | None = None, progress: bool | BarKind = False) -> bool:
        """Wait until the source has ended and every message is recorded; return whether that is so.

        When the machine does not run, it returns as soon as no message is under way, since nothing would
        change; it warns (`NotRunning`) if it was not started, or a verb paused or stopped it. ``progress`` shows a bar
        meanwhile: True, or the kind of bar; Ctrl-C then leaves the machine running. Raises the error for which a
        debugging event handler stopped the machine.
        """
        refuse_deadlock(self._queue, self.name, "wait()", waits_for_source=True)
        timeout = checked_timeout("timeout", timeout)
        self._warn_if_waiting_is_vain()
        deadline = deadline_after(timeout)
        if progress:
            from timbr_wamp.display import show_progress  # loads rich, which is slow

            bar: BarKind = "auto" if progress is True else progress
            show_progress(
                self.progress, bar=bar, timeout_s=timeout, until=lambda: self._source.settled or not self.running
            )
        while not self._source.settled:
            limit_s = left_s(deadline)
            rests = not self._worker.running and (self._closed or not self._queue.snapshot().in_flight)
            if rests or limit_s <= 0:
                break
            self.wait_changed(min(limit_s, 0.25))
        self._worker.raise_error()
        return self._source.settled

    def _warn_if_waiting_is_vain(self) -> None:
        """Warn who waits for messages of a machine that does not run, unless its status says why."""
        worker = self._worker
        vain = not (self._source.settled or worker.running or self._closed or self._queue.snapshot().in_flight)
        text = not_running_text(self.name, worker.state) if vain and worker.reason is None else None
        if text is not None:
            warn_user(text, NotRunning)

    def wait_changed(self, timeout_s: float) -> None:
        """Wait at most ``timeout_s``, less when the machine's state changes or all is recorded."""
        self._queue.wait_change(timeout_s, settled=not self._source.reading)

    def call_when_room(self, listener: Releasable) -> bool:
        """Return whether a message could be put now; if not, call ``listener.release()`` once, when it may be tried.

        In whatever thread makes the room; it must not block or raise.
        """
        return self._queue.call_when_room(listener)

    def call_on_change(self, listener: Releasable) -> bool:
        """Call ``listener.release()`` once, at the next change of the machine's state or when all is recorded."""
        self._queue.call_on_change(listener, settled=not self._source.reading)
        return False

    @whole
    def close(self, timeout: float = 5.0) -> None:
        """Stop, close the local wire, release the source. Idempotent, never raises.

        Its parts share ``timeout`` seconds; each part after that has `CLOSE_LEAST_S`. What hangs (a slot, hook,
        sink, source, object or journal) is left to its daemon thread. A slot or hook that closes its own machine
        does not wait for itself.
        """
        deadline = time.monotonic() + (0.0 if is_processing(self._queue) else checked_seconds("timeout", timeout))
        if self._closed:
            return
        self._closed = True

        def within(part: str, close: Callable[..., object], *arguments: object) -> None:
            try:
                if not run_within(_left_s(deadline), close, *arguments):
                    logger.warning("machine %s: %s did not close in time and is left running", self.name, part)
            except BaseException as error:  # foreign code in another thread: never the user's Ctrl-C
                self.hooks.failures.report(f"closing {part}", error)

        self._shutdown_hooks("pre_shutdown", within)
        self._source.hold()  # else it reads on, and what it reads finds the queue closed
        self._queue.close()
        within("its source", self._source.close)
        self._worker.close(_left_s(deadline))
        within("an object's teardown", self._objects.close)
        within("its executor", self._executor.close)
        within("its event loop", self._loop.close)
        self.event_log.add("closed")
        self._shutdown_hooks("post_shutdown", within)
        self.unserve()
        self.event_log.close(_left_s(deadline))
        within("its journal", self._close_journal)

    def _shutdown_hooks(self, point: str, within: Callable[..., None]) -> None:
        if self.hooks.at(point):
            within(f"a hook at {point}", self.hooks.call, point)

    # --- state and records ---

    @property
    def run(self) -> str:
        """Identity of the numbering of records."""
        return self.recorder.run

    @property
    def running(self) -> bool:
        """It processes messages, and its worker thread is alive."""
        return self._worker.running

    @property
    def status(self) -> Status:
        """State and counters at one instant."""
        worker, recorder, now = self._worker, self.recorder, self._clock()
        counts = self._queue.snapshot()
        rates = recorder.rates_per_s()
        revision = self._table.current()
        return Status(
            name=self.name, run=recorder.run, state=worker.state, reason=worker.reason, running=worker.running,
            put=counts.put, processed=counts.processed, errored=counts.errored, dropped=counts.dropped,
            refused=counts.refused, queue_size=counts.queue_size, queue_capacity=counts.queue_capacity,
            in_flight=counts.in_flight, last_seq=recorder.ring.last_seq, last_oid=recorder.last_oid,
            current_oid=worker.current_oid, last_processed_time=recorder.last_processed_time,
            revision=revision.number, rate_per_s=rates, uptime_s=now - self._started_at, time=now,
            source=self._source.status(rates[1]),
            slots=[slot_counts(slot) for slot in revision.slots if slot.function is not None],
            retrying=self._executor.retrying, policies=self._policy_counts(), on_error=revision.policy,
            handler=self._context.handler.name, executor=self._executor.name, concurrency=self._context.concurrency,
            hook_failures=self.hooks.failures.count, events_dropped=self.event_log.dropped,
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
        """Failures by slot, exception class and line, newest first."""
        return ErrorGroups(self.recorder.groups.rows())

    def progress(self) -> Progress:
        """Return how far the machine is with its source."""
        return self._source.progress(self._worker.state)

    def recent(self, n: int = 50) -> RecordRows:
        """Return the newest records, oldest of them first, as a list that can become a table."""
        names, count = _names_in(self._table.current()), checked_whole("n", n)
        return RecordRows(record_from_row(wire_row(row), names=names) for row in self.recorder.newest(count))

    def events(self, n: int = 100) -> Events:
        """Return the newest events, oldest of them first."""
        return Events(self.event_log.newest(checked_whole("n", n)))

    # --- handler ---

    @whole
    def set_handler(
        self, handler: object, options: Mapping[str, Any] | None = None, *, author: str | None = None
    ) -> None:
        """Choose the event handler: an object, a class, or a name with its options; at any time.

        Raises:
            UnknownPlugin, InvalidArgument: no such handler, or options that it does not take.
        """
        made = make_handler(handler, options)
        end = self.hooks.add_object(made, required=False)
        with self._handler_lock:
            previous, self._end_handler = self._end_handler, end
            self._context.handler = made
        previous()
        self._history.keep_handler(handler, options)
        self.event_log.add("handler_changed", author, handler=made.name)

    @property
    def handler(self) -> BaseEventHandler:
        """The event handler; assign an object, a class or a name."""
        return self._context.handler

    @handler.setter
    def handler(self, handler: object) -> None:
        self.set_handler(handler)

    # --- wire ---

    @whole
    def serve(self, *, transport: Literal["ipc", "tcp"] | None = None) -> None:
        """Open the local wire: PUB of records, control, and the runtime file that names them.

        A machine of the same name that this process already serves is then stopped and closed to the wire, after its
        last records were read; its status says why, and `MachineReplaced` warns if it was running or had messages
        waiting. When the new wire cannot be opened, the older machine goes on as before.
        ``transport``: by default ipc where ZeroMQ has it, else tcp on 127.0.0.1 with CurveZMQ.
        """
        if self._closed:
            raise MachineClosed(self.name)
        if transport not in (None, "ipc", "tcp"):
            raise InvalidArgument("transport", not_one_of(transport, ("ipc", "tcp")))
        if self._sockets is None:
            sockets: Any = plugins.load(plugins.FACES, "local_sockets")  # loads ZeroMQ
            opened = self._sockets = sockets.open(self, transport)
            self.recorder.replace_sinks(lambda sinks: (*sinks, opened.publisher))
            opened.end_older()

    @property
    def endpoint(self) -> str | None:
        """ZeroMQ endpoint of the records; None when it is not served."""
        return None if self._sockets is None else str(self._sockets.file.pub)

    @whole
    def unserve(self, *, read_s: float = 0.0) -> None:
        """Close the local wire; the machine continues.

        ``read_s``: longest time to wait for readers of all records to read the last ones and leave, seconds.
        """
        opened, self._sockets = self._sockets, None
        if opened is not None:
            opened.wait_read(read_s)
            self.recorder.replace_sinks(lambda sinks: tuple(sink for sink in sinks if sink is not opened.publisher))
            opened.close()

    def share(
        self,
        name: str | None = None,
        *,
        role: str | None = None,
        url: str | None = None,
        token: str | None = None,
        start_router: bool = False,
    ) -> Shared:
        """Put the kernel of this notebook on the router, with this and its other machines.

        Return when they are listed and answer. The result shows a link to the page. The kernel's end, its restart
        and `unshare` take it off the router; what is shared already stays as it is.

        Args:
            name: the kernel's name for people; by default the notebook's.
            role: what the link allows: ``"admin"`` (default), ``"operator"`` or ``"viewer"``.
            url, token: the router and a token of role host; by default as configured, else the router that runs here.
            start_router: start one (``timbr-wamp up``) if none is configured and none runs; it outlives the notebook.

        Raises:
            ShareFailed: this is no kernel, or it is not on the router in time.
            NoRouter: none is configured, none runs, and none was to be started.
            TokenRejected, NotAuthorized, NotConnected: the router does not know the token, its role is not host, or
                the router does not answer.
            InvalidToken, InvalidArgument, InvalidName.
        """
        self.serve()
        share: Any = plugins.load(plugins.FACES, "share")
        shared: Shared = share(name=name, role=role, url=url, token=token, start_router=start_router)
        return shared

    def unshare(self) -> bool:
        """Take the kernel of this notebook off the router; return whether `share` had put it there. Machines go on.

        Raises:
            ShareFailed: this is no kernel, or somebody else keeps it on the router.
        """
        unshare: Any = plugins.load(plugins.FACES, "unshare")
        return bool(unshare())

    @property
    def namespace(self) -> dict[str, object]:
        """What source text of slots may refer to."""
        return {} if self._namespace is None else self._namespace

    @whole
    def configure(
        self,
        *,
        bufsize: int | None = None,
        stages: int | None = None,
        concurrency: int | None = None,
        author: str | None = None,
    ) -> None:
        """Change the queue's capacity, the number of slots, or of messages under way at once; at any time."""
        if concurrency is not None:
            self._context.concurrency = checked_concurrency(concurrency)
            self.event_log.add("configured", author, concurrency=concurrency)
        if stages is not None and stages != len(self._table.current().slots):
            self.resize(stages, author=author)
        if bufsize is not None:
            self._queue.resize(bufsize)
            self.event_log.add("configured", author, bufsize=bufsize)

    # --- hooks ---

    @overload
    def hook(self, point: str) -> Callable[[F], F]: ...
    @overload
    def hook(self, point: str, function: Callable[..., object]) -> Callable[[], None]: ...
    def hook(self, point: str, function: Any = None) -> Any:
        """Run a function at a point of the machine's life: ``@m.hook("post_slot")`` or ``m.hook(point, f)``.

        The second form returns a function that removes the hook. Points: `timbr_wamp.machine.events.hooks.POINTS`.
        """
        if function is not None:
            return self.hooks.add(point, function)

        def add(decorated: F) -> F:
            self.hooks.add(point, decorated)
            return decorated

        return add

    def on(self, kind: str, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Call ``callback(event)`` in the bus thread for events of a kind; return a function that ends that.

        ``"*"`` is every kind; ``"error"`` is failures of slots, as `ErrorRow`.
        """
        return self.event_log.on(kind, callback)

    # --- displays ---

    def display_status(self, interval_s: float = 0.5, duration_s: float | None = None) -> LiveStatus:
        """Show a status card and keep it up to date.

        In a notebook it returns at once; ``.stop()`` ends it. On a terminal it returns when the
        machine no longer runs, or at Ctrl-C.
        """
        from timbr_wamp.display import display_status

        return display_status(
            lambda: self.status, interval_s=interval_s, duration_s=duration_s, ended=lambda: self._closed
        )

    @whole
    def tap(self, label: str | int = "in", n: int = 50) -> Tap:
        """Return a live view of one value of the newest ``n`` records: ``"in"``, ``"f1"``, a slot's name or number."""
        index = 0 if label == "in" else self._table.number_of(label) + 1
        tap = Tap(str(label), index, n, on_close=lambda: self._remove_sink(tap))
        self.recorder.replace_sinks(lambda sinks: (*sinks, tap))
        return tap

    @property
    def graph(self) -> Graph:
        """Which slots consume which values, as nodes and as Mermaid text."""
        return graph_of(self.slot_table())

    def plot(self) -> Plot:
        """Return the graph with a display for notebooks and terminals."""
        return Plot(self.graph)

    def dask_graph(self, message: object = None, oid: str | None = None) -> dict[str, tuple[Any, ...]]:
        """Return a message's calls of slots as a Dask graph; ``dask.get(graph, "record")`` returns its record.

        Other keys: ``in``, ``f0`` … are values, ``in_s``, ``f0_s`` … their JSON texts. Policies apply,
        but no hook and no event handler of the machine runs.
        """
        now = self._clock()
        key = new_oid(now) if oid is None else checked_oid(oid)
        return dask_graph(self.slot_table(), message, key, received_at=now, clock=self._clock)

    def _remove_sink(self, tap: Tap) -> None:
        self.recorder.replace_sinks(lambda sinks: tuple(sink for sink in sinks if sink is not tap))

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write slots, policies and settings as a project's ``timbr.toml``; return the file's path.

        Raises:
            CannotSave: a function has neither a source text nor a name that can be imported.
            InvalidArgument: the file is there already, without ``overwrite``.
        """
        check_instance("path", path, (str, PathLike), "a path")
        save: Any = plugins.load(plugins.FACES, "project")
        file: Path = save(self, path, overwrite=overwrite)
        return file

    def __repr__(self) -> str:
        return self._drawn(lambda: f"<Machine {self.name!r} {machine_line(self.status)}>")

    def __str__(self) -> str:
        return self._drawn(lambda: machine_text(self.status, self.slots, self.errors))

    def _repr_html_(self) -> str:
        return self._drawn(lambda: machine_html(self.status, self.slots, self.errors))

    def _drawn(self, draw: Callable[[], str]) -> str:
        """Return ``draw()``; the class name alone if a subclass's properties raise, since a repr must not."""
        try:
            return draw()
        except BaseException as error:
            if is_users_interrupt(error):
                raise
            return type(self).__name__

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Machine cannot be copied or pickled: it has threads and locks. Its slots can be saved "
            "by save(); a function that is sent to another process must not refer to the machine"
        )


def _numbers(slots: slice, count: int) -> range:
    """Return the numbers of the slots that a slice means."""
    try:
        return range(count)[slots]
    except (TypeError, ValueError) as error:
        raise InvalidArgument("slot", f"a slice of slots has numbers: {error}") from None


def _checked_oids(oids: object) -> list[str] | None:
    return None if oids is None else [checked_oid(oid) for oid in checked_list("oids", oids, "message ids")]


def _checked_reason(reason: str | None) -> str | None:
    check_instance("reason", reason, (str, NoneType), "a text")
    if reason is not None and len(reason) > REASON_LIMIT:
        raise InvalidArgument("reason", f"{len(reason):,} characters; at most {REASON_LIMIT:,}")
    return reason or None


def _names_in(revision: Revision) -> SlotNames:
    return SlotNames(slot.name for slot in revision.slots)


def _left_s(deadline: float) -> float:
    """Return what is left for a part of `Machine.close`."""
    return max(deadline - time.monotonic(), CLOSE_LEAST_S)


def checked_machine_name(name: str) -> str:
    """Return ``name``; raise InvalidName or InvalidArgument unless a machine may have it on the wire."""
    check_instance("name", name, str, "a text")
    checked_component(name)
    if name in RESERVED_NAMES:
        raise InvalidArgument("name", f"{name!r} is a kernel's own name on the wire; choose another")
    return name
