"""The kernels and hosts on the router, from the announcements of bridges and the end of their wamp sessions.

Sans-I/O: it gets wamp sessions and announcements and returns the changes, which `timbr_node` publishes.
Wamp session ids are random, so sessions are ordered by the time they joined: a state from an older wamp
session of a kernel never replaces one from a newer session that is still there. Standard library only.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from timbr_access import host_of, host_owns_kernel

MACHINE_NAME = re.compile(r"[a-z0-9_]{1,64}")
STATES = ("starting", "idle", "busy", "restarting", "dead", "offline")

#: Largest announcement, as JSON. A kernel's state has about 500 bytes, plus 80 for each machine.
MAX_INFO_BYTES = 16 * 1024
#: Largest total, so that the result of `kernels` stays below the router's message limit of 4 MiB, and of one
#: host, so that none fills the list for the others.
MAX_TOTAL_BYTES, MAX_HOST_BYTES = 2 * 1024 * 1024, 512 * 1024
#: Largest number of kernels of one host, with those that were not announced.
MAX_HOST_KERNELS = 1024
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


@dataclass(slots=True)
class _Host:
    """What the kernels of one host use."""

    kernels: int = 0
    size_bytes: int = 0
    #: The wamp session that answers for the host itself.
    session: int | None = None


class Presence:
    """The kernels and hosts, and their wamp sessions.

    Args:
        forms: what an announced kernel and its machines consist of, from ``access.json``; see `_check_form`.
    """

    def __init__(self, forms: Mapping[str, Any] | None = None, clock: Callable[[], float] = time.time) -> None:
        self._forms, self._clock = forms or {"kernel": {}, "machine": {}}, clock
        self._joined = 0
        self._order: dict[int, int] = {}
        self._kernels: dict[str, _Kernel] = {}
        self._hosts: dict[str, _Host] = {}
        self._total_bytes = 0
        self._gone: list[str] = []

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
                self._remove(kernel_id)
            elif kernel.info["state"] == "dead":
                self._remove(kernel_id)  # a dead kernel does not return under this id
                offline.append(self._offline(kernel.info))
            else:
                kernel.info = self._offline(kernel.info)
                kernel.offline_since = kernel.offline_since or self._clock()
                offline.append(kernel.info)
        for authid, host in list(self._hosts.items()):
            if host.session == session:
                host.session = None
                self._forget_unused(authid)
        self.forget_old()
        return offline

    def _offline(self, info: Info) -> Info:
        reason = info.get("reason") if info["state"] in ("dead", "offline") else None
        return {**info, "state": "offline", "reason": reason or "its bridge disconnected", "time": self._clock()}

    # --- who speaks for whom -----------------------------------------------------------------

    def claim_host(self, authid: str, session: int) -> bool:
        """Record that a wamp session answers for a host; return False while another one of its token does."""
        if session not in self._order:
            return False
        host = self._hosts.setdefault(authid, _Host())
        if host.session not in (None, session):
            return False
        host.session = session
        return True

    def claim(self, kernel_id: str, session: int) -> bool:
        """Record that a wamp session represents a kernel; return False while a newer one does.

        Also return False for one more kernel than a host may have.
        """
        order = self._order.get(session)
        if order is None:
            return False  # it left before its message was handled
        kernel = self._kernels.get(kernel_id)
        if kernel is None:
            host = self._hosts.setdefault(host_of(kernel_id), _Host())
            if host.kernels >= MAX_HOST_KERNELS:
                return False
            host.kernels += 1
            self._kernels[kernel_id] = _Kernel(order, session)
            return True
        if kernel.order > order and kernel.session in self._order:
            return False
        kernel.order, kernel.session = order, session
        return True

    # --- what they say -----------------------------------------------------------------------

    def _checked(self, authid: str, session: int, info: object) -> tuple[Info, int]:
        """Return the announcement with the caller's wamp session added, and its size as JSON."""
        if not isinstance(info, dict):
            raise Refused("invalid_argument", "kernel", "is not a map")
        if not host_owns_kernel(authid, info.get("kernel_id")):
            raise Refused("not_authorized", "announce", str(info.get("kernel_id"))[:80])
        if info.get("host") != authid:
            raise Refused("invalid_argument", "kernel", f"its host is not {authid!r}")
        if info.get("state") not in STATES:
            raise Refused("invalid_argument", "kernel", f"its state is none of {', '.join(STATES)}")
        _check_names(info)
        try:
            size_bytes = len(json.dumps(info, allow_nan=False, ensure_ascii=False).encode())
        except (TypeError, ValueError, RecursionError) as error:  # a lone surrogate is a ValueError, too
            problem = str(error).encode(errors="backslashreplace").decode()
            raise Refused("invalid_argument", "kernel", f"is not plain JSON: {problem}") from None
        if size_bytes > MAX_INFO_BYTES:
            raise Refused("payload_too_large", size_bytes, MAX_INFO_BYTES)
        if not _is_plain(info):
            raise Refused("invalid_argument", "kernel", "it holds a key that is no text, or an integer beyond 64 bits")
        _check_form(info, self._forms["kernel"], "it")
        for machine in info.get("machines", []):
            _check_form(machine, self._forms["machine"], "a machine")
        return {**info, "wamp_session": session}, size_bytes

    def announce(self, authid: str, session: int, info: object) -> tuple[str, Info]:
        """Store a kernel's state; return ``came``, ``changed`` or ``went``, and the stored state.

        Raises:
            Refused: another host's kernel, a newer wamp session represents it, an invalid state, or too many.
        """
        kept, size_bytes = self._checked(authid, session, info)
        kernel_id = kept["kernel_id"]
        former, host = self._kernels.get(kernel_id), self._hosts.get(authid, _Host())
        more_bytes = size_bytes - (former.size_bytes if former else 0)
        if self._total_bytes + more_bytes > MAX_TOTAL_BYTES:
            raise Refused("invalid_argument", "kernel", "the node's list of kernels is full")
        if host.size_bytes + more_bytes > MAX_HOST_BYTES or (former is None and host.kernels >= MAX_HOST_KERNELS):
            raise Refused("invalid_argument", "kernel", f"the host {authid!r} has too many kernels")
        if not self.claim(kernel_id, session):
            raise Refused("not_authorized", "announce (a newer wamp session represents it)", kernel_id)
        kernel = self._kernels[kernel_id]
        here_before = kernel.info is not None and kernel.offline_since is None
        kernel.info, kernel.size_bytes = kept, size_bytes
        self._hosts[authid].size_bytes += more_bytes
        self._total_bytes += more_bytes
        kernel.offline_since = self._clock() if kept["state"] == "offline" else None
        if kernel.offline_since is not None:
            return "went", kept
        return ("changed" if here_before else "came"), kept

    def _remove(self, kernel_id: str) -> None:
        kernel, authid = self._kernels.pop(kernel_id), host_of(kernel_id)
        self._gone.append(kernel_id)
        host = self._hosts[authid]
        host.kernels -= 1
        host.size_bytes -= kernel.size_bytes
        self._total_bytes -= kernel.size_bytes
        self._forget_unused(authid)

    def _forget_unused(self, authid: str) -> None:
        if self._hosts[authid] == _Host():
            del self._hosts[authid]

    def gone(self) -> list[str]:
        """Return the kernels that were removed since the last call and are not here again."""
        gone, self._gone = self._gone, []
        return [kernel_id for kernel_id in gone if kernel_id not in self._kernels]

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
                self._remove(kernel_id)

    def kernels(self) -> list[Info]:
        """Return the states of all kernels, in the order of their first announcement."""
        self.forget_old()
        return [kernel.info for kernel in self._kernels.values() if kernel.info is not None]


