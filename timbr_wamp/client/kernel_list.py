"""`KernelList`, a list of kernels that displays as a table, and `choose`, which selects one by id or name."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Sequence

from timbr_wamp.command_line import command_line
from timbr_wamp.contract import KernelInfo
from timbr_wamp.errors import ANY_KERNEL, OTHER_KERNEL, AmbiguousKernel, UnknownKernel, nearest
from timbr_wamp.faces.tables import Rows
from timbr_wamp.names import is_kernel_id
from timbr_wamp.tables import duration, state_cell


class KernelList(Rows[KernelInfo]):
    """Kernels on the router."""

    headers = ("id", "name", "host", "state", "pid", "machines", "up", "reason")
    item = KernelInfo

    def __init__(self, kernels: Iterable[KernelInfo] = ()) -> None:
        super().__init__(kernels)
        start = command_line("kernel", "start", "--name", "lab")
        self.empty = f"no kernels on the router; start one with `{start}` or client.start_kernel()"

    def cells(self, item: KernelInfo) -> Sequence[object]:
        """Return the cells of a kernel."""
        up_s = None if item.started_at is None else max(time.time() - item.started_at, 0.0)
        machines = ", ".join(f"{machine.name}: {machine.state}" for machine in item.machines)
        return (
            item.kernel_id,
            item.name,
            item.host,
            state_cell(item.state),
            item.pid,
            machines,
            duration(up_s),
            item.reason,
        )


def choose(kernels: Iterable[KernelInfo], wanted: str | None, own: Container[str] = ()) -> KernelInfo:
    """Return the kernel whose id or name is ``wanted``, or the only one whose id or name starts with it.

    None means the only kernel that is not offline. ``own`` are the ids of the kernel that asks: None does not
    mean that one.

    Raises:
        UnknownKernel: no kernel matches.
        AmbiguousKernel: several kernels match.
    """
    kernels = list(kernels)
    if wanted is None:
        present = [kernel for kernel in kernels if kernel.state != "offline"]
        others = [kernel for kernel in present if kernel.kernel_id not in own]
        return _only(others, OTHER_KERNEL if len(others) < len(present) else ANY_KERNEL, kernels)
    for kernel in kernels:
        if kernel.kernel_id == wanted:
            return kernel
    if is_kernel_id(wanted):
        return _only([], wanted, kernels)  # whatever names hosts gave to their kernels
    named = _without_predecessors([kernel for kernel in kernels if kernel.name == wanted])
    if not named:
        named = [kernel for kernel in kernels if kernel.kernel_id.startswith(wanted) or kernel.name.startswith(wanted)]
    return _only(named, wanted, kernels)


def _without_predecessors(named: list[KernelInfo]) -> list[KernelInfo]:
    """Return kernels of one name without the offline ones that have a successor.

    A successor is of the same host: a kernel does not answer for another host's kernel because that is offline.
    """
    here = {kernel.host for kernel in named if kernel.state != "offline"}
    return [kernel for kernel in named if kernel.state != "offline" or kernel.host not in here]


def _only(matching: list[KernelInfo], wanted: str, kernels: list[KernelInfo]) -> KernelInfo:
    if not matching:
        names = [name for kernel in kernels for name in (kernel.name, kernel.kernel_id)]
        raise UnknownKernel(wanted, [_label(kernel) for kernel in kernels], nearest(wanted, names))
    if len(matching) > 1:
        raise AmbiguousKernel(wanted, [_label(kernel) for kernel in matching])
    return matching[0]


def _label(kernel: KernelInfo) -> str:
    return f"{kernel.kernel_id} ({kernel.name}, {kernel.state})"
