"""A host starts kernels and their bridges on one computer, and adopts kernels that already run.

It answers ``io.timbr.host.<authid>.…``. Kernels and bridges are processes in sessions of their own. When
the host ends, it ends its bridges, and the kernels keep running. When it is killed, both keep running,
and the next host adopts them. The host asks a bridge by signal to restart or end its kernel, because
there is no socket between the two.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from timbr_wamp import processes, runtime
from timbr_wamp.client.connection import Connection
from timbr_wamp.components import kernel_identity as identity
from timbr_wamp.components import launcher
from timbr_wamp.components.bridge_process import BridgeEnvironment, bridge_environment
from timbr_wamp.components.bridge_supervisor import BridgeSupervisor
from timbr_wamp.components.kernel_service import answer
from timbr_wamp.contract import HOST, KernelInfo
from timbr_wamp.errors import (
    AlreadyHosted,
    HostNameTaken,
    KernelNameTaken,
    NotAuthorized,
    StartupFailed,
    TimbrError,
    UnknownKernel,
)
from timbr_wamp.names import checked_name, host_of_kernel, host_uri, new_kernel_id
from timbr_wamp.runtime import HostFile, KernelFile
from timbr_wamp.settings import JOURNALS_FOLDER, Settings
from timbr_wamp.store import remove_old
from timbr_wamp.tables import terminal_text

logger = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 15.0
#: Time for the router to notice that an earlier host of this name has gone, and interval for trying again.
NAME_WAIT_S, NAME_RETRY_S = 5.0, 0.25
#: Most threads that start and end processes.
THREADS = 64
#: Interval for checking the bridges.
WATCH_INTERVAL_S = 0.5


class HostProcess:
    """The host as a program: settings in, exit code out.

    Args:
        stop_kernels: end the kernels when the host ends.
    """

    def __init__(self, settings: Settings, *, stop_kernels: bool = False) -> None:
        self._settings, self._stop_kernels = settings, stop_kernels

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit code. An error is printed on stderr."""
        try:
            environment = bridge_environment(self._settings)
            with _exclusive(environment):
                asyncio.run(self._run(environment))
        except TimbrError as error:
            processes.hand_over(error)
            print(terminal_text(str(error)), file=sys.stderr)
            return 1
        return 0

    async def _run(self, environment: BridgeEnvironment) -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        # by default a loop has as many threads as cores, and ending many kernels at once waits in threads
        loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="timbr host"))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        removing = asyncio.create_task(asyncio.to_thread(self._remove_old_journals))
        await Host(environment, stop_kernels=self._stop_kernels).run(stop)
        await removing

    def _remove_old_journals(self) -> None:
        """Remove what kernels that are long gone have left."""
        for path in remove_old(self._settings.data_dir / JOURNALS_FOLDER):
            logger.info("nothing was written to %s for a week: removed", path)


@contextmanager
def _exclusive(environment: BridgeEnvironment) -> Iterator[None]:
    """Lock the runtime folder against other hosts of the same router."""
    path = runtime.host_file(runtime.private_folder(environment.runtime_dir), environment.url)
    lock = path.with_suffix(".lock")
    descriptor = processes.lock(lock)
    if descriptor is None:
        other = runtime.read_file(path, HostFile)
        raise AlreadyHosted(str(environment.runtime_dir), other.pid if other is not None else 0)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        processes.unlock(lock, descriptor)


