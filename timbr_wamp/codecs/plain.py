"""Codecs of the standard library's values.

What orjson writes by itself (dates, UUIDs) has its text as preview, and a form with ``__type__`` only
in full, where it must come back as what it was. Collections that are like lists are lists in a
preview; all other kinds have one form for both.
"""

from __future__ import annotations

import base64
import collections
import datetime
import decimal
import enum
import fractions
import ipaddress
import pathlib
import re
import traceback
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any

from timbr_wamp.codecs.base import HEAD_BYTES, ClassCodec, Codec, cut, not_restored, same

#: An exception's text, its traceback and its chain of causes are cut there: characters, and links.
ERROR_TEXT_LIMIT, TRACEBACK_LIMIT, CAUSES_LIMIT = 64 * 1024, 64 * 1024, 5
#: A longer range is not written as a list in a preview.
RANGE_ITEMS = 1000
#: An integer with more bits is its size in a preview.
INT_BITS = 600
#: A fraction of longer integers is not restored: the time to reduce it grows with their square.
FRACTION_BITS = 100_000

#: What orjson writes by itself, besides JSON's own.
NATIVE = (datetime.date, datetime.datetime, datetime.time, uuid.UUID)
#: The subclasses of these it writes by itself.
NATIVE_BASES = (str, int, float, list, dict, enum.Enum)


def _big(value: int) -> dict[str, object]:
    if abs(value).bit_length() <= INT_BITS:
        return {"value": str(value)}
    return {"bits": value.bit_length()}


def _load_int(form: Mapping[str, Any]) -> int:
    return int(form["value"], 16 if form["value"].lstrip("-").startswith("0x") else 10)


def _bytes(value: Any) -> dict[str, object]:
    head = memoryview(value).tobytes()[:HEAD_BYTES] if isinstance(value, memoryview) else bytes(value[:HEAD_BYTES])
    return {"__bytes__": memoryview(value).nbytes, "__repr__": repr(head)}


def _bytes_in_full(value: Any) -> dict[str, object]:
    data = bytes(value)
    return {"__bytes__": len(data), "__data__": base64.b64encode(data).decode()}


def load_bytes(form: Mapping[str, Any]) -> bytes:
    """Return the bytes of a form's ``__data__``. Raises ValueError for what is no base64."""
    return base64.b64decode(form["__data__"], validate=True)


def in_order(values: Collection[Any]) -> list[Any]:
    """Return a set's items sorted, so that equal sets have equal texts; by class and text if they do not compare."""
    kinds = {type(value) for value in values}
    if kinds <= {int, float, bool} or kinds == {str}:
        return sorted(values)
    try:
        return sorted(values, key=lambda value: (type(value).__qualname__, repr(value)))
    except Exception:  # a foreign __repr__; then the set's own order must do
        return list(values)


def _error(value: BaseException, limit: int = 200) -> dict[str, object]:
    kind = type(value)
    return {"exc_class": f"{kind.__module__}.{kind.__qualname__}"[:200], "exc_value": str(value)[:limit]}


def _exception(value: BaseException, limit: int = 200) -> dict[str, object]:
    causes: list[object] = []
    seen, cause = {id(value)}, _cause(value)
    while cause is not None and id(cause) not in seen and len(causes) < CAUSES_LIMIT:
        causes.append(_error(cause))
        seen.add(id(cause))
        cause = _cause(cause)
    form = {"__type__": type(value).__qualname__[:200], **_error(value, limit)}
    return {**form, "causes": causes} if causes else form


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _exception_in_full(value: BaseException) -> dict[str, object]:
    lines = traceback.format_exception(type(value), value, value.__traceback__, limit=-100)
    return {**_exception(value, ERROR_TEXT_LIMIT), "exc_tb": "".join(lines)[-TRACEBACK_LIMIT:]}


def _rfc3339(value: datetime.datetime | datetime.time) -> str:
    text = value.isoformat()
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


def _range(value: range) -> object:
    return _range_in_full(value) if value[RANGE_ITEMS:] else list(value)


def _range_in_full(value: range) -> dict[str, object]:
    return {"start": value.start, "stop": value.stop, "step": value.step}


def _as_text(
    name: str, load: Callable[[str], object], text: Callable[[Any], str] = str, *, preview_text: bool = False
) -> ClassCodec:
    """Return the codec of a class whose values a text makes again."""

    def preview(value: Any) -> object:
        return cut(text(value)) if preview_text else {"value": cut(text(value))}

    return ClassCodec(name, preview, lambda value: {"value": text(value)}, lambda form: load(_text(form["value"])))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _iso(kind: Any) -> ClassCodec:
    return ClassCodec(
        kind.__name__,
        preview=lambda value: value.isoformat() if kind is datetime.date else _rfc3339(value),
        full=lambda value: {"value": value.isoformat()},
        load=lambda form: kind.fromisoformat(form["value"]),
    )


