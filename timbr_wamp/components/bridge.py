"""A bridge: one kernel and its machines on the router, from outside the kernel's process.

It answers while a cell runs, publishes a topic only while somebody is subscribed, and lets go of a kernel
that goes on living. What it decides is in `relay`, what it reads in `kernel_link` and `machine_link`; here
the parts are joined.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from timbr_wamp.client.connection import Connection
from timbr_wamp.components import kernel_identity as identity
from timbr_wamp.components.headless_supervisor import HeadlessSupervisor, Kept
from timbr_wamp.components.kernel_identity import Identity
from timbr_wamp.components.kernel_service import KernelService, answer
from timbr_wamp.components.kernel_supervisor import KernelSupervisor
from timbr_wamp.components.machine_connection import MachineConnection
from timbr_wamp.components.machine_relay import MachineRelay, send
from timbr_wamp.components.relay import fitting
from timbr_wamp.components.subscription_counter import Counter
from timbr_wamp.contract import KERNEL, RESERVED_NAMES, IopubMessage, KernelInfo, to_builtins
from timbr_wamp.errors import InvalidArgument, InvalidName, TimbrError
from timbr_wamp.names import DEFAULT_MACHINE, NODE_PREFIX, checked_component, host_of_kernel, kernel_uri

logger = logging.getLogger(__name__)

#: Above so much unsent data records stay in the machine, and output in ZeroMQ.
BUFFER_BYTES = 512 * 1024
#: How often the runtime folder is looked at for machines.
LOOK_S = 0.5
#: The kernel's state goes out at most so often.
STATE_SHORTEST_S = 0.1
#: An announcement that was not taken is made again.
ANNOUNCE_AGAIN_S = 2.0
#: Output waits at most so long for a router that is behind; then ZeroMQ's own limit decides what is lost.
PACE_S = 5.0
#: The reply to ``shutdown`` leaves before the bridge does.
LAST_REPLY_S = 0.2
JOIN_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeOptions:
    """What a bridge is for, and where the router is. Exactly one of kernel id and connection file."""

    runtime_dir: Path
    url: str
    realm: str
    token: str = field(repr=False)
    #: Name of the token: the first part of ids given to kernels that somebody else started.
    host: str
    kernel_id: str | None = None
    connection_file: Path | None = None
    #: Displayable to people; the kernel's own, or the connection file's, when None.
    name: str | None = None
    #: The kernel is ended after so many idle seconds; None: never.
    shutdown_interval_s: float | None = None

    def identity(self) -> Identity:
        """Return which kernel it is.

        Raises:
            InvalidArgument, NoConnectionFile, UnknownKernel.
        """
        if (self.kernel_id is None) == (self.connection_file is None):
            raise InvalidArgument("kernel", "give a kernel id or a connection file, not both")
        if self.kernel_id is not None:
            return identity.of_ours(self.runtime_dir, self.kernel_id)
        assert self.connection_file is not None
        return identity.of_connection_file(self.runtime_dir, self.connection_file, self.host)


async def run_bridge(options: BridgeOptions) -> int:
    """Bridge a kernel until SIGTERM, SIGINT or its end; return the process's exit code.

    SIGUSR1 restarts the kernel, SIGUSR2 ends it and the bridge: so a host asks. What goes wrong is said
    in one sentence on stderr.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    handlers = {signal.SIGTERM: stop.set, signal.SIGINT: stop.set}
    try:
        who = options.identity()
        bridge = Bridge(options, who)
        handlers |= {signal.SIGUSR1: bridge.restart_kernel, signal.SIGUSR2: bridge.end_kernel}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        with identity.held(options.runtime_dir, who.kernel_id) as old_subshell:
            await bridge.run(stop, old_subshell=old_subshell)
    except TimbrError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
    return 0


