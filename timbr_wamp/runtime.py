"""The runtime folder: small JSON files (mode 0600) by which the processes of one user find each other.

A file identifies its process by pid *and* start time, because pids are reused. Whoever reads the
file of a dead process removes it. The folder must belong to this user and have mode 0700, because
access to its sockets allows running code; a file in it that belongs to somebody else is not read. Kinds
of files: ``node``, ``host``, ``kernel``, ``headless``, ``shared``, ``bridge``, ``machine``. Those of processes on a
router name it by its URL, so that whoever ends or adopts processes takes only those of the own router.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec

from timbr_wamp.errors import UnsafeFolder
from timbr_wamp.names import DEFAULT_REALM, UNIX_SCHEME

#: ``sun_path`` of ``sockaddr_un`` has 108 bytes on Linux and 104 on macOS.
SOCKET_PATH_LIMIT_BYTES = 100
_HAS_PROC = Path("/proc/self/stat").is_file()
#: Two measurements of the start time of one process differ by less than this.
START_TOLERANCE_S = 0.005 if _HAS_PROC else 1.0


class ProcessFile(msgspec.Struct, kw_only=True):
    """Base of all runtime files: the identity of the process."""

    pid: int
    #: `process_started` of the pid; distinguishes the process from a later one with the same pid.
    process_started: float

    def alive(self) -> bool:
        """Return whether the process still runs."""
        return process_alive(self.pid, self.process_started)


class NodeFile(ProcessFile, kw_only=True):
    """The local router. Local commands use its URL and tokens by default."""

    url: str
    unix_url: str
    page_url: str
    realm: str
    node_dir: str
    token: str
    host_token: str
    #: The process that restarts and ends the router, identified like the router's own.
    owner_pid: int = 0
    owner_started: float = 0.0

    @property
    def owned(self) -> bool:
        """Whether the process that started the router, or took it over, still runs."""
        return process_alive(self.owner_pid, self.owner_started)

    @property
    def local_url(self) -> str:
        """URL for clients on this computer: the unix socket when TLS is on, because a certificate is not valid
        for 127.0.0.1."""
        return self.unix_url if self.url.startswith("wss:") else self.url

    def __repr__(self) -> str:
        return f"NodeFile(pid={self.pid}, url={self.url!r})"


class HostFile(ProcessFile, kw_only=True):
    """A host: the process that starts kernels and bridges."""

    authid: str
    router: str = ""


class KernelFile(ProcessFile, kw_only=True):
    """A kernel that timbr_wamp started, with everything that a later bridge needs to adopt and restart it.

    The environment may contain secrets, so it does not appear in logs or in ``repr``.
    """

    kernel_id: str
    name: str
    connection_file: str
    command: list[str]
    environment: dict[str, str]
    cwd: str
    started_at: float
    #: Path of a file that runs in the kernel after each (re)start.
    startup: str | None = None
    log_file: str | None = None
    #: URL of the router of the host that started it; empty for a kernel of no host.
    router: str = ""

    def __repr__(self) -> str:
        return f"KernelFile(kernel_id={self.kernel_id!r}, name={self.name!r}, pid={self.pid})"


class HeadlessFile(ProcessFile, kw_only=True):
    """A process that runs machines without a kernel and is on the router under its own kernel id."""

    kernel_id: str
    name: str
    cwd: str
    started_at: float
    #: ``major.minor.micro`` version of its Python.
    python: str
    #: Set when it is about to end: its bridge hands on all records, for at most so many seconds, and ends.
    ending_s: float | None = None
    router: str = ""


class SharedFile(ProcessFile, kw_only=True):
    """A kernel that put itself on the router (`Machine.share`). Its bridge ends with this process."""

    kernel_id: str
    name: str
    connection_file: str
    started_at: float
    router: str = ""
    #: Token in the link to the page, and the node folder that knows it. It is revoked with this file.
    page_token: str | None = None
    node_dir: str | None = None

    def __repr__(self) -> str:
        return f"SharedFile(kernel_id={self.kernel_id!r}, name={self.name!r}, pid={self.pid})"


class BridgeFile(ProcessFile, kw_only=True):
    """The bridge of one kernel. Who starts a bridge writes the file first, and the bridge writes it again."""

    kernel_id: str
    router: str = ""
    #: A host started it and restarts it; else a user, or the headless process that it serves.
    hosted: bool = False
    #: It handles signals. Before that, a signal would end it.
    ready: bool = False
    #: Id of the bridge's subshell in the kernel. The next bridge deletes it if this one could not.
    subshell_id: str | None = None
    #: ``name → run`` of the machines that the router lists and that answer; None while it does not list the kernel.
    machines: dict[str, str] | None = None


class MachineFile(ProcessFile, kw_only=True):
    """Endpoints and keys of a machine's local sockets."""

    name: str
    run: str
    #: ZeroMQ endpoints: the PUB socket for records and the ROUTER socket for control.
    pub: str
    control: str
    #: Jupyter connection file of the machine's kernel; None for a headless machine.
    connection_file: str | None = None
    #: CurveZMQ server key and a client key pair (Z85), for tcp endpoints only.
    curve_server_key: str | None = None
    curve_client_public: str | None = None
    curve_client_secret: str | None = None
    opened_at: float = 0.0

    def __repr__(self) -> str:
        return f"MachineFile(name={self.name!r}, pid={self.pid}, run={self.run!r})"


