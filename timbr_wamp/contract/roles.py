"""The role that a procedure or topic takes, by its URI."""

from __future__ import annotations

from timbr_wamp.contract.api import KERNEL, PROCEDURES, TOPICS
from timbr_wamp.contract.exports import NODE_URIS
from timbr_wamp.contract.structs import Access
from timbr_wamp.names import HOST_PREFIX, KERNEL_PREFIX

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
