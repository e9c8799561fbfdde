"""`AsyncClient` and `AsyncKernel`: the methods of a client as coroutines, awaitable in any running loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from timbr_wamp.client.arguments import sendable
from timbr_wamp.client.async_machine import AsyncMachine
from timbr_wamp.client.async_topics import absence
from timbr_wamp.client.checks import checked_methods
from timbr_wamp.client.connection import Subscription
from timbr_wamp.client.execution import Execution, OutputCollector
from timbr_wamp.client.kernel_list import KernelList, choose
from timbr_wamp.client.local_paths import local_paths
from timbr_wamp.client.shared_connection import CALL_TIMEOUT_S, SharedConnection
from timbr_wamp.client.statistics import ConnectionStatistics, LinkChange, Unfinished
from timbr_wamp.command_line import command_line
from timbr_wamp.contract import (
    HOST,
    KERNEL,
    NODE,
    CompleteReply,
    ExecuteReply,
    InspectReply,
    IopubMessage,
    IsCompleteReply,
    KernelInfo,
    MachineBrief,
)
from timbr_wamp.contract.exports import NODE_URIS
from timbr_wamp.contract.keywords import keywords_taken
from timbr_wamp.errors import (
    ANY_HOST,
    AmbiguousKernel,
    InvalidArgument,
    KernelDead,
    NoMachine,
    NoSuchProcedure,
    OwnKernel,
    TimbrError,
    what_there_is,
)
from timbr_wamp.names import DEFAULT_MACHINE, checked_kernel_id, host_uri, kernel_uri
from timbr_wamp.plugins import own_kernel
from timbr_wamp.runtime import kernel_ids_of, local_host

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
#: Timeout for starting a kernel, which includes its imports and its startup file.
START_TIMEOUT_S = 120.0
#: Timeout for the bridge of the own kernel to look at its machines.
OWN_TIMEOUT_S = 1.0


@checked_methods
class LinkState:
    """What a client tells of its connection without waiting. Any thread."""

    _shared: SharedConnection

    @property
    def url(self) -> str:
        """The router's URL."""
        return self._shared.connection.url

    @property
    def authid(self) -> str | None:
        """Name of the token; None while not connected."""
        return self._shared.connection.authid

    @property
    def role(self) -> str | None:
        """Role of the token; None while not connected."""
        return self._shared.connection.role

    @property
    def connected(self) -> bool:
        """Whether there is a wamp session."""
        return self._shared.connection.joined

    @property
    def statistics(self) -> ConnectionStatistics:
        """Counts of the connection: reconnections, refills, gaps, paced calls, buffered records and bytes …"""
        return self._shared.statistics()

    def on_link(self, callback: Callable[[LinkChange], object]) -> Callable[[], None]:
        """Call ``callback(change)`` when the link to the router is lost, and when it is there again.

        Callbacks run one after the other in a thread of the client. Call the result to end it.
        """
        return self._shared.on_link(callback)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._shared!r}>"


