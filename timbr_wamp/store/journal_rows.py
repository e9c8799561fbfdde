"""How a journal's rows look: several messages, or several records, in each, with a check sum.

Messages are pickles. Records are the bytes that the machine made, one behind the other.
"""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any
from zlib import crc32

import cloudpickle

from timbr_wamp.errors import InvalidArgument, described
from timbr_wamp.machine.messages import Entry
from timbr_wamp.machine.protocols import CompactRow, RecordBlock

#: A row has about so many bytes at most, of several messages or records; one message: `MESSAGE_BYTES`.
ROW_BYTES = 32 * 1024 * 1024
#: The largest message, pickled: SQLite's values end at 10**9 bytes.
MESSAGE_BYTES = 900 * 1024 * 1024


def portions(entries: Sequence[Entry]) -> Iterator[list[tuple[str, bytes, float, int]]]:
    """Yield entries with pickled messages, so many at once as make one row.

    Each message is pickled for itself, so that one that cannot be read back costs no other.
    """
    portion, size = list[tuple[str, bytes, float, int]](), 0
    for oid, message, at, attempt in entries:
        data = _pickled(message)
        if portion and size + len(data) > ROW_BYTES:
            yield portion
            portion, size = [], 0
        portion.append((oid, data, at, attempt))
        size += len(data)
    yield portion


def inbox_entries(data: bytes) -> list[tuple[str, bytes, float, int]]:
    """Return the entries of a row of the inbox, with pickled messages."""
    entries: list[tuple[str, bytes, float, int]] = pickle.loads(data)
    return entries


def packed(portion: list[tuple[str, bytes, float, int]]) -> tuple[list[tuple[str, int]], bytes]:
    """Return the keys of some entries, and the entries as bytes."""
    return [(oid, attempt) for oid, _, _, attempt in portion], pickle.dumps(portion, 5)


def _pickled(message: object) -> bytes:
    data = _any_pickle(message)
    if len(data) > MESSAGE_BYTES:
        raise InvalidArgument(
            "message", f"the journal cannot keep {len(data):,} bytes in one message, at most {MESSAGE_BYTES:,}"
        )
    return data


def _any_pickle(message: object) -> bytes:
    try:
        data = pickle.dumps(message, 5)
        # A class of a notebook is not there in the next process: it travels with the message.
        return bytes(cloudpickle.dumps(message)) if b"__main__" in data else data
    except Exception as first:
        try:
            return bytes(cloudpickle.dumps(message))
        except Exception:  # foreign code
            raise InvalidArgument(
                "message", f"the journal cannot keep it, as it cannot be pickled: {described(first)}"
            ) from None


def unpacked(data: bytes) -> Any:
    """Return a message."""
    try:
        return pickle.loads(data)
    except Exception as error:  # its class is gone, or raises: the message is told of, not lost
        return {"__type__": "unreadable message", "__error__": described(error)}


#: With more bytes, `crc32` releases the interpreter's lock, and waits for it afterwards: several pieces cost less.
_AT_ONCE, _MOST_PIECES = 5_000, 100

#: What `is_whole` and `unfolded` get.
ROW = "first_seq, last_seq, layout, oids, lengths, parts, crc"


def record_rows(block: RecordBlock, now: float) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a block: one, unless its records are very large."""
    count, width = len(block.oids), len(block.parts) // len(block.oids)
    at_once = count if sum(block.lengths) <= ROW_BYTES else 1
    layout = ",".join(map(str, block.layout)).encode()
    for start in range(0, count, at_once):
        oids = block.oids[start : start + at_once]
        of_them = slice(start * width, (start + at_once) * width)
        parts, lengths = b"".join(block.parts[of_them]), array("I", block.lengths[of_them]).tobytes()
        ids, first = ",".join(oids).encode(), block.first_seq + start
        yield (
            first, first + len(oids) - 1, now, len(parts), min(oids).encode(), max(oids).encode(), layout, ids,
            lengths, parts, check_sum(layout, ids, lengths, parts),
        )  # fmt: skip


def check_sum(*texts: bytes) -> int:
    """Return the CRC-32 of texts one behind the other."""
    crc = 0
    for text in texts:
        if len(text) <= _AT_ONCE or len(text) > _MOST_PIECES * _AT_ONCE:
            crc = crc32(text, crc)
        else:
            view = memoryview(text)
            for at in range(0, len(text), _AT_ONCE):
                crc = crc32(view[at : at + _AT_ONCE], crc)
    return crc


def is_whole(row: Sequence[Any]) -> bool:
    """Tell whether a row of records is as it was written."""
    try:
        return bool(check_sum(*row[2:6]) == row[6])
    except TypeError:  # not even the types
        return False


def unfolded(row: Sequence[Any]) -> Iterable[CompactRow]:
    """Return the records of a whole row."""
    first_seq, _, layout, oids, lengths, parts, _ = row
    sizes = array("I")
    sizes.frombytes(lengths)
    ids = oids.decode().split(",")
    width = len(sizes) // len(ids)
    ends = list(accumulate(sizes, initial=0))
    counts = tuple(map(int, layout.split(b","))) if layout else ()
    for n, oid in enumerate(ids):
        *values, meta = (parts[ends[k] : ends[k + 1]] for k in range(n * width, (n + 1) * width))
        yield first_seq + n, oid, b"[%b]" % b",".join(values), meta, counts
