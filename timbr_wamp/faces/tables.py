"""HTML and text of the wire's structs, of lists of them, and of records.

`Rows` is a list that displays as a table, and becomes one: `to_frame`, `to_arrow`, `to_dicts`.
`timbr_wamp.faces.cards` draws status, progress and whole machines. Everything is escaped and bounded.
The functions that ``repr`` and notebook displays call never raise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self, SupportsIndex, TypeVar, overload

from timbr_wamp.contract.displayable import Printer, structs_grid
from timbr_wamp.contract.provenance import Lookup
from timbr_wamp.contract.record import Record, outcome_kind, records_grid
from timbr_wamp.contract.structs import ErrorGroup, ErrorRow, Event, Progress, RevisionInfo, SlotInfo, Status, TrialRow
from timbr_wamp.contract.trials import RevisionDiff, TrialResult
from timbr_wamp.errors import class_and_text, counted
from timbr_wamp.faces.cards import (
    machine_html,
    machine_text,
    policy_text,
    progress_html,
    progress_text,
    resolved_text,
)
from timbr_wamp.faces.preview import never_raises, preview
from timbr_wamp.faces.trials import diff_html, diff_text, lookup_html, lookup_text, trial_html, trial_text
from timbr_wamp.rows.tabular import Grid, Tabular
from timbr_wamp.tables import (
    COLLAPSED_LIMIT,
    Cell,
    StatusTable,
    collapsible,
    count_cell,
    duration,
    html_text,
    printable,
    timestamp,
)

__all__ = [
    "ErrorGroups",
    "ErrorRows",
    "Events",
    "Oids",
    "RecordRows",
    "Revisions",
    "Rows",
    "SlotInfos",
    "Trials",
    "gets_text",
    "html_of",
    "machine_html",
    "machine_text",
    "record_html",
    "record_text",
    "repr_of",
    "text_of",
]

#: Longest text of a record's value, in characters.
VALUE_LIMIT = 300
#: Longest text of one of several values in a cell, and of a record's last one, in characters.
SHORT_LIMIT, RESULT_LIMIT = 40, 80
#: Longest text of a field in a struct's ``repr``, in characters.
VALUE_IN_REPR = 80
#: Message ids that are shown of many.
SHOWN_OIDS = 3
#: Longest traceback of a single printed failure, in characters.
TRACEBACK_LIMIT = 20_000

T = TypeVar("T")


class Rows(Tabular, list[T]):
    """A list that displays as a table in notebooks, in IPython and in Python.

    Slices, copies and sums are of the same class, so they display as tables too.
    """

    headers: Sequence[str] = ()
    empty = "none"
    #: Class of the items.
    item: type[Any]

    def _grid(self) -> Grid:
        return structs_grid(self.item, self)

    @overload
    def __getitem__(self, index: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: SupportsIndex | slice) -> T | Self:
        """Return one item, or a slice as a list of the same class."""
        return type(self)(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)

    def __add__(self, other: list[Any]) -> Self:  # type: ignore[override]
        """Return both lists joined, as a list of the same class."""
        return type(self)([*self, *other]) if isinstance(other, list) else NotImplemented

    def copy(self) -> Self:
        """Return a shallow copy of the same class."""
        return type(self)(self)

    def cells(self, item: T) -> Sequence[object]:
        """Return the cells of an item, one per header."""
        return [getattr(item, header) for header in self.headers]

    def table(self) -> StatusTable:
        """Return the list as a table."""
        return StatusTable(self.headers, rows=map(self.cells, self), empty=self.empty, hide_empty=True)

    @never_raises(html=True)
    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    @never_raises()
    def __str__(self) -> str:
        return str(self.table())

    def __repr__(self) -> str:
        return str(self)

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        printer.text(str(self))


class RecordRows(Rows[Record]):
    """Records, oldest first. Its tables have the names of slots as columns."""

    headers = ("seq", "oid", "attempt", "revision", "finished", "in", "slots", "result")
    empty = "no records yet"
    item = Record

    def __init__(self, records: Iterable[Record] = ()) -> None:
        super().__init__(records)
        #: Where records are missing that were asked for: `Gap` and `RunChanged`, in order. Slices and copies have none.
        self.gaps: list[Any] = []

    def _grid(self) -> Grid:
        return records_grid(self)

    def cells(self, item: Record) -> Sequence[object]:
        """Return the cells of a record: what slots made of the message, unset ones left out, and the last value."""
        meta = item.meta
        facts = (meta.seq or None, item.oid, meta.attempt, meta.revision, timestamp(meta.finished_at))
        if meta.text_bytes is not None:
            return (*facts, f"({meta.text_bytes:,} bytes)", "", "")
        values = (item.input, *item.values)
        made = [
            f"{label} {_short(value)}"
            for label, before, value in zip(item._fields[2:], values, values[1:], strict=False)
            if not _is_carried(before, value)
        ]
        return (*facts, preview(item.input), ", ".join(made), _short(values[-1], RESULT_LIMIT))


class SlotInfos(Rows[SlotInfo]):
    """The slots of the newest revision."""

    item = SlotInfo
    headers = (
        "slot",
        "name",
        "function",
        "kind",
        "gets",
        "on error",
        "revision",
        "by",
        "calls",
        "errors",
        "p50",
        "p99",
    )
    empty = "no slots"

    def cells(self, item: SlotInfo) -> Sequence[object]:
        """Return the cells of a slot."""
        counts = item.counts
        return (
            f"f{item.slot}",
            item.name,
            _function(item),
            None if item.identity else item.kind,
            None if item.identity else gets_text(item),
            item.policy and policy_text(item.policy),
            item.revision or None,
            item.author,
            count_cell(counts.calls if counts else None),
            count_cell(counts.errors if counts else None),
            Cell(duration(counts.p50_s if counts else None), right=True),
            Cell(duration(counts.p99_s if counts else None), right=True),
        )


class ErrorRows(Rows[ErrorRow]):
    """Failures of slots, oldest first."""

    item = ErrorRow
    headers = (
        "record", "time", "slot", "error", "where", "message", "message id", "attempt", "tries", "policy", "resolved",
    )  # fmt: skip
    empty = "no slot has failed"

    def cells(self, item: ErrorRow) -> Sequence[object]:
        """Return the cells of a failure."""
        return (
            item.seq or None,
            timestamp(item.time),
            _task(item.slot, item.task),
            _error(item.exc_class, item.exc_value, item.exc_tb, resolved=item.resolved),
            item.where,
            item.input,
            item.oid,
            item.attempt,
            item.tries,
            item.policy,
            resolved_text(item),
        )


class ErrorGroups(Rows[ErrorGroup]):
    """Failures grouped by slot, exception class and line."""

    item = ErrorGroup
    headers = ("slot", "error", "where", "count", "per min", "open", "last", "last message", "policies", "resolved")
    empty = "no slot has failed"

    def cells(self, item: ErrorGroup) -> Sequence[object]:
        """Return the cells of an error group."""
        return (
            _task(item.slot, item.task),
            _error(item.exc_class, item.exc_value, item.exc_tb, resolved=item.resolved),
            item.where,
            count_cell(item.count),
            Cell(f"{item.rate_per_min:.1f}", right=True),
            count_cell(item.open),
            timestamp(item.last_time),
            item.input,
            ", ".join(f"{name} {count:,}" for name, count in item.policies.items()),
            "yes" if item.resolved else "",
        )


class Revisions(Rows[RevisionInfo]):
    """The kept revisions of the slot table, oldest first."""

    item = RevisionInfo
    headers = ("number", "time", "by", "change", "reason", "functions")

    def cells(self, item: RevisionInfo) -> Sequence[object]:
        """Return the cells of a revision."""
        functions = ", ".join(name or "·" for name in item.functions)
        return (item.number, timestamp(item.time), item.author, item.change, item.reason, functions)


class Events(Rows[Event]):
    """Events that changed a machine's state, oldest first."""

    item = Event
    headers = ("number", "time", "event", "by", "data")
    empty = "no events yet"

    def cells(self, item: Event) -> Sequence[object]:
        """Return the cells of an event."""
        data = ", ".join(f"{name}: {preview(value, 80)}" for name, value in list(item.data.items())[:12])
        return (item.number, timestamp(item.time), item.kind, item.author, data)