class Host:
    """The kernels of one runtime folder and token. The loop's own thread only."""

    def __init__(self, environment: BridgeEnvironment, *, stop_kernels: bool = False) -> None:
        self._environment, self._stop_kernels = environment, stop_kernels
        self._authid = environment.authid
        self._connection = Connection(environment.url, environment.realm, environment.token)
        self._supervisors: dict[str, BridgeSupervisor] = {}
        #: Kernels whose runtime files are not yet written, by name.
        self._starting: dict[str, str] = {}
        self._adopted = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set; then end the bridges, and the kernels if ``stop_kernels``.

        Raises:
            NotAuthorized: the token does not have the role host.
            HostNameTaken: another host uses the token.
            TimbrError: the router cannot be reached, or the connection failed for good.
        """
        refused: asyncio.Task[Any] | None = None
        try:
            await self._connection.open(JOIN_TIMEOUT_S)
            if self._connection.role != "host":
                raise NotAuthorized("register", host_uri(self._authid, "start"), self._connection.role, "host")
            await self._register()  # before the kernels of this host get bridges, in case there is such a host
            await self._adopt()
            self._adopted.set()
            self._write_file()
            refused = asyncio.create_task(self._connection.wait_finished())
            await self._watch(stop, refused)
        finally:
            if refused is not None:
                refused.cancel()
            await asyncio.gather(
                *(supervisor.end(kernel=self._stop_kernels) for supervisor in self._supervisors.values())
            )
            await self._connection.close()

    # --- the procedures of the contract ------------------------------------------------------

    async def start(self, name: str | None = None, startup: str | None = None, cwd: str | None = None) -> KernelInfo:
        kernel_id = new_kernel_id(self._authid)
        with self._reserved(name, kernel_id):
            file = await asyncio.to_thread(
                launcher.start_kernel, self._environment.runtime_dir, kernel_id,
                name=name, startup=startup, cwd=cwd, router=self._environment.url,
            )  # fmt: skip
        supervisor = await self._take(file)
        try:
            return await supervisor.ready()
        except StartupFailed:
            raise  # the kernel runs: mend the file and restart it
        except TimbrError:
            del self._supervisors[kernel_id]
            await supervisor.end(kernel=True)
            raise

    async def list(self) -> list[KernelInfo]:
        return [supervisor.info() for supervisor in self._supervisors.values()]

    async def restart(self, kernel_id: str) -> KernelInfo:
        return await self._supervisor_of(kernel_id).restart()

    async def stop(self, kernel_id: str) -> None:
        supervisor = self._supervisor_of(kernel_id)
        del self._supervisors[kernel_id]
        await supervisor.end(kernel=True)

    # --- inside ------------------------------------------------------------------------------

    @contextmanager
    def _reserved(self, name: str | None, kernel_id: str) -> Iterator[None]:
        """Keep a name for a kernel until its runtime file is written.

        Raises:
            KernelNameTaken: another kernel of this computer and router has it.
        """
        if name is None:
            yield
            return
        other = self._starting.get(name)
        if other is None:
            other = identity.kernel_named(self._environment.runtime_dir, checked_name(name), self._environment.url)
        if other is not None:
            raise KernelNameTaken(name, other)
        self._starting[name] = kernel_id
        try:
            yield
        finally:
            del self._starting[name]

    async def _register(self) -> None:
        """Register the host's procedures, which the router refuses while another host has them."""
        deadline = asyncio.get_running_loop().time() + NAME_WAIT_S
        for name, procedure in HOST.items():
            endpoint = answer(procedure, self._perform_with(getattr(self, name)))
            while True:
                try:
                    await self._connection.register(host_uri(self._authid, name), endpoint)
                    break
                except NotAuthorized:
                    if asyncio.get_running_loop().time() > deadline:
                        raise HostNameTaken(self._authid) from None
                    await asyncio.sleep(NAME_RETRY_S)

    def _perform_with(self, method: Callable[..., Awaitable[Any]]) -> Callable[[dict[str, Any], Any], Awaitable[Any]]:
        async def perform(arguments: dict[str, Any], call: Any) -> Any:
            await self._adopted.wait()
            return await method(**arguments)

        return perform

    def _supervisor_of(self, kernel_id: str) -> BridgeSupervisor:
        try:
            return self._supervisors[kernel_id]
        except KeyError:
            raise UnknownKernel(kernel_id, sorted(self._supervisors)) from None

    async def _take(self, file: KernelFile) -> BridgeSupervisor:
        supervisor = BridgeSupervisor(self._environment, self._connection, file)
        self._supervisors[file.kernel_id] = supervisor
        await supervisor.start()
        return supervisor

    async def _adopt(self) -> None:
        """Adopt running kernels of this host, and remove the files of dead ones."""
        folder = self._environment.runtime_dir
        for path in sorted(folder.glob("kernel-*.json")):
            file = runtime.read_file(path, KernelFile)
            if file is None or host_of_kernel(file.kernel_id) != self._authid:
                continue
            if not runtime.is_of_router(file.router, self._environment.url):
                logger.info("kernel %s is left to the host of %s", file.kernel_id, file.router)
                continue
            if file.alive():
                logger.info("adopted kernel %s (process %d)", file.kernel_id, file.pid)
                await self._take(file)
            else:
                logger.info("kernel %s has ended; removing its files", file.kernel_id)
                launcher.forget_kernel(folder, file)

    async def _watch(self, stop: asyncio.Event, refused: asyncio.Task[Any]) -> None:
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                await asyncio.wait({stopped, refused}, timeout=WATCH_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
                if refused.done() and (error := refused.result()) is not None:
                    raise error
                for kernel_id, supervisor in list(self._supervisors.items()):
                    if not await supervisor.check():
                        logger.info("kernel %s was ended", kernel_id)
                        self._supervisors.pop(kernel_id, None)
                        await supervisor.end(kernel=False)
        finally:
            stopped.cancel()

    def _write_file(self) -> None:
        url = self._environment.url
        content = HostFile(
            pid=os.getpid(), process_started=runtime.own_process_started(), authid=self._authid, router=url
        )
        runtime.write_file(runtime.host_file(self._environment.runtime_dir, url), content)
