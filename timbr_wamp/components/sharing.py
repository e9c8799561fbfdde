"""`share` and `unshare`: put the kernel of this process on the router, with all its machines, and take it off.

Reached by `Machine.share` and ``%wamp share`` through `timbr_wamp.plugins`, because neither may import this
room. A process has one kernel, so it is shared once, however often and for however many machines it is asked.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from timbr_wamp import plugins, runtime
from timbr_wamp.command_line import command_line
from timbr_wamp.components.bridge_process import bridge_environment
from timbr_wamp.components.launcher import NOT_INHERITED
from timbr_wamp.components.shared_kernel import SharedKernel
from timbr_wamp.errors import InvalidArgument, NoRouter, ShareFailed, not_one_of
from timbr_wamp.faces.shared import Shared
from timbr_wamp.names import LINK_ROLES, checked_name, kernel_name_from
from timbr_wamp.processes import Process, log_tail, spawn
from timbr_wamp.runtime import BridgeFile, KernelFile
from timbr_wamp.settings import ENV_PREFIX, Settings, load_settings

#: Timeout for the kernel to be on the router.
READY_TIMEOUT_S = 30.0
#: Timeout for a router that is started here, which may have to be installed first.
ROUTER_TIMEOUT_S = 300.0
ROUTER_POLL_S = 0.05

_lock = threading.Lock()
_shared: SharedKernel | None = None
#: Id of this process's kernel since a `share`, until `unshare`.
_shared_id: str | None = None


def share(
    *,
    name: str | None = None,
    role: str | None = None,
    url: str | None = None,
    token: str | None = None,
    start_router: bool = False,
) -> Shared:
    """Put the kernel of this process on the router; return when it and its machines are listed and answer.

    Without a change of arguments nothing happens to a kernel that is on the router already. A bridge that somebody
    else started for this kernel is taken over.

    Args:
        name: the kernel's name for people; by default the notebook's.
        role: of the token in the link to the page: admin by default, operator, or viewer.
        url, token: the router and a token of role host; by default those of the settings, else the router that
            runs on this computer.
        start_router: start ``timbr-wamp up`` when none is configured and none runs; it outlives this process.

    Raises:
        ShareFailed: this process is no kernel, or the kernel is not on the router in time.
        TokenRejected, NotAuthorized, NotConnected: the router does not know the token, its role is not host, or the
            router does not answer.
        NoRouter: none is configured, none runs, and none was to be started.
        InvalidArgument, InvalidName, InvalidToken: an argument, or no token for that URL.
    """
    global _shared, _shared_id
    if role is not None and role not in LINK_ROLES:
        raise InvalidArgument("role", not_one_of(role, LINK_ROLES))
    kernel = plugins.own_kernel()
    if kernel is None:
        raise ShareFailed(_no_kernel())
    settings = load_settings(url=url, token=token)
    with _lock:
        if (managed := _managed(settings, kernel.connection_file())) is not None:
            _shared_id = managed.kernel_id
            return managed
        before = _shared if _shared is not None and _shared.is_mine else None
        if before is not None and url is None and token is None:
            settings = before.settings
        ending = _ensure_router(settings, start_router)
        name = checked_name(name or (before.name if before else notebook_name(os.environ, kernel)))
        role = role or (before.role if before else "admin")
        if before is not None and (before.settings, before.name, before.role) != (settings, name, role):
            before.close()
            before = _shared = None
        current = before or SharedKernel(settings, kernel.connection_file(), name, role)
        try:
            if before is None:
                _shared = current
                current.start()
            ready = current.wait_ready(READY_TIMEOUT_S)
            _shared_id = ready.kernel_id
            return replace(ready, ending=ending)
        except BaseException:  # also Ctrl-C: it is off the router, as before
            _shared = _shared_id = None
            current.close()
            raise


def unshare() -> bool:
    """Take the kernel of this process off the router; return whether it was on it by `share`. Machines go on.

    Raises:
        ShareFailed: somebody else keeps it on the router.
    """
    global _shared, _shared_id
    kernel = plugins.own_kernel()
    if kernel is None:
        raise ShareFailed(_no_kernel())
    with _lock:
        current, _shared, _shared_id = _shared, None, None
        if current is not None and current.is_mine:
            current.close()
            return True
        pids = [bridge.pid for bridge in _bridges(load_settings().runtime_dir, kernel.connection_file())]
    if pids:
        raise ShareFailed(f"process {pids[0]} keeps this kernel on the router; it was not put there by share")
    return False


def shared_id() -> str | None:
    """Return the id of this process's kernel if `share` was called and `unshare` was not since. Any thread."""
    return None if _shared is not None and not _shared.is_mine else _shared_id


