"""A short text of any value, made without looking at more of it than is shown.

Messages may be huge. Containers, texts and bytes are cut before they are formatted; of other
objects we have only their own ``repr``, which is asked once and then cut.
"""

from __future__ import annotations

from itertools import islice

#: Items of a container that are shown, and how deep containers in containers are looked into.
ITEMS, DEPTH = 12, 4


def preview(value: object, limit: int = 160) -> str:
    """Return the beginning of ``repr(value)``, at most ``limit`` characters; never raises.

    >>> preview(list(range(1_000_000)), 30)
    '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9…'
    >>> preview({"text": "x" * 1000}, 20)
    "{'text': 'xxxxxxxxx…"
    """
    try:
        text = _text(value, limit, DEPTH)
    except Exception as error:  # a foreign __repr__ may do anything, and a value may change meanwhile
        text = f"<{type(value).__qualname__}: its repr raised {type(error).__name__}>"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _text(value: object, limit: int, depth: int) -> str:
    if isinstance(value, (str, bytes, bytearray)):
        return repr(value) if len(value) <= limit else repr(value[:limit])
    if isinstance(value, memoryview):
        return f"<memoryview of {value.nbytes:,} bytes>"
    if isinstance(value, int) and value.bit_length() > 3 * limit:
        return f"<int of {value.bit_length():,} bits>"
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        return _container(value, limit, depth)
    return repr(value)[: limit + 1]


def _container(
    value: list[object] | tuple[object, ...] | set[object] | frozenset[object] | dict[object, object],
    limit: int,
    depth: int,
) -> str:
    """Return a container with its first items; of deeper ones only that they are there."""
    opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")") if isinstance(value, tuple) else ("{", "}")
    if depth == 0:
        return f"{opening}…{closing}"
    items: list[str] = []
    room = limit
    for item in islice(value.items() if isinstance(value, dict) else value, ITEMS):
        # a mapping's item is a pair: key and content stand without the pair's brackets
        pair = item if isinstance(value, dict) and isinstance(item, tuple) else (item,)
        items.append(": ".join(_text(part, limit, depth - 1) for part in pair))
        room -= len(items[-1])
        if room < 0:
            break
    if len(items) < len(value):
        items.append("…")
    if isinstance(value, (set, frozenset)) and not value:
        return f"{type(value).__name__}()"
    tail = "," if isinstance(value, tuple) and len(items) == 1 else ""
    return f"{opening}{', '.join(items)}{tail}{closing}"
