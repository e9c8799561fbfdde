"""Source lines for tracebacks: source texts under made-up file names, and functions that refer to them.

The code of an unpickled function names a file that does not exist here: one of a notebook of another
process, or none (cloudpickle since 3.1.2 names every file ``<dynamic-code>``). The text that was sent with
it is put into `linecache`, and the code gets that file name and the text's line numbers.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import linecache
import textwrap
from types import CodeType, FunctionType, MethodType
from typing import Any, TypeAlias, cast

from timbr_wamp.machine.parsing import undisturbed
from timbr_wamp.machine.slots.callables import MISSING, is_class, is_kind, namespace_of, wrapped_of

Definition: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda"

#: Texts of this process whose lines are kept for tracebacks; several times the revisions that a machine keeps.
TEXTS_KEPT = 2_000
_kept: dict[str, None] = {}

#: Most functions and objects that are searched behind one that was unpickled.
SEARCH_LIMIT = 200


def file_name(text: str) -> str:
    """Return the file name of a text."""
    return f"<slot source {hashlib.sha256(text.encode(errors='replace')).hexdigest()[:12]}>"


def keep_lines(text: str) -> str:
    """Make tracebacks show the text's lines; return its file name.

    The `TEXTS_KEPT` texts that were used last are kept.
    """
    name = file_name(text)
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    _kept.pop(name, None)
    _kept[name] = None
    with contextlib.suppress(
        RuntimeError, StopIteration
    ):  # another thread does the same; a lock would not survive forks
        while len(_kept) > TEXTS_KEPT:
            oldest = next(iter(_kept))
            _kept.pop(oldest, None)
            linecache.cache.pop(oldest, None)
    return name


def point_to_text(thing: object, text: str) -> None:
    """Make tracebacks of an unpickled function show the lines of ``text``, if its own file is not here.

    Functions that the text does not define, or defines ambiguously, are not changed.
    """
    text = textwrap.dedent(text).strip("\n") + "\n"
    try:
        tree = undisturbed(lambda: ast.parse(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    definitions: dict[str, list[Definition]] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            definitions.setdefault(getattr(node, "name", "<lambda>"), []).append(node)
    for function in _functions_behind(thing):
        code = function.__code__
        found = [node for node in definitions.get(code.co_name, []) if _parameters(node) == _parameters_of(code)]
        if len(found) == 1 and not linecache.getlines(code.co_filename, function.__globals__):
            moved_by = _first_line(found[0]) - code.co_firstlineno
            function.__code__ = _moved(code, keep_lines(text), code.co_filename, moved_by)


def _functions_behind(thing: object) -> list[FunctionType]:
    """Return the functions in partials, methods, closures, wrappers and own classes."""
    found, seen, waiting = list[FunctionType](), set[int](), [thing]
    while waiting and len(seen) < SEARCH_LIMIT:
        one: Any = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if is_kind(one, FunctionType):
            found.append(one)
            waiting += [_content(cell) for cell in one.__closure__ or ()]
            waiting.append(wrapped_of(one))
        elif is_kind(one, functools.partial):
            waiting.append(functools.partial.__dict__["func"].__get__(one))
        elif is_kind(one, MethodType):
            waiting += [one.__func__, type(one.__self__)]
        elif is_kind(one, staticmethod, classmethod):
            waiting.append(one.__func__)
        elif is_class(one):
            waiting += [value for value in namespace_of(cast("type", one)).values() if _may_lead_on(value)]
        elif one is not MISSING:
            waiting += [type(one), wrapped_of(one)]
    return found


def _may_lead_on(value: object) -> bool:
    return is_kind(value, FunctionType, staticmethod, classmethod)


def _content(cell: Any) -> object:
    try:
        content: object = cell.cell_contents
    except ValueError:  # not set yet
        return MISSING
    return content if is_kind(content, FunctionType, MethodType, functools.partial) else MISSING


def _parameters(node: Definition) -> tuple[str, ...]:
    arguments = node.args
    return tuple(one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))


def _parameters_of(code: CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _first_line(node: Definition) -> int:
    """Return the line with which a definition's code begins: that of its first decorator."""
    decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _moved(code: CodeType, name: str, old_name: str, lines: int) -> CodeType:
    """Return code, with its inner functions, under another file name and moved down by ``lines``."""
    if code.co_filename != old_name:
        return code
    constants = tuple(
        _moved(one, name, old_name, lines) if isinstance(one, CodeType) else one for one in code.co_consts
    )
    first = max(code.co_firstlineno + lines, 1)
    return code.replace(co_filename=name, co_firstlineno=first, co_consts=constants)
