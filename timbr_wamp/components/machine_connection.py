"""`MachineConnection`: a bridge's connection to one machine.

It relays calls to the control socket and reads records while they have subscribers. Without subscribers
it only makes a long poll, which the machine answers when something happens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import zmq

from timbr_wamp.client.tasks import Tasks
from timbr_wamp.components.batch_socket import BatchSocket
from timbr_wamp.components.control_client import ControlClient
from timbr_wamp.components.records_subscriber import RecordsSubscriber
from timbr_wamp.components.relay import STATUS_MIN_INTERVAL_S
from timbr_wamp.contract import MACHINE, MachineBrief, RecordsBatch, Status
from timbr_wamp.errors import CallTimeout, ControlBusy, TimbrError
from timbr_wamp.names import SAMPLES
from timbr_wamp.runtime import MachineFile

logger = logging.getLogger(__name__)

#: Timeout of calls that run no code of users.
ANSWER_TIMEOUT_S = 10.0
#: Duration of a long poll for changes without subscribers.
IDLE_POLL_S = 30.0
#: Interval for asking whether all was read.
READ_POLL_S = 0.05
#: Wait before a failed poll is repeated.
RETRY_S = 1.0
#: Larger than any number: a poll with it returns the current numbers.
_NEWEST = 1 << 62


@dataclass(frozen=True, slots=True)
class WantedTopics:
    """The topics of a machine that have subscribers: batches of all records, sampled single records, the status."""

    records: bool = False
    events: bool = False
    status: bool = False


class MachineSink:
    """Base class for what receives a machine's records and changes. Methods must not block."""

    def on_batch(self, batch: RecordsBatch) -> None:
        """Handle consecutive records; none is left out."""

    def on_sample(self, batch: RecordsBatch, sampled: int) -> None:
        """Handle some records, one in ``sampled``."""

    def on_status(self, status: Status) -> None:
        """Handle a status. It is called often, also without a change."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Handle an event, as plain values."""

    def on_error(self, error: Mapping[str, Any]) -> None:
        """Handle a failure, as plain values."""


