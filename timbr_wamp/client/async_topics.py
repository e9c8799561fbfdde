"""`AsyncTopics`: the base class of `AsyncMachine` with calls and subscriptions to live topics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, get_args

import msgspec

from timbr_wamp.client.checks import checked_methods
from timbr_wamp.client.connection import Several, Subscription
from timbr_wamp.client.kernel_life import KERNEL_EVENT_KINDS, KernelEvent, KernelLife
from timbr_wamp.client.shared_connection import CALL_TIMEOUT_S, SharedConnection
from timbr_wamp.client.slot_names import SlotNamesCache
from timbr_wamp.contract import (
    KERNEL,
    MACHINE,
    ErrorRow,
    Event,
    EventKind,
    KernelInfo,
    RecordsBatch,
    SlotInfo,
    Status,
    texts_from_batch,
)
from timbr_wamp.errors import InvalidArgument, KernelDead, NoMachine, NoSuchProcedure, TimbrError, not_one_of
from timbr_wamp.faces.tap import Tap
from timbr_wamp.names import DEFAULT_MACHINE, checked_component, kernel_uri

T = TypeVar("T")


@checked_methods
class AsyncTopics:
    """Calls and subscriptions of one machine, by kernel id and name. Usable from any loop."""

    def __init__(self, shared: SharedConnection, kernel_id: str, name: str = DEFAULT_MACHINE) -> None:
        self._shared = shared
        self.kernel_id, self.name = kernel_id, checked_component(name)
        self._slot_names = SlotNamesCache(lambda: self._call(list[SlotInfo], "slots"))

    def __repr__(self) -> str:
        return f"<machine {self.name} of kernel {self.kernel_id}>"

    async def _call(
        self,
        result: type[T],
        verb: str,
        *args: Any,
        timeout_s: float | None = CALL_TIMEOUT_S,
        on_progress: Callable[[Any], object] | None = None,
    ) -> T:
        """Call one of the machine's procedures. ``result`` is the type of the result, for type checkers only."""
        uri = kernel_uri(self.kernel_id, self.name, verb)
        try:
            value: T = await self._shared.call(uri, MACHINE[verb], *args, timeout_s=timeout_s, on_progress=on_progress)
        except NoSuchProcedure:
            raise await absence(self._shared, self.kernel_id, self.name) from None
        return value

    # --- live topics ------------------------------------------------------------------------

    async def on_record(self, callback: Callable[[str, list[Any]], object]) -> Subscription:
        """Call ``callback(oid, [in, f0, …])`` for each record, live; some may be missed.

        Callbacks run one after the other in a thread of the client and may use the client.
        """
        topic = kernel_uri(self.kernel_id, self.name)
        return await self._shared.subscribe(topic, lambda oid, values, **_: callback(oid, values))

    async def on_status(self, callback: Callable[[Status], object]) -> Subscription:
        """Call ``callback(status)`` now and on each change, at most 4 times per second."""
        return await self._on("status", MACHINE["status"].result, callback, get_retained=True)

    async def on_event(self, callback: Callable[[Event], object]) -> Subscription:
        """Call ``callback(event)`` for changes of the machine's state."""
        return await self._on("event", partial(msgspec.convert, type=Event), callback)

    async def on_error(self, callback: Callable[[ErrorRow], object]) -> Subscription:
        """Call ``callback(error)`` for failures of slots, at most 10 per second; `errors` returns all."""
        return await self._on("error", partial(msgspec.convert, type=ErrorRow), callback)

    async def on(self, kind: str, callback: Callable[[Any], object]) -> Subscription:
        """Call ``callback(event)`` for events of a kind; call the result of the blocking method to unsubscribe.

        ``"*"`` stands for every kind, ``"error"`` for failures of slots, passed as `ErrorRow`. Every kind includes
        events of the kernel's life, as `KernelEvent`: ``"kernel_dead"``, ``"kernel_restarting"``,
        ``"kernel_offline"`` (its bridge is gone), ``"kernel_back"``.

        Raises:
            InvalidArgument: unknown kind.
        """
        if kind == "error":
            return await self.on_error(callback)
        if kind == "*":
            return Several(await self.on_event(callback), await self._on_kernel(callback))
        kinds = get_args(EventKind)
        if kind in KERNEL_EVENT_KINDS:
            return await self._on_kernel(lambda event: callback(event) if event.kind == kind else None)
        if kind not in kinds:
            known = ("*", "error", *kinds, *KERNEL_EVENT_KINDS)
            raise InvalidArgument("kind", not_one_of(kind, known))
        return await self.on_event(lambda event: callback(event) if event.kind == kind else None)

    async def _on_kernel(self, callback: Callable[[KernelEvent], object]) -> Subscription:
        life = KernelLife()

        def take(*args: Any, **kwargs: Any) -> None:
            event = life.on_state(msgspec.convert(args[0] if args else kwargs, KernelInfo, strict=False))
            if event is not None:
                callback(event)

        return await self._shared.subscribe(kernel_uri(self.kernel_id, "state"), take, get_retained=True)

    async def tap(self, label: str | int = "in", n: int = 50) -> Tap:
        """Return a live view of one value of the newest ``n`` records: ``"in"``, ``"f1"``, a slot's name or number.

        It starts with the next record, reads the topic ``records``, and is closed with the client. Records may
        be missed.
        """
        index = 0 if label == "in" else (await self._call(SlotInfo, "slot", label)).slot + 1
        tap = Tap(str(label), index, n, on_close=lambda: end())

        def feed(batch: RecordsBatch) -> None:
            tap.publish(texts_from_batch(batch[-n:]))

        subscription = await self._on("records", partial(msgspec.convert, type=RecordsBatch), feed)

        def end() -> None:
            self._shared.close_callbacks.discard(tap.close)
            self._shared.unsubscribe_soon(subscription)

        self._shared.close_callbacks.add(tap.close)
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

        return await self._shared.subscribe(
            kernel_uri(self.kernel_id, self.name, name), take, get_retained=get_retained
        )


async def absence(shared: SharedConnection, kernel_id: str, name: str) -> TimbrError:
    """Return why a machine's procedures are not there: the kernel is dead, or gone, or has no such machine."""
    gone: NoSuchProcedure | None = None
    try:
        info: KernelInfo | None = await shared.call(kernel_uri(kernel_id, "info"), KERNEL["info"])
    except NoSuchProcedure as error:
        gone, info = error, await shared.known_kernel(kernel_id)
    if info is not None and info.state == "dead":
        return KernelDead(kernel_id, info.reason or "its process ended")
    if gone is not None or info is None:
        return gone or NoMachine(kernel_id, name)
    return NoMachine(kernel_id, name, [machine.name for machine in info.machines], info.reason or "")
