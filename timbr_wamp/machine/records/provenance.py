"""What became of a message, and which messages a caller means: by ids, error group, numbers, or the newest ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from timbr_wamp.contract import Attempt, AttemptValue, ErrorGroup, Lookup, outcome_kind
from timbr_wamp.contract.provenance import AttemptStateName, ValueKind
from timbr_wamp.errors import InvalidArgument, UnknownErrorGroup, UnknownMessage, UnknownSlot
from timbr_wamp.machine.checks import checked_list, checked_whole
from timbr_wamp.machine.intake.message_queue import MessageQueue
from timbr_wamp.machine.messages import Entry
from timbr_wamp.machine.raw import opened
from timbr_wamp.machine.records.recorder import Recorder
from timbr_wamp.machine.records.rows import CompactRow, texts_of, whole_text
from timbr_wamp.machine.slots.table import SlotTable
from timbr_wamp.names import checked_oid
from timbr_wamp.values import parse_json

#: Most messages of one selection.
SELECTED = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which messages are meant: by one of these."""

    oids: Sequence[str] | None = None
    #: An error group, or the text that names it; see `Provenance.group_oids`.
    group: ErrorGroup | str | None = None
    #: Numbers of records of the present run.
    seqs: Sequence[int] | None = None
    #: The newest records.
    last: int | None = None


class Provenance:
    """Looks messages up. Any thread.

    Args:
        under_way: returns the entry of a message that runs or waits for a retry, None if it does not.
    """

    def __init__(
        self,
        recorder: Recorder,
        queue: MessageQueue,
        table: SlotTable,
        under_way: Callable[[str], Entry | None],
    ) -> None:
        self._recorder, self._queue, self._table, self._under_way = recorder, queue, table, under_way

    # --- one message ---

    def lookup(self, oid: str) -> Lookup:
        """Return a message and its attempts, also while it waits or is under way.

        Raises:
            UnknownMessage: nothing of it is kept, and it does not wait.
        """
        checked_oid(oid)
        entry, state, rows = None, "", list[CompactRow]()
        for _ in range(2):  # from the queue on: the way that it goes; again, as it may have been given back
            entry, state = self._present(oid)
            rows = self._recorder.find(oid)
            if entry is not None or rows:
                break
        names = {one.number: [slot.name for slot in one.slots] for one in self._table.revisions()}
        unset = {one.number: [slot.function is None for slot in one.slots] for one in self._table.revisions()}
        attempts = [_attempt(row, names, unset) for row in rows]
        text = texts_of(rows[-1][2])[0].decode() if rows else None
        if entry is not None and entry[3] not in [one.attempt for one in attempts]:
            attempts.append(Attempt(attempt=entry[3], state=state, received_at=entry[2]))  # type: ignore[arg-type]
            text = opened(entry[1])[1].decode()
        if not attempts:
            raise UnknownMessage(oid)
        return Lookup(
            run=self._recorder.run, oid=oid, input=text, state=attempts[-1].state, attempts=attempts
        )  # fmt: skip

    def _present(self, oid: str) -> tuple[Entry | None, str]:
        entry = self._queue.waiting(oid)
        if entry is not None:
            return entry, "waiting"
        return self._under_way(oid) or self._recorder.finished(oid), "in_flight"

    # --- several ---

    def select(self, selection: Selection) -> list[CompactRow]:
        """Return the newest kept record of each message that is meant, in the order of the records.

        Of an error group, messages whose records are no longer kept are left out.

        Raises:
            InvalidArgument: not exactly one way to say it was used, or too many messages.
            UnknownMessage, RecordNotFound: one of the ids or numbers is not kept.
            UnknownErrorGroup: there is no such group.
        """
        given = [one for one in (selection.oids, selection.group, selection.seqs, selection.last) if one is not None]
        if len(given) != 1:
            raise InvalidArgument("messages", "say which in one way: by ids, by group, by numbers, or the last n")
        if selection.last is not None:
            rows = self._recorder.newest(checked_whole("last", selection.last, 1, SELECTED))
            newest: dict[str, CompactRow] = {row[1]: (*row, ()) for row in rows}
            return sorted(newest.values())
        if selection.seqs is not None:
            numbers = [
                checked_whole("seqs", seq) for seq in bounded("seqs", checked_list("seqs", selection.seqs, "numbers"))
            ]
            return [self._recorder.row(self._recorder.run, number) for number in numbers]
        if selection.group is not None:
            return sorted(self._recorder.newest_of(self.group_oids(selection.group)).values())
        oids = [
            checked_oid(oid) for oid in bounded("oids", checked_list("oids", selection.oids, "message ids"))
        ]  # fmt: skip
        found = self._recorder.newest_of(oids)
        for oid in oids:
            if oid not in found:
                raise UnknownMessage(oid)
        return [found[oid] for oid in dict.fromkeys(oids)]

    def group_oids(self, group: ErrorGroup | str) -> list[str]:
        """Return the messages of an error group that are still open, oldest first; of one that has none, all kept ones.

        ``group``: an `ErrorGroup`, its ``key``, or the beginning of one: ``f1`` or ``clean`` for all failures of a
        slot, ``clean:ValueError`` for those of a class.

        Raises:
            UnknownErrorGroup: there is no such group.
        """
        wanted = self._wanted(group)
        groups = self._recorder.groups
        open_oids = groups.open_oids(wanted)
        if open_oids:
            return open_oids
        rows = self._recorder.errors.rows(SELECTED)
        return list(dict.fromkeys(row.oid for row in rows if wanted(row.slot, row.exc_class, row.where)))

    def _wanted(self, group: ErrorGroup | str) -> Callable[[int, str, str], bool]:
        if not isinstance(group, (str, ErrorGroup)):
            raise InvalidArgument("group", f"an error group or its key, not {type(group).__name__}")
        text = group if isinstance(group, str) else group.key
        slot, _, rest = text.strip().partition(":")
        exc_class, _, where = rest.partition(":")
        keys = self._recorder.groups.keys()
        try:
            number = self._table.number_of(slot)
        except (UnknownSlot, IndexError, InvalidArgument):
            number = next((int(key[1:].partition(":")[0]) for key in keys if key.startswith(f"{slot}:")), -1)

        def wanted(slot: int, of_class: str, line: str) -> bool:
            return slot == number and exc_class in ("", of_class) and where in ("", line)

        if not any(wanted(*_parts(key)) for key in keys):
            raise UnknownErrorGroup(text, keys)
        return wanted


