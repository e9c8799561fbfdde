"""What a codec is, and what all of ours share: short texts, classes asked without running their code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

#: First items of an array, rows of a table and bytes of a text in a preview.
HEAD_ITEMS, HEAD_ROWS, HEAD_BYTES = 10, 5, 32
#: Most characters of a cell, a name or a number as text in a preview.
CELL_LIMIT = 40
#: Most characters of a text that stands for a whole value (a path, a decimal number) in a preview.
TEXT_LIMIT = 200

# What a class says of itself, read past its metaclass, which may answer anything.
_mro = type.__dict__["__mro__"].__get__
_qualname = type.__dict__["__qualname__"].__get__
_module = type.__dict__["__module__"].__get__


@runtime_checkable
class Codec(Protocol):
    """How the values of some classes are written. Any thread; no state between calls.

    What a method raises harms nobody else: the value becomes a placeholder that describes it.
    """

    @property
    def name(self) -> str:
        """The ``__type__`` of this codec's forms."""

    def matches(self, value: object) -> bool:
        """Return whether ``value`` is this codec's. Asked only if it was found by its entry point."""

    def preview(self, value: object) -> object:
        """Return a short form: a mapping, or any other value that has a form. Never reads or moves ``value``."""


@dataclass(frozen=True, slots=True)
class ClassCodec:
    """A codec made of one function, for classes that it is registered with."""

    name: str
    preview: Callable[[Any], object]

    def matches(self, value: object) -> bool:
        """Return True: who asks has found it by the value's class."""
        return True


def bases_of(kind: type) -> tuple[type, ...]:
    """Return a class and its bases, nearest first."""
    bases: tuple[type, ...] = _mro(kind)
    return bases


def class_name(kind: type) -> str:
    """Return the qualified name of a class, cut to `TEXT_LIMIT` characters."""
    return str.__str__(_qualname(kind))[:TEXT_LIMIT]


def class_path(kind: type) -> str:
    """Return package and qualified name of a class, such as ``"pandas.DataFrame"``."""
    module = _module(kind) if isinstance(_module(kind), str) else ""
    return f"{module.partition('.')[0]}.{_qualname(kind)}"


def loaded(module: str) -> Any:
    """Return a module that somebody else imported. Raises LookupError if nobody did."""
    return sys.modules[module]


def cell(value: object) -> object:
    """Return a number as it is, and anything else as a text of at most `CELL_LIMIT` characters."""
    kind = type(value)
    if value is None or issubclass(kind, (bool, float)):
        return value
    if kind is int and abs(value) < 2**63:  # type: ignore[arg-type]
        return value
    if issubclass(kind, str):
        return _cut(str.__str__(value), CELL_LIMIT)
    if issubclass(kind, (bytes, list, tuple, dict, set, frozenset)) and not _is_label(value):
        return f"<{class_name(kind)[:CELL_LIMIT]} of {len(value)}>"  # type: ignore[arg-type]  # its text may be long
    return _cut(str(value), CELL_LIMIT)


def _is_label(value: object) -> bool:
    return type(value) is tuple and len(value) <= 4 and all(type(part) in (str, int, float) for part in value)


def cut(text: str) -> str:
    """Return at most `TEXT_LIMIT` characters of ``text``."""
    return _cut(text, TEXT_LIMIT)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


def python_number(item: Any) -> Any:
    """Return a number of numpy's as Python's own; anything else as it is."""
    if not issubclass(type(item), loaded("numpy").generic):
        return item
    return item.item() if item.dtype.kind in "biuf" and item.dtype.itemsize <= 8 else item
