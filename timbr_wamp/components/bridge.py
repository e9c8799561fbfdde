"""A bridge puts one kernel and its machines on the router, from a process outside the kernel.

It answers while a cell runs, and publishes a topic only while it has subscribers. When the bridge
ends, the kernel keeps running. This module connects the parts: `kernel_supervisor`, `machine_relays`, `relay`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from timbr_wamp.client.connection import Connection
from timbr_wamp.client.tasks import Tasks, first_of
from timbr_wamp.components import kernel_identity as identity
from timbr_wamp.components import shared_kernel
from timbr_wamp.components.folder_watch import FolderWatch
from timbr_wamp.components.headless_supervisor import HeadlessSupervisor, Supervisor
from timbr_wamp.components.kernel_identity import Identity
from timbr_wamp.components.kernel_service import KernelService, answer
from timbr_wamp.components.kernel_supervisor import KernelSupervisor
from timbr_wamp.components.machine_relay import send
from timbr_wamp.components.machine_relays import GONE_STATES, MachineRelays
from timbr_wamp.components.relay import SubscribedTopics, split_to_fit
from timbr_wamp.contract import (
    KERNEL,
    Interest,
    IopubMessage,
    KernelInfo,
    KernelStateName,
    to_builtins,
)
from timbr_wamp.errors import (
    InvalidArgument,
    KernelDead,
    KernelNameTaken,
    NotAuthorized,
    NotConnected,
    TimbrError,
)
from timbr_wamp.names import (
    NODE_PREFIX,
    checked_name,
    host_of_kernel,
    kernel_uri,
)
from timbr_wamp.processes import Process, hand_over, wait_ended
from timbr_wamp.runtime import SharedFile
from timbr_wamp.tables import terminal_text

logger = logging.getLogger(__name__)

#: Size of the router connection's write buffer above which the bridge stops reading records and output.
BUFFER_BYTES = 512 * 1024
#: Interval for looking at a kernel that may be gone.
POLL_INTERVAL_S = 0.5
#: Longest interval for looking whether the kernel was used, where it is ended when it was not.
IDLE_INTERVAL_S = 5.0
#: Shortest interval between two publications of the kernel's state.
STATE_INTERVAL_S = 0.1
#: Wait before a failed announcement is repeated.
ANNOUNCE_RETRY_S = 2.0
#: Longest time for which output waits for a slow router. Beyond it, ZeroMQ drops output at its high-water mark.
PACE_TIMEOUT_S = 5.0
#: Time for sending the reply to ``shutdown`` before the bridge ends.
REPLY_GRACE_S = 0.2
JOIN_TIMEOUT_S = 15.0
#: Timeout for announcing the kernel's last state.
LAST_STATE_TIMEOUT_S = 2.0
#: Announces a kernel's state to the node component, and the topic on which it tells of subscribers.
ANNOUNCE, INTEREST_TOPIC = f"{NODE_PREFIX}.announce", f"{NODE_PREFIX}.interest"


#: What a bridge's file says of it: its subshell, and ``name → run`` of the machines that the router lists.
_Noted: TypeAlias = tuple[str | None, dict[str, str] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeOptions:
    """The kernel of a bridge, and the router. Exactly one of kernel id and connection file is set."""

    runtime_dir: Path
    url: str
    realm: str
    token: str = field(repr=False)
    #: Name of the token; the first part of new kernel ids for kernels that timbr_wamp did not start.
    host: str
    kernel_id: str | None = None
    connection_file: Path | None = None
    #: Name of the kernel for people, kept for later bridges. None means the name that it has, else that of its file.
    name: str | None = None
    #: Idle seconds after which the kernel is ended; None means never.
    shutdown_interval_s: float | None = None

    def identity(self) -> Identity:
        """Return the identity of the kernel.

        Raises:
            InvalidArgument, InvalidName, NoConnectionFile, UnknownKernel.
        """
        if self.name is not None:
            checked_name(self.name)
        if (self.kernel_id is None) == (self.connection_file is None):
            raise InvalidArgument("kernel", "pass either a kernel id or a connection file")
        if self.kernel_id is not None:
            return identity.of_kernel_id(self.runtime_dir, self.kernel_id)
        assert self.connection_file is not None
        return identity.of_connection_file(self.runtime_dir, self.connection_file, self.host)


def _ignore(text: str) -> None:
    """Report nothing."""


async def run_bridge(options: BridgeOptions, report: Callable[[str], None] = _ignore) -> int:
    """Bridge a kernel until SIGTERM, SIGINT or its end; return the process's exit code.

    A host sends SIGUSR1 to restart the kernel, and SIGUSR2 to end it and the bridge. An error is
    printed on stderr as one sentence, and so is the end of a kernel that nobody asked for.

    Args:
        report: called with lines for people: that the kernel is on the router, and what became of it.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    handlers = {signal.SIGTERM: stop.set, signal.SIGINT: stop.set}
    try:
        who = options.identity()
        bridge = Bridge(options, who, report)
        handlers |= {signal.SIGUSR1: bridge.restart_kernel, signal.SIGUSR2: bridge.end_kernel}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        with identity.lock_kernel(options.runtime_dir, who.kernel_id, options.url) as old_subshell:
            if options.name is not None:
                other = identity.kernel_named(options.runtime_dir, options.name, options.url, but=who.kernel_id)
                if other is not None:
                    raise KernelNameTaken(options.name, other)
                identity.keep_name(options.runtime_dir, who, options.name)
            await bridge.run(stop, old_subshell=old_subshell)
    except TimbrError as error:
        hand_over(error)
        print(terminal_text(str(error)), file=sys.stderr)
        return 1
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
    return 0