class Trials(Rows[TrialRow]):
    """What a function on trial gave for kept records, oldest first."""

    item = TrialRow
    headers = ("message id", "was", "outcome", "value", "took")
    empty = "no records are kept, so there was nothing to try it on"

    def __repr__(self) -> str:
        failed = sum(row.errored for row in self)
        return f"<trial on {counted(len(self), 'record')}: {len(self) - failed:,} ok, {failed:,} failed>"

    def cells(self, item: TrialRow) -> Sequence[object]:
        """Return the cells of one record's trial."""
        value = json.loads(item.text)
        was = None if item.before is None else _outcome(json.loads(item.before))
        return (item.oid, was, outcome_kind(value), _outcome(value), Cell(duration(item.duration_s), right=True))


def _outcome(value: object) -> object:
    """Return a value as it is shown; of what a slot that raised gave, the failure."""
    if outcome_kind(value) != "value":
        assert isinstance(value, dict)
        return _failure(value["_exception"])
    return _value(value)


class Oids(list[str]):
    """Message ids: a list whose ``repr`` says how many, and shows the first ones."""

    def __repr__(self) -> str:
        first = ", ".join(map(repr, self[:SHOWN_OIDS]))
        if len(self) <= SHOWN_OIDS:
            return f"[{first}]"
        return f"<{len(self):,} message ids: {first}, …>"

    def __str__(self) -> str:
        return repr(self)

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        printer.text(repr(self))


