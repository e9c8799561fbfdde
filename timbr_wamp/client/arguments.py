"""Arguments of calls as they are sent: checked, by position, and only values that the router can pass on.

A value that it cannot pass on would cost more than its own call: routers close the connection of who sends a
map with keys that are no texts. So it is converted here as a machine of this process writes it, or refused.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

from timbr_wamp.contract import Procedure, to_builtins
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.rows import is_table
from timbr_wamp.values import DEPTH_LIMIT, NotPlain, json_form, plain_text

#: Types of arguments that hold values of any kind.
_MESSAGES = (Any, list[Any], list[Any] | None, dict[str, Any] | None)

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_NUMBERS: Final = frozenset({float, bool, type(None), bytes})


def wire_arguments(procedure: Procedure, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the arguments of a procedure of the contract, by position, without trailing defaults.

    Raises:
        InvalidArgument: one is missing, unknown, of the wrong type, or holds what cannot be sent.
    """
    bound = procedure.bind(args, kwargs)
    arguments = []
    for parameter in procedure.parameters[: _last(procedure, bound) + 1]:
        if parameter.name not in bound:
            arguments.append(parameter.default)
        elif bound[parameter.name] is not None and procedure.types[parameter.name] in _MESSAGES:
            arguments.append(sendable(bound[parameter.name], parameter.name))
        else:
            arguments.append(to_builtins(bound[parameter.name]))
    return arguments


def _last(procedure: Procedure, bound: dict[str, Any]) -> int:
    """Return the position of the last argument that differs from its default; -1 when none does."""
    positions = [
        position
        for position, parameter in enumerate(procedure.parameters)
        if parameter.default is inspect.Parameter.empty
        or bound.get(parameter.name, parameter.default) is not parameter.default
    ]
    return positions[-1] if positions else -1


def sendable(value: Any, name: str) -> Any:
    """Return a value that the router can pass on: itself, or converted as a machine writes it in its records.

    Keys of dicts become texts, sets and arrays lists, times texts. Numbers, NaN included, and bytes are
    sent as they are.

    >>> sendable({1: {2, 3}}, "message")
    {'1': [2, 3]}

    Raises:
        InvalidArgument: it, or something in it, has no such form: ``2**70``, a lone surrogate, an object.
    """
    try:
        plain_text(value)
    except NotPlain:
        if not _is_plain(value, DEPTH_LIMIT):  # bytes, or more than `plain_text` looks through
            return _converted(value, name)
    return value


def _is_plain(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in _NUMBERS:
        return True
    if kind is str:
        return value.isascii() or _is_utf8(value)
    if kind is int:
        return bool(_INT_MIN <= value <= _INT_MAX)
    if not depth:
        return False
    if kind is list or kind is tuple:
        return all(_is_plain(item, depth - 1) for item in value)
    if kind is dict:
        return all(type(key) is str and _is_utf8(key) and _is_plain(value[key], depth - 1) for key in value)
    return False


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _converted(value: Any, name: str) -> Any:
    try:
        return json_form(value)
    except TypeError as error:
        problem = f"it cannot be sent: {error}; use dicts, lists, texts and numbers only"
        if is_table(value):
            problem = (
                f"{type(value).__name__} is a table, not a message; put_many() puts its rows, m.source = reads them"
            )
        raise InvalidArgument(name, problem) from None