def _managed(settings: Settings, connection_file: str) -> Shared | None:
    """Return what to show of a kernel that a host started, which is on the router anyway; None for others.

    Raises:
        ShareFailed: its host does not run.
    """
    folder = settings.runtime_dir
    for path in folder.glob("kernel-*.json"):
        file = runtime.read_file(path, KernelFile)
        if file is None or os.path.realpath(file.connection_file) != connection_file:
            continue
        bridge = runtime.read_file(runtime.bridge_file(folder, file.kernel_id), BridgeFile)
        if bridge is None or not bridge.alive():
            raise ShareFailed(
                f"the host of this kernel does not run; `{command_line('up')}` starts it and adopts the kernel"
            )
        node = runtime.local_node(folder, bridge.router)
        page = None if node is None else f"{node.page_url.rstrip('/')}/#kernel={file.kernel_id}"
        note = "timbr-wamp started this kernel and keeps it on the router"
        return Shared(file.kernel_id, file.name, tuple(sorted(bridge.machines or ())), bridge.router, page, note)
    return None


def _bridges(runtime_dir: Path, connection_file: str) -> list[BridgeFile]:
    """Return the bridges of this kernel that run."""
    paths = (runtime.bridge_file(runtime_dir, one) for one in runtime.kernel_ids_of(runtime_dir, connection_file))
    files = (runtime.read_file(path, BridgeFile) for path in paths)
    return [file for file in files if file is not None and file.alive()]


def notebook_name(environ: Mapping[str, str], kernel: plugins.OwnKernel) -> str:
    """Return the kernel's default name: the notebook's, where the program that started the kernel tells it."""
    told = (environ.get("JPY_SESSION_NAME"), kernel.namespace().get("__vsc_ipynb_file__"))
    for path in told:
        if isinstance(path, str) and path.endswith(".ipynb"):
            return kernel_name_from(Path(path).stem)
    return kernel_name_from(Path(kernel.connection_file()).stem)


# --- the router ------------------------------------------------------------------------------


def _ensure_router(settings: Settings, start: bool) -> str | None:
    """Return None when there is a router; start one if wanted, and return how to end it.

    Raises:
        NoRouter, InvalidToken, ShareFailed.
    """
    try:
        bridge_environment(settings)
    except NoRouter as error:
        if not start:
            raise NoRouter(error.looked, _no_router_cure()) from None
        _start_router(settings)
        ending = command_line("router", "stop")
        return f"the router was started for this and keeps running; `{ending}` in a terminal ends it"
    return None


def _start_router(settings: Settings) -> None:
    """Start ``timbr-wamp up`` in a session of its own; return when its router answers.

    Raises:
        ShareFailed: it ended, or did not answer in time; with what it wrote.
    """
    folder = runtime.private_folder(settings.runtime_dir)
    log = folder / "log-up.txt"
    log.unlink(missing_ok=True)
    folders = {"RUNTIME_DIR": settings.runtime_dir, "DATA_DIR": settings.data_dir}
    environment = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    environment |= {ENV_PREFIX + name: str(path) for name, path in folders.items()}
    command = [sys.executable, "-m", "timbr_wamp", "up", "--next-free-port", "--quiet"]
    try:
        process = spawn(command, environment=environment, log_file=log)
    except OSError as error:
        raise ShareFailed(f"the router could not be started: {error}") from error
    try:
        _wait_for_router(process, lambda: runtime.local_node(folder) is not None, log)
    except BaseException:
        process.end()
        raise


def _wait_for_router(process: Process, runs: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + ROUTER_TIMEOUT_S
    while not runs():
        if not process.alive and not runs():  # another one may have been started at the same time
            raise ShareFailed(f"the router could not be started:\n{log_tail(log)}")
        if time.monotonic() > deadline:
            raise ShareFailed(f"the router did not answer within {ROUTER_TIMEOUT_S:g} s:\n{log_tail(log)}")
        time.sleep(ROUTER_POLL_S)


def _no_kernel() -> str:
    headless = command_line("machine", "FILE.py:NAME")
    return (
        "this process is not a notebook's kernel; for a machine of a program use "
        f"`{headless}`, which runs it on the router without a kernel"
    )


def _no_router_cure() -> str:
    return (
        f"start one with `{command_line('up')}` in a terminal, or from here with `%wamp share --up` or "
        "`m.share(start_router=True)`"
    )


__all__ = ["notebook_name", "share", "shared_id", "unshare"]
