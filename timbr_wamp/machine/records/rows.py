"""Rows in their forms: compact as they are kept, whole for sinks and readers, and as they cross the wire.

A slot that is not set carries the value before it. A compact text holds such a value once, and a *layout* says
how many positions of the record each value stands for: ``(3, 1, 5)`` is a record of nine values, three of
them made. The empty layout: each value stands for one position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, TypeAlias

import msgspec
import orjson

from timbr_wamp.contract import RecordRow
from timbr_wamp.machine.messages import Row
from timbr_wamp.machine.protocols import Plan
from timbr_wamp.values import VALUE_LIMIT_BYTES

Layout: TypeAlias = tuple[int, ...]

#: A record as it is kept: ``(seq, oid, compact text, meta, layout)``.
CompactRow: TypeAlias = tuple[int, str, bytes, bytes, Layout]

#: A record's text is kept up to so many bytes, values that are carried counted once; see `shortened`.
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


def joined(texts: Sequence[bytes]) -> bytes:
    """Return values' texts as one JSON text, within `RECORD_LIMIT_BYTES`."""
    if len(texts[0]) + len(texts[-1]) <= RECORD_LIMIT_BYTES:  # else not even joined
        text = b"[" + b",".join(texts) + b"]"
        if len(text) <= RECORD_LIMIT_BYTES:
            return text
    return shortened(texts)


def shortened(texts: Sequence[bytes]) -> bytes:
    """Return a record's text with its largest values replaced by their sizes, until it is within the limit.

    The message itself, which a replay needs, is replaced last.
    """
    kept = list(texts)
    size = sum(map(len, kept)) + len(kept) + 1
    by_size = sorted(range(1, len(kept)), key=lambda number: len(kept[number]), reverse=True)
    for number in (*by_size, 0):
        if size <= RECORD_LIMIT_BYTES:
            break
        stands_for_it = orjson.dumps({"__type__": "text", "__too_large__": len(kept[number])})
        size += len(stands_for_it) - len(kept[number])
        kept[number] = stands_for_it
    return b"[" + b",".join(kept) + b"]"


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


def whole_rows(rows: Sequence[CompactRow], texts: Sequence[Sequence[bytes]]) -> list[Row]:
    """Return rows for sinks; ``texts`` are each record's values. Texts are within `RECORD_LIMIT_BYTES`.

    >>> whole_rows([(1, "a", b"[1]", b"{}", (3,))], [[b"1", b"1", b"1"]])
    [(1, 'a', b'[1,1,1]', b'{}')]
    """
    whole: list[Row] = []
    for (seq, oid, text, meta, layout), values in zip(rows, texts, strict=True):
        whole.append((seq, oid, joined(values) if layout else text, meta))
    return whole


def wire_row(row: Row) -> RecordRow:
    """Return a row as it crosses the wire."""
    return RecordRow(row[0], row[1], row[2].decode(), row[3].decode())


def message_of(row: CompactRow) -> Any:
    """Return the message that a kept row is of, as its JSON text tells it."""
    return orjson.loads(bytes(_split(row[2])[0]))
