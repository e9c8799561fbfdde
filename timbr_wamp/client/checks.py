"""The arguments of the public methods, checked when they are called, by the methods' own signatures and annotations.

What a method makes of its arguments later would otherwise fail somewhere inside, or in another thread, with
Python's own errors. Values, as opposed to types, are checked where they are used: by the contract, for what is sent.
"""

from __future__ import annotations

import collections.abc as abc
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, wraps
from typing import Any, Literal, TypeVar, get_args, get_origin

from timbr_wamp.errors import WrongArguments

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)

#: Special methods with arguments of users.
_OPERATORS = frozenset({"__setitem__"})
_CHECK = "_check"


class Check:
    """The check of a function's arguments; it reads the annotations at the first call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._signature = inspect.signature(function)

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Check the arguments of a call.

        Raises:
            WrongArguments: one is missing, unknown, or of another type than its annotation says.
        """
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            problem = f"{error}; it takes {self._signature_text}"
            raise WrongArguments(self._function.__name__, problem) from None
        for name, value in bound.arguments.items():
            hint = self.hints.get(name, Any)
            if hint is not Any and not fits(value, hint):
                raise WrongArguments(name, f"expected {self._annotations[name]}, got {_named(value)}")

    @cached_property
    def _annotations(self) -> dict[str, Any]:
        given = self._signature.parameters.values()
        annotated = [each for each in given if each.annotation is not each.empty]
        return {each.name: each.annotation for each in annotated if each.kind not in (each.VAR_KEYWORD,)}

    @cached_property
    def hints(self) -> dict[str, Any]:
        """The types by name. A name that is imported for type checkers only is no type here, and is not checked."""
        found = {}
        for name, annotation in self._annotations.items():
            holder = types.SimpleNamespace(__annotations__={name: annotation})
            try:
                hint = typing.get_type_hints(holder, inspect.unwrap(self._function).__globals__)[name]
            except NameError:
                continue
            many = self._signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
            found[name] = types.GenericAlias(tuple, (hint, ...)) if many else hint
        return found

    @cached_property
    def _signature_text(self) -> str:
        parameters = [each for name, each in self._signature.parameters.items() if name != "self"]
        return f"({', '.join(map(str, parameters))})"


def _named(value: object) -> str:
    return repr(value) if isinstance(value, (float, str)) and len(repr(value)) < 40 else type(value).__name__


def checked(function: F) -> F:
    """Return the function so that each call checks its arguments first; see `Check`."""
    check = Check(function)
    made: Any
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def checked_coroutine(*args: Any, **kwargs: Any) -> Any:
            check(args, kwargs)
            return await function(*args, **kwargs)

        made = checked_coroutine
    else:

        @wraps(function)
        def checked_call(*args: Any, **kwargs: Any) -> Any:
            check(args, kwargs)
            return function(*args, **kwargs)

        made = checked_call
    setattr(made, _CHECK, check)
    return typing.cast("F", made)


def checked_methods(cls: C) -> C:
    """Have all public methods of a class check their arguments, except those that do already."""
    for name, value in list(vars(cls).items()):
        if inspect.isfunction(value) and not hasattr(value, _CHECK) and (name[0] != "_" or name in _OPERATORS):
            setattr(cls, name, checked(value))
    return cls


def check_of(function: Callable[..., Any]) -> tuple[Check, Callable[..., Any]]:
    """Return the check of a function that `checked` made, or a new one; and the function without it."""
    check = getattr(function, _CHECK, None)
    return (Check(function), function) if check is None else (check, inspect.unwrap(function))


def with_check(made: F, check: Check) -> F:
    """Mark a function that makes the check itself."""
    setattr(made, _CHECK, check)
    return made


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value may be passed for an annotation. Sequences are anything with items that is no text.

    >>> fits(3, float), fits("3", float), fits(float("nan"), float | None), fits([1], Sequence[str])
    (True, False, False, False)
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in args)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in args)
    if hint in _PLAIN:
        return _PLAIN[hint](value)
    if origin is abc.Callable:
        return callable(value)
    if origin is abc.Sequence:
        texts = isinstance(value, (str, bytes, bytearray, Mapping))
        return hasattr(type(value), "__iter__") and not texts and _items_fit(value, args[0])
    if origin is tuple:
        return _items_fit(value, args[0])
    kind = origin if origin is not None else hint
    return isinstance(value, kind) if isinstance(kind, type) else True


def _items_fit(values: Any, hint: Any) -> bool:
    """Look at what can be looked at twice."""
    return hint is Any or not isinstance(values, (list, tuple)) or all(fits(each, hint) for each in values)


def _is_number(value: Any) -> bool:
    return type(value) is not bool and isinstance(value, numbers.Real) and not math.isnan(value)


_PLAIN: dict[Any, Callable[[Any], bool]] = {
    Any: lambda value: True,
    object: lambda value: True,
    None: lambda value: value is None,
    type(None): lambda value: value is None,
    float: _is_number,
    int: lambda value: type(value) is not bool and isinstance(value, numbers.Integral),
    bool: lambda value: isinstance(value, numbers.Integral) and value in (0, 1),
    str: lambda value: isinstance(value, str),
}
