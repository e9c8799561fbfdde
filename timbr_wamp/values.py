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
from itertools import islice
from typing import TypeAlias, cast

import orjson

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

#: One value's JSON text may have this many bytes; a larger one is published as its size.
VALUE_LIMIT_BYTES = 16 * 1024 * 1024
#: Containers nested deeper than this become placeholders; orjson's own limit is 254.
DEPTH_LIMIT = 100
#: So much of a ``repr`` goes into a placeholder.
REPR_LIMIT = 200

#: How every value of ours becomes JSON. Dataclasses pass by orjson, to us: orjson 3.13 ends the process
#: with a segmentation fault on one with ``__slots__`` whose fields are not all set.
JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z | orjson.OPT_PASSTHROUGH_DATACLASS
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
        text = _dumps(value, _set_fields, JSON_OPTIONS)
    except Exception:  # what orjson does not know, or foreign code that it called
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
    return {"__type__": type(value).__qualname__, "__repr__": clean_text(text[:REPR_LIMIT])}


def clean_text(text: str) -> str:
    """Return ``text`` without lone surrogates, which UTF-8 cannot carry: file names may hold them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _set_fields(value: object) -> dict[str, object]:
    """Return the fields of a dataclass that have a value. Raises TypeError for anything else."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        raise TypeError
    names = [field.name for field in dataclasses.fields(value)]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _safe(value: object, above: set[int], depth: int) -> JsonValue:
    try:
        return _safe_or_raise(value, above, depth)
    except Exception:  # foreign code: items(), __iter__, __str__ and the like may do anything
        return placeholder(value)


def _safe_or_raise(value: object, above: set[int], depth: int) -> JsonValue:
    if value is None or isinstance(value, (bool, str, int, float)):
        return _safe_scalar(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"__type__": type(value).__qualname__, "__bytes__": len(value), "__repr__": repr(bytes(value[:32]))}
    if isinstance(value, BaseException):
        return {"__type__": type(value).__qualname__, "__repr__": clean_text(str(value)[:REPR_LIMIT])}
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
        return clean_text(value)
    if isinstance(value, int):
        plain = int(value)
        return plain if _INT_MIN <= plain <= _INT_MAX else placeholder(plain)
    number = float(value)
    return number if math.isfinite(number) else None


def _safe_container(value: object, above: set[int], depth: int) -> JsonValue:
    if isinstance(value, Mapping):
        return {_key(key): _safe(item, above, depth) for key, item in list(value.items())}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _safe(item, above, depth) for name, item in _set_fields(value).items()}
    if isinstance(value, (Sequence, Set)):  # a sequence that never raises IndexError ends where its length says
        return [_safe(item, above, depth) for item in list(islice(value, len(value)))]
    if isinstance(value, (datetime.date, datetime.time, datetime.datetime)):
        return value.isoformat()
    # What orjson knows and we do not list: numpy, UUID, enums.
    return cast(JsonValue, orjson.loads(_dumps(value, None, JSON_OPTIONS)))


def _key(key: object) -> str:
    try:
        return clean_text(key if isinstance(key, str) else str(key))
    except Exception as error:  # a foreign __str__ may do anything
        return f"<{type(key).__qualname__}: its text raised {type(error).__name__}>"
