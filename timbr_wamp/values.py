"""Python value → JSON bytes, always: what has no JSON form becomes a described placeholder.

The fast way is one `orjson.dumps`. What it refuses (unknown classes, huge integers, cycles,
lone surrogates) is walked once in Python, and only the leaf that has no JSON form is replaced.
A value over its byte limit is replaced whole by a placeholder that tells its size.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence, Set
from typing import TypeAlias, cast

import orjson

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

#: One value's JSON text may have this many bytes; a larger one is published as its size.
VALUE_LIMIT_BYTES = 16 * 1024 * 1024
#: Containers nested deeper than this become placeholders; orjson's own limit is 254.
DEPTH_LIMIT = 100
#: So much of a ``repr`` goes into a placeholder.
REPR_LIMIT = 200

#: How every value of ours becomes JSON.
JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1

_dumps = orjson.dumps


def to_json(value: object, limit_bytes: int = VALUE_LIMIT_BYTES) -> bytes:
    """Return the JSON text of ``value`` in UTF-8. Never raises for what a value is.

    NaN and infinities become ``null`` (JSON has none); numpy arrays become lists; dict keys become
    strings; bytes, sets, exceptions and objects become ``{"__type__": …}`` placeholders.

    >>> to_json({"a": [1, 2.5, None]})
    b'{"a":[1,2.5,null]}'
    >>> to_json(1 + 2j)
    b'{"__type__":"complex","__repr__":"(1+2j)"}'
    """
    try:
        text = _dumps(value, None, JSON_OPTIONS)
    except (TypeError, ValueError, RecursionError):
        text = _dumps(json_safe(value), None, JSON_OPTIONS)
    if len(text) > limit_bytes:
        text = _dumps({"__type__": type(value).__qualname__, "__too_large__": len(text)})
    return text


def from_json(text: bytes | str) -> JsonValue:
    """Return the value of a JSON text that `to_json` made."""
    return cast(JsonValue, orjson.loads(text))


def json_safe(value: object) -> JsonValue:
    """Return ``value`` with everything that has no JSON form replaced by a placeholder."""
    return _safe(value, set(), 0)


def placeholder(value: object) -> JsonValue:
    """Return the description that stands for a value without a JSON form."""
    try:
        text = repr(value)
    except Exception as error:  # a foreign __repr__ may do anything
        text = f"<repr raised {type(error).__name__}>"
    return {"__type__": type(value).__qualname__, "__repr__": _clean(text[:REPR_LIMIT])}


def _safe(value: object, above: set[int], depth: int) -> JsonValue:
    if value is None or isinstance(value, (bool, str, int, float)):
        return _safe_scalar(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"__type__": type(value).__qualname__, "__bytes__": len(value), "__repr__": repr(bytes(value[:32]))}
    if isinstance(value, BaseException):
        return {"__type__": type(value).__qualname__, "__repr__": _clean(str(value)[:REPR_LIMIT])}
    if depth >= DEPTH_LIMIT or id(value) in above:
        return {"__type__": type(value).__qualname__, "__repr__": "<nested too deep, or in itself>"}
    above.add(id(value))
    try:
        return _safe_container(value, above, depth + 1)
    finally:
        above.discard(id(value))


def _safe_scalar(value: bool | str | int | float | None) -> JsonValue:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, int):
        plain = int(value)
        return plain if _INT_MIN <= plain <= _INT_MAX else placeholder(plain)
    number = float(value)
    return number if math.isfinite(number) else None


def _safe_container(value: object, above: set[int], depth: int) -> JsonValue:
    if isinstance(value, Mapping):
        return {_key(key): _safe(item, above, depth) for key, item in list(value.items())}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _safe(getattr(value, f.name), above, depth) for f in dataclasses.fields(value)}
    if isinstance(value, (Sequence, Set)):
        return [_safe(item, above, depth) for item in list(value)]
    if isinstance(value, (datetime.date, datetime.time, datetime.datetime)):
        return value.isoformat()
    try:  # what orjson knows and we do not list: numpy, UUID, enums
        return cast(JsonValue, orjson.loads(_dumps(value, None, JSON_OPTIONS)))
    except (TypeError, ValueError, RecursionError):
        return placeholder(value)


def _key(key: object) -> str:
    return _clean(key if isinstance(key, str) else str(key))


def _clean(text: str) -> str:
    """Return ``text`` without lone surrogates, which UTF-8 cannot carry."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
