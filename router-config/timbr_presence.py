"""The kernels on the router, from the announcements of bridges and the end of their wamp sessions.

Sans-I/O: it gets wamp sessions and announcements and returns the changes, which `timbr_node` publishes.
Wamp session ids are random, so sessions are ordered by the time they joined: a state from an older wamp
session of a kernel never replaces one from a newer session. Standard library only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timbr_access import host_owns_kernel

STATES = ("starting", "idle", "busy", "restarting", "dead", "offline")

#: Largest announcement, as JSON. A kernel's state has about 500 bytes, plus 80 for each machine.
MAX_INFO_BYTES = 16 * 1024
#: Largest total, so that the result of `kernels` stays below the router's message limit of 4 MiB.
MAX_TOTAL_BYTES = 2 * 1024 * 1024
#: Number of offline kernels that are kept, and for how long.
MAX_OFFLINE = 256
OFFLINE_KEEP_S = 24 * 3600.0

Info = dict[str, Any]


class Refused(Exception):
    """An announcement that was refused; `uri` and `args` are those of an error of timbr_wamp."""

    def __init__(self, name: str, *args: object) -> None:
        super().__init__(*args)
        self.uri = f"io.timbr.error.{name}"


@dataclass(slots=True)
class _Kernel:
    """The state of one kernel."""

    #: Position of its newest wamp session in the order of joining.
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
        """Record that a wamp session joined."""
        self._joined += 1
        self._order[session] = self._joined

    def left(self, session: int) -> list[Info]:
        """Record that a wamp session left; return the kernels that are offline now. Idempotent."""
        if self._order.pop(session, None) is None:
            return []
        offline = []
        for kernel_id, kernel in list(self._kernels.items()):
            if kernel.session != session:
                continue
            if kernel.info is None:
                del self._kernels[kernel_id]
            elif kernel.info["state"] == "dead":
                del self._kernels[kernel_id]  # a dead kernel does not return under this id
                offline.append(self._offline(kernel.info))
            else:
                kernel.info = self._offline(kernel.info)
                kernel.offline_since = kernel.offline_since or self._clock()
                offline.append(kernel.info)
        self.forget_old()
        return offline

    def _offline(self, info: Info) -> Info:
        reason = info.get("reason") if info["state"] in ("dead", "offline") else None
        return {**info, "state": "offline", "reason": reason or "its bridge disconnected", "time": self._clock()}

    def claim(self, kernel_id: str, session: int) -> bool:
        """Record that a wamp session represents a kernel; return False if a newer one does."""
        order = self._order.get(session)
        if order is None:
            return False  # it left before its message was handled
        kernel = self._kernels.setdefault(kernel_id, _Kernel(order, session))
        if kernel.order > order:
            return False
        kernel.order, kernel.session = order, session
        return True

    def announce(self, authid: str, session: int, info: object) -> tuple[str, Info]:
        """Store a kernel's state; return ``came``, ``changed`` or ``went``, and the stored state.

        Raises:
            Refused: another host's kernel, a newer wamp session represents it, or an invalid state.
        """
        kept, size_bytes = _checked(authid, session, info)
        kernel_id = kept["kernel_id"]
        former = self._kernels.get(kernel_id)
        total = sum(kernel.size_bytes for kernel in self._kernels.values())
        if total - (former.size_bytes if former else 0) + size_bytes > MAX_TOTAL_BYTES:
            raise Refused("invalid_argument", "kernel", "the node's list of kernels is full")
        if not self.claim(kernel_id, session):
            raise Refused("not_authorized", "announce (a newer wamp session represents it)", kernel_id)
        kernel = self._kernels[kernel_id]
        here_before = kernel.info is not None and kernel.offline_since is None
        kernel.info, kernel.size_bytes = kept, size_bytes
        kernel.offline_since = self._clock() if kept["state"] == "offline" else None
        if kernel.offline_since is not None:
            return "went", kept
        return ("changed" if here_before else "came"), kept

    def session_of(self, kernel_id: str) -> int | None:
        """Return the wamp session that represents a kernel; None for an unknown kernel."""
        kernel = self._kernels.get(kernel_id)
        return kernel.session if kernel is not None else None

    def forget_old(self) -> None:
        """Remove kernels that have been offline for too long, and the oldest ones beyond `MAX_OFFLINE`."""
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
        """Return the states of all kernels, in the order of their first announcement."""
        self.forget_old()
        return [kernel.info for kernel in self._kernels.values() if kernel.info is not None]


def _checked(authid: str, session: int, info: object) -> tuple[Info, int]:
    """Return the announcement with the caller's wamp session added, and its size as JSON."""
    if not isinstance(info, dict):
        raise Refused("invalid_argument", "kernel", "is not a map")
    if not host_owns_kernel(authid, info.get("kernel_id")):
        raise Refused("not_authorized", "announce", str(info.get("kernel_id"))[:80])
    if info.get("host") != authid:
        raise Refused("invalid_argument", "kernel", f"its host is not {authid!r}")
    if info.get("state") not in STATES or not isinstance(info.get("name"), str):
        raise Refused("invalid_argument", "kernel", f"name must be a text and state one of {', '.join(STATES)}")
    try:
        size_bytes = len(json.dumps(info, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise Refused("invalid_argument", "kernel", f"is not plain JSON: {error}") from None
    if size_bytes > MAX_INFO_BYTES:
        raise Refused("payload_too_large", size_bytes, MAX_INFO_BYTES)
    return {**info, "wamp_session": session}, size_bytes
