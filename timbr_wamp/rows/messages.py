"""What `put_many` takes, here and elsewhere: messages one after the other, or a table, whose rows are the messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import PurePath
from typing import Any

from timbr_wamp.errors import InvalidArgument
from timbr_wamp.rows.reading import has_rows, row_source

#: Most messages that are taken from what does not tell its length, and may have no end.
ENDLESS_LIMIT = 1_000_000

_FILES = (str, PurePath)
_ONE_MESSAGE = (str, bytes, bytearray, memoryview, Mapping)


def is_table(value: object) -> bool:
    """Tell, by its type alone, whether a value is a table in memory: a DataFrame, an Arrow table or stream."""
    return not issubclass(type(value), _FILES) and has_rows(value)


def messages_of(given: object) -> Sequence[Any]:
    """Return the messages of a list or tuple (itself), of another iterable, or the rows of a table as dicts.

    Raises:
        InvalidArgument: a text, bytes or a mapping, which is one message; a file; no iterable; or an iterator with
            more than `ENDLESS_LIMIT` items.
        NotASource: a table without columns, or with two of one name.
        PluginNotInstalled: it takes pyarrow to read it.
    """
    kind = type(given)
    if issubclass(kind, (list, tuple)):
        return given  # type: ignore[return-value]
    if issubclass(kind, _ONE_MESSAGE):
        raise _refused(f"not {kind.__name__}, which put() puts as one message")
    if issubclass(kind, PurePath):
        raise _refused(f"not {kind.__name__}; m.source = path reads the rows of a file")
    rows = row_source(given)
    if rows is not None:
        total = rows.total()
        items: Iterable[Any] = rows.rows(json.loads)
        return list(items) if total is not None else _bounded(items, kind)
    try:
        items = iter(given)  # type: ignore[call-overload]
    except TypeError:
        raise _refused(f"not {kind.__name__}") from None
    return list(items) if hasattr(kind, "__len__") else _bounded(items, kind)


def _bounded(items: Iterable[Any], kind: type) -> list[Any]:
    taken = list(islice(items, ENDLESS_LIMIT + 1))
    if len(taken) > ENDLESS_LIMIT:
        problem = f"{kind.__name__} with more than {ENDLESS_LIMIT:,} messages; m.source = … reads them as there is room"
        raise InvalidArgument("messages", problem)
    return taken


def _refused(problem: str) -> InvalidArgument:
    return InvalidArgument("messages", f"a list of messages, another iterable, or a table, {problem}")
