"""Which kernels are on the router: who announced what, who left, and what to tell the others.

Sans-I/O: told of wamp sessions and announcements, it returns what changed; `timbr_node` sends it.
Wamp session ids are random, so sessions are ordered by when they joined: what an older wamp session
of a kernel says never replaces what a newer one said. Standard library only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timbr_access import host_owns_kernel

STATES = ("starting", "idle", "busy", "restarting", "dead", "offline")

#: One announcement, as JSON. A kernel's state has about 500 bytes, and 80 for each machine.
MAX_INFO_BYTES = 16 * 1024
#: All of them, so that `kernels` stays well under the router's message limit of 4 MiB.
MAX_TOTAL_BYTES = 2 * 1024 * 1024
#: Offline kernels are kept for their return: so many, and so long.
MAX_OFFLINE = 256
OFFLINE_KEEP_S = 24 * 3600.0

Info = dict[str, Any]


class Refused(Exception):
    """An announcement that is not taken; `uri` and `args` are those of an error of timbr_wamp."""

    def __init__(self, name: str, *args: object) -> None:
        super().__init__(*args)
        self.uri = f"io.timbr.error.{name}"


@dataclass(slots=True)
class _Kernel:
    """What is known of one kernel."""

    #: Place of its newest wamp session in the order of joining.
    order: int
    session: int
    info: Info | None = None
    size_bytes: int = 0
    offline_since: float | None = None


class Presence:
    """The kernels and the wamp sessions of their bridges."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._joined = 0
        self._order: dict[int, int] = {}
        self._kernels: dict[str, _Kernel] = {}

    def joined(self, session: int) -> None:
        """Note that a wamp session joined."""
        self._joined += 1
        self._order[session] = self._joined

    def left(self, session: int) -> list[Info]:
        """Note that a wamp session left; return the kernels that are offline now. May be told twice."""
        if self._order.pop(session, None) is None:
            return []
        offline = []
        for kernel_id, kernel in list(self._kernels.items()):
            if kernel.session != session:
                continue
            if kernel.info is None:
                del self._kernels[kernel_id]
            elif kernel.info["state"] == "dead":
                del self._kernels[kernel_id]  # it will not come back under this id
                offline.append(self._offline(kernel.info))
            else:
                kernel.info = self._offline(kernel.info)
                kernel.offline_since = kernel.offline_since or self._clock()
                offline.append(kernel.info)
        self.forget_old()
        return offline

    def _offline(self, info: Info) -> Info:
        reason = info.get("reason") if info["state"] in ("dead", "offline") else None
        return {**info, "state": "offline", "reason": reason or "its bridge left", "time": self._clock()}

    def claim(self, kernel_id: str, session: int) -> bool:
        """Note that a wamp session speaks for a kernel; False if a newer one does already."""
        order = self._order.get(session)
        if order is None:
            return False  # it left while its message was under way
        kernel = self._kernels.setdefault(kernel_id, _Kernel(order, session))
        if kernel.order > order:
            return False
        kernel.order, kernel.session = order, session
        return True

    def announce(self, authid: str, session: int, info: object) -> tuple[str, Info]:
        """Take a kernel's state; return ``came``, ``changed`` or ``went``, and the state as kept.

        Raises:
            Refused: not this host's kernel, a newer wamp session speaks for it, or no usable state.
        """
        kept, size_bytes = _checked(authid, session, info)
        kernel_id = kept["kernel_id"]
        former = self._kernels.get(kernel_id)
        total = sum(kernel.size_bytes for kernel in self._kernels.values())
        if total - (former.size_bytes if former else 0) + size_bytes > MAX_TOTAL_BYTES:
            raise Refused("invalid_argument", "kernel", "the node's list of kernels is full")
        if not self.claim(kernel_id, session):
            raise Refused("not_authorized", "announce (a newer wamp session speaks for it)", kernel_id)
        kernel = self._kernels[kernel_id]
        here_before = kernel.info is not None and kernel.offline_since is None
        kernel.info, kernel.size_bytes = kept, size_bytes
        kernel.offline_since = self._clock() if kept["state"] == "offline" else None
        if kernel.offline_since is not None:
            return "went", kept
        return ("changed" if here_before else "came"), kept

    def forget_old(self) -> None:
        """Forget kernels that are offline for long, and the longest gone of too many."""
        gone = sorted(
            (kernel.offline_since, kernel_id)
            for kernel_id, kernel in self._kernels.items()
            if kernel.offline_since is not None and kernel.session not in self._order
        )
        limit = self._clock() - OFFLINE_KEEP_S
        surplus = len(gone) - MAX_OFFLINE
        for number, (since, kernel_id) in enumerate(gone):
            if number < surplus or since < limit:
                del self._kernels[kernel_id]

    def kernels(self) -> list[Info]:
        """Return the states of all kernels, in the order in which they first came."""
        self.forget_old()
        return [kernel.info for kernel in self._kernels.values() if kernel.info is not None]


def _checked(authid: str, session: int, info: object) -> tuple[Info, int]:
    """Return the announcement with the caller's wamp session in it, and its size as JSON."""
    if not isinstance(info, dict):
        raise Refused("invalid_argument", "kernel", "is not a map")
    if not host_owns_kernel(authid, info.get("kernel_id")):
        raise Refused("not_authorized", "announce", str(info.get("kernel_id"))[:80])
    if info.get("host") != authid:
        raise Refused("invalid_argument", "kernel", f"its host is not {authid!r}")
    if info.get("state") not in STATES or not isinstance(info.get("name"), str):
        raise Refused("invalid_argument", "kernel", f"name is a text, state one of {', '.join(STATES)}")
    try:
        size_bytes = len(json.dumps(info, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise Refused("invalid_argument", "kernel", f"is not plain JSON: {error}") from None
    if size_bytes > MAX_INFO_BYTES:
        raise Refused("payload_too_large", size_bytes, MAX_INFO_BYTES)
    return {**info, "wamp_session": session}, size_bytes
