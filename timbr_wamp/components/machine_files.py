"""Find the machines of a kernel or of a headless process by their runtime files.

`MachineFiles` reads a file once: the folder is the same for all kernels, so each of their bridges would
otherwise read the files of all others again and again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from timbr_wamp import runtime
from timbr_wamp.processes import Process
from timbr_wamp.runtime import HeadlessFile, MachineFile

#: Age up to which a change of the folder is not trusted to be its last one: file systems store times in steps of
#: some milliseconds, or of a second.
SETTLED_S = 2.0


@dataclass(frozen=True, slots=True)
class _Read:
    """A file as it was read."""

    inode: int
    modified_ns: int
    #: The machine and its process; None when it is not of this kernel, or not a machine's file.
    file: MachineFile | None
    process: Process | None


class MachineFiles:
    """The machine files in a runtime folder that belong to one kernel. One thread at a time.

    Args:
        belongs: returns whether a machine is one of the kernel's.
        clock_ns: UTC nanoseconds, as file times.
    """

    def __init__(
        self, runtime_dir: Path, belongs: Callable[[MachineFile], bool], *, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._folder, self._belongs, self._clock_ns = runtime_dir, belongs, clock_ns
        self._read: dict[str, _Read] = {}
        self._folder_ns: int | None = None

    def changed(self) -> bool:
        """Return whether `machines` may return something else than before. Costs some microseconds."""
        modified_ns = self._modified_ns()
        if modified_ns != self._folder_ns or abs(self._clock_ns() - modified_ns) < SETTLED_S * 1e9:
            return True
        return any(read.process is not None and not read.process.alive for read in self._read.values())

    def machines(self) -> dict[str, MachineFile]:
        """Return the machines by name; of several with one name, the newest.

        Files and sockets of dead processes are removed.
        """
        self._folder_ns = self._modified_ns()  # before the files are read: a later change is a change
        before, self._read = self._read, {}
        found = dict[str, MachineFile]()
        for path in self._paths():
            read = self._current(path, before.get(path.name))
            if read is None:
                continue
            self._read[path.name] = read
            file = read.file
            if file is not None and (file.name not in found or found[file.name].opened_at < file.opened_at):
                found[file.name] = file
        return found

    def _modified_ns(self) -> int:
        try:
            return os.stat(self._folder).st_mtime_ns
        except OSError:
            return 0

    def _paths(self) -> list[Path]:
        try:
            names = os.listdir(self._folder)
        except OSError:
            return []
        return [self._folder / name for name in names if name.startswith("machine-") and name.endswith(".json")]

    def _current(self, path: Path, before: _Read | None) -> _Read | None:
        """Return the file as it is now; None when it is gone, or its process is."""
        try:
            status = path.stat()
        except OSError:
            return None
        if before is None or (before.inode, before.modified_ns) != (status.st_ino, status.st_mtime_ns):
            file = runtime.read_file(path, MachineFile)
            if file is None:
                return _Read(status.st_ino, status.st_mtime_ns, None, None)
            if (process := Process.of(file)) is None:
                _remove(path, file)
                return None
            mine = self._belongs(file)
            return _Read(status.st_ino, status.st_mtime_ns, file if mine else None, process if mine else None)
        if before.file is not None and before.process is not None and not before.process.alive:
            _remove(path, before.file)
            return None
        return before


def of_kernel(runtime_dir: Path, connection_file: Path) -> MachineFiles:
    """Return the machines of the kernel with that connection file."""
    kernel = os.path.realpath(connection_file)
    return MachineFiles(
        runtime_dir,
        lambda file: file.connection_file is not None and os.path.realpath(file.connection_file) == kernel,
    )


def of_headless(runtime_dir: Path, process: HeadlessFile) -> MachineFiles:
    """Return the machines of a headless process."""
    return MachineFiles(runtime_dir, lambda file: (file.pid, file.connection_file) == (process.pid, None))


def _remove(path: Path, file: MachineFile) -> None:
    path.unlink(missing_ok=True)
    for endpoint in (file.pub, file.control):
        if endpoint.startswith("ipc://"):
            Path(endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
