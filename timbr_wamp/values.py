"""Python value → JSON bytes, always, in the preview form of topics or the full form of captures; and back.

The fast way is one `orjson.dumps`. What it refuses goes through it once more with the codecs beside
it; what is still refused (huge integers, cycles, lone surrogates, keys that are no text) is walked in
Python, and only the leaf that has no form is replaced by a placeholder. A value over its byte limit
is replaced whole by a placeholder that tells its size. What each class is written as: `codecs`.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence, Set
from itertools import islice
from typing import TypeAlias, cast

import orjson

from timbr_wamp.codecs import Codec, codec_of, form_of, restored
from timbr_wamp.codecs.plain import DICT, FLOAT, INT, TUPLE
from timbr_wamp.codecs.registry import is_ours

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

#: One value's JSON text may have this many bytes; a larger one is published as its size.
VALUE_LIMIT_BYTES = 16 * 1024 * 1024
#: What a foreign codec makes of one value for a preview may have so many; ours stay below by themselves.
PREVIEW_LIMIT_BYTES = 32 * 1024
#: Containers nested deeper than this become placeholders; orjson's own limit is 254.
DEPTH_LIMIT = 100
#: So much of a ``repr`` goes into a placeholder.
REPR_LIMIT = 200

#: How every value of ours becomes JSON. Dataclasses pass by orjson, to us: orjson 3.13 ends the process
#: with a segmentation fault on one with ``__slots__`` whose fields are not all set. So do numpy's arrays:
#: orjson would write large ones whole, and refuse those whose items do not lie side by side. Datetimes stay
#: with orjson, which is ten times as fast with them, though 3.13 writes `datetime.time(0, 0, 0, 10)` as ``.10``.
JSON_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_PASSTHROUGH_DATACLASS
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1

_dumps = orjson.dumps


def to_json(value: object, limit_bytes: int = VALUE_LIMIT_BYTES, full: bool = False) -> bytes:
    """Return the JSON text of ``value`` in UTF-8. Never raises for what a value is.

    In a preview, NaN and infinities become ``null`` (JSON has none), dict keys become strings, and large
    arrays, tables, bytes and files become their sizes and a sample. With ``full``, everything that
    `from_json` can restore is there; this is several times as slow. Any thread.

    >>> to_json({"a": [1, 2.5, None]})
    b'{"a":[1,2.5,null]}'
    >>> to_json(1 + 2j)
    b'{"__type__":"complex","value":"(1+2j)"}'
    """
    if full:
        return _walked(value, full, limit_bytes)
    try:
        text = _dumps(value, _preview, JSON_OPTIONS)
    except Exception:  # what no codec knows, or foreign code that was called
        return _walked(value, full, limit_bytes)
    return text if len(text) <= limit_bytes else too_large(value, len(text))


def text_of(value: object) -> bytes:
    """Return the JSON text of ``value``, of any size: `to_json` without its limit for what is plain."""
    try:
        return orjson.dumps(value, None, JSON_OPTIONS)
    except Exception:  # what has no JSON form
        return to_json(value)


def from_json(text: bytes | str, *, restore: bool = False) -> JsonValue:
    """Return the value of a JSON text that `to_json` made.

    With ``restore``, full forms become objects again where that is safe and their library is imported
    already; what is then in the result is no longer JSON. Texts may come from anybody: no code that
    they name is run or imported, and a form that cannot be restored stays as it is.

    >>> from_json(to_json({1, 2}, full=True), restore=True)
    {1, 2}
    """
    value = orjson.loads(text)
    return cast(JsonValue, _restore(value, 0) if restore else value)


def json_safe(value: object) -> JsonValue:
    """Return ``value`` in its preview form: everything that has no JSON form replaced."""
    try:
        return _Walk(False, VALUE_LIMIT_BYTES).safe(value, 0)
    except _TooMany:
        return cast(JsonValue, orjson.loads(too_large(value, VALUE_LIMIT_BYTES)))


def placeholder(value: object) -> JsonValue:
    """Return the description that stands for a value without a JSON form."""
    try:
        text = repr(value)
    except Exception as error:  # a foreign __repr__ may do anything
        text = f"<repr raised {type(error).__name__}>"
    return {"__type__": _type_name(value), "__repr__": clean_text(text[:REPR_LIMIT])}


def too_large(value: object, size_bytes: int) -> bytes:
    """Return the text that stands for a value whose own has ``size_bytes`` bytes, or at least as many."""
    return _dumps({"__type__": _type_name(value)[:100], "__too_large__": size_bytes})


def clean_text(text: str) -> str:
    """Return ``text`` without lone surrogates, which UTF-8 cannot carry: file names may hold them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _type_name(value: object) -> str:
    return clean_text(type(value).__qualname__[:REPR_LIMIT])


class _TooMany(Exception):
    """A walk met more values than a text within its limit can hold."""


