"""The arguments of a slot function: as many values as it requires, newest first.

Slot *i* gets as many of ``(f[i-1], …, f0, in)`` as it has *required* positional parameters, but at
least one if it can take one; without a readable signature one; with ``*args`` all. Required
parameters beyond those get the JSON texts ``(f[i-1]_s, …, f0_s, in_s)``.

A decorated function has the parameters that its wrapper names. Only a wrapper that takes nothing but
``*args`` is assumed to pass on its arguments; then the wrapped function's parameters count.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FunctionType, MethodType
from typing import Any, Protocol, cast

from timbr_wamp.errors import counted
from timbr_wamp.machine.slots.callables import (
    BUILTINS,
    CACHE,
    DEPTH_LIMIT,
    MISSING,
    called_of,
    is_async,
    is_class,
    is_generator_function,
    is_kind,
    method_of,
    of_class,
    own,
    wrapped_of,
)

#: `Arguments.values` of a function with ``*args``.
ALL = -1


@dataclass(frozen=True, slots=True)
class Arguments:
    """How many values, and how many JSON texts after them, a slot function gets."""

    values: int
    texts: int = 0


#: The newest value alone: for functions whose signature cannot be read.
ONE = Arguments(1)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a call."""

    #: ``(name, required)`` of each positional one.
    positional: tuple[tuple[str, bool], ...] = ()
    #: Number of them that cannot be given by name.
    positional_only: int = 0
    #: It takes ``*args``.
    any_positional: bool = False
    #: Keyword-only parameters without a default.
    required_keywords: tuple[str, ...] = ()
    #: Keyword-only parameters with one.
    keywords: tuple[str, ...] = ()
    #: It takes ``**kwargs``.
    any_keywords: bool = False
    #: Why no call can succeed, if that is known.
    problem: str | None = None

    @property
    def required(self) -> int:
        """How many positional parameters have no default."""
        return sum(required for _, required in self.positional)

    @property
    def passes_on(self) -> bool:
        """It takes nothing but ``*args``, which it is assumed to pass on."""
        return self.any_positional and not self.positional


def arguments_of(function: Callable[..., Any], slot: int) -> Arguments:
    """Return the arguments of ``function`` in ``slot``, where ``slot + 1`` values are available.

    >>> arguments_of(float, 3)
    Arguments(values=1, texts=0)
    >>> arguments_of(lambda f1, f0, message: f1, 2)
    Arguments(values=3, texts=0)
    >>> arguments_of(lambda *values: values, 2)
    Arguments(values=-1, texts=0)
    >>> arguments_of(lambda message, text: text, 0)
    Arguments(values=1, texts=1)
    """
    parameters = parameters_of(function)
    if parameters is None:
        return ONE
    at_hand, required = slot + 1, parameters.required
    if parameters.any_positional and required <= at_hand:
        return Arguments(ALL)
    if required == 0:
        return Arguments(1 if parameters.positional else 0)
    return Arguments(min(required, at_hand), min(max(required - at_hand, 0), at_hand))


def refusal(thing: object, slot: int) -> str | None:
    """Return why ``thing`` cannot be in slot ``slot``, None when it can."""
    if is_class(thing) and callable(of_class(cast("type", thing), "step")):
        return "is a class with step(); put an instance of it in the slot"
    function: object = called_of(thing)
    if not callable(function):
        found = of_class(type(thing), "step")
        return "is not callable" if found is MISSING else "has a step that is no method; write def step(self, ...)"
    if is_generator_function(function):
        return "is a generator function: one message gives one value; return a list"
    if is_kind(function, CACHE) and is_async(wrapped_of(function)):
        return "caches coroutines, each of which can be awaited only once; cache what they return instead"
    return _unmet(called_of(thing), slot)


