"""How the wire's structs and their lists look: HTML for notebooks, text for terminals.

The lists are lists, with a face. `contract.cards` draws status, progress and a whole machine; both
are given structs and ask nobody. Everything that came from elsewhere is escaped and bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from timbr_wamp.contract.displayable import Printer
from timbr_wamp.contract.record import Record, outcome_kind
from timbr_wamp.contract.structs import ErrorGroup, ErrorRow, Event, Progress, RevisionInfo, SlotInfo, Status
from timbr_wamp.faces.cards import (
    machine_html,
    machine_text,
    policy_text,
    progress_html,
    progress_text,
    status_html,
    status_text,
)
from timbr_wamp.faces.preview import preview
from timbr_wamp.tables import FOLDED_LIMIT, Cell, StatusTable, cleaned, duration, folded, moment, number, shown

__all__ = [
    "ErrorGroups",
    "ErrorRows",
    "Events",
    "Revisions",
    "SlotInfos",
    "html_of",
    "machine_html",
    "machine_text",
    "record_html",
    "record_text",
    "text_of",
]

#: Characters of a record's value.
VALUE_LIMIT = 300
#: Characters of the traceback of a failure that is printed alone.
TRACEBACK_LIMIT = 20_000

T = TypeVar("T")


class Rows(list[T]):
    """A list that shows as a table in notebooks, in IPython and in print; ``repr`` is the list's."""

    headers: Sequence[str] = ()
    empty = "none"

    def cells(self, item: T) -> Sequence[object]:
        """Return an item's cells, one a header."""
        return [getattr(item, header) for header in self.headers]

    def table(self) -> StatusTable:
        """Return the table."""
        return StatusTable(self.headers, rows=map(self.cells, self), empty=self.empty, hide_empty=True)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def __str__(self) -> str:
        return str(self.table())

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        printer.text(str(self))


class SlotInfos(Rows[SlotInfo]):
    """The slots of the newest revision."""

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
        """Return one slot's cells."""
        counts = item.counts
        return (
            f"f{item.slot}",
            item.name,
            _function(item),
            None if item.identity else item.kind,
            None if item.identity else _gets(item),
            item.policy and policy_text(item.policy),
            item.revision or None,
            item.author,
            number(counts.calls if counts else None),
            number(counts.errors if counts else None),
            Cell(duration(counts.p50_s if counts else None), right=True),
            Cell(duration(counts.p99_s if counts else None), right=True),
        )


class ErrorRows(Rows[ErrorRow]):
    """Failures of slots, oldest first."""

    headers = (
        "record", "time", "slot", "error", "where", "message", "message id", "attempt", "tries", "policy", "resolved",
    )  # fmt: skip
    empty = "no slot has failed"

    def cells(self, item: ErrorRow) -> Sequence[object]:
        """Return one failure's cells."""
        return (
            item.seq or None,
            moment(item.time),
            _task(item.slot, item.task),
            _error(item.exc_class, item.exc_value, item.exc_tb),
            item.where,
            item.input,
            item.oid,
            item.attempt,
            item.tries,
            item.policy,
            item.resolved,
        )


class ErrorGroups(Rows[ErrorGroup]):
    """Failures by kind: same slot, same exception class, same line."""

    headers = ("slot", "error", "where", "count", "per minute", "open", "last", "last message", "policies", "resolved")
    empty = "no slot has failed"

    def cells(self, item: ErrorGroup) -> Sequence[object]:
        """Return one group's cells."""
        return (
            _task(item.slot, item.task),
            _error(item.exc_class, item.exc_value, item.exc_tb),
            item.where,
            number(item.count),
            Cell(f"{item.rate_per_min:.1f}", right=True),
            number(item.open),
            moment(item.last_time),
            item.input,
            ", ".join(f"{name} {count:,}" for name, count in item.policies.items()),
            item.resolved,
        )


class Revisions(Rows[RevisionInfo]):
    """The kept revisions of the slot table, oldest first."""

    headers = ("number", "time", "by", "change", "functions")

    def cells(self, item: RevisionInfo) -> Sequence[object]:
        """Return one revision's cells."""
        functions = ", ".join(name or "·" for name in item.functions)
        return (item.number, moment(item.time), item.author, item.change, functions)


