"""`connect` and `Client`: blocking access to kernels and machines on a router."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from timbr_wamp.client.async_client import CONNECT_TIMEOUT_S, AsyncClient, LinkState
from timbr_wamp.client.blocking import Blocking, blocking
from timbr_wamp.client.live_subscription import LiveSubscription
from timbr_wamp.client.remote_kernel import RemoteKernel
from timbr_wamp.client.shared_connection import SharedConnection
from timbr_wamp.client.statistics import Unfinished
from timbr_wamp.errors import InvalidToken, NoRouter
from timbr_wamp.runtime import NodeFile, node_file, read_file
from timbr_wamp.settings import Settings, load_settings


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


class Client(LinkState, Blocking[AsyncClient]):
    """A connection to a router. Created by `connect`. Any thread but its own; calls block.

    After a lost connection it reconnects and restores the subscriptions. Calls in progress then
    fail with `ConnectionLost` at once.
    """

    def __init__(self, shared: SharedConnection, runtime_dir: Path) -> None:
        super().__init__(shared, AsyncClient(shared, runtime_dir))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    wait_connected = blocking(AsyncClient.wait_connected)
    kernels = blocking(AsyncClient.kernels)
    kernel = blocking(AsyncClient.kernel, RemoteKernel)
    hosts = blocking(AsyncClient.hosts)
    start_kernel = blocking(AsyncClient.start_kernel, RemoteKernel)
    on = blocking(AsyncClient.on, LiveSubscription)
    call = blocking(AsyncClient.call)

    drain = blocking(AsyncClient.drain)

    def close(self) -> Unfinished:
        """Leave the realm and close the connection; return what was left undone. Idempotent; takes at most seconds."""
        return self._shared.close()