def _listed(kind: Any, order: Callable[[Any], list[Any]]) -> ClassCodec:
    return ClassCodec(
        kind.__name__, order, lambda value: {"items": order(value)}, lambda form: kind(_items(form["items"]))
    )


def _items(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(value)
    return value


def _short(value: object) -> int:
    if not isinstance(value, int) or value.bit_length() > FRACTION_BITS:
        raise ValueError("no integer, or too large to reduce a fraction of it")
    return value


def _buffer(kind: Callable[[bytes], object], name: str) -> ClassCodec:
    return ClassCodec(name, _bytes, _bytes_in_full, lambda form: kind(load_bytes(form)))


def _pure(path: type[pathlib.PurePath]) -> ClassCodec:
    return _as_text(path.__name__, path)


#: Of integers beyond 64 bits and of NaN and infinities; found by `values` alone.
INT = ClassCodec("int", _big, lambda value: {"value": hex(value)}, _load_int)
FLOAT = same("float", lambda value: {"value": repr(float(value))}, lambda form: float(_text(form["value"])))
#: Of a dict that JSON's objects cannot carry: its keys are no strings, or it looks like a form.
DICT = same("dict", lambda value: {"items": [list(pair) for pair in value.items()]}, lambda form: dict(form["items"]))
#: Tuples too, of any class: only so can a set of tuples come back.
TUPLE = same("tuple", lambda value: {"items": list(value)}, lambda form: tuple(_items(form["items"])))
#: The four above: JSON's own kinds in values that JSON lacks, and what is like a list to orjson.
BARE = (INT, FLOAT, DICT, TUPLE)

CODECS: dict[type | str, Codec] = {
    bytes: _buffer(bytes, "bytes"),
    bytearray: _buffer(bytearray, "bytearray"),
    memoryview: _buffer(memoryview, "memoryview"),
    BaseException: ClassCodec("exception", _exception, _exception_in_full, not_restored),
    datetime.datetime: _iso(datetime.datetime),
    datetime.date: _iso(datetime.date),
    datetime.time: _iso(datetime.time),
    datetime.timedelta: same(
        "timedelta",
        lambda value: {"days": value.days, "seconds": value.seconds, "microseconds": value.microseconds},
        lambda form: datetime.timedelta(form["days"], form["seconds"], form["microseconds"]),
    ),
    uuid.UUID: _as_text("UUID", uuid.UUID, preview_text=True),
    decimal.Decimal: _as_text("Decimal", decimal.Decimal),
    fractions.Fraction: same(  # from two integers, since "1e999999999" would fill the memory
        "Fraction",
        lambda value: {"numerator": value.numerator, "denominator": value.denominator},
        lambda form: fractions.Fraction(_short(form["numerator"]), _short(form["denominator"])),
    ),
    complex: _as_text("complex", complex),
    range: ClassCodec("range", _range, _range_in_full, lambda form: range(form["start"], form["stop"], form["step"])),
    set: _listed(set, in_order),
    frozenset: _listed(frozenset, in_order),
    collections.deque: ClassCodec(
        "deque",
        list,
        lambda value: {"items": list(value), "maxlen": value.maxlen},
        lambda form: collections.deque(_items(form["items"]), form["maxlen"]),
    ),
    pathlib.Path: _as_text("Path", pathlib.Path),
    pathlib.PurePosixPath: _pure(pathlib.PurePosixPath),
    pathlib.PureWindowsPath: _pure(pathlib.PureWindowsPath),
    re.Pattern: ClassCodec(  # not restored: a pattern from anybody could take for ever when it is used
        "Pattern",
        lambda value: {"value": cut(str(value.pattern)), "flags": int(value.flags)},
        lambda value: {"value": value.pattern, "flags": int(value.flags)},
        not_restored,
    ),
    ipaddress.IPv4Address: _as_text("IPv4Address", ipaddress.IPv4Address),
    ipaddress.IPv6Address: _as_text("IPv6Address", ipaddress.IPv6Address),
    ipaddress.IPv4Network: _as_text("IPv4Network", ipaddress.IPv4Network),
    ipaddress.IPv6Network: _as_text("IPv6Network", ipaddress.IPv6Network),
    ipaddress.IPv4Interface: _as_text("IPv4Interface", ipaddress.IPv4Interface),
    ipaddress.IPv6Interface: _as_text("IPv6Interface", ipaddress.IPv6Interface),
}
