"""`preview`, a short text of any value, and `never_raises`, for functions that a ``repr`` calls.

Messages may be huge. Containers, texts and bytes are cut before they are formatted. Other objects
are formatted by their own ``repr``, and the result is cut.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from itertools import islice
from typing import TypeVar, cast

from timbr_wamp.tables import html_text

logger = logging.getLogger(__name__)

#: Items that are shown of a container, and levels of nested containers that are shown.
ITEMS, DEPTH = 12, 4
#: Length of the text that replaces a drawing that failed, in characters.
FALLBACK_LIMIT = 1000

Draw = TypeVar("Draw", bound=Callable[..., str])


def never_raises(*, html: bool = False) -> Callable[[Draw], Draw]:
    """Decorate a function that draws its first argument: when it raises, it returns the `preview` of that value.

    A value may have other types than declared: a subclass of `Machine` may override ``status``, and
    another version may send other fields. An exception in ``repr`` would hide the value altogether.
    """

    def decorate(draw: Draw) -> Draw:
        @wraps(draw)
        def drawn(value: object, *args: object, **options: object) -> str:
            try:
                return draw(value, *args, **options)
            except Exception:
                logger.debug("%s could not draw a %s", draw.__name__, type(value).__name__, exc_info=True)
                text = preview(value, FALLBACK_LIMIT)
                return f"<div>{html_text(text, FALLBACK_LIMIT)}</div>" if html else text

        return cast(Draw, drawn)

    return decorate


def preview(value: object, limit: int = 160) -> str:
    """Return the beginning of ``repr(value)``, at most ``limit`` characters; never raises.

    >>> preview(list(range(1_000_000)), 30)
    '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9…'
    >>> preview({"text": "x" * 1000}, 20)
    "{'text': 'xxxxxxxxx…"
    """
    try:
        text = _text(value, limit, DEPTH)
    except Exception as error:  # a user's __repr__ may raise anything, and another thread may change the value
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
    """Return a container with its first items, or only its brackets when it is nested too deep."""
    opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")") if isinstance(value, tuple) else ("{", "}")
    if depth == 0:
        return f"{opening}…{closing}"
    items: list[str] = []
    room = limit
    for item in islice(value.items() if isinstance(value, dict) else value, ITEMS):
        # an item of a mapping is a pair, shown as "key: value"
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
