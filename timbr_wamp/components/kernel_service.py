"""`KernelService` implements the contract's `KernelApi`; `answer` makes endpoints of the contract's procedures.

The bridge checks all arguments, so that an invalid call never reaches the kernel.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from timbr_wamp.components.relay import split_to_fit
from timbr_wamp.contract import (
    CompleteReply,
    ExecuteReply,
    InspectReply,
    IopubMessage,
    IsCompleteReply,
    KernelInfo,
    Procedure,
    to_builtins,
)

if TYPE_CHECKING:
    from timbr_wamp.client.connection import CallInfo
    from timbr_wamp.client.subscriptions import Endpoint
    from timbr_wamp.components.headless_supervisor import Supervisor


def answer(procedure: Procedure, perform: Callable[[dict[str, Any], CallInfo], Awaitable[Any]]) -> Endpoint:
    """Return an endpoint that checks the arguments, calls ``perform``, and returns its result as plain values."""

    async def endpoint(args: tuple[Any, ...], kwargs: dict[str, Any], call: CallInfo) -> Any:
        return to_builtins(await perform(procedure.bind(args, kwargs), call))

    return endpoint


class KernelService:
    """The procedures of one kernel. For their meaning see `timbr_wamp.contract.KernelApi`.

    Args:
        info: returns the kernel's state and description.
        see_machines: awaited before the answer to what may have made or ended machines: when it returns, they are
            known here, so that the caller's next call finds them.
        ended: called when the kernel was ended on request, to end the bridge.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        info: Callable[[], KernelInfo],
        see_machines: Callable[[], Awaitable[None]],
        ended: Callable[[], None],
    ) -> None:
        self._supervisor, self._info, self._see_machines, self._ended = supervisor, info, see_machines, ended

    async def info(self, call: CallInfo) -> KernelInfo:
        await self._see_machines()
        return self._info()

    async def ping(self, call: CallInfo) -> float:
        return time.time()

    async def interrupt(self, call: CallInfo) -> None:
        await self._supervisor.channels.interrupt()

    async def restart(self, call: CallInfo) -> KernelInfo:
        try:
            await self._supervisor.restart()
        finally:
            await self._see_machines()
        return self._info()

    async def shutdown(self, call: CallInfo) -> None:
        await self._supervisor.shutdown()
        self._ended()

    async def execute(
        self,
        call: CallInfo,
        code: str,
        silent: bool = False,
        store_history: bool = True,
        timeout_s: float | None = None,
    ) -> ExecuteReply:
        reply = await self._supervisor.channels.execute(
            code, silent=silent, store_history=store_history, timeout_s=timeout_s
        )
        await self._see_machines()
        return msgspec.convert(reply, ExecuteReply, strict=False)

    async def execute_interactive(
        self,
        call: CallInfo,
        code: str,
        silent: bool = False,
        store_history: bool = True,
        timeout_s: float | None = None,
    ) -> ExecuteReply:
        def on_output(message: IopubMessage) -> None:
            if call.progress is not None:
                for part in split_to_fit(message):
                    call.progress(to_builtins(part))

        reply = await self._supervisor.channels.execute(
            code, silent=silent, store_history=store_history, timeout_s=timeout_s, on_output=on_output
        )
        await self._see_machines()
        return msgspec.convert(reply, ExecuteReply, strict=False)

    async def complete(self, call: CallInfo, code: str, cursor_pos: int | None = None) -> CompleteReply:
        return msgspec.convert(await self._supervisor.channels.complete(code, cursor_pos), CompleteReply, strict=False)

    async def inspect(
        self, call: CallInfo, code: str, cursor_pos: int | None = None, detail_level: int = 0
    ) -> InspectReply:
        reply = await self._supervisor.channels.inspect(code, cursor_pos, detail_level)
        return msgspec.convert(reply, InspectReply, strict=False)

    async def is_complete(self, call: CallInfo, code: str) -> IsCompleteReply:
        return msgspec.convert(await self._supervisor.channels.is_complete(code), IsCompleteReply, strict=False)
