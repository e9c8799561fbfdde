"""Events of a kernel's life, for who follows its machine: made from the kernel's state, as its topic tells it."""

from __future__ import annotations

import time
from typing import Literal, TypeAlias

from timbr_wamp.contract import Event, KernelInfo

__all__ = ["KERNEL_EVENT_KINDS", "KernelEvent", "KernelEventKind", "KernelLife"]

KernelEventKind: TypeAlias = Literal["kernel_dead", "kernel_restarting", "kernel_offline", "kernel_back"]

#: Event for each state in which a kernel answers nothing.
_KINDS: dict[str, KernelEventKind] = {
    "dead": "kernel_dead", "restarting": "kernel_restarting", "offline": "kernel_offline",
}  # fmt: skip
KERNEL_EVENT_KINDS: tuple[KernelEventKind, ...] = (*_KINDS.values(), "kernel_back")


class KernelEvent(Event, kw_only=True):
    """The kernel died, is restarted, lost its bridge, or is back. ``data`` has its state, reason and restarts."""

    kind: KernelEventKind  # type: ignore[assignment]


class KernelLife:
    """Turns states of a kernel into events. The first state is where it begins."""

    def __init__(self) -> None:
        self._last: KernelInfo | None = None

    def on_state(self, info: KernelInfo) -> KernelEvent | None:
        """Handle a state; return the event that it means, if any. One that is older than the last is ignored."""
        last, was = self._last, None if self._last is None else _KINDS.get(self._last.state)
        if last is not None and info.time < last.time:
            return None
        self._last, now = info, _KINDS.get(info.state)
        if last is None or (now == was and (now is not None or info.restarts == last.restarts)):
            return None
        data = {"state": info.state, "reason": info.reason, "restarts": info.restarts}
        return KernelEvent(kind=now or "kernel_back", time=info.time or time.time(), number=0, data=data)
