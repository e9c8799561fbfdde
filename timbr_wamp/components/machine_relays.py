"""The machines of one kernel on the router: found by their files, each with a relay, registered and taken away.

The bridge says when to look and what the router has heard; a relay and its connection move the records
(`machine_relay`, `machine_connection`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import zmq

from timbr_wamp.client.connection import Connection
from timbr_wamp.components.headless_supervisor import Supervisor
from timbr_wamp.components.machine_connection import MachineConnection
from timbr_wamp.components.machine_relay import MachineRelay
from timbr_wamp.components.relay import SubscribedTopics
from timbr_wamp.contract import RESERVED_NAMES, MachineBrief
from timbr_wamp.errors import InvalidName, KernelDead, NoMachine, TimbrError
from timbr_wamp.names import DEFAULT_MACHINE, checked_component
from timbr_wamp.runtime import MachineFile

logger = logging.getLogger(__name__)

#: Interval for trying again what failed.
RETRY_INTERVAL_S = 0.5
#: Longest wait of an answer for the router's list to have the machines that are known here.
ANNOUNCED_TIMEOUT_S = 1.0
#: A process that is about to end waits until no reader has asked for records for so long.
READERS_QUIET_S = 0.5
#: States of a kernel without a process that answers.
GONE_STATES = ("dead", "restarting")


class MachineRelays:
    """The relays of a kernel's machines, by name. The loop's own thread only.

    Args:
        on_change: called when a machine came, went, or has another brief.
        called: called with each call to a machine.
        can_send: whether the connection takes more records now.
        on_error: called with an unexpected error.
    """

    def __init__(
        self,
        kernel_id: str,
        connection: Connection,
        subscribed: SubscribedTopics,
        supervisor: Supervisor,
        *,
        on_change: Callable[[], None],
        called: Callable[[], None],
        can_send: Callable[[], bool],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._kernel_id, self._connection, self._subscribed = kernel_id, connection, subscribed
        self._supervisor, self._on_change, self._called = supervisor, on_change, called
        self._can_send, self._on_error = can_send, on_error
        self._relays: dict[str, MachineRelay] = {}
        self._registrations: dict[str, list[Any]] = {}
        #: Names of machines that are not valid in a URI.
        self._refused: set[str] = set()
        self._lock = asyncio.Lock()
        self._due = asyncio.Event()
        #: The router's list has the machines that are known here.
        self._announced = asyncio.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    # --- what there is -----------------------------------------------------------------------

    @property
    def briefs(self) -> list[MachineBrief]:
        """The machines that are known here, for the kernel's state."""
        return [relay.machine.brief for relay in self._relays.values() if relay.machine is not None]

    @property
    def runs(self) -> list[str]:
        """The runs of the machines that are known here."""
        return [brief.run for brief in self.briefs]

    @property
    def running(self) -> bool:
        """A machine processes messages."""
        return any(relay.machine is not None and relay.machine.running for relay in self._relays.values())

    def _absent(self, machine: str) -> TimbrError:
        """Return why there is no machine of that name."""
        supervisor = self._supervisor
        if supervisor.state not in GONE_STATES:
            present = [relay.name for relay in self._relays.values() if relay.machine is not None]
            return NoMachine(self._kernel_id, machine, present, supervisor.startup_error or "")
        reason = supervisor.reason or "it has no process"
        return KernelDead(self._kernel_id, reason if supervisor.state == "dead" else f"{reason}; it is restarting")

    # --- following ---------------------------------------------------------------------------

    async def open(self) -> None:
        """Register the default machine, and connect to the machines that are there."""
        await self._add(DEFAULT_MACHINE)
        await self._update()

    async def close(self) -> None:
        """Disconnect from all machines."""
        for relay in self._relays.values():
            await relay.use(None)
        self._context.destroy(linger=0)

    def look(self) -> None:
        """Have `follow` look for machines when their files have changed."""
        if self._supervisor.machine_files.changed():
            self._due.set()

    def kernel_gone(self) -> None:
        """Have `follow` look for machines: the kernel's process ended."""
        self._due.set()

    async def follow(self) -> None:
        """Connect to machines that come and disconnect from machines that go, for ever."""
        while True:
            await self._due.wait()
            self._due.clear()
            if not await self._try_update():
                await asyncio.sleep(RETRY_INTERVAL_S)
                self._due.set()

    async def see(self) -> None:
        """Return when the machines that there are now are known here and in the router's list, and no others.

        So an answer that comes after it is in order with what a cell did to its machines.
        """
        due = self._lock.locked() or self._due.is_set() or self._supervisor.machine_files.changed()
        if due and not await self._try_update():
            self._due.set()  # `follow` tries again
        with contextlib.suppress(TimeoutError):  # a router that is slow to take it does not delay the answer further
            await asyncio.wait_for(self._announced.wait(), ANNOUNCED_TIMEOUT_S)

    async def read_to_end(self) -> None:
        """Wait until all records are with the router, and no reader fetches any more what it missed."""
        for relay in self._relays.values():
            if relay.machine is not None:
                await relay.machine.read_to_end()
        while self._connection.buffered_bytes() or any(
            time.monotonic() - relay.read_at < READERS_QUIET_S for relay in self._relays.values()
        ):
            await asyncio.sleep(READERS_QUIET_S / 10)

    async def _try_update(self) -> bool:
        try:
            await self._update()
        except TimbrError as error:  # the router did not answer
            logger.warning("kernel %s: updating its machines failed: %s", self._kernel_id, error)
            return False
        return True

    async def _update(self) -> None:
        async with self._lock:
            await self._update_locked()

    async def _update_locked(self) -> None:
        files = {} if self._supervisor.state == "dead" else self._supervisor.machine_files.machines()
        changed = False
        for name in set(files) - set(self._relays) - self._refused:
            await self._add(name)
        for name, relay in list(self._relays.items()):
            file, machine = files.get(name), relay.machine
            if (machine.file.control if machine is not None else None) == (file.control if file is not None else None):
                continue
            changed = True
            await relay.use(None if file is None else self._connect(relay, file))
            if file is None and name != DEFAULT_MACHINE:
                await self._remove(name)
        if changed:
            self._announced.clear()
            self._on_change()

    def _connect(self, relay: MachineRelay, file: MachineFile) -> MachineConnection:
        return MachineConnection(
            self._context, file, self._kernel_id, relay, can_send=self._can_send, on_error=self._on_error
        )

    async def _add(self, name: str) -> None:
        """Register the procedures of a machine. The default machine's are always registered, also without a machine:
        their callers then get `NoMachine`, which says what to do."""
        if not _is_valid_name(name):
            self._refused.add(name)
            logger.error(
                "kernel %s: %r is not a valid machine name on the router; the machine stays local",
                self._kernel_id,
                name,
            )
            return
        relay = MachineRelay(
            self._kernel_id, name, self._connection, self._subscribed,
            on_brief=self._on_change, called=self._called, absent=self._absent, look=self.see,
        )  # fmt: skip
        self._relays[name], self._registrations[name] = relay, []
        try:
            for uri, endpoint in relay.procedures.items():
                self._registrations[name].append(await self._connection.register(uri, endpoint))
        except TimbrError:
            await self._remove(name)
            raise

    async def _remove(self, name: str) -> None:
        del self._relays[name]
        for registration in self._registrations.pop(name):
            await registration.unregister()

    # --- what the router says ----------------------------------------------------------------

    def announced(self, runs: list[str]) -> None:
        """Note that the router's list has the machines of these runs."""
        if runs == self.runs:
            self._announced.set()

    def joined(self) -> None:
        """Publish anew what the router keeps."""
        for relay in self._relays.values():
            relay.rejoined()

    def left(self) -> None:
        """Note that the router's list is unknown."""
        self._announced.clear()

    def refresh(self) -> None:
        """Read what has subscribers now, and no more."""
        for relay in self._relays.values():
            relay.refresh()


def _is_valid_name(name: str) -> bool:
    """Return whether a machine's name is valid in a URI under its kernel."""
    try:
        return checked_component(name) not in RESERVED_NAMES
    except InvalidName:
        return False
