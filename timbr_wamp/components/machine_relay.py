"""`MachineRelay`: the procedures of one machine on the router, and its topics while they have subscribers."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from timbr_wamp.components.machine_connection import MachineConnection, MachineSink, WantedTopics
from timbr_wamp.components.relay import RateLimit, StatusThrottle, SubscribedTopics
from timbr_wamp.contract import (
    MACHINE,
    TOPICS,
    MachineBrief,
    Procedure,
    RecordsBatch,
    Status,
    texts_from_batch,
    to_builtins,
)
from timbr_wamp.errors import InvalidArgument, KernelDead, PayloadTooLarge, TimbrError
from timbr_wamp.names import kernel_uri
from timbr_wamp.values import json_safe, parse_json

if TYPE_CHECKING:
    from timbr_wamp.client.connection import CallInfo, Connection
    from timbr_wamp.client.subscriptions import Endpoint

logger = logging.getLogger(__name__)


#: Longest time for reading the last records of a machine that a newer one of its name replaces. The machine waits for
#: it: see `timbr_wamp.machine.serving.sockets`.
HANDOVER_S = 2.0
#: Procedures by which readers fetch what they missed.
READING = ("records", "record")


def send(connection: Connection, topic: str, *args: Any, retain: bool = False, **kwargs: Any) -> None:
    """Publish an event; log it if it is too large or cannot be encoded."""
    try:
        connection.publish(topic, *args, retain=retain, **kwargs)
    except (PayloadTooLarge, InvalidArgument) as error:
        logger.warning("could not publish on %s: %s", topic, error)


class MachineRelay(MachineSink):
    """The machine of one name in a kernel; there may be none at the moment. The loop's own thread only.

    Args:
        subscribed: the topics that have subscribers.
        on_brief: called when the machine's run or state changed.
        called: called at each call, to measure idle time.
        absent: returns the error of calls while there is no machine: why there is none.
        look: awaited before such an error, to look for a machine that was just made.
    """

    def __init__(
        self,
        kernel_id: str,
        name: str,
        connection: Connection,
        subscribed: SubscribedTopics,
        *,
        on_brief: Callable[[], None],
        called: Callable[[], None],
        absent: Callable[[str], TimbrError],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        self._kernel_id, self.name, self._connection, self._subscribed = kernel_id, name, connection, subscribed
        self._on_brief, self._called, self._absent, self._look = on_brief, called, absent, look
        self._topics = {topic: self._uri(topic) for topic in TOPICS["machine"]}
        self._brief: MachineBrief | None = None
        self._status: Status | None = None
        self._throttle, self._errors = StatusThrottle(), RateLimit()
        #: When records were last asked for, by `time.monotonic`.
        self.read_at = -math.inf
        #: The current machine; None without one.
        self.machine: MachineConnection | None = None

    @property
    def procedures(self) -> dict[str, Endpoint]:
        """The machine's procedures by URI."""
        return {self._uri(name): self._endpoint(procedure) for name, procedure in MACHINE.items()}

    def rejoined(self) -> None:
        """Publish the status again, because a restarted router has no retained events."""
        self._throttle = StatusThrottle()
        if self.machine is not None:
            self.machine.poll_status()

    async def use(self, machine: MachineConnection | None) -> None:
        """Replace the current machine with another one, or with none.

        A machine that another one replaces is first read to its end, for at most `HANDOVER_S`.
        """
        if machine is not None and self.machine is not None:
            try:
                async with asyncio.timeout(HANDOVER_S):
                    await self.machine.read_to_end(stopped=True)
            except (TimeoutError, TimbrError):
                logger.debug("machine %s of kernel %s left no last records", self.name, self._kernel_id)
            except asyncio.CancelledError:
                await machine.close()
                raise
        old, self.machine = self.machine, machine
        reason = self._absent(self.name)
        if machine is None and self._status is not None:
            why = reason.reason if isinstance(reason, KernelDead) else "the machine is gone"
            gone = msgspec.structs.replace(self._status, state="stopped", running=False, reason=why)
            send(self._connection, self._topics["status"], to_builtins(gone), retain=True)
        self._brief, self._status, self._throttle = None, None, StatusThrottle()
        self.refresh()
        if old is not None:
            await old.close(reason)

    def refresh(self) -> None:
        """Read from the machine what the topics with subscribers need."""
        if self.machine is not None:
            wanted, topics = self._subscribed.has_subscribers, self._topics
            self.machine.want(
                WantedTopics(
                    records=wanted(topics["records"]), events=wanted(topics[""]), status=wanted(topics["status"])
                )
            )

    # --- from the machine --------------------------------------------------------------------

    def on_batch(self, batch: RecordsBatch) -> None:
        if self._subscribed.has_subscribers(self._topics["records"]):
            send(self._connection, self._topics["records"], to_builtins(batch))

    def on_sample(self, batch: RecordsBatch, sampled: int) -> None:
        keywords: dict[str, Any] = {"sampled": sampled} if sampled > 1 else {}
        for _, oid, text in texts_from_batch(batch):
            values = [] if text is None else _values_of(text)  # a row without text was too large
            send(self._connection, self._topics[""], oid, values, **keywords)

    def on_status(self, status: Status) -> None:
        self._status = status
        listened = self._subscribed.has_subscribers(self._topics["status"])
        if self._throttle.due(status, time.monotonic(), listened=listened):
            send(self._connection, self._topics["status"], to_builtins(status), retain=True)
        if self.machine is not None and self.machine.brief != self._brief:
            self._brief = self.machine.brief
            self._on_brief()

    def on_event(self, event: Mapping[str, Any]) -> None:
        if self._subscribed.has_subscribers(self._topics["event"]):
            send(self._connection, self._topics["event"], event)

    def on_error(self, error: Mapping[str, Any]) -> None:
        if self._subscribed.has_subscribers(self._topics["error"]) and self._errors.allow(time.monotonic()):
            send(self._connection, self._topics["error"], error)

    # --- inside ------------------------------------------------------------------------------

    def _uri(self, part: str) -> str:
        return kernel_uri(self._kernel_id, self.name, *([part] if part else []))

    def _endpoint(self, procedure: Procedure) -> Endpoint:
        async def endpoint(args: tuple[Any, ...], kwargs: dict[str, Any], call: CallInfo) -> Any:
            self._called()
            if procedure.name in READING:
                self.read_at = time.monotonic()
            procedure.bind(args, kwargs)  # only checked; the arguments are passed on unchanged
            if self.machine is None:
                await self._look()
            if self.machine is None:
                raise self._absent(self.name)
            return await self.machine.request(
                procedure.name, args, kwargs, author=call.authid, on_progress=call.progress
            )

        return endpoint


def _values_of(text: bytes) -> Any:
    """Return a record's values; null for a number that no float can hold, and so no message of WAMP."""
    try:
        return orjson.loads(text)
    except ValueError:
        return json_safe(parse_json(text))