class AttachedFile(msgspec.Struct, kw_only=True):
    """Id and name of a kernel that timbr_wamp did not start, kept for its next bridge: ``attached-….json``."""

    kernel_id: str
    connection_file: str
    #: Its name for people, as it was given to a bridge; None means the name of its connection file.
    name: str | None = None


F = TypeVar("F", bound=ProcessFile)
S = TypeVar("S", bound=msgspec.Struct)


def private_folder(path: Path) -> Path:
    """Return ``path``; create the folder with mode 0700 if it does not exist.

    Raises:
        UnsafeFolder: it belongs to another user, or its mode gives access to others.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        raise UnsafeFolder(str(path), "it belongs to another user")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise UnsafeFolder(str(path), f"other users have access (mode {stat.S_IMODE(status.st_mode):04o})")
    return path


def socket_folder(runtime_dir: Path, name_bytes: int) -> Path:
    """Return a 0700 folder in which a socket name of ``name_bytes`` bytes stays within the path limit.

    This is the runtime folder, or a new folder in /tmp when the path of the runtime folder is too long.
    """
    folder = private_folder(runtime_dir)
    if len(os.fsencode(folder)) + 1 + name_bytes <= SOCKET_PATH_LIMIT_BYTES:
        return folder
    return Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))


def process_started(pid: int) -> float | None:
    """Return the start time of a process; None if there is no such process.

    Compare it only with other results of this function. On Linux it is in seconds since boot, from
    ``/proc``, because a start time in UTC changes when the clock is set. Elsewhere it comes from psutil.
    """
    if _HAS_PROC:
        return _started_since_boot(pid)
    import psutil  # slow to import (20 ms), and needed here only

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
    # "pid (name) state ppid …", see proc(5): the name may contain anything, so parse after its last bracket
    state, *rest = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18]) / os.sysconf("SC_CLK_TCK")


def process_name(pid: int) -> str | None:
    """Return the name of a process's program; None: it has ended."""
    import psutil  # slow to import, as below

    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return None


def process_alive(pid: int, started: float) -> bool:
    """Return whether the process ``pid`` that started at ``started`` still runs."""
    now = process_started(pid)
    return now is not None and abs(now - started) < START_TOLERANCE_S


def own_process_started() -> float:
    """Return `process_started` of this process."""
    return process_started(os.getpid()) or 0.0


def replace_file(path: Path, content: bytes, *, mode: int = 0o600, sync: bool = False) -> None:
    """Write a file atomically: it has its old content or the new one. ``sync``: it is on the disk on return.

    Raises:
        OSError: it names the file, and the file has its old content.
    """
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_file(path: Path, content: ProcessFile) -> Path:
    """Write a runtime file atomically, with mode 0600; return its path."""
    private_folder(path.parent)
    replace_file(path, msgspec.json.encode(content))
    return path