# --- single structs --------------------------------------------------------------------------

_HTML: dict[type, Callable[[Any], str]] = {
    Status: machine_html, Progress: progress_html, Lookup: lookup_html, RevisionDiff: diff_html,
    TrialResult: trial_html,
}  # fmt: skip
_TEXT: dict[type, Callable[[Any], str]] = {
    Status: machine_text, Progress: progress_text, Lookup: lookup_text, RevisionDiff: diff_text,
    TrialResult: trial_text,
}  # fmt: skip
_ROWS: dict[type, type[Rows[Any]]] = {
    SlotInfo: SlotInfos, ErrorRow: ErrorRows, ErrorGroup: ErrorGroups, RevisionInfo: Revisions, Event: Events,
    TrialRow: Trials,
}  # fmt: skip


@never_raises(html=True)
def html_of(struct: object) -> str:
    """Return a struct's HTML; its ``repr`` when there is no drawing for its class."""
    if draw := _HTML.get(type(struct)):
        return draw(struct)
    return _facts(struct)._repr_html_()


@never_raises()
def text_of(struct: object) -> str:
    """Return a struct's text for ``print``."""
    if draw := _TEXT.get(type(struct)):
        return draw(struct)
    traceback = printable(getattr(struct, "exc_tb", ""), TRACEBACK_LIMIT, lines=True)
    return f"{_facts(struct)}\n{traceback}".rstrip()


@never_raises()
def repr_of(struct: object) -> str:
    """Return a struct's ``repr``: its fields that say something, each cut to its beginning; ``…`` stands for others."""
    names: Sequence[str] = getattr(struct, "__struct_fields__", ())
    values = {name: getattr(struct, name) for name in names}
    plain = {name: value for name, value in values.items() if isinstance(value, _IN_REPR) and value not in (None, "")}
    fields = [f"{name}={preview(value, VALUE_IN_REPR)}" for name, value in plain.items()]
    return f"{type(struct).__name__}({', '.join([*fields, *(['…'] if len(plain) < len(values) else [])])})"


_IN_REPR = (str, int, float)


def _facts(struct: object) -> StatusTable:
    """Return a struct as a table of two columns: the columns that a list of such structs has, one per row."""
    rows = _ROWS.get(type(struct))
    if rows is None:
        return StatusTable(rows=[(preview(struct),)])
    pairs = zip(rows.headers, rows().cells(struct), strict=True)
    cells = [(name, _left(value)) for name, value in pairs if value not in (None, "")]
    return StatusTable(rows=[(name, cell) for name, cell in cells if not isinstance(cell, Cell) or cell.text])