def _walked(value: object, full: bool, limit_bytes: int) -> bytes:
    """Return the text of a walk through ``value``, or of its size."""
    try:
        text = _dumps(_Walk(full, limit_bytes).safe(value, 0), None, JSON_OPTIONS)
    except _TooMany:
        return too_large(value, limit_bytes)
    return text if len(text) <= limit_bytes else too_large(value, len(text))


def _preview(value: object) -> object:
    """Return one step towards JSON of what orjson does not know. Raises TypeError for what needs a walk."""
    codec = codec_of(value)
    if codec is not None:
        if not is_ours(codec):
            raise TypeError  # it is measured and isolated in a walk
        return form_of(codec, value, False)
    if dataclasses.is_dataclass(value):
        return _set_fields(value)
    raise TypeError


def _set_fields(value: object) -> dict[str, object]:
    """Return the fields of a dataclass that have a value. Raises TypeError for anything else."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        raise TypeError
    names = [field.name for field in dataclasses.fields(value)]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


class _Walk:
    """One way through a value, leaf by leaf. ``limit`` is how many values it meets before it gives up."""

    def __init__(self, full: bool, limit: int) -> None:
        self._full = full
        self._left = limit
        #: Identities of the containers around the present value: one that holds itself ends.
        self._above: set[int] = set()

    def safe(self, value: object, depth: int) -> JsonValue:
        """Return a value's JSON form; a placeholder where its own code, or its codec's, raises."""
        self._left -= 1
        if self._left < 0:
            raise _TooMany
        try:
            if value is None or isinstance(value, (bool, str, int, float)):
                return self._scalar(value, depth)
            if depth >= DEPTH_LIMIT or id(value) in self._above:
                return {"__type__": _type_name(value), "__repr__": "<nested too deep, or in itself>"}
            self._above.add(id(value))
            try:
                return self._object(value, depth)
            finally:
                self._above.discard(id(value))
        except _TooMany:
            raise
        except Exception:  # foreign code: codecs, items(), __iter__, __str__ and the like may do anything
            return placeholder(value)

    def _scalar(self, value: bool | str | int | float | None, depth: int) -> JsonValue:
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, str):
            return clean_text(value)
        if isinstance(value, int):
            plain = int(value)
            return plain if _INT_MIN <= plain <= _INT_MAX else self._form(INT, plain, depth)
        number = float(value)
        if math.isfinite(number):
            return number
        return self._form(FLOAT, number, depth) if self._full else None

    def _object(self, value: object, depth: int) -> JsonValue:
        if isinstance(value, dict):
            return self._mapping(value, depth)
        if isinstance(value, list):
            return self._list(value, depth)
        if isinstance(value, enum.Enum):
            return self.safe(value.value, depth)
        codec = codec_of(value)
        if codec is not None:
            return self._form(codec, value, depth)
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if self._full and isinstance(value, tuple):
            return self._form(TUPLE, value, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {name: self.safe(item, depth + 1) for name, item in _set_fields(value).items()}
        if isinstance(value, (Sequence, Set)):
            return self._list(value, depth)
        # What orjson knows and no codec lists.
        return cast(JsonValue, orjson.loads(_dumps(value, None, JSON_OPTIONS)))

    def _list(self, value: Sequence[object] | Set[object], depth: int) -> JsonValue:
        # A sequence that never raises IndexError ends where its length says.
        return [self.safe(item, depth + 1) for item in list(islice(value, min(len(value), self._left + 1)))]

    def _mapping(self, value: Mapping[object, object], depth: int) -> JsonValue:
        items = list(value.items()) if isinstance(value, dict) else list(islice(value.items(), self._left + 1))
        if self._full and not all(type(key) is str and key != "__type__" for key, _ in items):
            return self._form(DICT, dict(items), depth)
        return {_key(key): self.safe(item, depth + 1) for key, item in items}

    def _form(self, codec: Codec, value: object, depth: int) -> JsonValue:
        form = form_of(codec, value, self._full)
        if isinstance(form, Mapping):
            seen: JsonValue = {_key(key): self.safe(item, depth + 1) for key, item in form.items()}
        else:
            seen = self.safe(form, depth)
        if not self._full and not is_ours(codec) and len(_dumps(seen, None, JSON_OPTIONS)) > PREVIEW_LIMIT_BYTES:
            raise ValueError(codec.name)
        return seen


def _key(key: object) -> str:
    try:
        return clean_text(key if isinstance(key, str) else str(key))
    except Exception as error:  # a foreign __str__ may do anything
        return f"<{type(key).__qualname__}: its text raised {type(error).__name__}>"


def _restore(value: object, depth: int) -> object:
    if depth > 2 * DEPTH_LIMIT:  # none of our texts is so deep
        return value
    if isinstance(value, list):
        return [_restore(item, depth + 1) for item in value]
    if isinstance(value, dict):
        items = {key: _restore(item, depth + 1) for key, item in value.items()}
        return restored(items) if "__type__" in items else items
    return value
