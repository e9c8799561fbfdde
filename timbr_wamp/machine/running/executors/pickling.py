"""Pickling between a machine and its child processes: by value where needed, with the names of source files.

`cloudpickle` since 3.1.2 names every file of pickled code ``<dynamic-code>``, so that tracebacks would show no source
lines, and classes lose their qualified names, by which records name exceptions. Both are kept here.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from types import CodeType
from typing import Any

import cloudpickle


def dumps(value: object) -> bytes:
    """Return a value as bytes; functions and classes that a child cannot import by value. Raises anything."""
    with io.BytesIO() as file:
        ValuePickler(file, protocol=5).dump(value)
        return file.getvalue()


class ValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """See `dumps`."""

    def reducer_override(self, obj: Any) -> Any:
        """Keep the file name of code and the qualified name of classes."""
        if type(obj) is CodeType:
            _, arguments = self.dispatch_table[CodeType](obj)[:2]
            return _code, (obj.co_filename, *arguments)
        reduced = super().reducer_override(obj)
        if isinstance(obj, type) and isinstance(reduced, tuple) and len(reduced) == 6 and reduced[5] is not None:
            state = (reduced[5], reduced[2], obj.__qualname__)
            return (*reduced[:2], state, None, None, _set_class)
        return reduced


def _code(filename: str, *arguments: Any) -> CodeType:
    return CodeType(*arguments).replace(co_filename=filename)


def _set_class(made: type, state: tuple[Callable[[type, Any], Any], Any, str]) -> type:
    set_state, original, made.__qualname__ = state
    set_state(made, original)
    return made
