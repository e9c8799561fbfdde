"""`AsyncInquiries`: what a remote machine is asked about its messages, and about changes before they are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from timbr_wamp.client.async_topics import AsyncTopics
from timbr_wamp.client.checks import checked_methods
from timbr_wamp.client.functions import as_source, function_ref
from timbr_wamp.client.shared_connection import CALL_TIMEOUT_S
from timbr_wamp.contract import (
    ErrorGroup,
    FunctionRef,
    Lookup,
    ReplayProgress,
    RevisionDiff,
    RevisionInfo,
    TrialResult,
)
from timbr_wamp.errors import InvalidArgument, PythonMismatch
from timbr_wamp.faces.tables import Oids
from timbr_wamp.faces.trials import TrialReport

T = TypeVar("T")

#: Timeout of calls that run or prepare users' code.
LONG_TIMEOUT_S = 120.0
#: A trial begins no further message after this time, seconds.
TRIAL_S = 60.0


@checked_methods
class AsyncInquiries(AsyncTopics):
    """Looks back at messages, puts them again, and tries changes beside the stream. Usable from any loop."""

    async def lookup(self, oid: str) -> Lookup:
        """Return a message with all that became of it: each attempt's revision, times, and each slot's value or error.

        Also of a message that waits or is under way. Texts that are too large together are None; their sizes are there.

        Raises:
            UnknownMessage: it was never put there, or nothing of it is kept.
        """
        return await self._call(Lookup, "lookup", oid, timeout_s=LONG_TIMEOUT_S)

    async def retry_errors(
        self,
        oids: Sequence[str] | None = None,
        *,
        group: ErrorGroup | str | None = None,
        canary: int = 0,
        timeout: float = 60.0,
        on_progress: Callable[[ReplayProgress], object] | None = None,
    ) -> Oids:
        """Queue unresolved errored messages again as their next attempt (None: all); return the oids.

        Args:
            group: those of an error group: the group, its ``key``, or a slot (``"clean"``, ``"clean:ValueError"``).
            canary: so many are retried first; the rest follows only when they have passed, and waits for room.
            timeout: longest time for the canaries, and for the room of the rest, seconds each; only with ``canary``.
            on_progress: called with a `ReplayProgress`: in the calling thread by the blocking method, in the
                client's own by the async one, where it must not block.

        Raises:
            CanaryFailed: a canary failed again, or was not finished in time; no other message was retried.
            MachineFull: there was room for none of them.
            UnknownErrorGroup: there is no such group.
            WrongState: with ``canary``: the machine does not run.
        """
        wanted, limit_s = None if oids is None else list(oids), 2 * timeout + LONG_TIMEOUT_S
        result = await self._call(
            list[str], "retry_errors", wanted, _group_key(group), canary, timeout, timeout_s=limit_s,
            on_progress=on_progress,
        )  # fmt: skip
        return Oids(result)

    async def replay(
        self,
        messages: str | Sequence[str] | ErrorGroup | range | None = None,
        seqs: Sequence[int] | None = None,
        *,
        group: ErrorGroup | str | None = None,
        into: Literal["records", "trial"] = "records",
        revision: Literal["current"] | int = "current",
        with_values: Mapping[Any, object] | None = None,
        timeout: float | None = None,
        on_progress: Callable[[ReplayProgress], object] | None = None,
    ) -> Any:
        """Run kept messages again: into the records, each as its next attempt, or as a trial that counts nothing.

        Args:
            messages: an oid, several, an error group, or a range of numbers of records; or a run, with ``seqs``.
            group: an error group, or the text that names it; see `retry_errors`.
            into: ``"records"``: put them, and return the oids. ``"trial"``: run them beside what is recorded, and
                return a `TrialReport`.
            revision: whose slots a trial uses. A record is made by the present slots.
            with_values: what slots give in a trial, by number or name, instead of what their functions make.
            timeout: into records, longest wait for room, by default none; of a trial, longest time, seconds.
            on_progress: as for `retry_errors`, when many are put.

        Raises:
            RunMismatch, RecordNotFound, UnknownMessage, UnknownErrorGroup: one of them is not kept; nothing was put.
            PayloadTooLarge, MachineFull, UnknownRevision: as the machine reports.
            InvalidArgument: into records with another revision or with values.
        """
        run, oids, numbers, key = _which(messages, seqs, group)
        if into == "trial":
            number = None if revision == "current" else revision
            values = None if with_values is None else {str(slot): value for slot, value in with_values.items()}
            limit_s = TRIAL_S if timeout is None else timeout
            arguments = (number, None, None, oids, key, numbers, values, limit_s)
            result = await self._call(TrialResult, "table_trial", *arguments, timeout_s=limit_s + LONG_TIMEOUT_S)
            return TrialReport[RevisionInfo](result)
        if revision != "current" or with_values is not None:
            what = "revision" if revision != "current" else "with_values"
            raise InvalidArgument(what, "a record is made by the present slots alone; use into='trial'")
        limit_s = timeout or 0.0
        done = await self._call(
            list[str], "replay", run, numbers, oids, key, limit_s, timeout_s=limit_s + LONG_TIMEOUT_S,
            on_progress=on_progress,
        )  # fmt: skip
        return Oids(done)

    async def trial(
        self,
        slot: int | str,
        function: object,
        last: int | None = None,
        *,
        oids: Sequence[str] | None = None,
        group: ErrorGroup | str | None = None,
        samples: Sequence[Any] | None = None,
        timeout: float = TRIAL_S,
        n: int | None = None,
    ) -> TrialReport[Any]:
        """Run a function beside the present one of a slot, on recent messages; return what differs. Nothing changes.

        It runs on copies of what the slots hold. ``report.commit()`` puts the function in the slot, unless the slots
        were changed meanwhile.

        Args:
            last: the newest so many messages; 100 if nothing else says which. ``n`` is its former name.
            oids, group: messages by their ids, or of an error group; see `retry_errors`.
            samples: messages of your own; they run through copies of the earlier slots.
            timeout: no further message is begun after so many seconds.

        Raises:
            NotCallable, InvalidSource, PrepFailed, UnknownSlot, SlotOutOfRange: it cannot be in that slot.
            UnknownMessage, UnknownErrorGroup: nothing is kept of them.
        """
        by_oid, given = None if oids is None else list(oids), None if samples is None else list(samples)
        newest, key = n if last is None else last, _group_key(group)
        ref = function_ref(function)
        result = await self._send(
            TrialResult, lambda one: ("trial_report", slot, one, newest, by_oid, key, given, timeout), ref,
            timeout_s=timeout + LONG_TIMEOUT_S,
        )  # fmt: skip

        async def commit(reason: str | None) -> RevisionInfo:
            base = result.base_revision
            return await self._send(RevisionInfo, lambda one: ("slot_set", slot, one, None, None, reason, base), ref)

        return TrialReport(result, commit)

    async def compare(
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
        found = await self._call(RevisionDiff, "compare", a, b, timeout_s=CALL_TIMEOUT_S)
        if last is not None or oids is not None or group is not None:
            by_oid = None if oids is None else list(oids)
            arguments = (b, a, last, by_oid, _group_key(group), None, None, timeout)
            found.trial = await self._call(TrialResult, "table_trial", *arguments, timeout_s=timeout + LONG_TIMEOUT_S)
        return found

    async def _send(
        self,
        result: type[T],
        arguments: Callable[[Any], tuple[Any, ...]],
        function: Any,
        timeout_s: float = LONG_TIMEOUT_S,
    ) -> T:
        """Call a procedure with functions as arguments; send source text when the kernel has another Python version."""
        try:
            return await self._call(result, *arguments(function), timeout_s=timeout_s)
        except PythonMismatch:
            several = function if isinstance(function, list) else [function]
            texts = [None if ref is None else _as_text(ref) for ref in several]
            if None in [text for text, ref in zip(texts, several, strict=True) if ref is not None]:
                raise
        return await self._call(
            result, *arguments(texts if isinstance(function, list) else texts[0]), timeout_s=timeout_s
        )


def _as_text(ref: FunctionRef) -> FunctionRef | None:
    return ref if ref.kind != "cloudpickle" else as_source(ref)


def _group_key(group: ErrorGroup | str | None) -> str | None:
    return group.key if isinstance(group, ErrorGroup) else group


def _which(
    messages: str | Sequence[str] | ErrorGroup | range | None,
    seqs: Sequence[int] | None,
    group: ErrorGroup | str | None,
) -> tuple[str | None, list[str] | None, list[int] | None, str | None]:
    """Return the run, ids, numbers and error group that are meant."""
    if isinstance(messages, ErrorGroup):
        return None, None, None, messages.key
    if isinstance(messages, range):
        return None, None, list(messages), _group_key(group)
    numbers = None if seqs is None else list(seqs)
    if isinstance(messages, str):
        return (
            (messages, None, numbers, _group_key(group))
            if seqs is not None
            else (None, [messages], None, _group_key(group))
        )
    return None, None if messages is None else list(messages), numbers, _group_key(group)
