"""What became of a kernel, in a sentence."""

from __future__ import annotations

from timbr_wamp.contract.structs import KernelInfo

__all__ = ["restart_text"]


def restart_text(before: KernelInfo, after: KernelInfo) -> str:
    """Return what a restart did to a kernel and its machines.

    >>> from timbr_wamp.contract.structs import MachineBrief
    >>> old = KernelInfo(kernel_id="lab_4f2a9c01d3e7", name="tank", host="lab", state="idle", pid=7,
    ...     machines=[MachineBrief(name="machine", run="r", state="running")])
    >>> new = KernelInfo(kernel_id="lab_4f2a9c01d3e7", name="tank", host="lab", state="idle", pid=8)
    >>> print(restart_text(old, new))
    restarted tank (lab_4f2a9c01d3e7) as process 8; machine is gone, with all that cells had made: run them again. Started with --startup FILE, a kernel makes its machine at each restart.
    >>> print(restart_text(new, old))
    restarted tank (lab_4f2a9c01d3e7) as process 7; its startup file made machine (running)
    """  # noqa: E501
    text = f"restarted {after.name} ({after.kernel_id}) as process {after.pid}"
    here = {machine.name: machine.state for machine in after.machines}
    gone = [machine.name for machine in before.machines if machine.name not in here]
    if here:
        text += f"; its startup file made {', '.join(f'{name} ({state})' for name, state in here.items())}"
    if gone:
        verb = "is" if len(gone) == 1 else "are"
        text += f"; {', '.join(gone)} {verb} gone, with all that cells had made: run them again."
        text += "" if here else " Started with --startup FILE, a kernel makes its machine at each restart."
    return text
