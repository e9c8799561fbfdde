"""Records as the JSON texts that readers get: ``[[seq, oid, values, meta], …]``, for consecutive records of one layout.

A carried value is written once. A row whose values are too large has null in their place and their size in its meta.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, repeat
from operator import itemgetter, mul

import orjson

from timbr_wamp.contract import ROW_LIMIT_BYTES, RecordsBatch
from timbr_wamp.machine.records.rows import Block, CompactRow, Layout, texts_of

#: A text is cut before a row with which it would be longer, unless that is its first row.
BATCH_BYTES = 256 * 1024

_LAYOUT = itemgetter(4)


@dataclass(slots=True)
class BatchText:
    """Consecutive records as one text."""

    first_seq: int
    last_seq: int
    count: int
    layout: Layout
    text: bytes


def batch_texts(block: Block) -> Iterator[BatchText]:
    """Return all records of a block; several texts if one would be too large."""
    if block.size <= BATCH_BYTES:
        last_seq = block.first_seq + len(block) - 1
        return iter((BatchText(block.first_seq, last_seq, len(block), block.layout, _whole_block(block)),))
    rows = ((block.first_seq + number, _bounded_row(block, number)) for number in range(len(block)))
    return (BatchText(first, last, n, block.layout, text) for first, last, n, text in _texts_within(rows))


def sample_text(block: Block, positions: range) -> BatchText:
    """Return some of a block's records by their positions in it, as many as fit `BATCH_BYTES`, at least one."""
    texts: list[bytes] = []
    size = 0
    for number in positions:
        text = _bounded_row(block, number)
        size += len(text)
        if texts and size > BATCH_BYTES:
            break
        texts.append(text)
    first, last = (block.first_seq + number for number in (positions[0], positions[len(texts) - 1]))
    return BatchText(first, last, len(texts), block.layout, b"[%b]" % b",".join(texts))


def page(run: str, rows: Sequence[CompactRow], limit_bytes: int) -> list[RecordsBatch]:
    """Return the first of kept consecutive rows that fit ``limit_bytes`` together, at least one if there is any."""
    batches: list[RecordsBatch] = []
    left = limit_bytes
    for layout, same in groupby(rows, _LAYOUT):
        several = list(same)
        texts: list[bytes] = []
        for row in several:
            text = _kept_row(row)
            left -= len(text) + 1
            if left < 0 and (texts or batches):
                break
            texts.append(text)
        if texts:
            first, last = several[0][0], several[len(texts) - 1][0]
            block = b"[%b]" % b",".join(texts)
            batches.append(
                RecordsBatch(
                    run=run, first_seq=first, last_seq=last, count=len(texts), layout=list(layout), block=block.decode()
                )
            )
        if len(texts) < len(several):
            break
    return batches


def _whole_block(block: Block) -> bytes:
    """Return the text of all rows, joined in C."""
    parts, width = block.parts, block.width
    numbers = orjson.dumps([*range(block.first_seq, block.first_seq + len(block))])[1:-1].split(b",")
    oids = "\n".join(block.oids).encode().split(b"\n")
    columns: list[Iterable[bytes]] = [repeat(b"],["), numbers, repeat(b',"'), oids, repeat(b'",['), parts[::width]]
    for column in range(1, width - 1):
        columns += (repeat(b","), parts[column::width])
    columns += (repeat(b"],"), parts[width - 1 :: width])
    pieces = chain.from_iterable(zip(*columns, strict=False))
    next(pieces)  # no row before the first
    return b"".join(chain((b"[[",), pieces, (b"]]",)))


def _bounded_row(block: Block, number: int) -> bytes:
    """Return the text of one row of a block."""
    width = block.width
    *values, meta = block.parts[number * width : (number + 1) * width]
    text = b",".join(values)
    if len(text) > ROW_LIMIT_BYTES:
        return _row_without_values(block.first_seq + number, block.oids[number], values, block.layout, meta)
    return _row(block.first_seq + number, block.oids[number], b"[%b]" % text, meta)


def _kept_row(row: CompactRow) -> bytes:
    seq, oid, text, meta, layout = row
    if len(text) > ROW_LIMIT_BYTES:
        return _row_without_values(seq, oid, texts_of(text), layout, meta)
    return _row(seq, oid, text, meta)


def _row(seq: int, oid: str, text: bytes, meta: bytes) -> bytes:
    return b'[%d,"%b",%b,%b]' % (seq, oid.encode(), text, meta)


def _row_without_values(seq: int, oid: str, values: Sequence[bytes], layout: Layout, meta: bytes) -> bytes:
    sizes = [len(value) + 1 for value in values]  # with the comma or bracket before it
    whole = sum(map(mul, sizes, layout or repeat(1))) + 1
    return _row(seq, oid, b"null", b'%b,"text_bytes":%d}' % (meta[:-1], whole))


def _texts_within(rows: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield ``(first, last, count, text)`` of rows as many at a time as fit `BATCH_BYTES`, at least one."""
    texts: list[bytes] = []
    first = size = 0
    for seq, text in rows:
        if texts and size + len(text) > BATCH_BYTES:
            yield first, seq - 1, len(texts), b"[%b]" % b",".join(texts)
            texts, size = [], 0
        first = first if texts else seq
        texts.append(text)
        size += len(text)
    yield first, first + len(texts) - 1, len(texts), b"[%b]" % b",".join(texts)
