"""The core: slots, queue, executors, records, events, serving. Usable without IPython, WAMP or a router.

Submodules are imported on first use: a child process of the executor ``"processes"`` needs few of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timbr_wamp.machine.machine import Machine
    from timbr_wamp.machine.protocols import EndOfSource, Executor, Hook, Journal, Sink, Source
    from timbr_wamp.machine.running.aliases import AliasedValues
    from timbr_wamp.machine.running.executors.processes import ProcessesExecutor
    from timbr_wamp.machine.slots.table import identity

__all__ = [
    "AliasedValues",
    "EndOfSource",
    "Executor",
    "Hook",
    "Journal",
    "Machine",
    "ProcessesExecutor",
    "Sink",
    "Source",
    "identity",
]

_MODULES = {
    "AliasedValues": "running.aliases",
    "Machine": "machine",
    "ProcessesExecutor": "running.executors.processes",
    "identity": "slots.table",
    **dict.fromkeys(("EndOfSource", "Executor", "Hook", "Journal", "Sink", "Source"), "protocols"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
