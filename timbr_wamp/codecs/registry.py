"""Which codec a value has: registered ones first, then those of entry points, then ours.

Ours are found by class, along the value's method resolution order. Entry points
(``timbr_wamp.codecs``) are loaded once, when the first value comes that plain JSON does not know.
"""

from __future__ import annotations

import datetime
import enum
import logging
import threading
import uuid
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from timbr_wamp import plugins
from timbr_wamp.codecs import arrays, files, plain, tables
from timbr_wamp.codecs.base import Codec, bases_of, class_path
from timbr_wamp.errors import InvalidArgument, is_users_interrupt

logger = logging.getLogger(__name__)

#: A class, or the name of one in a library that need not be there: ``"pandas.DataFrame"``.
Key = type | str

_OURS: dict[Key, Codec] = {**plain.CODECS, **files.CODECS, **arrays.CODECS, **tables.CODECS}
_OUR_CODECS = frozenset(map(id, _OURS.values()))

#: What plain JSON is made of, and kinds whose text everybody expects: nobody may take them.
_FIXED = (datetime.date, datetime.datetime, datetime.time, uuid.UUID, type(None), bool, tuple, object, type)
#: Nor subclasses of these, which are written as what they are.
_FIXED_BASES = (str, int, float, list, dict, enum.Enum)


class _Registry:
    """Registered codecs and those of entry points. Any thread; the tables are replaced whole."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registered: dict[Key, Codec] = {}
        self._asked: tuple[Codec, ...] | None = None
        #: Class → (registered codec, our codec).
        self._found: WeakKeyDictionary[type, tuple[Codec | None, Codec | None]] = WeakKeyDictionary()
        self._warned: set[str] = set()

    def register(self, key: Key, codec: Codec) -> None:
        with self._lock:
            self._registered = {**self._registered, key: codec}
            self._found = WeakKeyDictionary()

    def find(self, value: object) -> Codec | None:
        kind = type(value)
        if kind in _FIXED:
            return _OURS.get(kind)
        found = self._found  # read before the table: what an older table says never gets into a newer memory
        pair = found.get(kind)
        if pair is None:
            pair = found[kind] = _nearest(kind, self._registered), _nearest(kind, _OURS)
        if pair[0] is not None:
            return pair[0]
        for codec in self._asked if self._asked is not None else self._load():
            try:
                if codec.matches(value):
                    return codec
            except BaseException as error:  # a foreign codec
                if is_users_interrupt(error):
                    raise
                self.warn(codec, error)
        return pair[1]

    def warn(self, codec: Codec, error: BaseException) -> None:
        """Log a codec's first failure."""
        if codec.name not in self._warned and len(self._warned) < 1000:
            self._warned.add(codec.name)
            logger.warning("codec %r failed, values are described instead: %r", codec.name, error)

    def _load(self) -> tuple[Codec, ...]:
        """Load the codecs of entry points, once; one that fails is left out with a warning."""
        codecs = []
        for name in plugins.names(plugins.CODECS):
            try:
                codecs.append(_made(plugins.load(plugins.CODECS, name)))
            except BaseException as error:  # a foreign module, or factory
                if is_users_interrupt(error):
                    raise
                logger.warning("codec %r cannot be loaded, and is left out: %r", name, error)
        with self._lock:
            if self._asked is None:
                self._asked = tuple(codecs)
            return self._asked


def _made(part: object) -> Codec:
    """Return a codec from what an entry point names: the codec itself, its class, or a function that makes it."""
    made = part() if callable(part) and (isinstance(part, type) or not isinstance(part, Codec)) else part
    if not isinstance(made, Codec):
        raise TypeError(f"{made!r} is no codec: it lacks one of name, matches, preview")
    return made


def _nearest(kind: type, table: Mapping[Key, Codec]) -> Codec | None:
    """Return the codec of the nearest class that has one."""
    for base in bases_of(kind):
        codec = table.get(base) or table.get(class_path(base))
        if codec is not None:
            return codec
    return None


_registry = _Registry()


def register_codec(cls: type | str, codec: Codec) -> None:
    """Let ``codec`` write the values of a class and its subclasses, before any other codec. Any thread.

    ``cls`` may be a name, package and class such as ``"pandas.DataFrame"``, if it should not be imported.
    A codec registered again for the same class replaces the former.

    Raises:
        InvalidArgument: no codec, or a class that is plain JSON (numbers, str, list, dict, dates, UUID, enums).
    """
    if not isinstance(codec, Codec):
        raise InvalidArgument("codec", f"{codec!r} lacks one of name, matches, preview")
    if isinstance(cls, type) and (cls in _FIXED or issubclass(cls, _FIXED_BASES)):
        raise InvalidArgument("cls", f"{cls.__qualname__} is written as plain JSON, and never meets a codec")
    _registry.register(cls, codec)


def codec_of(value: object) -> Codec | None:
    """Return the codec of a value, None if there is none. Loads the codecs of entry points at first."""
    return _registry.find(value)


def is_ours(codec: Codec) -> bool:
    """Return whether a codec came with timbr_wamp: its forms are known to be short."""
    return id(codec) in _OUR_CODECS


def form_of(codec: Codec, value: object) -> object:
    """Return what a codec makes of ``value``; a mapping has its ``__type__``. Raises what the codec raises."""
    try:
        form = codec.preview(value)
    except BaseException as error:
        if not is_ours(codec):
            _registry.warn(codec, error)
        raise
    if issubclass(type(form), Mapping):
        mapping: dict[object, object] = dict(form)  # type: ignore[call-overload]
        return mapping if "__type__" in mapping else {"__type__": codec.name} | mapping
    return form
