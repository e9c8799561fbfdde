"""How deeply a message is nested, found in its bytes before anything is decoded. JSON and MsgPack.

Decoding recurses with the nesting, and so does all that happens to the values later. Both functions take
time in proportion to the size of the message and build no values. What is no valid message may be refused
or not, because decoding refuses it at the first fault. Standard library only.
"""

from __future__ import annotations

import re
from array import array
from itertools import accumulate

_BRACKETS = b"[]{}"
_ALL_BUT_BRACKETS = bytes(byte for byte in range(256) if byte not in _BRACKETS)
#: A JSON string; possessive, and the end of the text ends it too, so that no text is scanned twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
#: +1 for an opening bracket and -1 for a closing one, as signed bytes.
_STEPS = bytes.maketrans(_BRACKETS, bytes((1, 255, 1, 255)))


class TooDeep(ValueError):
    """A message is nested deeper than is allowed."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"nested deeper than {limit}")


def check_json(content: bytes, limit: int) -> None:
    """Check the nesting of a JSON text in UTF-8.

    Raises:
        TooDeep: it is deeper than ``limit``.
    """
    if content.count(b"[") + content.count(b"{") <= limit:
        return
    steps = array("b", _STRING.sub(b"", content).translate(_STEPS, _ALL_BUT_BRACKETS))
    if max(accumulate(steps), default=0) > limit:
        raise TooDeep(limit)


# --- MsgPack ---------------------------------------------------------------------------------

#: Bytes are counted at once in messages of this size, and in longer ones after so many values: a long message is
#: mostly one text, which is then skipped.
_SHORT, _FEW = 4096, 64
#: Bytes that begin an array or a map.
_CONTAINERS = bytes((*range(0x80, 0xA0), *range(0xDC, 0xE0)))
#: A run of values of one byte each: small numbers, nil, booleans, empty texts, arrays and maps.
_SMALL = re.compile(rb"[\x00-\x80\x90\xa0\xc0-\xc3\xe0-\xff]++")
#: Bytes after the first one of a value of fixed size.
_FIXED = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_FIXED |= {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
#: Bytes of a value's length, and those that this length does not count (the type of an extension).
_SIZED = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
_SIZED |= {0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}
#: Bytes of the length of an array or map, and values for each entry.
_LONG = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def check_msgpack(content: bytes, limit: int) -> None:
    """Check the nesting of a MsgPack value. Empty arrays and maps do not count as a level.

    Raises:
        TooDeep: it is deeper than ``limit``.
    """
    position, size = 0, len(content)
    left = [1]  # values still to come: of the message, then of each open container
    steps = 0 if size > _SHORT else _FEW - 1
    while left and position < size:
        steps += 1
        if steps == _FEW and size - len(content.translate(None, _CONTAINERS)) <= limit:
            return  # even if each of these bytes began a container and were no part of a text
        small = _SMALL.match(content, position)
        if small is not None:
            run = min(small.end() - position, left[-1])
            position += run
            left[-1] -= run
        else:
            left[-1] -= 1
            count, position = _entered(content, position)
            if count:
                left.append(count)
                if len(left) > limit + 1:
                    raise TooDeep(limit)
        while left and not left[-1]:
            left.pop()


def _entered(content: bytes, position: int) -> tuple[int, int]:
    """Return how many values are in the one at ``position``, and where the next value begins."""
    first = content[position]
    position += 1
    if first < 0xA0:  # a short array or map
        return (first & 15) * (1 if first >= 0x90 else 2), position
    if first < 0xC0:  # a short text
        return 0, position + (first & 31)
    if first in _LONG:
        width, each = _LONG[first]
        return int.from_bytes(content[position : position + width], "big") * each, position + width
    if first in _SIZED:
        width, more = _SIZED[first]
        return 0, position + width + more + int.from_bytes(content[position : position + width], "big")
    return 0, position + _FIXED[first]
