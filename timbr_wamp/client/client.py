"""`connect` and `Client`: blocking access to kernels and machines on a router."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from timbr_wamp.client.async_client import CONNECT_TIMEOUT_S, AsyncClient, LinkState
from timbr_wamp.client.blocking import Blocking, blocking
from timbr_wamp.client.checks import checked
from timbr_wamp.client.live_subscription import LiveSubscription
from timbr_wamp.client.remote_kernel import RemoteKernel
from timbr_wamp.client.shared_connection import SharedConnection
from timbr_wamp.client.statistics import Unfinished
from timbr_wamp.client.transport import is_local
from timbr_wamp.errors import NoRouter
from timbr_wamp.names import router_url
from timbr_wamp.runtime import NodeFile, local_node, node_file, realm_of
from timbr_wamp.settings import Settings, load_settings, same_router


@checked
def connect(
    url: str | None = None,
    token: str | None = None,
    *,
    realm: str | None = None,
    wait: bool = False,
    timeout_s: float = CONNECT_TIMEOUT_S,
    settings: Settings | None = None,
) -> Client:
    """Connect to a router and return a client with an open wamp session.

    Arguments that are not given are taken from the settings (environment, ``timbr.toml``, the
    user's file), else from the router that runs on this computer.

    Args:
        url: ``ws://HOST:PORT/ws``, ``wss://…`` or ``rs+unix:///PATH``; see `timbr_wamp.names.router_url`.
        wait: try again until ``timeout_s`` has passed when nothing listens at the address, as while a router starts.

    Raises:
        NoRouter: no URL was given, configured or found.
        InvalidArgument: the URL is not the address of a router.
        InvalidToken: no token was given, configured or found, or it is malformed.
        TokenRejected: the router does not know the token.
        NotConnected: nothing listens at the address, or no router; it did not answer within ``timeout_s``; it has
            no such realm.
    """
    target = find_router(url, token, realm, settings or load_settings())
    shared = SharedConnection(target.url, target.realm, target.token)
    shared.open(timeout_s, wait=wait)
    return Client(shared, target.runtime_dir)


@checked
async def connect_async(
    url: str | None = None,
    token: str | None = None,
    *,
    realm: str | None = None,
    wait: bool = False,
    timeout_s: float = CONNECT_TIMEOUT_S,
    settings: Settings | None = None,
) -> AsyncClient:
    """Connect to a router without blocking the running loop; otherwise like `connect`."""
    target = find_router(url, token, realm, settings or load_settings())
    shared = SharedConnection(target.url, target.realm, target.token)
    await shared.open_async(timeout_s, wait=wait)
    return AsyncClient(shared, target.runtime_dir)


class UnencryptedConnection(UserWarning):
    """A connection beyond this computer without TLS."""


@dataclass(frozen=True, slots=True)
class Target:
    """A router's address and the credentials for it."""

    url: str
    realm: str
    #: None: there is none for this URL.
    token: str | None
    runtime_dir: Path

    def __repr__(self) -> str:
        return f"Target(url={self.url!r}, realm={self.realm!r})"


def find_router(url: str | None, token: str | None, realm: str | None, settings: Settings) -> Target:
    """Return the router to connect to, from the arguments, the settings, or the local router's runtime file.

    Raises:
        NoRouter, InvalidArgument: see `connect`.
    """
    node = local_node(settings.runtime_dir)
    asked = url or settings.url
    wanted = None if asked is None else router_url(asked)
    # A token is sent to its own router only: the local router's, and that of the settings.
    local = node if node is not None and (wanted is None or _is_of(node, wanted)) else None
    if wanted is None:
        if local is None:
            raise NoRouter(
                f"no url was passed or configured, and {node_file(settings.runtime_dir)} names no running router"
            )
        wanted = local.local_url
    elif local is not None and wanted != local.unix_url:
        wanted = local.url  # not a `localhost` that is another process's on the other loopback address
    configured = same_router(wanted, settings.url) or (settings.url is None and local is not None)
    token = token or (settings.token if configured else None) or (local.token if local is not None else None)
    warn_if_readable(wanted)
    return Target(wanted, realm or realm_of(settings.realm, local), token, settings.runtime_dir)


def _is_of(node: NodeFile, url: str) -> bool:
    """Return whether a URL is one of the local router's; a loopback address has several names."""
    parts = urlsplit(url)
    if parts.hostname == "localhost":
        url = parts._replace(netloc=parts.netloc.lower().replace("localhost", "127.0.0.1")).geturl()
    return same_router(url, node.url) or url == node.unix_url


def warn_if_readable(url: str) -> None:
    """Warn when a token would cross a network as clear text."""
    if url.lower().startswith("ws:") and not is_local(url):
        text = f"{url} is not encrypted: token and data can be read on the way; use wss://"
        warnings.warn(text, UnencryptedConnection, stacklevel=4)


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