def _left(value: object) -> object:
    """Return a left-aligned cell."""
    return Cell(value.text, value.html) if isinstance(value, Cell) else value if isinstance(value, bool) else str(value)


def _function(item: SlotInfo) -> object:
    if item.identity:
        return "(passes its value on)"
    name = item.function or "?"
    return Cell(name, collapsible(name, item.source)) if item.source else name


def gets_text(item: SlotInfo) -> str:
    """Return what a slot is given: how many values and JSON texts."""
    if item.values < 0:
        return "all values"
    texts = f" + {counted(item.texts, 'text')}" if item.texts else ""
    return f"{counted(item.values, 'value')}{texts}"


def _task(slot: int, task: str) -> str:
    return task or f"f{slot}"  # "f3 (intensity)"


def _error(exc_class: str, exc_value: str, exc_tb: str, *, resolved: bool = False) -> Cell:
    text = class_and_text(exc_class, exc_value)
    # a traceback that is too long keeps its end, which names the line that raised
    end = exc_tb if len(exc_tb) <= COLLAPSED_LIMIT else f"…{exc_tb[1 - COLLAPSED_LIMIT :]}"
    return Cell(text, collapsible(text, end) if exc_tb else None, tone="" if resolved else "bad")


# --- records ---------------------------------------------------------------------------------


@never_raises(html=True)
def record_html(record: Record, names: Sequence[str | None] = ()) -> str:
    """Return a record as an HTML table with one row per slot; tracebacks unfold on a click.

    ``names`` are the names of the slots.
    """
    return _record_table(record, names)._repr_html_()


@never_raises()
def record_text(record: Record, names: Sequence[str | None] = ()) -> str:
    """Return a record for a terminal with one line per slot, without a trailing line end."""
    return str(_record_table(record, names))


def _record_table(record: Record, names: Sequence[str | None]) -> StatusTable:
    table = StatusTable(("slot", "name", "outcome", "value"), _record_title(record), hide_empty=True)
    if record.meta.text_bytes is not None:
        table.add(("", None, "too large", f"{record.meta.text_bytes:,} bytes; record(run, seq) fetches it"))
        return table
    table.add(("in", None, "message", _value(record.input)))
    for slot, value in enumerate(record.values):
        kind = outcome_kind(value)
        name = names[slot] if slot < len(names) else None
        table.add((f"f{slot}", name, kind, _value(value) if kind == "value" else _failure(value["_exception"])))
    return table


def _record_title(record: Record) -> str:
    numbered = f"record {record.seq:,}" if record.seq else "dry run"
    parts = [numbered, f"message {record.oid}", f"revision {record.revision}"]
    parts += [f"attempt {record.attempt}"] if record.attempt > 1 else []
    parts += [f"took {duration(max(record.finished_at - record.received_at, 0.0))}"] if record.seq else []
    parts += ["dropped"] if record.meta.dropped else []
    parts += [f"{slot}: {what}" for slot, what in list((record.meta.policies or {}).items())[:8]]
    return ", ".join(parts)


def _is_carried(before: object, value: object) -> bool:
    """Tell whether a value looks like the one before it, as an unset slot leaves it. No foreign object is compared."""
    return before is value or (type(before) is type(value) and preview(before) == preview(value))


def _short(value: object, limit: int = SHORT_LIMIT) -> str:
    """Return a value for a cell that has others beside it; of a failure the class."""
    if outcome_kind(value) == "value":
        return preview(value, limit)
    assert isinstance(value, dict)
    return f"✗ {value['_exception'].get('exc_class')}"


def _value(value: object) -> Cell:
    text = preview(value, VALUE_LIMIT)
    return Cell(text, f"<code>{html_text(text, VALUE_LIMIT)}</code>")


def _failure(detail: dict[str, Any]) -> Cell:
    """Return the cell of an error or a skipped slot: class and text, and a traceback that unfolds."""
    fields = map(detail.get, ("exc_class", "exc_value", "exc_tb"))
    exc_class, exc_value, exc_tb = (field if isinstance(field, str) else preview(field) for field in fields)
    return _error(exc_class, exc_value, exc_tb if detail.get("exc_tb") else "")
