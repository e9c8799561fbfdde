"""`AsyncTopics`: what a machine publishes, live, for one who holds it as an `AsyncMachine`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, get_args

import msgspec

from timbr_wamp.client.connection import Subscription
from timbr_wamp.client.shared_connection import CALL_TIMEOUT_S, SharedConnection
from timbr_wamp.contract import (
    KERNEL,
    MACHINE,
    ErrorRow,
    Event,
    EventKind,
    RecordsBatch,
    SlotInfo,
    Status,
)
from timbr_wamp.errors import InvalidArgument, NoMachine, NoSuchProcedure
from timbr_wamp.faces.tap import Tap
from timbr_wamp.names import DEFAULT_MACHINE, checked_component, kernel_uri

T = TypeVar("T")


class AsyncTopics:
    """A machine by its name: its procedures are called, its topics subscribed to. Any loop."""

    def __init__(self, link: SharedConnection, kernel_id: str, name: str = DEFAULT_MACHINE) -> None:
        self._link = link
        self.kernel_id, self.name = kernel_id, checked_component(name)

    def __repr__(self) -> str:
        return f"<machine {self.name} of kernel {self.kernel_id}>"

    async def _call(
        self,
        result: type[T],
        verb: str,
        *args: Any,
        timeout_s: float | None = CALL_TIMEOUT_S,
        on_progress: Callable[[Any], None] | None = None,
    ) -> T:
        """Call one of the machine's procedures; ``result`` is the contract's type, for the reader."""
        uri = kernel_uri(self.kernel_id, self.name, verb)
        try:
            value: T = await self._link.call(uri, MACHINE[verb], *args, timeout_s=timeout_s, on_progress=on_progress)
        except NoSuchProcedure:
            await self._link.call(kernel_uri(self.kernel_id, "ping"), KERNEL["ping"])  # or the kernel is gone
            raise NoMachine(self.kernel_id, self.name) from None
        return value

    # --- live topics ------------------------------------------------------------------------

    async def on_record(self, callback: Callable[[str, list[Any]], object]) -> Subscription:
        """Call ``callback(oid, [in, f0, …])`` for records as they come: some may be missed."""
        topic = kernel_uri(self.kernel_id, self.name)
        return await self._link.subscribe(topic, lambda oid, values, **_: callback(oid, values))

    async def on_status(self, callback: Callable[[Status], object]) -> Subscription:
        """Call ``callback(status)`` now and on each change, at most 4 times a second."""
        return await self._on("status", MACHINE["status"].result, callback, get_retained=True)

    async def on_event(self, callback: Callable[[Event], object]) -> Subscription:
        """Call ``callback(event)`` for what changes the machine's state."""
        return await self._on("event", partial(msgspec.convert, type=Event), callback)

    async def on_error(self, callback: Callable[[ErrorRow], object]) -> Subscription:
        """Call ``callback(error)`` for slots' failures, at most 10 a second; `errors` has them all."""
        return await self._on("error", partial(msgspec.convert, type=ErrorRow), callback)

    async def on(self, kind: str, callback: Callable[[Any], object]) -> Subscription:
        """Call ``callback(event)`` for events of a kind, ``"*"`` for every kind; ``"error"`` for each `ErrorRow`.

        Raises:
            InvalidArgument: no such kind.
        """
        if kind == "error":
            return await self.on_error(callback)
        if kind == "*":
            return await self.on_event(callback)
        kinds = get_args(EventKind)
        if kind not in kinds:
            raise InvalidArgument("kind", f"{kind!r} is none of *, error, {', '.join(kinds)}")
        return await self.on_event(lambda event: callback(event) if event.kind == kind else None)

    async def tap(self, label: str | int = "in", n: int = 50) -> Tap:
        """Return a live view of one value of the newest ``n`` records: ``"in"``, ``"f1"``, a slot's name or number.

        It begins with the next record, and takes all of them from the topic ``records``, at most once.
        """
        index = 0 if label == "in" else (await self._call(SlotInfo, "slot", _slot_of(label))).slot + 1
        tap = Tap(str(label), index, n, on_close=lambda: end())

        def feed(batch: RecordsBatch) -> None:
            tap.publish([(row.seq, row.oid, row.text) for row in batch.rows[-n:]])

        subscription = await self._on("records", partial(msgspec.convert, type=RecordsBatch), feed)

        def end() -> None:
            self._link.endings.discard(tap.close)
            self._link.leave(subscription)

        self._link.endings.add(tap.close)  # closed with the client
        return tap

    async def _on(
        self,
        name: str,
        typed: Callable[[Any], T],
        callback: Callable[[T], object],
        *,
        get_retained: bool = False,
    ) -> Subscription:
        def take(*args: Any, **kwargs: Any) -> None:
            callback(typed(args[0] if args else kwargs))

        return await self._link.subscribe(kernel_uri(self.kernel_id, self.name, name), take, get_retained=get_retained)


def _slot_of(label: str | int) -> int | str:
    """Return the slot that a tap's label names: ``f1`` is slot 1."""
    numbered = isinstance(label, str) and label[:1] == "f" and label[1:].isdecimal()
    return int(str(label)[1:]) if numbered else label
