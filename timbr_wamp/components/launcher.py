"""Start, restart and end the processes of kernels.

A kernel runs in a session of its own and without ``JPY_PARENT_PID``, because with that variable ipykernel
watches its parent and ends 0.8 s after it. So kernels outlive hosts and bridges, and later ones adopt
them by their `KernelFile`. A process is identified by pid *and* start time, so that a reused pid is never
signalled.

All functions block; call them in a thread from an event loop.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import zmq

from timbr_wamp import processes, runtime
from timbr_wamp.components import machine_files
from timbr_wamp.errors import KernelStartFailed
from timbr_wamp.kernel.startup import OPTION, SECTION
from timbr_wamp.names import checked_kernel_id, checked_name
from timbr_wamp.runtime import BridgeFile, KernelFile
from timbr_wamp.settings import ENV_PREFIX, JOURNALS_FOLDER, JOURNALS_VARIABLE, expanded, load_settings

#: ``<folder>/<12 hex>-<port number of one digit>``, as jupyter_client names ipc sockets.
_SOCKET_NAME_BYTES = 14
_PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
#: Variables that a kernel does not inherit: tokens, and those that would end it with its parent.
NOT_INHERITED = frozenset({"TIMBR_WAMP_TOKEN", "JUNO_AUTH_TOKEN", "JPY_PARENT_PID", "JPY_SESSION_NAME"})


def start_kernel(
    runtime_dir: Path,
    kernel_id: str,
    *,
    name: str | None = None,
    startup: str | None = None,
    cwd: str | None = None,
    environ: Mapping[str, str] | None = None,
    router: str = "",
) -> KernelFile:
    """Start a new kernel and write its runtime file; return before the kernel answers.

    Args:
        startup: path of a Python or IPython file that runs in the kernel after each (re)start.
        cwd: its working folder; None means this process's.
        environ: its environment; None means `os.environ`. Tokens are removed.
        router: URL of the router of its host.

    Raises:
        InvalidName: kernel id or name.
        KernelStartFailed: the folder or the startup file does not exist, or the process could not be started.
    """
    checked_kernel_id(kernel_id)
    if name is not None:
        checked_name(name)
    try:
        where = expanded(cwd or Path.cwd())
    except FileNotFoundError:
        raise KernelStartFailed("the host's working folder no longer exists; pass a folder") from None
    if not where.is_dir():
        raise KernelStartFailed(f"no such folder: {where}")
    command = [sys.executable, "-m", "ipykernel_launcher", "--ext=timbr_wamp.kernel"]
    if startup is not None:
        file = expanded(startup)
        file = file if file.is_absolute() else where / file
        if not file.is_file():
            raise KernelStartFailed(f"no such startup file: {file}")
        startup = str(file)
        command += [f"--{SECTION}.{OPTION}={startup}", "--IPKernelApp.hide_initial_ns=False"]
    connection_file = _write_connection_file(runtime_dir, kernel_id)
    source = os.environ if environ is None else environ
    content = KernelFile(
        pid=0,
        process_started=0.0,
        kernel_id=kernel_id,
        name=name or kernel_id,
        connection_file=str(connection_file),
        command=[*command, "-f", str(connection_file)],
        environment={key: value for key, value in source.items() if key not in NOT_INHERITED}
        | {f"{ENV_PREFIX}RUNTIME_DIR": str(runtime_dir)}  # where bridges look for the files of its machines
        | _journals(source, kernel_id),
        cwd=str(where),
        started_at=time.time(),
        startup=startup,
        log_file=str(runtime_dir / f"log-{kernel_id}.txt"),
        router=router,
    )
    try:
        return _spawn(runtime_dir, content)
    except KernelStartFailed:
        forget_kernel(runtime_dir, content)
        raise


def _journals(source: Mapping[str, str], kernel_id: str) -> dict[str, str]:
    """Return the variable with the folder of the kernel's journals, unless the user has set it."""
    if source.get(JOURNALS_VARIABLE):
        return {}
    return {JOURNALS_VARIABLE: str(load_settings(environ=source).data_dir / JOURNALS_FOLDER / kernel_id)}


