"""Declare procedures and topics, and check their arguments and results.

A procedure is a method of a class in `timbr_wamp.contract.api` with the decorator `procedure`. Its
signature defines the arguments, its annotations their types, its docstring the documentation. Caller
and callee use `Procedure.bind` to check arguments and `Procedure.result` to convert results.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar, get_type_hints

import msgspec

from timbr_wamp.contract.structs import Access
from timbr_wamp.errors import InvalidArgument, TimbrError, clean_text, message_of

Scope = Literal["node", "host", "kernel", "machine"]
F = TypeVar("F", bound=Callable[..., Any])

#: Numbers, and times in seconds, are at least minus this and below it: 64 bits, 30 years.
NUMBER_LIMIT, SECONDS_LIMIT = 2**63, 1e9

_MARK = "__timbr_procedure__"


@dataclass(frozen=True)
class Procedure:
    """A procedure of the wire."""

    scope: Scope
    name: str
    access: Access
    signature: inspect.Signature
    types: Mapping[str, Any]
    result_type: Any
    doc: str
    #: Type of progressive results; None if the procedure sends none.
    progress_type: Any = None
    #: The procedure runs users' code or waits, so a machine runs it in its thread pool, not in the control thread.
    pooled: bool = False
    errors: tuple[type[TimbrError], ...] = ()

    @cached_property
    def parameters(self) -> tuple[inspect.Parameter, ...]:
        """The parameters without ``self``."""
        return tuple(self.signature.parameters.values())

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, Any]:
        """Return checked arguments by name.

        Raises:
            InvalidArgument: one is missing, unknown or of the wrong type, or a number is not finite or too
                large; the error names it.
        """
        try:
            bound = self.signature.bind(*args, **kwargs)
        except (TypeError, RecursionError) as error:
            raise InvalidArgument(self.name, clean_text(f"{error}; it takes {self.signature_text}")) from None
        return {name: self._converted(name, value) for name, value in bound.arguments.items()}

    def _converted(self, name: str, value: object) -> Any:
        try:
            converted = msgspec.convert(value, self.types[name], strict=True)
        except (msgspec.ValidationError, ValueError, RecursionError, OverflowError) as error:
            raise InvalidArgument(name, message_of(error)) from None
        if self.types[name] is not Any and not _is_usable(name, converted):
            raise InvalidArgument(name, "it holds a number that is not finite, or too large")
        return converted

    @cached_property
    def signature_text(self) -> str:
        """The signature as text, ``(slot: int | str, …)``, for error messages."""
        return "(" + ", ".join(str(parameter) for parameter in self.parameters) + ")"

    def result(self, value: object) -> Any:
        """Return a result that was received over the wire, converted to its type."""
        return msgspec.convert(value, self.result_type, strict=False)

    def progress(self, value: object) -> Any:
        """Return a progressive result that was received over the wire, converted to its type."""
        return msgspec.convert(value, self.progress_type, strict=False)


@dataclass(frozen=True)
class Topic:
    """A topic of the wire. The name ``""`` stands for the topic ``K.machine`` itself."""

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


def _is_usable(name: str, value: object) -> bool:
    """Return whether the numbers of an argument are finite and not absurd; messages are not looked into."""
    if isinstance(value, (int, float)):
        limit = SECONDS_LIMIT if name.endswith("_s") else NUMBER_LIMIT
        return -limit <= value < limit  # false for NaN
    if isinstance(value, msgspec.Struct):
        return all(_is_usable(field, getattr(value, field)) for field in value.__struct_fields__)
    return True


def procedures_of(api: type, scope: Scope) -> dict[str, Procedure]:
    """Return the procedures that a class declares, by name, in order of declaration."""
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
    """Return a result as plain values that every serializer accepts. Bytes stay bytes."""
    return msgspec.to_builtins(value, builtin_types=(bytes,), str_keys=True)
