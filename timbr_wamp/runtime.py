"""The runtime folder: small 0600 JSON files by which living processes of one user find each other.

A file names a process by pid *and* its start time, so that a reused pid is not mistaken for it.
Files of dead processes are removed by whoever reads them. The folder is 0700 and ours, or it is
refused: whoever can open a socket in it can run code. Kinds: ``node``, ``host``, ``kernel``,
``headless``, ``bridge``, ``machine``.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec

from timbr_wamp.errors import UnsafeFolder

#: ``sockaddr_un`` has 108 bytes on Linux and 104 on macOS; ZeroMQ appends nothing.
SOCKET_PATH_LIMIT_BYTES = 100
_HAS_PROC = Path("/proc/self/stat").is_file()
#: Two readings of one process's start differ by less.
START_TOLERANCE_S = 0.005 if _HAS_PROC else 1.0


class ProcessFile(msgspec.Struct, kw_only=True):
    """What every runtime file says of its process."""

    pid: int
    #: `process_started` of the pid; what tells a process from a later one of the same number.
    process_started: float

    def alive(self) -> bool:
        """Tell whether the process that the file speaks of still runs."""
        return process_alive(self.pid, self.process_started)


class NodeFile(ProcessFile, kw_only=True):
    """The local router. Its tokens make local commands work without arguments."""

    url: str
    unix_url: str
    page_url: str
    realm: str
    node_dir: str
    token: str
    host_token: str

    @property
    def local_url(self) -> str:
        """Where this computer's own clients connect: under TLS the unix socket, since a certificate
        names the computer as others know it, not 127.0.0.1."""
        return self.unix_url if self.url.startswith("wss:") else self.url

    def __repr__(self) -> str:
        return f"NodeFile(pid={self.pid}, url={self.url!r})"


class HostFile(ProcessFile, kw_only=True):
    """A host: the process that starts kernels and bridges."""

    authid: str


class KernelFile(ProcessFile, kw_only=True):
    """A kernel that we started: all that a later bridge needs to adopt and restart it.

    Holds an environment, so it may hold secrets: 0600, and never in a log or repr.
    """

    kernel_id: str
    name: str
    connection_file: str
    command: list[str]
    environment: dict[str, str]
    cwd: str
    started_at: float
    #: File that is run in the kernel after each (re)start.
    startup: str | None = None
    log_file: str | None = None

    def __repr__(self) -> str:
        return f"KernelFile(kernel_id={self.kernel_id!r}, name={self.name!r}, pid={self.pid})"


class HeadlessFile(ProcessFile, kw_only=True):
    """A process with machines and no kernel, that is to be on the router under a kernel id of its own."""

    kernel_id: str
    name: str
    cwd: str
    started_at: float
    #: ``major.minor.micro`` of its Python.
    python: str


class BridgeFile(ProcessFile, kw_only=True):
    """The bridge of one kernel."""

    kernel_id: str
    #: The subshell that it keeps in the kernel; the next bridge ends it when this one could not.
    subshell_id: str | None = None


class MachineFile(ProcessFile, kw_only=True):
    """A machine's local wire (DESIGN.md 5): where to subscribe and where to ask."""

    name: str
    run: str
    #: ZeroMQ endpoints: PUB of records, ROUTER of control.
    pub: str
    control: str
    #: The Jupyter connection file of the kernel that it lives in; None: headless.
    connection_file: str | None = None
    #: CurveZMQ server key (Z85) and a client key pair, with tcp endpoints only.
    curve_server_key: str | None = None
    curve_client_public: str | None = None
    curve_client_secret: str | None = None
    opened_at: float = 0.0

    def __repr__(self) -> str:
        return f"MachineFile(name={self.name!r}, pid={self.pid}, run={self.run!r})"


F = TypeVar("F", bound=ProcessFile)


def private_folder(path: Path) -> Path:
    """Return ``path``, made with mode 0700 if it was not there.

    Raises:
        UnsafeFolder: it belongs to somebody else, or others may open it.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        raise UnsafeFolder(str(path), "it belongs to another user")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise UnsafeFolder(str(path), f"others may open it (mode {stat.S_IMODE(status.st_mode):04o})")
    return path


def socket_folder(runtime_dir: Path, name_bytes: int) -> Path:
    """Return a 0700 folder where a socket whose name has ``name_bytes`` fits the path limit.

    Usually the runtime folder; a short folder made for it when that one's path is too long.
    """
    folder = private_folder(runtime_dir)
    if len(os.fsencode(folder)) + 1 + name_bytes <= SOCKET_PATH_LIMIT_BYTES:
        return folder
    return Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))


def process_started(pid: int) -> float | None:
    """Return when the process started, None if there is none. Comparable with itself only.

    On Linux seconds since the boot, from ``/proc``, since the time of day that others show for it
    moves when the clock is set. Elsewhere what psutil says.
    """
    if _HAS_PROC:
        return _started_since_boot(pid)
    import psutil  # 20 ms to import; only who looks at processes pays

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.Error:
        return None


def _started_since_boot(pid: int) -> float | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # "pid (name) state ppid …": the name may hold anything, so what follows its last bracket counts. proc(5)
    state, *rest = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18]) / os.sysconf("SC_CLK_TCK")


def process_alive(pid: int, started: float) -> bool:
    """Tell whether the process ``pid`` that started at ``started`` still runs."""
    now = process_started(pid)
    return now is not None and abs(now - started) < START_TOLERANCE_S


def own_start() -> float:
    """Return `process_started` of this process."""
    return process_started(os.getpid()) or 0.0


def write_file(path: Path, content: ProcessFile) -> Path:
    """Write a runtime file whole or not at all, mode 0600; return its path."""
    private_folder(path.parent)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(content))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def read_file(path: Path, kind: type[F]) -> F | None:
    """Return the file's content; None when it is missing, or not of that kind."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def living(runtime_dir: Path, prefix: str, kind: type[F], *, clean: bool = True) -> dict[Path, F]:
    """Return the files ``<prefix>*.json`` whose processes live; with ``clean`` remove the others."""
    found: dict[Path, F] = {}
    for path in sorted(runtime_dir.glob(f"{prefix}*.json")) if runtime_dir.is_dir() else ():
        content = read_file(path, kind)
        if content is not None and content.alive():
            found[path] = content
        elif clean and content is not None:
            path.unlink(missing_ok=True)
    return found


def node_file(runtime_dir: Path) -> Path:
    """Return the path of the local node's file."""
    return runtime_dir / "node.json"


def host_file(runtime_dir: Path) -> Path:
    """Return the path of the local host's file."""
    return runtime_dir / "host.json"


def kernel_file(runtime_dir: Path, kernel_id: str) -> Path:
    """Return the path of a kernel's file. It stays when the kernel dies, for who restarts it."""
    return runtime_dir / f"kernel-{kernel_id}.json"


def headless_file(runtime_dir: Path, kernel_id: str) -> Path:
    """Return the path of the file of a process that runs machines without a kernel."""
    return runtime_dir / f"headless-{kernel_id}.json"


def bridge_file(runtime_dir: Path, kernel_id: str) -> Path:
    """Return the path of the file of a kernel's bridge."""
    return runtime_dir / f"bridge-{kernel_id}.json"
