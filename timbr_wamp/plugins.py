"""Load plugins by group and name: those of timbr_wamp and those of other packages.

Groups are entry point groups. The plugins of timbr_wamp are listed in `BUILTIN` in the form of entry
points, so they load in the same way, also from a source tree that is not installed. The library of a
plugin is imported when the plugin is loaded.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

from timbr_wamp.errors import InvalidArgument, PluginNotInstalled, UnknownPlugin, did_you_mean

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

#: ``group → name → "module:attribute"`` of the plugins that come with timbr_wamp.
BUILTIN: dict[str, dict[str, str]] = {
    EXECUTORS: {
        "inline": "timbr_wamp.machine.running.executors.inline:InlineExecutor",
        "processes": "timbr_wamp.machine.running.executors.processes:ProcessesExecutor",
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
        "share": "timbr_wamp.components.sharing:share",
        "shared_id": "timbr_wamp.components.sharing:shared_id",
        "struct_html": "timbr_wamp.faces.tables:html_of",
        "struct_repr": "timbr_wamp.faces.tables:repr_of",
        "struct_text": "timbr_wamp.faces.tables:text_of",
        "unshare": "timbr_wamp.components.sharing:unshare",
    },
    JOURNALS: {
        "next": "timbr_wamp.store.journal_files:open_next_journal",
        "sqlite": "timbr_wamp.store.journal_files:open_journal",
    },
    STREAMS: {
        "memory": "timbr_wamp.streams.backends.sqlite:in_memory",
        "mongodb": "timbr_wamp.streams.backends.mongodb:MongoStreams",
        "redis": "timbr_wamp.streams.backends.redis:RedisStreams",
        "sqlite": "timbr_wamp.streams.backends.sqlite:from_url",
    },
}

#: The library of an optional part of ours → the extra that installs it.
EXTRAS = {"pymongo": "mongodb", "redis": "redis"}


class OwnKernel(Protocol):
    """The IPython kernel of this process, as the machine uses it."""

    def connection_file(self) -> str:
        """Return the path of the kernel's Jupyter connection file."""

    def namespace(self) -> dict[str, object]:
        """Return the user's namespace, in which the source text of slots is evaluated."""


def names(group: str) -> tuple[str, ...]:
    """Return the names of all plugins of a group, sorted."""
    return tuple(sorted({*BUILTIN.get(group, {}), *(point.name for point in entry_points(group=group))}))


def load(group: str, name: str) -> object:
    """Return the plugin ``name`` of ``group``.

    Raises:
        UnknownPlugin: the group has no such plugin; the error lists the known ones.
        PluginNotInstalled: a library that the plugin needs is not installed.
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
        extra = EXTRAS.get(error.name or "") if builtin is not None else None
        wanted = error.name if extra is None else f"'timbr-wamp[{extra}]'"
        raise PluginNotInstalled(group, name, f"pip install {wanted}") from error
    plugin: object = module
    for attribute in (point.attr or "").split("."):
        plugin = getattr(plugin, attribute) if attribute else plugin
    return plugin


def instantiate(plugin: Callable[..., object], options: Mapping[str, object]) -> object:
    """Call a plugin (a class or a function) with options; return the result.

    Raises:
        InvalidArgument: an option is unknown or missing; the error lists the options of the plugin.
    """
    signature = inspect.signature(plugin)
    try:
        signature.bind(**options)
    except TypeError as error:
        known = ", ".join(signature.parameters) or "no options"
        name = getattr(plugin, "__name__", type(plugin).__name__)
        unknown = [option for option in options if option not in signature.parameters]
        near = did_you_mean(unknown[0], signature.parameters) if unknown else ""
        raise InvalidArgument("options", f"{name} takes {known}: {error}{near}") from None
    return plugin(**options)


def own_kernel() -> OwnKernel | None:
    """Return the IPython kernel of this process; None in other processes."""
    if "ipykernel.kernelapp" not in sys.modules:
        return None
    kernel_class = load(FACES, "ipykernel")
    current = getattr(kernel_class, "current", None)
    return current() if current is not None else None
