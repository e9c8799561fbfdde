"""The blocking classes are made from the async ones: each method is written, typed and documented once.

``start = blocking(AsyncMachine.start)`` in a class body is a method with the signature and the docstring of the
coroutine function; it runs it in the client's loop and waits. Type checkers and ``help()`` see both. Arguments
are checked in the calling thread, see `timbr_wamp.client.checks`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any, Concatenate, Generic, Never, ParamSpec, TypeVar, overload

from timbr_wamp.client.checks import check_of, checked_methods, with_check
from timbr_wamp.client.shared_connection import SharedConnection

P = ParamSpec("P")
A = TypeVar("A")
T = TypeVar("T")
R = TypeVar("R")

#: Marks the functions that `Blocking` gives the name of their class.
_MADE = "_made_from"


class Blocking(Generic[A]):
    """Base of the blocking classes: the client, and the async object whose methods they call."""

    def __init__(self, shared: SharedConnection, aio: A) -> None:
        self._shared = shared
        #: The same methods as coroutines, awaitable in any running loop.
        self.aio = aio

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, value in vars(cls).items():
            if hasattr(value, _MADE):
                value.__name__, value.__qualname__, value.__module__ = (
                    name,
                    f"{cls.__qualname__}.{name}",
                    cls.__module__,
                )
        checked_methods(cls)

    def __repr__(self) -> str:
        return repr(self.aio)


@overload
def blocking(method: Callable[Concatenate[Any, P], Awaitable[T]]) -> Callable[Concatenate[Any, P], T]: ...
@overload
def blocking(
    method: Callable[Concatenate[Any, P], Awaitable[T]],
    make: Callable[[SharedConnection, T], R],
    *,
    face: Callable[..., object] | None = None,
) -> Callable[Concatenate[Any, P], R]: ...
def blocking(
    method: Callable[..., Awaitable[Any]],
    make: Callable[[SharedConnection, Any], Any] | None = None,
    *,
    face: Callable[..., object] | None = None,
) -> Any:
    """Return the blocking method of an async one. ``make(shared, result)`` makes the result's own blocking object.

    ``face`` is the async class's method of the same name and docstring, where that one does not wait.
    """
    check, unchecked = check_of(face or method)[0], check_of(method)[1]

    @wraps(face or method)
    def call(self: Blocking[Any], /, *args: Any, **kwargs: Any) -> Any:
        check((self, *args), kwargs)
        result = self._shared.wait(partial(unchecked, self.aio), *args, **kwargs)
        return result if make is None else make(self._shared, result)

    return with_check(_marked(call, face or method, make), check)


def converted(
    method: Callable[Concatenate[Any, P], T], make: Callable[[SharedConnection, T], R]
) -> Callable[Concatenate[Any, P], R]:
    """Return the method of a blocking class for one of the async class that does not wait itself."""

    @wraps(method)
    def call(self: Blocking[Any], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return make(self._shared, method(self.aio, *args, **kwargs))

    made: Callable[Concatenate[Any, P], R] = with_check(_marked(call, method, make), check_of(method)[0])
    return made


def like(
    method: Callable[Concatenate[Any, P], Awaitable[T]],
) -> Callable[[Callable[..., T]], Callable[Concatenate[Any, P], T]]:
    """Give a method that is written out, because it calls back in the caller's thread, the async one's face."""

    def decorate(function: Callable[..., T]) -> Callable[Concatenate[Any, P], T]:
        check, _ = check_of(method)

        @wraps(method)
        def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
            check((self, *args), kwargs)
            return function(self, *args, **kwargs)

        made: Callable[Concatenate[Any, P], T] = with_check(_marked(call, method, None), check)
        return made

    return decorate


class attribute(Generic[T]):
    """A property of a blocking class: the result of a coroutine function without arguments, asked for each time."""

    def __init__(self, method: Callable[[Any], Awaitable[T]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, instance: None, owner: object) -> attribute[T]: ...
    @overload
    def __get__(self, instance: Blocking[Any], owner: object) -> T: ...
    def __get__(self, instance: Blocking[Any] | None, owner: object) -> T | attribute[T]:
        if instance is None:
            return self
        return instance._shared.wait(self._method, instance.aio)

    def __set__(self, instance: object, value: Never) -> None:
        raise AttributeError(f"{self._method.__name__} cannot be set")


def _marked(call: Any, method: Callable[..., object], make: Callable[..., object] | None) -> Any:
    """Mark a made function; its signature tells what it returns, where that is another class."""
    setattr(call, _MADE, method)
    if make is not None:
        made = make if isinstance(make, type) else make.__annotations__.get("return", "object")
        name = made.__name__ if isinstance(made, type) else made
        call.__annotations__ = {**method.__annotations__, "return": made}
        call.__signature__ = inspect.signature(method).replace(return_annotation=name)
    return call
