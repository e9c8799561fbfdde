"""The forms of a row: compact in the ring, whole for sinks and readers, and on the wire.

An unset slot carries the value before it. A compact text holds such a value once, and a *layout* says
how many positions of the record each value stands for: ``(3, 1, 5)`` is a record of nine values, three of
them computed. The empty layout: each value stands for one position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeAlias, overload

import msgspec
import orjson

from timbr_wamp.contract import RecordRow
from timbr_wamp.machine.messages import Row
from timbr_wamp.machine.protocols import Plan
from timbr_wamp.machine.raw import Raw
from timbr_wamp.values import VALUE_LIMIT_BYTES

Layout: TypeAlias = tuple[int, ...]

#: A record as it is kept: ``(seq, oid, compact text, meta, layout)``.
CompactRow: TypeAlias = tuple[int, str, bytes, bytes, Layout]


@dataclass(slots=True)
class Block:
    """Consecutive records of one layout, as columns. The parts of all lie one behind the other."""

    first_seq: int
    oids: Sequence[str]
    #: For each record the texts of the values that were made, then its meta.
    parts: list[bytes]
    #: Their lengths.
    lengths: list[int]
    layout: Layout
    metas: Sequence[bytes]
    #: For each record the texts of all its values, for sinks.
    texts: Sequence[Sequence[bytes]]

    def __len__(self) -> int:
        return len(self.oids)

    @property
    def width(self) -> int:
        """Parts of each record."""
        return len(self.parts) // len(self.oids)

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(self.lengths)

    def one_by_one(self) -> Iterator[Block]:
        """Yield blocks of one record each."""
        width = self.width
        for n, oid in enumerate(self.oids):
            of_it, row = slice(n * width, (n + 1) * width), slice(n, n + 1)
            parts, lengths = self.parts[of_it], self.lengths[of_it]
            yield Block(self.first_seq + n, [oid], parts, lengths, self.layout, self.metas[row], self.texts[row])

    def rows(self) -> Iterator[Row]:
        """Return the records as sinks get them; their texts are within `RECORD_LIMIT_BYTES`."""
        texts: Iterator[bytes] = map(_in_brackets, map(_with_commas, self.texts))
        if self.size > RECORD_LIMIT_BYTES // (len(self.texts[0]) or 1):  # one of them may be too large
            texts = (_in_brackets(_with_commas(within_limit(values))) for values in self.texts)
        return zip(range(self.first_seq, self.first_seq + len(self)), self.oids, texts, self.metas, strict=False)


#: Most bytes of a kept record's text, carried values counted once; see `within_limit`.
RECORD_LIMIT_BYTES = VALUE_LIMIT_BYTES

_with_commas, _in_brackets = b",".join, b"[%b]".__mod__
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


def layout_of(plan: Plan) -> tuple[Layout, Callable[[Sequence[bytes]], tuple[bytes, ...]]]:
    """Return a plan's layout, and a function that picks the texts which are made of all of a record's."""
    layout = (plan.lead + 1, *(step.carry + 1 for step in plan.steps))
    if all(count == 1 for count in layout):
        return (), tuple
    if len(layout) == 1:
        return layout, lambda texts: (texts[0],)
    starts = [sum(layout[:number]) for number in range(len(layout))]
    return layout, itemgetter(*starts)


def within_limit(texts: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return values' texts, the largest replaced by their sizes until all are within `RECORD_LIMIT_BYTES`.

    The message itself, which a replay needs, is replaced last.
    """
    if sum(map(len, texts)) + len(texts) < RECORD_LIMIT_BYTES:
        return tuple(texts)
    kept = list(texts)
    size = sum(map(len, kept)) + len(kept) + 1
    by_size = sorted(range(1, len(kept)), key=lambda number: len(kept[number]), reverse=True)
    for number in (*by_size, 0):
        if size <= RECORD_LIMIT_BYTES:
            break
        stands_for_it = orjson.dumps({"__type__": "text", "__too_large__": len(kept[number])})
        size += len(stands_for_it) - len(kept[number])
        kept[number] = stands_for_it
    return tuple(kept)


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


def block_of(row: CompactRow) -> Block:
    """Return a kept record as a block of its own."""
    seq, oid, text, meta, layout = row
    parts = [*texts_of(text), meta]
    return Block(seq, [oid], parts, list(map(len, parts)), layout, [meta], [parts[:-1]])


class WholeRows(Sequence[Row]):
    """The rows of blocks for sinks, made when the first sink looks at one."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = blocks
        self._length = sum(map(len, blocks))
        self._rows: list[Row] | None = None

    def _made(self) -> list[Row]:
        if self._rows is None:
            self._rows = [row for block in self.blocks for row in block.rows()]
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
        return self._length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return repr(self._made())


def wire_row(row: Row) -> RecordRow:
    """Return a row as it crosses the wire."""
    return RecordRow(row[0], row[1], row[2].decode(), row[3].decode())


def message_of(row: CompactRow) -> Any:
    """Return the message of a kept row, parsed from its JSON text; one that cannot be, as it was: `Raw`."""
    text = bytes(_split(row[2])[0])
    try:
        return orjson.loads(text)
    except ValueError:
        return Raw(text)
