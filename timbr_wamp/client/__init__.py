"""Reach kernels and machines on a router from Python: `connect`. See `timbr_wamp.client.client`."""

from timbr_wamp.client.aio import AsyncClient, AsyncKernel
from timbr_wamp.client.aio_machine import AsyncMachine
from timbr_wamp.client.client import Client, connect, connect_async
from timbr_wamp.client.feed import Gap, RunChanged
from timbr_wamp.client.kernel import RemoteKernel
from timbr_wamp.client.kernels import KernelList
from timbr_wamp.client.live import LiveSubscription
from timbr_wamp.client.machine import RemoteMachine
from timbr_wamp.client.records import AsyncRecords, Records

__all__ = [
    "AsyncClient",
    "AsyncKernel",
    "AsyncMachine",
    "AsyncRecords",
    "Client",
    "Gap",
    "KernelList",
    "LiveSubscription",
    "Records",
    "RemoteKernel",
    "RemoteMachine",
    "RunChanged",
    "connect",
    "connect_async",
]
