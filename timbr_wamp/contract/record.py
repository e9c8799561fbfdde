"""`Record`: the result of one attempt at a message. Records are created on access, not for each message."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal, SupportsIndex, TypeVar, overload

import msgspec
import orjson

from timbr_wamp.contract.displayable import Printer, render
from timbr_wamp.contract.structs import CallResult, RecordMeta, RecordRow, RecordsBatch
from timbr_wamp.errors import RecordTooLarge

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

OutcomeKind = Literal["value", "error", "skipped"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one slot in a record."""

    kind: OutcomeKind
    #: The slot's value; for an error or a skipped slot the mapping ``{"_exception": {…}}``.
    value: Any


class Record(Sequence[Any]):
    """The result of one attempt at a message, as the sequence ``(oid, in, f0, f1, …)``; it equals that tuple.

    With ``include_serialized`` the texts follow: ``(oid, in, f0, …, oid_s, in_s, f0_s, …)``; the oid's own
    is the oid, the others are JSON.

    A record that came over the wire is parsed when it is first looked at, its ``meta`` apart. Until then it keeps
    the text of its batch, at most 256 KB, in memory. Any thread.

    One whose text was too large to be sent has ``meta.text_bytes``, its oid and what `meta` says. It equals itself
    alone, and whatever else is asked of it raises `RecordTooLarge`; `RemoteMachine.record` fetches it whole.
    """

    __slots__ = ("_items", "_meta", "_oid", "_unparsed", "_whole", "_width")

    _oid: str
    #: None while it is not parsed, and when it came without text.
    _items: tuple[Any, ...] | None
    _meta: RecordMeta | msgspec.Raw
    #: Of a record that is not parsed: its values as they were made, and what repeats those of unset slots.
    _unparsed: msgspec.Raw | None
    _whole: Callable[[Sequence[Any]], Sequence[Any]] | None
    _width: int

    @classmethod
    def make(cls, oid: str, values: Sequence[Any], meta: RecordMeta, texts: list[str] | None = None) -> Record:
        """Return a record of ``values`` = ``[in, f0, …]``; without any when ``meta`` has the size of their text."""
        record = cls()
        record._oid, record._meta, record._width = oid, meta, len(values)
        without = meta.text_bytes is not None and not values
        record._items = None if without else (oid, *values, *((oid, *texts) if texts else ()))
        record._unparsed = record._whole = None
        return record

    @classmethod
    def unparsed(
        cls, oid: str, values: msgspec.Raw, meta: msgspec.Raw, whole: Callable[[Sequence[Any]], Sequence[Any]]
    ) -> Record:
        """Return a record of JSON texts; ``whole`` repeats the values that unset slots carry."""
        record = cls()
        record._items, record._oid, record._meta, record._unparsed, record._whole = None, oid, meta, values, whole
        return record

    def _all(self) -> tuple[Any, ...]:
        items = self._items
        if items is None:
            text, whole = self._unparsed, self._whole
            if text is None or whole is None:
                if (items := self._items) is not None:  # another thread has parsed it meanwhile
                    return items
                raise self._too_large()
            made = _decode_values(text)
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
            return Record._of_items, (self._all(), self.meta, self._width)
        except RecordTooLarge:
            return Record.make, (self._oid, (), self.meta)

    @classmethod
    def _of_items(cls, items: tuple[Any, ...], meta: RecordMeta, width: int) -> Record:
        record = cls.make(items[0], items[1 : width + 1], meta)
        record._items = items
        return record

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


def record_from_row(row: RecordRow, *, include_serialized: bool = False) -> Record:
    """Return the record of a wire row; see `Record` for one without text."""
    meta = _decode_meta(row.meta)
    if row.text is None:
        return Record.make(row.oid, [], meta)
    meta.text_bytes = None  # it came apart
    values = orjson.loads(row.text)
    texts = [orjson.dumps(value).decode() for value in values] if include_serialized else None
    return Record.make(row.oid, values, meta, texts)


def records_from_batch(batch: RecordsBatch) -> list[Record]:
    """Return all records of a batch, not parsed yet; see `Record` for one without text."""
    whole, unparsed = _whole(batch.layout), Record.unparsed
    return [unparsed(oid, values, meta, whole) for _, oid, values, meta in _decode_rows(batch.block)]


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


def record_from_call(result: CallResult, now: float, *, include_serialized: bool = False) -> Record:
    """Return the record of a remote ``m(x)``."""
    meta = RecordMeta(
        run="", seq=0, attempt=0, revision=result.revision, received_at=now, finished_at=now, errored=result.errored
    )
    values = orjson.loads(result.text)
    texts = [orjson.dumps(value).decode() for value in values] if include_serialized else None
    return Record.make(result.oid, values, meta, texts)
