"""`RemoteMachine`: a machine in a kernel on the router, that reads like `timbr_wamp.Machine`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from timbr_wamp.client.async_machine import AsyncMachine
from timbr_wamp.client.connection import Subscription
from timbr_wamp.client.functions import reference as module_reference
from timbr_wamp.client.live_subscription import LiveSubscription, draw_while
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

    ``m[0] = f`` sends the function: by value when it is of ``__main__`` or a notebook, a text as
    source text. ``m[0:2] = [f, g]`` is one revision, ``del m[0]`` makes a slot identity, ``m[0]``
    and ``m["clean"]`` tell what is in a slot, ``m(x)`` runs a message and publishes nothing.

    All raise `NotConnected`, `ConnectionLost`, `NoMachine`, `NoSuchProcedure` (the kernel is gone),
    `NotAuthorized`, and what the contract lists for the procedure, with the remote traceback.
    """

    def __init__(self, link: SharedConnection, machine: AsyncMachine) -> None:
        self._link = link
        #: The same verbs as coroutines.
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

        In a notebook it returns at once; ``.stop()`` ends it. On a terminal it returns when the
        machine rests, or at Ctrl-C.
        """
        from timbr_wamp.display import display_status  # it draws with rich, which takes its time to load

        return display_status(lambda: self.status, interval_s=interval_s, duration_s=duration_s)

    @property
    def name(self) -> str:
        """Name within its kernel."""
        return self.aio.name

    # --- looking ----------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """State and counters, taken at one instant."""
        return self._link.wait(self.aio.status)

    @property
    def running(self) -> bool:
        """The worker thread lives and gave a heartbeat within the last seconds."""
        return self.status.running

    @property
    def slots(self) -> SlotInfos:
        """The slots of the newest revision."""
        return self._link.wait(self.aio.slots)

    @property
    def errors(self) -> ErrorRows:
        """The newest failures, oldest of them first."""
        return self._link.wait(self.aio.errors)

    @property
    def error_groups(self) -> ErrorGroups:
        """Failures by slot, exception class and line, those seen last first."""
        return self._link.wait(self.aio.error_groups)

    @property
    def graph(self) -> Graph:
        """Which slot consumes whose value."""
        return self._link.wait(self.aio.graph)

    def plot(self) -> Plot:
        """Return the graph as something that notebooks draw and terminals list."""
        return Plot(self.graph)

    @property
    def revisions(self) -> Revisions:
        """The kept revisions of the slot table, oldest first."""
        return self._link.wait(self.aio.revisions)

    def events(self, n: int = 100) -> Events:
        """Return the newest events, oldest of them first."""
        return self._link.wait(self.aio.events, n)

    def recent(self, n: int = 50) -> list[Record]:
        """Return the newest records, oldest of them first."""
        return self._link.wait(self.aio.recent, n)

    def record(self, run: str, seq: int) -> Record:
        """Return one record whole, also one whose text is too large for a batch."""
        return self._link.wait(self.aio.record, run, seq)

    def records(
        self,
        after_seq: int | None = None,
        run: str | None = None,
        *,
        timeout_s: float | None = None,
        status: bool = False,
    ) -> Records:
        """Return all records from here on, in order, as an iterator; it is subscribed on return.

        Complete: what the live way loses is asked for again, also across a lost link, a restarted
        router, bridge or kernel. Where records are gone for good comes one `Gap`; where a new
        numbering begins, `RunChanged`. A record whose text is too large for a batch comes without
        values and with ``meta.text_bytes``; `record` fetches it.

        Args:
            after_seq: begin after that number; 0 with the oldest kept; None with the next one.
            run: the run that ``after_seq`` counts in; None for the present one.
            timeout_s: end after so long without anything; None never ends.
            status: yield each new `Status` as well.
        """
        stream = RecordStream(self._link, self.aio.kernel_id, self.name, run=run, after_seq=after_seq, status=status)
        self._link.wait(stream.start)
        return Records(self._link, stream, timeout_s)

    # --- messages ---------------------------------------------------------------------------

    def put(self, message: Any, block: bool = False, timeout: float | None = None, oid: str | None = None) -> str:
        """Queue a message; return its id.

        The id is made here, so that a put whose answer was lost with the link is safely repeated
        once the link is back.

        Args:
            block: wait for room, at most ``timeout`` seconds when given.
            oid: an id of your own; one that is known already is not put twice.

        Raises:
            MachineFull: no room, or none in time.
            PayloadTooLarge: nothing was sent.
        """
        return self._link.wait(self.aio.put, message, block, timeout, oid)

    def put_many(self, messages: Sequence[Any], oids: Sequence[str] | None = None, timeout_s: float = 0.0) -> PutResult:
        """Queue messages in order, waiting at most ``timeout_s`` for room; those without are refused."""
        return self._link.wait(self.aio.put_many, messages, oids, timeout_s)

    def __call__(self, message: Any, *, include_serialized: bool = False) -> Record:
        """Run a message through the slots and return its record; count and publish nothing."""
        return self._link.wait(self.aio.call, message, include_serialized=include_serialized)

    def replay(self, run: str, seqs: Sequence[int]) -> list[str]:
        """Put kept messages again, each as the next attempt under its own oid; return the oids."""
        return self._link.wait(self.aio.replay, run, seqs)

    def retry_errors(self, oids: Sequence[str] | None = None) -> list[str]:
        """Put unresolved errored messages again as the next attempt; return their oids. None: all."""
        return self._link.wait(self.aio.retry_errors, oids)

    # --- running ----------------------------------------------------------------------------

    def start(self) -> Status:
        """Start processing; a running machine stays so."""
        return self._link.wait(self.aio.start)

    def stop(self, drain: bool = False, timeout: float = 5.0) -> Status:
        """Stop; with ``drain`` finish what waits first. The queue is kept."""
        return self._link.wait(self.aio.stop, drain, timeout)

    def pause(self) -> Status:
        """Stop after the message under way; the rest waits."""
        return self._link.wait(self.aio.pause)

    def resume(self) -> Status:
        """Go on after a pause."""
        return self._link.wait(self.aio.resume)

    def wait(self, timeout: float | None = None, progress: bool | BarKind = False) -> bool:
        """Wait until the source has ended and every message is recorded; return whether that is so.

        When the machine does not run, it returns as soon as no message is under way any more, since
        nothing would change. ``progress`` shows a bar meanwhile: True, or which kind. Ctrl-C leaves the
        machine running.
        """
        if not progress:
            return self._link.wait(self.aio.wait, timeout)
        from timbr_wamp.display import progress_bar  # it draws with rich, which takes its time to load

        with progress_bar("auto" if progress is True else progress) as draw:
            return draw_while(self._link, lambda take: self.aio.wait(timeout, on_progress=take), draw)

    def progress(self) -> Progress:
        """Return how far the machine is with its source."""
        return self._link.wait(self.aio.progress)

    def follow(
        self, callback: Callable[[Progress], object], *, interval_s: float = 0.5, timeout: float | None = None
    ) -> Progress:
        """Call ``callback(progress)`` until it is complete, the machine rests or time is up; return the last one.

        It runs in this thread; while it takes longer than ``interval_s``, it gets only the newest.
        """
        follow = self.aio.follow
        return draw_while(self._link, lambda take: follow(take, interval_s=interval_s, timeout=timeout), callback)

    def configure(
        self, *, bufsize: int | None = None, stages: int | None = None, concurrency: int | None = None
    ) -> Status:
        """Change the queue's capacity, the number of slots, or of messages under way at once."""
        return self._link.wait(self.aio.configure, bufsize=bufsize, stages=stages, concurrency=concurrency)

    @property
    def handler(self) -> str:
        """Name of the event handler; assign another name."""
        return self.status.handler

    @handler.setter
    def handler(self, handler: str) -> None:
        self.set_handler(handler)

    def set_handler(self, handler: str, options: Mapping[str, Any] | None = None) -> Status:
        """Choose the event handler by its name, made with ``options``."""
        return self._link.wait(self.aio.set_handler, handler, options)

    # --- slots ------------------------------------------------------------------------------

    def __getitem__(self, slot: int | str) -> SlotInfo:
        return self._link.wait(self.aio.slot, slot)

    def __setitem__(self, slot: int | str | slice, function: object) -> None:
        if isinstance(slot, slice):
            self._link.wait(self.aio.set, _first_of(slot, function), list(function))  # type: ignore[call-overload]
        elif function is None:
            self._link.wait(self.aio.delete, slot)
        else:
            self._link.wait(self.aio.set, slot, function)

    def __delitem__(self, slot: int | str) -> None:
        self._link.wait(self.aio.delete, slot)

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
        """Put a function in a slot: a callable, source text, or ``module:name`` as ``reference``.

        ``policy`` says what becomes of a message when it raises; None leaves the slot's as it is.

        Raises:
            InvalidArgument: not exactly one of the three was given.
            SlotOutOfRange, UnknownSlot, NotCallable, InvalidSource: the machine says so.
        """
        given = [one for one in (function, source, reference) if one is not None]
        if len(given) != 1:
            raise InvalidArgument("function", "give exactly one of function, source and reference")
        what = module_reference(reference) if reference is not None else given[0]
        return self._link.wait(self.aio.set, slot, what, name=name, policy=policy)

    def set_policy(self, slot: int | str | None, policy: PolicyLike | None) -> RevisionInfo:
        """Set what becomes of a message when the slot raises, or with ``slot=None`` any without its own policy.

        ``policy=None``: the slot has none of its own any more.
        """
        return self._link.wait(self.aio.set_policy, slot, policy)

    def policy_of(self, slot: int | str | None = None) -> Policy:
        """Return the policy that a slot follows, or the machine's."""
        return self._link.wait(self.aio.policy_of, slot)

    def rollback(self, number: int) -> RevisionInfo:
        """Make an earlier slot table the newest revision."""
        return self._link.wait(self.aio.rollback, number)

    def trial(self, slot: int | str, function: object, n: int = 5) -> list[TrialRow]:
        """Run a function on the newest ``n`` kept records as if it were in the slot; change nothing."""
        return self._link.wait(self.aio.trial, slot, function, n)

    # --- source -----------------------------------------------------------------------------

    @property
    def source(self) -> SourceStatus:
        """Where messages come from; assign source text, a generator function or a picklable iterable."""
        return self.status.source

    @source.setter
    def source(self, source: object) -> None:
        self.set_source(source)

    @source.deleter
    def source(self) -> None:
        self._link.wait(self.aio.delete_source)

    def set_source(self, source: object, *, total: int | None = None, replace: bool = False, **options: Any) -> Status:
        """Set where messages come from.

        Args:
            total: how many there will be, when that is known.
            options: fields of `SourceOptions`: ``policy`` when the queue is full, ``on_exhausted``,
                ``idle_timeout_s``, ``restarts`` with ``backoff_s`` …

        Raises:
            SourceActive: there is one already, and ``replace`` was not said.
            InvalidArgument: an option that is none, or that this source cannot follow.
        """
        return self._link.wait(self.aio.set_source, source, total=total, replace=replace, **options)

    # --- live topics ------------------------------------------------------------------------

    def on_record(self, callback: Callable[[str, list[Any]], object]) -> LiveSubscription:
        """Call ``callback(oid, [in, f0, …])`` for records as they come: some may be missed.

        Callbacks run one after the other in a thread of the client, and may call it.
        """
        return self._live(self._link.wait(self.aio.on_record, callback))

    def on_status(self, callback: Callable[[Status], object]) -> LiveSubscription:
        """Call ``callback(status)`` now and on each change, at most 4 times a second."""
        return self._live(self._link.wait(self.aio.on_status, callback))

    def on_event(self, callback: Callable[[Event], object]) -> LiveSubscription:
        """Call ``callback(event)`` for what changes the machine's state."""
        return self._live(self._link.wait(self.aio.on_event, callback))

    def on_error(self, callback: Callable[[ErrorRow], object]) -> LiveSubscription:
        """Call ``callback(error)`` for slots' failures, at most 10 a second; `errors` has them all."""
        return self._live(self._link.wait(self.aio.on_error, callback))

    def on(self, kind: str, callback: Callable[[Any], object]) -> LiveSubscription:
        """Call ``callback(event)`` for events of a kind; what it returns, called, ends that.

        ``"*"`` stands for every kind, ``"error"`` for slots' failures, which come as `ErrorRow`.
        """
        return self._live(self._link.wait(self.aio.on, kind, callback))

    def tap(self, label: str | int = "in", n: int = 50) -> Tap:
        """Return a live view of one value of the newest ``n`` records: ``"in"``, ``"f1"``, a slot's name or number.

        It begins with the next record; it is closed with the client.
        """
        return self._link.wait(self.aio.tap, label, n)

    def _live(self, subscription: Subscription) -> LiveSubscription:
        return LiveSubscription(self._link, subscription)


def _first_of(slots: slice, functions: object) -> int:
    """Return the first slot of ``m[first:end] = functions``; the lengths must agree."""
    first = 0 if slots.start is None else slots.start
    if slots.step not in (None, 1) or not isinstance(first, int) or first < 0:
        raise InvalidArgument("slot", "a slice of slots reads m[first:end], without step")
    if not isinstance(functions, (list, tuple)) or not functions:
        raise InvalidArgument("function", "a slice of slots wants a list of functions")
    if slots.stop is not None and slots.stop - first != len(functions):
        raise InvalidArgument("function", f"{len(functions)} functions for slots {first} to {slots.stop - 1}")
    return first
