"""Express a function as ``module:name`` or as standalone source text.

A text is standalone when it uses no names but builtins and those that it defines. Imports, constants
and helper functions that a function refers to are written before it.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import symtable
import sys
import textwrap
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

from timbr_wamp.machine.slots.functions import source_text

__all__ = ["NoStandaloneSource", "standalone_part", "free_names", "lambda_text", "reference_of", "standalone_source"]

#: Modules that another process cannot import.
_PRIVATE_MODULES = frozenset({"__main__", "__slot__", "__mp_main__"})
#: Longest chain of helper functions that call each other.
_DEPTH_LIMIT = 20


class NoStandaloneSource(ValueError):
    """A function cannot be expressed as standalone source text; the error says why."""


def reference_of(function: object) -> str | None:
    """Return ``module:name`` with which another process can import this object; None if there is none."""
    module_name = getattr(function, "__module__", None) or type(function).__module__
    module = sys.modules.get(module_name)
    if module is None or module_name in _PRIVATE_MODULES:
        return None
    name = getattr(function, "__qualname__", None)
    if name is None:  # an object: look for a variable with it in the module of its class
        name = next((key for key, value in vars(module).items() if value is function), None)
    if name is None or not all(part.isidentifier() for part in name.split(".")):
        return None
    found: object = module
    for part in name.split("."):
        found = getattr(found, part, None)
    same = found is function or (inspect.ismethod(found) and found == function)
    return f"{module_name}:{name}" if same else None


def standalone_source(function: Callable[..., Any], text: str | None) -> str:
    """Return standalone source text of ``function``.

    Args:
        text: its known source text; None means to get it from Python.

    Raises:
        NoStandaloneSource: there is no text, or it refers to something without a text.
    """
    if isinstance(function, FunctionType) and function.__module__ != "__slot__":
        return _StandaloneWriter().function(function)
    if isinstance(function, FunctionType) and text is not None:
        return text  # the slot was set by source text, which is standalone
    raise NoStandaloneSource(f"it is a {type(function).__name__} that is not a variable of a module; assign it to one")


class _StandaloneWriter:
    """Writes a function and everything that it refers to, each definition once."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._names: dict[str, object] = {}

    def function(self, function: FunctionType) -> str:
        text = self._text(function, 0)
        front = "\n".join(self._lines)
        return f"{front}\n\n{text}" if front else text

    def _text(self, function: FunctionType, depth: int) -> str:
        text = source_text(function)
        if text is None:
            raise NoStandaloneSource("its source text is not available")
        if function.__name__ == "<lambda>":
            text = lambda_text(text, function.__code__) or ""
        tree = _parsed(text)
        if tree is None or not isinstance(tree.body[-1], (ast.FunctionDef, ast.AsyncFunctionDef, ast.Expr)):
            raise NoStandaloneSource("its source text is not a complete statement; define it with def")
        known = {**function.__globals__, **_closure(function)}
        for name in sorted(free_names(text)):
            if name not in known:
                raise NoStandaloneSource(f"it refers to {name!r}, which is not defined")
            self._need(name, known[name], depth)
        return text if text.endswith("\n") else f"{text}\n"

    def _need(self, name: str, value: object, depth: int) -> None:
        """Write the definition of a name before the function."""
        if name in self._names:
            if self._names[name] is not value:
                raise NoStandaloneSource(f"two of its functions use the name {name!r} for different values")
            return
        self._names[name] = value
        self._lines.append(self._definition(name, value, depth).rstrip("\n"))

    def _definition(self, name: str, value: object, depth: int) -> str:
        if isinstance(value, ModuleType):
            return f"import {value.__name__}" if value.__name__ == name else f"import {value.__name__} as {name}"
        if (reference := reference_of(value)) is not None and "." not in reference.partition(":")[2]:
            module, _, there = reference.partition(":")
            return f"from {module} import {there}" + ("" if there == name else f" as {name}")
        if _is_plain(value):
            return f"{name} = {value!r}"
        if isinstance(value, FunctionType) and depth < _DEPTH_LIMIT and value.__module__ in _PRIVATE_MODULES:
            text = self._text(value, depth + 1)
            return text if value.__name__ == name else f"{name} = {text}"
        raise NoStandaloneSource(f"it refers to {name!r}, a {type(value).__name__} that is defined outside of its text")


