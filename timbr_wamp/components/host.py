"""A host: starts kernels and their bridges on one computer, adopts those that live, keeps a bridge for each.

It answers ``io.timbr.host.<authid>.…``. Kernels and bridges are processes in sessions of their own. When
the host ends its bridges end with it, and the kernels live on; when it is killed both live on, and the
next host adopts them. A bridge does what concerns its kernel alone (restart, a last shutdown): the host
asks it by signal, since the two share a computer but no socket.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from timbr_wamp import runtime
from timbr_wamp.client.connection import Connection
from timbr_wamp.components import launcher, processes
from timbr_wamp.components.bridge_supervisor import BridgeEnvironment, BridgeSupervisor
from timbr_wamp.components.kernel_service import answer
from timbr_wamp.contract import HOST, KernelInfo
from timbr_wamp.errors import AlreadyHosted, NoRouter, TimbrError, UnknownKernel
from timbr_wamp.names import host_of_kernel, host_uri, new_kernel_id
from timbr_wamp.runtime import HostFile, KernelFile, NodeFile
from timbr_wamp.settings import Settings

logger = logging.getLogger(__name__)

JOIN_S = 15.0
#: How often bridges are looked at.
WATCH_S = 0.5


class HostProcess:
    """The host as a program: settings in, exit code out.

    Args:
        stop_kernels: at its end, end its kernels too.
    """

    def __init__(self, settings: Settings, *, stop_kernels: bool = False) -> None:
        self._settings, self._stop_kernels = settings, stop_kernels

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit code. What goes wrong is said on stderr in one sentence."""
        try:
            environment = router_of(self._settings)
            with _alone(self._settings):
                asyncio.run(self._run(environment))
        except TimbrError as error:
            print(error, file=sys.stderr)
            return 1
        return 0

    async def _run(self, environment: BridgeEnvironment) -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await Host(environment, stop_kernels=self._stop_kernels).run(stop)


def router_of(settings: Settings) -> BridgeEnvironment:
    """Return where the router is and our token for it: the settings', else the local node's for hosts.

    Raises:
        NoRouter: nothing is configured, and none runs here.
    """
    node = runtime.read_file(runtime.node_file(settings.runtime_dir), NodeFile)
    here = node if node is not None and node.alive() else None
    url = settings.url or (here.unix_url if here is not None else None)
    token = settings.token or (here.host_token if here is not None else None)
    if url is None or token is None:
        raise NoRouter("TIMBR_WAMP_URL, TIMBR_WAMP_TOKEN, and a router that runs here")
    return BridgeEnvironment(settings.runtime_dir, url, settings.realm, token, settings.log_level)


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Hold the runtime folder against other hosts."""
    path = runtime.host_file(runtime.private_folder(settings.runtime_dir))
    lock = path.with_suffix(".lock")
    descriptor = processes.lock(lock)
    if descriptor is None:
        other = runtime.read_file(path, HostFile)
        raise AlreadyHosted(str(settings.runtime_dir), other.pid if other is not None else 0)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
        os.close(descriptor)


class Host:
    """The kernels of one runtime folder and token. The loop's own thread only."""

    def __init__(self, environment: BridgeEnvironment, *, stop_kernels: bool = False) -> None:
        self._environment, self._stop_kernels = environment, stop_kernels
        self._authid = environment.token.partition(".")[0]
        self._connection = Connection(environment.url, environment.realm, environment.token)
        self._wards: dict[str, BridgeSupervisor] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set; then end the bridges, and the kernels if that was asked for.

        Raises:
            TimbrError: the router could not be reached, or refuses us for good.
        """
        refused: asyncio.Task[Any] | None = None
        try:
            await self._connection.open(JOIN_S)
            await self._adopt()
            for name, procedure in HOST.items():
                endpoint = answer(procedure, self._performer(getattr(self, name)))
                await self._connection.register(host_uri(self._authid, name), endpoint)
            self._write_file()
            refused = asyncio.create_task(self._connection.wait_finished())
            await self._watch(stop, refused)
        finally:
            if refused is not None:
                refused.cancel()
            await asyncio.gather(*(ward.end(kernel=self._stop_kernels) for ward in self._wards.values()))
            await self._connection.close()

    # --- the procedures of the contract ------------------------------------------------------

    async def start(self, name: str | None = None, startup: str | None = None, cwd: str | None = None) -> KernelInfo:
        kernel_id = new_kernel_id(self._authid)
        file = await asyncio.to_thread(
            launcher.start_kernel, self._environment.runtime_dir, kernel_id, name=name, startup=startup, cwd=cwd
        )
        ward = await self._take(file)
        try:
            return await ward.ready()
        except TimbrError:
            del self._wards[kernel_id]
            await ward.end(kernel=True)
            raise

    async def list(self) -> list[KernelInfo]:
        return [ward.info() for ward in self._wards.values()]

    async def restart(self, kernel_id: str) -> KernelInfo:
        return await self._ward(kernel_id).restart()

    async def stop(self, kernel_id: str) -> None:
        ward = self._ward(kernel_id)
        del self._wards[kernel_id]
        await ward.end(kernel=True)

    # --- inside ------------------------------------------------------------------------------

    @staticmethod
    def _performer(method: Callable[..., Awaitable[Any]]) -> Callable[[dict[str, Any], Any], Awaitable[Any]]:
        async def perform(arguments: dict[str, Any], call: Any) -> Any:
            return await method(**arguments)

        return perform

    def _ward(self, kernel_id: str) -> BridgeSupervisor:
        try:
            return self._wards[kernel_id]
        except KeyError:
            raise UnknownKernel(kernel_id, sorted(self._wards)) from None

    async def _take(self, file: KernelFile) -> BridgeSupervisor:
        ward = BridgeSupervisor(self._environment, self._connection, file)
        self._wards[file.kernel_id] = ward
        await ward.begin()
        return ward

    async def _adopt(self) -> None:
        """Take up living kernels of ours, and remove what dead ones left."""
        folder = self._environment.runtime_dir
        for path in sorted(folder.glob("kernel-*.json")):
            file = runtime.read_file(path, KernelFile)
            if file is None or host_of_kernel(file.kernel_id) != self._authid:
                continue
            if file.alive():
                logger.info("kernel %s (process %d) is adopted", file.kernel_id, file.pid)
                await self._take(file)
            else:
                logger.info("kernel %s is gone; its files are removed", file.kernel_id)
                launcher.forget_kernel(folder, file)

    async def _watch(self, stop: asyncio.Event, refused: asyncio.Task[Any]) -> None:
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                await asyncio.wait({stopped, refused}, timeout=WATCH_S, return_when=asyncio.FIRST_COMPLETED)
                if refused.done() and (error := refused.result()) is not None:
                    raise error
                for kernel_id, ward in list(self._wards.items()):
                    if not await ward.look():
                        logger.info("kernel %s was ended", kernel_id)
                        self._wards.pop(kernel_id, None)
                        await ward.end(kernel=False)
        finally:
            stopped.cancel()

    def _write_file(self) -> None:
        content = HostFile(pid=os.getpid(), process_started=runtime.own_process_started(), authid=self._authid)
        runtime.write_file(runtime.host_file(self._environment.runtime_dir), content)
