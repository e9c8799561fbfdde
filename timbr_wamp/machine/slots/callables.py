"""Inspects callables by their types, without running their code.

No `getattr`, `hasattr` or `isinstance` is used on foreign objects, so no property, ``__getattr__`` or
``__class__`` of theirs runs (mocks and proxies answer to every name). Attributes are read from the type,
from the object's own dictionary, or by descriptors written in C. Chains (partials, ``__wrapped__``) are
followed `DEPTH_LIMIT` steps.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    CodeType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    WrapperDescriptorType,
)
from typing import Any, TypeVar, cast

T = TypeVar("T")

#: Most partials, bound methods and wrappers around one function that are followed.
DEPTH_LIMIT = 32

#: Stands for a missing attribute.
MISSING: Any = type("Missing", (), {"__repr__": lambda _: "MISSING"})()

#: Functions written in C.
BUILTINS = (
    BuiltinFunctionType, ClassMethodDescriptorType, MethodDescriptorType, MethodWrapperType, WrapperDescriptorType,
)  # fmt: skip
#: Descriptors that read a field of a C structure.
_FIELDS = (GetSetDescriptorType, MemberDescriptorType)
#: The type of what `functools.cache` and `functools.lru_cache` return.
CACHE = type(functools.cache(len))

_mro_of = type.__dict__["__mro__"].__get__
_dict_of = type.__dict__["__dict__"].__get__
_CO_COROUTINE = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE
_CO_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


def is_kind(thing: object, *kinds: type) -> bool:
    """Tell whether the type of ``thing`` is one of ``kinds`` or derived from it, whatever its ``__class__`` says."""
    return issubclass(type(thing), kinds)


def is_class(thing: object) -> bool:
    """Tell whether it is a class."""
    return is_kind(thing, type)


def of_class(owner: type, name: str) -> Any:
    """Return what a class or its bases hold under ``name``, unbound; `MISSING` when nothing."""
    for base in _mro_of(owner):
        if name in _dict_of(base):
            return _dict_of(base)[name]
    return MISSING


def _found(thing: object, name: str) -> tuple[Any, bool]:
    """Return what an object holds under ``name``, unbound, and whether its type holds it rather than itself."""
    if is_class(thing):
        return of_class(cast("type", thing), name), False
    in_type = of_class(type(thing), name)
    if in_type is not MISSING and of_class(type(in_type), "__set__") is not MISSING:
        return in_type, True
    dictionary = of_class(type(thing), "__dict__")
    if is_kind(dictionary, *_FIELDS):  # else its class defines ``__dict__`` itself
        found = dict.get(dictionary.__get__(thing), name, MISSING)
        if found is not MISSING:
            return found, False
    return in_type, True


def namespace_of(owner: type) -> dict[str, Any]:
    """Return what a class itself defines, as a copy."""
    return dict(_dict_of(owner))


def own(thing: object, name: str) -> Any:
    """Return a plain attribute: of the object's dictionary, or a field of its C structure; else `MISSING`."""
    found, in_type = _found(thing, name)
    if not in_type:
        return found
    if is_kind(found, *_FIELDS):
        try:
            return found.__get__(thing)
        except Exception:  # an empty slot
            return MISSING
    return MISSING


def method_of(thing: object, name: str) -> Callable[..., Any] | None:
    """Return the method ``name`` of an object, bound to it; None when its type and dictionary have none.

    A property is not a method: reading it would run the object's code.
    """
    found, in_type = _found(thing, name)
    if in_type and is_kind(found, *_FIELDS):
        found, in_type = own(thing, name), False
    if found is MISSING:
        return None
    if not in_type:
        return cast("Callable[..., Any]", found) if callable(found) else None
    if is_kind(found, FunctionType):
        return MethodType(found, thing)
    if is_kind(found, staticmethod):
        return cast("Callable[..., Any]", found.__func__)
    if is_kind(found, classmethod):
        return MethodType(found.__func__, type(thing))
    if is_kind(found, functools.singledispatchmethod):
        return MethodType(_dispatching(found), thing)
    if callable(found) or is_kind(found, functools.partialmethod):
        bind = of_class(type(found), "__get__")
        bound = found if bind is MISSING else bind(found, thing, type(thing))
        return bound if callable(bound) else None
    return None


