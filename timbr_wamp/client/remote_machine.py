"""`RemoteMachine`: a machine in a kernel on the router, with the interface of `timbr_wamp.Machine`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from timbr_wamp.client.async_machine import AsyncMachine
from timbr_wamp.client.blocking import Blocking, attribute, blocking, converted, like
from timbr_wamp.client.live_subscription import LiveSubscription, run_with_progress
from timbr_wamp.client.records import Records
from timbr_wamp.client.shared_connection import SharedConnection
from timbr_wamp.contract import Progress, RevisionInfo, SourceStatus
from timbr_wamp.errors import InvalidArgument, TimbrError, counted, described
from timbr_wamp.faces.plot import Plot
from timbr_wamp.faces.tables import Oids, machine_html
from timbr_wamp.faces.trials import TrialReport
from timbr_wamp.tables import html_text
from timbr_wamp.user_warnings import NotRunning, warn_user

if TYPE_CHECKING:
    from timbr_wamp.display import BarKind, LiveStatus


def _blocking_report(shared: SharedConnection, report: TrialReport[Any]) -> TrialReport[RevisionInfo]:
    """Return a trial's report whose ``commit`` waits."""
    return TrialReport(report.result, lambda reason: shared.wait(report.commit, reason))


class RemoteMachine(Blocking[AsyncMachine]):
    """A machine in a kernel on the router. Any thread but the client's own; calls block.

    ``m[0] = f`` sends a function: by value when it is defined in ``__main__`` or a notebook; a text
    is sent as source text. ``m[0:2] = [f, g]`` makes one revision, ``del m[0]`` unsets a slot,
    ``m[0]`` and ``m["clean"]`` return information on a slot, ``m(x)`` runs a message without
    publishing its record.

    Every call may raise `NotConnected`, `ConnectionLost`, `NoMachine`, `NoSuchProcedure` (the kernel
    is gone), `NotAuthorized`, and the errors that the contract lists for the procedure, with the
    remote traceback.
    """

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

    status = attribute(AsyncMachine.status)

    @property
    def running(self) -> bool:
        """See `Status.running`."""
        return self.status.running

    slots = attribute(AsyncMachine.slots)
    errors = attribute(AsyncMachine.errors)
    error_groups = attribute(AsyncMachine.error_groups)
    graph = attribute(AsyncMachine.graph)
    revisions = attribute(AsyncMachine.revisions)

    def plot(self) -> Plot:
        """Return the graph as an object that displays in notebooks and terminals."""
        return Plot(self.graph)

    events = blocking(AsyncMachine.events)
    recent = blocking(AsyncMachine.recent)
    record = blocking(AsyncMachine.record)
    records = converted(AsyncMachine.records, Records.started)

    # --- messages ---------------------------------------------------------------------------

    put = blocking(AsyncMachine.put)
    put_many = blocking(AsyncMachine.put_many)
    __call__ = blocking(AsyncMachine.call)

    lookup = blocking(AsyncMachine.lookup)

    @like(AsyncMachine.replay)
    def replay(self, *which: Any, on_progress: Callable[[Any], object] | None = None, **options: Any) -> Any:
        return self._with_progress(partial(self.aio.replay, *which, **options), on_progress)

    @like(AsyncMachine.retry_errors)
    def retry_errors(self, *which: Any, on_progress: Callable[[Any], object] | None = None, **options: Any) -> Oids:
        done: Oids = self._with_progress(partial(self.aio.retry_errors, *which, **options), on_progress)
        return done

    def _with_progress(self, verb: Callable[..., Any], on_progress: Callable[[Any], object] | None) -> Any:
        if on_progress is None:
            return self._shared.wait(verb)
        return run_with_progress(self._shared, lambda take: verb(on_progress=take), on_progress)

    # --- running ----------------------------------------------------------------------------

    start = blocking(AsyncMachine.start)
    stop = blocking(AsyncMachine.stop)
    pause = blocking(AsyncMachine.pause)
    resume = blocking(AsyncMachine.resume)

    def wait(self, timeout: float | None = None, progress: bool | BarKind = False) -> bool:
        """Wait until every message is recorded, as `AsyncMachine.wait` does; return False at the timeout.

        ``progress`` shows a progress bar: True, or the kind of bar. Ctrl-C ends the waiting and leaves the
        machine running.
        """
        settled, vain = self._waited(timeout, progress)
        if vain is not None:
            warn_user(vain, NotRunning)
        return settled

    def _waited(self, timeout: float | None, progress: bool | BarKind) -> tuple[bool, str | None]:
        if not progress:
            return self._shared.wait(self.aio._wait_told, timeout)
        from timbr_wamp.display import progress_bar  # imports rich, which is slow to import

        with progress_bar("auto" if progress is True else progress) as draw:
            return run_with_progress(self._shared, lambda take: self.aio._wait_told(timeout, take), draw)

    drain = blocking(AsyncMachine.drain)
    progress = blocking(AsyncMachine.progress)

    @like(AsyncMachine.follow)
    def follow(self, callback: Callable[[Progress], object], **options: Any) -> Progress:
        return run_with_progress(self._shared, lambda take: self.aio.follow(take, **options), callback)

    configure = blocking(AsyncMachine.configure)

    @property
    def handler(self) -> str:
        """Name of the event handler; assign a name to change it."""
        return self.status.handler

    @handler.setter
    def handler(self, handler: str) -> None:
        self.set_handler(handler)

    set_handler = blocking(AsyncMachine.set_handler)

    # --- slots ------------------------------------------------------------------------------

    __getitem__ = blocking(AsyncMachine.slot)

    def __setitem__(self, slot: int | str | slice, function: object) -> None:
        if isinstance(slot, slice):
            self._shared.wait(self.aio.set, _first_of(slot, function), list(function))  # type: ignore[call-overload]
        elif function is None:
            self._shared.wait(self.aio.delete, slot)
        else:
            self._shared.wait(self.aio.set, slot, function)

    __delitem__ = blocking(AsyncMachine.delete)
    delete = blocking(AsyncMachine.delete)
    set = blocking(AsyncMachine.set)
    set_policy = blocking(AsyncMachine.set_policy)
    policy_of = blocking(AsyncMachine.policy_of)
    rollback = blocking(AsyncMachine.rollback)
    trial = blocking(AsyncMachine.trial, _blocking_report)
    compare = blocking(AsyncMachine.compare)
    metrics = blocking(AsyncMachine.metrics)

    # --- source -----------------------------------------------------------------------------

    @property
    def source(self) -> SourceStatus:
        """Status of the source. Assign a table, a file, source text, a generator function or an iterable to set it."""
        return self.status.source

    @source.setter
    def source(self, source: object) -> None:
        self.set_source(source)

    @source.deleter
    def source(self) -> None:
        self._shared.wait(self.aio.delete_source)

    set_source = blocking(AsyncMachine.set_source)

    # --- live topics ------------------------------------------------------------------------

    on_record = blocking(AsyncMachine.on_record, LiveSubscription)
    on_status = blocking(AsyncMachine.on_status, LiveSubscription)
    on_event = blocking(AsyncMachine.on_event, LiveSubscription)
    on_error = blocking(AsyncMachine.on_error, LiveSubscription)
    on = blocking(AsyncMachine.on, LiveSubscription)
    tap = blocking(AsyncMachine.tap)


def _first_of(slots: slice, functions: object) -> int:
    """Return the first slot of ``m[first:end] = functions`` after checking that the lengths match."""
    first = 0 if slots.start is None else slots.start
    whole = isinstance(first, int) and isinstance(slots.stop, (int, type(None)))
    if slots.step not in (None, 1) or not whole or first < 0:
        raise InvalidArgument("slot", "a slice of slots must have the form m[first:end], without a step")
    if not isinstance(functions, (list, tuple)) or not functions:
        raise InvalidArgument("function", "assign a list of functions to a slice of slots")
    if slots.stop is not None and slots.stop - first != len(functions):
        given = counted(len(functions), "function")
        raise InvalidArgument("function", f"{given} for slots {first} to {slots.stop - 1}")
    return first