def _unmet(function: Callable[..., Any], slot: int) -> str | None:
    """Return why no message can satisfy the function's parameters in a slot."""
    parameters = parameters_of(function)
    if parameters is None:
        return None
    if parameters.problem is not None:
        return parameters.problem
    if parameters.required_keywords:
        names = ", ".join(parameters.required_keywords)
        return f"requires the keyword {names}, which no message gives; give it a default, or use functools.partial"
    at_hand = slot + 1
    if parameters.required > 2 * at_hand:
        values = "1 value and its JSON text" if at_hand == 1 else f"{at_hand} values and their JSON texts"
        return f"requires {counted(parameters.required, 'argument')}, where slot {slot} has {values}"
    return None


# --- parameters ---


def parameters_of(thing: object) -> Parameters | None:
    """Return the parameters of the function that a call of ``thing`` ends in; None when they cannot be read."""
    return _parameters(thing, DEPTH_LIMIT)


def _parameters(thing: object, depth: int) -> Parameters | None:
    if depth == 0:
        return None
    if is_kind(thing, FunctionType):
        parameters = _of_code(cast("FunctionType", thing))
        return (_of_wrapped(thing, depth) if parameters.passes_on else None) or parameters
    if is_kind(thing, MethodType):
        return _bound(cast("MethodType", thing).__func__, depth)
    if is_kind(thing, staticmethod):
        return _parameters(cast("Any", thing).__func__, depth - 1)
    if is_kind(thing, functools.partial):
        return _of_partial(thing, depth)
    if is_class(thing):
        return _of_class(cast("type", thing), depth)
    if is_kind(thing, *BUILTINS):
        return _of_builtin(thing)
    return _of_instance(thing, depth)


def _bound(function: object, depth: int) -> Parameters | None:
    """Return the parameters without the first, which is bound."""
    if not is_kind(function, FunctionType):
        parameters = _parameters(function, depth - 1)
        return None if parameters is None else _without_first(parameters)
    parameters = _without_first(_of_code(cast("FunctionType", function)))
    wrapped = _of_wrapped(function, depth) if parameters.passes_on else None
    return parameters if wrapped is None else _without_first(wrapped)


def _without_first(parameters: Parameters) -> Parameters:
    left = max(parameters.positional_only - 1, 0)
    return replace(parameters, positional=parameters.positional[1:], positional_only=left)


def _of_wrapped(thing: object, depth: int) -> Parameters | None:
    """Return the parameters in a callable's ``__signature__``, or those of what it wraps; None without either."""
    signature = own(thing, "__signature__")
    if is_kind(signature, inspect.Signature):
        return _of_signature(signature)
    wrapped = wrapped_of(thing)
    return None if wrapped is MISSING else _parameters(wrapped, depth - 1)


def _of_code(function: FunctionType) -> Parameters:
    code = function.__code__
    count, defaults = code.co_argcount, len(function.__defaults__ or ())
    names = code.co_varnames[:count]
    keywords = code.co_varnames[count : count + code.co_kwonlyargcount]
    given = function.__kwdefaults__ or {}
    return Parameters(
        positional=tuple((name, n < count - defaults) for n, name in enumerate(names)),
        positional_only=code.co_posonlyargcount,
        any_positional=bool(code.co_flags & inspect.CO_VARARGS),
        required_keywords=tuple(name for name in keywords if name not in given),
        keywords=tuple(name for name in keywords if name in given),
        any_keywords=bool(code.co_flags & inspect.CO_VARKEYWORDS),
    )


