"""Import the machine that ``FILE.py:NAME`` or ``package.module:NAME`` refers to."""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from timbr_wamp.errors import InvalidArgument, InvalidSource, described
from timbr_wamp.machine import Machine
from timbr_wamp.settings import expanded

__all__ = ["find_machine"]


def find_machine(target: str) -> Machine:
    """Return the machine that ``target`` refers to: a `Machine`, or a function that returns one.

    Imports the module. The file's folder, or the working folder, is added to ``sys.path``.

    Raises:
        InvalidArgument: the target has another form, or does not refer to a machine.
        InvalidSource: it cannot be imported, or the function raised.
    """
    where, _, path = target.rpartition(":")
    if not where or not path:
        raise InvalidArgument("machine", f"{target!r} is not a target; write FILE.py:NAME or package.module:NAME")
    try:
        thing: object = _imported(where)
        for name in path.split("."):
            thing = getattr(thing, name)
        if not isinstance(thing, Machine) and callable(thing):
            thing = thing()
    except (ImportError, AttributeError) as error:
        raise InvalidSource(f"{target!r} cannot be found: {error}") from error
    except InvalidArgument:
        raise
    except (Exception, SystemExit) as error:  # user code may raise anything
        raise InvalidSource(f"{target!r}: {described(error)}") from error
    if not isinstance(thing, Machine):
        raise InvalidArgument("machine", f"{target!r} is a {type(thing).__name__}, not a Machine")
    return thing


def _imported(where: str) -> ModuleType:
    """Import and return the module of a file or of a dotted name."""
    if not where.endswith(".py"):
        _add_to_path(Path.cwd())
        return import_module(where)
    file = expanded(where).resolve()
    if not file.is_file():
        raise InvalidArgument("machine", f"no such file: {where}")
    _add_to_path(file.parent)
    # registered under the file's name, so that functions of the module can be saved as references
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[file.stem]
        raise
    return module


def _add_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
