"""Convert functions to `FunctionRef`, the form in which they are sent to a machine.

A text is sent as source text. Anything else is sent as cloudpickle: functions of ``__main__``
(notebooks, scripts) by value, functions of importable modules by name. The source text is included
when it is available, so that people can read what runs, and for kernels with another Python version.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from types import LambdaType
from typing import Any

from timbr_wamp.contract import FunctionRef
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.names import begins_python

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def function_ref(function: object) -> FunctionRef:
    """Return the `FunctionRef` of a callable, of source text, or of a `FunctionRef`.

    >>> function_ref("lambda x: x + 1").kind
    'source'

    Raises:
        InvalidArgument: it cannot be pickled.
    """
    if isinstance(function, FunctionRef):
        return function
    if isinstance(function, str):
        return FunctionRef(kind="source", text=function)
    import cloudpickle  # slow to import (30 ms), and needed here only

    try:
        data = cloudpickle.dumps(function)
    except Exception as error:  # __reduce__ of users' objects may raise anything
        problem = f"{type(function).__name__} cannot be sent: {error}; pass source text, or create it in the kernel"
        raise InvalidArgument("function", problem) from None
    return FunctionRef(kind="cloudpickle", data=data, python=PYTHON, text=source_text(function))


def is_reference(text: str) -> bool:
    """Return whether a text is ``module:name``, and no source text such as ``lambda:x``.

    >>> is_reference("math:sqrt"), is_reference("lambda:x"), is_reference("math.sqrt")
    (True, False, False)
    """
    return _REFERENCE.fullmatch(text.strip()) is not None and not begins_python(text.strip())


def reference(name: str) -> FunctionRef:
    """Return a reference to ``module:name``, which the kernel imports."""
    return FunctionRef(kind="reference", text=name)


def as_source(ref: FunctionRef) -> FunctionRef | None:
    """Return a cloudpickle's source text as a reference, for another Python version; None without source text."""
    return FunctionRef(kind="source", text=ref.text) if ref.kind == "cloudpickle" and ref.text else None


def source_text(function: object) -> str | None:
    """Return the source text of a function, or of a lambda the expression alone; None when it is not available."""
    if not callable(function):
        return None
    try:
        text = textwrap.dedent(inspect.getsource(function))
    except Exception:  # not there, or a foreign object that answers oddly
        return None
    known: Any = function
    is_lambda = type(known) is LambdaType and known.__name__ == "<lambda>"  # no foreign object is asked for its name
    return _lambda_text(text, known) if is_lambda else text


def _lambda_text(text: str, function: Callable[..., object]) -> str | None:
    """Return the lambda expression in ``text`` that is ``function``; None when several match."""
    for candidate in (text, text.strip().rstrip(",)]}")):
        try:
            tree = ast.parse(candidate)
        except SyntaxError:
            continue
        lambdas = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
        code = getattr(function, "__code__", None)
        matching = [
            node
            for node in lambdas
            if code is not None and _arguments(node) == code.co_varnames[: _argument_count(code)]
        ]
        if len(matching) == 1:
            return ast.get_source_segment(candidate, matching[0])
        return None
    return None


def _arguments(node: ast.Lambda) -> tuple[str, ...]:
    return tuple(argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))


def _argument_count(code: object) -> int:
    return int(getattr(code, "co_argcount", 0)) + int(getattr(code, "co_kwonlyargcount", 0))
