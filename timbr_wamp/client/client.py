"""`connect` and `Client`: blocking access to kernels and machines on a router."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timbr_wamp.client.async_client import AsyncClient
from timbr_wamp.client.kernel_list import KernelList
from timbr_wamp.client.live_subscription import LiveSubscription
from timbr_wamp.client.remote_kernel import RemoteKernel
from timbr_wamp.client.shared_connection import CALL_TIMEOUT_S, SharedConnection
from timbr_wamp.errors import InvalidToken, NoRouter
from timbr_wamp.runtime import NodeFile, node_file, read_file
from timbr_wamp.settings import Settings, load_settings

CONNECT_TIMEOUT_S = 10.0


def connect(
    url: str | None = None,
    token: str | None = None,
    *,
    realm: str | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
    settings: Settings | None = None,
) -> Client:
    """Connect to a router and return a client with an open wamp session.

    Arguments that are not given are taken from the settings (environment, ``timbr.toml``, the
    user's file), else from the router that runs on this computer.

    Raises:
        NoRouter: no URL was given, configured or found.
        InvalidToken: no token was given, configured or found, or it is malformed.
        TokenRejected: the router does not know the token.
        NotConnected: the router did not answer within ``timeout_s``, or has no such realm.
    """
    target = find_router(url, token, realm, settings or load_settings())
    shared = SharedConnection(target.url, target.realm, target.token)
    shared.open(timeout_s)
    return Client(shared, target.runtime_dir)


async def connect_async(
    url: str | None = None,
    token: str | None = None,
    *,
    realm: str | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
    settings: Settings | None = None,
) -> AsyncClient:
    """Connect to a router without blocking the running loop; otherwise like `connect`."""
    target = find_router(url, token, realm, settings or load_settings())
    shared = SharedConnection(target.url, target.realm, target.token)
    await shared.open_async(timeout_s)
    return AsyncClient(shared, target.runtime_dir)


@dataclass(frozen=True, slots=True)
class Target:
    """A router's address and the credentials for it."""

    url: str
    realm: str
    token: str
    runtime_dir: Path

    def __repr__(self) -> str:
        return f"Target(url={self.url!r}, realm={self.realm!r})"


def find_router(url: str | None, token: str | None, realm: str | None, settings: Settings) -> Target:
    """Return the router to connect to, from the arguments, the settings, or the local router's runtime file.

    Raises:
        NoRouter, InvalidToken: see `connect`.
    """
    path = node_file(settings.runtime_dir)
    node = read_file(path, NodeFile)
    if node is not None and not node.alive():
        node = None
    wanted = url or settings.url
    # The local router's token is sent to the local router only.
    local = node if node is not None and wanted in (None, node.url, node.unix_url) else None
    if wanted is None:
        if local is None:
            raise NoRouter(f"no url was passed or configured, and {path} names no running router")
        wanted = local.local_url
    token = token or settings.token or (local.token if local is not None else None)
    if token is None:
        raise InvalidToken(f"no token was passed or configured for {wanted}")
    if realm is None:
        realm = local.realm if local is not None else settings.realm
    return Target(wanted, realm, token, settings.runtime_dir)


class Client:
    """A connection to a router. Created by `connect`. Any thread but its own; calls block.

    After a lost connection it reconnects and restores the subscriptions. Calls in progress then
    fail with `ConnectionLost` at once.
    """

    def __init__(self, shared: SharedConnection, runtime_dir: Path) -> None:
        self._shared = shared
        #: The same methods as coroutines, awaitable in any running loop.
        self.aio = AsyncClient(shared, runtime_dir)

    def __repr__(self) -> str:
        return f"<Client {self._shared!r}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The router's URL."""
        return self._shared.connection.url

    @property
    def authid(self) -> str | None:
        """Name of the token; None while not connected."""
        return self._shared.connection.authid

    @property
    def role(self) -> str | None:
        """Role of the token; None while not connected."""
        return self._shared.connection.role

    @property
    def connected(self) -> bool:
        """Whether there is a wamp session."""
        return self._shared.connection.joined

    def wait_connected(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Wait until there is a wamp session, for example after a lost connection.

        Raises:
            NotConnected: there is no session within ``timeout_s``.
            TokenRevoked: the client will not connect again.
        """
        self._shared.wait(self._shared.connection.wait_joined, timeout_s)

    def kernels(self) -> KernelList:
        """Return the kernels on the router, including offline ones."""
        return self._shared.wait(self.aio.kernels)

    def kernel(self, wanted: str | None = None) -> RemoteKernel:
        """Return the kernel with that id or name, or a unique prefix of one; None means the only kernel.

        The kernel in which this code runs is not chosen by None.

        Raises:
            UnknownKernel, AmbiguousKernel: no kernel or several kernels match.
        """
        return RemoteKernel(self._shared, self._shared.wait(self.aio.kernel, wanted))

    def hosts(self) -> list[str]:
        """Return the names of the known hosts: this computer's, and hosts that have kernels."""
        return self._shared.wait(self.aio.hosts)

    def start_kernel(
        self,
        name: str | None = None,
        startup: str | None = None,
        cwd: str | None = None,
        host: str | None = None,
    ) -> RemoteKernel:
        """Start a kernel on a host; return when the kernel is on the router. See `AsyncClient.start_kernel`."""
        return RemoteKernel(self._shared, self._shared.wait(self.aio.start_kernel, name, startup, cwd, host))

    def on(self, topic: str, callback: Callable[..., object], *, get_retained: bool = False) -> LiveSubscription:
        """Call ``callback(*args, **kwargs)`` for each event of a topic.

        Callbacks run one after the other in a thread of the client and may use the client. Keywords that a
        callback does not take are left out.
        """
        return LiveSubscription(
            self._shared, self._shared.wait(self.aio.on, topic, callback, get_retained=get_retained)
        )

    def call(self, uri: str, /, *args: Any, timeout_s: float | None = CALL_TIMEOUT_S, **kwargs: Any) -> Any:
        """Call any procedure; return its result unconverted."""
        return self._shared.wait(self.aio.call, uri, *args, timeout_s=timeout_s, **kwargs)

    def close(self) -> None:
        """Leave the realm and close the connection. Idempotent; takes at most some seconds."""
        self._shared.close()