def standalone_part(text: str) -> str | None:
    """Return the part of a text that defines its function: the whole text, or the lambda in a statement.

    >>> standalone_part("m.set(0, lambda x: x + 1)")
    'lambda x: x + 1'

    None when it defines none.
    """
    tree = _parsed(text)
    last = None if tree is None else tree.body[-1]
    if isinstance(last, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return text
    if isinstance(last, ast.Assign) and isinstance(last.targets[0], ast.Name):
        return text
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Lambda):
        return text
    return lambda_text(text) or (text if isinstance(last, ast.Expr) else None)


def required_parameters(text: str) -> int | None:
    """Return how many values the function of a text must be given; None when that cannot be told.

    >>> required_parameters("def f(x, y, z=1):\\n    return x\\n"), required_parameters("lambda *values: values")
    (2, None)
    """
    tree = _parsed(text)
    last: ast.AST | None = None if tree is None else tree.body[-1]
    if isinstance(last, ast.Expr):
        last = last.value
    if not isinstance(last, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or last.args.vararg is not None:
        return None
    arguments = last.args
    return len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults) or None


def is_callable_class(text: str) -> bool:
    """Return whether a text defines a class whose objects are callable: such an object is in the slot, not the class.

    >>> is_callable_class("class Scale:\\n    def __call__(self, x):\\n        return 3 * x\\n")
    True
    """
    tree = _parsed(text)
    last = None if tree is None else tree.body[-1]
    if not isinstance(last, ast.ClassDef):
        return False
    return any(isinstance(part, ast.FunctionDef) and part.name == "__call__" for part in last.body)


def free_names(text: str) -> set[str]:
    """Return the names that a text uses and does not define, without builtins.

    >>> sorted(free_names("def f(x):\\n    return np.sqrt(x) + len(scale)\\n"))
    ['np', 'scale']
    """
    top = symtable.symtable(text, "<slot>", "exec")
    defined = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    used, tables = set(), [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        used |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (s.is_global() or table is top)}
    return used - defined - set(vars(builtins))


def lambda_text(text: str, code: CodeType | None = None) -> str | None:
    """Return the lambda in a text, with ``code`` the one with that code; None when it is ambiguous.

    >>> lambda_text("m[0] = lambda x: x ** 2")
    'lambda x: x ** 2'
    """
    text = textwrap.dedent(text).strip()
    for candidate in (text, text.rstrip(",)]}"), f"({text}", f"[{text}"):
        tree = _parsed(candidate)
        if tree is None:
            continue
        found = [ast.get_source_segment(candidate, node) for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
        fitting = {
            one for one in found if one is not None and (code is None or _compiled(one) == _comparable_code(code))
        }
        return fitting.pop() if len(fitting) == 1 else None
    return None


def _compiled(text: str) -> tuple[object, ...]:
    code = compile(text, "<lambda>", "eval")
    return _comparable_code(next(constant for constant in code.co_consts if isinstance(constant, CodeType)))


def _comparable_code(code: CodeType) -> tuple[object, ...]:
    """Return the parts of a code object that are equal for two compilations of a lambda, with or without a closure."""
    constants = tuple(constant for constant in code.co_consts if not isinstance(constant, CodeType))
    return code.co_varnames, sorted({*code.co_names, *code.co_freevars}), repr(constants)


def _parsed(text: str) -> ast.Module | None:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None
    return tree if tree.body else None


def _closure(function: FunctionType) -> Mapping[str, object]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells}


def _is_plain(value: object) -> bool:
    """Return whether the value's ``repr`` is a literal that evaluates to the value."""
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
