"""Python value → JSON text, always: what a value is decides its form, and nothing that it does can stop it.

orjson writes only what no foreign code can reach: texts, numbers and private copies of dicts and lists that
hold nothing else. While it walks a value it would otherwise run Python code (an enum's ``value``, a time
zone, a property), and while such code or another thread changes the container that it walks, the process
ends with a segmentation fault. So every container is copied first, by C code that runs no Python, and what
is neither text nor number is replaced in the copy: by the form that its codec gives it (`codecs`), or by
a placeholder that describes it. A flat dict costs one copy; nested ones a walk in Python.

The class of a value decides its form, never its attributes: a mock or a proxy would answer to any name.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from gc import is_tracked
from itertools import islice
from typing import Any, Final, TypeAlias, cast

import orjson

from timbr_wamp.codecs import Codec, codec_of, form_of
from timbr_wamp.codecs.base import bases_of, class_name
from timbr_wamp.codecs.plain import big_int
from timbr_wamp.codecs.registry import is_ours
from timbr_wamp.errors import clean_text, is_users_interrupt

__all__ = ["VALUE_LIMIT_BYTES", "JsonValue", "to_json"]

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

#: One value's JSON text may have this many bytes; a larger one is published as its size.
VALUE_LIMIT_BYTES = 16 * 1024 * 1024
#: `text_of` gives up a nested value whose text certainly has more bytes than this.
NESTED_LIMIT_BYTES = 64 * 1024 * 1024
#: Nested values with more parts take the slow path, which counts them exactly.
PLAIN_LIMIT_ITEMS = 500_000
#: Limit of what a foreign codec makes of one value, bytes; the built-in ones stay below.
PREVIEW_LIMIT_BYTES = 32 * 1024
#: Whatever is nested deeper is replaced, unless it is a text or a number. (orjson's own limit is 254.)
DEPTH_LIMIT = 100
#: Most characters of a ``repr``, or of a key that is not text.
REPR_LIMIT = 200

# orjson handles JSON's own classes only, no subclasses, dataclasses or datetimes.
_OPTIONS: Final = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
#: Bytes that a container, a value that needs Python code, and an item that foreign code gives count towards the
#: limit of a walk. Most have longer texts; it bounds the time.
_STEP_BYTES = 8
#: Tries at reading a foreign collection that changes meanwhile.
_TRIES = 3

#: What orjson writes without looking into anything; and how.
TEXT_TYPES: Final[frozenset[type]] = frozenset({str, int, float, bool, type(None)})
TEXT_OPTIONS: Final = _OPTIONS
#: A dict whose dicts and lists have at most so many items each is looked at without copying it.
SMALL_ITEMS = 64

_SCALARS = TEXT_TYPES
_are_scalars = _SCALARS.issuperset
_dumps = orjson.dumps


class NotPlain(Exception):
    """A value is more than texts, numbers, lists and dicts, or must be written with care."""


def to_json(value: object, limit_bytes: int = VALUE_LIMIT_BYTES) -> bytes:
    """Return the JSON text of ``value`` in UTF-8; over the limit a text that tells its size. Any thread.

    Never raises for what a value is or does, except the user's own Ctrl-C. NaN and infinities become
    ``null`` (JSON has none), dict keys become texts, and large arrays, tables, bytes and files become
    their sizes and a sample.

    >>> to_json({"a": [1, 2.5, None]})
    b'{"a":[1,2.5,null]}'
    >>> to_json(1 + 2j)
    b'{"__type__":"complex","value":"(1+2j)"}'
    """
    text = text_of(value, limit_bytes)
    return text if len(text) <= limit_bytes else too_large(value, len(text))


def text_of(value: object, nested_limit_bytes: int = NESTED_LIMIT_BYTES) -> bytes:
    """Return the JSON text of ``value`` as `to_json` does, of any size.

    Only a nested value, whose text has more than ``nested_limit_bytes`` for certain, is not walked to its end.
    """
    try:
        return plain_text(value)
    except NotPlain:
        return _nested_text(value, nested_limit_bytes)


def plain_text(value: object) -> bytes:
    """Return the JSON text of a value of nothing but texts, numbers, lists and dicts: the quick way of `text_of`.

    Raises:
        NotPlain: something else is in it, or it is too deep or too large, or it needs care: keys that are no
            texts, lone surrogates, integers beyond 64 bits.
    """
    kind = type(value)
    try:
        if kind in _SCALARS or (kind is dict and is_small_and_plain(value)):
            return _dumps(value, None, _OPTIONS)
        return _dumps(_plain(value, kind, [PLAIN_LIMIT_ITEMS], DEPTH_LIMIT), None, _OPTIONS)
    except BaseException as error:  # orjson's own errors, too; a key or a metaclass may raise anything
        if is_users_interrupt(error):
            raise
        raise NotPlain from None


def is_small_and_plain(mapping: Any) -> bool:
    """Tell at once, of a small dict that holds little else than texts and numbers, that nothing else is in it.

    Only what the garbage collector tracks may run Python code in orjson (enums) or lack what it reads (`UUID`). The
    dict is not copied: texts of so few items are written in microseconds without Python code, so another thread
    would have to put such an object into it between this look and the next bytecode, and could change nothing more.
    """
    if len(mapping) > SMALL_ITEMS:
        return False
    for item in filter(is_tracked, mapping.values()):
        if type(item) is list:
            if len(item) > SMALL_ITEMS or not _are_scalars(map(type, item)):
                return False
        elif type(item) is not dict or len(item) > SMALL_ITEMS:
            return False
        else:
            for inner in filter(is_tracked, item.values()):
                if type(inner) is not list or len(inner) > SMALL_ITEMS or not _are_scalars(map(type, inner)):
                    return False
    return True


def _plain(value: Any, kind: type, left: list[int], depth: int) -> Any:
    """Return a private copy of dicts and lists that hold nothing but texts and numbers.

    ``left`` is how many items may be copied: in a value of a few objects one may stand again and again.

    Raises:
        NotPlain: something else is in it, or it is nested deeper than ``depth``, or too large.
    """
    if kind is dict and depth:
        copied = {**value}
        # The collector does not track a dict that holds only what cannot hold anything (before Python 3.14):
        # no enum is in it, and no other object of which orjson would ask anything.
        if is_tracked(copied):
            _fill(copied, left, depth)
        else:
            left[0] -= len(copied) + 1
        return copied
    if kind is list and depth:
        items = value.copy()
        left[0] -= len(items)
        if left[0] >= 0 or depth == DEPTH_LIMIT:
            if _SCALARS.issuperset(map(type, items)):
                return items
            return [item if (kind := type(item)) in _SCALARS else _plain(item, kind, left, depth - 1) for item in items]
    raise NotPlain


def _fill(copied: dict[Any, Any], left: list[int], depth: int) -> None:
    """Put copies in the place of the dicts and lists in a private dict. Raises as `_plain` does."""
    left[0] -= len(copied)
    if left[0] < 0:
        raise NotPlain
    for key, item in copied.items():
        kind = type(item)
        if kind not in _SCALARS:
            if type(key) is not str:  # setting it anew would ask the key for its hash
                raise NotPlain
            if kind is dict and depth > 1 and not is_tracked(inner := {**item}):  # as in `_plain`, without its call
                left[0] -= len(inner) + 1
                copied[key] = inner
            else:
                copied[key] = _plain(item, kind, left, depth - 1)


def parse_json(text: bytes | str) -> Any:
    """Return the value of a JSON text, also of one with numbers that no float can hold: they become infinite.

    >>> parse_json(b'[1, 1e400]')
    [1, inf]

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return orjson.loads(text)
    except ValueError:
        return json.loads(text, parse_int=_number, parse_constant=_no_constant)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:  # too many digits
        return float(text)


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def json_safe(value: object) -> JsonValue:
    """Return ``value`` with everything replaced that has no JSON form; its parts are copies."""
    try:
        return cast(JsonValue, _carried(_Walk(VALUE_LIMIT_BYTES).form(value, 0)))
    except _TooMany:
        return cast(JsonValue, orjson.loads(too_large(value, VALUE_LIMIT_BYTES)))