def _of_signature(signature: inspect.Signature) -> Parameters:
    every = list(signature.parameters.values())
    positional = [p for p in every if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keyword_only = [p for p in every if p.kind is p.KEYWORD_ONLY]
    return Parameters(
        positional=tuple((p.name, p.default is p.empty) for p in positional),
        positional_only=sum(p.kind is p.POSITIONAL_ONLY for p in positional),
        any_positional=any(p.kind is p.VAR_POSITIONAL for p in every),
        required_keywords=tuple(p.name for p in keyword_only if p.default is p.empty),
        keywords=tuple(p.name for p in keyword_only if p.default is not p.empty),
        any_keywords=any(p.kind is p.VAR_KEYWORD for p in every),
    )


def _of_partial(partial: Any, depth: int) -> Parameters | None:
    fields = functools.partial.__dict__
    function, args, keywords = (fields[name].__get__(partial) for name in ("func", "args", "keywords"))
    parameters = _parameters(function, depth - 1)
    if parameters is None or parameters.problem is not None:
        return parameters
    positional, given = parameters.positional, len(args)
    if given > len(positional) and not parameters.any_positional:
        excess = f"is a partial with {given} arguments of a function that takes {len(positional)}"
        return replace(parameters, problem=excess)
    left = positional[given:]
    only = max(parameters.positional_only - given, 0)
    for index, (name, _) in enumerate(left):
        if index >= only and name in keywords:  # this one and later ones can only be given by name
            named = tuple(n for n, required in left[index:] if required and n not in keywords)
            parameters = replace(
                parameters, any_positional=False, required_keywords=(*parameters.required_keywords, *named)
            )
            left = left[:index]
            break
    known = {name for name, _ in positional[max(given, parameters.positional_only) :]}
    known |= {*parameters.required_keywords, *parameters.keywords}
    unknown = [name for name in keywords if name not in known]
    problem: str | None = None
    if unknown and not parameters.any_keywords:
        problem = f"is a partial with the keyword {unknown[0]}, which its function does not take"
    missing = tuple(name for name in parameters.required_keywords if name not in keywords)
    return replace(parameters, positional=left, positional_only=only, required_keywords=missing, problem=problem)


def _of_class(cls: type, depth: int) -> Parameters | None:
    call = of_class(type(cls), "__call__")
    if is_kind(call, FunctionType):  # of its metaclass
        own_ones = _without_first(_of_code(call))
        if not own_ones.passes_on:
            return own_ones
    signature = of_class(cls, "__signature__")
    if is_kind(signature, inspect.Signature):
        return _of_signature(signature)
    for name in ("__new__", "__init__"):
        made = of_class(cls, name)
        made = made.__func__ if is_kind(made, staticmethod) else made
        if is_kind(made, FunctionType):
            parameters = _bound(made, depth)
            if parameters is not None and not parameters.passes_on:
                return parameters
            init = of_class(cls, "__init__")
            return _bound(init, depth) if name == "__new__" and is_kind(init, FunctionType) else parameters
    return _of_builtin(cls) if type(cls) is type and signature is MISSING else None


def _of_builtin(thing: Any) -> Parameters | None:
    try:
        return _of_signature(inspect.signature(thing, follow_wrapped=False))
    except (ValueError, TypeError):
        return None  # builtins such as int and str have no signature


def _of_instance(thing: object, depth: int) -> Parameters | None:
    numpy = sys.modules.get("numpy")
    if numpy is not None and is_kind(thing, getattr(numpy, "ufunc", bytes)):
        count = own(thing, "nin")
        return Parameters(positional=tuple((f"x{n}", True) for n in range(count)))
    call = of_class(type(thing), "__call__")
    if is_kind(call, FunctionType):
        parameters = _bound(call, depth)
        wrapped = _of_wrapped(thing, depth) if parameters is None or parameters.passes_on else None
        return parameters if wrapped is None else wrapped
    if call is MISSING or is_kind(call, *BUILTINS):  # written in C
        return _of_wrapped(thing, depth)
    bound = method_of(thing, "__call__")
    return None if bound is None else _parameters(bound, depth - 1)


class TakesValues(Protocol):
    """Has the numbers of values and texts that a function gets: `Arguments`, or a step of a plan."""

    @property
    def values(self) -> int: ...
    @property
    def texts(self) -> int: ...


def reads_message(takes: TakesValues, at_hand: int, lead: int) -> bool:
    """Tell whether the message itself is among the values that a function takes of the ``at_hand`` there are.

    ``lead`` unset slots before the first function carry the message.
    """
    return takes.values < 0 or takes.values > at_hand - (lead + 1)


def given(takes: TakesValues, values: list[Any], texts: list[bytes]) -> list[Any]:
    """Return the arguments of a call: values newest first, then JSON texts."""
    arguments = values[::-1] if takes.values < 0 else values[: -takes.values - 1 : -1]
    if takes.texts:
        arguments = arguments + [text.decode() for text in texts[: -takes.texts - 1 : -1]]
    return arguments
