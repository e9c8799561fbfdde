"""One loader for everything that is found by name: our own parts and those of other packages.

Groups are entry point groups. Our own parts stand in `BUILTIN` in the same form, so they load the
same way, also from a source tree that was never installed. A part's library is imported only when
the part is named.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

from timbr_wamp.errors import InvalidArgument, PluginNotInstalled, UnknownPlugin

SOURCES = "timbr_wamp.sources"
SINKS = "timbr_wamp.sinks"
HOOKS = "timbr_wamp.hooks"
HANDLERS = "timbr_wamp.handlers"
JOURNALS = "timbr_wamp.journals"
EXECUTORS = "timbr_wamp.executors"
STREAMS = "timbr_wamp.streams"
FACES = "timbr_wamp.faces"
CODECS = "timbr_wamp.codecs"
GROUPS = (SOURCES, SINKS, HOOKS, HANDLERS, JOURNALS, EXECUTORS, STREAMS, FACES, CODECS)

#: ``group → name → "module:attribute"`` of the parts that come with timbr_wamp.
BUILTIN: dict[str, dict[str, str]] = {
    EXECUTORS: {
        "inline": "timbr_wamp.machine.running.executors.inline:InlineExecutor",
        "threads": "timbr_wamp.machine.running.executors.threads:ThreadsExecutor",
    },
    HANDLERS: {
        name: f"timbr_wamp.machine.events.handlers:{name}"
        for name in (
            "BaseEventHandler",
            "DaskEventDebugger",
            "DeadLetterHandler",
            "RawEventDebugger",
            "RetryHandler",
        )
    },
    HOOKS: {name: f"timbr_wamp.machine.events.notices:{name}" for name in ("PostJson", "RunCommand")},
    FACES: {
        "ipykernel": "timbr_wamp.kernel.ipython_kernel:IPythonKernel",
        "local_sockets": "timbr_wamp.machine.serving.sockets:LocalSockets",
        "project": "timbr_wamp.projects.saving:save",
        "record_html": "timbr_wamp.faces.tables:record_html",
        "record_text": "timbr_wamp.faces.tables:record_text",
        "struct_html": "timbr_wamp.faces.tables:html_of",
        "struct_text": "timbr_wamp.faces.tables:text_of",
    },
}


class OwnKernel(Protocol):
    """What a machine may ask of the kernel it lives in."""

    def connection_file(self) -> str:
        """Return the path of the kernel's Jupyter connection file."""

    def namespace(self) -> dict[str, object]:
        """Return the user's namespace, where source text of slots is evaluated."""


def names(group: str) -> tuple[str, ...]:
    """Return the names that `load` knows in a group, sorted."""
    return tuple(sorted({*BUILTIN.get(group, {}), *(point.name for point in entry_points(group=group))}))


def load(group: str, name: str) -> object:
    """Return the part called ``name`` in ``group``.

    Raises:
        UnknownPlugin: nothing of that name; the error lists what there is.
        PluginNotInstalled: the part is known, but a library that it needs is not installed.
    """
    builtin = BUILTIN.get(group, {}).get(name)
    if builtin is not None:
        point = EntryPoint(name, builtin, group)
    else:
        found = [point for point in entry_points(group=group) if point.name == name]
        if not found:
            raise UnknownPlugin(group, name, names(group))
        point = found[0]
    try:
        module = import_module(point.module)
    except ModuleNotFoundError as error:
        raise PluginNotInstalled(group, name, f"pip install {error.name}") from error
    part: object = module
    for attribute in (point.attr or "").split("."):
        part = getattr(part, attribute) if attribute else part
    return part


def made(part: Callable[..., object], options: Mapping[str, object]) -> object:
    """Return what a part, a class or a function, makes of its options.

    Raises:
        InvalidArgument: options that it does not take, or one missing; the text lists what it takes.
    """
    signature = inspect.signature(part)
    try:
        signature.bind(**options)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no options"
        name = getattr(part, "__name__", type(part).__name__)
        raise InvalidArgument("options", f"{name} takes {takes}: {error}") from None
    return part(**options)


def own_kernel() -> OwnKernel | None:
    """Return the face of the IPython kernel that this process is, None in any other process."""
    if "ipykernel.kernelapp" not in sys.modules:
        return None
    face = load(FACES, "ipykernel")
    current = getattr(face, "current", None)
    return current() if current is not None else None
