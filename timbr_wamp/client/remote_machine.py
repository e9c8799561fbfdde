"""`RemoteMachine`: a machine in a kernel on the router, with the interface of `timbr_wamp.Machine`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from timbr_wamp.client.async_machine import AsyncMachine
from timbr_wamp.client.connection import Subscription
from timbr_wamp.client.functions import reference as module_reference
from timbr_wamp.client.live_subscription import LiveSubscription, run_with_progress
from timbr_wamp.client.records import Records, RecordStream
from timbr_wamp.client.shared_connection import SharedConnection
from timbr_wamp.contract import (
    ErrorRow,
    Event,
    Graph,
    Policy,
    Progress,
    PutResult,
    Record,
    RevisionInfo,
    SlotInfo,
    SourceStatus,
    Status,
    TrialRow,
)
from timbr_wamp.contract.policies import PolicyLike
from timbr_wamp.errors import InvalidArgument, TimbrError, described
from timbr_wamp.faces.plot import Plot
from timbr_wamp.faces.tables import ErrorGroups, ErrorRows, Events, Revisions, SlotInfos, machine_html
from timbr_wamp.faces.tap import Tap
from timbr_wamp.tables import html_text

if TYPE_CHECKING:
    from timbr_wamp.display import BarKind, LiveStatus


class RemoteMachine:
    """A machine in a kernel on the router. Any thread but the client's own; calls block.

    ``m[0] = f`` sends a function: by value when it is defined in ``__main__`` or a notebook; a text
    is sent as source text. ``m[0:2] = [f, g]`` makes one revision, ``del m[0]`` unsets a slot,
    ``m[0]`` and ``m["clean"]`` return information on a slot, ``m(x)`` runs a message without
    publishing its record.

    Every call may raise `NotConnected`, `ConnectionLost`, `NoMachine`, `NoSuchProcedure` (the kernel
    is gone), `NotAuthorized`, and the errors that the contract lists for the procedure, with the
    remote traceback.
    """

    def __init__(self, shared: SharedConnection, machine: AsyncMachine) -> None:
        self._shared = shared
        #: The same methods as coroutines.
        self.aio = machine

    def __repr__(self) -> str:
        return repr(self.aio)

    def _repr_html_(self) -> str:
        try:
            return machine_html(self.status, self.slots, self.errors)
        except TimbrError as error:  # show the problem in place of the card, for example a dropped connection
            return f"<div><b>{html_text(repr(self))}</b></div><div>{html_text(described(error), 400)}</div>"

    def display_status(self, interval_s: float = 0.5, duration_s: float | None = None) -> LiveStatus:
        """Show a status card and keep it up to date.

        In a notebook it returns at once; ``.stop()`` ends the updates. On a terminal it returns when
        the machine rests, or at Ctrl-C.
        """
        from timbr_wamp.display import display_status  # imports rich, which is slow to import

        return display_status(lambda: self.status, interval_s=interval_s, duration_s=duration_s)

    @property
    def name(self) -> str:
        """The machine's name, unique in its kernel."""
        return self.aio.name

    # --- looking ----------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """A consistent snapshot of the machine's state and counters."""
        return self._shared.wait(self.aio.status)

    @property
    def running(self) -> bool:
        """See `Status.running`."""
        return self.status.running

    @property
    def slots(self) -> SlotInfos:
        """The slots of the newest revision."""
        return self._shared.wait(self.aio.slots)

    @property
    def errors(self) -> ErrorRows:
        """The newest failures, oldest first."""
        return self._shared.wait(self.aio.errors)

    @property
    def error_groups(self) -> ErrorGroups:
        """Failures grouped by slot, exception class and line, most recent group first."""
        return self._shared.wait(self.aio.error_groups)

    @property
    def graph(self) -> Graph:
        """Which slot consumes the value of which."""
        return self._shared.wait(self.aio.graph)

    def plot(self) -> Plot:
        """Return the graph as an object that displays in notebooks and terminals."""
        return Plot(self.graph)

    @property
    def revisions(self) -> Revisions:
        """The kept revisions of the slot table, oldest first."""
        return self._shared.wait(self.aio.revisions)

    def events(self, n: int = 100) -> Events:
        """Return the newest events, oldest first."""
        return self._shared.wait(self.aio.events, n)

    def recent(self, n: int = 50) -> list[Record]:
        """Return the newest records, oldest first."""
        return self._shared.wait(self.aio.recent, n)

    def record(self, run: str, seq: int) -> Record:
        """Return one complete record, also when its text is too large for a batch."""
        return self._shared.wait(self.aio.record, run, seq)

    def records(
        self,
        after_seq: int | None = None,
        run: str | None = None,
        *,
        timeout_s: float | None = None,
        status: bool = False,
    ) -> Records:
        """Return an iterator over all records, complete and in order. It is subscribed on return.

        Records that were missed are fetched, also after a lost connection or a restart of router,
        bridge or kernel. The iterator yields a `Gap` for records that are no longer kept, and
        `RunChanged` before the first record of a new run. A record whose text is too large for a
        batch has no values and ``meta.text_bytes``; `record` fetches it.

        Args:
            after_seq: start after this number; 0 starts with the oldest kept record, None with the next one.
            run: the run of ``after_seq``; None means the current run.
            timeout_s: end after this many seconds without a record; None means never.
            status: also yield each new `Status`.
        """
        stream = RecordStream(self._shared, self.aio.kernel_id, self.name, run=run, after_seq=after_seq, status=status)
        return Records(self._shared, stream, timeout_s).start()

    # --- messages ---------------------------------------------------------------------------

    def put(self, message: Any, block: bool = False, timeout: float | None = None, oid: str | None = None) -> str:
        """Queue a message; return its id.

        The id is created by the client, so that it can safely repeat a put whose answer was lost
        with the connection.

        Args:
            block: wait for space in the queue, at most ``timeout`` seconds when given.
            oid: the message's id; a message with a known id is not queued again.

        Raises:
            MachineFull: the queue is full, with ``block`` until the timeout.
            PayloadTooLarge: the message is too large; nothing was sent.
        """
        return self._shared.wait(self.aio.put, message, block, timeout, oid)

    def put_many(self, messages: Sequence[Any], oids: Sequence[str] | None = None, timeout_s: float = 0.0) -> PutResult:
        """Queue messages in order, waiting at most ``timeout_s`` for space. Messages without space are refused."""
        return self._shared.wait(self.aio.put_many, messages, oids, timeout_s)

    def __call__(self, message: Any, include_serialized: bool = False) -> Record:
        """Run a message through the slots and return its record, which is neither counted nor published."""
        return self._shared.wait(self.aio.call, message, include_serialized=include_serialized)

    def replay(self, run: str, seqs: Sequence[int]) -> list[str]:
        """Queue messages of kept records again, each as the next attempt with the same oid; return the oids."""
        return self._shared.wait(self.aio.replay, run, seqs)

    def retry_errors(self, oids: Sequence[str] | None = None) -> list[str]:
        """Queue unresolved errored messages again as their next attempt (None: all); return the oids."""
        return self._shared.wait(self.aio.retry_errors, oids)

    # --- running ----------------------------------------------------------------------------

    def start(self) -> Status:
        """Start processing. No effect on a running machine."""
        return self._shared.wait(self.aio.start)

    def stop(self, drain: bool = False, timeout: float = 5.0) -> Status:
        """Stop; with ``drain`` process the queued messages first. The queue is kept."""
        return self._shared.wait(self.aio.stop, drain, timeout)

    def pause(self) -> Status:
        """Pause after the current message; queued messages stay queued."""
        return self._shared.wait(self.aio.pause)

    def resume(self) -> Status:
        """Continue after a pause."""
        return self._shared.wait(self.aio.resume)

    def wait(self, timeout: float | None = None, progress: bool | BarKind = False) -> bool:
        """Wait until the source has ended and every message is recorded; return False at the timeout.

        When the machine does not run, it returns as soon as no message is in flight, because
        nothing would change. ``progress`` shows a progress bar: True, or the kind of bar. Ctrl-C ends
        the waiting and leaves the machine running.
        """
        if not progress:
            return self._shared.wait(self.aio.wait, timeout)
        from timbr_wamp.display import progress_bar  # imports rich, which is slow to import

        with progress_bar("auto" if progress is True else progress) as draw:
            return run_with_progress(self._shared, lambda take: self.aio.wait(timeout, on_progress=take), draw)

    def progress(self) -> Progress:
        """Return the machine's progress with its source."""
        return self._shared.wait(self.aio.progress)

    def follow(
        self, callback: Callable[[Progress], object], *, interval_s: float = 0.5, timeout: float | None = None
    ) -> Progress:
        """Call ``callback(progress)`` until it is complete, the machine rests, or the timeout; return the last one.

        The callback runs in this thread. When it takes longer than ``interval_s``, it gets the newest only.
        """
        follow = self.aio.follow
        return run_with_progress(
            self._shared, lambda take: follow(take, interval_s=interval_s, timeout=timeout), callback
        )

    def configure(
        self, *, bufsize: int | None = None, stages: int | None = None, concurrency: int | None = None
    ) -> Status:
        """Change the queue's capacity, the number of slots, or the number of messages in flight at once."""
        return self._shared.wait(self.aio.configure, bufsize=bufsize, stages=stages, concurrency=concurrency)

    @property
    def handler(self) -> str:
        """Name of the event handler; assign a name to change it."""
        return self.status.handler

    @handler.setter
    def handler(self, handler: str) -> None:
        self.set_handler(handler)

    def set_handler(self, handler: str, options: Mapping[str, Any] | None = None) -> Status:
        """Set the event handler by its name, created with ``options``."""
        return self._shared.wait(self.aio.set_handler, handler, options)

    # --- slots ------------------------------------------------------------------------------

    def __getitem__(self, slot: int | str) -> SlotInfo:
        return self._shared.wait(self.aio.slot, slot)

    def __setitem__(self, slot: int | str | slice, function: object) -> None:
        if isinstance(slot, slice):
            self._shared.wait(self.aio.set, _first_of(slot, function), list(function))  # type: ignore[call-overload]
        elif function is None:
            self._shared.wait(self.aio.delete, slot)
        else:
            self._shared.wait(self.aio.set, slot, function)

    def __delitem__(self, slot: int | str) -> None:
        self._shared.wait(self.aio.delete, slot)

    def set(
        self,
        slot: int | str,
        function: object = None,
        *,
        source: str | None = None,
        reference: str | None = None,
        name: str | None = None,
        policy: PolicyLike | None = None,
    ) -> RevisionInfo:
        """Assign a function to a slot: a callable, source text, or ``module:name`` as ``reference``.

        ``policy`` is what happens to a message when the function raises; None keeps the slot's policy.

        Raises:
            InvalidArgument: not exactly one of the three was given.
            SlotOutOfRange, UnknownSlot, NotCallable, InvalidSource: as the machine reports.
        """
        given = [one for one in (function, source, reference) if one is not None]
        if len(given) != 1:
            raise InvalidArgument("function", "pass exactly one of function, source and reference")
        value = module_reference(reference) if reference is not None else given[0]
        return self._shared.wait(self.aio.set, slot, value, name=name, policy=policy)

    def set_policy(self, slot: int | str | None, policy: PolicyLike | None) -> RevisionInfo:
        """Set the policy of a slot, or with ``slot=None`` of the machine.

        ``policy=None`` removes the slot's own policy.
        """
        return self._shared.wait(self.aio.set_policy, slot, policy)

    def policy_of(self, slot: int | str | None = None) -> Policy:
        """Return the policy that applies to a slot, or the machine's."""
        return self._shared.wait(self.aio.policy_of, slot)

    def rollback(self, number: int) -> RevisionInfo:
        """Make a copy of an earlier slot table the newest revision."""
        return self._shared.wait(self.aio.rollback, number)

    def trial(self, slot: int | str, function: object, n: int = 5) -> list[TrialRow]:
        """Run a function on the newest ``n`` kept records as if it were in the slot. The machine is not changed."""
        return self._shared.wait(self.aio.trial, slot, function, n)

    # --- source -----------------------------------------------------------------------------

    @property
    def source(self) -> SourceStatus:
        """Status of the source. Assign source text, a generator function or a picklable iterable to set it."""
        return self.status.source

    @source.setter
    def source(self, source: object) -> None:
        self.set_source(source)

    @source.deleter
    def source(self) -> None:
        self._shared.wait(self.aio.delete_source)

    def set_source(self, source: object, *, total: int | None = None, replace: bool = False, **options: Any) -> Status:
        """Set the source of messages.

        Args:
            total: expected number of messages, if known.
            options: fields of `SourceOptions`: ``policy`` when the queue is full, ``on_exhausted``,
                ``idle_timeout_s``, ``restarts`` with ``backoff_s`` …

        Raises:
            SourceActive: the machine already has a source, and ``replace`` is False.
            InvalidArgument: an option is unknown, or not possible for this source.
        """
        return self._shared.wait(self.aio.set_source, source, total=total, replace=replace, **options)

    # --- live topics ------------------------------------------------------------------------

    def on_record(self, callback: Callable[[str, list[Any]], object]) -> LiveSubscription:
        """Call ``callback(oid, [in, f0, …])`` for each record, live; some may be missed.

        Callbacks run one after the other in a thread of the client and may use the client.
        """
        return self._live(self._shared.wait(self.aio.on_record, callback))

    def on_status(self, callback: Callable[[Status], object]) -> LiveSubscription:
        """Call ``callback(status)`` now and on each change, at most 4 times per second."""
        return self._live(self._shared.wait(self.aio.on_status, callback))

    def on_event(self, callback: Callable[[Event], object]) -> LiveSubscription:
        """Call ``callback(event)`` for changes of the machine's state."""
        return self._live(self._shared.wait(self.aio.on_event, callback))

    def on_error(self, callback: Callable[[ErrorRow], object]) -> LiveSubscription:
        """Call ``callback(error)`` for failures of slots, at most 10 per second; `errors` returns all."""
        return self._live(self._shared.wait(self.aio.on_error, callback))

    def on(self, kind: str, callback: Callable[[Any], object]) -> LiveSubscription:
        """Call ``callback(event)`` for events of a kind; call the result to unsubscribe.

        ``"*"`` stands for every kind, ``"error"`` for failures of slots, passed as `ErrorRow`.
        """
        return self._live(self._shared.wait(self.aio.on, kind, callback))

    def tap(self, label: str | int = "in", n: int = 50) -> Tap:
        """Return a live view of one value of the newest ``n`` records: ``"in"``, ``"f1"``, a slot's name or number.

        It starts with the next record and is closed with the client.
        """
        return self._shared.wait(self.aio.tap, label, n)

    def _live(self, subscription: Subscription) -> LiveSubscription:
        return LiveSubscription(self._shared, subscription)


def _first_of(slots: slice, functions: object) -> int:
    """Return the first slot of ``m[first:end] = functions`` after checking that the lengths match."""
    first = 0 if slots.start is None else slots.start
    if slots.step not in (None, 1) or not isinstance(first, int) or first < 0:
        raise InvalidArgument("slot", "a slice of slots must have the form m[first:end], without a step")
    if not isinstance(functions, (list, tuple)) or not functions:
        raise InvalidArgument("function", "assign a list of functions to a slice of slots")
    if slots.stop is not None and slots.stop - first != len(functions):
        raise InvalidArgument("function", f"{len(functions)} functions for slots {first} to {slots.stop - 1}")
    return first