def json_form(value: object) -> JsonValue:
    """Return a copy of ``value`` as JSON has it: arrays, tuples and sets as lists, dates as texts, keys as texts.

    Raises:
        TypeError: something in it could only be described, as `to_json` does.
    """
    try:
        return cast(JsonValue, _carried(_Walk(VALUE_LIMIT_BYTES, strict=True).form(value, 0), strict=True))
    except _TooMany:
        raise TypeError(f"{_type_name(value)} is too large") from None


def placeholder(value: object) -> dict[str, JsonValue]:
    """Return the description that stands for a value without a JSON form."""
    return {"__type__": _type_name(value), "__repr__": _foreign_text(repr, value)}


def too_large(value: object, size_bytes: int) -> bytes:
    """Return the text that stands for a value whose own has ``size_bytes`` bytes, or at least as many."""
    return _dumps({"__type__": _type_name(value)[:100], "__too_large__": size_bytes})


def _type_name(value: object) -> str:
    return clean_text(class_name(type(value)))


def _foreign_text(ask: Callable[[Any], str], value: object) -> str:
    """Return what ``repr`` or ``str`` says of a value, cut to `REPR_LIMIT` characters."""
    try:
        text = str.__str__(ask(value))
    except BaseException as error:  # a foreign __repr__ may do anything
        if is_users_interrupt(error):
            raise
        return f"<{ask.__name__} raised {clean_text(class_name(type(error)))}>"
    return clean_text(text[:REPR_LIMIT])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _nested_text(value: object, limit_bytes: int) -> bytes:
    """Return the text of any value; that of its size, if it is too large to be walked through."""
    try:
        form = _Walk(limit_bytes).form(value, 0)
        try:
            return _dumps(form, None, _OPTIONS)
        except Exception:  # what needs care, see `plain_text`
            return _dumps(_carried(form), None, _OPTIONS)
    except _TooMany:
        return too_large(value, limit_bytes)
    except (RecursionError, MemoryError):  # the stack, or the memory, was nearly full before
        return _dumps({"__type__": _type_name(value), "__repr__": "<not enough stack or memory to write it>"})


