"""Arguments of a machine's calls, checked when the call is made, so that the error names the argument."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from timbr_wamp.errors import InvalidArgument

_TEXTS = (str, bytes, bytearray)


def checked_whole(name: str, value: object, least: int = 0, most: int | None = None) -> int:
    """Return a whole number; raise InvalidArgument unless it is one from ``least`` to ``most``."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidArgument(name, f"{value!r} is not a whole number {limits}")
    return number


def checked_seconds(name: str, value: object) -> float:
    """Return a number of seconds; raise InvalidArgument for anything else. One below 0 has passed already."""
    if isinstance(value, bool) or not isinstance(value, Real) or value != value:
        raise InvalidArgument(name, f"{value!r} is not a number of seconds")
    return float(value)


def checked_timeout(name: str, value: object) -> float | None:
    """Return a number of seconds, or None: no limit."""
    return None if value is None else checked_seconds(name, value)


def checked_list(name: str, value: object, what: str) -> Any:
    """Return a collection; raise InvalidArgument for a text, which is one of them, and for what is none."""
    if isinstance(value, (*_TEXTS, Mapping)) or not isinstance(value, Iterable):
        raise InvalidArgument(name, f"a list of {what}, not {type(value).__name__}")
    return value


def checked_by_slot(name: str, value: object) -> Any:
    """Return a mapping; raise InvalidArgument for anything else."""
    if not isinstance(value, Mapping):
        raise InvalidArgument(name, f"a dict by slot, not {type(value).__name__}")
    return value


def check_instance(name: str, value: object, kind: type | tuple[type, ...], what: str) -> None:
    """Raise InvalidArgument unless ``value`` is of that type."""
    if not isinstance(value, kind):
        raise InvalidArgument(name, f"{what}, not {type(value).__name__}")
