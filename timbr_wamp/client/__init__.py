"""The client for kernels and machines on a router. Start with `connect` in `timbr_wamp.client.client`."""

from timbr_wamp.client.async_client import AsyncClient, AsyncKernel
from timbr_wamp.client.async_machine import AsyncMachine
from timbr_wamp.client.client import Client, connect, connect_async
from timbr_wamp.client.execution import Execution
from timbr_wamp.client.feed import Gap, RunChanged
from timbr_wamp.client.kernel_life import KernelEvent
from timbr_wamp.client.kernel_list import KernelList
from timbr_wamp.client.live_subscription import LiveSubscription
from timbr_wamp.client.records import AsyncRecords, Records
from timbr_wamp.client.remote_kernel import RemoteKernel
from timbr_wamp.client.remote_machine import RemoteMachine
from timbr_wamp.client.statistics import ConnectionStatistics, LinkChange, Unfinished

__all__ = [
    "AsyncClient",
    "AsyncKernel",
    "AsyncMachine",
    "AsyncRecords",
    "Client",
    "ConnectionStatistics",
    "Execution",
    "Gap",
    "KernelEvent",
    "KernelList",
    "LinkChange",
    "LiveSubscription",
    "Records",
    "RemoteKernel",
    "RemoteMachine",
    "RunChanged",
    "Unfinished",
    "connect",
    "connect_async",
]
