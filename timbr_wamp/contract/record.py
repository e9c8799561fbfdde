"""`Record`: the result of one attempt at a message. Records are created on access, not for each message."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal, SupportsIndex, TypeVar, overload

import msgspec
import orjson

from timbr_wamp.contract.displayable import Printer, render
from timbr_wamp.contract.structs import CallResult, RecordMeta, RecordRow, RecordsBatch
from timbr_wamp.errors import RecordTooLarge, class_and_text
from timbr_wamp.rows.tabular import ColumnType, Grid, Tabular
from timbr_wamp.values import parse_json

T = TypeVar("T")


class _TextRow(msgspec.Struct, array_like=True):
    """A row whose values are only split."""

    seq: int
    oid: str
    values: list[msgspec.Raw] | None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.seq, self.oid, self.values))


_decode_meta = msgspec.json.Decoder(RecordMeta).decode
_decode_rows = msgspec.json.Decoder(list[tuple[int, str, msgspec.Raw, msgspec.Raw]]).decode
_decode_values = msgspec.json.Decoder(list[Any] | None).decode
_split_rows = msgspec.json.Decoder(list[_TextRow]).decode


def _values_of(text: msgspec.Raw) -> list[Any] | None:
    values: list[Any] | None
    try:
        values = _decode_values(text)
    except msgspec.DecodeError:  # a number that no float can hold
        values = parse_json(bytes(text))
    return values


OutcomeKind = Literal["value", "error", "skipped"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one slot in a record."""

    kind: OutcomeKind
    #: The slot's value; for an error or a skipped slot the mapping ``{"_exception": {…}}``.
    value: Any


class SlotNames:
    """The names of a machine's slots, as records that were read together know them. Any thread."""

    __slots__ = ("names",)

    def __init__(self, names: Iterable[str | None] = ()) -> None:
        #: By slot number; None for a slot without a name. Replaced whole when slots are renamed.
        self.names: tuple[str | None, ...] = tuple(names)

    def columns(self, count: int) -> tuple[str, ...]:
        """Return the names of ``count`` slots' columns: the slot's name, else ``f0``, ``f1`` …

        >>> SlotNames([None, "clean", "seq"]).columns(4)
        ('f0', 'clean', 'f2', 'f3')
        """
        names = self.names
        named = (names[slot] if slot < len(names) else None for slot in range(count))
        return tuple(
            f"f{slot}" if not name or name in _RECORD_COLUMNS or _TEXT_COLUMN.fullmatch(name) else name
            for slot, name in enumerate(named)
        )


#: Columns of a table of records that follow the values, and their types.
_RECORD_TYPES: dict[str, ColumnType] = {
    "seq": "int", "run": "text", "attempt": "int", "revision": "int", "received_at": "time", "finished_at": "time",
    "errored": "bool", "dropped": "bool", "error": "text",
}  # fmt: skip
_RECORD_COLUMNS = frozenset({"oid", "in", *_RECORD_TYPES})
#: A record's JSON texts are named like this, and no slot's column is.
_TEXT_COLUMN = re.compile(r"(oid|in|f[0-9]+)_s")
_NO_NAMES = SlotNames()


