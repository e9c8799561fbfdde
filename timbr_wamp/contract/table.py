"""How a procedure or topic is declared, found, called and validated.

A procedure is a method of one of the classes in `timbr_wamp.contract.api`, marked `procedure`. Its
signature is its arguments, its annotations their types, its docstring its documentation. Both
sides use `Procedure.bind` (caller's words → checked arguments) and `Procedure.result`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar, get_type_hints

import msgspec

from timbr_wamp.contract.structs import Access
from timbr_wamp.errors import InvalidArgument, TimbrError

Scope = Literal["node", "host", "kernel", "machine"]
F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__timbr_procedure__"


@dataclass(frozen=True)
class Procedure:
    """One procedure of the wire."""

    scope: Scope
    name: str
    access: Access
    signature: inspect.Signature
    types: Mapping[str, Any]
    result_type: Any
    doc: str
    #: Type of progressive results; None when there are none.
    progress_type: Any = None
    #: Runs code of users, or waits: never in the control thread.
    pooled: bool = False
    errors: tuple[type[TimbrError], ...] = ()

    @cached_property
    def parameters(self) -> tuple[inspect.Parameter, ...]:
        """Its parameters, without ``self``."""
        return tuple(self.signature.parameters.values())

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, Any]:
        """Return checked arguments by name.

        Raises:
            InvalidArgument: one is missing, unknown or of the wrong type; the error names it.
        """
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArgument(self.name, f"{error}; it takes {self.signature_text}") from None
        return {name: self._converted(name, value) for name, value in bound.arguments.items()}

    def _converted(self, name: str, value: object) -> Any:
        try:
            return msgspec.convert(value, self.types[name], strict=True)
        except msgspec.ValidationError as error:
            raise InvalidArgument(name, str(error)) from None

    @cached_property
    def signature_text(self) -> str:
        """``(slot: int | str, …)`` for messages."""
        return "(" + ", ".join(str(parameter) for parameter in self.parameters) + ")"

    def result(self, value: object) -> Any:
        """Return the typed result of what came over the wire."""
        return msgspec.convert(value, self.result_type, strict=False)

    def progress(self, value: object) -> Any:
        """Return the typed progressive result of what came over the wire."""
        return msgspec.convert(value, self.progress_type, strict=False)


@dataclass(frozen=True)
class Topic:
    """One topic of the wire. The name ``""`` is the machine's own topic, ``K.machine``."""

    scope: Scope
    name: str
    access: Access
    payload: Any
    doc: str
    retained: bool = False


def procedure(
    access: Access,
    *,
    progress: Any = None,
    pooled: bool = False,
    errors: tuple[type[TimbrError], ...] = (),
) -> Callable[[F], F]:
    """Mark a method as a procedure of the wire."""

    def mark(function: F) -> F:
        setattr(function, _MARK, {"access": access, "progress_type": progress, "pooled": pooled, "errors": errors})
        return function

    return mark


def procedures_of(api: type, scope: Scope) -> dict[str, Procedure]:
    """Return the procedures that a class declares, by name, in its order."""
    table = {}
    for name, function in vars(api).items():
        mark = getattr(function, _MARK, None)
        if mark is None:
            continue
        hints = get_type_hints(function)
        signature = inspect.signature(function)
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
        result_type = hints.pop("return", None)
        table[name] = Procedure(
            scope,
            name,
            signature=signature,
            types=hints,
            result_type=result_type,
            doc=inspect.getdoc(function) or "",
            **mark,
        )
    return table


def to_builtins(value: object) -> Any:
    """Return a result as the plain values that every serializer takes. Bytes stay bytes."""
    return msgspec.to_builtins(value, builtin_types=(bytes,), str_keys=True)