class Bridge:
    """One kernel on the router. The loop's own thread only."""

    def __init__(self, options: BridgeOptions, who: Identity, report: Callable[[str], None]) -> None:
        self._options, self._kernel_id, self._report = options, who.kernel_id, report
        self._name = options.name or who.name
        self._connection = Connection(
            options.url, options.realm, options.token, on_join=self._joined, on_leave=self._left
        )
        self._supervisor = self._supervisor_for(who)
        self._subscribed = SubscribedTopics(who.kernel_id)
        self._machines = MachineRelays(
            who.kernel_id, self._connection, self._subscribed, self._supervisor,
            on_change=self._changed, called=self._called, can_send=self._can_send, on_error=self._failed,
        )  # fmt: skip
        self._iopub_topic = kernel_uri(who.kernel_id, "iopub")
        self._iopub_seq = 0
        self._stop = asyncio.Event()
        self._tasks = Tasks(self._failed)
        #: The unexpected error that ends the bridge; its supervisor then starts another one.
        self._error: Exception | None = None
        #: State and reason to announce at the end, other than the supervisor's; None without any.
        self._last_state: tuple[KernelStateName, str] | None = None
        self._shared = who.shared
        self._state_changed = asyncio.Event()
        self._folder_watch: FolderWatch | None = None
        #: Set when the kernel may be dead for good.
        self._kernel_gone = asyncio.Event()
        #: The end of a kernel that nobody asked for, which ends the bridge.
        self._gone: KernelDead | None = None
        self._last_call = time.monotonic()

    def _supervisor_for(self, who: Identity) -> Supervisor:
        runtime_dir = self._options.runtime_dir
        if who.headless is not None:
            return HeadlessSupervisor(
                who.kernel_id, runtime_dir, file=who.headless,
                on_change=self._kernel_changed, on_ending=self._leave_headless, on_error=self._failed,
            )  # fmt: skip
        assert who.connection_file is not None
        return KernelSupervisor(
            who.kernel_id, who.connection_file, runtime_dir, file=who.file,
            on_iopub=self._on_iopub, on_change=self._kernel_changed, pace=self._pace, on_error=self._failed,
        )  # fmt: skip

    async def run(self, stop: asyncio.Event, *, old_subshell: str | None = None) -> None:
        """Bridge until ``stop`` is set, the kernel is ended on request, or the connection fails for good.

        Raises:
            TimbrError: the kernel or the router could not be reached, or the token was revoked.
        """
        self._stop = stop
        try:
            await self._supervisor.open(old_subshell=old_subshell)
            self._changed()
            await self._connection.subscribe(INTEREST_TOPIC, self._on_interest)
            await self._register_kernel()
            await self._machines.open()
            await self._connection.open(JOIN_TIMEOUT_S)
            if self._connection.role != "host":
                raise NotAuthorized("register", kernel_uri(self._kernel_id, "info"), self._connection.role, "host")
            logger.info("kernel %s is on %s", self._kernel_id, self._options.url)
            self._report(
                f"kernel {self._kernel_id} ({self._name}) is on {self._options.url}; Ctrl-C takes it off the router"
            )
            self._folder_watch = FolderWatch(self._options.runtime_dir, self._machines.look)
            self._tasks.start(self._machines.follow(), "follow machines")
            self._tasks.start(self._publish_state_changes(), "publish state changes")
            self._tasks.start(self._watch_gone(), "watch gone")
            if self._shared is not None:
                self._tasks.start(self._end_with_kernel(self._shared), "end with its kernel")
            if (limit_s := self._options.shutdown_interval_s) is not None and not self._supervisor.headless:
                self._tasks.start(self._watch_idle(limit_s), "watch idle")
            await self._wait_for_end()
            self._report(f"kernel {self._kernel_id} {self._end_text()}")
        finally:
            if self._folder_watch is not None:
                self._folder_watch.close()
            await self._tasks.close()
            if self._shared is not None and not shared_kernel.is_shared(self._options.runtime_dir, self._shared):
                self._last_state = self._last_state or ("dead", shared_kernel.TAKEN_OFF)
            await self._say_last_state()
            await self._connection.close()
            shared_kernel.forget_ended(self._options.runtime_dir)
            await self._machines.close()
            await self._supervisor.close()

    async def _wait_for_end(self) -> None:
        """Return when ``stop`` is set; raise the error that ended the connection or one of the tasks."""
        await first_of(self._connection.wait_finished(), self._stop.wait())
        if self._error is not None:
            raise self._error
        if self._gone is not None:
            raise self._gone
        if not self._stop.is_set():
            raise self._connection.failed or NotConnected(self._options.url, "the connection was closed")

    def _end_text(self) -> str:
        """Return what became of the kernel."""
        supervisor = self._supervisor
        if supervisor.state == "dead":
            return f"has ended: {supervisor.reason}"
        return "is off the router, and keeps running"

    def _failed(self, error: Exception) -> None:
        """End the bridge because of an unexpected error. Its supervisor starts another one."""
        self._error = self._error or error
        self._stop.set()

    def restart_kernel(self) -> None:
        """Start to restart the kernel. A failure is visible in the kernel's state."""
        self._start(self._supervisor.restart())

    def end_kernel(self) -> None:
        """Start to end the kernel and then this bridge."""

        async def end() -> None:
            await self._supervisor.shutdown()
            self._stop.set()

        self._start(end())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        async def logged() -> None:
            try:
                await work
            except TimbrError as error:
                logger.error("kernel %s: %s", self._kernel_id, error)

        self._tasks.start(logged(), "order of the host")

    # --- state -------------------------------------------------------------------------------

    def info(self) -> KernelInfo:
        """Return the kernel's state and description."""
        supervisor, described = self._supervisor, self._supervisor.info
        language: Any = described.get("language_info", {})
        file = supervisor.file
        return KernelInfo(
            kernel_id=self._kernel_id,
            name=self._name,
            host=host_of_kernel(self._kernel_id),
            state=supervisor.state,
            wamp_session=self._connection.session_id,
            pid=file.pid if file is not None else None,
            managed=supervisor.managed,
            headless=supervisor.headless,
            language=str(language.get("name", "python")),
            language_version=str(language.get("version", "")),
            protocol_version=str(described.get("protocol_version", "")),
            cwd=file.cwd if file is not None else None,
            started_at=file.started_at if file is not None else None,
            restarts=supervisor.restarts,
            reason=supervisor.reason,
            machines=self._machines.briefs,
            time=time.time(),
        )

    def _changed(self) -> None:
        self._state_changed.set()

    def _kernel_changed(self) -> None:
        self._changed()
        if self._supervisor.state in GONE_STATES:
            self._machines.kernel_gone()
            self._kernel_gone.set()

    async def _say_last_state(self) -> None:
        """Say why the kernel ended, or was let go; the node component says of any other end that the bridge left."""
        if not self._connection.joined or (self._last_state is None and self._supervisor.state != "dead"):
            return
        info = self.info()
        if self._last_state is not None:
            state, reason = self._last_state
            info = msgspec.structs.replace(info, state=state, reason=reason)
        with contextlib.suppress(TimbrError):  # it does not answer, or the connection is lost: nobody to tell
            await self._connection.call(ANNOUNCE, to_builtins(info), timeout_s=LAST_STATE_TIMEOUT_S)
            self._connection.publish(kernel_uri(self._kernel_id, "state"), to_builtins(info), retain=True)

    async def _publish_state_changes(self) -> None:
        """Announce and publish the kernel's state at each change."""
        topic = kernel_uri(self._kernel_id, "state")
        noted: _Noted = (None, None)
        machines: dict[str, str] | None = None
        while True:
            await self._state_changed.wait()
            self._state_changed.clear()
            noted = self._note_in_file(noted, machines)
            try:
                await self._connection.wait_joined(JOIN_TIMEOUT_S)
                runs, described = self._machines.runs, self.info()
                info = to_builtins(described)
                # announce first, so that the kernel is in the list when a host's `start` sees its state
                self._on_interest(await self._connection.call(ANNOUNCE, info, timeout_s=10.0))
                self._machines.announced(runs)
            except TimbrError as error:
                if joined := self._connection.joined:
                    logger.warning("announcing kernel %s failed: %s", self._kernel_id, error)
                # always pause: a loop that never awaits would block the reconnection
                await asyncio.sleep(ANNOUNCE_RETRY_S if joined else STATE_INTERVAL_S)
                self._state_changed.set()
                continue
            machines = {machine.name: machine.run for machine in described.machines}
            noted = self._note_in_file(noted, machines)
            self._connection.publish(topic, info, retain=True)
            await asyncio.sleep(STATE_INTERVAL_S)

    def _note_in_file(self, noted: _Noted, machines: dict[str, str] | None) -> _Noted:
        """Write the bridge's file when its content changed: the subshell, and the machines that the router lists."""
        now = (self._supervisor.subshell_id, machines)
        if now != noted:
            identity.write_bridge_file(
                self._options.runtime_dir, self._kernel_id, self._options.url, subshell_id=now[0], machines=machines
            )
        return now

    async def _joined(self) -> None:
        self._machines.joined()
        self._state_changed.set()

    def _left(self, reason: str) -> None:
        logger.info("kernel %s lost the router: %s", self._kernel_id, reason)
        self._machines.left()
        if self._subscribed.clear():
            self._machines.refresh()

    # --- kernel ------------------------------------------------------------------------------

    async def _register_kernel(self) -> None:
        service = KernelService(self._supervisor, self.info, self._machines.see, self._ended)
        for name, procedure in KERNEL.items():
            method = getattr(service, name)

            async def perform(arguments: dict[str, Any], call: Any, method: Any = method) -> Any:
                self._called()
                return await method(call, **arguments)

            await self._connection.register(kernel_uri(self._kernel_id, name), answer(procedure, perform))

    def _ended(self) -> None:
        asyncio.get_running_loop().call_later(REPLY_GRACE_S, self._stop.set)

    def _called(self) -> None:
        self._last_call = time.monotonic()

    def _on_iopub(self, message: IopubMessage) -> None:
        if not self._subscribed.has_subscribers(self._iopub_topic):
            self._iopub_seq += 1
            return
        for part in split_to_fit(message):
            self._iopub_seq += 1
            part.seq = self._iopub_seq
            send(self._connection, self._iopub_topic, to_builtins(part))

    def _can_send(self) -> bool:
        return self._connection.joined and self._connection.buffered_bytes() < BUFFER_BYTES

    async def _pace(self) -> None:
        """Wait while the write buffer is full, at most `PACE_TIMEOUT_S`."""
        deadline = time.monotonic() + PACE_TIMEOUT_S
        while self._connection.buffered_bytes() >= BUFFER_BYTES and time.monotonic() < deadline:
            await asyncio.sleep(0.005)

    async def _watch_gone(self) -> None:
        """End the bridge when the kernel is gone for good."""
        supervisor = self._supervisor
        while True:
            await self._kernel_gone.wait()
            self._kernel_gone.clear()
            dead_at = time.monotonic()
            if supervisor.state == "dead" and POLL_INTERVAL_S < supervisor.give_up_s < math.inf:
                self._report(
                    f"kernel {self._kernel_id}: {supervisor.reason}; "
                    f"the bridge waits {supervisor.give_up_s:g} s for it to come back"
                )
            while supervisor.state == "dead" and not self._stop.is_set():
                if time.monotonic() - dead_at >= supervisor.give_up_s:
                    logger.info("kernel %s is gone", self._kernel_id)
                    if not supervisor.ended_in_order:
                        self._gone = KernelDead(self._kernel_id, supervisor.reason or "it is gone")
                    self._stop.set()
                    return
                await asyncio.sleep(POLL_INTERVAL_S)

    async def _end_with_kernel(self, shared: SharedFile) -> None:
        """End the bridge with the process of a kernel that put itself on the router, also when it is restarted."""
        process = Process.of(shared)
        if process is not None:
            await wait_ended(process)
        self._last_state = ("dead", "its process ended")
        self._stop.set()

    async def _watch_idle(self, limit_s: float) -> None:
        """End a kernel that is idle for too long."""
        while True:
            await asyncio.sleep(min(IDLE_INTERVAL_S, limit_s / 4))
            if self._supervisor.state == "busy" or self._machines.running:
                self._called()
            if time.monotonic() - self._last_call > limit_s:
                await self._end_idle(f"it was idle for {limit_s:g} s")
                return

    async def _end_idle(self, reason: str) -> None:
        """End the kernel, or let one go that somebody else started; then end the bridge."""
        if self._supervisor.managed:
            logger.warning("kernel %s: %s; ending it", self._kernel_id, reason)
            await self._supervisor.shutdown(reason)
        else:
            logger.warning("kernel %s: %s; letting it go: it keeps running", self._kernel_id, reason)
            self._last_state = ("offline", f"{reason}, and its bridge let it go; it keeps running")
        self._stop.set()

    def _leave_headless(self, limit_s: float) -> None:
        """Start to hand on all records of a process that is about to end, and then to end this bridge."""

        async def leave() -> None:
            with contextlib.suppress(TimeoutError, TimbrError):  # what was not read, readers are told as a gap
                async with asyncio.timeout(limit_s):
                    await self._machines.read_to_end()
            assert isinstance(self._supervisor, HeadlessSupervisor)
            self._supervisor.leave()

        self._tasks.start(leave(), "leave")

    # --- interest ----------------------------------------------------------------------------

    def _on_interest(self, value: Any, *, details: object = None) -> None:
        """Handle an answer or an event of the node component about subscribers."""
        try:
            interest = msgspec.convert(value, Interest)
        except msgspec.ValidationError as error:
            logger.error("kernel %s: the router's statement about subscribers is invalid: %s", self._kernel_id, error)
            return
        if self._subscribed.tell(interest):
            self._machines.refresh()