def bounded(name: str, several: Sequence[object]) -> list[object]:
    """Return a list; raise InvalidArgument for more than `SELECTED`."""
    found = list(several)
    if len(found) > SELECTED:
        raise InvalidArgument(name, f"{len(found):,} are too many for one call: at most {SELECTED:,}")
    return found


def _parts(key: str) -> tuple[int, str, str]:
    slot, exc_class, where = key.split(":", 2)
    return int(slot[1:]), exc_class, where


def _attempt(row: CompactRow, names: dict[int, list[str | None]], unset: dict[int, list[bool]]) -> Attempt:
    """Return a record as an attempt."""
    seq, _, compact, meta_text, layout = row
    meta = orjson.loads(meta_text)
    texts = texts_of(whole_text(compact, layout))
    policies = meta.get("policies") or {}
    revision = meta["revision"]
    slots = []
    for number, text in enumerate(texts[1:]):
        kind: ValueKind = outcome_kind(parse_json(text)) if text.startswith(b'{"_exception"') else "value"
        known, carries = names.get(revision, []), unset.get(revision, [])
        if carries[number : number + 1] == [True]:
            kind = "carried"
        slots.append(
            AttemptValue(
                slot=number,
                name=known[number] if number < len(known) else None,
                kind=kind,
                text=text.decode(),
                size_bytes=len(text),
                policy=policies.get(f"f{number}"),
            )
        )
    state: AttemptStateName = "dropped" if meta.get("dropped") else "errored" if meta["errored"] else "processed"
    return Attempt(
        attempt=meta["attempt"], state=state, seq=seq, revision=revision, received_at=meta["received_at"],
        finished_at=meta["finished_at"], slots=slots,
    )  # fmt: skip
