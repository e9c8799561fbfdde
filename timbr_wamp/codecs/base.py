"""What a codec is, and what all of ours share: brief texts, libraries that somebody else imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

#: So many first items of an array, rows of a table or bytes of a text stand in a preview.
HEAD_ITEMS, HEAD_ROWS, HEAD_BYTES = 10, 5, 32
#: A cell, a name or a number as text has so many characters in a preview.
BRIEF_LIMIT = 40
#: A text that stands for a whole value (a path, a decimal number) has so many in a preview.
TEXT_LIMIT = 200

#: The keys and values of a form, without its ``__type__``.
Form = Mapping[str, object]


@runtime_checkable
class Codec(Protocol):
    """How the values of some classes are written, and read again. Any thread; no state between calls.

    What a method raises harms nobody else: the value becomes a placeholder that describes it, or
    stays the mapping that was read.
    """

    @property
    def name(self) -> str:
        """The ``__type__`` of this codec's forms, by which `load` is found."""

    def matches(self, value: object) -> bool:
        """Return whether ``value`` is this codec's. Asked only if it was found by its entry point."""

    def preview(self, value: object) -> object:
        """Return a short form for topics and records: sizes and a sample. Never reads or moves ``value``."""

    def full(self, value: object) -> object:
        """Return the complete form for captures, a mapping if `load` shall restore it."""

    def load(self, form: Mapping[str, Any]) -> object:
        """Return the object of a full form. ``form`` may come from anybody: run no code that it names.

        Raises anything for a form that cannot be restored, which then stays as it is.
        """


@dataclass(frozen=True, slots=True)
class ClassCodec:
    """A codec made of functions, for classes that it is registered with."""

    name: str
    preview: Callable[[Any], object]
    full: Callable[[Any], object]
    load: Callable[[Mapping[str, Any]], object]

    def matches(self, value: object) -> bool:
        """Return True: who asks has found it by the value's class."""
        return True


def same(name: str, form: Callable[[Any], object], load: Callable[[Mapping[str, Any]], object]) -> ClassCodec:
    """Return a codec for small values, whose preview is already complete."""
    return ClassCodec(name, form, form, load)


def not_restored(form: Mapping[str, Any]) -> object:
    """Refuse to restore: `load` of kinds whose class is not ours to make."""
    raise TypeError(form.get("__type__"))


def loaded(module: str) -> Any:
    """Return a module that somebody else imported. Raises LookupError if nobody did."""
    return sys.modules[module]


def brief(value: object) -> object:
    """Return a number as it is, and anything else as a text of at most `BRIEF_LIMIT` characters."""
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, str):
        return _cut(value, BRIEF_LIMIT)
    if isinstance(value, (bytes, list, tuple, dict, set, frozenset)) and not _is_label(value):
        return f"<{type(value).__qualname__[:BRIEF_LIMIT]} of {len(value)}>"  # its text could be of any length
    return _cut(str(value), BRIEF_LIMIT)


def _is_label(value: object) -> bool:
    return isinstance(value, tuple) and len(value) <= 4 and all(type(part) in (str, int, float) for part in value)


def cut(text: str) -> str:
    """Return at most `TEXT_LIMIT` characters of ``text``."""
    return _cut(text, TEXT_LIMIT)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


def natural(item: Any) -> Any:
    """Return a number of numpy's as Python's own; anything else as it is."""
    kind = getattr(getattr(item, "dtype", None), "kind", "")
    return item.item() if kind in ("b", "i", "u", "f") and item.shape == () and item.dtype.itemsize <= 8 else item
