"""Make a `FunctionRef`, the form in which a function travels, from what people have at hand.

A text is source text and travels as such. Anything else travels as cloudpickle: functions of
``__main__`` (notebooks, scripts) by value, those of importable modules by name. The source text goes
along whenever it can be had, so that people can read what runs, and as the way out when the kernel
has another Python.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable

from timbr_wamp.contract import FunctionRef
from timbr_wamp.errors import InvalidArgument

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def function_ref(function: object) -> FunctionRef:
    """Return the reference to send for ``function``: a callable, source text, or a ready reference.

    >>> function_ref("lambda x: x + 1").kind
    'source'

    Raises:
        InvalidArgument: it cannot be pickled.
    """
    if isinstance(function, FunctionRef):
        return function
    if isinstance(function, str):
        return FunctionRef(kind="source", text=function)
    import cloudpickle  # 30 ms to import; only who sends functions pays

    try:
        data = cloudpickle.dumps(function)
    except Exception as error:  # foreign objects' __reduce__ may raise anything
        problem = f"{type(function).__name__} cannot be sent: {error}; give source text, or make it inside the kernel"
        raise InvalidArgument("function", problem) from None
    return FunctionRef(kind="cloudpickle", data=data, python=PYTHON, text=source_text(function))


def reference(name: str) -> FunctionRef:
    """Return the reference to what ``module:name`` is in the kernel."""
    return FunctionRef(kind="reference", text=name)


def as_source(ref: FunctionRef) -> FunctionRef | None:
    """Return the same function as source text, for another Python version; None when there is none."""
    return FunctionRef(kind="source", text=ref.text) if ref.kind == "cloudpickle" and ref.text else None


def source_text(function: object) -> str | None:
    """Return the source text of a function, of a lambda just the expression; None when it cannot be had."""
    if not callable(function):
        return None
    try:
        text = textwrap.dedent(inspect.getsource(function))
    except Exception:  # not there, or a foreign object that answers oddly
        return None
    if getattr(function, "__name__", "") == "<lambda>":
        return _lambda_text(text, function)
    return text


def _lambda_text(text: str, function: Callable[..., object]) -> str | None:
    """Return the one lambda in ``text`` that is ``function``; None when several could be."""
    for candidate in (text, text.strip().rstrip(",)]}")):
        try:
            tree = ast.parse(candidate)
        except SyntaxError:
            continue
        lambdas = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
        names = getattr(function, "__code__", None)
        fitting = [
            node for node in lambdas if names is not None and _arguments(node) == names.co_varnames[: _count(names)]
        ]
        if len(fitting) == 1:
            return ast.get_source_segment(candidate, fitting[0])
        return None
    return None


def _arguments(node: ast.Lambda) -> tuple[str, ...]:
    return tuple(argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))


def _count(code: object) -> int:
    return int(getattr(code, "co_argcount", 0)) + int(getattr(code, "co_kwonlyargcount", 0))