class Record(Tabular, Sequence[Any]):
    """The result of one attempt at a message, as the sequence ``(oid, in, f0, f1, …)``; it equals that tuple.

    With ``include_serialized`` the texts follow: ``(oid, in, f0, …, oid_s, in_s, f0_s, …)``; the oid's own
    is the oid, the others are JSON. `_fields` and `_asdict` are those of a named tuple, with the slots' names.

    A record that came over the wire is parsed when it is first looked at, its ``meta`` apart. Until then it keeps
    the text of its batch, at most 256 KB, in memory. Any thread.

    One whose text was too large to be sent has ``meta.text_bytes``, its oid and what `meta` says. It equals itself
    alone, and whatever else is asked of it raises `RecordTooLarge`; `RemoteMachine.record` fetches it whole.
    """

    __slots__ = ("_items", "_meta", "_names", "_oid", "_unparsed", "_whole", "_width")

    _oid: str
    #: None while it is not parsed, and when it came without text.
    _items: tuple[Any, ...] | None
    _meta: RecordMeta | msgspec.Raw
    #: Of a record that is not parsed: its values as they were made, and what repeats those of unset slots.
    _unparsed: msgspec.Raw | None
    _whole: Callable[[Sequence[Any]], Sequence[Any]] | None
    _width: int
    _names: SlotNames

    @classmethod
    def make(
        cls,
        oid: str,
        values: Sequence[Any],
        meta: RecordMeta,
        texts: list[str] | None = None,
        names: SlotNames = _NO_NAMES,
    ) -> Record:
        """Return a record of ``values`` = ``[in, f0, …]``; without any when ``meta`` has the size of their text."""
        record = cls()
        record._oid, record._meta, record._width, record._names = oid, meta, len(values), names
        without = meta.text_bytes is not None and not values
        record._items = None if without else (oid, *values, *((oid, *texts) if texts else ()))
        record._unparsed = record._whole = None
        return record

    @classmethod
    def unparsed(
        cls,
        oid: str,
        values: msgspec.Raw,
        meta: msgspec.Raw,
        whole: Callable[[Sequence[Any]], Sequence[Any]],
        names: SlotNames = _NO_NAMES,
    ) -> Record:
        """Return a record of JSON texts; ``whole`` repeats the values that unset slots carry."""
        record = cls()
        record._items, record._oid, record._meta, record._unparsed, record._whole = None, oid, meta, values, whole
        record._names = names
        return record

    def _all(self) -> tuple[Any, ...]:
        items = self._items
        if items is None:
            text, whole = self._unparsed, self._whole
            if text is None or whole is None:
                if (items := self._items) is not None:  # another thread has parsed it meanwhile
                    return items
                raise self._too_large()
            made = _values_of(text)
            if made is None:
                self._unparsed = self._whole = None
                raise self._too_large()
            values = whole(made)
            self._width = len(values)
            self._items = items = (self._oid, *values)
            self._unparsed = self._whole = None
        return items

    def _too_large(self) -> RecordTooLarge:
        return RecordTooLarge(self.run, self.seq, self.meta.text_bytes or 0)

    def _known(self) -> tuple[Any, ...]:
        """Return what makes it equal to another one: its items, or what names it when it came without."""
        try:
            return self._all()
        except RecordTooLarge:
            return RecordTooLarge, self._oid, self.run, self.seq

    @overload
    def __getitem__(self, index: SupportsIndex) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        return self._all()[index]

    def __len__(self) -> int:
        return len(self._all())

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(self._all())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Record):
            return self._known() == other._known()
        return self._known() == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._known())

    def __add__(self, other: tuple[Any, ...]) -> tuple[Any, ...]:
        return self._all() + tuple(other)

    def __radd__(self, other: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(other) + self._all()

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            return Record._of_items, (self._all(), self.meta, self._width, self._names.names)
        except RecordTooLarge:
            return Record.make, (self._oid, (), self.meta)

    @classmethod
    def _of_items(
        cls, items: tuple[Any, ...], meta: RecordMeta, width: int, names: tuple[str | None, ...] = ()
    ) -> Record:
        record = cls.make(items[0], items[1 : width + 1], meta, names=SlotNames(names))
        record._items = items
        return record

    @property
    def slot_names(self) -> tuple[str | None, ...]:
        """Names of the machine's slots when the records were read; empty when they are not known."""
        return self._names.names

    @property
    def _fields(self) -> tuple[str, ...]:
        """``("oid", "in", "f0", …)`` as of a named tuple, with the names of slots that have one."""
        items, width = self._all(), self._width
        fields = ("oid", "in", *self._names.columns(width - 1)) if width else ("oid",)
        texts = ("oid_s", "in_s", *(f"f{slot}_s" for slot in range(width - 1))) if len(items) > width + 1 else ()
        return fields + texts

    def _asdict(self) -> dict[str, Any]:
        """Return the items by the names of `_fields`."""
        return dict(zip(self._fields, self._all(), strict=True))

    def _grid(self) -> Grid:
        return records_grid([self])

    @property
    def meta(self) -> RecordMeta:
        """What the record's third frame says, such as run, number, attempt, revision, times, policies."""
        meta = self._meta
        if not isinstance(meta, RecordMeta):
            meta = self._meta = _decode_meta(meta)
        return meta

    @property
    def oid(self) -> str:
        """The message's id."""
        return self._oid

    @property
    def input(self) -> Any:
        """The message."""
        return self[1]

    @property
    def values(self) -> tuple[Any, ...]:
        """``(f0, f1, …)``."""
        return self._all()[2 : 1 + self._width]

    @property
    def texts(self) -> tuple[str, ...]:
        """``(in_s, f0_s, …)`` when ``include_serialized`` was given, else empty."""
        return self._all()[2 + self._width :]

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """One `Outcome` per slot."""
        return tuple(Outcome(outcome_kind(value), value) for value in self.values)

    @property
    def run(self) -> str:
        """Id of the run; run and `seq` identify the record."""
        return self.meta.run

    @property
    def seq(self) -> int:
        """Number within the run, from 1; 0 for a record of ``m(x)``, which is not numbered."""
        return self.meta.seq

    @property
    def attempt(self) -> int:
        """1 for a message's first attempt."""
        return self.meta.attempt

    @property
    def revision(self) -> int:
        """Revision number of the slot table that processed the message."""
        return self.meta.revision

    @property
    def received_at(self) -> float:
        """UTC seconds when the message was put or read."""
        return self.meta.received_at

    @property
    def finished_at(self) -> float:
        """UTC seconds when the last slot finished."""
        return self.meta.finished_at

    @property
    def errored(self) -> bool:
        """At least one slot raised."""
        return self.meta.errored

    def __repr__(self) -> str:
        try:
            return f"Record{self._all()!r}"
        except RecordTooLarge as error:
            return f"<Record {self._oid} without its {error.size_bytes:,} bytes of values>"

    def __str__(self) -> str:
        return render("record_text", self)

    def _repr_html_(self) -> str:
        return render("record_html", self)

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        printer.text(str(self))  # IPython shows the table; repr() stays the tuple's


def outcome_kind(value: Any) -> OutcomeKind:
    """Return whether a slot's value is a plain value, an error or a skipped slot, by its shape."""
    if isinstance(value, dict) and len(value) == 1 and isinstance(detail := value.get("_exception"), dict):
        return "skipped" if detail.get("exc_class") == "UpstreamError" else "error"
    return "value"


def records_grid(records: Sequence[Record]) -> Grid:
    """Return a table of records: the items, as many as the widest record has, and then what ``meta`` says.

    What failed or was skipped has no value; the column ``error`` tells why.
    """
    whole = [_items_of(record) for record in records]
    slots = max((len(values) - 1 for values in whole), default=0)
    labels = next((record._names for record in reversed(records) if record.slot_names), _NO_NAMES).columns(
        max(slots, 0)
    )
    return Grid(
        ("oid", "in", *labels, *_RECORD_TYPES),
        [_cells(record, values, labels) for record, values in zip(records, whole, strict=True)],
        {"oid": "text", **_RECORD_TYPES},
    )


def _items_of(record: Record) -> tuple[Any, ...]:
    """Return ``(in, f0, …)``; empty for a record that was too large to be sent."""
    try:
        return (record.input, *record.values)
    except RecordTooLarge:
        return ()


def _cells(record: Record, values: tuple[Any, ...], labels: Sequence[str]) -> tuple[Any, ...]:
    meta = record.meta
    told, before = [], None
    for label, value in zip(labels, values[1:], strict=False):
        if outcome_kind(value) == "error" and (detail := value["_exception"]) != before:  # an unset slot carries it
            before = detail
            text = class_and_text(str(detail.get("exc_class")), str(detail.get("exc_value") or ""))
            told.append(f"{label}: {text}")
    if not values:
        told.append(f"{meta.text_bytes:,} bytes are too large to be sent; record(run, seq) fetches them")
    shown = [*values[:1], *(value if outcome_kind(value) == "value" else None for value in values[1:])]
    return (
        record.oid, *shown, *[None] * (len(labels) + 1 - len(shown)), meta.seq, meta.run, meta.attempt, meta.revision,
        meta.received_at, meta.finished_at, meta.errored, meta.dropped, "; ".join(told) or None,
    )  # fmt: skip


def record_from_row(row: RecordRow, *, include_serialized: bool = False, names: SlotNames = _NO_NAMES) -> Record:
    """Return the record of a wire row; see `Record` for one without text."""
    meta = _decode_meta(row.meta)
    if row.text is None:
        return Record.make(row.oid, [], meta, names=names)
    meta.text_bytes = None  # it came apart
    values = parse_json(row.text)
    texts = [orjson.dumps(value).decode() for value in values] if include_serialized else None
    return Record.make(row.oid, values, meta, texts, names)


def records_from_batch(batch: RecordsBatch, names: SlotNames = _NO_NAMES) -> list[Record]:
    """Return all records of a batch, not parsed yet; see `Record` for one without text."""
    whole, unparsed = _whole(batch.layout), Record.unparsed
    return [unparsed(oid, values, meta, whole, names) for _, oid, values, meta in _decode_rows(batch.block)]


def texts_from_batch(batch: RecordsBatch) -> list[tuple[int, str, bytes | None]]:
    """Return ``(seq, oid, JSON text [in, f0, …])`` of all records of a batch; None for one that was too large."""
    whole = _whole(batch.layout)
    return [
        (seq, oid, None if values is None else b"[%b]" % b",".join(whole(values)))
        for seq, oid, values in _split_rows(batch.block)
    ]


def _whole(layout: Sequence[int]) -> Callable[[Sequence[T]], Sequence[T]]:
    """Return a function that repeats the values of a row as its layout says.

    >>> _whole([1, 2])(["a", "b"])
    ('a', 'b', 'b')
    """
    positions = [number for number, count in enumerate(layout) for _ in range(count)]
    if len(positions) < 2:
        return lambda values: values
    return itemgetter(*positions)


def record_from_call(
    result: CallResult, now: float, *, include_serialized: bool = False, names: SlotNames = _NO_NAMES
) -> Record:
    """Return the record of a remote ``m(x)``."""
    meta = RecordMeta(
        run="", seq=0, attempt=0, revision=result.revision, received_at=now, finished_at=now, errored=result.errored
    )
    values = parse_json(result.text)
    texts = [orjson.dumps(value).decode() for value in values] if include_serialized else None
    return Record.make(result.oid, values, meta, texts, names)