class _Undescribed(TypeError):
    """Something has no JSON form but a description, which is not wanted."""


class _TooMany(Exception):
    """A walk met more values than a text within its limit can hold."""


class _Walk:
    """One way through a value, leaf by leaf. It gives up where the text is longer than the limit for certain."""

    __slots__ = ("_above", "_left", "_strict")

    def __init__(self, limit_bytes: int, *, strict: bool = False) -> None:
        self._left, self._strict = limit_bytes, strict
        #: Identities of the containers around the present value: one that holds itself ends.
        self._above: set[int] = set()

    def form(self, value: Any, depth: int) -> Any:
        """Return a value as texts, numbers and private dicts and lists of them.

        Keys that are no texts, and what UTF-8 or 64 bits cannot carry, are left to `_carried`.
        """
        try:
            kind = type(value)
            if kind in _SCALARS:
                return value
            identity = id(value)
            if depth >= DEPTH_LIMIT:
                return self._described({"__type__": _type_name(value), "__too_deep__": DEPTH_LIMIT})
            if identity in self._above:
                return self._described({"__type__": _type_name(value), "__repr__": "<holds itself>"})
            self._above.add(identity)
            try:
                if kind is dict:
                    return self._dict({**value}, depth)
                if kind is list:
                    return self._list(value.copy(), depth)
                return self._object(value, kind, depth)
            finally:
                self._above.discard(identity)
        except (_TooMany, _Undescribed):
            raise
        except BaseException as error:  # foreign code: codecs, properties, __iter__, __str__ may do anything
            if is_users_interrupt(error):
                raise
            return self._described(placeholder(value))

    def _list(self, items: list[Any], depth: int) -> list[Any]:
        """Replace in a private list what is neither text nor number."""
        self._spend(len(items))
        if _SCALARS.issuperset(map(type, items)):
            return items
        for position, item in enumerate(items):
            if type(item) not in _SCALARS:
                items[position] = self.form(item, depth + 1)
        return items

    def _dict(self, items: dict[Any, Any], depth: int) -> dict[Any, Any]:
        """Replace in a private dict what is neither text nor number."""
        self._spend(len(items))
        for key, item in items.items():
            if type(item) not in _SCALARS:
                if type(key) is not str:  # setting it anew would ask the key for its hash
                    return self._pairs(items.items(), depth)
                items[key] = self.form(item, depth + 1)
        return items

    def _pairs(self, pairs: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        return _object_of([(key, self.form(item, depth + 1)) for key, item in pairs], self._strict)

    def _object(self, value: Any, kind: type, depth: int) -> Any:
        """Return the form of what is no plain JSON, by its class."""
        self._spend(0)
        if issubclass(kind, (enum.Enum, *_BASES)):
            return self._derived(value, kind, depth)
        codec = codec_of(value)
        if codec is not None:
            return self._coded(codec, value, depth)
        if issubclass(kind, tuple):
            return self._list(list(tuple.__iter__(value)), depth)
        if issubclass(kind, set):
            return self._set(list(set.__iter__(value)), depth)
        if issubclass(kind, frozenset):
            return self._set(list(frozenset.__iter__(value)), depth)
        if issubclass(kind, Mapping):
            return self._pairs(self._read(lambda: value.items()), depth)
        if _is_dataclass(kind):
            return self._dict(_set_fields(value, kind), depth)
        if issubclass(kind, (Sequence, Set)):
            # A sequence that never raises IndexError ends where its length says.
            items = self._read(lambda: islice(value, len(value)))
            return self._list(items, depth) if issubclass(kind, Sequence) else self._set(items, depth)
        return self._described(placeholder(value))

    def _described(self, form: dict[str, Any]) -> dict[str, Any]:
        if self._strict:
            shown = str(form.get("__repr__", "it is nested too deep"))
            raise _Undescribed(f"{form['__type__']} has no form in JSON: {_one_line(shown)}")
        return form

    def _derived(self, value: Any, kind: type, depth: int) -> Any:
        """Return what a subclass of JSON's own classes holds, whatever its methods say."""
        if issubclass(kind, enum.Enum):
            return self.form(object.__getattribute__(value, "value"), depth)
        if issubclass(kind, str):
            return str.__str__(value)
        if issubclass(kind, int):
            return int.__int__(value)
        if issubclass(kind, float):
            return float.__float__(value)
        if issubclass(kind, collections.OrderedDict):
            return self._pairs(self._read(lambda: collections.OrderedDict.items(value)), depth)
        if issubclass(kind, dict):
            return self._dict({**dict.copy(value)}, depth)
        return self._list(list.copy(value), depth)

    def _set(self, items: list[Any], depth: int) -> list[Any]:
        """Return a set's items in order, so that equal sets have equal texts."""
        kinds = set(map(type, items))
        if kinds <= {int, float, bool} or kinds == {str}:
            self._spend(len(items))
            return sorted(items)
        return sorted(self._list(items, depth), key=lambda item: _dumps(_carried(item), None, _OPTIONS))

    def _coded(self, codec: Codec, value: Any, depth: int) -> Any:
        form = form_of(codec, value)
        if self._strict and type(form) is dict:
            if codec.name != "ndarray":
                return self._described(placeholder(value))
            form = value.tolist()  # it is large, and wanted whole
        seen = self._pairs(form.items(), depth) if type(form) is dict else self.form(form, depth)
        if not is_ours(codec) and len(_dumps(_carried(seen), None, _OPTIONS)) > PREVIEW_LIMIT_BYTES:
            raise ValueError(codec.name)
        return seen

    def _read(self, items: Callable[[], Iterable[Any]]) -> list[Any]:
        """Return a foreign collection's items, as many as the limit allows; again if it changed meanwhile."""
        limit = max(min(self._left, VALUE_LIMIT_BYTES), 0) // _STEP_BYTES
        for attempt in range(_TRIES):
            try:
                found = list(islice(items(), limit + 1))
                break
            except RuntimeError:
                if attempt == _TRIES - 1:
                    raise
        if len(found) > limit:
            raise _TooMany
        self._left -= _STEP_BYTES * len(found)
        return found

    def _spend(self, items: int) -> None:
        self._left -= _STEP_BYTES + 2 * items
        if self._left < 0:
            raise _TooMany


_BASES = (str, int, float, dict, list)


def _is_dataclass(kind: type) -> bool:
    return any("__dataclass_fields__" in vars(base) for base in bases_of(kind))


def _set_fields(value: object, kind: Any) -> dict[str, object]:
    """Return the fields of a dataclass that have a value."""
    items = {}
    for field in dataclasses.fields(kind):
        try:
            items[str.__str__(field.name)] = object.__getattribute__(value, field.name)
        except AttributeError:
            continue
    return items


def _object_of(pairs: list[tuple[Any, Any]], strict: bool = False) -> dict[str, Any]:
    """Return a dict whose keys are texts; with all its pairs in a list, if two keys have the same text.

    Raises:
        TypeError: they have, and ``strict``.
    """
    texts = [_key_text(key) for key, _ in pairs]
    if len(set(texts)) == len(texts):
        return dict(zip(texts, (item for _, item in pairs), strict=True))
    if strict:
        raise _Undescribed("two keys of a dict have the same text")
    return {"__type__": "dict", "items": [[_key_form(key), item] for key, item in pairs]}


def _key_text(key: object) -> str:
    kind = type(key)
    if issubclass(kind, str) and not issubclass(kind, enum.Enum):
        return clean_text(str.__str__(key))
    if kind is int and not _INT_MIN <= key <= _INT_MAX:  # type: ignore[operator]
        return _key_text_of_big(cast(int, key))
    return _foreign_text(str, key)


def _key_text_of_big(key: int) -> str:
    form = big_int(key)
    return str(form["value"]) if "value" in form else f"<int of {form['bits']} bits>"


def _key_form(key: object) -> Any:
    kind = type(key)
    if kind in _SCALARS:
        return _carried(key)
    return _key_text(key) if issubclass(kind, str) and not issubclass(kind, enum.Enum) else placeholder(key)


def _carried(form: Any, strict: bool = False) -> Any:
    """Return a form of `_Walk` with text as keys, and without what UTF-8 or 64 bits cannot carry.

    Raises:
        TypeError: something would be lost, and ``strict``.
    """
    kind = type(form)
    if kind is dict:
        return _object_of([(key, _carried(item, strict)) for key, item in form.items()], strict)
    if kind is list:
        return [_carried(item, strict) for item in form]
    if kind is float:
        return form if math.isfinite(form) else None
    if kind is str:
        carried: object = clean_text(form)
    elif kind is int:
        carried = form if _INT_MIN <= form <= _INT_MAX else big_int(form)
    else:
        return form
    if strict and carried != form:
        raise _Undescribed(f"{_one_line(_foreign_text(repr, form))} has no form in JSON")
    return carried
