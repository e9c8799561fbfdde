"""End kernels of this computer by their runtime files: without a router, and whoever started them."""

from __future__ import annotations

import signal
from pathlib import Path

from timbr_wamp import runtime
from timbr_wamp.client.kernel_list import choose
from timbr_wamp.components import launcher
from timbr_wamp.contract import KernelInfo
from timbr_wamp.errors import KernelNotManaged
from timbr_wamp.names import host_of_kernel
from timbr_wamp.processes import Process
from timbr_wamp.runtime import BridgeFile, HeadlessFile, KernelFile

#: Time for a bridge to end its kernel and itself, and for a headless process to process what is queued.
BRIDGE_TIMEOUT_S, HEADLESS_TIMEOUT_S = 10.0, 20.0


def local_kernels(runtime_dir: Path) -> list[KernelInfo]:
    """Return the kernels and headless processes of this computer that run, with id, name and pid."""
    files: list[KernelFile | HeadlessFile] = [
        *runtime.live_files(runtime_dir, "kernel-", KernelFile, clean=False).values(),
        *runtime.live_files(runtime_dir, "headless-", HeadlessFile, clean=False).values(),
    ]
    return [
        KernelInfo(
            kernel_id=file.kernel_id, name=file.name, host=host_of_kernel(file.kernel_id), state="idle", pid=file.pid,
            managed=isinstance(file, KernelFile), headless=isinstance(file, HeadlessFile),
        )
        for file in files
    ]  # fmt: skip


def stop_local_kernel(runtime_dir: Path, wanted: str) -> KernelInfo:
    """End a kernel or headless process of this computer, by its id, name or unique prefix. Blocks, bounded.

    Its bridge ends it in order, if it has one. A headless process gets SIGTERM and is not killed.

    Raises:
        UnknownKernel, AmbiguousKernel: none runs here, or several match.
        KernelNotManaged: a headless process did not end in time.
    """
    info = choose(local_kernels(runtime_dir), wanted)
    if info.headless:
        process = Process.of(runtime.read_file(runtime.headless_file(runtime_dir, info.kernel_id), HeadlessFile))
        if process is not None and process.signal(signal.SIGTERM) and not process.wait(HEADLESS_TIMEOUT_S):
            raise KernelNotManaged(info.kernel_id, "killed")
        return info
    bridge_file = runtime.read_file(runtime.bridge_file(runtime_dir, info.kernel_id), BridgeFile)
    bridge = Process.of(bridge_file)
    if bridge is not None:
        # SIGUSR2 has it end the kernel; before it is ready it handles no signal
        if bridge_file is not None and bridge_file.ready and bridge.signal(signal.SIGUSR2):
            bridge.wait(BRIDGE_TIMEOUT_S)
        bridge.end()
    file = runtime.read_file(runtime.kernel_file(runtime_dir, info.kernel_id), KernelFile)
    if file is not None:  # nobody ended it yet
        launcher.end_process(file)
        launcher.forget_kernel(runtime_dir, file)
    return info


__all__ = ["local_kernels", "stop_local_kernel"]
