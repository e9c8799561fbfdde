"""Which kernel a bridge is for, under which id, and that no other bridge holds it.

A kernel of ours has its id in its runtime file. One that somebody else started gets an id once for its
connection file's path, remembered beside the runtime files, so that a later bridge has the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from timbr_wamp import runtime
from timbr_wamp.components import processes
from timbr_wamp.errors import AlreadyBridged, InvalidName, NoConnectionFile, UnknownKernel
from timbr_wamp.names import checked_kernel_id, host_of_kernel, new_kernel_id
from timbr_wamp.runtime import BridgeFile, HeadlessFile, KernelFile


@dataclass(frozen=True, slots=True)
class Identity:
    """A kernel to bridge."""

    kernel_id: str
    #: None for a process that runs machines without a kernel.
    connection_file: Path | None
    #: None for a kernel that somebody else started.
    file: KernelFile | None
    #: Of such a process.
    headless: HeadlessFile | None = None

    @property
    def name(self) -> str:
        """What people call it, unless they say otherwise: as it was named, or after its connection file."""
        known = self.file or self.headless
        if known is not None:
            return known.name
        assert self.connection_file is not None
        return self.connection_file.stem


def of_ours(runtime_dir: Path, kernel_id: str) -> Identity:
    """Return the identity of a kernel, or of a headless process, that was started from this runtime folder.

    Raises:
        UnknownKernel: there is no such runtime file.
    """
    headless = runtime.read_file(runtime.headless_file(runtime_dir, checked_kernel_id(kernel_id)), HeadlessFile)
    if headless is not None:
        return Identity(kernel_id, None, None, headless)
    file = runtime.read_file(runtime.kernel_file(runtime_dir, checked_kernel_id(kernel_id)), KernelFile)
    if file is None:
        known = [path.stem.removeprefix("kernel-") for path in runtime_dir.glob("kernel-*.json")]
        raise UnknownKernel(kernel_id, sorted(known))
    return Identity(kernel_id, Path(file.connection_file), file)


def of_connection_file(runtime_dir: Path, connection_file: Path, host: str) -> Identity:
    """Return the identity of the kernel behind a connection file; a new one the first time.

    A bare name that is no file here is looked for where Jupyter keeps its connection files.

    Raises:
        NoConnectionFile: the file is not there.
    """
    path = _found(connection_file)
    for kernel_path in runtime_dir.glob("kernel-*.json"):
        file = runtime.read_file(kernel_path, KernelFile)
        if file is not None and os.path.realpath(file.connection_file) == str(path):
            return Identity(file.kernel_id, path, file)
    return Identity(_remembered_id(runtime_dir, path, host), path, None)


def _found(connection_file: Path) -> Path:
    candidates = [connection_file]
    if connection_file.parent == Path():
        from jupyter_core.paths import jupyter_runtime_dir  # only who gives a bare name pays

        candidates += [Path(jupyter_runtime_dir(), name.format(connection_file)) for name in ("{}", "kernel-{}.json")]
    for path in candidates:
        if path.is_file():
            return Path(os.path.realpath(path))
    raise NoConnectionFile(str(connection_file), "no such file")


def _remembered_id(runtime_dir: Path, connection_file: Path, host: str) -> str:
    _forget_missing(runtime_dir)
    digest = hashlib.sha256(os.fsencode(connection_file)).hexdigest()[:16]
    memory = runtime.private_folder(runtime_dir) / f"attached-{host}-{digest}.json"
    try:
        kernel_id = checked_kernel_id(json.loads(memory.read_bytes())["kernel_id"])
        if host_of_kernel(kernel_id) == host:
            return kernel_id
    except (OSError, ValueError, KeyError, TypeError, InvalidName):
        memory.unlink(missing_ok=True)  # not there, or not ours to understand: made anew
    kernel_id = new_kernel_id(host)
    descriptor = os.open(memory, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"kernel_id": kernel_id, "connection_file": str(connection_file)}, file)
    return kernel_id


def _forget_missing(runtime_dir: Path) -> None:
    """Remove what is remembered of connection files that are gone."""
    for memory in runtime_dir.glob("attached-*.json"):
        try:
            gone = not os.path.exists(json.loads(memory.read_bytes())["connection_file"])
        except (OSError, ValueError, KeyError, TypeError):
            gone = True
        if gone:
            memory.unlink(missing_ok=True)


@contextmanager
def held(runtime_dir: Path, kernel_id: str) -> Iterator[str | None]:
    """Hold the kernel against other bridges; give the subshell that an earlier one left behind, if any.

    The lock is the system's own and ends with the process, however it ends.

    Raises:
        AlreadyBridged: another living bridge holds it.
    """
    path = runtime.bridge_file(runtime.private_folder(runtime_dir), kernel_id)
    lock = path.with_suffix(".lock")
    descriptor = processes.lock(lock)
    before = runtime.read_file(path, BridgeFile)
    if descriptor is None:
        raise AlreadyBridged(kernel_id, before.pid if before is not None else 0)
    try:
        note(runtime_dir, kernel_id, None)
        yield before.subshell_id if before is not None else None
    finally:
        path.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def note(runtime_dir: Path, kernel_id: str, subshell_id: str | None) -> None:
    """Write the runtime file of this process as the kernel's bridge."""
    content = BridgeFile(
        pid=os.getpid(), process_started=runtime.own_process_started(), kernel_id=kernel_id, subshell_id=subshell_id
    )
    runtime.write_file(runtime.bridge_file(runtime_dir, kernel_id), content)
