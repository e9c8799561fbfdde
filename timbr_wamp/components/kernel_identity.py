"""Find a kernel and its id for a bridge, and lock the kernel against other bridges.

A kernel that timbr_wamp started has its id in its runtime file. Any other kernel gets an id for the path
of its connection file. The id is stored beside the runtime files, so that a later bridge uses it too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from timbr_wamp import processes, runtime
from timbr_wamp.errors import AlreadyBridged, InvalidName, NoConnectionFile, UnknownKernel
from timbr_wamp.names import checked_kernel_id, checked_name, host_of_kernel, kernel_name_from, new_kernel_id
from timbr_wamp.runtime import AttachedFile, BridgeFile, HeadlessFile, KernelFile, SharedFile


@dataclass(frozen=True, slots=True)
class Identity:
    """A kernel to bridge."""

    kernel_id: str
    #: None for a headless process.
    connection_file: Path | None
    #: None for a headless process and for a kernel that timbr_wamp did not start.
    file: KernelFile | None
    #: Runtime file of a headless process; None for a kernel.
    headless: HeadlessFile | None = None
    #: Path and content of the file of a kernel that timbr_wamp did not start; None for others.
    attached: tuple[Path, AttachedFile] | None = None
    #: Runtime file of a kernel that put itself on the router.
    shared: SharedFile | None = None

    @property
    def name(self) -> str:
        """Default name for people: its given name, or the name of its connection file."""
        known = self.file or self.headless or self.shared
        if known is not None:
            return known.name
        if self.attached is not None and self.attached[1].name is not None:
            return self.attached[1].name
        assert self.connection_file is not None
        return kernel_name_from(self.connection_file.stem)


def of_kernel_id(runtime_dir: Path, kernel_id: str) -> Identity:
    """Return the identity of a kernel or headless process with a runtime file.

    Raises:
        UnknownKernel: there is no such runtime file.
    """
    headless = runtime.read_file(runtime.headless_file(runtime_dir, checked_kernel_id(kernel_id)), HeadlessFile)
    if headless is not None:
        return Identity(kernel_id, None, None, headless)
    shared = runtime.read_file(runtime.shared_file(runtime_dir, kernel_id), SharedFile)
    if shared is not None:
        return Identity(kernel_id, Path(shared.connection_file), None, shared=shared)
    file = runtime.read_file(runtime.kernel_file(runtime_dir, checked_kernel_id(kernel_id)), KernelFile)
    if file is None:
        known = [path.stem.removeprefix("kernel-") for path in runtime_dir.glob("kernel-*.json")]
        raise UnknownKernel(kernel_id, sorted(known))
    return Identity(kernel_id, Path(file.connection_file), file)


def of_connection_file(runtime_dir: Path, connection_file: Path, host: str) -> Identity:
    """Return the identity of the kernel with a connection file; its id is created on first use.

    A bare name that is not a file in the working folder is looked up in Jupyter's runtime folder.

    Raises:
        NoConnectionFile: there is no such file.
    """
    path = find_connection_file(connection_file)
    for kernel_path in runtime_dir.glob("kernel-*.json"):
        file = runtime.read_file(kernel_path, KernelFile)
        if file is not None and os.path.realpath(file.connection_file) == str(path):
            return Identity(file.kernel_id, path, file)
    memory, attached = _stored(runtime_dir, path, host)
    shared = runtime.read_file(runtime.shared_file(runtime_dir, attached.kernel_id), SharedFile)
    if shared is not None and not shared.alive():
        shared = None
    return Identity(attached.kernel_id, path, None, attached=(memory, attached), shared=shared)


def kernel_named(runtime_dir: Path, name: str, router: str, *, but: str = "") -> str | None:
    """Return the id of a kernel or process of this computer that has a name on a router; None if none has.

    Dead ones have none. ``but`` is the id of a kernel that is not looked at.
    """
    found: list[tuple[str, str]] = []
    files: list[KernelFile | HeadlessFile | SharedFile] = [
        *runtime.live_files(runtime_dir, "shared-", SharedFile, clean=False).values(),
        *runtime.live_files(runtime_dir, "kernel-", KernelFile, clean=False).values(),
        *runtime.live_files(runtime_dir, "headless-", HeadlessFile, clean=False).values(),
    ]
    for file in files:
        if runtime.is_of_router(file.router, router):
            found.append((file.name, file.kernel_id))
    for path in runtime_dir.glob("attached-*.json"):
        attached = runtime.read_file(path, AttachedFile)
        if attached is None:
            continue
        with contextlib.suppress(InvalidName):
            bridge = runtime.read_file(runtime.bridge_file(runtime_dir, attached.kernel_id), BridgeFile)
            if bridge is not None and bridge.alive() and runtime.is_of_router(bridge.router, router):
                known = Identity(attached.kernel_id, Path(attached.connection_file), None, attached=(path, attached))
                found.append((known.name, attached.kernel_id))
    return next((kernel_id for its_name, kernel_id in found if its_name == name and kernel_id != but), None)


def keep_name(runtime_dir: Path, who: Identity, name: str) -> None:
    """Write a kernel's name into its runtime file, so that later bridges use it too."""
    if who.attached is not None:
        path, attached = who.attached
        attached.name = name
        runtime.replace_file(path, msgspec.json.encode(attached))
    elif who.headless is not None:
        who.headless.name = name
        runtime.write_file(runtime.headless_file(runtime_dir, who.kernel_id), who.headless)
    elif who.file is not None:
        who.file.name = name
        runtime.write_file(runtime.kernel_file(runtime_dir, who.kernel_id), who.file)


