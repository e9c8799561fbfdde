"""One machine of a kernel: asked by its control socket, followed while wanted.

Nothing is read of a machine that nobody watches, but one long poll every two seconds for its state.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import zmq

from timbr_wamp.client.feed import Batch
from timbr_wamp.components.control_client import ControlClient
from timbr_wamp.components.records_subscriber import RecordsSubscriber
from timbr_wamp.components.relay import STATUS_SHORTEST_S
from timbr_wamp.contract import MACHINE, MachineBrief, Status
from timbr_wamp.errors import CallTimeout, ControlBusy, TimbrError
from timbr_wamp.runtime import MachineFile

logger = logging.getLogger(__name__)

#: A machine's control thread runs no code of users: it answers within this.
ANSWER_S = 10.0
#: How long a poll for changes may wait when nobody listens.
CALM_S = 2.0
#: Asked again after an answer that did not come.
RETRY_S = 1.0
#: Beyond every number: a poll after it tells where the numbers are.
_NEWEST = 1 << 62


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody listens to."""

    #: All records, in batches; single events, sampled; the status.
    records: bool = False
    events: bool = False
    status: bool = False


class MachineSink:
    """Where a `MachineConnection` gives what it reads. Subclass what is needed; nothing here may block."""

    def on_batch(self, batch: Batch) -> None:
        """Take consecutive records, as wire rows."""

    def on_status(self, status: Status) -> None:
        """Take a status; they come often, not only on change."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take an event, in builtins."""

    def on_error(self, error: Mapping[str, Any]) -> None:
        """Take a failure, in builtins."""


class MachineConnection:
    """A link to one machine. The loop's own thread only.

    Args:
        clear: False while the router is behind; records then wait in the machine.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        file: MachineFile,
        kernel_id: str,
        sink: MachineSink,
        *,
        clear: Callable[[], bool],
    ) -> None:
        self._context, self.file, self._sink, self._clear = context, file, sink, clear
        self._control = ControlClient(context, file, kernel_id)
        self._records: RecordsSubscriber | None = None
        self._wanted = Wanted()
        #: Name, run and state, for the kernel's own state.
        self.brief = MachineBrief(name=file.name, run=file.run, state="idle")
        self.running = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._hurry = asyncio.Event()
        self._start(self._follow_changes())

    def want(self, wanted: Wanted) -> None:
        """Begin or end reading what somebody listens to, or nobody does any more."""
        before, self._wanted = self._wanted, wanted
        if (before.records, before.events) != (wanted.records, wanted.events):
            self._read_records(wanted)
        if (wanted.status and not before.status) or (wanted.records and not before.records):
            self.look()
            self._hurry.set()

    def look(self) -> None:
        """Ask for the status now."""
        self._start(self._look())

    async def request(
        self,
        name: str,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        *,
        author: str | None,
        on_progress: Callable[[Any], None] | None,
    ) -> Any:
        """Relay a call; see `ControlClient.request`. What runs users' code may take as long as it takes."""
        timeout_s = None if MACHINE[name].pooled else ANSWER_S
        return await self._control.request(
            name, args, kwargs, author=author, timeout_s=timeout_s, on_progress=on_progress
        )

    async def close(self) -> None:
        """Let go of the machine. Idempotent."""
        if self._records is not None:
            self._records.close()
            self._records = None
        self._control.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- inside ------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _read_records(self, wanted: Wanted) -> None:
        if self._records is not None:
            self._records.close()
            self._records = None
        if wanted.records or wanted.events:
            self._records = RecordsSubscriber(
                self._context,
                self.file,
                self._control,
                complete=wanted.records,
                on_batch=self._sink.on_batch,
                clear=self._clear,
            )

    async def _look(self) -> None:
        try:
            self._take_status(await self._control.request("status", timeout_s=ANSWER_S))
        except TimbrError as error:
            logger.debug("machine %s: %s", self.file.name, error)

    async def _follow_changes(self) -> None:
        event_number, error_number = _NEWEST, _NEWEST
        while True:
            first = event_number == _NEWEST
            watched = self._wanted.status or self._wanted.records
            wait_s = 0.0 if first else STATUS_SHORTEST_S if watched else CALM_S
            try:
                changes = await self._changes(event_number, error_number, wait_s)
            except (CallTimeout, ControlBusy) as error:
                logger.warning("machine %s: %s", self.file.name, error)
                await asyncio.sleep(RETRY_S)
                continue
            except TimbrError:
                return  # it is gone; whoever looks at the runtime files notices
            if changes is None:
                continue
            event_number, error_number = changes["event_number"], changes["error_number"]
            self._take_status(changes["status"])
            for event in changes["events"]:
                self._sink.on_event(event)
            for failure in changes["errors"]:
                self._sink.on_error(failure)

    async def _changes(self, event_number: int, error_number: int, wait_s: float) -> Mapping[str, Any] | None:
        """Return what the machine tells of its changes; None when somebody began to listen meanwhile.

        The next poll takes the place of the one that was given up: a machine keeps one for each link.
        """
        self._hurry.clear()
        arguments = [event_number, error_number, wait_s]
        poll = asyncio.ensure_future(self._control.request("__changes__", arguments, timeout_s=wait_s + ANSWER_S))
        hurried = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait({poll, hurried}, return_when=asyncio.FIRST_COMPLETED)
            return await poll if poll.done() else None
        finally:
            poll.cancel()
            hurried.cancel()

    def _take_status(self, value: Mapping[str, Any]) -> None:
        status = msgspec.convert(value, Status, strict=False)
        self.running = status.state in ("running", "draining")
        self.brief = MachineBrief(name=status.name, run=status.run, state=status.state)
        if self._records is not None:
            self._records.on_status(status.run, status.last_seq)
        self._sink.on_status(status)
