"""Names of timbr-machine that are gone: whoever uses one is told what takes its place."""

from __future__ import annotations

from typing import Final, NoReturn

from timbr_wamp.errors import InvalidArgument, NameRemoved


class Removed:
    """An attribute that is gone, of a class and of its instances: reading it raises `NameRemoved`."""

    def __init__(self, instead: str) -> None:
        self._instead = instead

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"{owner.__name__}.{name}"

    def __get__(self, instance: object, owner: type | None = None) -> NoReturn:
        raise NameRemoved(self._name, self._instead)


#: Arguments of ``stop`` that are gone.
STOP_ARGUMENTS: Final = {
    "clear_buffer": "stop() never clears the queue; pause() and resume() keep it as well",
    "hard_stop": "stop() stops at once, stop(drain=True) processes what waits first, close() is for good",
}


def refuse_removed(verb: str, arguments: dict[str, object], known: dict[str, str]) -> None:
    """Raise for keyword arguments that ``verb`` does not take: with what to use, if they are gone.

    Raises:
        InvalidArgument: it was given one of ``known``.
        TypeError: it was given another one.
    """
    for name in arguments:
        if name in known:
            raise InvalidArgument(name, f"is gone: {known[name]}")
        raise TypeError(f"{verb}() got an unexpected keyword argument {name!r}")