def restart_kernel(runtime_dir: Path, content: KernelFile) -> KernelFile:
    """End the kernel's process if it runs, and start a new one with the same connection file and id.

    Raises:
        KernelStartFailed: the old process did not end, or the new one could not be started.
    """
    if not end_process(content):
        raise KernelStartFailed(f"process {content.pid} did not end")
    return _spawn(runtime_dir, content)


def end_process(content: KernelFile) -> bool:
    """End the kernel's process and the processes that its cells started; return whether it has ended."""
    process = processes.Process.of(content)
    return process is None or process.end()


def forget_kernel(runtime_dir: Path, content: KernelFile) -> None:
    """Remove the files, sockets and log of a dead kernel and of its machines."""
    machine_files.of_kernel(runtime_dir, Path(content.connection_file)).machines()
    _forget_bridge(runtime.bridge_file(runtime_dir, content.kernel_id))
    connection_file = Path(content.connection_file)
    address = _read_json(connection_file)
    if address.get("transport") == "ipc":
        prefix = Path(str(address["ip"]))
        for port in _PORTS:
            Path(f"{prefix}-{address[port]}").unlink(missing_ok=True)
        if prefix.parent != runtime_dir and not any(prefix.parent.iterdir()):
            prefix.parent.rmdir()  # a short folder created for these sockets only
    connection_file.unlink(missing_ok=True)
    runtime.kernel_file(runtime_dir, content.kernel_id).unlink(missing_ok=True)
    if content.log_file:
        Path(content.log_file).unlink(missing_ok=True)


def _forget_bridge(path: Path) -> None:
    """Remove the files of a bridge that was killed."""
    bridge = runtime.read_file(path, BridgeFile)
    if bridge is not None and not bridge.alive():
        path.unlink(missing_ok=True)
        path.with_suffix(".lock").unlink(missing_ok=True)


def log_tail(content: KernelFile) -> str:
    """Return the end of the kernel's log file, for error messages."""
    return processes.log_tail(Path(content.log_file or os.devnull))


def _spawn(runtime_dir: Path, content: KernelFile) -> KernelFile:
    try:
        process = processes.spawn(
            content.command,
            environment=content.environment,
            log_file=Path(content.log_file or os.devnull),
            cwd=content.cwd,
        )
    except OSError as error:
        raise KernelStartFailed(f"{content.command[0]}: {error.strerror}") from error
    content.pid, content.process_started, content.started_at = process.pid, process.started, time.time()
    try:
        runtime.write_file(runtime.kernel_file(runtime_dir, content.kernel_id), content)
    except OSError as error:  # nobody would find this process
        process.end(term_s=0.0)
        raise _not_written(error) from error
    return content


def _not_written(error: OSError) -> KernelStartFailed:
    return KernelStartFailed(f"cannot write {error.filename}: {error.strerror}")


def _write_connection_file(runtime_dir: Path, kernel_id: str) -> Path:
    """Write a connection file with mode 0600, for ipc in a private folder, or for tcp on 127.0.0.1 without ipc."""
    address: dict[str, object] = {"key": secrets.token_hex(32), "signature_scheme": "hmac-sha256", "kernel_name": ""}
    if zmq.has("ipc"):
        folder = runtime.socket_folder(runtime_dir, _SOCKET_NAME_BYTES)
        address |= {"transport": "ipc", "ip": str(folder / kernel_id[-12:])}
        address |= {port: number for number, port in enumerate(_PORTS, 1)}
    else:
        runtime.private_folder(runtime_dir)
        address |= {"transport": "tcp", "ip": "127.0.0.1", **dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))}
    path = runtime_dir / f"connection-{kernel_id}.json"
    try:
        runtime.replace_file(path, json.dumps(address).encode())
    except OSError as error:
        raise _not_written(error) from error
    return path


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