class Events(Rows[Event]):
    """What changed a machine's state, oldest first."""

    headers = ("number", "time", "event", "by", "data")
    empty = "nothing has happened yet"

    def cells(self, item: Event) -> Sequence[object]:
        """Return one event's cells."""
        data = ", ".join(f"{name}: {preview(value, 80)}" for name, value in list(item.data.items())[:12])
        return (item.number, moment(item.time), item.kind, item.author, data)


# --- single structs --------------------------------------------------------------------------

_HTML: dict[type, Callable[[Any], str]] = {Status: status_html, Progress: progress_html}
_TEXT: dict[type, Callable[[Any], str]] = {Status: status_text, Progress: progress_text}
_ROWS: dict[type, type[Rows[Any]]] = {
    SlotInfo: SlotInfos, ErrorRow: ErrorRows, ErrorGroup: ErrorGroups, RevisionInfo: Revisions, Event: Events,
}  # fmt: skip


def html_of(struct: object) -> str:
    """Return a struct's HTML; of one that has no face of its own, its ``repr``."""
    if draw := _HTML.get(type(struct)):
        return draw(struct)
    return _facts(struct)._repr_html_()


def text_of(struct: object) -> str:
    """Return a struct's text for ``print``."""
    if draw := _TEXT.get(type(struct)):
        return draw(struct)
    traceback = cleaned(getattr(struct, "exc_tb", ""), TRACEBACK_LIMIT, lines=True)
    return f"{_facts(struct)}\n{traceback}".rstrip()


def _facts(struct: object) -> StatusTable:
    """Return a struct as a table of two columns: what its list shows, each on a line."""
    rows = _ROWS.get(type(struct))
    if rows is None:
        return StatusTable(rows=[(preview(struct),)])
    pairs = zip(rows.headers, rows().cells(struct), strict=True)
    cells = [(name, _left(value)) for name, value in pairs if value not in (None, "")]
    return StatusTable(rows=[(name, cell) for name, cell in cells if not isinstance(cell, Cell) or cell.text])


def _left(value: object) -> object:
    """Return a cell that stands at the left, among texts."""
    return Cell(value.text, value.html) if isinstance(value, Cell) else value if isinstance(value, bool) else str(value)


def _function(item: SlotInfo) -> object:
    if item.identity:
        return "(carries the value)"
    name = item.function or "?"
    return Cell(name, folded(name, item.source)) if item.source else name


def _gets(item: SlotInfo) -> str:
    if item.values < 0:
        return "all values"
    texts = f" + {item.texts} texts" if item.texts else ""
    return f"{item.values} value{'' if item.values == 1 else 's'}{texts}"


def _task(slot: int, task: str) -> str:
    return f"f{slot}" if task in ("", f"f{slot}") else f"f{slot} {task}"


def _error(exc_class: str, exc_value: str, exc_tb: str) -> Cell:
    text = f"{exc_class}: {exc_value}" if exc_value else exc_class
    end = exc_tb if len(exc_tb) <= FOLDED_LIMIT else f"…{exc_tb[1 - FOLDED_LIMIT :]}"  # its end says most
    return Cell(text, folded(text, end)) if exc_tb else Cell(text)


# --- records ---------------------------------------------------------------------------------


def record_html(record: Record, names: Sequence[str | None] = ()) -> str:
    """Return a record as a table, one row a slot; tracebacks open on a click. ``names`` are the slots'."""
    return _record_table(record, names)._repr_html_()


def record_text(record: Record, names: Sequence[str | None] = ()) -> str:
    """Return a record for a terminal, one line a slot, without a line end."""
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


def _value(value: object) -> Cell:
    text = preview(value, VALUE_LIMIT)
    return Cell(text, f"<code>{shown(text, VALUE_LIMIT)}</code>")


def _failure(detail: dict[str, Any]) -> Cell:
    """Return the cell of an outcome that is an error or a skip: its class and text, the traceback folded."""
    said = [
        one if isinstance(one, str) else preview(one) for one in map(detail.get, ("exc_class", "exc_value", "exc_tb"))
    ]
    exc_class, exc_value, exc_tb = said
    return _error(exc_class, exc_value, exc_tb if detail.get("exc_tb") else "")
