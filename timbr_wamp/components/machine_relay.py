"""One machine on the router: its procedures, and its topics while somebody is subscribed to them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from timbr_wamp.client.feed import Batch
from timbr_wamp.components.machine_connection import MachineConnection, MachineSink, Wanted
from timbr_wamp.components.relay import Cap, Sampler, StatusPacer, SubscribedTopics
from timbr_wamp.contract import MACHINE, TOPICS, MachineBrief, Procedure, Status, to_builtins
from timbr_wamp.errors import InvalidArgument, NoMachine, PayloadTooLarge
from timbr_wamp.names import kernel_uri

if TYPE_CHECKING:
    from timbr_wamp.client.connection import CallInfo, Connection
    from timbr_wamp.client.subscriptions import Endpoint

logger = logging.getLogger(__name__)


def send(connection: Connection, topic: str, *args: Any, retain: bool = False, **kwargs: Any) -> None:
    """Publish what comes from a kernel or machine; what the wire cannot carry is logged, and the rest goes on."""
    try:
        connection.publish(topic, *args, retain=retain, **kwargs)
    except (PayloadTooLarge, InvalidArgument) as error:
        logger.warning("not published on %s: %s", topic, error)


class MachineRelay(MachineSink):
    """A name under a kernel where a machine is, was or may come. The loop's own thread only.

    Args:
        interest: which topics are wanted; the bridge keeps it.
        on_brief: called when the machine's run or state changed.
        called: called at each call, for who counts idle time.
    """

    def __init__(
        self,
        kernel_id: str,
        name: str,
        connection: Connection,
        interest: SubscribedTopics,
        *,
        on_brief: Callable[[], None],
        called: Callable[[], None],
    ) -> None:
        self._kernel_id, self.name, self._connection, self._interest = kernel_id, name, connection, interest
        self._on_brief, self._called = on_brief, called
        self._topics = {topic: self._uri(topic) for topic in TOPICS["machine"]}
        self._brief: MachineBrief | None = None
        self._status: Status | None = None
        self._pacer, self._sampler, self._errors = StatusPacer(), Sampler(), Cap()
        #: The machine that there is now.
        self.link: MachineConnection | None = None

    @property
    def topics(self) -> list[str]:
        """The machine's topics."""
        return list(self._topics.values())

    @property
    def procedures(self) -> dict[str, Endpoint]:
        """The machine's procedures by URI."""
        return {self._uri(name): self._endpoint(procedure) for name, procedure in MACHINE.items()}

    def rejoined(self) -> None:
        """Tell everything again: the router may be a new one that keeps nothing."""
        self._pacer = StatusPacer()
        if self.link is not None:
            self.link.look()

    async def use(self, link: MachineConnection | None) -> None:
        """Take another machine, or none, in place of the present one."""
        old, self.link = self.link, link
        if link is None and self._status is not None:
            gone = msgspec.structs.replace(self._status, state="stopped", running=False, reason="the machine is gone")
            send(self._connection, self._topics["status"], to_builtins(gone), retain=True)
        self._brief, self._status, self._pacer = None, None, StatusPacer()
        self.refresh()
        if old is not None:
            await old.close()

    def refresh(self) -> None:
        """Read of the machine what is wanted now."""
        if self.link is not None:
            wanted, topics = self._interest.wanted, self._topics
            self.link.want(
                Wanted(records=wanted(topics["records"]), events=wanted(topics[""]), status=wanted(topics["status"]))
            )

    # --- from the machine --------------------------------------------------------------------

    def on_batch(self, batch: Batch) -> None:
        if self._interest.wanted(self._topics["records"]):
            payload = {"run": batch.run, "first_seq": batch.first_seq, "last_seq": batch.last_seq, "rows": batch.rows}
            send(self._connection, self._topics["records"], payload)
        if self._interest.wanted(self._topics[""]):
            self._send_events(batch)

    def _send_events(self, batch: Batch) -> None:
        rows = self._sampler.take(batch.rows, time.monotonic())
        keywords: dict[str, Any] = {"sampled": self._sampler.n} if self._sampler.n > 1 else {}
        for _, oid, text, _ in rows:
            values = [] if text is None else orjson.loads(text)  # without text it is too large to show
            send(self._connection, self._topics[""], oid, values, **keywords)

    def on_status(self, status: Status) -> None:
        self._status = status
        listened = self._interest.wanted(self._topics["status"])
        if self._pacer.due(status, time.monotonic(), listened=listened):
            send(self._connection, self._topics["status"], to_builtins(status), retain=True)
        if self.link is not None and self.link.brief != self._brief:
            self._brief = self.link.brief
            self._on_brief()

    def on_event(self, event: Mapping[str, Any]) -> None:
        if self._interest.wanted(self._topics["event"]):
            send(self._connection, self._topics["event"], event)

    def on_error(self, error: Mapping[str, Any]) -> None:
        if self._interest.wanted(self._topics["error"]) and self._errors.allow(time.monotonic()):
            send(self._connection, self._topics["error"], error)

    # --- inside ------------------------------------------------------------------------------

    def _uri(self, part: str) -> str:
        return kernel_uri(self._kernel_id, self.name, *([part] if part else []))

    def _endpoint(self, procedure: Procedure) -> Endpoint:
        async def endpoint(args: tuple[Any, ...], kwargs: dict[str, Any], call: CallInfo) -> Any:
            self._called()
            procedure.bind(args, kwargs)  # checked here, sent on as they came
            if self.link is None:
                raise NoMachine(self._kernel_id, self.name)
            return await self.link.request(procedure.name, args, kwargs, author=call.authid, on_progress=call.progress)

        return endpoint