@checked_methods
class AsyncClient(LinkState):
    """A connection to a router, with coroutines usable from any loop. Created by `connect_async` or `Client.aio`."""

    def __init__(self, shared: SharedConnection, runtime_dir: Path) -> None:
        self._shared, self._runtime_dir = shared, runtime_dir

    async def wait_connected(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Wait until there is a wamp session, for example after a lost connection.

        Raises:
            NotConnected: there is no session within ``timeout_s``.
            TokenRevoked: the client will not connect again.
        """
        await self._shared.run(self._shared.connection.wait_joined, timeout_s)

    async def kernels(self) -> KernelList:
        """Return the kernels on the router, including offline ones.

        The kernel in which this code runs is there with the machines that it has now.
        """
        for kernel_id in self._own_ids():
            with suppress(TimbrError):  # it has no bridge, or is on another router
                await self._shared.call(kernel_uri(kernel_id, "info"), KERNEL["info"], timeout_s=OWN_TIMEOUT_S)
        return KernelList(await self._shared.call(NODE_URIS["list"], NODE["list"]))

    async def kernel(self, wanted: str | None = None) -> AsyncKernel:
        """Return the kernel with that id or name, or a unique prefix of one; None means the only kernel.

        The kernel in which this code runs is not chosen by None.

        Raises:
            UnknownKernel, AmbiguousKernel: no kernel or several kernels match.
        """
        own = self._own_ids()
        info = choose(await self.kernels(), wanted, own)
        return AsyncKernel(self._shared, info.kernel_id, info.name, own=info.kernel_id in own)

    async def hosts(self) -> list[str]:
        """Return the names of the known hosts: this computer's, and hosts that have kernels."""
        here = self._local_host()
        there = {kernel.host for kernel in await self.kernels() if kernel.state != "offline"}
        return sorted(there | ({here} if here else set()))

    async def start_kernel(
        self,
        name: str | None = None,
        startup: str | None = None,
        cwd: str | None = None,
        host: str | None = None,
    ) -> AsyncKernel:
        """Start a kernel and its bridge on a host; return when the kernel is on the router.

        ``startup`` is the path of a file on the host that runs in the kernel after each (re)start. For this
        computer's host, paths are relative to the caller's working folder.
        The default ``host`` is this computer's, else the only known host.

        Raises:
            KernelStartFailed: the kernel did not start, and why; or there is no such file or folder.
            StartupFailed: it runs, but its startup file failed.
            KernelNameTaken, InvalidName: another kernel of the host has the name, or it is no name.
            InvalidArgument, AmbiguousKernel: no host or several hosts are known, or none of that name is there.
        """
        host = host or await self._default_host()
        if host == self._local_host():
            startup, cwd = local_paths(startup, cwd)
        try:
            uri = host_uri(host, "start")
            info = await self._shared.call(uri, HOST["start"], name, startup, cwd, timeout_s=START_TIMEOUT_S)
        except NoSuchProcedure:
            others = [one for one in await self.hosts() if one != host]
            known = what_there_is(host, "known hosts", others)
            raise InvalidArgument("host", f"no host {host!r} is on the router{known}") from None
        return AsyncKernel(self._shared, info.kernel_id, info.name)

    async def on(self, topic: str, callback: Callable[..., object], *, get_retained: bool = False) -> Subscription:
        """Call ``callback(*args, **kwargs)`` for each event of a topic.

        Callbacks run one after the other in a thread of the client and may use the client. Keywords that a
        callback does not take are left out.
        """

        def take(*args: Any, **kwargs: Any) -> None:
            callback(*args, **keywords_taken(callback, len(args), kwargs))

        return await self._shared.subscribe(topic, take, get_retained=get_retained)

    async def call(self, uri: str, /, *args: Any, timeout_s: float | None = CALL_TIMEOUT_S, **kwargs: Any) -> Any:
        """Call any procedure; return its result unconverted.

        Raises:
            InvalidArgument: an argument cannot be sent; nothing was.
        """
        given = [sendable(value, f"argument {number}") for number, value in enumerate(args)]
        named = {name: sendable(value, name) for name, value in kwargs.items()}
        return await self._shared.run(self._shared.connection.call, uri, *given, timeout_s=timeout_s, **named)

    async def drain(self, timeout_s: float = 30.0) -> bool:
        """Wait until all messages put by this client are recorded, and all it reads is handed over.

        It waits for each machine to which it put messages, or whose records it reads, as `AsyncMachine.drain` does,
        then until everything is sent and all callbacks were called. Returns False at the timeout.
        """
        deadline = time.monotonic() + timeout_s
        machines = self._shared.put_to | {(one.kernel_id, one.machine) for one in tuple(self._shared.streams)}
        drained = await asyncio.gather(
            *(AsyncMachine(self._shared, kernel_id, name).drain(timeout_s) for kernel_id, name in machines)
        )
        return all(drained) and await self._shared.run(self._shared.quiet, max(deadline - time.monotonic(), 0.0))

    async def close(self) -> Unfinished:
        """Leave the realm and close the connection; return what was left undone. Idempotent."""
        return await self._shared.close_async()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def _own_ids(self) -> frozenset[str]:
        """Return the ids of the kernel in which this code runs; empty outside a kernel."""
        here = own_kernel()
        return frozenset() if here is None else kernel_ids_of(self._runtime_dir, here.connection_file())

    def _local_host(self) -> str | None:
        file = local_host(self._runtime_dir, self._shared.connection.url)
        return file.authid if file is not None else None

    async def _default_host(self) -> str:
        here = self._local_host()
        if here is not None:
            return here
        hosts = await self.hosts()
        if not hosts:
            start = command_line("host")
            raise InvalidArgument("host", f"no host is known; start one with `{start}`, or pass its name")
        if len(hosts) > 1:
            raise AmbiguousKernel(ANY_HOST, hosts)
        return hosts[0]


@checked_methods
class AsyncKernel:
    """A kernel on the router. Any loop."""

    def __init__(self, shared: SharedConnection, kernel_id: str, name: str, *, own: bool = False) -> None:
        self._shared = shared
        self.id, self.name = checked_kernel_id(kernel_id), name
        #: It is the kernel in which this code runs.
        self.own = own

    def __repr__(self) -> str:
        return f"<kernel {self.id} ({self.name})>"

    async def _call(
        self,
        result: type[T],
        verb: str,
        *args: Any,
        timeout_s: float | None = CALL_TIMEOUT_S,
        on_progress: Callable[[Any], object] | None = None,
    ) -> T:
        value: T = await self._shared.call(
            kernel_uri(self.id, verb), KERNEL[verb], *args, timeout_s=timeout_s, on_progress=on_progress
        )
        return value

    async def info(self) -> KernelInfo:
        """Return the kernel's state and description."""
        return await self._call(KernelInfo, "info")

    async def ping(self) -> float:
        """Return the time of the bridge's clock, in UTC seconds."""
        return await self._call(float, "ping")

    async def interrupt(self) -> None:
        """Interrupt the running cell; it raises ``KeyboardInterrupt``."""
        await self._call(type(None), "interrupt")

    async def restart(self) -> KernelInfo:
        """Restart the kernel's process; it keeps its id."""
        return await self._call(KernelInfo, "restart", timeout_s=START_TIMEOUT_S)

    async def shutdown(self) -> None:
        """End the kernel's process and its bridge."""
        await self._call(type(None), "shutdown")

    async def execute(
        self, code: str, timeout_s: float | None = None, *, silent: bool = False, store_history: bool = True
    ) -> Execution:
        """Run code and return its reply with what it printed, displayed and returned. What it raises is in the reply.

        Machines that the code made or closed are known when it returns.

        Without ``timeout_s`` there is no limit other than the connection. Ctrl-C or cancelling ends the waiting, and
        interrupts the cell if it runs by then; one that waits for other cells is not taken back. When the link is
        lost, the cell runs on.

        Raises:
            OwnKernel: it is the kernel in which this code runs.
        """
        output = OutputCollector()
        reply = await self._execute("execute_interactive", code, timeout_s, silent, store_history, output.add)
        return output.execution(reply)

    async def run(
        self,
        code: str,
        *,
        on_output: Callable[[IopubMessage], object] | None = None,
        timeout_s: float | None = None,
        silent: bool = False,
        store_history: bool = True,
    ) -> ExecuteReply:
        """Run code and pass each output message to ``on_output``.

        The blocking method calls it in the calling thread, so what it prints or displays appears under the calling
        cell; the async one in the client's own thread, where it must not block.

        Raises:
            OwnKernel: it is the kernel in which this code runs.
        """
        return await self._execute("execute_interactive", code, timeout_s, silent, store_history, on_output)

    async def _execute(
        self,
        verb: str,
        code: str,
        timeout_s: float | None,
        silent: bool,
        store_history: bool,
        on_output: Callable[[IopubMessage], object] | None,
    ) -> ExecuteReply:
        if self.own:
            raise OwnKernel(self.id)
        call_s = (
            None if timeout_s is None else timeout_s + CALL_TIMEOUT_S
        )  # so that the kernel's own timeout comes first
        return await self._call(
            ExecuteReply, verb, code, silent, store_history, timeout_s, timeout_s=call_s, on_progress=on_output
        )

    async def complete(self, code: str, cursor_pos: int | None = None) -> CompleteReply:
        """Return completions at the cursor (None: at the end). Works while a cell runs."""
        return await self._call(CompleteReply, "complete", code, cursor_pos)

    async def inspect(self, code: str, cursor_pos: int | None = None, detail_level: int = 0) -> InspectReply:
        """Return the documentation of the name at the cursor. Works while a cell runs."""
        return await self._call(InspectReply, "inspect", code, cursor_pos, detail_level)

    async def is_complete(self, code: str) -> IsCompleteReply:
        """Return whether the code is a complete cell."""
        return await self._call(IsCompleteReply, "is_complete", code)

    def machine(self, name: str | None = None) -> AsyncMachine:
        """Return the kernel's machine of that name; None means the one named ``machine``, else the only one.

        The blocking method asks the kernel whether there is one. The async method does not wait, so there None
        always means ``machine``, and the first call raises what this method would raise.

        Raises:
            NoMachine: there is none; the error has the names of those that there are.
            KernelDead: the kernel has no process.
        """
        return AsyncMachine(self._shared, self.id, DEFAULT_MACHINE if name is None else name)

    async def _find_machine(self, name: str | None = None) -> AsyncMachine:
        """Return what `machine` of the blocking class returns."""
        try:
            info = await self.info()
        except NoSuchProcedure:
            raise await absence(self._shared, self.id, name or DEFAULT_MACHINE) from None
        if info.state in ("dead", "restarting"):
            raise KernelDead(self.id, info.reason or f"it is {info.state}")
        names = [machine.name for machine in info.machines]
        if name is None:
            name = names[0] if len(names) == 1 else DEFAULT_MACHINE
        if name not in names:
            raise NoMachine(self.id, name, names, info.reason or "")
        return AsyncMachine(self._shared, self.id, name)

    async def machines(self) -> list[MachineBrief]:
        """Return the kernel's current machines."""
        return (await self.info()).machines
