"""Slot functions on the wire and for people: reference → function, function → name and source text.

Source text runs with copies of the names that it uses, so that setting a slot changes no notebook
variable and keeps alive only what its function refers to. Compiled texts are put into `linecache`, so
that tracebacks show their lines.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import symtable
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import CodeType, FunctionType, MethodType
from typing import Any, cast

import cloudpickle

from timbr_wamp.contract import FunctionRef
from timbr_wamp.errors import InvalidArgument, InvalidSource, PythonMismatch, clean_text, described
from timbr_wamp.machine.parsing import undisturbed
from timbr_wamp.machine.slots.callables import (
    BUILTINS,
    DEPTH_LIMIT,
    MISSING,
    inner_of,
    is_class,
    is_kind,
    of_class,
    own,
    wrapped_of,
)
from timbr_wamp.machine.slots.source_lines import file_name, keep_lines, point_to_text

#: Source text kept beside a function, characters.
SOURCE_LIMIT = 20_000

#: Most characters of a function's name.
NAME_LIMIT = 200
#: ``__name__`` of the globals of functions made of source text.
SOURCE_MODULE = "__slot__"

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A slot function, loaded."""

    function: Any
    #: Source text for people, when it is known.
    source: str | None
    #: The source text from which the function was made, and can be made again.
    made_of: str | None = None


def as_function(given: object, namespace: Callable[[], Mapping[str, object]]) -> Loaded:
    """Return the function: of source text or a `FunctionRef`, or ``given`` itself.

    Raises:
        InvalidSource, PythonMismatch, InvalidArgument: see `load`.
    """
    if is_kind(given, str):
        given = FunctionRef(kind="source", text=cast("str", given))
    if not is_kind(given, FunctionRef):
        return Loaded(given, source_text(given))
    ref = cast("FunctionRef", given)
    function = load(ref, namespace())
    return Loaded(function, ref.text or source_text(function), ref.text if ref.kind == "source" else None)


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
        function = cloudpickle.loads(ref.data or b"")
    except (Exception, SystemExit) as error:  # unpickling runs the sender's code
        raise InvalidSource(f"the pickled function cannot be loaded: {described(error)}") from error
    if ref.text:
        point_to_text(function, ref.text)
    return function


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
        raise InvalidSource(f"importing {text!r} raised {described(error)}") from error
    return thing


def _from_source(text: str, namespace: Mapping[str, object]) -> Any:
    text = textwrap.dedent(text).strip("\n") + "\n"
    filename = file_name(text)
    try:
        tree = undisturbed(lambda: ast.parse(text, filename))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        shown = getattr(error, "text", None)
        raise InvalidSource(f"the source text does not compile: {error.args[0]}", line, shown) from None
    keep_lines(text)
    needed = {name: namespace[name] for name in _global_names(text) if name in namespace}
    globals_: dict[str, Any] = {"__builtins__": __builtins__, **needed, "__name__": SOURCE_MODULE}
    try:
        return _last_value(tree, filename, globals_)
    except InvalidSource:
        raise
    except (
        Exception,
        SystemExit,
    ) as error:  # the sender's code; after its `exit()` the sender must still get an answer
        line = _line_of(error, filename)
        raise InvalidSource(
            f"the source text raised {described(error)}", line, linecache.getline(filename, line or 0)
        ) from error


def _global_names(text: str) -> set[str]:
    """Return the global names that a text may use: its function keeps nothing else of the namespace alive."""
    top = undisturbed(lambda: symtable.symtable(text, "<slot source>", "exec"))
    names, tables = set[str](), [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        names |= {symbol.get_name() for symbol in table.get_symbols() if table is top or symbol.is_global()}
    return names


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


def function_name(function: object) -> str:
    """Return the name of a function for people: ``module.qualname``, or an object's class; one line, bounded."""
    for _ in range(DEPTH_LIMIT):  # partials, and what is bound
        if not is_kind(function, functools.partial, MethodType, staticmethod):
            break
        function = inner_of(function)
    name, module = _names_of(function)
    if name is None:
        return _clean_name(type.__dict__["__qualname__"].__get__(type(function)))
    return _clean_name(name if module is None or module in _UNNAMED_MODULES else f"{module}.{name}")


#: Modules that are left out of a function's name.
_UNNAMED_MODULES = frozenset({"__main__", "builtins", SOURCE_MODULE})


def _names_of(function: object) -> tuple[str | None, str | None]:
    """Return a function's own qualified name and its module's name, where it has them."""
    if is_class(function):
        name, module = type.__dict__["__qualname__"].__get__(function), own(function, "__module__")
    elif is_kind(function, FunctionType, *BUILTINS):
        known: Any = function
        name, module = known.__qualname__, getattr(known, "__module__", None)
    else:
        name, module = own(function, "__qualname__"), own(function, "__module__")
    return (name if type(name) is str else None), (module if type(module) is str else None)


def _clean_name(name: str) -> str:
    name = clean_text("".join(c if c.isprintable() else " " for c in name[: NAME_LIMIT + 1]))
    return name if len(name) <= NAME_LIMIT else name[: NAME_LIMIT - 1] + "…"


def source_text(function: object) -> str | None:
    """Return the source text of the innermost function under its wrappers, if it can be found."""
    inner: Any = function
    for _ in range(DEPTH_LIMIT):
        wrapped = wrapped_of(inner)
        following = inner_of(inner) if wrapped is MISSING else wrapped
        if following is MISSING or is_kind(following, *BUILTINS) or not callable(following):
            break
        if wrapped is MISSING and not is_kind(inner, functools.partial, MethodType, staticmethod):
            inner = type(inner)  # an object: its whole class
            break
        inner = following
    if is_kind(inner, FunctionType):
        text = _text_of_code(inner.__code__, inner.__globals__)
    elif is_class(inner) and not _asks_metaclass(inner):
        text = _text_of_class(inner)
    else:
        text = None
    return None if text is None else textwrap.dedent(text)[:SOURCE_LIMIT]


def _text_of_code(code: CodeType, globals_: dict[str, Any]) -> str | None:
    """Return the lines of a function. (`inspect.getsource` would search all modules of the process.)"""
    linecache.checkcache(code.co_filename)
    try:
        lines = linecache.getlines(code.co_filename, globals_)[code.co_firstlineno - 1 :]
        return "".join(undisturbed(lambda: inspect.getblock(lines))) or None
    except Exception:  # the file has changed
        return None


def _text_of_class(cls: type) -> str | None:
    try:
        return undisturbed(lambda: inspect.getsource(cls))
    except Exception:  # not there, or not readable
        return None


def _asks_metaclass(cls: type) -> bool:
    """Tell whether reading the class's attributes would run its metaclass's code."""
    kind = type(cls)
    asked = of_class(kind, "__getattribute__") is not type.__dict__["__getattribute__"]
    return asked or of_class(kind, "__getattr__") is not MISSING
