"""What a slot function is given: as many values as it requires, newest first.

Slot *i* gets as many of ``(f[i-1], …, f0, in)`` as it has *required* positional parameters, but at
least one if it can take one; without a readable signature one; with ``*args`` all. Required
parameters beyond those get the JSON texts ``(f[i-1]_s, …, f0_s, in_s)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: `Arguments.values` of a function with ``*args``.
ALL = -1


@dataclass(frozen=True, slots=True)
class Arguments:
    """How many values, and how many JSON texts after them, a slot function gets."""

    values: int
    texts: int = 0


#: The newest value alone: what a slot gets whose signature cannot be read.
ONE = Arguments(1)


def arguments_of(function: Callable[..., Any], slot: int) -> Arguments:
    """Return what ``function`` gets in ``slot``, where ``slot + 1`` values are at hand.

    >>> arguments_of(float, 3)
    Arguments(values=1, texts=0)
    >>> arguments_of(lambda f1, f0, message: f1, 2)
    Arguments(values=3, texts=0)
    >>> arguments_of(lambda *values: values, 2)
    Arguments(values=-1, texts=0)
    >>> arguments_of(lambda message, text: text, 0)
    Arguments(values=1, texts=1)
    """
    at_hand = slot + 1
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return ONE  # builtins such as int and str tell nothing
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) and required <= at_hand:
        return Arguments(ALL)
    if required == 0:
        return Arguments(1 if positional else 0)
    return Arguments(min(required, at_hand), min(max(required - at_hand, 0), at_hand))


def refusal(function: object) -> str | None:
    """Return why ``function`` cannot be a slot, None when it can."""
    step = getattr(function, "step", None)
    if inspect.isclass(function) and callable(step):
        return "is a class with step(); put an instance of it in the slot"
    if is_object(function):
        function = step
    if not callable(function):
        return "is not callable"
    kinds = _kinds(function)
    if any(inspect.isgeneratorfunction(kind) or inspect.isasyncgenfunction(kind) for kind in kinds):
        return "is a generator function: one message gives one value; return a list"
    return None


def is_object(function: object) -> bool:
    """Tell whether it is an instance with ``step()``, rather than something to call."""
    return (
        not inspect.isclass(function) and not inspect.isroutine(function) and callable(getattr(function, "step", None))
    )


def is_async(function: object) -> bool:
    """Tell whether calling it gives something to await."""
    return any(inspect.iscoroutinefunction(kind) for kind in _kinds(function))


def _kinds(function: object) -> tuple[object, object]:
    """Return what tells of a callable's kind: the innermost function, and how its class is called."""
    inner = function
    while hasattr(inner, "func"):  # functools.partial
        inner = inner.func
    return inner, inspect.getattr_static(type(inner), "__call__", None)