def _check_names(info: Info) -> None:
    """Check what others show, as ``timbr_wamp.names`` does where a kernel or machine is made."""
    name = info.get("name")
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 64 or set(name) & set("[]"):
        raise Refused("invalid_argument", "kernel", "its name is not 1 to 64 printable characters without [ and ]")
    machines = info.get("machines", [])
    if not isinstance(machines, list):
        raise Refused("invalid_argument", "kernel", "its machines are not a list")
    for machine in machines:
        machine_name = machine.get("name") if isinstance(machine, dict) else None
        if not isinstance(machine_name, str) or not MACHINE_NAME.fullmatch(machine_name):
            raise Refused("invalid_argument", "kernel", "the name of a machine is not 1 to 64 of a-z, 0-9 and _")


def _check_form(info: Info, form: Mapping[str, Any], where: str) -> None:
    """Check the fields of a map: their kinds, such as ``["int", "null"]`` or ``["=idle", "=busy"]``."""
    for name, field in form.items():
        if name not in info:
            if field["required"]:
                raise Refused("invalid_argument", "kernel", f"{where} has no {name}")
        elif not any(_is_of_kind(info[name], kind) for kind in field["kinds"]):
            expected = " or ".join(kind.removeprefix("=") for kind in field["kinds"])
            raise Refused("invalid_argument", "kernel", f"{name} of {where} is not {expected}")


def _is_of_kind(value: object, kind: str) -> bool:
    if kind == "null":
        return value is None
    if kind.startswith("="):
        return value == kind[1:]
    if kind == "int":  # JavaScript sends large ones as floating point numbers
        return type(value) is int or (isinstance(value, float) and value.is_integer())
    if kind == "float":
        return type(value) in (int, float)
    return type(value) is {"str": str, "bool": bool, "list": list, "dict": dict}[kind]


def _is_plain(value: object) -> bool:
    """Return whether every serializer carries a value: texts as keys, integers of 64 bits."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return not isinstance(value, int) or -(2**63) <= value < 2**64
