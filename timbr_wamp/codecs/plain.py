"""Codecs of the standard library's values.

Dates and UUIDs are texts, collections that are like lists are lists; everything else is a mapping that
names its class.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import ipaddress
import pathlib
import re
import uuid
from collections.abc import Callable
from typing import Any

from timbr_wamp.codecs.base import HEAD_BYTES, TEXT_LIMIT, ClassCodec, Codec, class_name, cut

#: Most causes in the chain of an exception.
CAUSES_LIMIT = 5
#: A longer range is written as its bounds.
RANGE_ITEMS = 1000
#: An integer with more bits is written as their number.
INT_BITS = 600


def big_int(value: int) -> dict[str, object]:
    """Return what stands for an integer beyond 64 bits."""
    if value.bit_length() <= INT_BITS:
        return {"__type__": "int", "value": str(value)}
    return {"__type__": "int", "bits": value.bit_length()}


def _fraction(value: fractions.Fraction) -> dict[str, object]:
    return {"numerator": value.numerator, "denominator": value.denominator}


def _bytes(value: Any) -> dict[str, object]:
    with memoryview(value) as view:
        whole = view.c_contiguous and view.ndim == 1 and view.format == "B"
        head = view[:HEAD_BYTES].tobytes() if whole else view.tobytes()[:HEAD_BYTES]
        return {"__bytes__": view.nbytes, "__repr__": repr(head)}


def _error(value: BaseException) -> dict[str, object]:
    kind = type(value)
    return {"exc_class": f"{kind.__module__}.{class_name(kind)}"[:TEXT_LIMIT], "exc_value": _error_text(value)}


def _error_text(value: BaseException) -> str:
    return str.__str__(str(value))[:TEXT_LIMIT]


def _exception(value: BaseException) -> dict[str, object]:
    causes: list[object] = []
    seen, cause = {id(value)}, _cause(value)
    while cause is not None and id(cause) not in seen and len(causes) < CAUSES_LIMIT:
        causes.append(_error(cause))
        seen.add(id(cause))
        cause = _cause(cause)
    form = {"__type__": class_name(type(value)), **_error(value)}
    return {**form, "causes": causes} if causes else form


def _cause(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def _datetime(value: datetime.datetime) -> str:
    return _with_z(datetime.datetime.isoformat(value))


def _time(value: datetime.time) -> str:
    return _with_z(datetime.time.isoformat(value))


def _with_z(text: str) -> str:
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


def _timedelta(value: datetime.timedelta) -> dict[str, object]:
    return {"days": value.days, "seconds": value.seconds, "microseconds": value.microseconds}


def _range(value: range) -> object:
    return {"start": value.start, "stop": value.stop, "step": value.step} if value[RANGE_ITEMS:] else list(value)


def _as_text(name: str, text: Callable[[Any], str] = str) -> ClassCodec:
    return ClassCodec(name, lambda value: {"value": cut(text(value))})


_IP = (
    ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network,
    ipaddress.IPv4Interface, ipaddress.IPv6Interface,
)  # fmt: skip

CODECS: dict[type | str, Codec] = {
    bytes: ClassCodec("bytes", _bytes),
    bytearray: ClassCodec("bytearray", _bytes),
    memoryview: ClassCodec("memoryview", _bytes),
    BaseException: ClassCodec("exception", _exception),
    datetime.datetime: ClassCodec("datetime", _datetime),
    datetime.date: ClassCodec("date", datetime.date.isoformat),
    datetime.time: ClassCodec("time", _time),
    datetime.timedelta: ClassCodec("timedelta", _timedelta),
    uuid.UUID: ClassCodec("UUID", uuid.UUID.__str__),
    decimal.Decimal: _as_text("Decimal"),
    fractions.Fraction: ClassCodec("Fraction", _fraction),
    complex: _as_text("complex"),
    range: ClassCodec("range", _range),
    collections.deque: ClassCodec("deque", lambda value: list(collections.deque.__iter__(value))),
    pathlib.Path: _as_text("Path"),
    pathlib.PurePosixPath: _as_text("PurePosixPath"),
    pathlib.PureWindowsPath: _as_text("PureWindowsPath"),
    re.Pattern: ClassCodec("Pattern", lambda value: {"value": cut(str(value.pattern)), "flags": int(value.flags)}),
    **{kind: _as_text(kind.__name__) for kind in _IP},
}