def find_connection_file(connection_file: Path) -> Path:
    """Return the path of a connection file, links resolved; a bare name may be that of one in Jupyter's folder.

    Raises:
        NoConnectionFile: there is no such file.
    """
    candidates = [connection_file]
    if connection_file.parent == Path():
        from jupyter_core.paths import jupyter_runtime_dir  # slow to import, and needed for bare names only

        candidates += [Path(jupyter_runtime_dir(), name.format(connection_file)) for name in ("{}", "kernel-{}.json")]
    for path in candidates:
        if path.is_file():
            return Path(os.path.realpath(path))
    raise NoConnectionFile(str(connection_file), "no such file")


def _stored(runtime_dir: Path, connection_file: Path, host: str) -> tuple[Path, AttachedFile]:
    _remove_stale_ids(runtime_dir)
    digest = hashlib.sha256(os.fsencode(connection_file)).hexdigest()[:16]
    memory = runtime.private_folder(runtime_dir) / f"attached-{host}-{digest}.json"
    known = runtime.read_file(memory, AttachedFile)
    try:
        if known is not None and host_of_kernel(known.kernel_id) == host:
            known.name = None if known.name is None else checked_name(known.name)
            return memory, known
    except InvalidName:
        known = None
    if known is None:
        memory.unlink(missing_ok=True)  # missing, invalid, or others may have written it: create a new id
    attached = AttachedFile(kernel_id=new_kernel_id(host), connection_file=str(connection_file))
    runtime.replace_file(memory, msgspec.json.encode(attached))
    return memory, attached


def _remove_stale_ids(runtime_dir: Path) -> None:
    """Remove stored ids of connection files that no longer exist."""
    for memory in runtime_dir.glob("attached-*.json"):
        attached = runtime.read_file(memory, AttachedFile)
        if attached is None or not os.path.exists(attached.connection_file):
            memory.unlink(missing_ok=True)


@contextmanager
def lock_kernel(runtime_dir: Path, kernel_id: str, router: str) -> Iterator[str | None]:
    """Lock the kernel against other bridges; yield the subshell id that an earlier bridge left, or None.

    The operating system releases the lock when the process ends.

    Raises:
        AlreadyBridged: another bridge holds the lock.
    """
    path = runtime.bridge_file(runtime.private_folder(runtime_dir), kernel_id)
    lock = path.with_suffix(".lock")
    descriptor = processes.lock(lock)
    before = runtime.read_file(path, BridgeFile)
    if descriptor is None:
        raise AlreadyBridged(kernel_id, before.pid if before is not None else 0)
    try:
        write_bridge_file(runtime_dir, kernel_id, router)
        yield before.subshell_id if before is not None else None
    finally:
        path.unlink(missing_ok=True)
        processes.unlock(lock, descriptor)


def write_bridge_file(
    runtime_dir: Path,
    kernel_id: str,
    router: str,
    *,
    subshell_id: str | None = None,
    machines: Mapping[str, str] | None = None,
) -> None:
    """Write the runtime file of this process as the kernel's bridge.

    Args:
        machines: ``name → run`` of the machines that the router lists; None while it does not list the kernel.
    """
    path = runtime.bridge_file(runtime_dir, kernel_id)
    before = runtime.read_file(path, BridgeFile)
    runtime.write_file(
        path,
        BridgeFile(
            pid=os.getpid(),
            process_started=runtime.own_process_started(),
            kernel_id=kernel_id,
            router=router,
            hosted=before is not None and before.pid == os.getpid() and before.hosted,
            ready=True,
            subshell_id=subshell_id,
            machines=None if machines is None else dict(machines),
        ),
    )