class Bridge:
    """One kernel on the router. The loop's own thread only."""

    def __init__(self, options: BridgeOptions, who: Identity) -> None:
        self._options, self._kernel_id = options, who.kernel_id
        self._name = options.name or who.name
        self._connection = Connection(
            options.url, options.realm, options.token, on_join=self._joined, on_leave=self._left
        )
        self._keeper = self._keeper_of(who)
        self._interest = Counter(self._connection, self._on_interest)
        self._machines: dict[str, MachineRelay] = {}
        self._looking = asyncio.Lock()
        self._registrations: dict[str, list[Any]] = {}
        #: Names of machines that cannot stand in a URI.
        self._refused: set[str] = set()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._iopub_topic = kernel_uri(who.kernel_id, "iopub")
        self._iopub_seq = 0
        self._stop = asyncio.Event()
        self._work: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._last_call = self._alive_at = time.monotonic()

    def _keeper_of(self, who: Identity) -> Kept:
        runtime_dir = self._options.runtime_dir
        if who.headless is not None:
            return HeadlessSupervisor(who.kernel_id, runtime_dir, file=who.headless, on_change=self._changed)
        assert who.connection_file is not None
        return KernelSupervisor(
            who.kernel_id, who.connection_file, runtime_dir, file=who.file,
            on_iopub=self._on_iopub, on_change=self._changed, pace=self._pace,
        )  # fmt: skip

    async def run(self, stop: asyncio.Event, *, old_subshell: str | None = None) -> None:
        """Bridge until ``stop`` is set, the kernel is ended on request, or the router refuses us for good.

        Raises:
            TimbrError: the kernel or the router could not be reached, or the token was revoked.
        """
        self._stop = stop
        work: list[asyncio.Task[None]] = []
        try:
            await self._keeper.open(old_subshell=old_subshell)
            self._changed()
            self._interest.follow([self._iopub_topic])
            await self._register_kernel()
            await self._add_machine(DEFAULT_MACHINE)
            await self._look_for_machines()
            await self._connection.open(JOIN_S)
            logger.info("kernel %s is on %s", self._kernel_id, self._options.url)
            work = [
                asyncio.create_task(self._keep_looking()),
                asyncio.create_task(self._keep_telling()),
                asyncio.create_task(self._interest.run()),
                asyncio.create_task(self._watch_idle()),
            ]
            await self._wait_for_end(work)
        finally:
            for task in {*work, *self._work}:
                task.cancel()
            await asyncio.gather(*work, *self._work, return_exceptions=True)
            await self._connection.close()
            for relay in self._machines.values():
                await relay.use(None)
            await self._keeper.close()
            self._context.destroy(linger=0)

    async def _wait_for_end(self, work: list[asyncio.Task[None]]) -> None:
        """Return when asked to stop; raise what ended the connection, or a bug in one of the tasks."""
        refused = asyncio.create_task(self._connection.wait_finished())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            done, _ = await asyncio.wait([refused, stopped, *work], return_when=asyncio.FIRST_COMPLETED)
            if refused in done and (error := refused.result()) is not None:
                raise error
            for task in done.intersection(work):
                task.result()
        finally:
            refused.cancel()
            stopped.cancel()

    def restart_kernel(self) -> None:
        """Restart the kernel soon; what goes wrong shows in its state."""
        self._start(self._keeper.restart())

    def end_kernel(self) -> None:
        """End the kernel, then this bridge, soon."""

        async def end() -> None:
            await self._keeper.shutdown()
            self._stop.set()

        self._start(end())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        async def logged() -> None:
            try:
                await work
            except TimbrError as error:
                logger.error("kernel %s: %s", self._kernel_id, error)

        task = asyncio.create_task(logged())
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    # --- state -------------------------------------------------------------------------------

    def info(self) -> KernelInfo:
        """Return what is known of the kernel now."""
        keeper, described = self._keeper, self._keeper.info
        language: Any = described.get("language_info", {})
        file = keeper.file
        machines = [relay.link.brief for relay in self._machines.values() if relay.link is not None]
        return KernelInfo(
            kernel_id=self._kernel_id,
            name=self._name,
            host=host_of_kernel(self._kernel_id),
            state=keeper.state,
            wamp_session=self._connection.session_id,
            pid=file.pid if file is not None else None,
            managed=keeper.managed,
            headless=keeper.headless,
            language=str(language.get("name", "python")),
            language_version=str(language.get("version", "")),
            protocol_version=str(described.get("protocol_version", "")),
            cwd=file.cwd if file is not None else None,
            started_at=file.started_at if file is not None else None,
            restarts=keeper.restarts,
            reason=keeper.reason,
            machines=machines,
            time=time.time(),
        )

    def _changed(self) -> None:
        self._news.set()

    async def _keep_telling(self) -> None:
        """Publish the kernel's state and announce it, at each change."""
        topic, announce = kernel_uri(self._kernel_id, "state"), f"{NODE_PREFIX}.announce"
        noted: str | None = None
        while True:
            await self._news.wait()
            self._news.clear()
            if (subshell_id := self._keeper.subshell_id) != noted:
                noted = subshell_id
                identity.note(self._options.runtime_dir, self._kernel_id, noted)
            try:
                await self._connection.wait_joined(JOIN_S)
                info = to_builtins(self.info())
                # announced first: who waits for the state, as `start` of a host does, then finds it in the list
                await self._connection.call(announce, info, timeout_s=10.0)
            except TimbrError as error:
                if joined := self._connection.joined:
                    logger.warning("kernel %s was not announced: %s", self._kernel_id, error)
                # never without a pause: a loop that does not wait would keep the link from coming back
                await asyncio.sleep(ANNOUNCE_AGAIN_S if joined else STATE_SHORTEST_S)
                self._news.set()
                continue
            self._connection.publish(topic, info, retain=True)
            await asyncio.sleep(STATE_SHORTEST_S)

    async def _joined(self) -> None:
        self._interest.begin()
        for relay in self._machines.values():
            relay.rejoined()
        self._news.set()

    def _left(self, reason: str) -> None:
        logger.info("kernel %s is off the router: %s", self._kernel_id, reason)
        self._interest.clear()

    # --- kernel ------------------------------------------------------------------------------

    async def _register_kernel(self) -> None:
        service = KernelService(self._keeper, self.info, self._look_for_machines, self._ended)
        for name, procedure in KERNEL.items():
            method = getattr(service, name)

            async def perform(arguments: dict[str, Any], call: Any, method: Any = method) -> Any:
                self._called()
                return await method(call, **arguments)

            await self._connection.register(kernel_uri(self._kernel_id, name), answer(procedure, perform))

    def _ended(self) -> None:
        asyncio.get_running_loop().call_later(LAST_REPLY_S, self._stop.set)

    def _called(self) -> None:
        self._last_call = time.monotonic()

    def _on_iopub(self, message: IopubMessage) -> None:
        self._iopub_seq += 1
        message.seq = self._iopub_seq
        if self._interest.wanted(self._iopub_topic):
            for part in fitting(message):
                send(self._connection, self._iopub_topic, to_builtins(part))

    def _clear(self) -> bool:
        return self._connection.joined and self._connection.buffered_bytes() < BUFFER_BYTES

    async def _pace(self) -> None:
        """Wait while the router is behind, but not for ever."""
        deadline = time.monotonic() + PACE_S
        while self._connection.buffered_bytes() >= BUFFER_BYTES and time.monotonic() < deadline:
            await asyncio.sleep(0.005)

    async def _watch_idle(self) -> None:
        """End what is idle for too long, and let go of somebody else's kernel that is gone for good."""
        limit_s = None if self._keeper.headless else self._options.shutdown_interval_s
        while True:
            await asyncio.sleep(LOOK_S if limit_s is None else min(LOOK_S, limit_s / 4))
            now = time.monotonic()
            if self._keeper.state != "dead":
                self._alive_at = now
            elif not self._keeper.managed and now - self._alive_at > self._keeper.give_up_s:
                logger.warning("kernel %s is gone", self._kernel_id)
                self._stop.set()
            if self._keeper.state == "busy" or any(
                r.link is not None and r.link.running for r in self._machines.values()
            ):
                self._called()
            if limit_s is not None and now - self._last_call > limit_s:
                logger.warning("kernel %s was idle for %.0f s; it is ended", self._kernel_id, limit_s)
                if self._keeper.managed:
                    await self._keeper.shutdown()
                self._stop.set()
                return

    # --- machines ----------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look_for_machines()
            except TimbrError as error:  # the router does not answer just now; the next look finds it again
                logger.warning("kernel %s: its machines: %s", self._kernel_id, error)

    async def _look_for_machines(self) -> None:
        """Take up machines that came, let go of those that went."""
        async with self._looking:
            await self._look_once()

    async def _look_once(self) -> None:
        files = self._keeper.machines()
        changed = False
        for name in set(files) - set(self._machines) - self._refused:
            await self._add_machine(name)
        for name, relay in list(self._machines.items()):
            file, link = files.get(name), relay.link
            if (link.file.control if link is not None else None) == (file.control if file is not None else None):
                continue
            changed = True
            await relay.use(None if file is None else self._link(relay, file))
            if file is None and name != DEFAULT_MACHINE:
                await self._remove_machine(name)
        if changed:
            self._changed()

    def _link(self, relay: MachineRelay, file: Any) -> MachineConnection:
        return MachineConnection(self._context, file, self._kernel_id, relay, clear=self._clear)

    async def _add_machine(self, name: str) -> None:
        """Answer for a machine's name. The default's is answered always, so that callers learn what to do."""
        if not _can_be_named(name):
            self._refused.add(name)
            logger.error(
                "kernel %s: a machine cannot be called %r on the router; it stays local", self._kernel_id, name
            )
            return
        relay = MachineRelay(
            self._kernel_id, name, self._connection, self._interest, on_brief=self._changed, called=self._called
        )
        self._machines[name], self._registrations[name] = relay, []
        self._interest.follow(relay.topics)
        try:
            for uri, endpoint in relay.procedures.items():
                self._registrations[name].append(await self._connection.register(uri, endpoint))
        except TimbrError:
            await self._remove_machine(name)
            raise

    async def _remove_machine(self, name: str) -> None:
        self._interest.forget(self._machines.pop(name).topics)
        for registration in self._registrations.pop(name):
            await registration.unregister()

    def _on_interest(self) -> None:
        for relay in self._machines.values():
            relay.refresh()


def _can_be_named(name: str) -> bool:
    """Tell whether a machine's name can stand in a URI under its kernel."""
    try:
        return checked_component(name) not in RESERVED_NAMES
    except InvalidName:
        return False
