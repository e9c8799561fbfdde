"""Read a value that a person wrote: JSON, or a Python literal, in a terminal and in a notebook alike.

A text that is JSON means what JSON says. Otherwise it is Python, in which JSON's names ``true``, ``false``
and ``null`` are understood too. Pure.
"""

from __future__ import annotations

import ast
import json
import math
from typing import NoReturn

from timbr_wamp.errors import InvalidArgument

#: JSON's names, and what they mean in Python.
JSON_NAMES: dict[str, bool | None] = {"true": True, "false": False, "null": None}

#: What reading a text may raise: of syntax, of numbers and texts, and of what is nested too deeply.
_UNREADABLE = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)


def literal(text: str, argument: str = "message") -> object:
    """Return the value of a text: JSON, or else a Python literal.

    >>> literal('{"x": true}'), literal("{'x': True, 'y': null}"), literal("(1, 2)")
    ({'x': True}, {'x': True, 'y': None}, (1, 2))

    Raises:
        InvalidArgument: it is neither, or has a number or a text that JSON cannot carry.
    """
    try:
        return _read(text, argument)
    except _Unread as error:
        hint = "a text needs quotes: '\"text\"'"
        raise InvalidArgument(argument, f"is not JSON: {error}; nor a Python literal; {hint}") from None


def literal_or_text(text: str, argument: str) -> object:
    """Return the value of a text as `literal` does; the text itself if it is neither JSON nor Python.

    >>> literal_or_text("None", "x"), literal_or_text("drop", "x"), literal_or_text("[1,null]", "x")
    (None, 'drop', [1, None])

    Raises:
        InvalidArgument: it has a number or a text that JSON cannot carry.
    """
    try:
        return _read(text, argument)
    except _Unread:
        return text


def json_value(text: str) -> object:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON, or has a number or a text that JSON parsers would change.
        RecursionError: it is nested too deeply.
    """
    value: object = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    if "\\u" in text or not text.isascii():
        _check_text(json.dumps(value, ensure_ascii=False))
    return value


def _read(text: str, argument: str) -> object:
    try:
        return json_value(text)
    except ValueError as error:
        problem = str(error)
    except RecursionError:
        problem = "it is nested too deeply"
    try:
        return _python_value(text)
    except _Uncarried as error:
        raise InvalidArgument(argument, str(error)) from None
    except _UNREADABLE:
        raise _Unread(problem) from None


class _Unread(Exception):
    """A text that is neither JSON nor a Python literal; says why it is no JSON."""


class _Uncarried(ValueError):
    """A literal that JSON cannot carry."""


def _python_value(text: str) -> object:
    tree = _JsonNames().visit(ast.parse(text.strip(), mode="eval"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float) and not math.isfinite(node.value):
            raise _Uncarried("has a number that is out of range")
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            _check_text(node.value)
    value: object = ast.literal_eval(tree)
    return value


class _JsonNames(ast.NodeTransformer):
    """Replaces JSON's names by their values."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(JSON_NAMES[node.id]) if node.id in JSON_NAMES else node


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Uncarried("has half of a surrogate pair, which is no character") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _Uncarried(f"{digits} is out of the range of numbers")
    return number