def read_file(path: Path, kind: type[S]) -> S | None:
    """Return the content of a file; None when it is missing, of another kind, or not this user's alone to write."""
    try:
        with open(path, "rb") as file:
            if not _is_own(os.fstat(file.fileno())):
                return None
            return msgspec.json.decode(file.read(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def _is_own(status: os.stat_result) -> bool:
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        return False
    return not hasattr(os, "getuid") or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def live_files(runtime_dir: Path, prefix: str, kind: type[F], *, clean: bool = True) -> dict[Path, F]:
    """Return the files ``<prefix>*.json`` whose processes run; with ``clean`` remove the others."""
    found: dict[Path, F] = {}
    for path in sorted(runtime_dir.glob(f"{prefix}*.json")) if runtime_dir.is_dir() else ():
        content = read_file(path, kind)
        if content is not None and content.alive():
            found[path] = content
        elif clean and content is not None:
            path.unlink(missing_ok=True)
    return found


def node_file(runtime_dir: Path) -> Path:
    """Return the path of the local router's file."""
    return runtime_dir / "node.json"


def realm_of(configured: str, local: NodeFile | None) -> str:
    """Return the realm to join: the configured one, but for the default that of the local router.

    Args:
        local: the file of the local router, if that is the one to connect to.
    """
    return local.realm if local is not None and configured == DEFAULT_REALM else configured


def local_node(runtime_dir: Path, url: str | None = None) -> NodeFile | None:
    """Return the router that runs on this computer, with ``url`` only if that is one of its URLs; None without one."""
    node = read_file(node_file(runtime_dir), NodeFile)
    if node is None or not node.alive():
        return None
    return node if url is None or url in (node.url, node.unix_url) else None


def host_file(runtime_dir: Path, router: str) -> Path:
    """Return the path of the file of the host on a router. Each router has at most one host per runtime folder."""
    return runtime_dir / f"host-{hashlib.sha256(router.encode()).hexdigest()[:12]}.json"


def local_host(runtime_dir: Path, url: str) -> HostFile | None:
    """Return the host that runs on this computer for the router with this URL; None without one."""
    node = local_node(runtime_dir, url)
    urls = {url} if node is None else {url, node.url, node.unix_url}
    hosts = live_files(runtime_dir, "host-", HostFile).values()
    return next((host for host in hosts if host.router in urls), None)


def is_of_router(router: str, other: str) -> bool:
    """Return whether ``router``, as a runtime file names it, is the router ``other``.

    A file without a router is everybody's. So is that of a router whose unix socket is gone: it never returns.
    """
    if router in ("", other):
        return True
    return router.startswith(UNIX_SCHEME) and not os.path.exists(router.removeprefix(UNIX_SCHEME))


def kernel_file(runtime_dir: Path, kernel_id: str) -> Path:
    """Return the path of a kernel's file. The file remains when the kernel dies, so that it can be restarted."""
    return runtime_dir / f"kernel-{kernel_id}.json"


def headless_file(runtime_dir: Path, kernel_id: str) -> Path:
    """Return the path of a headless process's file."""
    return runtime_dir / f"headless-{kernel_id}.json"


def shared_file(runtime_dir: Path, kernel_id: str) -> Path:
    """Return the path of the file of a kernel that put itself on the router."""
    return runtime_dir / f"shared-{kernel_id}.json"


def kernel_ids_of(runtime_dir: Path, connection_file: str) -> frozenset[str]:
    """Return the ids under which the kernel with that connection file (links resolved) is known on this computer."""
    found = set()
    kinds: tuple[tuple[str, type[KernelFile | AttachedFile]], ...] = (
        ("kernel-", KernelFile),
        ("attached-", AttachedFile),
    )
    for prefix, kind in kinds:
        for path in runtime_dir.glob(f"{prefix}*.json"):
            file = read_file(path, kind)
            if file is not None and os.path.realpath(file.connection_file) == connection_file:
                found.add(file.kernel_id)
    return frozenset(found)


def bridge_file(runtime_dir: Path, kernel_id: str) -> Path:
    """Return the path of the file of a kernel's bridge."""
    return runtime_dir / f"bridge-{kernel_id}.json"
