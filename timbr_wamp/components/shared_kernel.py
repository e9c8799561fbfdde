"""A kernel that puts itself on the router: its runtime file, the token in the link to the page, and `SharedKernel`.

The token belongs to the link: notebooks are saved with their outputs, so a link must open nothing once the
kernel is off the router. It is revoked with the runtime file: by the kernel when it leaves the router, by
the bridge when the kernel's process ended, and by the next of them when both were killed.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from timbr_wamp import runtime
from timbr_wamp.components import kernel_identity as identity
from timbr_wamp.components import machine_files
from timbr_wamp.components.bridge_process import BridgeEnvironment
from timbr_wamp.components.own_bridge import OwnBridge
from timbr_wamp.errors import TimbrError
from timbr_wamp.faces.shared import Shared
from timbr_wamp.router.tokens import TokenStore
from timbr_wamp.runtime import NodeFile, SharedFile
from timbr_wamp.settings import Settings

#: Reason of the last state of a kernel that left the router by `SharedKernel.close`.
TAKEN_OFF = "it was taken off the router"
PAGE_TOKEN_PREFIX = "page_"


class SharedPresence:
    """The `timbr_wamp.components.own_bridge.Presence` of a kernel.

    Args:
        role: of the token in the link to the page.
    """

    #: SIGTERM ends a bridge in order.
    end_timeout_s = 0.0

    def __init__(self, settings: Settings, connection_file: str, name: str, role: str) -> None:
        self.name, self.role = name, role
        self._folder, self._connection_file = settings.runtime_dir, connection_file
        #: The file as it was written; None while the kernel is off the router.
        self.file: SharedFile | None = None

    def kernel_id(self, environment: BridgeEnvironment) -> str:
        """Return the id that any bridge gives to this kernel."""
        found = identity.of_connection_file(self._folder, Path(self._connection_file), environment.authid)
        return found.kernel_id

    def write(self, environment: BridgeEnvironment, kernel_id: str) -> None:
        """Write the file, with a new token for the page when the router runs here."""
        forget_ended(self._folder)
        node = runtime.local_node(self._folder, environment.url)
        file = SharedFile(
            pid=os.getpid(), process_started=runtime.own_process_started(), kernel_id=kernel_id, name=self.name,
            connection_file=self._connection_file, started_at=time.time(), router=environment.url,
            page_token=None if node is None else _page_token(node, kernel_id, self.role),
            node_dir=None if node is None else node.node_dir,
        )  # fmt: skip
        runtime.write_file(runtime.shared_file(self._folder, kernel_id), file)
        self.file = file

    def remove(self) -> None:
        """Remove the file and revoke the token."""
        file, self.file = self.file, None
        if file is not None:
            _forget(self._folder, file)


class SharedKernel:
    """This kernel on the router, until `close` or its end. One thread at a time."""

    def __init__(self, settings: Settings, connection_file: str, name: str, role: str) -> None:
        self._settings, self._connection_file = settings, connection_file
        self._presence = SharedPresence(settings, connection_file, name, role)
        self._bridge = OwnBridge(settings, self._presence, lambda text: None)
        self._machines = machine_files.of_kernel(settings.runtime_dir, Path(connection_file))
        self._pid = os.getpid()

    @property
    def name(self) -> str:
        """The kernel's name for people."""
        return self._presence.name

    @property
    def role(self) -> str:
        """Role of the token in the link."""
        return self._presence.role

    @property
    def settings(self) -> Settings:
        """The settings that it was made with."""
        return self._settings

    @property
    def is_mine(self) -> bool:
        """Whether this process made it; else this process is a forked child of that one."""
        return self._pid == os.getpid()

    def start(self) -> None:
        """Start the bridge, or adopt the one that runs. Returns at once."""
        self._bridge.start()

    def wait_ready(self, timeout_s: float) -> Shared:
        """Wait until the router lists the kernel and all of its machines; return what to show.

        Raises:
            ShareFailed, TimbrError, OSError: see `OwnBridge.wait_ready`.
        """
        machines = self._names_and_runs
        self._bridge.wait_ready(machines, timeout_s)
        file = self._presence.file
        assert file is not None
        return Shared(
            kernel_id=file.kernel_id, name=file.name, machines=tuple(sorted(machines())), url=file.router,
            page=_link(self._settings.runtime_dir, file),
        )  # fmt: skip

    def close(self) -> None:
        """Leave the router and end the bridge. Idempotent, bounded in time."""
        self._bridge.close()

    def _names_and_runs(self) -> dict[str, str]:
        return {name: file.run for name, file in self._machines.machines().items()}


def is_shared(runtime_dir: Path, shared: SharedFile) -> bool:
    """Return whether a kernel is still meant to be on the router."""
    file = runtime.read_file(runtime.shared_file(runtime_dir, shared.kernel_id), SharedFile)
    return file is not None and (file.pid, file.started_at) == (shared.pid, shared.started_at)


def forget_ended(runtime_dir: Path) -> None:
    """Remove the files of kernels whose processes ended, and revoke the tokens of their links."""
    for path in runtime_dir.glob("shared-*.json"):
        file = runtime.read_file(path, SharedFile)
        if file is not None and not file.alive():
            _forget(runtime_dir, file)


def _forget(runtime_dir: Path, file: SharedFile) -> None:
    if is_shared(runtime_dir, file):
        if file.page_token is not None and file.node_dir is not None and Path(file.node_dir).is_dir():
            with contextlib.suppress(TimbrError, OSError):  # it was revoked by hand; the folder is not ours any more
                TokenStore(Path(file.node_dir)).revoke(file.page_token.partition(".")[0])
        runtime.shared_file(runtime_dir, file.kernel_id).unlink(missing_ok=True)


def _page_token(node: NodeFile, kernel_id: str, role: str) -> str:
    """Create the token of a kernel's link; one that was left under its name is revoked."""
    store = TokenStore(Path(node.node_dir))
    name = PAGE_TOKEN_PREFIX + kernel_id[-12:]
    if any(token.name == name for token in store.list()):
        store.revoke(name)
    return store.create(name, role)


def _link(runtime_dir: Path, file: SharedFile) -> str | None:
    """Return the page's address with this kernel selected; with a token only at the user's own router."""
    node = runtime.local_node(runtime_dir, file.router)
    chosen = {"kernel": file.kernel_id}
    if node is not None:
        token = {} if file.page_token is None else {"token": file.page_token}
        return f"{node.page_url.rstrip('/')}/#{urlencode(token | chosen)}"
    return page_of(file.router, chosen)


def page_of(url: str, fragment: dict[str, str]) -> str | None:
    """Return the address of the page that a router serves; None for a router without one.

    >>> page_of("wss://example.org:8443/ws", {"kernel": "lab_4f2a9c01d3e7"})
    'https://example.org:8443/#kernel=lab_4f2a9c01d3e7'
    """
    parts = urlsplit(url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme)
    return None if scheme is None else f"{scheme}://{parts.netloc.rpartition('@')[2]}/#{urlencode(fragment)}"


__all__ = ["TAKEN_OFF", "SharedKernel", "SharedPresence", "forget_ended", "is_shared", "page_of"]