def _dispatching(method: Any) -> Callable[..., Any]:
    """Return a method as a function: the signature of a bound `singledispatchmethod` wrongly includes ``self``."""

    @functools.wraps(method.func)
    def dispatch(self: object, *args: object) -> object:
        return method.__get__(self, type(self))(*args)

    return dispatch


def is_object(thing: object) -> bool:
    """Tell whether it is an instance with a method ``step``, rather than a callable."""
    if is_class(thing) or is_kind(thing, FunctionType, MethodType, functools.partial, *BUILTINS):
        return False
    return method_of(thing, "step") is not None


def called_of(thing: Any) -> Callable[..., Any]:
    """Return what a slot with ``thing`` in it calls: an object's ``step``, else the thing itself."""
    step = method_of(thing, "step") if is_object(thing) else None
    return cast("Callable[..., Any]", thing) if step is None else step


def inner_of(thing: object) -> object:
    """Return what a partial, a bound or static method, or an instance with ``__call__`` calls; `MISSING` otherwise."""
    if is_kind(thing, functools.partial):
        return _partial_func(thing)
    if is_kind(thing, MethodType, staticmethod, classmethod):
        return cast("Any", thing).__func__
    if is_class(thing) or is_kind(thing, FunctionType, CACHE, *BUILTINS):
        return MISSING
    return of_class(type(thing), "__call__")


def _partial_func(partial: Any) -> object:
    return functools.partial.__dict__["func"].__get__(partial)


def innermost(thing: object) -> object:
    """Return the function at the end of partials, bound methods and ``__call__``."""
    for _ in range(DEPTH_LIMIT):
        inner = inner_of(thing)
        if inner is MISSING or is_kind(inner, WrapperDescriptorType):
            return thing
        thing = inner
    return thing


def wrapped_of(thing: object) -> object:
    """Return the ``__wrapped__`` that `functools.wraps` sets; `MISSING` when there is none."""
    return own(thing, "__wrapped__")


def code_of(thing: object) -> CodeType | None:
    """Return the code of the Python function that a call ends in, None when it is none."""
    inner = innermost(thing)
    return cast("FunctionType", inner).__code__ if is_kind(inner, FunctionType) else None


def is_async(thing: object) -> bool:
    """Tell whether calling it returns an awaitable, as far as its type shows."""
    for _ in range(DEPTH_LIMIT):
        code = cast("FunctionType", thing).__code__ if is_kind(thing, FunctionType) else None
        if (code is not None and code.co_flags & _CO_COROUTINE) or _is_marked(thing):
            return True
        thing = inner_of(thing)
        if thing is MISSING:
            return False
    return False


def _is_marked(thing: object) -> bool:
    """Tell whether it has the mark of `inspect.markcoroutinefunction`, or asyncio's older one."""
    mark = getattr(inspect, "_is_coroutine_mark", MISSING)
    if mark is not MISSING and own(thing, "_is_coroutine_mark") is mark:
        return True
    coroutines = sys.modules.get("asyncio.coroutines")
    older = getattr(coroutines, "_is_coroutine", MISSING)
    return older is not MISSING and own(thing, "_is_coroutine") is older


def is_generator_function(thing: object) -> bool:
    """Tell whether calling it gives a generator, plain or async."""
    code = code_of(thing)
    return code is not None and bool(code.co_flags & _CO_GENERATOR) and not code.co_flags & _CO_COROUTINE


def is_unawaited(value: object) -> bool:
    """Tell whether a value must be awaited or iterated by ``async for`` before it is a result.

    Coroutines of any kind, async generators, asyncio's futures and tasks. Other awaitables (Dask's
    futures) are values that a later slot may wait for itself.
    """
    if is_kind(value, CoroutineType, AsyncGeneratorType):
        return True
    if is_kind(value, GeneratorType):
        return bool(cast("GeneratorType[Any, Any, Any]", value).gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)
    kind = type(value)
    if of_class(kind, "__await__") is MISSING:
        return False
    futures = sys.modules.get("asyncio.futures")
    if futures is not None and issubclass(kind, futures.Future):
        return True
    return all(of_class(kind, name) is not MISSING for name in ("send", "throw", "close"))