class MachineConnection:
    """A connection to one machine. The loop's own thread only.

    Args:
        can_send: returns False while the router is too slow; records are then left in the machine.
        on_error: called with an unexpected error, after which this connection no longer works.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        file: MachineFile,
        kernel_id: str,
        sink: MachineSink,
        *,
        can_send: Callable[[], bool],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._context, self.file, self._sink, self._can_send = context, file, sink, can_send
        self._control = ControlClient(context, file, kernel_id)
        self._records: RecordsSubscriber | None = None
        self._samples: BatchSocket | None = None
        self._wanted = WantedTopics()
        #: Name, run and state, for the kernel's own state.
        self.brief = MachineBrief(name=file.name, run=file.run, state="idle")
        self.running = False
        self._tasks = Tasks(on_error)
        self._poll_now = asyncio.Event()
        self._tasks.start(self._poll_changes(), f"changes of machine {file.name}")

    def want(self, wanted: WantedTopics) -> None:
        """Start or stop reading, according to the topics that have subscribers."""
        before, self._wanted = self._wanted, wanted
        if before.records != wanted.records:
            self._read_records(wanted.records)
        if before.events != wanted.events:
            self._read_samples(wanted.events)
        if (wanted.status and not before.status) or (wanted.records and not before.records):
            self.poll_status()
            self._poll_now.set()

    def poll_status(self) -> None:
        """Start to fetch the status."""
        self._tasks.start(self._fetch_status(), f"status of machine {self.file.name}")

    async def request(
        self,
        name: str,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        *,
        author: str | None,
        on_progress: Callable[[Any], None] | None,
    ) -> Any:
        """Relay a call; see `ControlClient.request`. There is no timeout for procedures that run users' code."""
        timeout_s = None if MACHINE[name].pooled else ANSWER_TIMEOUT_S
        return await self._control.request(
            name, args, kwargs, author=author, timeout_s=timeout_s, on_progress=on_progress
        )

    async def read_to_end(self, *, stopped: bool = False) -> None:
        """Wait until readers of complete records got all that the machine recorded.

        Args:
            stopped: first wait until the machine no longer runs and has no message under way.

        Raises:
            TimbrError: the machine does not answer.
        """
        self._poll_now.set()  # for the last events
        while self._records is not None:
            status = await self._control.request("status", timeout_s=ANSWER_TIMEOUT_S)
            self._handle_status(status)
            awaited = stopped and (status["running"] or status["in_flight"])
            if self._records is None or (
                not awaited and self._records.has_handed_on(status["run"], status["last_seq"])
            ):
                return
            await asyncio.sleep(READ_POLL_S)

    async def close(self, reason: TimbrError | None = None) -> None:
        """Disconnect from the machine; calls in progress fail with ``reason``, by default `NoMachine`. Idempotent."""
        self._read_records(False)
        self._read_samples(False)
        self._control.close(reason)
        await self._tasks.close()

    # --- inside ------------------------------------------------------------------------------

    def _read_records(self, wanted: bool) -> None:
        if self._records is not None:
            self._records.close()
        self._records = None
        if wanted:
            self._records = RecordsSubscriber(
                self._context, self.file, self._control, on_batch=self._sink.on_batch, can_send=self._can_send
            )

    def _read_samples(self, wanted: bool) -> None:
        if self._samples is not None:
            self._samples.close()
        self._samples = None
        if wanted:
            self._samples = BatchSocket(
                self._context, self.file, self._control, SAMPLES, on_batch=self._on_sample, held_bytes=lambda: 0
            )

    def _on_sample(self, batch: RecordsBatch, sampled: int) -> None:
        if self._can_send():
            self._sink.on_sample(batch, sampled)

    async def _fetch_status(self) -> None:
        try:
            self._handle_status(await self._control.request("status", timeout_s=ANSWER_TIMEOUT_S))
        except TimbrError as error:
            logger.debug("machine %s: %s", self.file.name, error)

    async def _poll_changes(self) -> None:
        event_number, error_number = _NEWEST, _NEWEST
        while True:
            first = event_number == _NEWEST
            watched = self._wanted.status or self._wanted.records
            wait_s = 0.0 if first else STATUS_MIN_INTERVAL_S if watched else IDLE_POLL_S
            try:
                changes = await self._changes(event_number, error_number, wait_s)
            except (CallTimeout, ControlBusy) as error:
                logger.warning("machine %s: %s", self.file.name, error)
                await asyncio.sleep(RETRY_S)
                continue
            except TimbrError:
                return  # the machine is gone; the bridge's scan of the runtime files notices it
            if changes is None:
                continue
            event_number, error_number = changes["event_number"], changes["error_number"]
            self._handle_status(changes["status"])
            for event in changes["events"]:
                self._sink.on_event(event)
            for failure in changes["errors"]:
                self._sink.on_error(failure)

    async def _changes(self, event_number: int, error_number: int, wait_s: float) -> Mapping[str, Any] | None:
        """Make a long poll for changes; return None when it was interrupted to poll at once.

        The machine keeps one poll per connection, so the next poll replaces an interrupted one.
        """
        self._poll_now.clear()
        arguments = [event_number, error_number, wait_s]
        poll = asyncio.ensure_future(
            self._control.request("__changes__", arguments, timeout_s=wait_s + ANSWER_TIMEOUT_S)
        )
        interrupted = asyncio.ensure_future(self._poll_now.wait())
        try:
            await asyncio.wait({poll, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            return await poll if poll.done() else None
        finally:
            poll.cancel()
            interrupted.cancel()

    def _handle_status(self, value: Mapping[str, Any]) -> None:
        try:
            status = msgspec.convert(value, Status, strict=False)
        except msgspec.ValidationError as error:  # a machine of another version
            logger.error("machine %s: its status is invalid: %s", self.file.name, error)
            return
        self.running = status.state in ("running", "draining")
        self.brief = MachineBrief(name=status.name, run=status.run, state=status.state)
        if self._records is not None:
            self._records.on_status(status.run, status.last_seq)
        self._sink.on_status(status)
