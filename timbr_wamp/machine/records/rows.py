"""The forms of a row: compact in the ring, whole for sinks and readers, and on the wire.

An unset slot carries the value before it. A compact text holds such a value once, and a *layout* says
how many positions of the record each value stands for: ``(3, 1, 5)`` is a record of nine values, three of
them computed. The empty layout: each value stands for one position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, TypeAlias, overload

import msgspec
import orjson

from timbr_wamp.contract import RecordRow
from timbr_wamp.machine.messages import Row
from timbr_wamp.machine.protocols import Plan
from timbr_wamp.values import VALUE_LIMIT_BYTES

Layout: TypeAlias = tuple[int, ...]

#: A record as it is kept: ``(seq, oid, compact text, meta, layout)``.
CompactRow: TypeAlias = tuple[int, str, bytes, bytes, Layout]

#: A record that is about to be kept: ``(seq, oid, texts of the values that were made, meta, layout)``.
NewRow: TypeAlias = tuple[int, str, Sequence[bytes], bytes, Layout]

#: Most bytes of a kept record's text, carried values counted once; see `within_limit`.
RECORD_LIMIT_BYTES = VALUE_LIMIT_BYTES

_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


def layout_of(plan: Plan) -> tuple[Layout, Callable[[Sequence[bytes]], Sequence[bytes]] | None]:
    """Return a plan's layout, and a function that picks the texts which are made of all of a record's; None: all."""
    layout = (plan.lead + 1, *(step.carry + 1 for step in plan.steps))
    if all(count == 1 for count in layout):
        return (), None
    if len(layout) == 1:
        return layout, itemgetter(slice(0, 1))
    starts = [sum(layout[:number]) for number in range(len(layout))]
    return layout, itemgetter(*starts)


def within_limit(texts: Sequence[bytes]) -> Sequence[bytes]:
    """Return values' texts, the largest replaced by their sizes until all are within `RECORD_LIMIT_BYTES`.

    The message itself, which a replay needs, is replaced last.
    """
    if sum(map(len, texts)) + len(texts) < RECORD_LIMIT_BYTES:
        return texts
    kept = list(texts)
    size = sum(map(len, kept)) + len(kept) + 1
    by_size = sorted(range(1, len(kept)), key=lambda number: len(kept[number]), reverse=True)
    for number in (*by_size, 0):
        if size <= RECORD_LIMIT_BYTES:
            break
        stands_for_it = orjson.dumps({"__type__": "text", "__too_large__": len(kept[number])})
        size += len(stands_for_it) - len(kept[number])
        kept[number] = stands_for_it
    return kept


def texts_of(text: bytes) -> list[bytes]:
    """Return the JSON texts of a record's values, exactly as they are in its text.

    >>> texts_of(b'[1,{"a":[2]},"x"]')
    [b'1', b'{"a":[2]}', b'"x"']
    """
    return [bytes(value) for value in _split(text)]


def whole_text(text: bytes, layout: Layout) -> bytes:
    """Return a compact text with every position's value.

    >>> whole_text(b'[1,{"a":2}]', (1, 2))
    b'[1,{"a":2},{"a":2}]'
    """
    if not layout:
        return text
    values = (value for value, count in zip(_split(text), layout, strict=True) for _ in range(count))
    return b"[" + b",".join(values) + b"]"


def whole_row(row: CompactRow) -> Row:
    """Return a kept row as sinks and readers get it."""
    seq, oid, text, meta, layout = row
    return seq, oid, whole_text(text, layout), meta


class WholeRows(Sequence[Row]):
    """Rows for sinks, made when the first sink looks at one. ``texts`` are each record's values.

    >>> list(WholeRows([(1, "a", (b"1",), b"{}", (3,))], [[b"1", b"1", b"1"]]))
    [(1, 'a', b'[1,1,1]', b'{}')]
    """

    def __init__(self, rows: Sequence[NewRow], texts: Sequence[Sequence[bytes]]) -> None:
        self._new, self._texts = rows, texts
        self._rows: list[Row] | None = None

    def _made(self) -> list[Row]:
        if self._rows is None:
            rows = list[Row]()
            for (seq, oid, _, meta, _), values in zip(self._new, self._texts, strict=True):
                text = b"[%b]" % b",".join(values)
                if len(text) > RECORD_LIMIT_BYTES:
                    text = b"[%b]" % b",".join(within_limit(values))
                rows.append((seq, oid, text, meta))
            self._rows = rows
        return self._rows

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        return self._made()[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._made())

    def __len__(self) -> int:
        return len(self._new)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return repr(self._made())


def wire_row(row: Row) -> RecordRow:
    """Return a row as it crosses the wire."""
    return RecordRow(row[0], row[1], row[2].decode(), row[3].decode())


def message_of(row: CompactRow) -> Any:
    """Return the message of a kept row, parsed from its JSON text."""
    return orjson.loads(bytes(_split(row[2])[0]))
