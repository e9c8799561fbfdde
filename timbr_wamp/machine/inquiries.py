"""The verbs of `Machine` about messages that it had and changes that it may get: look up, replay, try, compare.

A base class of `timbr_wamp.machine.Machine`, and nothing else: its parts are made there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, overload

from timbr_wamp.contract import ErrorGroup, Lookup, ReplayProgress, RevisionDiff, RevisionInfo, TrialResult
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.faces.tables import Oids
from timbr_wamp.faces.trials import TrialReport
from timbr_wamp.machine.checks import (
    check_instance,
    checked_by_slot,
    checked_list,
    checked_seconds,
    checked_whole,
)
from timbr_wamp.machine.intake.message_queue import MessageQueue
from timbr_wamp.machine.interrupts import delivered, whole
from timbr_wamp.machine.processing import refuse_deadlock
from timbr_wamp.machine.records.provenance import SELECTED, Provenance, Selection
from timbr_wamp.machine.records.recorder import Recorder
from timbr_wamp.machine.records.replay import Patience, Replay
from timbr_wamp.machine.running.cancellation import current
from timbr_wamp.machine.slots.objects import Objects
from timbr_wamp.machine.slots.table import Revision, Slot, SlotFunction, SlotTable
from timbr_wamp.machine.trials import LAST, TRIAL_S, Trials

#: What `Inquiries.replay` takes as messages.
Messages = str | Sequence[str] | ErrorGroup | range


class Inquiries:
    """Verbs that look back at messages, put them again, and try changes beside the stream."""

    name: str
    recorder: Recorder
    _queue: MessageQueue
    _table: SlotTable
    _objects: Objects
    _replay: Replay
    _provenance: Provenance
    _trials: Trials

    # --- one message ---

    @whole
    def lookup(self, oid: str) -> Lookup:
        """Return a message with all that became of it: each attempt's revision, times, and each slot's value or error.

        Also of a message that waits or is under way.

        Raises:
            UnknownMessage: it was never put here, or nothing of it is kept.
        """
        return self._provenance.lookup(oid)

    def debug(self, oid: str, *, revision: int | None = None) -> Any:
        """Call the slot again that failed for a message, with the values that the record has; return its value.

        What the slot raises is raised here, with its own traceback: then ``%debug`` or `pdb.pm` show its frame and
        its arguments. It runs in this thread, on a copy of an object; nothing is counted or recorded.

        Args:
            revision: whose function is called; None: that of the failed attempt, as long as it is kept.

        Raises:
            BaseException: what the slot raises.
            NothingToDebug: no kept attempt failed in a slot.
            UnknownMessage, UnknownRevision: nothing of it is kept.
        """
        number = None if revision is None else checked_whole("revision", revision)
        return self._trials.debug(oid, revision=number)

    # --- put again ---

    @whole
    def retry_errors(
        self,
        oids: Sequence[str] | None = None,
        *,
        group: ErrorGroup | str | None = None,
        canary: int = 0,
        timeout: float = 60.0,
        on_progress: Callable[[ReplayProgress], object] | None = None,
    ) -> Oids:
        """Put unresolved errored messages again, each as the next attempt; return their oids.

        Without ``canary`` those that find no room can be retried later. With ``canary`` the first ones have to pass
        before the rest follows, and the rest waits for room.

        Args:
            oids: which; None: all.
            group: those of an error group: the group, its ``key``, or a slot (``"clean"``, ``"clean:ValueError"``).
            canary: so many are retried first.
            timeout: longest time for the canaries, and for the room of the rest, seconds each; only with ``canary``.
            on_progress: called in this thread with a `ReplayProgress`.

        Raises:
            CanaryFailed: a canary failed again, or was not finished in time; no other message was retried.
            MachineFull: there was room for none of them.
            UnknownErrorGroup: there is no such group.
            WrongState: with ``canary``: the machine does not run.
            WouldDeadlock: with ``canary``: the caller is a slot of this machine.
        """
        if oids is not None and group is not None:
            raise InvalidArgument("oids", "say which messages in one way: by ids or by group")
        count, limit_s = checked_whole("canary", canary), checked_seconds("timeout", timeout)
        if count:
            refuse_deadlock(self._queue, self.name, "retry_errors(canary=…)")
        wanted = None if oids is None else list(checked_list("oids", oids, "message ids"))
        if group is not None:
            wanted = self._provenance.group_oids(group)
        patience = Patience(
            room_s=limit_s if count else 0.0, progress=on_progress or _no_progress, check=_check_interrupted
        )
        return Oids(self._replay.retry(wanted, canary=count, canary_s=limit_s, patience=patience))

    @overload
    def replay(
        self,
        messages: Messages | None = None,
        seqs: Sequence[int] | None = None,
        *,
        group: ErrorGroup | str | None = None,
        into: Literal["records"] = "records",
        revision: Literal["current"] | int = "current",
        with_values: Mapping[Any, object] | None = None,
        timeout: float = 0.0,
        on_progress: Callable[[ReplayProgress], object] | None = None,
    ) -> Oids: ...
    @overload
    def replay(
        self,
        messages: Messages | None = None,
        seqs: Sequence[int] | None = None,
        *,
        into: Literal["trial"],
        group: ErrorGroup | str | None = None,
        revision: Literal["current"] | int = "current",
        with_values: Mapping[Any, object] | None = None,
        timeout: float = TRIAL_S,
        on_progress: Callable[[ReplayProgress], object] | None = None,
    ) -> TrialReport[RevisionInfo]: ...
    @whole
    def replay(
        self,
        messages: Any = None,
        seqs: Sequence[int] | None = None,
        *,
        group: ErrorGroup | str | None = None,
        into: str = "records",
        revision: Literal["current"] | int = "current",
        with_values: Mapping[Any, object] | None = None,
        timeout: float | None = None,
        on_progress: Callable[[ReplayProgress], object] | None = None,
    ) -> Any:
        """Run kept messages again: into the records, each as its next attempt, or as a trial that counts nothing.

        Messages are parsed from their JSON texts and put in order, as long as there is room.

        Args:
            messages: an oid, several, an error group, or a range of numbers of records; or a run, with ``seqs``.
            group: an error group, or the text that names it; see `retry_errors`.
            into: ``"records"``: put them, and return the oids. ``"trial"``: run them beside what is recorded, and
                return a `TrialReport`.
            revision: whose slots a trial uses. A record is made by the present slots.
            with_values: what slots give in a trial, by number or name, instead of what their functions make.
            timeout: into records, longest wait for room, by default none; of a trial, longest time, seconds.
            on_progress: called in this thread with a `ReplayProgress`, when many are put.

        Raises:
            RunMismatch, RecordNotFound, UnknownMessage, UnknownErrorGroup: one of them is not kept; nothing was put.
            PayloadTooLarge: one of them was too large to be kept whole; nothing was put.
            MachineFull: there was room for none of them.
            UnknownRevision: it is not kept.
            InvalidArgument: into records with another revision or with values.
        """
        selection = self._selection(messages, seqs, group)
        if into == "trial":
            limit_s = TRIAL_S if timeout is None else checked_seconds("timeout", timeout)
            number = None if revision == "current" else checked_whole("revision", revision)
            values = None if with_values is None else checked_by_slot("with_values", with_values)
            return TrialReport[RevisionInfo](
                self._trials.tables(None, number, selection, with_values=values, timeout_s=limit_s)
            )
        if into != "records":
            raise InvalidArgument("into", f"{into!r} is neither 'records' nor 'trial'")
        if revision != "current" or with_values is not None:
            what = "revision" if revision != "current" else "with_values"
            raise InvalidArgument(what, "a record is made by the present slots alone; use into='trial'")
        patience = Patience(
            room_s=checked_seconds("timeout", timeout or 0.0), progress=on_progress or _no_progress,
            check=_check_interrupted,
        )  # fmt: skip
        return Oids(self._replay.replay(self._provenance.select(selection), patience))

    def _selection(self, messages: Any, seqs: Any, group: Any) -> Selection:
        """Return which messages are meant."""
        if seqs is not None and isinstance(messages, str):
            self.recorder.check_run(messages)
            messages = None
        if isinstance(messages, ErrorGroup) and group is None:
            messages, group = None, messages
        if isinstance(messages, range):
            messages, seqs = None, messages
        if isinstance(messages, str):
            messages = [messages]
        return Selection(oids=messages, seqs=seqs, group=group)

    # --- trials ---

    @whole
    def trial(
        self,
        slot: int | str,
        function: SlotFunction,
        last: int | None = None,
        *,
        oids: Sequence[str] | None = None,
        group: ErrorGroup | str | None = None,
        samples: Sequence[object] | None = None,
        timeout: float = TRIAL_S,
        author: str | None = None,
    ) -> TrialReport[RevisionInfo]:
        """Run a function beside the present one of a slot, on recent messages; return what differs. Nothing changes.

        It runs in this thread, on copies of what the slots hold; objects get a ``prep`` and a ``teardown`` of their
        own. The slot gets the values that the records have. ``report.commit()`` puts the function in the slot, unless
        the slots were changed meanwhile.

        Args:
            last: the newest so many messages; 100 if nothing else says which.
            oids, group: messages by their ids, or of an error group; see `retry_errors`.
            samples: messages of your own; they run through copies of the earlier slots.
            timeout: no further message is begun after so many seconds.

        Raises:
            NotCallable, InvalidSource, PrepFailed, UnknownSlot, SlotOutOfRange: it cannot be in that slot.
            UnknownMessage, UnknownErrorGroup: nothing is kept of them.
        """
        if samples is not None:
            if any(one is not None for one in (last, oids, group)):
                raise InvalidArgument("samples", "say which messages in one way")
            messages: Any = list(checked_list("samples", samples, "messages"))
        else:
            messages = chosen(last, oids, group)
        result = self._trials.function(slot, function, messages, timeout_s=checked_seconds("timeout", timeout))
        number = result.slot
        assert number is not None, "a function was tried"

        def commit(reason: str | None) -> RevisionInfo:
            return self.set(number, function, author=author, reason=reason, if_revision=result.base_revision)

        return TrialReport(result, commit)

    def set(
        self,
        slot: int | str,
        function: SlotFunction | None,
        *,
        author: str | None = None,
        reason: str | None = None,
        if_revision: int | None = None,
    ) -> RevisionInfo:
        """Put a function in a slot; see `timbr_wamp.machine.Machine.set`."""
        raise NotImplementedError

    @whole
    def compare(
        self,
        a: int,
        b: int,
        last: int | None = None,
        *,
        oids: Sequence[str] | None = None,
        group: ErrorGroup | str | None = None,
        timeout: float = TRIAL_S,
    ) -> RevisionDiff:
        """Return two revisions side by side: the difference of their sources, names and policies.

        With ``last``, ``oids`` or ``group`` also of what they give: both run on those messages, as a trial.

        Raises:
            UnknownRevision: one of them is not kept.
        """
        first, second = checked_whole("a", a), checked_whole("b", b)
        found = self._trials.difference(first, second)
        if last is not None or oids is not None or group is not None:
            found.trial = self.try_revisions(first, second, chosen(last, oids, group), timeout=timeout)
        return found

    def try_revisions(
        self, a: int | None, b: int | None, messages: Selection, *, timeout: float = TRIAL_S, **more: Any
    ) -> TrialResult:
        """Run messages through the slots of two revisions; see `timbr_wamp.machine.trials.Trials.tables`."""
        return self._trials.tables(a, b, messages, timeout_s=checked_seconds("timeout", timeout), **more)

    @contextmanager
    def tried(self, slot: int | str, function: SlotFunction) -> Iterator[Slot]:
        """Give ``function`` as a slot, with an object prepared for the block; change nothing."""
        on_trial = self._table.slot_on_trial(slot, function)
        with self._objects.tried(on_trial):
            yield on_trial

    def slot_table(self) -> Revision:
        """Return the newest revision itself: for executors, graphs and trials."""
        return self._table.current()


def chosen(last: int | None, oids: Sequence[str] | None, group: ErrorGroup | str | None) -> Selection:
    """Return which messages a trial uses: by default the newest `LAST`."""
    if last is None and oids is None and group is None:
        last = LAST
    if last is not None:
        last = checked_whole("last", last, 1, SELECTED)
    if group is not None:
        check_instance("group", group, (str, ErrorGroup), "an error group or its key")
    return Selection(last=last, oids=oids, group=group)


def _check_interrupted() -> None:
    """Raise if the call was cancelled, or interrupted by a Ctrl-C that was kept back."""
    with delivered():
        current().check()


def _no_progress(_: ReplayProgress) -> None:
    return
