"""Find the machines of a kernel or of a headless process by their runtime files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from timbr_wamp import runtime
from timbr_wamp.runtime import HeadlessFile, MachineFile


def machine_files(runtime_dir: Path, connection_file: Path) -> dict[str, MachineFile]:
    """Return the machines of the kernel with that connection file, by name; of several with one name, the newest.

    Files and sockets of dead processes are removed.
    """
    kernel = os.path.realpath(connection_file)
    return _live_machine_files(
        runtime_dir,
        lambda file: file.connection_file is not None and os.path.realpath(file.connection_file) == kernel,
    )


def headless_machine_files(runtime_dir: Path, process: HeadlessFile) -> dict[str, MachineFile]:
    """Return the machines of a headless process, by name; of several with one name, the newest.

    Files and sockets of dead processes are removed.
    """
    return _live_machine_files(
        runtime_dir,
        lambda file: (file.pid, file.connection_file) == (process.pid, None),
    )


def _live_machine_files(runtime_dir: Path, belongs: Callable[[MachineFile], bool]) -> dict[str, MachineFile]:
    found = dict[str, MachineFile]()
    for path in runtime_dir.glob("machine-*.json"):
        file = runtime.read_file(path, MachineFile)
        if file is None:
            continue
        if not file.alive():
            _clean(path, file)
        elif belongs(file):
            other = found.get(file.name)
            if other is None or other.opened_at < file.opened_at:
                found[file.name] = file
    return found


def _clean(path: Path, file: MachineFile) -> None:
    path.unlink(missing_ok=True)
    for endpoint in (file.pub, file.control):
        if endpoint.startswith("ipc://"):
            Path(endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
