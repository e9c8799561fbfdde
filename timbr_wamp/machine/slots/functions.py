"""Slot functions as they travel and as people read them: reference → function, function → words.

Source text runs with a copy of the namespace it is given, so that setting a slot changes no
notebook variable. Compiled texts are put into `linecache`, so that tracebacks show their lines.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import sys
import textwrap
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import cloudpickle

from timbr_wamp.contract import FunctionRef
from timbr_wamp.errors import InvalidArgument, InvalidSource, PythonMismatch
from timbr_wamp.machine.slots.parsing import undisturbed

#: Source text kept beside a function, characters.
SOURCE_LIMIT = 20_000

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def load(ref: FunctionRef, namespace: Mapping[str, object] | None = None) -> Any:
    """Return what the reference names: usually a function. Runs the sender's code.

    Raises:
        InvalidSource: text that does not compile, raises when run, or ends in no value.
        PythonMismatch: a cloudpickle of another Python minor version.
        InvalidArgument: a part that this kind of reference needs is missing.
    """
    if ref.kind == "source":
        return _from_source(_needed(ref.text, "text"), namespace or {})
    if ref.kind == "reference":
        return _from_reference(_needed(ref.text, "text"))
    if ref.python != PYTHON:
        raise PythonMismatch(str(ref.python), PYTHON)
    try:
        return cloudpickle.loads(ref.data or b"")
    except Exception as error:
        raise InvalidSource(f"the pickled function cannot be loaded: {type(error).__name__}: {error}") from error


def _needed(text: str | None, name: str) -> str:
    if not text or not text.strip():
        raise InvalidArgument(f"function.{name}", "is missing")
    return text


def _from_reference(text: str) -> Any:
    module_name, _, path = text.strip().partition(":")
    if not path:
        raise InvalidSource(f"{text!r} is no reference; write module:name")
    try:
        thing: Any = import_module(module_name)
        for name in path.split("."):
            thing = getattr(thing, name)
    except (ImportError, AttributeError) as error:
        raise InvalidSource(f"{text!r} cannot be found: {error}") from error
    except (Exception, SystemExit) as error:  # the module's own code
        raise InvalidSource(f"importing {text!r} raised {type(error).__name__}: {error}") from error
    return thing


def _from_source(text: str, namespace: Mapping[str, object]) -> Any:
    text = textwrap.dedent(text).strip("\n") + "\n"
    filename = f"<slot source {hashlib.sha256(text.encode()).hexdigest()[:12]}>"
    try:
        tree = undisturbed(lambda: ast.parse(text, filename))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        shown = getattr(error, "text", None)
        raise InvalidSource(f"the source text does not compile: {error.args[0]}", line, shown) from None
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    globals_: dict[str, Any] = {"__builtins__": __builtins__, **namespace, "__name__": "__slot__"}
    try:
        return _last_value(tree, filename, globals_)
    except InvalidSource:
        raise
    except (Exception, SystemExit) as error:  # the sender's code; its `exit()` must not leave him without an answer
        line = _line_of(error, filename)
        raise InvalidSource(
            f"the source text raised {type(error).__name__}: {error}", line, linecache.getline(filename, line or 0)
        ) from error


def _last_value(tree: ast.Module, filename: str, globals_: dict[str, Any]) -> Any:
    """Run the text; return what its last statement gives: an expression, a definition or an assignment."""
    if not tree.body:
        raise InvalidSource("the source text is empty; write a lambda, or a def")
    last = tree.body[-1]
    if isinstance(last, ast.Expr):
        if len(tree.body) > 1:
            exec(compile(ast.Module(tree.body[:-1], []), filename, "exec"), globals_)
        return eval(compile(ast.Expression(last.value), filename, "eval"), globals_)
    exec(compile(tree, filename, "exec"), globals_)
    if isinstance(last, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return globals_[last.name]
    target = last.targets[0] if isinstance(last, ast.Assign) else getattr(last, "target", None)
    if isinstance(last, (ast.Assign, ast.AnnAssign)) and isinstance(target, ast.Name) and target.id in globals_:
        return globals_[target.id]
    raise InvalidSource(
        "the source text gives no function: its last statement must be a def, or an expression such as a lambda",
        last.lineno,
        linecache.getline(filename, last.lineno),
    )


def _line_of(error: BaseException, filename: str) -> int | None:
    traceback, line = error.__traceback__, None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == filename:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def function_name(function: Callable[..., Any]) -> str:
    """Return how people name a function: ``module.qualname``, or an object's class."""
    inner = function
    while hasattr(inner, "func"):  # functools.partial
        inner = inner.func
    name = getattr(inner, "__qualname__", None)
    if name is None:
        return type(inner).__qualname__
    module = getattr(inner, "__module__", None)
    return name if module in (None, "__main__", "builtins", "__slot__") else f"{module}.{name}"


def source_text(function: Callable[..., Any]) -> str | None:
    """Return a function's source text when it can be had."""
    inner = inspect.unwrap(function)
    while hasattr(inner, "func"):
        inner = inner.func
    if not (inspect.isroutine(inner) or inspect.isclass(inner)):
        inner = type(inner)
    try:
        return textwrap.dedent(undisturbed(lambda: inspect.getsource(inner)))[:SOURCE_LIMIT]
    except (OSError, TypeError, SyntaxError):
        return None
