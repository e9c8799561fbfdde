"""What the contract says of a URI: the role that it takes, and the procedure that may be meant by one it has not."""

from __future__ import annotations

from collections.abc import Iterable

from timbr_wamp.contract.api import KERNEL, PROCEDURES, TOPICS
from timbr_wamp.contract.exports import NODE_URIS
from timbr_wamp.contract.structs import Access
from timbr_wamp.errors import nearest
from timbr_wamp.names import HOST_PREFIX, KERNEL_PREFIX, PREFIX

#: Access class → the lowest role that has it.
ROLE_OF = {Access.READ: "viewer", Access.OPERATE: "operator", Access.ADMIN: "admin", Access.HOST: "host"}


def needed_role(action: str, uri: str) -> str | None:
    """Return the lowest role that may ``call`` or ``subscribe`` to a URI; None if it is not one of the contract.

    >>> needed_role("call", "io.timbr.kernel.lab_4f2a9c01d3e7.machine.put")
    'operator'
    >>> needed_role("subscribe", "io.timbr.kernel.lab_4f2a9c01d3e7.iopub")
    'admin'
    >>> needed_role("call", "com.example.add")
    """
    if action not in ("call", "subscribe"):
        return "host" if action == "register" else None
    access = _access(action == "subscribe", uri)
    return None if access is None else ROLE_OF[access]


def _access(is_topic: bool, uri: str) -> Access | None:
    tables = TOPICS if is_topic else PROCEDURES
    for name, known in NODE_URIS.items():
        if uri == known and name in tables["node"]:
            return tables["node"][name].access
    if uri.startswith(f"{HOST_PREFIX}."):
        found = tables["host"].get(uri.rpartition(".")[2])
        return None if found is None else found.access
    if not uri.startswith(f"{KERNEL_PREFIX}."):
        return None
    _, *parts = uri.removeprefix(f"{KERNEL_PREFIX}.").split(".")
    if len(parts) == 1 and parts[0] in tables["kernel"]:
        return tables["kernel"][parts[0]].access
    name = parts[1] if len(parts) == 2 else ""
    of_machine = tables["machine"].get(name) if parts and parts[0] not in KERNEL else None
    return None if of_machine is None else of_machine.access


def near_procedure(uri: str) -> str | None:
    """Return the procedure that may be meant by a URI that is none; None for one of the contract, and for others'.

    >>> near_procedure("io.timbr.kernel.lab_4f2a9c01d3e7.machine.statsu")
    'io.timbr.kernel.lab_4f2a9c01d3e7.machine.status'
    >>> near_procedure("io.timbr.kernel.lab_4f2a9c01d3e7.machine.status")
    """
    if _access(False, uri) is not None:
        return None
    prefix, _, name = uri.rpartition(".")
    if uri.startswith(f"{HOST_PREFIX}."):
        known: Iterable[str] = PROCEDURES["host"]
    elif uri.startswith(f"{KERNEL_PREFIX}.") and uri.count(".") - KERNEL_PREFIX.count(".") in (2, 3):
        known = PROCEDURES["kernel" if uri.count(".") - KERNEL_PREFIX.count(".") == 2 else "machine"]
    else:
        return nearest(uri, (NODE_URIS[node] for node in PROCEDURES["node"])) if uri.startswith(f"{PREFIX}.") else None
    near = nearest(name, known)
    return None if near is None else f"{prefix}.{near}"
