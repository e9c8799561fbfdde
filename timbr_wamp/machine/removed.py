"""Removed names of timbr-machine: using one raises an error that names the replacement."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, Final, NoReturn

from timbr_wamp.errors import InvalidArgument, NameRemoved


class Removed:
    """A removed attribute of a class and its instances: reading it raises `NameRemoved`."""

    def __init__(self, instead: str) -> None:
        self._instead = instead

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"{owner.__name__}.{name}"

    def __get__(self, instance: object, owner: type | None = None) -> NoReturn:
        raise NameRemoved(self._name, self._instead)


class NoSwitch:
    """A method whose name was a switch in timbr-machine: assigning to it raises `NameRemoved`."""

    def __init__(self, method: Callable[..., object], instead: str) -> None:
        self._method, self._instead = method, instead
        self.__doc__ = method.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"{owner.__name__}.{name}"

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self._method if instance is None else MethodType(self._method, instance)

    def __set__(self, instance: object, value: object) -> NoReturn:
        raise NameRemoved(self._name, self._instead)


#: Removed arguments of ``stop``, and what to use instead.
STOP_ARGUMENTS: Final = {
    "clear_buffer": "stop() never clears the queue; pause() and resume() keep it as well",
    "hard_stop": "stop() stops at once, stop(drain=True) processes what waits first, close() is for good",
}


def refuse_removed(verb: str, arguments: dict[str, object], known: dict[str, str]) -> None:
    """Raise for keyword arguments that ``verb`` does not take; for removed ones with what to use instead.

    Raises:
        InvalidArgument: one of ``known`` was given.
        TypeError: another one was given.
    """
    for name in arguments:
        if name in known:
            raise InvalidArgument(name, f"was removed: {known[name]}")
        raise TypeError(f"{verb}() got an unexpected keyword argument {name!r}")
