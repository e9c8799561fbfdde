"""timbr_wamp: data pipelines that can be changed and observed from anywhere while they run.

`Machine` processes messages in this process. `connect` returns a client for machines in kernels on a
router. ``%load_ext timbr_wamp`` loads the ``%wamp`` magics. Submodules are imported on first use, so
that ``import timbr_wamp`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timbr_wamp.client import AsyncClient, Client, Gap, RunChanged, connect
    from timbr_wamp.contract import Policy, Record, Status
    from timbr_wamp.errors import TimbrError
    from timbr_wamp.machine import Machine
    from timbr_wamp.machine.events.handlers import (
        BaseEventHandler,
        DaskEventDebugger,
        DeadLetterHandler,
        RawEventDebugger,
        RetryHandler,
    )
    from timbr_wamp.machine.events.notices import PostJson, RunCommand
    from timbr_wamp.machine.raw import Raw
    from timbr_wamp.tables import StatusTable

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "BaseEventHandler",
    "Client",
    "DaskEventDebugger",
    "DeadLetterHandler",
    "Gap",
    "Machine",
    "Policy",
    "PostJson",
    "Raw",
    "RawEventDebugger",
    "Record",
    "RetryHandler",
    "RunChanged",
    "RunCommand",
    "Status",
    "StatusTable",
    "TimbrError",
    "connect",
    "load_ipython_extension",
    "unload_ipython_extension",
]

_MODULES = {
    "AsyncClient": "timbr_wamp.client",
    "BaseEventHandler": "timbr_wamp.machine.events.handlers",
    "Client": "timbr_wamp.client",
    "DaskEventDebugger": "timbr_wamp.machine.events.handlers",
    "DeadLetterHandler": "timbr_wamp.machine.events.handlers",
    "Gap": "timbr_wamp.client",
    "Machine": "timbr_wamp.machine",
    "Policy": "timbr_wamp.contract",
    "PostJson": "timbr_wamp.machine.events.notices",
    "Raw": "timbr_wamp.machine.raw",
    "RawEventDebugger": "timbr_wamp.machine.events.handlers",
    "Record": "timbr_wamp.contract",
    "RetryHandler": "timbr_wamp.machine.events.handlers",
    "RunChanged": "timbr_wamp.client",
    "RunCommand": "timbr_wamp.machine.events.notices",
    "Status": "timbr_wamp.contract",
    "StatusTable": "timbr_wamp.tables",
    "TimbrError": "timbr_wamp.errors",
    "connect": "timbr_wamp.client",
    "load_ipython_extension": "timbr_wamp.magic",
    "unload_ipython_extension": "timbr_wamp.magic",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
