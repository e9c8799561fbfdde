"""`connect` and `Client`: kernels and machines on a router, as plain blocking calls."""

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
    """Connect to a router and return a client; it is joined on return.

    What is not given comes from the settings (environment, ``timbr.toml``, the user's file), else
    from the router that runs on this computer.

    Raises:
        NoRouter: no URL was given, configured or found.
        InvalidToken: no token was, or it is none.
        TokenRejected: the router does not know it.
        NotConnected: nobody answered there within ``timeout_s``.
    """
    target = find_router(url, token, realm, settings or load_settings())
    link = SharedConnection(target.url, target.realm, target.token)
    link.open(timeout_s)
    return Client(link, target.runtime_dir)


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
    link = SharedConnection(target.url, target.realm, target.token)
    await link.open_async(timeout_s)
    return AsyncClient(link, target.runtime_dir)


@dataclass(frozen=True, slots=True)
class Target:
    """A router to connect to, and as whom."""

    url: str
    realm: str
    token: str
    runtime_dir: Path

    def __repr__(self) -> str:
        return f"Target(url={self.url!r}, realm={self.realm!r})"


def find_router(url: str | None, token: str | None, realm: str | None, settings: Settings) -> Target:
    """Return where to connect: arguments, then settings, then the local router's runtime file.

    Raises:
        NoRouter, InvalidToken: see `connect`.
    """
    path = node_file(settings.runtime_dir)
    node = read_file(path, NodeFile)
    if node is not None and not node.alive():
        node = None
    wanted = url or settings.url
    # The local router's token goes to the local router only.
    local = node if node is not None and wanted in (None, node.url, node.unix_url) else None
    if wanted is None:
        if local is None:
            raise NoRouter(f"no url given or configured, and {path} names no living one")
        wanted = local.local_url
    token = token or settings.token or (local.token if local is not None else None)
    if token is None:
        raise InvalidToken(f"none was given or configured for {wanted}")
    if realm is None:
        realm = local.realm if local is not None else settings.realm
    return Target(wanted, realm, token, settings.runtime_dir)


class Client:
    """A connection to a router. Made by `connect`. Any thread but its own; calls block.

    It heals itself: after a lost link it reconnects, and subscriptions are made again. Calls under
    way then fail with `ConnectionLost` at once; they never hang.
    """

    def __init__(self, link: SharedConnection, runtime_dir: Path) -> None:
        self._link = link
        #: The same verbs as coroutines, awaitable in any running loop.
        self.aio = AsyncClient(link, runtime_dir)

    def __repr__(self) -> str:
        return f"<Client {self._link!r}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The router's URL."""
        return self._link.connection.url

    @property
    def authid(self) -> str | None:
        """Name behind the token; None while not connected."""
        return self._link.connection.authid

    @property
    def role(self) -> str | None:
        """Role behind the token; None while not connected."""
        return self._link.connection.role

    @property
    def connected(self) -> bool:
        """There is a wamp session now."""
        return self._link.connection.joined

    def wait_connected(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Wait until there is a wamp session, as after a lost link.

        Raises:
            NotConnected, TokenRevoked: there is none in time, or never will be.
        """
        self._link.wait(self._link.connection.wait_joined, timeout_s)

    def kernels(self) -> KernelList:
        """Return the kernels on the router, offline ones that may come back included."""
        return self._link.wait(self.aio.kernels)

    def kernel(self, wanted: str | None = None) -> RemoteKernel:
        """Return the kernel of that id, name or unique beginning of one; None means the only one.

        Raises:
            UnknownKernel, AmbiguousKernel: none fits, or several do.
        """
        return RemoteKernel(self._link, self._link.wait(self.aio.kernel, wanted))

    def hosts(self) -> list[str]:
        """Return the names of the hosts that are known: this computer's, and those that have kernels."""
        return self._link.wait(self.aio.hosts)

    def start_kernel(
        self,
        name: str | None = None,
        startup: str | None = None,
        cwd: str | None = None,
        host: str | None = None,
    ) -> RemoteKernel:
        """Start a kernel on a host; return when it is on the router. See `AsyncClient.start_kernel`."""
        return RemoteKernel(self._link, self._link.wait(self.aio.start_kernel, name, startup, cwd, host))

    def on(self, topic: str, callback: Callable[..., object], *, get_retained: bool = False) -> LiveSubscription:
        """Call ``callback(*args, **kwargs)`` for each event of a topic.

        Callbacks run one after the other in a thread of the client, and may call it.
        """
        return LiveSubscription(self._link, self._link.wait(self.aio.on, topic, callback, get_retained=get_retained))

    def call(self, uri: str, /, *args: Any, timeout_s: float | None = CALL_TIMEOUT_S, **kwargs: Any) -> Any:
        """Call any procedure; return its result as it comes."""
        return self._link.wait(self.aio.call, uri, *args, timeout_s=timeout_s, **kwargs)

    def close(self) -> None:
        """Say goodbye. Idempotent; takes some seconds at most."""
        self._link.close()
